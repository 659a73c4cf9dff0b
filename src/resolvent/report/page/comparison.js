// What changed between two checkpoints.

function comparisonPanel(state) {
  const { matrices = [], only_first: first = [], only_second: second = [], different = [] } = state.data.comparison;
  const named = (n) => (Array.isArray(n) ? { name: n[0], why: n[1] } : { name: n });
  const most = Math.max(1e-300, ...matrices.map((c) => c.relative_change || 0));
  const columns = [
    { key: "name", head: "matrix", width: "var(--name-width)", text: true, title: "The tensor's name", value: (c) => c.name,
      cell: (c) => (state.byName.has(c.name) ? el("button", { type: "button", class: "link", onclick: () => state.open(c.name) }, nameOf(c.name, 40)) : nameOf(c.name, 40)) },
    { key: "relative_change", head: "change", width: 130, title: `${WORDS[8][1]}: ${WORDS[8][3]}`, value: (c) => c.relative_change, cell: (c) => barred(num(c.relative_change), (c.relative_change || 0) / most) },
    { key: "angles", head: "angles", width: 150, title: "Principal angles between the leading left singular subspaces, 0 to π/2; sorts by the largest", value: (c) => (c.angles && c.angles.length ? Math.max(...c.angles) : null), cell: (c) => angleBars(c.angles || []) },
    { key: "difference_effective_rank", head: "eff of diff.", width: 96, title: "Effective rank of the difference: directions in which it changed", value: (c) => c.difference_effective_rank, cell: (c) => num(c.difference_effective_rank) },
    { key: "difference_rank99", head: "99% of diff.", width: 96, title: "Rank that keeps 99% of the energy of the difference", value: (c) => c.difference_rank99, cell: (c) => num(c.difference_rank99) },
    { key: "verdict", head: "verdict", width: 240, text: true, title: "What kind of change it is", value: (c) => c.verdict, cell: (c) => el("span", { class: "verdict", title: c.verdict }, c.verdict || "–") },
  ];
  const table = new SortTable("Comparison", columns, { sort: "relative_change", down: true, open: (c) => state.byName.has(c.name) && state.open(c.name) });
  table.fill(matrices);
  const verdicts = grouped(matrices, (c) => c.verdict || "no verdict").sort((a, b) => b.length - a.length);
  return [
    el("p", { class: "pair" }, el("b", null, "From "), state.data.file, el("b", null, " to "), state.data.file2 || "the second file"),
    verdicts.length > 0 && el("div", { class: "tiles" }, verdicts.slice(0, 6).map((group) => tile(group.length, group[0].verdict || "no verdict"))),
    matrices.length ? table.node : el("p", { class: "empty" }, "The two files have no matrix in common."),
    [["Not comparable", different], ["Only in the first", first], ["Only in the second", second]].map(([head, names]) => names.length > 0 && el("details", { class: "skipped" }, el("summary", null, el("b", null, `${head} `), `(${names.length})`),
      lazyNames(names.map(named)))),
  ];
}

const tile = (value, label) => el("div", { class: "tile" }, el("b", null, value), el("span", null, label));

function angleBars(angles) {
  if (!angles.length) return el("span", { class: "dim" }, "–");
  const wide = 10, high = 20;
  return el("span", { class: "angles", title: angles.map((a) => num(a)).join(", ") }, svg("svg", { width: wide * angles.length, height: high, "aria-hidden": "true" },
    angles.map((a, i) => { const tall = Math.max(1, (high * clamp(a, 0, Math.PI / 2)) / (Math.PI / 2)); return svg("rect", { x: i * wide + 1, y: high - tall, width: wide - 3, height: tall }); })), el("small", null, num(Math.max(...angles))));
}
