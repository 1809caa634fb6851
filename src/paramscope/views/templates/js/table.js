// The table: only the rows in sight are in the page; sorted, filtered, downloaded as a whole.

const ROW_HEIGHT = 30;
const BEYOND = 12;
const COLUMNS_FIRST = [
  "role", "layer_index", "shape", "dtype", "actual_rank", "svd_90_percent_ratio", "stable_rank",
  "frobenius_norm", "std", "sparsity", "status",
];

class TableView {
  constructor(table, onRow) {
    Object.assign(this, { table, onRow, sorted: null, descending: false, only: null, onlyName: "", active: -1 });
    this.visible = new Set(COLUMNS_FIRST);
    this.order = Int32Array.from({ length: table.length }, (_, row) => row);
    this.head = $("rows").tHead;
    this.body = $("rows").tBodies[0];
    this.setUpControls();
    this.showHead();
    this.refresh();
  }
  setUpControls() {
    const { table } = this;
    const blocks = new Set(table.byName.get("block_type").distinct);
    const layers = new Set();
    for (let row = 0; row < table.length; row++) {
      const layer = table.get("layer_index", row);
      if (layer !== null) layers.add(layer);
    }
    $("filter-block").append(...[...blocks].sort().map((name) => option(name, name)));
    $("filter-layer").append(...[...layers].sort((a, b) => a - b).map((n) => option(String(n), String(n))), option("none", "outside the layers"));
    let waiting = 0;
    $("filter").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.refresh(), 60);
    });
    for (const id of ["filter-block", "filter-layer"]) $(id).addEventListener("change", () => this.refresh());
    $("clear").addEventListener("click", () => this.clear());
    $("download").addEventListener("click", () => this.download());
    $("scroller").addEventListener("scroll", () => this.showRows(), { passive: true });
    new ResizeObserver(() => this.showRows()).observe($("scroller"));
    $("rows").addEventListener("keydown", (event) => this.onKey(event));
    this.body.addEventListener("click", (event) => {
      const line = event.target.closest("tr[data-at]");
      if (line) { this.activate(Number(line.dataset.at)); this.onRow(this.order[this.active]); }
    });
    this.setUpColumns();
  }
  setUpColumns() {
    const choosable = this.table.columns.filter(({ name }) => name !== "param_name" && name !== "part");
    $("columns").append(...choosable.map(({ name, meaning }) => {
      const box = element("input", { type: "checkbox", checked: this.visible.has(name) });
      box.addEventListener("change", () => {
        this.visible[box.checked ? "add" : "delete"](name);
        this.showHead();
        this.showRows();
      });
      return element("label", { title: meaning }, box, name);
    }));
  }
  // Those shown first in an order of their own, then the others as in the table.
  get columns() {
    const place = ({ name }) => (COLUMNS_FIRST.includes(name) ? COLUMNS_FIRST.indexOf(name) : Infinity);
    const shown_ = this.table.columns.filter(({ name }) => this.visible.has(name));
    return shown_.sort((a, b) => (place(a) === place(b) ? 0 : place(a) - place(b)));
  }
  clear() {
    $("filter").value = $("filter-block").value = $("filter-layer").value = "";
    this.only = null;
    this.sorted = null;
    this.showHead();
    this.refresh();
  }
  // Show these rows and no others.
  restrict(rows, name) {
    $("filter").value = $("filter-block").value = $("filter-layer").value = "";
    this.only = rows;
    this.onlyName = name;
    this.refresh();
  }
  haystack(row) {
    this.texts ??= new Array(this.table.length);
    return (this.texts[row] ??= ["param_name", "part", "role", "block_type", "tower", "dtype", "shape", "status"]
      .map((name) => this.table.get(name, row) ?? "").join(" ").toLowerCase());
  }
  matches() {
    const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const block = $("filter-block").value, layer = $("filter-layer").value;
    const { table } = this;
    return (row) => (!block || table.get("block_type", row) === block)
      && (!layer || String(table.get("layer_index", row) ?? "none") === layer)
      && (!words.length || words.every((word) => this.haystack(row).includes(word)));
  }
  refresh() {
    const fits = this.matches();
    const all = this.only ?? Int32Array.from({ length: this.table.length }, (_, row) => row);
    this.order = Int32Array.from(all).filter(fits);
    if (this.sorted) this.sort();
    this.active = -1;
    $("scroller").scrollTop = 0;
    $("rows").setAttribute("aria-rowcount", String(this.order.length + 1));
    const n = this.order.length.toLocaleString("en-US"), total = counted(this.table.length, "row", "rows");
    const of = this.only ? `: ${this.onlyName}` : "";
    $("table-status").textContent = `${n} of ${total}${of}${this.sorted ? `, sorted by ${this.sorted}` : ""}. The CSV has these rows and all columns.`;
    this.showRows();
  }
  sort() {
    const column = this.table.byName.get(this.sorted);
    const keys = column.keys(), sign = this.descending ? -1 : 1;
    const empty = (row) => column.at(row) === null;
    this.order.sort((a, b) => {
      if (empty(a) || empty(b)) return empty(a) - empty(b) || a - b;
      return sign * (keys[a] - keys[b]) || a - b;
    });
  }
  sortBy(name) {
    this.descending = this.sorted === name ? !this.descending : false;
    this.sorted = name;
    this.showHead();
    this.refresh();
  }
  width(column) {
    if (column.name === "param_name") return "24rem";
    return column.isText ? (column.name.includes("shape") ? "9rem" : "8rem") : `${Math.max(6, column.name.length * 0.55 + 1.5)}rem`;
  }
  showHead() {
    const columns = [this.table.byName.get("param_name"), ...this.columns];
    const line = element("tr", { attributes: { "aria-rowindex": "1" } }, ...columns.map((column) => {
      const isSorted = this.sorted === column.name;
      const mark = isSorted ? (this.descending ? " ▼" : " ▲") : "";
      const button = element("button", { type: "button", textContent: (column.name === "param_name" ? "matrix" : column.name) + mark, title: column.meaning });
      button.addEventListener("click", () => this.sortBy(column.name));
      const cell = element("th", { scope: "col", className: column.isText ? "" : "number" }, button);
      cell.style.width = this.width(column);
      cell.setAttribute("aria-sort", isSorted ? (this.descending ? "descending" : "ascending") : "none");
      return cell;
    }));
    const focused = this.head.contains(document.activeElement)
      ? [...this.head.querySelectorAll("button")].indexOf(document.activeElement) : -1;
    this.head.replaceChildren(line);
    if (focused >= 0) this.head.querySelectorAll("button")[focused]?.focus();
    $("rows").setAttribute("aria-colcount", String(columns.length));
  }
  spacer(rows) {
    const cell = element("td", { colSpan: this.visible.size + 1 });
    cell.style.height = `${rows * ROW_HEIGHT}px`;
    return element("tr", { className: "spacer", attributes: { "aria-hidden": "true" } }, cell);
  }
  showRows() {
    const scroller = $("scroller");
    const first = Math.max(0, Math.floor(scroller.scrollTop / ROW_HEIGHT) - BEYOND);
    const count = Math.ceil(scroller.clientHeight / ROW_HEIGHT) + 2 * BEYOND;
    const last = Math.min(this.order.length, first + count);
    const columns = this.columns, lines = [];
    if (first) lines.push(this.spacer(first));
    for (let at = first; at < last; at++) lines.push(this.line(at, columns));
    if (last < this.order.length) lines.push(this.spacer(this.order.length - last));
    this.body.replaceChildren(...lines);
    const active = this.active >= first && this.active < last ? `at-${this.active}` : "";
    if (active) $("rows").setAttribute("aria-activedescendant", active);
    else $("rows").removeAttribute("aria-activedescendant");
  }
  line(at, columns) {
    const row = this.order[at];
    const name = this.table.name(row);
    const cells = columns.map((column) => element("td", {
      className: column.isText ? "" : "number", dir: "auto", textContent: printable(shown(column.at(row), column.dtype), 200),
    }));
    const isActive = at === this.active;
    return element("tr", {
      id: `at-${at}`, className: isActive ? "active" : "",
      attributes: { "data-at": at, "aria-rowindex": at + 2, "aria-selected": isActive },
    }, element("td", { className: "name", dir: "auto", title: printable(name, 2000), textContent: printable(name, 400) }), ...cells);
  }
  // Make a place of the order the active one, and bring it into sight.
  activate(at) {
    this.active = Math.max(0, Math.min(this.order.length - 1, at));
    const scroller = $("scroller"), top = this.active * ROW_HEIGHT;
    const room = scroller.clientHeight - 2 * ROW_HEIGHT;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top > scroller.scrollTop + room) scroller.scrollTop = top - room;
    this.showRows();
  }
  activateRow(row) {
    let at = this.order.indexOf(row);
    if (at < 0) { this.clear(); at = this.order.indexOf(row); }
    this.activate(at);
  }
  onKey(event) {
    if (event.target !== $("rows") || !this.order.length) return;
    const page = Math.max(1, Math.floor($("scroller").clientHeight / ROW_HEIGHT) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      this.activate(this.active < 0 ? 0 : this.active + steps[event.key]);
      event.preventDefault();
    } else if (event.key === "Enter" && this.active >= 0) {
      this.onRow(this.order[this.active]);
      event.preventDefault();
    }
  }
  download() {
    const blob = new Blob([csvText(this.table, this.order)], { type: "text/csv;charset=utf-8" });
    const link = element("a", { href: URL.createObjectURL(blob), download: "params.csv" });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }
}

// All cells of one row, under the table.
function showRow(table, row) {
  $("row").hidden = false;
  $("row").dataset.row = row;
  $("row-heading").textContent = printable(table.name(row), 2000);
  $("row-cells").replaceChildren(...table.columns.map((column) => {
    const value = column.at(row);
    const text = typeof value === "number" && column.dtype === "float64" ? exact(value) : shown(value, column.dtype);
    return element("div", { title: column.meaning },
      element("dt", { textContent: column.name }), element("dd", { dir: "auto", textContent: printable(text, 2000) || "–" }));
  }));
}
