"""A damaged, foreign or hostile file is named, never believed; what is intact comes out again."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.io.worlds import assert_same_group, keyframes

from mosaicmem.errors import FormatVersionError, InputError, MosaicMemError
from mosaicmem.io.world import WorldFile, compact, repair, verify
from mosaicmem.io.world.rows import encode_keyframe
from mosaicmem.io.world.schema import TABLES, row_digest
from mosaicmem.memory.patches import Group
from mosaicmem.memory.store import PatchStore

Spoil = Callable[[sqlite3.Connection], object]


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve keyframes, one by one; an edit, an undone insert, a second branch, pictures, a description."""
    path = tmp_path_factory.mktemp("intact") / "w.mosaic"
    with WorldFile.create(path, {"source": "test", "frames": [1, 2, 3]}) as world:
        for keyframe in keyframes(12):
            world.insert(keyframe, thumbnail=torch.zeros(40, 60, 3, dtype=torch.uint8).numpy())
        world.apply("pin", {}, PatchStore.from_groups([replace(g, pinned=g.uid < 3) for g in world.store]))
        world.branch("night")
        world.undo()
    return path


@pytest.fixture
def file(intact: Path, tmp_path: Path) -> Path:
    """A copy to be spoiled."""
    return Path(shutil.copyfile(intact, tmp_path / "w.mosaic"))


def _spoil(path: Path, *commands: str | Spoil) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for command in commands:
            if callable(command):
                command(db)
            else:
                db.execute(command)


def _use(path: Path) -> str:
    """Open, look at everything, read everything."""
    with WorldFile.open(path) as world:
        for group in world.store:
            _ = group.keyframe.latents, group.keyframe.confidence, group.valid
            world.thumbnail(group.uid)
        world.log()
        _ = world.branches, world.counts()
        return world.digest()


def test_an_intact_file_has_no_problems_and_is_repaired_to_itself(intact: Path, tmp_path: Path) -> None:
    assert verify(intact) == []
    found = repair(intact, tmp_path / "r.mosaic")
    assert (found.keyframes, found.operations, found.history, found.lost) == (12, 13, True, [])
    assert _use(tmp_path / "r.mosaic") == _use(intact)
    assert verify(tmp_path / "r.mosaic") == []
    with WorldFile.open(tmp_path / "r.mosaic", write=True) as world:
        assert world.meta == {"source": "test", "frames": [1, 2, 3]}
        assert world.redo().kind == "pin" and [b.name for b in world.branches] == ["main", "night"]
        assert world.thumbnail(3) is not None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (("UPDATE contents SET latents = zeroblob(length(latents)) WHERE keyframe = 4",), "latents do not match"),
        (("UPDATE contents SET depth = zeroblob(length(depth)) WHERE keyframe = 4",), "depth does not match"),
        (("UPDATE contents SET depth = zeroblob(1000) WHERE keyframe = 4",), "missing or of another size"),
        (("UPDATE contents SET latents = 'text' WHERE keyframe = 4",), "missing or of another size"),
        (("DELETE FROM contents WHERE keyframe = 4",), "missing or of another size"),
        (("UPDATE keyframes SET time = 9 WHERE id = 4",), "keyframe 4: its row does not match its checksum"),
        (("UPDATE groups SET pinned = 1 WHERE id = 4",), "group 4: its row does not match its checksum"),
        (("DELETE FROM groups WHERE id = 4",), "group None"),
        (("DELETE FROM keyframes WHERE id = 4",), "keyframe 4.* missing"),
        (("UPDATE current SET placed = 5 WHERE uid = 3",), "group 5 has uid 4, and stands for 3"),
        (("UPDATE operations SET note = 'x' WHERE id = 4",), "operation 4: it or its changes do not match"),
        (("UPDATE changes SET after = 5 WHERE operation = 4",), "operation 4: it or its changes do not match"),
        (("DELETE FROM operations WHERE id = 4",), "operation 4 is missing|its parent is missing"),
        (("UPDATE branches SET head = 3 WHERE name = 'main'",), "branch 'main': its row does not match"),
        (("UPDATE branches SET chosen = 1",), "branch"),
        (("UPDATE meta SET value = '{\"\": 1}'",), "meta"),
        (("UPDATE thumbnails SET picture = zeroblob(9) WHERE keyframe = 4",), "thumbnail.*checksum"),
        (("CREATE TRIGGER t AFTER INSERT ON groups BEGIN DELETE FROM keyframes; END",), "tables are not those"),
        (("CREATE VIEW v AS SELECT * FROM groups",), "tables are not those"),
        (("DROP TABLE contents",), "tables are not those"),
        (("PRAGMA application_id = 5",), "no world of mosaicmem"),
    ],
)
def test_damage_is_named_wherever_it_is(file: Path, spoil: tuple[str, ...], message: str) -> None:
    _spoil(file, *spoil)
    with pytest.raises(InputError, match=message) as caught:
        _use(file)
    assert str(file) in str(caught.value)
    try:
        assert verify(file) != []
    except InputError as error:
        assert str(file) in str(error)


