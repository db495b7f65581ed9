"""Trials of the memory benchmark: a held-out world, a path that returns, what was seen of it, and the truth.

The first part of the path is observed: true frames with exact depth enter memory. The rest is to be generated, and what
is true there is known exactly. A pixel of it counts as *seen* if its surface shows in a remembered frame (exact depth,
reprojected both ways) and nothing that moves by itself is there, since memory cannot know where a ball is now.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import refuse
from mosaicmem.evaluation.motion import MotionTruth, motion_truth
from mosaicmem.evaluation.revisit import covisible
from mosaicmem.geometry.cameras import Cameras
from mosaicmem.worlds.episodes import FPS, HELD_OUT, Episode, PathKind, make_episode, movers
from mosaicmem.worlds.film import film
from mosaicmem.worlds.scene import Rendering

KINDS: tuple[PathKind, ...] = ("turn", "walk", "loop")
"""Paths of the trials, in turn: two that go there and back, and a loop."""
LONGEST = 48  # frames that are generated at most: the end of the way
RECENT_FRAMES = 4  # a group of the autoencoder
_MOMENTS = 9  # of the past at which it is asked where moving things were


@dataclass(frozen=True)
class TrialConfig:
    """What a trial is made of.

    Attributes:
        size: Side of the frames, pixels.
        every: Frames between two that are remembered.
        longest: Frames that are generated at most.
        judged_every: Frames between two that the slower measures (SSIM, perceptual, motion) look at. Coprime with the
            frames of a latent, so that every place in a latent is looked at.
    """

    size: int = 128
    every: int = 4
    longest: int = LONGEST
    judged_every: int = 7

    def __post_init__(self) -> None:
        refuse(
            (self.size < 64 or self.size % 2 > 0, f"size = {self.size}: expected an even number from 64 pixels"),
            (self.every < 1 or 16 % self.every > 0, f"every = {self.every}: expected a divisor of 16"),
            (self.longest < 16 or self.longest % 16 > 0, f"longest = {self.longest}: expected a multiple of 16"),
            (self.judged_every < 1, f"judged_every = {self.judged_every}: expected at least 1"),
        )


@dataclass(frozen=True)
class Trial:
    """One held-out world with its path and truth.

    Attributes:
        episode: World, path, words; nothing happens on demand.
        remembered: Frames that are observed and enter memory, the last one right before the generated part.
        observed: What these show.
        recent: What the frames that end with the last of them show: how things move just then.
        cameras: Of the `n` frames to generate.
        truth: What these would show.
        covisible: `[n H W]` pixels whose surface a remembered frame shows.
        judged: Which of the `n` the slower measures look at, the last one among them.
    """

    episode: Episode
    remembered: tuple[int, ...]
    observed: Rendering
    recent: Rendering
    cameras: Cameras
    truth: Rendering
    covisible: Bool[Tensor, "n H W"]
    judged: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.cameras)

    @property
    def mark(self) -> int:
        """The last observed frame."""
        return self.remembered[-1]

    @property
    def times(self) -> Float[Tensor, " n"]:
        """Seconds of the frames to generate."""
        return torch.arange(self.mark + 1, self.mark + 1 + len(self)) / FPS

    @cached_property
    def moving(self) -> Bool[Tensor, "n H W"]:
        """Pixels that truly show something that moves by itself."""
        return torch.isin(self.truth.object_id, movers(self.episode.scene))

    @property
    def seen(self) -> Bool[Tensor, "n H W"]:
        """Pixels of the revisit scores: seen before, and at rest."""
        return self.covisible & ~self.moving

    @property
    def unseen(self) -> Bool[Tensor, "n H W"]:
        """Pixels of surfaces that no remembered frame shows. The sky is neither: it has no place."""
        return ~self.covisible & ~self.moving & (self.truth.depth > 0)

    @cached_property
    def motion(self) -> MotionTruth | None:
        """The judged frames with time stopped at the last observation; None in a world where nothing moves."""
        if not len(movers(self.episode.scene)):
            return None
        chosen = list(self.judged)
        return motion_truth(self.episode.scene, self.cameras[chosen], self.times[chosen], self.mark / FPS)

    @cached_property
    def swept(self) -> Bool[Tensor, "j H W"]:
        """Pixels of the judged frames where a moving thing is, or was at some time since the path began.

        A memory that cannot move what it saw shows it in all of these places at once. Where it is not any more, only
        pixels count whose background was seen: what a door uncovers and nobody looked at says nothing about the door.
        """
        scene, chosen = self.episode.scene, list(self.judged)
        ids, cameras = movers(scene), self.cameras[chosen]
        coarse = cameras.resized(cameras.width // 2, cameras.height // 2)
        found = torch.zeros_like(self.moving[chosen])
        for time in torch.linspace(0, self.mark / FPS, _MOMENTS).tolist() if len(ids) else ():
            there = torch.isin(film(scene, coarse, time, finer=1).object_id, ids)
            found = found | there.repeat_interleave(2, 1).repeat_interleave(2, 2)
        found = found if self.motion is None else found | self.motion.mask
        return self.moving[chosen] | (found & self.covisible[chosen])


def make_trial(index: int, config: TrialConfig | None = None) -> Trial:
    """Trial number `index`, the same for the same arguments, bit for bit: seed `HELD_OUT.start + index`."""
    config = config or TrialConfig()
    kind = KINDS[index % len(KINDS)]
    episode = make_episode(HELD_OUT.start + index, kind=kind, size=config.size, with_event=False)
    # the second half, as far as whole windows go; of a long way its end, where the view returns
    count = min(config.longest, 16 * ((len(episode) - 1) // 32))
    mark = len(episode) - 1 - count
    remembered = tuple(range(0, mark + 1, config.every))
    observed = _film(episode, list(remembered))
    recent = _film(episode, list(range(mark - RECENT_FRAMES + 1, mark + 1)))
    cameras, truth = episode.cameras[mark + 1 :], episode.film(slice(mark + 1, None))
    known = covisible_with_any(truth.depth, cameras, observed.depth, episode.cameras[list(remembered)])
    judged = tuple(range(count - 1, -1, -config.judged_every))[::-1]
    return Trial(episode, remembered, observed, recent, cameras, truth, known, judged)


def covisible_with_any(
    depth: Float[Tensor, "n H W"], cameras: Cameras, other_depth: Float[Tensor, "k H W"], other_cameras: Cameras
) -> Bool[Tensor, "n H W"]:
    """Pixels whose surface at least one of the other frames shows (`revisit.covisible`)."""
    out = torch.zeros_like(depth, dtype=torch.bool)
    for i, camera in enumerate(cameras):
        for z, other in zip(other_depth, other_cameras, strict=True):
            out[i] |= covisible(depth[i], camera, z, other)
    return out


def _film(episode: Episode, frames: list[int]) -> Rendering:
    """Chosen true frames of an episode in which nothing happens on demand."""
    return film(episode.scene, episode.cameras[frames], torch.tensor(frames) / FPS, finer=2)
