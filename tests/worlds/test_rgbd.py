"""RGB-D folders: each layout from a tiny fixture, hostile files, and a real recording."""

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.helpers import shared_data

from mosaicmem.errors import InputError, MosaicMemError
from mosaicmem.geometry.projection import pixel_centers
from mosaicmem.worlds import RGBDFolder, rgbd

W, H, N = 640, 480, 3
SMALL = (8, 6)
K = (8.0, 8.0, 4.0, 3.0)
POSES = [np.array([[0, 0, 1, i], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]], dtype=float) for i in range(N)]


def picture(i: int, size=SMALL) -> np.ndarray:
    return np.random.default_rng(i).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)


def depth_mm(i: int, size=SMALL) -> np.ndarray:
    depth = np.random.default_rng(100 + i).integers(500, 5000, (size[1], size[0]), dtype=np.uint16)
    depth[0, 0] = 0
    return depth


def redwood(root: Path, size=SMALL) -> Path:
    for i in range(N):
        write(root / "image" / f"{i:05d}.png", picture(i, size))
        write(root / "depth" / f"{i:05d}.png", depth_mm(i, size))
    lines = [f"{i} {i} {i + 1}\n" + "\n".join(" ".join(map(str, r)) for r in p) for i, p in enumerate(POSES)]
    (root / "trajectory.log").write_text("\n".join(lines) + "\n")
    return root


def tum(root: Path) -> Path:
    rgb, depth = ["# colour"], ["# depth"]
    for i in range(N):
        write(root / "rgb" / f"{i}.png", picture(i))
        write(root / "depth" / f"{i}.png", depth_mm(i))
        rgb.append(f"{100 + i / 30:.4f} rgb/{i}.png")
        depth.append(f"{100 + i / 30 + 0.004:.4f} depth/{i}.png")
    rgb.append("999.0 rgb/0.png")  # without a partner in time: left out
    (root / "rgb.txt").write_text("\n".join(rgb))
    (root / "depth.txt").write_text("\n".join(depth))
    rows = [f"{100 + i / 30 - 0.003:.4f} {i} 2 3 0 0.70710678 0 0.70710678" for i in range(N)]
    (root / "groundtruth.txt").write_text("# t\n" + "\n".join(rows))
    return root


def seven_scenes(root: Path) -> Path:
    for i in range(N):
        write(root / f"frame-{i:06d}.color.png", picture(i))
        depth = depth_mm(i)
        depth[1, 1] = 65535
        write(root / f"frame-{i:06d}.depth.png", depth)
        (root / f"frame-{i:06d}.pose.txt").write_text("\n".join("\t".join(map(str, r)) for r in POSES[i]))
    return root


def generic(root: Path) -> Path:
    for i in range(N):
        write(root / "images" / f"frame{i + 8}.png", picture(i))  # 10 must follow 9
        (root / "depth").mkdir(exist_ok=True)
        np.save(root / "depth" / f"frame{i + 8}.npy", depth_mm(i).astype(np.float32) / 1000)
    rows = [f"{5 + i} {i} 2 3 0 0.70710678 0 0.70710678" for i in range(N)]
    (root / "poses.txt").write_text("\n".join(rows))
    return root


def replica(root: Path) -> Path:
    for i in range(N):
        write(root / "results" / f"frame{i:06d}.png", picture(i))
        write(root / "results" / f"depth{i:06d}.png", depth_mm(i))
    (root / "traj.txt").write_text("\n".join(" ".join(map(str, p.flatten())) for p in POSES))
    camera = {"w": 8, "h": 6, "fx": 8.0, "fy": 8.0, "cx": 3.5, "cy": 2.5, "scale": 2000.0}
    (root / "cam_params.json").write_text(json.dumps({"camera": camera}))
    return root


