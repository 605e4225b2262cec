/** The tracks of the library as the map has them: columns by row, layouts by projection and layer. */
import { Refused, get } from "./api.js";

export class Library {
  facts = { tracks: 0, layers: [], methods: [], notes: [] };
  tracks = [];
  years = [];
  seconds = [];
  genres = { names: [], codes: [], more: [] };
  artists = { names: [], codes: [], more: [] };
  #rows = new Map();
  #layouts = new Map();
  #groups = new Map();

  /** Read what the map shows now. @returns {Promise<boolean>} whether the tracks are others than before */
  async load() {
    this.facts = await get("map");
    if (this.facts.version === this.version) return false;
    const columns = await get("map/tracks");
    Object.assign(this, columns);
    this.#rows = new Map(columns.tracks.map((id, row) => [id, row]));
    this.#layouts.clear();
    this.#groups.clear();
    return true;
  }

  /** How many tracks there are. */
  get count() {
    return this.tracks.length;
  }

  /** The row of a track, -1 if the map does not have it. @param {string} id */
  rowOf(id) {
    return this.#rows.get(id) ?? -1;
  }

  /** What is said of a row. @param {number} row */
  about(row) {
    const said = ({ names, codes }) => (codes[row] < 0 ? "" : names[codes[row]]);
    return {
      id: this.tracks[row],
      title: this.titles[row],
      artist: said(this.artists),
      genre: said(this.genres),
      year: this.years[row],
      seconds: this.seconds[row],
    };
  }

  /** Whether a projection is there. @param {string} method */
  has(method) {
    return this.facts.methods.some((one) => one.method === method && one.state === "ready");
  }

  /**
   * Where the points are in one layer.
   * @param {string} method @param {number} layer
   * @returns {Promise<{places: Uint16Array, clusters: number[]}>}
   */
  layout(method, layer) {
    const name = `${method} ${layer}`;
    if (!this.#layouts.has(name)) {
      const asked = this.#read(method, layer);
      this.#layouts.set(name, asked);
      asked.catch(() => this.#layouts.delete(name));
    }
    return this.#layouts.get(name);
  }

  /** Read layouts anew: a projection was made again, or tracks were placed. */
  forgetLayouts() {
    this.#layouts.clear();
  }

  async #read(method, layer) {
    const { x, y, clusters, version } = await get("map/positions", { method, layer, version: this.version });
    if (version !== this.version) throw new Refused(409, "the library has changed");
    const places = new Uint16Array(2 * x.length);
    x.forEach((value, row) => ([places[2 * row], places[2 * row + 1]] = [value, y[row]]));
    return { places, clusters };
  }

  /**
   * Put the tracks into groups by what is said of them, the largest first.
   * @param {"genre"|"artist"} by
   */
  groups(by) {
    const { names, codes, more } = this[`${by}s`];
    if (!this.#groups.has(by)) this.#groups.set(by, ordered(names, codes, more));
    return this.#groups.get(by);
  }

  /** The groups that k-means found in a layer, each called by the genre that tells most of it apart, and its share. @param {number[]} clusters */
  clusterGroups(clusters) {
    const count = clusters.reduce((most, code) => Math.max(most, code), -1) + 1;
    const { names, codes } = this.genres;
    const inAll = new Float64Array(names.length);
    const inEach = Array.from({ length: count }, () => new Float64Array(names.length));
    const sizes = new Float64Array(count);
    clusters.forEach((cluster, row) => {
      if (cluster < 0) return;
      sizes[cluster] += 1;
      if (codes[row] < 0) return;
      inAll[codes[row]] += 1;
      inEach[cluster][codes[row]] += 1;
    });
    const titles = inEach.map((within, cluster) => {
      let best = -1;
      let most = 0;
      within.forEach((n, genre) => {
        const weight = n && (n / sizes[cluster]) * Math.log((n / sizes[cluster]) * (this.count / inAll[genre]));
        if (weight > most) [best, most] = [genre, weight];
      });
      const share = best < 0 ? 0 : within[best] / sizes[cluster];
      return best < 0 ? `cluster ${cluster + 1}` : `${cluster + 1} · ${Math.round(100 * share)} % ${names[best]}`;
    });
    return ordered(titles, clusters);
  }
}

/** Groups by falling size: names, how many each has, the (first) group of each row, -1 for none, and its further groups. */
function ordered(names, codes, more = []) {
  const counts = new Array(names.length).fill(0);
  for (const code of codes) if (code >= 0) counts[code] += 1;
  for (const [, code] of more) counts[code] += 1;
  const order = names.map((_, code) => code).sort((a, b) => counts[b] - counts[a] || a - b);
  const place = new Int32Array(names.length);
  order.forEach((code, rank) => (place[code] = rank));
  return {
    names: order.map((code) => names[code]),
    counts: order.map((code) => counts[code]),
    codes: Int32Array.from(codes, (code) => (code < 0 ? -1 : place[code])),
    more: more.map(([row, code]) => [row, place[code]]),
  };
}
