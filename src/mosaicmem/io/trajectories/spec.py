"""What a format is: a reader, perhaps a writer, and what its files cannot hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._shapes import Float
from mosaicmem.errors import InputError
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.raw import Options, Raw
from mosaicmem.io.trajectories.trajectory import Trajectory

Array = np.ndarray


@dataclass(frozen=True)
class Format:
    """One file format.

    Attributes:
        loses: What the file cannot hold. K intrinsics, S image size, T time, U time off the `i / fps` grid, N names,
            F more than float32, P principal point off the centre or pixels that are not square, Z intrinsics that
            vary, D distortion, O a first pose that is not the identity.
        options: Reading options beyond `size`, `fps` and `sort`.
    """

    name: str
    title: str
    read: Callable[[Path, Options], Raw]
    write: Callable[[Trajectory, Path, bool], None] | None = None
    loses: str = ""
    options: frozenset[str] = frozenset()


def lost(trajectory: Trajectory, format: Format) -> tuple[str, ...]:
    """What this trajectory holds and `format` cannot."""
    Ks, time = trajectory.Ks, trajectory.timestamps
    found = []
    for letter in format.loses:
        match letter:
            case "K" if Ks is not None:
                found.append("intrinsics")
            case "S" if trajectory.width is not None and not trajectory.normalised:
                found.append("image size")
            case "T" if not trajectory.nominal_time:
                found.append("timestamps")
            case "U" if not trajectory.nominal_time and not _uniform(time.numpy()):
                found.append("timestamps")
            case "N" if trajectory.names is not None:
                found.append("names")
            case "F" if not bool((trajectory.viewmats.float().double() == trajectory.viewmats).all()):
                found.append("precision beyond float32")
            case "P" if Ks is not None and not _plain(trajectory):
                found.append("principal point or pixel aspect")
            case "Z" if Ks is not None and not bool((Ks == Ks[:1]).all()):
                found.append("varying intrinsics")
            case "O" if not np.allclose(trajectory.viewmats[0].numpy(), np.eye(4), atol=1e-12):
                found.append("first pose")
            case _:
                pass
    if ("D" in format.loses or "K" in format.loses) and _distorted(trajectory):
        found.append("distortion")
    return tuple(found)


def frame_rate(trajectory: Trajectory) -> float:
    """Frames per second of a uniform trajectory; the mean rate of another; 16 for a single pose."""
    time = trajectory.timestamps
    span = float(time[-1] - time[0])
    return (len(time) - 1) / span if span > 0 else 16.0


def need_Ks(trajectory: Trajectory, format: str) -> Float[Array, "n 3 3"]:
    """Intrinsics to write.

    Raises:
        InputError: where the trajectory has none.
    """
    if trajectory.Ks is None:
        raise InputError(
            f"{format} holds intrinsics, but {trajectory.source} has none; add them with "
            "Trajectory.with_intrinsics, or write a format without, such as 'tum'"
        )
    return trajectory.Ks.numpy()


def need_pixels(trajectory: Trajectory, format: str) -> Float[Array, "n 3 3"]:
    """Intrinsics in pixels to write."""
    Ks = need_Ks(trajectory, format)
    if trajectory.normalised:
        raise InputError(f"{format} needs pixels, but {trajectory.source} has no image size; read it with size=(W, H)")
    return Ks


def need_size(trajectory: Trajectory, format: str) -> tuple[int, int]:
    """(width, height) to write."""
    if trajectory.width is None or trajectory.height is None or trajectory.normalised:
        raise InputError(f"{format} holds the image size, but {trajectory.source} has none; read it with size=(W, H)")
    return trajectory.width, trajectory.height


def normalised_rows(trajectory: Trajectory, format: str) -> Float[Array, "n 4"]:
    """`fx/W fy/H cx/W cy/H` to write."""
    Ks = need_Ks(trajectory, format)
    if trajectory.width is None or trajectory.height is None:
        need_size(trajectory, format)
    else:
        Ks = atoms.rescale_K(Ks, 1 / trajectory.width, 1 / trajectory.height)
    return atoms.K_rows(Ks)


def names_of(trajectory: Trajectory, pattern: str) -> tuple[str, ...]:
    """The trajectory's names, or `pattern` filled with the frame number."""
    return trajectory.names or tuple(pattern.format(i) for i in range(len(trajectory)))


def line(values: Array) -> str:
    """Numbers of one line, each written shortest-exact."""
    return " ".join(repr(float(v)) for v in values)


def compact(value: Any) -> str:
    """JSON on one line."""
    return json.dumps(value, allow_nan=False)


def _uniform(time: Array) -> bool:
    grid = np.linspace(time[0], time[-1], len(time))
    return bool(time[0] == 0 and np.abs(time - grid).max() < 1e-6)


def _plain(trajectory: Trajectory) -> bool:
    assert trajectory.Ks is not None
    if trajectory.width is None or trajectory.height is None:
        return False
    rows = atoms.K_rows(trajectory.Ks.numpy())
    size = np.array([trajectory.width, trajectory.height])
    return bool(np.allclose(rows[:, 2:], size / 2, atol=1e-9) and np.allclose(rows[:, 0], rows[:, 1], rtol=1e-9))


def _distorted(trajectory: Trajectory) -> bool:
    return trajectory.fisheye or (trajectory.distortion is not None and bool((trajectory.distortion != 0).any()))
