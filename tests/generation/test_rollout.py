"""Rollouts of the compositor before a painted wall, where the true picture of every camera is known."""

import math
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaicmem.depth.estimator import DepthEstimate, DepthInfo
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.evaluation.metrics import psnr
from mosaicmem.generation.backend import Models
from mosaicmem.generation.events import STAGES, RolloutEvent
from mosaicmem.generation.keyframes import KeyframeConfig
from mosaicmem.generation.noise import frame_noise
from mosaicmem.generation.rollout import RolloutConfig, from_u8, rollout, rollout_step, to_u8
from mosaicmem.generation.script import Cue, Script
from mosaicmem.generation.state import RolloutState, enter, observe, start
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.projection import pixel_centers
from mosaicmem.memory.lifting import LiftingConfig
from mosaicmem.memory.retrieval import EDGE, WIDE, RetrievalConfig, retrieve
from mosaicmem.models.conditioning import assemble, canvas, subframe_width
from mosaicmem.models.generator import WindowRequest
from mosaicmem.models.refiner import Refiner, RefinerConfig
from mosaicmem.models.synthetic import Compositor, PixelShuffleVAE

W, H, WALL = 32, 24, 4.0
SYNTHETIC = Models(PixelShuffleVAE(), Compositor())


def _path(xs: list[float]) -> Cameras:
    """Cameras at (x, 0, 0) looking along +z, f = W."""
    viewmats = torch.eye(4, dtype=torch.float64).repeat(len(xs), 1, 1)
    viewmats[:, 0, 3] = -torch.tensor(xs, dtype=torch.float64)
    return Cameras.from_fov(viewmats, W, H)


def _paint(cameras: Cameras) -> torch.Tensor:
    """The wall at z = 4, painted with slow waves; exact for sideways cameras."""
    uv = pixel_centers(W, H, dtype=torch.float64)
    x = (uv[..., 0] - W / 2) / W * WALL + cameras.centers[:, 0, None, None]
    y = ((uv[..., 1] - H / 2) / W * WALL).expand_as(x)
    return torch.stack([torch.sin(1.3 * x + y), torch.cos(0.9 * x - y), torch.sin(0.5 * x * y)], 1).float()


def _wall(n: int) -> torch.Tensor:
    return torch.full((n, H, W), WALL)


def _started(models: Models = SYNTHETIC, x: float = 0.0, **kwargs) -> RolloutState:
    camera = _path([x])
    return start(models, _paint(camera)[0], camera, _wall(1)[0], **kwargs)


def _run(models: Models, state: RolloutState, cameras: Cameras, **kwargs) -> tuple[RolloutState, list[RolloutEvent]]:
    steps = list(rollout(models, state, cameras, **kwargs))
    return steps[-1][0], [event for _, event in steps]


def _frames(events: list[RolloutEvent]) -> np.ndarray:
    return np.concatenate([event.frames_u8 for event in events])


@dataclass(frozen=True)
class _WallDepth:
    """The true depth of the wall times a factor; unknown in the top rows."""

    factor: float = 1.0
    blind_rows: int = 0
    scale_source: str = "model"

    def estimate(self, frames: torch.Tensor, cameras: Cameras) -> DepthEstimate:
        depth = _wall(len(frames)) * self.factor
        depth[:, : self.blind_rows] = 0
        return DepthEstimate(depth, (depth > 0).float(), DepthInfo("wall", None, self.scale_source))


@settings(max_examples=12)
@given(st.integers(1, 13), st.integers(1, 3), st.sampled_from([1, 2, 4]), st.booleans())
def test_n_poses_give_exactly_n_consecutive_frames(n, groups, temporal, at_anchor):
    models = Models(PixelShuffleVAE(1, temporal), Compositor())
    xs = [0.0 if at_anchor else 0.05] + [0.05 * i for i in range(1, n)]
    state, events = _run(models, _started(models), _path(xs), window=1 + groups * temporal)
    frames = _frames(events)
    assert frames.shape == (n, H, W, 3)
    first = 0 if at_anchor else 1
    assert np.concatenate([e.frames for e in events]).tolist() == list(range(first, first + n))
    assert state.next_frame == first + n
    assert all(len(e.coverage) == len(e.frames_u8) for e in events)
    assert torch.equal(to_t(frames[-1]), to_t(to_u8(state.last_frame[None])[0]))


def to_t(frame: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(frame))


