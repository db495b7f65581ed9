"""`mosaicmem edit`: what it writes is the library's edit, one operation, and undo takes it back bit for bit."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tests.memory.edit_scene import AT, cameras, remember, room

from mosaicmem.apps.cli.memory_folder import describe_memory, save_memory
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.io.files import read_image
from mosaicmem.io.world import WorldFile
from mosaicmem.memory import editing
from mosaicmem.memory.selection import box

GRID = TokenGrid(48, 36, stride=1, patch=2, temporal=1)
BOX = (torch.tensor(AT) - 0.6, torch.tensor(AT) + torch.tensor([0.6, 0.4, 0.6]))
CORNERS = ",".join(f"{float(x):.4f}" for x in torch.cat(BOX))
PLACE = ",".join(map(str, AT))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world file of four views of a solid in a room."""
    folder = tmp_path_factory.mktemp("room")
    seen = cameras(GRID, [0.0, 60.0, 180.0, 270.0])
    store = remember(room(), GRID, seen).store
    save_memory(folder, store, describe_memory(store, GRID, seen.Ks[0], "pixel-shuffle-1x1", None, "a room", True))
    return folder


@pytest.fixture
def world(original: Path, tmp_path: Path) -> Path:
    shutil.copytree(original, tmp_path / "room")
    return tmp_path / "room" / "world.mosaic"


def state(path: Path) -> tuple[str, torch.Tensor, list[str]]:
    """Digest, patch centres and log of a world."""
    with WorldFile.open(path) as world:
        return world.digest(), world.store.centers.clone(), [operation.kind for operation in world.log()]


def test_a_move_is_the_librarys_and_undo_takes_it_back(run, world, tmp_path) -> None:
    digest, _, log = state(world)
    with WorldFile.open(world) as file:
        expected = editing.move(file.store, box(*BOX), torch.tensor([-0.5, 0.0, 0.25])).centers.clone()
    preview = tmp_path / "moved.png"
    ran = run(
        "edit", world, "move", "--box", CORNERS, "--by", "-0.5,0,0.25", "--preview", preview, "--note", "left", "--json"
    )
    assert ran.code == 0, ran.err
    after, centers, newer = state(world)
    assert torch.equal(centers, expected)
    assert (newer, after != digest) == (["move", *log], True)
    assert ran.json["selected"] > 100 and ran.json["patches"] == len(centers)
    picture = read_image(preview)
    assert len({tuple(color) for color in picture[::5, ::5].reshape(-1, 3).tolist()}) > 50
    half = picture.shape[1] // 2
    assert (picture[:, :half] != picture[:, -half:]).any(), "before and after differ"
    assert run("world", "log", world).out.count("left") == 1
    assert run("world", "undo", world).code == 0
    assert state(world)[0] == digest
    assert run("world", "redo", world).code == 0
    assert state(world)[0] == after


@pytest.mark.parametrize(
    ("line", "patches"),
    [
        (("erase", "--sphere", f"{PLACE},0.7"), "fewer"),
        (("rotate", "--thing", PLACE.replace("-0.45", "-0.9"), "--degrees", "-30"), "same"),
        (("scale", "--box", CORNERS, "--factor", "0.5", "--about", "2.7,0,-0.9"), "same"),
        (("duplicate", "--box", CORNERS, "--by", "1,0,0"), "more"),
        (("mirror", "--box", CORNERS), "same"),
        (("mirror", "--all", "--normal", "0,1,0", "--about", "0,-3,0"), "same"),
        (("freeze", "--origin", "observed", "--frames", "0:1"), "same"),
        (("restore", "--all", "--at", "-1"), "same"),
        (("erase", "--frames", "1:", "--invert"), "fewer"),
    ],
)
def test_every_verb_writes_one_operation_that_undo_takes_back(run, world, line, patches) -> None:
    digest, centers, log = state(world)
    ran = run("edit", world, *line, "--json")
    assert ran.code == 0, ran.err
    after, now, newer = state(world)
    assert newer == [line[0], *log] and after != digest and ran.json["operation"] is not None
    assert {"fewer": len(now) < len(centers), "same": len(now) == len(centers), "more": len(now) > len(centers)}[
        patches
    ]
    assert run("world", "undo", world).code == 0
    assert state(world)[0] == digest


