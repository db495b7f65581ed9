"""All settings of the command line. Each section is the dataclass of the thing it configures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import arg

from mosaicmem.errors import refuse
from mosaicmem.generation.keyframes import KeyframeConfig
from mosaicmem.generation.rollout import RolloutConfig
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.lifting import LiftingConfig
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.models.conditioning import Alignment
from mosaicmem.models.refiner import REFINE
from mosaicmem.models.world_model import SamplingConfig


@dataclass(frozen=True)
class GridConfig:
    """How an image is cut into latent cells and tokens.

    Attributes:
        stride: Pixels per latent cell where no pretrained VAE decides; 1 keeps pixels as they are.
        patch: Latent cells per token, along each axis; unset: tokens of 8 pixels, or of 16 for a VAE of stride 8 where
            the image fits them.
    """

    stride: int = 1
    patch: int | None = None

    def __post_init__(self) -> None:
        refuse(
            (not 1 <= self.stride <= 64, f"stride = {self.stride}: expected 1 to 64 pixels"),
            (self.patch is not None and not 1 <= self.patch <= 64, f"patch = {self.patch}: expected 1 to 64 cells"),
        )

    def grid(self, width: int, height: int, stride: int | None = None, temporal: int = 1) -> TokenGrid:
        """The token grid of an image; `stride` and `temporal` are those of the VAE."""
        stride = stride or self.stride
        patch = self.patch
        if patch is None:
            token = 16 if stride >= 8 and width % 16 == 0 and height % 16 == 0 else 8
            patch = max(1, token // stride)
        return TokenGrid(width, height, stride, patch, temporal)


@dataclass(frozen=True)
class VideoConfig:
    """Videos and contact sheets.

    Attributes:
        fps: Frames per second of written videos.
        panel: Smallest height of a panel in a comparison, pixels; smaller frames are enlarged by a whole factor.
        sheet_rows: Moments shown on a contact sheet.
    """

    fps: float = 16.0
    panel: int = 240
    sheet_rows: int = 6

    def __post_init__(self) -> None:
        refuse(
            (not 0 < self.fps <= 240, f"fps = {self.fps}: expected above 0, up to 240"),
            (not 16 <= self.panel <= 2160, f"panel = {self.panel}: expected 16 to 2160 pixels"),
            (not 1 <= self.sheet_rows <= 64, f"sheet_rows = {self.sheet_rows}: expected 1 to 64"),
        )


@dataclass(frozen=True)
class GenerationConfig:
    """How frames are generated.

    Attributes:
        window_size: Frames of a window, its first one (the last frame before it) included.
        alignment: How memory tokens are read: `rope`, `latent` or `mixture`.
        write_every: Remember the last frame of every so many latents; 0 remembers nothing that is generated.
        min_novel: Remember a frame if memory did not show more than this share of it.
        only_novel: Of a frame, remember only what memory did not show.
        min_confidence: Remember no pixel whose depth is believed less than this.
        consistent: Remember nothing that lies where an observed frame saw free space.
        anchor_noise: Spread of noise on the last frame's latent, against drift; trained models know up to 0.15.
        refine: How far memory sharpens frames: 0 not at all, 1 as far as it can, at the cost of what has moved.
        agree: Up to this difference, in pixels of [-1, 1], memory's own detail is taken: for worlds in which nothing
            moves 0.1 is best. Nothing without `refine`.
        memory_mb: Largest memory in megabytes; beyond it, what others show as well is forgotten. Unset: no limit.
    """

    window_size: int = 17
    alignment: Alignment = "mixture"
    write_every: int = 1
    min_novel: float = 0.0
    only_novel: bool = False
    min_confidence: float = 0.0
    consistent: bool = True
    anchor_noise: float = 0.0
    refine: float = REFINE
    agree: float = 0.0
    memory_mb: float | None = None

    def __post_init__(self) -> None:
        refuse(
            (not 2 <= self.window_size <= 10_000, f"window_size = {self.window_size}: expected 2 to 10000 frames"),
            (not 0 <= self.write_every <= 10_000, f"write_every = {self.write_every}: expected 0 to 10000 latents"),
            (not 0 <= self.min_novel < 1, f"min_novel = {self.min_novel}: expected 0 up to, not including, 1"),
            (not 0 <= self.min_confidence <= 1, f"min_confidence = {self.min_confidence}: expected 0 to 1"),
            (not 0 <= self.anchor_noise <= 1, f"anchor_noise = {self.anchor_noise}: expected 0 to 1"),
            (not 0 <= self.refine <= 1, f"refine = {self.refine}: expected 0 to 1"),
            (not 0 <= self.agree <= 2, f"agree = {self.agree}: expected 0 to 2"),
            (
                self.memory_mb is not None and not 0 <= self.memory_mb <= 1e9,
                f"memory_mb = {self.memory_mb}: expected 0 to 1000000000 megabytes",
            ),
        )

    def rollout(self, retrieval: RetrievalConfig, lifting: LiftingConfig) -> RolloutConfig:
        """The generator's own settings."""
        keyframes = KeyframeConfig(
            interval=self.write_every,
            min_novel=self.min_novel,
            only_novel=self.only_novel,
            min_confidence=self.min_confidence,
            consistent=self.consistent,
            memory_bytes=None if self.memory_mb is None else int(1e6 * self.memory_mb),
            lifting=lifting,
        )
        how = self.anchor_noise, self.refine, self.agree
        return RolloutConfig(self.alignment, retrieval, keyframes, *how, show_mosaic=False)


