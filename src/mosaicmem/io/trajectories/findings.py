"""What the linter says, and how bad it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["E", "W", "I"]


@dataclass(frozen=True)
class Finding:
    """One observation about a file. `E` stops a conversion, `W` warns, `I` informs.

    Attributes:
        code: Rule, as listed in `docs/formats.md`.
        severity: `E`, `W` or `I`.
        message: What was found.
        advice: What would help; empty where nothing needs doing.
        frame: Pose it was seen at, or `None` for the whole file.
        value, threshold: What was measured and what it was compared with.
    """

    code: str
    severity: Severity
    message: str
    advice: str = ""
    frame: int | None = None
    value: float | None = None
    threshold: float | None = None

    def __str__(self) -> str:
        where = "" if self.frame is None else f" frame {self.frame}:"
        return f"{self.severity} {self.code}:{where} {self.message}" + (f"; {self.advice}" if self.advice else "")
