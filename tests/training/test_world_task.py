"""Samples of the world model: what memory may show of a window, by which code, how it is dropped; and it learns."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.training.clips import CHANNELS, FRAMES, GRID, MICRO, make_latents, micro_vae, world_task, write_world

from mosaicmem.diffusion.flow import add_noise, x0_from
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.memory.retrieval import EDGE, WIDE, RetrievalConfig, retrieve
from mosaicmem.models.conditioning import assemble, subframe_width
from mosaicmem.models.text import tokenize
from mosaicmem.training import world_task as module
from mosaicmem.training.cache import STEP
from mosaicmem.training.latent_clip import read_latents, write_latents
from mosaicmem.training.weights import cell_weights, channel_weights, pixel_loss, wrong
from mosaicmem.training.world_task import WorldTaskConfig, _window_start, choose_keyframes
from mosaicmem.worlds.episodes import Event

STEADY: dict[str, Any] = {
    "no_memory": 0.0, "no_cameras": 0.0, "no_text": 0.0, "degrade": 0.0, "echo": 0.0, "depth_error": 0.0,
    "rehearse": 0.0,
}  # fmt: skip
SUB = replace(MICRO, memory_subframes=subframe_width(4, GRID))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("latents"))


SHARES = (
    "past", "no_memory", "no_cameras", "no_text", "recent", "future", "echo", "degrade", "rehearse", "event", "busy",
    "twins", "retold",
)  # fmt: skip
OUTSIDE: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(("batch", "latents", "max_keyframes", "pixel_cells"), (0, -1)),
    **dict.fromkeys(SHARES, (-0.1, 1.1, math.nan)),
    **dict.fromkeys(
        ("depth_error", "moving", "apart", "keep", "heard", "louder", "pixels"), (-0.1, math.inf, math.nan)
    ),
    "shift": (0.0, -1.0, math.nan),
    "moving_most": (0.0, -1.0, math.inf, math.nan),
    "seed": (-1,),
}


@pytest.mark.parametrize("name", [f.name for f in fields(WorldTaskConfig)])
def test_a_setting_out_of_range_is_refused_by_name(name):
    for value in OUTSIDE[name]:
        settings: dict[str, Any] = {"twins": 0.5, name: value}
        with pytest.raises(ConfigError, match=rf"\b{name} = {value}: expected"):
            WorldTaskConfig(**settings)
    for value in (0.0, 1.0) if name in SHARES else ():  # control: the ends are inside
        settings = {name: value, "keep": 1.0}
        assert getattr(WorldTaskConfig(**settings), name) == value


@pytest.mark.parametrize(("reads_past", "most"), [(False, 3), (True, 2)])
def test_a_clip_without_a_whole_window_is_refused(tmp_path, reads_past, most):
    paths = write_world(tmp_path, 1, frames=1 + 3 * STEP)
    model = replace(MICRO, reads_past=reads_past)
    assert len(world_task(paths, model=model, latents=most).batch(0, 0, 1).latents) == 4  # control
    with pytest.raises(InputError, match=rf"0\.safetensors: holds 3 latents to generate, a window takes {most + 1}"):
        world_task(paths, model=model, latents=most + 1).batch(0, 0, 1)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError, match=r"batch = 0: .*; echo = 2: "):
        WorldTaskConfig(batch=0, echo=2)


def test_settings_that_would_do_nothing_without_others_are_refused():
    with pytest.raises(ConfigError, match=r"apart = 1.0: .* give twins too"):
        WorldTaskConfig(apart=1.0)
    with pytest.raises(ConfigError, match=r"apart = 1.0: .* give moving above 0"):
        WorldTaskConfig(apart=1.0, twins=0.5, moving=0.0)
    with pytest.raises(ConfigError, match=r"twins = 0.2 of a batch of 8: gives no 2 samples"):
        WorldTaskConfig(twins=0.2)
    with pytest.raises(ConfigError, match=r"retold = 0.3 of a batch of 8: gives no 3 samples"):
        WorldTaskConfig(retold=0.3, keep=1.0)
    with pytest.raises(ConfigError, match=r"retold = 0.5: .* give keep too"):
        WorldTaskConfig(retold=0.5)
    with pytest.raises(ConfigError, match=r"heard = 2.0: .* give retold too; louder = 1.5: .* give retold too"):
        WorldTaskConfig(heard=2.0, louder=1.5)
    assert WorldTaskConfig(heard=2.0, louder=1.5, retold=0.5, keep=1.0).heard == 2.0
    with pytest.raises(ConfigError, match=r"twins = 0.75, retold = 0.5: expected 1 together"):
        WorldTaskConfig(twins=0.75, retold=0.5, keep=1.0)
    assert WorldTaskConfig(apart=1.0, twins=0.25, moving=0.1).batch == 8
    assert WorldTaskConfig(twins=0.5, retold=0.5, keep=1.0).batch == 8


@given(st.integers(2, 40), st.integers(0, 30), st.integers(1, 5), st.integers(0, 10**6), st.booleans())
def test_t1_no_keyframe_lies_within_4_frames_of_a_target_but_the_anchor(count, start, latents, seed, event):
    start = min(start, count - 1)
    cfg, rng = WorldTaskConfig(latents=latents), np.random.default_rng(seed)
    before = 4 * (start + latents) + 9 if event else None
    chosen = choose_keyframes(count, start, cfg, rng, before)
    targets = range(STEP * start + 1, STEP * (start + latents) + 1)
    assert chosen.count(start) == 1 and chosen == sorted(set(chosen))
    assert chosen[0] >= 0 and chosen[-1] < count and len(chosen) <= cfg.max_keyframes
    for k in set(chosen) - {start}:
        assert min(abs(STEP * k - frame) for frame in targets) > 4
        assert before is None or k < start or STEP * k < before


def test_t1_what_comes_after_the_window_is_used_and_the_law_is_needed():
    """Control: over many draws the nearest allowed keyframes on both sides do occur, and nothing nearer."""
    cfg = WorldTaskConfig(latents=4)
    seen = {k for seed in range(200) for k in choose_keyframes(24, 8, cfg, np.random.default_rng(seed))}
    assert seen == set(range(24)) - {9, 10, 11, 12, 13}


def test_shares_of_recent_and_future_memory():
    cfg, n = WorldTaskConfig(recent=0.25, future=0.5, max_keyframes=64), 2000
    drawn = [choose_keyframes(40, 20, cfg, np.random.default_rng(seed)) for seed in range(n)]
    future = np.mean([c[-1] > 20 for c in drawn])
    assert 0.25 < future < 0.75 * 0.5 + 0.03  # of 3/4 that are not recent, half may, and some of these take none
    only = [choose_keyframes(40, 20, replace(cfg, recent=1.0), np.random.default_rng(seed)) for seed in range(n)]
    assert all(c == list(range(21 - len(c), 21)) and len(c) <= 5 for c in only)
    assert 0.36 < np.mean([len(c) == 1 for c in only]) < 0.44  # nothing but the anchor in 40 %
    never = [choose_keyframes(40, 20, replace(cfg, future=0.0), np.random.default_rng(seed)) for seed in range(200)]
    assert all(c[-1] == 20 for c in never)


@pytest.mark.parametrize("event", [13, 17, 29])
def test_no_event_splits_a_window_and_words_follow_it(paths, tmp_path, event):
    """Every latent of a window is before the event or every one after it, and the prompt says which."""
    clip = make_latents(5, event=event)
    starts = {_window_start(clip, 2, np.random.default_rng(seed), 0.4) for seed in range(100)}
    happened = [STEP * s + 1 >= event for s in starts]
    assert all(STEP * (s + 2) < event for s, after in zip(starts, happened) if not after)
    assert any(happened) and not all(happened)
    assert (event - 1) // STEP in starts
    path = tmp_path / "5.safetensors"
    write_latents(path, clip)
    task = world_task([path], **{**STEADY, "no_memory": 1.0})
    for index in range(20):
        rng = np.random.default_rng((0, index))
        rng.integers(1)
        after = STEP * _window_start(clip, 2, rng, 0.4) + 1 >= event
        prompt = task._sample([path], index)["prompt"]
        assert prompt == (f"{clip.caption} {clip.event}." if after else clip.caption)


def test_no_window_is_split_by_what_begins_by_itself_and_words_follow_it(tmp_path):
    clip = replace(make_latents(5, event=29), happens=(Event(9, "a door opens"), Event(21, "a light goes out")))
    assert clip.beginnings == [2, 5, 7]
    starts = {_window_start(clip, 2, np.random.default_rng(seed), 0.2) for seed in range(300)}
    last = len(clip.groups) - 2
    assert starts == {s for s in range(last + 1) if not any(s < at < s + 2 for at in (2, 5, 7))} and 2 in starts
    assert [clip.prompt(group).count(".") for group in range(9)] == [1, 1, 2, 2, 2, 3, 3, 4, 4]
    assert clip.prompt(7) == f"{clip.caption} a door opens. a light goes out. {clip.event}."
    write_latents(tmp_path / "5.safetensors", clip)
    assert read_latents(tmp_path / "5.safetensors").happens == clip.happens


def test_where_something_begins_everywhere_a_window_is_split():
    """Better than none at all."""
    clip = replace(make_latents(5), happens=tuple(Event(1 + 4 * k, "a door opens") for k in range(20)))
    starts = {_window_start(clip, 3, np.random.default_rng(seed), 0.0, 1) for seed in range(300)}
    assert starts == set(range(1, len(clip.groups) - 2))


@pytest.mark.parametrize("itself", [False, True])
def test_memory_before_an_event_never_shows_what_comes_after_it(tmp_path, monkeypatch, itself):
    path = tmp_path / "0.safetensors"
    begins = replace(make_latents(0), happens=(Event(29, "the ball turns red"),))
    write_latents(path, begins if itself else make_latents(0, event=29))
    task, frames = world_task([path], **STEADY, future=1.0, recent=0.0), []
    inner = module.lift
    monkeypatch.setattr(module, "lift", lambda *a, **k: frames.append(k["frame"]) or inner(*a, **k))
    told = 0
    for index in range(40):
        frames.clear()
        sample = task._sample([path], index)
        after = "turns" in sample["prompt"]
        told += after
        assert after or all(frame < 29 for frame in frames)
    assert 0 < told < 40


@pytest.mark.parametrize("whole", [True, False])
def test_memory_is_built_by_the_code_that_generation_uses(paths, monkeypatch, whole):
    """Store, mosaic and tokens of a sample are those of `lift`, `retrieve` and `assemble`, called again by hand."""
    calls = []

    def spied(store, mosaic, *args, **options):
        tokens = assemble(store, mosaic, *args, **options)
        calls.append((store, mosaic, args, options, tokens))
        return tokens

    monkeypatch.setattr(module, "assemble", spied)
    monkeypatch.setattr(module, "draw_alignment", lambda generator: "mixture")
    vae = micro_vae() if whole else None
    task = world_task(paths, vae, SUB if whole else MICRO, **STEADY)
    sample = task._sample(paths, 19)
    ((store, mosaic, args, options, tokens),) = calls
    clip = module.read_latents(paths[int(np.random.default_rng((0, 19)).integers(2))])
    keyframes = [group.keyframe for group in store]
    assert all(k.frame == STEP * round(k.frame / STEP) for k in keyframes)
    for k in keyframes:
        again = module.lift(clip.image[k.frame // STEP], clip.depth[k.frame // STEP], clip.cameras[k.frame], GRID,
                            frame=k.frame, time=k.frame / 24)  # fmt: skip
        for name in ("latents", "depth", "valid"):
            assert torch.equal(getattr(again, name), getattr(k, name))
    start = next(
        s for s in range(len(clip.groups)) if torch.equal(sample["latents"].transpose(0, 1)[1:], clip.groups[s : s + 2])
    )
    assert start in [k.frame // STEP for k in keyframes]
    reference = clip.cameras[[STEP * (start + 1), STEP * (start + 2)]]
    expected = retrieve(store, reference, GRID, RetrievalConfig(edge=EDGE, pool=WIDE))
    assert torch.equal(expected.owner, mosaic.owner) and torch.equal(expected.source_uv, mosaic.source_uv)
    assert args == ("mixture",) and options["first_latent"] == 1
    raw = [STEP * l + k for l in (start, start + 1) for k in (1, 2, 3)]
    earlier = retrieve(store, clip.cameras[raw], GRID, RetrievalConfig(edge=EDGE, pool=WIDE)) if whole else None
    kernel = None if vae is None else vae.kernel
    assert (kernel is not None) == whole
    times = torch.tensor([STEP * (start + 1), STEP * (start + 2)]).double() / 24
    by_hand = assemble(
        store, expected, "mixture",
        first_latent=1, subframes=earlier, times=times, kernel=kernel,
    )  # fmt: skip
    assert len(tokens) > 0
    for f in fields(tokens):
        mine, other = getattr(tokens, f.name), getattr(by_hand, f.name)
        assert mine is other is None or torch.equal(mine, other), f.name
    assert (tokens.subframes is not None) == whole and not tokens.warped_latent.all()
    batch = task._collate([sample])
    assert batch.memory is not None
    assert torch.equal(batch.memory.features[0], tokens.features)
    assert batch.memory.age is not None and torch.equal(batch.memory.age[0], tokens.age)
    assert torch.equal(batch.memory.row[0], tokens.latent) and batch.memory.row.min() >= 1


@pytest.mark.parametrize(("alignment", "kind"), [("latent", True), ("rope", False)])
def test_t2_alone_each_alignment_gives_one_kind_of_token(paths, monkeypatch, alignment, kind):
    monkeypatch.setattr(module, "draw_alignment", lambda generator: alignment)
    task, fractional = world_task(paths, **STEADY, recent=0.0), 0
    for index in range(8):
        tokens = task._sample(paths, index)["tokens"]
        assert bool((tokens.warped_latent == kind).all())
        fractional += int((tokens.positions != tokens.positions.round()).any())
    assert fractional == 0 if kind else fractional > 0


def test_t2_a_step_has_one_alignment_and_steps_have_all_of_them(paths, monkeypatch):
    drawn = []
    monkeypatch.setattr(module.WorldTask, "_window", lambda *a: drawn.append(a[-3]) or {})
    task, other = world_task(paths, **STEADY), world_task(paths, **STEADY, seed=1)
    steps = []
    for step in range(60):
        drawn.clear()
        for index in range(4):
            task._sample(paths, 4 * step + index)
        assert len(set(drawn)) == 1
        steps.append(drawn[0])
    assert set(steps) == {"latent", "mixture", "rope"}
    assert steps.count("rope") < min(steps.count("latent"), steps.count("mixture"))
    drawn.clear()
    for step in range(60):
        other._sample(paths, 4 * step)
    assert drawn != steps
    drawn.clear()
    for step in range(20):
        task._sample(paths, step, plain=True)
    assert set(drawn) == {"mixture"}, "evaluation reads memory as generation does"


@pytest.mark.parametrize(("share", "n"), [(0.0, 6), (0.3, 100), (1.0, 6)])
def test_memory_cameras_and_text_are_dropped_as_often_as_asked(paths, share, n):
    task = world_task(paths, **{**STEADY, "no_memory": share, "no_cameras": share, "no_text": share})
    gone = [
        (s["tokens"] is None, not s["cameras"], s["prompt"] == "") for s in (task._sample(paths, i) for i in range(n))
    ]
    counts = np.mean(gone, axis=0)
    assert (np.abs(counts - share) <= 4 * (share * (1 - share) / n) ** 0.5).all(), counts
    if 0 < share < 1:
        assert len(set(gone)) > 4  # one says nothing of another


def test_dropped_cameras_are_the_identity_and_dropped_memory_is_masked(paths):
    task = world_task(paths, **STEADY)
    samples = [task._sample(paths, i) for i in range(3)]
    samples[1]["cameras"], samples[2]["tokens"] = False, None
    batch = task._collate(samples)
    for matrices in (batch.cameras.P, batch.cameras.PT, batch.cameras.Pinv):
        assert torch.equal(matrices[1], torch.eye(4).expand_as(matrices[1]))
        assert not torch.equal(matrices[0], torch.eye(4).expand_as(matrices[0]))
    assert batch.memory is not None and batch.memory.mask is not None
    assert batch.memory.mask[0].any() and not batch.memory.mask[2].any()
    assert task._collate(samples, memory=False).memory is None


def test_history_is_degraded_and_targets_never(paths):
    plain = world_task(paths, **STEADY)
    worn = world_task(paths, **{**STEADY, "degrade": 1.0, "echo": 1.0})
    moved = []
    for index in range(12):
        a, b = plain._sample(paths, index), worn._sample(paths, index)
        assert any(
            torch.equal(b["latents"].transpose(0, 1)[1:], clip.groups[s : s + 2])
            for clip in map(module.read_latents, paths)
            for s in range(len(clip.groups) - 1)
        )
        moved.append(float((a["latents"] - b["latents"])[:, 0].square().mean().sqrt()))
    assert max(moved) > 0.05


def test_a_batch_is_a_function_of_step_and_rank(paths):
    a, b = world_task(paths), world_task(paths)
    b.batch(7)
    first, again, other = a.batch(3), b.batch(3), a.batch(4)
    assert torch.equal(first.latents, again.latents) and torch.equal(first.noise, again.noise)
    assert torch.equal(first.sigma, again.sigma) and torch.equal(first.words, again.words)
    assert first.memory is not None and again.memory is not None
    assert torch.equal(first.memory.features, again.memory.features)
    assert not torch.equal(first.noise, other.noise)
    shares = [a.batch(3, rank, 2) for rank in (0, 1)]
    for i in range(4):
        assert torch.equal(shares[i % 2].latents[i // 2], first.latents[i])
    assert not torch.equal(world_task(paths, seed=1).batch(3).noise, first.noise)


def test_weights_of_channels_have_mean_1_and_follow_the_gain():
    gain = torch.tensor([0.3, 0.1, 0.01, 0.0])
    weight = channel_weights(gain)
    assert weight.mean() == pytest.approx(1)
    assert (weight.diff() < 0).all() and (weight > 0).all()
    assert torch.allclose(channel_weights(torch.full((4,), 0.2)), torch.ones(4))


def test_a_micro_model_learns_one_batch_by_heart(paths):
    task = world_task(paths, **STEADY)
    batch = task.batch(0)
    batch = replace(batch, sigma=torch.full_like(batch.sigma, 0.8))
    optimizer = torch.optim.AdamW(task.module.parameters(), lr=1e-2)
    losses, metrics = [], {}
    for _ in range(120):
        loss, metrics = task.loss(task.module, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 8, (losses[0], losses[-1])
    assert metrics["x0_error_high"] == pytest.approx(
        0.8**2 * losses[-1], rel=1e-3
    )  # x0 error is sigma times velocity's


def test_the_loss_looks_at_what_is_to_be_generated_and_not_at_the_anchor(paths):
    task = world_task(paths, **STEADY)
    batch = task.batch(0)
    seen = {}

    def forward(latents, times, text, **_):
        seen["times"] = times
        out = torch.zeros_like(latents)
        out[:, :, 0] = 1e6  # whatever is said of the anchor does not count
        out[:, :, 1:] = batch.noise - batch.latents[:, :, 1:]
        return out

    task.module.transformer.forward = forward  # pyright: ignore[reportAttributeAccessIssue]
    loss, _ = task.loss(task.module, batch)
    assert float(loss) < 1e-10
    assert (seen["times"][:, 0] == 0).all()
    assert torch.allclose(seen["times"][:, 1:], 1000 * batch.sigma[:, None].expand(-1, 2))


def test_evaluation_is_repeatable_and_counts_memory_and_its_absence(paths):
    task = world_task(paths)
    found = task.evaluate(task.module.eval())
    assert found.keys() == {"held_out_with_memory", "held_out_without_memory"}
    assert found == task.evaluate(task.module)
    assert all(np.isfinite(v) and v > 0 for v in found.values())


def test_a_task_without_clips_is_refused():
    with pytest.raises(ConfigError, match="no encoded clips"):
        world_task([])


def test_windows_reach_both_ends_of_a_clip():
    clip = make_latents(0)
    starts = {_window_start(clip, 2, np.random.default_rng(seed), 0.4) for seed in range(200)}
    assert starts == set(range((FRAMES - 1) // STEP - 1))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_a_share_of_windows_begins_right_at_the_event(share):
    """Beside that share, the anchor before the event is one of the whole windows' starts like any other."""
    clip, n = make_latents(0, event=25), 1500
    starts = [_window_start(clip, 2, np.random.default_rng(seed), share) for seed in range(n)]
    whole = 11 - 1  # starts 0 to 10, but for the one whose window the event splits
    expected = share + (1 - share) / whole
    assert abs(starts.count(6) / n - expected) <= 4 * (expected * (1 - expected) / n) ** 0.5
    assert 5 not in starts and (share == 1 or set(starts) == set(range(11)) - {5})
    assert len({_window_start(make_latents(0), 2, np.random.default_rng(seed), 1.0) for seed in range(99)}) > 5


