// The frame: head, tabs, theme, and the state that the parts share.

const wishesDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => document.documentElement.dataset.theme === "dark";
const store = { get(key) { try { return localStorage.getItem(key); } catch { return null; } }, set(key, value) { try { localStorage.setItem(key, value); } catch { /* a page without storage keeps its theme until it closes */ } } };

function readState() {
  const data = JSON.parse(document.getElementById("data").textContent);
  const list = (x) => (Array.isArray(x) ? x : []);
  const findings = list(data.findings), matrices = list(data.matrices), order = SEVERITIES.map(([s]) => s), worst = new Map();
  for (const f of findings) {
    const rank = order.indexOf(f.severity);
    if (rank >= 0 && rank < 2 && !(worst.get(f.matrix) <= rank)) worst.set(f.matrix, rank);
  }
  if (matrices.length > 1 && matrices.every((m) => m.name.endsWith(".weight") && m.name.length > 7)) naming.suffix = ".weight";
  naming.names = matrices.map((m) => m.name);
  return { data, findings, matrices, skipped: list(data.skipped), failed: list(data.failed), byName: new Map(matrices.map((m) => [m.name, m])),
    dtypes: [...new Set(matrices.map((m) => m.dtype))], worst: (name) => (worst.has(name) ? order[worst.get(name)] : null), open: () => {}, select: () => {} };
}

function wordsPanel() {
  const card = (name, formula, says, read, short) => el("div", { class: "word" }, el("h3", null, name, short && el("span", { class: "short" }, short)), el("p", { class: "formula" }, formula), el("p", null, says), el("p", { class: "read" }, read));
  return [el("p", { class: "intro" }, "With the singular values σ₁ ≥ σ₂ ≥ … of an m × n matrix. Each: its formula, what it is, and how to read it."),
    el("div", { class: "words" }, QUANTITIES.map((q) => card(q.name, q.formula, q.says, q.read, q.short)), WORDS.map((w) => card(...w)))];
}

// The last part of a path, and the one before it where the other file has the same name.
function shortPath(path, other) {
  const parts = String(path).split(/[/\\]/).filter(Boolean), last = parts.slice(-1)[0] || "";
  return parts.length > 1 && String(other).split(/[/\\]/).pop() === last ? parts.slice(-2).join("/") : last;
}

function drawHead(state) {
  const { data, matrices } = state, file = String(data.file || ""), cut = Math.max(file.lastIndexOf("/"), file.lastIndexOf("\\")) + 1;
  const folder = file.length > 64 ? `…/${file.slice(0, cut).split(/[/\\]/).slice(-3).join("/")}` : file.slice(0, cut); // the whole path is in the title
  const numbers = matrices.reduce((sum, m) => sum + (m.shape || []).reduce((a, b) => a * b, 1), 0);
  const parts = [plural(matrices.length, "matrix", "matrices"), `${many(numbers)} numbers`, state.dtypes.length === 1 && state.dtypes[0], state.skipped.length && `${state.skipped.length} skipped`, state.failed.length && `${state.failed.length} failed`,
    data.only && `only ${data.only}${data.left_out ? `, ${plural(data.left_out, "tensor", "tensors")} left out` : ""}`, isNumber(data.seconds) && `${num(data.seconds, 2)} s${data.quick ? " (quick)" : ""}`].filter(Boolean);
  const counts = SEVERITIES.map(([s, words]) => [s, words, state.findings.filter((f) => f.severity === s).length]);
  const toggle = el("button", { type: "button", class: "theme", "aria-label": "Dark colours", title: "Light or dark",
    onclick: () => { const wanted = isDark() ? "light" : "dark"; store.set("resolvent-theme", wanted); paint(wanted); } },
  svg("svg", { viewBox: "0 0 20 20", width: 18, height: 18, "aria-hidden": "true" }, svg("circle", { cx: 10, cy: 10, r: 7.2, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }), svg("path", { d: "M10 2.8a7.2 7.2 0 0 1 0 14.4z", fill: "currentColor" })));
  const paint = (theme) => { document.documentElement.dataset.theme = theme; toggle.setAttribute("aria-pressed", String(isDark())); dispatchEvent(new Event("theme")); };
  wishesDark.addEventListener("change", () => paint(wishesDark.matches ? "dark" : "light"));
  toggle.setAttribute("aria-pressed", String(isDark()));
  document.getElementById("head").append(
    el("div", { class: "brand" }, svg("svg", { viewBox: "0 0 24 16", width: 24, height: 16, "aria-hidden": "true" }, svg("path", { d: "M1 15C3 15 3 3 8 3s6 12 9 12", fill: "none", stroke: "currentColor", "stroke-width": 2, "stroke-linecap": "round" }), svg("path", { d: "M21 15V6", class: "spike", "stroke-width": 2, "stroke-linecap": "round" })), el("span", null, "resolvent report"), toggle),
    el("div", null, el("h1", { title: file }, cut > 0 && el("span", { class: "path" }, folder), el("wbr"), el("span", null, file.slice(cut) || "report"), data.file2 && [el("span", { class: "path" }, " → "), el("span", { title: data.file2 }, shortPath(data.file2, file))]),
      el("p", { class: "meta" }, parts.join(" · "))),
    el("div", { class: "verdicts" }, counts.map(([s, words, n]) => n > 0 && el("button", { type: "button", class: `chip ${s}`, onclick: () => state.tab("findings") }, badge(s), el("b", null, n), ` ${n === 1 ? s : words}`)),
      !state.findings.length && el("span", { class: "chip fine" }, "no findings")));
  document.getElementById("foot").append(el("p", null, `resolvent report · ${data.schema || ""} · this page holds all its data and asks no network.`));
}

