"""Work on several processes: what is said when one of them is lost."""

from __future__ import annotations

import os
import signal

import pytest

from mosaicmem.errors import MosaicMemError
from mosaicmem.evaluation.parallel import each_world
from mosaicmem.generation.backend import Models
from mosaicmem.models.synthetic import Compositor, PixelShuffleVAE


def load() -> Models:
    return Models(PixelShuffleVAE(), Compositor())


def work(models: Models, item: int) -> int:
    if item == 2:  # as a system does that is short of memory
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def test_a_process_that_is_ended_from_outside_is_no_bug() -> None:
    assert list(each_world(work, [0, 1], load, 2)) == [0, 1]  # control
    with pytest.raises(MosaicMemError, match=r"one of 2 processes was ended from outside.*fewer --processes"):
        list(each_world(work, [0, 1, 2], load, 2))
