"""What a rollout tells, as rerun reads it back: where every frame stood, and memory as it was at every frame."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import random_cameras

from mosaicmem.errors import MissingExtraError, OutputExistsError, StorageError
from mosaicmem.generation.events import RolloutEvent, StoreStatistics
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.io.exports.cloud import cloud_of
from mosaicmem.io.exports.event_log import DRAWN, PATCHES, EventLog, behind
from mosaicmem.io.exports.shots import shots
from mosaicmem.memory import editing
from mosaicmem.memory.lifting import LiftingConfig, lift
from mosaicmem.memory.selection import in_frames
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.synthetic import PixelShuffleVAE

GRID = TokenGrid(16, 8, stride=2, patch=2)
VAE = PixelShuffleVAE(2)
FPS = 8.0


def pictures(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 16, 3), np.uint8)


def lifted(picture: np.ndarray, camera: Any, number: int, seed: int) -> Any:
    """A keyframe of noise for depth."""
    rgb = torch.from_numpy(picture).movedim(-1, 0).float() / 127.5 - 1
    depth = 2 + torch.rand(8, 16, generator=torch.Generator().manual_seed(seed))
    depth[:2, 3:7] = 0
    latents = VAE.encode_image(rgb[None])[0]
    config = LiftingConfig(flying_ratio=0)
    return lift(latents, depth, camera, GRID, frame=number, time=number / FPS, config=config)


def told(frames: np.ndarray, numbers: list[int], mosaic: np.ndarray, store: PatchStore) -> RolloutEvent:
    share = np.linspace(0.2, 0.8, len(numbers))
    return RolloutEvent(
        frames_u8=frames,
        frames=np.array(numbers),
        mosaic_u8=mosaic,
        mosaic_frames=np.array(numbers[-1:]),
        mosaic_coverage=share[-1:],
        coverage=share,
        written=(numbers[-1],),
        timings={"retrieve": 0.25, "denoise": 1.5},
        store=StoreStatistics(len(store), store.num_patches, 1234),
        label="[synthetic]",
        prompt="a room.",
        warnings=("careful",),
    )


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows by entity, each with what it says and its times."""
    from rerun.chunk import RrdReader

    found: dict[str, list[dict[str, Any]]] = {}
    for chunk in RrdReader(path).stream():
        columns = chunk.to_record_batch().to_pydict()
        rows = len(next(iter(columns.values())))
        for i in range(rows):
            row = {k.split(":")[-1]: v[i] for k, v in columns.items() if "RowId" not in k and v[i] is not None}
            found.setdefault(str(chunk.entity_path), []).append(row)
    return found


def at(rows: list[dict[str, Any]], name: str) -> dict[int, Any]:
    """One component by frame."""
    return {row["frame"]: row[name] for row in rows if name in row}


def decoded(blob: Any) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(bytes(blob[0]))))


def test_everything_that_a_rollout_tells_is_read_back_at_its_frame(tmp_path) -> None:
    pytest.importorskip("rerun", reason="needs the extra: pip install 'mosaicmem[rerun]'")
    cameras = random_cameras(5, torch.Generator().manual_seed(3), width=16, height=8)
    frames, mosaic = pictures(5, 1), pictures(1, 2)
    before = PatchStore.empty().insert(lifted(pictures(1, 9)[0], cameras[0], 0, 1))
    after = before.insert(lifted(frames[4], cameras[4], 5, 2))
    erased = editing.erase(after, in_frames(0, 0))
    moved = editing.move(erased, in_frames(5, 5), torch.tensor([0.0, 0.0, 3.0]))
    with EventLog(tmp_path / "a.rrd", VAE.decode_image, FPS) as log:
        log.memory(before, 0)
        log.event(told(frames, [1, 2, 3, 4, 5], mosaic, after), cameras, after)
        log.memory(erased, 7)
        log.memory(erased, 8)
        log.memory(moved, 9)
    found = read(tmp_path / "a.rrd")
    camera, image = found["/world/camera"], found["/world/camera/image"]
    seen, lens = at(image, "blob"), at(image, "image_from_camera")
    places, turns = at(camera, "translation"), at(camera, "mat3x3")
    assert sorted(seen) == sorted(lens) == sorted(places) == [1, 2, 3, 4, 5]
    for i in range(5):
        placed = cameras[i].c2w[0].numpy()
        assert (decoded(seen[i + 1]) == frames[i]).all()
        assert places[i + 1][0] == pytest.approx(placed[:3, 3], abs=1e-5)
        assert pytest.approx(placed[:3, :3], abs=1e-5) == np.array(turns[i + 1][0]).reshape(3, 3).T
        assert pytest.approx(cameras[i].Ks[0].numpy(), abs=1e-4) == np.array(lens[i + 1][0]).reshape(3, 3).T
    assert {row["frame"]: row["time"].total_seconds() for row in camera} == {i: i / FPS for i in range(1, 6)}
    assert {i: v[0] for i, v in at(found["/known"], "scalars").items()} == pytest.approx(
        dict(zip(range(1, 6), np.linspace(0.2, 0.8, 5).tolist(), strict=True))
    )
    assert at(found["/milliseconds/denoise"], "scalars") == {5: [1500.0]}
    assert at(found["/memory/patches"], "scalars") == {5: [after.num_patches]}
    assert (decoded(at(found["/mosaic"], "blob")[5]) == mosaic[0]).all()
    assert at(found["/prompt"], "text") == {1: ["a room."]} and at(found["/log"], "text") == {5: ["careful"]}
    check_memory(found, after)
    places = at(found["/world/memory/000001"], "positions")
    assert list(places) == [5, 9], "told once, although memory was told of five times, and again when it was moved"
    assert np.array(places[9]) - np.array(places[5]) == pytest.approx(np.tile([0, 0, 3], (len(places[5]), 1)), abs=1e-5)


