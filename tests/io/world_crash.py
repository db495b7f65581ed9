"""Kill a writer at random instants, again and again, and look at what it leaves. Run as a script by the test.

A child writes into the file and says on a pipe what it has done, after the call has returned. The parent kills it
(SIGKILL), then opens the file and compares it with what was acknowledged. Children are forked from this process, which
has everything imported already, so that a kill costs milliseconds.

    python world_crash.py FILE KILLS SEED [liar]

A `liar` says that it has done what it is about to do: the control, which must be found out.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.io.worlds import keyframes

from mosaicmem.errors import ConfigError
from mosaicmem.io.world import WorldFile, verify
from mosaicmem.memory.store import PatchStore

NEW = keyframes(4)  # made here once: what torch does at its first use is not done again in every child


def write_until_killed(path: Path, pipe: int, seed: int, liar: bool) -> None:
    """Insert, edit, undo and redo; after each, the number of the operation at the head and the digest."""
    rng = random.Random(seed)
    with WorldFile.open(path, write=True) as world:
        while True:
            store = world.store
            kind = rng.choice(["insert", "insert", "insert", "pin", "erase", "undo", "redo"])
            if liar:
                os.write(pipe, json.dumps({"operations": world.counts()["operations"] + 1}).encode() + b"\n")
            try:
                if kind == "undo":
                    world.undo()
                elif kind == "redo":
                    world.redo()
                elif kind == "pin" and len(store):
                    world.apply(kind, {}, PatchStore.from_groups([replace(g, pinned=not g.pinned) for g in store][-9:]))
                elif kind == "erase" and len(store) > 4:
                    world.apply(kind, {}, PatchStore.from_groups(store.groups[:-2]))
                else:
                    world.insert(rng.choice(NEW))
            except ConfigError:
                continue
            head = world.head
            said: dict[str, Any] = {"head": head.head, "redo": head.redo, "digest": world.digest()}
            said["operations"] = world.counts()["operations"]
            if not liar:
                os.write(pipe, json.dumps(said).encode() + b"\n")


def kill_one(path: Path, seed: int, patience: float, liar: bool) -> list[dict[str, Any]]:
    """What one child acknowledged before it was killed."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reading)
            write_until_killed(path, writing, seed, liar)
        finally:
            os._exit(3)
    os.close(writing)
    if not select.select([reading], [], [], 60)[0]:
        raise SystemExit("a child acknowledged nothing for a minute")
    time.sleep(patience)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        raise SystemExit(f"a child failed by itself, with {os.WEXITSTATUS(status)}")
    with os.fdopen(reading, "rb") as file:
        lines = file.read().split(b"\n")
    return [json.loads(line) for line in lines[:-1]]  # the last is empty, or was cut


def check(path: Path, said: list[dict[str, Any]]) -> bool:
    """Whether the file holds all that was acknowledged last, or that and one operation more."""
    last = said[-1]
    with WorldFile.open(path) as world:
        operations, head = world.counts()["operations"], world.head
        world.log()
        if "digest" not in last:
            return operations >= last["operations"]
        same = (head.head, head.redo, world.digest()) == (last["head"], last["redo"], last["digest"])
        if same and operations == last["operations"]:
            return True
        # the call that was interrupted may have been durable without having returned; never more than one
        step = head.head == last["operations"] + 1 or head.head is None or head.head <= last["operations"]
        return step and last["operations"] <= operations <= last["operations"] + 1


def main(path: Path, kills: int, seed: int, liar: bool) -> dict[str, int]:
    """Kill so often; what happened."""
    torch.set_num_threads(1)
    rng = random.Random(seed)
    found = {"kills": 0, "acknowledged": 0, "lost": 0, "damaged": 0, "journals": 0}
    with WorldFile.create(path) as world:
        world.insert(NEW[0])
    for k in range(kills):
        said = kill_one(path, rng.randrange(10**6), rng.uniform(0, 0.01), liar)
        found["kills"] += 1
        found["acknowledged"] += len(said)
        found["journals"] += path.with_name(path.name + "-journal").exists()
        found["lost"] += not check(path, said)
        if k % 25 == 24:
            found["damaged"] += bool(verify(path))
    found["damaged"] += bool(verify(path))
    found["left"] = len(list(path.parent.iterdir()))
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), "liar" in sys.argv[4:])))
