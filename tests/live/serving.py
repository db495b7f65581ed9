"""A server of a live walk on a free port of this machine, and a plain client of its socket."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.live.scenes import walk

from mosaicmem.live.broadcast import Broadcast
from mosaicmem.live.door import Door, listen
from mosaicmem.live.protocol import parts
from mosaicmem.live.server import Server, app
from mosaicmem.live.session import Session
from mosaicmem.live.walk import Walk

TOKEN = "0123456789abcdef0123"
PATIENCE = 90.0


@dataclass
class Served:
    """A running server."""

    port: int
    session: Session
    broadcast: Broadcast
    walk: Walk

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def get(self, path: str, token: str | None = TOKEN, host: str | None = None, method: str = "GET") -> Any:
        """Status, headers and content of a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host or self.host)
        if token is not None:
            connection.putheader("Cookie", f"mosaicmem_{self.port}={token}")
        connection.endheaders()
        answer = connection.getresponse()
        found = answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def connect(self, token: str | None = TOKEN, origin: str | None = None, host: str | None = None) -> Any:
        """A socket, as the page opens it; other arguments are those of somebody who should not come in."""
        from websockets.sync.client import connect

        headers = {} if token is None else {"Cookie": f"mosaicmem_{self.port}={token}"}
        return connect(
            f"ws://{host or self.host}/walk",
            origin=f"http://{self.host}" if origin is None else origin or None,  # pyright: ignore[reportArgumentType]
            additional_headers=headers,
            sock=None if host is None else __import__("socket").create_connection(("127.0.0.1", self.port)),
            proxy=None,
            max_size=None,
        )


class Client:
    """What the page does with its socket."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.number = socket, 0
        self.heard: list[dict[str, Any]] = []
        self.blobs: dict[str, bytes] = {}

    def send(self, **what: Any) -> int:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, **what}))
        return self.number

    def next(self) -> dict[str, Any]:
        """The next message; blobs of a binary one in `blobs`."""
        raw = self.socket.recv(timeout=PATIENCE)
        if isinstance(raw, bytes):
            message, self.blobs = parts(raw)
        else:
            message = json.loads(raw)
        self.heard.append(message)
        return message

    def until(self, **wanted: Any) -> dict[str, Any]:
        """The next message with these fields."""
        while True:
            message = self.next()
            if all(message.get(key) == value for key, value in wanted.items()):
                return message

    def do(self, command: dict[str, Any]) -> dict[str, Any]:
        """The last receipt of a command."""
        number = self.send(command=command)
        while True:
            message = self.next()
            if message.get("id") == number and (message["type"] == "answer" or message["state"] != "received"):
                return message

    def ask(self, **what: Any) -> dict[str, Any]:
        number = self.send(**what)
        return self.until(id=number)


@contextmanager
def served(folder: Path, *, port: int = 0, made: Walk | None = None, **options: Any) -> Iterator[Served]:
    """A server of a walk, by default of memory alone in a new file."""
    made = made or walk(folder / "served.mosaic", generates=False, **options)
    session = Session(made)
    session.start()
    bound = listen("127.0.0.1", port)
    number = bound.getsockname()[1]
    broadcast = Broadcast(session)
    server = Server(app(session, Door.at("127.0.0.1", number, TOKEN), broadcast=broadcast), bound)
    ready = threading.Event()
    thread = threading.Thread(target=server.run, args=(ready.set,), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield Served(number, session, broadcast, made)
    finally:
        server.stop()
        thread.join(PATIENCE)
        session.stop()
        made.world.close()
        bound.close()
