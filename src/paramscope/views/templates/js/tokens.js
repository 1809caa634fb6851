// The embedding: a map of all its rows, the clusters, the curve that chose their number.

const NEAR_PIXELS = 12;

class TokenMap {
  constructor({ head, array }) {
    const { tokens } = head;
    this.canvas = $("map").querySelector("canvas");
    this.text = tokens.text;
    this.flags = tokens.flags;
    for (const name of ["x", "y", "cluster", "norm"]) this[name] = array(tokens[name]);
    this.cells = new Map();
    this.only = null;
    this.found = -1;
    this.measure();
    new ResizeObserver(() => this.show()).observe(this.canvas);
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    $("token-search").addEventListener("input", () => this.search());
  }
  measure() {
    const span = (values) => {
      let low = Infinity, high = -Infinity;
      for (const value of values) {
        if (value < low) low = value;
        if (value > high) high = value;
      }
      return [low, high - low || 1];
    };
    [this.left, this.wide] = span(this.x);
    [this.bottom, this.high] = span(this.y);
  }
  place(i) {
    const edge = 14;
    return [
      edge + ((this.x[i] - this.left) / this.wide) * (this.width - 2 * edge),
      this.height - edge - ((this.y[i] - this.bottom) / this.high) * (this.height - 2 * edge),
    ];
  }
  show() {
    const ratio = devicePixelRatio || 1;
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    if (!this.width) return;
    this.canvas.width = this.width * ratio;
    this.canvas.height = this.height * ratio;
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    this.cells.clear();
    const size = this.x.length > 50_000 ? 1.2 : this.x.length > 5_000 ? 1.8 : 3;
    const faint = colour("rule");
    for (let i = 0; i < this.x.length; i++) {
      const cluster = this.cluster[i];
      if (cluster < 0) continue; // left out of the clusters: it has no place
      const [x, y] = this.place(i);
      pen.fillStyle = this.only === null || this.only === cluster ? LINES[cluster % LINES.length] : faint;
      pen.fillRect(x - size / 2, y - size / 2, size, size);
      const key = this.key(x, y);
      if (!this.cells.has(key)) this.cells.set(key, []);
      this.cells.get(key).push(i);
    }
    if (this.found >= 0 && this.cluster[this.found] >= 0) {
      const [x, y] = this.place(this.found);
      pen.strokeStyle = colour("ink");
      pen.lineWidth = 2;
      pen.beginPath();
      pen.arc(x, y, 9, 0, 2 * Math.PI);
      pen.stroke();
    }
    this.canvas.dataset.drawn = "true";
  }
  key(x, y) { return Math.floor(x / NEAR_PIXELS) * 100_000 + Math.floor(y / NEAR_PIXELS); }
  hover(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let nearest = -1, least = NEAR_PIXELS ** 2;
    for (const dx of [-1, 0, 1]) {
      for (const dy of [-1, 0, 1]) {
        for (const i of this.cells.get(this.key(x + dx * NEAR_PIXELS, y + dy * NEAR_PIXELS)) ?? []) {
          const [px, py] = this.place(i), distance = (px - x) ** 2 + (py - y) ** 2;
          if (distance < least) [nearest, least] = [i, distance];
        }
      }
    }
    if (nearest >= 0) this.tell(nearest);
  }
  tell(i) {
    const norm = Number.isNaN(this.norm[i]) ? "" : `, norm ${shown(this.norm[i])}`;
    const where = this.cluster[i] < 0 ? ", in no cluster" : `, cluster ${this.cluster[i]}`;
    const flags = this.flags[i] ? ` (${printable(this.flags[i])})` : "";
    $("map-here").replaceChildren(`Token ${i} `, element("bdi", { className: "name", textContent: printable(this.text[i] ?? "", 80) }), where + norm + flags);
  }
  search() {
    const wanted = $("token-search").value;
    const lower = wanted.toLowerCase();
    this.found = wanted ? this.text.findIndex((text) => text === wanted) : -1;
    if (wanted && this.found < 0) this.found = this.text.findIndex((text) => text.toLowerCase().includes(lower));
    if (this.found >= 0) this.tell(this.found);
    else $("map-here").textContent = wanted ? "No such token." : "";
    this.show();
  }
}

