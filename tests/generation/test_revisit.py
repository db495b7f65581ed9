"""What memory is for, end to end: a place is recognised when it is seen again. A procedural walk, and a real room."""

import numpy as np
import torch

from helpers import shared_data
from mosaicmem.depth.estimator import ExactDepth
from mosaicmem.evaluation.metrics import psnr
from mosaicmem.evaluation.revisit import copy_last, covisible, revisit_score
from mosaicmem.generation.backend import Models
from mosaicmem.generation.rollout import from_u8, rollout
from mosaicmem.generation.state import RolloutState, observe, start
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.models.synthetic import Compositor, PixelShuffleVAE
from mosaicmem.worlds.builder import make_scene
from mosaicmem.worlds.rgbd import RGBDFolder


def _generate(models: Models, state: RolloutState, cameras: Cameras) -> tuple[torch.Tensor, np.ndarray]:
    events = [event for _, event in rollout(models, state, cameras, window=5)]
    frames = from_u8(np.concatenate([event.frames_u8 for event in events]))
    return frames, np.concatenate([event.coverage for event in events])


def _both(seen: torch.Tensor, cameras: Cameras, depth: torch.Tensor, path: Cameras, estimator=None):
    """The path after `seen` with memory, and with the last frame alone."""
    out = []
    for use_memory in (True, False):
        models = Models(PixelShuffleVAE(), Compositor(use_memory), estimator)
        state = start(models, seen[0], cameras[0], depth[0])
        state = observe(models, state, seen[1:], cameras[1:], depth[1:])
        out.append(_generate(models, state, path))
    return out


def test_a_procedural_walk_finds_its_way_back():
    scene = make_scene(0, movers=False)
    cameras = scene.walk(0, 24, width=64, height=48)
    world = scene.render(cameras)
    half = 12
    memory, blind = _both(world.rgb[:half], cameras[:half], world.depth[:half], cameras[half:], ExactDepth(scene))
    # the last frame looks where the first one looked: compare what both can see
    mask = covisible(world.depth[-1], cameras[23], world.depth[0], cameras[0])[None]
    assert mask.float().mean() > 0.8
    score, baseline, frozen = (
        revisit_score(frames, world.rgb[-1:], mask).compute()["psnr"]
        for frames in (memory[0][-1:], blind[0][-1:], copy_last(world.rgb[half - 1], 1))
    )
    assert score > 25
    assert score > baseline + 3
    assert score > frozen + 3


def test_a_real_room_is_remembered():
    room = RGBDFolder.open(shared_data("icl_living_room"))
    seen, asked = list(range(0, 150, 25)), [160, 180, 200]
    frames, depth = (torch.stack(x) for x in zip(*(room.read(i, 80, 60) for i in seen), strict=True))
    truth = torch.stack([room.read(i, 80, 60)[0] for i in asked])
    cameras = room.cameras.resized(80, 60)
    memory, blind = _both(frames, cameras[seen], depth, cameras[asked])
    assert memory[1].mean() > blind[1].mean() + 0.1
    assert float(psnr(memory[0], truth).mean()) > float(psnr(blind[0], truth).mean()) + 0.5
