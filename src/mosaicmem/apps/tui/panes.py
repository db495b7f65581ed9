"""The four tabs. Each is told what is new and draws itself; none knows the session."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, ScrollableContainer, Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import DataTable, ProgressBar, RichLog, Static

from mosaicmem.apps.tui import origin
from mosaicmem.apps.tui.drawing import apportioned, bar, sparkline
from mosaicmem.apps.tui.feed import KEPT_FRAMES, KEPT_STEPS, Facts, News, Step
from mosaicmem.apps.tui.questions import Remembered
from mosaicmem.apps.tui.widgets import CloudView, Meter, PictureView
from mosaicmem.live.commands import Choice
from mosaicmem.live.session import Receipt, Status

COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
PATTERNS = "█▓▒░▚▞╳"
"""Stages differ by pattern too: no colour carries a meaning alone. The colours are those of Okabe and Ito."""


@dataclass
class Seen:
    """What is known of the walk so far, of which every tab shows a part.

    Attributes:
        sent: What the commands say that were sent from here, by number, until their receipts have come.
        coloured: Whether the frame is coloured by origin.
    """

    facts: Facts | None = None
    status: Status | None = None
    steps: deque[Step] = field(default_factory=lambda: deque(maxlen=KEPT_STEPS))
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT_STEPS))
    shares: dict[int, float] = field(default_factory=dict)
    replay: str = ""
    sent: dict[int, str] = field(default_factory=dict)
    coloured: bool = False

    def add(self, news: News) -> None:
        """Take in what is new."""
        self.facts = news.facts or self.facts
        self.status = news.status or self.status
        self.steps.extend(step for step in news.steps if step.seq)
        self.shares.update(news.frames)
        while len(self.shares) > KEPT_FRAMES:
            self.shares.pop(next(iter(self.shares)))

    @property
    def moves(self) -> list[Step]:
        """The last steps that were walked; edits and looks are none."""
        return [step for step in self.steps if "insert" in step.stages][-20:]

    @property
    def pace(self) -> float:
        """Frames a second while the walk was busy, over the last steps."""
        last = self.moves
        seconds = sum(sum(step.stages.values()) for step in last)
        return sum(step.frames for step in last) / seconds if seconds > 0 else 0.0


class Pipeline(Horizontal):
    """The frame, what memory shows of it, the cloud, how the walk stands, and the log."""

    def compose(self) -> ComposeResult:
        """Pictures on the left, the rest on the right."""
        with Vertical(id="pictures-now"):
            yield PictureView(id="frame")
            yield PictureView(id="mosaic")
        with Vertical(id="around"):
            yield CloudView(id="cloud")
            yield Meter(id="stats")
            yield Static(id="growth")
            yield RichLog(id="log", max_lines=500, wrap=True, min_width=36)

    def on_mount(self) -> None:
        """What the pictures are, and what to see before there are any."""
        self.query_one("#frame", PictureView).notice = "the world is being opened ..."
        self.query_one("#mosaic", PictureView).border_title = "what memory shows of it"

    def told(self, news: News, seen: Seen) -> None:
        """Show what is new."""
        log = self.query_one(RichLog)
        for receipt in news.receipts:
            log.write(_receipt(receipt, seen.sent.pop(receipt.seq, "")))
        for warning in news.warnings:
            log.write(Text(f"! {warning}", "yellow"))
        if news.sight is not None:
            self.query_one(CloudView).show(news.sight)
        if news.mosaic is not None:
            self.query_one("#mosaic", PictureView).show(news.mosaic)
        self.drawn(seen)

    def drawn(self, seen: Seen) -> None:
        """The words and the sparkline, for the width there is."""
        if seen.facts is None:
            return
        self.set_class(not seen.facts.about["generates"], "-alone")  # the frame is what memory shows already
        self.set_class(seen.coloured, "-coloured")
        width = max(self.query_one("#stats", Meter).wide, 20)
        self.query_one("#stats", Static).update(_stats(seen.facts, seen, width))
        counts = [step.patches for step in seen.steps] or [seen.facts.patches]
        label = f"memory {seen.facts.bytes / 1e6:.1f} MB "
        line = sparkline(counts, max(width - len(label), 1))
        self.query_one("#growth", Static).update(Text.assemble(label, (line, "green")))


class Coverage(Horizontal):
    """How much of every frame memory served; the frame that the cursor is on, as memory shows it now, and why."""

    def compose(self) -> ComposeResult:
        """The list on the left, the view on the right."""
        with Vertical(id="frames"):
            yield Static(id="summary")
            yield DataTable(id="shares", cursor_type="row", zebra_stripes=True)
        with Vertical(id="look"):
            yield PictureView(id="back")
            yield Static(id="why")

    def on_mount(self) -> None:
        """Columns."""
        table = self.query_one(DataTable)
        for name, width in (("frame", 7), ("served by memory", 18), ("then", 6), ("now", 6)):
            table.add_column(name, key=name.split()[0], width=width)

    def told(self, news: News, seen: Seen) -> None:
        """New frames, and what the list amounts to."""
        table = self.query_one(DataTable)
        at_end = table.cursor_row >= table.row_count - 1
        for number, share in news.frames:
            key = str(number)
            cells = Text(bar(share, 18), "green"), f"{share:.0%}"
            if key in table.rows:
                table.update_cell(key, "served", cells[0])
                table.update_cell(key, "then", cells[1])
            else:
                table.add_row(key, *cells, "", key=key)
        while table.row_count > KEPT_FRAMES:
            table.remove_row(next(iter(table.rows)))
        if news.frames and at_end:
            table.move_cursor(row=table.row_count - 1, animate=False)
        if seen.facts is not None and seen.shares:
            values = list(seen.shares.values())
            facts = seen.facts
            self.query_one("#summary", Static).update(
                f"mean {np.mean(values):.1%}  most {max(values):.1%}  least {min(values):.1%}\n"
                f"{_many(facts.patches, 'patch')}, {_many(facts.keyframes, 'keyframe')}, {_short(facts.tokens)} cells"
            )

    def measured(self, number: int, share: float) -> None:
        """What memory shows now of a frame."""
        table = self.query_one(DataTable)
        if str(number) in table.rows:
            table.update_cell(str(number), "now", f"{share:.0%}")

    def looked(self, title: str, found: Remembered) -> None:
        """The view of the chosen frame."""
        self.query_one("#back", PictureView).show(found.picture)
        text = Text.assemble((f"{title}: memory shows {found.share:.1%}", "bold"), "\n", "\n".join(found.lines))
        self.query_one("#why", Static).update(text)


class Benchmark(ScrollableContainer):
    """Where the time of a step goes, how fast it is, and what memory is worth."""

    def compose(self) -> ComposeResult:
        """Meters, then the benchmark."""
        yield Meter(id="stages")
        yield Meter(id="pace")
        yield Static(id="bench-title", markup=False)
        yield ProgressBar(id="bench-progress", show_eta=True)
        yield Static(id="bench-result", markup=False)

    def on_mount(self) -> None:
        """What the lower half is for."""
        self.query_one(ProgressBar).display = False
        self.bench("memory benchmark: not run yet; R runs it on 2 held-out worlds", "")

    def told(self, news: News, seen: Seen) -> None:
        """Meters anew, where there are steps."""
        if news.steps:
            self.drawn(seen)

    def drawn(self, seen: Seen) -> None:
        """Meters, for the width there is."""
        width = max(self.query_one("#stages", Meter).wide - 2, 30)
        self.query_one("#stages", Static).update(_stages(seen.moves, width))
        lines = Text()
        lines.append("throughput ", "bold").append(f"{seen.pace:.2f} frames/s while a step runs\n")
        if seen.latencies:
            values = np.array(seen.latencies)
            lines.append("key to picture ", "bold")
            lines.append(f"median {np.median(values):.2f} s, 95 % {np.quantile(values, 0.95):.2f} s\n")
            lines.append(sparkline(values.tolist(), width), "cyan")
        self.query_one("#pace", Static).update(lines)

    def bench(self, title: str, result: str, done: tuple[int, int] | None = None) -> None:
        """How the memory benchmark is doing."""
        self.query_one("#bench-title", Static).update(title)
        self.query_one("#bench-result", Static).update(result)
        progress = self.query_one(ProgressBar)
        progress.display = done is not None
        if done is not None:
            progress.update(progress=done[0], total=done[1])


class MemoryOps(Horizontal):
    """What is remembered, keyframe by keyframe; what can be done to it, and taken back."""

    class Chosen(Message):
        """Frames were chosen to be edited; None: none, but a world may be spliced in."""

        def __init__(self, choice: Choice | None, words: str) -> None:
            super().__init__()
            self.choice, self.words = choice, words

    class Looked(Message):
        """Frames are looked at: what they showed is to be shown."""

        def __init__(self, choice: Choice) -> None:
            super().__init__()
            self.choice = choice

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", "choose from here"),
        Binding("enter,e", "edit", "edit", priority=True),
    ]

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._mark: int | None = None  # frame where the choice begins
        self._shown: tuple[object, ...] = ()

    def compose(self) -> ComposeResult:
        """The list on the left, the rest on the right."""
        yield DataTable(id="groups", cursor_type="row", zebra_stripes=True)
        with VerticalScroll(id="scenes"):
            yield Static(id="chosen", markup=False)
            yield Static(id="worlds", markup=False)
        yield PictureView(id="kept")

    def on_mount(self) -> None:
        """Columns."""
        table = self.query_one(DataTable)
        for name, width in (("frame", 8), ("origin", 10), ("patches", 8), ("group", 7), ("", 7)):
            table.add_column(name, key=name or "pinned", width=width)

    def told(self, news: News, seen: Seen) -> None:
        """The list anew, where it has changed; the cursor stays where it is."""
        if seen.facts is None:
            return
        if news.facts is not None and news.facts.groups != self._shown:
            self._shown = news.facts.groups
            table = self.query_one(DataTable)
            row = table.cursor_row
            table.clear()
            for group in news.facts.groups:
                cells = str(group.frame), group.origin, f"{group.patches:,}", str(group.uid)
                table.add_row(*cells, "frozen" if group.pinned else "", key=str(group.uid))
            table.move_cursor(row=min(row, max(table.row_count - 1, 0)), animate=False)
        self.query_one("#worlds", Static).update(_worlds(seen.facts))
        self._describe()

    def frames(self) -> tuple[int, int] | None:
        """First and last frame that are chosen."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return None
        here = int(str(table.get_row_at(table.cursor_row)[0]))
        ends = here, here if self._mark is None else self._mark
        return min(ends), max(ends)

    def action_mark(self) -> None:
        """The choice begins here, or begins anew."""
        chosen = self.frames()
        table = self.query_one(DataTable)
        here = None if chosen is None else int(str(table.get_row_at(table.cursor_row)[0]))
        self._mark = here if self._mark is None else None
        self._describe()
        self.look()

    def look(self) -> None:
        """Ask for the picture of what is chosen."""
        if (chosen := self.frames()) is not None and self.query_one("#kept").display:
            self.post_message(self.Looked(Choice("frames", first=chosen[0], last=chosen[1])))

    def action_edit(self) -> None:
        """Ask for an edit of what is chosen."""
        chosen = self.frames()
        if chosen is None:
            self.post_message(self.Chosen(None, "an empty memory"))
            return
        first, last = chosen
        self._mark = None
        self.post_message(self.Chosen(Choice("frames", first=first, last=last), f"what {_frames(first, last)} showed"))

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """The cursor has moved."""
        event.stop()
        self._describe()
        self.look()

    def _describe(self) -> None:
        chosen = self.frames()
        if chosen is None:
            self.query_one("#chosen", Static).update("nothing is remembered yet")
            return
        how = "Space: choose from here on" if self._mark is None else "go on with ↑↓; Space: begin anew"
        self.query_one("#chosen", Static).update(f"chosen: {_frames(*chosen)}\n{how}\nEnter: edit, with a preview\n")


