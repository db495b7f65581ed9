"""Commands with a trained model: a tiny one of random weights, which shows that everything is joined up."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from tests.apps.conftest import FRAMES, SIZE, everything_in

from mosaicmem.apps.cli import demo
from mosaicmem.apps.cli.config import DemoConfig
from mosaicmem.apps.cli.demo_worlds import film_world
from mosaicmem.apps.cli.generate import parse_cue
from mosaicmem.errors import ConfigError
from mosaicmem.generation.rollout import rollout
from mosaicmem.generation.script import Cue, Script
from mosaicmem.io.files import read_image
from mosaicmem.io.trajectories import read_trajectory
from mosaicmem.io.video import read_video
from mosaicmem.worlds.episodes import make_episode


@pytest.fixture(scope="module")
def walks():
    """Results by options, so that the plain one is generated once."""
    return {}


@pytest.fixture
def walk_anew(run, tiny, recording, path, tmp_path):
    """`walk_anew(...)`: frames and report of a path from an image, without its depth."""

    def generate(*more):
        out = tmp_path / f"walk{len(list(tmp_path.iterdir()))}"
        ran = run(
            "generate", "--model", tiny, "--image", recording / "image" / "00000.png", "-t", path, "--size", "96x64",
            "--format", "npz", "--out", out, "--json", *more,
        )  # fmt: skip
        assert ran.code == 0, ran.err
        return np.load(out / "frames.npz")["frames"], ran.json, out

    return generate


@pytest.fixture
def walk(walk_anew, walks):
    """The same, each set of options once."""

    def generate(*more):
        if more not in walks:
            walks[more] = walk_anew(*more)
        return walks[more]

    return generate


def test_an_image_a_path_and_words_are_enough(walk, walk_anew, recording):
    frames, report, out = walk("--prompt", "a room with a sofa.")
    assert report["model"] == "[trained:tiny]"
    assert report["backend"] == "trained:tiny"
    assert report["poses"] == len(frames) == FRAMES
    own = Image.fromarray(read_image(recording / "image" / "00000.png"))
    assert np.abs(frames[0] - np.array(own.resize((96, 64), Image.Resampling.LANCZOS)).astype(int)).max() <= 1
    assert report["prompts"] == [{"frame": 0, "prompt": "a room with a sofa."}]
    assert report["tokens"] > 0
    assert {"contact_sheet.png", "memory/world.mosaic", "report.json"} <= everything_in(out)
    again, _, _ = walk_anew("--prompt", "a room with a sofa.")
    assert np.array_equal(frames, again)


@pytest.mark.parametrize(
    "more",
    [
        ("--steps", 1),
        ("--guidance", 2.5),
        ("--shift", 1.0),
        ("--method", "euler"),
        ("--no-cameras",),
        ("--without-memory",),
        ("--seed", 1),
        ("--alignment", "rope"),
        ("--alignment", "latent"),
        ("--retrieval.max-tokens", 1),
        ("--prompt", "two rooms."),
        ("--event", "4:the light goes out"),
        ("--event", "4:the light goes out", "--event-guidance", 1.0),
    ],
    ids=lambda more: " ".join(map(str, more)),
)
def test_every_option_of_generation_matters(walk, more):
    three = ("--steps", 3)  # the first two of a method are Euler's
    base, changed = walk(*three)[0], walk(*(more if more[0] == "--steps" else (*three, *more)))[0]
    assert np.array_equal(base[0], changed[0])
    assert not np.array_equal(base[1:], changed[1:])


def test_without_memory_nothing_is_read(walk):
    _, report, _ = walk("--without-memory")
    assert report["tokens"] == 0
    assert [f["coverage"] for f in report["frames"]] == [1.0] + [0.0] * (FRAMES - 1)
    assert report["written"] == []


def test_an_event_changes_the_words_and_the_frames_from_its_latent_on(walk):
    plain, _, _ = walk("--window-size", 5)
    told, report, _ = walk("--window-size", 5, "--event", "4:the ball turns blue")
    assert report["prompts"] == [
        {"frame": 0, "prompt": "a room."},
        {"frame": 5, "prompt": "a room. the ball turns blue."},
    ]
    assert np.array_equal(plain[:5], told[:5])
    assert not np.array_equal(plain[5], told[5])


def test_free_wording_is_read_as_the_nearest_event(walk, monkeypatch):
    monkeypatch.setattr("mosaicmem.models.text.nearest_phrases", lambda: lambda text: "the light goes out.")
    asked = ("--event", "0:somebody flips the switch")
    _, report, _ = walk(*asked, "--free-text")
    assert report["prompts"][0]["prompt"] == "a room. the light goes out."
    _, report, _ = walk(*asked)
    assert report["prompts"][0]["prompt"] == "a room. somebody flips the switch."


def test_cues_are_read_from_words():
    assert parse_cue("40:the ball turns blue") == Cue(40, "the ball turns blue")
    assert parse_cue(" 7 : a: b ") == Cue(7, "a: b")
    for wrong in ("x", "x:y", ":y", "1.5:y", "-1:y", "3: "):
        with pytest.raises(ConfigError, match="expected FRAME:TEXT"):
            parse_cue(wrong)


def test_a_scene_is_a_world_with_a_path_and_a_caption_of_its_own(run, tiny, path, tmp_path):
    world = make_episode(900_003, size=32, with_event=False)
    common = ("generate", "--model", tiny, "--scene", 900_003, "--size", "32x32", "--format", "png", "--json")
    own = run(*common, "--frames", ":9", "--out", tmp_path / "own")
    assert own.code == 0, own.err
    assert own.json["prompt"] == world.caption
    saved = read_trajectory(tmp_path / "own" / "trajectory.json")
    assert saved.viewmats.numpy() == pytest.approx(world.cameras.viewmats[:9].numpy(), abs=1e-6)
    first = read_image(tmp_path / "own" / "frames" / "frame_000000.png").astype(int)
    truth = ((world.film(slice(0, 1)).rgb[0].permute(1, 2, 0) + 1) * 127.5).numpy()
    assert np.abs(first - truth).max() <= 1
    led = run(*common, "-t", path, "--prompt", "a room.", "--out", tmp_path / "led")
    assert led.code == 0, led.err
    moved = read_trajectory(tmp_path / "led" / "trajectory.json")
    assert moved.viewmats[0].numpy() == pytest.approx(world.cameras.viewmats[0].numpy(), abs=1e-6)
    relative = moved.viewmats @ moved.c2w[0]
    given = read_trajectory(path)
    assert relative.numpy() == pytest.approx((given.viewmats @ given.c2w[0]).numpy(), abs=1e-6)
    oblong = run(*common[:5], "--size", "48x32", "--out", tmp_path / "x")
    assert oblong.code == 2
    assert "square" in oblong.err


def test_a_memory_belongs_to_the_model_whose_latents_it_holds(run, tiny, recording, memory, path, tmp_path):
    start = ("-t", path, "--model", tiny, "--format", "npz", "--json")
    wrong = run("generate", "--memory", memory, *start, "--out", tmp_path / "x")
    assert wrong.code == 3
    assert "remember with" in wrong.err
    made = run("remember", recording, "--frames", "::2", "--vae", tiny, "--out", tmp_path / "room", "--json")
    assert made.code == 0, made.err
    assert made.json["backend"] == "real"
    ran = run("generate", "--memory", tmp_path / "room", *start, "--out", tmp_path / "walk")
    assert ran.code == 0, ran.err
    assert ran.json["tokens"] > 0
    assert ran.json["poses"] == FRAMES
    # and on from there: what was written knows where its latents come from
    seen = run("recall", tmp_path / "walk" / "memory", "-t", path, "--out", tmp_path / "recall", "--json")
    assert seen.code == 0, seen.err
    assert seen.json["backend"] == "real"


def test_the_shipped_model_is_the_default_and_named_where_it_is_missing(
    run, tiny, recording, path, tmp_path, monkeypatch
):
    image = ("--image", recording / "image" / "00000.png", "-t", path, "--size", "48x32")
    monkeypatch.setattr("mosaicmem.generation.backend.shipped", lambda part: tmp_path / f"{part}.safetensors")
    for command in (("generate", *image), ("demo",)):
        ran = run(*command, "--out", tmp_path / "x")
        assert ran.code == 4, ran.err
        assert "come with the package" in ran.err
    monkeypatch.setattr("mosaicmem.generation.backend.shipped", lambda part: tiny / f"{part}.safetensors")
    ran = run("generate", *image, "--out", tmp_path / "walk")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("[trained:rooms] generate: ")
    meta = run("inspect", tmp_path / "walk" / "memory", "--json")
    assert meta.code == 0
    from mosaicmem.apps.cli.memory_folder import load_memory

    assert load_memory(tmp_path / "walk" / "memory")[1].vae_path == "rooms", "not a path of this machine"


def test_sizes_that_do_not_fit_the_model_are_named(run, tiny, recording, path, tmp_path):
    image = ("--image", recording / "image" / "00000.png", "-t", path, "--model", tiny)
    ran = run("generate", *image, "--size", "50x32", "--out", tmp_path / "x")
    assert ran.code == 2
    assert "multiple" in ran.err
    assert run("generate", *image, "--size", "48x32", "--vae", tiny, "--out", tmp_path / "x").code == 2
    for more, words in [(("--width", 32), "square"), (("--num-frames", 20), "multiple of 16")]:
        ran = run("demo", "--model", tiny, *more, "--out", tmp_path / "x")
        assert ran.code == 2
        assert words in ran.err


def test_the_way_back_of_the_demo_is_told_what_begins_on_it(run, tiny, tmp_path, monkeypatch):
    """A door that begins to open at frame 21, of a way back that begins at 17."""
    told = []

    def spied(models, state, cameras, window, config, script):
        told.append(script)
        return rollout(models, state, cameras, window, config, script)

    monkeypatch.setattr(demo, "rollout", spied)
    world = make_episode(900_002, kind="turn", size=32, frames=33, with_event=False)
    assert [event.frame for event in world.happens] == [21], "of a world that was looked for"
    ran = run(
        "demo", "--model", tiny, "--num-frames", 33, "--width", 32, "--height", 32, "--out", tmp_path / "demo",
        "--set", "video.panel=32", "--set", "demo.world=900002", "--set", "demo.path=turn",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert told == [Script(world.caption, (Cue(4, "a door opens"),))] * 2, "with memory and without"


def test_the_demo_walks_through_a_held_out_world(run, tiny, tmp_path):
    out = tmp_path / "demo"
    ran = run(
        "demo", "--model", tiny, "--num-frames", 17, "--width", 32, "--height", 32, "--out", out,
        "--set", "video.panel=32",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.out.startswith("[trained:tiny] demo: procedural world 9")
    wanted = {
        "video.mp4", "contact_sheet.png", "coverage.png", "map.png", "scene.ply", "trajectory.json", "report.json",
        "run.json", "memory", "memory/world.mosaic",
    }  # fmt: skip
    assert everything_in(out) == wanted
    report = json.loads((out / "report.json").read_text())
    assert len(report["frames"]) == 8
    assert report["coverage"]["with_memory"] > 0.3
    assert report["coverage"]["without_memory"] == 0
    assert report["memory"]["tokens"] > 0
    assert 0.3 < report["seen"] <= 1
    assert report["gain_seen_db"] == pytest.approx(
        report["mean"]["with_memory"]["psnr_seen"] - report["mean"]["without_memory"]["psnr_seen"]
    )
    video, _ = read_video(out / "video.mp4")
    assert len(video) == 17
    assert video.shape[1] > 2 * 32
    assert video.shape[2] < 3 * 32, "two by two"
    assert SIZE != (32, 32)


def test_what_the_demo_had_seen_is_what_it_remembers():
    walk = film_world(DemoConfig(num_frames=17, width=32, height=32, world=900_012))
    assert (walk.seen, len(walk)) == (9, 17)
    assert walk.remembered(4) == [0, 4, 8]
    assert walk.remembered(3) == [0, 2, 5, 8]
    seen = walk.seen_before(4)
    solid = walk.depth[walk.seen :] > 0
    assert not seen[~solid].any(), "nothing lies in the sky"
    # the walk ends where it began
    assert float(seen[-1][solid[-1]].float().mean()) > 0.98
    assert float(walk.seen_before(100)[3].float().mean()) < float(seen[3].float().mean())


def test_an_oblong_world_is_refused():
    with pytest.raises(ConfigError, match="square"):
        film_world(DemoConfig(width=32, height=64))
