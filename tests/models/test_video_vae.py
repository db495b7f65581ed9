"""The video autoencoder: Wan's grouping, streams, and a start that is the best linear code there is."""

from __future__ import annotations

import json

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.models.vae import VAE
from mosaicmem.models.video_vae import Coder, VideoVAE, VideoVAEConfig

CONFIG = VideoVAEConfig(channels=6, image_widths=(4, 12), group_widths=(8, 16), blocks=1)


def random_vae(config: VideoVAEConfig = CONFIG) -> VideoVAE:
    """Weights of a size at which the networks matter as much as the linear maps."""
    gen = torch.Generator().manual_seed(0)
    vae = VideoVAE(config).eval().requires_grad_(False)
    for parameter in vae.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=gen))
    return vae


def clip(frames: int, gen: torch.Generator, size: tuple[int, int] = (16, 24)) -> Tensor:
    return torch.rand(2, 3, frames, *size, generator=gen) * 2 - 1


@pytest.mark.parametrize("frames", [1, 2, 5, 9])
def test_shapes_and_the_protocol(frames, rng):
    vae = random_vae()
    assert isinstance(vae, VAE)
    assert (vae.stride, vae.temporal, vae.channels, vae.name) == (8, 4, 6, "video-vae-6")
    latents = vae.encode_video(clip(frames, rng))
    assert latents.shape == (2, 6, 1 + -(-(frames - 1) // 4), 2, 3)
    decoded = vae.decode_video(latents)
    assert decoded.shape == (2, 3, 4 * latents.shape[2] - 3, 16, 24)
    assert float(decoded.min()) >= -1 and float(decoded.max()) <= 1
    assert vae.encode_image(torch.zeros(0, 3, 16, 24)).shape == (0, 6, 2, 3)
    assert vae.decode_image(torch.zeros(0, 6, 2, 3)).shape == (0, 3, 16, 24)


def test_the_first_frame_stands_alone_and_the_others_in_groups_of_four(rng):
    vae, video = random_vae(), clip(9, rng)
    latents = vae.encode_video(video)
    assert torch.equal(latents[:, :, 0], vae.encode_image(video[:, :, 0]))
    for frame, latent in ((0, 0), (1, 1), (4, 1), (5, 2), (8, 2)):
        changed = video.clone()
        changed[:, :, frame] = -changed[:, :, frame]
        differs = (vae.encode_video(changed) != latents).flatten(3).any(-1).any(1)
        assert differs.tolist() == [[l == latent for l in range(3)]] * 2, frame
    # an image and a group are different things
    assert not torch.allclose(latents[:, :, 1], vae.encode_image(video[:, :, 4]), atol=0.1)


def test_a_partial_last_group_repeats_its_last_frame(rng):
    vae, video = random_vae(), clip(7, rng)
    whole = torch.cat([video, video[:, :, -1:].expand(-1, -1, 2, -1, -1)], dim=2)
    assert torch.equal(vae.encode_video(video), vae.encode_video(whole))
    assert not torch.equal(vae.encode_video(video), vae.encode_video(torch.cat([video, video[:, :, :2]], dim=2)))


@pytest.mark.parametrize("config", [CONFIG, VideoVAEConfig(channels=24)])
def test_a_stream_gives_the_bits_of_a_clip(config, rng):
    vae = random_vae(config)
    size = (16, 24) if config == CONFIG else (128, 128)
    video = clip(17, rng, size)[:1]
    latents = vae.encode_video(video)
    whole = vae.decode_video(latents)
    stream = [vae.decode_image(latents[:, :, 0])[:, :, None]]
    stream += [vae.decode_video(latents[:, :, [0, l]])[:, :, 1:] for l in range(1, 5)]
    assert torch.equal(torch.cat(stream, dim=2), whole)
    groups = [
        vae.encode_video(torch.cat([video[:, :, :1], video[:, :, 4 * l - 3 : 4 * l + 1]], 2)) for l in range(1, 5)
    ]
    assert torch.equal(torch.cat([groups[0], *[g[:, :, 1:] for g in groups[1:]]], dim=2), latents)
    assert not torch.equal(vae.decode_video(latents.flip(2)), whole)


def cells(coder: Coder, rank: int, gen: torch.Generator, n: int = 40) -> Tensor:
    """Frames whose 8x8 blocks lie in a space of `rank` dimensions around a mean."""
    size = 3 * coder.frames * 64
    basis, mean = torch.randn(rank, size, generator=gen) / size**0.5, 0.1 * torch.randn(size, generator=gen)
    blocks = torch.randn(n, 2, 3, rank, generator=gen) @ basis + mean
    return F.pixel_shuffle(blocks.permute(0, 3, 1, 2), 8)


@pytest.mark.parametrize("name", ["image", "group"])
def test_the_start_is_exact_on_what_its_components_span(name, rng):
    coder = getattr(VideoVAE(CONFIG), name)
    frames = cells(coder, 6, rng)
    spread = coder.start_from(frames)
    with torch.no_grad():
        latents = coder.encode(frames)
        torch.testing.assert_close(coder.decode(latents), frames, rtol=0, atol=1e-5)
        flat = latents.transpose(0, 1).flatten(1)
        torch.testing.assert_close(flat @ flat.T / flat.shape[1], torch.eye(6), rtol=0, atol=1e-3)
        assert float(flat.mean(1).abs().max()) < 1e-3
        assert spread.tolist() == sorted(spread.tolist(), reverse=True)
        other = cells(coder, 6, rng)
        assert float((coder.decode(coder.encode(other)) - other).abs().max()) > 0.1, "control: another space"


def test_the_start_is_the_best_linear_code(rng):
    """What is lost is the sum of the variances that were left out."""
    coder = VideoVAE(CONFIG).image
    frames = cells(coder, 10, rng, n=100)
    coder.start_from(frames)
    with torch.no_grad():
        lost = (coder.decode(coder.encode(frames)) - frames).square().sum() / (100 * 6)
    blocks = F.pixel_unshuffle(frames, 8).permute(0, 2, 3, 1).flatten(0, 2).double()
    variances = torch.linalg.eigvalsh((blocks - blocks.mean(0)).T @ (blocks - blocks.mean(0)) / len(blocks)).flip(0)
    assert float(lost) == pytest.approx(float(variances[6:].sum()), rel=1e-4)


def test_latents_are_normalised_on_the_way_out_and_back_on_the_way_in(rng):
    vae, video = random_vae(), clip(5, rng)
    raw = vae.encode_video(video)
    decoded = vae.decode_video(raw)
    vae.mean.copy_(raw.transpose(1, 2).mean((0, 3, 4)))
    vae.std.copy_(raw.transpose(1, 2).std((0, 3, 4)))
    latents = vae.encode_video(video)
    for mode in (0, 1):
        assert float(latents[:, :, mode].mean((0, 2, 3)).abs().max()) < 1e-5
        torch.testing.assert_close(latents[:, :, mode].std((0, 2, 3)), torch.ones(6), rtol=1e-4, atol=0)
    torch.testing.assert_close(vae.decode_video(latents), decoded, rtol=0, atol=1e-5)
    torch.testing.assert_close(vae.decode_image(latents[:, :, 0]), decoded[:, :, 0], rtol=0, atol=1e-5)
    assert float((vae.decode_video(raw) - decoded).abs().max()) > 0.1, "control: latents of another normalisation"


def test_sizes_that_do_not_fit_are_refused(rng):
    vae = random_vae()
    with pytest.raises(GeometryError, match=r"20x16 pixels.*multiples of 8"):
        vae.encode_image(torch.zeros(1, 3, 16, 20))
    with pytest.raises(GeometryError, match="multiples of 8"):
        vae.encode_video(torch.zeros(1, 3, 5, 12, 16))
    with pytest.raises(GeometryError, match="empty clip"):
        vae.encode_video(torch.zeros(1, 3, 0, 16, 16))
    with pytest.raises(jaxtyping.TypeCheckError, match="frames"):
        vae.encode_image(torch.zeros(1, 4, 16, 16))
    for name in ("channels", "blocks", "temporal", "stride"):
        with pytest.raises(ConfigError, match="expected stride 8"):
            VideoVAEConfig.from_dict({name: 0})


def test_sizes_survive_their_json():
    assert VideoVAEConfig.from_dict(json.loads(json.dumps(CONFIG.to_dict()))) == CONFIG
    state = VideoVAE(CONFIG).state_dict()
    assert [state[f"{mode}.encoder.0.weight"].shape[:2] for mode in ("image", "group")] == [(4, 48), (8, 192)]
