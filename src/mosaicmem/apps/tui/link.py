"""What ties the interface to a session: beginning in the background, commands out, news in, questions answered."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from textual.app import App
from textual.message import Message

from mosaicmem.apps.tui.feed import ME, Feed, News
from mosaicmem.apps.tui.panes import Seen
from mosaicmem.apps.tui.words import described
from mosaicmem.errors import ConfigError
from mosaicmem.live.commands import Command
from mosaicmem.live.player import Player
from mosaicmem.live.session import Session
from mosaicmem.live.walk import Walk

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Begun:
    """A session that may start, what plays into it, and what stands in the title.

    Attributes:
        recorded: Whether it is written down, so that what a recording does not know of must stay as it is.
        device: Where networks compute.
    """

    session: Session
    player: Player | None
    source: str
    model: str
    recorded: bool = False
    device: str = "cpu"


class Fresh(Message):
    """There is news."""


class Link(App[None]):
    """An application over a session that begins in the background.

    Attributes:
        begun: The session, when it is there; `failure` is why it cannot be.
        seen: What is known of the walk.
        flying: When every command that is under way was sent, by its number.
    """

    def __init__(self, begin: Callable[[Callable[[str], None]], Begun]) -> None:
        super().__init__()
        self.begun: Begun | None = None
        self.failure: BaseException | None = None
        self.beginning = threading.Thread(target=self._begin, args=(begin,), name="mosaicmem-begin", daemon=True)
        self.seen = Seen()
        self.flying: dict[int, float] = {}
        self._feed: Feed | None = None

    def said(self, text: str) -> None:
        """A line for the log."""
        raise NotImplementedError

    def shown(self, news: News) -> None:
        """There is something new to show; `seen` knows it already."""
        raise NotImplementedError

    @property
    def replaying(self) -> bool:
        """Whether a recording drives."""
        return self.seen.status is not None and self.seen.status.replaying

    def send(self, command: Command) -> None:
        """Give the session a command, unless a recording is playing."""
        if self.begun is None:
            return
        if self.replaying:
            self.notify("a recording is playing; Shift+T stops it", severity="warning")
            return
        receipt = self.begun.session.submit(command, ME)
        if receipt.state == "received":
            self.flying[receipt.seq] = time.perf_counter()
            self.seen.sent[receipt.seq] = described(command)
        else:
            self.notify(receipt.said, severity="warning", markup=False)

    async def ask(self, question: Callable[[Walk], Answer]) -> Answer:
        """Have something read from the walk, on its thread.

        Raises:
            MosaicMemError: whatever the question raises, or that the session is too busy.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()

        def settle(answer: Answer | None, error: Exception | None) -> None:
            if future.done():  # nobody waits any more
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(cast(Answer, answer))

        def on_its_thread(walk: Walk) -> None:
            answer, failure = None, None
            try:
                answer = question(walk)
            except Exception as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the interface has gone
                loop.call_soon_threadsafe(settle, answer, failure)

        if self.begun is None or not self.begun.session.ask(on_its_thread):
            raise ConfigError("too much is waiting; try again in a moment")
        return await future

    def _begin(self, begin: Callable[[Callable[[str], None]], Begun]) -> None:
        def tell(text: str) -> None:
            with contextlib.suppress(RuntimeError):  # the interface has gone
                self.call_from_thread(self.said, text)

        try:
            self.begun = begin(tell)
        except BaseException as error:
            self.failure = error
        self.post_message(Fresh())

    def on_fresh(self) -> None:
        """Take what is new and hand it on."""
        if self.failure is not None:
            self.exit()
            return
        if self._feed is None:
            self._start()
        if self._feed is None:
            return
        news = self._feed.take()
        self.seen.add(news)
        for receipt in news.receipts:
            if receipt.sender == ME and receipt.state != "applied":
                self.flying.pop(receipt.seq, None)
                self.notify(receipt.said, severity="warning", markup=False)
        for step in news.steps:
            if (sent := self.flying.pop(step.seq, None)) is not None:
                self.seen.latencies.append(time.perf_counter() - sent)
        self.shown(news)

    def _start(self) -> None:
        begun = self.begun
        if begun is None:
            return
        begun.session.start()
        self._feed = Feed(begun.session, self._wake)
        if begun.player is not None:
            begun.player.start()
        self.said(begun.source)

    def _wake(self) -> None:
        self.post_message(Fresh())
