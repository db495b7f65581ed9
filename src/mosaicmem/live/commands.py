"""What a walk can be told, and how it is written in JSON: bounded, complete, nothing unknown."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from mosaicmem.errors import ConfigError, refuse
from mosaicmem.io.files import LARGEST

FAR = 1e6
"""Largest coordinate or distance, world units."""
MAX_TEXT = 200
Verb = Literal["erase", "move", "duplicate", "rotate", "scale", "splice"]
Kind = Literal["thing", "sphere", "box", "frames"]
Layout = Literal["horizontal", "vertical", "doorway"]
_WANTED = {
    "thing": {"point"},
    "sphere": {"point", "radius"},
    "box": {"low", "high"},
    "frames": {"first", "last"},
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}")

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Move:
    """One step: how far to go (world units, level) and to turn (degrees; to the right, upwards). All 0: time passes."""

    right: float = 0.0
    down: float = 0.0
    forward: float = 0.0
    yaw: float = 0.0
    tilt: float = 0.0

    def __post_init__(self) -> None:
        refuse(
            *((not abs(getattr(self, name)) <= FAR, f"{name} is out of bounds") for name in ("right", "down")),
            (not abs(self.forward) <= FAR, "forward is out of bounds"),
            *((not abs(getattr(self, name)) <= 180, f"{name}: expected -180 to 180") for name in ("yaw", "tilt")),
        )


@dataclass(frozen=True)
class Jump:
    """Stand where frame `frame` of this walk was seen from, or at `pose` (world from camera, 16 numbers by rows)."""

    frame: int | None = None
    pose: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        refuse(
            ((self.frame is None) == (self.pose is None), "jump needs a frame or a pose, one of them"),
            (self.pose is not None and len(self.pose) != 16, "pose: expected 16 numbers"),
            (self.pose is not None and any(not abs(x) <= FAR for x in self.pose), "pose is out of bounds"),
        )


@dataclass(frozen=True)
class Say:
    """Something happens, in words, from the next step on; without words, all that was said is taken back."""

    text: str = ""

    def __post_init__(self) -> None:
        printable = all(c.isprintable() for c in self.text)
        refuse((len(self.text) > MAX_TEXT or not printable, f"text: expected at most {MAX_TEXT} printable characters"))


@dataclass(frozen=True)
class Memory:
    """Generate with memory, or without."""

    on: bool = True


@dataclass(frozen=True)
class Choice:
    """Which patches: the thing at a point, all within a radius, within a box, or of a range of frames."""

    kind: Kind
    point: Point | None = None
    radius: float | None = None
    low: Point | None = None
    high: Point | None = None
    first: int | None = None
    last: int | None = None

    def __post_init__(self) -> None:
        wanted = {
            "thing": {"point"},
            "sphere": {"point", "radius"},
            "box": {"low", "high"},
            "frames": {"first", "last"},
        }
        given = {name for name, value in self.given.items() if name != "kind" and value is not None}
        optional = {"radius"} if self.kind == "thing" else set[str]()
        numbers = [x for name in ("point", "low", "high") for x in getattr(self, name) or ()]
        refuse(
            (self.kind not in wanted, f"kind {self.kind!r:.40}: expected one of {', '.join(get_args(Kind))}"),
            (
                not wanted.get(self.kind, given) <= given <= wanted.get(self.kind, given) | optional,
                f"a choice of kind {self.kind!r:.40} needs {', '.join(sorted(wanted.get(self.kind, given)))}",
            ),
            (any(not abs(x) <= FAR for x in numbers), "a point is out of bounds"),
            (self.radius is not None and not 0 < self.radius <= FAR, "radius: expected more than 0"),
        )

    @property
    def given(self) -> dict[str, Any]:
        """What was said, without what was not, JSON."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in said.items()}


