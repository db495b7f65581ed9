"""Which networks take part in a run, and what to call them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import InputError
from mosaicmem.generation.backend import ROOMS, SYNTHETIC, Models, load_models
from mosaicmem.models.devices import device_named
from mosaicmem.models.vae import VAE

TRAINED_SIZE = (128, 128)
"""Size of the frames that trained models know."""


def on_device(session: Session) -> str:
    """What a note says of the device of the networks: nothing on the CPU.

    Raises:
        ConfigError: if it is not there.
    """
    device = device_named(session.config.device)
    return "" if device.type == "cpu" else f", on {device}"


def open_vae(path: Path | None, session: Session) -> VAE:
    """The pretrained VAE in `path`, or the lossless pixel-shuffle one; the session's label says which.

    Args:
        path: `rooms`, a folder of a trained model, or one of TAEF2.

    Raises:
        MissingWeightsError, InputError: as `TAEF2.from_pretrained` and `load_vae`.
        ConfigError: on a device that is not there.
    """
    where = on_device(session)
    if path is None:
        from mosaicmem.models.synthetic import PixelShuffleVAE

        vae = PixelShuffleVAE(session.config.grid.stride)
        session.backend, session.note = "synthetic", f"{vae.name} VAE, no weights"
        return vae
    from mosaicmem.models.checkpoint import load_vae
    from mosaicmem.models.presets import shipped, weights_file
    from mosaicmem.models.taef2 import TAEF2

    own = shipped("vae") if str(path) == ROOMS else weights_file(path, "vae")
    if not own.is_file() and not path.exists():
        raise InputError(
            f"{path}: no such folder; --vae expects 'rooms', or a folder with the weights of a TAEF2 autoencoder or "
            "of a trained model"
        )
    with session.stage("load_vae"):
        vae = load_vae(own) if own.is_file() else TAEF2.from_pretrained(path)
        vae = vae.to(session.config.device)
    session.backend, session.note = "real", f"{vae.name} VAE, pretrained weights from {path}{where}"
    return vae


def open_models(name: str, session: Session, *, vae: Path | None = None, use_memory: bool = True) -> Models:
    """The models of a rollout by name or folder, labelled; see `sized` for the compositor's token size.

    Raises:
        MissingWeightsError, InputError, ConfigError: as `load_models`.
    """
    if name == SYNTHETIC:
        from mosaicmem.models.synthetic import Compositor

        own = open_vae(vae, session)
        session.note = f"compositor without weights, {session.note}"
        return Models(own, Compositor(use_memory))
    sampling = session.config.sampling
    with session.stage("load_models"):
        device = session.config.device
        models = load_models(name, vae=vae, use_memory=use_memory, sampling=sampling, device=device)
    session.backend = models.label.strip("[]")
    session.note = f"{sampling.pace}, learned depth, {models.vae.name} VAE{on_device(session)}"
    return models


def sized(models: Models, session: Session, width: int, height: int) -> Models:
    """The models with tokens of the settings' size, where weights do not decide it."""
    if session.backend.startswith("trained"):
        return models
    vae = models.vae
    return replace(models, patch=session.config.grid.grid(width, height, vae.stride, vae.temporal).patch)


def vae_home(name: str, vae: Path | None) -> Path | None:
    """Where the VAE of a model can be found again; None where it has no weights."""
    return vae if name == SYNTHETIC else Path(name)
