/**
 * Points in the plane, drawn by the graphics card: they move from one layout to another there, so a hundred thousand are as smooth
 * as a hundred. Libraries that do this make shaders with `eval`, which the page's security policy forbids.
 *
 * Places are 0..65535 in both directions, y upwards. Of a point: 0 faint, 1 shown, 2 raised.
 */
import { still } from "./dom.js";

export const FAINT = 0;
export const SHOWN = 1;
export const RAISED = 2;

const VERTEX = `#version 300 es
in vec2 a_from, a_to;
in vec3 a_colour;
in float a_state;
uniform float u_mix, u_size;
uniform vec4 u_view;
uniform vec3 u_faint;
out vec4 v_colour;
flat out float v_raised;
void main() {
  v_raised = step(1.5, a_state);
  gl_Position = vec4(mix(a_from, a_to, u_mix) * u_view.xy + u_view.zw, 0.0, 1.0);
  gl_PointSize = v_raised > 0.5 ? max(u_size * 1.6, 9.0) : a_state > 0.5 ? u_size : u_size * 0.7;
  v_colour = a_state > 0.5 ? vec4(a_colour, mix(0.85, 1.0, v_raised)) : vec4(u_faint, 0.22);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec4 v_colour;
flat in float v_raised;
uniform vec3 u_edge;
out vec4 colour;
void main() {
  float away = length(gl_PointCoord - 0.5) * 2.0;
  float edge = fwidth(away);
  float alpha = v_colour.a * (1.0 - smoothstep(1.0 - edge, 1.0, away));
  vec3 inner = v_raised > 0.5 ? mix(v_colour.rgb, u_edge, smoothstep(0.66, 0.72, away)) : v_colour.rgb;
  colour = vec4(inner * alpha, alpha);
}`;
const ALL = ["from", "to", "colour", "state", "order"];
const REACH = 14; // pixels around the pointer in which a point is found
const NEAREST = 200; // times as large as the whole map
const MARGIN = 40; // pixels around a map that is shown as a whole
const GLIDE = 700; // milliseconds from one layout to another

