"""Look after a world file: what is in it, whether it is whole, its history, its branches.

  info      what it holds, and what it was made with
  verify    read every byte and replay the history; exit code 3 if something is damaged
  repair    copy what is intact into a new file
  merge     add what another world of the same place holds
  compact   rewrite it without what no branch can reach any more
  log       what was done to it, newest first
  undo      take back the newest operation; redo does it again
  redo      do again what was undone
  branch    list the branches, or begin a new one
  checkout  go to another branch
  import    make one of an RGB-D folder, COLMAP model, nerfstudio or ViPE folder, or the crate's memory.json
  export    write it as a point cloud, COLMAP, nerfstudio or ViPE folder, or rerun recording

Each has its own --help. FILE is a world.mosaic or the memory folder that holds one.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args

import numpy as np
from tyro.conf import Positional, arg

from mosaicmem.apps.cli.console import Result, table
from mosaicmem.apps.cli.memory_folder import checked_meta, load_memory, store_file
from mosaicmem.apps.cli.options import Common, no_such_part
from mosaicmem.apps.cli.pictures import moments
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.io.files import check_image_path, write_image
from mosaicmem.io.video import contact_sheet
from mosaicmem.io.world import Operation, WorldFile, compact, repair, verify
from mosaicmem.memory.editing import splice

EXAMPLE = "mosaicmem world log room"

Part = Literal[
    "info", "verify", "repair", "merge", "compact", "log", "undo", "redo", "branch", "checkout", "import", "export"
]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `world`, before those of its part."""

    part: Positional[Part]
    """What to do; its own options follow."""


@dataclass(kw_only=True)
class FileArgs(Common):
    """Arguments of every part."""

    file: Positional[Path]
    """World file, or the memory folder that holds it."""

    @property
    def world(self) -> Path:
        """The file itself."""
        found = store_file(self.file)
        if found.suffix == ".safetensors":
            raise InputError(
                f"{found}: a memory of version 0.2, which is read but not changed; any command that writes a memory "
                "folder, such as splice, makes a world.mosaic of it"
            )
        if not found.is_file():
            raise InputError(f"{self.file}: no world file; expected one, or a folder with {found.name} in it")
        return found


@dataclass(kw_only=True)
class InfoArgs(FileArgs):
    """Arguments of `world info`."""

    thumbnails: Annotated[Path | None, arg(metavar="FILE.png", help_behavior_hint="")] = None
    """Write the small pictures of its frames as one sheet."""


@dataclass(kw_only=True)
class MergeArgs(FileArgs):
    """Arguments of `world merge`."""

    other: Positional[Path]
    """World or memory folder whose groups are added; it is only read."""


@dataclass(kw_only=True)
class CompactArgs(FileArgs):
    """Arguments of `world compact`."""

    forget_history: bool = False
    """Keep only the state of each branch; nothing can be undone after that."""


@dataclass(kw_only=True)
class StepArgs(FileArgs):
    """Arguments of `world undo` and `world redo`."""

    steps: int = 1
    """How many operations."""


@dataclass(kw_only=True)
class BranchArgs(FileArgs):
    """Arguments of `world branch`."""

    name: Positional[str | None] = None
    """Name of a new branch; without, all are listed."""
    at: Annotated[int | None, arg(metavar="OPERATION", help_behavior_hint="(default: where the world is now)")] = None
    """Operation at which it begins."""


@dataclass(kw_only=True)
class CheckoutArgs(FileArgs):
    """Arguments of `world checkout`."""

    name: Positional[str]
    """Branch to go to."""


def part(argv: list[str]) -> tuple[str, Any, list[str]]:
    """The part that a command line names first: its name, what stands for its module, and the rest of the line.

    Raises:
        ConfigError: if the first word is none; the message says which are.
    """
    if argv and argv[0] in _ELSEWHERE:
        return f"world {argv[0]}", importlib.import_module(_ELSEWHERE[argv[0]]), argv[1:]
    if argv and argv[0] in PARTS:
        arguments, task, example = _PARTS[argv[0]]
        module = SimpleNamespace(Args=arguments, run=_without_back_end(task), EXAMPLE=f"mosaicmem world {example}")
        module.__doc__ = _ABOUT[argv[0]]
        return f"world {argv[0]}", module, argv[1:]
    if argv and not argv[0].startswith("-"):
        raise no_such_part("world", argv[0], PARTS)
    return "world", importlib.import_module(__name__), argv


def run(args: Args, session: Session) -> Result:
    """Only reached where options stand before the part."""
    raise ConfigError(f"the part comes first: mosaicmem world {args.part} FILE [OPTIONS]")


