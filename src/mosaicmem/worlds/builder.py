"""`make_scene`: rooms in a row joined by doorways, furnished, lit, with a few things that move; all from one seed."""

from __future__ import annotations

import math
import random
from typing import Literal

import torch

from mosaicmem.errors import ConfigError
from mosaicmem.worlds import furniture
from mosaicmem.worlds.parts import Draft, Piece, Room, article
from mosaicmem.worlds.primitives import BOUNCE, LIFT, SWING
from mosaicmem.worlds.scene import Scene
from mosaicmem.worlds.shading import Lights

Texture = Literal["smooth", "checker", "stripes", "mixed"]
Walls = Literal["pale", "vivid"]
HEIGHT = 2.7
WALL = 0.12  # thickness of one room's half of a wall
DOOR_WIDTH, DOOR_HEIGHT = 1.15, 2.1
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
MOVER_COLOURS = ("red", "orange", "blue", "yellow")
"""Of balls and lifts."""
_WALLS = ("cream", "pale blue", "pale green", "pale pink", "light grey", "sand")
_FLOORS = ("oak", "slate", "terracotta", "beige")
_VIVID = (
    "white", "sand", "pale blue", "pale green", "red", "dark red", "orange", "yellow", "green", "teal", "blue", "navy",
    "purple", "brown", "grey",
)  # fmt: skip


def make_scene(
    seed: int, *, rooms: int = 2, movers: bool = True, texture: Texture = "smooth", walls: Walls = "pale"
) -> Scene:
    """A world of `rooms` furnished rooms, the same for the same arguments, bit for bit.

    Args:
        seed: Any integer.
        rooms: 1 to 8. The last of two or more may have no ceiling.
        movers: A bouncing ball, a lift, a door that opens on the outside, or a light that goes out: one or two a room.
        texture: Pattern of floors and furniture; "mixed" lets each object have its own. Pale walls are always smooth.
        walls: "pale": one pale colour a room. "vivid": every wall has a strong colour of its own, some are striped, and
            any last room may be open to the sky, so that a place once left cannot be guessed, only remembered.

    Raises:
        ConfigError: if `rooms` is out of range or `texture` has no such name.
    """
    if not 1 <= rooms <= len(ORDINALS):
        raise ConfigError(f"rooms = {rooms}; expected 1 to {len(ORDINALS)}")
    if texture not in ("smooth", "checker", "stripes", "mixed"):
        raise ConfigError(f"texture = {texture!r}; expected smooth, checker, stripes or mixed")
    if walls not in ("pale", "vivid"):
        raise ConfigError(f"walls = {walls!r}; expected pale or vivid")
    rng = random.Random(seed)  # noqa: S311 - pictures, not secrets
    draft = Draft(rng, texture)
    draft.vivid = walls == "vivid"
    layout = _layout(rng, rooms)
    if draft.vivid and rooms == 1:
        layout[0].open_sky = rng.random() < 0.15
    if movers:
        draft.front_door_room = rng.choice([None, rng.randrange(rooms)])
        draft.light_out = rng.random() < 0.3
    _shell(draft, layout)
    waypoints = _waypoints(layout)
    for i, room in enumerate(layout):
        aisle = waypoints[max(0, 2 * i - 1) : 2 * i + 3] if rooms > 1 else waypoints
        if movers:
            _movers(draft, room, aisle, rng, first=i == 0)
        _furnish(draft, room, aisle, rng)
    lights = _lights(layout, rng, draft)
    return Scene(
        *draft.tensors(),
        lights=lights,
        names=draft.names,
        room_lo=torch.tensor([[r.x0, -r.height, r.z0] for r in layout], dtype=torch.float64),
        room_hi=torch.tensor([[r.x1, 0.0, r.z1] for r in layout], dtype=torch.float64),
        reserved=torch.tensor(draft.reserved, dtype=torch.float64).reshape(-1, 3),
        waypoints=torch.tensor(waypoints, dtype=torch.float64),
        caption=_caption(layout, draft),
        seed=seed,
    )


def _layout(rng: random.Random, count: int) -> list[Room]:
    rooms: list[Room] = []
    x, door_z = 0.0, rng.uniform(-0.5, 0.5)
    for i in range(count):
        width, depth = rng.uniform(4.4, 6.0), rng.uniform(4.2, 5.8)
        share = rng.uniform(0.3, 0.7)
        z0 = door_z - share * depth
        next_z = z0 + rng.uniform(0.3, 0.7) * depth
        colour = rng.choice([c for c in _WALLS if not rooms or c != rooms[-1].colour])
        open_sky = count > 1 and i == count - 1 and rng.random() < 0.35
        rooms.append(
            Room(
                x0=x,
                x1=x + width,
                z0=z0,
                z1=z0 + depth,
                height=HEIGHT,
                colour=colour,
                floor=rng.choice([f for f in _FLOORS if not rooms or f != rooms[-1].floor]),
                left_door=door_z if i else None,
                right_door=next_z if i < count - 1 else None,
                open_sky=open_sky,
            )
        )
        x, door_z = x + width + 2 * WALL, next_z
    return rooms


