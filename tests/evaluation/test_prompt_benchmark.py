"""The probe is right on the truth, guesses where nothing happened, and the asked event reaches the model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.tiny_models import write_tiny_model

from mosaicmem.errors import ConfigError
from mosaicmem.evaluation import prompt_benchmark
from mosaicmem.evaluation.prompt_benchmark import (
    Case,
    CaseResult,
    PromptConfig,
    different,
    generate_case,
    make_case,
    probe,
    run_prompts,
    summarize_prompts,
)
from mosaicmem.generation.backend import load_models
from mosaicmem.generation.rollout import rollout_step
from mosaicmem.worlds.episodes import HELD_OUT, Event

SMALL = PromptConfig(cases=6, size=64, pictured=1)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [make_case(i, SMALL) for i in range(SMALL.cases)]


def test_the_probe_is_always_right_on_the_truth_and_as_sure_as_can_be(cases):
    for case in cases:
        assert probe(case.truths[0], case.truths) == (0, pytest.approx(1))
        assert probe(case.truths[1], case.truths) == (1, pytest.approx(-1))
        half = case.truths.mean(0)
        assert probe(half, case.truths)[1] == pytest.approx(0, abs=1e-6)
        assert probe(0.6 * case.truths[1] + 0.4 * case.truths[0], case.truths)[0] == 1


def test_the_probe_looks_only_where_the_two_events_differ(cases, rng):
    case = cases[0]
    elsewhere = ~different(case.truths)
    spoilt = torch.where(elsewhere[:, None], torch.randn(case.truths[0].shape, generator=rng), case.truths[1])
    assert probe(spoilt, case.truths) == (1, pytest.approx(-1))


def test_noise_says_nothing(cases, rng):
    told = [probe(torch.rand(c.truths[0].shape, generator=rng) * 2 - 1, c.truths)[1] for c in cases]
    assert max(abs(margin) for margin in told) < 1


def test_cases_are_held_out_fair_and_visible(cases):
    assert len({case.episode.seed for case in cases}) == len(cases)
    for case in cases:
        assert case.episode.seed in HELD_OUT and case.pair == tuple(sorted(set(case.pair)))
        assert case.episode.event is not None and case.episode.event.text == case.pair[case.asked]
        assert {text.split()[1] for text in case.pair} in ({"ball"}, {"light"})
        assert case.at % 4 == 1 and case.at + 16 <= len(case.episode)
        assert float(different(case.truths).float().mean()) > 0
    assert {case.asked for case in cases} == {0, 1}
    again = make_case(3, SMALL)
    assert torch.equal(again.truths, cases[3].truths) and again.asked == cases[3].asked


def test_what_is_asked_reaches_the_model_and_the_memory_does_not_hold_the_answer(tmp_path, cases):
    models = load_models(write_tiny_model(tmp_path / "tiny"))
    case = cases[0]
    frames = generate_case(models, case, SMALL)
    assert frames.shape == (16, 3, 64, 64)
    assert torch.equal(generate_case(models, case, SMALL), frames)
    other = replace(case, episode=replace(case.episode, event=Event(case.at, case.pair[1 - case.asked])))
    assert not torch.equal(generate_case(models, other, SMALL), frames), "only the words differ"


def test_guidance_leads_away_from_the_event_alone(tmp_path, cases, monkeypatch):
    """A door that has begun to open before is in both prompts, one that opens later in none."""
    models, asked = load_models(write_tiny_model(tmp_path / "tiny")), []

    def step(models, state, cameras, config):
        asked.append((state.prompt, state.avoid))
        return rollout_step(models, state, cameras, config)

    monkeypatch.setattr(prompt_benchmark, "rollout_step", step)
    case = cases[0]
    doors = (Event(case.at - 4, "a door opens"), Event(case.at + 4, "another door opens"))
    generate_case(models, replace(case, episode=replace(case.episode, happens=doors)), SMALL)
    before = f"{case.episode.caption} a door opens."
    assert asked == [(f"{before} {case.pair[case.asked]}.", before)]


def result(asked: int, told: int, noun: str = "ball", neither: int = 0) -> CaseResult:
    pair = (f"the {noun} a", f"the {noun} b")
    return CaseResult(0, pair, asked, told, 1.0 if asked == told else -1.0, True, neither, {})


def test_shares_are_counted_by_kind_and_whoever_ignores_the_prompt_gets_half():
    ignorant = [result(i % 2, 0, "light") for i in range(8)]
    obedient = [result(i % 2, i % 2) for i in range(8)]
    report = summarize_prompts(ignorant + obedient)
    assert report["groups"]["light"]["accuracy"] == 0.5 and report["groups"]["ball"]["accuracy"] == 1
    assert report["accuracy"] == 0.75 and report["probe_on_neither"] == 0.5 and report["probe_on_truth"] == 1
    assert report["margin"] == 0.5


def test_cases_run_from_end_to_end(tmp_path):
    folder = write_tiny_model(tmp_path / "tiny")
    (found,) = run_prompts(lambda: load_models(folder), replace(SMALL, cases=1))
    assert found.on_truth and set(found.pictures) == {"generated", "without", "first", "second"}
    assert found.told in (0, 1) and -5 < found.margin < 5


@pytest.mark.parametrize("wrong", [{"cases": 0}, {"size": 8}])
def test_impossible_cases_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PromptConfig(**wrong)