def _without_back_end(task: Callable[[Any, Session], Result]) -> Callable[[Any, Session], Result]:
    """A task that looks after a file: nothing is shown or made, so there is no back-end to name."""

    def run(args: FileArgs, session: Session) -> Result:
        session.backend, session.note = "", str(args.file)
        return task(args, session)

    return run


def _info(args: InfoArgs, session: Session) -> Result:
    if args.thumbnails is not None:
        check_image_path(args.thumbnails, args.overwrite)
    with session.stage("open"), WorldFile.open(args.world) as world:
        store, head = world.store, world.head
        shown = 0 if args.thumbnails is None else _thumbnails(world, args.thumbnails, args.overwrite)
        times = [group.keyframe.time for group in store]
        data: dict[str, Any] = {
            **world.counts(),
            "branch": head.name,
            "operation": head.head,
            "shown_groups": len(store),
            "shown_patches": store.num_patches,
            "pinned": sum(group.pinned for group in store),
            "superseded": sum(group.until is not None for group in store),
            "observed": sum(group.keyframe.origin == "observed" for group in store),
            "generated": sum(group.keyframe.origin == "generated" for group in store),
            "seconds": [min(times), max(times)] if times else None,
            "digest": world.digest(),
            "meta": world.meta,
        }
    made = {name: data["meta"].get(name) for name in ("width", "height", "vae", "source") if name in data["meta"]}
    rows = {**{key: value for key, value in data.items() if key != "meta"}, **made}
    width = max(map(len, rows))
    text = [f"{key.replace('_', ' ').ljust(width)}  {_say(value)}" for key, value in rows.items()]
    if args.thumbnails is not None:
        data = {**data, "sheet": str(args.thumbnails), "sheet_pictures": shown}
        text.append(f"pictures of {shown} frames: {args.thumbnails}")
    return Result(data, text)


def _thumbnails(world: WorldFile, path: Path, overwrite: bool, most: int = 100) -> int:
    """Write the pictures of frames that are part of the world, at most so many, evenly chosen; how many they are."""
    frames = list({id(group.keyframe): group for group in world.store}.values())  # once, however cut up by edits
    chosen = [frames[i] for i in moments(len(frames), most)]
    found = [(group.keyframe.frame, world.thumbnail(group.uid)) for group in chosen]
    pictures = [(frame, picture) for frame, picture in found if picture is not None]
    if not pictures:
        raise InputError(f"{world.path}: none of its {len(frames)} frames has a small picture")
    height, width = (max(picture.shape[axis] for _, picture in pictures) for axis in (0, 1))
    sheet = contact_sheet(
        [np.pad(p, ((0, height - p.shape[0]), (0, width - p.shape[1]), (0, 0))) for _, p in pictures],
        [f"frame {frame}" for frame, _ in pictures],
    )
    write_image(path, sheet, overwrite=overwrite)
    return len(pictures)


def _verify(args: FileArgs, session: Session) -> Result:
    with session.stage("verify"):
        problems = verify(args.world)
    text = problems or ["every row and every checksum is in order; the history gives the state"]
    return Result({"ok": not problems, "problems": problems}, text, 3 if problems else 0)


def _repair(args: FileArgs, session: Session) -> Result:
    if args.out is None:
        raise ConfigError("world repair needs --out FILE: where should what is intact go?")
    with session.stage("repair"):
        found = repair(args.world, args.out, overwrite=args.overwrite)
    session.wrote = args.out
    kept = f"{found.keyframes:,} keyframes, {found.groups:,} groups and {found.operations:,} operations are intact"
    history = "with their history" if found.history else "the history is not: the state is one operation now"
    return Result(asdict(found), [f"{kept}, {history}", *(f"lost: {what}" for what in found.lost)])


def _merge(args: MergeArgs, session: Session) -> Result:
    other = store_file(args.other)
    with WorldFile.open(args.world, write=True) as world:
        mine = checked_meta(world.path, world.meta, world.store)
        added, theirs = load_memory(args.other)
        if (mine.vae, mine.grid) != (theirs.vae, theirs.grid):
            raise InputError(
                f"{world.path} ({mine.vae}, {mine.width}x{mine.height}) and {other} ({theirs.vae}, {theirs.width}x"
                f"{theirs.height}) do not share one latent space and image size; remember them alike"
            )
        before = world.store.num_patches
        with session.stage("merge"):
            arguments = {"file": other.name, "self_from_other": None}
            operation = world.apply("merge", arguments, splice(world.store, added))
        patches = world.store.num_patches
    text = [f"{patches - before:,} patches added; {patches:,} now"]
    return Result({"operation": operation and operation.id, "added": patches - before, "patches": patches}, text)


def _compact(args: CompactArgs, session: Session) -> Result:
    with session.stage("compact"):
        before, after = compact(args.world, forget=args.forget_history)
    return Result({"bytes_before": before, "bytes": after}, [f"{before:,} -> {after:,} bytes"])