function clusterTable(clusters) {
  const lines = clusters.map((cluster) => {
    const nearest = element("bdi", { className: "name" });
    nearest.textContent = (cluster.representatives ?? []).slice(0, 8)
      .map((token) => printable(token.text ?? `#${token.token_id}`, 32)).join("  ");
    return [String(cluster.cluster), shown(cluster.size, "int64"), shown(cluster.share), shown(cluster.mean_distance ?? null), shown(cluster.silhouette ?? null), nearest];
  });
  return numbersTable(["cluster", "rows", "share", "mean distance", "silhouette", "nearest to its centre"], lines, "", [0, 5]);
}

async function drawElbow(curve, summary) {
  const measures = ["inertia", "silhouette", "calinski_harabasz", "davies_bouldin"].filter((name) => curve.some((line) => typeof line[name] === "number"));
  const traces = measures.map((name, i) => {
    const values = curve.map((line) => line[name] ?? null);
    const largest = Math.max(...values.filter((value) => value !== null).map(Math.abs)) || 1;
    return {
      type: "scatter", mode: "lines+markers", name: name.replace("_", "-"), x: curve.map((line) => line.k),
      y: values.map((value) => (value === null ? null : value / largest)), customdata: values,
      line: { ...style(i), width: 2 }, marker: { size: 7, symbol: SYMBOLS[i] }, hovertemplate: "k %{x}: %{customdata:.4g}",
    };
  });
  const chosen = summary.k ?? null;
  $("elbow-caption").textContent = `Number of clusters k: four criteria, each relative to its largest value${chosen ? `; chosen: k = ${chosen}` : ""}`;
  const shapes = chosen ? [{ type: "line", x0: chosen, x1: chosen, yref: "paper", y0: 0, y1: 1, line: { color: colour("ink"), dash: "dash", width: 1 } }] : [];
  await draw("elbow", traces, {
    shapes, showlegend: true, legend: LEGEND,
    xaxis: { title: { text: "number of clusters k" } }, yaxis: { title: { text: "relative to the largest value" } },
  }, `Criteria over the number of clusters k from ${curve[0]?.k} to ${curve[curve.length - 1]?.k}${chosen ? `, ${chosen} chosen` : ""}. The numbers are in the table below.`);
  const lines = curve.map((line) => [String(line.k), ...measures.map((name) => shown(line[name] ?? null))]);
  $("elbow-numbers").replaceChildren(numbersTable(["k", ...measures], lines));
}

async function setUpTokens(packed) {
  if (!packed) return async () => {};
  const { summary, curve, tokens } = packed.head;
  const clusters = summary.clusters ?? [];
  $("tokens-about").textContent = [summary.elbow?.note, ...(summary.notes ?? [])].filter(Boolean).map((text) => printable(text, 400)).join(" ");
  $("cluster-table").replaceChildren(clusterTable(clusters));
  let map = null;
  if (tokens?.x && tokens?.y) {
    map = new TokenMap(packed);
    $("map-caption").textContent = `Map of the ${counted(map.x.length, "row", "rows")} of the embedding along two principal directions, coloured by cluster`;
    map.canvas.setAttribute("aria-label", `Scatter of ${counted(map.x.length, "token", "tokens")} in ${counted(clusters.length, "cluster", "clusters")}; the clusters with their sizes and tokens are in the table below.`);
    $("token-cluster").append(option("", "all"), ...clusters.map((c) => option(String(c.cluster), `${c.cluster} (${c.size})`)));
    $("token-cluster").addEventListener("change", () => {
      const { value } = $("token-cluster");
      map.only = value === "" ? null : Number(value);
      map.show();
    });
    map.show();
  } else {
    $("map").closest("figure").remove();
  }
  if (!curve.length) $("elbow").closest("figure").remove();
  const show = async () => {
    map?.show();
    if (curve.length) await drawElbow(curve, summary);
  };
  await show();
  return show;
}
