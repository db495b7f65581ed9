"""A memory as a coloured point cloud: every readable cell in its true place and colour.

--out names the file. Points are thinned to one per voxel of --voxel-size world units; 0 keeps them all.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.memory_folder import load_memory, vae_of
from mosaicmem.apps.cli.options import Computing
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.world_export import export
from mosaicmem.errors import ConfigError
from mosaicmem.io.exports import ExportOptions
from mosaicmem.io.exports.ply import world_cloud
from mosaicmem.io.files import refuse_existing
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.vae import VAE

EXAMPLE = "mosaicmem export-ply room --out room.ply"


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `export-ply`."""

    memory: Positional[Path]
    """Folder written by remember."""
    voxel_size: float = 0.05
    """Edge of a voxel that keeps one point, world units; 0 keeps all."""
    ascii: bool = False
    """Text instead of binary."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where remember found it)")] = None
    """Weights of the pretrained VAE of the memory, if they have moved."""


def run(args: Args, session: Session) -> Result:
    """Write the cloud."""
    if args.out is None:
        raise ConfigError("export-ply needs --out FILE: where should the cloud go?")
    options = ExportOptions(voxel_size=args.voxel_size, ascii=args.ascii, overwrite=args.overwrite)
    refuse_existing(args.out, args.overwrite)
    store, meta = load_memory(args.memory)
    vae = vae_of(meta, args.vae, session)
    return export("ply", args.out, store, vae.decode_image, replace(options, metric=meta.metric), session)


def store_points(store: PatchStore, vae: VAE, voxel: float) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """World points `[n 3]` and colours `[n 3]` of all readable cells, the first of each voxel; order is stable."""
    cloud = world_cloud(store, vae.decode_image, ExportOptions(voxel_size=voxel))
    return cloud.xyz.astype(np.float32), cloud.rgb
