"""What memory keeps: a `Keyframe` is one observed or generated frame as latents with geometry; a `Group` places it.

A patch is one token of a keyframe, `p x p` latent cells. Patches are never fused with each other: overlaps are
settled at retrieval, by the z-buffer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras

Origin = Literal["observed", "generated"]


@dataclass(frozen=True)
class Keyframe:
    """One frame in memory. Never changed after lifting; edits act on the `Group` that places it.

    Attributes:
        latents: `[c h w]` image-mode latent of the frame.
        depth: `[h w]` z-depth at cell centres, world units; 0 where unknown.
        valid: `[h w]` cells that may be read: known depth, no depth edge, trusted.
        confidence: `[h w]` in [0, 1]; 1 where the source gave none.
        camera: The source camera (a sequence of one), float64, at image size.
        stride: Pixels per latent cell.
        patch: Cells per token, along each axis.
        frame: Global index of the raw frame.
        time: Seconds.
        origin: Whether the frame was observed or generated.

    Raises:
        GeometryError: if shapes disagree with each other or with the camera's image, or a valid cell has no depth.
    """

    latents: Float[Tensor, "c h w"]
    depth: Float[Tensor, "h w"]
    valid: Bool[Tensor, "h w"]
    confidence: Float[Tensor, "h w"]
    camera: Cameras
    stride: int
    patch: int
    frame: int = 0
    time: float = 0.0
    origin: Origin = "observed"

    def __post_init__(self) -> None:
        h, w = self.depth.shape
        expected = (self.camera.height // self.stride, self.camera.width // self.stride)
        if len(self.camera) != 1:
            raise GeometryError(f"a keyframe has exactly one camera, got {len(self.camera)}")
        if (h, w) != expected or self.latents.shape[1:] != self.depth.shape:
            raise GeometryError(
                f"keyframe {self.frame}: latents {tuple(self.latents.shape)} and depth {(h, w)} do not fit an image of "
                f"{self.camera.width}x{self.camera.height} at stride {self.stride}, expected a grid of {expected}"
            )
        if h % self.patch or w % self.patch:
            raise GeometryError(f"keyframe {self.frame}: grid {(h, w)} is no multiple of the patch size {self.patch}")
        if not bool(self.latents.isfinite().all()):
            raise GeometryError(f"keyframe {self.frame}: latents contain NaN or infinity")
        readable = self.depth[self.valid]
        if not bool((readable.isfinite() & (readable > 0)).all()):
            raise GeometryError(f"keyframe {self.frame}: a valid cell has depth <= 0 or not finite; unknown is invalid")

    @property
    def tokens(self) -> tuple[int, int]:
        """`(m, n)` patches of this keyframe."""
        h, w = self.depth.shape
        return h // self.patch, w // self.patch

    @property
    def median_depth(self) -> float:
        """Lower median of the valid depths, world units; 0 if nothing is valid."""
        return float(self.depth[self.valid].median()) if bool(self.valid.any()) else 0.0


@dataclass(frozen=True)
class Group:
    """A keyframe at a place: edits move, mirror or mask groups, and everything downstream follows.

    Attributes:
        keyframe: The content.
        world_from_cam: `[4 4]` float64, where the keyframe's camera space lies in the world. A rigid transform, or a
            similarity `[a R | c]` after scaling; `c2w` of the source camera until edited.
        mask: `[m n]` patches that belong to the group, or None for all.
        uid: Unique in its store; grows with insertion.
        pinned: Whether forgetting must leave it alone.
        until: Seconds from which on it no longer holds, because something newer showed otherwise; None while it holds.
    """

    keyframe: Keyframe
    world_from_cam: Float[Tensor, "4 4"]
    mask: Bool[Tensor, "m n"] | None
    uid: int
    pinned: bool = False
    until: float | None = None

    @property
    def valid(self) -> Bool[Tensor, "h w"]:
        """`[h w]` cells that are valid and belong to the group."""
        if self.mask is None:
            return self.keyframe.valid
        p = self.keyframe.patch
        return self.keyframe.valid & self.mask.repeat_interleave(p, 0).repeat_interleave(p, 1)

    @property
    def age_key(self) -> tuple[float, int, int]:
        """Orders groups from old to new; unique."""
        return self.keyframe.time, self.keyframe.frame, self.uid


def patch_points(group: Group) -> tuple[Float[Tensor, "q 3"], Float[Tensor, "q"], Tensor]:
    """One world point per patch that has a valid cell: its centre at the lower median of its valid depths.

    Returns:
        points `[q 3]` float32 world positions, radius `[q]` half a patch's extent there in world units, and
        index `[q]` row-major patch numbers.
    """
    keyframe, p = group.keyframe, group.keyframe.patch
    m, n = keyframe.tokens
    depth = torch.where(group.valid, keyframe.depth.double(), torch.inf)
    blocks = depth.reshape(m, p, n, p).permute(0, 2, 1, 3).reshape(m * n, p * p)
    count = blocks.isfinite().sum(-1)
    index = count.nonzero().squeeze(-1)
    middle = ((count[index] - 1) // 2)[:, None]
    z = blocks[index].sort(dim=-1).values.gather(1, middle).squeeze(1)
    uv = torch.stack([index % n, index // n], -1).double().add(0.5) * (p * keyframe.stride)
    K = keyframe.camera.Ks[0].double()
    xy = (uv - K[:2, 2]) / K.diagonal()[:2] * z[:, None]
    A = group.world_from_cam
    world = torch.cat([xy, z[:, None]], -1) @ A[:3, :3].T + A[:3, 3]
    scale = float(torch.linalg.det(A[:3, :3]).abs() ** (1 / 3))
    radius = z * scale * (p * keyframe.stride / 2) / float(K.diagonal()[:2].min())
    return world.float(), radius.float(), index
