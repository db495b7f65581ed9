"""Moving and still pictures for people: H.264 files, contact sheets, pictures side by side.

Frames are uint8 `[n H W 3]`, RGB.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mosaicmem.errors import GeometryError, InputError
from mosaicmem.io.files import MAX_PIXELS, atomic_path, require_file

Frames = NDArray[np.uint8]

MAX_VIDEO_BYTES = 8 * 2**30

_SIZE_TAG = "mosaicmem size="
_BT709, _LIMITED_RANGE = 1, 1
# One thread: the stream depends on the frames, not on the number of cores. x264's macroblock-tree reads memory it has
# not written where a side is no multiple of 16, and then equal frames gave up to 20 different files in 200.
_REPEATABLE = {"threads": "1", "x264-params": "mbtree=0"}
_PAPER, _INK, _GAP = (18, 18, 20), (235, 235, 235), 4


def write_video(
    path: Path | str, frames_u8: Frames, fps: float = 24.0, *, crf: int = 18, overwrite: bool = False
) -> None:
    """H.264 in MP4 (yuv420p, BT.709, index first), atomically. Equal frames give equal bytes on one machine.

    H.264 stores colour in blocks of 2x2, so an odd width or height gets one repeated column or row; the true size is
    noted in the file and `read_video` restores it.

    Args:
        path: Target, ending in `.mp4`.
        frames_u8: `[n H W 3]`, at least one frame.
        fps: Frames a second.
        crf: 0 (lossless in YUV) to 51 (worst).

    Raises:
        GeometryError: if there is no frame or the shape is another one.
        OutputExistsError: if the file exists and `overwrite` is false.
    """
    import av

    frames = _check_frames(frames_u8)
    path = Path(path)
    height, width = frames.shape[1:3]
    padded = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with atomic_path(path, overwrite=overwrite) as temporary:
        options = {"movflags": "+faststart", "fflags": "+bitexact"}
        with av.open(str(temporary), "w", format="mp4", options=options) as container:
            container.metadata["comment"] = f"{_SIZE_TAG}{width}x{height}"
            rate = Fraction(fps).limit_denominator(1001)
            stream: Any = container.add_stream("libx264", rate=rate, options={"crf": str(crf), **_REPEATABLE})
            stream.width, stream.height, stream.pix_fmt = padded.shape[2], padded.shape[1], "yuv420p"
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = _LIMITED_RANGE
            for picture in padded:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace=_BT709)))
            container.mux(stream.encode(None))


def read_video(path: Path | str, max_frames: int = 100_000) -> tuple[Frames, float]:
    """All frames `[n H W 3]` of a video, and its frames a second.

    Raises:
        InputError: if the file is no video, holds no frame, more than `max_frames`, or frames larger than 64 Mi pixels.
    """
    import av

    path = require_file(Path(path))
    frames: list[Frames] = []
    budget = MAX_VIDEO_BYTES
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video stream")
            stream = container.streams.video[0]
            fps = float(stream.average_rate or 24)
            size = true_size(container.metadata.get("comment", ""))
            if stream.width * stream.height > MAX_PIXELS:
                raise InputError(
                    f"{path}: frames of {stream.width}x{stream.height} px; expected at most {MAX_PIXELS:,}"
                )
            for frame in container.decode(stream):
                budget -= frame.width * frame.height * 3
                if len(frames) >= max_frames or budget < 0:
                    raise InputError(f"{path}: more than {len(frames)} frames, which is too much to hold in memory")
                picture = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                frames.append(picture[: size[1], : size[0]] if size else picture)
    except av.FFmpegError as error:
        raise InputError(f"{path}: not a readable video ({error})") from error
    if not frames:
        raise InputError(f"{path}: the video holds no frame")
    return np.stack(frames), fps


def contact_sheet(
    frames_u8: Frames | Sequence[Frames], labels: Sequence[str] | None = None, columns: int | None = None
) -> Frames:
    """Frames in reading order on one dark sheet, each with its label above it; `[H W 3]`.

    Args:
        frames_u8: `[n H W 3]`; small frames are enlarged by a whole factor so that labels have room.
        labels: One text a frame; a text wider than its frame is cut.
        columns: Frames in a row; default about as many columns as rows.
    """
    frames = _check_frames(frames_u8)
    n = len(frames)
    if labels is not None and len(labels) != n:
        raise GeometryError(f"{len(labels)} labels for {n} frames; expected one each")
    columns = columns if columns is not None else max(1, round(n**0.5))
    if columns < 1:
        raise GeometryError(f"a sheet needs at least one column, got {columns}")
    factor = max(1, -(-96 // frames.shape[2]))
    frames = frames.repeat(factor, axis=1).repeat(factor, axis=2)
    height, width = frames.shape[1:3]
    font = ImageFont.load_default(size=max(11, min(18, width // 14)))
    band = 0 if labels is None else int(font.getbbox("Ag")[3]) + 5
    rows = -(-n // columns)
    size = (_GAP + min(columns, n) * (width + _GAP), _GAP + rows * (height + band + _GAP))
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, frame in enumerate(frames):
        x = _GAP + (i % columns) * (width + _GAP)
        y = _GAP + (i // columns) * (height + band + _GAP)
        if labels is not None:
            draw.text((x + 2, y), _fit(labels[i], font, width - 4), fill=_INK, font=font)
        sheet.paste(Image.fromarray(frame), (x, y + band))
    return np.array(sheet)


def side_by_side(clips: Sequence[Frames], labels: Sequence[str] | None = None) -> Frames:
    """Clips of equal length next to each other, for one video: `[n H W' 3]`.

    Clips of another height are scaled (nearest) to the first one's. Labels are drawn above.

    Raises:
        GeometryError: if there is no clip or their lengths differ.
    """
    checked = [_check_frames(clip) for clip in clips]
    if len({len(clip) for clip in checked}) != 1:
        raise GeometryError(f"clips of {[len(c) for c in checked]} frames; expected at least one clip, equal lengths")
    if labels is not None and len(labels) != len(checked):
        raise GeometryError(f"{len(labels)} labels for {len(checked)} clips; expected one each")
    height = checked[0].shape[1]
    pieces: list[Frames] = []
    for i, clip in enumerate(checked):
        clip = clip if clip.shape[1] == height else _scale_to_height(clip, height)
        if labels is not None:
            font = ImageFont.load_default(size=max(11, min(18, clip.shape[2] // 14)))
            band = Image.new("RGB", (clip.shape[2], int(font.getbbox("Ag")[3]) + 6), _PAPER)
            ImageDraw.Draw(band).text((2, 1), _fit(labels[i], font, clip.shape[2] - 4), fill=_INK, font=font)
            clip = np.concatenate([np.broadcast_to(np.array(band), (len(clip), *np.array(band).shape)), clip], axis=1)
        pieces.append(clip)
        if i + 1 < len(checked):
            pieces.append(np.broadcast_to(np.array(_PAPER, np.uint8), (len(clip), clip.shape[1], _GAP, 3)))
    tallest = max(p.shape[1] for p in pieces)
    pieces = [np.pad(p, ((0, 0), (tallest - p.shape[1], 0), (0, 0), (0, 0))) for p in pieces]
    return np.concatenate(pieces, axis=2)


def _check_frames(frames: Frames | Sequence[Frames]) -> Frames:
    try:
        array = np.asarray(frames)
    except ValueError as error:
        raise GeometryError("frames of different sizes; expected one size") from error
    if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape or array.dtype != np.uint8:
        raise GeometryError(f"frames {array.dtype} {list(array.shape)}; expected uint8 [n H W 3], nothing empty")
    return array


def _scale_to_height(clip: Frames, height: int) -> Frames:
    width = max(1, round(clip.shape[2] * height / clip.shape[1]))
    rows = ((np.arange(height) + 0.5) * clip.shape[1] / height).astype(int)
    columns = ((np.arange(width) + 0.5) * clip.shape[2] / width).astype(int)
    return clip[:, rows][:, :, columns]


def _fit(text: str, font: Any, width: int) -> str:
    """`text`, shortened with an ellipsis until it is at most `width` pixels wide."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…" if text else ""


def true_size(comment: str) -> tuple[int, int] | None:
    """`(width, height)` noted by `write_video`, if this file is one of ours."""
    width, _, height = comment.removeprefix(_SIZE_TAG).partition("x")
    if not comment.startswith(_SIZE_TAG) or not (width.isdecimal() and height.isdecimal()):
        return None
    return (int(width), int(height)) if int(width) and int(height) else None
