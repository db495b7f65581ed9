"""What a new frame sees through has an end in time; everything else is left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.memory.scenes import F64, GRID, camera, keyframe, random_room_cameras, room_depth

from mosaicmem.errors import ConfigError
from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import Keyframe, PatchStore, retrieve, superseding
from mosaicmem.memory.superseding import SupersedeConfig, imagined_in_free_space, supersede
from mosaicmem.worlds import Scene, make_scene


def store_of(*keyframes: Keyframe) -> PatchStore:
    store = PatchStore.empty()
    for frame in keyframes:
        store = store.insert(frame)
    return store


def with_box(left: int, right: int, near: float = 2.0) -> torch.Tensor:
    """A wall at 4 m and, in columns `left` to `right` of the cells, a box before it."""
    depth = torch.full(GRID.cells, 4.0, dtype=F64)
    depth[:, left:right] = near
    return depth


def test_a_thing_taken_away_is_over_and_the_rest_of_its_frame_is_not() -> None:
    old, new = keyframe(with_box(4, 8), camera(), frame=1), keyframe(4.0, camera(), frame=5)
    store = supersede(store_of(old), new)
    rest, over = store.groups
    assert rest.until is None and over.until == 5.0 and over.keyframe is old
    assert rest.uid == 0 and over.uid == 1
    expected = torch.zeros(old.tokens, dtype=torch.bool)
    expected[:, 2:4] = True
    assert over.mask is not None and torch.equal(over.mask, expected)
    assert rest.mask is not None and torch.equal(rest.mask, ~expected)
    assert torch.equal(rest.valid | over.valid, old.valid), "nothing is lost"
    assert supersede(store, new) is store, "what is over is not over again"


def test_a_group_that_is_seen_through_as_a_whole_keeps_its_uid() -> None:
    store = supersede(store_of(keyframe(2.0, camera(), frame=0)), keyframe(4.0, camera(), frame=3))
    assert [(g.uid, g.until, g.mask) for g in store] == [(0, 3.0, None)]


def test_what_agrees_hides_or_is_unknown_contradicts_nothing() -> None:
    old = keyframe(with_box(4, 8), camera(), frame=1)
    store = store_of(old)
    unknown = torch.zeros(GRID.cells, dtype=torch.bool)
    for new in (
        replace(old, frame=5, time=5.0),  # the same again
        keyframe(with_box(4, 8, near=1.0), camera(), frame=5),  # something new before the box
        keyframe(with_box(4, 8, near=2.1), camera(), frame=5),  # within the tolerance
        keyframe(4.0, camera(), frame=5, valid=unknown),  # it saw nothing
        keyframe(4.0, camera(), frame=1),  # not newer
        keyframe(1.0, camera(at=(0, 0, 3.0)), frame=5),  # the box is behind it
    ):
        assert supersede(store, new) is store
    pinned = PatchStore.from_groups([replace(store.group(0), pinned=True)])
    assert supersede(pinned, keyframe(4.0, camera(), frame=5)) is pinned


def test_looking_about_in_a_room_that_does_not_change_contradicts_nothing() -> None:
    """Exact depth from a dozen places around a pillar: its silhouette is not seen through from beside it."""
    cameras = random_room_cameras(16, 7)
    cameras = cameras[[i for i in range(16) if not bool((cameras.centers[i, [0, 2]] - 1.05).abs().max() < 0.4)]]
    store = PatchStore.empty()
    for i, c in enumerate(cameras):
        frame = keyframe(room_depth(c), c, frame=i)
        assert supersede(store, frame) is store
        store = store.insert(frame)
    none = SupersedeConfig(margin=0, min_cells=0.2, tolerance=0.0)
    assert any(supersede(store, keyframe(room_depth(c), c, frame=99), none) is not store for c in cameras), (
        "negative control: without tolerance and margin it would be"
    )


def test_every_setting_matters() -> None:
    old, new = keyframe(with_box(4, 9, near=3.0), camera(), frame=1), keyframe(4.0, camera(), frame=5)
    depth = new.depth.clone()
    depth[:, 6] = 3.0
    new = replace(new, depth=depth)
    store = store_of(old)

    def over(config: SupersedeConfig) -> int:
        return sum(
            int(g.mask.sum()) for g in supersede(store, new, config) if g.until is not None and g.mask is not None
        )

    base = over(SupersedeConfig())
    assert base > 0
    for other in (
        SupersedeConfig(tolerance=0.3), SupersedeConfig(min_cells=1.0), SupersedeConfig(margin=0),
        SupersedeConfig(near=0.9),
    ):  # fmt: skip
        assert over(other) != base, other
    with pytest.raises(ConfigError, match=r"tolerance = 1.*min_cells = 0.*margin = -1.*near = -1"):
        SupersedeConfig(1.0, 0.0, -1, -1.0)


def world_with_a_door() -> tuple[Scene, torch.Tensor]:
    """A procedural world whose front door opens, and the door's centre."""
    for seed in range(40):
        scene = make_scene(seed, rooms=1)
        if "door" in scene.names:
            at = scene.solids.select(scene.solids.object_id == scene.names.index("door"))
            return scene, at.center.mean(0)
    raise AssertionError("no world with a door")


