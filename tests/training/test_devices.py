"""Tasks whose module lies on another device say there what they say on the CPU, and make their batches as before."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.elsewhere import PLACES, somewhere
from tests.training.clips import CHANNELS, MICRO, micro_vae, world_task, write_world

from mosaicmem.models.devices import home_of
from mosaicmem.models.refiner import RefinerConfig
from mosaicmem.training.distributed import on_device
from mosaicmem.training.refiner_task import RefinerTask, RefinerTaskConfig
from mosaicmem.training.world_task import WorldTask


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_world(tmp_path_factory.mktemp("clips"))


def world(paths: list[Path]) -> WorldTask:
    return world_task(paths, micro_vae(), MICRO, rehearse=0.0)


def refiner(paths: list[Path]) -> RefinerTask:
    torch.manual_seed(0)
    config = RefinerTaskConfig(batch=4, windows=8, pixel_cells=4)
    return RefinerTask(world(paths), micro_vae(), RefinerConfig(CHANNELS, width=8, blocks=1), config)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("make", [world, refiner])
@torch.no_grad()
def test_a_task_elsewhere_has_the_same_loss_and_the_same_held_out_numbers(paths, make, place: str) -> None:
    task, other = make(paths), make(paths)
    found, held = task.loss(task.module, task.batch(0))[0], task.evaluate(task.module)
    with somewhere(place) as at:
        module = other.module.to(at)
        batch = other.batch(0)
        away = other.loss(module, on_device(batch, at))[0]
        assert away.device.type == at.type and home_of(other._decoder).type == at.type
        assert float(away) == pytest.approx(float(found), rel=1e-3)
        assert other.evaluate(module) == pytest.approx(held, rel=1e-3)
    assert home_of(other.vae if make is world else other._vae).type == "cpu", "which batches are made with"


@pytest.mark.parametrize("place", PLACES)
def test_a_picture_of_a_refiner_elsewhere(paths, place: str) -> None:
    task, other = refiner(paths), refiner(paths)
    with somewhere(place) as at:
        away = other.picture(other.module.to(at))
    assert abs(task.picture(task.module).astype(int) - away.astype(int)).max() <= 1
