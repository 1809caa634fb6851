"""The report in a real browser: headless Chromium, offline, driven by Playwright."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from made_up_run import HOSTILE, hostile, transformer
from paramscope.report_run import report, run
from paramscope.table.export import write_csv, write_parquet

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP, PHONE = (1280, 900), (390, 844)
READY = 'html[data-ready="true"]'
STATUS = "#table-status"
PATIENCE_MS = 600_000


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def demo(real_model, tmp_path_factory):
    """The whole way: analysis, embedding, report; made once for all processes of the tests."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    out = root / "demo" / "run"
    try:
        out.parent.mkdir()
    except FileExistsError:
        while not (out / "report.html").is_file():
            time.sleep(0.1)
        return out
    run(real_model, out=out, model_id="sentence-transformers/all-MiniLM-L6-v2")
    return out


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "run"
    hostile().write(folder, model={"model_id": HOSTILE[0], "licence": HOSTILE[1]})
    add_embedding(folder)
    report(folder, plots=())
    return folder


def add_embedding(folder: Path) -> None:
    """Tokens and clusters with hostile texts, as the analysis of an embedding would leave them."""
    import numpy as np

    from paramscope.table import embedding_files as files

    n = len(HOSTILE)
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    labels[0] = -1
    place = folder / "embedding"
    place.mkdir()
    x, y = rng.standard_normal((2, n))
    x[0] = y[0] = np.nan
    tokens = files.TokenColumns(HOSTILE, labels, np.ones(n), np.ones(n), x, y, [""] * n)
    files.write_tokens(place / files.TOKENS, tokens)
    curve = [
        {
            "k": k,
            "inertia": 9.0 / k,
            "calinski_harabasz": 3.0,
            "davies_bouldin": 1.0,
            "silhouette": None,
            "chosen": int(k == 3),
        }
        for k in (2, 3, 4)
    ]
    files.write_curve(place / files.CURVE, curve)
    clusters = [
        {
            "cluster": c,
            "size": 7,
            "share": 1 / 3,
            "mean_distance": 1.0,
            "silhouette": None,
            "representatives": [
                {"token_id": i, "text": HOSTILE[i], "distance": 1.0} for i in range(c, n, 3)
            ],
        }
        for c in range(3)
    ]
    facts = {
        "param_name": HOSTILE[0],
        "rows": n,
        "columns": 4,
        "k": 3,
        "elbow": {"clear": True, "note": HOSTILE[0]},
        "clusters": clusters,
        "notes": [HOSTILE[1]],
    }
    files.write_json_file(place / files.CLUSTERS, facts)


