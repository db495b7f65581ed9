"""Our transformer is diffusers' Wan where memory and cameras are off; its doors and its complaints."""

from __future__ import annotations

import json
from dataclasses import replace

import jaxtyping
import pytest
import torch
from diffusers import WanTransformer3DModel  # pyright: ignore[reportPrivateImportUsage]
from tests.models.cases import CONFIG, Inputs, random_inputs, random_transformer
from tests.ops.cases import LAYOUTS, error
from torch import Tensor

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.models import transformer as module
from mosaicmem.models.checkpoint import load_transformer
from mosaicmem.models.conditioning import MemoryTokens
from mosaicmem.models.memory_batch import MemoryBatch
from mosaicmem.models.transformer import TransformerConfig, VideoTransformer
from mosaicmem.ops.attention import KeyValues, Placement, place
from mosaicmem.ops.prope import decode_output, encode_keys, encode_queries, encode_values

COMMON = {"num_attention_heads": 2, "freq_dim": 32, "ffn_dim": 40, "num_layers": 2, "text_dim": 20}
STOCK = {
    "2.1": {"attention_head_dim": 24, "in_channels": 16, "out_channels": 16, **COMMON},
    "2.2": {"attention_head_dim": 32, "in_channels": 48, "out_channels": 48, "cross_attn_norm": False, **COMMON},
}


@pytest.fixture(params=["2.1", "2.2"])
def stock(request) -> tuple[WanTransformer3DModel, Tensor, Tensor, Tensor]:
    """A random model of diffusers, latents of 3x3x4 tokens, timesteps (2.2: per token), text."""
    gen = torch.Generator().manual_seed(5)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = WanTransformer3DModel(**STOCK[request.param]).eval().requires_grad_(False)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    latents = torch.randn(2, model.config["in_channels"], 3, 6, 8, generator=gen)
    times = torch.tensor([930.0, 120.0])
    if request.param == "2.2":
        times = times[:, None].repeat(1, 36)
        times[:, :12] = 0
    return model, latents, times, torch.randn(2, 7, 20, generator=gen)


@pytest.mark.parametrize("shard", ["10GB", "60KB"])
def test_A4_weights_of_diffusers_load_unchanged_and_answer_alike(stock, tmp_path, shard):
    model, latents, times, text = stock
    model.save_pretrained(tmp_path, max_shard_size=shard)
    assert len(list(tmp_path.glob("*.safetensors"))) == 1 if shard == "10GB" else 2
    ours = load_transformer(tmp_path)
    state = ours.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    expected = model(latents, times, text).sample
    assert error(ours(latents, times, text), expected) < 1e-5
    # controls: what the answer depends on
    assert error(ours(latents, times.flip(0), text), expected) > 1e-2
    assert error(ours(latents, times, text.flip(0)), expected) > 1e-3
    turned = ours(latents.transpose(3, 4), times, text).transpose(3, 4)
    assert error(turned, expected) > 1e-3, "rows and columns are told apart"


def test_A4_sixteen_bits_answer_alike(stock, tmp_path):
    model, latents, times, text = stock
    model.save_pretrained(tmp_path)
    ours = load_transformer(tmp_path, dtype=torch.bfloat16)
    expected = model(latents, times, text).sample
    for name, parameter in model.named_parameters():  # what diffusers does with `torch_dtype=torch.bfloat16`
        if not set(model._keep_in_fp32_modules) & set(name.split(".")):
            parameter.data = parameter.data.bfloat16()
    assert {k: v.dtype for k, v in ours.state_dict().items()} == {k: v.dtype for k, v in model.state_dict().items()}
    answer = ours(latents, times, text)
    assert answer.dtype == torch.bfloat16
    assert error(answer, model(latents.bfloat16(), times, text.bfloat16()).sample) < 1e-2
    assert error(answer, expected) < 3e-2


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_memory_and_cameras_take_the_precision_of_the_weights(dtype):
    network, x = random_transformer(), random_inputs()
    expected = run(network, x)
    answer = run(network.to(dtype), x)
    assert answer.dtype == dtype
    assert error(answer, expected) < (1e-5 if dtype == torch.float64 else 5e-2)


def test_A4_the_branch_starts_as_the_stock_model(stock, tmp_path):
    model, latents, times, text = stock
    model.save_pretrained(tmp_path)
    ours = load_transformer(tmp_path, prope_layout="branch")
    assert error(ours(latents, times, text), model(latents, times, text).sample) < 1e-5


