"""Rollouts whose networks lie on another device: the same frames, the same memory, and all of that on the CPU."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.elsewhere import PLACES, MixedDevicesError, somewhere
from tests.tiny_models import write_tiny_model

from mosaicmem.errors import ConfigError
from mosaicmem.generation.backend import Models, load_models
from mosaicmem.generation.rollout import RolloutConfig, rollout
from mosaicmem.generation.state import RolloutState, enter, observe, start
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.models.devices import home_of

W = H = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def path(n: int) -> Cameras:
    viewmats = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)
    viewmats[:, 0, 3] = -0.05 * torch.arange(n)
    return Cameras.from_fov(viewmats, W, H)


def walked(models: Models) -> tuple[np.ndarray, list[RolloutState]]:
    """All frames of two windows, of words, of real frames in between, and of one window begun in that memory."""
    x = torch.linspace(-3, 3, W).expand(H, W)
    image = torch.stack([torch.sin(x + x.T), torch.cos(2 * x), torch.sin(x.T)])
    settings = RolloutConfig(anchor_noise=0.1, agree=0.2)
    frames, states = [], [start(models, image, path(1), prompt="a room with a sofa.")]
    for state, event in rollout(models, states[0], path(9), 5, settings):
        frames.append(event.frames_u8)
        states.append(state)
        assert event.mosaic_u8.size
    seen = observe(models, states[-1], torch.stack([image, -image] * 2), path(13)[[9, 10, 11, 12]])
    states.append(replace(seen, avoid="a room."))
    states.append(enter(models, seen.store, path(3)[2]))
    for state, event in rollout(models, states[-2], path(17)[[13, 14, 15, 16]], 5, settings):
        frames.append(event.frames_u8)
        states.append(state)
    return np.concatenate(frames), states


def tensors(value: Any) -> list[torch.Tensor]:
    """Every tensor of a state, its memory included."""
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value):
        return [x for f in fields(value) for x in tensors(getattr(value, f.name))]
    return []


def memory(state: RolloutState) -> list[torch.Tensor]:
    return [x for group in state.store for x in tensors(group.keyframe)]


@pytest.mark.parametrize("place", PLACES)
def test_networks_elsewhere_give_the_same_frames_and_the_same_memory_on_the_cpu(folder: Path, place: str) -> None:
    frames, here = walked(load_models(folder))
    assert len(here[-1].store) > 4 and not np.array_equal(frames[1], frames[5])
    with somewhere(place) as at:
        models = load_models(folder, device=at)
        networks = [models.vae, models.generator.network, models.depth.network, models.refiner]  # type: ignore[union-attr]
        assert {home_of(network).type for network in networks} == {at.type}  # type: ignore[arg-type]
        others, away = walked(models)
    assert frames.shape == others.shape
    assert np.mean(np.abs(frames.astype(int) - others.astype(int)) > 1) < 0.01, "a grey level, by rounding"
    for a, b in zip(here, away, strict=True):
        found, expected = (
            [x for name in ("last_frame", "anchor", "camera", "context", "past") for x in tensors(getattr(s, name))]
            + memory(s) for s in (b, a)
        )  # fmt: skip
        assert len(found) == len(expected) > 0
        assert all(type(x) is torch.Tensor and x.device.type == "cpu" for x in found)
        for x, y in zip(found, expected, strict=True):
            close = torch.isclose(x.double(), y.double(), rtol=1e-2, atol=2e-3)
            assert x.dtype == y.dtype and x.shape == y.shape
            assert close.double().mean() > 0.98, "rounding may take a cell over a threshold"
        assert (a.depth_scale is None) == (b.depth_scale is None)
        assert a.depth_scale is None or b.depth_scale == pytest.approx(a.depth_scale, rel=1e-3)


def test_a_network_left_behind_is_seen(folder: Path) -> None:
    """Negative control: a generator whose text encoder stayed on the CPU fails on the stand-in as on a card."""
    with somewhere("elsewhere") as at:
        models = load_models(folder, device=at)
        models.generator.network.text.to("cpu")  # type: ignore[attr-defined]
        with pytest.raises(MixedDevicesError, match="mixes devices"):
            walked(models)


@pytest.mark.parametrize("model", ["synthetic", "tiny"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_read(tmp_path: Path, model: str) -> None:
    name = model if model == "synthetic" else str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"device 'cuda:99': .*expected cpu, or a card that torch sees"):
        load_models(name, device="cuda:99")
