"""Linter rules that need the file alone. Each looks at a `Raw` and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mosaicmem._shapes import Float
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.findings import Finding
from mosaicmem.io.trajectories.raw import Raw, natural_key

Array = np.ndarray


def stopping(raw: Raw) -> list[Finding]:
    """Rules whose errors make poses or intrinsics meaningless: M1 to M7, K6, T1 (and T2)."""
    with np.errstate(all="ignore"):
        return [*_finite(raw), *_matrices(raw), *_quaternions(raw), *_K_shape(raw), *_order(raw)]


def advisory(raw: Raw, world_up: Float[Array, "3"] | None) -> list[Finding]:
    """Everything else that a file says about itself; only sensible where `stopping` holds no matrix error."""
    with np.errstate(all="ignore"):
        C = centres_first(raw)
        return [*_reading(raw), *_up(raw, C, world_up), *_units(raw, C), *_clock(raw), *_path(C), *_names(raw)]


def centres_first(raw: Raw) -> Float[Array, "n 4 4"]:
    """World-from-camera matrices in the declared reading."""
    return raw.matrices if raw.kind == "c2w" else atoms.invert(raw.matrices)


def _worst(
    code: str, severity: str, bad: Array, value: Array, threshold: float, message: str, advice: str
) -> list[Finding]:
    """One finding for all poses in `bad`, at the one with the largest `value`."""
    if not bad.any():
        return []
    frame = int(np.where(bad, np.nan_to_num(value, nan=np.inf), -np.inf).argmax())
    many = f" in {int(bad.sum())} of {len(bad)} poses, worst here" if bad.sum() > 1 else ""
    return [Finding(code, severity, message + many, advice, frame, float(value[frame]), threshold)]  # pyright: ignore


def _finite(raw: Raw) -> list[Finding]:
    n = len(raw.matrices)
    parts = [raw.matrices, raw.quaternions, raw.Ks, raw.time, raw.distortion]
    bad = ~np.all([np.isfinite(p.reshape(n, -1)).all(1) for p in parts if p is not None], axis=0)
    return _worst("M1", "E", bad, bad.astype(float), 0, "NaN or infinity", "drop these frames or export them again")


def _matrices(raw: Raw) -> list[Finding]:
    M = np.where(np.isfinite(raw.matrices), raw.matrices, np.eye(4))
    R = M[:, :3, :3]
    row = np.abs(M[:, 3] - [0, 0, 0, 1]).max(1)
    last_row = row > 1e-6
    if last_row.any():
        moved = bool((np.abs(M[last_row][:, :3, 3]) < 1e-9).all())
        advice = "the matrices are transposed: transpose them" if moved else "expected a rigid 4x4 matrix"
        return _worst("M2", "E", last_row, row, 1e-6, "last row is not 0 0 0 1", advice)
    gram = R @ R.transpose(0, 2, 1)
    error = np.abs(gram - np.eye(3)).max((1, 2))
    error = np.where(np.isfinite(error), error, np.inf)
    scale = np.sqrt(np.trace(gram, axis1=1, axis2=2) / 3)
    shape_error = np.abs(gram / np.maximum(scale, 1e-300)[:, None, None] ** 2 - np.eye(3)).max((1, 2))
    scaled = (error > 1e-3) & (shape_error < 1e-3) & (scale > 0)
    skewed = (error > 1e-3) & ~scaled
    loose = (error > 1e-5) & (error <= 1e-3)
    mirrored = (np.linalg.det(R) < 0) & ~skewed
    nearest = "project to the nearest rotation if this is rounding"
    return [
        *_worst("M3", "E", skewed, error, 1e-3, "the upper 3x3 block is no rotation", "check layout and row order"),
        *_worst("M3", "W", loose, error, 1e-5, "rotations are rounded", nearest),
        *_worst("M4", "E", mirrored, np.ones(len(R)), 0, "mirrored: determinant -1, a left-handed source?",
                "convert with A6 (Unreal: swap axes on both sides); flipping one column only hides it"),
        *_worst("M5", "E", scaled, scale, 1.0, "a scale inside the rotation", "divide the block by the value given"),
    ]  # fmt: skip


def _quaternions(raw: Raw) -> list[Finding]:
    if raw.quaternions is None:
        return []
    q = np.nan_to_num(raw.quaternions, nan=0.5)
    norm = np.linalg.norm(q, axis=1)
    error = np.abs(norm - 1)
    found = [
        *_worst("M6", "E", error > 1e-3, error, 1e-3, "quaternion norm is not 1", "export with more digits"),
        *_worst("M6", "W", (error > 1e-4) & (error <= 1e-3), error, 1e-4, "rounded quaternion", "it is renormalised"),
    ]
    other, place = ("wxyz", 1) if raw.quaternion_order == "xyzw" else ("xyzw", 3)
    alone = (np.abs(np.abs(q[:, place]) - 1) < 1e-6) & (error < 1e-3)
    message = f"half a turn that would be no turn at all in {other} order"
    return found + _worst(
        "M7", "W", alone, alone * 1.0, 1.0, message, f"looks like {other} in an {raw.quaternion_order} file"
    )


def _K_shape(raw: Raw) -> list[Finding]:
    if raw.Ks is None:
        return []
    K = np.nan_to_num(raw.Ks)
    scale = np.maximum(np.abs(K[:, 0, 0]), 1e-9)
    skew = np.maximum(np.abs(K[:, 0, 1]), np.abs(K[:, 1, 0])) / scale
    row = np.abs(K[:, 2] - [0, 0, 1]).max(1)
    transposed = bool((np.abs(K[:, :2, 2]) < 1e-9).all() and (np.abs(K[:, 2, :2]) > 0).any())
    advice = "transpose the intrinsics" if transposed else "expected fx 0 cx / 0 fy cy / 0 0 1"
    flat = (K[:, 0, 0] <= 0) | (K[:, 1, 1] <= 0)
    return [
        *_worst("K6", "E", (skew > 1e-6) | (row > 1e-6), np.maximum(skew, row), 1e-6,
                "K has skew or a bad last row", advice),
        *_worst("K6", "E", flat, flat * 1.0, 0, "a focal length is not positive", "expected fx > 0 and fy > 0"),
    ]  # fmt: skip


def _order(raw: Raw) -> list[Finding]:
    if raw.time is None or len(raw.time) < 2:
        return []
    step = np.diff(np.nan_to_num(raw.time))
    if (step == 0).all():
        return [
            Finding("T2", "W", "all timestamps are equal", "they are no clock; use frame number and fps", None, 0.0)
        ]
    found = []
    if (step < 0).any():
        frame = int(step.argmin()) + 1
        found.append(Finding("T1", "E", "time goes backward", "read with sort=True", frame, float(step.min()), 0.0))
    if (step == 0).any():
        frame, share = int((step == 0).argmax()) + 1, float((step == 0).mean())
        found.append(Finding("T2", "W", "duplicate timestamps", "drop one of each pair", frame, share, 0.0))
    return found


def _reading(raw: Raw) -> list[Finding]:
    C = centres_first(raw)
    found = []
    if len(C) > 2:
        length, other = _length(C[:, :3, 3]), _length(atoms.invert(C)[:, :3, 3])
        if length > 1.5 * other and length > 1e-9:
            ratio = length / max(other, 1e-12)
            swap = "w2c given as c2w" if raw.kind == "c2w" else "c2w given as w2c"
            message = f"the path is {ratio:.3g} times longer than in the other reading: looks like {swap}"
            found.append(Finding("C1", "W", message, "declare the direction with matrix= or invert", None, ratio, 1.5))
    identity = bool(np.abs(raw.matrices[0] - np.eye(4)).max() < 1e-6)
    message = f"the first pose is {'' if identity else 'not '}the identity"
    return [
        *found,
        Finding("C6", "I", message, "" if identity else "recentre for models that expect relative paths", 0),
    ]


def _up(raw: Raw, C: Float[Array, "n 4 4"], world_up: Float[Array, "3"] | None) -> list[Finding]:
    found = []
    step = np.diff(C[:, :3, 3], axis=0)
    size = np.linalg.norm(step, axis=1)
    moving = size > 1e-9
    if moving.any():
        cosine = float((step[moving] / size[moving, None] * C[:-1][moving, :3, 2]).sum(1).mean())
        if cosine < -0.5:
            message = "the camera moves backward, or w2c and c2w are swapped, or the axes are OpenGL's"
            found.append(Finding("C2", "I", message, "", None, cosine, -0.5))
    up = raw.world_up if world_up is None else world_up
    if up is not None:
        cosine = float((-C[:, :3, 1] @ (np.array(up) / np.linalg.norm(up))).mean())
        if cosine < -0.5:
            message = "upside down: OpenGL axes given as OpenCV (A2), or cameras with y up (A3)"
            advice = (
                "read with upright=True" if raw.quaternion_order == "xyzw" and raw.kind == "w2c" else "convert the axes"
            )
            found.append(Finding("C3", "W", message, advice, None, cosine, -0.5))
    return found


def _units(raw: Raw, C: Float[Array, "n 4 4"]) -> list[Finding]:
    found = []
    centres = C[:, :3, 3]
    step = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    if len(step):
        value = float(np.median(step))
        limit, what = 10.0, "step"
        if raw.time is not None and raw.time_unit is not None and value <= limit:
            dt = np.diff(raw.time) * raw.time_unit
            if (dt > 0).any():
                value, limit, what = float(np.median(step[dt > 0] / dt[dt > 0])), 50.0, "speed"
        if value > limit:
            message = f"median {what} of {value:.3g} units: centimetres or millimetres?"
            found.append(Finding("U1", "W", message, "divide positions by 100 or 1000", None, value, limit))
    extent = float(np.linalg.norm(np.ptp(centres, axis=0)))
    far = float(np.linalg.norm(centres.mean(0)))
    if extent > 0 and far > 10 * extent:
        message = f"{far:.4g} units from the origin, over an extent of {extent:.3g}"
        found.append(Finding("U3", "W", message, "recentre before computing in float32", None, far / extent, 10.0))
    if raw.metric is None:
        found.append(Finding("U5", "I", "the file does not say whether its unit is the metre"))
    return found


def intrinsics(raw: Raw, image_size: tuple[int, int] | None) -> list[Finding]:
    """K1 to K5, K7, K8. `image_size` is that of the images, where known."""
    found = []
    if (raw.distortion is not None and (raw.distortion != 0).any()) or raw.fisheye:
        found.append(Finding("K7", "W", "lens distortion, which a pinhole reader ignores", "undistort the images"))
    if raw.Ks is None or not np.isfinite(raw.Ks).all() or any(f.severity == "E" for f in _K_shape(raw)):
        return found
    rows = atoms.K_rows(raw.Ks)
    if not raw.normalised and (rows < 10).all():
        message = "intrinsics look normalised by the image size"
        return [
            *found,
            Finding("K1", "W", message, "read with size=(W, H) after multiplying", None, float(rows.max()), 10.0),
        ]
    size = (1, 1) if raw.normalised else image_size or raw.size
    found += _against_size(rows, size, raw.normalised) if size is not None else []
    aspect = float(np.abs(rows[:, 0] / rows[:, 1] - 1).max())
    if aspect > 0.02 and not raw.normalised:
        found.append(Finding("K4", "W", "fx and fy differ: wrong aspect, or an uneven resize", "", None, aspect, 0.02))
    if (np.ptp(rows, axis=0) > 1e-9 * np.abs(rows).max(0)).any():
        found.append(Finding("K8", "I", "intrinsics change along the path (zoom)"))
    return found


def _against_size(rows: Float[Array, "n 4"], size: tuple[int, int], normalised: bool) -> list[Finding]:
    (W, H), (cx, cy) = size, np.median(rows[:, 2:], axis=0)
    found = []
    offset = max(abs(float(cx) / W - 0.5), abs(float(cy) / H - 0.5)) * 2
    if offset > 0.1:
        message = f"K looks like {2 * cx:.4g}x{2 * cy:.4g}, images are {W}x{H}"
        advice = f"rescale K by {W / (2 * cx):.4g}, {H / (2 * cy):.4g}"
        found.append(Finding("K2", "W", message, advice, None, offset, 0.1))
    if not normalised and abs(cx - (W - 1) / 2) < 1e-3 and abs(cy - (H - 1) / 2) < 1e-3:
        message = f"principal point {cx:g}, {cy:g} counts pixel centres from integers"
        found.append(Finding("K3", "W", message, "add 0.5 to cx and cy", None, float(cx), (W - 1) / 2))
    fov = np.rad2deg(2 * np.arctan(np.array([W, H]) / 2 / rows[:, :2]))
    worst = float(fov.min()) if fov.min() < 10 else float(fov.max())
    if worst < 10 or worst > 150:
        hint = "radians in a field of degrees?" if worst < 3.2 else "wrong image size or focal length?"
        found.append(
            Finding("K5", "W", f"field of view {worst:.3g} degrees", hint, None, worst, 10 if worst < 10 else 150)
        )
    return found


def _clock(raw: Raw) -> list[Finding]:
    if raw.time is None or len(raw.time) < 2:
        return []
    step = np.diff(raw.time)
    median = float(np.median(step))
    found = []
    units = {1.0: "s", 1e-6: "us", 1e-9: "ns"}
    if raw.time_unit in units and median > 0 and not raw.nominal_time:
        guess = "ns" if median > 1e6 else "us" if median > 1e3 else "ms" if median >= 5 else "s"
        guess = "frame numbers" if median == 1.0 else guess
        if guess != units[raw.time_unit]:
            message = f"median time step {median:.4g} looks like {guess}, the format uses {units[raw.time_unit]}"
            found.append(Finding("T3", "W", message, "convert the time column", None, median))
    if median > 0 and step.max() > 5 * median:
        frame = int(step.argmax()) + 1
        message = f"a gap of {step.max() / median:.3g} steps: missing frames?"
        found.append(Finding("T4", "W", message, "", frame, float(step.max() / median), 5.0))
    return found


def _path(C: Float[Array, "n 4 4"]) -> list[Finding]:
    if len(C) < 2:
        return []
    step = np.linalg.norm(np.diff(C[:, :3, 3], axis=0), axis=1)
    turn = _angle(C[:-1], C[1:])
    still = float(((step < 1e-9) & (turn < 1e-6)).mean())
    back, angle = float(np.linalg.norm(C[-1, :3, 3] - C[0, :3, 3])), float(_angle(C[:1], C[-1:])[0])
    found = [
        Finding("P1", "I", f"{still:.0%} of steps do not move; ends {back:.3g} units, {angle:.3g} deg from the start",
                value=still)
    ]  # fmt: skip
    median = float(np.median(step))
    tests: Sequence[tuple[Array, float, Callable[[float], str]]] = (
        (
            step,
            10 * median if median > 0 else np.inf,
            lambda v: f"a step of {v:.3g} units, ten times the median or more",
        ),
        (turn, 30.0, lambda v: f"a turn of {v:.3g} degrees in one step"),
    )
    for values, limit, say in tests:
        if values.max() > limit:
            frame, value = int(values.argmax()) + 1, float(values.max())
            found.append(Finding("P2", "W", say(value), "a cut, or frames out of order?", frame, value, limit))
    return found


def _names(raw: Raw) -> list[Finding]:
    if raw.names is None:
        return []
    found = []
    seen: dict[str, int] = {}
    twice = next((i for i, name in enumerate(raw.names) if seen.setdefault(name, i) != i), None)
    if twice is not None:
        found.append(Finding("P3", "E", f"name {raw.names[twice]!r} occurs twice", "rename one", twice))
    by_text, by_number = sorted(raw.names), sorted(raw.names, key=natural_key)
    if by_text != by_number:
        wrong = next(a for a, b in zip(by_text, by_number, strict=True) if a != b)
        found.append(Finding("P3", "W", f"sorted as text the names are out of order ({wrong!r})", "pad the numbers"))
    return found


def _length(centres: Float[Array, "n 3"]) -> float:
    return float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())


def _angle(A: Float[Array, "n 4 4"], B: Float[Array, "n 4 4"]) -> Float[Array, " n"]:
    """Degrees between rotations, by the chord."""
    chord = np.linalg.norm((A - B)[:, :3, :3].reshape(len(A), 9), axis=1)
    return np.rad2deg(2 * np.arcsin(np.clip(chord / (2 * 2**0.5), 0, 1)))
