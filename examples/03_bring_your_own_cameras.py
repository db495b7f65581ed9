"""Bring your own cameras: write one path in several formats, convert it, and be told about one that is wrong.

Run: python examples/03_bring_your_own_cameras.py [--out DIR]
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
import tyro

import mosaicmem as mm
from mosaicmem.geometry.trajectories import orbit
from mosaicmem.io.trajectories import detect


def main(out: Path | None = None) -> None:
    """Write, read back, convert and check a camera path.

    Args:
        out: Folder for the files; a temporary one by default.
    """
    out = out or Path(tempfile.mkdtemp(prefix="mosaicmem-"))

    # A quarter of a circle around a table, eyes 1.5 m above the floor; y points down.
    eye, target, up = torch.tensor([[5.0, -1.5, 3.0], [4.0, -0.7, 3.0], [0.0, -1.0, 0.0]])[:, None].double()
    first = mm.Cameras.from_fov(mm.look_at(eye, target, up), 640, 480, fov_degrees=60)
    path = orbit(first, target[0], up[0], degrees=90, frames=12)
    trajectory = mm.Trajectory.from_cameras(path, fps=24, metric=True)

    # Each format keeps what it can hold and says what it cannot.
    for name, format in [
        ("path.json", "mosaicmem"),
        ("transforms.json", "nerfstudio"),
        ("path.tum", "tum"),
        ("path.log", "redwood"),
        ("colmap", "colmap-txt"),
    ]:
        lost = mm.write_trajectory(trajectory, out / name, format=format, overwrite=True)
        found = detect(out / name)[0]
        back = mm.read_trajectory(out / name)
        error = (back.viewmats - trajectory.viewmats).abs().max()
        print(f"{name:16} read as {found.format:11} poses within {error:.0e}, lost: {', '.join(lost) or 'nothing'}")

    # Converting is reading one and writing another; axes, directions and quaternion orders are the formats' business.
    nerfstudio = mm.read_trajectory(out / "transforms.json")
    mm.write_trajectory(nerfstudio, out / "converted.json", overwrite=True)
    print(f"converted.json   {len(nerfstudio)} poses, {nerfstudio.width}x{nerfstudio.height}, first at ", end="")
    print(", ".join(f"{x:.2f}" for x in nerfstudio.centers[0].tolist()))

    # The commonest mistake: camera-from-world matrices in a file that promises world-from-camera.
    wrong = replace(trajectory, viewmats=trajectory.c2w)
    mm.write_trajectory(wrong, out / "wrong.log", overwrite=True)
    for finding in mm.lint(out / "wrong.log"):
        print(f"wrong.log        {finding}")


if __name__ == "__main__":
    tyro.cli(main)
