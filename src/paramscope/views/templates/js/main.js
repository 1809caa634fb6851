// What happens when the page opens, and how its parts speak to each other.

async function loadPlotly() {
  const code = new TextDecoder().decode(await inflate("data-plotly"));
  document.head.append(element("script", { textContent: code }));
  if (typeof Plotly === "undefined") throw new Error("the charts' library did not start");
}

async function main() {
  if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old: it has no DecompressionStream");
  const redraw = [];
  setUpTheme(() => redraw.forEach((draw_) => draw_()));
  let spectra = null, view = null;
  const table = new Table(await unpack("data-table"));
  const rows = new TableView(table, openRow);
  document.documentElement.dataset.table = "ready";
  performance.mark("table");
  await nextFrame();
  const [spectraData] = await Promise.all([unpack("data-spectra"), loadPlotly()]);
  performance.mark("library");
  spectra = new Spectra(spectraData, table);
  view = new SpectrumView(table, spectra);

  function openRow(row) {
    showRow(table, row);
    if (spectra?.has(row)) view.choose([row]);
  }

  function openCell(found, name) {
    rows.restrict(found, name);
    view.choose(found, name);
    $("spectra").scrollIntoView({ block: "start" });
  }

  function follow() {
    const [, row] = /^#row-(\d+)$/.exec(location.hash) ?? [];
    const [, key] = /^#rows-(.+)$/.exec(location.hash) ?? [];
    if (row !== undefined && Number(row) < table.length) {
      rows.activateRow(Number(row));
      openRow(Number(row));
      $("table").scrollIntoView();
      $("rows").focus({ preventScroll: true });
    } else if (key !== undefined && table.findings.has(key)) {
      const title = $(`finding-${key}`)?.querySelector(".sentence")?.textContent ?? key;
      rows.restrict(table.findings.get(key), printable(title, 160));
      $("table").scrollIntoView();
      $("rows").focus({ preventScroll: true });
    }
  }

  $("row-spectrum").addEventListener("click", () => {
    view.choose([Number($("row").dataset.row)]);
    $("spectra").scrollIntoView();
  });
  $("row-add").addEventListener("click", () => {
    view.add(Number($("row").dataset.row));
    $("spectra").scrollIntoView();
  });
  addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#row"]');
    if (link && link.getAttribute("href") === location.hash) follow();
  });

  await view.start();
  performance.mark("spectra");
  redraw.push(() => view.show());
  redraw.push(await setUpLayers(table, openCell));
  performance.mark("layers");
  redraw.push(await setUpTokens(await unpack("data-embedding")));
  follow();
  performance.mark("ready");
  document.documentElement.dataset.ready = "true";
}

main().catch((error) => {
  $("trouble").textContent = `The charts and the table cannot be shown: ${error.message}. Everything is in params.csv and report.md beside this file.`;
  $("trouble").hidden = false;
  throw error;
});
