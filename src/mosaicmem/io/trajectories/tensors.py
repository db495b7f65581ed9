"""npy and npz files: bare matrices, LingBot, GEN3C, Lyra, Matrix-Game, SANA-WM, LLFF, PyTorch3D."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.arrays import Npz, read_npy, write_npy, write_npz
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.raw import Options, Raw, matrices, numbers, whole
from mosaicmem.io.trajectories.slam import AMBIGUOUS
from mosaicmem.io.trajectories.spec import Format, frame_rate, need_Ks, need_pixels, need_size
from mosaicmem.io.trajectories.trajectory import Trajectory

Array = np.ndarray


def read_array(path: Path, options: Options) -> Raw:
    """A bare `[n 4 4]` or `[n 3 4]` npy, or the only such array of an npz; `matrix` says which way it goes."""
    with files.require_file(path).open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped:
        data = Npz(path)
        found = {k: v for k in data if (v := data[k]).ndim == 3 and v.shape[1:] in ((4, 4), (3, 4))}
        if len(found) != 1 and options.clip not in found:
            raise InputError(f"{path}: {len(found)} arrays of matrices {sorted(found)[:4]}; name one with clip=")
        array = found[options.clip] if options.clip in found else next(iter(found.values()))
    else:
        array = read_npy(path)
    return Raw(
        matrices(array, str(path)),
        options.matrix or "c2w",
        assumed=() if options.matrix else ("matrices are world-from-camera",),
        notes=() if options.matrix else (AMBIGUOUS,),
    )


def write_array(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """C as float64 `[n 4 4]`."""
    write_npy(path, trajectory.c2w.numpy(), overwrite=overwrite)


def read_lingbot(path: Path, options: Options) -> Raw:
    """`poses.npy` (C) and `intrinsics.npy` (fx fy cx cy, of an 832x480 frame in its samples)."""
    folder = path if path.is_dir() else path.parent
    C = matrices(read_npy(folder / "poses.npy"), f"{folder / 'poses.npy'}")
    return Raw(C, "c2w", Ks=_Ks(read_npy(folder / "intrinsics.npy"), len(C), f"{folder / 'intrinsics.npy'}"))


def write_lingbot(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """The folder with both arrays."""
    rows = atoms.K_rows(need_pixels(trajectory, "lingbot"))
    files.refuse_existing(path, overwrite)
    write_npy(path / "poses.npy", trajectory.c2w.numpy(), overwrite=overwrite)
    write_npy(path / "intrinsics.npy", rows, overwrite=overwrite)


def read_gen3c(path: Path, options: Options) -> Raw:
    """`w2c` and `intrinsics`, or `w2cs_all` with `Ks_all` of a multi-view file."""
    data = Npz(path)
    key, K_key = ("w2c", "intrinsics") if "w2c" in data else ("w2cs_all", "Ks_all")
    V = matrices(data[key], f"{path}, {key}")
    return Raw(V, "w2c", Ks=_Ks(data[K_key], len(V), f"{path}, {K_key}") if K_key in data else None)


def write_gen3c(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """`w2c` and `intrinsics`."""
    Ks = need_pixels(trajectory, "gen3c")
    write_npz(path, {"w2c": trajectory.viewmats.numpy(), "intrinsics": Ks}, overwrite=overwrite)


def read_lyra(path: Path, options: Options) -> Raw:
    """As GEN3C, with the image size; the unit is its own depth of frame 0."""
    data = Npz(path)
    V = matrices(data["w2c"], f"{path}, w2c")
    size = whole(data["image_width"], f"{path}, image_width"), whole(data["image_height"], f"{path}, image_height")
    return Raw(V, "w2c", Ks=_Ks(data["intrinsics"], len(V), f"{path}, intrinsics"), size=size)


def write_lyra(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """`w2c`, `intrinsics`, `image_height`, `image_width`."""
    width, height = need_size(trajectory, "lyra")
    arrays = {"w2c": trajectory.viewmats.numpy(), "intrinsics": need_Ks(trajectory, "lyra")}
    write_npz(path, {**arrays, "image_height": np.array(height), "image_width": np.array(width)}, overwrite=overwrite)


def read_mg35(path: Path, options: Options) -> Raw:
    """Matrix-Game 3.5, metres. Its own flag may declare camera-from-world; the file cannot: use `matrix`."""
    data = Npz(path)
    key = "extrinsics_c2w" if "extrinsics_c2w" in data else "extrinsics"
    M = matrices(data[key], f"{path}, {key}")
    bare = key == "extrinsics" and options.matrix is None
    return Raw(
        M,
        options.matrix or "c2w",
        Ks=_Ks(data["intrinsics"], len(M), f"{path}, intrinsics") if "intrinsics" in data else None,
        metric=True,
        assumed=("matrices are world-from-camera",) if bare else (),
        notes=(AMBIGUOUS,) if bare else (),
    )


def write_mg35(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """`extrinsics_c2w` and `intrinsics` `(n, 4)`."""
    rows = atoms.K_rows(need_pixels(trajectory, "mg35"))
    write_npz(path, {"extrinsics_c2w": trajectory.c2w.numpy(), "intrinsics": rows}, overwrite=overwrite)


def read_sana(path: Path, options: Options) -> Raw:
    """`c2w`, `intrinsics` in pixels of the source image, `fps`."""
    data = Npz(path)
    C = matrices(data["c2w"], f"{path}, c2w")
    fps = float(numbers(data["fps"], (), f"{path}, fps")) if "fps" in data else 0.0
    Ks = _Ks(data["intrinsics"], len(C), f"{path}, intrinsics") if "intrinsics" in data else None
    return Raw(C, "c2w", Ks=Ks, fps=fps if 0 < fps < 1e6 else None)


def write_sana(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """`c2w`, `intrinsics`, `fps`, `num_frames`."""
    arrays = {
        "c2w": trajectory.c2w.numpy(),
        "intrinsics": need_pixels(trajectory, "sana-wm"),
        "fps": np.array(frame_rate(trajectory)),
        "num_frames": np.array(len(trajectory)),
    }
    write_npz(path, arrays, overwrite=overwrite)


def read_llff(path: Path, options: Options) -> Raw:
    """`poses_bounds.npy`: rows of `P | (H, W, f)`, near, far; columns of P point down, right, back."""
    rows = numbers(read_npy(path), (None, 17), str(path))
    if not len(rows):
        raise InputError(f"{path}: holds no poses, expected rows of 17 numbers")
    table = rows[:, :15].reshape(-1, 3, 5)
    H, W, f = table[:, 0, 4], table[:, 1, 4], table[:, 2, 4]
    if len({*H.tolist()}) > 1 or len({*W.tolist()}) > 1:
        raise InputError(f"{path}: images of several sizes, expected one; resize them")
    size = whole(float(W[0]), f"{path}, width"), whole(float(H[0]), f"{path}, height")
    return Raw(
        atoms.llff_c2w(matrices(table[:, :, :4], str(path))), "c2w", Ks=atoms.K_matrix(f, f, W / 2, H / 2), size=size
    )


def write_llff(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """Depth bounds are unknown here and written as 0.1 and 100."""
    width, height = need_size(trajectory, "llff")
    n = len(trajectory)
    side = np.stack([np.full(n, float(height)), np.full(n, float(width)), need_pixels(trajectory, "llff")[:, 0, 0]], -1)
    P = np.concatenate([atoms.llff_c2w(trajectory.c2w.numpy())[:, :3], side[:, :, None]], 2)
    write_npy(path, np.concatenate([P.reshape(n, 15), np.tile([0.1, 100.0], (n, 1))], 1), overwrite=overwrite)


def read_pytorch3d(path: Path, options: Options) -> Raw:
    """npz with `R`, `T` and perhaps `focal_length`, `principal_point` (pixels) and `image_size` (H, W)."""
    data = Npz(path)
    R = numbers(data["R"], (None, 3, 3), f"{path}, R")
    T = numbers(data["T"], (len(R), 3), f"{path}, T")
    Ks = size = None
    if "focal_length" in data and "principal_point" in data:
        f = numbers(data["focal_length"], (len(R), 2), f"{path}, focal_length")
        c = numbers(data["principal_point"], (len(R), 2), f"{path}, principal_point")
        Ks = atoms.K_matrix(f[:, 0], f[:, 1], c[:, 0], c[:, 1])
    if "image_size" in data:
        height, width = numbers(data["image_size"], (2,), f"{path}, image_size").tolist()
        size = whole(width, f"{path}, image_size"), whole(height, f"{path}, image_size")
    return Raw(atoms.row_vectors_w2c(R, T), "w2c", Ks=Ks, size=size)


def write_pytorch3d(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """`R`, `T`, and the intrinsics in pixels where there are any."""
    R, T = atoms.to_row_vectors(trajectory.viewmats.numpy())
    arrays: dict[str, Array] = {"R": R, "T": T}
    if trajectory.Ks is not None:
        rows = atoms.K_rows(need_pixels(trajectory, "pytorch3d"))
        arrays |= {"focal_length": rows[:, :2], "principal_point": rows[:, 2:]}
    if trajectory.width is not None:
        arrays["image_size"] = np.array(need_size(trajectory, "pytorch3d")[::-1])
    write_npz(path, arrays, overwrite=overwrite)


def _Ks(value: Array, n: int, what: str) -> Array:
    """Intrinsics written as `(n, 4)`, `(4,)`, `(3, 3)` or `(n, 3, 3)`."""
    if value.ndim == 1:
        value = np.broadcast_to(value, (n, *value.shape))
    elif value.shape == (3, 3) and n != 3:
        value = np.broadcast_to(value, (n, 3, 3))
    if value.ndim == 2:
        return atoms.K_from_rows(numbers(value, (n, 4), what))
    return numbers(value, (n, 3, 3), what)


FORMATS = (
    Format("npy", "bare matrices in npy or npz", read_array, write_array, "KSTN", frozenset({"matrix", "clip"})),
    Format("lingbot", "LingBot-World folder", read_lingbot, write_lingbot, "STND"),
    Format("gen3c", "GEN3C camera.npz", read_gen3c, write_gen3c, "STND"),
    Format("lyra", "Lyra trajectory.npz", read_lyra, write_lyra, "TND"),
    Format("mg35", "Matrix-Game 3.5 npz", read_mg35, write_mg35, "STND", frozenset({"matrix"})),
    Format("sana-wm", "SANA-WM-Bench npz", read_sana, write_sana, "SUND"),
    Format("llff", "LLFF poses_bounds.npy", read_llff, write_llff, "TPND"),
    Format("pytorch3d", "PyTorch3D R and T in npz", read_pytorch3d, write_pytorch3d, "TND"),
)
