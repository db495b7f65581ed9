"""Rotary positions: Wan's table at integers, continuity between them, and what only relative positions can do."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.ops.cases import stock_rope

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.ops import reference
from mosaicmem.ops.rope import apply_rope, rope_cos_sin, split_bands

HEAD_DIMS = st.sampled_from([16, 24, 32, 48, 64, 96, 128])


def stock_tables(d: int, length: int = 1024) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The published tables: per band `outer(0..1023, omega)` with every frequency twice."""
    cos, sin = [], []
    for band in (d - 4 * (d // 6), 2 * (d // 6), 2 * (d // 6)):
        omega = 1.0 / 10000.0 ** (torch.arange(0, band, 2, dtype=torch.float64) / band)
        angle = torch.outer(torch.arange(length, dtype=torch.float64), omega)
        cos.append(angle.cos().repeat_interleave(2, 1).float())
        sin.append(angle.sin().repeat_interleave(2, 1).float())
    return cos, sin


@pytest.mark.parametrize(
    "d, bands",
    [(16, (8, 4, 4)), (24, (8, 8, 8)), (32, (12, 10, 10)), (64, (24, 20, 20)), (128, (44, 42, 42))],
)
def test_bands(d, bands):
    assert split_bands(d) == bands


@given(HEAD_DIMS, st.integers(0, 10_000))
def test_A5_integer_positions_give_the_stock_tables(d, seed):
    gen = torch.Generator().manual_seed(seed)
    pos = torch.randint(0, 1024, (7, 3), generator=gen)
    tables = stock_tables(d)
    for ours, table, column in zip(rope_cos_sin(pos.float(), d), tables, (0, 1), strict=True):
        stock = torch.cat([t[pos[:, axis], column::2] for axis, t in enumerate(table)], dim=-1)
        # float32 holds an angle of up to 1023 rad to 3e-5; positions of a real window stay below 128.
        bound = 1e-6 if int(pos.max()) < 16 else 6e-5
        assert (ours - stock).abs().max() < bound
        exact = rope_cos_sin(pos.double(), d)[column]
        assert (exact - stock).abs().max() < 1e-6


def test_A5_half_a_token_away_it_differs_and_it_gets_there_continuously():
    steps = torch.linspace(3, 4, 65, dtype=torch.float64)
    x = torch.randn(1, 1, 65, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)[:, :, :1]
    pos = torch.stack([torch.zeros(65).double(), steps, steps], -1)
    turned = apply_rope(x.expand(1, 1, 65, 32), *(a[None] for a in rope_cos_sin(pos, 32)))
    assert (turned[0, 0, 32] - turned[0, 0, 0]).abs().max() > 0.1
    # The fastest spatial frequency is 1 rad a token, so 1/64 token moves no vector by more than 1/64 of its length.
    assert turned[0, 0].diff(dim=0).norm(dim=-1).max() <= x.norm() / 64


@given(HEAD_DIMS, st.integers(1, 2), st.integers(1, 3), st.integers(0, 10_000), st.booleans())
def test_against_the_twin_with_gradients(d, b, heads, seed, inverse):
    gen = torch.Generator().manual_seed(seed)
    pos = torch.rand(b, 3, 3, generator=gen, dtype=torch.float64) * 60 - 20
    x = torch.randn(b, heads, 3, d, generator=gen, dtype=torch.float64, requires_grad=True)
    fast = apply_rope(x, *rope_cos_sin(pos, d), inverse=inverse)
    matrices = torch.stack([torch.stack([reference.rope_matrix(p, d) for p in row]) for row in pos])
    slow = torch.einsum("blij,bhlj->bhli", matrices.mT if inverse else matrices, x)
    assert (fast - slow).abs().max() < 1e-12
    cotangent = torch.randn(fast.shape, generator=gen, dtype=torch.float64)
    gradients = [torch.autograd.grad(y, x, cotangent, retain_graph=True)[0] for y in (fast, slow)]
    assert (gradients[0] - gradients[1]).abs().max() < 1e-12


@given(HEAD_DIMS, st.integers(0, 10_000))
def test_only_relative_positions_enter_a_logit_negative_ones_included(d, seed):
    gen = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 1, 1, 5, d, generator=gen, dtype=torch.float64)
    pos = torch.rand(2, 1, 5, 3, generator=gen, dtype=torch.float64) * 20
    shift = torch.tensor([-31.0, -17.25, 0.5], dtype=torch.float64)
    logits = [
        (apply_rope(q, *rope_cos_sin(pos[0] + s, d)) * apply_rope(k, *rope_cos_sin(pos[1] + s, d))).sum(-1)
        for s in (0 * shift, shift)
    ]
    assert (logits[0] - logits[1]).abs().max() < 1e-12
    at_home = (apply_rope(q, *rope_cos_sin(pos[0], d)) * apply_rope(k, *rope_cos_sin(pos[0], d))).sum(-1)
    assert (at_home - (q * k).sum(-1)).abs().max() < 1e-12


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("layout", ["contiguous", "heads behind tokens", "odd stride", "odd offset"])
def test_any_precision_and_memory_layout(dtype, bound, layout):
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 6, 32, generator=gen, dtype=torch.float64).to(dtype)
    pos = torch.rand(2, 6, 3, generator=gen, dtype=torch.float64) * 30
    if layout == "heads behind tokens":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    elif layout == "odd stride":
        x = torch.cat([x[..., :1], x], -1)[..., 1:]
    elif layout == "odd offset":
        x = torch.cat([x[..., :1], x, x[..., :1]], -1)[..., 1:-1]
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    ours = apply_rope(x, *rope_cos_sin(pos.to(wide), 32))
    assert ours.dtype == dtype
    assert (ours.double() - stock_rope(x, pos)).abs().max() < bound * float(x.abs().max())


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match="must be even"):
        split_bands(15)
    with pytest.raises(GeometryError, match="bfloat16"):
        rope_cos_sin(torch.zeros(4, 3, dtype=torch.bfloat16), 32)


def test_shapes_are_checked_at_the_door():
    with pytest.raises(Exception, match="Type-check error"):
        rope_cos_sin(torch.zeros(4, 2), 32)
