"""Where a live walk begins: in a procedural world, in a world file, in a recording, or in a posed RGB-D folder."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mosaicmem.apps.cli.backends import TRAINED_SIZE, open_models, open_vae, sized, vae_home
from mosaicmem.apps.cli.config import Config
from mosaicmem.apps.cli.memory_folder import (
    MemoryMeta,
    as_json,
    checked_meta,
    describe_memory,
    load_memory,
    remembered_cameras,
    store_file,
    vae_of,
)
from mosaicmem.apps.cli.options import check_scene, parse_size
from mosaicmem.apps.cli.session import Session
from mosaicmem.apps.cli.settings import build, merge, to_dict
from mosaicmem.apps.cli.sources import default_size
from mosaicmem.apps.cli.starts import StartArgs, begin
from mosaicmem.errors import ConfigError, GeometryError, InputError
from mosaicmem.generation.backend import ROOMS, SYNTHETIC, Models
from mosaicmem.generation.rollout import RolloutConfig
from mosaicmem.generation.state import RolloutState, enter, start
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.trajectories import look_around
from mosaicmem.io.files import finite, parse_frames, refuse_existing, require_file, write_json
from mosaicmem.io.world import WorldFile
from mosaicmem.live.edits import Others
from mosaicmem.live.recording import Recording
from mosaicmem.live.steps import Maker, upright
from mosaicmem.live.walk import MAX_SAID, Walk
from mosaicmem.memory.lifting import lift
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.presets import PARTS, shipped, weights_file
from mosaicmem.models.synthetic import Compositor

MEMORY = "memory"
"""In place of a model: memory alone is shown."""
MOST_RECALLED = 60
LOOKS = 12


@dataclass(frozen=True)
class LiveStart:
    """A walk that is about to begin, and how to begin it again."""

    walk: Walk
    spec: dict[str, Any]
    source: str


def in_scene(seed: int, model: str, size: str | None, out: Path, session: Session, overwrite: bool) -> LiveStart:
    """A fresh walk in a procedural world; its world file is `out`."""
    refuse_existing(out, overwrite)
    spec = {"kind": "scene", "scene": seed, "model": model, "size": size}
    up = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    if model in (SYNTHETIC, MEMORY):
        models, state, caption = _looked_around(seed, size, session)
        source = f"procedural room {seed}, looked around in"
        vae_path = None
    else:
        beginning = begin(StartArgs(scene=seed, model=model, size=size), session)
        models, state, caption = beginning.models, beginning.state, beginning.state.prompt
        source, vae_path = beginning.source, vae_home(model, None)
    maker = Maker(models, _settings(session), model != MEMORY)
    return LiveStart(_in_new_file(maker, state, out, up, source, vae_path, caption, session, overwrite), spec, source)


def in_folder(
    folder: Path, frames: str | None, size: str | None, out: Path, session: Session, overwrite: bool
) -> LiveStart:
    """Memory alone of a posed RGB-D recording, no model; its world file is `out`."""
    from mosaicmem.worlds.rgbd import RGBDFolder

    recording = RGBDFolder.open(folder)
    count = len(recording)
    chosen = parse_frames(frames or f"::{max(1, -(-count // MOST_RECALLED))}", count)
    vae = open_vae(None, session)
    own = recording.cameras.width, recording.cameras.height
    width, height = parse_size(size) if size else default_size(*own, vae, 160)
    grid = session.config.grid.grid(width, height, vae.stride, vae.temporal)
    cameras = recording.cameras.to(dtype=torch.float64).resized(width, height)
    store = PatchStore.empty()
    with session.console.progress("remembering", len(chosen)) as tick:
        for i in chosen:
            rgb, depth = recording.read(i, width, height)
            time = float(recording.timestamps[i])
            latents = vae.encode_image(rgb[None])[0]
            store = store.insert(
                lift(latents, depth, cameras[i], grid, frame=i, time=time, config=session.config.lifting)
            )
            tick()
    if not store.num_patches:
        raise InputError(f"{folder}: no pixel of the {len(chosen)} chosen frames has a depth above 0")
    models = Models(vae, Compositor(), patch=grid.patch)
    state = enter(models, store, cameras[chosen[0]], seed=session.config.seed, retrieval=session.config.retrieval)
    spec = {"kind": "folder", "folder": str(folder.resolve()), "frames": frames, "size": size}
    maker, source = Maker(models, _settings(session), False), f"{len(chosen)} frames of {folder}"
    metric = True if recording.layout.kind != "generic" else None
    walk = _in_new_file(maker, state, out, upright(cameras[chosen]), source, None, "", session, overwrite, metric)
    return LiveStart(walk, spec, source)


def in_world(file: Path, model: str | None, session: Session) -> LiveStart:
    """A walk that goes on in a world file, where it was left."""
    path = store_file(file)
    if require_file(path).suffix == ".safetensors":
        raise InputError(f"{path}: a memory of an older version; 'mosaicmem world merge' makes a world file of it")
    world = WorldFile.open(path, write=True)
    try:
        return _entered(world, path, model, session)
    except BaseException:
        world.close()
        raise


def replayed(path: Path, folder: Path, session: Session) -> tuple[LiveStart, Recording]:
    """The walk that a recording began with, in a world file of its own in `folder`, with the settings it was made
    with."""
    recording = Recording.read(path)
    spec = dict(recording.start)
    _as_recorded(path, spec, folder, session)
    out = folder / "replay.mosaic"
    kind = spec.get("kind")
    size = spec.get("size") if isinstance(spec.get("size"), str) else None
    if kind == "scene" and isinstance(spec.get("scene"), int) and isinstance(spec.get("model"), str):
        check_scene(spec["scene"])
        return in_scene(spec["scene"], spec["model"], size, out, session, False), recording
    if kind == "folder" and isinstance(spec.get("folder"), str):
        frames = spec.get("frames") if isinstance(spec.get("frames"), str) else None
        return in_folder(Path(spec["folder"]), frames, size, out, session, False), recording
    if kind == "world" and isinstance(spec.get("file"), str):
        return _world_as_it_was(path, spec, out, session), recording
    raise InputError(f"{path}: does not say how the walk began; expected a recording of 'mosaicmem explore --record'")


def others(paths: list[Path], models: Models) -> Others:
    """Worlds to splice in, by the name of their file; read when they are wanted."""
    found: dict[str, Any] = {}
    for path in paths:
        name = path.stem if path.suffix else path.name
        if name in found:
            raise ConfigError(f"--other {path}: there are two worlds of the name {name!r}; rename one")

        def load(path: Path = path) -> PatchStore:
            store, meta = load_memory(path)
            if (meta.vae, meta.stride, meta.patch) != (models.vae.name, models.vae.stride, models.patch):
                raise InputError(f"{path}: of the latent space {meta.vae!r}; this world has {models.vae.name!r}")
            return store

        require_file(store_file(path))
        found[name] = load
    return found


def free_name(stem: str = "walk") -> Path:
    """`walk-1.mosaic` in this folder, or the next number that is free."""
    return next(path for i in range(1, 100_000) if not (path := Path(f"{stem}-{i}.mosaic")).exists())


def _settings(session: Session) -> RolloutConfig:
    config = session.config
    return config.generation.rollout(config.retrieval, config.lifting)


def _looked_around(seed: int, size: str | None, session: Session) -> tuple[Models, RolloutState, str]:
    """Without a model that invents, there must be something to see: true frames of one look round."""
    from mosaicmem.worlds import make_scene

    width, height = parse_size(size) if size else TRAINED_SIZE
    models = sized(open_models(SYNTHETIC, session), session, width, height)
    grid = models.grid(width, height)
    scene = make_scene(seed, movers=False)
    first = scene.walk(seed, 2, width=width, height=height)[0]
    around = look_around(first, degrees=360 * (LOOKS - 1) / LOOKS, frames=LOOKS)
    store = PatchStore.empty()
    for i in range(LOOKS - 1, 0, -1):
        seen = scene.render(around[i].to(dtype=torch.float32))
        number = LOOKS - 1 - i
        store = store.insert(
            lift(seen.rgb[0], seen.depth[0], around[i], grid, frame=number, time=number / session.config.video.fps)
        )
    shown = scene.render(around[0].to(dtype=torch.float32))
    words = {"seed": session.config.seed, "prompt": scene.caption, "fps": session.config.video.fps}
    state = start(models, shown.rgb[0], around[0], shown.depth[0], store=store, lifting=session.config.lifting, **words)
    return models, state, scene.caption


def _in_new_file(
    maker: Maker,
    state: RolloutState,
    out: Path,
    up: torch.Tensor,
    source: str,
    vae_path: Path | None,
    caption: str,
    session: Session,
    overwrite: bool,
    metric: bool | None = True,
) -> Walk:
    meta = describe_memory(state.store, state.grid, state.camera.Ks[0], maker.models.vae.name, vae_path, source, metric)
    world = WorldFile.create(out, as_json(meta), overwrite=overwrite)
    walk = Walk(maker, state, world, up, caption=caption)
    walk.stand()
    return walk


def _entered(world: WorldFile, path: Path, model: str | None, session: Session) -> LiveStart:
    store = world.store
    meta = checked_meta(path, world.meta, store)
    cameras = remembered_cameras(store)
    if cameras is None:
        raise InputError(f"{path}: an empty memory; there is nothing to walk in")
    model = model or (ROOMS if meta.vae_path == ROOMS else MEMORY)
    models = _models_of(path, meta, model, session)
    fx, fy, cx, cy = meta.intrinsics
    K = torch.tensor([[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]], dtype=torch.float64)
    pose, caption, said = _stood(path, world)
    words = {"seed": session.config.seed, "prompt": caption, "fps": session.config.video.fps}
    newest = cameras[len(cameras) - 1].c2w
    state = None
    for c2w in (pose, newest):
        if c2w is None:
            continue
        camera = Cameras.from_c2w(c2w, K, meta.width, meta.height)
        try:
            state = enter(models, store, camera, **words, retrieval=session.config.retrieval)
            break
        except GeometryError:  # memory shows nothing there
            continue
    if state is None:
        raise InputError(f"{path}: memory shows nothing, not even where its newest frame was seen from")
    spec = {
        "kind": "world",
        "file": str(path.resolve()),
        "operation": world.head.head,
        "digest": world.digest(),
        "pose": state.camera.c2w[0].flatten().tolist(),
        "caption": caption,
        "said": said,
        "model": model,
    }
    maker = Maker(models, _settings(session), model != MEMORY)
    walk = Walk(maker, state, world, upright(cameras), caption=caption, said=said)
    return LiveStart(walk, spec, f"world file {path}")


def _models_of(path: Path, meta: MemoryMeta, model: str, session: Session) -> Models:
    if model in (SYNTHETIC, MEMORY):
        return Models(vae_of(meta, None, session), Compositor(), patch=meta.patch)
    models = open_models(model, session)
    if (models.vae.name, models.vae.stride, models.patch) != (meta.vae, meta.stride, meta.patch):
        raise InputError(
            f"{path}: holds latents of {meta.vae!r}, {model} reads {models.vae.name!r}; add --model memory"
        )
    return models


def _stood(path: Path, world: WorldFile) -> tuple[torch.Tensor | None, str, list[str]]:
    """Where the last walk stood, what was there, and what was said in it; a file may not say."""
    walk = world.meta.get("walk")
    if not isinstance(walk, dict):
        return None, "a room.", []
    pose, caption, said = walk.get("pose"), walk.get("caption"), walk.get("said")
    words = [text for text in said if isinstance(text, str)][:MAX_SAID] if isinstance(said, list) else []
    caption = caption if isinstance(caption, str) else "a room."
    if not isinstance(pose, list) or len(pose) != 16:
        return None, caption, words
    values = [finite(x, f"{path}: walk: pose") for x in pose]
    return torch.tensor(values, dtype=torch.float64).reshape(1, 4, 4), caption, words


def _world_as_it_was(path: Path, spec: dict[str, Any], out: Path, session: Session) -> LiveStart:
    """A copy of a world file, at the operation that a recording began at."""
    file, model = Path(spec["file"]), spec.get("model")
    shutil.copyfile(require_file(file), out)
    with WorldFile.open(out, write=True) as world:
        operation = spec.get("operation")
        if not isinstance(operation, int):
            raise InputError(f"{path}: does not say at which operation of {file} the walk began")
        if world.head.head != operation:
            world.branch("replay", operation)
            world.checkout("replay")
        if world.digest() != spec.get("digest"):
            raise InputError(f"{file}: operation {operation} is not the world in which {path} was recorded")
        world.describe({**world.meta, "walk": {key: spec.get(key) for key in ("pose", "caption", "said")}})
    start = in_world(out, model if isinstance(model, str) else None, session)
    began = {key: spec[key] for key in ("file", "operation", "digest")}  # of this too: the copy is thrown away
    return LiveStart(start.walk, {**start.spec, **began}, f"world file {file}, as it was")


def made_with(spec: dict[str, Any], session: Session) -> dict[str, Any]:
    """What a recording says of its beginning: how it began, all settings, and which weights made its frames."""
    return {**spec, "settings": to_dict(session.config), "weights": weights_digest(spec.get("model"))}


def weights_digest(model: Any) -> str | None:
    """16 hex digits of the weights of a model by name or folder; None where there are none."""
    if not isinstance(model, str) or model in (SYNTHETIC, MEMORY):
        return None
    h = hashlib.blake2b(digest_size=8)
    for part in PARTS:
        file = shipped(part) if model == ROOMS else weights_file(Path(model), part)
        h.update(file.read_bytes() if file.is_file() else b"none")
    return h.hexdigest()


def _as_recorded(path: Path, spec: dict[str, Any], folder: Path, session: Session) -> None:
    """Give the session the settings of a recording, not today's defaults; say what cannot be as it was.

    Networks compute where they are asked to today: the card of the recording may not be here.
    """
    note, here = session.console.note, session.config.device
    recorded = spec.get("settings")
    if isinstance(recorded, dict):
        problems: list[str] = []
        known = merge(Config, [(str(path), recorded)], problems)
        then = known.get("device", "cpu")
        known["device"] = here
        write_json(folder / "settings.json", known)
        config = build(Config, folder / "settings.json")
        for problem in problems:
            note(f"warning: {problem}; this is left out, and frames may differ")
        if unsaid := _unsaid(to_dict(config), known):
            note(f"warning: {path} says nothing of {', '.join(unsaid)}: today's defaults, and frames may differ")
        if then != here:
            note(f"warning: {path} was made on {then}, and is replayed on {here}: frames may differ by rounding")
        if session.config not in (config, Config(device=here)):
            note(f"warning: replayed with the settings of {path}; your own are left out")
        session.config = config
        torch.set_num_threads(config.threads)
    if "weights" in spec and spec["weights"] != weights_digest(spec.get("model")):
        note(f"warning: {path} was made with other weights of {spec.get('model')}; its frames will differ")


def _unsaid(full: dict[str, Any], given: dict[str, Any], at: str = "") -> list[str]:
    """Names of the settings of `full` that are not in `given`."""
    out = []
    for key, value in full.items():
        if isinstance(value, dict):
            out += _unsaid(value, given.get(key, {}), f"{at}{key}.")
        elif key not in given:
            out.append(f"{at}{key}")
    return out
