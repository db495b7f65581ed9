"""Edit a world by editing its memory: take the sofa away, move it, show it twice, mirror the room.

A memory goes in and a memory comes out, so undo is keeping the old one. An edit moves geometry, so what it uncovers,
hides and shows from another side follows by itself. Pink is what nobody has seen, such as the wall behind the sofa.

Run: python examples/02_edit_a_world.py [--out DIR]
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import tyro

import mosaicmem as mm
from mosaicmem.generation.rollout import to_u8
from mosaicmem.geometry.projection import pixel_centers
from mosaicmem.geometry.se3 import translation
from mosaicmem.io.files import write_image
from mosaicmem.io.video import contact_sheet
from mosaicmem.memory import editing

WIDTH, HEIGHT = 320, 240
GRID = mm.TokenGrid(WIDTH, HEIGHT, stride=1, patch=2, temporal=1)
PINK = torch.tensor([0.9, -0.2, 0.4])[:, None, None]


def main(out: Path | None = None) -> None:
    """Edit what is remembered of a room and look at it from a place where nobody stood.

    Args:
        out: Folder for the picture; a temporary one by default.
    """
    out = out or Path(tempfile.mkdtemp(prefix="mosaicmem-"))
    room = mm.make_scene(9, rooms=1, movers=False)
    turn = room.walk(0, 65, "look_around", width=WIDTH, height=HEIGHT)
    seen, view = turn[[25, 31, 37]], turn[32]

    frames = room.render(seen)
    vae = mm.PixelShuffleVAE()
    memory = mm.PatchStore.empty()
    for i, latents in enumerate(vae.encode_image(frames.rgb)):
        memory = memory.insert(mm.lift(latents, frames.depth[i], seen[i], GRID, frame=i))

    # What is the sofa? The box around its points, a little wider.
    sofa = frames.object_id == room.names.index("sofa")
    uv = pixel_centers(WIDTH, HEIGHT).reshape(1, -1, 2).expand(len(seen), -1, -1)
    points = seen.unproject(uv, frames.depth.flatten(1))[sofa.flatten(1)]
    low, high = points.amin(0) - 0.03, points.amax(0) + 0.03
    selection = editing.box(low, high)

    # One step along the view's own axes: (right, down, forward) in metres, as a motion of the world.
    def step(right: float, forward: float) -> torch.Tensor:
        return translation((right * view.right[0] + forward * view.forward[0]).double())

    edits = {
        "as it was": memory,
        "erased": editing.erase(memory, selection),
        "moved": editing.transform(memory, selection, step(right=-0.5, forward=-0.6)),
        "duplicated": editing.duplicate(memory, selection, step(right=-1.2, forward=-0.25)),
        "mirrored": editing.mirror(memory, view.right[0], view.centers[0]),
    }
    pictures, labels = [room.render(view).rgb], ["truth"]
    for name, edited in edits.items():
        mosaic = mm.retrieve(edited, view, GRID)
        canvas, good = mm.canvas(edited, mosaic)
        pictures.append(torch.where(good[:, None], vae.decode_image(canvas), PINK))
        labels.append(f"{name}, {100 * mosaic.coverage.item():.0f} % known")
        print(f"{name:11} {edited.num_patches:7,} patches, {100 * mosaic.coverage.item():5.1f} % of the view known")

    write_image(out / "edits.png", contact_sheet(to_u8(torch.cat(pictures)), labels, columns=3), overwrite=True)
    print(f"wrote {out / 'edits.png'}")


if __name__ == "__main__":
    tyro.cli(main)
