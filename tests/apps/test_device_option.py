"""`--device`: every command that runs networks has it, all of its networks compute there, and results are the same."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pickle
import pkgutil
from typing import Any

import numpy as np
import pytest
import torch
from tests.apps.conftest import SIZE
from tests.elsewhere import META, PLACES, somewhere

import mosaicmem.apps.cli
from mosaicmem.apps.cli import train_export, world_import
from mosaicmem.apps.cli.backends import open_models, open_vae
from mosaicmem.apps.cli.bench_memory import Args
from mosaicmem.apps.cli.bench_options import open_loader
from mosaicmem.apps.cli.config import Config
from mosaicmem.apps.cli.console import Console
from mosaicmem.apps.cli.options import Common, Computing
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.train_data import _estimator
from mosaicmem.depth.alignment import ScaleAlignment
from mosaicmem.io.imports import Scan
from mosaicmem.models.depth_net import LearnedDepth
from mosaicmem.models.devices import home_of
from mosaicmem.models.video_vae import VideoVAE


def argument_classes() -> set[type]:
    """Arguments of all commands."""
    found = set()
    for module in pkgutil.iter_modules(mosaicmem.apps.cli.__path__, "mosaicmem.apps.cli."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Common):
                found.add(value)
    return found


def test_every_command_with_a_model_or_an_autoencoder_has_the_option() -> None:
    having = [c for c in argument_classes() if {"vae", "model"} & {f.name for f in dataclasses.fields(c)}]
    assert len(having) > 20
    without = [c for c in having if "device" not in {f.name for f in dataclasses.fields(c)}]
    assert without == [train_export.Args], "which reads weights and runs none"


def test_the_option_is_the_setting() -> None:
    ours, setting = ({f.name: f for f in dataclasses.fields(c)}["device"] for c in (Computing, Config))
    assert ours.default == setting.default == "cpu"


@pytest.fixture
def commands(recording, memory, path, tiny, tmp_path):
    """A command line of every kind that runs networks, as `tiny` or its autoencoder lets it."""
    image = recording / "image" / "00000.png"
    small = ("--vae", tiny)
    return {
        "generate": ("--model", tiny, "--image", image, "-t", path, "--size", "48x32", "--format", "npz"),
        "demo": ("--model", tiny, "--set", "demo.width=32", "--set", "demo.height=32"),
        "remember": (recording, *small),
        "recall": (memory, "-t", path),
        "visualize": (memory,),
        "splice": (memory, memory, "--offset", "1"),
        "export-ply": (memory,),
        "world export": (memory, "--format", "colmap"),
        "world import": (recording, tmp_path / "w.mosaic"),
        "edit mirror": (memory, "--all", "--normal", "0,1,0", "--about", "0,0,0", "--dry-run"),
        "bench": (*small, "--num-frames", 1),
        "bench memory": ("--model", tiny),
        "bench walk": ("--model", tiny),
        "bench prompts": ("--model", tiny),
        "bench memory --model synthetic": (),
        "explore --no-browser": ("--scene", 7, "--model", "synthetic", "--port", 0),
    }


def test_a_device_that_is_not_there_is_bad_usage(run, commands, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = {p.name for p in tmp_path.iterdir()}
    for i, (command, argv) in enumerate(commands.items()):
        where = () if command in ("world import", "edit mirror") else ("--out", tmp_path / f"out{i}.mosaic")
        ran = run(*command.split(), *argv, *where, "--device", "cuda:99")
        assert ran.code == 2, (command, ran.err)
        assert "device 'cuda:99': " in ran.err and "expected cpu, or a card that torch sees" in ran.err, command
    assert {p.name for p in tmp_path.iterdir()} == before, "nothing was written"


@pytest.mark.parametrize("place", PLACES)
def test_a_whole_command_computes_elsewhere(run, tiny, recording, path, tmp_path, place) -> None:
    argv = (
        "generate", "--model", tiny, "--image", recording / "image" / "00000.png", "-t", path,
        "--size", f"{SIZE[0]}x{SIZE[1]}", "--format", "npz", "--json", "-q",
    )  # fmt: skip
    here = run(*argv, "--out", tmp_path / "here")
    assert here.code == 0, here.err
    with somewhere(place) as at:
        away = run(*argv, "--out", tmp_path / "away", "--device", str(at))
    assert away.code == 0, away.err
    frames = [np.load(tmp_path / name / "frames.npz")["frames"].astype(int) for name in ("here", "away")]
    assert np.mean(np.abs(frames[0] - frames[1]) > 1) < 0.01
    assert ", on " not in here.json["note"] and away.json["note"] == f"{here.json['note']}, on {at}"
    made = json.loads((tmp_path / "away" / "run.json").read_text())
    assert made["config"]["device"] == str(at) and f"on {at}" in made["backend"]


def test_a_settings_file_names_the_device_and_the_option_wins(run, recording, tiny, tmp_path) -> None:
    file = tmp_path / "s.toml"
    file.write_text('device = "cuda:99"\n')
    argv = ("remember", recording, "--vae", tiny, "--frames", "0", "--config", file, "--out", tmp_path / "m")
    refused = run(*argv)
    assert refused.code == 2 and "cuda:99" in refused.err
    assert run(*argv, "--device", "cpu").code == 0


def test_memory_is_made_and_shown_by_an_autoencoder_elsewhere(run, recording, path, tiny, tmp_path) -> None:
    def shown(name: str, *device: object) -> dict:
        kept = tmp_path / name
        ran = run("remember", recording, "--vae", tiny, "--frames", "::3", "--out", kept, *device)
        assert ran.code == 0, ran.err
        ran = run(
            "recall", kept, "-t", path, "--compare", recording, "--out", tmp_path / f"{name}.r", "--json", *device
        )
        assert ran.code == 0, ran.err
        return ran.json["mean"]

    here = shown("here")
    with somewhere("elsewhere"):
        away = shown("away", "--device", "meta")
    assert here == pytest.approx(away, rel=1e-4)


def session_on(device: str) -> Session:
    return Session("generate", [], Common(), Config(device=device), Console(quiet=True))


def test_every_network_that_a_command_opens_lies_there(tiny) -> None:
    with somewhere("elsewhere"):
        session = session_on("meta")
        models = open_models(str(tiny), session)
        opened: list[Any] = [
            open_vae(tiny, session), models.vae, models.refiner, models.generator.network, models.depth.network,  # type: ignore[union-attr]
            _estimator(str(tiny / "depth.safetensors"), "meta").network,  # type: ignore[union-attr]
        ]  # fmt: skip
        assert [home_of(network).type for network in opened] == ["meta"] * len(opened)
    assert home_of(open_vae(tiny, session_on("cpu"))).type == "cpu"  # type: ignore[arg-type]


def test_depth_of_an_import_is_estimated_there(run, memory, tiny, tmp_path, monkeypatch) -> None:
    class Seen(world_import.EstimatedDepth):
        def __init__(self, scan: Scan, network: LearnedDepth) -> None:
            super().__init__(scan, network)
            devices.append(home_of(network.network).type)

    devices: list[str] = []
    monkeypatch.setattr(world_import, "EstimatedDepth", Seen)
    found = ScaleAlignment(1.0, 1.0, 0.0, "median")  # random weights agree with no point
    monkeypatch.setattr("mosaicmem.apps.cli.import_depth.align_scale", lambda *_, **__: found)
    monkeypatch.setattr("mosaicmem.models.presets.shipped", lambda part: tiny / f"{part}.safetensors")
    assert run("world", "export", memory, tmp_path / "scan", "--format", "colmap").code == 0
    argv = ("--vae", tiny, "--depth", "network", "--size", "48x32", "--device", "meta", "--json")
    with somewhere("elsewhere"):
        ran = run("world", "import", tmp_path / "scan", tmp_path / "w.mosaic", *argv)
    assert ran.code == 0 and ran.json["depth"] == "network", ran.err
    assert devices == ["meta"]


def test_processes_of_a_benchmark_load_the_model_there(tiny) -> None:
    def opened(device: str):
        args = Args(model=str(tiny), device=device)
        return open_loader(args, Session("bench memory", [], args, Config(device=device), Console(quiet=True)))

    with somewhere("elsewhere"):
        models = pickle.loads(pickle.dumps(opened("meta")))()
        assert isinstance(models.vae, VideoVAE) and home_of(models.vae) == META
    vae = opened("cpu")().vae
    assert isinstance(vae, VideoVAE) and home_of(vae) == torch.device("cpu")
