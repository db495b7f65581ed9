"""What memory keeps: a `Keyframe` is one observed or generated frame as latents with geometry; a `Group` places it.

A patch is one token of a keyframe, `p x p` latent cells. Patches are never fused with each other: overlaps are
settled at retrieval, by the z-buffer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras

Origin = Literal["observed", "generated"]

_TENSORS = ("latents", "depth", "valid", "confidence")
_SAME = np.eye(4)


@runtime_checkable
class Contents(Protocol):
    """The tensors of a keyframe that stay where they are until they are asked for, such as in a file."""

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        ...

    @property
    def nbytes(self) -> int:
        """Bytes of all four tensors, read."""
        ...

    def read(self, name: str) -> Tensor:
        """`latents`, `depth`, `valid` or `confidence`, of a keyframe that would pass `Keyframe`'s own checks."""
        ...


@dataclass(frozen=True, eq=False)
class Keyframe:
    """One frame in memory. Never changed after lifting; edits act on the `Group` that places it. Equal to itself only.

    A keyframe of a file holds no tensors (`Keyframe.stored`): each of the first four attributes is read when it is
    used, and it is up to the file to keep what is used again.

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
        GeometryError: if shapes disagree with each other or with the camera's image, a valid cell has no depth,
            latents, confidence or the time are not finite, or a tensor is not on the CPU.
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

    @staticmethod
    def stored(
        contents: Contents, camera: Cameras, stride: int, patch: int, *, frame: int, time: float, origin: Origin
    ) -> Keyframe:
        """A keyframe whose tensors are read from `contents` when they are used."""
        keyframe = object.__new__(Keyframe)
        keyframe.__dict__.update(
            camera=camera, stride=stride, patch=patch, frame=frame, time=time, origin=origin, contents=contents
        )
        return keyframe

    if not TYPE_CHECKING:  # to a type checker the fields above are all there is

        def __getattr__(self, name: str) -> Any:
            """Reached for what is not in memory: a tensor of a stored keyframe, or a mistake."""
            contents = self.__dict__.get("contents")
            if contents is None or name not in _TENSORS:
                raise AttributeError(f"'Keyframe' object has no attribute {name!r}")
            return contents.read(name)

    def __post_init__(self) -> None:
        h, w = self.depth.shape
        expected = self.cells
        for name, tensor in [*((name, getattr(self, name)) for name in _TENSORS), ("camera", self.camera.viewmats)]:
            if tensor.device.type != "cpu":
                raise GeometryError(
                    f"keyframe {self.frame}: {name} lies on {tensor.device}, but memory is kept and read on the CPU, "
                    "whatever device the models use; bring it there with .cpu()"
                )
        if len(self.camera) != 1:
            raise GeometryError(f"a keyframe has exactly one camera, got {len(self.camera)}")
        if (h, w) != expected or self.latents.shape[1:] != self.depth.shape:
            raise GeometryError(
                f"keyframe {self.frame}: latents {tuple(self.latents.shape)} and depth {(h, w)} do not fit an image of "
                f"{self.camera.width}x{self.camera.height} at stride {self.stride}, expected a grid of {expected}"
            )
        if h % self.patch or w % self.patch:
            raise GeometryError(f"keyframe {self.frame}: grid {(h, w)} is no multiple of the patch size {self.patch}")
        for name in ("latents", "confidence"):
            if not bool(getattr(self, name).isfinite().all()):
                raise GeometryError(f"keyframe {self.frame}: NaN or infinity in its {name}")
        if not math.isfinite(self.time):
            raise GeometryError(f"keyframe {self.frame}: its time is {self.time} s; expected a finite number")
        readable = self.depth[self.valid]
        if not bool((readable.isfinite() & (readable > 0)).all()):
            raise GeometryError(f"keyframe {self.frame}: a valid cell has depth <= 0 or not finite; unknown is invalid")

    @property
    def cells(self) -> tuple[int, int]:
        """`(h, w)` latent cells."""
        return self.camera.height // self.stride, self.camera.width // self.stride

    @property
    def tokens(self) -> tuple[int, int]:
        """`(m, n)` patches of this keyframe."""
        h, w = self.cells
        return h // self.patch, w // self.patch

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        contents: Contents | None = self.__dict__.get("contents")
        return self.latents.shape[0] if contents is None else contents.channels

    @property
    def nbytes(self) -> int:
        """Bytes that latents, depth, confidence and the valid mask take in memory once they are read."""
        contents: Contents | None = self.__dict__.get("contents")
        if contents is not None:
            return contents.nbytes
        return sum(t.numel() * t.element_size() for t in (self.latents, self.depth, self.valid, self.confidence))

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
    def moved(self) -> bool:
        """Whether an edit put it elsewhere than where its camera saw it, by more than a millionth."""
        place = self.world_from_cam.numpy()  # asked of every group of a view: in numpy it takes a tenth of the time
        off = place @ self.keyframe.camera.viewmats[0].double().numpy() - _SAME
        return bool(np.abs(off).max() > 1e-6 * (1 + np.abs(place[:3, 3]).max()))

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
    keyframe = group.keyframe
    depths = patch_depths(keyframe).double()
    if group.mask is not None:
        depths = depths * group.mask.flatten()
    points, radius = place_patches(depths[None], keyframe, keyframe.camera.Ks.double(), group.world_from_cam[None])
    index = depths.nonzero().squeeze(-1)
    return points[0, index], radius[0, index], index


def patch_depths(keyframe: Keyframe) -> Float[Tensor, "q"]:
    """Lower median of the valid depths of every patch, row-major, in the dtype of the depths; 0 where none is valid."""
    p = keyframe.patch
    m, n = keyframe.tokens
    depth = torch.where(keyframe.valid, keyframe.depth, torch.inf)
    blocks = depth.reshape(m, p, n, p).permute(0, 2, 1, 3).reshape(m * n, p * p)
    count = blocks.isfinite().sum(-1)
    middle = ((count - 1).clamp(min=0) // 2)[:, None]
    median = blocks.sort(dim=-1).values.gather(1, middle).squeeze(1)
    return torch.where(count > 0, median, torch.zeros_like(median))


def place_patches(
    depths: Float[Tensor, "g q"], like: Keyframe, Ks: Float[Tensor, "g 3 3"], world_from_cam: Float[Tensor, "g 4 4"]
) -> tuple[Float[Tensor, "g q 3"], Float[Tensor, "g q"]]:
    """Centres and radii, float32, of all patches of `g` groups whose keyframes share the token grid of `like`.

    Term by term rather than as a matrix product, so that many groups at once give the bits that one alone gives.

    Args:
        depths: From `patch_depths`, float64; what comes out for a patch of depth 0 means nothing.
        like: Any of the keyframes.
        Ks: Their intrinsics, float64.
        world_from_cam: Where each group lies, float64.
    """
    m, n = like.tokens
    size = like.patch * like.stride
    at = torch.arange(m * n)
    u, v = ((at % n).double() + 0.5) * size, ((at // n).double() + 0.5) * size
    fx, fy, cx, cy = (Ks[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x, y, A = (u - cx) / fx * depths, (v - cy) / fy * depths, world_from_cam[..., None]
    points = [(x * A[:, i, 0] + y * A[:, i, 1]) + (depths * A[:, i, 2] + A[:, i, 3]) for i in range(3)]
    scales = [abs(float(d)) ** (1 / 3) for d in torch.linalg.det(world_from_cam[:, :3, :3])]
    half = torch.tensor(scales, dtype=torch.float64)[:, None] * (size / 2) / torch.minimum(fx, fy)
    return torch.stack(points, -1).float(), (depths * half).float()
