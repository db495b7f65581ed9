"""Linter rules that need depth: units, invalid values, and which reading of the poses the geometry supports."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mosaicmem._shapes import Float
from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.arrays import read_npy
from mosaicmem.io.trajectories import atoms, rules
from mosaicmem.io.trajectories.findings import Finding
from mosaicmem.io.trajectories.raw import Raw

Array = np.ndarray
AGREE = 0.02
SAMPLES = 4096
_FLIP_Y = np.diag([1.0, -1.0, 1.0, 1.0])


def check(
    raw: Raw, depths: list[Path], image_size: tuple[int, int] | None, *, poses_sound: bool = True
) -> list[Finding]:
    """U2, U4, D1, R1, T5 and C4."""
    first, whole_numbers = _load(depths[0])
    height, width = first.shape
    found = []
    size = image_size or raw.size
    if size is not None and size != (width, height):
        message = f"depth is {width}x{height}, images or intrinsics are {size[0]}x{size[1]}"
        found.append(Finding("R1", "E", message, "resize depth (nearest) or rescale the intrinsics"))
    bad = float((~np.isfinite(first) | (first <= 0) | (whole_numbers & (first >= 65535))).mean())
    if bad > 0:
        found.append(Finding("D1", "W", f"{bad:.1%} of the first depth image is 0, 65535 or not finite",
                             "treated as unknown", 0, bad, 0.0))  # fmt: skip
    good = first[np.isfinite(first) & (first > 0)]
    median = float(np.median(good)) if good.size else 0.0
    scales = (1000.0, 5000.0) if whole_numbers and median > 100 else (1.0,)
    if len(depths) != len(raw.matrices):
        found.append(Finding("T5", "W", f"{len(raw.matrices)} poses, {len(depths)} depth images", "", None,
                             float(len(raw.matrices)), float(len(depths))))  # fmt: skip
    if not poses_sound or len(depths) < len(raw.matrices) or len(raw.matrices) < 2:
        return [*found, *_unit_note(scales, median, None)]
    scores = {scale: _readings(raw, depths, scale) for scale in scales}
    best = max(scales, key=lambda s: max(scores[s].values()))
    found += _unit_note(scales, median, best if max(scores[best].values()) > 0 else None)
    found += _verdict(raw, scores[best])
    return [*found, *_relative_scale(raw, median / best)]


def _unit_note(scales: tuple[float, ...], median: float, best: float | None) -> list[Finding]:
    if len(scales) == 1:
        return []
    advice = f"the poses agree best with {best:g} per unit" if best else "1000 per unit (millimetres) or TUM's 5000?"
    return [Finding("U2", "W", f"whole-number depth with median {median:.0f}: not metres", advice, None, median, 100.0)]


def _verdict(raw: Raw, score: dict[str, float]) -> list[Finding]:
    ranked = sorted(score, key=lambda name: -score[name])
    best, second = ranked[0], ranked[1]
    if score[best] - score[second] < 0.2:
        return []
    declared = f"{raw.kind} OpenCV"
    share = f"{score[best]:.0%} of overlapping depth agrees, {score[second]:.0%} under the next reading ({second})"
    if best == declared:
        return [Finding("C4", "I", f"the poses are {best}: {share}", "", None, score[best], 0.2)]
    message = f"the poses are {best}, not {declared}: {share}"
    return [Finding("C4", "W", message, "convert them before use", None, score[best], 0.2)]


def _relative_scale(raw: Raw, median_depth: float) -> list[Finding]:
    centres = rules.centres_first(raw)[:, :3, 3]
    step = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    if not median_depth > 0 or not step.any():
        return []
    ratio = step / median_depth
    high, low = float(ratio.max()), float(np.quantile(ratio, 0.9))
    if high <= 1 and low >= 1e-4:
        return []
    value, limit = (high, 1.0) if high > 1 else (low, 1e-4)
    message = f"steps of {value:.3g} of the depth: pose and depth scales differ"
    return [Finding("U4", "W", message, "bring both to one unit", None, value, limit)]


def _readings(raw: Raw, depths: list[Path], scale: float) -> dict[str, float]:
    """Median share of agreeing depth over a few frame pairs, for each of the five readings of the matrices."""
    readings = _candidates(raw)
    n = len(raw.matrices)
    gap = max(1, min(20, n // 4))
    frames = sorted({int(f) for f in np.linspace(0, n - 1 - gap, min(4, n - gap))})
    shares: dict[str, list[float]] = {name: [] for name in readings}
    for i in frames:
        source, target = (_load(depths[f])[0] / scale for f in (i, i + gap))
        K = _K_for(raw, i, source.shape)
        for name, C in readings.items():
            shares[name].append(_agreement(source, target, K, atoms.invert(C[[i + gap]])[0] @ C[i]))
    return {name: float(np.median(values)) for name, values in shares.items()}


def _candidates(raw: Raw) -> dict[str, Float[Array, "n 4 4"]]:
    M, inverse = raw.matrices, atoms.invert(raw.matrices)
    return {
        "c2w OpenCV": M,
        "w2c OpenCV": inverse,
        "c2w OpenGL": atoms.opengl_c2w(M),
        "w2c OpenGL": atoms.opengl_c2w(inverse),
        "c2w with y flipped": M @ _FLIP_Y,
    }


def _K_for(raw: Raw, frame: int, shape: tuple[int, int]) -> Float[Array, "3 3"]:
    """The file's K at the depth's size; without one, that of the usual RGB-D sensor (525 pixels at a width of 640)."""
    height, width = shape
    if raw.Ks is None:
        f = 525 / 640 * width
        return np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]])
    size = (1, 1) if raw.normalised else raw.size or (width, height)
    return atoms.rescale_K(raw.Ks[[frame]], width / size[0], height / size[1])[0]


def _agreement(
    source: Float[Array, "H W"], target: Float[Array, "H W"], K: Float[Array, "3 3"], tgt_from_src: Float[Array, "4 4"]
) -> float:
    """Share of source pixels that land in the target and find their depth there, within 2 %."""
    height, width = source.shape
    every = max(1, int((height * width / SAMPLES) ** 0.5))
    v, u = np.mgrid[every // 2 : height : every, every // 2 : width : every]
    z = source[v, u].ravel()
    uv1 = np.stack([u.ravel() + 0.5, v.ravel() + 0.5, np.ones(u.size)])
    points = tgt_from_src[:3, :3] @ (np.linalg.inv(K) @ uv1 * z) + tgt_from_src[:3, 3:]
    pixel = K @ points
    x, y = (np.floor(pixel[k] / pixel[2]) for k in (0, 1))
    seen = np.isfinite(z) & (z > 0) & (points[2] > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if seen.sum() < 0.02 * z.size:
        return 0.0
    found = target[y[seen].astype(int), x[seen].astype(int)]
    known = np.isfinite(found) & (found > 0)
    if not known.any():
        return 0.0
    return float((np.abs(points[2][seen] - found)[known] < AGREE * found[known]).mean())


def _load(path: Path) -> tuple[Float[Array, "H W"], bool]:
    """Depth as stored, and whether it holds whole numbers."""
    if path.suffix == ".npy":
        array = read_npy(path)
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            raise InputError(f"{path}: shape {array.shape}, expected a depth image [H W]")
        return array.astype(np.float64), array.dtype.kind in "iu"
    return files.read_depth_png(path, 1.0).astype(np.float64), True
