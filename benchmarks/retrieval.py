"""Insert and retrieve at growing memory sizes: a 480x832 view, 16-pixel tokens of 2x2 cells, a walk through a hall.

    python benchmarks/retrieval.py                           # 10 k, 100 k, 1 M and 10 M patches: 2 GB, some minutes
    python benchmarks/retrieval.py --sizes 10000 --json      # one size, as a document
    python benchmarks/retrieval.py --against-reference 5000000    # a world file, and all pairs: 3 GB of disk, an hour

Times are CPU times on a chosen number of cores, so that other work on the machine does not count: every step runs on
one thread, and where the library would share a step among cores, its tasks are scheduled as its threads take them.
`--wall` measures wall time with threads instead; use it on a machine that has nothing else to do.

The yardstick printed beside each time is one pass over all centres in the same run. Both are repeated, so caches hold
what they saw last; `--cold` sweeps them before every call, as a model does that runs between two retrievals.
`agreement` is the share of tokens that have the same owner when the candidates are thinned by plain passes over all
patches, without blocks; `window_agreement` the same of a window whose views are asked one by one, each of the groups
that the law of windows names for it. `window_changes` is the share of tokens, shown in two neighbouring views, that
change their owner from one to the other.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy as np
import torch

from mosaicmem.geometry.cameras import Cameras, look_at
from mosaicmem.geometry.projection import pixel_centers, unproject
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.io.world import WorldFile
from mosaicmem.memory import Keyframe, Mosaic, PatchStore, RetrievalConfig, _choice_kernels, retrieve
from mosaicmem.memory.pool import PatchPoints, Shown, candidates
from mosaicmem.memory.reference import retrieve_reference
from mosaicmem.memory.window_reference import key_views

GRID = TokenGrid(832, 480, stride=8, patch=2)
CHANNELS = 16
OTHER = np.ones(8 << 20)  # 64 MB, more than any cache holds


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


@dataclass
class Clock:
    """Milliseconds of a call: wall time with threads, or the time it would take on `cores` that do nothing else.

    If `cold`, caches are full of something else when it begins, as after the steps of a model.
    """

    cores: int
    wall: bool
    cold: bool = False

    def __call__(self, run: Callable[[], object]) -> float:
        if self.cold:
            np.add.reduce(OTHER)
        if self.wall:
            start = time.perf_counter()
            run()
            return 1e3 * (time.perf_counter() - start)
        self.saved, self.busy = 0.0, False
        start = time.thread_time()
        with self._scheduled():
            run()
        return 1e3 * (time.thread_time() - start - self.saved)

    @contextmanager
    def _scheduled(self) -> Any:
        def for_each(task: Callable[[int], object], count: int, *, worth: bool) -> None:
            cores = self.cores if worth and not self.busy else 1
            free, before, busy = [0.0] * cores, time.thread_time(), self.busy
            self.busy = cores > 1 or busy
            for i in range(count):
                start = time.thread_time()
                task(i)
                free[free.index(min(free))] += time.thread_time() - start
            self.busy = busy
            if cores > 1:
                self.saved += time.thread_time() - before - max(free)

        def threads(count: int, *, worth: bool) -> int:
            return min(self.cores, count) if worth and not self.busy else 1

        with ExitStack() as stack:
            for module in ("views", "pool"):
                stack.enter_context(mock.patch(f"mosaicmem.memory.{module}.for_each", for_each))
                stack.enter_context(mock.patch(f"mosaicmem.memory.{module}.threads", threads))
            yield


def _length(frames: int) -> float:
    return 8.0 + 0.25 * frames


def build(size: int, clock: Clock, dtype: torch.dtype = torch.float32) -> tuple[PatchStore, float, list[float]]:
    """A store of about `size` patches of a hall, its length, and what the last insertions took."""
    frames = max(1, round(size / GRID.tokens_per_latent))
    length = _length(frames)
    cameras = hall_cameras(frames, length)
    latents = torch.randn(CHANNELS, *GRID.cells).to(dtype)  # shared: what is measured is geometry, not copying latents
    valid, confidence = torch.ones(GRID.cells, dtype=torch.bool), torch.ones(GRID.cells)
    store, inserts = PatchStore.empty(), []
    for i in range(frames):
        depth = hall_depth(cameras[i], length)
        frame = Keyframe(latents, depth, valid, confidence, cameras[i], GRID.stride, GRID.patch, i, i / 6)
        old = store

        def insert(old: PatchStore = old, frame: Keyframe = frame) -> None:
            nonlocal store
            store = old.insert(frame)

        inserts.append(clock(insert))
    return store, length, inserts


def plain_shows(points: PatchPoints, groups: list[int]) -> Shown:
    """The twin of `PatchPoints.shows`: every patch of every candidate, one after the other, without blocks."""
    store, (m, n), s = points.store, points.grid.tokens, np.float32(points.grid.token_stride)
    view, K = points.viewmat[:3].astype(np.float32), points.K.astype(np.float32)
    rows = [slice(store.offsets[g], store.offsets[g + 1]) for g in groups]

    def landing(k: int) -> tuple[np.ndarray, ...]:
        x = store.centers[rows[k]].numpy() @ view[:, :3].T + view[:, 3]
        radii = store.radii[rows[k]].numpy()
        with np.errstate(divide="ignore", invalid="ignore"):
            uv = x[:, :2] / x[:, 2:] * K.diagonal()[:2] + K[:2, 2]
            half = np.clip(radii * K[0, 0] / x[:, 2], s / 2, points.reach)[:, None]
        ok = (x[:, 2] > points.near) & (uv + half > 0).all(1) & (uv - half < np.array([n * s, m * s])).all(1)
        uv, half, z, radii = uv[ok], half[ok], x[ok, 2], radii[ok]
        low = np.ceil((uv - half) / s - 0.5).clip(0).astype(int)
        high = np.ceil((uv + half) / s - 0.5).clip(None, [n, m]).astype(int)
        wide, tall = (high - low).clip(0).T
        patch = np.repeat(np.arange(len(z)), wide * tall)
        within = np.arange(len(patch)) - np.repeat(np.cumsum(wide * tall) - wide * tall, wide * tall)
        token = (low[patch, 1] + within // wide[patch]) * n + low[patch, 0] + within % wide[patch]
        return token, z[patch], (z - radii)[patch], ok.any()

    zbuf = np.full(m * n, np.inf, np.float32)
    for k in range(len(groups)):
        token, z, front, _ = landing(k)
        np.minimum.at(zbuf, token, z + (z - front))
    seen, landed = np.zeros((len(groups), -(-m * n // 64) * 64), np.uint8), np.zeros(len(groups), bool)
    for k in range(len(groups)):
        token, _, front, landed[k] = landing(k)
        seen[k, token[front <= np.float32(1 + points.tau) * zbuf[token]]] = 1
    return Shown(np.packbits(seen, axis=1, bitorder="little").view(np.uint64), landed, zbuf)


def plain_window(store: PatchStore, views: Cameras) -> Mosaic:
    """The law of windows again, view by view: see `mosaicmem.memory.window_reference`."""
    config, cells = RetrievalConfig(), math.prod(GRID.cells)
    shown, meet = 0, 0  # cells of the last answer, and groups that met its frustum
    in_sight, cover = candidates, _choice_kernels.greedy_cover

    def ask(i: int, among: set[int] | None = None) -> tuple[Mosaic, set[int], int]:
        """The answer, the groups that show much of it, and how many cells are shown."""

        def named(*arguments: Any) -> np.ndarray:
            nonlocal meet
            groups = in_sight(*arguments)
            meet = len(groups)
            return groups if among is None or meet <= config.looked_at else groups[np.isin(groups, sorted(among))]

        def counted(quality: np.ndarray, *arguments: Any) -> np.ndarray:
            nonlocal shown
            picks = cover(quality, *arguments)
            shown = int((quality[picks] > 0).any(0).sum())
            return picks

        with (
            mock.patch("mosaicmem.memory.views.candidates", named),
            mock.patch.object(_choice_kernels, "greedy_cover", counted),
        ):
            mosaic = retrieve(store, views[i], GRID, config)
            if among is not None and meet > config.looked_at:
                mosaic = retrieve(store, views[i], GRID, replace(config, gain_min=0.0075))
        return mosaic, {g for g in mosaic.picked[0] if mosaic.gains[0, g] >= 0.01 * cells}, shown

    keys = key_views(views, store.scale, config.key_step)
    answers = {key: ask(key) for key in keys}
    for before, after in itertools.pairwise(keys):
        ends = answers[before], answers[after]
        for i in range(before + 1, after):
            answers[i] = ask(i, ends[0][1] | ends[1][1])
            if answers[i][2] < min(ends[0][2], ends[1][2]) - 0.02 * cells:
                answers[i] = ask(i)
    return Mosaic.cat([answers[i][0] for i in range(len(views))])


def changes(window: Mosaic) -> float:
    """How often a token that two neighbouring views show has another owner in the second."""
    both = window.covered[1:] & window.covered[:-1]
    return float((window.owner[1:] != window.owner[:-1])[both].double().mean())


def measure(size: int, repeats: int, clock: Clock) -> dict[str, float]:
    """One row of the table."""
    store, length, inserts = build(size, clock)
    hall, walk = hall_cameras(7, length), window_cameras(length)
    views = [hall[i] for i in range(len(hall))]  # to take one out of several is not retrieval
    retrieve(store, views[0], GRID)
    times, mosaics = [], []
    for _ in range(repeats):
        mosaics = []
        for i in range(len(views)):
            answer: list[Mosaic] = []
            times.append(clock(lambda i=i, answer=answer: answer.append(retrieve(store, views[i], GRID))))
            mosaics += answer
    windows, singles = [], []
    for _ in range(repeats):  # in turn, so that both see the same neighbours
        windows.append(clock(lambda: retrieve(store, walk, GRID)))
        singles += [clock(lambda view=view: retrieve(store, view, GRID)) for view in (walk[0], walk[10], walk[20])]
    window, alone = retrieve(store, walk, GRID), retrieve(store, walk, GRID, RetrievalConfig(key_step=0))
    centers = store.centers.numpy()
    reads = [clock(lambda: float(np.add.reduce(centers, axis=None))) for _ in range(4 * repeats)]
    retrieve_ms, read_ms = statistics.median(times), statistics.median(reads)
    with mock.patch.object(PatchPoints, "shows", plain_shows):
        plain = [retrieve(store, views[i], GRID) for i in (1, 4)]
        plain_walk = plain_window(store, walk)
    same = [float((a.owner == mosaics[i].owner).double().mean()) for a, i in zip(plain, (1, 4), strict=True)]
    return {
        "patches": store.num_patches,
        "keyframes": len(store),
        "insert_ms": statistics.median(inserts[-50:]),
        "retrieve_ms": retrieve_ms,
        "read_centres_ms": read_ms,
        "retrieve_over_read": retrieve_ms / read_ms,
        "window_ms": statistics.median(windows),
        "window_over_view": statistics.median(windows) / statistics.median(singles),
        "window_coverage": float(window.coverage.mean()),
        "window_coverage_one_by_one": float(alone.coverage.mean()),
        "window_changes": changes(window),
        "window_changes_one_by_one": changes(alone),
        "window_agreement": float((plain_walk.owner == window.owner).double().mean()),
        "coverage": statistics.mean(float(mosaic.coverage[0]) for mosaic in mosaics),
        "agreement": min(same),
        "coverage_difference": max(
            abs(float(a.coverage - mosaics[i].coverage)) for a, i in zip(plain, (1, 4), strict=True)
        ),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "index_bytes_per_patch": store.index_bytes / store.num_patches,
        "bytes_per_patch": store.index_bytes / store.num_patches + 9 * GRID.patch**2,  # depth, confidence, validity
    }


def window_cameras(length: float) -> Cameras:
    """21 views of a walk of two metres that looks about, amid the hall."""
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    eye = torch.stack([0.5 * t, torch.zeros_like(t), 0.4 * length + 2 * t], -1)
    ahead = torch.stack([(0.5 * t).sin(), 0 * t, (0.5 * t).cos()], -1)
    views = look_at(eye, eye + ahead, torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64))
    return Cameras.from_fov(views, GRID.width, GRID.height, 75.0)


def resident_mb(what: str = "VmRSS") -> float:
    """Resident memory of this process, or its peak (`VmHWM`)."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


