"""A world in viser: what its patches hold as points in their colours, and for every picture the camera that saw it.

viser has the conventions of ours (x right, y down, z forward; pixels from the upper left); only its up has to be said.
"""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from mosaicmem._shapes import Float, Tensor, UInt8
from mosaicmem.errors import ConfigError, MissingExtraError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.se3 import rotation_to_quat
from mosaicmem.io.exports.cloud import Cloud, cloud_of
from mosaicmem.io.exports.shots import Decode, ExportOptions, held, shots
from mosaicmem.live.door import is_everywhere, is_loopback, listen
from mosaicmem.memory.store import PatchStore

MOST_CAMERAS = 120
"""Cameras that are drawn; of a longer walk every so many-th."""
MOST_POINTS = 400_000
THUMBNAIL = 96
"""Longer side of the picture in a frustum, pixels."""
SEEN, MADE = (61, 139, 253), (245, 158, 11)  # the colours of the page


@dataclass(frozen=True)
class Drawn:
    """What of a world is drawn: a part of it per picture, in the order of frames.

    Attributes:
        clouds: Points of each part, one a cell of its patches.
        cameras: Where each was seen from, as it lies now.
        thumbnails: What was seen.
        frames: Numbers of the frames.
        generated: Whether each was generated.
        up: Unit direction of the world's up.
        scale: Typical distance, world units.
        size: Typical extent of a cell, world units.
    """

    clouds: list[Cloud]
    cameras: Cameras
    thumbnails: list[UInt8[np.ndarray, "h w 3"]]
    frames: list[int]
    generated: list[bool]
    up: Float[Tensor, "3"]
    scale: float
    size: float


