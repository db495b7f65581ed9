"""The crate's memory.json: tiles become keyframes again, edits become moves, and what cannot be used is named."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import circle32
from tests.io.imports.foreign import CELL, SIZE, TILE, Walk, crate, quaternion, walk

from mosaicmem.depth import bowl_depth
from mosaicmem.errors import InputError
from mosaicmem.io.imports import CrateMemory, is_crate_memory, read_crate_memory
from mosaicmem.models.synthetic import PixelShuffleVAE

FRAMES = 2
TILES = (SIZE[0] // CELL // TILE) * (SIZE[1] // CELL // TILE)


@pytest.fixture(scope="module")
def truth() -> Walk:
    whole = walk()
    return Walk(whole.cameras[:FRAMES], whole.rgb[:FRAMES], whole.depth[:FRAMES])


@pytest.fixture(scope="module")
def written(truth: Walk) -> dict[str, Any]:
    return crate(truth)


@pytest.fixture
def data(written: dict[str, Any]) -> dict[str, Any]:
    """A copy that a test may change."""
    return copy.deepcopy(written)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., CrateMemory]:
    def reader(data: Any, **options: Any) -> CrateMemory:
        (tmp_path / "memory.json").write_text(json.dumps(data))
        return read_crate_memory(tmp_path / "memory.json", **options)

    return reader


def test_tiles_become_the_frames_they_were_cut_from(read, data, truth: Walk) -> None:
    memory = read(data)
    assert (memory.patches, memory.moved, memory.merged, memory.skipped) == (FRAMES * TILES, 0, 0, ())
    assert (memory.stride, memory.channels) == (CELL, 3 * CELL**2) and len(memory.store) == FRAMES
    pictures = torch.from_numpy(truth.rgb).permute(0, 3, 1, 2).float() / 127.5 - 1
    for i, group in enumerate(memory.store):
        key = group.keyframe
        assert torch.allclose(PixelShuffleVAE(CELL).decode_image(key.latents[None])[0], pictures[i], atol=1e-6)
        assert torch.allclose(key.camera.viewmats, truth.cameras.viewmats[i : i + 1], atol=1e-7)
        assert torch.allclose(key.camera.Ks, truth.cameras.Ks[i : i + 1])
        middles = truth.depth[i][CELL // 2 :: CELL, CELL // 2 :: CELL]
        assert np.allclose(key.depth.numpy(), middles, atol=1e-6) and (key.time, key.frame) == (i / 10, i)
        assert group.mask is None and key.patch == TILE and key.origin == "generated"


def test_an_edited_centre_moves_what_is_seen(read, data, written) -> None:
    """Translating in the crate moves a number that its renderer ignores; here the patch moves."""
    for patch in data["patches"][:3]:
        patch["center"][0] += 0.5
    data["patches"][4]["center"][1] -= 7
    memory = read(data)
    plain = read(written).store
    assert memory.moved == 4 and memory.store.num_patches == plain.num_patches and len(memory.store) == FRAMES + 2
    by_patch = {}
    for g in range(3):  # the groups of the first frame: as it was, moved together, moved alone
        rows = slice(memory.store.offsets[g], memory.store.offsets[g + 1])
        by_patch |= dict(zip(memory.store.patch_ids[rows].tolist(), memory.store.centers[rows]))
    rows = slice(0, plain.offsets[1])
    for patch, center in zip(plain.patch_ids[rows].tolist(), plain.centers[rows]):
        shift = [0.5, 0.0, 0.0] if patch < 3 else [0.0, -7.0 * (patch == 4), 0.0]
        assert torch.allclose(by_patch[patch] - center, torch.tensor(shift), atol=1e-4)
    assert memory.store.group(0).keyframe is memory.store.group(1).keyframe is memory.store.group(2).keyframe


def test_a_small_error_of_the_centre_is_no_edit(read, data) -> None:
    for patch in data["patches"]:
        patch["center"][2] += 5e-4 * patch["source_depth"]
    assert read(data).moved == 0


def test_overlapping_windows_are_kept_apart_and_equal_patches_are_merged(read, data) -> None:
    again = copy.deepcopy(data["patches"][:TILES])
    for patch in again:
        patch["source_frame"] = 15  # the same pose and time, counted in the window before
    twice = {**data, "patches": data["patches"] + again}
    memory = read(twice)
    assert (memory.merged, len(memory.store)) == (TILES, FRAMES)
    for patch in again:
        patch["latent"][0] += 0.25
    memory = read(twice)
    assert (memory.merged, len(memory.store)) == (0, FRAMES + 1)
    assert memory.store.num_patches == (FRAMES + 1) * TILES
    for patch in again:
        patch["source_frame"] = 0  # spliced with an edited copy of itself: the place is taken
    assert len(read(twice).store) == FRAMES + 1


def test_erased_patches_stay_erased(read, data) -> None:
    del data["patches"][1:3]
    memory = read(data)
    assert memory.store.num_patches == FRAMES * TILES - 2
    mask = memory.store.group(0).mask
    assert mask is not None and mask.flatten().tolist()[:4] == [True, False, False, True]


def test_old_files_say_less(read, data) -> None:
    plain = read(data).store
    for patch in data["patches"]:
        patch["latent_shape"], patch["token_coords"] = [0, 0, 0], []
        del patch["source_intrinsics"]
    with pytest.raises(InputError, match=r"patch 0: no source_intrinsics; give the size .* --size WxH"):
        read(data)
    memory = read(data, size=SIZE)
    assert memory.store.group(0).keyframe.camera.Ks[0, 0, 0] == SIZE[0]
    assert "fx = fy = W" in memory.notes[0] and memory.channels == 3 * CELL**2
    assert torch.equal(memory.store.group(0).keyframe.latents, plain.group(0).keyframe.latents)
    del data["config"]
    assert "config is missing; ours is used" in read(data, size=SIZE).notes


def test_depth_that_is_missing(read, data) -> None:
    first = data["patches"][0]
    first["depth_tile"] = [None, *first["depth_tile"][1:]]
    data["patches"][1]["depth_tile"] = None
    key = read(data).store.group(0).keyframe
    assert not bool(key.valid[0, 0]) and int((~key.valid).sum()) == 1
    assert torch.allclose(key.depth[:2, 2:4], torch.tensor(data["patches"][1]["source_depth"], dtype=torch.float32))


def test_upright_turns_pictures_and_moves_no_point(read, data) -> None:
    data["patches"][2]["center"][0] += 1
    for patch in data["patches"]:
        patch["source_intrinsics"]["cx"] += 3  # off the middle, where a turn shows
    plain, turned = read(data).store, read(data, upright=True).store
    a, b = (torch.stack(sorted(s.centers.unbind(), key=lambda p: p.tolist())) for s in (plain, turned))
    assert torch.allclose(a, b, atol=1e-4)
    assert torch.equal(turned.group(0).keyframe.latents, plain.group(0).keyframe.latents.flip(1, 2))
    up = [store.group(0).keyframe.camera.up[0] for store in (plain, turned)]
    assert torch.allclose(up[0], -up[1])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"latent": [1.0, 2.0]}, "latent has 2 numbers, expected 2 x 2 x 192"),
        ({"latent": "none"}, "latent"),
        ({"depth_tile": [1, 2]}, "depth_tile has 2, expected 4"),
        ({"token_coords": [[1, 1]]}, "token_coords has 1, expected 4"),
        ({"token_coords": [[1, 1]] * 4}, "not the centres of the cells"),
        ({"source_rect": [3, 0, 16, 16]}, "no multiple of its cells of 8 px"),
        ({"source_rect": [0, 0, 16, 8]}, "expected square cells"),
        ({"source_depth": -1.0}, "depth above 0"),
        ({"center": [1, 2]}, "center"),
        ({"source_pose": {}}, "world_to_camera"),
    ],
)
def test_a_patch_that_cannot_be_used_is_named_or_left_out(read, data, change, said) -> None:
    data["patches"][5] |= change
    with pytest.raises(InputError, match=f"patch 5.*{said}"):
        read(data)
    memory = read(data, skip_bad=True)
    assert len(memory.skipped) == 1 and memory.store.num_patches == FRAMES * TILES - 1


def test_other_files_are_not_taken_for_it(tmp_path: Path, data, read) -> None:
    read(data)
    assert is_crate_memory(tmp_path / "memory.json") and not is_crate_memory(tmp_path)
    (tmp_path / "other.json").write_text('{"frames": []}')
    assert not is_crate_memory(tmp_path / "other.json")
    with pytest.raises(InputError, match="patches"):
        read_crate_memory(tmp_path / "other.json")
    with pytest.raises(InputError, match="empty list"):
        read({"patches": [], "next_id": 0})
    with pytest.raises(InputError, match=r"no patch of 1 can be used; the first: .*memory\.json, patch 7"):
        read({"patches": [{"id": 7}]}, skip_bad=True)


def test_g34_a_memory_of_circle_32_as_the_crate_leaves_it(read) -> None:
    """Three windows of 32 poses overlap: 4 frames come twice, with other latents. 576 patches, 36 frames, 32 poses."""
    cameras, entries = circle32(torch.float64), []
    lens = {"fx": 64.0, "fy": 64.0, "cx": 32.0, "cy": 32.0, "width": 64, "height": 64}
    depth = bowl_depth()
    order = [*range(16), *range(14, 30), *range(28, 32)]
    for window, pose in enumerate(order):
        V, C = cameras.viewmats[pose].numpy(), cameras.c2w[pose].numpy()
        q = quaternion(V[:3, :3])
        motion = dict(zip(("tx", "ty", "tz", "qw", "qx", "qy", "qz"), [*V[:3, 3].tolist(), *q.tolist()]))
        for row, column in itertools.product(range(0, 64, 16), repeat=2):
            z = float(depth[row + 8, column + 8])
            center = C @ [(column + 8 - 32) / 64 * z, (row + 8 - 32) / 64 * z, z, 1]
            cells = itertools.product((4, 12), repeat=2)
            entries.append(
                {
                    "id": len(entries),
                    "center": np.float32(center[:3]).tolist(),
                    "source_pose": {"timestamp": pose / 30, "world_to_camera": motion},
                    "source_frame": window % 16,
                    "source_timestamp": pose / 30,
                    "source_depth": z,
                    "source_rect": [column, row, 16, 16],
                    "latent": [float(window)] * 4,
                    "latent_height": 2,
                    "latent_width": 2,
                    "latent_shape": [1, 2, 2],
                    "token_coords": [],
                    "depth_tile": [float(depth[row + v, column + u]) for v, u in cells],
                    "source_intrinsics": lens,
                }
            )
    memory = read({"patches": entries, "config": {}, "next_id": len(entries)})
    assert (memory.patches, memory.store.num_patches, memory.moved, memory.merged) == (576, 576, 0, 0)
    assert len(memory.store) == 36
    views = torch.cat([group.keyframe.camera.viewmats for group in memory.store])
    assert len(views.round(decimals=5).unique(dim=0)) == 32
    centers = torch.cat([group.keyframe.camera.centers for group in memory.store])
    assert float(centers.diff(dim=0).norm(dim=-1).sum()) == pytest.approx(30.385, abs=1e-3)
