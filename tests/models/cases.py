"""Small random transformers and what they are evaluated on, for the tests of models."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from tests.ops.cases import intrinsics, rigid
from torch import Tensor

from mosaicmem.models.memory_batch import MemoryBatch
from mosaicmem.models.transformer import TransformerConfig, VideoTransformer
from mosaicmem.ops.prope import Layout, TokenCameras, make_cameras

SIZE = (96, 64)  # pixels of a window: tokens of 16 px, 4 rows of 6
CONFIG = TransformerConfig(
    num_attention_heads=2, in_channels=4, out_channels=4, text_dim=16, freq_dim=32, ffn_dim=48, num_layers=2
)


@dataclass(frozen=True)
class Inputs:
    """One evaluation: 3 latents of 4x6 tokens, the first of them clean, and memory of 10 tokens."""

    latents: Tensor
    timesteps: Tensor
    text: Tensor
    memory: MemoryBatch
    viewmats: Tensor
    Ks: Tensor

    @property
    def cameras(self) -> TokenCameras:
        return make_cameras(self.viewmats, self.Ks, SIZE)

    def cameras_of(self, entries: slice, latents: slice) -> TokenCameras:
        """In the gauge of the window."""
        c = self.cameras
        P, PT, Pinv = (m[entries, latents].contiguous() for m in (c.P, c.PT, c.Pinv))
        return TokenCameras(P, PT, Pinv, torch.zeros(len(P), 1, dtype=torch.int64))

    def with_memory(self, **changes: Tensor | None) -> Inputs:
        return replace(self, memory=replace(self.memory, **changes))  # pyright: ignore[reportArgumentType]


def random_inputs(
    seed: int = 0, *, b: int = 2, l: int = 3, channels: int = 4, words: int = 5, text: int = 16
) -> Inputs:
    gen = torch.Generator().manual_seed(seed)
    times = 900 * torch.rand(b, 1, generator=gen) + torch.zeros(b, l)
    times[:, 0] = 0
    row = torch.arange(10) % 2 + 1
    positions = torch.rand(b, 10, 3, generator=gen) * torch.tensor([0, 4.0, 6.0])
    positions[..., 0] = row.float()
    memory = MemoryBatch(torch.randn(b, 10, 4 * channels, generator=gen), positions, row.expand(b, -1))
    return Inputs(
        torch.randn(b, channels, l, 8, 12, generator=gen), times, torch.randn(b, words, text, generator=gen), memory,
        rigid(gen, b, l, 4), intrinsics(gen, b, l, 4, size=SIZE),
    )  # fmt: skip


def random_transformer(layout: Layout = "fused", config: TransformerConfig = CONFIG, seed: int = 3) -> VideoTransformer:
    """Weights of a size at which every part, zero-initialised ones included, matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VideoTransformer(replace(config, prope_layout=layout))
        for parameter in network.parameters():
            parameter.data = parameter.data + 0.1 * torch.randn_like(parameter)
    return network.eval().requires_grad_(False)