def run(network: VideoTransformer, x: Inputs, *, memory: bool = True, **options) -> Tensor:
    return network(x.latents, x.timesteps, x.text, memory=x.memory if memory else None, cameras=x.cameras, **options)


def test_timesteps_per_entry_latent_and_token_mean_the_same():
    network, x = random_transformer(), random_inputs()
    entry = torch.tensor([400.0, 30.0])
    answers = [
        network(x.latents, t, x.text) for t in (entry, entry[:, None].repeat(1, 3), entry[:, None].repeat(1, 72))
    ]
    assert error(answers[1], answers[0]) < 1e-6 and error(answers[2], answers[0]) < 1e-6
    by_latent = network(x.latents, x.timesteps, x.text)
    assert torch.equal(by_latent, network(x.latents, x.timesteps.repeat_interleave(24, 1), x.text))
    assert error(by_latent, answers[0]) > 1e-2
    with pytest.raises(GeometryError, match="5 timesteps for 3 latents of 24 tokens"):
        network(x.latents, torch.zeros(2, 5), x.text)


def test_entries_of_a_batch_do_not_meet():
    network, x = random_transformer(), random_inputs()
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[1, 6:] = False
    both = run(network, x.with_memory(mask=mask))
    alone = network(
        x.latents[1:], x.timesteps[1:], x.text[1:], cameras=x.cameras_of(slice(1, 2), slice(None)),
        memory=MemoryBatch(x.memory.features[1:, :6], x.memory.positions[1:, :6], x.memory.row[1:, :6]),
    )  # fmt: skip
    assert error(both[1:], alone) < 1e-5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_runs_and_teaches_every_weight(layout):
    network, x = random_transformer(layout).requires_grad_(True), random_inputs()
    run(network, x).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        # a bias common to all keys leaves every softmax as it is, but these are normalised after it
        assert bool(parameter.grad.any()), name


def test_checkpointing_gives_the_same_gradients_by_computing_twice():
    x = random_inputs()
    gradients, calls = [], []
    for checkpointing in (False, True):
        network = random_transformer(config=replace(CONFIG, checkpointing=checkpointing)).requires_grad_(True)
        count: list[int] = []
        network.blocks[0].register_forward_pre_hook(lambda *_, count=count: count.append(1))
        run(network, x).square().mean().backward()
        gradients.append({k: p.grad for k, p in network.named_parameters()})
        calls.append(len(count))
        kept: list[KeyValues] = []
        run(network, x, keep=kept).mean().backward()
        assert len(kept) == 2, "one set of keys per layer, not one per evaluation of a layer"
    assert calls == [1, 2]
    assert all(torch.equal(gradients[0][k], gradients[1][k]) for k in gradients[0])


def one_shot(network: VideoTransformer, x: Inputs, allowed: Tensor, monkeypatch) -> Tensor:
    """The whole window at once, with the attention mask `allowed [L L]` written out."""

    def masked(q, at, keys, *, layout, to_out_prope=None):
        ((own, placed),) = keys
        rope, cameras = (at.cos, at.sin), placed.cameras
        queries, ks, vs = (
            encode(t, rope, cameras, layout)
            for encode, t in ((encode_queries, q), (encode_keys, own.k), (encode_values, own.v))
        )
        out = [
            (a @ b.mT / q.shape[-1] ** 0.5).masked_fill(~allowed, -torch.inf).softmax(-1) @ v
            for a, b, v in zip(queries, ks, vs)
        ]
        out[-1] = decode_output(out[-1], rope, cameras, layout)
        if to_out_prope is None:
            return out[0]
        joined = to_out_prope(out[1].transpose(1, 2).flatten(-2))
        return out[0] + joined.unflatten(-1, (q.shape[1], -1)).transpose(1, 2)

    with monkeypatch.context() as patch:
        patch.setattr(module, "attend", masked)
        return network(x.latents, x.timesteps, x.text, cameras=x.cameras)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_block_by_block_through_the_cache_is_one_masked_evaluation(layout, monkeypatch):
    network, x = random_transformer(layout), random_inputs()
    latent = torch.arange(3).repeat_interleave(24)
    allowed = latent[:, None] >= latent[None]  # a latent sees itself and earlier ones
    expected = one_shot(network, x, allowed, monkeypatch)

    caches: list[list[tuple[KeyValues, Placement]]] = [[], []]
    for l in range(3):
        cameras = x.cameras_of(slice(None), slice(l, l + 1))
        kept: list[KeyValues] = []
        answer = network(
            x.latents[:, :, l : l + 1], x.timesteps[:, l : l + 1], x.text, cameras=cameras, keep=kept, first_latent=l,
            frozen=caches,
        )  # fmt: skip
        assert error(answer, expected[:, :, l : l + 1]) < 1e-5, l
        positions = torch.cartesian_prod(torch.tensor([float(l)]), torch.arange(4.0), torch.arange(6.0))
        at = place(
            positions.expand(2, -1, -1), 32, cameras=cameras.at(torch.zeros(2, 24, dtype=torch.int64)), layout=layout
        )
        for cache, own in zip(caches, kept, strict=True):
            cache.append((own, at))

    assert error(one_shot(network, x, torch.ones_like(allowed), monkeypatch), run(network, x, memory=False)) < 1e-5
    assert error(run(network, x, memory=False), expected) > 1e-3, "control: seeing the future changes the answer"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_heads_that_look_at_their_own_place_do(layout):
    torch.manual_seed(0)
    network = VideoTransformer(replace(CONFIG, prope_layout=layout)).requires_grad_(False)
    positions = torch.cartesian_prod(torch.arange(2.0), torch.arange(4.0), torch.arange(4.0))[None]

    def weights() -> Tensor:
        attention = network.blocks[0].attn1
        assert isinstance(attention, module._Attention)
        at, still = place(positions, 32, layout=layout), torch.zeros(1, 32, CONFIG.dim)
        q = encode_queries(attention.to_queries(still), (at.cos, at.sin), None, layout)[0]
        k = encode_keys(attention.to_keys(still).k, (at.cos, at.sin), None, layout)[0]
        return (q @ k.mT / 32**0.5).softmax(-1)[0, 0]

    assert int((weights().argmax(-1) == torch.arange(32)).sum()) < 32
    network.look_at_own_place()
    near = weights()
    assert torch.equal(near.argmax(-1), torch.arange(32))
    assert float(near.diagonal().mean()) > 3 / 32


