"""PRoPE against its twin over many shapes; padding, several key sets, and caches that outlive a change of gauge."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.cases import LAYOUTS, Case, error, rigid, stock_attention

from mosaicmem.errors import ConfigError
from mosaicmem.ops import reference
from mosaicmem.ops._sdpa import masked_attention
from mosaicmem.ops.attention import KeyValues, Placement, attend, place
from mosaicmem.ops.prope import TokenCameras, camera_map, prope_attention


def dense(case: Case, cameras: TokenCameras) -> torch.Tensor:
    """`P` of every token, `[b L S 4 4]`."""
    return torch.stack([P[row] for P, row in zip(cameras.P, case.row, strict=True)])


def placement(case: Case, layout, **options) -> Placement:
    return place(
        case.pos.to(case.q.dtype),
        case.q.shape[-1],
        cameras=case.cameras(case.q.dtype, **options),
        layout=layout,
    )


def run(case: Case, layout, keys, at: Placement | None = None) -> torch.Tensor:
    here = placement(case, layout) if at is None else at
    return attend(case.q, here, keys, layout=layout, to_out_prope=(lambda x: x) if layout == "branch" else None)


@settings(max_examples=16)
@given(
    st.sampled_from(LAYOUTS),
    st.sampled_from([(16, 1), (24, 1), (32, 4), (48, 1), (64, 4), (128, 4)]),
    st.integers(1, 2),
    st.integers(1, 2),
    st.sampled_from([(1, 1), (2, 2), (1, 5), (4, 1)]),
    st.booleans(),
    st.integers(0, 10_000),
)
def test_against_the_twin_with_gradients(layout, d_S, b, heads, rows, masked, seed):
    d, S = d_S
    case = Case.random(seed, b=b, heads=heads, d=d, S=S, rows=rows[0], per_row=rows[1])
    gen = torch.Generator().manual_seed(seed)
    L = case.q.shape[2]
    mask = torch.rand(b, L, generator=gen) < 0.7 if masked else None
    W = torch.randn(heads * d, heads * d, generator=gen, dtype=torch.float64) / (heads * d) ** 0.5
    features = [x.requires_grad_() for x in (case.q, case.k, case.v)]
    fast = case.attend(layout, key_mask=mask, out=lambda x: x @ W.T)
    P = dense(case, case.cameras())
    slow = reference.prope_attention(
        case.q, case.k, case.v, P, P, case.pos, case.pos, layout, mask, W if layout == "branch" else None
    )
    assert (fast - slow).abs().max() < 1e-10 * max(1.0, float(slow.detach().abs().max()))
    cotangent = torch.randn(fast.shape, generator=gen, dtype=torch.float64)
    gradients = [torch.autograd.grad(y, features, cotangent, allow_unused=True) for y in (fast, slow)]
    for ours, twin in zip(*gradients, strict=True):
        ours, twin = (torch.zeros(()) if g is None else g for g in (ours, twin))
        assert (ours - twin).abs().max() < 1e-9 * max(1.0, float(twin.abs().max()))


@given(st.sampled_from([("fused", 8), ("split", 4), ("branch", 4)]), st.sampled_from([1, 4]), st.integers(0, 10_000))
def test_neighbours_that_share_a_camera_are_mapped_like_tokens_that_do_not(layout_unit, S, seed):
    """Per-image and per-token forms are one: whole runs by one product, scattered rows by gathered matrices."""
    layout, unit = layout_unit
    gen = torch.Generator().manual_seed(seed)
    case = Case.random(seed, d=unit * S * 2, S=S, rows=3, per_row=8)
    order = torch.randperm(24, generator=gen)
    cameras = case.cameras()
    scattered = cameras.at(case.row[:, order])
    assert len(scattered.runs[0]) > 6 >= len(cameras.runs[0])
    together = camera_map(case.q, cameras, cameras.P, layout)
    apart = camera_map(case.q[:, :, order], scattered, scattered.P, layout)
    assert (together[:, :, order] - apart).abs().max() < 1e-12
    repeated = replace(case, row=torch.arange(24).expand(2, 24).contiguous())
    per_token = [torch.stack([x[r] for x, r in zip(y, case.row, strict=True)]) for y in (case.viewmats, case.Ks)]
    repeated = replace(repeated, viewmats=per_token[0], Ks=per_token[1])
    assert (camera_map(case.q, repeated.cameras(), repeated.cameras().P, layout) - together).abs().max() < 1e-12


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_precisions_agree(layout, dtype, bound):
    case = Case.random(1, d=64)
    assert case.to(dtype).attend(layout).dtype == dtype
    assert error(case.to(dtype).attend(layout), case.attend(layout)) < bound


def test_without_cameras_it_is_the_stock_attention():
    case = Case.random(2, d=24)
    assert error(case.attend("fused", cameras=None), stock_attention(case)) < 1e-12


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("poison", [1e4, float("nan"), float("inf")])
def test_A1_padded_keys_never_matter(layout, poison):
    case = Case.random(3).to(torch.float32)
    keep = 11
    mask = torch.arange(15).expand(2, 15) < keep
    spoilt = replace(
        case, **{n: torch.where(mask[:, None, :, None], getattr(case, n), poison) for n in ("q", "k", "v")}
    )
    short = replace(
        case, q=case.q[:, :, :keep], k=case.k[:, :, :keep], v=case.v[:, :, :keep],
        pos=case.pos[:, :keep], row=case.row[:, :keep],
    )  # fmt: skip
    padded = spoilt.attend(layout, key_mask=mask)[:, :, :keep]
    assert error(padded, short.attend(layout)) < 1e-6
    unmasked = replace(spoilt, q=case.q).attend(layout)[:, :, :keep]
    assert not error(unmasked, short.attend(layout)) < 1e-2  # the control: without the mask they do matter


def test_padding_spoils_no_gradient():
    case = Case.random(3)
    mask = torch.arange(15).expand(2, 15) < 9
    features = [torch.where(mask[:, None, :, None], x, torch.nan).requires_grad_() for x in (case.k, case.v)]
    out = masked_attention(case.q, features[0], features[1], mask)
    for gradient in torch.autograd.grad(out.sum(), features):
        assert gradient.isfinite().all()
        assert (gradient[:, :, 9:] == 0).all()


def test_a_batch_entry_without_any_key_gives_zeros():
    q, k, v = torch.randn(3, 2, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True] * 4, [False] * 4])
    out = masked_attention(q, k, v, mask)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert error(out[:1], masked_attention(q[:1], k[:1], v[:1])) < 1e-6
    assert torch.equal(masked_attention(q, k[:, :, :0], v[:, :, :0]), torch.zeros_like(q))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_A1_no_memory_is_bit_identical(layout):
    case = Case.random(4).to(torch.float32)
    own, at = KeyValues(case.k, case.v), placement(case, layout)
    alone = run(case, layout, [(own, at)])
    # Memory for a batch comes with a mask, also when there is none of it.
    masked = replace(at, mask=torch.ones(2, 15, dtype=torch.bool))
    empty = (own.tokens(slice(0, 0)), masked.tokens(slice(0, 0)))
    assert torch.equal(run(case, layout, [empty, (own, at), empty]), alone)
    some = (own.tokens(slice(0, 3)), at.tokens(slice(3, 6)))
    assert error(run(case, layout, [some, (own, at)]), alone) > 1e-2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_A2_the_order_of_memory_does_not_matter(layout, dtype, bound):
    case, memory = Case.random(5).to(dtype), Case.random(6).to(dtype)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    mixed = replace(memory, k=memory.k[:, :, order], v=memory.v[:, :, order], pos=memory.pos[:, order],
                    row=memory.row[:, order])  # fmt: skip
    own = (KeyValues(case.k, case.v), placement(case, layout))
    first = (KeyValues(memory.k, memory.v), placement(memory, layout))
    second = (KeyValues(mixed.k, mixed.v), placement(mixed, layout))
    expected = run(case, layout, [own, first])
    assert error(run(case, layout, [own, second]), expected) < bound
    assert error(run(case, layout, [first, own]), expected) < bound


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ragged_memory_padded_to_the_batch_equals_each_entry_alone(layout):
    case, memory = Case.random(7), Case.random(8)
    counts = [4, 9]
    mask = torch.arange(15) < torch.tensor(counts)[:, None]
    own = (KeyValues(case.k, case.v), placement(case, layout))
    padded = (KeyValues(memory.k, memory.v), replace(placement(memory, layout), mask=mask))
    together = run(case, layout, [own, padded])
    for b, count in enumerate(counts):
        one, mem = (replace(c, **{n: getattr(c, n)[b : b + 1] for n in ("q", "k", "v", "pos", "viewmats", "Ks", "row")})
                    for c in (case, memory))  # fmt: skip
        keys = [
            (KeyValues(one.k, one.v), placement(one, layout)),
            (KeyValues(mem.k, mem.v).tokens(slice(count)), placement(mem, layout).tokens(slice(count))),
        ]
        assert error(together[b : b + 1], run(one, layout, keys)) < 1e-12


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_a_raw_cache_survives_recentring_and_a_shift_of_time(layout, dtype, bound):
    case, past = Case.random(9).to(dtype), Case.random(10).to(dtype)
    cache = KeyValues.cat(KeyValues(past.k, past.v).tokens(slice(0, 7)), KeyValues(past.k, past.v).tokens(slice(7, 15)))

    def out(G: torch.Tensor, shift: float) -> torch.Tensor:
        moved = [c.gauged(G) for c in (case, past)]
        if layout != "fused":  # fused is not invariant to shifts: P3
            moved = [replace(c, pos=c.pos + torch.tensor([shift, 0, 0])) for c in moved]
        now, then = moved
        own = (KeyValues(now.k, now.v), placement(now, layout))
        return run(now, layout, [(cache, placement(then, layout)), own], placement(now, layout))

    assert error(out(rigid(torch.Generator().manual_seed(2)), -3.0), out(torch.eye(4).double(), 0.0)) < bound


def test_key_sets_that_contradict_themselves_are_refused():
    case = Case.random(0)
    own, at = KeyValues(case.k, case.v), placement(case, "fused")
    with pytest.raises(ConfigError, match="holds 14 tokens but its placement 15"):
        attend(case.q, at, [(own.tokens(slice(14)), at)])
    with pytest.raises(ConfigError, match="at least one key set"):
        attend(case.q, at, [])
    with pytest.raises(ConfigError, match="some have none"):
        attend(case.q, at, [(own, at), (own, replace(at, cameras=None))])


def test_branch_adds_its_second_stream_through_the_given_map():
    case = Case.random(0)
    rope, cameras = case.rope("branch"), case.cameras()
    linear = torch.nn.Linear(64, 64, dtype=torch.float64)
    outs = []
    for weight in (0.0, 1.0, 2.0):
        torch.nn.init.eye_(linear.weight).data.mul_(weight)
        torch.nn.init.zeros_(linear.bias)
        outs.append(
            prope_attention(case.q, case.k, case.v, cameras, cameras, rope, rope, layout="branch", to_out_prope=linear)
        )
    assert torch.equal(outs[0], case.attend("fused", cameras=None))
    assert error(outs[2] - outs[1], outs[1] - outs[0]) < 1e-12