def drawn(store: PatchStore, decode: Decode, up: Callable[[Cameras], Float[Tensor, "3"]], at: float | None) -> Drawn:
    """Decode what is held at a second, or now.

    Raises:
        InputError: if nothing is.
    """
    groups = sorted(held(store, at), key=lambda group: group.age_key)
    clouds, cameras, thumbnails, sizes = [], [], [], [torch.empty(0, dtype=torch.float64)]
    for i, shot in enumerate(shots(groups, decode)):
        clouds.append(cloud_of(shot, i, ExportOptions()))
        depth = torch.from_numpy(shot.cell_depth)
        sizes.append(depth[depth > 0] * shot.group.keyframe.stride / float(shot.camera.Ks[0, 0, 0]))
        cameras.append(shot.camera)
        small = Image.fromarray(shot.picture)
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        thumbnails.append(np.asarray(small))
    every = -(-sum(map(len, clouds)) // MOST_POINTS)
    if every > 1:
        clouds = [_every(cloud, every) for cloud in clouds]
    path = Cameras.cat(cameras)
    frames = [group.keyframe.frame for group in groups]
    made = [group.keyframe.origin == "generated" for group in groups]
    every_size = torch.cat(sizes)
    size = float(every_size.median()) if len(every_size) else 0.05
    return Drawn(clouds, path, thumbnails, frames, made, up(path), float(store.scale), size)


class WorldView:
    """A viser server that shows a world; nothing of the world can be changed through it.

    Pages of other sites are refused (`Origin`), and viser's button that shares a view over the internet does nothing.

    Args:
        port: 0 takes a free one.

    Raises:
        MissingExtraError: if viser is not installed; ConfigError: if the address cannot be had.
    """

    def __init__(self, world: Drawn, title: str, host: str = "127.0.0.1", port: int = 8421) -> None:
        try:
            import viser
        except ImportError as error:
            raise MissingExtraError("viser", "viser", "view --viser") from error
        with listen(host, port) as free:  # viser would take the next one without a word
            port = free.getsockname()[1]
        with _own_pages_only(host, port), contextlib.redirect_stdout(io.StringIO()):
            self.server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        if self.server.get_port() != port:
            self.server.stop()
            raise ConfigError(f"cannot listen at {host}:{port}; choose another --port")
        self.server.request_share_url = lambda verbose=True: None
        self.port = port
        self._world = world
        self._draw()
        self._controls(title)

    def stop(self) -> None:
        """End it."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.server.stop()

    def __enter__(self) -> WorldView:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _draw(self) -> None:
        world, scene = self._world, self.server.scene
        scene.set_up_direction(_triple(world.up))
        centre = world.cameras.centers
        last = world.cameras[len(world.cameras) - 1]
        start = self.server.initial_camera
        start.position = _triple(centre[-1] - 1.1 * world.scale * last.forward[0] + 0.45 * world.scale * world.up)
        start.look_at = _triple(centre[-1] + 0.8 * world.scale * last.forward[0])
        start.up = _triple(world.up)
        self._points = []
        for i, cloud in enumerate(world.clouds):
            handle = scene.add_point_cloud(
                f"/memory/{i:05d}",
                cloud.xyz.astype(np.float32),
                cloud.rgb,
                point_size=1.2 * world.size,
                point_shape="square",
                precision="float32",
                point_shading="flat",
            )
            self._points.append(handle)
        self._cameras = [self._camera(i) for i in shown_cameras(len(world.frames))]
        if len(centre) > 1:
            pairs = torch.stack([centre[:-1], centre[1:]], 1).numpy().astype(np.float32)
            scene.add_line_segments("/path", pairs, colors=(140, 148, 166), thickness=1.5, thickness_units="screen")

    def _camera(self, i: int) -> tuple[int, Any]:
        world = self._world
        camera = world.cameras[i]
        height, K = camera.height, camera.Ks[0]
        handle = self.server.scene.add_camera_frustum(
            f"/cameras/{i:05d}",
            fov=float(2 * torch.atan(height / 2 / K[1, 1])),
            aspect=float(camera.width / height * K[1, 1] / K[0, 0]),
            scale=0.07 * world.scale,
            thickness=0.002 * world.scale,
            color=MADE if world.generated[i] else SEEN,
            image=world.thumbnails[i],
            wxyz=quaternion(camera.c2w[0, :3, :3]),
            position=_triple(camera.centers[0]),
        )
        handle.on_click(lambda event: self._stand(event.client, i))
        return i, handle

    def _stand(self, client: Any, i: int) -> None:
        """Look through a camera."""
        camera = self._world.cameras[i]
        client.camera.wxyz = quaternion(camera.c2w[0, :3, :3])
        client.camera.position = _triple(camera.centers[0])

    def _controls(self, title: str) -> None:
        gui, world = self.server.gui, self._world
        points = sum(map(len, world.clouds))
        gui.add_markdown(
            f"**{title}**: {points:,} points of {len(world.frames)} pictures. Click a camera to look through it."
        )
        size = gui.add_slider("size of a point", min=0.2, max=3.0, step=0.1, initial_value=1.0)
        cameras = gui.add_checkbox("cameras", initial_value=True)
        until = gui.add_slider(
            "pictures", min=1, max=max(2, len(world.frames)), step=1, initial_value=len(world.frames)
        )

        def change(_: Any) -> None:
            with self.server.atomic():
                for i, handle in enumerate(self._points):
                    handle.point_size = 1.2 * world.size * size.value
                    handle.visible = i < until.value
                for i, handle in self._cameras:
                    handle.visible = cameras.value and i < until.value

        for control in (size, cameras, until):
            control.on_update(change)


def shown_cameras(count: int) -> list[int]:
    """Which of so many cameras are drawn, the last one among them."""
    step = max(1, -(-count // MOST_CAMERAS))
    return list(range(count - 1, -1, -step))[::-1]


def quaternion(R: Float[Tensor, "3 3"]) -> tuple[float, float, float, float]:
    """A rotation as `wxyz`."""
    w, x, y, z = rotation_to_quat(R.double()).tolist()
    return w, x, y, z


@contextlib.contextmanager
def _own_pages_only(host: str, port: int) -> Iterator[None]:
    """viser starts its server inside without saying which pages may connect; so it is said for it."""
    import websockets.asyncio.server as server

    plain = server.serve
    if not is_everywhere(host):
        names = {"127.0.0.1", "localhost", "[::1]"} if is_loopback(host) else {host}
        origins: Any = [f"http://{name}:{port}" for name in names]
        server.serve = cast(Any, functools.partial(plain, origins=origins))
    try:
        yield
    finally:
        server.serve = plain


def _every(cloud: Cloud, step: int) -> Cloud:
    return Cloud(*(getattr(cloud, field.name)[::step] for field in fields(Cloud)))


def _triple(point: Tensor | Sequence[float]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in point)
    return x, y, z
