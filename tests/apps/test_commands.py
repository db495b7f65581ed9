"""Each command does its job: what it writes, prints, and returns. Named rows are those of the requirements table."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.apps.conftest import FRAMES, SIZE, everything_in
from tests.helpers import shared_data

from mosaicmem.apps.cli.output import sha256
from mosaicmem.io.arrays import write_npy
from mosaicmem.io.files import read_image, write_image
from mosaicmem.io.ply import read_ply
from mosaicmem.io.trajectories import read_trajectory
from mosaicmem.io.video import read_video

LIVING_ROOM_SIZE = "80x56"
SYNTHETIC = ("--model", "synthetic")


def test_remember_then_recall_writes_the_video_the_track_and_the_report(run, recording, memory, path, tmp_path):
    out = tmp_path / "recall"
    ran = run("recall", memory, "--trajectory", path, "--frames", "1::2", "--compare", recording, "--out", out)
    assert ran.code == 0, ran.err
    wanted = {"video.mp4", "mosaic.mp4", "contact_sheet.png", "coverage.png", "report.json", "run.json"}
    assert everything_in(out) == wanted
    report = json.loads((out / "report.json").read_text())
    assert set(report) == {"mean", "frames"}
    assert set(report["mean"]) == {"coverage", "psnr", "ssim"}
    assert [f["frame"] for f in report["frames"]] == [1, 3, 5, 7]
    assert all(set(f) == {"frame", "coverage", "psnr", "ssim"} for f in report["frames"])
    for name in ("coverage", "psnr", "ssim"):
        assert report["mean"][name] == pytest.approx(np.mean([f[name] for f in report["frames"]]))
    video, _ = read_video(out / "video.mp4")
    mosaic, _ = read_video(out / "mosaic.mp4")
    assert len(video) == len(mosaic) == 4
    assert mosaic.shape[1:3] == (SIZE[1], SIZE[0])


def test_recall_of_the_remembered_frames_themselves_is_exact(run, recording, memory, path, tmp_path):
    found = run(
        "recall", memory, "-t", path, "--frames", "::2", "--compare", recording, "-o", tmp_path / "r", "--json", "-q",
        "--set", "retrieval.max_sources=1", "--set", "retrieval.gain_min=0",
    )  # fmt: skip
    for frame in found.json["frames"]:
        assert frame["coverage"] > 0.9
        assert frame["psnr"] > 25


def test_recall_scores_the_covered_pixels_only(run, recording, memory, path, tmp_path):
    """A truth that is wrong in every pixel lowers the score; without --compare there is none."""
    other = run("recall", memory, "-t", path, "--out", tmp_path / "a", "--json").json
    assert set(other["frames"][0]) == {"frame", "coverage"}
    assert other["mean"]["psnr"] is None


def test_intrinsics_come_from_the_memory_where_the_trajectory_has_none(run, memory, path, tmp_path):
    bare = tmp_path / "path.tum"
    assert run("convert", path, "--to", "tum", "--out", bare).code == 0
    with_lens = run("recall", memory, "-t", path, "--frames", "0", "-o", tmp_path / "a", "--json").json
    without = run("recall", memory, "-t", bare, "--frames", "0", "-o", tmp_path / "b", "--json").json
    assert with_lens["intrinsics"].startswith("of the trajectory file")
    assert without["intrinsics"].startswith("of the memory")
    assert without["mean"]["coverage"] == pytest.approx(with_lens["mean"]["coverage"], abs=0.01)


def test_the_living_room_is_remembered_and_recalled(run, tmp_path):
    data = shared_data("icl_living_room")
    room, out = tmp_path / "room", tmp_path / "recall"
    made = run("remember", data, "--frames", "0:150:15", "--size", LIVING_ROOM_SIZE, "--out", room)
    assert made.code == 0, made.err
    assert "[synthetic] remember" in made.out
    ran = run(
        "recall", room, "--trajectory", data / "trajectory.log", "--frames", "150:211:30", "--compare", data,
        "--out", out, "--json",
    )  # fmt: skip
    assert ran.json["mean"]["coverage"] > 0.7
    assert ran.json["mean"]["psnr"] > 18
    assert "vae_psnr" not in ran.json["mean"], "a lossless VAE has no loss to report"


def test_a_pretrained_vae_is_plugged_in_by_path_and_labelled_real(run, recording, path, tmp_path):
    weights = shared_data("taef2")
    room = tmp_path / "room"
    made = run("remember", recording, "--frames", "::4", "--vae", weights, "--out", room, "--json")
    assert made.json["backend"] == "real"
    assert made.json["size"] == list(SIZE)
    ran = run("recall", room, "-t", path, "--frames", "2", "--compare", recording, "-o", tmp_path / "r", "--json")
    assert ran.json["backend"] == "real"
    assert ran.json["mean"]["psnr"] > 15
    assert ran.json["mean"]["vae_psnr"] > ran.json["mean"]["psnr"] - 1, "no memory is better than its VAE"
    assert ran.json["frames"][0]["vae_ssim"] > 0.5
    wrong = run("recall", room, "-t", path, "--vae", tmp_path / "nowhere", "-o", tmp_path / "r2")
    assert wrong.code == 3
    (tmp_path / "empty").mkdir()
    missing = run("recall", room, "-t", path, "--vae", tmp_path / "empty", "-o", tmp_path / "r2")
    assert missing.code == 4
    assert "taef2_encoder.safetensors" in missing.err


def test_x06_demo_is_synthetic_complete_and_better_with_memory(run, tmp_path):
    out = tmp_path / "demo"
    ran = run(
        "demo", "--num-frames", 13, "--width", 32, "--height", 32, "--out", out, "--set", "video.panel=32", *SYNTHETIC
    )
    assert ran.code == 0, ran.err
    assert ran.out.startswith("[synthetic] demo")
    wanted = {
        "video.mp4",
        "contact_sheet.png",
        "coverage.png",
        "map.png",
        "scene.ply",
        "trajectory.json",
        "report.json",
    }
    assert everything_in(out) == wanted | {"run.json", "memory", "memory/world.mosaic"}
    report = json.loads((out / "report.json").read_text())
    mean = report["mean"]
    assert mean["with_memory"]["psnr"] > mean["without_memory"]["psnr"] + 3
    assert mean["with_memory"]["psnr"] > mean["copy_last"]["psnr"] + 3
    assert len(read_video(out / "video.mp4")[0]) == 13
    assert len(read_trajectory(out / "trajectory.json")) == 13
    assert run("inspect", out / "memory", "--json").json["keyframes"] == report["memory"]["keyframes"]


def test_t12_demo_repeats_to_the_bit(run, tmp_path):
    small = ("demo", "--num-frames", 7, "--width", 32, "--height", 32, "--set", "video.panel=32", "-q", *SYNTHETIC)
    for name in ("a", "b"):
        assert run(*small, "--out", tmp_path / name).code == 0
    files = sorted(everything_in(tmp_path / "a") - {"run.json", "memory"})
    for name in files:
        assert sha256(tmp_path / "a" / name) == sha256(tmp_path / "b" / name), name


@pytest.mark.parametrize(("form", "written"), [("mp4", "video.mp4"), ("png", "frames"), ("npz", "frames.npz")])
def test_x01_n_poses_give_exactly_n_frames(run, memory, path, tmp_path, form, written):
    out = tmp_path / "walk"
    ran = run(
        "generate", "--memory", memory, "-t", path, "--window-size", 4, "--format", form, "--out", out, "--json",
        "--prompt", "a room", "--model", "synthetic",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert len(ran.json["frames"]) == ran.json["poses"] == FRAMES
    assert ran.json["prompt"] == "a room"
    assert (out / written).exists()
    if form == "mp4":
        assert len(read_video(out / written)[0]) == FRAMES
    elif form == "png":
        assert sorted(p.name for p in (out / written).iterdir()) == [f"frame_{i:06d}.png" for i in range(FRAMES)]
    else:
        assert np.load(out / written)["frames"].shape == (FRAMES, SIZE[1], SIZE[0], 3)


def test_generate_starts_from_an_image_and_keeps_it_as_the_first_frame(run, recording, path, tmp_path):
    image, depth = recording / "image" / "00000.png", recording / "depth" / "00000.png"
    ran = run(
        "generate", "--image", image, "--depth", depth, "-t", path, "--format", "png", "--out", tmp_path / "w",
        "--json", *SYNTHETIC,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert np.array_equal(read_image(tmp_path / "w" / "frames" / "frame_000000.png"), read_image(image))
    assert ran.json["frames"][1]["coverage"] > 0.3
    from_scene = run(
        "generate", "--scene", 3, "-t", path, "--size", "32x32", "--out", tmp_path / "s", "--json", *SYNTHETIC
    )
    assert from_scene.json["poses"] == FRAMES


def test_generate_says_what_a_start_needs(run, recording, memory, path, tmp_path):
    image = recording / "image" / "00000.png"
    out = ("--out", tmp_path / "w", *SYNTHETIC)
    for more, text in [
        (("-t", path), "nothing to start from"),
        (("-t", path, "--image", image), "a start image needs its depth"),
        (("-t", path, "--depth", image), "--depth is the depth of --image"),
        (("-t", path, "--scene", 1, "--memory", memory), "leave --memory and --image out"),
        (("-t", path, "--memory", memory, "--size", "16x16"), "leave --size out"),
        (("--memory", memory), "--trajectory FILE is missing"),
        (("--scene", 1), "--trajectory FILE is missing"),
        (("-t", path, "--scene", "-1"), "--scene -1: expected 0 to 2^63 - 1"),
        (("-t", path, "--memory", memory, "--event", "3"), "expected FRAME:TEXT"),
        (("-t", path, "--memory", memory, "--event", "-3:x"), "expected FRAME:TEXT"),
        (("-t", path, "--memory", memory, "--event", "3:"), "expected FRAME:TEXT"),
        (("-t", path, "--memory", memory, "--event", "9:the light goes out"), "expected 0 to 8"),
        (("-t", path, "--memory", memory, "--event", "3:x", "--event", "3:y"), "one a frame"),
    ]:
        ran = run("generate", *out, *more)
        assert ran.code == 2, ran.err
        assert text in ran.err
    assert run("generate", *out, "-t", path, "--memory", memory, "--model", tmp_path / "none").code == 4
    assert not (tmp_path / "w").exists()


def test_x04_inspect_shows_coverage_and_says_why(run, memory, path):
    text = run("inspect", memory, "--coverage")
    assert text.code == 0
    assert text.out.count("█") > 100
    found = run("inspect", memory, "-t", path, "--coverage", "--why", 3, "--json").json
    assert [f["frame"] for f in found["coverage"]["frames"]] == list(range(FRAMES))
    why = found["why"]
    assert why["frame"] == 3
    assert len(why["groups"]) == found["keyframes"] == sum(why["counts"].values())
    kept = [g for g in why["groups"] if g["decision"] == "kept"]
    assert kept
    assert kept == why["groups"][: len(kept)]
    cells = SIZE[0] * SIZE[1]
    assert sum(g["serves_cells"] for g in why["groups"]) == round(why["coverage"] * cells)
    assert all(g["reason"] for g in why["groups"])


def test_g07_inspect_of_a_trajectory(run, path):
    found = run("inspect", path, "--json").json
    assert found["kind"] == "trajectory"
    assert found["poses"] == FRAMES
    steps = read_trajectory(path).centers.diff(dim=0).norm(dim=-1)
    assert found["path_length"] == pytest.approx(float(steps.sum()))
    assert run("inspect", path, "--coverage").code == 2


def test_x02_visualize_draws_memory_and_path(run, memory, path, tmp_path):
    for source, name in [(memory, "a"), (path, "b")]:
        ran = run("visualize", source, "--out", tmp_path / name, "--json")
        assert ran.code == 0, ran.err
        image = read_image(tmp_path / name / "map.png")
        assert min(image.shape[:2]) > 300
        assert len({tuple(color) for color in image[::9, ::9].reshape(-1, 3).tolist()}) > 30
    assert run("visualize", path).code == 0


def test_d35_splice_writes_and_both_layouts_heed_the_offset(run, memory, path, tmp_path):
    counts = run("inspect", memory, "--json").json
    moved = {}
    for layout in ("horizontal", "vertical"):
        for offset in (1.0, 3.0):
            out = tmp_path / f"{layout}{offset}"
            ran = run("splice", memory, memory, "--layout", layout, "--offset", offset, "--out", out, "--json")
            assert ran.code == 0, ran.err
            assert ran.json["patches"] == 2 * counts["patches"]
            assert (out / "map.png").exists()
            moved[layout, offset] = np.array(ran.json["a_from_b"])[:3, 3]
            seen = read_trajectory(out / "trajectory.json").centers.numpy()
            half = len(seen) // 2
            assert seen[half:] - seen[:half] == pytest.approx(np.tile(moved[layout, offset], (half, 1)), abs=1e-6)
            box = run("inspect", out, "--json").json
            axis = 0 if layout == "horizontal" else 1
            assert box["extent"][axis] == pytest.approx(2 * counts["extent"][axis] + offset, abs=1e-3)
    assert moved["horizontal", 3.0] - moved["horizontal", 1.0] == pytest.approx([2, 0, 0])
    assert moved["vertical", 3.0] - moved["vertical", 1.0] == pytest.approx([0, -2, 0])
    placed = run("splice", path, path, "--transform", "0,0,5", "--out", tmp_path / "t", "--json").json
    assert placed["poses"] == 2 * FRAMES
    both = read_trajectory(tmp_path / "t" / "trajectory.json")
    assert (both.centers[FRAMES:] - both.centers[:FRAMES]).numpy() == pytest.approx(
        np.tile([0, 0, 5], (FRAMES, 1)), abs=1e-5
    )
    assert run("splice", memory, path, "--out", tmp_path / "x").code == 3
    for text in ("1,2", "a,b,c", "1,0,0,0,0,1,0,0,0,0,-1,0,0,0,0,1"):
        assert run("splice", path, path, "--transform", text, "--out", tmp_path / "x").code in (2, 3)


def test_x07_export_ply_keeps_true_places_and_colours(run, memory, tmp_path):
    everything = run("export-ply", memory, "--voxel-size", 0, "--out", tmp_path / "all.ply", "--json").json
    thin = run("export-ply", memory, "--voxel-size", 0.2, "--out", tmp_path / "thin.ply", "--ascii", "--json").json
    assert everything["points"] > thin["points"] > 10
    cloud, thinned = read_ply(tmp_path / "all.ply"), read_ply(tmp_path / "thin.ply")
    assert len(cloud) == everything["points"]
    assert cloud.colors is not None
    assert thinned.colors is not None
    assert len(np.unique(np.floor(thinned.points / 0.2), axis=0)) >= 0.99 * len(thinned)
    assert len({tuple(c) for c in cloud.colors.tolist()}) > 100, "not grey"


def test_export_places_points_where_the_cameras_saw_them(run, recording, memory, tmp_path):
    """Projecting the cloud into a remembered camera gives that frame's colours back."""
    run("export-ply", memory, "--voxel-size", 0, "--out", tmp_path / "all.ply")
    cloud = read_ply(tmp_path / "all.ply")
    camera = read_trajectory(recording / "trajectory.json").cameras()[0]
    image = read_image(recording / "image" / "00000.png").astype(int)
    import torch

    n = SIZE[0] * SIZE[1]
    first = torch.from_numpy(cloud.points[:n].copy()).float()  # every cell of frame 0 is readable or nearly so
    uv, _, inside = camera.project(first[None])
    j, i = uv[0, :, 0].long(), uv[0, :, 1].long()
    keep = inside[0].numpy()
    seen = image[i[keep].numpy(), j[keep].numpy()]
    assert cloud.colors is not None
    error = np.abs(seen - cloud.colors[:n][keep].astype(int)).max(1)
    assert (error <= 1).mean() > 0.9


