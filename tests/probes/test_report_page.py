"""The HTML page: whole, harmless, readable by everyone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise, product
from pathlib import Path

import pytest
import report_material as m

import probes.report.page
from probes.report.contents import Contents
from probes.report.page import page_of

VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Elements with their attributes and all text, as a browser would see them; complains of tags left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.cells: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element with its attributes."""
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element that closes itself."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close what was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        """Give the attributes of each such element."""
        return [attributes for tag, attributes in self.elements if tag in tags]


@pytest.fixture(scope="module")
def text() -> str:
    """Write a page in which every name is hostile, several reports, and an audit."""
    one = m.make_report(genres=m.HOSTILE, encoder=m.HOSTILE[0])
    two = m.make_report(genres=m.HOSTILE, encoder=m.HOSTILE[1], layers=2)
    one = replace(one, command="embedstore probe '<img src=x onerror=alert(1)>'", notes=(m.HOSTILE[0],))
    return page_of(Contents((one, two), m.compared(), m.make_audit()))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    """Read it."""
    return Page(text)


def test_hostile_names_are_text(page: Page) -> None:
    """No name becomes an element or an attribute; each can be read in full, its control characters visible."""
    known = {
        "html",
        "head",
        "meta",
        "title",
        "style",
        "body",
        "header",
        "h1",
        "h2",
        "h3",
        "nav",
        "ul",
        "li",
        "a",
        "main",
    }
    known |= {"section", "table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "div", "span", "footer"}
    known |= {"svg", "g", "path", "defs", "use", "clippath", "rect", "text", "tspan"}
    assert {tag for tag, _ in page.elements} <= known
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    for name in (m.HOSTILE[0], m.HOSTILE[1], "\\u202eevil\\x1b[31m", m.HOSTILE[3], m.HOSTILE[4]):
        assert name in page.cells
    assert "embedstore probe '<img src=x onerror=alert(1)>'" in page.cells
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\x7f]", "".join(page.words))


def test_the_page_needs_nothing_else(page: Page, text: str) -> None:
    """No script, no address; links lead to places on the page; the policy forbids the rest."""
    assert not page.all("script", "link", "img", "iframe", "object", "embed", "base", "form")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        for key in ("src", "href", "xlink:href", "action", "data"):
            target = attributes.get(key)
            assert target is None or (target.startswith("#") and target[1:] in ids), (tag, key, target)
        for value in attributes.values():
            assert all(target[1:] in ids for target in re.findall(r"url\(([^)]*)\)", value or "") if value)
    style = text.partition("<style>")[2].partition("</style>")[0]
    assert not re.search(r"url\(|@import|//", style)
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_who_does_not_see_reads_the_same(page: Page) -> None:
    """Plots have words, tables have heads, what scrolls can be reached by keys, headings do not jump."""
    plots = page.all("svg")
    assert len(plots) == 6  # layers, genres, curve, audit, weights of each report
    assert all(a["role"] == "img" and len(a["aria-label"] or "") > 20 for a in plots)
    tables = [a for a in page.all("table") if a.get("class") != "facts"]
    assert len(tables) > 15
    assert all(a["aria-label"] for a in tables)
    assert all(a.get("scope") in ("col", "row") for a in page.all("th"))
    regions = [a for a in page.all("div") if a.get("class") == "scroll"]
    assert len(regions) == len(tables) + len(plots)
    assert all(a["tabindex"] == "0" and a["role"] == "region" and a["aria-label"] for a in regions)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert page.all("html")[0]["lang"] == "en"
    assert any(a.get("name") == "viewport" for a in page.all("meta"))


def test_all_of_the_report_is_there(page: Page) -> None:
    """Scores, tests, curve, quality, command, fingerprint, citation, licence, versions and what was left out."""
    words = " ".join("".join(page.words).split())
    for said in (
        "0.480 [0.440, 0.520]", "+0.060 [+0.010, +0.110]", "< 0.001", "Linear CKA", "LogME", "Leak audit", "5f3c" * 8,
        "Li et al. 2022", "CC-BY-NC-4.0", "Tzanetakis and Cook 2002", "several genres", "1,120", "10,000 resamples", "numpy",
        "layers not distinguishable from the best (layer 1): 0, 2", "a/<b>one.mp3",
    ):  # fmt: skip
        assert said in words


def test_shades_are_shares(text: str) -> None:
    """A count is as dark as its share of the row; a score as it is high."""
    report = m.make_report(layers=2, full=False)
    alone = page_of(Contents.of(replace(report, confusion={"labels": ["a", "b"], "matrix": [[30, 10], [0, 0]]})))
    assert re.findall(r'--depth: ([\d.]+)">(30|10|0)<', alone) == [
        ("0.75", "30"),
        ("0.25", "10"),
        ("0.0", "0"),
        ("0.0", "0"),
    ]
    value = report.results[0].per_class["blues"]
    assert f'--depth: {round(value, 3)}">{value:.3f}<' in alone


@pytest.mark.slow
def test_same_bytes_in_another_process() -> None:
    """The order of sets and hashes of another process changes nothing."""
    code = (
        "import sys, hashlib, report_material as m; from probes.report.page import page_of\n"
        "from probes.report.contents import Contents\n"
        "print(hashlib.sha256(page_of(Contents.of([m.make_report(), m.make_report(encoder='b')])).encode()).hexdigest())"
    )
    found = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert found[0] == found[1]
    assert len(found[0].strip()) == 64


def test_nothing_of_the_moment_is_there(text: str) -> None:
    """No date, whatever a plotting library likes to add."""
    assert not re.search(r"20\d\d-\d\d-\d\d", text)


def test_colours_can_be_read_in_light_and_dark() -> None:
    """Text has a contrast of 4.5 on everything it stands on, lines of 3 (WCAG 2.2, 1.4.3 and 1.4.11)."""
    source = (Path(probes.report.page.__file__).parent / "page.html").read_text()
    schemes = [
        dict(re.findall(r"(--[\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", source, re.DOTALL)
    ]
    assert len(schemes) == 2
    assert schemes[0].keys() == schemes[1].keys()
    for colours in schemes:
        for ink, paper in product(("--ink",), ("--paper", "--mark", "--heat")):
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper, colours)
        for ink in ("--soft", "--c1"):  # captions, links
            assert contrast(colours[ink], colours["--paper"]) >= 4.5, (ink, colours)
        for series in ("--c1", "--c2", "--c3", "--c4", "--c5", "--c6"):
            assert contrast(colours[series], colours["--paper"]) >= 3, (series, colours)


def contrast(first: str, second: str) -> float:
    """Compute the contrast ratio of two colours (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)
