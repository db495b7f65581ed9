"""`mosaicmem train`: every part in sequence from nothing, resumed, refused, and the model that comes out of it."""

from __future__ import annotations

import json

import pytest
import torch
from tests.training.clips import make_clip
from tests.training.test_posed_video import write_entry

from mosaicmem.apps.cli import train_data, train_fit
from mosaicmem.apps.cli.main import main
from mosaicmem.apps.cli.train import PARTS
from mosaicmem.generation.backend import load_models
from mosaicmem.models.checkpoint import load_depth, load_vae, load_world, read_header
from mosaicmem.training.cache import HELD_FOLDER, ClipCache, write_clip
from mosaicmem.training.loop import Progress, TrainConfig
from mosaicmem.worlds.builder import make_scene
from mosaicmem.worlds.episodes import events_of, make_episode

VAE = "--task.crop 16 --task.batch 2 --model.channels 4 --model.image-widths 8 8 --model.group-widths 8 8"
DEPTH = "--model.widths 8 8 24 --model.attention 1 --task.batch 2"
WORLD = (
    "--model.in-channels 4 --model.out-channels 4 --model.num-attention-heads 1 --model.attention-head-dim 32 "
    "--model.text-dim 16 --model.num-layers 1 --model.ffn-dim 32 --model.freq-dim 16 --task.batch 2 --words 12"
)
REFINER = "--model.channels 4 --model.width 8 --model.blocks 1 --task.batch 2 --task.windows 4 --task.pixel-cells 2"


@pytest.fixture
def run(capsys):
    def runner(line, *paths):
        capsys.readouterr()
        threads = torch.get_num_threads()
        try:
            code = main([*line.split(), *map(str, paths)])
        finally:
            torch.set_num_threads(threads)
        return code, *capsys.readouterr()

    return runner


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "clips"
    (folder / HELD_FOLDER).mkdir(parents=True)
    for seed in range(2):
        write_clip(folder / f"{seed}.safetensors", make_clip(seed, size=48))
    write_clip(folder / HELD_FOLDER / "7.safetensors", make_clip(7, size=48))
    return folder


