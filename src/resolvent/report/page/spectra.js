// One matrix: its spectrum against noise and against its shuffled self, its quantities, and what else is known of it.

const view = { scale: "auto", ranks: "linear", law: true, shuffled: true };

function drawSpectrum(m, histogram, byRank) {
  const curve = m.curve, values = curve.values.map((v) => Math.max(0, v)), top = values[0];
  const shuffled = view.shuffled && curve.shuffled ? curve.shuffled.map((v) => Math.max(0, v)) : null, law = view.law ? noiseLaw(curve) : null;
  const median = values[values.length >> 1];
  const log = view.scale === "log" || (view.scale === "auto" && top > 6 * Math.max(median, 1e-300));
  // What is below a millionth of the largest is drawn there: a logarithm has no place for zero.
  const floor = Math.max(1e-6 * top, Math.min(...values.filter((v) => v > 1e-6 * top), ...(shuffled || [top]).filter((v) => v > 1e-6 * top), law && law.a > 1e-6 * top ? law.a : top));
  drawHistogram(histogram, { m, values, shuffled, law, log, top, floor });
  drawRanks(byRank, { m, values, shuffled, law, log, top, floor });
}

function drawHistogram(plot, { m, values, shuffled, law, log, top, floor }) {
  const f = log ? (v) => Math.log(Math.max(v, floor)) : (v) => v, back = log ? Math.exp : (v) => v;
  const high = Math.max(top, shuffled ? shuffled[0] : 0, law ? law.b : 0), low = log ? floor / 1.05 : 0;
  const count = clamp(Math.round(2.2 * Math.sqrt(values.length) + 12), 12, 48), from = f(low || 0), step = (f(high * (log ? 1.05 : 1.02)) - (log ? Math.log(low) : 0)) / count;
  const start = log ? Math.log(low) : from, edges = Array.from({ length: count + 1 }, (_, i) => start + i * step);
  const mine = shares(values, edges, f), theirs = shuffled && shares(shuffled, edges, f);
  const noise = law && edges.slice(1).map((e, i) => law.below(back(e)) - law.below(back(edges[i])));
  const fine = Array.from({ length: 161 }, (_, i) => start + step / 2 + (i * (count - 1) * step) / 160), smooth = law && fine.map((u) => law.below(back(u + step / 2)) - law.below(back(u - step / 2)));
  const tallest = Math.max(...mine, ...(theirs || [0]), Math.min(law ? Math.max(...smooth) : 0, 4 * Math.max(...mine)));
  plot.frame({ x: [back(start), back(edges[count])], y: [0, tallest * 1.12], logX: log, labelX: `singular value σ${log ? " (logarithmic)" : ""}`, labelY: "share of the values" });
  const bottom = plot.Y(0), edge = m.curve.edge;
  plot.add(mine.map((share, i) => {
    const x = plot.X(back(edges[i])), wide = plot.X(back(edges[i + 1])) - x, y = plot.Y(share);
    return share > 0 && svg("rect", { class: isNumber(edge) && back(edges[i]) >= edge ? "bin hot" : "bin", x: x + 0.5, y: Math.min(y, bottom - 1), width: Math.max(0.5, wide - 1), height: Math.max(1, bottom - y) });
  }));
  plot.add(svg("g", { class: "rug" }, values.map((v) => svg("line", { class: isNumber(edge) && v > edge ? "hot" : null, x1: plot.X(Math.max(v, low)), x2: plot.X(Math.max(v, low)), y1: bottom + 1, y2: bottom + 5 }))));
  if (theirs) plot.line(edges.slice(0, -1).flatMap((e, i) => [[back(e), theirs[i]], [back(edges[i + 1]), theirs[i]]]), "shuffled");
  if (law) {
    plot.line(fine.map((u, i) => [back(u), smooth[i]]), "law");
    plot.marker(edge, "edge of noise", "edge");
  }
  const r = side(m);
  plot.finish(mine.map((share, i) => ({ x: plot.X(back(edges[i] + step / 2)), from: back(edges[i]), to: back(edges[i + 1]), share, r, theirs: theirs && theirs[i], noise: noise && noise[i] })));
}

