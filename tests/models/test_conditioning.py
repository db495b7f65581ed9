"""Laws of the two read-outs: what a mosaic becomes for a model."""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch

from helpers import random_cameras
from mosaicmem.errors import GeometryError
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.lifting import LiftingConfig, lift
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.patches import Group
from mosaicmem.memory.retrieval import retrieve
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.conditioning import Alignment, MemoryTokens, assemble, canvas, draw_alignment, subframe_width
from mosaicmem.ops.latent_kernel import read_between

GRID = TokenGrid(48, 32, stride=4, patch=2)
PLAIN = LiftingConfig(flying_ratio=0, near=0)


def _camera(x: float = 0.0, z: float = 0.0, grid: TokenGrid = GRID) -> Cameras:
    """A camera at (x, 0, z) looking along +z, f = width."""
    viewmat = torch.eye(4, dtype=torch.float64)[None].clone()
    viewmat[0, 0, 3], viewmat[0, 2, 3] = -x, -z
    return Cameras.from_fov(viewmat, grid.width, grid.height)


def _keyframe(camera: Cameras, depth: torch.Tensor | float, seed: int = 0, grid: TokenGrid = GRID, **kwargs):
    latents = torch.randn(5, *grid.cells, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if not isinstance(depth, torch.Tensor):
        depth = torch.full((grid.height, grid.width), depth, dtype=torch.float64)
    return lift(latents, depth, camera, grid, config=PLAIN, frame=seed, time=float(seed), **kwargs)


def _bumpy(rng: torch.Generator) -> torch.Tensor:
    """Depth that varies smoothly by a few percent."""
    coarse = torch.rand(1, 1, 3, 4, generator=rng, dtype=torch.float64)
    size = (GRID.height, GRID.width)
    return 4 + 0.3 * torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")[0, 0]


def _indices(tokens: MemoryTokens) -> torch.Tensor:
    return torch.cat([tokens.latent[:, None], tokens.target], 1).double()


def test_g1_the_source_view_itself_gives_integer_addresses_and_the_stored_latent(rng):
    keyframe = _keyframe(_camera(), _bumpy(rng))
    store = PatchStore.empty().insert(keyframe)
    mosaic = retrieve(store, _camera(), GRID)
    picture, good = canvas(store, mosaic)
    assert good.all()
    torch.testing.assert_close(picture[0], keyframe.latents, rtol=0, atol=1e-12)
    embedded = torch.nn.functional.unfold(keyframe.latents[None], 2, stride=2)[0].T  # what a patch embedding reads
    alignments: tuple[Alignment, ...] = ("rope", "latent", "mixture")
    for alignment in alignments:
        tokens = assemble(store, mosaic, alignment, first_latent=3)
        assert len(tokens) == GRID.tokens_per_latent
        assert (tokens.latent == 3).all()
        torch.testing.assert_close(tokens.positions, _indices(tokens), rtol=0, atol=1e-9)
        row, column = tokens.target.unbind(1)
        torch.testing.assert_close(tokens.features, embedded[row * GRID.tokens[1] + column], rtol=0, atol=1e-12)
        assert torch.equal(tokens.camera_row, tokens.latent)
        assert not tokens.timesteps.any()


def test_features_are_in_the_order_of_a_patch_embedding(rng):
    keyframe = _keyframe(_camera(), 4.0)
    store = PatchStore.empty().insert(keyframe)
    embedding = torch.nn.Conv3d(5, 7, (1, 2, 2), stride=(1, 2, 2), bias=False).double()
    expected = embedding(keyframe.latents[None, :, None]).flatten(2)[0].T
    tokens = assemble(store, retrieve(store, _camera(), GRID), "rope")
    found = torch.nn.functional.linear(tokens.features, embedding.weight.flatten(1))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("pixels", "shift"), [(8.0, 1.0), (2.5, 0.3125)])
