"""A walk in a procedural room, written by hand the way other programs write theirs: with none of our writers.

Every writer takes the truth (our cameras, colour, z-depth) and applies the other program's own conventions here, from
their documents: so a reader that has one wrong does not agree with the truth.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image

from mosaicmem.geometry.cameras import Cameras
from mosaicmem.worlds import make_scene

SIZE = (64, 48)
FRAMES = 5
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
TURN = np.array([[1.0, 0, 0, 0.5], [0, 0, 1, -1], [0, -1, 0, 2], [0, 0, 0, 1]])
"""World of a nerfstudio file from ours: what its `applied_transform` says."""
APPLIED_SCALE = 0.5


@dataclass(frozen=True)
class Walk:
    """The truth: `n` cameras (float64), colours `[n H W 3]` uint8, z-depth `[n H W]` metres."""

    cameras: Cameras
    rgb: np.ndarray
    depth: np.ndarray

    @property
    def c2w(self) -> np.ndarray:
        return self.cameras.c2w.numpy()

    @property
    def lens(self) -> tuple[float, float, float, float]:
        K = self.cameras.Ks[0]
        return float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])


@cache
def walk() -> Walk:
    """A few steps in a room."""
    scene = make_scene(5, movers=False)
    cameras = scene.walk(5, 40, width=SIZE[0], height=SIZE[1])[: 2 * FRAMES : 2]
    shown = scene.render(cameras.to(dtype=torch.float32), supersample=2)
    rgb = ((shown.rgb.permute(0, 2, 3, 1) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()
    return Walk(cameras.to(dtype=torch.float64), rgb, shown.depth.numpy())


def save_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def sparse_points(truth: Walk, each: int = 4) -> tuple[np.ndarray, list[list[int]]]:
    """World points at every so many-th pixel of every frame, and the frames that truly see each one."""
    fx, fy, cx, cy = truth.lens
    found, H, W = [], SIZE[1], SIZE[0]
    for c2w, depth in zip(truth.c2w, truth.depth):
        v, u = np.mgrid[each // 2 : H : each, each // 2 : W : each]
        z = depth[v, u].astype(np.float64).ravel()
        local = np.stack([(u.ravel() + 0.5 - cx) / fx * z, (v.ravel() + 0.5 - cy) / fy * z, z], -1)
        found.append((local @ c2w[:3, :3].T + c2w[:3, 3])[z > 0])
    points = np.concatenate(found)
    tracks: list[list[int]] = [[] for _ in points]
    for i, c2w in enumerate(truth.c2w):
        local = (points - c2w[:3, 3]) @ c2w[:3, :3]
        u, v = fx * local[:, 0] / local[:, 2] + cx, fy * local[:, 1] / local[:, 2] + cy
        inside = (local[:, 2] > 0) & (u >= 0) & (u < W) & (v >= 0) & (v < H)
        for k in np.flatnonzero(inside):
            if abs(truth.depth[i][int(v[k]), int(u[k])] - local[k, 2]) < 0.05 * local[k, 2]:
                tracks[k].append(i)
    return points, tracks


def quaternion(R: np.ndarray) -> np.ndarray:
    """wxyz of a rotation whose trace is not near -1, by the textbook."""
    w = np.sqrt(max(0.0, 1 + np.trace(R))) / 2
    if w > 0.1:
        return np.array([w, *(np.array([R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]]) / (4 * w))])
    values, vectors = np.linalg.eigh(
        np.array(
            [
                [R[0, 0] - R[1, 1] - R[2, 2], 0, 0, 0],
                [R[1, 0] + R[0, 1], R[1, 1] - R[0, 0] - R[2, 2], 0, 0],
                [R[2, 0] + R[0, 2], R[2, 1] + R[1, 2], R[2, 2] - R[0, 0] - R[1, 1], 0],
                [R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1], np.trace(R)],
            ]
        )
        / 3
    )
    x, y, z, w = vectors[:, values.argmax()]
    return np.array([w, x, y, z])


# ---------------------------------------------------------------------------------------------------------- COLMAP


def colmap(root: Path, truth: Walk, *, binary: bool = True, maps: bool = False, bent: tuple[float, ...] = ()) -> Path:
    """`images/`, `sparse/0` and perhaps `stereo/depth_maps`. Image numbers run backwards: matching may do that."""
    names = [f"walk/{i}.png" for i in range(len(truth.rgb))]
    numbers = [10 * (len(names) - i) for i in range(len(names))]
    for name, rgb in zip(names, truth.rgb):
        save_png(root / "images" / name, rgb)
    model = root / "sparse/0"
    model.mkdir(parents=True)
    poses = []
    for c2w in truth.c2w:
        V = np.linalg.inv(c2w)
        poses.append([*quaternion(V[:3, :3]), *V[:3, 3]])
    points, tracks = sparse_points(truth)
    params = [*truth.lens, *bent]
    kind, number = ("OPENCV", 4) if bent else ("PINHOLE", 1)
    if binary:
        head = struct.pack("<QIiQQ", 1, 7, number, *SIZE) + struct.pack(f"<{len(params)}d", *params)
        (model / "cameras.bin").write_bytes(head)
        body = struct.pack("<Q", len(names))
        for name, image, pose in zip(names, numbers, poses):
            body += struct.pack("<I7dI", image, *pose, 7) + name.encode() + b"\0" + struct.pack("<Q", 1)
            body += struct.pack("<ddQ", 1.0, 2.0, 2**64 - 1)
        (model / "images.bin").write_bytes(body)
        body = struct.pack("<Q", len(points))
        for i, (point, seen) in enumerate(zip(points, tracks)):
            body += struct.pack("<Q3d3BdQ", i, *point, 1, 2, 3, 0.5, len(seen))
            body += b"".join(struct.pack("<II", numbers[k], 0) for k in seen)
        (model / "points3D.bin").write_bytes(body)
    else:
        (model / "cameras.txt").write_text(f"# cameras\n7 {kind} {SIZE[0]} {SIZE[1]} {' '.join(map(repr, params))}\n")
        rows = [f"{i} {' '.join(map(str, map(float, p)))} 7 {n}\n1 2 -1" for i, p, n in zip(numbers, poses, names)]
        (model / "images.txt").write_text("# images\n" + "\n".join(rows) + "\n")
        rows = [
            f"{i} {' '.join(map(str, p.tolist()))} 1 2 3 0.5 " + " ".join(f"{numbers[k]} 0" for k in seen)
            for i, (p, seen) in enumerate(zip(points, tracks))
        ]
        (model / "points3D.txt").write_text("\n".join(rows) + "\n")
    if maps:
        for name, depth in zip(names, truth.depth):
            path = root / "stereo/depth_maps" / f"{name}.geometric.bin"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{SIZE[0]}&{SIZE[1]}&1&".encode() + depth.astype("<f4").tobytes())
    return root


# ------------------------------------------------------------------------------------------------------ nerfstudio


def nerfstudio(
    root: Path,
    truth: Walk,
    *,
    maps: bool = True,
    cloud: bool = True,
    scale: float = APPLIED_SCALE,
    unit: float | None = None,
) -> Path:
    """`transforms.json` in a turned and scaled world, OpenGL cameras, depth in millimetres or a unit, a cloud."""
    fx, fy, cx, cy = truth.lens
    frames = []
    for i, (c2w, rgb, depth) in enumerate(zip(truth.c2w, truth.rgb, truth.depth)):
        save_png(root / "images" / f"frame_{i}.png", rgb)
        M = TURN @ c2w @ FLIP
        M[:3, 3] *= scale
        frame: dict[str, Any] = {"file_path": f"images/frame_{i}.png", "transform_matrix": M.tolist()}
        if maps:
            save_png(root / "depth" / f"{i}.png", (depth * scale / (unit or 1e-3)).round().astype(np.uint16))
            frame["depth_file_path"] = f"depth/{i}.png"
        frames.append(frame)
    data: dict[str, Any] = {"camera_model": "OPENCV", "w": SIZE[0], "h": SIZE[1], "fl_x": fx, "fl_y": fy}
    data |= {"cx": cx, "cy": cy, "applied_transform": TURN[:3].tolist(), "applied_scale": scale, "frames": frames}
    if unit:
        data["depth_unit_scale_factor"] = unit
    if cloud:
        points = (sparse_points(truth)[0] @ TURN[:3, :3].T + TURN[:3, 3]) * scale
        rows = "".join(f"{x} {y} {z}\n" for x, y, z in points.tolist())
        head = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n"
        head += "".join(f"property double {axis}\n" for axis in "xyz") + "end_header\n"
        (root / "sparse_pc.ply").write_text(head + rows)
        data["ply_file_path"] = "sparse_pc.ply"
    (root / "transforms.json").write_text(json.dumps(data))
    return root


# ------------------------------------------------------------------------------------------------------------ ViPE


def exr(depth: np.ndarray, *, half: bool = True, compression: int = 3) -> bytes:
    """An EXR of one channel Z: scan lines, uncompressed (0), ZIPS (2) or ZIP (3)."""
    H, W = depth.shape
    lines = {0: 1, 2: 1, 3: 16}[compression]
    out = b"\x76\x2f\x31\x01" + struct.pack("<I", 2)
    box = struct.pack("<4i", 0, 0, W - 1, H - 1)
    channels = b"Z\0" + struct.pack("<iBBBBii", 1 if half else 2, 0, 0, 0, 0, 1, 1) + b"\0"
    for name, kind, value in (
        (b"channels", b"chlist", channels),
        (b"compression", b"compression", bytes([compression])),
        (b"dataWindow", b"box2i", box),
        (b"displayWindow", b"box2i", box),
        (b"lineOrder", b"lineOrder", b"\0"),
        (b"pixelAspectRatio", b"float", struct.pack("<f", 1)),
        (b"screenWindowCenter", b"v2f", struct.pack("<2f", 0, 0)),
        (b"screenWindowWidth", b"float", struct.pack("<f", 1)),
    ):
        out += name + b"\0" + kind + b"\0" + struct.pack("<I", len(value)) + value
    out += b"\0"
    blocks = []
    for first in range(0, H, lines):
        raw = depth[first : first + lines].astype("<f2" if half else "<f4").tobytes()
        packed = raw
        if compression:
            split = raw[0::2] + raw[1::2]
            change = bytes([split[0], *((b - a + 128) % 256 for a, b in pairwise(split))])
            packed = min(zlib.compress(change), raw, key=len)
        blocks.append(struct.pack("<iI", first, len(packed)) + packed)
    at = len(out) + 8 * len(blocks)
    for block in blocks:
        out += struct.pack("<Q", at)
        at += len(block)
    return out + b"".join(blocks)


def vipe(root: Path, truth: Walk, *, skip: int = 1) -> Path:
    """One clip. The video has `skip` frames before the first pose, and intrinsics stand in another order."""
    for name in ("rgb", "pose", "intrinsics", "depth"):
        (root / name).mkdir(parents=True)
    n = len(truth.rgb)
    inds = np.arange(n) + skip
    with av.open(str(root / "rgb/clip.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv444p"
        for picture in [*([np.zeros_like(truth.rgb[0])] * skip), *truth.rgb]:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    np.savez(root / "pose/clip.npz", data=truth.c2w.astype(np.float32), inds=inds)
    rows = np.tile(np.array(truth.lens, np.float32), (n, 1))
    np.savez(root / "intrinsics/clip.npz", data=rows[::-1], inds=inds[::-1])
    (root / "intrinsics/clip_camera.txt").write_text("".join(f"{i}: PINHOLE\n" for i in inds))
    with zipfile.ZipFile(root / "depth/clip.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, depth in zip(inds, truth.depth):
            archive.writestr(f"{i:05d}.exr", exr(depth))
    return root


# ----------------------------------------------------------------------------------------------------------- crate

CELL, TILE = 8, 2
"""Pixels of a latent cell, and cells along the side of a patch."""


def crate(truth: Walk) -> dict[str, Any]:
    """A memory as the crate writes it; latents are the pixels of a cell, channel order (rgb, row, column)."""
    fx, fy, cx, cy = truth.lens
    W, H = SIZE
    patches: list[dict[str, Any]] = []
    for i, (c2w, rgb, depth) in enumerate(zip(truth.c2w, truth.rgb, truth.depth)):
        V = np.linalg.inv(c2w)
        w, x, y, z = quaternion(V[:3, :3])
        pose = dict(zip(("tx", "ty", "tz", "qx", "qy", "qz", "qw"), [*V[:3, 3].tolist(), x, y, z, w]))
        pixels = rgb.astype(np.float32) / 127.5 - 1
        for row in range(0, H // CELL, TILE):
            for column in range(0, W // CELL, TILE):
                latent, coords, depths = [], [], []
                for r in range(row, row + TILE):
                    for c in range(column, column + TILE):
                        block = pixels[r * CELL : (r + 1) * CELL, c * CELL : (c + 1) * CELL]
                        latent += block.transpose(2, 0, 1).ravel().tolist()
                        coords.append([(c + 0.5) * CELL, (r + 0.5) * CELL])
                        found = float(depth[r * CELL + CELL // 2, c * CELL + CELL // 2])
                        depths.append(found if found > 0 else None)
                u, v = (column + TILE / 2) * CELL, (row + TILE / 2) * CELL
                middle = float(depth[int(v), int(u)]) or 1.0
                local = np.array([(u - cx) / fx * middle, (v - cy) / fy * middle, middle, 1])
                patches.append(
                    {
                        "id": len(patches),
                        "center": (c2w @ local)[:3].astype(np.float32).astype(float).tolist(),
                        "source_pose": {"timestamp": i / 10, "world_to_camera": pose},
                        "source_frame": i,
                        "source_timestamp": i / 10,
                        "source_depth": middle,
                        "source_rect": [column * CELL, row * CELL, TILE * CELL, TILE * CELL],
                        "latent": latent,
                        "latent_height": TILE,
                        "latent_width": TILE,
                        "token_coords": coords,
                        "depth_tile": depths,
                        "source_intrinsics": {"fx": fx, "fy": fy, "cx": cx, "cy": cy, "width": W, "height": H},
                        "normal_estimate": None,
                        "latent_shape": [3 * CELL**2, TILE, TILE],
                    }
                )
    config = {"max_patches": 10000, "top_k": 64, "near_clip": 0.1, "far_clip": 100.0, "patch_size": 16}
    config |= {"latent_patch_size": TILE, "temporal_decay_half_life": 0.0}
    return {"patches": patches, "config": config, "next_id": len(patches)}
