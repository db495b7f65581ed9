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
from mosaicmem.training import world_task as world_task_module
from mosaicmem.training.latent_clip import LatentClip, read_latents, write_latents
from mosaicmem.training.twins import (
    FAINT,
    RETOLD,
    TWINS,
    deal,
    families,
    louder,
    other_words,
    parting,
    shared_moving,
    twins_apart,
    words_missed,
)
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
        {"1": RED, "1-1": BLUE, "1-2": GREEN, "12": RED, "12-1": BLUE, "3": RED, "2-1": BLUE},
    )
    assert _names(families(paths)) == [["1", "1-1", "1-2"], ["12", "12-1"]]


def test_a_door_that_opens_and_one_held_shut_are_twins(tmp_path):
    shut = make_latents(5, frames=33)
    opens = replace(shut, happens=(Event(9, "a door opens"),))
    assert _names(families(_write(tmp_path, {"1": opens, "1-1": shut}))) == [["1", "1-1"]]
    with pytest.raises(ConfigError, match="are twins"):
        families(_write(tmp_path / "same", {"1": opens, "1-1": opens}))


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
    }
    for k, (kind, odd) in enumerate(others.items()):
        odd = odd if kind in ("quiet", "same") else replace(odd, event="the ball turns grey")
        paths = _write(tmp_path / kind, {"room": RED, "room-1": odd})
        with pytest.raises(ConfigError, match=r"none of the 2 clips are twins; .* train data --twins 1"):
            families(paths)
        both = _write(tmp_path / f"{kind}-both", {"room": RED, "room-1": odd, **alike})
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
    paths = _write(tmp_path / "told", {**told, "2": GREY})
    assert len(families(paths, moving=True)) == 1, "whom nobody asks need not say it"
    paths = _write(tmp_path / "mute", {**told, "1-1": BLUE})
    assert len(families(paths)) == 1
    with pytest.raises(ConfigError, match=r"1-1\.safetensors does not say what"):
        world_task(paths, twins=1.0, apart=1.0)
    assert world_task(_parted(tmp_path / "parted"), twins=0.5).batch(0).twins.tolist() == [0, 0, -1, -1]


def _parted(folder):
    """Two clips that differ from group 4 on, in view from keyframe 4 to 6 and again from 9 on."""
    clips = {}
    for k, colour in enumerate(("red", "blue")):
        clip = make_latents(5, event=17)
        image, groups = clip.image.clone(), clip.groups.clone()
        for seen in (slice(5, 7), slice(9, None)):
            image[seen] += k
            groups[seen.start - 1 : None if seen.stop is None else seen.stop - 1] += k * (2 if seen.stop else 1)
        clips["5" if not k else "5-1"] = replace(
            clip, event=f"the ball turns {colour}", image=image, echo=image, groups=groups
        )
    return _write(folder, clips)


def test_windows_of_twins_begin_where_something_comes_into_sight_that_began_unseen(tmp_path):
    one, other = (read_latents(path) for path in sorted(_parted(tmp_path)))
    where = parting(one, other, 2, first=1)
    # groups 4, 5 and 8 to 11 differ, keyframes 5, 6 and 9 on; anchor 4 is right before the event, 7 and 8 see nothing
    assert where.starts == [4, 7, 8] and where.common == {0, 1, 2, 3, 4, 7, 8}, "in window 3 it begins"
    torch.testing.assert_close(where.share, torch.tensor([8.0, 1, 2], dtype=torch.float64) / 11, rtol=1e-2, atol=0)
    assert 7 not in parting(one, other, 1, first=1).starts, "nothing shows within so short a window"
    assert not parting(one, one, 2).starts, "control: the same clip"


def test_a_window_of_twins_begins_where_neither_its_anchor_nor_what_was_right_before_it_tells(tmp_path):
    one, other = (read_latents(path) for path in sorted(_parted(tmp_path)))
    image, groups = other.image.clone(), other.groups.clone()
    image[7] += 1  # seen at the anchor alone
    groups[7] += 1  # seen on the way to the next, and gone by then
    passed = replace(other, image=image, groups=groups)
    assert parting(one, passed, 2, first=1).starts == [4]
    assert parting(one, passed, 2, first=0).starts == [4, 8], "nobody looks at what was before"


def test_memory_of_twins_shows_nothing_that_only_one_of_them_has(tmp_path, monkeypatch):
    paths = sorted(_parted(tmp_path))
    asked = []
    keyframe = world_task_module._keyframe

    def noted(clip, latents, k, *rest):
        asked.append(k)
        return keyframe(clip, latents, k, *rest)

    monkeypatch.setattr(world_task_module, "_keyframe", noted)
    task = world_task(paths, batch=2, twins=1.0, recent=0.0, future=1.0, no_memory=0.0)
    starts = set()
    for step in range(12):
        batch = task.batch(step)
        starts.add(int((batch.latents[0, :, 0] - read_latents(paths[0]).image).abs().flatten(1).amax(1).argmin()))
        assert batch.memory is not None
        assert torch.equal(batch.memory.features[0], batch.memory.features[1])
        assert torch.equal(batch.sigma, torch.ones(2)) and torch.equal(batch.noise[0], batch.noise[1])
        assert not torch.equal(batch.words[0], batch.words[1])
    assert set(asked) <= {0, 1, 2, 3, 4, 7, 8} and {7, 8} & set(asked)
    assert len(starts) > 1, "not only right after the event"