def test_from_nothing_to_a_model(run, data, tmp_path):
    def fine(line, *paths):
        code, out, err = run(f"train {line} --json -q", *paths)
        assert code == 0, err
        return json.loads(out)

    first = fine(f"vae {VAE} --steps 2", "--data", data, "--out", tmp_path / "vae")
    assert (first["step"], first["finished"], first["task"]) == (2, True, "vae")
    assert "held_out_image" in first["last"]
    again = fine(f"vae {VAE} --steps 3", "--data", data, "--out", tmp_path / "vae")
    assert (again["step"], again["command"]) == (3, "train vae")
    assert fine(f"depth {DEPTH} --steps 1", "--data", data, "--out", tmp_path / "depth")["step"] == 1
    coded = fine("encode", "--vae", tmp_path / "vae", "--data", data, "--out", tmp_path / "latents")
    assert (coded["clips"], coded["held_out"], coded["channels"]) == (2, 1, 4)
    world = fine(f"world {WORLD} --steps 1 --lr 0.002", "--latents", tmp_path / "latents", "--out", tmp_path / "world")
    assert world["step"] == 1 and "held_out_with_memory" in world["last"]
    assert {p.name for p in (tmp_path / "world").iterdir()} == set(train_fit.WRITTEN) - {"picture.png"}
    record = json.loads((tmp_path / "world" / "run.json").read_text())
    assert record["config"]["model"]["num_layers"] == 1 and record["seed"] == 42
    behind = ("--latents", tmp_path / "latents", "--world", tmp_path / "world", "--out", tmp_path / "refiner")
    refined = fine(f"refiner {REFINER} --steps 2", *behind)
    assert refined["step"] == 2 and {"held_out_made_psnr", "held_out_refined_psnr"} <= set(refined["last"])
    assert {p.name for p in (tmp_path / "refiner").iterdir()} == set(train_fit.WRITTEN)
    parts = ("vae", "depth", "world", "refiner")
    sources = [x for part in parts for x in (f"--{part}", tmp_path / ("latents" if part == "vae" else part))]
    exported = fine("export --name micro", *sources, "--out", tmp_path / "model")
    assert exported["parts"]["world"]["task"]["settings"]["seed"] == 42
    whole = load_models(tmp_path / "model")
    assert whole.refiner is not None and whole.refiner.config.width == 8
    vae, depth, model = (tmp_path / "model" / f"{name}.safetensors" for name in ("vae", "depth", "world"))
    vae, depth, model = load_vae(vae), load_depth(depth), load_world(model)
    assert vae.kernel is not None  # fitted by `encode`, and exported
    assert depth.name == model.name == "micro"
    mixed = ("--world", tmp_path / "world", "--between", tmp_path / "model" / "world.safetensors")
    assert fine("export --share 0.3", *mixed, "--out", tmp_path / "mixed")["parts"].keys() == {"world"}
    assert read_header(tmp_path / "mixed" / "world.safetensors")["between"]["share"] == 0.3
    more = ("--start-from", tmp_path / "model" / "world.safetensors", "--out", tmp_path / "more")
    assert fine(f"world {WORLD} --steps 1", "--latents", tmp_path / "latents", *more)["step"] == 1
    kept = (f"world {WORLD} --steps 1 --task.keep 2", "--latents", tmp_path / "latents", "--out", tmp_path / "kept")
    assert fine(*kept, "--start-from", tmp_path / "world", "--teacher", tmp_path / "model")["step"] == 1
    for words, said in (
        ("--task.keep 2", "--start-from or --teacher"),
        (f"--teacher {tmp_path / 'model'}", "--task.keep above 0"),
        ("--words 0", "--words 0: expected 1 or more"),
        ("--clips 0", "--clips 0: expected 1 or more"),
        ("--clips -1", "--clips -1: expected 1 or more"),
    ):
        code, _, err = run(f"train world {WORLD} {words}", "--latents", tmp_path / "latents", "--out", tmp_path / "no")
        assert code == 2 and said in err
    for part, words, code, said in (
        ("encode", "--measured 0", 2, "--measured 0: expected 1 or more"),
        ("encode", "--clips -1", 2, "--clips -1: expected 1 or more"),
        (f"vae {VAE}", "--clips 0", 2, "--clips 0: expected 1 or more"),
        (f"vae {VAE}", "--task.crop 64", 3, ".safetensors: 48 pixels wide, crop = 64"),
    ):
        given = ("--vae", tmp_path / "vae") if part == "encode" else ()
        got, _, err = run(f"train {part} {words}", *given, "--data", data, "--out", tmp_path / "no")
        assert got == code and said in err, err
    between = ("--between", tmp_path / "model" / "world.safetensors", "--world", tmp_path / "world")
    code, _, err = run("train export --overwrite", *between, "--out", tmp_path / "model")
    assert code == 2 and "holds the input" in err, err
    gain = torch.tensor(coded["gain"])
    assert torch.allclose(model.network.gain, gain, rtol=1e-3)
    assert torch.allclose(vae.std, torch.tensor(coded["std"]))
    code, _, err = run("train export", "--vae", tmp_path / "vae", "--out", tmp_path / "other")
    assert code == 2 and "mean and spread" in err and not (tmp_path / "other").exists()


