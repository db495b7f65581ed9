"""The memory benchmark: does a generator know a place again? Held-out worlds, exact truth, rows compared pair by pair.

docs/evaluation.md says what is done and how to read the table. Everything but the seconds is a function of the weights
and `BenchmarkConfig`; the number of processes changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError, refuse
from mosaicmem.evaluation.bootstrap import Interval, mean_interval, paired_interval
from mosaicmem.evaluation.frechet import RandomFeatures, frechet_report
from mosaicmem.evaluation.judge import Scores, judge, unseen_features
from mosaicmem.evaluation.motion import MotionScore
from mosaicmem.evaluation.parallel import Loader, each_world
from mosaicmem.evaluation.pose import PoseFloor, pose_floor
from mosaicmem.evaluation.rows import ROWS, make_row, observed_state
from mosaicmem.evaluation.trials import Trial, TrialConfig, make_trial
from mosaicmem.generation.backend import Models
from mosaicmem.generation.rollout import RolloutConfig, to_u8

METRICS = {
    "psnr": True, "ssim": True, "perceptual": False,
    "rotation_degrees": False, "translation_units": False, "translation_metres": False,
    "unseen_psnr": True, "unseen_ssim": True, "unseen_perceptual": False,
}  # fmt: skip
"""Measures that are one number a world, and whether more is better."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """What is run.

    Attributes:
        worlds: Held-out worlds.
        rows: Some of `rows.ROWS`.
        seed: Of the noise, and of the trial motions that tell the pose estimator's own error.
        pose_frames: Frames a world and row whose pose is estimated.
        pictured: Worlds of which frames are kept for a picture.
        trial: Of each world.
        rollout: How frames are generated.
    """

    worlds: int = 64
    rows: tuple[str, ...] = ROWS
    seed: int = 0
    pose_frames: int = 4
    pictured: int = 6
    trial: TrialConfig = field(default_factory=TrialConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def __post_init__(self) -> None:
        unknown = [row for row in self.rows if row not in ROWS]
        refuse(
            (not 1 <= self.worlds <= 10_000, f"worlds = {self.worlds}: expected 1 to 10000"),
            (bool(unknown), f"unknown rows {', '.join(unknown)}; expected some of {', '.join(ROWS)}"),
            (not self.rows or len(set(self.rows)) < len(self.rows), "rows: expected at least one, each once"),
            (self.pose_frames < 1, f"pose_frames = {self.pose_frames}: expected at least 1"),
        )


@dataclass(frozen=True)
class WorldResult:
    """Everything found in one world.

    Attributes:
        index, seed, kind: Which.
        seen_share: Share of the pixels that had been seen.
        rows: Scores of each row.
        floor: The pose estimator's own error in this world.
        real: `[k 64]` features of the true crops of what was never seen.
        pictures: `(frame, title) -> [H W 3]`, empty for most worlds.
    """

    index: int
    seed: int
    kind: str
    seen_share: float
    rows: dict[str, Scores]
    floor: PoseFloor
    real: Float[Tensor, "k 64"]
    pictures: dict[tuple[int, str], NDArray[np.uint8]]


def run_benchmark(
    load: Loader, config: BenchmarkConfig | None = None, *, processes: int = 1
) -> Iterator[WorldResult]:  # fmt: skip
    """One world after the other, in order; hand them to `summarize`."""
    config = config or BenchmarkConfig()
    yield from each_world(partial(run_world, config=config), list(range(config.worlds)), load, processes)


def run_world(models: Models, index: int, config: BenchmarkConfig) -> WorldResult:
    """All rows of one held-out world."""
    trial = make_trial(index, config.trial)
    features = RandomFeatures()
    state = observed_state(models, trial, config.seed)
    rows: dict[str, Scores] = {}
    pictures: dict[tuple[int, str], NDArray[np.uint8]] = {}
    wanted = _moments(trial) if index < config.pictured else []
    for row in config.rows:
        how = replace(config.rollout, show_mosaic=row == "full" and bool(wanted))
        made = make_row(row, models, trial, state, how)
        rows[row] = judge(made.frames, trial, features, seconds=made.seconds, pose_frames=config.pose_frames)
        for i in wanted:
            pictures[i, row] = to_u8(made.frames[i : i + 1])[0]
            if made.mosaic:
                pictures[i, "mosaic"] = made.mosaic[min(made.mosaic, key=lambda frame: abs(frame - i))]
    for i in wanted:
        pictures[i, "truth"] = to_u8(trial.truth.rgb[i : i + 1])[0]
    places = [int(i) for i in np.linspace(0, len(trial) - 1, config.pose_frames).round()]
    draws = torch.Generator().manual_seed((config.seed * 1_000_003 + trial.episode.seed) % 2**64)
    return WorldResult(
        index, trial.episode.seed, trial.episode.kind, float(trial.seen.double().mean()), rows,
        pose_floor(trial.episode.scene, trial.cameras[places], draws),
        unseen_features(trial.truth.rgb, trial, features), pictures,
    )  # fmt: skip


def summarize(results: Sequence[WorldResult], config: BenchmarkConfig | None = None) -> dict[str, Any]:
    """The table as plain values: `{"rows": {row: {measure: number}}, "full_minus": {row: {measure: ...}}, ...}`.

    Numbers that do not apply are NaN.
    """
    config = config or BenchmarkConfig()
    if not results:
        raise ConfigError("no world was run; a table needs at least one")
    present = [row for row in config.rows if row in results[0].rows]
    report: dict[str, Any] = {"rows": {row: _row(results, row) for row in present}}
    if "full" in present:
        others = [row for row in present if row != "full"]
        report["full_minus"] = {row: _difference(results, row) for row in others}
    report["pose_floor"] = _floor(results)
    report["frechet"] = {"extractor": RandomFeatures().identity, "floor": _frechet_floor(results)}
    report["worlds"] = [_world(result) for result in results]
    return report


def values_of(results: Sequence[WorldResult], row: str, measure: str) -> list[float]:
    """One number a world."""
    return [result.rows[row].values[measure] for result in results]


def _row(results: Sequence[WorldResult], row: str) -> dict[str, Any]:
    out: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for measure in METRICS:
        found = mean_interval(values_of(results, row, measure))
        out[measure], intervals[measure] = found.mean, _ends(found)
    scores = [result.rows[row] for result in results]
    for name in ("pose_frames", "pose_failures", "pose_unobservable"):
        out[name] = sum(score.counts[name] for score in scores)
    for name, (part, statistic) in MOTION.items():
        parts = [getattr(score, part) for score in scores]
        out[name], low, high = _bootstrap(partial(statistic, parts), len(parts))
        worlds = sum(one.true_energy > 0 for one in parts)
        intervals[name] = {"low": low, "high": high, "worlds": worlds, "missing": len(parts) - worlds}
    out["frechet_random"] = _frechet(results, row)
    stages = dict.fromkeys(stage for score in scores for stage in score.seconds)
    seconds = {stage: float(np.mean([score.seconds.get(stage, 0.0) for score in scores])) for stage in stages}
    out["seconds_per_frame"] = sum(seconds.values())
    out["seconds"] = seconds
    out["intervals"] = intervals
    return out


def _difference(results: Sequence[WorldResult], row: str) -> dict[str, Any]:
    """Full minus a row, world by world; "tied" where the interval holds zero."""
    out: dict[str, Any] = {}
    for measure in METRICS:
        found = paired_interval(values_of(results, "full", measure), values_of(results, row, measure))
        out[measure] = {"mean": found.mean, **_ends(found), "tied": found.contains_zero}
    for name, (part, statistic) in MOTION.items():
        ours = partial(statistic, [getattr(result.rows["full"], part) for result in results])
        theirs = partial(statistic, [getattr(result.rows[row], part) for result in results])
        mean, low, high = _bootstrap(lambda drawn, a=ours, b=theirs: a(drawn) - b(drawn), len(results))
        out[name] = {"mean": mean, "low": low, "high": high, "tied": not (low > 0 or high < 0)}
    return out


def _ends(interval: Interval) -> dict[str, float | int]:
    return {"low": interval.low, "high": interval.high, "worlds": interval.count, "missing": interval.missing}


def _share(scores: Sequence[MotionScore], drawn: Tensor) -> Tensor:
    """`motion_share` of drawn worlds together: what moves little in one must not weigh as much as what moves a lot."""
    return _sum(scores, "shown", drawn) / _sum(scores, "true_energy", drawn)


def _direction(scores: Sequence[MotionScore], drawn: Tensor) -> Tensor:
    """`motion_direction` of drawn worlds together; 0 where nothing changes in what is shown."""
    energies = _sum(scores, "true_energy", drawn) * _sum(scores, "generated_energy", drawn)
    found = _sum(scores, "shown", drawn) / energies.sqrt()
    return torch.where(energies > 0, found, torch.where(_sum(scores, "true_energy", drawn) > 0, 0.0, torch.nan))


def _sum(scores: Sequence[MotionScore], name: str, drawn: Tensor) -> Tensor:
    return torch.tensor([getattr(score, name) for score in scores], dtype=torch.float64)[drawn].sum(-1)


MOTION = {"motion_share": ("motion", _share), "motion_places": ("places", _direction)}
"""Measures of motion: which part of `Scores` they look at, and how worlds are joined."""


def _bootstrap(statistic: Callable[[Tensor], Tensor], count: int) -> tuple[float, float, float]:
    """A statistic of drawn worlds: on all of them, and the ends of its 95 % interval; NaN below two worlds."""
    value = float(statistic(torch.arange(count)[None])[0])
    if count < 2 or math.isnan(value):
        return value, math.nan, math.nan
    drawn = torch.randint(count, (2000, count), generator=torch.Generator().manual_seed(0))
    found = statistic(drawn)
    found = found[found.isfinite()]
    low, high = torch.quantile(found, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return value, low, high


def _real(results: Sequence[WorldResult]) -> tuple[Tensor, Tensor]:
    """True features of all worlds, and the world of each."""
    worlds = [torch.full((len(result.real),), result.index, dtype=torch.int64) for result in results]
    return torch.cat([result.real for result in results]), torch.cat(worlds)


def _frechet(results: Sequence[WorldResult], row: str) -> float:
    made = torch.cat([result.rows[row].features for result in results])
    real, worlds = _real(results)
    try:
        return frechet_report(made, real, "", worlds=worlds).value
    except ConfigError:  # too few crops: in a handful of worlds nearly everything may have been seen
        return math.nan


def _frechet_floor(results: Sequence[WorldResult]) -> dict[str, float | int]:
    real, worlds = _real(results)
    try:
        found = frechet_report(real, real, "", worlds=worlds)
    except ConfigError:
        return {"value": math.nan, "count": 0}
    return {"value": found.floor, "count": found.count}


def _floor(results: Sequence[WorldResult]) -> dict[str, float]:
    joined = PoseFloor(*(torch.cat([getattr(result.floor, name) for result in results]) for name in _FLOOR_FIELDS))
    return joined.compute()


_FLOOR_FIELDS = ("rotation_degrees", "metres", "failed", "unobservable")


def _world(result: WorldResult) -> dict[str, Any]:
    rows = {row: {**score.values, **score.counts} for row, score in result.rows.items()}
    return {
        "seed": result.seed, "kind": result.kind, "seen_share": result.seen_share, "rows": rows,
    }  # fmt: skip


def _moments(trial: Trial) -> list[int]:
    """Two of the frames to generate: half way back, and the end."""
    return [len(trial) // 2 - 1, len(trial) - 1]
