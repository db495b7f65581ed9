"""Twins are told by what they hold, stay together, and what they err in common does not count."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training.clips import make_latents, world_task

from mosaicmem.errors import ConfigError
from mosaicmem.training.latent_clip import LatentClip, write_latents
from mosaicmem.training.twins import TWINS, deal, families, twins_apart
from mosaicmem.worlds.episodes import Event


def _said(event: str, seed: int = 5, at: int = 17) -> LatentClip:
    return replace(make_latents(seed, frames=33, event=at), event=event)


def _write(folder, clips: dict[str, LatentClip]):
    folder.mkdir(exist_ok=True)
    for name, clip in clips.items():
        write_latents(folder / f"{name}.safetensors", clip)
    return list(folder.iterdir())


RED, BLUE, GREEN, GREY = (_said(f"the ball turns {colour}") for colour in ("red", "blue", "green", "grey"))


def _names(found):
    return [[path.stem for path in family] for family in found]


def test_families_are_the_clips_of_one_world(tmp_path):
    paths = _write(
        tmp_path,
        {"1": RED, "1-1": BLUE, "1-2": GREEN, "1-3": GREY, "12": RED, "12-1": BLUE, "3": RED, "2-1": BLUE},
    )
    assert _names(families(paths)) == [["1", "1-1", "1-2"]]


def test_names_alone_make_no_twins(tmp_path):
    """The parts of a long recording have such names as well, and so may anybody's rooms."""
    alike = {"1": RED, "1-1": BLUE, "1-2": GREEN}
    still = make_latents(5, frames=33)
    moved = replace(RED, cameras=RED.cameras.scaled(1.1))
    others = {
        "quiet": still,  # nothing happens in a posed video
        "same": RED,
        "later": replace(RED, event_frame=21),
        "elsewhere": moved,
        "told-otherwise": replace(RED, caption="another room."),
        "opened": replace(RED, happens=(Event(9, "a door opens"),)),
    }
    for k, (kind, odd) in enumerate(others.items()):
        odd = odd if kind in ("quiet", "same") else replace(odd, event="the ball turns grey")
        paths = _write(tmp_path / kind, {"room": RED, "room-1": BLUE, "room-2": odd})
        with pytest.raises(ConfigError, match=r"none of the 3 clips are twins; .* train data --twins 2"):
            families(paths)
        both = _write(tmp_path / f"{kind}-both", {"room": RED, "room-1": BLUE, "room-2": odd, **alike})
        assert _names(families(both)) == [["1", "1-1", "1-2"]], k
    parts = _write(tmp_path / "parts", {f"walk-{i}": still for i in range(4)})
    with pytest.raises(ConfigError, match="none of the 4 clips are twins"):
        families(parts)


def test_a_task_without_twins_among_its_clips_is_refused(tmp_path):
    paths = _write(tmp_path, {"1": RED, "2": BLUE, "3": GREEN})
    with pytest.raises(ConfigError, match="are twins"):
        world_task(paths, twins=1.0)
    assert world_task(paths).batch(0).twins.tolist() == [-1] * 4, "control: not asked for"


def test_what_differs_is_not_counted_where_nobody_knows_what_moves(tmp_path):
    def moving(clip):
        return replace(clip, moving=torch.zeros_like(clip.groups[:, 0]))

    told = {"1": moving(RED), "1-1": moving(BLUE), "1-2": moving(GREEN)}
    paths = _write(tmp_path / "told", {**told, "1-3": GREY})
    assert len(families(paths, moving=True)) == 1, "whom nobody asks need not say it"
    paths = _write(tmp_path / "mute", {**told, "1-1": BLUE})
    assert len(families(paths)) == 1
    with pytest.raises(ConfigError, match=r"1-1\.safetensors does not say what"):
        world_task(paths, twins=1.0, apart=1.0)
    assert world_task(paths, twins=1.0).batch(0).twins.tolist() == [0, 0, 0, -1]


@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 8))
def test_every_sample_is_dealt_once_as_many_to_each_and_twins_stay_together(world_size, each, threes):
    batch, twins = world_size * each, TWINS * threes
    if twins > batch or TWINS * -(-threes // world_size) > each:
        with pytest.raises(ConfigError, match="larger batch"):
            deal(batch, twins, 0, world_size)
        return
    hands = [deal(batch, twins, rank, world_size) for rank in range(world_size)]
    assert sorted(i for hand in hands for i in hand) == list(range(batch)) and {len(hand) for hand in hands} == {each}
    for hand in hands:
        for first in range(0, twins, TWINS):
            assert len({first, first + 1, first + 2} & set(hand)) in (0, TWINS)


def test_what_twins_err_in_common_does_not_count_as_apart():
    generator = torch.Generator().manual_seed(0)
    common, own = torch.randn(1, 4, 2, 3, 3, generator=generator), torch.randn(7, 4, 2, 3, 3, generator=generator)
    twins = torch.tensor([0, 0, 0, -1, 2, 2, 2])
    assert float(twins_apart(common.expand(7, -1, -1, -1, -1), twins)) < 1e-12
    apart = twins_apart(own, twins)
    torch.testing.assert_close(twins_apart(own + 5 * common, twins), apart, rtol=1e-4, atol=1e-6)
    by_hand = sum(float((own[i] - own[k : k + 3].mean(0)).square().sum()) for k in (0, 4) for i in range(k, k + 3))
    assert math.isclose(float(apart), by_hand / own.numel(), rel_tol=1e-5)
    assert float(twins_apart(own, torch.full((7,), -1))) == 0.0
