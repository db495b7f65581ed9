"""ViPE result folders (Lyra 2 training data has the same layout)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.arrays import Npz, write_npz
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.raw import Options, Raw, matrices, numbers
from mosaicmem.io.trajectories.spec import Format, need_pixels
from mosaicmem.io.trajectories.trajectory import Trajectory


def read(path: Path, options: Options) -> Raw:
    """`pose/X.npz` (C) joined with `intrinsics/X.npz` on `inds`, never by row; frames without K are refused."""
    pose = _clip(path, options.clip)
    root = pose.parent.parent
    data = Npz(pose)
    C = matrices(data["data"], str(pose))
    index = _index(data, len(C), pose)
    side, Ks = root / "intrinsics" / pose.name, None
    if side.is_file() and side != pose:
        held = Npz(side)
        rows = numbers(held["data"], (None, 4), str(side))
        at = {frame: row for row, frame in enumerate(_index(held, len(rows), side).tolist())}
        missing = [frame for frame in index.tolist() if frame not in at]
        if missing:
            raise InputError(
                f"{side}: no intrinsics for frame {missing[0]:g}, which {pose} has; expected the same inds"
            )
        Ks = atoms.K_from_rows(rows[[at[frame] for frame in index.tolist()]])
    _refuse_lenses(root / "intrinsics" / f"{pose.stem}_camera.txt")
    return Raw(
        C,
        "c2w",
        Ks=Ks,
        time=index,
        time_unit=None,
        size=options.size or _video_size(root / "rgb" / f"{pose.stem}.mp4"),
        assumed=("pixel (0, 0) is centred at (0.5, 0.5)",) if Ks is not None else (),
    )


def write(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """`pose`, `intrinsics` and the lens list of one clip named `video`."""
    rows = atoms.K_rows(need_pixels(trajectory, "vipe"))
    files.refuse_existing(path, overwrite)
    inds = np.arange(len(trajectory))
    write_npz(path / "pose/video.npz", {"data": trajectory.c2w.numpy(), "inds": inds}, overwrite=overwrite)
    write_npz(path / "intrinsics/video.npz", {"data": rows, "inds": inds}, overwrite=overwrite)
    lenses = "".join(f"{i}: PINHOLE\n" for i in inds)
    files.write_text(path / "intrinsics/video_camera.txt", lenses, overwrite=overwrite)


def _clip(path: Path, name: str | None) -> Path:
    if path.is_file():
        return path
    found = {p.stem: p for p in sorted(path.glob("pose/*.npz"))}
    if name is not None and name in found:
        return found[name]
    if len(found) == 1 and name is None:
        return next(iter(found.values()))
    raise InputError(f"{path}: holds clips {sorted(found)[:6]}, expected one or clip= one of them")


def _index(data: Npz, n: int, path: Path) -> np.ndarray:
    if "inds" not in data:
        return np.arange(n, dtype=np.float64)
    return numbers(data["inds"], (n,), f"{path}, inds")


def _refuse_lenses(path: Path) -> None:
    if not path.is_file():
        return
    for text in files.read_text(path).splitlines():
        lens = text.rpartition(":")[2].strip()
        if lens and lens != "PINHOLE":
            raise InputError(f"{path}: lens {lens!r}, expected PINHOLE; undistort the clip first")


def _video_size(path: Path) -> tuple[int, int] | None:
    if not path.is_file():
        return None
    import av

    try:
        with av.open(str(path)) as container:
            context = container.streams.video[0].codec_context
            size = (context.width, context.height)
    except (av.FFmpegError, OSError, IndexError, ValueError):
        return None
    return size if min(size) > 0 else None


FORMATS = (Format("vipe", "ViPE folder", read, write, "STND", frozenset({"clip"})),)
