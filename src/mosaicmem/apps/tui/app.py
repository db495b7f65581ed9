"""The interface itself: keys become commands of the session, news becomes pictures."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import DataTable, RichLog, Static, TabbedContent, TabPane, Tabs

from mosaicmem.apps.tui import keys, questions
from mosaicmem.apps.tui.bench import Bench
from mosaicmem.apps.tui.dialogs import Ask, EditDialog, Help, Pick
from mosaicmem.apps.tui.drawing import Picture
from mosaicmem.apps.tui.feed import News
from mosaicmem.apps.tui.link import Begun, Link
from mosaicmem.apps.tui.panes import Benchmark, Coverage, MemoryOps, Pipeline
from mosaicmem.apps.tui.style import CSS
from mosaicmem.apps.tui.widgets import CloudView, PictureView
from mosaicmem.errors import MosaicMemError
from mosaicmem.generation.backend import ROOMS
from mosaicmem.live.commands import Choice, Command, Edit, Jump, Load, Memory, Move, Redo, Save, Say, Undo

SPEED, TURN, TILT = 0.022, 2.3, 1.6
"""A frame: shares of the scene's scale, degrees; as on the page of `explore`."""
FLYING = 2
"""Steps that may be under way: a key that is held down runs ahead of the world no further."""
PACE = 1 / 12
"""Seconds between the frames of one step."""