def tokens(latent: list[int], gen: torch.Generator) -> MemoryTokens:
    n = len(latent)
    index = torch.tensor(latent, dtype=torch.int64)
    return MemoryTokens(
        torch.randn(n, 16, generator=gen), torch.randn(n, 3, generator=gen, dtype=torch.float64), index,
        torch.zeros(n, 2, dtype=torch.int64), torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool),
    )  # fmt: skip


def test_ragged_memory_is_padded_latent_by_latent(rng):
    first, second = tokens([1, 1, 3], rng), tokens([1, 2, 2, 3], rng)
    batch = MemoryBatch.pad([first, second], 16)
    assert batch.row.tolist() == [[1, 1, 2, 2, 3]] * 2
    assert batch.mask is not None
    assert batch.mask.tolist() == [[True, True, False, False, True], [True, False, True, True, True]]
    for entry, alone in zip((0, 1), (first, second)):
        assert torch.equal(batch.features[entry][batch.mask[entry]], alone.features)
        assert torch.equal(batch.positions[entry][batch.mask[entry]], alone.positions.float())
    assert MemoryBatch.pad([first, first], 16).mask is None
    empty = MemoryBatch.pad([tokens([], rng), tokens([], rng)], 16)
    assert len(empty) == 0 and empty.features.shape == (2, 0, 16)


def told(tokens: MemoryTokens, gen: torch.Generator, width: int = 6) -> MemoryTokens:
    return replace(tokens, subframes=torch.randn(len(tokens), width, generator=gen, dtype=torch.float64))


def test_subframes_are_padded_with_the_tokens_they_belong_to(rng):
    first, second = told(tokens([1, 1, 3], rng), rng), told(tokens([1, 2, 2, 3], rng), rng)
    batch = MemoryBatch.pad([first, second], 16)
    assert batch.subframes is not None and batch.subframes.shape == (2, 5, 6) and batch.mask is not None
    assert first.subframes is not None and second.subframes is not None
    for entry, alone in zip((0, 1), (first.subframes, second.subframes)):
        assert torch.equal(batch.subframes[entry][batch.mask[entry]], alone.float())
        assert not batch.subframes[entry][~batch.mask[entry]].any()
    dropped = MemoryBatch.pad([tokens([], rng), second], 16)  # memory of one sample is left out
    assert dropped.subframes is not None and torch.equal(dropped.subframes[1], second.subframes.float())
    assert not dropped.subframes[0].any()
    assert MemoryBatch.pad([tokens([1], rng), tokens([2], rng)], 16).subframes is None


SUB = replace(CONFIG, memory_subframes=6)


