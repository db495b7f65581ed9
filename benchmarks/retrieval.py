"""Insert and retrieve at growing memory sizes: a 480x832 view, 16-pixel tokens of 2x2 cells, a walk through a hall.

    python benchmarks/retrieval.py                 # 10 k, 100 k and 1 M patches
    python benchmarks/retrieval.py --sizes 10000 --json

The yardstick printed beside each time is one pass over the candidates' centres in the same run: no retrieval that
looks at every patch can be faster. Times are medians on one thread; ratios of one run mean more than its times.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import torch

from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.geometry.projection import pixel_centers, unproject
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import Keyframe, PatchStore, retrieve

GRID = TokenGrid(832, 480, stride=8, patch=2)
CHANNELS = 16


def hall_cameras(count: int, length: float) -> Cameras:
    """A walk up and down a hall of 8 x 4 x `length` metres, looking around."""
    t = torch.arange(count, dtype=torch.float64) / max(count, 2)
    z = (length - 4) * (0.5 - (2 * t - 1).abs() / 2 * 2).abs() + 2
    yaw = 0.7 * torch.sin(37 * t) + torch.where(t > 0.5, math.pi, 0.0)
    eye = torch.stack([torch.sin(11 * t), torch.zeros_like(t), z], -1)
    ahead = torch.stack([yaw.sin(), 0.1 * torch.sin(23 * t), yaw.cos()], -1)
    views = look_at(eye, eye + ahead, torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64))
    return Cameras.from_fov(views, GRID.width, GRID.height, 75.0)


def hall_depth(camera: Cameras, length: float) -> torch.Tensor:
    """Exact z-depth at cell centres inside the box `|x| < 4, |y| < 2, 0 < z < length`."""
    h, w = GRID.cells
    uv = pixel_centers(w, h, stride=GRID.stride, dtype=torch.float64).reshape(1, -1, 2)
    ray = unproject(uv, torch.ones(1, h * w, dtype=torch.float64), camera.Ks)[0] @ camera.viewmats[0, :3, :3]
    low, high = torch.tensor([-4.0, -2.0, 0.0]).double(), torch.tensor([4.0, 2.0, length]).double()
    bound = torch.where(ray > 0, high, low)
    depth = ((bound - camera.centers[0]) / ray).amin(-1)
    return depth.reshape(h, w).float()


def keyframe(camera: Cameras, length: float, index: int, latents: torch.Tensor) -> Keyframe:
    depth = hall_depth(camera, length)
    valid = torch.ones_like(depth, dtype=torch.bool)
    return Keyframe(latents, depth, valid, torch.ones_like(depth), camera, GRID.stride, GRID.patch, index, index / 6)


def median_ms(run: Callable[[], object], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def measure(size: int, repeats: int) -> dict[str, float]:
    """One row of the table."""
    frames = max(1, round(size / GRID.tokens_per_latent))
    length = 8.0 + 0.25 * frames
    cameras = hall_cameras(frames, length)
    latents = torch.randn(CHANNELS, *GRID.cells)  # shared: what is measured is geometry, not copying latents
    store = PatchStore.empty()
    inserts = []
    for i in range(frames):
        frame = keyframe(cameras[i], length, i, latents)
        start = time.perf_counter()
        store = store.insert(frame)
        inserts.append(time.perf_counter() - start)
    views = hall_cameras(7, length)
    retrieve(store, views[0], GRID)
    times, coverage = [], []
    for _ in range(repeats):
        for i in range(len(views)):
            start = time.perf_counter()
            mosaic = retrieve(store, views[i], GRID)
            times.append(time.perf_counter() - start)
            coverage.append(float(mosaic.coverage[0]))
    centers = store.centers.numpy()
    read_ms = median_ms(lambda: float(np.add.reduce(centers, axis=None)), 5 * repeats)
    retrieve_ms = 1e3 * statistics.median(times)
    return {
        "patches": store.num_patches,
        "keyframes": frames,
        "insert_ms": 1e3 * statistics.median(inserts[-20:]),
        "retrieve_ms": retrieve_ms,
        "read_centres_ms": read_ms,
        "retrieve_over_read": retrieve_ms / read_ms,
        "coverage": statistics.mean(coverage),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "index_bytes_per_patch": sum(
            c.element_size() * c[0].numel() for c in (store.centers, store.radii, store.patch_ids)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="patches")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = {str(size): measure(size, args.repeats) for size in sorted(args.sizes)}
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    ).stdout.strip()
    print(
        f"{time.strftime('%Y-%m-%d')}  {platform.processor() or platform.machine()}  1 thread  commit {commit or '-'}"
    )
    names = list(next(iter(rows.values())))
    print("  ".join(f"{name:>20}" for name in names))
    for row in rows.values():
        print("  ".join(f"{row[name]:>20,.3f}" if row[name] % 1 else f"{row[name]:>20,.0f}" for name in names))


if __name__ == "__main__":
    main()