def test_a_path_that_begins_at_the_given_frame_hands_it_out_unchanged_once():
    state = _started()
    image = to_u8(state.last_frame[None])[0]
    state, events = _run(SYNTHETIC, state, _path([0.0, 0.1, 0.2]))
    assert np.array_equal(events[0].frames_u8[0], image)
    assert events[0].coverage[0] == 1
    _, again = _run(SYNTHETIC, replace(state, camera=_path([0.0])), _path([0.0]))
    assert again[0].frames.tolist() == [3]


class _LossyVAE(PixelShuffleVAE):
    """Loses half of the contrast when it decodes."""

    def decode_video(self, latents: torch.Tensor) -> torch.Tensor:
        return super().decode_video(latents) / 2


def test_a_given_frame_is_never_replaced_by_its_reconstruction():
    models = Models(_LossyVAE(), Compositor())
    state = _started(models)
    _, event = rollout_step(models, state, _path([0.0, 0.1]))
    assert np.array_equal(event.frames_u8[0], to_u8(state.last_frame[None])[0])
    assert event.frames_u8[1].std() < 0.7 * event.frames_u8[0].std()


def test_cutting_into_other_windows_changes_no_pixel():
    cameras = _path([0.1 * i for i in range(9)])
    whole = _frames(_run(SYNTHETIC, _started(), cameras, window=9)[1])
    for window in (2, 4, 5):
        assert np.array_equal(whole, _frames(_run(SYNTHETIC, _started(), cameras, window=window)[1]))


def test_equal_seeds_give_equal_bits_and_the_given_state_is_left_alone():
    state = _started()
    cameras = _path([0.1, 0.4, 0.9])
    models = replace(SYNTHETIC, generator=Compositor(invents=True), depth=_WallDepth())
    runs = [_run(models, state, cameras) for _ in range(2)]
    assert np.array_equal(_frames(runs[0][1]), _frames(runs[1][1]))
    assert torch.equal(runs[0][0].store.centers, runs[1][0].store.centers)
    assert len(runs[0][0].store) > len(state.store) == 1


def test_memory_brings_back_what_had_left_the_view():
    """Out to where the start is no longer seen, and back: with memory the start reappears, without it is gone."""
    out, back = [0.5 * i for i in range(1, 10)], [4.5 - 0.5 * i for i in range(1, 10)]
    scores = {}
    for use_memory in (True, False):
        models = Models(PixelShuffleVAE(), Compositor(use_memory))
        state = _started(models)
        state = observe(models, state, _paint(_path(out)), _path(out), _wall(len(out)))
        _, events = _run(models, state, _path(back), window=4)
        scores[use_memory] = float(psnr(from_u8(_frames(events)[-1:]), _paint(_path([0.0]))))
        assert (events[-1].coverage[-1] > 0.99) == use_memory
    assert scores[True] > 30
    assert scores[True] > scores[False] + 10


def test_the_baseline_without_memory_still_follows_the_camera():
    models = Models(PixelShuffleVAE(), Compositor(use_memory=False))
    pixel = WALL / W
    _, events = _run(models, _started(models), _path([4 * pixel]))
    frame, before = from_u8(events[0].frames_u8), _paint(_path([0.0]))
    assert torch.allclose(frame[..., :-4], before[..., 4:], atol=0.02)


def test_holes_are_filled_smoothly_and_counted():
    _, event = rollout_step(SYNTHETIC, _started(), _path([1.0]))
    assert event.coverage.tolist() == event.mosaic_coverage.tolist() == [pytest.approx(0.75, abs=0.02)]
    assert event.frames_u8.std() > 10
    hole = event.mosaic_u8[0, :, -6:]
    assert set(np.unique(hole)) == {34, 58}
    assert event.tokens == 12 * 12  # the 4 token columns of 16 on the right are holes, and the others whole
    assert not rollout_step(SYNTHETIC, _started(), _path([1.0]), RolloutConfig(show_mosaic=False))[1].mosaic_u8.size


def test_nothing_known_holds_the_last_frame():
    camera = _path([0.0])
    state = start(SYNTHETIC, _paint(camera)[0], camera)
    assert len(state.store) == 0
    state, event = rollout_step(SYNTHETIC, state, _path([0.3, 0.6]))
    assert event.coverage.tolist() == [0, 0]
    assert event.depth_source == "none"
    assert event.tokens == 0
    assert np.array_equal(event.frames_u8[1], to_u8(_paint(camera))[0])


