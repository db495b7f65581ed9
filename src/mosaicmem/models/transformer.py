"""The Wan video transformer, written once for a laptop and for 5 billion parameters.

Parameters carry the names of diffusers' `WanTransformer3DModel`, so its checkpoints load as they are. Added to it, and
absent unless asked for: memory tokens in the self-attention sequence, cameras in attention (PRoPE), real-valued rotary
positions, and frozen keys and values of earlier blocks.

The sequence is `[video | memory]`. Memory shares every weight, is at timestep 0, reads no text, carries the cameras of
its target latent, and is dropped before the head. Sources: Wan (arXiv:2503.20314); MosaicMem (arXiv:2603.17117).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.models._start import normal
from mosaicmem.models.memory_batch import AGE_WAVES, MemoryBatch, age_waves
from mosaicmem.ops._sdpa import masked_attention
from mosaicmem.ops.attention import KeyValues, Placement, attend, place
from mosaicmem.ops.prope import Layout, TokenCameras
from mosaicmem.ops.rope import split_bands

Prediction = Literal["velocity", "x0"]


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes, by the names of diffusers' `config.json`; the last six are ours.

    Attributes:
        patch_size: Latent cells per token along (t, y, x).
        num_attention_heads, attention_head_dim: Their product is the width.
        in_channels, out_channels: Of latents.
        text_dim: Of the text vectors.
        freq_dim: Of the sinusoidal timestep embedding.
        ffn_dim, num_layers: Of the blocks.
        cross_attn_norm: Whether text is read from a normalised input.
        eps: Of all norms.
        prope_layout: Which channels carry cameras, see `ops.prope`.
        prediction: What the output is: the velocity `noise - x0`, or `x0`.
        checkpointing: Recompute blocks in the backward pass instead of keeping their activations.
        reads_past: Whether a window may begin with the latent of the frames right before its anchor: how things move
            shows in them, and in no single frame.
        memory_subframes: Numbers of `MemoryTokens.subframes` that memory tokens bring; 0 reads none.
        memory_in_place: Whether a token of Warped Latent is also added, through maps of its own, to the video token
            whose place it was warped to, and to what that token answers, as far as it lets it.
        memory_age: Whether memory tokens say how long ago they were seen: a door may have opened since.
    """

    patch_size: tuple[int, int, int] = (1, 2, 2)
    num_attention_heads: int = 8
    attention_head_dim: int = 32
    in_channels: int = 16
    out_channels: int = 16
    text_dim: int = 128
    freq_dim: int = 256
    ffn_dim: int = 768
    num_layers: int = 6
    cross_attn_norm: bool = True
    eps: float = 1e-6
    prope_layout: Layout = "fused"
    prediction: Prediction = "velocity"
    checkpointing: bool = False
    reads_past: bool = False
    memory_subframes: int = 0
    memory_in_place: bool = False
    memory_age: bool = False

    def __post_init__(self) -> None:
        p = self.patch_size
        if len(p) != 3 or p[0] != 1 or p[1] != p[2] or p[1] < 1:
            raise ConfigError(f"patch_size {p}: expected (1, p, p), one latent and a square of cells")
        if self.attention_head_dim % 2 or min(self.num_attention_heads, self.num_layers, self.in_channels) < 1:
            raise ConfigError(f"{self}: expected an even head size and at least one head, layer and channel")

    @property
    def dim(self) -> int:
        """Width of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim

    def to_dict(self) -> dict[str, Any]:
        """As `config.json` holds it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TransformerConfig:
        """From a `config.json`, of diffusers or ours.

        Raises:
            ConfigError: if it asks for something that this transformer does not have.
        """
        absent = {
            "image_dim": None, "added_kv_proj_dim": None, "pos_embed_seq_len": None, "qk_norm": "rms_norm_across_heads",
        }  # fmt: skip
        for name, only in absent.items():
            if values.get(name, only) != only:
                raise ConfigError(f"{name} = {values[name]!r} is not supported; expected {only!r}")
        own: dict[str, Any] = {f.name: f.default for f in fields(cls)}
        unknown = [k for k in values if k not in {*own, *absent, "rope_max_seq_len"} and not k.startswith("_")]
        if unknown:
            raise ConfigError(f"unknown settings of a transformer: {', '.join(sorted(unknown))}")
        chosen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in own}
        if "in_channels" in chosen and chosen.get("out_channels", 0) is None:  # as diffusers may write it
            chosen["out_channels"] = chosen["in_channels"]
        for name, known in {"prope_layout": get_args(Layout), "prediction": get_args(Prediction)}.items():
            if chosen.get(name, known[0]) not in known:
                raise ConfigError(f"{name} = {chosen[name]!r}: expected one of {', '.join(known)}")
        for name, value in chosen.items():
            kind = type(own[name])
            if type(value) is not kind and not (kind is float and type(value) is int):
                raise ConfigError(f"{name} = {value!r}: expected a value like {own[name]!r}")
        return cls(**chosen)


