"""A real browser: walk, turn, come back; erase and undo; reload; the server killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.live.browser import Page, browser, find_chromium
from tests.live.scenes import walk
from tests.live.serving import TOKEN

pytest.importorskip("websockets", reason="needs the extra: pip install 'mosaicmem[explore]'")
pytest.importorskip("uvicorn", reason="needs the extra: pip install 'mosaicmem[explore]'")

SERVER = """
import sys
import time
from pathlib import Path
from tests.live.scenes import remembered, reopened, walk
from tests.live.serving import served
path, port = Path(sys.argv[1]), int(sys.argv[2])
made = reopened(path) if path.exists() else walk(path)
made.others = {"attic": remembered}
with served(path.parent, port=port, made=made) as found:
    print(found.port, flush=True)
    while True:
        time.sleep(60)
"""
# the next picture takes long to decode
SLOW = """(() => { const real = window.createImageBitmap; window.createImageBitmap = async (blob) => {
  window.createImageBitmap = real; const made = await real(blob);
  await new Promise((done) => setTimeout(done, 700)); return made; }; return true; })()"""
# mean difference from a picture that the page holds in `window.kept`
DIFFERENCE = """(() => { const c = document.getElementById('view');
  const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let s = 0;
  for (let i = 0; i < d.length; i++) s += Math.abs(d[i] - window.kept[i]);
  return s / d.length; })()"""
# the same in the middle third alone, where the thing is
MIDDLE = """(() => { const c = document.getElementById('view'), w = c.width, h = c.height;
  const d = c.getContext('2d').getImageData(0, 0, w, h).data; let s = 0, n = 0;
  for (let i = 0; i < d.length; i++) { const x = (i >> 2) % w, y = Math.floor((i >> 2) / w);
    if (x > w / 3 && x < 2 * w / 3 && y > h / 3 && y < 2 * h / 3) { s += Math.abs(d[i] - window.kept[i]); n++; } }
  return s / n; })()"""
KEEP = """(() => { const c = document.getElementById('view');
  window.kept = c.getContext('2d').getImageData(0, 0, c.width, c.height).data; return true; })()"""


class Process:
    """The server in a process of its own, so that it can be killed."""

    def __init__(self, file: Path, port: int = 0) -> None:
        root = Path(__file__).parents[2]
        environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'tests'}", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(file), str(port)], stdout=subprocess.PIPE, env=environment, cwd=root
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def close(self) -> None:
        """As hard as it goes."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def shown(page: Page) -> int:
    return int(page.run("+(document.body.dataset.shown ?? -1)"))


def frame(page: Page) -> int:
    return int(page.run("document.getElementById('where').textContent.replace(/[^0-9]/g, '')"))


def step(page: Page, *keys: str, **how: bool) -> None:
    """Press keys one after the other; each is a command whose picture is waited for."""
    for key in keys:
        before = shown(page)
        page.tap(key, **how)
        page.wait(f"+(document.body.dataset.shown ?? -1) > {before}")


