"""Batches made ahead by other processes: the same ones as without, sooner.

A sample of the world model costs a core a twentieth of a second, most of it memory; a card trains on hundreds in that
time. Because a batch is a function of its step (`training.task.Task.batch`), whoever makes it makes the same one.
"""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mosaicmem.errors import ConfigError
from mosaicmem.training.task import Task

AHEAD = 2
"""Batches that a worker makes before they are asked for."""


def batches(task: Task, steps: range, rank: int = 0, world_size: int = 1, *, workers: int = 0) -> Iterator[Any]:
    """The batches of some steps, in order.

    Args:
        task: What they are for. Workers get a copy whose module has no weights.
        workers: Processes that make them; 0 makes each here when it is asked for.

    Raises:
        ConfigError: if the batches depend on the weights, which workers do not have.
    """
    check_workers(task, workers)
    if not workers:
        return (task.batch(step, rank, world_size) for step in steps)
    loader = DataLoader(
        _Steps(_without_weights(task), rank, world_size),
        batch_size=None,
        sampler=steps,  # pyright: ignore[reportArgumentType]
        num_workers=workers,
        prefetch_factor=AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=_begin,
        multiprocessing_context="spawn",  # a fork would copy a process that has threads, and perhaps a card
    )
    return iter(loader)


def check_workers(task: Task, workers: int) -> None:
    """Raise `ConfigError` if batches are to be made ahead that depend on the weights, which workers do not have."""
    if workers and task.needs_weights:
        raise ConfigError(
            f"workers = {workers}: batches of this training depend on its weights, which other processes do not have; "
            "give workers = 0, or for the world model rehearse = 0"
        )


@dataclass(frozen=True)
class _Steps(Dataset[Any]):
    task: Task
    rank: int
    world_size: int

    def __getitem__(self, step: int) -> Any:
        return self.task.batch(step, self.rank, self.world_size)


def _without_weights(task: Task) -> Task:
    """A copy that can be sent to another process, however large the module is."""
    empty = {id(buffer): torch.empty_like(buffer, device="meta") for buffer in task.module.buffers()}
    for weight in task.module.parameters():
        empty[id(weight)] = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
    return copy.deepcopy(task, empty)


def _as_it_is(batch: Any) -> Any:
    return batch


def _begin(_: int) -> None:
    """One thread a worker; Ctrl-C is the trainer's to answer."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
