"""A memory of version 0.2 comes back bit for bit; a damaged file is never taken for one."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.io.old_memory import save_old

from helpers import random_cameras
from mosaicmem.errors import FormatVersionError, InputError, MosaicMemError
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.io.safetensors_memory import _digest, read_safetensors_memory
from mosaicmem.memory.lifting import lift
from mosaicmem.memory.patches import Group
from mosaicmem.memory.retrieval import retrieve
from mosaicmem.memory.store import PatchStore

GRID = TokenGrid(16, 8, stride=2, patch=2)


def _memory(dtype: torch.dtype = torch.float32) -> PatchStore:
    """Three keyframes, one of them cut in two groups, one of them scaled and moved."""
    rng = torch.Generator().manual_seed(3)
    cameras = random_cameras(3, rng, width=16, height=8)
    batch = torch.randn(3, 4, *GRID.cells, generator=rng).to(dtype)
    store = PatchStore.empty()
    for i in range(3):
        depth = 2 + torch.rand(8, 16, generator=rng)
        depth[i] = 0
        keyframe = lift(
            batch[i], depth, cameras[i], GRID, frame=10 * i, time=0.1 * i, origin="generated" if i else "observed"
        )
        store = store.insert(replace(keyframe, confidence=torch.rand(4, 8, generator=rng)))
    a, b, c = store.groups
    mask = torch.rand(2, 4, generator=rng) < 0.5
    moved = b.world_from_cam.clone()
    moved[:3, :3] *= 1.5
    moved[:3, 3] += torch.tensor([0.1, 0.2, 1 / 3], dtype=torch.float64)
    return PatchStore.from_groups(
        [a, replace(b, world_from_cam=moved), replace(c, mask=mask, uid=7), replace(c, mask=~mask, uid=9)]
    )


def _assert_equal(a: Group, b: Group) -> None:
    for name in ("latents", "depth", "valid", "confidence"):
        x, y = getattr(a.keyframe, name), getattr(b.keyframe, name)
        assert x.dtype == y.dtype
        assert torch.equal(x, y)
    for name in ("viewmats", "Ks"):
        x, y = getattr(a.keyframe.camera, name), getattr(b.keyframe.camera, name)
        assert x.dtype == y.dtype == torch.float64
        assert torch.equal(x, y)
    for name in ("stride", "patch", "frame", "time", "origin"):
        assert getattr(a.keyframe, name) == getattr(b.keyframe, name)
    assert (a.keyframe.camera.width, a.keyframe.camera.height) == (b.keyframe.camera.width, b.keyframe.camera.height)
    assert torch.equal(a.world_from_cam, b.world_from_cam)
    assert a.uid == b.uid
    assert (a.mask is None) == (b.mask is None)
    assert a.mask is None or b.mask is None or torch.equal(a.mask, b.mask)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_everything_survives_bit_for_bit(tmp_path, dtype):
    store = _memory(dtype)
    meta = {"prompt": "ein Zimmer ☼", "vae": {"name": "x", "numbers": [1, 0.1, None, True]}}
    save_old(store, tmp_path / "m.safetensors", meta)
    loaded, found = read_safetensors_memory(tmp_path / "m.safetensors")
    assert found == meta
    assert len(loaded) == len(store)
    for a, b in zip(store.groups, loaded.groups, strict=True):
        _assert_equal(a, b)
    assert loaded.group(2).keyframe is loaded.group(3).keyframe
    assert torch.equal(loaded.centers, store.centers)
    view = store.group(0).keyframe.camera
    assert torch.equal(retrieve(loaded, view, GRID).source_uv, retrieve(store, view, GRID).source_uv)


def test_an_empty_memory_is_a_memory(tmp_path):
    save_old(PatchStore.empty(), tmp_path / "m")
    store, meta = read_safetensors_memory(tmp_path / "m")
    assert (len(store), meta) == (0, {})


def test_half_a_kilobyte_a_patch(tmp_path):
    """At the predecessor's payload (2x2 cells, 16 channels) a patch takes less than 0.5 kB in float16."""
    grid = TokenGrid(256, 256, stride=8, patch=2)
    camera = random_cameras(1, torch.Generator(), width=256, height=256)
    store = PatchStore.empty()
    for i in range(4):
        store = store.insert(lift(torch.zeros(16, 32, 32).half(), torch.ones(256, 256), camera, grid, frame=i))
    save_old(store, tmp_path / "m")
    assert (tmp_path / "m").stat().st_size / store.num_patches < 512


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("store") / "m"
    save_old(_memory(), path, {"prompt": "x"})
    return path.read_bytes()


@given(st.data())
def test_a_truncated_file_is_refused(saved, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("cut") / "m"
    path.write_bytes(saved[: data.draw(st.integers(0, len(saved) - 1))])
    with pytest.raises(MosaicMemError):
        read_safetensors_memory(path)


@given(st.data())
def test_no_single_flipped_bit_goes_unnoticed(saved, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("flip") / "m"
    damaged = bytearray(saved)
    # half of the flips hit the header, which is small and where most can go wrong
    header = 8 + struct.unpack("<Q", saved[:8])[0]
    at = data.draw(st.one_of(st.integers(0, header - 1), st.integers(0, len(saved) - 1)))
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(damaged))
    with pytest.raises(MosaicMemError):
        read_safetensors_memory(path)


@given(st.binary(max_size=300))
def test_noise_is_refused(tmp_path_factory, noise):
    path = tmp_path_factory.mktemp("noise") / "m"
    path.write_bytes(noise)
    with pytest.raises(MosaicMemError):
        read_safetensors_memory(path)


def _rewrite(path: Path, edit_header=None, edit_tensors=None) -> None:
    """Change a saved memory the way a wrong writer would: with a checksum that fits."""
    data = path.read_bytes()
    metadata = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])["__metadata__"]
    tensors = load_file(path)
    header = json.loads(metadata["mosaicmem"])
    if edit_header:
        edit_header(header)
    if edit_tensors:
        edit_tensors(tensors)
    text = json.dumps(header)
    del tensors["sha256"]
    save_file(tensors | {"sha256": _digest(text, tensors)}, path, metadata={"mosaicmem": text})


