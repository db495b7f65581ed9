"""Imports point one way, heavy packages wait until they are needed, and the front door stays light.

The rules are those of docs/architecture.md. An import counts wherever it stands: inside a function it is still an
arrow, and so it is under `TYPE_CHECKING`.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.helpers import ROOT

SRC = ROOT / "src" / "mosaicmem"

BASE = {"errors", "_shapes"}
EARLY = BASE | {"geometry"}
MAY_IMPORT = {
    "errors": set[str](),
    "_shapes": set[str](),
    "geometry": BASE,
    "ops": EARLY,
    "memory": EARLY,
    "worlds": EARLY | {"io.files", "io.trajectories"},
    "depth": EARLY | {"worlds"},
    "diffusion": BASE,
    "models": EARLY | {"ops", "diffusion", "io.files"},
    "models.conditioning": EARLY | {"ops", "memory"},
    "models.depth_net": EARLY | {"ops", "depth", "io.files"},
    "models.world_model": EARLY | {"ops", "diffusion", "io.files"},
    "generation": EARLY | {"ops", "memory", "depth", "worlds", "models"},
    "evaluation": EARLY | {"ops", "memory", "depth", "worlds", "models", "generation"},
    "training": EARLY | {"ops", "memory", "depth", "worlds", "diffusion", "models", "generation", "evaluation", "io"},
    "io": EARLY | {"memory", "generation.events"},
    "live": EARLY | {"memory", "models", "generation", "io"},
    "apps": EARLY
    | {"ops", "memory", "depth", "worlds", "diffusion", "models", "generation", "evaluation", "training", "io", "live"},
}
"""What each room may import besides itself; the longest matching name decides."""

EVERYWHERE = {"torch", "numpy", "jaxtyping"}
AT_THE_TOP = {
    "io": {"PIL", "safetensors", "yaml"},
    "live": {"PIL"},
    "models": {"safetensors"},
    "training": {"safetensors", "rich", "PIL"},
    "worlds": {"PIL"},
    "apps": {"PIL", "rich", "tyro", "yaml"},  # the table of commands loads one command at a time
    "apps.tui": {"textual"},  # itself loaded inside functions
}
"""Third-party packages that a room may import when it is loaded. All others (av, numba, transformers, ...) are imported
inside functions. Compiled kernels live in modules whose names end in `_kernels`, which load numba and are themselves
loaded inside functions."""


@dataclass(frozen=True)
class Import:
    """One import: the module it stands in, what it names, its line, and whether it runs when the module loads."""

    module: str
    target: str
    line: int
    at_load: bool


def imports_of(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Every import of a file, relative ones resolved, `from a import b` as `a.b`."""

    def visit(node: ast.AST, at_load: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, at_load)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
                base = ".".join([*parents, *([base] if base else [])])
            for alias in node.names:
                yield Import(module, f"{base}.{alias.name}", node.lineno, at_load)
        inside = at_load and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            inside = False
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside)

    yield from visit(ast.parse(source), True)


def within(name: str, place: str) -> bool:
    return name == place or name.startswith(place + ".")


def broken_arrow(found: Import) -> str | None:
    """What is wrong with an import inside the package, or None."""
    if not within(found.target, "mosaicmem"):
        return None
    here, there = found.module.removeprefix("mosaicmem").strip("."), found.target.removeprefix("mosaicmem").strip(".")
    if here in ("", "__main__"):  # the front door and the command may reach everything
        return None
    places = [place for place in MAY_IMPORT if within(here, place)]
    if not places:
        return f"{found.module} belongs to no room of docs/architecture.md"
    room = here.split(".")[0]
    allowed = MAY_IMPORT[max(places, key=len)] | {room}
    if any(within(there, place) for place in allowed):
        return None
    return f"{found.module}:{found.line} imports {found.target}: an arrow that goes back"


def too_early(found: Import) -> str | None:
    """What is wrong with an import that runs when a module loads, or None."""
    package, here = found.target.split(".")[0], found.module.removeprefix("mosaicmem").strip(".")
    if not found.at_load:
        return None
    if package == "mosaicmem":
        if any(name.endswith("_kernels") for name in found.target.split(".")):
            return f"{found.module}:{found.line} loads compiled kernels when it is imported"
        if within(found.target, "mosaicmem.apps.tui") and not within(here, "apps.tui"):
            return f"{found.module}:{found.line} loads the terminal interface, and with it Textual, when it is imported"
        return None
    allowed = EVERYWHERE.union(*(packages for room, packages in AT_THE_TOP.items() if within(here, room)))
    if package in sys.stdlib_module_names or package in allowed:
        return None
    if package == "numba" and found.module.endswith("_kernels"):
        return None
    return f"{found.module}:{found.line} imports {package} when it is loaded; import it inside the function"


