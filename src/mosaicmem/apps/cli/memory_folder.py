"""A memory on disk: the store, how its latents were made, and the cameras it was seen from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mosaicmem._shapes import Float, Tensor
from mosaicmem.apps.cli.backends import open_vae
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.views import to_u8
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.generation.backend import ROOMS
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.io.exports.shots import camera_now
from mosaicmem.io.files import finite
from mosaicmem.io.safetensors_memory import read_safetensors_memory
from mosaicmem.io.store_file import load_store, save_store
from mosaicmem.io.world.pictures import Picture
from mosaicmem.memory.patches import Keyframe
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.vae import VAE

STORE_FILE = "world.mosaic"
OLD_STORE_FILE = "memory.safetensors"


@dataclass(frozen=True)
class MemoryMeta:
    """What the file says beside the store.

    Attributes:
        width, height, stride, patch, temporal: The token grid the memory was made for.
        vae: Name of the autoencoder its latents belong to.
        vae_path: Folder of its weights, `rooms` for those that come with the package, or None where it has none.
        intrinsics: fx, fy, cx, cy in pixels of the first remembered frame.
        source: Where the frames came from.
        frames: Indices of the remembered frames in the source.
        metric: Whether a world unit is a metre; None = unknown.
    """

    width: int
    height: int
    stride: int
    patch: int
    temporal: int
    vae: str
    vae_path: str | None
    intrinsics: tuple[float, float, float, float]
    source: str
    frames: list[int] = field(default_factory=list)
    metric: bool | None = None

    @property
    def grid(self) -> TokenGrid:
        """The token grid."""
        return TokenGrid(self.width, self.height, self.stride, self.patch, self.temporal)

    @property
    def unit(self) -> str:
        """Name of the world's unit, for axes."""
        return "m" if self.metric else "world units"


def save_memory(
    folder: Path,
    store: PatchStore,
    meta: MemoryMeta,
    *,
    model: str | None = None,
    seed: int | None = None,
    thumbnails: Mapping[Keyframe, Picture] | None = None,
) -> None:
    """Write store and description into an existing folder; `model` and `seed` say what generated its keyframes."""
    save_store(store, folder / STORE_FILE, as_json(meta), model=model, seed=seed, thumbnails=thumbnails)


class Decoded(Mapping[Keyframe, Picture]):
    """The pictures of a memory's keyframes as its autoencoder sees them, each decoded when it is asked for."""

    def __init__(self, store: PatchStore, vae: VAE) -> None:
        self._keyframes = list(dict.fromkeys(group.keyframe for group in store))
        self._vae = vae

    def __getitem__(self, keyframe: Keyframe) -> Picture:
        return to_u8(self._vae.decode_image(keyframe.latents[None].float())[0])

    def __iter__(self) -> Iterator[Keyframe]:
        return iter(self._keyframes)

    def __len__(self) -> int:
        return len(self._keyframes)


def as_json(meta: MemoryMeta) -> dict[str, Any]:
    """The description as a world file holds it."""
    return {**asdict(meta), "intrinsics": list(meta.intrinsics)}


def describe_memory(
    store: PatchStore,
    grid: TokenGrid,
    K: Float[Tensor, "3 3"],
    vae: str,
    vae_path: Path | None,
    source: str,
    metric: bool | None,
) -> MemoryMeta:
    """The description of a memory: `K` of its cameras, and which autoencoder its latents belong to."""
    return MemoryMeta(
        grid.width,
        grid.height,
        grid.stride,
        grid.patch,
        grid.temporal,
        vae,
        None if vae_path is None else str(vae_path if str(vae_path) == ROOMS else vae_path.resolve()),
        (float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])),
        source[:4000],
        [group.keyframe.frame for group in store],
        metric,
    )


def is_memory(path: Path) -> bool:
    """Whether `path` is a folder that `remember` or a relative wrote, or the world file in it."""
    return store_file(path).is_file()


def store_file(path: Path) -> Path:
    """The world file that `path`, a folder or the file itself, stands for; or that of an older version."""
    if path.suffix in (".mosaic", ".safetensors"):
        return path
    old = path / OLD_STORE_FILE
    return old if old.is_file() and not (path / STORE_FILE).exists() else path / STORE_FILE


