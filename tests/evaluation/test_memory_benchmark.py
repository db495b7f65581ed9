"""The memory benchmark as a whole: its shape, its arithmetic, and that processes change nothing."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from tests.tiny_models import write_tiny_model

from mosaicmem.errors import ConfigError
from mosaicmem.evaluation.memory_benchmark import (
    METRICS,
    MOTION,
    BenchmarkConfig,
    WorldResult,
    run_benchmark,
    summarize,
)
from mosaicmem.evaluation.motion import MotionScore
from mosaicmem.evaluation.parallel import each_world
from mosaicmem.evaluation.trials import TrialConfig
from mosaicmem.generation.backend import Models, load_models
from mosaicmem.generation.rollout import RolloutConfig

SMALL = BenchmarkConfig(
    worlds=2, rows=("full", "cameras_only", "copy_last"), pose_frames=2, pictured=1,
    trial=TrialConfig(size=64, every=16, longest=16, judged_every=5), rollout=RolloutConfig(show_mosaic=False),
)  # fmt: skip


@pytest.fixture(scope="module")
def load(tmp_path_factory) -> partial[Models]:
    return partial(load_models, write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def results(load) -> list[WorldResult]:
    return list(run_benchmark(load, SMALL))


def without_seconds(results: list[WorldResult]) -> dict:
    """The report, as text, since NaN equals nothing."""
    report = summarize(results, SMALL)
    for row in report["rows"].values():
        del row["seconds"], row["seconds_per_frame"]
    return {key: repr(value) for key, value in report.items()}


def test_processes_change_nothing_but_the_seconds(load, results):
    assert without_seconds(list(run_benchmark(load, SMALL, processes=2))) == without_seconds(results)


def test_another_seed_of_the_noise_changes_what_is_generated_and_nothing_else(load, results):
    (other,) = run_benchmark(load, replace(SMALL, worlds=1, seed=1))
    assert other.rows["full"].values != results[0].rows["full"].values
    assert repr(other.rows["copy_last"].values) == repr(results[0].rows["copy_last"].values)


def test_the_settings_of_the_rollout_reach_the_generator(load, results):
    noisy = RolloutConfig(show_mosaic=False, anchor_noise=0.5)
    (other,) = run_benchmark(load, replace(SMALL, worlds=1, rollout=noisy))
    assert other.rows["full"].values["psnr"] != results[0].rows["full"].values["psnr"]


def test_the_report_has_the_shape_that_is_promised(results):
    report = summarize(results, SMALL)
    assert list(report["rows"]) == list(SMALL.rows)
    for row in report["rows"].values():
        assert {*METRICS, *MOTION, "pose_failures", "frechet_random", "seconds_per_frame"} <= set(row)
        assert isinstance(row["psnr"], float)
        assert row["intervals"]["psnr"]["low"] <= row["psnr"] <= row["intervals"]["psnr"]["high"]
        assert row["seconds_per_frame"] == pytest.approx(sum(row["seconds"].values()))
    assert set(report["full_minus"]) == {"cameras_only", "copy_last"}
    assert [world["seed"] for world in report["worlds"]] == [900_000, 900_001]
    assert set(results[0].pictures) == {(i, name) for i in (7, 15) for name in (*SMALL.rows, "truth", "mosaic")}
    assert not results[1].pictures


def test_means_and_differences_are_those_of_the_worlds(results):
    report = summarize(results, SMALL)
    full = [result.rows["full"].values["psnr"] for result in results]
    frozen = [result.rows["copy_last"].values["psnr"] for result in results]
    assert report["rows"]["full"]["psnr"] == pytest.approx(sum(full) / 2)
    gain = report["full_minus"]["copy_last"]["psnr"]
    assert gain["mean"] == pytest.approx(sum(full) / 2 - sum(frozen) / 2)
    assert gain["tied"] == (not (gain["low"] > 0 or gain["high"] < 0))
    same = summarize([replace(r, rows={"full": r.rows["full"], "rope": r.rows["full"]}) for r in results],
                     replace(SMALL, rows=("full", "rope")))  # fmt: skip
    for measure, found in same["full_minus"]["rope"].items():
        assert found["tied"] and (found["mean"] == 0 or math.isnan(found["mean"])), measure


def test_motion_is_joined_by_what_moves_and_not_by_world(results):
    """A world in which much moves rightly and one in which little moves wrongly."""
    much, little = MotionScore(90.0, 100.0, 81.0, 50), MotionScore(-1.0, 1.0, 1.0, 1)
    worlds = [
        replace(result, rows={"full": replace(result.rows["full"], motion=score, places=score)})
        for result, score in zip(results, (much, little), strict=True)
    ]
    row = summarize(worlds, replace(SMALL, rows=("full",)))["rows"]["full"]
    assert row["motion_share"] == pytest.approx(89 / 101)
    assert row["motion_places"] == pytest.approx(89 / math.sqrt(101 * 82))
    none = replace(worlds[0].rows["full"], motion=MotionScore(), places=MotionScore())
    still = [replace(world, rows={"full": none}) for world in worlds]
    row = summarize(still, replace(SMALL, rows=("full",)))["rows"]["full"]
    assert math.isnan(row["motion_share"]) and math.isnan(row["motion_places"])
    assert row["intervals"]["motion_share"]["missing"] == 2


def test_crops_of_what_was_never_seen_are_compared_where_there_are_enough(results):
    features = torch.randn(20, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    far = features + 10
    worlds = [
        replace(result, real=features + i, rows={
            "full": replace(result.rows["full"], features=features), "rope": replace(result.rows["full"], features=far),
        })
        for i, result in enumerate(results)
    ]  # fmt: skip
    report = summarize(worlds, replace(SMALL, rows=("full", "rope")))
    assert report["rows"]["rope"]["frechet_random"] > report["rows"]["full"]["frechet_random"] + 1000
    assert report["frechet"]["floor"]["count"] == 20
    nothing = replace(results[0].rows["full"], features=features[:0])
    empty = [replace(world, real=features[:0], rows={"full": nothing}) for world in worlds]
    assert math.isnan(summarize(empty, replace(SMALL, rows=("full",)))["rows"]["full"]["frechet_random"])


@pytest.mark.parametrize(
    "wrong", [{"worlds": 0}, {"rows": ("full", "best")}, {"rows": ()}, {"rows": ("full", "full")}, {"pose_frames": 0}]
)
def test_impossible_benchmarks_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BenchmarkConfig(**wrong)


def test_a_table_needs_a_world():
    with pytest.raises(ConfigError, match="no world"):
        summarize([])


def test_work_comes_back_in_order_and_the_threads_are_given_back(load):
    threads = torch.get_num_threads()
    seen = list(each_world(lambda models, item: (item, torch.get_num_threads(), models.label), [3, 1, 2], load))
    assert seen == [(item, 1, "[trained:tiny]") for item in (3, 1, 2)]
    assert torch.get_num_threads() == threads
