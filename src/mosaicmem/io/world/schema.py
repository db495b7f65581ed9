"""The tables of a world file, and the one way to open it: hardened, with errors in our words.

Rows of `keyframes`, `contents` and `groups` are written once and never changed; see docs/world-file.md.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from urllib.parse import quote

from mosaicmem.errors import FormatVersionError, InputError, StorageError
from mosaicmem.io.files import atomic_path, refuse_existing, require_file

APPLICATION_ID = 0x4D4F5341  # "MOSA"
VERSION = 1
PAGE_BYTES = 2048
"""Small enough that a keyframe's last page wastes little, large enough that reading one costs no more than at 8192."""
MAX_BLOB_BYTES = 2**30 - 2**20
MAX_TEXT_BYTES = 2**20
BUSY_SECONDS = 5.0
_LOCK_MILLISECONDS, _COMMIT_MILLISECONDS = 1000, 10_000

# `geometry` and `latents` of a keyframe are hashed apart, since they are read apart. In `contents` the small columns
# come first: reading them does not walk through the latents.
TABLES = {
    "meta": "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID",
    "keyframes": (
        "CREATE TABLE keyframes (id INTEGER PRIMARY KEY, frame INTEGER NOT NULL, time REAL NOT NULL, "
        "origin TEXT NOT NULL, model TEXT, seed INTEGER, width INTEGER NOT NULL, height INTEGER NOT NULL, "
        "stride INTEGER NOT NULL, patch INTEGER NOT NULL, channels INTEGER NOT NULL, dtypes TEXT NOT NULL, "
        "camera BLOB NOT NULL, depths BLOB NOT NULL, geometry BLOB NOT NULL, latents BLOB NOT NULL, "
        "digest BLOB NOT NULL)"
    ),
    "contents": (
        "CREATE TABLE contents (keyframe INTEGER PRIMARY KEY, valid BLOB NOT NULL, depth BLOB NOT NULL, "
        "confidence BLOB NOT NULL, latents BLOB NOT NULL)"
    ),
    "thumbnails": (
        "CREATE TABLE thumbnails (keyframe INTEGER PRIMARY KEY, picture BLOB NOT NULL, digest BLOB NOT NULL)"
    ),
    "groups": (
        "CREATE TABLE groups (id INTEGER PRIMARY KEY, uid INTEGER NOT NULL, keyframe INTEGER NOT NULL, "
        "world_from_cam BLOB NOT NULL, mask BLOB, pinned INTEGER NOT NULL, until REAL, digest BLOB NOT NULL)"
    ),
    "operations": (
        "CREATE TABLE operations (id INTEGER PRIMARY KEY, parent INTEGER, kind TEXT NOT NULL, "
        "arguments TEXT NOT NULL, note TEXT NOT NULL, time REAL, digest BLOB NOT NULL)"
    ),
    "changes": (
        "CREATE TABLE changes (operation INTEGER NOT NULL, uid INTEGER NOT NULL, before INTEGER, after INTEGER, "
        "PRIMARY KEY (operation, uid)) WITHOUT ROWID"
    ),
    "branches": (
        "CREATE TABLE branches (name TEXT PRIMARY KEY, head INTEGER, redo INTEGER, chosen INTEGER NOT NULL, "
        "digest BLOB NOT NULL) WITHOUT ROWID"
    ),
    "current": "CREATE TABLE current (uid INTEGER PRIMARY KEY, placed INTEGER NOT NULL)",
}
COLUMNS = {
    "keyframes": "id, frame, time, origin, model, seed, width, height, stride, patch, channels, dtypes, camera, "
    "depths, geometry, latents, digest",
    "groups": "id, uid, keyframe, world_from_cam, mask, pinned, until, digest",
    "operations": "id, parent, kind, arguments, note, time, digest",
    "branches": "name, head, redo, chosen, digest",
}

_DAMAGE = "; the file is damaged: 'mosaicmem world repair' copies what is intact into a new file"
_FULL = {"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_FSYNC", "SQLITE_IOERR_TRUNCATE", "SQLITE_IOERR_DIR_FSYNC"}

Row = tuple[object, ...]


def row_digest(*values: object) -> bytes:
    """Sixteen bytes that change when any of the values does: None, int, float, str or bytes."""
    digest = hashlib.blake2b(digest_size=16)
    for value in values:
        if value is None:
            digest.update(b"n")
        elif isinstance(value, int):
            digest.update(b"i%d;" % value)
        elif isinstance(value, float):
            digest.update(b"f" + struct.pack("<d", value))
        else:
            data = value.encode() if isinstance(value, str) else value
            if not isinstance(data, bytes):
                raise TypeError(f"no digest of a {type(value).__name__}")
            digest.update((b"s%d;" if isinstance(value, str) else b"b%d;") % len(data))
            digest.update(data)
    return digest.digest()


