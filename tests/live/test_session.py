"""The session: receipts in order, a bounded queue, pause and step, viewers that fail, and errors that stop nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from tests.live.scenes import walk

from mosaicmem.io.world import WorldFile
from mosaicmem.live import recording
from mosaicmem.live.commands import Jump, Move, Say, Undo
from mosaicmem.live.recording import Recorder, Recording
from mosaicmem.live.session import Message, Receipt, Session, Shown, Status

PATIENCE = 90.0


@dataclass
class Viewer:
    """Everything a session said; `wait(n)` until `n` commands were applied or refused."""

    receipts: list[Receipt] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    statuses: list[Status] = field(default_factory=list)
    more: threading.Condition = field(default_factory=threading.Condition)

    def __call__(self, message: Message) -> None:
        with self.more:
            {Receipt: self.receipts, Shown: self.shown, Status: self.statuses}[type(message)].append(message)  # pyright: ignore
            self.more.notify_all()

    def wait(self, count: int) -> None:
        with self.more:
            assert self.more.wait_for(lambda: len(self.receipts) >= count, PATIENCE)


@contextmanager
def session(tmp_path, **options) -> Iterator[tuple[Session, Viewer]]:
    w = walk(tmp_path / "w.mosaic", generates=False)
    made, viewer = Session(w, **options), Viewer()
    made.watch(viewer)
    made.start()
    try:
        yield made, viewer
    finally:
        made.stop()
        w.world.close()


def test_every_command_is_received_and_applied_in_order_with_what_it_took(tmp_path) -> None:
    with session(tmp_path) as (s, viewer):
        seqs = [s.submit(Move(yaw=3.0), sender=7, tag=i).seq for i in range(5)]
        viewer.wait(5)
        assert seqs == [1, 2, 3, 4, 5]
        assert [(r.seq, r.state, r.sender, r.tag) for r in viewer.receipts] == [
            (i + 1, "applied", 7, i) for i in range(5)
        ]
        assert all(r.waited >= 0 and {"retrieve", "decode"} <= r.stages.keys() for r in viewer.receipts)
        s.stop()
        assert [x.receipt.seq for x in viewer.shown] == seqs
        frames = [int(x.outcome.frames[-1]) for x in viewer.shown]
        assert frames == list(range(frames[0], frames[0] + 5))


def test_a_full_queue_says_so_and_takes_no_number(tmp_path) -> None:
    gate = threading.Event()
    with session(tmp_path, size=3) as (s, viewer):
        entered = threading.Event()

        def hold(_: object) -> None:
            entered.set()
            gate.wait(PATIENCE)

        s.ask(hold)
        assert entered.wait(PATIENCE)
        answers = [s.submit(Move()) for _ in range(5)]
        assert [a.state for a in answers] == ["received"] * 3 + ["busy"] * 2
        assert [a.seq for a in answers] == [1, 2, 3, 0, 0]
        assert not s.ask(lambda _: None)
        gate.set()
        viewer.wait(3)
        assert s.submit(Move()).seq == 4


def test_pause_holds_commands_back_step_lets_one_through_and_questions_overtake(tmp_path) -> None:
    with session(tmp_path) as (s, viewer):
        s.pause()
        for _ in range(3):
            s.submit(Move())
        asked = threading.Event()
        s.ask(lambda _: asked.set())
        assert asked.wait(PATIENCE)
        assert viewer.receipts == [] and s.status.paused and s.status.waiting == 3
        s.step()
        viewer.wait(1)
        asked.clear()
        s.ask(lambda _: asked.set())
        assert asked.wait(PATIENCE)
        assert len(viewer.receipts) == 1
        s.resume()
        viewer.wait(3)
        assert [r.seq for r in viewer.receipts] == [1, 2, 3]


def test_no_more_is_held_back_than_the_queue_holds(tmp_path) -> None:
    with session(tmp_path, size=2) as (s, viewer):
        s.pause()
        sent = 0
        while sent < 6:
            sent += s.submit(Move()).state == "received"
        viewer.wait(4)
        assert s.status.waiting == 2
        assert {r.state for r in viewer.receipts} == {"refused"}


def test_an_error_refuses_one_command_and_stops_nothing(tmp_path) -> None:
    with session(tmp_path) as (s, viewer):
        for command in (Undo(), Say("rain"), Jump(frame=999), Move()):
            s.submit(command)
        viewer.wait(4)
        assert [r.state for r in viewer.receipts] == ["refused", "refused", "refused", "applied"]
        assert "nothing to undo" in viewer.receipts[0].said


def test_a_viewer_that_fails_is_dropped_and_the_walk_goes_on(tmp_path) -> None:
    calls = []

    def broken(message: Message) -> None:
        calls.append(message)
        raise RuntimeError("a viewer crashed")

    def fail(_: object) -> None:
        raise ZeroDivisionError

    with session(tmp_path) as (s, viewer):
        s.watch(broken)
        for _ in range(3):
            s.submit(Move(yaw=2.0))
        viewer.wait(3)
        assert len(calls) == 1
        assert [r.state for r in viewer.receipts] == ["applied"] * 3
        s.ask(fail)
        s.submit(Move())
        viewer.wait(5)
        assert "ZeroDivisionError" in viewer.receipts[3].said


def test_the_file_knows_where_one_stands_and_the_recording_what_was_done(tmp_path) -> None:
    recorder = Recorder(tmp_path / "r.jsonl", {"scene": 4})
    with session(tmp_path, recorder=recorder) as (s, viewer):
        for command in (Move(yaw=4.0), Undo(), Move(forward=0.1)):
            s.submit(command)
        viewer.wait(3)
        pose = viewer.shown[-1].outcome.poses[-1]
    with WorldFile.open(tmp_path / "w.mosaic") as world:
        assert world.meta["walk"]["pose"] == pytest.approx(pose.flatten().tolist())
        assert world.meta["name"] == "room"
    found = Recording.read(tmp_path / "r.jsonl")
    assert [r.command for r in found.commands] == [Move(yaw=4.0), Move(forward=0.1)], "what was refused is not in it"


def test_a_recording_that_cannot_be_written_ends_and_the_walk_goes_on(tmp_path, monkeypatch) -> None:
    recorder = Recorder(tmp_path / "r.jsonl", {"scene": 4})
    with session(tmp_path, recorder=recorder) as (made, viewer):
        made.submit(Move(yaw=5.0))
        viewer.wait(1)
        whole, sync = (tmp_path / "r.jsonl").read_bytes(), os.fsync

        def full(number: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(recording, "os", SimpleNamespace(fsync=full))
        made.submit(Move(yaw=5.0))
        viewer.wait(3)
        monkeypatch.setattr(recording, "os", SimpleNamespace(fsync=sync))
        made.submit(Move(yaw=5.0))
        viewer.wait(4)
        told = [(r.seq, r.state) for r in viewer.receipts]
        assert told == [(1, "applied"), (0, "refused"), (2, "applied"), (3, "applied")], "what was done was done"
        said = viewer.receipts[1].said
        assert "No space left" in said and "the recording ends here" in said
        assert [s.receipt.seq for s in viewer.shown] == [1, 2, 3]
    assert (tmp_path / "r.jsonl").read_bytes().startswith(whole)
    kept = Recording.read(tmp_path / "r.jsonl").commands
    assert len(kept) <= 2, "without one command, those after it are no walk"


def test_after_the_end_nothing_is_received(tmp_path) -> None:
    with session(tmp_path) as (s, _):
        s.stop()
        assert s.submit(Move()).state == "busy"
