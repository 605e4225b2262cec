"""Claim: the page's map of 100,000 points zooms, and moves all of them to another layer, in a fraction of the time that Plotly's WebGL points take.

The same points in 16 colours, the same window (1280 x 720), one after the other in the same headless Chromium, round by round. *Zoomed*
is one step of the wheel; *moved* puts all points at other places, as another layer does (on the way the page draws some forty frames
more, each as one of *zoomed*). Each until the picture is finished, which reading one pixel back waits for, and until the page answers
again. Chromium has no graphics card here and fills the pixels on the same two cores; with one, the page's own work is what is left.
That both show the same is checked: which cells of 8 x 8 pixels hold a point.

Run: python benchmarks/page_speed.py [--points 100000] [--rounds 9]    (quick: --points 5000 --rounds 3)
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from _common import VERDICTS, Timing, header, table, verdict

from embedstore.web.routes.page import PAGE

ARGUMENTS = ("--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader")
BLANK = "<!doctype html><body style='margin:0;background:#fff'><div id='plot' style='position:relative;width:1280px;height:720px'>"
SHARED = """(count) => {
  const GROUPS = 16;
  let state = 1;
  const next = () => (state = (state * 1664525 + 1013904223) % 4294967296) / 4294967296;
  const layout = (turn) => {
    const xy = new Float64Array(2 * count);
    for (let i = 0; i < count; i++) {
      const [away, angle, group] = [0.04 * Math.sqrt(-2 * Math.log(1 - 0.999 * next())), 2 * Math.PI * next(), i % GROUPS];
      xy[2 * i] = 0.5 + 0.33 * Math.cos(group + turn) + away * Math.cos(angle);
      xy[2 * i + 1] = 0.5 + 0.33 * Math.sin(group * turn) + away * Math.sin(angle);
    }
    return xy;
  };
  const colours = Array.from({ length: GROUPS }, (_, i) => [(37 * i + 40) % 200, (91 * i + 10) % 200, (53 * i + 120) % 200]);
  const frame = () => new Promise(requestAnimationFrame);
  const finish = (gl) => gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  return (window.bench = { GROUPS, count, layouts: [layout(1), layout(2)], colours, frame, finish });
}"""
OURS = """async () => {
  const { GROUPS, count, layouts, colours, frame, finish } = window.bench;
  const { PointMap } = await import("/map.js");
  const canvases = [0, 1].map(() => document.createElement("canvas"));
  for (const one of canvases) one.style.cssText = "position:absolute;inset:0;width:1280px;height:720px";
  document.getElementById("plot").append(...canvases);
  const places = layouts.map((xy) => Uint16Array.from(xy, (x) => 65535 * x));
  const painted = new Uint8Array(3 * count);
  for (let i = 0; i < count; i++) painted.set(colours[i % GROUPS], 3 * i);
  const map = new PointMap(...canvases);
  for (let i = 0; i < 3; i++) await frame(); // until it knows its size
  map.camera = { x: 0.5, y: 0.5, zoom: 1 }; // as Plotly's axes below
  const timed = async (act) => {
    const began = performance.now();
    act();
    await frame(); // it drew just before
    finish(map.gl);
    return performance.now() - began;
  };
  let [there, near] = [0, false];
  window.acts = {
    drawn: () => timed(() => (map.reset(count, places[0]), map.paint(painted), map.layOut(places[0], places[0], 1))),
    zoomed: () => timed(() => map.zoom((near = !near) ? 1.25 : 0.8)),
    moved: () => timed(() => map.layOut(places[(there = 1 - there)], places[there], 1)),
    pointed: async () => {
      const began = performance.now();
      for (let i = 0; i < 10; i++) map.rowAt(400 + 40 * i, 360);
      return (performance.now() - began) / 10;
    },
  };
}"""
PLOTLY = """async () => {
  const { GROUPS, count, layouts, colours, frame, finish } = window.bench;
  const div = document.getElementById("plot");
  const axes = layouts.map((xy) => [0, 1].map((axis) => Array.from({ length: GROUPS }, (_, g) => {
    const one = new Float64Array(Math.ceil((count - g) / GROUPS));
    for (let i = g, at = 0; i < count; i += GROUPS) one[at++] = xy[2 * i + axis];
    return one;
  })));
  const size = Math.min(16, 2.2 + 6 * Math.min(1, Math.sqrt(4000 / count)));
  const traces = colours.map(([r, g, b], group) => ({
    type: "scattergl", mode: "markers", x: axes[0][0][group], y: axes[0][1][group], marker: { size, color: `rgb(${r},${g},${b})`, opacity: 0.85 },
  }));
  const wide = (zoom) => ({ "xaxis.range": [0.5 - 8 / 9 / zoom, 0.5 + 8 / 9 / zoom], "yaxis.range": [0.5 - 0.5 / zoom, 0.5 + 0.5 / zoom] });
  const look = { width: 1280, height: 720, margin: { l: 0, r: 0, t: 0, b: 0 }, showlegend: false, hovermode: "closest",
    xaxis: { visible: false, range: wide(1)["xaxis.range"] }, yaxis: { visible: false, range: wide(1)["yaxis.range"] } };
  const contexts = () => [...div.querySelectorAll(".gl-canvas")].map((one) => one.getContext("webgl"));
  const timed = async (act) => {
    const began = performance.now();
    await act();
    await frame();
    contexts().forEach((gl) => gl && finish(gl));
    return performance.now() - began;
  };
  let [there, near] = [0, false];
  window.acts = {
    drawn: () => timed(() => Plotly.newPlot(div, traces, look, { staticPlot: false, displayModeBar: false })),
    zoomed: () => timed(() => Plotly.relayout(div, wide((near = !near) ? 1.25 : 1))),
    moved: () => timed(() => Plotly.restyle(div, { x: axes[(there = 1 - there)][0], y: axes[there][1] })),
  };
}"""


def cells(page: Any) -> np.ndarray:
    """Look at the page: which cells of 8 x 8 pixels hold a point."""
    from PIL import Image

    page.wait_for_timeout(500)
    seen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("L")) < 200
    return seen.reshape(90, 8, 160, 8).any(axis=(1, 3))


def main() -> None:
    """Draw both, round by round."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    plotly = find_spec("plotly")
    if chromium is None or plotly is None or not find_spec("playwright"):
        print("not measured: it needs Chromium, playwright and plotly")
        return
    from playwright.sync_api import sync_playwright

    script = Path(str(plotly.origin)).parent / "package_data" / "plotly.min.js"
    taken: dict[tuple[str, str], list[float]] = {}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        pages = {}
        for name, make in (("the page", OURS), ("Plotly", PLOTLY)):
            page = pages[name] = browser.new_page(viewport={"width": 1280, "height": 720})
            page.route("http://page.test/", lambda route: route.fulfill(body=BLANK, content_type="text/html"))
            page.route("**/*.js", lambda route: route.fulfill(path=PAGE / route.request.url.rpartition("/")[2]))
            page.goto("http://page.test/")
            if name == "Plotly":
                page.add_script_tag(content=script.read_text(encoding="utf-8"))
            page.evaluate(f"({SHARED})({asked.points}) && 0")
            page.evaluate(make)
            taken[name, "drawn"] = [page.evaluate("acts.drawn()") / 1e3]
        shown = {name: cells(page) for name, page in pages.items()}
        for turn in range(asked.rounds + 1):
            for name, page in pages.items():
                page.bring_to_front()
                for act in ("zoomed", "moved", *(["pointed"] if name == "the page" else [])):
                    seconds = page.evaluate(f"acts.{act}()") / 1e3
                    if turn:  # the first warms up
                        taken.setdefault((name, act), []).append(seconds)
        browser.close()
    times = {what: Timing(tuple(seconds)) for what, seconds in taken.items()}
    same = (shown["the page"] & shown["Plotly"]).sum() / (shown["the page"] | shown["Plotly"]).sum()
    print(
        header("playwright", "plotly"),
        f"\n\n{asked.points:,} points; cells that both fill or leave empty alike: {same:.1%} of those filled\n",
    )
    acts = ("drawn", "zoomed", "moved")
    rows = [[name, *(times[name, act] for act in acts)] for name in pages]
    print(table(("", "first drawn", "zoomed", "moved"), rows))
    print(f"\nwhich point is under the pointer: {times['the page', 'pointed']} of the page's own time\n")
    verdicts = [
        verdict("moved: Plotly / the page", times["Plotly", "moved"].over(times["the page", "moved"]), at_least=2),
        verdict("zoomed: Plotly / the page", times["Plotly", "zoomed"].over(times["the page", "zoomed"]), at_least=1.5),
        verdict("share of cells alike", same, at_least=0.95),
        verdict("ms to find the point under the pointer", 1e3 * times["the page", "pointed"].median, at_most=4),
    ]
    print(table(VERDICTS, verdicts))


if __name__ == "__main__":
    main()
