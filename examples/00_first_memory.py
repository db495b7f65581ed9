"""A first memory: look at a room from a few places, then ask memory what a new place looks like.

Run: python examples/00_first_memory.py [--out DIR]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import tyro

import mosaicmem as mm
from mosaicmem.evaluation.metrics import psnr
from mosaicmem.generation.rollout import to_u8
from mosaicmem.geometry.trajectories import move
from mosaicmem.io.files import write_image
from mosaicmem.io.video import contact_sheet

PINK = torch.tensor([0.9, -0.2, 0.4])[:, None, None]


def main(out: Path | None = None) -> None:
    """Remember five frames of a procedural room and show a sixth view from memory.

    Args:
        out: Folder for the picture; a temporary one by default.
    """
    out = out or Path(tempfile.mkdtemp(prefix="mosaicmem-"))

    # Five cameras that turn to the right in a furnished room, and a new one between them, a step to the side.
    room = mm.make_scene(5, rooms=1, movers=False)
    turn = room.walk(0, 37, "look_around", width=320, height=240)
    seen, new = turn[[0, 2, 4, 6, 8]], move(turn[4], (0.25, 0.0, 0.15), frames=2)[-1]

    # Lift each frame: its latent, a depth for every cell, and the camera it was seen by.
    vae = mm.PixelShuffleVAE(stride=1)
    grid = mm.TokenGrid(320, 240, stride=vae.stride, patch=2, temporal=vae.temporal)
    frames = room.render(seen)
    latents = vae.encode_image(frames.rgb)
    memory = mm.PatchStore.empty()
    for i in range(len(seen)):
        memory = memory.insert(mm.lift(latents[i], frames.depth[i], seen[i], grid, frame=i))
    print(f"memory: {memory.num_patches:,} patches of {len(memory)} frames")

    # Ask for the new view: a mosaic says which cell of which frame is seen where, and the canvas reads the latents.
    mosaic = mm.retrieve(memory, new, grid)
    picture, good = mm.canvas(memory, mosaic)
    shown = torch.where(good[:, None], vae.decode_image(picture), PINK)

    truth = room.render(new).rgb
    score = psnr(shown, truth, good).item()
    print(f"new view: {100 * mosaic.coverage.item():.1f} % remembered, {score:.1f} dB there, from {mosaic.picked[0]}")

    labels = ["remembered: frame 0", "remembered: frame 4", f"mosaic, {score:.1f} dB (pink: never seen)", "truth"]
    sheet = contact_sheet(to_u8(torch.cat([frames.rgb[[0, 4]], shown, truth])), labels, columns=2)
    write_image(out / "first_memory.png", sheet, overwrite=True)
    print(f"wrote {out / 'first_memory.png'}")


if __name__ == "__main__":
    tyro.cli(main)
