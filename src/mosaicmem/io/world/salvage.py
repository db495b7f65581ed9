"""Bringing out of a damaged file what is intact."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mosaicmem.errors import FormatVersionError, InputError
from mosaicmem.geometry.se3 import invert_rigid
from mosaicmem.io.files import refuse_existing, require_file
from mosaicmem.io.world.checks import DAMAGE, check_contents, check_group
from mosaicmem.io.world.compaction import copy_rows, fresh_world
from mosaicmem.io.world.contents import ContentReader, camera_tensor
from mosaicmem.io.world.history import (
    Branch,
    Change,
    Operation,
    operation_and_changes,
    read_branches,
    replay,
    write_branch,
    write_operation,
)
from mosaicmem.io.world.rows import GroupRow, KeyframeRow, decode_group, decode_keyframe, to_bytes
from mosaicmem.io.world.schema import (
    COLUMNS,
    PAGE_BYTES,
    Row,
    connect,
    initialise,
    os_errors,
    replacing,
    row_digest,
)

_ROWS_PER_PAGE = 64  # no table that is looked up by number has rows of less than 32 bytes


@dataclass(frozen=True)
class Repair:
    """What a repair brought out.

    Attributes:
        keyframes, groups, operations: Rows that are intact and stand in the new file.
        history: Whether every operation could be kept; else the state is one operation, `repair`.
        lost: What could not be kept, a sentence each.
    """

    keyframes: int
    groups: int
    operations: int
    history: bool
    lost: list[str] = field(default_factory=list)


def repair(path: Path | str, out: Path | str, *, overwrite: bool = False) -> Repair:
    """Copy what is intact into a new file. The damaged one is not touched.

    Every row is judged by its own checksum. The history is kept if all of it is intact; otherwise the state that was
    checked out, as far as it is intact, becomes the only operation.

    Raises:
        FormatVersionError: if a newer version wrote the file; InputError: if nothing in it can be read.
        OutputExistsError: if `out` exists and `overwrite` is false.
    """
    path, out = require_file(Path(path)), Path(out)
    refuse_existing(out, overwrite)
    with os_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.stem}.") as folder:
            copy = _mended_copy(path, Path(folder))
            with closing(sqlite3.connect(copy, isolation_level=None)) as db:
                db.text_factory = lambda data: data.decode("utf-8", "replace")
                found = _Intact(db, copy)
                if not (found.keyframes or found.groups or found.changes):
                    raise InputError(f"{path}: nothing in it can be read as part of a world")
                with replacing(out, overwrite=overwrite) as temporary:
                    return found.write(temporary)


def _mended_copy(path: Path, folder: Path) -> Path:
    """A copy of the file that SQLite can open.

    A journal is rolled back. If the first page, with the header and the table of tables, does not fit the rest, it is
    replaced by that of an empty world: all worlds of one version have the same tables at the same pages.
    """
    copy = folder / "copy"
    shutil.copyfile(path, copy)
    journal = path.resolve()  # of a link, it lies beside what that leads to
    journal = journal.with_name(journal.name + "-journal")
    if journal.is_file():
        shutil.copyfile(journal, folder / "copy-journal")
    try:
        connect(copy, write=True).close()
    except FormatVersionError:
        raise
    except DAMAGE:
        (folder / "copy-journal").unlink(missing_ok=True)
        initialise(folder / "empty")
        page = bytearray((folder / "empty").read_bytes()[:PAGE_BYTES])
        page[28:32] = max(copy.stat().st_size // PAGE_BYTES, 1).to_bytes(4, "big")
        with copy.open("r+b") as file:
            file.write(page)
    return copy


class _Intact:
    """The intact rows of a file."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self.db, self.lost, self.rescued = db, list[str](), list[Row]()
        self.most = _ROWS_PER_PAGE * (path.stat().st_size // PAGE_BYTES + 1)
        self.changes: dict[int, list[Change]] = {}
        for row in self._both_ways("SELECT operation, uid, before, after FROM changes ORDER BY operation", "changes"):
            if all(isinstance(value, int | None) for value in row):
                self.changes.setdefault(row[0], []).append(row[1:])
        self.current = {
            row[0]: row[1]
            for row in self._both_ways("SELECT uid, placed FROM current ORDER BY uid", "the state")
            if all(isinstance(value, int) for value in row)
        }
        self.keyframes: dict[int, KeyframeRow] = {}
        reader = ContentReader(db, path, cache_bytes=0)
        for number, row in self._by_number("keyframes"):
            with self._judged(f"keyframe {number}"):
                decoded = decode_keyframe(row)
                check_contents(reader, decoded)
                self.keyframes[number] = decoded
        self.groups: dict[int, GroupRow] = {}
        for number, row in self._by_number("groups"):
            with self._judged(f"group {number}"):
                decoded = decode_group(row)
                check_group(decoded, self.keyframes)
                self.groups[number] = decoded

        self._orphans()

    def _orphans(self) -> None:
        """Keyframes whose groups are all lost get a new one, where they were seen from."""
        placed = {group.keyframe for group in self.groups.values()}
        number = 1 + max([*self.groups, *(row for row in self.current.values()), 0])
        uid = 1 + max([*(group.uid for group in self.groups.values()), *self.current, -1])
        for row in (row for row in self.keyframes.values() if row.id not in placed):
            camera = camera_tensor([row])[0, :16].reshape(4, 4)
            values: Row = (number, uid, row.id, to_bytes(invert_rigid(camera)), None, 0, None)
            self.rescued.append((*values, row_digest(*values)))
            self.groups[number] = decode_group(self.rescued[-1])
            self.current[uid] = number
            self.lost.append(f"the place of keyframe {row.id} (frame {row.frame}); it is put where it was seen from")
            number, uid = number + 1, uid + 1

    def write(self, path: Path) -> Repair:
        """Put everything into a new file."""
        with fresh_world(path) as new:
            copy_rows(self.db, new, "keyframes", self.keyframes)
            copy_rows(self.db, new, "contents", self.keyframes, "keyframe")
            copy_rows(self.db, new, "groups", self.groups.keys() - {row[0] for row in self.rescued})
            new.executemany("INSERT INTO groups VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self.rescued)
            self._small_tables(new)
            history = self._history()
            if history is not None:
                branches, state = history
                copy_rows(self.db, new, "operations", self.changes)
                copy_rows(self.db, new, "changes", self.changes, "operation")
                for branch in branches:
                    write_branch(new, branch)
            else:
                state = self._state()
                write_operation(new, Operation(1, None, "repair", {}), [(uid, None, row) for uid, row in state.items()])
                write_branch(new, Branch("main", 1, None, True))
            new.executemany("INSERT INTO current VALUES (?, ?)", sorted(state.items()))
            counts = [new.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in _COUNTED]  # noqa: S608
        return Repair(counts[0], counts[1], counts[2], history is not None, list(dict.fromkeys(self.lost)))

    def _history(self) -> tuple[list[Branch], dict[int, int]] | None:
        """All branches, and the state of the one checked out, if every operation is intact."""
        state: dict[int, int] = {}
        if self.rescued:
            return None
        try:
            numbers = {number for (number,) in self.db.execute("SELECT id FROM operations")}
            branches = list(read_branches(self.db).values())
            for number in numbers:
                for _, *placed in operation_and_changes(self.db, number)[1]:
                    if not {row for row in placed if row is not None} <= set(self.groups):
                        raise InputError(f"operation {number} needs a group that is lost")
            for branch in branches:
                replayed = replay(self.db, branch.head)
                replay(self.db, branch.redo)
                state = replayed if branch.chosen else state
        except DAMAGE as error:
            self.lost.append(f"the history ({error})")
            return None
        self.changes = {number: [] for number in numbers}
        return branches, state

    def _state(self) -> dict[int, int]:
        """The groups checked out, as far as they are intact; from the log where the list of them is damaged."""
        state = dict(self.current)
        if "the state, in part" in self.lost or not state:
            for number in sorted(self.changes):
                for uid, _, after in self.changes[number]:
                    if uid not in self.current and after is not None:
                        state[uid] = after
                    elif uid not in self.current:
                        state.pop(uid, None)
        kept = {uid: row for uid, row in state.items() if row in self.groups and self.groups[row].uid == uid}
        self.lost += [f"the place of uid {uid}" for uid in sorted(state.keys() - kept.keys())]
        return kept

    def _small_tables(self, new: sqlite3.Connection) -> None:
        for table in ("meta", "thumbnails"):
            key = "key" if table == "meta" else "keyframe"
            for row in self._both_ways(f"SELECT * FROM {table} ORDER BY {key}", table):  # noqa: S608
                if row[-1] != row_digest(*row[:-1]):
                    self.lost.append(f"{table}, {row[0]!r:.40}")
                elif table == "meta" or row[0] in self.keyframes:
                    new.execute(f"INSERT INTO {table} VALUES (?, ?, ?)", row)  # noqa: S608

    def _by_number(self, table: str) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Rows one after the other; past a damaged page, each is looked up by its number."""
        query, last = f"SELECT {COLUMNS[table]} FROM {table}", 0  # noqa: S608
        try:
            for row in self.db.execute(f"{query} ORDER BY id"):
                last = row[0]
                yield last, row
            return
        except sqlite3.Error as error:
            self.lost.append(f"some of {table} ({error})")
        for number in range(last + 1, self._highest(table) + 1):
            with suppress(*DAMAGE):
                row = self.db.execute(f"{query} WHERE id = ?", (number,)).fetchone()
                if row is not None:
                    yield number, row

    def _highest(self, table: str) -> int:
        with suppress(sqlite3.Error):
            return min(self.db.execute(f"SELECT max(id) FROM {table}").fetchone()[0] or 0, self.most)  # noqa: S608
        return self.most

    def _both_ways(self, query: str, what: str) -> Iterator[tuple[Any, ...]]:
        """Rows from the first on and, where a damaged page stops that, from the last back."""
        seen = set[tuple[Any, ...]]()
        for order in (query, f"{query} DESC"):
            try:
                for row in self.db.execute(order):
                    if row in seen:
                        continue
                    seen.add(row)
                    yield row
                return
            except sqlite3.Error:
                self.lost.append(f"{what}, in part")

    @contextmanager
    def _judged(self, what: str) -> Iterator[None]:
        """Write down what cannot be kept, and go on."""
        try:
            yield
        except DAMAGE as error:
            self.lost.append(f"{what} ({error})")


_COUNTED = ("keyframes", "groups", "operations")
