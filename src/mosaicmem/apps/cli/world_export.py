"""Write a world in the files of other tools.

  ply         one coloured point cloud; --ascii for text
  colmap      a folder: images, masks where parts are missing, sparse/0 with cameras and points (--ascii for text),
              stereo/depth_maps
  nerfstudio  a folder: transforms.json, images, 16-bit depth, sparse_pc.ply
  vipe        a folder: a clip with its poses, intrinsics and depth, as ViPE leaves it
  rrd         a rerun recording: cameras, pictures, depth and points on a timeline (extra `rerun`)

OUT ending in .ply, .rrd or transforms.json says which; a folder needs --format. The world is exported as it is: what
was erased is gone, what was moved is seen where it lies now, by a camera that moved along, and what no longer holds is
left out (--at SECONDS: as it was then). Pictures are decoded from what memory keeps, by the world's own autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.memory_folder import load_memory, store_file, vae_of
from mosaicmem.apps.cli.options import Computing
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.io.exports import ExportOptions, export_colmap, export_nerfstudio, export_ply, export_rrd, export_vipe
from mosaicmem.io.exports.shots import Decode
from mosaicmem.io.files import refuse_existing
from mosaicmem.memory.store import PatchStore

EXAMPLE = "mosaicmem world export room scene --format colmap"

Format = Literal["ply", "colmap", "nerfstudio", "vipe", "rrd"]


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `world export`."""

    file: Positional[Path]
    """World file, or the memory folder that holds it."""
    target: Annotated[Positional[Path | None], arg(metavar="OUT", help_behavior_hint="(or --out)")] = None
    """File or folder to write."""
    format: Annotated[Format | None, arg(help_behavior_hint="(default: by the name of OUT)")] = None
    """What to write."""
    ascii: bool = False
    """Text instead of binary (points; for colmap all of the model)."""
    points: Literal["cells", "patches"] = "cells"
    """One point a readable cell, or one a patch."""
    voxel_size: float = 0.0
    """Edge of a voxel that keeps one point, world units; 0 keeps all."""
    at: Annotated[float | None, arg(metavar="SECONDS", help_behavior_hint="(default: now)")] = None
    """The world as it was at this second, on the clock of its frames."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where remember found it)")] = None
    """Weights of the pretrained VAE of the memory, if they have moved."""


def run(args: Args, session: Session) -> Result:
    """Decode what is held, and write it."""
    file = store_file(args.file)
    if not file.is_file():
        raise InputError(f"{args.file}: no world file; expected one, or a folder with {file.name} in it")
    if (args.target is None) == (args.out is None):
        raise ConfigError("world export needs one OUT: which file or folder should be written?")
    args.out = args.target = args.target or args.out
    assert args.out is not None
    format = args.format or _by_name(args.out)
    if format == "nerfstudio" and args.out.name == "transforms.json":
        args.out = args.out.parent
    options = ExportOptions(args.points, args.voxel_size, args.at, args.ascii, None, args.overwrite)
    if format in _FOLDERS:
        session.check_out(inputs=[args.file])
    else:
        refuse_existing(args.out, args.overwrite)
    store, meta = load_memory(args.file)
    options = replace(options, metric=meta.metric)
    try:
        vae = vae_of(meta, args.vae, session)
    except InputError:
        if args.vae is not None or format != "ply":
            raise
        session.note = f"nobody knows the autoencoder {meta.vae}: points without colour; --vae DIR says where it is"
        return export(format, args.out, store, None, options, session)
    return export(format, args.out, store, vae.decode_image, options, session)


def export(
    format: Format, out: Path, store: PatchStore, decode: Decode | None, options: ExportOptions, session: Session
) -> Result:
    """Write what a world holds: a folder appears with its `run.json`, whole or not at all.

    Raises:
        ConfigError: without a decoder, unless points alone are written.
    """
    if format == "ply":
        with session.stage("export"):
            done = export_ply(store, decode, out, options)
    elif decode is None:
        raise ConfigError(f"a world is not written as {format} without its autoencoder; give --vae DIR")
    elif format == "rrd":
        with session.stage("export"):
            done = export_rrd(store, decode, out, options)
    else:
        with session.folder() as staging, session.stage("export"):
            done = _FOLDERS[format](store, decode, staging, options)
    session.wrote = out
    unit = {True: "m", False: "world units", None: "world units"}[options.metric]
    counts = [(done.pictures, "pictures with their cameras"), (done.points, f"points ({unit})")]
    data = {"format": format, "pictures": done.pictures, "points": done.points, "voxel_size": options.voxel_size}
    said = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    return Result({**data, "notes": list(done.notes)}, [said, *done.notes])


def _by_name(out: Path) -> Format:
    if out.suffix.lower() == ".ply":
        return "ply"
    if out.suffix.lower() == ".rrd":
        return "rrd"
    if out.name == "transforms.json":
        return "nerfstudio"
    raise ConfigError(f"{out}: the name does not say which format; add --format ply, colmap, nerfstudio, vipe or rrd")


_FOLDERS = {"colmap": export_colmap, "nerfstudio": export_nerfstudio, "vipe": export_vipe}