def test_a_newer_version_is_told_apart_and_not_touched(file: Path, tmp_path: Path) -> None:
    _spoil(file, "PRAGMA user_version = 7")
    for use in (_use, verify, compact, lambda path: repair(path, tmp_path / "r")):
        with pytest.raises(FormatVersionError, match="format version 7; this mosaicmem reads up to version 1"):
            use(file)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("content", [b"", b"\xff" * 5000, b"SQLite format 3\0" + b"\xff" * 5000, b"x"])
def test_other_files_are_no_worlds(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    for use in (_use, verify, lambda path: repair(path, tmp_path / "r")):
        with pytest.raises(InputError, match="w: "):
            use(tmp_path / "w")
    assert [p.name for p in tmp_path.iterdir()] == ["w"] and (tmp_path / "w").read_bytes() == content
    with pytest.raises(InputError, match="no such file"):
        WorldFile.open(tmp_path / "none")
    with pytest.raises(InputError, match="is a folder"):
        WorldFile.open(tmp_path)


def _forged(path: Path, **fields: object) -> None:
    """Replace fields of keyframe 4 and give the row the checksum that fits: not an accident but an attack."""
    with closing(sqlite3.connect(path)) as db, db:
        names = [row[1] for row in db.execute("PRAGMA table_info(keyframes)")]
        row = dict(zip(names, db.execute("SELECT * FROM keyframes WHERE id = 4").fetchone(), strict=True)) | fields
        row["digest"] = row_digest(*list(row.values())[1:-1])
        assignments = ", ".join(f"{name} = ?" for name in names)
        db.execute(f"UPDATE keyframes SET {assignments} WHERE id = 4", tuple(row.values()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 65536, "height": 65536, "stride": 1}, "claims .* bytes|wrong size"),
        ({"width": 65536, "height": 65536}, "claims .* bytes|wrong size"),
        ({"channels": 65536}, "contradict each other"),
        ({"channels": 0}, "channels = 0"),
        ({"stride": 0}, "stride = 0"),
        ({"stride": 9}, "no grid"),
        ({"patch": 3}, "no grid|wrong size"),
        ({"width": 2**40}, "width"),
        ({"width": "wide"}, "width"),
        ({"time": float("inf")}, "time = inf"),
        ({"frame": 2**60}, "frame"),
        ({"origin": "dreamt"}, "origin 'dreamt'"),
        ({"dtypes": "float32 float32 object"}, "dtypes"),
        ({"dtypes": "float64 float32 float32"}, "missing or of another size"),
        ({"camera": b"\0" * 200}, "no rotation|last row|rigid"),
        ({"camera": b"\0" * 199}, "wrong size"),
        ({"depths": b"\xff" * 32}, "patch depths below 0 or not finite"),
        ({"depths": b""}, "wrong size"),
        ({"model": "x" * 5000}, "model"),
    ],
)
def test_forged_rows_are_refused_before_anything_large_is_made(
    file: Path, fields: dict[str, object], message: str
) -> None:
    _forged(file, **fields)
    with pytest.raises(InputError, match=message):
        _use(file)
    with suppress(InputError):
        assert verify(file) != []


def test_latents_that_are_not_finite_and_cells_without_depth_are_refused(file: Path) -> None:
    for name, change, message in (
        ("latents", lambda k: k.latents.fill_(torch.nan), "NaN"),
        ("depth", lambda k: k.depth.fill_(-1), "valid cell without depth"),
        ("confidence", lambda k: k.confidence.fill_(torch.inf), "confidence"),
    ):
        with WorldFile.open(file) as world:
            stored = world.store.group(3).keyframe
            made = replace(stored, latents=stored.latents.clone(), confidence=stored.confidence.clone())
            object.__setattr__(made, "depth", made.depth.clone())
            change(made)
        row, contents = encode_keyframe(made, 4, None, None)
        path = Path(shutil.copyfile(file, file.with_name(name)))
        depths = sqlite3.connect(file).execute("SELECT depths FROM keyframes WHERE id = 4").fetchone()[0]
        _spoil(
            path,
            lambda db, contents=contents: db.execute("REPLACE INTO contents VALUES (?, ?, ?, ?, ?)", contents),
        )
        _forged(path, geometry=row[14], latents=row[15], depths=depths)
        with pytest.raises(InputError, match=message):
            _use(path)


def test_no_flipped_bit_goes_unnoticed_or_breaks_anything(intact: Path, tmp_path: Path) -> None:
    """Anywhere in the file: an error in our words, or a problem that is named, or nothing that means anything."""
    rng, content, truth = random.Random(5), intact.read_bytes(), _use(intact)
    seen = {"raised": 0, "named": 0, "harmless": 0}
    for _ in range(36):
        place = rng.randrange(len(content))
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << rng.randrange(8)
        path = tmp_path / "w"
        path.write_bytes(spoilt)
        try:
            problems = verify(path)
        except MosaicMemError as error:
            assert "w: " in str(error)
            problems = None
        try:
            digest = _use(path)
        except MosaicMemError:
            digest = None
        if problems is None:
            seen["raised"] += 1
        elif problems:
            seen["named"] += 1
        else:
            assert digest == truth, f"byte {place}"
            seen["harmless"] += 1
    assert seen["named"] + seen["raised"] > 12, seen


