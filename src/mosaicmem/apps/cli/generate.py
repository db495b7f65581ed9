"""Frames along a trajectory: n poses give exactly n frames, as one stream, from a start frame or from a memory.

A start is one of: --image FILE (the first pose is the image's camera), --memory DIR (the first frame is what memory
shows there), both, or --scene SEED (a procedural world; the path is taken relative to its first camera, and may be left
out with a trained model, which then walks the world's own).

The model `rooms` comes with the package: a video model trained on procedural worlds, 128x128 pixels, which invents what
nobody saw, reads the prompt, and needs no depth of the image. It knows rooms, not photographs. `synthetic` has no
weights: it shows what memory shows, fills holes smoothly, reads no prompt, and needs --depth. A folder of weights is a
model too.

Writes: video.mp4 or frames/ or frames.npz, contact_sheet.png, coverage.png, memory/, trajectory.json, report.json,
run.json.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tyro.conf import OmitArgPrefixes, UseAppendAction, arg

from mosaicmem.apps.cli.config import GenerationConfig, Sampling
from mosaicmem.apps.cli.console import Result, table
from mosaicmem.apps.cli.memory_folder import Decoded, describe_memory, save_memory
from mosaicmem.apps.cli.pictures import Chart, Panel, Series, charts, moments, sheet
from mosaicmem.apps.cli.rerun_log import Rerun, event_log, recording_file
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.starts import Beginning, StartArgs, begin
from mosaicmem.errors import ConfigError
from mosaicmem.generation.events import RolloutEvent
from mosaicmem.generation.rollout import rollout
from mosaicmem.generation.script import Cue, Script
from mosaicmem.generation.state import RolloutState
from mosaicmem.io.arrays import write_npz
from mosaicmem.io.files import write_image, write_json
from mosaicmem.io.trajectories import Trajectory, write_trajectory
from mosaicmem.io.video import write_video
from mosaicmem.memory.lifting import LiftingConfig
from mosaicmem.memory.retrieval import RetrievalConfig

EXAMPLE = "mosaicmem generate --scene 900001 --event '48:the light goes out' --out walk"


@dataclass(kw_only=True)
class Args(StartArgs):
    """Arguments of `generate`."""

    event: Annotated[UseAppendAction[list[str]], arg(metavar="FRAME:TEXT", help_behavior_hint="(repeatable)")] = field(
        default_factory=list
    )
    """Something that happens, from the first latent at or after a frame on, such as 40:"the ball turns blue"."""
    free_text: bool = False
    """Read events in free wording, as the nearest ones the model knows (needs the extra `text`)."""
    format: Literal["mp4", "png", "npz"] = "mp4"
    """How the frames are written."""
    rerun: Rerun = None
    """Write every window, the cameras and memory as a rerun recording while it happens (default file: beside --out;
    extra `rerun`)."""
    generation: Annotated[GenerationConfig, OmitArgPrefixes] = field(default_factory=GenerationConfig)
    sampling: Annotated[Sampling, OmitArgPrefixes] = field(default_factory=Sampling)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    lifting: LiftingConfig = field(default_factory=LiftingConfig)


def run(args: Args, session: Session) -> Result:
    """Start, roll out, write."""
    inputs = [p for p in (args.trajectory, args.memory, args.image, args.depth) if p is not None]
    out_folder = session.check_out(inputs=inputs)
    told = recording_file(args.rerun, out_folder, args.overwrite)
    cues = _cues(args)
    beginning = begin(args, session)
    frames, events, state = _generated(args, session, beginning, cues, told)
    clip = np.concatenate(frames)
    report = _report(beginning, events, len(clip))
    with session.folder(inputs=inputs) as out, session.stage("write"):
        _write(out, args, session, beginning, state, clip, report)
    mean = report["mean"]["coverage"]
    stages = [[name, f"{1000 * seconds / len(clip):.1f}"] for name, seconds in report["timings_s"].items()]
    grid = state.grid
    text = [
        f"{len(clip)} frames for {len(beginning.cameras)} poses at {grid.width}x{grid.height}, {beginning.source}",
        f"intrinsics: {beginning.intrinsics}",
        *(f"from frame {p['frame']}: {p['prompt']}" for p in report["prompts"]),
        f"memory showed {100 * mean:.1f} % on average; {report['store']['patches']:,} patches remembered in the end",
        *table(["stage", "ms/frame"], stages),
    ]
    if told is not None:
        text.append(f"every window is in {told}; look at it with: rerun {shlex.quote(str(told))}")
    return Result(report, text)


def _generated(
    args: Args, session: Session, beginning: Beginning, cues: tuple[Cue, ...], told: Path | None
) -> tuple[list[NDArray[np.uint8]], list[RolloutEvent], RolloutState]:
    """All windows: their frames, what they told (without pictures), and the state in the end."""
    config, models, cameras = session.config, beginning.models, beginning.cameras
    settings = config.generation.rollout(config.retrieval, config.lifting)
    script, window = Script(beginning.state.prompt, cues), config.generation.window_size
    frames: list[NDArray[np.uint8]] = []
    events: list[RolloutEvent] = []
    state, done = beginning.state, 0
    with (
        event_log(told, models.vae.decode_image, config.video.fps, args.overwrite) as log,
        session.console.progress("generating", len(cameras)) as tick,
        session.stage("generate"),
    ):
        if log is not None:
            log.memory(state.store, state.next_frame)
        for after, event in rollout(models, state, cameras, window, settings, script):
            state = after
            if log is not None:
                log.event(event, cameras[done : done + len(event.frames)], state.store)
            frames.append(event.frames_u8)
            events.append(replace(event, frames_u8=event.frames_u8[:0], mosaic_u8=event.mosaic_u8[:0]))
            done += len(event.frames)
            tick(len(event.frames))
            for warning in event.warnings:
                session.console.note(f"warning: {warning}")
    return frames, events, state


def parse_cue(text: str) -> Cue:
    """`"40:the ball turns blue"` as what happens from frame 40 on."""
    frame, colon, words = text.partition(":")
    if not colon or not frame.strip().isdecimal() or not words.strip():
        raise ConfigError(f"--event {text!r}: expected FRAME:TEXT, for example 40:'the ball turns blue'")
    return Cue(int(frame), words.strip())


def _cues(args: Args) -> tuple[Cue, ...]:
    """What happens, by frame."""
    cues = sorted((parse_cue(text) for text in args.event), key=lambda cue: cue.frame)
    if args.free_text and cues:
        from mosaicmem.models.text import nearest_phrases

        rewrite = nearest_phrases()
        cues = [replace(cue, text=rewrite(cue.text).rstrip(".")) for cue in cues]
    return tuple(cues)


def _report(beginning: Beginning, events: list[RolloutEvent], n: int) -> dict[str, Any]:
    coverage = np.concatenate([e.coverage for e in events]).tolist()
    timings: dict[str, float] = {}
    for event in events:
        for name, seconds in event.timings.items():
            timings[name] = timings.get(name, 0.0) + seconds
    prompts: list[dict[str, Any]] = []
    for event in events:
        # the first frame of a path may be given; then words hold from the next one on, which is as good as its own
        if not prompts or prompts[-1]["prompt"] != event.prompt:
            prompts.append({"frame": int(event.frames[0] - events[0].frames[0]), "prompt": event.prompt})
    return {
        "model": beginning.models.label,
        "poses": len(beginning.cameras),
        "prompt": beginning.state.prompt,
        "prompts": prompts,
        "intrinsics": beginning.intrinsics,
        "mean": {"coverage": float(np.mean(coverage))},
        "frames": [{"frame": i, "coverage": coverage[i]} for i in range(n)],
        "tokens": sum(e.tokens for e in events),
        "written": [i for e in events for i in e.written],
        "store": {"keyframes": events[-1].store.keyframes, "patches": events[-1].store.patches},
        "timings_s": {name: round(seconds, 4) for name, seconds in timings.items()},
    }


def _write(
    out: Path,
    args: Args,
    session: Session,
    beginning: Beginning,
    state: RolloutState,
    clip: NDArray[np.uint8],
    report: dict[str, Any],
) -> None:
    video = session.config.video
    if args.format == "mp4":
        write_video(out / "video.mp4", clip, video.fps)
    elif args.format == "png":
        (out / "frames").mkdir()
        for i, frame in enumerate(clip):
            write_image(out / "frames" / f"frame_{i:06d}.png", frame)
    else:
        write_npz(out / "frames.npz", {"frames": clip})
    shares = [f["coverage"] for f in report["frames"]]
    rows = [
        (f"frame {i}\n{100 * shares[i]:.1f} % known", [Panel("generated", clip[i])])
        for i in moments(len(clip), video.sheet_rows)
    ]
    write_image(
        out / "contact_sheet.png", sheet(rows, f"[{session.backend}] {beginning.state.prompt[:60]}", video.panel)
    )
    plot = Chart("share of the view that memory shows", [Series("coverage", [100 * c for c in shares])], 0, 100, " %")
    frames = [float(i) for i in range(len(clip))]
    write_image(out / "coverage.png", charts([plot], frames, "frame", f"[{session.backend}] What memory knew"))
    saved = Trajectory.from_cameras(beginning.cameras, fps=video.fps, metric=beginning.metric)
    write_trajectory(saved, out / "trajectory.json")
    write_json(out / "report.json", report)
    (out / "memory").mkdir()
    meta = describe_memory(
        state.store,
        state.grid,
        beginning.cameras.Ks[0],
        beginning.models.vae.name,
        beginning.vae_path,
        beginning.source,
        beginning.metric,
    )
    pictures = Decoded(state.store, beginning.models.vae)
    save_memory(out / "memory", state.store, meta, model=beginning.models.label, seed=state.seed, thumbnails=pictures)
