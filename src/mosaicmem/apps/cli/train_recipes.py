"""Settings of trainings as the command line offers them: those of the library, with the sizes of a laptop's model.

Every field is an option but the seeds, which `--seed` sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Suppress

from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.models.conditioning import subframe_width
from mosaicmem.models.depth_net import DepthNetConfig
from mosaicmem.models.refiner import RefinerConfig
from mosaicmem.models.transformer import TransformerConfig
from mosaicmem.models.video_vae import VideoVAEConfig
from mosaicmem.training.cache import STEP
from mosaicmem.training.depth_task import DepthTaskConfig
from mosaicmem.training.loop import TrainConfig
from mosaicmem.training.refiner_task import RefinerTaskConfig
from mosaicmem.training.vae_task import VAETaskConfig
from mosaicmem.training.world_task import WorldTaskConfig


@dataclass(frozen=True)
class VAEModel(VideoVAEConfig):
    channels: int = 24


@dataclass(frozen=True)
class VAETask(VAETaskConfig):
    seed: Suppress[int] = 0


@dataclass(frozen=True)
class VAELoop(TrainConfig):
    steps: int = 2600
    lr: float = 2e-3
    ema: float = 0.998
    evaluate_every: int = 400
    seed: Suppress[int] = 0


@dataclass(frozen=True)
class DepthModel(DepthNetConfig):
    pass


@dataclass(frozen=True)
class DepthTask(DepthTaskConfig):
    seed: Suppress[int] = 0


@dataclass(frozen=True)
class DepthLoop(TrainConfig):
    steps: int = 5500
    lr: float = 1.5e-3
    ema: float = 0.998
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    evaluate_every: int = 250
    seed: Suppress[int] = 0


@dataclass(frozen=True)
class WorldModel(TransformerConfig):
    num_attention_heads: int = 4
    attention_head_dim: int = 64
    in_channels: int = 24
    out_channels: int = 24
    prediction: Literal["velocity", "x0"] = "x0"
    # of these latents; `train world` takes what its own need, or 0 if this is
    memory_subframes: int = subframe_width(24, TokenGrid(128, 128, 8, 2, STEP))
    memory_in_place: bool = True
    reads_past: bool = True
    memory_age: bool = True


@dataclass(frozen=True)
class WorldTask(WorldTaskConfig):
    batch: int = 16
    shift: float = 6.0
    seed: Suppress[int] = 0


@dataclass(frozen=True)
class RefinerModel(RefinerConfig):
    pass


@dataclass(frozen=True)
class RefinerTask(RefinerTaskConfig):
    seed: Suppress[int] = 0


@dataclass(frozen=True)
class RefinerSamples(WorldTaskConfig):
    # every window with its model's best; rehearsed ones would be made anew for each of theirs
    rehearse: float = 0.0
    no_memory: float = 0.03
    no_cameras: float = 0.03
    no_text: float = 0.03
    seed: Suppress[int] = 0


@dataclass(frozen=True)
class RefinerLoop(TrainConfig):
    steps: int = 3000
    lr: float = 2e-3
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    warmup: int = 50
    decay: float = 0.5
    ema: float = 0.99
    evaluate_every: int = 250
    seed: Suppress[int] = 0


@dataclass(frozen=True)
class WorldLoop(TrainConfig):
    steps: int = 4650
    optimizer: Literal["adamw", "muon"] = "muon"
    precision: Literal["float32", "bfloat16", "auto"] = "auto"
    warmup: int = 150
    decay: float = 0.3
    ema: float = 0.998
    evaluate_every: int = 250
    seed: Suppress[int] = 0
