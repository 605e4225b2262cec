"""The page in a real browser: what is drawn, heard, found and said, by pointer, by keyboard and for a screen reader."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import json
import os
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from PIL import Image

import cli
from embedstore.maps import make_map
from embedstore.maps.saved import keep
from embedstore.pipeline import build
from embedstore.store import EmbeddingStore

pytestmark = pytest.mark.slow

PLUGINS = Path(__file__).parents[1] / "plugins"
GENRES = {"drone": 80, "flute": 700, "hiss": 1700, "whistle": 2700}  # Hz
SUFFIXES = (".ogg", ".wav", ".flac")
MARKUP = '<img src=x onerror="alert(1)">'
MARGIN = 40  # pixels around a map that is shown as a whole: `map.js`


def sound(genre: str, number: int) -> np.ndarray:
    """Make a tone of the genre's pitch in noise, 2 to 6 s; every fifth sounds like the genre after its own."""
    rng = np.random.default_rng([number, len(genre)])
    names = [*GENRES]
    heard = names[(names.index(genre) + (number % 5 == 0)) % 4]
    time = np.arange(int(8000 * (2 + number % 5))) / 8000
    tone = (0.1 + 0.02 * number) * np.sin(2 * np.pi * GENRES[heard] * (1 + 0.01 * number) * time)
    return (tone + rng.normal(0, 0.03, len(time))).astype(np.float32)


def write_music(folder: Path) -> Path:
    """Write 60 songs of 4 genres by 12 artists, one of them as AIFF, and a file that is broken; give their table."""
    rows = []
    for genre in GENRES:
        for number in range(15):
            suffix = ".aiff" if (genre, number) == ("flute", 3) else SUFFIXES[number % 3]
            path = folder / genre / f"{genre} {number}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, sound(genre, number), 8000)
            title = MARKUP if (genre, number) == ("hiss", 4) else f"{genre.title()} no. {number}"
            rows.append([path.relative_to(folder), genre, f"{genre.title()} player {number % 3}", title, 1960 + number])
    (folder / "broken.mp3").write_bytes(b"no sound at all")
    table = folder.parent / "songs.csv"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([["path", "genre", "artist", "title", "year"], *rows])
    return table


