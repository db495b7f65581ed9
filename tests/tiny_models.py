"""A complete model of random weights, a few kilobytes in all, in the files that trained ones come in."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from mosaicmem.models.depth_net import DepthNet, DepthNetConfig
from mosaicmem.models.refiner import Refiner, RefinerConfig
from mosaicmem.models.transformer import TransformerConfig
from mosaicmem.models.video_vae import VideoVAE, VideoVAEConfig
from mosaicmem.models.world_model import WorldNetwork

CHANNELS = 4


def write_tiny_model(folder: Path, *, channels: int = CHANNELS, spread: float = 0.15) -> Path:
    """`vae`, `depth`, `world` and `refiner.safetensors` in a new folder; no weight is zero: everything matters."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _write_all(folder, channels, spread)
    return folder


def _write_all(folder: Path, channels: int, spread: float) -> None:
    vae = VideoVAE(VideoVAEConfig(CHANNELS, (8, 8), (8, 8), blocks=1))
    sizes = TransformerConfig(
        num_attention_heads=2, attention_head_dim=32, in_channels=channels, out_channels=channels, text_dim=16,
        freq_dim=16, ffn_dim=32, num_layers=2, prediction="x0", reads_past=True,
    )  # fmt: skip
    depth = DepthNet(DepthNetConfig((8, 8, 24), attention=1))
    world = WorldNetwork(sizes, words=24)
    with torch.no_grad():
        for network in (vae, depth, world):
            for p in network.parameters():
                # pixels must not be clipped
                p += (spread / 3 if network is vae else spread) * torch.randn(p.shape)
        # a bent wall some three metres away, without sky, believed more here than there
        assert depth.head.bias is not None
        depth.head.weight *= 0.1
        depth.head.bias *= 0.1
        depth.head.bias[32:] -= 5
        refiner = Refiner(RefinerConfig(CHANNELS, width=8, blocks=1))
        for p in refiner.parameters():
            p += spread / 3 * torch.randn(p.shape)
    parts = {"vae": vae, "depth": depth, "world": world, "refiner": refiner}
    for name, network in parts.items():
        _write(folder / f"{name}.safetensors", name, network, 24 if name == "world" else None)


def _write(path: Path, name: str, network: nn.Module, words: int | None) -> None:
    """As `training.checkpoint.export_weights` writes it."""
    task = {"task": name, "settings": {}, "model": network.config.to_dict(), "data": {}}  # pyright: ignore
    header = {"format": "mosaicmem-training-1", "task": task if words is None else {**task, "words": words}}
    state = {k: v.half().contiguous() if v.is_floating_point() else v for k, v in network.state_dict().items()}
    save_file(state, path, {"mosaicmem": json.dumps(header)})