@contextmanager
def opened(browser, folder, size=DESKTOP, **context_options):
    """The report, ready; at the end there was no error, no message and no request."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, offline=True, **context_options
    )
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    heard, requests = [], []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.on("dialog", lambda dialog: heard.append(dialog.message))
    url = (folder / "report.html").resolve().as_uri()
    page.goto(url)
    page.wait_for_selector(READY)
    try:
        yield page
        assert heard == []
        assert [u for u in requests if u.split("#")[0] != url and not u.startswith("blob:")] == []
    finally:
        context.close()


def rows_of(folder):
    return pq.read_table(folder / "params.parquet").to_pylist()


def downloaded(page, path):
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(path)
    return path.read_bytes()


def test_every_chart_of_the_demo_is_drawn(browser, demo):
    with opened(browser, demo) as page:
        assert page.locator('.chart[data-drawn="true"]').count() == 4
        assert page.locator("#heat .hm image").count() == 1
        assert page.locator("#depth .scatterlayer .trace").count() == 6
        assert page.locator("#spectrum .scatterlayer .trace").count() == 6  # three, three random
        assert page.locator("#elbow .scatterlayer .trace").count() == 4
        coloured = page.evaluate(
            """() => {
              const canvas = document.querySelector("#map canvas");
              const pen = canvas.getContext("2d");
              const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
              let n = 0;
              for (let i = 3; i < data.length; i += 4) n += data[i] > 0;
              return n;
            }"""
        )
        assert coloured > 5000
        labels = page.locator(".chart, canvas").evaluate_all("all => all.map((e) => e.ariaLabel)")
        labels = [label for label in labels if label]
        assert len(labels) == 5
        assert all("being drawn" not in label for label in labels)


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_in_light_and_dark(browser, demo, tmp_path, size, scheme):
    with opened(browser, demo, size, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
        picture = page.screenshot(path=tmp_path / "page.png", full_page=True)
        assert len(picture) > 100_000


def test_the_theme_can_be_chosen(browser, demo):
    with opened(browser, demo, color_scheme="light") as page:
        page.click("#theme")
        page.click("#theme")
        assert page.inner_text("#theme") == "Theme: dark"
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == "rgb(20, 23, 26)"


def test_a_filter_is_typed(browser, demo):
    wanted = [r for r in rows_of(demo) if "query" in r["param_name"] and "bias" in r["param_name"]]
    with opened(browser, demo) as page:
        page.fill("#filter", "query BIAS")
        page.wait_for_selector(f"{STATUS} >> text={len(wanted)} of 104 rows")
        names = page.locator("#rows tbody tr[data-at] td:first-child").all_inner_texts()
        assert names == [row["param_name"] for row in wanted]
        page.click("#clear")
        page.wait_for_selector(f"{STATUS} >> text=104 of 104 rows")


def test_a_heat_map_cell_is_clicked_and_its_spectrum_shown(browser, demo):
    with opened(browser, demo) as page:
        page.locator("#heat").scroll_into_view_if_needed()
        roles = page.locator("#heat .ytick").all_text_contents()
        box = page.locator("#heat .nsewdrag").bounding_box()
        roles = [text.strip() for text in reversed(roles) if text.strip()]
        assert roles == ["attn.q", "attn.k", "attn.v", "attn.o", "mlp.up", "mlp.down"]
        row = roles.index("mlp.up")
        x = box["x"] + box["width"] * 2.5 / 6
        y = box["y"] + box["height"] * (row + 0.5) / len(roles)
        page.mouse.move(x, y)
        page.wait_for_selector("#heat .hoverlayer .hovertext >> text=mlp.up, layer 2")
        page.mouse.click(x, y)
        name = "encoder.layer.2.intermediate.dense.weight"
        page.wait_for_selector(f"#spectrum-chosen >> text={name}")
        assert page.locator("#spectrum-chosen li").count() == 1
        assert page.locator("#spectrum .scatterlayer .trace").count() == 2
        assert page.inner_text(STATUS).startswith("1 of 104 rows: mlp.up in layer 2")
        page.click("#spectrum-numbers >> xpath=.. >> summary")
        assert "i = 384" in page.inner_text("#spectrum-numbers")


def test_the_numbers_do_what_the_heat_map_does_without_a_mouse(browser, demo):
    with opened(browser, demo) as page:
        page.focus("#layer-numbers summary")
        page.keyboard.press("Enter")
        button = page.locator('#layer-numbers button[aria-label^="attn.k, layer 5:"]')
        button.focus()
        page.keyboard.press("Enter")
        page.wait_for_selector("#spectrum-chosen >> text=encoder.layer.5.attention.self.key.weight")


def test_measures_axes_and_roles_can_be_changed(browser, demo):
    with opened(browser, demo) as page:
        page.select_option("#measure", "frobenius_norm")
        page.check("#measure-log")
        page.wait_for_selector("#depth-caption >> text=frobenius_norm over the layers")
        page.wait_for_selector('#heat[aria-label^="Heat map of frobenius_norm"]')
        page.uncheck("#depth-roles label:has-text('mlp.up') input")
        page.locator("#depth .scatterlayer .trace").nth(4).wait_for(state="attached")
        page.locator("#depth .scatterlayer .trace").nth(5).wait_for(state="detached")
        page.select_option("#spectrum-scale", "relative")
        page.select_option("#spectrum-x", "log")
        page.uncheck("#spectrum-random")
        page.locator("#spectrum .scatterlayer .trace").nth(3).wait_for(state="detached")
        page.fill("#spectrum-search", "layer.3 value")
        page.keyboard.press("Enter")
        page.wait_for_selector("#spectrum-chosen >> text=encoder.layer.3.attention.self.value")
        assert page.locator("#spectrum-chosen li").count() == 4


def test_the_csv_is_the_table_byte_for_byte(browser, demo, tmp_path):
    with opened(browser, demo) as page:
        assert downloaded(page, tmp_path / "a.csv") == (demo / "params.csv").read_bytes()


def test_the_csv_of_a_filtered_and_sorted_table_has_these_rows(browser, demo, tmp_path):
    rows = [row for row in rows_of(demo) if row["block_type"] == "mlp"]
    rows.sort(key=lambda row: row["stable_rank"])
    write_csv(tmp_path / "wanted.csv", rows)
    with opened(browser, demo) as page:
        page.select_option("#filter-block", "mlp")
        page.locator("#rows th button", has_text="stable_rank").click()
        page.wait_for_selector(f"{STATUS} >> text=sorted by stable_rank")
        assert downloaded(page, tmp_path / "b.csv") == (tmp_path / "wanted.csv").read_bytes()


def test_numbers_of_every_size_are_written_as_python_does(browser, tmp_path):
    numbers = (1e-5, 1e16, 123456789012345680.0, 5e-324, 1.7976931348623157e308, 0.1, -0.0)
    numbers += (1e22, 1e-7, -2.5e-10, 9999999999999998.0, 1e15, 0.0001, 100.0, -3.0, 1 / 3)
    made = transformer(layers=3)
    for row, number in zip(made.rows, numbers, strict=False):
        row["mean"] = number
    folder = made.write(tmp_path / "run")
    report(folder, plots=())
    with opened(browser, folder) as page:
        assert downloaded(page, tmp_path / "a.csv") == (folder / "params.csv").read_bytes()


def test_a_finding_leads_to_its_rows(browser, demo):
    with opened(browser, demo) as page:
        page.click('a[href="#rows-compressible"]')
        page.wait_for_selector(f"{STATUS} >> text=32 of 104 rows")
        page.click("#finding-compressible h4 a")
        page.wait_for_selector("#row:not([hidden])")
        assert page.inner_text("#row-heading") == "embeddings.position_embeddings.weight"
        assert page.locator("#spectrum-chosen li").count() == 1


def test_the_table_is_walked_by_keyboard(browser, demo):
    with opened(browser, demo) as page:
        page.focus("#rows")
        for key in ("ArrowDown", "ArrowDown", "PageDown", "End", "ArrowUp"):
            page.keyboard.press(key)
        active = page.get_attribute("#rows", "aria-activedescendant")
        assert active == "at-102"
        assert page.locator(f"#{active}").is_visible()
        page.keyboard.press("Enter")
        assert page.inner_text("#row-heading") == rows_of(demo)[102]["param_name"]


def test_a_token_is_found_on_the_map(browser, demo):
    with opened(browser, demo) as page:
        page.fill("#token-search", "banana")
        assert "banana" in page.inner_text("#map-here")
        assert "cluster" in page.inner_text("#map-here")
        page.fill("#token-search", "nosuchtokenatall")
        assert page.inner_text("#map-here") == "No such token."


def test_it_prints_without_controls(browser, demo):
    with opened(browser, demo) as page:
        page.emulate_media(media="print")
        assert not page.locator(".controls").first.is_visible()
        assert page.locator("#finding-model").is_visible()
        assert page.pdf()[:5] == b"%PDF-"


def test_hostile_names_do_nothing_and_break_nothing(browser, hostile_run, tmp_path):
    with opened(browser, hostile_run) as page:
        assert page.evaluate("window.pwned") is None
        for row in range(len(rows_of(hostile_run))):
            page.evaluate("(row) => { location.hash = `#row-${row}`; }", row)
            page.wait_for_selector(f'#row[data-row="{row}"]')
        page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        page.fill("#filter", "<script>")
        page.wait_for_selector(f"{STATUS} >> text=/^[1-9]/")
        page.fill("#spectrum-search", "img src")
        page.keyboard.press("Enter")
        page.fill("#token-search", "<img")
        page.evaluate("location.hash = '#rows-<img src=x onerror=alert(1)>'")
        page.click("#clear")
        assert downloaded(page, tmp_path / "a.csv") == (hostile_run / "params.csv").read_bytes()
        assert page.evaluate("window.pwned") is None
        assert page.locator("main img, main iframe, main svg a").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth") == DESKTOP[0]


def test_the_policy_stops_a_script_that_got_in(browser, demo):
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto((demo / "report.html").resolve().as_uri())
    page.wait_for_selector(READY)
    page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.pwned = 1";
          document.body.append(script);
          document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.pwned=2'>");
        }"""
    )
    assert page.evaluate("window.pwned") is None
    context.close()


