"""Thumbnails of keyframes in a world file: small JPEGs with a checksum."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mosaicmem.errors import InputError
from mosaicmem.io.world.schema import row_digest

THUMBNAIL_PIXELS = 96

Picture = NDArray[np.uint8]


def encode_picture(picture: Picture) -> bytes:
    """A picture `[H W 3]` as a JPEG of at most `THUMBNAIL_PIXELS` a side."""
    image = Image.fromarray(picture)
    image.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def decode_picture(row: tuple[Any, ...]) -> Picture:
    """The picture of a row of `thumbnails`.

    Raises:
        InputError: if it is damaged, too large or no JPEG.
    """
    keyframe, data, digest = row
    if not isinstance(data, bytes) or digest != row_digest(keyframe, data):
        raise InputError(f"thumbnail of keyframe {keyframe}: it does not match its checksum")
    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG"])
        if max(image.size) > THUMBNAIL_PIXELS:
            raise InputError(f"thumbnail of keyframe {keyframe}: {image.size} pixels, at most {THUMBNAIL_PIXELS}")
        return np.array(image.convert("RGB"), dtype=np.uint8)
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"thumbnail of keyframe {keyframe}: no readable picture ({error})") from error
