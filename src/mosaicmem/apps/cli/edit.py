"""Edit what a world remembers; every view, mosaic, token and export of it follows.

  erase       forget a part
  move        shift a part
  rotate      turn a part about an axis
  scale       make a part larger or smaller
  duplicate   show a part twice
  mirror      reflect a part, or everything, in a plane
  splice      add another world: beside, above, or door to door
  freeze      protect frames from forgetting; thaw lets go
  restore     let a part look as it did at some second

mosaicmem edit FILE VERB --help says more. An edit is one operation of the file: 'mosaicmem world undo' takes it back,
bit for bit, and 'mosaicmem world log' lists what was done.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, get_args

import torch
from tyro.conf import OmitArgPrefixes, Positional, arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.edit_options import ChoiceArgs, EditArgs, before_and_after
from mosaicmem.apps.cli.memory_folder import MemoryMeta, checked_meta, load_memory, store_file, vae_of
from mosaicmem.apps.cli.options import Common
from mosaicmem.apps.cli.placement import Placement, numbers, placed
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.geometry import se3
from mosaicmem.io.files import check_image_path, require_file, write_image
from mosaicmem.io.world import WorldFile
from mosaicmem.memory import editing
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.vae import VAE

EXAMPLE = "mosaicmem edit world.mosaic move --box 1,-1,2,2,0,3 --by 0.5,0,0 --preview moved.png"

_POINT = arg(metavar="X,Y,Z", help_behavior_hint="(default: the middle of what is selected)")
Verb = Literal["erase", "move", "rotate", "scale", "duplicate", "mirror", "splice", "freeze", "thaw", "restore"]


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `edit`, before those of its verb."""

    file: Positional[Path]
    """World file, or folder with one."""
    verb: Positional[Verb]
    """What to do; its own options follow."""


@dataclass(kw_only=True)
class MoveArgs(ChoiceArgs):
    """Arguments of `move` and `duplicate`."""

    by: str
    """X,Y,Z: how far, world units (x right, y down, z forward of the world's frame)."""


@dataclass(kw_only=True)
class RotateArgs(ChoiceArgs):
    """Arguments of `rotate`."""

    degrees: float
    """How far; seen along the axis, clockwise."""
    axis: str = "0,1,0"
    """X,Y,Z of the axis; by default the vertical, which points down: positive turns to the right."""
    about: Annotated[str | None, _POINT] = None
    """X,Y,Z of a point on the axis."""


@dataclass(kw_only=True)
class ScaleArgs(ChoiceArgs):
    """Arguments of `scale`."""

    factor: float
    """How many times as large."""
    about: Annotated[str | None, _POINT] = None
    """X,Y,Z of the point that stays."""


@dataclass(kw_only=True)
class MirrorArgs(ChoiceArgs):
    """Arguments of `mirror`."""

    normal: str = "1,0,0"
    """X,Y,Z across the mirror's plane."""
    about: Annotated[str | None, _POINT] = None
    """X,Y,Z of a point on the plane."""


@dataclass(kw_only=True)
class SpliceArgs(EditArgs):
    """Arguments of `splice`."""

    other: Positional[Path]
    """World file or memory folder to add; it stays as it is."""
    place: Annotated[Placement, OmitArgPrefixes] = field(default_factory=Placement)


@dataclass(kw_only=True)
class RestoreArgs(ChoiceArgs):
    """Arguments of `restore`."""

    at: str
    """When to go back to, on the clock of the remembered frames: seconds, or H:MM or H:MM:SS such as 14:00."""


@dataclass(frozen=True)
class Edited:
    """An edit that was worked out and not written yet."""

    store: PatchStore
    rows: torch.Tensor  # [q] of the store before, what was selected
    arguments: dict[str, Any]
    said: list[str]


