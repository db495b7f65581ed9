"""Laws of memory (A1-A3, A5), cameras (P1-P5) and windows (W1), through whole transformers."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from tests.models.cases import CONFIG, SIZE, Inputs, random_inputs, random_transformer
from tests.ops.cases import LAYOUTS, error, rigid
from torch import Tensor

from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.lifting import lift
from mosaicmem.memory.retrieval import retrieve
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.conditioning import assemble
from mosaicmem.models.memory_batch import AGE_WAVES, MemoryBatch, age_waves
from mosaicmem.models.transformer import VideoTransformer
from mosaicmem.ops import prope
from mosaicmem.ops.prope import TokenCameras, make_cameras

SHIFT_KNOWN = ("split", "branch")  # layouts whose rotary positions are only relative


def run(network: VideoTransformer, x: Inputs, cameras: TokenCameras | str | None = "own", **options) -> Tensor:
    cameras = x.cameras if isinstance(cameras, str) else cameras
    return network(x.latents, x.timesteps, x.text, **{"memory": x.memory, "cameras": cameras, **options})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_A1_memory_of_nothing_is_no_memory(layout):
    network, x = random_transformer(layout), random_inputs()
    none = run(network, x, memory=None)
    empty = MemoryBatch(x.memory.features[:, :0], x.memory.positions[:, :0], x.memory.row[:, :0])
    assert torch.equal(run(network, x, memory=empty), none)
    masked = replace(empty, mask=torch.zeros(2, 0, dtype=torch.bool))
    assert torch.equal(run(network, x, memory=masked), none)
    assert error(run(network, x), none) > 1e-3, "control: memory matters"


@pytest.mark.parametrize("turned", [True, False])
def test_A1_a_mosaic_of_holes_is_no_memory(turned, rng):
    network, x = random_transformer(), random_inputs(b=1)
    grid = TokenGrid(*SIZE)
    here = Cameras.from_fov(torch.eye(4, dtype=torch.float64)[None], *SIZE)
    store = PatchStore.empty().insert(
        lift(torch.randn(4, 8, 12, generator=rng), torch.full(SIZE[::-1], 3.0), here, grid)
    )
    back = torch.diag(torch.tensor([-1.0, 1, -1, 1], dtype=torch.float64))
    view = Cameras(here.viewmats @ back if turned else here.viewmats, here.Ks, *SIZE)
    mosaic = retrieve(store, view, grid)
    tokens = MemoryBatch.pad([assemble(store, mosaic, first_latent=1)], 16)
    assert len(tokens) == (0 if turned else 24)
    same = torch.equal(run(network, x, memory=tokens), run(network, x, memory=None))
    assert same == turned


@pytest.mark.parametrize("layout", LAYOUTS)
def test_A1_padding_of_memory_never_matters(layout):
    network, x = random_transformer(layout), random_inputs()
    mask = torch.arange(10).expand(2, 10) < 6
    padded = x.with_memory(mask=mask, features=x.memory.features.masked_fill(~mask[..., None], torch.nan))
    cut = MemoryBatch(x.memory.features[:, :6], x.memory.positions[:, :6], x.memory.row[:, :6])
    answer = run(network, padded)
    assert bool(answer.isfinite().all())
    assert error(answer, run(network, x, memory=cut)) < 1e-6
    assert error(answer, run(network, x)) > 1e-3, "control: four tokens more matter"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_A2_the_order_of_memory_does_not_matter(layout):
    network, x = random_transformer(layout), random_inputs()
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    features, positions, row = (t[:, order] for t in (x.memory.features, x.memory.positions, x.memory.row))
    answer = run(network, x)
    assert error(run(network, x.with_memory(features=features, positions=positions, row=row)), answer) < 1e-5
    assert error(run(network, x.with_memory(features=features)), answer) > 1e-3, "control: features change places"


def block_outputs(network: VideoTransformer, x: Inputs, **options) -> list[Tensor]:
    """Tokens after every block, `[b 72 + 10 dim]`."""
    out: list[Tensor] = []

    def keep(_module, _inputs, tokens: Tensor) -> None:
        out.append(tokens)

    hooks = [block.register_forward_hook(keep) for block in network.blocks]
    run(network, x, **options)
    for hook in hooks:
        hook.remove()
    return out


def test_A3_memory_reads_no_text():
    network, x = random_transformer(), random_inputs()
    first = block_outputs(network, x)
    second = block_outputs(network, replace(x, text=x.text.flip(0)))
    assert torch.equal(first[0][:, 72:], second[0][:, 72:])
    assert error(first[0][:, :72], second[0][:, :72]) > 1e-2, "control: video reads it"
    # and learns of it only from the video that it attends to
    assert error(first[1][:, 72:], second[1][:, 72:]) > 1e-3


def test_A3_memory_is_at_time_zero():
    network, x = random_transformer(), random_inputs()
    seen: list[Tensor] = []

    def look(_, inputs):
        context = inputs[1]
        seen.append(context.modulation[context.level])

    hook = network.blocks[0].register_forward_pre_hook(look)
    run(network, x)
    hook.remove()
    zero = network.condition_embedder(torch.zeros(1))[1][0]
    assert torch.equal(seen[0][:, 72:], seen[0][:, :1].expand(-1, 10, -1, -1)), "as the clean anchor"
    torch.testing.assert_close(seen[0][0, 72], zero, rtol=1e-5, atol=1e-5)
    assert error(seen[0][:, 24:72], zero.expand(2, 48, -1, -1)) > 1e-2, "control: noisy latents are not"


def test_A3_no_loss_at_the_rows_of_memory():
    network, x = random_transformer(), random_inputs()
    rows: list[int] = []
    network.proj_out.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].shape[1]))
    kept: list[Tensor] = []

    def keep(_, __, tokens):
        kept.append(tokens.requires_grad_() if not tokens.requires_grad else tokens)
        kept[-1].retain_grad()

    for block in network.blocks:
        block.register_forward_hook(keep)
    run(network, x).square().sum().backward()
    assert rows == [72]
    first, last = (t.grad for t in kept)
    assert first is not None and last is not None
    assert not last[:, 72:].any() and bool(last[:, :72].any())
    assert bool(first[:, 72:].any()), "control: earlier rows of memory teach, through attention"


def test_A5_positions_of_memory_are_real_numbers():
    network, x = random_transformer(), random_inputs()
    answer = run(network, x)

    def moved(by: float) -> float:
        return error(run(network, x.with_memory(positions=x.memory.positions + torch.tensor([0, by, 0]))), answer)

    half, little, less = moved(0.5), moved(1e-2), moved(1e-3)
    assert half > 10 * little
    assert 1e-6 < less < little and little / less == pytest.approx(10, rel=0.1), "continuous, and not rounded away"


def gauged(x: Inputs, only: slice = slice(None)) -> Inputs:
    viewmats = x.viewmats.clone()
    viewmats[:, only] = viewmats[:, only] @ rigid(torch.Generator().manual_seed(9), 1, 1, 1)
    return replace(x, viewmats=viewmats)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_P1_W1_the_origin_of_the_world_does_not_matter(layout):
    network, x = random_transformer(layout), random_inputs()
    answer = run(network, x)
    assert error(run(network, gauged(x)), answer) < 1e-5
    recentred = make_cameras(x.viewmats, x.Ks, SIZE, ref=x.viewmats[:, 0, 0])
    assert error(run(network, x, recentred), answer) < 1e-5
    assert error(run(network, gauged(x, slice(1, None))), answer) > 1e-3, "control: one latent stays behind"
    scaled = make_cameras(x.viewmats, x.Ks, SIZE, scale=3.0)
    assert error(run(network, x, scaled), answer) > 1e-3, "control: translations have a unit"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_P2_cameras_that_all_agree_say_nothing(layout):
    network, x = random_transformer(layout), random_inputs()
    common = replace(x, viewmats=x.viewmats[:, :1].expand(-1, 3, -1, -1, -1), Ks=x.Ks[:, :1].expand(-1, 3, -1, -1, -1))
    without = run(network, x, None)
    assert error(run(network, common), without) < 1e-5
    assert error(run(network, x), without) > 1e-3
    if layout == "branch":
        for block in network.blocks:
            for parameter in block.attn1.to_out_prope.parameters():  # pyright: ignore
                parameter.zero_()
        assert torch.equal(run(network, x), run(network, x, None)), "at initialisation, exactly"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_P3_a_shift_of_time_or_place(layout):
    network, x = random_transformer(layout), random_inputs()
    later = x.with_memory(positions=x.memory.positions + torch.tensor([2.0, 0, 0]))
    changed = error(run(network, later, first_latent=2), run(network, x))
    assert changed < 1e-5 if layout in SHIFT_KNOWN else changed > 1e-3
    assert error(run(network, later), run(network, x)) > 1e-4, "control: only memory shifted"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_P4_every_sub_frame_camera_and_the_aspect_matter(layout):
    network, x = random_transformer(layout), random_inputs()
    answer = run(network, x)
    for k in range(4):
        viewmats = x.viewmats.clone()
        viewmats[:, 1, k] = rigid(torch.Generator().manual_seed(k), 2)
        assert error(run(network, replace(x, viewmats=viewmats)), answer) > 1e-3, k
    assert error(run(network, x, make_cameras(x.viewmats, x.Ks, (SIZE[1], SIZE[0]))), answer) > 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_P5_without_the_way_back_the_origin_would_matter(layout, monkeypatch):
    network, x = random_transformer(layout), random_inputs()
    monkeypatch.setattr(prope, "decode_output", lambda o, *_: o)
    assert error(run(network, gauged(x)), run(network, x)) > 1e-2


def test_memory_carries_the_cameras_of_its_latent():
    """A memory row behind another latent's camera is another token; the same camera in another row is the same one."""
    network, x = random_transformer(), random_inputs()
    answer = run(network, x)
    assert error(run(network, x.with_memory(row=3 - x.memory.row)), answer) > 1e-3
    twice = replace(x, viewmats=x.viewmats[:, [0, 1, 1]], Ks=x.Ks[:, [0, 1, 1]])
    assert error(run(network, twice.with_memory(row=3 - x.memory.row)), run(network, twice)) < 1e-6


