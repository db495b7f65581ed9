"""Exports: what other tools read is what memory shows, also after edits. Files are parsed here by hand."""

from __future__ import annotations

import io
import json
import struct
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import random_cameras

from mosaicmem.errors import ConfigError, InputError, MissingExtraError, OutputExistsError
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.io.exports import ExportOptions, export_colmap, export_nerfstudio, export_ply, export_rrd, export_vipe
from mosaicmem.io.exports.cloud import Cloud, cloud_of
from mosaicmem.io.exports.nerfstudio import depth_step
from mosaicmem.io.exports.shots import held, shots
from mosaicmem.io.exports.vipe import depth_exr
from mosaicmem.io.files import read_depth_png, write_depth_png
from mosaicmem.io.trajectories import read_trajectory
from mosaicmem.io.video import read_video
from mosaicmem.memory import editing
from mosaicmem.memory.editing import rotation_about, scaling_about
from mosaicmem.memory.lifting import LiftingConfig, lift
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.synthetic import PixelShuffleVAE

GRID = TokenGrid(16, 8, stride=2, patch=2)
VAE = PixelShuffleVAE(2)
KEEP_ALL = LiftingConfig(flying_ratio=0)
ALL, BOTH = ExportOptions(), pytest.mark.parametrize("ascii", [True, False], ids=["text", "binary"])


def world(count: int = 3, seed: int = 5) -> PatchStore:
    """Frames of noise with noise for depth, some of it unknown: nothing is where it is by chance."""
    rng = torch.Generator().manual_seed(seed)
    cameras, store = random_cameras(count, rng, width=16, height=8), PatchStore.empty()
    for i in range(count):
        rgb, depth = 2 * torch.rand(3, 8, 16, generator=rng) - 1, 2 + torch.rand(8, 16, generator=rng)
        depth[: 2 + 2 * (i % 2), 3:7] = 0
        latents = VAE.encode_image(rgb[None])[0]
        time = 0.5 * i
        store = store.insert(lift(latents, depth, cameras[i], GRID, frame=10 * i, time=time, config=KEEP_ALL))
    return store


def half(store: PatchStore) -> torch.Tensor:
    """A selection that cuts every frame: patches of the left half."""
    return (store.patch_ids % 4) < 2


TURN = rotation_about(torch.tensor([0.0, 1.0, 0.3]), 40.0, torch.tensor([0.2, 0.0, 1.0]))
EDITS: dict[str, Any] = {
    "as seen": lambda store: store,
    "part erased": lambda store: editing.erase(store, half),
    "part moved": lambda store: editing.transform(store, half, TURN),
    "part twice, larger": lambda store: editing.duplicate(store, half, scaling_about(1.7, torch.ones(3))),
    "part in a mirror": lambda store: editing.mirror(store, torch.tensor([1.0, 0.2, 0]), torch.ones(3), half),
    "all in a mirror": lambda store: editing.mirror(store, torch.tensor([0.0, 1.0, 0]), torch.zeros(3)),
}
EDITED = pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())


def cloud(store: PatchStore, options: ExportOptions = ALL) -> Cloud:
    return Cloud.cat([cloud_of(s, i, options) for i, s in enumerate(shots(held(store, options.at), VAE.decode_image))])


def key(points: Any) -> list[tuple[float, ...]]:
    return sorted(tuple(round(v, 3) for v in row) for row in np.asarray(points, np.float64).tolist())


# ---------------------------------------------------------------- pictures and points


