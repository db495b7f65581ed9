"""Rollouts of a learned generator: what it reads, what is remembered of it, and what is said to it on the way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.tiny_models import write_tiny_model

from mosaicmem.depth.estimator import DepthEstimate, DepthInfo
from mosaicmem.errors import ConfigError, InputError, MissingWeightsError
from mosaicmem.generation.backend import ROOMS, SYNTHETIC, Models, load_models
from mosaicmem.generation.events import RolloutEvent
from mosaicmem.generation.keyframes import KeyframeConfig
from mosaicmem.generation.rollout import RolloutConfig, rollout, rollout_step, to_u8
from mosaicmem.generation.script import Cue, Script
from mosaicmem.generation.state import RolloutState, observe, start
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.models.generator import WindowRequest
from mosaicmem.models.presets import shipped
from mosaicmem.models.synthetic import Compositor, PixelShuffleVAE
from mosaicmem.models.world_model import SamplingConfig

W = H = 48
PROMPT = "a room with a sofa."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def models(folder):
    return load_models(folder)


def _path(n: int, step: float = 0.1) -> Cameras:
    """Cameras at (i * step, 0, 0) looking along +z."""
    viewmats = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)
    viewmats[:, 0, 3] = -step * torch.arange(n)
    return Cameras.from_fov(viewmats, W, H)


def _image() -> torch.Tensor:
    x = torch.linspace(-3, 3, W).expand(H, W)
    return torch.stack([torch.sin(x + x.T), torch.cos(2 * x), torch.sin(x.T)])


def _started(models: Models, **kwargs) -> RolloutState:
    return start(models, _image(), _path(1), prompt=PROMPT, **kwargs)


@pytest.mark.parametrize("alignment", ["latent", "rope", "mixture"])
def test_a_path_of_the_given_frame_alone_is_that_frame(models, alignment):
    state = _started(models)
    steps = list(rollout(models, state, _path(1), config=RolloutConfig(alignment)))
    ((after, event),) = steps
    assert np.array_equal(event.frames_u8, to_u8(_image()[None])) and event.frames.tolist() == [0]
    assert event.coverage.tolist() == [1.0] and event.written == () and event.tokens == 0
    assert len(event.mosaic_u8) == len(event.mosaic_frames) == len(event.mosaic_coverage) == 0
    assert after == replace(state, anchor_pending=False), "nothing is generated, so nothing else changes"
    onward = [e.frames_u8 for _, e in rollout(models, after, _path(5)[1:])]
    whole = [e.frames_u8 for _, e in rollout(models, state, _path(5))]
    assert np.array_equal(np.concatenate([event.frames_u8, *onward]), np.concatenate(whole))


def test_where_nothing_is_generated_nothing_can_happen(models):
    script = Script(PROMPT, (Cue(0, "the light goes out"),))
    with pytest.raises(ConfigError, match="the path is the given frame alone; expected a longer one"):
        next(rollout(models, _started(models), _path(1), script=script))


def _run(models: Models, n: int = 9, config: RolloutConfig | None = None, **kwargs):
    state = _started(models)
    steps = list(rollout(models, state, _path(n), config=config, **kwargs))
    return steps[-1][0], [event for _, event in steps]


def _frames(events: list[RolloutEvent]) -> np.ndarray:
    return np.concatenate([e.frames_u8 for e in events])


def test_a_folder_is_a_model(folder, models):
    assert models.label == "[trained:tiny]"
    assert (models.patch, models.vae.stride, models.vae.temporal) == (2, 8, 4)
    assert models.depth is not None
    again = load_models(str(folder))
    assert np.array_equal(_frames(_run(models)[1]), _frames(_run(again)[1]))


def test_what_is_missing_damaged_or_foreign_is_named(folder, tmp_path):
    with pytest.raises(MissingWeightsError, match="no such folder"):
        load_models(tmp_path / "nowhere")
    (tmp_path / "vae.safetensors").write_bytes((folder / "vae.safetensors").read_bytes())
    with pytest.raises(MissingWeightsError, match=r"no depth\.safetensors, world\.safetensors in it"):
        load_models(tmp_path)
    (tmp_path / "depth.safetensors").write_bytes((folder / "vae.safetensors").read_bytes())
    (tmp_path / "world.safetensors").write_bytes((folder / "world.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"depth\.safetensors.*'vae'"):
        load_models(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        load_models(tmp_path / "vae.safetensors")
    with pytest.raises(ConfigError, match="has its own VAE"):
        load_models(folder, vae=tmp_path)
    other = write_tiny_model(tmp_path / "other", channels=8)
    with pytest.raises(InputError, match="latents of 8 channels"):
        load_models(other)


def test_the_shipped_model_is_called_rooms(folder, monkeypatch, tmp_path):
    assert shipped("world").name == "world.safetensors"
    monkeypatch.setattr("mosaicmem.generation.backend.shipped", lambda part: folder / f"{part}.safetensors")
    assert load_models().label == load_models(ROOMS).label == "[trained:rooms]"
    monkeypatch.setattr("mosaicmem.generation.backend.shipped", lambda part: tmp_path / f"{part}.safetensors")
    with pytest.raises(MissingWeightsError, match="come with the package"):
        load_models()
    assert load_models(SYNTHETIC).label == "[synthetic]"
    assert not load_models(SYNTHETIC, use_memory=False).generator.use_memory
    with pytest.raises(MissingWeightsError, match="taef2_encoder"):
        load_models(SYNTHETIC, vae=tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 5},
        {"guidance": 3.0},
        {"shift": 1.0},
        {"method": "euler"},
        {"use_cameras": False},
    ],
)
def test_every_choice_of_sampling_matters(folder, change):
    three = SamplingConfig(steps=3)  # methods differ from the third on
    models = load_models(folder, sampling=three)
    _, event = rollout_step(models, _started(models), _path(9))
    other = load_models(folder, sampling=replace(three, **change))
    _, changed = rollout_step(other, _started(other), _path(9))
    assert not np.array_equal(event.frames_u8, changed.frames_u8)
    _, again = rollout_step(load_models(folder, sampling=three), _started(models), _path(9))
    assert np.array_equal(event.frames_u8, again.frames_u8)


@pytest.mark.parametrize(
    "config",
    [
        RolloutConfig(alignment="rope"),
        RolloutConfig(alignment="latent"),
        RolloutConfig(retrieval=RetrievalConfig(max_tokens=2)),
        RolloutConfig(anchor_noise=0.1),
    ],
)
def test_every_choice_of_reading_matters(models, config):
    base, changed = (rollout_step(models, _started(models), _path(9), c)[1] for c in (RolloutConfig(), config))
    assert not np.array_equal(base.frames_u8, changed.frames_u8)
    assert np.array_equal(base.frames_u8[0], changed.frames_u8[0]), "the given frame is given"


def test_seed_and_prompt_matter(models):
    base = rollout_step(models, _started(models), _path(9))[1]
    for state in (_started(models, seed=1), replace(_started(models), prompt="two rooms.")):
        assert not np.array_equal(rollout_step(models, state, _path(9))[1].frames_u8, base.frames_u8)


def test_anchor_noise_is_no_noise_of_a_frame(models):
    """Equal seeds give equal bits, and every window's anchor has noise of its own."""
    requests = []
    keep = replace(models, generator=_Listener(requests))
    for _ in range(2):
        list(rollout(keep, _started(keep), _path(33), config=RolloutConfig(anchor_noise=0.1)))
    clean = []
    quiet = replace(models, generator=_Listener(clean))
    list(rollout(quiet, _started(quiet), _path(33)))
    assert torch.equal(requests[0].anchor, requests[2].anchor)
    added = (requests[0].anchor - clean[0].anchor) / 0.1
    assert float(added.std()) == pytest.approx(1, abs=0.15)
    later = (requests[1].anchor - clean[1].anchor) / 0.1
    assert abs(float((later * added).mean())) < 0.3
    for frame in requests[0].noise:
        assert abs(float((frame * added).mean())) < 0.4
    with pytest.raises(ConfigError, match="anchor_noise"):
        RolloutConfig(anchor_noise=-0.1)


