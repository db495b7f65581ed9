"""Film against its slow twin `Scene.render`: the same geometry, the same colours where no edge is, smooth edges."""

from __future__ import annotations

import pytest
import torch

from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.worlds import make_scene
from mosaicmem.worlds.film import film
from mosaicmem.worlds.scene import Scene

F64 = torch.float64


def views(seed: int, size: tuple[int, int] = (48, 36), **scene_options) -> tuple[Scene, Cameras]:
    scene = make_scene(seed, **scene_options)
    return scene, scene.walk(seed, 30, width=size[0], height=size[1]).to(dtype=F64)[[3, 17]]


def flat(object_id: torch.Tensor, normal: torch.Tensor) -> torch.Tensor:
    """Pixels whose 3x3 neighbourhood is one surface."""
    same = torch.ones_like(object_id, dtype=torch.bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            shift = {"shifts": (dy, dx), "dims": (-2, -1)}
            same &= torch.roll(object_id, **shift) == object_id
            same &= (torch.roll(normal, **shift) - normal).abs().amax(1) < 1e-3
    same[:, 0] = same[:, -1] = False
    same[:, :, 0] = same[:, :, -1] = False
    return same


@pytest.mark.parametrize("seed", [0, 3, 7])
@pytest.mark.parametrize("time", [0.0, 1.3])
def test_geometry_is_that_of_the_slow_twin(seed, time):
    scene, cameras = views(seed)
    fast, slow = film(scene, cameras, time), scene.render(cameras, time)
    agree = fast.object_id == slow.object_id
    assert agree.float().mean() > 0.999  # a ray along an edge may fall to either side
    assert torch.allclose(fast.depth[agree].double(), slow.depth[agree], rtol=1e-5, atol=1e-5)
    assert ((fast.normal - slow.normal).abs().amax(1)[agree] < 1e-4).float().mean() > 0.999


@pytest.mark.parametrize(
    ("seed", "options"), [(0, {}), (3, {"texture": "checker"}), (5, {"walls": "vivid", "rooms": 2})]
)
def test_colour_is_that_of_the_slow_twin_where_no_edge_is(seed, options):
    scene, cameras = views(seed, **options)
    fast, slow = film(scene, cameras, 0.4), scene.render(cameras, 0.4)
    inside = flat(slow.object_id, slow.normal)
    assert inside.float().mean() > 0.5
    difference = (fast.rgb - slow.rgb).abs().amax(1)
    assert difference[inside].max() < 2e-3
    assert (difference[inside] < 1e-5).float().mean() > 0.98
    assert difference[~inside].max() > 0.05  # control: at edges they do differ


def test_edges_are_the_mean_of_many_rays():
    """Against 8x8 rays a pixel, film is much nearer than one ray a pixel, and nearer the finer it is."""
    scene, cameras = views(2, movers=False)
    truth = scene.render(cameras, supersample=8)
    seen = scene.render(cameras)
    edge = ~flat(seen.object_id, seen.normal)
    errors = [float((film(scene, cameras, finer=f).rgb - truth.rgb).abs().amax(1)[edge].mean()) for f in (1, 2, 4)]
    one_ray = float((seen.rgb - truth.rgb).abs().amax(1)[edge].mean())
    assert errors[0] == pytest.approx(one_ray, rel=1e-2)
    assert errors[1] < 0.7 * errors[0] and errors[2] < 0.7 * errors[1]


def test_one_time_a_camera_and_bits_repeat():
    scene, cameras = views(1)
    both = film(scene, cameras, torch.tensor([0.0, 1.0]))
    assert torch.equal(both.rgb[0], film(scene, cameras[:1], 0.0).rgb[0])
    assert torch.equal(both.rgb[1], film(scene, cameras[1:], 1.0).rgb[0])
    assert both.rgb.dtype == both.depth.dtype == torch.float32 and both.object_id.dtype == torch.int64
    assert both.rgb.abs().max() <= 1


@pytest.mark.parametrize("bad", [{"time": torch.zeros(3)}, {"finer": 0}])
def test_what_does_not_fit_is_refused(bad):
    scene, cameras = views(0)
    with pytest.raises(GeometryError):
        film(scene, cameras, **bad)