function drawRanks(plot, { m, values, shuffled, law, log, top, floor }) {
  const r = side(m), n = values.length, rankAt = (i, count) => (count < 2 ? 1 : Math.round(1 + ((r - 1) * i) / (count - 1))), logRank = view.ranks === "log";
  const high = Math.max(top, shuffled ? shuffled[0] : 0, law ? Math.min(law.b, 2 * top) : 0) * 1.06;
  plot.frame({ x: [logRank ? 1 : Math.min(1, r / 2), Math.max(r, 2)], y: [log ? floor / 1.05 : 0, high], logX: logRank, logY: log, labelX: `rank${logRank ? " (logarithmic)" : ""}`, labelY: `singular value σ${log ? " (logarithmic)" : ""}` });
  const lift = (v) => (log ? Math.max(v, floor) : v), line = (list) => list.map((v, i) => [rankAt(i, list.length), lift(v)]);
  if (law) plot.line(Array.from({ length: 129 }, (_, i) => 1 - i / 128).map((p) => [1 + (r - 1) * (1 - p), lift(law.quantile(p))]), "law");
  if (shuffled) plot.line(line(shuffled), "shuffled");
  plot.line(line(values), "values");
  if (n <= 64) plot.add(line(values).map(([x, y]) => svg("circle", { class: "dot", cx: plot.X(x), cy: plot.Y(y), r: 2.2 })));
  // From the right, so that a word can rise above the one beside it.
  const marks = [["effective_rank", "effective"], ["rank90", "90%"], ["rank99", "99%"]].filter(([key]) => isNumber(m[key])).sort((a, b) => m[b[0]] - m[a[0]]);
  let beside = Infinity, level = 0;
  for (const [key, word] of marks) {
    const rank = clamp(m[key], 1, r), at = plot.X(rank);
    level = beside - at < 96 ? level + 1 : 0;
    beside = at;
    plot.pin(rank, lift(values[clamp(Math.round(((rank - 1) / Math.max(1, r - 1)) * (n - 1)), 0, n - 1)]), `${word} ${num(m[key])}`, level);
  }
  // Energy by rank: the quantiles stand for equal parts of the spectrum.
  const squares = values.map((v) => v * v), parts = squares.map((v, i) => (i ? (v + squares[i - 1]) / 2 : 0));
  const exact = n === r, whole = exact ? squares.reduce((a, b) => a + b, 0) : parts.reduce((a, b) => a + b, 0);
  let sum = 0;
  plot.finish(values.map((v, i) => {
    sum += exact ? squares[i] : parts[i];
    const rank = rankAt(i, n);
    return { x: plot.X(rank), rank, v, energy: whole > 0 ? sum / whole : null, theirs: shuffled && shuffled[Math.min(shuffled.length - 1, Math.round((i * (shuffled.length - 1)) / Math.max(1, n - 1)))], noise: law && law.quantile(1 - (rank - 0.5) / r) };
  }));
}

const sayBin = (p) => [["σ", `${num(p.from)} to ${num(p.to)}`], ["share", `${percent(p.share)}, about ${num(Math.round(p.share * p.r))}`, "values"],
  p.theirs !== null && ["shuffled", percent(p.theirs), "shuffled"], p.noise !== null && ["noise", percent(p.noise), "law"]].filter(Boolean);
const sayRank = (p) => [["rank", num(p.rank)], ["σ", num(p.v, 4), "values"], p.theirs !== null && ["shuffled", num(p.theirs, 4), "shuffled"],
  p.noise !== null && ["noise", num(p.noise, 4), "law"], p.energy !== null && ["energy so far", percent(p.energy)]].filter(Boolean);

