// Charts: what all of them share, and the two over layers.

const LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#808080"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "cross", "star", "hourglass"];
const SHOWN_FIRST = "svd_90_percent_ratio";
const MEASURES = [
  "svd_90_percent_ratio", "svd_95_percent_ratio", "svd_99_percent_ratio", "stable_rank",
  "effective_rank", "effective_rank_energy", "rank_ratio", "actual_rank", "spectral_norm",
  "frobenius_norm", "condition_number", "mean", "std", "min", "max", "skewness", "kurtosis",
  "sparsity", "entropy_bits", "zero_rows", "zero_cols", "nan_count", "inf_count", "numel", "nbytes",
];

function style(i) {
  return { color: LINES[i % LINES.length], dash: DASHES[Math.floor(i / LINES.length) % DASHES.length] };
}

function layout(more) {
  const axis = {
    gridcolor: colour("grid"), linecolor: colour("rule"), zerolinecolor: colour("rule"),
    automargin: true,
  };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: colour("ink"), family: "system-ui, DejaVu Sans, sans-serif", size: 13 },
    margin: { l: 60, r: 16, t: 12, b: 48 },
    hoverlabel: { align: "left", namelength: -1 },
    ...more,
    xaxis: { ...axis, ...more.xaxis },
    yaxis: { ...axis, ...more.yaxis },
  };
}

const LEGEND = { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 };
const CONFIG = { responsive: true, displaylogo: false, typesetMath: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };

async function draw(id, traces, shape, label) {
  const place = $(id);
  place.setAttribute("aria-label", label);
  await Plotly.react(place, traces, layout(shape), CONFIG);
  // The label says what is drawn, the table has the numbers: letters along the axes do not help.
  for (const drawing of place.querySelectorAll(".main-svg")) drawing.setAttribute("aria-hidden", "true");
  place.dataset.drawn = "true";
}

