"""Rewriting a world file without what nobody can reach any more."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from mosaicmem.io.files import atomic_path, require_file
from mosaicmem.io.world.history import (
    Branch,
    Operation,
    operation_and_changes,
    path_to,
    read_branches,
    replay,
    write_branch,
    write_operation,
)
from mosaicmem.io.world.schema import connect, in_file, initialise, os_errors, sql_errors, take_write_lock


def compact(path: Path | str, *, forget: bool = False) -> tuple[int, int]:
    """Rewrite the file without what no branch can reach any more, by undo or redo; bytes before and after.

    Args:
        forget: Drop the history too: every branch keeps its state, as one operation.

    Raises:
        InputError: if the file is damaged (repair it first); StorageError: if another process writes it.
    """
    path = require_file(Path(path)).resolve()  # what a link leads to is rewritten, and not the link
    before = path.stat().st_size
    with closing(connect(path, write=True)) as old, sql_errors(path), os_errors(path):
        take_write_lock(old, path)  # held until the new file has the old one's name
        with in_file(path):
            branches = read_branches(old).values()
            states = {branch.name: replay(old, branch.head) for branch in branches}
            ends = {end for branch in branches for end in (branch.head, branch.redo)}
            kept = set[int]() if forget else {number for end in ends for number in path_to(old, end)}
            groups = {placed for state in states.values() for placed in state.values()}
            for number in kept:
                groups |= {row for _, *rows in operation_and_changes(old, number)[1] for row in rows if row is not None}
        with atomic_path(path, overwrite=True) as temporary, fresh_world(temporary) as new:
            new.executemany("INSERT INTO meta VALUES (?, ?, ?)", old.execute("SELECT * FROM meta"))
            copy_rows(old, new, "groups", groups)
            keyframes = {row[0] for row in new.execute("SELECT DISTINCT keyframe FROM groups")}
            copy_rows(old, new, "keyframes", keyframes)
            for table in ("contents", "thumbnails"):
                copy_rows(old, new, table, keyframes, "keyframe")
            copy_rows(old, new, "operations", kept)
            copy_rows(old, new, "changes", kept, "operation")
            for number, branch in enumerate(branches, 1):
                write_branch(new, _anew(new, number, branch, states[branch.name]) if forget else branch)
                if branch.chosen:
                    new.executemany("INSERT INTO current VALUES (?, ?)", states[branch.name].items())
    return before, path.stat().st_size


@contextmanager
def fresh_world(path: Path) -> Iterator[sqlite3.Connection]:
    """A new file to be filled in one transaction. Not synced: whoever gives it its name does that."""
    initialise(path)
    with closing(connect(path, write=True)) as db, sql_errors(path):
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")


def copy_rows(
    old: sqlite3.Connection, new: sqlite3.Connection, table: str, keys: Iterable[int], key: str = "id"
) -> None:
    """Copy the rows of some keys, in order, one at a time: they need not fit into memory together."""
    for value in sorted(keys):
        for row in old.execute(f"SELECT * FROM {table} WHERE {key} = ?", (value,)):  # noqa: S608
            new.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608


def _anew(db: sqlite3.Connection, number: int, branch: Branch, state: dict[int, int]) -> Branch:
    """A branch whose only operation gives its state."""
    if not state:
        return Branch(branch.name, None, None, branch.chosen)
    write_operation(db, Operation(number, None, "compact", {}), [(uid, None, row) for uid, row in state.items()])
    return Branch(branch.name, number, None, branch.chosen)
