"""What can be changed on the way: memory, how far a step goes, how frames are sampled, how it looks."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mosaicmem.errors import ConfigError
from mosaicmem.live.walk import Walk
from mosaicmem.models.world_model import SamplingConfig, WorldModel

SWITCH = {"on": True, "yes": True, "1": True, "off": False, "no": False, "0": False}


@dataclass(frozen=True)
class Settings:
    """How things are set.

    Attributes:
        memory: Whether frames are generated with memory; None where nothing is generated.
        sampling: How the model samples; None where there is none, or a recording fixes it.
        step, turn: Times the usual way, and the usual angle, of a key.
        every: Show all frames of a step; without, its last alone: less motion.
        theme: Name of the colours.
    """

    memory: bool | None
    sampling: SamplingConfig | None
    step: float = 1.0
    turn: float = 1.0
    every: bool = True
    theme: str = ""


@dataclass(frozen=True)
class Field:
    """One line of the form.

    Attributes:
        read: From words to the value; raises ValueError.
        sampling: Whether it belongs to the model.
    """

    name: str
    label: str
    words: str
    read: Callable[[str], Any]
    sampling: bool = False


def _between(low: float, high: float, kind: type = float) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = kind(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return read


FIELDS = (
    Field("memory", "memory", "on or off", lambda text: SWITCH[text.lower()]),
    Field("guidance", "guidance", "0 to 20: weight of the words", _between(0, 20), True),
    Field("event_guidance", "event guidance", "0 to 20: the same for what happens", _between(0, 20), True),
    Field("guidance_limit", "guidance limit", "0.001 to 10: most they may change", _between(0.001, 10), True),
    Field("steps", "steps", "1 to 50: evaluations; more is slower", _between(1, 50, int), True),
    Field("step", "step", "0.1 to 4: how far a key goes", _between(0.1, 4)),
    Field("turn", "turn", "0.1 to 4: how far a key turns", _between(0.1, 4)),
    Field("every", "motion", "on, off: show its last frame alone", lambda text: SWITCH[text.lower()]),
    Field("theme", "theme", "high-contrast, textual-light, ...", str),
)


def shown(settings: Settings) -> dict[str, str]:
    """What stands in the lines of the form; a line that means nothing here is left out."""
    found = {}
    for field in FIELDS:
        value = _value(settings, field)
        if value is not None:
            found[field.name] = ("on" if value else "off") if isinstance(value, bool) else f"{value}"
    return found


def parsed(texts: Mapping[str, str], now: Settings, themes: Sequence[str]) -> Settings:
    """The settings that the lines say.

    Raises:
        ConfigError: with everything that is wrong.
    """
    values: dict[str, Any] = {}
    wrong = []
    for field in FIELDS:
        if field.name not in texts:
            continue
        try:
            values[field.name] = field.read(texts[field.name].strip())
        except (ValueError, KeyError):
            wrong.append(f"{field.label}: {texts[field.name]!r:.20}: expected {field.words.split(':')[0]}")
    if "theme" in values and values["theme"] not in themes:
        close = difflib.get_close_matches(values["theme"], themes, 3, 0.3) or ("high-contrast",)
        wrong.append(f"theme: {values['theme']!r:.20}: expected a name such as {', '.join(close)}; / lists all")
    if wrong:
        raise ConfigError("; ".join(wrong))
    of_model = {field.name: values.pop(field.name) for field in FIELDS if field.sampling and field.name in values}
    sampling = None if now.sampling is None else replace(now.sampling, **of_model)
    return replace(now, **values, sampling=sampling)


def said(before: Settings, after: Settings) -> list[str]:
    """What has changed, and how to have it from the beginning, in words."""
    lines = []
    for field in FIELDS:
        old, new = _value(before, field), _value(after, field)
        if old != new:
            words = ("on" if new else "off") if isinstance(new, bool) else f"{new}"
            again = f"  (--set sampling.{field.name}={new})" if field.sampling else ""
            lines.append(f"{field.label} {words}{again}")
    return lines


def sampling_of(walk: Walk) -> SamplingConfig | None:
    """How the model samples, where there is one."""
    generator = walk.maker.models.generator
    return generator.sampling if isinstance(generator, WorldModel) and walk.maker.generates else None


def sample_with(walk: Walk, sampling: SamplingConfig) -> None:
    """Have the model sample in another way from the next step on.

    Raises:
        ConfigError: if there is no model.
    """
    models = walk.maker.models
    if not isinstance(models.generator, WorldModel):
        raise ConfigError("no trained model makes these frames: there is nothing to sample")
    generator = WorldModel(
        models.generator.network, models.generator.name, sampling, use_memory=models.generator.use_memory
    )
    walk.maker = replace(walk.maker, models=replace(models, generator=generator))


def _value(settings: Settings, field: Field) -> Any:
    if field.sampling:
        return None if settings.sampling is None else getattr(settings.sampling, field.name)
    return getattr(settings, field.name)
