"""How much of what memory could show it shows, and how much of that is wrong: 100 procedural scenes, exact depth.

python benchmarks/memory_quality.py            # four distances from the remembered poses
python benchmarks/memory_quality.py --scenes 20 --json
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch

from mosaicmem.evaluation.oracle import OracleCounts, judge
from mosaicmem.evaluation.oracle_scenes import oracle_case
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import retrieve

GRID = TokenGrid(320, 256, stride=8, patch=2)
DISTANCES = {
    "same pose": (0.0, 0.0),
    "0.3 m, 17 deg": (0.3, 17.0),
    "0.6 m, 17 deg": (0.6, 17.0),
    "1 m, 30 deg": (1.0, 30.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--keyframes", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for name, (step, turn) in DISTANCES.items():
        total = OracleCounts()
        for seed in range(args.scenes):
            case = oracle_case(seed, GRID, keyframes=args.keyframes, views=1, step=step, turn=turn)
            total += judge(case.scene, case.store, retrieve(case.store, case.views, GRID))
        rows[name] = {
            "recall": total.recall,
            "wrong": total.wrong_share,
            "visible_share": total.visible / total.cells,
            "cells": total.cells,
        }
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{args.scenes} scenes, {args.keyframes} keyframes, one view each, {GRID.width}x{GRID.height}, 8-pixel cells")
    print(f"{'distance':>16} {'read back':>10} {'wrong':>8} {'visible':>8}")
    for name, row in rows.items():
        print(f"{name:>16} {row['recall']:>10.2%} {row['wrong']:>8.2%} {row['visible_share']:>8.2%}")


if __name__ == "__main__":
    main()