def against_reference(size: int, views: int) -> dict[str, float]:
    """Owners, coverage and resident memory of a world of about `size` patches that is read from its file.

    The file is written by another process, so that memory is that of opening and retrieving alone; it is taken before
    the reference begins, whose all pairs of a view take minutes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.mosaic"
        subprocess.run([sys.executable, __file__, "--sizes", str(size), "--write-world", str(path)], check=True)
        before = resident_mb()
        with WorldFile.open(path) as world:
            start = time.perf_counter()
            store = world.store
            opened = time.perf_counter() - start
            cameras = hall_cameras(views + 2, _length(len(store)))[1 : views + 1]
            fast = [retrieve(store, cameras[i], GRID) for i in range(views)]
            for mosaic in fast:  # what a model is fed
                for g in mosaic.picked[0]:
                    _ = store.group(g).keyframe.latents
            peak = resident_mb("VmHWM")
            slow = [retrieve_reference(store, cameras[i], GRID) for i in range(views)]
    pairs = list(zip(fast, slow, strict=True))
    return {
        "patches": store.num_patches,
        "open_s": opened,
        "resident_before_mb": before,
        "peak_resident_mb": peak,
        "same_owner": min(float((a.owner[0] == b.owner).double().mean()) for a, b in pairs),
        "same_source": min(float((a.source[0] == b.source).double().mean()) for a, b in pairs),
        "coverage": statistics.mean(float(a.coverage[0]) for a, _ in pairs),
        "coverage_difference": max(abs(float(a.coverage[0] - (b.source >= 0).double().mean())) for a, b in pairs),
    }


def write_world(size: int, path: Path) -> None:
    """The hall as a world file, its latents in 16 bits."""
    store, _, _ = build(size, Clock(1, wall=True), dtype=torch.float16)
    with WorldFile.create(path) as world:
        world.apply("build", {}, store)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--wall", action="store_true", help="wall time with threads in place of scheduled CPU time")
    parser.add_argument("--cold", action="store_true", help="sweep the caches before every call that is timed")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    parser.add_argument("--against-reference", type=int, metavar="SIZE", help="check a world file of so many patches")
    parser.add_argument("--views", type=int, default=3, help="views to check against the reference")
    parser.add_argument("--write-world", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.cores if args.wall else 1)
    torch.manual_seed(0)
    if args.write_world:
        write_world(args.sizes[0], args.write_world)
        return
    if args.against_reference:
        print(json.dumps(against_reference(args.against_reference, args.views), indent=1))
        return
    rows = {
        str(size): measure(size, args.repeats, Clock(args.cores, args.wall, args.cold)) for size in sorted(args.sizes)
    }
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent, check=False
    ).stdout.strip()
    machine = platform.processor() or platform.machine()
    print(f"{time.strftime('%Y-%m-%d')}  {machine}  {args.cores} cores  commit {commit or '-'}")
    names = list(next(iter(rows.values())))
    print("  ".join(f"{name:>20}" for name in names))
    for row in rows.values():
        print("  ".join(f"{row[name]:>20,.3f}" if row[name] % 1 else f"{row[name]:>20,.0f}" for name in names))


if __name__ == "__main__":
    main()
