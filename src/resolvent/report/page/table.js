// A table that sorts by any column, keeps its head and first column in view, and holds only the rows that are seen.

// columns: { key, head, title, width, value(row) -> number | string | null, cell(row) -> node or text, text: left-aligned }
class SortTable {
  constructor(label, columns, { height = 34, open = null, sort = null, down = false } = {}) {
    Object.assign(this, { columns, height, open, key: sort, down, rows: [], shown: [] });
    this.heads = columns.map((c) => el("th", { scope: "col", class: c.text ? "text" : null, "aria-sort": "none", "data-key": c.key },
      el("button", { type: "button", title: c.title, onclick: () => this.sortBy(c) }, c.head)));
    this.body = el("tbody");
    this.table = el("table", { class: "sort", "aria-label": label },
      el("colgroup", null, columns.map((c) => el("col", { css: { width: typeof c.width === "number" ? `${c.width}px` : c.width } }))),
      el("thead", null, el("tr", null, this.heads)), this.body);
    this.scroller = el("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": `${label}, scrollable` }, this.table);
    this.lazy = new LazyRows(this.scroller, this.body, height, rowSpacer(columns.length));
    this.node = el("div", { class: "frame" }, this.scroller);
  }
  sortBy(column) {
    // Numbers are asked for their largest first, names from A to Z.
    this.down = this.key === column.key ? !this.down : !column.text;
    this.key = column.key;
    this.draw();
    this.scroller.scrollTop = 0;
  }
  fill(rows) { this.rows = rows; this.draw(); }
  draw() {
    const column = this.columns.find((c) => c.key === this.key);
    this.shown = column ? sorted(this.rows, column.value, this.down) : this.rows;
    this.columns.forEach((c, i) => this.heads[i].setAttribute("aria-sort", c === column ? (this.down ? "descending" : "ascending") : "none"));
    this.table.setAttribute("aria-rowcount", String(this.shown.length + 1));
    this.lazy.show(this.shown.length, (i) => this.row(this.shown[i], i));
  }
  row(row, i) {
    return el("tr", { "aria-rowindex": i + 2, class: i % 2 ? "odd" : null, css: { height: `${this.height}px` }, onclick: this.open && ((event) => event.target.closest("button") || getSelection().toString() || this.open(row)) },
      this.columns.map((c, at) => el(at ? "td" : "th", { class: c.text ? "text" : null, scope: at ? null : "row" }, c.cell(row))));
  }
}

// A number with a bar behind it: `share` of the cell's width.
const barred = (text, share) => (isNumber(share) ? el("span", { class: "barred" }, el("i", { css: { width: `${(100 * clamp(share, 0, 1)).toFixed(1)}%` } }), el("span", null, text)) : text);

// The spectrum as a line of a few pixels, on a logarithmic scale, with the part beyond the noise's edge marked.
function sparkline(curve) {
  if (!curve || !(curve.values[0] > 0)) return el("span", { class: "dim" }, "–");
  const width = 84, height = 22, n = curve.values.length, top = Math.log(curve.values[0]);
  const low = Math.log(Math.max(1e-3 * curve.values[0], curve.values[n - 1] || 0));
  const y = (v) => 2 + (height - 4) * clamp((top - Math.log(Math.max(v, 1e-300))) / Math.max(top - low, 1e-2), 0, 1);
  const x = (i) => (n < 2 ? width / 2 : (width * i) / (n - 1));
  const step = Math.max(1, Math.floor(n / 42));
  const points = [];
  for (let i = 0; i < n; i += step) points.push(`${x(i).toFixed(1)} ${y(curve.values[i]).toFixed(1)}`);
  points.push(`${width} ${y(curve.values[n - 1]).toFixed(1)}`);
  const line = `M${points.join("L")}`;
  const beyond = isNumber(curve.edge) ? curve.values.filter((v) => v > curve.edge).length : 0;
  return svg("svg", { class: "spark", width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    svg("path", { class: "area", d: `${line}L${width} ${height}L0 ${height}Z` }), svg("path", { class: "line", d: line }),
    beyond > 0 && svg("path", { class: "hot", d: `M0 ${height - 1}H${Math.max(2, x(beyond)).toFixed(1)}` }));
}

function matricesPanel(state) {
  const present = QUANTITIES.filter((q) => state.matrices.some((m) => valueOf(m, q) !== null) && !q.hidden);
  const columns = [
    { key: "name", head: "matrix", width: "var(--name-width)", text: true, title: "The tensor's name", value: (m) => m.name,
      cell: (m) => el("span", { class: "who" }, state.worst(m.name) && badge(state.worst(m.name)), el("button", { type: "button", class: "link", title: `Spectrum of ${m.name}`, onclick: () => state.open(m.name) }, nameOf(m.name, 38)),
        m.notes && m.notes.length > 0 && el("span", { class: "tag", title: m.notes.join("; ") }, m.notes[0])) },
    { key: "shape", head: "shape", width: 92, title: "Rows × columns; sorts by the number of entries", value: (m) => (m.shape || []).reduce((a, b) => a * b, 1), cell: (m) => shapeOf(m.shape) },
    ...(state.dtypes.length > 1 ? [{ key: "dtype", head: "type", width: 84, text: true, title: "As stored", value: (m) => m.dtype, cell: (m) => m.dtype }] : []),
    { key: "curve", head: "spectrum", width: 98, title: "Singular values from the largest to the smallest, logarithmic; marked: beyond the noise. Sorts by effective rank as a share of the shape's", value: (m) => comparable(m, QUANTITY.effective_rank), cell: (m) => sparkline(m.curve) },
    ...present.map((q) => ({
      key: q.key, head: q.short, width: q.key === "condition" ? 66 : 56, title: `${q.name}: ${q.says} ${q.read}`, value: (m) => valueOf(m, q),
      cell: (m) => { const text = textOf(m, q); return text === "–" ? el("span", { class: "dim", title: (m.missing || {})[q.key] || null }, text) : q.rank ? barred(text, valueOf(m, q) / side(m)) : text; },
    })),
  ];
  const table = new SortTable("Matrices", columns, { open: (m) => state.open(m.name) });
  const count = el("span", { class: "dim", role: "status" });
  const search = (text) => {
    const rows = state.matrices.filter((m) => matcher(text)(m.name));
    table.fill(rows);
    count.textContent = rows.length === state.matrices.length ? plural(rows.length, "matrix", "matrices") : `${rows.length} of ${state.matrices.length} matrices`;
  };
  search("");
  return [el("div", { class: "bar" }, el("input", { type: "search", placeholder: "Filter names: query, layer.3.*", "aria-label": "Filter matrices by name", oninput: (event) => search(event.target.value) }), count,
    el("span", { class: "hint" }, "Bars: share of min(m, n). A row opens its spectrum.")), table.node];
}
