"""A recording played into a session: counted as equal or not, and whoever watches may take over."""

from __future__ import annotations

import threading

from tests.live.scenes import walk

from mosaicmem.live.commands import Command, Move, Say
from mosaicmem.live.player import PLAYER, Player
from mosaicmem.live.recording import Recorded, Recording
from mosaicmem.live.session import Receipt, Session

COMMANDS: list[Command] = [Move(yaw=4.0), Move(forward=0.1), Move(yaw=-4.0)]


def recorded(tmp_path, gap: float = 0.0) -> Recording:
    w = walk(tmp_path / "first.mosaic", generates=False)
    with w.world:
        lines = [Recorded(gap * i, c, w.do(c).digest(w.state.store)) for i, c in enumerate(COMMANDS)]
    return Recording({}, tuple(lines))


def test_a_recording_is_played_to_its_end_and_every_difference_is_counted(tmp_path) -> None:
    recording = recorded(tmp_path)
    first, *rest = recording.commands
    wrong = Recording({}, (first, Recorded(0.0, Say("rain"), "0" * 16), *rest))
    w = walk(tmp_path / "again.mosaic", generates=False)
    session = Session(w)
    receipts: list[Receipt] = []
    session.watch(lambda m: receipts.append(m) if isinstance(m, Receipt) else None)
    session.start()
    player = Player(session, wrong)
    player.start()
    assert session.status.replaying
    player.join(90)
    assert not session.status.replaying
    assert (player.same, player.different) == (3, 1), "what is refused counts as different, the rest goes on"
    assert {r.sender for r in receipts} == {PLAYER}
    session.stop()
    w.world.close()


def test_whoever_takes_over_ends_the_recording_where_it_is(tmp_path) -> None:
    w = walk(tmp_path / "again.mosaic", generates=False)
    session = Session(w)
    began = threading.Event()
    session.watch(lambda m: began.set() if isinstance(m, Receipt) else None)
    session.start()
    player = Player(session, recorded(tmp_path, gap=600.0), longest_gap=600.0)
    player.start()
    assert began.wait(90)
    player.stop()
    player.join(90)
    assert not session.status.replaying
    assert player.same + player.different <= 1
    session.stop()
    w.world.close()
