"""`Session`: one walk, driven through a bounded queue by a thread of its own, watched by any number of viewers."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mosaicmem.errors import MosaicMemError
from mosaicmem.live.commands import Command
from mosaicmem.live.recording import Recorder
from mosaicmem.live.walk import Outcome, Walk

QUEUE = 16
"""Commands and questions that may wait. Whoever drives by hand has one or two under way."""


@dataclass(frozen=True)
class Receipt:
    """What became of a command.

    Attributes:
        seq: Its number, from 1 on, in the order of receiving; 0 if it was not received.
        state: `received`, then `applied` or `refused`; `busy` where the queue was full.
        said: Why it was refused, or what it did.
        sender, tag: Whose it was, and what they called it.
        waited: Seconds in the queue.
        stages: Seconds by stage.
    """

    seq: int
    state: str
    said: str = ""
    sender: int = 0
    tag: Any = None
    waited: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """A command was applied and there is something to see. Told on the session's thread, where `walk` may be read."""

    outcome: Outcome
    receipt: Receipt
    walk: Walk


@dataclass(frozen=True)
class Status:
    """How the session is doing."""

    waiting: int
    paused: bool
    applied: int
    replaying: bool = False


Message = Receipt | Shown | Status
Watcher = Callable[[Message], None]
Question = Callable[[Walk], None]


@dataclass(frozen=True)
class _Job:
    seq: int
    command: Command | None
    question: Question | None
    sender: int
    tag: Any
    at: float


