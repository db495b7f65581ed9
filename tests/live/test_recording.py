"""A recording is a walk: read back it is the same commands, driven again it shows the same bits."""

from __future__ import annotations

import json

import pytest
from tests.live.scenes import THING, walk

from mosaicmem.errors import FormatVersionError, InputError, OutputExistsError
from mosaicmem.live.commands import (
    Command,
    Edit,
    Jump,
    Memory,
    Move,
    Redo,
    Save,
    Say,
    Undo,
    as_json,
    parse,
    parse_choice,
)
from mosaicmem.live.recording import Recorder, Recording, replay

COMMANDS: list[Command] = [
    Move(forward=0.1, yaw=5.0),
    Edit("erase", parse_choice(THING)),
    Move(),
    Undo(),
    Redo(),
    Say("the light goes out"),
    Memory(False),
    Move(yaw=-5.0),
    Memory(True),
    Save("here"),
    Jump(frame=4),
    Edit("move", parse_choice({"kind": "box", "low": [-9, -9, -9], "high": [9, 9, 9]}), by=(0.1, 0.0, 0.0)),
    Edit("splice", other="more", by=(0.0, 1.0, 0.0)),
    Edit("splice", other="more", layout="doorway", door=(0.0, 1.0, 2.0), facing=(0.0, 0.0, 1.0), other_frame=1),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: type(c).__name__)
def test_a_command_is_read_back_as_it_was(command: Command) -> None:
    assert parse(json.loads(json.dumps(as_json(command)))) == command


def recorded(tmp_path, commands=COMMANDS[:-2]):
    w = walk(tmp_path / "w.mosaic")
    with w.world, Recorder(tmp_path / "walk.jsonl", {"scene": 4}) as recorder:
        for i, command in enumerate(commands):
            recorder.add(0.5 * i, command, w.do(command).digest(w.state.store))
    return tmp_path / "walk.jsonl"


def test_a_walk_driven_again_shows_the_same_bits_and_a_changed_one_says_where_it_leaves_the_path(tmp_path) -> None:
    recording = Recording.read(recorded(tmp_path))
    assert recording.start == {"scene": 4} and not recording.cut
    assert [r.command for r in recording.commands] == COMMANDS[:-2]
    assert [r.at for r in recording.commands][:3] == [0.0, 0.5, 1.0]
    w = walk(tmp_path / "again.mosaic")
    with w.world:
        assert all(equal for _, equal in replay(w, recording))
    lines = (tmp_path / "walk.jsonl").read_text().splitlines()
    lines[3] = lines[3].replace('"yaw":0.0', '"yaw":4.0')
    (tmp_path / "other.jsonl").write_text("\n".join(lines) + "\n")
    w = walk(tmp_path / "third.mosaic")
    with w.world:
        equal = [e for _, e in replay(w, Recording.read(tmp_path / "other.jsonl"))]
    assert equal[:2] == [True, True] and not equal[2]


def test_half_a_last_line_is_left_out_wherever_it_was_cut(tmp_path) -> None:
    whole = recorded(tmp_path, COMMANDS[:3]).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == 10]
    for size in range(ends[0], len(whole) + 1):
        (tmp_path / "cut.jsonl").write_bytes(whole[:size])
        found = Recording.read(tmp_path / "cut.jsonl")
        assert len(found.commands) == sum(end <= size for end in ends) - 1
        assert found.cut == (size not in ends)


def test_what_is_no_recording_is_refused_with_its_line(tmp_path) -> None:
    good = recorded(tmp_path, COMMANDS[:2]).read_text().splitlines()
    newer = json.dumps({**json.loads(good[0]), "version": 99})
    for lines, error, words in [
        ([], InputError, "empty"),
        (['{"format":"other"}'], InputError, "no recording"),
        ([newer], FormatVersionError, "version 99"),
        ([good[0], "{"], InputError, "line 2: not valid JSON"),
        ([good[0], "[" * 5000], InputError, "line 2"),
        ([good[0], good[1].replace("forward", "sideways")], InputError, "line 2: move: nothing is known of sideways"),
        ([good[0], good[1], good[2].replace("digest", "digset")], InputError, "line 3"),
        ([good[0], '{"at":NaN,"do":"undo","digest":"0123456789abcdef"}'], InputError, "line 2"),
        ([good[0], '"' + "x" * 20000 + '"'], InputError, "20,002 characters"),
    ]:
        path = tmp_path / "bad.jsonl"
        path.write_text("".join(f"{line}\n" for line in lines))
        with pytest.raises(error, match=words):
            Recording.read(path)


def test_a_recording_replaces_nothing_unasked(tmp_path) -> None:
    (tmp_path / "r.jsonl").write_text("mine")
    with pytest.raises(OutputExistsError):
        Recorder(tmp_path / "r.jsonl", {})
    assert (tmp_path / "r.jsonl").read_text() == "mine"
