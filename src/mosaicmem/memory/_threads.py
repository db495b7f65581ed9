"""Running compiled loops on several cores, and their scratch.

Tasks write to places of their own, so results know nothing of threads.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def for_each(task: Callable[[int], object], count: int, *, worth: bool) -> None:
    """`task(0)` to `task(count - 1)`, on as many threads as torch may use if it is `worth` waking them.

    A task that calls `for_each` itself gets a plain loop: all threads are busy. The first error of a task is raised
    once all threads have stopped.
    """
    count_threads = threads(count, worth=worth)
    if count_threads <= 1:
        for i in range(count):
            task(i)
        return
    left = itertools.count()  # taken by whoever is free; `next` is atomic

    def work() -> None:
        _inside.task = True
        try:
            while (i := next(left)) < count:
                task(i)
        finally:
            _inside.task = False

    others = [_executor(os.getpid(), count_threads - 1).submit(work) for _ in range(count_threads - 1)]
    try:
        work()
    finally:
        errors = [other.exception() for other in others]
    for error in errors:
        if error is not None:
            raise error


def threads(count: int, *, worth: bool) -> int:
    """How many threads `for_each` gives to `count` tasks."""
    return min(torch.get_num_threads(), count) if worth and not getattr(_inside, "task", False) else 1


_inside = threading.local()


@lru_cache(maxsize=1)
def _executor(process: int, threads: int) -> ThreadPoolExecutor:  # a fork inherits the cache, not the threads
    return ThreadPoolExecutor(threads, thread_name_prefix="mosaicmem")


class Scratch:
    """Arrays by name that are given out again and again, as they were left; one user at a time."""

    def __init__(self) -> None:
        self._flat: dict[str, NDArray[Any]] = {}

    def __call__(self, name: str, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
        """An array of `shape` whose contents mean nothing."""
        size = math.prod(shape)
        flat = self._flat.get(name)
        if flat is None or flat.size < size:
            flat = self._flat[name] = np.empty(size, dtype)
        return flat[:size].reshape(shape)
