"""Editing memory is editing the world: recalled after the edit, a view equals the edited scene, rendered anew.

The scene is a furnished procedural room with one more solid in it, painted without light, since a memory carries the
light that it was seen in. The solid's patches are selected by the id picture of the rendering. All comparisons are on
the pixels that memory covers, and to within 1 dB of what the same memory recalls unedited.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from tests.memory.edit_scene import Seen, cameras, remember, room
from tests.memory.scenes import F64

from mosaicmem.geometry.cameras import Cameras
from mosaicmem.geometry.se3 import translation
from mosaicmem.geometry.token_grid import TokenGrid
from mosaicmem.memory import PatchStore, RetrievalConfig, retrieve
from mosaicmem.memory.editing import (
    duplicate,
    erase,
    mirror,
    move,
    outlined,
    rotate,
    scale,
    surface,
)
from mosaicmem.models.conditioning import canvas
from mosaicmem.models.synthetic import PixelShuffleVAE
from mosaicmem.worlds import scene as scene_module
from mosaicmem.worlds.primitives import Solids
from mosaicmem.worlds.scene import Rendering, Scene
from mosaicmem.worlds.shading import pattern_colour

UP = torch.tensor([0.0, 1, 0])
EVERY_GROUP = RetrievalConfig(max_sources=32, pool=64)


@pytest.fixture(scope="module", autouse=True)
def painted_without_light() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            scene_module, "shade", lambda surface, _, materials, *__: 2 * pattern_colour(surface, materials) - 1
        )
        yield


def recall(store: PatchStore, view: Cameras, grid: TokenGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """The picture `[n 3 H W]` that memory shows and the pixels `[n H W]` that it covers."""
    latents, good = canvas(store, retrieve(store, view, grid, EVERY_GROUP))
    good = good.repeat_interleave(grid.stride, 1).repeat_interleave(grid.stride, 2)
    return PixelShuffleVAE(grid.stride).decode_image(latents), good


def psnr(picture: torch.Tensor, truth: torch.Tensor, where: torch.Tensor) -> float:
    error = (picture - truth).square().mean(1)[where].mean()
    return float(10 * torch.log10(4 / error))


def turned_about(solids: Solids, which: torch.Tensor, degrees: float, about: torch.Tensor) -> Solids:
    """The scene's own turn about the vertical, in its own numbers: centre and yaw."""
    a = math.radians(degrees)
    dx, dz = solids.center[:, 0] - about[0], solids.center[:, 2] - about[2]
    center = solids.center.clone()
    center[which, 0] = (about[0] + math.cos(a) * dx + math.sin(a) * dz)[which]
    center[which, 2] = (about[2] - math.sin(a) * dx + math.cos(a) * dz)[which]
    return replace(solids, center=center, yaw=torch.where(which, solids.yaw + a, solids.yaw))


def scene_with(scene: Scene, solids: Solids, **materials: torch.Tensor) -> Scene:
    return replace(scene, solids=solids.sorted(), materials=replace(scene.materials, **materials))


