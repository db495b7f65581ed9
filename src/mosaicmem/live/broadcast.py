"""From one session to many viewers: everything is encoded once, and no slow viewer makes anything grow."""

from __future__ import annotations

import contextlib
import ctypes
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from mosaicmem.generation.rollout import statistics, to_u8
from mosaicmem.live import protocol
from mosaicmem.live.patches import PatchFeed, tokens
from mosaicmem.live.session import Message, Receipt, Session, Shown, Status
from mosaicmem.live.steps import hatched, remembered
from mosaicmem.live.walk import Walk, describe

MAX_TEXTS = 256
MAX_DELTAS = 16
MAX_PAST_BYTES = 64 * 2**20
TRIM_EVERY = 200
"""Steps after which memory that was freed goes back to the system."""


class Mailbox:
    """What waits for one viewer: receipts in full, of views the newest alone, of patches what is new since the last.

    Args:
        wake: Called, on any thread, when there is something to take.
    """

    def __init__(self, wake: Callable[[], None], number: int) -> None:
        self.number = number
        self._wake = wake
        self._lock = threading.Lock()
        self._texts: deque[str] = deque()
        self._deltas: deque[bytes] = deque()
        self._view: bytes | None = None
        self.behind = self.overflown = self.gone = False
        self.dropped = 0
        self.sent = 0.0  # seconds that the newest picture took to be handed to the network

    def text(self, message: str) -> None:
        """A message that must not get lost; a viewer that lets too many lie is given up."""
        with self._lock:
            if len(self._texts) >= MAX_TEXTS:
                self.overflown = True
            else:
                self._texts.append(message)
        self._wake()

    def view(self, message: bytes) -> None:
        """What is to be seen, in place of what was."""
        with self._lock:
            self.dropped += self._view is not None
            self._view = message
        self._wake()

    def delta(self, message: bytes, whole: bool = False) -> None:
        """News of patches; of a viewer that lets too many lie all are dropped, and `behind` says so."""
        with self._lock:
            if whole:
                self._deltas.clear()
                self.behind = False
            if len(self._deltas) >= MAX_DELTAS:
                self._deltas.clear()
                self.behind = True
            if not self.behind:
                self._deltas.append(message)
        self._wake()

    def take(self) -> list[str | bytes]:
        """Everything that waits, in order."""
        with self._lock:
            out: list[str | bytes] = [*self._texts, *self._deltas]
            if self._view is not None:
                out.append(self._view)
            self._texts.clear()
            self._deltas.clear()
            self._view = None
        return out

    @property
    def size(self) -> int:
        """Messages that wait."""
        with self._lock:
            return len(self._texts) + len(self._deltas) + (self._view is not None)


