/** Which groups the points belong to, in which colours, and which groups alone are to be seen. */
import { get } from "./api.js";
import { MOST, css, isDark, other, palette, rightness } from "./colours.js";
import { $, h, say } from "./dom.js";

const SMALL = 600; // pixels: a narrower page has no room for the groups beside the map
const RIGHT = ["always wrong", "mostly wrong", "mostly right", "always right"];

export class Legend {
  /** @param {import("./library.js").Library} library @param {() => void} changed another group is to be seen, or none */
  constructor(library, changed) {
    Object.assign(this, { library, changed });
    this.only = new Set(); // names of groups; empty: all
    this.groups = { names: [], counts: [], codes: new Int32Array(0), more: [] };
    this.colours = [];
    $("legend-groups").open = innerWidth > SMALL;
  }

  #errors = null;
  #asked = null; // the newest question for colours
  #genres = null; // colours of genres, of one state of the library

  /** "genre", "artist", "cluster" or "error". */
  get by() {
    return $("colour").value;
  }

  /** Show only some groups. @param {string[]} names */
  choose(names) {
    this.only = new Set(names.filter((name) => this.groups.names.includes(name)));
    for (const button of $("groups").querySelectorAll("button"))
      button.setAttribute("aria-pressed", String(this.only.has(button.querySelector("span").textContent)));
    this.changed();
  }

  /** Forget the errors of a probe. */
  forgetErrors() {
    this.#errors = null;
  }

  /**
   * Group the points anew.
   * @param {number[]} clusters of the layer that is shown @param {object|null} study whose errors are meant
   * @returns {Promise<Uint8Array|null>} red, green, blue of each point; null if other colours were asked for meanwhile
   */
  async colour(clusters, study) {
    const { library, by } = this;
    const asked = (this.#asked = {});
    const groups = by === "error" ? await this.#readErrors(study) : by === "cluster" ? library.clusterGroups(clusters) : library.groups(by);
    if (asked !== this.#asked) return null;
    this.groups = groups;
    this.colours = by === "error" ? [0, 0.2, 0.8, 1].map(rightness) : palette(groups.names.length);
    const gone = [...this.only].filter((name) => !this.groups.names.includes(name));
    if (gone.length) say(`no longer there, so no longer chosen: ${gone.join(", ")}`);
    gone.forEach((name) => this.only.delete(name));
    this.#draw(study);
    const rest = other();
    const painted = new Uint8Array(3 * library.count);
    for (let row = 0; row < library.count; row++) painted.set(this.colours[this.groups.codes[row]] ?? rest, 3 * row);
    return painted;
  }

  async #readErrors(study) {
    const codes = new Int32Array(this.library.count).fill(-1);
    if (study) {
      const errors = (this.#errors ??= get(`studies/${encodeURIComponent(study.name)}/tracks`));
      errors.catch(() => (this.#errors = null));
      const { tracks, right } = await errors;
      tracks.forEach((id, i) => {
        const row = this.library.rowOf(id);
        if (row >= 0) codes[row] = right[i] === 0 ? 0 : right[i] < 0.5 ? 1 : right[i] < 1 ? 2 : 3;
      });
    } else say("No probe has been run on this store yet: the page Probes runs one.");
    const counts = RIGHT.map(() => 0);
    for (const code of codes) if (code >= 0) counts[code] += 1;
    return { names: RIGHT, counts, codes, more: [] };
  }

  /** What a genre is drawn in where genres are coloured. @param {string} name */
  colourOf(name) {
    const { names } = this.library.groups("genre");
    if (this.#genres?.names !== names || this.#genres.dark !== isDark()) {
      const colours = palette(names.length).map(css);
      this.#genres = { names, dark: isDark(), of: new Map(names.map((one, i) => [one, colours[i]])) };
    }
    return this.#genres.of.get(name) ?? css(other());
  }

  /** Whether a row belongs to a group that is to be seen. @returns {(row: number) => boolean} */
  get sees() {
    const wanted = new Set([...this.only].map((name) => this.groups.names.indexOf(name)));
    const also = new Set(this.groups.more.filter(([, code]) => wanted.has(code)).map(([row]) => row));
    return (row) => !wanted.size || wanted.has(this.groups.codes[row]) || also.has(row);
  }

  #note(study) {
    if (this.by === "cluster") return "groups of like sound in this layer (k-means), by the genre that tells most of each apart";
    if (this.by === "error" && study) {
      const stale = study.stale ? "; the library has changed since" : "";
      return `${study.report.probe} probe, layer chosen inside its training: the same colours in every layer${stale}`;
    }
    return this.groups.more.length ? `a track of several ${this.by}s counts in each; its colour is the first's` : "";
  }

  #draw(study) {
    $("legend-note").textContent = this.#note(study);
    $("legend-note").hidden = !$("legend-note").textContent;
    const { names, counts } = this.groups;
    const lines = names.slice(0, MOST).map((name, code) => {
      const parts = [
        h("i", { className: "dot", style: { background: css(this.colours[code]) } }),
        h("span", { title: name }, name),
        h("small", {}, counts[code].toLocaleString("en")),
      ];
      const press = () => {
        if (!this.only.delete(name)) this.only.add(name);
        button.setAttribute("aria-pressed", String(this.only.has(name)));
        this.changed();
      };
      const pressed = String(this.only.has(name));
      const button = h("button", { type: "button", "aria-pressed": pressed, title: "Show only this; again: all", onclick: press }, ...parts);
      return h("li", {}, button);
    });
    const rest = this.groups.codes.reduce((sum, code) => sum + (code < 0 || code >= MOST), 0);
    if (rest > 0) {
      const beyond = names.length > MOST ? `${(names.length - MOST).toLocaleString("en")} others, or none` : this.by === "error" ? "not tested" : "none known";
      const dot = h("i", { className: "dot", style: { background: css(other()) } });
      lines.push(h("li", { className: "rest" }, dot, h("span", {}, beyond), h("small", {}, rest.toLocaleString("en"))));
    }
    $("groups").replaceChildren(...lines);
  }
}