def test_convert_does_not_miss_what_it_was_told(run, path, tmp_path):
    """Bare matrices: the same file, told the other way round, holds the inverse path."""
    assert run("convert", path, tmp_path / "bare.npy").code == 0
    silent, told = (
        run("convert", tmp_path / "bare.npy", tmp_path / f"{len(more)}.json", *more, "--json").json
        for more in ([], ["--matrix", "w2c"])
    )
    assert [sum(f["code"] == "C5" for f in ran["findings"]) for ran in (silent, told)] == [1, 0]
    c2w, w2c = (read_trajectory(tmp_path / name).viewmats for name in ("0.json", "2.json"))
    assert c2w.inverse().numpy() == pytest.approx(w2c.numpy(), abs=1e-6)


def test_a_recording_that_does_not_say_its_lens_is_compared_with(run, tmp_path):
    root = tmp_path / "generic"
    for folder in ("images", "depth"):
        (root / folder).mkdir(parents=True)
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (48, 64, 3), dtype=np.uint8)
        write_image(root / "images" / f"{i}.png", pixels)
        write_npy(root / "depth" / f"{i}.NPY", np.full((48, 64), 2.0, np.float32))
    (root / "poses.txt").write_text("0 0 0 0 0 0 0 1\n1 0.1 0 0 0 0 0 1\n")
    room = tmp_path / "room"
    assert run("remember", root, "--size", "native", "--out", room).code == 3
    assert run("remember", root, "--size", "native", "--intrinsics", "60,60,32,24", "--out", room).code == 0
    line = ("-t", root / "poses.txt", "--frames", "0", "--compare", root, "-o", tmp_path / "r", "--json")
    ran = run("recall", room, *line)
    assert ran.code == 0, ran.err
    assert ran.json["mean"]["psnr"] > 40


