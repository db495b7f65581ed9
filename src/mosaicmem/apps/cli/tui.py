"""Walk through a world in the terminal and see what is remembered of it; works over SSH, from 80x24 upwards.

Four tabs: the walk itself (the frame, memory from outside, the log), coverage of every frame, where the time goes and
what memory is worth, and what is remembered, to be edited with a preview and undone. ? shows all keys. It begins
where `explore` does, and whatever happens, the world file is current: end with Q or Ctrl-C and go on with --world.

Writes: as `explore`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mosaicmem.apps.cli.console import Console, Result, Tick
from mosaicmem.apps.cli.live_options import LiveArgs, begun, check_live, ended
from mosaicmem.apps.cli.live_starts import MEMORY, LiveStart
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError, MissingExtraError
from mosaicmem.generation.backend import ROOMS

EXAMPLE = "mosaicmem tui --world walk-1.mosaic"


@dataclass(kw_only=True)
class Args(LiveArgs):
    """Arguments of `tui`."""


def run(args: Args, session: Session) -> Result:
    """Begin behind the interface, and end with the world file closed."""
    check_live(args)
    if importlib.util.find_spec("textual") is None:
        raise MissingExtraError("textual", "tui", "the terminal interface")
    if not _on_a_terminal():
        raise ConfigError(
            "the terminal interface needs a terminal to draw on; 'mosaicmem explore' opens a page instead"
        )
    if os.environ.get("TERM", "") in ("dumb", "unknown"):
        raise ConfigError(
            f"a terminal of TERM={os.environ['TERM']} cannot move its cursor; set TERM to what it is, such as xterm, "
            "or let 'mosaicmem explore' open a page"
        )
    from mosaicmem.apps.tui.app import Terminal
    from mosaicmem.apps.tui.link import Begun

    with contextlib.ExitStack() as stack:
        found: list[LiveStart] = []

        def begin(tell: Callable[[str], None]) -> Begun:
            spoken, session.console = session.console, _Told(tell=tell)
            try:
                start, live, player = stack.enter_context(begun(args, session))
            finally:
                session.console = spoken
            found.append(start)
            stack.callback(live.stop)
            if player is not None:
                stack.callback(player.stop)
            model = start.spec.get("model")
            name = model if isinstance(model, str) and model != MEMORY else ROOMS
            device = session.config.device
            return Begun(live, player, start.source, name, recorded=args.record is not None, device=device)

        app = Terminal(begin, shlex.join(["mosaicmem", *session.argv]))
        app.run()
        app.beginning.join()
        if app.failure is not None:
            raise app.failure
        assert app.begun is not None
        if app.begun.player is not None:
            app.begun.player.stop()
        app.begun.session.stop()
        if app.return_code:  # it has said why, and the world file is current
            return Result({}, exit_code=app.return_code)
        return ended(args, session, found[0], app.begun.player)


def _on_a_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.__stderr__ is not None and sys.__stderr__.isatty()


@dataclass(frozen=True)
class _Told(Console):
    """A console whose remarks are lines in the interface's log: the streams belong to the screen."""

    tell: Callable[[str], None] = field(default=lambda text: None)

    def note(self, text: str) -> None:
        """A remark."""
        self.tell(text)

    def detail(self, text: str) -> None:
        """Not said."""

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Tick]:
        """A line now and then."""
        done = 0

        def tick(steps: int = 1) -> None:
            nonlocal done
            done += steps
            if done == total or done % 10 == 0:
                self.tell(f"{label}: {done} of {total}")

        yield tick
