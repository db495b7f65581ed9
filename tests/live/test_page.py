"""The files of the page: what is vendored is what the package had, and nothing points elsewhere."""

from __future__ import annotations

import hashlib
import re

from tests.helpers import ROOT

STATIC = ROOT / "src" / "mosaicmem" / "live" / "static"
THREE = {  # of the npm package three 0.182.0
    "three.core.min.js": "e5a824c8ec97ee44aeb8ce0ab64664e1dd1777df9d0ab2345b35f9941a9fcf33",
    "three.module.min.js": "0f860495069067a103d1df99e2bb01260f250e118ed7a50537167412ba195a0a",
    "three-LICENSE.txt": "bfe119ea4fd413f5f7ca3fcd63adb0c4a073ed39daa2fe7d3e6b769e21272601",
}


def test_three_js_is_as_its_package_has_it() -> None:
    vendor = STATIC / "vendor"
    assert {path.name for path in vendor.iterdir()} == set(THREE)
    for name, wanted in THREE.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == wanted, name


def test_modules_import_only_what_is_there_and_nothing_comes_from_elsewhere() -> None:
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.html"), *STATIC.glob("*.css")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"https?://|//cdn|@import", text.replace("http://www.w3.org/2000/svg", "")), path.name
        for target in re.findall(r'from "([^"]+)"', text):
            assert (STATIC / target).is_file(), f"{path.name}: {target}"
        for target in re.findall(r'(?:src|href)="/([^"#]+)"', text):
            assert (STATIC / target).is_file(), f"{path.name}: {target}"


def test_every_element_that_the_modules_speak_of_is_on_the_page() -> None:
    page = (STATIC / "index.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'\bid="([^"]+)"', page))
    for path in STATIC.glob("*.js"):
        text = path.read_text(encoding="utf-8")
        asked = re.findall(r'\$\("([a-z-]+)"\)', text)
        asked += [a or b for a, b in re.findall(r'\bdom(?:\.([a-z]+)\b|\["([a-z-]+)"\])', text)]
        assert [name for name in asked if name not in ids] == [], path.name


def test_the_files_of_the_page_are_small() -> None:
    """One page of text each; the vendored library is what it is."""
    assert sum(path.stat().st_size for path in STATIC.glob("*.*")) < 120_000


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb` (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    """Contrast of two colours (WCAG 2.2): 1 to 21."""
    dark, light = sorted((luminance(a), luminance(b)))
    return (light + 0.05) / (dark + 0.05)


def test_text_can_be_read_in_light_and_in_dark() -> None:
    assert contrast("#000000", "#ffffff") == 21
    assert contrast("#777777", "#ffffff") < 4.5 < contrast("#767676", "#ffffff"), "as everybody's example has it"
    style = (STATIC / "style.css").read_text(encoding="utf-8")
    palettes = [
        dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(palettes) == 2, "one for light, one for dark"
    for palette in palettes:
        for text, ground in [
            *((text, ground) for text in ("ink", "faint", "bad") for ground in ("paper", "card")),
            ("paper", "bad"),
            ("on-accent", "accent"),
        ]:
            assert contrast(palette[text], palette[ground]) >= 4.5, (text, ground)