def _frames(first: int, last: int) -> str:
    return f"frame {first}" if first == last else f"frames {first} to {last}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 'es' if what.endswith('ch') else 's'}"


def _short(count: int) -> str:
    return f"{count:,}" if count < 100_000 else f"{count / 1e6:.2f} M"


def _receipt(receipt: Receipt, sent: str) -> Text:
    seconds = sum(receipt.stages.values())
    said = sent or receipt.said or "step"
    if receipt.state == "applied":
        return Text.assemble((f"{receipt.seq:>4} ", "dim"), said, (f"  {seconds:.2f} s" if seconds else "", "dim"))
    return Text(f"{receipt.seq:>4} {receipt.state}: {receipt.said}", "yellow")


def _stats(facts: Facts, seen: Seen, width: int) -> Text:
    x, y, z = facts.pose[:3, 3]
    forward = facts.pose[:3, 2]
    heading = math.degrees(math.atan2(forward[0], forward[2])) % 360
    text = Text(no_wrap=True, overflow="ellipsis")
    text.append(f"frame {facts.frame}", "bold").append(f"  at {x:.2f} {y:.2f} {z:.2f}  {heading:.0f}°\n")
    label = f"memory shows {facts.known:>4.0%} "
    text.append(label).append(bar(facts.known, max(width - len(label), 4)), "green").append("\n")
    if seen.coloured:
        text.append(origin.legend(facts.origin)).append("\n")
    text.append(f"{_many(facts.patches, 'patch')}  {_many(facts.keyframes, 'keyframe')}")
    text.append("" if facts.memory else "  memory off", "bold yellow").append("\n")
    latency = f"  key to picture {seen.latencies[-1]:.2f} s" if seen.latencies else ""
    text.append(f"{seen.pace:.1f} frames/s{latency}\n" if seen.moves else "W A S D walk, ← → turn\n")
    status = seen.status
    words = [] if status is None else [f"{status.waiting} waiting", *(["PAUSED"] if status.paused else [])]
    text.append("  ".join([*words, seen.replay]).strip() or "ready", "dim").append("\n")
    if facts.words:  # the newest first: it is what changes things
        text.append("; ".join(reversed(facts.words)) + "  ", "bold")
    return text.append(facts.prompt or "no words: memory alone", "italic")


