"""What memory and cameras cost a video transformer, beside what the device could do at best.

    python benchmarks/transformer.py                                     # the size that ships, on this processor
    python benchmarks/transformer.py --preset wan-5b --device cuda       # Wan 2.2 TI2V 5B: 480x832, 21 latents
    python benchmarks/transformer.py --preset wan-5b --device cuda --compile --json

One evaluation of a window with random weights: as it was published, with cameras in attention (PRoPE), and with memory
besides, for half and for all of the window's tokens. The limit is its floating point operations at the rate of a large
matrix product of the same type, measured in the same run; `stock` is the first row, to which the others are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch

from mosaicmem.geometry import se3
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.models.memory_batch import MemoryBatch
from mosaicmem.models.presets import WAN_2_1_T2V_1B, WAN_2_2_TI2V_5B
from mosaicmem.models.transformer import TransformerConfig, VideoTransformer
from mosaicmem.ops.prope import Layout, TokenCameras, make_cameras

PRESETS = {
    # sizes, the grid of a window, its latents, and tokens of text
    "shipped": (
        TransformerConfig(num_attention_heads=4, attention_head_dim=64, in_channels=24, out_channels=24),
        TokenGrid(128, 128, stride=8, patch=2), 5, 16,
    ),
    "wan-1b": (WAN_2_1_T2V_1B, TokenGrid(832, 480, stride=8, patch=2), 21, 512),
    "wan-5b": (WAN_2_2_TI2V_5B, TokenGrid(832, 480, stride=16, patch=2), 21, 512),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One evaluation. Times in milliseconds, memory in GB; the last three are None where nothing tells."""

    what: str
    tokens: int
    tflop: float
    time_ms: float
    limit_ms: float
    times_limit: float
    times_stock: float
    peak_gb: float | None


def flops(config: TransformerConfig, video: int, memory: int, text: int, *, cameras: bool) -> float:
    """Of one evaluation: products with weights, and attention."""
    d, both = config.dim, video + memory
    streams = 2 if cameras and config.prope_layout == "branch" else 1
    own = 2 * both * d * d * (3 + streams) + 4 * both**2 * d * streams
    read = 2 * d * d * (2 * video + 2 * text) + 4 * video * text * d
    return config.num_layers * (own + read + 4 * both * d * config.ffn_dim)


def window_cameras(latents: int, size: tuple[int, int], device: torch.device) -> TokenCameras:
    """Four cameras a latent, of a path that turns."""
    t = torch.arange(4 * latents, dtype=torch.float64)
    up = torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64).expand(len(t), 3)
    step = torch.stack([0.05 * t, 0 * t, 0.02 * t], -1)
    T = se3.make_transform(se3.axis_angle(up, 0.02 * t), step).view(1, latents, 4, 4, 4)
    K = torch.tensor([[0.8 * size[0], 0, size[0] / 2], [0, 0.8 * size[0], size[1] / 2], [0, 0, 1]])
    return make_cameras(T, K.expand(1, latents, 4, 3, 3), size).to(device)