@contextlib.contextmanager
def toys():
    """Let the toy encoder be found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(PLUGINS)
        yield


def encode(music: Path, store: Path, **options) -> EmbeddingStore:
    """Build or go on with a store, and give it its maps: by PCA, and, in place of UMAP, which takes long, one with room around points."""
    with toys():
        build(music, store, encoder="toy_encoder:Toy", jobs=1, **options)
    opened, rng = EmbeddingStore.open(store), np.random.default_rng(7)
    found = make_map(opened, "pca")
    side = int(np.ceil(np.sqrt(len(opened))))
    cells = [rng.permutation(side**2)[: len(opened)] for _ in found.layers]
    at = np.stack([np.divmod(some, side) for some in cells]).swapaxes(1, 2)
    positions = ((at + rng.uniform(0.35, 0.65, at.shape)) / side).astype(np.float32)
    for one in (found, replace(found, method="umap", positions=positions)):
        keep(opened, one)
    return opened


@pytest.fixture(scope="module")
def library(tmp_path_factory, browser, serving):
    """Serve a store of 60 songs that has been probed and audited."""
    folder = tmp_path_factory.mktemp("page")
    table = write_music(folder / "music")
    encode(folder / "music", folder / "store", labels=str(table))
    run = ["--store", str(folder / "store"), "--folds", "3", "--seeds", "2", "--jobs", "1"]
    with toys():
        for command in (["probe", *run, "--save", "genres"], ["audit", *run]):
            result = CliRunner().invoke(cli.main, command)
            assert result.exit_code == 0, result.output
    with serving(folder / "store") as (_, where):
        audit, probe = sorted(path.stem for path in (folder / "store" / "studies").glob("*.json"))
        yield SimpleNamespace(url=where["url"], folder=folder, music=folder / "music", audit=audit, probe=probe)


@pytest.fixture
def page(library, visit):
    """Open the map."""
    return visit(library.url)


# ---- what the page and the service say ----


def ask(page, path, body=None, **query):
    """Ask the service what the page asks it."""
    base = re.match(r"\w+://[^/]+", page.url)[0]
    url = f"{base}/api/{path}"
    answer = page.request.get(url, params=query) if body is None else page.request.post(url, data=body, params=query)
    assert answer.ok, answer.text()
    return answer.json()


def rows_of(page) -> dict:
    """Give the columns of the map."""
    return ask(page, "map/tracks")


def places(page, layer=0, method="umap") -> np.ndarray:
    """Work out where each row is drawn in the whole map, in pixels of the window: (n, 2)."""
    found = ask(page, "map/positions", method=method, layer=layer, version=ask(page, "map")["version"])
    at = np.stack([found["x"], found["y"]], 1) / 65535
    return project(page, at, at)


def project(page, at, shown) -> np.ndarray:
    """Work out where places are drawn when the window fits others."""
    stage, legend = (
        page.locator("#points").bounding_box(),
        page.evaluate("document.getElementById('legend').offsetWidth"),
    )
    size = np.rint([stage["width"], stage["height"]])
    right = legend if size[0] > 3 * legend else 0
    least, most = shown.min(0), shown.max(0)
    room = size - [right + 2 * MARGIN, 2 * MARGIN]
    scale = max((room / np.maximum(most - least, 0.02)).min(), size.min() / 2)
    middle = (least + most) / 2 + [right / 2 / scale, 0]
    return [stage["x"], stage["y"]] + size / 2 + (at - middle) * [scale, -scale]


def pixels(page) -> np.ndarray:
    """Read the points back from WebGL: (height, width, 4), from the frame in which they are drawn."""
    read = """() => new Promise((done) => {
        const canvas = document.getElementById("points");
        canvas.dispatchEvent(new Event("blur"));  // draws it
        requestAnimationFrame(() => {
            const gl = canvas.getContext("webgl2");
            const data = new Uint8Array(4 * canvas.width * canvas.height);
            gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, data);
            let text = "";
            for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
            done([canvas.width, canvas.height, btoa(text)]);
        });
    })"""
    width, height, text = page.evaluate(read)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)[::-1]


def colours_at(page, where: np.ndarray) -> np.ndarray:
    """Read the colour of points: (n, 3), undone what lets the back through."""
    stage, drawn = page.locator("#points").bounding_box(), pixels(page).astype(float)
    x, y = np.rint(where - [stage["x"], stage["y"]]).astype(int).T
    found = drawn[y, x]
    return 255 * found[:, :3] / np.maximum(found[:, 3:], 1)


def apart(where: np.ndarray, least: float) -> np.ndarray:
    """Find the rows that no other is near."""
    away = np.linalg.norm(where[:, None] - where, axis=2) + 1e9 * np.eye(len(where))
    return np.flatnonzero(away.min(1) > least)


def free(page, where: np.ndarray) -> np.ndarray:
    """Find the rows of points that the pointer can reach alone."""
    top = "(at) => at.map(([x, y]) => document.elementFromPoint(x, y)?.id === 'points')"
    return np.intersect1d(apart(where, 15), np.flatnonzero(page.evaluate(top, where.tolist())))


def listed(page, name="nearest") -> list[str]:
    """Give the ids of the tracks in a list."""
    return page.locator(f"#{name} li[data-track]").evaluate_all("all => all.map((one) => one.dataset.track)")


def wait_for(page, condition: str, given=None) -> None:
    page.wait_for_function(condition, arg=given)


def wait_for_list(page, ids, name="nearest") -> None:
    """Wait until a list holds these tracks in this order."""
    have = "([name, ids]) => [...document.querySelectorAll(`#${name} li[data-track]`)].map((one) => one.dataset.track).join() === ids.join()"
    with contextlib.suppress(Exception):  # what is shown instead says more
        page.wait_for_function(have, arg=[name, ids], timeout=5000)
    assert listed(page, name) == ids


def wait_until_played(page, ending: str) -> None:
    """Wait until sound from an address comes out."""
    wait_for(
        page,
        "(e) => { const a = document.getElementById('audio'); return a.currentSrc.endsWith(e) && a.currentTime > 0.2 }",
        ending,
    )


def nearest_to(page, seeds, layer=0, **limits) -> list[str]:
    """Ask the service for what the page should list."""
    body = {
        "query": {"seeds": [{"what": what, "weight": weight} for what, weight in seeds]},
        "filter": limits,
        "shape": {"k": 25},
    }
    return [hit["track"] for hit in ask(page, "search", body, layer=layer)["hits"]]


def click_row(page, row: int, where=None) -> str:
    """Click a point; give the id of its track."""
    page.mouse.click(*(places(page) if where is None else where)[row])
    return rows_of(page)["tracks"][row]


def item(page, nth: int, name="nearest"):
    """Give a line of a list."""
    return page.locator(f"#{name} li[data-track]").nth(nth)


# ---- the map ----


def test_points_are_drawn_where_and_as_the_service_says(page) -> None:
    """Each point that stands alone has the colour that the legend gives its genre; the legend counts the tracks of each."""
    rows, where = rows_of(page), places(page)
    names, codes = rows["genres"]["names"], np.array(rows["genres"]["codes"])
    legend = {
        button.locator("span").inner_text(): (
            button.locator("i").evaluate("dot => getComputedStyle(dot).backgroundColor"), button.locator("small").inner_text(),
        )
        for button in page.locator("#groups button").all()
    }  # fmt: skip
    assert {name: int(count) for name, (_, count) in legend.items()} == dict.fromkeys(GENRES, 15)
    alone = apart(where, 14)
    assert len(alone) > 20
    wanted = np.array([[int(part) for part in re.findall(r"\d+", legend[names[code]][0])] for code in codes[alone]])
    assert np.abs(colours_at(page, where[alone]) - wanted).max() < 12
    assert len({*map(tuple, wanted.tolist())}) == 4
    assert page.title() == "embedstore"
    assert page.locator("#waiting").is_hidden()


def test_a_click_plays_a_track_and_lists_what_is_near(page) -> None:
    """The sound of the id runs, the player says what it is, the list is the service's answer, percentiles too."""
    where = places(page)
    row = int(free(page, where)[0])
    track = click_row(page, row, where)
    wait_until_played(page, f"/api/tracks/{track}/audio")
    before = page.evaluate("document.getElementById('audio').currentTime")
    wait_for(page, "before => document.getElementById('audio').currentTime > before", before)
    rows = rows_of(page)
    assert rows["titles"][row] in page.locator("#playing").inner_text()
    assert rows["titles"][row] in page.title()
    found = ask(page, f"tracks/{track}/neighbors", layer=0, k=25)["hits"]
    wait_for_list(page, [hit["track"] for hit in found])
    said = page.locator("#nearest .closeness").all_inner_texts()
    assert [text.strip() for text in said] == [f"{hit['percentile']:.1f} %" for hit in found]
    values = page.locator("#nearest meter").evaluate_all("all => all.map((one) => one.value)")
    assert values == pytest.approx([hit["percentile"] for hit in found])
    other = item(page, 1)  # a track of the list is played, and what was asked stays
    other.locator(".play").click()
    wait_until_played(page, f"/api/tracks/{found[1]['track']}/audio")
    assert listed(page) == [hit["track"] for hit in found]


def test_the_player_goes_on_with_the_list(page) -> None:
    """At the end of a track, or at once by a button, the next one begins; and the one before; its line is marked."""
    click_row(page, int(free(page, places(page))[0]))
    page.wait_for_selector("#nearest li[data-track]")
    first, second, third = listed(page)[:3]
    item(page, 0).locator(".play").click()
    wait_until_played(page, f"{first}/audio")
    page.evaluate("() => { const a = document.getElementById('audio'); a.currentTime = a.duration - 0.05 }")
    wait_until_played(page, f"{second}/audio")
    page.click("#next")
    wait_until_played(page, f"{third}/audio")
    page.click("#previous")
    wait_until_played(page, f"{second}/audio")
    assert page.locator("#nearest li[aria-current]").get_attribute("data-track") == second


def test_an_address_shows_the_same_again(page, library, visit) -> None:
    """Layer, projection, colours, groups, tracks to be like and unlike, and words: sent, reloaded, or put into an open page."""
    ids = rows_of(page)["tracks"]
    asked = f"#/map?layer=1&method=pca&colour=genre&only=hiss&like={ids[3]}&unlike={ids[9]}&q=player"
    other = visit(f"{library.url}/{asked}")
    seeds = [(ids[3], 1), (ids[9], -0.5)]
    wait_for_list(other, nearest_to(other, seeds, layer=1, genres=["hiss"]))
    assert other.evaluate("location.hash") == asked
    other.reload()
    other.wait_for_selector("body[data-ready]")
    wait_for_list(other, nearest_to(other, seeds, layer=1, genres=["hiss"]))
    assert [other.input_value(name) for name in ("#layer", "#method", "#colour", "#words")] == [
        "1",
        "pca",
        "genre",
        "player",
    ]
    assert other.locator("#groups [aria-pressed=true] span").all_inner_texts() == ["hiss"]
    page.evaluate("hash => { location.hash = hash }", f"#/map?layer=1&like={ids[5]}")
    wait_for_list(page, nearest_to(page, [(ids[5], 1)], layer=1))


