"""One camera in every format, as literal file contents: at (1, 2, 3), looking along world +x, 64x64 pixels, f = 64."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

V = torch.tensor([[0, 0, -1, 3], [0, 1, 0, -2], [1, 0, 0, -1], [0, 0, 0, 1]], dtype=torch.float64)
C = np.array([[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1.0]])
K = torch.tensor([[64, 0, 32], [0, 64, 32], [0, 0, 1]], dtype=torch.float64)
S = 0.5**0.5
SIZE = {"size": (64, 64)}

TEXT: dict[str, tuple[str, str, dict]] = {
    "mosaicmem": (
        "a.json",
        '{"format":"mosaicmem.trajectory","version":1,"axes":"opencv","width":64,"height":64,"metric":true,"frames":['
        '{"t":0.0,"viewmat":[0,0,-1,3, 0,1,0,-2, 1,0,0,-1, 0,0,0,1],"K":[64,64,32,32],"name":"0.png"}]}',
        {},
    ),
    "predecessor": (
        "p.json",
        '{"poses":[{"timestamp":0.0,"world_to_camera":{"tx":3.0,"ty":-2.0,"tz":-1.0,"qx":0.0,"qy":-0.70710678,'
        '"qz":0.0,"qw":0.70710678}}]}',
        SIZE,
    ),
    "tum": ("t.txt", "# timestamp tx ty tz qx qy qz qw\n0.0 1 2 3 0 0.70710678 0 0.70710678\n", {}),
    "kitti": ("k.txt", "0 0 1 1 0 1 0 2 -1 0 0 3\n", {}),
    "euroc": (
        "e.csv",
        "#timestamp [ns],p_x,p_y,p_z,q_w,q_x,q_y,q_z,v_x\n0,1,2,3,0.70710678,0,0.70710678,0,9\n",
        {},
    ),
    "redwood": ("r.log", "0 0 1\n0 0 1 1\n0 1 0 2\n-1 0 0 3\n0 0 0 1\n", {}),
    "re10k": (
        "re.txt",
        "https://www.youtube.com/watch?v=XXXXXXXXXXX\n0 1.0 1.0 0.5 0.5 0 0 0 0 -1 3 0 1 0 -2 1 0 0 -1\n",
        SIZE,
    ),
    "nerfstudio": (
        "transforms.json",
        '{"camera_model":"OPENCV","w":64,"h":64,"fl_x":64,"fl_y":64,"cx":32,"cy":32,"k1":0,"k2":0,"p1":0,"p2":0,'
        '"applied_transform":[[1,0,0,0],[0,0,1,0],[0,-1,0,0]],"ply_file_path":"sparse_pc.ply",'
        '"frames":[{"file_path":"images/0.png","transform_matrix":[[0,0,-1,1],[-1,0,0,3],[0,1,0,-2],[0,0,0,1]]}]}',
        {},
    ),
    "ns-path": (
        "path.json",
        '{"camera_type":"perspective","render_height":64,"render_width":64,"fps":24,"seconds":1,"is_cycle":false,'
        '"keyframes":[],"camera_path":[{"camera_to_world":[0,0,-1,1, 0,-1,0,2, -1,0,0,3, 0,0,0,1],"fov":53.1301,'
        '"aspect":1.0}]}',
        {},
    ),
    "blender": (
        "transforms_train.json",
        '{"camera_angle_x":0.9272952,"frames":[{"file_path":"./train/r_0","rotation":0.0,'
        '"transform_matrix":[[0,0,-1,1],[0,-1,0,2],[-1,0,0,3],[0,0,0,1]]}]}',
        SIZE,
    ),
    "worldplay": (
        "wp.json",
        '{"0":{"extrinsic":[[0,0,1,1],[0,1,0,2],[-1,0,0,3],[0,0,0,1]],"K":[[64,0,32],[0,64,32],[0,0,1]]}}',
        {},
    ),
    "worldstereo": (
        "camera.json",
        '{"motion_list":[],"extrinsic":[[[0,0,-1,3],[0,1,0,-2],[1,0,0,-1],[0,0,0,1]]],'
        '"intrinsic":[[[64,0,32],[0,64,32],[0,0,1]]]}',
        {},
    ),
    "recam": ("extrinsics.json", '{"frame0":{"cam01":"[0 1 0 0] [-1 0 0 0] [0 0 1 0] [300 100 -200 1] "}}', {}),
    "3dgs": (
        "cameras.json",
        '[{"id":0,"img_name":"0","width":64,"height":64,"position":[1,2,3],'
        '"rotation":[[0,0,1],[0,1,0],[-1,0,0]],"fx":64,"fy":64}]',
        {},
    ),
    "mind": (
        "action.json",
        '{"mark_time":0,"total_time":1,"caption":"","data":[{"time":0,"ws":0,"actor_pos":{"x":300,"y":100,"z":-200},'
        '"actor_rpy":{"x":0,"y":0,"z":90}}]}',
        {},
    ),
}


def _npz(**arrays: object) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / "a.npz"
        np.savez(path, allow_pickle=False, **{k: np.asarray(v) for k, v in arrays.items()})
        return path

    return write


def _colmap_text(folder: Path) -> Path:
    (folder / "cameras.txt").write_text("1 PINHOLE 64 64 64 64 32 32\n")
    (folder / "images.txt").write_text("# head\n1 0.70710678 0 -0.70710678 0 3 -2 -1 1 0.png\n\n")
    (folder / "points3D.txt").write_text("1 0 0 5 255 0 0 0.0\n")
    return folder


def _colmap_binary(folder: Path) -> Path:
    folder = folder / "sparse/0"
    folder.mkdir(parents=True)
    (folder / "cameras.bin").write_bytes(struct.pack("<QIiQQ4d", 1, 1, 1, 64, 64, 64, 64, 32, 32))
    pose = struct.pack("<QI7dI", 1, 1, S, 0, -S, 0, 3, -2, -1, 1)
    (folder / "images.bin").write_bytes(pose + b"0.png\0" + struct.pack("<Q", 0))
    return folder.parents[1]


def _mat4(folder: Path) -> Path:
    (folder / "frame-000000.pose.txt").write_text("0 0 1 1\n0 1 0 2\n-1 0 0 3\n0 0 0 1\n")
    return folder


def _lingbot(folder: Path) -> Path:
    np.save(folder / "poses.npy", C[None].astype(np.float32))
    np.save(folder / "intrinsics.npy", np.array([[64, 64, 32, 32.0]]))
    return folder


def _spatia(folder: Path) -> Path:
    (folder / "w2c.txt").write_text("[[0,0,-1,3],[0,1,0,-2],[1,0,0,-1]]\n")
    (folder / "intrinsics.txt").write_text("[1.0,1.0,0.5,0.5]\n")
    return folder


def _vipe(folder: Path) -> Path:
    for part, data in (("pose", C[None]), ("intrinsics", [[64, 64, 32, 32.0]])):
        (folder / part).mkdir()
        np.savez(folder / part / "x.npz", data=np.asarray(data), inds=[0])
    (folder / "intrinsics/x_camera.txt").write_text("0: PINHOLE\n")
    return folder


def _array(folder: Path) -> Path:
    np.save(folder / "a.npy", C[None])
    return folder / "a.npy"


def _llff(folder: Path) -> Path:
    np.save(folder / "poses_bounds.npy", np.array([[0, 0, -1, 1, 64, 1, 0, 0, 2, 64, 0, -1, 0, 3, 64, 0.1, 100]]))
    return folder / "poses_bounds.npy"


_Kn = K.numpy()[None]
FILES: dict[str, tuple[Callable[[Path], Path], dict]] = {
    "mosaicmem-npz": (_npz(viewmats=V[None], Ks=_Kn, timestamps=[0.0], width=64, height=64, metric=np.int8(-1)), {}),
    "colmap-txt": (_colmap_text, {}),
    "colmap-bin": (_colmap_binary, {}),
    "mat4": (_mat4, {}),
    "lingbot": (_lingbot, {}),
    "spatia": (_spatia, SIZE),
    "vipe": (_vipe, {}),
    "npy": (_array, {}),
    "llff": (_llff, {}),
    "gen3c": (_npz(w2c=V[None], intrinsics=_Kn), {}),
    "gen3c-multi": (_npz(w2cs_all=V[None], Ks_all=_Kn), {}),
    "lyra": (_npz(w2c=V[None], intrinsics=_Kn, image_height=64, image_width=64), {}),
    "mg35": (_npz(extrinsics_c2w=C[None], intrinsics=[64, 64, 32, 32.0]), {}),
    "sana-wm": (_npz(c2w=C[None], intrinsics=_Kn, fps=16, num_frames=1), {}),
    "pytorch3d": (_npz(R=[[[0, 0, 1], [0, -1, 0], [1, 0, 0]]], T=[[-3, 2, -1]]), {}),
}


def make(name: str, folder: Path) -> tuple[Path, str, dict]:
    """Write the witness file of a format: its path, the format's name, and the options it needs."""
    folder.mkdir(parents=True, exist_ok=True)
    if name in TEXT:
        file, text, options = TEXT[name]
        (folder / file).write_text(text)
        return folder / file, name, options
    write, options = FILES[name]
    return write(folder), name.split("-npz")[0].split("-multi")[0], options


NAMES = [*TEXT, *FILES]
