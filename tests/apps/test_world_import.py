"""`mosaicmem world import`: what other programs left is remembered, and shown again from where it was seen."""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.apps.conftest import everything_in
from tests.io.imports import foreign
from tests.io.imports.foreign import FRAMES, SIZE, Walk

from mosaicmem.apps.cli import world_import
from mosaicmem.apps.cli.memory_folder import MemoryMeta, load_memory
from mosaicmem.apps.cli.views import memory_views
from mosaicmem.io.world import WorldFile, verify
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.synthetic import PixelShuffleVAE

SOURCES: dict[str, Callable[[Path, Walk], Path]] = {
    "colmap-bin": foreign.colmap,
    "colmap-txt": lambda root, truth: foreign.colmap(root, truth, binary=False),
    "colmap-maps": lambda root, truth: foreign.colmap(root, truth, maps=True),
    "nerfstudio-depth": foreign.nerfstudio,
    "nerfstudio-unit": lambda root, truth: foreign.nerfstudio(root, truth, unit=2e-4),
    "nerfstudio-cloud": lambda root, truth: foreign.nerfstudio(root, truth, maps=False),
    "vipe": foreign.vipe,
}
DEPTH_ERROR = {"colmap-bin": 0.03, "colmap-txt": 0.03, "nerfstudio-cloud": 0.05}
"""Largest median error of depth that comes from points; depth maps are within their own rounding."""
SHOWN, BETWEEN = 35.0, 20.0
"""PSNR, dB, at a camera whose frame was imported, and at one between two of these; measured: 35 to 157, 21 to 34."""


@pytest.fixture(scope="module")
def truth() -> Walk:
    return foreign.walk()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, truth: Walk) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    return {name: write(root / name, truth) for name, write in SOURCES.items()}


def psnr(world: Path, truth: Walk) -> tuple[list[float], list[float]]:
    """At every true camera: what the world shows there against the truth, dB, and the share of pixels it shows."""
    store, meta = load_memory(world)
    found, share = [], []
    views = memory_views(store, truth.cameras, meta.grid, PixelShuffleVAE(meta.stride), RetrievalConfig())
    for view, rgb in zip(views, truth.rgb):
        expected = torch.from_numpy(rgb).permute(2, 0, 1).float() / 127.5 - 1
        error = (view.frame - expected)[:, view.good].square().mean()
        found.append(float(10 * torch.log10(4 / error)) if bool(view.good.any()) else 0.0)
        share.append(float(view.good.double().mean()))
    return found, share


def world_of(run, source: Path, out: Path, *options: object) -> tuple[PatchStore, MemoryMeta]:
    ran = run("world", "import", source, out, "--vae", "pixels", *options)
    assert ran.code == 0, ran.err
    return load_memory(out)


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_shown_from_its_own_cameras(run, sources, truth: Walk, tmp_path: Path, name: str) -> None:
    """Every other frame is imported; all are looked at."""
    store, meta = world_of(run, sources[name], tmp_path / "w.mosaic", "--every", "2")
    assert meta.frames == [0, 2, 4] and (meta.width, meta.height) == SIZE and verify(tmp_path / "w.mosaic") == []
    for group, i in zip(store, meta.frames):
        key = group.keyframe
        assert torch.allclose(key.camera.viewmats[0], truth.cameras.viewmats[i], atol=2e-6)
        assert torch.allclose(key.camera.Ks[0], truth.cameras.Ks[i], atol=1e-5)
        error = (key.depth - torch.from_numpy(truth.depth[i])).abs() / torch.from_numpy(truth.depth[i])
        assert float(error[key.valid].median()) < DEPTH_ERROR.get(name, 1e-3)
    found, share = psnr(tmp_path / "w.mosaic", truth)
    assert min(found[::2]) > SHOWN and min(share[::2]) > 0.95
    assert min(found[1::2]) > BETWEEN and min(share[1::2]) > 0.7


def test_a_memory_of_the_crate_is_shown_with_the_autoencoder_it_belongs_to(run, truth: Walk, tmp_path: Path) -> None:
    (tmp_path / "memory.json").write_text(json.dumps(foreign.crate(truth)))
    found = run("world", "import", tmp_path, tmp_path / "w.mosaic", "--vae", "pixels", "--json").json
    assert (found["kind"], found["keyframes"], found["moved"]) == ("crate", FRAMES, 0)
    shown, share = psnr(tmp_path / "w.mosaic", truth)
    assert min(shown) > SHOWN and min(share) > 0.95
    ran = run("world", "import", tmp_path / "memory.json", tmp_path / "unnamed.mosaic")
    assert ran.code == 0 and "name the autoencoder" in ran.out
    assert load_memory(tmp_path / "unnamed.mosaic")[1].vae == "crate-192x8"
    ran = run("world", "import", tmp_path, tmp_path / "no.mosaic", "--vae", "rooms")
    assert ran.code == 3 and "latents of 192 channels and 8 px a cell" in ran.err


