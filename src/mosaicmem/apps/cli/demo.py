"""Walk out and back through a procedural world. The way out is seen and remembered; the way back is generated twice,
from memory and from the last frame alone, and both are compared with what is really there.

The model `rooms` comes with the package. It is given frames and cameras of a world that it was not trained on, and
nothing else: depth is estimated, things move, and what nobody saw is invented. With `--model synthetic` nothing is
learned: depth is exact, and the generator shows what memory or the last frame shows from the new viewpoint and fills
holes smoothly.

Writes: video.mp4 (with memory and without, what memory alone shows, the truth), contact_sheet.png, coverage.png,
map.png, scene.ply, trajectory.json, memory/, report.json, run.json.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tyro.conf import OmitArgPrefixes, arg

from mosaicmem.apps.cli.backends import open_models, sized, vae_home
from mosaicmem.apps.cli.config import DemoConfig, GenerationConfig, Sampling
from mosaicmem.apps.cli.console import Result, table
from mosaicmem.apps.cli.demo_worlds import Walk, film_world, render_room
from mosaicmem.apps.cli.memory_folder import Decoded, describe_memory, save_memory
from mosaicmem.apps.cli.options import Computing
from mosaicmem.apps.cli.pictures import BLUE, ORANGE, Chart, Panel, Picture, Series, block, charts, moments, row, sheet
from mosaicmem.apps.cli.rerun_log import Rerun, event_log, recording_file
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.views import View, memory_views, to_float, to_u8
from mosaicmem.apps.cli.visualize import memory_map
from mosaicmem.evaluation.metrics import psnr, ssim
from mosaicmem.evaluation.revisit import copy_last
from mosaicmem.generation.backend import ROOMS, SYNTHETIC, Models
from mosaicmem.generation.rollout import rollout
from mosaicmem.generation.script import Script
from mosaicmem.generation.state import RolloutState, observe, start
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.exports import ExportOptions, export_ply
from mosaicmem.io.exports.event_log import EventLog
from mosaicmem.io.files import write_image, write_json
from mosaicmem.io.trajectories import Trajectory, write_trajectory
from mosaicmem.io.video import write_video
from mosaicmem.memory.lifting import LiftingConfig
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.models.vae import VAE

EXAMPLE = "mosaicmem demo --num-frames 33 --out demo_output"


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `demo`."""

    model: Annotated[str, arg(metavar="rooms|synthetic|DIR")] = ROOMS
    """Generator."""
    demo: Annotated[DemoConfig, OmitArgPrefixes] = field(default_factory=DemoConfig)
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Weights of a pretrained VAE, for `synthetic`; without, pixels are kept as they are."""
    open: bool = False
    """Show the video when done."""
    rerun: Rerun = None
    """Write the walk as a rerun recording while it happens: the way back with memory, and without beside it (default
    file: beside --out; extra `rerun`)."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    sampling: Sampling = field(default_factory=Sampling)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    lifting: LiftingConfig = field(default_factory=LiftingConfig)


@dataclass(frozen=True)
class Return:
    """The way back as one generator made it."""

    frames: NDArray[np.uint8]  # [n H W 3]
    coverage: NDArray[np.float64]  # [n]
    tokens: int
    state: RolloutState


@dataclass(frozen=True)
class Outcome:
    """Everything that happened."""

    walk: Walk
    ways: dict[bool, Return]  # with memory, without
    alone: list[View]  # what memory of the way out shows
    vae: VAE


