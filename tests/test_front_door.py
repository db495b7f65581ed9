"""The public names: exactly these, each with a docstring, and the same for a type checker as for the interpreter."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import mosaicmem

FRONT_DOOR = {
    "geometry": ["Cameras", "TokenGrid", "look_at"],
    "memory": ["Keyframe", "LiftingConfig", "Mosaic", "PatchStore", "RetrievalConfig", "lift", "retrieve"],
    "ops": ["gather_cells", "make_cameras", "prope_attention", "rope_cos_sin"],
    "worlds": ["RGBDFolder", "Scene", "make_episode", "make_scene"],
    "models": [
        *("Compositor", "LearnedDepth", "PixelShuffleVAE", "SamplingConfig", "TAEF2", "VideoVAE", "WorldModel"),
        *("assemble", "canvas"),
    ],
    "depth": ["align_scale"],
    "generation": [
        "Models",
        "RolloutEvent",
        "RolloutState",
        "load_models",
        "observe",
        "rollout",
        "rollout_step",
        "start",
    ],
    "io": ["Trajectory", "WorldFile", "lint", "load_store", "read_trajectory", "save_store", "write_trajectory"],
    "errors": ["MosaicMemError"],
}
NAMES = sorted(name for names in FRONT_DOOR.values() for name in names)


def test_the_front_door_is_this_list() -> None:
    assert sorted(mosaicmem.__all__) == NAMES
    assert set(NAMES) <= set(dir(mosaicmem))


@pytest.mark.parametrize(("room", "name"), [(room, name) for room, names in FRONT_DOOR.items() for name in names])
def test_every_name_has_a_home_and_a_docstring(room: str, name: str) -> None:
    value = getattr(mosaicmem, name)
    assert value.__module__.startswith(f"mosaicmem.{room}")
    doc = inspect.getdoc(value)
    assert doc is not None and len(doc) > 30
    assert not doc.startswith(f"{name}("), "a dataclass without a docstring shows its signature here"


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    tree = ast.parse(Path(mosaicmem.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names:
            assert alias.asname == alias.name, "`X as X` says that the name is meant to be public"
            assert mosaicmem._HOME[alias.name] == node.module
    assert sorted(alias.name for node in block.body for alias in getattr(node, "names", [])) == NAMES


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'mosaicmem' has no attribute 'Kamera'"):
        _ = mosaicmem.Kamera  # pyright: ignore[reportAttributeAccessIssue]


def test_a_star_import_gives_the_front_door() -> None:
    code = "from mosaicmem import *; print(*sorted(name for name in globals() if name[0] != '_'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == NAMES


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert mosaicmem.__version__ == version("mosaicmem")
