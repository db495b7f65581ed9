"""What single formats do beyond the witness: options, dialects, joins, and the traps seen in public code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import witness
from tests.helpers import random_rotations

from mosaicmem.errors import InputError
from mosaicmem.geometry import se3
from mosaicmem.io.trajectories import atoms, lint, read_trajectory, write_trajectory
from mosaicmem.io.trajectories.actions import poses


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


def close(a: object, b: object, atol: float = 1e-9) -> None:
    a, b = (torch.as_tensor(v, dtype=torch.float64) for v in (a, b))
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def test_the_key_extrinsic_is_c2w_in_one_system_and_w2c_in_another(tmp_path: Path) -> None:
    pose = [[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]]
    K = [[64, 0, 32], [0, 64, 32], [0, 0, 1]]
    (tmp_path / "a.json").write_text(json.dumps({"0": {"extrinsic": pose, "K": K}}))
    (tmp_path / "b.json").write_text(json.dumps({"extrinsic": [pose], "intrinsic": [K]}))
    a, b = read_trajectory(tmp_path / "a.json"), read_trajectory(tmp_path / "b.json")
    close(a.viewmats, b.c2w)
    close(read_trajectory(tmp_path / "b.json", matrix="c2w").viewmats, a.viewmats)


def test_worldplay_keys_sort_as_numbers_and_latents_expand(tmp_path: Path) -> None:
    C = np.tile(np.eye(4), (12, 1, 1))
    C[:, 2, 3] = np.arange(12)
    data = {str(i): {"extrinsic": C[i].tolist(), "K": np.eye(3).tolist()} for i in sorted(range(12), key=str)}
    (tmp_path / "a.json").write_text(json.dumps(data))
    assert read_trajectory(tmp_path / "a.json").centers[:, 2].tolist() == list(range(12))
    frames = read_trajectory(tmp_path / "a.json", expand=True)
    close(frames.centers[:, 2], torch.arange(45, dtype=torch.float64) / 4)
    assert read_trajectory(tmp_path / "a.json").assumed == ("one pose per latent of 4 frames",)


def test_latents_expand_along_the_shorter_arc() -> None:
    C = np.tile(np.eye(4), (2, 1, 1))
    C[1, :3, :3] = atoms.rot_y(np.array([80.0]))[0]
    R = atoms.expand_latents(C)[:, :3, :3]
    close(R, atoms.rot_y(np.array([0, 20, 40, 60, 80.0])))


def test_the_3dgs_rotation_is_that_of_c2w(tmp_path: Path) -> None:
    path, _, _ = witness.make("3dgs", tmp_path)
    close(read_trajectory(path).c2w[0, :3, :3], witness.C[:3, :3])


def test_unreal_conversion_keeps_rotations_proper(rng: torch.Generator) -> None:
    R = random_rotations(5, rng)
    C = se3.make_transform(R, torch.randn(5, 3, generator=rng, dtype=torch.float64)).numpy()
    close(atoms.unreal_c2w(atoms.to_unreal_c2w(C)), C, 1e-12)
    assert np.linalg.det(atoms.unreal_c2w(C)[:, :3, :3]) == pytest.approx(np.ones(5))
    rotator = atoms.unreal_rotator(np.array([[10.0, 20, 30]]))
    close(rotator @ rotator.transpose(0, 2, 1), np.eye(3)[None], 1e-12)


def test_vipe_joins_on_the_frame_index(tmp_path: Path) -> None:
    path, _, _ = witness.make("vipe", tmp_path)
    C = np.tile(np.eye(4), (3, 1, 1))
    K = np.array([[float(f), f, 32, 32] for f in (100, 101, 102, 103)])
    np.savez(path / "pose/x.npz", data=C, inds=[0, 2, 3])
    np.savez(path / "intrinsics/x.npz", data=K, inds=[0, 1, 2, 3])
    trajectory = read_trajectory(path)
    assert trajectory.Ks is not None
    assert trajectory.Ks[:, 0, 0].tolist() == [100, 102, 103]
    close(trajectory.timestamps, torch.tensor([0, 2, 3], dtype=torch.float64) / 16)
    np.savez(path / "intrinsics/x.npz", data=K[:2], inds=[0, 1])
    with pytest.raises(InputError, match="no intrinsics for frame 2"):
        read_trajectory(path)
    (path / "intrinsics/x_camera.txt").write_text("0: MEI\n")
    np.savez(path / "intrinsics/x.npz", data=K, inds=[0, 1, 2, 3])
    with pytest.raises(InputError, match="MEI"):
        read_trajectory(path)


def test_nerfstudio_scale_world_and_fisheye(tmp_path: Path) -> None:
    path, _, _ = witness.make("nerfstudio", tmp_path)
    text = path.read_text()
    path.write_text(text.replace('"applied_transform"', '"applied_scale":2.0,"applied_transform"'))
    close(read_trajectory(path).centers[0], [0.5, 1.0, 1.5])
    path.write_text(text)
    close(read_trajectory(path, keep_world=True).centers[0], [1.0, 3.0, -2.0])
    path.write_text(text.replace("OPENCV", "EQUIRECTANGULAR"))
    with pytest.raises(InputError, match="EQUIRECTANGULAR"):
        read_trajectory(path)
    path.write_text(text.replace("OPENCV", "OPENCV_FISHEYE"))
    with pytest.raises(InputError, match="undistort"):
        read_trajectory(path).cameras()


def test_a_camera_path_leaves_the_trained_world(tmp_path: Path) -> None:
    path, _, _ = witness.make("ns-path", tmp_path)
    assert read_trajectory(path).assumed
    T = [[1, 0, 0, 1.0], [0, 1, 0, 0], [0, 0, 1, 0]]
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps({"transform": T, "scale": 0.5}))
    back = read_trajectory(path, dataparser=tmp_path / "dataparser_transforms.json")
    close(back.centers[0], [1.0, 4, 6])  # x = T^-1 (x_train / s)
    assert not back.assumed


def test_euroc_body_poses_need_the_sensor(tmp_path: Path) -> None:
    path, _, _ = witness.make("euroc", tmp_path)
    assert "body" in read_trajectory(path).assumed[0]
    body_from_cam = np.eye(4)
    body_from_cam[:3, 3] = [0, 0, 2]
    moved = read_trajectory(path, body_from_cam=body_from_cam.tolist())
    close(moved.centers[0], [3.0, 2, 3], 1e-7)
    assert not moved.assumed


def test_re10k_of_an_early_generation_and_the_other_layout(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n" + "1.0 1.0 0.5 0.5 0 0 0 0 -1 3 0 1 0 -2 1 0 0 -1\n" * 2)
    trajectory = read_trajectory(tmp_path / "a.txt", fps=8)
    assert trajectory.nominal_time and trajectory.timestamps.tolist() == [0, 0.125]
    row = "0 1 1 0.5 0.5 0 0 " + "0 0 -1 0 1 0 1 0 0 3 -2 -1\n"
    (tmp_path / "b.txt").write_text("url\n" + row)
    assert any("nine r" in f.message for f in lint(tmp_path / "b.txt"))
    with pytest.raises(InputError, match="M3"):
        read_trajectory(tmp_path / "b.txt")


def test_mat4_drops_what_was_not_tracked(tmp_path: Path) -> None:
    for i, text in enumerate(
        ("1 0 0 0\n0 1 0 0\n0 0 1 {}\n0 0 0 1\n", "-inf " * 16, "1 0 0 0\n0 1 0 0\n0 0 1 {}\n0 0 0 1\n")
    ):
        (tmp_path / f"frame-{i:06d}.pose.txt").write_text(text.format(i))
    trajectory = read_trajectory(tmp_path)
    assert trajectory.names == ("frame-000000", "frame-000002")
    assert any("1 of 3" in f.message for f in lint(tmp_path))


def test_kitti_takes_times_and_direction(tmp_path: Path) -> None:
    path, _, _ = witness.make("kitti", tmp_path)
    (tmp_path / "times.txt").write_text("4.5\n")
    assert read_trajectory(path).timestamps.tolist() == [4.5]
    close(read_trajectory(path, matrix="w2c").viewmats[0], witness.C)
    (tmp_path / "times.txt").write_text("4.5\n4.6\n")
    with pytest.raises(InputError, match="2 times, expected 1"):
        read_trajectory(path)


def test_ngp_paths_come_back_from_their_cycled_world(tmp_path: Path) -> None:
    C = witness.C
    rows = np.empty((3, 4))
    rows[[2, 0, 1]] = C[:3]  # NeRF's rows from ngp's: x = ngp z, y = ngp x, z = ngp y
    q = atoms.rotation_to_quat(rows[None, :, :3])[0]
    t = rows[:, 3] * 0.33 + 0.5
    key = {"R": [*q[1:].tolist(), float(q[0])], "T": t.tolist(), "fov": 50, "timestamp": 0}
    (tmp_path / "a.json").write_text(json.dumps({"loop": False, "time": 0, "path": [key]}))
    trajectory = read_trajectory(tmp_path / "a.json")
    close(trajectory.c2w[0], C)
    assert "control point" in trajectory.assumed[0]


def test_worldmem_rows_look_forward_at_zero_angles(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1,2,3,0,0\n1,2,3,0,90\n")
    trajectory = read_trajectory(tmp_path / "a.txt", format="worldmem")
    close(trajectory.centers, [[1.0, 2, 3], [1, 2, 3]])
    close(trajectory.viewmats[:, 2, :3], [[0.0, 0, 1], [1, 0, 0]])


def test_predecessor_size_implies_its_intrinsics(tmp_path: Path) -> None:
    path, _, _ = witness.make("predecessor", tmp_path)
    assert read_trajectory(path).Ks is None
    sized = read_trajectory(path, size=(128, 96))
    assert sized.Ks is not None and sized.assumed
    assert sized.Ks[0].tolist() == [[128, 0, 64], [0, 128, 48], [0, 0, 1]]


def test_array_files_with_several_stacks_ask_which(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", first=np.eye(4)[None], second=witness.C[None])
    with pytest.raises(InputError, match="clip="):
        read_trajectory(tmp_path / "a.npz", format="npy")
    close(read_trajectory(tmp_path / "a.npz", format="npy", clip="second").c2w[0], witness.C)


# Action strings


def test_worldplay_steps_are_latents() -> None:
    C = poses("w-31, right-1, d-4", "worldplay")
    assert len(C) == 37
    assert C[31, :3, 3] == pytest.approx([0, 0, 31 * 0.08])
    forward = C[-1, :3, 2]
    assert np.rad2deg(np.arctan2(forward[0], forward[2])) == pytest.approx(3)
    side = np.array([np.cos(np.deg2rad(3)), 0, -np.sin(np.deg2rad(3))])
    assert C[-1, :3, 3] - C[31, :3, 3] == pytest.approx(4 * 0.08 * side)


def test_a_step_turns_first_and_then_moves_and_up_looks_up() -> None:
    C = poses("yaw 90deg + forward 1m", "mosaicmem")
    assert C[1, :3, 3] == pytest.approx([1, 0, 0], abs=1e-12)
    assert poses("up-10", "worldplay")[-1, 1, 2] < 0  # y points down
    assert poses("i*10", "minwm")[-1, 1, 2] < 0
    assert poses("u*2", "minwm")[-1, :3, 3] == pytest.approx([0, -0.16, 0])
    assert poses("up 2m", "mosaicmem")[-1, :3, 3] == pytest.approx([0, -2, 0])


def test_our_grammar() -> None:
    C = poses("forward 2m over 4f; yaw 90deg over 48f; hold 1s", "mosaicmem", fps=16)
    assert len(C) == 1 + 4 + 48 + 16
    assert C[:5, 2, 3] == pytest.approx([0, 0.5, 1, 1.5, 2])
    assert C[-1, :3, 2] == pytest.approx([1, 0, 0], abs=1e-12)
    for bad in ("forward 2", "forward 2deg", "yaw 3m", "jump 3m", "forward 2m over 3", "forward 1.2.3m", ""):
        with pytest.raises(InputError, match="expected"):
            poses(bad, "mosaicmem")


def test_the_same_dreamx_numbers_are_shares_in_one_and_speeds_in_the_other() -> None:
    text = json.dumps({"action_seq": ["w", "wl"], "action_speed_list": [4, 6]})
    shares, speeds = poses(text, "dreamx-ar", frames=81), poses(text, "dreamx-5b")
    assert len(shares) == 81 and len(speeds) == 67
    assert shares[32, 2, 3] == pytest.approx(32 * 0.075)
    assert np.rad2deg(np.arctan2(*shares[33, [0, 2], 2])) == pytest.approx(1.5)
    assert speeds[33, 2, 3] == pytest.approx(4)
    assert speeds[-1, :3, 3] == pytest.approx([0, 0, 10])  # the direction of travel stays that of the entry's start
    assert np.rad2deg(np.arctan2(*speeds[-1, [0, 2], 2])) == pytest.approx(60)


def test_dreamx_files_must_be_told_apart(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"action_seq": ["w"], "action_speed_list": [1]}')
    with pytest.raises(InputError, match="dreamx-ar"):
        read_trajectory(tmp_path / "a.json")
    assert len(read_trajectory(tmp_path / "a.json", dialect="dreamx-5b")) == 34


def test_written_actions_give_the_same_motion(tmp_path: Path, rng: torch.Generator) -> None:
    V = se3.make_transform(random_rotations(6, rng), torch.randn(6, 3, generator=rng, dtype=torch.float64))
    V = V @ se3.invert_rigid(V[:1])
    down = se3.axis_angle(torch.tensor([1.0, 0, 0], dtype=torch.float64), torch.tensor(np.pi / 2))
    V[3, :3, :3] = down @ V[2, :3, :3]  # straight down: roll and yaw are one motion
    start = read_trajectory(witness.make("tum", tmp_path)[0])
    import dataclasses

    path = dataclasses.replace(start, viewmats=V, timestamps=torch.arange(6, dtype=torch.float64), nominal_time=True)
    assert write_trajectory(path, tmp_path / "a.txt", format="actions", strict=True) == ()
    close(read_trajectory(tmp_path / "a.txt").viewmats, V, 1e-12)
    assert "first pose" in write_trajectory(path[1:], tmp_path / "b.txt", format="actions")
