"""The pixel-shuffle VAE is lossless and keeps Wan's time structure; TAEF2 reproduces photographs."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from helpers import shared_data
from mosaicmem.errors import ConfigError, GeometryError, InputError, MissingWeightsError
from mosaicmem.io.files import read_image
from mosaicmem.models.synthetic import PixelShuffleVAE
from mosaicmem.models.taef2 import DECODER_FILE, ENCODER_FILE, TAEF2


@given(
    stride=st.integers(1, 4),
    temporal=st.integers(1, 4),
    latents=st.integers(1, 3),
    cells=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    seed=st.integers(0, 99),
)
def test_pixel_shuffle_is_lossless_to_the_bit(stride, temporal, latents, cells, seed):
    vae = PixelShuffleVAE(stride, temporal)
    frames = 1 + (latents - 1) * temporal
    size = (cells[0] * stride, cells[1] * stride)
    video = torch.randn(2, 3, frames, *size, generator=torch.Generator().manual_seed(seed))
    encoded = vae.encode_video(video)
    assert encoded.shape == (2, vae.channels, latents, *cells)
    assert torch.equal(vae.decode_video(encoded), video)
    alone = vae.encode_image(video[0].transpose(0, 1))
    assert torch.equal(vae.decode_image(alone), video[0].transpose(0, 1))


def test_the_first_latent_is_the_image_mode_latent_and_later_ones_are_not(rng):
    vae = PixelShuffleVAE(2, 4)
    video = torch.randn(1, 3, 9, 4, 6, generator=rng)
    encoded = vae.encode_video(video)
    assert torch.equal(encoded[:, :, 0], vae.encode_image(video[:, :, 0]))
    # the reference frame of latent l is raw frame 4 l
    assert torch.equal(vae.decode_image(encoded[0].transpose(0, 1)), video[0, :, ::4].transpose(0, 1))
    assert not torch.equal(encoded[:, :, 1], vae.encode_image(video[:, :, 4]))


def test_an_image_mode_latent_decodes_to_a_still_clip(rng):
    vae = PixelShuffleVAE(1, 4)
    frame = torch.randn(1, 3, 4, 4, generator=rng)
    latent = vae.encode_image(frame)
    clip = vae.decode_video(torch.stack([latent, latent], 2))
    assert clip.shape[2] == 5
    assert torch.equal(clip, frame[:, :, None].expand_as(clip))


def test_a_partial_last_group_repeats_its_last_frame(rng):
    vae = PixelShuffleVAE(1, 4)
    video = torch.randn(1, 3, 7, 2, 2, generator=rng)
    decoded = vae.decode_video(vae.encode_video(video))
    assert decoded.shape[2] == 9
    assert torch.equal(decoded[:, :, :7], video)
    assert torch.equal(decoded[:, :, 7:], video[:, :, 6:].expand(-1, -1, 2, -1, -1))


def test_a_latent_depends_on_its_own_frames_only(rng):
    vae = PixelShuffleVAE(1, 4)
    video = torch.randn(1, 3, 9, 2, 2, generator=rng)
    changed = video.clone()
    changed[:, :, 5] += 1
    differs = (vae.encode_video(video) != vae.encode_video(changed)).flatten(3).any(-1).any(1)[0]
    assert differs.tolist() == [False, False, True]


@pytest.mark.parametrize("make", [lambda: PixelShuffleVAE(0, 1), lambda: PixelShuffleVAE(1, 0)])
def test_strides_below_one_are_refused(make):
    with pytest.raises(ConfigError, match="at least 1"):
        make()


def test_sizes_and_channels_that_do_not_fit_are_refused():
    vae = PixelShuffleVAE(4, 2)
    with pytest.raises(GeometryError, match="multiples of 4"):
        vae.encode_image(torch.zeros(1, 3, 6, 8))
    with pytest.raises(GeometryError, match=f"expects {vae.channels}"):
        vae.decode_image(torch.zeros(1, 3, 2, 2))
    with pytest.raises(GeometryError, match="empty clip"):
        vae.encode_video(torch.zeros(1, 3, 0, 4, 4))


def _block(prefix: str, width: int, wide: int | None, rng: torch.Generator) -> dict[str, torch.Tensor]:
    state = {}
    for i in (0, 2, 4):
        state |= _conv(f"{prefix}.conv.{i}", width, width, rng)
    if wide:
        state |= _conv(f"{prefix}.pool.0", width, wide, rng, size=1, bias=False)
        state |= {f"{prefix}.pool.1.weight": torch.ones(wide), f"{prefix}.pool.1.bias": torch.zeros(wide)}
        state |= _conv(f"{prefix}.pool.3", wide, width, rng, size=1, bias=False)
    return state


def _conv(key: str, n_in: int, n_out: int, rng: torch.Generator, size: int = 3, bias: bool = True):
    weight = torch.randn(n_out, n_in, size, size, generator=rng) / math.sqrt(n_in) / size
    return {f"{key}.weight": weight} | ({f"{key}.bias": torch.randn(n_out, generator=rng) * 0.1} if bias else {})


@pytest.fixture
def tiny(tmp_path: Path, rng: torch.Generator) -> tuple[Path, dict, dict]:
    """A random checkpoint of the published layout, 8 wide, 5 latent channels."""
    width, wide, channels = 8, 16, 5
    encoder = _conv("0", 3, width, rng) | _conv("14", width, channels, rng)
    for i in (2, 6, 10):
        encoder |= _conv(str(i), width, width, rng, bias=False)
    for i in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
        encoder |= _block(str(i), width, wide if i > 10 else None, rng)
    decoder = _conv("1", channels, width, rng) | _conv("19", width, 3, rng)
    for i in (7, 12, 17):
        decoder |= _conv(str(i), width, width, rng, bias=False)
    for i in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        decoder |= _block(str(i), width, wide if i < 6 else None, rng)
    halves = [{k: v.half() for k, v in part.items()} for part in (encoder, decoder)]
    save_file(halves[0], tmp_path / ENCODER_FILE)
    save_file(halves[1], tmp_path / DECODER_FILE)
    return tmp_path, halves[0], halves[1]


def _run_block(x: torch.Tensor, state: dict, key: str) -> torch.Tensor:
    """A block, written out from the layout's description."""
    get = lambda name: state[f"{key}.{name}"].float()  # noqa: E731
    conv = torch.nn.functional.conv2d
    if f"{key}.pool.0.weight" in state:
        wide = conv(x, get("pool.0.weight"))
        grouped = wide.unflatten(1, (4, -1))
        mean = grouped.mean((2, 3, 4), keepdim=True)
        spread = (grouped - mean).square().mean((2, 3, 4), keepdim=True)
        x = x + conv(torch.relu(((grouped - mean) / (spread + 1e-5).sqrt()).flatten(1, 2)), get("pool.3.weight"))
    y = x
    for i in (0, 2, 4):
        y = conv(y, get(f"conv.{i}.weight"), get(f"conv.{i}.bias"), padding=1)
        y = torch.relu(y) if i < 4 else y
    return torch.relu(y + x)


