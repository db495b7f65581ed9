"""Conversion atoms: the only place where conventions change.

All work on float64 numpy arrays and leave bad matrices bad, so that the linter sees what the file holds. `C` is
world from camera, `V` camera from world.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from mosaicmem._shapes import Float
from mosaicmem.geometry import se3

Array = np.ndarray

FLIP_YZ = np.diag([1.0, -1.0, -1.0, 1.0])  # A2: right, up, back
FLIP_XY = np.diag([-1.0, -1.0, 1.0, 1.0])  # A3: left, up, forward
UNREAL = np.array([[0.0, 1, 0], [0, 0, -1], [1, 0, 0]])  # A6: x forward, y right, z up -> ours; determinant -1
LLFF = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])


def invert(b_from_a: Float[Array, "n 4 4"]) -> Float[Array, "n 4 4"]:
    """A1: `[R^T | -R^T t]`; the inverse only where `R` is a rotation."""
    R_inv = b_from_a[:, :3, :3].transpose(0, 2, 1)
    return compose(R_inv, -np.einsum("nij,nj->ni", R_inv, b_from_a[:, :3, 3]))


def compose(R: Float[Array, "n 3 3"], t: Float[Array, "n 3"]) -> Float[Array, "n 4 4"]:
    """4x4 transforms from rotations and translations."""
    out = np.zeros((len(R), 4, 4))
    out[:, :3, :3], out[:, :3, 3], out[:, 3, 3] = R, t, 1
    return out


def opengl_c2w(C: Float[Array, "n 4 4"]) -> Float[Array, "n 4 4"]:
    """A2: between OpenGL or Blender and OpenCV cameras; its own inverse."""
    return C @ FLIP_YZ


def left_up_c2w(C: Float[Array, "n 4 4"]) -> Float[Array, "n 4 4"]:
    """A3: between cameras with x left, y up, z forward and ours; its own inverse."""
    return C @ FLIP_XY


def left_up_w2c(V: Float[Array, "n 4 4"]) -> Float[Array, "n 4 4"]:
    """A3 on the other side: `V = Fz V_f`; its own inverse."""
    return FLIP_XY @ V


def llff_c2w(C: Float[Array, "n 4 4"]) -> Float[Array, "n 4 4"]:
    """A4: columns [down, right, back] to [right, down, forward]; its own inverse."""
    return C @ LLFF


def change_world(C: Float[Array, "n 4 4"], W: Float[Array, "4 4"], scale: float = 1.0) -> Float[Array, "n 4 4"]:
    """A5: `C' = W C`, after the centres are multiplied by `scale`."""
    C = C.copy()
    C[:, :3, 3] *= scale
    return W @ C


def unreal_c2w(C: Float[Array, "n 4 4"]) -> Float[Array, "n 4 4"]:
    """A6: Unreal (left-handed, centimetres) to ours (metres). Conjugation keeps the determinant +1."""
    out = C.copy()
    out[:, :3, :3] = UNREAL @ C[:, :3, :3] @ UNREAL.T
    out[:, :3, 3] = C[:, :3, 3] @ UNREAL.T / 100
    return out


def to_unreal_c2w(C: Float[Array, "n 4 4"]) -> Float[Array, "n 4 4"]:
    """A6 backwards."""
    out = C.copy()
    out[:, :3, :3] = UNREAL.T @ C[:, :3, :3] @ UNREAL
    out[:, :3, 3] = C[:, :3, 3] @ UNREAL * 100
    return out


def unreal_rotator(rpy: Float[Array, "n 3"]) -> Float[Array, "n 3 3"]:
    """A7: rotation of (roll, pitch, yaw) in degrees, still in Unreal's axes."""
    r, p, y = np.deg2rad(rpy).T
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in (r, p, y))
    columns = [
        [cp * cy, cp * sy, sp],
        [sr * sp * cy - cr * sy, sr * sp * sy + cr * cy, -sr * cp],
        [-cr * sp * cy - sr * sy, cy * sr - cr * sp * sy, cr * cp],
    ]
    return np.moveaxis(np.array(columns), -1, 0).transpose(0, 2, 1)


def row_vectors_w2c(R: Float[Array, "n 3 3"], T: Float[Array, "n 3"]) -> Float[Array, "n 4 4"]:
    """A8: PyTorch3D, `x_cam = x_world R + T` in left-up-forward axes."""
    return left_up_w2c(compose(R.transpose(0, 2, 1), T))


def to_row_vectors(V: Float[Array, "n 4 4"]) -> tuple[Float[Array, "n 3 3"], Float[Array, "n 3"]]:
    """A8 backwards."""
    V = left_up_w2c(V)
    return V[:, :3, :3].transpose(0, 2, 1).copy(), V[:, :3, 3].copy()


