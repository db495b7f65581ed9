"""Trained networks from files: what the package ships, and transformers in diffusers' folders.

Only safetensors are read. Sizes in a file's header are compared with its tensors before anything is allocated.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from mosaicmem._shapes import Tensor
from mosaicmem.errors import ConfigError, InputError, MissingWeightsError
from mosaicmem.io.files import read_json, require_file, safe_join
from mosaicmem.models.depth_net import DepthNet, DepthNetConfig, LearnedDepth
from mosaicmem.models.refiner import Refiner, RefinerConfig
from mosaicmem.models.transformer import TransformerConfig, VideoTransformer
from mosaicmem.models.video_vae import VideoVAE, VideoVAEConfig
from mosaicmem.models.world_model import SamplingConfig, WorldModel, WorldNetwork

FORMAT = "mosaicmem-training-1"  # as `training.checkpoint` writes it
MAX_BYTES = 64 * 2**30  # of one file
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"
INDEX_FILE = WEIGHTS_FILE + ".index.json"
KEEP_FLOAT32 = ("time_embedder", "scale_shift_table", "norm2")
"""Parts of a transformer that lose too much in 16 bits; diffusers keeps the same ones."""

Network = TypeVar("Network", bound=nn.Module)
_COUNTS = ("num_layers", "blocks", "attention")


def load_vae(path: Path | str) -> VideoVAE:
    """The video autoencoder of a file, float32, frozen.

    Raises:
        MissingWeightsError: if there is no such file.
        InputError: if it holds something else, or its tensors do not fit its own sizes.
    """
    return _load(Path(path), "vae", lambda task: VideoVAE(VideoVAEConfig.from_dict(task["model"])))[0]


def load_depth(path: Path | str) -> LearnedDepth:
    """The depth network of a file, float32, frozen.

    Raises:
        MissingWeightsError: if there is no such file.
        InputError: if it holds something else, or its tensors do not fit its own sizes.
    """
    network, name = _load(Path(path), "depth", lambda task: DepthNet(DepthNetConfig.from_dict(task["model"])))
    return LearnedDepth(network, name)


def load_refiner(path: Path | str) -> Refiner:
    """The refiner of a file, float32, frozen.

    Raises:
        MissingWeightsError: if there is no such file.
        InputError: if it holds something else, or its tensors do not fit its own sizes.
    """
    return _load(Path(path), "refiner", lambda task: Refiner(RefinerConfig.from_dict(task["model"])))[0]


def load_world(
    path: Path | str, *, name: str | None = None, sampling: SamplingConfig | None = None, use_memory: bool = True
) -> WorldModel:
    """The generator of a file, float32, frozen.

    Args:
        path: The file.
        name: What results call it; by default the name in the file's header, or the file's own.
        sampling, use_memory: As in `WorldModel`.

    Raises:
        MissingWeightsError: if there is no such file.
        InputError: if it holds something else, or its tensors do not fit its own sizes.
    """

    def make(task: dict[str, Any]) -> WorldNetwork:
        return WorldNetwork(TransformerConfig.from_dict(task["model"]), task.get("words", 48))

    network, own = _load(Path(path), "world", make)
    return WorldModel(network, name or own, sampling, use_memory=use_memory)


def load_transformer(folder: Path | str, *, dtype: torch.dtype = torch.float32, **overrides: Any) -> VideoTransformer:
    """A video transformer from a folder of diffusers' format: `config.json` and safetensors, in one file or several.

    Args:
        folder: That folder, or the pipeline's, which holds it as `transformer/`.
        dtype: Of the weights; `KEEP_FLOAT32` stays float32.
        overrides: Settings of `TransformerConfig` in place of the file's. `prope_layout="branch"` and
            `memory_subframes` add parameters that a stock checkpoint does not have, and which start at zero.

    Raises:
        MissingWeightsError: if a file is absent.
        ConfigError: if an override is none.
        InputError: if the configuration asks for something that this transformer does not have, or if tensors are
            missing, unexpected or of another shape; they are named.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file() and (folder / "transformer" / CONFIG_FILE).is_file():
        folder = folder / "transformer"
    TransformerConfig.from_dict(overrides)
    sizes = read_json(_present(folder / CONFIG_FILE))
    if not isinstance(sizes, dict):
        raise InputError(f"{folder / CONFIG_FILE}: expected an object of settings")
    state: dict[str, Tensor] = {}
    for path in _shards(folder):
        for key, value in read_tensors(path)[1].items():
            state[key] = value.to(torch.float32 if set(KEEP_FLOAT32) & set(key.split(".")) else dtype)
    sizes |= overrides
    if sizes.get("prope_layout") == "branch":
        for key in [key for key in state if ".attn1.to_out.0." in key]:
            state.setdefault(key.replace("to_out.0", "to_out_prope"), torch.zeros_like(state[key]))
    if sizes.get("memory_subframes") and "patch_embedding.bias" in state:
        bias = state["patch_embedding.bias"]
        state.setdefault("subframe_embedding.weight", bias.new_zeros(len(bias), int(sizes["memory_subframes"])))
        state.setdefault("subframe_embedding.bias", torch.zeros_like(bias))
    return _fill(lambda: VideoTransformer(TransformerConfig.from_dict(sizes)), sizes, state, folder)