# What moves counts more.


def _with_moving(seed: int) -> module.LatentClip:
    clip = make_latents(seed)
    share = torch.rand(len(clip.groups), 4, 4, generator=torch.Generator().manual_seed(seed))
    return replace(clip, moving=torch.where(share < 0.5, 0.0, share))


def test_cells_count_by_how_much_of_them_moves(tmp_path):
    path, old = tmp_path / "0.safetensors", tmp_path / "1.safetensors"
    clip = _with_moving(0)
    write_latents(path, clip)
    write_latents(old, make_latents(0))
    assert clip.moving is not None
    task = world_task([path], **STEADY, moving=3.0)
    for index in range(4):
        batch = task._collate([task._sample([path], index)])
        groups = batch.latents[0].transpose(0, 1)[1:]
        s = next(s for s in range(11) if torch.equal(groups, module.read_latents(path).groups[s : s + 2]))
        assert torch.equal(batch.weight[0], 1 + 3 * clip.moving[s : s + 2].half().float()[None])
    assert bool((world_task([old], **STEADY).batch(0).weight == 1).all())
    assert bool((world_task([path], **STEADY, moving=0.0).batch(0).weight == 1).all())
    batch = task.batch(0)
    assert batch.weight.shape == (4, 1, 2, 4, 4) and batch.weight.max() > 3


