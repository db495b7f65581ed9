"""Attention as a model calls it: raw queries over several sets of raw keys and values.

A key set may be the tokens of the window, memory for the current block, or a cache of earlier blocks. `KeyValues` holds
keys and values *before* any rotation or camera; `Placement` says where those tokens are now. Because the two are
joined only inside `attend`, a cache outlives a change of gauge, of the time origin or of the window: keep the
`KeyValues` of each layer, and hand in a new `Placement`, which all layers share.

    cache = KeyValues.cat(cache, block)                      # per layer, once a block is clean
    at = Placement.cat(cached_at, block_at)                   # once per step, in the gauge of the current window
    out = attend(q, here, [(cache, at), (memory, memory_at), (own, here)])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import ConfigError
from mosaicmem.ops.prope import Layout, TokenCameras, prope_attention
from mosaicmem.ops.rope import THETA, rope_cos_sin


@dataclass(frozen=True)
class KeyValues:
    """Keys (after QK-norm) and values of some tokens in one layer, neither rotated nor seen through a camera.

    Attributes:
        k, v: `[b heads L d]`.
    """

    k: Float[Tensor, "b heads L d"]
    v: Float[Tensor, "b heads L d"]

    def __len__(self) -> int:
        return self.k.shape[2]

    def tokens(self, index: slice) -> KeyValues:
        """A run of tokens, for instance what a rolling window keeps. Shares storage."""
        return KeyValues(self.k[:, :, index], self.v[:, :, index])

    @staticmethod
    def cat(first: KeyValues, second: KeyValues) -> KeyValues:
        """First then second along the sequence."""
        return KeyValues(torch.cat([first.k, second.k], dim=2), torch.cat([first.v, second.v], dim=2))


@dataclass(frozen=True)
class Placement:
    """Where a run of tokens is: rotary angles, cameras, and which of the tokens exist.

    Attributes:
        cos, sin: `[b L pairs]` from `rope_cos_sin`.
        cameras: One camera row a token, or None where attention carries no cameras.
        mask: `[b L]` False for padding; None if every token exists.
    """

    cos: Float[Tensor, "b L pairs"]
    sin: Float[Tensor, "b L pairs"]
    cameras: TokenCameras | None = None
    mask: Bool[Tensor, "b L"] | None = None

    def __len__(self) -> int:
        return self.cos.shape[1]

    def tokens(self, index: slice) -> Placement:
        """The placement of a run of tokens."""
        cameras = None if self.cameras is None else self.cameras.tokens(index)
        mask = None if self.mask is None else self.mask[:, index]
        return Placement(self.cos[:, index], self.sin[:, index], cameras, mask)

    @staticmethod
    def cat(first: Placement, second: Placement) -> Placement:
        """First then second along the sequence; both in one gauge.

        Raises:
            ConfigError: if only one of them has cameras.
        """
        cameras = None
        if (first.cameras is None) != (second.cameras is None):
            raise ConfigError("some tokens of one attention have cameras and some have none; give the others P = I")
        if first.cameras is not None and second.cameras is not None:
            cameras = TokenCameras.cat(first.cameras, second.cameras)
        mask = None
        if first.mask is not None or second.mask is not None:
            mask = torch.cat([first._existing(), second._existing()], dim=1)
        return Placement(torch.cat([first.cos, second.cos], 1), torch.cat([first.sin, second.sin], 1), cameras, mask)

    def _existing(self) -> Tensor:
        return torch.ones_like(self.cos[..., 0], dtype=torch.bool) if self.mask is None else self.mask


def place(
    positions: Float[Tensor, "b L 3"],
    head_dim: int,
    *,
    cameras: TokenCameras | None = None,
    mask: Bool[Tensor, "b L"] | None = None,
    layout: Layout = "fused",
    theta: float = THETA,
) -> Placement:
    """Placement of tokens at (t, y, x) `positions`; in split layout rotary positions fill half of the head."""
    width = head_dim // 2 if layout == "split" else head_dim
    return Placement(*rope_cos_sin(positions, width, theta), cameras, mask)


def attend(
    q: Float[Tensor, "b heads L d"],
    at: Placement,
    keys: Sequence[tuple[KeyValues, Placement]],
    *,
    layout: Layout = "fused",
    to_out_prope: Callable[[Tensor], Tensor] | None = None,
) -> Float[Tensor, "b heads L d"]:
    """Attention of queries at `at` over the union of several key sets.

    Empty key sets leave no trace, bit for bit. The order of tokens within and between sets does not matter. Padded
    queries (`at.mask`) give values without meaning that no other row sees.

    Args:
        q: Queries after QK-norm, before any rotation.
        at: Where the queries are.
        keys: At least one set; the window's own tokens are one of them.
        layout, to_out_prope: As in `prope_attention`.

    Raises:
        ConfigError: if there is no key set, or a set and its placement differ in length.
    """
    for kv, placed in keys:
        if len(kv) != len(placed):
            raise ConfigError(f"a key set holds {len(kv)} tokens but its placement {len(placed)}")
    # An empty set may bring a mask, and with it another kernel and other last bits.
    filled = [pair for pair in keys if len(pair[0])] or list(keys[:1])
    if not filled:
        raise ConfigError("attend needs at least one key set; queries attend to their own tokens only if given them")
    kv, placed = filled[0]
    for more, more_placed in filled[1:]:
        kv, placed = KeyValues.cat(kv, more), Placement.cat(placed, more_placed)
    return prope_attention(
        q,
        kv.k,
        kv.v,
        at.cameras,
        placed.cameras,
        (at.cos, at.sin),
        (placed.cos, placed.sin),
        layout=layout,
        key_mask=placed.mask,
        to_out_prope=to_out_prope,
    )
