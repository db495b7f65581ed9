"""What every command is handed besides its arguments: settings, streams, clocks and a place to write."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mosaicmem.apps.cli.config import Config
from mosaicmem.apps.cli.console import Console, Result, finite_or_null
from mosaicmem.apps.cli.options import Common
from mosaicmem.apps.cli.output import check_output, run_record, staged_folder, write_run
from mosaicmem.apps.cli.settings import to_dict
from mosaicmem.errors import ConfigError
from mosaicmem.io.files import write_json


@dataclass
class Session:
    """One run of one command.

    `backend` is `real` where a pretrained model takes part, `synthetic` where none does, and empty where nothing is
    shown or made; `note` says what runs.
    """

    command: str
    argv: list[str]
    args: Common
    config: Config
    console: Console
    backend: str = "synthetic"
    note: str = "no model runs"
    timings: dict[str, float] = field(default_factory=dict)
    wrote: Path | None = None

    @property
    def label(self) -> str:
        """`[synthetic] remember: ...`, the first line of every result."""
        return f"{self._badge}{self.command}: {self.note}"

    @property
    def _badge(self) -> str:
        return f"[{self.backend}] " if self.backend else ""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to the timings of the run."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start

    def check_out(self, *, inputs: Sequence[Path] = (), default: str | None = None) -> Path:
        """The folder `--out` names, refused now rather than after the work."""
        out = self.args.out or (Path(default) if default else None)
        if out is None:
            raise ConfigError(f"{self.command} needs --out PATH: where should the result go?")
        check_output(out, self.args.overwrite, inputs)
        return out

    @contextmanager
    def folder(self, *, inputs: Sequence[Path] = (), default: str | None = None) -> Iterator[Path]:
        """A staging folder that becomes `--out`, with `run.json`, when the block ends well."""
        out = self.check_out(inputs=inputs, default=default)
        with staged_folder(out, overwrite=self.args.overwrite, inputs=inputs) as staging:
            yield staging
            record = run_record(
                command=self.command,
                argv=self.argv,
                config=to_dict(self.config),
                seed=self.config.seed,
                backend=f"{self._badge}{self.note}",
                timings=self.timings,
            )
            write_run(staging, record)
        self.wrote = out

    def finish(self, result: Result) -> Result:
        """Add the label to the result; commands that only report also write `report.json` where `--out` asks for it."""
        if result.raw and self.args.out is None:
            return result
        data = {"command": self.command, "backend": self.backend, "note": self.note, **result.data}
        if self.args.out is not None and self.wrote is None:
            with self.folder() as staging:
                write_json(staging / "report.json", finite_or_null(data))
        if self.wrote is not None:
            data["out"] = str(self.wrote)
        tail = [f"wrote {self.wrote}"] if self.wrote is not None else []
        return replace(result, data=data, text=[self.label, *result.text, *tail])