LAYOUTS = {"redwood": redwood, "tum": tum, "seven_scenes": seven_scenes, "replica": replica, "generic": generic}
UNITS = {"redwood": 1000, "tum": 5000, "seven_scenes": 1000, "replica": 2000, "generic": 1000}


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_each_layout_is_recognised_and_read(kind, tmp_path):
    folder = RGBDFolder.open(LAYOUTS[kind](tmp_path), intrinsics=K)
    assert folder.layout.kind == kind and len(folder) == N == len(folder.names)
    assert (folder.cameras.width, folder.cameras.height) == SMALL
    assert torch.allclose(folder.cameras.centers, torch.tensor([[float(i), 2, 3] for i in range(N)]), atol=1e-5)
    assert torch.allclose(folder.cameras.forward, torch.tensor([[1.0, 0, 0]]).expand(N, 3), atol=1e-5)
    assert folder.cameras.Ks[0, 0, 2] == 4 and (folder.timestamps.diff() > 0).all()
    for i in range(N):
        rgb, depth = folder.read(i)
        assert torch.equal(folder.read_pixels(i), torch.from_numpy(picture(i)))
        assert torch.allclose(rgb, torch.from_numpy(picture(i)).permute(2, 0, 1) / 127.5 - 1)
        expected = depth_mm(i).astype(np.float32) / UNITS[kind]
        if kind == "seven_scenes":
            expected[1, 1] = 0
        assert np.allclose(depth.numpy(), expected, rtol=1e-6)


def test_published_intrinsics_are_moved_to_our_pixel_centres(tmp_path):
    folder = RGBDFolder.open(redwood(tmp_path, (W, H)))
    assert torch.equal(folder.cameras.Ks[0], torch.tensor([[525.0, 0, 320], [0, 525, 240], [0, 0, 1]]))


def test_replica_says_its_lens_and_units_beside_the_scenes(tmp_path):
    root = replica(tmp_path / "office0")
    assert torch.equal(RGBDFolder.open(root).cameras.Ks[0], torch.tensor([[8.0, 0, 4], [0, 8, 3], [0, 0, 1]]))
    (root / "cam_params.json").rename(tmp_path / "cam_params.json")
    assert RGBDFolder.open(root).layout.depth_units == 2000
    (tmp_path / "cam_params.json").unlink()
    with pytest.raises(InputError, match="do not fit 8x6 images"):  # the published lens is that of 1200x680
        RGBDFolder.open(root)
    (root / "traj.txt").write_text("1 0 0 0\n")
    with pytest.raises(InputError, match="3 images and 3 depth images in results/, 1 poses"):
        RGBDFolder.open(root)


def test_colour_is_averaged_and_depth_never(tmp_path):
    folder = RGBDFolder.open(redwood(tmp_path), intrinsics=K)
    rgb, depth = folder.read(1, 4, 2)
    full, native = folder.read(1)
    blocks = full.view(3, 2, 3, 4, 2).mean((2, 4))
    assert (rgb - blocks).abs().max() < 1.01 / 127.5
    assert torch.equal(depth, native[1::3][:, 1::2])  # the pixel under each target centre
    assert set(depth.flatten().tolist()) <= set(native.flatten().tolist())
    large = folder.read(1, 24, 18)[1]
    assert torch.equal(large[1::3, 1::3], native)


def test_only_complete_frames_of_a_tracked_camera_are_kept(tmp_path):
    seven_scenes(tmp_path)
    (tmp_path / "frame-000001.pose.txt").write_text(" ".join(["-inf"] * 16))
    folder = RGBDFolder.open(tmp_path, intrinsics=K)
    assert folder.names == ("frame-000000.color.png", "frame-000002.color.png")
    assert folder.timestamps.tolist() == pytest.approx([0, 2 / 30])


def _bomb(path: Path) -> None:
    """A well-formed PNG header that claims 60000x60000 pixels."""
    chunks = [b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"0" * 64)]
    coded = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(coded))


def _nan_depth(root: Path) -> None:
    np.save(root / "depth" / "frame8.npy", np.array([[np.nan, -1, np.inf, 0, 1, 2, 3, 4]] * 6, dtype=np.float32))


def test_depth_that_is_no_depth_becomes_unknown(tmp_path):
    generic(tmp_path)
    _nan_depth(tmp_path)
    _, depth = RGBDFolder.open(tmp_path, intrinsics=K).read(0)
    assert depth[0].tolist() == [0, 0, 0, 0, 1, 2, 3, 4]


