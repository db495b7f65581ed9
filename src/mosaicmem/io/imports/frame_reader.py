"""Single frames of a video by number, read in order, so that a long one need not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaicmem.errors import InputError
from mosaicmem.io import files
from mosaicmem.io.video import true_size

Picture = NDArray[np.uint8]


class FrameReader:
    """A video whose frames are asked for one at a time; going on is cheap, going back starts it again.

    Attributes:
        fps: Frames a second.
        size: `(width, height)`, pixels.

    Raises:
        InputError: if the file is no video, or its frames are too large.
    """

    def __init__(self, path: Path) -> None:
        import av

        self.path = files.require_file(path)
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise InputError(f"{path}: holds no video stream")
                stream = container.streams.video[0]
                self.fps = float(stream.average_rate or 24)
                own = (stream.width, stream.height)
                self.size = true_size(container.metadata.get("comment", "")) or own
        except (av.FFmpegError, OSError) as error:
            raise InputError(f"{path}: not a readable video ({error})") from error
        if own[0] * own[1] > files.MAX_PIXELS or min(own) < 1:
            raise InputError(f"{path}: frames of {own[0]}x{own[1]} px; expected at most {files.MAX_PIXELS:,} pixels")
        self._next, self._frames = 0, self._decode()

    def read(self, number: int) -> Picture:
        """Frame `number` as `[H W 3]`.

        Raises:
            InputError: if the video is damaged or shorter.
        """
        if number < self._next:
            self._next, self._frames = 0, self._decode()
        for frame in self._frames:
            self._next += 1
            if self._next == number + 1:
                picture = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                return picture[: self.size[1], : self.size[0]]
        raise InputError(
            f"{self.path}: ends after {self._next} frames, but frame {number} has a pose; is it truncated?"
        )

    def _decode(self) -> Iterator[Any]:
        import av

        try:
            with av.open(str(self.path)) as container:
                yield from container.decode(container.streams.video[0])
        except av.FFmpegError as error:
            raise InputError(f"{self.path}: not a readable video ({error})") from error
