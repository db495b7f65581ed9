"""Batches made ahead by other processes are those that the trainer would have made."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from tests.training.child import TOY
from tests.training.clips import ToyTask, micro_vae, world_task, write_world
from tests.training.test_devices import refiner
from tests.training.test_loop import rows, same_tensors

from mosaicmem.errors import ConfigError
from mosaicmem.models.video_vae import VideoVAE
from mosaicmem.training.ahead import _without_weights, batches
from mosaicmem.training.loop import fit
from mosaicmem.training.world_task import WorldTask


def leaves(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, tuple):
        return [x for part in value for x in leaves(part)]
    return [x for f in fields(value) for x in leaves(getattr(value, f.name))] if is_dataclass(value) else []


def equal(a: Any, b: Any) -> bool:
    ours, theirs = leaves(a), leaves(b)
    return len(ours) == len(theirs) > 0 and all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def test_a_training_with_workers_is_the_same_and_goes_on_where_another_stopped(tmp_path):
    alone, helped = ToyTask(), ToyTask()
    for steps, workers in ((5, 2), (12, 1)):
        fit(alone, replace(TOY, steps=steps), tmp_path / "alone")
        fit(helped, replace(TOY, steps=steps, workers=workers), tmp_path / "helped")
    assert alone.asked == list(range(12))
    assert helped.asked == [], "the trainer made batches itself"
    assert rows(tmp_path / "helped") == rows(tmp_path / "alone")
    assert same_tensors(tmp_path / "helped", tmp_path / "alone")


@pytest.mark.parametrize("rank", [0, 1])
def test_workers_make_the_windows_that_the_trainer_would(tmp_path, rank):
    task = world_task(write_world(tmp_path, 2), micro_vae(), rehearse=0.0)
    with torch.no_grad():
        task.module.gain.fill_(2.0)  # weights of its own, which workers do not see
    made = list(batches(task, range(3, 6), rank, 2, workers=2))
    assert len(made) == 3
    for step, batch in zip(range(3, 6), made, strict=True):
        assert equal(batch, task.batch(step, rank, 2))
        assert not equal(batch, task.batch(step + 1, rank, 2))
        assert not equal(batch, task.batch(step, 1 - rank, 2))


def test_workers_make_the_windows_of_a_refiner_that_the_trainer_would(tmp_path):
    task = refiner(write_world(tmp_path, 2))
    (made,) = batches(task, range(1), workers=1)
    assert equal(made, task.batch(0, 0, 1)) and not equal(made, task.batch(1, 0, 1))


def test_workers_get_the_autoencoder_and_no_weights(tmp_path):
    vae = micro_vae()
    task = world_task(write_world(tmp_path, 1), vae, rehearse=0.0)
    sent = _without_weights(task)
    weights = [*sent.module.parameters(), *sent.module.buffers()]
    assert weights and all(w.is_meta for w in weights)
    assert not any(w.is_meta for w in [*task.module.parameters(), *task.module.buffers()])
    assert isinstance(sent, WorldTask) and isinstance(sent.vae, VideoVAE)
    assert torch.equal(sent.vae.between, vae.between)


def test_batches_that_depend_on_weights_are_not_made_ahead(tmp_path):
    task = world_task(write_world(tmp_path, 1), micro_vae(), rehearse=0.5)
    with pytest.raises(ConfigError, match="rehearse = 0"):
        batches(task, range(3), workers=1)
    assert len(list(batches(task, range(1)))) == 1  # control: without workers they are made
    mute = world_task(write_world(tmp_path, 1), None, rehearse=0.5)  # without an autoencoder nothing is rehearsed
    assert not mute.needs_weights
