/** The map page: puts library, layers, legend, questions and player together. */
import { get, queryOf, upload } from "./api.js";
import { Asking, UNLIKE } from "./asking.js";
import { isDark, other } from "./colours.js";
import { $, counted, fill, h, say } from "./dom.js";
import { Layers } from "./layers.js";
import { Legend } from "./legend.js";
import { Library } from "./library.js";
import { Lists } from "./lists.js";
import { FAINT, PointMap, RAISED, SHOWN } from "./map.js";
import { cross, middles, ring, star, write } from "./overlay.js";
import { Player } from "./player.js";

const LOOK_AGAIN = 10000; // milliseconds until the library may have grown

export class Explorer {
  constructor() {
    this.library = new Library();
    this.map = new PointMap($("points"), $("overlay"));
    this.map.decorate = (context) => this.#decorate(context);
    this.lists = new Lists({
      play: (track, queue) => this.listen(track, queue),
      steer: (track, more) => {
        this.#goToMap();
        this.asking.steer(track, more, this.player.track);
      },
      colourOf: (genre) => this.legend.colourOf(genre),
      isPlayed: (track) => track.id === this.player.track?.id,
    });
    this.player = new Player(
      (track) => this.lists.toolsOf(track),
      (track, queue) => this.listen(track, queue),
    );
    this.asking = new Asking(this, this.lists);
    this.legend = new Legend(this.library, () => {
      this.mark();
      this.asking.again();
      this.remember();
    });
    this.layers = new Layers(this.library, this.map, {
      moved: (layout, settled) => this.#moved(layout, settled),
      chosen: () => {
        this.asking.again();
        this.remember();
      },
    });
    this.found = null; // rows that the search box, a lasso or a matrix found; null: all
    this.ranges = {}; // of years and seconds
    this.#listen();
    this.showRows(null);
    this.asking.ask(new Map());
    this.lists.open("nearest");
  }

  #layout = null;
  #middles = null;
  #finding = null;
  #hearing = null;
  #url = null;

  /** Read the library and draw it; again and again, as it may grow. */
  async start() {
    const store = await get("store");
    this.lists.use(store.path);
    this.#sayWhyBlank(store);
    await this.#refresh();
    await this.readStudy();
    this.#started = true;
    await this.recall();
    const look = () => this.#refresh().then(() => this.readStudy());
    setInterval(() => document.hidden || look().catch(() => {}), LOOK_AGAIN);
  }

  /** Put into the address what is shown, so that it can be reloaded, kept and sent. */
  remember() {
    if ($("map-page").hidden || this.#recalling || !this.#started) return;
    const seeds = [...this.asking.seeds].filter(([id]) => !id.startsWith("upload:"));
    const of = (sign) => seeds.filter(([, { weight }]) => weight * sign > 0).map(([id]) => id);
    const words = $("words").value.trim();
    const only = this.legend.by === "error" ? [] : [...this.legend.only];
    const query = queryOf({ layer: this.layer, method: this.layers.method, colour: this.legend.by, only, like: of(1), unlike: of(-1), q: words });
    history.replaceState(null, "", `#/map?${query}`);
  }

  #started = false;
  #recalling = false;

  /** Show what the address says. */
  async recall() {
    if (!this.#started) return;
    const said = new URLSearchParams(location.hash.split("?")[1]);
    this.#recalling = true;
    this.layers.begin(said.get("layer"), said.get("method"));
    const colours = [...$("colour").options].map(({ value }) => value);
    if (colours.includes(said.get("colour"))) {
      this.#choseColour = true;
      $("colour").value = said.get("colour");
    }
    if (said.size) {
      await this.layers.show();
      await this.#colour();
      this.legend.choose(said.getAll("only"));
      this.#fit();
    }
    const title = (id) => (this.library.rowOf(id) < 0 ? null : this.library.about(this.library.rowOf(id)).title);
    const seeds = [1, UNLIKE].flatMap((weight) =>
      said.getAll(weight > 0 ? "like" : "unlike").map((id) => [id, { weight, title: title(id) }]),
    );
    const known = new Map(seeds.filter(([, seed]) => seed.title !== null));
    if ([...known.values()].some(({ weight }) => weight > 0)) await this.asking.ask(known);
    if (said.get("q")) await this.#find(($("words").value = said.get("q")));
    this.#recalling = false;
    this.remember();
  }

  async #refresh() {
    const { library, map } = this;
    const [tracks, before, methods] = [library.tracks, library.count, JSON.stringify(library.facts.methods)];
    const changed = await library.load();
    const others = methods !== JSON.stringify(library.facts.methods);
    if (!changed && !others) return;
    library.forgetLayouts();
    this.layers.offer(!before);
    if (changed) {
      $("blank").hidden = library.count > 0 && map.works;
      $("layers").hidden = !library.count;
      $("years").hidden = !library.years.some((year) => year !== null);
      if (before) say(`The library has changed: ${counted(library.count, "track")} now.`);
      else library.facts.notes.forEach((note) => say(note));
      this.#chooseColour();
      this.found = null;
      this.asking.place();
      map.reset(library.count, this.#keepPlaces(tracks));
    }
    await this.layers.show();
    await this.#colour();
    if (!before || map.isWhole) this.#fit();
  }

  #fit() {
    const stage = $("stage").clientWidth;
    const legend = $("legend").offsetWidth;
    this.map.fit(stage > 3 * legend ? legend : 0);
  }

  /** Places to move from: where tracks are drawn now, in the order of the library as it has become. */
  #keepPlaces(tracks) {
    const now = this.map.now();
    const places = new Uint16Array(2 * this.library.count).fill(32768);
    tracks.forEach((id, old) => {
      const row = this.library.rowOf(id);
      if (row >= 0) places.set(now.subarray(2 * old, 2 * old + 2), 2 * row);
    });
    return places;
  }