def swapped(data: dict) -> None:
    """Somebody wrote camera-from-world where world-from-camera belongs."""
    for frame in data["frames"]:
        frame["transform_matrix"] = np.linalg.inv(np.array(frame["transform_matrix"])).tolist()


def opencv_axes(data: dict) -> None:
    """Somebody wrote cameras that look along +z, y down."""
    for frame in data["frames"]:
        frame["transform_matrix"] = (np.array(frame["transform_matrix"]) @ foreign.FLIP).tolist()


def wrong_lens(data: dict) -> None:
    data["cx"] += 6


def not_applied(data: dict) -> None:
    del data["applied_scale"]


@pytest.mark.parametrize("wrong", [swapped, opencv_axes, wrong_lens, not_applied])
def test_a_wrong_convention_does_not_pass(run, sources, truth: Walk, tmp_path: Path, wrong) -> None:
    """The control of the tests above: none of these would be seen where cameras are only compared with themselves."""
    root = shutil.copytree(sources["nerfstudio-depth"], tmp_path / "wrong")
    data = json.loads((root / "transforms.json").read_text())
    wrong(data)
    (root / "transforms.json").write_text(json.dumps(data))
    world_of(run, root, tmp_path / "w.mosaic", "--every", "2")
    found, share = psnr(tmp_path / "w.mosaic", truth)
    assert min(found) < BETWEEN or min(share) < 0.7


def test_distortion_is_taken_out(run, truth: Walk, tmp_path: Path) -> None:
    """A lens that shows what a pinhole would, but elsewhere: bent by hand, straight again when it is remembered."""
    bent = (-0.2, 0.03, 0.0, 0.0)
    fx, fy, cx, cy = truth.lens
    v, u = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    x, y = (u - cx) / fx, (v - cy) / fy
    for _ in range(50):  # the ray of each pixel of the bent picture
        r2 = x * x + y * y
        factor = 1 + bent[0] * r2 + bent[1] * r2 * r2
        x, y = (u - cx) / fx / factor, (v - cy) / fy / factor
    at = np.stack([x * fx + cx, y * fy + cy])
    row, column = (np.clip(np.floor(at[i]).astype(int), 0, SIZE[i] - 1) for i in (1, 0))
    rgb, depth = truth.rgb[:, row, column], truth.depth[:, row, column]
    root = foreign.colmap(tmp_path / "c", truth, binary=False, maps=True, bent=bent)
    straight = foreign.colmap(tmp_path / "s", truth, binary=False, maps=True)
    for where in (root, straight):  # the same pictures, once with the lens that made them and once as if of a pinhole
        for i in range(FRAMES):
            Image.fromarray(rgb[i]).save(where / f"images/walk/{i}.png")
            file = where / f"stereo/depth_maps/walk/{i}.png.geometric.bin"
            file.write_bytes(f"{SIZE[0]}&{SIZE[1]}&1&".encode() + depth[i].astype("<f4").tobytes())
    world_of(run, root, tmp_path / "c.mosaic")
    world_of(run, straight, tmp_path / "s.mosaic")
    ours, control = (np.array(psnr(tmp_path / name, truth)[0]) for name in ("c.mosaic", "s.mosaic"))
    assert (ours > 28).all() and (ours > control).all() and ours.mean() > control.mean() + 6


def test_points_without_tracks_and_half_the_pictures_size(run, truth: Walk, tmp_path: Path) -> None:
    root = foreign.colmap(tmp_path / "c", truth, binary=False)
    file = root / "sparse/0/points3D.txt"
    file.write_text("".join(" ".join(line.split()[:8]) + "\n" for line in file.read_text().splitlines()))
    for path in (root / "images/walk").iterdir():
        Image.open(path).reduce(2).save(path)
    world_of(run, root / "sparse/0", tmp_path / "w.mosaic", "--size", "32x24", "--max-frames", "3")
    store, meta = load_memory(tmp_path / "w.mosaic")
    assert meta.frames == [0, 1, 2] and torch.allclose(
        store.group(0).keyframe.camera.Ks[0, 0, 0] * 2, truth.cameras.Ks[0, 0, 0]
    )
    half = torch.from_numpy(truth.depth[0][1::2, 1::2])
    key = store.group(0).keyframe
    assert float(((key.depth - half).abs() / half)[key.valid].median()) < 0.05


