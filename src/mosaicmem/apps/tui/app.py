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

from mosaicmem.apps.tui import keys, origin, questions
from mosaicmem.apps.tui.bench import Bench
from mosaicmem.apps.tui.changes import REST, Changes
from mosaicmem.apps.tui.dialogs import Help
from mosaicmem.apps.tui.drawing import Picture
from mosaicmem.apps.tui.feed import News
from mosaicmem.apps.tui.link import Begun
from mosaicmem.apps.tui.panes import Benchmark, Coverage, MemoryOps, Pipeline
from mosaicmem.apps.tui.style import CSS, HIGH_CONTRAST
from mosaicmem.apps.tui.widgets import CloudView, Meter, PictureView
from mosaicmem.errors import MosaicMemError
from mosaicmem.generation.backend import ROOMS
from mosaicmem.live.commands import Jump, Move

SPEED, TURN, TILT = 0.022, 2.3, 1.6
"""A frame: shares of the scene's scale, degrees; as on the page of `explore`."""
FLYING = 2
"""Steps that may be under way: a key that is held down runs ahead of the world no further."""
PACE = 1 / 12
"""Seconds between the frames of one step."""


class Terminal(Changes):
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
        self._latest: Picture | None = None
        self._saved: dict[int, object] = {}
        self._bench = Bench()

    # ------------------------------------------------------------------ what there is

    def compose(self) -> ComposeResult:
        """Title, tabs, hints."""
        yield Static(f"mosaicmem   $ {self._command}", id="title", markup=False)
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
        self.register_theme(HIGH_CONTRAST)
        if self.console.color_system in ("standard", "windows"):
            self.theme = HIGH_CONTRAST.name
        self._hint()
        self.said("opening the world; the first time after an installation takes longer")
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
        """Textual's theme and screenshot, and ours."""
        yield from (own for own in super().get_system_commands(screen) if own.title in ("Theme", "Screenshot"))
        for number, (name, words) in enumerate(keys.TABS.items(), 1):
            yield SystemCommand(f"{words} tab", f"key {number}", partial(self.action_tab, name))
        for group in keys.GROUPS.values():
            for key in group:
                if key.words and key.action.split("(")[0] not in ("command_palette", "tab"):
                    run = partial(self.call_later, self.run_action, key.action)
                    yield SystemCommand(key.words, f"key {key.shown}", run)

    @property
    def tab(self) -> str:
        """The tab that is shown."""
        return self.query_one(TabbedContent).active

    def showing(self, tab: str) -> bool:
        """Whether a tab is in front."""
        return self.tab == tab

    def said(self, text: str) -> None:
        """A line in the log."""
        self.query_one(RichLog).write(Text(text))

    # ------------------------------------------------------------------ what is new

    def shown(self, news: News) -> None:
        """Hand it round."""
        if news.pictures is not None:
            self._playing = list(news.pictures if self.settings.every else news.pictures[-1:])
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
            self._latest = self._playing.pop(0)
            self._paint()

    def _paint(self) -> None:
        """The newest picture, by origin where that is wanted: it is known of the last frame of a step."""
        picture, facts = self._latest, self.seen.facts
        if picture is not None and self.seen.coloured and facts is not None and not self._playing:
            picture = origin.tinted(picture, facts.origin)
        self.query_one("#frame", PictureView).show(picture)

    def _head(self) -> None:
        facts = self.seen.facts
        if facts is not None:
            about = facts.about
            self.query_one("#title", Static).update(f"mosaicmem {about['label']} {about['world']}   $ {self._command}")

    def _hint(self) -> None:
        self.query_one("#hints", Static).update(keys.HINTS.get(self.tab, ""))

    def on_meter_resized(self, event: Meter.Resized) -> None:
        """Words, bars and sparklines follow the width."""
        event.stop()
        self._redraw()

    def _redraw(self) -> None:
        self.query_one(Pipeline).drawn(self.seen)
        self.query_one(Benchmark).drawn(self.seen)

    # ------------------------------------------------------------------ walking

    def action_walk(self, way: str, amount: int) -> None:
        """One step, unless enough are under way."""
        facts = self.seen.facts
        if facts is None or len(self.flying) >= FLYING:
            return
        frames, scale = facts.about["frames"], facts.about["scale"]
        step, turn = self.settings.step, self.settings.turn
        far = step * SPEED * scale
        size = {"forward": far, "right": far, "yaw": turn * TURN, "tilt": turn * TILT}.get(way, 0.0)
        values = {way: amount * frames * size} if size else {}
        self.send(Move(**values))

    def action_begin_again(self) -> None:
        """Stand where the walk began."""
        if self.seen.shares:
            self.send(Jump(frame=min(self.seen.shares)))

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
        if self.tab == "memory":
            self.call_after_refresh(self.query_one(MemoryOps).look)
        self._redraw()

    def action_view(self) -> None:
        """Frame and cloud, frame alone, cloud alone."""
        pane = self.query_one(Pipeline)
        ways = ["-both", "-frame", "-cloud"]
        now = next((i for i, way in enumerate(ways) if pane.has_class(way)), 0)
        pane.remove_class(*ways)
        pane.add_class(ways[(now + 1) % len(ways)])

    def action_colour(self) -> None:
        """Colour the frame by origin, or not."""
        self.seen.coloured = not self.seen.coloured
        self._paint()
        self._redraw()

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
        await asyncio.sleep(REST)
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
        device = "cpu" if self.begun is None else self.begun.device
        await self._bench.run(model, self.query_one(Benchmark).bench, device)
