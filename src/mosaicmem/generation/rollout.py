"""The whole generator: `rollout_step(models, state, cameras) -> (state, event)`, and the loop around it.

One window: retrieve, condition, generate, decode, give depth to the new keyframes, lift, insert. `n` poses give
exactly `n` new frames, however they are cut into windows; every window starts from the last frame of the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import ConfigError, GeometryError
from mosaicmem.generation.backend import Models
from mosaicmem.generation.clock import Clock
from mosaicmem.generation.depth import depth_of
from mosaicmem.generation.events import STAGES, RolloutEvent, StoreStatistics
from mosaicmem.generation.keyframes import KeyframeConfig, context_of, write_keyframes
from mosaicmem.generation.noise import frame_noise
from mosaicmem.generation.script import Script
from mosaicmem.generation.state import RolloutState
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.memory.retrieval import RetrievalConfig
from mosaicmem.memory.store import PatchStore
from mosaicmem.models.conditioning import Alignment, WindowView, assemble, look
from mosaicmem.models.generator import Past, WindowRequest
from mosaicmem.models.refiner import REFINE, Refiner, refine
from mosaicmem.models.synthetic import push_pull

MAX_SCENE_STEP = 3.0  # |t| / s of a window beyond which attention to cameras degrades


@dataclass(frozen=True)
class RolloutConfig:
    """How a rollout runs.

    Attributes:
        alignment: How memory tokens are read: `rope`, `latent` or `mixture`.
        retrieval: How memory is asked.
        keyframes: What of the new frames enters memory.
        anchor_noise: Spread of noise on the last frame's latent as the generator sees it, against drift: fine errors of
            earlier windows drown in it. A model must have been trained with such anchors (ours: up to 0.15).
        refine: How far decoded frames are sharpened by what memory shows of them, where the models can and Warped
            Latent is read: 0 not at all, 1 as far as the refiner goes, which loses more of what has moved.
        agree: Difference in decoded pixels of [-1, 1] up to about which memory's own detail is taken in place of the
            refined (`models.refiner.settled`): sharper places, at the cost of what has moved. 0 takes none.
        show_mosaic: Decode what memory showed for the event; costs one more decoding a window.
    """

    alignment: Alignment = "mixture"
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    keyframes: KeyframeConfig = field(default_factory=KeyframeConfig)
    anchor_noise: float = 0.0
    refine: float = REFINE
    agree: float = 0.0
    show_mosaic: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.anchor_noise <= 1:
            raise ConfigError(f"anchor_noise = {self.anchor_noise}: expected 0 to 1")
        if not 0 <= self.refine <= 1 or self.agree < 0:
            raise ConfigError(f"refine = {self.refine}, agree = {self.agree}: expected 0 to 1, and at least 0")


class Window(NamedTuple):
    """Cameras of one window, the anchor's first; `fresh` counts the frames that are handed out."""

    cameras: Cameras
    first: int  # global index of cameras[0]
    fresh: int


def rollout(
    models: Models,
    state: RolloutState,
    cameras: Cameras,
    window: int = 17,
    config: RolloutConfig | None = None,
    script: Script | None = None,
    before: Callable[[RolloutState], RolloutState] | None = None,
) -> Iterator[tuple[RolloutState, RolloutEvent]]:
    """Generate a frame for every pose, window by window; the events' frames add up to exactly `len(cameras)`.

    Args:
        models: What generates.
        state: Where to go on from.
        cameras: The path. If it begins at the camera of a given first frame that has not been handed out yet, that
            frame is its first one; otherwise its first pose follows the state's last frame.
        window: Frames of a window with its anchor; must be 1 + a multiple of the VAE's temporal stride.
        script: Words along the path, in place of the state's prompt; windows are cut where something happens.
        before: A change of the state before every window, such as forgetting.

    Raises:
        ConfigError: if `window` does not fit (the message names the nearest sizes that do), or something happens at a
            frame that the path does not have.
        GeometryError: if the cameras' image size is not the state's.
    """
    temporal = models.vae.temporal
    check_window(window, temporal)
    start, said = 0, script.caption if script else ""
    while start < len(cameras):
        first = start + int(_starts_at_anchor(state, cameras[start]))
        stop = first + window - 1
        if script is not None:
            if start == 0:
                script.check(len(cameras), first, temporal)
            said, until_now = script.prompt(first), said
            state = replace(state, prompt=said, avoid=until_now if said != until_now else state.avoid)
            stop = script.end_of_window(first, stop, temporal)
        state = before(state) if before else state
        state, event = rollout_step(models, state, cameras[start:stop], config)
        start += len(event.frames)
        yield state, event