def test_depth_is_never_invented():
    """Without an estimator only what memory rendered has depth, so nothing new is ever written."""
    models = replace(SYNTHETIC, generator=Compositor(invents=True))
    state, event = rollout_step(models, _started(), _path([1.0]))
    assert (event.depth_source, event.written, len(state.store)) == ("memory", (), 1)
    assert state.context is not None
    unseen = state.context.depth == 0
    assert not state.context.valid[unseen].any()
    assert unseen.double().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.allclose(state.context.depth[~unseen], torch.tensor(WALL))


def test_a_fill_is_remembered_only_by_a_generator_that_invents():
    for invents, written in ((True, (1,)), (False, ())):
        models = Models(PixelShuffleVAE(), Compositor(invents=invents), _WallDepth())
        _, event = rollout_step(models, _started(), _path([1.0]))
        assert event.written == written
    for off in (KeyframeConfig(write=False), KeyframeConfig(interval=0), KeyframeConfig(min_novel=0.5)):
        models = Models(PixelShuffleVAE(), Compositor(invents=True), _WallDepth())
        assert not rollout_step(models, _started(), _path([1.0]), RolloutConfig(keyframes=off))[1].written


@pytest.mark.parametrize("factor", [0.4, 1.0, 1.7])
def test_estimated_depth_is_brought_to_the_scale_of_memory(factor):
    models = Models(PixelShuffleVAE(), Compositor(invents=True), _WallDepth(factor, blind_rows=4))
    state, event = rollout_step(models, _started(), _path([1.0]))
    assert event.depth_source == "estimated"
    assert state.depth_scale == pytest.approx(1 / factor)
    newest = state.store.group(1).keyframe
    assert torch.allclose(newest.depth[4:], torch.tensor(WALL))
    assert not newest.depth[:4].any()
    assert not newest.valid[:4].any()
    assert newest.origin == "generated"
    # with nothing left to compare, the scale found before is carried on
    state, event = rollout_step(models, state, _path([50.0]))
    assert event.depth_source == "carried"
    assert state.depth_scale == pytest.approx(1 / factor)


def test_a_jump_of_scale_is_believed_only_of_an_estimator_that_jumps():
    first = Models(PixelShuffleVAE(), Compositor(invents=True), _WallDepth(1.0))
    state, _ = rollout_step(first, _started(), _path([1.0]))
    for scale_source, expected in (("model", 1 / 1.25), ("median", 1 / 3)):
        models = replace(first, depth=_WallDepth(3.0, scale_source=scale_source))
        assert rollout_step(models, state, _path([0.2]))[0].depth_scale == pytest.approx(expected)


def test_observed_frames_without_depth_are_estimated_at_the_scale_of_memory():
    models = Models(PixelShuffleVAE(), Compositor(), _WallDepth(1.7))
    state = observe(models, _started(models), _paint(_path([0.5])), _path([0.5]))
    assert torch.allclose(state.store.group(1).keyframe.depth, torch.tensor(WALL))
    estimated = start(models, _paint(_path([0.0]))[0], _path([0.0]))
    assert estimated.scale == pytest.approx(1.7 * WALL)
    assert estimated.depth_scale == 1


def test_what_was_invented_is_seen_again():
    models = Models(PixelShuffleVAE(), Compositor(invents=True), _WallDepth())
    state, first = rollout_step(models, _started(), _path([1.0]))
    state, _ = rollout_step(models, state, _path([0.0]))
    _, again = rollout_step(models, state, _path([1.0]))
    assert again.coverage[0] > 0.99
    assert np.abs(again.frames_u8.astype(int) - first.frames_u8).mean() < 1


def test_keyframe_interval_and_partial_groups():
    models = Models(PixelShuffleVAE(1, 4), Compositor(invents=True), _WallDepth())
    state, event = rollout_step(models, _started(models), _path([0.2 * i for i in range(1, 8)]))
    # 7 new frames behind the anchor: latents of frames 1-4 and 5-7
    assert event.mosaic_frames.tolist() == [4, 7]
    assert event.written == (4, 7)
    assert [k.keyframe.frame for k in state.store] == [0, 4, 7]
    assert state.store.group(2).keyframe.time == pytest.approx(7 / 24)
    every_other = RolloutConfig(keyframes=KeyframeConfig(interval=2))
    _, event = rollout_step(models, _started(models), _path([0.2 * i for i in range(1, 8)]), every_other)
    assert event.written == (7,)


