"""What is measured of an autoencoder, in closed form, and latents that stay with the one that made them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from tests.elsewhere import META, PLACES, Elsewhere, somewhere
from tests.training.clips import make_clip

from mosaicmem.errors import ConfigError, InputError
from mosaicmem.models.checkpoint import load_vae
from mosaicmem.models.devices import home_of
from mosaicmem.models.video_vae import VideoVAE, VideoVAEConfig
from mosaicmem.ops.latent_kernel import fit_kernel, read_between
from mosaicmem.training import encode as encode_module
from mosaicmem.training.cache import HELD_FOLDER, STEP, write_clip
from mosaicmem.training.checkpoint import write_weights
from mosaicmem.training.encode import (
    VAE_FILE,
    channel_gain,
    encode_ahead,
    encoded_clips,
    fit_between,
    fit_statistics,
    measurements,
    prepare_vae,
    read_gain,
    weights_of,
)
from mosaicmem.training.latent_clip import encode_clip, read_latents, write_latents

SIZES = VideoVAEConfig(channels=5, image_widths=(8, 8), group_widths=(8, 8), blocks=1)
CLIPS = [make_clip(seed, size=48) for seed in range(3)]
HEADER = {"format": "mosaicmem-training-1", "task": {"task": "vae", "model": SIZES.to_dict()}}


@pytest.fixture
def vae() -> VideoVAE:
    """Principal components of the clips, seen through a wrong scale and centre."""
    torch.manual_seed(0)
    vae = VideoVAE(SIZES)
    frames = torch.cat([clip.frames(slice(None)) for clip in CLIPS])
    vae.image.start_from(frames[::STEP])
    vae.group.start_from(frames[: len(frames) // STEP * STEP].reshape(-1, 3 * STEP, *frames.shape[-2:]))
    with torch.no_grad():
        vae.image.project.weight.mul_(3)
        vae.group.project.bias.add_(2)  # pyright: ignore[reportOptionalMemberAccess]
    return vae.requires_grad_(False)


def test_fitted_latents_have_mean_0_and_spread_1(vae):
    fit_statistics(vae, CLIPS)
    coded = [encode_clip(vae, clip) for clip in CLIPS]
    for cells in (torch.cat([c.image for c in coded]), torch.cat([c.groups for c in coded])):
        assert cells.mean((0, 2, 3)).abs().max() < 1e-5
        assert (cells.std((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-5
    assert vae.std[0].mean() > 2 * vae.std[1].mean() and vae.mean[1].mean() > 1.9
    fitted = vae.std.clone()
    fit_statistics(vae, CLIPS)
    assert torch.equal(vae.std, fitted)  # what was fitted before does not matter
    with pytest.raises(InputError, match="no clips"):
        fit_statistics(vae, [])


def test_the_gain_of_a_linear_decoder_is_the_length_of_its_columns(vae):
    fit_statistics(vae, CLIPS)
    gain = channel_gain(vae, CLIPS)
    for mode, coder in enumerate((vae.image, vae.group)):
        columns = coder.unproject.weight[:, :, 0, 0]
        assert torch.allclose(gain[mode], vae.std[mode] * columns.norm(dim=0) / len(columns) ** 0.5, rtol=1e-4)
    with pytest.raises(InputError, match="no clips"):
        channel_gain(vae, [])


def test_the_gain_counts_what_a_decoder_spreads_over_its_neighbours(vae):
    """A decoder that adds w of each neighbouring cell has a larger gain by the root of the sum of squares."""
    fit_statistics(vae, CLIPS)
    plain = channel_gain(vae, CLIPS)
    decode = vae.image.decode

    def smeared(latents):
        return decode(latents) + 2 * torch.roll(decode(latents), 8, dims=-1)

    vae.image.decode = smeared  # pyright: ignore[reportAttributeAccessIssue]
    ratio = channel_gain(vae, CLIPS) / plain
    assert torch.allclose(ratio[1], torch.ones(5))
    assert (ratio[0] / 5**0.5 - 1).abs().max() < 0.2  # coin flips leave a few per cent of cross terms


def test_an_encoded_clip_holds_what_the_names_say(vae, tmp_path):
    fit_statistics(vae, CLIPS)
    clip = make_clip(1, frames=18, event=13)
    coded = encode_clip(vae, clip)
    frames = clip.frames(slice(0, 17))
    assert torch.equal(coded.image, vae.encode_image(frames[::4]))
    video = vae.encode_video(frames.transpose(0, 1)[None])
    assert torch.equal(coded.groups, video[0, :, 1:].transpose(0, 1))
    seen = vae.decode_video(video)[0].transpose(0, 1)
    assert torch.allclose(coded.echo, vae.encode_image(seen[::4]), atol=1e-5)
    assert not torch.allclose(coded.echo, coded.image, atol=1e-2)
    assert (len(coded.image), len(coded.groups), len(coded.depth), len(coded.cameras)) == (5, 4, 5, 17)
    write_latents(tmp_path / "1.safetensors", coded)
    read = read_latents(tmp_path / "1.safetensors")
    for name in ("image", "echo", "groups", "depth"):
        assert torch.equal(getattr(read, name), getattr(coded, name).half().float())
    assert torch.equal(read.cameras.viewmats, coded.cameras.viewmats)
    assert (read.caption, read.event, read.event_frame) == (clip.caption, clip.event, 13)
    content = (tmp_path / "1.safetensors").read_bytes()
    (tmp_path / "2.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        read_latents(tmp_path / "2.safetensors")


def test_latents_stay_with_the_autoencoder_that_made_them(vae, tmp_path):
    source, out = tmp_path / "source.safetensors", tmp_path / "latents"
    write_weights(source, vae.state_dict(), HEADER)
    prepared = prepare_vae(source, CLIPS, out)
    assert read_gain(out).shape == (2, 5) and (read_gain(out) > 0).all()
    assert not (prepared.std == 1).any()
    before = (out / VAE_FILE).read_bytes()
    assert torch.equal(prepare_vae(source, CLIPS[:1], out).std, prepared.std)
    assert torch.equal(prepare_vae(out, CLIPS[:1], out).std, prepared.std)
    assert (out / VAE_FILE).read_bytes() == before
    vae.image.unproject.weight[0, 0] += 1
    write_weights(source, vae.state_dict(), HEADER)
    with pytest.raises(ConfigError, match="another autoencoder"):
        prepare_vae(source, CLIPS, out)
    elsewhere = prepare_vae(out, CLIPS[:1], tmp_path / "more")  # statistics that ship are kept
    assert torch.equal(elsewhere.std, prepared.std)
    with pytest.raises(InputError, match="neither"):
        weights_of(tmp_path / "nowhere", "vae", tmp_path)


def test_an_encoded_clip_says_how_much_of_each_cell_moves(vae, tmp_path):
    """Mean over the four frames of a group, and over the blocks of a cell; frame 0 and a rest that is no group do not
    count. Clips without it, such as those made before it was kept, stay readable."""
    generator = torch.Generator().manual_seed(0)
    clip = make_clip(1, frames=18)
    for side in (4, 8):
        moving = torch.randint(0, 256, (18, side, side), dtype=torch.uint8, generator=generator)
        coded = encode_clip(vae, replace(clip, moving=moving))
        assert coded.moving is not None and coded.moving.shape == (4, 4, 4) == (len(coded.groups), 4, 4)
        k = side // 4
        for g, y, x in torch.cartesian_prod(*[torch.arange(4)] * 3).tolist():
            part = moving[1 + 4 * g : 5 + 4 * g, k * y : k * y + k, k * x : k * x + k]
            assert float(coded.moving[g, y, x]) == pytest.approx(float(part.double().mean()) / 255, abs=1e-6)
        write_latents(tmp_path / f"{side}.safetensors", coded)
        read = read_latents(tmp_path / f"{side}.safetensors").moving
        assert read is not None and torch.equal(read, coded.moving.half().float())
        assert torch.equal(coded.image, encode_clip(vae, clip).image)
    write_latents(tmp_path / "old.safetensors", encode_clip(vae, clip))
    with safe_open(str(tmp_path / "old.safetensors"), "pt") as file:
        assert "moving" not in set(file.keys())
    assert read_latents(tmp_path / "old.safetensors").moving is None


def test_the_kernel_between_cells_is_that_of_the_fitted_latents(vae):
    fit_statistics(vae, CLIPS)
    assert vae.kernel is None
    fit_between(vae, CLIPS, frames=30)
    assert vae.kernel is not None
    pictures = [clip.frames(torch.linspace(0, len(clip) - 1, 10).long().tolist()) for clip in CLIPS]
    by_hand = fit_kernel(vae.encode_image, torch.cat(pictures), 8)
    assert torch.equal(vae.kernel, by_hand) and by_hand.shape == (9, 9, 20, 5)
    latents = vae.encode_image(CLIPS[0].frames(slice(0, 1)))
    cells = torch.tensor([[2.0, 3.0], [3.0, 3.0]])
    values, known = read_between(latents, torch.ones(1, 6, 6).bool(), torch.zeros(2).long(), cells, vae.kernel)
    assert bool(known.all()) and (values - latents[0, :, 3, 2:4].T).abs().max() < 0.05
    fit_between(vae, CLIPS, frames=2)  # fewer frames than clips
    assert not torch.equal(vae.kernel, by_hand)
    with pytest.raises(InputError, match="no clips"):
        fit_between(vae, [])


def test_a_kernel_is_fitted_once_and_one_that_is_there_is_kept(vae, tmp_path, monkeypatch):
    calls = []
    inner = encode_module.fit_between
    monkeypatch.setattr(encode_module, "fit_between", lambda *a: calls.append(1) or inner(*a))
    write_weights(tmp_path / "plain.safetensors", vae.state_dict(), HEADER)
    first = prepare_vae(tmp_path / "plain.safetensors", CLIPS, tmp_path / "a")
    assert calls == [1] and first.kernel is not None
    assert torch.equal(first.kernel, first.kernel.half().float())  # as it is shipped
    again = prepare_vae(tmp_path / "plain.safetensors", CLIPS[:1], tmp_path / "a")
    shipped = prepare_vae(tmp_path / "a", CLIPS[:1], tmp_path / "b")
    for other in (again, shipped):
        assert other.kernel is not None and torch.equal(other.kernel, first.kernel)
    vae.between.fill_(0.25)
    write_weights(tmp_path / "stale.safetensors", vae.state_dict(), HEADER)  # no statistics yet: of other latents
    stale = prepare_vae(tmp_path / "stale.safetensors", CLIPS, tmp_path / "d")
    assert stale.kernel is not None and torch.equal(stale.kernel, first.kernel) and calls == [1, 1]
    calls.pop()
    vae.std.fill_(0.5)
    write_weights(tmp_path / "own.safetensors", vae.state_dict(), HEADER)
    own = prepare_vae(tmp_path / "own.safetensors", CLIPS, tmp_path / "c")
    assert own.kernel is not None and bool((own.kernel == 0.25).all()) and calls == [1]


@pytest.mark.parametrize("place", PLACES)
def test_an_autoencoder_is_measured_elsewhere_as_here(vae, tmp_path, place: str, monkeypatch) -> None:
    """All but the kernel, whose fit takes long here: that takes an autoencoder from anywhere."""
    write_weights(tmp_path / VAE_FILE, vae.state_dict(), HEADER)
    kernels: list[str] = []
    monkeypatch.setattr(encode_module, "fit_between", lambda vae, _: kernels.append(home_of(vae).type))
    ticks: list[None] = []
    here = prepare_vae(tmp_path, CLIPS, tmp_path / "here", tick=lambda: ticks.append(None))
    with somewhere(place) as at:
        away = prepare_vae(tmp_path, CLIPS, tmp_path / "away", device=str(at))
        assert home_of(away).type == "cpu"
    assert kernels == ["cpu", at.type] and len(ticks) == measurements(CLIPS)
    assert torch.allclose(away.std, here.std) and torch.allclose(away.mean, here.mean, atol=1e-6)
    assert torch.allclose(read_gain(tmp_path / "away"), read_gain(tmp_path / "here"), rtol=1e-4)
    assert not torch.allclose(here.std, vae.std), "control: it was measured"


def test_clips_are_encoded_elsewhere(vae, tmp_path):
    clips, here, away = (tmp_path / name for name in ("clips", "here", "away"))
    for folder in (clips, here, away):
        folder.mkdir()
    write_clip(clips / "0.safetensors", CLIPS[0])
    for folder in (here, away):
        write_weights(folder / VAE_FILE, vae.state_dict(), HEADER)
    assert list(encode_ahead(clips, ["0"], here)) == ["0"]
    with Elsewhere():
        assert list(encode_ahead(clips, ["0"], away, device="meta")) == ["0"]
        used = encode_module._loaded(away / VAE_FILE, (away / VAE_FILE).stat().st_mtime_ns, "meta")
        assert home_of(used) == META and encode_module._loaded.cache_info().hits > 0
    found, expected = (read_latents(folder / "0.safetensors") for folder in (away, here))
    assert torch.allclose(found.image, expected.image) and torch.allclose(found.groups, expected.groups)


def test_only_what_is_missing_is_encoded(vae, tmp_path):
    clips, out = tmp_path / "clips", tmp_path / "latents"
    (clips / HELD_FOLDER).mkdir(parents=True)
    for i, clip in enumerate(CLIPS):
        write_clip(clips / f"{i}.safetensors", clip)
    write_clip(clips / HELD_FOLDER / "9.safetensors", CLIPS[0])
    write_weights(tmp_path / "vae.safetensors", vae.state_dict(), HEADER)
    prepare_vae(tmp_path, CLIPS[:1], out)
    assert list(encode_ahead(clips, ["0", "1"], out)) == ["0", "1"]
    stamp = (out / "0.safetensors").stat().st_mtime_ns
    assert sorted(encode_ahead(clips, ["0", "1", "2"], out)) == ["0", "1", "2"]
    assert (out / "0.safetensors").stat().st_mtime_ns == stamp
    assert list(encode_ahead(clips / HELD_FOLDER, ["9"], out / HELD_FOLDER)) == ["9"]
    assert [p.stem for p in encoded_clips(out)] == ["0", "1", "2"]  # the autoencoder is no clip
    expected = encode_clip(load_vae(out / VAE_FILE), CLIPS[0])
    assert torch.allclose(read_latents(out / "0.safetensors").image, expected.image, atol=2e-3)
    assert torch.equal(
        read_latents(out / HELD_FOLDER / "9.safetensors").image, read_latents(out / "0.safetensors").image
    )
