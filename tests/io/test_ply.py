"""PLY: bytes of the documented example, every encoding, foreign layouts, and files that lie."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mosaicmem.errors import InputError, MosaicMemError, OutputExistsError
from mosaicmem.io.ply import read_ply, write_ply

POINT, RED = np.array([[0, 0, 5.0]]), np.array([[255, 0, 0]], np.uint8)


def test_the_documented_point_is_190_bytes(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", POINT, RED)
    data = (tmp_path / "a.ply").read_bytes()
    assert data[-15:] == bytes.fromhex("0000000000000000 0000a040 ff0000".replace(" ", ""))
    assert data.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\n")
    assert len(data) == data.index(b"end_header\n") + 11 + 15
    write_ply(tmp_path / "b.ply", POINT, RED, ascii=True)
    assert (tmp_path / "b.ply").read_text().endswith("uchar blue\nend_header\n0.0 0.0 5.0 255 0 0\n")
    with pytest.raises(OutputExistsError):
        write_ply(tmp_path / "a.ply", POINT)


@pytest.mark.parametrize("ascii", [False, True])
def test_everything_comes_back(ascii: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(50, 3)).astype(np.float32)
    colors = rng.integers(0, 256, (50, 3), dtype=np.uint8)
    more = {
        "patch": np.arange(50, dtype=np.uint32) + 4_000_000_000,
        "frame": np.arange(50, dtype=np.uint32),
        "confidence": rng.random(50).astype(np.float32),
    }
    write_ply(tmp_path / "a.ply", points, colors, properties=more, comments=["axes opencv", "units m"], ascii=ascii)
    cloud = read_ply(tmp_path / "a.ply")
    np.testing.assert_array_equal(cloud.points, points)
    np.testing.assert_array_equal(cloud.colors, colors)
    assert cloud.comments == ("axes opencv", "units m") and list(cloud.properties) == list(more)
    for name, values in more.items():
        assert cloud.properties[name].dtype == values.dtype
        np.testing.assert_array_equal(cloud.properties[name], values)


def header(*lines: str, encoding: str = "binary_big_endian") -> bytes:
    return "\n".join(["ply", f"format {encoding} 1.0", *lines, "end_header\n"]).encode()


def test_big_endian_in_any_order_after_a_list_of_faces(tmp_path: Path) -> None:
    head = header(
        "obj_info made elsewhere",
        "element face 2",
        "property list uchar int vertex_indices",
        "element vertex 2",
        "property uint8 r",
        "property double z",
        "property uint8 g",
        "property float32 x",
        "property uint8 b",
        "property float y",
    )
    faces = struct.pack(">B3iB4i", 3, 0, 1, 2, 4, 0, 1, 2, 3)
    rows = struct.pack(">BdBfBf", 1, 30.0, 2, 10.0, 3, 20.0) + struct.pack(">BdBfBf", 4, 3.0, 5, 1.0, 6, 2.0)
    (tmp_path / "a.ply").write_bytes(head + faces + rows)
    cloud = read_ply(tmp_path / "a.ply")
    assert cloud.points.tolist() == [[10, 20, 30], [1, 2, 3]]
    assert cloud.colors is not None and cloud.colors.tolist() == [[1, 2, 3], [4, 5, 6]]


def test_splats_and_float_colours(tmp_path: Path) -> None:
    names = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "rot_0")
    head = header("element vertex 1", *(f"property float {n}" for n in names), encoding="ascii")
    (tmp_path / "a.ply").write_bytes(head + b"1 2 3 0 1.7724539 -9 0 0 1\n")
    cloud = read_ply(tmp_path / "a.ply")
    assert cloud.colors is not None and cloud.colors.tolist() == [[128, 255, 0]]
    head = header(
        "element vertex 1", *(f"property float {n}" for n in ("x", "y", "z", "diffuse_red")), encoding="ascii"
    )
    head = head.replace(b"end_header", b"property float diffuse_green\nproperty float diffuse_blue\nend_header")
    (tmp_path / "b.ply").write_bytes(head + b"1 2 3 1.0 0.5 0\n")
    cloud = read_ply(tmp_path / "b.ply")
    assert cloud.colors is not None and cloud.colors.tolist() == [[255, 128, 0]]


def test_short_rows_are_named_by_line(tmp_path: Path) -> None:
    write_ply(tmp_path / "a.ply", np.zeros((3, 3)), ascii=True)
    lines = (tmp_path / "a.ply").read_text().splitlines()
    (tmp_path / "a.ply").write_text("\n".join([*lines[:8], "0 0", *lines[9:]]) + "\n")
    with pytest.raises(InputError, match="line 9: 2 numbers, expected 3"):
        read_ply(tmp_path / "a.ply")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("element vertex 99999999999", "property float x"), "truncated"),
        (("element vertex 1", "property float x", "property float y"), "expected x, y and z"),
        (("element vertex 1", "property list uchar float x"), "list properties"),
        (("element vertex 1", "property float x", "property float x"), "different ones"),
        (("element vertex -1", "property float x"), "header line"),
        (("element vertex 1", "property quaternion x"), "header line"),
        (("element face 1", "property list int int v", "element vertex 1", "property float x"), "truncated"),
    ],
)
def test_files_that_lie(lines: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "a.ply").write_bytes(header(*lines) + b"\x7f" * 8)
    with pytest.raises(InputError, match=said):
        read_ply(tmp_path / "a.ply")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(data=st.data(), ascii=st.booleans())
def test_mutations_end_in_our_errors(data: st.DataObject, ascii: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    write_ply(path, np.ones((2, 3)), np.zeros((2, 3), np.uint8), ascii=ascii, overwrite=True)
    body = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(body)))
    body[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=6))
    path.write_bytes(bytes(body))
    with contextlib.suppress(MosaicMemError):
        read_ply(path)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for points, colors, more in (
        (np.full((1, 3), np.nan), None, {}),
        (POINT, RED.astype(np.float32), {}),
        (POINT, None, {"x": np.zeros(1, np.float32)}),
        (POINT, None, {"id": np.zeros(1, np.int64)}),
        (POINT, None, {"id": np.zeros(2, np.float32)}),
    ):
        with pytest.raises(InputError, match="expected"):
            write_ply(tmp_path / "a.ply", points, colors, properties=more)
    assert not list(tmp_path.iterdir())
