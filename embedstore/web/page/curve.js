/** How well each layer knows the genres: a dot and its interval above each place of the slider. */

const HEIGHT = 130;
const LINE = 12; // pixels between two texts
const [TOP, BOTTOM] = [8, 20]; // room for a dot, and for the numbers of the layers
const SIDE = 8; // half the knob of a slider, so that dots stand above its places

const svg = (tag, given, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(given)) made.setAttribute(name, value);
  made.append(...children);
  return made;
};

/**
 * Draw it.
 * @param {object} report as `embedstore probe --json` has it
 * @param {number[]} layers numbers, in the order of the slider
 * @param {number} width pixels
 * @param {(place: number) => void} choose
 */
export function drawCurve(report, layers, width, choose) {
  const measure = measureOf(report);
  const rows = layers.map((number) => report.results.find((one) => one.layer === number));
  if (!rows.some(Boolean)) return null;
  const baselines = ["shuffled_labels", "mfcc", "random_weights"].filter((name) => report.baselines[name]?.[measure]);
  const beside = baselines.map((name) => ({ name: name.replace("_", " "), value: report.baselines[name][measure].value }));
  const values = rows.filter(Boolean).flatMap((row) => [row[measure].low, row[measure].high]).concat(beside.map(({ value }) => value));
  const [least, most] = [Math.min(...values), Math.max(...values, Math.min(...values) + 0.02)];
  const x = (place) => (layers.length === 1 ? width / 2 : SIDE + (place / (layers.length - 1)) * (width - 2 * SIDE));
  const y = (value) => TOP + (1 - (value - least) / (most - least)) * (HEIGHT - TOP - BOTTOM);
  const room = layers.length > 1 ? (width - 2 * SIDE) / (layers.length - 1) : width;
  const every = Math.ceil(22 / room); // as many numbers as there is room for
  // a layer that the tests tell from the preferred one is hollow
  const told = report.indistinct ? new Set([...report.indistinct, report.best_layer]) : null;
  const marks = rows.map((row, place) => {
    if (!row) return "";
    const { value, low, high } = row[measure];
    const apart = told && !told.has(row.layer);
    const said = `layer ${row.layer}: ${measure} ${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]${apart ? "; less than the preferred layer" : ""}`;
    const mark = svg(
      "g",
      { class: apart ? "mark apart" : "mark", "data-place": place },
      svg("title", {}, said),
      svg("line", { x1: x(place), x2: x(place), y1: y(low), y2: y(high) }),
      svg("circle", { cx: x(place), cy: y(value), r: 5 }),
      svg("rect", { x: x(place) - Math.min(40, room) / 2, y: 0, width: Math.min(40, room), height: HEIGHT }),
      ...(place % every ? [] : [svg("text", { x: x(place), y: HEIGHT - 4 }, String(row.layer))]),
    );
    mark.addEventListener("click", () => choose(place));
    return mark;
  });
  const line = rows.map((row, place) => row && `${x(place)},${y(row[measure].value)}`).filter(Boolean).join(" ");
  const grid = [least, most].map((value) =>
    svg("text", { class: "scale", x: 2 * SIDE, y: y(value) + 4 }, value.toFixed(2)),
  );
  const lines = beside.map(({ value }) => svg("line", { class: "beside", x1: 0, x2: width, y1: y(value), y2: y(value) }));
  const names = [];
  for (const { name, value } of beside.sort((a, b) => b.value - a.value)) {
    const last = names.at(-1);
    if (last && y(value) - last.at < LINE) last.text += `, ${name}`;
    else names.push({ at: y(value), text: name });
  }
  const written = names.map(({ at, text }) => svg("text", { class: "beside", x: width - 2 * SIDE, y: Math.max(LINE, at - 3) }, text));
  const ties = told ? `; not told from the preferred layer ${report.best_layer}: ${report.indistinct.join(", ") || "none"}` : "";
  return svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${HEIGHT}`,
      role: "img",
      "aria-label": `${measure} of each layer with its 95 % interval, ${report.probe} probe${ties}; beside it ${beside.map(({ name, value }) => `${name} ${value.toFixed(3)}`).join(", ")}`,
    },
    ...lines,
    svg("polyline", { points: line }),
    ...marks,
    ...grid,
    ...written,
  );
}

/** The measure that a report is about. @param {object} report */
export function measureOf(report) {
  return ["macro_f1", "map"].find((name) => report.selected?.[name]) ?? "accuracy";
}