def test_g3_a_sideways_step_moves_every_address_by_f_b_over_d(pixels, shift):
    store = PatchStore.empty().insert(_keyframe(_camera(), 4.0))
    mosaic = retrieve(store, _camera(x=pixels * 4 / 48), GRID)
    tokens = assemble(store, mosaic, "rope")
    n = GRID.tokens[1]
    source = (tokens.positions[:, 2] + shift).round()
    torch.testing.assert_close(tokens.positions[:, 2], source - shift, rtol=0, atol=1e-9)
    torch.testing.assert_close(tokens.positions[:, 1], tokens.target[:, 0].double(), rtol=0, atol=1e-9)
    # nothing is clamped into view: what lands left of the image is gone
    assert float(tokens.positions[:, 2].min()) >= -0.5
    kept = sorted(int(s) for s in source[tokens.target[:, 0] == 0])
    assert kept == [p for p in range(n) if p - shift >= -0.5]


def test_a_whole_token_step_makes_the_gather_a_shift():
    keyframe = _keyframe(_camera(), 4.0)
    store = PatchStore.empty().insert(keyframe)
    mosaic = retrieve(store, _camera(x=8 * 4 / 48), GRID)
    picture, good = canvas(store, mosaic)
    assert torch.equal(good[0], torch.arange(12).expand(8, 12) < 10)
    torch.testing.assert_close(picture[0, :, :, :10], keyframe.latents[:, :, 2:], rtol=0, atol=1e-12)
    assert not picture[0, :, :, 10:].any()


def test_r7_both_read_outs_share_owner_and_target(rng):
    store = PatchStore.empty().insert(_keyframe(_camera(), 4.0)).insert(_keyframe(_camera(x=1.0), 4.0, seed=1))
    mosaic = retrieve(store, Cameras.cat([_camera(x=0.3), _camera(x=0.8, z=0.2)]), GRID)
    latent, rope, mixture = (assemble(store, mosaic, a) for a in ("latent", "rope", "mixture"))
    view, row, column = mosaic.covered.nonzero().unbind(1)
    assert torch.equal(_indices(latent), torch.stack([view, row, column], -1).double())
    assert set(latent.source.tolist()) == {0, 1}
    for tokens in (latent, rope, mixture):
        assert torch.equal(tokens.source, mosaic.owner[tokens.latent, tokens.target[:, 0], tokens.target[:, 1]])
        assert mosaic.covered[tokens.latent, tokens.target[:, 0], tokens.target[:, 1]].all()
    # a Warped RoPE token stays within a token of the place it stands for
    assert float((rope.positions - _indices(rope)).abs().max()) < 1


def test_each_patch_appears_once_in_a_latent_and_unchanged():
    keyframe = _keyframe(_camera(), 4.0)
    store = PatchStore.empty().insert(keyframe)
    mosaic = retrieve(store, _camera(z=2.0), GRID)  # every patch is magnified over several target tokens
    tokens = assemble(store, mosaic, "rope")
    embedded = torch.nn.functional.unfold(keyframe.latents[None], 2, stride=2)[0].T
    match = (tokens.features[:, None] == embedded[None]).all(-1)
    assert (match.sum(1) == 1).all()
    assert match.sum(0).max() == 1
    assert 0 < len(tokens) < len(assemble(store, mosaic, "latent"))


def _same(a: MemoryTokens, b: MemoryTokens) -> bool:
    return all(
        torch.equal(x, y) if isinstance(x := getattr(a, f.name), torch.Tensor) else x is y
        for f in fields(MemoryTokens)
        for y in [getattr(b, f.name)]
    )


def _two_views(rng: torch.Generator) -> tuple[PatchStore, Mosaic]:
    """Two keyframes, three views; partly covered, patches landing between tokens."""
    store = PatchStore.empty().insert(_keyframe(_camera(), _bumpy(rng))).insert(_keyframe(_camera(x=1.0), 4.0, seed=1))
    return store, retrieve(store, Cameras.cat([_camera(x=0.3), _camera(x=0.8, z=0.2), _camera(x=2.0)]), GRID)


