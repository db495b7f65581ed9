"""The server of the page: loopback, one token a run, a fixed list of files, and one socket with bounds."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from mosaicmem.errors import ConfigError, MissingExtraError, MosaicMemError
from mosaicmem.live import protocol
from mosaicmem.live.broadcast import Broadcast, Mailbox
from mosaicmem.live.commands import parse, parse_choice
from mosaicmem.live.door import Door
from mosaicmem.live.player import Player
from mosaicmem.live.reasons import chosen, why, why_group
from mosaicmem.live.session import Session
from mosaicmem.live.walk import Walk

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

RATE = 60.0
"""Messages a second that a viewer may send."""
BURST = 120.0
MAX_WATCHERS = 16
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml", "txt": "text/plain"}
HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


def app(session: Session, door: Door, player: Player | None = None, broadcast: Broadcast | None = None) -> Starlette:
    """The application; `session` must have been started.

    Raises:
        MissingExtraError: without Starlette.
    """
    try:
        from starlette.applications import Starlette
        from starlette.responses import RedirectResponse, Response
        from starlette.routing import Route, WebSocketRoute
    except ImportError as error:
        raise MissingExtraError("starlette", "explore", "the page") from error
    pages = _pages()
    shared = broadcast or Broadcast(session)

    def refused(code: int, said: str) -> Response:
        return Response(said + "\n", code, HEADERS, "text/plain")

    async def page(request: Request) -> Response:
        if not door.knows_host(request.headers.get("host")):
            return refused(421, "this server does not go by that name")
        given = request.query_params.get("token")
        if request.url.path == "/" and door.opens(given):
            answer = RedirectResponse("/", 303, HEADERS)
            answer.set_cookie(door.cookie, door.token, httponly=True, samesite="strict", path="/")
            return answer
        if not door.opens(request.cookies.get(door.cookie)):
            return refused(403, "Open the address that 'mosaicmem explore' printed: it holds the key of this run.")
        found = pages.get(request.url.path)
        if found is None:
            return refused(404, "nothing here")
        kind, content = found
        return Response(content, 200, HEADERS, kind)

    async def walk(websocket: WebSocket) -> None:
        host = websocket.headers.get("host")
        fine = door.knows_host(host) and door.knows_origin(websocket.headers.get("origin"), host)
        if not fine or not door.opens(websocket.cookies.get(door.cookie)):
            await websocket.close(1008)  # before it was accepted: 403
            return
        await websocket.accept()
        if shared.watchers >= MAX_WATCHERS:
            await websocket.close(1013, "too many viewers")
            return
        await _Viewer(websocket, session, shared, player).run()

    routes = [Route(path, page, methods=["GET"]) for path in ("/", "/{path:path}")]
    return Starlette(routes=[WebSocketRoute("/walk", walk), *routes])


class _Viewer:
    """One socket: what it sends goes into the session, what its mailbox holds goes out."""

    def __init__(self, websocket: WebSocket, session: Session, broadcast: Broadcast, player: Player | None) -> None:
        self.websocket, self.session, self.broadcast, self.player = websocket, session, broadcast, player
        self.loop = asyncio.get_running_loop()
        self.woken = asyncio.Event()
        self.box: Mailbox | None = None
        self.tokens, self.filled = BURST, time.monotonic()

    async def run(self) -> None:
        while self.box is None:
            self.box = self.broadcast.join(self._wake)
            if self.box is None:
                await asyncio.sleep(0.1)
        tasks = [asyncio.create_task(self._send(self.box)), asyncio.create_task(self._receive(self.box))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.broadcast.leave(self.box)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _wake(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.woken.set)

    async def _send(self, box: Mailbox) -> None:
        took = 0.0
        while True:
            await self.woken.wait()
            self.woken.clear()
            if box.overflown:
                await self.websocket.close(1008, "too slow")
                return
            if box.behind and not self.broadcast.refresh(box):
                self.loop.call_later(0.2, self.woken.set)
            for message in box.take():
                begin = time.perf_counter()
                if isinstance(message, bytes):
                    await self.websocket.send_bytes(message)
                    took = time.perf_counter() - begin
                else:
                    await self.websocket.send_text(message)
            box.sent = took

    async def _receive(self, box: Mailbox) -> None:
        from starlette.websockets import WebSocketDisconnect

        while True:
            try:
                message = await self.websocket.receive_text()
            except (WebSocketDisconnect, KeyError, RuntimeError):  # gone, or it sent bytes
                return
            now = time.monotonic()
            self.tokens = min(BURST, self.tokens + RATE * (now - self.filled)) - 1
            self.filled = now
            if self.tokens < 0:
                await self.websocket.close(1008, "too many messages")
                return
            self._heed(message, box)

    def _heed(self, message: str, box: Mailbox) -> None:
        number = 0
        try:
            if len(message) > protocol.MAX_MESSAGE:
                raise ConfigError(f"{len(message):,} characters; expected at most {protocol.MAX_MESSAGE:,}")
            raw = protocol.request(message)
            number = raw.get("id", 0)
            if "command" in raw:
                self._command(raw["command"], number, box)
            elif "ask" in raw:
                self._ask(raw, number, box)
            elif "control" in raw:
                self._control(raw["control"])
            else:
                raise ConfigError("expected a command, an ask or a control")
        except MosaicMemError as error:
            box.text(protocol.text("answer", id=number, error=str(error)))

    def _command(self, raw: Any, number: int, box: Mailbox) -> None:
        command = parse(raw)
        if self.session.replaying:
            raise ConfigError("a recording is playing; take over first")
        receipt = self.session.submit(command, box.number, number)
        box.text(protocol.receipt(receipt))

    def _control(self, word: Any) -> None:
        controls: Mapping[str, Callable[[], None]] = {
            "pause": self.session.pause,
            "resume": self.session.resume,
            "step": self.session.step,
        }
        if word == "take over" and self.player is not None:
            self.player.stop()
        elif isinstance(word, str) and word in controls:
            controls[word]()
        else:
            raise ConfigError(f"control {word!r:.40}: expected one of {', '.join(controls)}")

    def _ask(self, raw: dict[str, Any], number: int, box: Mailbox) -> None:
        work = _question(raw, self.broadcast)

        def answer(walk: Walk) -> None:
            try:
                found = work(walk)
            except MosaicMemError as error:
                box.text(protocol.text("answer", id=number, error=str(error)))
                return
            if isinstance(found, bytes):
                box.delta(protocol.binary("picture", {"id": number, "frame": raw.get("frame")}, [("frame", found)]))
            else:
                box.text(protocol.text("answer", id=number, answer=found))

        if not self.session.ask(answer):
            raise ConfigError("too much is waiting; ask again")


def _question(raw: dict[str, Any], broadcast: Broadcast) -> Callable[[Walk], dict[str, Any] | bytes]:
    """What an ask of the page wants to know."""
    what = raw["ask"]
    if what == "why" and "uid" in raw:
        uid = _whole(raw, "uid")
        return lambda walk: why_group(walk, uid)
    if what == "why":
        u, v = (_share(raw, name) for name in ("u", "v"))
        return lambda walk: why(walk, u, v)
    if what == "select":
        choice = parse_choice(raw.get("choice"))
        return lambda walk: chosen(walk, choice)
    if what == "frame":
        frame = _whole(raw, "frame")

        def picture(walk: Walk) -> bytes:
            found = broadcast.past(frame)
            if found is None:
                raise ConfigError(f"the picture of frame {frame} is not kept any more")
            return found

        return picture
    raise ConfigError(f"ask {what!r:.40}: expected why, select or frame")


def _whole(raw: dict[str, Any], name: str) -> int:
    value = raw.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ConfigError(f"{name} = {value!r:.40}: expected a whole number")
    return value


def _share(raw: dict[str, Any], name: str) -> float:
    value = raw.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise ConfigError(f"{name} = {value!r:.40}: expected 0 up to, not including, 1")
    return float(value)


def _pages() -> dict[str, tuple[str, bytes]]:
    """The files of the page, read once: path, kind, content. Nothing else can be asked for."""
    out: dict[str, tuple[str, bytes]] = {}
    root = files("mosaicmem.live") / "static"
    for folder, prefix in ((root, "/"), (root / "vendor", "/vendor/")):
        for entry in folder.iterdir():
            suffix = entry.name.rpartition(".")[2]
            if entry.is_file() and suffix in KINDS:
                out[prefix + entry.name] = (KINDS[suffix], entry.read_bytes())
    out["/"] = out["/index.html"]
    return out


class Server:
    """Serves an application at a bound socket.

    Raises:
        MissingExtraError: without uvicorn and websockets.
    """

    def __init__(self, application: Starlette, bound: socket.socket) -> None:
        try:
            import uvicorn
            import websockets  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("uvicorn", "explore", "the page") from error
        config = uvicorn.Config(
            application,
            log_level="warning",
            access_log=False,
            http="h11",
            ws="websockets-sansio",
            ws_max_size=protocol.MAX_MESSAGE,
            ws_ping_interval=20.0,
            ws_ping_timeout=20.0,
            limit_concurrency=64,
            timeout_graceful_shutdown=2,
            server_header=False,
            lifespan="off",
        )
        self._server, self._bound = uvicorn.Server(config), bound

    def run(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until interrupted or stopped; `ready` is called when it can be reached."""
        asyncio.run(self._run(ready))

    def stop(self) -> None:
        """End, from any thread."""
        self._server.should_exit = True

    async def _run(self, ready: Callable[[], None] | None) -> None:
        task = asyncio.create_task(self._server.serve([self._bound]))
        while not self._server.started and not task.done():
            await asyncio.sleep(0.01)
        if ready is not None and not task.done():
            ready()
        await task