def check_memory(found: dict[str, list[dict[str, Any]]], after: PatchStore) -> None:
    """Patches lie where retrieval has them, in their colours, from their frame on until they are taken away."""
    assert {name for name in found if name.startswith("/world/memory/")} == {
        f"/world/memory/{group.uid:06d}" for group in after
    }
    depth = at(found["/world/keyframe/image/depth"], "buffer")
    for group, shot in zip(after, shots(list(after), VAE.decode_image), strict=True):
        rows, frame = found[f"/world/memory/{group.uid:06d}"], group.keyframe.frame
        points = cloud_of(shot, 0, PATCHES)
        assert np.array(at(rows, "positions")[frame]) == pytest.approx(points.xyz, abs=1e-5)
        rows_of = slice(after.offsets[group.uid], after.offsets[group.uid + 1])
        assert np.array(at(rows, "radii")[frame]) == pytest.approx(DRAWN * after.radii[rows_of].numpy(), rel=1e-5)
        colours = np.array(at(rows, "colors")[frame])
        assert np.abs(np.stack([colours >> s & 255 for s in (24, 16, 8)], -1) - points.rgb.astype(int)).max() <= 1
        assert np.frombuffer(bytes(depth[frame][0]), np.float32).reshape(8, 16) == pytest.approx(shot.depth, abs=1e-6)
    assert [group.keyframe.frame for group in after] == [0, 5]
    gone, kept = (found[f"/world/memory/{group.uid:06d}"] for group in after)
    assert at(gone, "is_recursive") == {7: [False]} and at(kept, "is_recursive") == {}


def test_a_recording_is_readable_before_it_ends_and_is_not_replaced(tmp_path) -> None:
    pytest.importorskip("rerun", reason="needs the extra: pip install 'mosaicmem[rerun]'")
    camera = random_cameras(1, torch.Generator().manual_seed(3), width=16, height=8)
    path = tmp_path / "deep" / "a.rrd"
    log = EventLog(path, VAE.decode_image, FPS)
    log.frames(pictures(1, 1), [3], camera)
    log.flush()
    with pytest.warns(match="no footer"):  # which `close` writes
        assert list(at(read(path)["/world/camera"], "translation")) == [3]
    log.close()
    with pytest.raises(OutputExistsError):
        EventLog(path, VAE.decode_image, FPS)
    with EventLog(path, VAE.decode_image, FPS, overwrite=True):
        pass
    assert "/world/camera" not in read(path)
    with pytest.raises(StorageError, match="cannot be written"):
        EventLog(path / "b.rrd", VAE.decode_image, FPS)


def test_without_the_extra_it_says_what_to_install(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mosaicmem\[rerun\]'"):
        EventLog(tmp_path / "a.rrd", VAE.decode_image, FPS)
    assert not list(tmp_path.iterdir())


def test_a_viewer_looks_at_the_world_from_behind_the_newest_camera_and_sees_that_camera() -> None:
    camera = random_cameras(1, torch.Generator().manual_seed(8), width=16, height=8)
    place, target, up = behind(camera, 2.0)
    c2w = camera.c2w[0].numpy()
    at = np.linalg.inv(c2w) @ np.stack([np.append(place, 1), np.append(target, 1), np.append(up, 0)], -1)
    assert at.T[:, :3] == pytest.approx(np.array([[0, -1.8, -3.0], [0, 0, 1.4], [0, -1, 0]]), abs=1e-6)