def _with_holes(tokens: MemoryTokens, shown: Callable[[int], list[Mosaic]]) -> torch.Tensor:
    """Tokens of which a cell is a hole in any of the views that `shown` names for their latent."""
    return torch.tensor(
        [
            any(bool(view.holes[0, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].any()) for view in shown(latent))
            for latent, (r, c) in zip(tokens.latent.tolist(), tokens.target.tolist(), strict=True)
        ]
    )


def test_t2_the_mixture_is_warped_latent_everywhere_and_warped_rope_besides_where_that_has_holes(rng):
    store, mosaic = _two_views(rng)
    latent, rope, tokens = (assemble(store, mosaic, a, first_latent=1) for a in ("latent", "rope", "mixture"))
    assert 30 < len(rope) < len(latent) == int(mosaic.covered.sum())
    assert latent.warped_latent.all() and not rope.warped_latent.any()
    assert _same(tokens[tokens.warped_latent], latent)
    partly = _with_holes(rope, lambda latent: [mosaic[latent - 1]])
    assert 3 < int(partly.sum()) < len(rope) / 2
    assert _same(tokens[~tokens.warped_latent], rope[partly])
    assert _same(tokens, assemble(store, mosaic, "mixture", first_latent=1))
    # by target token, what was gathered before what was warped: latents lie together, as padding needs
    order = (_indices(tokens) @ torch.tensor([1e4, 1e2, 1]).double()) + 0.5 * ~tokens.warped_latent
    assert bool((order.diff() > 0).all())


def test_t2_a_hole_at_an_earlier_frame_is_a_hole_too(rng):
    store = PatchStore.empty().insert(_keyframe(_camera(), _bumpy(rng), grid=SUB))
    reference = retrieve(store, Cameras.cat([_camera(x=0.3), _camera(x=0.1)]), SUB)
    earlier = retrieve(store, Cameras.cat([_camera(x=x) for x in (1.2, 0.9, 0.6, 0.3, 0.2, 0.1)]), SUB)
    rope = assemble(store, reference, "rope", first_latent=1, subframes=earlier)
    tokens = assemble(store, reference, "mixture", first_latent=1, subframes=earlier)
    now = _with_holes(rope, lambda latent: [reference[latent - 1]])
    ever = now | _with_holes(rope, lambda latent: [earlier[3 * latent - 3 + k] for k in range(3)])
    assert int(now.sum()) < int(ever.sum()) < len(rope)
    assert _same(tokens[~tokens.warped_latent], rope[ever])


def test_t2_training_draws_what_generation_does_most_often(rng):
    draws = [draw_alignment(rng) for _ in range(4000)]
    for alignment, share in (("latent", 3 / 8), ("mixture", 4 / 8), ("rope", 1 / 8)):
        assert abs(draws.count(alignment) / 4000 - share) < 0.03
    again = [draw_alignment(torch.Generator().manual_seed(5)) for _ in range(3)]
    assert len(set(again)) == 1


# What memory shows at the raw frames before a reference frame.

SUB = replace(GRID, temporal=4)


def _frames_of(latents: int) -> Cameras:
    """Reference frame of each latent, then the three before each, by a camera that moves sideways and ahead."""
    at = [[_camera(x=0.2 * f, z=0.05 * f, grid=SUB) for f in range(4 * i + 1, 4 * i + 5)] for i in range(latents)]
    return Cameras.cat([four[-1] for four in at] + [c for four in at for c in four[:-1]])


