"""Why a place looks as it does: the words are true of that place."""

from __future__ import annotations

from tests.live.scenes import THING, walk

from mosaicmem.live.commands import parse
from mosaicmem.live.reasons import ELSEWHERE, MISSED, why


def test_nobody_is_said_to_show_a_place_better_where_nobody_shows_it(tmp_path) -> None:
    w = walk(tmp_path / "w.mosaic")
    with w.world:
        w.do(parse({"do": "edit", "verb": "erase", "choice": {**THING, "radius": 0.5}}))
        h, columns = w.state.grid.cells
        shown, missed = set[str](), set[str]()
        for row in range(0, h, 3):
            for column in range(0, columns, 3):
                found = why(w, (column + 0.5) / columns, (row + 0.5) / h)
                words = {other["words"] for other in found["others"] if other["reason"] == "kept"}
                if found["owner"] is None:
                    missed |= words
                else:
                    shown |= words
        assert missed == {MISSED}, "there are holes beside patches, and nothing else is said of them"
        assert shown == {ELSEWHERE}
