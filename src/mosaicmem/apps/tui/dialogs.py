"""Dialogs over the tabs: help, one line of text, a choice of saves, and an edit with its preview."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Awaitable, Callable
from typing import ClassVar

from rich.markup import escape
from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Label, OptionList, Static

from mosaicmem.apps.tui import keys
from mosaicmem.apps.tui.questions import Preview
from mosaicmem.apps.tui.settings import FIELDS, Field, Settings, parsed, shown
from mosaicmem.apps.tui.widgets import PictureView
from mosaicmem.apps.tui.words import LAYOUTS, VERBS, Standing, parse_edit
from mosaicmem.errors import MosaicMemError
from mosaicmem.live.commands import Choice, Edit

Try = Callable[[Edit], Awaitable[Preview]]


class Help(ModalScreen[None]):
    """All keys, from the table that binds them."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,?,f1", "dismiss", "close")]

    def compose(self) -> ComposeResult:
        """A table in a box that scrolls."""
        with VerticalScroll(classes="dialog"):
            yield Static(_help(), id="keys")

    def on_mount(self) -> None:
        """Arrows scroll at once."""
        box = self.query_one(VerticalScroll)
        box.border_title, box.border_subtitle = "Keys", "↑↓ scroll, Esc closes"
        box.focus()


class Ask(ModalScreen[str | None]):
    """One line of text; None if there is to be none."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close")]

    def __init__(self, title: str, hint: str, example: str = "") -> None:
        super().__init__()
        self._title, self._hint, self._example = title, hint, example

    def compose(self) -> ComposeResult:
        """A title, the line, a hint."""
        with Vertical(classes="dialog small"):
            yield Static(Text(self._title, "bold"))
            yield Input(placeholder=self._example, id="line")
            yield Static(Text(self._hint, "dim"))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter."""
        self.dismiss(event.value)


