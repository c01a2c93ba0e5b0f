"""The report in Chromium: it fits a phone, its map answers to mouse and keys, and nothing is fetched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from export import records
from export.reporting.report import write_report
from tests.export.reporting.test_report import analysis, data_card_of, evaluation
from tests.system.browser import PHONE, SMALL, WIDE, chromium


@pytest.fixture(scope="module")
def report(asked_for: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a report with a data card, twelve classes and a map."""
    directory = tmp_path_factory.mktemp("report")
    records.write(directory / "data_card.json", data_card_of("The figures are too good: 1 of 6."))
    records.write(directory / "classes.json", analysis(12))
    records.write(directory / "evaluation.json", [evaluation("int8", "onnxruntime", 383)])
    return write_report(directory).as_uri()


@pytest.fixture(scope="module")
def browser(asked_for: None) -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("size", [WIDE, PHONE, SMALL])
def test_the_page_is_as_wide_as_its_window_and_fetches_nothing(
    report: str, browser: Any, size: tuple[int, int]
) -> None:
    page = browser.new_page(viewport={"width": size[0], "height": size[1]})
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    assert [url for url in asked if not url.startswith("data:")] == [report]
    page.close()


def test_the_map_shows_pictures_by_mouse_and_by_keys(report: str, browser: Any) -> None:
    page = browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]})
    page.goto(report)
    assert page.locator(".peek:visible").count() == 0
    page.locator(".dot").nth(5).hover()
    assert page.locator(".peek:visible").all_inner_texts() == ["<thing 2>"]
    page.mouse.move(0, 0)
    page.locator(".dot input").first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.ariaLabel") == "<thing 0>, picture 2"
    assert page.locator(".peek:visible").all_inner_texts() == ["<thing 0>"]
    page.keyboard.press("Tab")  # the dots are one stop
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.id") == "mc0"
    opacities = "Array.from(document.querySelectorAll('.dot'), dot => getComputedStyle(dot).opacity)"
    assert page.evaluate(opacities) == ["1"] * 2 + ["0.13"] * 22
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(report: str, browser: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = browser.new_page(viewport={"width": WIDE[0], "height": WIDE[1]}, color_scheme=scheme)
    page.goto(report)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    found = axe.run(page)
    assert found.response["violations"] == [], found.generate_report()
    page.close()
