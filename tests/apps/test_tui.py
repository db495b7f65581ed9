"""The terminal interface, driven headless: keys become commands, news becomes pictures, and the file stays current."""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.live.scenes import remembered, walk

pytest.importorskip("textual", reason="needs the extra: pip install 'mosaicmem[tui]'")
from rich.console import Console
from textual.app import App
from textual.pilot import Pilot
from textual.screen import Screen
from textual.widgets import DataTable, Input, ProgressBar, RichLog, Static

from mosaicmem.apps.cli import tui
from mosaicmem.apps.tui import bench, keys, questions
from mosaicmem.apps.tui.app import SPEED, TURN, Terminal
from mosaicmem.apps.tui.dialogs import EditDialog, Form, Help, Pick
from mosaicmem.apps.tui.feed import Facts
from mosaicmem.apps.tui.link import Begun
from mosaicmem.apps.tui.settings import Settings, parsed, said, shown
from mosaicmem.apps.tui.style import HIGH_CONTRAST
from mosaicmem.apps.tui.widgets import CloudView, Meter, PictureView
from mosaicmem.apps.tui.words import Standing, described, parse_edit
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.io.world import WorldFile
from mosaicmem.live.commands import Choice, Command, Edit, Move, Say, Undo
from mosaicmem.live.player import Player
from mosaicmem.live.reasons import why
from mosaicmem.live.recording import Recorded, Recording
from mosaicmem.live.session import Session
from mosaicmem.live.steps import path_of
from mosaicmem.live.walk import Walk
from mosaicmem.models.transformer import TransformerConfig
from mosaicmem.models.world_model import SamplingConfig, WorldModel, WorldNetwork

PATIENCE = 60.0
SMALL, LARGE = (80, 24), (160, 50)
Script = Callable[[Terminal, Pilot[None]], Awaitable[None]]


