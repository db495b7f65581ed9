"""Episodes rendered ahead: one file each, in a folder outside the repository.

A clip is colour for every frame, exact depth for every reference frame (every fourth), cameras and words. A
folder of posed videos is turned into the same thing (`training.posed_video`): training knows one kind of data.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Container, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mosaicmem._shapes import Float, Tensor, UInt8
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.evaluation.parallel import losing_none
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io.files import atomic_path
from mosaicmem.worlds.episodes import FPS, HELD_OUT, Episode, Event, events_of, make_episode, movers
from mosaicmem.worlds.film import film

VERSION = "episodes-1"
STEP = 4  # depth is kept for every so many frames
BLOCK = 8  # pixels of a side of the blocks that say what moves
_UNSEEN = 1e-4  # mean square difference of two small pictures up to which nobody sees a door
_SHOWS = 0.01  # and above which it fills some of the frame
HELD_FOLDER = "held-out"
"""Folder inside a folder of clips, or of encoded clips, that holds those which are never trained on."""


@dataclass(frozen=True)
class Clip:
    """A posed video with depth.

    Attributes:
        name: What it is called; of a procedural episode its seed.
        rgb: `[n 3 H W]` uint8.
        depth: `[k H W]` z-depth of frames 0, 4, 8 ..., 0 = unknown.
        cameras: One per frame, float64.
        caption, event, event_frame: Words; `event` holds from `event_frame` on ("" and n: never).
        happens: What begins by itself, by rising frame.
        moving: `[n h w]` uint8, how much of each block of `BLOCK` pixels shows what moves by itself, 255 = all of it;
            None where nobody knows.
    """

    name: str
    rgb: UInt8[Tensor, "n 3 H W"]
    depth: Float[Tensor, "k H W"]
    cameras: Cameras
    caption: str
    event: str
    event_frame: int
    happens: tuple[Event, ...] = ()
    moving: UInt8[Tensor, "n h w"] | None = None

    def __len__(self) -> int:
        return len(self.rgb)

    def frames(self, index: slice | list[int]) -> Float[Tensor, "n 3 H W"]:
        """Frames in [-1, 1]."""
        return self.rgb[index].float() / 127.5 - 1


class ClipCache:
    """Clips of a folder, read on demand.

    Args:
        folder: Where they are; `default_cache()` for procedural episodes.
        keep: So many of the clips read last stay in memory (5 MB each at 128x128 and 97 frames).
    """

    def __init__(self, folder: Path, keep: int = 0) -> None:
        self.folder, self._keep = folder, keep
        self._read = lru_cache(keep)(read_clip)

    def __reduce__(self) -> tuple[type[ClipCache], tuple[Path, int]]:
        """Another process reads for itself."""
        return ClipCache, (self.folder, self._keep)

    def path(self, name: str) -> Path:
        """File of a clip."""
        return self.folder / f"{name}.safetensors"

    def names(self) -> list[str]:
        """Names of the clips that are there, numbers in numerical order."""
        found = [p.stem for p in self.folder.glob("*.safetensors")]
        return sorted(found, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))

    def load(self, name: str) -> Clip:
        """Read a clip.

        Raises:
            InputError: if it is not there, broken, or of another version.
        """
        return self._read(self.path(name))


def write_clip(path: Path, clip: Clip) -> None:
    """Write a clip, whole or not at all."""
    tensors = {
        "rgb": clip.rgb.contiguous(),
        "depth": clip.depth.half(),
        "viewmats": clip.cameras.viewmats.double().contiguous(),
        "Ks": clip.cameras.Ks.double().contiguous(),
    }
    if clip.moving is not None:
        tensors["moving"] = clip.moving.contiguous()
    words = {"caption": clip.caption, "event": clip.event, "event_frame": clip.event_frame, "happens": clip.happens}
    words |= {"version": VERSION}
    with atomic_path(path, overwrite=True) as part:
        part.write_bytes(save(tensors, {"mosaicmem": json.dumps(words)}))


def read_clip(path: Path) -> Clip:
    """Read a clip that `write_clip` wrote.

    Raises:
        InputError: if it is not there, broken, or of another version.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such clip; render it with `mosaicmem train data`")
    words, tensors = read_tensors(path, VERSION)
    rgb, depth = tensors["rgb"], tensors["depth"].float()
    cameras = Cameras(tensors["viewmats"], tensors["Ks"], rgb.shape[-1], rgb.shape[-2])
    said = words["caption"], words["event"], int(words["event_frame"]), told(words)
    return Clip(path.stem, rgb, depth, cameras, *said, tensors.get("moving"))