class Broadcast:
    """Watches a session and fills mailboxes. Everything that reads the walk runs on the session's thread.

    Args:
        session: What is watched.
        kept: Whether the world file outlives the walk; viewers are told.
    """

    def __init__(self, session: Session, kept: bool = True) -> None:
        self.session, self.kept = session, kept
        self._boxes: list[Mailbox] = []
        self._lock = threading.Lock()
        self._feed = PatchFeed()
        self._past: OrderedDict[int, bytes] = OrderedDict()
        self._past_bytes = 0
        self._shares: dict[int, float] = {}
        self._more: dict[str, Any] = {}
        self._number = self._steps = 0
        session.watch(self._told)
        session.ask(self._first)

    def join(self, wake: Callable[[], None]) -> Mailbox | None:
        """A mailbox for a new viewer, which is sent everything it needs to know; None while too much is waiting."""
        with self._lock:
            self._number += 1
            box = Mailbox(wake, self._number)
        return box if self.session.ask(lambda walk: self._welcome(walk, box)) else None

    def leave(self, box: Mailbox) -> None:
        """The viewer has gone, perhaps before it was welcomed."""
        with self._lock:
            box.gone = True
            if box in self._boxes:
                self._boxes.remove(box)

    def refresh(self, box: Mailbox) -> bool:
        """Send all patches to a viewer that fell behind; False while too much is waiting."""

        def send(walk: Walk) -> None:
            box.delta(protocol.binary("patches", *self._feed.everything(walk)), whole=True)

        return self.session.ask(send)

    def past(self, frame: int) -> bytes | None:
        """The picture of a frame of this walk as JPEG, while it is kept. On the session's thread."""
        return self._past.get(frame)

    @property
    def watchers(self) -> int:
        """Viewers."""
        with self._lock:
            return len(self._boxes)

    # ------------------------------------------------------------------ on the session's thread

    def _first(self, walk: Walk) -> None:
        """What one sees before the first step, for the timeline of whoever comes later."""
        look = walk.look()
        self._keep(walk.frame, protocol.picture(look.frames_u8[-1]), float(look.coverage[-1]))

    def _told(self, message: Message) -> None:
        if isinstance(message, Receipt):
            for box in self._all():
                if message.sender in (0, box.number):
                    box.text(protocol.receipt(message))
        elif isinstance(message, Status):
            self._tell_status(message)
        else:
            self._show(message)

    def _show(self, shown: Shown) -> None:
        outcome, walk = shown.outcome, shown.walk
        begin = time.perf_counter()
        pictures = [protocol.picture(frame) for frame in outcome.frames_u8]
        numbers = outcome.frames.tolist()
        for number, encoded, share in zip(numbers, pictures, outcome.coverage.tolist(), strict=True):
            self._keep(number, encoded, share)
        self._more = _more(walk)
        self._steps += 1
        if self._steps % TRIM_EVERY == 0:
            give_back()
        if not self._all():
            return
        frames = dict(zip(numbers, outcome.frames_u8, strict=True))
        news = self._feed.news(walk, frames)
        if news is not None:
            message = protocol.binary("patches", *news)
            for box in self._all():
                box.delta(message)
        view = self._view(walk, numbers, outcome.coverage.tolist(), pictures)
        header, blobs = view
        header["poses"] = [pose.flatten().tolist() for pose in outcome.poses]
        header["seq"] = shown.receipt.seq
        header["warnings"] = list(outcome.warnings)
        header["said"] = outcome.said
        sent = max((box.sent for box in self._all()), default=0.0)
        stages = {**outcome.stages, "encode": time.perf_counter() - begin, "send": sent}
        header["stages"] = {name: round(seconds, 5) for name, seconds in stages.items()}
        message = protocol.binary("view", header, blobs)
        for box in self._all():
            box.view(message)

    def _view(
        self, walk: Walk, numbers: list[int], shares: list[float], pictures: list[bytes]
    ) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
        blobs = [("frame", encoded) for encoded in pictures]
        if walk.maker.generates:  # elsewhere the frame is what memory shows
            config = walk.maker.retrieval
            ((frame, good),) = remembered(walk.maker.models.vae, walk.state.store, walk.mosaic, config)
            blobs.append(("mosaic", protocol.picture(hatched(to_u8(frame[None])[0], good))))
        header = {
            "frames": numbers,
            "coverage": [round(share, 4) for share in shares],
            "known": round(float(walk.mosaic.coverage[0]), 4),
            "tokens": tokens(walk),
            "prompt": walk.state.prompt,
            **self._more,
        }
        return header, blobs

    def _welcome(self, walk: Walk, box: Mailbox) -> None:
        look = walk.look()
        self._more = _more(walk)
        if walk.frame not in self._past:
            self._keep(walk.frame, protocol.picture(look.frames_u8[-1]), float(look.coverage[-1]))
        path = [
            [number, round(self._shares.get(number, 0.0), 3), *(round(x, 5) for x in pose.flatten().tolist())]
            for number, pose in list(walk.poses.items())[-4000:]
        ]
        box.text(protocol.text("hello", **describe(walk), kept=self.kept, path=path, you=box.number))
        self._feed.news(walk)
        with self._lock:
            if box.gone:
                return
            self._boxes.append(box)
        box.delta(protocol.binary("patches", *self._feed.everything(walk)), whole=True)
        header, blobs = self._view(walk, [walk.frame], look.coverage.tolist(), [self._past[walk.frame]])
        pose = walk.state.camera.c2w[0].flatten().tolist()
        more = {"poses": [pose], "seq": 0, "stages": {}, "said": "", "warnings": []}
        box.view(protocol.binary("view", {**header, **more}, blobs))
        self._tell_status(self.session.status)

    def _tell_status(self, status: Status) -> None:
        boxes = self._all()
        unsent = max((box.size for box in boxes), default=0)
        message = protocol.status(status, {**self._more, "watchers": len(boxes), "unsent": unsent})
        for box in boxes:
            if box.size < MAX_TEXTS // 2:  # the next one says it all again
                box.text(message)

    def _keep(self, number: int, encoded: bytes, share: float) -> None:
        self._past_bytes += len(encoded) - len(self._past.pop(number, b""))
        self._past[number] = encoded
        self._shares[number] = share
        while self._past_bytes > MAX_PAST_BYTES:
            gone, old = self._past.popitem(last=False)
            self._past_bytes -= len(old)
            self._shares.pop(gone, None)

    def _all(self) -> list[Mailbox]:
        with self._lock:
            return list(self._boxes)


def give_back() -> None:
    """Freed memory to the system, where the C library can.

    Every step leaves a small picture between large scratch that is freed again; glibc would keep the scratch of all.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _more(walk: Walk) -> dict[str, Any]:
    """What the controls of a viewer depend on."""
    found = statistics(walk.state.store)
    return {
        "memory": walk.memory,
        "undo": walk.can_undo,
        "redo": walk.can_redo,
        "words": list(walk.said),
        "saves": list(walk.saves),
        "keyframes": found.keyframes,
        "patches": found.patches,
        "bytes": found.bytes,
        "frame": walk.frame,
    }
