"""Memory and a trajectory in, the video that memory alone can show out. No model invents anything.

Every frame is stitched from remembered patches; what nobody saw stays a hole and is drawn striped. With --compare the
real frames stand beside it and report.json says how far the two differ, on covered pixels. Intrinsics come from the
trajectory file, or from the memory where the file has none.

Writes: video.mp4 (mosaic beside the real frames), mosaic.mp4, contact_sheet.png, coverage.png, report.json, run.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from tyro.conf import OmitArgPrefixes, Positional, arg

from mosaicmem.apps.cli.console import Result, bar, table
from mosaicmem.apps.cli.memory_folder import load_memory, vae_of
from mosaicmem.apps.cli.options import Computing
from mosaicmem.apps.cli.pictures import ORANGE, Chart, Panel, Picture, Series, charts, moments, row, sheet
from mosaicmem.apps.cli.scores import FrameScore, means, score
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.sources import TrajectoryOptions, cameras_at, open_recording
from mosaicmem.apps.cli.views import memory_views, to_float, to_u8
from mosaicmem.io.files import write_image, write_json
from mosaicmem.io.video import write_video
from mosaicmem.memory.retrieval import RetrievalConfig

EXAMPLE = "mosaicmem recall room --trajectory path.json --out recall"
HOLES = "striped: nothing remembered there"


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `recall`."""

    memory: Positional[Path]
    """Folder written by remember."""
    trajectory: Annotated[Path, arg(aliases=["-t"], metavar="FILE")]
    """Cameras to look from, in any format that lint knows."""
    read: Annotated[TrajectoryOptions, OmitArgPrefixes] = field(default_factory=TrajectoryOptions)
    frames: str = ":"
    """Which poses, as start:stop:step or a,b,c."""
    compare: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Recording whose frames of the same numbers are the truth."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where remember found it)")] = None
    """Weights of the pretrained VAE the memory was made with, if they have moved."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)


def run(args: Args, session: Session) -> Result:
    """Recall every chosen pose, compare, and write the folder."""
    inputs = [p for p in (args.memory, args.trajectory, args.compare) if p is not None]
    session.check_out(inputs=inputs)
    store, meta = load_memory(args.memory)
    vae = vae_of(meta, args.vae, session)
    poses = cameras_at(args.trajectory, args.frames, meta, args.read)
    truth = open_recording(args.compare, poses.frames) if args.compare else None
    views: list[Picture] = []
    holes: list[NDArray[np.bool_]] = []
    real: list[Picture] = []
    scores: list[FrameScore] = []
    walk = memory_views(store, poses.cameras, meta.grid, vae, session.config.retrieval)
    with session.console.progress("recalling", len(poses.frames)) as tick:
        for index in poses.frames:
            with session.stage("recall"):
                view = next(walk)
            with session.stage("compare"):
                seen = truth.frame(index, meta.width, meta.height) if truth else None
                scores.append(score(index, view, None if seen is None else to_float(seen), vae))
            views.append(to_u8(view.frame))
            holes.append(~view.good.numpy())
            if seen is not None:
                real.append(seen)
            tick()
    mean = means(scores)
    report = {"mean": mean, "frames": [s.record(truth is not None) for s in scores]}
    with session.folder(inputs=inputs) as out, session.stage("write"):
        _write(out, report, views, holes, real, poses.frames, session)
    text = [
        f"{len(views)} frames at {meta.width}x{meta.height} from {store.num_patches:,} patches of {len(store)} frames",
        f"intrinsics: {poses.intrinsics}",
        *_table(scores, truth is not None),
        _summary(mean),
        *_round_trip(mean, vae.name),
    ]
    return Result({**report, "intrinsics": poses.intrinsics}, text)


def _write(
    out: Path,
    report: dict[str, Any],
    views: list[Picture],
    holes: list[NDArray[np.bool_]],
    real: list[Picture],
    frames: list[int],
    session: Session,
) -> None:
    video = session.config.video

    def panels(i: int) -> list[Panel]:
        shown = [Panel("memory alone", views[i], holes[i])]
        return [*shown, Panel("real", real[i])] if real else shown

    def caption(i: int, join: str = "   ") -> str:
        found = report["frames"][i]
        parts = [f"frame {found['frame']}", f"{100 * found['coverage']:.1f} % covered"]
        if found.get("psnr") is not None:
            parts.append(f"{found['psnr']:.1f} dB")
        return join.join(parts)

    write_video(
        out / "video.mp4", np.stack([row(panels(i), caption(i), video.panel) for i in range(len(views))]), video.fps
    )
    striped = [row_image(views[i], holes[i]) for i in range(len(views))]
    write_video(out / "mosaic.mp4", np.stack(striped), video.fps)
    rows = [(caption(i, "\n"), panels(i)) for i in moments(len(views), video.sheet_rows)]
    write_image(
        out / "contact_sheet.png",
        sheet(rows, "What memory shows" + (" and what is there" if real else ""), video.panel, HOLES),
    )
    write_image(out / "coverage.png", coverage_chart(report, frames))
    write_json(out / "report.json", report)


def row_image(view: Picture, holes: NDArray[np.bool_]) -> Picture:
    """A frame at its own size with its holes striped."""
    from mosaicmem.apps.cli.pictures import stripes

    return np.where(holes[..., None], stripes(view.shape[1], view.shape[0], 6), view)


def coverage_chart(report: dict[str, Any], frames: list[int]) -> Picture:
    """Coverage over frames, and below it the fidelity on covered pixels where it was measured."""
    values = report["frames"]
    mean = report["mean"]
    plots = [
        Chart(
            "share of the view that memory shows",
            [Series("coverage", [100 * v["coverage"] for v in values])],
            0,
            100,
            " %",
        )
    ]
    if mean.get("psnr") is not None:
        found = [float("nan") if v["psnr"] is None else v["psnr"] for v in values]
        finite = [v for v in found if v == v]
        low, high = (5 * np.floor(min(finite) / 5), 5 * np.ceil(max(finite) / 5 + 1e-9)) if finite else (0.0, 40.0)
        plots.append(
            Chart(
                "PSNR on covered pixels", [Series("PSNR", found, ORANGE)], float(low), float(max(high, low + 5)), " dB"
            )
        )
    return charts(plots, [float(f) for f in frames], "frame", f"Memory alone: {_summary(mean)}")


def _summary(mean: dict[str, float | None]) -> str:
    parts = [f"mean coverage {100 * (mean['coverage'] or 0):.1f} %"]
    if mean.get("psnr") is not None:
        parts.append(f"{mean['psnr']:.2f} dB")
    if mean.get("ssim") is not None:
        parts.append(f"SSIM {mean['ssim']:.3f}")
    return ", ".join(parts) + (" (errors on covered pixels)" if len(parts) > 1 else "")


def _round_trip(mean: dict[str, float | None], name: str) -> list[str]:
    if mean.get("vae_psnr") is None:
        return []
    ssim = mean.get("vae_ssim")
    return [
        f"{name} alone, encoding and decoding the real frames: {mean['vae_psnr']:.2f} dB"
        + ("" if ssim is None else f", SSIM {ssim:.3f}")
        + " (same pixels)"
    ]


def _table(scores: list[FrameScore], compared: bool, limit: int = 16) -> list[str]:
    step = max(1, -(-len(scores) // limit))
    rows = []
    for s in scores[::step]:
        cells: list[object] = [s.frame, f"{100 * s.coverage:.1f}", bar(s.coverage, 24)]
        if compared:
            cells += ["-" if v is None else f"{v:{spec}}" for v, spec in ((s.psnr, ".2f"), (s.ssim, ".3f"))]
        rows.append(cells)
    return table(["frame", "cover %", "", *(["PSNR dB", "SSIM"] if compared else [])], rows)
