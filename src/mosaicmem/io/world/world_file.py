"""`WorldFile`: a world as one file that is written while it is walked through."""

from __future__ import annotations

import sqlite3
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError, InputError, StorageError
from mosaicmem.io.files import require_file
from mosaicmem.io.world.contents import DEFAULT_CACHE_BYTES, ContentReader, stored_contents, stored_keyframe
from mosaicmem.io.world.history import (
    Branch,
    Change,
    Operation,
    chosen_branch,
    path_to,
    read_branches,
    read_operation,
    record,
    travel,
    write_branch,
)
from mosaicmem.io.world.index import no_placement
from mosaicmem.io.world.pictures import Picture, decode_picture, encode_picture
from mosaicmem.io.world.reading import WorldReader, read_meta
from mosaicmem.io.world.rows import (
    decode_geometry,
    decode_group,
    decode_keyframe,
    decode_latents,
    encode_group,
    encode_json,
    encode_keyframe,
)
from mosaicmem.io.world.schema import (
    connect,
    in_file,
    initialise,
    os_errors,
    replacing,
    row_digest,
    sql_errors,
    take_write_lock,
)
from mosaicmem.memory.editing import splice
from mosaicmem.memory.patches import Group, Keyframe
from mosaicmem.memory.store import PatchStore

MAIN = "main"