def test_taef2_computes_what_its_layout_says(tiny, rng):
    folder, encoder, decoder = tiny
    vae = TAEF2.from_pretrained(folder)
    assert (vae.channels, vae.stride, vae.temporal) == (5, 8, 1)
    conv = torch.nn.functional.conv2d
    frames = torch.rand(2, 3, 16, 24, generator=rng) * 2 - 1
    x = conv((frames + 1) / 2, encoder["0.weight"].float(), encoder["0.bias"].float(), padding=1)
    for i in range(1, 14):
        if i in (2, 6, 10):
            x = conv(x, encoder[f"{i}.weight"].float(), padding=1, stride=2)
        else:
            x = _run_block(x, encoder, str(i))
    x = conv(x, encoder["14.weight"].float(), encoder["14.bias"].float(), padding=1)
    latents = vae.encode_image(frames)
    torch.testing.assert_close(latents, x, rtol=1e-4, atol=1e-4)
    x = torch.relu(conv(3 * torch.tanh(x / 3), decoder["1.weight"].float(), decoder["1.bias"].float(), padding=1))
    for i in range(3, 19):
        if i in (6, 11, 16):
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        elif i in (7, 12, 17):
            x = conv(x, decoder[f"{i}.weight"].float(), padding=1)
        else:
            x = _run_block(x, decoder, str(i))
    x = conv(x, decoder["19.weight"].float(), decoder["19.bias"].float(), padding=1)
    torch.testing.assert_close(vae.decode_image(latents), x.clamp(0, 1) * 2 - 1, rtol=1e-4, atol=1e-4)


