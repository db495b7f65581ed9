"""Train the video autoencoder on clips. It starts as the principal components of their pixels.

Writes into --out and goes on from there: checkpoint.safetensors, log.jsonl, curves.png, picture.png, run.json. Ctrl-C
saves first. --overwrite begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from mosaicmem.apps.cli import train_recipes as recipes
from mosaicmem.apps.cli.config import Config
from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.train_clips import ClipArgs, open_clips
from mosaicmem.apps.cli.train_fit import FitArgs, loop_of, run_fit, seeded
from mosaicmem.training.vae_task import VAETask

EXAMPLE = "mosaicmem train vae --minutes 60 --out runs/vae"


@dataclass(frozen=True)
class Settings(Config):
    """Everything that a settings file may hold for this command."""

    model: recipes.VAEModel = field(default_factory=recipes.VAEModel)
    task: recipes.VAETask = field(default_factory=recipes.VAETask)
    loop: recipes.VAELoop = field(default_factory=recipes.VAELoop)


SETTINGS = Settings


@dataclass(kw_only=True)
class Args(ClipArgs, FitArgs):
    """Arguments of `train vae`."""

    model: recipes.VAEModel = field(default_factory=recipes.VAEModel)
    task: recipes.VAETask = field(default_factory=recipes.VAETask)
    loop: recipes.VAELoop = field(default_factory=recipes.VAELoop)


def run(args: Args, session: Session) -> Result:
    """Train."""
    loop, settings = loop_of(args, args.loop, args.seed), seeded(args.task, args.seed)

    def make() -> VAETask:
        clips, names, held = open_clips(args)
        torch.manual_seed(args.seed)
        return VAETask(clips, names, held, settings, args.model)

    return run_fit(args, session, make, loop)
