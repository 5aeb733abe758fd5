"use strict";
// Draw figures when they come into view, sort tables by their headings, and prepare for printing.

const AXIS = { automargin: true, gridcolor: "#e3e3e3", linecolor: "#888", zeroline: false };
const TEMPLATE = {
  layout: {
    font: { family: "system-ui, sans-serif", size: 12, color: "#1a1a1a" },
    margin: { l: 50, r: 10, t: 10, b: 44 },
    paper_bgcolor: "#fff",
    plot_bgcolor: "#fff",
    hovermode: "closest",
    showlegend: true, // for a single trace too, because the legend says how trials ended
    dragmode: false, // so that a finger scrolls the page and does not zoom the plot
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(255,255,255,0)" },
    xaxis: { ...AXIS, title: { standoff: 8 } },
    yaxis: { ...AXIS, title: { standoff: 8 } },
  },
};
const CONFIG = {
  responsive: true,
  displaylogo: false,
  displayModeBar: window.matchMedia("(hover: hover)").matches ? "hover" : false,
  modeBarButtons: [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]],
  toImageButtonOptions: { format: "svg" },
};
const PRINTED_WIDTH = 680; // pixels that fit on a portrait page
const EMPTY = /^(-(\s|$)|$)/; // "-", or "-" with a published number behind it
const NUMBER = /^[<\[(]?\s*[+\-−]?(\d+\.?\d*|\.\d+)(e[+\-]?\d+)?/i;

function draw(figure) {
  const canvas = figure.querySelector(".canvas");
  if (canvas.dataset.drawn) return;
  canvas.dataset.drawn = "yes";
  const { data, layout } = JSON.parse(figure.querySelector("script").textContent);
  Plotly.newPlot(canvas, data, { ...layout, template: TEMPLATE }, CONFIG);
}

const watcher = new IntersectionObserver(
  (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => {
    watcher.unobserve(e.target);
    draw(e.target);
  }),
  { rootMargin: "600px" },
);
document.querySelectorAll("figure.plot").forEach((figure) => watcher.observe(figure));

function readNumber(text) {
  const found = NUMBER.exec(text.trim());
  return found ? parseFloat(found[0].replace(/^[<\[(]\s*/, "").replace("−", "-")) : NaN;
}

function sortBy(table, column, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => {
    const text = row.cells[column].textContent.trim();
    return { row, text, number: readNumber(text), empty: EMPTY.test(text) };
  });
  const numeric = rows.every((r) => r.empty || !Number.isNaN(r.number));
  rows.sort((a, b) => {
    if (a.empty || b.empty) return a.empty - b.empty; // empty cells come last in both directions
    return direction * (numeric ? a.number - b.number : a.text.localeCompare(b.text));
  });
  rows.forEach((r) => body.append(r.row));
}

document.querySelectorAll("table").forEach((table) => {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const cells = [...table.tBodies[0].rows].map((row) => row.cells[column]);
    const texts = cells.map((cell) => cell.textContent.trim());
    const numeric = texts.every((t) => EMPTY.test(t) || NUMBER.test(t));
    cells.forEach((cell, i) => {
      if (numeric) cell.classList.add("number");
      if (texts[i].length > 60) cell.classList.add("long");
    });
    if (numeric) heading.style.textAlign = "right";
    heading.querySelector("button").addEventListener("click", () => {
      const ascending = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.setAttribute("aria-sort", "none"));
      heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      sortBy(table, column, ascending ? 1 : -1);
    });
  });
});

const studies = [...document.querySelectorAll("details.study")];
document.getElementById("open-all").addEventListener("click", () => studies.forEach((s) => (s.open = true)));
document.getElementById("close-all").addEventListener("click", () => studies.forEach((s) => (s.open = false)));
function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}
window.addEventListener("hashchange", openTarget);
openTarget();

// Print the open sections, with every figure drawn at a width that fits the page.
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("figure.plot").forEach((figure) => {
    if (!figure.offsetParent) return;
    draw(figure);
    const small = figure.parentElement.classList.contains("small");
    Plotly.relayout(figure.querySelector(".canvas"), { width: PRINTED_WIDTH * (small ? 0.48 : 1) });
  });
});
window.addEventListener("afterprint", () => {
  document.querySelectorAll(".js-plotly-plot").forEach((canvas) => Plotly.relayout(canvas, { width: null }));
});
