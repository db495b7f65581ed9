"""Widgets that draw: a picture in half blocks, and the cloud of patches in braille."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Static

from mosaicmem.apps.tui import cloud
from mosaicmem.apps.tui.cloud import Orbit, Sight
from mosaicmem.apps.tui.drawing import Cells, Picture, box, half_blocks

COLOURS = {"256": 256, "standard": 16, "windows": 16}
"""Of terminals that do not have all."""


@lru_cache(maxsize=1 << 14)
def _style(ink: int, paper: int) -> Style:
    colour = f"#{ink:06x}"
    return Style.parse(colour if paper < 0 else f"{colour} on #{paper:06x}")


def strips(cells: Cells, exact: bool = False) -> list[Strip]:
    """Lines for the terminal, neighbours of one colour together; unless `exact`, to 64 levels, which nobody sees."""
    pack = lambda rgb: (rgb.astype(np.int64) & (0xFF if exact else 0xFC)) @ np.array([65536, 256, 1])  # noqa: E731
    inks = pack(cells.ink)
    papers = np.full_like(inks, -1) if cells.paper is None else pack(cells.paper)
    blank = cells.codes == ord(" ")
    inks, papers = np.where(blank, -1, inks), np.where(blank, -1, papers)
    out = []
    for text, ink, paper in zip(cells.lines, inks, papers, strict=True):
        cuts = [0, *(np.flatnonzero((np.diff(ink) != 0) | (np.diff(paper) != 0)) + 1).tolist(), len(text)]
        parts = [
            Segment(text[a:b], None if ink[a] < 0 else _style(int(ink[a]), int(paper[a])))
            for a, b in pairwise(cuts)
            if b > a
        ]
        out.append(Strip(parts, len(text)))
    return out


class Canvas(Widget):
    """A widget whose lines are drawn at once, when its size or content has changed."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._drawn: tuple[tuple[int, int], list[Strip]] | None = None
        self.notice = ""
        """What stands in the middle while there is nothing to draw."""

    @property
    def _few(self) -> bool:
        """Whether the terminal has few colours, chosen one by one."""
        return self.app.console.color_system in COLOURS

    def redraw(self) -> None:
        """The content has changed."""
        self._drawn = None
        self.refresh()

    def cells(self, columns: int, rows: int) -> Cells | None:
        """What to draw; None: nothing."""
        raise NotImplementedError

    def render_line(self, y: int) -> Strip:
        """One line, from top to bottom."""
        width, height = self.size
        if self._drawn is None or self._drawn[0] != (width, height):
            found = self.cells(width, height) if width > 0 and height > 0 else None
            self._drawn = (width, height), [] if found is None else strips(found, self._few)
        lines = self._drawn[1]
        strip = lines[y] if y < len(lines) else Strip.blank(width)
        if not lines and self.notice and y == height // 2:
            strip = Strip([Segment(self.notice[:width].center(width))], width)
        return strip.apply_style(self.rich_style)


class Meter(Static):
    """Words that are made for the width there is: it says so when that has changed.

    Attributes:
        wide: Columns when it was last to be seen; 0 before.
    """

    class Resized(Message):
        """Its width is another one."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.wide = 0

    def on_resize(self, event: events.Resize) -> None:
        """Ask for other words; behind another tab nobody sees them."""
        if event.size.width not in (0, self.wide):
            self.wide = event.size.width
            self.post_message(self.Resized())


class PictureView(Canvas):
    """A picture, as large as the place allows."""

    class Clicked(Message):
        """A place of the picture, shares of its width and height."""

        def __init__(self, u: float, v: float) -> None:
            super().__init__()
            self.u, self.v = u, v

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.picture: Picture | None = None

    def show(self, picture: Picture | None) -> None:
        """Show another one."""
        self.picture = picture
        self.redraw()

    def cells(self, columns: int, rows: int) -> Cells | None:
        """The picture in half blocks."""
        colours = COLOURS.get(self.app.console.color_system or "", 1 << 24)
        return None if self.picture is None else half_blocks(self.picture, columns, rows, colours)

    def on_click(self, event: events.Click) -> None:
        """Say where."""
        if self.picture is None:
            return
        height, width, _ = self.picture.shape
        place = box(width, height, self.size.width, self.size.height).share(event.x, event.y)
        if place is not None:
            self.post_message(self.Clicked(*place))


class CloudView(Canvas):
    """The remembered patches; a drag turns them, the wheel brings them nearer."""

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.sight: Sight | None = None
        self.orbit = Orbit()
        self._from: tuple[int, int] | None = None

    def show(self, sight: Sight) -> None:
        """Show another cloud from the same side."""
        self.sight = sight
        self.redraw()

    def turn(self, yaw: float = 0.0, pitch: float = 0.0, zoom: float = 1.0) -> None:
        """Look from elsewhere."""
        self.orbit = self.orbit.turned(yaw, pitch, zoom)
        self.redraw()

    def cells(self, columns: int, rows: int) -> Cells | None:
        """The cloud in braille."""
        return None if self.sight is None else cloud.draw(self.sight, self.orbit, columns, rows)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        """A drag begins."""
        self.capture_mouse()
        self._from = (event.x, event.y)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """It goes on."""
        if self._from is not None:
            self.turn(4.0 * (event.x - self._from[0]), 6.0 * (event.y - self._from[1]))
            self._from = (event.x, event.y)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        """It ends."""
        self.release_mouse()
        self._from = None

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """Nearer."""
        event.stop()
        self.turn(zoom=1.15)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """Further."""
        event.stop()
        self.turn(zoom=1 / 1.15)
