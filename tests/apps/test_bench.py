"""The benchmarks of a model on the command line, with a tiny model of random weights."""

from __future__ import annotations

import json

import pytest
from tests.apps.conftest import everything_in

from mosaicmem.apps.cli.bench import PARTS
from mosaicmem.io.files import read_image


@pytest.mark.parametrize("part", PARTS)
def test_every_benchmark_has_help_and_an_example_of_its_own(run, part):
    ran = run("bench", part, "--help")
    assert ran.code == 0
    assert f"Example:\n  mosaicmem bench {part} " in ran.out
    assert f"bench {part} " in run("bench", "--help").out


def test_bench_memory_runs_from_end_to_end(run, tiny, tmp_path):
    out = tmp_path / "bench"
    common = ("bench", "memory", "--model", tiny, "--quick", "--worlds", 1, "--processes", 1)
    ran = run(*common, "--rows", "full,copy_last", "--out", out)
    assert ran.code == 0, ran.err
    assert ran.out.startswith("[trained:tiny] bench memory: ")
    for words in ("last frame, frozen", "pose estimator on true frames", "frechet-random", "full minus", "ms a frame"):
        assert words in ran.out
    report = json.loads((out / "report.json").read_text())
    rows = report["rows"]
    assert set(rows) == {"full", "copy_last"}
    assert 0 < rows["full"]["psnr"] < 60 and 0 < rows["copy_last"]["psnr"] < 60
    assert f"{rows['full']['psnr']:.2f}" in ran.out
    assert set(rows["full"]["seconds"]) >= {"retrieve", "denoise", "decode", "depth", "lift"}
    assert rows["full"]["intervals"]["psnr"]["low"] is None, "one world has no interval"
    gain = report["full_minus"]["copy_last"]["psnr"]["mean"]
    assert gain == pytest.approx(rows["full"]["psnr"] - rows["copy_last"]["psnr"])
    assert everything_in(out) == {"report.json", "run.json", "rows.png", "worlds.png"}
    assert read_image(out / "worlds.png").std() > 10 and read_image(out / "rows.png").std() > 10


def test_bench_prompts_and_walk_run_from_end_to_end(run, tiny, tmp_path):
    ran = run("bench", "prompts", "--model", tiny, "--cases", 1, "--processes", 1, "--out", tmp_path / "p", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["accuracy"] in (0, 1) and ran.json["probe_on_truth"] == 1
    assert everything_in(tmp_path / "p") == {"report.json", "run.json", "cases.png"}
    walk = ("bench", "walk", "--model", tiny, "--worlds", 1, "--frames", 192, "--short", 16, "--processes", 1)
    ran = run(*walk, "--out", tmp_path / "w")
    assert ran.code == 0, ran.err
    assert "long minus short" in ran.out
    assert everything_in(tmp_path / "w") == {"report.json", "run.json", "walk.png", "drift.png"}


def test_bench_stress_runs_from_end_to_end(run, recording, tmp_path):
    small = ("bench", "stress", "--size", "32x24", "--frames", 16, "--every", 4, "--asked", 2)
    ran = run(*small, "--worlds", 1, "--rows", "exact,scale 1.1", "--out", tmp_path / "s")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("[synthetic] bench stress: ") and "scale 1.1" in ran.out and "aligned" in ran.out
    report = json.loads((tmp_path / "s" / "report.json").read_text())
    assert 0 < report["rows"]["scale 1.1"]["aligned"]["coverage"] <= 1
    assert everything_in(tmp_path / "s") == {"report.json", "run.json", "stress.png"}
    assert read_image(tmp_path / "s" / "stress.png").std() > 10
    ran = run(*small, "--recording", recording, "--rows", "exact", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["clips"] == ["recording"]


def test_stages_are_what_bench_times_by_default(run):
    small = ("--num-frames", 1, "--iterations", 1, "--width", 16, "--height", 16, "--json")
    named, plain = run("bench", "stages", *small), run("bench", *small)
    assert named.code == plain.code == 0
    assert set(named.json) == set(plain.json) and "stages_ms" in named.json


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("memori",), 2, "did you mean memory?"),
        (("memory", "--rows", "best"), 2, "unknown rows best; expected some of full, cameras_only"),
        (("memory", "--worlds", 0), 2, "worlds = 0"),
        (("memory", "--window-size", 5), 2, "windows of 17 frames"),
        (("memory", "--processes", 0), 2, "--processes = 0"),
        (("memory", "--model", "nowhere"), 4, "nowhere"),
        (("walk", "--frames", 100), 2, "multiples of 16"),
        (("prompts", "--cases", 0), 2, "cases = 0"),
        (("stress", "--rows", "fog"), 2, "unknown rows fog"),
    ],
)
def test_what_is_wrong_shows_before_any_work(run, argv, code, words):
    ran = run("bench", *argv)
    assert ran.code == code
    assert words in ran.err
