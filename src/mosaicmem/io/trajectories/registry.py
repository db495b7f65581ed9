"""The formats by name, and the two doors: `read_trajectory` and `write_trajectory`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.trajectories import (
    actions,
    atoms,
    colmap,
    hub,
    nerf,
    predecessor,
    re10k,
    rules,
    slam,
    tensors,
    vipe,
    worlds_json,
)
from mosaicmem.io.trajectories.detection import detect
from mosaicmem.io.trajectories.raw import DEFAULT_FPS, Options, Raw
from mosaicmem.io.trajectories.spec import Format, lost
from mosaicmem.io.trajectories.trajectory import Trajectory

_MODULES = (hub, predecessor, slam, re10k, nerf, colmap, tensors, vipe, worlds_json, actions)
FORMATS: dict[str, Format] = {format.name: format for module in _MODULES for format in module.FORMATS}
_SUFFIXES = {".json": "mosaicmem", ".npz": "mosaicmem", ".log": "redwood", ".tum": "tum", ".npy": "npy"}
_NAMES = {"transforms.json": "nerfstudio", "poses_bounds.npy": "llff"}


def read_trajectory(path: Path | str, *, format: str | None = None, **options: Any) -> Trajectory:
    """Read a camera path and convert it to our conventions.

    Args:
        path: File or folder.
        format: Name in `FORMATS`; recognised from the content if left out.
        options: What the file cannot say. For every format `size=(W, H)`, `fps`, `sort=True`; others per format, see
            `docs/formats.md`.

    Raises:
        InputError: if the file is unreadable, fits two formats, or breaks a rule that makes its poses meaningless
            (see `lint`). The message names the file, what was found, what was expected and what would help.
    """
    path = Path(path)
    spec = choose(path, format)
    parsed = Options.parse(options, spec.options, spec.name)
    raw = read_raw(spec, path, parsed)
    stopping = [f for f in rules.stopping(raw) if f.severity == "E"]
    if stopping:
        more = f" (and {len(stopping) - 1} more; run the linter)" if len(stopping) > 1 else ""
        raise InputError(f"{path} [{spec.name}]: {stopping[0]}{more}")
    return _finish(raw, parsed, f"{path} [{spec.name}]")


def write_trajectory(
    trajectory: Trajectory,
    path: Path | str,
    *,
    format: str | None = None,
    overwrite: bool = False,
    strict: bool = False,
) -> tuple[str, ...]:
    """Write a camera path.

    Args:
        path: File, or the folder of a format that is one.
        format: Name in `FORMATS`; from the suffix if left out.
        strict: Refuse instead of losing something.

    Returns:
        What this trajectory holds and the file cannot, such as `("intrinsics", "timestamps")`.

    Raises:
        OutputExistsError: if the target exists and `overwrite` is false.
        InputError: on a format that cannot be written, that needs what the trajectory lacks, or on a loss under
            `strict`. Nothing is written then.
    """
    path = Path(path)
    if format is None:
        format = _NAMES.get(path.name) or _SUFFIXES.get(path.suffix)
        if format is None:
            raise InputError(
                f"{path}: the name does not say which format; give format= one of {', '.join(_writable())}"
            )
    spec = _known(format)
    if spec.write is None:
        raise InputError(f"{path}: format {format!r} can only be read; writable are {', '.join(_writable())}")
    if not len(trajectory):
        raise InputError(f"{path}: a trajectory without poses, expected at least one")
    losses = lost(trajectory, spec)
    if losses and strict:
        raise InputError(f"{path}: {format} would lose {', '.join(losses)}; write 'mosaicmem', or allow the loss")
    files.refuse_existing(path, overwrite)
    spec.write(trajectory, path, overwrite)
    return losses


def choose(path: Path, format: str | None) -> Format:
    """The format asked for, or the only likely one.

    Raises:
        InputError: if none or several are likely; lists them with reasons.
    """
    if format is not None:
        return _known(format)
    candidates = detect(path)
    likely = [c for c in candidates if c.confidence > 0.5]
    if len(likely) == 1:
        return _known(likely[0].format)
    listed = "; ".join(f"{c.format} ({c.confidence:.1f}: {c.reason})" for c in (likely or candidates)[:3])
    if likely:
        raise InputError(f"{path}: fits several formats: {listed}. Choose one with format=")
    raise InputError(
        f"{path}: not recognised as a trajectory{f' (nearest: {listed})' if listed else ''}; name it "
        f"with format=, one of {', '.join(FORMATS)}. ROS bags, Bundler, NVM and ARKit logs are not read: convert them "
        "to tum or colmap-txt"
    )


def read_raw(spec: Format, path: Path, options: Options) -> Raw:
    """The file's numbers, unchecked, with the declared size applied, in order of time where that is asked for."""
    try:
        with np.errstate(all="ignore"):  # the rules report what is not finite
            raw = spec.read(path, options)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not len(raw.matrices):
        raise InputError(f"{path}: holds no poses, expected at least one; was it written completely?")
    if options.sort and raw.time is not None and np.isfinite(raw.time).all():
        raw = raw.reordered(np.argsort(raw.time, kind="stable"))
    return raw.sized(options.size)


def _finish(raw: Raw, options: Options, source: str) -> Trajectory:
    with np.errstate(all="ignore"):
        V = raw.matrices if raw.kind == "w2c" else atoms.invert(raw.matrices)
    if not np.isfinite(V).all():
        raise InputError(f"{source}: positions too large for a number; expected world units such as metres")
    index = np.arange(len(V), dtype=np.float64)
    fps = options.fps or raw.fps or DEFAULT_FPS
    if raw.time is None or raw.time_unit is None:
        time = (index if raw.time is None else raw.time) / fps
    else:
        time = raw.time * raw.time_unit
    size = (1, 1) if raw.normalised else raw.size
    return Trajectory(
        torch.from_numpy(V.astype(np.float64, copy=True)),
        None if raw.Ks is None else torch.from_numpy(raw.Ks.astype(np.float64, copy=True)),
        torch.from_numpy(time.astype(np.float64, copy=True)),
        nominal_time=raw.time is None or raw.time_unit is None or raw.nominal_time,
        width=None if size is None else size[0],
        height=None if size is None else size[1],
        names=raw.names,
        metric=raw.metric,
        assumed=raw.assumed,
        source=source,
        distortion=None if raw.distortion is None else torch.from_numpy(raw.distortion.astype(np.float64, copy=True)),
        fisheye=raw.fisheye,
        extra=raw.extra,
    )


def _known(name: str) -> Format:
    if name not in FORMATS:
        raise InputError(f"unknown trajectory format {name!r}; known are {', '.join(FORMATS)}")
    return FORMATS[name]


def _writable() -> list[str]:
    return [name for name, spec in FORMATS.items() if spec.write is not None]


__all__ = ["FORMATS", "choose", "read_raw", "read_trajectory", "write_trajectory"]