  #choseColour = false;

  /** Unless somebody has chosen: by genre, or by what there is. */
  #chooseColour() {
    const { genres, artists } = this.library;
    if (!this.#choseColour) $("colour").value = genres.names.length ? "genre" : artists.names.length ? "artist" : "cluster";
  }

  #sayWhyBlank({ tracks, path }) {
    const lines = [];
    if (!this.map.works) lines.push("This browser has no WebGL 2, so the map cannot be drawn. Search, lists, probes and audits work all the same.");
    else if (!tracks) lines.push("No tracks yet.", `embedstore build MUSIC_FOLDER --store ${path}`, "They appear here as they come.");
    $("blank").replaceChildren(...lines.map((line) => h("p", {}, line)));
    $("blank").hidden = !lines.length;
  }

  /** Take up the newest probe of the store: its curve, and the colours of its errors. */
  async readStudy() {
    if (!(await this.layers.readStudy())) return;
    this.legend.forgetErrors();
    if (this.legend.by === "error") await this.#colour();
  }

  // ---- what is drawn ----

  #moved(layout, settled) {
    if (layout !== this.#layout) this.#middles = null; // while it is dragged the nearest layer mostly stays
    this.#layout = layout;
    $("tip").hidden = true;
    if (settled && this.legend.by === "cluster") this.#colour();
  }

  async #colour() {
    if (!this.library.count) return;
    const painted = await this.legend.colour(this.#layout?.clusters ?? [], this.layers.study);
    if (!painted) return;
    this.#middles = null;
    this.map.faint = other();
    this.map.edge = isDark() ? [255, 255, 255] : [20, 25, 30];
    this.map.paint(painted);
    this.mark();
  }

  /** Make faint what no filter lets through, and raise what was asked for. */
  mark() {
    const { library, ranges } = this;
    const states = new Uint8Array(library.count).fill(this.found ? FAINT : SHOWN);
    for (const row of this.found ?? []) states[row] = SHOWN;
    const { first_year, last_year, shortest = 0, longest = Infinity } = ranges;
    const [first, last] = [first_year ?? -Infinity, last_year ?? Infinity];
    const inYears = first_year !== undefined || last_year !== undefined;
    const sees = this.legend.sees;
    for (let row = 0; row < library.count; row++) {
      const [year, seconds] = [library.years[row], library.seconds[row]];
      const dated = !inYears || (year !== null && first <= year && year <= last);
      if (!dated || seconds < shortest || seconds > longest || !sees(row)) states[row] = FAINT;
    }
    for (const { row } of this.asking.hits) if (states[row] === SHOWN) states[row] = RAISED;
    if (this.playing >= 0) states[this.playing] = RAISED;
    this.map.mark(states);
  }

  /** Row of the track that is played, -1 if the map does not have it. */
  get playing() {
    return this.player.track ? this.library.rowOf(this.player.track.id) : -1;
  }

  #decorate(context) {
    const { map, legend } = this;
    if (!map.count || !this.#layout) return; // nothing is laid out yet
    if (legend.by !== "error") {
      this.#middles ??= middles(legend.groups, this.#layout.places);
      const seen = this.#middles.filter(({ name }) => !legend.only.size || legend.only.has(name));
      write(context, seen.map(({ name, row }) => ({ name, place: map.placeOf(row) })));
    }
    if (map.hovered >= 0) ring(context, map.placeOf(map.hovered), 9, 1.5);
    if (this.playing >= 0) ring(context, map.placeOf(this.playing), 12, 3);
    if (map.canvas.matches(":focus-visible")) cross(context, map.canvas.clientWidth / 2, map.canvas.clientHeight / 2);
    const near = this.asking.isFromOutside ? this.asking.beside : [];
    const all = near.reduce((sum, { weight }) => sum + weight, 0);
    if (all) star(context, ...[0, 1].map((i) => near.reduce((sum, { row, weight }) => sum + weight * map.placeOf(row)[i], 0) / all));
  }

  #showTip(row) {
    const tip = $("tip");
    tip.hidden = row < 0;
    if (row < 0) return;
    const { title, artist, genre, year } = this.library.about(row);
    tip.replaceChildren(h("strong", {}, title), h("span", {}, [artist, genre, year].filter(Boolean).join(" · ")));
    const [x, y] = this.map.placeOf(row);
    tip.style.left = `${Math.max(8, Math.min(x + 14, $("stage").clientWidth - tip.offsetWidth - 8))}px`;
    tip.style.top = `${Math.max(8, y - tip.offsetHeight - 10)}px`;
  }

  // ---- what is heard and asked ----

  /** Play a track, and ask what is like it if nothing is asked yet. @param {object} track @param {object[]} queue */
  listen(track, queue) {
    this.player.play(track, queue);
    if (!this.asking.seeds.size) this.asking.like(track);
    this.lists.markPlayed(track.id);
    if (this.playing >= 0 && !$("map-page").hidden) this.map.reveal(this.playing);
    this.mark();
  }

  /** The filter that is set, as the API takes it. */
  get filter() {
    const { first_year, last_year, shortest, longest } = this.ranges;
    const { by, only } = this.legend;
    const filter = {};
    if (only.size && (by === "genre" || by === "artist")) filter[`${by}s`] = [...only];
    if (first_year !== undefined || last_year !== undefined) filter.years = [first_year ?? 0, last_year ?? 9999];
    if (shortest !== undefined || longest !== undefined) filter.seconds = [shortest ?? 0, longest ?? 1e9];
    return filter;
  }

  /** Number of the layer that is searched. */
  get layer() {
    return this.layers.number;
  }

  /** A track as lists and player take it, from a hit or a stored track of the API. @param {object} said */
  asTrack(said) {
    const id = said.track ?? said.id;
    const row = this.library.rowOf(id);
    if (row >= 0) return this.library.about(row);
    const { title, artists, genres } = said.labels ?? said;
    const path = said.path ?? said.paths?.[0] ?? id;
    return { id, title: title || path.split("/").pop(), artist: artists.join("; "), genre: genres[0] ?? "", seconds: said.seconds };
  }

  /** List rows and make all others faint; null: all are shown again. @param {number[]|null} rows @param {string} [title] */
  showRows(rows, title = "") {
    this.found = rows;
    if (rows === null) {
      fill($("chosen"), h("p", { className: "note" }, "Search, or draw around points with the lasso, to list tracks."));
    } else {
      const clear = () => {
        $("words").value = "";
        this.showRows(null);
      };
      const button = h("button", { type: "button", onclick: clear }, "Show all");
      const tracks = rows.map((row) => this.library.about(row));
      this.lists.fill("chosen", tracks, h("div", { className: "row" }, h("h2", {}, title), button));
      this.lists.open("chosen");
    }
    this.mark();
    this.remember();
  }

  #goToMap() {
    if ($("map-page").hidden) location.hash = "#/map";
  }

  async #find(words) {
    this.#finding?.abort();
    if (!words.trim()) return this.showRows(null);
    const { signal } = (this.#finding = new AbortController());
    try {
      const { rows } = await get("map/matches", { q: words, version: this.library.version }, signal);
      this.showRows(rows, `${counted(rows.length, "track")} for “${words.trim()}”`);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 409) await this.#refresh(); // it has grown; the list follows with the next letter
      else say(error.message, true);
    }
  }

  /** Hear a file from outside: where it belongs, and which genre it may be. @param {File} file */
  async hear(file) {
    this.#hearing?.abort();
    const { signal } = (this.#hearing = new AbortController());
    this.#goToMap();
    this.asking.cancel();
    this.lists.open("nearest");
    $("nearest").replaceChildren(h("p", { role: "status" }, `Listening to ${file.name} …`));
    document.body.classList.add("busy");
    try {
      const heard = await upload("uploads", file, { name: file.name.slice(0, 200) }, signal);
      if (this.#url) URL.revokeObjectURL(this.#url);
      this.#url = URL.createObjectURL(file);
      this.asking.guessed = heard;
      const track = { id: `upload:${heard.id}`, title: heard.name || file.name, seconds: heard.seconds, url: this.#url };
      this.player.play(track);
      await this.asking.like(track);
    } catch (error) {
      if (signal.aborted) return; // for another file
      await this.asking.ask(new Map());
      $("nearest").prepend(h("p", { className: "note bad", role: "alert" }, `${file.name}: ${error.message}`));
    }
    document.body.classList.remove("busy");
  }

  #listen() {
    const { map } = this;
    map.addEventListener("hover", ({ detail }) => this.#showTip(detail));
    map.addEventListener("pick", ({ detail }) => {
      const track = this.library.about(detail);
      this.asking.like(track);
      this.listen(track, [track]);
    });
    map.addEventListener("lasso", ({ detail }) => this.showRows(detail, `${counted(detail.length, "track")} within the lasso`));
    for (const name of ["focus", "blur"]) map.canvas.addEventListener(name, () => map.redraw());
    $("zoom-in").addEventListener("click", () => map.zoom(1.5));
    $("zoom-out").addEventListener("click", () => map.zoom(1 / 1.5));
    $("fit").addEventListener("click", () => this.#fit());
    $("lasso").addEventListener("click", () => {
      map.lassoing = !map.lassoing;
      $("lasso").setAttribute("aria-pressed", String(map.lassoing));
    });
    const colour = () => this.#colour().catch((error) => say(error.message, true));
    $("colour").addEventListener("change", () => {
      this.#choseColour = true;
      this.legend.only.clear();
      colour();
      this.asking.again();
      this.remember();
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", colour);
    let typed = 0;
    $("words").addEventListener("input", () => {
      this.#goToMap();
      clearTimeout(typed);
      typed = setTimeout(() => this.#find($("words").value), 200);
    });
    $("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#goToMap();
      this.#find($("words").value);
    });
    this.#listenToFilters($("filters").querySelector("form"));
  }

  #listenToFilters(form) {
    const read = () => {
      const ranges = {};
      for (const { name, value, valueAsNumber, validity } of form.querySelectorAll("input"))
        if (value !== "" && validity.valid) ranges[name] = name.endsWith("year") ? valueAsNumber : 60 * valueAsNumber;
      const { first_year = 0, last_year = Infinity, shortest = 0, longest = Infinity } = ranges;
      if (first_year > last_year || shortest > longest) return; // half typed
      this.ranges = ranges;
      const set = Object.keys(ranges).length;
      $("filters").querySelector("summary").textContent = set ? `Filters (${set})` : "Filters";
      this.mark();
      this.asking.again();
    };
    form.addEventListener("input", read);
    form.addEventListener("reset", () => setTimeout(read));
    form.addEventListener("submit", (event) => event.preventDefault());
  }
}
