"""Random starts of parameters."""

from __future__ import annotations

import torch
from torch import nn


def normal(*shape: int, std: float) -> nn.Parameter:
    """A parameter drawn from N(0, std^2).

    On the meta device, where weights are compared with a file before they are loaded, nothing is drawn: torch would
    load its compiler for that, which takes seconds.
    """
    empty = torch.empty(shape)
    return nn.Parameter(empty if empty.is_meta else std * torch.randn(shape))
