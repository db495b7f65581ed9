"""Walk out and back through a procedural world. The way out is seen and remembered; the way back is generated twice,
from memory and from the last frame alone, and both are compared with what is really there.

Everything is synthetic and labelled so: the world is rendered, its depth is exact, and the generator has no weights (it
shows what memory or the last frame shows from the new viewpoint and fills holes smoothly).

Writes: video.mp4 (truth, with memory, without, mosaic), contact_sheet.png, coverage.png, map.png, scene.ply,
trajectory.json, memory/, report.json, run.json.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tyro.conf import OmitArgPrefixes

from mosaicmem._shapes import Float, Tensor
from mosaicmem.apps.cli.backends import open_vae
from mosaicmem.apps.cli.config import DemoConfig, GenerationConfig
from mosaicmem.apps.cli.console import Result, table
from mosaicmem.apps.cli.export_ply import store_points
from mosaicmem.apps.cli.memory_folder import describe_memory, save_memory
from mosaicmem.apps.cli.options import Common
from mosaicmem.apps.cli.pictures import BLUE, ORANGE, Chart, Panel, Picture, Series, charts, moments, row, sheet
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.views import View, memory_views, to_float, to_u8
from mosaicmem.apps.cli.visualize import memory_map
from mosaicmem.evaluation.metrics import psnr, ssim
from mosaicmem.evaluation.revisit import copy_last
from mosaicmem.generation.backend import Models
from mosaicmem.generation.rollout import rollout
from mosaicmem.generation.state import RolloutState, observe, start
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.se3 import axis_angle
from mosaicmem.geometry.trajectories import resample
from mosaicmem.io.files import write_image, write_json
from mosaicmem.io.ply import write_ply
from mosaicmem.io.trajectories import Trajectory, write_trajectory
from mosaicmem.io.video import write_video
from mosaicmem.memory.lifting import LiftingConfig
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.models.synthetic import Compositor
from mosaicmem.models.vae import VAE
from mosaicmem.worlds import Scene, make_scene

EXAMPLE = "mosaicmem demo --num-frames 33 --width 64 --height 64 --out demo_output"

_YAW_PER_METRE = 0.5  # radians the view turns aside for each metre of sway
_SHARE_OF_LEG = 0.8  # of the way to the far wall: beyond, the picture is all wall
_CLEARANCE = 0.15  # metres kept from everything while swaying


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `demo`."""

    demo: Annotated[DemoConfig, OmitArgPrefixes] = field(default_factory=DemoConfig)
    vae: Path | None = None
    """Weights of a pretrained VAE; without, pixels are kept as they are."""
    open: bool = False
    """Show the video when done."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
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
class Walk:
    """Everything that happened: `seen` frames on the way out, the rest of `truth` is the way back."""

    ways: dict[bool, Return]  # with memory, without
    alone: list[View]  # what memory of the way out shows
    truth: Float[Tensor, "n 3 H W"]
    path: Cameras
    seen: int
    vae: VAE


def run(args: Args, session: Session) -> Result:
    """Walk, remember, walk back, compare, write."""
    config = session.config
    session.check_out(default="demo_output")
    vae = open_vae(args.vae, session)
    session.note = f"procedural world {config.seed}, exact depth, compositor without weights, {vae.name} VAE"
    grid = config.grid.grid(config.demo.width, config.demo.height, vae.stride, vae.temporal)
    models = {flag: Models(vae, Compositor(flag), patch=grid.patch) for flag in (True, False)}
    scene = make_scene(config.seed, movers=False)
    out, back = out_and_back(scene, config.demo, config.seed)
    total = len(out) + len(back)
    with session.console.progress("walking", 2 * total + len(back)) as tick:
        with session.stage("render"):
            path = Cameras.cat([out, back]).to(dtype=torch.float32)
            parts = []
            for camera in path:
                parts.append(scene.render(camera))
                tick()
            rgb, depth = torch.cat([p.rgb for p in parts]), torch.cat([p.depth for p in parts])
        with session.stage("remember"):
            state = _remember(models[True], rgb, depth, out, session)
            tick(len(out))
        ways = {}
        for flag in (True, False):
            with session.stage("generate_with_memory" if flag else "generate_without_memory"):
                ways[flag] = _walk_back(models[flag], state, back, session, tick)
        with session.stage("recall"):
            alone = list(memory_views(state.store, back, grid, vae, config.retrieval))
    walk = Walk(ways, alone, rgb, Cameras.cat([out, back]), len(out), vae)
    report = _report(walk)
    with session.folder(default="demo_output") as folder, session.stage("write"):
        _write(folder, report, walk, session)
    if args.open:
        import webbrowser

        webbrowser.open((session.wrote / "video.mp4").resolve().as_uri() if session.wrote else "")
    return Result(report, _text(report, session))


def out_and_back(scene: Scene, demo: DemoConfig, seed: int) -> tuple[Cameras, Cameras]:
    """The way out, through the doorway to the far end, and a way back that ends where it all began.

    Going back the camera faces as it did on the way out (it walks backwards), but strays sideways by up to
    `demo.sway` and turns a little, so that no pose but the last repeats one of the way out.
    """
    walk = scene.walk(seed, 8 * demo.num_frames, "there_and_back", width=demo.width, height=demo.height)
    steps = walk.centers.diff(dim=0).norm(dim=-1)
    standing = (steps < 1e-6).nonzero()
    leg = walk[: int(standing[0]) + 1] if len(standing) else walk
    count = (demo.num_frames + 1) // 2
    out = resample(leg[: max(2, round(_SHARE_OF_LEG * len(leg)))], frames=count)
    mirrored = resample(out[list(range(count - 1, -1, -1))], frames=demo.num_frames - count + 1)[1:]
    sway = demo.sway
    while sway > 0.01:
        back = _swayed(mirrored, sway)
        if bool(scene.is_free(back.centers, margin=_CLEARANCE).all()):
            return out, back
        sway /= 2
    return out, mirrored


def _swayed(path: Cameras, sway: float) -> Cameras:
    phase = torch.linspace(0, 1, len(path) + 1, dtype=path.viewmats.dtype)[1:]
    aside = sway * torch.sin(2 * torch.pi * phase) * torch.sin(torch.pi * phase)
    turn = axis_angle(path.up, _YAW_PER_METRE * aside)
    c2w = path.c2w
    c2w[:, :3, 3] += aside[:, None] * path.right
    c2w[:, :3, :3] = turn @ c2w[:, :3, :3]
    return Cameras.from_c2w(c2w, path.Ks, path.width, path.height)


def _remember(models: Models, rgb: Tensor, depth: Tensor, out: Cameras, session: Session) -> RolloutState:
    """The way out, observed: every few frames enter memory, and the first and the last."""
    config = session.config
    lifting, fps = config.lifting, config.video.fps
    state = start(models, rgb[0], out[0], depth[0], seed=config.seed, fps=fps, lifting=lifting)
    n = len(out)
    every = config.demo.remember_every
    return observe(models, state, rgb[1:n], out[1:], depth[1:n], every=every, lifting=lifting)


def _walk_back(models: Models, state: RolloutState, back: Cameras, session: Session, tick: Any) -> Return:
    config = session.config
    frames, coverage, tokens = [], [], 0
    settings = config.generation.rollout(config.retrieval, config.lifting)
    for after, event in rollout(models, state, back, config.generation.window_size, settings):
        state = after
        frames.append(event.frames_u8)
        coverage.append(event.coverage)
        tokens += event.tokens
        tick(len(event.frames) // 2)
        for warning in event.warnings:
            session.console.note(f"warning: {warning}")
    return Return(np.concatenate(frames), np.concatenate(coverage), tokens, state)


def _report(walk: Walk) -> dict[str, Any]:
    truth, seen = walk.truth[walk.seen :], walk.seen
    rows = {
        "with_memory": torch.stack([to_float(f) for f in walk.ways[True].frames]),
        "without_memory": torch.stack([to_float(f) for f in walk.ways[False].frames]),
        "copy_last": copy_last(walk.truth[seen - 1], len(truth)),
    }
    large_enough = min(truth.shape[-2:]) >= 11  # the window of SSIM
    values = {name: psnr(frames, truth).tolist() for name, frames in rows.items()}
    quarter = max(1, len(truth) // 4)
    mean = {
        name: {
            "psnr": float(np.mean(values[name])),
            "psnr_last_quarter": float(np.mean(values[name][-quarter:])),
            "ssim": float(ssim(frames, truth).mean()) if large_enough else None,
        }
        for name, frames in rows.items()
    }
    shares = {name: walk.ways[flag].coverage for name, flag in (("with_memory", True), ("without_memory", False))}
    store = walk.ways[True].state.store
    return {
        "mean": mean,
        "gain_db": mean["with_memory"]["psnr"] - mean["without_memory"]["psnr"],
        "coverage": {name: float(share.mean()) for name, share in shares.items()},
        "memory": {"keyframes": len(store), "patches": store.num_patches, "tokens": walk.ways[True].tokens},
        "frames": [
            {
                "frame": seen + i,
                "coverage": float(shares["with_memory"][i]),
                "coverage_without": float(shares["without_memory"][i]),
                **{f"psnr_{name}": values[name][i] for name in rows},
            }
            for i in range(len(truth))
        ],
    }


def _write(folder: Path, report: dict[str, Any], walk: Walk, session: Session) -> None:
    video, config = session.config.video, session.config
    total, label = len(walk.path), f"[{session.backend}]"
    clip = np.stack(
        [row(_panels(walk, i), f"{label}   {_caption(walk, report, i)}", video.panel) for i in range(total)]
    )
    write_video(folder / "video.mp4", clip, video.fps)
    back = total - walk.seen
    shown = [walk.seen + i for i in moments(back, video.sheet_rows)]
    rows = [(_caption(walk, report, i, "\n"), _panels(walk, i)) for i in shown]
    title = f"{label} The way back, from memory and without: {report['gain_db']:+.1f} dB"
    write_image(folder / "contact_sheet.png", sheet(rows, title, video.panel, "striped: nothing remembered there"))
    write_image(folder / "coverage.png", _chart(report, session))
    final = walk.ways[True].state
    write_image(folder / "map.png", memory_map(final.store, walk.vae, walk.path, "m", f"{label} The walk from above"))
    write_ply(folder / "scene.ply", *store_points(final.store, walk.vae, 0.05))
    write_trajectory(Trajectory.from_cameras(walk.path, fps=video.fps, metric=True), folder / "trajectory.json")
    (folder / "memory").mkdir()
    meta = describe_memory(
        final.store,
        final.grid,
        walk.path.Ks[0],
        walk.vae.name,
        getattr(session.args, "vae", None),
        f"procedural world, seed {config.seed}",
        True,
    )
    save_memory(folder / "memory", final.store, meta)
    write_json(folder / "report.json", report)


def _panels(walk: Walk, i: int) -> list[Panel]:
    truth = to_u8(walk.truth[i])
    if i < walk.seen:
        blank = np.full_like(truth, 245)
        return [Panel("truth", truth), *(Panel(t, blank) for t in ("with memory", "without memory", "memory alone"))]
    k = i - walk.seen
    return [
        Panel("truth", truth),
        Panel("with memory", walk.ways[True].frames[k]),
        Panel("without memory", walk.ways[False].frames[k]),
        Panel("memory alone", to_u8(walk.alone[k].frame), ~walk.alone[k].good.numpy()),
    ]


def _caption(walk: Walk, report: dict[str, Any], i: int, join: str = "   ") -> str:
    if i < walk.seen:
        return join.join([f"frame {i}", "way out: seen"])
    found = report["frames"][i - walk.seen]
    known = f"{found['psnr_with_memory']:.1f} dB with"
    return join.join([f"frame {i}, way back", known, f"{found['psnr_without_memory']:.1f} dB without"])


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
    return charts(plots, x, "frame", f"[{session.backend}] The way back: {report['gain_db']:+.1f} dB by memory")


def _text(report: dict[str, Any], session: Session) -> list[str]:
    names = {"with_memory": "with memory", "without_memory": "without memory", "copy_last": "last frame, frozen"}
    rows = []
    for key, name in names.items():
        m = report["mean"][key]
        cover = report["coverage"].get(key)
        cells = [
            "-" if v is None else f"{v:{spec}}"
            for v, spec in ((m["psnr"], ".2f"), (m["psnr_last_quarter"], ".2f"), (m["ssim"], ".3f"))
        ]
        rows.append([name, *cells, "-" if cover is None else f"{100 * cover:.1f}"])
    seconds = sum(session.timings.values())
    memory = report["memory"]
    return [
        *table(["the way back", "PSNR dB", "last quarter", "SSIM", "known %"], rows),
        f"memory gains {report['gain_db']:+.2f} dB; {memory['patches']:,} patches of {memory['keyframes']} frames; "
        f"{seconds:.1f} s",
    ]
