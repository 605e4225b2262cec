/** What stands above the points: names of groups, rings, the place of a sound from outside. */
import { MOST, isDark } from "./colours.js";

const LONGEST = 28; // letters of a name on the map
const CROWD = 15; // points among which a group must be the most frequent to give a place its name
const ABOVE = 16; // pixels from the middle of a group to its name: small groups stay visible

const ink = () => (isDark() ? "#fff" : "#111");

/** Ring a point. @param {CanvasRenderingContext2D} context @param {number[]} place @param {number} radius @param {number} width */
export function ring(context, [x, y], radius, width) {
  context.beginPath();
  context.arc(x, y, radius, 0, 7);
  context.lineWidth = width;
  context.strokeStyle = ink();
  context.stroke();
}

/** Mark the middle, where Enter chooses. @param {CanvasRenderingContext2D} context @param {number} x @param {number} y */
export function cross(context, x, y) {
  context.fillStyle = ink();
  context.fillRect(x - 8, y - 0.5, 16, 1);
  context.fillRect(x - 0.5, y - 8, 1, 16);
}

/** A star. @param {CanvasRenderingContext2D} context @param {number} x @param {number} y */
export function star(context, x, y) {
  context.beginPath();
  for (let i = 0; i < 10; i++) {
    const [radius, angle] = [i % 2 ? 6 : 14, (Math.PI * i) / 5 - Math.PI / 2];
    context.lineTo(x + radius * Math.cos(angle), y + radius * Math.sin(angle));
  }
  context.closePath();
  context.fillStyle = "#ffd166";
  context.strokeStyle = "#111";
  context.lineWidth = 2;
  context.fill();
  context.stroke();
}

/**
 * Write the names of groups, the largest first, as far as they do not cover each other.
 * @param {CanvasRenderingContext2D} context @param {{name: string, place: number[]}[]} names
 */
export function write(context, names) {
  context.font = "600 12px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineWidth = 3.5;
  context.lineJoin = "round";
  context.strokeStyle = isDark() ? "rgb(13 19 26 / 85%)" : "rgb(255 255 255 / 90%)";
  context.fillStyle = isDark() ? "#f3f6f8" : "#16202a";
  const taken = [];
  for (const { name: whole, place } of names) {
    const name = whole.length > LONGEST ? `${whole.slice(0, LONGEST - 1)}…` : whole;
    const [x, y] = [place[0], place[1] - ABOVE];
    const half = context.measureText(name).width / 2 + 4;
    if (taken.some(([tx, ty, other]) => Math.abs(x - tx) < half + other && Math.abs(y - ty) < 16)) continue;
    taken.push([x, y, half]);
    context.strokeText(name, x, y);
    context.fillText(name, x, y);
  }
}

/**
 * For each of the largest groups a row that lies in the middle of it, by the medians of both coordinates; left out are groups
 * whose middle belongs to others.
 * @param {{names: string[], codes: Int32Array}} groups @param {Uint16Array} places
 */
export function middles({ names, codes }, places) {
  const rows = names.slice(0, MOST).map(() => []);
  codes.forEach((code, row) => rows[code]?.push(row));
  return rows.flatMap((group, code) => {
    if (!group.length) return [];
    const [x, y] = [0, 1].map((i) => Float64Array.from(group, (row) => places[2 * row + i]).sort()[group.length >> 1]);
    const row = nearest(group, places, x, y, 1)[0];
    const crowd = nearest(codes.keys(), places, places[2 * row], places[2 * row + 1], CROWD);
    const counts = new Map();
    for (const one of crowd) counts.set(codes[one], (counts.get(codes[one]) ?? 0) + 1);
    return counts.get(code) === Math.max(...counts.values()) ? [{ name: names[code], row }] : [];
  });
}

/** The rows that lie nearest to a place, the nearest first. */
function nearest(rows, places, x, y, count) {
  const found = [];
  for (const row of rows) {
    const away = (places[2 * row] - x) ** 2 + (places[2 * row + 1] - y) ** 2;
    if (found.length === count && away >= found[count - 1].away) continue;
    found.push({ row, away });
    found.sort((a, b) => a.away - b.away);
    found.length = Math.min(found.length, count);
  }
  return found.map((one) => one.row);
}
