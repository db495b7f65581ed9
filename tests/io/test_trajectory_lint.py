"""Each linter code has a bad file that fires it and no error elsewhere; real files raise none."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests import witness
from tests.helpers import shared_data

from mosaicmem.errors import InputError
from mosaicmem.geometry import se3
from mosaicmem.io.trajectories import Finding, Trajectory, lint, read_trajectory, write_trajectory


@pytest.fixture(autouse=True)
def _fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda handle: None)


def walk(n: int = 12) -> np.ndarray:
    """A walk along +z that turns a little: unsuspicious in every respect."""
    angle = torch.linspace(0, 0.3, n, dtype=torch.float64)
    R = se3.axis_angle(torch.tensor([[0.0, 1, 0]], dtype=torch.float64).expand(n, 3), angle)
    t = torch.stack([angle, 0 * angle, 0.1 * torch.arange(n, dtype=torch.float64)], -1)
    return se3.make_transform(R, t).numpy()


def hub(
    folder: Path,
    C: np.ndarray | None = None,
    *,
    K: tuple[float, ...] = (64, 64, 32, 32),
    size: tuple[int, int] = (64, 64),
    time: np.ndarray | None = None,
    **changes: object,
) -> Path:
    """A file of our own, written without any check so that it can be wrong."""
    C = walk() if C is None else C
    V = C.copy()
    R = C[:, :3, :3].transpose(0, 2, 1)
    V[:, :3, :3], V[:, :3, 3] = R, -np.einsum("nij,nj->ni", R, C[:, :3, 3])
    time = np.arange(len(V)) / 16 if time is None else time
    frames = [{"t": float(t), "viewmat": v.ravel().tolist(), "K": list(K)} for t, v in zip(time, V)]
    for frame in frames:
        frame |= changes  # pyright: ignore
    head = {"format": "mosaicmem.trajectory", "version": 1, "width": size[0], "height": size[1], "metric": True}
    path = folder / "a.json"
    path.write_text(json.dumps({**head, "frames": frames}))
    return path


def codes(found: list[Finding], severity: str = "EWI") -> set[str]:
    return {f.code for f in found if f.severity in severity}


def test_a_good_file_says_nothing_worse_than_information(tmp_path: Path) -> None:
    found = lint(hub(tmp_path), world_up="-y")
    assert codes(found, "EW") == set()
    assert codes(found) == {"C6", "P1"}


def bent(index: int, change) -> np.ndarray:
    C = walk()
    C[index] = change(C[index])
    return C


def scale_rotation(M: np.ndarray, s: float) -> np.ndarray:
    out = M.copy()
    out[:3, :3] *= s
    return out


def shear(M: np.ndarray, amount: float) -> np.ndarray:
    out = M.copy()
    out[0, 1] += amount
    return out


BAD_MATRICES = {
    "M1": (lambda M: M * np.nan, "E", 3),
    "M3": (lambda M: shear(M, 0.2), "E", 3),
    "M3w": (lambda M: shear(M, 1e-4), "W", 3),
    "M4": (lambda M: M @ np.diag([-1.0, 1, 1, 1]), "E", 3),
    "M5": (lambda M: scale_rotation(M, 2.0), "E", 3),
}


@pytest.mark.parametrize("code", BAD_MATRICES)
def test_matrices_that_are_no_rigid_transforms(code: str, tmp_path: Path) -> None:
    change, severity, frame = BAD_MATRICES[code]
    np.save(tmp_path / "a.npy", bent(frame, change))
    found = lint(tmp_path / "a.npy")
    fired = [f for f in found if f.code == code[:2]]
    assert fired and fired[0].severity == severity and fired[0].frame == frame
    assert codes(found, "E") <= {code[:2]}
    if severity == "E":
        with pytest.raises(InputError, match=code[:2]):
            read_trajectory(tmp_path / "a.npy")
    else:
        read_trajectory(tmp_path / "a.npy")


def test_m5_reports_the_scale_and_m2_a_transposed_matrix(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", bent(3, lambda M: scale_rotation(M, 2.0)))
    assert next(f for f in lint(tmp_path / "a.npy") if f.code == "M5").value == pytest.approx(2)
    np.save(tmp_path / "b.npy", walk().transpose(0, 2, 1))
    found = lint(tmp_path / "b.npy")
    assert codes(found, "E") == {"M2"} and "transpose" in next(f.advice for f in found if f.code == "M2")
    with pytest.raises(InputError, match="M2"):
        read_trajectory(tmp_path / "b.npy")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("1 0 0 0 0 0 0 0", ("M6", "E")),
        ("1 0 0 0 0 0 0 0.9", ("M6", "E")),
        ("1 0 0 0 0 0 0 0.9996", ("M6", "W")),
        ("1 0 0 0 1 0 0 0", ("M7", "W")),
    ],
)
def test_quaternions(row: str, expected: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(f"0 0 0 0 0 0 0 1\n{row}\n2 0 0 0.1 0 0 0 1\n")
    found = [f for f in lint(tmp_path / "a.txt") if f.code[0] == "M"]
    assert [(f.code, f.severity, f.frame) for f in found] == [(*expected, 1)]


def test_four_decimals_of_a_quaternion_are_no_finding(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1305031098.6659 1.3563 0.6305 1.6380 0.6132 0.5962 -0.3311 -0.3986\n")
    assert codes(lint(tmp_path / "a.txt"), "EW") == set()


def orbit(n: int = 20) -> np.ndarray:
    """A camera that turns on the spot far from the origin: its w2c reading swings widely."""
    angle = torch.linspace(0, 2, n, dtype=torch.float64)
    R = se3.axis_angle(torch.tensor([[0.0, 1, 0]], dtype=torch.float64).expand(n, 3), angle)
    t = torch.tensor([[3.0, 0, 0]], dtype=torch.float64) + 0.05 * torch.rand(n, 3, dtype=torch.float64)
    return se3.make_transform(R, t).numpy()


def test_c1_w2c_given_as_c2w(tmp_path: Path) -> None:
    V = np.linalg.inv(orbit())
    np.save(tmp_path / "wrong.npy", V)
    np.save(tmp_path / "right.npy", orbit())
    wrong = lint(tmp_path / "wrong.npy")
    assert {"C1", "C5"} <= codes(wrong, "W") and not codes(wrong, "E")
    assert "C1" not in codes(lint(tmp_path / "right.npy"))


def test_c2_and_c3_opengl_axes(tmp_path: Path) -> None:
    found = lint(hub(tmp_path, walk() @ np.diag([1.0, -1, -1, 1])), world_up="-y")
    assert {"C2", "C3"} <= codes(found) and not codes(found, "E")
    path, _, _ = witness.make("nerfstudio", tmp_path)
    assert "C3" not in codes(lint(path))
    data = json.loads(path.read_text())
    M = np.array(data["frames"][0]["transform_matrix"]) @ np.diag([1, -1, -1, 1])
    data["frames"][0]["transform_matrix"] = M.tolist()
    path.write_text(json.dumps(data))
    assert "C3" in codes(lint(path), "W")


def test_c3_recommends_upright_for_the_predecessor(tmp_path: Path) -> None:
    flip = torch.diag(torch.tensor([-1.0, -1, 1, 1], dtype=torch.float64))
    up = np.diag([1.0, -1, -1, 1])  # a world with y up, seen by an OpenCV camera
    upright = torch.from_numpy(np.linalg.inv(up @ walk()))
    n = len(upright)
    stored = Trajectory(flip @ upright, None, torch.arange(n, dtype=torch.float64) / 16, nominal_time=False)
    write_trajectory(stored, tmp_path / "p.json", format="predecessor")
    finding = next(f for f in lint(tmp_path / "p.json") if f.code == "C3")
    assert "upright=True" in finding.advice
    fixed = read_trajectory(tmp_path / "p.json", upright=True)
    torch.testing.assert_close(fixed.viewmats, upright, atol=1e-6, rtol=0)
    plain = read_trajectory(tmp_path / "p.json")
    torch.testing.assert_close(plain.centers, fixed.centers, atol=1e-6, rtol=0)


def test_c5_the_key_extrinsic(tmp_path: Path) -> None:
    for name in ("worldplay", "worldstereo", "kitti"):
        path, _, _ = witness.make(name, tmp_path)
        assert "C5" in codes(lint(path), "W")


UNITS = {
    "U1": walk() * np.array([1, 1, 1, 1000])[None, None],
    "U3": walk() + np.eye(4)[None, :, 3:] @ np.zeros((1, 1, 4)) + 500 * np.eye(4)[0][:, None] * np.eye(4)[3],
}


@pytest.mark.parametrize("code", UNITS)
def test_units(code: str, tmp_path: Path) -> None:
    C = UNITS[code].copy()
    C[:, 3] = [0, 0, 0, 1]
    found = lint(hub(tmp_path, C))
    assert code in codes(found, "W") and not codes(found, "E")


INTRINSICS = {
    "K1": ((1.0, 1.0, 0.5, 0.5), (64, 64)),
    "K2": ((500, 500, 416, 240), (1280, 720)),
    "K3": ((525, 525, 319.5, 239.5), (640, 480)),
    "K4": ((500, 600, 320, 240), (640, 480)),
    "K5": ((10, 10, 320, 240), (640, 480)),
    "K5n": ((9000, 9000, 320, 240), (640, 480)),
}


@pytest.mark.parametrize("code", INTRINSICS)
def test_intrinsics(code: str, tmp_path: Path) -> None:
    K, size = INTRINSICS[code]
    found = lint(hub(tmp_path, K=K, size=size))
    assert codes(found, "EW") == {code[:2]}


def test_k2_says_what_to_multiply_by(tmp_path: Path) -> None:
    finding = next(f for f in lint(hub(tmp_path, K=(500, 500, 416, 240), size=(1280, 720))) if f.code == "K2")
    assert "832x480" in finding.message and "1.538, 1.5" in finding.advice


def test_k5_radians_in_a_degree_field(tmp_path: Path) -> None:
    path, _, _ = witness.make("ns-path", tmp_path)
    path.write_text(path.read_text().replace("53.1301", "0.9273"))
    assert "radians" in next(f.advice for f in lint(path) if f.code == "K5")


def test_k6_k7_k8(tmp_path: Path) -> None:
    K = np.tile(witness.K.numpy(), (12, 1, 1))
    np.savez(tmp_path / "a.npz", w2c=np.linalg.inv(walk()), intrinsics=K.transpose(0, 2, 1))
    found = lint(tmp_path / "a.npz")
    assert codes(found, "E") == {"K6"} and "transpose" in found[0].advice
    with pytest.raises(InputError, match="K6"):
        read_trajectory(tmp_path / "a.npz")
    K[:, 0, 0] = K[:, 1, 1] = np.linspace(64, 80, 12)
    np.savez(tmp_path / "b.npz", w2c=np.linalg.inv(walk()), intrinsics=K)
    assert "K8" in codes(lint(tmp_path / "b.npz"), "I")
    found = lint(hub(tmp_path, distortion=[0.1, 0, 0, 0]))
    assert codes(found, "EW") == {"K7"}


TIMES = {
    "T1": np.array([0, 1, 3, 2, *range(4, 12)]) / 16,
    "T2": np.array([0, 1, 1, *range(2, 11)]) / 16,
    "T3": np.arange(12) * 33367.0,
    "T4": np.array([*range(11), 40]) / 16,
}


@pytest.mark.parametrize("code", TIMES)
def test_time(code: str, tmp_path: Path) -> None:
    path = hub(tmp_path, time=TIMES[code])
    found = lint(path)
    assert code in codes(found, "EW")
    assert codes(found, "E") == ({"T1"} if code == "T1" else set())
    if code == "T1":
        with pytest.raises(InputError, match="sort=True"):
            read_trajectory(path)
        straight = read_trajectory(path, sort=True)
        assert (straight.timestamps.diff() > 0).all()
        assert straight.centers[2, 2].item() == pytest.approx(0.3)  # the pose went with its time


def test_p2_a_jump_and_a_turn(tmp_path: Path) -> None:
    C = walk()
    C[6:, 2, 3] += 5
    assert {"P2"} == codes(lint(hub(tmp_path, C)), "EW")
    C = walk()
    C[6:] = C[6:] @ np.diag([-1.0, 1, -1, 1])
    assert "P2" in codes(lint(hub(tmp_path, C)), "W")


def named(folder: Path, names: list[str]) -> Path:
    C = walk(len(names))
    frames = [{"file_path": n, "transform_matrix": m.tolist()} for n, m in zip(names, C @ np.diag([1.0, -1, -1, 1]))]
    head = {"w": 64, "h": 48, "fl_x": 64, "fl_y": 64, "cx": 32, "cy": 24, "applied_transform": np.eye(4)[:3].tolist()}
    (folder / "transforms.json").write_text(json.dumps({**head, "frames": frames}))
    return folder / "transforms.json"


def images(folder: Path, names: list[str], size: tuple[int, int] = (64, 48)) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("RGB", size).save(folder / name)
    return folder


def test_p3_names(tmp_path: Path) -> None:
    assert "P3" in codes(lint(named(tmp_path, ["a.png", "b.png", "a.png"])), "E")
    assert codes(lint(named(tmp_path, ["f2.png", "f10.png"])), "EW") & {"P3"} == {"P3"}
    pictures = images(tmp_path / "images", ["0.png", "1.png"])
    found = lint(named(tmp_path, ["0.png", "2.png"]), images=pictures)
    assert codes(found, "E") == {"P3"} and "missing" in found[0].message
    found = lint(named(tmp_path, ["0.png", "../../../etc/passwd"]), images=pictures)
    assert codes(found, "E") == {"P3"} and "outside" in found[0].message


def test_t5_and_r1_against_images(tmp_path: Path) -> None:
    path = named(tmp_path, ["0.png", "1.png"])
    pictures = images(tmp_path / "images", [f"{i}.png" for i in range(5)])
    found = lint(path, images=pictures)
    assert "one pose per latent" in next(f.advice for f in found if f.code == "T5")
    assert not codes(found, "E")
    wrong = images(tmp_path / "small", ["0.png", "1.png"], (32, 24))
    assert "R1" in codes(lint(path, images=wrong), "E")


def room(folder: Path, C: np.ndarray, unit: float = 1000) -> Path:
    """Depth of a corner seen along a path, as 16-bit PNG: planes z = 4, y = 1 and x = 2."""
    folder.mkdir()
    v, u = np.mgrid[:48, :64] + 0.5
    rays = np.stack([(u - 32) / 64, (v - 24) / 64, np.ones_like(u)], -1)
    for i, pose in enumerate(C):
        direction = rays @ pose[:3, :3].T
        planes = [(2, 4.0), (1, 1.0), (0, 2.0), (0, -3.0), (1, -2.0)]
        with np.errstate(all="ignore"):
            t = np.stack([(d - pose[axis, 3]) / direction[..., axis] for axis, d in planes])
        z = np.where(t > 0, t, np.inf).min(0)
        Image.fromarray((z * unit).round().astype(np.uint16)).save(folder / f"{i:03d}.png")
    return folder


def test_c4_names_the_reading_that_the_depth_supports(tmp_path: Path) -> None:
    angle = torch.linspace(0, 1.2, 16, dtype=torch.float64)
    axis = torch.tensor([[0.5, 1.0, 0.3]], dtype=torch.float64).expand(16, 3)
    t = torch.stack([0.3 * angle, -0.5 * angle, angle], -1)
    C = se3.make_transform(se3.axis_angle(axis, angle), t).numpy()
    depth = room(tmp_path / "depth", C)
    readings = {
        "c2w OpenCV": C,
        "w2c OpenCV": np.linalg.inv(C),
        "c2w OpenGL": C @ np.diag([1.0, -1, -1, 1]),
    }
    K = [[64, 0, 32], [0, 64, 24], [0, 0, 1.0]]
    for name, M in readings.items():
        np.savez(tmp_path / "a.npz", c2w=M, intrinsics=K, fps=16)
        fired = [f for f in lint(tmp_path / "a.npz", depth=depth) if f.code == "C4"]
        assert len(fired) == 1 and f"the poses are {name}" in fired[0].message
        assert fired[0].severity == ("I" if name == "c2w OpenCV" else "W")


@pytest.mark.parametrize("unit", [1000, 5000])
def test_u2_finds_the_unit_of_depth(unit: int, tmp_path: Path) -> None:
    depth = room(tmp_path / "depth", walk(), unit)
    fired = next(f for f in lint(hub(tmp_path, K=(64, 64, 32, 24), size=(64, 48)), depth=depth) if f.code == "U2")
    assert f"{unit} per unit" in fired.advice


def test_u4_and_d1(tmp_path: Path) -> None:
    depth = room(tmp_path / "depth", walk())
    C = walk()
    C[:, :3, 3] *= 100
    assert "U4" in codes(lint(hub(tmp_path, C, K=(64, 64, 32, 24), size=(64, 48)), depth=depth), "W")
    z = np.array(Image.open(depth / "000.png"))
    z[:5] = 0
    Image.fromarray(z).save(depth / "000.png")
    assert "D1" in codes(lint(hub(tmp_path, K=(64, 64, 32, 24), size=(64, 48)), depth=depth), "W")
    assert "R1" in codes(lint(hub(tmp_path), depth=depth), "E")


def test_c7_keys_with_two_meanings(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("w-31, up-4")
    assert "C7" in codes(lint(tmp_path / "a.txt"), "W")


def test_real_files_raise_no_error() -> None:
    room_path = shared_data("icl_living_room")
    found = lint(room_path / "trajectory.log", images=room_path / "image", depth=room_path / "depth")
    assert not codes(found, "E")
    reading = next(f for f in found if f.code == "C4")
    assert reading.severity == "I" and "c2w OpenCV" in reading.message
    for path in shared_data("tum").glob("*.txt"):
        assert not codes(lint(path), "E")
    for path in shared_data("realestate10k").glob("*.txt"):
        assert not codes(lint(path), "E") and "C1" not in codes(lint(path))
    for i in range(3):
        folder = shared_data("lingbot_world", f"{i:02d}")
        found = lint(folder, images=folder / "image.jpg", world_up="z")
        assert not codes(found, "E") and "K2" in codes(found, "W")
        assert ("C3" in codes(found, "W")) == (i == 1)


def test_the_documented_intrinsics_of_the_living_room_fire_k3(tmp_path: Path) -> None:
    bare = read_trajectory(shared_data("icl_living_room", "trajectory.log"))
    K = torch.tensor([[525, 0, 319.5], [0, 525, 239.5], [0, 0, 1]], dtype=torch.float64).expand(len(bare), 3, 3)
    write_trajectory(bare.with_intrinsics(K, 640, 480), tmp_path / "icl.json")
    assert codes(lint(tmp_path / "icl.json"), "EW") == {"K3"}