@dataclass(frozen=True)
class Sampling(SamplingConfig):
    """How a trained generator samples.

    Attributes:
        steps: Evaluations a window. Memory is followed best by one; more make sharper guesses of what nobody has seen.
        event_steps: At least so many in the window where something begins.
        guidance: Weight of the text: 1 takes the conditional answer, above 1 goes beyond it.
        event_guidance: The same in the window where something begins: more of it than the words alone would give.
        guidance_limit: How much guidance may change a window at one evaluation, root mean square in pixels of [-1, 1].
        shift: More of the steps at high noise for values above 1.
        method: `euler` or `multistep`.
        use_cameras: Whether attention carries cameras (PRoPE).
    """

    use_cameras: Annotated[
        bool, arg(name="cameras", help="Attention without cameras (PRoPE off).", help_behavior_hint="")
    ] = True

    @property
    def pace(self) -> str:
        """What a window costs, in words."""
        return "1 step a window" if self.steps == 1 else f"{self.steps} {self.method} steps a window"


@dataclass(frozen=True)
class DemoConfig:
    """The walk of the demo.

    Attributes:
        num_frames: Frames of the walk, out and back; the way back starts in the middle.
        width: Image width, pixels.
        height: Image height, pixels.
        remember_every: Frames of the way out between two that are remembered.
        world: Seed of the world that a trained model walks through; one that no model was trained on by default.
        path: Its way: away on the spot and back (`turn`), or some steps and back (`walk`).
        sway: How far the compositor's way back strays from the way out, metres; less where something stands in the way.
    """

    num_frames: int = 97
    width: int = 128
    height: int = 128
    remember_every: int = 4
    world: int = 900_012
    path: Literal["turn", "walk"] = "turn"
    sway: float = 0.25

    def __post_init__(self) -> None:
        refuse(
            (not 5 <= self.num_frames <= 100_000, f"num_frames = {self.num_frames}: expected 5 to 100000"),
            (not 16 <= self.width <= 4096, f"width = {self.width}: expected 16 to 4096 pixels"),
            (not 16 <= self.height <= 4096, f"height = {self.height}: expected 16 to 4096 pixels"),
            (not 1 <= self.remember_every <= 10_000, f"remember_every = {self.remember_every}: expected 1 to 10000"),
            (not 0 <= self.world < 2**63, f"world = {self.world}: expected 0 to 2^63 - 1"),
            (not 0 <= self.sway <= 2, f"sway = {self.sway}: expected 0 to 2 metres"),
        )


@dataclass(frozen=True)
class Config:
    """The root of all settings.

    Attributes:
        seed: Seed of everything random.
        threads: CPU threads of the tensor library.
        device: Where networks compute.
    """

    seed: int = 42
    threads: int = 1
    device: str = "cpu"
    grid: GridConfig = field(default_factory=GridConfig)
    lifting: LiftingConfig = field(default_factory=LiftingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    sampling: Sampling = field(default_factory=Sampling)
    demo: DemoConfig = field(default_factory=DemoConfig)

    def __post_init__(self) -> None:
        refuse(
            (not 0 <= self.seed < 2**63, f"seed = {self.seed}: expected 0 to 2^63 - 1"),
            (not 1 <= self.threads <= 256, f"threads = {self.threads}: expected 1 to 256"),
        )