BREAKAGES = {
    "missing image": (lambda r: (r / "image/00001.png").unlink(), "2 images in image/, 3 in depth/ and 3 poses"),
    "missing pose": (lambda r: (r / "trajectory.log").write_text(_first_poses(r, 2)), "3 images.*2 poses"),
    "garbage image": (lambda r: (r / "image/00001.png").write_bytes(b"\x89PNG garbage"), "00001.png.*image"),
    "truncated": (lambda r: _truncate(r / "image/00001.png"), "00001.png.*image"),
    "truncated depth": (lambda r: _truncate(r / "depth/00001.png"), "00001.png.*image"),
    "huge": (lambda r: _bomb(r / "image/00001.png"), "claims 3,600,000,000 pixels, expected at most"),
    "other size": (lambda r: write(r / "image/00001.png", picture(1, (4, 4))), "4x4 pixels, expected 8x6"),
    "depth size": (lambda r: write(r / "depth/00001.png", depth_mm(1, (4, 4))), "4x4 pixels, expected 8x6"),
    "colour as depth": (lambda r: write(r / "depth/00001.png", picture(1)), "single-channel"),
    "garbage poses": (lambda r: (r / "trajectory.log").write_text("hello\n" * 15), "trajectory.log"),
    "no poses": (lambda r: (r / "trajectory.log").unlink(), "no trajectory file"),
    "NaN pose": (lambda r: (r / "trajectory.log").write_text(_first_poses(r, 3).replace("2", "nan")), "trajectory.log"),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_broken_folders_are_explained(name, tmp_path):
    root = redwood(tmp_path)
    breakage, message = BREAKAGES[name]
    breakage(root)
    with pytest.raises(InputError, match=f"(?s){message}"):
        folder = RGBDFolder.open(root, intrinsics=K)
        folder.read(1)


def test_intrinsics_that_do_not_fit_are_refused(tmp_path):
    root = redwood(tmp_path)
    with pytest.raises(InputError, match="do not fit 8x6 images"):
        RGBDFolder.open(root)  # the published ones are of 640x480 images
    for bad in ((0.0, 8.0, 4.0, 3.0), (8.0, 8.0, 4.0, float("nan")), (8.0, 8.0, 99.0, 3.0)):
        with pytest.raises(InputError, match="intrinsics"):
            RGBDFolder.open(root, intrinsics=bad)


def nerfstudio(root: Path, order: list[int], **head: float) -> Path:
    """Images and depth beside a `transforms.json` whose frames stand in some order."""
    frames = []
    for i in order:
        write(root / "images" / f"{i:03d}.png", picture(i))
        write(root / "depth" / f"{i:03d}.png", depth_mm(i))
        pose = np.eye(4)
        pose[0, 3] = i
        frames.append({"file_path": f"images/{i:03d}.png", "transform_matrix": pose.tolist()})
    lens = {"w": 8, "h": 6, "fl_x": 8.0, "fl_y": 8.0, "cx": 4.0, "cy": 3.0, **head}
    (root / "transforms.json").write_text(json.dumps({**lens, "frames": frames}))
    return root


def test_poses_go_with_the_images_that_their_file_names(tmp_path):
    folders = [RGBDFolder.open(nerfstudio(tmp_path / str(k), order)) for k, order in enumerate([[0, 1, 2], [2, 0, 1]])]
    assert folders[0].names == folders[1].names
    assert torch.equal(folders[0].cameras.viewmats, folders[1].cameras.viewmats)
    assert len(set(folders[0].cameras.centers[:, 0].tolist())) == N


def test_intrinsics_of_another_size_are_those_of_the_images(tmp_path):
    plain = RGBDFolder.open(nerfstudio(tmp_path / "a", [0, 1, 2])).cameras.Ks
    half = RGBDFolder.open(nerfstudio(tmp_path / "b", [0, 1, 2], w=4, h=3, fl_x=4.0, fl_y=4.0, cx=2.0, cy=1.5))
    assert torch.equal(half.cameras.Ks, plain)
    with pytest.raises(InputError, match="intrinsics of 8x8 images"):
        RGBDFolder.open(nerfstudio(tmp_path / "c", [0, 1, 2], h=8))


def test_a_lens_with_distortion_is_refused(tmp_path):
    RGBDFolder.open(nerfstudio(tmp_path / "a", [0, 1, 2], k1=0.0))
    with pytest.raises(InputError, match="world import"):
        RGBDFolder.open(nerfstudio(tmp_path / "b", [0, 1, 2], k1=0.1))


@pytest.mark.parametrize("make", [redwood, tum, seven_scenes])
def test_published_intrinsics_are_of_their_own_size_only(make, tmp_path, monkeypatch):
    """The middle of a 640x480 image lies inside a larger one too."""
    monkeypatch.setattr(rgbd, "files_size", lambda path: (1280, 960))
    with pytest.raises(InputError, match="of 640x480 images and do not fit 1280x960 images"):
        RGBDFolder.open(make(tmp_path))
    assert RGBDFolder.open(make(tmp_path), intrinsics=(1050, 1050, 640, 480)).cameras.width == 1280


def test_paths_that_leave_the_folder_are_refused(tmp_path):
    root = tum(tmp_path / "inner")
    write(tmp_path / "secret.png", picture(0))
    (root / "rgb.txt").write_text("100.0 ../secret.png\n")
    with pytest.raises(InputError, match="outside"):
        RGBDFolder.open(root, intrinsics=K)
    other = redwood(tmp_path / "other")
    (other / "image/00001.png").unlink()
    (other / "image/00001.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="outside"):
        RGBDFolder.open(other, intrinsics=K)


def test_other_folders_are_refused_with_what_would_do(tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        RGBDFolder.open(tmp_path / "absent")
    with pytest.raises(InputError, match="7-Scenes"):
        RGBDFolder.open(tmp_path)
    with pytest.raises(InputError, match="frame 3 does not exist"):
        RGBDFolder.open(redwood(tmp_path), intrinsics=K).read(3)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(LAYOUTS)), st.integers(0, 10**6), st.binary(max_size=60), st.booleans())
def test_random_damage_ends_in_our_errors(tmp_path_factory, kind, where, noise, cut):
    root = LAYOUTS[kind](tmp_path_factory.mktemp("folder"))
    target = sorted(p for p in root.rglob("*") if p.is_file())[where % len([p for p in root.rglob("*") if p.is_file()])]
    data = target.read_bytes()
    at = where % len(data)
    target.write_bytes(data[:at] + noise + (b"" if cut else data[at + len(noise) :]))
    try:
        folder = RGBDFolder.open(root, intrinsics=K)
        for i in range(len(folder)):
            rgb, depth = folder.read(i)
            assert rgb.isfinite().all() and (depth >= 0).all() and depth.isfinite().all()
    except MosaicMemError:
        pass


def test_real_recording_reprojects_onto_itself():
    folder = RGBDFolder.open(shared_data("icl_living_room"))
    assert len(folder) == 211 and folder.names[0] == "00000.jpg"
    agree, median, _ = _reproject(folder, 0, 20)
    assert agree == pytest.approx(0.93, abs=0.01)
    assert median < 0.002
    assert _reproject(folder, 50, 200)[2] == pytest.approx(0.68, abs=0.03)


def test_half_a_pixel_is_right_for_the_real_recording():
    """The photometric error of warped frames falls when 0.5 is added to the published centre (319.5, 239.5)."""
    path = shared_data("icl_living_room")
    errors = []
    for shift in (0.0, 0.5):
        folder = RGBDFolder.open(path, intrinsics=(525, 525, 319.5 + shift, 239.5 + shift))
        errors.append([_photometric(folder, i, j) for i, j in ((30, 60), (100, 130), (120, 150))])
    assert all(ours < published for published, ours in zip(*errors))


def _warp(folder, i, j):
    uv = pixel_centers(folder.cameras.width, folder.cameras.height).view(1, -1, 2)
    rgb, depth = folder.read(i)
    known = depth.flatten() > 0
    to, z, seen = folder.cameras[j].project(folder.cameras[i].unproject(uv, depth.view(1, -1)))
    size = torch.tensor([folder.cameras.width, folder.cameras.height])
    grid = (to / size * 2 - 1).view(1, 1, -1, 2)
    other_rgb, other = folder.read(j)
    there = torch.nn.functional.grid_sample(other[None, None], grid, mode="nearest", align_corners=False).flatten()
    colour = torch.nn.functional.grid_sample(other_rgb[None], grid, align_corners=False)[0, :, 0]
    return rgb, colour, z[0] - there, seen[0] & known & (there > 0)


def _reproject(folder, i, j):
    _, _, gap, both = _warp(folder, i, j)
    return float((gap[both].abs() < 0.05).float().mean()), float(gap[both].abs().median()), float(both.float().mean())


def _photometric(folder, i, j):
    rgb, colour, gap, both = _warp(folder, i, j)
    both &= gap.abs() < 0.05
    return float((rgb.flatten(1) - colour).abs().clamp(max=0.2)[:, both].mean())


def _truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _first_poses(root: Path, count: int) -> str:
    return "\n".join((root / "trajectory.log").read_text().splitlines()[: 5 * count]) + "\n"
