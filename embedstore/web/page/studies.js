/** Probes, audits and failures as pages: open what was found, listen to where it went wrong, run more. */
import { get, post, remove } from "./api.js";
import { measureOf } from "./curve.js";
import { $, counted, h, say } from "./dom.js";

const MEASURES = { macro_f1: "macro-F1", map: "mean average precision", accuracy: "accuracy", balanced_accuracy: "balanced accuracy", roc_auc: "ROC AUC" };
const MOST_LISTED = 100;
const MOST_FAILURES = 1000;

const interval = ({ value, low, high }) => `${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`;
const table = (title, heads, rows, className = "") =>
  h(
    "section",
    { className: "wide", "aria-label": title },
    h("h3", {}, title),
    h(
      "table",
      { className },
      h("thead", {}, h("tr", {}, ...heads.map((head) => (head ? h("th", { scope: "col" }, head) : h("td"))))),
      h("tbody", {}, ...rows),
    ),
  );
const line = (first, ...cells) => h("tr", {}, h("th", { scope: "row" }, first), ...cells.map((cell) => h("td", {}, cell)));
const bar = (value) => h("span", { className: "bar" }, h("i", { style: { width: `${(100 * Math.max(0, value)).toFixed(1)}%` } }));

export class Studies {
  /** @param {import("./explorer.js").Explorer} explorer @param {import("./lists.js").Lists} lists */
  constructor(explorer, lists) {
    Object.assign(this, { explorer, lists });
    this.page = $("study-page");
    this.shown = "";
  }

  /** Show a page. @param {"probes"|"audits"|"failures"} kind @param {string} [name] of a study */
  async show(kind, name) {
    const shown = (this.shown = `${kind}/${name ?? ""}`);
    this.page.replaceChildren(h("p", { className: "note" }, "Loading …"));
    let made;
    try {
      if (kind === "failures") made = await this.#failures();
      else if (name) made = await this.#study(name);
      else made = await this.#overview(kind === "probes" ? "probe" : "audit");
    } catch (error) {
      made = [h("p", { className: "note bad" }, error.message)];
    }
    if (shown === this.shown) this.page.replaceChildren(...made);
  }

  // ---- all studies of a kind, and running one ----

  async #overview(kind) {
    const [studies, probes] = await Promise.all([get("studies"), get("probes")]);
    const those = studies.filter((one) => one.kind === kind).sort((a, b) => (a.made < b.made ? 1 : -1));
    const rows = those.map((one) =>
      line(
        h("a", { href: `#/${kind}s/${encodeURIComponent(one.name)}` }, one.name),
        one.probe,
        one.value === null || one.value === undefined ? "" : `${MEASURES[one.measure] ?? one.measure} ${interval(one)}`,
        `${one.tracks.toLocaleString("en")} tracks, ${one.genres} genres`,
        h("time", { dateTime: one.made }, new Date(one.made).toLocaleString()),
        one.stale ? "the library has changed since" : "",
      ),
    );
    const what = kind === "probe" ? "What does each layer know about genre?" : "How much of the score is leakage?";
    const why =
      kind === "probe"
        ? "A small classifier is trained on the vectors of each layer and tested on tracks by artists it has not heard."
        : "The same probe under ever stricter groupings: what its score owes to artists, albums and recordings that stand on both sides of a split.";
    const parts = [h("h2", {}, what), h("p", {}, why), this.#form(kind)];
    parts.push(those.length ? table("Kept in the store", ["Name", "Probe", "Score", "On", "Made", ""], rows) : h("p", { className: "note" }, "None yet."));
    if (kind === "probe" && probes.length) {
      const saved = probes.map((one) =>
        line(one.name, one.probe, `layer ${one.layer}`, counted(one.genres.length, "genre"), one.value === null || one.value === undefined ? "" : interval(one)),
      );
      parts.push(table("Saved probes: they guess the genre of a sound that is dropped on the page", ["Name", "Probe", "Layer", "Genres", "Score held out"], saved));
    }
    return parts;
  }

