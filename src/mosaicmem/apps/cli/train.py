"""Train the networks of a model, from nothing, one part after the other:

  data     render procedural episodes, or turn a folder of posed videos into clips
  vae      the video autoencoder, on clips
  depth    depth of a single frame, on clips
  encode   clips to latents, with a trained autoencoder
  world    the video model with memory, on latents
  refiner  what makes decoded frames sharp by what memory shows, behind a world model
  export   the networks as a folder that --model reads

Each has its own --help. Trainings resume by themselves: the same command goes on where the last one stopped. Several
ranks: torchrun --nproc-per-node 2 -m mosaicmem train world ...
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, get_args

from tyro.conf import Positional

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.options import Common, no_such_part
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError

EXAMPLE = "mosaicmem train data --seeds 0:200"

Part = Literal["data", "vae", "depth", "encode", "world", "refiner", "export"]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `train`, before those of its part."""

    part: Positional[Part]
    """What to do; its own options follow."""


def part(argv: list[str]) -> tuple[str, ModuleType, list[str]]:
    """The part that a command line names first: its name, its module and the rest of the line.

    Raises:
        ConfigError: if the first word is none; the message says which are.
    """
    if argv and argv[0] in PARTS:
        return f"train {argv[0]}", importlib.import_module(f"mosaicmem.apps.cli.train_{argv[0]}"), argv[1:]
    if argv and not argv[0].startswith("-"):
        raise no_such_part("train", argv[0], PARTS)
    return "train", importlib.import_module(__name__), argv


def run(args: Args, session: Session) -> Result:
    """Only reached where options stand before the part."""
    raise ConfigError(f"the part comes first: mosaicmem train {args.part} [OPTIONS]")
