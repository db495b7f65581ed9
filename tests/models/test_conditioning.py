"""Laws of the two read-outs: what a mosaic becomes for a model."""

from dataclasses import replace

import pytest
import torch

from helpers import random_cameras
from mosaicmem.errors import ConfigError
from mosaicmem.geometry import se3
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.lifting import LiftingConfig, lift
from mosaicmem.memory.patches import Group
from mosaicmem.memory.retrieval import retrieve
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.conditioning import MemoryTokens, assemble, canvas, draw_probability

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
    for alignment in ("rope", "latent", "mixture"):
        tokens = assemble(store, mosaic, alignment, first_latent=3)
        assert len(tokens) == GRID.tokens_per_latent
        assert (tokens.latent == 3).all()
        torch.testing.assert_close(tokens.positions, _indices(tokens), rtol=0, atol=1e-9)
        torch.testing.assert_close(tokens.features, embedded, rtol=0, atol=1e-12)
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


def test_t2_the_mixture_is_a_fixed_checkerboard(rng):
    store = PatchStore.empty().insert(_keyframe(_camera(), _bumpy(rng)))
    mosaic = retrieve(store, Cameras.cat([_camera(), _camera()]), GRID)
    tokens = assemble(store, mosaic, "mixture", first_latent=1)
    assert torch.equal(tokens.warped_latent, (tokens.latent + tokens.target.sum(1)) % 2 == 0)
    again = assemble(store, mosaic, "mixture", first_latent=1)
    assert torch.equal(tokens.features, again.features)
    assert torch.equal(tokens.positions, again.positions)
    assert assemble(store, mosaic, "latent").warped_latent.all()
    assert not assemble(store, mosaic, "rope").warped_latent.any()


def test_t2_the_random_mixture_follows_its_probability(rng):
    store = PatchStore.empty().insert(_keyframe(_camera(), _bumpy(rng)))
    mosaic = retrieve(store, Cameras.cat([_camera()] * 20), GRID)
    for q in (0.0, 0.5, 1.0):
        tokens = assemble(store, mosaic, probability=q, generator=rng)
        share = float(tokens.warped_latent.double().mean())
        assert share == q if q != 0.5 else abs(share - q) < 0.1
    draws = [draw_probability(rng) for _ in range(2000)]
    for q, p in ((1.0, 0.25), (0.5, 0.5), (0.0, 0.25)):
        assert abs(draws.count(q) / 2000 - p) < 0.05


@pytest.mark.parametrize(
    "wrong",
    [
        {"probability": 1.5, "generator": torch.Generator()},
        {"probability": 0.5},
        {"probability": 0.5, "generator": torch.Generator(), "alignment": "rope"},
    ],
)
def test_contradicting_settings_are_refused(wrong):
    mosaic = retrieve(PatchStore.empty(), _camera(), GRID)
    with pytest.raises(ConfigError, match="random mixture"):
        assemble(PatchStore.empty(), mosaic, **wrong)


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
    assemble(store, mosaic, "mixture").features.sum().backward()
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad[:, :, 2:], torch.ones_like(latents)[:, :, 2:])
    assert not latents.grad[:, :, :2].any()
