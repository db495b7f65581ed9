"""Key strings and our own explicit grammar: `forward 2m + yaw 90deg over 48f; hold 1s`.

Poses start at the identity. The rotation of a step comes before its translation, both in the camera's frame; yaw to
the right is `Ry(+)`, pitch up is `Rx(+)`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mosaicmem._shapes import Float
from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.trajectories import atoms
from mosaicmem.io.trajectories.findings import Finding
from mosaicmem.io.trajectories.raw import DEFAULT_FPS, Options, Raw, numbers
from mosaicmem.io.trajectories.spec import Format
from mosaicmem.io.trajectories.trajectory import Trajectory

Array = np.ndarray
MAX_POSES = 2**17  # more than two hours at 16 per second; a short string must not ask for gigabytes
DIALECTS = ("mosaicmem", "worldplay", "minwm", "dreamx-ar", "dreamx-5b")

# x right, y down, z forward, then yaw, pitch, roll: what one unit of a key does
_MOVE = {"w": (0, 0, 1), "s": (0, 0, -1), "a": (-1, 0, 0), "d": (1, 0, 0)}
_LOOK_WORDS = {"left": (-1, 0, 0), "right": (1, 0, 0), "up": (0, 1, 0), "down": (0, -1, 0)}
_LOOK_LETTERS = {"j": (-1, 0, 0), "l": (1, 0, 0), "i": (0, 1, 0), "k": (0, -1, 0)}
_OURS = {
    "forward": (2, 1), "back": (2, -1), "right": (0, 1), "left": (0, -1), "down": (1, 1), "up": (1, -1),
    "yaw": (3, 1), "pitch": (4, 1), "roll": (5, 1),
}  # fmt: skip
_TERM = re.compile(r"(\w+)\s+([-+]?[0-9.]+(?:e[-+]?\d+)?)\s*(m|deg)")
_OVER = re.compile(r"over\s+([0-9.]+(?:e[-+]?\d+)?)\s*(f|s)")
_HOLD = re.compile(r"hold\s+([0-9.]+(?:e[-+]?\d+)?)\s*(f|s)")


@dataclass(frozen=True)
class Steps:
    """Motion of each step: `x y z` (units) and `yaw pitch roll` (degrees).

    `frozen_direction` lists the steps at which the direction of travel is taken anew; empty: at every step.
    """

    rows: Float[Array, "n 6"]
    frozen_direction: tuple[int, ...] = ()


def read(path: Path, options: Options) -> Raw:
    """A file that holds one action string, in the dialect asked for or the only one that fits."""
    text = files.read_text(path, 2**20).strip()
    dialect = options.dialect or guess_dialect(text)
    if dialect is None:
        raise InputError(
            f"{path}: fits several dialects or none; name one with dialect= ({', '.join(DIALECTS)}). The DreamX ones "
            "share a file layout: numbers are shares of the clip in dreamx-ar, speeds in dreamx-5b"
        )
    fps = options.fps or DEFAULT_FPS
    C = poses(text, dialect, fps=fps, frames=options.frames or 81, what=str(path))
    per_latent = dialect in ("worldplay", "minwm")
    Ks = size = None
    assumed = ("one pose per latent of 4 frames",) if per_latent else ()
    index = np.arange(len(C), dtype=np.float64) * (4 if per_latent else 1)
    if per_latent and options.expand:
        C, assumed = atoms.expand_latents(C), ()
        index = np.arange(len(C), dtype=np.float64)
    if dialect == "worldplay":
        Ks = np.tile(np.array([[969.697, 0, 960], [0, 969.697, 540], [0, 0, 1]]), (len(C), 1, 1))
        size, assumed = (1920, 1080), (*assumed, "the default intrinsics of HY-WorldPlay")
    metric = True if dialect == "mosaicmem" else None
    notes = _ambiguous_keys(text, dialect)
    return Raw(C, "c2w", Ks=Ks, size=size, time=index, time_unit=None, metric=metric, assumed=assumed, notes=notes)


def poses(
    text: str, dialect: str, *, fps: float = DEFAULT_FPS, frames: int = 81, what: str = "actions"
) -> Float[Array, "n 4 4"]:
    """World-from-camera poses of an action string; `n` steps give `n + 1` poses.

    Raises:
        InputError: on an unknown key, unit or dialect, or a string that asks for too many poses.
    """
    if dialect not in DIALECTS:
        raise InputError(f"{what}: dialect {dialect!r}, expected one of {', '.join(DIALECTS)}")
    if dialect == "mosaicmem":
        steps = Steps(_ours(text, fps, what))
    elif dialect.startswith("dreamx"):
        steps = _dreamx(text, dialect, frames, what)
    else:
        steps = Steps(_counted(text, dialect, what))
    return _integrate(steps)


def guess_dialect(text: str) -> str | None:
    """The dialect a string can only be in, or `None`."""
    text = text.strip()
    if re.fullmatch(r"[a-z]+-\d+(\s*,\s*[a-z]+-\d+)*\s*,?", text):
        return "worldplay"
    if re.fullmatch(r"[a-z]+\*\d+(\s*,\s*[a-z]+\*\d+)*\s*,?", text):
        return "minwm"
    first = re.split(r"[;+\n]", text, maxsplit=1)[0].strip()
    return "mosaicmem" if _HOLD.fullmatch(first) or re.match(r"(" + "|".join(_OURS) + r")\s+[-+0-9.]", first) else None


def write(trajectory: Trajectory, path: Path, overwrite: bool) -> None:
    """Our own grammar, one step a pose; the path is written relative to its first pose."""
    C = trajectory.c2w.numpy()
    relative = atoms.invert(C[:-1]) @ C[1:]
    R = relative[:, :3, :3]
    t = np.einsum("nji,nj->ni", R, relative[:, :3, 3])  # a step turns first, then moves along its new axes
    pitch = np.arctan2(-R[:, 1, 2], np.hypot(R[:, 0, 2], R[:, 2, 2]))
    yaw, roll = np.arctan2(R[:, 0, 2], R[:, 2, 2]), np.arctan2(R[:, 1, 0], R[:, 1, 1])
    lock = np.abs(R[:, 1, 2]) > 1 - 1e-12  # straight up or down: roll and yaw are one motion
    yaw[lock], roll[lock] = np.arctan2(-R[lock, 2, 0], R[lock, 0, 0]), 0
    degrees = np.rad2deg(np.stack([yaw, pitch, roll], 1))
    out = []
    for (x, y, z), (a, b, c) in zip(t.tolist(), degrees.tolist(), strict=True):
        terms = [
            ("yaw", a, "deg"),
            ("pitch", b, "deg"),
            ("roll", c, "deg"),
            ("right", x, "m"),
            ("down", y, "m"),
            ("forward", z, "m"),
        ]
        text = " + ".join(f"{name} {value!r}{unit}" for name, value, unit in terms if value)
        out.append(text or "hold 1f")
    files.write_text(path, (";\n".join(out) or "hold 0f") + "\n", overwrite=overwrite)


def _integrate(steps: Steps) -> Float[Array, "n 4 4"]:
    rows = steps.rows
    turn = atoms.rot_y(rows[:, 3]) @ atoms.rot_x(rows[:, 4]) @ atoms.rot_z(rows[:, 5])
    out = np.tile(np.eye(4), (len(rows) + 1, 1, 1))
    heading = np.eye(3)
    starts = set(steps.frozen_direction)
    for i in range(len(rows)):
        if i in starts:
            heading = out[i, :3, :3]
        out[i + 1, :3, :3] = out[i, :3, :3] @ turn[i]
        axes = heading if starts else out[i + 1, :3, :3]
        out[i + 1, :3, 3] = out[i, :3, 3] + axes @ rows[i, :3]
    return out


def _ours(text: str, fps: float, what: str) -> Float[Array, "n 6"]:
    blocks: list[Array] = []
    total = 0
    for clause in re.split(r"[;\n]", text):
        clause = clause.strip()
        if not clause:
            continue
        hold = _HOLD.fullmatch(clause)
        body, _, over = clause.partition(" over ")
        row, count = np.zeros(6), 1
        if hold:
            count = _count(hold, fps, what)
        else:
            if over:
                found = _OVER.fullmatch("over " + over.strip())
                if not found:
                    raise InputError(f"{what}: 'over {over}', expected a length such as 'over 48f' or 'over 2s'")
                count = max(_count(found, fps, what), 1)
            for term in re.split(r"\s\+\s", body):
                row += _term(term.strip(), what)
        total = _limit(total + count, what)
        blocks.append(np.tile(row / max(count, 1), (count, 1)))
    if not blocks:
        raise InputError(f"{what}: no actions, expected some such as 'forward 2m over 32f; yaw 90deg over 48f'")
    return np.concatenate(blocks)


def _term(text: str, what: str) -> Float[Array, "6"]:
    found = _TERM.fullmatch(text)
    unit = None if found is None else found[3]
    known = found is not None and found[1] in _OURS and (unit == "deg") == (_OURS[found[1]][0] >= 3)
    if found is None or not known:
        raise InputError(f"{what}: {text[:60]!r}, expected e.g. 'forward 2m' or 'yaw 90deg' ({', '.join(_OURS)})")
    axis, sign = _OURS[found[1]]
    row = np.zeros(6)
    row[axis] = sign * _number(found[2], what)
    return row


def _counted(text: str, dialect: str, what: str) -> Float[Array, "n 6"]:
    separator = "-" if dialect == "worldplay" else "*"
    looks = _LOOK_WORDS if dialect == "worldplay" else _LOOK_LETTERS
    rows: list[Array] = []
    for token in text.split(","):
        if not token.strip():
            continue
        key, found, count = token.strip().partition(separator)
        key = key.strip()
        if not found or not count.strip().isdecimal() or len(count) > 7:
            raise InputError(f"{what}: {token.strip()[:40]!r}, expected key{separator}count such as w{separator}8")
        row = np.zeros(6)
        if key in _MOVE:
            row[:3] = np.array(_MOVE[key]) * 0.08
        elif key in looks:
            row[3:] = np.array(looks[key]) * 3.0
        elif dialect == "minwm" and key in ("u", "dn"):
            row[1] = -0.08 if key == "u" else 0.08
        else:
            raise InputError(f"{what}: unknown key {key[:20]!r} of {dialect}, expected {', '.join([*_MOVE, *looks])}")
        _limit(len(rows) + int(count), what)
        rows += [row] * int(count)
    if not rows:
        raise InputError(f"{what}: no actions, expected some such as w{separator}8")
    return np.array(rows)


def _dreamx(text: str, dialect: str, frames: int, what: str) -> Steps:
    try:
        data = json.loads(text) if text.count("[") < 64 else None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what}: {error}; expected JSON with action_seq and action_speed_list") from error
    sequence, speeds = _dreamx_lists(data, what)
    counts, scales = [33] * len(sequence), [s / 33 for s in speeds]
    move, look = 1.0, 10.0
    if dialect == "dreamx-ar":
        edges = np.rint(np.cumsum([0.0, *speeds]) / sum(speeds) * (_limit(frames, what) - 1)).astype(int)
        counts, scales, move, look = np.diff(edges).tolist(), [1.0] * len(sequence), 0.075, 1.5
    _limit(sum(counts), what)
    rows, starts = [], []
    for keys, count, scale in zip(sequence, counts, scales, strict=True):
        row = np.zeros(6)
        for key in keys:
            if key in _MOVE:
                row[:3] += np.array(_MOVE[key]) * move * scale
            elif key in _LOOK_LETTERS:
                row[3:] += np.array(_LOOK_LETTERS[key]) * look * scale
            else:
                raise InputError(f"{what}: unknown key {key!r}, expected letters of w a s d i j k l")
        starts.append(len(rows))
        rows += [row] * count
    return Steps(np.array(rows).reshape(-1, 6), tuple(starts) if dialect == "dreamx-5b" else ())


def _dreamx_lists(data: Any, what: str) -> tuple[list[str], list[float]]:
    sequence = data.get("action_seq") if isinstance(data, dict) else None
    if not isinstance(sequence, list) or not sequence or not all(isinstance(s, str) for s in sequence):
        raise InputError(f"{what}: expected an object with action_seq, a list of key strings")
    speeds = numbers(data.get("action_speed_list", [1.0] * len(sequence)), (len(sequence),), f"{what}, speeds")
    if not np.isfinite(speeds).all() or (speeds < 0).any() or not speeds.any():
        raise InputError(f"{what}: action_speed_list {speeds.tolist()[:4]}, expected numbers that are not negative")
    return sequence, speeds.tolist()


def _ambiguous_keys(text: str, dialect: str) -> tuple[Finding, ...]:
    keys: Iterable[str] = re.findall(r"[a-z]+", text) if dialect in ("worldplay", "minwm") else ()
    other = {
        "up": "looks up in HY-WorldPlay and minWM's 8B script",
        "u": "moves up in minWM",
        "i": "looks down in another minWM file",
    }
    found = sorted(set(keys) & set(other))
    advice = f"read as {dialect}; check one frame, or write it in explicit units"
    return tuple(Finding("C7", "W", f"key {k!r} {other[k]}", advice) for k in found)


def _count(match: re.Match[str], fps: float, what: str) -> int:
    amount = _number(match[1], what)
    return _limit(round(amount * (fps if match[2] == "s" else 1)), what)


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < 1e9:
        raise InputError(f"{what}: {text[:40]!r}, expected a number below 1e9")
    return value


def _limit(count: int, what: str) -> int:
    if count > MAX_POSES:
        raise InputError(f"{what}: asks for {count:,} poses, expected at most {MAX_POSES:,}")
    return count


FORMATS = (
    Format(
        "actions",
        "key strings and our action grammar",
        read,
        write,
        "KSTNO",
        frozenset({"dialect", "frames", "expand"}),
    ),
)
__all__ = ["DIALECTS", "FORMATS", "guess_dialect", "poses"]
