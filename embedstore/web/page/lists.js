/** The three lists beside the map: what is nearest, what was found, what is to be kept. */
import { fetchFile } from "./api.js";
import { $, clock, counted, fill, h, say } from "./dom.js";

const NAMES = ["nearest", "chosen", "playlist"];
const SHOWN = 200; // tracks of a list that are drawn

export class Lists {
  /**
   * @param {object} acts
   * @param {(track: object, queue: object[]) => void} acts.play
   * @param {(track: object, more: boolean) => void} acts.steer more like it or less
   * @param {(genre: string) => string} acts.colourOf
   * @param {(track: object) => boolean} acts.isPlayed
   */
  constructor(acts) {
    this.acts = acts;
    this.kept = [];
    this.shelf = "embedstore playlist";
    for (const name of NAMES) {
      const tab = $(`tab-${name}`);
      tab.addEventListener("click", () => this.open(name));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (!step) return;
        const next = NAMES[(NAMES.indexOf(name) + step + NAMES.length) % NAMES.length];
        this.open(next);
        $(`tab-${next}`).focus();
      });
    }
    this.#drawKept();
  }

  /** Take up the playlist of a library. @param {string} store */
  use(store) {
    this.shelf = `embedstore playlist ${store}`;
    try {
      const kept = JSON.parse(localStorage.getItem(this.shelf));
      this.kept = (Array.isArray(kept) ? kept : []).filter((one) => typeof one?.id === "string" && typeof one.title === "string");
    } catch {
      this.kept = [];
    }
    this.#drawKept();
  }

  /** Show one of the lists. @param {string} name */
  open(name) {
    for (const one of NAMES) {
      $(one).hidden = one !== name;
      $(`tab-${one}`).setAttribute("aria-selected", String(one === name));
      $(`tab-${one}`).tabIndex = one === name ? 0 : -1;
    }
  }

  /**
   * Fill a list.
   * @param {string} name @param {object[]} tracks with id, title, artist, genre, seconds, and where known percentile and score
   * @param {...Node} head what stands above it
   */
  fill(name, tracks, ...head) {
    const shown = tracks.slice(0, SHOWN);
    const more = tracks.length > SHOWN ? h("p", { className: "note" }, `… and ${counted(tracks.length - SHOWN, "other")}`) : null;
    fill(
      $(name),
      ...head,
      h("ol", { className: "tracks" }, ...shown.map((track) => this.item(track, shown))),
      ...(more ? [more] : []),
    );
  }

  /** Mark the lines of the track that is played. @param {string} id */
  markPlayed(id) {
    for (const line of document.querySelectorAll(".tracks li")) {
      if (line.dataset.track === id) line.setAttribute("aria-current", "true");
      else line.removeAttribute("aria-current");
    }
  }

  /** A line of a list. @param {object} track @param {object[]} queue what is played after it @param {Node[]} [tools] */
  item(track, queue, tools = this.toolsOf(track)) {
    const { artist, genre, seconds, said, percentile, score, against } = track;
    const about = [artist, seconds && clock(seconds), said].filter(Boolean).join(" · ");
    const dot = genre && h("i", { className: "dot", style: { background: this.acts.colourOf(genre) } });
    const play = h(
      "button",
      { type: "button", className: "play", onclick: () => this.acts.play(track, queue) },
      h("span", { className: "title" }, track.title),
      h("span", { className: "about" }, about, ...(genre ? [" ", dot, ` ${genre}`] : [])),
    );
    const closeness = [];
    if (typeof percentile === "number") {
      const share = `${percentile.toFixed(1)} %`;
      closeness.push(h("meter", { min: 0, max: 100, value: percentile, "aria-label": `${against}: ${share}` }), share);
    }
    const title = closeness.length ? `similarity ${score.toFixed(4)}; ${against}` : undefined;
    return h(
      "li",
      { "data-track": track.id, "aria-current": this.acts.isPlayed(track) ? "true" : null },
      play,
      h("span", { className: "closeness", title }, ...closeness),
      h("span", { className: "acts" }, ...tools),
    );
  }

  /** What can be done with a track. @param {object} track */
  toolsOf(track) {
    const button = (sign, says, act) =>
      h("button", { type: "button", "aria-label": `${says}: ${track.title}`, title: says, onclick: act }, sign);
    const tools = [
      button("more", "More like this", () => this.acts.steer(track, true)),
      button("less", "Less like this", () => this.acts.steer(track, false)),
    ];
    return track.url ? tools : [...tools, button("+", "Add to the playlist", () => this.keep(track))];
  }

  /** Put a track on the playlist. @param {object} track */
  keep({ id, title, artist, genre, seconds }) {
    if (this.kept.some((one) => one.id === id)) return say(`${title} is on the playlist already`);
    this.kept.push({ id, title, artist, genre, seconds });
    say(`${title} is on the playlist (${this.kept.length})`);
    this.#changed();
  }

  #changed() {
    try {
      localStorage.setItem(this.shelf, JSON.stringify(this.kept));
    } catch {
      // a browser that keeps nothing: the list lasts as long as the page
    }
    this.#drawKept();
  }

  #drawKept() {
    const { kept } = this;
    $("tab-playlist").textContent = kept.length ? `Playlist (${kept.length})` : "Playlist";
    if (!kept.length) {
      fill($("playlist"), h("p", { className: "note" }, "Nothing yet. + beside a track puts it here."));
      return;
    }
    // whoever works with the keyboard stays at the track that was moved, or at the one that took the place
    const focus = (place, name) => {
      const buttons = [...($("playlist").querySelectorAll("li")[Math.min(place, kept.length - 1)]?.querySelectorAll("button") ?? [])];
      (buttons.find((one) => one.className === name && !one.disabled) ?? buttons[0] ?? $("tab-playlist")).focus();
    };
    const move = (place, step) => {
      const [one] = kept.splice(place, 1);
      kept.splice(place + step, 0, one);
      this.#changed();
      focus(place + step, step < 0 ? "up" : "down");
    };
    const take = (place) => {
      kept.splice(place, 1);
      this.#changed();
      focus(place, "off");
    };
    const button = (className, sign, says, track, act, disabled = false) =>
      h("button", { type: "button", className, disabled, "aria-label": `${says}: ${track.title}`, title: says, onclick: act }, sign);
    const name = h("input", { id: "playlist-name", value: "embedstore", maxLength: 100 });
    fill(
      $("playlist"),
      h(
        "form",
        {
          className: "row",
          onsubmit: (event) => {
            event.preventDefault();
            this.#save(name.value.trim() || "embedstore");
          },
        },
        h("label", { htmlFor: "playlist-name" }, "Name"),
        name,
        h("button", { type: "submit", id: "save-playlist" }, "Save M3U8"),
        h(
          "button",
          {
            type: "button",
            onclick: () => {
              this.kept = [];
              this.#changed();
            },
          },
          "Empty it",
        ),
      ),
      h(
        "ol",
        { className: "tracks" },
        ...kept.map((track, place) =>
          this.item(track, kept, [
            button("up", "↑", "Up", track, () => move(place, -1), !place),
            button("down", "↓", "Down", track, () => move(place, 1), place === kept.length - 1),
            button("off", "×", "Take off", track, () => take(place)),
          ]),
        ),
      ),
    );
  }

  async #save(name) {
    try {
      const file = await fetchFile("playlist", { tracks: this.kept.map((track) => track.id), name });
      const url = URL.createObjectURL(file);
      h("a", { href: url, download: `${name.replaceAll(/[^\p{L}\p{N} ._-]/gu, "_")}.m3u8` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 10000);
    } catch (error) {
      say(error.message, true);
    }
  }
}
