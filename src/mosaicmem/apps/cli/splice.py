"""Join two memories into one world, or two trajectories into one path.

The second is placed beside the first (--layout horizontal), above it (vertical), door to door (doorway, with --door-a
and --door-b), or exactly where --transform says: a similarity that takes coordinates of B to coordinates of A.

Writes, for memories: a memory folder with map.png, a preview. For trajectories: trajectory.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import OmitArgPrefixes, Positional, arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.memory_folder import is_memory, load_memory, remembered_cameras, save_memory, vae_of
from mosaicmem.apps.cli.options import Computing
from mosaicmem.apps.cli.placement import Placement, placed
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.visualize import memory_map
from mosaicmem.errors import InputError
from mosaicmem.geometry import se3
from mosaicmem.io.files import write_image
from mosaicmem.io.trajectories import Trajectory, read_trajectory, write_trajectory
from mosaicmem.memory.editing import splice as join

EXAMPLE = "mosaicmem splice room_a room_b --layout horizontal --offset 2 --out both"


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `splice`."""

    a: Positional[Path]
    """Memory folder or trajectory file that stays where it is."""
    b: Positional[Path]
    """The one that is moved; of the same kind."""
    place: Annotated[Placement, OmitArgPrefixes] = field(default_factory=Placement)
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where remember found it)")] = None
    """Weights of the pretrained VAE of the memories, if they have moved."""


def run(args: Args, session: Session) -> Result:
    """Splice memories or trajectories, by what A and B are."""
    session.check_out(inputs=[args.a, args.b])
    kinds = [is_memory(path) for path in (args.a, args.b)]
    if kinds[0] != kinds[1]:
        names = ["a memory" if kind else "a trajectory" for kind in kinds]
        raise InputError(f"{args.a} is {names[0]}, {args.b} is {names[1]}; expected two of one kind")
    args.place.given()  # refused before anything is read
    return _memories(args, session) if kinds[0] else _trajectories(args, session)


def _memories(args: Args, session: Session) -> Result:
    store_a, meta_a = load_memory(args.a)
    store_b, meta_b = load_memory(args.b)
    if meta_a.vae != meta_b.vae or meta_a.grid != meta_b.grid:
        raise InputError(
            f"{args.a} ({meta_a.vae}, {meta_a.width}x{meta_a.height}) and {args.b} ({meta_b.vae}, "
            f"{meta_b.width}x{meta_b.height}) do not share one latent space and image size; remember them alike"
        )
    if not len(store_a) or not len(store_b):
        raise InputError(f"{args.a if not len(store_a) else args.b}: an empty memory; nothing to splice")
    vae = vae_of(meta_a, args.vae, session)
    a_from_b = args.place.a_from_b(store_a.centers, store_b.centers)
    store = join(store_a, store_b, a_from_b)
    source = f"splice of {meta_a.source} and {meta_b.source}"
    meta = replace(
        meta_a,
        source=source[:4000],
        frames=[*meta_a.frames, *meta_b.frames],
        metric=meta_a.metric if meta_a.metric == meta_b.metric else None,
    )
    with session.folder(inputs=[args.a, args.b]) as out, session.stage("write"):
        save_memory(out, store, meta)
        cameras = remembered_cameras(store)
        assert cameras is not None
        write_image(out / "map.png", memory_map(store, vae, cameras, meta.unit, f"{args.a.name} + {args.b.name}"))
        write_trajectory(Trajectory.from_cameras(cameras, metric=meta.metric), out / "trajectory.json")
    counts = (store_a.num_patches, store_b.num_patches, store.num_patches)
    data = {"kind": "memory", "patches_a": counts[0], "patches_b": counts[1], "patches": counts[2]}
    text = [f"{counts[0]:,} + {counts[1]:,} = {counts[2]:,} patches of {len(store)} frames", placed(a_from_b)]
    return Result({**data, "a_from_b": a_from_b.tolist()}, text)


def _trajectories(args: Args, session: Session) -> Result:
    a, b = read_trajectory(args.a), read_trajectory(args.b)
    a_from_b = args.place.a_from_b(a.centers, b.centers)
    scale = float(torch.linalg.det(a_from_b[:3, :3]) ** (1 / 3))
    centers = b.centers @ a_from_b[:3, :3].T + a_from_b[:3, 3]
    rotation = b.viewmats[:, :3, :3] @ (a_from_b[:3, :3] / scale).T
    moved = se3.make_transform(rotation, -(rotation @ centers[..., None]).squeeze(-1))
    step = float(a.timestamps.diff().median()) if len(a) > 1 else 1 / 16
    times = torch.cat([a.timestamps, b.timestamps - b.timestamps[0] + a.timestamps[-1] + step])
    same_lens = a.Ks is not None and b.Ks is not None and (a.width, a.height) == (b.width, b.height)
    joined = Trajectory(
        torch.cat([a.viewmats, moved]),
        torch.cat([a.Ks, b.Ks]) if same_lens and a.Ks is not None and b.Ks is not None else None,
        times,
        nominal_time=a.nominal_time or b.nominal_time,
        width=a.width if same_lens else None,
        height=a.height if same_lens else None,
        metric=a.metric if a.metric == b.metric else None,
    )
    with session.folder(inputs=[args.a, args.b]) as out, session.stage("write"):
        write_trajectory(joined, out / "trajectory.json")
    data = {"kind": "trajectory", "poses_a": len(a), "poses_b": len(b), "poses": len(joined)}
    return Result(
        {**data, "a_from_b": a_from_b.tolist()}, [f"{len(a)} + {len(b)} = {len(joined)} poses", placed(a_from_b)]
    )