def test_a_door_that_fills_the_frame_does_not_outweigh_the_rest():
    """What moves counts in full while it is small, and no more than `moving_most` windows however large it is."""
    moving = torch.zeros(2, 1, 2, 4, 4)
    ball, door = moving
    ball[..., 1, 2], door[..., 2:] = 0.5, 1.0
    full, held = (cell_weights(moving, 8.0, most) for most in (None, 0.5))
    assert torch.equal(full[0], held[0]) and full[0].max() == 5
    weights = held[1]
    assert float(weights.mean()) == pytest.approx(1.5), "each window by itself"
    assert float(weights[..., 2:].min()) == float(weights.max()) == pytest.approx(2.0), "half the cells, evenly"
    assert bool((weights[..., :2] == 1).all())
    assert float(full[1].max()) == 9


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_busy_sample_is_the_one_of_eight_drawn_in_which_the_most_moves(tmp_path, monkeypatch, share):
    """A window that moves, one in `1 / p` of all drawn, is missed only where all eight miss it."""
    still, moving = tmp_path / "0.safetensors", tmp_path / "1.safetensors"
    clip = make_latents(1)
    shown = torch.zeros(len(clip.groups), 4, 4)
    shown[4] = 0.5  # in windows that start at 3 or 4, of 11 starts
    write_latents(still, make_latents(0))  # nobody knows what moves there
    write_latents(moving, replace(clip, moving=shown))
    task, n = world_task([still, moving], **STEADY, busy=share), 400
    monkeypatch.setattr(task, "_memory", lambda *_: (None, None))  # which is most of a sample's time
    moves = [bool(task._sample(task._paths, i)["moving"].any()) for i in range(n)]
    p = 0.5 * 2 / 11
    expected = (1 - share) * p + share * (1 - (1 - p) ** 8)
    assert abs(sum(moves) / n - expected) <= 4 * (expected * (1 - expected) / n) ** 0.5
    plain = [bool(task._sample(task._paths, i, plain=True)["moving"].any()) for i in range(n)]
    assert abs(sum(plain) / n - p) <= 4 * (p * (1 - p) / n) ** 0.5  # held-out numbers stay what they are


