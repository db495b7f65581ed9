"""Clips as the trainings of autoencoder and depth are given them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from mosaicmem.apps.cli.options import Common
from mosaicmem.errors import InputError
from mosaicmem.training.cache import Clip, ClipCache, default_cache, held_out


@dataclass(kw_only=True)
class ClipArgs(Common):
    """Options that say which clips."""

    data: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: the user's cache)")] = None
    """Folder of clips that `train data` wrote."""
    clips: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Train on the first so many clips."""
    keep: int = 200
    """Clips kept in memory, 5 MB each; more is faster."""


def open_clips(args: ClipArgs) -> tuple[ClipCache, list[str], list[Clip]]:
    """The clips, the names of those to train on, and the held-out ones.

    Raises:
        InputError: if either is missing.
    """
    cache = ClipCache(args.data or default_cache(), keep=args.keep)
    names = cache.names()[: args.clips]
    if not names:
        raise InputError(f"{cache.folder}: no clips; make some with `mosaicmem train data`")
    return cache, names, held_out(cache.folder)
