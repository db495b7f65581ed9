"""Options that every command has."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from mosaicmem.errors import ConfigError


@dataclass(kw_only=True)
class Common:
    """Base of every command's arguments."""

    config: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Settings file: TOML, YAML or JSON (see show-config)."""
    set: Annotated[UseAppendAction[list[str]], arg(metavar="SECTION.KEY=VALUE", help_behavior_hint="(repeatable)")] = (
        field(default_factory=list)
    )
    """One setting; wins over --config, loses to the option of the same name."""
    seed: int = 42
    """Seed of everything random."""
    threads: int = 1
    """CPU threads of the tensor library."""
    out: Annotated[Path | None, arg(aliases=["-o"], metavar="PATH", help_behavior_hint="")] = None
    """Where to write. Never replaced without --overwrite."""
    overwrite: bool = False
    """Replace an output that exists."""
    json: bool = False
    """Print one machine-readable document on stdout."""
    quiet: Annotated[bool, arg(aliases=["-q"])] = False
    """No progress, no remarks."""
    verbose: Annotated[bool, arg(aliases=["-v"])] = False
    """More remarks, and the traceback of an error."""


@dataclass(kw_only=True)
class Computing(Common):
    """Base of the arguments of commands that run networks."""

    device: str = "cpu"
    """Where networks compute: cpu, cuda, cuda:1 ...; memory stays on the CPU."""


def no_such_part(command: str, word: str, parts: Sequence[str]) -> ConfigError:
    """What to raise where a command has no part of this name: the one that is meant, or all."""
    near = difflib.get_close_matches(word, parts, n=1)
    hint = f"did you mean {near[0]}?" if near else f"parts are {', '.join(parts)}"
    return ConfigError(f"{command} {word!r}: no such part; {hint}")


def check_scene(seed: int | None) -> None:
    """Refuse a number that no procedural world has: -1 would quietly be another one's.

    Raises:
        ConfigError: if it is outside 0 to 2^63 - 1.
    """
    if seed is not None and not 0 <= seed < 2**63:
        raise ConfigError(f"--scene {seed}: expected 0 to 2^63 - 1, for example 900001")


def parse_size(text: str) -> tuple[int, int]:
    """`"160x120"` as (width, height), in pixels."""
    width, times, height = text.lower().partition("x")
    if not times or not width.isdecimal() or not height.isdecimal() or min(int(width), int(height)) < 1:
        raise ConfigError(f"size {text!r}: expected WIDTHxHEIGHT in pixels, for example 160x120")
    if int(width) * int(height) > 64 * 2**20:
        raise ConfigError(f"size {text!r}: more than 64 megapixels; expected an image size, for example 160x120")
    return int(width), int(height)