def test_an_error_in_a_moving_cell_counts_more_in_the_loss_and_no_more_in_what_is_reported(paths):
    task = world_task(paths, **STEADY)
    batch = task.batch(0)
    weight = torch.ones_like(batch.weight)
    weight[:, :, 1, 2, 3] = 9.0  # 1 + `moving`, of a cell that shows moving things alone
    batch = replace(batch, weight=weight, sigma=torch.full_like(batch.sigma, 0.8))
    found = []
    for cell in ((1, 2, 3), (1, 2, 2), (0, 2, 3)):

        def forward(latents, times, text, cell=cell, **_):
            out = torch.zeros_like(latents)
            out[:, :, 1:] = batch.noise - batch.latents[:, :, 1:]
            out[:, :, 1 + cell[0], cell[1], cell[2]] += 0.5
            return out

        task.module.transformer.forward = forward  # pyright: ignore[reportAttributeAccessIssue]
        loss, metrics = task.loss(task.module, batch)
        found.append((float(loss), metrics["x0_error_high"]))
    (moving, reported), (still, same), (earlier, same_too) = found
    assert moving == pytest.approx(9 * still, rel=1e-3) and earlier == pytest.approx(still, rel=1e-3)
    assert reported == pytest.approx(same, rel=1e-3) == pytest.approx(same_too, rel=1e-3)
    assert same == pytest.approx(0.8**2 * still, rel=1e-3)


