"""Checkpoints: weights, their running mean and the optimizer's moments in one safetensors file, with provenance."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.optim import Optimizer

from mosaicmem._shapes import Tensor
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.io.files import atomic_path
from mosaicmem.models.checkpoint import load_world, read_tensors
from mosaicmem.models.world_model import WorldNetwork

FORMAT = "mosaicmem-training-1"
FREE = (
    "steps", "minutes", "checkpoint_minutes", "evaluate_every", "log_every", "workers", "data.clips", "data.last",
)  # fmt: skip
"""What may change between two runs of one training: when it stops, how often it reports, and more data."""
LATE = (".subframe_embedding.", ".place_embedding.", ".place_answer.", ".place_gate.", ".age_embedding.")
"""In the names of parameters that weights may lack: they start without effect, which need not be at 0."""


def save_checkpoint(
    path: Path, module: nn.Module, ema: dict[str, Tensor], optimizers: list[Optimizer], header: dict[str, Any]
) -> None:  # fmt: skip
    """Write everything that an exact resume needs, whole or not at all."""
    tensors = {f"weights.{k}": v for k, v in module.state_dict().items()} | {f"ema.{k}": v for k, v in ema.items()}
    for j, optimizer in enumerate(optimizers):
        for i, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{j}.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    data = save(
        {k: v.contiguous() for k, v in tensors.items()}, {"mosaicmem": json.dumps({"format": FORMAT, **header})}
    )
    with atomic_path(path, overwrite=True) as part:
        part.write_bytes(data)


def load_checkpoint(
    path: Path, module: nn.Module, ema: dict[str, Tensor], optimizers: list[Optimizer], header: dict[str, Any],
    defaults: dict[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Bring everything back to where `save_checkpoint` left it; the header that was written.

    Args:
        defaults: Settings of the loop that an older file may lack, as it was then: the default.

    Raises:
        InputError: if the file is no checkpoint.
        ConfigError: if it was made with other settings than `header`; the message names them.
    """
    found, tensors = _read(path)
    differing = _differences({**found, "loop": {**(defaults or {}), **found.get("loop", {})}}, header)
    if differing:
        raise ConfigError(
            f"{path}: was made with other settings ({'; '.join(differing)}); give the same ones, or another folder"
        )
    module.load_state_dict({k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")})
    for k in ema:
        ema[k].copy_(tensors[f"ema.{k}"])
    for j, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{j}."):
                _, _, i, key = name.split(".", 3)
                state.setdefault(int(i), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return found


def export_weights(checkpoint: Path, out: Path, *, half: bool = True, extra: dict[str, Any] | None = None) -> Path:
    """The averaged weights alone, as something to ship: safetensors with configuration and provenance in its header.

    Args:
        checkpoint: File of a training, or the folder that holds it.
        half: Keep weights in float16.
        extra: More for the header.
    """
    path = checkpoint / "checkpoint.safetensors" if checkpoint.is_dir() else checkpoint
    header, tensors = _read(path)
    weights = {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
    if not weights:
        raise InputError(f"{path}: holds no averaged weights; expected the checkpoint of a training")
    weights = {k: v.half() if half and v.is_floating_point() else v for k, v in weights.items()}
    return write_weights(out, weights, {**header, **(extra or {})})


def write_weights(out: Path, weights: dict[str, Tensor], header: dict[str, Any]) -> Path:
    """Write weights as something to ship, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out, overwrite=True) as part:
        part.write_bytes(save({k: v.contiguous() for k, v in weights.items()}, {"mosaicmem": json.dumps(header)}))
    return out


def copy_weights(source: Path, out: Path, extra: dict[str, Any]) -> Path:
    """Copy exported weights, with more in their header."""
    header, weights = _read(source)
    return write_weights(out, weights, {**header, **extra})


def start_from(path: Path, module: nn.Module) -> None:
    """Give a module the averaged weights of a checkpoint, of its folder, or of exported weights.

    What reads memory beyond its tokens starts without effect where the weights do not have it yet.

    Raises:
        InputError: if there is no such file, or it holds no weights.
        ConfigError: if they are of another network or of other sizes.
    """
    found = sorted(file.name for file in path.glob("*.safetensors")) if path.is_dir() else []
    path = path / "checkpoint.safetensors" if path.is_dir() else path
    if not path.is_file():
        instead = f"; to begin with exported weights, name one of {', '.join(found)}" if found else ""
        raise InputError(
            f"{path}: no such weights; expected a checkpoint, its folder, or a file of exported weights{instead}"
        )
    _, tensors = read_tensors(path)
    averaged = {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
    weights = averaged or tensors
    own = _late(module)
    try:
        module.load_state_dict({**own, **weights})
    except RuntimeError as error:
        raise ConfigError(f"{path}: weights of another network ({str(error).splitlines()[-1].strip()})") from error


def between(source: Path, other: Path, share: float, out: Path) -> Path:
    """Exported weights that lie between two: `share` of the first, the rest of the other, number by number.

    What fine-tuning gained is mostly kept so, and what it lost comes back (Wortsman et al. 2022, "Robust fine-tuning").
    What `other` is too old to have counts there as it begins: without effect, such as a gate that is open.

    Raises:
        ConfigError: if `share` is not in [0, 1], or the two are not of one network.
        InputError: if `other` lacks something, and `source` is no world model that says how it begins.
    """
    if not 0 <= share <= 1:
        raise ConfigError(f"a share of {share}: expected 0 to 1")
    header, weights = _read(source)
    theirs_header, theirs = _read(other)
    lacks = {k for k in weights.keys() - theirs.keys() if not any(name in k for name in LATE)}
    unlike = [k for k in weights.keys() & theirs.keys() if weights[k].shape != theirs[k].shape]
    if lacks or unlike or theirs.keys() - weights.keys():
        raise ConfigError(f"{other}: weights of another network than {source}")
    if weights.keys() - theirs.keys():
        theirs = {**_beginning(source), **theirs}
    mixed = {k: (share * v.float() + (1 - share) * theirs[k].float()).to(v.dtype) for k, v in weights.items()}
    about = {"share": share, "other": {k: theirs_header.get(k) for k in ("task", "step", "provenance")}}
    return write_weights(out, mixed, {**header, "between": about})


def _beginning(source: Path) -> dict[str, Tensor]:
    """`LATE` parameters of a world model as training begins with them."""
    network = load_world(source).network
    with torch.random.fork_rng(devices=[]):
        return _late(WorldNetwork(network.config, len(network.text.positions)))


def _late(module: nn.Module) -> dict[str, Tensor]:
    return {k: v for k, v in module.state_dict().items() if any(name in k for name in LATE)}


def provenance() -> dict[str, str]:
    """What made a checkpoint."""
    return {"mosaicmem": version("mosaicmem"), "torch": torch.__version__, "python": platform.python_version()}


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(str(path), "pt") as file:  # pyright: ignore[reportArgumentType]
            header = json.loads((file.metadata() or {}).get("mosaicmem", "{}"))
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: is no checkpoint ({error})") from error
    if header.get("format") != FORMAT:
        raise InputError(f"{path}: is no training checkpoint of format {FORMAT}")
    return header, tensors


def _differences(found: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    out = []
    for part in ("task", "loop"):
        a, b = _flat(found.get(part, {})), _flat(json.loads(json.dumps(asked.get(part, {}))))
        out += [
            f"{k} was {a.get(k)!r}, is {b.get(k)!r}" for k in sorted(a | b) if a.get(k) != b.get(k) and k not in FREE
        ]
    return out


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        out |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
