"""RealEstate10K camera text (CameraCtrl and VideoX-Fun use it too) and Spatia's pair of text files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.findings import Finding
from mosaicmem.io.trajectories.raw import MAX_BYTES, Options, Raw, matrices, parse_row, stack
from mosaicmem.io.trajectories.spec import Format, compact, line, normalised_rows
from mosaicmem.io.trajectories.trajectory import Trajectory


def read_re10k(path: Path, options: Options) -> Raw:
    """A title line, then `t fx fy cx cy k1 k2` and V as 3x4; an early generation has no time (18 columns)."""
    rows = []
    for number, text in enumerate(files.read_text(path, MAX_BYTES).splitlines(), 1):
        words = text.split()
        if not words or (number == 1 and len(words) < 18):
            continue
        row = parse_row(words, f"{path}, line {number}")
        if len(row) not in (18, 19) or (rows and len(row) != len(rows[0])):
            raise InputError(f"{path}, line {number}: {len(row)} columns, expected 19 (or 18 without time), all alike")
        rows.append(row)
    if not rows:
        raise InputError(f"{path}: holds no poses, expected lines of 19 numbers after the title; is it complete?")
    table = np.array(rows)
    timed = table.shape[1] == 19
    time, values = (table[:, 0], table[:, 1:]) if timed else (None, table)
    if time is not None and len(time) > 1 and (time == 0).all():
        time = None  # VideoX-Fun writes zeros
    V = matrices(values[:, 6:].reshape(-1, 3, 4), str(path))
    notes = _other_layout(values[:, 6:], V)
    distortion = np.zeros((len(V), 4))
    distortion[:, :2] = values[:, 4:6]
    return Raw(
        V,
        "w2c",
        Ks=atoms.K_from_rows(values[:, :4]),
        normalised=True,
        time=time,
        time_unit=1e-6,
        distortion=distortion if distortion.any() else None,
        notes=notes,
    )


def write_re10k(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """Blank title, time in whole microseconds (zeros where time is nominal), distortion 0."""
    Ks = normalised_rows(trajectory, "re10k")
    out = ["\n"]
    for t, K, V in zip(trajectory.timestamps.tolist(), Ks, trajectory.viewmats.numpy(), strict=True):
        stamp = 0 if trajectory.nominal_time else round(t * 1e6)
        out.append(f"{stamp} {line(K)} 0 0 {line(V[:3].ravel())}\n")
    files.write_text(path, "".join(out), overwrite=overwrite)


def read_spatia(path: Path, options: Options) -> Raw:
    """`w2c.txt`, one JSON list a line, and `intrinsics.txt` with one normalised K for all."""
    folder = path if path.is_dir() else path.parent
    rows = [_json_line(text, folder / "w2c.txt") for text in _lines(folder / "w2c.txt")]
    if not rows:
        raise InputError(f"{folder / 'w2c.txt'}: holds no poses, expected one list a line")
    V = matrices(rows, str(folder / "w2c.txt"))
    side = folder / "intrinsics.txt"
    K = stack([_json_line(files.read_text(side, 65536), side)], (4,), str(side))
    return Raw(V, "w2c", Ks=np.tile(atoms.K_from_rows(K), (len(V), 1, 1)), normalised=True)


def write_spatia(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """The folder with both files; K of the first pose."""
    K = normalised_rows(trajectory, "spatia")[0]
    files.refuse_existing(path, overwrite)
    text = "".join(compact(V.tolist()) + "\n" for V in trajectory.viewmats.numpy())
    files.write_text(path / "w2c.txt", text, overwrite=overwrite)
    files.write_text(path / "intrinsics.txt", compact(K.tolist()) + "\n", overwrite=overwrite)


def _other_layout(values: np.ndarray, V: np.ndarray) -> tuple[Finding, ...]:
    """Some descriptions list nine r then three t; say so where only that gives rotations."""

    def error(R: np.ndarray) -> float:
        with np.errstate(all="ignore"):
            return float(np.abs(R @ R.transpose(0, 2, 1) - np.eye(3)).max())

    if error(V[:, :3, :3]) > 1e-3 >= error(values[:, :9].reshape(-1, 3, 3)):
        advice = "reorder to three rows of r r r t"
        return (Finding("M3", "I", "read as nine r then three t the matrices are rotations", advice),)
    return ()


def _lines(path: Path) -> list[str]:
    return [text for text in files.read_text(path, MAX_BYTES).splitlines() if text.strip()]


def _json_line(text: str, path: Path) -> object:
    if text.count("[") > 8:
        raise InputError(f"{path}: nested deeper than a matrix; expected one list a line")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: {error}; expected one JSON list a line") from error


FORMATS = (
    Format("re10k", "RealEstate10K, CameraCtrl, VideoX-Fun text", read_re10k, write_re10k, "SND"),
    Format("spatia", "Spatia w2c.txt + intrinsics.txt", read_spatia, write_spatia, "STNZD"),
)