def look(scene: Scene, cam: Cameras, time: float, frame: int) -> tuple[Keyframe, torch.Tensor]:
    """What is seen at a time, sky 50 m away, and which cells show the door."""
    h, w = GRID.cells
    shown = scene.render(cam.resized(w, h).to(dtype=torch.float32), time)
    depth = torch.where(shown.depth[0] > 0, shown.depth[0], 50.0).double()
    return replace(keyframe(depth, cam, frame=frame), time=time), shown.object_id[0] == scene.names.index("door")


def test_a_door_opens_the_closed_one_is_over_and_an_old_time_still_finds_it() -> None:
    scene, door = world_with_a_door()
    K = camera(GRID, f=70.0).Ks
    eye = torch.tensor([[float(door[0]), -1.5, float(door[2]) - 3.0]], dtype=F64)
    view = look_at(eye, door.double()[None], torch.tensor([[0.0, -1, 0]], dtype=F64))
    cam = Cameras(view, K, GRID.width, GRID.height)
    closed, is_door = look(scene, cam, 0.0, 0)
    opened, still_door = look(scene, cam, 60.0, 1)
    gone = is_door & ~still_door
    assert int(gone.sum()) >= 8, "the scene must show a door that opens"
    before = store_of(closed)
    store = supersede(before, opened)
    over = [group for group in store if group.until is not None]
    assert len(over) == 1 and over[0].until == 60.0
    shown = over[0].valid
    assert float((shown & is_door).sum()) > 0.7 * float(shown.sum()), "it is the door that is over"
    assert float((shown & gone).sum()) > 0.4 * float(gone.sum()), "and most of what opened"
    store = store.insert(opened)
    then, was = retrieve(store, cam, GRID, at=30.0), retrieve(before, cam, GRID)
    same = (then.depth - was.depth).abs() < 0.02 * was.depth
    assert float(same[was.good].double().mean()) > 0.95, "as it was before it opened"
    now = retrieve(store, cam, GRID)
    core = shown & gone & now.good[0]
    assert bool(core.any()) and bool((now.depth[0][core] > 1.2 * closed.depth[core]).all()), "now one sees through"


def test_what_was_imagined_where_something_saw_free_space_is_found() -> None:
    """Seen from aside, the wall of a generated frame stands in the room that an observed frame saw empty."""
    seen = keyframe(4.0, camera(), frame=0)
    for depth, expected in ((2.0, True), (3.9, False), (4.0, False), (7.0, False)):
        imagined = replace(keyframe(depth, camera(), frame=9), origin="generated")
        assert bool(imagined_in_free_space(store_of(seen), imagined).all()) is expected
        assert bool(imagined_in_free_space(store_of(seen), imagined).any()) is expected
    half = replace(keyframe(with_box(4, 8), camera(), frame=9), origin="generated")
    found = imagined_in_free_space(store_of(seen), half)
    expected = torch.zeros(GRID.cells, dtype=torch.bool)
    expected[:, 4:8] = True
    assert torch.equal(found, expected), "the part that agrees stays"


