"""How soon a report opens in headless Chromium: 400 matrices, and 45,000.

    python benchmarks/report_page.py

Prints the milliseconds from the navigation until the table is there, and until all charts are drawn
("ready"); the median of five openings.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from made_up_run import transformer
from paramscope.report_run import report

MODELS = {
    "400 matrices": {"layers": 66, "side": 256},
    "45,000 matrices": {"layers": 48, "experts": 468, "side": 24},
}
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
MARKS = (
    "() => Object.fromEntries(performance.getEntriesByType('mark')"
    ".map(mark => [mark.name, mark.startTime]))"
)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS
        )
        for label, shape in MODELS.items():
            folder = transformer(**shape).write(Path(name) / label.replace(" ", "_"))
            page_path = report(folder, plots=())
            openings = [opening(browser, page_path) for _ in range(5)]
            medians = {mark: statistics.median(o[mark] for o in openings) for mark in openings[0]}
            times = ", ".join(f"{mark} {ms:,.0f} ms" for mark, ms in medians.items())
            print(f"{label}: {page_path.stat().st_size / 1e6:.1f} MB; {times}")
        browser.close()


def opening(browser, path: Path) -> dict[str, float]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(path.as_uri(), wait_until="commit")
    page.wait_for_selector('html[data-ready="true"]', timeout=60_000)
    marks = page.evaluate(MARKS)
    page.close()
    return marks


if __name__ == "__main__":
    main()
