"""Clips as the trainings of autoencoder and depth are given them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from tyro.conf import arg

from mosaicmem.apps.cli.options import Common
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.training.cache import Clip, ClipCache, default_cache, held_out

Item = TypeVar("Item")


@dataclass(kw_only=True)
class ClipArgs(Common):
    """Options that say which clips."""

    data: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: the user's cache)")] = None
    """Folder of clips that `train data` wrote."""
    clips: Annotated[int | None, arg(metavar="N", help_behavior_hint="(default: all)")] = None
    """Train on the first so many clips."""
    keep: int = 200
    """Clips kept in memory, 5 MB each; more is faster."""


def first_of(found: list[Item], count: int | None) -> list[Item]:
    """The first so many clips, as `--clips` says; all where it does not.

    Raises:
        ConfigError: if that is none.
    """
    if count is not None and count < 1:
        raise ConfigError(f"--clips {count}: expected 1 or more")
    return found[:count]


def open_clips(args: ClipArgs) -> tuple[ClipCache, list[str], list[Clip]]:
    """The clips, the names of those to train on, and the held-out ones.

    Raises:
        InputError: if either is missing; ConfigError: if none of those that are there is asked for.
    """
    cache = ClipCache(args.data or default_cache(), keep=args.keep)
    names = first_of(cache.names(), args.clips)
    if not names:
        raise InputError(f"{cache.folder}: no clips; make some with `mosaicmem train data`")
    return cache, names, held_out(cache.folder)
