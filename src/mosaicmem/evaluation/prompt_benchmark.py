"""Does it do what it is told? In every case a world could go one of two ways, and the prompt says which.

A case is a held-out world, a path, and two events of one kind, such as the ball turning red or blue. True frames up to
the event enter memory, the model is told of one of the two, and a probe looks at what it made: it compares the frames
with the true renders of both events under the same cameras, where these two differ, and the nearer one wins. On true
frames it is right by construction, so it says nothing about taste: only which of the two happened.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaicmem._shapes import Bool, Float, Tensor
from mosaicmem.errors import GeometryError, refuse
from mosaicmem.evaluation.bootstrap import mean_interval
from mosaicmem.evaluation.parallel import Loader, each_world
from mosaicmem.evaluation.rows import WINDOW, look
from mosaicmem.evaluation.trials import RECENT_FRAMES
from mosaicmem.generation.backend import Models
from mosaicmem.generation.rollout import RolloutConfig, from_u8, rollout_step, to_u8
from mosaicmem.worlds.episodes import FPS, HELD_OUT, Episode, Event, events_of, make_episode
from mosaicmem.worlds.film import film

FIRST = HELD_OUT.start + 20_000
"""Seeds of these worlds: apart from those of the other benchmarks."""
DIFFERENT = 0.15  # of a pixel between the two events, mean over colours in [-1, 1]
_MIN_PIXELS = 40  # that differ in a frame, on average: two colours of a ball that nobody sees are no case
_CANDIDATES = 40
_EVERY = 4  # frames between two that are remembered
_JUDGED = tuple(range(2, WINDOW - 1, 3))  # of the generated frames; every place in a latent occurs


@dataclass(frozen=True)
class PromptConfig:
    """What is run.

    Attributes:
        cases: So many.
        seed: Of the noise.
        size: Side of the frames, pixels.
        pictured: Cases of which pictures are kept.
        rollout: How frames are generated.
    """

    cases: int = 64
    seed: int = 0
    size: int = 128
    pictured: int = 8
    rollout: RolloutConfig = field(default_factory=RolloutConfig)

    def __post_init__(self) -> None:
        refuse(
            (not 1 <= self.cases <= 2000, f"cases = {self.cases}: expected 1 to 2000"),
            (self.size < 16, f"size = {self.size}: expected at least 16 pixels"),
        )


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        episode: Its event is the one asked for.
        pair: Both events, in an order that does not depend on the one asked for.
        asked: Which of the pair.
        truths: `[2 k 3 H W]` what the judged frames show under each.
        neither: `[k 3 H W]` and if nothing happens.
    """

    episode: Episode
    pair: tuple[str, str]
    asked: int
    truths: Float[Tensor, "2 k 3 H W"]
    neither: Float[Tensor, "k 3 H W"]

    @property
    def at(self) -> int:
        """The first frame at which the event shows: the first one to generate."""
        assert self.episode.event is not None
        return self.episode.event.frame


@dataclass(frozen=True)
class CaseResult:
    """What came of a case.

    Attributes:
        told: Which of the pair the probe sees in the generated frames.
        margin: How surely: 1 as near as the truth of `asked` to itself, -1 as near as that to the other, 0 undecided.
        on_truth: Whether the probe is right on the true frames of both events.
        on_neither: Which of the pair it sees where nothing happened.
    """

    seed: int
    pair: tuple[str, str]
    asked: int
    told: int
    margin: float
    on_truth: bool
    on_neither: int
    pictures: dict[str, NDArray[np.uint8]]


def probe(
    frames: Float[Tensor, "k 3 H W"], truths: Float[Tensor, "2 k 3 H W"]
) -> tuple[int, float]:  # fmt: skip
    """Which of two truths the frames are nearer to, by squared error where the two differ, and how surely.

    The margin is `(|f - b|^2 - |f - a|^2) / |a - b|^2`: 1 on `a`, -1 on `b`.
    """
    a, b = truths.double()
    where = different(truths)[:, None].expand_as(a)
    f, a, b = frames.double()[where], a[where], b[where]
    margin = ((f - b).square().sum() - (f - a).square().sum()) / (a - b).square().sum()
    return int(margin < 0), float(margin)


def different(truths: Float[Tensor, "2 k 3 H W"]) -> Bool[Tensor, "k H W"]:
    """Pixels at which the two truths differ visibly."""
    return (truths[0] - truths[1]).abs().mean(1) > DIFFERENT