class _Listener:
    """A learned generator that keeps what it was asked and answers with a picture of what it was given."""

    name, label, invents, subframes, reads_past = "listener", "[external:listener]", True, False, False

    def __init__(self, requests: list[WindowRequest], use_memory: bool = True) -> None:
        self.requests, self.use_memory = requests, use_memory

    def generate(self, request: WindowRequest) -> torch.Tensor:
        self.requests.append(request)
        return torch.where(request.good[:, None], request.canvas, request.anchor)


def test_without_memory_a_learned_generator_reads_nothing_and_the_event_says_so(folder):
    models = load_models(folder, use_memory=False)
    asked: list[WindowRequest] = []
    listening = replace(models, generator=_Listener(asked, use_memory=False))
    for chosen in (models, listening):
        state = observe(chosen, _started(chosen), _image()[None].repeat(4, 1, 1, 1), _path(5)[1:])
        kept = len(state.store)
        assert kept == 5, "memory is there, it is only not read"
        for after, event in rollout(chosen, state, _path(14)[5:], window=5):
            assert event.tokens == 0
            assert not event.coverage.any()
            assert not event.mosaic_coverage.any()
            assert event.written == ()
            assert event.depth_source == "none"
            assert len(after.store) == kept
    assert asked
    assert all(len(r.tokens) == 0 and not r.good.any() and not r.canvas.any() for r in asked)
    with_memory = load_models(folder)
    state = _started(with_memory)
    assert rollout_step(with_memory, state, _path(9))[1].tokens > 0
    # what lies in memory cannot matter
    empty = replace(state, store=state.store.from_groups([]), context=None)
    a, b = (rollout_step(models, s, _path(9))[1].frames_u8 for s in (state, empty))
    assert np.array_equal(a, b)


