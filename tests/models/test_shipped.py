"""What the shipped weights are worth, on held-out worlds: small samples of the figures in docs/numerics.md."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from mosaicmem.evaluation.memory_benchmark import BenchmarkConfig, run_benchmark, summarize
from mosaicmem.evaluation.metrics import psnr
from mosaicmem.generation.backend import load_models
from mosaicmem.generation.rollout import RolloutConfig
from mosaicmem.models.checkpoint import load_depth, load_vae, read_header
from mosaicmem.models.presets import PARTS, shipped
from mosaicmem.worlds.episodes import HELD_OUT, Episode, make_episode
from mosaicmem.worlds.scene import Rendering


@pytest.fixture(scope="module")
def films() -> list[tuple[Episode, Rendering]]:
    """Seventeen frames each of four worlds that no training has seen."""
    episodes = [make_episode(seed) for seed in HELD_OUT[100:104]]
    return [(episode, episode.film(slice(0, 17))) for episode in episodes]


def test_all_weights_together_take_at_most_30_megabytes_and_say_where_they_come_from():
    assert sum(shipped(part).stat().st_size for part in PARTS) <= 30e6
    for part in PARTS:
        header = read_header(shipped(part))
        assert header["task"]["task"] == part and header["step"] > 0
        assert {"mosaicmem", "torch", "python"} <= set(header["provenance"])
        last = int(str(header["task"]["data"]["last"]))
        assert last not in HELD_OUT


def test_the_autoencoder_reaches_31_db_on_first_frames_and_30_on_groups(films):
    vae = load_vae(shipped("vae"))
    first, rest = [], []
    for _, shown in films:
        video = shown.rgb.transpose(0, 1)[None]
        coded = vae.decode_video(vae.encode_video(video))[0].transpose(0, 1)
        values = psnr(coded, shown.rgb)
        first.append(values[:1])
        rest.append(values[1:])
    assert float(torch.cat(first).mean()) >= 31
    assert float(torch.cat(rest).mean()) >= 30


def test_depth_is_metric_and_better_than_one_guess_for_all(films):
    depth = load_depth(shipped("depth"))
    errors, guesses = [], []
    for episode, shown in films:
        found = depth.estimate(shown.rgb[::8], episode.cameras[:17:8]).depth
        true = shown.depth[::8]
        both = (true > 0) & (found > 0)
        errors.append(((found - true).abs() / true)[both].mean())
        guesses.append(((true[both].median() - true).abs() / true)[both].mean())
    assert float(torch.stack(errors).mean()) <= 0.1
    assert float(torch.stack(errors).mean()) < 0.4 * float(torch.stack(guesses).mean())


def test_t3_memory_is_worth_3_db_where_a_place_is_seen_again():
    config = BenchmarkConfig(
        worlds=3, rows=("full", "cameras_only"), pose_frames=1, pictured=0, rollout=RolloutConfig(show_mosaic=False)
    )
    rows = summarize(list(run_benchmark(partial(load_models, "rooms"), config)), config)["rows"]
    assert rows["full"]["psnr"] >= rows["cameras_only"]["psnr"] + 3