@dataclass(frozen=True)
class _Recorder:
    """A generator that keeps what it was asked."""

    requests: list
    name = "recorder"
    label = "[external:recorder]"
    use_memory: bool = True
    invents = False
    subframes: bool = False
    reads_past: bool = False

    def generate(self, request: WindowRequest) -> torch.Tensor:
        self.requests.append(request)
        return request.noise


def test_a_generator_gets_recentred_scaled_cameras_memory_and_noise():
    recorder = _Recorder([])
    models = Models(PixelShuffleVAE(1, 4), recorder)
    state = _started(models, x=2.0, prompt="a wall", seed=7)
    assert state.scale == WALL
    _, events = _run(models, state, _path([2.0 + 0.1 * i for i in range(1, 9)]), window=5)
    first, second = recorder.requests
    assert torch.allclose(first.cameras.centers[:, 0], torch.arange(5).double() * 0.1 / WALL)
    assert torch.allclose(second.cameras.centers[:, 0], torch.arange(5).double() * 0.1 / WALL)
    assert first.canvas.shape == first.noise.shape == (1, 12, H, W)
    assert set(first.tokens.latent.tolist()) == {1}
    assert first.prompt == events[0].prompt == "a wall"
    assert events[0].label == models.label == "[external:recorder]"
    assert torch.equal(first.noise, frame_noise(7, [4], (12, H, W)))
    assert torch.equal(second.noise, frame_noise(7, [8], (12, H, W)))
    anchored = to_u8(models.vae.decode_image(second.anchor[None]))
    assert np.array_equal(anchored, events[0].frames_u8[-1:])


class _SharpVAE(PixelShuffleVAE):
    """With a kernel between its cells: any will do."""

    @property
    def kernel(self) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.randn(3, 3, 4 * self.channels, self.channels, generator=torch.Generator().manual_seed(0)) / 7


@pytest.mark.parametrize("vae", [PixelShuffleVAE(2, 4), _SharpVAE(2, 4)])
def test_a_generator_that_reads_every_frame_is_shown_every_frame(vae):
    """Tokens equal those assembled by hand from what `retrieve` finds at the raw frames, kernel and all."""
    recorder, plain = _Recorder([], subframes=True), _Recorder([])
    path = _path([0.15 * i for i in range(1, 9)])
    for generator in (recorder, plain):
        _run(Models(vae, generator), _started(Models(vae, generator)), path, window=9)
    (request,), (without,) = recorder.requests, plain.requests
    state = _started(Models(vae, recorder))
    window = Cameras.cat([state.camera, path])
    config = RolloutConfig().retrieval
    reference = retrieve(state.store, window[[4, 8]], state.grid, config)
    earlier = retrieve(state.store, window[[1, 2, 3, 5, 6, 7]], state.grid, config)
    times = torch.tensor([4.0, 8.0], dtype=torch.float64) / state.fps
    by_hand = assemble(
        state.store, reference, first_latent=1, subframes=earlier, times=times, kernel=vae.kernel, tau=config.tau
    )
    assert by_hand.age is not None
    assert set(by_hand.age.tolist()) == {float(np.float32(frame / state.fps)) for frame in (4, 8)}
    assert len(by_hand) > 50 and without.tokens.subframes is None
    for f in fields(by_hand):
        assert torch.equal(getattr(request.tokens, f.name), getattr(by_hand, f.name)), f.name
        if f.name != "subframes":
            assert torch.equal(getattr(without.tokens, f.name), getattr(by_hand, f.name)), f.name
    assert request.tokens.subframes.shape[1] == subframe_width(vae.channels, state.grid)
    shown, _ = canvas(state.store, reference, kernel=vae.kernel)
    assert torch.equal(request.canvas, shown)
    bilinear, _ = canvas(state.store, reference)
    assert torch.equal(shown, bilinear) == (vae.kernel is None)


def test_without_memory_a_generator_that_reads_every_frame_gets_nothing():
    recorder = _Recorder([], subframes=True)
    models = Models(PixelShuffleVAE(1, 4), recorder)
    camera = _path([0.0])
    rollout_step(models, start(models, _paint(camera)[0], camera), _path([0.1, 0.2, 0.3, 0.4]))
    assert len(recorder.requests[0].tokens) == 0


