"""What a person sees: results on stdout, everything else on stderr, and never both on one stream."""

from __future__ import annotations

import json
import math
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Result:
    """What a command found: `data` for `--json`, `text` for people. `exit_code` is 3 where a file was judged bad."""

    data: dict[str, Any]
    text: list[str] = field(default_factory=list)
    exit_code: int = 0
    raw: bool = False  # printed as it is, without a label: the output is itself a file format


class Tick(Protocol):
    """Report that `steps` more units of work are done."""

    def __call__(self, steps: int = 1) -> None: ...


@dataclass(frozen=True)
class Console:
    """The two streams. `json` reserves stdout for one document; `quiet` leaves only errors on stderr."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def finish(self, result: Result) -> None:
        """Print the result: one JSON document, or lines of text."""
        if self.json:
            print(json.dumps(finite_or_null(result.data), indent=1, allow_nan=False))
        else:
            for line in result.text:
                print(line)
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """A remark for people, on stderr."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def detail(self, text: str) -> None:
        """A remark only `-v` shows."""
        if self.verbose:
            print(text, file=sys.stderr)

    def fail(self, kind: str, message: str, exit_code: int, error: BaseException | None = None) -> None:
        """An error: text on stderr, and with `--json` the one document on stdout."""
        print(f"error: {message}", file=sys.stderr)
        if error is not None and self.verbose:
            traceback.print_exception(error, file=sys.stderr)
        if self.json:
            print(json.dumps({"error": {"type": kind, "message": message, "exit_code": exit_code}}, indent=1))
            sys.stdout.flush()

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Tick]:
        """A bar on stderr with the time left; nothing where stderr is no terminal or `quiet` asks for silence."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda steps=1: None
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total)

            def tick(steps: int = 1) -> None:
                bar.update(task, advance=steps)

            yield tick


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Aligned text columns; numbers to the right, words to the left."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(header), *(len(row[i]) for row in cells), 0) for i, header in enumerate(headers)]
    right = [
        bool(rows) and all(isinstance(row[i], (int, float)) or _numeric(str(row[i])) for row in rows)
        for i in range(len(headers))
    ]
    return [
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)).rstrip()
        for row in [list(headers), *cells]
    ]


def bar(fraction: float, width: int = 40) -> str:
    """`fraction` in [0, 1] as a text bar; full blocks for what is there, dots for what is not."""
    filled = round(min(max(fraction, 0.0), 1.0) * width)
    return "█" * filled + "·" * (width - filled)


def finite_or_null(value: Any) -> Any:
    """JSON has neither NaN nor infinity: what could not be measured becomes null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(item) for item in value]
    return value


def _numeric(text: str) -> bool:
    return text.strip().lstrip("+-").replace(".", "", 1).replace("%", "", 1).replace(" dB", "").isdigit() or text in (
        "-",
        "",
    )
