"""The dashboard as a person uses it: a whole daemon, and Chromium."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_siamese.cameras.camera import Frame
from edge_siamese.daemon.quarantine import Part, model_part, store_part
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.errors import CameraError
from edge_siamese.events import Event
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.imaging import Bytes
from tests.edge_siamese.daemon import running
from tests.edge_siamese.daemon.running import CUP, KEY, MUG, PEN, TABLE, Daemon, daemon_in, until
from tests.system.browser import PAGES, PATIENCE_MS, Window, chromium, drag, free_port

expect = pytest.importorskip("playwright.sync_api").expect
expect.set_options(timeout=PATIENCE_MS)

PASSWORD = "correct horse battery"
GRAY = np.full((96, 96), 128, np.uint8)
"""Nothing to see."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def daemon(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """A daemon with a dashboard and nothing registered, not started."""
    capture = running._StageCamera.capture

    def slowly(camera: Any) -> Frame:
        time.sleep(0.03)  # as fast as cameras are
        return capture(camera)

    monkeypatch.setattr(running._StageCamera, "capture", slowly)
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        made.port = free_port()  # type: ignore[attr-defined]
        with made.config.open("a") as config:
            config.write(f"[dashboard]\nenabled = true\nport = {made.port}\n")  # type: ignore[attr-defined]
        yield made


@pytest.fixture
def window(daemon: Daemon, browser: Any) -> Iterator[Window]:
    """A window on the running daemon; at the end there must be nothing that a page must not do."""
    daemon.start().up()
    made = open_window(daemon, browser)
    yield made
    made.close()
    assert made.complaints == []


def open_window(daemon: Daemon, browser: Any, **more: Any) -> Window:
    until(lambda: daemon.service.integrations.report()["dashboard"].get("works"))
    return Window(browser, f"http://127.0.0.1:{daemon.port}/", **more)  # type: ignore[attr-defined]


def names(daemon: Daemon) -> list[str]:
    return [known["name"] for known in daemon.ask("objects")["objects"]]


def known(daemon: Daemon, name: str) -> dict[str, Any]:
    (found,) = [one for one in daemon.ask("objects")["objects"] if one["name"] == name]
    return found


def png(pixels: Bytes, scale: int = 1) -> bytes:
    file = BytesIO()
    image = Image.fromarray(pixels)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


def choose(window: Window, **pictures: bytes) -> None:
    """Put picture files into the field."""
    files = [
        {"name": f"{name}.png", "mimeType": "image/png", "buffer": data} for name, data in pictures.items()
    ]
    window.page.set_input_files("#pictures", files)


def fill_name(window: Window, name: str) -> None:
    window.page.get_by_label("Name").fill(name)


# --- register and recognize ---


def test_an_object_is_registered_recognized_renamed_forgotten_and_brought_back(
    daemon: Daemon, window: Window
) -> None:
    window.go("register")
    daemon.stage.picture = MUG
    fill_name(window, "mug")
    window.click("Register")
    expect(window.page.locator(".outcome")).to_contain_text('"mug" is registered')
    tiles = window.page.locator(".frame-strip li")
    expect(tiles).to_have_count(2)
    assert tiles.all_inner_texts() == ["good", "good"]
    tiles.last.scroll_into_view_if_needed()
    every = "[...document.querySelectorAll('.frame-strip img')].every((image) => image.naturalWidth)"
    until(lambda: window.page.evaluate(every))

    window.page.get_by_role("link", name="Live").click()
    expect(window.page.locator(".decided")).to_have_text("mug")
    meter = window.page.get_by_role("meter", name="Probability")
    expect(meter).to_have_attribute("aria-valuetext", re.compile(r"^0\.97, threshold 0\.60$"))
    expect(meter).to_have_attribute("aria-valuenow", "97")
    window.page.locator("summary", has_text="Why?").click()
    expect(window.page.locator(".why .sentences")).to_contain_text("This is mug: p = 0.97 reaches")

    window.page.get_by_role("link", name="mug").click()
    expect(window.page.get_by_role("heading", level=1)).to_have_text("mug")
    fill_name(window, "red mug")
    window.click("Rename")
    expect(window.page.get_by_role("heading", level=1)).to_have_text("red mug")
    assert names(daemon) == ["red mug"]

    window.click("Forget")
    expect(window.page.locator(".toast")).to_contain_text("“red mug” was forgotten.")
    expect(window.page.get_by_text("No objects are registered yet.")).to_be_visible()
    assert names(daemon) == []
    window.undo()
    expect(window.page.get_by_role("link", name="red mug")).to_be_visible()
    assert names(daemon) == ["red mug"]


def test_without_a_name_it_is_the_button_at_the_device(daemon: Daemon, window: Window) -> None:
    window.go("register")
    daemon.stage.picture = MUG
    window.click("Register")
    expect(window.page.locator(".outcome")).to_contain_text('"object 1" is registered')
    window.click("Register")
    expect(window.page.locator(".outcome")).to_contain_text('"object 1" has 2 views now')
    window.click("Undo", inside=".outcome")
    expect(window.page.locator(".outcome")).to_contain_text("view")
    until(lambda: known(daemon, "object 1")["views"] == 1)
    assert daemon.events("registered", "view added", "undone")[0] == '"object 1" is registered'


def test_a_press_while_it_looks_already_is_said_to_do_nothing(daemon: Daemon, window: Window) -> None:
    window.go("register")
    expect(window.page.locator("#link-state")).to_have_text("Connected")
    # Pressed elsewhere, where the answer is on its way: this page sees nothing begin.
    window.page.route("**/button", lambda route: route.fulfill(status=202, json={"text": "done"}))
    window.click("Register")
    expect(window.page.locator(".register-form .error")).to_contain_text("The registration did not start")
    expect(window.page.get_by_role("button", name="Register", exact=True)).to_be_enabled()


def test_each_frame_that_is_refused_says_why_and_the_outcome_what_to_do(
    daemon: Daemon, window: Window
) -> None:
    window.refusals = {409}
    window.go("register")
    daemon.stage.picture = GRAY
    fill_name(window, "mug")
    window.click("Register")
    outcome = window.page.locator(".outcome")
    expect(outcome).to_contain_text("Not registered")
    expect(outcome).to_contain_text("Hold something in front of the camera.")
    tile = window.page.locator(".frame-strip li").first
    what, advice = tile.inner_text().split("\n")
    assert re.fullmatch(r"nothing to see × \d+", what) and advice == "hold something in front of the camera"
    assert names(daemon) == []
    daemon.stage.picture = MUG
    window.click("Try again")
    expect(outcome).to_contain_text('"mug" is registered')


def test_what_looks_like_another_object_can_become_its_view_or_be_registered_all_the_same(
    daemon: Daemon, window: Window
) -> None:
    window.refusals = {409}
    daemon.learn("mug", MUG)
    window.go("register")
    fill_name(window, "cup")
    window.click("Register")
    outcome = window.page.locator(".outcome")
    expect(outcome).to_contain_text('looks like "mug", which is registered')
    window.click("Add a view to mug")
    expect(outcome).to_contain_text('"mug" has 2 views now')
    window.page.get_by_label("A new object").check()
    fill_name(window, "cup")
    window.click("Register")
    window.click("Register anyway")
    expect(outcome).to_contain_text('"cup" is registered')
    assert names(daemon) == ["mug", "cup"]


def test_a_name_that_is_taken_is_refused_in_one_line(daemon: Daemon, window: Window) -> None:
    window.refusals = {409}
    daemon.learn("mug", MUG)
    window.go("register")
    fill_name(window, "mug")
    window.click("Register")
    error = window.page.locator(".register-form .error")
    expect(error).to_contain_text("mug")
    assert "\n" not in error.inner_text()
    assert window.page.get_by_label("Name").input_value() == "mug"


def test_a_choice_made_before_the_objects_are_known_stays(daemon: Daemon, window: Window) -> None:
    daemon.learn("mug", MUG)
    (uid,) = [one["uid"] for one in daemon.ask("objects")["objects"]]
    window.page.route("**/api/v1/objects", lambda route: None)  # held
    window.go("live")
    for page in PAGES:
        window.go(page)
        for choice in window.page.locator("main input[type=radio]:enabled").all():
            choice.check()
            window.page.wait_for_timeout(50)
            expect(choice).to_be_checked()
    window.go("register")
    expect(window.page.get_by_label("Another view")).to_be_disabled()
    window.go(f"register?view={uid}")
    expect(window.page.get_by_label("Another view")).to_be_checked()
    expect(window.page.get_by_role("button", name="Register")).to_be_disabled()
    window.page.unroute("**/api/v1/objects")  # lets the held requests go on
    expect(window.page.get_by_label("Another view")).to_be_checked()
    expect(window.page.get_by_role("button", name="Add a view")).to_be_enabled()
    window.page.get_by_label("A new object").check()
    window.page.get_by_label("Another view").check()
    expect(window.page.get_by_label("Object", exact=True)).to_have_value(uid)


# --- the live page ---


@pytest.mark.parametrize(("height", "width"), [(96, 128), (128, 96), (400, 96), (96, 96)])
def test_the_corners_mark_what_the_encoder_reads(
    daemon: Daemon, window: Window, height: int, width: int
) -> None:
    daemon.stage.picture = np.full((height, width), 255, np.uint8)
    window.go("live")
    side = min(height, width)
    size = "(canvas) => [canvas.width, canvas.height]"
    until(lambda: window.page.locator("canvas").evaluate(size) == [width, height])
    picture = window.page.locator("canvas").bounding_box()
    marks = window.page.locator(".marks").bounding_box()
    scale = picture["width"] / width
    assert picture["height"] == pytest.approx(height * scale, abs=2)
    assert (marks["width"], marks["height"]) == pytest.approx((side * scale, side * scale), abs=2)
    for start, length in (("x", "width"), ("y", "height")):
        middle = picture[start] + picture[length] / 2
        assert marks[start] + marks[length] / 2 == pytest.approx(middle, abs=1)
    assert picture["height"] <= window.page.viewport_size["height"]


def test_the_corners_follow_what_is_new(
    daemon: Daemon, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_siamese.recognition.focus.LEARN_SECONDS", 0.1)
    settings = daemon.config.read_text()
    daemon.config.write_text(settings.replace("[camera]\n", '[camera]\nfocus = "foreground"\n'))
    page = np.full((480, 640, 3), 200, np.uint8)
    page[::16] = 150
    daemon.stage.picture = page
    daemon.start()
    until(lambda: daemon.service.engine and daemon.service.engine.frames > 50)
    window = open_window(daemon, browser)
    window.go("live")
    marks = window.page.locator(".marks")
    expect(marks).to_be_hidden()
    daemon.stage.picture = page.copy()
    daemon.stage.picture[80:240, 400:560] = 20
    expect(marks).to_be_visible()
    picture, part = window.page.locator("canvas").bounding_box(), marks.bounding_box()
    scale = picture["width"] / 640
    assert part["x"] + part["width"] / 2 - picture["x"] == pytest.approx(480 * scale, abs=16 * scale)
    assert part["y"] + part["height"] / 2 - picture["y"] == pytest.approx(160 * scale, abs=16 * scale)
    assert part["width"] == pytest.approx(part["height"], abs=2)
    window.close()
    assert window.complaints == []


# --- regions ---


def box_of(daemon: Daemon, name: str) -> list[float]:
    (found,) = [one for one in daemon.ask("regions")["regions"] if one["name"] == name]
    box: list[float] = found["box"]
    return box


def test_regions_are_drawn_by_keyboard_and_mouse_and_events_name_them(daemon: Daemon, window: Window) -> None:
    page = window.page
    daemon.stage.picture = np.hstack([MUG, TABLE])
    window.go("live")
    page.get_by_role("link", name="Regions").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Regions")
    expect(page.get_by_text("The whole picture is watched.")).to_be_visible()
    until(lambda: page.locator("canvas").evaluate("(canvas) => canvas.width") == 192)
    expect(page.get_by_role("button", name="Save")).to_be_disabled()

    # By keyboard: a new region has the focus. It stops at the edges of the picture.
    page.get_by_role("button", name="Add a region").focus()
    page.keyboard.press("Enter")
    box = page.get_by_role("button", name="region 1: left 30 %, top 30 %, width 40 %, height 40 %")
    expect(box).to_be_focused()
    for key in ["ArrowLeft"] * 33 + ["ArrowUp"] * 33 + ["Shift+ArrowRight"] * 8 + ["Shift+ArrowDown"] * 70:
        page.keyboard.press(key)
    expect(page.locator("#announcer")).to_have_text("left 0 %, top 0 %, width 48 %, height 100 %")
    expect(page.get_by_label("Width (%)")).to_have_value("48")
    for width in (360, 900, 1100, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        height = page.get_by_label("Height (%)")
        expect(height).to_have_value("100")
        assert height.evaluate("(input) => input.scrollWidth <= input.clientWidth"), "the number is cut off"
    page.get_by_label("Width (%)").fill("50")
    page.get_by_label("Name").fill("shelf")
    expect(
        page.get_by_role("button", name="shelf: left 0 %, top 0 %, width 50 %, height 100 %")
    ).to_be_visible()

    # By mouse: drawn from the lower right to the middle, moved up, and its lower left corner moved to the edge.
    drag(page, (0.7, 0.5), (0.701, 0.501))  # a click draws nothing
    expect(page.locator(".region-box")).to_have_count(1)
    drag(page, (0.96, 0.96), (0.8, 0.8), (0.6, 0.46))
    drag(page, (0.8, 0.7), (0.8, 0.6), (0.8, 0.5))
    drag(page, (0.6, 0.76), (0.5, 1.0))
    page.get_by_label("Name").nth(1).fill("door")
    window.click("Save")
    expect(page.locator(".toast")).to_contain_text("The regions are saved.")
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    assert box_of(daemon, "shelf") == [0.0, 0.0, 0.5, 1.0]
    assert box_of(daemon, "door") == pytest.approx([0.5, 0.26, 0.46, 0.74], abs=0.02)
    assert daemon.told("settings") == "the regions are now: shelf, door"


def test_what_the_button_registers_in_the_first_region_is_seen_there(daemon: Daemon, window: Window) -> None:
    page = window.page
    daemon.stage.picture = np.hstack([MUG, TABLE])
    daemon.ask(
        "set-regions",
        regions=[{"name": "shelf", "box": [0, 0, 0.5, 1]}, {"name": "door", "box": [0.5, 0, 0.5, 1]}],
    )
    window.go("regions")
    for row, visible in enumerate((True, False)):
        badge = page.locator(".region-row").nth(row).get_by_text("The button registers here")
        expect(badge).to_be_visible(visible=visible)
    daemon.press()
    until(lambda: "object 1" in names(daemon))
    window.go("live")
    expect(page.locator(".region-outline")).to_have_text(["shelf", "door"])
    expect(page.locator(".decision-panel .decided")).to_have_text(["object 1", "unknown"])
    expect(page.locator(".chips")).to_have_text("object 1 in shelf")
    expect(page.locator(".marks")).to_have_count(2)
    page.locator("summary", has_text="Why?").first.click()
    expect(page.locator(".why .sentences").first).to_contain_text("This is object 1")
    window.go("events")
    row = page.locator("li.event[data-kind=appeared]")
    expect(row.first).to_contain_text('object 1 appeared in "shelf"')
    (event,) = [one for one in daemon.ask("events") if one["kind"] == "appeared"]
    assert event["region"] == "shelf"


def test_regions_are_promoted_and_deleted_and_survive_a_restart(daemon: Daemon, window: Window) -> None:
    window.refusals = {409, 403}  # a name that is taken, and the token of the daemon before its restart
    shelf, door = ({"name": name, "box": [0.1, 0.1, 0.3, 0.5]} for name in ("shelf", "door"))
    daemon.ask("set-regions", regions=[{**shelf, "threshold": 0.7}, door])
    page = window.page
    window.go("regions")
    expect(page.locator(".region-row")).to_have_count(2)
    page.get_by_label("Name").nth(1).fill("Shelf")
    window.click("Save")
    expect(page.locator(".error").last).to_contain_text('"Shelf" is already the name of region 1')
    window.click("Discard changes")
    expect(page.get_by_label("Name").nth(1)).to_have_value("door")
    window.click("Use door for the button")
    window.click("Save")
    until(lambda: daemon.ask("regions")["registers"] == "door")
    daemon.stop()
    daemon.start().up()
    assert [one["name"] for one in daemon.ask("regions")["regions"]] == ["door", "shelf"]
    assert daemon.ask("regions")["regions"][1]["threshold"] == 0.7
    window.go("live")
    until(lambda: daemon.service.integrations.report()["dashboard"].get("works"))
    window.complaints.clear()  # the connection was lost meanwhile
    window.go("regions")
    expect(page.locator(".region-row")).to_have_count(2)
    page.locator(".region-box").nth(0).focus()
    page.keyboard.press("Delete")
    expect(page.get_by_role("button", name=re.compile("^shelf: "))).to_be_focused()
    page.keyboard.press("Delete")
    expect(page.get_by_text("The whole picture is watched.")).to_be_visible()
    window.click("Save")
    until(lambda: daemon.ask("regions")["regions"] == [])


def test_regions_of_the_settings_are_shown_and_not_changed(daemon: Daemon, window: Window) -> None:
    with daemon.config.open("a") as config:
        config.write('[[regions]]\nname = "shelf"\nbox = [0.0, 0.0, 0.5, 0.5]\n')
    daemon.ask("reload")
    until(lambda: daemon.ask("regions")["editable"] is False)
    window.go("regions")
    expect(window.page.locator(".notice")).to_contain_text(f"These regions are set in {daemon.config}.")
    for button in ("Add a region", "Save", "Delete shelf"):
        expect(window.page.get_by_role("button", name=button)).to_be_disabled()
    expect(window.page.locator(".region-box")).to_be_disabled()


def test_objects_that_stay_hide_no_other_events(daemon: Daemon, window: Window) -> None:
    daemon.learn("mug", MUG)
    for number in range(510):
        data = {"uid": "a" * 32, "name": "mug", "sighting": "b" * 12}
        daemon.service.bus.publish(Event("seen", f"mug is still there {number}", data=data))
    window.go("live")
    expect(window.page.locator(".recent")).to_contain_text('"mug" is registered')
    window.go("events")
    expect(window.page.locator("li.event[data-kind=registered]")).to_contain_text('"mug" is registered')
    repeated = window.page.locator("li.event[data-kind=seen]", has_text="mug is still there 509")
    expect(repeated).to_contain_text(re.compile(r"\(\d\d+ times\)"))


def test_the_explanation_follows_the_decision_at_once(daemon: Daemon, window: Window) -> None:
    window.page.add_init_script(
        "const real = window.setTimeout;"
        "window.setTimeout = (call, ms, ...more) => (ms === 1000 ? 0 : real(call, ms, ...more));"
    )  # no polling
    daemon.learn("pen", PEN)
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    window.go("live")
    expect(window.page.locator(".decided")).to_have_text("mug")
    window.page.locator("summary", has_text="Why?").click()
    lines = window.page.locator(".why .sentences")
    expect(lines).to_contain_text("This is mug")
    daemon.show(PEN, "pen")
    expect(lines).to_contain_text("This is pen")
    daemon.stage.picture = GRAY
    expect(lines).to_contain_text("There is nothing to see")


def test_what_cannot_be_checked_is_no_warning(daemon: Daemon, window: Window) -> None:
    levels = ("ok", "unknown", "warning", "error", "unknown")
    findings = [
        {"check": f"check {number}", "level": level, "text": "text", "remedy": ""}
        for number, level in enumerate(levels)
    ]
    window.page.route("**/doctor", lambda route: route.fulfill(json={"ok": False, "findings": findings}))
    window.go("health")
    window.click("Run checks")
    rows = window.page.locator(".findings li")
    expect(rows).to_have_count(5)
    shown = rows.evaluate_all("(rows) => rows.map((row) => row.dataset.level)")
    assert shown == ["bad", "warn", "good", "unknown", "unknown"]
    uses = window.page.locator(".findings li[data-level=unknown] use")
    assert uses.evaluate_all("(uses) => uses.map((use) => use.getAttribute('href'))") == ["#icon-unknown"] * 2
    verdict = window.page.locator("section", has=window.page.locator("#doctor")).get_by_role("status")
    expect(verdict).to_have_text("2 problems found in 3 checks. 2 checks were not possible here.")


def test_the_page_works_below_a_path(daemon: Daemon, browser: Any) -> None:
    port = daemon.port  # type: ignore[attr-defined]
    with daemon.config.open("a") as config:
        config.write(f'public_url = "http://localhost:{port}/shelf"\n')
    daemon.start().up()
    until(lambda: daemon.service.integrations.report()["dashboard"].get("works"))
    window = Window(browser, f"http://localhost:{port}/shelf/")
    daemon.stage.picture = MUG
    window.go("register")
    expect(window.page.locator("#link-state")).to_have_text("Connected")
    fill_name(window, "mug")
    window.click("Register")
    expect(window.page.locator(".outcome")).to_contain_text('"mug" is registered')
    every = "[...document.querySelectorAll('.frame-strip img')].every((image) => image.naturalWidth)"
    until(lambda: window.page.evaluate(every))
    window.page.get_by_role("link", name="Live").click()
    expect(window.page.locator(".decided")).to_have_text("mug")
    assert {path.split("/")[1] for path in window.requests if path != "/favicon.ico"} == {"shelf"}
    window.close()
    assert window.complaints == []


# --- events ---


def test_times_ahead_of_this_computer_are_no_news(daemon: Daemon, window: Window) -> None:
    window.go("live")
    found = window.page.evaluate(
        """async () => {
          const { ago } = await import("/static/format.js");
          const now = Date.parse("2026-02-01T12:00:00Z");
          return [-5, 5, 59, 120, -59, -3600, -366 * 86400, 400 * 86400].map(
            (seconds) => ago(new Date(now - 1000 * seconds).toISOString(), now));
        }"""
    )
    assert found[:5] == ["just now", "just now", "59 s ago", "2 min ago", "just now"]
    assert [text.split(",")[0] for text in found[5:]] == [
        "1 February 2026",
        "2 February 2027",
        "28 December 2024",
    ]


def test_a_recognition_is_explained_and_said_to_be_wrong(daemon: Daemon, window: Window) -> None:
    daemon.learn("pen", PEN)
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    window.go("events")
    row = window.page.locator("li.event[data-kind=appeared]", has_text="mug appeared").first
    row.locator("summary").click()
    facts = row.locator(".facts")
    expect(facts).to_contain_text("Nearest view\nview 1 of mug", use_inner_text=True)  # not of all
    expect(facts).to_contain_text(re.compile(r"Runner-up\s*pen, "))
    expect(facts).to_contain_text("Margin")
    expect(facts).to_contain_text(re.compile(r"Threshold\s*0\.60"))
    expect(row.locator(".why .sentences .sentences")).to_contain_text("This is mug")
    assert row.locator("img").evaluate("(image) => image.naturalWidth") > 0

    row.get_by_role("button", name="Wrong: this was not mug").click()
    expect(row).to_contain_text("Kept as a negative.")
    assert known(daemon, "mug")["negatives"] == 1
    window.undo()
    expect(row.get_by_role("button", name="Wrong: this was not mug")).to_be_visible()
    assert known(daemon, "mug")["negatives"] == 0


@pytest.fixture
def collecting(daemon: Daemon, browser: Any) -> Iterator[Window]:
    """A window on a daemon that keeps pictures for training, while "mug" is recognized and "pen" registered."""
    with daemon.config.open("a") as config:
        config.write("[training]\ncollect_pictures = true\n")
    daemon.start().up()
    daemon.learn("pen", PEN)
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    made = open_window(daemon, browser)
    yield made
    made.close()
    assert made.complaints == []


def test_the_true_name_of_a_past_recognition_is_asked_for(daemon: Daemon, collecting: Window) -> None:
    window, page = collecting, collecting.page
    dialog = page.get_by_role("dialog", name="This was not mug")
    field = dialog.get_by_label("What was it?")
    window.go("events")
    row = page.locator("li.event[data-kind=appeared]", has_text="mug appeared").first
    row.get_by_role("button", name="Wrong: this was not mug").click()
    expect(field).to_be_focused()
    expect(dialog.locator("option")).to_have_count(1)
    expect(dialog.locator("option")).to_have_attribute("value", "pen")
    field.fill("mug")
    window.refusals.add(409)
    window.click("Keep as a negative")
    expect(dialog.get_by_role("alert")).to_have_text('"mug" is what was recognized; name what it really was')
    field.fill(" teapot ")
    window.click("Keep as a negative")
    expect(page.locator(".toast")).to_contain_text(
        "Kept as a negative of “mug”, and as “teapot” for training."
    )
    expect(dialog).to_have_count(0)
    assert known(daemon, "mug")["negatives"] == 1
    assert [kept.actual for kept in daemon.service.mistakes.all()] == ["teapot"]
    window.undo()
    expect(row.get_by_role("button", name="Wrong: this was not mug")).to_be_visible()


def test_the_true_name_of_the_current_recognition_is_typed(daemon: Daemon, collecting: Window) -> None:
    window, page = collecting, collecting.page
    dialog = page.get_by_role("dialog", name="This was not mug")
    field = dialog.get_by_label("What was it?")
    window.go("live")
    wrong = page.get_by_role("button", name="Wrong: this is not the recognized object")
    expect(wrong).to_be_enabled()
    wrong.focus()
    page.keyboard.press("Enter")
    expect(field).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(wrong).to_be_focused()
    assert known(daemon, "mug")["negatives"] == 0
    page.keyboard.press("Enter")
    page.keyboard.type("pen")
    page.keyboard.press("Enter")
    expect(page.locator(".toast")).to_contain_text("Kept as a negative of “mug”, and as “pen” for training.")
    (kept,) = daemon.service.mistakes.all()
    assert (kept.actual, kept.actual_uid) == ("pen", known(daemon, "pen")["uid"])

    # Without a name, it is only a negative.
    window.undo()
    expect(wrong).to_be_enabled()
    wrong.click()
    window.click("Keep as a negative")
    expect(page.locator(".toast")).to_contain_text("Kept as a negative of “mug”.")
    assert known(daemon, "mug")["negatives"] == 1


def test_the_true_name_is_asked_for_before_the_first_status_has_arrived(
    daemon: Daemon, collecting: Window
) -> None:
    window, page = collecting, collecting.page
    page.route("**/api/v1/stream*", lambda route: None)  # held
    page.reload()
    window.go("live")
    window.click("Wrong: this is not the recognized object")
    expect(page.get_by_role("dialog", name="This was not mug").get_by_label("What was it?")).to_be_focused()
    assert known(daemon, "mug")["negatives"] == 0
    page.unroute("**/api/v1/stream*")  # lets the held requests go on


def test_events_come_as_they_happen_and_are_told_once(daemon: Daemon, window: Window) -> None:
    daemon.learn("mug", MUG)
    daemon.show(TABLE, None)
    window.go("live")
    expect(window.page.locator(".decided")).to_have_text("unknown")
    window.page.evaluate(
        "window.told = []; new MutationObserver(() => told.push(announcer.textContent))"
        ".observe(announcer, { childList: true, characterData: true, subtree: true })"
    )
    daemon.show(MUG, "mug")
    expect(window.page.locator(".decided")).to_have_text("mug")
    window.page.wait_for_timeout(700)  # many frames
    daemon.show(TABLE, None)
    expect(window.page.locator(".decided")).to_have_text("unknown")
    until(lambda: len(window.page.evaluate("told")) == 2)
    appeared, left = window.page.evaluate("told")
    assert appeared.startswith("mug appeared (p = ") and left.startswith("mug left after ")
    window.page.get_by_role("link", name="All events").click()
    expect(window.page.locator("li.event").first).to_contain_text("mug left")


# --- objects ---


def test_views_are_added_and_removed_and_objects_merged(daemon: Daemon, window: Window) -> None:
    daemon.learn("mug", MUG)
    daemon.learn("pen", PEN)
    uid = known(daemon, "mug")["uid"]
    window.go(f"objects/{uid}")
    window.page.get_by_role("link", name="Add a view").click()
    expect(window.page.get_by_label("Object", exact=True)).to_have_value(uid)
    daemon.stage.picture = KEY
    window.click("Add a view")
    expect(window.page.locator(".outcome")).to_contain_text('"mug" has 2 views now')

    window.page.get_by_role("link", name="Open", exact=True).click()
    tiles = window.page.locator("li.view")
    expect(tiles).to_have_count(2)
    window.click("Remove view 1")
    expect(tiles).to_have_count(1)
    expect(window.page.get_by_text("The last view cannot be removed")).to_be_visible()
    window.undo()
    expect(tiles).to_have_count(2)

    window.click("Merge …")
    window.page.get_by_label("Into", exact=True).select_option(label="pen")
    window.click("Merge", inside="dialog")
    expect(window.page.get_by_role("heading", level=1)).to_have_text("pen")
    expect(tiles).to_have_count(3)
    assert names(daemon) == ["pen"]
    window.undo()
    until(lambda: sorted(names(daemon)) == ["mug", "pen"])


def test_pictures_are_made_smaller_asked_about_and_learned_from(daemon: Daemon, window: Window) -> None:
    daemon.learn("pen", PEN)
    window.go("register")
    window.page.get_by_label("Pictures").check()
    expect(window.page.get_by_role("button", name="Register", exact=True)).to_be_disabled()
    choose(window, large=png(CUP, 25))
    expect(window.page.get_by_role("img", name="large.png")).to_be_visible()
    window.page.evaluate("""() => {
        const send = window.fetch;
        window.sent = [];
        window.fetch = async (address, options) => {
            if (options?.body instanceof Blob) {
                const picture = await createImageBitmap(options.body);
                window.sent.push([picture.width, picture.height]);
            }
            return send(address, options);
        };
    }""")
    window.click("What is this?")
    expect(window.page.locator(".answer .decided")).to_have_text("unknown")
    expect(window.page.locator(".answer")).to_contain_text("pen is nearest")
    assert window.page.evaluate("sent") == [[1600, 1600]]
    fill_name(window, "cup")
    window.click("Register")
    expect(window.page.locator(".outcome")).to_contain_text('"cup" is registered')
    expect(window.page.locator(".previews li")).to_have_count(0)
    daemon.show(CUP, "cup")


def test_pictures_are_dropped_and_what_is_no_picture_is_refused(daemon: Daemon, window: Window) -> None:
    window.go("register")
    window.page.get_by_label("Pictures").check()
    drop = """([bytes, name]) => {
        const carried = new DataTransfer();
        carried.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
        const options = { dataTransfer: carried, bubbles: true, cancelable: true };
        document.querySelector(".drop").dispatchEvent(new DragEvent("drop", options));
    }"""
    window.page.evaluate(drop, [list(png(MUG)), "dropped.png"])
    expect(window.page.get_by_role("img", name="dropped.png")).to_be_visible()
    window.page.evaluate(drop, [[1, 2, 3], "broken.png"])
    expect(window.page.locator(".chooser .error")).to_have_text(
        "This browser cannot read “broken.png” as a picture."
    )
    window.click("Remove dropped.png")
    expect(window.page.locator(".previews li")).to_have_count(0)


def test_all_objects_go_to_a_file_and_come_back(daemon: Daemon, window: Window, tmp_path: Path) -> None:
    daemon.learn("mug", MUG)
    daemon.learn("pen", PEN)
    window.go("objects")
    with window.page.expect_download() as coming:
        window.click("Export")
    file = tmp_path / "shelf.zip"
    coming.value.save_as(file)
    assert coming.value.suggested_filename.endswith(".zip")
    daemon.ask("forget", name="pen")
    expect(window.page.locator("a.object")).to_have_count(1)
    window.click("Import")
    window.page.set_input_files("#collection", str(file))
    window.page.get_by_label("Skip").check()
    window.click("Import", inside="dialog")
    expect(window.page.locator("a.object")).to_have_count(2)
    assert sorted(names(daemon)) == ["mug", "pen"]
    # Nothing is a file of objects that Export did not make; the dialog says so, and stays.
    window.refusals = {400, 409, 422}
    window.click("Import")
    (tmp_path / "no.zip").write_bytes(b"nothing")
    window.page.set_input_files("#collection", str(tmp_path / "no.zip"))
    window.click("Import", inside="dialog")
    expect(window.page.locator("dialog .error")).not_to_be_empty()
    window.click("Cancel")
    expect(window.page.get_by_role("button", name="Import")).to_be_focused()


# --- who may, and what is lost ---


def test_a_password_is_asked_for_and_a_wrong_one_refused(daemon: Daemon, browser: Any) -> None:
    CredentialsFile(daemon.state).set_password(PASSWORD)
    daemon.start().up()
    window = open_window(daemon, browser)
    window.refusals = {401}
    window.go("objects")
    expect(window.page.get_by_role("heading", level=1)).to_have_text("Log in")
    expect(window.page.get_by_label("Password")).to_be_focused()
    assert window.page.get_by_role("navigation").count() == 0
    window.page.get_by_label("Password").fill("wrong password")
    window.click("Log in")
    expect(window.page.locator(".error")).to_contain_text("assword")
    window.page.get_by_label("Password").fill(PASSWORD)
    window.page.keyboard.press("Enter")
    expect(window.page.get_by_role("heading", level=1)).to_have_text("Objects")
    expect(window.page.locator("#link-state")).to_have_text("Connected")
    # The cookie is out of reach for scripts, and is enough after a reload.
    assert window.page.evaluate("document.cookie") == ""
    window.page.reload()
    expect(window.page.get_by_role("heading", level=1)).to_have_text("Objects")
    window.click("Log out")
    expect(window.page.get_by_role("heading", level=1)).to_have_text("Log in")
    window.close()
    assert window.complaints == []


def test_a_daemon_that_was_away_is_found_again(daemon: Daemon, window: Window) -> None:
    window.go("live")
    expect(window.page.locator("#link-state")).to_have_text("Connected")
    expect(window.page.locator(".live-picture")).not_to_have_class(re.compile("veiled"))
    window.refusals = {503}  # as long as it ends
    daemon.stop()
    expect(window.page.locator("#link-state")).to_have_text("Reconnecting")
    expect(window.page.locator(".veil")).to_contain_text("Disconnected")
    assert all("ERR_" in complaint for complaint in window.complaints)
    daemon.start().up()
    expect(window.page.locator("#link-state")).to_have_text("Connected")
    expect(window.page.locator(".live-picture")).not_to_have_class(re.compile("veiled"))
    window.complaints = [one for one in window.complaints if "ERR_" not in one]
    # The daemon has another token for changes by now.
    window.refusals = {403, 503}
    daemon.learn("mug", MUG)
    window.go(f"objects/{known(daemon, 'mug')['uid']}")
    fill_name(window, "cup")
    window.click("Rename")
    until(lambda: names(daemon) == ["cup"])


def test_one_watcher_too_many_is_told_so_and_can_do_everything_else(daemon: Daemon, browser: Any) -> None:
    with daemon.config.open("a") as config:
        config.write("max_viewers = 1\n")
    daemon.start().up()
    first = open_window(daemon, browser)
    first.go("live")
    expect(first.page.locator("#link-state")).to_have_text("Connected")
    second = open_window(daemon, browser)
    first.refusals = second.refusals = {503}
    second.go("objects")
    expect(second.page.locator("#link-state")).to_have_text("Too many viewers")
    second.go("register")
    daemon.stage.picture = MUG
    fill_name(second, "mug")
    second.click("Register")
    expect(second.page.locator(".outcome")).to_contain_text('"mug" is registered')
    expect(second.page.locator(".frame-strip li")).to_have_count(2)
    first.close()
    expect(second.page.locator("#link-state")).to_have_text("Connected")
    second.close()
    assert first.complaints + second.complaints == []


def test_a_camera_that_gives_no_pictures_is_said_where_the_picture_would_be(
    daemon: Daemon, window: Window
) -> None:
    window.go("live")
    camera = window.page.locator(".indicator", has_text="Camera")
    expect(camera).to_have_attribute("data-level", "good")
    daemon.stage.error = CameraError("the cable is loose")
    daemon.stage.absent = True
    expect(window.page.locator(".veil")).to_contain_text("amera")
    expect(camera).to_have_attribute("data-level", "bad")
    daemon.stage.error, daemon.stage.absent = None, False
    expect(camera).to_have_attribute("data-level", "good")
    expect(window.page.locator(".veil")).to_be_empty()


def test_pictures_are_fetched_only_while_somebody_looks(daemon: Daemon, window: Window) -> None:
    def fetched() -> int:
        window.requests.clear()
        window.page.wait_for_timeout(900)
        return window.requests.count("/api/v1/live")

    window.go("live")
    assert 2 <= fetched() <= 9  # five a second
    hide = "Object.defineProperty(document, 'hidden', {{ get: () => {}, configurable: true }})"
    hide += "; document.dispatchEvent(new Event('visibilitychange'))"
    window.page.evaluate(hide.format("true"))
    window.page.wait_for_timeout(300)
    assert fetched() == 0
    window.page.evaluate(hide.format("false"))
    assert fetched() >= 2
    window.page.get_by_role("link", name="Objects").click()
    window.page.wait_for_timeout(300)
    assert fetched() == 0


def test_health_has_figures_and_the_doctors_findings(daemon: Daemon, window: Window) -> None:
    daemon.stage.picture = MUG
    window.go("health")
    expect(window.page.locator(".tile", has_text="Frames per second").locator(".figure")).to_have_text(
        re.compile(r"^\d+\.\d$")
    )
    rows = window.page.locator(".stages tbody tr")
    expect(rows).to_have_count(5)
    expect(rows.nth(1)).to_have_text(re.compile(r"^Encode\d+(\.\d)? ms\d+(\.\d)? ms$"))
    expect(window.page.get_by_text("tiny-0123456789ab")).to_be_visible()
    window.click("Run checks")
    window.page.wait_for_selector(".findings li", timeout=60_000)
    assert window.page.locator(".findings li").count() > 3


# --- quarantine ---


def put_into_quarantine(daemon: Daemon, *parts: Part) -> None:
    quarantine = daemon.service.faults.quarantine
    daemon.service.call(lambda: [quarantine.add(part) for part in parts])


def object_of(daemon: Daemon, name: str, reason: str = "frames could not be processed with it") -> Part:
    uid = known(daemon, name)["uid"]
    return Part(f"object-{uid[:8]}", "object", uid, f'the object "{name}"', reason)


def top_of(window: Window, selector: str) -> float:
    return float(window.page.locator(selector).first.evaluate("(node) => node.getBoundingClientRect().top"))


def test_the_quarantine_shows_what_failed_why_and_since_when_and_restores_it(
    daemon: Daemon, window: Window
) -> None:
    for name, picture in (("mug", MUG), ("pen", PEN)):
        daemon.learn(name, picture)
    put_into_quarantine(daemon, object_of(daemon, "pen"), model_part("cups-0123abcd", "no memory"))
    daemon.service.call(daemon.service.engine.reload_objects)  # type: ignore[union-attr]
    window.go("health")
    section = window.page.locator("section", has=window.page.locator("#quarantine"))
    expect(section.get_by_role("status")).to_have_text("2 parts are not used.")
    rows = section.locator("li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text('The object "pen"Frames could not be processed with it.Since ')
    since = rows.first.locator("time").get_attribute("datetime")
    assert since == daemon.ask("quarantine")["parts"][0]["time"]
    expect(rows.last).to_contain_text("The model cups-0123abcdNo memory.")
    assert top_of(window, "#quarantine") < top_of(window, ".tiles")
    expect(window.page.get_by_role("link", name=re.compile("Health.*a part is not used"))).to_be_visible()

    place = top_of(window, ".parts li:last-child")
    window.page.get_by_role("button", name='Restore the object "pen"').click()
    expect(rows.first.get_by_role("button")).to_have_text("Restored")
    expect(rows.first.get_by_role("button")).to_be_disabled()
    expect(rows.first).to_be_focused()
    expect(window.page.locator(".toast")).to_contain_text('The object "pen" is used again.')
    expect(section.get_by_role("status")).to_have_text("1 part is not used.")
    assert top_of(window, ".parts li:last-child") == place
    daemon.show(PEN, "pen")
    daemon.ask("restore", id="model")
    expect(rows.last.get_by_role("button")).to_have_text("Restored")
    expect(section.get_by_role("status")).to_have_text("Nothing is in quarantine.")
    expect(window.page.get_by_role("link", name="Health", exact=True)).to_be_visible()
    assert top_of(window, ".parts li:last-child") == place


def test_parts_that_fail_while_the_page_is_shown_move_nothing(daemon: Daemon, window: Window) -> None:
    daemon.learn("mug", MUG)
    window.go("health")
    section = window.page.locator("section", has=window.page.locator("#quarantine"))
    expect(section.get_by_role("status")).to_have_text("Nothing is in quarantine.")
    assert top_of(window, "#quarantine") > top_of(window, ".health-grid")
    more = section.get_by_role("button", name="Show 1")
    expect(more).to_be_hidden()
    place = top_of(window, "#doctor")
    put_into_quarantine(daemon, object_of(daemon, "mug"))
    expect(more).to_be_visible()
    expect(section.get_by_role("status")).to_have_text("1 part is not used.")
    assert top_of(window, "#doctor") == place
    more.click()
    expect(section.locator("li")).to_have_count(1)
    expect(more).to_be_hidden()


def test_a_part_that_fails_again_can_be_restored_again(daemon: Daemon, window: Window) -> None:
    daemon.learn("mug", MUG)
    part = object_of(daemon, "mug", "<b>a reason</b>")
    put_into_quarantine(daemon, part)
    window.go("health")
    row = window.page.locator(".parts li")
    expect(row).to_contain_text("<b>a reason</b>.")
    for _ in range(2):
        row.get_by_role("button", name='Restore the object "mug"').click()
        expect(row.get_by_role("button")).to_have_text("Restored")
        put_into_quarantine(daemon, part)
        expect(row.get_by_role("button")).to_have_text("Restore")


def test_the_live_page_says_which_parts_are_not_used(daemon: Daemon, window: Window) -> None:
    daemon.learn("mug", MUG)
    window.go("live")
    model = window.page.locator(".indicator", has_text="Model")
    store = window.page.locator(".indicator", has_text="Store")
    expect(store).to_have_attribute("data-level", "good")
    put_into_quarantine(daemon, object_of(daemon, "mug"), model_part("cups-0123abcd", "no memory"))
    expect(store).to_contain_text("1 object, 1 view; 1 part not used: see Health")
    expect(model).to_contain_text("; the model cups-0123abcd is not used")
    assert [row.get_attribute("data-level") for row in (model, store)] == ["warn", "warn"]
    put_into_quarantine(daemon, store_part("more than 100 objects and views failed"))
    expect(store).to_contain_text("the object store is not used: more than 100 objects and views failed")
    expect(store).to_have_attribute("data-level", "bad")
