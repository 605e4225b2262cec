/** What is asked: tracks to be like and unlike, within a filter, in a layer; and the answer beside the map. */
import { get, post } from "./api.js";
import { $, h, say } from "./dom.js";

const NEAREST = 25; // tracks that are listed
const PLACED_BY = 5; // nearest tracks between which a sound from outside is drawn
const PATIENCE = 200; // milliseconds: a filter that is still being changed is not asked for
export const UNLIKE = -0.5; // what served best of 0..-1; see `Searcher.search`

export class Asking {
  /**
   * @param {import("./explorer.js").Explorer} explorer
   * @param {import("./lists.js").Lists} lists
   */
  constructor(explorer, lists) {
    Object.assign(this, { explorer, lists });
    this.seeds = new Map(); // by id: weight and title
    this.hits = []; // with their rows
    this.guessed = null; // what is said of the sound that was dropped
    this.beside = []; // rows that this sound alone is nearest to, and how near
  }

  #asking = null;
  #later = 0;

  /** Whether a sound from outside is asked for. */
  get isFromOutside() {
    return this.guessed !== null && this.seeds.has(`upload:${this.guessed.id}`);
  }

  /** Ask for what is like one track. @param {object} track */
  like(track) {
    return this.ask(new Map([[track.id, { weight: 1, title: track.title }]]));
  }

  /** Ask for tracks that are more, or less, like one. @param {object} track @param {boolean} more @param {object|null} playing */
  steer(track, more, playing) {
    const seeds = new Map(this.seeds);
    seeds.delete(track.id);
    if (!more && ![...seeds.values()].some(({ weight }) => weight > 0)) {
      if (!playing || playing.id === track.id) return say("First say what it should be like: play a track, or choose “more” for one.");
      seeds.set(playing.id, { weight: 1, title: playing.title });
    }
    return this.ask(seeds.set(track.id, { weight: more ? 1 : UNLIKE, title: track.title }));
  }

  /** Ask the same again in another layer or within another filter. */
  again() {
    clearTimeout(this.#later);
    this.#later = setTimeout(() => this.seeds.size && this.ask(this.seeds), PATIENCE);
  }

  /** Take no answer any more to what was asked. */
  cancel() {
    clearTimeout(this.#later);
    this.#asking?.abort();
  }

  /** @param {Map<string, {weight: number, title: string}>} seeds */
  async ask(seeds) {
    this.seeds = seeds;
    this.cancel();
    if (!seeds.size) return this.#show([], h("p", { className: "note" }, "Click a point to hear it and see what is near."));
    this.lists.open("nearest");
    const { signal } = (this.#asking = new AbortController());
    const query = { seeds: [...seeds].map(([what, { weight }]) => ({ what, weight })) };
    const { filter, layer } = this.explorer;
    try {
      const found = await post("search", { query, filter, shape: { k: NEAREST } }, { layer }, signal);
      if (this.isFromOutside) await this.#locate(layer, signal);
      const against = `more alike than this share of all ${found.percentile_of}`;
      const hits = found.hits.map((hit) => ({ ...this.explorer.asTrack(hit), percentile: hit.percentile, score: hit.score, against }));
      const notes = [...found.notes, `Layer ${found.layer}; the bars: ${against}.`].map((note) => h("p", { className: "note" }, note));
      this.#show(hits, this.#chips(), ...this.#guesses(), ...notes);
      if (seeds.size === 1) this.explorer.player.follow({ id: [...seeds.keys()][0] }, hits);
    } catch (error) {
      if (error.name !== "AbortError") this.#show([], this.#chips(), h("p", { className: "note bad" }, error.message));
    }
  }

  /** Find where a sound from outside is drawn: at its own point if it is stored, else between its nearest tracks. */
  async #locate(layer, signal) {
    const { id, stored } = this.guessed;
    const { library } = this.explorer;
    if (stored && library.rowOf(stored) >= 0) {
      this.beside = [{ row: library.rowOf(stored), weight: 1 }];
      return;
    }
    const { hits } = await get(`uploads/${id}/neighbors`, { layer, k: PLACED_BY }, signal);
    const near = hits.map(({ track, score }) => ({ row: library.rowOf(track), weight: Math.max(score, 1e-3) }));
    this.beside = near.filter(({ row }) => row >= 0);
  }

  #show(hits, ...head) {
    this.place(hits);
    this.lists.fill("nearest", hits, ...head);
    this.explorer.mark();
    this.explorer.remember();
  }

  /** Find the rows of hits; of those there were, when the library has changed. @param {object[]} [hits] */
  place(hits = this.hits) {
    this.hits = hits.map((hit) => ({ ...hit, row: this.explorer.library.rowOf(hit.id) })).filter(({ row }) => row >= 0);
  }

  #chips() {
    const leave = (name) => {
      const left = new Map(this.seeds);
      left.delete(name);
      this.ask([...left.values()].some(({ weight }) => weight > 0) ? left : new Map());
    };
    const chips = [...this.seeds].map(([name, { weight, title }]) => {
      const said = h("span", { title }, `${weight < 0 ? "unlike" : "like"} ${title}`);
      const button = h("button", { type: "button", "aria-label": `Leave out: ${title}`, onclick: () => leave(name) }, "×");
      return h("li", { className: weight < 0 ? "unlike" : "like" }, said, button);
    });
    return h("ul", { className: "chips", "aria-label": "Asked for" }, ...chips);
  }

  #guesses() {
    if (!this.isFromOutside) return [];
    const { genres, probe, stored, notes, sure } = this.guessed;
    const where = stored ? "This very sound is stored already." : "The star: between the five tracks that it is most like.";
    const known = [where, ...notes].map((note) => h("p", { className: "note" }, note));
    if (!probe) return [...known, h("p", { className: "note" }, "No saved probe, so no genre is guessed. The page Probes trains one.")];
    const bars = genres.slice(0, 5).map(({ genre, probability }) => {
      const share = `${Math.round(100 * probability)} %`;
      const meter = h("meter", { min: 0, max: 1, value: probability, "aria-label": `${genre}: ${share}` });
      return h("li", {}, h("span", {}, genre), meter, h("small", {}, share));
    });
    const head = sure ? `Genre, says the probe ${probe}` : `The probe ${probe} is not sure of the genre`;
    return [h("h2", {}, head), ...known, h("ul", { className: "guesses" }, ...bars)];
  }
}
