"""Scenes: reproducible, consistent between views and sizes, without pixel-scale noise; only what should move moves."""

import math
import re

import pytest
import torch

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import pixel_centers
from mosaicmem.worlds import make_scene
from mosaicmem.worlds.primitives import BOUNCE, LIFT, STILL, SWING, clearance

F64 = torch.float64
SEEDS = [0, 1, 2, 5, 8]


def test_the_same_seed_gives_the_same_bits_and_another_another_world():
    a, b, other = make_scene(4), make_scene(4), make_scene(5)
    for name in vars(a.solids):
        assert torch.equal(getattr(a.solids, name), getattr(b.solids, name))
    assert a.caption == b.caption != other.caption
    cameras = a.walk(1, 2, width=40, height=30)
    assert torch.equal(a.render(cameras, 0.5).rgb, b.render(b.walk(1, 2, width=40, height=30), 0.5).rgb)


def test_depth_is_distance_times_cosine_and_points_lie_on_surfaces():
    scene = make_scene(2)
    camera = scene.random_cameras(1, torch.Generator().manual_seed(1), 24, 18).to(dtype=F64)
    seen = scene.render(camera, 0.3)
    uv = pixel_centers(24, 18, dtype=F64).view(1, -1, 2)
    rays = camera.unproject(uv, torch.ones(1, uv.shape[1], dtype=F64))[0] - camera.centers
    unit = torch.nn.functional.normalize(rays, dim=-1)
    hits = scene.cast(camera.centers.expand_as(unit), unit, 0.3)
    z = hits.t * (unit @ camera.forward[0])
    assert torch.allclose(seen.depth.view(-1), torch.where(z.isfinite(), z, torch.zeros_like(z)), atol=1e-10)
    assert torch.equal(seen.object_id.view(-1), hits.object_id)
    points = camera.unproject(uv, seen.depth.view(1, -1))[0][hits.object_id > 0]
    assert clearance(scene.solids.moved(0.3), points).max() < 1e-9


def test_two_views_agree_on_the_world_point_they_share():
    scene = make_scene(3, movers=False)
    cameras = scene.walk(0, 80, width=48, height=36).to(dtype=F64)[[4, 6]]
    seen = scene.render(cameras)
    uv = pixel_centers(48, 36, dtype=F64).view(1, -1, 2)
    points = cameras[0].unproject(uv, seen.depth[:1].flatten(1))
    to, _, inside = cameras[1].project(points)
    rays = points[0] - cameras[1].centers
    t = scene.cast(cameras[1].centers.expand_as(rays), rays).t
    visible = inside[0] & (seen.depth[0].flatten() > 0) & ((t - 1).abs() < 1e-6)
    assert visible.float().mean() > 0.3
    assert (t[inside[0]] < 1 + 1e-6).all()  # nothing is seen through
    # the picture at the landing pixel shows the same object, away from silhouettes
    column, row = to[0].long().clamp(min=0).unbind(-1)
    ids = seen.object_id[1][row.clamp(max=35), column.clamp(max=47)]
    assert (ids == seen.object_id[0].flatten())[visible].float().mean() > 0.9


def test_sizes_agree_at_shared_pixel_centres():
    scene = make_scene(1)
    small = scene.walk(3, 3, width=32, height=24)
    large = small.resized(96, 72)  # every centre of the small image is a centre of one three times as large
    a, b = scene.render(small), scene.render(large)
    shared = (slice(None), slice(1, None, 3), slice(1, None, 3))
    assert (a.object_id == b.object_id[shared]).float().mean() > 0.998
    same = a.object_id == b.object_id[shared]
    assert torch.allclose(a.depth[same], b.depth[shared][same], rtol=1e-4)
    difference = (a.rgb - b.rgb[:, :, 1::3, 1::3]).abs().amax(1)[same]
    assert difference.mean() < 0.02  # only the footprint of the patterns differs


def test_mean_colour_of_each_object_survives_a_change_of_size():
    scene = make_scene(0, texture="checker")
    cameras = scene.walk(0, 2, width=40, height=30)
    a, b = scene.render(cameras, supersample=2), scene.render(cameras.resized(120, 90))
    for name in set(a.object_id.unique().tolist()):
        here, there = a.object_id == name, b.object_id == name
        if here.sum() >= 60:
            first, second = (r.rgb.movedim(1, -1)[m].mean(0) for r, m in ((a, here), (b, there)))
            assert (first - second).abs().max() < 0.08, scene.names[name]


