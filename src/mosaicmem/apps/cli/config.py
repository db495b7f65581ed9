"""All settings of the command line. Each section is the dataclass of the thing it configures."""

from __future__ import annotations

from dataclasses import dataclass, field

from mosaicmem.errors import ConfigError
from mosaicmem.generation.keyframes import KeyframeConfig
from mosaicmem.generation.rollout import RolloutConfig
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.lifting import LiftingConfig
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.models.conditioning import Alignment


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
    """

    window_size: int = 17
    alignment: Alignment = "mixture"

    def __post_init__(self) -> None:
        refuse(
            (not 2 <= self.window_size <= 10_000, f"window_size = {self.window_size}: expected 2 to 10000 frames"),
        )

    def rollout(self, retrieval: RetrievalConfig, lifting: LiftingConfig) -> RolloutConfig:
        """The generator's own settings."""
        return RolloutConfig(self.alignment, retrieval, KeyframeConfig(lifting=lifting), show_mosaic=False)


@dataclass(frozen=True)
class DemoConfig:
    """The walk of the demo.

    Attributes:
        num_frames: Frames of the walk, out and back; the way back starts in the middle.
        width: Image width, pixels.
        height: Image height, pixels.
        remember_every: Frames of the way out between two that are remembered.
        sway: How far the way back strays from the way out, metres; less where something stands in the way.
    """

    num_frames: int = 97
    width: int = 128
    height: int = 128
    remember_every: int = 4
    sway: float = 0.25

    def __post_init__(self) -> None:
        refuse(
            (not 5 <= self.num_frames <= 100_000, f"num_frames = {self.num_frames}: expected 5 to 100000"),
            (not 16 <= self.width <= 4096, f"width = {self.width}: expected 16 to 4096 pixels"),
            (not 16 <= self.height <= 4096, f"height = {self.height}: expected 16 to 4096 pixels"),
            (not 1 <= self.remember_every <= 10_000, f"remember_every = {self.remember_every}: expected 1 to 10000"),
            (not 0 <= self.sway <= 2, f"sway = {self.sway}: expected 0 to 2 metres"),
        )


@dataclass(frozen=True)
class Config:
    """The root of all settings.

    Attributes:
        seed: Seed of everything random.
        threads: CPU threads of the tensor library.
    """

    seed: int = 42
    threads: int = 1
    grid: GridConfig = field(default_factory=GridConfig)
    lifting: LiftingConfig = field(default_factory=LiftingConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    video: VideoConfig = field(default_factory=VideoConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    demo: DemoConfig = field(default_factory=DemoConfig)

    def __post_init__(self) -> None:
        refuse(
            (not 0 <= self.seed < 2**63, f"seed = {self.seed}: expected 0 to 2^63 - 1"),
            (not 1 <= self.threads <= 256, f"threads = {self.threads}: expected 1 to 256"),
        )


def refuse(*checks: tuple[bool, str]) -> None:
    """Raise `ConfigError` with the text of every check that is true."""
    problems = [text for bad, text in checks if bad]
    if problems:
        raise ConfigError("; ".join(problems))
