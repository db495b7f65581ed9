"""`RolloutState`: all that one window hands to the next, as a value.

State goes in and a new state comes out, so resuming, editing between two steps (put another store into the state),
forking and replaying are the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.generation.backend import Models
from mosaicmem.generation.depth import cells_to_pixels, depth_of
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory.lifting import LiftingConfig, lift
from mosaicmem.memory.patches import Keyframe
from mosaicmem.memory.retrieval import RetrievalConfig, retrieve
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.conditioning import canvas
from mosaicmem.models.generator import Past
from mosaicmem.models.synthetic import push_pull


@dataclass(frozen=True)
class RolloutState:
    """Where a rollout stands.

    Attributes:
        store: Long-term memory.
        last_frame: `[3 H W]` in [-1, 1], the newest frame: the anchor of the next window.
        anchor: `[c h w]` image-mode latent of `last_frame`.
        camera: Its camera, float64, a sequence of one.
        context: The newest frame lifted with the depth known for it, or None: all that the no-memory baseline sees.
        grid: Strides and sizes.
        next_frame: Global index of the next new frame.
        anchor_pending: The anchor was given and has not been handed out yet: a path that begins at its camera gets it
            as its first frame.
        scale: `s`, median depth of the first anchor; translations are divided by it for the generator.
        depth_scale: Factor last found between estimated depth and memory, or None.
        seed: Of all noise.
        prompt: Of the windows to come.
        avoid: What guidance leads away from in the next of them, in which something begins: the prompt without that.
        fps: Frames a second, for the times of keyframes.
        past: The frames that end with the anchor, where they are known; cameras float64.
    """

    store: PatchStore
    last_frame: Float[Tensor, "3 H W"]
    anchor: Float[Tensor, "c h w"]
    camera: Cameras
    context: Keyframe | None
    grid: TokenGrid
    next_frame: int
    anchor_pending: bool
    scale: float
    depth_scale: float | None = None
    seed: int = 42
    prompt: str = ""
    fps: float = 24.0
    past: Past | None = None
    avoid: str = ""


def start(
    models: Models,
    image: Float[Tensor, "3 H W"],
    camera: Cameras,
    depth: Float[Tensor, "H W"] | None = None,
    *,
    store: PatchStore | None = None,
    exclude: Bool[Tensor, "H W"] | None = None,
    seed: int = 42,
    prompt: str = "",
    fps: float = 24.0,
    lifting: LiftingConfig | None = None,
) -> RolloutState:
    """Begin a rollout at a given frame.

    Args:
        image: The first frame, in [-1, 1].
        camera: Its camera, one, at the image's size.
        depth: z-depth, 0 = unknown. None asks `models.depth` (aligned to `store`); without that either, nothing is
            remembered of it.
        store: Memory to begin with; default empty. Frame numbers go on after the newest remembered frame.
        exclude: Pixels not to remember (sky, moving things).

    Raises:
        GeometryError: if image, camera and depth differ in size.
        ConfigError: if the image size does not fit the strides.
    """
    camera = _checked(image[None], camera)
    grid = models.grid(camera.width, camera.height)
    store = store or PatchStore.empty()
    first = 1 + max((group.keyframe.frame for group in store), default=-1)
    anchor = models.vae.encode_image(image[None])[0]
    scale = confidence = None
    if depth is None and models.depth is not None:
        found = depth_of(models.depth, image[None], retrieve(store, camera, grid), None)
        depth, scale = found.depth[0], found.scale or 1.0
        confidence = None if found.confidence is None else found.confidence[0]
    context = None
    if depth is not None:
        context = lift(
            anchor,
            depth,
            camera,
            grid,
            confidence=confidence,
            exclude=exclude,
            frame=first,
            time=first / _positive(fps),
            config=lifting,
        )
        store = store.insert(context)
    return RolloutState(
        store, image, anchor, camera, context, grid, first + 1, True, store.scale, scale, seed, prompt, fps
    )


def enter(
    models: Models,
    store: PatchStore,
    camera: Cameras,
    *,
    seed: int = 42,
    prompt: str = "",
    fps: float = 24.0,
    retrieval: RetrievalConfig | None = None,
) -> RolloutState:
    """Begin a rollout inside a memory: the first frame is what memory shows there, holes filled smoothly.

    Raises:
        GeometryError: if memory shows nothing at all in that view.
        ConfigError: if `fps` is not above 0.
    """
    if len(camera) != 1:
        raise GeometryError(f"entering a memory takes one camera, got {len(camera)}")
    grid = models.grid(camera.width, camera.height)
    mosaic = retrieve(store, camera, grid, retrieval)
    picture, good = canvas(store, mosaic, (retrieval or RetrievalConfig()).tau)
    if not bool(good.any()):
        raise GeometryError("memory shows nothing from that camera; start where something was seen, or from an image")
    anchor = push_pull(picture, good)
    frame = models.vae.decode_image(anchor)[0]
    first = 1 + max(group.keyframe.frame for group in store)
    context = lift(
        anchor[0],
        cells_to_pixels(mosaic.depth, grid)[0],
        camera,
        grid,
        frame=first,
        time=first / _positive(fps),
        origin="generated",
    )
    camera = camera.to(dtype=torch.float64)
    return RolloutState(
        store, frame, anchor[0], camera, context, grid, first + 1, True, store.scale, seed=seed, prompt=prompt, fps=fps
    )


def observe(
    models: Models,
    state: RolloutState,
    frames: Float[Tensor, "n 3 H W"],
    cameras: Cameras,
    depth: Float[Tensor, "n H W"] | None = None,
    *,
    exclude: Bool[Tensor, "n H W"] | None = None,
    every: int = 1,
    lifting: LiftingConfig | None = None,
) -> RolloutState:
    """Take real frames into memory; the last of them becomes the next anchor.

    Args:
        frames: In [-1, 1], consecutive after `state.next_frame - 1`.
        cameras: One each.
        depth: z-depth, 0 = unknown. None asks `models.depth` (aligned to memory); without that either, nothing is
            remembered.
        every: Remember every so many frames, counted back from the last one; 0 remembers none.
    """
    if every < 0:
        raise ConfigError(f"every = {every}: expected 0 (remember none) or a number of frames")
    if not len(frames):
        return state
    cameras = _checked(frames, cameras)
    last = len(frames) - 1
    remembered = {i for i in range(len(frames)) if every and (last - i) % every == 0}
    lifted = sorted(remembered | {last})
    scale, confidence = state.depth_scale, None
    if depth is not None:
        depth = depth[lifted]
    elif models.depth is not None:
        mosaic = retrieve(state.store, cameras[lifted], state.grid)
        found = depth_of(models.depth, frames[lifted], mosaic, scale)
        depth, confidence, scale = found.depth, found.confidence, found.scale
    store, context = state.store, None
    for k, i in enumerate(lifted if depth is not None else ()):
        assert depth is not None
        number = state.next_frame + i
        keyframe = lift(
            models.vae.encode_image(frames[i : i + 1])[0],
            depth[k],
            cameras[i],
            state.grid,
            confidence=None if confidence is None else confidence[k],
            exclude=None if exclude is None else exclude[i],
            frame=number,
            time=number / state.fps,
            config=lifting,
        )
        store = store.insert(keyframe) if i in remembered else store
        context = keyframe if i == last else context
    return replace(
        state,
        store=store,
        last_frame=frames[-1],
        anchor=models.vae.encode_image(frames[-1:])[0],
        camera=cameras[len(cameras) - 1],
        context=context,
        next_frame=state.next_frame + len(frames),
        anchor_pending=False,
        scale=state.scale if len(state.store) else store.scale,
        depth_scale=scale,
        past=_past(models, state, frames, cameras),
    )


def _past(models: Models, state: RolloutState, frames: Tensor, cameras: Cameras) -> Past | None:
    """The newest frames as one group, if there are enough of them."""
    count = models.vae.temporal
    if not models.generator.reads_past or len(frames) < count:
        return None
    clip = torch.cat([state.last_frame[None], frames])[-count - 1 :]
    latents = models.vae.encode_video(clip.transpose(0, 1)[None])[0, :, 1]
    return Past(latents, cameras[len(cameras) - count :])


def _checked(frames: Tensor, cameras: Cameras) -> Cameras:
    if len(cameras) != len(frames) or (cameras.height, cameras.width) != tuple(frames.shape[-2:]):
        raise GeometryError(
            f"{len(frames)} frames of {frames.shape[-1]}x{frames.shape[-2]} pixels, but {len(cameras)} cameras of "
            f"{cameras.width}x{cameras.height}; expected one camera a frame, at its size (Cameras.resized)"
        )
    return cameras.to(dtype=torch.float64, device="cpu")


def _positive(fps: float) -> float:
    if not fps > 0:
        raise ConfigError(f"fps = {fps}: expected more than 0")
    return fps
