"use strict";
// Tables sort by a click on a heading and filter by words; a click on a legend isolates a series.
for (const table of document.querySelectorAll("table.records")) {
  const body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent : Number(cell.dataset.v);
  };
  const compare = (a, b) => {
    if (typeof a === "number" ? typeof b === "number" : false) return a - b;
    if (a === "" || b === "") return (a === "") - (b === "");
    return String(a).localeCompare(String(b), "en", { numeric: true });
  };
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
      const rows = [...body.rows].map((row) => [value(row, column), row]);
      rows.sort(([a], [b]) => sign * compare(a, b));
      body.append(...rows.map(([, row]) => row));
    });
  });
  const filter = document.createElement("input");
  filter.type = "search";
  filter.className = "filter";
  filter.placeholder = "Filter: words that a row must contain";
  filter.setAttribute("aria-label", filter.placeholder);
  filter.addEventListener("input", () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = words.some((word) => !text.includes(word));
    }
  });
  table.parentElement.before(filter);
}
for (const legend of document.querySelectorAll(".legend")) {
  const figure = legend.closest("figure");
  for (const item of legend.children) {
    if (!/^s\d$/.test(item.className)) continue;
    const button = document.createElement("button");
    button.append(...item.childNodes);
    item.append(button);
    button.addEventListener("click", () => {
      const chosen = figure.dataset.only === item.className ? "" : item.className;
      figure.dataset.only = chosen;
      for (const shape of figure.querySelectorAll("svg [class]")) {
        if (!/\bs\d\b/.test(shape.getAttribute("class"))) continue;
        shape.classList.toggle("dim", chosen === "" ? false : !shape.classList.contains(chosen));
      }
    });
  }
}
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