def _log(args: FileArgs, session: Session) -> Result:
    with session.stage("read"), WorldFile.open(args.world) as world:
        operations, head = world.log(), world.head
    text = [f"branch {head.name}, {len(operations)} operations"]
    if operations:
        rows = [[o.id, _moment(o), o.kind, _short(o.arguments), o.note] for o in operations]
        text += table(["operation", "when", "kind", "arguments", "note"], rows)
    return Result({"branch": head.name, "redo": head.redo, "operations": [_record(o) for o in operations]}, text)


def _steps(args: StepArgs, session: Session, forth: bool) -> Result:
    if args.steps < 1:
        raise ConfigError(f"--steps {args.steps}: expected 1 or more")
    word = "done again" if forth else "undone"
    with session.stage("write"), WorldFile.open(args.world, write=True) as world:
        done: list[Operation] = []
        for step in range(args.steps):
            try:
                done.append(world.redo() if forth else world.undo())
            except ConfigError as error:
                raise ConfigError(f"{error}; {step} of {args.steps} operations were {word}") from error
    return Result({"operations": [_record(o) for o in done]}, [f"{word}: {o.id} {o.kind}" for o in done])


def _branch(args: BranchArgs, session: Session) -> Result:
    if args.name is not None:
        with session.stage("write"), WorldFile.open(args.world, write=True) as world:
            made = world.branch(args.name, args.at)
        return Result({"branch": made.name, "operation": made.head}, [f"branch {made.name} at operation {made.head}"])
    with session.stage("read"), WorldFile.open(args.world) as world:
        branches = world.branches
    rows = [["*" if b.chosen else "", b.name, "-" if b.head is None else b.head] for b in branches]
    data = [{"name": b.name, "operation": b.head, "redo": b.redo, "checked_out": b.chosen} for b in branches]
    return Result({"branches": data}, table(["", "branch", "operation"], rows))


def _checkout(args: CheckoutArgs, session: Session) -> Result:
    with session.stage("write"), WorldFile.open(args.world, write=True) as world:
        branch, patches = world.checkout(args.name), world.store.num_patches
    return Result({"branch": branch.name, "operation": branch.head, "patches": patches}, [f"on branch {branch.name}"])


def _record(operation: Operation) -> dict[str, Any]:
    fields = ("id", "parent", "kind", "arguments", "note", "time")
    return {name: getattr(operation, name) for name in fields}


def _moment(operation: Operation) -> str:
    if operation.time is None:
        return "-"
    return datetime.fromtimestamp(operation.time, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _short(arguments: dict[str, Any], limit: int = 60) -> str:
    said = " ".join(f"{key}={value}" for key, value in arguments.items() if value is not None)
    return said if len(said) <= limit else said[: limit - 3] + "..."


def _say(value: object) -> str:
    if isinstance(value, list):
        return " to ".join(f"{x:g}" for x in value)
    return f"{value:,}" if isinstance(value, int) else "-" if value is None else str(value)


_ABOUT = {
    "info": "What a world file holds and was made with.",
    "verify": "Read every byte of a world file, check every checksum, replay its history. Exit code 3 for damage.",
    "repair": "Copy what is intact of a damaged world file into a new one, --out. The damaged one is not touched.",
    "merge": "Add what another world holds, in the same coordinates, as one operation; edit splice moves it first.",
    "compact": "Rewrite a world file without what no branch can reach any more, by undo or redo.",
    "log": "What was done to a world, newest first.",
    "undo": "Take back the newest operation of the branch that is checked out, bit for bit.",
    "redo": "Do again what was undone last.",
    "branch": "List the branches of a world, or begin a new one. It is not checked out.",
    "checkout": "Make another branch the state that every command sees.",
}

_ELSEWHERE = {"import": "mosaicmem.apps.cli.world_import", "export": "mosaicmem.apps.cli.world_export"}
"""Parts that are modules of their own."""

_PARTS: dict[str, tuple[type[FileArgs], Callable[[Any, Session], Result], str]] = {
    "info": (InfoArgs, _info, "info room --thumbnails frames.png"),
    "verify": (FileArgs, _verify, "verify room"),
    "repair": (FileArgs, _repair, "repair room --out repaired.mosaic"),
    "merge": (MergeArgs, _merge, "merge room room_again"),
    "compact": (CompactArgs, _compact, "compact room"),
    "log": (FileArgs, _log, "log room"),
    "undo": (StepArgs, lambda args, session: _steps(args, session, False), "undo room --steps 2"),
    "redo": (StepArgs, lambda args, session: _steps(args, session, True), "redo room"),
    "branch": (BranchArgs, _branch, "branch room night"),
    "checkout": (CheckoutArgs, _checkout, "checkout room night"),
}
