"""Bad files get a message that names them and says what was found and expected; exit 3, and nothing is written."""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.apps.conftest import SIZE, everything_in, write_recording

from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.trajectories import read_trajectory


def png_that_claims(width: int, height: int) -> bytes:
    """A valid PNG header over a few bytes of data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


def hub(viewmat: Sequence[float], n: int = 1) -> str:
    frame = {"t": 0.0, "viewmat": viewmat, "K": [40, 40, 24, 16]}
    frames = [{**frame, "t": i / 16} for i in range(n)]
    head = {"format": "mosaicmem.trajectory", "version": 1, "axes": "opencv", "width": 48, "height": 32}
    return json.dumps({**head, "frames": frames})


EYE = [1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
MIRROR = [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]

BAD_TRAJECTORIES = {
    "missing.json": (None, "no such file"),
    "empty.json": ("", "empty"),
    "truncated.json": (hub(EYE)[:-40], "not valid JSON"),
    "garbage.json": (bytes(range(128, 256)) * 9, "not recognised"),
    "garbage.tum": (b"\x00\xff\xfe\x80" * 50, ""),
    "nan.tum": ("0 nan 0 0 0 0 0 1\n", "M1"),
    "bomb.json": ("[" * 100_000 + "]" * 100_000, "nested deeper"),
    "mirror.json": (hub(MIRROR), "mirrored"),
    "zero.json": (hub(EYE, 0), "pose"),
    "transposed.json": (hub([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 3, 2, 1, 1]), "0 0 0 1"),
    "newer.json": (hub(EYE).replace('"version": 1', '"version": 99'), "99"),
    "number.json": ("3", ""),
}


@pytest.mark.parametrize("name", BAD_TRAJECTORIES)
@pytest.mark.parametrize("command", ["recall", "generate", "inspect", "visualize", "convert", "lint", "splice"])
def test_a_bad_trajectory_is_rejected_by_every_command(run, memory, path, tmp_path, name, command):
    content, words = BAD_TRAJECTORIES[name]
    bad, out = tmp_path / name, tmp_path / "out"
    if content is not None:
        bad.write_bytes(content if isinstance(content, bytes) else content.encode())
    before = everything_in(tmp_path)
    ran = run(
        *{
            "recall": ("recall", memory, "-t", bad, "--out", out),
            "generate": ("generate", "--memory", memory, "-t", bad, "--out", out, "--model", "synthetic"),
            "inspect": ("inspect", bad),
            "visualize": ("visualize", bad, "--out", out),
            "convert": ("convert", bad, "--out", out.with_suffix(".tum"), "--to", "tum"),
            "lint": ("lint", bad),
            "splice": ("splice", bad, path, "--out", out),
        }[command]
    )
    assert ran.code == 3, (ran.out, ran.err)
    said = ran.err + ran.out
    assert name in said
    assert words.lower() in said.lower()
    assert "this is a bug" not in said
    assert everything_in(tmp_path) == before


@pytest.mark.parametrize("poses", [1, 2])
def test_one_pose_and_duplicate_poses_are_fine(run, memory, tmp_path, poses):
    still = tmp_path / "still.json"
    first = read_trajectory(memory / "trajectory.json").viewmats[0].flatten().tolist()
    still.write_text(hub(first, poses))
    for argv in [
        ("recall", memory, "-t", still, "--out", tmp_path / "a"),
        ("generate", "--memory", memory, "-t", still, "--out", tmp_path / "b", "--model", "synthetic"),
        ("inspect", still),
        ("visualize", still, "--out", tmp_path / "c"),
        ("inspect", memory, "-t", still, "--coverage"),
    ]:
        ran = run(*argv, "--json")
        assert ran.code == 0, ran.err
    assert len(run("recall", memory, "-t", still, "--out", tmp_path / "d", "--json").json["frames"]) == poses


def break_memory(file: Path, how: str) -> None:
    """Spoil a world file."""
    if how in ("flipped", "trigger"):
        flip = "UPDATE contents SET depth = cast(zeroblob(1) || substr(depth, 2) AS blob) WHERE keyframe = 1"
        with sqlite3.connect(file) as db:
            db.execute(flip if how == "flipped" else "CREATE VIEW evil AS SELECT * FROM groups")
        db.close()
        return
    content = file.read_bytes()
    file.write_bytes(
        {
            "empty": b"",
            "truncated": content[: len(content) // 2],
            "garbage": b"\xff" * 500,
            "header bomb": content[:16] + b"\xff" * 84 + content[100:],
        }[how]
    )


@pytest.mark.parametrize("how", ["empty", "truncated", "garbage", "flipped", "trigger", "header bomb"])
@pytest.mark.parametrize("command", ["recall", "inspect", "visualize", "export-ply", "splice"])
def test_a_damaged_memory_is_rejected(run, memory, path, tmp_path, how, command):
    bad, out = tmp_path / "bad", tmp_path / "out"
    bad.mkdir()
    shutil.copyfile(memory / "world.mosaic", bad / "world.mosaic")
    break_memory(bad / "world.mosaic", how)
    before = everything_in(tmp_path)
    more = {"recall": ("-t", path), "splice": (memory,)}.get(command, ())
    ran = run(command, bad, *more, *(() if command == "inspect" else ("--out", out)))
    assert ran.code == 3, ran.err
    assert "world.mosaic" in ran.err
    assert everything_in(tmp_path) == before


def test_a_folder_that_is_no_memory_says_what_would_be_one(run, path, tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        ran = run("recall", folder, "-t", path, "--out", tmp_path / "out")
        assert ran.code == 3
        assert "expected a memory folder written by 'mosaicmem remember'" in ran.err


@pytest.fixture
def small(tmp_path):
    """A recording of three frames that a test may spoil."""
    viewmats = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    viewmats[:, 0, 3] = torch.tensor([0.0, -0.1, -0.2])
    cameras = Cameras.from_fov(viewmats, *SIZE)
    rgb = torch.rand(3, 3, SIZE[1], SIZE[0], generator=torch.Generator().manual_seed(0)) * 2 - 1
    return write_recording(tmp_path / "small", cameras, rgb, torch.full((3, SIZE[1], SIZE[0]), 2.0))


def image_of(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.zeros((height, width, 3), np.uint8))


SPOILERS = {
    "empty image": (lambda f: (f / "image/00001.png").write_bytes(b""), "00001.png"),
    "truncated image": (
        lambda f: (f / "image/00001.png").write_bytes((f / "image/00001.png").read_bytes()[:200]),
        "00001.png",
    ),
    "60000 x 60000": (
        lambda f: (f / "image/00001.png").write_bytes(png_that_claims(60_000, 60_000)),
        "3,600,000,000 pixels",
    ),
    "other size": (lambda f: image_of(20, 20).save(f / "image/00001.png"), "20x20 pixels, expected 48x32"),
    "other depth size": (
        lambda f: Image.fromarray(np.full((9, 9), 900, np.uint16)).save(f / "depth/00001.png"),
        "9x9 pixels, expected 48x32",
    ),
    "colour depth": (lambda f: image_of(48, 32).save(f / "depth/00001.png"), "single-channel"),
    "missing depth": (lambda f: (f / "depth/00001.png").unlink(), "2 in depth/"),
    "garbage depth": (lambda f: (f / "depth/00002.png").write_bytes(b"\x00\x01" * 99), "00002.png"),
    "no trajectory": (lambda f: (f / "trajectory.json").unlink(), "trajectory"),
    "mirrored": (lambda f: (f / "trajectory.json").write_text(hub(MIRROR, 3)), "mirrored"),
    "escape": (
        lambda f: [(f / "image/00001.png").unlink(), (f / "image/00001.png").symlink_to("/etc/hostname")],
        "outside",
    ),
    "zero depth": (
        lambda f: [Image.fromarray(np.zeros((32, 48), np.uint16)).save(f / f"depth/0000{i}.png") for i in range(3)],
        "no pixel",
    ),
    "other intrinsics": (
        lambda f: (f / "trajectory.json").write_text(hub(EYE, 3).replace("[40, 40, 24, 16]", "[600, 600, 320, 240]")),
        "do not fit 48x32",
    ),
}


@pytest.mark.parametrize("name", SPOILERS)
def test_a_spoiled_recording_is_rejected_with_the_file_and_the_reason(run, small, tmp_path, name):
    spoil, words = SPOILERS[name]
    spoil(small)
    before = everything_in(tmp_path)
    ran = run("remember", small, "--out", tmp_path / "out")
    assert ran.code == 3, ran.err
    assert words in ran.err
    assert "small" in ran.err
    assert everything_in(tmp_path) == before


def test_negative_and_unknown_depth_is_not_remembered(run, small, tmp_path):
    """Half the pixels negative, NaN or infinite: only the other half is read, and the report says so."""
    (small / "depth/00001.png").unlink()
    depth = np.full((SIZE[1], SIZE[0]), 2.0, np.float32)
    depth[:, ::4], depth[:, 1::4] = -1.0, np.nan
    np.save(small / "depth" / "00001.npy", depth)
    ran = run("remember", small, "--frames", "1", "--out", tmp_path / "out", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["depth_known"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ("0:99", "only 3 frames"),
        ("7", "frame 7 does not exist"),
        ("a", "expected start:stop:step"),
        ("2:1", "selects nothing"),
    ],
)
def test_frames_that_do_not_exist_are_named(run, small, tmp_path, frames, words):
    ran = run("remember", small, "--frames", frames, "--out", tmp_path / "out")
    assert ran.code == 3
    assert words in ran.err


def test_compare_needs_the_same_frames(run, small, memory, path, tmp_path):
    ran = run("recall", memory, "-t", path, "--compare", small, "--out", tmp_path / "out")
    assert ran.code == 3
    assert "has 3 frames, but frame 8 is asked for" in ran.err


@pytest.mark.parametrize("size", ["0x10", "10", "axb", "10x-3", "99999x99999", "50x30"])
def test_a_size_that_cannot_be_is_refused(run, small, tmp_path, size):
    ran = run("remember", small, "--size", size, "--out", tmp_path / "out")
    assert ran.code == 2
    assert "expected" in ran.err or "nearest" in ran.err
    assert not (tmp_path / "out").exists()


def test_start_images_and_depth_must_fit(run, small, path, tmp_path):
    image, out = small / "image/00000.png", tmp_path / "out"

    def start(image, depth):
        return run("generate", "--image", image, "--depth", depth, "-t", path, "--out", out, "--model", "synthetic")

    np.save(tmp_path / "other.npy", np.ones((5, 6)))
    np.save(tmp_path / "none.npy", np.zeros((SIZE[1], SIZE[0])))
    np.save(tmp_path / "flat.npy", np.zeros(5))
    (tmp_path / "huge.png").write_bytes(png_that_claims(60_000, 60_000))
    for bad, words in [
        ("other.npy", "6x5"),
        ("none.npy", "no depth above 0"),
        ("flat.npy", "[5]"),
        ("huge.png", "3,600,000,000 pixels"),
    ]:
        ran = start(image, tmp_path / bad)
        assert ran.code == 3
        assert bad in ran.err
        assert words in ran.err
    assert start(tmp_path / "huge.png", tmp_path / "other.npy").code == 3
    assert not out.exists()


MESSAGES = {
    ("recall", "nowhere", "-t", "path", "--out", "out"): (
        "error: nowhere: no such folder; expected a memory folder written by 'mosaicmem remember'\n"
    ),
    ("remember", "nowhere", "--out", "out"): (
        "error: nowhere: no such folder; expected a folder with an RGB-D recording\n"
    ),
    ("lint", "nowhere"): "error: nowhere: no such file or folder; check the path\n",
    ("export-ply", "nowhere"): "error: export-ply needs --out FILE: where should the cloud go?\n",
    ("bench", "--iterations", "0", "--width", "1"): (
        "error: --width = 1: expected 8 to 4096; --iterations = 0: expected 1 to 10000\n"
    ),
    ("demo", "--num-frames", "2", "--set", "demo.width=2", "--out", "out"): (
        "error: settings refused:\n  - demo: width = 2: expected 16 to 4096 pixels\n"
    ),
    ("show-config", "--set", "seed"): (
        "error: settings refused:\n  - --set 'seed': expected SECTION.KEY=VALUE, for example --set seed=7\n"
    ),
}


@pytest.mark.parametrize("argv", MESSAGES, ids=lambda argv: argv[0])
def test_messages_word_for_word(run, monkeypatch, tmp_path, argv):
    monkeypatch.chdir(tmp_path)
    assert run(*argv).err == MESSAGES[argv]