def test_subframes_start_at_nothing_and_matter_once_they_are_learned():
    """Bit for bit the network that does not read them, whatever they say; then every one of their numbers counts."""
    plain, x = random_transformer(), random_inputs()
    network = VideoTransformer(SUB).eval().requires_grad_(False)
    assert network.subframe_embedding is not None and plain.subframe_embedding is None
    assert set(network.state_dict()) - set(plain.state_dict()) == {
        "subframe_embedding.weight",
        "subframe_embedding.bias",
    }
    missing = network.load_state_dict(plain.state_dict(), strict=False)
    assert not missing.unexpected_keys
    shown = torch.randn(2, 10, 6, generator=torch.Generator().manual_seed(1))
    told = x.with_memory(subframes=shown)
    assert torch.equal(run(network, told), run(plain, x))
    assert torch.equal(run(plain, told), run(plain, x)), "a network that does not read them does not care"
    network.subframe_embedding.weight.normal_(generator=torch.Generator().manual_seed(2))
    moved = run(network, told)
    assert error(moved, run(plain, x)) > 1e-2
    assert torch.equal(run(network, x.with_memory(subframes=torch.zeros_like(shown))), run(plain, x))
    for n in range(6):
        other = shown.clone()
        other[:, :, n] += 1
        assert error(run(network, x.with_memory(subframes=other)), moved) > 1e-4, n
    assert torch.equal(run(network, x, memory=False), run(plain, x, memory=False))


def test_subframes_learn_from_their_zero_start():
    network, x = VideoTransformer(SUB), random_inputs()
    torch.nn.init.normal_(network.proj_out.weight)
    for block in network.blocks:
        torch.nn.init.normal_(block.attn1.to_out[0].weight)  # pyright: ignore
    run(network, x.with_memory(subframes=torch.ones(2, 10, 6))).square().mean().backward()
    assert network.subframe_embedding is not None and network.subframe_embedding.weight.grad is not None
    assert bool(network.subframe_embedding.weight.grad.any())


@pytest.mark.parametrize(("width", "message"), [(None, "bring 0 numbers"), (5, "bring 5 numbers"), (7, "bring 7")])
def test_memory_without_the_subframes_that_are_read_is_refused(width, message):
    network, x = VideoTransformer(SUB).requires_grad_(False), random_inputs()
    with pytest.raises(GeometryError, match=f"{message}.*this model reads 6"):
        run(network, x.with_memory(subframes=None if width is None else torch.zeros(2, 10, width)))
    with pytest.raises(jaxtyping.TypeCheckError, match="subframes"):
        x.with_memory(subframes=torch.zeros(2, 9, 6))
    empty = MemoryBatch(x.memory.features[:, :0], x.memory.positions[:, :0], x.memory.row[:, :0])
    none = run(network, x, memory=False)
    assert torch.equal(network(x.latents, x.timesteps, x.text, memory=empty, cameras=x.cameras), none)


def test_wrong_shapes_are_refused_where_they_enter():
    network, x = random_transformer(), random_inputs()
    with pytest.raises(jaxtyping.TypeCheckError, match="latents"):
        network(x.latents[:, :, 0], x.timesteps, x.text)
    with pytest.raises(jaxtyping.TypeCheckError, match="text"):
        network(x.latents, x.timesteps, x.text[:1])
    with pytest.raises(jaxtyping.TypeCheckError, match="positions"):
        MemoryBatch(x.memory.features, x.memory.positions[:, :5], x.memory.row)
    with pytest.raises(GeometryError, match="11x8 cells do not divide into tokens of 2x2"):
        network(x.latents[..., :11], x.timesteps, x.text)
    with pytest.raises(GeometryError, match=r"camera rows 0\.\.7"):
        run(network, x.with_memory(row=x.memory.row + 5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patch_size": (2, 2, 2)}, "one latent and a square"),
        ({"patch_size": (1, 2, 1)}, "one latent and a square"),
        ({"attention_head_dim": 31}, "even head size"),
        ({"num_layers": 0}, "at least one head"),
        ({"prediction": "noise"}, "prediction = 'noise': expected one of velocity, x0"),
        ({"qk_norm": None}, "qk_norm = None is not supported"),
        ({"prope_layout": "spiral"}, "expected one of fused, split, branch"),
    ],
)
def test_sizes_that_no_transformer_has_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        TransformerConfig.from_dict(values)


def test_a_configuration_survives_its_json():
    config = replace(CONFIG, prope_layout="split", prediction="x0", memory_subframes=6)
    assert TransformerConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TransformerConfig.from_dict({**CONFIG.to_dict(), "out_channels": None}) == CONFIG
