"""`lint`: what is wrong with a camera path, with its images and with its depth. Nothing is ever changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mosaicmem._shapes import Float
from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.trajectories import lint_depth, rules
from mosaicmem.io.trajectories.findings import Finding
from mosaicmem.io.trajectories.raw import Options, Raw, natural_key
from mosaicmem.io.trajectories.registry import choose, read_raw

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
_ORDER = {"E": 0, "W": 1, "I": 2}


def lint(
    path: Path | str,
    *,
    format: str | None = None,
    images: Path | str | None = None,
    depth: Path | str | None = None,
    world_up: Sequence[float] | str | None = None,
    **options: Any,
) -> list[Finding]:
    """Findings about a trajectory file, worst first.

    Args:
        options: What the file cannot say, as for `read_trajectory`: what is said is not missed.
        images: Folder of its images, or one image; checks sizes, names and number.
        depth: Folder of 16-bit PNG or npy depth; checks units, and which reading of the poses the geometry supports.
        world_up: The world's up direction, as a vector or `"z"`, `"-y"`.

    Raises:
        InputError: if the file cannot be parsed at all, or its format is unknown.
    """
    path = Path(path)
    spec = choose(path, format)
    up = _direction(world_up)
    with np.errstate(all="ignore"):
        raw = read_raw(spec, path, Options.parse(options, spec.options, spec.name))
        found = [*raw.notes, *rules.stopping(raw)]
        pictures = _listing(Path(images)) if images is not None else []
        image_size = _image_size(pictures[0]) if pictures else None
        found += rules.intrinsics(raw, image_size)
        if not any(f.severity == "E" and f.code[0] == "M" for f in found):
            found += rules.advisory(raw, up)
        if images is not None:
            found += _images(raw, Path(images), pictures, image_size)
        if depth is not None:
            sound = not any(f.severity == "E" for f in found)
            found += lint_depth.check(raw, _listing(Path(depth), {".png", ".npy"}), image_size, poses_sound=sound)
    return sorted(found, key=lambda f: (_ORDER[f.severity], f.code))


def _images(raw: Raw, folder: Path, pictures: list[Path], size: tuple[int, int] | None) -> list[Finding]:
    found = []
    n, m = len(raw.matrices), len(pictures)
    if folder.is_dir() and n != m:
        hint = "one pose per latent of 4 frames" if m == 4 * n - 3 else _family(n)
        found.append(Finding("T5", "W", f"{n} poses, {m} images", hint, None, float(n), float(m)))
    if size is not None and raw.size is not None and size != raw.size:
        message = f"the file says {raw.size[0]}x{raw.size[1]}, images are {size[0]}x{size[1]}"
        found.append(Finding("R1", "E", message, "resize the images or rescale the intrinsics"))
    if raw.names is not None and folder.is_dir():
        found += _missing(raw.names, folder, pictures)
    return found


def _missing(names: Sequence[str], folder: Path, pictures: list[Path]) -> list[Finding]:
    stems = {p.stem for p in pictures}
    for frame, name in enumerate(names):
        try:
            files.safe_join(folder, Path(name).as_posix())
        except (InputError, ValueError, OSError):
            return [
                Finding("P3", "E", f"name {name[:80]!r} points outside the image folder", "use relative names", frame)
            ]
        if Path(name).stem not in stems:
            return [Finding("P3", "E", f"image {name[:80]!r} is missing in {folder}", "check the folder", frame)]
    return []


def _family(n: int) -> str:
    known = ((84, "Matrix-Game 3.5"), (80, "Lyra"), (4, "a video model with 4 frames per latent"))
    return next((f"{n} = {k}k + 1 fits {who}" for k, who in known if n > 1 and (n - 1) % k == 0), "")


def _listing(path: Path, suffixes: set[str] | None = None) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; check the path")
    found = [p for p in path.iterdir() if p.suffix.lower() in (suffixes or _SUFFIXES)]
    if not found:
        raise InputError(f"{path}: holds no images, expected {', '.join(sorted(suffixes or _SUFFIXES))} files")
    return sorted(found, key=lambda p: natural_key(p.name))


def _image_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image ({error})") from error


def _direction(value: Sequence[float] | str | None) -> Float[np.ndarray, "3"] | None:
    if value is None:
        return None
    if isinstance(value, str):
        axis = value.lower().lstrip("+-")
        if axis not in ("x", "y", "z"):
            raise InputError(f"world_up={value!r}, expected a vector or one of x, y, z, -x, -y, -z")
        return np.eye(3)["xyz".index(axis)] * (-1 if value.startswith("-") else 1)
    up = np.array([float(v) for v in value])
    if up.shape != (3,) or not np.isfinite(up).all() or not up.any():
        raise InputError(f"world_up={value!r}, expected three numbers that are not all 0")
    return up