async def until(pilot: Pilot[None], what: Callable[[], object]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "waited in vain"
        await pilot.pause(0.01)


async def press(pilot: Pilot[None], *names: str) -> None:
    """Press keys one after the other, each when the command of the one before has been drawn."""
    app = pilot.app
    assert isinstance(app, Terminal)
    for name in names:
        await pilot.press(name)
        await until(pilot, lambda: not app.flying)


def play(
    path: Path,
    script: Script,
    size: tuple[int, int] = SMALL,
    recording: Recording | None = None,
    generates: bool = False,
    prepare: Callable[[Walk], None] = lambda w: None,
    recorded: bool = False,
) -> Walk:
    """Run a script over a small room; the walk as it was left, its file closed."""
    w = walk(path, generates=generates)
    prepare(w)
    session = Session(w)

    def begin(tell: Callable[[str], None]) -> Begun:
        tell("a remark")
        player = None if recording is None else Player(session, recording, longest_gap=PATIENCE)
        return Begun(session, player, "a small room", "synthetic", recorded)

    async def run() -> Terminal:
        app = Terminal(begin, "mosaicmem tui --world w.mosaic")
        async with app.run_test(size=size) as pilot:
            await until(pilot, lambda: app.seen.facts is not None or app.failure)
            await script(app, pilot)
        app.beginning.join(PATIENCE)
        return app

    try:
        app = asyncio.run(run())
        assert app.failure is None
    finally:
        session.stop()
        w.world.close()
    return w


def text_of(where: App[None] | Screen[Any], selector: str) -> str:
    return str(where.query_one(selector, Static).render())


def facts(app: Terminal) -> Facts:
    assert app.seen.facts is not None
    return app.seen.facts


def ready(app: Terminal) -> str | None:
    """The words of an edit whose preview is there."""
    return app.screen._ready[0] if isinstance(app.screen, EditDialog) and app.screen._ready else None


def test_keys_walk_and_turn_by_the_steps_that_the_page_takes(tmp_path) -> None:
    w = walk(tmp_path / "a.mosaic", generates=False)
    camera, scale = w.state.camera, w.state.store.scale
    w.world.close()

    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        await press(pilot, "w", "right", "D", "down")

    after = play(tmp_path / "w.mosaic", script)
    for move in (
        Move(forward=SPEED * scale),
        Move(yaw=TURN),
        Move(right=2 * SPEED * scale),
        Move(forward=-SPEED * scale),
    ):
        camera = path_of(move, camera, w.up, 1)
    assert torch.allclose(after.state.camera.c2w, camera.c2w, atol=1e-12)
    assert after.frame == w.frame + 4
    with WorldFile.open(tmp_path / "w.mosaic") as world:
        assert np.allclose(world.meta["walk"]["pose"], after.state.camera.c2w.flatten()), "where one stands is kept"


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_everything_is_drawn_at_every_size(tmp_path, size: tuple[int, int]) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        await press(pilot, "w")
        frame, cloud = app.query_one("#frame", PictureView), app.query_one(CloudView)
        await until(pilot, lambda: not app._playing)
        drawn = frame.cells(*frame.size)
        assert frame.size.width > 8 and drawn is not None and any("▀" in line for line in drawn.lines)
        seen = cloud.cells(20, 10)
        assert seen is not None and any(ord(c) > 0x2800 for line in seen.lines for c in line)
        assert f"frame {facts(app).frame}" in text_of(app, "#stats") and "patches" in text_of(app, "#stats")
        assert "█" in text_of(app, "#growth")
        log = "\n".join(str(line.text) for line in app.query_one(RichLog).lines)
        assert "a remark" in log and "a small room" in log and "1 forward" in log
        await pilot.resize_terminal(size[0] + 30, size[1] + 8)
        await pilot.pause()
        for name in ("2", "3", "4", "1"):
            await press(pilot, name)
        assert app.query_one("#frame", PictureView).size.width > frame.size.width // 2

    play(tmp_path / "w.mosaic", script, size)


def test_tabs_are_reached_by_their_keys_and_help_lists_every_key(tmp_path) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        seen = []
        for name in ("tab", "tab", "tab", "tab", "shift+tab", "2", "3", "1"):
            await press(pilot, name)
            seen.append(app.tab)
        tabs = list(keys.TABS)
        assert seen == [*tabs[1:], tabs[0], tabs[3], tabs[1], tabs[2], tabs[0]]
        await press(pilot, "question_mark")
        assert isinstance(app.screen, Help)
        await press(pilot, "escape", "y")
        assert app.clipboard == "mosaicmem tui --world w.mosaic", "the command that is shown is the one that runs"
        await press(pilot, "slash")
        assert len(app.screen_stack) == 2 and not isinstance(app.screen, Help), "the command palette"
        await press(pilot, "escape")
        assert len(app.screen_stack) == 1 and app.is_running

    play(tmp_path / "w.mosaic", script)
    every = [key for group in keys.GROUPS.values() for key in group]
    for key in every:
        name = key.action.split("(")[0]
        assert callable(getattr(Terminal, f"action_{name}", None)), key.action
    names = [name for key in every for name in key.keys.split(",")]
    assert len(names) == len(set(names)), "no key does two things"
    for name in ("tab", "shift+tab", "1", "2", "3", "4", "r", "q", "escape", "ctrl+c", "?", "/"):
        assert name in names, "a key of the predecessor, or promised"


@pytest.mark.parametrize("key", ["q", "ctrl+c"])
def test_it_ends_at_once_and_the_file_says_where_one_stood(tmp_path, key: str) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        await press(pilot, "w")
        if key.startswith("ctrl"):  # from a dialog, too
            await press(pilot, "t")
        await pilot.press(key)
        await until(pilot, lambda: not app.is_running)

    w = play(tmp_path / "w.mosaic", script)
    with WorldFile.open(tmp_path / "w.mosaic") as world:
        assert world.meta["walk"]["frame"] == w.frame


def test_an_edit_is_seen_before_it_is_done_and_is_taken_back(tmp_path) -> None:
    found: list[tuple[int, str]] = []

    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        before, groups = facts(app).patches, facts(app).groups
        await press(pilot, "4", "space", "down", "enter")
        await until(pilot, lambda: ready(app))
        assert "frames 0 to 1" in text_of(app.screen, "#what")
        chosen = sum(group.patches for group in groups if group.frame <= 1)
        effect = text_of(app.screen, "#effect")
        assert f"changes {chosen:,} of {before:,} patches, {before - chosen:,} afterwards" in effect
        assert facts(app).patches == before, "a preview changes nothing"
        pictures = [app.screen.query_one(f"#{name}", PictureView).picture for name in ("before", "after")]
        assert (pictures[0] != pictures[1]).any()
        await press(pilot, "escape")
        assert facts(app).patches == before and len(app.screen_stack) == 1
        await press(pilot, "4", "enter")
        await until(pilot, lambda: ready(app))
        await pilot.press("enter")
        await until(pilot, lambda: facts(app).patches < before)
        found.append((facts(app).patches, facts(app).undo or ""))
        assert app.query_one("#groups", DataTable).row_count == len(groups) - 1
        await press(pilot, "z")
        assert facts(app).patches == before and facts(app).redo
        await press(pilot, "Z")
        assert facts(app).patches == found[0][0]

    play(tmp_path / "w.mosaic", script)
    assert found[0][1] == "erase"
    with WorldFile.open(tmp_path / "w.mosaic") as world:
        assert world.store.num_patches == found[0][0], "what was confirmed is in the file"


def test_the_thing_in_the_view_is_moved_by_words(tmp_path) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        await pilot.click("#frame")
        await until(pilot, lambda: ready(app))
        line = app.screen.query_one(Input)
        line.value = "move 1 2"
        await until(pilot, lambda: "3 numbers" in text_of(app.screen, "#effect"))
        await pilot.press("enter")
        assert isinstance(app.screen, EditDialog), "nothing is done that was not seen before"
        line.value = "move 0.3 0 0"
        await until(pilot, lambda: ready(app) == line.value)
        await press(pilot, "enter")
        await until(pilot, lambda: facts(app).undo == "move")

    w = play(tmp_path / "w.mosaic", script)
    assert w.can_undo == "move"


async def fill(pilot: Pilot[None], **lines: str) -> None:
    """Write lines of the settings."""
    for name, text in lines.items():
        pilot.app.screen.query_one(f"#{name}", Input).value = text
    await pilot.pause()


def test_settings_change_how_far_a_key_goes_and_how_it_looks(tmp_path) -> None:
    before = walk(tmp_path / "a.mosaic", generates=True)
    camera, scale = before.state.camera, before.state.store.scale
    before.world.close()

    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        await pilot.press("comma")
        assert isinstance(app.screen, Form) and not app.screen.query("#guidance"), "there is no model to lead"
        await fill(pilot, step="2", turn="5", theme="pink")
        wrong = text_of(app.screen, "#wrong")
        assert "turn: '5': expected 0.1 to 4" in wrong and "theme: 'pink'" in wrong, "all that is wrong"
        await pilot.press("enter")
        assert isinstance(app.screen, Form), "what is wrong is not taken"
        await fill(pilot, turn="0.5", theme="high-contrast", memory="off", every="off")
        assert text_of(app.screen, "#wrong") == ""
        await press(pilot, "enter")
        assert app.theme == "high-contrast"
        await press(pilot, "w", "right")
        assert not app._playing, "the last frame of a step alone is shown"
        log = "\n".join(str(line.text) for line in app.query_one(RichLog).lines)
        assert "set: step 2.0" in log and "set: memory off" in log and "motion off" in log
        await pilot.press("comma")
        assert app.screen.query_one("#step", Input).value == "2.0"
        await fill(pilot, step="3")
        await press(pilot, "escape")
        assert app.settings.step == 2.0, "Esc leaves all as it was"

    after = play(tmp_path / "w.mosaic", script, generates=True)
    frames = before.maker.frames
    for move in (Move(forward=2 * SPEED * scale * frames), Move(yaw=TURN * 0.5 * frames)):
        camera = path_of(move, camera, before.up, frames)[frames - 1]
    assert torch.allclose(after.state.camera.c2w, camera.c2w, atol=1e-12)
    assert after.memory is False


def led(w: Walk) -> None:
    """A trained generator in place of the compositor; it makes no frame here."""
    sizes = TransformerConfig(
        num_attention_heads=1, attention_head_dim=32, in_channels=4, out_channels=4, text_dim=8, freq_dim=8,
        ffn_dim=8, num_layers=1,
    )  # fmt: skip
    generator = WorldModel(WorldNetwork(sizes, words=8), "tiny", use_memory=False)
    w.maker = replace(w.maker, models=replace(w.maker.models, generator=generator))


def sampling(w: Walk) -> SamplingConfig:
    assert isinstance(w.maker.models.generator, WorldModel)
    return w.maker.models.generator.sampling


def test_how_the_model_samples_is_set_from_the_next_step_on(tmp_path) -> None:
    asked = replace(SamplingConfig(), guidance=2.5, steps=5, guidance_limit=0.2)

    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        await pilot.press("comma")
        assert app.screen.query_one("#guidance", Input).value == "1.0"
        assert app.screen.query_one("#guidance_limit", Input).value == "0.1"
        await fill(pilot, guidance="2.5", steps="4.5", guidance_limit="0")
        wrong = text_of(app.screen, "#wrong")
        assert "guidance limit: '0': expected 0.001 to 10" in wrong and "steps: '4.5': expected 1 to 50" in wrong
        await fill(pilot, steps="5", guidance_limit="0.2")
        await pilot.press("enter")
        await until(pilot, lambda: facts(app).sampling == asked)
        log = "\n".join(str(line.text) for line in app.query_one(RichLog).lines)
        assert "--set sampling.guidance=2.5" in log, "how to have it from the beginning"

    w = play(tmp_path / "w.mosaic", script, LARGE, generates=True, prepare=led)
    assert sampling(w) == asked
    model = w.maker.models.generator
    assert isinstance(model, WorldModel) and not model.use_memory, "all else is as it was"


@pytest.mark.parametrize("name", ["steps", "guidance", "event_guidance", "guidance_limit"])
def test_a_line_of_the_form_changes_its_setting_alone(name) -> None:
    now = Settings(True, SamplingConfig(), theme="pink")
    lines = shown(now)
    assert parsed(lines, now, ["pink"]) == now, "what is shown is what is"
    after = parsed(lines | {name: "3"}, now, ["pink"])
    assert after == replace(now, sampling=replace(SamplingConfig(), **{name: 3}))
    assert said(now, after)[0].endswith(f"(--set sampling.{name}={getattr(after.sampling, name)})")


def test_a_walk_that_is_written_down_keeps_its_sampling(tmp_path) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        await pilot.press("comma")
        assert not app.screen.query("#guidance") and app.screen.query("#step")
        await pilot.press("enter")

    w = play(tmp_path / "w.mosaic", script, generates=True, prepare=led, recorded=True)
    assert sampling(w) == SamplingConfig()


def test_terminals_of_16_colours_begin_in_high_contrast(tmp_path, monkeypatch) -> None:
    found: list[str] = []

    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        found.append(app.theme)

    for name in ("standard", "truecolor"):
        monkeypatch.setattr(Console, "color_system", name)
        play(tmp_path / f"{name}.mosaic", script)
    assert found == ["high-contrast", "textual-dark"]
    assert contrast(HIGH_CONTRAST.foreground, HIGH_CONTRAST.background) == pytest.approx(21.0)
    for colour in (HIGH_CONTRAST.primary, HIGH_CONTRAST.warning, HIGH_CONTRAST.error, HIGH_CONTRAST.success):
        assert contrast(colour, HIGH_CONTRAST.background) >= 7.0, "level AAA of WCAG"


def contrast(a: str | None, b: str | None) -> float:
    """Ratio of luminances, WCAG 2.2."""
    light = []
    for colour in (a, b):
        assert colour is not None
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)


