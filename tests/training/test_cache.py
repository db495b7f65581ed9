"""Clips on disk: what was written is read, half a file is refused, held-out seeds are never trained on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from tests.training.clips import make_clip

from mosaicmem.errors import ConfigError, InputError
from mosaicmem.training import cache as cache_module
from mosaicmem.training.cache import (
    HELD_FOLDER,
    ClipCache,
    default_cache,
    held_out,
    read_clip,
    render_ahead,
    render_clip,
    render_held_out,
    write_clip,
)
from mosaicmem.worlds.episodes import HELD_OUT, Event, make_episode


def test_what_was_written_is_read(tmp_path):
    clip = replace(make_clip(3, event=21), happens=(Event(13, "a door opens"),))
    write_clip(tmp_path / "3.safetensors", clip)
    read = ClipCache(tmp_path).load("3")
    assert torch.equal(read.rgb, clip.rgb)
    assert torch.equal(read.depth, clip.depth.half().float())
    assert torch.equal(read.cameras.viewmats, clip.cameras.viewmats) and torch.equal(read.cameras.Ks, clip.cameras.Ks)
    assert (read.cameras.width, read.cameras.height) == (32, 32)
    assert (read.name, read.caption, read.event, read.event_frame) == ("3", clip.caption, clip.event, 21)
    assert read.happens == clip.happens
    assert len(read) == len(clip)
    frames = read.frames(slice(0, 2))
    assert frames.min() >= -1 and frames.max() <= 1
    assert torch.equal(((frames + 1) * 127.5).round().byte(), clip.rgb[:2])


def test_half_a_file_another_file_and_no_file_are_refused(tmp_path):
    path = tmp_path / "0.safetensors"
    write_clip(path, make_clip())
    content = path.read_bytes()
    for broken in (content[: len(content) // 2], content[:4], b"", b"not a clip at all"):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"0\.safetensors: cannot be read"):
            read_clip(path)
    with pytest.raises(InputError, match="no such clip"):
        read_clip(tmp_path / "1.safetensors")
    path.write_bytes(content.replace(b"episodes-1", b"episodes-0"))
    with pytest.raises(InputError, match="not of version episodes-1"):
        read_clip(path)


def test_a_killed_write_leaves_nothing_that_looks_like_a_clip(tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", die)
    monkeypatch.setattr("pathlib.Path.replace", die)
    with pytest.raises(KeyboardInterrupt):
        write_clip(tmp_path / "0.safetensors", make_clip())
    assert ClipCache(tmp_path).names() == []


def test_names_are_in_numerical_order_and_clips_stay_in_memory(tmp_path):
    for name in ("10", "9", "a"):
        write_clip(tmp_path / f"{name}.safetensors", make_clip(frames=17))
    cache = ClipCache(tmp_path, keep=1)
    assert cache.names() == ["9", "10", "a"]
    assert cache.load("9") is cache.load("9")
    nothing_kept = ClipCache(tmp_path)
    assert nothing_kept.load("9") is not nothing_kept.load("9")


@pytest.mark.parametrize("seed", [HELD_OUT.start, HELD_OUT.stop - 1])
def test_held_out_seeds_are_refused(tmp_path, seed):
    with pytest.raises(ConfigError, match="held out"):
        next(render_ahead(tmp_path / "clips", [0, seed]))
    assert not (tmp_path / "clips").exists()


def test_only_what_is_missing_is_rendered(tmp_path, monkeypatch):
    rendered = []

    def render(episode):
        rendered.append(episode.seed)
        return make_clip(episode.seed % 7, frames=17)

    monkeypatch.setattr(cache_module, "film_clip", render)
    assert sorted(render_ahead(tmp_path, range(3), size=32)) == [0, 1, 2]
    assert sorted(render_ahead(tmp_path, range(1, 5), size=32)) == [1, 2, 3, 4]
    assert rendered == [0, 1, 2, 3, 4]
    with pytest.raises(InputError, match="no held-out clips"):
        held_out(tmp_path)
    assert list(render_held_out(tmp_path, 2, size=32)) == list(HELD_OUT[:2])
    assert list(render_held_out(tmp_path, 2, size=32)) == list(HELD_OUT[:2])
    assert rendered[5:] == list(HELD_OUT[:2])
    assert [clip.name for clip in held_out(tmp_path)] == [str(seed) for seed in HELD_OUT[:2]]
    assert ClipCache(tmp_path).names() == ["0", "1", "2", "3", "4"]
    assert (tmp_path / HELD_FOLDER).is_dir()


def test_what_moves_is_written_and_old_clips_do_not_say(tmp_path):
    clip = make_clip(0, frames=17)
    write_clip(tmp_path / "old.safetensors", clip)
    with safe_open(str(tmp_path / "old.safetensors"), "pt") as file:
        assert "moving" not in set(file.keys())
    assert read_clip(tmp_path / "old.safetensors").moving is None
    moving = torch.randint(0, 256, (17, 4, 4), dtype=torch.uint8)
    write_clip(tmp_path / "new.safetensors", replace(clip, moving=moving))
    read = read_clip(tmp_path / "new.safetensors").moving
    assert read is not None and torch.equal(read, moving)


def test_a_block_says_how_much_of_it_shows_what_moves():
    """Pixel by pixel against object ids of solids that have a law of motion."""
    seen, still = 0, 0
    for seed in range(4):
        clip, episode = render_clip(seed, size=32, frames=17), make_episode(seed, size=32, frames=17)
        shot, solids = episode.film(), episode.scene.solids
        ids = {int(i) for i, law in zip(solids.object_id, solids.law, strict=True) if int(law) != 0}
        assert clip.moving is not None and clip.moving.shape == (17, 4, 4) and clip.moving.dtype == torch.uint8
        for t, y, x in ((t, y, x) for t in range(0, 17, 4) for y in range(4) for x in range(4)):
            block = shot.object_id[t, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].flatten().tolist()
            share = sum(i in ids for i in block) / 64
            assert abs(int(clip.moving[t, y, x]) - 255 * share) <= 0.51, (seed, t, y, x)
            seen, still = seen + (share > 0), still + (share == 0)
    assert seen > 5 and still > 50


def test_only_episodes_whose_event_has_the_word_are_rendered(tmp_path, monkeypatch):
    seeds = range(12)
    events = {seed: make_episode(seed, size=16).event for seed in seeds}
    words = {seed: set() if e is None else set(e.text.split()) for seed, e in events.items()}
    wanted = [seed for seed in seeds if "ball" in words[seed]]
    assert wanted and any(w and "ball" not in w for w in words.values()) and not all(words.values())
    rendered = []
    monkeypatch.setattr(
        cache_module, "film_clip", lambda e: rendered.append(e.seed) or make_clip(e.seed % 7, frames=17)
    )
    assert list(render_ahead(tmp_path / "ball", seeds, size=16, event="ball")) == list(seeds)  # each is dealt with
    assert rendered == wanted == [int(name) for name in ClipCache(tmp_path / "ball").names()]
    rendered.clear()
    assert list(render_ahead(tmp_path / "ball", seeds[:4], size=16, event="al")) == sorted(
        seeds[:4], key=lambda seed: (seed not in wanted, seed)
    )
    assert rendered == [], "a part of a word is no word"
    list(render_ahead(tmp_path / "all", seeds[:4], size=16))
    assert rendered == list(seeds[:4])


def test_a_rendered_clip_is_the_episode_of_its_seed():
    clip, episode = render_clip(1, size=16), make_episode(1, size=16)
    assert (clip.caption, len(clip)) == (episode.caption, len(episode))
    shot = episode.film(slice(0, 5))
    assert (clip.frames(slice(0, 5)) - shot.rgb).abs().max() <= 1 / 127.5
    assert torch.equal(clip.depth[:2], shot.depth[[0, 4]])
    assert len(clip.depth) == 1 + (len(clip) - 1) // 4
    assert len(render_clip(1, size=16, frames=17)) == 17 < len(clip)
    told = ("", len(clip)) if episode.event is None else (episode.event.text, episode.event.frame)
    assert (clip.event, clip.event_frame) == told


def test_twins_are_one_world_in_which_something_else_happens(tmp_path):
    seed = next(s for s in range(12) if (e := make_episode(s, size=16).event) is not None and "ball" in e.text)
    assert list(render_ahead(tmp_path, [seed], size=16, event="ball", twins=2)) == [seed]
    assert ClipCache(tmp_path).names() == [str(seed), f"{seed}-1", f"{seed}-2"]
    first, *others = (read_clip(tmp_path / f"{name}.safetensors") for name in (seed, f"{seed}-1", f"{seed}-2"))
    episode, at = make_episode(seed, size=16), first.event_frame
    assert len({first.event, *(twin.event for twin in others)}) == 3
    for twin in others:
        assert twin.event.startswith("the ball turns") and (twin.caption, twin.event_frame) == (first.caption, at)
        assert torch.equal(twin.depth, first.depth) and torch.equal(twin.rgb[:at], first.rgb[:at])
        shot = episode.film(slice(at, None), event=twin.event)
        assert (twin.frames(slice(at, None)) - shot.rgb).abs().max() <= 1 / 127.5
        assert not torch.equal(twin.rgb[at:], first.rgb[at:])
    quiet = next(s for s in range(20) if not (e := make_episode(s, size=16)).told)
    assert list(render_ahead(tmp_path / "quiet", [quiet], size=16, twins=2)) == [quiet]
    assert ClipCache(tmp_path / "quiet").names() == [str(quiet)], "where nothing happens there is nothing else"


def test_a_door_that_comes_into_sight_open_has_a_twin_that_stays_shut(tmp_path):
    """Of some episodes the command takes those with such a door; their twins agree until it is seen."""
    seeds = range(40, 46)
    assert list(render_ahead(tmp_path, seeds, size=32, event="door", twins=1)) == list(seeds)
    cache = ClipCache(tmp_path)
    found = [name for name in cache.names() if "-" not in name]
    assert found == ["42", "45"] and len(cache.names()) == 2 * len(found), "not where it opens in view, or an event is"
    for name in found:
        opens, shut = cache.load(name), cache.load(f"{name}-1")
        assert "a door opens" in [text for _, text in opens.happens] and not shut.happens and not opens.event
        assert opens.caption == shut.caption and torch.equal(opens.cameras.viewmats, shut.cameras.viewmats)
        differs = (opens.frames(slice(None)) - shut.frames(slice(None))).abs().flatten(1).amax(1) > 0.05
        at = opens.happens[0].frame
        assert not differs[:at].any() and differs[at:].any()
        seen = differs[::4]
        assert any(not seen[s] and seen[s + 1 : s + 5].any() for s in range(at // 4 + 1, len(seen) - 4)), (
            "unseen at first"
        )
        assert opens.moving is not None and shut.moving is not None and not torch.equal(opens.moving, shut.moving)
        assert not torch.equal(opens.depth, shut.depth)
    assert make_episode(40, size=16).happens and "40" not in found, "hardly in sight"
    list(render_ahead(tmp_path / "any", [40], size=32, twins=1))
    assert ClipCache(tmp_path / "any").names() == ["40"], "and no twin of it is of use"


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MOSAICMEM_CACHE", str(tmp_path))
    assert default_cache() == tmp_path / "mosaicmem" / "episodes-1-128"
    assert default_cache(64) != default_cache()
