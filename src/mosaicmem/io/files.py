"""Bounded readers, atomic writers and names that cannot escape: every file the library touches goes through here."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mosaicmem.errors import InputError, OutputExistsError

MAX_TEXT_BYTES = 256 * 2**20
MAX_PIXELS = 64 * 2**20  # 8192 x 8192
MAX_JSON_DEPTH = 64
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
LARGEST = sys.float_info.max
"""Largest finite float. A whole number of JSON may be larger, and then it is no float at all."""
_JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


def require_file(path: Path) -> Path:
    """`path`, if it is a readable file.

    Raises:
        InputError: if it is missing or is a folder.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise InputError(f"{path}: is a folder, expected a file")
    return path


def read_bytes(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The whole file, refused before reading when larger than `max_bytes`."""
    size = require_file(path).stat().st_size
    if size > max_bytes:
        raise InputError(f"{path}: {size:,} bytes, expected at most {max_bytes:,}; is this the right file?")
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def read_text(path: Path, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """UTF-8 text of a bounded file."""
    try:
        return read_bytes(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file (byte {error.start} is no UTF-8); expected text") from error


def read_json(path: Path, max_bytes: int = MAX_TEXT_BYTES, *, constants: bool = False) -> Any:
    """JSON of a bounded file with bounded nesting.

    Args:
        constants: Accept `NaN` and `Infinity`, which JSON does not have but Python writes; refused otherwise.
    """
    text = read_text(path, max_bytes)
    _refuse_json_bomb(path, text)
    refuse = None if constants else lambda name: _refuse_constant(path, name)
    try:
        return json.loads(text, parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not valid JSON, line {error.lineno}: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: JSON cannot be read ({error})") from error


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """RGB image `[H W 3]`, uint8; of 16 bits the upper eight. The size in the header is checked before any pixel is
    decoded."""
    image = _open_image(path, max_pixels)
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if sixteen:  # of which Pillow would make white all that is above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return np.array(image.convert("RGB"), dtype=np.uint8)


def read_depth_png(path: Path, units_per_metre: float = 1000.0, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """z-depth `[H W]` in world units from a 16-bit PNG; 0 and 65535 mean unknown and become 0."""
    image = _open_image(path, max_pixels)
    if image.mode not in ("I;16", "I;16B", "I", "L"):
        raise InputError(f"{path}: a {image.mode} picture, expected a single-channel 16-bit depth image")
    raw = np.array(image).astype(np.int64)
    return np.where((raw <= 0) | (raw >= 65535), 0, raw / units_per_metre).astype(np.float32)


def safe_join(root: Path, relative: str) -> Path:
    """`root / relative`, refused when the result lies outside `root`."""
    root = root.resolve()
    path = (root / relative).resolve()
    if not path.is_relative_to(root):
        raise InputError(f"{relative!r} points outside {root}; refused")
    return path


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise `OutputExistsError` if `path` exists (a folder: if it holds anything) and `overwrite` is false."""
    if overwrite or not path.exists():
        return
    if path.is_dir() and not any(path.iterdir()):
        return
    raise OutputExistsError(f"{path} already exists; nothing was written. Choose another name or add --overwrite")


@contextmanager
def atomic_path(path: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block ends well, removed when it does not.

    Readers see the old file or the whole new one, never a part. Who could read the old one can read the new one.

    Raises:
        OutputExistsError: if the path exists and `overwrite` is false, or is a folder.
    """
    refuse_existing(path, overwrite)
    if path.is_dir():
        raise OutputExistsError(f"{path} is a folder, expected the name of a file; nothing was written")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(_mode_of(path))
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _mode_of(path: Path) -> int:
    """Permissions of a file that is replaced, or those that a new one gets."""
    if path.exists():
        return path.stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


def write_text(path: Path, text: str, *, overwrite: bool = False) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, overwrite: bool = False, indent: int | None = 1) -> None:
    """Write JSON atomically; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=indent, allow_nan=False) + "\n", overwrite=overwrite)


def check_image_path(path: Path, overwrite: bool) -> None:
    """Refuse now, rather than after the work, what `write_image` would refuse.

    Raises:
        OutputExistsError: as `refuse_existing`; InputError: if the suffix is that of no picture that can be written.
    """
    refuse_existing(path, overwrite)
    if path.suffix.lower() not in _PICTURES:
        raise InputError(f"{path}: expected a name that ends in {', '.join(_PICTURES)}")


