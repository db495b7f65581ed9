"""Data parallel training: every rank computes its share of a batch, gradients are averaged, weights stay equal.

`torchrun --nproc-per-node N -m mosaicmem train ...` sets the environment that `join` reads; `accelerate launch` sets
the same one. All ranks share the folder of the training; rank 0 alone writes there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

from mosaicmem.models.devices import device_named, home_of

Network = TypeVar("Network", bound=nn.Module)


@contextmanager
def join() -> Iterator[tuple[int, int]]:
    """Join the group that the environment names; gives (rank, world size), (0, 1) where there is none."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def own_device(name: str) -> torch.device:
    """The device of that name; `cuda` without a number is the card of this rank.

    Raises:
        ConfigError: if there is none.
    """
    return device_named(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" else name)


def on_device(batch: Any, device: torch.device) -> Any:
    """Every tensor in tuples and dataclasses, on a device."""
    if device.type == "cpu":
        return batch
    if isinstance(batch, torch.Tensor):
        return batch.to(device)
    if isinstance(batch, tuple):
        return tuple(on_device(value, device) for value in batch)
    if is_dataclass(batch) and not isinstance(batch, type):
        return replace(batch, **{f.name: on_device(getattr(batch, f.name), device) for f in fields(batch)})
    return batch


def beside(network: Network, x: torch.Tensor) -> Network:
    """A network where `x` is: itself, or a copy, since batches are made with the one on the CPU meanwhile."""
    return network if home_of(network) == x.device else deepcopy(network).to(x.device)


def average_gradients(module: nn.Module, world_size: int) -> None:
    """Replace every gradient by its mean over ranks, in one message; a rank without one counts as zero."""
    if world_size == 1:
        return
    parameters = [p for p in module.parameters() if p.requires_grad]
    flat = torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in parameters])
    dist.all_reduce(flat)
    flat /= world_size
    for p, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        p.grad = part.view_as(p)


def any_rank(flag: bool, world_size: int) -> bool:
    """Whether the flag is set on at least one rank; all ranks get the same answer, so that none waits for another."""
    if world_size == 1:
        return flag
    flags = torch.tensor([float(flag)])
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    return bool(flags)


def same_weights(module: nn.Module, world_size: int) -> None:
    """Give every rank the weights of rank 0."""
    if world_size == 1:
        return
    for tensor in [*module.parameters(), *module.buffers()]:
        dist.broadcast(tensor.data, 0)


def sixteen_bits(precision: str, device: torch.device) -> bool:
    """Whether matrices are multiplied in bfloat16: as `precision` says; for `auto`, if the processor is made for it."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type != "cpu":
        return True
    # the only questions that torch answers about 16 bits on a CPU
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in asked)