def test_a_run_is_never_replaced_unasked(run, data, tmp_path):
    start = f"train vae {VAE} --steps 1 -q --json"
    paths = ("--data", data, "--out", tmp_path / "run")
    assert run(start, *paths)[0] == 0
    code, out, _ = run(f"{start} --task.noise 0.5", *paths)
    assert code == 2 and "settings.noise was 0.03, is 0.5" in json.loads(out)["error"]["message"]
    code, out, _ = run(f"{start} --seed 7", *paths)
    assert code == 2 and "seed was 42, is 7" in json.loads(out)["error"]["message"]
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    for refused in (
        ("--data", tmp_path / "none"),
        (*paths[:2], "--device", "nonsense"),
        (*paths[:2], "--start-from", "x"),
    ):
        assert run(f"{start} --seed 7 --overwrite", *refused, *paths[2:])[0] in (2, 3)
        assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before, "of a run that cannot begin"
    assert run(f"{start} --seed 7 --overwrite", *paths)[0] == 0
    assert run(f"{start} --seed 7 --overwrite --start-from", tmp_path / "run", *paths)[0] == 0, "from its own weights"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    code, _, err = run(f"{start} --overwrite", "--data", data, "--out", tmp_path / "mine")
    assert code != 0 and "no training" in err
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_settings_come_from_a_file_too_and_a_training_has_one_seed(run, data, tmp_path):
    file = tmp_path / "train.toml"
    file.write_text("seed = 5\n[loop]\nsteps = 1\nlr = 0.25\n[task]\nbatch = 2\ncrop = 16\n[model]\nblocks = 1\n")
    code, _, err = run("train vae -q", "--config", file, "--data", data, "--out", tmp_path / "run")
    assert code == 0, err
    config = json.loads((tmp_path / "run" / "run.json").read_text())["config"]
    assert (config["loop"]["lr"], config["task"]["batch"], config["model"]["blocks"]) == (0.25, 2, 1)
    code, _, err = run("train vae -q --set loop.seed=3", "--config", file, "--data", data, "--out", tmp_path / "b")
    assert code == 2 and "one seed" in err
    code, _, err = run("train vae --set loop.lrr=3", "--data", data, "--out", tmp_path / "b")
    assert code == 2 and "did you mean loop.lr?" in err