def test_frames_without_depth_are_left_out(run, truth: Walk, tmp_path: Path) -> None:
    root = foreign.colmap(tmp_path / "c", truth, maps=True)
    (root / "stereo/depth_maps/walk/1.png.geometric.bin").unlink()
    found = run("world", "import", root, tmp_path / "w.mosaic", "--vae", "pixels", "--json").json
    assert found["keyframes"] == FRAMES - 1 and load_memory(tmp_path / "w.mosaic")[1].frames == [0, 2, 3, 4]
    for path in (root / "stereo/depth_maps/walk").iterdir():
        path.write_bytes(f"{SIZE[0]}&{SIZE[1]}&1&".encode() + bytes(4 * SIZE[0] * SIZE[1]))
    ran = run("world", "import", root, tmp_path / "v.mosaic", "--vae", "pixels")
    assert ran.code == 3 and "has a depth above 0; nothing to remember" in ran.err
    assert not (tmp_path / "v.mosaic").exists()


def test_masks_leave_out_what_they_say(run, truth: Walk, tmp_path: Path) -> None:
    root = foreign.nerfstudio(tmp_path / "n", truth, cloud=False)
    data = json.loads((root / "transforms.json").read_text())
    mask = np.full((SIZE[1], SIZE[0]), 255, np.uint8)
    mask[:, :32] = 0
    foreign.save_png(root / "mask.png", mask)
    data["frames"][0]["mask_path"] = "mask.png"
    (root / "transforms.json").write_text(json.dumps(data))
    foreign.colmap(tmp_path / "c", truth)
    foreign.save_png(tmp_path / "c/masks/walk/0.png.png", mask)
    for source in (root, tmp_path / "c"):
        store, _ = world_of(run, source, tmp_path / f"{source.name}.mosaic", "--max-frames", "2")
        assert not bool(store.group(0).keyframe.valid[:, :32].any())
        assert bool(store.group(0).keyframe.valid[:, 36:].any() & store.group(1).keyframe.valid[:, :32].any())


def test_an_rgbd_folder_gives_what_remember_gives(run, recording: Path, memory: Path, tmp_path: Path) -> None:
    store, meta = world_of(run, recording, tmp_path / "w.mosaic", "--every", "2")
    kept, same = load_memory(memory)
    assert (meta.frames, meta.intrinsics, meta.metric) == (same.frames, same.intrinsics, same.metric)
    for a, b in zip(store, kept, strict=True):
        assert torch.equal(a.keyframe.latents, b.keyframe.latents) and torch.equal(a.keyframe.depth, b.keyframe.depth)
        assert (
            torch.equal(a.keyframe.camera.viewmats, b.keyframe.camera.viewmats) and a.keyframe.time == b.keyframe.time
        )


