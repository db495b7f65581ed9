"""Memory lies on the CPU: it takes frames and cameras from any device, answers there, and refuses what would mix."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.elsewhere import Elsewhere, there
from tests.memory.scenes import GRID, camera, keyframe, random_room_cameras, room_depth

from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.memory import PatchStore, lift, retrieve


def moved(cameras: Cameras) -> Cameras:
    return dataclasses.replace(cameras, viewmats=there(cameras.viewmats), Ks=there(cameras.Ks))


def test_cameras_may_come_from_anywhere_and_the_answer_lies_on_the_cpu() -> None:
    store = PatchStore.empty()
    for i, cam in enumerate(random_room_cameras(3, 0)):
        store = store.insert(keyframe(room_depth(cam), cam, frame=i))
    views = random_room_cameras(2, 1)
    here = retrieve(store, views, GRID)
    with Elsewhere():
        away = retrieve(store, moved(views), GRID)
    for field in dataclasses.fields(here):
        a, b = getattr(here, field.name), getattr(away, field.name)
        assert not torch.is_tensor(a) or (b.device.type == "cpu" and torch.equal(a, b)), field.name
    assert away.cameras.viewmats.device.type == "cpu"


def test_a_frame_from_anywhere_is_lifted_into_memory_on_the_cpu() -> None:
    image = torch.arange(GRID.height * GRID.width).reshape(GRID.height, GRID.width)
    frame: dict[str, Any] = {
        "latents": torch.randn(3, *GRID.cells, generator=torch.Generator().manual_seed(0)),
        "depth": 2 + (image % 97) / 50,
        "confidence": 1 + (image % 13) / 13,
        "exclude": image % 31 == 0,
    }
    here = lift(**frame, camera=camera(), grid=GRID)
    with Elsewhere():
        elsewhere: dict[str, Any] = {name: there(x) for name, x in frame.items()}
        away = lift(**elsewhere, camera=moved(camera()), grid=GRID)
    for name in ("latents", "depth", "valid", "confidence"):
        assert getattr(away, name).device.type == "cpu" and torch.equal(getattr(here, name), getattr(away, name))


@pytest.mark.parametrize("name", ["latents", "depth", "valid", "confidence", "camera"])
def test_a_keyframe_on_another_device_is_refused_by_name(name: str) -> None:
    frame = keyframe(4.0, camera())
    elsewhere = moved(frame.camera) if name == "camera" else getattr(frame, name).to("meta")
    with pytest.raises(
        GeometryError, match=rf"keyframe 0: {name} lies on meta, but memory is kept and read on the CPU"
    ):
        dataclasses.replace(frame, **{name: elsewhere})
