"""Independent pieces of work on several processes, results in order and equal to those of one process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from mosaicmem.errors import MosaicMemError
from mosaicmem.generation.backend import Models

Item = TypeVar("Item")
Found = TypeVar("Found")
Loader = Callable[[], Models]
"""Gives the models; for several processes it must be picklable, such as `partial(load_models, "rooms")`."""

_models: list[Models] = []  # of a worker process, loaded once


def each_world(
    work: Callable[[Models, Item], Found], items: Sequence[Item], load: Loader, processes: int = 1
) -> Iterator[Found]:
    """`work(models, item)` for every item, in order, with one thread of the tensor library each.

    Sums over threads depend on their number, so one thread is what makes results independent of `processes`.

    Args:
        work: A function of a module, for several processes.
        items: Picklable, for several processes.

    Raises:
        MosaicMemError: if a process is ended from outside.
    """
    if processes <= 1 or len(items) < 2:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            models = load()
            for item in items:
                yield work(models, item)
        finally:
            torch.set_num_threads(threads)
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads can hang
    pool = ProcessPoolExecutor(min(processes, len(items)), context, _begin, (load,))
    try:
        with losing_none(processes):
            for waiting in [pool.submit(_work, work, item) for item in items]:
                yield waiting.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def losing_none(processes: int) -> Iterator[None]:
    """Say in words that one of some processes was ended from outside: it is no bug, and fewer may do.

    Raises:
        MosaicMemError: then.
    """
    try:
        yield
    except BrokenProcessPool as error:
        raise MosaicMemError(
            f"one of {processes} processes was ended from outside, most likely because memory was short; give fewer "
            "--processes"
        ) from error


def _begin(load: Loader) -> None:
    torch.set_num_threads(1)
    _models[:] = [load()]


def _work(work: Callable[[Models, Any], Found], item: Any) -> Found:
    return work(_models[0], item)
