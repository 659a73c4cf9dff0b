// What is wrong or worth knowing, most severe first, and what was not measured.

const SEVERITIES = [["error", "errors"], ["warning", "warnings"], ["note", "notes"]];
const ICONS = { error: "✕", warning: "!", note: "i" };
// What a reader sees for a kind; others are shown as they are.
const KINDS = { random: "At its random initialisation", zero: "Nothing but zeros", spike: "One direction far beyond all", "not finite": "NaN or infinite", copy: "Copy of another matrix", mask: "A mask, not a weight", collapsed: "Collapsed to few directions", quantised: "On a grid of few levels", change: "What changed", hubness: "Hubs" };
const badge = (severity) => el("span", { class: `badge ${severity}`, title: severity }, el("span", { "aria-hidden": "true" }, ICONS[severity] || "i"), el("span", { class: "hidden" }, severity));

function grouped(items, keyOf) {
  const groups = new Map();
  for (const item of items) {
    const key = keyOf(item);
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(item);
  }
  return [...groups.values()];
}

function findingsPanel(state) {
  const list = el("div", { class: "findings" });
  const counts = Object.fromEntries(SEVERITIES.map(([s]) => [s, state.findings.filter((f) => f.severity === s).length]));
  const options = [["all", `All ${state.findings.length}`]].concat(SEVERITIES.filter(([s]) => counts[s]).map(([s, words]) => [s, `${counts[s]} ${counts[s] === 1 ? s : words}`]));
  const draw = (severity) => {
    const shown = state.findings.filter((f) => severity === "all" || f.severity === severity);
    list.replaceChildren(...grouped(shown, (f) => `${f.severity} ${f.kind}`).map((group) => findingGroup(state, group)));
    if (!shown.length) list.append(el("p", { class: "empty" }, el("b", null, "Nothing to report."), " No matrix broke a rule."));
  };
  draw("all");
  return [state.findings.length > 0 && el("div", { class: "bar" }, choice("Show", options, "all", draw)), list, notMeasured(state)];
}

function findingGroup(state, group) {
  const { severity, kind } = group[0];
  const sameAdvice = group.every((f) => f.advice === group[0].advice);
  const first = 6;
  const items = el("ul", null, group.slice(0, first).map((f) => findingItem(state, f, !sameAdvice)));
  const more = group.length > first && el("button", {
    type: "button", class: "more",
    onclick: (event) => { items.append(...group.slice(first).map((f) => findingItem(state, f, !sameAdvice))); event.target.remove(); },
  }, `Show ${group.length - first} more`);
  return el("section", { class: `finding ${severity}` },
    el("h2", null, badge(severity), el("span", { class: "kind" }, KINDS[kind] || String(kind || "finding").replaceAll("_", " ")), group.length > 1 && el("span", { class: "count" }, `${group.length}`)),
    items, more, sameAdvice && group[0].advice && el("p", { class: "advice" }, el("span", { "aria-hidden": "true" }, "→ "), sentence(group[0].advice)));
}

// Beneath the head that names its kind, a finding need not name it again.
function said({ kind, text }) {
  const words = String(text ?? ""), start = `${kind}: `;
  return words.toLowerCase().startsWith(start.toLowerCase()) ? words.slice(start.length) : words;
}

function findingItem(state, finding, withAdvice) {
  const known = state.byName.has(finding.matrix);
  const name = finding.matrix ? nameOf(finding.matrix) : null;
  return el("li", null,
    name && (known ? el("button", { type: "button", class: "link", title: `Spectrum of ${finding.matrix}`, onclick: () => state.open(finding.matrix) }, name) : el("span", { class: "link" }, name)),
    el("span", { class: "says" }, sentence(said(finding))),
    withAdvice && finding.advice && el("p", { class: "advice" }, el("span", { "aria-hidden": "true" }, "→ "), sentence(finding.advice)));
}

function notMeasured(state) {
  const { failed, skipped } = state;
  if (!failed.length && !skipped.length) return null;
  return el("section", { class: "unmeasured" }, el("h2", null, "Not measured"),
    [["failed", failed], ["skipped", skipped]].map(([word, rows]) => grouped(rows, (row) => row.reason).map((group) =>
      el("details", { class: word, open: word === "failed" },
        el("summary", null, el("span", { class: `badge ${word === "failed" ? "error" : "note"}`, "aria-hidden": "true" }, word === "failed" ? "✕" : "–"), el("b", null, plural(group.length, "tensor", "tensors")), ` ${word}, because ${group[0].reason}`),
        lazyNames(group)))));
}

// Names go into the document when the list is first opened.
function lazyNames(group) {
  const list = el("ul", { class: "names" });
  const fill = () => list.childElementCount || list.append(...group.map((row) => el("li", null, nameOf(row.name), el("span", { class: "dim" }, ` ${row.why || (row.shape ? `${shapeOf(row.shape)} ${row.dtype || ""}` : "")}`))));
  requestAnimationFrame(() => {
    const details = list.parentElement;
    if (details && details.open) fill();
    if (details) details.addEventListener("toggle", fill, { once: true });
  });
  return list;
}
