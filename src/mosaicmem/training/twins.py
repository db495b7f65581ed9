"""Twins: clips of one world in which other things happen, so that a step can ask what words change and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mosaicmem._shapes import Float, Int64, Tensor
from mosaicmem.errors import ConfigError
from mosaicmem.training.latent_clip import read_setting

TWINS = 3
"""Clips of one world with different events that a step compares."""


def families(paths: Sequence[Path], *, moving: bool = False) -> list[list[Path]]:
    """Clips of the same world in which different things happen, the first `TWINS` of each: `7`, `7-1` and `7-2`.

    Names alone do not make twins (the parts of a long recording are called `7-0`, `7-1` ... too): the camera's path,
    the caption and when it happens are the same, and what happens is not.

    Args:
        moving: What moves in them is asked for.

    Raises:
        ConfigError: if no clips are twins, or what moves is asked for and one does not say.
    """
    by_name: dict[str, list[Path]] = {}
    for path in sorted(paths, key=lambda path: path.stem):
        by_name.setdefault(path.stem.partition("-")[0], []).append(path)
    found, mute = [], []
    for alike in by_name.values():
        worlds: dict[bytes, dict[str, Path]] = {}
        for path in alike if len(alike) >= TWINS else ():
            common, event, says = read_setting(path)
            worlds.setdefault(common, {}).setdefault(event, path)
            mute += [] if says else [path]
        found += [list(each.values())[:TWINS] for each in worlds.values() if len(each) >= TWINS]
    if not found:
        raise ConfigError(
            f"twins: none of the {len(paths)} clips are twins; render some with `mosaicmem train data --twins "
            f"{TWINS - 1}` and encode them, or give twins = 0"
        )
    chosen = {path for family in found for path in family}
    if moving and (without := [path for path in mute if path in chosen]):
        raise ConfigError(
            f"apart: counts what moves, and {without[0]} does not say what does; render and encode it again, or give "
            "apart = 0"
        )
    return found


def deal(batch: int, in_threes: int, rank: int, world_size: int) -> list[int]:
    """Samples of a step that a rank makes, as many as every other; twins stay together.

    Args:
        in_threes: The first so many samples are twins, three and three.

    Raises:
        ConfigError: if a rank would have more twins than samples.
    """
    hands: list[list[int]] = [[] for _ in range(world_size)]
    for i in range(0, in_threes, TWINS):
        hands[i // TWINS % world_size] += range(i, i + TWINS)
    if max(map(len, hands)) > batch // world_size:
        raise ConfigError(f"{in_threes} twins of {batch} samples do not fit on {world_size} ranks; give a larger batch")
    for i in range(in_threes, batch):
        min(hands, key=len).append(i)
    return hands[rank]


def twins_apart(error: Float[Tensor, "b c g h w"], twins: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
    """Mean square of what errors of twins do not have in common, over all samples: 0 where all err alike."""
    total = error.new_zeros(())
    for number in twins.unique().tolist():
        if number >= 0:
            alike = error[twins == number]
            total = total + (alike - alike.mean(0)).square().sum()
    return total / error.numel()
