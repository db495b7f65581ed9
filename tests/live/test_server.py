"""The server lets in who has the key of this run and comes from its own page; what comes in is bounded."""

from __future__ import annotations

import contextlib
import io
import json
import struct
import threading
import time

import numpy as np
import pytest
from PIL import Image
from tests.live.scenes import SIZE, THING, walk
from tests.live.serving import TOKEN, Client, Served, served

from mosaicmem.errors import ConfigError
from mosaicmem.live import broadcast
from mosaicmem.live.broadcast import MAX_DELTAS, MAX_TEXTS, Broadcast, Mailbox
from mosaicmem.live.commands import Move
from mosaicmem.live.door import Door, is_loopback, listen
from mosaicmem.live.protocol import MAX_MESSAGE
from mosaicmem.live.server import BURST, MAX_WATCHERS
from mosaicmem.live.session import Session, Shown

websockets = pytest.importorskip("websockets", reason="needs the extra: pip install 'mosaicmem[explore]'")
pytest.importorskip("starlette", reason="needs the extra: pip install 'mosaicmem[explore]'")
pytest.importorskip("uvicorn", reason="needs the extra: pip install 'mosaicmem[explore]'")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with served(tmp_path_factory.mktemp("served")) as found:
        yield found


def refused(server: Served, **how) -> int:
    with pytest.raises(websockets.exceptions.InvalidStatus) as caught:
        server.connect(**how)
    return caught.value.response.status_code


def test_the_page_and_its_files_need_the_key(server: Served) -> None:
    for path in ("/", "/app.js", "/style.css", "/vendor/three.core.min.js", "/nothing"):
        for token in (None, "", "0" * len(TOKEN), TOKEN[:-1], TOKEN + "0", "\u00e9"):
            assert server.get(path, token and token.encode("utf-8").decode("latin-1"))[0] == 403
        assert server.get(path)[0] == (404 if path == "/nothing" else 200)
    _, headers, content = server.get("/")
    assert headers["content-type"].startswith("text/html") and b"<canvas" in content
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert b"http://" not in content and b"https://" not in content, "nothing is loaded from elsewhere"


def test_the_key_in_the_address_becomes_a_cookie_that_no_script_reads(server: Served) -> None:
    status, headers, _ = server.get(f"/?token={TOKEN}", None)
    assert status == 303 and headers["location"] == "/"
    cookie = headers["set-cookie"].lower()
    assert cookie.startswith(f"mosaicmem_{server.port}={TOKEN};")
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert server.get("/?token=" + "0" * len(TOKEN), None)[0] == 403
    assert server.get(f"/app.js?token={TOKEN}", None)[0] == 403, "only the page's own address takes it"


def test_nothing_but_the_files_of_the_page_is_served(server: Served) -> None:
    for path in (
        "/../server.py",
        "/vendor/../../server.py",
        "/%2e%2e/server.py",
        "/vendor/%2e%2e/%2e%2e/server.py",
        "//etc/passwd",
        "/etc/passwd",
        "/vendor/",
        "/static/app.js",
        "/app.js/",
        "/served.mosaic",
    ):
        assert server.get(path)[0] == 404, path
    assert server.get("/", method="POST")[0] == 405


def test_a_name_of_somebody_else_that_points_here_is_refused(server: Served) -> None:
    for host in (
        "evil.example",
        f"evil.example:{server.port}",
        "127.0.0.1",
        "127.0.0.1:1",
        f"127.0.0.1.evil:{server.port}",
    ):
        assert server.get("/", host=host)[0] == 421
        assert server.get(f"/?token={TOKEN}", None, host=host)[0] == 421
    assert server.get("/", host=f"localhost:{server.port}")[0] == 200
    assert refused(server, host=f"evil.example:{server.port}", origin=f"http://evil.example:{server.port}") == 403


