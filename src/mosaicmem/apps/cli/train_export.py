"""Export trained networks as a folder of weights that `generate --model FOLDER` reads.

The running means of the weights, in half precision, with settings and provenance in each header. The autoencoder is the
one beside the latents (`train encode`), which knows their mean and spread.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.options import Common
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError
from mosaicmem.models.checkpoint import load_depth, load_refiner, load_vae, load_world, read_header
from mosaicmem.models.presets import PARTS, Part, weights_file
from mosaicmem.training.checkpoint import between, copy_weights
from mosaicmem.training.encode import weights_of

EXAMPLE = "mosaicmem train export --vae latents --depth runs/depth --world runs/world --out model"

_LOADERS = {"vae": load_vae, "depth": load_depth, "world": load_world, "refiner": load_refiner}


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `train export`."""

    vae: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Folder of latents with vae.safetensors, or such a file."""
    depth: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Training of the depth network, or its exported weights."""
    world: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Training of the world model, or its exported weights."""
    refiner: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Training of the refiner, or its exported weights."""
    between: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Other exported weights of the world model, such as those it went on from: what comes out lies between the two."""
    share: float = 0.5
    """Share of --world in that; the rest is of --between."""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: that of the file)")] = None
    """What results call these networks."""


def run(args: Args, session: Session) -> Result:
    """Export what is named, and read it back."""
    given: dict[Part, Path] = {part: getattr(args, part) for part in PARTS if getattr(args, part) is not None}
    if not given:
        raise ConfigError("train export: nothing to export; give --vae, --depth, --world or --refiner")
    if args.between is not None and args.world is None:
        raise ConfigError("train export --between: between it and what? Give --world too")
    about: dict[str, Any] = {}
    inputs = [*given.values(), *([] if args.between is None else [args.between])]
    with session.folder(inputs=inputs) as out, tempfile.TemporaryDirectory() as scratch:
        for part, source in given.items():
            file = weights_file(out, part)
            extra = {} if args.name is None else {"name": args.name}
            weights = weights_of(source, part, Path(scratch))
            if part == "world" and args.between is not None:
                weights = between(weights, args.between, args.share, Path(scratch) / "between.safetensors")
            copy_weights(weights, file, extra)
            network = _LOADERS[part](file)
            if part == "vae" and bool((network.std == 1).all()):  # pyright: ignore
                raise ConfigError(
                    f"{source}: knows no mean and spread of its latents; run `mosaicmem train encode` and give its "
                    "--out as --vae"
                )
            header = read_header(file)
            about[part] = {"step": header.get("step"), "bytes": file.stat().st_size, "task": header["task"]}
    session.backend, session.note = "export", ", ".join(given)
    text = [f"{part}: step {found['step']}, {found['bytes'] / 2**20:.1f} MiB" for part, found in about.items()]
    return Result({"parts": about}, text)
