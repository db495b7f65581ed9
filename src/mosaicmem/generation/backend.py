"""`Models`: the parts a rollout needs, and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mosaicmem.depth.estimator import DepthEstimator
from mosaicmem.errors import InputError, MissingWeightsError
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.models.generator import Generator
from mosaicmem.models.synthetic import Compositor, PixelShuffleVAE
from mosaicmem.models.taef2 import TAEF2
from mosaicmem.models.vae import VAE

SYNTHETIC = "synthetic"


@dataclass(frozen=True)
class Models:
    """Everything with weights (or, for `[synthetic]`, without).

    Attributes:
        vae: Frames to latents and back.
        generator: Latents of a window from its conditioning.
        depth: Estimates depth of generated frames; None takes only the depth that memory itself renders.
        patch: Latent cells per token, along each axis.
    """

    vae: VAE
    generator: Generator
    depth: DepthEstimator | None = None
    patch: int = 2

    @property
    def label(self) -> str:
        """The generator's label: an honest word about what made the pictures."""
        return self.generator.label

    def grid(self, width: int, height: int) -> TokenGrid:
        """Token grid of an image size; `ConfigError` names the nearest sizes that fit."""
        return TokenGrid(width, height, self.vae.stride, self.patch, self.vae.temporal)


def load_models(
    name_or_path: str | Path = SYNTHETIC,
    *,
    vae: Path | str | None = None,
    depth: DepthEstimator | None = None,
    use_memory: bool = True,
) -> Models:
    """The models of a rollout by name or folder.

    Args:
        name_or_path: `synthetic` for the compositor, which has no weights; else a checkpoint folder.
        vae: Folder of the TAEF2 autoencoder, in place of the lossless one.
        depth: Depth estimator of generated frames.
        use_memory: False for the no-memory baseline of the compositor.

    Raises:
        MissingWeightsError: for anything but `synthetic`: no trained generator exists for this library yet.
    """
    if str(name_or_path) != SYNTHETIC:
        raise _no_checkpoint(Path(name_or_path))
    return Models(PixelShuffleVAE() if vae is None else TAEF2.from_pretrained(vae), Compositor(use_memory), depth)


def _no_checkpoint(path: Path) -> MissingWeightsError | InputError:
    if path.is_file():
        return InputError(f"{path}: is a file; expected the name 'synthetic' or a checkpoint folder")
    found = "no such folder" if not path.is_dir() else "the folder holds no generator that this version can load"
    return MissingWeightsError(
        f"{path}: {found}. No trained video generator has been published for this library yet; what runs without "
        "weights is 'synthetic' (memory composited into the view, labelled [synthetic]), also with the real TAEF2 "
        "autoencoder. Your own network takes part by implementing mosaicmem.models.generator.Generator and "
        "handing it to Models(vae, generator)"
    )