def test_the_socket_wants_the_key_and_the_page_s_own_origin(server: Served) -> None:
    assert refused(server, token=None) == 403
    assert refused(server, token="0" * len(TOKEN)) == 403
    for origin in ("", "null", "http://evil.example", f"https://{server.host}", f"http://127.0.0.1:{server.port + 1}"):
        assert refused(server, origin=origin) == 403
    assert refused(server, origin=f"http://localhost:{server.port}") == 403, "another name is another origin"
    with server.connect() as socket:
        assert Client(socket).next()["type"] == "hello"


def test_a_viewer_is_told_everything_and_then_what_is_new(server: Served) -> None:
    with server.connect() as socket:
        client = Client(socket)
        hello = client.until(type="hello")
        assert (hello["width"], hello["height"], hello["frames"], hello["generates"]) == (SIZE, SIZE, 1, False)
        assert hello["kept"] and hello["unit"] == "", "nothing says how long a unit of this world is"
        patches = client.until(type="patches")
        count = sum(group["count"] for group in patches["groups"])
        assert patches["reset"] and count == patches["total"] == server.walk.state.store.num_patches
        xyz = np.frombuffer(client.blobs["xyz"], "<f4").reshape(-1, 3)
        assert np.array_equal(xyz, server.walk.state.store.centers.numpy())
        assert len(client.blobs["rgb"]) == 3 * count and len(client.blobs["radius"]) == 4 * count
        view = client.until(type="view")
        picture = np.asarray(Image.open(io.BytesIO(client.blobs["frame"])).convert("RGB"), int)
        assert np.abs(picture - server.walk.look().frames_u8[0]).mean() < 4
        receipt = client.do({"do": "move", "yaw": 10.0})
        assert receipt["state"] == "applied" and receipt["stages"]
        after = client.until(type="view", seq=receipt["seq"])
        assert after["frames"] == [view["frames"][-1] + 1]
        assert after["poses"][0] != view["poses"][0]
        assert {"encode", "send", "retrieve"} <= after["stages"].keys()
        assert len(after["tokens"]["uid"]) == (SIZE // 8) ** 2
        client.do({"do": "jump", "frame": view["frames"][0]})


def test_an_edit_reaches_the_viewer_as_what_went_and_undo_as_what_came(server: Served) -> None:
    with server.connect() as socket:
        client = Client(socket)
        first = client.until(type="patches")
        have = {g["uid"]: g["count"] for g in first["groups"]}
        for command in ({"do": "edit", "verb": "erase", "choice": THING}, {"do": "undo"}):
            assert client.do(command)["state"] == "applied"
            news = client.until(type="patches")
            assert not news["reset"] and news["removed"]
            for uid in news["removed"]:
                have.pop(uid)
            have |= {g["uid"]: g["count"] for g in news["groups"]}
            assert sum(have.values()) == news["total"]
        assert sum(have.values()) == first["total"]


def test_why_a_place_looks_as_it_does(server: Served) -> None:
    with server.connect() as socket:
        client = Client(socket)
        found = client.ask(ask="why", u=0.5, v=0.5)["answer"]
        assert found["owner"]["origin"] == "observed" and found["depth"] == pytest.approx(1.6, abs=0.4)
        assert sum(found["counts"].values()) == len(server.walk.state.store)
        known = {"kept", "hidden", "duplicate", "coarse", "budget", "outside", "superseded", "invalid"}
        assert all(other["reason"] in known and other["words"] for other in found["others"])
        uids = {found["owner"]["uid"], *(other["uid"] for other in found["others"])}
        assert len(uids) == 1 + len(found["others"]) > 1, "the thing was seen from more than one side"
        selected = client.ask(ask="select", choice=THING)["answer"]
        assert 0 < selected["count"] < server.walk.state.store.num_patches
        assert len(selected["points"]) == 3 * selected["count"]
        one = client.ask(ask="why", uid=0)["answer"]["owner"]
        assert one["uid"] == 0 and one["words"]
        frame = client.ask(ask="frame", frame=3)
        assert frame["type"] == "picture" and client.blobs["frame"][:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    "what",
    [
        {},
        {"ask": "why"},
        {"ask": "why", "u": 1.0, "v": 0},
        {"ask": "why", "uid": -1},
        {"ask": "why", "uid": 10**6},
        {"ask": "frame", "frame": 10**9},
        {"ask": "file", "path": "/etc/passwd"},
        {"ask": "select", "choice": {"kind": "thing"}},
        {"ask": "select", "choice": {"kind": "thing", "point": [99, 99, 99]}},
        {"command": {"do": "fly"}},
        {"command": {"do": "move", "forward": 10**400}},
        {"command": "undo"},
        {"control": "reboot"},
        {"control": ["pause"]},
        {"control": "take over"},
    ],
)
def test_nonsense_is_answered_in_words_and_the_socket_stays(server: Served, what) -> None:
    with server.connect() as socket:
        client = Client(socket)
        client.until(type="status")
        assert len(client.ask(**what)["error"]) > 5
        assert client.do({"do": "move"})["state"] == "applied"


@pytest.mark.parametrize("raw", ["{", "[]", '"x"', '{"id":"a"}', '{"id":-1}', "[" * 9000, "\x00"])
def test_what_is_no_message_is_answered_too(server: Served, raw: str) -> None:
    with server.connect() as socket:
        client = Client(socket)
        client.until(type="status")
        socket.send(raw)
        assert client.until(type="answer")["error"]


def test_bytes_end_the_conversation_and_so_do_messages_that_are_too_large(server: Served) -> None:
    for raw in (b"\x00\x01", "x" * (MAX_MESSAGE + 1)):
        with server.connect() as socket:
            socket.send(raw)
            with pytest.raises(websockets.exceptions.ConnectionClosed):
                while True:
                    socket.recv(timeout=90)
    with server.connect() as socket:
        assert Client(socket).next()["type"] == "hello"


def test_too_many_messages_end_the_conversation(server: Served) -> None:
    with server.connect() as socket:
        with pytest.raises(websockets.exceptions.ConnectionClosed) as caught:
            for i in range(int(3 * BURST)):
                socket.send(json.dumps({"id": i, "control": "resume"}))
            while True:
                socket.recv(timeout=90)
        assert caught.value.rcvd is None or caught.value.rcvd.code == 1008


def test_one_more_viewer_than_allowed_is_sent_away(server: Served) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_WATCHERS):
            Client(stack.enter_context(server.connect())).until(type="view")
        with server.connect() as late, pytest.raises(websockets.exceptions.ConnectionClosed) as caught:
            late.recv(timeout=90)
        assert caught.value.rcvd.code == 1013
    end = time.monotonic() + 90
    while server.broadcast.watchers and time.monotonic() < end:
        time.sleep(0.02)
    assert server.broadcast.watchers == 0