function median(values) {
  const sorted = Float64Array.from(values).sort();
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// The matrices by layer and role, for each tower: what both charts are made of.
class Layers {
  constructor(table) {
    this.table = table;
    this.towers = new Map();
    for (let row = 0; row < table.length; row++) {
      const layer = table.get("layer_index", row);
      if (layer === null || !table.isMatrix(row)) continue;
      const tower = table.get("tower", row) ?? "";
      const roles = this.towers.get(tower) ?? this.towers.set(tower, new Map()).get(tower);
      const role = table.get("role", row);
      const layers = roles.get(role) ?? roles.set(role, new Map()).get(role);
      const rows = layers.get(layer) ?? layers.set(layer, []).get(layer);
      rows.push(row);
    }
    const inOrder = ([a], [b]) => table.roleOrder(a) - table.roleOrder(b);
    for (const [tower, roles] of this.towers) this.towers.set(tower, new Map([...roles].sort(inOrder)));
  }
  // {roles, layers, cells}: cells[role][layer] = {value, rows} or null.
  grid(tower, measure) {
    const found = this.towers.get(tower) ?? new Map();
    const column = this.table.byName.get(measure);
    const roles = [...found.keys()];
    const layers = [...new Set([...found.values()].flatMap((m) => [...m.keys()]))].sort((a, b) => a - b);
    const cells = roles.map((role) => layers.map((layer) => {
      const rows = found.get(role).get(layer);
      if (!rows) return null;
      const values = rows.map((row) => column.at(row)).filter((value) => value !== null);
      return { rows, value: values.length ? median(values) : null };
    }));
    return { roles, layers, cells, dtype: column.dtype };
  }
}

function extremes(grid) {
  let low = null, high = null;
  grid.cells.forEach((line, r) => line.forEach((cell, l) => {
    if (!cell || cell.value === null) return;
    const here = { value: cell.value, where: `${grid.roles[r]} in layer ${grid.layers[l]}` };
    if (!low || here.value < low.value) low = here;
    if (!high || here.value > high.value) high = here;
  }));
  return low ? `lowest ${shown(low.value)}, ${low.where}; highest ${shown(high.value)}, ${high.where}` : "no values";
}

async function drawHeat(grid, measure, logarithmic) {
  const scaled = (value) => (logarithmic ? (value > 0 ? Math.log10(value) : null) : value);
  const z = grid.cells.map((line) => line.map((cell) => (cell && cell.value !== null ? scaled(cell.value) : null)));
  const text = grid.cells.map((line, r) => line.map((cell, l) => {
    if (!cell) return "";
    const many = cell.rows.length > 1 ? `, median of ${cell.rows.length} matrices` : "";
    return `${plain(grid.roles[r])}, layer ${grid.layers[l]}<br>${measure} ${shown(cell.value, grid.dtype) || "not known"}${many}`;
  }));
  const height = Math.max(220, 90 + 26 * grid.roles.length);
  $("heat").style.height = `${height}px`;
  const trace = {
    type: "heatmap", x: grid.layers, y: grid.roles.map(plain), z, text, hoverinfo: "text",
    colorscale: "Cividis", xgap: 1, ygap: 1,
    colorbar: { title: { text: logarithmic ? "log₁₀" : "" }, thickness: 14, outlinewidth: 0 },
  };
  await draw("heat", [trace], {
    height, xaxis: { title: { text: "layer" }, dtick: grid.layers.length > 24 ? undefined : 1, showgrid: false },
    yaxis: { autorange: "reversed", showgrid: false, ticksuffix: "  " },
  }, `Heat map of ${measure}: ${counted(grid.roles.length, "role", "roles")} by ${counted(grid.layers.length, "layer", "layers")}; ${extremes(grid)}. The numbers are in the table below.`);
}

async function drawDepth(grid, measure, logarithmic, hidden) {
  const traces = grid.roles.map((role, r) => ({
    type: "scatter", mode: "lines+markers", name: plain(role), x: grid.layers,
    y: grid.cells[r].map((cell) => (cell ? cell.value : null)), connectgaps: true,
    line: { ...style(r), width: 2 }, marker: { size: 6, symbol: SYMBOLS[r % SYMBOLS.length] },
    hovertemplate: "layer %{x}: %{y:.4g}",
  })).filter((trace, r) => !hidden.has(grid.roles[r]));
  await draw("depth", traces, {
    xaxis: { title: { text: "layer" } }, showlegend: true, legend: LEGEND,
    yaxis: { title: { text: measure }, type: logarithmic ? "log" : "linear" },
  }, `${measure} over the layers, one line for each of ${counted(traces.length, "role", "roles")}; ${extremes(grid)}. The numbers are in the table below.`);
}

// The part of the page about layers; `onCell(rows)` is told which rows were chosen.
async function setUpLayers(table, onCell) {
  const layers = new Layers(table);
  const towers = [...layers.towers.keys()];
  const hidden = new Set();
  if (!towers.length) {
    $("layers").replaceChildren($("layers-heading"), element("p", { textContent: "No matrix belongs to a numbered layer." }));
    return async () => {};
  }
  const numeric = MEASURES.filter((name) => hasValues(table, name));
  $("measure").append(...numeric.map((name) => option(name, name)));
  if (numeric.includes(SHOWN_FIRST)) $("measure").value = SHOWN_FIRST;
  $("tower").append(...towers.map((tower, i) => option(String(i), printable(tower, 40) || "main")));
  $("tower-label").hidden = towers.length < 2;
  let grid = null;

  async function show() {
    const measure = $("measure").value, logarithmic = $("measure-log").checked;
    const tower = towers[Number($("tower").value)];
    grid = layers.grid(tower, measure);
    const about = table.byName.get(measure);
    $("measure-meaning").textContent = `${measure}: ${about.meaning}${about.unit ? ` (${about.unit})` : ""}.`;
    $("heat-caption").textContent = `${measure} by layer and role; a click on a cell shows its rows and its spectrum`;
    $("depth-caption").textContent = `${measure} over the layers`;
    showNumbers(grid, measure, onCell);
    await drawHeat(grid, measure, logarithmic);
    await drawDepth(grid, measure, logarithmic, hidden);
  }

  function showRoles() {
    const roles = [...layers.towers.get(towers[Number($("tower").value)]).keys()];
    hidden.clear();
    $("depth-roles").replaceChildren($("depth-roles").firstElementChild, ...roles.map((role) => {
      const box = element("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => {
        hidden[box.checked ? "delete" : "add"](role);
        show();
      });
      return element("label", {}, box, role);
    }));
  }

  $("tower").addEventListener("change", () => { showRoles(); show(); });
  $("measure").addEventListener("change", show);
  $("measure-log").addEventListener("change", show);
  $("layer-numbers").addEventListener("toggle", () => showNumbers(grid, $("measure").value, onCell));
  showRoles();
  await show();
  $("heat").on("plotly_click", ({ points: [point] }) => {
    const [r, l] = point.pointIndex;
    const cell = grid.cells[r][l];
    if (cell) onCell(cell.rows, `${grid.roles[r]} in layer ${grid.layers[l]}`);
  });
  return show;
}

function hasValues(table, name) {
  const column = table.byName.get(name);
  for (let row = 0; row < table.length; row++) if (column.at(row) !== null) return true;
  return false;
}

// The numbers behind both charts; made when they are opened.
function showNumbers(grid, measure, onCell) {
  const holder = $("layer-numbers").querySelector("div");
  if (!$("layer-numbers").open || !grid) return holder.replaceChildren();
  const lines = grid.layers.map((layer, l) => [String(layer), ...grid.roles.map((role, r) => {
    const cell = grid.cells[r][l];
    if (!cell) return "";
    const button = element("button", { type: "button", textContent: shown(cell.value, grid.dtype) || "-" });
    button.setAttribute("aria-label", `${role}, layer ${layer}: ${button.textContent}; show rows and spectrum`);
    button.addEventListener("click", () => onCell(cell.rows, `${role} in layer ${layer}`));
    return button;
  })]);
  const table = numbersTable(["layer", ...grid.roles], lines, measure);
  table.className = "cells";
  return holder.replaceChildren(table);
}