class _Wall:
    """Depth 4 everywhere, believed in the left half only; none in the top rows, as of the sky."""

    def estimate(self, frames: torch.Tensor, cameras: Cameras) -> DepthEstimate:
        depth = torch.full((len(frames), H, W), 4.0)
        depth[:, :8] = 0
        confidence = torch.full_like(depth, 0.3)
        confidence[..., : W // 2] = 0.9
        confidence[:, :8] = 0
        return DepthEstimate(depth, confidence, DepthInfo("wall", True, "model"))


def _written(config: KeyframeConfig, step: float = 0.5):
    models = Models(PixelShuffleVAE(8, 4), Compositor(invents=True), _Wall(), 2)
    state = start(models, _image(), _path(1))
    after, event = rollout_step(models, state, _path(5, step)[1:], RolloutConfig(keyframes=config))
    return after, event


def test_the_sky_and_what_has_no_believable_depth_is_not_remembered():
    after, event = _written(KeyframeConfig())
    assert event.written == (4,)
    newest = after.store.group(1).keyframe
    assert not newest.valid[0].any()
    assert newest.valid[2, -1]
    after, _ = _written(KeyframeConfig(min_confidence=0.5), step=-0.5)
    newest = after.store.group(1).keyframe
    assert newest.valid[2, 0]
    assert not newest.valid[:, 3:].any()
    # all that is new to the right is not believed, so there is nothing to write
    assert _written(KeyframeConfig(min_confidence=0.5))[1].written == ()


def test_only_what_memory_did_not_show_is_remembered():
    after, event = _written(KeyframeConfig(only_novel=True))
    everything, _ = _written(KeyframeConfig())
    few, all_of_it = (s.store.group(1).keyframe.valid for s in (after, everything))
    assert event.written == (4,)
    assert few[2, -1]
    assert not few[2, 0]
    assert all_of_it[2, 0]
    assert bool((few <= all_of_it).all())


class _Ghost(_Wall):
    """Later frames also see something half as far away in their lower half."""

    def estimate(self, frames: torch.Tensor, cameras: Cameras) -> DepthEstimate:
        found = super().estimate(frames, cameras)
        moved = cameras.centers.norm(dim=-1) > 0.1
        found.depth[moved, 3 * H // 4 :] = 2.0
        return found


def test_what_was_imagined_where_a_frame_saw_nothing_is_not_remembered():
    valid = []
    for consistent in (True, False):
        models = Models(PixelShuffleVAE(8, 4), Compositor(invents=True), _Ghost(), 2)
        config = RolloutConfig(keyframes=KeyframeConfig(consistent=consistent))
        after, event = rollout_step(models, start(models, _image(), _path(1)), _path(5)[1:], config)
        assert event.written == (4,)
        valid.append(after.store.group(1).keyframe.valid)
    careful, trusting = valid
    assert trusting[-1].any()
    assert not careful[-1, : -W // 16].any(), "the first frame looked through it at the wall"
    assert torch.equal(careful[: H // 16], trusting[: H // 16]), "what agrees is remembered as ever"


@pytest.mark.parametrize("wrong", [{"min_novel": 1.0}, {"interval": -1}, {"min_confidence": 2.0}])
def test_keyframe_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        KeyframeConfig(**wrong)


def test_a_first_frame_without_depth_gets_the_networks():
    models = Models(PixelShuffleVAE(8, 4), Compositor(), _Wall(), 2)
    state = start(models, _image(), _path(1))
    keyframe = state.store.group(0).keyframe
    assert state.scale == 4
    assert not keyframe.valid[0].any()
    assert keyframe.confidence[2:].unique().tolist() == pytest.approx([0.3, 0.9])
    later = observe(models, state, _image()[None].repeat(3, 1, 1, 1), _path(4)[1:], every=2)
    assert [g.keyframe.frame for g in later.store] == [0, 1, 3]
    assert float(later.store.group(1).keyframe.confidence[3, 0]) == pytest.approx(0.9)


def _asked(script: Script, n: int, given: bool, temporal: int = 4, window: int = 17):
    """(first frame, frames, prompt) of every window's generated part."""
    models = Models(PixelShuffleVAE(8, temporal), Compositor(), patch=2)
    state = start(models, _image(), _path(1), torch.full((H, W), 4.0), prompt="unused")
    cameras = _path(n) if given else _path(n + 1)[1:]
    out, at = [], 0
    for _, event in rollout(models, state, cameras, window, script=script):
        skip = int(given and at == 0)
        out.append((at + skip, len(event.frames_u8) - skip, event.prompt))
        at += len(event.frames_u8)
    assert at == n
    return out


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("temporal", [1, 4])
@pytest.mark.parametrize("frame", [0, 1, 2, 5, 16, 17, 20, 31])
def test_an_event_begins_with_the_first_latent_at_or_after_its_frame(frame, given, temporal):
    script = Script("a room.", (Cue(frame, "the ball turns blue"),))
    told = "a room. the ball turns blue."
    begins = []
    for first, count, prompt in _asked(script, 40, given, temporal):
        assert prompt in ("a room.", told)
        begins += [(first + k, prompt == told) for k in range(0, count, temporal)]
    assert next(at for at, happened in begins if happened) == min(at for at, _ in begins if at >= frame)
    assert all(happened == (at >= frame) for at, happened in begins)


def test_two_events_add_up_and_cut_windows_only_there():
    script = Script("a room", (Cue(6, "the ball turns blue."), Cue(20, "the light goes out")))
    assert _asked(script, 41, True) == [
        (1, 8, "a room"),
        (9, 12, "a room. the ball turns blue."),
        (21, 16, "a room. the ball turns blue. the light goes out."),
        (37, 4, "a room. the ball turns blue. the light goes out."),
    ]
    assert Script("", (Cue(0, "the light goes out"),)).prompt(3) == "the light goes out."
    assert [p for _, _, p in _asked(Script("a room"), 20, True)] == ["a room"] * 2


@pytest.mark.parametrize(
    ("cues", "words"),
    [
        ((Cue(-1, "x"),), "expected 0 to 37"),
        ((Cue(40, "x"),), "expected 0 to 37"),
        ((Cue(38, "x"),), "expected 0 to 37"),
    ],
)
def test_an_event_that_no_frame_could_show_is_refused(cues, words):
    with pytest.raises(ConfigError, match=words):
        _asked(Script("a room", cues), 40, True)
    assert _asked(Script("a room", (Cue(37, "x"),)), 40, True)[-1] == (37, 3, "a room. x.")


def test_a_part_of_a_script_has_what_happened_before_in_its_caption():
    told = [(20, "the light goes out"), (4, "a door opens"), (4, "the ball turns blue"), (40, "x")]
    whole = Script.of("a room.", told)
    assert whole.cues == (
        Cue(4, "a door opens. the ball turns blue"), Cue(20, "the light goes out"), Cue(40, "x")
    )  # fmt: skip
    for first, stop in ((0, 41), (4, 40), (5, 30), (20, 24), (3, 20)):
        part = whole.part(first, stop)
        for frame in range(first, stop):
            assert part.prompt(frame - first) == whole.prompt(frame)
        assert all(0 < cue.frame < stop - first for cue in part.cues)
    assert whole.part(5, 20) == Script("a room. a door opens. the ball turns blue.")


def test_a_script_that_contradicts_itself_is_refused():
    for cues in ((Cue(4, "x"), Cue(4, "y")), (Cue(5, "x"), Cue(4, "y"))):
        with pytest.raises(ConfigError, match="rising order"):
            Script("a room", cues)
    with pytest.raises(ConfigError, match="without words"):
        Script("a room", (Cue(4, " "),))
