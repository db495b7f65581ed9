"""Plays a recording into a session, at the pace at which it was walked."""

from __future__ import annotations

import threading

from mosaicmem.live.recording import Recording
from mosaicmem.live.session import Message, Receipt, Session, Shown

PLAYER = -1
"""Sender of what a recording says."""
LONGEST_GAP = 1.0
"""Seconds; nobody wants to watch someone think."""
PATIENCE = 600.0


class Player:
    """Feeds a recording to a session from a thread of its own, one command after the other.

    Attributes:
        same: Commands so far that showed bit for bit what they showed when they were recorded.
        different: Commands that did not.
    """

    def __init__(self, session: Session, recording: Recording, *, longest_gap: float = LONGEST_GAP) -> None:
        self.same = self.different = 0
        self._session, self._recording, self._gap = session, recording, longest_gap
        self._ended, self._answered = threading.Event(), threading.Event()
        self._digest = ""
        self._thread = threading.Thread(target=self._run, name="mosaicmem-player", daemon=True)

    def start(self) -> None:
        """Begin; the session's status says `replaying` until the end."""
        self._session.replaying = True
        self._thread.start()

    def stop(self) -> None:
        """End here; whoever watches may go on from where it is."""
        self._ended.set()
        self._answered.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        self._thread.join(timeout)

    def _run(self) -> None:
        forget = self._session.watch(self._told)
        before = 0.0
        for recorded in self._recording.commands:
            if self._ended.wait(min(max(recorded.at - before, 0.0), self._gap)):
                break
            before, self._digest = recorded.at, recorded.digest
            self._answered.clear()
            while self._session.submit(recorded.command, PLAYER).state == "busy" and not self._ended.wait(0.05):
                pass
            self._answered.wait(PATIENCE)
        forget()
        self._session.replaying = False

    def _told(self, message: Message) -> None:
        if isinstance(message, Shown) and message.receipt.sender == PLAYER:
            equal = message.outcome.digest(message.walk.state.store) == self._digest
            self.same += equal
            self.different += not equal
            self._answered.set()
        elif isinstance(message, Receipt) and message.sender == PLAYER and message.state == "refused":
            self.different += 1
            self._answered.set()
