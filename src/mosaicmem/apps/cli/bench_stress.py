"""How recall decays when what memory is given is wrong. Some frames of procedural walks, or of a recording, are
remembered with depth at another scale, drifting poses, noisy depth, things that move, or a sky that passes for a
surface; others are recalled and compared with the truth, with and without scale alignment and confidence. No model
takes part.

Columns: share of the view that memory shows, and PSNR of what it shows. With --out it writes report.json, run.json and
stress.png.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image, ImageDraw
from tyro.conf import arg

from mosaicmem.apps.cli.console import Result, finite_or_null, table
from mosaicmem.apps.cli.options import Common, parse_size
from mosaicmem.apps.cli.pictures import BLUE, FAINT, GRID, INK, ORANGE, PAPER, Picture, font, number, ticks
from mosaicmem.apps.cli.session import Session
from mosaicmem.evaluation.stress_benchmark import STRESSES, VARIANTS, Score, StressConfig, report, run_stress
from mosaicmem.io.files import write_image, write_json
from mosaicmem.memory.lifting import LiftingConfig
from mosaicmem.memory.retrieval import RetrievalConfig

EXAMPLE = "mosaicmem bench stress --worlds 1 --out bench_stress"

_COLOURS = {"as it is": FAINT, "aligned": BLUE, "confidence": ORANGE, "both": INK}


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `bench stress`."""

    recording: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """A folder with posed RGB-D frames, in place of procedural walks."""
    worlds: int = 3
    """Procedural walks."""
    frames: int = 160
    """Frames of a walk, out and back."""
    every: int = 8
    """Frames between two that are remembered."""
    asked: int = 12
    """Frames that are recalled."""
    size: Annotated[str, arg(metavar="WxH")] = "96x72"
    """Size of the frames, multiples of 8; of a recording the width counts."""
    min_confidence: float = 0.4
    """With confidence, pixels whose depth is believed less are not remembered."""
    rows: str = ",".join(STRESSES)
    """Some rows of the table, separated by commas."""
    lifting: LiftingConfig = field(default_factory=LiftingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)


def run(args: Args, session: Session) -> Result:
    """Spoil, remember, recall, write."""
    width, height = parse_size(args.size)
    rows = tuple(row.strip() for row in args.rows.split(",") if row.strip())
    config = StressConfig(
        args.worlds, args.frames, args.every, args.asked, width, height, args.min_confidence, session.config.seed, rows,
        session.config.lifting, session.config.retrieval,
    )  # fmt: skip
    if args.out is not None:
        session.check_out(inputs=[args.recording] if args.recording else [])
    scores: list[Score] = []
    clips = 1 if args.recording else args.worlds
    with session.console.progress("recalling", len(rows) * len(VARIANTS) * clips) as tick, session.stage("stress"):
        for score in run_stress(config, args.recording):
            scores.append(score)
            tick()
    data = report(scores, config)
    if args.out is not None:
        with session.folder() as folder, session.stage("write"):
            write_json(folder / "report.json", finite_or_null({"label": session.label, **data}))
            write_image(folder / "stress.png", stress_chart(data["rows"], f"[{session.backend}] {session.command}"))
    return Result(data, _text(data))


def stress_chart(rows: dict[str, Any], title: str, width: int = 1000) -> Picture:
    """Two charts beside each other, coverage and PSNR: a row each stress, a bar each variant."""
    k, left, top, line, gap = 2, 130, 90, 11, 14
    height = top + len(rows) * (line * len(VARIANTS) + gap) + 40
    canvas = Image.new("RGB", (width * k, height * k), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((20 * k, 24 * k), title, INK, font(16 * k), anchor="lm")
    x = left
    for variant in VARIANTS:
        draw.rectangle([x * k, 49 * k, (x + 18) * k, 57 * k], _COLOURS[variant])
        draw.text(((x + 24) * k, 53 * k), variant, FAINT, font(12 * k), anchor="lm")
        x += 50 + int(draw.textlength(variant, font(12 * k)) / k)
    half = (width - left - 60) // 2
    for c, (measure, name, factor) in enumerate((("coverage", "coverage, %", 100.0), ("psnr", "PSNR, dB", 1.0))):
        x0 = left + c * (half + 30)
        known = [factor * row[variant][measure] for row in rows.values() for variant in VARIANTS]
        reach = max([0.0, *(value for value in known if np.isfinite(value))]) or 1.0
        draw.text((x0 * k, 76 * k), name, INK, font(13 * k), anchor="lm")
        for tick in ticks(0, reach, 5):
            at = x0 + tick / reach * half
            draw.line([(at * k, top * k), (at * k, (height - 40) * k)], GRID, k)
            draw.text((at * k, (height - 28) * k), number(tick), FAINT, font(11 * k), anchor="mm")
        for r, (stress, row) in enumerate(rows.items()):
            y = top + r * (line * len(VARIANTS) + gap)
            if c == 0:
                middle = (y + line * len(VARIANTS) / 2) * k
                draw.text(((left - 10) * k, middle), stress, INK, font(12 * k), anchor="rm")
            for v, variant in enumerate(VARIANTS):
                value = factor * row[variant][measure]
                if np.isfinite(value):
                    end = x0 + value / reach * half
                    draw.rectangle(
                        [x0 * k, (y + v * line + 1) * k, end * k, (y + (v + 1) * line) * k], _COLOURS[variant]
                    )
    return np.array(canvas.resize((width, height), Image.Resampling.LANCZOS))


def _text(data: dict[str, Any]) -> list[str]:
    cells: list[list[object]] = []
    for stress, row in data["rows"].items():
        shown = [f"{100 * row[variant]['coverage']:.1f} %" for variant in VARIANTS]
        right = [f"{row[variant]['psnr']:.2f}" for variant in VARIANTS]
        cells.append([stress, *(text for pair in zip(shown, right, strict=True) for text in pair)])
    headers = ["coverage, PSNR (dB)", *(text for variant in VARIANTS for text in (variant, ""))]
    size = "x".join(map(str, data["size"]))
    return [
        f"{len(data['clips'])} clip(s) at {size}, every {data['every']}th frame remembered, {data['asked']} others "
        "recalled; PSNR of what is shown",
        *table(headers, cells),
    ]
