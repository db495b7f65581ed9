"""A training in a process of its own, to be killed or to be one rank of several: `python child.py KIND FOLDER`."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import clips
import torch

from mosaicmem.training.loop import TrainConfig, fit

torch.set_num_threads(1)
TOY = TrainConfig(steps=40, lr=0.01, warmup=5, ema=0.9, log_every=1, evaluate_every=20, checkpoint_minutes=0, seed=3)
RANKS = TrainConfig(steps=3, lr=1e-3, warmup=1, clip=1e6, log_every=1, evaluate_every=100)

if __name__ == "__main__":
    kind, folder = sys.argv[1], Path(sys.argv[2])
    if kind == "toy":
        fit(clips.ToyTask(), TOY, folder, on_step=lambda _: time.sleep(0.05))
    else:
        fit(clips.world_task(sorted((folder.parent / "data").iterdir())), RANKS, folder)