def all_imports() -> list[Import]:
    found = []
    for path in sorted(SRC.rglob("*.py")):
        parts = ["mosaicmem", *path.relative_to(SRC).with_suffix("").parts]
        is_package = parts[-1] == "__init__"
        module = ".".join(parts[:-1] if is_package else parts)
        found += imports_of(path.read_text(encoding="utf-8"), module, is_package)
    return found


def test_arrows_point_one_way() -> None:
    assert [problem for found in all_imports() if (problem := broken_arrow(found))] == []


def test_heavy_packages_wait_until_they_are_needed() -> None:
    assert [problem for found in all_imports() if (problem := too_early(found))] == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mosaicmem.geometry.fake", "from mosaicmem.memory import PatchStore"),
        ("mosaicmem.geometry.fake", "def f():\n    from ..memory.store import PatchStore"),
        ("mosaicmem.geometry.fake", "if TYPE_CHECKING:\n    import mosaicmem.ops.rope"),
        ("mosaicmem.ops.fake", "import mosaicmem.memory.store"),
        ("mosaicmem.memory.fake", "from mosaicmem import ops"),
        ("mosaicmem.models.transformer", "from mosaicmem.memory.store import PatchStore"),
        ("mosaicmem.io.fake", "from mosaicmem.generation.rollout import rollout"),
        ("mosaicmem.evaluation.fake", "from mosaicmem.apps.cli import main"),
        ("mosaicmem.generation.fake", "from mosaicmem import retrieve"),
        ("mosaicmem.attic.fake", "from mosaicmem.errors import InputError"),
    ],
)
def test_an_arrow_that_goes_back_is_seen(module: str, source: str) -> None:
    (found,) = imports_of(source, module)
    assert broken_arrow(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mosaicmem.models.conditioning", "from mosaicmem.memory.store import PatchStore"),
        ("mosaicmem.io.fake", "from mosaicmem.generation.events import RolloutEvent"),
        ("mosaicmem.memory.fake", "from .store import PatchStore"),
    ],
)
def test_arrows_that_point_forward_are_not(module: str, source: str) -> None:
    (found,) = imports_of(source, module)
    assert broken_arrow(found) is None


def test_relative_imports_are_resolved() -> None:
    assert [i.target for i in imports_of("from . import store", "mosaicmem.memory.lifting")] == [
        "mosaicmem.memory.store"
    ]
    assert [i.target for i in imports_of("from . import store", "mosaicmem.memory", True)] == ["mosaicmem.memory.store"]
    assert [i.target for i in imports_of("from ..ops import rope", "mosaicmem.memory", True)] == ["mosaicmem.ops.rope"]


@pytest.mark.parametrize(
    "source",
    [
        "import av",
        "from numba import njit",
        "class A:\n    import tyro",
        "try:\n    import transformers\nexcept E: ...",
    ],
)
def test_an_import_that_runs_too_early_is_seen(source: str) -> None:
    (found,) = imports_of(source, "mosaicmem.io.fake")
    assert too_early(found)
    (kernels,) = imports_of("from mosaicmem.memory import _kernels", "mosaicmem.memory.fake")
    assert too_early(kernels)


def test_the_terminal_interface_alone_loads_textual_and_only_when_it_is_wanted() -> None:
    (textual,) = imports_of("from textual.app import App", "mosaicmem.apps.tui.fake")
    assert too_early(textual) is None
    for module, source in (
        ("mosaicmem.apps.cli.fake", "from textual.app import App"),
        ("mosaicmem.apps.cli.fake", "from mosaicmem.apps.tui.app import Terminal"),
        ("mosaicmem.apps.tuition.fake", "import textual"),
    ):
        (found,) = imports_of(source, module)
        assert too_early(found)


def loaded_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `code`."""
    probe = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_front_door_opens_lightly() -> None:
    loaded = loaded_after("import mosaicmem")
    assert not loaded & {"torch", "numpy", "numba", "av", "PIL", "yaml", "tyro", "rich", "safetensors"}


def test_everything_behind_the_front_door_loads_no_compiler_and_no_codec() -> None:
    assert not loaded_after("from mosaicmem import *") & {"numba", "av", "tyro", "rich", "transformers"}


def test_help_does_not_load_torch() -> None:
    run = "from mosaicmem.apps.cli.main import main; assert main(['--help']) == 0"
    assert not loaded_after(run) & {"torch", "numpy", "numba", "av", "textual"}
    assert "torch" in loaded_after("import torch")


def test_every_room_is_described() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = sorted(path.name for path in SRC.iterdir() if (path / "__init__.py").is_file())
    assert [room for room in rooms if f"`{room}/`" not in text and f"`{room}/cli/`" not in text] == []


def test_the_package_says_that_it_is_typed() -> None:
    assert Path(SRC, "py.typed").is_file()
