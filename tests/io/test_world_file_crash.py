"""What was acknowledged is there after `kill -9`, a full disk, a folder that cannot be written, a second writer."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from tests.io.worlds import assert_same_group, edited, keyframes

from helpers import ROOT
from mosaicmem.errors import StorageError
from mosaicmem.io.store_file import save_store
from mosaicmem.io.world import WorldFile, compact, repair, verify
from mosaicmem.memory.store import PatchStore


def _kill(path: Path, kills: int, *more: str) -> dict[str, int]:
    path.parent.mkdir()
    ran = subprocess.run(
        [sys.executable, str(ROOT / "tests/io/world_crash.py"), str(path), str(kills), "1", *more],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'src'}"},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout)


def test_two_hundred_kills_at_random_instants_lose_nothing_acknowledged(tmp_path: Path) -> None:
    found = _kill(tmp_path / "folder" / "w.mosaic", 210)
    assert found["kills"] == 210 <= found["acknowledged"]
    assert found["lost"] == found["damaged"] == 0
    assert found["journals"] >= 10, "many were in the middle of a transaction"
    assert found["left"] == 1, "after the next opening only the world is there"


def test_a_writer_that_acknowledges_too_early_is_found_out(tmp_path: Path) -> None:
    """The control of the test above."""
    assert _kill(tmp_path / "folder" / "w.mosaic", 15, "liar")["lost"] > 0


@contextmanager
def _disk_of(path: Path, db: object, how: str, more: int) -> Iterator[None]:
    """Room for `more` bytes beyond what the file has."""
    size = path.stat().st_size + more
    if how == "pages":
        assert isinstance(db, WorldFile)
        db._db.execute(f"PRAGMA max_page_count = {size // 2048}")
        yield
        db._db.execute("PRAGMA max_page_count = 1073741823")
        return
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("how", ["pages", "limit"])
@pytest.mark.parametrize("more", [0, 3000])
def test_a_full_disk_is_an_error_and_the_world_is_as_before(tmp_path: Path, how: str, more: int) -> None:
    path = tmp_path / "w.mosaic"
    new = keyframes(40)
    with WorldFile.create(path) as world:
        world.insert(new[0])
        with _disk_of(path, world, how, more):
            done = 1
            with pytest.raises(StorageError, match=r"is the disk full\? The world is as it was before"):
                for keyframe in new[1:]:
                    world.insert(keyframe)
                    done += 1
            digest = world.digest()
            assert len(world.store) == len(world.log()) == done
            assert torch.equal(world.store.group(0).keyframe.latents, new[0].latents)
        world.insert(new[done])  # with room again, the same session goes on
        world.undo()
        assert world.digest() == digest
    assert verify(path) == []
    with WorldFile.open(path) as world:
        assert world.digest() == digest and len(world.store) == done


def test_a_full_disk_while_saving_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"")
    with _disk_of(tmp_path / "x", None, "limit", 15_000), pytest.raises(StorageError, match="full"):
        save_store(edited(), tmp_path / "w")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_where_no_journal_can_be_written_reading_goes_on(tmp_path: Path) -> None:
    """A name that leaves no room for that of a journal stands for a folder that cannot be written, which root could."""
    save_store(edited(), tmp_path / "w.mosaic")
    path = (tmp_path / "w.mosaic").rename(tmp_path / ("w" * 243 + ".mosaic"))
    with WorldFile.open(path) as world:
        digest = world.digest()
        assert len(world.store) == 4
    with WorldFile.open(path, write=True) as world:
        with pytest.raises(StorageError, match="the file and its folder must be writable"):
            world.insert(keyframes(1)[0])
        assert world.digest() == digest


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere; the test above stands in")
def test_a_read_only_folder_can_be_read_and_says_why_it_cannot_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    save_store(edited(), folder / "w.mosaic")
    folder.chmod(0o555)
    try:
        with WorldFile.open(folder / "w.mosaic") as world:
            assert len(world.store) == 4
        with pytest.raises(StorageError, match="writable"), WorldFile.open(folder / "w.mosaic", write=True) as world:
            world.insert(keyframes(1)[0])
        with pytest.raises(StorageError, match="cannot be created"):
            WorldFile.create(folder / "new.mosaic")
    finally:
        folder.chmod(0o755)


def test_there_is_one_writer_and_readers_come_and_go(tmp_path: Path) -> None:
    path = tmp_path / "w.mosaic"
    a, b, c = keyframes(3)
    with WorldFile.create(path) as world:
        world.insert(a)
        with WorldFile.open(path) as reader:
            assert len(reader.store) == 1
            world.insert(b)
            assert len(reader.store) == 1, "a reader's store does not change under its hands"
            assert torch.equal(reader.store.group(0).keyframe.latents, a.latents)
            with pytest.raises(StorageError, match="opened for reading; open it with write=True"):
                reader.insert(c)
        for write in (lambda: WorldFile.open(path, write=True), lambda: compact(path)):
            with pytest.raises(StorageError, match="another process is writing this world"):
                write()
        world.insert(c)
    with WorldFile.open(path, write=True) as world:
        assert len(world.store) == 3


def test_a_file_that_was_replaced_while_it_was_opened_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compacting in another process, between our finding the file and our lock on it."""
    from mosaicmem.io.world import world_file

    path, connect, calls = tmp_path / "w.mosaic", world_file.connect, list[int]()
    save_store(edited(), path)

    def slow(*args: object, **kwargs: object) -> object:
        db = connect(*args, **kwargs)  # pyright: ignore[reportArgumentType]
        calls.append(1)
        if len(calls) == 1:
            compact(path)
        return db

    monkeypatch.setattr(world_file, "connect", slow)
    with WorldFile.open(path, write=True) as world:
        world.insert(keyframes(1)[0])
    monkeypatch.undo()
    assert len(calls) == 2
    with WorldFile.open(path) as world:
        assert len(world.store) == 5


