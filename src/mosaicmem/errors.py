"""Errors written for the person who meets them: what came, what was expected, what to do.

Every error the library raises on purpose is a `MosaicMemError`. The command line maps each class to one exit
code (`exit_code`); library code never prints and never exits.
"""

from __future__ import annotations


class MosaicMemError(Exception):
    """Base of the family. `exit_code` is what the command line returns for it."""

    exit_code = 1


class ConfigError(MosaicMemError):
    """A setting is unknown, out of range or contradicts another one. Lists all problems at once."""

    exit_code = 2


class InputError(MosaicMemError):
    """An input file or folder was rejected. The message names the file, what was found and what was expected."""

    exit_code = 3


class FormatVersionError(InputError):
    """A file of ours was written by a newer version. Names the file, the found and the supported version."""


class GeometryError(MosaicMemError):
    """Cameras, depth or shapes handed to the library do not describe a possible situation."""

    exit_code = 3


class OutputExistsError(MosaicMemError):
    """The target exists and `--overwrite` was not given. Nothing was written."""

    exit_code = 2


class StorageError(MosaicMemError):
    """A file could not be written or is in use: disk full, folder read-only, another writer. What was there stays."""

    exit_code = 1


class MissingExtraError(MosaicMemError):
    """An optional package is not installed. The message holds the pip command that helps."""

    exit_code = 4

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'mosaicmem[{extra}]'"
        )


class MissingWeightsError(MosaicMemError):
    """A checkpoint is needed and absent. The message says which folder was looked at and what helps."""

    exit_code = 4


def refuse(*checks: tuple[bool, str]) -> None:
    """Raise one `ConfigError` with the text of every check that is true, so that all problems are seen at once."""
    problems = [text for bad, text in checks if bad]
    if problems:
        raise ConfigError("; ".join(problems))