class WorldFile(WorldReader):
    """A world on disk. Make one with `create` or `open`; use it in a `with` block, or `close` it.

    What a method that writes has returned from survives a kill and a power cut. There is one writer at a time, from
    `open` to `close`; readers come and go, and their `store` is the file as it was when they first asked for it.
    Keyframes of `store` read their tensors from the file when they are used, so it must stay open that long.
    """

    def __init__(
        self, path: Path, db: sqlite3.Connection, reader: ContentReader, meta: dict[str, Any], clock: Clock | None
    ) -> None:
        super().__init__(path, db, reader, meta)
        self._clock = clock
        self._written: weakref.WeakKeyDictionary[Keyframe, int] = weakref.WeakKeyDictionary()

    @staticmethod
    def create(
        path: Path | str,
        meta: Mapping[str, Any] | None = None,
        *,
        overwrite: bool = False,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        clock: Clock | None = time.time,
    ) -> WorldFile:
        """A new, empty world, open for writing.

        Args:
            path: The file, by convention `*.mosaic`.
            meta: What JSON can hold; comes back unchanged.
            overwrite: Whether an existing file may be replaced.
            cache_bytes: Room for contents read from the file.
            clock: Seconds since 1970 for the log; None writes no times, and equal work gives equal bytes.

        Raises:
            OutputExistsError: if the file exists; InputError: if `meta` is not JSON; StorageError: if it cannot be
                written, or another process writes the world that it would replace.
        """
        path = Path(path)
        rows = [(key, encode_json({"": value}, f"meta {key!r}")) for key, value in (meta or {}).items()]
        with sql_errors(path), os_errors(path), replacing(path, overwrite=overwrite) as temporary:
            initialise(temporary)
            db = connect(temporary, write=True)
            try:
                db.execute("BEGIN IMMEDIATE")
                for key, value in rows:
                    db.execute("INSERT INTO meta VALUES (?, ?, ?)", (key, value, row_digest(key, value)))
                write_branch(db, Branch(MAIN, None, None, True))
                db.execute("COMMIT")
            finally:
                db.close()
        return WorldFile.open(path, write=True, cache_bytes=cache_bytes, clock=clock)

    @staticmethod
    def open(
        path: Path | str,
        *,
        write: bool = False,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        clock: Clock | None = time.time,
    ) -> WorldFile:
        """An existing world. Nothing but its description is read until it is used.

        Raises:
            FormatVersionError: if a newer version wrote it; InputError: if it is missing, damaged or no world file;
                StorageError: if it is to be written and cannot be, or another process writes it.
        """
        path = Path(path)
        while True:
            number_ = require_file(path).stat().st_ino
            db = connect(path, write=write)
            try:
                with sql_errors(path):
                    if write:
                        take_write_lock(db, path)
                    meta = read_meta(db, path)
                # compacting replaces the file: what was locked must still be what the name stands for
                if not write or path.stat().st_ino == number_:
                    return WorldFile(path, db, ContentReader(db, path, cache_bytes), meta, clock if write else None)
            except BaseException:
                db.close()
                raise
            db.close()

    def __enter__(self) -> WorldFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ writing

    def insert(
        self,
        keyframe: Keyframe,
        *,
        model: str | None = None,
        seed: int | None = None,
        note: str = "",
        thumbnail: Picture | None = None,
    ) -> Operation:
        """Remember one keyframe more, at its own camera. Durable on return; costs what the keyframe costs.

        Args:
            model, seed: What generated it.
            note: Free words for the log.
            thumbnail: `[H W 3]` picture of the frame, kept small.

        Raises:
            GeometryError: if it does not fit what is stored; StorageError: if it could not be written. The world is
                then as it was.
        """
        before = self.store
        with self._operation():
            row_id, stored = self._add_keyframe(keyframe, model, seed, thumbnail)
            store = before.insert(stored)
            group = store.group(len(store) - 1)
            placed = self._add_group(group, row_id)
            operation = self._record("insert", {"frame": keyframe.frame}, note, [(group.uid, None, placed)])
        self._written[keyframe] = row_id
        self._current[group.uid] = placed, group
        self._store = store
        return operation

    def apply(
        self,
        kind: str,
        arguments: Mapping[str, Any],
        store: PatchStore,
        *,
        note: str = "",
        model: str | None = None,
        seed: int | None = None,
        thumbnails: Mapping[Keyframe, Picture] | None = None,
    ) -> Operation | None:
        """Make `store` the state of this branch: what differs from it now, by uid, becomes one operation.

        Args:
            kind: Name of the edit, such as `move`.
            arguments: Its arguments for the log, JSON.
            store: What the edit gave; usually made from `world.store`. Keyframes of other files are copied.
            note: Free words for the log.
            model, seed: What generated the keyframes that are new; those of other files keep their own.
            thumbnails: Pictures of new keyframes.

        Returns:
            The operation, or None where nothing differs and nothing was written.

        Raises:
            InputError: if a keyframe to be copied is damaged, or a group could not be read again: one that is placed by
                no rigid transform or similarity, or ends at no finite second; StorageError: if it could not be written.
                The world is then as it was.
        """
        _ = self.store
        if (bad := no_placement(store.places)) is not None:
            raise InputError(f"group {store.group(bad).uid}: placed by no rigid transform or similarity")
        left, pictures, fresh = dict(self._current), thumbnails or {}, dict[Keyframe, int]()
        with self._operation():
            changes: list[Change] = []
            for group in store:
                row_id, old = left.pop(group.uid, (None, None))
                if old is not None and self._same(old, group):
                    continue
                keyframe = group.keyframe
                home = fresh.get(keyframe) or self._row_of(keyframe)
                if home is None:
                    home, _ = self._add_keyframe(keyframe, model, seed, pictures.get(keyframe))
                    fresh[keyframe] = home
                changes.append((group.uid, row_id, self._add_group(group, home)))
            changes += [(uid, row_id, None) for uid, (row_id, _) in left.items()]
            operation = self._record(kind, dict(arguments), note, changes) if changes else None
        self._written.update(fresh)
        if operation is not None:
            self._store = None
        return operation

    def merge(
        self, other: WorldFile, self_from_other: Float[Tensor, "4 4"] | None = None, *, note: str = ""
    ) -> Operation | None:
        """Add what another world holds now, moved by a rigid transform or a similarity, as one operation.

        Raises:
            GeometryError: if the two belong to different latent spaces.
        """
        store = splice(self.store, other.store, self_from_other)
        where = None if self_from_other is None else self_from_other.tolist()
        return self.apply("merge", {"file": other.path.name, "self_from_other": where}, store, note=note)

    def undo(self) -> Operation:
        """Take back the newest operation of this branch, bit for bit, and return it.

        Raises:
            ConfigError: if there is none.
        """
        with self._operation():
            branch = chosen_branch(self._db)
            if branch.head is None:
                raise ConfigError(f"nothing to undo: branch {branch.name!r} is at its beginning")
            operation = read_operation(self._db, branch.head)
            with in_file(self.path):
                travel(self._db, branch.head, operation.parent)
            write_branch(self._db, Branch(branch.name, operation.parent, branch.redo or branch.head, True))
        self._store = None
        return operation

    def redo(self) -> Operation:
        """Do again what was undone last, and return it. Possible until something else is written.

        Raises:
            ConfigError: if there is nothing.
        """
        with self._operation():
            branch = chosen_branch(self._db)
            ahead = path_to(self._db, branch.redo)
            place = ahead.index(branch.head) if branch.head in ahead else len(ahead)
            if not place:
                raise ConfigError(f"nothing to redo on branch {branch.name!r}")
            following = ahead[place - 1]
            with in_file(self.path):
                travel(self._db, branch.head, following)
            write_branch(self._db, Branch(branch.name, following, branch.redo if place > 1 else None, True))
            operation = read_operation(self._db, following)
        self._store = None
        return operation

    def branch(self, name: str, at: int | None = None) -> Branch:
        """A new branch that begins at operation `at`, by default where this one is. It is not checked out.

        Raises:
            ConfigError: if the name is taken or empty; InputError: if there is no such operation.
        """
        if not 0 < len(name) <= 128 or not name.isprintable():
            raise ConfigError(f"branch {name!r}: expected a name of 1 to 128 printable characters")
        with self._operation():
            if name in read_branches(self._db):
                raise ConfigError(f"branch {name!r} exists already; choose another name")
            head = chosen_branch(self._db).head if at is None else read_operation(self._db, at).id
            made = Branch(name, head, None, False)
            write_branch(self._db, made)
        return made

    def checkout(self, name: str) -> Branch:
        """Make `store` the state of another branch.

        Raises:
            ConfigError: if there is no such branch.
        """
        with self._operation():
            branches = read_branches(self._db)
            if name not in branches:
                raise ConfigError(f"no branch {name!r}; there are {', '.join(map(repr, branches))}")
            before, after = chosen_branch(self._db), branches[name]
            if before.name != name:
                with in_file(self.path):
                    travel(self._db, before.head, after.head)
                write_branch(self._db, Branch(before.name, before.head, before.redo, False))
            after = Branch(name, after.head, after.redo, True)
            write_branch(self._db, after)
        self._store = None
        return after

    def describe(self, meta: Mapping[str, Any]) -> None:
        """Replace the description of the world. Not part of the history."""
        rows = [(key, encode_json({"": value}, f"meta {key!r}")) for key, value in meta.items()]
        with self._operation():
            self._db.execute("DELETE FROM meta")
            self._db.executemany("INSERT INTO meta VALUES (?, ?, ?)", [(*row, row_digest(*row)) for row in rows])
        self.meta = dict(meta)

    # ------------------------------------------------------------------ inside

    def _add_keyframe(
        self, keyframe: Keyframe, model: str | None, seed: int | None, thumbnail: Picture | None
    ) -> tuple[int, Keyframe]:
        """Write a keyframe; its row, and itself as a keyframe of this file. What was just written is warm.

        One of another file keeps what made it, and its thumbnail.
        """
        other, picture = stored_contents(keyframe), None if thumbnail is None else encode_picture(thumbnail)
        if other is not None:
            model, seed = other.row.model, other.row.seed
            if picture is None and (held := other.reader.thumbnail(other.row.id)) is not None:
                decode_picture(held)  # refuses what is damaged
                picture = held[1]
        row_id = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM keyframes").fetchone()[0]
        row, contents = encode_keyframe(keyframe, row_id, model, seed)
        marks = ", ".join("?" * len(row))
        self._db.execute(f"INSERT INTO keyframes VALUES ({marks})", row)  # noqa: S608
        self._db.execute("INSERT INTO contents VALUES (?, ?, ?, ?, ?)", contents)
        if picture is not None:
            self._db.execute("INSERT INTO thumbnails VALUES (?, ?, ?)", (row_id, picture, row_digest(row_id, picture)))
        decoded, blobs = decode_keyframe(row), contents[1:]
        valid, depth, confidence, latents = (value for value in blobs if isinstance(value, bytes))
        self._reader.keep((row_id, False), decode_geometry(decoded, valid, depth, confidence))
        self._reader.keep((row_id, True), decode_latents(decoded, latents))
        return row_id, stored_keyframe(self._reader, decoded, keyframe.camera.to(dtype=torch.float64, device="cpu"))

    def _add_group(self, group: Group, keyframe_id: int) -> int:
        row_id = self._db.execute("SELECT coalesce(max(id), 0) + 1 FROM groups").fetchone()[0]
        row = encode_group(group, row_id, keyframe_id)
        decode_group(row)
        self._db.execute("INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        return row_id

    def _record(self, kind: str, arguments: dict[str, Any], note: str, changes: list[Change]) -> Operation:
        moment = None if self._clock is None else self._clock()
        return record(self._db, kind, arguments, note, moment, changes)

    def _row_of(self, keyframe: Keyframe) -> int | None:
        """Row of a keyframe that this file holds already."""
        contents = stored_contents(keyframe)
        if contents is not None and contents.reader is self._reader:
            return contents.row.id
        return self._written.get(keyframe)

    def _same(self, a: Group, b: Group) -> bool:
        if a is b:
            return True
        if self._row_of(a.keyframe) != self._row_of(b.keyframe) or (a.pinned, a.until) != (b.pinned, b.until):
            return False
        if not torch.equal(a.world_from_cam.double(), b.world_from_cam.double()):
            return False
        return a.mask is b.mask or (a.mask is not None and b.mask is not None and torch.equal(a.mask, b.mask))

    @contextmanager
    def _operation(self) -> Iterator[None]:
        """One transaction: all of the block, durable when it ends, or nothing of it.

        Between operations the write lock is held by an open transaction that has written nothing.
        """
        with self._reader.lock, sql_errors(self.path):
            if self._db.execute("PRAGMA query_only").fetchone()[0]:
                raise StorageError(f"{self.path}: opened for reading; open it with write=True to change it")
            if not self._db.in_transaction:
                take_write_lock(self._db, self.path)
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._store = None
                take_write_lock(self._db, self.path)
                raise
            take_write_lock(self._db, self.path)


Clock = Callable[[], float]
