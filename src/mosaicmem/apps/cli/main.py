"""The `mosaicmem` command: a table of commands, loaded one at a time, and the exit codes.

Exit codes: 0 ok, 1 failed, 2 bad usage or settings, 3 input rejected, 4 missing extra or weights, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields
from typing import Any

from mosaicmem.apps.cli.console import Console
from mosaicmem.errors import ConfigError, MosaicMemError

COMMANDS = {
    "demo": "walk out and back through a procedural world, with memory and without",
    "generate": "frames along a trajectory, from a start frame or a memory",
    "remember": "posed RGB-D frames -> a memory folder",
    "recall": "memory + trajectory -> the mosaic video that memory shows, no model",
    "inspect": "what a memory or a trajectory holds; coverage; why a patch was chosen",
    "visualize": "statistics and a top-down map of path, frusta and patches",
    "world": "a world file: info, verify, repair, merge, compact, log, undo, redo, branch, checkout, import, export",
    "explore": "walk through a world in the browser and see what is remembered of it",
    "view": "a world in viser: its patches and the cameras that saw them",
    "tui": "the walk in the terminal, with coverage, timings, and edits that are seen before they are done",
    "edit": "change what a world remembers: erase, move, rotate, scale, duplicate, mirror, splice, freeze, restore",
    "splice": "join two memories or trajectories into one world",
    "export-ply": "a memory as a coloured point cloud",
    "convert": "a trajectory from one format to another",
    "lint": "check a trajectory file for the mistakes people make",
    "train": "train the networks of a model from nothing: data, vae, depth, encode, world, export",
    "bench": "time every stage; judge a model: bench memory, walk, prompts",
    "show-config": "all settings as loadable TOML or JSON",
}

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 1, 2, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Never raises on purpose, never exits the process."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # Threads that spin while they wait steal the cores of the threads that work; read when torch is first loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    if not argv:
        print(_overview(), file=sys.stderr)
        return EXIT_USAGE
    if argv[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if argv[0] in ("-V", "--version", "version"):
        from importlib.metadata import version

        print(f"mosaicmem {version('mosaicmem')}")
        return 0
    console = Console(
        json="--json" in argv,
        quiet=any(flag in argv for flag in ("-q", "--quiet")),
        verbose=any(flag in argv for flag in ("-v", "--verbose")),
    )
    try:
        with _terminate_like_interrupt():
            return _run(argv, console)
    except MosaicMemError as error:
        console.fail(type(error).__name__, _in_options(argv, str(error)), error.exit_code, error)
        return error.exit_code
    except KeyboardInterrupt:
        console.fail("Interrupted", "interrupted; what was not finished was not written", EXIT_INTERRUPTED)
        return EXIT_INTERRUPTED
    except _Terminated:
        console.fail("Terminated", "terminated; what was not finished was not written", EXIT_TERMINATED)
        return EXIT_TERMINATED
    except BrokenPipeError:
        # whoever read stdout has gone; keep the interpreter from failing again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        console.fail("OSError", f"{where}{error.strerror or error}; nothing was written", EXIT_FAILED, error)
        return EXIT_FAILED
    except MemoryError as error:
        message = "out of memory; try a smaller --size, fewer --frames or a smaller window"
        console.fail("MemoryError", message, EXIT_FAILED, error)
        return EXIT_FAILED
    except Exception as error:
        message = f"{type(error).__name__}: {error} (this is a bug; -v shows where)"
        console.fail("InternalError", message, EXIT_FAILED, error)
        return EXIT_FAILED


def _in_options(argv: list[str], message: str) -> str:
    """The library names its arguments; whoever sits at the command line has options."""
    reading = {"lint": "--format", "convert": "--from"}.get(argv[0], "--trajectory-format")
    return message.replace("with format=", f"with {reading}").replace("give format=", "give --to:")


def _run(argv: list[str], console: Console) -> int:
    name = argv[0]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; commands are {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command {name!r}{hint}")
    module = importlib.import_module(f"mosaicmem.apps.cli.{name.replace('-', '_')}")
    rest = argv[1:]
    if hasattr(module, "part"):  # a command of several parts, such as `train vae`
        name, module, rest = module.part(rest)
    parsed = _parse(name, module, rest)
    if isinstance(parsed, int):
        return parsed
    args, config = parsed

    import torch

    from mosaicmem.apps.cli.session import Session

    torch.set_num_threads(config.threads)
    session = Session(name, argv, args, config, console)
    result = session.finish(module.run(args, session))
    console.finish(result)
    return result.exit_code


def _parse(name: str, module: Any, argv: list[str]) -> tuple[Any, Any] | int:
    """Arguments and settings, or the exit code of a command line that only asked for help."""
    import tyro

    from mosaicmem.apps.cli.config import Config
    from mosaicmem.apps.cli.settings import build, checked

    wants_help = "-h" in argv or "--help" in argv
    file, assignments = _settings_options(argv)
    settings = getattr(module, "SETTINGS", Config)
    base = settings() if wants_help else build(settings, file, assignments)
    shared = {f.name for f in fields(settings)} & {f.name for f in fields(module.Args)}
    default = _template(module.Args, {key: getattr(base, key) for key in shared})
    description = f"{module.__doc__.strip()}\n\nExample:\n  {module.EXAMPLE}"
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            args = tyro.cli(
                module.Args,
                args=argv,
                default=default,
                prog=f"mosaicmem {name}",
                description=description,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as error:
        if not error.code:
            return 0
        raise ConfigError(_plain(complaint.getvalue()) or f"bad usage; see mosaicmem {name} --help") from None
    config = type(base)(**{f.name: getattr(args if f.name in shared else base, f.name) for f in fields(settings)})
    return args, checked(config)


def _plain(boxed: str) -> str:
    """The parser's complaint without its frame."""
    lines = [line.strip("╭╮╰╯│─ ") for line in boxed.splitlines()]
    return "\n  ".join(line for line in lines if line)


def _settings_options(argv: Sequence[str]) -> tuple[Any, list[str]]:
    """`--config` and `--set` of a command line, looked up before everything else is parsed."""
    import argparse
    from pathlib import Path

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[])
    try:
        found, _ = parser.parse_known_args(list(argv))
    except (argparse.ArgumentError, SystemExit):  # incomplete; the real parser will say so
        return None, []
    return found.config, found.set


def _template(cls: Any, settings: dict[str, Any]) -> Any:
    """Arguments before the command line is read: what the settings say is the default, so the option wins when given.

    Required fields hold a marker that is no legal value, which is why the constructor is left out.
    """
    from tyro import MISSING as REQUIRED

    template = object.__new__(cls)
    for f in fields(cls):
        if f.name in settings:
            value = settings[f.name]
        elif f.default is not MISSING:
            value = f.default
        else:
            value = REQUIRED if f.default_factory is MISSING else f.default_factory()
        object.__setattr__(template, f.name, value)
    return template


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = ["usage: mosaicmem COMMAND [OPTIONS]", "", "Spatial memory for video world models.", "", "commands:"]
    lines += [f"  {name.ljust(width)}  {text}" for name, text in COMMANDS.items()]
    lines += [
        "",
        "every command: --config FILE, --set SECTION.KEY=VALUE, --seed N, --json, -q, -v, --out PATH, --overwrite",
        "exit codes: 0 ok, 1 failed, 2 bad usage or settings, 3 input rejected, 4 missing extra or weights, "
        "130 interrupted",
        "",
        "mosaicmem COMMAND --help says more, with an example. A first look: mosaicmem demo --out demo_output",
    ]
    return "\n".join(lines)


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that temporary folders are removed on the way out."""


@contextlib.contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
