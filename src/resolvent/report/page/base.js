// Elements, numbers, names and long lists: what every part of the page uses. Text reaches the document as text nodes only.

function make(space, tag, attributes, children) {
  const node = space ? document.createElementNS(space, tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "css") for (const [name, v] of Object.entries(value)) node.style.setProperty(name, v);
    else node.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined && child !== false) {
      node.append(child.nodeType ? child : document.createTextNode(String(child)));
    }
  }
  return node;
}
const el = (tag, attributes, ...children) => make(null, tag, attributes, children);
const svg = (tag, attributes, ...children) => make("http://www.w3.org/2000/svg", tag, attributes, children);
const clamp = (x, low, high) => Math.min(high, Math.max(low, x));
const isNumber = (x) => typeof x === "number" && Number.isFinite(x);
const plural = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

const sentence = (text) => { const s = String(text ?? ""); return s.slice(0, 1).toUpperCase() + s.slice(1); };

// A number with about three digits, as the table in the terminal prints it.
function num(x, digits = 3) {
  if (!isNumber(x)) return "–";
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (Number.isInteger(x) && size < 1e6) return x.toLocaleString("en", { useGrouping: size >= 1e5 });
  if (size >= 1e-3 && size < 99999.5) {
    return x.toFixed(clamp(digits - 1 - Math.floor(Math.log10(size * 1.0005)), 0, 5));
  }
  return x.toExponential(1).replace("e+", "e");
}
const percent = (x) => (isNumber(x) && x > 0 && x < 1e-4 ? "< 0.01%" : isNumber(x) ? `${x > 0 && x < 0.0995 ? (100 * x).toFixed(x < 0.00995 ? 2 : 1) : (100 * x).toFixed(0)}%` : "–");
function many(x) {
  if (!isNumber(x)) return "–";
  for (const [unit, letter] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) if (x >= unit) return `${num(x / unit)} ${letter}`;
  return num(x);
}
const shapeOf = (shape) => (shape && shape.length ? shape.join("×") : "scalar");
const side = (m) => Math.max(1, Math.min(...(m.shape || [1])));