def test_a_generator_that_reads_the_past_gets_the_last_group_of_the_window_before():
    recorder, plain = _Recorder([], reads_past=True), _Recorder([])
    vae = PixelShuffleVAE(1, 4)
    path = _path([2.0 + 0.1 * i for i in range(1, 20)])
    for generator in (recorder, plain):
        models = Models(vae, generator)
        state, _ = _run(models, _started(models, x=2.0), path, window=9)
    first, second, third = recorder.requests
    assert first.past is None, "a single frame does not say how things move"
    assert torch.equal(second.past.latents, first.noise[-1]), "what the recorder made of the last four frames"
    assert torch.allclose(second.past.cameras.centers[:, 0], torch.tensor([-0.3, -0.2, -0.1, 0.0]).double() / WALL)
    assert torch.equal(third.past.latents, second.noise[-1])
    assert state.past is None, "of the last group three frames were asked for"
    assert all(request.past is None for request in plain.requests)


class _Watcher(Refiner):
    """Keeps what it was shown, and answers with memory wherever there is some."""

    def __init__(self, channels: int) -> None:
        super().__init__(RefinerConfig(channels, width=1, blocks=1))
        self.asked: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def forward(self, made: torch.Tensor, shown: torch.Tensor, good: torch.Tensor) -> torch.Tensor:
        self.asked.append((made, shown, good))
        return torch.where(good[:, None], shown, made)


def test_every_decoded_frame_is_refined_by_what_memory_shows_of_that_very_frame():
    vae = PixelShuffleVAE(2, 4)
    watcher = _Watcher(vae.channels)
    recorder = _Recorder([])
    models = Models(vae, recorder, refiner=watcher)
    begun, path = _started(models), _path([0.15 * i for i in range(1, 8)])  # the last group is cut
    _, event = rollout_step(models, begun, path, RolloutConfig(refine=1.0))
    ((made, shown, good),) = watcher.asked
    assert recorder.requests[0].tokens.subframes is None, "what the refiner is shown the generator did not ask for"
    frames = Cameras.cat([path, path[[6]]])
    mosaic = retrieve(begun.store, frames, begun.grid, RolloutConfig().retrieval)
    expected, known = canvas(begun.store, mosaic, kernel=vae.kernel)
    assert torch.equal(shown, expected) and torch.equal(good, known) and 0.3 < float(good.double().mean()) < 1
    assert made.shape == shown.shape
    by_hand = vae.decode_image(torch.where(known[:, None], expected, made))[:7]
    assert np.abs(event.frames_u8.astype(int) - to_u8(by_hand).astype(int)).max() <= 1
    blunt = Models(vae, _Recorder([]))
    plain = rollout_step(blunt, begun, path)[1].frames_u8
    assert not np.array_equal(plain, event.frames_u8)
    forgetful = replace(models, generator=_Recorder([], use_memory=False))
    assert np.array_equal(rollout_step(forgetful, begun, path)[1].frames_u8, plain)
    off, rope = RolloutConfig(refine=0.0), RolloutConfig(alignment="rope")
    assert np.array_equal(rollout_step(models, begun, path, off)[1].frames_u8, plain)
    assert np.array_equal(rollout_step(models, begun, path, rope)[1].frames_u8, plain), "it would read Warped Latent"


def test_guidance_leads_away_from_what_was_said_before_in_the_window_where_something_begins():
    recorder = _Recorder([])
    models = Models(PixelShuffleVAE(1, 4), recorder)
    script = Script("a wall.", (Cue(5, "the light goes out"), Cue(13, "the ball turns red")))
    for _ in rollout(models, _started(models, x=2.0), _path([2.0 + 0.1 * i for i in range(1, 25)]), 5, script=script):
        pass
    words = [(request.prompt, request.avoid) for request in recorder.requests]
    dark = "a wall. the light goes out."
    red = f"{dark} the ball turns red."
    begun = [("a wall.", ""), (dark, "a wall."), (dark, ""), (red, dark), (red, "")]
    assert list(dict.fromkeys(words)) == begun
    assert words.count((dark, "a wall.")) == words.count((red, dark)) == 1
    # an event that holds from the start begins with the first window, also where that hands out a given frame alone
    given = replace(_started(models), prompt="", avoid="")
    recorder.requests.clear()
    at_once = Script("a wall.", (Cue(0, "the light goes out"),))
    for _ in rollout(
        models, given, Cameras.cat([given.camera, _path([0.1 * i for i in range(1, 9)])]), 5, script=at_once
    ):
        pass
    assert [r.avoid for r in recorder.requests if r.noise.numel()] == ["a wall.", ""]


