// Two charts of one spectrum, drawn as SVG: how the singular values are distributed, and each value by its rank.

// The Marchenko-Pastur law of the singular values s: supported on [a, b] = c [1 - root q, 1 + root q], with b = `edge`.
function noiseLaw(curve) {
  if (!isNumber(curve.edge) || !isNumber(curve.ratio) || curve.edge <= 0 || curve.ratio <= 0) return null;
  const q = Math.min(curve.ratio, 1 / curve.ratio), root = Math.sqrt(q), c = curve.edge / (1 + root), a = c * (1 - root), b = curve.edge;
  const density = (s) => (s <= a || s >= b ? 0 : Math.sqrt((b * b - s * s) * (s * s - a * a)) / (Math.PI * q * c * c * s));
  // The distribution function on a grid that is fine at both ends, where the density starts like a root.
  const grid = Array.from({ length: 401 }, (_, i) => a + ((b - a) * (1 - Math.cos((Math.PI * i) / 400))) / 2);
  const cdf = [0];
  for (let i = 1; i < grid.length; i++) cdf.push(cdf[i - 1] + density((grid[i] + grid[i - 1]) / 2) * (grid[i] - grid[i - 1]));
  const total = cdf[400] || 1;
  const below = (s) => {
    if (s <= a) return 0;
    if (s >= b) return 1;
    const i = clamp(Math.floor((400 * Math.acos(1 - (2 * (s - a)) / (b - a))) / Math.PI), 0, 399);
    return (cdf[i] + ((cdf[i + 1] - cdf[i]) * (s - grid[i])) / (grid[i + 1] - grid[i])) / total;
  };
  const quantile = (p) => {
    let low = 0, high = 400;
    while (high - low > 1) { const mid = (low + high) >> 1; if (cdf[mid] <= p * total) low = mid; else high = mid; }
    return grid[low] + ((grid[high] - grid[low]) * (p * total - cdf[low])) / Math.max(cdf[high] - cdf[low], 1e-300);
  };
  return { a, b, below, quantile };
}

// Shares of the values in each bin. Values that are quantiles of more stand for their neighbourhood, at most a bin wide.
function shares(values, bins, f) {
  const out = new Array(bins.length - 1).fill(0), low = bins[0], step = bins[1] - bins[0], n = values.length;
  values.forEach((value, i) => {
    const v = f(value), up = i > 0 ? (f(values[i - 1]) - v) / 2 : 0, down = i < n - 1 ? (v - f(values[i + 1])) / 2 : 0;
    const from = v - Math.min(down, step / 2), to = v + Math.min(up, step / 2), width = to - from;
    const first = clamp(Math.floor((from - low) / step), 0, out.length - 1), last = clamp(Math.floor((to - low) / step), 0, out.length - 1);
    for (let b = first; b <= last; b++) {
      const part = first === last || width <= 0 ? (b === first ? 1 : 0) : (Math.min(to, low + (b + 1) * step) - Math.max(from, low + b * step)) / width;
      out[b] += clamp(part, 0, 1) / n;
    }
  });
  return out;
}

function ticks(low, high, log, room) {
  if (log) {
    const from = Math.floor(Math.log10(low)), to = Math.ceil(Math.log10(high)), every = Math.max(1, Math.ceil((to - from) / room)), out = [];
    const inner = to - from <= 1 ? [1, 2, 3, 5, 7] : to - from <= 3 ? [1, 2, 5] : [1];
    for (let e = from; e <= to; e += every) for (const k of inner) { const v = k * 10 ** e; if (v >= low * 0.999 && v <= high * 1.001) out.push(v); }
    return out.length > 1.7 * room ? out.filter((v) => /^1/.test(v.toExponential())) : out;
  }
  const rough = (high - low) / room || 1, base = 10 ** Math.floor(Math.log10(rough)), step = [1, 2, 2.5, 5, 10].find((k) => k * base >= rough) * base;
  const out = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-9; v += step) out.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return out;
}
const tickText = (v) => (v === 0 ? "0" : Math.abs(v) >= 1e5 || Math.abs(v) < 1e-3 ? v.toExponential(0).replace("e+", "e") : String(Number(v.toPrecision(3))));