class Pick(ModalScreen[str | None]):
    """One of several names."""

    AUTO_FOCUS = "OptionList"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close")]

    def __init__(self, title: str, names: tuple[str, ...]) -> None:
        super().__init__()
        self._title, self._names = title, names

    def compose(self) -> ComposeResult:
        """A title and the list."""
        with Vertical(classes="dialog small"):
            yield Static(Text(self._title, "bold"))
            yield OptionList(*(Text(name) for name in self._names))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Enter, or a click."""
        self.dismiss(self._names[event.option_index])


class EditDialog(ModalScreen[Edit | None]):
    """An edit in words, with what it would do; Enter does it, once the preview is that of the words.

    Args:
        choice: What it acts on, and in words; None: only another world can be spliced in.
        attempt: Tries an edit out.
        others: Worlds that can be spliced in.
        here: How one stands, where that is known.
        text: What is in the line to begin with.
    """

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close")]

    def __init__(
        self, choice: Choice | None, words: str, attempt: Try, others: list[str], here: Standing | None, text: str = ""
    ) -> None:  # fmt: skip
        super().__init__()
        self._choice, self._words, self._attempt, self._others, self._here = choice, words, attempt, others, here
        self._text = text or ("erase" if choice else "splice ")
        self._ready: tuple[str, Edit] | None = None

    def compose(self) -> ComposeResult:
        """Words, verbs to click, what it would do, and the view before and after."""
        with Vertical(classes="dialog"):
            yield Static(Text(f"Edit {self._words}", "bold"), id="what")
            yield Input(self._text, id="line", select_on_focus=not self._text.startswith("splice"))
            verbs = [f"[@click=screen.verb('{verb}')]{verb}[/]" for verb in VERBS]
            yield Static("  ".join(verbs), id="verbs")
            yield Static(id="usage")
            yield Static(id="effect")
            with Horizontal(id="pictures"):
                yield PictureView(id="before")
                yield PictureView(id="after")
            yield Static(Text("now, what is chosen marked, and after;  Enter does it, Esc leaves it", "dim"))

    def action_verb(self, verb: str) -> None:
        """A verb was clicked: write it, with an example of its numbers."""
        line = self.query_one(Input)
        example = shlex.quote(self._others[0]) if verb == "splice" and self._others else VERBS[verb][0]
        line.value = f"{verb} {example}".strip()
        line.cursor_position = len(line.value)
        line.focus()

    def action_layout(self, name: str) -> None:
        """A place for the other world was clicked: write it."""
        line = self.query_one(Input)
        line.value = " ".join([*(word for word in line.value.split() if word not in LAYOUTS), name])
        line.cursor_position = len(line.value)

    def _usage(self, text: str) -> None:
        """What belongs after the verb."""
        verb = text.split(maxsplit=1)[0] if text.strip() else ""
        words = VERBS.get(verb, ("", ""))[1]
        if verb == "splice":
            words = f"of {', '.join(self._others)}: {words}" if self._others else "start with --other FILE to have one"
            words = escape(words)
            for name in LAYOUTS:
                words = words.replace(name, f"[@click=screen.layout('{name}')]{name}[/]")
        self.query_one("#usage", Static).update(words)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Try it out as soon as it is an edit."""
        self._ready = None
        self._usage(event.value)
        self.run_worker(self._try(event.value), exclusive=True, group="preview")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Do it, if it was seen before."""
        if self._ready is not None and self._ready[0] == event.value:
            self.dismiss(self._ready[1])
        else:
            self.notify("the preview is not there yet", severity="warning")

    async def _try(self, text: str) -> None:
        effect = self.query_one("#effect", Static)
        try:
            edit = parse_edit(text, self._choice, self._here)
            effect.update(Text("looking what that would do ...", "dim"))
            found = await self._attempt(edit)
        except MosaicMemError as error:
            effect.update(Text(str(error), "yellow"))
            self.query_one("#after", PictureView).show(None)
            return
        share = f"memory shows {found.before.share:.0%} of this view, then {found.after.share:.0%}"
        counts = f"changes {found.count:,} of {found.total:,} patches"
        if edit.choice is None:
            counts = f"adds {found.count:,} patches to {found.total:,}"
        effect.update(Text.assemble((f"{counts}, {found.total_after:,} afterwards", "bold"), f"\n{share}"))
        self.query_one("#before", PictureView).show(found.before.picture)
        self.query_one("#after", PictureView).show(found.after.picture)
        self._ready = (text, edit)


class Form(ModalScreen[Settings | None]):
    """The settings, a line each; what is typed is checked at once, Enter takes all of them.

    Args:
        now: How things are set.
        themes: Names of colours.
        note: Why something is missing.
    """

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss", "close"),
        Binding("down", "app.focus_next", "next"),
        Binding("up", "app.focus_previous", "the one before"),
    ]

    def __init__(self, now: Settings, themes: list[str], note: str) -> None:
        super().__init__()
        self._now, self._themes, self._note = now, sorted(themes), note

    def compose(self) -> ComposeResult:
        """A label, the value and what is expected, line by line."""
        values = shown(self._now)
        with VerticalScroll(classes="dialog small", can_focus=False):
            yield Static(Text("Settings, from the next step on", "bold"))
            with Vertical(id="rows"):
                for field in FIELDS:
                    if field.name in values:
                        with Horizontal(classes="row"):
                            yield Label(field.label)
                            yield Input(values[field.name], id=field.name, compact=True, suggester=self._names(field))
                            yield Static(field.words, classes="words", markup=False)
            yield Static(id="wrong", markup=False)
            yield Static(Text(f"{self._note}↑↓ Tab another line; Enter takes them, Esc leaves all as it was", "dim"))

    def _names(self, field: Field) -> SuggestFromList | None:
        return SuggestFromList(self._themes) if field.name == "theme" else None

    def _read(self) -> Settings:
        texts = {str(line.id): line.value for line in self.query(Input)}
        return parsed(texts, self._now, self._themes)

    def on_input_changed(self) -> None:
        """Say what is wrong while it is typed."""
        try:
            self._read()
            self.query_one("#wrong", Static).update("")
        except MosaicMemError as error:
            self.query_one("#wrong", Static).update(Text(str(error), "yellow"))

    def on_input_submitted(self) -> None:
        """Enter, in any line."""
        with contextlib.suppress(MosaicMemError):  # it stands there already
            self.dismiss(self._read())


def _help() -> Table:
    table = Table.grid(padding=(0, 2))
    for title, group in keys.GROUPS.items():
        table.add_row(Text(title, "bold"))
        for key in group:
            if key.shown:
                table.add_row(Text(f"  {key.shown}", "bold cyan"), key.words)
    table.add_row(Text("Mouse", "bold"))
    for what, words in keys.MOUSE:
        table.add_row(Text(f"  {what}", "bold cyan"), words)
    return table