def test_another_world_stands_behind_a_doorway_in_the_middle_of_the_view(tmp_path) -> None:
    def with_attic(w: Walk) -> None:
        w.others = {"the attic": remembered}

    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        before = facts(app).patches
        await pilot.press("g")
        await until(pilot, lambda: ready(app))
        assert ready(app) == "splice 'the attic' doorway"
        assert f"adds {before:,} patches to {before:,}" in text_of(app.screen, "#effect")
        before_view = app.screen.query_one("#before", PictureView).picture
        assert before_view is not None and (before_view == questions.MARK).all(-1).any(), "the door is marked"
        await press(pilot, "enter")
        await until(pilot, lambda: facts(app).patches == 2 * before)

    w = play(tmp_path / "w.mosaic", script, prepare=with_attic)
    was = remembered()
    point = why(walk(tmp_path / "v.mosaic", generates=False), 0.5, 0.5)["point"]
    eye = w.state.camera.c2w[0, :3, 3]
    shift = w.state.store.centers[was.num_patches :].double().mean(0) - was.centers.double().mean(0)
    # its first frame was seen from where one stands now, looking the same way
    level = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    assert torch.allclose(shift, (torch.tensor(point, dtype=torch.float64) - eye) * level, atol=1e-3)

    async def none(app: Terminal, pilot: Pilot[None]) -> None:
        await pilot.press("g")
        assert len(app.screen_stack) == 1, "there is no other world"

    play(tmp_path / "u.mosaic", none)


