"""The service on a whole machine: a button and an LED on GPIO lines, cameras that come and go, and power cuts."""

from __future__ import annotations

import contextlib
import json
import queue
import random
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.panel.led_signals import Signal
from tests.system import machine_image
from tests.system.machine import UNITS, Machine
from tests.system.machine_disk import copy_out, read_store, replay_journal
from tests.system.machine_image import Image
from tests.system.packages import ROOT, debian_package, foreign_wheels

pytestmark = pytest.mark.system

GUEST = Path(__file__).with_name("guest")
BUTTON, LED = 17, 27
HEADER = "pinctrl-bcm2711"
"""The label of a Raspberry Pi 4's GPIO chip, by which the daemon finds the header."""
PICTURE = "/usr/share/picture.png"
DEBOUNCE_SECONDS = 0.08
"""Longer than usual: an emulated processor makes a glitch of 5 ms one of 20 when the other processors are busy."""
LANES, CUTS = 2, 10
"""Machines side by side, and how often the power of each is cut."""
LATEST_CUT_SECONDS = 1.0
# What is tried here is not the eye: any picture is good, and may look like one that is known.
CONFIG = """
[camera]
{camera}
timeout_s = 10

[recognition]
seen_interval_s = 0

[registration]
frames = 1
timeout_s = 30
min_sharpness = 0
min_brightness = 0
max_brightness = 255
max_motion = 100
collisions = "allow"

[panel]
kind = "{panel}"
debounce_s = {debounce}
"""


def config(camera: str, panel: str = "gpio") -> str:
    return CONFIG.format(camera=camera, panel=panel, debounce=DEBOUNCE_SECONDS)


SCENE = config('kind = "synthetic"\nwidth = 320\nheight = 240\nframe_rate = 4')
WEBCAM = config('kind = "usb"\nwidth = 320\nheight = 180\nframe_rate = 5')
CSI = config('kind = "picamera2"\nwidth = 320\nheight = 240\nframe_rate = 5')
STILL = config(f'kind = "files"\npath = "{PICTURE}"\nframe_rate = 10', panel="none")


@pytest.fixture(scope="module")
def image(root: None, cache: Path) -> Image:
    if why := machine_image.missing():
        pytest.skip(why)
    return machine_image.image(cache)


