"""A rollout as a rerun recording, written while it happens: events, where its cameras stood, and what memory became.

Entities: `world` (x right, y down, z forward), `world/camera` and `world/camera/image` (where every frame stood, its
pinhole and its picture), `world/keyframe` and `world/keyframe/image` (the newest frame that entered memory: pinhole and
picture, with its depth in `world/keyframe/image/depth`), `world/memory/UID` (the patches of one group as points; they
stay until an edit or forgetting takes them away), `mosaic` (what memory showed, hatched in holes), `known` (share of
the view), `memory/patches`, `memory/bytes`, `milliseconds/STAGE`, `prompt` and `log` (words). Timelines: `frame`, and
`time` = frame / fps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem.errors import MissingExtraError, StorageError
from mosaicmem.generation.events import RolloutEvent, StoreStatistics
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.io import files
from mosaicmem.io.exports.cloud import cloud_of
from mosaicmem.io.exports.rrd import png
from mosaicmem.io.exports.shots import Decode, ExportOptions, Shot, camera_now
from mosaicmem.memory.patches import Group, patch_points
from mosaicmem.memory.store import PatchStore

PATCHES = ExportOptions(points="patches")
Eye = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]
"""Where it is, what it looks at, and which way is up for it."""
DRAWN = 0.7
"""Share of a patch's radius that its ball is drawn with: neighbours stay apart, and the cameras among them are seen."""


class EventLog:
    """Writes the recording; what was told is in the file soon after, so that a killed run leaves a readable one.

    Args:
        path: The file. No viewer has to run; `rerun FILE` shows it.
        decode: From latents to pictures, for keyframes of which no picture is at hand.
        fps: Frames a second, for the timeline `time`.

    Raises:
        MissingExtraError: if rerun is not installed.
        OutputExistsError: if the file exists; StorageError: if it cannot be written.
    """

    def __init__(self, path: Path, decode: Decode, fps: float, *, overwrite: bool = False) -> None:
        try:
            import rerun as rr
        except ImportError as error:
            raise MissingExtraError("rerun-sdk", "rerun", "a rerun recording") from error
        files.refuse_existing(path, overwrite)
        self.path, self._rr, self._decode, self._fps = path, rr, decode, fps
        self._known: dict[int, Group] = {}
        self._mosaic = False
        self._eye: Eye | None = None
        self._log = rr.RecordingStream("mosaicmem", send_properties=False)
        self._log.set_log_time_enabled(False)
        self._log.set_log_tick_enabled(False)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._log.save(path, default_blueprint=_layout(False, None))
        except (OSError, RuntimeError) as error:
            raise StorageError(f"{path}: cannot be written ({error})") from error
        self._log.log("world", rr.ViewCoordinates.RDF, static=True)

    def event(self, event: RolloutEvent, cameras: Cameras, store: PatchStore) -> None:
        """One window: its new frames with their cameras, and memory after it."""
        numbers = event.frames.tolist()
        self.frames(event.frames_u8, numbers, cameras, event.coverage.tolist())
        if len(event.mosaic_u8) and not self._mosaic:
            self._mosaic = True
            self._log.send_blueprint(_layout(True, self._eye))
        self.pictures("mosaic", event.mosaic_u8, event.mosaic_frames.tolist()[: len(event.mosaic_u8)])
        self.memory(store, numbers[-1], dict(zip(numbers, event.frames_u8, strict=True)))
        self.numbers(numbers[-1], event.timings, event.store)
        self.words(numbers[0], prompt=event.prompt)
        self.words(numbers[-1], warnings=event.warnings)

    def frames(
        self, frames_u8: NDArray[np.uint8], numbers: Sequence[int], cameras: Cameras, known: Sequence[float] = ()
    ) -> None:
        """Frames `[n H W 3]`, where each stood, and the share of it that memory showed."""
        for i, number in enumerate(numbers):
            self._at(number)
            self._camera("world/camera", cameras[i])
            self._log.log("world/camera/image", self._picture(frames_u8[i]))
            if known:
                self._log.log("known", self._rr.Scalars(known[i]))

    def pictures(self, name: str, frames_u8: NDArray[np.uint8], numbers: Sequence[int]) -> None:
        """Pictures `[n H W 3]` beside the frames of these numbers."""
        for frame, number in zip(frames_u8, numbers, strict=True):
            self._at(number)
            self._log.log(name, self._picture(frame))

    def memory(self, store: PatchStore, now: int, shown: Mapping[int, NDArray[np.uint8]] | None = None) -> None:
        """What is remembered at frame `now`: only what has changed since the last call is written.

        Args:
            shown: Pictures by frame; the keyframes among them are new, others are decoded.
        """
        shown, first = shown or {}, not self._known
        current = {group.uid: group for group in store}
        if first and current:
            self._eye = behind(camera_now(store.group(len(store) - 1))[0], float(store.scale))
            self._log.send_blueprint(_layout(self._mosaic, self._eye))
        for uid in self._known.keys() - current.keys():
            self._at(now)
            self._log.log(f"world/memory/{uid:06d}", self._rr.Clear(recursive=False))
        for uid, group in current.items():
            if self._known.get(uid) is group:
                continue
            frame = group.keyframe.frame
            self._at(min(frame, now) if first or frame in shown else now)
            self._group(group, shown.get(frame))
        self._known = current

    def numbers(self, frame: int, timings: Mapping[str, float], found: StoreStatistics) -> None:
        """How long the stages of a step took, seconds, and how much is remembered."""
        self._at(frame)
        for stage, seconds in timings.items():
            self._log.log(f"milliseconds/{stage}", self._rr.Scalars(1000 * seconds))
        self._log.log("memory/patches", self._rr.Scalars(found.patches))
        self._log.log("memory/bytes", self._rr.Scalars(found.bytes))

    def words(self, frame: int, *, prompt: str = "", said: Sequence[str] = (), warnings: Sequence[str] = ()) -> None:
        """What there is, what was done, and what to beware of."""
        self._at(frame)
        if prompt:
            self._log.log("prompt", self._rr.TextDocument(prompt))
        for level, lines in ((self._rr.TextLogLevel.INFO, said), (self._rr.TextLogLevel.WARN, warnings)):
            for line in lines:
                self._log.log("log", self._rr.TextLog(line, level=level))

    def flush(self) -> None:
        """Everything that was told is in the file."""
        self._log.flush()

    def close(self) -> None:
        """End the recording."""
        self._log.flush()
        self._log.disconnect()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _at(self, frame: int) -> None:
        self._log.set_time("frame", sequence=frame)
        self._log.set_time("time", duration=frame / self._fps)

    def _group(self, group: Group, picture: NDArray[np.uint8] | None) -> None:
        key = group.keyframe
        if picture is None:
            frame = self._decode(key.latents[None].float())[0].float()
        else:
            frame = torch.from_numpy(np.ascontiguousarray(picture)).movedim(-1, 0).float() / 127.5 - 1
        camera, scale = camera_now(group)
        shot = Shot(group, camera, frame, scale)
        points = cloud_of(shot, 0, PATCHES)
        rr = self._rr
        _, radii, _ = patch_points(group)  # in the same order
        drawn = rr.Points3D(points.xyz.astype(np.float32), colors=points.rgb, radii=DRAWN * radii.numpy())
        self._log.log(f"world/memory/{group.uid:06d}", drawn)
        self._camera("world/keyframe", camera)
        self._log.log("world/keyframe/image", self._picture(shot.picture))
        self._log.log("world/keyframe/image/depth", rr.DepthImage(shot.depth.astype(np.float32), meter=1.0))

    def _camera(self, name: str, camera: Cameras) -> None:
        rr, placed = self._rr, camera.c2w[0].double().numpy()
        lens = rr.Pinhole(
            image_from_camera=camera.Ks[0].double().numpy(),
            resolution=[camera.width, camera.height],
            camera_xyz=rr.ViewCoordinates.RDF,
        )
        self._log.log(name, rr.Transform3D(translation=placed[:3, 3], mat3x3=placed[:3, :3]))
        self._log.log(f"{name}/image", lens)

    def _picture(self, frame: NDArray[np.uint8]) -> Any:
        return self._rr.EncodedImage(contents=png(frame, fast=True), media_type="image/png")


