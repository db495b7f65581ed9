"""Which networks take part in a run, and what to call them."""

from __future__ import annotations

from pathlib import Path

from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import InputError
from mosaicmem.models.vae import VAE


def open_vae(path: Path | None, session: Session) -> VAE:
    """The pretrained VAE in `path`, or the lossless pixel-shuffle one; the session's label says which.

    Raises:
        MissingWeightsError, InputError: as `TAEF2.from_pretrained`.
    """
    if path is None:
        from mosaicmem.models.synthetic import PixelShuffleVAE

        vae = PixelShuffleVAE(session.config.grid.stride)
        session.backend, session.note = "synthetic", f"{vae.name} VAE, no weights"
        return vae
    from mosaicmem.models.taef2 import TAEF2

    if not path.exists():
        raise InputError(f"{path}: no such folder; --vae expects a folder with the weights of a TAEF2 autoencoder")
    with session.stage("load_vae"):
        vae = TAEF2.from_pretrained(path)
    session.backend, session.note = "real", f"{vae.name} VAE, pretrained weights from {path}"
    return vae
