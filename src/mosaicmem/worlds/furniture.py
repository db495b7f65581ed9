"""Furniture: each maker draws a size and a colour and says how the thing is built at a pose. Backs face local -z."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from mosaicmem.worlds.parts import Draft, Piece, Room, Vector, article

_BRIGHT = ("red", "orange", "yellow", "green", "teal", "blue", "purple")
_WOOD = ("oak", "walnut", "brown", "white")


def sofa(rng: random.Random) -> Piece:
    """A seat, a back and two arms."""
    colour, half = rng.choice(("red", "teal", "navy", "green", "purple", "grey")), rng.uniform(0.75, 0.95)

    def place(draft: Draft, x: float, z: float, yaw: float) -> None:
        me = draft.add("sofa", colour, cell=0.25)
        _boxes(draft, me, x, z, yaw, [
            ((0.0, -0.22, 0.06), (half - 0.14, 0.22, 0.34)),
            ((0.0, -0.42, -0.32), (half, 0.42, 0.10)),
            ((half - 0.08, -0.30, 0.06), (0.08, 0.30, 0.36)),
            ((0.08 - half, -0.30, 0.06), (0.08, 0.30, 0.36)),
        ])  # fmt: skip

    return Piece(f"{colour} sofa", math.hypot(half, 0.42), place, against_wall=True, back=0.42)


def table(rng: random.Random) -> Piece:
    """A top on four legs, with a vase."""
    colour, hx, hz = rng.choice(_WOOD), rng.uniform(0.45, 0.65), rng.uniform(0.32, 0.45)
    vase = rng.choice(_BRIGHT)

    def place(draft: Draft, x: float, z: float, yaw: float) -> None:
        me = draft.add("table", colour, cell=0.2)
        legs = [
            ((sx * (hx - 0.06), -0.345, sz * (hz - 0.06)), (0.035, 0.345, 0.035)) for sx in (1, -1) for sz in (1, -1)
        ]
        _boxes(draft, me, x, z, yaw, [((0.0, -0.715, 0.0), (hx, 0.025, hz)), *legs])
        draft.cylinder(draft.add("vase", vase, cell=0.1), (x, -0.86, z), 0.075, 0.12)

    return Piece(f"{colour} table with {article(vase)} vase", math.hypot(hx, hz), place)


def cupboard(rng: random.Random) -> Piece:
    """A tall box with a darker foot."""
    colour, hx, height = rng.choice(("white", *_BRIGHT[3:], "walnut")), rng.uniform(0.4, 0.6), rng.uniform(1.3, 2.0)

    def place(draft: Draft, x: float, z: float, yaw: float) -> None:
        me, foot = draft.add("cupboard", colour, cell=0.3), draft.add("foot of a cupboard", "walnut", cell=0.3)
        _boxes(draft, me, x, z, yaw, [((0.0, -0.08 - height / 2, 0.0), (hx, height / 2, 0.25))])
        _boxes(draft, foot, x, z, yaw, [((0.0, -0.04, 0.0), (hx - 0.04, 0.04, 0.21))])

    return Piece(f"{colour} cupboard", math.hypot(hx, 0.25), place, against_wall=True, back=0.25)


def crate(rng: random.Random) -> Piece:
    """A turned cube with a sphere on it."""
    colour, ball, half = rng.choice(_BRIGHT), rng.choice(_BRIGHT), rng.uniform(0.2, 0.32)
    turn = rng.uniform(0.2, 1.3)

    def place(draft: Draft, x: float, z: float, yaw: float) -> None:
        _boxes(draft, draft.add("crate", colour, cell=0.2), x, z, yaw + turn, [((0.0, -half, 0.0), (half, half, half))])
        draft.sphere(draft.add("globe", ball, cell=0.1), (x, -2 * half - 0.14, z), 0.14)

    return Piece(f"{colour} crate with {article(ball)} globe on it", half * math.sqrt(2), place)


def column(rng: random.Random) -> Piece:
    """A round pedestal with a plate and a sphere."""
    colour, radius = rng.choice(("white", "sand", "terracotta", "grey")), rng.uniform(0.13, 0.2)
    height = rng.uniform(0.8, 1.2)

    def place(draft: Draft, x: float, z: float, yaw: float) -> None:
        me = draft.add("pedestal", colour, cell=0.2)
        draft.cylinder(me, (x, -height / 2, z), radius, height / 2)
        draft.cylinder(me, (x, -height - 0.03, z), radius + 0.06, 0.03)
        draft.sphere(draft.add("bust", "white", cell=0.3), (x, -height - 0.06 - 0.16, z), 0.16)

    return Piece(f"{colour} pedestal", radius + 0.06, place)


def plant(rng: random.Random) -> Piece:
    """A pot, a stem and a round crown."""
    pot, crown = rng.choice(("terracotta", "white", "blue", "yellow")), rng.uniform(0.26, 0.36)

    def place(draft: Draft, x: float, z: float, yaw: float) -> None:
        draft.cylinder(draft.add("pot", pot, cell=0.15), (x, -0.19, z), 0.17, 0.19)
        draft.cylinder(draft.add("stem", "brown", cell=0.2), (x, -0.6, z), 0.03, 0.25)
        draft.sphere(draft.add("crown", "green", cell=0.2), (x, -0.8 - crown, z), crown)

    return Piece(f"plant in a {pot} pot", crown, place)


def shelf(rng: random.Random) -> Piece:
    """Two sides and four boards with a few coloured boxes."""
    colour, hx = rng.choice(_WOOD), rng.uniform(0.4, 0.55)
    books = [(rng.choice(_BRIGHT), board, rng.uniform(-0.6, 0.6)) for board in (0, 1, 2)]

    def place(draft: Draft, x: float, z: float, yaw: float) -> None:
        me = draft.add("shelf", colour, cell=0.3)
        boards = [((0.0, -0.06 - 0.45 * i, 0.0), (hx - 0.03, 0.02, 0.16)) for i in range(4)]
        sides = [((s * (hx - 0.02), -0.75, 0.0), (0.02, 0.75, 0.17)) for s in (1, -1)]
        _boxes(draft, me, x, z, yaw, boards + sides)
        for paint, board, at in books:
            item = draft.add("box on a shelf", paint, cell=0.1)
            _boxes(draft, item, x, z, yaw, [((at * (hx - 0.2), -0.21 - 0.45 * board, 0.0), (0.13, 0.13, 0.1))])

    return Piece(f"{colour} shelf", math.hypot(hx, 0.17), place, against_wall=True, back=0.17)


def lamp(rng: random.Random) -> Piece:
    """A thin pole with a wide shade."""
    colour = rng.choice(("yellow", "orange", "white", "teal"))

    def place(draft: Draft, x: float, z: float, yaw: float) -> None:
        draft.cylinder(draft.add("pole", "grey", cell=0.3), (x, -0.75, z), 0.025, 0.72)
        draft.cylinder(draft.add("foot of a lamp", "grey", cell=0.3), (x, -0.015, z), 0.16, 0.015)
        draft.cylinder(draft.add("lamp shade", colour, cell=0.1), (x, -1.6, z), 0.22, 0.15)

    return Piece(f"{colour} floor lamp", 0.25, place)


def hang_picture(draft: Draft, room: Room, rng: random.Random) -> None:
    """A framed picture on the wall at the low-z side, which has no doorway."""
    x, half = rng.uniform(room.x0 + 1.0, room.x1 - 1.0), rng.uniform(0.3, 0.5)
    frame, canvas = draft.add("frame", "walnut", cell=0.4), draft.add("picture", rng.choice(_BRIGHT), cell=0.18)
    draft.box(frame, (x, -1.65, room.z0 + 0.012), (half + 0.05, 0.35, 0.012))
    draft.box(canvas, (x, -1.65, room.z0 + 0.018), (half, 0.30, 0.018))
    room.holds.append("picture")


def _boxes(draft: Draft, owner: int, x: float, z: float, yaw: float, parts: list[tuple[Vector, Vector]]) -> None:
    """Boxes given in the thing's own axes, turned by `yaw` and moved to (x, z)."""
    c, s = math.cos(yaw), math.sin(yaw)
    quarter = abs(yaw / (math.pi / 2) - round(yaw / (math.pi / 2))) < 1e-9
    for (px, py, pz), (hx, hy, hz) in parts:
        center = (x + c * px + s * pz, py, z - s * px + c * pz)
        if quarter:  # stays axis-aligned, which is cheaper to meet
            half = (hx, hy, hz) if round(yaw / (math.pi / 2)) % 2 == 0 else (hz, hy, hx)
            draft.box(owner, center, half)
        else:
            draft.box(owner, center, (hx, hy, hz), yaw)


PIECES: tuple[Callable[[random.Random], Piece], ...] = (sofa, table, cupboard, crate, column, plant, shelf, lamp)