def load_memory(path: Path) -> tuple[PatchStore, MemoryMeta]:
    """Read and check a memory folder or a world file. What keyframes hold stays in the file until it is used.

    Raises:
        InputError: if the folder or its file is missing or damaged, or the description does not fit the store.
    """
    file = store_file(path)
    if not file.is_file():
        found = f"no {STORE_FILE} in it" if path.exists() else "no such folder"
        raise InputError(f"{path}: {found}; expected a memory folder written by 'mosaicmem remember'")
    store, raw = read_safetensors_memory(file) if file.suffix == ".safetensors" else load_store(file)
    return store, checked_meta(file, raw, store)


def checked_meta(file: Path, raw: dict[str, Any], store: PatchStore) -> MemoryMeta:
    """The description of a memory, every field checked, and against the store.

    Raises:
        InputError: if it is not that of a memory, or does not fit.
    """
    meta = _meta(file, raw)
    if len(store):
        first = store.group(0).keyframe
        if (first.stride, first.patch) != (meta.stride, meta.patch):
            raise InputError(
                f"{file}: the description says stride {meta.stride} and patch {meta.patch}, the patches have "
                f"{first.stride} and {first.patch}"
            )
    return meta


def _meta(file: Path, raw: dict[str, Any]) -> MemoryMeta:
    """The description in a memory file, every field checked."""
    sizes = {name: _count(file, raw, name) for name in ("width", "height", "stride", "patch", "temporal")}
    intrinsics = raw.get("intrinsics")
    if not isinstance(intrinsics, list) or len(intrinsics) != 4:
        raise InputError(f"{file}: intrinsics = {intrinsics!r:.80}; expected fx, fy, cx, cy in pixels")
    fx, fy, cx, cy = (finite(value, f"{file}: intrinsics") for value in intrinsics)
    if min(fx, fy) <= 0:
        raise InputError(f"{file}: focal lengths {fx:g}, {fy:g}; expected more than 0 pixels")
    frames = raw.get("frames", [])
    if not isinstance(frames, list) or not all(isinstance(i, int) for i in frames):
        raise InputError(f"{file}: frames is no list of whole numbers")
    meta = MemoryMeta(
        **sizes,
        vae=_text(file, raw, "vae"),
        vae_path=None if raw.get("vae_path") is None else _text(file, raw, "vae_path"),
        intrinsics=(fx, fy, cx, cy),
        source=_text(file, raw, "source"),
        frames=frames,
        metric=raw.get("metric") if isinstance(raw.get("metric"), bool) else None,
    )
    try:
        _ = meta.grid
    except ConfigError as error:
        raise InputError(f"{file}: {error}") from error
    return meta


def vae_of(meta: MemoryMeta, path: Path | None, session: Session) -> VAE:
    """The autoencoder that the latents of a memory belong to; `path` says where its weights lie now.

    Raises:
        InputError: if `path` holds another one.
    """
    if meta.vae_path is None and path is None:
        grid = replace(session.config.grid, stride=meta.stride)
        session.config = replace(session.config, grid=grid)
    vae = open_vae(path or (Path(meta.vae_path) if meta.vae_path else None), session)
    if vae.name != meta.vae:
        if path is None:
            raise InputError(
                f"this memory holds latents of the VAE {meta.vae!r}, which does not come with the package; name its "
                "weights with --vae"
            )
        raise InputError(f"this memory holds latents of the VAE {meta.vae!r}, --vae gives {vae.name!r}")
    return vae


def vae_label(meta: MemoryMeta) -> tuple[str, str]:
    """Back-end label and note of a memory whose latents are not decoded in this run."""
    return ("real" if meta.vae_path else "synthetic"), f"no model runs; latents of the {meta.vae} VAE"


def remembered_cameras(store: PatchStore) -> Cameras | None:
    """The cameras that the groups were seen from, where they lie now; None for an empty memory."""
    if not len(store):
        return None
    return Cameras.cat([camera_now(group)[0] for group in store])


def _count(path: Path, raw: dict[str, Any], name: str) -> int:
    value = raw.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 2**16:
        raise InputError(f"{path}: {name} = {value!r:.80}; expected a whole number from 1 to 65536")
    return value


def _text(path: Path, raw: dict[str, Any], name: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str) or len(value) > 4096:
        raise InputError(f"{path}: {name} = {value!r:.80}; expected text")
    return value