def read_header(path: Path | str) -> dict[str, Any]:
    """What a file of ours says of itself: its task with the network's sizes, and where it comes from.

    Raises:
        MissingWeightsError: if there is no such file.
        InputError: if it is none of ours.
    """
    return _ours(Path(path), read_tensors(_present(Path(path)), tensors=False)[0])


def read_tensors(path: Path, *, tensors: bool = True, skip: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Our header, empty if there is none, and the tensors of a safetensors file, but for the one named `skip`.

    Raises:
        InputError: if the file is too large or none, or a tensor holds anything but finite floats.
    """
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise InputError(f"{path}: {size:,} bytes, expected at most {MAX_BYTES:,}; is this the right file?")
    try:
        with safe_open(str(path), "pt") as file:  # pyright: ignore[reportArgumentType]
            header = json.loads((file.metadata() or {}).get("mosaicmem", "{}"))
            names = [name for name in file.keys() if tensors and name != skip]  # noqa: SIM118 - it is no mapping
            state = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error}); fetch or export it again") from error
    for name, value in state.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise InputError(f"{path}: weight {name!r} is {value.dtype} or not finite; expected finite floats")
    return header if isinstance(header, dict) else {}, state


def _ours(path: Path, header: dict[str, Any]) -> dict[str, Any]:
    if header.get("format") != FORMAT or not isinstance(header.get("task"), dict):
        raise InputError(f"{path}: no weights of this package; expected format {FORMAT}, got {header.get('format')!r}")
    return header


def _read_ours(path: Path, part: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    header, state = read_tensors(_present(path))
    task = _ours(path, header)["task"]
    if task.get("task") != part or not isinstance(task.get("model"), dict):
        raise InputError(f"{path}: holds a network for {task.get('task')!r}; expected one for {part!r}")
    if any(key.startswith("ema.") for key in state):
        raise InputError(f"{path}: the checkpoint of a training; expected weights that it exported (export_weights)")
    return header, {key: value.float() for key, value in state.items()}


def _load(path: Path, part: str, make: Callable[[dict[str, Any]], Network]) -> tuple[Network, str]:
    """The network of a file, made from its task in the header, and its name: the header's, or the file's own."""
    header, state = _read_ours(path, part)
    task = header["task"]
    return _fill(lambda: make(task), task["model"], state, path), str(header.get("name", path.stem))


def _present(path: Path) -> Path:
    if not path.exists():
        raise MissingWeightsError(f"{path}: no such file; weights are looked for there, check the folder")
    return require_file(path)


def _shards(folder: Path) -> list[Path]:
    if not (folder / INDEX_FILE).is_file():
        return [_present(folder / WEIGHTS_FILE)]
    index = read_json(folder / INDEX_FILE)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{folder / INDEX_FILE}: no weight_map from tensors to files")
    return [_present(safe_join(folder, name)) for name in sorted(set(names.values()))]


def _fill(make: Callable[[], Network], sizes: dict[str, Any], state: dict[str, Tensor], path: Path) -> Network:
    """The network with the tensors of a file, in evaluation mode and frozen."""
    for name in _COUNTS:  # a million layers would take an hour even without their tensors
        if isinstance(sizes.get(name), int) and sizes[name] > len(state):
            raise InputError(f"{path}: {name} = {sizes[name]} does not fit the {len(state)} tensors that it holds")
    try:
        with torch.device("meta"):
            network = make()
    except (ConfigError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: sizes that no such network has ({error})") from error
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    problems = [
        f"{what} {', '.join(keys[:4])}{f' and {len(keys) - 4} more' if len(keys) > 4 else ''}"
        for what, keys in (
            ("missing", sorted(expected.keys() - found.keys())),
            ("unexpected", sorted(found.keys() - expected.keys())),
            ("of another shape", [
                f"{key} {found[key]} instead of {expected[key]}"
                for key in sorted(found.keys() & expected.keys()) if found[key] != expected[key]
            ]),
        ) if keys
    ]  # fmt: skip
    if problems:
        raise InputError(f"{path}: tensors do not fit the configuration: {'; '.join(problems)}")
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)
