"""The training loop of every network: exact resume, running mean of weights, a log and curves.

A run that is killed and started again goes on as if nothing had happened: batches and random numbers are functions of
the step, and the checkpoint holds everything else.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from mosaicmem.errors import ConfigError, MosaicMemError, refuse
from mosaicmem.io.files import write_image, write_text
from mosaicmem.training.ahead import batches, check_workers
from mosaicmem.training.checkpoint import load_checkpoint, provenance, save_checkpoint
from mosaicmem.training.curves import draw_curves
from mosaicmem.training.distributed import (
    any_rank,
    average_gradients,
    join,
    on_device,
    own_device,
    same_weights,
    sixteen_bits,
)
from mosaicmem.training.task import Task

MAX_BAD_STEPS = 5
FILES = ("checkpoint.safetensors", "log.jsonl", "curves.png", "picture.png")
"""What a training writes into its folder."""


class TrainingFailed(MosaicMemError):
    """The loss is no number any more. The last good checkpoint is kept."""


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    Attributes:
        steps: In all, counted from the first.
        minutes: Stop and save after so many, whatever the step; None: only `steps` counts.
        optimizer: `adamw`, or `muon` for matrices with AdamW for the rest (Jordan et al. 2024): fewer steps, each
            a little dearer.
        lr: At its highest; equal for both, since Muon's updates are brought to AdamW's size.
        weight_decay, clip: As usual; clip is the largest gradient norm.
        warmup: Steps.
        decay: Share of the steps, at their end, in which the rate falls to 0; 1 is a half cosine over all.
        ema: Of the weights' running mean; shorter in the beginning.
        precision: `bfloat16` multiplies matrices in 16 bits (weights and sums stay in 32): twice as fast on processors
            that can (avx512_bf16, amx), five times slower on others; `auto` asks the processor.
        seed: Of initial weights and of what is random in a loss.
        checkpoint_minutes: Between two checkpoints.
        evaluate_every, log_every: Steps.
        workers: Processes of every rank that make batches ahead; 0 makes each when it is needed. They change no batch.
    """

    steps: int = 10_000
    minutes: float | None = None
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    clip: float = 1.0
    warmup: int = 100
    decay: float = 1.0
    ema: float = 0.999
    precision: Literal["float32", "bfloat16", "auto"] = "float32"
    seed: int = 0
    checkpoint_minutes: float = 4.0
    evaluate_every: int = 500
    log_every: int = 10
    workers: int = 0

    def __post_init__(self) -> None:
        least = {"steps": 1, "evaluate_every": 1, "log_every": 1, "warmup": 0, "seed": 0, "weight_decay": 0}
        least |= {"workers": 0, "checkpoint_minutes": 0} | ({} if self.minutes is None else {"minutes": 0})
        told = {name: getattr(self, name) for name in (*least, "lr", "clip")}
        refuse(
            *((not told[name] >= low, f"{name} = {told[name]}: expected {low} or more") for name, low in least.items()),
            *((not told[name] > 0, f"{name} = {told[name]}: expected above 0") for name in ("lr", "clip")),
            (not 0 < self.decay <= 1, f"decay = {self.decay}: expected above 0, up to 1"),
            (not 0 <= self.ema < 1, f"ema = {self.ema}: expected 0 up to, not including, 1"),
        )
        if self.precision not in ("float32", "bfloat16", "auto"):
            raise ConfigError(f"precision = {self.precision!r}; expected float32, bfloat16 or auto")
        if self.optimizer not in ("adamw", "muon"):
            raise ConfigError(f"optimizer = {self.optimizer!r}; expected adamw or muon")

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        warm = min(1.0, (step + 1) / max(1, self.warmup))
        start = self.steps * (1 - self.decay)
        fall = min(1.0, max(0.0, (step - start) / max(1.0, self.steps - start)))
        return self.lr * warm * (0.5 + 0.5 * math.cos(math.pi * fall))