def test_the_curve_stands_beside_what_chance_gives(page) -> None:
    """Baselines are drawn at their scores on the scale of the layers; layers that the tests tell from the best are hollow."""
    newest = max((one for one in ask(page, "studies") if one["kind"] == "probe"), key=lambda one: one["made"])
    report = ask(page, f"studies/{newest['name']}")["report"]
    texts = ", ".join(page.locator("#curve text.beside").all_text_contents())
    assert "shuffled labels" in texts
    line = float(page.locator("#curve line.beside").first.get_attribute("y1"))
    dots = {row["layer"]: row["macro_f1"]["value"] for row in report["results"]}
    heights = page.locator("#curve .mark circle").evaluate_all(
        "all => all.map((one) => Number(one.getAttribute('cy')))"
    )
    (high, low), (above, below) = (sorted(dots.values(), reverse=True), sorted(heights))
    chance = report["baselines"]["shuffled_labels"]["macro_f1"]["value"]
    if high > low:
        assert line == pytest.approx(above + (high - chance) * (below - above) / (high - low), abs=0.5)
    kept = {*report.get("indistinct", dots), report["best_layer"]}
    assert page.locator("#curve .apart").count() == sum(layer not in kept for layer in dots)


def test_a_point_under_the_pointer_is_named(page) -> None:
    """Its title, artist, genre and year; gone when the pointer is elsewhere; within the window at its edges."""
    where, rows = places(page), rows_of(page)
    tip = page.locator("#tip")
    for row in free(page, where)[[0, -1]].tolist():
        page.mouse.move(*where[row])
        tip.wait_for(state="visible")
        artist, genre = (rows[kind]["names"][rows[kind]["codes"][row]] for kind in ("artists", "genres"))
        assert tip.inner_text().split("\n")[0] == rows["titles"][row]
        assert f"{artist} · {genre} · {rows['years'][row]}" in tip.inner_text()
        box = tip.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 1280
    page.mouse.move(3, 3)
    tip.wait_for(state="hidden")


def test_the_slider_moves_the_points(page) -> None:
    """By key, by pointer, between two layers, by the curve and by itself: what is drawn is where the service says."""
    slider, name = page.locator("#layer"), page.locator("#layer-name")
    layers = [places(page, layer) for layer in (0, 1)]
    assert slider.get_attribute("aria-valuetext") == name.inner_text() == "layer 0: loudness"
    row = int(np.intersect1d(free(page, layers[0]), free(page, layers[1]))[0])
    track = click_row(page, row, layers[0])
    wait_for_list(page, nearest_to(page, [(track, 1)]))
    layers = [places(page, layer) for layer in (0, 1)]  # the player is higher now
    page.focus("#layer")
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == name.inner_text() == "layer 1: bands"
    # the window still fits the first layer
    raw = [
        ask(page, "map/positions", method="umap", layer=layer, version=ask(page, "map")["version"]) for layer in (0, 1)
    ]
    at = [np.stack([one["x"], one["y"]], 1) / 65535 for one in raw]
    assert np.allclose(project(page, at[0], at[0]), layers[0])
    wait_for_list(page, nearest_to(page, [(track, 1)], layer=1))
    seen = are_drawn_at(page, project(page, at[1], at[0]))
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] - 8, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.8 * box["width"], middle)
    page.mouse.move(box["x"] + 0.7 * box["width"], middle)
    value = float(slider.input_value())
    assert 0.6 < value < 0.8
    between = are_drawn_at(page, project(page, at[0] + value * (at[1] - at[0]), at[0]))
    assert (seen != between).any()
    assert name.inner_text() == "layer 1: bands"
    page.mouse.move(box["x"] + 0.2 * box["width"], middle)
    page.mouse.up()
    wait_for_list(page, nearest_to(page, [(track, 1)]))
    assert (name.inner_text(), slider.input_value()) == ("layer 0: loudness", "0")
    are_drawn_at(page, layers[0])
    page.locator("#curve .mark").nth(1).click()
    assert name.inner_text() == "layer 1: bands"
    page.click("#sweep")  # from the first to the last, 1.4 s
    assert page.locator("#sweep").inner_text() == "■ Stop"
    wait_for(page, "() => { const at = +document.getElementById('layer').value; return at > 0.1 && at < 0.9 }")
    wait_for(page, "() => document.getElementById('sweep').ariaPressed === 'false'")
    assert slider.input_value() == "1"
    are_drawn_at(page, project(page, at[1], at[0]))


def are_drawn_at(page, where: np.ndarray) -> np.ndarray:
    """Check that a point is drawn at each place in the window, and that most of the rest is empty; give what is drawn."""
    stage, drawn = page.locator("#points").bounding_box(), pixels(page)[..., 3]
    x, y = np.rint(where - [stage["x"], stage["y"]]).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < drawn.shape[1]) & (y < drawn.shape[0])
    assert inside.sum() > 20
    assert (drawn[y[inside], x[inside]] > 30).all()
    far = np.ones(drawn.shape, bool)
    for left, top in zip(x, y, strict=True):
        far[max(0, top - 16) : max(0, top + 17), max(0, left - 16) : max(0, left + 17)] = False
    assert not drawn[far].any()
    return drawn


def test_points_glide_unless_motion_is_unwelcome(library, visit) -> None:
    """With motion they are seen under way; without, there is only before and after."""
    count = """() => new Promise((done) => {
        const [canvas, slider] = [document.getElementById("points"), document.getElementById("layer")];
        const gl = canvas.getContext("webgl2");
        const row = new Uint8Array(4 * canvas.width * canvas.height);
        const seen = new Set();
        const end = performance.now() + 1500;
        slider.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
        const look = () => {
            canvas.dispatchEvent(new Event("blur"));  // draws it in the next frame
            requestAnimationFrame(() => {
                gl.readPixels(0, 0, canvas.width, canvas.height, gl.RGBA, gl.UNSIGNED_BYTE, row);
                seen.add(row.reduce((sum, value, i) => (sum + value * (i % 9973)) % 1e9, 0));
                if (performance.now() < end) look();
                else done(seen.size);
            });
        };
        look();
    })"""
    moving = visit(library.url, reduced_motion="no-preference")
    moving.wait_for_timeout(1000)  # until the first layout is reached
    assert moving.evaluate(count) > 3
    assert visit(library.url).evaluate(count) <= 2