def told(words: dict[str, Any]) -> tuple[Event, ...]:
    """What begins by itself, from the words of a file."""
    return tuple(Event(int(frame), str(text)) for frame, text in words.get("happens", ()))


def read_tensors(
    path: Path, wanted: str, only: Container[str] | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Words and tensors of a safetensors file of ours, or only some of them where it has them.

    Raises:
        InputError: if it is broken, such as one that was copied by half, or of another version.
    """
    try:
        with safe_open(str(path), "pt") as file:  # pyright: ignore[reportArgumentType]
            words = json.loads((file.metadata() or {}).get("mosaicmem", "{}"))
            if words.get("version") == wanted:
                keys = [key for key in file.keys() if only is None or key in only]  # noqa: SIM118 - it is no mapping
                return words, {key: file.get_tensor(key) for key in keys}
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); delete it and make it again") from error
    raise InputError(f"{path}: is not of version {wanted}; delete it and make it again")


def render_clip(seed: int, size: int = 128, frames: int | None = None) -> Clip:
    """The episode of a seed, filmed; over `frames` frames (see `make_episode`) if given."""
    return film_clip(make_episode(seed, size=size, frames=frames))


def film_clip(episode: Episode) -> Clip:
    """An episode as a clip."""
    shot = episode.film()
    rgb = ((shot.rgb.clamp(-1, 1) + 1) * 127.5).round().byte()
    text, frame = ("", len(rgb)) if episode.event is None else (episode.event.text, episode.event.frame)
    moves = torch.isin(shot.object_id, movers(episode.scene)).float()
    moving = (255 * F.avg_pool2d(moves, BLOCK)).round().byte()
    said = episode.caption, text, frame, episode.happens
    return Clip(str(episode.seed), rgb, shot.depth[::STEP], episode.cameras, *said, moving)


def render_twins(clip: Clip, episode: Episode, count: int) -> list[Clip]:
    """What else could have happened in the clip of an episode, drawn by its seed; called `SEED-1`, `SEED-2` ...

    With an event up to `count` others of its kind: everything before it is the same, and so is depth. Without one, but
    with a door that opens, one in which it stays shut.
    """
    seed = episode.seed
    if not clip.event:
        return [replace(film_clip(episode.undisturbed()), name=f"{seed}-1")] if count and episode.happens else []
    noun = clip.event.split()[1]
    others = [text for text in events_of(episode.scene) if text.split()[1] == noun and text != clip.event]
    chosen = random.Random(seed).sample(others, min(count, len(others)))  # noqa: S311 - pictures, not secrets
    twins = []
    for k, text in enumerate(chosen, start=1):
        after = episode.film(slice(clip.event_frame, None), event=text).rgb
        rgb = torch.cat([clip.rgb[: clip.event_frame], ((after.clamp(-1, 1) + 1) * 127.5).round().byte()])
        twins.append(replace(clip, name=f"{seed}-{k}", rgb=rgb, event=text))
    return twins


def comes_into_sight(episode: Episode, window: int = 16) -> bool:
    """Whether something that began by itself while nobody saw it shows within a window of frames: an open door.

    Told by small pictures of every fourth frame, with it and without; windows of twins begin there.
    """
    if not episode.happens:
        return False
    cameras, times = episode.cameras[::STEP].resized(32, 32), torch.arange(0, len(episode), STEP) / FPS
    seen, without = (film(e.scene, cameras, times, finer=1).rgb for e in (episode, episode.undisturbed()))
    differs = (seen - without).square().flatten(1).mean(1)
    alike, shows = differs < _UNSEEN, differs > _SHOWS
    begun = (episode.happens[0].frame - 1) // STEP
    starts = range(begun + 1, len(differs) - window // STEP)
    return any(bool(alike[s - 1 : s + 1].all() and shows[s + 1 : s + window // STEP + 1].any()) for s in starts)


def render_ahead(
    folder: Path,
    seeds: Iterable[int],
    *,
    size: int = 128,
    processes: int = 1,
    frames: int | None = None,
    event: str = "",
    twins: int = 0,
) -> Iterator[int]:
    """Render what is missing, yielding each seed that is done. Few `frames` an episode give many worlds in little time.

    Args:
        folder, seeds, size, processes, frames: What, where and how (see `make_episode`).
        event: Only episodes whose event has this word in it are rendered: what is rare can be had more often. With
            `door`, those without an event in which a door that opened unseen comes into sight.
        twins: So many other things that could have happened are rendered too, see `render_twins`; doors held shut,
            where one that opened unseen comes into sight.

    Raises:
        ConfigError: if a seed is held out.
    """
    wanted = list(seeds)
    if any(seed in HELD_OUT for seed in wanted):
        raise ConfigError(f"seeds {HELD_OUT.start} to {HELD_OUT.stop - 1} are held out: never trained on")
    folder.mkdir(parents=True, exist_ok=True)
    cache = ClipCache(folder)
    missing = [seed for seed in wanted if not cache.path(str(seed)).is_file()]
    yield from (seed for seed in wanted if seed not in set(missing))
    if processes <= 1:
        for seed in missing:
            yield _render_to(folder, seed, size, frames, event, twins)
        return
    with losing_none(processes), ProcessPoolExecutor(processes) as pool:
        for start in range(0, len(missing), 8 * processes):
            batch = missing[start : start + 8 * processes]
            count = len(batch)
            each = [folder] * count, batch, [size] * count, [frames] * count, [event] * count, [twins] * count
            yield from pool.map(_render_to, *each)


def render_held_out(folder: Path, count: int, *, size: int = 128) -> Iterator[int]:
    """Render the first `count` held-out episodes, where missing, into `folder/held-out`, yielding each seed."""
    target = folder / HELD_FOLDER
    target.mkdir(parents=True, exist_ok=True)
    for seed in HELD_OUT[:count]:
        yield seed if (target / f"{seed}.safetensors").is_file() else _render_to(target, seed, size)


def held_out(folder: Path) -> list[Clip]:
    """The held-out clips beside the clips of a folder.

    Raises:
        InputError: if there are none.
    """
    cache = ClipCache(folder / HELD_FOLDER)
    clips = [cache.load(name) for name in cache.names()]
    if not clips:
        raise InputError(f"{cache.folder}: no held-out clips; make some with `mosaicmem train data --held-out 6`")
    return clips


def default_cache(size: int = 128) -> Path:
    """Where rendered episodes are kept: `$MOSAICMEM_CACHE`, or the user's cache folder."""
    base = os.environ.get("MOSAICMEM_CACHE") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "mosaicmem" / f"{VERSION}-{size}"


def _render_to(
    folder: Path, seed: int, size: int, frames: int | None = None, event: str = "", twins: int = 0
) -> int:  # fmt: skip
    torch.set_num_threads(1)
    episode = make_episode(seed, size=size, frames=frames)
    unseen = bool(twins or event == "door") and episode.event is None and comes_into_sight(episode)
    if event == "door" and not unseen:
        return seed
    if event not in ("", "door") and (episode.event is None or event not in episode.event.text.split()):
        return seed
    clip = film_clip(episode)
    for twin in render_twins(clip, episode, twins) if episode.event or unseen else ():
        write_clip(folder / f"{twin.name}.safetensors", twin)
    write_clip(folder / f"{seed}.safetensors", clip)  # last: it says that all are there
    return seed
