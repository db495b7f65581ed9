"""A walk as a text file: how it began, then every command that was applied, each with a digest of what it showed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from mosaicmem.errors import ConfigError, FormatVersionError, InputError, StorageError
from mosaicmem.io.files import finite, read_text, refuse_existing
from mosaicmem.live.commands import Command, as_json, parse
from mosaicmem.live.walk import Outcome, Walk

FORMAT = "mosaicmem.walk"
VERSION = 1
MAX_BYTES = 64 * 2**20
MAX_LINE = 16 * 2**10


@dataclass(frozen=True)
class Recorded:
    """One command of a recording: seconds after the beginning, and the digest of what it showed."""

    at: float
    command: Command
    digest: str


@dataclass(frozen=True)
class Recording:
    """A walk that was written down.

    Attributes:
        start: How it began, as whoever recorded it describes it (JSON).
        commands: What was done.
        cut: Whether its last line was cut off, by a kill or a full disk, and left out.
    """

    start: dict[str, Any]
    commands: tuple[Recorded, ...]
    cut: bool = False

    @staticmethod
    def read(path: Path) -> Recording:
        """Read and check a recording.

        Raises:
            FormatVersionError: if a newer version wrote it; InputError: if it is no recording, or a line is damaged.
        """
        lines = read_text(path, MAX_BYTES).split("\n")
        cut = lines[-1] != ""
        lines = lines[:-1]  # what follows the last newline is nothing, or half a line
        if not lines:
            raise InputError(f"{path}: empty; expected a recording written by 'mosaicmem explore --record'")
        header = _object(path, 1, lines[0])
        if header.get("format") != FORMAT or not isinstance(header.get("start"), dict):
            raise InputError(f"{path}: no recording of a walk; expected one written by 'mosaicmem explore --record'")
        version = header.get("version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise InputError(f"{path}: version {version!r:.40}; expected {VERSION}")
        if version > VERSION:
            raise FormatVersionError(f"{path}: version {version}, this program reads up to {VERSION}; update it")
        return Recording(header["start"], tuple(_recorded(path, i + 2, line) for i, line in enumerate(lines[1:])), cut)


class Recorder:
    """Writes a recording while it happens; every line is on disk before the next command begins."""

    def __init__(self, path: Path, start: dict[str, Any], *, overwrite: bool = False) -> None:
        refuse_existing(path, overwrite)
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = path.open("w", encoding="utf-8", newline="\n")
            self._write({"format": FORMAT, "version": VERSION, "start": start})
        except OSError as error:
            raise StorageError(f"{path}: cannot be written ({error.strerror})") from error

    def add(self, at: float, command: Command, digest: str) -> None:
        """One applied command.

        Raises:
            StorageError: if it cannot be written.
        """
        try:
            self._write({"at": round(at, 3), **as_json(command), "digest": digest})
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """End the recording."""
        self._file.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def replay(walk: Walk, recording: Recording) -> Iterator[tuple[Outcome, bool]]:
    """Do again what was recorded: what each command shows, and whether that is bit for bit what it showed then."""
    for recorded in recording.commands:
        outcome = walk.do(recorded.command)
        yield outcome, outcome.digest(walk.state.store) == recorded.digest


def _recorded(path: Path, number: int, line: str) -> Recorded:
    raw = _object(path, number, line)
    at, digest = finite(raw.pop("at", None), f"{path}: line {number}: at"), raw.pop("digest", None)
    if not isinstance(digest, str) or len(digest) != 16:
        raise InputError(f"{path}: line {number}: no digest; expected 16 hex digits")
    try:
        return Recorded(at, parse(raw), digest)
    except ConfigError as error:
        raise InputError(f"{path}: line {number}: {error}") from error


def _object(path: Path, number: int, line: str) -> dict[str, Any]:
    if len(line) > MAX_LINE:
        raise InputError(f"{path}: line {number}: {len(line):,} characters, expected at most {MAX_LINE:,}")
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: line {number}: not valid JSON ({str(error)[:80]})") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: line {number}: expected a JSON object")
    return raw
