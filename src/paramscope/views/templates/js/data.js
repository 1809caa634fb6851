// Data: what the page carries, inflated; the table's columns as typed arrays.

const TYPES = { int32: Int32Array, float32: Float32Array, float64: Float64Array };
const NO_INTEGER = -(2 ** 31);

async function inflate(id) {
  const holder = document.getElementById(id);
  if (!holder) return null;
  const text = holder.textContent;
  holder.remove();
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

// {head, array}: the JSON head, and a function from a reference in it to its typed array.
async function unpack(id) {
  const buffer = await inflate(id);
  if (!buffer) return null;
  const size = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const array = (ref) => new TYPES[ref.type](buffer, 4 + size + ref.at, ref.length);
  return { head, array };
}

class Column {
  constructor(about, array) {
    Object.assign(this, { name: about.name, dtype: about.dtype, meaning: about.meaning, unit: about.unit });
    this.isText = about.dtype === "string";
    this.distinct = about.values;
    this.data = array(this.isText ? about.codes : about.numbers);
  }
  // A string, a number, or null.
  at(row) {
    const value = this.data[row];
    if (this.isText) return this.distinct[value];
    if (this.data instanceof Int32Array) return value === NO_INTEGER ? null : value;
    return Number.isNaN(value) ? null : value;
  }
  // Numbers to sort by: the place of a text among all texts, or the number itself.
  keys() {
    if (!this.isText) return this.data;
    const order = this.distinct.map((text, code) => [text ?? "", code]);
    order.sort((a, b) => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0));
    const places = new Int32Array(order.length);
    order.forEach(([, code], place) => { places[code] = place; });
    return this.data.map((code) => places[code]);
  }
}

class Table {
  constructor({ head, array }) {
    this.length = head.rows;
    this.columns = head.columns.map((about) => new Column(about, array));
    this.byName = new Map(this.columns.map((column) => [column.name, column]));
    this.findings = new Map(Object.entries(head.findings).map(([key, ref]) => [key, array(ref)]));
    this.rolePlaces = new Map(head.roles.map((role, place) => [role, place]));
  }
  // A key to sort by; a role that is not known comes last.
  roleOrder(role) { return this.rolePlaces.get(role) ?? this.rolePlaces.size; }
  get(name, row) { return this.byName.get(name).at(row); }
  name(row) {
    const part = this.get("part", row);
    return this.get("param_name", row) + (part ? ` [${part}]` : "");
  }
  isMatrix(row) {
    return this.get("rows", row) > 1 && this.get("cols", row) > 1
      && !["norm", "bias", "buffer"].includes(this.get("block_type", row));
  }
}

class Spectra {
  constructor({ head, array }, table) {
    this.table = table;
    this.points = head.points;
    this.values = array(head.values);
    this.positions = new Map(Object.entries(head.positions).map(([k, ref]) => [Number(k), array(ref)]));
    this.random = new Map(Object.entries(head.random).map(([key, ref]) => [key, array(ref)]));
    this.where = new Map();
    const places = array(head.places), lengths = array(head.lengths);
    let start = 0;
    for (let i = 0; i < places.length; i++) {
      this.where.set(places[i], { start, length: lengths[i] });
      start += this.positions.get(lengths[i]).length;
    }
  }
  has(row) { return this.where.has(row); }
  // {positions, s, length, random}: σ at positions from 0; what random numbers would have, or null.
  of(row) {
    const { start, length } = this.where.get(row);
    const positions = this.positions.get(length);
    const s = this.values.subarray(start, start + positions.length);
    const m = this.table.get("rows", row), n = this.table.get("cols", row);
    const unit = this.random.get(`${Math.max(m, n)}x${Math.min(m, n)}x${length}`);
    const norm = this.table.get("frobenius_norm", row);
    const deviation = norm === null ? null : norm / Math.sqrt(m * n);
    const random = unit && deviation !== null ? unit.map((x) => x * deviation) : null;
    return { positions, s, length, random };
  }
}
