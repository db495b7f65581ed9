"""Is a world file whole? Every byte that means something is read and held against its checksum."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, TypeVar

from mosaicmem.errors import InputError, MosaicMemError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.world.contents import ContentReader, camera_tensor, stored_keyframe
from mosaicmem.io.world.history import operation_and_changes, path_to, read_branches, replay
from mosaicmem.io.world.index import build_store, read_current
from mosaicmem.io.world.rows import GroupRow, KeyframeRow, decode_group, decode_keyframe, decode_mask, to_bytes
from mosaicmem.io.world.schema import COLUMNS, connect, row_digest, sql_errors
from mosaicmem.memory.patches import patch_depths

DAMAGE = (sqlite3.Error, MosaicMemError, OverflowError)
"""What reading a damaged file may raise."""

T = TypeVar("T", KeyframeRow, GroupRow)


def verify(path: Path | str) -> list[str]:
    """Read everything, check every checksum, replay the history. What is wrong, a sentence each; empty if nothing.

    Raises:
        InputError: if the file cannot be opened at all.
    """
    path = Path(path)
    problems: list[str] = []

    def check(task: Callable[[], object]) -> None:
        try:
            task()
        except DAMAGE as error:
            problems.append(str(error))

    def rows(table: str, decode: Callable[[Any], T]) -> Iterator[tuple[int, T]]:
        with suppress(sqlite3.Error):  # the integrity check above has said what is wrong with the pages
            for row in db.execute(f"SELECT {COLUMNS[table]} FROM {table}"):  # noqa: S608
                try:
                    yield row[0], decode(row)
                except InputError as error:
                    problems.append(str(error))

    with closing(connect(path, write=False)) as db, sql_errors(path):
        db.execute("BEGIN")
        check(lambda: problems.extend(row[0] for row in db.execute("PRAGMA integrity_check(20)") if row[0] != "ok"))
        keyframes, groups = dict(rows("keyframes", decode_keyframe)), dict(rows("groups", decode_group))
        reader = ContentReader(db, path, cache_bytes=0)
        for keyframe in keyframes.values():
            check(lambda row=keyframe: check_contents(reader, row))
        for group in groups.values():
            check(lambda row=group: check_group(row, keyframes))
        check(lambda: _check_history(db, groups))
        check(lambda: check_digests(db, "meta"))
        check(lambda: check_digests(db, "thumbnails"))
        check(lambda: build_store(*read_current(db), reader, {}))
    return list(dict.fromkeys(problems))


def check_contents(reader: ContentReader, row: KeyframeRow) -> None:
    """Read all of a keyframe and compare it with what its row says.

    Raises:
        InputError: if something is damaged.
    """
    numbers = camera_tensor([row])
    try:
        camera = Cameras(numbers[:, :16].reshape(1, 4, 4), numbers[:, 16:].reshape(1, 3, 3), row.width, row.height)
    except MosaicMemError as error:
        raise InputError(f"keyframe {row.id}: {error}") from error
    keyframe = stored_keyframe(reader, row, camera)
    if to_bytes(patch_depths(keyframe)) != row.depths:
        raise InputError(f"keyframe {row.id} (frame {row.frame}): its patch depths are not those of its depth")
    _ = keyframe.latents


def check_group(row: GroupRow, keyframes: dict[int, KeyframeRow]) -> None:
    """Raise `InputError` unless a group places a keyframe that is there, with a mask that fits it."""
    if row.keyframe not in keyframes:
        raise InputError(f"group {row.id}: its keyframe {row.keyframe} is missing or damaged")
    decode_mask(row, keyframes[row.keyframe].tokens)


def check_digests(db: sqlite3.Connection, table: str) -> None:
    """Raise `InputError` unless every row of a small table matches the checksum in its last column."""
    for row in db.execute(f"SELECT * FROM {table}"):  # noqa: S608
        if row[-1] != row_digest(*row[:-1]):
            raise InputError(f"{table}, {row[0]!r:.40}: it does not match its checksum")


def _check_history(db: sqlite3.Connection, groups: dict[int, GroupRow]) -> None:
    """Every operation is intact, every branch can be replayed, and `current` is what that gives."""
    for (number,) in db.execute("SELECT id FROM operations").fetchall():
        for uid, *placed in operation_and_changes(db, number)[1]:
            for row in placed:
                if row is not None and (row not in groups or groups[row].uid != uid):
                    raise InputError(f"operation {number}: group {row} of uid {uid} is missing or damaged")
    for branch in read_branches(db).values():
        state = replay(db, branch.head)
        if branch.redo is not None and branch.head is not None and branch.head not in path_to(db, branch.redo):
            raise InputError(f"branch {branch.name!r}: redo does not lead on from its head")
        replay(db, branch.redo)
        if branch.chosen and dict(db.execute("SELECT uid, placed FROM current ORDER BY uid")) != state:
            raise InputError(f"the state of branch {branch.name!r} is not what its operations give")
