"""Rigid and similarity transforms as 4x4 matrices, rotations and wxyz quaternions.

A transform is named `b_from_a`: it takes coordinates in `a` to coordinates in `b`, so a product reads
`c_from_a = c_from_b @ b_from_a` and a wrong one is visible. All functions are batched over leading dimensions.
"""

from __future__ import annotations

import torch

from mosaicmem._shapes import Float, Tensor


def invert_rigid(b_from_a: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 4 4"]:
    """Closed-form inverse of a rigid transform: `[R^T | -R^T t]`. Exact only if the upper block is a rotation."""
    R_inv = b_from_a[..., :3, :3].transpose(-1, -2)
    out = torch.zeros_like(b_from_a)
    out[..., :3, :3] = R_inv
    out[..., :3, 3:] = -(R_inv @ b_from_a[..., :3, 3:])
    out[..., 3, 3] = 1
    return out


def make_transform(R: Float[Tensor, "*b 3 3"], t: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """4x4 transform `x -> R x + t`."""
    R, t = _same_batch(R, 2, t, 1)
    out = torch.zeros(*t.shape[:-1], 4, 4, dtype=R.dtype, device=R.device)
    out[..., :3, :3] = R
    out[..., :3, 3] = t
    out[..., 3, 3] = 1
    return out


def translation(t: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4 4"]:
    """Pure translation by `t`."""
    return make_transform(torch.eye(3, dtype=t.dtype, device=t.device).expand(*t.shape[:-1], 3, 3), t)


def transform_points(b_from_a: Float[Tensor, "*#b 4 4"], points: Float[Tensor, "*#b n 3"]) -> Float[Tensor, "*b n 3"]:
    """Apply an affine transform to points `[n, 3]`."""
    return points @ b_from_a[..., :3, :3].transpose(-1, -2) + b_from_a[..., None, :3, 3]


def rotation_angle(R_a: Float[Tensor, "*b 3 3"], R_b: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b"]:
    """Angle between two rotations, in radians, accurate from 0 to pi in float32 too.

    Near 0 the chord `|R_a - R_b|_F = 2 sqrt 2 sin(angle / 2)` keeps what `arccos((tr - 1) / 2)` loses (1e-4 rad is 0
    there in float32). Beyond a right angle the trace loses the same way, and the cosine of the half angle comes from
    the antisymmetric part of `R_a^T R_b`, whose norm is `2 sin(angle)`.
    """
    half_sin = (R_a - R_b).flatten(-2).norm(dim=-1) / (2 * 2**0.5)
    trace = (R_a * R_b).flatten(-2).sum(-1)
    R = R_a.transpose(-1, -2) @ R_b
    axis = torch.stack([R[..., 2, 1] - R[..., 1, 2], R[..., 0, 2] - R[..., 2, 0], R[..., 1, 0] - R[..., 0, 1]], -1)
    wide = trace < 1
    from_axis = axis.norm(dim=-1) / (4 * torch.where(wide, half_sin, torch.ones_like(half_sin)))
    from_trace = torch.where(wide, torch.ones_like(trace), trace + 1).sqrt() / 2
    return 2 * torch.atan2(half_sin, torch.where(wide, from_axis, from_trace))


def nearest_rotation(M: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
    """The rotation (det +1) nearest to `M` in the Frobenius norm."""
    U, _, Vh = torch.linalg.svd(M)
    sign = torch.det(U @ Vh)
    D = torch.diag_embed(torch.stack([torch.ones_like(sign), torch.ones_like(sign), sign], dim=-1))
    return U @ D @ Vh


def axis_angle(axis: Float[Tensor, "*b 3"], angle: Float[Tensor, "*b"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation by `angle` radians about `axis` (need not be unit), right-handed (Rodrigues)."""
    x, y, z = torch.nn.functional.normalize(axis, dim=-1).unbind(-1)
    zero = torch.zeros_like(x)
    K = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    eye = torch.eye(3, dtype=axis.dtype, device=axis.device)
    s, c = angle.sin()[..., None, None], angle.cos()[..., None, None]
    return eye + s * K + (1 - c) * (K @ K)


def quat_to_rotation(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation of a wxyz quaternion; the quaternion is normalised first."""
    w, x, y, z = torch.nn.functional.normalize(q, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def rotation_to_quat(R: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """wxyz quaternion of a rotation, with `w >= 0`; stable for every angle (largest of four candidates)."""
    m = R.flatten(-2).unbind(-1)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m
    candidates = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m01 + m10, m02 + m20], -1),
            torch.stack([m02 - m20, m01 + m10, 1 - m00 + m11 - m22, m12 + m21], -1),
            torch.stack([m10 - m01, m02 + m20, m12 + m21, 1 - m00 - m11 + m22], -1),
        ],
        dim=-2,
    )
    best = torch.diagonal(candidates, dim1=-2, dim2=-1).argmax(-1)
    q = torch.take_along_dim(candidates, best[..., None, None], dim=-2).squeeze(-2)
    q = torch.nn.functional.normalize(q, dim=-1)
    return torch.where(q[..., :1] < 0, -q, q)


def slerp(q0: Float[Tensor, "*b 4"], q1: Float[Tensor, "*b 4"], t: Float[Tensor, "*b"]) -> Float[Tensor, "*b 4"]:
    """Spherical interpolation of unit wxyz quaternions along the shorter arc; `t` in [0, 1]."""
    dot = (q0 * q1).sum(-1, keepdim=True)
    q1 = torch.where(dot < 0, -q1, q1)
    theta = 2 * torch.atan2((q0 - q1).norm(dim=-1), (q0 + q1).norm(dim=-1))
    s = theta.sin()
    small = s < 1e-9
    s = torch.where(small, torch.ones_like(s), s)
    w0 = torch.where(small, 1 - t, ((1 - t) * theta).sin() / s)
    w1 = torch.where(small, t, (t * theta).sin() / s)
    return torch.nn.functional.normalize(w0[..., None] * q0 + w1[..., None] * q1, dim=-1)


def _same_batch(a: Tensor, a_dims: int, b: Tensor, b_dims: int) -> tuple[Tensor, Tensor]:
    batch = torch.broadcast_shapes(a.shape[: a.ndim - a_dims], b.shape[: b.ndim - b_dims])
    return a.expand(*batch, *a.shape[a.ndim - a_dims :]), b.expand(*batch, *b.shape[b.ndim - b_dims :])
