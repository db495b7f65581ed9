"""Every format reads the same witness camera; every writable one gives back what it can hold."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import witness
from tests.helpers import random_rotations, shared_data

from mosaicmem.errors import FormatVersionError, InputError, OutputExistsError
from mosaicmem.geometry import se3
from mosaicmem.io.trajectories import FORMATS, Trajectory, detect, read_trajectory, write_trajectory
from mosaicmem.io.trajectories.spec import lost

WRITABLE = [name for name, spec in FORMATS.items() if spec.write and name != "actions"]
FOLDERS = {"colmap-txt", "colmap-bin", "lingbot", "spatia", "vipe", "mat4"}
SUFFIX = {"tum": ".txt", "kitti": ".txt", "re10k": ".txt", "redwood": ".log", "euroc": ".csv"}
ARRAYS = {"npy": ".npy", "llff": ".npy", "gen3c": ".npz", "lyra": ".npz", "mg35": ".npz", "sana-wm": ".npz"}
SUFFIX |= ARRAYS | {"pytorch3d": ".npz"}


@pytest.mark.parametrize("name", witness.NAMES)
def test_the_witness_is_the_same_camera_in_every_format(name: str, tmp_path: Path) -> None:
    path, format, options = witness.make(name, tmp_path)
    trajectory = read_trajectory(path, format=format, **options)
    torch.testing.assert_close(trajectory.viewmats, witness.V[None], atol=1e-7, rtol=0)
    if trajectory.Ks is not None:
        torch.testing.assert_close(trajectory.Ks, witness.K[None], atol=1e-5, rtol=0)
        assert trajectory.cameras(64, 64).width == 64 if trajectory.width else True
    elif format not in {"tum", "kitti", "euroc", "redwood", "mat4", "npy", "recam", "mind", "pytorch3d"}:
        pytest.fail("intrinsics were lost")


@pytest.mark.parametrize("name", witness.NAMES)
def test_the_witness_is_recognised_without_being_told(name: str, tmp_path: Path) -> None:
    path, format, options = witness.make(name, tmp_path)
    best = detect(path)
    assert best[0].format == format
    assert sum(c.confidence > 0.5 for c in best) == 1
    assert len(read_trajectory(path, **options)) == 1


def random_trajectory(seed: int, n: int = 4) -> Trajectory:
    generator = torch.Generator().manual_seed(seed)
    R = random_rotations(n, generator)
    t = 5 * torch.randn(n, 3, generator=generator, dtype=torch.float64)
    Ks = torch.eye(3, dtype=torch.float64).repeat(n, 1, 1)
    f = 40 + 60 * torch.rand(generator=generator, size=(), dtype=torch.float64)
    Ks[:, 0, 0] = Ks[:, 1, 1] = f
    Ks[:, 0, 2], Ks[:, 1, 2] = 32, 24
    time = torch.arange(n, dtype=torch.float64) / 16
    return Trajectory(
        se3.make_transform(R, t), Ks, time, width=64, height=48, names=tuple(f"f{i:03d}.png" for i in range(n))
    )


def target(folder: Path, format: str) -> Path:
    return folder / (format if format in FOLDERS else f"{format}{SUFFIX.get(format, '.json')}")


def close(a: Trajectory, b: Trajectory, atol: float) -> None:
    torch.testing.assert_close(a.viewmats, b.viewmats, atol=atol, rtol=atol)


def tolerance(*formats: str) -> float:
    return 2e-6 if "predecessor" in formats else 1e-12


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small files: what a power cut would do to them is tested elsewhere."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.mark.parametrize("format", WRITABLE)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10_000))
def test_writing_and_reading_gives_the_same_cameras(format: str, seed: int, tmp_path: Path) -> None:
    given = random_trajectory(seed)
    path = target(tmp_path / str(seed), format)
    losses = write_trajectory(given, path, format=format, overwrite=True)
    options = {"size": (64, 48)} if FORMATS[format].loses.count("S") and format != "predecessor" else {}
    back = read_trajectory(path, format=format, **options)
    close(back, given, 20 * tolerance(format))
    if "intrinsics" in losses:
        assert back.Ks is None
    else:
        assert back.Ks is not None and given.Ks is not None
        torch.testing.assert_close(back.Ks, given.Ks, atol=1e-9, rtol=1e-12)
        assert (back.width, back.height) == (64, 48)
    if "names" not in losses:
        assert back.names == given.names or format == "recam"


def test_every_ordered_pair_of_formats_agrees(tmp_path: Path) -> None:
    start = random_trajectory(3, 2)
    assert start.Ks is not None
    point = torch.tensor([0.3, -0.2, 9.0], dtype=torch.float64)
    for first in WRITABLE:
        path = target(tmp_path / "start" / first, first)
        write_trajectory(start, path, format=first)
        middle = read_trajectory(path, format=first)
        if middle.Ks is None or middle.width is None or middle.normalised:
            middle = middle.with_intrinsics(start.Ks, 64, 48)
        for second in WRITABLE:
            path = target(tmp_path / f"{first}-{second}", second)
            write_trajectory(middle, path, format=second)
            end = read_trajectory(path, format=second)
            close(end, start, 50 * tolerance(first, second))
            if end.Ks is not None and end.width == 64:
                torch.testing.assert_close(pixel(end, point), pixel(start, point), atol=1e-2, rtol=1e-4)


def pixel(trajectory: Trajectory, point: torch.Tensor) -> torch.Tensor:
    assert trajectory.Ks is not None
    seen = trajectory.Ks[0] @ (trajectory.viewmats[0, :3, :3] @ point + trajectory.viewmats[0, :3, 3])
    return seen[:2] / seen[2]


@pytest.mark.parametrize("format", WRITABLE)
def test_what_is_lost_is_said_and_strict_refuses(format: str, tmp_path: Path) -> None:
    full = dataclasses.replace(
        random_trajectory(5),
        nominal_time=False,
        timestamps=torch.tensor([0.1, 0.2, 0.7, 0.9], dtype=torch.float64),
        distortion=torch.full((4, 4), 0.1, dtype=torch.float64),
    )
    assert full.Ks is not None
    full.Ks[2, 0, 2] += 1
    path = target(tmp_path, format)
    losses = lost(full, FORMATS[format])
    if losses:
        with pytest.raises(InputError, match="would lose"):
            write_trajectory(full, path, format=format, strict=True)
        assert not path.exists()
    assert write_trajectory(full, path, format=format) == losses
    options = {"size": (64, 48)} if format in {"re10k", "spatia"} else {}
    back = read_trajectory(path, format=format, **options)
    assert ("intrinsics" in losses) == (back.Ks is None)
    if "timestamps" not in losses:
        torch.testing.assert_close(back.timestamps, full.timestamps, atol=1e-6, rtol=0)
    kept = not {"distortion", "intrinsics"} & set(losses)
    assert kept == (back.distortion is not None)
    if not {"varying intrinsics", "principal point or pixel aspect", "intrinsics"} & set(losses):
        torch.testing.assert_close(back.Ks, full.Ks, atol=1e-9, rtol=0)
    with pytest.raises(OutputExistsError):
        write_trajectory(full, path, format=format)
    write_trajectory(full, path, format=format, overwrite=True)


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_our_own_files_keep_every_bit(suffix: str, tmp_path: Path) -> None:
    full = dataclasses.replace(
        random_trajectory(7),
        metric=True,
        assumed=("a", "b"),
        fisheye=True,
        nominal_time=False,
        distortion=torch.rand(4, 4, dtype=torch.float64),
        extra={"author": {"name": "x"}} if suffix == ".json" else {},
    )
    assert write_trajectory(full, tmp_path / f"a{suffix}", strict=True) == ()
    back = read_trajectory(tmp_path / f"a{suffix}")
    for field in dataclasses.fields(Trajectory):
        if field.name == "source":
            continue
        a, b = getattr(full, field.name), getattr(back, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, field.name


def test_a_newer_version_is_refused_by_number(tmp_path: Path) -> None:
    path, _, _ = witness.make("mosaicmem", tmp_path)
    path.write_text(path.read_text().replace('"version":1', '"version":9'))
    with pytest.raises(FormatVersionError, match=r"version 9.*known one is 1"):
        read_trajectory(path)


def test_the_written_tum_is_what_evo_accepts(tmp_path: Path) -> None:
    write_trajectory(random_trajectory(1), tmp_path / "a.tum")
    for row in (tmp_path / "a.tum").read_text().splitlines():
        assert row == " ".join(row.split()) and len(row.split()) == 8
        assert float(row.split()[7]) >= 0


def test_colmap_witness_sizes(tmp_path: Path) -> None:
    path, _, _ = witness.make("colmap-txt", tmp_path / "a")
    write_trajectory(read_trajectory(path), tmp_path / "b", format="colmap-bin")
    assert (tmp_path / "b/cameras.bin").stat().st_size == 64
    assert (tmp_path / "b/images.bin").stat().st_size == 86


def test_cameras_take_the_size_asked_for(tmp_path: Path) -> None:
    path, _, _ = witness.make("nerfstudio", tmp_path)
    trajectory = read_trajectory(path)
    wide = trajectory.cameras(128, 32)
    assert wide.Ks[0].tolist() == [[128, 0, 64], [0, 32, 16], [0, 0, 1]]
    assert trajectory.cameras().width == 64
    assert trajectory.cameras(100, 50, fov_degrees=90).Ks[0, 0, 0] == pytest.approx(50)
    path, _, _ = witness.make("tum", tmp_path / "tum")
    with pytest.raises(InputError, match="no image size"):
        read_trajectory(path).cameras()
    assert read_trajectory(path).cameras(80, 60).Ks[0, 0, 0] == pytest.approx(80)
    path, _, _ = witness.make("re10k", tmp_path / "re10k")
    with pytest.raises(InputError, match="no image size"):
        read_trajectory(path).cameras()
    assert read_trajectory(path).cameras(200, 100).Ks[0, :2].tolist() == [[200, 0, 100], [0, 100, 50]]
    path, _, _ = witness.make("lingbot", tmp_path / "lingbot")
    with pytest.raises(InputError, match="they look like 64x64"):
        read_trajectory(path).cameras(128, 128)


def test_slices_keep_everything_together() -> None:
    whole = random_trajectory(2, 6)
    part = whole[1:5:2]
    assert part.names == ("f001.png", "f003.png")
    assert torch.equal(part.viewmats, whole.viewmats[[1, 3]])
    assert torch.equal(whole[-1].timestamps, whole.timestamps[-1:])
    torch.testing.assert_close(whole.c2w @ whole.viewmats, torch.eye(4, dtype=torch.float64).expand(6, 4, 4))


def test_real_files_read_to_cameras() -> None:
    icl = read_trajectory(shared_data("icl_living_room", "trajectory.log"))
    assert len(icl) == 211 and icl.Ks is None and icl.nominal_time
    clip = read_trajectory(next(shared_data("realestate10k").glob("*.txt")), size=(1280, 720))
    assert float(clip.timestamps.diff().median()) == pytest.approx(0.0334, abs=1e-4)
    assert clip.cameras(640, 360).Ks[0, 0, 0] == pytest.approx(clip.Ks[0, 0, 0].item() / 2)  # pyright: ignore
    world = read_trajectory(shared_data("lingbot_world", "00"), size=(832, 480)).cameras(1280, 720)
    assert world.Ks[0, 0, 0] == pytest.approx(502.9116 * 1280 / 832, rel=1e-5)
    assert np.isfinite(world.viewmats.numpy()).all()