def test_a_journal_left_behind_is_rolled_back_for_readers_too(tmp_path: Path) -> None:
    path = tmp_path / "w.mosaic"
    save_store(edited(), path)
    with WorldFile.open(path) as world:
        digest = world.digest()
    with WorldFile.open(path, write=True) as world:
        world._db.execute("PRAGMA cache_size = 1")  # so that pages go to the file before the commit
        world._db.execute("UPDATE groups SET uid = uid + 100, mask = zeroblob(20000)")
        for suffix in ("", "-journal"):
            shutil.copyfile(path.with_name(path.name + suffix), tmp_path / f"killed.mosaic{suffix}")
    assert (tmp_path / "killed.mosaic-journal").stat().st_size > 0
    with WorldFile.open(tmp_path / "killed.mosaic") as world:
        assert world.digest() == digest
    assert not (tmp_path / "killed.mosaic-journal").exists()


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A world of three keyframes whose writer was killed in the middle of a transaction; its journal lies beside it."""
    path = tmp_path / "killed.mosaic"
    with WorldFile.create(path, {}) as world:
        for keyframe in keyframes(3):
            world.insert(keyframe)
    pid = os.fork()
    if not pid:
        try:
            world = WorldFile.open(path, write=True)
            world._db.execute("PRAGMA cache_size = 2")  # pages reach the file before the commit
            for table in ("keyframes", "groups", "contents"):
                world._db.execute(f"UPDATE {table} SET {'keyframe' if table == 'contents' else 'id'} = 100 + rowid")
            world._db.execute("INSERT INTO contents VALUES (1, x'', x'', x'', zeroblob(200000))")
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(3)
    os.waitpid(pid, 0)
    assert path.with_name("killed.mosaic-journal").exists()
    return path


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("how", ["save_store", "create"])
def test_a_journal_left_behind_is_not_rolled_back_into_what_replaces_its_world(
    killed: Path, how: str, gone: bool
) -> None:
    if gone:
        killed.unlink()
    (new,) = keyframes(1, seed=9)
    if how == "save_store":
        save_store(PatchStore.empty().insert(new), killed, overwrite=True)
    else:
        with WorldFile.create(killed, {}, overwrite=True) as world:
            world.insert(new)
    assert verify(killed) == []
    with WorldFile.open(killed) as world:
        assert_same_group(world.store.group(0), PatchStore.empty().insert(new).group(0))


def test_a_killed_world_is_repaired_onto_itself_and_through_a_link(killed: Path) -> None:
    link = killed.with_name("link.mosaic")
    link.symlink_to(killed)
    for source, out in ((link, killed.with_name("out.mosaic")), (killed, killed)):
        found = repair(source, out, overwrite=True)
        assert (found.keyframes, found.operations, found.lost) == (3, 3, [])
        assert verify(out) == []


def test_a_world_that_is_being_written_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "w.mosaic"
    with WorldFile.create(path, {}) as world:
        with pytest.raises(StorageError, match="another process is writing"):
            save_store(PatchStore.empty(), path, overwrite=True)
        world.insert(keyframes(1)[0])
    assert verify(path) == []