def test_convert_says_what_is_lost_and_strict_refuses(run, path, tmp_path):
    ran = run("convert", path, "--to", "tum", "--out", tmp_path / "a.tum", "--json")
    assert "intrinsics" in ran.json["lost"]
    refused = run("convert", path, "--to", "tum", "--strict", "--out", tmp_path / "b.tum")
    assert refused.code == 3
    assert not (tmp_path / "b.tum").exists()
    again = run("convert", tmp_path / "a.tum", "--fov", 60, "--size", "64x48", "--out", tmp_path / "c.json")
    assert again.code == 0, again.err
    back = read_trajectory(tmp_path / "c.json")
    assert back.viewmats.numpy() == pytest.approx(read_trajectory(path).viewmats.numpy(), abs=1e-6)
    assert back.Ks is not None
    assert run("convert", path).code == 2
    assert run("convert", path, tmp_path / "d.tum").code == 0 and (tmp_path / "d.tum").exists()
    assert run("convert", path, tmp_path / "e.tum", "--out", tmp_path / "e.tum").code == 2


def test_lint_returns_3_for_what_is_wrong_and_0_for_remarks(run, path, tmp_path):
    good = run("lint", path, "--json")
    assert good.code == 0
    assert good.json["ok"]
    bad = tmp_path / "bad.tum"
    bad.write_text("0 0 0 0 0 0 0 1\n1 nan 0 0 0 0 0 1\n2 0 0 0 0 0 0 1\n")
    ran = run("lint", bad)
    assert ran.code == 3
    assert "E M1" in ran.out
    assert run("convert", bad, "--out", tmp_path / "x.json").code == 3
    assert not (tmp_path / "x.json").exists()