def placed(seed: int = 0) -> Inputs:
    """Memory of which tokens 0, 1 and 4 lie exactly on target tokens, and the others anywhere."""
    x = random_inputs(seed)
    exact = torch.tensor([True, True, False, False, True] + 5 * [False]).expand(2, -1)
    positions = x.memory.positions.clone()
    positions[:, [0, 1, 4], 1:] = torch.tensor([[1.0, 4.0], [3.0, 0.0], [2.0, 5.0]])
    return x.with_memory(positions=positions, warped_latent=exact)


def test_memory_lies_at_the_video_token_it_was_warped_to_and_nowhere_else():
    x, (m, n) = placed(), (4, 6)
    assert x.memory.warped_latent is not None
    expected = torch.zeros(2, 3 * m * n, x.memory.features.shape[-1])
    for b in range(2):
        for i in x.memory.warped_latent[b].nonzero().flatten().tolist():
            _, row, column = x.memory.positions[b, i].tolist()
            expected[b, (int(x.memory.row[b, i]) * m + int(row)) * n + int(column)] = x.memory.features[b, i]
    found = x.memory.in_place(3 * m * n, (m, n), torch.float32)
    assert torch.equal(found.content, expected)
    assert torch.equal(found.known[..., 0] == 1, (expected != 0).any(-1)) and int(found.known.sum()) == 6


