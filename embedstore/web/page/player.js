/** One track at a time, and the list that it goes on with. */
import { Refused, audioOf } from "./api.js";
import { $, clock, h, say } from "./dom.js";

/** @typedef {{id: string, title: string, artist?: string, genre?: string, seconds?: number, url?: string}} Playable */

export class Player {
  /** @param {(track: Playable) => Node[]} tools buttons for what is played */
  constructor(tools) {
    this.tools = tools;
    this.audio = $("audio");
    this.track = null;
    this.queue = [];
    this.audio.addEventListener("ended", () => this.next());
    this.audio.addEventListener("error", () => this.#failed());
  }

  /** Play a track, and then those that come after it in a list. @param {Playable} track @param {Playable[]} [queue] */
  play(track, queue = []) {
    this.track = track;
    this.queue = queue.slice(queue.findIndex((one) => one.id === track.id) + 1);
    this.#converted = false;
    $("playing").replaceChildren(
      h("strong", {}, track.title),
      h("span", {}, [track.artist, track.genre, track.seconds && clock(track.seconds)].filter(Boolean).join(" · ")),
    );
    $("player-tools").replaceChildren(...this.tools(track));
    document.title = `${track.title} – embedstore`;
    this.#listen(track.url ?? audioOf(track.id));
  }

  /** Go on with the list. */
  next() {
    const [track, ...rest] = this.queue;
    if (track) this.play(track, [track, ...rest]);
  }

  #converted = false;

  #listen(url) {
    this.audio.src = url;
    this.audio.play().catch((error) => {
      if (error.name === "NotAllowedError") say("The browser lets no sound begin by itself; press play.");
    });
  }

  async #failed() {
    const { track, audio } = this;
    if (!track || !audio.getAttribute("src")) return;
    if (!track.url && !this.#converted && audio.error?.code !== MediaError.MEDIA_ERR_NETWORK) {
      this.#converted = true; // perhaps only a format that this browser does not know
      this.#listen(audioOf(track.id, true));
      return;
    }
    say(`${track.title} cannot be played: ${await this.#reason(track)}`, true);
  }

  async #reason(track) {
    if (track.url) return "this browser does not know its format";
    try {
      const answer = await fetch(audioOf(track.id, this.#converted), { headers: { Range: "bytes=0-0" } });
      return answer.ok ? "this browser does not know its format" : (await answer.json()).error.message;
    } catch {
      return new Refused(0, "the service does not answer").message;
    }
  }
}
