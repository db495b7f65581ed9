"""What is said along a path: words that hold from the start, and things that happen on the way.

A prompt holds for a whole window, and a latent is of several frames. So a window ends where the next thing happens, and
that begins with the first latent at or after its frame.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mosaicmem.errors import ConfigError


@dataclass(frozen=True)
class Cue:
    """Something that is asked to happen.

    Attributes:
        frame: Index on the path from which it may show.
        text: In words, such as "the ball turns blue".
    """

    frame: int
    text: str


@dataclass(frozen=True)
class Script:
    """The words of a path.

    Attributes:
        caption: What is there.
        cues: What happens, by rising frame.
    """

    caption: str = ""
    cues: tuple[Cue, ...] = ()

    def __post_init__(self) -> None:
        frames = [cue.frame for cue in self.cues]
        if frames != sorted(set(frames)):
            raise ConfigError(f"events at frames {frames}: expected one a frame, in rising order")
        if any(not cue.text.strip() for cue in self.cues):
            raise ConfigError("an event without words; expected for example 'the ball turns blue'")

    @classmethod
    def of(cls, caption: str, told: Iterable[tuple[int, str]]) -> Script:
        """A script of frames and words in any order; what begins at one frame is said together."""
        said: dict[int, list[str]] = {}
        for frame, text in told:
            said.setdefault(frame, []).append(text)
        return cls(caption, tuple(Cue(frame, ". ".join(said[frame])) for frame in sorted(said)))

    def part(self, start: int, stop: int) -> Script:
        """The words of frames `start` to `stop` of a path: what has happened by then is in the caption."""
        ahead = tuple(Cue(cue.frame - start, cue.text) for cue in self.cues if start < cue.frame < stop)
        return Script(self.prompt(start), ahead)

    def prompt(self, frame: int) -> str:
        """The words that hold at a frame: the caption, then what has happened, a sentence each."""
        sentences = [self.caption, *(cue.text for cue in self.cues if cue.frame <= frame)]
        if len(sentences) == 1:
            return self.caption
        return " ".join(f"{s.strip().rstrip('.')}." for s in sentences if s.strip())

    def end_of_window(self, first: int, stop: int, temporal: int) -> int:
        """Where on the path a window must stop for what happens in it to begin with the next window's first latent.

        Args:
            first: The window's first generated frame; its latents begin there and every `temporal` frames after.
            stop: Where it would stop otherwise.
            temporal: Frames of a latent.
        """
        ahead = [cue.frame for cue in self.cues if cue.frame > first]
        return min(stop, _begin(ahead[0], first, temporal)) if ahead else stop

    def check(self, count: int, first: int, temporal: int) -> None:
        """Raise `ConfigError` unless a latent begins at or after every cue on a path of `count` frames.

        Args:
            count: Frames of the path.
            first: The path's first generated frame: 0, or 1 where frame 0 is given.
            temporal: Frames of a latent.
        """
        if self.cues and first >= count:
            raise ConfigError(f"{self.cues[0].text!r}: the path is the given frame alone; expected a longer one")
        for cue in self.cues:
            if cue.frame < 0 or _begin(cue.frame, first, temporal) >= count:
                last = first + (count - 1 - first) // temporal * temporal
                raise ConfigError(
                    f"{cue.text!r} at frame {cue.frame}: the path has {count} frames, and the last latent to generate "
                    f"begins at frame {last}; expected 0 to {last}"
                )


def _begin(frame: int, first: int, temporal: int) -> int:
    """First frame of the first latent at or after `frame`."""
    return first + max(0, -(-(frame - first) // temporal)) * temporal