def _shell(draft: Draft, rooms: list[Room]) -> None:
    ground = draft.add("ground", "grass", cell=1.0, pattern="smooth")
    middle = (rooms[0].x0 + rooms[-1].x1) / 2
    draft.box(ground, (middle, 0.5, 0.0), (80.0, 0.35, 80.0), world_pattern=True)
    for i, room in enumerate(rooms):
        which = f"{ORDINALS[i]} room"
        xm, zm = (room.x0 + room.x1) / 2, (room.z0 + room.z1) / 2
        hx, hz = (room.x1 - room.x0) / 2 + WALL, (room.z1 - room.z0) / 2 + WALL
        floor = draft.add(f"floor of the {which}", room.floor, cell=0.55)
        draft.box(floor, (xm, 0.05, zm), (hx, 0.05, hz), world_pattern=True)
        if not room.open_sky:
            ceiling = draft.add(f"ceiling of the {which}", "white", cell=1.0, pattern="smooth")
            draft.box(ceiling, (xm, -room.height - 0.05, zm), (hx, 0.05, hz), world_pattern=True)
        walls = draft.add(f"walls of the {which}", room.colour, cell=1.0, pattern="smooth")
        for x, door in ((room.x0 - WALL / 2, room.left_door), (room.x1 + WALL / 2, room.right_door)):
            _wall(draft, _paint(draft, room, which, walls), room, "x", x, room.z0, room.z1, door)
        owner = _paint(draft, room, which, walls)
        _wall(draft, owner, room, "z", room.z0 - WALL / 2, room.x0 - WALL, room.x1 + WALL, None)
        room.front_door = xm if draft.front_door_room == i else None
        owner = _paint(draft, room, which, walls)
        _wall(draft, owner, room, "z", room.z1 + WALL / 2, room.x0 - WALL, room.x1 + WALL, room.front_door)


def _paint(draft: Draft, room: Room, which: str, plain: int) -> int:
    """The object a wall belongs to: that of all walls of a room, or one of its own with a strong colour."""
    if not draft.vivid:
        return plain
    colour = draft.rng.choice([c for c in _VIVID if c not in room.painted])
    room.painted.append(colour)
    striped = draft.rng.random() < 0.3
    return draft.add(f"{colour} wall of the {which}", colour, cell=0.5, pattern="stripes" if striped else "smooth")


def _wall(
    draft: Draft, owner: int, room: Room, axis: str, at: float, start: float, end: float, door: float | None
) -> None:
    """A wall across `axis` from `start` to `end`, with an opening centred at `door`."""

    def slab(a: float, b: float, low: float, high: float) -> None:
        mid, half = (a + b) / 2, (b - a) / 2
        y, hy = -(low + high) / 2, (high - low) / 2
        if axis == "x":
            draft.box(owner, (at, y, mid), (WALL / 2, hy, half), world_pattern=True)
        else:
            draft.box(owner, (mid, y, at), (half, hy, WALL / 2), world_pattern=True)

    if door is None:
        slab(start, end, 0.0, room.height)
        return
    slab(start, door - DOOR_WIDTH / 2, 0.0, room.height)
    slab(door + DOOR_WIDTH / 2, end, 0.0, room.height)
    slab(door - DOOR_WIDTH / 2, door + DOOR_WIDTH / 2, DOOR_HEIGHT, room.height)


def _waypoints(rooms: list[Room]) -> list[tuple[float, float]]:
    """Far end of the first room, then before and behind each doorway, then the far end of the last room."""
    first, last = rooms[0], rooms[-1]
    points = [(first.x0 + 1.0, (first.z0 + first.z1) / 2)]
    for room in rooms[:-1]:
        assert room.right_door is not None
        points += [(room.x1 - 0.8, room.right_door), (room.x1 + 2 * WALL + 0.8, room.right_door)]
    points.append((last.x1 - 1.0, (last.z0 + last.z1) / 2))
    return points


