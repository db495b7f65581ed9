"""Encode clips once, with a trained autoencoder: what `train world` learns from.

The autoencoder itself is put beside its latents (vae.safetensors, as it is shipped), after the mean and spread of its
latents and the gain of its decoder were measured. What is encoded already is not encoded again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.options import Computing
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.train_clips import first_of
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.models.devices import device_named
from mosaicmem.training.cache import HELD_FOLDER, ClipCache, default_cache
from mosaicmem.training.encode import encode_ahead, measurements, prepare_vae, read_gain

EXAMPLE = "mosaicmem train encode --vae runs/vae --out latents"


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `train encode`."""

    vae: Path
    """Training of an autoencoder, or its exported weights."""
    data: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: the user's cache)")] = None
    """Folder of clips that `train data` wrote."""
    clips: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Encode the first so many clips."""
    measured: int = 64
    """Clips that statistics are measured on."""
    processes: int = 1
    """Processes that encode."""


def run(args: Args, session: Session) -> Result:
    """Measure, then encode what is missing."""
    if args.out is None:
        raise ConfigError("train encode needs --out PATH: the folder of latents")
    if args.measured < 1:
        raise ConfigError(f"--measured {args.measured}: expected 1 or more clips")
    folder = args.data or default_cache()
    cache, held = ClipCache(folder), ClipCache(folder / HELD_FOLDER)
    names = first_of(cache.names(), args.clips)
    if not names:
        raise InputError(f"{folder}: no clips; make some with `mosaicmem train data`")
    device = str(device_named(session.config.device))
    some = [cache.load(name) for name in names[:: max(1, len(names) // args.measured)][: args.measured]]
    with session.console.progress("measuring", measurements(some)) as tick, session.stage("measure"):
        vae = prepare_vae(args.vae, some, args.out, device=device, tick=tick)
    with session.console.progress("encoding", len(names) + len(held.names())) as tick, session.stage("encode"):
        for clips, chosen, out in (
            (held.folder, held.names(), args.out / HELD_FOLDER),
            (folder, names, args.out),
        ):
            for _ in encode_ahead(clips, chosen, out, processes=args.processes, device=device):
                tick()
    session.backend, session.note, session.wrote = vae.name, "clips to latents", args.out
    gain = read_gain(args.out)
    data = {
        "clips": len(names), "held_out": len(held.names()), "channels": vae.channels,
        "mean": vae.mean.tolist(), "std": vae.std.tolist(), "gain": gain.tolist(),
    }  # fmt: skip
    text = [
        f"{len(names)} clips and {len(held.names())} held-out ones, {vae.channels} channels",
        f"spread of raw latents {float(vae.std.min()):.3g} to {float(vae.std.max()):.3g}; a unit of a channel changes "
        f"pixels by {float(gain.min()):.3g} to {float(gain.max()):.3g} (root mean square)",
    ]
    return Result(data, text)