def test_whoever_leaves_before_being_welcomed_is_not_kept(tmp_path) -> None:
    made = walk(tmp_path / "w.mosaic", generates=False)
    session = Session(made)
    broadcast = Broadcast(session)
    with made.world:
        box = broadcast.join(lambda: None)
        assert box is not None
        broadcast.leave(box)
        session.start()
        done = threading.Event()
        assert session.ask(lambda _: done.set())
        assert done.wait(90)
        assert broadcast.watchers == 0
        session.stop()


def test_receipts_go_to_whoever_sent_the_command_and_pictures_to_all(server: Served) -> None:
    with server.connect() as a, server.connect() as b:
        mine, other = Client(a), Client(b)
        mine.until(type="view")
        other.until(type="view")
        seq = mine.do({"do": "move"})["seq"]
        other.until(type="view", seq=seq)
        assert not [m for m in other.heard if m["type"] == "receipt"]


def test_whoever_reads_nothing_gets_the_newest_picture_and_makes_nothing_grow() -> None:
    woken = []
    box = Mailbox(lambda: woken.append(1), 1)
    for i in range(1000):
        box.view(struct.pack("<I", i))
    assert box.size == 1 and box.dropped == 999
    assert box.take() == [struct.pack("<I", 999)]
    for _ in range(1000):
        box.delta(b"x")
    assert box.size == 0 and box.behind, "patches that were missed are asked for anew"
    box.delta(b"all", whole=True)
    assert box.take() == [b"all"] and not box.behind
    for _ in range(MAX_DELTAS):
        box.delta(b"y")
    assert box.size == MAX_DELTAS
    for _ in range(MAX_TEXTS + 1):
        box.text("z")
    assert box.overflown and box.size == MAX_DELTAS + MAX_TEXTS
    assert woken


