"""The table of `docs/operators.md`, row by row, and the laws of cameras that are no table row."""

from __future__ import annotations

import pytest
import torch
from tests.helpers import ROOT
from tests.ops.cases import LAYOUTS, SIZE, Case, error, intrinsics, rigid
from tests.ops.invariances import LAWS, camera_stream

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.geometry.se3 import invert_rigid
from mosaicmem.ops import reference
from mosaicmem.ops.prope import (
    TokenCameras,
    encode_keys,
    encode_queries,
    make_cameras,
    normalized_intrinsics,
    prope_attention,
    prope_streams,
)


def documented() -> dict[tuple[str, str], str]:
    """(law, layout) -> bound, from the table under "Invariances"."""
    text = (ROOT / "docs" / "operators.md").read_text().split("## Invariances")[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["law", *LAYOUTS]
    return {(row[0], layout): bound for row in rows[2:] for layout, bound in zip(LAYOUTS, row[1:], strict=True)}


def test_every_law_is_documented_and_every_row_is_a_law():
    assert {law for law, _ in documented()} == set(LAWS)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("law", LAWS)
def test_P1_to_P5_and_A2_as_documented(law, layout):
    relation, number = documented()[law, layout].split()
    measured = LAWS[law](layout)
    assert {"<": measured < float(number), ">": measured > float(number), "=": measured == float(number)}[relation], (
        f"{law}, {layout}: measured {measured:.2g}, documented {relation} {number}"
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_P6_a_copy_of_a_token_gets_the_self_logit(layout):
    case = Case.random(11)
    rope, cameras = case.rope(layout), case.cameras()
    queries = encode_queries(case.q, rope, cameras, layout)
    keys = encode_keys(case.q, rope, cameras, layout)  # the copy: the token's own feature, position and camera
    for q, k in zip(queries, keys, strict=True):
        raw = case.q.square().sum(-1)
        assert ((q * k).sum(-1) - raw).abs().max() < 1e-12 * raw.max()
        elsewhere = (q[:, :, :1] * k[:, :, 7:8]).sum(-1) - (case.q[:, :, :1] * case.q[:, :, 7:8]).sum(-1)
        assert elsewhere.abs().mean() > 1e-2


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("b, d, S", [(1, 32, 4), (2, 128, 4), (1, 64, 1)])
def test_W1_recentring_a_window_changes_nothing_in_float32(layout, b, d, S):
    case = Case.random(12, b=b, d=d, S=S).to(torch.float32)
    recentred = case.attend(layout, ref=case.viewmats[:, 1, 0])
    assert error(recentred, case.attend(layout)) < 1e-5
    other_scale = case.attend(layout, ref=case.viewmats[:, 1, 0], scale=3.0)
    assert error(other_scale, recentred) > 1e-2  # the control: a change of unit is no change of gauge


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recentring_is_what_keeps_bf16_usable(layout):
    case = Case.random(13, d=128)
    home = case.viewmats[:, 0, 0]

    def relative(offset: float, ref: bool) -> float:
        G = rigid(torch.Generator().manual_seed(3), offset=offset)
        moved = case.gauged(G)
        out = moved.to(torch.bfloat16).attend(layout, ref=home @ G if ref else None)
        return error(out, case.attend(layout))

    for offset in (0.0, 20.0, 200.0):
        assert relative(offset, ref=True) < 3e-2
    assert relative(20.0, ref=False) > 2 * relative(0.0, ref=True)
    assert relative(200.0, ref=False) > 0.1


def test_compressing_translations_breaks_the_gauge_unless_recentred_first():
    case = Case.random(14)

    def compressed(case: Case, recentre: bool):
        T = case.viewmats @ invert_rigid(case.viewmats[:, 0, 0])[:, None, None] if recentre else case.viewmats
        t = T[..., :3, 3]
        norm = t.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        T = T.clone()
        T[..., :3, 3] = t / norm * norm.log1p() / 4
        return case.attend("fused", cameras=make_cameras(T, case.Ks, case.size, row=case.row, dtype=torch.float64))

    moved = case.gauged(rigid(torch.Generator().manual_seed(3), offset=3.0))
    assert error(compressed(moved, True), compressed(case, True)) < 1e-12
    assert error(compressed(moved, False), compressed(case, False)) > 1e-2


def test_camera_logits_grow_with_the_baseline():
    largest = []
    for baseline in (0.1, 1.0, 10.0, 30.0):
        case = Case.random(15, d=128)
        viewmats = case.viewmats.clone()
        viewmats[..., :3, 3] *= baseline
        cameras = make_cameras(viewmats, None, SIZE, row=case.row, dtype=torch.float64)
        rope = case.rope("fused")
        normal = [torch.nn.functional.normalize(x, dim=-1) * 128**0.5 for x in (case.q, case.k)]  # QK-norm
        (q,), (k,) = encode_queries(normal[0], rope, cameras, "fused"), encode_keys(normal[1], rope, cameras, "fused")
        largest.append(float((q @ k.mT / 128**0.5).abs().max()))
    assert largest[1] < largest[2] < largest[3]
    assert largest[3] > 5 * largest[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_cameras_reach_the_output_through_the_values(layout):
    """With cameras on q and k only, one key alone gives its own value whatever its camera."""
    case = Case.random(16, rows=2, per_row=1)
    lone = Case(
        case.q[:, :, :1], case.k[:, :, :1], case.v[:, :, :1], case.pos[:, :1], case.viewmats, case.Ks, case.row[:, :1]
    )
    here = lone.cameras()
    assert error(camera_stream(lone, layout, here, values=False), lone.v) < 1e-12
    there = make_cameras(lone.viewmats, lone.Ks, lone.size, row=lone.row + 1, dtype=torch.float64)
    rope = lone.rope(layout)
    outs = [
        prope_streams(lone.q, lone.k, lone.v, here, cam, rope, rope, layout=layout)[1 if layout == "branch" else 0]
        for cam in (here, there)
    ]
    assert outs[0] is not None and outs[1] is not None
    assert error(outs[1], outs[0]) > 0.1


def test_normalised_intrinsics_are_in_image_sides_from_the_centre():
    K = torch.tensor([[300.0, 0, 320], [0, 310, 88], [0, 0, 1]], dtype=torch.float64)
    expected = torch.tensor([[300 / 640, 0, 0], [0, 310 / 352, 88 / 352 - 0.5], [0, 0, 1]], dtype=torch.float64)
    assert (normalized_intrinsics(K, SIZE) - expected).abs().max() < 1e-15


@pytest.mark.parametrize("with_K", [True, False])
def test_projections_and_inverses_against_a_general_solver(with_K):
    gen = torch.Generator().manual_seed(0)
    T, K = rigid(gen, 2, 3, 4, offset=2.0), intrinsics(gen, 2, 3, 4) if with_K else None
    ref, scale = rigid(gen, 2, offset=5.0), torch.tensor([2.0, 0.5])
    cameras = make_cameras(T, K, SIZE, ref, scale, dtype=torch.float64)
    for b, f, s in [(0, 0, 0), (1, 2, 3), (1, 0, 2)]:
        P = reference.projection(T[b, f, s], None if K is None else K[b, f, s], SIZE, ref[b], float(scale[b]))
        assert (cameras.P[b, f, s] - P).abs().max() < 1e-12
        assert (cameras.Pinv[b, f, s] - torch.linalg.inv(P)).abs().max() < 1e-12
    assert torch.equal(cameras.PT, cameras.P.mT)


def test_float32_cameras_are_composed_in_float64():
    """An offset of 1e4 units, recentred: the cast to float32 comes last, so nothing is lost."""
    gen = torch.Generator().manual_seed(0)
    T, K = rigid(gen, 1, 3, 1), intrinsics(gen, 1, 3, 1)
    far = T @ rigid(gen, offset=1e4)
    near, moved = (make_cameras(x, K, SIZE, x[:, 0, 0]) for x in (T, far))
    assert near.P.dtype == torch.float32
    assert (near.P - moved.P).abs().max() < 1e-6


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda T, K: (T * float("nan"), K, SIZE, 1.0), "NaN"),
        (lambda T, K: (2 * T, K, SIZE, 1.0), "no rotation"),
        (lambda T, K: (T, -K, SIZE, 1.0), "focal length"),
        (lambda T, K: (T, K, SIZE, 0.0), "scale must be positive"),
        (lambda T, K: (T, K, (0, 352), 1.0), "empty"),
    ],
)
def test_impossible_cameras_are_refused(change, message):
    gen = torch.Generator().manual_seed(0)
    T, K, size, scale = change(rigid(gen, 1, 2, 1), intrinsics(gen, 1, 2, 1))
    with pytest.raises(GeometryError, match=message):
        make_cameras(T, K, size, None, scale)


def test_rows_that_do_not_exist_and_heads_that_do_not_fit_are_refused():
    case = Case.random(0)
    with pytest.raises(GeometryError, match=r"rows 1\.\.3 asked for, but there are 3"):
        case.cameras().at(case.row + 1)
    with pytest.raises(ConfigError, match="multiple of 32, got 16"):
        Case.random(0, d=16).attend("fused")
    assert Case.random(0, d=16).attend("branch").isfinite().all()
    with pytest.raises(ConfigError, match="goes with layout 'branch'"):
        rope = case.rope("fused")
        prope_attention(case.q, case.k, case.v, None, None, rope, rope, layout="branch")


def test_cameras_concatenate():
    case = Case.random(0)
    both = TokenCameras.cat(case.cameras(), case.cameras())
    assert both.P.shape[1] == 6
    assert torch.equal(both.row, torch.cat([case.row, case.row + 3], 1))
    assert torch.equal(both.tokens(slice(15, 30)).row, case.row + 3)
    assert both.to("meta").P.device.type == both.to("meta").row.device.type == "meta"
