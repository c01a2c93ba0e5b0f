"""Drives the dashboard in Debian's Chromium, and watches what a page must never do."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
PATIENCE_MS = 20_000
PAGES = ("live", "register", "objects", "events", "health", "regions")
WIDE, PHONE, SMALL = (1280, 800), (390, 844), (360, 640)
"""Windows: of a laptop, of a phone, and the smallest that has to do."""


def chromium_path() -> str:
    """The system's Chromium; skips the test where there is none."""
    found = shutil.which("chromium")
    if found is None:
        pytest.skip("needs chromium: scripts/system_packages.sh installs it")
    return found


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, for any number of windows."""
    api = pytest.importorskip("playwright.sync_api")
    path = chromium_path()
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def free_port() -> int:
    """A port that nothing listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def drag(page: Any, *points: tuple[float, float]) -> None:
    """Drag the mouse over the picture of the page on regions, from point to point, in fractions of it."""
    picture = page.locator(".region-layer").bounding_box()
    for number, (x, y) in enumerate(points):
        page.mouse.move(picture["x"] + x * picture["width"], picture["y"] + y * picture["height"])
        if number == 0:
            page.mouse.down()
    page.mouse.up()


OLDER_BROWSER = """
for (const [owner, names] of [
  [AbortSignal, ["any"]],
  [Promise, ["withResolvers", "try"]],
  [Object, ["groupBy"]],
  [Map, ["groupBy"]],
  [URL, ["canParse", "parse"]],
  [Array, ["fromAsync"]],
  [Set.prototype, ["union", "intersection", "difference", "isSubsetOf"]],
]) for (const name of names) delete owner[name];
"""
"""Takes away what the oldest browsers that the guide names do not have."""


class Window:
    """One window on the dashboard; `complaints` are what it must not have done."""

    def __init__(self, browser: Any, address: str, size: tuple[int, int] = WIDE, **more: Any) -> None:
        """Open it, with nothing in it.

        Args:
            browser: of `chromium`.
            address: of the dashboard, with a slash at its end.
            size: of the window.
            more: for Playwright's `new_context`, such as `color_scheme`.
        """
        self.address = address
        self.complaints: list[str] = []
        self.requests: list[str] = []
        """Paths, in order."""
        self.refusals: set[int] = set()
        """HTTP statuses that the test provokes; Chromium reports each as an error."""
        self._context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce", **more
        )
        self._context.add_init_script(OLDER_BROWSER)
        self.page = self._context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", self._asked)
        self.page.on("dialog", self._alerted)

    def close(self) -> None:
        """Close it."""
        with suppress(Exception):  # a browser that has gone is closed already
            self._context.close()

    def go(self, name: str) -> None:
        """Show a page by its address, and wait for its heading."""
        self.page.goto(f"{self.address}#/{name}")
        self.page.wait_for_selector("main h1")

    def click(self, name: str, *, inside: str = "body", exact: bool = True) -> None:
        """Click a button, as people call it."""
        self.page.locator(inside).get_by_role("button", name=name, exact=exact).click()

    def text(self, selector: str) -> str:
        """What is written there."""
        return str(self.page.locator(selector).first.inner_text())

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        found: int = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return found

    def undo(self) -> None:
        """Undo the change that the message at the bottom of the page reports."""
        self.click("Undo", inside=".toast")

    def _said(self, message: Any) -> None:
        if message.type not in ("error", "warning"):
            return
        provoked = any(f"status of {status}" in message.text for status in self.refusals)
        if not provoked:
            self.complaints.append(f"{message.type}: {message.text} {message.location}")

    def _asked(self, request: Any) -> None:
        url = urlsplit(request.url)
        self.requests.append(url.path)
        if url.scheme not in ("blob", "data") and url.netloc != urlsplit(self.address).netloc:
            self.complaints.append(f"a request to {url.netloc}")

    def _alerted(self, dialog: Any) -> None:
        self.complaints.append(f"a script ran: {dialog.message}")
        dialog.dismiss()
