"""What a world file says: memory as it is now, branches, the log, thumbnails, sizes."""

from __future__ import annotations

import hashlib
import sqlite3
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mosaicmem.errors import InputError
from mosaicmem.io.world.contents import ContentReader
from mosaicmem.io.world.history import Branch, Operation, chosen_branch, path_to, read_branches, read_operation
from mosaicmem.io.world.index import build_store, read_current
from mosaicmem.io.world.pictures import Picture, decode_picture
from mosaicmem.io.world.rows import decode_json, text
from mosaicmem.io.world.schema import in_file, row_digest, sql_errors
from mosaicmem.memory.patches import Group
from mosaicmem.memory.store import PatchStore


class WorldReader:
    """The half of `WorldFile` that changes nothing."""

    def __init__(self, path: Path, db: sqlite3.Connection, reader: ContentReader, meta: dict[str, Any]) -> None:
        self.path = path
        self.meta = meta
        """What the world was described with, JSON."""
        self._db, self._reader = db, reader
        weakref.finalize(reader, db.close)  # keyframes may outlive this object, and need the reader
        self._store: PatchStore | None = None
        self._current: dict[int, tuple[int, Group]] = {}  # by uid: row of `groups`, and the group

    def close(self) -> None:
        """End the session. Keyframes that were not read yet cannot be read any more."""
        with self._reader.lock:
            self._db.close()
            self._reader.clear()

    @property
    def store(self) -> PatchStore:
        """The memory of the branch that is checked out, its contents in the file.

        Raises:
            InputError: if the file is damaged.
        """
        if self._store is None:
            known = dict(self._current.values())
            with self._reader.lock, self._snapshot(), in_file(self.path):
                groups, keyframes = read_current(self._db)
                self._store, placed = build_store(groups, keyframes, self._reader, known)
            self._current = {group.uid: (row_id, group) for row_id, group in placed.items()}
        return self._store

    @property
    def branches(self) -> list[Branch]:
        """All branches, by name."""
        with self._reading():
            return list(read_branches(self._db).values())

    @property
    def head(self) -> Branch:
        """The branch that is checked out."""
        with self._reading():
            return chosen_branch(self._db)

    def log(self) -> list[Operation]:
        """What was done to the state that is checked out, newest first.

        Raises:
            InputError: if an operation is damaged.
        """
        with self._reading():
            return [read_operation(self._db, number_) for number_ in path_to(self._db, chosen_branch(self._db).head)]

    def digest(self) -> str:
        """Hex SHA-256 of the state that is checked out: equal exactly where every group and its contents are.

        It hashes the checksums that the file holds; `verify` says whether they are true.
        """
        digest = hashlib.sha256()
        query = (
            "SELECT g.uid, k.digest, g.world_from_cam, g.mask, g.pinned, g.until FROM current c "
            "JOIN groups g ON g.id = c.placed JOIN keyframes k ON k.id = g.keyframe ORDER BY g.uid"
        )
        with self._reading():
            for row in self._db.execute(query):
                digest.update(row_digest(*row))
        return digest.hexdigest()

    def thumbnail(self, uid: int) -> Picture | None:
        """The picture `[H W 3]` of the keyframe that a group places, if it has one.

        Raises:
            InputError: if it is damaged.
        """
        query = (
            "SELECT t.keyframe, t.picture, t.digest FROM thumbnails t JOIN groups g ON g.keyframe = t.keyframe "
            "JOIN current c ON c.placed = g.id WHERE c.uid = ?"
        )
        with self._reading():
            row = self._db.execute(query, (uid,)).fetchone()
            return None if row is None else decode_picture(row)

    def counts(self) -> dict[str, int]:
        """Rows and bytes: of the file, of what it stores, and of its history."""
        tables = ("keyframes", "groups", "operations", "branches", "thumbnails")
        with self._reading():
            found = {name: self._db.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}  # noqa: S608
            sizes = "length(valid) + length(depth) + length(confidence) + length(latents)"
            found["content_bytes"] = self._db.execute(f"SELECT coalesce(sum({sizes}), 0) FROM contents").fetchone()[0]  # noqa: S608
        return {**found, "file_bytes": self.path.stat().st_size}

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Reads of the block see one state of the file, whatever a writer does meanwhile."""
        with sql_errors(self.path):
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("ROLLBACK")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._reader.lock, self._snapshot(), in_file(self.path):
            yield


def read_meta(db: sqlite3.Connection, path: Path) -> dict[str, Any]:
    """What a world was described with.

    Raises:
        InputError: if it is damaged.
    """
    found: dict[str, Any] = {}
    with in_file(path):
        for key, value, digest in db.execute("SELECT key, value, digest FROM meta ORDER BY key"):
            if digest != row_digest(key, value):
                raise InputError(f"meta {key!r:.40}: it does not match its checksum")
            wrapped = decode_json(value, f"meta {key!r:.40}")
            if not isinstance(wrapped, dict) or set(wrapped) != {""}:
                raise InputError(f"meta {key!r:.40} is malformed")
            found[text(key, "meta: key")] = wrapped[""]
    return found