def _fill(name: str, value: float):
    return lambda t: t[name].fill_(value)


@pytest.mark.parametrize(
    ("edit_header", "edit_tensors", "message"),
    [
        (lambda h: h.update(extra=1), None, "header: field 'extra' is unknown"),
        (lambda h: h.pop("groups"), None, "header: field 'groups' is missing"),
        (lambda h: h.update(format="other"), None, "mosaicmem.memory"),
        (lambda h: h.update(meta=[]), None, "meta"),
        (lambda h: h.update(keyframes={}), None, "keyframes is dict"),
        (lambda h: h["keyframes"].append(3), None, r"keyframes\[3\] is int"),
        (lambda h: h["keyframes"][1].pop("time"), None, r"keyframes\[1\]: field 'time' is missing"),
        (lambda h: h["keyframes"][1].update(time="now"), None, r"keyframes\[1\].time"),
        (lambda h: h["keyframes"][0].update(origin="dreamt"), None, r"keyframes\[0\].origin"),
        (lambda h: h["keyframes"][0].update(width=10**9), None, r"keyframes\[0\].width"),
        (lambda h: h["keyframes"][0].update(stride=0), None, r"keyframes\[0\].stride"),
        (lambda h: h["keyframes"][0].update(stride=1), None, r"keyframes.0.latents.*expected float nx8x16"),
        (lambda h: h["keyframes"][0].update(patch=3), None, r"keyframes\[0\].*patch size 3"),
        (lambda h: h["keyframes"][0].update(frame=True), None, r"keyframes\[0\].frame"),
        (lambda h: h["groups"][0].update(keyframe=3), None, r"groups\[0\].keyframe"),
        (lambda h: h["groups"][1].update(uid=0), None, "uid 0 is not larger"),
        (lambda h: h["groups"][1].update(masked=1), None, r"groups\[1\].masked"),
        (lambda h: h["groups"][1].update(masked=True), None, "'groups.1.mask' is missing"),
        (lambda h: h["groups"].pop(), None, "tensors that nothing refers to, first 'groups.3"),
        (None, lambda t: t.pop("keyframes.2.depth"), "'keyframes.2.depth' is missing"),
        (None, lambda t: t.update(extra=torch.zeros(1)), "'extra'"),
        (None, _fill("keyframes.1.latents", torch.nan), "keyframes.1.latents contains NaN"),
        (None, _fill("keyframes.1.depth", -1.0), r"keyframes\[1\].*depth <= 0"),
        (None, _fill("keyframes.1.viewmat", 0.0), r"keyframes\[1\].*no rotation"),
        (None, _fill("keyframes.1.K", 0.0), r"keyframes\[1\].*focal"),
        (None, _fill("groups.1.world_from_cam", 0.0), r"groups\[1\].world_from_cam"),
        (None, lambda t: t.update({"keyframes.0.valid": torch.ones(4, 8)}), "expected bool 4x8"),
        (None, lambda t: t.update({"groups.2.mask": torch.ones(4, 2).bool()}), "expected bool 2x4"),
        (None, lambda t: t.update({"keyframes.0.K": torch.eye(3).long()}), "expected float 3x3"),
    ],
)
def test_impossible_fields_are_named(saved, tmp_path, edit_header, edit_tensors, message):
    path = tmp_path / "m"
    path.write_bytes(saved)
    _rewrite(path, edit_header, edit_tensors)
    with pytest.raises(InputError, match=message):
        read_safetensors_memory(path)


def test_other_versions_and_other_files_are_told_apart(saved, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(saved)
    _rewrite(path, lambda h: h.update(version=2))
    with pytest.raises(FormatVersionError, match="version 2; this mosaicmem reads version 1"):
        read_safetensors_memory(path)
    damaged = load_file(path)
    damaged["keyframes.0.latents"] += 1
    save_file(damaged, path, metadata={"mosaicmem": json.dumps({"format": "mosaicmem.memory", "version": 1})})
    with pytest.raises(InputError, match="missing"):
        read_safetensors_memory(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="without a 'mosaicmem' header"):
        read_safetensors_memory(path)
    with pytest.raises(InputError, match="at most 10"):
        read_safetensors_memory(path, max_bytes=10)
    with pytest.raises(InputError, match="no such file"):
        read_safetensors_memory(tmp_path / "absent")


def test_the_checks_do_not_reject_a_rewritten_but_right_file(saved, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(saved)
    _rewrite(path)
    assert len(read_safetensors_memory(path)[0]) == 4


def test_deep_meta_is_refused(saved, tmp_path):
    deep: dict = {}
    for _ in range(100):
        deep = {"x": deep}
    path = tmp_path / "m"
    path.write_bytes(saved)
    _rewrite(path, lambda h: h.update(meta=deep))
    with pytest.raises(InputError, match="nested"):
        read_safetensors_memory(path)
