"""What imports are made of: lenses, depth files, and depth from a few points, each against a closed form."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.io.imports.foreign import exr

from mosaicmem.errors import InputError
from mosaicmem.io.imports.depth_files import read_depth
from mosaicmem.io.imports.lens import Lens
from mosaicmem.io.imports.sparse import dense_depth, sparse_depth, unhidden

W, H = 48, 40
LENS = {"fx": 40.0, "fy": 42.0, "cx": 23.0, "cy": 21.0, "width": W, "height": H}
BENT = {"opencv": ((-0.25, 0.05, 0.008, -0.012), False), "fisheye": ((-0.05, -0.02, 0.004, 0.001), True)}


def shown_through(lens: Lens, ray: np.ndarray) -> np.ndarray:
    """Pixels `[... 2]` that a lens shows of rays `x/z, y/z`, as OpenCV's documents have it."""
    x, y = ray[..., 0], ray[..., 1]
    r = np.hypot(x, y)
    a, b, c, d = lens.distortion
    if lens.fisheye:
        t = np.arctan(r)
        scale = t * (1 + a * t**2 + b * t**4 + c * t**6 + d * t**8) / np.maximum(r, 1e-12)
        bent = np.stack([x * scale, y * scale], -1)
    else:
        radial = 1 + a * r**2 + b * r**4
        bent = np.stack(
            [
                x * radial + 2 * c * x * y + d * (r**2 + 2 * x**2),
                y * radial + c * (r**2 + 2 * y**2) + 2 * d * x * y,
            ],
            -1,
        )
    return bent * [lens.fx, lens.fy] + [lens.cx, lens.cy]


def rays_of_pixels(lens: Lens) -> np.ndarray:
    """The ray behind the centre of each pixel of the bent picture, by fixed-point iteration."""
    v, u = np.mgrid[:H, :W] + 0.5
    target = np.stack([u, v], -1)
    ray = (target - [lens.cx, lens.cy]) / [lens.fx, lens.fy]
    for _ in range(60):
        ray = ray + (target - shown_through(lens, ray)) / [lens.fx, lens.fy]
    return ray


