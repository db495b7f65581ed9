"""What the training loop asks of a network."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import nn

from mosaicmem._shapes import Tensor


@runtime_checkable
class Task(Protocol):
    """A network, its data and its loss. Everything random in it is drawn from the step's seed."""

    @property
    def name(self) -> str:
        """Short identity."""
        ...

    @property
    def module(self) -> nn.Module:
        """What is trained."""
        ...

    @property
    def needs_weights(self) -> bool:
        """Whether batches depend on the module's weights; then no other process can make them ahead."""
        ...

    def batch(self, step: int, rank: int, world_size: int) -> Any:
        """The part of a step's batch that a rank computes: a pure function of its arguments and the task's seed.

        All ranks together hold the samples that one rank would, so that resuming and splitting change nothing.
        """
        ...

    def loss(self, module: nn.Module, batch: Any) -> tuple[Tensor, dict[str, float]]:
        """Mean loss over the batch, and numbers to log."""
        ...

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        """Numbers on data that is never trained on."""
        ...

    def picture(self, module: nn.Module) -> np.ndarray | None:
        """A sheet `[h w 3]` uint8 that shows what the network does, or None."""
        ...

    def config(self) -> dict[str, Any]:
        """Settings, sizes and the data's identity, as JSON holds them; part of every checkpoint.

        `settings.batch` is the number of samples a step, which the ranks share.
        """
        ...
