"""`mosaicmem world`: what is in a world file, whether it is whole, its history and branches; old memories are read."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.apps.conftest import everything_in
from tests.io.old_memory import save_old

from mosaicmem.apps.cli.memory_folder import load_memory
from mosaicmem.apps.cli.world import PARTS
from mosaicmem.io.store_file import load_store
from mosaicmem.io.world import WorldFile


@pytest.fixture
def world(memory: Path, tmp_path: Path) -> Path:
    """A copy of the memory folder that a test may change."""
    shutil.copytree(memory, tmp_path / "world")
    return tmp_path / "world"


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_help_with_an_example(run, part: str) -> None:
    ran = run("world", part, "--help")
    assert ran.code == 0 and f"mosaicmem world {part} " in ran.out


def test_the_part_comes_first_and_must_exist(run) -> None:
    assert "did you mean verify?" in run("world", "verfy", "x").err
    assert run("world", "--seed", "3", "log").code == 2
    for part in set(PARTS) - {"import"}:  # which reads what is no world file
        ran = run("world", part, "nowhere", *{"merge": ["b"], "checkout": ["b"]}.get(part, []), "--out", "x")
        assert (ran.code, "no world file" in ran.err) == (3, True), part


def test_info_and_log_say_what_is_there(run, world: Path) -> None:
    store, meta = load_memory(world)
    found = run("world", "info", world, "--json").json
    assert (found["shown_groups"], found["shown_patches"]) == (len(store), store.num_patches)
    assert found["file_bytes"] == (world / "world.mosaic").stat().st_size
    assert found["thumbnails"] == len(store) and found["meta"]["vae"] == meta.vae
    assert "digest" in run("world", "info", world / "world.mosaic").out
    assert [o["kind"] for o in run("world", "log", world, "--json").json["operations"]] == ["remember"]
    assert "remember" in run("world", "log", world).out


def test_undo_redo_branch_and_checkout(run, world: Path) -> None:
    file = world / "world.mosaic"
    with WorldFile.open(file, write=True) as opened:
        opened.apply("erase", {"sphere": [0, 0, 0, 1]}, type(opened.store).from_groups(opened.store.groups[:2]))
        digest = opened.digest()
    assert run("world", "branch", world, "whole", "--at", "1", "--json").json["operation"] == 1
    assert run("world", "undo", world, "--json").json["operations"][0]["arguments"] == {"sphere": [0, 0, 0, 1]}
    assert run("inspect", world, "--json").json["keyframes"] > 2
    assert run("world", "undo", world, "--steps", "2").code == 2, (
        "one step is left, and half of it is done: nothing lost"
    )
    assert run("world", "redo", world, "--steps", "2").code == 0
    assert run("inspect", world, "--json").json["keyframes"] == 2
    assert run("world", "checkout", world, "whole", "--json").json["patches"] == load_store(file)[0].num_patches
    rows = run("world", "branch", world, "--json").json["branches"]
    assert [(b["name"], b["checked_out"]) for b in rows] == [("main", False), ("whole", True)]
    assert run("world", "checkout", world, "nowhere").code == 2
    run("world", "checkout", world, "main")
    with WorldFile.open(file) as opened:
        assert opened.digest() == digest


def test_verify_and_repair(run, world: Path, tmp_path: Path) -> None:
    assert run("world", "verify", world, "--json").json["ok"] is True
    with closing(sqlite3.connect(world / "world.mosaic")) as db, db:
        db.execute("UPDATE contents SET latents = zeroblob(length(latents)) WHERE keyframe = 2")
    ran = run("world", "verify", world)
    assert ran.code == 3 and "keyframe 2" in ran.out
    assert run("world", "repair", world).code == 2, "it needs --out"
    fixed = tmp_path / "fixed.mosaic"
    found = run("world", "repair", world, "--out", fixed, "--json").json
    assert found["lost"] and not found["history"]
    assert run("world", "repair", world, "--out", fixed).code == 2, "it exists"
    assert run("world", "verify", fixed).code == 0
    assert len(load_memory(fixed)[0]) == len(load_memory(world)[0]) - 1


def test_merge_and_compact(run, world: Path, memory: Path) -> None:
    count = load_memory(memory)[0].num_patches
    before = everything_in(world)
    found = run("world", "merge", world, memory, "--json").json
    assert (found["added"], found["patches"]) == (count, 2 * count)
    assert run("world", "undo", world).code == 0
    with WorldFile.open(world / "world.mosaic", write=True) as opened:
        opened.branch("here")
        opened.insert(opened.store.group(0).keyframe)  # what could be redone no longer can
        opened.undo()
        digest = opened.digest()
    found = run("world", "compact", world, "--json").json
    assert found["bytes"] < found["bytes_before"]
    assert run("world", "compact", world, "--forget-history").code == 0
    assert run("world", "verify", world).code == 0
    assert everything_in(world) == before
    with WorldFile.open(world / "world.mosaic") as opened:
        assert opened.digest() == digest


def test_worlds_of_different_latent_spaces_do_not_merge(run, world: Path, recording: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert run("remember", recording, "--frames", "0", "--size", "32x32", "--out", other).code == 0
    ran = run("world", "merge", world, other)
    assert ran.code == 3 and "do not share one latent space" in ran.err


def test_a_memory_of_the_version_before_is_read_by_every_command(run, memory: Path, path: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    store, meta = load_store(memory / "world.mosaic")
    save_old(store, old / "memory.safetensors", meta)
    kept = run("inspect", memory, "--coverage", "--json").json
    assert run("inspect", old, "--coverage", "--json").json == kept
    assert run("recall", old, "-t", path, "--frames", "0", "--out", tmp_path / "r").code == 0
    ran = run("world", "undo", old)
    assert ran.code == 3 and "a memory of version 0.2" in ran.err
    assert run("splice", old, old, "--out", tmp_path / "new").code == 0
    assert run("world", "verify", tmp_path / "new").code == 0
    ran = run("world", "merge", tmp_path / "new", old, "--json")
    assert (ran.code, ran.json["added"]) == (0, store.num_patches)
    assert run("world", "verify", tmp_path / "new").code == 0
    ran = run("edit", old, "erase", "--all")
    assert ran.code == 3 and "mosaicmem splice" in ran.err