def test_the_past_of_observed_frames_is_their_newest_group():
    models = Models(PixelShuffleVAE(1, 4), _Recorder([], reads_past=True))
    cameras = _path([0.1 * i for i in range(8)])
    frames = torch.stack([_paint(camera)[0] for camera in cameras])
    begun = _started(models)
    for count, before in ((4, 0), (5, 1), (7, 3)):
        state = observe(models, begun, frames[1 : count + 1], cameras[1 : count + 1])
        assert state.past is not None
        group = models.vae.encode_video(frames[before : before + 5].transpose(0, 1)[None])[0, :, 1]
        assert torch.equal(state.past.latents, group)
        assert torch.equal(state.past.cameras.viewmats, cameras.viewmats[before + 1 : before + 5].double())
    assert observe(models, begun, frames[1:4], cameras[1:4]).past is None
    deaf = Models(models.vae, _Recorder([]))
    assert observe(deaf, begun, frames[1:6], cameras[1:6]).past is None


def test_noise_depends_on_seed_and_frame_alone():
    a = frame_noise(1, [3, 4, 5], (2, 8, 8))
    assert torch.equal(a[1:2], frame_noise(1, [4], (2, 8, 8)))
    assert not torch.equal(a[0], a[1])
    assert not torch.equal(a[0], frame_noise(2, [3], (2, 8, 8))[0])
    many = frame_noise(0, list(range(64)), (1, 16, 16)).flatten(1)
    assert abs(float(many.mean())) < 0.03
    assert float(many.std()) == pytest.approx(1, abs=0.03)
    correlation = torch.corrcoef(many) - torch.eye(64)
    assert float(correlation.abs().max()) < 0.35  # 5 sigma of 256 samples
    assert frame_noise(0, [], (1, 2, 2)).shape == (0, 1, 2, 2)


def test_events_say_how_long_each_stage_took_and_what_is_remembered():
    models = Models(PixelShuffleVAE(), Compositor(invents=True), _WallDepth())
    state, event = rollout_step(models, _started(), _path([1.0]))
    assert set(event.timings) == set(STAGES)
    assert all(seconds >= 0 for seconds in event.timings.values())
    assert event.store.keyframes == len(state.store) == 2
    assert event.store.patches == state.store.num_patches
    assert event.store.bytes == 2 * W * H * (3 * 4 + 4 + 4 + 1)
    assert event.label == "[synthetic]"


def test_a_path_in_another_unit_than_the_depth_is_pointed_out():
    assert not rollout_step(SYNTHETIC, _started(), _path([1.0]))[1].warnings
    assert "unit of length" in rollout_step(SYNTHETIC, _started(), _path([100.0]))[1].warnings[0]


def test_observing_moves_the_anchor_and_remembers_every_so_many():
    xs = [0.5, 1.0, 1.5, 2.0, 2.5]
    state = observe(SYNTHETIC, _started(), _paint(_path(xs)), _path(xs), _wall(5), every=3)
    assert [g.keyframe.frame for g in state.store] == [0, 2, 5]
    assert all(g.keyframe.origin == "observed" for g in state.store)
    assert (state.next_frame, state.anchor_pending) == (6, False)
    assert torch.equal(state.last_frame, _paint(_path([2.5]))[0])
    _, event = rollout_step(SYNTHETIC, state, _path([2.6]))
    assert event.frames.tolist() == [6]
    none = observe(SYNTHETIC, _started(), _paint(_path(xs)), _path(xs), _wall(5), every=0)
    assert len(none.store) == 1
    assert none.context is not None
    assert observe(SYNTHETIC, state, torch.zeros(0, 3, H, W), _path([0.0])[[]]) is state


def test_a_memory_can_be_entered_and_continued():
    store = observe(SYNTHETIC, _started(), _paint(_path([1.0])), _path([1.0]), _wall(1)).store
    state = enter(SYNTHETIC, store, _path([0.5]))
    assert float(psnr(state.last_frame[None], _paint(_path([0.5])))) > 30
    assert state.next_frame == 3
    assert state.scale == WALL
    _, event = rollout_step(SYNTHETIC, state, _path([0.5, 0.6]))
    assert event.frames.tolist() == [2, 3]
    with pytest.raises(GeometryError, match="shows nothing"):
        enter(SYNTHETIC, store, _path([500.0]))
    continued = start(SYNTHETIC, _paint(_path([2.0]))[0], _path([2.0]), _wall(1)[0], store=store)
    assert [g.keyframe.frame for g in continued.store] == [0, 1, 2]


