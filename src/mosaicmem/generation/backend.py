"""`Models`: the parts a rollout needs, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mosaicmem.depth.estimator import DepthEstimator
from mosaicmem.errors import ConfigError, InputError, MissingWeightsError
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.models.checkpoint import load_depth, load_refiner, load_vae, load_world
from mosaicmem.models.devices import device_named
from mosaicmem.models.generator import Generator
from mosaicmem.models.presets import OPTIONAL, PARTS, shipped, weights_file
from mosaicmem.models.refiner import Refiner
from mosaicmem.models.synthetic import Compositor, PixelShuffleVAE
from mosaicmem.models.taef2 import TAEF2
from mosaicmem.models.vae import VAE
from mosaicmem.models.world_model import SamplingConfig

SYNTHETIC = "synthetic"
ROOMS = "rooms"


@dataclass(frozen=True)
class Models:
    """Everything with weights (or, for `[synthetic]`, without).

    Attributes:
        vae: Frames to latents and back.
        generator: Latents of a window from its conditioning.
        depth: Estimates depth of generated frames; None takes only the depth that memory itself renders.
        patch: Latent cells per token, along each axis.
        refiner: Sharpens decoded frames by what memory shows of them; None leaves them as they are.
    """

    vae: VAE
    generator: Generator
    depth: DepthEstimator | None = None
    patch: int = 2
    refiner: Refiner | None = None

    @property
    def label(self) -> str:
        """The generator's label: an honest word about what made the pictures."""
        return self.generator.label

    def grid(self, width: int, height: int) -> TokenGrid:
        """Token grid of an image size; `ConfigError` names the nearest sizes that fit."""
        return TokenGrid(width, height, self.vae.stride, self.patch, self.vae.temporal)


def load_models(
    name_or_path: str | Path = ROOMS,
    *,
    vae: Path | str | None = None,
    depth: DepthEstimator | None = None,
    use_memory: bool = True,
    sampling: SamplingConfig | None = None,
    device: str | torch.device = "cpu",
) -> Models:
    """The models of a rollout by name or folder.

    Args:
        name_or_path: `rooms` for the trained model that comes with the package, `synthetic` for the compositor, which
            has no weights; else a folder with `vae.safetensors`, `depth.safetensors`, `world.safetensors` and perhaps
            `refiner.safetensors`.
        vae: Folder of the TAEF2 autoencoder, in place of the compositor's lossless one. A trained model has its own.
        depth: Depth estimator of generated frames, in place of the trained one; it stays where it is.
        use_memory: False for the baseline without memory.
        sampling: Steps, guidance and switches of a trained model.
        device: Where the networks compute, such as `cuda`; memory and the state of a rollout stay on the CPU.

    Raises:
        MissingWeightsError: if a file is absent.
        InputError: if a file is damaged or something else, or the parts do not belong together.
        ConfigError: on a `vae` for a trained model, or a device that is not there.
    """
    at = device_named(device)
    if str(name_or_path) == SYNTHETIC:
        given = PixelShuffleVAE() if vae is None else TAEF2.from_pretrained(vae).to(at)
        return Models(given, Compositor(use_memory), depth)
    if vae is not None:
        raise ConfigError(f"{name_or_path}: a trained model has its own VAE; leave {vae} out, or take 'synthetic'")
    name, files = _files(name_or_path)
    own = load_vae(files["vae"])
    world = load_world(files["world"], name=name, sampling=sampling, use_memory=use_memory)
    sizes = world.network.config
    if sizes.in_channels != own.channels:
        raise InputError(
            f"{files['world']}: generates latents of {sizes.in_channels} channels, {files['vae']} has {own.channels}; "
            "expected parts that were trained together"
        )
    refiner = load_refiner(files["refiner"]) if files["refiner"].is_file() else None
    if refiner is not None and refiner.config.channels != own.channels:
        raise InputError(
            f"{files['refiner']}: refines latents of {refiner.config.channels} channels, {files['vae']} has "
            f"{own.channels}; expected parts that were trained together"
        )
    depth = depth or load_depth(files["depth"]).to(at)
    refiner = None if refiner is None else refiner.to(at)
    return Models(own.to(at), world.to(at), depth, sizes.patch_size[1], refiner)


def _files(name_or_path: str | Path) -> tuple[str, dict[str, Path]]:
    """The model's name and its file of every part."""
    if str(name_or_path) == ROOMS:
        files = {part: shipped(part) for part in PARTS}
        if not all(files[part].is_file() for part in PARTS if part not in OPTIONAL):
            raise MissingWeightsError(
                f"{files['world'].parent}: no weights of the model 'rooms', which come with the package; install it "
                "again, name a folder of weights, or take 'synthetic', which needs none"
            )
        return ROOMS, files
    folder = Path(name_or_path)
    if folder.is_file():
        raise InputError(f"{folder}: is a file; expected 'rooms', 'synthetic' or a folder of weights")
    files = {part: weights_file(folder, part) for part in PARTS}
    needed = [files[part] for part in PARTS if part not in OPTIONAL]
    missing = [path.name for path in needed if not path.is_file()]
    if missing:
        found = f"no {', '.join(missing)} in it" if folder.is_dir() else "no such folder"
        raise MissingWeightsError(
            f"{folder}: {found}; expected 'rooms' (comes with the package), 'synthetic' (needs no weights) or a folder "
            f"with {', '.join(path.name for path in needed)}"
        )
    return folder.resolve().name, files
