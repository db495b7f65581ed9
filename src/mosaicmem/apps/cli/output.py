"""Folders that appear whole or not at all, and the record of the run inside them."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from mosaicmem.errors import OutputExistsError
from mosaicmem.io.files import refuse_existing, write_json

RUN_FILE = "run.json"


def check_output(out: Path, overwrite: bool, inputs: Sequence[Path] = ()) -> None:
    """Refuse a target that would cost somebody data: before any work is done.

    Raises:
        OutputExistsError: if `out` exists and may not be replaced: `overwrite` is off, it holds one of the inputs,
            or it is a folder that no run of ours wrote.
    """
    if out.exists() and not out.is_dir():
        raise OutputExistsError(f"{out} is a file; expected a folder to write. Choose another --out")
    refuse_existing(out, overwrite)
    if not out.exists() or not any(out.iterdir()):
        return
    target = out.resolve()
    for path in inputs:
        if path.resolve().is_relative_to(target):
            raise OutputExistsError(f"{out} holds the input {path}; refusing to replace it. Choose another --out")
    if Path.cwd().resolve().is_relative_to(target):
        raise OutputExistsError(f"{out} holds the current folder; refusing to replace it. Choose another --out")
    if not (out / RUN_FILE).is_file():
        raise OutputExistsError(
            f"{out} holds files that mosaicmem did not write (it has no {RUN_FILE}); refusing to replace it even "
            "with --overwrite. Choose another --out"
        )


@contextmanager
def staged_folder(out: Path, *, overwrite: bool = False, inputs: Sequence[Path] = ()) -> Iterator[Path]:
    """A temporary sibling folder that becomes `out` when the block ends well and vanishes when it does not."""
    check_output(out, overwrite, inputs)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield staging
        umask = os.umask(0)
        os.umask(umask)
        staging.chmod(0o777 & ~umask)
        _replace_folder(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def run_record(
    *, command: str, argv: Sequence[str], config: dict[str, Any], seed: int, backend: str, timings: dict[str, float]
) -> dict[str, Any]:
    """What `run.json` says besides the hashes of the files."""
    return {
        "format": "mosaicmem.run",
        "version": 1,
        "command": command,
        "argv": list(argv),
        "backend": backend,
        "seed": seed,
        "config": config,
        "versions": versions(),
        "timings_s": {name: round(seconds, 4) for name, seconds in timings.items()},
    }


def write_run(folder: Path, record: dict[str, Any]) -> None:
    """Write `run.json` with the size and SHA-256 of every other file in `folder`."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != RUN_FILE)
    listing = {p.relative_to(folder).as_posix(): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files}
    write_json(folder / RUN_FILE, {**record, "files": listing}, overwrite=True)


def sha256(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions that decide what a run gives."""
    found = {"python": platform.python_version(), "platform": platform.platform(terse=True)}
    for name in ("mosaicmem", "torch", "numpy", "numba"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _replace_folder(staging: Path, out: Path) -> None:
    if not out.exists():
        staging.rename(out)
        return
    # An existing folder is moved aside first, so that a crash between the two renames loses neither.
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.old."))
    old = aside / out.name
    out.rename(old)
    try:
        staging.rename(out)
    except OSError:
        old.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)
