"""Twins: clips of one world in which other things happen, so that a step can ask what words change and nothing else.

Two of them are asked about one window, which begins where they part: they look alike up to its anchor, and memory shows
only what they have in common. So nothing but the words says which is which.

What words change can also be kept: one window is then told other things, and a teacher says what each of them changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.errors import ConfigError
from mosaicmem.training.latent_clip import LatentClip, read_latents, read_setting, read_words

TWINS = 2
"""Clips of one world that a step compares."""
RETOLD = 3
"""Things that one window is told: nothing, and two that might happen."""
ALIKE = 1e-4
"""Mean square difference of two latents, whose spread is 1, up to which they show the same."""
FAINT = 5e-4
"""Mean square of what words change, below which missing it counts less."""
_TRIES = 200  # pairs drawn before none is found to part


@dataclass(frozen=True)
class Parting:
    """Where two twins part.

    Attributes:
        starts: Anchors up to which they look alike, and whose windows differ.
        share: `[starts]` of windows to take from each: in proportion to how much differs there.
        common: Keyframes that look alike.
    """

    starts: list[int]
    share: Float[Tensor, "starts"]
    common: frozenset[int]


def parting(one: LatentClip, other: LatentClip, latents: int, first: int = 0) -> Parting:
    """Windows of `latents` groups in which something shows that has begun in only one of two twins, unseen till then.

    Right after an event, and wherever something comes into sight that began elsewhere. Nothing begins inside a window:
    its words would not tell.

    Args:
        first: The first anchor that counts: 1 for a network that reads the group before it.
    """
    image, groups = (
        (a - b).square().flatten(1).mean(1) for a, b in ((one.image, other.image), (one.groups, other.groups))
    )
    alike, before = image <= ALIKE, groups <= ALIKE
    begins = {*one.beginnings, *other.beginnings}
    found = {
        s: float(groups[s : s + latents].mean())
        for s in range(first, len(groups) - latents + 1)
        if bool(alike[s])
        and (not first or bool(before[s - 1]))
        and not bool(before[s : s + latents].all())
        and begins.isdisjoint(range(s + 1, s + latents))
    }
    share = torch.tensor(list(found.values()), dtype=torch.float64)
    return Parting(list(found), share / share.sum(), frozenset(alike.nonzero().squeeze(1).tolist()))


def draw_twin(
    found: Sequence[Sequence[Path]], which: int, latents: int, first: int, rng: np.random.Generator
) -> tuple[LatentClip, int, frozenset[int]]:
    """One of two twins of a family drawn by `rng`, the anchor of a window where they part, and keyframes they share.

    The same `rng` draws the same two for every `which`.

    Raises:
        ConfigError: if twins hardly ever part: what began is never seen.
    """
    for _ in range(_TRIES):
        family = found[int(rng.integers(len(found)))]
        pair = [read_latents(family[int(k)]) for k in rng.choice(len(family), TWINS, replace=False)]
        where = parting(pair[0], pair[1], latents, first)
        if where.starts:
            start = int(rng.choice(where.starts, p=where.share.numpy()))
            return pair[which], start, where.common
    raise ConfigError(
        f"twins: in {_TRIES} pairs drawn none part: nothing that differs comes into sight within a window; render "
        "others with `mosaicmem train data --twins 1`, or give twins = 0"
    )


def families(paths: Sequence[Path], *, moving: bool = False) -> list[list[Path]]:
    """Clips of the same world in which different things happen: `7`, `7-1` and `7-2`.

    Names alone do not make twins (the parts of a long recording are called `7-0`, `7-1` ... too): the camera's path,
    the caption and when an event happens are the same, and what happens, by itself or on demand, is not.

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
        found += [list(each.values()) for each in worlds.values() if len(each) >= TWINS]
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


def other_words(paths: Sequence[Path]) -> tuple[list[Path], dict[str, list[str]]]:
    """Clips in which something happens on demand, and nothing by itself, that could have happened in another way; and
    for what happens all that might: what happens to the same thing, the second word, in any such clip.

    Raises:
        ConfigError: if there are none.
    """
    told = {path: event for path in paths for event, happens in [read_words(path)] if event and not happens}
    things: dict[str, set[str]] = {}
    for event in told.values():
        things.setdefault(_thing(event), set()).add(event)
    words = {event: sorted(things[_thing(event)]) for event in told.values() if len(things[_thing(event)]) > 1}
    if not words:
        raise ConfigError(
            f"retold: in none of the {len(paths)} clips something happens that happens in another way elsewhere; "
            "render some with `mosaicmem train data`, or give retold = 0"
        )
    return [path for path, event in told.items() if event in words], words


def _thing(event: str) -> str:
    """What it happens to: ball, where the ball turns blue."""
    return " ".join(event.split()[1:2])


def deal(batch: int, sets: Sequence[int], rank: int, world_size: int) -> list[int]:
    """Samples of a step that a rank makes, as many as every other; those of a set stay together.

    Args:
        sets: The first samples come in sets of so many each.

    Raises:
        ConfigError: if a rank would have more samples of sets than samples.
    """
    hands: list[list[int]] = [[] for _ in range(world_size)]
    at = 0
    for size in (*sets, *[1] * (batch - sum(sets))):
        hand = min(hands, key=len)
        hand += range(at, at + size)
        at += size
    if max(map(len, hands)) > batch // world_size:
        raise ConfigError(f"sets of {', '.join(map(str, sets))} of {batch} samples do not fit on {world_size} ranks; "
                          "give a larger batch")  # fmt: skip
    return hands[rank]


def _each(sets: Int64[Tensor, " b"]) -> Iterator[Bool[Tensor, " b"]]:
    """Which samples make up each set; those of -1 are of none."""
    for number in sets.unique().tolist():
        if number >= 0:
            yield sets == number


def shared_moving(moving: Float[Tensor, "b *x"], twins: Int64[Tensor, " b"]) -> Float[Tensor, "b *x"]:
    """Where something moves in a sample or in a twin of it: where a door was shut counts as where it stands open."""
    out = moving.clone()
    for pair in _each(twins):
        out[pair] = moving[pair].amax(0)
    return out


def twins_apart(error: Float[Tensor, "b c g h w"], twins: Int64[Tensor, " b"]) -> Float[Tensor, ""]:
    """Mean square of what errors of twins do not have in common, over all samples: 0 where all err alike."""
    total = error.new_zeros(())
    for pair in _each(twins):
        alike = error[pair]
        total = total + (alike - alike.mean(0)).square().sum()
    return total / error.numel()


def louder(answer: Float[Tensor, "b c g h w"], sets: Int64[Tensor, " b"], times: float) -> Float[Tensor, "b c g h w"]:
    """Answers in which what sets do not have in common counts so often; those of no set (-1) as they are."""
    out = answer.clone()
    for one in _each(sets):
        alike = answer[one]
        out[one] = torch.lerp(alike.mean(0).expand_as(alike), alike, times)
    return out


def words_missed(
    error: Float[Tensor, "b c g h w"], target: Float[Tensor, "b c g h w"], sets: Int64[Tensor, " b"]
) -> Float[Tensor, ""]:
    """What errors of a set do not have in common, for one of what its targets do not, squared: 0 where words change
    what they should, 1 where they change nothing. The mean over sets; what words change of a ball is a hundredth of
    what they change of a light, and counts as much."""
    shares = [twins_apart(error[one], sets[one]) / (twins_apart(target[one], sets[one]) + FAINT) for one in _each(sets)]
    return torch.stack(shares).mean() if shares else error.new_zeros(())
