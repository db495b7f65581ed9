"""Settings from files and `--set`: dataclasses in, dataclasses out, and every problem reported at once.

The sections are the dataclasses of the things they configure, so a field exists once. Precedence, weakest first:
defaults, `--config FILE`, `--set a.b=value`, the command's own options.
"""

from __future__ import annotations

import dataclasses
import difflib
import reprlib
import tomllib
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from mosaicmem.errors import ConfigError, InputError
from mosaicmem.io.files import LARGEST, read_json, read_text

MAX_SETTINGS_BYTES = 2**20
DERIVED = "derived"  # what show-config adds for people; never read back

D = TypeVar("D")


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping in a TOML, YAML or JSON file, by its suffix.

    Raises:
        ConfigError: if the file is missing, too large, not parsable or holds no mapping.
    """
    readers = {".toml": _read_toml, ".yaml": _read_yaml, ".yml": _read_yaml, ".json": _read_json}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise ConfigError(
            f"{path}: unknown kind of settings file {path.suffix!r}; expected .toml, .yaml, .yml or .json"
        )
    try:
        value = reader(path)
    except InputError as error:
        raise ConfigError(str(error)) from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: holds {_kind(value)}, expected a table of settings such as [retrieval]")
    return value


def parse_assignment(text: str) -> tuple[list[str], Any]:
    """`"retrieval.budget=64"` as (["retrieval", "budget"], 64). The value is read as TOML, else taken as text."""
    key, equals, value = text.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"--set {text!r}: expected SECTION.KEY=VALUE, for example --set seed=7")
    value = value.strip()
    try:
        return names, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return names, {"none": None, "null": None}.get(value.lower(), value)


def build(cls: type[D], file: Path | None = None, assignments: Sequence[str] = ()) -> D:
    """`cls` with a settings file and `--set` assignments applied, in this order.

    Raises:
        ConfigError: naming every unknown key (with the nearest known one), wrong type and refused value.
    """
    problems: list[str] = []
    layers: list[tuple[str, Mapping[str, Any]]] = []
    if file is not None:
        try:
            layers.append((str(file), read_settings(file)))
        except ConfigError as error:
            problems.append(str(error))
    for text in assignments:
        try:
            names, value = parse_assignment(text)
        except ConfigError as error:
            problems.append(str(error))
            continue
        nested: Any = value
        for name in reversed(names):
            nested = {name: nested}
        layers.append(("--set", nested))
    settings = merge(cls, layers, problems)
    built = _construct(cls, settings, "", problems)
    if problems:
        raise ConfigError("settings refused:\n" + "\n".join(f"  - {p}" for p in problems))
    return built


def merge(cls: type, layers: Sequence[tuple[str, Mapping[str, Any]]], problems: list[str]) -> dict[str, Any]:
    """Later layers over earlier ones, keys and types checked against the dataclass `cls`; problems are collected."""
    out: dict[str, Any] = {}
    for source, layer in layers:
        _merge_into(out, cls, layer, source, "", problems)
    return out


def checked(value: D) -> D:
    """`value`, if a settings file could say all of it: the parser of options takes `nan` and `inf` for numbers.

    Raises:
        ConfigError: naming every setting that is none.
    """
    problems: list[str] = []
    _check(value, "", problems)
    if problems:
        raise ConfigError("settings refused:\n" + "\n".join(f"  - {p}" for p in problems))
    return value


def to_dict(value: Any) -> dict[str, Any]:
    """A dataclass of settings as plain JSON values."""
    return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}


def difference(value: dict[str, Any], default: dict[str, Any]) -> dict[str, Any]:
    """Those settings of `value` that are not the default."""
    out: dict[str, Any] = {}
    for key, found in value.items():
        if isinstance(found, dict):
            inner = difference(found, default[key])
            if inner:
                out[key] = inner
        elif found != default[key]:
            out[key] = found
    return out


def to_toml(value: Mapping[str, Any], prefix: str = "") -> str:
    """TOML of nested mappings of plain values. An unset value (None) becomes a comment, since TOML has none."""
    lines = [_toml_line(key, item) for key, item in value.items() if not isinstance(item, Mapping)]
    for key, item in value.items():
        if isinstance(item, Mapping):
            lines += ["", f"[{prefix}{key}]", to_toml(item, f"{prefix}{key}.").strip("\n")]
    return "\n".join(lines).strip("\n") + "\n"


def _merge_into(
    out: dict[str, Any], cls: type, layer: Mapping[str, Any], source: str, at: str, problems: list[str]
) -> None:
    hints = get_type_hints(cls)
    known = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    for key, value in layer.items():
        name = f"{at}{key}"
        if not at and key == DERIVED:
            continue
        if key not in known:
            problems.append(f"{source}: unknown setting {name!r}{_suggestion(str(key), at, known, cls)}")
        elif dataclasses.is_dataclass(known[key]):
            if not isinstance(value, Mapping):
                problems.append(f"{source}: {name} = {_short(value)}: expected a section of settings")
                continue
            _merge_into(out.setdefault(key, {}), known[key], value, source, f"{name}.", problems)
        else:
            ok, converted = _convert(value, known[key])
            if ok:
                out[key] = converted
            else:
                expected = describe(known[key])
                problems.append(f"{source}: {name} = {_short(value)}: expected {expected}")


def _check(value: Any, at: str, problems: list[str]) -> None:
    hints = get_type_hints(type(value))
    for f in dataclasses.fields(value):
        found, hint = getattr(value, f.name), hints[f.name]
        if dataclasses.is_dataclass(hint):
            _check(found, f"{at}{f.name}.", problems)
        elif not _convert(found, hint)[0]:
            problems.append(f"{at}{f.name} = {_short(found)}: expected {describe(hint)}")


def _construct(cls: type[D], settings: dict[str, Any], at: str, problems: list[str]) -> D:
    hints = get_type_hints(cls)
    values = {}
    for f in dataclasses.fields(cls):  # pyright: ignore[reportArgumentType]
        if dataclasses.is_dataclass(hints[f.name]):
            values[f.name] = _construct(hints[f.name], settings.get(f.name, {}), f"{at}{f.name}.", problems)
        elif f.name in settings:
            values[f.name] = settings[f.name]
    try:
        return cls(**values)
    except ConfigError as error:
        problems.append(f"{at.rstrip('.')}: {error}" if at else str(error))
        return cls()


def _convert(value: Any, hint: Any) -> tuple[bool, Any]:
    """Whether `value` fits the type, and the value in that type (an integer where a float is due, a list as tuple)."""
    origin = get_origin(hint)
    if origin is Literal:
        return value in get_args(hint) and not isinstance(value, bool), value
    if origin in (Union, types.UnionType):
        for option in get_args(hint):
            ok, converted = _convert(value, option)
            if ok:
                return True, converted
        return False, None
    if hint is type(None):
        return value is None, None
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or len(value) != len(get_args(hint)):
            return False, None
        pairs = [_convert(v, h) for v, h in zip(value, get_args(hint), strict=True)]
        return all(ok for ok, _ in pairs), tuple(v for _, v in pairs)
    if hint is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= LARGEST
        return good, float(value) if good else None
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63, value
    if hint in (str, bool):
        return isinstance(value, hint), value
    raise TypeError(f"settings of type {hint} are not supported")


def describe(hint: Any) -> str:
    """A type in words, for a message."""
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, get_args(hint)))
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(describe(h) for h in get_args(hint))
    if get_origin(hint) is tuple:
        return f"a list of {len(get_args(hint))} values"
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "nothing"}
    return words.get(hint, str(hint))


def _suggestion(key: str, at: str, known: Mapping[str, Any], cls: type) -> str:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.6)
    if near:
        return f"; did you mean {at}{near[0]!s}?"
    if not at:
        paths = [
            f"{name}.{f.name}"
            for name, hint in known.items()
            if dataclasses.is_dataclass(hint)
            for f in dataclasses.fields(hint)
        ]
        inside = [path for path in paths if path.endswith(f".{key}")]
        if inside:
            return f"; did you mean {inside[0]}?"
    return f"; known here: {', '.join(known)}"


def _short(value: Any) -> str:
    """A value for a message: never longer than a line, however it is nested."""
    brief = reprlib.Repr()
    brief.maxlevel = 2
    return brief.repr(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _toml_line(key: str, value: Any) -> str:
    if value is None:
        return f"# {key} is unset"
    return f"{key} = {_toml_value(value)}"


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'


def _read_toml(path: Path) -> Any:
    try:
        return tomllib.loads(read_text(path, MAX_SETTINGS_BYTES))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(read_text(path, MAX_SETTINGS_BYTES))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML: {detail}") from error


def _read_json(path: Path) -> Any:
    return read_json(path, MAX_SETTINGS_BYTES)


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}.get(
        type(value), "something else"
    )