def test_a_long_source_is_written_in_batches(run, sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that memory holds one of them; what comes out is the same."""
    whole, meta = world_of(run, sources["colmap-maps"], tmp_path / "a.mosaic")
    monkeypatch.setattr(world_import, "BATCH_BYTES", 2 * whole.group(0).keyframe.nbytes)
    _, same = world_of(run, sources["colmap-maps"], tmp_path / "b.mosaic")
    ran = run("world", "log", tmp_path / "b.mosaic", "--json").json["operations"]
    assert [o["arguments"]["frames"] for o in ran] == [[3, 4], [0, 2]]
    assert meta == same and verify(tmp_path / "b.mosaic") == []
    with WorldFile.open(tmp_path / "a.mosaic") as a, WorldFile.open(tmp_path / "b.mosaic") as b:
        assert len(a.store) == len(b.store) == FRAMES
        assert all(b.thumbnail(g.uid) is not None for g in b.store) and b.counts()["thumbnails"] == FRAMES
        for x, y in zip(a.store, b.store, strict=True):
            assert torch.equal(x.keyframe.latents, y.keyframe.latents) and x.uid == y.uid


def test_depth_of_the_network_takes_the_scale_of_the_points(run, sources, truth: Walk, tmp_path: Path) -> None:
    """The shipped autoencoder and depth network; the world is 100 times as large as theirs."""
    large = Walk(truth.cameras, truth.rgb, truth.depth)
    root = foreign.nerfstudio(tmp_path / "n", large, maps=False, scale=100.0)
    data = json.loads((root / "transforms.json").read_text())
    del data["applied_scale"]  # so that one unit of this file is a centimetre
    (root / "transforms.json").write_text(json.dumps(data))
    found = run("world", "import", root, tmp_path / "w.mosaic", "--depth", "network", "--max-frames", "2", "--json")
    assert found.code == 0, found.err
    assert (found.json["depth"], found.json["size"], found.json["backend"]) == ("network", list(SIZE), "real")
    store, meta = load_memory(tmp_path / "w.mosaic")
    assert meta.vae_path == "rooms" and meta.stride == 8
    middle = float(np.median(truth.depth[0])) * 100
    assert 0.7 < store.group(0).keyframe.median_depth / middle < 1.4


def test_what_is_missing_or_ambiguous_is_said_with_what_helps(run, sources, truth: Walk, tmp_path: Path) -> None:
    def said(*words: object) -> str:
        ran = run("world", "import", *words)
        assert ran.code in (2, 3) and not ran.out, ran
        return ran.err

    target = tmp_path / "w.mosaic"
    assert "needs a file to write" in said(sources["vipe"])
    assert "ends in .mosaic" in said(sources["vipe"], tmp_path / "w.txt")
    assert "no such file or folder" in said(tmp_path / "nowhere", target)
    assert "no RGB-D recording found" in said(tmp_path, target)
    assert "two files to write" in said(sources["vipe"], target, "--out", tmp_path / "v.mosaic")
    assert "expected 1 or more" in said(sources["vipe"], target, "--every", "0")
    assert "--intrinsics belongs to RGB-D folders" in said(sources["vipe"], target, "--intrinsics", "1,1,1,1")
    assert "--depth points, but it has maps; --depth network" in said(sources["vipe"], target, "--depth", "points")
    bare = foreign.nerfstudio(tmp_path / "bare", truth, maps=False, cloud=False)
    assert "neither depth maps nor points; --depth network estimates" in said(bare, target)
    lost = shutil.copytree(sources["colmap-bin"], tmp_path / "lost")
    (lost / "images").rename(lost / "photos")
    assert "with --images DIR" in said(lost, target)
    assert "expected a ViPE folder" in said(lost, target, "--format", "vipe")
    assert not target.exists() and not any(p.name.startswith(".w") for p in tmp_path.iterdir())
    assert run("world", "import", lost, target, "--images", lost / "photos", "--vae", "pixels").code == 0
    assert "already exists" in said(sources["vipe"], target)
    assert run("world", "import", sources["vipe"], "-o", target, "--overwrite", "--vae", "pixels").code == 0
    assert run("world", "log", target, "--json").json["operations"][0]["arguments"]["format"] == "vipe"


def test_damaged_files_are_named_and_nothing_is_written(run, sources, tmp_path: Path) -> None:
    def damaged(name: str, part: str, change: Callable[[Path], object]) -> str:
        root = shutil.copytree(sources[name], tmp_path / str(len(everything_in(tmp_path))))
        change(root / part)
        ran = run("world", "import", root, tmp_path / "w.mosaic", "--vae", "pixels")
        assert ran.code == 3 and "this is a bug" not in ran.err, ran.err
        assert "w.mosaic" not in everything_in(tmp_path)
        return ran.err

    def cut(path: Path) -> None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    def bomb(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("00001.exr", bytes(2**23))

    assert "points3D.bin: ends at byte" in damaged("colmap-bin", "sparse/0/points3D.bin", cut)
    assert "points3D.txt, line 1" in damaged("colmap-txt", "sparse/0/points3D.txt", lambda p: p.write_text("1 2\n"))
    assert "geometric.bin" in damaged("colmap-maps", "stereo/depth_maps/walk/0.png.geometric.bin", cut)
    assert "0.png: not a readable image" in damaged("nerfstudio-depth", "depth/0.png", cut)
    assert "frame_0.png: no such picture" in damaged("nerfstudio-depth", "images/frame_0.png", Path.unlink)
    assert "sparse_pc.ply" in damaged("nerfstudio-cloud", "sparse_pc.ply", cut)
    assert "unpacks to 8,388,608 bytes for 3,072 pixels; refused" in damaged("vipe", "depth/clip.zip", bomb)
    assert "not a readable zip" in damaged("vipe", "depth/clip.zip", lambda p: p.write_bytes(b"PK"))
    assert "clip.mp4" in damaged("vipe", "rgb/clip.mp4", lambda p: p.write_bytes(struct.pack("<I", 0) * 99))


def test_names_that_leave_the_folder_are_refused(run, sources, tmp_path: Path) -> None:
    for key in ("file_path", "depth_file_path"):
        root = shutil.copytree(sources["nerfstudio-depth"], tmp_path / key)
        data = json.loads((root / "transforms.json").read_text())
        data["frames"][0][key] = "../../secret.png"
        (root / "transforms.json").write_text(json.dumps(data))
        ran = run("world", "import", root, tmp_path / "w.mosaic", "--vae", "pixels")
        assert ran.code == 3 and "points outside" in ran.err