def part(argv: list[str]) -> tuple[str, Any, list[str]]:
    """The verb that a command line names first or after the file: its name, its arguments and the rest of the line.

    Raises:
        ConfigError: if there is none; the message says which there are.
    """
    at = next((i for i in range(min(2, len(argv))) if argv[i] in VERBS), None)
    if at is not None:
        verb = argv[at]
        arguments, work, example, text = VERBS[verb]

        def run(args: Any, session: Session) -> Result:
            return _run(verb, work, args, session)

        module = SimpleNamespace(Args=arguments, run=run, EXAMPLE=example, __doc__=f"{text}\n\n{_SHARED}")
        return f"edit {verb}", module, _joined(argv[:at] + argv[at + 1 :])
    if len(argv) > 1 and not argv[0].startswith("-") and not argv[1].startswith("-"):
        near = difflib.get_close_matches(argv[1], VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"verbs are {', '.join(VERBS)}"
        raise ConfigError(f"edit {argv[1]!r}: no such verb; {hint}")
    return "edit", SimpleNamespace(Args=Args, run=_no_verb, EXAMPLE=EXAMPLE, __doc__=__doc__), argv


def _no_verb(args: Args, session: Session) -> Result:
    raise ConfigError(f"the verb comes before the options: mosaicmem edit FILE {args.verb} [OPTIONS]")


def _joined(argv: list[str]) -> list[str]:
    """`--by -1,0,0` as `--by=-1,0,0`, since a parser takes what begins with a dash for an option."""
    out: list[str] = []
    for word in argv:
        negative = re.match(r"-[\d.]", word) and out and re.fullmatch(r"--[a-z-]+", out[-1])
        out = [*out[:-1], f"{out[-1]}={word}"] if negative else [*out, word]
    return out


def _run(verb: str, work: Callable[..., Edited], args: EditArgs, session: Session) -> Result:
    file = store_file(args.file)
    if require_file(file).suffix == ".safetensors":
        raise InputError(
            f"{file}: a memory of version 0.2, which is read but not changed; 'mosaicmem splice' makes a world.mosaic "
            "of it and another"
        )
    if args.preview is not None:
        check_image_path(args.preview, args.overwrite)
    with WorldFile.open(file, write=not args.dry_run) as world:
        before = world.store
        meta = checked_meta(file, world.meta, before)
        with session.stage("edit"):
            edited = work(args, before, meta, session)
        if args.preview is not None:
            with session.stage("preview"):
                picture = before_and_after(before, edited.store, edited.rows, args, meta, session)
                write_image(args.preview, picture, overwrite=args.overwrite)
        with session.stage("write"):
            operation = None if args.dry_run else world.apply(verb, edited.arguments, edited.store, note=args.note)
        text = _said(verb, before, edited, args)
        if operation is None:
            text.append("nothing was written" + ("" if args.dry_run else ": the world is like that already"))
    data = {
        "verb": verb,
        "selected": int(edited.rows.sum()),
        "patches_before": before.num_patches,
        "patches": edited.store.num_patches,
        "groups": len(edited.store),
        "arguments": edited.arguments,
        "operation": None if operation is None else operation.id,
        "preview": None if args.preview is None else str(args.preview),
    }
    return Result(data, text)


def _said(verb: str, before: PatchStore, edited: Edited, args: EditArgs) -> list[str]:
    chosen = "another world" if verb == "splice" else f"{int(edited.rows.sum()):,} of {before.num_patches:,} patches"
    after = f"{verb} {chosen}; now {edited.store.num_patches:,} patches in {len(edited.store)} groups"
    return [after, *edited.said, *([] if args.preview is None else [f"preview: {args.preview}"])]


def _chosen(args: ChoiceArgs, store: PatchStore) -> tuple[editing.Select, torch.Tensor]:
    """The selection, already worked out, and its rows; refused if it is empty."""
    rows = args.choice.selection()(store)
    if not bool(rows.any()):
        span = ""
        if store.num_patches:
            ends = (store.centers.amin(0), store.centers.amax(0))
            span = "; memory spans " + " to ".join("(" + ", ".join(f"{float(x):.2f}" for x in e) + ")" for e in ends)
        raise InputError(f"{args.file}: nothing is selected{span}")
    return lambda _: rows, rows


def _about(text: str | None, store: PatchStore, rows: torch.Tensor) -> torch.Tensor:
    if text is not None:
        return numbers(text, "--about", 3)
    chosen = store.centers[rows].double()
    return (chosen.amin(0) + chosen.amax(0)) / 2


def _erase(args: ChoiceArgs, store: PatchStore, meta: MemoryMeta, session: Session) -> Edited:
    selection, rows = _chosen(args, store)
    return Edited(editing.erase(store, selection), rows, args.choice.given, [])


def _move(args: MoveArgs, store: PatchStore, meta: MemoryMeta, session: Session) -> Edited:
    by, (selection, rows) = numbers(args.by, "--by", 3), _chosen(args, store)
    return Edited(editing.move(store, selection, by), rows, {**args.choice.given, "by": by.tolist()}, [])


def _duplicate(args: MoveArgs, store: PatchStore, meta: MemoryMeta, session: Session) -> Edited:
    by, (selection, rows) = numbers(args.by, "--by", 3), _chosen(args, store)
    after = editing.duplicate(store, selection, se3.translation(by))
    return Edited(after, rows, {**args.choice.given, "by": by.tolist()}, [])


def _rotate(args: RotateArgs, store: PatchStore, meta: MemoryMeta, session: Session) -> Edited:
    axis, (selection, rows) = numbers(args.axis, "--axis", 3), _chosen(args, store)
    about = _about(args.about, store, rows)
    after = editing.rotate(store, selection, axis, args.degrees, about)
    said = {"axis": axis.tolist(), "degrees": args.degrees, "about": about.tolist()}
    return Edited(after, rows, {**args.choice.given, **said}, [])


def _scale(args: ScaleArgs, store: PatchStore, meta: MemoryMeta, session: Session) -> Edited:
    selection, rows = _chosen(args, store)
    about = _about(args.about, store, rows)
    after = editing.scale(store, selection, args.factor, about)
    return Edited(after, rows, {**args.choice.given, "factor": args.factor, "about": about.tolist()}, [])


def _mirror(args: MirrorArgs, store: PatchStore, meta: MemoryMeta, session: Session) -> Edited:
    normal, (selection, rows) = numbers(args.normal, "--normal", 3), _chosen(args, store)
    about, flip = _about(args.about, store, rows), _Flip(vae_of(meta, args.vae, session))
    after = editing.mirror(store, normal, about, selection, flip=flip)
    said = {"normal": normal.tolist(), "about": about.tolist()}
    return Edited(after, rows, {**args.choice.given, **said}, [flip.said])


class _Flip:
    """Latents of the flipped picture: cells that change places, or the picture encoded anew, whichever is nearer."""

    def __init__(self, vae: VAE) -> None:
        self.vae = vae
        self.worst = 0.0

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        wanted = self.vae.decode_image(latents).flip(-1)
        tried = [latents.flip(-1), self.vae.encode_image(wanted).to(latents)]
        errors = [float((self.vae.decode_image(z) - wanted).square().mean()) for z in tried]
        self.worst = max(self.worst, min(errors))
        return tried[errors.index(min(errors))]

    @property
    def said(self) -> str:
        """How true the flipped pictures are."""
        if self.worst == 0:
            return "tiles were flipped exactly"
        decibels = 10 * float(torch.tensor(4 / self.worst).log10())
        return f"tiles were flipped to within {decibels:.1f} dB of the flipped picture"


def _splice(args: SpliceArgs, store: PatchStore, meta: MemoryMeta, session: Session) -> Edited:
    args.place.given()
    other, theirs = load_memory(args.other)
    if theirs.vae != meta.vae or theirs.grid != meta.grid:
        raise InputError(
            f"{args.other} ({theirs.vae}, {theirs.width}x{theirs.height}) does not share the latent space and image "
            f"size of {args.file} ({meta.vae}, {meta.width}x{meta.height}); remember them alike"
        )
    where = args.place.a_from_b(store.centers, other.centers)
    said = {"other": str(args.other), "a_from_b": where.tolist()}
    none = torch.zeros(store.num_patches, dtype=torch.bool)
    return Edited(editing.splice(store, other, where), none, said, [placed(where)])


def _freeze(args: ChoiceArgs, store: PatchStore, meta: MemoryMeta, session: Session) -> Edited:
    selection, rows = _chosen(args, store)
    return Edited(editing.freeze(store, selection), rows, args.choice.given, [])


def _thaw(args: ChoiceArgs, store: PatchStore, meta: MemoryMeta, session: Session) -> Edited:
    selection, rows = _chosen(args, store)
    return Edited(editing.freeze(store, selection, pinned=False), rows, args.choice.given, [])


def _restore(args: RestoreArgs, store: PatchStore, meta: MemoryMeta, session: Session) -> Edited:
    at, (selection, rows) = _seconds(args.at), _chosen(args, store)
    return Edited(editing.as_it_was(store, selection, at), rows, {**args.choice.given, "at": at}, [])


def _seconds(text: str) -> float:
    """`50400`, `14:00` or `14:00:00`."""
    if re.fullmatch(r"\d{1,4}(:[0-5]\d){1,2}", text):
        hours, minutes, *rest = (int(part) for part in text.split(":"))
        return float(3600 * hours + 60 * minutes + sum(rest))
    return float(numbers(text, "--at", 1))


_SHARED = (
    "What is selected: --box, --sphere, --thing, --origin, --frames, --times, --all; where several are given, all of "
    "them must hold. --preview PNG shows memory before and after, --dry-run leaves the file alone."
)
_AT = "mosaicmem edit world.mosaic"
VERBS: dict[str, tuple[Any, Callable[..., Edited], str, str]] = {
    "erase": (ChoiceArgs, _erase, f"{_AT} erase --sphere 1.2,-0.4,3,0.5", "Forget the selected patches."),
    "move": (MoveArgs, _move, f"{_AT} move --box 1,-1,2,2,0,3 --by 0.5,0,0", "Shift the selected patches."),
    "rotate": (
        RotateArgs,
        _rotate,
        f"{_AT} rotate --thing 1.2,-0.4,3 --degrees 90",
        "Turn the selected patches about an axis through a point.",
    ),
    "scale": (
        ScaleArgs,
        _scale,
        f"{_AT} scale --thing 1.2,-0.4,3 --factor 0.5 --about 1.2,0,3",
        "Make the selected patches larger or smaller, about a point.",
    ),
    "duplicate": (
        MoveArgs,
        _duplicate,
        f"{_AT} duplicate --thing 1.2,-0.4,3 --by -1,0,0",
        "Show the selected patches a second time, shifted. Latents are shared.",
    ),
    "mirror": (
        MirrorArgs,
        _mirror,
        f"{_AT} mirror --all --normal 0,1,0 --about 0,-3,0",
        "Reflect the selected patches in a plane: the stored pictures flip along with the geometry.",
    ),
    "splice": (
        SpliceArgs,
        _splice,
        f"{_AT} splice kitchen.mosaic --layout doorway --door-a 5.4,0,-1,270 --door-b 0,0,0.4,90",
        "Add another world: beside this one (--layout horizontal), above it (vertical), door to door (doorway), or "
        "where --transform says.",
    ),
    "freeze": (
        ChoiceArgs,
        _freeze,
        f"{_AT} freeze --origin observed",
        "Protect from forgetting every frame of which something is selected.",
    ),
    "thaw": (ChoiceArgs, _thaw, f"{_AT} thaw --all", "Let forgetting have the selected frames again."),
    "restore": (
        RestoreArgs,
        _restore,
        f"{_AT} restore --sphere 1.2,-0.4,3,2 --at 14:00",
        "Let the selected patches look as they did at a second: what held then holds now, what came later is over. "
        "Earlier moments stay as they were.",
    ),
}
assert set(VERBS) == set(get_args(Verb))
