"""A live walk over its socket: start to first picture, command to picture by stage, frames a second, many watchers.

Runs `mosaicmem explore` in a process of its own and drives it as the page does. `--model memory` measures memory alone
(no denoising). Load: `--watchers 8 --seconds 120` are sockets, one of which reads nothing; `--pages 8 --seconds 120`
are tabs of a real browser, one of which walks with its keys held. No queue grows, memory stays flat.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

TOKEN = "benchmark0123456789"


class Viewer:
    """What the page does, without a screen."""

    def __init__(self, port: int, stack: contextlib.ExitStack) -> None:
        cookie = {"Cookie": f"mosaicmem_{port}={TOKEN}"}
        address = f"127.0.0.1:{port}"
        self.socket = stack.enter_context(
            connect(
                f"ws://{address}/walk",
                origin=f"http://{address}",  # pyright: ignore[reportArgumentType]
                additional_headers=cookie,
                max_size=None,
                proxy=None,
                ping_interval=None,
            )
        )
        self.number = 0

    def next(self) -> dict[str, Any]:
        raw = self.socket.recv(timeout=120)
        if isinstance(raw, bytes):
            (length,) = struct.unpack_from("<I", raw)
            return json.loads(raw[4 : 4 + length])
        return json.loads(raw)

    def view(self) -> dict[str, Any]:
        while True:
            message = self.next()
            if message["type"] == "view":
                return message

    def move(self) -> None:
        self.number += 1
        turn = 2.3 if (self.number // 40) % 2 == 0 else -2.3
        self.socket.send(json.dumps({"id": self.number, "command": {"do": "move", "yaw": turn}}))


def resident(pid: int, what: str = "VmRSS") -> float:
    """Megabytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(what)).split()[1]) / 1024


def latency(viewer: Viewer, steps: int) -> dict[str, Any]:
    """One command at a time."""
    times, stages = [], dict[str, list[float]]()
    for _ in range(steps):
        begin = time.perf_counter()
        viewer.move()
        found = viewer.view()
        times.append(time.perf_counter() - begin)
        for name, seconds in found["stages"].items():
            stages.setdefault(name, []).append(seconds)
    times.sort()
    middle = {name: round(1000 * statistics.median(found), 2) for name, found in stages.items()}
    own = sum(middle.get(name, 0.0) for name in ("encode", "send"))
    return {
        "median_ms": round(1000 * statistics.median(times), 1),
        "p95_ms": round(1000 * times[min(len(times) - 1, int(0.95 * len(times)))], 1),
        "stages_ms": middle,
        "viewer_share": round(own / max(sum(middle.values()) - own, 1e-9), 4),
    }


def throughput(viewer: Viewer, seconds: float) -> float:
    """Frames a second with two commands under way, as a held key has."""
    viewer.move()
    viewer.move()
    count, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        count += len(viewer.view()["frames"])
        viewer.move()
    rate = count / (time.perf_counter() - begin)
    viewer.view()
    return round(rate, 1)


def load(port: int, pid: int, watchers: int, seconds: float, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Many watchers of one walk; one of them drives, one of them reads nothing."""
    stop, counts = threading.Event(), [0] * watchers

    def watch(i: int) -> None:
        viewer = Viewer(port, stack)
        while not stop.is_set():
            if i == 1:
                stop.wait(1)
                continue
            viewer.view()
            counts[i] += 1
            if i == 0:
                viewer.move()

    threads = [threading.Thread(target=watch, args=(i,), daemon=True) for i in range(watchers)]
    for thread in threads:
        thread.start()
    sizes, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(seconds / 12)
        sizes.append(round(resident(pid), 1))
    stop.set()
    return {"watchers": watchers, "seconds": seconds, "views": counts, "resident_mb": sizes}


def paged(address: str, pid: int, count: int, seconds: float) -> dict[str, Any]:
    """Many pages of one walk in a headless Chromium; the first one walks. Every ten seconds: how far each has come."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.live.browser import find_chromium, tabs

    program = find_chromium()
    if program is None:
        raise SystemExit("needs a Chromium; on Debian: apt-get install chromium")
    look = """[+document.body.dataset.shown, document.getElementById('queue').textContent,
        Math.round(performance.memory.usedJSHeapSize / 2**20)]"""
    rows, errors = [], list[str]()
    with tabs(program, count) as pages:
        for page in pages:
            page.size(1000, 700)
            page.open(address)
        for page in pages:
            page.wait("document.body?.dataset?.shown !== undefined")
        begin, key = time.monotonic(), "ArrowRight"
        while time.monotonic() - begin < seconds:
            key = "ArrowLeft" if key == "ArrowRight" else "ArrowRight"
            pages[0].press(key, seconds=10.0)
            found = [page.run(look) for page in pages]
            row = {"s": round(time.monotonic() - begin, 1), "resident_mb": round(resident(pid), 1)}
            row |= {"anonymous_mb": round(resident(pid, "RssAnon"), 1), "shown": [one[0] for one in found]}
            rows.append(row | {"said": found[0][1], "page_heap_mb": max(one[2] for one in found)})
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        errors = [error for page in pages for error in page.errors]
    return {"pages": count, "rows": rows, "errors": errors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="synthetic", help="rooms, synthetic or memory")
    parser.add_argument("--scene", type=int, default=900001)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--watchers", type=int, default=0)
    parser.add_argument("--pages", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        begin = time.perf_counter()
        command = [
            *(sys.executable, "-m", "mosaicmem", "explore", "--model", args.model, "--scene", str(args.scene)),
            *("--out", f"{folder}/walk.mosaic", "--port", "0", "--token", TOKEN, "--no-browser"),
        ]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if line.startswith("open "))
            port = int(line.split(":")[2].split("/")[0])
            viewer = Viewer(port, stack)
            viewer.view()
            found: dict[str, Any] = {"model": args.model, "first_picture_s": round(time.perf_counter() - begin, 2)}
            for _ in range(3):
                viewer.move()
                viewer.view()
            found |= latency(viewer, args.steps)
            found["frames_a_second"] = throughput(viewer, min(args.seconds, 10.0))
            if args.watchers:
                viewer.socket.close()
                found["load"] = load(port, process.pid, args.watchers, args.seconds, stack)
            if args.pages:
                viewer.socket.close()
                found["load"] = paged(line.split()[1], process.pid, args.pages, args.seconds)
            print(json.dumps(found, indent=1))
        finally:
            process.terminate()
            process.wait(120)


if __name__ == "__main__":
    main()