class Terminal(Link):
    """The interface over a session that begins in the background.

    Args:
        begin: Makes the session, on a thread of its own; told how to report what it is doing.
        command: What was typed, for people.
    """

    CSS = CSS
    TITLE = "mosaicmem"
    AUTO_FOCUS = None  # a focus in a hidden tab would bring that tab up
    ENABLE_COMMAND_PALETTE = True
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-wide")]  # noqa: RUF012 - so declared by the base class
    VERTICAL_BREAKPOINTS = [(0, "-low"), (34, "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(key.keys, key.action, key.words, show=False, priority=key.first, system="ctrl+c" in key.keys)
        for group in keys.GROUPS.values()
        for key in group
    ]

    def __init__(self, begin: Callable[[Callable[[str], None]], Begun], command: str) -> None:
        super().__init__(begin)
        self._command = command
        self._playing: list[Picture] = []
        self._saved: dict[int, object] = {}
        self._bench = Bench()

    # ------------------------------------------------------------------ what there is

    def compose(self) -> ComposeResult:
        """Title, tabs, hints."""
        yield Static(id="title", markup=False)
        with TabbedContent(id="tabs"):
            for (name, words), pane in zip(keys.TABS.items(), (Pipeline, Coverage, Benchmark, MemoryOps), strict=True):
                with TabPane(f"{list(keys.TABS).index(name) + 1} {words}", id=name):
                    yield pane(id=f"{name}-pane")
        yield Static(id="hints")

    def on_mount(self) -> None:
        """Begin in the background; the screen is there at once."""
        for widget in (*self.query(Tabs), *self.query(RichLog)):
            widget.can_focus = False
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                self._saved[number] = signal.getsignal(number)
                loop.add_signal_handler(number, self.action_leave)
        self._hint()
        self.said("beginning ...")
        self.set_interval(PACE, self._play)
        self.beginning.start()

    def on_unmount(self) -> None:
        """Leave signals as they were."""
        loop = asyncio.get_running_loop()
        for number, before in self._saved.items():
            loop.remove_signal_handler(number)
            signal.signal(number, before)  # pyright: ignore[reportArgumentType]
        self._bench.stop()

    def get_system_commands(self, screen: Screen) -> Iterable[SystemCommand]:
        """Textual's own, and ours."""
        yield from super().get_system_commands(screen)
        for group in keys.GROUPS.values():
            for key in group:
                if key.words and key.action not in ("command_palette", "help"):
                    run = partial(self.call_later, self.run_action, key.action)
                    yield SystemCommand(f"{key.words} ({key.shown})", "mosaicmem", run)

    @property
    def tab(self) -> str:
        """The tab that is shown."""
        return self.query_one(TabbedContent).active

    def said(self, text: str) -> None:
        """A line in the log."""
        self.query_one(RichLog).write(Text(text))

    # ------------------------------------------------------------------ what is new

    def shown(self, news: News) -> None:
        """Hand it round."""
        if news.pictures is not None:
            self._playing = list(news.pictures)
            self._play()
        player = None if self.begun is None else self.begun.player
        if player is not None:
            equal = f"{player.same} same, {player.different} different"
            self.seen.replay = f"{'PLAYING ' if self.replaying else 'replayed '}{equal}"
        for kind in (Pipeline, Coverage, Benchmark, MemoryOps):
            self.query_one(kind).told(news, self.seen)
        self._head()

    def _play(self) -> None:
        if self._playing:
            self.query_one("#frame", PictureView).show(self._playing.pop(0))

    def _head(self) -> None:
        facts = self.seen.facts
        if facts is not None:
            about = facts.about
            self.query_one("#title", Static).update(f"mosaicmem {about['label']} {about['world']}   $ {self._command}")

    def _hint(self) -> None:
        self.query_one("#hints", Static).update(keys.HINTS.get(self.tab, ""))

    def on_resize(self) -> None:
        """Words and sparklines follow the width."""
        self._redraw()

    def _redraw(self) -> None:
        self.call_after_refresh(lambda: self.query_one(Pipeline).drawn(self.seen))
        self.call_after_refresh(lambda: self.query_one(Benchmark).drawn(self.seen))

    # ------------------------------------------------------------------ walking

    def action_walk(self, way: str, amount: int) -> None:
        """One step, unless enough are under way."""
        facts = self.seen.facts
        if facts is None or len(self.flying) >= FLYING:
            return
        frames, scale = facts.about["frames"], facts.about["scale"]
        size = {"forward": SPEED * scale, "right": SPEED * scale, "yaw": TURN, "tilt": TILT}.get(way, 0.0)
        values = {way: amount * frames * size} if size else {}
        self.send(Move(**values))

    def action_begin_again(self) -> None:
        """Stand where the walk began."""
        if self.seen.shares:
            self.send(Jump(frame=min(self.seen.shares)))

    def action_say(self) -> None:
        """Something happens."""
        facts = self.seen.facts
        said = f"so far: {'; '.join(facts.words) or 'nothing'}; nothing takes all of it back" if facts else ""

        def given(text: str | None) -> None:
            if text is not None:
                self._checked(lambda: Say(text))

        self.push_screen(Ask("What happens?", said), given)

    def action_memory(self) -> None:
        """With memory or without."""
        if self.seen.facts is not None:
            self.send(Memory(not self.seen.facts.memory))

    def action_pause(self) -> None:
        """Hold commands back, or let them through again."""
        if self.begun is not None:
            session = self.begun.session
            (session.resume if session.status.paused else session.pause)()

    def action_one(self) -> None:
        """Let one through."""
        if self.begun is not None:
            self.begun.session.step()

    def action_take_over(self) -> None:
        """Stop the recording."""
        if self.begun is not None and self.begun.player is not None:
            self.begun.player.stop()

    # ------------------------------------------------------------------ edits and saves

    def action_undo(self) -> None:
        """Take the newest edit back."""
        self.send(Undo())

    def action_redo(self) -> None:
        """Do it again."""
        self.send(Redo())

    def action_edit_ahead(self) -> None:
        """Edit the thing in the middle of the view."""
        self.run_worker(self._edit_at(0.5, 0.5), exclusive=True, group="edit")

    def on_picture_view_clicked(self, event: PictureView.Clicked) -> None:
        """Edit what was clicked."""
        if self.tab == "pipeline" and len(self.screen_stack) == 1:
            self.run_worker(self._edit_at(event.u, event.v), exclusive=True, group="edit")

    def on_memory_ops_chosen(self, event: MemoryOps.Chosen) -> None:
        """Edit frames."""
        self._edit(event.choice, event.words)

    async def _edit_at(self, u: float, v: float) -> None:
        try:
            choice, words = await self.ask(lambda walk: questions.thing_at(walk, u, v))
        except MosaicMemError as error:
            self.notify(str(error), severity="warning", markup=False)
            return
        self._edit(choice, f"the thing there, {words}")

    def _edit(self, choice: Choice | None, words: str) -> None:
        async def attempt(edit: Edit) -> questions.Preview:
            return await self.ask(lambda walk: questions.preview(walk, edit))

        def given(edit: Edit | None) -> None:
            if edit is not None:
                self.send(edit)

        others = [] if self.seen.facts is None else self.seen.facts.about["others"]
        self.push_screen(EditDialog(choice, words, attempt, others), given)

    def action_save(self) -> None:
        """Give the world as it is a name."""

        def given(name: str | None) -> None:
            if name:
                self._checked(lambda: Save(name))

        hint = "the file is current anyway; a name is a state to come back to"
        self.push_screen(Ask("Save under which name?", hint), given)

    def action_load(self) -> None:
        """Go on in a saved state."""
        saves = () if self.seen.facts is None else self.seen.facts.saves
        if not saves:
            self.notify("nothing was saved in this world yet; Ctrl-S saves")
            return
        self.push_screen(Pick("Go on in which state?", saves), lambda name: self.send(Load(name)) if name else None)

    def _checked(self, make: Callable[[], Command]) -> None:
        try:
            self.send(make())
        except MosaicMemError as error:
            self.notify(str(error), severity="warning", markup=False)

    # ------------------------------------------------------------------ looking

    def action_tab(self, name: str) -> None:
        """Show a tab."""
        self.query_one(TabbedContent).active = name

    def action_next_tab(self, by: int) -> None:
        """The next tab; in a dialog the next part of it."""
        if len(self.screen_stack) > 1:
            (self.screen.focus_next if by > 0 else self.screen.focus_previous)()
            return
        names = list(keys.TABS)
        self.action_tab(names[(names.index(self.tab) + by) % len(names)])

    def on_tabbed_content_tab_activated(self) -> None:
        """Arrows belong to the list of a tab, where it has one."""
        at: dict[str, Widget | None] = {
            "coverage": self.query_one("#shares"),
            "benchmark": self.query_one(Benchmark),
            "memory": self.query_one("#groups"),
        }
        self.set_focus(at.get(self.tab))
        self._hint()
        if self.tab == "coverage":
            self._look_back()
        self._redraw()

    def action_view(self) -> None:
        """Frame and cloud, frame alone, cloud alone."""
        pane = self.query_one(Pipeline)
        ways = ["-both", "-frame", "-cloud"]
        now = next((i for i, way in enumerate(ways) if pane.has_class(way)), 0)
        pane.remove_class(*ways)
        pane.add_class(ways[(now + 1) % len(ways)])

    def action_orbit(self, yaw: float, pitch: float) -> None:
        """Turn the cloud."""
        self.query_one(CloudView).turn(yaw, pitch)

    def action_zoom(self, by: float) -> None:
        """Nearer or further."""
        self.query_one(CloudView).turn(zoom=by)

    def action_page(self, by: int) -> None:
        """Scroll what the tab holds."""
        widget = self.query_one(RichLog) if self.tab == "pipeline" else self.focused
        if widget is not None:
            (widget.scroll_page_down if by > 0 else widget.scroll_page_up)(animate=False)

    def action_help(self) -> None:
        """All keys."""
        self.push_screen(Help())

    def action_copy(self) -> None:
        """Copy the command that runs."""
        self.copy_to_clipboard(self._command)
        self.notify(f"copied: {self._command}", markup=False)

    def action_leave(self) -> None:
        """End."""
        self.exit()

    # ------------------------------------------------------------------ measuring

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Another frame is looked at."""
        if event.data_table.id == "shares" and self.tab == "coverage":
            self._look_back()

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        """Stand where a frame was seen from."""
        if event.data_table.id == "shares" and event.row_key.value is not None:
            self.send(Jump(frame=int(event.row_key.value)))

    def _look_back(self) -> None:
        table = self.query_one("#shares", DataTable)
        if table.row_count:
            self.run_worker(self._looked(int(str(table.get_row_at(table.cursor_row)[0]))), exclusive=True, group="look")

    async def _looked(self, frame: int) -> None:
        with contextlib.suppress(MosaicMemError):
            found = await self.ask(lambda walk: questions.look_back(walk, frame))
            self.query_one(Coverage).looked(f"frame {frame}", found)

    def action_rerun(self) -> None:
        """Measure again."""
        if self.tab == "benchmark":
            if not self._bench.stop():
                self.run_worker(self._benchmark(), exclusive=True, group="bench")
        elif self.tab == "coverage":
            self.run_worker(self._measure(), exclusive=True, group="measure")
        else:
            self.notify("R measures: coverage on tab 2, the memory benchmark on tab 3")

    async def _measure(self) -> None:
        """What memory shows now of every frame, one question a frame, so that the walk is never held up for long."""
        for number in list(self.seen.shares):
            try:
                share = await self.ask(lambda walk, number=number: questions.share_now(walk, number))
            except MosaicMemError:
                await asyncio.sleep(0.2)
                continue
            self.query_one(Coverage).measured(number, share)

    async def _benchmark(self) -> None:
        """Run the memory benchmark and show how it goes."""
        model = ROOMS if self.begun is None else self.begun.model
        await self._bench.run(model, self.query_one(Benchmark).bench)
