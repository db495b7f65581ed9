"""What the commands that walk live share: where a walk begins, where it is kept, and what is said in the end."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.live_starts import (
    MEMORY,
    LiveStart,
    free_name,
    in_folder,
    in_scene,
    in_world,
    made_with,
    others,
    replayed,
)
from mosaicmem.apps.cli.memory_folder import store_file
from mosaicmem.apps.cli.options import Computing, check_scene
from mosaicmem.apps.cli.rerun_log import Rerun, event_log, follow, named, recording_file
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError
from mosaicmem.generation.backend import ROOMS
from mosaicmem.io.files import refuse_existing
from mosaicmem.live.player import Player
from mosaicmem.live.recording import Recorder, Recording
from mosaicmem.live.session import Session as LiveSession
from mosaicmem.live.walk import Walk

SCENE = 900_020


@dataclass(kw_only=True)
class LiveArgs(Computing):
    """Arguments of a command that walks."""

    world: Annotated[Path | None, arg(aliases=["-w"], metavar="FILE", help_behavior_hint="")] = None
    """World file to go on in."""
    recall: Annotated[Path | None, arg(metavar="FOLDER", help_behavior_hint="")] = None
    """Posed RGB-D recording to remember and walk in, without a model."""
    replay: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Recording of a walk to play."""
    scene: Annotated[int | None, arg(metavar="SEED", help_behavior_hint=f"(default: {SCENE})")] = None
    """Procedural world to begin in."""
    model: Annotated[
        str | None,
        arg(metavar="rooms|synthetic|memory|DIR", help_behavior_hint="(default: rooms, or what a world needs)"),
    ] = None
    """What makes the frames; `memory` shows memory alone."""
    size: Annotated[
        str | None, arg(metavar="WxH", help_behavior_hint="(default: 128x128; --recall: longer side 160)")
    ] = None
    """Size of the frames."""
    frames: Annotated[str | None, arg(metavar="SLICE", help_behavior_hint="(default: about 60, evenly)")] = None
    """Which frames of --recall to remember, as start:stop:step or a,b,c."""
    other: Annotated[UseAppendAction[list[Path]], arg(metavar="FILE", help_behavior_hint="(repeatable)")] = field(
        default_factory=list
    )
    """World that may be spliced in."""
    record: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write down what is done, for --replay."""
    rerun: Rerun = None
    """Write what is shown, the cameras and memory as a rerun recording while one walks (default file: beside the world
    file; extra `rerun`)."""


def check_live(args: LiveArgs) -> None:
    """Look at what contradicts what, before anything is loaded or written.

    Raises:
        ConfigError, OutputExistsError: in words.
    """
    starts = [name for name in ("world", "recall", "replay", "scene") if getattr(args, name) is not None]
    if len(starts) > 1:
        raise ConfigError(f"--{starts[0]} and --{starts[1]} are two places to begin at; leave one out")
    check_scene(args.scene)
    if args.recall is not None and args.model not in (None, MEMORY):
        raise ConfigError("--recall shows memory alone; leave --model out")
    if args.frames is not None and args.recall is None:
        raise ConfigError("--frames belongs to --recall")
    if args.out is not None and (args.world or args.replay):
        raise ConfigError("--out is for a new world; --world goes on in its file, --replay keeps none")
    for path in (args.record, args.out):
        if path is not None:
            refuse_existing(path, args.overwrite)
    shown = recording_file(args.rerun, args.world or args.out, args.overwrite)
    _check_apart(args, shown)


def _check_apart(args: LiveArgs, shown: Path | None) -> None:
    """Refuse to write into a file that is read or written besides: --overwrite is not meant for that."""
    held = [("--world", args.world and store_file(args.world)), ("--replay", args.replay)]
    held += [("--other", store_file(path)) for path in args.other]
    taken = {path.resolve(): option for option, path in held if path is not None}
    for option, path in (("--out", args.out), ("--record", args.record), ("--rerun", shown)):
        if path is None:
            continue
        if path.resolve() in taken:
            raise ConfigError(f"{option} {path}: is the file of {taken[path.resolve()]} as well; choose another name")
        taken[path.resolve()] = option


@contextlib.contextmanager
def begun(args: LiveArgs, session: Session) -> Iterator[tuple[LiveStart, LiveSession, Player | None]]:
    """The walk that the arguments ask for, in a session that has not started yet; its file is closed in the end."""
    with tempfile.TemporaryDirectory(prefix="mosaicmem-") as temporary:
        start, recording = _start(args, Path(temporary), session)
        walk = start.walk
        try:
            walk.others = others(args.other, walk.maker.models)
            recorder = None
            if args.record is not None:
                recorder = Recorder(args.record, made_with(start.spec, session), overwrite=args.overwrite)
            live = LiveSession(walk, recorder=recorder)
            path = recording_file(args.rerun, _beside(args, walk), args.overwrite)
            with event_log(path, walk.maker.models.vae.decode_image, walk.state.fps, args.overwrite) as log:
                if log is not None:
                    follow(live, walk, log)
                yield start, live, None if recording is None else Player(live, recording)
        finally:
            walk.world.close()


def ended(args: LiveArgs, session: Session, start: LiveStart, player: Player | None) -> Result:
    """What became of the walk; while its file is still open."""
    walk, kept = start.walk, is_kept(args)
    patches = walk.state.store.num_patches
    said = [f"{walk.walked} frame{'s' * (walk.walked != 1)} walked; {patches:,} patches remembered"]
    session.wrote = args.out
    if kept:
        path = walk.world.path
        said.append(
            f"the world is kept in {path}; go on with: mosaicmem {session.command} --world {shlex.quote(str(path))}"
        )
    if player is not None:
        said.append(f"{player.same} commands replayed bit for bit, {player.different} with another result")
    if args.record is not None:
        said.append(f"what was done is in {args.record}")
    if args.rerun is not None:
        path = named(args.rerun, _beside(args, walk))
        said.append(f"what was shown is in {path}; look at it with: rerun {shlex.quote(str(path))}")
    data = {
        "source": start.source,
        "frame": walk.frame,
        "walked": walk.walked,
        "patches": patches,
        "world": str(walk.world.path) if kept else None,
        "replayed": None if player is None else {"same": player.same, "different": player.different},
    }
    return Result(data, said)


def is_kept(args: LiveArgs) -> bool:
    """Whether the world file outlives the walk."""
    return args.replay is None and (args.recall is None or args.out is not None)


def _beside(args: LiveArgs, walk: Walk) -> Path | None:
    """What a recording for rerun lies beside; a world that is thrown away has no place."""
    return walk.world.path if is_kept(args) else None


def _start(args: LiveArgs, temporary: Path, session: Session) -> tuple[LiveStart, Recording | None]:
    if args.replay is not None:
        start, recording = replayed(args.replay, temporary, session)
        if recording.cut:
            session.console.note(f"{args.replay}: its last line was cut off and is left out")
        return start, recording
    if args.world is not None:
        return in_world(args.world, args.model, session), None
    if args.recall is not None:
        out = args.out or temporary / "recall.mosaic"
        return in_folder(args.recall, args.frames, args.size, out, session, args.overwrite), None
    scene = SCENE if args.scene is None else args.scene
    out = args.out or free_name()
    return in_scene(scene, args.model or ROOMS, args.size, out, session, args.overwrite), None
