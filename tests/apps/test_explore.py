"""`explore` begins where it is told, keeps what was walked, replays it bit for bit, and refuses contradictions."""

from __future__ import annotations

import importlib.util
import json
import socket
import threading
import time

import pytest
from tests.io.test_event_log import at, read

from mosaicmem.apps.cli.live_starts import weights_digest
from mosaicmem.io.world import WorldFile
from mosaicmem.live import server
from mosaicmem.live.commands import Command, Edit, Jump, Move, Undo, parse_choice
from mosaicmem.live.session import Receipt, Session

pytest.importorskip("starlette", reason="needs the extra: pip install 'mosaicmem[explore]'")
pytest.importorskip("uvicorn", reason="needs the extra: pip install 'mosaicmem[explore]'")

PATIENCE = 120.0
SMALL = ("--model", "synthetic", "--scene", 7, "--size", "32x32", "--port", 0, "--no-browser")


@pytest.fixture
def walked(monkeypatch, run):
    """`walked(commands, *argv)`: the command with somebody who does that on the page and then ends it."""

    def command(commands: list[Command], *argv: object):
        found: list[Session] = []
        receipts: list[Receipt] = []

        class Stub:
            def __init__(self, application, bound) -> None:
                pass

            def run(self, ready) -> None:
                done = threading.Semaphore(0)

                def heard(message) -> None:
                    if isinstance(message, Receipt):
                        receipts.append(message)
                        done.release()

                found[0].watch(heard)
                ready()
                for each in commands:
                    found[0].submit(each)
                    assert done.acquire(timeout=PATIENCE)
                end = time.monotonic() + PATIENCE
                while found[0].replaying and time.monotonic() < end:
                    time.sleep(0.01)

        monkeypatch.setattr(server, "app", lambda session, *_: found.append(session))
        monkeypatch.setattr(server, "Server", Stub)
        ran = run("explore", *argv)
        return ran, receipts

    return command