def initialise(path: Path) -> None:
    """Turn an empty file into a world without anything in it."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = DELETE")
        db.execute("PRAGMA synchronous = EXTRA")
        db.execute("BEGIN IMMEDIATE")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {VERSION}")
        for sql in TABLES.values():
            db.execute(sql)
        db.execute("COMMIT")
    finally:
        db.close()


def connect(path: Path, *, write: bool) -> sqlite3.Connection:
    """A connection to a world file of this version, with nothing read but its header and its table of tables.

    A journal that a killed writer left is rolled back on the way, also for readers.

    Raises:
        FormatVersionError: if a newer version wrote it.
        InputError: if it is no world file, or damaged; StorageError: if it cannot be opened.
    """
    require_file(path)
    with sql_errors(path):
        # rw even for readers: a journal may have to be rolled back. SQLite falls back to ro where it has to.
        db = sqlite3.connect(
            f"file:{quote(os.fsencode(path.resolve()))}?mode=rw",
            uri=True,
            isolation_level=None,
            timeout=BUSY_SECONDS,
            check_same_thread=False,
        )
    try:
        with sql_errors(path):
            db.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BLOB_BYTES)
            for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "temp_store = MEMORY"):
                db.execute(f"PRAGMA {pragma}")
            # EXTRA syncs the folder after the journal's name is gone; FULL alone leaves that to the file system,
            # and a journal that comes back after a power cut would undo an operation that was acknowledged
            db.execute("PRAGMA synchronous = EXTRA")
            if not write:
                db.execute("PRAGMA query_only = ON")
            _check_format(db, path)
            if write:
                db.execute("PRAGMA journal_mode = DELETE")
    except BaseException:
        db.close()
        raise
    return db


def _check_format(db: sqlite3.Connection, path: Path) -> None:
    application, version = (int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in _HEADER_FIELDS)
    if application != APPLICATION_ID:
        raise InputError(f"{path}: an SQLite file, but no world of mosaicmem (application id {application:#x})")
    if version > VERSION:
        raise FormatVersionError(f"{path}: format version {version}; this mosaicmem reads up to version {VERSION}")
    found = dict(db.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL LIMIT 64").fetchall())
    if version != VERSION or found != TABLES:
        raise InputError(f"{path}: its tables are not those of a world file{_DAMAGE}")


_HEADER_FIELDS = ("application_id", "user_version")


@contextmanager
def replacing(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """`atomic_path` for a world file: what stood there before leaves no journal that would be rolled back into it.

    A world that is replaced is opened first, which rolls back what a killed writer left, and is locked until the new
    file has its name.

    Raises:
        OutputExistsError: if the file exists and `overwrite` is false; StorageError: if another process writes it.
    """
    refuse_existing(path, overwrite)
    old = None
    with suppress(InputError):  # not there, no world, or damaged
        old = connect(path, write=True)
    with nullcontext() if old is None else closing(old):
        if old is not None:
            take_write_lock(old, path)
        with os_errors(path):
            path.with_name(path.name + "-journal").unlink(missing_ok=True)
        with atomic_path(path, overwrite=overwrite) as temporary:
            yield temporary


def take_write_lock(db: sqlite3.Connection, path: Path) -> None:
    """Take the write lock, which leaves readers alone.

    Raises:
        StorageError: if another connection holds it.
    """
    db.execute(f"PRAGMA busy_timeout = {_LOCK_MILLISECONDS}")
    with sql_errors(path):
        db.execute("BEGIN IMMEDIATE")
    db.execute(f"PRAGMA busy_timeout = {_COMMIT_MILLISECONDS}")  # a commit waits for readers to finish


@contextmanager
def sql_errors(path: Path) -> Iterator[None]:
    """What SQLite raises inside, as an error that names the file and says what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(path, error) from error
    except (OverflowError, UnicodeDecodeError) as error:  # a number or a text that no writer of ours can have written
        raise InputError(f"{path}: a value cannot be read ({error}){_DAMAGE}") from error


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """What the system says about a file that is to be made, in our words."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be created ({error.strerror or error})") from error


@contextmanager
def in_file(path: Path) -> Iterator[None]:
    """Put the file's name before what was found wrong in it, and what can be done behind."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}{_DAMAGE}") from error


def _translated(path: Path, error: sqlite3.Error) -> InputError | StorageError:
    name: str = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StorageError(f"{path}: another process is writing this world; try again when it has closed it")
    if name in _FULL:
        return StorageError(f"{path}: could not be written ({error}); is the disk full? The world is as it was before")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return StorageError(
            f"{path}: cannot be written ({error}); the file and its folder must be writable, since changes go "
            "through a journal beside the file"
        )
    if name.startswith("SQLITE_IOERR"):
        return StorageError(f"{path}: could not be read or written ({error}, {name}); is the disk in order?")
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
        return StorageError(f"{path}: this world was closed; open it again to read more of it")
    if name == "SQLITE_NOTADB":
        return InputError(f"{path}: no world file ({error}); expected one that mosaicmem wrote")
    return InputError(f"{path}: {error}{_DAMAGE}")