@pytest.fixture(scope="module")
def disk(
    image: Image, cache: Path, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The disk of a machine on which the package and a model are installed."""
    pictures = pytest.importorskip("PIL.Image")
    work = tmp_path_factory.mktemp("machine")
    package = debian_package(work / "package", ROOT, foreign_wheels(cache, "amd64"), "amd64")
    files = {f"/opt/guest/{path.name}": path.read_text(encoding="utf-8") for path in GUEST.glob("*.py")}
    with machine_image.changed(image, work) as tree:
        machine_image.install(tree, package, demo_bundle)
        pictures.fromarray(np.random.default_rng(5).integers(0, 256, (120, 160), dtype=np.uint8)).save(
            tree / PICTURE[1:]
        )
        machine_image.write_disk(image, tree, work / "disk", {**UNITS, **files})
    yield work / "disk"
    (work / "disk").unlink()


@pytest.fixture(scope="module")
def machine(image: Image, disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that runs, and forgets all at its end; it has a GPIO header."""
    started = time.monotonic()
    with Machine(image, disk, tmp_path_factory.mktemp("run")) as machine:
        print(f"\nthe machine runs after {time.monotonic() - started:.0f} s")
        assert (
            machine.call("hardware:add_gpio_chip", label=HEADER, button=BUTTON, led=LED) == "/dev/gpiochip0"
        )
        yield machine


def serve(machine: Machine, settings: str, **wanted: Any) -> dict[str, Any]:
    """Start the service with these settings; its status once it has recognized some frames."""
    machine.call("system:start_with", config=settings, timeout=180)
    return wait_for_status(machine, {"camera.status": "running", "frames": 3, **wanted})


def wait_for_status(machine: Machine, wanted: dict[str, Any], seconds: float = 60) -> dict[str, Any]:
    found: dict[str, Any] = machine.call(
        "system:wait_for_status", wanted=wanted, timeout=seconds + 10, seconds=seconds
    )
    return found


def objects(machine: Machine) -> dict[str, str]:
    """uid -> name of what the daemon knows."""
    return {item["uid"]: item["name"] for item in machine.call("system:ask", command="objects")["objects"]}


def count_events(machine: Machine) -> int:
    return len(machine.call("system:events"))


def intervals(changes: list[list[Any]]) -> list[tuple[bool, float]]:
    """How long the LED was on or off; the last state, which has no end, is left out."""
    return [(bool(on), end - start) for (start, on), (end, _) in pairwise(changes)]


@dataclass
class Ledger:
    """What was asked for and what the daemon acknowledged, over all cuts."""

    acknowledged: dict[str, str] = field(default_factory=dict)
    """uid -> name."""
    asked: set[str] = field(default_factory=set)

    def hear(self, word: dict[str, Any]) -> None:
        assert "refused" not in word, word
        if "asked" in word:
            self.asked.add(word["asked"])
        if "saved" in word:
            self.acknowledged[word["saved"]] = word["name"]

    def agrees_with(self, found: dict[str, str], cuts: int) -> None:
        """All that was acknowledged is there; of the rest at most what was under way at each cut."""
        lost = {uid: name for uid, name in self.acknowledged.items() if found.get(uid) != name}
        assert lost == {}
        others = {name for uid, name in found.items() if uid not in self.acknowledged}
        assert others <= self.asked
        assert len(others) <= cuts


@dataclass
class Lane:
    """One machine whose power is cut again and again."""

    image: Image
    disk: Path
    bundle: Bundle
    work: Path
    chance: random.Random
    ledger: Ledger = field(default_factory=Ledger)
    cuts: int = 0
    unflushed: int = 0
    """Lines of the file that is never flushed, and that the cuts have lost."""

    def cut(self) -> None:
        """Boot, look whether all is there, register, and cut the power at some moment."""
        with Machine(self.image, self.disk, self.work, keep=True, processors=1) as machine:
            machine.call("system:start_with", config=STILL, timeout=180)
            machine.ask("registrar:register_on", prefix=f"cut {self.cuts}, object", streams=True)
            found = machine.hear("found", 90)["found"]["objects"]
            # The kernel has replayed the journal, and the daemon has read its store.
            self.ledger.agrees_with({item["uid"]: item["name"] for item in found}, self.cuts)
            assert all(item["views"] == item["embedded"] == 1 for item in found)
            enough = len(self.ledger.acknowledged) + self.cuts % 4
            while len(self.ledger.acknowledged) < enough:
                self.ledger.hear(machine.said.get(timeout=60))
            time.sleep(self.chance.uniform(0.0, LATEST_CUT_SECONDS))
        self.cuts += 1
        with contextlib.suppress(queue.Empty):
            while True:
                self.ledger.hear(machine.said.get_nowait())

    def look_inside(self) -> None:
        """The disk from outside, as the last cut left it."""
        replay_journal(self.disk)
        store = read_store(self.disk, self.bundle, self.work / f"store-{self.cuts}")
        assert (store.integrity, store.repair, store.incomplete) == ("ok", None, [])
        assert store.lost_changes == 0
        self.ledger.agrees_with(store.objects, self.cuts)
        copy_out(self.disk, "/var/lib/unflushed", self.work / "unflushed")
        written = (self.work / "unflushed").read_text() if (self.work / "unflushed").exists() else ""
        self.unflushed = len(self.ledger.asked - set(written.splitlines()))

    def run(self) -> None:
        """All cuts, with a look inside after every second."""
        started = time.monotonic()
        while self.cuts < CUTS:
            self.cut()
            if self.cuts % 2 == 0:
                self.look_inside()
            seconds, saved = time.monotonic() - started, len(self.ledger.acknowledged)
            print(
                f"{self.work.name}: {self.cuts} power cuts in {seconds:.0f} s, {saved} objects acknowledged"
            )


def test_nothing_that_was_acknowledged_is_lost_and_nothing_is_half_saved_in_twenty_power_cuts(
    image: Image, disk: Path, demo_bundle: Path, tmp_path: Path
) -> None:
    lanes = []
    for number in range(LANES):
        work = tmp_path / f"machine-{number + 1}"
        work.mkdir()
        shutil.copyfile(disk, work / "disk")
        lanes.append(Lane(image, work / "disk", load_bundle(demo_bundle), work, random.Random(number)))
    with ThreadPoolExecutor(LANES) as pool:
        for running in [pool.submit(lane.run) for lane in lanes]:
            running.result()
    assert sum(lane.cuts for lane in lanes) == 20
    assert sum(len(lane.ledger.acknowledged) for lane in lanes) >= 20
    assert sum(lane.unflushed for lane in lanes) > 0, (
        "a cut that loses nothing of what was not flushed is none"
    )


def test_the_header_is_found_by_its_label_and_glitches_register_nothing(machine: Machine) -> None:
    status = serve(machine, SCENE)
    assert status["panel"] == {
        "description": f"button on line {BUTTON} and LED on line {LED} of {HEADER}",
        "problem": None,
        "stuck": False,
    }
    before = count_events(machine)
    for length in (0.002, 0.005, 0.01):
        glitches = [(True, length), (False, 0.2)] * 3
        for _ in range(5):
            lasted = machine.call("hardware:play", button=BUTTON, steps=glitches)
            if max(lasted[::2]) < DEBOUNCE_SECONDS / 2:  # else this machine was busy, and made a press of it
                break
        assert max(lasted[::2]) < DEBOUNCE_SECONDS / 2, f"this machine is too busy: {lasted}"
    time.sleep(2)
    assert objects(machine) == {}
    kinds = {event["kind"] for event in machine.call("system:events")[before:]}
    assert kinds & {"registered", "refused", "undone"} == set()


def test_a_press_with_a_bouncing_contact_registers_one_object_and_the_led_says_so(machine: Machine) -> None:
    before = count_events(machine)
    machine.call("hardware:watch_led", led=LED)
    machine.call("hardware:press", button=BUTTON, seconds=0.3)
    event = machine.call("system:wait_for_event", kind="registered", after=before, timeout=50, seconds=45)
    assert (event["name"], event["source"], event["views"]) == ("object 1", "button", 1)
    time.sleep(Signal.SAVED.pattern.length + 1)
    shown = intervals(machine.call("hardware:led_changes", led=LED))
    ((lit, _),) = Signal.SAVED.pattern.steps
    # The pause before the signal distinguishes it from a blink that a busy machine prolonged.
    pauses = [0.0, *(length for _, length in shown)]
    lead = Signal.SAVED.pattern.lead
    saved = [
        index
        for index, (on, length) in enumerate(shown)
        if on and abs(length - lit) < 0.4 and pauses[index] >= lead - 0.15
    ]
    assert len(saved) == 1, shown
    listed = machine.call("system:run", command=["edge-siamese", "objects", "--json"])
    assert listed["status"] == 0, listed["err"]
    assert [item["name"] for item in json.loads(listed["out"])["objects"]] == ["object 1"]
    assert [*objects(machine)] == [event["uid"]]


def test_a_hold_undoes_the_registration(machine: Machine) -> None:
    assert [*objects(machine).values()] == ["object 1"]
    before = count_events(machine)
    machine.call("hardware:press", button=BUTTON, seconds=2.0)
    event = machine.call("system:wait_for_event", kind="undone", after=before, timeout=50, seconds=45)
    assert event["text"] == 'undone: "object 1" is no longer registered'
    assert objects(machine) == {}


def test_frames_come_from_a_v4l2_device(machine: Machine) -> None:
    assert machine.call("hardware:add_usb_camera") == ["/dev/video0"]
    camera = serve(machine, WEBCAM)["camera"]
    assert camera["description"] == "the camera /dev/video0, 320 x 180 rawvideo"
    assert camera["fps"] > 0
    first = wait_for_status(machine, {"camera.captured": camera["captured"] + 3})["camera"]["captured"]
    assert first >= camera["captured"] + 3
    assert machine.call("system:ask", command="register", name="pattern")["text"] == '"pattern" is registered'


def test_a_camera_that_is_pulled_out_and_plugged_in_again_is_survived(machine: Machine) -> None:
    known, process = objects(machine), machine.call("system:service")
    assert [*known.values()] == ["pattern"]
    assert machine.call("hardware:plug", connected=False) == []
    gone = wait_for_status(machine, {"camera.status": "absent"})
    assert gone["line"].startswith("no frames: ")
    assert objects(machine) == known
    time.sleep(3)
    assert machine.call("system:ask", command="status")["camera"]["status"] == "absent"

    assert machine.call("hardware:plug", connected=True) == ["/dev/video0"]
    back = wait_for_status(machine, {"camera.status": "running", "frames": gone["frames"] + 3})
    assert back["camera"]["restarts"] >= 1
    assert objects(machine) == known
    now = machine.call("system:service")
    assert (now["MainPID"], now["NRestarts"]) == (process["MainPID"], process["NRestarts"])
    told = [event["text"] for event in machine.call("system:events") if event["kind"] == "camera"]
    assert any(text.startswith("no frames") for text in told)


def test_the_nearest_size_that_the_camera_has_is_taken(machine: Machine) -> None:
    camera = serve(machine, WEBCAM.replace("height = 180", "height = 240"))["camera"]
    assert camera["description"] == "the camera /dev/video0, 320 x 180 rawvideo"
    assert camera["fps"] > 0


def test_frames_come_through_picamera2_and_libcamera(machine: Machine) -> None:
    assert "/dev/media0" in machine.call("hardware:add_csi_camera", timeout=90)
    camera = serve(machine, CSI)["camera"]
    assert camera["description"].endswith(" through picamera2, 320 x 240 BGR888")
    assert camera["fps"] > 0
    saved = machine.call("system:ask", command="register", name="by libcamera")
    assert saved["text"] == '"by libcamera" is registered'
    journal = machine.call("system:journal", lines=200)
    assert "Traceback" not in journal
