"""Dialogs over the tabs: help, one line of text, a choice of saves, and an edit with its preview."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static

from mosaicmem.apps.tui import keys
from mosaicmem.apps.tui.questions import VERBS, Preview, parse_edit
from mosaicmem.apps.tui.widgets import PictureView
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
        self.query_one(VerticalScroll).focus()


class Ask(ModalScreen[str | None]):
    """One line of text; None if there is to be none."""

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close")]

    def __init__(self, title: str, hint: str, value: str = "") -> None:
        super().__init__()
        self._title, self._hint, self._value = title, hint, value

    def compose(self) -> ComposeResult:
        """A title, the line, a hint."""
        with Vertical(classes="dialog small"):
            yield Static(Text(self._title, "bold"))
            yield Input(self._value, id="line")
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
    """

    AUTO_FOCUS = "Input"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "dismiss", "close")]

    def __init__(self, choice: Choice | None, words: str, attempt: Try, others: list[str]) -> None:
        super().__init__()
        self._choice, self._words, self._attempt, self._others = choice, words, attempt, others
        self._ready: tuple[str, Edit] | None = None

    def compose(self) -> ComposeResult:
        """Words, verbs to click, what it would do, and the view before and after."""
        with Vertical(classes="dialog"):
            yield Static(Text(f"Edit {self._words}", "bold"), id="what")
            yield Input("erase" if self._choice else "splice ", id="line")
            verbs = [f"[@click=screen.verb('{verb}')]{verb}[/]" for verb in VERBS]
            yield Static("  ".join(verbs), id="verbs")
            yield Static(id="effect")
            with Horizontal(id="pictures"):
                yield PictureView(id="before")
                yield PictureView(id="after")
            yield Static(Text("now, with what is chosen marked, and after. Enter does it, Esc does not", "dim"))

    def action_verb(self, verb: str) -> None:
        """A verb was clicked: write it, with an example of its numbers."""
        line = self.query_one(Input)
        example = self._others[0] if verb == "splice" and self._others else VERBS[verb][0]
        line.value = f"{verb} {example}".strip()
        line.cursor_position = len(line.value)
        line.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Try it out as soon as it is an edit."""
        self._ready = None
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
            edit = parse_edit(text, self._choice)
            effect.update(Text("looking what that would do ...", "dim"))
            found = await self._attempt(edit)
        except MosaicMemError as error:
            effect.update(Text(str(error), "yellow"))
            self.query_one("#after", PictureView).show(None)
            return
        share = f"memory shows {found.before.share:.0%} of this view, then {found.after.share:.0%}"
        counts = f"{found.count:,} of {found.total:,} patches, {found.total_after:,} afterwards"
        effect.update(Text.assemble((f"changes {counts}", "bold"), f"\n{share}"))
        self.query_one("#before", PictureView).show(found.before.picture)
        self.query_one("#after", PictureView).show(found.after.picture)
        self._ready = (text, edit)


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
