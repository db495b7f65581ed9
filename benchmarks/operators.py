"""Every operator at the size of a real window, beside what this machine could do at best and beside its slow twin.

    python benchmarks/operators.py
    python benchmarks/operators.py --latents 8 --json

The limit is the larger of two measured in the same run: floating point operations at the rate of a large matrix
product, and bytes that must be read and written once at the rate of a copy. The twin runs on a small problem, so its
speed-up is against the fast operator on that same problem. Medians on one thread, float32 (twins: float64).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from torch import Tensor

from mosaicmem.geometry import se3
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.ops import reference
from mosaicmem.ops.prope import TokenCameras, camera_map, make_cameras, prope_attention
from mosaicmem.ops.rope import apply_rope, rope_cos_sin
from mosaicmem.ops.warped_latent import gather_cells
from mosaicmem.ops.warped_rope import land, select_patches

GRID = TokenGrid(832, 480, stride=16, patch=2)
SMALL = TokenGrid(128, 96, stride=16, patch=2)


@dataclass(frozen=True)
class Row:
    """One operator. Times in milliseconds."""

    operator: str
    size: str
    time_ms: float
    limit_ms: float
    bound_by: str
    times_limit: float
    twin_ms: float
    times_faster_than_twin: float


@dataclass(frozen=True)
class Work:
    """A call, and the least that it must do."""

    call: Callable[[], Any]
    size: str
    flops: float
    moved_bytes: float


def median_ms(call: Callable[[], Any], seconds: float = 1.0) -> float:
    call()
    times, end = [], time.perf_counter() + seconds
    while len(times) < 3 or (time.perf_counter() < end and len(times) < 50):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def machine() -> tuple[float, float]:
    """Measured FLOP/s of a matrix product and bytes/s of a copy (read plus write), one thread, float32."""
    a, b = torch.randn(2, 1536, 1536)
    source, target = torch.randn(2, 2**25)
    flops = 2 * 1536**3 / (median_ms(lambda: a @ b) / 1e3)
    return flops, 2 * source.numel() * 4 / (median_ms(lambda: target.copy_(source)) / 1e3)


def cameras_of(latents: int, per_latent: int, dtype: torch.dtype) -> TokenCameras:
    gen = torch.Generator().manual_seed(0)
    axis, t = torch.randn(2, 1, latents, 4, 3, generator=gen, dtype=torch.float64)
    T = se3.make_transform(se3.axis_angle(axis, torch.full((1, latents, 4), 0.2, dtype=torch.float64)), t)
    K = torch.tensor([[700.0, 0, 416], [0, 700, 240], [0, 0, 1]]).expand(1, latents, 4, 3, 3)
    row = torch.arange(latents).repeat_interleave(per_latent)[None]
    return make_cameras(T, K, (832, 480), row=row, dtype=dtype)


def attention_problem(latents: int, per_latent: int, heads: int, d: int, dtype: torch.dtype):
    L = latents * per_latent
    gen = torch.Generator().manual_seed(1)
    # As a projection leaves them: heads behind tokens.
    q, k, v = (torch.randn(1, L, heads, d, generator=gen, dtype=dtype).transpose(1, 2) for _ in range(3))
    pos = torch.rand(1, L, 3, generator=gen, dtype=dtype) * 30
    return q, k, v, pos, cameras_of(latents, per_latent, dtype)


def attention_works(latents: int, per_latent: int, heads: int, d: int, dtype: torch.dtype) -> dict[str, Work]:
    q, k, v, pos, cameras = attention_problem(latents, per_latent, heads, d, dtype)
    rope = rope_cos_sin(pos, d)
    L, size, x = pos.shape[1], f"{pos.shape[1]} x {heads} x {d}", q.numel() * q.element_size()
    options: dict[str, Any] = {"layout": "fused"}

    def attend() -> Tensor:
        return prope_attention(q, k, v, cameras, cameras, rope, rope, **options)

    return {
        "rope_cos_sin": Work(lambda: rope_cos_sin(pos, d), f"{L} x {d}", 0, L * (12 + 4 * d)),
        "apply_rope": Work(lambda: apply_rope(q, *rope), size, 3.0 * q.numel(), 2 * x),
        "camera_map": Work(lambda: camera_map(q, cameras, cameras.Pinv, "fused"), size, 8.0 * q.numel(), 2 * x),
        "prope_attention": Work(attend, size, 4.0 * L * L * heads * d, 4 * x),
    }


def warp_works(grid: TokenGrid, latents: int, sources: int, dtype: torch.dtype, channels: int = 48) -> dict[str, Work]:
    problem = warp_problem(grid, latents, sources, channels, dtype)
    uv, depth, K, T = problem["uv"], problem["depth"], problem["K"], problem["T"]
    size, b = f"{latents} views of {grid.cells[1]} x {grid.cells[0]}", uv.element_size()
    points, cells = uv.shape[0] * uv.shape[1], problem["source"].numel()
    stored = problem["latents"].numel()
    return {
        "land": Work(
            lambda: land(uv, depth, K_src=K, K_tgt=K, tgt_from_src=T, grid=grid, z_near=0.04),
            f"{points} points",
            40.0 * points,
            points * (8 * b + 1),
        ),
        "select_patches": Work(
            lambda: select_patches(*problem["chosen"], **problem["cameras"]),
            size,
            0,
            cells * (3 * b + 1) + problem["owner"].numel() * (8 + 25 + 4 * b),
        ),
        "gather_cells": Work(
            lambda: gather_cells(*problem["gather"]),
            size,
            8.0 * cells * channels,
            stored * b + cells * (channels * b + 4 * b + 8),
        ),
    }


def warp_problem(grid: TokenGrid, latents: int, sources: int, channels: int, dtype: torch.dtype) -> dict[str, Any]:
    gen = torch.Generator().manual_seed(2)
    (h, w), (m, n) = grid.cells, grid.tokens
    K = torch.tensor([[700.0, 0, grid.width / 2], [0, 700, grid.height / 2], [0, 0, 1]], dtype=dtype)
    T = se3.translation(torch.randn(latents, sources, 3, generator=gen, dtype=torch.float64) * 0.1).to(dtype)
    uv = grid.cell_centers(dtype).expand(latents, h, w, 2) + 20 * torch.randn(
        latents, 1, 1, 2, generator=gen, dtype=dtype
    )
    z = torch.full((latents, h, w), 4.0, dtype=dtype)
    owner = torch.randint(0, sources, (latents, m, n), generator=gen)
    source = owner.repeat_interleave(grid.patch, 1).repeat_interleave(grid.patch, 2)
    stored = torch.randn(sources, channels, h, w, generator=gen, dtype=dtype)
    depth, valid = torch.full((sources, h, w), 4.0, dtype=dtype), torch.ones(sources, h, w, dtype=torch.bool)
    token_depth = torch.full((sources, m, n), 4.0, dtype=dtype)
    cameras = {"K_src": K.expand(sources, 3, 3), "K_tgt": K.expand(latents, 3, 3), "tgt_from_src": T}
    return {
        "uv": uv.flatten(1, 2),
        "depth": z.flatten(1),
        "K": K.expand(latents, 3, 3),
        "T": T[:, 0],
        "owner": owner,
        "source": source,
        "latents": stored,
        "chosen": (owner, torch.ones_like(z, dtype=torch.bool), uv, z, token_depth),
        "cameras": cameras | {"grid": grid, "source_grid": grid, "z_near": 0.04},
        "gather": (stored, depth, valid, source, grid.pixels_to_cells(uv), z),
    }


def twins(latents: int, per_latent: int, heads: int, d: int) -> dict[str, Callable[[], Any]]:
    """The twin of each operator, on the problem that the small works have."""
    q, k, v, pos, cameras = attention_problem(latents, per_latent, heads, d, torch.float64)
    P = cameras.P[:, cameras.row[0]]
    warp = warp_problem(SMALL, 1, 2, 48, torch.float64)
    points = list(zip(warp["uv"][0], warp["depth"][0].tolist(), strict=True))
    gather = [x.flatten(0, 2) if i >= 3 else x for i, x in enumerate(warp["gather"])]

    def rope() -> list[Tensor]:
        return [reference.rope_matrix(p, d) for p in pos[0]]

    def mapped() -> list[Tensor]:
        matrices = [reference.camera_matrix(torch.linalg.inv(M), d, "fused") for M in P[0]]
        return [C @ q[0, h, i] for h in range(heads) for i, C in enumerate(matrices)]

    return {
        "rope_cos_sin": rope,
        "apply_rope": lambda: [R @ q[0, h, i] for h in range(heads) for i, R in enumerate(rope())],
        "camera_map": mapped,
        "prope_attention": lambda: reference.prope_attention(q, k, v, P, P, pos, pos, "fused"),
        "land": lambda: [reference.land(uv, z, warp["K"][0], warp["K"][0], warp["T"][0]) for uv, z in points],
        "select_patches": lambda: reference.select_patches(*warp["chosen"], **warp["cameras"]),
        "gather_cells": lambda: reference.gather_cells(*gather),
    }


def measure(latents: int, heads: int, d: int) -> tuple[list[Row], dict[str, float]]:
    flops, bandwidth = machine()
    m, n = GRID.tokens
    works = attention_works(latents, m * n, heads, d, torch.float32) | warp_works(GRID, latents, 8, torch.float32)
    small = attention_works(2, 4, 1, 32, torch.float64) | warp_works(SMALL, 1, 2, torch.float64)
    rows = []
    for name, twin in twins(2, 4, 1, 32).items():
        work = works[name]
        by_flops, by_bytes = work.flops / flops * 1e3, work.moved_bytes / bandwidth * 1e3
        took, limit, twin_ms = median_ms(work.call), max(by_flops, by_bytes), median_ms(twin, 0.3)
        bound = "compute" if by_flops > by_bytes else "memory"
        faster = twin_ms / median_ms(small[name].call, 0.3)
        rows.append(Row(name, work.size, took, limit, bound, took / limit, twin_ms, faster))
    return rows, {"matmul_gflops": flops / 1e9, "copy_gb_per_s": bandwidth / 1e9}


def commit() -> str:
    try:
        out = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return out.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=int, default=4, help="latents in the window, 390 tokens each")
    parser.add_argument("--heads", type=int, default=24)
    parser.add_argument("--head-dim", type=int, default=128)
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, rates = measure(args.latents, args.heads, args.head_dim)
    about = {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "torch": torch.__version__,
        "cpu": platform.machine(),
    }
    if args.json:
        print(json.dumps({**about, **rates, "rows": [asdict(row) for row in rows]}, indent=1))
        return
    print("  ".join(f"{k} {v}" for k, v in about.items()))
    print(f"matrix product {rates['matmul_gflops']:.0f} GFLOP/s, copy {rates['copy_gb_per_s']:.1f} GB/s, one thread\n")
    print(
        f"{'operator':16} {'size':22} {'ms':>9} {'limit ms':>9} {'by':>8} {'x limit':>8} {'twin ms':>9} {'x twin':>8}"
    )
    for r in rows:
        print(
            f"{r.operator:16} {r.size:22} {r.time_ms:9.2f} {r.limit_ms:9.2f} {r.bound_by:>8} {r.times_limit:8.1f} "
            f"{r.twin_ms:9.2f} {r.times_faster_than_twin:8.0f}"
        )


if __name__ == "__main__":
    main()
