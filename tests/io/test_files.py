"""Bounded reading and atomic writing: what comes back, what is refused, and what is left of the file that was there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mosaicmem.errors import InputError, OutputExistsError
from mosaicmem.io.files import atomic_path, finite, read_image, write_image, write_text


def test_a_grey_picture_of_sixteen_bits_is_its_upper_eight(tmp_path: Path) -> None:
    grey = (255 * np.arange(256) + 255).astype(np.uint16).reshape(16, 16)  # upper and lower eight differ
    for name in ("a.png", "a.tif"):
        Image.fromarray(grey).save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name), np.repeat((grey >> 8)[..., None], 3, -1))


def test_eight_bits_are_read_as_they_are(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for mode in ("L", "RGB", "RGBA", "LA", "I"):
        Image.fromarray(grey).convert(mode).save(tmp_path / f"{mode}.tif")
        assert np.array_equal(read_image(tmp_path / f"{mode}.tif")[..., 1], grey), mode


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), True, "1", None])
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="finite number") as refused:
        finite(value, "x")
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_is_no_file_to_write(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputExistsError, match="folder is a folder"):
        write_text(tmp_path / "folder", "text", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    path, other = tmp_path / "private", tmp_path / "other"
    write_text(path, "old")
    path.chmod(0o600)
    write_text(path, "new", overwrite=True)
    write_text(other, "new")
    other.chmod(0o644)
    with atomic_path(other, overwrite=True) as temporary:
        temporary.write_text("newer")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new", 0o600)
    assert (other.read_text(), other.stat().st_mode & 0o777) == ("newer", 0o644)


def test_a_suffix_of_no_picture_is_refused(tmp_path: Path) -> None:
    for name in ("a", "a.xyz", "a.mosaic"):
        with pytest.raises(InputError, match="expected a name that ends"):
            write_image(tmp_path / name, np.zeros((4, 4, 3), np.uint8))
    assert not list(tmp_path.iterdir())
