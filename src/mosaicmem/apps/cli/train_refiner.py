"""Train the refiner, which makes decoded frames sharp by what memory shows of them, behind a trained world model.

The world model makes its windows of the clips once, with memory as in its own training; they are kept (0.3 MB each).
Writes into --out and goes on from there: checkpoint.safetensors, log.jsonl, curves.png, picture.png, run.json.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from mosaicmem.apps.cli import train_recipes as recipes
from mosaicmem.apps.cli.config import Config
from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.train_fit import FitArgs, loop_of, run_fit, seeded
from mosaicmem.apps.cli.train_world import clips_and_grid
from mosaicmem.models.checkpoint import load_vae, load_world
from mosaicmem.training.encode import VAE_FILE, weights_of
from mosaicmem.training.refiner_task import RefinerTask
from mosaicmem.training.world_task import WorldTask

EXAMPLE = "mosaicmem train refiner --latents latents --world runs/world --out runs/refiner"


@dataclass(frozen=True)
class Settings(Config):
    """Everything that a settings file may hold for this command."""

    model: recipes.RefinerModel = field(default_factory=recipes.RefinerModel)
    task: recipes.RefinerTask = field(default_factory=recipes.RefinerTask)
    samples: recipes.RefinerSamples = field(default_factory=recipes.RefinerSamples)
    loop: recipes.RefinerLoop = field(default_factory=recipes.RefinerLoop)


SETTINGS = Settings


@dataclass(kw_only=True)
class Args(FitArgs):
    """Arguments of `train refiner`."""

    latents: Path
    """Folder that `train encode` wrote."""
    world: Path
    """Training of the world model, or its exported weights."""
    clips: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Train on the first so many clips."""
    model: recipes.RefinerModel = field(default_factory=recipes.RefinerModel)
    task: recipes.RefinerTask = field(default_factory=recipes.RefinerTask)
    samples: recipes.RefinerSamples = field(default_factory=recipes.RefinerSamples)
    """How windows are drawn; see `train world`."""
    loop: recipes.RefinerLoop = field(default_factory=recipes.RefinerLoop)


def run(args: Args, session: Session) -> Result:
    """Train."""
    loop = loop_of(args, args.loop, args.seed)

    def make() -> RefinerTask:
        with tempfile.TemporaryDirectory() as scratch:
            network = load_world(weights_of(args.world, "world", Path(scratch))).network
        paths, held, grid = clips_and_grid(args.latents, args.clips, network.config.patch_size[1])
        vae = load_vae(args.latents / VAE_FILE)
        samples = seeded(args.samples, args.seed)
        world = WorldTask(paths, held, network.config, grid, samples, words=len(network.text.positions), vae=vae)
        world.module.load_state_dict(network.state_dict())
        return RefinerTask(world, vae, args.model, seeded(args.task, args.seed))

    return run_fit(args, session, make, loop)
