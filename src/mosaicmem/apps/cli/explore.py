"""Walk through a world in the browser and see what is remembered of it.

Opens a page with the generated view, a map, the remembered patches in 3D, the mosaic of the view, and for every part
of it where it came from. Without anything it begins in a procedural world that the model has never seen; --world goes
on in a world file, --recall shows a posed RGB-D recording from memory alone (no model), --replay plays what --record
wrote down. Whatever happens, the world file is current: end with Ctrl-C and go on with --world.

Writes: the world file (--out; by default walk-1.mosaic or the next free number; that of --recall and --replay is
thrown away unless --out says where to keep it), and what --record names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import tempfile
import webbrowser
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
    others,
    replayed,
    with_seed,
)
from mosaicmem.apps.cli.options import Common
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError, MissingExtraError
from mosaicmem.generation.backend import ROOMS
from mosaicmem.io.files import refuse_existing
from mosaicmem.live.door import Door, is_everywhere, is_loopback, listen
from mosaicmem.live.player import Player
from mosaicmem.live.recording import Recorder, Recording
from mosaicmem.live.session import Session as LiveSession

EXAMPLE = "mosaicmem explore --scene 900018 --record walk.jsonl"
SCENE = 900_020


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `explore`."""

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
    """World that may be spliced in on the page."""
    record: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write down what is done, for --replay."""
    port: int = 8420
    """Port of the page; 0 takes a free one."""
    host: str = "127.0.0.1"
    """Address to listen at. Anything but loopback lets other machines in: whoever has the printed address can walk and
    edit."""
    token: Annotated[str | None, arg(metavar="TEXT", help_behavior_hint="(default: a new one every time)")] = None
    """Key of the page, at least 16 letters and digits; a fixed one lets open pages come back after a restart."""
    no_browser: bool = False
    """Print the address and open no browser."""


def run(args: Args, session: Session) -> Result:
    """Begin, serve the page, and end with the world file closed."""
    token = _checked(args)
    with listen(args.host, args.port) as bound, contextlib.ExitStack() as stack:
        port = bound.getsockname()[1]
        begun, recording = stack.enter_context(_begun(args, session))
        walk = begun.walk
        walk.others = others(args.other, walk.maker.models)
        recorder = None
        if args.record is not None:
            recorder = Recorder(args.record, with_seed(begun.spec, session), overwrite=args.overwrite)
        live = LiveSession(walk, recorder=recorder)
        player = None if recording is None else Player(live, recording)
        _serve(args, session, live, player, Door.at(args.host, port, token), bound, begun)
        said = [f"{walk.frame} frames walked; {walk.state.store.num_patches:,} patches remembered"]
        kept = _kept(args)
        session.wrote = args.out
        if kept:
            said.append(
                f"the world is kept in {walk.world.path}; go on with: mosaicmem explore --world {walk.world.path}"
            )
        if player is not None:
            said.append(f"{player.same} commands replayed bit for bit, {player.different} with another result")
        if args.record is not None:
            said.append(f"what was done is in {args.record}")
        data = {
            "source": begun.source,
            "frame": walk.frame,
            "patches": walk.state.store.num_patches,
            "world": str(walk.world.path) if kept else None,
            "replayed": None if player is None else {"same": player.same, "different": player.different},
        }
        return Result(data, said)


def _serve(
    args: Args, session: Session, live: LiveSession, player: Player | None, door: Door, bound, begun: LiveStart
) -> None:
    from mosaicmem.live.server import Server, app

    server = Server(app(live, door, player), bound)
    shown = "127.0.0.1" if is_everywhere(args.host) else args.host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{door.port}/?token={door.token}"

    def ready() -> None:
        session.console.note(f"{session.label}: {begun.source}")
        session.console.note(f"open {address}")
        if not is_loopback(args.host):
            session.console.note(
                f"warning: listening at {args.host}, not at loopback: every machine that can reach this one can reach "
                "the page, and whoever has the address above, or listens on the way (it is not encrypted), can walk in "
                "this world and edit it"
            )
        session.console.note("Ctrl-C ends; the world file is always current")
        if player is not None:
            player.start()
        if not args.no_browser:
            webbrowser.open(address)

    live.start()
    try:
        server.run(ready)
    except KeyboardInterrupt:
        pass
    finally:
        if player is not None:
            player.stop()
        live.stop()


@contextlib.contextmanager
def _begun(args: Args, session: Session) -> Iterator[tuple[LiveStart, Recording | None]]:
    """The walk that the arguments ask for; its file is closed in the end."""
    with tempfile.TemporaryDirectory(prefix="mosaicmem-") as temporary:
        recording = None
        if args.replay is not None:
            begun, recording = replayed(args.replay, Path(temporary), session)
            if recording.cut:
                session.console.note(f"{args.replay}: its last line was cut off and is left out")
        elif args.world is not None:
            begun = in_world(args.world, args.model, session)
        elif args.recall is not None:
            out = args.out or Path(temporary, "recall.mosaic")
            begun = in_folder(args.recall, args.frames, args.size, out, session)
        else:
            scene = SCENE if args.scene is None else args.scene
            model = args.model or ROOMS
            begun = in_scene(scene, model, args.size, args.out or free_name(), session, args.overwrite)
        try:
            yield begun, recording
        finally:
            begun.walk.world.close()


def _checked(args: Args) -> str:
    """The key of the page, after looking at what contradicts what."""
    starts = [name for name in ("world", "recall", "replay", "scene") if getattr(args, name) is not None]
    if len(starts) > 1:
        raise ConfigError(f"--{starts[0]} and --{starts[1]} are two places to begin at; leave one out")
    if args.recall is not None and args.model not in (None, MEMORY):
        raise ConfigError("--recall shows memory alone; leave --model out")
    if args.frames is not None and args.recall is None:
        raise ConfigError("--frames belongs to --recall")
    if args.out is not None and (args.world or args.replay):
        raise ConfigError("--out is for a new world; --world goes on in its file, --replay keeps none")
    for package in ("starlette", "uvicorn", "websockets"):  # before anything is loaded or written
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "explore", "the page")
    if not 0 <= args.port < 65536:
        raise ConfigError(f"--port {args.port}: expected 0 to 65535")
    if args.token is not None and not (16 <= len(args.token) <= 128 and args.token.isascii() and args.token.isalnum()):
        raise ConfigError("--token: expected 16 to 128 letters and digits")
    if args.record is not None:
        refuse_existing(args.record, args.overwrite)
    if args.out is not None:
        refuse_existing(args.out, args.overwrite)
    return args.token or secrets.token_hex(16)


def _kept(args: Args) -> bool:
    return args.replay is None and (args.recall is None or args.out is not None)
