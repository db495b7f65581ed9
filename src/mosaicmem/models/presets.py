"""What ships with the package, and the sizes of published video transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from mosaicmem.models.transformer import TransformerConfig

Part = Literal["vae", "depth", "world", "refiner"]
PARTS: tuple[Part, ...] = get_args(Part)
"""Networks of a complete model. A checkpoint folder holds one file for each, see `weights_file`."""
OPTIONAL: tuple[Part, ...] = ("refiner",)
"""Those that a model can do without."""

WAN_2_1_T2V_1B = TransformerConfig(
    num_attention_heads=12, attention_head_dim=128, text_dim=4096, ffn_dim=8960, num_layers=30
)
WAN_2_2_TI2V_5B = TransformerConfig(
    num_attention_heads=24, attention_head_dim=128, in_channels=48, out_channels=48, text_dim=4096, ffn_dim=14336,
    num_layers=30,
)  # fmt: skip


def weights_file(folder: Path, part: Part) -> Path:
    """Where a checkpoint folder holds the weights of a part; whether they exist is not looked at."""
    return folder / f"{part}.safetensors"


def shipped(part: Part) -> Path:
    """The weights of a part that come with the package."""
    return weights_file(Path(__file__).resolve().parents[1] / "weights", part)