def test_wheel_keys_and_buttons_zoom_and_move(page) -> None:
    """About the pointer, about the middle, by 60 pixels, and back to the whole map."""
    where = places(page)
    stage = page.locator("#points").bounding_box()
    middle = np.array([stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2])
    are_drawn_at(page, where)
    page.click("#zoom-in")
    are_drawn_at(page, middle + 1.5 * (where - middle))
    page.click("#zoom-out")
    are_drawn_at(page, where)
    anchor = np.array([stage["x"] + 300, stage["y"] + 200])
    page.mouse.move(*anchor)
    page.mouse.wheel(0, -100)
    wait_for(page, "() => new Promise(requestAnimationFrame).then(() => true)")
    page.wait_for_timeout(100)
    are_drawn_at(page, anchor + np.exp(0.25) * (where - anchor))
    page.click("#fit")
    are_drawn_at(page, where)
    page.mouse.move(*anchor)
    page.mouse.down()
    page.mouse.move(*(anchor + np.array([50, 20])), steps=3)
    page.mouse.up()
    are_drawn_at(page, where + np.array([50, 20]))
    assert page.locator("#playing strong").count() == 0  # a drag is no click
    page.focus("#points")
    right, down = np.array([[60, 0], [0, 60]])
    for key, moved in {
        "0": where, "ArrowLeft": where + right, "ArrowRight": where, "ArrowUp": where + down, "ArrowDown": where,
        "+": middle + 1.4 * (where - middle), "-": where,
    }.items():  # fmt: skip
        page.keyboard.press(key)
        are_drawn_at(page, moved)


