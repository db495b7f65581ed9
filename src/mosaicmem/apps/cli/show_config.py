"""All settings as loadable TOML or JSON.

What it prints can be saved and handed to --config. Sizes that follow from the settings stand under `derived`, which
--config ignores.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from mosaicmem.apps.cli.config import Config
from mosaicmem.apps.cli.console import Result
from mosaicmem.apps.cli.options import Common
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.settings import DERIVED, difference, to_dict, to_toml
from mosaicmem.errors import ConfigError

EXAMPLE = "mosaicmem show-config --set retrieval.max_sources=12 > settings.toml"


@dataclass(kw_only=True)
class Args(Common):
    """Arguments of `show-config`."""

    format: Literal["toml", "json"] = "toml"
    """Notation on stdout."""
    diff: bool = False
    """Only what differs from the defaults."""


def run(args: Args, session: Session) -> Result:
    """Print settings that --config accepts again."""
    settings = to_dict(session.config)
    shown = difference(settings, to_dict(Config())) if args.diff else settings
    data = shown if args.diff else {**shown, DERIVED: derived(session.config)}
    text = json.dumps(data, indent=1) if args.format == "json" else f"# {session.label}\n{to_toml(data)}"
    return Result(data, text.rstrip("\n").split("\n"), raw=True)


def derived(config: Config) -> dict[str, Any]:
    """Sizes that follow from the settings: those of the demo's images, and of 640x480 ones."""
    sizes = [(config.demo.width, config.demo.height), (640, 480)]
    return {f"{width}x{height}": _sizes(config, width, height) for width, height in sizes}


def _sizes(config: Config, width: int, height: int) -> dict[str, Any]:
    try:
        grid = config.grid.grid(width, height)
    except ConfigError as error:
        return {"problem": str(error)}
    (h, w), (m, n) = grid.cells, grid.tokens
    return {
        "cells": [h, w],
        "tokens": [m, n],
        "token_pixels": grid.token_stride,
        "smallest_gain_cells": max(1, math.ceil(config.retrieval.gain_min * h * w)),
    }
