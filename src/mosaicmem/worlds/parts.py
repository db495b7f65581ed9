"""What a scene is drafted with: colours, rooms with free spots, and a draft that collects solids."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from mosaicmem.worlds.primitives import BOX, CYLINDER, SPHERE, STILL, Solids
from mosaicmem.worlds.shading import CHECKER, SMOOTH, STRIPES, Materials

Vector = tuple[float, float, float]
Spot = tuple[float, float, float]  # x, z and yaw, or x, z and radius

PALETTE: dict[str, Vector] = {
    "white": (0.93, 0.93, 0.91), "cream": (0.93, 0.87, 0.74), "pale blue": (0.69, 0.80, 0.90),
    "pale green": (0.73, 0.85, 0.70), "pale pink": (0.92, 0.76, 0.75), "light grey": (0.80, 0.80, 0.81),
    "sand": (0.87, 0.77, 0.60), "oak": (0.70, 0.51, 0.32), "slate": (0.44, 0.48, 0.53),
    "terracotta": (0.74, 0.42, 0.30), "beige": (0.80, 0.73, 0.62), "grass": (0.36, 0.55, 0.24),
    "red": (0.80, 0.18, 0.15), "dark red": (0.50, 0.10, 0.12), "orange": (0.92, 0.52, 0.14),
    "yellow": (0.93, 0.78, 0.20), "green": (0.22, 0.56, 0.26), "teal": (0.12, 0.50, 0.50),
    "blue": (0.16, 0.35, 0.74), "navy": (0.12, 0.19, 0.42), "purple": (0.48, 0.24, 0.58),
    "brown": (0.45, 0.29, 0.17), "walnut": (0.36, 0.23, 0.15), "grey": (0.50, 0.50, 0.52),
}  # fmt: skip
_CLEARANCE = 0.65  # metres kept free on both sides of the way through the rooms
_TRIES = 60


@dataclass
class Piece:
    """A thing to place: what it is called, the disc it needs, how far its back is, and how it is built at a pose."""

    name: str
    radius: float
    place: Callable[[Draft, float, float, float], None]
    against_wall: bool = False
    back: float = 0.0


@dataclass
class Room:
    """A room between corners (x0, z0) and (x1, z1), metres; doors are named by the coordinate of their middle."""

    x0: float
    x1: float
    z0: float
    z1: float
    height: float
    colour: str
    floor: str
    left_door: float | None
    right_door: float | None
    open_sky: bool
    front_door: float | None = None
    painted: list[str] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)

    def free_spot(
        self, rng: random.Random, radius: float, aisle: list[tuple[float, float]], taken: list[Spot]
    ) -> tuple[float, float] | None:
        """A place for a disc of `radius` away from walls, doors, the aisle and what is taken."""
        for _ in range(_TRIES):
            x = rng.uniform(self.x0 + radius + 0.1, self.x1 - radius - 0.1)
            z = rng.uniform(self.z0 + radius + 0.1, self.z1 - radius - 0.1)
            if self._clear(x, z, radius, aisle, taken):
                return x, z
        return None

    def wall_spot(
        self, rng: random.Random, piece: Piece, aisle: list[tuple[float, float]], taken: list[Spot]
    ) -> Spot | None:
        """A place with the back to a wall: x, z and the yaw that turns local -z towards the wall."""
        for _ in range(_TRIES):
            side, gap = rng.randrange(4), piece.back + 0.04
            along_x = rng.uniform(self.x0 + piece.radius, self.x1 - piece.radius)
            along_z = rng.uniform(self.z0 + piece.radius, self.z1 - piece.radius)
            x, z, yaw = (
                (along_x, self.z0 + gap, 0.0),
                (along_x, self.z1 - gap, math.pi),
                (self.x0 + gap, along_z, math.pi / 2),
                (self.x1 - gap, along_z, -math.pi / 2),
            )[side]
            if self._clear(x, z, piece.radius, aisle, taken):
                return x, z, yaw
        return None

    def _clear(
        self, x: float, z: float, radius: float, aisle: list[tuple[float, float]], taken: list[Spot]
    ) -> bool:  # fmt: skip
        if any(math.hypot(x - tx, z - tz) < radius + tr + 0.12 for tx, tz, tr in taken):
            return False
        return all(_distance_to_segment(x, z, a, b) > radius + _CLEARANCE for a, b in itertools.pairwise(aisle))


class Draft:
    """Collects objects and solids, and draws their looks from one random stream."""

    def __init__(self, rng: random.Random, texture: str) -> None:
        self.rng = rng
        self.texture = texture
        self.reserved: list[Spot] = []
        self.happens: list[str] = []
        self._names = ["sky"]
        self._looks: list[tuple[Vector, Vector, int, float, list[Vector], list[float]]] = []
        self._solids: list[tuple[int, Vector, Vector, float, Vector, int, int, tuple[float, ...]]] = []
        self._look("white", 1.0, SMOOTH)
        self.front_door_room: int | None = None  # which room was chosen for a door to the outside
        self.light_out = False
        self.vivid = False

    @property
    def names(self) -> tuple[str, ...]:
        """Name of each object id."""
        return tuple(self._names)

    def add(self, name: str, colour: str, *, cell: float, pattern: str | None = None) -> int:
        """A new object; its id."""
        patterns = {"smooth": SMOOTH, "checker": CHECKER, "stripes": STRIPES}
        pattern = pattern or self.texture
        chosen = self.rng.choice(list(patterns.values())) if pattern == "mixed" else patterns[pattern]
        self._names.append(name)
        self._look(colour, cell, chosen)
        return len(self._names) - 1

    def box(
        self, owner: int, center: Vector, half: Vector, yaw: float = 0.0, *, world_pattern: bool = False,
        law: int = STILL, params: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
    ) -> None:  # fmt: skip
        """A box; `world_pattern` textures it in world coordinates."""
        anchor = center if world_pattern else (0.0, 0.0, 0.0)
        self._solids.append((BOX, center, half, yaw, anchor, owner, law, params))

    def sphere(
        self, owner: int, center: Vector, radius: float, *,
        law: int = STILL, params: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
    ) -> None:  # fmt: skip
        """A sphere."""
        self._solids.append((SPHERE, center, (radius, radius, radius), 0.0, (0.0, 0.0, 0.0), owner, law, params))

    def cylinder(self, owner: int, center: Vector, radius: float, half_height: float) -> None:
        """A vertical cylinder with caps."""
        size = (radius, half_height, radius)
        self._solids.append((CYLINDER, center, size, 0.0, (0.0, 0.0, 0.0), owner, STILL, (0.0,) * 4))

    def tensors(self) -> tuple[Solids, Materials]:
        """Everything drafted, as tensors (float64)."""

        def real(rows: tuple[object, ...]) -> torch.Tensor:
            return torch.tensor(rows, dtype=torch.float64)

        kind, center, size, yaw, anchor, owner, law, params = zip(*self._solids, strict=True)
        solids = Solids(
            torch.tensor(kind), real(center), real(size), real(yaw), real(anchor), torch.tensor(owner),
            torch.tensor(law), real(params),
        )  # fmt: skip
        colour, second, pattern, cell, waves, phases = zip(*self._looks, strict=True)
        materials = Materials(real(colour), real(second), torch.tensor(pattern), real(cell), real(waves), real(phases))
        return solids.sorted(), materials

    def _look(self, colour: str, cell: float, pattern: int) -> None:
        rng, base = self.rng, PALETTE[colour]
        contrast = rng.uniform(0.55, 0.68) if pattern != SMOOTH else rng.uniform(0.60, 0.72)
        tint = [rng.uniform(-0.05, 0.05) for _ in range(3)]
        second = tuple(min(1.0, max(0.0, channel * contrast + t)) for channel, t in zip(base, tint, strict=True))
        waves = []
        for _ in range(4):
            # wavelengths of 0.7 to 2.5 cells, in any direction
            k = 2 * math.pi / (max(cell, 0.35) * rng.uniform(0.7, 2.5))
            a, b = rng.uniform(0, 2 * math.pi), rng.uniform(-1, 1)
            flat = math.sqrt(1 - b * b)
            waves.append((k * flat * math.cos(a), k * b, k * flat * math.sin(a)))
        phases = [rng.uniform(0, 2 * math.pi) for _ in range(4)]
        self._looks.append((base, (second[0], second[1], second[2]), pattern, cell, waves, phases))


def article(name: str) -> str:
    """The name with the indefinite article that its sound asks for."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _distance_to_segment(x: float, z: float, a: tuple[float, float], b: tuple[float, float]) -> float:
    dx, dz = b[0] - a[0], b[1] - a[1]
    t = max(0.0, min(1.0, ((x - a[0]) * dx + (z - a[1]) * dz) / max(dx * dx + dz * dz, 1e-12)))
    return math.hypot(x - a[0] - t * dx, z - a[1] - t * dz)