def test_a_walk_is_kept_recorded_replayed_and_gone_on_with(walked, run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    middle = parse_choice({"kind": "frames", "first": 0, "last": 2})
    first = [Move(forward=0.1), Edit("erase", middle), Move(yaw=5.0), Undo(), Jump(frame=12)]
    ran, receipts = walked(first, *SMALL, "--record", "a.jsonl")
    assert ran.code == 0, ran.err
    assert [r.state for r in receipts] == ["applied"] * len(first), receipts
    assert ran.out.startswith("[synthetic] explore: ") and "walk-1.mosaic" in ran.out
    assert "2 frames walked" in ran.out, "of those that one begins with, none"
    assert "open http://127.0.0.1:" in ran.err and "?token=" in ran.err and "warning" not in ran.err
    assert {path.name for path in tmp_path.iterdir()} == {"walk-1.mosaic", "a.jsonl"}
    assert run("world", "verify", "walk-1.mosaic").code == 0
    assert run("recall", "walk-1.mosaic", "--help").code == 0

    again = walked([], "--replay", "a.jsonl", "--port", 0, "--no-browser", "--json")[0]
    assert again.json["replayed"] == {"same": len(first), "different": 0}
    assert again.json["world"] is None and again.json["walked"] == 2 < again.json["frame"]

    with WorldFile.open("walk-1.mosaic") as world:
        pose = world.meta["walk"]["pose"]
        digest = world.digest()
    onward = ("--world", "walk-1.mosaic", "--model", "synthetic", "--port", 0, "--no-browser")
    second = [Move(yaw=10.0), Edit("move", middle, by=(0.2, 0.0, 0.0))]
    ran, receipts = walked(second, *onward, "--record", "b.jsonl")
    assert ran.code == 0 and [r.state for r in receipts] == ["applied"] * 2, ran.err
    assert "1 frame walked" in ran.out, "those of the walk before count no more"
    with WorldFile.open("walk-1.mosaic") as world:
        assert world.meta["walk"]["pose"] != pose and world.digest() != digest
    walked([Edit("erase", middle)], *onward)
    again = walked([], "--replay", "b.jsonl", "--port", 0, "--no-browser", "--json")[0]
    assert again.json["replayed"] == {"same": 2, "different": 0}, "the world has moved on; its past has not"
    walked([], "--replay", "b.jsonl", "--port", 0, "--no-browser", "--record", "c.jsonl")
    again = walked([], "--replay", "c.jsonl", "--port", 0, "--no-browser", "--json")[0]
    assert again.code == 0 and again.json["replayed"] == {"same": 2, "different": 0}, "what was replayed can be, too"
    assert {path.name for path in tmp_path.iterdir()} == {"walk-1.mosaic", "a.jsonl", "b.jsonl", "c.jsonl"}


def test_a_recording_becomes_a_memory_to_walk_in_without_a_model(walked, recording, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran, receipts = walked(
        [Move(yaw=3.0)], "--recall", recording, "--frames", "::3", "--port", 0, "--no-browser", "--json"
    )
    assert ran.code == 0, ran.err
    assert receipts[0].state == "applied" and "denoise" not in receipts[0].stages
    assert ran.json["world"] is None and ran.json["patches"] > 0
    assert ran.json["walked"] == 1 < ran.json["frame"], "what is recalled was not walked"
    assert list(tmp_path.glob("*.mosaic")) == []
    keep = ("--recall", recording, "--frames", "::3", "--port", 0, "--no-browser", "--out", "kept 1.mosaic")
    ran, _ = walked([], *keep)
    assert (tmp_path / "kept 1.mosaic").is_file() and "--world 'kept 1.mosaic'" in ran.out
    assert walked([], *keep)[0].code == 2
    assert walked([], *keep, "--overwrite")[0].code == 0


def test_listening_elsewhere_than_at_loopback_is_said_aloud(walked, recording) -> None:
    ran, _ = walked([], "--recall", recording, "--frames", "0", "--port", 0, "--no-browser", "--host", "0.0.0.0")
    assert ran.code == 0
    assert "warning: listening at 0.0.0.0" in ran.err and "can walk in this world and edit it" in ran.err
    assert f"from another machine: the same with {socket.gethostname()}" in ran.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--scene", 1, "--world", "a"), "two places to begin at"),
        (("--recall", "a", "--model", "rooms"), "leave --model out"),
        (("--frames", "0"), "belongs to --recall"),
        (("--scene", "-1", "--model", "synthetic"), "--scene -1: expected 0"),
        (("--scene", 2**63), "expected 0 to 2^63 - 1"),
        (("--world", "a", "--out", "b"), "--out is for a new world"),
        (("--port", 70000), "--port 70000"),
        (("--token", "short"), "16 to 128"),
        (("--token", "x" * 20 + "/"), "letters and digits"),
    ],
)
def test_options_that_contradict_each_other_are_refused(run, argv, words) -> None:
    ran = run("explore", *argv, "--no-browser")
    assert ran.code == 2
    assert words in ran.err


