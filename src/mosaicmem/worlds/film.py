"""Scenes on film: antialiased frames at the speed that training needs.

The same pictures as `Scene.render` (its slow twin), by a compiled caster that asks each ray only about the solids which
its tile of 16 pixels can see, and spends extra rays only where the surface changes between neighbouring pixels.
Patterns need none: they are averaged over the pixel in closed form.
"""

from __future__ import annotations

import numpy as np
import torch

from mosaicmem._shapes import Float, Tensor
from mosaicmem.errors import GeometryError
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.worlds import shading
from mosaicmem.worlds.scene import Rendering, Scene


def film(
    scene: Scene, cameras: Cameras, time: float | Float[Tensor, " n"] = 0.0, *, finer: int = 3
) -> Rendering:  # fmt: skip
    """Frames of the scene at one time, or at one time per camera (seconds).

    Args:
        scene, cameras, time: As in `Scene.render`.
        finer: Rays along each axis of a pixel that lies on an edge; 1 leaves edges jagged.

    Returns:
        float32 frames; depth, normal and object are those of the ray through the pixel's centre.

    Raises:
        GeometryError: if `finer` is below 1 or times and cameras differ in number.
    """
    from mosaicmem.worlds._kernels import film_frame  # loads numba

    n, (W, H) = len(cameras), (cameras.width, cameras.height)
    times = time.tolist() if isinstance(time, Tensor) else [float(time)] * n
    if len(times) != n or finer < 1:
        raise GeometryError(f"film: {len(times)} times for {n} cameras and finer = {finer}; expected one each, from 1")
    rgb, normal = np.empty((n, 3, H, W)), np.empty((n, 3, H, W))
    depth, object_id = np.empty((n, H, W)), np.empty((n, H, W), np.int64)
    c2w, inverse = cameras.c2w.double(), cameras.invert_Ks().double()
    materials, lights = _numpy(scene.materials), scene.lights
    sky = np.array([shading.HORIZON, shading.ZENITH])
    look = np.array([shading.FILTER_SIGMA, shading.AMBIENT, shading.EXPOSURE, shading.CORNER_REACH])
    for i, at in enumerate(times):
        solids = _numpy(scene.solids.moved(at))
        film_frame(
            c2w[i, :3, 3].numpy(), (c2w[i, :3, :3] @ inverse[i]).numpy(), finer,
            solids["kind"], solids["center"], solids["size"], np.cos(solids["yaw"]), np.sin(solids["yaw"]),
            solids["anchor"], solids["object_id"],
            materials["colour"], materials["second"], materials["pattern"], materials["cell"], materials["waves"],
            materials["phases"],
            lights.position.numpy(), lights.strength(at).numpy(), lights.room_lo.numpy(), lights.room_hi.numpy(),
            sky, look, rgb[i], depth[i], normal[i], object_id[i],
        )  # fmt: skip
    return Rendering(
        torch.from_numpy(rgb).float(), torch.from_numpy(depth).float(), torch.from_numpy(normal).float(),
        torch.from_numpy(object_id),
    )  # fmt: skip


def _numpy(table: object) -> dict[str, np.ndarray]:
    return {name: value.contiguous().numpy() for name, value in vars(table).items()}
