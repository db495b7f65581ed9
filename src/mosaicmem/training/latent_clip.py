"""Clips as the world model sees them: latents instead of frames, encoded once and kept in files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safetensors.torch import save
from torch.nn import functional as F

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import InputError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.files import atomic_path
from mosaicmem.models.vae import VAE
from mosaicmem.training.cache import STEP, Clip, read_tensors, told
from mosaicmem.worlds.episodes import Event, spoken

LATENT_VERSION = "latents-1"


@dataclass(frozen=True)
class LatentClip:
    """A clip as the model sees it.

    Attributes:
        image: `[k c h w]` image latents of frames 0, 4, 8 ...
        echo: `[k c h w]` the same of frames that went through the autoencoder once as part of a group: what memory
            holds of generated frames at best.
        groups: `[k - 1 c h w]` latents of frames 1..4, 5..8, ...
        depth: `[k H W]` z-depth of frames 0, 4, 8 ...
        cameras: One per raw frame, float64.
        caption, event, event_frame, happens: Words (see `cache.Clip`).
        moving: `[k - 1 h w]` share of each cell, over the group's frames, that shows what moves by itself; None where
            nobody knows.
    """

    image: Float[Tensor, "k c h w"]
    echo: Float[Tensor, "k c h w"]
    groups: Float[Tensor, "g c h w"]
    depth: Float[Tensor, "k H W"]
    cameras: Cameras
    caption: str
    event: str
    event_frame: int
    happens: tuple[Event, ...] = ()
    moving: Float[Tensor, "g h w"] | None = None

    @property
    def beginnings(self) -> list[int]:
        """Groups with which something begins, rising."""
        frames = [frame for frame, _ in self.happens] + ([self.event_frame] if self.event else [])
        return sorted((frame - 1) // STEP for frame in frames)

    def prompt(self, group: int) -> str:
        """The words that hold when a group begins: the caption, and a sentence for all that has happened."""
        told = [*self.happens, *([Event(self.event_frame, self.event)] if self.event else [])]
        return spoken(self.caption, told, STEP * (group + 1))


def encode_clip(vae: VAE, clip: Clip) -> LatentClip:
    """Encode a clip once."""
    n = 1 + (len(clip) - 1) // STEP * STEP
    frames = clip.frames(slice(0, n))
    coded = vae.encode_video(frames.transpose(0, 1)[None])
    moving = None
    if clip.moving is not None:
        moving = F.interpolate(clip.moving[None, 1:n].float() / 255, coded.shape[-2:], mode="area")[0]
        moving = moving.unflatten(0, (-1, STEP)).mean(1)
    seen = vae.decode_video(coded)[0].transpose(0, 1)[::STEP]
    return LatentClip(
        vae.encode_image(frames[::STEP]),
        vae.encode_image(seen),
        coded[0, :, 1:].transpose(0, 1),
        clip.depth[: 1 + (n - 1) // STEP],
        clip.cameras[:n],
        clip.caption,
        clip.event,
        clip.event_frame,
        clip.happens,
        moving,
    )


def write_latents(path: Path, clip: LatentClip) -> None:
    """Write an encoded clip, whole or not at all (float16)."""
    tensors = {k: getattr(clip, k).half().contiguous() for k in ("image", "echo", "groups", "depth")}
    if clip.moving is not None:
        tensors["moving"] = clip.moving.half().contiguous()
    tensors |= {"viewmats": clip.cameras.viewmats.contiguous(), "Ks": clip.cameras.Ks.contiguous()}
    words = {"caption": clip.caption, "event": clip.event, "event_frame": clip.event_frame, "happens": clip.happens}
    words |= {"width": clip.cameras.width, "height": clip.cameras.height, "version": LATENT_VERSION}
    with atomic_path(path, overwrite=True) as part:
        part.write_bytes(save(tensors, {"mosaicmem": json.dumps(words)}))


@lru_cache(400)
def read_latents(path: Path) -> LatentClip:
    """Read what `write_latents` wrote; clips read last stay in memory (2 MB each)."""
    if not path.is_file():
        raise InputError(f"{path}: no such encoded clip")
    words, tensors = read_tensors(path, LATENT_VERSION)
    floats = {k: tensors[k].float() for k in ("image", "echo", "groups", "depth", "moving") if k in tensors}
    cameras = Cameras(tensors["viewmats"], tensors["Ks"], words["width"], words["height"])
    said = {k: words[k] for k in ("caption", "event", "event_frame")}
    return LatentClip(**floats, cameras=cameras, happens=told(words), **said)


def read_setting(path: Path) -> tuple[bytes, str, bool]:
    """Of an encoded clip: what twins have in common (path of the camera, caption, when the event happens), what happens
    on demand or by itself, and whether it says what moves. Reads no latents."""
    words, tensors = read_tensors(path, LATENT_VERSION, only=("viewmats", "moving"))
    common = repr((words["caption"], words["event_frame"])).encode() + tensors["viewmats"].numpy().tobytes()
    return common, repr((words["event"], told(words))), "moving" in tensors


def read_words(path: Path) -> tuple[str, tuple[Event, ...]]:
    """What happens on demand in an encoded clip, or "", and by itself. Reads no latents."""
    words, _ = read_tensors(path, LATENT_VERSION, only=())
    return words["event"], told(words)