def test_an_edited_store_in_the_state_changes_the_next_window():
    state = _started()
    moved = replace(state, store=replace(state.store).from_groups([replace(
        state.store.group(0), world_from_cam=_path([0.5]).c2w[0])]))  # fmt: skip
    _, event = rollout_step(SYNTHETIC, moved, _path([0.5]))
    assert np.abs(event.frames_u8.astype(int) - to_u8(state.last_frame[None])).max() <= 1


def test_uint8_frames_survive_the_round_trip():
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    assert np.array_equal(to_u8(from_u8(frames)), frames)


@pytest.mark.parametrize(
    ("window", "temporal", "hint"), [(1, 1, "2 or 3"), (6, 4, "5 or 9"), (4, 4, "5 or 9"), (0, 2, "3 or 5")]
)
def test_windows_that_do_not_fit_name_those_that_do(window, temporal, hint):
    models = Models(PixelShuffleVAE(1, temporal), Compositor())
    with pytest.raises(ConfigError, match=hint):
        next(rollout(models, _started(models), _path([0.1]), window=window))


def test_sizes_that_disagree_are_refused():
    with pytest.raises(GeometryError, match="resized"):
        rollout_step(SYNTHETIC, _started(), Cameras.from_fov(torch.eye(4)[None], 64, 48))
    with pytest.raises(GeometryError, match="at least one camera"):
        rollout_step(SYNTHETIC, _started(), _path([0.0])[[]])
    with pytest.raises(GeometryError, match="one camera a frame"):
        start(SYNTHETIC, torch.zeros(3, 8, 8), _path([0.0]))
    with pytest.raises(ConfigError, match="fps = 0"):
        enter(SYNTHETIC, _started().store, _path([0.0]), fps=0)
    with pytest.raises(ConfigError, match="multiple"):
        start(SYNTHETIC, torch.zeros(3, 9, 9), Cameras.from_fov(torch.eye(4)[None], 9, 9))
    with pytest.raises(ConfigError, match="fps"):
        _started(fps=0.0)
    with pytest.raises(ConfigError, match="every"):
        observe(SYNTHETIC, _started(), _paint(_path([1.0])), _path([1.0]), every=-1)
    with pytest.raises(ConfigError, match="interval"):
        KeyframeConfig(interval=-1)


def test_lifting_options_reach_the_first_frame():
    camera = _path([0.0])
    depth = _wall(1)[0].clone()
    depth[:, 16:] = 5.0
    image = _paint(camera)[0]
    sharp = start(SYNTHETIC, image, camera, depth)
    cut = start(SYNTHETIC, image, camera, depth, lifting=LiftingConfig(edge_ratio=1.2))
    assert cut.store.num_patches <= sharp.store.num_patches
    assert int(cut.store.group(0).valid.sum()) < int(sharp.store.group(0).valid.sum())
    assert math.isclose(cut.scale, WALL)


@pytest.mark.parametrize(
    ("invents", "asked", "expected"),
    [
        (True, {}, {"edge": EDGE, "pool": WIDE}),
        (True, {"edge": 3}, {"edge": 3, "pool": WIDE}),
        (True, {"pool": 9}, {"edge": EDGE, "pool": 9}),
        (True, {"max_sources": 40}, {"edge": EDGE, "max_sources": 40, "pool": 40}),
        (False, {}, {}),
        (False, {"edge": 0, "pool": 9}, {"edge": 0, "pool": 9}),
    ],
)
def test_only_who_invents_is_told_of_all_places_of_what_moves(invents, asked, expected, monkeypatch):
    """Both times that memory is asked: for the reference frames, and for the raw frames before each."""

    class Every(Compositor):
        subframes = True

    found = []

    def recorded(store, cameras, grid, config):
        found.append(config)
        return retrieve(store, cameras, grid, config)

    monkeypatch.setattr("mosaicmem.models.conditioning.retrieve", recorded)
    models = replace(SYNTHETIC, vae=PixelShuffleVAE(1, 4), generator=Every(invents=invents))
    rollout_step(
        models, _started(models), _path([0.1, 0.2, 0.3, 0.4]), RolloutConfig(retrieval=RetrievalConfig(**asked))
    )
    assert found == [RetrievalConfig(**expected)] * 2
