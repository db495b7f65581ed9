"""Clips to latents, once, and what has to be measured of an autoencoder before a world model learns on its latents.

fit_statistics(vae, clips)            # in place: vae.mean, vae.std [2 c], so that latents have mean 0 and spread 1
fit_between(vae, clips)               # in place: vae.between, how latents are read between cells
network.gain.copy_(channel_gain(vae, clips))   # [2 c], of images and of groups

All of them compute where the autoencoder lies.
"""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.evaluation.parallel import losing_none
from mosaicmem.models.checkpoint import load_vae, read_header
from mosaicmem.models.devices import home_of
from mosaicmem.models.video_vae import Coder, VideoVAE
from mosaicmem.ops.latent_kernel import fit_kernel
from mosaicmem.training.cache import HELD_FOLDER, STEP, Clip, ClipCache, read_clip
from mosaicmem.training.checkpoint import export_weights, write_weights
from mosaicmem.training.latent_clip import encode_clip, write_latents

VAE_FILE = "vae.safetensors"
_MEASURED = 16  # clips that the gain is measured on
_FITTED = ("mean", "std", "between")  # after training, to data
_NUDGE = 0.25  # of a latent's own spread: small enough to be linear, large enough for float32


@torch.no_grad()
def fit_statistics(vae: VideoVAE, clips: Iterable[Clip]) -> None:
    """Set `vae.mean` and `vae.std` to those of the raw latents of some clips, per mode and channel.

    Images are frames 0, 4, 8 ..., groups are frames 1..4, 5..8, ...; whatever was fitted before does not matter.

    Raises:
        InputError: if there are no clips, or none with a group.
    """
    moments = torch.zeros(2, 3, vae.channels, dtype=torch.float64)  # count, sum, sum of squares
    for clip in clips:
        frames = clip.frames(slice(0, 1 + (len(clip) - 1) // STEP * STEP)).to(home_of(vae))
        groups = frames[1:].reshape(-1, 3 * STEP, *frames.shape[-2:])
        for mode, latents in enumerate((vae.image.encode(frames[::STEP]), vae.group.encode(groups))):
            cells = latents.transpose(0, 1).flatten(1).double().cpu()
            moments[mode] += torch.stack(
                [torch.full_like(cells[:, 0], cells.shape[1]), cells.sum(1), cells.square().sum(1)]
            )
    count, total, squares = moments.unbind(1)
    if not bool((count > 1).all()):
        raise InputError("no clips to measure latents on; render some first")
    mean = total / count
    vae.mean.copy_(mean)
    vae.std.copy_((squares / count - mean.square()).clamp(min=1e-8).sqrt())


def fit_between(vae: VideoVAE, clips: Sequence[Clip], *, frames: int = 200) -> None:
    """Set `vae.between` to the interpolation kernel of its image latents (after `fit_statistics`).

    Raises:
        InputError: if there are no clips.
    """
    if not clips:
        raise InputError("no clips to fit the kernel on; render some first")
    each = -(-frames // len(clips))
    pictures = [clip.frames(torch.linspace(0, len(clip) - 1, each).long().tolist()) for clip in clips[:frames]]
    vae.between.copy_(fit_kernel(vae.encode_image, torch.cat(pictures), vae.stride))


@torch.no_grad()
def channel_gain(vae: VideoVAE, clips: Iterable[Clip], *, seed: int = 0) -> Float[Tensor, "2 c"]:
    """Root mean square change of decoded pixels (of [-1, 1]) per unit of each normalized channel.

    One channel is nudged up or down by a coin flip in every cell, so that cells do not help each other: the mean square
    over pixels is then a cell's mean square effect, whatever the reach of the decoder. A linear decoder with columns
    `w_c` over `n` pixel values has `std_c |w_c| / sqrt(n)`.

    Args:
        clips: To decode four frames and four groups of; a dozen are plenty.

    Raises:
        InputError: if there are no clips.
    """
    generator = torch.Generator().manual_seed(seed)
    total, count = torch.zeros(2, vae.channels, dtype=torch.float64), 0
    for clip in clips:
        frames = clip.frames(slice(0, 1 + (len(clip) - 1) // STEP * STEP))
        groups = frames[1:].unflatten(0, (-1, STEP)).flatten(1, 2)
        for mode, (coder, shown) in enumerate(((vae.image, frames[::STEP]), (vae.group, groups))):
            pick = torch.linspace(0, len(shown) - 1, min(4, len(shown))).long()
            total[mode] += _mean_square(coder, coder.encode(shown[pick].to(home_of(vae))), vae.std[mode], generator)
        count += 1
    if not count:
        raise InputError("no clips to measure the decoder on; render some first")
    return (total / count).sqrt().float()


def _mean_square(
    coder: Coder, raw: Float[Tensor, "n c h w"], std: Float[Tensor, " c"], generator: torch.Generator
) -> Float[Tensor, " c"]:
    n, c, h, w = raw.shape
    out = torch.zeros(c, dtype=torch.float64)
    for channel in range(c):
        sign = torch.randint(0, 2, (n, h, w), generator=generator).to(raw) * 2 - 1
        nudge = torch.zeros_like(raw)
        nudge[:, channel] = _NUDGE * std[channel] * sign
        change = (coder.decode(raw + nudge) - coder.decode(raw - nudge)) / (2 * _NUDGE)
        out[channel] = float(change.double().square().mean())
    return out


def prepare_vae(
    source: Path, clips: Sequence[Clip], out: Path, *, device: str = "cpu", tick: Callable[[], object] = lambda: None
) -> VideoVAE:
    """Put an autoencoder beside the latents that will be made with it: `out/vae.safetensors`, as it is shipped.

    Statistics and the kernel between cells are fitted unless the autoencoder has them already; the decoder's gain is
    measured and written into the header. A second call with the same autoencoder changes nothing.

    Args:
        source: A training's folder or checkpoint (its averaged weights count), an exported file, or a folder with
            `vae.safetensors`.
        clips: To measure on; a few dozen.
        device: Where to measure; what is given back lies on the CPU.
        tick: Called `measurements(clips)` times or less.

    Raises:
        InputError: if there is no autoencoder.
        ConfigError: if `out` holds latents of another one.
    """
    target = out / VAE_FILE
    with tempfile.TemporaryDirectory() as scratch:
        file = weights_of(source, "vae", Path(scratch))
        vae, header = load_vae(file), read_header(file)
    if target.is_file():
        if not _same_network(vae, load_vae(target)):
            raise ConfigError(f"{target}: is another autoencoder than {source}; encode into another folder")
        return load_vae(target)
    vae = vae.to(device)
    if bool((vae.std == 1).all()):
        fit_statistics(vae, _ticking(clips, tick))
        vae.between.zero_()  # of latents of another spread
    if vae.kernel is None:
        fit_between(vae, clips)
        tick()
    gain = channel_gain(vae, _ticking(clips[:_MEASURED], tick))
    weights = {k: v if k in ("mean", "std") else v.half() for k, v in vae.cpu().state_dict().items()}
    write_weights(target, weights, {**header, "gain": gain.tolist()})
    return load_vae(target)


def measurements(clips: Sequence[Clip]) -> int:
    """How often `prepare_vae` ticks at most."""
    return len(clips) + 1 + len(clips[:_MEASURED])


def _ticking(clips: Iterable[Clip], tick: Callable[[], object]) -> Iterator[Clip]:
    for clip in clips:
        yield clip
        tick()


def weights_of(source: Path, part: str, scratch: Path) -> Path:
    """A file of exported weights: `source` itself, the one of this part in it, or a training exported to `scratch`."""
    if (source / f"{part}.safetensors").is_file():
        return source / f"{part}.safetensors"
    checkpoint = source / "checkpoint.safetensors" if source.is_dir() else source
    if not checkpoint.is_file():
        raise InputError(f"{source}: holds neither {part}.safetensors nor a training's checkpoint.safetensors")
    with safe_open(str(checkpoint), "pt") as file:  # pyright: ignore[reportArgumentType]
        training = any(key.startswith("ema.") for key in file.keys())  # noqa: SIM118 - it is no mapping
    return export_weights(checkpoint, scratch / f"{part}.safetensors") if training else checkpoint


def read_gain(folder: Path) -> Float[Tensor, "2 c"]:
    """The decoder's gain that `prepare_vae` measured."""
    gain = read_header(folder / VAE_FILE).get("gain")
    if gain is None:
        raise InputError(f"{folder / VAE_FILE}: holds no gain; encode with `mosaicmem train encode`")
    return torch.tensor(gain)


def encoded_clips(folder: Path) -> list[Path]:
    """Files of encoded clips of a folder, numbers in numerical order."""
    return [folder / f"{name}.safetensors" for name in ClipCache(folder).names() if name != Path(VAE_FILE).stem]


def encode_ahead(
    clips: Path, names: Sequence[str], out: Path, *, processes: int = 1, device: str = "cpu"
) -> Iterator[str]:
    """Encode what is missing of a folder of clips with `out/vae.safetensors`, yielding each name that is done.

    Args:
        processes: Of which each has an autoencoder of its own.
        device: Where they compute.
    """
    out.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not (out / f"{name}.safetensors").is_file()]
    yield from (name for name in names if name not in set(missing))
    root = out.parent if out.name == HELD_FOLDER else out
    jobs = [(clips / f"{name}.safetensors", out / f"{name}.safetensors", root / VAE_FILE, device) for name in missing]
    if processes <= 1:
        yield from (_encode_to(job) for job in jobs)
        return
    # a card that this process has looked at cannot be used by a fork of it
    context = None if device == "cpu" else multiprocessing.get_context("spawn")
    with losing_none(processes), ProcessPoolExecutor(processes, context) as pool:
        for start in range(0, len(jobs), 8 * processes):
            yield from pool.map(_encode_to, jobs[start : start + 8 * processes])


def _encode_to(job: tuple[Path, Path, Path, str]) -> str:
    torch.set_num_threads(1)
    clip, out, vae, device = job
    write_latents(out, encode_clip(_loaded(vae, vae.stat().st_mtime_ns, device), read_clip(clip)))
    return out.stem


@lru_cache(1)
def _loaded(path: Path, _: int, device: str) -> VideoVAE:
    return load_vae(path).to(device)


def _same_network(a: VideoVAE, b: VideoVAE) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return a.config == b.config and all(torch.equal(mine[k].half(), other[k].half()) for k in mine if k not in _FITTED)
