// Page: elements made without HTML, tables of numbers, the theme.

const $ = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const { attributes, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(attributes ?? {})) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function option(value, label) { return element("option", { value, textContent: label }); }

// A table; a cell is text, or an element. The columns in `texts` are no numbers.
function numbersTable(headings, lines, caption = "", texts = [0]) {
  const kind = (i) => (texts.includes(i) ? "" : "number");
  const head = element("tr", {}, ...headings.map((text, i) => element("th", {
    textContent: text, scope: "col", className: kind(i),
  })));
  const body = lines.map((line) => element("tr", {}, ...line.map((cell, i) => {
    const made = element(i ? "td" : "th", { className: kind(i) });
    if (!i) made.scope = "row";
    made.append(cell);
    return made;
  })));
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
  if (caption) table.prepend(element("caption", { textContent: caption, className: "quiet" }));
  return table;
}

function nextFrame() {
  return new Promise((resolve) => { setTimeout(resolve, 0); });
}

const THEMES = { auto: "as the system", light: "light", dark: "dark" };

function setUpTheme(onChange) {
  const button = $("theme");
  let theme = "auto";
  try { theme = localStorage.getItem("paramscope-theme") ?? "auto"; } catch { /* not from a file */ }
  const show = () => {
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    button.textContent = `Theme: ${THEMES[theme] ?? THEMES.auto}`;
    try { localStorage.setItem("paramscope-theme", theme); } catch { /* not from a file */ }
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    const names = Object.keys(THEMES);
    theme = names[(names.indexOf(theme) + 1) % names.length];
    show();
    onChange();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onChange);
  addEventListener("beforeprint", onChange);
  addEventListener("afterprint", onChange);
  show();
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}