def test_freed_memory_is_given_back_every_so_many_steps(tmp_path, monkeypatch) -> None:
    given: list[int] = []
    broadcast.give_back()  # whatever the C library is
    monkeypatch.setattr(broadcast, "TRIM_EVERY", 2)
    monkeypatch.setattr(broadcast, "give_back", lambda: given.append(1))
    with served(tmp_path) as server, server.connect() as socket:
        client = Client(socket)
        for _ in range(5):
            client.do({"do": "move", "yaw": 2.0})
        status = client.until(type="status", applied=5)
        assert given == [1, 1] and 0 <= status["unsent"] < MAX_TEXTS // 2


def test_a_viewer_that_goes_leaves_the_walk_and_one_that_comes_back_finds_it(tmp_path) -> None:
    made = walk(tmp_path / "w.mosaic", generates=False)
    with served(tmp_path, made=made) as server:
        with server.connect() as socket:
            client = Client(socket)
            client.until(type="view")
            seq = client.do({"do": "move", "yaw": 9.0})["seq"]
            before = client.until(type="view", seq=seq)
        with server.connect() as socket:
            client = Client(socket)
            hello, after = client.until(type="hello"), client.until(type="view")
            assert after["poses"] == before["poses"] and after["frames"] == before["frames"]
            assert [entry[0] for entry in hello["path"]] == [3, 4]


def test_names_and_addresses_by_which_a_server_may_be_called() -> None:
    local = Door.at("127.0.0.1", 80, TOKEN)
    assert local.knows_host("127.0.0.1") and local.knows_host("LOCALHOST:80") and local.knows_host("[::1]:80")
    assert not any(local.knows_host(host) for host in (None, "", "192.168.0.7:80", "localhost:81", "localhost.evil:80"))
    everywhere = Door.at("0.0.0.0", 8420, TOKEN)
    assert everywhere.knows_host("192.168.0.7:8420") and everywhere.knows_host("[fe80::1]:8420")
    assert not everywhere.knows_host("evil.example:8420"), "a name could be anybody's"
    assert Door.at("box.local", 8420, TOKEN).knows_host("box.local:8420")
    assert is_loopback("127.0.0.5") and is_loopback("::1") and is_loopback("localhost")
    assert not any(is_loopback(host) for host in ("0.0.0.0", "192.168.0.7", "example.org", "::"))


def test_a_port_that_is_taken_is_named() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}"):
            listen("127.0.0.1", port)


def test_who_comes_after_the_first_step_is_told_how_it_began(tmp_path) -> None:
    with served(tmp_path) as server:
        first = server.walk.frame
        moved = threading.Event()
        server.session.watch(lambda message: moved.set() if isinstance(message, Shown) else None)
        server.session.submit(Move(yaw=5.0))
        assert moved.wait(90)
        with server.connect() as socket:
            client = Client(socket)
            path = client.until(type="hello")["path"]
            assert [at[0] for at in path] == [first, first + 1] and min(at[1] for at in path) > 0.5
            assert client.ask(ask="frame", frame=first)["type"] == "picture"