def test_splice_puts_a_door_to_a_door(run, world, original) -> None:
    _, centers, _ = state(world)
    line = ("--layout", "doorway", "--door-a", "0,0,1,270", "--door-b", "5,0,-1,90")
    ran = run("edit", world, "splice", original, *line, "--json")
    assert ran.code == 0, ran.err
    _, both, log = state(world)
    assert len(both) == 2 * len(centers) and log[0] == "splice"
    # out of a's door looking -x is into b's looking +x: nothing turns, b's threshold comes to a's
    expected = centers + torch.tensor([-5.0, 0, 2])
    torch.testing.assert_close(both[len(centers) :], expected, rtol=0, atol=1e-5)


def test_a_splice_says_what_was_added(run, world, original) -> None:
    assert "splice another world; now" in run("edit", world, "splice", original, "--offset", "2").out


def test_a_preview_that_is_no_picture_is_refused_before_the_work(run, world, tmp_path) -> None:
    ran = run("edit", world, "erase", "--all", "--preview", tmp_path / "gone.xyz")
    assert (ran.code, "ends in .png" in ran.err) == (3, True)
    ran = run("world", "info", world, "--thumbnails", tmp_path / "sheet")
    assert (ran.code, "ends in .png" in ran.err) == (3, True)
    assert state(world)[2] == ["remember"]


def test_a_dry_run_and_what_is_refused_leave_the_file_alone(run, world, tmp_path) -> None:
    before = world.read_bytes()
    dry = run("edit", world, "erase", "--all", "--dry-run", "--json")
    assert (dry.code, dry.json["patches"], dry.json["operation"]) == (0, 0, None)
    (tmp_path / "there.png").write_bytes(b"")
    for line, code, said in [
        (("erase", "--sphere", "90,0,0,1"), 3, "nothing is selected; memory spans"),
        (("erase",), 2, "what is to be edited"),
        (("move", "--all"), 2, "--by"),
        (("move", "--all", "--by", "1,2"), 2, "3 numbers"),
        (("scale", "--all", "--factor", "0"), 3, "factor"),
        (("erase", "--all", "--reach", "1"), 2, "--thing"),
        (("erase", "--frames", "3"), 2, "FIRST:LAST"),
        (("restore", "--all", "--at", "noon"), 2, "--at"),
        (("erase", "--all", "--preview", tmp_path / "there.png"), 2, "there.png"),
        (("move", "--all", "--by", "1,0,0", "--preview", tmp_path / "p.png", "--view", "99"), 3, "no such frame"),
        (("splice", world, "--layout", "doorway"), 2, "--door-a"),
        (("splice", world, "--door-a", "0,0,0,0"), 2, "doorway"),
        (("shrink", "--all"), 2, "no such verb"),
    ]:
        ran = run("edit", world, *line)
        assert ran.code == code and said in ran.err, (line, ran)
    assert world.read_bytes() == before
    assert run("edit", tmp_path / "none.mosaic", "erase", "--all").code == 3


@pytest.mark.parametrize(("text", "seconds"), [("14:00", 50400.0), ("0:01:30", 90.0), ("-2.5", -2.5)])
def test_a_time_is_seconds_or_what_a_clock_shows(run, world, text, seconds) -> None:
    ran = run("edit", world, "restore", "--all", "--at", text, "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["arguments"]["at"] == seconds


def test_an_edit_that_changes_nothing_writes_nothing(run, world) -> None:
    before = state(world)
    ran = run("edit", world, "thaw", "--all")
    assert ran.code == 0 and "already" in ran.out
    assert state(world)[2] == before[2]
