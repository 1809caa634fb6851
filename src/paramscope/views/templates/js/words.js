// Words: numbers and names as people read them, and as the CSV has them.

// Characters that cannot be seen, or that turn the text around them, become a sign.
function printable(text, width = 0) {
  const safe = String(text).replace(/\p{C}/gu, "\ufffd");
  if (!width || safe.length <= width) return safe;
  const letters = Array.from(safe.slice(0, width) + safe.slice(-width));
  const half = Math.floor((width - 1) / 2);
  return `${letters.slice(0, half).join("")}…${letters.slice(-half).join("")}`;
}

// Plotly reads a little HTML in its texts: names go in with none.
function plain(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

function shown(value, dtype) {
  if (value === null) return "";
  if (typeof value === "string") return printable(value);
  if (dtype === "int64") return value.toLocaleString("en-US");
  if (value === 0) return "0";
  const size = Math.abs(value);
  return size >= 1e-3 && size < 1e6 ? String(Number(value.toPrecision(4))) : value.toExponential(3);
}

// A number as Python's repr writes it: the shortest text that gives the same float64.
function exact(value) {
  if (value === 0) return Object.is(value, -0) ? "-0.0" : "0.0";
  const [mantissa, power] = Math.abs(value).toExponential().split("e");
  const digits = mantissa.replace(".", ""), exponent = Number(power);
  const sign = value < 0 ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    const fraction = digits.length > 1 ? `.${digits.slice(1)}` : "";
    const size = String(Math.abs(exponent)).padStart(2, "0");
    return `${sign}${digits[0]}${fraction}e${exponent < 0 ? "-" : "+"}${size}`;
  }
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${digits.slice(exponent + 1) || "0"}`;
}

// A cell of the CSV: text that a spreadsheet would run as a formula gets a quote before it.
function csvCell(value, dtype) {
  if (value === null) return "";
  if (typeof value === "number") return dtype === "int64" ? String(value) : exact(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
}

function csvText(table, order) {
  const lines = [table.columns.map((column) => column.name).join(",")];
  for (const row of order) {
    lines.push(table.columns.map((column) => csvCell(column.at(row), column.dtype)).join(","));
  }
  return lines.join("\n") + "\n";
}

function counted(n, one, many) { return `${n.toLocaleString("en-US")} ${n === 1 ? one : many}`; }
