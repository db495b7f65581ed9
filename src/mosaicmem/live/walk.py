"""`Walk`: the deterministic heart of a live session. No clock, no thread, no socket: commands in, frames out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError, GeometryError, InputError
from mosaicmem.generation.clock import Clock
from mosaicmem.generation.rollout import statistics, to_u8
from mosaicmem.generation.script import Cue, Script
from mosaicmem.generation.state import RolloutState
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.world import WorldFile
from mosaicmem.live import commands as c
from mosaicmem.live.edits import Difference, Others, edited
from mosaicmem.live.repaint import moved_to, repainted
from mosaicmem.live.steps import Maker, hatched, path_of, remembered
from mosaicmem.memory.mosaic import Mosaic
from mosaicmem.memory.retrieval import retrieve
from mosaicmem.memory.store import PatchStore

MAX_POSES = 100_000
MAX_SAID = 16
EDITS = ("erase", "move", "duplicate", "rotate", "scale", "splice")


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        frames_u8: `[n H W 3]` what is to be seen now; a repainted frame keeps its number.
        frames: `[n]` their numbers.
        poses: `[n 4 4]` world from camera of each.
        coverage: `[n]` share of each that memory served.
        stages: Seconds by stage.
        said: One line for people.
        warnings: For the user, in plain words.
        depth_source: Where the depth of new keyframes came from.
    """

    frames_u8: NDArray[np.uint8]
    frames: NDArray[np.int64]
    poses: Float[Tensor, "n 4 4"]
    coverage: NDArray[np.float64]
    stages: dict[str, float]
    said: str = ""
    warnings: tuple[str, ...] = ()
    depth_source: str = "none"

    def digest(self, store: PatchStore) -> str:
        """16 hex digits of the frames and of how much is remembered: equal walks have equal ones."""
        found = statistics(store)
        h = hashlib.blake2b(np.ascontiguousarray(self.frames_u8).tobytes(), digest_size=8)
        h.update(np.asarray([*self.frames, found.keyframes, found.patches], np.int64).tobytes())
        return h.hexdigest()


