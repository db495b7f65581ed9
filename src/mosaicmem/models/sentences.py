"""Sentence embeddings: a BERT encoder with mean pooling, as `all-MiniLM-L6-v2` is, from a folder and without a network.

Written out because the few operations that it takes do not justify the packages that usually run it. Word pieces
follow BERT's uncased tokenizer (arXiv:1810.04805); the embedding is Sentence-BERT's (arXiv:1908.10084).
"""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from mosaicmem._shapes import Float, Int64, Tensor
from mosaicmem.errors import InputError, MissingWeightsError
from mosaicmem.io.files import read_json, read_text
from mosaicmem.models.checkpoint import read_tensors

FILES = ("config.json", "vocab.txt", "model.safetensors")
MAX_PIECES = 256
_MOST_LAYERS = 64
_LONGEST_WORD = 100  # characters; longer ones are unknown
_CJK = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2CEAF), (0x2F800, 0x2FA1F))


class SentenceEncoder:
    """Texts to unit vectors.

    Args:
        state: Tensors by BERT's names, float32.
        vocabulary: Word pieces to indices.
        heads, eps: Of attention, of the norms.
    """

    def __init__(self, state: dict[str, Tensor], vocabulary: dict[str, int], heads: int, eps: float) -> None:
        self._state, self._vocabulary, self._heads, self._eps = state, vocabulary, heads, eps
        self._layers = len({name.split(".")[2] for name in state if name.startswith("encoder.layer.")})

    @staticmethod
    def from_pretrained(folder: Path | str) -> SentenceEncoder:
        """Read `config.json`, `vocab.txt` and `model.safetensors`.

        Raises:
            MissingWeightsError: if a file is absent.
            InputError: if they do not describe a BERT encoder.
        """
        folder = Path(folder)
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise MissingWeightsError(f"{folder}: no {' and no '.join(missing)}; expected the folder of a BERT encoder")
        config, path = read_json(folder / FILES[0]), folder / FILES[2]
        pieces = read_text(folder / FILES[1]).split("\n")
        vocabulary = {piece.rstrip("\r"): i for i, piece in enumerate(pieces) if piece}
        state = read_tensors(path, skip="embeddings.position_ids")[1]
        try:
            expected = _shapes(config)
            heads, eps = int(config["num_attention_heads"]), float(config["layer_norm_eps"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"{folder / FILES[0]}: sizes of no BERT encoder ({error!r})") from error
        wrong = [name for name, shape in expected.items() if name not in state or tuple(state[name].shape) != shape]
        if wrong:
            raise InputError(
                f"{path}: {len(wrong)} tensors missing or of another shape than expected; first {wrong[0]}"
            )
        if absent := {"[UNK]", "[CLS]", "[SEP]"} - vocabulary.keys():
            raise InputError(
                f"{folder / FILES[1]}: no {', '.join(sorted(absent))}; expected an uncased BERT vocabulary"
            )
        if max(vocabulary.values()) >= config["vocab_size"]:
            raise InputError(f"{folder / FILES[1]}: {len(pieces)} pieces, but vectors for {config['vocab_size']}")
        return SentenceEncoder({name: state[name].float() for name in expected}, vocabulary, heads, eps)

    @torch.inference_mode()
    def __call__(self, texts: list[str]) -> Float[Tensor, "n d"]:
        """One unit vector a text."""
        rows = [self.pieces(text) for text in texts]
        ids = torch.zeros(len(rows), max(map(len, rows), default=1), dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        mask = torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
        vectors = self._forward(ids, mask) * mask[..., None]
        return F.normalize(vectors.sum(1) / mask.sum(1, keepdim=True), dim=-1)

    def pieces(self, text: str) -> list[int]:
        """Indices of the word pieces of a text, between `[CLS]` and `[SEP]`."""
        found = [piece for word in _words(text) for piece in self._split(word)][: MAX_PIECES - 2]
        return [self._vocabulary["[CLS]"], *found, self._vocabulary["[SEP]"]]

    def _split(self, word: str) -> list[int]:
        """The longest known piece, again and again."""
        out, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1) if len(word) <= _LONGEST_WORD else ()
            end = next((end for end in ends if prefix + word[start:end] in self._vocabulary), None)
            if end is None:
                return [self._vocabulary["[UNK]"]]
            out.append(self._vocabulary[prefix + word[start:end]])
            start = end
        return out

    def _forward(self, ids: Int64[Tensor, "n s"], mask: Tensor) -> Float[Tensor, "n s d"]:
        table = self._state
        x = table["embeddings.word_embeddings.weight"][ids] + table["embeddings.token_type_embeddings.weight"][0]
        x = self._norm(x + table["embeddings.position_embeddings.weight"][: ids.shape[1]], "embeddings.LayerNorm")
        for i in range(self._layers):
            at = f"encoder.layer.{i}"
            q, k, v = (
                self._linear(x, f"{at}.attention.self.{name}").unflatten(-1, (self._heads, -1)).transpose(1, 2)
                for name in ("query", "key", "value")
            )
            read = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None]).transpose(1, 2).flatten(2)
            x = self._norm(x + self._linear(read, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
            hidden = F.gelu(self._linear(x, f"{at}.intermediate.dense"))
            x = self._norm(x + self._linear(hidden, f"{at}.output.dense"), f"{at}.output.LayerNorm")
        return x

    def _linear(self, x: Tensor, name: str) -> Tensor:
        return F.linear(x, self._state[f"{name}.weight"], self._state[f"{name}.bias"])

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._state[f"{name}.weight"], self._state[f"{name}.bias"], self._eps)


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """What a BERT encoder of these sizes holds, its unused pooler left out."""
    d, wide = config["hidden_size"], config["intermediate_size"]
    if d % config["num_attention_heads"] or config["max_position_embeddings"] < MAX_PIECES:
        raise ValueError(f"heads do not divide the width, or fewer than {MAX_PIECES} positions")
    if not 0 < config["num_hidden_layers"] <= _MOST_LAYERS:
        raise ValueError(f"more than {_MOST_LAYERS} layers, or none")
    rows = {"word": config["vocab_size"], "position": config["max_position_embeddings"], "token_type": 2}
    shapes: dict[str, tuple[int, ...]] = {f"embeddings.{name}_embeddings.weight": (n, d) for name, n in rows.items()}
    linear = {f"attention.self.{name}": (d, d) for name in ("query", "key", "value")}
    linear |= {"attention.output.dense": (d, d), "intermediate.dense": (wide, d), "output.dense": (d, wide)}
    norms = ["embeddings.LayerNorm"]
    for i in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{i}"
        norms += [f"{at}.attention.output.LayerNorm", f"{at}.output.LayerNorm"]
        shapes |= {f"{at}.{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"{at}.{name}.bias": shape[:1] for name, shape in linear.items()}
    return shapes | {f"{name}.{part}": (d,) for name in norms for part in ("weight", "bias")}


def _words(text: str) -> list[str]:
    """Lower case without accents, cut at white space, around punctuation and around Chinese characters."""
    out = []
    for character in text:
        category, code = unicodedata.category(character), ord(character)
        if character in "\t\n\r" or category == "Zs":
            out.append(" ")
        elif code in (0, 0xFFFD) or category.startswith("C"):
            continue
        else:
            alone = any(low <= code <= high for low, high in _CJK)
            out.append(f" {character} " if alone else character)
    plain = unicodedata.normalize("NFD", "".join(out).lower())
    spaced = (
        f" {c} " if _is_punctuation(c) else c for c in plain if unicodedata.category(c) != "Mn"
    )  # fmt: skip
    return "".join(spaced).split()


def _is_punctuation(character: str) -> bool:
    """Every ASCII sign that is no letter and no digit, and what Unicode says."""
    ascii_sign = character.isascii() and not character.isalnum() and not character.isspace()
    return ascii_sign or unicodedata.category(character).startswith("P")