@dataclass(frozen=True)
class Progress:
    """One logged step, for whoever shows it."""

    step: int
    steps: int
    loss: float
    rate: float
    seconds: float
    metrics: dict[str, float]


def fit(
    task: Task, config: TrainConfig, folder: Path, *, on_step: Callable[[Progress], None] | None = None,
    device: str = "cpu", anew: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Train until the steps or the minutes are over, or a signal asks to stop; goes on from the folder's checkpoint.

    Writes `FILES` there.

    Args:
        on_step: Told of every line of the log.
        device: Where to compute; `cuda` is the rank's own card. A run may go on on another one, to rounding.
        anew: Begin in place of what the folder holds, which is deleted when nothing can be refused any more.

    Returns:
        The header of the last checkpoint: step, samples' settings, provenance.

    Raises:
        ConfigError: if the folder holds a training with other settings.
        TrainingFailed: after several steps in a row without a finite loss.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with join() as (rank, world), _asked_to_stop() as stop:
        run = _Run(task, config, folder, rank, world, on_step, own_device(device))
        run.start(anew)
        run.train(stop)
        return run.header()


class _Run:
    def __init__(
        self, task: Task, config: TrainConfig, folder: Path, rank: int, world: int,
        on_step: Callable[[Progress], None] | None, device: torch.device,
    ) -> None:  # fmt: skip
        batch = int(task.config().get("settings", {}).get("batch", world))
        if batch % world:
            raise ConfigError(f"a batch of {batch} cannot be shared by {world} ranks; give a multiple of {world}")
        check_workers(task, config.workers)
        self.task, self.config, self.folder, self.rank, self.world = task, config, folder, rank, world
        self.module, self.on_step, self.device = task.module.to(device), on_step, device
        self.half = sixteen_bits(config.precision, device)
        self.optimizers = _optimizers(self.module, config)
        self.ema = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
        self.step, self.seconds, self.bad, self.judged = 0, 0.0, 0, -1
        self.checkpoint = folder / "checkpoint.safetensors"

    def header(self) -> dict[str, Any]:
        """What a checkpoint says of itself."""
        about = {"task": self.task.config(), "loop": asdict(self.config), "provenance": provenance()}
        return about | {"step": self.step, "seconds": self.seconds}

    def start(self, anew: bool) -> None:
        """Go on from the checkpoint, or begin."""
        if anew and not self.rank:
            for name in FILES:
                (self.folder / name).unlink(missing_ok=True)
        if self.checkpoint.is_file() and not anew:
            defaults = asdict(TrainConfig())
            found = load_checkpoint(self.checkpoint, self.module, self.ema, self.optimizers, self.header(), defaults)
            self.step, self.seconds = int(found["step"]), float(found["seconds"])
        if not self.rank:  # of a run that died before its first checkpoint nothing is kept
            _cut_log(self.folder / "log.jsonl", self.step)
        same_weights(self.module, self.world)

    def train(self, stop: Callable[[], bool]) -> None:
        """Steps until the end."""
        began = saved = time.monotonic()
        before = self.seconds
        late = False
        steps = range(self.step, self.config.steps)
        ahead = batches(self.task, steps, self.rank, self.world, workers=self.config.workers)
        while self.step < self.config.steps and not any_rank(late or stop(), self.world):
            loss, metrics = self._one_step(ahead)
            now = time.monotonic()
            self.seconds = before + now - began
            if self.step % self.config.log_every == 0 or self.step == 1:
                self._log({"loss": loss, "rate": self.config.rate(self.step - 1), **metrics})
            if self.step % self.config.evaluate_every == 0:
                self._evaluate()
            if now - saved > 60 * self.config.checkpoint_minutes:
                self._save()
                saved = now
            late = self.config.minutes is not None and now - began > 60 * self.config.minutes
        self._evaluate()
        self._save()

    def _one_step(self, ahead: Iterator[Any]) -> tuple[float, dict[str, float]]:
        config = self.config
        torch.manual_seed(((config.seed * 1_000_003 + self.step) * 64 + self.rank) % 2**64)
        batch = on_device(next(ahead), self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss, metrics = self.task.loss(self.module, batch)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(self.module, self.world)
        norm = nn.utils.clip_grad_norm_(self.module.parameters(), config.clip)
        value = float(loss.detach())
        finite = math.isfinite(value) and math.isfinite(float(norm))
        self.bad = self.bad + 1 if any_rank(not finite, self.world) else 0
        if self.bad > MAX_BAD_STEPS:
            raise TrainingFailed(
                f"no finite loss since step {self.step - self.bad + 1}; try a lower rate than {config.lr}"
            )
        if not self.bad:
            for optimizer in self.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = config.rate(self.step)
                optimizer.step()
            self._average()
        self.step += 1
        return value, {**metrics, "gradient": float(norm)}

    @torch.no_grad()
    def _average(self) -> None:
        keep = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for name, value in self.module.state_dict().items():
            mean = self.ema[name]
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)
            else:
                mean.copy_(value)

    @contextmanager
    def _averaged(self) -> Iterator[nn.Module]:
        """The module with the running mean of its weights, for a while."""
        mine = {k: v.clone() for k, v in self.module.state_dict().items()}
        self.module.load_state_dict(self.ema)
        self.module.eval()
        try:
            yield self.module
        finally:
            self.module.load_state_dict(mine)
            self.module.train()

    def _evaluate(self) -> None:
        if self.rank or self.judged == self.step:
            return
        self.judged = self.step
        with self._averaged() as module:
            self._log(self.task.evaluate(module))
            sheet = self.task.picture(module)
        if sheet is not None:
            write_image(self.folder / "picture.png", sheet, overwrite=True)
        draw_curves(self.folder / "log.jsonl", self.folder / "curves.png")

    def _save(self) -> None:
        if not self.rank:
            save_checkpoint(self.checkpoint, self.module, self.ema, self.optimizers, self.header())

    def _log(self, numbers: dict[str, float]) -> None:
        if self.rank:
            return
        line = {
            "step": self.step,
            "seconds": round(self.seconds, 2),
            **{k: float(f"{v:.6g}") for k, v in numbers.items()},
        }
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self.on_step:
            loss, rate = numbers.get("loss", math.nan), numbers.get("rate", math.nan)
            self.on_step(Progress(self.step, self.config.steps, loss, rate, self.seconds, numbers))


def _optimizers(module: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """AdamW; or Muon for the matrices inside blocks and AdamW for everything else."""
    named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    inner = [
        p for n, p in named if config.optimizer == "muon" and p.ndim == 2 and ".blocks." in f".{n}" and min(p.shape) > 8
    ]
    chosen = {id(p) for p in inner}
    plain = [p for _, p in named if id(p) not in chosen and p.ndim < 2]
    decayed = [p for _, p in named if id(p) not in chosen and p.ndim >= 2]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    out: list[torch.optim.Optimizer] = [
        torch.optim.AdamW([g for g in groups if g["params"]], lr=config.lr, betas=(0.9, 0.99))
    ]
    if inner:
        if not hasattr(torch.optim, "Muon"):
            raise ConfigError(f"optimizer = 'muon' needs torch 2.9 or newer, this is {torch.__version__}; take adamw")
        muon = torch.optim.Muon(
            inner, lr=config.lr, weight_decay=config.weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        )
        out.append(muon)
    return out


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT or SIGTERM has come: the step is finished and saved first. A second one ends at once."""
    asked: list[int] = []

    def note(number: int, _: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are not ours
        before = {}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _cut_log(path: Path, step: int) -> None:
    """Forget what was logged after the checkpoint: it will be logged again."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (json.JSONDecodeError, KeyError):
            continue  # a line that a kill cut short
    write_text(path, "".join(f"{line}\n" for line in kept), overwrite=True)
