"""Looks at the dashboard of the demo's scene, and takes the pictures of README and docs when it is asked to.

EDGE_SIAMESE_SYSTEM_TESTS=1 EDGE_SIAMESE_SCREENSHOTS=1 python -m pytest tests/system/test_dashboard_pictures.py
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.edge_siamese.daemon.running import until
from tests.system.browser import PATIENCE_MS, Window, chromium, drag, free_port

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=PATIENCE_MS)

ROOT = Path(__file__).parent.parent.parent
IMAGES = ROOT / "docs" / "images"
ASKED = "EDGE_SIAMESE_SCREENSHOTS"
MAX_BYTES, QUALITY = 80_000, 85
LAPTOP, PHONE = (1200, 750), (390, 780)
TOUCH = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}
NAMES = {"object 1": "teddy bear", "object 2": "coffee cup", "object 3": "headphones"}
"""What the scene's button has registered, and what it is."""

SHOWS_SOMETHING = """canvas => {
  if (canvas.width <= 300) return false;
  // Chromium warns of repeated readings of a canvas, unless it was made for them.
  const copy = Object.assign(document.createElement("canvas"), {width: canvas.width, height: canvas.height});
  const context = copy.getContext("2d", {willReadFrequently: true});
  context.drawImage(canvas, 0, 0);
  return context.getImageData(0, 0, copy.width, copy.height).data.some((value) => value < 40);
}"""
"""Whether the picture of the camera has dark parts, which the empty table has not."""

CONFIG = """
[model]
bundle = "{root}/edge_siamese/models/objects"
[camera]
kind = "synthetic"
path = "{root}/examples/turning"
frame_rate = 10.0
[panel]
kind = "simulated"
[mqtt]
device_name = "kitchen shelf"
[dashboard]
enabled = true
port = {port}
max_viewers = 8
[paths]
state = "{home}/state"
runtime = "{home}/run"
"""


class Scene:
    """A daemon that looks at the synthetic scene, in a process of its own."""

    def __init__(self, home: Path) -> None:
        self.address = f"http://127.0.0.1:{(port := free_port())}/"
        config = home / "config.toml"
        config.write_text(CONFIG.format(root=ROOT, home=home, port=port))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_siamese", "run", "--config", str(config)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.address}api/v1{path}", timeout=5) as answer:
            return json.load(answer)

    def send(self, method: str, path: str, body: dict[str, Any]) -> None:
        token = self.get("/session")["csrf"]
        headers = {"X-CSRF-Token": token, "Content-Type": "application/json", "Origin": self.address[:-1]}
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}api/v1{path}", data, headers, method=method)
        urllib.request.urlopen(request, timeout=5).close()

    def names(self) -> dict[str, str]:
        try:
            return {known["name"]: known["uid"] for known in self.get("/objects")["objects"]}
        except OSError:
            return {}

    def named(self) -> None:
        """Give what the button has registered its names."""
        for former, name in NAMES.items():
            until(lambda former=former: former in self.names(), 60)  # type: ignore[misc]
            self.send("PATCH", f"/objects/{self.names()[former]}", {"new": name})

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    made = Scene(tmp_path_factory.mktemp("scene"))
    try:
        yield made
    finally:
        made.close()


def screenshot(window: Window) -> Image.Image:
    window.page.wait_for_timeout(300)
    return Image.open(BytesIO(window.page.screenshot())).convert("RGB")


def screenshot_of(window: Window, thing: str) -> Image.Image:
    """A picture of a page that shows a decision on one of the things, all the while that it is taken."""
    decided = window.page.locator(".decided")
    for _ in range(10):
        expect(decided).to_have_text(thing, timeout=60_000)
        taken = screenshot(window)
        if decided.inner_text() == thing:
            return taken
    raise AssertionError(f"{thing} left before a picture was taken")


def keep(taken: Image.Image, name: str) -> None:
    """Write a picture where the documents have it, if that was asked for."""
    small = BytesIO()
    taken.save(small, "WEBP", quality=QUALITY, method=6)
    assert len(small.getvalue()) < MAX_BYTES, f"{name} has {len(small.getvalue())} bytes"
    if os.environ.get(ASKED) == "1":
        IMAGES.mkdir(exist_ok=True)
        (IMAGES / f"dashboard-{name}.webp").write_bytes(small.getvalue())


def test_the_demos_scene_as_a_person_sees_it(scene: Scene, browser: Any) -> None:
    until(lambda: scene.names(), 60)
    phone = Window(browser, scene.address, PHONE, color_scheme="dark", **TOUCH)
    laptop = Window(browser, scene.address, LAPTOP, color_scheme="light", device_scale_factor=1.5)

    # What the button at the device starts is followed on the page, too.
    phone.go("register")
    until(lambda: "object 2" in scene.names(), 60)
    expect(phone.page.locator(".outcome")).to_contain_text("is registered")
    expect(phone.page.locator(".frame-strip li")).to_have_count(5)
    phone.page.evaluate("window.scrollTo(0, document.querySelector('.register-form').offsetTop - 12)")
    keep(screenshot(phone), "register")

    scene.named()
    laptop.go("live")
    expect(laptop.page.locator(".chip")).to_have_text("coffee cup", timeout=60_000)
    laptop.page.locator("summary").click()
    expect(laptop.page.locator(".sentences p").first).to_contain_text("This is coffee cup")
    laptop.page.mouse.move(5, 5)
    keep(screenshot_of(laptop, "coffee cup"), "live")

    phone.go("live")
    expect(phone.page.locator(".chip")).to_have_text("headphones", timeout=60_000)
    keep(screenshot_of(phone, "headphones"), "live-phone")

    laptop.go("events")
    row = laptop.page.locator("li.event[data-kind=appeared]").first
    row.locator("summary").click()
    expect(row.locator(".facts")).to_be_visible()
    until(
        lambda: laptop.page.evaluate(
            "[...document.querySelectorAll('.event img')].slice(0, 3).every((i) => i.complete)"
        )
    )
    laptop.page.mouse.move(5, 5)
    keep(screenshot(laptop), "events")

    phone.go("objects")
    expect(phone.page.locator("a.object")).to_have_count(3)
    keep(screenshot(phone), "objects")
    laptop.go("health")
    expect(laptop.page.locator(".stages tbody tr")).to_have_count(5)
    keep(screenshot(laptop), "health")

    laptop.go("regions")
    expect(laptop.page.get_by_text("The whole picture is watched.")).to_be_visible()
    for name, corners in {"shelf": ((0.06, 0.1), (0.47, 0.9)), "door": ((0.55, 0.2), (0.95, 0.9))}.items():
        drag(laptop.page, *corners)
        laptop.page.get_by_label("Name").last.fill(name)
    laptop.page.mouse.move(5, 5)
    until(lambda: laptop.page.locator("canvas").evaluate(SHOWS_SOMETHING), 60)
    keep(screenshot(laptop), "regions")
    for window in (phone, laptop):
        window.close()
        assert window.complaints == []
