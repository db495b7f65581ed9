"""Operations, and moving along them: undo, redo and branches are ways from one operation to another.

An operation says which group rows it took away and which it put in, by uid. Rows are never changed, so a state that
was left is found again exactly. Parents have smaller numbers than their children.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mosaicmem.errors import InputError
from mosaicmem.io.world.rows import blob, decode_json, encode_json, number, text, whole
from mosaicmem.io.world.schema import COLUMNS, row_digest

Change = tuple[int, int | None, int | None]
"""A uid, and the row of `groups` that stood for it before and after; None where it was not there."""


@dataclass(frozen=True)
class Operation:
    """One accepted insert or edit.

    Attributes:
        id: Its number in the file.
        parent: The operation it was applied after, or None for the first.
        kind: `insert`, `move`, ...
        arguments: What it was asked to do.
        note: Free words.
        time: When, in seconds since 1970, or None where nobody wrote it down.
    """

    id: int
    parent: int | None
    kind: str
    arguments: dict[str, Any]
    note: str = ""
    time: float | None = None


@dataclass(frozen=True)
class Branch:
    """A named line of work.

    Attributes:
        name: Its name.
        head: Its newest operation, or None at the beginning.
        redo: The operation that redo leads to, step by step, or None.
        chosen: Whether it is the one checked out.
    """

    name: str
    head: int | None
    redo: int | None
    chosen: bool


def read_branches(db: sqlite3.Connection) -> dict[str, Branch]:
    """All branches by name.

    Raises:
        InputError: if a row is damaged, or not exactly one is checked out.
    """
    found: dict[str, Branch] = {}
    for row in db.execute(f"SELECT {COLUMNS['branches']} FROM branches ORDER BY name"):  # noqa: S608
        if row[-1] != row_digest(*row[:-1]):
            raise InputError(f"branch {row[0]!r:.40}: its row does not match its checksum")
        name = text(row[0], "branch: name")
        head, redo = (None if value is None else whole(value, f"branch {name}", 1, 2**62) for value in row[1:3])
        found[name] = Branch(name, head, redo, bool(whole(row[3], f"branch {name}: chosen", 0, 1)))
    if sum(branch.chosen for branch in found.values()) != 1:
        raise InputError(f"{len(found)} branches, of which not exactly one is checked out")
    return found


def chosen_branch(db: sqlite3.Connection) -> Branch:
    """The branch that is checked out."""
    return next(branch for branch in read_branches(db).values() if branch.chosen)


def write_branch(db: sqlite3.Connection, branch: Branch) -> None:
    """Put a branch where it is now."""
    values = (branch.name, branch.head, branch.redo, int(branch.chosen))
    db.execute("INSERT OR REPLACE INTO branches VALUES (?, ?, ?, ?, ?)", (*values, row_digest(*values)))


def read_operation(db: sqlite3.Connection, number_: int) -> Operation:
    """One operation, its checksum (which covers its changes) checked.

    Raises:
        InputError: if it is missing or damaged.
    """
    return operation_and_changes(db, number_)[0]


def operation_and_changes(db: sqlite3.Connection, number_: int) -> tuple[Operation, list[Change]]:
    """One operation with what it changed, by uid.

    Raises:
        InputError: if it is missing or damaged.
    """
    where = f"operation {number_}"
    row = db.execute(f"SELECT {COLUMNS['operations']} FROM operations WHERE id = ?", (number_,)).fetchone()  # noqa: S608
    if row is None:
        raise InputError(f"{where} is missing")
    query = "SELECT uid, before, after FROM changes WHERE operation = ? ORDER BY uid"
    changes: list[Change] = db.execute(query, (number_,)).fetchall()
    if blob(row[6], f"{where}: digest") != _operation_digest(row[:6], changes):
        raise InputError(f"{where}: it or its changes do not match its checksum")
    arguments = decode_json(row[3], f"{where}: arguments")
    if not isinstance(arguments, dict):
        raise InputError(f"{where}: arguments are no JSON object")
    parent = None if row[1] is None else whole(row[1], f"{where}: parent", 1, number_ - 1)
    time = None if row[5] is None else number(row[5], f"{where}: time")
    return Operation(number_, parent, text(row[2], f"{where}: kind"), arguments, text(row[4], "note"), time), changes


def record(
    db: sqlite3.Connection,
    kind: str,
    arguments: dict[str, Any],
    note: str,
    time: float | None,
    changes: Sequence[Change],
) -> Operation:
    """Write down an operation on the chosen branch and make `current` what it says."""
    branch = chosen_branch(db)
    number_ = db.execute("SELECT coalesce(max(id), 0) + 1 FROM operations").fetchone()[0]
    operation = Operation(number_, branch.head, kind, arguments, note, time)
    write_operation(db, operation, changes)
    _step(db, number_, "after")
    write_branch(db, Branch(branch.name, number_, None, True))
    return operation


def write_operation(db: sqlite3.Connection, operation: Operation, changes: Sequence[Change]) -> None:
    """Write down an operation, and nothing else."""
    if not 0 < len(operation.kind) <= 64 or len(operation.note) > 4096:
        raise InputError("an operation has a kind of 1 to 64 characters and a note of at most 4096")
    if any("\ud800" <= letter <= "\udfff" for letter in operation.kind + operation.note):
        raise InputError(f"the note {operation.note!r:.80} is no text: bytes in it are no UTF-8")
    ordered = sorted(changes, key=lambda change: change[0])
    arguments = encode_json(operation.arguments, f"operation {operation.kind}")
    values = (operation.id, operation.parent, operation.kind, arguments, operation.note, operation.time)
    row = (*values, _operation_digest(values, ordered))
    db.execute("INSERT INTO operations VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    db.executemany("INSERT INTO changes VALUES (?, ?, ?, ?)", [(operation.id, *change) for change in ordered])


def replay(db: sqlite3.Connection, head: int | None) -> dict[int, int]:
    """The state after `head`: row of `groups` by uid, from the log alone.

    Raises:
        InputError: if an operation is missing or damaged, or does not follow from those before it.
    """
    state: dict[int, int] = {}
    way = path_to(db, head)
    if way and operation_and_changes(db, way[-1])[0].parent is not None:
        raise InputError(f"operation {way[-1]}: its parent is missing")
    for number_ in reversed(way):
        for uid, before, after in operation_and_changes(db, number_)[1]:
            if state.get(uid) != before:
                raise InputError(f"operation {number_}: uid {uid} was not what it says")
            if after is None:
                del state[uid]
            else:
                state[uid] = after
    return dict(sorted(state.items()))


def path_to(db: sqlite3.Connection, head: int | None) -> list[int]:
    """Operations from `head` back to the first one."""
    query = """WITH RECURSIVE way(id) AS (
        SELECT ? UNION ALL SELECT o.parent FROM way JOIN operations o ON o.id = way.id WHERE o.parent < o.id
    ) SELECT id FROM way"""
    return [] if head is None else [row[0] for row in db.execute(query, (head,))]


def travel(db: sqlite3.Connection, start: int | None, goal: int | None) -> None:
    """Make `current`, which is the state after `start`, the state after `goal`.

    Raises:
        InputError: if an operation on the way is damaged.
    """
    back, forth = path_to(db, start), path_to(db, goal)
    shared = set(back) & set(forth)
    for number_ in back:
        if number_ not in shared:
            read_operation(db, number_)
            _step(db, number_, "before")
    for number_ in reversed(forth):
        if number_ not in shared:
            read_operation(db, number_)
            _step(db, number_, "after")


def _step(db: sqlite3.Connection, number_: int, side: str) -> None:
    """Let `current` be what one operation says of the uids that it changed."""
    db.execute(
        f"DELETE FROM current WHERE uid IN (SELECT uid FROM changes WHERE operation = ? AND {side} IS NULL)",  # noqa: S608
        (number_,),
    )
    db.execute(
        f"INSERT OR REPLACE INTO current SELECT uid, {side} FROM changes WHERE operation = ? AND {side} IS NOT NULL",  # noqa: S608
        (number_,),
    )


def _operation_digest(values: Sequence[object], changes: Sequence[Change]) -> bytes:
    return row_digest(*values, *(value for change in changes for value in change))