function spectraPanel(state) {
  if (!state.matrices.length) return [el("p", { class: "empty" }, "No matrix was measured.")];
  const histogram = new Plot("Distribution of the singular values", sayBin), byRank = new Plot("Singular values by rank", sayRank);
  const title = el("div", { class: "title" }), below = el("div", { class: "details" }), charts = el("div", { class: "charts" }, histogram.node, byRank.node);
  const empty = el("p", { class: "empty", hidden: true });
  let current = state.matrices[0], listed = state.matrices;
  const draw = () => {
    const drawable = current.curve && current.curve.values && current.curve.values.length && current.curve.values[0] > 0;
    charts.hidden = !drawable;
    empty.hidden = drawable;
    if (drawable) drawSpectrum(current, histogram, byRank);
    else empty.textContent = `No spectrum is drawn: ${whyNoCurve(current)}.`;
  };
  const toggles = el("div", { class: "toggles" }, swatch("values", "singular values"),
    [["law", "Marchenko-Pastur law"], ["shuffled", "entries shuffled"]].map(([key, text]) => el("button", { type: "button", "aria-pressed": "true", "data-toggle": key,
      onclick: (event) => { view[key] = !view[key]; event.currentTarget.setAttribute("aria-pressed", String(view[key])); draw(); } }, el("i", { class: `mark ${key}`, "aria-hidden": "true" }), text)));
  const controls = el("div", { class: "bar" }, choice("σ", [["auto", "auto"], ["linear", "linear"], ["log", "log"]], view.scale, (v) => { view.scale = v; draw(); }),
    choice("rank", [["linear", "linear"], ["log", "log"]], view.ranks, (v) => { view.ranks = v; draw(); }), toggles);

  const items = el("div", { class: "items" }), scroller = el("div", { class: "list", role: "listbox", tabindex: "0", "aria-label": "Matrices", onkeydown: (event) => step(event) }, items);
  const lazy = new LazyRows(scroller, items, 32, () => el("div", { "aria-hidden": "true" }));
  const picker = el("select", { class: "picker", "aria-label": "Matrix", onchange: (event) => state.open(event.target.value) }, state.matrices.map((m) => el("option", { value: m.name }, m.name)));
  const refill = () => lazy.show(listed.length, (i) => el("div", { class: "item", id: `item-${i}`, role: "option", "aria-selected": String(listed[i] === current), onclick: () => state.open(listed[i].name) },
    state.worst(listed[i].name) && badge(state.worst(listed[i].name)), nameOf(listed[i].name, 33)));
  const go = (by) => { const at = listed.indexOf(current), next = listed[clamp(at + by, 0, listed.length - 1)]; if (next) state.open(next.name); };
  const step = (event) => { const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -1e9, End: 1e9 }[event.key]; if (by) { event.preventDefault(); go(by); } };
  state.select = (name) => {
    current = state.byName.get(name) || current;
    picker.value = current.name;
    title.replaceChildren(el("h2", null, nameOf(current.name)), el("span", { class: "dim" }, `${shapeOf(current.shape)} · ${current.dtype}`),
      el("span", { class: "steps" }, el("button", { type: "button", "aria-label": "Previous matrix", onclick: () => go(-1) }, "‹"), el("button", { type: "button", "aria-label": "Next matrix", onclick: () => go(1) }, "›")));
    below.replaceChildren(...detailsOf(state, current));
    const at = listed.indexOf(current);
    refill();
    if (at >= 0) { lazy.reveal(at); scroller.setAttribute("aria-activedescendant", `item-${at}`); }
    draw();
  };
  new ResizeObserver(() => { if (charts.clientWidth) draw(); }).observe(charts);
  const filter = el("input", { type: "search", placeholder: "Filter", "aria-label": "Filter the list of matrices", oninput: (event) => { listed = state.matrices.filter((m) => matcher(event.target.value)(m.name)); scroller.scrollTop = 0; refill(); } });
  state.select(current.name);
  return [el("div", { class: "spectra" }, el("aside", null, filter, scroller), el("div", { class: "one" }, picker, title, controls, empty, charts, below))];
}

const swatch = (name, text) => el("span", { class: "swatch" }, el("i", { class: `mark ${name}`, "aria-hidden": "true" }), text);
function whyNoCurve(m) {
  const reasons = m.missing || {};
  return reasons.curve || reasons.nuclear_norm || reasons.effective_rank || reasons.marchenko_pastur || (m.curve ? "every singular value is zero" : "the report holds none for this matrix");
}
