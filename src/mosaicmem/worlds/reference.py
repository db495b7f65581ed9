"""The ray-caster said again: one ray, one solid, plain floats. Slow and obvious; the fast one is tested against it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mosaicmem.worlds.primitives import BOX, MIN_T, SPHERE, Solids

Vector = tuple[float, float, float]


def cast_one(solids: Solids, origin: Sequence[float], direction: Sequence[float]) -> tuple[float, int, Vector]:
    """First crossing of one ray beyond `MIN_T`: `t` (inf for none), object id (0 for none), outward unit normal."""
    best: tuple[float, int, Vector] = (math.inf, 0, (0.0, 0.0, 0.0))
    for i in range(len(solids)):
        yaw = float(solids.yaw[i])
        shift = [origin[k] - float(solids.center[i, k]) for k in range(3)]
        o, d = _unturn(shift, yaw), _unturn(direction, yaw)
        size = [float(v) for v in solids.size[i]]
        kind = int(solids.kind[i])
        meet = _box if kind == BOX else _sphere if kind == SPHERE else _cylinder
        for t, normal in meet(o, d, size):
            if MIN_T < t < best[0]:
                best = (t, int(solids.object_id[i]), _unturn(normal, -yaw))
    return best


def _unturn(v: Sequence[float], yaw: float) -> Vector:
    c, s = math.cos(yaw), math.sin(yaw)
    return (c * v[0] - s * v[2], v[1], s * v[0] + c * v[2])


def _box(o: Vector, d: Vector, half: list[float]) -> list[tuple[float, Vector]]:
    """Crossings with each of the six faces that lie within the face."""
    found = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            if d[axis] == 0:
                continue
            t = (sign * half[axis] - o[axis]) / d[axis]
            p = [o[k] + t * d[k] for k in range(3)]
            if all(abs(p[k]) <= half[k] for k in range(3) if k != axis):
                found.append((t, (sign * (axis == 0), sign * (axis == 1), sign * (axis == 2))))
    return found


def _quadratic(a: float, b: float, c: float) -> list[float]:
    inside = b * b - 4 * a * c
    if a == 0 or inside < 0:
        return []
    return [(-b - math.sqrt(inside)) / (2 * a), (-b + math.sqrt(inside)) / (2 * a)]


def _sphere(o: Vector, d: Vector, size: list[float]) -> list[tuple[float, Vector]]:
    r = size[0]
    a, b = sum(x * x for x in d), 2 * sum(x * y for x, y in zip(o, d, strict=True))
    points = [(t, [o[k] + t * d[k] for k in range(3)]) for t in _quadratic(a, b, sum(x * x for x in o) - r * r)]
    return [(t, (p[0] / r, p[1] / r, p[2] / r)) for t, p in points]


def _cylinder(o: Vector, d: Vector, size: list[float]) -> list[tuple[float, Vector]]:
    r, h = size[0], size[1]
    found: list[tuple[float, Vector]] = []
    for t in _quadratic(d[0] ** 2 + d[2] ** 2, 2 * (o[0] * d[0] + o[2] * d[2]), o[0] ** 2 + o[2] ** 2 - r * r):
        if abs(o[1] + t * d[1]) <= h:
            found.append((t, ((o[0] + t * d[0]) / r, 0.0, (o[2] + t * d[2]) / r)))
    for sign in (-1.0, 1.0):
        if d[1] != 0:
            t = (sign * h - o[1]) / d[1]
            if math.hypot(o[0] + t * d[0], o[2] + t * d[2]) <= r:
                found.append((t, (0.0, sign, 0.0)))
    return found
