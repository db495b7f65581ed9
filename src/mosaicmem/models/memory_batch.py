"""`MemoryBatch`: memory tokens of a batch as the transformer reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.models.conditioning import MemoryTokens

AGE_WAVES = 12
"""Numbers by which an age is told, see `age_waves`."""


@dataclass(frozen=True)
class MemoryBatch:
    """Memory tokens of a batch, padded.

    Attributes:
        features: `[b M c*p*p]` as `MemoryTokens` holds them: channel, row, column.
        positions: `[b M 3]` rotary (t, y, x).
        row: `[b M]` target latent, whose cameras the token carries.
        mask: `[b M]` False for padding; None if there is none.
        subframes: `[b M x]` what memory shows at raw frames; None if the tokens do not say.
        warped_latent: `[b M]` tokens that Warped Latent put exactly at their target; None stands for none.
        age: `[b M]` seconds since they were seen; None if the tokens do not say.
    """

    features: Float[Tensor, "b M c"]
    positions: Float[Tensor, "b M 3"]
    row: Int64[Tensor, "b M"]
    mask: Bool[Tensor, "b M"] | None = None
    subframes: Float[Tensor, "b M x"] | None = None
    warped_latent: Bool[Tensor, "b M"] | None = None
    age: Float[Tensor, "b M"] | None = None

    def __len__(self) -> int:
        return self.features.shape[1]

    def to(self, device: torch.device | str) -> MemoryBatch:
        """The same tokens on a device."""
        tensors = ((f.name, getattr(self, f.name)) for f in fields(self))
        return replace(self, **{name: None if x is None else x.to(device) for name, x in tensors})

    def later(self, latents: int) -> MemoryBatch:
        """For a window with so many more latents in front, whose time indices are negative."""
        return replace(self, row=self.row + latents)

    @classmethod
    def pad(cls, batch: Sequence[MemoryTokens], width: int) -> MemoryBatch:
        """Pad every target latent to its largest count in the batch, so that tokens of one camera lie together.

        Args:
            batch: Tokens of each entry, ordered by target latent.
            width: Features of a token, for entries that have none.
        """
        latents = sorted({int(l) for tokens in batch for l in tokens.latent.unique()})
        counts = [max(int((tokens.latent == l).sum()) for tokens in batch) for l in latents]
        total = sum(counts)
        features = torch.zeros(len(batch), total, width)
        positions = torch.zeros(len(batch), total, 3)
        row = torch.zeros(len(batch), total, dtype=torch.int64)
        mask = torch.zeros(len(batch), total, dtype=torch.bool)
        told = [tokens.subframes for tokens in batch if tokens.subframes is not None]
        subframes = torch.zeros(len(batch), total, told[0].shape[1]) if told else None
        warped_latent = torch.zeros_like(mask)
        age = torch.zeros(len(batch), total) if any(tokens.age is not None for tokens in batch) else None
        for b, tokens in enumerate(batch):
            start = 0
            for latent, count in zip(latents, counts, strict=True):
                mine = (tokens.latent == latent).nonzero().squeeze(1)
                here = slice(start, start + len(mine))
                features[b, here] = tokens.features[mine].float()
                positions[b, here] = tokens.positions[mine].float()
                mask[b, here], warped_latent[b, here] = True, tokens.warped_latent[mine]
                if subframes is not None and tokens.subframes is not None:
                    subframes[b, here] = tokens.subframes[mine].float()
                if age is not None and tokens.age is not None:
                    age[b, here] = tokens.age[mine]
                row[b, start : start + count] = latent
                start += count
        return cls(features, positions, row, None if bool(mask.all()) else mask, subframes, warped_latent, age)

    def in_place(self, video: int, tokens: tuple[int, int], dtype: torch.dtype) -> InPlace:
        """What Warped Latent put at the place of each of `video` tokens, `tokens` rows and columns to a latent."""
        assert self.warped_latent is not None
        exact = self.warped_latent[..., None]
        parts = [self.features] if self.subframes is None else [self.features, self.subframes]
        content = torch.cat(parts, dim=-1).to(dtype) * exact
        row, column = self.positions[..., 1:].round().long().unbind(-1)
        place = ((self.row * tokens[0] + row) * tokens[1] + column).where(self.warped_latent, 0)[..., None]
        b, _, width = content.shape
        known = content.new_zeros(b, video, 1).scatter_add(1, place, exact.to(content))
        age = None if self.age is None else content.new_zeros(b, video, 1, dtype=self.age.dtype)
        if age is not None and self.age is not None:
            age = age.scatter_add(1, place, self.age[..., None] * exact)[..., 0]
        return InPlace(content.new_zeros(b, video, width).scatter_add(1, place.expand_as(content), content), known, age)


@dataclass(frozen=True)
class InPlace:
    """Memory on the grid of the video tokens: it need not be found by attention first.

    Attributes:
        content: `[b L c]` features, and sub-frames if there are any, 0 where there are none.
        known: `[b L 1]` 1 where there are some.
        age: `[b L]` seconds since they were seen, as `MemoryBatch.age`.
    """

    content: Float[Tensor, "b L c"]
    known: Float[Tensor, "b L 1"]
    age: Float[Tensor, "b L"] | None = None


def age_waves(age: Float[Tensor, "b M"]) -> Float[Tensor, "b M w"]:
    """Ages in seconds as waves of `asinh(age / 0.1)`: fine near now, coarse long ago, odd for what comes later."""
    turned = torch.asinh(10 * age.float())[..., None] * 2.0 ** torch.arange(-2, AGE_WAVES // 2 - 2, device=age.device)
    return torch.cat([turned.sin(), 1 - turned.cos()], dim=-1)
