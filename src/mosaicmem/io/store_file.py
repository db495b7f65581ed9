"""A whole memory to a file and back in one go; `io.world` is the same file while it is worked on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaicmem.io.world.schema import os_errors, replacing
from mosaicmem.io.world.world_file import Picture, WorldFile
from mosaicmem.memory.patches import Keyframe
from mosaicmem.memory.store import PatchStore


def save_store(
    store: PatchStore,
    path: Path | str,
    meta: Mapping[str, Any] | None = None,
    *,
    overwrite: bool = False,
    model: str | None = None,
    seed: int | None = None,
    thumbnails: Mapping[Keyframe, Picture] | None = None,
) -> None:
    """Write a memory and its description as a world file with one operation. Equal memories give equal bytes.

    Args:
        store: The memory.
        path: Target file, by convention `*.mosaic`.
        meta: Anything JSON can hold (prompt, source, VAE ...); comes back from `load_store` unchanged.
        overwrite: Whether an existing file may be replaced.
        model, seed: What generated its keyframes.
        thumbnails: `[H W 3]` pictures of keyframes.

    Raises:
        OutputExistsError: if the file exists and `overwrite` is false.
        InputError: if `meta` holds what JSON cannot; StorageError: if the file cannot be written, or another process
            writes the world that it would replace.
    """
    path = Path(path)
    with (
        os_errors(path),
        replacing(path, overwrite=overwrite) as temporary,
        WorldFile.create(temporary, meta, overwrite=True, clock=None) as world,
    ):
        world.apply("remember", {}, store, model=model, seed=seed, thumbnails=thumbnails)


def load_store(path: Path | str) -> tuple[PatchStore, dict[str, Any]]:
    """Read a memory and its description. Contents stay in the file, which stays open as long as the store is used.

    Raises:
        FormatVersionError: if the file comes from a newer version of the format.
        InputError: if it is no world file or is damaged; damaged contents are found when they are first used.
    """
    world = WorldFile.open(path)
    return world.store, world.meta
