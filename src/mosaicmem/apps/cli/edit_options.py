"""What every verb of `edit` understands: the file, what is selected, a preview, a note."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from tyro.conf import OmitArgPrefixes, Positional, arg

from mosaicmem.apps.cli.memory_folder import MemoryMeta, remembered_cameras, vae_of
from mosaicmem.apps.cli.options import Computing
from mosaicmem.apps.cli.pictures import Panel, Picture, row
from mosaicmem.apps.cli.placement import numbers
from mosaicmem.apps.cli.recall import HOLES
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.views import memory_views, to_u8
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.memory.selection import (
    Selection,
    box,
    everything,
    holding,
    in_frames,
    of_origin,
    seen_between,
    sphere,
    surface,
)
from mosaicmem.memory.store import PatchStore


@dataclass(frozen=True)
class Choice:
    """Which patches; all that is given must hold."""

    all: bool = False
    """Everything that memory holds."""
    box: Annotated[str | None, arg(metavar="X0,Y0,Z0,X1,Y1,Z1", help_behavior_hint="")] = None
    """Inside a box, between two corners, world units."""
    sphere: Annotated[str | None, arg(metavar="X,Y,Z,R", help_behavior_hint="")] = None
    """Within R of a point, world units."""
    thing: Annotated[str | None, arg(metavar="X,Y,Z", help_behavior_hint="")] = None
    """The thing at a point: grown from there over all frames, up to folds such as the one between table and floor."""
    reach: Annotated[float | None, arg(metavar="DISTANCE", help_behavior_hint="")] = None
    """No farther than this from the point of --thing, world units."""
    origin: Annotated[
        Literal["observed", "generated"] | None, arg(metavar="{observed,generated}", help_behavior_hint="")
    ] = None
    """Of frames that were observed, or generated."""
    frames: Annotated[str | None, arg(metavar="FIRST:LAST", help_behavior_hint="")] = None
    """Of frames with these numbers, both included."""
    times: Annotated[str | None, arg(metavar="START:END", help_behavior_hint="")] = None
    """Of frames of these seconds, both included."""
    now: bool = False
    """Only what holds now, not what was superseded."""
    invert: bool = False
    """Everything but that."""

    def selection(self) -> Selection:
        """As the library has it.

        Raises:
            ConfigError: if nothing is given, or something cannot be read.
        """
        found: list[Selection] = [everything] if self.all else []
        if self.box is not None:
            corners = numbers(self.box, "--box", 6).reshape(2, 3)
            found.append(box(corners.amin(0), corners.amax(0)))
        if self.sphere is not None:
            ball = numbers(self.sphere, "--sphere", 4)
            found.append(sphere(ball[:3], float(ball[3])))
        if self.thing is not None:
            found.append(surface(numbers(self.thing, "--thing", 3), reach=self.reach))
        elif self.reach is not None:
            raise ConfigError("--reach belongs to --thing X,Y,Z")
        if self.origin is not None:
            found.append(of_origin(self.origin))
        if self.frames is not None:
            found.append(in_frames(*_range(self.frames, "--frames")))
        if self.times is not None:
            found.append(seen_between(*_range(self.times, "--times")))
        if self.now:
            found.append(holding())
        if not found:
            raise ConfigError(
                "what is to be edited? Say --box, --sphere, --thing, --origin, --frames, --times or --all"
            )
        chosen = found[0]
        for more in found[1:]:
            chosen = chosen & more
        return ~chosen if self.invert else chosen

    @property
    def given(self) -> dict[str, Any]:
        """What was said, for the log."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) not in (None, False)}


@dataclass(kw_only=True)
class EditArgs(Computing):
    """Arguments of every verb."""

    file: Positional[Path]
    """World file, or folder with one."""
    preview: Annotated[Path | None, arg(metavar="PNG", help_behavior_hint="")] = None
    """Picture to write: what memory shows before and after."""
    view: Annotated[int | None, arg(metavar="FRAME", help_behavior_hint="(default: one that shows it well)")] = None
    """Number of the remembered frame from whose camera to look."""
    dry_run: bool = False
    """Say and show what would happen, and leave the file alone."""
    note: str = ""
    """Words for the log."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where remember found it)")] = None
    """Weights of the pretrained VAE of the memory, if they have moved."""


@dataclass(kw_only=True)
class ChoiceArgs(EditArgs):
    """Arguments of a verb that acts on a part."""

    choice: Annotated[Choice, OmitArgPrefixes] = field(default_factory=Choice)


def before_and_after(
    before: PatchStore, after: PatchStore, rows: torch.Tensor, args: EditArgs, meta: MemoryMeta, session: Session
) -> Picture:
    """What one camera sees in memory before and after an edit of some patches of `before`.

    Raises:
        InputError: if no remembered frame has the number of `--view`, or nothing is remembered.
    """
    camera, frame = _camera(before if len(before) else after, rows, args.view)
    vae = vae_of(meta, args.vae, session)
    panels: list[Panel] = []
    for name, store in (("before", before), ("after", after)):
        view = next(memory_views(store, camera, meta.grid, vae, session.config.retrieval))
        panels.append(Panel(name, to_u8(view.frame), np.asarray(~view.good)))
    return row(panels, f"{session.command}, seen from frame {frame}; {HOLES}", session.config.video.panel)


def _camera(store: PatchStore, rows: torch.Tensor, frame: int | None) -> tuple[Cameras, int]:
    """The camera of a remembered frame: of a number, or of the frame that shows most of the selected patches."""
    cameras = remembered_cameras(store)
    if cameras is None:
        raise InputError("an empty memory has no frame to look from; leave --preview out")
    numbers_ = [group.keyframe.frame for group in store]
    if frame is None:
        counts = [int(rows[a:b].sum()) for a, b in zip(store.offsets, store.offsets[1:], strict=False)]
        at = max(range(len(store)), key=counts.__getitem__)
    elif frame in numbers_:
        at = numbers_.index(frame)
    else:
        raise InputError(f"--view {frame}: no such frame is remembered; there are {min(numbers_)} to {max(numbers_)}")
    return cameras[at], numbers_[at]


def _range(text: str, option: str) -> tuple[float, float]:
    first, colon, last = text.partition(":")
    try:
        low, high = float(first or "-inf"), float(last or "inf")
    except ValueError:
        colon, low, high = "", 0.0, 0.0
    if not colon or not low <= high:
        raise ConfigError(f"{option} {text!r:.80}: expected FIRST:LAST, for example 0:99")
    return low, high
