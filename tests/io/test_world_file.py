"""A world file gives back what was put in, to the bit; its history goes both ways; what it holds stays on disk."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.io.worlds import assert_same_group, assert_same_store, edited, keyframes

from mosaicmem.errors import ConfigError, GeometryError, InputError, OutputExistsError, StorageError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.store_file import load_store, save_store
from mosaicmem.io.world import WorldFile, compact, verify
from mosaicmem.io.world.contents import stored_contents
from mosaicmem.memory.patches import Keyframe, patch_points
from mosaicmem.memory.store import PatchStore


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_everything_survives_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    store = edited(dtype=dtype)
    meta = {"prompt": "ein Raum", "nested": {"a": [1, 2.5, None]}, "empty": {}}
    save_store(store, tmp_path / "w.mosaic", meta)
    loaded, found = load_store(tmp_path / "w.mosaic")
    assert found == meta
    assert_same_store(loaded, store)
    assert loaded.group(2).keyframe is loaded.group(3).keyframe, "what was shared is shared again"
    assert verify(tmp_path / "w.mosaic") == []


def test_equal_memories_give_equal_bytes(tmp_path: Path) -> None:
    save_store(edited(), tmp_path / "a")
    save_store(load_store(tmp_path / "a")[0], tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    save_store(edited(seed=4), tmp_path / "c")
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes(), "control"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"], "nothing is left beside a file at rest"


def test_an_empty_world_is_a_world(tmp_path: Path) -> None:
    save_store(PatchStore.empty(), tmp_path / "w", {"x": 1})
    store, meta = load_store(tmp_path / "w")
    assert (len(store), meta) == (0, {"x": 1})
    with WorldFile.open(tmp_path / "w") as world:
        assert world.log() == []
    assert verify(tmp_path / "w") == []


def test_files_are_replaced_only_on_request(tmp_path: Path) -> None:
    save_store(PatchStore.empty(), tmp_path / "w")
    for write in (lambda: save_store(edited(), tmp_path / "w"), lambda: WorldFile.create(tmp_path / "w")):
        with pytest.raises(OutputExistsError):
            write()
    assert len(load_store(tmp_path / "w")[0]) == 0
    save_store(edited(), tmp_path / "w", overwrite=True)
    assert len(load_store(tmp_path / "w")[0]) == 4


@pytest.mark.parametrize("meta", [{"a": (1, 2)}, {"a": torch.ones(1)}, {"a": float("nan")}, {"a": {1: 2}}])
def test_meta_that_json_would_change_is_refused(tmp_path: Path, meta: dict) -> None:
    with pytest.raises(InputError, match=r"JSON"):
        save_store(edited(), tmp_path / "w", meta)
    assert list(tmp_path.iterdir()) == []


def test_inserting_one_by_one_gives_the_store_of_all(tmp_path: Path) -> None:
    expected = PatchStore.empty()
    with WorldFile.create(tmp_path / "w") as world:
        for i, keyframe in enumerate(keyframes(5)):
            expected = expected.insert(keyframe)
            operation = world.insert(keyframe, model="rooms", seed=2**40 + i, note="n")
            assert (operation.kind, operation.arguments, operation.note) == ("insert", {"frame": 10 * i}, "n")
            assert_same_store(world.store, expected)
            with WorldFile.open(tmp_path / "w") as reader:
                assert_same_store(reader.store, expected)
        ids = [operation.id for operation in world.log()]
        assert ids == [5, 4, 3, 2, 1]
    with WorldFile.open(tmp_path / "w") as world:
        assert_same_store(world.store, expected)
        contents = stored_contents(world.store.group(3).keyframe)
        assert contents is not None and (contents.row.model, contents.row.seed) == ("rooms", 2**40 + 3)


def test_a_keyframe_that_does_not_fit_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    good, other = keyframes(2)
    with WorldFile.create(tmp_path / "w") as world:
        world.insert(good)
        before = world.digest(), world.counts()["keyframes"]
        with pytest.raises(GeometryError, match="one memory belongs to one latent space"):
            world.insert(replace(other, latents=torch.zeros(5, 4, 8)))
        assert (world.digest(), world.counts()["keyframes"]) == before
        world.insert(other)  # gets the number that the refused one had
        assert world._reader.held_bytes == good.nbytes + other.nbytes
        assert torch.equal(world.store.group(1).keyframe.latents, other.latents)
        assert_same_group(world.store.group(1), PatchStore.empty().insert(good).insert(other).group(1))
    assert verify(tmp_path / "w") == []


Step = Callable[[PatchStore, int], PatchStore]
STEPS: list[Step] = [
    lambda store, k: PatchStore.from_groups([g for i, g in enumerate(store) if i != k]),
    lambda store, k: PatchStore.from_groups(
        [replace(g, world_from_cam=g.world_from_cam + 0.5 * _shift()) if i == k else g for i, g in enumerate(store)]
    ),
    lambda store, k: PatchStore.from_groups([replace(g, pinned=not g.pinned) for g in store]),
    lambda store, k: PatchStore.from_groups([replace(g, until=float(k)) for g in store]),
    lambda store, k: store.insert_group(replace(store.group(k), uid=store.group(len(store) - 1).uid + 3)),
    lambda store, k: store.insert(keyframes(1, seed=50 + k)[0]),
    lambda store, k: PatchStore.from_groups([replace(g, mask=torch.ones(2, 4).bool()) for g in store]),
]


def _shift() -> torch.Tensor:
    out = torch.zeros(4, 4, dtype=torch.float64)
    out[0, 3] = 1
    return out


@settings(max_examples=8)
@given(st.lists(st.tuples(st.integers(0, len(STEPS) - 1), st.integers(0, 2)), min_size=1, max_size=6))
def test_undo_and_redo_are_exact(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.mktemp("w") / "w.mosaic"
    with WorldFile.create(path) as world:
        world.apply("begin", {}, edited())
        digests, stores = [world.digest()], [world.store]
        for kind, k in steps:
            store = STEPS[kind](world.store, min(k, len(world.store) - 1))
            if world.apply(f"step {kind}", {"k": k}, store) is not None:
                digests.append(world.digest())
                stores.append(world.store)
                assert_same_store(world.store, store)
        for digest, store in zip(digests[-2::-1], stores[-2::-1], strict=True):
            world.undo()
            assert world.digest() == digest
            assert_same_store(world.store, store)
        for digest, store in zip(digests[1:], stores[1:], strict=True):
            world.redo()
            assert world.digest() == digest
            assert_same_store(world.store, store)
        assert len(set(digests)) > 1 or len(digests) == 1, "control: edits change the digest"
        with pytest.raises(ConfigError, match="nothing to redo"):
            world.redo()
    assert verify(path) == []


def test_undo_ends_at_the_beginning_and_new_work_ends_redo(tmp_path: Path) -> None:
    a, b, c = keyframes(3)
    with WorldFile.create(tmp_path / "w") as world:
        world.insert(a)
        world.insert(b)
        assert world.undo().id == 2
        assert world.redo().id == 2
        assert (world.undo().id, world.undo().id, len(world.store)) == (2, 1, 0)
        with pytest.raises(ConfigError, match="nothing to undo"):
            world.undo()
        world.redo()
        world.insert(c)
        with pytest.raises(ConfigError, match="nothing to redo"):
            world.redo()
        assert [group.keyframe.frame for group in world.store] == [0, 20]
        assert [operation.id for operation in world.log()] == [3, 1]
        world.branch("lost", at=2)
        world.checkout("lost")
        assert [group.keyframe.frame for group in world.store] == [0, 10], "what was undone is still there"
    with WorldFile.open(tmp_path / "w") as world:
        assert world.head.name == "lost" and len(world.store) == 2
    assert verify(tmp_path / "w") == []


def test_branches_do_not_see_each_other(tmp_path: Path) -> None:
    store = edited()
    with WorldFile.create(tmp_path / "w") as world:
        world.apply("begin", {}, store)
        world.branch("night")
        world.apply("erase", {}, PatchStore.from_groups(world.store.groups[:1]))
        day = world.digest()
        world.checkout("night")
        assert_same_store(world.store, store)
        world.apply("pin", {}, PatchStore.from_groups([replace(g, pinned=True) for g in world.store]))
        night = world.digest()
        for name, digest in (("main", day), ("night", night), ("night", night), ("main", day)):
            assert world.checkout(name).name == name
            assert world.digest() == digest
        assert [branch.name for branch in world.branches] == ["main", "night"]
        for name in ("night", "", "a\nb", "x" * 200):
            with pytest.raises(ConfigError, match="branch"):
                world.branch(name)
        with pytest.raises(ConfigError, match="no branch 'noon'; there are 'main', 'night'"):
            world.checkout("noon")
    assert verify(tmp_path / "w") == []


def test_an_edit_without_effect_is_no_operation(tmp_path: Path) -> None:
    with WorldFile.create(tmp_path / "w") as world:
        world.apply("begin", {}, edited())
        same = PatchStore.from_groups([replace(g, world_from_cam=g.world_from_cam.clone()) for g in world.store])
        assert world.apply("move", {}, same) is None
        assert world.apply("move", {}, world.store) is None
        assert len(world.log()) == 1
    before = (tmp_path / "w").read_bytes()
    with WorldFile.open(tmp_path / "w", write=True) as world:
        assert world.apply("move", {}, world.store) is None
    assert (tmp_path / "w").read_bytes() == before


def test_an_edit_stores_no_content_twice(tmp_path: Path) -> None:
    with WorldFile.create(tmp_path / "w") as world:
        for keyframe in keyframes(4):
            world.insert(keyframe)
        held = world.counts()["content_bytes"]
        moved = [replace(g, world_from_cam=g.world_from_cam + _shift()) for g in world.store]
        copies = [replace(g, uid=g.uid + 10) for g in world.store]
        world.apply("move", {}, PatchStore.from_groups([*moved, *copies]))
        assert world.counts()["content_bytes"] == held
        assert world.counts()["keyframes"] == 4 and len(world.store) == 8


def test_a_generated_store_with_keyframes_still_in_memory_is_written_once(tmp_path: Path) -> None:
    new = keyframes(3)
    with WorldFile.create(tmp_path / "w") as world:
        store = PatchStore.empty().insert(new[0])
        world.apply("generate", {}, store)
        store = store.insert(new[1])
        world.apply("generate", {}, store)
        assert world.counts()["keyframes"] == 2
        world.insert(new[2])
        world.apply("all", {}, store.insert(new[2]))
        assert world.counts()["keyframes"] == 3
        assert world.log()[0].kind == "insert", "and nothing differed"


def test_merging_copies_contents_and_where_they_came_from(tmp_path: Path) -> None:
    a, b = edited(seed=3), edited(seed=8)
    save_store(a, tmp_path / "a")
    save_store(b, tmp_path / "b", model="rooms", seed=5)
    shift = torch.eye(4, dtype=torch.float64)
    shift[1, 3] = -2
    with WorldFile.open(tmp_path / "a", write=True) as world, WorldFile.open(tmp_path / "b") as other:
        before = world.digest()
        operation = world.merge(other, shift)
        assert operation is not None and operation.arguments["self_from_other"] == shift.tolist()
        added = world.store.group(len(a))
        assert torch.equal(added.world_from_cam, shift @ b.group(0).world_from_cam)
        assert torch.equal(added.keyframe.latents, b.group(0).keyframe.latents)
        contents = stored_contents(added.keyframe)
        assert contents is not None and (contents.row.model, contents.row.seed) == ("rooms", 5)
        world.undo()
        assert world.digest() == before
    assert verify(tmp_path / "a") == []


# ---------------------------------------------------------------------- on disk until it is used


def test_opening_reads_no_contents_and_retrieving_where_reads_no_latents(tmp_path: Path) -> None:
    save_store(edited(), tmp_path / "w")
    with WorldFile.open(tmp_path / "w") as world:
        statements: list[str] = []
        world._db.set_trace_callback(statements.append)
        assert world.store.num_patches > 0
        used = [s for s in statements if "FROM contents" in s]
        assert not any("latents" in s for s in used)
        assert len(used) <= 2, "at most the depth of the first keyframe, for the scale of the world"
        _ = world.store.group(1).keyframe.depth, world.store.group(1).valid, world.store.group(1).keyframe.tokens
        assert not any("latents" in s for s in statements if "FROM contents" in s)
        _ = world.store.group(1).keyframe.latents
        assert any("latents" in s for s in statements if "FROM contents" in s), "control"
        count = len(statements)
        _ = world.store.group(1).keyframe.latents
        assert len(statements) == count, "and only once"


@pytest.mark.parametrize("room", [0, 700, 10**9])
def test_the_cache_is_bounded_and_changes_nothing(tmp_path: Path, room: int) -> None:
    new = keyframes(6)
    size = max(keyframe.nbytes for keyframe in new)
    with WorldFile.create(tmp_path / "w", cache_bytes=room) as world:
        for keyframe in new:
            world.insert(keyframe)
            assert world._reader.held_bytes <= room
    with WorldFile.open(tmp_path / "w", cache_bytes=room) as world:
        for k in (0, 3, 0, 5, 1, 0, 2, 4, 3, 3):
            read = world.store.group(k).keyframe
            assert torch.equal(read.latents, new[k].latents) and torch.equal(read.valid, new[k].valid)
            kept = sum(t.nbytes for parts in world._reader._kept.values() for t in parts.values())
            assert kept == world._reader.held_bytes <= room
        assert world._reader.held_bytes > size or room < 10**9, "control: with room, much is kept"


def test_a_replaced_stored_keyframe_is_an_ordinary_one(tmp_path: Path) -> None:
    save_store(edited(), tmp_path / "w")
    store, _ = load_store(tmp_path / "w")
    stored = store.group(0).keyframe
    changed = replace(stored, latents=stored.latents + 1)
    assert torch.equal(changed.latents, stored.latents + 1)
    assert stored_contents(changed) is None and stored_contents(stored) is not None
    with pytest.raises(AttributeError, match="no attribute 'latent'"):
        _ = stored.latent  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError, match="no attribute 'contents'"):
        _ = changed.contents  # pyright: ignore[reportAttributeAccessIssue]


def test_a_closed_world_says_so_and_a_loaded_store_keeps_its_file_open(tmp_path: Path) -> None:
    save_store(edited(), tmp_path / "w")
    with WorldFile.open(tmp_path / "w") as world:
        store = world.store
    with pytest.raises(StorageError, match="was closed"):
        _ = store.group(1).keyframe.latents
    loaded, _ = load_store(tmp_path / "w")
    gc.collect()
    assert torch.equal(loaded.group(1).keyframe.latents, edited().group(1).keyframe.latents)


def test_many_groups_are_placed_to_the_bit_as_one_at_a_time(tmp_path: Path) -> None:
    new = keyframes(23, torch.float16)
    store = PatchStore.empty()
    for keyframe, zoom in zip(new, itertools.cycle([1.0, 0.3, 7.7]), strict=False):
        A = keyframe.camera.c2w[0].double()
        A[:3, :3] *= zoom
        store = store.insert(keyframe)
        last = store.group(len(store) - 1)
        store = store.insert_group(replace(last, uid=last.uid + 1, world_from_cam=A))
    save_store(store, tmp_path / "w")
    loaded, _ = load_store(tmp_path / "w")
    assert_same_store(loaded, store)


def test_patch_points_are_medians_on_the_rays_of_patch_centres() -> None:
    """Against the definition, one patch at a time."""
    for keyframe in keyframes(3):
        group = PatchStore.empty().insert(keyframe).group(0)
        points, radius, index = patch_points(group)
        K, camera = keyframe.camera.Ks[0], keyframe.camera
        for point, r, i in zip(points, radius, index.tolist(), strict=True):
            row, column = divmod(i, 4)
            cells = (slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2))
            depths = keyframe.depth[cells][keyframe.valid[cells]].sort().values
            z = float(depths[(len(depths) - 1) // 2])
            uv, seen, _ = camera.project(point[None, None].double())
            torch.testing.assert_close(
                uv[0, 0], torch.tensor([4 * column + 2, 4 * row + 2]).double(), atol=1e-4, rtol=0
            )
            assert float(seen[0, 0]) == pytest.approx(z, rel=1e-5)
            assert float(r) == pytest.approx(z * 2 / float(K[:2, :2].diagonal().min()), rel=1e-5)


# ---------------------------------------------------------------------- what it costs


def test_the_file_is_hardly_larger_than_what_it_stores(tmp_path: Path) -> None:
    """Realistic keyframes: 24 channels of 16x16 cells in 16 bits, inserted one by one with their history."""
    rng = torch.Generator().manual_seed(0)
    eye = torch.eye(4, dtype=torch.float64)[None]
    raw = 0
    with WorldFile.create(tmp_path / "w") as world:
        for i in range(48):
            camera = Cameras.from_fov(eye, 128, 128)
            depth = 1 + torch.rand(16, 16, generator=rng)
            confidence = torch.rand(16, 16, generator=rng)
            latents = torch.randn(24, 16, 16, generator=rng).half()
            world.insert(Keyframe(latents, depth, depth > 1.1, confidence, camera, 8, 2, frame=i, time=i / 24))
            raw += latents.nbytes + depth.nbytes + confidence.nbytes + 16 * 16 // 8
    assert (tmp_path / "w").stat().st_size <= 1.15 * raw


def test_a_constant_confidence_takes_one_number(tmp_path: Path) -> None:
    (keyframe,) = keyframes(1)
    plain = replace(keyframe, confidence=torch.full((4, 8), 0.25))
    sizes = []
    for name, made in (("a", keyframe), ("b", plain)):
        with WorldFile.create(tmp_path / name) as world:
            world.insert(made)
            sizes.append(world.counts()["content_bytes"])
        with WorldFile.open(tmp_path / name) as world:
            assert torch.equal(world.store.group(0).keyframe.confidence, made.confidence)
    assert sizes[0] - sizes[1] == 31 * 4


def test_inserting_writes_as_many_pages_into_a_large_world_as_into_a_small_one(tmp_path: Path) -> None:
    """Counted in bytes that change, not in seconds."""
    (new,) = keyframes(1, seed=99)

    def grown(count: int) -> int:
        path = tmp_path / str(count)
        store = PatchStore.empty()
        for keyframe in keyframes(10):
            store = store.insert(keyframe)
        groups = [replace(group, uid=10 * i + group.uid) for i in range(count // 10) for group in store]
        save_store(PatchStore.from_groups(groups), path)
        before = np.fromfile(path, np.uint8)
        with WorldFile.open(path, write=True) as world:
            world.insert(new)
        after = np.fromfile(path, np.uint8)
        pages = (len(after) - len(before)) // 2048
        return pages + len(np.unique((before != after[: len(before)]).nonzero()[0] // 2048))

    small, large = grown(10), grown(400)
    assert large <= small + 4, "a deeper tree changes a page more; nothing is rewritten"


def test_compacting_keeps_every_branch_and_drops_what_nobody_reaches(tmp_path: Path) -> None:
    a, b, c, d = keyframes(4)
    with WorldFile.create(tmp_path / "w", {"x": 1}) as world:
        world.insert(a)
        world.insert(b, thumbnail=np.zeros((200, 300, 3), np.uint8))
        world.branch("other")
        world.undo()
        world.insert(c)  # b is reached by `other` alone
        world.insert(d)
        world.undo()  # d is reached by redo
        digest = world.digest()
    assert compact(tmp_path / "w")[1] > 0 and verify(tmp_path / "w") == []
    with WorldFile.open(tmp_path / "w", write=True) as world:
        assert world.digest() == digest and world.counts()["keyframes"] == 4 and world.meta == {"x": 1}
        assert world.redo().arguments == {"frame": 30}
        world.undo()
        world.checkout("other")
        assert [group.keyframe.frame for group in world.store] == [0, 10]
        picture = world.thumbnail(1)
        assert picture is not None and picture.shape == (64, 96, 3)
        world.checkout("main")
        world.insert(keyframes(1, seed=77)[0])  # d can no longer be reached
        digest = world.digest()
    before, after = compact(tmp_path / "w")
    assert after < before and verify(tmp_path / "w") == []
    with WorldFile.open(tmp_path / "w") as world:
        assert world.digest() == digest and world.counts()["keyframes"] == 4
    compact(tmp_path / "w", forget=True)
    assert verify(tmp_path / "w") == []
    with WorldFile.open(tmp_path / "w", write=True) as world:
        assert world.digest() == digest
        assert [operation.kind for operation in world.log()] == ["compact"]
        world.checkout("other")
        assert [group.keyframe.frame for group in world.store] == [0, 10]


def test_compacting_through_a_link_rewrites_what_it_leads_to_and_keeps_permissions(tmp_path: Path) -> None:
    path, link = tmp_path / "w.mosaic", tmp_path / "link.mosaic"
    with WorldFile.create(path, {}) as world:
        for keyframe in keyframes(8):
            world.insert(keyframe)
            world.undo()
        world.insert(keyframes(1)[0])
    path.chmod(0o600)
    link.symlink_to(path)
    before, after = compact(link)
    assert link.is_symlink()
    assert (path.stat().st_size, path.stat().st_mode & 0o777) == (after, 0o600)
    assert after < before


@pytest.mark.parametrize("until", [-0.0, 0.0, 7.0])
def test_a_zero_below_zero_is_read_again(tmp_path: Path, until: float) -> None:
    """SQLite keeps no sign of zero; checksums must not either."""
    group = PatchStore.empty().insert(replace(keyframes(1)[0], time=-0.0)).group(0)
    save_store(PatchStore.from_groups([replace(group, until=until)]), tmp_path / "w.mosaic")
    assert verify(tmp_path / "w.mosaic") == []
    store, _ = load_store(tmp_path / "w.mosaic")
    assert (store.group(0).keyframe.time, store.group(0).until) == (0, until)


def test_what_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    with WorldFile.create(tmp_path / "w.mosaic", {}) as world:
        world.insert(keyframes(1)[0])
        group, digest = world.store.group(0), world.digest()
        mirrored = group.world_from_cam @ torch.diag(torch.tensor([-1.0, 1, 1, 1], dtype=torch.float64))
        flat = group.world_from_cam * torch.tensor([1e-150, 1e-150, 1e-150, 1], dtype=torch.float64)
        for change in ({"world_from_cam": mirrored}, {"world_from_cam": flat}, {"until": torch.inf}, {"uid": -1}):
            with pytest.raises(InputError):
                world.apply("edit", {}, PatchStore.from_groups([replace(group, **change)]))
        with pytest.raises(InputError, match="no UTF-8"):
            world.insert(keyframes(1)[0], note="caf\udce9")
        assert (world.digest(), len(world.log())) == (digest, 1)
    assert verify(tmp_path / "w.mosaic") == []


def test_thumbnails_are_small_pictures_of_the_frame(tmp_path: Path) -> None:
    (keyframe,) = keyframes(1)
    ramp = np.repeat(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], 300, 0).repeat(3, 2)
    with WorldFile.create(tmp_path / "w") as world:
        world.insert(keyframe, thumbnail=ramp)
        world.insert(keyframes(2)[1])
        picture = world.thumbnail(0)
        assert picture is not None and picture.shape == (72, 96, 3)
        expected = np.linspace(0, 255, 96)
        assert np.abs(picture.mean((0, 2)) - expected).max() < 6
        assert world.thumbnail(1) is None and world.thumbnail(99) is None


def test_the_description_can_be_replaced(tmp_path: Path) -> None:
    with WorldFile.create(tmp_path / "w", {"a": 1, "b": [2]}) as world:
        world.describe({"b": 3})
        assert world.meta == {"b": 3}
    with WorldFile.open(tmp_path / "w") as world:
        assert world.meta == {"b": 3}
