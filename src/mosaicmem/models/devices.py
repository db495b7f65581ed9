"""Where networks compute. Memory, cameras, noise and the state of a rollout lie on the CPU whatever device that is.

What is called with tensors brings them to its own weights and gives its answer back where they came from, so that
nobody who holds a network need know where it is.
"""

from __future__ import annotations

import torch
from torch import nn

from mosaicmem.errors import ConfigError


def device_named(name: str | torch.device) -> torch.device:
    """The device of that name, such as `cpu`, `cuda` or `cuda:1`.

    Raises:
        ConfigError: if there is none here that holds values.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, ImportError, AttributeError) as error:
        said = str(error).split("\n")[0].split(". ")[0].rstrip(".")
        cards = ", ".join(f"cuda:{i}" for i in range(torch.cuda.device_count())) or "none here"
        raise ConfigError(f"device {str(name)!r}: {said}; expected cpu, or a card that torch sees: {cards}") from error
    return device


def home_of(network: nn.Module) -> torch.device:
    """The device of a network's weights, all of which lie on one."""
    return next(network.parameters()).device