def test_memory_in_place_starts_at_nothing_and_then_matters():
    network = random_transformer(config=replace(CONFIG, memory_in_place=True))
    x = placed()
    learned = run(network, x)
    assert not torch.equal(learned, run(network, x.with_memory(warped_latent=None))), "none lie at a place"
    assert network.place_embedding is not None and network.place_answer is not None
    for part in (network.place_embedding, network.place_answer):
        before = run(network, x)
        for parameter in part.parameters():
            parameter.zero_()
        assert not torch.equal(run(network, x), before)
    stock = random_transformer()
    stock.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("place_")})
    assert torch.equal(run(network, x), run(stock, x))
    fresh = VideoTransformer(replace(CONFIG, memory_in_place=True))
    for part in (fresh.place_embedding, fresh.place_answer):
        assert part is not None and not any(bool(p.any()) for p in part.parameters())
    assert fresh.place_gate is not None and bool((fresh.place_gate.bias == 1).all())


def test_what_memory_answers_goes_through_the_gate_of_its_cell_and_to_no_other_token():
    """With a gate that is a constant per cell, the answer in place is that constant times a map of the content."""
    network = random_transformer(config=replace(CONFIG, memory_in_place=True))
    x, (m, n), p = placed(), (4, 6), CONFIG.patch_size[1]
    assert network.place_answer is not None and network.place_gate is not None
    network.place_gate.weight.zero_()
    gates = torch.tensor([0.0, 1.0, -2.0, 0.5])
    network.place_gate.bias.copy_(gates)
    told = run(network, x)
    network.place_gate.bias.zero_()
    difference = told - run(network, x)  # b c l h w
    content = x.memory.in_place(3 * m * n, (m, n), torch.float32)
    answer = network.place_answer(content.content) * content.known  # b (l m n) (p p c)
    answer = answer.view(2, 3, m, n, p, p, -1) * gates.view(p, p, 1)
    expected = answer.permute(0, 6, 1, 2, 4, 3, 5).reshape(difference.shape)
    torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-5)
    assert 0.02 < float((expected != 0).double().mean()) < 0.1


