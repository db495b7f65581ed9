"""Episodes: repeatable, closed, slow, told in words that are true, with events that change nothing before them."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest
import torch

from mosaicmem.errors import ConfigError
from mosaicmem.geometry.se3 import rotation_angle
from mosaicmem.models.text import EVENTS, VOCABULARY
from mosaicmem.worlds.episodes import (
    FPS,
    HELD_OUT,
    PATHS,
    Episode,
    ball_share,
    events_of,
    happen,
    make_episode,
    movers,
)
from mosaicmem.worlds.film import film
from mosaicmem.worlds.parts import PALETTE
from mosaicmem.worlds.primitives import SWING

CLOSED = ("turn", "walk", "loop", "jitter")
SOME = (0, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return [make_episode(seed, size=32) for seed in SOME]


def with_ball() -> Episode:
    """An episode in whose world a ball bounces."""
    for seed in range(100):
        episode = make_episode(seed, size=32, with_event=True)
        if "ball" in episode.scene.names and episode.event is not None and "ball" in episode.event.text:
            return episode
    raise AssertionError("no ball in 100 worlds")


def test_the_same_seed_is_the_same_episode_bit_for_bit(episodes):
    for episode in episodes[:3]:
        again = make_episode(episode.seed, size=32)
        assert torch.equal(again.cameras.viewmats, episode.cameras.viewmats)
        assert torch.equal(again.cameras.Ks, episode.cameras.Ks)
        assert (again.caption, again.event, again.kind) == (episode.caption, episode.event, episode.kind)
        assert torch.equal(again.film(slice(0, 40, 20)).rgb, episode.film(slice(0, 40, 20)).rgb)
    assert len({e.cameras.viewmats[0].sum().item() for e in episodes}) == len(episodes)


def test_size_changes_no_path(episodes):
    large = make_episode(2, size=64)
    assert torch.equal(large.cameras.viewmats, episodes[2].cameras.viewmats)
    assert (large.cameras.width, large.cameras.height) == (64, 64)
    assert torch.allclose(large.cameras.Ks[:, :2], 2 * episodes[2].cameras.Ks[:, :2])


@pytest.mark.parametrize("kind", CLOSED)
@pytest.mark.parametrize("seed", [1, 4])
def test_closed_paths_come_back_to_the_first_camera(kind, seed):
    episode = make_episode(seed, kind=kind, size=32, with_event=False)
    assert torch.allclose(episode.cameras.viewmats[0], episode.cameras.viewmats[-1], atol=1e-6)
    assert episode.revisit_of(len(episode) - 1) == 0
    moved = float((episode.cameras.centers - episode.cameras.centers[0]).norm(dim=-1).max())
    rotations = episode.cameras.viewmats[:, :3, :3]
    turned = float(rotation_angle(rotations, rotations[:1].expand_as(rotations)).max())
    assert moved > 0.01 or turned > math.radians(2), "it never left"


@pytest.mark.parametrize("seed", [0, 2])
def test_a_path_out_does_not_come_back(seed):
    episode = make_episode(seed, kind="out", size=32)
    if episode.kind == "out":
        assert float((episode.cameras.centers[-1] - episode.cameras.centers[0]).norm()) > 0.3
        assert episode.revisit_of(len(episode) - 1) is None


def test_turns_and_walks_go_back_the_way_they_came():
    """Every camera of the second half is one of the first: time runs back, to the spacing of frames."""
    for kind in ("turn", "walk"):
        episode = make_episode(1, kind=kind, size=32)
        there, back = episode.cameras.centers[: len(episode) // 2], episode.cameras.centers[len(episode) // 2 :]
        assert torch.cdist(back, there).min(1).values.max() < 0.05


def test_paths_are_free_upright_and_slow(episodes):
    for episode in episodes:
        cameras = episode.cameras
        assert len(episode) % 16 == 1 and 65 <= len(episode) <= 161
        assert episode.scene.is_free(cameras.centers, 0.2).all()
        assert (cameras.up[:, 1] < -0.9).all()
        step = cameras.centers.diff(dim=0).norm(dim=-1)
        turn = rotation_angle(cameras.viewmats[1:, :3, :3], cameras.viewmats[:-1, :3, :3])
        assert step.max() < 0.09 and turn.max() < math.radians(3.6)
        assert 66 <= float(cameras.fov_degrees[0, 0]) <= 76
        assert (cameras.Ks[:, 0, 2] == 16).all()  # mirrored frames are frames only if the centre is the middle


@pytest.mark.parametrize("frames", [33, 257])
def test_any_length_of_whole_windows(frames):
    episode = make_episode(3, kind="turn", size=32, frames=frames)
    assert len(episode) == frames
    assert torch.allclose(episode.cameras.viewmats[0], episode.cameras.viewmats[-1], atol=1e-6)
    for wrong in (16, 1, frames + 1):
        with pytest.raises(ConfigError, match="16"):
            make_episode(3, frames=wrong)


def test_all_kinds_of_paths_are_drawn():
    assert {make_episode(seed, size=16, with_event=False).kind for seed in range(24)} == set(PATHS)


def test_events_split_no_latent_and_can_be_asked_for():
    told = [make_episode(seed, size=32, with_event=True) for seed in range(5)]
    for episode in told:
        assert episode.event is not None
        assert episode.event.frame % 4 == 1 and 12 < episode.event.frame < len(episode) - 8
        assert episode.event.text in events_of(episode.scene)
    assert all(make_episode(seed, size=32, with_event=False).event is None for seed in range(2))
    drawn = [make_episode(seed, size=16).event is not None for seed in range(16)]
    assert 0.3 < sum(drawn) / 16 < 0.9


def test_an_event_changes_its_frame_and_later_ones_alone():
    episode = with_ball()
    assert episode.event is not None
    at = episode.event.frame
    frames = slice(at - 2, at + 12)
    happened, nothing = episode.film(frames), episode.film(frames, event="")
    assert torch.equal(happened.rgb[:2], nothing.rgb[:2])
    assert torch.equal(happened.depth, nothing.depth)  # it is paint and light, never geometry
    assert not torch.equal(happened.rgb[2:], nothing.rgb[2:])
    another = "the light goes out" if "light" not in episode.event.text else "the ball turns red"
    assert not torch.equal(episode.film(frames, event=another).rgb[2:], happened.rgb[2:])
    assert torch.equal(episode.film(frames, event=another).rgb[:2], nothing.rgb[:2])


def test_a_ball_that_turns_is_on_screen_and_only_it_changes():
    episode = with_ball()
    assert episode.event is not None
    frame = episode.event.frame + 8
    assert ball_share(episode, frame) > 0.004
    a, b = episode.film(slice(frame, frame + 1)), episode.film(slice(frame, frame + 1), event="")
    changed = (a.rgb - b.rgb).abs().amax(1) > 1e-6
    balls = torch.tensor([i for i, name in enumerate(episode.scene.names) if name == "ball"])
    near = torch.nn.functional.max_pool2d(torch.isin(a.object_id, balls).float()[:, None], 3, 1, 1)[:, 0] > 0
    assert changed.any()
    assert not (changed & ~near).any()


def test_words_follow_the_event():
    episode = with_ball()
    assert episode.event is not None
    at = episode.event.frame
    calm = replace(episode, event=None)
    assert episode.prompt(at - 1) == calm.prompt(at - 1) and episode.prompt(0) == episode.caption
    for frame in (at, len(episode) - 1):
        assert episode.prompt(frame) == f"{calm.prompt(frame)} {episode.event.text}."
    for text in events_of(episode.scene):
        happen(episode.scene, text, 1.0)
        assert text in EVENTS
    for wrong in ("the ball explodes", "", "the light turns purple", "the ball turns plaid", "the ball turns"):
        with pytest.raises(ConfigError, match="no event"):
            happen(episode.scene, wrong, 1.0)


def test_an_undisturbed_episode_is_the_same_until_a_door_would_open_and_has_it_shut_after():
    seed = next(s for s in range(40) if (e := make_episode(s, size=16, with_event=False)).happens and len(e) > 80)
    episode = make_episode(seed, size=16, with_event=False)
    quiet, (frame, _) = episode.undisturbed(), episode.happens[0]
    assert not quiet.happens and "a door opens" not in quiet.prompt(len(quiet)) and quiet.caption == episode.caption
    solids, doors = quiet.scene.solids, quiet.scene.solids.law == SWING
    assert torch.equal(solids.moved(99.0).yaw[doors], solids.moved(0.0).yaw[doors])
    assert torch.equal(solids.moved(99.0).center[doors], solids.moved(0.0).center[doors])
    assert not torch.equal(episode.scene.solids.moved(99.0).yaw[doors], solids.moved(99.0).yaw[doors])
    assert torch.equal(quiet.film(slice(0, frame, 8)).rgb, episode.film(slice(0, frame, 8)).rgb)
    for t in (0.0, 1.7):  # what else moves goes on
        a, b = episode.scene.solids.moved(t), solids.moved(t)
        assert torch.equal(a.center[~doors], b.center[~doors])


def test_what_begins_by_itself_is_told_when_it_begins():
    """A door is shut in every frame before it is told to open, and not five frames later."""
    told = 0
    for seed in range(40):
        episode = make_episode(seed, size=16, with_event=False)
        scene = episode.scene
        doors = [i for i, law in enumerate(scene.solids.law.tolist()) if law == SWING]
        assert len(episode.happens) == len(doors) == sum(name == "door" for name in scene.names)
        assert [event.frame for event in episode.happens] == sorted(event.frame for event in episode.happens)
        for frame, text in episode.happens:
            assert frame % 4 == 1
            shut, now, later = (scene.solids.moved(t).yaw[doors] for t in (0.0, (frame - 1) / FPS, (frame + 4) / FPS))
            assert torch.equal(shut, now) and not torch.equal(shut, later)
            assert text not in episode.caption and set(text.split()) <= set(VOCABULARY)
            assert f" {text}." in episode.prompt(frame) and f" {text}." not in episode.prompt(frame - 1)
            told += 1
    assert told > 5


def test_light_that_goes_out_makes_it_dark():
    episode = make_episode(0, size=32, with_event=False)
    camera = episode.cameras[:1]
    before = film(episode.scene, camera, 3.0).rgb.mean()
    after = film(happen(episode.scene, "the light goes out", 1.0), camera, 3.0).rgb.mean()
    assert after < before - 0.1
    red = film(happen(episode.scene, "the light turns red", 1.0), camera, 3.0).rgb.mean((0, 2, 3))
    assert red[0] > red[1] + 0.05 and red[0] > red[2] + 0.05


def test_captions_name_what_is_there_and_in_words_the_model_knows(episodes):
    for episode in episodes:
        said = set(re.findall(r"[a-z]+", episode.caption))
        assert said <= set(VOCABULARY), said - set(VOCABULARY)
        names = set(episode.scene.names)
        for thing in ("sofa", "table", "crate", "plant", "picture", "pedestal", "shelf", "cupboard"):
            assert (thing in said) == (thing in names), (thing, episode.caption)
        moving = {episode.scene.names[i] for i in movers(episode.scene).tolist()}
        assert ("bounces" in said) == ("ball" in moving)
        assert ("lift" in said) == ("lift" in moving)
        rooms = {1: "a room", 2: "two rooms", 3: "three rooms"}[len(episode.scene.room_lo)]
        assert episode.caption.startswith(rooms)


def test_what_moves_moves_by_itself():
    """Depth at one place changes between two moments exactly where something moves."""
    episode = with_ball()
    shares = [ball_share(episode, f) for f in range(0, len(episode), 8)]
    camera = episode.cameras[8 * shares.index(max(shares))]
    t = 8 * shares.index(max(shares)) / FPS
    a, b = film(episode.scene, camera, t), film(episode.scene, camera, t + 0.25)
    changed = (a.depth - b.depth).abs() > 1e-5
    moving = torch.isin(a.object_id, movers(episode.scene)) | torch.isin(b.object_id, movers(episode.scene))
    assert changed.any()
    assert not (changed & ~moving).any()


def test_held_out_seeds_are_fixed_and_time_is_of_film():
    assert range(900_000, 1_000_000) == HELD_OUT
    assert FPS == 24
    assert len(make_episode(HELD_OUT.start, size=16)) % 16 == 1


def test_captions_tell_balls_and_lifts_by_their_colour(episodes):
    """The words name exactly the colours that are there: "the ball turns blue" is about the thing that is red now."""
    told, colours = 0, set()
    for episode in (*episodes, *(make_episode(seed, size=32, with_event=False) for seed in range(6, 14))):
        scene = episode.scene
        for name, does in (("ball", "bounces"), ("lift", "goes up and down")):
            looks = {tuple(round(c, 4) for c in scene.materials.colour[i].tolist()) for i in movers(scene).tolist()
                     if scene.names[i] == name}  # fmt: skip
            said = re.findall(rf"(?:a|an) (\w+) {name} {does}", episode.caption)
            assert sorted(PALETTE[colour] for colour in said) == sorted(looks)
            told += len(said)
            colours |= set(said)
    assert told >= 6 and len(colours) >= 3
