"""`mosaicmem world export`, thumbnails, and what `world info` shows of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.apps.conftest import SIZE, everything_in

from mosaicmem.apps.cli.memory_folder import load_memory
from mosaicmem.io.files import read_image
from mosaicmem.io.ply import read_ply
from mosaicmem.io.trajectories import read_trajectory
from mosaicmem.io.world import WorldFile


@pytest.fixture
def world(memory: Path, tmp_path: Path) -> Path:
    """A copy of the memory folder that a test may change."""
    shutil.copytree(memory, tmp_path / "world")
    return tmp_path / "world"


@pytest.mark.parametrize(
    ("target", "more", "format"),
    [
        ("a.ply", (), "ply"),
        ("a", ("--format", "ply", "--ascii"), "ply"),
        ("a", ("--format", "colmap"), "colmap"),
        ("a", ("--format", "colmap", "--ascii"), "colmap"),
        ("a", ("--format", "nerfstudio"), "nerfstudio"),
        ("a/transforms.json", (), "nerfstudio"),
        ("a", ("--format", "vipe"), "vipe"),
    ],
)
def test_a_world_goes_out_in_every_format(run, memory, path, tmp_path, target, more, format) -> None:
    out = tmp_path / target
    ran = run("world", "export", memory, out, *more, "--json")
    assert ran.code == 0, ran.err
    store, _ = load_memory(memory)
    found = ran.json
    assert (found["format"], found["backend"]) == (format, "synthetic")
    assert found["points"] == (0 if format == "vipe" else sum(int(group.valid.sum()) for group in store))
    if format == "ply":
        assert len(read_ply(out)) == found["points"]
    else:
        folder = out.parent if out.suffix else out
        cameras = read_trajectory(folder)
        truth = read_trajectory(path)[::2]
        assert found["pictures"] == len(cameras) == len(store)
        assert (cameras.viewmats - truth.viewmats).abs().max() < 1e-6
        assert (cameras.width, cameras.height) == SIZE
        assert (folder / "run.json").is_file()
        assert ("cameras.txt" in {p.name for p in folder.rglob("*")}) == ("--ascii" in more and format == "colmap")
    again = run("world", "export", memory, out, *more)
    assert again.code == 2 and "already exists" in again.err
    assert run("world", "export", memory, out, *more, "--overwrite").code == 0


def test_pictures_are_what_was_seen(run, recording, memory, tmp_path) -> None:
    assert run("world", "export", memory, tmp_path / "a", "--format", "nerfstudio").code == 0
    for i, frame in enumerate(range(0, 9, 2)):
        shown = read_image(tmp_path / "a" / "images" / f"{i:05d}.png").astype(int)
        assert np.abs(shown - read_image(recording / "image" / f"{frame:05d}.png")).max() <= 1


def test_export_ply_is_the_same_cloud(run, memory, tmp_path) -> None:
    for name, argv in (("a.ply", ("export-ply", memory, "--out")), ("b.ply", ("world", "export", memory))):
        assert run(*argv, tmp_path / name, "--voxel-size", 0.1).code == 0
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()


def test_an_edited_world_is_exported_edited(run, world, tmp_path) -> None:
    before = run("world", "export", world, tmp_path / "a.ply", "--json").json["points"]
    assert run("edit", world, "move", "--frames", "0:1", "--by", "0,0,30").code == 0
    run("world", "export", world, tmp_path / "b.ply")
    a, b = read_ply(tmp_path / "a.ply"), read_ply(tmp_path / "b.ply")
    moved = a.properties["frame"] == 0
    assert 0 < moved.sum() < len(a)
    by = np.where(moved[:, None], [0, 0, 30], [0, 0, 0])
    assert len(b) == len(a) and b.points == pytest.approx(a.points + by, abs=1e-4)
    assert run("edit", world, "erase", "--frames", "0:1").code == 0
    ran = run("world", "export", world, tmp_path / "c", "--format", "colmap", "--json")
    assert ran.json["points"] == before - moved.sum()
    assert run("world", "undo", world, "--steps", "2").code == 0
    assert run("world", "export", world, tmp_path / "d.ply", "--json").json["points"] == before


def test_latents_that_nobody_can_decode_are_exported_as_points_without_colour(run, world, tmp_path) -> None:
    with WorldFile.open(world / "world.mosaic", write=True) as opened:
        opened.describe({**opened.meta, "vae": "crate-16x8"})
    ran = run("world", "export", world, tmp_path / "a.ply")
    assert ran.code == 0 and "points without colour" in ran.out
    cloud = read_ply(tmp_path / "a.ply")
    assert cloud.colors is None and len(cloud) > 100 and "confidence" in cloud.properties
    ran = run("world", "export", world, tmp_path / "b", "--format", "colmap")
    assert ran.code == 3 and "crate-16x8" in ran.err


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("nowhere", "x.ply"), 3, "no world file"),
        (("MEMORY", "x"), 2, "add --format"),
        (("MEMORY",), 2, "which file or folder"),
        (("MEMORY", "x.ply", "--out", "y.ply"), 2, "which file or folder"),
        (("MEMORY", "x.ply", "--voxel-size", "-1"), 2, "voxel_size = -1"),
        (("MEMORY", "x.ply", "--at", "-5"), 3, "none holds at -5 s"),
        (("MEMORY", "MEMORY", "--format", "colmap", "--overwrite"), 2, "holds the input"),
    ],
)
def test_what_is_refused_and_why(run, memory, tmp_path, monkeypatch, argv, code, said) -> None:
    monkeypatch.chdir(tmp_path)
    before = everything_in(tmp_path)
    ran = run("world", "export", *(str(memory) if word == "MEMORY" else word for word in argv))
    assert (ran.code, said in ran.err) == (code, True), ran.err
    assert everything_in(tmp_path) == before


# ---------------------------------------------------------------- thumbnails


def test_info_writes_the_small_pictures_and_names_no_back_end(run, world, tmp_path) -> None:
    sheet = tmp_path / "sheet.png"
    ran = run("world", "info", world, "--thumbnails", sheet)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"world info: {world}\n") and "synthetic" not in ran.out.splitlines()[0]
    assert f"pictures of 5 frames: {sheet}" in ran.out
    assert read_image(sheet).std() > 20, "not one colour"
    ran = run("world", "info", world, "--thumbnails", sheet)
    assert ran.code == 2 and "already exists" in ran.err
    found = run("world", "info", world, "--thumbnails", sheet, "--overwrite", "--json").json
    assert (found["sheet_pictures"], found["backend"]) == (5, "")
    for part in ("verify", "log", "branch"):
        assert run("world", part, world).out.startswith(f"world {part}: {world}\n")


def test_a_world_without_small_pictures_says_so(run, world, tmp_path) -> None:
    store, meta = load_memory(world)
    with WorldFile.create(tmp_path / "bare.mosaic", {"vae": meta.vae}) as bare:
        bare.insert(store.group(0).keyframe.__class__(**_tensors(store.group(0).keyframe)))
    ran = run("world", "info", tmp_path / "bare.mosaic", "--thumbnails", tmp_path / "x.png")
    assert ran.code == 3 and "none of its 1 frames has a small picture" in ran.err
    assert not (tmp_path / "x.png").exists()


def _tensors(key) -> dict:
    names = ("latents", "depth", "valid", "confidence", "camera", "stride", "patch", "frame", "time", "origin")
    return {name: getattr(key, name) for name in names}


def pictures(folder: Path) -> list[np.ndarray | None]:
    with WorldFile.open(folder / "world.mosaic") as world:
        return [world.thumbnail(group.uid) for group in world.store]


def test_generate_and_demo_write_small_pictures_of_what_they_remember(run, memory, path, tmp_path) -> None:
    out = tmp_path / "walk"
    assert (
        run("generate", "--memory", memory, "-t", path, "--frames", "0:3", "--model", "synthetic", "--out", out).code
        == 0
    )
    found = pictures(out / "memory")
    assert len(found) >= 5
    for kept, seen in zip(found, pictures(memory), strict=False):
        assert kept is not None and seen is not None
        assert np.abs(kept.astype(int) - seen).mean() < 3, "of what was there before too"
    argv = ("demo", "--num-frames", 5, "--width", 16, "--height", 16, "--model", "synthetic")
    assert run(*argv, "--out", tmp_path / "demo").code == 0
    kept = pictures(tmp_path / "demo" / "memory")
    assert kept and all(picture is not None and picture.shape == (16, 16, 3) for picture in kept)
    assert json.loads((tmp_path / "demo" / "run.json").read_text())["backend"].startswith("[synthetic] ")


def test_worlds_that_are_joined_keep_their_small_pictures(run, memory, world, tmp_path) -> None:
    own = pictures(memory)
    assert run("splice", memory, memory, "--out", tmp_path / "both").code == 0
    assert run("world", "merge", world, memory).code == 0
    for folder in (tmp_path / "both", world):
        both = pictures(folder)
        assert len(both) == 2 * len(own)
        assert all((a == b).all() for a, b in zip(both, own + own, strict=True) if a is not None and b is not None)
        assert all(picture is not None for picture in both)
