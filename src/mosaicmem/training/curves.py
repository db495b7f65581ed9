"""Curves of a training, drawn from its log: one panel per number, steps along the bottom."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mosaicmem.io.files import write_image

_PANEL, _MARGIN, _COLUMNS = (420, 240), (56, 30, 14, 28), 2  # margins: left, top, right, bottom
_INK, _GRID, _LINE, _SMOOTH = (40, 40, 44), (226, 226, 230), (160, 190, 230), (20, 90, 190)


def draw_curves(log: Path, out: Path) -> None:
    """Draw every number of `log.jsonl`; positive ones that span more than a decade on a logarithmic axis."""
    series: dict[str, list[tuple[float, float]]] = {}
    for line in log.read_text().splitlines():
        row = json.loads(line)
        for name, value in row.items():
            if name not in ("step", "seconds") and isinstance(value, int | float) and math.isfinite(value):
                series.setdefault(name, []).append((row["step"], value))
    names = list(series)
    if not names:
        return
    rows = math.ceil(len(names) / _COLUMNS)
    sheet = Image.new("RGB", (_PANEL[0] * _COLUMNS, _PANEL[1] * rows), "white")
    for i, name in enumerate(names):
        sheet.paste(_panel(name, np.array(series[name], float)), (i % _COLUMNS * _PANEL[0], i // _COLUMNS * _PANEL[1]))
    write_image(out, np.asarray(sheet), overwrite=True)


def _panel(name: str, points: np.ndarray) -> Image.Image:
    image = Image.new("RGB", _PANEL, "white")
    draw = ImageDraw.Draw(image)
    left, top, right, bottom = _MARGIN
    x, y = points[:, 0], points[:, 1]
    log = bool((y > 0).all()) and y.max() > 10 * y.min()
    value = np.log10(y) if log else y
    low, high = float(value.min()), float(value.max())
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    width, height = _PANEL[0] - left - right, _PANEL[1] - top - bottom
    px = left + width * (x - x.min()) / max(float(np.ptp(x)), 1)
    py = top + height * (1 - (value - low) / (high - low))
    for share in (0, 0.25, 0.5, 0.75, 1):
        at = top + height * (1 - share)
        draw.line([(left, at), (left + width, at)], fill=_GRID)
        tick = low + share * (high - low)
        draw.text((4, at - 6), f"{10**tick if log else tick:.3g}", fill=_INK)
        step = f"{x.min() + share * np.ptp(x):.0f}"
        draw.text(
            (min(left + share * width - 12, _PANEL[0] - draw.textlength(step) - 4), _PANEL[1] - 20), step, fill=_INK
        )
    draw.line(list(zip(px, py, strict=True)), fill=_LINE if len(y) > 20 else _SMOOTH, width=1)
    if len(y) > 20:
        span = max(3, len(y) // 30)
        mean = np.convolve(py, np.ones(span) / span, "valid")
        draw.line(list(zip(px[span - 1 :], mean, strict=True)), fill=_SMOOTH, width=2)
    draw.text((left, 8), f"{name}{' (log)' if log else ''}: {y[-1]:.4g}", fill=_INK)
    return image