def test_compiled_blocks_answer_the_same_from_one_graph():
    """In a process of its own: a compiler does not see through the checks of types that tests run with."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.compiled_blocks"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == list(LAYOUTS)


def test_age_waves_are_nothing_now_and_tell_any_two_ages_apart():
    ages = torch.tensor([[-4.0, -0.2, 0.0, 1 / 24, 0.2, 1.0, 4.0, 60.0, 3600.0]])
    waves = age_waves(ages)
    assert waves.shape == (1, 9, AGE_WAVES) and not waves[0, 2].any()
    apart = torch.cdist(waves[0], waves[0]) + 10 * torch.eye(9)
    assert apart.min() > 0.1
    odd, even = age_waves(-ages).chunk(2, dim=-1)
    assert torch.equal(odd, -waves[..., : AGE_WAVES // 2]) and torch.equal(even, waves[..., AGE_WAVES // 2 :])


def test_age_starts_at_nothing_and_then_matters_in_both_ways_of_reading():
    network = random_transformer(config=replace(CONFIG, memory_in_place=True, memory_age=True))
    age = torch.linspace(0.1, 5, 10).expand(2, -1).contiguous()
    x = placed().with_memory(age=age)
    for token in (4, 7):  # one that lies at a place, one that does not
        older = age.clone()
        older[:, token] += 1
        assert error(run(network, x.with_memory(age=older)), run(network, x)) > 1e-4
    with pytest.raises(GeometryError, match="do not say how long ago"):
        run(network, x.with_memory(age=None))
    stock = random_transformer(config=replace(CONFIG, memory_in_place=True))
    stock.load_state_dict({k: v for k, v in network.state_dict().items() if k != "age_embedding.weight"})
    assert network.age_embedding is not None
    halves = network.age_embedding.weight.chunk(2)  # of memory tokens, of the video tokens at their places
    for half in halves:
        before = run(network, x)
        half.zero_()
        assert not torch.equal(run(network, x), before)
    assert torch.equal(run(network, x), run(stock, x))
    fresh = VideoTransformer(replace(CONFIG, memory_age=True)).age_embedding
    assert fresh is not None and not fresh.weight.any()


def test_age_lies_at_the_video_token_of_its_memory():
    x, (m, n) = placed(), (4, 6)
    age = torch.arange(1.0, 21).view(2, 10)
    memory = x.with_memory(age=age).memory
    found = memory.in_place(3 * m * n, (m, n), torch.float32)
    assert found.age is not None and memory.warped_latent is not None
    expected = torch.zeros(2, 3 * m * n)
    for b in range(2):
        for i in memory.warped_latent[b].nonzero().flatten().tolist():
            _, row, column = memory.positions[b, i].tolist()
            expected[b, (int(memory.row[b, i]) * m + int(row)) * n + int(column)] = age[b, i]
    assert torch.equal(found.age, expected)
