"""What the shipped autoencoder and depth network are worth on held-out worlds, and how fast they are.

    python benchmarks/networks.py [--worlds 64] [--model FOLDER] [--json]

PSNR is the mean over frames of a world, then over worlds; depth errors are relative, over pixels that have a depth.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from mosaicmem.evaluation.bootstrap import mean_interval
from mosaicmem.evaluation.metrics import psnr
from mosaicmem.models.checkpoint import load_depth, load_vae
from mosaicmem.models.presets import shipped, weights_file
from mosaicmem.worlds.episodes import HELD_OUT, make_episode

FRAMES = 17  # of the path's beginning, for the autoencoder
DEPTH_EVERY = 12  # frames of the whole path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=64)
    parser.add_argument("--model", type=Path, help="folder with vae.safetensors and depth.safetensors")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    where = (lambda part: weights_file(args.model, part)) if args.model else shipped
    vae, depth = load_vae(where("vae")), load_depth(where("depth"))
    rows: dict[str, list[float]] = {"first_frames_db": [], "group_frames_db": [], "depth_error": [], "sky_right": []}
    for seed in HELD_OUT[: args.worlds]:
        episode = make_episode(seed)
        shown = episode.film(slice(0, FRAMES))
        coded = vae.decode_video(vae.encode_video(shown.rgb.transpose(0, 1)[None]))[0].transpose(0, 1)
        values = psnr(coded, shown.rgb)
        rows["first_frames_db"].append(float(values[0]))
        rows["group_frames_db"].append(float(values[1:].mean()))
        there = slice(0, None, DEPTH_EVERY)
        shown = episode.film(there)
        found = depth.estimate(shown.rgb, episode.cameras[list(range(len(episode)))[there]]).depth
        known = shown.depth > 0
        both = known & (found > 0)
        rows["depth_error"].append(float(((found - shown.depth).abs() / shown.depth)[both].mean()))
        rows["sky_right"].append(float(((found > 0) == known).double().mean()))
    report = {name: mean_interval(torch.tensor(values, dtype=torch.float64)) for name, values in rows.items()}
    latents = vae.encode_video(torch.zeros(1, 3, 97, 128, 128))
    speeds = []
    for _ in range(5):
        start = time.perf_counter()
        vae.decode_video(latents)
        speeds.append(97 / (time.perf_counter() - start))
    speed = sorted(speeds)[2]
    if args.json:
        means = {name: interval.mean for name, interval in report.items()}
        print(json.dumps({"worlds": args.worlds, **means, "decoded_frames_per_second": speed}))
        return
    print(f"{args.worlds} held-out worlds, mean and 95 % interval over worlds")
    for name, interval in report.items():
        print(f"{name.replace('_', ' '):18} {interval}")
    print(f"decoding           {speed:.0f} frames/s at 128x128, one thread")


if __name__ == "__main__":
    main()