def test_what_is_intact_comes_out_of_a_file_with_flipped_bits(intact: Path, tmp_path: Path) -> None:
    rng, content = random.Random(6), intact.read_bytes()
    with WorldFile.open(intact) as world:
        truth = {group.uid: group for group in world.store}
        for k in range(12):
            spoilt = bytearray(content)
            for _ in range(1 + k // 4):
                spoilt[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            (tmp_path / "w").write_bytes(spoilt)
            found = repair(tmp_path / "w", tmp_path / "r", overwrite=True)
            assert (tmp_path / "w").read_bytes() == spoilt, "the damaged file is left alone"
            assert verify(tmp_path / "r") == []
            with WorldFile.open(tmp_path / "r") as saved:
                assert len(saved.store) >= 12 - 2 * (1 + k // 4), found.lost
                assert len(saved.store) == 12 or found.lost
                for group in saved.store:
                    if group.uid in truth:
                        assert_same_group(group, truth[group.uid])
                    else:  # its groups were lost, and it was put where it was seen from
                        assert_seen_from_its_place(group)


def assert_seen_from_its_place(group: Group) -> None:
    # a product of small matrices depends on where they lie in memory, by its last bit
    torch.testing.assert_close(group.world_from_cam, group.keyframe.camera.c2w[0], rtol=0, atol=1e-12)


def test_one_damaged_keyframe_costs_one_keyframe(file: Path, tmp_path: Path) -> None:
    _spoil(file, "UPDATE contents SET latents = zeroblob(length(latents)) WHERE keyframe = 4")
    assert len(verify(file)) == 1
    found = repair(file, tmp_path / "r")
    assert (found.keyframes, found.groups, found.history) == (11, 14, False)
    assert any("keyframe 4 (frame 30)" in what or "frame 30" in what for what in found.lost)
    with WorldFile.open(tmp_path / "r") as world:
        assert [group.uid for group in world.store] == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11]
        assert [operation.kind for operation in world.log()] == ["repair"]
        assert world.meta == {"source": "test", "frames": [1, 2, 3]}
    assert verify(tmp_path / "r") == []


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_file_is_refused_and_its_beginning_is_salvaged(tmp_path: Path, share: float) -> None:
    path, new = tmp_path / "w.mosaic", keyframes(8)
    with WorldFile.create(path) as world:
        for k in range(80):
            world.insert(replace(new[k % 8], frame=k))
        truth = {group.keyframe.frame: group for group in world.store}
        content = path.read_bytes()
        (tmp_path / "cut").write_bytes(content[: int(share * len(content))])
        with pytest.raises(InputError, match="'mosaicmem world repair'"):
            WorldFile.open(tmp_path / "cut")
        found = repair(tmp_path / "cut", tmp_path / "r")
        assert found.lost and verify(tmp_path / "r") == []
        with WorldFile.open(tmp_path / "r") as saved:
            assert len(saved.store) >= 80 * share - 16, found
            for group in saved.store:
                assert torch.equal(group.keyframe.latents, truth[group.keyframe.frame].keyframe.latents)
                assert torch.equal(group.world_from_cam, truth[group.keyframe.frame].world_from_cam)


def test_a_keyframe_whose_groups_are_lost_is_put_where_it_was_seen_from(file: Path, tmp_path: Path) -> None:
    _spoil(file, "DELETE FROM groups WHERE keyframe = 4")
    found = repair(file, tmp_path / "r")
    assert any("the place of keyframe 4 (frame 30)" in what for what in found.lost)
    with WorldFile.open(tmp_path / "r") as world:
        assert len(world.store) == 12
        group = world.store.group(11)
        assert group.keyframe.frame == 30
        assert_seen_from_its_place(group)
    assert verify(tmp_path / "r") == []


def test_a_destroyed_header_is_replaced(file: Path, tmp_path: Path) -> None:
    content = bytearray(file.read_bytes())
    content[:2048] = b"\xaa" * 2048
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"w\.mosaic"):
        WorldFile.open(file)
    found = repair(file, tmp_path / "r")
    assert (found.keyframes, found.operations, found.history) == (12, 13, True)
    assert verify(tmp_path / "r") == []


def test_the_tables_of_the_design_are_those_of_the_file() -> None:
    from helpers import ROOT

    text = (ROOT / "docs" / "world-file.md").read_text(encoding="utf-8")
    for name, sql in TABLES.items():
        (line,) = [row for row in text.splitlines() if row.startswith(f"| `{name}` ")]
        columns = [part.split()[0] for part in sql[sql.index("(") + 1 :].split(", ") if not part.startswith("PRIMARY")]
        columns = [column for column in columns if column.isidentifier() and column not in ("uid))",)]
        missing = [column for column in columns if f"`{column}`" not in line]
        assert not missing, (name, missing)
