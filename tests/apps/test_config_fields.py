"""Every setting does something: for each field, two values give two results."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mosaicmem.apps.cli.config import Config
from mosaicmem.apps.cli.output import sha256
from mosaicmem.io.files import read_image
from mosaicmem.io.video import read_video

RECALL, REMEMBER, GENERATE, DEMO = "recall", "remember", "generate", "demo"
WALK, FILM = "generate --model", "demo --model"  # of a trained model

# field: the command whose result it changes, another value, and settings under which it matters
VARIED: dict[str, tuple[str, object, tuple[str, ...]]] = {
    "grid.stride": (REMEMBER, 2, ()),
    "grid.patch": (REMEMBER, 4, ()),
    "lifting.near": (REMEMBER, 0.95, ()),
    "lifting.flying_ratio": (REMEMBER, 0.0, ()),
    "lifting.edge_ratio": (REMEMBER, 1.2, ()),
    "lifting.edge_spacing": (REMEMBER, 3, ("lifting.edge_ratio=1.2",)),
    "retrieval.max_sources": (RECALL, 1, ()),
    "retrieval.pool": (RECALL, 2, ("retrieval.max_sources=2",)),
    "retrieval.max_tokens": (RECALL, 3, ()),
    "retrieval.gain_min": (RECALL, 0.5, ()),
    "retrieval.near": (RECALL, 0.9, ()),
    "retrieval.tau": (RECALL, 0.0005, ()),
    "retrieval.tau_surface": (RECALL, 1e-5, ()),
    "retrieval.rho_max": (RECALL, 1.0, ()),
    "retrieval.min_weight": (RECALL, 1.0, ("retrieval.tau=0.01",)),
    "retrieval.min_cells": (GENERATE, 1.0, ()),
    "retrieval.refine_steps": (RECALL, 0, ()),
    "retrieval.view_angle": (RECALL, 0.01, ()),
    "retrieval.look_past": (RECALL, 0.0, ()),
    "retrieval.half_life": (RECALL, 0.001, ()),
    "video.fps": (RECALL, 7.0, ()),
    "video.panel": (RECALL, 96, ()),
    "video.sheet_rows": (RECALL, 2, ()),
    "generation.window_size": (GENERATE, 3, ("--without-memory",)),
    "generation.alignment": (WALK, "rope", ()),
    "generation.write_every": (WALK, 0, ()),
    "generation.min_novel": (WALK, 0.9, ()),
    "generation.only_novel": (WALK, True, ()),
    "generation.min_confidence": (WALK, 1.0, ()),
    "generation.anchor_noise": (WALK, 0.1, ()),
    "generation.refine": (WALK, 0.0, ()),
    "generation.agree": (WALK, 0.5, ()),
    "generation.memory_mb": (WALK, 0.0, ()),
    "sampling.steps": (WALK, 3, ()),
    "sampling.guidance": (WALK, 2.0, ()),
    "sampling.event_guidance": (WALK, 1.0, ("--event=4:the light goes out",)),
    "sampling.guidance_limit": (WALK, 0.001, ("--event=4:the light goes out",)),
    "sampling.event_steps": (WALK, 3, ("--event=4:the light goes out",)),
    "sampling.shift": (WALK, 1.0, ("--steps=2",)),
    "sampling.method": (WALK, "euler", ("--steps=3",)),
    "sampling.use_cameras": (WALK, False, ()),
    "seed": (DEMO, 1, ()),
    "demo.num_frames": (DEMO, 7, ()),
    "demo.width": (DEMO, 24, ()),
    "demo.height": (DEMO, 24, ()),
    "demo.remember_every": (DEMO, 1, ()),
    "demo.sway": (DEMO, 0.0, ()),
    "demo.world": (FILM, 900_001, ()),
    "demo.path": (FILM, "walk", ()),
}
ELSEWHERE = {
    "threads",  # below
    "device",  # changes no result but by rounding: test_device_option.py
    "retrieval.prefer",  # below: only exact ties ask for it
    "retrieval.edge",  # only what moves asks for it: varied in the laws of retrieval
    "retrieval.generated",  # short walks guess nothing that was seen as well: varied in the laws of retrieval
    "retrieval.key_step",  # matters to windows in a crowded memory: tests/memory/test_windows.py
    "generation.consistent",  # needs a depth that contradicts the first frame: tests/generation/test_trained.py
    "lifting.confidence_percentile",  # recordings carry no confidence; varied in the tests of lifting
}

# charts and maps show what the report says, and take most of the time
DRAWINGS = [("recall", "coverage_chart"), ("remember", "memory_map"), ("generate", "charts"), ("demo", "_chart")]
DRAWINGS += [("demo", "memory_map")]


def names(section, at=""):
    for f in dataclasses.fields(section):
        value = getattr(section, f.name)
        if dataclasses.is_dataclass(value):
            yield from names(value, f"{at}{f.name}.")
        else:
            yield f"{at}{f.name}"


def test_t6_no_field_is_missing_here():
    assert set(names(Config())) == set(VARIED) | ELSEWHERE


@pytest.fixture(scope="module")
def results():
    """Results by command and settings, so that the unvaried ones are computed once."""
    return {}


def fingerprint(folder):
    """What a person would notice in a result folder: numbers, pictures and their sizes; no timings."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".png":
            found[file.name] = (read_image(file).shape, sha256(file))
        elif file.suffix == ".mp4":
            found[file.name] = (read_video(file)[1], sha256(file))
        elif file.name == "report.json":
            report = json.loads(file.read_text())
            report.pop("timings_s", None)
            found[file.name] = json.dumps(report)
        elif file.suffix == ".safetensors":
            found[file.name] = sha256(file)
    return found