class Session:
    """Runs commands one after another. Methods may be called from any thread.

    Watchers are called on the session's thread and must be quick; one that fails is dropped, and neither the walk nor
    the others notice. Errors of commands become `refused` receipts. A recording that cannot be written ends; a receipt
    of number 0 says so.

    Args:
        walk: What is driven; from `start` to `stop` it belongs to the session's thread.
        recorder: Where applied commands are written down.
    """

    def __init__(self, walk: Walk, *, recorder: Recorder | None = None, size: int = QUEUE) -> None:
        self._walk, self._recorder = walk, recorder
        self._jobs: queue.Queue[_Job | None] = queue.Queue(size + 1)  # one more: the word to stop
        self._size = size
        self._watchers: list[Watcher] = []
        self._lock = threading.Lock()
        self._seq = self._applied = 0
        self._go = threading.Condition(self._lock)
        self._paused, self._allowed, self._stopping = False, 0, False
        self._replaying = False
        self._held: list[_Job] = []  # commands that wait for a paused session; questions overtake them
        self._began = time.perf_counter()
        self._thread = threading.Thread(target=self._run, name="mosaicmem-walk", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, timeout: float = 30.0) -> None:
        """End after the command that is under way; what waits is dropped."""
        with self._go:
            self._stopping = True
            self._go.notify_all()
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):  # it looks at the flag before the next one
                self._jobs.put_nowait(None)
            self._thread.join(timeout)
        self._close_recorder()

    def submit(self, command: Command, sender: int = 0, tag: Any = None) -> Receipt:
        """Put a command into the queue. The receipt says `received` or `busy`; watchers hear of the rest."""
        return self._put(command, None, sender, tag)

    def ask(self, question: Question) -> bool:
        """Have something read from the walk, on its thread, in its turn; also while paused. False: too busy."""
        return self._put(None, question, 0, None).state == "received"

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Call `watcher` with every message from now on; what is returned ends that."""
        with self._lock:
            self._watchers.append(watcher)

        def forget() -> None:
            with self._lock:
                if watcher in self._watchers:
                    self._watchers.remove(watcher)

        return forget

    def pause(self) -> None:
        """Hold commands back."""
        with self._go:
            self._paused, self._allowed = True, 0
        self._tell(self.status)

    def resume(self) -> None:
        """Let them through again."""
        with self._go:
            self._paused = False
            self._go.notify_all()
        self._tell(self.status)

    def step(self) -> None:
        """Let one command through while paused."""
        with self._go:
            self._allowed += int(self._paused)
            self._go.notify_all()

    @property
    def replaying(self) -> bool:
        """Whether a recording drives; set by whoever feeds it."""
        return self._replaying

    @replaying.setter
    def replaying(self, value: bool) -> None:
        self._replaying = value
        self._tell(self.status)

    @property
    def status(self) -> Status:
        """How it is doing now."""
        return Status(self._jobs.qsize() + len(self._held), self._paused, self._applied, self._replaying)

    # ------------------------------------------------------------------ inside

    def _put(self, command: Command | None, question: Question | None, sender: int, tag: Any) -> Receipt:
        with self._lock:
            if self._stopping or self._jobs.qsize() >= self._size:
                why = "the session has ended" if self._stopping else f"{self._size} commands are waiting already"
                return Receipt(0, "busy", why, sender, tag)
            self._seq += command is not None
            seq = self._seq if command is not None else 0
            self._jobs.put_nowait(_Job(seq, command, question, sender, tag, time.perf_counter()))
        return Receipt(seq, "received", sender=sender, tag=tag)

    def _run(self) -> None:
        held = self._held
        while not self._stopping:
            if held and self._may_go():
                self._do(held.pop(0))
                continue
            try:
                job = self._jobs.get(timeout=0.05 if held else None)
            except queue.Empty:
                continue
            if job is None:
                break
            if job.question is not None:
                self._answer(job.question)
            elif held or not self._may_go():
                self._hold(job)
            else:
                self._do(job)
        self._settle()

    def _hold(self, job: _Job) -> None:
        """No more than the queue's size may be held back either."""
        if len(self._held) >= self._size:
            self._tell(Receipt(job.seq, "refused", "paused, and too much is waiting", job.sender, job.tag))
        else:
            self._held.append(job)
            self._tell(self.status)

    def _may_go(self) -> bool:
        with self._lock:
            if not self._paused:
                return True
            if self._allowed:
                self._allowed -= 1
                return True
            return False

    def _do(self, job: _Job) -> None:
        assert job.command is not None
        begin = time.perf_counter()
        waited = begin - job.at
        try:
            outcome = self._walk.do(job.command)
        except MosaicMemError as error:
            self._tell(Receipt(job.seq, "refused", str(error), job.sender, job.tag, waited))
        except Exception as error:  # a bug, or no memory: the walk is as it was, and so is its file
            said = f"{type(error).__name__}: {error}"
            self._tell(Receipt(job.seq, "refused", said[:400], job.sender, job.tag, waited))
        else:
            self._applied += 1
            self._write_down(begin - self._began, job.command, outcome)
            receipt = Receipt(job.seq, "applied", outcome.said, job.sender, job.tag, waited, outcome.stages)
            self._tell(receipt)
            self._tell(Shown(outcome, receipt, self._walk))
        if self._jobs.empty():
            self._settle()
        self._tell(self.status)

    def _write_down(self, at: float, command: Command, outcome: Outcome) -> None:
        """A command that was applied is done, whatever becomes of its line; but what follows a gap could not be
        replayed, so the recording ends before it."""
        if self._recorder is None:
            return
        try:
            self._recorder.add(at, command, outcome.digest(self._walk.state.store))
        except Exception as error:
            self._close_recorder()
            self._tell(Receipt(0, "refused", f"{error}; the recording ends here, the walk goes on"))

    def _close_recorder(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            with contextlib.suppress(OSError):  # half a line that still waits; whoever reads it leaves it out
                recorder.close()

    def _settle(self) -> None:
        """Nothing is waiting: the file learns where the walk stands."""
        try:
            self._walk.stand()
        except MosaicMemError as error:
            self._tell(Receipt(0, "refused", str(error)))

    def _answer(self, question: Question) -> None:
        try:
            question(self._walk)
        except Exception as error:  # whoever asked has to notice; the walk goes on
            self._tell(Receipt(0, "refused", f"{type(error).__name__}: {error}"[:400]))

    def _tell(self, message: Message) -> None:
        with self._lock:
            watchers = list(self._watchers)
        for watcher in watchers:
            try:
                watcher(message)
            except Exception:  # a viewer that fails must not touch the world
                with self._lock:
                    if watcher in self._watchers:
                        self._watchers.remove(watcher)