def test_no_file_is_written_over_another_that_is_in_use(walked, run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert walked([Move(forward=0.1)], *SMALL, "--record", "a.jsonl", "--out", "a.mosaic")[0].code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for argv, words in (
        (("--world", "a.mosaic", "--record", "../" + tmp_path.name + "/a.mosaic"), "is the file of --world as well"),
        (("--replay", "a.jsonl", "--record", "a.jsonl"), "is the file of --replay as well"),
        ((*SMALL, "--other", "a.mosaic", "--out", "a.mosaic"), "is the file of --other as well"),
        ((*SMALL, "--record", "b.mosaic", "--out", "b.mosaic"), "is the file of --out as well"),
    ):
        ran = run("explore", *argv, "--overwrite", "--no-browser")
        assert ran.code == 2 and words in ran.err, ran.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_missing_extra_is_named_before_anything_is_written(run, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    ran = run("explore", *SMALL)
    assert ran.code == 4 and "pip install 'mosaicmem[explore]'" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_begun_in_is_named(run, tmp_path) -> None:
    (tmp_path / "r.jsonl").write_text('{"format":"mosaicmem.walk","version":1,"start":{"kind":"moon"}}\n')
    start = {"kind": "scene", "scene": -1, "model": "synthetic"}
    header = {"format": "mosaicmem.walk", "version": 1, "start": start}
    (tmp_path / "minus.jsonl").write_text(json.dumps(header) + "\n")
    for argv, code, words in (
        (("--replay", tmp_path / "minus.jsonl"), 2, "--scene -1: expected 0"),
        (("--world", tmp_path / "none.mosaic"), 3, "no such file"),
        (("--recall", tmp_path / "none"), 3, "no such folder"),
        (("--replay", tmp_path / "r.jsonl"), 3, "does not say how the walk began"),
        (("--scene", 7, "--model", "synthetic", "--size", "33x32", "--out", tmp_path / "w.mosaic"), 2, "33x32"),
    ):
        ran = run("explore", *argv, "--no-browser", "--port", 0)
        assert ran.code == code and words in ran.err, ran.err


def test_a_walk_is_told_to_rerun_with_its_edits(walked, tmp_path, monkeypatch) -> None:
    pytest.importorskip("rerun", reason="needs the extra: pip install 'mosaicmem[rerun]'")
    monkeypatch.chdir(tmp_path)
    everything = parse_choice({"kind": "frames", "first": 0, "last": 2})
    ran, receipts = walked([Move(forward=0.1), Edit("erase", everything), Move(yaw=5.0)], *SMALL, "--rerun")
    assert ran.code == 0 and [r.state for r in receipts] == ["applied"] * 3, ran.err
    assert "rerun walk-1.rrd" in ran.out
    found = read(tmp_path / "walk-1.rrd")
    frames = sorted({row["frame"] for row in found["/world/camera"]})
    assert frames == list(range(frames[0], frames[0] + 3)), "where it begins, and a frame a step"
    taken = {name for name, rows in found.items() if name.startswith("/world/memory/") and at(rows, "is_recursive")}
    assert taken == {f"/world/memory/{uid:06d}" for uid in range(3)}
    assert all(list(at(found[name], "is_recursive")) == [frames[1]] for name in taken), "when it was erased"
    assert any("erase" in row["text"][0] for row in found["/log"] if "text" in row)
    walked([], *SMALL, "--rerun", "b.rrd", "--out", "b.mosaic")
    assert "/world/memory/000000" in read(tmp_path / "b.rrd"), "nobody has to do anything"


def test_a_walk_is_replayed_with_what_it_was_made_with_and_not_with_todays_defaults(
    walked, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = ("--set", "grid.patch=4", "--set", "video.fps=8")
    commands: list[Command] = [Move(forward=0.1), Move(yaw=20.0)]
    walked(commands, *SMALL, *made, "--record", "a.jsonl", "--out", "a.mosaic")
    replay = ("--port", 0, "--no-browser", "--json", "--replay")
    again = walked([], *replay, "a.jsonl")[0]
    assert again.json["replayed"] == {"same": 2, "different": 0} and "warning" not in again.err
    again = walked([], *replay, "a.jsonl", "--set", "grid.patch=8")[0]
    assert again.json["replayed"] == {"same": 2, "different": 0} and "your own are left out" in again.err

    first, *rest = (tmp_path / "a.jsonl").read_text().splitlines()
    for name, value, same, words in (
        ("patch", 8, 0, None),  # the settings are what decides
        ("patch", None, 0, "says nothing of grid.patch"),
        ("colour", 3, 2, "unknown setting 'grid.colour'"),
        ("device", "cuda:7", 2, "was made on cuda:7, and is replayed on cpu"),
        ("device", None, 2, None),  # older than the setting
    ):
        header = json.loads(first)
        grid = header["start"]["settings"]
        grid = grid if name == "device" else grid["grid"]
        grid[name] = value
        if value is None:
            del grid[name]
        (tmp_path / "b.jsonl").write_text("\n".join([json.dumps(header), *rest]) + "\n")
        again = walked([], *replay, "b.jsonl")[0]
        assert again.json["replayed"]["same"] == same, name
        assert ("warning" not in again.err) if words is None else (words in again.err)


def test_other_weights_than_those_of_a_recording_are_named(walked, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    found = {weights_digest(str(tmp_path / "m"))}
    for part, content in (("world", b"a"), ("world", b"b"), ("refiner", b"b"), ("vae", b"")):
        (tmp_path / "m" / f"{part}.safetensors").write_bytes(content)
        found.add(weights_digest(str(tmp_path / "m")))
    assert len(found) == 5 and weights_digest("synthetic") is None
    walked([Move(yaw=3.0)], *SMALL, "--record", "a.jsonl")
    first, *rest = (tmp_path / "a.jsonl").read_text().splitlines()
    header = json.loads(first)
    header["start"]["weights"] = "0123456789abcdef"
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(header), *rest]) + "\n")
    again = walked([], "--replay", "a.jsonl", "--port", 0, "--no-browser")[0]
    assert "made with other weights of synthetic" in again.err
