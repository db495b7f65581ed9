"""Does a model do what it is told? In every case a held-out world could go one of two ways, such as the ball turning
red or blue; the prompt says which, and a probe on the frames tells which of the two happened.

The probe compares frames with the true renders of both events, where these differ. Its controls are printed beside: on
true frames it must always be right, and where nothing happens it can only guess. With --out it writes report.json,
run.json and cases.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mosaicmem.apps.cli.bench_options import ModelArgs, open_loader, rollout_of
from mosaicmem.apps.cli.console import Result, finite_or_null, table
from mosaicmem.apps.cli.pictures import Panel, Picture, sheet
from mosaicmem.apps.cli.session import Session
from mosaicmem.evaluation.prompt_benchmark import CaseResult, PromptConfig, run_prompts, summarize_prompts
from mosaicmem.io.files import write_image, write_json

EXAMPLE = "mosaicmem bench prompts --cases 8 --out bench_prompts"


@dataclass(kw_only=True)
class Args(ModelArgs):
    """Arguments of `bench prompts`."""

    cases: int = 64
    """Cases, each in a world of its own."""


def run(args: Args, session: Session) -> Result:
    """Ask, probe, write."""
    config = PromptConfig(args.cases, session.config.seed, rollout=rollout_of(session))
    load = open_loader(args, session)
    results: list[CaseResult] = []
    with session.console.progress("cases", args.cases) as tick, session.stage("cases"):
        for result in run_prompts(load, config, processes=args.processes):
            results.append(result)
            tick()
    report = summarize_prompts(results)
    if args.out is not None:
        title = f"[{session.backend}] {session.command}"
        with session.folder() as folder, session.stage("write"):
            write_json(folder / "report.json", finite_or_null({"label": session.label, **report}))
            write_image(folder / "cases.png", case_sheet(results, title))
    return Result(report, _text(report))


def case_sheet(results: Sequence[CaseResult], title: str, height: int = 128) -> Picture:
    """What was generated, and the truth of what was asked, of the other event, and of neither."""
    rows: list[tuple[str, Sequence[Panel]]] = []
    for result in results:
        if not result.pictures:
            continue
        asked, other = ("first", "second")[result.asked], ("second", "first")[result.asked]
        verdict = "right" if result.told == result.asked else "WRONG"
        texts = [("generated", "generated"), (asked, "truth: asked"), (other, "truth: other"), ("without", "neither")]
        label = f"{result.pair[result.asked]}\n(or {result.pair[1 - result.asked]})\n{verdict}"
        rows.append((label, [Panel(text, result.pictures[key]) for key, text in texts]))
    return sheet(rows, title, height)


def _text(report: dict[str, Any]) -> list[str]:
    cells: list[list[object]] = [
        [name, g["cases"], f"{100 * g['accuracy']:.1f} %", f"{100 * g['low']:.0f} to {100 * g['high']:.0f} %"]
        for name, g in report["groups"].items()
    ]
    return [
        *table(["event", "cases", "right", "95 %"], cells),
        f"mean margin {report['margin']:+.2f} (1: as the truth of what was asked, -1: as that of the other)",
        f"probe on true frames {100 * report['probe_on_truth']:.0f} % right, where nothing happens "
        f"{100 * report['probe_on_neither']:.0f} %",
    ]
