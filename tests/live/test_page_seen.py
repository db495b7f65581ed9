"""The page as it is seen: what belongs together is in one window, marks lie where they should, everything is named."""

from __future__ import annotations

import pytest
from tests.live.browser import Page, browser, find_chromium
from tests.live.scenes import walk
from tests.live.serving import TOKEN, served

pytest.importorskip("websockets", reason="needs the extra: pip install 'mosaicmem[explore]'")
pytest.importorskip("uvicorn", reason="needs the extra: pip install 'mosaicmem[explore]'")

# pixels of a canvas that are painted: how many, and the middle of them as shares of its width and height
PAINTED = """(id => { const c = document.getElementById(id), w = c.width;
  const d = c.getContext('2d').getImageData(0, 0, w, c.height).data; let n = 0, x = 0, y = 0;
  for (let i = 3; i < d.length; i += 4) if (d[i]) { n++; x += (i >> 2) % w; y += Math.floor((i >> 2) / w); }
  return [n, x / n / w, y / n / c.height]; })"""
# of the tokens of one kind (imagined or not) the smallest and largest share that is painted
SHARES = """((imagined) => { const c = document.getElementById('overlay'), [m, n] = window.told.shape;
  const g = c.getContext('2d');
  const w = c.width / n, h = c.height / m, out = [];
  window.told.uid.forEach((u, i) => { if ((u < 0) !== imagined) return;
    const d = g.getImageData(w * (i % n), h * Math.floor(i / n), w, h).data; let k = 0;
    for (let a = 3; a < d.length; a += 4) k += d[a] > 0;
    out.push(k / (w * h)); });
  return out.length ? [Math.min(...out), Math.max(...out)] : null; })"""
# what the page was told of its tokens, overheard
OVERHEAR = """(() => { const take = WebSocket.prototype.__lookupSetter__('onmessage');
  Object.defineProperty(WebSocket.prototype, 'onmessage', { set(heed) { take.call(this, (event) => {
    if (typeof event.data !== 'string') {
      const n = new DataView(event.data).getUint32(0, true);
      const head = JSON.parse(new TextDecoder().decode(new Uint8Array(event.data, 4, n)));
      if (head.type === 'view') window.told = { ...window.told, uid: head.tokens.uid };
    } else { const m = JSON.parse(event.data); if (m.type === 'hello') window.told = { shape: m.tokens }; }
    heed.call(this, event); }); } }); })()"""
# captions, buttons and headings with more words than room
CUT = """[...document.querySelectorAll('figcaption, button, h2, legend, label, dt, dd')].filter(e => e.offsetParent
  && (e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1) && !e.closest('.unseen, dialog'))
  .map(e => `${e.tagName} ${e.textContent.trim().slice(0, 40)}`)"""
NAMED = {"button", "textbox", "combobox", "slider", "radio", "spinbutton", "image", "meter", "searchbox", "checkbox"}


def inside(page: Page, *ids: str) -> list[str]:
    """Those elements that are not in the window in full."""
    listed = ",".join(f"'{i}'" for i in ids)
    return page.run(
        f"[{listed}].filter(id => {{ const r = document.getElementById(id).getBoundingClientRect();"
        " return r.top < 0 || r.bottom > innerHeight + 0.5 || r.left < 0 || r.right > innerWidth + 0.5; })"
    )


def unnamed(page: Page) -> list[str]:
    """Controls and pictures of the accessibility tree that a screen reader has no name for."""
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    known = [n for n in nodes if not n.get("ignored") and n["role"]["value"] in NAMED]
    assert len(known) > 20, "the tree is that of the whole page"
    return [f"{n['role']['value']} {n['nodeId']}" for n in known if not n.get("name", {}).get("value", "").strip()]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_asked_is_answered_in_sight_and_every_control_has_a_name(tmp_path) -> None:
    if find_chromium() is None:
        pytest.skip("needs a Chromium; on Debian: apt-get install chromium")
    made = walk(tmp_path / "w.mosaic")
    with served(tmp_path, made=made) as server, browser() as page:
        page.call("Page.addScriptToEvaluateOnNewDocument", source=OVERHEAR)
        page.size(1440, 900)
        page.open(f"http://127.0.0.1:{server.port}/?token={TOKEN}")
        page.wait("document.body?.dataset?.shown !== undefined && document.getElementById('where').textContent !== ''")

        # at a desk everything one works with is in the window at once
        for width, height in ((1440, 900), (1200, 800)):
            page.size(width, height)
            page.wait(f"innerWidth === {width} && document.getElementById('marks').width > 0")
            assert inside(page, "screen", "hint", "colour", "words", "time", "why-card", "map", "space") == []
            assert page.run(CUT) == [], "no caption, button or label is cut off"
        assert "W A S D" in page.run("document.getElementById('hint').innerText")
        assert page.run("document.getElementById('one').hidden"), "nothing to step through while nothing is held"

        # what is selected is marked where it is seen, and no longer when it is no longer selected
        assert page.run(f"{PAINTED}('marks')")[0] == 0
        page.run("document.querySelector('input[value=sphere]').click()")
        page.run("document.getElementById('radius').value = 0.75")
        page.click("view")
        page.wait("document.getElementById('selected').textContent.includes('patches are selected')", 30)
        count, x, y = page.run(f"{PAINTED}('marks')")
        assert count > 50 and abs(x - 0.5) < 0.2 and abs(y - 0.5) < 0.2
        page.run("document.getElementById('view').focus()")
        page.tap("Delete")
        page.wait("document.getElementById('undo').textContent === 'Undo erase'")
        page.wait(f"{PAINTED}('marks')[0] < {count}")

        # what nobody remembers is striped, in every colouring, and what somebody does is not
        while not page.run("window.told.uid.some(u => u < 0) && window.told.uid.some(u => u >= 0)"):
            before = page.run("document.body.dataset.shown")
            page.tap("ArrowLeft")
            page.wait(f"document.body.dataset.shown !== '{before}'", 30)
        for mode in ("origin", "frame", "age"):
            page.run(
                f"(s => {{ s.value = '{mode}'; s.dispatchEvent(new Event('change')); }})"
                "(document.getElementById('colour'))"
            )
            striped = f"{SHARES}(true).every(x => x === 0.5)"
            page.wait(f"{striped} && {SHARES}(false).every(x => x === 1)", 30)

        # on a phone the answer's first sentence stands below the view, the rest under Why
        page.size(390, 844, phone=True)
        page.wait("innerWidth === 390")
        page.run("scrollTo(0, 0)")
        page.press("c")
        page.wait("document.getElementById('note').textContent.endsWith('More under Why.')")
        assert inside(page, "screen", "note") == []
        assert page.run("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out sideways"

        assert unnamed(page) == []
        page.run("document.getElementById('map').removeAttribute('aria-label')")
        assert len(unnamed(page)) == 1, "a name that is missing is missed"
        assert page.errors == []
