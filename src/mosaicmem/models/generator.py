"""What a generator receives for one window, and what it must give back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.models.conditioning import MemoryTokens


@dataclass(frozen=True)
class Past:
    """The frames right before a window, its anchor the last of them.

    Attributes:
        latents: `[c h w]` of these frames, as one group of the autoencoder.
        cameras: One a frame.
    """

    latents: Float[Tensor, "c h w"]
    cameras: Cameras


@dataclass(frozen=True)
class WindowRequest:
    """One window: a clean anchor latent followed by `l` latents to generate.

    Attributes:
        anchor: `[c h w]` latent of the last frame before the window, clean; latent 0 of the window.
        canvas: `[l c h w]` memory as a picture (Warped Latent) for latents 1..l; zeros where `good` is false.
        good: `[l h w]` cells of `canvas` that memory serves.
        tokens: The same memory as conditioning tokens; their latent index counts the anchor as 0.
        cameras: Cameras of all raw frames of the window, the anchor's first, relative to the anchor's camera and with
            translations divided by the sequence's scale.
        noise: `[l c h w]` standard normal start of the sampler, a function of seed and frame index alone.
        grid: Strides and sizes.
        prompt: Text of the window.
        avoid: Text that guidance leads away from: what would be said if nothing happened.
        past: The frames before the window where they are known, cameras as in `cameras`; None for a generator that does
            not read them.
    """

    anchor: Float[Tensor, "c h w"]
    canvas: Float[Tensor, "l c h w"]
    good: Bool[Tensor, "l h w"]
    tokens: MemoryTokens
    cameras: Cameras
    noise: Float[Tensor, "l c h w"]
    grid: TokenGrid
    prompt: str = ""
    avoid: str = ""
    past: Past | None = None


@runtime_checkable
class Generator(Protocol):
    """Turns a `WindowRequest` into latents."""

    @property
    def name(self) -> str:
        """Short identity, written into results."""
        ...

    @property
    def label(self) -> str:
        """`[synthetic]`, `[trained:NAME]` or `[external:NAME]`: what stands beside every number."""
        ...

    @property
    def use_memory(self) -> bool:
        """Whether the long-term memory is read at all; without, only the last frame is."""
        ...

    @property
    def invents(self) -> bool:
        """Whether what it puts into holes is content worth remembering. If not, nothing of its frames is."""
        ...

    @property
    def subframes(self) -> bool:
        """Whether it reads what memory shows at every raw frame, not at reference frames alone."""
        ...

    @property
    def reads_past(self) -> bool:
        """Whether it reads `WindowRequest.past`."""
        ...

    def generate(self, request: WindowRequest) -> Float[Tensor, "l c h w"]:
        """Latents 1..l of the window; latent 0 stays the anchor."""
        ...
