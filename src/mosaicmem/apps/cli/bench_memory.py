"""Does a model know a place again? Held-out worlds are seen on the way out; the way back is generated and compared with
the exact truth, by the model as it is and without its parts, world by world with the same noise.

Columns: PSNR, SSIM and a perceptual distance (lower is better) on pixels that had been seen; how far the camera of a
generated frame is from the one asked for; whether what moves by itself is where it should be and nowhere else (1: yes,
0: frozen or gone); and what was never seen: PSNR, and the distance of its distribution from the true one.
docs/evaluation.md says more.

With --out it writes report.json, run.json, worlds.png (frames side by side) and rows.png (bars with intervals).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mosaicmem.apps.cli.bench_options import ModelArgs, open_loader, rollout_of
from mosaicmem.apps.cli.bench_pictures import bars, world_sheet
from mosaicmem.apps.cli.console import Result, finite_or_null, table
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError
from mosaicmem.evaluation.memory_benchmark import BenchmarkConfig, WorldResult, run_benchmark, summarize
from mosaicmem.evaluation.rows import ROWS, TITLES
from mosaicmem.generation.events import STAGES
from mosaicmem.io.files import write_image, write_json

EXAMPLE = "mosaicmem bench memory --quick --out bench_memory"

_QUICK, _ALL = 8, 64


@dataclass(kw_only=True)
class Args(ModelArgs):
    """Arguments of `bench memory`."""

    quick: bool = False
    """Only 8 worlds."""
    worlds: int | None = None
    """Held-out worlds; 64 unless this or --quick says otherwise."""
    rows: str = ",".join(ROWS)
    """Some rows of the table, separated by commas."""


def run(args: Args, session: Session) -> Result:
    """Generate, judge, write."""
    rows = tuple(row.strip() for row in args.rows.split(",") if row.strip())
    if session.config.generation.window_size != 17:
        raise ConfigError("bench memory generates in windows of 17 frames; leave --window-size out")
    count = args.worlds if args.worlds is not None else _QUICK if args.quick else _ALL
    config = BenchmarkConfig(count, rows, session.config.seed, rollout=rollout_of(session))
    load = open_loader(args, session)
    results: list[WorldResult] = []
    with session.console.progress("worlds", count) as tick, session.stage("worlds"):
        for result in run_benchmark(load, config, processes=args.processes):
            results.append(result)
            tick()
    report = summarize(results, config)
    report = {"protocol": _protocol(config, args), **report, "wall_seconds": session.timings["worlds"]}
    if args.out is not None:
        title = f"[{session.backend}] {session.command}"
        with session.folder() as folder, session.stage("write"):
            write_json(folder / "report.json", finite_or_null({"label": session.label, **report}))
            write_image(folder / "rows.png", bars(report, title))
            if any(result.pictures for result in results):
                write_image(folder / "worlds.png", world_sheet(results, title))
    return Result(report, text_of(report))


def text_of(report: dict[str, Any]) -> list[str]:
    """The tables: what each row is worth, what full has on it, where its time goes; and the floors."""
    rows = report["rows"]
    headers = [
        "row", "PSNR", "95 %", "SSIM", "perc.", "RotErr", "TransErr", "failed", "moves", "unseen PSNR", "Frechet",
        "s/frame",
    ]  # fmt: skip
    cells: list[list[object]] = []
    for name, row in rows.items():
        ends = row["intervals"]["psnr"]
        cells.append([
            TITLES[name], _n(row["psnr"], 2), f"{_n(ends['low'], 1)} to {_n(ends['high'], 1)}", _n(row["ssim"], 3),
            _n(row["perceptual"], 3), _n(row["rotation_degrees"], 2), _n(row["translation_units"], 3),
            f"{row['pose_failures']}/{row['pose_frames'] - row['pose_unobservable']}", _n(row["motion_places"], 2),
            _n(row["unseen_psnr"], 2), _n(row["frechet_random"], 3), _n(row["seconds_per_frame"], 3),
        ])  # fmt: skip
    protocol, floor, frechet = report["protocol"], report["pose_floor"], report["frechet"]
    lines = [
        f"{protocol['worlds']} held-out worlds, seeds {protocol['seeds'][0]} to {protocol['seeds'][1]}; seen pixels "
        "unless a column says unseen; mean over worlds; TransErr in median depths, RotErr in degrees",
        *table(headers, cells),
        f"pose estimator on true frames: {_n(floor['rotation_mean_degrees'], 3)} degrees, "
        f"{_n(floor['metres_mean'], 4)} m, {floor['failures']} of {floor['frames'] - floor['unobservable']} failed",
        f"{frechet['extractor']}: floor {_n(frechet['floor']['value'], 3)} at {frechet['floor']['count']} crops",
    ]
    if report.get("full_minus"):
        lines += ["", *_differences(report["full_minus"])]
    return [*lines, "", *_seconds(rows)]


def _differences(differences: dict[str, Any]) -> list[str]:
    """Full minus every other row; an interval that holds zero is a tie."""
    measures = [
        ("psnr", "PSNR", 2), ("ssim", "SSIM", 3), ("perceptual", "perc.", 3), ("rotation_degrees", "RotErr", 2),
        ("translation_units", "TransErr", 3), ("motion_places", "moves", 2), ("unseen_psnr", "unseen PSNR", 2),
    ]  # fmt: skip
    cells: list[list[object]] = []
    for row, found in differences.items():
        texts: list[object] = [TITLES[row]]
        for key, _, digits in measures:
            one = found[key]
            tied = " tied" if one["tied"] and math.isfinite(one["low"]) else ""
            sign = f"{one['mean']:+.{digits}f}" if math.isfinite(one["mean"]) else "-"
            texts.append(f"{sign} [{_n(one['low'], digits)}, {_n(one['high'], digits)}]{tied}" if sign != "-" else "-")
        cells.append(texts)
    return table(["full minus", *(title for _, title, _ in measures)], cells)


def _seconds(rows: dict[str, Any]) -> list[str]:
    used = [stage for stage in STAGES if stage != "show" and any(row["seconds"].get(stage) for row in rows.values())]
    cells: list[list[object]] = [
        [TITLES[name], *(f"{1000 * row['seconds'].get(stage, 0.0):.1f}" for stage in used)]
        for name, row in rows.items() if row["seconds"]
    ]  # fmt: skip
    return table(["ms a frame", *used], cells) if cells else []


def _protocol(config: BenchmarkConfig, args: Args) -> dict[str, Any]:
    from mosaicmem.worlds.episodes import HELD_OUT

    first = HELD_OUT.start
    return {
        "worlds": config.worlds, "seeds": [first, first + config.worlds - 1], "rows": list(config.rows),
        "size": config.trial.size, "noise_seed": config.seed, "remember_every": config.trial.every,
        "window": 17, "model": args.model, "processes": args.processes,
    }  # fmt: skip


def _n(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