def run(args: Args, session: Session) -> Result:
    """Walk, remember, walk back, compare, write."""
    config = session.config
    told = recording_file(args.rerun, session.check_out(default="demo_output"), args.overwrite)
    demo, learned = config.demo, args.model != SYNTHETIC
    models = {
        flag: sized(open_models(args.model, session, vae=args.vae, use_memory=flag), session, demo.width, demo.height)
        for flag in (False, True)
    }
    models[True].grid(demo.width, demo.height)  # says which sizes fit
    with session.stage("render"):
        walk = film_world(demo) if learned else render_room(demo, config.seed)
    session.note = f"{walk.source}, {'' if learned else 'exact depth, '}{session.note}"
    back = walk.path[walk.seen :]
    with (
        session.console.progress("walking", len(walk) + len(back)) as tick,
        event_log(told, models[True].vae.decode_image, config.video.fps, args.overwrite) as log,
    ):
        with session.stage("remember"):
            state = _remember(models[True], walk, session)
            tick(walk.seen)
        if log is not None:
            _log_walk(log, walk, state)
        ways = {}
        for flag in (True, False):
            with session.stage("generate_with_memory" if flag else "generate_without_memory"):
                words = walk.words.part(walk.seen, len(walk))
                ways[flag] = _walk_back(models[flag], state, back, words, session, tick, log if flag else None)
        if log is not None:
            log.pictures("without_memory", ways[False].frames, range(walk.seen, len(walk)))
        with session.stage("recall"):
            alone = list(memory_views(state.store, back, state.grid, models[True].vae, config.retrieval))
    outcome = Outcome(walk, ways, alone, models[True].vae)
    with session.stage("compare"):
        report = _report(outcome, demo.remember_every)
    with session.folder(default="demo_output") as folder, session.stage("write"):
        _write(folder, report, outcome, session, vae_home(args.model, args.vae))
    if args.open:
        import webbrowser

        webbrowser.open((session.wrote / "video.mp4").resolve().as_uri() if session.wrote else "")
    text = _text(report, session)
    if told is not None:
        text.append(f"the walk is in {told}; look at it with: rerun {shlex.quote(str(told))}")
    return Result(report, text)


def _remember(models: Models, walk: Walk, session: Session) -> RolloutState:
    """The way out, observed: every few frames enter memory, and the first and the last."""
    config = session.config
    lifting, n = config.lifting, walk.seen
    depth = walk.depth if walk.exact else None
    state = start(
        models,
        walk.rgb[0],
        walk.path[0],
        None if depth is None else depth[0],
        seed=config.seed,
        prompt=walk.words.prompt(walk.seen),
        fps=config.video.fps,
        lifting=lifting,
    )
    every = config.demo.remember_every
    seen = None if depth is None else depth[1:n]
    return observe(models, state, walk.rgb[1:n], walk.path[1:n], seen, every=every, lifting=lifting)


def _log_walk(log: EventLog, walk: Walk, state: RolloutState) -> None:
    """The way out as it was seen, what was remembered of it, and what is really there on the way back."""
    truth = np.stack([to_u8(frame) for frame in walk.rgb])
    log.frames(truth[: walk.seen], range(walk.seen), walk.path[: walk.seen])
    log.memory(state.store, walk.seen - 1)
    log.pictures("truth", truth, range(len(walk)))