@EDITED
def test_a_picture_shows_its_points_where_and_as_they_are(edit) -> None:
    """The camera of every picture projects its points onto their cells, at their depth and in their colour."""
    store = edit(world())
    for i, shot in enumerate(shots(held(store), VAE.decode_image)):
        points = cloud_of(shot, i, ALL)
        assert len(points) == int(shot.group.valid.sum()) > 0
        uv, z, inside = shot.camera.project(torch.from_numpy(points.xyz)[None])
        assert bool(inside.all())
        assert uv[0].numpy() == pytest.approx(points.uv, abs=1e-9)
        column, row = points.uv.astype(int).T
        assert shot.depth[row, column] == pytest.approx(z[0].numpy(), rel=1e-6)
        blocks = shot.picture.reshape(4, 2, 8, 2, 3).mean((1, 3))
        assert np.abs(blocks[row // 2, column // 2] - points.rgb).max() <= 1
        assert shot.shown[row, column].all()
        assert not shot.picture[~shot.shown].any() and not shot.depth[~shot.shown].any()


@EDITED
def test_patches_are_where_retrieval_looks_for_them(edit) -> None:
    store = edit(world())
    points = cloud(store, ExportOptions(points="patches"))
    assert len(points) == store.num_patches
    order = torch.cat([store.patch_ids[a:b].argsort() + a for a, b in zip(store.offsets, store.offsets[1:])])
    assert (points.xyz == store.centers[order].double().numpy()).all()
    assert (points.patch == store.patch_ids[order].numpy()).all()
    cells = cloud(store)
    for i in (0, len(store) - 1):
        mine = cells.patch[cells.shot == i]
        for row in np.flatnonzero(points.shot == i):
            inside = cells.rgb[cells.shot == i][mine == points.patch[row]].astype(float)
            assert points.rgb[row] == pytest.approx(inside.mean(0), abs=1.01)


def test_edits_move_and_erase_what_is_exported() -> None:
    before = world()
    left = before.patch_ids.long() % 4 < 2
    gone, moved = cloud(EDITS["part erased"](before)), cloud(EDITS["part moved"](before))
    whole = cloud(before)
    part = whole.patch % 4 < 2
    assert left.any() and part.any() and not part.all(), "control"
    assert key(gone.xyz) == key(whole.xyz[~part])
    there = whole.xyz[part] @ TURN[:3, :3].numpy().T + TURN[:3, 3].numpy()
    assert key(moved.xyz) == key(np.concatenate([whole.xyz[~part], there]))
    assert key(moved.xyz) != key(whole.xyz)


def test_what_no_longer_holds_is_left_out_unless_it_is_asked_for() -> None:
    store = world()
    old = replace(store.group(0), until=0.75)
    store = PatchStore.from_groups([old, *store.groups[1:]])
    assert set(cloud(store).frame) == {10, 20}
    assert set(cloud(store, ExportOptions(at=0.6)).frame) == {0, 10}
    with pytest.raises(InputError, match=r"of 3 groups of the world none holds at -1 s"):
        held(store, -1.0)
    with pytest.raises(InputError, match="none holds now"):
        held(PatchStore.empty())


def test_frames_of_two_sizes_are_refused() -> None:
    store, small = world(1), TokenGrid(8, 8, stride=2, patch=2)
    camera = random_cameras(1, torch.Generator().manual_seed(1), width=8, height=8)[0]
    store = store.insert(lift(torch.zeros(12, 4, 4), torch.ones(8, 8), camera, small))
    with pytest.raises(InputError, match=r"2 sizes, \[\(8, 8\), \(16, 8\)\]"):
        held(store)


def test_thinning_keeps_the_first_of_each_voxel_and_its_picture() -> None:
    points = cloud(world())
    thin = points.thinned(0.5)
    assert 10 < len(thin) < len(points)
    assert len(np.unique(np.floor(thin.xyz / 0.5), axis=0)) == len(thin)
    starts = thin.starts(3)
    for i in range(3):
        assert (thin.shot[starts[i] : starts[i + 1]] == i).all()
    assert starts[-1] == len(thin)
    assert len(points.thinned(0)) == len(points)
    with pytest.raises(ConfigError, match="voxel_size = -1"):
        ExportOptions(voxel_size=-1)


# ---------------------------------------------------------------- PLY


def parse_ply(path: Path) -> tuple[list[str], np.ndarray]:
    """Header lines, and the vertices of a text or little-endian binary file, by the letter of the format."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    lines = head.decode().splitlines()
    kinds = {"float": "<f4", "uchar": "u1", "uint": "<u4", "int": "<i4"}
    row = np.dtype([(w[2], kinds[w[1]]) for line in lines if (w := line.split())[0] == "property"])
    count = int(next(line for line in lines if line.startswith("element vertex")).split()[2])
    if lines[1] == "format ascii 1.0":
        rows = [tuple(float(v) for v in line.split()) for line in body.decode().splitlines()]
        return lines, np.array(rows[:count], [(name, "f8") for name in row.names or ()])
    assert lines[1] == "format binary_little_endian 1.0" and len(body) == count * row.itemsize
    return lines, np.frombuffer(body, row)


def columns(table: np.ndarray, *names: str) -> np.ndarray:
    return np.stack([table[name].astype(np.float64) for name in names], 1)


@BOTH
def test_a_cloud_says_what_it_is(tmp_path: Path, ascii: bool) -> None:
    store = EDITS["part moved"](world())
    options = ExportOptions(ascii=ascii, metric=True)
    done = export_ply(store, VAE.decode_image, tmp_path / "a.ply", options)
    lines, table = parse_ply(tmp_path / "a.ply")
    expected = cloud(store)
    assert done.points == len(table) == len(expected) and done.pictures == 0
    assert columns(table, "x", "y", "z") == pytest.approx(expected.xyz, abs=1e-5)
    assert (columns(table, "red", "green", "blue") == expected.rgb).all()
    assert (table["patch"] == expected.patch).all() and (table["frame"] == expected.frame).all()
    assert table["confidence"] == pytest.approx(expected.confidence)
    assert "comment units m" in lines and any("axes opencv" in line for line in lines)
    with pytest.raises(OutputExistsError):
        export_ply(store, VAE.decode_image, tmp_path / "a.ply", options)
    export_ply(store, VAE.decode_image, tmp_path / "a.ply", replace(options, overwrite=True))


# ---------------------------------------------------------------- COLMAP


def parse_colmap(folder: Path) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    """Cameras, images and points by the letter of COLMAP's documentation; id -> what stands there."""
    if (folder / "cameras.txt").exists():
        return _parse_text(folder)
    data = {name: (folder / f"{name}.bin").read_bytes() for name in ("cameras", "images", "points3D")}
    at = 0

    def take(name: str, layout: str) -> tuple[Any, ...]:
        nonlocal at
        at += struct.calcsize(layout)
        return struct.unpack_from(layout, data[name], at - struct.calcsize(layout))

    cameras, images, points = {}, {}, {}
    for _ in range(take("cameras", "<Q")[0]):
        number, model, w, h = take("cameras", "<iiQQ")
        assert model == 1, "PINHOLE"
        cameras[number] = (w, h, *take("cameras", "<4d"))
    at = 0
    for _ in range(take("images", "<Q")[0]):
        number, *pose, camera = take("images", "<i7di")
        end = data["images"].index(b"\0", at)
        name, at = data["images"][at:end].decode(), end + 1
        images[number] = (pose, camera, name, [take("images", "<ddq") for _ in range(take("images", "<Q")[0])])
    assert at == len(data["images"])
    at = 0
    for _ in range(take("points3D", "<Q")[0]):
        number, *xyz = take("points3D", "<Qddd")
        rgb, (error, length) = take("points3D", "<BBB"), take("points3D", "<dQ")
        points[number] = (xyz, rgb, error, [take("points3D", "<ii") for _ in range(length)])
    assert at == len(data["points3D"])
    return cameras, images, points


def _parse_text(folder: Path) -> tuple[dict[int, Any], dict[int, Any], dict[int, Any]]:
    def lines(name: str) -> list[list[str]]:
        return [line.split() for line in (folder / f"{name}.txt").read_text().split("\n") if not line.startswith("#")]

    cameras = {int(w[0]): (int(w[2]), int(w[3]), *map(float, w[4:])) for w in lines("cameras") if w}
    assert all(w[1] == "PINHOLE" for w in lines("cameras") if w)
    rows, images = lines("images"), {}
    for head, sight in zip(rows[::2], rows[1::2]):
        seen = [(float(sight[i]), float(sight[i + 1]), int(sight[i + 2])) for i in range(0, len(sight), 3)]
        images[int(head[0])] = ([float(v) for v in head[1:8]], int(head[8]), head[9], seen)
    points = {}
    for w in lines("points3D"):
        if w:
            track = [(int(w[i]), int(w[i + 1])) for i in range(8, len(w), 2)]
            points[int(w[0])] = ([float(v) for v in w[1:4]], tuple(int(v) for v in w[4:7]), float(w[7]), track)
    return cameras, images, points


def rotated(q: list[float], x: np.ndarray) -> np.ndarray:
    """`x` turned by a wxyz quaternion."""
    v = np.array(q[1:])
    return x + 2 * np.cross(v, np.cross(v, x) + q[0] * x)


@BOTH
@EDITED
def test_a_colmap_model_holds_the_cameras_and_every_point_is_seen_where_it_says(tmp_path: Path, ascii, edit) -> None:
    store = edit(world())
    done = export_colmap(store, VAE.decode_image, tmp_path, ExportOptions(ascii=ascii))
    cameras, images, points = parse_colmap(tmp_path / "sparse" / "0")
    expected, taken = cloud(store), list(shots(held(store), VAE.decode_image))
    assert (done.pictures, done.points) == (len(images), len(points)) == (len(store), len(expected))
    assert np.array([points[i + 1][0] for i in range(len(points))]) == pytest.approx(expected.xyz, abs=1e-12)
    assert (np.array([points[i + 1][1] for i in range(len(points))]) == expected.rgb).all()
    for number, (xyz, _, error, track) in points.items():
        ((image, index),) = track
        assert error == 0
        (q, t), camera, _, seen = (images[image][0][:4], images[image][0][4:]), *images[image][1:]
        u, v, back = seen[index]
        assert back == number
        x, y, z = rotated(q, np.array(xyz)) + t
        _, _, fx, fy, cx, cy = cameras[camera]
        assert (fx * x / z + cx, fy * y / z + cy) == pytest.approx((u, v), abs=1e-6)
    for i, shot in enumerate(taken):
        name = images[i + 1][2]
        assert (np.array(Image.open(tmp_path / "images" / name)) == shot.picture).all()
        mask = tmp_path / "masks" / f"{name}.png"
        assert mask.exists() == (shot.group.mask is not None)
        assert not mask.exists() or (np.array(Image.open(mask)) == 255 * shot.shown).all()
        depth = (tmp_path / "stereo" / "depth_maps" / f"{name}.geometric.bin").read_bytes()
        assert depth.startswith(b"16&8&1&"), "width, height, channels"
        assert np.frombuffer(depth, "<f4", offset=7).reshape(8, 16) == pytest.approx(shot.depth, rel=1e-6)
    read = read_trajectory(tmp_path)
    for i, shot in enumerate(taken):
        assert (read.viewmats[i] - shot.camera.viewmats[0]).abs().max() < 1e-6
        assert read.Ks is not None and torch.equal(read.Ks[i], shot.camera.Ks[0])
    assert (read.width, read.height) == (16, 8)


def test_a_model_thinned_is_still_a_model(tmp_path: Path) -> None:
    export_colmap(world(), VAE.decode_image, tmp_path, ExportOptions(voxel_size=0.5, points="patches"))
    _, images, points = parse_colmap(tmp_path / "sparse" / "0")
    assert 5 < len(points) < world().num_patches
    assert sorted(points) == sorted(point for image in images.values() for *_, point in image[3])
    assert all(images[i][3][k][2] == number for number, (*_, ((i, k),)) in points.items())


# ---------------------------------------------------------------- nerfstudio


@EDITED
def test_a_nerfstudio_scene_is_one_world(tmp_path: Path, edit) -> None:
    """Depth pictures, seen through the file's own matrices by OpenGL's rules, are the points of its cloud."""
    store = edit(world())
    done = export_nerfstudio(store, VAE.decode_image, tmp_path, ALL)
    data = json.loads((tmp_path / "transforms.json").read_text())
    expected, taken = cloud(store), list(shots(held(store), VAE.decode_image))
    assert (done.pictures, done.points) == (len(store), len(expected)) and "0.001 world units" in done.notes[0]
    _, table = parse_ply(tmp_path / data["ply_file_path"])
    seen, masked = [], any(group.mask is not None for group in store)
    for frame, shot in zip(data["frames"], taken):
        assert (np.array(Image.open(tmp_path / frame["file_path"])) == shot.picture).all()
        assert ("mask_path" in frame) == masked, "nerfstudio wants masks for all pictures or for none"
        assert not masked or (np.array(Image.open(tmp_path / frame["mask_path"])) == 255 * shot.shown).all()
        depth = np.array(Image.open(tmp_path / frame["depth_file_path"])).astype(float)
        depth *= data["depth_unit_scale_factor"]
        assert np.abs(depth - shot.depth).max() <= 0.00051
        v, u = np.mgrid[1:8:2, 1:16:2]  # centres of cells
        z, at = depth[1::2, 1::2], {**data, **frame}
        local = np.stack([(u - at["cx"]) / at["fl_x"] * z, -(v - at["cy"]) / at["fl_y"] * z, -z, np.ones_like(z)], -1)
        seen.append((local[z > 0] @ np.array(frame["transform_matrix"]).T)[:, :3])
    assert np.concatenate(seen) == pytest.approx(columns(table, "x", "y", "z"), abs=2e-3)
    turned = columns(table, "x", "y", "z") @ np.array(data["applied_transform"])[:, :3]
    assert turned == pytest.approx(expected.xyz, abs=1e-5)
    assert (columns(table, "red", "green", "blue") == expected.rgb).all()
    read = read_trajectory(tmp_path)
    for i, shot in enumerate(taken):
        assert (read.viewmats[i] - shot.camera.viewmats[0]).abs().max() < 1e-6
        assert read.Ks is not None and (read.Ks[i] - shot.camera.Ks[0]).abs().max() < 1e-9
    assert (data["w"], data["h"]) == (16, 8)


@pytest.mark.parametrize(
    ("near", "far", "step"),
    [(0.5, 60.0, 1e-3), (0.5, 65.534, 1e-3), (0.5, 70.0, 1e-2), (0.5, 6e3, 1e-1), (0.01, 0.05, 1e-6), (0.01, 50, 1e-3)],
)
def test_depth_pictures_hold_the_farthest_and_resolve_the_nearest(near: float, far: float, step: float) -> None:
    group = world(1).group(0)
    depth = torch.full((4, 8), near, dtype=torch.float64)
    depth[0, 0] = far
    full = replace(group.keyframe, depth=depth, valid=torch.ones(4, 8, dtype=torch.bool))
    found = depth_step([replace(group, keyframe=full)])
    assert found == step
    assert far / found < 65535
    scaled = replace(group, keyframe=full, world_from_cam=torch.diag(torch.tensor([10.0, 10, 10, 1])).double())
    assert depth_step([scaled]) in (pytest.approx(10 * step), 1e-3), "the depth of the world, not of the frame"


def test_depth_comes_back_within_half_a_step(tmp_path: Path) -> None:
    depth = np.array([[0.0004, 0.001, 1.2345], [65.534, 65.5346, 70.0], [np.nan, np.inf, -1.0]])
    write_depth_png(tmp_path / "a.png", depth)
    assert read_depth_png(tmp_path / "a.png") == pytest.approx(
        np.array([[0, 0.001, 1.234], [65.534, 0, 0], [0, 0, 0]]), abs=6e-4
    )
    assert np.array(Image.open(tmp_path / "a.png")).max() == 65534, "65535 means unknown to some readers"
    with pytest.raises(OutputExistsError):
        write_depth_png(tmp_path / "a.png", depth)


def test_a_small_world_is_written_in_finer_steps(tmp_path: Path) -> None:
    store = editing.transform(world(), editing.everything, scaling_about(0.01, torch.zeros(3)))
    done = export_nerfstudio(store, VAE.decode_image, tmp_path, ALL)
    step = json.loads((tmp_path / "transforms.json").read_text())["depth_unit_scale_factor"]
    assert step == 1e-6 and "--depth-unit-scale-factor 1e-06" in done.notes[0]
    for i, shot in enumerate(shots(held(store), VAE.decode_image)):
        depth = np.array(Image.open(tmp_path / "depth" / f"{i:05d}.png")) * step
        assert np.abs(depth - shot.depth).max() < 0.51e-6 and depth.max() > 0.01


# ---------------------------------------------------------------- ViPE


def parse_exr(data: bytes) -> np.ndarray:
    """The picture of an uncompressed OpenEXR file with one channel of half floats, by the letter of its layout."""
    assert struct.unpack_from("<II", data) == (20000630, 2)
    at, found = 8, {}
    while data[at]:
        end = data.index(b"\0", at)
        name, at = data[at:end].decode(), data.index(b"\0", end + 1) + 1
        (size,) = struct.unpack_from("<I", data, at)
        found[name], at = data[at + 4 : at + 4 + size], at + 4 + size
    needed = {"channels", "compression", "dataWindow", "displayWindow", "lineOrder", "pixelAspectRatio"}
    assert needed | {"screenWindowCenter", "screenWindowWidth"} == set(found), "all that the format requires"
    assert found["compression"] == b"\0" and found["channels"].startswith(b"Z\0\1\0\0\0")
    left, top, right, bottom = struct.unpack("<4i", found["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    out = np.zeros((height, width), np.float16)
    offset = 0
    for y, offset in enumerate(struct.unpack_from(f"<{height}Q", data, at + 1)):
        assert struct.unpack_from("<iI", data, offset) == (y, 2 * width)
        out[y] = np.frombuffer(data, "<f2", width, offset + 8)
    assert offset + 8 + 2 * width == len(data)
    return out


@EDITED
def test_a_vipe_folder_is_a_clip_with_depth(tmp_path: Path, edit) -> None:
    store = edit(world())
    done = export_vipe(store, VAE.decode_image, tmp_path, ALL)
    taken = list(shots(held(store), VAE.decode_image))
    frames, _ = read_video(tmp_path / "rgb" / "video.mp4")
    assert done.pictures == len(frames) == len(taken)
    pose, lens = (np.load(tmp_path / name / "video.npz") for name in ("pose", "intrinsics"))
    assert (pose["inds"] == np.arange(len(taken))).all() and (lens["inds"] == pose["inds"]).all()
    with zipfile.ZipFile(tmp_path / "depth" / "video.zip") as archive:
        assert archive.namelist() == [f"{i:05d}.exr" for i in range(len(taken))]
        for i, shot in enumerate(taken):
            assert pose["data"][i] == pytest.approx(shot.camera.c2w[0].numpy(), abs=1e-6)
            K = shot.camera.Ks[0]
            assert lens["data"][i].tolist() == [float(K[j, k]) for j, k in ((0, 0), (1, 1), (0, 2), (1, 2))]
            depth = parse_exr(archive.read(f"{i:05d}.exr"))
            assert depth == pytest.approx(shot.depth, rel=2**-11)
            grey = lambda x: x.astype(float).mean(-1)  # noqa: E731 - H.264 halves colour
            assert np.abs(grey(frames[i]) - grey(shot.picture)).mean() < 40
    read = read_trajectory(tmp_path, format="vipe")
    assert (read.viewmats - torch.cat([shot.camera.viewmats for shot in taken])).abs().max() < 1e-6


def test_depth_beyond_half_floats_is_unknown() -> None:
    assert parse_exr(depth_exr(np.array([[65504.0, 65536.0, 1.0]]))).tolist() == [[65504.0, 0.0, 1.0]]


# ---------------------------------------------------------------- rerun


def test_a_recording_holds_cameras_pictures_and_points_on_a_timeline(tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="the extra `rerun` is not installed")
    from rerun.chunk import RrdReader

    store = EDITS["part moved"](world())
    done = export_rrd(store, VAE.decode_image, tmp_path / "a.rrd", ALL)
    assert (done.pictures, done.points) == (len(store), len(cloud(store)))
    found: dict[str, dict[str, list[Any]]] = {}
    for chunk in RrdReader(tmp_path / "a.rrd").stream():
        columns = chunk.to_record_batch().to_pydict()
        found.setdefault(str(chunk.entity_path), {}).update({k: v for k, v in columns.items() if "RowId" not in k})
    taken = sorted(shots(held(store), VAE.decode_image), key=lambda shot: shot.group.age_key)
    place = {"/world/camera": taken[::2], "/world/camera_2": taken[1::2]}
    for name, expected in place.items():
        seen, image = found[name], found[f"{name}/image"]
        assert seen["frame"] == [shot.group.keyframe.frame for shot in expected] == [0, 10, 20]
        assert [t.total_seconds() for t in seen["time"]] == [0.0, 0.5, 1.0]
        for i, shot in enumerate(expected):
            placed = shot.camera.c2w[0].numpy()
            turn = np.array(seen["Transform3D:mat3x3"][i][0]).reshape(3, 3).T  # column after column
            assert turn == pytest.approx(placed[:3, :3], abs=1e-6)
            assert seen["Transform3D:translation"][i][0] == pytest.approx(placed[:3, 3], abs=1e-6)
            K = np.array(image["Pinhole:image_from_camera"][i][0]).reshape(3, 3).T
            assert np.abs(K - shot.camera.Ks[0].numpy()).max() < 1e-5
            picture = Image.open(io.BytesIO(bytes(image["EncodedImage:blob"][i][0])))
            assert (np.array(picture) == shot.picture).all()
            depth = np.frombuffer(bytes(image["DepthImage:buffer"][i][0]), np.float32).reshape(8, 16)
            assert depth == pytest.approx(shot.depth, abs=1e-6)
    for i, shot in enumerate(taken):
        memory, points = found[f"/world/memory/{i:05d}"], cloud_of(shot, i, ALL)
        assert np.array(memory["Points3D:positions"][0]) == pytest.approx(points.xyz, abs=1e-5)
        assert [c >> 8 for c in memory["Points3D:colors"][0]] == (points.rgb @ [65536, 256, 1]).tolist()
        assert memory["frame"] == [shot.group.keyframe.frame]
    with pytest.raises(OutputExistsError):
        export_rrd(store, VAE.decode_image, tmp_path / "a.rrd", ALL)


def test_without_the_extra_a_recording_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mosaicmem\[rerun\]'"):
        export_rrd(world(), VAE.decode_image, tmp_path / "a.rrd", ALL)
    assert not list(tmp_path.iterdir())