# The past: the group that ends with the anchor.


def test_a_window_begins_with_the_group_before_its_anchor_as_often_as_asked(paths):
    reader, clip = replace(MICRO, reads_past=True), module.read_latents(paths[0])
    quick = {**STEADY, "no_memory": 1.0, "batch": 2}  # retrieval has no part in it, and takes the time
    shares = []
    for past in (0.0, 0.5, 1.0):
        task, with_past = world_task(paths[:1], None, reader, **quick, past=past), 0
        for step in range(40):
            batch = task.batch(step)
            with_past += batch.past is not None
            for index in range(2 if batch.past is not None else 0):
                sample = task._sample(paths[:1], 2 * step + index)
                start = _start_of(sample, paths[0])
                assert torch.equal(sample["past"], clip.groups[start - 1]) and start >= 1
                assert batch.past is not None and torch.equal(batch.past[index], sample["past"])
        shares.append(with_past / 40)
    assert shares[0] == 0 and 0.3 < shares[1] < 0.7 and shares[2] == 1
    assert world_task(paths[:1], **quick, past=1.0).batch(0).past is None, "a network that does not read it"


def test_cameras_of_the_past_are_those_of_its_frames_seen_from_the_anchor(paths):
    task = world_task(paths[:1], None, replace(MICRO, reads_past=True), **STEADY, past=1.0)
    sample = task._sample(paths[:1], 5)
    clip, start = module.read_latents(paths[0]), _start_of(sample, paths[0])
    raw = clip.cameras[4 * start - 3 : 4 * start + 1].viewmats @ clip.cameras[4 * start].c2w
    raw[:, :3, 3] /= float(clip.depth[0].median())
    torch.testing.assert_close(sample["before"].viewmats, raw, rtol=0, atol=1e-9)
    cameras = task._collate([sample]).cameras
    assert cameras.P.shape[1] == 4, "past, anchor and two groups"


# Errors in pixels.


def in_pixels(vae, guess, x0, weight, cells):
    z, truth, share = (latents.transpose(1, 2).flatten(0, 1) for latents in (guess, x0, weight))
    return pixel_loss(vae.decode_groups, z, truth, cells, share[:, 0])


def test_the_error_in_pixels_is_that_of_the_decoded_square_and_its_differences():
    vae, gen = micro_vae(), torch.Generator().manual_seed(0)
    x0, guess = torch.randn(2, 2, CHANNELS, 3, 4, 4, generator=gen)
    even = torch.ones(2, 1, 3, 4, 4)
    assert float(in_pixels(vae, x0, x0, even, 8)) == 0
    found = in_pixels(vae, guess, x0, even, 8)
    z, truth = (latents.transpose(1, 2).flatten(0, 1) for latents in (guess, x0))
    torch.testing.assert_close(pixel_loss(vae.decode_groups, z, truth, 8), found)
    frames = [vae._raw(z.transpose(1, 2).flatten(0, 1), 1) for z in (guess, x0)]
    error = vae.group.decode(frames[0]) - vae.group.decode(frames[1])
    by_hand = error.square().mean() + (error.diff(dim=-1).square().mean() + error.diff(dim=-2).square().mean()) / 2
    assert float(found) == pytest.approx(float(by_hand), rel=1e-5)
    moving = even.clone()
    moving[0] = 9.0  # of the first entry alone: it counts nine times the second, and the mean weight is one
    halves = [float(in_pixels(vae, guess[i : i + 1], x0[i : i + 1], even[:1], 8)) for i in range(2)]
    weighted = float(in_pixels(vae, guess, x0, moving, 8))
    assert weighted == pytest.approx((9 * halves[0] + halves[1]) / 10, rel=1e-4)


def test_a_square_of_every_latent_is_decoded_and_gradients_reach_it_alone():
    vae, gen = micro_vae(), torch.Generator().manual_seed(0)
    x0, guess = torch.randn(2, 1, CHANNELS, 2, 6, 6, generator=gen)
    guess.requires_grad_()
    places = set()
    for seed in range(12):
        torch.manual_seed(seed)
        guess.grad = None
        in_pixels(vae, guess, x0, torch.ones(1, 1, 2, 6, 6), 2).backward()
        assert guess.grad is not None
        rows, columns = (guess.grad != 0).any(1).any(0).any(0).nonzero().unbind(-1)
        assert len(rows) == 4 and rows.max() - rows.min() == columns.max() - columns.min() == 1
        places.add((int(rows.min()), int(columns.min())))
    assert len(places) > 5
    assert all(p.grad is None for p in vae.parameters())


def test_pixels_count_as_much_as_asked_and_only_with_an_autoencoder(paths):
    torch.manual_seed(0)
    kinds = ((None, 10.0), (micro_vae(), 10.0), (micro_vae(), 20.0))
    blind, seeing, more = (world_task(paths[:1], vae, SUB, **STEADY, pixels=pixels) for vae, pixels in kinds)
    losses, batch = [], seeing.batch(0)
    for task in (blind, seeing, more):
        torch.manual_seed(1)
        loss, metrics = task.loss(task.module, batch)
        losses.append((float(loss.detach()), metrics.get("pixel_error")))
    (plain, none), (ten, error), (twenty, same) = losses
    assert none is None and error == same is not None
    assert ten - plain == pytest.approx(10 * error, rel=1e-3) and twenty - plain == pytest.approx(20 * error, rel=1e-3)
    assert "held_out_pixels" in seeing.evaluate(seeing.module) and "held_out_pixels" not in blind.evaluate(blind.module)


# Rehearsals: the newest history by the model itself.


def _start_of(sample, path, latents: int = 2) -> int:
    groups = module.read_latents(path).groups
    found = sample["latents"].transpose(0, 1)[1:]
    return next(s for s in range(len(groups)) if torch.equal(found, groups[s : s + latents]))


def test_without_rehearsals_or_without_an_autoencoder_history_is_the_clips(paths):
    quiet, alone, never = (
        world_task(paths[:1], **STEADY),
        world_task(paths[:1], **{**STEADY, "rehearse": 1.0}),
        world_task(paths[:1], micro_vae(), **STEADY),
    )
    clip = module.read_latents(paths[0])
    for index in range(6):
        for task in (quiet, alone, never):
            sample = task._sample(paths[:1], index)
            assert torch.equal(sample["latents"][:, 0], clip.image[_start_of(sample, paths[0])])


