"""The memory benchmark in a process of its own, so that the interface stays quick and can stop it: lines of JSON.

`python -m mosaicmem.apps.tui.bench_worker MODEL WORLDS DEVICE` prints `{"world", "of", "psnr"}` after every world, then
`{"lines"}`, the table that `mosaicmem bench memory` prints; or `{"error"}`.
"""

from __future__ import annotations

import json
import sys

from mosaicmem.apps.cli.bench_memory import Args, text_of
from mosaicmem.apps.cli.bench_options import open_loader, rollout_of
from mosaicmem.apps.cli.config import Config
from mosaicmem.apps.cli.console import Console
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import MosaicMemError
from mosaicmem.evaluation.memory_benchmark import BenchmarkConfig, run_benchmark, summarize
from mosaicmem.evaluation.rows import TITLES

ROWS = ("full", "cameras_only", "copy_last")


def main(model: str, worlds: int, device: str) -> int:
    """Run it and report."""
    say = lambda **line: print(json.dumps(line), flush=True)  # noqa: E731, T201
    args = Args(model=model, worlds=worlds, rows=",".join(ROWS), processes=1, device=device)
    session = Session("bench memory", [], args, Config(device=device), Console(quiet=True))
    try:
        config = BenchmarkConfig(worlds, ROWS, session.config.seed, pictured=0, rollout=rollout_of(session))
        results = []
        for result in run_benchmark(open_loader(args, session), config):
            results.append(result)
            scores = {TITLES[row]: round(found.values["psnr"], 2) for row, found in result.rows.items()}
            say(world=len(results), of=worlds, psnr=scores)
        report = summarize(results, config)
        first = results[0].seed
        protocol = {"worlds": worlds, "seeds": [first, first + worlds - 1]}
        say(lines=text_of({"protocol": protocol, **report}))
    except MosaicMemError as error:
        say(error=str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