@dataclass(frozen=True)
class Context:
    """What all blocks of one forward share."""

    here: Placement
    text: Tensor  # [b s dim]
    modulation: Tensor  # [distinct 6 dim]
    level: Tensor  # [b L] which of the distinct timesteps a token has
    video: int  # tokens that read text; memory comes after them
    layout: Layout
    frozen: tuple[tuple[KeyValues, Placement], ...] = ()


class VideoTransformer(nn.Module):
    """Latents, noise levels, text, cameras and memory to a velocity (or x0).

    Raises:
        ConfigError: if the head size does not fit the PRoPE layout for even one camera a token.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        p, dim = config.patch_size, config.dim
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, p, stride=p)
        self.condition_embedder = _ConditionEmbedder(config)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.num_layers))
        self.proj_out = nn.Linear(dim, config.out_channels * math.prod(p))
        self.scale_shift_table = normal(1, 2, dim, std=dim**-0.5)
        self.subframe_embedding: nn.Linear | None = None
        if config.memory_subframes:  # from nothing: without training, the model is what it was
            self.subframe_embedding = nn.Linear(config.memory_subframes, dim)
            nn.init.zeros_(self.subframe_embedding.weight)
            nn.init.zeros_(self.subframe_embedding.bias)
        self.age_embedding: nn.Linear | None = None
        if config.memory_age:  # the first half for memory tokens, the second for the video tokens at their places
            self.age_embedding = nn.Linear(AGE_WAVES, 2 * dim, bias=False)
            nn.init.zeros_(self.age_embedding.weight)
        self.place_embedding: nn.Linear | None = None
        self.place_answer: nn.Linear | None = None
        self.place_gate: nn.Linear | None = None
        if config.memory_in_place:
            width = config.in_channels * math.prod(p) + config.memory_subframes
            self.place_embedding = nn.Linear(width, dim)
            self.place_answer = nn.Linear(width, self.proj_out.out_features)
            self.place_gate = nn.Linear(dim, math.prod(p))
            for linear in (self.place_embedding, self.place_answer, self.place_gate):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
            nn.init.ones_(self.place_gate.bias)

    def forward(
        self,
        latents: Float[Tensor, "b c l h w"],
        timesteps: Float[Tensor, "b"] | Float[Tensor, "b n"],
        text: Float[Tensor, "b s d"],
        *,
        memory: MemoryBatch | None = None,
        cameras: TokenCameras | None = None,
        frozen: Sequence[Sequence[tuple[KeyValues, Placement]]] | None = None,
        keep: list[KeyValues] | None = None,
        first_latent: int = 0,
    ) -> Float[Tensor, "b o l h w"]:
        """One evaluation.

        Args:
            latents: Noisy latents; clean ones among them have timestep 0.
            timesteps: 1000 sigma, one per entry, per latent (`n = l`) or per token (`n` = tokens).
            text: Text vectors; rows of zeros are padding, as in Wan.
            memory: Tokens from `conditioning.assemble`; None or empty changes nothing, bit for bit.
            cameras: One camera row per latent (`row` is ignored), sub-frames as the head allows; None: no cameras.
            frozen: The door for a causal model: for every layer, key sets that are attended to and never change.
            keep: A list that receives every layer's own `KeyValues`, before any rotation or camera.
            first_latent: Time index of the first latent.

        Raises:
            GeometryError: if the latents do not divide into tokens, timesteps are of another number, or memory lacks
                the sub-frames or ages that this model reads.
        """
        b, _, l, h, w = latents.shape
        p = self.config.patch_size[1]
        if h % p or w % p:
            raise GeometryError(f"latents of {w}x{h} cells do not divide into tokens of {p}x{p}")
        m, n = h // p, w // p
        kind = self.patch_embedding.weight.dtype
        tokens = self.patch_embedding(latents.to(kind)).flatten(2).transpose(1, 2)
        video = tokens.shape[1]
        times = self._per_token(timesteps, b, l, m * n)
        positions = _grid_positions(l, m, n, first_latent, latents.device).expand(b, -1, -1)
        row = torch.arange(l, device=latents.device).repeat_interleave(m * n).expand(b, -1)
        mask = here_too = None
        if memory is not None and len(memory):
            if self.place_embedding is not None and memory.warped_latent is not None:
                here_too = memory.in_place(video, (m, n), kind)
                told = self.place_embedding(here_too.content)
                if self.age_embedding is not None and here_too.age is not None:
                    told = told + self.age_embedding(age_waves(here_too.age).to(kind)).chunk(2, dim=-1)[1]
                tokens = tokens + told * here_too.known
            tokens = torch.cat([tokens, self._embed(memory, kind)], dim=1)
            times = torch.cat([times, times.new_zeros(b, len(memory))], dim=1)
            positions = torch.cat([positions, memory.positions.to(positions)], dim=1)
            row = torch.cat([row, memory.row], dim=1)
            if memory.mask is not None:
                mask = torch.cat([memory.mask.new_ones(b, video), memory.mask], dim=1)
        distinct, level = times.unique(return_inverse=True)
        embedded, modulation = self.condition_embedder(distinct)
        here = place(
            positions,
            self.config.attention_head_dim,
            cameras=None if cameras is None else cameras.at(row.contiguous()),
            mask=mask,
            layout=self.config.prope_layout,
        )
        text = self.condition_embedder.text_embedder(text.to(kind))
        for i, block in enumerate(self.blocks):
            sets = () if frozen is None else tuple(frozen[i])
            context = Context(here, text, modulation, level, video, self.config.prope_layout, sets)
            if self.config.checkpointing and keep is None and torch.is_grad_enabled():
                tokens = checkpoint(block, tokens, context, keep, use_reentrant=False)
            else:
                tokens = block(tokens, context, keep)
            assert isinstance(tokens, Tensor)
        table = (self.scale_shift_table + embedded[:, None])[level[:, :video]]  # [b video 2 dim]
        shift, scale = table.unbind(2)
        last = _modulated(tokens[:, :video], shift, scale, self.config.eps)
        out = self.proj_out(last)
        if here_too is not None and self.place_answer is not None and self.place_gate is not None:
            told = self.place_answer(here_too.content).unflatten(-1, (p * p, -1)) * self.place_gate(last)[..., None]
            out = out + told.flatten(2) * here_too.known
        out = out.view(b, l, m, n, p, p, -1).permute(0, 6, 1, 2, 4, 3, 5)
        return out.reshape(b, -1, l, h, w)

    def compile_blocks(self, **options: Any) -> None:
        """Compile the blocks, each into one graph: norms, modulation, rotary turns and cameras become one pass each.

        Of 5 billion parameters on a GPU an evaluation then takes seven tenths of the time, but the first one of a new
        number of tokens some 15 s more; that of a second number compiles for any.

        Args:
            options: Of `torch.compile`.
        """
        for block in self.blocks:
            block.compile(**{"fullgraph": True, **options})

    @torch.no_grad()
    def look_at_own_place(self, strength: float = 2.5) -> None:
        """Start every second head looking at tokens of its own place and time, where memory puts what belongs there.

        For training from scratch: the biases of queries and keys get a common part on the fastest rotary pair of each
        axis, so that logits fall with distance before anything is learned.
        """
        d = self.config.attention_head_dim
        rotary = d // 2 if self.config.prope_layout == "split" else d
        firsts, at = [], d - rotary
        for band in split_bands(rotary):
            firsts.append(at)
            at += band
        for block in self.blocks:
            for linear in (block.attn1.to_q, block.attn1.to_k):  # pyright: ignore[reportAttributeAccessIssue]
                linear.bias.view(-1, d)[::2, firsts] = strength  # pyright: ignore

    def _embed(self, memory: MemoryBatch, kind: torch.dtype) -> Float[Tensor, "b M dim"]:
        """As video is embedded, and what memory shows at the latent's earlier raw frames."""
        weight = self.patch_embedding.weight.flatten(1)
        tokens = F.linear(memory.features.to(kind), weight, self.patch_embedding.bias)
        if self.age_embedding is not None:
            if memory.age is None:
                raise GeometryError(
                    "memory tokens do not say how long ago they were seen, which this model reads; give `assemble` the "
                    "seconds of its views (times=)"
                )
            tokens = tokens + self.age_embedding(age_waves(memory.age).to(kind)).chunk(2, dim=-1)[0].to(tokens.dtype)
        if self.subframe_embedding is None:
            return tokens
        found = 0 if memory.subframes is None else memory.subframes.shape[-1]
        if memory.subframes is None or found != self.config.memory_subframes:
            raise GeometryError(
                f"memory tokens bring {found} numbers of sub-frames, this model reads {self.config.memory_subframes}; "
                "give `assemble` what memory shows at the earlier raw frames (subframes=)"
            )
        return tokens + self.subframe_embedding(memory.subframes.to(kind)).to(tokens.dtype)

    def _per_token(self, timesteps: Tensor, b: int, l: int, tokens: int) -> Float[Tensor, "b L"]:
        if timesteps.ndim == 1:
            return timesteps[:, None].expand(b, l * tokens)
        if timesteps.shape[1] == l * tokens:
            return timesteps
        if timesteps.shape[1] == l:
            return timesteps.repeat_interleave(tokens, 1)
        raise GeometryError(
            f"{timesteps.shape[1]} timesteps for {l} latents of {tokens} tokens; expected one per entry, per latent or "
            "per token"
        )


