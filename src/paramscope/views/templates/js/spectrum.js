// Spectra: the matrices chosen, drawn over each other, and against random numbers.

const MOST_SPECTRA = 8;
const NAMES_OFFERED = 50;
const ROWS_OF_NUMBERS = [0, 1, 2, 4, 9, 19, 49, 99, 199, 499, 999, 1999, 4999, 9999];

class SpectrumView {
  constructor(table, spectra) {
    Object.assign(this, { table, spectra, chosen: [] });
    $("spectra-points").textContent = spectra.where.size
      ? `Of each, at most ${spectra.points} points are drawn; all values are in spectra.parquet.` : "This run has none.";
    for (const id of ["spectrum-x", "spectrum-y", "spectrum-scale", "spectrum-random"]) {
      $(id).addEventListener("change", () => this.show());
    }
    $("spectrum-search").addEventListener("input", () => this.offer());
    $("spectrum-search").addEventListener("keydown", (event) => { if (event.key === "Enter") this.addTyped(); });
    $("spectrum-add").addEventListener("click", () => this.addTyped());
  }
  // Begin with the most compressible matrix, the least and one between.
  start() {
    const ratio = this.table.byName.get("svd_90_percent_ratio");
    const rows = [...this.spectra.where.keys()].filter((row) => this.table.isMatrix(row) && ratio.at(row) !== null);
    rows.sort((a, b) => ratio.at(a) - ratio.at(b));
    const picks = [0, rows.length >> 1, rows.length - 1].map((i) => rows[i]);
    return this.choose([...new Set(picks)].filter((row) => row !== undefined));
  }
  choose(rows, about = "") {
    const some = rows.filter((row) => this.spectra.has(row));
    this.chosen = some.slice(0, MOST_SPECTRA);
    const more = some.length > MOST_SPECTRA ? `The first ${MOST_SPECTRA} of ${some.length}.` : "";
    this.tell(rows.length && !some.length ? "That row has no spectrum." : [about, more].filter(Boolean).join(": "));
    return this.show();
  }
  add(row) {
    if (!this.spectra.has(row)) return this.tell("That row has no spectrum.");
    this.chosen = [...this.chosen.filter((other) => other !== row), row].slice(-MOST_SPECTRA);
    this.tell("");
    return this.show();
  }
  tell(text) { $("spectrum-status").textContent = text; }
  matching(text, most) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean), found = [];
    for (const row of this.spectra.where.keys()) {
      const name = this.table.name(row).toLowerCase();
      if (words.every((word) => name.includes(word)) && found.push(row) >= most) break;
    }
    return found;
  }
  offer() {
    const rows = this.matching($("spectrum-search").value, NAMES_OFFERED);
    $("spectrum-names").replaceChildren(...rows.map((row) => option(this.table.name(row), "")));
  }
  addTyped() {
    const text = $("spectrum-search").value.trim();
    if (!text) return;
    const rows = this.matching(text, Infinity);
    const row = rows.find((one) => this.table.name(one) === text) ?? rows[0];
    if (row === undefined) this.tell(`No matrix with a spectrum has ${printable(text, 60)} in its name.`);
    else { this.add(row); $("spectrum-search").value = ""; }
  }
  async show() {
    const relative = $("spectrum-scale").value === "relative";
    const random = $("spectrum-random").checked;
    this.showChips();
    this.showNumbers();
    const traces = this.chosen.flatMap((row, i) => this.traces(row, i, relative, random));
    const names = this.chosen.map((row) => printable(this.table.name(row), 60));
    $("spectrum-caption").textContent = names.length ? `Singular values of ${names.join(", ")}` : "No matrix is chosen";
    await draw("spectrum", traces, {
      xaxis: { type: $("spectrum-x").value, title: { text: relative ? "i / k: share of the directions" : "i: number of the singular value" } },
      yaxis: { type: $("spectrum-y").value, title: { text: relative ? "σᵢ / σ₁" : "σᵢ" }, exponentformat: "power" },
      showlegend: true, legend: { ...LEGEND, traceorder: "normal" },
    }, `Singular values, descending: ${names.map((name, i) => `${name}, from ${this.ends(this.chosen[i])}`).join("; ") || "none chosen"}. The numbers are in the table below.`);
  }
  ends(row) {
    const { s } = this.spectra.of(row);
    return `${shown(s[0])} to ${shown(s[s.length - 1])}`;
  }
  traces(row, i, relative, withRandom) {
    const { positions, s, random } = this.spectra.of(row);
    const k = this.table.get("design_rank", row);
    const x = Array.from(positions, (at) => (relative ? (at + 1) / k : at + 1));
    const scale = relative ? s[0] || 1 : 1;
    const name = plain(printable(this.table.name(row), 44));
    const common = { type: "scatter", mode: "lines", x };
    const own = { ...common, name, y: Array.from(s, (v) => v / scale), line: { ...style(i), width: 2 }, hovertemplate: "i %{x:.4g}: %{y:.4g}" };
    if (!withRandom || !random) return [own];
    const line = { color: style(i).color, dash: "dot", width: 1.3 };
    return [own, { ...common, name: `random, as ${name}`, y: Array.from(random, (v) => v / scale), line, hovertemplate: "random, i %{x:.4g}: %{y:.4g}" }];
  }
  showChips() {
    $("spectrum-chosen").replaceChildren(...this.chosen.map((row) => {
      const name = printable(this.table.name(row), 80);
      const remove = element("button", { type: "button", textContent: "×", attributes: { "aria-label": `Remove ${name}` } });
      remove.addEventListener("click", () => {
        this.chosen = this.chosen.filter((other) => other !== row);
        this.show();
      });
      return element("li", {}, element("bdi", { className: "name", textContent: name }), remove);
    }));
  }
  showNumbers() {
    const all = this.chosen.map((row) => this.spectra.of(row));
    const deepest = Math.max(0, ...all.map(({ length }) => length));
    const wanted = [...ROWS_OF_NUMBERS.filter((at) => at < deepest - 1), ...(deepest ? [deepest - 1] : [])];
    const lines = wanted.map((at) => [`i = ${(at + 1).toLocaleString("en-US")}`, ...all.flatMap(({ positions, s, random, length }) => {
      if (at >= length) return ["", ""];
      const near = positions.findLastIndex((position) => position <= at);
      const sign = positions[near] === at ? "" : "≤ ";
      return [sign + shown(s[near]), random ? sign + shown(random[near]) : ""];
    })]);
    const headings = this.chosen.flatMap((row) => [printable(this.table.name(row), 44), "random"]);
    $("spectrum-numbers").replaceChildren(numbersTable(["", ...headings], lines));
  }
}
