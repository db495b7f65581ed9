"""From the session's thread to the screen: what is shown of a walk, bounded, taken when the interface has time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem.apps.tui import cloud, origin, settings
from mosaicmem.apps.tui.cloud import Sight
from mosaicmem.apps.tui.drawing import Array, Picture
from mosaicmem.generation.rollout import statistics, to_u8
from mosaicmem.live.patches import Delta, PatchFeed, tokens
from mosaicmem.live.session import Message, Receipt, Session, Shown, Status
from mosaicmem.live.steps import hatched, remembered
from mosaicmem.live.walk import Walk, describe
from mosaicmem.models.world_model import SamplingConfig

ME = 1
"""Sender of what is typed here."""
KEPT_FRAMES, KEPT_STEPS, KEPT_RECEIPTS = 4000, 400, 256


@dataclass(frozen=True)
class Group:
    """One remembered keyframe, or what an edit made of it."""

    uid: int
    frame: int
    origin: str
    patches: int
    pinned: bool


@dataclass(frozen=True)
class Facts:
    """How the walk stands.

    Attributes:
        about: What `live.walk.describe` says.
        branches: Names, and whether it is the one that is written to.
        sampling: How the model samples, where there is one.
        origin: `[m n]` where every token of the view comes from, see `origin`.
    """

    about: dict[str, Any]
    frame: int
    pose: Array
    known: float
    prompt: str
    memory: bool
    undo: str | None
    redo: bool
    words: tuple[str, ...]
    saves: tuple[str, ...]
    branches: tuple[tuple[str, bool], ...]
    keyframes: int
    patches: int
    tokens: int
    bytes: int
    groups: tuple[Group, ...]
    sampling: SamplingConfig | None
    origin: NDArray[np.int8]


@dataclass(frozen=True)
class Step:
    """What one command took: seconds by stage, the frames it made, and how much was remembered after it."""

    seq: int
    stages: dict[str, float]
    frames: int
    patches: int


@dataclass(frozen=True)
class News:
    """What has happened since the last look.

    Attributes:
        pictures: `[n H W 3]` to be shown one after the other; only those of the newest command.
        mosaic: `[H W 3]` what memory shows there, hatched where it shows nothing.
        frames: Numbers and served shares of frames that are new.
        poses: Where they were seen from, world from camera.
    """

    facts: Facts | None = None
    pictures: Picture | None = None
    mosaic: Picture | None = None
    sight: Sight | None = None
    frames: list[tuple[int, float]] = field(default_factory=list)
    poses: list[Array] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    status: Status | None = None


class Feed:
    """Watches a session on its thread, and hands over what is new on whatever thread asks.

    Args:
        wake: Called on the session's thread when there is something new.
    """

    def __init__(self, session: Session, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._patches = PatchFeed()
        self._parts: dict[int, tuple[Array, Picture]] = {}  # by uid: places and colours; the session's thread alone
        self._path: deque[Array] = deque(maxlen=KEPT_FRAMES)
        self._news = News()
        session.watch(self._told)
        session.ask(lambda walk: self._look(walk, Shown(walk.look(), Receipt(0, "applied"), walk)))

    def take(self) -> News:
        """Everything new since the last call."""
        with self._lock:
            news, self._news = self._news, News()
        return news

    # ------------------------------------------------------------------ on the session's thread

    def _told(self, message: Message) -> None:
        if isinstance(message, Shown):
            self._look(message.walk, message)
            return
        with self._lock:
            if isinstance(message, Receipt):
                self._news.receipts.append(message)
            else:
                self._news = _with(self._news, status=message)
        self._wake()

    def _look(self, walk: Walk, shown: Shown) -> None:
        outcome = shown.outcome
        numbers = outcome.frames.tolist()
        self._remember(self._patches.news(walk, dict(zip(numbers, outcome.frames_u8, strict=True))))
        poses = [pose.double().numpy().copy() for pose in outcome.poses]
        self._path.extend(pose[:3, 3] for pose in poses)
        facts = _facts(walk)
        mosaic = _mosaic(walk, outcome.frames_u8[-1])
        sight = self._sight(walk)
        step = Step(shown.receipt.seq, dict(outcome.stages), len(numbers), facts.patches)
        with self._lock:
            new = _with(
                self._news,
                facts=facts,
                pictures=outcome.frames_u8,
                mosaic=mosaic,
                sight=sight,
                status=self._news.status,
            )
            new.frames.extend(zip(numbers, outcome.coverage.tolist(), strict=True))
            new.poses.extend(poses)
            new.steps.append(step)
            new.warnings.extend(outcome.warnings)
            self._news = new
        self._wake()

    def _remember(self, delta: Delta | None) -> None:
        if delta is None:
            return
        header, blobs = delta
        raw = dict(blobs)
        xyz = np.frombuffer(raw["xyz"], "<f4").reshape(-1, 3).astype(np.float64)
        rgb = np.frombuffer(raw["rgb"], np.uint8).reshape(-1, 3)
        if header["reset"]:
            self._parts.clear()
        for uid in header["removed"]:
            self._parts.pop(uid, None)
        at = 0
        for group in header["groups"]:
            rows = slice(at, at + group["count"])
            self._parts[group["uid"]] = xyz[rows], rgb[rows]
            at += group["count"]

    def _sight(self, walk: Walk) -> Sight:
        none = np.zeros((0, 3))
        parts = list(self._parts.values())
        xyz = np.concatenate([none, *(part[0] for part in parts)])
        rgb = np.concatenate([none.astype(np.uint8), *(part[1] for part in parts)])
        camera, store = walk.state.camera, walk.state.store
        length = 0.25 * store.scale if len(store) else 0.25
        pose, K = camera.c2w[0].double().numpy(), camera.Ks[0].double().numpy()
        eye = cloud.frustum(pose, K, camera.width, camera.height, float(length))
        path = np.array(self._path) if self._path else none
        return Sight(xyz, rgb, path, eye, walk.up.double().numpy())


def _facts(walk: Walk) -> Facts:
    store = walk.state.store
    found = statistics(store)
    counts = np.diff(np.asarray(store.offsets)).tolist()
    keys = [group.keyframe for group in store]
    groups = tuple(
        Group(group.uid, key.frame, key.origin, count, group.pinned)
        for group, key, count in zip(store, keys, counts, strict=True)
    )
    return Facts(
        about=describe(walk),
        frame=walk.frame,
        pose=walk.state.camera.c2w[0].double().numpy().copy(),
        known=float(walk.mosaic.coverage[0]),
        prompt=walk.state.prompt,
        memory=walk.memory,
        undo=walk.can_undo,
        redo=walk.can_redo,
        words=tuple(walk.said),
        saves=tuple(walk.saves),
        branches=tuple((branch.name, branch.chosen) for branch in walk.world.branches),
        keyframes=found.keyframes,
        patches=found.patches,
        tokens=found.patches * walk.state.grid.patch**2,
        bytes=found.bytes,
        groups=groups,
        sampling=settings.sampling_of(walk),
        origin=origin.origins(tokens(walk), walk.mosaic.grid.tokens),
    )


def _mosaic(walk: Walk, shown: NDArray[np.uint8]) -> Picture:
    """What memory shows in the view; where nothing is generated that is the frame itself."""
    if not walk.maker.generates:
        return shown
    config = walk.maker.retrieval
    ((frame, good),) = remembered(walk.maker.models.vae, walk.state.store, walk.mosaic, config)
    return hatched(to_u8(frame[None])[0], good)


def _with(news: News, **changes: Any) -> News:
    """The news with some values replaced, and its lists kept short for a viewer that does not look."""
    for kept, most in ((news.frames, KEPT_FRAMES), (news.poses, KEPT_FRAMES), (news.steps, KEPT_STEPS)):
        del kept[:-most]
    del news.receipts[:-KEPT_RECEIPTS], news.warnings[:-KEPT_RECEIPTS]
    return News(**{**news.__dict__, **changes})
