"""Accessibility of the dashboard: keyboard, screen reader, small screens, dark mode; names stay text."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.daemon.quarantine import Part
from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import MUG, PEN, TABLE, Daemon, daemon_in, until
from tests.system.browser import PAGES, PATIENCE_MS, PHONE, SMALL, WIDE, Window, chromium, free_port

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=PATIENCE_MS)

HOSTILE = "<img src=x onerror=alert(1)>"
LONG = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamter"

CONTRAST = """() => {
  // The least contrast of any text on the page with what is behind it, and the text.
  const channels = (color) => (color.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const [r, g, b, a = 1] = channels(getComputedStyle(node).backgroundColor);
      if (a > 0.5) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    const box = node.getBoundingClientRect();
    if (!walker.currentNode.data.trim() || box.width < 2 || node.closest("[hidden], :disabled, .idle")) continue;
    const [a, b] = [light(channels(getComputedStyle(node).color)), light(behind(node))];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim()]);
  }
  return found.sort((x, y) => x[0] - y[0])[0];
}"""

NAMELESS = """() => [...document.querySelectorAll("a, button, input, select, summary, [role=meter], canvas, img")]
  .filter((node) => node.checkVisibility() && !node.closest("[aria-hidden=true]"))
  .filter((node) => !(node.getAttribute("aria-label") || node.innerText?.trim() || node.labels?.length
    || node.textContent.trim() || node.getAttribute("alt") !== null))
  .map((node) => node.outerHTML)"""


PICTURES = "[...document.querySelectorAll('.live-picture')].map((node) => node.getBoundingClientRect().width)"

FOCUSED = """() => {
  const node = document.activeElement;
  if (node.matches("body, main")) return "";
  return [node.getAttribute("aria-label"), node.innerText, node.labels?.[0]?.innerText].join("|");
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def daemon(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon that knows things with unpleasant names, and sees one of them."""
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        port = free_port()
        with made.config.open("a") as config:
            config.write(f"[dashboard]\nenabled = true\nport = {port}\nmax_viewers = 8\n")
        made.start().up()
        until(lambda: made.service.integrations.report()["dashboard"].get("works"))
        made.address = f"http://127.0.0.1:{port}/"  # type: ignore[attr-defined]
        made.learn(LONG, PEN)
        made.learn(HOSTILE, MUG)
        part = Part("view-99", "view", "99", f'view 99 of "{HOSTILE}"', LONG)
        made.service.call(lambda: made.service.faults.quarantine.add(part))
        made.show(TABLE, None)
        made.show(MUG, HOSTILE)
        yield made


def uid_of(daemon: Daemon, name: str) -> str:
    (found,) = [one["uid"] for one in daemon.ask("objects")["objects"] if one["name"] == name]
    return str(found)


def every_page(daemon: Daemon) -> list[str]:
    return [*PAGES, f"objects/{uid_of(daemon, HOSTILE)}"]


def settle(window: Window) -> None:
    """Wait until what a page asks for is there."""
    window.page.wait_for_load_state("load")
    window.page.wait_for_timeout(500)


@pytest.mark.parametrize("size", [SMALL, PHONE, WIDE], ids=["small", "phone", "wide"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_fits_and_can_be_read(
    daemon: Daemon, browser: Any, size: tuple[int, int], scheme: str
) -> None:
    window = Window(browser, daemon.address, size, color_scheme=scheme)  # type: ignore[attr-defined]
    for name in every_page(daemon):
        window.go(name)
        settle(window)
        assert window.overflow() == 0, f"{name} is wider than the window"
        least, text = window.page.evaluate(CONTRAST)
        assert least >= 4.5, f"{name}: {text!r} has a contrast of {least:.2f}"
        assert window.page.evaluate(NAMELESS) == []
        for box in window.page.evaluate(PICTURES):
            assert box > 0.4 * size[0], f"{name}: the picture is only {box:.0f} pixels wide"
        assert window.page.locator("h1").count() == 1
        headings = window.page.evaluate(
            "[...document.querySelectorAll('h1, h2, h3')].map((h) => +h.tagName[1])"
        )
        assert all(after - before <= 1 for before, after in itertools.pairwise(headings))
    dark = window.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == {"light": "rgb(244, 243, 239)", "dark": "rgb(18, 20, 22)"}[scheme]
    window.close()
    assert window.complaints == []


def test_dialogs_fit_a_small_screen(daemon: Daemon, browser: Any) -> None:
    window = Window(browser, daemon.address, SMALL)  # type: ignore[attr-defined]
    window.go("objects")
    window.click("Import")
    assert window.overflow() == 0
    box = window.page.locator("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= SMALL[0]
    window.page.keyboard.press("Escape")
    expect(window.page.get_by_role("button", name="Import")).to_be_focused()
    window.close()


def test_the_theme_can_be_chosen_and_is_kept(daemon: Daemon, browser: Any) -> None:
    window = Window(browser, daemon.address, color_scheme="light")  # type: ignore[attr-defined]
    window.go("health")
    theme = "document.documentElement.dataset.theme"
    shown = []
    for _ in range(3):
        window.page.get_by_role("button", name="Theme").click()
        shown.append(window.page.evaluate(theme))
    assert shown == ["light", "dark", "light"]  # chosen, chosen, the system's
    window.click("Theme", exact=False)
    window.click("Theme", exact=False)
    window.page.reload()
    assert window.page.evaluate(theme) == "dark"
    window.page.emulate_media(color_scheme="dark")
    window.click("Theme", exact=False)
    assert window.page.evaluate(theme) == "dark"  # the system's again
    window.page.emulate_media(color_scheme="light")
    expect(window.page.locator("html")).to_have_attribute("data-theme", "light")
    window.close()
    assert window.complaints == []


def test_markup_in_a_name_stays_text_everywhere(daemon: Daemon, browser: Any) -> None:
    window = Window(browser, daemon.address)  # type: ignore[attr-defined]
    window.go("live")
    expect(window.page.locator(".decided")).to_have_text(HOSTILE)
    expect(window.page.locator(".chip")).to_have_text(HOSTILE)
    expect(window.page.locator(".brief li").first).to_contain_text(HOSTILE)
    window.page.locator("summary").click()
    expect(window.page.locator(".sentences").first).to_contain_text(f"This is {HOSTILE}")
    window.go("register")
    expect(window.page.get_by_label("Another view")).to_be_enabled()
    window.page.get_by_label("Another view").check()
    expect(window.page.get_by_label("Object", exact=True)).to_contain_text(HOSTILE)
    window.go("objects")
    expect(window.page.locator(".object-name", has_text="onerror")).to_have_text(HOSTILE)
    window.go("events")
    row = window.page.locator("li.event[data-kind=appeared]", has_text=HOSTILE).first
    row.locator("summary").click()
    expect(row.locator(".facts")).to_contain_text(HOSTILE)
    row.get_by_role("button", name="Wrong").click()
    expect(window.page.locator(".toast")).to_contain_text(HOSTILE)
    window.go(f"objects/{uid_of(daemon, HOSTILE)}")
    expect(window.page.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    assert HOSTILE in window.page.title()
    window.click("Merge …")
    expect(window.page.locator("dialog h2")).to_contain_text(HOSTILE)
    window.click("Cancel")
    window.click("Forget")
    expect(window.page.locator(".toast")).to_contain_text(HOSTILE)
    assert window.page.locator("img[src=x]").count() == 0
    window.close()
    assert window.complaints == []


def test_all_is_reached_by_keyboard(daemon: Daemon, browser: Any) -> None:
    window = Window(browser, daemon.address)  # type: ignore[attr-defined]
    window.go("live")
    settle(window)
    page, press = window.page, window.page.keyboard.press

    def tab_to(name: str, most: int = 40) -> None:
        for _ in range(most):
            press("Tab")
            focused = page.evaluate(FOCUSED)
            if name in focused:
                outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
                around = page.evaluate(
                    "document.activeElement.type === 'radio' ? "
                    "getComputedStyle(document.activeElement.nextElementSibling).outlineStyle : ''"
                )
                assert "solid" in (outline, around), f"{name} does not show that it has the focus"
                return
        pytest.fail(f"{name} is not reached by the tabulator")

    page.reload()
    settle(window)
    press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"

    tab_to("Why?")
    press("Enter")
    expect(page.locator(".why")).to_have_attribute("open", "")
    page.reload()
    settle(window)
    tab_to("Register")
    press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Register")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    # The hostile one is known already; something new comes before the camera, and its name is typed.
    daemon.stage.picture = TABLE[::-1].copy()
    daemon.stage.picture[20:70, 30:40] = 0
    tab_to("Name")
    page.keyboard.type("by keyboard")
    press("Enter")
    outcome = page.locator(".outcome")
    expect(outcome).to_contain_text("egistered")
    expect(page.get_by_label("Name")).to_be_focused()

    press("Shift+Tab")  # choices are one stop each, and changed by arrows
    press("ArrowRight")
    expect(page.get_by_label("Another view")).to_be_checked()

    page.goto(f"{window.address}#/objects/{uid_of(daemon, LONG)}")
    expect(page.get_by_role("heading", level=1)).to_have_text(LONG)
    tab_to("Merge")
    press("Enter")
    expect(page.get_by_label("Into", exact=True)).to_be_focused()
    for _ in range(8):  # the focus stays in the dialog, or in the browser's own bar
        press("Tab")
        assert page.evaluate(
            "document.activeElement === document.body || document.querySelector('dialog').contains(document.activeElement)"
        )
    press("Escape")
    expect(page.get_by_role("button", name="Merge …")).to_be_focused()
    tab_to("Forget")
    press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Objects")
    expect(page.get_by_role("heading", level=1)).to_be_focused()
    tab_to("Undo")
    press("Enter")
    expect(page.locator("a.object", has_text=LONG)).to_be_visible()
    window.close()


def test_axe_finds_nothing(daemon: Daemon, browser: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for scheme, size in (("light", WIDE), ("dark", SMALL)):
        # axe is put into the page as a script, which the page's own policy would refuse.
        window = Window(browser, daemon.address, size, color_scheme=scheme, bypass_csp=True)  # type: ignore[attr-defined]
        for name in every_page(daemon):
            window.go(name)
            settle(window)
            found = axe.run(window.page)
            assert found.response["violations"] == [], f"{name}, {scheme}: {found.generate_report()}"
        window.close()