// Axes, grid and a cursor that follows the pointer, a finger or the arrow keys.
class Plot {
  constructor(title, describe) {
    Object.assign(this, { describe, points: [], at: -1 });
    this.svg = svg("svg", { class: "plot", role: "img", tabindex: "0", "aria-label": title,
      onpointermove: (e) => this.follow(e), onpointerdown: (e) => this.follow(e), onpointerleave: (e) => e.pointerType === "touch" || this.leave(), onblur: () => this.leave(), onkeydown: (e) => this.key(e) });
    this.node = el("figure", { class: "chart" }, el("figcaption", null, title), this.svg);
  }
  frame({ x, y, logX, logY, labelX, labelY, yTicks = true }) {
    const width = Math.max(260, Math.round(this.node.clientWidth || 480)), height = width < 420 ? 260 : 310;
    const pad = { left: 46, right: 12, top: 22, bottom: 40 };
    const scale = (range, log, from, to) => { const f = log ? Math.log : (v) => v, low = f(range[0]), span = f(range[1]) - low || 1; return (v) => from + ((f(v) - low) / span) * (to - from); };
    Object.assign(this, { width, height, pad, X: scale(x, logX, pad.left, width - pad.right), Y: scale(y, logY, height - pad.bottom, pad.top) });
    const bottom = height - pad.bottom;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.style.height = `${height}px`;
    this.cursor = svg("g", { class: "cursor", visibility: "hidden" }, svg("line", { y1: pad.top, y2: bottom }));
    this.svg.replaceChildren(
      svg("g", { class: "axis" },
        yTicks && ticks(y[0], y[1], logY, 5).map((v) => [svg("line", { class: "grid", x1: pad.left, x2: width - pad.right, y1: this.Y(v), y2: this.Y(v) }), svg("text", { x: pad.left - 7, y: this.Y(v) + 3.5, "text-anchor": "end" }, tickText(v))]),
        ticks(x[0], x[1], logX, width / 80).map((v) => [svg("line", { class: "tick", x1: this.X(v), x2: this.X(v), y1: bottom, y2: bottom + 4 }), svg("text", { x: this.X(v), y: bottom + 16, "text-anchor": "middle" }, tickText(v))]),
        svg("line", { class: "base", x1: pad.left, x2: width - pad.right, y1: bottom, y2: bottom }),
        svg("text", { class: "title", x: (pad.left + width - pad.right) / 2, y: height - 5, "text-anchor": "middle" }, labelX),
        svg("text", { class: "title", x: 4, y: 12 }, labelY)));
    return this;
  }
  add(...nodes) { this.svg.append(...nodes.flat(Infinity).filter(Boolean)); }
  // A line that leaves the range is cut off at the frame.
  line(points, name) {
    const inside = points.filter(([, v]) => Number.isFinite(v)), { left, top, right, bottom } = this.pad;
    if (inside.length < 2) return;
    const wide = this.width - left - right, high = this.height - top - bottom;
    this.add(svg("svg", { x: left, y: top, width: wide, height: high + 1, viewBox: `${left} ${top} ${wide} ${high + 1}` },
      svg("path", { class: `line ${name}`, d: `M${inside.map(([u, v]) => `${this.X(u).toFixed(1)} ${this.Y(v).toFixed(1)}`).join("L")}` })));
  }
  // A vertical mark with its word.
  marker(v, word, name) {
    const at = this.X(v);
    if (!(at >= this.pad.left - 1 && at <= this.width - this.pad.right + 1)) return;
    const flip = at > this.width * 0.72;
    this.add(svg("line", { class: `marker ${name}`, x1: at, x2: at, y1: this.pad.top, y2: this.height - this.pad.bottom }),
      svg("text", { class: `marker ${name}`, x: at + (flip ? -5 : 5), y: this.pad.top + 9, "text-anchor": flip ? "end" : "start" }, word));
  }
  // A mark on a curve with a line down to the axis; `level` lifts its word above that of a neighbour.
  pin(x, y, word, level = 0) {
    const u = this.X(x), v = clamp(this.Y(y), this.pad.top, this.height - this.pad.bottom), flip = u > this.width * 0.8;
    this.add(svg("line", { class: "marker", x1: u, x2: u, y1: v, y2: this.height - this.pad.bottom }), svg("circle", { class: "marker", cx: u, cy: v, r: 3.6 }),
      svg("text", { class: "marker", x: u + (flip ? 3 : 7), y: Math.max(this.pad.top + 9, v - 7 - 14 * level), "text-anchor": flip ? "end" : "start" }, word));
  }
  finish(points) { this.points = points; this.at = -1; this.add(this.cursor); } // points: x in pixels, and what the tooltip says there
  follow(event) {
    const box = this.svg.getBoundingClientRect(), x = ((event.clientX - box.left) * this.width) / box.width;
    let best = -1;
    this.points.forEach((p, i) => { if (best < 0 || Math.abs(p.x - x) < Math.abs(this.points[best].x - x)) best = i; });
    if (best >= 0) this.point(best, event.clientX, event.clientY);
  }
  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 }[event.key];
    if (!step || !this.points.length) return;
    event.preventDefault();
    const i = clamp((this.at < 0 ? (step > 0 ? -1 : this.points.length) : this.at) + step, 0, this.points.length - 1), box = this.svg.getBoundingClientRect();
    this.point(i, box.left + (this.points[i].x * box.width) / this.width, box.top + box.height / 3);
  }
  point(i, x, y) {
    this.at = i;
    this.cursor.setAttribute("visibility", "visible");
    this.cursor.setAttribute("transform", `translate(${this.points[i].x.toFixed(1)} 0)`);
    tip.show(this.describe(this.points[i]), x, y);
  }
  leave() { this.at = -1; if (this.cursor) this.cursor.setAttribute("visibility", "hidden"); tip.hide(); }
}
