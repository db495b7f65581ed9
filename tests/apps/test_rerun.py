"""`--rerun` on the commands that make frames: the recording holds every frame, and memory of the walk."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.io.test_event_log import at, read

from mosaicmem.apps.cli.rerun_log import named
from mosaicmem.io.trajectories import read_trajectory
from mosaicmem.io.world import WorldFile

SMALL = ("--width", 32, "--height", 32, "--set", "video.panel=32", "--model", "synthetic", "-q")
NEEDS = "needs the extra: pip install 'mosaicmem[rerun]'"


def test_demo_writes_the_way_out_and_back_beside_its_folder(run, tmp_path) -> None:
    pytest.importorskip("rerun", reason=NEEDS)
    ran = run("demo", "--num-frames", 7, *SMALL, "--rerun", "--out", tmp_path / "d")
    assert ran.code == 0, ran.err
    assert f"rerun {tmp_path / 'd.rrd'}" in ran.out
    found = read(tmp_path / "d.rrd")
    everything = list(range(7))
    for name in ("/world/camera", "/truth"):
        assert sorted({row["frame"] for row in found[name]}) == everything
    assert sorted(at(found["/known"], "scalars")) == sorted(at(found["/without_memory"], "blob")) == [4, 5, 6]
    with WorldFile.open(tmp_path / "d" / "memory" / "world.mosaic") as world:
        points = {int(name[-6:]): rows for name, rows in found.items() if name.startswith("/world/memory/")}
        assert points.keys() == {group.uid for group in world.store}
        for group in world.store:
            assert list(at(points[group.uid], "positions")) == [group.keyframe.frame]
    again = run("demo", "--num-frames", 7, *SMALL, "--rerun", "--out", tmp_path / "d2")
    assert again.code == 0
    refused = run("demo", "--num-frames", 7, *SMALL, "--rerun", tmp_path / "d.rrd", "--out", tmp_path / "d3")
    assert refused.code == 2 and "d.rrd" in refused.err and not (tmp_path / "d3").exists()


def test_generate_writes_the_file_that_it_is_told(run, memory, path, tmp_path) -> None:
    pytest.importorskip("rerun", reason=NEEDS)
    argv = ("generate", "--memory", memory, "-t", path, "--model", "synthetic", "--window-size", 3)
    ran = run(*argv, "--rerun", tmp_path / "told.rrd", "--out", tmp_path / "w", "--json")
    assert ran.code == 0, ran.err
    found = read(tmp_path / "told.rrd")
    frames = sorted({row["frame"] for row in found["/world/camera"]})
    assert len(frames) == ran.json["poses"] and frames[-1] - frames[0] == len(frames) - 1
    with WorldFile.open(memory / "world.mosaic") as world:
        before = {group.uid for group in world.store}
    uids = {int(name[-6:]) for name in found if name.startswith("/world/memory/")}
    assert uids >= before and len(uids) == ran.json["store"]["keyframes"]
    walked = read_trajectory(tmp_path / "w" / "trajectory.json").centers
    places = [row[0] for row in at(found["/world/camera"], "translation").values()]
    assert places == [pytest.approx(centre.tolist(), abs=1e-5) for centre in walked]
    shown = {i: row[0] for i, row in at(found["/known"], "scalars").items()}
    assert list(shown.values()) == pytest.approx([f["coverage"] for f in ran.json["frames"]])


def test_the_file_is_named_and_looked_at_before_anything_is_done(run, memory, path, tmp_path, monkeypatch) -> None:
    assert named((Path("a.rrd"),), Path("b.mosaic")) == Path("a.rrd")
    assert named((), Path("x/walk-1.mosaic")) == Path("x/walk-1.rrd") and named((), None) == Path("walk.rrd")
    argv = ("generate", "--memory", memory, "-t", path, "--model", "synthetic", "--out", tmp_path / "w")
    two = run(*argv, "--rerun", "a.rrd", "b.rrd")
    assert two.code == 2 and "one file" in two.err
    monkeypatch.setitem(sys.modules, "rerun", None)
    for command in (argv, ("demo", "--out", tmp_path / "d"), ("explore", "--scene", 7, "--port", 0)):
        ran = run(*command, "--rerun")
        assert ran.code == 4 and "pip install 'mosaicmem[rerun]'" in ran.err
    assert not list(tmp_path.glob("[wd]*"))