  #form(kind) {
    const probe = h("select", { name: "probe", id: "run-probe" }, ...["logistic", "knn", "mlp", "centroid"].map((one) => h("option", {}, one)));
    const genres = h("input", { name: "genres", id: "run-genres", type: "number", min: 2, placeholder: "all" });
    const keep = h("input", { type: "checkbox", id: "run-save" });
    const progress = h("div", { className: "progress", role: "status" });
    const button = h("button", { type: "submit" }, kind === "probe" ? "Run the probe" : "Run the audit");
    const form = h(
      "form",
      {
        className: "row run",
        onsubmit: async (event) => {
          event.preventDefault();
          button.disabled = true;
          const options = { probe: probe.value };
          if (genres.value) options.genres = Number(genres.value);
          if (kind === "probe" && keep.checked) options.save = probe.value;
          try {
            await this.#follow(await post("jobs", { kind, options }), progress, kind);
          } catch (error) {
            progress.replaceChildren(h("p", { className: "note bad" }, error.message));
          }
          button.disabled = false;
        },
      },
      h("label", { htmlFor: "run-probe" }, "Probe"),
      probe,
      h("label", { htmlFor: "run-genres" }, "Genres (the first so many, A to Z)"),
      genres,
      ...(kind === "probe" ? [h("label", {}, keep, " also keep it, to guess genres")] : []),
      button,
    );
    this.#resume(progress, kind);
    return h("div", {}, form, progress);
  }

  /** Take up a run that was begun before the page was opened. */
  async #resume(progress, kind) {
    const running = (await get("jobs").catch(() => [])).find((job) => job.kind === kind && job.state === "running");
    if (running) await this.#follow(running, progress, kind).catch(() => {});
  }

  async #follow(job, progress, kind) {
    const stop = h("button", { type: "button", onclick: () => remove(`jobs/${job.id}`).catch((error) => say(error.message, true)) }, "Stop");
    const meter = h("progress", { "aria-label": "Done" });
    const text = h("span", {});
    progress.replaceChildren(h("div", { className: "row" }, meter, text, stop));
    while (job.state === "running") {
      if (job.total) Object.assign(meter, { max: job.total, value: job.done });
      text.textContent = job.total ? `${job.done} of ${job.total} ${job.message}` : "starting";
      await new Promise((done) => setTimeout(done, 700));
      if (!progress.isConnected) return; // another page is shown; it is found again when this one is
      job = (await get("jobs")).find(({ id }) => id === job.id) ?? { ...job, state: "stopped" };
    }
    progress.replaceChildren();
    if (job.state === "failed") progress.replaceChildren(h("p", { className: "note bad" }, job.message));
    if (job.state === "stopped") progress.replaceChildren(h("p", { className: "note" }, "Stopped; what was finished is kept."));
    if (job.state !== "done") return;
    await this.explorer.readStudy();
    location.hash = `#/${kind}s/${encodeURIComponent(job.result)}`;
  }

  // ---- one study ----

  async #study(name) {
    const study = await get(`studies/${encodeURIComponent(name)}`);
    const back = h("p", {}, h("a", { href: `#/${study.kind}s` }, `← all ${study.kind}s`));
    const stale = study.stale ? [h("p", { className: "note" }, "The library has changed since this was made.")] : [];
    return [back, ...stale, ...(study.kind === "audit" ? this.#audit(study) : this.#probe(study))];
  }

  #probe({ name, report, sentences }) {
    const main = measureOf(report);
    const chosen = report.selected;
    const said = MEASURES[main];
    const facts = h(
      "p",
      {},
      `${counted(report.n_tracks, "track")} of ${counted(report.genres.length, "genre")}; ${report.protocol.folds} folds, ${report.protocol.seeds.length} seeds; kept together: ${report.protocol.group}.`,
    );
    const scored = (title, { [main]: score }, remark) => line(title, bar(score.value), interval(score), remark);
    const layers = report.results.map((row) => scored(`${row.layer} ${row.name}`, row, row.layer === report.best_layer ? "preferred; its own row is optimistic" : ""));
    const beside = Object.entries(report.baselines).map(([title, row]) => scored(title.replaceAll("_", " "), row, "baseline"));
    const within = chosen.per_class_intervals ?? {};
    const genres = report.genres
      .map((genre) => [genre, chosen.per_class[genre] ?? 0])
      .sort((a, b) => b[1] - a[1])
      .map(([genre, value]) => line(genre, bar(value), within[genre] ? interval(within[genre]) : value.toFixed(3), report.tracks_per_genre[genre]));
    const listed = h("div", { id: "confused", "aria-live": "polite" });
    return [
      h("h2", {}, `${report.probe}: ${said} ${interval(chosen[main])}`),
      facts,
      ...sentences.map((sentence) => h("p", {}, sentence)),
      table("Layers", ["Layer", "", `${said}, 95 % interval`, ""], [scored("selected", chosen, "the score to quote"), ...layers, ...beside], "bars"),
      ...(report.confusion ? [this.#confusion(name, report.confusion, report.protocol.seeds.length, listed), listed] : []),
      table("Genres, by the layer chosen inside the training parts", ["Genre", "", main === "map" ? "average precision" : "F1", "Tracks"], genres, "bars"),
      ...report.notes.map((note) => h("p", { className: "note" }, note)),
    ];
  }

  /** A matrix whose cells list, and so play, their tracks. */
  #confusion(name, { labels, matrix }, seeds, listed) {
    const rows = matrix.map((counts, truth) => {
      const total = counts.reduce((sum, count) => sum + count, 0) || 1;
      const cells = counts.map((count, said) => {
        if (!count) return h("td", {});
        const share = count / total;
        const about = `${labels[truth]} taken for ${labels[said]}: ${Math.round(100 * share)} %`;
        const cell = h(
          "button",
          {
            type: "button",
            title: about,
            "aria-label": about,
            className: truth === said ? "right" : "wrong",
            onclick: () => this.#list(name, labels[truth], labels[said], listed),
          },
          String(Math.round((10 * count) / seeds) / 10),
        );
        cell.style.setProperty("--share", Math.sqrt(share).toFixed(3));
        return h("td", {}, cell);
      });
      return h("tr", {}, h("th", { scope: "row" }, labels[truth]), ...cells);
    });
    const title = "Confusion matrix: tracks per seed; rows are the true genre, columns what the probe said. Choose a cell to hear its tracks.";
    return table(title, ["", ...labels], rows, "confusion");
  }

  async #list(name, truth, predicted, listed) {
    listed.replaceChildren(h("p", { className: "note" }, "Loading …"));
    try {
      const { tracks } = await get(`studies/${encodeURIComponent(name)}/confused`, { true: truth, predicted });
      const times = new Map(tracks.map(({ id, times: n }) => [id, n]));
      const ids = tracks.slice(0, MOST_LISTED).map(({ id }) => id);
      const found = ids.length ? (await get("tracks", { id: ids })).tracks : [];
      const shown = found.map((track) => ({ ...this.explorer.asTrack(track), said: `in ${counted(times.get(track.id), "seed")}` }));
      const title = truth === predicted ? `${truth}, and said so` : `${truth} taken for ${predicted}`;
      const rows = tracks.map(({ id }) => this.explorer.library.rowOf(id)).filter((row) => row >= 0);
      listed.replaceChildren(
        h(
          "div",
          { className: "row" },
          h("h3", {}, `${title}: ${counted(tracks.length, "track")}`),
          h(
            "button",
            {
              type: "button",
              onclick: () => {
                location.hash = "#/map";
                this.explorer.showRows(rows, title);
                $("chosen").focus();
              },
            },
            "Show on the map",
          ),
        ),
        h("ol", { className: "tracks" }, ...shown.map((track) => this.lists.item(track, shown))),
      );
      listed.scrollIntoView({ block: "nearest" });
    } catch (error) {
      listed.replaceChildren(h("p", { className: "note bad" }, error.message));
    }
  }

  #audit({ report, sentences }) {
    const [{ score: first }] = report.groupings;
    const main = first.macro_f1 ? "macro_f1" : "map";
    const rows = report.groupings.map(({ name, score, gap, leaks }) =>
      line(name, bar(score[main].value), interval(score[main]), interval(gap), leaks ? "leak" : ""),
    );
    const words = { track: "one artist and title", album: "one album", artist: "one artist", "near-duplicate": "perhaps one recording" };
    const pairs = report.offenders.flatMap(({ kind, pairs: count, tracks, examples, similarity }) => {
      if (!examples.length) return [];
      const shown = examples.map((names, i) => {
        const sides = names.map((title, side) => {
          if (this.explorer.library.rowOf(tracks[i][side]) < 0) return h("td", {}, `${title} (no longer in the library)`);
          const track = this.explorer.asTrack({ id: tracks[i][side] });
          return h("td", {}, h("ol", { className: "tracks" }, this.lists.item(track, [track])));
        });
        return h("tr", {}, ...sides, ...(similarity ? [h("td", {}, similarity[i].toFixed(3))] : []));
      });
      const title = `Of ${words[kind]}, on both sides of ungrouped splits: ${counted(Math.round(count), "pair")}; some of them`;
      return [table(title, ["One side", "The other", ...(similarity ? ["Similarity"] : [])], shown, "pairs")];
    });
    return [
      h("h2", {}, `Leak audit, ${report.probe} probe`),
      h("p", {}, h("strong", {}, report.verdict)),
      ...sentences.filter((sentence) => sentence !== report.verdict).map((sentence) => h("p", {}, sentence)),
      table("Score by what is kept on one side of each split", ["Kept together", "", MEASURES[main], "More than the strictest", ""], rows, "bars"),
      ...pairs,
      ...report.notes.map((note) => h("p", { className: "note" }, note)),
    ];
  }

  async #failures() {
    const { failures, total } = await get("failures", { limit: MOST_FAILURES });
    const title = h("h2", {}, "Files that could not be stored");
    if (!total) return [title, h("p", {}, "None: every file was stored.")];
    const rows = failures.map(({ path, reason }) => line(path, reason));
    const listed = failures.length < total ? `The first ${failures.length}; \`embedstore failures\` lists all` : "All of them";
    return [
      title,
      h("p", {}, `${counted(total, "file")}. Mend or remove them, and build again: only these are tried.`),
      table(listed, ["File", "What was wrong"], rows),
    ];
  }
}