def write_image(path: Path, image: NDArray[np.uint8], *, overwrite: bool = False) -> None:
    """Write `[H W 3]` or `[H W]` uint8 as the format of the suffix, atomically.

    Raises:
        OutputExistsError, InputError: as `check_image_path`.
    """
    check_image_path(path, overwrite)
    with atomic_path(path, overwrite=overwrite) as temporary:
        Image.fromarray(image).save(temporary)


def write_depth_png(
    path: Path, depth: NDArray[np.floating], units_per_metre: float = 1000.0, *, overwrite: bool = False
) -> None:
    """Write z-depth `[H W]` in world units as a 16-bit PNG, atomically; unknown, and what is too far to hold, is 0."""
    steps = np.rint(np.nan_to_num(depth.astype(np.float64), posinf=0, neginf=0) * units_per_metre)
    steps = np.where((steps > 0) & (steps < 65535), steps, 0).astype(np.uint16)
    with atomic_path(path, overwrite=overwrite) as temporary:
        Image.fromarray(steps).save(temporary)


def parse_frames(text: str, count: int) -> list[int]:
    """Frame indices from `"3"`, `"1,4,9"` or a Python slice such as `"0:150:5"`; every index must exist.

    Raises:
        InputError: if the text is none of these, selects nothing, or names a frame that does not exist.
    """
    try:
        if ":" in text:
            parts = [int(part) if part else None for part in text.split(":")]
            if len(parts) > 3:
                raise ValueError
            chosen = list(range(count))[slice(*parts)]
            if parts[1] is not None and parts[1] > count:
                raise InputError(f"frames {text!r}: the sequence has only {count} frames (0 to {count - 1})")
        else:
            chosen = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"frames {text!r}: expected start:stop:step, a number or a,b,c") from None
    if not chosen:
        raise InputError(f"frames {text!r} selects nothing of {count} frames")
    for index in chosen:
        if not 0 <= index < count:
            raise InputError(f"frames {text!r}: frame {index} does not exist; the sequence has frames 0 to {count - 1}")
    return chosen


def finite(value: Any, what: str) -> float:
    """`value` as a finite float, or an `InputError` that says what it should have been."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
        raise InputError(f"{what}: found {value!r:.80}, expected a finite number")
    return float(value)


def _refuse_json_bomb(path: Path, text: str) -> None:
    """Refuse deep nesting, and text that is mostly brackets: each costs twenty times its size once parsed."""
    containers = text.count("[") + text.count("{")
    if containers * 6 > len(text) > 2**20:
        raise InputError(f"{path}: {containers:,} brackets in {len(text):,} characters; expected numbers in them")
    if containers <= MAX_JSON_DEPTH:
        return
    bare = _JSON_STRING.sub(b"", text.encode("utf-8")) if '"' in text else text.encode("utf-8")
    depth = 0
    for start in range(0, len(bare), 2**20):
        block = np.frombuffer(bare, np.uint8, count=min(2**20, len(bare) - start), offset=start) | 0x20
        level = depth + np.cumsum((block == ord("{")).astype(np.int32) - (block == ord("}")))
        if int(level.max()) > MAX_JSON_DEPTH:
            raise InputError(f"{path}: JSON nested deeper than {MAX_JSON_DEPTH} levels; refused")
        depth = int(level[-1])


def _refuse_constant(path: Path, name: str) -> float:
    raise InputError(f"{path}: holds {name}, which JSON does not allow; expected finite numbers")


def _open_image(path: Path, max_pixels: int) -> Image.Image:
    require_file(path)
    try:
        image = Image.open(path)
        width, height = image.size
        if width * height > max_pixels:
            raise InputError(f"{path}: claims {width}x{height} pixels, expected at most {max_pixels:,}; refused")
        image.load()
    except InputError:
        raise
    except Image.DecompressionBombError as error:  # Pillow looks at the header too, and says only how many
        claimed = re.search(r"\d+", str(error))
        count = f"{int(claimed[0]):,}" if claimed else "too many"
        raise InputError(f"{path}: claims {count} pixels, expected at most {max_pixels:,}; refused") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise InputError(f"{path}: not a readable image ({error})") from error
    return image