@dataclass
class Walk:
    """One walk through one world. Not for several threads at once.

    Attributes:
        maker: What makes the frames.
        state: Where the walk stands; its store is that of the file.
        world: The file, open for writing.
        up: Unit direction of the world's up.
        others: Worlds that may be spliced in.
        caption: What is there, without what was said since.
        walked: Frames of steps so far, in this walk alone; `frame` counts those that memory began with, too.
    """

    maker: Maker
    state: RolloutState
    world: WorldFile
    up: Float[Tensor, "3"]
    others: Others = field(default_factory=dict)
    caption: str = ""
    memory: bool = True
    said: list[str] = field(default_factory=list)
    poses: dict[int, Float[Tensor, "4 4"]] = field(default_factory=dict)
    walked: int = 0
    _mosaic: Mosaic | None = None
    _done: list[Difference] = field(default_factory=list)
    _undone: list[Difference] = field(default_factory=list)
    _edit_before: str | None = None  # the file's newest operation, where it is an edit of an earlier session

    def __post_init__(self) -> None:
        self._edit_before = self._newest_edit()
        # the frame one begins with is being looked at: the first step leads on from it
        kept = self._kept(PatchStore.empty(), self.state.store)
        self.state = replace(self._told(self.said), store=kept, anchor_pending=False)
        self.poses[self.frame] = self.state.camera.c2w[0]

    @property
    def frame(self) -> int:
        """Number of the frame that is looked at."""
        return self.state.next_frame - 1

    @property
    def mosaic(self) -> Mosaic:
        """What memory shows in the view that is looked at."""
        if self._mosaic is None:
            self._mosaic = retrieve(self.state.store, self.state.camera, self.state.grid, self.maker.retrieval)
        return self._mosaic

    def do(self, command: c.Command) -> Outcome:
        """Carry out one command; on an error everything is as it was.

        Raises:
            MosaicMemError: if it cannot be done; the message says why.
        """
        clock = Clock()
        match command:
            case c.Move():
                return self._move(command, clock)
            case c.Jump():
                return self._jump(command, clock)
            case c.Edit():
                return self._edit(command, clock)
            case c.Undo():
                return self._undo(clock)
            case c.Redo():
                return self._redo(clock)
            case c.Say():
                return self._say(command.text)
            case c.Memory():
                if not self.maker.generates:
                    raise ConfigError("nothing is generated here: memory is all there is to see")
                self.memory = command.on
                return self.look(f"memory {'on' if command.on else 'off'}")
            case c.Save():
                return self._save(command.name)
            case c.Load():
                return self._load(command.name, clock)

    def look(self, said: str = "", stages: Mapping[str, float] | None = None) -> Outcome:
        """The frame that is looked at, once more."""
        frame = to_u8(self.state.last_frame[None])
        if not self.maker.generates:
            ((_, good),) = remembered(self.maker.models.vae, self.state.store, self.mosaic, self.maker.retrieval)
            frame = hatched(frame[0], good)[None]
        return Outcome(
            frame,
            np.array([self.frame]),
            self.state.camera.c2w,
            self.mosaic.coverage.numpy(),
            dict(stages or {}),
            said,
        )

    def stand(self) -> None:
        """Write down in the file where this walk stands; not part of its history."""
        walk = self.world.meta.get("walk")
        kept = dict(walk) if isinstance(walk, dict) else {}
        kept |= {"pose": self.state.camera.c2w[0].flatten().tolist(), "frame": self.frame}
        kept |= {"caption": self.caption, "said": list(self.said)}
        if kept != walk:
            self.world.describe({**self.world.meta, "walk": kept})

    @property
    def saves(self) -> dict[str, list[float]]:
        """Names of saved worlds, and where one stood."""
        walk = self.world.meta.get("walk")
        found = walk.get("saves") if isinstance(walk, dict) else None
        return dict(found) if isinstance(found, dict) else {}

    @property
    def can_undo(self) -> str | None:
        """Name of the edit that `Undo` would take back."""
        return self._done[-1].kind if self._done else self._edit_before

    @property
    def can_redo(self) -> bool:
        """Whether there is something to do again."""
        return bool(self._undone)

    # ------------------------------------------------------------------ steps

    def _move(self, move: c.Move, clock: Clock) -> Outcome:
        cameras = path_of(move, self.state.camera, self.up, self.maker.frames)
        state, event, mosaic = self.maker.step(self.state, cameras, self.memory)
        with clock("insert"):
            store = self._kept(
                self.state.store, state.store, dict(zip(event.frames.tolist(), event.frames_u8, strict=True))
            )
        self.state, self._mosaic = replace(state, store=store), mosaic
        self.walked += len(event.frames)
        self._remember_poses(event.frames, cameras.c2w)
        stages = dict(event.timings)
        stages["insert"] = stages.get("insert", 0.0) + clock.seconds["insert"]
        poses, shares = cameras.c2w, event.coverage
        return Outcome(event.frames_u8, event.frames, poses, shares, stages, "", event.warnings, event.depth_source)

    def _jump(self, jump: c.Jump, clock: Clock) -> Outcome:
        if jump.frame is not None:
            if jump.frame not in self.poses:
                raise InputError(f"frame {jump.frame} is not of this walk; expected one that was shown")
            c2w = self.poses[jump.frame]
        else:
            c2w = torch.tensor(jump.pose, dtype=torch.float64).reshape(4, 4)
        here = self.state.camera
        camera = Cameras.from_c2w(c2w[None], here.Ks, here.width, here.height)
        with clock("retrieve"):
            self.state = moved_to(self.maker, self.state, camera)
        self._mosaic = None
        self._remember_poses(np.array([self.frame]), camera.c2w)
        where = "there" if jump.frame is None else f"where frame {jump.frame} was seen"
        return self.look(f"standing {where}", clock.seconds)

    def _say(self, text: str) -> Outcome:
        if not self.maker.generates:
            raise ConfigError("nothing is generated here, so that nothing can happen")
        said = [*self.said, text.strip()][-MAX_SAID:] if text.strip() else []
        self.said = said
        before = self.state.avoid or self.state.prompt
        self.state = replace(self._told(said), avoid=before if said else "")
        return self.look(f"from now on: {self.state.prompt}")

    # ------------------------------------------------------------------ edits

    def _edit(self, edit: c.Edit, clock: Clock) -> Outcome:
        with clock("edit"):
            before = self.world.store
            after, arguments, said = edited(edit, before, self.up, self.others)
            difference = Difference.between(before, after)
            operation = self.world.apply(edit.verb, arguments, after)
        if operation is not None:
            self._done.append(replace(difference, operation=operation.id, kind=edit.verb))
            self._undone.clear()
        return self._in_new_memory(said, clock)

    def _undo(self, clock: Clock) -> Outcome:
        kind = self.can_undo
        if kind is None:
            raise ConfigError("nothing to undo: no edit in this walk, and the file's newest operation is none")
        with clock("edit"):
            last = self._done[-1] if self._done else None
            if last is None or self.world.head.head == last.operation:
                self.world.undo()
            else:
                self.world.apply("undo", {"operation": last.operation}, last.reverse.applied(self.world.store))
        if last is not None:
            self._undone.append(self._done.pop())
        self._edit_before = self._newest_edit()
        return self._in_new_memory(f"{kind} taken back", clock)

    def _redo(self, clock: Clock) -> Outcome:
        if not self._undone:
            raise ConfigError("nothing to redo: no edit was taken back, or another one came since")
        last = self._undone[-1]
        with clock("edit"):
            before = self.world.store
            after = last.applied(before)
            operation = self.world.apply(last.kind, {"again": last.operation}, after)
        self._undone.pop()
        if operation is not None:
            self._done.append(replace(Difference.between(before, after), operation=operation.id, kind=last.kind))
        return self._in_new_memory(f"{last.kind} done again", clock)

    def _save(self, name: str) -> Outcome:
        self.world.branch(name)
        walk = self.world.meta.get("walk")
        kept = dict(walk) if isinstance(walk, dict) else {}
        kept["saves"] = {**self.saves, name: self.state.camera.c2w[0].flatten().tolist()}
        self.world.describe({**self.world.meta, "walk": kept})
        return self.look(f"saved as {name}")

    def _load(self, name: str, clock: Clock) -> Outcome:
        found = {branch.name: branch for branch in self.world.branches}
        if name not in found or name not in self.saves:
            raise ConfigError(f"nothing was saved as {name!r}; there are {', '.join(self.saves) or 'no saves'}")
        number = next(i for i in range(2, len(found) + 3) if f"{name} {i}" not in found)
        c2w = torch.tensor(self.saves[name], dtype=torch.float64).reshape(1, 4, 4)
        self.world.branch(f"{name} {number}", found[name].head)
        self.world.checkout(f"{name} {number}")
        self._done.clear()
        self._undone.clear()
        self._edit_before = self._newest_edit()
        here = self.state.camera
        camera = Cameras.from_c2w(c2w, here.Ks, here.width, here.height)
        state = replace(self.state, store=self.world.store)
        try:
            with clock("retrieve"):
                self.state = moved_to(self.maker, state, camera)
        except GeometryError:  # saved where memory shows nothing: the frame stays
            self.state = replace(state, camera=camera, past=None, context=None, next_frame=state.next_frame + 1)
        self._mosaic = None
        self._remember_poses(np.array([self.frame]), camera.c2w)
        return self.look(f"{name}, as it was saved", clock.seconds)

    def _in_new_memory(self, said: str, clock: Clock) -> Outcome:
        with clock("retrieve"):
            self.state = repainted(self.maker, self.state, self.world.store)
        self._mosaic = None
        return self.look(said, clock.seconds)

    # ------------------------------------------------------------------ inside

    def _kept(
        self, before: PatchStore, after: PatchStore, pictures: Mapping[int, NDArray[np.uint8]] | None = None
    ) -> PatchStore:
        """The store as the file has it, after everything that is new in `after` is durable."""
        if after is before or (not len(before) and _same(after, self.world.store)):
            return self.world.store if len(after) else after
        self._edit_before = None
        label, seed, shown = self.maker.label, self.state.seed, pictures or {}
        grown = len(after) >= len(before) and all(a is b for a, b in zip(before, after, strict=False))
        if grown and all(group.mask is None and group.until is None for group in after.groups[len(before) :]):
            for group in after.groups[len(before) :]:
                key = group.keyframe
                self.world.insert(key, model=label, seed=seed, thumbnail=shown.get(key.frame))
        else:
            thumbnails = {g.keyframe: shown[g.keyframe.frame] for g in after if g.keyframe.frame in shown}
            self.world.apply("walk", {"frame": self.frame}, after, model=label, seed=seed, thumbnails=thumbnails)
        return self.world.store

    def _remember_poses(self, frames: NDArray[np.int64], poses: Float[Tensor, "n 4 4"]) -> None:
        for number, pose in zip(frames.tolist(), poses, strict=True):
            self.poses[number] = pose
        while len(self.poses) > MAX_POSES:
            self.poses.pop(next(iter(self.poses)))

    def _told(self, said: list[str]) -> RolloutState:
        script = Script(self.caption, tuple(Cue(i, words) for i, words in enumerate(said)))
        return replace(self.state, prompt=script.prompt(len(said)), avoid="")

    def _newest_edit(self) -> str | None:
        if self.world.head.head is None:
            return None
        kind = self.world.log()[0].kind
        return kind if kind in EDITS else None


def _same(a: PatchStore, b: PatchStore) -> bool:
    return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))


def describe(walk: Walk) -> dict[str, Any]:
    """What a viewer has to know before anything else, JSON."""
    grid, camera = walk.state.grid, walk.state.camera
    return {
        "label": walk.maker.label,
        "generates": walk.maker.generates,
        "width": grid.width,
        "height": grid.height,
        "tokens": list(grid.tokens),
        "frames": walk.maker.frames,
        "K": camera.Ks[0].flatten().tolist(),
        "up": walk.up.tolist(),
        "scale": walk.state.store.scale,
        "unit": "m" if walk.world.meta.get("metric") is True else "",
        "world": walk.world.path.name,
        "others": list(walk.others),
    }
