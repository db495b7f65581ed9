"""The heart of a live session: equal commands give equal bits, the file is always current, edits show and come back."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.live.scenes import THING, UP, remembered, reopened, scene, views, walk

from mosaicmem.apps.cli.placement import Placement
from mosaicmem.apps.tui.questions import look_back, share_now
from mosaicmem.errors import ConfigError, GeometryError, InputError
from mosaicmem.geometry.se3 import transform_points
from mosaicmem.io.world import WorldFile, verify
from mosaicmem.live.commands import Edit, Jump, Load, Memory, Move, Redo, Save, Say, Undo, parse, parse_choice
from mosaicmem.live.steps import STEEPEST, path_of
from mosaicmem.live.walk import Walk, describe
from mosaicmem.memory import editing, retrieval
from mosaicmem.memory.retrieval import EDGE

ERASE = Edit("erase", parse_choice(THING))
OUT = [Move(forward=0.1), Move(yaw=6.0), Move(right=0.1, tilt=-4.0)]
BACK = [Move(right=-0.1, tilt=4.0), Move(yaw=-6.0), Move(forward=-0.1)]


def shown(w: Walk) -> np.ndarray:
    return w.look().frames_u8[-1].astype(int)


def test_a_step_turns_to_the_right_looks_up_and_walks_on_the_level() -> None:
    start = views([0.0])
    tilted = path_of(Move(forward=1.0), start, UP, 4)
    assert len(tilted) == 4
    steps = torch.cat([start.centers, tilted.centers]).diff(dim=0)
    assert torch.allclose(steps, steps[:1].expand(4, 3)), "evenly"
    assert float((tilted.centers[-1] - start.centers[0]).norm()) == pytest.approx(1.0)
    assert float((tilted.centers[-1] - start.centers[0]) @ UP) == pytest.approx(0.0, abs=1e-12)
    assert torch.allclose(path_of(Move(forward=1.0), start, UP, 4).viewmats[:, :3, :3], start.viewmats[:, :3, :3])
    turned = path_of(Move(yaw=30.0), start, UP, 1)
    assert float(turned.forward[0] @ start.right[0]) > 0.4
    assert float(turned.forward[0] @ UP) == pytest.approx(float(start.forward[0] @ UP))
    up = path_of(Move(tilt=20.0), start, UP, 2)
    rise = torch.rad2deg(torch.asin(up.forward @ UP)) - torch.rad2deg(torch.asin(start.forward[0] @ UP))
    assert rise.tolist() == pytest.approx([10.0, 20.0])
    assert torch.allclose(path_of(Move(right=1.0), start, UP, 1).centers[0] - start.centers[0], start.right[0])


def test_nobody_can_look_further_up_than_allowed() -> None:
    camera = views([0.0])
    for _ in range(6):
        camera = path_of(Move(tilt=60.0), camera, UP, 1)
    assert float(torch.rad2deg(torch.asin(camera.forward[0] @ UP))) == pytest.approx(STEEPEST)


def test_equal_commands_give_equal_bits_and_others_do_not(tmp_path) -> None:
    def digests(name: str, commands: list) -> list[str]:
        w = walk(tmp_path / name, invents=True)
        with w.world:
            return [w.do(command).digest(w.state.store) for command in commands]

    first, second = digests("a.mosaic", OUT), digests("b.mosaic", OUT)
    assert first == second
    assert len(set(first)) == len(OUT)
    assert digests("c.mosaic", [Move(forward=0.11), *OUT[1:]]) != first


@pytest.mark.parametrize("generates", [True, False])
def test_whoever_comes_back_sees_what_was_there(tmp_path, generates: bool) -> None:
    w = walk(tmp_path / "w.mosaic", generates=generates)
    with w.world:
        w.do(Move())
        before = shown(w)
        for command in OUT:
            w.do(command)
        assert np.abs(shown(w) - before).mean() > 5, "the walk led somewhere else"
        for command in BACK:
            w.do(command)
        assert np.abs(shown(w) - before).mean() < 0.5
        assert w.frame == 3 + 1 + len(OUT) + len(BACK), "three keyframes, one step, and a frame a step"


def test_the_file_holds_every_step_before_anyone_is_told(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic", invents=True)
    with w.world:
        known = len(w.world.store)
        for command in [Move(yaw=25.0), Move(yaw=25.0)]:
            w.do(command)
            with WorldFile.open(tmp_path / "w.mosaic") as reader:
                assert len(reader.store) == len(w.state.store) > known
                assert reader.store.group(len(reader.store) - 1).keyframe.frame == w.frame
                assert reader.thumbnail(reader.store.group(len(reader.store) - 1).uid) is not None
            known = len(w.state.store)
        assert [op.kind for op in w.world.log()] == ["insert"] * known
    assert verify(tmp_path / "w.mosaic") == []


def test_what_was_erased_is_gone_from_the_view_at_once_and_undo_brings_every_bit_back(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic")
    with w.world:
        w.do(Move())
        before, state = shown(w), w.world.digest()
        thing = scene().render(views([0.0]).to(dtype=torch.float32)).object_id[0].numpy() == len(scene().names) - 1
        out = w.do(ERASE)
        assert "erase" in out.said
        changed = np.abs(shown(w) - before).max(-1) > 12
        assert changed[thing].mean() > 0.6, "the thing was painted over"
        far = ~np.pad(thing, 8)[4:-12, 4:-12] & (np.indices(thing.shape)[0] < 8)
        assert not changed[far].any(), "what lies far from it was left alone"
        w.do(Move())
        assert (np.abs(shown(w) - before).max(-1) > 12)[thing].mean() > 0.6, "and the next frame has not got it back"
        assert w.can_undo == "erase"
        w.do(Undo())
        assert w.world.digest() == state
        w.do(Move())
        assert np.abs(shown(w) - before).mean() < 0.5
        assert w.can_undo is None and w.can_redo
        w.do(Redo())
        assert w.world.digest() != state
        assert (np.abs(shown(w) - before).max(-1) > 12)[thing].mean() > 0.6
    assert verify(tmp_path / "w.mosaic") == []


def test_undo_takes_back_an_edit_and_leaves_what_was_walked_since(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic", invents=True)
    with w.world:
        w.do(Move(yaw=20.0))
        patches = w.state.store.num_patches
        whole = {g.uid for g in w.state.store}
        w.do(ERASE)
        gone = patches - w.state.store.num_patches
        assert gone > 0
        w.do(Move(yaw=20.0))
        w.do(Move(yaw=20.0))
        walked = {g.uid for g in w.state.store} - whole
        with_walk = w.state.store.num_patches
        assert walked
        w.do(Undo())
        assert w.state.store.num_patches == with_walk + gone
        assert {g.uid for g in w.state.store} >= walked
        w.do(Redo())
        assert w.state.store.num_patches == with_walk
        assert w.can_undo == "erase"
        assert [op.kind for op in w.world.log()][:2] == ["erase", "undo"]


def test_doing_again_after_a_walk_overwrites_nothing_that_took_the_number(tmp_path) -> None:
    """A duplicate gets a new uid; once it was taken back, a step may have got the same."""
    w = walk(tmp_path / "w.mosaic", invents=True)
    with w.world:
        w.do(Edit("duplicate", parse_choice(THING), by=(0.5, 0.0, 0.0)))
        copies = {g.uid for g in w.state.store} - {0}
        w.do(Undo())
        w.do(Move(yaw=30.0))
        taken = {g.uid: g.keyframe.frame for g in w.state.store} | {}
        assert copies & taken.keys(), "the case that this is about"
        patches = w.state.store.num_patches
        w.do(Redo())
        now = {g.uid: g.keyframe.frame for g in w.state.store}
        assert {uid: now[uid] for uid in taken} == taken
        assert len(now) == len(taken) + len(copies)
        w.do(Undo())
        assert w.state.store.num_patches == patches


def test_every_edit_reaches_the_file_and_nothing_selected_is_refused(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic")
    w.others = {"more": lambda: remembered()}
    choice = parse_choice(THING)
    edits = [
        Edit("move", choice, by=(0.3, 0.0, 0.0)),
        Edit("duplicate", choice, by=(0.0, -0.3, 0.0)),
        Edit("rotate", choice, degrees=45.0),
        Edit("scale", choice, factor=0.5),
        Edit("splice", other="more"),
        Edit("erase", parse_choice({"kind": "frames", "first": 0, "last": 0})),
        Edit("erase", parse_choice({"kind": "box", "low": [9, 0, 0], "high": [-9, -9, -9]})),
    ]
    with w.world:
        states = [w.world.digest()]
        for edit in edits:
            w.do(edit)
            states.append(w.world.digest())
            assert w.world.log()[0].kind == edit.verb
        assert len(set(states)) == len(states)
        for state in reversed(states[:-1]):
            w.do(Undo())
            assert w.world.digest() == state
        with pytest.raises(InputError, match="nothing is selected"):
            w.do(Edit("erase", parse_choice({"kind": "sphere", "point": [99, 0, 0], "radius": 1})))
        with pytest.raises(ConfigError, match="nothing to undo"):
            w.do(Undo())
        with pytest.raises(ConfigError, match="there are more"):
            w.do(Edit("splice", other="elsewhere"))
        assert w.world.digest() == states[0]


def test_one_stands_where_one_stood_and_an_edit_of_an_earlier_session_can_be_taken_back(tmp_path) -> None:
    path = tmp_path / "w.mosaic"
    w = walk(path)
    with w.world:
        state = w.world.digest()
        for command in [*OUT, ERASE]:
            w.do(command)
        w.stand()
        pose, before = w.state.camera.c2w, shown(w)
    again = reopened(path)
    with again.world:
        assert torch.allclose(again.state.camera.c2w, pose, atol=1e-12)
        assert np.abs(shown(again) - before).mean() < 6
        assert again.can_undo == "erase"
        again.do(Undo())
        assert again.world.digest() == state
        assert again.can_undo is None


def test_a_jump_shows_what_memory_shows_there_and_refuses_where_it_shows_nothing(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic")
    with w.world:
        w.do(Move())
        frame, before = w.frame, shown(w)
        for command in OUT:
            w.do(command)
        w.do(Jump(frame=frame))
        assert np.abs(shown(w) - before).mean() < 0.5
        assert w.frame == frame + len(OUT) + 1
        pose = tuple(views([40.0]).c2w[0].flatten().tolist())
        w.do(Jump(pose=pose))
        assert float(w.mosaic.coverage[0]) > 0.8
        here, number = w.state.camera.c2w.clone(), w.frame
        nowhere = views([0.0]).c2w[0].clone()
        nowhere[:3, 3] += 50
        with pytest.raises(GeometryError, match="shows nothing"):
            w.do(Jump(pose=tuple(nowhere.flatten().tolist())))
        with pytest.raises(InputError, match="not of this walk"):
            w.do(Jump(frame=12345))
        mirrored = torch.diag(torch.tensor([-1.0, 1, 1, 1])).flatten().tolist()
        with pytest.raises(GeometryError, match="mirrored"):
            w.do(Jump(pose=tuple(mirrored)))
        assert torch.equal(w.state.camera.c2w, here) and w.frame == number


def test_a_save_never_moves(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic")
    with w.world:
        w.do(Save("whole"))
        state, pose = w.world.digest(), w.state.camera.c2w
        for _ in range(2):
            w.do(Move(forward=0.2))
            w.do(ERASE)
            assert w.world.digest() != state
            w.do(Load("whole"))
            assert w.world.digest() == state
            assert torch.allclose(w.state.camera.c2w, pose)
            assert w.can_undo is None
        assert {"main", "whole", "whole 2", "whole 3"} == {branch.name for branch in w.world.branches}
        with pytest.raises(ConfigError, match="exists already"):
            w.do(Save("whole"))
        with pytest.raises(ConfigError, match="there are whole"):
            w.do(Load("other"))


def test_words_add_up_and_are_taken_back_and_memory_can_be_switched_off(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic")
    with w.world:
        w.do(Say("the light goes out"))
        w.do(Say("the ball turns blue."))
        assert w.state.prompt == "a room. the light goes out. the ball turns blue."
        assert w.state.avoid == "a room.", "guidance leads away from nothing happening"
        w.do(Move(yaw=0.5))
        assert w.state.avoid == "", "by then it has begun"
        w.do(Say("the ball turns red"))
        assert w.state.avoid == "a room. the light goes out. the ball turns blue."
        w.do(Say(""))
        assert (w.state.prompt, w.state.avoid) == ("a room.", "")
        w.do(Move(yaw=8.0))
        with_memory = shown(w)
        w.do(Move(yaw=-8.0))
        w.do(Memory(False))
        w.do(Move(yaw=8.0))
        assert np.abs(shown(w) - with_memory).mean() > 1, "the last frame alone knows less"
    only = walk(tmp_path / "o.mosaic", generates=False)
    with only.world:
        for command in (Say("rain"), Memory(False)):
            with pytest.raises(ConfigError, match="nothing is generated"):
                only.do(command)


def placed(w: Walk) -> torch.Tensor:
    """Where the patches of the other world went, that is of the newest three groups."""
    return torch.cat([w.world.store.centers[slice(*w.world.store.offsets[g : g + 2])] for g in (3, 4, 5)]).double()


def test_another_world_goes_beside_above_or_door_to_door_as_on_the_command_line(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic", generates=False)
    other = remembered()
    w.others = {"room": lambda: other}
    points = other.centers.double()
    with w.world:
        for layout in ("horizontal", "vertical"):
            w.do(Edit("splice", other="room", layout=layout, offset=0.5))
            wanted = editing.layout_transform(points, points, layout, 0.5)
            assert torch.allclose(placed(w), transform_points(wanted, points), atol=1e-5)
            w.do(Undo())
        place, ahead = (0.5, -1.3, 0.25), (0.0, 0.3, 2.0)
        line = Placement("doorway", door_a="0.5,-1.3,0.25,0", door_b="0,0,0,0", door_ratio=1.5)
        door = Edit("splice", other="room", layout="doorway", door=place, facing=ahead, factor=1.5)
        seen = views([0.0, 40.0, -40.0])
        for frame, i in ((None, 0), (2, 2)):
            heading = float(torch.rad2deg(torch.atan2(seen.forward[i, 0], seen.forward[i, 2])))
            stood = ",".join(f"{x:.9f}" for x in seen.centers[i].tolist())
            wanted = replace(line, door_b=f"{stood},{heading:.9f}").given()
            assert wanted is not None
            out = w.do(replace(door, other_frame=frame))
            assert "at the doorway" in out.said and w.can_undo == "splice"
            assert torch.allclose(placed(w), transform_points(wanted, points), atol=1e-4)
            eye = transform_points(wanted, seen.centers[i : i + 1])[0]
            assert eye.tolist() == pytest.approx(place, abs=1e-6), "who stood there stands in the doorway"
            w.do(Undo())
        for wrong in (replace(door, other_frame=9), replace(door, facing=(0.0, 5.0, 0.0))):
            with pytest.raises(ConfigError):
                w.do(wrong)


def test_memory_alone_hatches_what_it_does_not_know(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic", generates=False)
    with w.world:
        w.do(Move(yaw=90.0))
        frame = w.look().frames_u8[0]
        hatch = np.isin(frame, (34, 58)).all(-1)
        assert hatch.mean() == pytest.approx(1 - float(w.mosaic.coverage[0]), abs=0.02)
        assert hatch.mean() > 0.2
        assert len(w.world.store) == 3, "looking writes nothing"


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {"do": "fly"},
        {"do": "move", "forward": float("nan")},
        {"do": "move", "forward": True},
        {"do": "move", "forward": 10**400},
        {"do": "edit", "verb": "move", "choice": THING, "by": [0, -(10**400), 0]},
        {"do": "move", "yaw": 500},
        {"do": "move", "file": "/etc/passwd"},
        {"do": "jump"},
        {"do": "jump", "frame": 1, "pose": [0.0] * 16},
        {"do": "jump", "pose": [0.0] * 15},
        {"do": "say", "text": "x" * 201},
        {"do": "say", "text": "a\nb"},
        {"do": "save", "name": "../up"},
        {"do": "save"},
        {"do": "memory", "on": 1},
        {"do": "edit", "verb": "erase"},
        {"do": "edit", "verb": "explode", "choice": THING},
        {"do": "edit", "verb": "move", "choice": THING},
        {"do": "edit", "verb": "erase", "choice": {"kind": "sphere", "point": [0, 0, 0]}},
        {"do": "edit", "verb": "erase", "choice": {"kind": "planet", "point": [0, 0, 0]}},
        {"do": "edit", "verb": "erase", "choice": THING, "by": [0, 0, 0]},
        {"do": "edit", "verb": "splice", "choice": THING, "other": "b"},
        {"do": "edit", "verb": "splice", "other": "b", "layout": "inside"},
        {"do": "edit", "verb": "splice", "other": "b", "layout": "doorway", "door": [0, 0, 0]},
        {"do": "edit", "verb": "splice", "other": "b", "door": [0, 0, 0], "facing": [0, 0, 1]},
        {"do": "edit", "verb": "splice", "other": "b", "layout": "doorway", "door": [0, 0, 0], "facing": [0, 0, 0]},
        {"do": "edit", "verb": "splice", "other": "b", "layout": "vertical", "factor": 2},
        {"do": "edit", "verb": "splice", "other": "b", "offset": -1},
        {"do": "edit", "verb": "move", "choice": THING, "by": [0, 0, 1], "layout": "vertical"},
        {"do": "edit", "verb": "scale", "choice": THING, "factor": 0},
        {"do": "edit", "verb": "move", "choice": THING, "by": [0, 0, 1e9]},
    ],
)
def test_what_is_no_command_is_refused_in_words(raw) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(raw)
    assert 10 < len(str(caught.value)) < 400


def test_lengths_have_a_unit_where_the_file_knows_it(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic")
    with w.world:
        for metric, unit in ((None, ""), (False, ""), (True, "m")):
            w.world.describe({**w.world.meta, "metric": metric})
            assert describe(w)["unit"] == unit


@pytest.mark.parametrize(("invents", "edge"), [(True, EDGE), (False, None)])
def test_memory_is_shown_as_the_generator_is_told_of_it(tmp_path, monkeypatch, invents, edge) -> None:
    """Steps, edits, the picture of what memory shows and the terminal's look back ask in one way. Where one jumps to is
    a picture of one moment, without all places of what moves, as where one enters a memory."""
    asked = []

    class Spied(retrieval.Call):
        def __init__(self, store, cameras, grid, config) -> None:
            asked.append(config.edge)
            super().__init__(store, cameras, grid, config)

    w = walk(tmp_path / "w.mosaic", invents=invents)
    with w.world:
        monkeypatch.setattr(retrieval, "Call", Spied)
        first = w.frame
        for command in (Move(yaw=6.0), ERASE, Undo()):
            w.do(command)
            assert len(w.mosaic.cameras) == 1
        assert look_back(w, first).share > 0 and share_now(w, first) > 0
        assert len(asked) > 6 and set(asked) == {edge}
        asked.clear()
        w.do(Jump(frame=first))
        assert asked[0] is None
        assert len(w.mosaic.cameras) == 1
        assert len(asked) > 1 and set(asked[1:]) == {edge}