def test_x08_bench_measures_every_stage_and_compares(run, tmp_path):
    small = ("bench", "--num-frames", 2, "--width", 32, "--height", 32, "--iterations", 1, "--warmup", 0)
    ran = run(*small, "--json", "--out", tmp_path / "b")
    assert ran.code == 0, ran.err
    assert set(ran.json["stages_ms"]) >= {"encode", "lift", "insert", "retrieve", "canvas", "decode"}
    assert ran.json["total_ms"] == pytest.approx(sum(s["mean"] for s in ran.json["stages_ms"].values()))
    again = run(*small, "--baseline", tmp_path / "b" / "report.json")
    assert "p50 vs baseline" in again.out
    for flag in ("--iterations", "--num-frames"):
        wrong = run("bench", flag, 0)
        assert wrong.code == 2
        assert f"{flag} = 0" in wrong.err


def test_x05_show_config_is_loadable_and_diff_shows_only_changes(run, tmp_path):
    for form in ("toml", "json"):
        shown = run("show-config", "--format", form, "--set", "retrieval.pool=33", "--seed", 9)
        file = tmp_path / f"settings.{form}"
        file.write_text(shown.out)
        again = run("show-config", "--config", file, "--diff", "--json").json
        assert again == {"seed": 9, "retrieval": {"pool": 33}}
    assert run("show-config", "--diff", "--json").json == {}
    sizes = run("show-config", "--json").json["derived"]["640x480"]
    assert sizes["tokens"] == [60, 80]