def on_thing(table: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """A table of materials with its last row, the solid's, replaced."""
    return torch.cat([table[:-1], value[None]])


Edit = tuple[Callable[[Seen], PatchStore], Callable[[Scene, Solids, torch.Tensor], Scene]]
BY, ABOUT, FACTOR = torch.tensor([0.5, 0.0, -0.3], dtype=F64), torch.tensor([3.0, 0.0, -0.7], dtype=F64), 0.7
BESIDE = torch.tensor([-0.7, 0.0, 0.75], dtype=F64)
SLANT = math.radians(25)
NORMAL = torch.tensor([math.cos(SLANT), 0, -math.sin(SLANT)], dtype=F64)


def scene_moved(scene: Scene, solids: Solids, thing: torch.Tensor) -> Scene:
    return scene_with(scene, replace(solids, center=solids.center + thing[:, None] * BY))


def scene_scaled(scene: Scene, solids: Solids, thing: torch.Tensor) -> Scene:
    center = torch.where(thing[:, None], ABOUT + FACTOR * (solids.center - ABOUT), solids.center)
    size = torch.where(thing[:, None], FACTOR * solids.size, solids.size)
    waves = scene.materials.waves
    return scene_with(scene, replace(solids, center=center, size=size), waves=on_thing(waves, waves[-1] / FACTOR))


def scene_twice(scene: Scene, solids: Solids, thing: torch.Tensor) -> Scene:
    copy = solids.select(thing)
    copy = replace(copy, center=copy.center + BESIDE)
    return scene_with(scene, Solids(**{k: torch.cat([v, getattr(copy, k)]) for k, v in vars(solids).items()}))


def scene_mirrored(scene: Scene, solids: Solids, thing: torch.Tensor) -> Scene:
    """`S Ry(yaw) = Ry(2 slant - yaw) diag(-1, 1, 1)`: the solid is symmetric, its pattern changes hands."""
    distance = ((solids.center - ABOUT) * NORMAL).sum(-1, keepdim=True)
    center = torch.where(thing[:, None], solids.center - 2 * distance * NORMAL, solids.center)
    yaw = torch.where(thing, 2 * SLANT - solids.yaw, solids.yaw)
    waves = scene.materials.waves
    flipped = on_thing(waves, waves[-1] * torch.tensor([-1.0, 1, 1], dtype=F64))
    return scene_with(scene, replace(solids, center=center, yaw=yaw), waves=flipped)


def flip_pixels(stride: int) -> Callable[[torch.Tensor], torch.Tensor]:
    vae = PixelShuffleVAE(stride)
    return lambda latents: vae.encode_image(vae.decode_image(latents).flip(-1))


EDITS: dict[str, Edit] = {
    "erase": (
        lambda m: erase(m.store, m.thing),
        lambda scene, solids, thing: scene_with(scene, solids.select(~thing)),
    ),
    "move": (lambda m: move(m.store, m.thing, BY), scene_moved),
    "rotate": (
        lambda m: rotate(m.store, m.thing, UP, 50.0, ABOUT),
        lambda scene, solids, thing: scene_with(scene, turned_about(solids, thing, 50.0, ABOUT)),
    ),
    "scale": (lambda m: scale(m.store, m.thing, FACTOR, ABOUT), scene_scaled),
    "duplicate": (lambda m: duplicate(m.store, m.thing, translation(BESIDE)), scene_twice),
    "mirror": (
        lambda m: mirror(m.store, NORMAL, ABOUT, m.thing, flip=flip_pixels(m.store.group(0).keyframe.stride)),
        scene_mirrored,
    ),
}


@dataclass
class Case:
    """What a room's memory recalls, unedited, beside the truth."""

    grid: TokenGrid
    seen: Cameras
    views: Cameras
    memory: Seen
    truth: Rendering
    unedited: float


def make_case(stride: int, patch: int) -> Case:
    width, height = (96, 72) if stride == 1 else (160, 120)
    grid, scene = TokenGrid(width, height, stride=stride, patch=patch, temporal=1), room()
    seen = cameras(grid, [45.0 * i for i in range(8)])
    views = cameras(grid, [20.0, 110.0, 250.0], radius=1.7, height=1.5)
    memory, truth = remember(scene, grid, seen), scene.render(views)
    picture, good = recall(memory.store, views, grid)
    assert float(good.float().mean()) > 0.95, "the case must be one in which memory has something to say"
    return Case(grid, seen, views, memory, truth, psnr(picture, truth.rgb, good))


@pytest.fixture(scope="module")
def cases(painted_without_light: None) -> Callable[[int, int], Case]:
    known: dict[tuple[int, int], Case] = {}

    def case(stride: int, patch: int) -> Case:
        if (stride, patch) not in known:
            known[stride, patch] = make_case(stride, patch)
        return known[stride, patch]

    return case


def edited_scene(name: str, scene: Scene) -> Scene:
    return EDITS[name][1](scene, scene.solids, scene.solids.object_id == len(scene.names) - 1)


@pytest.mark.parametrize(("stride", "patch"), [(1, 1), (1, 2), (4, 1)])
@pytest.mark.parametrize("name", EDITS)
def test_editing_memory_is_editing_the_world(cases, name: str, stride: int, patch: int) -> None:
    case = cases(stride, patch)
    scene = edited_scene(name, case.memory.scene)
    truth = scene.render(case.views).rgb
    picture, good = recall(EDITS[name][0](case.memory), case.views, case.grid)
    assert psnr(picture, truth, good) >= case.unedited - 1.0
    changed = (truth - case.truth.rgb).abs().amax(1) > 0.1
    assert int(changed.sum()) > 0.02 * changed.numel(), "control: the edit must be one that is seen"
    assert int((changed & good).sum()) > 0.7 * int(changed.sum()), "and memory must say something there"

    again, covered = recall(remember(scene, case.grid, case.seen).store, case.views, case.grid)
    both = good & covered
    assert psnr(picture, truth, both) >= psnr(again, truth, both) - 1.0, "the edited scene, remembered"


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_that_only_changes_a_number_fails(cases, name: str) -> None:
    """Negative control: the predecessor's edits move the stored centres, which nothing renders."""
    case = cases(1, 1)
    store = PatchStore.from_groups(list(case.memory.store))
    store.centers[case.memory.thing(store)] += BY.float()
    picture, good = recall(store, case.views, case.grid)
    truth = edited_scene(name, case.memory.scene).render(case.views).rgb
    assert psnr(picture, truth, good) < case.unedited - 4.0


@pytest.mark.parametrize("wrong", ["the other way", "half as far", "without flipping the tile"])
def test_a_slightly_wrong_edit_fails(cases, wrong: str) -> None:
    """Negative control: what is wrong with the solid alone is noticed too."""
    case = cases(1, 1)
    memory, name = case.memory, "mirror" if "tile" in wrong else "move"
    if wrong == "the other way":
        edited = move(memory.store, memory.thing, -BY)
    elif wrong == "half as far":
        edited = move(memory.store, memory.thing, BY / 2)
    else:
        edited = mirror(memory.store, NORMAL, ABOUT, memory.thing, flip=lambda latents: latents)
    picture, good = recall(edited, case.views, case.grid)
    truth = edited_scene(name, memory.scene).render(case.views).rgb
    assert psnr(picture, truth, good) < case.unedited - 1.0


def test_the_thing_at_a_point_is_the_thing(cases) -> None:
    """Growing over the patches from one point finds the solid that the id picture marks, and not the floor it is on."""
    store, thing = cases(1, 2).memory.store, cases(1, 2).memory.thing
    truth = thing(store)
    start = store.centers[truth][len(store.centers[truth]) // 2]
    found = surface(start)(store)
    assert int((found & truth).sum()) > 0.9 * int(truth.sum())
    assert int((found & ~truth).sum()) < 0.05 * int(truth.sum())


def test_what_is_outlined_in_one_view_is_selected_in_all_frames(cases) -> None:
    case = cases(1, 1)
    ids = case.truth.object_id == case.memory.scene.names.index("thing")
    found = outlined(ids[0], case.truth.depth[0], case.views[0])(case.memory.store)
    truth = case.memory.thing(case.memory.store)
    assert int((found & ~truth).sum()) < 0.05 * int(found.sum())
    seen = {g for g, (a, b) in enumerate(zip(case.memory.store.offsets, case.memory.store.offsets[1:], strict=False))
            if bool(found[a:b].any())}  # fmt: skip
    assert len(seen) >= 4, "frames that see the same sides of it"
