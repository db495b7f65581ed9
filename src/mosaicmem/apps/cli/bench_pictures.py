"""Pictures of the benchmarks: bars with intervals, and frames of several rows side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mosaicmem.apps.cli.pictures import (
    BLUE,
    FAINT,
    GRID,
    INK,
    ORANGE,
    PAPER,
    Panel,
    Picture,
    font,
    number,
    sheet,
    ticks,
)
from mosaicmem.evaluation.memory_benchmark import WorldResult
from mosaicmem.evaluation.rows import TITLES

_SHOWN = (
    ("truth", "truth"), ("full", "full"), ("cameras_only", "cameras only"), ("last_frames", "last frames"),
    ("point_cloud", "point cloud"), ("mosaic", "memory (mosaic)"),
)  # fmt: skip
_BARS = (
    ("psnr", "PSNR of what was seen, dB"), ("ssim", "SSIM"), ("rotation_degrees", "RotErr, degrees"),
    ("motion_places", "what moves by itself is where it should be"),
)  # fmt: skip
_SCALE = 2  # drawn larger and reduced, for smooth lines


def world_sheet(results: Sequence[WorldResult], title: str, height: int = 128) -> Picture:
    """One row a moment, the truth and several rows of the table side by side."""
    rows: list[tuple[str, Sequence[Panel]]] = []
    for result in results:
        names = {name for _, name in result.pictures}
        for frame in sorted({frame for frame, _ in result.pictures}):
            panels = [Panel(text, result.pictures[frame, key]) for key, text in _SHOWN if key in names]
            rows.append((f"{result.seed}\n{result.kind}\nframe {frame + 1}", panels))
    return sheet(rows, title, height)


def bars(report: dict[str, Any], title: str, width: int = 1000) -> Picture:
    """One chart a measure: a bar a row of the table, whiskers for 95 % intervals."""
    rows, k = report["rows"], _SCALE
    left, top, line, gap, head = 220, 60, 20, 26, 24
    chart_h = head + line * len(rows) + gap
    canvas = Image.new("RGB", (width * k, (top + chart_h * len(_BARS)) * k), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((20 * k, 24 * k), title, INK, font(16 * k), anchor="lm")
    for i, (measure, name) in enumerate(_BARS):
        y = top + i * chart_h
        draw.text((20 * k, (y + head / 2) * k), name, INK, font(13 * k), anchor="lm")
        ends = [row["intervals"].get(measure, {}) for row in rows.values()]
        known = [row[measure] for row in rows.values()] + [end.get("high", math.nan) for end in ends]
        reach = max([0.0, *(value for value in known if math.isfinite(value))]) or 1.0
        span = (left, width - 40)
        for tick in ticks(0, reach, 6):
            x = _at(tick, reach, span)
            draw.line([(x * k, (y + head) * k), (x * k, (y + head + line * len(rows)) * k)], GRID, k)
            label_y = y + head + line * len(rows) + 8
            draw.text((x * k, label_y * k), number(tick), FAINT, font(11 * k), anchor="mm")
        for j, (key, row) in enumerate(rows.items()):
            _bar(draw, key, row[measure], ends[j], reach, span, y + head + line * j, k)
    return np.array(canvas.resize((width, canvas.height // k), Image.Resampling.LANCZOS))


def _bar(
    draw: ImageDraw.ImageDraw, row: str, value: float, ends: dict[str, float], reach: float, span: tuple[int, int],
    y: float, k: int,
) -> None:  # fmt: skip
    middle = y + 10
    draw.text(((span[0] - 10) * k, middle * k), TITLES[row], INK, font(12 * k), anchor="rm")
    if not math.isfinite(value):
        draw.text(((span[0] + 6) * k, middle * k), "not applicable", FAINT, font(11 * k), anchor="lm")
        return
    end = _at(max(value, 0.0), reach, span)
    colour = ORANGE if row == "full" else BLUE if row not in ("vae", "copy_last", "point_cloud") else FAINT
    draw.rectangle([span[0] * k, (y + 3) * k, end * k, (y + 17) * k], colour)
    low, high = ends.get("low", math.nan), ends.get("high", math.nan)
    if math.isfinite(low) and math.isfinite(high):
        a, b = (_at(max(v, 0.0), reach, span) for v in (low, high))
        draw.line([(a * k, middle * k), (b * k, middle * k)], INK, 2 * k)
        for x in (a, b):
            draw.line([(x * k, (middle - 4) * k), (x * k, (middle + 4) * k)], INK, 2 * k)


def _at(value: float, reach: float, span: tuple[int, int]) -> float:
    return span[0] + value / reach * (span[1] - span[0])