def test_twins_that_never_part_in_sight_are_refused(tmp_path):
    paths = _write(tmp_path, {"1": RED, "1-1": BLUE})  # their latents are the same
    with pytest.raises(ConfigError, match="none part"):
        world_task(paths, batch=2, twins=1.0).batch(0)


def test_what_moves_in_one_twin_counts_in_the_other():
    moving = torch.rand(5, 1, 2, 3, 3)
    shared = shared_moving(moving, torch.tensor([0, -1, 0, 3, 3]))
    assert torch.equal(shared[0], torch.maximum(moving[0], moving[2])) and torch.equal(shared[2], shared[0])
    assert torch.equal(shared[1], moving[1]) and torch.equal(shared[3], moving[3:].amax(0))


@given(st.integers(1, 4), st.integers(1, 8), st.lists(st.sampled_from([TWINS, RETOLD]), max_size=6))
def test_every_sample_is_dealt_once_as_many_to_each_and_sets_stay_together(world_size, each, sizes):
    batch, sets = world_size * each, sorted(sizes)
    firsts = [sum(sets[:k]) for k in range(len(sets))]
    piles = [0] * world_size
    for size in sets:
        piles[piles.index(min(piles))] += size
    if max(piles) > each:
        with pytest.raises(ConfigError, match="larger batch"):
            deal(batch, sets, 0, world_size)
        return
    hands = [deal(batch, sets, rank, world_size) for rank in range(world_size)]
    assert sorted(i for hand in hands for i in hand) == list(range(batch)) and {len(hand) for hand in hands} == {each}
    for hand in hands:
        for first, size in zip(firsts, sets, strict=True):
            assert len(set(range(first, first + size)) & set(hand)) in (0, size)


def test_what_else_could_have_happened_is_what_happens_to_the_same_thing_in_other_clips(tmp_path):
    door = replace(_said("the ball turns grey"), happens=(Event(9, "a door opens"),))
    light, dark = (_said(f"the light {what}") for what in ("turns red", "goes out"))
    lone, nothing = _said("the lift stops"), replace(RED, event="")
    clips = {"1": RED, "2": BLUE, "3": BLUE, "4": light, "5": dark, "6": door, "7": lone, "8": nothing}
    eventful, words = other_words(sorted(_write(tmp_path, clips)))
    balls, lights = ["the ball turns blue", "the ball turns red"], ["the light goes out", "the light turns red"]
    assert [path.stem for path in eventful] == ["1", "2", "3", "4", "5"], "a door that opens is no matter of words kept"
    assert words == {**dict.fromkeys(balls, balls), **dict.fromkeys(lights, lights)}
    with pytest.raises(ConfigError, match=r"none of the 2 clips .* retold = 0"):
        other_words(_write(tmp_path / "one", {"7": lone, "8": nothing}))


def test_what_a_set_has_in_common_stays_where_words_are_to_change_more():
    answer, sets = torch.randn(6, 2, 1, 2, 2), torch.tensor([0, 0, 0, -1, 4, 4])
    more = louder(answer, sets, 1.5)
    assert torch.equal(more[3], answer[3])
    torch.testing.assert_close(more[:3].mean(0), answer[:3].mean(0))
    torch.testing.assert_close(more[0] - more[2], 1.5 * (answer[0] - answer[2]))
    torch.testing.assert_close(more[4] - more[5], 1.5 * (answer[4] - answer[5]))
    torch.testing.assert_close(louder(answer, sets, 1.0), answer)


def test_words_missed_is_a_share_and_a_faint_set_counts_as_much_as_a_loud_one():
    sets = torch.tensor([0, 0, 0, -1, 1, 1, 1])
    target = torch.randn(7, 4, 2, 3, 3)
    target[:3] *= 10  # a light, and a ball
    common = torch.randn(1, 4, 2, 3, 3)
    assert float(words_missed(common.expand_as(target), target, sets)) < 1e-9, "what all err in is no matter of words"
    deaf = words_missed(target + common, target, sets)  # answers are the same whatever is said
    assert 0.99 < float(deaf) < 1
    for own in (slice(0, 3), slice(4, 7)):
        half = torch.zeros_like(target)
        half[own] = target[own]
        assert math.isclose(float(words_missed(half, target, sets)), 0.5, rel_tol=1e-2)
    spreads = [float((target[k : k + 3] - target[k : k + 3].mean(0)).square().mean()) for k in (0, 4)]
    by_hand = sum(0.25 * spread / (spread + FAINT) for spread in spreads) / 2
    assert math.isclose(float(words_missed(0.5 * target, target, sets)), by_hand, rel_tol=1e-4)
    assert float(words_missed(target, target, torch.full((7,), -1))) == 0.0
    whisper = 1e-4 * target
    assert float(words_missed(whisper, whisper, sets)) < 0.05, "of what changes nothing there is nothing to miss"


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