def test_a_model_of_400_matrices_opens(browser, tmp_path):
    folder = transformer(layers=66, side=256).write(tmp_path / "run")
    report(folder, plots=())
    assert len(rows_of(folder)) == 397
    with opened(browser, folder) as page:
        assert page.inner_text(STATUS).startswith("397 of 397 rows")


def test_of_45000_rows_those_in_view_are_in_the_page(browser, tmp_path):
    folder = transformer(layers=48, experts=468, side=24).write(tmp_path / "run")
    report(folder, plots=())
    rows = rows_of(folder)
    assert len(rows) > 45_000
    in_layer = sum(row["layer_index"] == 17 for row in rows)
    with opened(browser, folder) as page:
        drawn = page.locator("#rows tbody tr[data-at]")

        def few_are_drawn():
            assert 10 < drawn.count() < 100

        few_are_drawn()
        page.evaluate("document.getElementById('scroller').scrollTop = 600_000")
        while int(drawn.first.get_attribute("data-at")) < 1000:
            time.sleep(0.05)
        few_are_drawn()
        page.locator("#rows th button").nth(5).click()
        page.wait_for_selector("#rows th:nth-child(6)[aria-sort=ascending]")
        few_are_drawn()
        page.select_option("#filter-layer", "17")
        page.wait_for_selector(f"{STATUS} >> text={in_layer:,} of {len(rows):,} rows")
        few_are_drawn()
        page.click("#clear")
        page.fill("#filter", "layers.17. experts.300. up")
        page.wait_for_selector(f"{STATUS} >> text=1 of {len(rows):,} rows")


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser, demo, size, scheme):
    found = importlib.util.find_spec("axe_playwright_python")
    if found is None:
        pytest.skip("axe-core is not installed: pip install axe-playwright-python")
    axe = Path(found.origin).with_name("axe.min.js").read_text("utf-8")
    with opened(browser, demo, size, color_scheme=scheme) as page:
        page.click("#layer-numbers summary")
        page.focus("#rows")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.evaluate(axe)
        result = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        faults = [
            f"{v['impact']} {v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}"
            for v in result["violations"]
        ]
        assert faults == []


def test_a_run_without_spectra_or_layers_still_opens(browser, tmp_path):
    made = transformer(layers=1)
    for entry in made.entries:
        for name in list(entry.row):
            if name.startswith(("svd_", "actual", "rank_", "spectral", "stable", "effective")):
                entry.row[name] = None
        entry.row["layer_index"] = None
    folder = made.write(tmp_path / "run")
    write_parquet(folder / "params.parquet", made.rows)
    (folder / "spectra.parquet").unlink()
    report(folder, plots=())
    with opened(browser, folder) as page:
        assert "No matrix belongs to a numbered layer." in page.inner_text("#layers")
        assert "This run has none." in page.inner_text("#spectra-points")
