"""The loop: nothing is lost by a kill, the mean of weights and the rate are what they say, bad numbers stop it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.child import TOY
from tests.training.clips import ToyTask, world_task, write_world

from mosaicmem.errors import ConfigError
from mosaicmem.training import loop
from mosaicmem.training.checkpoint import load_checkpoint
from mosaicmem.training.distributed import sixteen_bits
from mosaicmem.training.loop import MAX_BAD_STEPS, TrainConfig, TrainingFailed, fit

CHILD = Path(__file__).with_name("child.py")


def rows(folder: Path) -> list[dict[str, float]]:
    """The log without its clock."""
    found = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def same_tensors(a: Path, b: Path) -> bool:
    first, second = load_file(a / "checkpoint.safetensors"), load_file(b / "checkpoint.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    fit(ToyTask(), TOY, folder)
    return folder


def test_a_killed_training_goes_on_as_if_nothing_had_happened(tmp_path, whole):
    folder = tmp_path / "killed"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, str(CHILD), "toy", str(folder)], env=environment)
    log, until = folder / "log.jsonl", time.monotonic() + 120
    while child.poll() is None and time.monotonic() < until:
        if log.is_file() and log.read_bytes().count(b"\n") >= 8 and (folder / "checkpoint.safetensors").is_file():
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert 8 <= len(log.read_bytes().splitlines()) < 40
    with log.open("a") as file:
        file.write('{"step": 39, "loss": 0.0}\n{"step": 40, "lo')  # what a kill may leave behind
    task = ToyTask()
    fit(task, TOY, folder)
    assert task.asked[0] > 0, "it began anew"
    assert task.asked == list(range(task.asked[0], 40))
    assert rows(folder) == rows(whole)
    assert same_tensors(folder, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_first(tmp_path, whole, number):
    folder = tmp_path / "stopped"

    def ask(progress):
        if progress.step == 7 and "loss" in progress.metrics:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    header = fit(ToyTask(), replace(TOY, checkpoint_minutes=1e9), folder, on_step=ask)
    assert header["step"] == 7
    assert signal.getsignal(number) is before
    assert header["step"] == json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["step"]
    fit(ToyTask(), replace(TOY, checkpoint_minutes=3), folder)
    assert same_tensors(folder, whole)
    assert [r for r in rows(folder) if "loss" in r] == [r for r in rows(whole) if "loss" in r]


def test_minutes_end_a_run_and_the_next_goes_on(tmp_path, whole):
    assert fit(ToyTask(), replace(TOY, minutes=0.0), tmp_path)["step"] == 1
    assert fit(ToyTask(), replace(TOY, minutes=None), tmp_path)["step"] == 40
    assert same_tensors(tmp_path, whole)
    again = ToyTask()
    fit(again, TOY, tmp_path)
    assert again.asked == []  # finished is finished


def test_a_log_is_cut_whole_or_not_at_all(tmp_path, whole):
    for name in ("checkpoint.safetensors", "log.jsonl"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    before = (tmp_path / "log.jsonl").read_text()
    with (tmp_path / "log.jsonl").open("a+") as reader:
        reader.write('{"step": 41, "lo')
        reader.flush()
        fit(ToyTask(), TOY, tmp_path)
        reader.seek(0)
        assert reader.read() == before + '{"step": 41, "lo', "what is there is replaced, not emptied and written again"
    assert (tmp_path / "log.jsonl").read_text().startswith(before)


def test_another_seed_is_another_run(tmp_path, whole):
    fit(ToyTask(), replace(TOY, seed=4), tmp_path / "4")
    assert not same_tensors(tmp_path / "4", whole)
    fit(ToyTask(), replace(TOY, seed=2**63 - 1), tmp_path / "largest")
    assert not same_tensors(tmp_path / "largest", whole)


def test_anew_leaves_nothing_of_what_was_there(tmp_path, whole):
    fit(ToyTask(), replace(TOY, seed=4, steps=50), tmp_path)
    fit(ToyTask(), TOY, tmp_path, anew=True)
    assert same_tensors(tmp_path, whole)
    assert [row["step"] for row in rows(tmp_path)] == [row["step"] for row in rows(whole)]


class Wanting(ToyTask):
    """Its batches depend on the weights."""

    needs_weights = True


def test_anew_deletes_nothing_where_nothing_can_begin(tmp_path):
    fit(ToyTask(), replace(TOY, steps=2), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for task, workers, device in ((Wanting(), 1, "cpu"), (ToyTask(), 0, "nonsense")):
        with pytest.raises(ConfigError):
            fit(task, replace(TOY, workers=workers), tmp_path, anew=True, device=device)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_settings_are_refused_by_name(tmp_path, whole):
    content = (whole / "checkpoint.safetensors").read_bytes()
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match=r"lr was 0\.01, is 0\.02; warmup was 5, is 6") as caught:
        fit(ToyTask(), replace(TOY, lr=0.02, warmup=6, steps=50), tmp_path)
    assert "steps" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"settings\.noise was 0\.1, is 0\.3"):
        fit(ToyTask(noise=0.3), TOY, tmp_path)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == content


def test_a_setting_that_is_newer_than_a_checkpoint_counts_as_its_default(tmp_path, whole):
    from safetensors import safe_open
    from safetensors.torch import save_file

    source = whole / "checkpoint.safetensors"
    with safe_open(str(source), "pt") as file:
        header = json.loads(file.metadata()["mosaicmem"])
    del header["loop"]["precision"]
    save_file(load_file(source), tmp_path / "checkpoint.safetensors", {"mosaicmem": json.dumps(header)})
    with pytest.raises(ConfigError, match=r"precision was 'float32', is 'bfloat16'"):
        fit(ToyTask(), replace(TOY, precision="bfloat16"), tmp_path)
    assert fit(ToyTask(), TOY, tmp_path)["step"] == 40


@pytest.mark.parametrize("ema", [0.0, 0.9, 0.999])
def test_the_mean_of_weights_is_the_sum_it_says(tmp_path, ema):
    """w_0 Π k_i + Σ_j (1 - k_j) w_j Π_{i>j} k_i with k_j = min(ema, (1 + j) / (10 + j))."""
    task, config = ToyTask(), replace(TOY, steps=30, ema=ema)
    weight = task.first.weight
    history = {0: weight.detach().clone()}

    def note(progress):
        if "loss" in progress.metrics:  # an evaluation is told of while the mean is in place
            history[progress.step] = weight.detach().clone()

    fit(task, config, tmp_path, on_step=note)
    keeps = [min(ema, (1 + j) / (10 + j)) for j in range(30)]
    expected = history[0].double() * math.prod(keeps)
    for j, keep in enumerate(keeps):
        expected = expected + (1 - keep) * history[j + 1] * math.prod(keeps[j + 1 :])
    fresh = ToyTask()
    mean = {k: v.clone() for k, v in fresh.module.state_dict().items()}
    header = {"task": fresh.config(), "loop": {}}
    optimizers = loop._optimizers(fresh.module, config)
    with pytest.raises(ConfigError):
        load_checkpoint(tmp_path / "checkpoint.safetensors", fresh.module, mean, optimizers, header)
    header["loop"] = vars(config)
    load_checkpoint(tmp_path / "checkpoint.safetensors", fresh.module, mean, optimizers, header)
    assert torch.allclose(mean["0.weight"].double(), expected, atol=1e-5)
    assert torch.equal(fresh.first.weight, task.first.weight)
    assert ema == 0 or not torch.allclose(mean["0.weight"], task.first.weight, atol=1e-3)


def test_the_rate_rises_and_falls_as_it_says():
    config = TrainConfig(steps=1000, lr=2.0, warmup=100, decay=1.0)
    for step in (0, 49, 99):
        fall = 0.5 + 0.5 * math.cos(math.pi * step / 1000)
        assert config.rate(step) == pytest.approx(2 * (step + 1) / 100 * fall)
    assert config.rate(500) == pytest.approx(1.0)
    assert config.rate(1000) == pytest.approx(0, abs=1e-12)
    late = replace(config, decay=0.2)
    assert {late.rate(step) for step in range(99, 801)} == {2.0}
    assert late.rate(900) == pytest.approx(1.0)
    assert late.rate(1000) == pytest.approx(0, abs=1e-12)


OUTSIDE = {
    **dict.fromkeys(("steps", "evaluate_every", "log_every"), (0, -1)),
    **dict.fromkeys(("warmup", "seed"), (-1,)),
    **dict.fromkeys(("weight_decay", "checkpoint_minutes", "minutes"), (-0.1, math.nan)),
    **dict.fromkeys(("lr", "clip"), (0.0, -0.1, math.nan)),
    "workers": (-1,),
    "decay": (0.0, 1.1, math.nan),
    "ema": (-0.1, 1.0, math.nan),
}
ENDS = {"steps": 1, "evaluate_every": 1, "log_every": 1, "warmup": 0, "minutes": 0.0, "decay": 1.0, "ema": 0.0}
ENDS |= {"workers": 0}


@pytest.mark.parametrize("name", OUTSIDE)
def test_impossible_settings_are_refused_by_name(name):
    for value in OUTSIDE[name]:
        with pytest.raises(ConfigError, match=rf"\b{name} = {value}: expected"):
            TrainConfig(**{name: value})
    if name in ENDS:  # control: the ends are inside
        assert getattr(TrainConfig(**{name: ENDS[name]}), name) == ENDS[name]


def test_no_number_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    with pytest.raises(TrainingFailed, match=r"since step 5\b"):
        fit(ToyTask(bad=range(5, 99)), replace(TOY, checkpoint_minutes=0), tmp_path)
    task = ToyTask()
    header = fit(task, replace(TOY, steps=1), tmp_path)
    assert header["step"] == 5 + MAX_BAD_STEPS
    assert all(p.isfinite().all() for p in task.module.parameters())


def test_one_bad_step_changes_no_weights(tmp_path):
    history = []
    task = ToyTask(bad=range(5, 6))
    fit(task, replace(TOY, steps=10), tmp_path, on_step=lambda _: history.append(task.first.weight.detach().clone()))
    assert torch.equal(history[4], history[5])
    assert not torch.equal(history[5], history[6])
    assert all(h.isfinite().all() for h in history)


def test_muon_takes_the_matrices_inside_blocks_and_adamw_everything_else(tmp_path):
    module = world_task(write_world(tmp_path, 1)).module
    names = {id(p): n for n, p in module.named_parameters()}
    adamw, muon = loop._optimizers(module, TrainConfig(optimizer="muon", weight_decay=0.3))
    inner = {names[id(p)] for g in muon.param_groups for p in g["params"]}
    outer = {names[id(p)]: g["weight_decay"] for g in adamw.param_groups for p in g["params"]}
    assert inner and all(".blocks." in n and n.endswith("weight") for n in inner)
    assert inner.isdisjoint(outer) and inner | set(outer) == set(names.values())
    shapes = {n: p.ndim for n, p in module.named_parameters()}
    assert all(decay == (0.3 if shapes[n] >= 2 else 0) for n, decay in outer.items())
    (alone,) = loop._optimizers(module, TrainConfig(optimizer="adamw"))
    assert sum(len(g["params"]) for g in alone.param_groups) == len(names)


def test_muon_says_which_torch_it_needs(tmp_path, monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    task = world_task(write_world(tmp_path, 1))
    with pytest.raises(ConfigError, match=r"torch 2\.9"):
        fit(task, TrainConfig(optimizer="muon"), tmp_path / "run")


def test_a_batch_must_be_a_multiple_of_the_ranks(tmp_path, monkeypatch):
    @contextmanager
    def three():
        yield 0, 3

    monkeypatch.setattr(loop, "join", three)
    with pytest.raises(ConfigError, match="batch of 4 cannot be shared by 3 ranks"):
        fit(ToyTask(), TOY, tmp_path)


def test_an_unknown_device_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="nonsense"):
        fit(ToyTask(), TOY, tmp_path, device="nonsense")


def test_a_run_leaves_its_log_curves_and_picture(whole):
    assert {p.name for p in whole.iterdir()} == {"checkpoint.safetensors", "log.jsonl", "curves.png", "picture.png"}
    found = rows(whole)
    assert [r["step"] for r in found if "loss" in r] == list(range(1, 41))
    assert [r["step"] for r in found if "held_out" in r] == [20, 40]


@pytest.mark.parametrize("able", [True, False])
def test_auto_precision_asks_the_processor_and_the_others_do_not(monkeypatch, able):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: able, raising=False)
    cpu = torch.device("cpu")
    assert sixteen_bits("auto", cpu) is able
    assert sixteen_bits("bfloat16", cpu) and not sixteen_bits("float32", cpu)
    assert sixteen_bits("auto", torch.device("cuda:0"))


def test_sixteen_bits_change_the_products_and_not_the_weights(tmp_path):
    for precision in ("float32", "bfloat16"):
        fit(ToyTask(), replace(TOY, steps=3, precision=precision), tmp_path / precision)
    a, b = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("float32", "bfloat16"))
    weights = [name for name in a if name.startswith("weights.")]
    assert all(b[name].dtype == torch.float32 for name in weights)
    assert any(not torch.equal(a[name], b[name]) for name in weights)
