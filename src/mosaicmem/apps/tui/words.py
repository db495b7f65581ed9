"""Edits as they are typed: `move right 0.5`, `splice attic doorway`; and commands as they stand in the log."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from mosaicmem.errors import ConfigError
from mosaicmem.live.commands import Choice, Command, Edit, Layout, Move, Say, Verb

Point = tuple[float, float, float]
VERBS: dict[str, tuple[str, str]] = {
    "erase": ("", "forget it"),
    "move": ("right 0.5", "right, left, up, down, away, near and how far each; or X Y Z, the world's own axes"),
    "duplicate": ("right 0.5", "right, left, up, down, away, near and how far each; or X Y Z, the world's own axes"),
    "rotate": ("90", "degrees about the vertical"),
    "scale": ("1.5", "times its size"),
    "splice": ("", "NAME, then beside, above or doorway (in the middle of the view); gap N; door: frame N, times N"),
}
"""What an edit may be, an example of what follows it, and what that is."""
LAYOUTS: dict[str, Layout] = {"beside": "horizontal", "above": "vertical", "doorway": "doorway"}
WAYS = {"right": (0, 1), "left": (0, -1), "up": (1, 1), "down": (1, -1), "away": (2, 1), "near": (2, -1)}
"""Axis of `Standing`, and which way along it."""


@dataclass(frozen=True)
class Standing:
    """How one stands: unit directions of the world, right and ahead on the level.

    Attributes:
        door: The middle of a doorway that is looked at, where memory shows something; it is entered along `ahead`.
    """

    right: Point
    up: Point
    ahead: Point
    door: Point | None


def parse_edit(text: str, choice: Choice | None, here: Standing | None = None) -> Edit:
    """An edit in words, of what is chosen.

    Raises:
        ConfigError: if it is none; the message says what is expected.
    """
    try:
        verb, *rest = shlex.split(text[:400]) or [""]
    except ValueError as error:
        raise ConfigError(f"{text!r:.40}: {error}") from None
    if verb not in VERBS:
        raise ConfigError(f"{verb!r:.20}: expected one of {', '.join(VERBS)}")
    if verb == "splice":
        return _splice(rest, here)
    if choice is None:
        raise ConfigError("nothing is chosen; mark frames in the list, or click a thing in the view")
    what = cast(Verb, verb)
    if verb in ("move", "duplicate"):
        return Edit(what, choice, by=_shift(rest, here, verb))
    wanted = 0 if verb == "erase" else 1
    numbers = [_number(word) for word in rest]
    if len(numbers) != wanted:
        raise ConfigError(f"{verb}: expected {VERBS[verb][1] if wanted else 'nothing more'}")
    if not wanted:
        return Edit(what, choice)
    return Edit(what, choice, degrees=numbers[0]) if verb == "rotate" else Edit(what, choice, factor=numbers[0])


def _splice(words: list[str], here: Standing | None) -> Edit:
    if not words:
        raise ConfigError("splice NAME: which world?")
    name, *rest = words
    values: dict[str, Any] = {}
    readers: dict[str, tuple[str, Callable[[str], Any]]] = {
        "gap": ("offset", _number), "times": ("factor", _number), "frame": ("other_frame", _whole),
    }  # fmt: skip
    while rest:
        word = rest[0]
        if word in LAYOUTS:
            values["layout"] = LAYOUTS[word]
            rest = rest[1:]
        elif word in readers:
            field, read = readers[word]
            if len(rest) < 2:
                raise ConfigError(f"{word}: expected a number after it")
            values[field] = read(rest[1])
            rest = rest[2:]
        else:
            values["by"] = _shift(rest, here, "splice")
            break
    if values.get("layout") == "doorway":
        if here is None or here.door is None:
            raise ConfigError("memory shows nothing in the middle of the view; look straight at the doorway")
        values |= {"door": here.door, "facing": tuple(-x for x in here.ahead)}
    return Edit("splice", other=name, **values)


def _shift(words: list[str], here: Standing | None, verb: str) -> Point:
    """`X Y Z`, or ways and how far, as one stands."""
    if words and words[0] in WAYS:
        if here is None:
            raise ConfigError("it is not known yet how you stand; X Y Z are the world's own axes")
        total = [0.0, 0.0, 0.0]
        if len(words) % 2:
            raise ConfigError(f"{words[-1]!r:.20}: how far?")
        for way, far in zip(words[::2], words[1::2], strict=True):
            if way not in WAYS:
                raise ConfigError(f"{way!r:.20}: expected one of {', '.join(WAYS)}")
            axis, sign = WAYS[way]
            along = (here.right, here.up, here.ahead)[axis]
            total = [a + sign * _number(far) * b for a, b in zip(total, along, strict=True)]
        x, y, z = (round(value, 6) for value in total)
        return x, y, z
    numbers = [_number(word) for word in words]
    if len(numbers) != 3:
        raise ConfigError(f"{verb}: expected {', '.join(WAYS)} and how far; or X Y Z, 3 numbers")
    return numbers[0], numbers[1], numbers[2]


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ConfigError(f"{word!r:.20}: expected a number") from None


def _whole(word: str) -> int:
    try:
        return int(word)
    except ValueError:
        raise ConfigError(f"{word!r:.20}: expected a whole number") from None


def described(command: Command) -> str:
    """A command for the log; nothing where its receipt says enough."""
    match command:
        case Move():
            ways = [
                (command.forward, "forward", "back"),
                (command.right, "to the right", "to the left"),
                (command.yaw, "turn right", "turn left"),
                (command.tilt, "look up", "look down"),
            ]
            return ", ".join(more if amount > 0 else less for amount, more, less in ways if amount) or "time passes"
        case Say():
            return f"from now on: {command.text}" if command.text.strip() else "all that was said is taken back"
        case _:
            return ""
