"""The trained generator: the same seed gives the same bits, every setting matters, both heads mean the same."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.helpers import random_cameras
from tests.models.cases import CONFIG, SIZE
from torch import Tensor

from mosaicmem.errors import ConfigError
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.models.conditioning import MemoryTokens
from mosaicmem.models.generator import Generator, Past, WindowRequest
from mosaicmem.models.memory_batch import MemoryBatch
from mosaicmem.models.transformer import Prediction
from mosaicmem.models.world_model import SamplingConfig, WorldModel, WorldNetwork, window_cameras
from mosaicmem.ops.prope import make_cameras

GRID = TokenGrid(*SIZE)


def world(prediction: Prediction = "velocity", reads_past: bool = False, **sampling: Any) -> WorldModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = WorldNetwork(replace(CONFIG, prediction=prediction, reads_past=reads_past), words=8)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return WorldModel(network, "test", SamplingConfig(**sampling))


def request(seed: int = 0, **changes: Any) -> WindowRequest:
    gen = torch.Generator().manual_seed(seed)
    n = 10
    row = torch.arange(n) % 2 + 1
    positions = torch.rand(n, 3, generator=gen, dtype=torch.float64) * torch.tensor([0, 4.0, 6.0])
    positions[:, 0] = row
    tokens = MemoryTokens(
        torch.randn(n, 16, generator=gen), positions, row, torch.zeros(n, 2, dtype=torch.int64),
        torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool),
    )  # fmt: skip
    whole = {
        "anchor": torch.randn(4, 8, 12, generator=gen), "canvas": torch.zeros(2, 4, 8, 12),
        "good": torch.zeros(2, 8, 12, dtype=torch.bool), "tokens": tokens,
        "cameras": random_cameras(9, gen, width=SIZE[0], height=SIZE[1]).recentred(),
        "noise": torch.randn(2, 4, 8, 12, generator=gen), "grid": GRID, "prompt": "the ball turns blue",
    }  # fmt: skip
    return WindowRequest(**{**whole, **changes})


def differs(a: Tensor, b: Tensor) -> bool:
    return float((a - b).abs().max()) > 1e-3


def test_the_same_request_gives_the_same_bits():
    model = world()
    assert isinstance(model, Generator)
    assert (model.name, model.label, model.use_memory, model.invents) == ("test", "[trained:test]", True, True)
    latents = model.generate(request())
    assert latents.shape == (2, 4, 8, 12) and bool(latents.isfinite().all())
    assert torch.equal(latents, world().generate(request()))
    assert not any(p.requires_grad for p in model.network.parameters()) and not model.network.training


def test_everything_in_a_request_matters():
    model, whole = world(), request()
    latents, other = model.generate(whole), request(1)
    for name in ("anchor", "tokens", "cameras", "noise"):
        assert differs(model.generate(replace(whole, **{name: getattr(other, name)})), latents), name
    assert differs(model.generate(replace(whole, prompt="the ball turns red")), latents)
    # but the canvas, which is for generators without tokens
    assert torch.equal(model.generate(replace(whole, canvas=other.noise, good=~whole.good)), latents)


@pytest.mark.parametrize(
    "changes",
    [{"steps": 5}, {"guidance": 2.0}, {"guidance": 0.0}, {"shift": 4.0}, {"method": "euler"}, {"use_cameras": False}],
)
def test_every_setting_of_the_sampler_matters(changes):
    model, whole = world(steps=3), request()
    changed = model.with_sampling(**changes)
    assert changed.network is model.network and changed.name == model.name
    assert differs(changed.generate(whole), model.generate(whole))
    assert torch.equal(changed.with_sampling(**vars(model.sampling)).generate(whole), model.generate(whole))


def test_without_memory_no_token_is_read():
    whole = request()
    none = whole.tokens[torch.zeros(len(whole.tokens), dtype=torch.bool)]
    blind = WorldModel(world().network, "test", use_memory=False)
    assert not blind.use_memory and not blind.with_sampling(steps=2).use_memory
    assert differs(blind.generate(whole), world().generate(whole))
    assert torch.equal(blind.generate(whole), world().generate(replace(whole, tokens=none)))


def test_without_cameras_none_is_read():
    model, whole = world(use_cameras=False), request()
    moved = replace(whole, cameras=request(1).cameras)
    assert torch.equal(model.generate(whole), model.generate(moved))


def evaluations(model: WorldModel, whole: WindowRequest) -> list[tuple[Tensor, Tensor]]:
    """What the transformer was asked: latents and timesteps of every evaluation."""
    asked: list[tuple[Tensor, Tensor]] = []

    def look(_module, inputs) -> None:
        asked.append(inputs[:2])

    hook = model.network.transformer.register_forward_pre_hook(look)
    model.generate(whole)
    hook.remove()
    return asked


def test_guidance_is_a_line_through_the_answers_with_and_without_text():
    whole = request()
    free = 1e6
    without, plain, beyond = (world(steps=1, guidance=g, guidance_limit=free).generate(whole) for g in (0.0, 1.0, 2.0))
    torch.testing.assert_close(beyond - plain, plain - without, rtol=1e-3, atol=1e-4)
    assert differs(beyond, plain)
    torch.testing.assert_close(without, world(steps=1).generate(replace(whole, prompt="")), rtol=1e-4, atol=1e-5)
    # away from other words, if there are some
    away, other = replace(whole, avoid="a room with a ball"), replace(whole, prompt="a room with a ball")
    torch.testing.assert_close(
        world(steps=1, event_steps=1, event_guidance=0.0, guidance_limit=free).generate(away),
        world(steps=1).generate(other),
        rtol=1e-4,
        atol=1e-5,
    )
    assert torch.equal(world(steps=1, event_steps=1, event_guidance=1.0, guidance=5.0).generate(away), plain)
    assert torch.equal(world(steps=1, event_steps=1, event_guidance=5.0).generate(whole), plain), "nothing happens"
    further = world(steps=1, event_steps=1, event_guidance=2.0, guidance_limit=free).generate(away)
    assert differs(further, beyond) and differs(further, plain)
    # it costs a second evaluation, and only where there is text to follow
    assert len(evaluations(world(steps=3), whole)) == 3
    assert len(evaluations(world(steps=3, guidance=2.0), whole)) == 6
    assert len(evaluations(world(steps=3, guidance=2.0), replace(whole, prompt=""))) == 3
    assert len(evaluations(world(steps=3), away)) == 6


def test_a_window_in_which_something_begins_is_looked_at_more_often():
    away = replace(request(), avoid="a room with a ball")
    assert len(evaluations(world(steps=1, event_steps=2), request())) == 1
    assert len(evaluations(world(steps=1, event_steps=2), away)) == 4, "each with and without the words"
    assert len(evaluations(world(steps=3, event_steps=2), away)) == 6, "and never less than any other"
    assert differs(world(steps=1, event_steps=2).generate(away), world(steps=1, event_steps=1).generate(away))


def test_guidance_goes_no_further_than_its_limit():
    whole = request()
    plain, free = (world(steps=1, guidance=g, guidance_limit=1e6).generate(whole) for g in (1.0, 3.0))
    gain = torch.tensor([2.0, 1.0, 0.5, 0.0])[:, None, None]

    def led(limit: float) -> Tensor:
        model = world(steps=1, guidance=3.0, guidance_limit=limit)
        model.network.gain[1] = gain.flatten()
        return model.generate(whole) - plain

    def in_pixels(change: Tensor) -> float:
        return float((gain * change).square().sum(1).mean().sqrt())

    whole_way = in_pixels(free - plain)
    torch.testing.assert_close(led(2 * whole_way), free - plain, rtol=1e-3, atol=1e-4)
    half = led(whole_way / 2)
    assert math.isclose(in_pixels(half), whole_way / 2, rel_tol=1e-3)
    torch.testing.assert_close(half, (free - plain) / 2, rtol=1e-3, atol=1e-4)


def test_the_anchor_is_clean_and_stays():
    whole = request()
    for latents, times in evaluations(world(steps=2, shift=1.0), whole):
        assert torch.equal(latents[0, :, 0], whole.anchor)
        assert times[0, 0] == 0 and bool((times[0, 1:] > 0).all())
    (first, times), (_, later) = evaluations(world(steps=2, shift=1.0), whole)
    assert torch.equal(first[0, :, 1:].transpose(0, 1), whole.noise)
    assert times.tolist() == [[0, 1000, 1000]] and later.tolist() == [[0, 500, 500]]


def test_both_heads_mean_the_same():
    """From pure noise, a velocity `noise - x0` and an `x0` of the same number add up to the noise."""
    whole = request()
    velocity, x0 = (world(kind, steps=1).generate(whole) for kind in ("velocity", "x0"))
    torch.testing.assert_close(velocity + x0, whole.noise, rtol=0, atol=1e-5)
    assert differs(velocity, x0)


def test_w2_cameras_of_a_window_are_those_of_its_raw_frames():
    cameras = request().cameras
    found = window_cameras([cameras, cameras[[0] * 9]], GRID)
    assert found.P.shape == (2, 3, 4, 4, 4)
    index = torch.tensor([[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]])
    expected = make_cameras(cameras.viewmats[index][None], cameras.Ks[index][None], SIZE)
    assert torch.equal(found.P[:1], expected.P) and torch.equal(found.Pinv[:1], expected.Pinv)
    assert torch.equal(found.P[1, 2, 3], expected.P[0, 0, 0])


def test_the_past_stands_clean_before_the_anchor_and_matters_to_who_reads_it():
    whole, gen = request(), torch.Generator().manual_seed(3)
    past = Past(torch.randn(4, 8, 12, generator=gen), random_cameras(4, gen, width=SIZE[0], height=SIZE[1]))
    told = replace(whole, past=past)
    deaf, reader = world(steps=2, shift=1.0), world(steps=2, shift=1.0, reads_past=True)
    assert not deaf.reads_past and torch.equal(deaf.generate(told), deaf.generate(whole))
    assert reader.reads_past and torch.equal(reader.generate(whole), deaf.generate(whole)), "the same weights"
    for latents, times in evaluations(reader, told):
        assert torch.equal(latents[0, :, 0], past.latents) and torch.equal(latents[0, :, 1], whole.anchor)
        assert times[0, :2].tolist() == [0, 0] and bool((times[0, 2:] > 0).all())
    answer = reader.generate(told)
    assert answer.shape == whole.noise.shape and differs(answer, reader.generate(whole))
    elsewhere = replace(past, cameras=past.cameras[[3, 2, 1, 0]])
    assert differs(reader.generate(replace(told, past=elsewhere)), answer), "its cameras count"


def test_with_a_past_memory_still_meets_its_target():
    """Time indices of anchor, memory and targets are as without it; only their rows of cameras move on by one."""
    whole, gen = request(), torch.Generator().manual_seed(3)
    memory = MemoryBatch.pad([whole.tokens], 16)
    later = memory.later(1)
    assert torch.equal(later.row, memory.row + 1) and torch.equal(later.positions, memory.positions)
    network, asked = world(reads_past=True).network, {}

    def look(_module, _inputs, options) -> None:
        asked.update(options)

    network.transformer.register_forward_pre_hook(look, with_kwargs=True)
    latents = torch.randn(1, 4, 2, 8, 12, generator=gen)
    text, anchor = network.text.encode([""]), torch.randn(1, 4, 8, 12, generator=gen)
    network.predict(latents, torch.ones(1), text, anchor, past=anchor + 1, memory=memory)
    assert asked["first_latent"] == -1 and torch.equal(asked["memory"].row, memory.row + 1)
    network.predict(latents, torch.ones(1), text, anchor, memory=memory)
    assert asked["first_latent"] == 0 and torch.equal(asked["memory"].row, memory.row)


def test_cameras_of_the_past_are_a_row_in_front():
    cameras, before = (
        request().cameras,
        random_cameras(4, torch.Generator().manual_seed(5), width=SIZE[0], height=SIZE[1]),
    )
    found = window_cameras([cameras], GRID, [before])
    alone = window_cameras([cameras], GRID)
    assert found.P.shape == (1, 4, 4, 4, 4) and torch.equal(found.P[:, 1:], alone.P)
    assert torch.equal(found.P[0, 0], make_cameras(before.viewmats[None, None], before.Ks[None, None], SIZE).P[0, 0])


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"event_steps": 0},
        {"shift": 0.0},
        {"guidance": -1.0},
        {"event_guidance": -1.0},
        {"guidance_limit": 0.0},
        {"guidance": float("nan")},
        {"shift": float("inf")},
    ],
)
def test_settings_out_of_range_are_refused_by_name(values):
    ((name, value),) = values.items()
    with pytest.raises(ConfigError, match=f"^{name} = {value}: out of range, expected [^;]*$"):
        SamplingConfig(**values)


def test_channels_weigh_one_until_they_are_measured():
    network = world().network
    assert torch.equal(network.gain, torch.ones(2, 4)) and "gain" in network.state_dict()
    assert network.config is network.transformer.config