def test_the_frame_is_coloured_by_origin_and_back(tmp_path) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        frame = app.query_one("#frame", PictureView)
        await until(pilot, lambda: frame.picture is not None)
        plain = frame.picture
        assert "seen" not in text_of(app, "#stats")
        await press(pilot, "c")
        assert plain is not None and frame.picture is not None and (frame.picture != plain).any()
        assert "seen " in text_of(app, "#stats") and "generated 0%" in text_of(app, "#stats")
        await press(pilot, "c")
        assert (frame.picture == plain).all()

    play(tmp_path / "w.mosaic", script)


def test_chosen_frames_are_seen_beside_the_list_where_there_is_room(tmp_path) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        kept = app.query_one("#kept", PictureView)
        await press(pilot, "4")
        await until(pilot, lambda: kept.picture is not None)
        first = kept.picture
        await pilot.press("down")
        await until(pilot, lambda: kept.picture is not first)
        assert first is not None and kept.picture is not None and (first != kept.picture).any()
        await pilot.resize_terminal(*SMALL)
        await pilot.pause()
        assert not kept.display

    play(tmp_path / "w.mosaic", script, LARGE)


def test_chosen_frames_alone_are_seen_from_the_newest_of_them(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic", generates=False)
    alone = [questions.shown_by(w, Choice("frames", first=i, last=i)) for i in range(3)]
    for i, each in enumerate(alone):
        assert each.lines[0] == f"from frames {i}", "no other, whatever it shows of the view"
    assert questions.look_back(w, w.frame).lines[0].count(",") > 0, "control: one stands where several show something"
    both = questions.shown_by(w, Choice("frames", first=0, last=1))
    apart = [float(np.abs(both.picture.astype(float) - each.picture).mean()) for each in alone]
    assert apart[1] < 0.2 * min(apart[0], apart[2])
    with pytest.raises(InputError, match="nothing is remembered"):
        questions.shown_by(w, Choice("frames", first=90, last=99))
    w.world.close()


def test_what_is_behind_the_viewer_is_not_marked(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic", generates=False)
    camera = w.state.camera.to(dtype=torch.float64)
    grey = np.full((48, 48, 3), 100, np.uint8)
    at = torch.stack([camera.centers[0] + far * camera.forward[0] for far in (1.0, -1.0)])
    for point, marked in ((at[:1], True), (at[1:], False)):
        assert (questions._marked(grey, point, camera) == questions.MARK).all(-1).any() == marked
    w.world.close()


def test_bars_are_as_long_as_the_place_after_a_resize(tmp_path) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        stats = app.query_one("#stats", Meter)
        for size in (SMALL, LARGE, (100, 30)):
            await pilot.resize_terminal(*size)
            await pilot.pause()
            await pilot.pause()
            (line,) = [line for line in text_of(app, "#stats").splitlines() if line.startswith("memory shows")]
            assert len(line) == stats.size.width
            await press(pilot, "2", "w", "1")
            (line,) = [line for line in text_of(app, "#stats").splitlines() if line.startswith("memory shows")]
            assert len(line) == stats.size.width, "also after a step that was made behind another tab"

    play(tmp_path / "w.mosaic", script)


def test_a_state_is_saved_and_opened_again(tmp_path) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        await press(pilot, "o")
        assert len(app.screen_stack) == 1, "there is nothing to open yet"
        await press(pilot, "ctrl+s", *"so", "enter")
        await until(pilot, lambda: facts(app).saves == ("so",))
        await press(pilot, "4", "enter")
        await until(pilot, lambda: ready(app))
        await press(pilot, "enter")
        await until(pilot, lambda: facts(app).undo == "erase")
        await press(pilot, "o")
        assert isinstance(app.screen, Pick)
        await press(pilot, "enter")
        await until(pilot, lambda: facts(app).undo is None)
        assert ("so 2", True) in facts(app).branches
        assert "● so 2" in text_of(app, "#worlds")

    w = play(tmp_path / "w.mosaic", script)
    assert w.state.store.num_patches == walk(tmp_path / "v.mosaic", generates=False).state.store.num_patches


def test_words_and_memory_reach_a_generator_and_are_refused_without_one(tmp_path) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        await press(pilot, "t", *"rain", "enter")
        await press(pilot, "m")

    generated = play(tmp_path / "w.mosaic", script, generates=True)
    assert generated.said == ["rain"] and generated.memory is False
    assert "rain" in generated.state.prompt
    remembered = play(tmp_path / "v.mosaic", script, generates=False)
    assert remembered.said == [] and remembered.memory is True


def test_coverage_is_listed_looked_at_and_measured_anew(tmp_path) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        first, picture = facts(app).frame, app.query_one("#frame", PictureView).picture
        await press(pilot, "w", "left", "2")
        table = app.query_one("#shares", DataTable)
        assert [row.value for row in table.rows] == [str(first + i) for i in range(3)]
        await press(pilot, "up", "up")
        await until(pilot, lambda: f"frame {first}:" in text_of(app, "#why"))
        assert "chosen" in text_of(app, "#why")
        back = app.query_one("#back", PictureView).picture
        assert back is not None and picture is not None and (back == picture).all(), "as it was seen from there"
        await pilot.press("r")
        await until(pilot, lambda: str(table.get_row(str(first + 2))[3]).endswith("%"))
        assert [table.get_row(key)[2] for key in table.rows] == [table.get_row(key)[3] for key in table.rows]
        await press(pilot, "enter")
        await until(pilot, lambda: facts(app).frame == first + 3)

    w = play(tmp_path / "w.mosaic", script)
    assert torch.allclose(w.state.camera.c2w[0], w.poses[min(w.poses)]), "standing where that frame was seen"


def test_pause_holds_back_and_a_held_key_runs_no_further_ahead(tmp_path) -> None:
    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        first = facts(app).frame
        await press(pilot, "p")
        await until(pilot, lambda: app.seen.status is not None and app.seen.status.paused)
        for _ in range(6):
            await pilot.press("w")
        assert len(app.flying) == 2
        await pilot.press("n")
        await until(pilot, lambda: facts(app).frame == first + 1)
        await pilot.press("p")
        await until(pilot, lambda: facts(app).frame == first + 2)
        assert not app.flying and len(app.seen.latencies) == 2

    play(tmp_path / "w.mosaic", script)


def test_a_recording_plays_and_is_taken_over(tmp_path) -> None:
    reference = walk(tmp_path / "a.mosaic", generates=False)
    moves = [Move(yaw=3.0), Move(forward=0.05)]
    lines = tuple(Recorded(0.0, move, reference.do(move).digest(reference.state.store)) for move in (*moves, Move()))
    never = Recorded(PATIENCE, Move(), "")
    reference.world.close()

    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        await until(pilot, lambda: app.replaying)
        await pilot.press("w")
        assert not app.flying, "a recording drives"
        await until(pilot, lambda: facts(app).frame == reference.frame)
        assert app.replaying, "it waits for the next command of the recording"
        await pilot.press("T")
        await until(pilot, lambda: not app.replaying)
        await press(pilot, "w")
        await until(pilot, lambda: f"{len(lines)} same, 0 different" in text_of(app, "#stats"))

    w = play(tmp_path / "w.mosaic", script, LARGE, Recording({}, (*lines, never)))
    assert w.frame == reference.frame + 1


def test_the_memory_benchmark_reports_and_is_stopped(tmp_path, monkeypatch) -> None:
    code = (
        "import json, time\n"
        "print(json.dumps({'world': 1, 'of': 2, 'psnr': {'full': 30.5}}), flush=True)\n"
        "time.sleep(600 if WAIT else 0)\n"
        "print(json.dumps({'lines': ['a table']}))"
    )
    made = asyncio.create_subprocess_exec
    waiting = [False, True]

    async def fake(*command: str, **how):
        assert command[-1] == "cuda:7", "it computes where the walk does"
        return await made(bench.sys.executable, "-c", code.replace("WAIT", str(waiting.pop(0))), **how)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", fake)

    async def script(app: Terminal, pilot: Pilot[None]) -> None:
        await press(pilot, "3")
        assert "not run yet" in text_of(app, "#bench-title")
        assert app.begun is not None
        app.begun = replace(app.begun, device="cuda:7")
        await pilot.press("r")
        await until(pilot, lambda: text_of(app, "#bench-result") == "a table")
        assert not app.query_one(ProgressBar).display
        await pilot.press("r")
        await until(pilot, lambda: "full 30.5 dB" in text_of(app, "#bench-result"))
        assert app.query_one(ProgressBar).progress == 1
        await pilot.press("r")
        await until(pilot, lambda: text_of(app, "#bench-result") == "stopped")

    play(tmp_path / "w.mosaic", script)


@pytest.mark.parametrize(
    ("words", "edit"),
    [
        ("erase", Edit("erase", Choice("frames", first=1, last=2))),
        ("move 0.5 -1 0", Edit("move", Choice("frames", first=1, last=2), by=(0.5, -1.0, 0.0))),
        ("rotate -90", Edit("rotate", Choice("frames", first=1, last=2), degrees=-90.0)),
        ("scale 2", Edit("scale", Choice("frames", first=1, last=2), factor=2.0)),
        ("splice attic 1 2 3", Edit("splice", other="attic", by=(1.0, 2.0, 3.0))),
        ("splice attic", Edit("splice", other="attic")),
        ("splice 'old attic' above gap 1.5", Edit("splice", other="old attic", layout="vertical", offset=1.5)),
        ("splice attic beside up 2", Edit("splice", other="attic", layout="horizontal", by=(0.0, -2.0, 0.0))),
        (
            "splice attic doorway times 0.5 frame 7",
            Edit("splice", other="attic", layout="doorway", door=(1.0, 2.0, 3.0), facing=(-1.0, -0.0, -0.0),
                 factor=0.5, other_frame=7),
        ),
        ("move right 0.5 down 1", Edit("move", Choice("frames", first=1, last=2), by=(0.0, 1.0, -0.5))),
        ("duplicate left 1 near 2", Edit("duplicate", Choice("frames", first=1, last=2), by=(-2.0, 0.0, 1.0))),
    ],
)  # fmt: skip
def test_an_edit_in_words(words: str, edit: Edit) -> None:
    here = Standing((0.0, 0.0, -1.0), (0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (1.0, 2.0, 3.0))
    assert parse_edit(words, Choice("frames", first=1, last=2), here) == edit


@pytest.mark.parametrize(
    "words",
    [
        "", "paint", "move", "move a b c", "rotate 1 2", "splice", "scale nan", "erase 1", "move right", "move up 1 2",
        "move up 1 along 2", "splice attic doorway", "splice attic gap", "splice attic frame 1.5", "splice 'attic",
        "splice attic times 2",
    ],
)  # fmt: skip
def test_what_is_no_edit_is_refused_in_words(words: str) -> None:
    with pytest.raises(ConfigError):
        parse_edit(words, Choice("frames", first=1, last=2))
    with pytest.raises(ConfigError):
        parse_edit("erase", None)


def test_how_one_stands(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic", generates=False)
    found = questions.standing(w)
    right, up, ahead = (torch.tensor(v, dtype=torch.float64) for v in (found.right, found.up, found.ahead))
    camera = w.state.camera.to(dtype=torch.float64)
    assert torch.allclose(up, w.up.double(), atol=1e-6) and float(ahead @ up) == pytest.approx(0, abs=1e-6)
    assert torch.allclose(right, camera.right[0], atol=1e-5), "it is held level"
    assert float(ahead @ camera.forward[0]) > 0.5 and float(ahead.norm()) == pytest.approx(1, abs=1e-5)
    assert found.door is not None
    to_door = torch.tensor(found.door, dtype=torch.float64) - camera.centers[0]
    assert float(to_door @ up) == pytest.approx(0, abs=1e-5), "at the height of the eye"
    assert float(to_door @ ahead) > 0.2 and abs(float(to_door @ right)) < 0.1
    w.world.close()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Move(), "time passes"),
        (Move(forward=-1.0), "back"),
        (Move(right=1.0, yaw=-2.0), "to the right, turn left"),
        (Move(tilt=1.0), "look up"),
        (Say("rain"), "from now on: rain"),
        (Say(" "), "all that was said is taken back"),
        (Undo(), ""),
    ],
)
def test_commands_in_words(command: Command, words: str) -> None:
    assert described(command) == words


def test_what_cannot_begin_ends_the_interface_with_its_reason() -> None:
    def begin(tell: Callable[[str], None]) -> Begun:
        raise InputError("no such world")

    app = Terminal(begin, "mosaicmem tui")

    async def run() -> None:
        async with app.run_test(size=SMALL) as pilot:
            await until(pilot, lambda: not app.is_running)

    asyncio.run(run())
    assert isinstance(app.failure, InputError)


def test_the_command_begins_where_explore_does_and_says_how_it_ended(run, recording, tmp_path, monkeypatch) -> None:
    def drive(app: Terminal) -> None:
        async def keys_pressed() -> None:
            async with app.run_test(size=SMALL) as pilot:
                await until(pilot, lambda: app.seen.facts is not None or app.failure)
                if app.failure is None:
                    await press(pilot, "right")
                    await pilot.press("q")

        asyncio.run(keys_pressed())

    monkeypatch.setattr(Terminal, "run", drive)
    monkeypatch.setattr(tui, "_on_a_terminal", lambda: True)
    monkeypatch.chdir(tmp_path)
    ran = run("tui", "--recall", recording, "--frames", "::4", "--out", "w.mosaic", "--record", "a.jsonl", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["world"] == "w.mosaic" and ran.json["patches"] > 0
    ran = run("tui", "--world", "w.mosaic")
    assert ran.code == 0 and "go on with: mosaicmem tui --world w.mosaic" in ran.out
    assert run("world", "verify", "w.mosaic").code == 0
    ran = run("tui", "--world", "none.mosaic")
    assert ran.code == 3 and "no such file" in ran.err


def test_a_missing_extra_and_a_missing_terminal_are_named(run, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    ran = run("tui", "--model", "synthetic")
    assert ran.code == 2 and "needs a terminal" in ran.err
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "textual" else found(name))
    ran = run("tui", "--model", "synthetic")
    assert ran.code == 4 and "pip install 'mosaicmem[tui]'" in ran.err
    monkeypatch.setattr(importlib.util, "find_spec", found)
    monkeypatch.setattr(tui, "_on_a_terminal", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    ran = run("tui", "--model", "synthetic")
    assert ran.code == 2 and "TERM=dumb" in ran.err
    ran = run("tui", "--world", "a", "--scene", 1)
    assert ran.code == 2 and "two places" in ran.err
    ran = run("tui", "--scene", "-1")
    assert ran.code == 2 and "--scene -1: expected 0" in ran.err
    assert list(tmp_path.iterdir()) == []
