/** Which groups the points belong to, in which colours, and which groups alone are to be seen. */
import { get } from "./api.js";
import { MOST, css, other, palette, rightness } from "./colours.js";
import { $, h, say } from "./dom.js";

const SMALL = 600; // pixels: a narrower page has no room for the groups beside the map
const RIGHT = ["always wrong", "mostly wrong", "mostly right", "always right"];

export class Legend {
  /** @param {import("./library.js").Library} library @param {() => void} changed another group is to be seen, or none */
  constructor(library, changed) {
    Object.assign(this, { library, changed });
    this.only = new Set(); // names of groups; empty: all
    this.groups = { names: [], counts: [], codes: new Int32Array(0) };
    this.colours = [];
    $("legend-groups").open = innerWidth > SMALL;
  }

  #errors = null;

  /** "genre", "artist", "cluster" or "error". */
  get by() {
    return $("colour").value;
  }

  /** Forget the errors of a probe. */
  forgetErrors() {
    this.#errors = null;
  }

  /**
   * Group the points anew.
   * @param {number[]} clusters of the layer that is shown @param {object|null} study whose errors are meant
   * @returns {Promise<Uint8Array>} red, green, blue of each point
   */
  async colour(clusters, study) {
    const { library, by } = this;
    if (by === "error") {
      this.groups = await this.#readErrors(study);
      this.colours = RIGHT.map((_, step) => rightness(step / 3));
    } else {
      this.groups = by === "cluster" ? library.clusterGroups(clusters) : library.groups(by);
      this.colours = palette(this.groups.names.length);
    }
    this.only = new Set([...this.only].filter((name) => this.groups.names.includes(name)));
    this.#draw();
    const rest = other();
    const painted = new Uint8Array(3 * library.count);
    for (let row = 0; row < library.count; row++) painted.set(this.colours[this.groups.codes[row]] ?? rest, 3 * row);
    return painted;
  }

  async #readErrors(study) {
    const codes = new Int32Array(this.library.count).fill(-1);
    if (study) {
      this.#errors ??= await get(`studies/${encodeURIComponent(study.name)}/tracks`);
      this.#errors.tracks.forEach((id, i) => {
        const row = this.library.rowOf(id);
        const right = this.#errors.right?.[i];
        if (row >= 0 && typeof right === "number") codes[row] = right === 0 ? 0 : right < 0.5 ? 1 : right < 1 ? 2 : 3;
      });
    } else say("No probe has been run on this store yet: the page Probes runs one.");
    const counts = RIGHT.map(() => 0);
    for (const code of codes) if (code >= 0) counts[code] += 1;
    return { names: RIGHT, counts, codes };
  }

  /** What a genre is drawn in where genres are coloured. @param {string} name */
  colourOf(name) {
    const { names } = this.library.groups("genre");
    return css(palette(names.length)[names.indexOf(name)] ?? other());
  }

  /** Whether a row belongs to a group that is to be seen. @returns {(row: number) => boolean} */
  get sees() {
    const wanted = new Set([...this.only].map((name) => this.groups.names.indexOf(name)));
    return (row) => !wanted.size || wanted.has(this.groups.codes[row]);
  }

  #draw() {
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
    const rest = this.library.count - counts.slice(0, MOST).reduce((sum, count) => sum + count, 0);
    if (rest > 0) {
      const beyond = names.length > MOST ? `${(names.length - MOST).toLocaleString("en")} others, or none` : this.by === "error" ? "not tested" : "none known";
      const dot = h("i", { className: "dot", style: { background: css(other()) } });
      lines.push(h("li", { className: "rest" }, dot, h("span", {}, beyond), h("small", {}, rest.toLocaleString("en"))));
    }
    $("groups").replaceChildren(...lines);
  }
}
