"use strict";
// The page is complete without this: it adds sorting, filtering, exact values on hover, and series in isolation.

// Tables sort by a click on a heading, by number and unit where a cell begins with one, and filter by words.
const UNITS = { ns: 1e-9, "µs": 1e-6, ms: 1e-3, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, k: 1e3, M: 1e6, G: 1e9, T: 1e12 };
function value(cell) {
  const text = cell.textContent.trim().replaceAll("\u202f", "");
  if (text === "exact") return 0;
  const number = /^#?(-?\d+(?:\.\d+)?(?:e-?\d+)?)(?: ?([^\d\s]+))?(?:\s|$)/.exec(text);
  return number ? Number(number[1]) * (UNITS[number[2]] ?? 1) : text;
}
function compare(a, b) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
}
function sort(table, heading, column) {
  const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
  const rows = [...table.tBodies[0].rows].map((row) => [value(row.cells[column]), row]);
  // Cells without a value stay last either way.
  rows.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
  table.tBodies[0].append(...rows.map(([, row]) => row));
}
function filter(table, text) {
  const words = text.toLowerCase().split(/\s+/);
  for (const row of table.tBodies[0].rows) {
    const content = row.textContent.toLowerCase();
    row.hidden = words.some((word) => !content.includes(word));
  }
}
for (const table of document.querySelectorAll("table.records, table.list")) {
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, heading, column));
  });
  if (table.tBodies[0].rows.length < 4) continue;
  const input = document.createElement("input");
  input.type = "search";
  input.className = "filter";
  input.placeholder = "Filter: words that a row must contain";
  input.setAttribute("aria-label", input.placeholder);
  input.addEventListener("input", () => filter(table, input.value));
  table.parentElement.before(input);
}

// A click on a mark or on its name in the legend shows that series alone; a second click shows all again.
const series = (element) => /\bs\d\b/.exec(element.getAttribute("class") ?? "")?.[0];
function isolate(figure, chosen) {
  if (figure.dataset.only === chosen) chosen = "";
  figure.dataset.only = chosen;
  for (const shape of figure.querySelectorAll("svg [class]")) {
    if (series(shape)) shape.classList.toggle("dim", chosen !== "" && series(shape) !== chosen);
  }
  for (const button of figure.querySelectorAll(".legend button")) {
    button.setAttribute("aria-pressed", String(button.parentElement.className === chosen));
  }
}
for (const item of document.querySelectorAll(".legend li")) {
  if (!series(item)) continue;
  const button = document.createElement("button");
  button.setAttribute("aria-pressed", "false");
  button.append(...item.childNodes);
  item.append(button);
  button.addEventListener("click", () => isolate(item.closest("figure"), item.className));
}
const marked = (event) => {
  const shape = event.target.closest?.("figure svg :is(circle, rect, path)[class^=s]");
  return shape && series(shape) ? shape : null;
};
addEventListener("click", (event) => {
  const shape = marked(event);
  if (shape) isolate(shape.closest("figure"), series(shape));
});

// The exact values of a mark, at once and beside the pointer, in place of the browser's own slow hint.
// A mark names its case by number; the hint adds what the list of cases says of it.
function described(shape) {
  const text = shape?.getAttribute("aria-label") ?? "";
  const number = /, case (\d+)/.exec(text)?.[1];
  const rows = number ? shape.closest("section")?.querySelectorAll(".cases tr[id]") ?? [] : [];
  const row = [...rows].find((row) => row.cells[0].textContent === `#${number}`);
  return row ? `${text}: ${/:(.*),seed/.exec(row.cells[1].textContent)?.[1].replaceAll(",", ", ") ?? ""}` : text;
}
const tip = document.createElement("div");
tip.id = "tip";
tip.setAttribute("role", "status");
tip.hidden = true;
document.body.append(tip);
addEventListener("pointerover", (event) => {
  const shape = marked(event);
  const title = shape?.querySelector("title");
  if (title) {
    shape.setAttribute("aria-label", title.textContent);
    title.remove();
  }
  tip.textContent = described(shape);
  tip.hidden = tip.textContent === "";
  if (tip.hidden) return;
  const { clientWidth, clientHeight } = document.documentElement;
  tip.style.left = `${Math.max(4, Math.min(event.clientX + 12, clientWidth - tip.offsetWidth - 4))}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, clientHeight - tip.offsetHeight - 4))}px`;
});

// An address may lead into something that is folded away.
function reveal() {
  const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
  target.scrollIntoView({ block: target.tagName === "TR" ? "center" : "start" });
}
addEventListener("hashchange", reveal);
reveal();

// Paper shows what is folded on screen.
const folded = [];
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) folded.push(details);
  for (const details of folded) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of folded.splice(0)) details.open = false;
});
