// Layers against quantities as colours: every matrix with every quantity, or one quantity over roles and layers.

const RAMPS = {
  light: [[244, 247, 246], [204, 231, 222], [134, 201, 196], [66, 157, 180], [43, 104, 158], [42, 51, 116]],
  dark: [[27, 33, 44], [36, 60, 104], [40, 108, 146], [58, 160, 155], [141, 207, 151], [240, 245, 178]],
};
function ramp(t) {
  const stops = RAMPS[isDark() ? "dark" : "light"], at = clamp(t, 0, 1) * (stops.length - 1), i = Math.min(stops.length - 2, Math.floor(at));
  return stops[i].map((c, k) => c + (at - i) * (stops[i + 1][k] - c));
}
function tinted(t) {
  const [r, g, b] = ramp(t);
  return { background: `rgb(${r.toFixed(0)} ${g.toFixed(0)} ${b.toFixed(0)})`, color: 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#10151c" : "#f4f7fa" };
}

// The range of a quantity without its most extreme values, so that one odd matrix does not take all colours.
function rangeOf(values, scale) {
  const f = scale === "log" ? (v) => Math.log(Math.max(v, 1e-300)) : scale === "count" ? (v) => Math.log1p(v) : (v) => v;
  const known = values.filter((v) => v !== null && (scale !== "log" || v > 0)).map(f).sort((a, b) => a - b);
  if (!known.length) return () => 0;
  const cut = known.length < 10 ? 0 : Math.ceil(known.length * 0.02), low = known[cut], high = known[known.length - 1 - cut];
  return (v) => (high > low ? clamp((f(v) - low) / (high - low), 0, 1) : 0.5);
}

// "encoder.layer.3.attention.key.weight": layer 3, role "encoder.layer.#.attention.key.weight"
function placeOf(name) {
  const found = /(^|[._/])(\d+)(?=[._/]|$)/.exec(name);
  if (!found) return { layer: null, role: name };
  const at = found.index + found[1].length;
  return { layer: Number(found[2]), role: `${name.slice(0, at)}#${name.slice(at + found[2].length)}` };
}

function heatPanel(state) {
  const quantities = QUANTITIES.filter((q) => !q.hidden && q.key !== "entropy" && state.matrices.some((m) => valueOf(m, q) !== null));
  if (!quantities.length) return [el("p", { class: "empty" }, "No matrix was measured.")];
  const area = el("div", { class: "heat" });
  const places = state.matrices.map((m) => ({ m, ...placeOf(m.name) }));
  const layered = new Set(places.map((p) => p.layer).filter((layer) => layer !== null)).size > 1;
  let chosen = "all";
  const draw = () => area.replaceChildren(...(chosen === "all" ? everyQuantity(state, quantities) : [oneQuantity(state, QUANTITY[chosen], places)]));
  const select = el("select", { id: "heat-quantity", onchange: (event) => { chosen = event.target.value; draw(); } },
    el("option", { value: "all" }, "every quantity, a row per matrix"),
    layered && el("optgroup", { label: "one quantity, a column per layer" }, quantities.map((q) => el("option", { value: q.key }, q.name))));
  draw();
  addEventListener("theme", draw);
  return [el("div", { class: "bar" }, el("label", { for: "heat-quantity" }, "Show"), select, legend(), el("span", { class: "hint" }, "Ranks are compared as a share of min(m, n).")), area];
}

function legend() {
  const bar = el("span", { class: "ramp", "aria-hidden": "true" });
  const paint = () => { bar.style.background = `linear-gradient(90deg, ${[0, 0.2, 0.4, 0.6, 0.8, 1].map((t) => tinted(t).background).join(",")})`; };
  paint();
  addEventListener("theme", paint);
  return el("span", { class: "legend" }, "low", bar, "high");
}

function heatCell(state, m, q, t) {
  const value = comparable(m, q), text = textOf(m, q);
  if (value === null) return el("span", { class: "cell none", title: (m.missing || {})[q.key] || "not measured" }, "–");
  return el("button", { type: "button", class: "cell", css: tinted(t), onclick: () => state.open(m.name), "aria-label": `${m.name}: ${q.name} ${text}`, ...pointed(() => [[m.name], [q.name, text], ...(q.rank ? [["of min(m, n)", percent(value)]] : [])]) }, text);
}

// The tooltip of an element, for the pointer and for the keyboard.
function pointed(lines) {
  const at = (event) => { const box = event.currentTarget.getBoundingClientRect(); tip.show(lines(), event.clientX ?? box.left + box.width / 2, event.clientY ?? box.bottom); };
  return { onpointermove: at, onfocus: at, onpointerleave: () => tip.hide(), onblur: () => tip.hide() };
}

function everyQuantity(state, quantities) {
  const shades = Object.fromEntries(quantities.map((q) => [q.key, rangeOf(state.matrices.map((m) => comparable(m, q)), q.scale)]));
  const columns = [{ key: "name", head: "matrix", width: "var(--name-width)", text: true, title: "The tensor's name", value: (m) => m.name,
    cell: (m) => el("button", { type: "button", class: "link", onclick: () => state.open(m.name) }, nameOf(m.name, 40)) },
  ...quantities.map((q) => ({ key: q.key, head: q.short, width: "minmax", title: `${q.name}: ${q.says}`, value: (m) => comparable(m, q),
    cell: (m) => heatCell(state, m, q, comparable(m, q) === null ? 0 : shades[q.key](comparable(m, q))) }))];
  for (const c of columns) if (c.width === "minmax") c.width = "auto";
  const table = new SortTable("Heat map", columns, { height: 26 });
  table.fill(state.matrices);
  table.node.classList.add("dense");
  return [table.node];
}

function oneQuantity(state, q, places) {
  // Within the layers: what stands outside them is of another kind, and would take the colours.
  const shade = rangeOf(places.filter((p) => p.layer !== null).map((p) => comparable(p.m, q)), q.scale);
  const layers = [...new Set(places.map((p) => p.layer))].sort((a, b) => (a === null ? -1 : b === null ? 1 : a - b));
  const roles = grouped(places, (p) => p.role);
  const rows = roles.map((group) => {
    const at = new Map(group.map((p) => [p.layer, p.m]));
    return el("tr", null, el("th", { scope: "row" }, nameOf(group[0].role, 40)),
      layers.map((layer) => { const m = at.get(layer); return el("td", null, m ? heatCell(state, m, q, comparable(m, q) === null ? 0 : shade(comparable(m, q))) : null); }));
  });
  return el("div", { class: "frame dense fit" }, el("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": `${q.name} over layers, scrollable` },
    el("table", { class: "sort grid", "aria-label": `${q.name} over layers` },
      el("thead", null, el("tr", null, el("th", { scope: "col", class: "text plain" }, q.name), layers.map((layer) => el("th", { scope: "col", class: "plain" }, layer === null ? "no layer" : layer)))),
      el("tbody", null, rows))));
}
