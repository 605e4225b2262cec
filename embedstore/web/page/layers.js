/** The slider through the layers of the model, the projection, and the curve of what each layer knows. */
import { get, post } from "./api.js";
import { drawCurve, measureOf } from "./curve.js";
import { $, h, say, still } from "./dom.js";

const NAMES = { umap: "UMAP: neighbours together", pca: "PCA: linear" };
const PACE = 1400; // milliseconds a layer when all are shown one after the other

export class Layers {
  /**
   * @param {import("./library.js").Library} library
   * @param {import("./map.js").PointMap} map
   * @param {object} told
   * @param {(layout: object, settled: boolean) => void} told.moved the layout of the nearest layer; settled: not while dragged
   * @param {() => void} told.chosen another layer or projection is to be searched
   */
  constructor(library, map, told) {
    Object.assign(this, { library, map, told });
    this.slider = $("layer");
    this.method = "";
    this.study = null;
    this.#listen();
  }

  #asked = null; // the newest move
  #choseMethod = false;

  /** Which place of the slider is nearest. */
  get place() {
    return Math.round(Number(this.slider.value));
  }

  /** Number of the layer that is shown. */
  get number() {
    return this.library.facts.layers[this.place]?.number ?? this.library.facts.default_layer;
  }

  /** Fit slider and projections to the library. @param {boolean} first whether nothing was shown before */
  offer(first) {
    const { layers, methods, default_layer } = this.library.facts;
    if (first) {
      this.slider.max = Math.max(0, layers.length - 1);
      this.slider.value = Math.max(0, layers.findIndex(({ number }) => number === default_layer));
      this.slider.disabled = $("sweep").disabled = layers.length < 2;
    }
    const ready = methods.filter(({ state }) => state === "ready").map(({ method }) => method);
    const notes = { missing: (seconds) => ` (make it: about ${minutes(seconds)})`, making: () => " (being made …)", ready: () => "" };
    $("method").replaceChildren(
      ...methods.map(({ method, state, seconds }) =>
        h("option", { value: method, disabled: state === "making" }, (NAMES[method] ?? method) + notes[state](seconds)),
      ),
    );
    // UMAP shows more; but whoever has chosen keeps the choice
    if (!this.#choseMethod || !ready.includes(this.method)) this.method = ["umap", "pca"].find((one) => ready.includes(one)) ?? "";
    $("method").value = this.method;
    $("waiting").hidden = this.method !== "" || !this.library.count;
  }

  /** Show the map between two layers, or glide to a layer. @param {number} place e.g. 2.5: between the third and the fourth @param {boolean} glide */
  async moveTo(place, glide) {
    const { layers } = this.library.facts;
    this.#tell(Math.round(place));
    if (!this.library.count || !this.method) return;
    const below = Math.min(Math.floor(place), layers.length - 1);
    const above = Math.min(below + 1, layers.length - 1);
    const asked = (this.#asked = {});
    try {
      const [from, to] = await Promise.all([below, above].map((one) => this.library.layout(this.method, layers[one].number)));
      if (asked !== this.#asked) return;
      const nearest = place - below < 0.5 ? from : to;
      if (glide) this.map.glideTo(nearest.places);
      else this.map.layOut(from.places, to.places, place - below);
      this.told.moved(nearest, glide);
    } catch (error) {
      if (asked !== this.#asked) return;
      this.#setSweeping(false);
      if (error.status !== 409) say(error.message, true); // 409: the library is read again soon
    }
  }

  /** Begin with another layer and projection than the usual. @param {string|null} layer number @param {string|null} method */
  begin(layer, method) {
    const place = this.library.facts.layers.findIndex(({ number }) => String(number) === layer);
    if (place >= 0) this.slider.value = place;
    if (!this.library.has(method)) return;
    this.#choseMethod = true;
    $("method").value = this.method = method;
  }

  /** Show the layer that the slider stands at. */
  show() {
    return this.moveTo(this.place, true);
  }

  #choose(place) {
    if (this.#sweeping) this.#setSweeping(false);
    this.slider.value = place;
    this.moveTo(place, true);
    this.told.chosen();
  }

  #tell(place) {
    const layer = this.library.facts.layers[place];
    if (!layer) return;
    const text = /\d/.test(layer.name) ? layer.name : `layer ${layer.number}: ${layer.name}`;
    $("layer-name").textContent = text;
    this.slider.setAttribute("aria-valuetext", text);
    for (const mark of document.querySelectorAll("#curve .mark")) mark.classList.toggle("now", Number(mark.dataset.place) === place);
  }

  async #chooseMethod() {
    const wanted = $("method").value;
    if (this.library.has(wanted)) {
      this.#choseMethod = true;
      this.method = wanted;
      return this.show();
    }
    $("method").value = this.method;
    try {
      await post("jobs", { kind: "map", options: { method: wanted } });
      say("The map is being made; it appears here when it is ready.");
    } catch (error) {
      say(error.message, true);
    }
  }

  #sweeping = false;

  #setSweeping(on) {
    this.#sweeping = on;
    $("sweep").setAttribute("aria-pressed", String(on));
    $("sweep").textContent = on ? "■ Stop" : "▶ Through the layers";
  }

  /** Go through all layers, or stop. */
  #sweep() {
    this.#setSweeping(!this.#sweeping);
    if (!this.#sweeping) return this.#choose(this.place);
    const last = this.library.facts.layers.length - 1;
    let place = this.place >= last ? 0 : this.place;
    let before = performance.now();
    const step = (now) => {
      if (!this.#sweeping) return;
      place = Math.min(last, place + Math.min(100, now - before) / PACE);
      before = now;
      this.slider.value = place;
      this.moveTo(still() ? Math.round(place) : place, false);
      if (place < last) requestAnimationFrame(step);
      else this.#sweep();
    };
    requestAnimationFrame(step);
  }

  /** Take up the newest probe of the store. @returns {Promise<boolean>} whether it is another one */
  async readStudy() {
    const studies = await get("studies").catch(() => []);
    const newest = studies.filter(({ kind }) => kind === "probe").sort((a, b) => (a.made < b.made ? 1 : -1))[0];
    const other = ["name", "made", "stale"].some((part) => newest?.[part] !== this.study?.[part]);
    if (other) this.study = newest ? { ...(await get(`studies/${encodeURIComponent(newest.name)}`)), ...newest } : null;
    this.#draw();
    return other;
  }

  #draw() {
    const { layers } = this.library.facts;
    const report = this.study?.report;
    const width = $("curve").clientWidth;
    const numbers = layers.map(({ number }) => number);
    const drawn = report && width ? drawCurve(report, numbers, width, (place) => this.#choose(place)) : null;
    if (drawn) {
      const measure = measureOf(report).replace("macro_f1", "macro-F1");
      const hollow = report.indistinct ? "; hollow: less than the preferred layer beyond chance" : "";
      const stale = this.study.stale ? "; the library has changed since" : "";
      const said = `${measure} of the ${report.probe} probe on tracks held out, 95 % intervals${hollow}${stale}`;
      const link = h("a", { href: `#/probes/${encodeURIComponent(this.study.name)}` }, said);
      $("curve").replaceChildren(drawn, h("p", { className: "note" }, link));
    } else if (!report && this.library.count) {
      const link = h("a", { href: "#/probes" }, "Run a probe");
      $("curve").replaceChildren(h("p", { className: "note" }, "Which layer knows the genres? ", link, " and its curve stands here."));
    }
    this.#tell(this.place);
  }

  #listen() {
    const { slider } = this;
    slider.addEventListener("input", () => {
      if (this.#sweeping) this.#setSweeping(false);
      this.moveTo(Number(slider.value), false);
    });
    slider.addEventListener("change", () => this.#choose(this.place));
    slider.addEventListener("keydown", (event) => {
      const last = Number(slider.max);
      const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageUp: 3, PageDown: -3, Home: -last, End: last };
      if (!(event.key in steps)) return;
      event.preventDefault(); // the slider's own steps are parts of a layer
      this.#choose(Math.min(last, Math.max(0, this.place + steps[event.key])));
    });
    $("sweep").addEventListener("click", () => this.#sweep());
    $("method").addEventListener("change", () => this.#chooseMethod());
    new ResizeObserver(() => this.#draw()).observe($("curve"));
  }
}

const minutes = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.ceil(seconds / 60)} min`);
