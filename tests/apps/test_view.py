"""`view --viser` draws the world where it lies, with the cameras that saw it, for pages of its own and nobody else."""

from __future__ import annotations

import math
import sys
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tests.live.scenes import UP, maker, remembered, views

from mosaicmem.apps.cli import view
from mosaicmem.errors import ConfigError, InputError
from mosaicmem.geometry.se3 import quat_to_rotation
from mosaicmem.live.door import listen
from mosaicmem.memory import PatchStore

NEEDS = "needs the extra: pip install 'mosaicmem[viser]'"
VAE = maker().models.vae


def world(store: PatchStore | None = None) -> Any:
    from mosaicmem.apps.viser_scene import drawn

    return drawn(remembered() if store is None else store, VAE.decode_image, lambda _: UP, None)


@contextmanager
def shown(store: PatchStore | None = None):
    pytest.importorskip("viser", reason=NEEDS)
    from mosaicmem.apps.viser_scene import WorldView

    with WorldView(world(store), "room", port=0) as found:
        yield found


def nodes(found: Any) -> dict[str, Any]:
    return found.server.scene._handle_from_node_name


def test_every_point_and_camera_is_where_it_lies_in_the_world() -> None:
    store = remembered()
    cameras = views([0.0, 40.0, -40.0])
    with shown() as found:
        named = nodes(found)
        clouds = [named[f"/memory/{i:05d}"] for i in range(3)]
        assert sum(len(cloud.points) for cloud in clouds) == sum(int(group.valid.sum()) for group in store)
        for i, cloud in enumerate(clouds):
            uv, depth, _ = cameras[i].project(torch.from_numpy(cloud.points).double()[None])
            assert bool((depth > 0).all()), "in front of the camera that saw it"
            picture = found._world.thumbnails[i]
            assert picture.shape == (48, 48, 3)
            u, v = uv[0].long().clamp(0, 47).unbind(-1)
            assert np.abs(picture[v, u].astype(int) - cloud.colors.astype(int)).mean() < 2, "in the colour it has there"
            frustum = named[f"/cameras/{i:05d}"]
            assert frustum.position == pytest.approx(cameras[i].centers[0].numpy(), abs=1e-6)
            R = quat_to_rotation(torch.tensor(np.array(frustum.wxyz)))
            assert torch.allclose(R, cameras[i].c2w[0, :3, :3], atol=1e-6)
            assert math.degrees(frustum.fov) == pytest.approx(75.0) and frustum.aspect == pytest.approx(1.0)
        assert len(named["/path"].points) == 2
        start = found.server.initial_camera
        assert float((torch.tensor(np.array(start.position)) - cameras[2].centers[0]) @ UP) > 0, "from above"


def test_the_sliders_hide_what_came_later_and_the_cameras(monkeypatch) -> None:
    with shown() as found:
        controls = {handle.label: handle for handle in found.server.gui._gui_input_handle_from_uuid.values()}
        controls["pictures"].value = 2
        visible = {name: handle.visible for name, handle in nodes(found).items() if name.count("/") == 2}
        assert visible == {f"/{kind}/{i:05d}": i < 2 for kind in ("memory", "cameras") for i in range(3)}
        controls["cameras"].value = False
        assert not any(nodes(found)[f"/cameras/{i:05d}"].visible for i in range(3))


def test_pages_of_others_are_refused_and_nothing_is_shared_over_the_internet() -> None:
    with shown() as found:
        import viser
        from websockets.exceptions import InvalidStatus
        from websockets.sync.client import connect

        address = f"ws://127.0.0.1:{found.port}"
        kind: Any = [f"viser-v{viser.__version__}"]
        origin: Any
        for origin in (None, "http://evil.example", f"http://evil.example:{found.port}", "http://127.0.0.1:1", "null"):
            with pytest.raises(InvalidStatus) as caught:
                connect(address, origin=origin, subprotocols=kind, proxy=None)
            assert caught.value.response.status_code == 403
        origin = f"http://127.0.0.1:{found.port}"
        with connect(address, origin=origin, subprotocols=kind, proxy=None, max_size=None) as page:
            assert len(page.recv(timeout=60)) > 100
        assert found.server.get_host() == "127.0.0.1" and found.server.request_share_url() is None


def test_long_walks_are_thinned_to_what_a_browser_can_show(monkeypatch) -> None:
    from mosaicmem.apps import viser_scene

    assert viser_scene.shown_cameras(5) == [0, 1, 2, 3, 4]
    many = viser_scene.shown_cameras(1000)
    assert len(many) <= viser_scene.MOST_CAMERAS and many[-1] == 999 and set(np.diff(many)) == {9}
    whole = sum(map(len, world().clouds))
    monkeypatch.setattr(viser_scene, "MOST_POINTS", whole // 3)
    assert whole // 5 < sum(map(len, world().clouds)) <= whole // 3 + 3
    with pytest.raises(InputError, match="nothing to export"):
        world(PatchStore.empty())


def test_a_port_that_is_taken_is_said(tmp_path) -> None:
    pytest.importorskip("viser", reason=NEEDS)
    from mosaicmem.apps.viser_scene import WorldView

    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="choose another --port"):
        WorldView(world(), "room", port=taken.getsockname()[1])


def test_the_command_says_where_to_look_and_ends(run, memory, monkeypatch) -> None:
    pytest.importorskip("viser", reason=NEEDS)
    monkeypatch.setattr(view, "_wait", lambda: None)
    ran = run("view", memory, "--viser", "--port", 0, "--no-browser", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["pictures"] == 5 and ran.json["points"] > 1000, "and nothing else on stdout"
    assert f"open {ran.json['address']}" in ran.err and ran.json["address"].startswith("http://127.0.0.1:")
    assert "warning" not in ran.err
    aloud = run("view", memory, "--viser", "--port", 0, "--no-browser", "--host", "0.0.0.0")
    assert aloud.code == 0 and "warning: listening at 0.0.0.0" in aloud.err


def test_without_a_viewer_or_the_extra_it_says_what_to_do(run, memory, monkeypatch) -> None:
    assert run("view", memory).code == 2 and "--viser" in run("view", memory).err
    assert run("view", memory, "--viser", "--port", 70000).code == 2
    monkeypatch.setitem(sys.modules, "viser", None)
    ran = run("view", memory, "--viser")
    assert ran.code == 4 and "pip install 'mosaicmem[viser]'" in ran.err
