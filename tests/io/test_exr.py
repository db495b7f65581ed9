"""OpenEXR: files written by hand read back to the bit, and damaged ones end in our errors without growing."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.io.imports.foreign import exr

from mosaicmem.errors import InputError
from mosaicmem.io.exr import decode_exr

DEPTH = (np.arange(37 * 21).reshape(37, 21) / 16 + 1).astype(np.float16).astype(np.float32)


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("compression", [0, 2, 3])
def test_every_value_comes_back(compression: int, half: bool) -> None:
    assert np.array_equal(decode_exr(exr(DEPTH, half=half, compression=compression), "x"), DEPTH)


def test_noise_that_does_not_shrink_is_stored_as_it_is() -> None:
    noise = np.random.default_rng(0).standard_normal((20, 9)).astype(np.float32)
    assert np.array_equal(decode_exr(exr(noise, half=False), "x"), noise)


def test_run_lengths() -> None:
    """A block by the rule of the format: a count below 0 is followed by so many bytes, one above by one, repeated."""
    flat = np.full((1, 64), 1.5, np.float16)
    data = bytearray(exr(flat, compression=0))
    at = data.index(b"compression\0compression\0") + len(b"compression\0compression\0") + 4
    data[at] = 1
    start = struct.unpack_from("<Q", data, len(data) - 8 - 128 - 8)[0]
    # 1.5 is 00 3e: split into halves 64 x 00, 64 x 3e; differences + 128: 00, 63 x 80, be, 63 x 80
    packed = bytes([256 - 1, 0x00, 62, 0x80, 256 - 1, 0xBE, 62, 0x80])
    body = bytes(data[:start]) + struct.pack("<iI", 0, len(packed)) + packed
    assert np.array_equal(decode_exr(body, "x"), flat.astype(np.float32))


def test_what_is_not_read_is_named() -> None:
    good = bytearray(exr(DEPTH))
    with pytest.raises(InputError, match="expected an OpenEXR picture"):
        decode_exr(b"PNG" + bytes(good), "x")
    tiled = good[:]
    tiled[5] |= 0x02
    with pytest.raises(InputError, match="tiled, deep"):
        decode_exr(bytes(tiled), "x")
    piz = good[:]
    piz[good.index(b"compression\0compression\0") + 28] = 4
    with pytest.raises(InputError, match="compression PIZ is not read; write it with ZIP"):
        decode_exr(bytes(piz), "x")
    with pytest.raises(InputError, match="has the channels Z, expected 'R'"):
        decode_exr(bytes(good), "x", "R")


def test_a_bomb_stays_small() -> None:
    """A picture that claims 64 megapixels, and a block that unpacks to a gigabyte."""
    good = exr(DEPTH)
    at = good.index(b"dataWindow\0box2i\0") + len(b"dataWindow\0box2i\0") + 4
    wide = good[:at] + struct.pack("<4i", 0, 0, 2**13 - 1, 2**13 - 1) + good[at + 16 :]
    packed = zlib.compress(bytes(10**8), 9)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="at most 777"):
            decode_exr(wide, "x", max_pixels=37 * 21)
        first = struct.unpack_from("<Q", good, good.index(b"screenWindowWidth") + 18 + 6 + 4 + 4 + 1)[0]
        bomb = good[: first + 4] + struct.pack("<I", 600) + packed[:600] + good[first + 8 :]
        with pytest.raises(InputError, match="unpacks to 673 bytes, expected 672"):
            decode_exr(bomb, "x")
        assert tracemalloc.get_traced_memory()[1] < 2**21
    finally:
        tracemalloc.stop()


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8), st.sampled_from([0, 2, 3]), st.booleans())
def test_damage_ends_in_our_error(where: int, noise: bytes, compression: int, cut: bool) -> None:
    data = exr(DEPTH, compression=compression)
    at = where % len(data)
    try:
        out = decode_exr(data[:at] if cut else data[:at] + noise + data[at + len(noise) :], "x", max_pixels=10**5)
        assert out.ndim == 2
    except InputError:
        pass
