/** How well each layer knows the genres: a dot and its interval above each place of the slider. */

const HEIGHT = 110;
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
  const values = rows.filter(Boolean).flatMap((row) => [row[measure].low, row[measure].high]);
  if (!values.length) return null;
  const [least, most] = [Math.min(...values), Math.max(...values, Math.min(...values) + 0.02)];
  const x = (place) => (layers.length === 1 ? width / 2 : SIDE + (place / (layers.length - 1)) * (width - 2 * SIDE));
  const y = (value) => TOP + (1 - (value - least) / (most - least)) * (HEIGHT - TOP - BOTTOM);
  const marks = rows.map((row, place) => {
    if (!row) return "";
    const { value, low, high } = row[measure];
    const said = `layer ${row.layer}: ${measure} ${value.toFixed(3)} [${low.toFixed(3)}, ${high.toFixed(3)}]`;
    const mark = svg(
      "g",
      { class: "mark", "data-place": place },
      svg("title", {}, said),
      svg("line", { x1: x(place), x2: x(place), y1: y(low), y2: y(high) }),
      svg("circle", { cx: x(place), cy: y(value), r: 5 }),
      svg("rect", { x: x(place) - 20, y: 0, width: 40, height: HEIGHT }),
      svg("text", { x: x(place), y: HEIGHT - 4 }, String(row.layer)),
    );
    mark.addEventListener("click", () => choose(place));
    return mark;
  });
  const line = rows.map((row, place) => row && `${x(place)},${y(row[measure].value)}`).filter(Boolean).join(" ");
  const grid = [least, most].map((value) =>
    svg("text", { class: "scale", x: width, y: y(value) + 4 }, value.toFixed(2)),
  );
  const best = rows.filter(Boolean).reduce((one, other) => (other[measure].value > one[measure].value ? other : one));
  return svg(
    "svg",
    {
      viewBox: `0 0 ${width} ${HEIGHT}`,
      role: "img",
      "aria-label": `${measure} of each layer with its 95 % interval, ${report.probe} probe; highest in layer ${best.layer}: ${best[measure].value.toFixed(3)}`,
    },
    svg("polyline", { points: line }),
    ...marks,
    ...grid,
  );
}

/** The measure that a report is about. @param {object} report */
export function measureOf(report) {
  return ["macro_f1", "map"].find((name) => report.selected?.[name]) ?? "accuracy";
}
