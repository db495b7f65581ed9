"""Settings: every problem at once, with the nearest known name; files, assignments and options in this order."""

import dataclasses
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mosaicmem.apps.cli.config import Config
from mosaicmem.apps.cli.settings import build, difference, parse_assignment, to_dict, to_toml
from mosaicmem.errors import ConfigError


def flat(section, at=""):
    for f in dataclasses.fields(section):
        value = getattr(section, f.name)
        if dataclasses.is_dataclass(value):
            yield from flat(value, f"{at}{f.name}.")
        else:
            yield f"{at}{f.name}", value


def test_t6_all_problems_are_listed_at_once_with_suggestions():
    with pytest.raises(ConfigError) as caught:
        build(Config, None, ["retrieval.max_source=3", "sead=1", "pool=3", "seed=maybe", "lifting=4", "video.fps=-1"])
    assert str(caught.value) == (
        "settings refused:\n"
        "  - --set: unknown setting 'retrieval.max_source'; did you mean retrieval.max_sources?\n"
        "  - --set: unknown setting 'sead'; did you mean seed?\n"
        "  - --set: unknown setting 'pool'; did you mean retrieval.pool?\n"
        "  - --set: seed = 'maybe': expected a whole number\n"
        "  - --set: lifting = 4: expected a section of settings\n"
        "  - video: fps = -1.0: expected above 0, up to 240"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.toml", "seed = 7\n[retrieval]\npool = 20\n"),
        ("a.yaml", "seed: 7\nretrieval: {pool: 20}\n"),
        ("a.json", '{"seed": 7, "retrieval": {"pool": 20}}'),
    ],
)
def test_three_notations_mean_the_same_and_set_wins_over_the_file(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    config = build(Config, path)
    assert (config.seed, config.retrieval.pool) == (7, 20)
    assert build(Config, path, ["seed=8"]).seed == 8
    assert build(Config, path, ["seed=8"]).retrieval.pool == 20


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "seed = = 3", "not valid TOML"),
        ("a.yaml", "a: [1, 2", "not valid YAML"),
        ("a.yaml", "!!python/object/apply:os.system ['echo hacked']", "not valid YAML"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[" * 5000 + "]" * 5000, "nested deeper"),
        ("a.json", "[1, 2]", "holds a list, expected a table of settings"),
        ("a.yaml", "just text", "holds text, expected a table of settings"),
        ("a.ini", "seed=3", "unknown kind of settings file '.ini'"),
        ("a.toml", "\x00\x01", "not valid TOML"),
        ("a.toml", "x" * (2**20 + 1), "expected at most"),
    ],
)
def test_a_bad_settings_file_is_named_with_what_was_found(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        build(Config, path)
    assert message in str(caught.value)
    assert name in str(caught.value)


def test_a_whole_number_that_no_float_can_hold_is_refused():
    for value in (f"1{'0' * 400}", f"-1{'0' * 400}"):
        with pytest.raises(ConfigError, match=r"sampling\.guidance = .*: expected a finite number"):
            build(Config, None, [f"sampling.guidance={value}"])


def test_a_missing_settings_file_is_a_settings_error(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        build(Config, tmp_path / "none.toml")


def test_aliases_that_would_explode_are_not_expanded(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)
    ]
    path = tmp_path / "bomb.yaml"
    path.write_text("\n".join(lines) + "\nseed: *a11\n")
    with pytest.raises(ConfigError, match="expected a whole number") as caught:
        build(Config, path)
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=3", ".a=3", ""])
def test_an_assignment_without_key_or_value_says_how_it_is_written(text):
    with pytest.raises(ConfigError, match=r"expected SECTION.KEY=VALUE"):
        parse_assignment(text)


def test_values_are_toml_else_text():
    assert parse_assignment("a.b=3") == (["a", "b"], 3)
    assert parse_assignment("a=1e-3") == (["a"], 0.001)
    assert parse_assignment("a=true") == (["a"], True)
    assert parse_assignment("a=older") == (["a"], "older")
    assert parse_assignment("a=none") == (["a"], None)


def test_unset_is_a_value_where_the_field_allows_it():
    config = build(Config, None, ["retrieval.max_tokens=5"])
    assert config.retrieval.max_tokens == 5
    assert build(Config, None, ["retrieval.max_tokens=none"]).retrieval.max_tokens is None
    with pytest.raises(ConfigError, match="expected a whole number"):
        build(Config, None, ["retrieval.max_sources=none"])


@given(
    seed=st.integers(0, 2**63 - 1),
    fps=st.floats(0.1, 240),
    sources=st.integers(1, 16),
    half_life=st.none() | st.floats(0.001, 1e6),
    prefer=st.sampled_from(["older", "newer"]),
)
def test_t6_what_is_printed_is_what_is_read(seed, fps, sources, half_life, prefer):
    base = Config()
    config = dataclasses.replace(
        base,
        seed=seed,
        video=dataclasses.replace(base.video, fps=fps),
        retrieval=dataclasses.replace(base.retrieval, max_sources=sources, half_life=half_life, prefer=prefer),
    )
    text = to_toml(to_dict(config))
    assert build_from(tomllib.loads(text)) == config
    assert build_from(difference(to_dict(config), to_dict(base))) == config


def build_from(mapping):
    from mosaicmem.apps.cli.settings import _construct, merge

    problems: list[str] = []
    settings = merge(Config, [("test", mapping)], problems)
    assert not problems
    return _construct(Config, settings, "", problems)


def test_every_field_has_a_documented_meaning():
    def documented(cls):
        for f in dataclasses.fields(cls):
            value = getattr(cls(), f.name)
            if dataclasses.is_dataclass(value):
                documented(type(value))
            else:
                assert f.name in (cls.__doc__ or ""), f"{cls.__name__}.{f.name} is not described"

    documented(Config)
