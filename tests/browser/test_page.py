"""The HTML report in a real browser: drawn, searched, collapsed, zoomed; light and dark; with names that mean harm."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chromium.remote_connection import ChromiumRemoteConnection
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from support.stories import HOSTILE, TRACED, hostile, many
from support.tiers import missing

import allgone
from allgone import Report, reports

_QUIET = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
          "--disable-background-networking", "--disable-component-update", "--disable-sync",
          "--window-size=1300,1000")  # fmt: skip
_PATIENCE = 60  # seconds


@pytest.fixture
def browser(tmp_path: Path, port: int) -> Iterator[webdriver.Remote]:
    chromium = shutil.which("chromium") or missing("chromium is not installed")
    driver = shutil.which("chromedriver") or missing("chromedriver (chromium-driver) is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for each in (*_QUIET, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(each)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    ready = allgone.listening(port, host="127.0.0.1")  # it listens at ::1 first
    with allgone.process_fixture([driver, f"--port={port}"], ready=ready, output=tmp_path / "driver.log", sweep=True):
        connection = ChromiumRemoteConnection(f"http://127.0.0.1:{port}", vendor_prefix="goog", browser_name="chrome")
        found = webdriver.Remote(connection, options=options)
        yield found
        found.quit()


class Page:
    def __init__(self, browser: webdriver.Remote, report: Report, folder: Path, *, dark: bool = False) -> None:
        self.browser = browser
        value = "dark" if dark else "light"
        emulated = {"features": [{"name": "prefers-color-scheme", "value": value}]}
        browser.execute("executeCdpCommand", {"cmd": "Emulation.setEmulatedMedia", "params": emulated})
        path = folder / "report.html"
        reports.write(report, path)
        self.complaints()  # of the page before
        browser.get(path.as_uri())
        WebDriverWait(browser, _PATIENCE).until(lambda _: self.bars())

    def bars(self) -> int:
        return len(self.browser.find_elements(By.CSS_SELECTOR, "#timeline .barlayer path"))

    def lines(self) -> list[str]:
        """What the tree shows, a line for each process."""
        return self.run("return lines.filter(line => !line.hidden).map(line => line.cells[0].textContent)")

    def run(self, script: str) -> object:
        return self.browser.execute_script(script)

    def search(self, text: str) -> None:
        field = self.browser.find_element(By.ID, "search")
        field.clear()
        field.send_keys(text)

    def press(self, id: str) -> None:
        self.browser.find_element(By.ID, id).click()

    def count(self) -> str:
        return self.browser.find_element(By.ID, "count").text

    def complaints(self) -> list[str]:
        return [each["message"] for each in self.browser.execute("getLog", {"type": "browser"})["value"]]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_is_drawn_in_both_schemes(browser: webdriver.Remote, tmp_path: Path, dark: bool) -> None:
    page = Page(browser, TRACED, tmp_path, dark=dark)
    assert page.bars() == 6
    assert len(page.lines()) == 6
    colours = page.run("const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]")
    text, back = (sum(map(int, each.strip("rgb()").split(","))) for each in colours)
    assert (text > 600 and back < 150) if dark else (text < 150 and back > 600)
    tick = page.run("return getComputedStyle(document.querySelector('#timeline .ytick text')).fill")
    assert (sum(map(int, tick.strip("rgb()").split(","))) > 600) is dark
    assert page.complaints() == []


def test_signals_are_lines_and_labels(browser: webdriver.Remote, tmp_path: Path) -> None:
    page = Page(browser, TRACED, tmp_path)
    assert page.run("return document.querySelectorAll('#timeline .shapelayer path').length") == 2  # and the stop
    assert page.run("return document.querySelector('#timeline .annotation').textContent") == "SIGTERM"


def test_cpu_and_memory_are_drawn_where_sampled(browser: webdriver.Remote, tmp_path: Path) -> None:
    page = Page(browser, TRACED, tmp_path)
    assert page.run("return document.querySelectorAll('#timeline .scatterlayer .js-line').length") == 2
    assert page.run("return chart.data.find(trace => trace.name === 'CPU').y.map(Math.round)") == [10, 30, 50, 70, 90]
    page = Page(browser, many(10), tmp_path)
    assert page.run("return document.querySelectorAll('#timeline .scatterlayer .js-line').length") == 0
    assert page.complaints() == []


def test_search_leaves_what_is_found_and_what_is_above_it(browser: webdriver.Remote, tmp_path: Path) -> None:
    page = Page(browser, TRACED, tmp_path)
    page.search("a.c")
    assert page.count() == "1 of 6 found"
    assert [line.strip("▾") for line in page.lines()] == ["make -j4", "sh -c cc", "/usr/bin/cc -c a.c"]
    assert page.bars() == 3
    page.search("104")
    assert page.count() == "1 of 6 found"
    page.search("nobody is called so")
    assert page.lines() == []


def test_subtrees_collapse_and_expand(browser: webdriver.Remote, tmp_path: Path) -> None:
    page = Page(browser, TRACED, tmp_path)
    page.press("collapse")
    assert page.lines() == ["▸make -j4"]
    assert page.bars() == 1
    page.browser.find_element(By.CSS_SELECTOR, "#tree tr:not([hidden]) button").click()
    assert len(page.lines()) == 5  # the child that has children is collapsed still
    page.press("expand")
    assert len(page.lines()) == 6


def test_5000_processes_can_be_read(browser: webdriver.Remote, tmp_path: Path) -> None:
    page = Page(browser, many(5000), tmp_path)
    assert page.bars() == 5000
    assert 10 <= page.run("return document.querySelectorAll('#timeline .ytick').length") <= 60
    page.search("file4321.c")
    assert page.count() == "1 of 5000 found"
    assert page.bars() == len(page.lines()) == 3
    page.search("")
    page.press("collapse")
    assert page.bars() == 1
    page.press("expand")
    zoom = "return Plotly.relayout(chart, {'yaxis.range': [120.4, 99.6]}).then(() => 1)"
    page.run(zoom)
    WebDriverWait(browser, _PATIENCE).until(
        lambda _: page.run("return document.querySelectorAll('#timeline .ytick').length") == 21
    )
    assert page.complaints() == []


def test_the_network_is_left_alone(browser: webdriver.Remote, tmp_path: Path) -> None:
    page = Page(browser, TRACED, tmp_path)
    asked = page.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [each for each in asked if not each.startswith(("data:", "blob:"))] == []
    assert os.path.getsize(tmp_path / "report.html") < 6 << 20


def test_names_that_mean_harm_are_text(browser: webdriver.Remote, tmp_path: Path) -> None:
    for names in (HOSTILE, *([each] for each in HOSTILE)):
        page = Page(browser, hostile(*names), tmp_path)
        assert len(page.lines()) == len(names) + 1
        page.run("Plotly.Fx.hover(chart, [{curveNumber: 0, pointNumber: 0}])")
        assert page.run("return window.harmed") is None
        made = "img, #timeline a, #tree a, #tree script, dl *:not(dt):not(dd)"
        assert page.run(f"return document.querySelectorAll('{made}').length") == 0
        assert page.complaints() == []