def test_taef2_treats_every_frame_of_a_clip_alone(tiny, rng):
    vae = TAEF2.from_pretrained(tiny[0])
    video = torch.rand(2, 3, 3, 8, 16, generator=rng) * 2 - 1
    latents = vae.encode_video(video)
    assert latents.shape == (2, 5, 3, 1, 2)
    assert torch.equal(latents[1, :, 2], vae.encode_image(video[1, :, 2][None])[0])
    assert vae.decode_video(latents).shape == video.shape
    assert vae.encode_image(torch.zeros(0, 3, 8, 16)).shape == (0, 5, 1, 2)
    with pytest.raises(GeometryError, match="multiples of 8"):
        vae.encode_image(torch.zeros(1, 3, 12, 16))


def test_missing_weights_say_what_to_put_where(tmp_path):
    with pytest.raises(MissingWeightsError, match=f"{ENCODER_FILE} and no {DECODER_FILE}.*into this folder"):
        TAEF2.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda s: s.pop("5.conv.2.bias"), "'5.conv.2.bias': found nothing"),
        (lambda s: s.update({"2.weight": torch.zeros(8, 8, 1, 1)}), r"'2.weight': found \(8, 8, 1, 1\)"),
        (lambda s: s.update({"extra": torch.zeros(1)}), "'extra'"),
        (lambda s: s.update({"0.weight": torch.zeros(3)}), "no TAEF2 checkpoint"),
        (lambda s: s.update({"0.bias": torch.full((8,), torch.nan)}), "not finite"),
        (lambda s: s.update({"0.bias": torch.zeros(8, dtype=torch.int32)}), "finite floats"),
        (lambda s: s.update({"11.pool.0.weight": torch.zeros(6, 8, 1, 1)}), "widths do not fit together"),
    ],
)
def test_a_wrong_checkpoint_is_refused_by_name(tiny, edit, message):
    folder, encoder, _ = tiny
    edit(encoder)
    save_file(encoder, folder / ENCODER_FILE)
    with pytest.raises(InputError, match=message):
        TAEF2.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 7, 100, -10])
def test_a_truncated_checkpoint_is_refused(tiny, keep):
    path = tiny[0] / DECODER_FILE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=DECODER_FILE):
        TAEF2.from_pretrained(tiny[0])


@pytest.mark.slow
def test_real_taef2_reproduces_a_photograph():
    from mosaicmem.evaluation.metrics import psnr

    vae = TAEF2.from_pretrained(shared_data("taef2"))
    assert (vae.channels, sum(p.numel() for p in vae.encoder.parameters())) == (32, pytest.approx(1.34e6, rel=0.01))
    photo = torch.from_numpy(read_image(shared_data("icl_living_room", "image", "00100.jpg")))
    frames = photo.permute(2, 0, 1)[None].float() / 127.5 - 1
    latents = vae.encode_image(frames)
    assert latents.shape == (1, 32, 60, 80)
    assert abs(float(latents.mean())) < 0.1
    assert 0.7 < float(latents.std()) < 1.0
    assert float(psnr(vae.decode_image(latents), frames)) >= 32