def _stages(steps: list[Step], width: int) -> Text:
    """Milliseconds of the last steps by stage, and all of them in one bar."""
    text = Text(no_wrap=True)
    if not steps:
        return text.append("where the time of a step goes: walk a step first\n")
    names = list(dict.fromkeys(name for step in steps for name in step.stages))
    means = {name: sum(step.stages.get(name, 0.0) for step in steps) / len(steps) for name in names}
    total = max(sum(means.values()), 1e-9)
    text.append(f"the last {len(steps)} steps, {1000 * total:.0f} ms each\n", "bold")
    for i, columns in enumerate(apportioned(list(means.values()), width)):
        text.append(PATTERNS[i % len(PATTERNS)] * columns, COLOURS[i % len(COLOURS)])
    text.append("\n")
    for i, (name, mean) in enumerate(means.items()):
        mark = PATTERNS[i % len(PATTERNS)], COLOURS[i % len(COLOURS)]
        text.append(*mark).append(f" {name:<9}{1000 * mean:>9.1f} ms {mean / total:>5.0%} ")
        text.append(bar(mean / total, max(width - 30, 4)), mark[1]).append("\n")
    return text


def _worlds(facts: Facts) -> str:
    lines = [f"world {facts.about['world']}", f"{facts.keyframes:,} groups, {facts.patches:,} patches", ""]
    lines.append(f"undo: {facts.undo or 'nothing'}")
    lines.append(f"redo: {'the edit taken back' if facts.redo else 'nothing'}")
    lines += ["", "branches"] + [f" {'●' if chosen else '○'} {name}" for name, chosen in facts.branches]
    lines += ["", "saved (O opens)"] + ([f" {name}" for name in facts.saves] or [" nothing"])
    others = [f" {name}" for name in facts.about["others"]] or [" none; start with --other FILE"]
    return "\n".join([*lines, "", "worlds to splice in", *others])
