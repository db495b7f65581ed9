"""Make clips to train on: procedural episodes rendered ahead, or a folder of posed videos with --videos.

Episodes go to the user's cache (or $MOSAICMEM_CACHE, or --out); what is there is not rendered again, so the command may
be stopped and repeated. Held-out episodes go into held-out/ beside them; their seeds are refused for training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.options import Computing
from mosaicmem.apps.cli.session import Session
from mosaicmem.depth.estimator import DepthEstimator
from mosaicmem.errors import ConfigError
from mosaicmem.training.cache import HELD_FOLDER, ClipCache, default_cache, render_ahead, render_held_out, write_clip
from mosaicmem.training.posed_video import PosedVideoConfig, entries, read_posed_video
from mosaicmem.worlds.episodes import BALL_COLOURS, LIGHT_COLOURS

EXAMPLE = "mosaicmem train data --seeds 0:2000 --processes 2"

BALL_FRAMES = 33
"""Frames of the shortest episode in which a ball can change: it is seen for a while before and after."""
WORDS = {"the", "ball", "light", "goes", "out", "turns", "door", *BALL_COLOURS, *LIGHT_COLOURS}
"""Of which events are made, and `door`."""


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `train data`."""

    seeds: str = "0:200"
    """Episodes to render, as first:end."""
    frames: Annotated[int | None, arg(help_behavior_hint="(default: what the path needs, 65 to 161)")] = None
    """Frames of an episode, 1 + a multiple of 16: with 17, many worlds for the depth network in little time."""
    event: Annotated[str, arg(metavar="WORD", help_behavior_hint="(default: all)")] = ""
    """Render only episodes whose event has this word in it, such as ball: what is rare, more often. With door, those in
    which a door that opened behind one's back comes into sight."""
    twins: int = 0
    """So many other things that could have happened instead are rendered of every episode with an event, and of one
    with a door the same with the door shut."""
    held_out: int = 6
    """Clips that are never trained on: held-out episodes, or the last videos."""
    processes: int = 1
    """Processes that render."""
    videos: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Folder of posed videos: each a folder with video or images, trajectory, perhaps depth/ and caption.txt."""
    depth: str = "shipped"
    """Estimates depth where a video has none: shipped, or the file of a trained depth network."""
    posed: PosedVideoConfig = field(default_factory=PosedVideoConfig)


def run(args: Args, session: Session) -> Result:
    """Render or convert what is missing."""
    size = args.posed.size
    if min(args.held_out, args.twins) < 0 or args.processes < 1:
        raise ConfigError(
            f"--held-out {args.held_out}, --twins {args.twins}, --processes {args.processes}: expected from 0, 0 and 1"
        )
    if args.videos is not None:
        if args.out is None:
            raise ConfigError("train data --videos needs --out PATH: the folder of clips")
        return _report(_convert(args, args.videos, args.out, session), args.out, session)
    first, end = _range(args.seeds)
    _check_event(args)
    folder = args.out or default_cache(size)
    with session.console.progress("rendering", end - first + args.held_out) as tick, session.stage("render"):
        done = 0
        for _ in _both(args, folder, range(first, end), size):
            done += 1
            tick()
    if args.event and not any(ClipCache(folder).path(str(seed)).is_file() for seed in range(first, end)):
        raise ConfigError(
            f"--event {args.event}: it happens in none of the {end - first} episodes of --seeds {args.seeds}; nothing "
            "was rendered. Give more seeds"
        )
    return _report(done, folder, session)


def _check_event(args: Args) -> None:
    """Refuse an event that cannot happen before many episodes are looked through for it.

    Raises:
        ConfigError: if no episode has the word, or none of so few frames.
    """
    if args.event and args.event not in WORDS:
        raise ConfigError(f"--event {args.event!r}: no event has this word; expected one of {', '.join(sorted(WORDS))}")
    if args.event == "ball" and args.frames is not None and args.frames < BALL_FRAMES:
        raise ConfigError(
            f"--frames {args.frames} --event ball: too short for a ball to change, which is seen for a while "
            f"before and after; nothing would be rendered. Give {BALL_FRAMES} or more, or leave --frames out"
        )


def _both(args: Args, folder: Path, seeds: range, size: int) -> Iterator[int]:
    # first, because it refuses held-out seeds
    yield from render_ahead(
        folder, seeds,
        size=size, processes=args.processes, frames=args.frames, event=args.event, twins=args.twins,
    )  # fmt: skip
    yield from render_held_out(folder, args.held_out, size=size)


def _convert(args: Args, videos: Path, folder: Path, session: Session) -> int:
    found = entries(videos)
    if args.held_out >= len(found):
        raise ConfigError(f"--held-out {args.held_out} of {len(found)} videos leaves none to train on")
    estimator: DepthEstimator | None = None
    done = 0
    with session.console.progress("reading", len(found)) as tick, session.stage("read"):
        for i, path in enumerate(found):
            target = folder / HELD_FOLDER if i >= len(found) - args.held_out else folder
            target.mkdir(parents=True, exist_ok=True)
            estimator = estimator or _estimator(args.depth, session.config.device)
            for clip in read_posed_video(path, args.posed, estimator):
                write_clip(target / f"{clip.name}.safetensors", clip)
                done += 1
            tick()
    return done


def _estimator(name: str, device: str) -> DepthEstimator | None:
    """The depth network of that name; None if the shipped one is absent, which matters only where depth is missing."""
    from mosaicmem.models.checkpoint import load_depth
    from mosaicmem.models.devices import device_named
    from mosaicmem.models.presets import shipped

    at = device_named(device)
    if name != "shipped":
        return load_depth(Path(name)).to(at)
    return load_depth(shipped("depth")).to(at) if shipped("depth").is_file() else None


def _range(text: str) -> tuple[int, int]:
    first, colon, end = text.partition(":")
    if not colon or not first.isdecimal() or not end.isdecimal() or int(first) >= int(end):
        raise ConfigError(f"--seeds {text!r}: expected first:end, for example 0:2000")
    return int(first), int(end)


def _report(done: int, folder: Path, session: Session) -> Result:
    session.note, session.wrote = "clips to train on", folder
    cache, held = ClipCache(folder), ClipCache(folder / HELD_FOLDER)
    data = {"done": done, "clips": len(cache.names()), "held_out": len(held.names()), "folder": str(folder)}
    return Result(data, [f"{data['clips']} clips and {data['held_out']} held-out ones in {folder}"])