def rollout_step(
    models: Models, state: RolloutState, cameras: Cameras, config: RolloutConfig | None = None
) -> tuple[RolloutState, RolloutEvent]:
    """One window: `len(cameras)` new frames that follow the state's last frame (see `rollout` for the first one).

    Raises:
        GeometryError: on no cameras, or cameras of another image size than the state's.
    """
    config = config or RolloutConfig()
    window = _window(state, cameras)
    if len(window.cameras) == 1:
        return _given(models, state)
    clock = Clock()
    memory = _memory(models, state)
    index = state.grid.frames_of_latents(len(window.cameras))[1:, -1]
    numbers = (window.first + index).tolist()
    with clock("retrieve"):
        refiner = _refiner(models, memory, config)
        view = look(
            memory,
            window.cameras,
            state.grid,
            config.retrieval.inventing() if models.generator.invents else config.retrieval,
            every=models.generator.subframes or refiner is not None,
            kernel=models.vae.kernel,
        )
        if not len(memory):  # which does not say how many channels nothing has
            good = view.read[1]
            view = replace(view, read=(torch.zeros(len(good), *state.anchor.shape), good))
        mosaic = view.mosaic
        request = _request(models, state, window.cameras, numbers, view, memory, config)
    with clock("denoise"):
        latents = models.generator.generate(request)
    with clock("decode"):
        clip = torch.cat([state.anchor[None], latents]).transpose(0, 1)[None]
        frames = models.vae.decode_video(clip)[0].transpose(0, 1)
        if refiner is not None:
            frames = torch.cat(
                [frames[:1], refine(refiner, models.vae, frames[1:], *view.frames, config.refine, config.agree)]
            )
        frames = frames[: len(window.cameras)]
        # the given frame itself, not its reconstruction
        frames = torch.cat([state.last_frame[None], frames[1:]])
    with clock("depth"):
        # a generator that needs neither memory nor a pushed frame needs no depth
        estimator = models.depth if models.generator.use_memory or not models.generator.invents else None
        depth = depth_of(estimator, frames[index], mosaic, state.depth_scale, memory.observed)
    store, written = write_keyframes(
        models, state, frames[index], mosaic.cameras, numbers, depth, mosaic, config.keyframes, clock
    )
    new = replace(state, store=store, anchor_pending=False, depth_scale=depth.scale)
    with clock("lift"):
        new = _move_anchor(models, new, frames[-1], window.cameras, numbers[-1], depth.depth[-1], config)
    new = replace(new, past=_past(models, latents, window.cameras), avoid="")  # it has begun
    with clock("show"):
        pictures = _pictures(models, request, config.show_mosaic)
    event = RolloutEvent(
        frames_u8=to_u8(frames[-window.fresh :]),
        frames=np.arange(new.next_frame - window.fresh, new.next_frame),
        mosaic_u8=pictures,
        mosaic_frames=np.array(numbers, np.int64),
        mosaic_coverage=mosaic.coverage.numpy(),
        coverage=_frame_coverage(state, mosaic, len(window.cameras))[-window.fresh :],
        written=written,
        timings=clock.seconds,
        store=statistics(store),
        label=models.label,
        prompt=state.prompt,
        tokens=len(request.tokens),
        depth_source=depth.source,
        warnings=_warnings(request),
    )
    return new, event