def settled(page: Page) -> int:
    """The number of the frame that is shown, once no other comes."""
    while True:
        before = frame(page)
        time.sleep(3)
        if frame(page) == before:
            return before


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_walk_come_back_edit_reload_and_survive_a_killed_server(tmp_path) -> None:
    if find_chromium() is None:
        pytest.skip("needs a Chromium; on Debian: apt-get install chromium")
    walk(tmp_path / "w.mosaic").world.close()  # compile what has to be compiled, and make the file
    (tmp_path / "w.mosaic").unlink()
    file = tmp_path / "w.mosaic"
    with contextlib.ExitStack() as stack, browser() as page:
        server = stack.enter_context(contextlib.closing(Process(file)))
        address = f"http://127.0.0.1:{server.port}/"
        page.size(1200, 800)
        page.open(f"{address}?token={TOKEN}")
        page.wait("document.body?.dataset?.shown !== undefined")
        assert page.run("location.search") == "", "the key does not stay in the address"
        step(page, " ")
        page.run(KEEP)

        # walk, turn, come back: the view returns
        step(page, "w", "ArrowRight", "ArrowRight")
        assert page.run(DIFFERENCE) > 4
        step(page, "ArrowLeft", "ArrowLeft", "s")
        assert page.run(DIFFERENCE) < 1.5

        # the mosaic is shown, why is answered, origin is coloured
        page.press("c")
        page.wait("document.getElementById('why').textContent.includes('Shown from frame')")
        page.press("o")
        page.wait("document.getElementById('legend').textContent.includes('seen')")
        assert page.run("document.getElementById('known').value") > 0.8

        # click the thing in the middle, erase it, see it gone, take it back
        page.run("document.querySelector('input[value=sphere]').click()")
        page.run("document.getElementById('radius').value = 0.75")
        page.click("view")
        page.wait("document.getElementById('selected').textContent.includes('patches are selected')")
        step(page, "Delete")
        assert page.run(MIDDLE) > 8, "the thing is gone from the view"
        assert page.run("document.getElementById('undo').textContent") == "Undo erase"
        step(page, " ")
        assert page.run(MIDDLE) > 8, "and stays away"
        step(page, "z")
        step(page, " ")
        assert page.run(MIDDLE) < 1.5
        step(page, "z", shift=True)
        assert page.run(MIDDLE) > 8
        step(page, "z")

        # a key that is held goes on stepping
        before = frame(page)
        page.press("q", seconds=1.0)
        page.wait(f"+document.getElementById('where').textContent.replace(/[^0-9]/g, '') > {before} + 1")

        # a picture that takes long to decode does not come after a newer one
        before = settled(page)
        page.run(SLOW)
        for key in "q", "e":
            come = page.run("+document.getElementById('time').max")
            page.tap(key)
            page.wait(f"+document.getElementById('time').max > {come}")  # the message has come
        now = settled(page)
        assert now == before + 2

        # the timeline shows an earlier frame and lets go of it
        page.run("(t => { t.value = 2; t.dispatchEvent(new Event('input')); })(document.getElementById('time'))")
        page.wait(f"document.getElementById('where').textContent !== 'frame {now}'")
        page.press("Home")
        page.wait(f"document.getElementById('where').textContent === 'frame {now}'")

        # reloaded in the middle of the walk, it stands where it stood
        page.call("Page.reload")
        page.wait("document.body?.dataset?.shown !== undefined && document.getElementById('where').textContent !== ''")
        assert frame(page) == now
        page.run(KEEP)

        # the server is killed: the page says so, and finds the one that is started in its place
        server.close()
        page.wait("!document.getElementById('gone').hidden")
        assert "gone away" in page.run("document.getElementById('gone').textContent")
        stack.enter_context(contextlib.closing(Process(file, server.port)))
        page.wait("document.getElementById('gone').hidden && document.getElementById('link').dataset.state == 'open'")
        page.wait(f"{DIFFERENCE} < 6", 30)
        step(page, "ArrowRight")
        assert page.run(DIFFERENCE) > 2

        # at both widths, light and dark, nothing sticks out and everything has a name
        page.run("document.getElementById('help').click()")
        assert page.run("document.getElementById('keys').open")
        for width, scheme in ((390, "dark"), (1200, "light")):
            page.size(width, 800, scheme, phone=width < 500)
            assert page.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
        unnamed = """[...document.querySelectorAll('button, input, select, canvas, [role=img]')].filter(e =>
            !(e.getAttribute('aria-hidden') || e.textContent.trim() || e.getAttribute('aria-label')
              || e.labels?.length)).map(e => e.id)"""
        assert page.run(unnamed) == [], "everything has a name for whoever cannot see it"
        noise = ("ERR_CONNECTION", "WebSocket connection", "Failed to load resource")
        assert [e for e in page.errors if not any(word in e for word in noise)] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_another_world_is_joined_at_a_doorway_by_keys_and_by_mouse(tmp_path) -> None:
    if find_chromium() is None:
        pytest.skip("needs a Chromium; on Debian: apt-get install chromium")
    patches = "+document.getElementById('amount').textContent.split(' ')[0].replace(',', '')"
    said = "document.getElementById('door-said').textContent"
    with contextlib.closing(Process(tmp_path / "w.mosaic")) as server, browser() as page:
        page.size(1200, 800)
        page.open(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
        page.wait("document.body?.dataset?.shown !== undefined && document.getElementById('amount').textContent !== ''")
        alone = page.run(patches)
        hidden = "['gap-row', 'door-row', 'door-tool'].map(id => document.getElementById(id).hidden)"
        assert page.run(hidden) == [False, True, True]

        # keys alone: G is the doorway in the middle of the view, the button is reached and pressed
        page.press("g")
        page.wait(f"{said}.includes('away; whoever goes through it enters attic')")
        assert page.run("document.getElementById('layout').value") == "doorway"
        assert page.run(hidden) == [True, False, False]
        page.run("document.getElementById('splice').focus()")
        page.press(" ")
        page.wait("document.getElementById('undo').textContent === 'Undo splice'")
        page.wait(f"{patches} === {2 * alone}")
        assert "at the doorway" in page.run("document.getElementById('note').textContent")
        assert page.run("document.getElementById('splice').disabled"), "one door, one world"
        page.run("document.getElementById('view').focus()")
        step(page, "z")
        page.wait(f"{patches} === {alone}")

        # the mouse: a click on the view, with the tool that the layout chose; a frame that the other has not is refused
        assert page.run("document.querySelector('input[name=tool]:checked').value") == "doorway"
        for number, answer in (("77", "has no frame 77"), ("2", "at the doorway")):
            page.click("view")
            page.wait(f"{said}.includes('away')")
            page.run(f"document.getElementById('other-frame').value = '{number}'")
            page.run("document.getElementById('splice').click()")
            page.wait(f"document.getElementById('note').textContent.includes('{answer}')")
        page.wait(f"{patches} === {2 * alone}")
        page.size(390, 800, "dark", phone=True)
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"
        page.run("document.getElementById('splice-row').scrollIntoView()")
        page.picture(tmp_path / "doorway.png")

        # above: no door is asked for
        choose = (
            "(s => { s.value = 'vertical'; s.dispatchEvent(new Event('change')); })(document.getElementById('layout'))"
        )
        page.run(choose)
        assert page.run(hidden) == [False, True, True]
        page.run("document.getElementById('splice').click()")
        page.wait(f"{patches} === {3 * alone}")
        assert "above" in page.run("document.getElementById('note').textContent")
        unnamed = """[...document.querySelectorAll('#splice-row *, #door-tool *')].filter(e =>
            e.matches('button, input, select') && !(e.textContent.trim() || e.getAttribute('aria-label')
              || e.labels?.length)).map(e => e.id)"""
        assert page.run(unnamed) == [], "everything has a name for whoever cannot see it"
        assert page.errors == []
