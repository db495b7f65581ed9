"""There and back: walk through a doorway, then walk backwards to where it all began. Does home look the same?

The way there is seen, and every other frame of it remembered. The way back is generated twice, from memory and from
the last frame alone. Everything is synthetic: the world is rendered, and the generator has no weights, it shows what
it is given and fills holes smoothly.

Run: python examples/01_revisit.py [--out DIR]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import tyro

import mosaicmem as mm
from mosaicmem.evaluation.metrics import psnr
from mosaicmem.generation.backend import Models
from mosaicmem.generation.rollout import from_u8, to_u8
from mosaicmem.generation.state import observe, start
from mosaicmem.geometry.trajectories import there_and_back
from mosaicmem.io.files import write_image
from mosaicmem.io.video import contact_sheet, write_video


def main(out: Path | None = None) -> None:
    """Compare the way back with memory, without it, and with the truth.

    Args:
        out: Folder for the pictures; a temporary one by default.
    """
    out = out or Path(tempfile.mkdtemp(prefix="mosaicmem-"))
    scene = mm.make_scene(0, movers=False)
    print(scene.caption)

    there = scene.walk(0, 52, "there_and_back", width=96, height=72)[:13]
    back = there_and_back(there)[len(there) :]
    seen = scene.render(there)
    truth = seen.rgb.flip(0)[1:]

    ways, scores = {"truth": to_u8(truth)}, {}
    for name, use_memory in (("with memory", True), ("without", False)):
        models = Models(mm.PixelShuffleVAE(), mm.Compositor(use_memory))
        state = start(models, seen.rgb[0], there[0], seen.depth[0])
        state = observe(models, state, seen.rgb[1:], there[1:], seen.depth[1:], every=2)
        events = [event for _, event in mm.rollout(models, state, back, window=5)]
        ways[name] = np.concatenate([event.frames_u8 for event in events])
        scores[name] = psnr(from_u8(ways[name]), truth)
        print(
            f"{events[0].label} {name:11} {scores[name].mean():4.1f} dB on the way, {scores[name][-1]:4.1f} dB at home"
        )

    moments = [1, 4, 8, 11]  # a column each; the last one is home
    pictures = [frames[i] for frames in ways.values() for i in moments]
    labels = [f"{name}, {scores[name][i]:.1f} dB" if name in scores else name for name in ways for i in moments]
    write_image(out / "revisit.png", contact_sheet(pictures, labels, columns=len(moments)), overwrite=True)
    write_video(out / "with_memory.mp4", ways["with memory"], fps=8, overwrite=True)
    print(f"wrote {out / 'revisit.png'} and with_memory.mp4")


if __name__ == "__main__":
    tyro.cli(main)