function start() {
  const theme = store.get("resolvent-theme");
  document.documentElement.dataset.theme = theme === "light" || theme === "dark" ? theme : wishesDark.matches ? "dark" : "light";
  tip.node = document.getElementById("tip");
  const state = readState();
  const tabs = [["findings", "Findings", findingsPanel], ["matrices", "Matrices", matricesPanel], ["heatmap", "Heat map", heatPanel], ["spectra", "Spectra", spectraPanel], state.data.comparison && ["comparison", "Comparison", comparisonPanel], ["words", "What the words mean", wordsPanel]].filter(Boolean);
  const bar = document.getElementById("tabs"), main = document.getElementById("panels"), buttons = {}, panels = {};
  const address = (text) => { try { history.replaceState(null, "", `#${text}`); } catch { /* a page inside a notebook has no address */ } };
  state.tab = (key) => {
    for (const [k] of tabs) {
      buttons[k].setAttribute("aria-selected", String(k === key));
      buttons[k].tabIndex = k === key ? 0 : -1;
      panels[k].hidden = k !== key;
    }
    tip.hide();
    // A part is drawn when it is first looked at: its lists need to know how high they are.
    if (!panels[key].childElementCount) panels[key].append(...tabs.find(([k]) => k === key)[2](state).flat(Infinity).filter(Boolean));
    buttons[key].scrollIntoView({ block: "nearest", inline: "nearest" });
    address(key);
  };
  state.open = (name) => { state.tab("spectra"); state.select(name); address(`spectra/${encodeURIComponent(name)}`); };
  for (const [key, text] of tabs) {
    buttons[key] = el("button", { type: "button", role: "tab", id: `tab-${key}`, "aria-controls": `panel-${key}`, "aria-selected": "false", onclick: () => state.tab(key) }, text);
    panels[key] = el("section", { role: "tabpanel", id: `panel-${key}`, "aria-labelledby": `tab-${key}`, hidden: true });
  }
  bar.append(...tabs.map(([key]) => buttons[key]));
  main.append(...tabs.map(([key]) => panels[key]));
  bar.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, Home: -1e3, End: 1e3 }[event.key], at = tabs.findIndex(([key]) => buttons[key] === document.activeElement);
    if (!by || at < 0) return;
    event.preventDefault();
    const next = tabs[Math.abs(by) > 1 ? (by > 0 ? tabs.length - 1 : 0) : (at + by + tabs.length) % tabs.length][0];
    state.tab(next);
    buttons[next].focus();
  });
  addEventListener("keydown", (event) => { if (event.key === "Escape") tip.hide(); });
  addEventListener("scroll", () => tip.hide(), { passive: true });
  drawHead(state);
  const [wanted, ...rest] = location.hash.slice(1).split("/");
  let name = "";
  try { name = decodeURIComponent(rest.join("/")); } catch { /* not an address of ours */ }
  if (wanted === "spectra" && state.byName.has(name)) state.open(name);
  else state.tab(buttons[wanted] ? wanted : tabs[0][0]);
}
start();
