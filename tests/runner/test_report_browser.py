"""The report in headless Chromium: points as in the data, no error, no request, no overflow, both schemes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from configs.run_dir import RunDir
from runner.report import write_report
from tests.runner.report_sample import SEEDS, make_run

LIMIT_MS = 120_000
CHROMIUM = Path("/usr/bin/chromium")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium: install the Debian package `chromium`"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    run = make_run(tmp_path_factory.mktemp("runs"), dataset="DEMO-USD_1H", bars=600, synthetic=True)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def browser() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"], timeout=LIMIT_MS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_report(browser, run):
    """Open the report; what went wrong and what was asked of the network is on the page object."""
    contexts = []

    def open_page(scheme: str = "light", width: int = 1280, **options):
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, **options)
        contexts.append(context)
        context.set_default_timeout(LIMIT_MS)
        page = context.new_page()
        page.faults, page.requests = [], []
        page.on("console", lambda message: page.faults.append(message.text))
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("request", lambda request: page.requests.append(request.url))
        page.goto(run.report.as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached")
        return page

    yield open_page
    for context in contexts:
        context.close()


def test_nothing_is_logged_and_nothing_but_the_file_is_asked_for(open_report, run):
    page = open_report()
    page.mouse.wheel(0, 20_000)
    page.wait_for_timeout(300)
    assert page.faults == []
    assert {url for url in page.requests if not url.startswith(("data:", "blob:"))} == {run.report.as_uri()}


def drawn(page, figure: str) -> dict[str, dict]:
    """What Plotly itself holds of a figure, by trace name."""
    return page.evaluate(
        """(id) => Object.fromEntries(document.getElementById(id).data.map(
             (trace) => [trace.name, {x: Array.from(trace.x), y: Array.from(trace.y)}]))""",
        figure,
    )


def test_the_points_that_are_plotted_are_the_runs_own(open_report, run):
    page = open_report()
    table = pyarrow.parquet.read_table(run.unit_dir("evaluate") / "ppo" / "equity.parquet").to_pydict()
    equity, weights = drawn(page, "figure-equity"), drawn(page, "figure-positions")
    shown = {
        "equity_mean": equity["agents' mean"],
        "equity_buy_and_hold": equity["buy & hold"],
        "equity_moving_average": equity["moving average"],
        "equity_follow_classifier": equity["follow classifier"],
        "equity_flat": equity["flat"],
        "equity_seed_1": equity["seed 1"],
        "close": weights["close"],
    } | {f"weight_seed_{seed}": weights[f"seed {seed}"] for seed in range(SEEDS)}
    for column, trace in shown.items():
        assert trace["x"] == [1_000 * t for t in table["t"]], column
        np.testing.assert_allclose(trace["y"], table[column], rtol=1e-5, atol=1e-9, err_msg=column)


def test_every_figure_is_drawn_with_marks(open_report):
    page = open_report()
    empty = page.evaluate(
        """() => [...document.querySelectorAll(".plot")].filter(
             (plot) => !plot.querySelector(".scatterlayer .trace, .barlayer .trace, .heatmaplayer .hm")
           ).map((plot) => plot.id)"""
    )
    assert empty == []


def test_every_figure_of_synthetic_data_carries_the_label_so_that_a_cut_out_keeps_it(open_report):
    page = open_report()
    unlabelled = page.evaluate(
        """() => [...document.querySelectorAll(".plot")].filter((plot) =>
             ![...plot.querySelectorAll(".annotation-text")].some((text) => text.textContent === "SYNTHETIC")
           ).map((plot) => plot.id)"""
    )
    assert unlabelled == []


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_is_never_wider_than_the_screen(open_report, width):
    page = open_report("light", width, is_mobile=width < 600, has_touch=width < 600)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(
        """() => [...document.querySelectorAll(".plot .main-svg")].filter(
             (svg) => svg.getBoundingClientRect().right > innerWidth + 1).length"""
    )
    assert wide == 0


def colours(page) -> tuple[str, str]:
    """Background of the page, colour of the mean's line."""
    return tuple(
        page.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor, document.getElementById("figure-equity")
                      .data.find((trace) => trace.name === "agents' mean").line.color]"""
        )
    )


def test_page_and_figures_follow_the_scheme_and_the_button(open_report):
    light, page = colours(open_report("light")), open_report("dark")
    dark = colours(page)
    assert all(one != other for one, other in zip(light, dark, strict=True))
    page.click("#theme")
    page.wait_for_selector("html[data-drawn=light]", state="attached")
    assert colours(page) == light
    assert page.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(open_report, scheme):
    """WCAG 2 AA: 4.5 to 1 for every colour of text against what lies behind it."""
    page = open_report(scheme)
    poor = page.evaluate(
        """() => {
          const channel = (value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
          const luminance = (rgb) => 0.2126 * channel(rgb[0] / 255) + 0.7152 * channel(rgb[1] / 255)
            + 0.0722 * channel(rgb[2] / 255);
          const parse = (text) => text.match(/[\\d.]+/g).map(Number);
          const solid = (element) => {
            for (let node = element; node; node = node.parentElement) {
              const colour = parse(getComputedStyle(node).backgroundColor);
              if (colour.length === 3 || colour[3] === 1) return colour;
            }
            return parse(getComputedStyle(document.body).backgroundColor);
          };
          const found = {};
          for (const element of document.querySelectorAll("main *, header *, nav *, footer")) {
            if (element.closest(".plot, .matrices") || !element.innerText?.trim()) continue;
            const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(solid(element))];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) found[`${element.tagName}.${element.className}`] = ratio;
          }
          return found;
        }"""
    )
    assert poor == {}


def test_the_button_copies_the_command(open_report):
    page = open_report(permissions=["clipboard-read", "clipboard-write"])
    page.click("[data-copy]")
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.inner_text("#command")
