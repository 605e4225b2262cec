/** One track at a time, and the list that it goes on with. */
import { Refused, audioOf } from "./api.js";
import { $, clock, h, say } from "./dom.js";

const MOST_FAILURES = 3; // files of a list that are passed over before it ends

/** @typedef {{id: string, title: string, artist?: string, genre?: string, seconds?: number, url?: string}} Playable */

export class Player {
  /**
   * @param {(track: Playable) => Node[]} tools buttons for what is played
   * @param {(track: Playable, queue: Playable[]) => void} told which track of the list comes; has it played
   */
  constructor(tools, told) {
    Object.assign(this, { tools, told });
    this.audio = $("audio");
    this.track = null;
    this.queue = [];
    this.audio.addEventListener("ended", () => this.step(1));
    $("previous").addEventListener("click", () => this.step(-1));
    $("next").addEventListener("click", () => this.step(1));
    this.audio.addEventListener("error", () => this.#failed());
    this.audio.addEventListener("playing", () => (this.#failures = 0));
  }

  /** Play a track, and then those that come after it in a list. @param {Playable} track @param {Playable[]} [queue] */
  play(track, queue = []) {
    this.track = track;
    this.queue = queue;
    this.#converted = false;
    $("previous").disabled = !this.#beside(-1);
    $("next").disabled = !this.#beside(1);
    $("playing").replaceChildren(
      h("strong", {}, track.title),
      h("span", {}, [track.artist, track.genre, track.seconds && clock(track.seconds)].filter(Boolean).join(" · ")),
    );
    $("player-tools").replaceChildren(...this.tools(track));
    document.title = `${track.title} – embedstore`;
    this.#listen(track.url ?? audioOf(track.id));
  }

  /** Go on with these tracks, unless a list is played. @param {Playable} track @param {Playable[]} others */
  follow(track, others) {
    if (this.track?.id !== track.id || this.queue.length > 1) return;
    this.queue = [this.track, ...others];
    $("next").disabled = !others.length;
  }

  /** Go on with the list, or back. @param {number} step */
  step(step) {
    const track = this.#beside(step);
    if (track) this.told(track, this.queue);
  }

  #beside(step) {
    const place = this.queue.findIndex(({ id }) => id === this.track?.id);
    return place < 0 ? undefined : this.queue[place + step];
  }

  #converted = false;
  #failures = 0; // in a row

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
    if (track === this.track && ++this.#failures < MOST_FAILURES) this.step(1);
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
