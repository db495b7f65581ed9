"""An edit moves what is rendered; undo is the old value; nothing else changes (laws E1 to E3)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import random_rotations
from tests.memory.scenes import F64, GRID, camera, keyframe, random_room_cameras, room_depth

from mosaicmem.apps.cli.export_ply import store_points
from mosaicmem.errors import GeometryError
from mosaicmem.geometry.se3 import make_transform, translation
from mosaicmem.memory import Keyframe, PatchStore, retrieve
from mosaicmem.memory.editing import (
    Selection,
    as_it_was,
    box,
    doorway_transform,
    duplicate,
    erase,
    everything,
    freeze,
    holds,
    layout_transform,
    mirror,
    move,
    rotate,
    rotation_about,
    scale,
    sphere,
    splice,
    transform,
)
from mosaicmem.models.conditioning import assemble, canvas
from mosaicmem.models.synthetic import PixelShuffleVAE


def room(n: int = 4, seed: int = 0) -> PatchStore:
    store = PatchStore.empty()
    for i, c in enumerate(random_room_cameras(n, seed)):
        store = store.insert(keyframe(room_depth(c), c, frame=i))
    return store


def rigid(seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return make_transform(random_rotations(1, g), torch.randn(1, 3, generator=g, dtype=F64))[0]


@settings(max_examples=8)
@given(st.integers(0, 1000))
def test_E1_moving_memory_and_view_together_changes_nothing(seed: int) -> None:
    store, view, G = room(), random_room_cameras(1, seed + 5), rigid(seed)
    before = retrieve(store, view, GRID)
    moved_view = type(view)(view.viewmats @ torch.linalg.inv(G), view.Ks, view.width, view.height)
    after = retrieve(transform(store, everything, G), moved_view, GRID)
    assert torch.equal(before.source, after.source)
    torch.testing.assert_close(before.source_uv, after.source_uv, rtol=0, atol=1e-6)
    back = retrieve(transform(transform(store, everything, G), everything, torch.linalg.inv(G)), view, GRID)
    assert torch.equal(before.source, back.source)
    torch.testing.assert_close(before.source_uv, back.source_uv, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("dx", "depth", "pixels"), [(0.5, 5.0, 10.0), (0.16, 4.0, 4.0), (-0.5, 5.0, -10.0)])
def test_E2_G29_a_move_shifts_the_picture(dx: float, depth: float, pixels: float) -> None:
    store = PatchStore.empty().insert(keyframe(depth, camera()))
    moved = transform(store, everything, translation(torch.tensor([dx, 0, 0], dtype=F64)))
    mosaic = retrieve(moved, camera(), GRID)
    shift = GRID.cell_centers(F64) - mosaic.source_uv[0]
    assert float((shift[..., 0] - pixels)[mosaic.good[0]].abs().max()) < 1e-9
    torch.testing.assert_close(moved.centers, store.centers + torch.tensor([dx, 0, 0]))


def test_E3_erased_patches_are_never_read_again() -> None:
    store = room(6)
    region = sphere(torch.tensor([1.0, 0.0, 0.8]), 1.0)
    rest = erase(store, region)
    assert 0 < rest.num_patches < store.num_patches
    assert not bool(region(rest).any())
    assert sorted(map(tuple, rest.centers.tolist())) == sorted(map(tuple, store.centers[~region(store)].tolist()))
    assert rest.num_patches + int(region(store).sum()) == store.num_patches
    assert len(erase(store, everything)) == 0


def test_G14_erasing_a_sphere_keeps_384_of_512_tiles() -> None:
    from tests.helpers import bowl_depth, circle32

    from mosaicmem.geometry.token_grid import TokenGrid
    from mosaicmem.memory import lift

    grid = TokenGrid(64, 64, stride=8, patch=2)
    cameras, store = circle32(F64), PatchStore.empty()
    for i in range(32):
        store = store.insert(lift(torch.zeros(1, 8, 8), bowl_depth(dtype=F64), cameras[i], grid, frame=i))
    assert store.num_patches == 512
    assert erase(store, sphere(torch.zeros(3), 2.0)).num_patches == 384


def test_E3_a_duplicate_shows_twice_and_shares_its_latents() -> None:
    k = keyframe(4.0, camera())
    store = PatchStore.empty().insert(k)
    twin = duplicate(store, everything, translation(torch.tensor([0, 0, -1.0], dtype=F64)))
    assert len(twin) == 2 and twin.group(1).keyframe is k
    assert bool((retrieve(twin, camera(), GRID).source == 1).all()), "the copy stands in front"
    assert torch.equal(
        retrieve(erase(twin, box(torch.tensor([-9.0, -9, 2.5]), torch.tensor([9.0, 9, 3.5]))), camera(), GRID).source[
            0
        ],
        torch.zeros(GRID.cells, dtype=torch.int64),
    )


def test_E3_the_old_store_is_the_undo() -> None:
    store = room()
    bits = (store.centers.clone(), [g.world_from_cam.clone() for g in store])
    for edited in (
        erase(store, sphere(torch.zeros(3), 2)),
        transform(store, everything, rigid(1)),
        mirror(store, torch.tensor([1.0, 0, 0]), torch.zeros(3)),
    ):
        assert edited.num_patches <= store.num_patches
    assert torch.equal(store.centers, bits[0])
    assert all(torch.equal(g.world_from_cam, A) for g, A in zip(store, bits[1]))


def test_a_part_moves_and_the_rest_stays() -> None:
    store = room(5)
    region = box(torch.tensor([0.6, -2, 0.6]), torch.tensor([1.5, 2, 1.5]))
    chosen = region(store)
    moved = transform(store, region, translation(torch.tensor([-1.0, 0, 0], dtype=F64)))
    assert moved.num_patches == store.num_patches
    expected = torch.where(chosen[:, None], store.centers + torch.tensor([-1.0, 0, 0]), store.centers)
    key = lambda x: sorted(tuple(round(v, 4) for v in row) for row in x.tolist())  # noqa: E731
    assert key(moved.centers) == key(expected)


def test_scaling_about_the_eye_changes_depth_but_not_the_picture() -> None:
    view = random_room_cameras(1, 3)
    store = PatchStore.empty().insert(keyframe(room_depth(view), view))
    c = view.centers[0]
    G = translation(c) @ torch.diag(torch.tensor([2.0, 2, 2, 1], dtype=F64)) @ translation(-c)
    before, after = retrieve(store, view, GRID), retrieve(transform(store, everything, G), view, GRID)
    torch.testing.assert_close(before.source_uv, after.source_uv, rtol=0, atol=1e-9)
    torch.testing.assert_close(after.depth, 2 * before.depth)


def test_a_mirror_shows_the_flipped_picture_and_twice_is_nothing() -> None:
    view = camera(f=90.0)
    depth = room_depth(random_room_cameras(1, 2))
    store = PatchStore.empty().insert(keyframe(depth, view))
    flipped = mirror(store, torch.tensor([1.0, 0, 0]), torch.zeros(3))
    straight, mosaic = retrieve(store, view, GRID), retrieve(flipped, view, GRID)
    assert torch.equal(mosaic.good[0], straight.good[0].flip(-1))
    torch.testing.assert_close(mosaic.depth[0], straight.depth[0].flip(-1))
    torch.testing.assert_close(flipped.group(0).keyframe.latents, store.group(0).keyframe.latents.flip(-1))
    assert float(torch.det(flipped.group(0).world_from_cam)) == pytest.approx(1.0)
    torch.testing.assert_close(flipped.centers[:, 1:].sort(0).values, store.centers[:, 1:].sort(0).values)
    twice = mirror(flipped, torch.tensor([1.0, 0, 0]), torch.zeros(3))
    torch.testing.assert_close(twice.centers, store.centers)


@pytest.mark.parametrize("normal", [[0.0, 0, 0], [float("nan"), 0, 1], [float("inf"), 0, 0]])
def test_a_mirror_without_a_plane_is_refused(normal: list[float]) -> None:
    """It would flip the tiles and reflect nothing: a left-handed world."""
    store = PatchStore.empty().insert(keyframe(5.0, camera()))
    with pytest.raises(GeometryError, match="normal"):
        mirror(store, torch.tensor(normal), torch.zeros(3))
    with pytest.raises(GeometryError, match="point"):
        mirror(store, torch.tensor([1.0, 0, 0]), torch.tensor([float("nan"), 0, 0]))
    tiny = mirror(store, torch.tensor([1e-30, 0, 0], dtype=F64), torch.zeros(3))
    assert torch.equal(tiny.centers, mirror(store, torch.tensor([1.0, 0, 0]), torch.zeros(3)).centers)


@pytest.mark.parametrize("length", [1e-30, 1.0, 1e30])
def test_an_axis_may_have_any_length(length: float) -> None:
    axis, about = torch.tensor([0.0, 0.6, 0.8], dtype=F64), torch.tensor([1.0, 2, 3])
    torch.testing.assert_close(rotation_about(length * axis, 70.0, about), rotation_about(axis, 70.0, about))


@pytest.mark.parametrize("far", [1e39, 1e300])
def test_what_a_float32_cannot_place_is_refused(far: float) -> None:
    store = PatchStore.empty().insert(keyframe(5.0, camera()))
    with pytest.raises(GeometryError, match="group 0: its patches lie farther away"):
        move(store, everything, torch.tensor([far, 0, 0], dtype=F64))
    assert move(store, everything, torch.tensor([1e30, 0, 0], dtype=F64)).centers.isfinite().all()


def test_splice_keeps_both_and_renumbers() -> None:
    a, b = room(2), room(3, seed=9)
    for layout, axis in (("horizontal", 0), ("vertical", 1)):
        joined = splice(a, b, layout_transform(a.centers, b.centers, layout, 1.0))
        assert joined.num_patches == a.num_patches + b.num_patches
        assert len({g.uid for g in joined}) == 5
        mine, theirs = joined.centers[: a.num_patches, axis], joined.centers[a.num_patches :, axis]
        gap = theirs.min() - mine.max() if axis == 0 else mine.min() - theirs.max()
        assert float(gap) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    "bad", [torch.diag(torch.tensor([-1.0, 1, 1, 1])), torch.diag(torch.tensor([1.0, 2, 1, 1])), torch.zeros(4, 4)]
)
def test_what_is_no_similarity_is_refused(bad: torch.Tensor) -> None:
    with pytest.raises(GeometryError, match="neither"):
        transform(room(1), everything, bad)


def test_move_rotate_and_scale_are_what_they_say() -> None:
    store, about = room(2), torch.tensor([0.3, -0.2, 0.5])
    x = store.centers
    torch.testing.assert_close(
        move(store, everything, torch.tensor([1.0, 2, -3])).centers, x + torch.tensor([1.0, 2, -3])
    )
    torch.testing.assert_close(scale(store, everything, 2.5, about).centers, about + 2.5 * (x - about))
    torch.testing.assert_close(scale(store, everything, 2.5, about).radii, 2.5 * store.radii)
    quarter = rotate(store, everything, torch.tensor([0.0, 0, 3]), 90.0, about).centers  # +x turns to +y
    d = x - about
    torch.testing.assert_close(quarter, about + torch.stack([-d[:, 1], d[:, 0], d[:, 2]], -1), rtol=0, atol=2e-6)
    for bad in (
        lambda: scale(store, everything, 0.0, about),
        lambda: rotate(store, everything, torch.zeros(3), 9, about),
    ):
        with pytest.raises(GeometryError):
            bad()


def test_a_moved_part_is_moved_in_canvas_tokens_and_export() -> None:
    """Not only where patches are listed: in every read-out, by the same transform."""
    store, view, G = room(3), random_room_cameras(1, 5), rigid(3)
    moved, moved_view = transform(store, everything, G), replace(view, viewmats=view.viewmats @ torch.linalg.inv(G))
    before, after = retrieve(store, view, GRID), retrieve(moved, moved_view, GRID)
    assert float(before.good.float().mean()) > 0.1, "control"
    torch.testing.assert_close(canvas(moved, after)[0], canvas(store, before)[0], rtol=0, atol=1e-6)
    assert not torch.equal(retrieve(moved, view, GRID).good, before.good), "control"
    for alignment in ("latent", "rope"):
        old, new = assemble(store, before, alignment), assemble(moved, after, alignment)
        torch.testing.assert_close(new.features, old.features, rtol=0, atol=1e-6)
        torch.testing.assert_close(new.positions, old.positions, rtol=0, atol=1e-6)
    G, pixels = G.numpy(), Pixels()
    points, colors = store_points(store, pixels, 0.0)
    there, same = store_points(moved, pixels, 0.0)
    assert there == pytest.approx(points @ G[:3, :3].T + G[:3, 3], abs=1e-4)
    assert (same == colors).all()


class Pixels(PixelShuffleVAE):
    """Cells of three channels as blocks of one colour."""

    def decode_image(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat_interleave(GRID.stride, 2).repeat_interleave(GRID.stride, 3)


def test_a_part_in_a_mirror_is_the_mirrored_part() -> None:
    store = room(3)
    region, normal, point = (
        box(torch.tensor([0.5, -2, 0.5]), torch.tensor([3.0, 2, 1.5])),
        torch.tensor([1.0, 0, 1]),
        torch.ones(3),
    )
    chosen = region(store)
    part = mirror(store, normal, point, region)
    whole = mirror(store, normal, point)
    assert part.num_patches == store.num_patches and len(part) > len(store)
    key = lambda x: sorted(tuple(round(v, 4) for v in row) for row in x.tolist())  # noqa: E731
    n = torch.nn.functional.normalize(normal, dim=0)
    reflected = store.centers - 2 * ((store.centers - point) @ n)[:, None] * n
    assert key(part.centers) == key(torch.where(chosen[:, None], reflected, store.centers))
    assert key(whole.centers) == key(reflected)
    again = mirror(
        part, normal, point, Selection(lambda s: torch.isin(rows_of(s), torch.arange(len(store), len(part))))
    )
    assert key(again.centers) == key(store.centers)
    assert all(float(torch.det(g.world_from_cam)) == pytest.approx(1.0) for g in part)


def rows_of(store: PatchStore) -> torch.Tensor:
    """Group of every patch."""
    return torch.arange(len(store)).repeat_interleave(torch.tensor(store.offsets).diff())


def test_a_flip_of_latents_is_taken_from_the_caller() -> None:
    store = PatchStore.empty().insert(keyframe(4.0, camera()))
    plain = mirror(store, torch.tensor([1.0, 0, 0]), torch.zeros(3)).group(0).keyframe
    negated = mirror(store, torch.tensor([1.0, 0, 0]), torch.zeros(3), flip=lambda x: -x.flip(-1)).group(0).keyframe
    assert torch.equal(negated.latents, -plain.latents)
    assert torch.equal(negated.depth, plain.depth)


def test_a_door_leads_from_one_world_into_the_other() -> None:
    door_a, door_b = rigid(1), rigid(2)
    a_from_b = doorway_transform(door_a, door_b, ratio=1.5)
    inside_b = torch.tensor([0.2, -0.3, 2.0, 1.0], dtype=F64)  # 2 into b, a little right and up
    outside_a = torch.tensor([-0.3, -0.45, -3.0, 1.0], dtype=F64)  # as far out of a; right and left change, up stays
    torch.testing.assert_close(a_from_b @ door_b @ inside_b, door_a @ outside_a)
    back = doorway_transform(door_b, door_a, ratio=1 / 1.5)
    torch.testing.assert_close(a_from_b @ back, torch.eye(4, dtype=F64))
    with pytest.raises(GeometryError, match="door b"):
        doorway_transform(door_a, 2 * door_b @ torch.diag(torch.tensor([1, 1, 1, 0.5], dtype=F64)))
    with pytest.raises(GeometryError, match="factor"):
        doorway_transform(door_a, door_b, ratio=-1.0)


def test_frozen_frames_are_whole_and_nothing_shown_changes() -> None:
    store = room()
    region = sphere(torch.tensor([1.0, 0.0, 0.8]), 0.6)
    touched = [
        g.uid
        for g, rows in zip(store, region(store).split(torch.tensor(store.offsets).diff().tolist()), strict=True)
        if bool(rows.any())
    ]
    frozen = freeze(store, region)
    assert 0 < len(touched) < len(store)
    assert [g.uid for g in frozen if g.pinned] == touched
    assert torch.equal(frozen.centers, store.centers)
    thawed = freeze(frozen, everything, pinned=False)
    assert not any(g.pinned for g in thawed)
    assert all(a is b for a, b in zip(frozen, freeze(frozen, region), strict=True)), "what is frozen stays as it is"


def test_as_it_was_shows_the_past_and_keeps_the_rest_of_history() -> None:
    """A wall at 4 until second 5, then one at 3; a picture of second 10 adds a patch far away."""
    first, second = keyframe(4.0, camera(), frame=0), keyframe(3.0, camera(), frame=5)
    third = keyframe(4.0, camera(at=(40, 0, 0)), frame=10)
    old = PatchStore.empty().insert(first).insert(second).insert(third)
    store = PatchStore.from_groups([replace(old.group(0), until=5.0), old.group(1), old.group(2)])
    past = as_it_was(store, everything, 2.0)
    assert [g.until for g in past] == [None, 10.0, 10.0]
    assert [holds(g, 7.0) for g in past] == [True, True, False], "at second 7 the second wall still stood"
    here = as_it_was(store, sphere(torch.tensor([0.0, 0, 3.5]), 20.0), 2.0)
    assert [g.until for g in here] == [None, 10.0, None], "only what is selected"
    left = as_it_was(store, box(torch.tensor([-9.0, -9, 0]), torch.tensor([0.0, 9, 9])), 2.0)
    assert sorted((g.keyframe.frame, g.until) for g in left if g.until) == [(0, 5.0), (5, 10.0)]
    assert left.num_patches == store.num_patches and len(left) == 5
    now = as_it_was(store, everything, 11.0)
    assert all(a is b for a, b in zip(now, store, strict=True)), "as it is: nothing to do"


def test_what_is_not_edited_is_the_same_object() -> None:
    """So that a list of what an edit changed holds nothing else."""
    store = room(6)
    region = sphere(torch.tensor([1.0, 0.0, 0.8]), 0.5)
    for edited in (
        erase(store, region),
        move(store, region, torch.ones(3)),
        mirror(store, torch.ones(3), torch.ones(3), region),
    ):
        kept = {g.uid: g for g in edited}
        same = [kept.get(g.uid) is g for g in store]
        touched = rows_of(store)[region(store)].unique().tolist()
        assert same == [g not in touched for g in range(len(store))] and any(same) and not all(same)


def test_as_it_was_recalls_what_the_past_recalled() -> None:
    """Painting everything over to a second is asking for that second."""
    old = PatchStore.empty().insert(keyframe(4.0, camera(), frame=0)).insert(keyframe(3.0, camera(), frame=5))
    store = PatchStore.from_groups([replace(old.group(0), until=5.0), old.group(1)])
    view = camera(at=(0.3, 0, 0))
    for second, depth in ((2.0, 4.0), (6.0, 3.0)):
        asked = retrieve(store, view, GRID, at=second)
        painted = retrieve(as_it_was(store, everything, second), view, GRID)
        assert float(asked.depth[asked.good].median()) == pytest.approx(depth), "control"
        assert torch.equal(painted.good, asked.good)
        assert torch.equal(painted.source_uv, asked.source_uv)
        assert torch.equal(painted.source, asked.source)


def test_an_edit_reads_only_what_it_moves() -> None:
    """So that a world larger than memory can be edited."""

    class Watched:
        channels, nbytes = 3, 0

        def __init__(self, inner: Keyframe) -> None:
            self.inner, self.read_so_far = inner, set[str]()

        def read(self, name: str) -> torch.Tensor:
            self.read_so_far.add(name)
            return getattr(self.inner, name)

    watched = [Watched(g.keyframe) for g in room(5)]
    store = PatchStore.empty()
    for contents in watched:
        k = contents.inner
        stored = Keyframe.stored(contents, k.camera, k.stride, k.patch, frame=k.frame, time=k.time, origin=k.origin)
        store = store.insert(stored)
    for contents in watched:
        contents.read_so_far.clear()
    region = sphere(torch.tensor([1.0, 0.0, 0.8]), 0.6)
    touched = rows_of(store)[region(store)].unique().tolist()
    for edit in (erase, freeze):
        edit(store, region)
    assert not any(contents.read_so_far for contents in watched[1:]), "the first frame's depth is the world's scale"
    move(store, region, torch.ones(3))
    read = [g for g, contents in enumerate(watched) if contents.read_so_far]
    assert read == sorted({0, *touched}) and len(read) < len(store)
    assert all("latents" not in contents.read_so_far for contents in watched)
