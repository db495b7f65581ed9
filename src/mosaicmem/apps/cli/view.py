"""Look at a world file in a viewer that other tools share: viser, in the browser.

Shows what the remembered patches hold as points in their colours, and the cameras that saw them, each with its
picture; click a camera to look through it, drag "pictures" to see memory grow. Nothing can be changed there: to walk
and to edit, there is `mosaicmem explore --world WORLD`. Needs the extra `viser`. Ctrl-C ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import threading
import webbrowser
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.memory_folder import load_memory, vae_of
from mosaicmem.apps.cli.options import Computing
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError, MissingExtraError
from mosaicmem.live.door import is_everywhere, is_loopback
from mosaicmem.live.steps import upright

EXAMPLE = "mosaicmem view walk-1.mosaic --viser"


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `view`."""

    world: Positional[Path]
    """World file, or the memory folder that holds it."""
    viser: bool = False
    """Show it in viser."""
    port: int = 8421
    """Port of the page; 0 takes a free one."""
    host: str = "127.0.0.1"
    """Address to listen at. Anything but loopback lets other machines look; viser asks for no key."""
    no_browser: bool = False
    """Print the address and open no browser."""
    at: Annotated[float | None, arg(metavar="SECONDS", help_behavior_hint="(default: now)")] = None
    """The world as it was at this second, on the clock of its frames."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="(default: where remember found it)")] = None
    """Weights of the pretrained VAE of the memory, if they have moved."""


def run(args: Args, session: Session) -> Result:
    """Draw what is held, and serve it until Ctrl-C."""
    if not args.viser:
        raise ConfigError(
            f"view needs a viewer: add --viser; or walk in it with: mosaicmem explore --world {args.world}"
        )
    if not 0 <= args.port < 65536:
        raise ConfigError(f"--port {args.port}: expected 0 to 65535")
    if importlib.util.find_spec("viser") is None:
        raise MissingExtraError("viser", "viser", "view --viser")
    from mosaicmem.apps.viser_scene import WorldView, drawn

    store, meta = load_memory(args.world)
    vae = vae_of(meta, args.vae, session)
    with session.stage("draw"):
        world = drawn(store, vae.decode_image, upright, args.at)
    with WorldView(world, args.world.name, args.host, args.port) as view:
        shown = "127.0.0.1" if is_everywhere(args.host) else args.host
        address = f"http://{f'[{shown}]' if ':' in shown else shown}:{view.port}/"
        session.console.note(f"open {address}")
        if not is_loopback(args.host):
            session.console.note(
                f"warning: listening at {args.host}, not at loopback: every machine that can reach this one can look "
                "at this world; there is no key, and nothing is encrypted"
            )
        session.console.note("Ctrl-C ends")
        if not args.no_browser:
            webbrowser.open(address)
        _wait()
    points = sum(map(len, world.clouds))
    data = {"pictures": len(world.frames), "points": points, "address": address}
    return Result(data, [f"{points:,} points of {len(world.frames)} pictures were shown"])


def _wait() -> None:
    """Until Ctrl-C."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