// Names of layers are long, and their beginnings alike: to fit `room` characters, leading parts become their first letters,
// as in the table of the terminal. What most names need, all get, so that the parts of one layer look alike.
const naming = { suffix: "", names: [], usual: new Map() };
const BRIEF = 20, NUMBERED = /^(\d+|#)[./]$/;
function partsOf(name) {
  const shown = naming.suffix && name.endsWith(naming.suffix) ? name.slice(0, -naming.suffix.length) : name;
  return shown.match(/[^./]*[./]|[^./]+$/g) || [shown];
}
const initials = (parts, level) => parts.map((part, i) => (i < level && i < parts.length - 1 && !NUMBERED.test(part) ? part.slice(0, 1) + part.slice(-1) : part));
function levelFor(parts, room) {
  let level = 0;
  while (level < parts.length - 1 && initials(parts, level).join("").length > room) level += 1;
  return level;
}
function fitted(parts, room) {
  if (!naming.usual.has(room)) {
    const levels = naming.names.map((name) => levelFor(partsOf(name), room)).sort((a, b) => a - b);
    naming.usual.set(room, levels.length ? levels[levels.length >> 1] : 0);
  }
  return initials(parts, Math.max(naming.usual.get(room), levelFor(parts, room)));
}
function nameOf(name, room = 1e9) {
  const parts = partsOf(name);
  const leaf = parts.length > 2 && parts.slice(-2).join("").length < 28 && !NUMBERED.test(parts[parts.length - 2]) ? 2 : 1;
  const text = (list) => [list.length > leaf && [el("span", { class: "path" }, list.slice(0, -leaf).join("")), el("wbr")], el("span", { class: "leaf" }, list.slice(-leaf).join(""))];
  return el("span", { class: "name", title: name }, el("span", { class: "long" }, text(fitted(parts, room))), el("span", { class: "brief" }, text(fitted(parts, BRIEF))));
}

// Numbers in a name sort as numbers: layer 2 before layer 10.
const collator = new Intl.Collator("en", { numeric: true });
function sorted(rows, value, down) {
  const keyed = rows.map((row, i) => [value(row), i, row]);
  keyed.sort(([a, i], [b, j]) => {
    const emptyA = a === null || a === undefined, emptyB = b === null || b === undefined;
    if (emptyA || emptyB) return emptyA === emptyB ? i - j : emptyA ? 1 : -1; // what is not known comes last, both ways
    const order = typeof a === "string" || typeof b === "string" ? collator.compare(a, b) : a - b;
    return (down ? -order : order) || i - j;
  });
  return keyed.map((entry) => entry[2]);
}

// `*` and `?` as in a file's name, several patterns with commas; anything else is searched as it is.
function matcher(text) {
  const tests = text.toLowerCase().split(",").map((t) => t.trim()).filter(Boolean).map((t) => {
    if (!/[*?]/.test(t)) return (name) => name.includes(t);
    const pattern = t.replace(/[.+^${}()|[\]\\]/g, "\\$&").replace(/\*/g, ".*").replace(/\?/g, ".");
    const whole = new RegExp(`^${pattern}$`, "s");
    return (name) => whole.test(name);
  });
  return (name) => !tests.length || tests.some((test) => test(name.toLowerCase()));
}

// A list that holds only the rows in view: `holder` lies in `scroller`, each row is `height` pixels high.
class LazyRows {
  constructor(scroller, holder, height, spacer) {
    Object.assign(this, { scroller, holder, height, nodes: new Map(), count: 0, render: () => null, waiting: false });
    this.above = spacer();
    this.below = spacer();
    holder.append(this.above, this.below);
    scroller.addEventListener("scroll", () => this.later(), { passive: true });
    new ResizeObserver(() => this.later()).observe(scroller);
  }
  later() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.update(); });
  }
  show(count, render) {
    for (const node of this.nodes.values()) node.remove();
    this.nodes.clear();
    Object.assign(this, { count, render });
    this.below.style.height = `${count * this.height}px`; // an empty list would tell a wrong height of its window
    this.update();
  }
  update() {
    const spare = 8, tall = this.scroller.clientHeight || 600;
    const first = clamp(Math.floor(this.scroller.scrollTop / this.height) - spare, 0, Math.max(0, this.count - 1));
    const last = Math.min(this.count, first + Math.ceil(tall / this.height) + 2 * spare);
    for (const [i, node] of this.nodes) {
      if (i < first || i >= last) { node.remove(); this.nodes.delete(i); }
    }
    let next = this.below;
    for (let i = last - 1; i >= first; i--) {
      let node = this.nodes.get(i);
      if (!node) {
        node = this.render(i);
        this.nodes.set(i, node);
        this.holder.insertBefore(node, next);
      }
      next = node;
    }
    this.above.style.height = `${first * this.height}px`;
    this.below.style.height = `${Math.max(0, this.count - last) * this.height}px`;
  }
  reveal(i) {
    const top = i * this.height, view = this.scroller;
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + this.height > view.scrollTop + view.clientHeight) view.scrollTop = top + this.height - view.clientHeight;
    this.update();
  }
}
const rowSpacer = (columns) => () => el("tr", { class: "spacer", "aria-hidden": "true" }, el("td", { colspan: columns }));

// One tooltip for the page; it is a live region, so what the keyboard points at is read aloud too.
const tip = {
  node: null,
  show(lines, x, y) {
    this.node.replaceChildren(...lines.map(([label, value, mark]) => el("div", null,
      mark && el("i", { class: `mark ${mark}` }), el("span", null, label), value !== undefined && el("b", null, value))));
    this.node.hidden = false;
    const box = this.node.getBoundingClientRect();
    this.node.style.left = `${clamp(x + 14, 6, innerWidth - box.width - 6)}px`;
    this.node.style.top = `${y + 18 + box.height > innerHeight ? Math.max(6, y - box.height - 12) : y + 18}px`;
  },
  hide() { this.node.hidden = true; },
};

// A group of buttons of which one is chosen.
function choice(label, options, chosen, change) {
  const buttons = options.map(([value, text]) => el("button", {
    type: "button", "aria-pressed": String(value === chosen), "data-value": value,
    onclick: () => { for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.value === value)); change(value); },
  }, text));
  return el("div", { class: "choice", role: "group", "aria-label": label }, el("span", { class: "label", "aria-hidden": "true" }, label), buttons);
}
