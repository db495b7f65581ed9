"""mosaicmem: spatial memory for video world models.

The names below are the library's front door, loaded when they are first used, so that `import mosaicmem` costs
nothing. Everything else is imported from its room: `mosaicmem.geometry.trajectories`, `mosaicmem.memory.editing`, ...
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaicmem.depth.alignment import align_scale as align_scale
    from mosaicmem.errors import MosaicMemError as MosaicMemError
    from mosaicmem.generation.backend import Models as Models
    from mosaicmem.generation.backend import load_models as load_models
    from mosaicmem.generation.events import RolloutEvent as RolloutEvent
    from mosaicmem.generation.rollout import rollout as rollout
    from mosaicmem.generation.rollout import rollout_step as rollout_step
    from mosaicmem.generation.state import RolloutState as RolloutState
    from mosaicmem.generation.state import observe as observe
    from mosaicmem.generation.state import start as start
    from mosaicmem.geometry.cameras import Cameras as Cameras
    from mosaicmem.geometry.cameras import look_at as look_at
    from mosaicmem.geometry.token_grid import TokenGrid as TokenGrid
    from mosaicmem.io.store_file import load_store as load_store
    from mosaicmem.io.store_file import save_store as save_store
    from mosaicmem.io.trajectories.lint import lint as lint
    from mosaicmem.io.trajectories.registry import read_trajectory as read_trajectory
    from mosaicmem.io.trajectories.registry import write_trajectory as write_trajectory
    from mosaicmem.io.trajectories.trajectory import Trajectory as Trajectory
    from mosaicmem.io.world.world_file import WorldFile as WorldFile
    from mosaicmem.memory.lifting import LiftingConfig as LiftingConfig
    from mosaicmem.memory.lifting import lift as lift
    from mosaicmem.memory.mosaic import Mosaic as Mosaic
    from mosaicmem.memory.patches import Keyframe as Keyframe
    from mosaicmem.memory.retrieval import RetrievalConfig as RetrievalConfig
    from mosaicmem.memory.retrieval import retrieve as retrieve
    from mosaicmem.memory.store import PatchStore as PatchStore
    from mosaicmem.models.conditioning import assemble as assemble
    from mosaicmem.models.conditioning import canvas as canvas
    from mosaicmem.models.depth_net import LearnedDepth as LearnedDepth
    from mosaicmem.models.synthetic import Compositor as Compositor
    from mosaicmem.models.synthetic import PixelShuffleVAE as PixelShuffleVAE
    from mosaicmem.models.taef2 import TAEF2 as TAEF2
    from mosaicmem.models.video_vae import VideoVAE as VideoVAE
    from mosaicmem.models.world_model import SamplingConfig as SamplingConfig
    from mosaicmem.models.world_model import WorldModel as WorldModel
    from mosaicmem.ops.prope import make_cameras as make_cameras
    from mosaicmem.ops.prope import prope_attention as prope_attention
    from mosaicmem.ops.rope import rope_cos_sin as rope_cos_sin
    from mosaicmem.ops.warped_latent import gather_cells as gather_cells
    from mosaicmem.worlds.builder import make_scene as make_scene
    from mosaicmem.worlds.episodes import make_episode as make_episode
    from mosaicmem.worlds.rgbd import RGBDFolder as RGBDFolder
    from mosaicmem.worlds.scene import Scene as Scene

_HOMES = {
    "depth.alignment": ["align_scale"],
    "errors": ["MosaicMemError"],
    "generation.backend": ["Models", "load_models"],
    "generation.events": ["RolloutEvent"],
    "generation.rollout": ["rollout", "rollout_step"],
    "generation.state": ["RolloutState", "observe", "start"],
    "geometry.cameras": ["Cameras", "look_at"],
    "geometry.token_grid": ["TokenGrid"],
    "io.store_file": ["load_store", "save_store"],
    "io.trajectories.lint": ["lint"],
    "io.trajectories.registry": ["read_trajectory", "write_trajectory"],
    "io.trajectories.trajectory": ["Trajectory"],
    "io.world.world_file": ["WorldFile"],
    "memory.lifting": ["LiftingConfig", "lift"],
    "memory.mosaic": ["Mosaic"],
    "memory.patches": ["Keyframe"],
    "memory.retrieval": ["RetrievalConfig", "retrieve"],
    "memory.store": ["PatchStore"],
    "models.conditioning": ["assemble", "canvas"],
    "models.depth_net": ["LearnedDepth"],
    "models.synthetic": ["Compositor", "PixelShuffleVAE"],
    "models.taef2": ["TAEF2"],
    "models.video_vae": ["VideoVAE"],
    "models.world_model": ["SamplingConfig", "WorldModel"],
    "ops.prope": ["make_cameras", "prope_attention"],
    "ops.rope": ["rope_cos_sin"],
    "ops.warped_latent": ["gather_cells"],
    "worlds.builder": ["make_scene"],
    "worlds.episodes": ["make_episode"],
    "worlds.rgbd": ["RGBDFolder"],
    "worlds.scene": ["Scene"],
}
_HOME = {name: f"mosaicmem.{module}" for module, names in _HOMES.items() for name in names}

__version__ = "0.2.0"
__all__ = sorted(_HOME)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mosaicmem' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