def make_case(index: int, config: PromptConfig) -> Case:
    """Case number `index`: the first of its candidate worlds in which the two events look different.

    Raises:
        GeometryError: if none does.
    """
    for seed in range(FIRST + _CANDIDATES * index, FIRST + _CANDIDATES * (index + 1)):
        episode = make_episode(seed, size=config.size, with_event=True)
        rng = random.Random(seed)  # noqa: S311 - a fair coin, not a secret
        assert episode.event is not None
        noun = episode.event.text.split()[1]
        options = [text for text in events_of(episode.scene) if text.split()[1] == noun]
        first, second = sorted(rng.sample(options, 2))
        asked = rng.randrange(2)
        at = episode.event.frame
        if at + WINDOW - 1 > len(episode):
            continue
        told = replace(episode, event=Event(at, (first, second)[asked]))
        chosen = [at + i for i in _JUDGED]
        both = torch.stack([_film(told, chosen, text) for text in (first, second)])
        neither = _film(told, chosen, "")
        # an event that changes nothing, such as a red ball turning red, would be a case about doing nothing
        changes = [torch.stack([both[0], both[1]]), torch.stack([both[0], neither]), torch.stack([both[1], neither])]
        if all(float(different(pair).sum()) >= _MIN_PIXELS * len(chosen) for pair in changes):
            return Case(told, (first, second), asked, both, neither)
    raise GeometryError(f"no world among {_CANDIDATES} shows two different events; try another number of cases")


def run_prompts(load: Loader, config: PromptConfig | None = None, *, processes: int = 1) -> Iterator[CaseResult]:
    """One case after the other, in order; hand them to `summarize_prompts`."""
    config = config or PromptConfig()
    yield from each_world(partial(run_case, config=config), list(range(config.cases)), load, processes)


def run_case(models: Models, index: int, config: PromptConfig) -> CaseResult:
    """Generate one window under the prompt, and probe it."""
    case = make_case(index, config)
    frames = generate_case(models, case, config)[list(_JUDGED)]
    told, margin = probe(frames, case.truths)
    sign = 1.0 if case.asked == 0 else -1.0
    right = [probe(case.truths[i], case.truths)[0] == i for i in (0, 1)]
    pictures = {}
    if index < config.pictured:
        last = [("generated", frames), ("without", case.neither), ("first", case.truths[0]), ("second", case.truths[1])]
        pictures = {name: to_u8(shown[-1:])[0] for name, shown in last}
    return CaseResult(
        case.episode.seed, case.pair, case.asked, told, sign * margin, all(right),
        probe(case.neither, case.truths)[0], pictures,
    )  # fmt: skip


def generate_case(models: Models, case: Case, config: PromptConfig) -> Float[Tensor, "n 3 H W"]:
    """The window after the event: true frames up to it in memory, the asked event in the prompt."""
    episode, at = case.episode, case.at
    seen = list(range((at - 1) % _EVERY, at, _EVERY))  # the last one right before the event
    recent = list(range(at - RECENT_FRAMES, at))
    shown, newest = (
        film(episode.scene, episode.cameras[which], torch.tensor(which) / FPS, finer=2) for which in (seen, recent)
    )
    state = look(models, episode, seen, shown, newest, config.seed * 1_000_003 + episode.seed, episode.prompt(at))
    state = replace(state, avoid=replace(episode, event=None).prompt(at))
    cameras = episode.cameras[at : at + WINDOW - 1]
    _, event = rollout_step(models, state, cameras, replace(config.rollout, show_mosaic=False))
    return from_u8(event.frames_u8)


def summarize_prompts(results: Sequence[CaseResult]) -> dict[str, Any]:
    """Shares of right answers with intervals, by kind of event too, and the probe's controls."""
    groups = {"all": list(results)}
    for result in results:
        groups.setdefault(result.pair[0].split()[1], []).append(result)
    accuracy = {}
    for name, members in groups.items():
        found = mean_interval([float(r.told == r.asked) for r in members])
        accuracy[name] = {"accuracy": found.mean, "low": found.low, "high": found.high, "cases": found.count}
    return {
        "accuracy": accuracy["all"]["accuracy"],
        "groups": accuracy,
        "margin": float(np.mean([r.margin for r in results])),
        "probe_on_truth": float(np.mean([r.on_truth for r in results])),
        "probe_on_neither": float(np.mean([r.on_neither == r.asked for r in results])),
        "cases": [
            {"seed": r.seed, "asked": r.pair[r.asked], "other": r.pair[1 - r.asked], "right": r.told == r.asked,
             "margin": r.margin}
            for r in results
        ],
    }  # fmt: skip


def _film(episode: Episode, frames: list[int], event: str) -> Float[Tensor, "k 3 H W"]:
    """Chosen frames after the event, if `event` happens at its time."""
    parts = [episode.film(slice(frame, frame + 1), event=event).rgb for frame in frames]
    return torch.cat(parts)