def check_window(window: int, temporal: int) -> None:
    """Raise `ConfigError` unless `window` is at least 2 and 1 + a multiple of `temporal`."""
    if window >= 2 and (window - 1) % temporal == 0:
        return
    below = max(1, (window - 1) // temporal) * temporal + 1
    raise ConfigError(
        f"a window of {window} frames does not fit a VAE with {temporal} frames per latent; "
        f"expected 1 + a multiple of {temporal}, such as {below} or {below + temporal}"
    )


def to_u8(frames: Float[Tensor, "n 3 H W"]) -> np.ndarray:
    """`[n H W 3]` uint8 of frames in [-1, 1], rounded."""
    return ((frames.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def from_u8(frames_u8: np.ndarray) -> Float[Tensor, "n 3 H W"]:
    """Frames in [-1, 1] of `[n H W 3]` uint8; `to_u8` gives the same bytes back."""
    return torch.from_numpy(np.ascontiguousarray(frames_u8)).permute(0, 3, 1, 2).float() / 127.5 - 1


def statistics(store: PatchStore) -> StoreStatistics:
    """How much a store holds. A keyframe that several groups share is counted once in `bytes`."""
    keyframes = {id(group.keyframe): group.keyframe for group in store}
    masks = sum(group.mask.numel() for group in store if group.mask is not None)
    return StoreStatistics(len(store), store.num_patches, sum(k.nbytes for k in keyframes.values()) + masks)


def _starts_at_anchor(state: RolloutState, camera: Cameras) -> bool:
    same = state.anchor_pending and torch.allclose(camera.viewmats.double(), state.camera.viewmats, atol=1e-9)
    return same and torch.allclose(camera.Ks.double(), state.camera.Ks, atol=1e-6)


def _window(state: RolloutState, cameras: Cameras) -> Window:
    if not len(cameras):
        raise GeometryError("a window needs at least one camera")
    if (cameras.width, cameras.height) != (state.grid.width, state.grid.height):
        raise GeometryError(
            f"cameras have {cameras.width}x{cameras.height} pixels, the rollout {state.grid.width}x"
            f"{state.grid.height}; use cameras.resized()"
        )
    cameras = cameras.to(dtype=torch.float64, device="cpu")
    if _starts_at_anchor(state, cameras[0]):
        return Window(cameras, state.next_frame - 1, len(cameras))
    return Window(Cameras.cat([state.camera, cameras]), state.next_frame - 1, len(cameras))


def _given(models: Models, state: RolloutState) -> tuple[RolloutState, RolloutEvent]:
    """A window of the given first frame alone: it is handed out, and nothing is generated."""
    none = np.zeros(0, np.int64)
    event = RolloutEvent(
        frames_u8=to_u8(state.last_frame[None]),
        frames=np.array([state.next_frame - 1]),
        mosaic_u8=np.zeros((0, state.grid.height, state.grid.width, 3), np.uint8),
        mosaic_frames=none,
        mosaic_coverage=none.astype(np.float64),
        coverage=np.ones(1),
        written=(),
        timings=dict.fromkeys(STAGES, 0.0),
        store=statistics(state.store),
        label=models.label,
        prompt=state.prompt,
    )
    return replace(state, anchor_pending=False), event


def _memory(models: Models, state: RolloutState) -> PatchStore:
    """What is retrieved from: long-term memory; without memory, nothing.

    A generator that does not invent has only what it is shown: its baseline sees the last frame, pushed by its depth.
    One that does has that frame as its anchor, and pushing it would be a memory of one frame.
    """
    if models.generator.use_memory:
        return state.store
    if models.generator.invents:
        return PatchStore.empty()
    return PatchStore.empty() if state.context is None else PatchStore.empty().insert(state.context)


def _refiner(models: Models, memory: PatchStore, config: RolloutConfig) -> Refiner | None:
    """What sharpens frames by what memory shows of them, if anything does."""
    wanted = config.refine > 0 and config.alignment != "rope" and models.generator.use_memory and len(memory) > 0
    return models.refiner if wanted else None


def _request(
    models: Models,
    state: RolloutState,
    cameras: Cameras,
    numbers: list[int],
    view: WindowView,
    memory: PatchStore,
    config: RolloutConfig,
) -> WindowRequest:
    anchor, (picture, good) = state.anchor, view.reference
    if config.anchor_noise:
        # negative: no frame is generated from this noise
        noise = frame_noise(state.seed, [-state.next_frame], tuple(anchor.shape))[0]
        anchor = anchor + config.anchor_noise * noise.to(anchor)
    return WindowRequest(
        anchor=anchor,
        canvas=picture.to(state.anchor.dtype),
        good=good,
        tokens=assemble(
            memory,
            view.mosaic,
            config.alignment,
            first_latent=1,
            subframes=view.earlier if models.generator.subframes else None,
            times=torch.tensor(numbers, dtype=torch.float64) / state.fps,
            read=view.read,
            tau=config.retrieval.tau,
        ),
        cameras=cameras.recentred().scaled(1 / state.scale),
        noise=frame_noise(state.seed, numbers, tuple(state.anchor.shape)),
        grid=state.grid,
        prompt=state.prompt,
        avoid=state.avoid,
        past=_before(models, state),
    )


def _before(models: Models, state: RolloutState) -> Past | None:
    """The state's past as the generator sees it: from the anchor's camera, in scene units."""
    if state.past is None or not models.generator.reads_past:
        return None
    cameras = Cameras.cat([state.camera, state.past.cameras]).recentred().scaled(1 / state.scale)
    return replace(state.past, cameras=cameras[1:])


def _past(models: Models, latents: Float[Tensor, "l c h w"], cameras: Cameras) -> Past | None:
    """A window's last latent; None if frames of it were not asked for."""
    temporal = models.vae.temporal
    if (len(cameras) - 1) % temporal:
        return None
    return Past(latents[-1], cameras[len(cameras) - temporal :])


def _move_anchor(
    models: Models,
    state: RolloutState,
    frame: Tensor,
    cameras: Cameras,
    number: int,
    depth: Tensor,
    config: RolloutConfig,
) -> RolloutState:
    anchor = models.vae.encode_image(frame[None])[0]
    camera = cameras[len(cameras) - 1]
    return replace(
        state,
        last_frame=frame,
        anchor=anchor,
        camera=camera,
        context=context_of(state, anchor, depth, camera, number, config.keyframes.lifting),
        next_frame=number + 1,
    )


def _pictures(models: Models, request: WindowRequest, wanted: bool) -> np.ndarray:
    """What memory showed, with diagonal hatching where it showed nothing."""
    grid = request.grid
    if not wanted or not len(request.canvas):
        return np.zeros((0, grid.height, grid.width, 3), np.uint8)
    # a decoder looks at neighbours: the zeros of holes would bleed into what memory shows
    pictures = to_u8(models.vae.decode_image(push_pull(request.canvas, request.good)))
    holes = ~request.good.repeat_interleave(grid.stride, 1).repeat_interleave(grid.stride, 2).numpy()
    y, x = np.mgrid[: grid.height, : grid.width]
    period = max(4, grid.width // 16)
    hatch = np.where(((x + y) % period < period / 2)[..., None], np.uint8(58), np.uint8(34))
    return np.where(holes[..., None], hatch, pictures)


def _frame_coverage(state: RolloutState, mosaic: Mosaic, count: int) -> np.ndarray:
    """Coverage of the latent of every frame of the window, the anchor's first."""
    latent_of = np.zeros(count, np.int64)
    for l, raw in enumerate(state.grid.frames_of_latents(count).tolist()):
        latent_of[raw] = l
    return np.concatenate([[1.0], mosaic.coverage.numpy()])[latent_of]


def _warnings(request: WindowRequest) -> tuple[str, ...]:
    reach = float(request.cameras.centers.norm(dim=-1).max())
    if reach <= MAX_SCENE_STEP:
        return ()
    return (
        f"the path goes {reach:.1f} scene units (median depths of the first frame) away within one window, more than "
        f"{MAX_SCENE_STEP:g}; is its unit of length that of the depth?",
    )
