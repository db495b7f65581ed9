"""The trained generator: a video transformer with memory, and the sampler that drives it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import nn

from mosaicmem._shapes import Float, Tensor
from mosaicmem.diffusion.flow import sigmas, x0_from
from mosaicmem.diffusion.samplers import SamplerName, sample
from mosaicmem.errors import refuse
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.models.devices import home_of
from mosaicmem.models.generator import WindowRequest
from mosaicmem.models.memory_batch import MemoryBatch
from mosaicmem.models.text import CaptionEncoder
from mosaicmem.models.transformer import TransformerConfig, VideoTransformer
from mosaicmem.ops.prope import TokenCameras, make_cameras


@dataclass(frozen=True)
class SamplingConfig:
    """How the generator samples.

    Attributes:
        steps: Evaluations a window. One answers with the mean of all that may be, which is nearest to the truth where
            memory knows it and costs half of two; more make sharper guesses of what nobody has seen.
        event_steps: At least so many in the window where something begins: words take more than one look.
        guidance: Weight of the text: 1 takes the conditional answer, above 1 goes beyond it, away from that to no text.
            Every guided evaluation costs a second one.
        event_guidance: The same in the window where something begins: away from what would be said if it did not
            (`WindowRequest.avoid`).
        guidance_limit: What guidance may add to a window at one evaluation: root mean square of the change in decoded
            pixels of [-1, 1]. Without a limit a small thing is led too little or a light too far (Sadat et al. 2024,
            "Eliminating oversaturation").
        shift: More of the steps at high noise for values above 1.
        method: `euler` or `multistep`; they are one for up to two steps.
        use_cameras: Whether attention carries cameras (PRoPE).
    """

    steps: int = 1
    event_steps: int = 2
    guidance: float = 1.0
    event_guidance: float = 12.0
    guidance_limit: float = 0.1
    shift: float = 14.0
    method: SamplerName = "multistep"
    use_cameras: bool = True

    def __post_init__(self) -> None:
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        whole, weights, above = ("steps", "event_steps"), ("guidance", "event_guidance"), ("guidance_limit", "shift")
        refuse(
            *((told[name] < 1, f"{name} = {told[name]}: out of range, expected 1 or more") for name in whole),
            *(
                (not 0 <= told[name] < math.inf, f"{name} = {told[name]}: out of range, expected 0 or more")
                for name in weights
            ),
            *(
                (not 0 < told[name] < math.inf, f"{name} = {told[name]}: out of range, expected above 0")
                for name in above
            ),
        )


class WorldNetwork(nn.Module):
    """What is trained: the transformer and the text encoder in front of it.

    `gain [2 c]` says how much a unit of each latent channel (of an image, of a group) changes the decoded pixels; the
    loss of training is weighted by it.
    """

    gain: Tensor

    def __init__(self, config: TransformerConfig, words: int = 48) -> None:
        super().__init__()
        self.transformer = VideoTransformer(config)
        self.text = CaptionEncoder(config.text_dim, words)
        self.register_buffer("gain", torch.ones(2, config.in_channels))

    @property
    def config(self) -> TransformerConfig:
        """Sizes of the transformer."""
        return self.transformer.config

    def predict(
        self, x: Float[Tensor, "b c g h w"], sigma: Float[Tensor, " b"], text: Float[Tensor, "b s d"],
        anchor: Float[Tensor, "b c h w"], *, past: Float[Tensor, "b c h w"] | None = None,
        memory: MemoryBatch | None = None, cameras: TokenCameras | None = None,
    ) -> Float[Tensor, "b c g h w"]:  # fmt: skip
        """The transformer's answer for the noisy latents of a window; what is clean stands before them.

        Args:
            x: Latents at noise level `sigma`.
            text: As `self.text` gives it.
            anchor: Image latent of the last frame before them, time index 0.
            past: Latent of the frames that end with it, time index -1.
            memory: Tokens that count the anchor as latent 0.
            cameras: A row for every latent, that of `past` among them.
        """
        clean = [anchor] if past is None else [past, anchor]
        latents = torch.cat([*(latent[:, :, None] for latent in clean), x], dim=2)
        times = (1000 * sigma)[:, None].repeat(1, latents.shape[2])
        times[:, : len(clean)] = 0
        if past is not None and memory is not None:
            memory = memory.later(1)
        out = self.transformer(
            latents, times, text, memory=memory, cameras=cameras, first_latent=1 - len(clean)
        )  # fmt: skip
        return out[:, :, len(clean) :]


class WorldModel:
    """A `models.generator.Generator` with trained weights. It computes where they lie.

    Args:
        network: Weights, in evaluation mode.
        name: Short identity.
        sampling: Steps, guidance and switches.
        use_memory: False reads no memory at all.
    """

    invents = True

    def __init__(
        self, network: WorldNetwork, name: str, sampling: SamplingConfig | None = None, *, use_memory: bool = True
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.sampling = sampling or SamplingConfig()
        self._name, self._use_memory = name, use_memory

    @property
    def name(self) -> str:
        """Short identity, written into results."""
        return self._name

    @property
    def label(self) -> str:
        """What stands beside every number."""
        return f"[trained:{self._name}]"

    @property
    def use_memory(self) -> bool:
        """Whether memory tokens are read."""
        return self._use_memory

    @property
    def subframes(self) -> bool:
        """Whether the network reads what memory shows at every raw frame."""
        return self._use_memory and self.network.config.memory_subframes > 0

    @property
    def reads_past(self) -> bool:
        """Whether the network reads the frames before a window."""
        return self.network.config.reads_past

    def to(self, device: torch.device | str) -> WorldModel:
        """Move the network there, and give itself back."""
        self.network.to(device)
        return self

    def with_sampling(self, **changes: object) -> WorldModel:
        """The same weights with other settings."""
        return WorldModel(self.network, self._name, replace(self.sampling, **changes), use_memory=self._use_memory)  # pyright: ignore

    @torch.inference_mode()
    def generate(self, request: WindowRequest) -> Float[Tensor, "l c h w"]:
        """Latents 1..l of the window, on the device of its noise; latent 0 stays the anchor."""
        at = home_of(self.network)
        anchor = request.anchor[None].to(at).float()
        past = request.past if self.reads_past else None
        width = anchor.shape[1] * request.grid.patch**2
        memory = MemoryBatch.pad([request.tokens], width).to(at) if self._use_memory and len(request.tokens) else None
        cameras = (
            window_cameras([request.cameras], request.grid, past and [past.cameras]).to(at)
            if self.sampling.use_cameras
            else None
        )
        texts = [self.network.text.encode([request.prompt])]
        weight = self.sampling.event_guidance if request.avoid else self.sampling.guidance
        if weight != 1 and request.prompt:
            texts.append(self.network.text.encode([request.avoid]) if request.avoid else torch.zeros_like(texts[0]))
        before = None if past is None else past.latents[None].to(at).float()

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            answers, level = [], sigma.to(at).expand(1)  # sigma is a number: only the network wants it elsewhere
            for text in texts:
                out = self.network.predict(x, level, text, anchor, past=before, memory=memory, cameras=cameras)
                answers.append(x0_from(out, x, sigma, self.network.config.prediction))
            if len(answers) == 1:
                return answers[0]
            extra = (weight - 1) * (answers[0] - answers[1])
            in_pixels = (self.network.gain[1][:, None, None, None] * extra).square().sum(1).mean().sqrt()
            return answers[0] + extra * (self.sampling.guidance_limit / in_pixels).clamp(max=1)

        noise = request.noise.to(at).transpose(0, 1)[None].float()
        steps = max(self.sampling.steps, self.sampling.event_steps if request.avoid else 1)
        levels = sigmas(steps, self.sampling.shift)
        latents = sample(denoise, noise, levels, self.sampling.method)[0].transpose(0, 1)
        return latents.contiguous().to(request.noise.device)


def window_cameras(windows: list[Cameras], grid: TokenGrid, past: list[Cameras] | None = None) -> TokenCameras:
    """Projective cameras of windows, one row per latent with its sub-frames; windows are recentred and scaled.

    With `past`, the frames of a latent before each window, they have a row in front.
    """
    views, Ks = (list(x) for x in zip(*(grid.subframe_viewmats(cameras) for cameras in windows), strict=True))
    for i, before in enumerate(past or []):
        views[i], Ks[i] = torch.cat([before.viewmats[None], views[i]]), torch.cat([before.Ks[None], Ks[i]])
    return make_cameras(torch.stack(views), torch.stack(Ks), (grid.width, grid.height))