@pytest.mark.parametrize("kind", BENT)
def test_a_picture_without_its_distortion_shows_straight_rays(kind: str) -> None:
    """Colour is a linear function of the ray: then the pinhole picture is linear in the pixel."""
    distortion, fisheye = BENT[kind]
    lens = Lens(**LENS, distortion=distortion, fisheye=fisheye)
    bent = np.repeat((128 + 120 * rays_of_pixels(lens)[..., :1]).clip(0, 255).round(), 3, -1).astype(np.uint8)
    straight = lens.picture(bent, W, H)
    u = (np.arange(W) + 0.5 - lens.cx) / lens.fx
    expected = np.broadcast_to(128 + 120 * u, (H, W))
    inner = np.s_[6:-6, 6:-6]
    assert np.abs(straight[..., 0][inner] - expected[inner]).max() < 2.5
    assert np.abs(bent[..., 0][inner] - expected[inner]).max() > 6, "the test would pass without a lens"
    assert lens.picture(bent, W // 2, H // 2).shape == (H // 2, W // 2, 3)


@pytest.mark.parametrize("kind", BENT)
def test_depth_is_looked_up_at_the_nearest_pixel(kind: str) -> None:
    distortion, fisheye = BENT[kind]
    lens = Lens(**LENS, distortion=distortion, fisheye=fisheye)
    bent = (2 + rays_of_pixels(lens)[..., 1]).astype(np.float32)
    straight = np.asarray(lens.nearest(bent, W, H), np.float64)
    v = (np.arange(H) + 0.5 - lens.cy) / lens.fy
    inner = np.s_[6:-6, 6:-6]
    assert np.isin(straight[inner].astype(np.float32), bent).all(), (
        "an average of two depths is a point that exists nowhere"
    )
    assert np.abs(straight - (2 + v)[:, None])[inner].max() < 0.7 / lens.fy
    half = np.asarray(lens.nearest(bent[::2, ::2], W, H), np.float64)
    assert np.abs(half - straight)[inner].max() < 2 / lens.fy, "a smaller map of the same shape is as good"


def test_a_pinhole_is_left_alone() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (H, W, 3), dtype=np.uint8)
    lens = Lens(**LENS)
    assert lens.straight and np.array_equal(lens.picture(picture, W, H), picture)
    assert np.array_equal(lens.nearest(picture[..., 0], W, H), picture[..., 0])
    area = picture.reshape(H // 2, 2, W // 2, 2, 3).astype(float).mean((1, 3))
    assert np.abs(lens.picture(picture, W // 2, H // 2) - area).max() <= 1, "rounded once along each axis"


def test_beyond_its_turning_point_a_lens_shows_nothing() -> None:
    lens = Lens(**LENS, distortion=(-0.9, 0.0, 0.0, 0.0))  # x (1 - 0.9 r2) turns at r = 0.61; a corner has 0.76
    found = lens.nearest(np.ones((H, W), np.float32), W, H)
    assert found[H // 2, W // 2] == 1 and found[0, 0] == 0


def scattered(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 2, generator=generator, dtype=torch.float64) * torch.tensor([W, H])


def test_points_of_a_plane_give_the_plane() -> None:
    """Inverse depth of a plane is linear in the picture."""
    uv = scattered(150)
    inverse = 0.3 + 0.002 * uv[:, 0] - 0.003 * uv[:, 1]
    depth = dense_depth(uv, 1 / inverse, W, H)
    v, u = torch.meshgrid(torch.arange(H) + 0.5, torch.arange(W) + 0.5, indexing="ij")
    truth = 1 / (0.3 + 0.002 * u - 0.003 * v)
    known = depth > 0
    assert float(known.float().mean()) > 0.97
    assert float(((depth - truth).abs() / truth)[known].max()) < 0.06
    assert float(((depth - truth).abs() / truth)[known].median()) < 0.002


def test_at_an_edge_depth_is_of_one_side_or_the_other() -> None:
    uv = scattered(200)
    left = uv[:, 0] < W / 2
    depth = dense_depth(uv, torch.where(left, 2.0, 5.0).double(), W, H)
    assert bool((((depth - 2).abs() < 1e-3) | ((depth - 5).abs() < 1e-3))[depth > 0].all())
    assert bool((depth[:, : W // 2 - 6] < 3).all()) and bool(
        (depth[:, W // 2 + 6 :] > 3)[depth[:, W // 2 + 6 :] > 0].all()
    )


def test_beyond_the_reach_of_points_depth_is_unknown() -> None:
    corner = scattered(60) * 0.25
    depth = dense_depth(corner, torch.full((60,), 3.0, dtype=torch.float64), W, H)
    assert bool((depth[: H // 5, : W // 5] > 0).all()) and not bool(depth[H // 2 + 14 :, W // 2 + 14 :].any())
    assert not bool(dense_depth(corner[:0], corner[:0, 0], W, H).any())
    behind = dense_depth(corner, -torch.ones(60, dtype=torch.float64), W, H)
    assert not bool(behind.any())
    coarse = dense_depth(scattered(90), torch.full((90,), 3.0, dtype=torch.float64), W, H, step=5)
    assert coarse.shape == (H, W) and torch.allclose(coarse[coarse > 0], torch.tensor(3.0))


def test_many_points_say_what_few_say_and_cost_no_more() -> None:
    """A point a pixel, one depth a block: the depth at its middle."""
    v, u = torch.meshgrid(torch.arange(H).double() + 0.5, torch.arange(W).double() + 0.5, indexing="ij")
    truth = 1 / (0.3 + 0.002 * u - 0.003 * v)
    depth = dense_depth(torch.stack([u, v], -1).view(-1, 2), truth.view(-1), W, H, step=4)
    assert torch.allclose(depth[2::4, 2::4].double(), truth[2::4, 2::4], rtol=5e-3)
    assert torch.equal(depth[::4, ::4], depth[3::4, 3::4])


def test_points_behind_a_wall_are_hidden_and_its_own_are_not() -> None:
    wall, far = scattered(120, 1), scattered(120, 2)
    slope = 2 + 0.3 * wall[:, 0] / W
    uv, z = torch.cat([wall, far]), torch.cat([slope, torch.full((120,), 6.0, dtype=torch.float64)])
    seen = unhidden(uv, z, W, H)
    assert bool(seen[:120].all()) and float(seen[120:].double().mean()) < 0.1
    assert bool(unhidden(far, z[120:], W, H).all())
    depth = sparse_depth(uv, z, W, H)
    assert int((depth > 0).sum()) <= 240 and float(depth.max()) <= 6.0


def save(path: Path, depth: np.ndarray) -> None:
    if path.suffix == ".png":
        Image.fromarray((depth * 1000).round().astype(np.uint16)).save(path)
    elif path.suffix == ".npy":
        np.save(path, depth)
    elif path.suffix == ".exr":
        path.write_bytes(exr(depth, half=False))
    elif path.suffix == ".pfm":
        path.write_bytes(f"Pf\n{depth.shape[1]} {depth.shape[0]}\n1.0\n".encode() + depth[::-1].astype(">f4").tobytes())
    else:
        path.write_bytes(f"{depth.shape[1]}&{depth.shape[0]}&1&".encode() + depth.astype("<f4").tobytes())


@pytest.mark.parametrize("name", ["d.png", "d.npy", "d.exr", "d.pfm", "d.bin"])
def test_every_kind_of_depth_file_says_the_same(name: str, tmp_path: Path) -> None:
    depth = np.arange(12, dtype=np.float32).reshape(3, 4) / 4
    save(tmp_path / name, depth)
    assert np.allclose(read_depth(tmp_path / name), depth, atol=1e-6)
    assert np.allclose(read_depth(tmp_path / name, 0.5), depth / 2 * (1000 if name == "d.png" else 1), rtol=1e-6)


@pytest.mark.parametrize("name", ["d.npy", "d.exr", "d.pfm", "d.bin"])
def test_what_is_no_depth_is_unknown(name: str, tmp_path: Path) -> None:
    save(tmp_path / name, np.array([[np.nan, np.inf, -1, 2]], np.float32))
    assert read_depth(tmp_path / name).tolist() == [[0, 0, 0, 2]]


@pytest.mark.parametrize("name", ["d.npy", "d.exr", "d.pfm", "d.bin", "d.png", "d.jp2"])
@given(data=st.binary(max_size=40))
def test_damaged_depth_is_named(name: str, tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("d") / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=name):
        read_depth(path)


def test_a_map_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "d.bin").write_bytes(b"9999&9999&1&" + struct.pack("<f", 1))
    with pytest.raises(InputError, match="claims 9999x9999 pixels of 1 channels but holds 4 bytes"):
        read_depth(tmp_path / "d.bin")
