"""Pictures made of characters: half blocks, braille, bars, sparklines. Arrays in, arrays out; no terminal in sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture = NDArray[np.uint8]
Array = NDArray[np.float64]
HALF = "▀"
EIGHTHS = " ▁▂▃▄▅▆▇█"
LEFT_EIGHTHS = " ▏▎▍▌▋▊▉█"
DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)
"""`[4 2]` bit of every dot of a braille character (Unicode 8.6, block 2800)."""
_BAYER = (np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) + 0.5) / 16
CUBE = np.array([0, 95, 135, 175, 215, 255])
"""Levels of red, green and blue among the 256 colours of a terminal."""
ANSI = np.array([[170 * (i & 1), 170 * (i >> 1 & 1), 170 * (i >> 2 & 1)] for i in range(8)])
ANSI[3, 1] = 85  # brown
ANSI = np.concatenate([ANSI, [[85 + 170 * (i & 1), 85 + 170 * (i >> 1 & 1), 85 + 170 * (i >> 2)] for i in range(8)]])
"""The 16 colours of a terminal, as they commonly are."""


@dataclass(frozen=True)
class Cells:
    """Characters on a grid.

    Attributes:
        codes: `[rows columns]` code point of each; blank is a space.
        ink: `[rows columns 3]` their colours.
        paper: `[rows columns 3]` what is behind them, or None: whatever is there.
    """

    codes: NDArray[np.uint32]
    ink: Picture
    paper: Picture | None = None

    @property
    def lines(self) -> list[str]:
        """The characters, row by row."""
        return ["".join(map(chr, row)) for row in self.codes.tolist()]


@dataclass(frozen=True)
class Box:
    """Where a picture lies on a grid of characters: a character is one pixel wide and two high."""

    left: int
    top: int
    columns: int
    rows: int

    def share(self, column: int, row: int) -> tuple[float, float] | None:
        """The place in the picture, shares of its width and height, of the middle of a character; None: outside."""
        u, v = (column - self.left + 0.5) / self.columns, (row - self.top + 0.5) / self.rows
        return (u, v) if 0 <= u < 1 and 0 <= v < 1 else None


def box(width: int, height: int, columns: int, rows: int) -> Box:
    """The largest box of the picture's shape on the grid, in the middle."""
    scale = min(columns / width, 2 * rows / height)
    wide = max(1, min(columns, round(width * scale)))
    high = max(1, min(rows, round(height * scale / 2)))
    return Box((columns - wide) // 2, (rows - high) // 2, wide, high)


def half_blocks(picture: Picture, columns: int, rows: int, colours: int = 1 << 24) -> Cells:
    """`[H W 3]` as upper half blocks: the colour of the character is the upper pixel, that behind it the lower one.

    Args:
        colours: How many the terminal has; where few, what lies between is dithered.
    """
    height, width, _ = picture.shape
    at = box(width, height, columns, rows)
    size = at.columns, 2 * at.rows
    how = Image.Resampling.BOX if size[0] <= width else Image.Resampling.BILINEAR
    small = np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize(size, how))
    if colours <= 256:
        small = dithered(small, colours)
    codes = np.full((rows, columns), ord(" "), np.uint32)
    ink, paper = np.zeros((rows, columns, 3), np.uint8), np.zeros((rows, columns, 3), np.uint8)
    inside = slice(at.top, at.top + at.rows), slice(at.left, at.left + at.columns)
    codes[inside], ink[inside], paper[inside] = ord(HALF), small[::2], small[1::2]
    return Cells(codes, ink, paper)


def dithered(picture: Picture, colours: int) -> Picture:
    """What a terminal of 16 or 256 colours can show, in a pattern whose mean over neighbours is nearly right."""
    height, width, _ = picture.shape
    pattern = np.tile(_BAYER, (-(-height // 4), -(-width // 4)))[:height, :width, None]
    if colours > 16:
        low = np.searchsorted(CUBE, picture, side="right") - 1
        high = np.minimum(low + 1, len(CUBE) - 1)
        share = (picture - CUBE[low]) / np.maximum(CUBE[high] - CUBE[low], 1)
        return CUBE[np.where(share > pattern, high, low)].astype(np.uint8)
    wanted = picture + (pattern - 0.5) * 96
    distance = ((wanted[:, :, None] - ANSI) ** 2).sum(-1)
    return ANSI[distance.argmin(-1)].astype(np.uint8)


def braille(
    dots: Array, rgb: Picture, depth: Array, columns: int, rows: int
) -> Cells:  # fmt: skip
    """Points as dots, two by four to a character; a character has the colour of its nearest point.

    Args:
        dots: `[n 2]` right and down, in dots; what is not on the grid is left out.
        rgb: `[n 3]`.
        depth: `[n]` smaller is nearer; of equal ones the later wins.
    """
    whole = np.floor(dots).astype(np.int64)
    seen = ((whole >= 0) & (whole < [2 * columns, 4 * rows])).all(1)
    order = np.argsort(-depth[seen], kind="stable")
    x, y = whole[seen][order].T
    bits = np.zeros((rows, columns), np.uint8)
    np.bitwise_or.at(bits, (y // 4, x // 2), DOTS[y % 4, x % 2])
    ink = np.zeros((rows, columns, 3), np.uint8)
    ink[y // 4, x // 2] = rgb[seen][order]
    return Cells(np.where(bits > 0, bits.astype(np.uint32) + 0x2800, np.uint32(ord(" "))), ink)


def line(start: Array, end: Array) -> Array:
    """`[n 2]` dots of a straight line, both ends among them, no gaps."""
    count = int(np.ceil(np.abs(end - start).max())) + 1
    return start + (end - start) * np.linspace(0, 1, min(max(count, 2), 4096))[:, None]


def sparkline(values: Sequence[float], columns: int, top: float | None = None) -> str:
    """One character a value, its height the share of the largest (or of `top`); what is above 0 can be seen.

    Of more values than columns the largest of each part is shown.
    """
    if not values or columns < 1:
        return ""
    parts = np.array_split(np.nan_to_num(np.asarray(values, np.float64)), min(columns, len(values)))
    heights = np.array([part.max() for part in parts])
    most = max(heights.max() if top is None else top, 1e-12)
    eighths = np.clip(np.round(heights / most * 8), heights > 0, 8).astype(int)
    return "".join(EIGHTHS[e] for e in eighths)


def bar(share: float, columns: int) -> str:
    """A bar of `columns` characters, filled from the left to the nearest eighth of one."""
    eighths = round(min(max(share, 0.0), 1.0) * columns * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (LEFT_EIGHTHS[rest] if rest else "")).ljust(columns)


def apportioned(values: Sequence[float], columns: int) -> list[int]:
    """Whole columns in proportion to the values, all columns given away: largest remainders first."""
    total = sum(values)
    if total <= 0:
        return [0] * len(values)
    exact = [value / total * columns for value in values]
    given = [int(x) for x in exact]
    by_rest = sorted(range(len(values)), key=lambda i: (given[i] - exact[i], i))
    for i in by_rest[: columns - sum(given)]:
        given[i] += 1
    return given
