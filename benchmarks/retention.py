"""What a budget costs: a long walk through procedural rooms, remembered within a tenth of its bytes, and a soak.

    python benchmarks/retention.py                      # 2,000 frames, budget 10 %
    python benchmarks/retention.py --picture retention.png --json
    python benchmarks/retention.py --soak 10000         # inserts and queries; is resident memory flat?

Every frame enters memory with exact depth. While walking, and at the end, all places visited so far are recalled
(evenly spread frames of the walk, at their own cameras) from three memories: without a limit, within the budget, and
within the budget by forgetting the oldest. Retention is coverage by that of unlimited memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch

from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import Keyframe, PatchStore, lift, retrieve
from mosaicmem.memory.forgetting import forget, forget_oldest, store_bytes
from mosaicmem.worlds import make_scene
from mosaicmem.worlds.film import film

GRID = TokenGrid(64, 48, stride=1, patch=8)
SOAK_GRID = TokenGrid(64, 32, stride=4, patch=2)
RULES: dict[str, Callable[[PatchStore, int], PatchStore]] = {"forgetting": forget, "oldest first": forget_oldest}


def retention(frames: int, share: float, seed: int, rooms: int, moments: int, views: int) -> dict[str, Any]:
    """The curves of one walk: coverage of what was visited so far, by memory, at `moments` of the walk."""
    scene = make_scene(seed, rooms=rooms, movers=False)
    cameras = scene.walk(seed, frames, "there_and_back", width=GRID.width, height=GRID.height).to(dtype=torch.float64)
    first = _remember(scene, cameras, 0)
    budget = int(share * frames * first.nbytes)
    stores = dict.fromkeys(("unlimited", *RULES), PatchStore.empty())
    stops = {round((i + 1) * frames / moments) - 1 for i in range(moments)}
    curves: dict[str, list[float]] = {"frame": [], **{name: [] for name in stores}}
    seconds = dict.fromkeys(RULES, 0.0)
    for i in range(frames):
        keyframe = first if i == 0 else _remember(scene, cameras, i)
        stores = {name: store.insert(keyframe) for name, store in stores.items()}
        for name, rule in RULES.items():
            start = time.thread_time()
            stores[name] = rule(stores[name], budget)
            seconds[name] += time.thread_time() - start
            assert store_bytes(stores[name]) <= budget
        if i in stops:
            chosen = torch.linspace(0, i, views).round().long().tolist()
            curves["frame"].append(i + 1)
            for name, store in stores.items():
                curves[name].append(float(retrieve(store, cameras[chosen], GRID).coverage.mean()))
    kept = {name: [curves[name][m] / curves["unlimited"][m] for m in range(len(curves["frame"]))] for name in RULES}
    return {
        "frames": frames,
        "rooms": rooms,
        "seed": seed,
        "budget_share": share,
        "budget_bytes": budget,
        "bytes": {name: store_bytes(store) for name, store in stores.items()},
        "keyframes": {name: len(store) for name, store in stores.items()},
        "patches": {name: store.num_patches for name, store in stores.items()},
        "coverage": curves,
        "retention": {name: {"end": kept[name][-1], "lowest": min(kept[name]), "curve": kept[name]} for name in RULES},
        "ms_per_insert": {name: 1000 * value / frames for name, value in seconds.items()},
    }


def soak(count: int, budget_keyframes: int = 100, every: int = 1000) -> dict[str, Any]:
    """Insert and ask `count` times within a budget, walking about; resident memory after every so many."""
    scene = make_scene(3, rooms=2, movers=False)
    lap = 500
    cameras = scene.walk(3, lap, "there_and_back", width=SOAK_GRID.width, height=SOAK_GRID.height)
    cameras = cameras.to(dtype=torch.float64)
    h, w = SOAK_GRID.cells
    depth = scene.depth(cameras.resized(w, h).to(dtype=torch.float32))
    store, at, resident = PatchStore.empty(), [], []
    for i in range(count):
        z, ones = depth[i % lap], torch.ones(h, w)
        camera = cameras[i % lap]
        frame = Keyframe(torch.randn(16, h, w), z, z > 0, ones, camera, SOAK_GRID.stride, SOAK_GRID.patch, i, i / 24)
        store = forget(store.insert(frame), budget_keyframes * frame.nbytes, keep={i})
        retrieve(store, camera, SOAK_GRID)
        if (i + 1) % every == 0:
            gc.collect()
            at.append(i + 1)
            resident.append(_resident_mb())
    return {"count": count, "after": at, "resident_mb": resident, "growth_mb": max(resident) - resident[0]}


def _remember(scene: Any, cameras: Cameras, i: int) -> Keyframe:
    shown = film(scene, cameras[i], finer=1)
    return lift(shown.rgb[0], shown.depth[0], cameras[i], GRID, frame=i, time=i / 24)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def draw(report: dict[str, Any], path: Path) -> None:
    """Coverage of everything visited so far, over the walk."""
    from mosaicmem.apps.cli.pictures import BLUE, FAINT, ORANGE, Chart, Series, charts
    from mosaicmem.io.files import write_image

    colours = {"unlimited": FAINT, "forgetting": BLUE, "oldest first": ORANGE}
    curves = report["coverage"]
    series = [Series(name, [100 * v for v in curves[name]], colour) for name, colour in colours.items()]
    plot = Chart("coverage of all places visited so far", series, 0.0, 100.0, " %")
    title = f"A walk of {report['frames']} frames within {100 * report['budget_share']:.0f} % of its memory"
    write_image(path, charts([plot], curves["frame"], "frames walked", title))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.1, help="budget, as a share of unlimited memory")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--rooms", type=int, default=4)
    parser.add_argument("--moments", type=int, default=8, help="points of the curve")
    parser.add_argument("--views", type=int, default=60, help="places recalled at each")
    parser.add_argument("--soak", type=int, default=0, help="inserts and queries; 0 walks instead")
    parser.add_argument("--picture", type=Path, default=None, help="PNG of the curve")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.soak:
        report = soak(args.soak, every=max(1, args.soak // 10))
    else:
        report = retention(args.frames, args.share, args.seed, args.rooms, args.moments, args.views)
        if args.picture:
            draw(report, args.picture)
    print(json.dumps(report, indent=1) if args.json else _text(report))


def _text(report: dict[str, Any]) -> str:
    if "resident_mb" in report:
        rows = [f"{n:>10,} {mb:>10.1f}" for n, mb in zip(report["after"], report["resident_mb"], strict=True)]
        return "\n".join(
            ["   inserts   MB resident", *rows, f"growth after the first row {report['growth_mb']:.1f} MB"]
        )
    curves = report["coverage"]
    rows = ["frames walked  " + "  ".join(f"{name:>12}" for name in ("unlimited", *RULES))]
    for m, frame in enumerate(curves["frame"]):
        rows.append(f"{frame:>13,}  " + "  ".join(f"{curves[name][m]:>12.1%}" for name in ("unlimited", *RULES)))
    for name in RULES:
        found = report["retention"][name]
        rows.append(
            f"{name}: {found['end']:.1%} of unlimited at the end, {found['lowest']:.1%} at worst, "
            f"{report['keyframes'][name]} keyframes, {report['bytes'][name]:,} of {report['budget_bytes']:,} bytes, "
            f"{report['ms_per_insert'][name]:.2f} ms an insert"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
