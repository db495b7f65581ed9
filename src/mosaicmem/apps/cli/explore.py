"""Walk through a world in the browser and see what is remembered of it.

Opens a page with the generated view, a map, the remembered patches in 3D, the mosaic of the view, and for every part
of it where it came from. Without anything it begins in a procedural world that the model has never seen; --world goes
on in a world file, --recall shows a posed RGB-D recording from memory alone (no model), --replay plays what --record
wrote down. Whatever happens, the world file is current: end with Ctrl-C and go on with --world.

Writes: the world file (--out; by default walk-1.mosaic or the next free number; that of --recall and --replay is
thrown away unless --out says where to keep it), and what --record names.
"""

from __future__ import annotations

import importlib.util
import secrets
import socket
import webbrowser
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.live_options import LiveArgs, begun, check_live, ended, is_kept
from mosaicmem.apps.cli.live_starts import LiveStart
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError, MissingExtraError
from mosaicmem.live.door import Door, is_everywhere, is_loopback, listen
from mosaicmem.live.player import Player
from mosaicmem.live.session import Session as LiveSession

EXAMPLE = "mosaicmem explore --scene 900018 --record walk.jsonl"


@dataclass(kw_only=True)
class Args(LiveArgs):
    """Arguments of `explore`."""

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
    with listen(args.host, args.port) as bound:
        port = bound.getsockname()[1]
        with begun(args, session) as (start, live, player):
            _serve(args, session, live, player, Door.at(args.host, port, token), bound, start)
            return ended(args, session, start, player)


def _serve(
    args: Args, session: Session, live: LiveSession, player: Player | None, door: Door, bound, start: LiveStart
) -> None:
    from mosaicmem.live.broadcast import Broadcast
    from mosaicmem.live.server import Server, app

    server = Server(app(live, door, player, Broadcast(live, is_kept(args))), bound)
    shown = "127.0.0.1" if is_everywhere(args.host) else args.host
    address = f"http://{f'[{shown}]' if ':' in shown else shown}:{door.port}/?token={door.token}"

    def ready() -> None:
        session.console.note(f"{session.label}: {start.source}")
        session.console.note(f"open {address}")
        if not is_loopback(args.host):
            session.console.note(
                f"warning: listening at {args.host}, not at loopback: every machine that can reach this one can reach "
                "the page, and whoever has the address above, or listens on the way (it is not encrypted), can walk in "
                "this world and edit it"
            )
        if is_everywhere(args.host):
            session.console.note(
                f"from another machine: the same with {socket.gethostname()}, or an address of this "
                f"machine, in place of {shown}"
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


def _checked(args: Args) -> str:
    """The key of the page, after looking at what contradicts what."""
    check_live(args)
    for package in ("starlette", "uvicorn", "websockets"):  # before anything is loaded or written
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "explore", "the page")
    if not 0 <= args.port < 65536:
        raise ConfigError(f"--port {args.port}: expected 0 to 65535")
    if args.token is not None and not (16 <= len(args.token) <= 128 and args.token.isascii() and args.token.isalnum()):
        raise ConfigError("--token: expected 16 to 128 letters and digits")
    return args.token or secrets.token_hex(16)