@pytest.mark.parametrize("texture", ["smooth", "checker", "stripes"])
def test_patterns_are_filtered_before_they_are_sampled(texture):
    scene = make_scene(6, movers=False, texture=texture)
    cameras = scene.walk(2, 3, width=48, height=36)
    plain, fine = scene.render(cameras), scene.render(cameras, supersample=4)
    inner = _inside_of_surfaces(plain)
    error = (plain.rgb - fine.rgb).abs().mean(1)[inner]
    assert inner.float().mean() > 0.3
    assert error.mean() < 0.012
    assert error.quantile(0.99) < 0.12


def test_without_the_filter_the_bound_is_broken():
    scene = make_scene(6, movers=False, texture="checker")
    cameras = scene.walk(2, 3, width=48, height=36)
    plain, fine = scene.render(cameras), scene.render(cameras, supersample=4)
    uv = pixel_centers(48, 36).view(1, -1, 2).expand(3, -1, 2)
    rays = cameras.unproject(uv, torch.ones(3, 48 * 36)) - cameras.centers[:, None]
    origins = cameras.centers[:, None].expand_as(rays)
    raw = scene.cast(origins.flatten(0, 1), rays.flatten(0, 1)).rgb.view(3, 36, 48, 3).permute(0, 3, 1, 2)
    inner = _inside_of_surfaces(plain)
    assert (raw - fine.rgb).abs().mean(1)[inner].mean() > 2 * (plain.rgb - fine.rgb).abs().mean(1)[inner].mean()


def test_moving_things_move_by_their_law_and_nothing_else_does():
    kinds = set()
    for seed in range(12):
        solids = make_scene(seed).solids
        now, later = solids.moved(0.0), solids.moved(1.3)
        still = solids.law == STILL
        assert torch.equal(now.center[still], solids.center[still]) and torch.equal(
            later.center[still], now.center[still]
        )
        assert torch.equal(later.yaw[still], now.yaw[still])
        for i in (~still).nonzero().flatten().tolist():
            law, (a, b, c, d) = int(solids.law[i]), solids.law_params[i].tolist()
            kinds.add(law)
            moved = (later.center[i] - solids.center[i]).tolist()
            s = (1.3 / b + c) % 1.0 if law != SWING else 0.0
            if law == BOUNCE:
                assert moved == pytest.approx([0, -a * (1 - (2 * s - 1) ** 2), 0])
                # free fall: the second difference of height is g
                y = [
                    float(solids.moved(t).center[i, 1])
                    for t in ((0.4 - c) % 1 * b, ((0.4 - c) % 1) * b + 0.01, ((0.4 - c) % 1) * b + 0.02)
                ]
                assert (y[0] - 2 * y[1] + y[2]) / 1e-4 == pytest.approx(9.81, rel=1e-6)
            elif law == LIFT:
                assert moved == pytest.approx([0, -a * (1 - math.cos(2 * math.pi * s)) / 2, 0])
            else:
                hinge = [_hinge(m, i, d) for m in (now, later, solids.moved(9.0))]
                assert hinge[1] == pytest.approx(hinge[0]) and hinge[2] == pytest.approx(hinge[0])
                assert float(solids.moved(b + c).yaw[i]) == pytest.approx(float(solids.yaw[i]) + a)
    assert kinds == {BOUNCE, LIFT, SWING}


def test_only_what_moves_changes_the_picture_geometry():
    scene = make_scene(2)
    cameras = scene.walk(0, 2, width=48, height=36)
    a, b = scene.render(cameras, 0.0), scene.render(cameras, 0.25)
    movers = set(scene.solids.object_id[scene.solids.law != STILL].tolist())
    changed = a.depth != b.depth
    touched = torch.tensor(
        [
            [x in movers or y in movers for x, y in zip(a.object_id[m].tolist(), b.object_id[m].tolist())]
            for m in [changed]
        ]
    )
    assert touched.all()


def test_a_light_that_goes_out_darkens_its_room():
    seed = next(s for s in range(30) if "goes out" in make_scene(s).caption)
    scene = make_scene(seed)
    room = int(scene.lights.out_at.isfinite().nonzero()[0])
    eye = (scene.room_lo[room] + scene.room_hi[room])[None] / 2
    down = torch.tensor([[0.01, 1.0, 0.0]], dtype=F64)
    before, after = (scene.cast(eye, down, t).rgb.mean() for t in (0.0, 9.0))
    assert after < before - 0.2


