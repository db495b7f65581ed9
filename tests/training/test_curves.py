"""Curves: one panel a number, its line where the number is, and what is no number left out."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mosaicmem.io.files import read_image
from mosaicmem.training.curves import _MARGIN, _PANEL, _SMOOTH, draw_curves


def draw(folder, rows):
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_curves(log, folder / "curves.png")
    return read_image(folder / "curves.png")


def line_rows(picture, panel=0):
    """Height of the line in every column of a panel that has one, 1 at the top of its axis and 0 at the bottom."""
    x, y = panel % 2 * _PANEL[0], panel // 2 * _PANEL[1]
    part = picture[y : y + _PANEL[1], x : x + _PANEL[0]]
    ink = (part == np.array(_SMOOTH)).all(-1)
    columns = np.flatnonzero(ink.any(0))
    rows = np.array([np.flatnonzero(ink[:, c]).mean() for c in columns])
    height = _PANEL[1] - _MARGIN[1] - _MARGIN[3]
    return columns, 1 - (rows - _MARGIN[1]) / height


@pytest.mark.parametrize("panels", [1, 2, 3])
def test_one_panel_a_number(tmp_path, panels):
    rows = [{"step": s, "seconds": 9.0, **{f"n{i}": float(s + i) for i in range(panels)}} for s in (1, 2, 3)]
    assert draw(tmp_path, rows).shape == ((panels + 1) // 2 * _PANEL[1], 2 * _PANEL[0], 3)


def test_a_straight_line_is_straight_and_goes_from_corner_to_corner(tmp_path):
    columns, height = line_rows(draw(tmp_path, [{"step": s, "x": float(5 + s)} for s in range(8)]))
    assert columns[0] == _MARGIN[0] and columns[-1] == _PANEL[0] - _MARGIN[2]
    share = (columns - columns[0]) / np.ptp(columns)
    assert np.abs(height - share).max() < 0.02


def test_powers_of_ten_are_straight_on_a_logarithmic_axis_and_signs_are_not(tmp_path):
    columns, height = line_rows(draw(tmp_path, [{"step": s, "x": 10.0**s} for s in range(5)]))
    share = (columns - columns[0]) / np.ptp(columns)
    assert np.abs(height - share).max() < 0.02
    columns, height = line_rows(draw(tmp_path, [{"step": s, "x": 10.0**s - 1} for s in range(5)]))
    assert height[np.searchsorted(columns, columns.mean())] < 0.1


def test_what_is_no_number_is_left_out(tmp_path):
    rows = [{"step": 1, "x": float("nan"), "word": "no"}, {"step": 2, "x": 1.0}, {"step": 3, "x": 2.0}]
    assert draw(tmp_path, rows).shape[0] == _PANEL[1]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "log.jsonl").write_text("")
    draw_curves(tmp_path / "empty" / "log.jsonl", tmp_path / "empty" / "curves.png")
    assert not (tmp_path / "empty" / "curves.png").exists()
