"""Train the video model with memory on the latents that `train encode` made.

Memory of every sample is built from the rest of its clip by the code that generation uses. Writes into --out and goes
on from there: checkpoint.safetensors, log.jsonl, curves.png, run.json. Ctrl-C saves first. --overwrite begins anew.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import arg

from mosaicmem.apps.cli import train_recipes as recipes
from mosaicmem.apps.cli.config import Config
from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.train_clips import first_of
from mosaicmem.apps.cli.train_fit import FitArgs, loop_of, run_fit, seeded
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.models.checkpoint import load_vae, load_world
from mosaicmem.models.conditioning import subframe_width
from mosaicmem.models.world_model import WorldNetwork
from mosaicmem.training.cache import HELD_FOLDER, STEP
from mosaicmem.training.encode import VAE_FILE, encoded_clips, read_gain, weights_of
from mosaicmem.training.latent_clip import read_latents
from mosaicmem.training.world_task import WorldTask

EXAMPLE = "mosaicmem train world --latents latents --minutes 300 --out runs/world"


@dataclass(frozen=True)
class Settings(Config):
    """Everything that a settings file may hold for this command."""

    model: recipes.WorldModel = field(default_factory=recipes.WorldModel)
    task: recipes.WorldTask = field(default_factory=recipes.WorldTask)
    loop: recipes.WorldLoop = field(default_factory=recipes.WorldLoop)


SETTINGS = Settings


@dataclass(kw_only=True)
class Args(FitArgs):
    """Arguments of `train world`."""

    latents: Path
    """Folder that `train encode` wrote."""
    clips: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Train on the first so many clips."""
    words: int = 48
    """Words of a prompt that are read."""
    teacher: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: those of --start-from)")] = None
    """Weights whose answers --task.keep keeps."""
    model: recipes.WorldModel = field(default_factory=recipes.WorldModel)
    task: recipes.WorldTask = field(default_factory=recipes.WorldTask)
    loop: recipes.WorldLoop = field(default_factory=recipes.WorldLoop)


def run(args: Args, session: Session) -> Result:
    """Train."""
    loop, settings = loop_of(args, args.loop, args.seed), seeded(args.task, args.seed)
    if args.words < 1:
        raise ConfigError(f"--words {args.words}: expected 1 or more")

    def make() -> WorldTask:
        paths, held, grid = clips_and_grid(args.latents, args.clips, args.model.patch_size[1])
        torch.manual_seed(args.seed)
        vae = load_vae(args.latents / VAE_FILE)
        subframes = subframe_width(args.model.in_channels, grid) if args.model.memory_subframes else 0
        model = replace(args.model, memory_subframes=subframes)
        teacher = _teacher(args)
        task = WorldTask(paths, held, model, grid, settings, words=args.words, vae=vae, teacher=teacher)
        task.module.gain.copy_(read_gain(args.latents))
        return task

    return run_fit(args, session, make, loop)


def _teacher(args: Args) -> WorldNetwork | None:
    """The network whose answers training is to keep.

    Raises:
        ConfigError: if it is to keep some and has none, or has some and is to keep nothing.
    """
    if not args.task.keep:
        if args.teacher is not None:
            raise ConfigError(f"--teacher {args.teacher}: its answers count nothing; give --task.keep above 0 too")
        return None
    source = args.teacher or args.start_from
    if source is None:
        raise ConfigError(f"--task.keep {args.task.keep}: keeps what weights answer; give --start-from or --teacher")
    with tempfile.TemporaryDirectory() as scratch:
        return load_world(weights_of(source, "world", Path(scratch))).network


def clips_and_grid(latents: Path, count: int | None, patch: int) -> tuple[list[Path], list[Path], TokenGrid]:
    """Encoded clips of a folder to train on and to hold out, and their token grid.

    Raises:
        InputError: if there are none; ConfigError: if none of those that are there is asked for.
    """
    paths, held = first_of(encoded_clips(latents), count), encoded_clips(latents / HELD_FOLDER)
    if not paths or not held:
        what = "encoded clips" if not paths else f"{HELD_FOLDER}/ clips"
        raise InputError(f"{latents}: no {what}; make them with `mosaicmem train encode`")
    first = read_latents(paths[0])
    stride = first.cameras.width // first.image.shape[-1]
    return paths, held, TokenGrid(first.cameras.width, first.cameras.height, stride, patch, STEP)