/** @fires hover pick lasso: `detail` is a row (-1: none), or rows */
export class PointMap extends EventTarget {
  /** @param {HTMLCanvasElement} canvas @param {HTMLCanvasElement} overlay of the same size, above it */
  constructor(canvas, overlay) {
    super();
    this.canvas = canvas;
    this.overlay = overlay;
    this.count = 0;
    this.camera = { x: 0.5, y: 0.5, zoom: 1 };
    this.from = this.to = new Uint16Array(0);
    this.mix = 1;
    this.colours = new Uint8Array(0);
    this.states = new Uint8Array(0);
    this.faint = [128, 128, 128];
    this.edge = [255, 255, 255];
    this.hovered = -1;
    this.covered = 0;
    this.isWhole = true; // nobody has moved it since all of it was shown
    this.lassoing = false;
    this.decorate = () => {}; // draws above the points: (context, place of a row on the screen)
    this.#start();
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => this.#start());
    new ResizeObserver(() => this.#resize()).observe(canvas);
    this.#listen();
  }

  /** Whether this browser can draw it. */
  get works() {
    return this.gl !== null;
  }

  #gl = null;
  #program = null;
  #buffers = {};
  #uniforms = {};
  #stale = new Set();
  #order = new Uint32Array(0); // what is raised is drawn above what is shown, and that above what is faint
  #frame = 0;
  #glide = null;
  #path = null;
  #pointers = new Map();
  #rect = { width: 1, height: 1, ratio: 1 };

  get gl() {
    return this.#gl;
  }

  #start() {
    const gl = (this.#gl = this.canvas.getContext("webgl2", { alpha: true, antialias: false, premultipliedAlpha: true }));
    if (!gl) return;
    const program = (this.#program = gl.createProgram());
    for (const [kind, source] of [
      [gl.VERTEX_SHADER, VERTEX],
      [gl.FRAGMENT_SHADER, FRAGMENT],
    ]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(program));
    for (const name of ["mix", "size", "view", "faint", "edge"])
      this.#uniforms[name] = gl.getUniformLocation(program, `u_${name}`);
    for (const name of ALL) this.#buffers[name] = gl.createBuffer();
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    ALL.forEach((name) => this.#stale.add(name));
    this.#resize();
  }

  /** Take other points. @param {number} count @param {Uint16Array} places where they are at first */
  reset(count, places) {
    this.count = count;
    this.from = this.to = places;
    this.colours = new Uint8Array(3 * count);
    this.hovered = -1;
    this.#glide = null;
    ALL.forEach((name) => this.#stale.add(name));
    this.mark(new Uint8Array(count).fill(SHOWN));
  }

  /** Lay the points out between two layouts. @param {Uint16Array} from @param {Uint16Array} to @param {number} mix 0..1 */
  layOut(from, to, mix) {
    this.#glide = null;
    this.#show(from, to, mix);
  }

  /** Move the points from wherever they are to another layout. @param {Uint16Array} to */
  glideTo(to) {
    if (still() || !this.count) return this.layOut(to, to, 1);
    this.#show(this.now(), to, 0);
    this.#glide = performance.now();
  }

  /** Where the points are drawn now. */
  now() {
    return Uint16Array.from({ length: 2 * this.count }, (_, i) => this.#at(i));
  }

  #show(from, to, mix) {
    if (this.from !== from) this.#stale.add("from");
    if (this.to !== to) this.#stale.add("to");
    Object.assign(this, { from, to, mix });
    this.redraw();
  }

  /** Colour the points. @param {Uint8Array} colours red, green, blue of each */
  paint(colours) {
    this.colours = colours;
    this.#stale.add("colour");
    this.redraw();
  }

  /** Make points faint, shown or raised. @param {Uint8Array} states */
  mark(states) {
    this.states = states;
    const order = new Uint32Array(states.length);
    let next = 0;
    for (const wanted of [FAINT, SHOWN, RAISED]) for (let row = 0; row < order.length; row++) if (states[row] === wanted) order[next++] = row;
    this.#order = order;
    ["state", "order"].forEach((name) => this.#stale.add(name));
    this.redraw();
  }

  /** Show all of it, as large as it goes. @param {number} [right] pixels at the right that something else covers */
  fit(right = this.covered) {
    this.covered = right;
    const ends = [1, 0, 1, 0];
    for (let i = 0; i < this.to.length; i++) {
      const [at, first] = [this.to[i] / 65535, i % 2 ? 2 : 0];
      if (at < ends[first]) ends[first] = at;
      if (at > ends[first + 1]) ends[first + 1] = at;
    }
    const [left, end, bottom, top] = ends[1] < ends[0] ? [0, 1, 0, 1] : ends;
    const { width, height } = this.#rect;
    const room = [Math.max(1, width - right - 2 * MARGIN), Math.max(1, height - 2 * MARGIN)];
    const scale = Math.min(room[0] / Math.max(end - left, 0.02), room[1] / Math.max(top - bottom, 0.02));
    const zoom = Math.max(0.5, scale / Math.min(width, height));
    this.camera = { x: (left + end) / 2, y: (bottom + top) / 2, zoom };
    this.pan(-right / 2, 0);
    this.isWhole = true;
  }

  /** Zoom about a place on the screen. @param {number} times @param {number} [x] @param {number} [y] pixels from the middle */
  zoom(times, x = 0, y = 0) {
    this.isWhole = false;
    const before = this.#scale();
    this.camera.zoom = Math.min(NEAREST, Math.max(0.5, this.camera.zoom * times));
    const after = this.#scale();
    this.camera.x += x / before - x / after;
    this.camera.y -= y / before - y / after;
    this.redraw();
  }

  /** Move the map under the window. @param {number} x @param {number} y pixels */
  pan(x, y) {
    this.isWhole = false;
    const scale = this.#scale();
    this.camera.x = Math.min(1.5, Math.max(-0.5, this.camera.x - x / scale));
    this.camera.y = Math.min(1.5, Math.max(-0.5, this.camera.y + y / scale));
    this.redraw();
  }

  /** Bring a row near the middle if it is outside. @param {number} row */
  reveal(row) {
    const [x, y] = this.placeOf(row);
    const { width, height } = this.#rect;
    if (x > 20 && y > 20 && x < width - 20 && y < height - 20) return;
    this.camera.x = this.#at(2 * row) / 65535;
    this.camera.y = this.#at(2 * row + 1) / 65535;
    this.isWhole = false;
    this.redraw();
  }

  /** Where a row is on the screen, in pixels of the canvas. @param {number} row */
  placeOf(row) {
    return this.onScreen(this.#at(2 * row), this.#at(2 * row + 1));
  }

  /** Where a place of a layout is on the screen. @param {number} x @param {number} y 0..65535 */
  onScreen(x, y) {
    const scale = this.#scale();
    const { width, height } = this.#rect;
    return [(x / 65535 - this.camera.x) * scale + width / 2, (this.camera.y - y / 65535) * scale + height / 2];
  }

  #at(i) {
    return this.from[i] + (this.to[i] - this.from[i]) * this.mix;
  }

  #scale() {
    return this.camera.zoom * Math.min(this.#rect.width, this.#rect.height);
  }

  #size() {
    const few = Math.min(1, Math.sqrt(4000 / Math.max(1, this.count))); // the more there are the smaller
    return Math.min(16, (2.2 + 6 * few) * this.camera.zoom ** 0.35);
  }

  /** The row that is nearest to a place, -1 if none is near. @param {number} x @param {number} y pixels @param {number} [reach] */
  rowAt(x, y, reach = REACH) {
    const scale = this.#scale() / 65535;
    const { width, height } = this.#rect;
    const [left, top] = [width / 2 - this.camera.x * 65535 * scale, height / 2 + this.camera.y * 65535 * scale];
    const { from, to, mix, states } = this;
    let best = -1;
    let nearest = reach * reach;
    for (let row = 0, i = 0; row < this.count; row++, i += 2) {
      if (states[row] === FAINT) continue;
      const dx = (from[i] + (to[i] - from[i]) * mix) * scale + left - x;
      if (dx * dx > nearest) continue;
      const dy = top - (from[i + 1] + (to[i + 1] - from[i + 1]) * mix) * scale - y;
      const away = dx * dx + dy * dy;
      if (away <= nearest) [best, nearest] = [row, away];
    }
    return best;
  }

  #rowsWithin(path) {
    const rows = [];
    for (let row = 0; row < this.count; row++) {
      if (this.states[row] === FAINT) continue;
      const [x, y] = this.placeOf(row);
      let inside = false;
      for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
        const [xi, yi] = path[i];
        const [xj, yj] = path[j];
        if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
      }
      if (inside) rows.push(row);
    }
    return rows;
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const ratio = Math.min(2, devicePixelRatio || 1);
    this.#rect = { width, height, ratio };
    for (const one of [this.canvas, this.overlay]) [one.width, one.height] = [width * ratio, height * ratio].map(Math.round);
    if (this.isWhole) this.fit();
    this.redraw();
  }

  /** Draw at the next chance. */
  redraw() {
    this.#frame ||= requestAnimationFrame((now) => {
      this.#frame = 0;
      if (this.#glide !== null) {
        const done = Math.min(1, Math.max(0, (now - this.#glide) / GLIDE));
        this.mix = done * done * (3 - 2 * done);
        if (done < 1) this.redraw();
        else this.#glide = null;
      }
      this.#draw();
    });
  }

  #draw() {
    const gl = this.#gl;
    if (!gl || gl.isContextLost()) return;
    const { width, height, ratio } = this.#rect;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.useProgram(this.#program);
    const scale = this.#scale();
    gl.uniform4f(
      this.#uniforms.view,
      (2 * scale) / width,
      (2 * scale) / height,
      (-2 * scale * this.camera.x) / width,
      (-2 * scale * this.camera.y) / height,
    );
    gl.uniform1f(this.#uniforms.mix, this.mix);
    gl.uniform1f(this.#uniforms.size, this.#size() * ratio);
    gl.uniform3f(this.#uniforms.faint, ...this.faint.map((x) => x / 255));
    gl.uniform3f(this.#uniforms.edge, ...this.edge.map((x) => x / 255));
    this.#feed("from", this.from, 2, gl.UNSIGNED_SHORT, true);
    this.#feed("to", this.to, 2, gl.UNSIGNED_SHORT, true);
    this.#feed("colour", this.colours, 3, gl.UNSIGNED_BYTE, true);
    this.#feed("state", this.states, 1, gl.UNSIGNED_BYTE, false);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, this.#buffers.order);
    if (this.#stale.delete("order")) gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, this.#order, gl.DYNAMIC_DRAW);
    if (this.count) gl.drawElements(gl.POINTS, this.count, gl.UNSIGNED_INT, 0);
    this.#drawOver(ratio);
  }

  #feed(name, data, parts, kind, normalised) {
    const gl = this.#gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.#buffers[name]);
    if (this.#stale.delete(name)) gl.bufferData(gl.ARRAY_BUFFER, data, gl.DYNAMIC_DRAW);
    const place = gl.getAttribLocation(this.#program, `a_${name}`);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, parts, kind, normalised, 0, 0);
  }

  #drawOver(ratio) {
    const context = this.overlay.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, this.#rect.width, this.#rect.height);
    this.decorate(context);
    if (this.#path?.length > 1) {
      context.beginPath();
      this.#path.forEach(([x, y]) => context.lineTo(x, y));
      context.closePath();
      context.fillStyle = "rgb(90 140 220 / 18%)";
      context.fill();
      context.setLineDash([5, 4]);
      context.strokeStyle = "rgb(90 140 220)";
      context.lineWidth = 2;
      context.stroke();
      context.setLineDash([]);
    }
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  #hover(row) {
    if (row === this.hovered) return;
    this.hovered = row;
    this.canvas.style.cursor = row >= 0 ? "pointer" : "";
    this.#tell("hover", row);
    this.redraw();
  }

  #listen() {
    const { canvas } = this;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    let moved = 0;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, at(event));
      if (this.#pointers.size === 1) moved = 0;
      this.#path = (this.lassoing || event.shiftKey) && this.#pointers.size === 1 ? [at(event)] : null;
    });
    canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(event);
      const before = this.#pointers.get(event.pointerId);
      if (!before) return this.#hover(this.rowAt(x, y));
      const apart = this.#apart();
      moved += Math.hypot(x - before[0], y - before[1]);
      this.#pointers.set(event.pointerId, [x, y]);
      if (this.#path) this.#path.push([x, y]);
      else if (this.#pointers.size === 1 && moved > 4) this.pan(x - before[0], y - before[1]);
      else if (this.#pointers.size === 2) {
        const { width, height } = this.#rect;
        const [mx, my] = this.#middle();
        this.zoom(this.#apart() / apart, mx - width / 2, my - height / 2);
        this.pan((x - before[0]) / 2, (y - before[1]) / 2);
      }
      this.redraw();
    });
    const end = (event) => {
      if (!this.#pointers.delete(event.pointerId)) return;
      const path = this.#path;
      this.#path = null;
      this.redraw();
      if (event.type === "pointercancel") return;
      if (path && moved > 8) this.#tell("lasso", this.#rowsWithin(path));
      else if (moved <= 4) {
        const row = this.rowAt(...at(event), event.pointerType === "touch" ? 24 : REACH);
        if (row >= 0) this.#tell("pick", row);
      }
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    canvas.addEventListener("pointerleave", () => this.#hover(-1));
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const [x, y] = at(event);
        const { width, height } = this.#rect;
        const lines = event.deltaMode === 1 ? 20 : 1;
        this.zoom(Math.exp(-Math.max(-200, Math.min(200, event.deltaY * lines)) / 400), x - width / 2, y - height / 2);
        this.#hover(this.rowAt(x, y));
      },
      { passive: false },
    );
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { width, height } = this.#rect;
    const moves = {
      ArrowLeft: () => this.pan(60, 0),
      ArrowRight: () => this.pan(-60, 0),
      ArrowUp: () => this.pan(0, 60),
      ArrowDown: () => this.pan(0, -60),
      "+": () => this.zoom(1.4),
      "=": () => this.zoom(1.4),
      "-": () => this.zoom(1 / 1.4),
      0: () => this.fit(),
      Enter: () => {
        const row = this.rowAt(width / 2, height / 2, Infinity);
        if (row >= 0) this.#tell("pick", row);
      },
    };
    if (!(event.key in moves)) return;
    event.preventDefault();
    moves[event.key]();
  }

  #apart() {
    const [a, b] = [...this.#pointers.values()];
    return b ? Math.max(1, Math.hypot(a[0] - b[0], a[1] - b[1])) : 1;
  }

  #middle() {
    const [a, b] = [...this.#pointers.values()];
    return [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  }
}
