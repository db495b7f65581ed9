"""Time every stage of the memory on a procedural room: warm-up first, then percentiles over all frames and iterations.

Figures are milliseconds a frame on this machine; --baseline compares them with the report.json of an earlier run.

What a model is worth, instead of how fast memory is, say the other benchmarks; each has its own --help:

  bench memory    does it know a place again: every part of the model against the model without it
  bench walk      does a walk of 480 frames come home
  bench prompts   does it do what it is told
  bench stress    how recall decays with wrong depth, poses, moving things and sky; without a model
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from tyro.conf import arg

from mosaicmem.apps.cli.backends import open_vae
from mosaicmem.apps.cli.console import Result, table
from mosaicmem.apps.cli.options import Computing, no_such_part
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.io.files import finite, read_json
from mosaicmem.memory.lifting import LiftingConfig, lift
from mosaicmem.memory.retrieval import RetrievalConfig, retrieve
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.conditioning import assemble, canvas
from mosaicmem.models.synthetic import push_pull

EXAMPLE = "mosaicmem bench --num-frames 8 --iterations 2"

STAGES = ("encode", "lift", "insert", "retrieve", "canvas", "tokens", "fill", "decode")
PARTS = ("memory", "walk", "prompts", "stress")
T = TypeVar("T")


@dataclass(kw_only=True)
class Args(Computing):
    """Arguments of `bench`."""

    num_frames: int = 32
    """Frames remembered and views asked for."""
    width: int = 64
    """Image width, pixels."""
    height: int = 64
    """Image height, pixels."""
    iterations: int = 3
    """Measured passes."""
    warmup: int = 1
    """Passes that are not measured."""
    vae: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Weights of a pretrained VAE; without, pixels are kept as they are."""
    baseline: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """report.json of an earlier run to compare with."""
    lifting: LiftingConfig = field(default_factory=LiftingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)


def part(argv: list[str]) -> tuple[str, ModuleType, list[str]]:
    """The benchmark that a command line names first, by default that of the stages: its name, module and options.

    Raises:
        ConfigError: if the first word is none; the message says which are.
    """
    if argv and argv[0] in PARTS:
        return f"bench {argv[0]}", importlib.import_module(f"mosaicmem.apps.cli.bench_{argv[0]}"), argv[1:]
    if argv and argv[0] != "stages" and not argv[0].startswith("-"):
        raise no_such_part("bench", argv[0], ("stages", *PARTS))
    return "bench", importlib.import_module(__name__), argv[1:] if argv[:1] == ["stages"] else argv


def run(args: Args, session: Session) -> Result:
    """Measure, and compare with the baseline."""
    from mosaicmem.worlds import make_scene

    problems = [
        f"{name} = {value}: expected {low} to {high}"
        for name, value, low, high in [
            ("--num-frames", args.num_frames, 1, 100_000),
            ("--width", args.width, 8, 4096),
            ("--height", args.height, 8, 4096),
            ("--iterations", args.iterations, 1, 10_000),
            ("--warmup", args.warmup, 0, 10_000),
        ]
        if not low <= value <= high
    ]
    if problems:
        raise ConfigError("; ".join(problems))
    before = _baseline(args.baseline) if args.baseline else {}
    vae = open_vae(args.vae, session)
    grid = session.config.grid.grid(args.width, args.height, vae.stride, vae.temporal)
    with session.stage("render"):
        scene = make_scene(session.config.seed, movers=False)
        walk = scene.walk(session.config.seed, max(2, args.num_frames), width=args.width, height=args.height)
        cameras = walk[: args.num_frames]
        truth = scene.render(cameras.to(dtype=torch.float32))
    clock: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def timed(stage: str, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = work()
        clock[stage].append(1000 * (time.perf_counter() - start))
        return result

    patches = 0
    with session.console.progress("measuring", args.warmup + args.iterations) as tick:
        for iteration in range(args.warmup + args.iterations):
            if iteration == args.warmup:
                for samples in clock.values():
                    samples.clear()
            store = PatchStore.empty()
            for i in range(args.num_frames):
                latents = timed("encode", lambda i=i: vae.encode_image(truth.rgb[i : i + 1])[0])
                key = timed(
                    "lift",
                    lambda i=i, z=latents: lift(
                        z, truth.depth[i], cameras[i], grid, frame=i, config=session.config.lifting
                    ),
                )
                store = timed("insert", lambda s=store, key=key: s.insert(key))
            for i in range(args.num_frames):
                mosaic = timed("retrieve", lambda i=i, s=store: retrieve(s, cameras[i], grid, session.config.retrieval))
                shown, good = timed("canvas", lambda s=store, m=mosaic: canvas(s, m))
                timed("tokens", lambda s=store, m=mosaic: assemble(s, m))
                filled = timed("fill", lambda z=shown, g=good: push_pull(z, g))
                timed("decode", lambda z=filled: vae.decode_image(z))
            patches = store.num_patches
            tick()
    stages = {stage: _statistics(samples) for stage, samples in clock.items()}
    total = sum(s["mean"] for s in stages.values())
    data: dict[str, Any] = {
        "frames": args.num_frames,
        "size": [args.width, args.height],
        "iterations": args.iterations,
        "warmup": args.warmup,
        "patches": patches,
        "threads": session.config.threads,
        "stages_ms": stages,
        "total_ms": total,
        "frames_per_second": 1000 / total,
    }
    return Result(data, _text(data, before))


def _statistics(samples: list[float]) -> dict[str, float]:
    values = np.array(samples)
    p50, p90, p99 = (float(v) for v in np.percentile(values, [50, 90, 99]))
    return {"mean": float(values.mean()), "p50": p50, "p90": p90, "p99": p99, "min": float(values.min())}


def _text(data: dict[str, Any], before: dict[str, float]) -> list[str]:
    rows: list[list[object]] = []
    for stage, s in data["stages_ms"].items():
        row: list[object] = [stage, *(f"{s[k]:.2f}" for k in ("mean", "p50", "p90", "p99", "min"))]
        if before:
            row.append(f"{100 * (s['p50'] / before[stage] - 1):+.0f} %" if before.get(stage) else "-")
        rows.append(row)
    headers = ["stage (ms/frame)", "mean", "p50", "p90", "p99", "min", *(["p50 vs baseline"] if before else [])]
    size = "x".join(map(str, data["size"]))
    return [
        f"{data['frames']} frames at {size}, {data['patches']:,} patches, {data['iterations']} iterations after "
        f"{data['warmup']} warm-up, {data['threads']} thread(s)",
        *table(headers, rows),
        f"all stages {data['total_ms']:.2f} ms a frame, {data['frames_per_second']:.1f} frames/s",
    ]


def _baseline(path: Path) -> dict[str, float]:
    """Median of every stage in an earlier report."""
    raw = read_json(path, 2**20)
    stages = raw.get("stages_ms") if isinstance(raw, dict) else None
    if not isinstance(stages, dict):
        raise InputError(f"{path}: no stages_ms in it; expected the report.json of 'mosaicmem bench --out DIR'")
    return {
        name: finite(stage.get("p50") if isinstance(stage, dict) else None, f"{path}: {name}.p50")
        for name, stage in stages.items()
    }