def behind(camera: Cameras, scale: float) -> Eye:
    """Where one looks from at first: behind a camera and above it, in a world of `scale` units."""
    c2w = camera.c2w[0].double().numpy()
    up, forward, place = -c2w[:3, 1], c2w[:3, 2], c2w[:3, 3]
    return place - 1.5 * scale * forward + 0.9 * scale * up, place + 0.7 * scale * forward, up


def _layout(mosaic: bool, eye: Eye | None) -> Any:
    """How a viewer lays it out at first: the world, the pictures beside it, curves and words below.

    Args:
        mosaic: Whether there are pictures of what memory shows.
        eye: Where the world is looked at from; None leaves it to the viewer.
    """
    import rerun.blueprint as rb

    depth = rb.Spatial2DView(origin="world/keyframe/image", name="depth of the newest keyframe")
    shows = rb.Spatial2DView(origin="mosaic", name="what memory shows")
    beside = rb.Vertical(
        rb.Spatial2DView(origin="world/camera/image", name="frame"), rb.Tabs(shows, depth) if mosaic else depth
    )
    curves = rb.Horizontal(
        rb.TimeSeriesView(origin="known", name="known by memory"),
        rb.TimeSeriesView(origin="milliseconds", name="milliseconds"),
        rb.Tabs(rb.TextDocumentView(origin="prompt", name="prompt"), rb.TextLogView(origin="log", name="log")),
    )
    room = rb.Spatial3DView(
        origin="world",
        name="world",
        contents=["$origin/**", "- $origin/keyframe/image/depth"],
        eye_controls=None if eye is None else rb.EyeControls3D(position=eye[0], look_target=eye[1], eye_up=eye[2]),
    )
    world = rb.Horizontal(room, beside, column_shares=[2, 1])
    at_first = rb.TimePanel(timeline="frame", state="collapsed")
    return rb.Blueprint(rb.Vertical(world, curves, row_shares=[3, 1]), at_first, collapse_panels=True)