@pytest.mark.parametrize("name", VARIED)
def test_t6_every_field_changes_a_result(run, monkeypatch, recording, memory, path, tiny, tmp_path, results, name):
    command, other, base = VARIED[name]
    for module, drawing in DRAWINGS:
        monkeypatch.setattr(f"mosaicmem.apps.cli.{module}.{drawing}", lambda *_: np.zeros((2, 2, 3), np.uint8))

    def result(settings):
        key = (command, settings)
        if key not in results:
            out = tmp_path / f"out{len(results)}"
            argv = {
                RECALL: (memory, "-t", path, "--frames", "1::3", "--compare", recording),
                REMEMBER: (recording, "--frames", "0:6:2"),
                GENERATE: ("--memory", memory, "-t", path, "--model", "synthetic"),
                WALK: (tiny, "--image", recording / "image" / "00000.png", "-t", path, "--size", "48x32"),
                DEMO: ("--model", "synthetic"),
                FILM: (tiny,),
            }[command]
            size, frames = (32, 17) if command == FILM else (16, 5)
            quick = (
                f"demo.num_frames={frames}",
                f"demo.width={size}",
                f"demo.height={size}",
                "video.panel=16",
                *settings,
            )
            words = [word for text in quick for word in ((text,) if text.startswith("--") else ("--set", text))]
            ran = run(*command.split(), *argv, *words, "--out", out, "-q")
            assert ran.code == 0, ran.err
            results[key] = fingerprint(out)
        return results[key]

    text = json.dumps(other) if not isinstance(other, str) else other
    assert result(base) != result((*base, f"{name}={text}"))


def test_threads_are_set(run, monkeypatch, path):
    import torch

    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    assert run("lint", path, "--threads", 2).code == 0
    assert seen[0] == 2


def test_ties_between_old_and_new_memory_follow_the_preference(run, memory, tmp_path):
    """A memory spliced onto itself holds everything twice; the preference picks the copy."""
    twice = tmp_path / "twice"
    assert run("splice", memory, memory, "--transform", "0,0,0", "--out", twice).code == 0
    groups = run("inspect", memory, "--json").json["keyframes"]

    def kept(prefer):
        why = run("inspect", twice, "--why", 0, "--retrieval.prefer", prefer, "--json").json["why"]
        return [g["group"] for g in why["groups"] if g["decision"] == "kept"]

    assert all(g < groups for g in kept("older"))
    assert all(g >= groups for g in kept("newer"))
