"""What changes the world from the interface: words, edits, saves, settings; each a dialog, then a command."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from mosaicmem.apps.tui import questions, settings
from mosaicmem.apps.tui.dialogs import Ask, EditDialog, Form, Pick
from mosaicmem.apps.tui.link import Begun, Link
from mosaicmem.apps.tui.panes import MemoryOps
from mosaicmem.apps.tui.settings import Settings
from mosaicmem.apps.tui.widgets import PictureView
from mosaicmem.apps.tui.words import Standing
from mosaicmem.errors import MosaicMemError
from mosaicmem.live.commands import Choice, Command, Edit, Load, Memory, Redo, Save, Say, Undo
from mosaicmem.models.world_model import SamplingConfig

REST = 0.05
"""Seconds that a cursor has to rest before what it is on is looked at."""


class Changes(Link):
    """An application over a session, and the actions that change its world.

    Attributes:
        settings: How things are set; the walk itself says how memory and sampling are.
    """

    def __init__(self, begin: Callable[[Callable[[str], None]], Begun]) -> None:
        super().__init__(begin)
        self.settings = Settings(memory=None, sampling=None)

    def showing(self, tab: str) -> bool:
        """Whether a tab is in front."""
        raise NotImplementedError

    def action_say(self) -> None:
        """Something happens."""
        facts = self.seen.facts
        so_far = "; ".join(facts.words) if facts else ""
        said = f"said so far: {so_far}. An empty line takes all of it back" if so_far else "from the next step on"

        def given(text: str | None) -> None:
            if text is not None:
                self._checked(lambda: Say(text))

        self.push_screen(Ask("What happens?", said, "the light goes out"), given)

    def action_memory(self) -> None:
        """With memory or without."""
        if self.seen.facts is not None:
            self.send(Memory(not self.seen.facts.memory))

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
        if self.showing("pipeline") and len(self.screen_stack) == 1:
            self.run_worker(self._edit_at(event.u, event.v), exclusive=True, group="edit")

    def on_memory_ops_chosen(self, event: MemoryOps.Chosen) -> None:
        """Edit frames."""
        self.run_worker(self._edit(event.choice, event.words), exclusive=True, group="edit")

    def on_memory_ops_looked(self, event: MemoryOps.Looked) -> None:
        """Show what frames showed."""
        if self.showing("memory"):
            self.run_worker(self._kept(event.choice), exclusive=True, group="look")

    async def _kept(self, choice: Choice) -> None:
        await asyncio.sleep(REST)
        with contextlib.suppress(MosaicMemError):
            found = await self.ask(lambda walk: questions.shown_by(walk, choice))
            self.query_one("#kept", PictureView).show(found.picture)

    async def _edit_at(self, u: float, v: float) -> None:
        try:
            choice, words = await self.ask(lambda walk: questions.thing_at(walk, u, v))
        except MosaicMemError as error:
            self.notify(str(error), severity="warning", markup=False)
            return
        await self._edit(choice, f"the thing there, {words}")

    def action_splice_ahead(self) -> None:
        """Another world behind a doorway in the middle of the view."""
        others = self._others()
        if not others:
            self.notify("there is no other world; name one with --other FILE when you start")
            return
        text = f"splice {shlex.quote(others[0])} doorway"
        self.run_worker(self._edit(None, "memory: another world", text), exclusive=True, group="edit")

    def _others(self) -> list[str]:
        return [] if self.seen.facts is None else self.seen.facts.about["others"]

    async def _edit(self, choice: Choice | None, words: str, text: str = "") -> None:
        here: Standing | None = None
        with contextlib.suppress(MosaicMemError):
            here = await self.ask(questions.standing)

        async def attempt(edit: Edit) -> questions.Preview:
            return await self.ask(lambda walk: questions.preview(walk, edit))

        def given(edit: Edit | None) -> None:
            if edit is not None:
                self.send(edit)

        self.push_screen(EditDialog(choice, words, attempt, self._others(), here, text), given)

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

    def action_settings(self) -> None:
        """What can be changed on the way."""
        facts = self.seen.facts
        if facts is None or self.begun is None:
            return
        fixed = self.begun.recorded or self.replaying
        memory = facts.memory if facts.about["generates"] else None
        sampling = None if fixed else facts.sampling
        now = replace(self.settings, memory=memory, sampling=sampling, theme=self.theme)
        note = "a recording fixes how the model samples. " if fixed and facts.sampling else ""
        self.push_screen(Form(now, list(self.available_themes), note), partial(self._set, now))

    def _set(self, before: Settings, after: Settings | None) -> None:
        if after is None:
            return
        if after.memory is not None and after.memory != before.memory:
            self.send(Memory(after.memory))
        if after.sampling is not None and after.sampling != before.sampling:
            self.run_worker(self._sample(after.sampling))
        self.settings, self.theme = after, after.theme
        for line in settings.said(before, after):
            self.said(f"set: {line}")

    async def _sample(self, sampling: SamplingConfig) -> None:
        try:
            await self.ask(lambda walk: settings.sample_with(walk, sampling))
        except MosaicMemError as error:
            self.notify(str(error), severity="warning", markup=False)
            return
        if self.seen.facts is not None:
            self.seen.facts = replace(self.seen.facts, sampling=sampling)
