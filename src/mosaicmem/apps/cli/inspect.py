"""What a memory or a trajectory holds.

--coverage prints, for every pose, the share of the view that memory shows (true footprints, occlusion included).
--why FRAME lists the groups of memory that were chosen for a pose, and for each rejected one the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from mosaicmem.apps.cli.console import Result, bar, table
from mosaicmem.apps.cli.memory_folder import MemoryMeta, is_memory, load_memory, remembered_cameras, vae_label
from mosaicmem.apps.cli.options import Common
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.sources import Poses, TrajectoryOptions, cameras_at, trajectory_statistics
from mosaicmem.apps.cli.visualize import memory_statistics, statistics_text
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.memory.mosaic import Mosaic, Reason
from mosaicmem.memory.retrieval import RetrievalConfig, retrieve
from mosaicmem.memory.store import PatchStore

EXAMPLE = "mosaicmem inspect room --trajectory path.json --coverage"

REASONS = {
    Reason.kept: "kept",
    Reason.context: "in the model's own context",
    Reason.invalid: "holds no depth",
    Reason.outside: "outside the view",
    Reason.hidden: "hidden behind something nearer",
    Reason.coarse: "seen from too far away",
    Reason.duplicate: "shown better by those kept",
    Reason.budget: "would add, but the budget is spent",
    Reason.superseded: "no longer true, or not yet",
    Reason.behind: "seen from behind",
}


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `inspect`."""

    source: Positional[Path]
    """Memory folder or trajectory file."""
    trajectory: Annotated[Path | None, arg(aliases=["-t"], metavar="FILE", help_behavior_hint="")] = None
    """Poses for --coverage and --why; default: those the memory was seen from."""
    read: Annotated[TrajectoryOptions, OmitArgPrefixes] = field(default_factory=TrajectoryOptions)
    frames: str = ":"
    """Which poses, as start:stop:step or a,b,c."""
    coverage: bool = False
    """One line a pose: the share of the view that memory shows."""
    why: Annotated[int | None, arg(metavar="FRAME", help_behavior_hint="")] = None
    """Explain the choice for one pose."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)


def run(args: Args, session: Session) -> Result:
    """Report on a memory or a trajectory."""
    if not is_memory(args.source):
        if args.coverage or args.why is not None or args.trajectory:
            raise ConfigError(f"--coverage, --why and --trajectory need a memory folder; {args.source} is none")
        data = trajectory_statistics(args.read.read(args.source))
        return Result(data, statistics_text(data))
    store, meta = load_memory(args.source)
    session.backend, session.note = vae_label(meta)
    cameras = remembered_cameras(store)
    data: dict[str, Any] = {
        **memory_statistics(store, cameras),
        "size": [meta.width, meta.height],
        "source": meta.source,
    }
    text = statistics_text(data)
    if args.coverage:
        more, lines = _coverage(args, store, meta, session)
        data |= more
        text += ["", *lines]
    if args.why is not None:
        more, lines = _why(args, store, meta, session)
        data |= more
        text += ["", *lines]
    return Result(data, text)


def _poses(args: Args, store: PatchStore, meta: MemoryMeta, frames: str) -> Poses:
    if args.trajectory is not None:
        return cameras_at(args.trajectory, frames, meta, args.read)
    cameras = remembered_cameras(store)
    if cameras is None:
        raise InputError(f"{args.source}: an empty memory; say which poses to look from with --trajectory FILE")
    from mosaicmem.io.files import parse_frames
    from mosaicmem.io.trajectories import Trajectory

    chosen = parse_frames(frames, len(cameras))
    return Poses(cameras[chosen], chosen, "of the memory", Trajectory.from_cameras(cameras))


def _coverage(args: Args, store: PatchStore, meta: MemoryMeta, session: Session) -> tuple[dict[str, Any], list[str]]:
    poses = _poses(args, store, meta, args.frames)
    shares: list[float] = []
    sources: list[int] = []
    with session.console.progress("looking", len(poses.frames)) as tick, session.stage("retrieve"):
        for i in range(len(poses.frames)):
            mosaic = retrieve(store, poses.cameras[i], meta.grid, session.config.retrieval)
            shares.append(float(mosaic.coverage[0]))
            sources.append(len(mosaic.picked[0]))
            tick()
    mean, most, least = sum(shares) / len(shares), max(shares), min(shares)
    found = {"mean": mean, "max": most, "min": least, "intrinsics": poses.intrinsics}
    found["frames"] = [
        {"frame": f, "coverage": c, "sources": s} for f, c, s in zip(poses.frames, shares, sources, strict=True)
    ]
    rows = [[f, f"{100 * c:.1f}", bar(c), s] for f, c, s in zip(poses.frames, shares, sources, strict=True)]
    lines = table(["frame", "cover %", "", "sources"], rows)
    summary = f"coverage: mean {100 * mean:.1f} %, max {100 * most:.1f} %, min {100 * least:.1f} %"
    return {"coverage": found}, [*lines, summary, f"intrinsics: {poses.intrinsics}"]


def _why(args: Args, store: PatchStore, meta: MemoryMeta, session: Session) -> tuple[dict[str, Any], list[str]]:
    poses = _poses(args, store, meta, str(args.why))
    with session.stage("retrieve"):
        mosaic = retrieve(store, poses.cameras[0], meta.grid, session.config.retrieval)
    entries = [_entry(store, mosaic, g) for g in range(len(store))]
    order = {g: rank for rank, g in enumerate(mosaic.picked[0])}
    entries.sort(key=lambda e: (order.get(e["group"], len(order)), Reason[e["decision"]], -e["gain_cells"], e["group"]))
    counts = {reason.name: count for reason, count in mosaic.reasons(0).items() if count}
    rows = [[e["group"], e["frame"], e["decision"], e["gain_cells"], e["serves_cells"], e["reason"]] for e in entries]
    cells = meta.grid.cells[0] * meta.grid.cells[1]
    lines = [
        f"frame {args.why}: {100 * float(mosaic.coverage[0]):.1f} % of {cells:,} cells covered; "
        + ", ".join(f"{count} {name}" for name, count in counts.items()),
        *table(["group", "from frame", "decision", "gain", "serves", "reason"], rows),
    ]
    found = {"frame": args.why, "coverage": float(mosaic.coverage[0]), "counts": counts, "groups": entries}
    return {"why": found}, lines


def _entry(store: PatchStore, mosaic: Mosaic, g: int) -> dict[str, Any]:
    """One group of memory: its frame, what was decided, cells it would add and cells it serves."""
    reason = Reason(int(mosaic.decisions[0, g]))
    return {
        "group": g,
        "frame": store.group(g).keyframe.frame,
        "decision": reason.name,
        "reason": REASONS[reason],
        "gain_cells": int(mosaic.gains[0, g]),
        "serves_cells": int((mosaic.source[0] == g).sum()),
    }
