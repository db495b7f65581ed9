"""A tiny recording of a procedural room, the memory of it, and a way to run commands in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny_models import write_tiny_model

from mosaicmem.apps.cli.main import main
from mosaicmem.apps.cli.views import to_u8
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.trajectories import Trajectory, write_trajectory
from mosaicmem.worlds import make_scene

SIZE = (48, 32)
FRAMES = 9


@dataclass(frozen=True)
class Ran:
    """What a command returned and printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout; fails where anything else stands beside it."""
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("inspect", path)`: a command in this process."""

    def runner(*argv: object) -> Ran:
        capsys.readouterr()
        threads = torch.get_num_threads()
        try:
            code = main([str(word) for word in argv])
        finally:
            torch.set_num_threads(threads)
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return runner


def write_recording(folder: Path, cameras: Cameras, rgb: torch.Tensor, depth: torch.Tensor) -> Path:
    """Images, millimetre depth and a trajectory with intrinsics, as `remember` reads them."""
    for name in ("image", "depth"):
        (folder / name).mkdir(parents=True)
    for i in range(len(cameras)):
        Image.fromarray(to_u8(rgb[i])).save(folder / "image" / f"{i:05d}.png")
        millimetres = (depth[i] * 1000).round().numpy().astype(np.uint16)
        Image.fromarray(millimetres).save(folder / "depth" / f"{i:05d}.png")
    write_trajectory(Trajectory.from_cameras(cameras, metric=True), folder / "trajectory.json")
    return folder


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine frames of 48x32 of a walk, exact depth."""
    scene = make_scene(5, movers=False)
    walk = scene.walk(5, 40, width=SIZE[0], height=SIZE[1])[:FRAMES]
    shown = scene.render(walk.to(dtype=torch.float32))
    return write_recording(tmp_path_factory.mktemp("data") / "recording", walk, shown.rgb, shown.depth)


@pytest.fixture(scope="session")
def memory(recording: Path) -> Path:
    """The memory of every other frame of the recording."""
    out = recording.parent / "memory"
    assert main(["remember", str(recording), "--frames", "::2", "--out", str(out), "-q"]) == 0
    return out


@pytest.fixture
def path(recording: Path) -> Path:
    """The trajectory of the recording."""
    return recording / "trajectory.json"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model of random weights."""
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def everything_in(folder: Path) -> set[str]:
    """Names of all files below a folder, hidden ones included."""
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}