def _walk_back(
    models: Models, state: RolloutState, back: Cameras, words: Script, session: Session, tick: Any,
    log: EventLog | None,
) -> Return:  # fmt: skip
    config = session.config
    frames, coverage, tokens = [], [], 0
    settings = config.generation.rollout(config.retrieval, config.lifting)
    for after, event in rollout(models, state, back, config.generation.window_size, settings, words):
        state = after
        if log is not None:
            done = sum(map(len, frames))
            log.event(event, back[done : done + len(event.frames)], state.store)
        frames.append(event.frames_u8)
        coverage.append(event.coverage)
        tokens += event.tokens
        tick(len(event.frames) // 2)
        for warning in event.warnings:
            session.console.note(f"warning: {warning}")
    return Return(np.concatenate(frames), np.concatenate(coverage), tokens, state)


def _report(outcome: Outcome, every: int) -> dict[str, Any]:
    walk, seen = outcome.walk, outcome.walk.seen
    truth, mask = walk.rgb[seen:], walk.seen_before(every)
    rows = {
        "with_memory": torch.stack([to_float(f) for f in outcome.ways[True].frames]),
        "without_memory": torch.stack([to_float(f) for f in outcome.ways[False].frames]),
        "copy_last": copy_last(walk.rgb[seen - 1], len(truth)),
    }
    large_enough = min(truth.shape[-2:]) >= 11  # the window of SSIM
    values = {name: psnr(frames, truth).tolist() for name, frames in rows.items()}
    on_seen = {name: psnr(frames, truth, mask).tolist() for name, frames in rows.items()}
    quarter = max(1, len(truth) // 4)
    mean = {
        name: {
            "psnr": float(np.mean(values[name])),
            "psnr_seen": _mean(on_seen[name]),
            "psnr_last_quarter": float(np.mean(values[name][-quarter:])),
            "ssim": float(ssim(frames, truth).mean()) if large_enough else None,
        }
        for name, frames in rows.items()
    }
    shares = {name: outcome.ways[flag].coverage for name, flag in (("with_memory", True), ("without_memory", False))}
    state = outcome.ways[True].state
    both = [mean[name]["psnr_seen"] for name in ("with_memory", "without_memory")]
    return {
        "world": walk.source,
        "prompt": state.prompt,
        "mean": mean,
        "gain_db": mean["with_memory"]["psnr"] - mean["without_memory"]["psnr"],
        "gain_seen_db": None if None in both else both[0] - both[1],
        "seen": float(mask.float().mean()),
        "coverage": {name: float(share.mean()) for name, share in shares.items()},
        "memory": {
            "keyframes": len(state.store),
            "patches": state.store.num_patches,
            "tokens": outcome.ways[True].tokens,
        },
        "frames": [
            {
                "frame": seen + i,
                "seen": float(mask[i].float().mean()),
                "coverage": float(shares["with_memory"][i]),
                "coverage_without": float(shares["without_memory"][i]),
                **{f"psnr_{name}": values[name][i] for name in rows},
                **{f"psnr_seen_{name}": _finite(on_seen[name][i]) for name in rows},
            }
            for i in range(len(truth))
        ],
    }


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _mean(values: list[float]) -> float | None:
    """Of the frames in which anything had been seen."""
    finite = [v for v in values if np.isfinite(v)]
    return float(np.mean(finite)) if finite else None


def _write(folder: Path, report: dict[str, Any], outcome: Outcome, session: Session, vae_path: Path | None) -> None:
    video, walk = session.config.video, outcome.walk
    total, label = len(walk), f"[{session.backend}]"
    frames = []
    for i in range(total):
        text = f"{label}   {_caption(walk, report, i)}"
        if walk.exact:
            frames.append(row(_panels(outcome, i), text, video.panel))
        else:
            truth, with_memory, without, alone = _panels(outcome, i)
            frames.append(block([[with_memory, without], [alone, truth]], text, video.panel))
    write_video(folder / "video.mp4", np.stack(frames), video.fps)
    leaving = moments(walk.seen, video.sheet_rows // 3)
    shown = [*leaving, *(walk.seen + i for i in moments(total - walk.seen, video.sheet_rows - len(leaving)))]
    rows = [(_caption(walk, report, i, "\n"), _panels(outcome, i)) for i in shown]
    title = f"{label} Away, and back from memory and without: {_gain(report)}"
    write_image(folder / "contact_sheet.png", sheet(rows, title, video.panel, "striped: nothing remembered there"))
    write_image(folder / "coverage.png", _chart(report, session))
    final = outcome.ways[True].state
    title = f"{label} The walk from above"
    write_image(folder / "map.png", memory_map(final.store, outcome.vae, walk.path, "m", title))
    cloud = ExportOptions(voxel_size=0.05, metric=True)
    export_ply(final.store, outcome.vae.decode_image, folder / "scene.ply", cloud)
    write_trajectory(Trajectory.from_cameras(walk.path, fps=video.fps, metric=True), folder / "trajectory.json")
    (folder / "memory").mkdir()
    vae = outcome.vae.name
    meta = describe_memory(final.store, final.grid, walk.path.Ks[0], vae, vae_path, walk.source, True)
    save_memory(folder / "memory", final.store, meta, thumbnails=Decoded(final.store, outcome.vae))
    write_json(folder / "report.json", report)


def _panels(outcome: Outcome, i: int) -> list[Panel]:
    walk = outcome.walk
    truth = to_u8(walk.rgb[i])
    if i < walk.seen:
        blank = np.full_like(truth, 245)
        shown = blank if walk.exact else (0.3 * truth + 0.7 * 245).astype(np.uint8)
        both = [Panel(title, shown) for title in ("with memory", "without memory")]
        return [Panel("truth", truth), *both, Panel("memory alone", blank)]
    k = i - walk.seen
    return [
        Panel("truth", truth),
        Panel("with memory", outcome.ways[True].frames[k]),
        Panel("without memory", outcome.ways[False].frames[k]),
        Panel("memory alone", to_u8(outcome.alone[k].frame), ~outcome.alone[k].good.numpy()),
    ]


def _caption(walk: Walk, report: dict[str, Any], i: int, join: str = "   ") -> str:
    if i < walk.seen:
        return join.join([f"frame {i}", "way out: seen"])
    found = report["frames"][i - walk.seen]
    known = f"{found['psnr_with_memory']:.1f} dB with"
    return join.join([f"frame {i}, way back", known, f"{found['psnr_without_memory']:.1f} dB without"])


def _gain(report: dict[str, Any]) -> str:
    gain = report["gain_seen_db"]
    return f"{report['gain_db']:+.1f} dB" + ("" if gain is None else f", {gain:+.1f} dB on what had been seen")


def _chart(report: dict[str, Any], session: Session) -> Picture:
    frames = report["frames"]
    x = [float(f["frame"]) for f in frames]
    coverage = [
        Series("with memory", [100 * f["coverage"] for f in frames], BLUE),
        Series("without", [100 * f["coverage_without"] for f in frames], ORANGE),
    ]
    fidelity = [
        Series("with memory", [f["psnr_with_memory"] for f in frames], BLUE),
        Series("without", [f["psnr_without_memory"] for f in frames], ORANGE),
    ]
    values = [v for s in fidelity for v in s.values]
    low, high = 5 * np.floor(min(values) / 5), 5 * np.ceil(max(values) / 5 + 1e-9)
    plots = [
        Chart("share of the view that is known", coverage, 0, 100, " %"),
        Chart("PSNR against the truth", fidelity, float(low), float(high), " dB"),
    ]
    return charts(plots, x, "frame", f"[{session.backend}] The way back: {_gain(report)} by memory")


def _text(report: dict[str, Any], session: Session) -> list[str]:
    names = {"with_memory": "with memory", "without_memory": "without memory", "copy_last": "last frame, frozen"}
    rows = []
    for key, name in names.items():
        m = report["mean"][key]
        cover = report["coverage"].get(key)
        cells = [
            "-" if v is None else f"{v:{spec}}"
            for v, spec in (
                (m["psnr"], ".2f"),
                (m["psnr_seen"], ".2f"),
                (m["psnr_last_quarter"], ".2f"),
                (m["ssim"], ".3f"),
            )
        ]
        rows.append([name, *cells, "-" if cover is None else f"{100 * cover:.1f}"])
    seconds = sum(session.timings.values())
    memory = report["memory"]
    return [
        *table(["the way back", "PSNR dB", "on seen", "last quarter", "SSIM", "known %"], rows),
        f"memory gains {_gain(report)}; {memory['patches']:,} patches of {memory['keyframes']} frames; {seconds:.1f} s",
    ]
