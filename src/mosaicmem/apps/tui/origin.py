"""Where every part of the view comes from: seen, generated before, or imagined now."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from mosaicmem.apps.tui.drawing import Picture

SEEN, MADE, IMAGINED = 0, 1, 2
NAMES = ("seen", "generated", "imagined")
COLOURS = ((61, 139, 253), (245, 158, 11), (214, 64, 159))
"""As on the page of `explore`."""
MARKS = "█▓▒"
STRENGTH, MARKED = 0.4, 0.8
"""How much of a colour covers the picture, and where it is marked."""


def origins(tokens: dict[str, list[int]], shape: tuple[int, int]) -> NDArray[np.int8]:
    """`[m n]` origin of every token, from what `live.patches.tokens` says."""
    uid, generated = np.array(tokens["uid"]), np.array(tokens["generated"])
    return np.where(uid < 0, IMAGINED, np.where(generated > 0, MADE, SEEN)).astype(np.int8).reshape(shape)


def tinted(picture: Picture, origin: NDArray[np.int8]) -> Picture:
    """The picture `[H W 3]` in the colours of its origin; what is generated has dots, what is imagined stripes."""
    height, width, _ = picture.shape
    m, n = origin.shape
    y, x = np.arange(height), np.arange(width)
    what = origin[(y * m // height)[:, None], x * n // width]
    period = max(4, width // 16)
    dots = (y[:, None] % period < period // 2) & (x % period < period // 2)
    stripes = (x + y[:, None]) % period < period // 2
    marked = ((what == MADE) & dots) | ((what == IMAGINED) & stripes)
    strength = np.where(marked, MARKED, STRENGTH)[..., None]
    colours = np.array(COLOURS, np.float64)[what]
    return (picture * (1 - strength) + colours * strength).round().astype(np.uint8)


def legend(origin: NDArray[np.int8]) -> Text:
    """Shares of the view in words."""
    text = Text(no_wrap=True, overflow="ellipsis")
    for i, name in enumerate(NAMES):
        colour = "#{:02x}{:02x}{:02x}".format(*COLOURS[i])
        text.append(MARKS[i], colour).append(f"{name} {np.mean(origin == i):.0%} ")
    return text
