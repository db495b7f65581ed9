"""Two ranks are one: together they compute the gradients, and so the weights, that a single process does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.training.child import RANKS
from tests.training.clips import ToyTask, world_task, write_world

from mosaicmem.errors import ConfigError
from mosaicmem.training.distributed import any_rank, on_device, own_device
from mosaicmem.training.loop import fit

CHILD = Path(__file__).with_name("child.py")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """The same three steps by one process and by two, on loopback."""
    root = tmp_path_factory.mktemp("ranks")
    paths = write_world(root / "data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    command = [sys.executable, str(CHILD), "world", str(root / "two")]
    children = [
        subprocess.Popen(command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in (0, 1)
    ]
    fit(world_task(paths), RANKS, root / "one")
    assert [child.wait(timeout=200) for child in children] == [0, 0]
    return root / "one", root / "two"


def test_two_ranks_give_the_weights_and_moments_of_one(runs):
    one, two = (load_file(folder / "checkpoint.safetensors") for folder in runs)
    assert one.keys() == two.keys()
    start = world_task(sorted((runs[0].parent / "data").iterdir())).module.state_dict()
    for name, value in one.items():
        if name.endswith("exp_avg"):  # a running mean of gradients: linear in them
            assert torch.allclose(value, two[name], rtol=1e-4, atol=1e-6 * (1 + float(value.abs().max()))), name
        elif name.startswith("weights."):
            moved = float((value - start[name.removeprefix("weights.")]).abs().max())
            assert float((value - two[name]).abs().max()) <= 0.01 * moved + 1e-7, name
    moving = [n for n in one if n.startswith("weights.") and not torch.equal(one[n], start[n.removeprefix("weights.")])]
    assert len(moving) > 20


def test_a_rank_holds_the_rest_of_the_batch(tmp_path):
    """Control of the above: half the batch has other gradients."""
    task = world_task(write_world(tmp_path))
    gradients = []
    for ranks in ([(0, 1)], [(0, 2), (1, 2)], [(0, 2)]):
        task.module.zero_grad()
        for rank, count in ranks:
            loss, _ = task.loss(task.module, task.batch(0, rank, count))
            (loss / len(ranks)).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in task.module.parameters() if p.grad is not None]))
    whole, halves, half = gradients
    assert torch.allclose(whole, halves, rtol=1e-3, atol=1e-6)
    assert float((whole - half).norm()) > 0.1 * float(whole.norm())


def test_only_rank_0_writes(runs):
    assert sorted(p.name for p in runs[1].iterdir()) == sorted(p.name for p in runs[0].iterdir())
    assert len((runs[1] / "log.jsonl").read_text().splitlines()) == 4  # three steps, one evaluation


def test_one_process_asks_nobody():
    assert any_rank(True, 1) and not any_rank(False, 1)


def test_a_card_without_a_number_is_the_ranks_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "99")
    with pytest.raises(ConfigError, match="device 'cuda:99': "):
        own_device("cuda")
    with pytest.raises(ConfigError, match="device 'cuda:98': "):
        own_device("cuda:98")
    assert own_device("cpu") == torch.device("cpu")


def test_a_batch_of_any_make_moves_whole(tmp_path):
    task = world_task(write_world(tmp_path, 1))
    moved = on_device(task.batch(0), torch.device("meta"))
    assert moved.latents.is_meta and moved.words.is_meta and moved.cameras.P.is_meta
    assert on_device((torch.ones(2), "x"), torch.device("meta"))[0].is_meta
    batch = ToyTask().batch(0, 0, 1)
    assert on_device(batch, torch.device("cpu")) is batch
