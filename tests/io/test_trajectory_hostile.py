"""Bad, hostile and random input ends in an error that names the file, never in a traceback of numpy or json."""

from __future__ import annotations

import contextlib
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import witness

from mosaicmem.errors import InputError, MosaicMemError
from mosaicmem.io import files
from mosaicmem.io.trajectories import FORMATS, detect, lint, read_trajectory

FAST = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


def survives(path: Path, format: str | None) -> None:
    """Reading and checking end well or in our own errors; what is read is sound."""
    try:
        trajectory = read_trajectory(path, format=format)
    except MosaicMemError as error:
        assert str(error)
    else:
        assert trajectory.viewmats.isfinite().all() and len(trajectory.timestamps) == len(trajectory)
    for call in (lambda: lint(path, format=format), lambda: detect(path)):
        with contextlib.suppress(MosaicMemError):
            call()


@FAST
@given(data=st.binary(max_size=300), format=st.sampled_from([None, *FORMATS]))
def test_random_bytes(data: bytes, format: str | None, tmp_path: Path) -> None:
    for name in ("a.json", "transforms.json"):
        (tmp_path / name).write_bytes(data)
        survives(tmp_path / name, format)


@FAST
@given(
    head=st.sampled_from(["{", "[", "0 ", "\x93NUMPY\x01\x00", "PK\x03\x04", '{"frames":', "w-"]),
    tail=st.text(st.sampled_from(' \n0123456789.,-+eE[]{}":NaInfty#w*;'), max_size=120),
    format=st.sampled_from([None, *FORMATS]),
)
def test_random_text(head: str, tail: str, format: str | None, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes((head + tail).encode("latin-1"))
    survives(tmp_path / "a", format)


def parts(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())


@pytest.mark.parametrize("name", witness.NAMES)
def test_every_truncation_of_the_witness(name: str, tmp_path: Path) -> None:
    path, format, _ = witness.make(name, tmp_path)
    for part in parts(path):
        whole = part.read_bytes()
        for cut in sorted({0, 1, 4, *range(2, len(whole), max(1, len(whole) // 12)), len(whole) - 1}):
            part.write_bytes(whole[:cut])
            survives(path, format)
        part.write_bytes(whole)
        assert len(read_trajectory(path, format=format)) == 1


@pytest.mark.parametrize("name", witness.NAMES)
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutations_of_the_witness(name: str, data: st.DataObject, tmp_path: Path) -> None:
    path, format, _ = witness.make(name, fresh(tmp_path))
    part = data.draw(st.sampled_from(parts(path)))
    body = bytearray(part.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        end = at + data.draw(st.integers(0, 3))
        body[at:end] = data.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"NaN", b"1e308", b"-1e999", b"null", b"[[", b"}", b'"']))
        )
    part.write_bytes(bytes(body))
    survives(path, format)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@pytest.mark.parametrize("name", [n for n, (file, _, _) in witness.TEXT.items() if file.endswith(".json")])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_anywhere_in_a_json_file(name: str, data: st.DataObject, tmp_path: Path) -> None:
    path, format, options = witness.make(name, tmp_path)
    document = json.loads(witness.TEXT[name][1])
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.booleans()):
            node[key] = data.draw(VALUES)
            break
        node = node[key]
    path.write_text(json.dumps(document))
    survives(path, format)
    with contextlib.suppress(MosaicMemError):
        read_trajectory(path, format=format, **options)


def fresh(folder: Path) -> Path:
    for number in range(10_000):
        if not (folder / str(number)).exists():
            (folder / str(number)).mkdir()
            return folder / str(number)
    raise AssertionError


def _zeros(n: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with (
            zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("w2c.npy", "w") as file,
        ):
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (n, 4, 4)})  # pyright: ignore
            for _ in range(n * 128 // 2**20):
                file.write(bytes(2**20))
        return folder / "a.npz"

    return write


def _claims(shape: tuple[int, ...], descr: str = "<f8") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        with (folder / "a.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})  # pyright: ignore
        return folder / "a.npy"

    return write


def _pickle(folder: Path) -> Path:
    np.save(folder / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    return folder / "a.npy"


def _text(name: str, text: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder / name

    return write


def _colmap_claim(folder: Path) -> Path:
    witness.make("colmap-bin", folder)
    (folder / "sparse/0/images.bin").write_bytes(struct.pack("<Q", 2**60) + bytes(100))
    return folder


HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zip bomb": (_zeros(2**18 * 2), "zip bomb"),
    "npy that claims a terabyte": (_claims((2**33, 4, 4)), "truncated"),
    "npy that overflows": (_claims((2**62, 2**62)), "truncated"),
    "pickle": (_pickle, "objects"),
    "deep json": (_text("a.json", "[" * 100_000), "nested deeper"),
    "wide json": (_text("a.json", "[" + "[]," * 500_000 + "[]]"), "brackets"),
    "colmap that claims 2^60 images": (_colmap_claim, "claims"),
    "endless action": (_text("a.txt", "forward 1m over 999999999f"), "poses, expected at most"),
    "endless count": (_text("a.txt", "w-9999999"), "poses, expected at most"),
    "empty": (_text("a.txt", ""), "empty"),
    "only comments": (_text("a.txt", "# nothing\n"), "not recognised"),
    "no poses": (_text("a.json", '{"format":"mosaicmem.trajectory","version":1,"frames":[]}'), "at least one"),
    "no rows": (_claims((0, 4, 4)), "no poses"),
    "huge integer": (_text("a.json", '{"poses":[{"timestamp":1' + "0" * 400 + ',"world_to_camera":{}}]}'), "expected"),
    "far away": (_text("a.txt", "0 1.7e308 1.7e308 1.7e308 0.1 0.2 0.3 0.927\n"), "too large"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_with_a_reason_and_without_memory(name: str, tmp_path: Path) -> None:
    write, reason = HOSTILE[name]
    path = write(tmp_path)
    size = sum(part.stat().st_size for part in parts(path))
    tracemalloc.start()
    with pytest.raises(InputError, match=reason) as error:
        read_trajectory(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(error.value)
    assert peak < 4 * size + 2**21


def test_json_depth_counts_brackets_but_not_those_in_strings(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for depth, fine in ((64, True), (65, False)):
        path.write_text("[" * depth + "]" * depth)
        if fine:
            files.read_json(path)
        else:
            with pytest.raises(InputError, match="nested"):
                files.read_json(path)
    text = '{"a": "' + "[{" * 500 + '\\"[[", "b": "\\\\"}'
    path.write_text(text)
    assert files.read_json(path) == json.loads(text)
    # a block border inside deep nesting must not reset the count
    path.write_text("[" * 40 + " " * 2**20 + "[" * 40 + "]" * 80)
    with pytest.raises(InputError, match="nested"):
        files.read_json(path)


def test_single_and_repeated_poses_are_fine(tmp_path: Path) -> None:
    row = "0 1 2 3 0 0 0 1\n"
    (tmp_path / "one.txt").write_text(row)
    (tmp_path / "same.txt").write_text(row * 3)
    assert len(read_trajectory(tmp_path / "one.txt")) == 1
    assert len(read_trajectory(tmp_path / "same.txt")) == 3


def test_an_unreadable_mixture_lists_both_candidates(tmp_path: Path) -> None:
    witness.make("lingbot", tmp_path)
    witness.make("nerfstudio", tmp_path)
    with pytest.raises(InputError, match=r"lingbot.*nerfstudio.*format="):
        read_trajectory(tmp_path)
    assert len(read_trajectory(tmp_path, format="lingbot")) == 1


def test_unknown_options_and_formats_are_named(tmp_path: Path) -> None:
    path, _, _ = witness.make("tum", tmp_path)
    with pytest.raises(InputError, match=r"no option 'matrix'.*fps, size, sort"):
        read_trajectory(path, matrix="c2w")
    with pytest.raises(InputError, match="known are mosaicmem"):
        read_trajectory(path, format="tumm")
    with pytest.raises(InputError, match="no such file"):
        read_trajectory(tmp_path / "absent")