@pytest.mark.parametrize("first", [0, 1])
def test_subframes_are_what_a_canvas_of_each_frame_shows(rng, first):
    """Number by number, from `canvas` of one frame at a time."""
    depth = _bumpy(rng)
    depth[:, 8:12] = depth[12:16, ::8] = 0  # holes within tokens
    store = PatchStore.empty().insert(_keyframe(_camera(), depth)).insert(_keyframe(_camera(x=1.2), 4.0, seed=1))
    views = retrieve(store, _frames_of(2), SUB)
    mosaic, earlier = views[:2], views[2:]
    tokens = assemble(store, mosaic, first_latent=first, subframes=earlier)
    told = tokens.subframes
    assert told is not None and told.shape == (len(tokens), subframe_width(5, SUB)) == (len(tokens), (3 * 6 + 1) * 4)
    shown = [canvas(store, retrieve(store, view, SUB)) for view in (_frames_of(2)[i] for i in range(8))]
    holes = 0
    for i in range(len(tokens)):
        l, (row, column) = int(tokens.latent[i]) - first, tokens.target[i].tolist()
        box = (slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
        expected = []
        for frame in (2 + 3 * l, 3 + 3 * l, 4 + 3 * l):
            picture, good = shown[frame]
            expected += [*picture[0, :, *box].flatten().tolist(), *good[0][box].double().flatten().tolist()]
            holes += int((~good[0][box]).sum())
        expected += shown[l][1][0][box].double().flatten().tolist()
        if tokens.warped_latent[i]:
            torch.testing.assert_close(told[i], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
        else:
            assert not told[i].any()
    assert holes > 0 and not tokens.warped_latent.all()
    for alignment in ("latent", "rope"):
        alone, plain = (assemble(store, mosaic, alignment, first_latent=first, subframes=x) for x in (earlier, None))
        assert plain.subframes is None
        assert _same(replace(alone, subframes=None), plain), "nothing else changes"
        chosen = told[tokens.warped_latent == (alignment == "latent")]
        assert alone.subframes is not None
        assert torch.equal(alone.subframes, chosen) if alignment == "latent" else not alone.subframes.any()


def test_subframes_of_a_camera_that_stands_still_repeat_the_features(rng):
    store = PatchStore.empty().insert(_keyframe(_camera(), 4.0))
    mosaic = retrieve(store, _camera(x=0.1), SUB)
    tokens = assemble(store, mosaic, "latent", subframes=mosaic[[0, 0, 0]])
    assert tokens.subframes is not None
    each = tokens.subframes[:, :-4].unflatten(1, (3, 6, 4))
    good = tokens.subframes[:, -4:]
    assert torch.equal(each[:, :, 5], good[:, None].expand(-1, 3, -1))
    features = tokens.features.unflatten(1, (5, 4))
    for frame in range(3):
        assert torch.equal(each[:, frame, :5], features * good[:, None]), "holes are 0 here, not repeated"
    picked = tokens[torch.tensor([3, 1])].subframes
    assert picked is not None and torch.equal(picked, tokens.subframes[[3, 1]])


@pytest.mark.parametrize("alignment", ["latent", "rope", "mixture"])
def test_a_token_is_as_old_as_the_keyframe_that_owns_it(alignment):
    """Two keyframes beside each other, seen at 0 and 1 s, in views at 3 s and, from before both, at -0.5 s."""
    store = PatchStore.empty().insert(_keyframe(_camera(), 4.0)).insert(_keyframe(_camera(x=3.0), 4.0, seed=1))
    mosaic = retrieve(store, Cameras.cat([_camera(x=1.5), _camera(x=2.0)]), GRID)
    tokens = assemble(store, mosaic, alignment, first_latent=1, times=torch.tensor([3.0, -0.5]).double())
    assert tokens.age is not None
    found = set(zip(tokens.latent.tolist(), tokens.source.tolist(), tokens.age.tolist(), strict=True))
    assert found == {(1, 0, 3.0), (1, 1, 2.0), (2, 0, -0.5), (2, 1, -1.5)}
    picked = tokens[torch.tensor([2, 0])].age
    assert picked is not None and torch.equal(picked, tokens.age[[2, 0]])
    assert assemble(store, mosaic, alignment).age is None
    with pytest.raises(GeometryError, match="3 times of 2 views"):
        assemble(store, mosaic, alignment, times=torch.zeros(3))


@pytest.mark.parametrize("count", [0, 2, 4, 5])
def test_another_number_of_earlier_frames_is_refused(count):
    store = PatchStore.empty().insert(_keyframe(_camera(), 4.0))
    mosaic = retrieve(store, _camera(), SUB)
    with pytest.raises(GeometryError, match=f"{count} earlier frames of 1 latents of 4 frames each"):
        assemble(store, mosaic, subframes=mosaic[[0] * count])


# Reading between cells with the kernel of an autoencoder.

SHARP = torch.randn(5, 5, 20, 5, generator=torch.Generator().manual_seed(8))


def test_the_kernel_is_used_where_all_four_cells_hold_content_and_nowhere_else(rng):
    depth = torch.full((32, 48), 4.0, dtype=torch.float64)
    depth[8:16, 20:24] = 0  # two unknown cells
    keyframe = _keyframe(_camera(), depth)
    store = PatchStore.empty().insert(keyframe)
    mosaic = retrieve(store, _camera(x=1.5 / 12), GRID)  # 1.5 pixels: 0.375 of a cell to the right
    plain, good = canvas(store, mosaic)
    sharp, good_too = canvas(store, mosaic, kernel=SHARP)
    assert torch.equal(good, good_too)
    cells = GRID.pixels_to_cells(mosaic.source_uv)
    read, known = read_between(keyframe.latents[None], keyframe.valid[None], mosaic.source, cells, SHARP)
    known &= good
    assert 0 < int((good & ~known).sum()) < int(known.sum())
    torch.testing.assert_close(sharp.permute(0, 2, 3, 1)[known], read[known])
    assert torch.equal(sharp.permute(0, 2, 3, 1)[~known], plain.permute(0, 2, 3, 1)[~known])
    assert bool((sharp != plain).any(1)[known].all())
    assert not sharp.permute(0, 2, 3, 1)[~good].any()
    for alignment in ("latent", "mixture"):
        tokens = assemble(store, mosaic, alignment, kernel=SHARP)
        blocks = torch.nn.functional.unfold(sharp, 2, stride=2)[0].T.unflatten(0, GRID.tokens)
        full = good[0].unflatten(1, (-1, 2)).unflatten(0, (-1, 2)).all(3).all(1)
        mine = tokens.warped_latent & full[tokens.target[:, 0], tokens.target[:, 1]]
        assert int(mine.sum()) > 20
        assert torch.equal(tokens.features[mine], blocks[tokens.target[mine, 0], tokens.target[mine, 1]])
    assert _same(assemble(store, mosaic, "rope", kernel=SHARP), assemble(store, mosaic, "rope")), "whole patches stay"


def test_holes_stay_empty_where_no_cell_around_lies_on_the_seen_surface(rng):
    """All four hold content, but of a depth that disagrees: not shown, with a kernel or without."""
    store = PatchStore.empty().insert(_keyframe(_camera(), _bumpy(rng)))
    mosaic = retrieve(store, _camera(x=0.3), GRID)
    strict = 1e-5
    plain, good = canvas(store, mosaic, strict)
    sharp, good_too = canvas(store, mosaic, strict, kernel=SHARP)
    assert torch.equal(good, good_too)
    assert int(((mosaic.source >= 0) & ~good).sum()) > 10 and int(good.sum()) > 10
    assert not sharp.permute(0, 2, 3, 1)[~good].any() and not plain.permute(0, 2, 3, 1)[~good].any()


def test_erased_content_never_leaks_through_the_kernel(rng):
    """What lies in deleted patches may be anything at all: not one number of any token changes."""
    keyframe = _keyframe(_camera(), 4.0)
    mask = torch.rand(GRID.tokens, generator=rng) < 0.6
    gone = ~mask.repeat_interleave(2, 0).repeat_interleave(2, 1)
    views = Cameras.cat([_camera(x=0.02 + 0.13 * i, z=0.1 * i, grid=SUB) for i in range(4)])
    found = []
    for poison in (None, 1e9, -1e30):
        latents = keyframe.latents if poison is None else torch.where(gone, poison, keyframe.latents)
        other = replace(keyframe, latents=latents)
        store = PatchStore.from_groups([Group(other, other.camera.c2w[0], mask, 0)])
        seen = retrieve(store, views, SUB)
        picture, _ = canvas(store, seen, kernel=SHARP)
        found.append((picture, assemble(store, seen[[3]], "latent", subframes=seen[:3], kernel=SHARP)))
    assert len(found[0][1]) > 10
    for picture, tokens in found[1:]:
        assert torch.equal(picture, found[0][0]) and _same(tokens, found[0][1])
    whole = PatchStore.empty().insert(keyframe)
    intact, _ = canvas(whole, retrieve(whole, views, SUB), kernel=SHARP)
    assert not torch.equal(intact, found[0][0]), "control: the content does show where it is not erased"


def test_no_memory_and_no_overlap_give_no_tokens():
    empty = PatchStore.empty()
    tokens = assemble(empty, retrieve(empty, _camera(), GRID))
    assert len(tokens) == 0
    picture, good = canvas(empty, retrieve(empty, _camera(), GRID))
    assert picture.shape == (1, 0, 8, 12)
    assert not good.any()
    store = empty.insert(_keyframe(_camera(), 4.0))
    away = Cameras(_camera().viewmats @ se3.translation(torch.tensor([99.0, 0, 0]).double()), _camera().Ks, 48, 32)
    tokens = assemble(store, retrieve(store, away, GRID))
    assert tokens.features.shape == (0, 5 * 4)


def test_g5_the_world_frame_and_the_unit_of_length_do_not_matter(rng):
    depth, eyes = _bumpy(rng), [_camera(), _camera(x=0.7)]
    target = Cameras.cat([_camera(x=0.31, z=0.17), _camera(x=0.52, z=-0.2)])
    G = random_cameras(1, rng).viewmats[0]

    def tokens(world_from_new: torch.Tensor, unit: float) -> MemoryTokens:
        def moved(camera: Cameras) -> Cameras:
            return replace(camera, viewmats=camera.viewmats @ world_from_new).scaled(unit)

        store = PatchStore.empty()
        for i, eye in enumerate(eyes):
            store = store.insert(_keyframe(moved(eye), depth * unit, seed=i))
        return assemble(store, retrieve(store, moved(target), GRID))

    base = tokens(torch.eye(4, dtype=torch.float64), 1.0)
    assert len(base) > 20
    eye = torch.eye(4, dtype=torch.float64)
    for other in (tokens(G, 1.0), tokens(eye, 7.3), tokens(eye, 0.1)):
        assert torch.equal(_indices(base), _indices(other))
        torch.testing.assert_close(base.positions, other.positions, rtol=0, atol=1e-9)
        torch.testing.assert_close(base.features, other.features, rtol=0, atol=1e-9)


def test_deleted_patches_give_no_token_of_either_kind():
    keyframe = _keyframe(_camera(), 4.0)
    mask = torch.ones(GRID.tokens, dtype=torch.bool)
    mask[1:3, 2:4] = False
    group = Group(keyframe, keyframe.camera.c2w[0], mask, 0)
    store = PatchStore.from_groups([group])
    mosaic = retrieve(store, _camera(x=2.5 * 4 / 48), GRID)
    embedded = torch.nn.functional.unfold(keyframe.latents[None], 2, stride=2)[0].T.unflatten(0, GRID.tokens)
    tokens = assemble(store, mosaic, "rope")
    assert len(tokens) > 0
    assert not (tokens.features[:, None] == embedded[~mask][None]).all(-1).any()
    # with the mask gone the same patches do appear
    intact = PatchStore.empty().insert(keyframe)
    whole = assemble(intact, retrieve(intact, _camera(x=2.5 * 4 / 48), GRID), "rope")
    assert (whole.features[:, None] == embedded[~mask][None]).all(-1).any()


def test_a_deleted_patch_stays_away_where_magnified_neighbours_are_read_beside_it():
    """At three times the size a whole target token can read just inside the corner of a patch that is gone."""
    keyframe = _keyframe(_camera(), 4.0)
    mask = torch.ones(GRID.tokens, dtype=torch.bool)
    mask[::2, ::2] = False
    store = PatchStore.from_groups([Group(keyframe, keyframe.camera.c2w[0], mask, 0)])
    embedded = torch.nn.functional.unfold(keyframe.latents[None], 2, stride=2)[0].T.unflatten(0, GRID.tokens)
    for step in torch.arange(0, 1, 0.03).tolist():  # in source cells, along both axes
        viewmat = _camera(z=8 / 3).viewmats.clone()
        viewmat[0, :2, 3] = -step * 4 * 4 / 48
        tokens = assemble(store, retrieve(store, replace(_camera(), viewmats=viewmat), GRID), "rope")
        assert not (tokens.features[:, None] == embedded[~mask][None]).all(-1).any()


def test_patches_of_a_slanted_wall_land_exactly():
    """Inverse depth is linear over the image of a plane, so the centre of every patch has a closed form."""
    uv = torch.stack(torch.meshgrid(torch.arange(48) + 0.5, torch.arange(32) + 0.5, indexing="xy"), -1).double()

    def depth_at(uv: torch.Tensor) -> torch.Tensor:
        return 1 / (0.2 + 0.003 * uv[..., 0] + 0.002 * uv[..., 1])

    # a cell takes the depth of one pixel: shift the plane so that this pixel's centre stands for the cell's
    keyframe = _keyframe(_camera(), depth_at(uv - 0.5))
    store = PatchStore.empty().insert(keyframe)
    target = _camera(x=0.3, z=0.1)
    tokens = assemble(store, retrieve(store, target, GRID), "rope")
    embedded = torch.nn.functional.unfold(keyframe.latents[None], 2, stride=2)[0].T
    patch = (tokens.features[:, None] == embedded[None]).all(-1).long().argmax(1)
    center = GRID.token_centers(torch.float64).flatten(0, 1)[patch]
    points = keyframe.camera.unproject(center[None], depth_at(center)[None])
    landed, _, _ = target.project(points)
    assert len(tokens) > 15
    torch.testing.assert_close(tokens.positions[:, 1:], GRID.pixels_to_tokens(landed[0]).flip(-1), rtol=0, atol=1e-9)


def test_partly_served_tokens_repeat_their_nearest_good_cell():
    depth = torch.full((32, 48), 4.0, dtype=torch.float64)
    depth[:, 4:8] = 0  # the second cell column of token column 0 is unknown
    keyframe = _keyframe(_camera(), depth)
    store = PatchStore.empty().insert(keyframe)
    mosaic = retrieve(store, _camera(), GRID)
    picture, good = canvas(store, mosaic)
    assert not good[0, :, 1].any()
    assert not picture[0, :, :, 1].any()
    tokens = assemble(store, mosaic, "latent")
    first = tokens.features[(tokens.target[:, 1] == 0)].unflatten(1, (5, 2, 2))
    assert len(first) == GRID.tokens[0]
    assert torch.equal(first[..., 1], first[..., 0])


def test_keyframes_of_other_image_sizes_are_read_too():
    small = TokenGrid(24, 16, stride=4, patch=2)
    keyframe = _keyframe(_camera(grid=small), 4.0, grid=small)
    store = PatchStore.empty().insert(keyframe).insert(_keyframe(_camera(x=20.0), 4.0, seed=1))
    mosaic = retrieve(store, Cameras.cat([_camera(), _camera(x=20.0)]), GRID)
    picture, good = canvas(store, mosaic)
    assert good.float().mean() > 0.8
    assert float(picture[0].abs().max()) <= float(keyframe.latents.abs().max())
    assert set(assemble(store, mosaic, "rope").source.tolist()) == {0, 1}


def test_gradients_reach_the_stored_latents_and_only_where_they_were_read():
    keyframe = _keyframe(_camera(), 4.0)
    latents = keyframe.latents.clone().requires_grad_()
    store = PatchStore.empty().insert(replace(keyframe, latents=latents))
    mosaic = retrieve(store, _camera(x=8 * 4 / 48), GRID)
    for alignment in ("latent", "rope"):
        (grad,) = torch.autograd.grad(assemble(store, mosaic, alignment).features.sum(), latents)
        torch.testing.assert_close(grad[:, :, 2:], torch.ones_like(latents)[:, :, 2:])
        assert not grad[:, :, :2].any(), "out of view"
