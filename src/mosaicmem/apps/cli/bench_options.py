"""What the benchmarks of a model have in common: which model, how it generates, and on how many processes."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes, arg

from mosaicmem.apps.cli.backends import on_device
from mosaicmem.apps.cli.config import GenerationConfig, Sampling
from mosaicmem.apps.cli.options import Computing
from mosaicmem.apps.cli.session import Session
from mosaicmem.errors import ConfigError
from mosaicmem.evaluation.parallel import Loader
from mosaicmem.generation.backend import SYNTHETIC, Models, load_models
from mosaicmem.generation.rollout import RolloutConfig
from mosaicmem.memory.lifting import LiftingConfig
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.models.synthetic import Compositor, PixelShuffleVAE


@dataclass(kw_only=True)
class ModelArgs(Computing):
    """Arguments of every benchmark of a model."""

    model: Annotated[str, arg(metavar="NAME|DIR", help_behavior_hint="")] = "rooms"
    """`rooms` comes with the package; or a folder of weights, or `synthetic`, which has none."""
    processes: int = 2
    """Worlds at a time; changes no number but the seconds."""
    generation: Annotated[GenerationConfig, OmitArgPrefixes] = field(default_factory=GenerationConfig)
    sampling: Annotated[Sampling, OmitArgPrefixes] = field(default_factory=Sampling)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    lifting: LiftingConfig = field(default_factory=LiftingConfig)


def open_loader(args: ModelArgs, session: Session) -> Loader:
    """How each process loads the model; it is loaded once here, so that what is wrong shows at once.

    Raises:
        ConfigError, MissingWeightsError, InputError: as `load_models`, or on a number of processes out of range.
    """
    if not 1 <= args.processes <= 64:
        raise ConfigError(f"--processes = {args.processes}: expected 1 to 64")
    if args.out is not None:
        session.check_out(inputs=[Path(args.model)] if Path(args.model).is_dir() else [])
    sampling, where = session.config.sampling, on_device(session)
    load = _synthetic
    if args.model != SYNTHETIC:
        load = partial(load_models, args.model, sampling=sampling, device=session.config.device)
    with session.stage("load_models"):
        models = load()
    session.backend = models.label.strip("[]")
    session.note = f"{models.vae.name} VAE, {os.cpu_count()} cores, {args.processes} process(es){where}"
    if args.model != SYNTHETIC:
        session.note = f"{sampling.pace}, {session.note}"
    return load


def rollout_of(session: Session) -> RolloutConfig:
    """How frames are generated, by the settings."""
    config = session.config
    return config.generation.rollout(config.retrieval, config.lifting)


def _synthetic() -> Models:
    """The compositor with the strides of a trained model."""
    return Models(PixelShuffleVAE(8, 4), Compositor())