def test_a_rehearsed_anchor_is_what_the_model_makes_of_the_window_before(paths, monkeypatch):
    """Decoded and encoded again, one or two windows of it; targets stay the clip's, and held-out samples too."""
    reader = replace(SUB, reads_past=True)
    task = world_task(paths[:1], micro_vae(), reader, **{**STEADY, "rehearse": 1.0, "past": 1.0})
    clip, made, lifted = module.read_latents(paths[0]), [], []
    imagine, keyframe = task._imagine, module._keyframe

    def spied(sample):
        latents, groups = imagine(sample)
        made.append((sample, latents, groups))
        lifted.clear()
        return latents, groups

    monkeypatch.setattr(task, "_imagine", spied)
    monkeypatch.setattr(module, "_keyframe", lambda c, z, k, *a: lifted.append((k, z)) or keyframe(c, z, k, *a))
    counts = set()
    for index in range(24):
        made.clear()
        lifted.clear()
        sample = task._sample(paths[:1], index)
        start = _start_of(sample, paths[0])
        counts.add(len(made))
        assert len(made) <= min(2, start // 2) and (made or start < 2)
        anchor = sample["latents"][:, 0]
        assert sample["moving"].shape == (1, 2, 4, 4)
        if not made:
            assert torch.equal(anchor, clip.image[start])
            continue
        assert torch.equal(anchor, made[-1][1][-1]) and not torch.allclose(anchor, clip.image[start], atol=1e-2)
        # the first rehearsed window starts from the clip, the next from what the first made
        first = start - 2 * len(made)
        assert torch.equal(made[0][0]["latents"][:, 0], clip.image[first])
        for (_, earlier, groups), (later, _, _) in pairwise(made):
            assert torch.equal(later["latents"][:, 0], earlier[-1]) and torch.equal(later["past"], groups[-1])
        assert made[0][0]["past"] is None if first == 0 else torch.equal(made[0][0]["past"], clip.groups[first - 1])
        assert torch.equal(sample["past"], made[-1][2][-1]), "as it was imagined, not as it was decoded"
        # memory of the sample holds what was made, and of everything else what the clip shows
        rehearsed = torch.cat([latents for _, latents, _ in made])
        assert start in dict(lifted)
        for k, z in lifted:
            here = first < k <= start
            assert torch.equal(z, rehearsed[k - first - 1] if here else clip.image[k])
    assert {0, 1, 2} == counts
    made.clear()
    plain = task._sample(paths[:1], 3, plain=True)
    assert not made and torch.equal(plain["latents"][:, 0], clip.image[_start_of(plain, paths[0])])


def test_what_is_imagined_is_one_step_of_the_model_decoded_and_encoded(paths, monkeypatch):
    monkeypatch.setattr(module, "sixteen_bits", lambda *_: False)
    vae = micro_vae()
    task = world_task(paths[:1], vae, SUB, **STEADY)
    clip, rng, generator = module.read_latents(paths[0]), np.random.default_rng(0), torch.Generator().manual_seed(0)
    sample = task._window(clip, clip.image, 4, rng, generator)
    found, groups = task._imagine(sample)
    batch = task._collate([sample])
    anchor, asked = batch.latents[:, :, :1], []
    network = task.module.transformer

    def velocity(noisy):
        asked.append(noisy)
        times = torch.tensor([[0.0, 1000.0, 1000.0]])
        with torch.no_grad():
            return network(noisy, times, task.module.text(batch.words), memory=batch.memory, cameras=batch.cameras)

    v = velocity(torch.cat([anchor, batch.noise], dim=2))[:, :, 1:]
    frames = vae.decode_video(torch.cat([anchor, batch.noise - v], dim=2))[0].transpose(0, 1)
    assert len(frames) == 9
    torch.testing.assert_close(found, vae.encode_image(frames[[4, 8]]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(groups, (batch.noise - v)[0].transpose(0, 1), rtol=1e-4, atol=1e-4)
    changed, _ = task._imagine({**sample, "noise": sample["noise"] + 1})
    assert not torch.allclose(changed, found, atol=1e-2)
    sigma, _ = task._imagine({**sample, "sigma": torch.tensor(0.3)})
    assert torch.equal(sigma, found), "from pure noise, whatever was drawn"


@pytest.mark.parametrize("event", [21, 29])
def test_no_rehearsal_goes_across_an_event(tmp_path, monkeypatch, event):
    path = tmp_path / "0.safetensors"
    write_latents(path, make_latents(0, event=event))
    task, windows = world_task([path], micro_vae(), **{**STEADY, "rehearse": 1.0}, event=0.0), []
    inner = task._window
    monkeypatch.setattr(task, "_window", lambda *a, **k: windows.append(a[2]) or inner(*a, **k))
    at, rehearsed, across = (event - 1) // STEP, 0, 0
    for index in range(30):
        windows.clear()
        task._sample([path], index)
        *before, start = windows
        rehearsed += bool(before)
        across += bool(not before and start >= 2)
        if before:
            assert before[0] >= at or start <= at, (before, start)
    assert rehearsed > 3 and across > 0, "most rehearse, and some would have gone across"


def test_a_rehearsed_batch_is_the_same_for_one_rank_and_two_and_changes_no_weight(paths):
    task = world_task(paths, micro_vae(), SUB, rehearse=1.0)
    before = {k: v.clone() for k, v in task.module.state_dict().items()}
    whole, shares = task.batch(2), [task.batch(2, rank, 2) for rank in (0, 1)]
    for i in range(4):
        mine = shares[i % 2]
        for name in ("latents", "noise", "weight", "sigma", "words"):
            assert torch.equal(getattr(mine, name)[i // 2], getattr(whole, name)[i]), name
    assert not whole.latents.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in task.module.state_dict().items())
    assert torch.is_grad_enabled()
    loss, _ = task.loss(task.module, whole)
    loss.backward()
    with torch.no_grad():
        task.module.transformer.proj_out.weight.add_(0.1)
    assert not torch.equal(task.batch(2).latents, whole.latents), "another model rehearses otherwise"


def test_twins_share_window_and_noise_and_differ_in_what_happens_and_what_is_said(tmp_path):
    for k, (name, colour) in enumerate((("5", "red"), ("5-1", "blue"), ("5-2", "green"))):
        clip = make_latents(5, event=17)
        image, groups = clip.image.clone(), clip.groups.clone()
        image[5:] += k
        groups[4:] += k
        twin = replace(clip, event=f"the ball turns {colour}", image=image, groups=groups)
        write_latents(tmp_path / f"{name}.safetensors", twin)
    write_latents(tmp_path / "6.safetensors", make_latents(6))
    paths = sorted(tmp_path.glob("*.safetensors"))
    task = world_task(paths, batch=8, twins=0.5, recent=0.0, echo=0.0)
    batch = task.batch(2)
    for first in (0, 2):
        for i in (first, first + 1):
            assert torch.equal(batch.noise[i], batch.noise[first]) and batch.sigma[i] == batch.sigma[first] == 1
            assert torch.equal(batch.latents[i, :, 0], batch.latents[first, :, 0]), "what was before is the same"
        assert len({tuple(batch.words[i].tolist()) for i in (first, first + 1)} - {(0,) * 12}) == 2, "each is told"
        apart = (batch.latents[first + 1, :, 1:] - batch.latents[first, :, 1:]).flatten(2).mean(-1)[0]
        assert float(apart[-1].abs().round()) in (1, 2), "two of three, any two"
    assert not torch.equal(batch.noise[2], batch.noise[0]) and not torch.equal(batch.noise[7], batch.noise[6])
    assert batch.twins.tolist() == [0, 0, 1, 1, -1, -1, -1, -1]
    for rank, mine in enumerate(([0, 1, 4, 6], [2, 3, 5, 7])):
        half = world_task(paths, batch=8, twins=0.5, recent=0.0, echo=0.0).batch(2, rank, 2)
        assert torch.equal(half.latents, batch.latents[mine]) and torch.equal(half.words, batch.words[mine])
        assert torch.equal(half.twins, batch.twins[mine])
    silent = world_task(paths, batch=8, twins=0.5, recent=0.0, no_text=1.0).batch(2)
    assert (silent.words != 0).any(1).tolist() == [True] * 4 + [False] * 4, "twins without words have no answer"
    alone = world_task(paths, batch=8, twins=0.0, recent=0.0).batch(2)
    assert not torch.equal(alone.noise[1], alone.noise[0]), "control"


def test_what_is_kept_is_what_the_teacher_answers_but_for_twins_and_what_moves(tmp_path):
    moving = torch.zeros(12, 4, 4)
    moving[:, 0] = 1.0
    paths = _pair(tmp_path, moving)
    teacher = world_task(paths).module
    with torch.no_grad():  # one that answers something of its own
        teacher.transformer.proj_out.bias.add_(0.3)
    with pytest.raises(ConfigError, match=r"keep = 3.0: .* give some to start from"):
        world_task(paths, keep=3.0)
    task = world_task(paths, batch=4, twins=0.5, keep=3.0, moving=0.0, teacher=teacher)
    task.module.load_state_dict(teacher.state_dict())
    batch = task.batch(1)
    assert batch.twins.tolist() == [0, 0, -1, -1] and not teacher.training
    nothing = replace(batch, moving=torch.zeros_like(batch.moving))
    alone, pair = (_rows(nothing, rows) for rows in ([2, 3], [0, 1]))
    assert float(task.loss(task.module, alone)[0].detach()) < 1e-9, "whoever answers as the teacher pays nothing"
    plain = world_task(paths, batch=4, twins=0.5, moving=0.0)
    plain.module.load_state_dict(teacher.state_dict())
    assert float(plain.loss(plain.module, alone)[0].detach()) > 0.01, "control: asked for the truth it does"
    assert torch.equal(task.loss(task.module, pair)[0], plain.loss(plain.module, pair)[0]), "twins are"
    with torch.no_grad():
        assert torch.equal(task.loss(task.module, alone)[0], plain.loss(plain.module, alone)[0]), "and what is held out"
    rows = _rows(batch, [2, 3])
    everywhere = replace(rows, moving=torch.ones_like(rows.moving))
    truth = plain.loss(plain.module, rows)[0].detach()
    torch.testing.assert_close(task.loss(task.module, everywhere)[0].detach(), 3 * truth)
    some = task.loss(task.module, rows)[0].detach()
    assert 0 < float(some) < 3 * float(truth), "the truth where things move, and there alone"


def test_a_window_is_retold_and_the_teacher_answers_what_words_change(tmp_path):
    paths = _pair(tmp_path, torch.rand(12, 4, 4))
    teacher = world_task(paths).module
    with torch.no_grad():
        teacher.transformer.proj_out.weight.normal_(std=0.5)
        for name, tensor in teacher.named_parameters():
            if name.endswith("attn2.to_out.0.weight"):  # words are heard
                tensor.normal_(std=0.5)
    settings: dict[str, Any] = {"batch": 6, "twins": 0.4, "retold": 0.5, "keep": 2.0, "teacher": teacher}
    task = world_task(paths, **settings)
    task.module.load_state_dict(teacher.state_dict())
    batch = task.batch(3)
    assert batch.twins.tolist() == [0, 0, -1, -1, -1, -1] and batch.retold.tolist() == [-1, -1, 0, 0, 0, -1]
    assert batch.taught.tolist() == [False, False, True, True, True, True]
    told = _rows(batch, [2, 3, 4])
    for same in (told.latents, told.noise, told.moving):
        assert torch.equal(same[0], same[1]) and torch.equal(same[0], same[2])
    assert torch.equal(told.sigma, torch.ones(3))
    clip = read_latents(paths[0])
    ways = [clip.caption, f"{clip.caption} the ball turns blue.", f"{clip.caption} the ball turns red."]
    assert {tuple(row) for row in told.words.tolist()} == {tuple(row) for row in tokenize(ways, 12).tolist()}
    assert torch.equal(told.words[0], tokenize(ways[:1], 12)[0]), "first that nothing happens"

    loss, metrics = task.loss(task.module, told)
    assert float(loss.detach()) < 1e-9 and metrics["words_missed"] < 1e-9, "whoever answers as the teacher pays nothing"
    loud = world_task(paths, louder=2.0, **settings)
    loud.module.load_state_dict(teacher.state_dict())
    missed = loud.loss(loud.module, told)[1]["words_missed"]
    assert 0.2 < missed <= 0.25, "half of what is asked for is missed: a quarter, squared"
    deaf = replace(told, words=told.words[:1].expand_as(told.words))
    answers: list[torch.Tensor] = []
    real: Any = teacher.predict

    def hears(*arguments: Any, **others: Any) -> torch.Tensor:  # the teacher hears what was said, the pupil does not
        answers.append(real(*arguments[:2], teacher.text(told.words), *arguments[3:], **others))
        return answers[-1]

    teacher.predict = hears  # type: ignore[method-assign]
    assert 0.9 < task.loss(task.module, deaf)[1]["words_missed"] < 1.0 + 1e-6, (
        "control: whoever hears nothing misses all"
    )
    assert len(answers) == 1
    with torch.no_grad():
        assert "words_missed" not in task.loss(task.module, told)[1], "what is held out is asked for the truth"


def test_ranks_with_more_retold_windows_or_fewer_err_together_as_one_would(tmp_path):
    paths = _pair(tmp_path, torch.rand(12, 4, 4))
    teacher = world_task(paths).module
    with torch.no_grad():
        for tensor in teacher.parameters():
            tensor.add_(0.1 * torch.randn_like(tensor))
    task = world_task(paths, batch=12, retold=0.75, keep=2.0, heard=50.0, teacher=teacher)
    parts = [task.batch(2, rank, 2) for rank in range(2)]
    assert [part.retold.unique().tolist() for part in parts] == [[0, 2], [-1, 1]], "two sets here, one there"
    (whole, _), (one, _), (two, _) = (task.loss(task.module, batch) for batch in (task.batch(2), *parts))
    torch.testing.assert_close((one + two) / 2, whole)


def test_once_something_has_begun_by_itself_the_truth_counts_where_the_teacher_is_wrong(tmp_path):
    path = tmp_path / "0.safetensors"
    write_latents(path, replace(make_latents(0), happens=(Event(1 + 4 * 5, "a door opens"),)))
    teacher = world_task([path]).module
    task = world_task([path], batch=32, keep=1.0, no_text=0.0, teacher=teacher)
    task.module.load_state_dict(teacher.state_dict())
    batch = task.batch(0)
    opened = (batch.words == tokenize(["a room with a sofa. a door opens."], 12)).all(1)
    assert bool(opened.any()) and not bool(opened.all()) and torch.equal(batch.begun, opened)
    still = replace(batch, moving=torch.zeros_like(batch.moving))
    before, after = (_rows(still, of.nonzero().squeeze(1).tolist()) for of in (~opened, opened))
    assert float(task.loss(task.module, before)[0].detach()) < 1e-9, "where nothing has begun the teacher is right"
    assert float(task.loss(task.module, after)[0].detach()) > 0.01, "where something has, it can be wrong"
    sigma, x0 = after.sigma[:, None, None, None, None], after.latents[:, :, 1:]
    noisy = add_noise(x0, after.noise, sigma)
    with torch.no_grad():
        answer = x0_from(module._answer(teacher, after, noisy), noisy, sigma, teacher.config.prediction)
    near, same_start = answer + 0.01, after.noise + (1 - sigma) / sigma * (x0 - answer - 0.01)
    right = replace(after, latents=torch.cat([after.latents[:, :, :1], near], 2), noise=same_start)
    assert float(task.loss(task.module, right)[0].detach()) < 1e-6, "and is asked wherever it is right"


def _pair(folder, moving):
    """Two clips that differ by 1 from the event on, in which `moving` moves."""
    for k, (name, colour) in enumerate((("5", "red"), ("5-1", "blue"))):
        clip = make_latents(5, event=17)
        image, groups = clip.image.clone(), clip.groups.clone()
        image[5:] += k
        groups[4:] += k
        twin = replace(clip, event=f"the ball turns {colour}", image=image, groups=groups, moving=moving)
        write_latents(folder / f"{name}.safetensors", twin)
    return sorted(folder.glob("*.safetensors"))


def _rows(batch: Any, rows: list[int]) -> Any:
    """Some samples of a batch."""
    if isinstance(batch, torch.Tensor):
        return batch[rows]
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: _rows(getattr(batch, f.name), rows) for f in fields(batch)})
    return batch


def test_a_model_that_ignores_words_pays_for_it_apart(tmp_path):
    """Twins that differ by 1: whoever answers both alike is apart by their spread, where something moves."""
    moving = torch.zeros(12, 4, 4)
    moving[4:, ::2] = 0.5  # half of what every other row of cells shows
    paths = _pair(tmp_path, moving)
    task = world_task(paths, batch=2, twins=1.0, apart=2.0, moving=8.0, recent=0.0)
    batch = task.batch(0)
    batch = replace(batch, sigma=torch.ones(2))  # what is asked shows nothing of the answer
    with torch.no_grad():
        loss, metrics = task.loss(task.module, batch)
        deaf = replace(batch, words=torch.zeros_like(batch.words))
        _, ignored = task.loss(task.module, deaf)
        off = world_task(paths, batch=2, twins=1.0, moving=8.0, recent=0.0)
        off.module.load_state_dict(task.module.state_dict())
        plain, none = off.loss(off.module, batch)
    # answers that are equal leave exactly the truths' own spread, 1 / 4 (channels weigh 1 on average), 8 * 0.5 times in
    # half of the cells of the groups after the event: of both, or of the second alone
    after = float((batch.moving > 0).any(-1).any(-1).double().mean())
    assert math.isclose(ignored["apart"], after * 8 * 0.5 / 2 / 4, rel_tol=0.02) and "apart" not in none
    assert math.isclose(float(loss - plain), 2.0 * metrics["apart"], rel_tol=1e-3)


def test_wrong_is_another_thing_and_no_detail():
    error = torch.zeros(2, 3, 2, 6, 6)
    error[0, :, 0, 2:5, 2:5] = 2.0
    error[1] = 0.15
    found = wrong(error)
    assert found.shape == (2, 1, 2, 6, 6) and float(found[1].max()) < 1e-6
    assert float(found[0, 0, 0, 3, 3]) == 1.0 and not bool(found[0, 0, 1].any()), "each latent by itself"
    corner = (2.0 / 9 - 0.15) / 0.3  # one cell of nine
    assert math.isclose(float(found[0, 0, 0, 1, 1]), corner, rel_tol=1e-5) and not bool(found[0, 0, 0, 0].any())
    border = torch.zeros(1, 1, 1, 4, 4)
    border[..., 0] = 0.45
    assert math.isclose(float(wrong(border)[0, 0, 0, 1, 0]), (0.3 - 0.15) / 0.3, rel_tol=1e-5), (
        "a border is its own neighbour"
    )
