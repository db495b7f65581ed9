"""Rays against closed forms, against implicit equations and against a slow twin; clearance; laws of motion."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mosaicmem.worlds import make_scene
from mosaicmem.worlds.primitives import BOX, CYLINDER, SPHERE, STILL, Solids, clearance, intersect, normals_at
from mosaicmem.worlds.reference import cast_one

F64 = torch.float64


def solid(kind, center, size, yaw=0.0) -> Solids:
    return Solids(
        torch.tensor([kind]),
        torch.tensor([center], dtype=F64),
        torch.tensor([size], dtype=F64),
        torch.tensor([yaw], dtype=F64),
        torch.zeros(1, 3, dtype=F64),
        torch.tensor([1]),
        torch.tensor([STILL]),
        torch.zeros(1, 4, dtype=F64),
    )


def cast(solids, origin, direction):
    o, d = torch.tensor([origin], dtype=F64), torch.tensor([direction], dtype=F64)
    t, index = intersect(solids, o, d)
    normal, _, _ = normals_at(solids.select(index), o + t[:, None] * d)
    return float(t), normal[0].tolist()


S = math.sqrt(0.5)


@pytest.mark.parametrize(
    ("thing", "origin", "direction", "t", "normal"),
    [
        (solid(BOX, (0, 0, 0), (50, 1e-3, 50)), (0, -2, 0), (0, 0.6, 0.8), (2 - 1e-3) / 0.6, (0, -1, 0)),  # a plane
        (solid(BOX, (0, 0, 5), (1, 1, 1)), (0.3, 0.2, 0), (0, 0, 1), 4, (0, 0, -1)),
        (solid(BOX, (0, 0, 5), (1, 1, 1)), (0.3, 0.2, 0), (0, 0, 2), 2, (0, 0, -1)),  # not a unit direction
        (solid(BOX, (0, 0, 5), (1, 1, 1), math.pi / 4), (0.1, 0, 0), (0, 0, 1), 5 - math.sqrt(2) + 0.1, (S, 0, -S)),
        (solid(SPHERE, (0, 0, 5), (2, 2, 2)), (0, 0, 0), (0, 0, 1), 3, (0, 0, -1)),
        (solid(SPHERE, (0, 0, 5), (2, 2, 2)), (1, 0, 0), (0, 0, 1), 5 - math.sqrt(3), (0.5, 0, -math.sqrt(3) / 2)),
        (solid(CYLINDER, (0, 0, 5), (1, 2, 1)), (0.6, 1, 0), (0, 0, 1), 4.2, (0.6, 0, -0.8)),
        (solid(CYLINDER, (0, 0, 5), (1, 2, 1)), (0.5, -7, 5), (0, 1, 0), 5, (0, -1, 0)),  # its cap
        (solid(CYLINDER, (0, 0, 0), (1, 2, 1)), (0, 0, 0), (1, 0, 0), 1, (1, 0, 0)),  # from inside: the far side
        (solid(SPHERE, (0, 0, 0), (1, 1, 1)), (0, 0, 0), (0, 1, 0), 1, (0, 1, 0)),
    ],
)
def test_closed_forms(thing, origin, direction, t, normal):
    found, found_normal = cast(thing, origin, direction)
    assert found == pytest.approx(t, abs=1e-12)
    assert found_normal == pytest.approx(normal, abs=1e-12)


@pytest.mark.parametrize("kind", [BOX, SPHERE, CYLINDER])
def test_rays_that_pass_by_or_look_away_meet_nothing(kind):
    thing = solid(kind, (0, 0, 5), (1, 1, 1))
    assert cast(thing, (1.01, 0, 0), (0, 0, 1))[0] == math.inf
    assert cast(thing, (0, 0, 0), (0, 0, -1))[0] == math.inf
    assert cast(thing, (0.99, 0, 0), (0, 0, 1))[0] < math.inf


@given(st.sampled_from([BOX, SPHERE, CYLINDER]), st.integers(0, 2**31), st.floats(-3.0, 3.0))
def test_hits_lie_on_the_surface_and_nothing_lies_before_them(kind, seed, yaw):
    g = torch.Generator().manual_seed(seed)
    thing = solid(kind, (0.3, -0.2, 0.5), (0.7, 0.7 if kind == SPHERE else 0.4, 0.7), yaw if kind == BOX else 0.0)
    aim = thing.center + 0.6 * (torch.rand(64, 3, generator=g, dtype=F64) - 0.5)
    o = 4 * torch.nn.functional.normalize(torch.randn(64, 3, generator=g, dtype=F64), dim=-1)
    t, _ = intersect(thing, o, aim - o)
    assert t.isfinite().all()
    assert clearance(thing, o + t[:, None] * (aim - o)).max() < 1e-12
    for share in (0.2, 0.7, 0.999):
        assert (clearance(thing, o + share * t[:, None] * (aim - o)) > 0).all()


@pytest.mark.parametrize("seed", [0, 3, 11])
def test_the_slow_twin_agrees(seed):
    scene = make_scene(seed)
    solids = scene.solids.moved(0.7)
    g = torch.Generator().manual_seed(seed)
    o = scene.random_cameras(40, g).centers.double()
    d = torch.randn(40, 3, generator=g, dtype=F64)
    hits = scene.cast(o, d, time=0.7)
    for i in range(len(o)):
        t, object_id, normal = cast_one(solids, o[i].tolist(), d[i].tolist())
        assert float(hits.t[i]) == pytest.approx(t, abs=1e-9)
        assert int(hits.object_id[i]) == object_id
        assert hits.normal[i].tolist() == pytest.approx(normal, abs=1e-9)


def test_float32_stays_near_float64():
    scene = make_scene(1)
    cameras = scene.walk(0, 2, width=32, height=24)
    narrow, wide = scene.render(cameras), scene.render(cameras.to(dtype=F64))
    same = narrow.object_id == wide.object_id
    assert same.float().mean() > 0.999
    assert ((narrow.depth - wide.depth).abs() / wide.depth.clamp(min=1))[same].max() < 2e-5


def test_clearance_is_zero_inside_and_exact_outside():
    points = torch.tensor([[0.0, 0, 5], [4, 0, 5], [4, 5, 5]], dtype=F64)
    assert clearance(solid(BOX, (0, 0, 5), (1, 1, 1)), points).tolist() == [0, 3, 5]
    assert clearance(solid(SPHERE, (0, 0, 5), (1, 1, 1)), points).tolist() == pytest.approx([0, 3, 41**0.5 - 1])
    assert clearance(solid(CYLINDER, (0, 0, 5), (1, 1, 1)), points).tolist() == pytest.approx([0, 3, 5])
