"""Does a long walk come home? 480 frames are generated from one picture, out through the rooms of a held-out world and
back to where they began, beside 96 that turn away and back; at the end both show the first view again.

The score is the PSNR of the last frames on what the first picture shows. Depth is the model's own throughout. With
--out it writes report.json, run.json, walk.png (frames of a walk beside the truth) and drift.png (curves).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaicmem.apps.cli.bench_options import ModelArgs, open_loader, rollout_of
from mosaicmem.apps.cli.console import Result, finite_or_null, table
from mosaicmem.apps.cli.pictures import BLUE, FAINT, ORANGE, Chart, Panel, Picture, Series, charts, sheet
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError
from mosaicmem.evaluation.walk_benchmark import WalkConfig, WalkResult, run_walks, summarize_walks
from mosaicmem.io.files import write_image, write_json

EXAMPLE = "mosaicmem bench walk --worlds 2 --out bench_walk"

NAMES = {
    "long": "long walk", "short": "short walk",
    "long_without": "long, no memory", "short_without": "short, no memory",
}  # fmt: skip


@dataclass(kw_only=True)
class Args(ModelArgs):
    """Arguments of `bench walk`."""

    worlds: int = 8
    """Held-out worlds."""
    frames: int = 480
    """Generated frames of the long walk, a multiple of 16."""
    short: int = 96
    """Generated frames of the short one, a multiple of 16."""
    compare: bool = False
    """Also walk both without memory."""


def run(args: Args, session: Session) -> Result:
    """Walk, compare, write."""
    if session.config.generation.window_size != 17:
        raise ConfigError("bench walk generates in windows of 17 frames; leave --window-size out")
    config = WalkConfig(
        args.worlds, args.frames, args.short, session.config.seed, without_memory=args.compare,
        rollout=rollout_of(session),
    )  # fmt: skip
    load = open_loader(args, session)
    results: list[WalkResult] = []
    with session.console.progress("walks", args.worlds) as tick, session.stage("walks"):
        for result in run_walks(load, config, processes=args.processes):
            results.append(result)
            tick()
    report = {"frames": {"long": args.frames, "short": args.short}, **summarize_walks(results)}
    if args.out is not None:
        title = f"[{session.backend}] {session.command}"
        with session.folder() as folder, session.stage("write"):
            write_json(folder / "report.json", finite_or_null({"label": session.label, **report}))
            write_image(folder / "drift.png", drift_chart(report, title))
            write_image(folder / "walk.png", walk_sheet(results, title))
    return Result(report, _text(report))


def drift_chart(report: dict[str, Any], title: str) -> Picture:
    """Saturation, size of latents, sharpness and PSNR of the long walk over time, beside those of the truth."""
    long, without = report["walks"]["long"]["curves"], report["walks"].get("long_without")
    plots = []
    for name, text, unit in (
        ("psnr", "PSNR of what the first picture shows", " dB"), ("saturation", "saturation", ""),
        ("sharpness", "sharpness", ""), ("latent", "mean |latent|", ""),
    ):  # fmt: skip
        series = [Series("generated", long[name], BLUE)]
        if without:
            series.append(Series("without memory", without["curves"][name], ORANGE))
        if f"true_{name}" in long:
            series.append(Series("truth", long[f"true_{name}"], FAINT))
        known = [value for each in series for value in each.values if math.isfinite(value)]
        low, high = (0.0, max(known) * 1.05) if name != "psnr" and known else (0.0, 40.0)
        plots.append(Chart(text, series, low, high or 1.0, unit))
    return charts(plots, long["frame"], "frame", title)


def walk_sheet(results: Sequence[WalkResult], title: str, height: int = 128) -> Picture:
    """Frames of the long walks and the truth beneath them."""
    rows: list[tuple[str, Sequence[Panel]]] = []
    for result in results[:6]:
        for name in ("long", "long_without"):
            if name not in result.walks:
                continue
            pictures = result.walks[name].pictures
            frames = sorted({frame for frame, _ in pictures})
            label = "generated" if name == "long" else "no memory"
            rows.append((f"{result.seed}\n{label}", [Panel(f"frame {f}", pictures[f, "generated"]) for f in frames]))
            if name == "long":
                truth = [Panel(f"frame {f}", pictures[f, "truth"]) for f in frames]
                rows.append((f"{result.seed}\ntruth", truth))
    return sheet(rows, title, height)


def _text(report: dict[str, Any]) -> list[str]:
    cells: list[list[object]] = []
    for name, walk in report["walks"].items():
        cells.append([
            NAMES[name], report["frames"][name.split("_")[0]], f"{walk['psnr_end']:.2f}",
            f"{walk['low']:.1f} to {walk['high']:.1f}", f"{walk['ceiling']:.2f}", _drift(walk["curves"], "saturation"),
            _drift(walk["curves"], "sharpness"), _drift(walk["curves"], "latent"), f"{walk['seconds_per_frame']:.3f}",
        ])  # fmt: skip
    change = report["long_minus_short"]
    headers = [
        "walk", "frames", "PSNR at the end", "95 %", "autoencoder", "saturation", "sharpness", "latent", "s/frame"
    ]  # fmt: skip
    return [
        f"{len(report['worlds'])} held-out worlds; saturation, sharpness, latent: of the last fifth over the first, by "
        "the same of the truth",
        *table(headers, cells),
        f"long minus short {change['psnr_end']:+.2f} dB [{change['low']:.2f}, {change['high']:.2f}]",
    ]  # fmt: skip


def _drift(curves: dict[str, list[float]], name: str) -> str:
    """How a quantity of the last fifth of a walk compares with the first fifth, relative to the truth's."""
    ratio = np.array(curves[name]) / np.array(curves[f"true_{name}"])
    part = max(1, len(ratio) // 5)
    return f"{ratio[-part:].mean() / ratio[:part].mean():.2f}"
