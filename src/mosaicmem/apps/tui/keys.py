"""The keys, said once: what binds them, what the help shows and what the command palette lists."""

from __future__ import annotations

from dataclasses import dataclass

TABS = {"pipeline": "Pipeline", "coverage": "Coverage", "benchmark": "Benchmark", "memory": "Memory Ops"}


@dataclass(frozen=True)
class Key:
    """Keys that do the same.

    Attributes:
        keys: As Textual names them, separated by commas.
        action: What they do, as Textual calls it.
        shown: How they are written for people.
        words: What they do, for people.
        first: Whether they win over whatever has the focus.
    """

    keys: str
    action: str
    shown: str
    words: str
    first: bool = False


GROUPS: dict[str, tuple[Key, ...]] = {
    "Walk": (
        Key("w,up", "walk('forward', 1)", "W ↑", "forward"),
        Key("s,down", "walk('forward', -1)", "S ↓", "back"),
        Key("a", "walk('right', -1)", "A", "to the left"),
        Key("d", "walk('right', 1)", "D", "to the right"),
        Key("left,j", "walk('yaw', -1)", "← J", "turn left"),
        Key("right,l", "walk('yaw', 1)", "→ L", "turn right"),
        Key("i", "walk('tilt', 1)", "I", "look up"),
        Key("k", "walk('tilt', -1)", "K", "look down"),
        Key("W,shift+up", "walk('forward', 2)", "Shift+W", "twice as far; so with S, A, D and arrows"),
        Key("S,shift+down", "walk('forward', -2)", "", ""),
        Key("A", "walk('right', -2)", "", ""),
        Key("D", "walk('right', 2)", "", ""),
        Key("shift+left", "walk('yaw', -2)", "", ""),
        Key("shift+right", "walk('yaw', 2)", "", ""),
        Key("space", "walk('wait', 0)", "Space", "stand still, time passes"),
        Key("b", "begin_again", "B", "back to where this walk began"),
    ),
    "World": (
        Key("t", "say", "T", "something happens: say what"),
        Key("m", "memory", "M", "generate with memory, or without"),
        Key("x", "edit_ahead", "X", "edit the thing in the middle of the view"),
        Key("g", "splice_ahead", "G", "another world behind a doorway in the middle of the view (--other)"),
        Key("z", "undo", "Z", "take the newest edit back"),
        Key("Z", "redo", "Shift+Z", "do it again"),
        Key("ctrl+s", "save", "Ctrl-S", "save under a name"),
        Key("o", "load", "O", "open what was saved"),
        Key("p", "pause", "P", "pause, go on"),
        Key("n", "one", "N", "let one command through"),
        Key("T", "take_over", "Shift+T", "stop a recording that plays, and walk on"),
    ),
    "View": (
        Key("v", "view", "V", "frame and cloud, frame alone, cloud alone"),
        Key("c", "colour", "C", "colour the frame by origin: seen, generated, imagined"),
        Key("[", "orbit(-15, 0)", "[ ]", "turn the cloud"),
        Key("]", "orbit(15, 0)", "", ""),
        Key("{", "orbit(0, -10)", "{ }", "tilt it"),
        Key("}", "orbit(0, 10)", "", ""),
        Key("+,=", "zoom(1.2)", "+ -", "nearer, further"),
        Key("-", "zoom(0.8333)", "", ""),
        Key("pageup", "page(-1)", "PgUp PgDn", "scroll"),
        Key("pagedown", "page(1)", "", ""),
    ),
    "Program": (
        Key("tab", "next_tab(1)", "Tab", "next tab; Shift+Tab the one before", first=True),
        Key("shift+tab", "next_tab(-1)", "", "", first=True),
        Key("1", "tab('pipeline')", "1 2 3 4", "a tab"),
        Key("2", "tab('coverage')", "", ""),
        Key("3", "tab('benchmark')", "", ""),
        Key("4", "tab('memory')", "", ""),
        Key("r", "rerun", "R", "measure again: coverage, the memory benchmark"),
        Key("comma", "settings", ",", "settings: guidance, steps, how far a key goes, theme"),
        Key("y", "copy", "Y", "copy the command that runs"),
        Key("?,f1", "help", "?", "this help"),
        Key("/", "command_palette", "/", "all commands by name; themes"),
        Key("q,escape", "leave", "Q Esc", "end; the world file is current"),
        Key("ctrl+c,ctrl+q", "leave", "Ctrl-C", "end, from anywhere", first=True),
    ),
}
MOUSE = (
    ("click in the frame", "edit the thing there"),
    ("drag in the cloud", "turn it; the wheel: nearer, further"),
    ("click in a list", "choose; the wheel scrolls"),
)
HINTS = {
    "pipeline": "[@click=app.help]? help[/]  WASD walk  ←→ turn  [@click=app.say]T say[/]  X edit  "
    "[@click=app.view]V view[/]  [@click=app.settings], settings[/]  [@click=app.save]^S save[/]  "
    "[@click=app.leave]Q end[/]",
    "coverage": "[@click=app.help]? help[/]  ↑↓ choose a frame  Enter stand there  [@click=app.rerun]R measure now[/]  "
    "[@click=app.leave]Q end[/]",
    "benchmark": "[@click=app.help]? help[/]  [@click=app.rerun]R memory benchmark: run, stop[/]  ↑↓ scroll  "
    "[@click=app.leave]Q end[/]",
    "memory": "[@click=app.help]? help[/]  ↑↓ Space choose  Enter edit  [@click=app.undo]Z undo[/]  "
    "[@click=app.redo]⇧Z redo[/]  [@click=app.save]^S save[/]  [@click=app.load]O open[/]",
}
"""What can be done on each tab, in a line of markup."""