class _ConditionEmbedder(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.freq_dim = config.freq_dim
        self.time_embedder = _TwoLinear(config.freq_dim, config.dim, "silu")
        self.time_proj = nn.Linear(config.dim, 6 * config.dim)
        self.text_embedder = _TwoLinear(config.text_dim, config.dim, "gelu")

    def forward(self, timesteps: Float[Tensor, " u"]) -> tuple[Float[Tensor, "u dim"], Float[Tensor, "u 6 dim"]]:
        half = self.freq_dim // 2
        omega = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half)
        angle = timesteps.float()[:, None] * omega
        waves = torch.cat([angle.cos(), angle.sin()], -1).to(self.time_embedder.linear_1.weight.dtype)
        embedded = self.time_embedder(waves).to(self.time_proj.weight.dtype)
        return embedded, self.time_proj(F.silu(embedded)).unflatten(-1, (6, -1))


class _TwoLinear(nn.Module):
    def __init__(self, width: int, dim: int, activation: Literal["silu", "gelu"]) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(width, dim), nn.Linear(dim, dim)
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear_1(x)
        return self.linear_2(F.silu(x) if self._activation == "silu" else F.gelu(x, approximate="tanh"))


class _Attention(nn.Module):
    def __init__(self, config: TransformerConfig, *, cameras: bool) -> None:
        super().__init__()
        dim = config.dim
        self.heads = config.num_attention_heads
        self.to_q, self.to_k, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])
        self.norm_q, self.norm_k = nn.RMSNorm(dim, eps=config.eps), nn.RMSNorm(dim, eps=config.eps)
        self.to_out_prope: nn.Linear | None = None
        if cameras and config.prope_layout == "branch":
            self.to_out_prope = nn.Linear(dim, dim)
            nn.init.zeros_(self.to_out_prope.weight)
            nn.init.zeros_(self.to_out_prope.bias)

    def split(self, x: Tensor) -> Float[Tensor, "b heads L d"]:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def to_queries(self, x: Tensor) -> Tensor:
        return self.split(_rms_norm(self.to_q(x), self.norm_q))

    def to_keys(self, x: Tensor) -> KeyValues:
        return KeyValues(self.split(_rms_norm(self.to_k(x), self.norm_k)), self.split(self.to_v(x)))

    def join(self, x: Tensor) -> Tensor:
        return self.to_out[0](x.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        dim = config.dim
        self.eps = config.eps
        self.attn1 = _Attention(config, cameras=True)
        self.norm2 = nn.LayerNorm(dim, eps=config.eps) if config.cross_attn_norm else nn.Identity()
        self.attn2 = _Attention(config, cameras=False)
        self.ffn = _FeedForward(dim, config.ffn_dim)
        self.scale_shift_table = normal(1, 6, dim, std=dim**-0.5)

    def forward(self, x: Tensor, context: Context, keep: list[KeyValues] | None) -> Tensor:
        table = (self.scale_shift_table + context.modulation)[context.level]  # [b L 6 dim]
        shift1, scale1, gate1, shift2, scale2, gate2 = table.unbind(2)
        y = _modulated(x, shift1, scale1, self.eps)
        own = self.attn1.to_keys(y)
        if keep is not None:
            keep.append(own)
        attended = attend(
            self.attn1.to_queries(y),
            context.here,
            [*context.frozen, (own, context.here)],
            layout=context.layout,
            to_out_prope=self.attn1.to_out_prope,
        )
        x = (x + self.attn1.join(attended) * gate1).to(x.dtype)
        x = self._read_text(x, context)
        return (x + self.ffn(_modulated(x, shift2, scale2, self.eps)) * gate2).to(x.dtype)

    def _read_text(self, x: Tensor, context: Context) -> Tensor:
        """Video tokens read the text; memory tokens pass by."""
        video = x[:, : context.video]
        words = self.attn2.to_keys(context.text)
        norm = self.norm2
        y = video if isinstance(norm, nn.Identity) else _layer_norm(video, norm.weight, norm.bias, self.eps)
        read = masked_attention(self.attn2.to_queries(y.to(x.dtype)), words.k, words.v)
        video = video + self.attn2.join(read)
        return video if x.shape[1] == context.video else torch.cat([video, x[:, context.video :]], dim=1)


class _FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        inner = nn.Module()
        inner.proj = nn.Linear(dim, hidden)
        self.net = nn.ModuleList([inner, nn.Identity(), nn.Linear(hidden, dim)])

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](F.gelu(self.net[0].proj(x), approximate="tanh"))  # pyright: ignore


def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """In float32 at least, whatever the weights are kept in."""
    wide = torch.promote_types(x.dtype, torch.float32)
    weight, bias = (None if w is None else w.to(wide) for w in (weight, bias))
    return F.layer_norm(x.to(wide), x.shape[-1:], weight, bias, eps)


def _rms_norm(x: Tensor, norm: nn.RMSNorm) -> Tensor:
    """In the precision of `x`: the fused kernel needs weights of the same one."""
    return F.rms_norm(x, x.shape[-1:], norm.weight.to(x.dtype), norm.eps)


def _modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    y = _layer_norm(x, None, None, eps)
    return torch.addcmul(shift.to(y.dtype), y, 1 + scale).to(x.dtype)


def _grid_positions(l: int, m: int, n: int, first: int, device: torch.device) -> Float[Tensor, "1 L 3"]:
    axes = [torch.arange(k, dtype=torch.float32, device=device) for k in (l, m, n)]
    axes[0] = axes[0] + first
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(1, -1, 3)
