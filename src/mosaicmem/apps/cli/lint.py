"""Check a trajectory file for the mistakes people make: direction, axes, handedness, units, time, intrinsics.

Nothing is changed. Exit code 0 where all is well or only remarks (I) were made, 3 where something is wrong: an error
(E) or a warning (W).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.options import Common
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import InputError

EXAMPLE = "mosaicmem lint path.json"


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `lint`."""

    source: Positional[Path]
    """Trajectory file or folder."""
    format: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: recognised)")] = None
    """Format of the file, where it should not be guessed."""
    images: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Its images: sizes, names and number are checked."""
    depth: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Its depth: units are checked, and which reading of the poses the geometry supports."""
    world_up: Annotated[str | None, arg(metavar="x|-x|y|-y|z|-z", help_behavior_hint="")] = None
    """Up direction of the world."""


def run(args: Args, session: Session) -> Result:
    """Lint one file."""
    from mosaicmem.io.trajectories import lint

    with session.stage("lint"):
        findings = lint(args.source, format=args.format, images=args.images, depth=args.depth, world_up=args.world_up)
    counts = {severity: sum(f.severity == severity for f in findings) for severity in "EWI"}
    verdict = (
        "nothing to complain about"
        if not findings
        else ", ".join(
            f"{counts[s]} {name}{'s' if counts[s] != 1 else ''}"
            for s, name in (("E", "error"), ("W", "warning"), ("I", "remark"))
            if counts[s]
        )
    )
    code = InputError.exit_code if counts["E"] or counts["W"] else 0
    data = {"file": str(args.source), "ok": code == 0, "counts": counts, "findings": [asdict(f) for f in findings]}
    return Result(data, [*map(str, findings), f"{args.source}: {verdict}"], exit_code=code)
