"""Shape aliases and the legend of dimension letters.

| letter | meaning |
|---|---|
| `b` | batch |
| `n` | cameras, poses or points |
| `f` | raw frames |
| `l` | latents (groups of frames) of a window, or target views of a retrieval |
| `k` | sub-frames of a latent |
| `g` | groups of memory (a keyframe under one edit) |
| `h w` | latent grid, one element a cell |
| `m n` | token grid, one element a patch of `p x p` cells |
| `c` | channels of a latent |
| `H W` | image, in pixels |
| `L` | tokens of a sequence |
| `d` | channels of one attention head |
"""

from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor

__all__ = ["Bool", "Float", "Int", "Int64", "Tensor", "UInt8"]