def test_what_is_missing_is_named_with_what_makes_it(run, data, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for line, paths, hint in (
        ("vae --steps 1", ("--data", empty, "--out", tmp_path / "a"), "mosaicmem train data"),
        ("world --steps 1", ("--latents", empty, "--out", tmp_path / "a"), "mosaicmem train encode"),
        ("vae --steps 1", ("--data", data), "--out"),
        ("encode --vae x", ("--data", data), "--out"),
        ("encode --vae x", ("--data", data, "--out", tmp_path / "a"), "checkpoint.safetensors"),
        ("export", ("--out", tmp_path / "a"), "nothing to export"),
        ("export", ("--between", tmp_path, "--depth", tmp_path, "--out", tmp_path / "a"), "Give --world too"),
        ("data --seeds 5", (), "first:end"),
        ("data --seeds 900000:900001", ("--out", tmp_path / "a"), "held out"),
        ("data --held-out -1", (), "--held-out"),
        ("data --videos nowhere", (), "--out"),
    ):
        code, _, err = run(f"train {line}", *paths)
        assert code in (2, 3) and hint in err, (line, err)
    assert not (tmp_path / "a" / "checkpoint.safetensors").exists()


def test_parts_are_found_and_described(run):
    for part in PARTS:
        code, out, _ = run(f"train {part} --help")
        assert code == 0 and f"Example:\n  mosaicmem train {part}" in out
        assert all(option in out for option in ("--json", "--seed", "--out"))
    code, out, _ = run("train world --help")
    for option in (
        "--steps",
        "--minutes",
        "--optimizer",
        "--lr",
        "--task.no-memory",
        "--loop.ema",
        "--model.num-layers",
    ):
        assert option in out
    assert "--loop.seed" not in out and "--task.seed" not in out
    code, out, _ = run("train --help")
    assert code == 0 and all(part in out for part in PARTS)
    assert run("train")[0] == 2
    code, _, err = run("train wrold")
    assert code == 2 and "did you mean world?" in err
    code, _, err = run("train --seed 3 vae")
    assert code == 2 and "the part comes first" in err


def test_videos_become_clips(run, tmp_path):
    for name in ("a", "b"):
        write_entry(tmp_path / "videos" / name, depth=True)
    code, out, err = run(
        "train data --held-out 1 --posed.size 16 --json", "--videos", tmp_path / "videos", "--out", tmp_path / "clips"
    )
    assert code == 0, err
    assert json.loads(out)["clips"] == json.loads(out)["held_out"] == 1
    assert ClipCache(tmp_path / "clips").names() == ["a"]
    assert ClipCache(tmp_path / "clips" / HELD_FOLDER).names() == ["b"]


def test_episodes_are_rendered_where_asked(run, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(train_data, "render_ahead", lambda folder, seeds, **o: asked.append((folder, seeds, o)) or [])
    monkeypatch.setattr(
        train_data, "render_held_out", lambda folder, count, **o: asked.append((folder, count, o)) or []
    )
    words = "train data --seeds 3:5 --held-out 2 --twins 2 --processes 2 --posed.size 32"
    for event, frames in (("", 17), ("ball", 33)):
        asked.clear()
        more = ("--event", event) if event else ()
        code, _, err = run(words, *more, "--frames", frames, "--out", tmp_path / "c")
        (ahead, held) = asked
        assert held == (tmp_path / "c", 2, {"size": 32})
        assert ahead == (
            tmp_path / "c",
            range(3, 5),
            {"size": 32, "processes": 2, "frames": frames, "event": event, "twins": 2},
        )
        assert code == (2 if event else 0)
        assert not event or "in none of the 2 episodes of --seeds 3:5" in err, "nothing was rendered: it says so"


def test_an_event_that_cannot_happen_is_refused_before_anything_is_looked_through(run, tmp_path, monkeypatch):
    monkeypatch.setattr(train_data, "render_ahead", None)  # would fail
    for words, said in (("--frames 17 --event ball", "33 or more"), ("--event bal", "expected one of ball")):
        code, _, err = run(f"train data {words}", "--out", tmp_path / "c")
        assert (code, said in err) == (2, True), err
    assert not (tmp_path / "c").exists()


def test_a_ball_changes_in_no_shorter_episode():
    def balls(frames):
        episodes = [make_episode(seed, size=32, frames=frames, with_event=True) for seed in range(6)]
        return [e.event.text for e in episodes if e.event is not None and "ball" in e.event.text]

    assert not balls(train_data.BALL_FRAMES - 16)
    assert balls(train_data.BALL_FRAMES)
    words = {word for seed in range(6) for text in events_of(make_scene(seed)) for word in text.split()}
    assert words | {"door"} == train_data.WORDS, "doors open by themselves"


def test_other_ranks_are_silent(run, data, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(train_fit, "fit", lambda *_, **__: said.append(1) or {"step": 1, "seconds": 0.0})
    monkeypatch.setenv("RANK", "1")
    import sys

    monkeypatch.setattr(sys, "stdout", sys.stdout)  # put back afterwards
    code, out, err = run(f"train vae {VAE} --steps 1 --json", "--data", data, "--out", tmp_path / "run")
    assert (code, out, err, said) == (0, "", "", [1])
    assert not (tmp_path / "run").exists()


def test_the_live_line_says_loss_speed_time_and_held_out_numbers(capsys):
    from mosaicmem.apps.cli.console import Console

    config = TrainConfig(steps=100)
    with train_fit.bar(Console(), "toy", config, batch=8) as on_step:
        on_step(Progress(10, 100, 0.5, 1e-3, 5.0, {"loss": 0.5}))
        on_step(Progress(30, 100, 0.25, 1e-3, 15.0, {"loss": 0.25}))
        assert capsys.readouterr().err == ""
        on_step(Progress(30, 100, float("nan"), 1e-3, 15.0, {"held_out_x": 2.0}))
    assert capsys.readouterr().err == "toy 30/100  loss 0.25  16 samples/s  0:00:35 left  x 2\n"
    with train_fit.bar(Console(quiet=True), "toy", config, batch=8) as on_step:
        on_step(Progress(30, 100, float("nan"), 1e-3, 15.0, {"held_out_x": 2.0}))
    assert capsys.readouterr().err == ""
