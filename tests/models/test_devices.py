"""A network takes tensors from anywhere, computes where its weights are and answers where it was asked.

On a machine without a card `tests.elsewhere` stands in for one; with one the same is asked of it.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.elsewhere import META, PLACES, Elsewhere, MixedDevicesError, somewhere, there
from tests.helpers import random_cameras
from tests.models.cases import CONFIG, SIZE
from tests.tiny_models import write_tiny_model

from mosaicmem.errors import ConfigError
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.models.conditioning import MemoryTokens
from mosaicmem.models.depth_net import LearnedDepth
from mosaicmem.models.devices import device_named, home_of
from mosaicmem.models.generator import Past, WindowRequest
from mosaicmem.models.memory_batch import MemoryBatch
from mosaicmem.models.refiner import Refiner, refine
from mosaicmem.models.taef2 import TAEF2, _decoder, _encoder
from mosaicmem.models.text import CaptionEncoder
from mosaicmem.models.video_vae import VideoVAE
from mosaicmem.models.world_model import SamplingConfig, WorldModel, WorldNetwork

W = H = 48
G = torch.Generator().manual_seed(0)
CLIP = torch.rand(1, 3, 9, H, W, generator=G) * 2 - 1
FRAMES, LATENTS = CLIP[0].transpose(0, 1)[:3].contiguous(), torch.randn(3, 4, H // 8, W // 8, generator=G)
SHOWN, GOOD = torch.randn(3, 4, H // 8, W // 8, generator=G), torch.rand(3, H // 8, W // 8, generator=G) > 0.5
GOOD[1] = False
CAMERAS = random_cameras(3, G, width=W, height=H)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Networks of random weights, all of which matter."""
    from mosaicmem.generation.backend import load_models

    models = load_models(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return {
            "vae": models.vae, "depth": models.depth, "refiner": models.refiner, "world": world(),
            "taef2": TAEF2(_encoder(8, 8, 4), _decoder(8, 8, 4), 4), "text": CaptionEncoder(16, 8),
        }  # fmt: skip


def world() -> WorldModel:
    """A generator that reads all that can be read."""
    sizes = replace(CONFIG, reads_past=True, memory_subframes=5, memory_in_place=True, memory_age=True)
    network = WorldNetwork(sizes, words=8)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return WorldModel(network, "test", SamplingConfig(steps=3, guidance=2.0))


def request() -> WindowRequest:
    """A window of two latents, with a past and with memory by both warps."""
    gen, n = torch.Generator().manual_seed(2), 10
    row = torch.arange(n) // 5 + 1
    positions = torch.stack([row, torch.arange(n) % 4, torch.arange(n) % 6], -1).double()
    warped_latent = torch.arange(n) % 3 > 0
    positions[~warped_latent, 1:] += 0.3
    tokens = MemoryTokens(
        torch.randn(n, 16, generator=gen), positions, row, torch.zeros(n, 2).long(), torch.zeros(n).long(),
        warped_latent, torch.randn(n, 5, generator=gen), torch.rand(n, generator=gen),
    )  # fmt: skip
    cameras = random_cameras(13, gen, width=SIZE[0], height=SIZE[1]).recentred()
    return WindowRequest(
        torch.randn(4, 8, 12, generator=gen), torch.zeros(2, 4, 8, 12), torch.zeros(2, 8, 12).bool(), tokens,
        cameras[:9], torch.randn(2, 4, 8, 12, generator=gen), TokenGrid(*SIZE), "the ball turns blue", "a room.",
        Past(torch.randn(4, 8, 12, generator=gen), cameras[9:]),
    )  # fmt: skip


def depth_of(depth: LearnedDepth, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    found = depth.estimate(frames, CAMERAS)
    return found.depth, found.confidence


def refined(x: dict[str, Any], frames: torch.Tensor) -> torch.Tensor:
    return refine(x["refiner"], x["vae"], frames, SHOWN, GOOD, 0.9, 0.5)


CALLS: dict[str, tuple[Callable[..., Any], torch.Tensor]] = {
    **{f"vae.{name}": (lambda x, given, name=name: getattr(x["vae"], name)(given), given) for name, given in (
        ("encode_image", FRAMES), ("encode_video", CLIP), ("decode_image", LATENTS),
        ("decode_video", LATENTS.transpose(0, 1)[None]), ("decode_groups", LATENTS), ("decode_stills", LATENTS),
    )},
    "vae.encode_video, one frame": (lambda x, given: x["vae"].encode_video(given), CLIP[:, :, :1]),
    "vae.decode_video, one frame": (lambda x, given: x["vae"].decode_video(given), LATENTS[:1, :, None]),
    **{f"taef2.{name}": (lambda x, given, name=name: getattr(x["taef2"], name)(given), given) for name, given in (
        ("encode_image", FRAMES), ("encode_video", CLIP), ("decode_image", LATENTS),
        ("decode_video", LATENTS.transpose(0, 1)[None]),
    )},
    "depth": (lambda x, given: depth_of(x["depth"], given), FRAMES),
    "refine": (refined, FRAMES),
    "refine, nothing shown": (
        lambda x, given: refine(x["refiner"], x["vae"], given, SHOWN, torch.zeros_like(GOOD)), FRAMES
    ),
    "world": (lambda x, given: x["world"].generate(replace(request(), noise=given)), request().noise),
}  # fmt: skip


def as_parts(x: Any) -> list[torch.Tensor]:
    return list(x) if isinstance(x, tuple) else [x]


def moved(parts: dict[str, Any], at: torch.device) -> dict[str, Any]:
    return {name: deepcopy(part).to(at) for name, part in parts.items()}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", CALLS)
def test_a_network_elsewhere_answers_on_the_cpu_what_it_says_there(parts, name: str, place: str) -> None:
    call, given = CALLS[name]
    here = as_parts(call(parts, given))
    with somewhere(place) as at:
        away = as_parts(call(moved(parts, at), given))
    for x, y in zip(here, away, strict=True):
        assert y.device.type == "cpu" and type(y) is torch.Tensor
        assert torch.allclose(x, y, rtol=1e-3, atol=2e-4), float((x - y).abs().max())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["vae.encode_video", "vae.decode_video", "taef2.encode_image", "depth", "refine"])
def test_what_comes_from_another_device_goes_back_there(parts, name: str, place: str) -> None:
    call, given = CALLS[name]
    here = as_parts(call(parts, given))
    with somewhere(place) as at:
        for networks in (parts, moved(parts, at)):
            for x, y in zip(here, as_parts(call(networks, given.to(at))), strict=True):
                assert y.device.type == at.type
                assert torch.allclose(x, y.cpu(), rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("place", PLACES)
def test_words_are_told_where_the_weights_are(parts, place: str) -> None:
    here = parts["text"].encode(["the ball turns blue", ""])
    with somewhere(place) as at:
        away = moved(parts, at)["text"].encode(["the ball turns blue", ""])
        assert away.device.type == at.type and torch.allclose(here, away.cpu(), atol=1e-5)


@pytest.mark.parametrize("place", PLACES)
def test_the_kernel_lies_where_memory_reads(parts, place: str) -> None:
    vae: VideoVAE = deepcopy(parts["vae"])
    with somewhere(place) as at:
        assert vae.to(at).kernel is None
        vae.between += 1
        assert vae.kernel is not None and vae.kernel.device.type == "cpu"
        assert torch.equal(vae.kernel, torch.ones_like(vae.kernel))


@pytest.mark.parametrize("place", PLACES)
def test_cameras_may_lie_with_the_depth_network(parts, place: str) -> None:
    """As in training, where a batch moves whole."""
    here = depth_of(parts["depth"], FRAMES)[0]
    with somewhere(place) as at:
        network = moved(parts, at)["depth"].network
        log_depth = network(FRAMES.to(at), replace(CAMERAS, viewmats=CAMERAS.viewmats.to(at), Ks=CAMERAS.Ks.to(at)))[0]
        assert torch.allclose(log_depth.cpu().exp(), here, rtol=1e-3)


@pytest.mark.parametrize("place", PLACES)
def test_memory_tokens_move_whole(place: str) -> None:
    batch = MemoryBatch.pad([request().tokens, request().tokens[torch.arange(7)]], 16)
    assert batch.mask is not None
    with somewhere(place) as at:
        away = batch.to(at)
        for name, x in vars(batch).items():
            y = getattr(away, name)
            assert y.device.type == at.type and torch.equal(x, y.cpu()), name
    assert MemoryBatch(batch.features, batch.positions, batch.row).to("cpu").age is None


def test_the_device_of_a_network_is_that_of_its_weights(parts) -> None:
    with Elsewhere():
        assert home_of(moved(parts, META)["vae"]) == META
    assert home_of(parts["vae"]) == torch.device("cpu")


def test_a_network_of_which_one_weight_was_left_behind_does_not_pass_here(parts) -> None:
    """Negative control: the stand-in sees what would fail on a card."""
    refiner: Refiner = deepcopy(parts["refiner"])
    with somewhere("elsewhere") as at:
        refiner.to(at)
        refiner._buffers["gain"] = torch.ones(4)
        with pytest.raises(MixedDevicesError, match="mixes devices"):
            refine(refiner, parts["vae"], FRAMES, SHOWN, GOOD, 0.9, 0.5)
        with pytest.raises(MixedDevicesError, match="mixes devices"):
            parts["vae"].image.encode(there(FRAMES[:, :1]))


@pytest.mark.parametrize("name", ["nonsense", "", "meta", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{name}': .*; expected cpu, or a card that torch sees: "):
        device_named(name)
    assert device_named("cpu") == device_named(torch.device("cpu")) == torch.device("cpu")


def test_loaded_parts_are_moved_by_themselves(tmp_path: Path) -> None:
    from mosaicmem.models.checkpoint import load_depth, load_refiner, load_vae, load_world

    folder = write_tiny_model(tmp_path / "tiny")
    with Elsewhere():
        world, depth = load_world(folder / "world.safetensors"), load_depth(folder / "depth.safetensors")
        assert world.to("meta") is world and depth.to("meta") is depth
        vae, refiner = load_vae(folder / "vae.safetensors"), load_refiner(folder / "refiner.safetensors")
        assert vae.to("meta") is vae and refiner.to("meta") is refiner
        assert {home_of(x) for x in (world.network, depth.network, vae, refiner)} == {META}
