// Beneath the charts: the findings of the matrix, all its quantities, and its facts as an embedding or a sparse matrix.

function detailsOf(state, m) {
  const own = state.findings.filter((f) => f.matrix === m.name);
  const notes = (m.notes || []).concat(m.read_as && !(m.notes || []).includes(m.read_as) ? [`${m.read_as}${m.stored_shape ? `, stored as ${shapeOf(m.stored_shape)}` : ""}`] : []);
  return [
    notes.length > 0 && el("p", { class: "notes" }, el("b", null, "Read as "), notes.join("; ")),
    own.length > 0 && el("ul", { class: "own" }, own.map((f) => el("li", { class: f.severity }, badge(f.severity), el("div", null, el("b", null, sentence(f.text)), f.advice && el("p", { class: "advice" }, sentence(f.advice)))))),
    el("h3", null, "Quantities"),
    el("dl", { class: "facts" }, QUANTITIES.map((q) => quantityFact(m, q))),
    ["facts", "embedding", "sparse"].map((key) => m[key] && factGroup(HEADS[key], m[key], OTHERWISE[key] || {})),
    m.method && el("p", { class: "dim small" }, `Computed by: ${METHODS[m.method] || m.method}.`),
  ].flat(Infinity).filter(Boolean);
}
const HEADS = { facts: "Entries", embedding: "As an embedding", sparse: "As a sparse matrix" };
const METHODS = { gram: "the smaller Gram matrix in float64", gram32: "the smaller Gram matrix in float32", svd: "float64 singular value decomposition", sparse: "products with the sparse matrix" };

function quantityFact(m, q) {
  const text = textOf(m, q), reason = (m.missing || {})[q.key];
  const extra = q.rank && valueOf(m, q) !== null ? `of ${side(m)}` : q.key === "alpha" && Array.isArray(m.alpha_interval) ? `${num(m.alpha_interval[0])} to ${num(m.alpha_interval[1])}`
    : q.key === "parameters99" && isNumber(m.parameters99) ? `of ${many((m.shape || []).reduce((a, b) => a * b, 1))}${m.saves99 === false ? ", saves none" : ""}` : "";
  if (text === "–" && !reason) return null;
  return el("div", { title: `${q.says} ${q.read}` }, el("dt", null, q.name), el("dd", { class: text === "–" ? "dim" : null }, text === "–" ? el("small", null, reason) : [text, extra && el("small", null, ` ${extra}`)]));
}

// How the facts are called; those without a name here are called by their key, and those with "" are not shown.
const LABELS = {
  nan: "NaN", inf: "Infinite entries", mean: "Mean entry", std: "Standard deviation", largest: "Largest, in deviations", zeros: "Zeros", levels: "Levels per row", group_levels: "Levels per group",
  bits: "Bits of that grid", near_repeated_rows: "Nearly repeated rows", repeat: "Repeated block", near_repeated_columns: "Nearly repeated columns", repeat_columns: "Repeated block of columns", fingerprint: "", rows: "Rows", sampled: "Rows searched", dimension_twonn: "Dimension (TwoNN)",
  dimension_mle: "Dimension (MLE)", rank90: "Directions for 90%", rank99: "Directions for 99%", advice: "Suggestion", stored: "Entries stored",
  fill: "Share stored", graph: "A graph", dominant_rows: "Diagonally dominant rows", zero_diagonal: "Zeros on the diagonal", largest_component: "In the largest component", smallest: "Smallest eigenvalue",
  error: "Error bound of these", positive: "Positive definite", method: "Eigenvalues by", density: "", density_at: "",
};
const BLOCKS = { repeat: "row", repeat_columns: "column" };
const OTHERWISE = { sparse: { largest: "Largest eigenvalue" } };
const SHARES = new Set(["zeros", "anisotropy", "norm_spread", "fill", "dominant_rows", "largest_component"]);
// Worth a place of its own only where it is not zero.
const COUNTS = new Set(["nan", "inf", "zero_rows", "zero_columns", "constant_columns", "repeated_rows", "near_repeated_rows", "repeated_columns", "near_repeated_columns", "duplicates", "near_duplicates", "empty_rows", "empty_columns", "zero_diagonal", "zeros"]);
const spoken = (key) => { const text = key.replaceAll("_", " "); return text[0].toUpperCase() + text.slice(1); };
const plain = (v) => (isNumber(v) ? num(v) : typeof v === "string" ? v : Array.isArray(v) ? v.map(plain).join(" to ") : JSON.stringify(v));

// Plain numbers side by side; sentences and curves across the whole width.
function factGroup(head, facts, otherwise) {
  const small = [], wide = [], absent = [], density = facts.density, at = facts.density_at;
  for (const [key, value] of Object.entries(facts)) {
    const label = otherwise[key] ?? LABELS[key] ?? spoken(key);
    if (value === 0 && COUNTS.has(key)) { absent.push(label); continue; }
    if (!label || ((key === "levels" || key === "group_levels") && !isNumber(facts.bits)) || value === null || value === undefined || value === "" || (Array.isArray(value) && !value.length)) continue;
    if (typeof value === "boolean") small.push([label, value ? "yes" : "no"]);
    else if (isNumber(value)) small.push([label, SHARES.has(key) ? percent(value) : num(value)]);
    else if (key in BLOCKS && value.length === 3) wide.push([label, `${plural(value[2], BLOCKS[key], `${BLOCKS[key]}s`)} from ${BLOCKS[key]} ${value[0]} on repeat those from ${BLOCKS[key]} ${value[1]} on`]);
    else if (typeof value === "string") (value.length > 24 ? wide : small).push([label, value]);
    else if (Array.isArray(value)) (value.length > 4 ? wide : small).push([label, value.map(plain).join(", ")]);
    else for (const [name, inner] of Object.entries(value)) wide.push([key === "missing" ? `${otherwise[name] || LABELS[name] || spoken(name)}: not known` : `${label}: ${name}`, plain(inner)]);
  }
  if (absent.length) wide.push(["None of", absent.map((label) => (label === "NaN" ? label : label.toLowerCase())).join(", ")]);
  return [el("h3", null, head), el("dl", { class: "facts" }, small.map(([label, text]) => el("div", null, el("dt", null, label), el("dd", null, text)))),
    wide.length > 0 && el("dl", { class: "sentences" }, wide.map(([label, text]) => el("div", null, el("dt", null, label), el("dd", null, text)))),
    at && density && at.length === density.length && at.length > 1 && densityChart(at, density)];
}

function densityChart(points, heights) {
  const plot = new Plot("Density of the eigenvalues", (p) => [["eigenvalue", num(p.value, 4)], ["density", num(p.height), "values"]]);
  plot.node.classList.add("density");
  const draw = () => {
    plot.frame({ x: [points[0], points[points.length - 1]], y: [0, Math.max(...heights, 1e-300) * 1.1], labelX: "eigenvalue", labelY: "density" });
    plot.line(points.map((v, i) => [v, heights[i]]), "values");
    plot.finish(points.map((value, i) => ({ x: plot.X(value), value, height: heights[i] })));
  };
  new ResizeObserver(() => { if (plot.node.clientWidth) draw(); }).observe(plot.node);
  return plot.node;
}
