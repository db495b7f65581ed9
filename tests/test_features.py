"""docs/features.md and docs/laws.md keep their word: what they point at exists. And rows that belong to no room."""

from __future__ import annotations

import ast
import json
import re

import pytest
import torch
from tests.helpers import ROOT, circle32

from mosaicmem import PatchStore, TokenGrid, Trajectory, lift, read_trajectory, retrieve, write_trajectory
from mosaicmem.errors import InputError
from mosaicmem.generation.noise import frame_noise
from mosaicmem.geometry.trajectories import select_keyframes


def rows_of(page: str) -> list[list[str]]:
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]


ROWS = rows_of("features.md")


def test_every_row_that_holds_says_where() -> None:
    rows = [row for row in ROWS if row[0] != "id"]
    assert len(rows) > 150
    for name, mark, ours, where in rows:
        assert mark in ("✓", "part", "*later*", "*dropped*"), name
        assert ours
        assert bool(re.fullmatch(r"`[^`]+`", where)) == (mark in ("✓", "part")), name


@pytest.mark.parametrize("page", ["features.md", "laws.md"])
def test_everything_a_page_points_at_exists(page: str) -> None:
    found: dict[str, set[str]] = {}
    for row in rows_of(page):
        file, _, name = row[-1].strip("`").partition("::")
        if not name:
            assert file in ("", "where", "*later*") or (ROOT / file).exists(), row[0]
            continue
        if file not in found:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            found[file] = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in found[file], f"{row[0]}: {file} has no {name}"


def test_e05_an_error_keeps_its_cause(tmp_path) -> None:
    path = tmp_path / "path.json"
    path.write_text("{")
    with pytest.raises(InputError) as caught:
        read_trajectory(path, format="mosaicmem")
    assert isinstance(caught.value.__cause__, json.JSONDecodeError)


def test_g02_duration() -> None:
    times = Trajectory.from_cameras(circle32(), fps=30).timestamps
    assert float(times[-1] - times[0]) == pytest.approx(1.033333, abs=1e-6)


def test_g34_the_crates_trajectory_of_circle_32(tmp_path) -> None:
    cameras = circle32(torch.float64)
    write_trajectory(Trajectory.from_cameras(cameras, fps=30), tmp_path / "trajectory.json", format="predecessor")
    back = read_trajectory(tmp_path / "trajectory.json")
    assert len(back) == 32
    assert float(back.centers.diff(dim=0).norm(dim=-1).sum()) == pytest.approx(30.385, abs=1e-3)
    assert select_keyframes(back.cameras(64, 64), 0.5, 0.1) == list(range(32))


def test_d26_a_flat_scene_of_thousands_of_aligned_patches() -> None:
    camera, grid = circle32()[0], TokenGrid(64, 64, stride=1, patch=1, temporal=1)
    wall = lift(torch.zeros(1, 64, 64), torch.full((64, 64), 4.0), camera, grid)
    store = PatchStore.empty().insert(wall).insert(wall)
    assert store.num_patches == 2 * 64 * 64
    assert float(retrieve(store, camera, grid).coverage) == 1
    nearest = store.nearest(store.centers[100], 2)
    assert sorted(nearest.tolist()) == [100, 100 + 64 * 64]


def test_d42_noise_is_gaussian() -> None:
    noise = frame_noise(0, list(range(8)), (4, 32, 32)).double().flatten()
    assert noise.mean().abs() < 0.02 and (noise.std() - 1).abs() < 0.02
    assert (noise.pow(4).mean() - 3).abs() < 0.15, "kurtosis; 1.8 for uniform noise"
    assert noise.abs().max() > 3.5
