"""Where a second world goes: what `splice` and `edit splice` are told, and numbers on a command line in general."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from tyro.conf import arg

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.geometry import se3
from mosaicmem.io.files import finite, read_json
from mosaicmem.memory.editing import doorway_transform, layout_transform, rotation_about, similarity


@dataclass(frozen=True)
class Placement:
    """How B is placed in the world of A."""

    layout: Literal["horizontal", "vertical", "doorway"] = "horizontal"
    """Beside A (world +x), above it (world -y), or door to door."""
    offset: float = 10.0
    """Gap between the two, world units; not for a doorway."""
    door_a: Annotated[str | None, arg(metavar="POSE", help_behavior_hint="")] = None
    """Door of A for --layout doorway: X,Y,Z,DEGREES of its threshold and the heading into its own world (0: +z, 90:
    +x), or a 4x4 matrix as for --transform."""
    door_b: Annotated[str | None, arg(metavar="POSE", help_behavior_hint="")] = None
    """Door of B, as --door-a."""
    door_ratio: float = 1.0
    """Width of door A over width of door B; B is scaled by it."""
    transform: Annotated[str | None, arg(metavar="FILE|NUMBERS", help_behavior_hint="")] = None
    """A from B: a JSON file with a 4x4 matrix, or 16 or 3 numbers (a translation) separated by commas."""

    def given(self) -> Float[Tensor, "4 4"] | None:
        """`a_from_b` where the command line alone decides it: by matrix or by doors.

        Raises:
            ConfigError: on options that contradict or miss each other; InputError, GeometryError: on a bad matrix.
        """
        doors = [self.door_a, self.door_b]
        if self.layout != "doorway" and (doors != [None, None] or self.door_ratio != 1):
            raise ConfigError("--door-a, --door-b and --door-ratio belong to --layout doorway")
        if self.transform is not None:
            if self.layout == "doorway":
                raise ConfigError("--transform says where B goes; leave --layout doorway out")
            return parse_transform(self.transform)
        if self.layout != "doorway":
            return None
        if self.door_a is None or self.door_b is None:
            raise ConfigError("--layout doorway needs --door-a and --door-b: where are the doors?")
        poses = [parse_pose(text, f"--door-{name}") for text, name in ((self.door_a, "a"), (self.door_b, "b"))]
        return doorway_transform(*poses, ratio=self.door_ratio)

    def a_from_b(self, a: Float[Tensor, "p 3"], b: Float[Tensor, "q 3"]) -> Float[Tensor, "4 4"]:
        """Where B goes, given what the two consist of: patch centres, or camera centres."""
        given = self.given()
        return layout_transform(a, b, self.layout, self.offset) if given is None else given


def numbers(text: str, option: str, *counts: int) -> Float[Tensor, "n"]:
    """Numbers separated by commas, of one of some counts, float64.

    Raises:
        ConfigError: if the text is anything else, or a number is not finite.
    """
    try:
        values = torch.tensor([float(part) for part in text.split(",")], dtype=torch.float64)
    except ValueError:
        values = torch.empty(0, dtype=torch.float64)
    if len(values) not in counts or not bool(values.isfinite().all()):
        wanted = " or ".join(map(str, counts))
        raise ConfigError(f"{option} {text!r:.80}: expected {wanted} numbers separated by commas")
    return values


def parse_transform(text: str, option: str = "--transform") -> Float[Tensor, "4 4"]:
    """A 4x4 similarity from a JSON file, 16 numbers (row by row) or 3 (a translation).

    Raises:
        ConfigError: if the text is none of these; InputError, GeometryError: if the file or the matrix is unusable.
    """
    values = _from_file(text, option) if "," not in text else numbers(text, option, 16, 3)
    return se3.translation(values) if len(values) == 3 else similarity(values.reshape(4, 4))


def parse_pose(text: str, option: str) -> Float[Tensor, "4 4"]:
    """A frame in the world: X,Y,Z,DEGREES (turned right about the vertical from facing +z), or a matrix.

    Raises:
        ConfigError, InputError, GeometryError: as `parse_transform`.
    """
    if text.count(",") != 3:
        return parse_transform(text, option)
    values = numbers(text, option, 4)
    zero = torch.zeros(3, dtype=torch.float64)
    return se3.translation(values[:3]) @ rotation_about(zero + torch.tensor([0.0, 1, 0]), float(values[3]), zero)


def placed(a_from_b: Float[Tensor, "4 4"]) -> str:
    """Where B went, in words."""
    scale = float(torch.linalg.det(a_from_b[:3, :3]) ** (1 / 3))
    moved = ", ".join(f"{float(x):.3f}" for x in a_from_b[:3, 3])
    return f"B is placed at ({moved}), scaled by {scale:g}, in the world of A"


def _from_file(text: str, option: str) -> Tensor:
    raw = read_json(Path(text), 2**20)
    rows = raw if isinstance(raw, list) else []
    flat = [x for r in rows for x in (r if isinstance(r, list) else [r])]
    if len(flat) not in (16, 3):
        raise InputError(f"{option} {text}: {len(flat)} numbers; expected 16 (a 4x4 matrix) or 3 (a translation)")
    return torch.tensor([finite(x, f"{text}: matrix") for x in flat], dtype=torch.float64)