@pytest.mark.parametrize("way", ["button", "shift"])
def test_the_lasso_lists_what_lies_within(page, way) -> None:
    """Exactly the tracks inside the line; the others are faint until all are shown again."""
    where, rows = places(page), rows_of(page)
    middle = where[int(free(page, where)[0])]
    corners = middle + np.array([[-90, -70], [110, -50], [60, 100], [-80, 90]])
    if way == "button":
        page.click("#lasso")
        assert page.locator("#lasso").get_attribute("aria-pressed") == "true"
    else:
        page.keyboard.down("Shift")
    page.mouse.move(*corners[0])
    page.mouse.down()
    for corner in (*corners[1:], corners[0]):
        page.mouse.move(*corner, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    x, y = (corners - corners.mean(0)).T
    assert (np.diff(np.arctan2(y, x)) > 0).all()  # convex, one way round: inside is left of every side
    inside = np.ones(len(where), bool)
    for start, end in zip(corners, np.roll(corners, -1, 0), strict=True):
        (ex, ey), (px, py) = end - start, (where - start).T
        inside &= ex * py - ey * px > 0
    wanted = np.flatnonzero(inside)
    assert 0 < len(wanted) < len(where)
    assert listed(page, "chosen") == [rows["tracks"][row] for row in wanted]
    assert page.locator("#chosen h2").inner_text() == f"{len(wanted)} track{'s' * (len(wanted) != 1)} within the lasso"
    assert page.locator("#tab-chosen").get_attribute("aria-selected") == "true"
    assert page.locator("#playing strong").count() == 0
    alone = apart(where, 20)
    strong = pixels_under(page, where[alone]) > 200
    assert strong.tolist() == inside[alone].tolist()
    page.get_by_role("button", name="Show all").click()
    assert (pixels_under(page, where[alone]) > 200).all()
    assert listed(page, "chosen") == []


def pixels_under(page, where: np.ndarray) -> np.ndarray:
    """How opaque points are drawn: a faint one about 56 of 255, others 217 or more."""
    stage, drawn = page.locator("#points").bounding_box(), pixels(page)
    x, y = np.rint(where - [stage["x"], stage["y"]]).astype(int).T
    return drawn[y, x, 3]


def test_words_find_tracks(page) -> None:
    """All words in artist, title or path, as they are typed; nothing, markup and the way back."""
    rows, where = rows_of(page), places(page)
    page.locator("#words").press_sequentially("PLAYER flac hiss")
    genre = rows["genres"]["names"].index("hiss")
    paths = [ask(page, f"tracks/{one}")["paths"][0] for one in rows["tracks"]]
    wanted = [row for row, path in enumerate(paths) if rows["genres"]["codes"][row] == genre and path.endswith(".flac")]
    page.get_by_role("heading", name="5 tracks for “PLAYER flac hiss”").wait_for()
    assert listed(page, "chosen") == [rows["tracks"][row] for row in wanted]
    alone = apart(where, 20)
    assert (pixels_under(page, where[alone]) > 200).tolist() == np.isin(alone, wanted).tolist()
    page.get_by_role("button", name="Show all").click()
    assert page.locator("#words").input_value() == ""
    assert (pixels_under(page, where[alone]) > 200).all()
    page.fill("#words", "nobody knows this")
    page.get_by_role("heading", name="0 tracks for “nobody knows this”").wait_for()
    page.fill("#words", MARKUP)
    page.get_by_role("heading", name=f"1 track for “{MARKUP}”").wait_for()
    assert item(page, 0, "chosen").locator(".title").inner_text() == MARKUP
    page.locator("#words").press("Enter")
    page.fill("#words", "")
    wait_for(page, "() => !document.querySelector('#chosen li')")


def test_a_group_of_the_legend_is_seen_and_searched_alone(page) -> None:
    """Points of other genres are faint, and no results; a second press brings all back; artists likewise."""
    rows = rows_of(page)
    track = click_row(page, int(free(page, places(page))[0]))
    wait_for_list(page, nearest_to(page, [(track, 1)]))
    where = places(page)
    alone = apart(where, 22)
    for by, kind in (("genre", "genres"), ("artist", "artists")):
        page.select_option("#colour", by)
        page.wait_for_function(
            "n => document.querySelectorAll('#groups button').length === n", arg=len(rows[kind]["names"])
        )
        button = page.locator("#groups button").nth(1)
        name = button.locator("span").inner_text()
        button.click()
        assert button.get_attribute("aria-pressed") == "true"
        found = nearest_to(page, [(track, 1)], **{kind: [name]})
        wait_for_list(page, found)
        has = np.array([rows[kind]["names"][code] == name for code in rows[kind]["codes"]])
        raised = np.isin(rows["tracks"], [*found, track])
        assert (pixels_under(page, where[alone]) > 200).tolist() == (has | raised)[alone].tolist()
        button.click()
        wait_for_list(page, nearest_to(page, [(track, 1)]))


def test_filters_of_year_and_length(page) -> None:
    """Points outside are faint, and no results; half a range is one too; cleared, all are back."""
    rows = rows_of(page)
    track = click_row(page, int(free(page, places(page))[0]))
    wait_for_list(page, nearest_to(page, [(track, 1)]))
    where = places(page)
    years, seconds = np.array(rows["years"]), np.array(rows["seconds"])
    alone = apart(where, 22)
    page.click("#filters summary")
    page.fill("[name=first_year]", "1965")
    found = nearest_to(page, [(track, 1)], years=[1965, 9999])
    wait_for_list(page, found)
    page.fill("[name=longest]", "0.075")
    found = nearest_to(page, [(track, 1)], years=[1965, 9999], seconds=[0, 4.5])
    wait_for_list(page, found)
    assert 0 < len(found) < 30
    within = (years >= 1965) & (seconds <= 4.5) | np.isin(rows["tracks"], [*found, track])
    assert (pixels_under(page, where[alone]) > 200).tolist() == within[alone].tolist()
    page.get_by_role("button", name="Clear").click()
    wait_for_list(page, nearest_to(page, [(track, 1)]))
    assert (pixels_under(page, where[alone]) > 200).all()


def test_more_and_less_like_this(page) -> None:
    """Each is one more seed, shown as a chip that takes it away again; less before more asks for something to be like."""
    page.fill("#words", "drone")
    page.wait_for_selector("#chosen li")
    item(page, 0, "chosen").get_by_role("button", name="Less like this").click()
    page.get_by_text("First say what it should be like").wait_for()
    page.get_by_role("button", name="Show all").click()
    track = click_row(page, int(free(page, places(page))[0]))
    wait_for_list(page, nearest_to(page, [(track, 1)]))
    unlike, like = listed(page)[2], listed(page)[0]
    item(page, 2).get_by_role("button", name="Less like this").click()
    wait_for_list(page, nearest_to(page, [(track, 1), (unlike, -0.5)]))
    nth = listed(page).index(like)
    item(page, nth).get_by_role("button", name="More like this").click()
    wait_for_list(page, nearest_to(page, [(track, 1), (unlike, -0.5), (like, 1)]))
    chips = page.locator(".chips li")
    assert [text.split()[0] for text in chips.all_inner_texts()] == ["like", "unlike", "like"]
    chips.nth(1).get_by_role("button").click()
    wait_for_list(page, nearest_to(page, [(track, 1), (like, 1)]))
    chips.nth(1).get_by_role("button").click()
    chips.nth(0).get_by_role("button").click()
    page.get_by_text("Click a point to hear it and see what is near.").wait_for()


def test_points_are_coloured_by_artist_cluster_and_error(page) -> None:
    """As many groups as the service names, with as many tracks; the colours of errors are those that the probe made."""
    rows, where = rows_of(page), places(page)
    alone = apart(where, 14)
    clusters = ask(page, "map/positions", method="umap", layer=0, version=rows["version"])["clusters"]
    [study] = [one["name"] for one in ask(page, "studies") if one["kind"] == "probe"]
    tested = ask(page, f"studies/{study}/tracks")
    right = dict(zip(tested["tracks"], tested["right"], strict=True))
    steps = [0 if (r := right[one]) == 0 else 1 if r < 0.5 else 2 if r < 1 else 3 for one in rows["tracks"]]
    for by, codes in {"artist": rows["artists"]["codes"], "cluster": clusters, "error": steps}.items():
        page.select_option("#colour", by)
        sizes = sorted(np.unique(codes, return_counts=True)[1].tolist())
        wait_for(
            page,
            "n => [...document.querySelectorAll('#groups button small')].filter((one) => one.textContent !== '0').length === n",
            len(sizes),
        )
        assert (
            sorted(int(text) for text in page.locator("#groups button small").all_inner_texts() if text != "0") == sizes
        )
        drawn = colours_at(page, where[alone])
        same = np.linalg.norm(drawn[:, None] - drawn, axis=2) < 12
        assert (same == (np.array(codes)[alone][:, None] == np.array(codes)[alone])).all()
    assert page.locator("#groups span").all_inner_texts() == [
        "always wrong",
        "mostly wrong",
        "mostly right",
        "always right",
    ]


def test_the_projection_can_be_chosen(page) -> None:
    """PCA instead of UMAP: the points are where that map has them."""
    assert page.locator("#method").input_value() == "umap"
    page.select_option("#method", "pca")
    page.wait_for_timeout(200)
    page.click("#fit")
    are_drawn_at(page, places(page, method="pca"))


# ---- sound ----


def test_a_playlist_is_kept_put_in_order_and_saved(page) -> None:
    """Added once each, moved, taken off, there again after the page is read again; the file names the sounds in order."""
    click_row(page, int(free(page, places(page))[0]))
    page.wait_for_selector("#nearest li[data-track]")
    first, second, third = listed(page)[:3]
    for nth in (0, 1, 2, 1):
        item(page, nth).get_by_role("button", name="Add to the playlist").click()
    page.get_by_text("is on the playlist already").wait_for()
    page.click("#tab-playlist")
    assert page.locator("#tab-playlist").inner_text() == "Playlist (3)"
    assert listed(page, "playlist") == [first, second, third]
    item(page, 2, "playlist").get_by_role("button", name="Up:").click()
    assert listed(page, "playlist") == [first, third, second]
    assert page.evaluate("document.activeElement.ariaLabel").startswith("Up: ")  # so that it can be pressed again
    item(page, 0, "playlist").get_by_role("button", name="Down:").click()
    page.reload()
    page.wait_for_selector("body[data-ready]")
    page.click("#tab-playlist")
    assert listed(page, "playlist") == [third, first, second]
    page.fill("#playlist-name", "für: Anna/Ben")
    with page.expect_download() as got:
        page.click("#save-playlist")
    assert got.value.suggested_filename == "für_ Anna_Ben.m3u8"
    lines = Path(got.value.path()).read_text("utf-8").splitlines()
    paths = [ask(page, f"tracks/{one}")["paths"][0] for one in (third, first, second)]
    assert lines[0] == "#EXTM3U"
    assert [line for line in lines if not line.startswith("#")] == paths
    item(page, 1, "playlist").get_by_role("button", name="Take off:").click()
    assert listed(page, "playlist") == [third, second]
    page.get_by_role("button", name="Empty it").click()
    page.get_by_text("Nothing yet. + beside a track puts it here.").wait_for()
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.locator("#tab-playlist").inner_text() == "Playlist"


DROP = """([name, data, kinds]) => {
    const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name));
    for (const kind of kinds)
        document.body.dispatchEvent(new DragEvent(kind, { dataTransfer, bubbles: true, cancelable: true }));
}"""


def drop(page, name: str, data: bytes, kinds=("dragenter", "dragover", "drop")) -> None:
    """Do what a browser does when a file is dropped."""
    page.evaluate(DROP, [name, base64.b64encode(data).decode(), kinds])


def test_a_file_that_is_dropped_finds_its_place(page, library, tmp_path) -> None:
    """Its neighbours are those of the upload; it plays; genres are guessed; a star lies on the map; both ways in work."""
    new = tmp_path / "new song.wav"
    soundfile.write(new, sound("flute", 31), 8000)
    drop(page, new.name, b"", ["dragenter"])
    assert page.locator("#drop").is_visible()
    drop(page, new.name, b"", ["dragleave"])
    assert page.locator("#drop").is_hidden()
    before = overlay(page)
    with page.expect_response("**/api/uploads?name=*") as got:
        drop(page, new.name, new.read_bytes())
    heard = got.value.json()
    assert page.locator("#drop").is_hidden()
    wait_for_list(page, nearest_to(page, [(f"upload:{heard['id']}", 1)]))
    wait_for(page, "() => document.getElementById('audio').currentTime > 0.2")
    assert page.evaluate("document.getElementById('audio').currentSrc").startswith("blob:")
    assert page.get_by_role("heading", name="Genre, says the probe genres").is_visible()
    said = [line.split("\n") for line in page.locator(".guesses li").all_inner_texts()]
    assert [(one[0], one[-1]) for one in said] == [
        (g["genre"], f"{round(100 * g['probability'])} %") for g in heard["genres"]
    ]
    assert heard["genres"][0]["genre"] == "flute"
    rows, where = rows_of(page), places(page)
    near = ask(page, f"uploads/{heard['id']}/neighbors", layer=0, k=5)["hits"]
    weights = [hit["score"] for hit in near]
    middle = np.average(where[[rows["tracks"].index(hit["track"]) for hit in near]], axis=0, weights=weights)
    stage = page.locator("#overlay").bounding_box()
    x, y = np.rint(middle - [stage["x"], stage["y"]]).astype(int)
    assert overlay(page)[y, x].tolist()[:3] == [255, 209, 102]
    assert before[y, x].tolist()[:3] != [255, 209, 102]
    page.locator("#groups button", has_text="drone").click()  # another question moves it no more
    page.wait_for_function("() => location.hash.includes('only=drone')")
    page.wait_for_timeout(600)
    assert overlay(page)[y, x].tolist()[:3] == [255, 209, 102]
    page.locator("#groups button", has_text="drone").click()
    stored = library.music / "hiss" / "hiss 1.wav"
    page.set_input_files("#file", stored)  # a file that is stored is known
    page.get_by_text("This very sound is stored already.").wait_for()
    with page.expect_file_chooser():
        page.click("#open-file")


def overlay(page) -> np.ndarray:
    """Read what stands above the points: (height, width, 4)."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    read = """() => { const c = document.getElementById("overlay");
        const data = c.getContext("2d").getImageData(0, 0, c.width, c.height).data;
        let text = "";
        for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
        return [c.width, c.height, btoa(text)] }"""
    width, height, text = page.evaluate(read)
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(height, width, 4)


def test_a_file_without_sound_is_one_clear_line(library, visit) -> None:
    """It says which file and why; the page goes on."""
    page = visit(library.url, expected=["422"])
    drop(page, "holiday.txt", b"Dear diary")
    alert = page.locator("#nearest [role=alert]")
    alert.wait_for()
    assert re.fullmatch(r"holiday\.txt: [^\n]*not audio[^\n]*", alert.inner_text())
    assert page.locator("body.busy").count() == 0
    click_row(page, int(free(page, places(page))[0]))
    page.wait_for_selector("#nearest li[data-track]")


def test_a_format_that_the_browser_lacks_is_transcoded(page) -> None:
    """AIFF: asked for as it is, then as FLAC, which plays."""
    page.fill("#words", "flute aiff")
    page.get_by_role("heading", name="1 track for “flute aiff”").wait_for()
    item(page, 0, "chosen").locator(".play").click()
    wait_until_played(page, f"/api/tracks/{listed(page, 'chosen')[0]}/audio?as=flac")
    assert page.evaluate("document.getElementById('audio').duration") == pytest.approx(5.0, abs=0.01)


def test_a_file_that_is_gone_is_said(library, visit) -> None:
    """Why it cannot be played, in one line; the page goes on."""
    page = visit(library.url, expected=["410"])
    gone = library.music / "drone" / "drone 7.wav"
    aside = gone.rename(gone.with_name("aside"))
    try:
        page.fill("#words", "drone")
        page.locator("#chosen li", has_text="Drone no. 7").locator(".play").click()
        after = page.locator("#chosen li", has_text="Drone no. 7").locator("+ li").get_attribute("data-track")
        page.locator("#news .bad", has_text="Drone no. 7 cannot be played:").wait_for()
        wait_until_played(page, f"{after}/audio")  # the list goes on
    finally:
        aside.rename(gone)


# ---- probes, audits, failures ----


def test_a_probe_is_run_and_its_mistakes_are_heard(library, visit) -> None:
    """From the form to the report; its curve stands over the slider; a cell of the matrix lists its tracks, which play."""
    page = visit(f"{library.url}/#/probes")
    page.get_by_role("row", name="genres").first.wait_for()
    page.select_option("#run-probe", "centroid")
    page.get_by_role("button", name="Run the probe").click()
    page.wait_for_url("**/#/probes/centroid*", timeout=60_000)
    page.get_by_role("heading", name="centroid: macro-F1").wait_for()
    name = page.url.rpartition("/")[2]
    report = ask(page, f"studies/{name}")["report"]
    labels, matrix = report["confusion"]["labels"], np.array(report["confusion"]["matrix"])
    truth, said = max(np.argwhere(~np.eye(4, dtype=bool)), key=lambda at: matrix[tuple(at)])
    assert matrix[truth, said] > 0
    seeds = len(report["protocol"]["seeds"])
    shown = [
        [float(cell or 0) for cell in row.locator("td").all_inner_texts()]
        for row in page.locator(".confusion tbody tr").all()
    ]
    assert np.allclose(shown, matrix / seeds, atol=0.06)
    page.locator(".confusion tbody tr").nth(int(truth)).locator("td").nth(int(said)).get_by_role("button").click()
    page.get_by_role("heading", name=f"{labels[truth]} taken for {labels[said]}").wait_for()
    wanted = [
        one["id"] for one in ask(page, f"studies/{name}/confused", true=labels[truth], predicted=labels[said])["tracks"]
    ]
    assert listed(page, "confused") == wanted
    genres = {track["labels"]["genres"][0] for track in ask(page, "tracks", id=wanted[0])["tracks"]}
    assert genres == {labels[truth]}
    item(page, 0, "confused").locator(".play").click()
    wait_until_played(page, f"/api/tracks/{wanted[0]}/audio")
    per_genre = page.get_by_role("region", name="Genres, by the layer chosen").locator("tbody tr")
    assert per_genre.count() == 4
    page.get_by_role("button", name="Show on the map").click()
    assert sorted(listed(page, "chosen")) == sorted(wanted)
    drawn = page.locator("#curve svg")
    drawn.wait_for()
    assert f"not told from the preferred layer {report['best_layer']}: " in drawn.get_attribute("aria-label")
    assert page.locator("#curve .mark").count() == 2
    study = library.folder / "store" / "studies" / f"{name}.json"
    study.unlink()  # other tests know one probe


def test_an_audit_plays_its_pairs(library, visit) -> None:
    """The table of groupings, and both sides of a pair."""
    page = visit(f"{library.url}/#/audits")
    page.locator("#study-page tbody a").first.click()
    page.get_by_role("heading", name="Leak audit, logistic probe").wait_for()
    [name] = [one["name"] for one in ask(page, "studies") if one["kind"] == "audit"]
    report = ask(page, f"studies/{name}")["report"]
    page.get_by_text(report["verdict"]).wait_for()
    offender = next(one for one in report["offenders"] if one["examples"])
    pair = page.locator(".pairs tbody tr").first
    for side in (0, 1):
        line = pair.locator("td").nth(side).locator("li")
        assert line.get_attribute("data-track") == offender["tracks"][0][side]
        line.locator(".play").click()
        wait_until_played(page, f"/api/tracks/{offender['tracks'][0][side]}/audio")


def test_an_audit_is_run_and_stopped(library, visit) -> None:
    """It says how far it is; Stop ends it."""
    page = visit(f"{library.url}/#/audits")
    page.select_option("#run-probe", "mlp")
    page.get_by_role("button", name="Run the audit").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Stopped; what was finished is kept.").wait_for()


def test_failures_are_listed(library, visit) -> None:
    """The broken file and why."""
    page = visit(f"{library.url}/#/failures")
    row = page.get_by_role("row", name=str(library.music / "broken.mp3"))
    row.wait_for()
    assert "not audio" in row.inner_text()
    assert page.locator("nav [aria-current]").inner_text() == "Failures"


# ---- libraries of all sizes ----


def test_the_life_of_a_library(tmp_path, serving, visit, library) -> None:
    """No track, one, more without labels, labels, all while the page is open; then the service ends."""
    music, store = tmp_path / "music", tmp_path / "store"
    music.mkdir()
    shutil.copy(library.music / "broken.mp3", music)

    def grow(*names, labels="none"):
        for name in names:
            (music / name).parent.mkdir(exist_ok=True)
            shutil.copy(library.music / name, music / name)
        with toys():
            build(music, store, encoder="toy_encoder:Toy", jobs=1, labels=labels)

    grow()
    with serving(store) as (process, where):
        page = visit("about:blank", ready=False, expected=["ERR_CONNECTION_REFUSED"])
        page.clock.install()
        page.goto(where["url"])
        page.wait_for_selector("body[data-ready]")
        blank = page.locator("#blank")
        assert blank.inner_text().split("\n") == [
            "No tracks yet.", "", f"embedstore build MUSIC_FOLDER --store {store}", "", "They appear here as they come.",
        ]  # fmt: skip
        assert page.locator("#waiting").is_hidden()
        shot(page, "empty")
        grow("hiss/hiss 1.wav")
        poll_until(page, "() => document.getElementById('blank').hidden && document.getElementById('method').value")
        page.get_by_text("The library has changed: 1 track now.").or_(page.locator("#blank")).first.wait_for(
            state="attached"
        )
        page.wait_for_timeout(500)
        seen = np.asarray(Image.open(io.BytesIO(page.locator("#points").screenshot())))[:, :700, :3].astype(int)
        assert (np.ptp(seen, axis=2) > 80).sum() > 20  # in colour; `pixels` needs frames of the real clock
        shot(page, "one")
        page.focus("#points")
        page.keyboard.press("Enter")
        wait_until_played(page, f"{rows_of(page)['tracks'][0]}/audio")
        wait_for_list(page, [])
        grow("drone/drone 1.wav", "flute/flute 1.wav", "hiss/hiss 2.flac")
        poll_until(page, "() => document.getElementById('news').textContent.includes('4 tracks now')")
        page.wait_for_timeout(500)
        assert page.locator("#colour").input_value() == "cluster"  # there is nothing else to tell them apart
        shot(page, "unlabelled")
        grow(labels="folder")
        page.select_option("#colour", "genre")
        poll_until(page, "() => document.getElementById('groups').textContent.includes('drone')")
        assert page.locator("#groups button").all_inner_texts() == ["hiss\n2", "drone\n1", "flute\n1"]
        shot(page, "few")
        process.terminate()
        process.wait(10)
        page.fill("#words", "hiss")
        page.get_by_text("The service does not answer; is `embedstore serve` still running?").wait_for()
        page.clock.fast_forward(30_000)
        page.wait_for_timeout(300)
        assert page.locator("#news p").count() <= 1


def poll_until(page, condition: str) -> None:
    """Let the time pass after which the page asks whether the library has grown, until it has taken it up."""
    end = time.monotonic() + 60  # of a map that another process makes, on a busy machine
    while time.monotonic() < end:
        page.clock.fast_forward(11_000)
        page.wait_for_timeout(300)
        if page.evaluate(condition):
            return
    pytest.fail(f"never: {condition}; {page.locator('body').inner_text()}")


def test_a_hundred_thousand_points(page, visit, library) -> None:
    """They are drawn, named under the pointer, and moved between layers; what is asked of the service is made up here."""
    rng, count = np.random.default_rng(5), 100_000
    at = rng.normal(32768, 8000, (2, 2, count)).clip(0, 65535).astype(int)
    codes = rng.integers(0, 100, count).tolist()
    names = {"names": [f"genre {i}" for i in range(100)], "codes": codes}
    version = {"version": "many"}
    answers = {
        "map": ask(page, "map") | version | {"tracks": count},
        "map/tracks": version | {
            "tracks": [f"{i:016x}" for i in range(count)], "titles": [f"Song {i}" for i in range(count)],
            "genres": names, "artists": names, "years": [1990] * count, "seconds": [180.0] * count,
        },
    } | {
        f"map/positions/{layer}": version | {"method": "umap", "layer": layer, "clusters": [0] * count, "x": at[layer, 0].tolist(), "y": at[layer, 1].tolist()}
        for layer in (0, 1)
    }  # fmt: skip
    bodies = {path: json.dumps(answer) for path, answer in answers.items()}

    def answer(route):
        path, _, query = route.request.url.partition("/api/")[2].partition("?")
        layer = f"/{query.partition('layer=')[2][0]}" if path.endswith("positions") else ""
        route.fulfill(body=bodies[path + layer], content_type="application/json")

    many = visit("about:blank", ready=False)
    many.route(re.compile("/api/map(/|$)"), answer)
    many.goto(library.url)
    many.wait_for_selector("body[data-ready]")
    many.wait_for_timeout(300)
    stage = many.locator("#points").bounding_box()
    assert (pixels(many)[..., 3] > 0).mean() > 0.1
    assert len(np.unique(pixels(many)[..., :3].reshape(-1, 3) // 32, axis=0)) > 20
    shot(many, "many")
    start = many.evaluate("performance.now()")
    many.mouse.move(stage["x"] + 0.4 * stage["width"], stage["y"] + 0.5 * stage["height"])
    many.locator("#tip").wait_for(state="visible")
    assert many.locator("#tip").inner_text().startswith("Song ")
    many.focus("#layer")
    before = pixels(many)
    many.keyboard.press("ArrowRight")
    many.get_by_text("layer 1: bands").wait_for()
    many.wait_for_timeout(300)
    assert (before != pixels(many)).mean() > 0.05
    assert many.evaluate("performance.now()") - start < 10_000
    many.fill("#words", "")
    assert many.locator("#groups li").count() == 21


# ---- for everybody ----


def test_a_phone(library, visit) -> None:
    """Nothing is wider than the window, on any page; the map, lists, player and filters can be reached and used by touch."""
    page = visit(library.url, viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True)
    where = places(page)
    row = int(free(page, where)[0])
    page.touchscreen.tap(*where[row])
    wait_until_played(page, f"{rows_of(page)['tracks'][row]}/audio")
    page.wait_for_selector("#nearest li[data-track]")
    shot(page, "phone", full_page=True)
    page.locator("#filters summary").click()
    inside(page, "#filters form")
    page.locator("#filters summary").click()
    page.locator("#legend summary").click()
    inside(page, "#legend")
    item(page, 5).get_by_role("button", name="Add to the playlist").click()
    page.click("#tab-playlist")
    assert len(listed(page, "playlist")) == 1
    for name in ("", "#/probes", f"#/probes/{library.probe}", "#/audits", f"#/audits/{library.audit}", "#/failures"):
        page.goto(f"{library.url}/{name}")
        page.wait_for_timeout(400)
        assert page.evaluate(WIDE) == [], name
        shot(page, f"phone{name.replace('#/', '-').replace('/', '-')}", full_page=True)


# tables scroll by themselves
WIDE = """() => [...document.querySelectorAll("body *")].filter((one) => {
    const { left, right, width } = one.getBoundingClientRect();
    return width > 1 && !one.closest(".wide table, .skip, #curve svg") && (left < -0.5 || right > 390.5);
}).map((one) => `${one.tagName} ${one.id} ${one.className}`)"""


def inside(page, name: str) -> None:
    """Check that something is within the width of the window, and that the pointer reaches what is in it."""
    page.locator(name).scroll_into_view_if_needed()
    box = page.locator(name).bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= page.viewport_size["width"]


def test_by_keyboard_alone(page) -> None:
    """Tab reaches every control in the order of the page and shows where it is; Enter plays the middle; tabs go by arrows."""
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        at = page.evaluate("""() => {
            const one = document.activeElement;
            const style = getComputedStyle(one);
            return [one.id || one.textContent.trim(), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2, one.tagName];
        }""")
        if at[2] == "BODY" or at[0] == "Skip to the content":
            break
        seen.append(at[:2])
    names = [name for name, _ in seen]
    order = [
        "embedstore", "Map", "Probes", "Audits", "Failures", "words", "open-file", "points", "zoom-in", "zoom-out", "fit", "lasso",
        "colour", "Groups", "sweep", "method", "Filters", "layer", "tab-nearest", "nearest", "audio",
    ]  # fmt: skip
    assert [*dict.fromkeys(name for name in names if name in order)] == order, names  # the player has several parts
    assert {name for name, visible in seen if not visible} <= {
        "audio"
    }  # the browser marks the parts of its player itself
    page.focus("#points")
    where = places(page)
    stage = page.locator("#points").bounding_box()
    middle = [stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2]
    row = int(np.linalg.norm(where - middle, axis=1).argmin())
    page.keyboard.press("Enter")
    track = rows_of(page)["tracks"][row]
    wait_until_played(page, f"{track}/audio")
    wait_for_list(page, nearest_to(page, [(track, 1)]))
    page.focus("#tab-nearest")
    for name in ("chosen", "playlist", "nearest"):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.id") == f"tab-{name}"
        assert [page.locator(f"#{one}").is_visible() for one in ("nearest", "chosen", "playlist")] == [
            one == name for one in ("nearest", "chosen", "playlist")
        ]
    page.locator(".skip").press("Enter")
    assert page.evaluate("document.activeElement.id") == "view"
    assert page.locator("#map-page").is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_for_everybody(library, visit, scheme) -> None:
    """Names, roles and contrast of all pages, as axe judges them; the tabs belong to their panels."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(library.url, color_scheme=scheme)
    click_row(page, int(free(page, places(page))[0]))
    page.wait_for_selector("#nearest li[data-track]")
    item(page, 1).get_by_role("button", name="Less like this").click()
    page.wait_for_selector(".chips .unlike")
    found = {"map": judge(axe, page)}
    shot(page, f"map-{scheme}")
    page.click("#filters summary")
    item(page, 0).get_by_role("button", name="Add to the playlist").click()
    page.click("#tab-playlist")
    found["playlist"] = judge(axe, page)
    for name in ("#/probes", f"#/probes/{library.probe}", "#/audits", f"#/audits/{library.audit}", "#/failures"):
        page.goto(f"{library.url}/{name}")
        page.wait_for_selector("#study-page h2")
        if name.startswith("#/probes/"):
            page.locator(".confusion button.wrong").first.click()
            page.wait_for_selector("#confused li")
        found[name] = judge(axe, page)
        shot(page, f"{name[2:].replace('/', '-')}-{scheme}", full_page=True)
    assert not {name: faults for name, faults in found.items() if faults}, found
    for tab in page.get_by_role("tab", include_hidden=True).all():
        panel = page.locator(f"#{tab.get_attribute('aria-controls')}")
        assert panel.get_attribute("role") == "tabpanel"
        assert panel.get_attribute("aria-labelledby") == tab.get_attribute("id")


def judge(axe, page) -> list:
    """Give the faults that axe finds."""
    found = axe.run(page).response["violations"]
    return [
        (one["id"], node["html"][:200], node["any"][0]["message"] if node["any"] else "")
        for one in found
        for node in one["nodes"]
    ]


def test_with_a_token(library, serving, visit) -> None:
    """Off loopback the page wants its token; the printed address lets a browser in, which keeps it, and sound plays."""
    with serving(library.folder / "store", "--host", "0.0.0.0") as (_, where):  # noqa: S104
        here = f"http://127.0.0.1:{where['url'].rpartition(':')[2]}"
        page = visit(here, ready=False, expected=["401"])
        assert (
            page.locator("body")
            .inner_text()
            .startswith("This page needs its token. Open the address that embedstore serve printed")
        )
        page.goto(f"{here}/?token={where['token']}")
        page.wait_for_selector("body[data-ready]")
        assert page.url.partition("#")[0] == f"{here}/"
        [cookie] = page.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
        track = click_row(page, int(free(page, places(page))[0]))
        wait_until_played(page, f"{track}/audio")
        page.reload()
        page.wait_for_selector("body[data-ready]")


def shot(page, name: str, **options) -> None:
    """Take a picture of the page to be looked at, into the folder SHOTS."""
    if folder := os.environ.get("SHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", **options)
