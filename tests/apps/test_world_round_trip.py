"""Out of a world and into another through the files of other tools: the same cameras, depth and coverage."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mosaicmem.apps.cli.memory_folder import load_memory
from mosaicmem.io.exports.shots import camera_now
from mosaicmem.io.trajectories import read_trajectory
from mosaicmem.memory.patches import Group
from mosaicmem.memory.retrieval import RetrievalConfig, retrieve
from mosaicmem.memory.store import PatchStore


@pytest.fixture
def world(run, memory: Path, tmp_path: Path) -> Path:
    """A memory in which one frame lies elsewhere, larger, and a place is erased that several frames see."""
    folder = tmp_path / "world"
    shutil.copytree(memory, folder)
    store, _ = load_memory(folder)
    x, y, z = (f"{float(v):.3f}" for v in store.centers[store.num_patches // 2])
    assert run("edit", folder, "scale", "--frames", "4:5", "--factor", "1.5").code == 0
    assert run("edit", folder, "erase", "--sphere", f"{x},{y},{z},0.6").code == 0
    edited, _ = load_memory(folder)
    assert 0 < edited.num_patches < store.num_patches and len(edited) == len(store), "control: something went"
    assert any(group.mask is not None for group in edited), "control: of some frames a part"
    return folder


def depth_of(group: Group) -> np.ndarray:
    """Depth of what can be read, world units, 0 elsewhere."""
    return (group.keyframe.depth.double() * camera_now(group)[1] * group.valid).numpy()


def shown(store: PatchStore, cameras, grid) -> list[float]:
    return retrieve(store, cameras, grid, RetrievalConfig()).coverage.tolist()


@pytest.mark.parametrize(
    ("format", "more", "precision"),
    [
        ("colmap", (), 1e-6),
        ("colmap", ("--ascii",), 1e-6),
        ("nerfstudio", (), 6e-4),
        ("vipe", (), 5e-3),
    ],
    ids=["colmap binary", "colmap text", "nerfstudio", "vipe"],
)
def test_a_world_comes_back(run, world, path, tmp_path, format, more, precision) -> None:
    assert run("world", "export", world, tmp_path / "out", "--format", format, *more).code == 0
    into = tmp_path / "back.mosaic"
    ran = run("world", "import", tmp_path / "out", into, "--vae", "pixels", "--size", "native", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["kind"], ran.json["depth"]) == (format, "maps")
    (before, meta), (after, _) = load_memory(world), load_memory(into)
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        there, here = camera_now(old)[0], camera_now(new)[0]
        assert (there.viewmats - here.viewmats).abs().max() < 1e-6
        assert (there.Ks - here.Ks).abs().max() < 1e-6
        assert (new.valid == old.valid).all()
        assert depth_of(new) == pytest.approx(depth_of(old), abs=precision)
        if format != "vipe":  # whose video is lossy
            inside = old.valid[None].expand_as(old.keyframe.latents)
            assert torch.allclose(new.keyframe.latents[inside], old.keyframe.latents[inside], atol=0.005)
    cameras = read_trajectory(path).cameras()[1::3]
    known = shown(before, cameras, meta.grid)
    assert shown(after, cameras, meta.grid) == pytest.approx(known, abs=0.02)
    assert min(known) > 0.2 and max(known) < 1, "control"
