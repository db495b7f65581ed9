"""What `train vae`, `train depth` and `train world` share: the folder of a run, its seed, a live line of numbers."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from tyro.conf import arg

from mosaicmem.apps.cli.console import Console, Result
from mosaicmem.apps.cli.options import Common
from mosaicmem.apps.cli.output import RUN_FILE, run_record, write_run
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.settings import to_dict
from mosaicmem.errors import ConfigError, OutputExistsError
from mosaicmem.training.checkpoint import start_from
from mosaicmem.training.loop import FILES, Progress, TrainConfig, fit
from mosaicmem.training.task import Task

WRITTEN = (*FILES, RUN_FILE)
"""Files of a run's folder."""
T = TypeVar("T")


@dataclass(kw_only=True)
class FitArgs(Common):
    """Options of every training; the same ones below `loop` say it too, and these win."""

    steps: Annotated[int | None, arg(help_behavior_hint="")] = None
    """Steps in all, counted from the first."""
    minutes: Annotated[float | None, arg(help_behavior_hint="")] = None
    """Stop and save after so many minutes; the same command goes on later."""
    optimizer: Annotated[Literal["adamw", "muon"] | None, arg(help_behavior_hint="")] = None
    """AdamW, or Muon for the matrices inside blocks."""
    lr: Annotated[float | None, arg(help_behavior_hint="")] = None
    """Learning rate at its highest."""
    start_from: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(default: random weights)")] = None
    """Begin with these weights: another run's folder, or exported ones such as those that ship."""
    device: str = "cpu"
    """Where to compute: cpu, cuda, cuda:1 ...; with torchrun each rank takes its own card."""


def loop_of(args: FitArgs, loop: TrainConfig, seed: int) -> TrainConfig:
    """The settings of the loop, with the options of the command line and its seed."""
    given = {k: getattr(args, k) for k in ("steps", "minutes", "optimizer", "lr")}
    return replace(seeded(loop, seed), **{k: v for k, v in given.items() if v is not None})


def seeded(settings: T, seed: int) -> T:
    """Settings with the seed of the command line.

    Raises:
        ConfigError: if a settings file gives them another one.
    """
    if getattr(settings, "seed") not in (0, seed):  # noqa: B009 - T is any dataclass with a seed
        raise ConfigError("a training has one seed: give --seed, or `seed` at the top of the settings file")
    return replace(settings, seed=seed)  # pyright: ignore[reportArgumentType]


def run_fit(args: FitArgs, session: Session, make: Callable[[], Task], config: TrainConfig) -> Result:
    """Train in `--out`, going on from what is there."""
    rank = int(os.environ.get("RANK", "0"))
    if rank:  # one document on stdout, one bar on stderr: those of rank 0
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
        session.console = replace(session.console, quiet=True)
    folder = _folder(args, session)
    with session.stage("open"):
        task = make()
        if args.start_from is not None:  # a checkpoint in --out wins: the run goes on
            start_from(args.start_from, task.module)
    count = sum(p.numel() for p in task.module.parameters())
    session.backend, session.note = "training", f"{task.name}, {count:,} parameters"
    session.wrote = folder
    batch = int(task.config()["settings"]["batch"])
    with session.stage("train"), bar(session.console, task.name, config, batch) as on_step:
        header = fit(task, config, folder, on_step=on_step, device=args.device, anew=args.overwrite)
    step, numbers = int(header["step"]), last_numbers(folder / "log.jsonl")
    data: dict[str, Any] = {
        "task": task.name, "parameters": count, "step": step, "steps": config.steps, "finished": step >= config.steps,
        "seconds": header["seconds"], "last": numbers,
    }  # fmt: skip
    if not rank:
        record = run_record(
            command=session.command, argv=session.argv, config=to_dict(session.config), seed=session.config.seed,
            backend=session.label, timings=session.timings,
        )  # fmt: skip
        write_run(folder, record)
    end = "finished" if step >= config.steps else "stopped; the same command goes on"
    shown = ", ".join(f"{k} {v:.4g}" for k, v in numbers.items())
    return Result(data, [f"step {step} of {config.steps} after {header['seconds']:.0f} s, {end}", shown])


def last_numbers(log: Path) -> dict[str, float]:
    """The newest value of every number of a log."""
    found: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else []:
        found |= {k: v for k, v in json.loads(line).items() if k not in ("step", "seconds")}
    return found


@contextmanager
def bar(console: Console, name: str, config: TrainConfig, batch: int) -> Iterator[Callable[[Progress], None]]:
    """A live bar with loss, samples a second, time left and held-out numbers; lines where stderr is no terminal."""
    held: dict[str, float] = {}
    loss, began = math.nan, time.monotonic()
    first: list[Progress] = []

    def words(progress: Progress) -> str:
        nonlocal loss
        loss = loss if math.isnan(progress.loss) else progress.loss
        held.update({k: v for k, v in progress.metrics.items() if k.startswith("held_out")})
        first[:] = first or [progress]
        steps, seconds = progress.step - first[0].step, progress.seconds - first[0].seconds
        rate = batch * steps / seconds if steps and seconds > 0 else math.nan
        left = batch * (config.steps - progress.step) / rate
        if config.minutes is not None:
            left = min(left, 60 * config.minutes - (time.monotonic() - began))
        numbers = [f"loss {loss:.4g}", f"{rate:.3g} samples/s", f"{_clock(left)} left"]
        return "  ".join([*numbers, *(f"{k.removeprefix('held_out_')} {v:.4g}" for k, v in held.items())])

    if console.quiet or not sys.stderr.isatty():

        def line(progress: Progress) -> None:
            told = words(progress)
            if math.isnan(progress.loss):  # after an evaluation
                console.note(f"{name} {progress.step}/{config.steps}  {told}")

        yield line
        return
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with RichProgress(*columns, console=RichConsole(stderr=True), transient=True) as shown:
        task = shown.add_task("starting", total=config.steps)
        yield lambda progress: shown.update(task, completed=progress.step, description=words(progress))


def _folder(args: FitArgs, session: Session) -> Path:
    """The folder of the run: new, or one of ours."""
    if args.out is None:
        raise ConfigError(f"{session.command} needs --out PATH: where should checkpoint, log and curves go?")
    if args.out.exists() and not args.out.is_dir():
        raise OutputExistsError(f"{args.out} is a file; expected a folder to train in. Choose another --out")
    foreign = args.out.is_dir() and any(args.out.iterdir()) and not any((args.out / name).is_file() for name in WRITTEN)
    if foreign:
        raise OutputExistsError(f"{args.out} holds files but no training; choose another --out")
    return args.out


def _clock(seconds: float) -> str:
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
