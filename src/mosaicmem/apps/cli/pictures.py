"""Pictures for people: titled panels, contact sheets and holes that cannot be mistaken for content. Pillow only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]  # [H W 3]

PAPER, INK, FAINT, GRID = (255, 255, 255), (33, 37, 41), (120, 126, 134), (228, 231, 235)
BLUE, ORANGE, GREEN = (31, 99, 181), (214, 106, 20), (44, 138, 82)
HOLE_DARK, HOLE_LIGHT = (58, 50, 84), (96, 84, 132)
GAP = 6


@dataclass(frozen=True)
class Panel:
    """One picture of a row; `holes [H W]` marks pixels that hold nothing and are drawn striped."""

    title: str
    image: Picture
    holes: NDArray[np.bool_] | None = None


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface, so that a picture looks the same everywhere."""
    return ImageFont.load_default(size)


def enlarge(panel: Panel, height: int) -> Picture:
    """The panel at least `height` pixels high, enlarged by a whole factor, with its holes striped."""
    factor = max(1, -(-height // panel.image.shape[0]))
    h, w = panel.image.shape[0] * factor, panel.image.shape[1] * factor
    image = panel.image
    if factor > 1:
        image = np.array(Image.fromarray(image).resize((w, h), Image.Resampling.BICUBIC))
    if panel.holes is None:
        return image
    holes = np.kron(panel.holes, np.ones((factor, factor), np.bool_))
    return np.where(holes[..., None], stripes(w, h), image)


def stripes(width: int, height: int, period: int = 12) -> Picture:
    """Diagonal stripes in two violets that no photograph has."""
    y, x = np.mgrid[:height, :width]
    dark = ((x + y) % period) < period // 2
    return np.where(dark[..., None], np.array(HOLE_DARK, np.uint8), np.array(HOLE_LIGHT, np.uint8))


def row(panels: Sequence[Panel], caption: str, height: int) -> Picture:
    """Panels side by side under their titles, a caption below; width and height are even, as video coders want."""
    images = [enlarge(panel, height) for panel in panels]
    bar = 24
    width = sum(i.shape[1] for i in images) + GAP * (len(images) + 1)
    total = max(i.shape[0] for i in images) + 2 * bar
    canvas = Image.new("RGB", (width + width % 2, total + total % 2), PAPER)
    draw = ImageDraw.Draw(canvas)
    x = GAP
    for panel, image in zip(panels, images, strict=True):
        canvas.paste(Image.fromarray(image), (x, bar))
        draw.text((x + image.shape[1] / 2, bar / 2), panel.title, INK, font(14), anchor="mm")
        x += image.shape[1] + GAP
    draw.text((GAP, total - bar / 2), caption, FAINT, font(13), anchor="lm")
    return np.array(canvas)


def block(rows: Sequence[Sequence[Panel]], caption: str, height: int) -> Picture:
    """Rows of panels under each other, each under its titles, one caption below; width and height are even."""
    parts = [row(panels, "", height) for panels in rows]
    parts = [part[: -24 - part.shape[0] % 2] for part in parts]  # their captions' room
    body = np.concatenate(parts)
    canvas = Image.new("RGB", (body.shape[1], body.shape[0] + 24 + body.shape[0] % 2), PAPER)
    canvas.paste(Image.fromarray(body), (0, 0))
    ImageDraw.Draw(canvas).text((GAP, canvas.height - 12), caption, FAINT, font(13), anchor="lm")
    return np.array(canvas)


def sheet(rows: Sequence[tuple[str, Sequence[Panel]]], title: str, height: int, legend: str = "") -> Picture:
    """A contact sheet: one row a moment, one column a panel, labels at the left, titles once at the top."""
    pictures = [[enlarge(panel, height) for panel in panels] for _, panels in rows]
    titles = [panel.title for panel in rows[0][1]]
    cell_h, cell_w = pictures[0][0].shape[:2]
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left = 24 + int(max(ruler.textlength(line, font(13)) for label, _ in rows for line in label.split("\n")))
    top, bottom = 68, 30
    width = left + len(titles) * (cell_w + GAP) + GAP
    canvas = Image.new("RGB", (width, top + len(rows) * (cell_h + GAP) + bottom), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP * 2, 20), title, INK, font(18), anchor="lm")
    for column, text in enumerate(titles):
        draw.text((left + column * (cell_w + GAP) + cell_w / 2, top - 14), text, INK, font(14), anchor="mm")
    for i, (label, _) in enumerate(rows):
        y = top + i * (cell_h + GAP)
        draw.multiline_text((left - 12, y + cell_h / 2), label, INK, font(13), anchor="rm", align="right")
        for column, image in enumerate(pictures[i]):
            canvas.paste(Image.fromarray(image), (left + column * (cell_w + GAP), y))
    if legend:
        canvas.paste(Image.fromarray(stripes(22, 14)), (left, canvas.height - bottom + 8))
        draw.text((left + 30, canvas.height - bottom + 15), legend, FAINT, font(13), anchor="lm")
    return np.array(canvas)


def moments(total: int, count: int) -> list[int]:
    """At most `count` indices of `total`, evenly spread, first and last among them."""
    return [int(i) for i in np.unique(np.linspace(0, total - 1, min(total, count)).round())]


@dataclass(frozen=True)
class Series:
    """One curve of a chart; `values[i]` belongs to `x[i]`, NaN where there is none."""

    name: str
    values: Sequence[float]
    color: tuple[int, int, int] = BLUE


@dataclass(frozen=True)
class Chart:
    """One plot: curves over a common x axis, with its own y axis."""

    title: str
    series: Sequence[Series]
    low: float
    high: float
    unit: str


def charts(plots: Sequence[Chart], x: Sequence[float], x_label: str, title: str, width: int = 900) -> Picture:
    """Charts above each other over one x axis, drawn at twice the size and reduced, for smooth lines."""
    k = 2
    left, right, top, plot_h, gap, bottom = 70, 24, 66, 170, 46, 46
    height = top + len(plots) * (plot_h + gap) + bottom - gap + 10
    canvas = Image.new("RGB", (width * k, height * k), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((left * k, 20 * k), title, INK, font(17 * k), anchor="lm")
    x0, x1 = min(x), max(x)
    span = (x1 - x0) or 1.0

    def px(value: float) -> float:
        return (left + (value - x0) / span * (width - left - right)) * k

    for i, plot in enumerate(plots):
        y_top = top + i * (plot_h + gap)
        _axes(draw, plot, px, x, (left, y_top, width - right, y_top + plot_h), k)
        for series in plot.series:
            _curve(draw, plot, series, x, px, y_top, plot_h, k)
    draw.text(((left + width - right) / 2 * k, (height - 14) * k), x_label, FAINT, font(13 * k), anchor="mm")
    return np.array(canvas.resize((width, height), Image.Resampling.LANCZOS))


def nice_step(span: float, count: int = 5) -> float:
    """A round step (1, 2 or 5 times a power of ten) that cuts `span` into about `count` parts."""
    raw = max(span, 1e-12) / count
    power = 10.0 ** np.floor(np.log10(raw))
    return float(next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999))


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from `low` to `high`."""
    step = nice_step(high - low, count)
    first = np.ceil(low / step - 1e-9)
    return [float(n * step) for n in np.arange(first, np.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """Shortest decimal of a tick."""
    return f"{round(value, 6) + 0.0:g}"  # + 0.0: no minus zero


def _axes(draw: ImageDraw.ImageDraw, plot: Chart, px, x: Sequence[float], box: tuple[float, ...], k: int) -> None:
    left, y_top, right, y_bottom = box
    for tick in ticks(plot.low, plot.high, 4):
        y = (y_bottom - (tick - plot.low) / (plot.high - plot.low) * (y_bottom - y_top)) * k
        draw.line([(left * k, y), (right * k, y)], GRID, k)
        draw.text(((left - 8) * k, y), f"{number(tick)}{plot.unit}", FAINT, font(12 * k), anchor="rm")
    for tick in ticks(min(x), max(x), 8):
        draw.line([(px(tick), y_bottom * k), (px(tick), (y_bottom + 4) * k)], FAINT, k)
        draw.text((px(tick), (y_bottom + 13) * k), number(tick), FAINT, font(12 * k), anchor="mm")
    draw.line([(left * k, y_bottom * k), (right * k, y_bottom * k)], FAINT, k)
    draw.text((left * k, (y_top - 10) * k), plot.title, INK, font(13 * k), anchor="lm")
    at = left + 10 + draw.textlength(plot.title, font(13 * k)) / k
    for series in plot.series if len(plot.series) > 1 else ():
        draw.line([((at + 8) * k, (y_top - 10) * k), ((at + 26) * k, (y_top - 10) * k)], series.color, 3 * k)
        draw.text(((at + 32) * k, (y_top - 10) * k), series.name, FAINT, font(12 * k), anchor="lm")
        at += 44 + draw.textlength(series.name, font(12 * k)) / k


def _curve(
    draw: ImageDraw.ImageDraw, plot: Chart, series: Series, x: Sequence[float], px, y_top: float, plot_h: float, k: int
) -> None:
    points: list[tuple[float, float]] = []
    for at, value in zip(x, series.values, strict=True):
        if not np.isfinite(value):
            _stroke(draw, points, series.color, k)
            points = []
            continue
        share = min(max((value - plot.low) / (plot.high - plot.low), 0.0), 1.0)
        points.append((px(at), (y_top + (1 - share) * plot_h) * k))
    _stroke(draw, points, series.color, k)


def _stroke(draw: ImageDraw.ImageDraw, points: list[tuple[float, float]], color: tuple[int, int, int], k: int) -> None:
    if len(points) > 1:
        draw.line(points, color, 2 * k, joint="curve")
    elif points:
        (cx, cy), r = points[0], 3 * k
        draw.ellipse([cx - r, cy - r, cx + r, cy + r], fill=color)