@dataclass(frozen=True)
class Edit:
    """Change what is remembered: see `memory.editing`.

    Attributes:
        by: A shift, world units.
        other: A world to splice in.
        layout: Where it goes: beside this one (without a word), above it, or door to door.
        offset: Gap between the two, world units; not at a doorway.
        door, facing: A doorway of this world: the middle of its threshold, and the direction in which somebody looks
            who stands in it and looks into this world.
        other_frame: The door of the other world is where this frame of it was seen from, looking as that did; without,
            the first of its frames.
        factor: How many times its size a selection has afterwards, or the other world behind its door.
    """

    verb: Verb
    choice: Choice | None = None
    by: Point | None = None
    degrees: float | None = None
    factor: float | None = None
    other: str | None = None
    layout: Layout | None = None
    offset: float | None = None
    door: Point | None = None
    facing: Point | None = None
    other_frame: int | None = None

    def __post_init__(self) -> None:
        more = {
            "erase": set[str](),
            "move": {"by"},
            "duplicate": {"by"},
            "rotate": {"degrees"},
            "scale": {"factor"},
            "splice": {"other"},
        }
        names = ("by", "degrees", "factor", "other", "layout", "offset", "door", "facing", "other_frame")
        given = {name for name in names if getattr(self, name) is not None}
        wanted, optional = more.get(self.verb, given), set[str]()
        if self.verb == "splice" and self.layout == "doorway":
            wanted, optional = wanted | {"door", "facing"}, {"layout", "by", "factor", "other_frame"}
        elif self.verb == "splice":
            optional = {"layout", "by", "offset"}
        refuse(
            (self.verb not in more, f"verb {self.verb!r:.40}: expected one of {', '.join(more)}"),
            (
                self.layout is not None and self.layout not in get_args(Layout),
                f"layout {self.layout!r:.40}: expected one of {', '.join(get_args(Layout))}",
            ),
            (
                not wanted <= given <= wanted | optional,
                f"{self.verb!r:.40} needs {', '.join(sorted(wanted)) or 'no more'}"
                + (f", and may have {', '.join(sorted(optional))}" if optional else ""),
            ),
            ((self.choice is None) != (self.verb == "splice"), "an edit needs a choice; splice needs none"),
            (any(not abs(x) <= FAR for x in (*(self.by or ()), *(self.door or ()))), "a point is out of bounds"),
            (self.facing is not None and not 1e-6 < math.hypot(*self.facing) <= FAR, "facing: expected a direction"),
            (self.offset is not None and not 0 <= self.offset <= FAR, "offset: expected 0 or more"),
            (self.degrees is not None and not abs(self.degrees) <= 360, "degrees: expected -360 to 360"),
            (self.factor is not None and not 0.01 <= self.factor <= 100, "factor: expected 0.01 to 100"),
        )


@dataclass(frozen=True)
class Undo:
    """Take back the newest edit."""


@dataclass(frozen=True)
class Redo:
    """Do again the edit that was taken back last."""


@dataclass(frozen=True)
class Save:
    """Give the world as it is now a name."""

    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True)
class Load:
    """Go on in a world that was saved, where it was saved."""

    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)


Command = Move | Jump | Say | Memory | Edit | Undo | Redo | Save | Load
COMMANDS: dict[str, type[Any]] = {
    "move": Move,
    "jump": Jump,
    "say": Say,
    "memory": Memory,
    "edit": Edit,
    "undo": Undo,
    "redo": Redo,
    "save": Save,
    "load": Load,
}
_NAMES: dict[type[Any], str] = {cls: name for name, cls in COMMANDS.items()}
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("right", "down", "forward", "yaw", "tilt", "radius", "degrees", "factor", "offset"), float),
    **dict.fromkeys(("frame", "first", "last", "other_frame"), int),
    **dict.fromkeys(("text", "name", "verb", "kind", "other", "layout"), str),
    "on": bool,
}
_LISTS = {"pose": 16, "point": 3, "low": 3, "high": 3, "by": 3, "door": 3, "facing": 3}


def parse(raw: Any) -> Command:
    """The command that a JSON object stands for.

    Raises:
        ConfigError: if it is none; the message says what is wrong.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get("do"), str) or raw["do"] not in COMMANDS:
        raise ConfigError(f"no command {str(raw)!r:.80}; expected 'do' to be one of {', '.join(COMMANDS)}")
    rest = {key: value for key, value in raw.items() if key != "do"}
    return _build(COMMANDS[raw["do"]], rest, raw["do"])


def as_json(command: Command) -> dict[str, Any]:
    """The object that `parse` reads back."""
    values = {name: value for name, value in asdict(command).items() if value is not None}
    if isinstance(command, Edit) and command.choice is not None:
        values["choice"] = command.choice.given
    return {"do": _NAMES[type(command)], **values}


def parse_choice(raw: Any) -> Choice:
    """The choice that a JSON object stands for.

    Raises:
        ConfigError: if it is none.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError("choice: expected an object")
    return _build(Choice, dict(raw), "choice")


def _build(cls: type[Any], raw: dict[str, Any], what: str) -> Any:
    known = {f.name for f in fields(cls)}
    if strange := sorted(str(key)[:40] for key in raw if key not in known):
        raise ConfigError(f"{what}: nothing is known of {', '.join(strange)}")
    values = {
        name: parse_choice(value) if name == "choice" else _value(name, value, what) for name, value in raw.items()
    }
    try:
        return cls(**values)
    except TypeError:
        raise ConfigError(f"{what}: something is missing; expected {', '.join(sorted(known))}") from None


def _value(name: str, value: Any, what: str) -> Any:
    if name in _LISTS:
        count = _LISTS[name]
        if not isinstance(value, list) or len(value) != count:
            raise ConfigError(f"{what}: {name}: expected {count} numbers")
        return tuple(_number(x, f"{what}: {name}") for x in value)
    wanted = _TYPES[name]
    if wanted is float:
        return _number(value, f"{what}: {name}")
    if not isinstance(value, wanted) or (wanted is int and (isinstance(value, bool) or abs(value) > 2**53)):
        raise ConfigError(f"{what}: {name} = {value!r:.40}: expected {getattr(wanted, '__name__', 'another type')}")
    return value


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise ConfigError(f"{what}: {value!r:.40}: expected a finite number")
    return float(value)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigError(f"name {name!r:.80}: expected 1 to 64 letters, digits, spaces, dots, dashes or underscores")
