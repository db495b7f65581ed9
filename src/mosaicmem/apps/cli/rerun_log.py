"""`--rerun [FILE.rrd]`: what happens, for the viewer of rerun, written while it happens."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from tyro.conf import arg

from mosaicmem.errors import ConfigError, MissingExtraError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.exports.event_log import EventLog
from mosaicmem.io.exports.shots import Decode
from mosaicmem.io.files import refuse_existing
from mosaicmem.live.session import Message, Shown
from mosaicmem.live.session import Session as LiveSession
from mosaicmem.live.walk import Walk

Rerun = Annotated[tuple[Path, ...] | None, arg(metavar="[FILE.rrd]", help_behavior_hint="")]


def named(given: tuple[Path, ...], beside: Path | None) -> Path:
    """The file that `--rerun` stands for: the one that it names, or one beside another file or folder."""
    if given:
        return given[0]
    return Path("walk.rrd") if beside is None else beside.with_name(f"{beside.stem}.rrd")


def recording_file(given: tuple[Path, ...] | None, beside: Path | None, overwrite: bool) -> Path | None:
    """The same, looked at before any work is done; None without the option.

    Raises:
        ConfigError: on several files; MissingExtraError: if rerun is not installed; OutputExistsError: if it exists.
    """
    if given is None:
        return None
    if len(given) > 1:
        raise ConfigError(f"--rerun writes one file, {len(given)} were given: {', '.join(map(str, given))}")
    if importlib.util.find_spec("rerun") is None:
        raise MissingExtraError("rerun-sdk", "rerun", "--rerun")
    path = named(given, beside)
    refuse_existing(path, overwrite)
    return path


@contextlib.contextmanager
def event_log(path: Path | None, decode: Decode, fps: float, overwrite: bool) -> Iterator[EventLog | None]:
    """The recording, where one is wanted."""
    if path is None:
        yield None
        return
    with EventLog(path, decode, fps, overwrite=overwrite) as log:
        yield log


def follow(live: LiveSession, walk: Walk, log: EventLog) -> None:
    """Write down how a live walk begins, and everything that it shows from now on. Before the session is started."""
    look = walk.look()
    log.memory(walk.state.store, walk.frame)
    log.frames(look.frames_u8, look.frames.tolist(), walk.state.camera, look.coverage.tolist())
    if walk.maker.generates:
        log.words(walk.frame, prompt=walk.state.prompt)

    def told(message: Message) -> None:
        if isinstance(message, Shown):
            _shown(message, log)

    live.watch(told)


def _shown(message: Shown, log: EventLog) -> None:
    from mosaicmem.generation.rollout import statistics

    outcome, state = message.outcome, message.walk.state
    numbers, count = outcome.frames.tolist(), len(outcome.frames)
    lens = state.camera.Ks.double().expand(count, 3, 3)
    cameras = Cameras.from_c2w(outcome.poses.double(), lens, state.grid.width, state.grid.height)
    log.frames(outcome.frames_u8, numbers, cameras, np.asarray(outcome.coverage).tolist())
    log.memory(state.store, numbers[-1], dict(zip(numbers, outcome.frames_u8, strict=True)))
    log.numbers(numbers[-1], outcome.stages, statistics(state.store))
    prompt = state.prompt if message.walk.maker.generates else ""
    log.words(numbers[-1], prompt=prompt, said=[outcome.said] if outcome.said else [], warnings=outcome.warnings)