def K_matrix(
    fx: Float[Array, " n"], fy: Float[Array, " n"], cx: Float[Array, " n"], cy: Float[Array, " n"]
) -> Float[Array, "n 3 3"]:
    """Intrinsics from four numbers each."""
    out = np.zeros((len(fx), 3, 3))
    out[:, 0, 0], out[:, 1, 1], out[:, 0, 2], out[:, 1, 2], out[:, 2, 2] = fx, fy, cx, cy, 1
    return out


def K_from_rows(rows: Float[Array, "n 4"]) -> Float[Array, "n 3 3"]:
    """Intrinsics from rows `fx fy cx cy`."""
    return K_matrix(rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 3])


def K_rows(Ks: Float[Array, "n 3 3"]) -> Float[Array, "n 4"]:
    """Rows `fx fy cx cy`."""
    return np.stack([Ks[:, 0, 0], Ks[:, 1, 1], Ks[:, 0, 2], Ks[:, 1, 2]], -1)


def rescale_K(Ks: Float[Array, "n 3 3"], sx: float, sy: float) -> Float[Array, "n 3 3"]:
    """A12 (and A9 with `sx = W`, `sy = H`): `diag(sx, sy, 1) K`, exact with pixel centres at 0.5."""
    return np.array([sx, sy, 1.0])[:, None] * Ks


def integer_centres_K(Ks: Float[Array, "n 3 3"]) -> Float[Array, "n 3 3"]:
    """A11: from pixel centres at integers to centres at 0.5."""
    out = Ks.copy()
    out[:, :2, 2] += 0.5
    return out


def focal_from_fov(fov: float, extent: float) -> float:
    """A10: focal length, in pixels, of a side of `extent` pixels under `fov` radians."""
    return extent / 2 / math.tan(fov / 2)


def fov_from_focal(f: float, extent: float) -> float:
    """A10 backwards, radians."""
    return 2 * math.atan(extent / 2 / f)


def expand_latents(C: Float[Array, "n 4 4"], stride: int = 4) -> Float[Array, "m 4 4"]:
    """A13: one pose per latent becomes one per frame, `stride (n - 1) + 1` of them: linear centre, slerp."""
    if len(C) < 2:
        return C
    q = se3.rotation_to_quat(torch.from_numpy(C[:, :3, :3].copy()))
    steps = torch.arange(stride * (len(C) - 1) + 1)
    low = (steps // stride).clamp(max=len(C) - 2)
    t = (steps - stride * low).double() / stride
    R = se3.quat_to_rotation(se3.slerp(q[low], q[low + 1], t)).numpy()
    w, i = t.numpy()[:, None], low.numpy()
    return compose(R, (1 - w) * C[i, :3, 3] + w * C[i + 1, :3, 3])


def pitch_yaw_c2w(rows: Float[Array, "n 5"]) -> Float[Array, "n 4 4"]:
    """A14: Minecraft-like (x, y, z, pitch, yaw), degrees: `[Ry(yaw) Rx(pitch), c] Fz`. The sources state no axes."""
    return left_up_c2w(compose(rot_y(rows[:, 4]) @ rot_x(rows[:, 3]), rows[:, :3]))


def rot_x(degrees: Float[Array, " n"]) -> Float[Array, "n 3 3"]:
    """Rotations about +x."""
    return _rotation(degrees, 1, 2)


def rot_y(degrees: Float[Array, " n"]) -> Float[Array, "n 3 3"]:
    """Rotations about +y; with y down a positive angle turns the view to the right."""
    return _rotation(degrees, 2, 0)


def rot_z(degrees: Float[Array, " n"]) -> Float[Array, "n 3 3"]:
    """Rotations about +z."""
    return _rotation(degrees, 0, 1)


def quat_to_rotation(wxyz: Float[Array, "n 4"]) -> Float[Array, "n 3 3"]:
    """Rotations of quaternions of any norm; a zero quaternion gives the identity."""
    return se3.quat_to_rotation(torch.from_numpy(np.nan_to_num(wxyz).copy())).numpy()


def rotation_to_quat(R: Float[Array, "n 3 3"]) -> Float[Array, "n 4"]:
    """wxyz, unit, `w >= 0`."""
    return se3.rotation_to_quat(torch.from_numpy(R.copy())).numpy()


def _rotation(degrees: Array, i: int, j: int) -> Array:
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    out = np.zeros((len(degrees), 3, 3))
    out[:] = np.eye(3)
    out[:, i, i], out[:, j, j], out[:, i, j], out[:, j, i] = c, c, -s, s
    return out