def _movers(draft: Draft, room: Room, aisle: list[tuple[float, float]], rng: random.Random, *, first: bool) -> None:
    if room.front_door is not None:
        leaf = draft.add("door", rng.choice(("dark red", "teal", "navy")), cell=0.3)
        half = DOOR_WIDTH / 2 - 0.01
        start = rng.uniform(0.8, 1.6)
        # hinged at local x = -half, so it turns inward (towards -z) for a positive angle
        draft.box(
            leaf,
            (room.front_door, -DOOR_HEIGHT / 2 + 0.005, room.z1 + 0.03),
            (half, DOOR_HEIGHT / 2 - 0.01, 0.025),
            law=SWING,
            params=(rng.uniform(1.2, 1.6), start, 1.5, -half),
        )
        draft.reserved.append((room.front_door - half, room.z1, 2 * half + 0.05))
        draft.happens.append("a door to the outside opens")
    colour = rng.choice(MOVER_COLOURS)
    if first or rng.random() < 0.5:
        radius = rng.uniform(0.14, 0.2)
        spot = room.free_spot(rng, radius + 0.1, aisle, draft.reserved)
        if spot:
            ball = draft.add("ball", colour, cell=0.12)
            height = rng.uniform(0.5, 1.0)
            period = 2 * math.sqrt(2 * height / 9.81)  # falls as things do
            params = (height, period, rng.random(), 0.0)
            draft.sphere(ball, (spot[0], -radius, spot[1]), radius, law=BOUNCE, params=params)
            draft.reserved.append((*spot, radius))
            draft.happens.append(f"{article(colour)} ball bounces")
    else:
        spot = room.free_spot(rng, 0.5, aisle, draft.reserved)
        if spot:
            lift = draft.add("lift", colour, cell=0.2)
            params = (rng.uniform(0.8, 1.4), rng.uniform(4.0, 6.0), rng.random(), 0.0)
            draft.box(lift, (spot[0], -0.09, spot[1]), (0.35, 0.08, 0.35), law=LIFT, params=params)
            draft.reserved.append((*spot, 0.5))
            draft.happens.append(f"{article(colour)} lift goes up and down")


def _furnish(draft: Draft, room: Room, aisle: list[tuple[float, float]], rng: random.Random) -> None:
    kinds = rng.sample(furniture.PIECES, k=min(len(furniture.PIECES), rng.randint(5, 7)))
    taken = list(draft.reserved)
    for make in kinds:
        piece: Piece = make(rng)
        spot = room.wall_spot(rng, piece, aisle, taken) if piece.against_wall else None
        if spot is None:
            free = room.free_spot(rng, piece.radius, aisle, taken)
            spot = None if free is None else (*free, rng.choice((0.0, rng.uniform(-0.6, 0.6))))
        if spot is None:
            continue
        x, z, yaw = spot
        piece.place(draft, x, z, yaw)
        taken.append((x, z, piece.radius))
        room.holds.append(piece.name)
    furniture.hang_picture(draft, room, rng)


def _lights(rooms: list[Room], rng: random.Random, draft: Draft) -> Lights:
    rows = []
    out = rng.randrange(len(rooms)) if draft.light_out else None
    for i, room in enumerate(rooms):
        warm = rng.uniform(0.0, 0.16)
        strength = rng.uniform(0.85, 1.05)
        position = (
            (room.x0 + room.x1) / 2 + rng.uniform(-0.7, 0.7),
            -room.height + 0.35,
            (room.z0 + room.z1) / 2 + rng.uniform(-0.7, 0.7),
        )
        colour = (strength, strength * (1 - 0.35 * warm), strength * (1 - warm))
        rows.append((*position, *colour, room.x0, -room.height, room.z0, room.x1, 0.0, room.z1))
        if i == out:
            draft.happens.append(f"the light of the {ORDINALS[i]} room goes out")
    table = torch.tensor(rows, dtype=torch.float64)
    out_at = torch.full((len(rooms),), math.inf, dtype=torch.float64)
    if out is not None:
        out_at[out] = rng.uniform(1.5, 3.0)
    return Lights(table[:, :3], table[:, 3:6], table[:, 6:9], table[:, 9:12], out_at)


def _caption(rooms: list[Room], draft: Draft) -> str:
    count = len(rooms)
    if count == 1:
        parts = ["A room."]
    else:
        parts = [f"{NUMBERS[count].capitalize()} rooms joined by {'a doorway' if count == 2 else 'doorways'}."]
    for i, room in enumerate(rooms):
        holds = _listing([article(name) for name in room.holds]) or "nothing"
        sky = ", is open to the sky" if room.open_sky else ""
        which = f"The {ORDINALS[i]}" if count > 1 else "It"
        walls = _listing(room.painted) if room.painted else room.colour
        parts.append(f"{which} has {walls} walls and {article(room.floor)} floor{sky} and holds {holds}.")
    if draft.happens:
        happens = _listing(draft.happens)
        parts.append(happens[0].upper() + happens[1:] + ".")
    return " ".join(parts)


def _listing(items: list[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1] if items else ""
