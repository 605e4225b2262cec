"""A store of ten tracks around a circle, with files that can be played, and a client of its service."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from embedstore.search import Searcher
from embedstore.store import EmbeddingStore
from embedstore.types import AudioFile, EncoderCard, Layer, LayerEmbeddings, Track, TrackLabels, track_id

collect_ignore_glob = [] if find_spec("fastapi") else ["test_*.py"]  # without the extra `web` there is nothing to test
HERE = "http://127.0.0.1:8765"
ARTISTS = ("Ann", "Ben", "Cem", "Dan", "Eve")


class Shelf:
    """A store and its music.

    Track i lies at 10 * i degrees in the plane; the first five are blues, the others rock; two tracks have an artist.
    """

    def __init__(self, folder: Path) -> None:
        self.music = folder / "music"
        self.music.mkdir(parents=True)
        layers = (Layer(0, "layer 0", 2), Layer(1, "layer 1", 2))
        card = EncoderCard("toy", "toy", "", "0" * 64, 16000, layers, 50.0, "none", "float32", "CC0-1.0", "", 1)
        self.store = EmbeddingStore.create(folder / "store", card, {"encoder": "toy", "dtype": "float16"})

    def sound(self, i: int) -> bytes:
        """Give what the file of track i holds."""
        return bytes([65 + i]) * (1000 + i)

    def put(self, i: int, name: str | None = None) -> str:
        """Store track i; give its id."""
        path = self.music / (name or f"{i}.ogg")
        path.write_bytes(self.sound(i))
        status, angle = path.stat(), np.radians(10 * i)
        file = AudioFile(str(self.music), path.name, status.st_size, status.st_mtime_ns)
        labels = TrackLabels(("blues" if i < 5 else "rock",), (ARTISTS[i // 2 % 5],), title=f"Song {i}")
        vector = np.array([np.cos(angle), np.sin(angle)], np.float32)
        with self.store.writer() as writer:
            writer.add(
                Track(1000 + i, (file,), 30.0, 44100, 2, labels), f"{i:032x}", LayerEmbeddings((vector, vector), 10)
            )
        return track_id(1000 + i)


@pytest.fixture(scope="session")
def client_of():
    """Make a client whose server's faults are answers, as they are over a network."""
    from fastapi.testclient import TestClient

    from embedstore.web.app import create_app

    def make(searcher: Searcher, **options):
        return TestClient(create_app(searcher, **options), base_url=HERE, raise_server_exceptions=False)

    return make


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Ten tracks."""
    shelf = Shelf(tmp_path_factory.mktemp("web"))
    for i in range(10):
        shelf.put(i)
    return shelf


@pytest.fixture
def new_shelf(tmp_path: Path) -> Shelf:
    """Nothing yet."""
    return Shelf(tmp_path)


@pytest.fixture(scope="module")
def searcher(shelf: Shelf) -> Iterator[Searcher]:
    """Search them."""
    searcher = Searcher(shelf.store)
    yield searcher
    searcher.close()


@pytest.fixture(scope="module")
def client(searcher: Searcher, client_of):
    """Ask for them."""
    with client_of(searcher) as client:
        yield client


PLUGINS = Path(__file__).parents[1] / "plugins"
SOFTWARE = [
    "--no-sandbox",
    "--enable-unsafe-swiftshader",
    "--use-angle=swiftshader",
    "--mute-audio",
]  # WebGL without a graphics card
LISTEN = (
    "addEventListener('securitypolicyviolation', (e) => console.error(`CSP: ${e.violatedDirective} ${e.blockedURI}`))"
)
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


@pytest.fixture(scope="session")
def serving():
    """Run the real command on a store; give its process and where it is."""

    @contextlib.contextmanager
    def run(store, *options):
        command = [sys.executable, "-m", "cli", "serve", "--store", str(store), "--port", "0", "--json", *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(PLUGINS), os.environ.get("PYTHONPATH", "")])}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                yield process, json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
            finally:
                process.terminate()

    return run


@pytest.fixture(scope="module")
def browser():
    """Start Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=SOFTWARE)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """Open a page in a window of its own, as `browser.new_context` takes it, and wait until it is drawn.

    The test fails on whatever the browser complains of, except lines that hold a word of `expected`.
    """
    faults, contexts, known = [], [], []

    def open_page(url, *, expected=(), ready=True, **options):
        context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **options}
        )
        context.set_default_timeout(20_000)
        contexts.append(context)
        known.extend(expected)
        page = context.new_page()
        page.add_init_script(LISTEN)
        page.on("console", lambda said: said.type == "error" and faults.append(f"console: {said.text} {said.location}"))
        page.on("pageerror", lambda error: faults.append(f"page: {error}"))
        page.on("requestfailed", lambda asked: faults.append(f"request: {asked.url} {asked.failure}"))
        page.on("response", lambda got: got.status >= 400 and faults.append(f"answer: {got.status} {got.url}"))
        page.goto(url)
        if ready:
            page.wait_for_selector("body[data-ready]")
            page.evaluate(DRAWN)
        return page

    yield open_page
    for context in contexts:
        context.close()
    # the page itself ends questions whose answer nobody waits for any more, and Chromium those of a sound it has enough of
    faults = [fault for fault in faults if not any(word in fault for word in ("net::ERR_ABORTED", *known))]
    assert not faults, faults
