"""Folders appear whole or not at all, and nothing that exists is lost."""

import json

import pytest

from mosaicmem.apps.cli.output import RUN_FILE, sha256, staged_folder, write_run
from mosaicmem.errors import OutputExistsError


def written(folder, name="a.txt", text="a", **kwargs):
    with staged_folder(folder, **kwargs) as staging:
        (staging / name).write_text(text)
        write_run(staging, {"command": "test"})


def test_a_folder_appears_at_the_end_with_the_hash_of_every_file(tmp_path):
    with staged_folder(tmp_path / "out") as staging:
        (staging / "a.txt").write_text("a")
        assert not (tmp_path / "out").exists()
        write_run(staging, {"command": "test"})
    record = json.loads((tmp_path / "out" / RUN_FILE).read_text())
    assert record["files"] == {"a.txt": {"bytes": 1, "sha256": sha256(tmp_path / "out" / "a.txt")}}
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing_new_and_the_old_untouched(tmp_path, error):
    written(tmp_path / "old", text="old")
    for name, overwrite in [("new", False), ("old", True)]:
        with pytest.raises(error), staged_folder(tmp_path / name, overwrite=overwrite) as staging:
            (staging / "half.txt").write_text("half")
            raise error
    assert [p.name for p in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "a.txt").read_text() == "old"


def test_an_existing_folder_is_replaced_only_on_request_and_whole(tmp_path):
    out = tmp_path / "out"
    written(out, "a.txt")
    with pytest.raises(OutputExistsError, match="already exists; nothing was written"):
        written(out, "b.txt")
    written(out, "b.txt", overwrite=True)
    assert sorted(p.name for p in out.iterdir()) == ["b.txt", RUN_FILE]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_no_obstacle(tmp_path):
    (tmp_path / "out").mkdir()
    written(tmp_path / "out")
    assert (tmp_path / "out" / "a.txt").exists()


def test_overwrite_never_replaces_what_others_wrote(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").write_text("dear")
    with pytest.raises(OutputExistsError, match="did not write"):
        written(tmp_path / "photos", overwrite=True)
    written(tmp_path / "out")
    with pytest.raises(OutputExistsError, match="holds the input"):
        written(tmp_path / "out", overwrite=True, inputs=[tmp_path / "out" / "a.txt"])
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(OutputExistsError, match="holds the current folder"):
        written(tmp_path / "out", overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExistsError, match="is a file"):
        written(tmp_path / "file", overwrite=True)
    assert (tmp_path / "photos" / "me.jpg").read_text() == "dear"
    assert (tmp_path / "out" / "a.txt").read_text() == "a"