def test_only_what_was_observed_and_still_holds_where_it_was_is_a_witness() -> None:
    imagined = replace(keyframe(2.0, camera(), frame=9), origin="generated")
    store = store_of(keyframe(4.0, camera(), frame=0))
    (group,) = store.groups
    moved = group.world_from_cam.clone()
    moved[0, 3] += 1.0
    for other in (
        replace(group, keyframe=replace(group.keyframe, origin="generated")),
        replace(group, until=5.0),
        replace(group, world_from_cam=moved),
    ):
        assert not imagined_in_free_space(PatchStore.from_groups([other]), imagined).any()
    assert imagined_in_free_space(store, imagined).all(), "control"
    assert not imagined_in_free_space(PatchStore.empty(), imagined).any()


def test_witnesses_say_together_what_each_says_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two sizes, more than are asked at once, and cell by cell as the docstring has it."""
    monkeypatch.setattr(superseding, "WITNESSES", 4)
    lenses = zip(random_room_cameras(7, 3), (1.0, 0.8, 1.2, 0.9, 1.1, 1.0, 0.7), strict=True)
    wide = TokenGrid(160, 64, stride=8, patch=2)
    witnesses = [
        keyframe(room_depth(c), c, frame=i)
        for i, c in enumerate(replace(c, Ks=c.Ks * torch.tensor([[f], [f], [1.0]])) for c, f in lenses)
    ]
    for i, c in enumerate(random_room_cameras(2, 4, wide), start=7):
        witnesses.append(keyframe(room_depth(c, wide), c, wide, frame=i))
    (view,) = random_room_cameras(1, 7)
    guess = 0.5 * room_depth(view) * (1 + torch.arange(GRID.cells[1]) % 5 / 3)
    imagined = replace(keyframe(guess, view, frame=99), origin="generated")
    alone = [imagined_in_free_space(store_of(w), imagined) for w in witnesses]
    assert sum(bool(a.any()) for a in alone) > 1 and not any(bool(a.all()) for a in alone), "control"
    assert torch.equal(imagined_in_free_space(store_of(*witnesses), imagined), torch.stack(alone).any(0))
    for witness, found in zip(witnesses, alone, strict=True):
        assert torch.equal(found, in_free_space_reference(witness, imagined))


def in_free_space_reference(seen: Keyframe, imagined: Keyframe) -> torch.Tensor:
    """One cell after the other."""
    (h, w), p, camera = imagined.depth.shape, imagined.patch, imagined.camera
    through = torch.zeros(h, w, dtype=torch.bool)
    for i in range(h):
        for j in range(w):
            pixel = torch.tensor([(j + 0.5) * imagined.stride, (i + 0.5) * imagined.stride, 1.0], dtype=F64)
            here = torch.linalg.inv(camera.Ks[0].double()) @ pixel * imagined.depth[i, j].double()
            x, y, z = (seen.camera.viewmats[0].double() @ camera.c2w[0].double() @ torch.cat([here, here.new_ones(1)]))[
                :3
            ].tolist()
            u, v, _ = (seen.camera.Ks[0].double() @ torch.tensor([x / z, y / z, 1.0], dtype=F64)).tolist()
            if z > 0.01 * seen.median_depth and 0 <= u < seen.camera.width and 0 <= v < seen.camera.height:
                depth = float(seen.depth[int(v / seen.stride), int(u / seen.stride)])
                through[i, j] = z < 0.9 * depth
    most = through.unflatten(1, (-1, p)).unflatten(0, (-1, p)).sum((1, 3)) * 2 >= p * p
    return most.repeat_interleave(p, 0).repeat_interleave(p, 1)
