"""Checkpoints say what made them; what is exported is the mean of weights, and loads where models are loaded."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tests.training.child import TOY
from tests.training.clips import MICRO, ToyTask, world_task, write_world

from mosaicmem.errors import ConfigError, InputError
from mosaicmem.models.checkpoint import load_world, read_header
from mosaicmem.models.world_model import WorldNetwork
from mosaicmem.training.checkpoint import (
    FORMAT,
    LATE,
    between,
    copy_weights,
    export_weights,
    load_checkpoint,
    start_from,
    write_weights,
)
from mosaicmem.training.loop import TrainConfig, fit


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    fit(world_task(write_world(folder / "data", 1)), TrainConfig(steps=2, seed=5), folder / "run")
    return folder / "run"


def header_of(path):
    with safe_open(str(path), "pt") as file:
        return json.loads(file.metadata()["mosaicmem"])


def test_the_header_says_what_made_it(run):
    header = header_of(run / "checkpoint.safetensors")
    assert header["format"] == FORMAT
    assert header["step"] == 2 and header["seconds"] > 0
    assert header["loop"] == asdict(TrainConfig(steps=2, seed=5))
    assert header["task"]["task"] == "world"
    assert header["task"]["model"] == json.loads(json.dumps(MICRO.to_dict()))
    assert header["task"]["settings"]["no_memory"] == 0.12
    assert header["task"]["data"] == {"clips": 1, "first": "0", "last": "0"}
    assert header["provenance"]["torch"] == torch.__version__
    assert set(header["provenance"]) >= {"mosaicmem", "torch", "python"}


def test_what_is_exported_is_the_mean_and_loads_as_a_model(run, tmp_path):
    file = export_weights(run, tmp_path / "world.safetensors", extra={"name": "micro"})
    assert export_weights(run / "checkpoint.safetensors", tmp_path / "b.safetensors", half=False).is_file()
    kept, exported = load_file(run / "checkpoint.safetensors"), load_file(file)
    assert exported.keys() == {k.removeprefix("ema.") for k in kept if k.startswith("ema.")}
    for name, value in exported.items():
        assert value.dtype == torch.float16
        assert torch.equal(value, kept[f"ema.{name}"].half()), name
    assert any(not torch.equal(kept[f"ema.{n}"].half(), kept[f"weights.{n}"].half()) for n in exported)
    assert read_header(file)["task"] == header_of(run / "checkpoint.safetensors")["task"]
    model = load_world(file)
    assert model.name == "micro" and model.network.config == MICRO
    copied = copy_weights(file, tmp_path / "deep" / "copy.safetensors", {"name": "other"})
    assert load_world(copied).name == "other"
    assert torch.equal(load_file(copied)["gain"], exported["gain"])


def test_what_is_no_checkpoint_is_refused(run, tmp_path):
    half = tmp_path / "half.safetensors"
    content = (run / "checkpoint.safetensors").read_bytes()
    half.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="no checkpoint"):
        export_weights(half, tmp_path / "out.safetensors")
    exported = export_weights(run, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="no averaged weights"):
        export_weights(exported, tmp_path / "again.safetensors")
    other = tmp_path / "other.safetensors"
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, other)
    with pytest.raises(InputError, match=FORMAT):
        load_checkpoint(other, ToyTask().module, {}, [], {})
    assert not (tmp_path / "out.safetensors").exists() and not (tmp_path / "again.safetensors").exists()


def test_a_killed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    fit(ToyTask(), TOY, tmp_path)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.replace", die)
    monkeypatch.setattr("os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        fit(ToyTask(), replace(TOY, steps=41), tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before


def test_a_training_begins_with_the_mean_of_anothers_weights(run, tmp_path):
    averaged = {k[4:]: v for k, v in load_file(run / "checkpoint.safetensors").items() if k.startswith("ema.")}
    exported = export_weights(run, tmp_path / "world.safetensors", half=False)
    for source in (run, run / "checkpoint.safetensors", exported):
        module = world_task(write_world(tmp_path / "data", 1)).module
        assert any(not torch.equal(v, averaged[k]) for k, v in module.state_dict().items())
        start_from(source, module)
        assert all(torch.equal(v, averaged[k]) for k, v in module.state_dict().items())
    with pytest.raises(ConfigError, match="another network"):
        start_from(exported, ToyTask().module)
    with pytest.raises(InputError, match="no such weights"):
        start_from(tmp_path / "nowhere", ToyTask().module)
    folder = tmp_path / "exported"
    folder.mkdir()
    for name in ("world", "vae"):
        (folder / f"{name}.safetensors").write_bytes(exported.read_bytes())
    with pytest.raises(InputError, match=r"name one of vae\.safetensors, world\.safetensors$"):
        start_from(folder, ToyTask().module)


def test_weights_from_before_subframes_begin_a_training_that_reads_them(run, tmp_path):
    """What they lack starts at zero, as it does in a new network; everything else must be there."""
    exported = export_weights(run, tmp_path / "world.safetensors", half=False)
    weights, model = load_file(exported), replace(MICRO, memory_subframes=12)
    paths = write_world(tmp_path / "data", 1)
    for source in (run, exported):
        module = world_task(paths, model=model).module
        start_from(source, module)
        state = module.state_dict()
        late = {k for k in state if "subframe_embedding" in k}
        assert len(late) == 2 and state.keys() - weights.keys() == late
        assert all(torch.equal(state[k], v) for k, v in weights.items())
        assert not any(state[k].any() for k in late)
    learned = {**weights, **{k: torch.ones_like(state[k]) for k in late}}
    write_weights(tmp_path / "learned.safetensors", learned, {"format": FORMAT})
    start_from(tmp_path / "learned.safetensors", module)
    assert all(bool((module.state_dict()[k] == 1).all()) for k in late), "where they have it, it counts"
    with pytest.raises(ConfigError, match="another network"):  # it would be lost
        start_from(tmp_path / "learned.safetensors", world_task(paths).module)
    del weights["transformer.proj_out.weight"]
    write_weights(tmp_path / "less.safetensors", weights, {"format": FORMAT})
    with pytest.raises(ConfigError, match="another network"):
        start_from(tmp_path / "less.safetensors", module)


def test_weights_between_two_are_their_weighted_mean(run, tmp_path):
    first = export_weights(run, tmp_path / "first.safetensors")
    old = {k: torch.full_like(v, 2.0) for k, v in load_file(first).items()}
    write_weights(tmp_path / "old.safetensors", old, {"format": FORMAT, "step": 7})
    mixed = between(first, tmp_path / "old.safetensors", 0.75, tmp_path / "mixed.safetensors")
    for name, value in load_file(mixed).items():
        expected = 0.75 * load_file(first)[name].float() + 0.5
        torch.testing.assert_close(value.float(), expected, rtol=2e-3, atol=1e-4)
    assert read_header(mixed)["between"]["other"]["step"] == 7 and read_header(mixed)["between"]["share"] == 0.75
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        between(first, first, 1.5, tmp_path / "no.safetensors")


def test_what_one_side_is_too_old_to_have_counts_as_a_training_begins_with_it(run, tmp_path):
    """Between a network and itself from before its late parts lie its late parts, `share` of the way from no effect."""
    old = export_weights(run, tmp_path / "old.safetensors", half=False)
    grown = replace(MICRO, memory_subframes=12, memory_in_place=True, memory_age=True)
    header = read_header(old)
    header["task"]["model"] = grown.to_dict()
    torch.manual_seed(1)
    network = WorldNetwork(grown, 12)
    fresh = {k: v for k, v in network.state_dict().items() if any(name in k for name in LATE)}
    assert len(fresh) == 9 and {float(v.min()) for v in fresh.values()} == {0.0, 1.0}, "a gate begins open"
    young = {**load_file(old), **{k: torch.randn_like(v) for k, v in fresh.items()}}
    new = write_weights(tmp_path / "new.safetensors", young, header)
    before = torch.get_rng_state()
    mixed = load_file(between(new, old, 0.25, tmp_path / "mixed.safetensors"))
    assert torch.equal(torch.get_rng_state(), before)
    for k, v in young.items():
        torch.testing.assert_close(mixed[k], 0.25 * v + 0.75 * fresh.get(k, v), rtol=1e-6, atol=1e-7)
    ungated = {k: v for k, v in young.items() if "place_gate" not in k}
    write_weights(tmp_path / "ungated.safetensors", ungated, header)
    gate = "transformer.place_gate.bias"
    for share, expected in ((0.0, torch.ones(4)), (1.0, young[gate])):
        end = load_file(between(new, tmp_path / "ungated.safetensors", share, tmp_path / "end.safetensors"))
        assert torch.equal(end[gate], expected)
        assert torch.equal(end["transformer.place_answer.bias"], young["transformer.place_answer.bias"])
    with pytest.raises(ConfigError, match="another network"):
        between(old, new, 0.5, tmp_path / "no.safetensors")
    write_weights(tmp_path / "unsaid.safetensors", young, {"format": FORMAT})
    with pytest.raises(InputError, match="no weights of this package"):
        between(tmp_path / "unsaid.safetensors", old, 0.5, tmp_path / "no.safetensors")
    less = {k: v for k, v in load_file(old).items() if "proj_out.bias" not in k}
    write_weights(tmp_path / "less.safetensors", less, header)
    with pytest.raises(ConfigError, match="another network"):
        between(new, tmp_path / "less.safetensors", 0.5, tmp_path / "no.safetensors")
    assert not (tmp_path / "no.safetensors").exists()