def memory_tokens(config: TransformerConfig, grid: TokenGrid, latents: int, share: float, device: torch.device):
    """A share of every latent's tokens but the anchor's, in row order, half a token off."""
    m, n = grid.tokens
    each = round(share * m * n)
    cell = torch.arange(each)
    row = torch.arange(1, latents).repeat_interleave(each)[None]
    place = torch.stack([cell // n + 0.5, cell % n + 0.5], -1).repeat(latents - 1, 1)[None]
    positions = torch.cat([row[..., None].float(), place], -1)
    features = torch.randn(1, row.shape[1], config.in_channels * config.patch_size[1] ** 2)
    return MemoryBatch(features.to(device), positions.to(device), row.to(device))


class Clock:
    """Milliseconds of a call on a device, and the most memory that it needed there."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device, self.repeats = device, repeats
        self.card = device.type == "cuda"

    def __call__(self, run: Callable[[], object]) -> float:
        run()  # whatever is made on first use
        times = []
        for _ in range(self.repeats):
            self._wait()
            start = time.perf_counter()
            run()
            self._wait()
            times.append(1e3 * (time.perf_counter() - start))
        return statistics.median(times)

    def peak_gb(self) -> float | None:
        return torch.cuda.max_memory_allocated(self.device) / 2**30 if self.card else None

    def _wait(self) -> None:
        if self.card:
            torch.cuda.synchronize(self.device)


def product_rate(clock: Clock, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product of random numbers."""
    size = 8192 if clock.card else 1536
    a, b = torch.randn(2, size, size, device=clock.device, dtype=dtype)
    return 2 * size**3 / (clock(lambda: a @ b) / 1e3)


def build(config: TransformerConfig, device: torch.device, dtype: torch.dtype) -> VideoTransformer:
    """Random weights, made where they are needed; in 16 bits those that loaders keep in float32 stay so."""
    with torch.device(device):
        model = VideoTransformer(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if not any(part in name for part in ("time_embedder", "scale_shift_table", "norm2")):
            parameter.data = parameter.data.to(dtype)
    return model


def measure(args: argparse.Namespace) -> tuple[list[Row], dict[str, Any]]:
    device, dtype = torch.device(args.device), getattr(torch, args.dtype or default_dtype(args.device))
    config, grid, latents, text_tokens = PRESETS[args.preset]
    config, latents = replace(config, prope_layout=args.layout), args.latents or latents
    clock = Clock(device, args.repeats)
    rate = product_rate(clock, dtype)
    model = build(config, device, dtype)
    if args.compile:
        model.compile_blocks()
    video = latents * grid.tokens[0] * grid.tokens[1]
    x = torch.randn(1, config.in_channels, latents, *grid.cells, device=device, dtype=dtype)
    times = torch.full((1, latents), 700.0, device=device)
    times[:, 0] = 0  # the anchor is clean
    text = torch.randn(1, text_tokens, config.text_dim, device=device, dtype=dtype)
    cameras = window_cameras(latents, (grid.width, grid.height), device)
    rows: list[Row] = []
    for what, share, seen in (
        ("stock", 0, False),
        ("cameras", 0, True),
        ("memory, half", 0.5, True),
        ("memory", 1, True),
    ):
        memory = memory_tokens(config, grid, latents, share, device) if share else None
        kept = 0 if memory is None else len(memory)
        if clock.card:
            torch.cuda.reset_peak_memory_stats(device)

        @torch.inference_mode()
        def run(memory: MemoryBatch | None = memory, seen: bool = seen) -> torch.Tensor:
            return model(x, times, text, memory=memory, cameras=cameras if seen else None)

        took, work = clock(run), flops(config, video, kept, text_tokens, cameras=seen)
        limit = work / rate * 1e3
        stock = rows[0].time_ms if rows else took
        rows.append(
            Row(what, video + kept, work / 1e12, took, limit, took / limit, took / stock, clock.peak_gb())
        )  # fmt: skip
    where = torch.cuda.get_device_name(device) if clock.card else "cpu"
    return rows, {
        "preset": args.preset, "device": where, "dtype": str(dtype).removeprefix("torch."), "layout": args.layout,
        "compiled": args.compile, "parameters": sum(p.numel() for p in model.parameters()),
        "product_tflops": rate / 1e12, "torch": torch.__version__,
    }  # fmt: skip


def default_dtype(device: str) -> str:
    """16 bits where they are faster."""
    return "float32" if device == "cpu" else "bfloat16"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="shipped")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="default: float32 on a processor, else bfloat16"
    )
    parser.add_argument("--layout", choices=Layout.__args__, default="fused", help="which channels carry cameras")
    parser.add_argument("--latents", type=int, help="in the window (default: the preset's)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="compile the blocks; the first evaluation takes minutes")
    parser.add_argument("--json", action="store_true", help="one JSON document instead of a table")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, about = measure(args)
    if args.json:
        json.dump({**about, "rows": [asdict(row) for row in rows]}, sys.stdout, indent=1)
        print()
        return
    print("  ".join(f"{name} {value}" for name, value in about.items()) + "\n")
    print(f"{'':14} {'tokens':>7} {'TFLOP':>8} {'ms':>9} {'limit ms':>9} {'x limit':>8} {'x stock':>8} {'peak GB':>8}")
    for r in rows:
        peak = "" if r.peak_gb is None else f"{r.peak_gb:.1f}"
        print(
            f"{r.what:14} {r.tokens:7} {r.tflop:8.3f} {r.time_ms:9.1f} {r.limit_ms:9.1f} {r.times_limit:8.2f} "
            f"{r.times_stock:8.2f} {peak:>8}"
        )


if __name__ == "__main__":
    main()
