"""The memory benchmark, watched from the interface."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable

WORLDS = 2
Told = Callable[[str, str, tuple[int, int] | None], None]
"""Told a title, what was found so far, and how many worlds of how many are done; None when it has ended."""


class Bench:
    """Runs `bench_worker` in a process of its own, one at a time."""

    def __init__(self, worlds: int = WORLDS) -> None:
        self.worlds = worlds
        self._process: asyncio.subprocess.Process | None = None

    def stop(self) -> bool:
        """End it; False if none is running."""
        if self._process is None or self._process.returncode is not None:
            return False
        self._process.kill()
        return True

    async def run(self, model: str, told: Told, device: str = "cpu") -> None:
        """Run it to its end, and say how it goes."""
        title = f"memory benchmark: {model}, {self.worlds} held-out worlds; R stops it"
        told(title, "loading ...", (0, self.worlds))
        command = (sys.executable, "-m", "mosaicmem.apps.tui.bench_worker", model, str(self.worlds), device)
        pipe, quiet = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=quiet, stdout=pipe, stderr=quiet, limit=2**20
        )
        assert self._process.stdout is not None
        lines: list[str] = []
        done, result = 0, ""
        async for raw in self._process.stdout:
            found = json.loads(raw)
            if "world" in found:
                done = found["world"]
                scores = ", ".join(f"{name} {psnr} dB" for name, psnr in found["psnr"].items())
                lines.append(f"world {done}: {scores}")
                told(title, "\n".join(lines), (done, self.worlds))
            result = found.get("error") or "\n".join(found.get("lines", [])) or result
        code = await self._process.wait()
        ended = result or ("stopped" if code < 0 else f"it failed (exit code {code})")
        told(f"memory benchmark: {model}, {done} worlds; R runs it again", ended, None)