def test_a_time_per_camera():
    scene = make_scene(0)
    camera = scene.walk(0, 2, width=24, height=18)[0]
    both = scene.render(Cameras.cat([camera, camera]), torch.tensor([0.0, 0.3]))
    assert torch.equal(both.rgb[1], scene.render(camera, 0.3).rgb[0])
    assert not torch.equal(both.rgb[0], both.rgb[1])


@pytest.mark.parametrize("seed", range(8))
def test_captions_say_what_is_there(seed):
    scene = make_scene(seed, rooms=2 + seed % 2)
    for name in ("sofa", "table", "cupboard", "crate", "pedestal", "plant", "shelf", "lamp"):
        parts = {"plant": "crown", "lamp": "lamp shade"}
        there = sum(n == parts.get(name, name) for n in scene.names)
        assert len(re.findall(rf"\b{name}\b", scene.caption)) == there
    for law, word in ((BOUNCE, "bounces"), (LIFT, "goes up and down"), (SWING, "door to the outside opens")):
        assert scene.caption.count(word) == len(scene.solids.object_id[scene.solids.law == law].unique())
    assert ("goes out" in scene.caption) == bool(scene.lights.out_at.isfinite().any())
    assert not re.search(r"\b[Aa] [aeiou]", scene.caption)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_solid_has_a_name_and_no_object_overlaps_the_way(seed):
    scene = make_scene(seed, rooms=3)
    assert int(scene.solids.object_id.max()) == len(scene.names) - 1 == len(scene.materials.colour) - 1
    along = torch.linspace(0, 1, 50, dtype=F64)[:, None]
    way = torch.cat([a + along * (b - a) for a, b in zip(scene.waypoints, scene.waypoints[1:])])
    points = torch.stack([way[:, 0], torch.full_like(way[:, 0], -1.0), way[:, 1]], -1)
    assert scene.is_free(points, 0.3).all()


def test_free_space_knows_walls_furniture_and_what_moves():
    scene = make_scene(0)
    i = int((scene.solids.law == BOUNCE).nonzero()[0])
    ball = scene.solids.moved(0.0).center[i]
    points = torch.stack([ball, ball, scene.room_lo[0] - 0.05, torch.tensor([0.0, -1.0, 40.0], dtype=F64)])
    assert not scene.is_free(points, 0.0).any()
    gone = float(scene.solids.law_params[i, 1]) / 2
    assert bool(scene.is_free(ball[None], 0.0, time=gone)) or float(scene.solids.law_params[i, 0]) < 0.3


def test_bad_requests_are_explained():
    scene = make_scene(0)
    with pytest.raises(ConfigError, match="rooms = 0; expected 1 to 8"):
        make_scene(0, rooms=0)
    with pytest.raises(Exception, match="plaid"):  # the type check or ours, whichever is on
        make_scene(0, texture="plaid")  # pyright: ignore[reportArgumentType]
    with pytest.raises(GeometryError, match="supersample 0"):
        scene.render(scene.walk(0, 2), supersample=0)
    with pytest.raises(GeometryError, match="3 times for 2 cameras"):
        scene.render(scene.walk(0, 2), torch.zeros(3))
    with pytest.raises(GeometryError, match="direction"):
        scene.cast(torch.zeros(1, 3), torch.zeros(1, 3))


def _hinge(solids, i: int, local_x: float) -> list[float]:
    c, s = math.cos(float(solids.yaw[i])), math.sin(float(solids.yaw[i]))
    return [float(solids.center[i, 0]) + c * local_x, float(solids.center[i, 2]) - s * local_x]


def _inside_of_surfaces(seen) -> torch.Tensor:
    """Pixels whose 3x3 neighbourhood shows one object under one normal and a smooth depth."""
    key = torch.cat([seen.object_id[:, None].float(), (seen.normal * 7).round()], 1)
    spread = torch.nn.functional.max_pool2d(key, 3, 1, 1) + torch.nn.functional.max_pool2d(-key, 3, 1, 1)
    return (spread.abs().amax(1) < 0.5) & (seen.object_id > 0)
