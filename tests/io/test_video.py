"""Videos and contact sheets: what is written comes back, to the size and nearly to the colour."""

import numpy as np
import pytest

from mosaicmem.errors import GeometryError, InputError, OutputExistsError
from mosaicmem.io.video import contact_sheet, read_video, side_by_side, write_video


def _clip(n: int = 5, height: int = 32, width: int = 48) -> np.ndarray:
    """A ramp that moves, so that frames differ and H.264 has something smooth to keep."""
    y, x = np.mgrid[:height, :width]
    frames = [np.stack([x * 4 + 8 * t, y * 6, 255 - x * 4], -1) % 256 for t in range(n)]
    return np.stack(frames).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (31, 48)])
def test_a_video_comes_back_with_its_size_rate_and_frames(tmp_path, size):
    clip = _clip(5, *size)
    path = tmp_path / "clip.mp4"
    write_video(path, clip, fps=12)
    frames, fps = read_video(path)
    assert fps == 12
    assert frames.shape == clip.shape
    assert np.abs(frames.astype(int) - clip).mean() < 6
    # the order of frames is kept: each is nearest to its own original
    distance = np.abs(frames[:, None].astype(int) - clip[None]).mean((2, 3, 4))
    assert distance.argmin(1).tolist() == list(range(5))


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (200, 120, 40), (0, 0, 0), (255, 255, 255)])
def test_flat_colours_survive(tmp_path, colour):
    clip = np.broadcast_to(np.uint8(colour), (3, 32, 32, 3))
    write_video(tmp_path / "flat.mp4", clip)
    frames, _ = read_video(tmp_path / "flat.mp4")
    assert np.abs(frames.astype(int) - clip).max() <= 5


def test_equal_frames_give_equal_bytes_and_the_index_comes_first(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, _clip())
    data = (tmp_path / "a.mp4").read_bytes()
    assert data == (tmp_path / "b.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_equal_frames_give_equal_bytes_whatever_lay_in_memory_before(tmp_path):
    """An encoder that reads memory it has not written shows where a side is no multiple of 16."""
    noise = np.random.default_rng(0)
    slope = 3 * np.add.outer(np.arange(102), np.arange(240))[None, ..., None] + 5 * np.arange(7)[:, None, None, None]
    clip = (slope + noise.integers(0, 30, (7, 102, 240, 3))).astype(np.uint8)
    seen = set()
    for _ in range(40):
        litter = [np.full(int(size), size % 251, np.uint8) for size in noise.integers(1_000, 400_000, 20)]
        del litter
        write_video(tmp_path / "a.mp4", clip, overwrite=True)
        seen.add((tmp_path / "a.mp4").read_bytes())
    assert len(seen) == 1


def test_an_existing_video_is_kept(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, _clip())
    before = path.read_bytes()
    with pytest.raises(OutputExistsError):
        write_video(path, _clip(3))
    assert path.read_bytes() == before
    write_video(path, _clip(3), overwrite=True)
    assert len(read_video(path)[0]) == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 8, 8, 3), np.uint8),
        np.zeros((2, 8, 8), np.uint8),
        np.zeros((2, 8, 0, 3), np.uint8),
    ],
)
def test_what_is_no_clip_is_refused_and_nothing_is_written(tmp_path, frames):
    with pytest.raises(GeometryError, match="expected uint8"):
        write_video(tmp_path / "x.mp4", frames)
    assert not list(tmp_path.iterdir())


def test_files_that_are_no_video_are_refused(tmp_path):
    (tmp_path / "x.mp4").write_bytes(b"no video at all")
    with pytest.raises(InputError, match="not a readable video"):
        read_video(tmp_path / "x.mp4")
    with pytest.raises(InputError, match="no such file"):
        read_video(tmp_path / "y.mp4")
    write_video(tmp_path / "clip.mp4", _clip())
    with pytest.raises(InputError, match="more than 2 frames"):
        read_video(tmp_path / "clip.mp4", max_frames=2)
    data = (tmp_path / "clip.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 3])
    with pytest.raises(InputError):
        read_video(tmp_path / "cut.mp4")


def test_a_sheet_shows_every_frame_once_in_reading_order():
    frames = np.stack([np.full((100, 120, 3), 40 * i, np.uint8) for i in range(5)])
    sheet = contact_sheet(frames, columns=3)
    assert sheet.shape == (4 + 2 * 104, 4 + 3 * 124, 3)
    for i in range(5):
        y, x = 4 + (i // 3) * 104, 4 + (i % 3) * 124
        assert (sheet[y : y + 100, x : x + 120] == 40 * i).all()
        assert (sheet[y - 1, x : x + 120] == sheet[0, 0]).all()


def test_labels_lie_above_their_frames_and_never_on_a_neighbour():
    frames = np.zeros((2, 100, 120, 3), np.uint8)
    plain, labelled = contact_sheet(frames, columns=2), contact_sheet(frames, ["short", "x" * 200], columns=2)
    band = labelled.shape[0] - plain.shape[0]
    assert band >= 10
    bright = labelled.max(-1) > 150
    assert bright[4 : 4 + band, 4:124].any()
    assert bright[4 : 4 + band, 128:248].any()
    assert not bright[4 + band :].any()
    assert not bright[:, 124:128].any()
    assert not bright[:, 248:].any()


def test_small_frames_are_enlarged_by_a_whole_factor():
    frame = np.arange(64 * 3, dtype=np.uint8).reshape(1, 8, 8, 3)
    sheet = contact_sheet(frame)
    assert (sheet[4:-4:12, 4:-4:12] == frame[0]).all()


def test_side_by_side_keeps_time_and_matches_heights():
    a, b = _clip(3, 30, 40), _clip(3, 60, 80)
    both = side_by_side([a, b])
    assert both.shape == (3, 30, 40 + 4 + 40, 3)
    assert (both[:, :, :40] == a).all()
    assert np.abs(both[:, :, 44:].astype(int) - b[:, 1::2, 1::2]).max() == 0
    assert side_by_side([a, b], ["memory", "truth"]).shape[1] > 30
    with pytest.raises(GeometryError, match="equal lengths"):
        side_by_side([a, b[:2]])
    with pytest.raises(GeometryError, match="one each"):
        contact_sheet(a, ["one"])
