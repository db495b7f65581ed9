"""Pictures made of characters, in closed form: every dot, half block and bar is where it must be."""

from __future__ import annotations

import numpy as np
import pytest

from mosaicmem.apps.tui import cloud, origin
from mosaicmem.apps.tui.cloud import Orbit, Sight
from mosaicmem.apps.tui.drawing import (
    ANSI,
    CUBE,
    Cells,
    apportioned,
    bar,
    box,
    braille,
    dithered,
    half_blocks,
    line,
    sparkline,
)

UP = np.array([0.0, -1.0, 0.0])


def chars(cells: Cells) -> np.ndarray:
    return np.array([list(row) for row in cells.lines])


def random_picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_half_blocks_hold_two_pixels_a_character_unchanged() -> None:
    picture = random_picture(12, 8)
    cells = half_blocks(picture, 8, 6)
    assert (chars(cells) == "▀").all() and cells.paper is not None
    back = np.stack([cells.ink, cells.paper], 1).reshape(12, 8, 3)
    assert (back == picture).all()


@pytest.mark.parametrize(("columns", "rows"), [(40, 19), (19, 40), (8, 3), (1, 1), (80, 24)])
def test_a_picture_fills_the_grid_one_way_is_in_the_middle_and_keeps_its_shape(columns: int, rows: int) -> None:
    picture = np.full((48, 64, 3), 200, np.uint8)
    cells = half_blocks(picture, columns, rows)
    at = box(64, 48, columns, rows)
    assert at.columns == columns or at.rows == rows
    assert at.left in ((columns - at.columns) // 2,) and 0 <= at.top <= rows - at.rows
    assert abs(at.columns / (2 * at.rows) - 64 / 48) <= 64 / 48 * max(0.5 / at.rows, 1 / at.columns) + 1e-9
    shown = chars(cells) == "▀"
    assert shown.sum() == at.columns * at.rows
    assert shown[at.top : at.top + at.rows, at.left : at.left + at.columns].all()
    assert cells.paper is not None and (cells.paper[shown] == 200).all() and (cells.ink[shown] == 200).all()


def test_the_place_of_a_character_in_the_picture() -> None:
    at = box(64, 64, 40, 10)
    assert (at.left, at.top, at.columns, at.rows) == (10, 0, 20, 10)
    assert at.share(10, 0) == (0.5 / 20, 0.05) and at.share(29, 9) == (19.5 / 20, 0.95)
    assert at.share(9, 0) is None and at.share(30, 0) is None and at.share(20, 10) is None


@pytest.mark.parametrize(("colours", "palette"), [(256, None), (16, ANSI)])
def test_few_colours_are_dithered_so_that_the_mean_stays(colours: int, palette: np.ndarray | None) -> None:
    for value in (0, 20, 110, 128, 200, 255):
        out = dithered(np.full((16, 16, 3), value, np.uint8), colours)
        if palette is None:
            assert set(np.unique(out)) <= set(CUBE.tolist()) and len(np.unique(out)) <= 2
            assert abs(out.mean() - value) < 95 / 16, "at most one step of the pattern between two levels"
        else:
            assert {tuple(c) for c in out.reshape(-1, 3).tolist()} <= {tuple(c) for c in palette.tolist()}
            assert abs(out.mean() - value) < 24
    exact = np.array([[[95, 215, 0], [255, 175, 135]]], np.uint8)
    assert (dithered(exact, 256) == exact).all()
    few = half_blocks(random_picture(16, 16), 16, 8, colours=256)
    assert set(np.unique(few.ink)) <= set(CUBE.tolist())


def test_every_dot_of_braille_is_its_own_bit() -> None:
    names = ["⠁", "⠈", "⠂", "⠐", "⠄", "⠠", "⡀", "⢀"]  # by rows, left before right
    for i, name in enumerate(names):
        dot = np.array([[2 + i % 2, 4 + i // 2]], float)
        cells = braille(dot, np.array([[1, 2, 3]], np.uint8), np.zeros(1), 3, 3)
        assert chars(cells)[1, 1] == name and (chars(cells) != " ").sum() == 1
        assert cells.ink[1, 1].tolist() == [1, 2, 3]
    full = np.array([[x, y] for y in range(4) for x in range(2)], float) + 0.9
    assert chars(braille(full, np.zeros((8, 3), np.uint8), np.zeros(8), 1, 1))[0, 0] == "⣿"


def test_the_nearest_point_gives_the_colour_and_what_is_outside_is_left_out() -> None:
    dots = np.array([[0, 0], [1, 3], [-0.5, 0], [2, 0], [0, 4]])
    rgb = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9], [0, 0, 9], [0, 0, 9]], np.uint8)
    for depth, nearest in (([1, 2], 0), ([2, 1], 1)):
        cells = braille(dots, rgb, np.array([*depth, 0, 0, 0], float), 1, 1)
        assert chars(cells)[0, 0] == "⢁" and cells.ink[0, 0].tolist() == rgb[nearest].tolist()
    assert braille(np.zeros((0, 2)), np.zeros((0, 3), np.uint8), np.zeros(0), 2, 2).lines == ["  ", "  "]


def test_a_line_has_no_gaps_and_both_ends() -> None:
    for end in ([7.0, 3.0], [-2.0, 5.0], [0.0, 0.0]):
        found = line(np.zeros(2), np.array(end))
        assert (found[0] == 0).all() and (found[-1] == end).all()
        assert np.abs(np.diff(found, axis=0)).max() <= 1.0 + 1e-9


def test_sparklines_and_bars() -> None:
    assert sparkline([0, 1, 2, 4, 8], 10) == " ▁▂▄█"
    assert sparkline([1, 8, 2, 3], 2) == "█▃", "of many values the largest of each part"
    assert sparkline([4.0, 0.001], 5, top=8.0) == "▄▁", "what is above 0 can be seen"
    assert sparkline([], 5) == "" and sparkline([float("nan"), 1.0], 5) == " █"
    assert bar(0.5, 4) == "██  " and bar(0.40625, 4) == "█▋  " and bar(1.7, 3) == "███" and bar(-1, 3) == "   "
    assert all(len(bar(x / 97, 7)) == 7 for x in range(98))


def test_columns_are_given_away_in_proportion_and_completely() -> None:
    assert apportioned([1, 1, 2], 8) == [2, 2, 4]
    assert apportioned([0, 0], 5) == [0, 0] and apportioned([], 5) == []
    draws = np.random.default_rng(1)
    for _ in range(50):
        values = draws.random(5).tolist()
        given = apportioned(values, 37)
        assert sum(given) == 37
        assert all(abs(g - v / sum(values) * 37) < 1 for g, v in zip(given, values))


def test_the_circling_camera_is_upright_and_sees_what_it_circles() -> None:
    for yaw in (0.0, 75.0, 200.0):
        for pitch in (-60.0, 0.0, 89.0):
            right, down, forward = Orbit(yaw, pitch).axes(UP)
            axes = np.stack([right, down, forward])
            assert np.allclose(axes @ axes.T, np.eye(3)) and np.linalg.det(axes) == pytest.approx(1.0)
            assert right @ UP == pytest.approx(0.0, abs=1e-12) and down @ UP <= 1e-12
            assert forward @ UP == pytest.approx(-np.sin(np.radians(pitch)))
    at = np.array([4.0, -1.0, 2.0])
    beside = at + 2.0 * Orbit(10.0, 0.0).axes(UP)[0]
    dots, depth = cloud.project(np.stack([at, beside]), Orbit(10.0, 0.0, 1.0), UP, at, 2.0, 20, 10)
    assert np.allclose(dots, [[20, 20], [40, 20]]) and np.allclose(depth, cloud.FAR)


def test_what_is_higher_is_drawn_higher_and_a_turn_turns() -> None:
    red, blue = np.array([255, 0, 0], np.uint8), np.array([0, 0, 255], np.uint8)
    xyz = np.array([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]])
    sight = Sight(xyz, np.stack([red, blue]), np.zeros((0, 3)), np.zeros((0, 3)), UP)
    cells = cloud.draw(sight, Orbit(0.0, 0.0, 0.8), 21, 11)
    (top, column), (bottom, same) = np.argwhere(chars(cells) != " ")
    assert top < bottom and column == same
    assert cells.ink[top, column].tolist() == red.tolist() and cells.ink[bottom, same].tolist() == blue.tolist()
    across = np.array([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    sight = Sight(across, sight.rgb, sight.path, sight.frustum, UP)
    seen = [cloud.draw(sight, Orbit(yaw, 0.0, 0.8), 21, 11) for yaw in (90.0, 270.0)]
    first, second = (np.argwhere(chars(cells) != " ") for cells in seen)
    assert first[:, 1].tolist() == second[:, 1].tolist() and len(first) == 2
    inks = [cells.ink[tuple(first[0])].tolist() for cells in seen]
    assert sorted(inks) == sorted([red.tolist(), blue.tolist()]), "seen from behind left is right"


def test_the_frustum_has_the_corners_that_project_to_those_of_the_picture() -> None:
    K = np.array([[50.0, 0, 30], [0, 40.0, 20], [0, 0, 1]])
    a = 0.7
    pose = np.array([[np.cos(a), 0, np.sin(a), 1.0], [0, 1, 0, 2.0], [-np.sin(a), 0, np.cos(a), 3.0], [0, 0, 0, 1.0]])
    found = cloud.frustum(pose, K, 64, 48, 2.5)
    assert found[0].tolist() == [1.0, 2.0, 3.0]
    seen = (found[1:] - pose[:3, 3]) @ pose[:3, :3]
    assert np.allclose(seen[:, 2], 2.5)
    assert np.allclose((seen @ K.T)[:, :2] / 2.5, [[0, 0], [64, 0], [64, 48], [0, 48]])


def test_path_and_frustum_are_drawn_over_the_cloud_and_nothing_at_all_is_drawn_of_nothing() -> None:
    xyz = np.random.default_rng(0).normal(size=(4000, 3))
    empty = np.zeros((0, 3))
    eye = cloud.frustum(np.eye(4), np.array([[50.0, 0, 32], [0, 50.0, 24], [0, 0, 1]]), 64, 48, 1.0)
    plain = Sight(xyz, np.full((4000, 3), 90, np.uint8), empty, empty, UP)
    with_both = Sight(xyz, plain.rgb, np.array([[-1.0, 0, 0], [1.0, 0, 0], [1, 0, 1]]), eye, UP)
    inks = {tuple(c) for c in cloud.draw(with_both, Orbit(), 30, 15).ink.reshape(-1, 3).tolist()}
    assert inks == {(0, 0, 0), (90, 90, 90), cloud.EYE, cloud.PATH}
    nothing = Sight(empty, np.zeros((0, 3), np.uint8), empty, empty, UP)
    assert cloud.draw(nothing, Orbit(), 5, 5).lines == [" " * 5] * 5


def test_every_origin_has_its_colour_and_a_pattern_of_its_own() -> None:
    """Told apart by colour, and without colours by dots and stripes; what is seen is evenly tinted."""
    tokens = {"uid": [3, 4, -1], "generated": [0, 1, 0]}
    what = origin.origins(tokens, (1, 3))
    assert what.tolist() == [[origin.SEEN, origin.MADE, origin.IMAGINED]]
    grey = np.full((32, 96, 3), 100, np.uint8)
    parts = np.split(origin.tinted(grey, what), 3, axis=1)
    marks = []
    for part, colour, marked in zip(parts, origin.COLOURS, (False, True, True), strict=True):
        light, strong = ((100 * (1 - k) + np.array(colour) * k).round() for k in (origin.STRENGTH, origin.MARKED))
        mark = (part == strong).all(-1)
        assert ((part == light).all(-1) | mark).all() and mark.any() == marked
        marks.append(mark)
    _, dots, stripes = marks
    assert 0.2 < dots.mean() < 0.3 and 0.45 < stripes.mean() < 0.55
    assert (stripes[1:, :-1] == stripes[:-1, 1:]).all(), "stripes go down to the left"
    assert not (dots[1:, :-1] == dots[:-1, 1:]).all()
    assert str(origin.legend(what)).split() == ["█seen", "33%", "▓generated", "33%", "▒imagined", "33%"]
