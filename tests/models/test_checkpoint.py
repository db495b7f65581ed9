"""Networks come back from files as they were; a file that is none, or of something else, is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mosaicmem.errors import ConfigError, InputError, MissingWeightsError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.models import checkpoint, presets
from mosaicmem.models.checkpoint import load_depth, load_transformer, load_vae, load_world, read_header
from mosaicmem.models.depth_net import DepthNet, DepthNetConfig
from mosaicmem.models.transformer import TransformerConfig, VideoTransformer
from mosaicmem.models.video_vae import VideoVAE, VideoVAEConfig
from mosaicmem.models.world_model import WorldNetwork
from mosaicmem.training import checkpoint as training_checkpoint

SIZES = TransformerConfig(
    num_attention_heads=2, in_channels=4, out_channels=4, text_dim=16, freq_dim=32, ffn_dim=48, num_layers=2
)


def make(part: str) -> nn.Module:
    torch.manual_seed(0)
    if part == "vae":
        network = VideoVAE(VideoVAEConfig(channels=4, image_widths=(8, 8), group_widths=(8, 8), blocks=1))
    elif part == "depth":
        network = DepthNet(DepthNetConfig((8, 8, 48), 1))
    else:
        network = WorldNetwork(SIZES, words=12)
    for value in network.state_dict().values():
        value.copy_(value + 0.1 * torch.randn_like(value))
    return network


def write(path: Path, part: str, network: nn.Module, *, half: bool = True, **changes: Any) -> Path:
    """As `training.checkpoint.export_weights` writes it."""
    assert isinstance(network, VideoVAE | DepthNet | WorldNetwork)
    task: dict[str, Any] = {"task": part, "settings": {}, "model": network.config.to_dict(), "data": {}}
    task |= {"words": 12} if part == "world" else {}
    header = {"format": checkpoint.FORMAT, "task": {**task, **changes.pop("task", {})}, "step": 7, **changes}
    state = {k: (v.half() if half else v).contiguous() for k, v in network.state_dict().items()}
    save_file(state, path, {"mosaicmem": json.dumps(header)})
    return path


LOAD: dict[str, Callable[[Path], Any]] = {"vae": load_vae, "depth": load_depth, "world": load_world}


def network_of(loaded: Any) -> nn.Module:
    return loaded if isinstance(loaded, nn.Module) else loaded.network


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("part", list(LOAD))
def test_a_network_comes_back_as_it_was(tmp_path, part, half):
    network = make(part)
    loaded = network_of(LOAD[part](write(tmp_path / f"{part}.safetensors", part, network, half=half)))
    assert not loaded.training
    state = loaded.state_dict()
    assert state.keys() == network.state_dict().keys()
    for key, value in network.state_dict().items():
        assert state[key].dtype == torch.float32
        assert torch.equal(state[key], value.half().float() if half else value), key
    assert not any(p.requires_grad for p in loaded.parameters())
    assert read_header(tmp_path / f"{part}.safetensors")["step"] == 7


def test_an_export_of_a_training_loads(tmp_path):
    assert checkpoint.FORMAT == training_checkpoint.FORMAT
    network = make("vae")
    ema = {k: v + 1 for k, v in network.state_dict().items()}
    assert isinstance(network, VideoVAE)
    header = {"task": {"task": "vae", "model": network.config.to_dict()}}
    full = tmp_path / "checkpoint.safetensors"
    training_checkpoint.save_checkpoint(full, network, ema, [], header)
    loaded = load_vae(training_checkpoint.export_weights(full, tmp_path / "vae.safetensors", half=False))
    assert torch.equal(loaded.image.project.weight, ema["image.project.weight"])
    with pytest.raises(InputError, match="export_weights"):
        load_vae(full)


def test_loading_draws_no_random_numbers(tmp_path, monkeypatch):
    """On the meta device torch would load its compiler for them, which takes longer than all the rest."""
    path = write(tmp_path / "world.safetensors", "world", make("world"))

    def refuse(*_args, **_options) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr(torch, "randn", refuse)
    monkeypatch.setattr(Tensor, "normal_", refuse)
    load_world(path)
    with pytest.raises(AssertionError, match="drawn"):
        make("world")


def test_a_generator_is_named_by_its_file_its_header_or_the_caller(tmp_path):
    path = write(tmp_path / "some.safetensors", "world", make("world"))
    assert load_world(path).label == "[trained:some]"
    assert load_world(path, name="other", use_memory=False).name == "other"
    assert not load_world(path, use_memory=False).use_memory
    named = write(tmp_path / "x.safetensors", "depth", make("depth"), name="rooms")
    depth = load_depth(named)
    camera = Cameras.from_fov(torch.eye(4)[None], 16, 16)
    assert depth.estimate(torch.zeros(1, 3, 16, 16), camera).info.model == "rooms"


def test_absent_weights_are_said_to_be_absent(tmp_path):
    for load in LOAD.values():
        with pytest.raises(MissingWeightsError, match="no such file"):
            load(tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="is a folder"):
        load_vae(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "expected format mosaicmem-training-1, got 'other'"),
        ({"task": {"task": "depth"}}, "holds a network for 'depth'; expected one for 'vae'"),
        ({"task": {"model": {"channels": 5}}}, "vae.safetensors: tensors do not fit .* of another shape .*"),
        ({"task": {"model": {"colours": 5}}}, "sizes that no such network has"),
        ({"task": {"model": {"stride": 7}}}, "sizes that no such network has"),
        ({"task": {"model": {"blocks": 10**9}}}, "blocks = 1000000000 does not fit"),
        ({"task": {"model": "small"}}, "holds a network"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, changes, message):
    path = write(tmp_path / "vae.safetensors", "vae", make("vae"), **changes)
    with pytest.raises(InputError, match=message):
        load_vae(path)


def test_files_that_are_none_are_refused(tmp_path):
    path = write(tmp_path / "vae.safetensors", "vae", make("vae"))
    whole = path.read_bytes()
    for data in (b"", whole[:100], whole[:-10], b"PK\x03\x04" + whole[4:]):
        path.write_bytes(data)
        with pytest.raises(InputError, match="not a readable safetensors file"):
            load_vae(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="no weights of this package"):
        load_vae(path)


@pytest.mark.parametrize("value", [torch.full((2, 4), torch.nan), torch.zeros(2, 4, dtype=torch.int32)])
def test_weights_that_are_no_numbers_are_refused(tmp_path, value):
    network = make("vae")
    path = write(tmp_path / "vae.safetensors", "vae", network)
    state, header = load_file(path), read_header(path)
    save_file(state | {"mean": value}, path, {"mosaicmem": json.dumps(header)})
    with pytest.raises(InputError, match=r"weight 'mean'.*not finite"):
        load_vae(path)


def test_a_file_too_large_is_not_opened(tmp_path, monkeypatch):
    path = write(tmp_path / "vae.safetensors", "vae", make("vae"))
    monkeypatch.setattr(checkpoint, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="expected at most 100"):
        load_vae(path)


def test_the_package_says_where_its_weights_are(tmp_path):
    assert presets.shipped("vae").name == "vae.safetensors"
    assert presets.shipped("world").parent.parent == Path(presets.__file__).parents[1]
    assert {presets.weights_file(tmp_path, part).parent for part in presets.PARTS} == {tmp_path}
    assert not presets.weights_file(tmp_path, "vae").exists()


def test_published_sizes_have_the_published_number_of_parameters():
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in VideoTransformer(config).parameters())
            for config in (presets.WAN_2_2_TI2V_5B, presets.WAN_2_1_T2V_1B)
        ]
    assert counts[0] == 4_999_787_712
    assert counts[1] == 1_418_996_800


def folder(tmp_path: Path, config: dict[str, Any] | None = None, **drop: Any) -> tuple[Path, dict[str, Tensor]]:
    torch.manual_seed(1)
    state = {k: v.contiguous() for k, v in VideoTransformer(SIZES).state_dict().items()}
    (tmp_path / "config.json").write_text(json.dumps({**SIZES.to_dict(), **(config or {})}))
    save_file(state, tmp_path / checkpoint.WEIGHTS_FILE)
    return tmp_path, state


def equal(network: nn.Module, state: dict[str, Tensor]) -> bool:
    mine = network.state_dict()
    return mine.keys() == state.keys() and all(torch.equal(mine[k], state[k]) for k in state)


def test_a_sharded_folder_and_a_pipeline_load_like_one_file(tmp_path):
    (tmp_path / "transformer").mkdir()
    where, state = folder(tmp_path / "transformer")
    assert equal(load_transformer(where), state)
    assert equal(load_transformer(tmp_path), state)
    keys = sorted(state)
    names = {key: f"diffusion_pytorch_model-0000{i % 2 + 1}-of-00002.safetensors" for i, key in enumerate(keys)}
    for name in set(names.values()):
        save_file({key: state[key] for key in keys if names[key] == name}, where / name)
    (where / checkpoint.INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    (where / checkpoint.WEIGHTS_FILE).unlink()
    assert equal(load_transformer(where), state)
    (where / names[keys[0]]).unlink()
    with pytest.raises(MissingWeightsError, match="0000"):
        load_transformer(where)
    (where / checkpoint.INDEX_FILE).write_text(json.dumps({"weight_map": {"a": "../../a.safetensors"}}))
    with pytest.raises(InputError, match="outside"):
        load_transformer(where)
    (where / checkpoint.INDEX_FILE).write_text(json.dumps({"weight_map": ["a"]}))
    with pytest.raises(InputError, match="no weight_map"):
        load_transformer(where)


def test_sixteen_bits_keep_float32_where_it_matters(tmp_path):
    where, _ = folder(tmp_path)
    network = load_transformer(where, dtype=torch.bfloat16)
    kinds = {k: v.dtype for k, v in network.state_dict().items()}
    wide = {k for k, v in kinds.items() if v == torch.float32}
    assert wide == {k for k in kinds if "time_embedder" in k or "scale_shift_table" in k or ".norm2." in k}
    assert set(kinds.values()) == {torch.float32, torch.bfloat16}


def test_overrides_are_settings_and_the_branch_starts_at_zero(tmp_path):
    where, state = folder(tmp_path)
    network = load_transformer(where, prope_layout="branch", checkpointing=True)
    assert network.config.prope_layout == "branch" and network.config.checkpointing
    added = {k: v for k, v in network.state_dict().items() if k not in state}
    assert set(added) == {f"blocks.{i}.attn1.to_out_prope.{w}" for i in range(2) for w in ("weight", "bias")}
    assert not any(bool(v.any()) for v in added.values())
    with pytest.raises(ConfigError, match=r"unknown settings.*colour"):
        load_transformer(where, colour=3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"colour": 3}, "unknown settings of a transformer: colour"),
        ({"image_dim": 1280}, "image_dim = 1280 is not supported"),
        ({"num_layers": "two"}, "num_layers = 'two': expected a value like 6"),
        ({"num_layers": 3}, r"missing blocks.2.attn1.* and \d+ more"),
        ({"num_layers": 1}, "unexpected blocks.1.attn1"),
        ({"ffn_dim": 50}, r"blocks.0.ffn.net.0.proj.bias \(48,\) instead of \(50,\)"),
        ({"num_layers": 10**9}, "num_layers = 1000000000 does not fit"),
        ({"patch_size": [1, 2]}, "patch_size"),
        ({"eps": None}, "eps = None"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused_by_name(tmp_path, config, message):
    where, _ = folder(tmp_path, config)
    with pytest.raises(InputError, match=message):
        load_transformer(where)


def test_a_folder_without_its_files_says_which(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"config\.json"):
        load_transformer(tmp_path)
    where, _ = folder(tmp_path)
    (where / checkpoint.WEIGHTS_FILE).unlink()
    with pytest.raises(MissingWeightsError, match=r"diffusion_pytorch_model\.safetensors"):
        load_transformer(where)
    (where / "config.json").write_text("[]")
    with pytest.raises(InputError, match="object of settings"):
        load_transformer(where)
