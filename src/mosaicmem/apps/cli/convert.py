"""A trajectory from one format to another; what the target cannot hold is said.

The file is linted first: an error (E) stops the conversion, --force goes on. The target's format follows its name, or
--to.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.options import Common, parse_size
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.io.files import refuse_existing

EXAMPLE = "mosaicmem convert trajectory.log path.tum"


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `convert`."""

    source: Positional[Path]
    """Trajectory file or folder."""
    target: Positional[Annotated[Path | None, arg(metavar="TARGET", help_behavior_hint="(or --out PATH)")]] = None
    """Where to write."""
    from_: Annotated[str | None, arg(name="from", metavar="NAME", help_behavior_hint="(default: recognised)")] = None
    """Format of the source, where it should not be guessed."""
    to: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="(default: from the name of the target)")] = None
    """Format of the target."""
    size: Annotated[str | None, arg(metavar="WxH", help_behavior_hint="")] = None
    """Image size that the intrinsics belong to, where the file does not say."""
    fps: Annotated[float | None, arg(metavar="FPS", help_behavior_hint="")] = None
    """Frames per second, where the file has no time."""
    fov: Annotated[float | None, arg(metavar="DEGREES", help_behavior_hint="")] = None
    """Horizontal field of view in place of the file's intrinsics; needs --size."""
    matrix: Annotated[Literal["c2w", "w2c"] | None, arg(help_behavior_hint="")] = None
    """Direction of bare matrices, which no file states."""
    force: bool = False
    """Convert although the linter found errors that do not make poses meaningless."""
    strict: bool = False
    """Refuse a target that would lose something."""


def run(args: Args, session: Session) -> Result:
    """Read, check, write."""
    from mosaicmem.io.trajectories import lint, read_trajectory, write_trajectory

    if (args.target is None) == (args.out is None):
        raise ConfigError("convert needs one target: mosaicmem convert SOURCE TARGET, or --out TARGET")
    target = args.target or args.out
    assert target is not None
    refuse_existing(target, args.overwrite)
    options: dict[str, Any] = {"fps": args.fps, "matrix": args.matrix}
    if args.size is not None:
        options["size"] = parse_size(args.size)
    options = {name: value for name, value in options.items() if value is not None}
    with session.stage("lint"):
        findings = lint(args.source, format=args.from_, **options)
    errors = [f for f in findings if f.severity == "E"]
    if errors and not args.force:
        listed = "".join(f"\n  {f}" for f in errors)
        raise InputError(f"{args.source}: the linter found errors, nothing was written (--force goes on):{listed}")
    with session.stage("convert"):
        trajectory = read_trajectory(args.source, format=args.from_, **options)
        if args.fov is not None:
            size = options.get("size", (None, None))
            cameras = trajectory.cameras(*size, fov_degrees=args.fov)
            trajectory = trajectory.with_intrinsics(cameras.Ks, cameras.width, cameras.height)
        losses = write_trajectory(trajectory, target, format=args.to, overwrite=args.overwrite, strict=args.strict)
    session.wrote = target
    data = {
        "poses": len(trajectory),
        "source": trajectory.source,
        "assumed": list(trajectory.assumed),
        "lost": list(losses),
        "findings": [asdict(f) for f in findings],
    }
    text = [f"{len(trajectory)} poses from {trajectory.source}", *map(str, findings)]
    text += [f"assumed: {note}" for note in trajectory.assumed]
    text += [f"lossy: {', '.join(losses)}"] if losses else []
    return Result(data, text)
