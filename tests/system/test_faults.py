"""Faults on a booted system: the service stays active, recognizes the rest, and says what it does not use."""

from __future__ import annotations

import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.edge_siamese.runtimes.damage import write_crashing_bundle
from tests.markdown_pages import table_rows
from tests.system.containers import BOOKWORM, Suite, wait_for
from tests.system.device import CONFIG, SETTINGS, Debs, Device, booted
from tests.system.packages import ROOT
from tests.tiny_bundle import write_tiny_bundle
from tests.tiny_network import pictures

pytestmark = pytest.mark.system

STATE = "/var/lib/edge-siamese"
MODELS = f"{STATE}/models"
PYTHON = "/opt/edge-siamese/current/bin/python"
SHOWN = {"mug": 1, "pen": 2, "key": 5, "cup": 9}
"""Four things that the tiny network tells apart; numbers of its pictures."""
DYING = "/etc/systemd/system/edge-siamese.service.d/dying.conf"
CRASHING = "tiny-crashing-00000000"
"""Directory of a model that nobody installed."""


@pytest.fixture(scope="module")
def suite() -> Suite:
    """One system for all tests here."""
    return BOOKWORM


@pytest.fixture(scope="module")
def device(
    suite: Suite, tree: Path, debs: Debs, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Device]:
    """A system with four registered objects; each test leaves it in working order."""
    place = tmp_path_factory.mktemp(suite.name)
    bundle = write_tiny_bundle(place / "bundle")
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as changes,
        booted(tree, suite, place / "share", bundle, debs.present, changes=Path(changes)) as device,
    ):
        write_crashing_bundle(device.share / "crashing")
        device.install("present.deb")
        device.set_up()
        for name in SHOWN:
            show(device, name)
            wait_for(lambda: device.serving()["present"] == [], 10, "the picture is new")
            device.register(name)
        yield device


def show(device: Device, name: str) -> None:
    """Put a thing in front of the camera."""
    pixels = np.kron(pictures(12)[SHOWN[name], :, :, 0], np.ones((8, 8), np.uint8))
    Image.fromarray(pixels).save(device.share / "new.png")
    os.replace(device.share / "new.png", device.share / "picture.png")


def recognizes(device: Device, *names: str) -> None:
    """Wait until each of these is recognized when it is shown."""
    for name in names:
        show(device, name)
        wait_for(lambda name=name: name in device.serving()["present"], 20, f"{name} is recognized")
    assert device.container.property("ActiveState") == "active"


def reports(device: Device, text: str, *sources: str) -> None:
    """Check that a text is in what the journal of this boot, `status` and `doctor` report, or in those that are named."""
    container = device.container
    said = {
        "journal": container.journal,
        "status": lambda: container.run("edge-siamese", "status"),
        "doctor": lambda: container.run("edge-siamese", "doctor", check=False),
    }
    for source in sources or said:
        found = said[source]()
        assert text in found, f"the {source} does not report {text!r}:\n{found}"


def restart(device: Device) -> None:
    """Restart the service, and wait until it recognizes."""
    device.container.run("systemctl", "restart", "edge-siamese")
    device.serving()


def damage(device: Device, *damages: str) -> None:
    """Damage the store while the service is stopped."""
    container = device.container
    container.run("systemctl", "stop", "edge-siamese")
    script = ("python3", "/share/guest/damage_store.py", f"{STATE}/objects.db")
    container.run("runuser", "--user=edge-siamese", "--", *script, *damages)
    container.run("systemctl", "start", "edge-siamese")
    device.serving()


class TestStore:
    def test_damaged_embeddings_are_found_and_computed_again(self, device: Device) -> None:
        damage(device, "pen=huge", "key=flipped")
        recognizes(device, *SHOWN)
        found = "2 embeddings of registered views; 2 embeddings to be computed again from stored pictures"
        reports(device, found, "journal", "status")
        restart(device)
        recognizes(device, *SHOWN)

    def test_a_view_whose_picture_is_damaged_too_is_not_used_and_named_until_it_is_registered_again(
        self, device: Device
    ) -> None:
        container = device.container
        damage(device, "cup=ruined")
        for start in (restart, lambda device: device.container.reboot()):
            recognizes(device, "mug", "pen", "key")
            reports(device, "cannot be embedded and will not be recognized: ", "journal")
            reports(device, 'of "cup" is not used: a stored picture is damaged', "status", "doctor")
            start(device)
        recognizes(device, "mug", "pen", "key")
        reports(device, 'of "cup" is not used: a stored picture is damaged', "status", "doctor")
        show(device, "cup")
        wait_for(lambda: device.serving()["present"] == [], 10, "nothing is recognized")
        container.run("edge-siamese", "forget", "cup")
        device.register("cup")
        recognizes(device, "cup")
        assert container.json("edge-siamese", "status", "--json")["quarantine"] == []

    def test_a_database_with_damaged_pages_is_repaired_and_the_service_says_so(self, device: Device) -> None:
        container = device.container
        container.run("systemctl", "stop", "edge-siamese")
        script = (
            "import sqlite3, sys; store = sqlite3.connect(sys.argv[1])\n"
            "query = \"SELECT rootpage FROM sqlite_schema WHERE name IN ('embeddings', 'objects_by_key')\"\n"
            "pages = [page for page, in store.execute(query)]; store.close()\n"
            "file = open(sys.argv[1], 'r+b')\n"
            "for page in pages: file.seek(4096 * (page - 1)), file.write(b'\\xa5' * 4096)\n"
        )
        container.run("python3", "-c", script, f"{STATE}/objects.db")
        container.run("systemctl", "start", "edge-siamese")
        device.serving()
        recognizes(device, *SHOWN)
        reports(device, "4 of 4 objects were recovered", "journal", "status")
        reports(device, "objects.damaged-")
        restart(device)
        recognizes(device, "mug")
        container.run("sh", "-c", f"rm {STATE}/objects.damaged-*")

    def test_an_archive_with_an_embedding_of_huge_numbers_is_refused(self, device: Device) -> None:
        container = device.container
        container.run("edge-siamese", "objects", "export", "/share/objects.zip")
        with (
            zipfile.ZipFile(device.share / "objects.zip") as good,
            zipfile.ZipFile(device.share / "huge.zip", "w") as bad,
        ):
            for name in good.namelist():
                data = good.read(name)
                if name == "embeddings.f32":
                    data = np.full(len(data) // 4, 3e38, "<f4").tobytes()
                bad.writestr(name, data)
        kept = device.objects()
        done = container.call("edge-siamese", "objects", "import", "/share/huge.zip")
        assert done.returncode == 1
        assert done.stderr.endswith("; nothing was imported\n")
        assert "embeddings.f32 has numbers that are not finite, too large, or all zero" in done.stderr
        assert device.objects() == kept
        pid = container.property("MainPID")
        recognizes(device, "mug", "pen")
        assert container.property("MainPID") == pid
        restart(device)
        assert device.objects() == kept
        recognizes(device, "mug")


def place_model(device: Device, previous: str | None) -> None:
    """Make a crashing model the current one, without `model install`."""
    container = device.container
    container.run("rm", "-rf", f"{MODELS}/{CRASHING}")
    container.run("cp", "-r", "/share/crashing", f"{MODELS}/{CRASHING}")
    state = {"current": CRASHING, "previous": previous, "confirmed": True, "attempts": 0, "rejected": {}}
    container.write(f"{MODELS}/state.json", json.dumps(state))
    container.run("chown", "-R", "edge-siamese:", MODELS)


class TestModel:
    @pytest.fixture
    def crash(self, suite: Suite) -> str:
        return f"the int8 file of tiny-crashing crashes {suite.runtime} "

    @pytest.fixture
    def good(self, device: Device) -> Iterator[str]:
        """The directory of the good model, which is current again after the test."""
        current: str = json.loads(device.container.read(f"{MODELS}/state.json"))["current"]
        yield current
        device.container.write(f"{MODELS}/state.json", json.dumps({"current": current}))
        restart(device)

    def test_root_cannot_install_a_model_that_crashes(self, device: Device, good: str, crash: str) -> None:
        container = device.container
        before = container.property("MainPID"), container.run("ls", "-A", "/var/tmp", MODELS)
        done = container.call("edge-siamese", "model", "install", "/share/crashing")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"edge-siamese: {crash}")
        assert done.stderr.endswith(": SIGSEGV\n")
        assert (container.property("MainPID"), container.run("ls", "-A", "/var/tmp", MODELS)) == before
        assert json.loads(container.read(f"{MODELS}/state.json"))["current"] == good
        recognizes(device, "mug")

    def test_a_current_model_that_crashes_is_replaced_by_the_previous_one(
        self, device: Device, good: str, crash: str
    ) -> None:
        restarts = device.container.property("NRestarts")
        place_model(device, previous=good)
        restart(device)
        recognizes(device, *SHOWN)
        reports(device, f"{CRASHING} was rejected ({crash}", "journal", "status")
        reports(device, f"{CRASHING} was rejected: {crash}", "doctor")
        assert device.container.property("NRestarts") == restarts

    def test_an_only_model_that_crashes_is_replaced_by_the_shipped_one_and_stays_so_after_a_reboot(
        self, device: Device, good: str, crash: str
    ) -> None:
        place_model(device, previous=None)
        restart(device)
        device.container.reboot()
        recognizes(device, "mug")
        assert device.container.property("NRestarts") == "0"
        reports(device, f"{CRASHING} does not work ({crash}", "journal", "status")
        reports(device, "; using objects, shipped with edge-siamese instead", "journal", "status")
        reports(device, crash, "doctor")


class TestStarts:
    def test_after_three_starts_that_were_killed_it_runs_without_the_store(self, device: Device) -> None:
        container = device.container
        container.run("systemctl", "stop", "edge-siamese")
        before = container.run("sha256sum", f"{STATE}/objects.db")
        container.write(DYING, "[Service]\nEnvironment=PYTHONPATH=/share/guest/dying\n")
        container.run("systemctl", "daemon-reload")
        container.run("systemctl", "start", "edge-siamese", check=False)
        status = device.serving()
        reason = "the object store is not used: 3 starts of the daemon ended early"
        reports(device, reason)
        assert status["line"].startswith(f"recognizes nothing: {reason}")
        assert container.property("NRestarts") == "3"
        assert container.property("ActiveState") == "active"
        assert container.run("sha256sum", f"{STATE}/objects.db") == before
        container.run("rm", DYING)
        container.run("systemctl", "daemon-reload")
        restart(device)
        recognizes(device, *SHOWN)
        assert container.json("edge-siamese", "status", "--json")["quarantine"] == []

    def test_after_five_starts_that_crashed_it_runs_with_the_shipped_model(self, device: Device) -> None:
        container = device.container
        good = container.read(f"{MODELS}/state.json")
        since = container.journal().count("Fatal Python error")
        place_model(device, previous=None)
        container.run(PYTHON, "-I", "/share/guest/forged_results.py")
        container.run("systemctl", "restart", "edge-siamese", check=False)
        device.serving()
        recognizes(device, "mug")
        reports(device, "the installed model is not used: 5 starts of the daemon ended early")
        assert container.property("NRestarts") == "5"
        assert container.journal().count("Fatal Python error: Segmentation fault") == since + 5
        assert container.run("edge-siamese", "quarantine").splitlines()[2].startswith("model  this start ")
        container.write(f"{MODELS}/state.json", good)
        assert (
            container.run("edge-siamese", "quarantine", "restore", "model")
            == "the installed model is used again\n"
        )
        recognizes(device, *SHOWN)


FAULTY: dict[str, tuple[bytes, str]] = {
    "an unknown kind": (b"[camera]\nkind = 'eye'\n", "camera.kind: must be one of"),
    "a date": (b"[camera]\nframe_rate = 1979-05-27\n", "camera.frame_rate: must be a number"),
    "a date that does not exist": (b"[camera]\nframe_rate = 1979-02-31\n", "not valid TOML"),
    "400 digits": (b"[recognition]\nwindow_frames = " + b"9" * 400, "recognition.window_frames: must be an integer"),
    "deep": (b"[camera]\npath = " + b"[" * 3000 + b"]" * 3000, "not valid TOML: more than 100 nested levels"),
    "a NUL": (b"[camera]\nkind = 'fi\0les'\n", "not valid TOML"),
    "an escaped NUL": (b'[events]\nhook = ["/bin/a\\u0000b"]\n', "events.hook: a path must not contain a NUL"),
    "Latin-1": (b"[camera]\npath = '/share/caf\xe9.png'\n", "not UTF-8 text"),
}  # fmt: skip
"""Name -> settings with a fault in their second line, and what is said about it."""


class TestSettings:
    @pytest.fixture(autouse=True)
    def good(self, device: Device) -> Iterator[None]:
        """Puts the good settings back."""
        yield
        device.container.write(SETTINGS, CONFIG)
        restart(device)

    def test_at_a_reload_the_former_settings_stay(self, device: Device) -> None:
        container = device.container
        pid = container.property("MainPID")
        for name, (data, problem) in FAULTY.items():
            known = len(container.journal().splitlines())
            container.write_bytes(SETTINGS, data)
            container.run("systemctl", "reload", "edge-siamese")
            line = f"the previous settings stay in use: {SETTINGS}: {problem}"

            def refusal(known: int = known, line: str = line) -> str:
                new = container.journal().splitlines()[known:]
                return next((entry for entry in new if line in entry), "")

            assert "(at line 2" in wait_for(refusal, 10, name), name
        reports(device, "not UTF-8 text: byte 27 is invalid (at line 2)")
        assert container.property("MainPID") == pid
        recognizes(device, "mug")

    def test_a_start_ends_with_one_line_and_is_not_repeated(self, device: Device) -> None:
        container = device.container
        container.run("systemctl", "stop", "edge-siamese")
        for name, (data, problem) in FAULTY.items():
            container.write_bytes(SETTINGS, data)
            container.run("systemctl", "start", "edge-siamese", check=False)
            states = [container.property(key) for key in ("ActiveState", "SubState", "ExecMainStatus")]
            assert states == ["failed", "failed", "78"], name
            pid = container.property("ExecMainPID")
            shown = container.run("systemctl", "status", "--full", "--no-pager", "edge-siamese", check=False)
            (line,) = [line for line in shown.splitlines() if f"edge-siamese[{pid}]: " in line]
            assert f"edge-siamese: {SETTINGS}: {problem}" in line, name
            assert "(at line 2" in line, name

    def test_a_byte_order_mark_is_no_fault(self, device: Device) -> None:
        device.container.write_bytes(SETTINGS, b"\xef\xbb\xbf" + CONFIG.encode())
        restart(device)
        recognizes(device, "mug")


def test_the_page_on_security_lists_what_is_stored_and_who_can_read_it(device: Device) -> None:
    section = (
        (ROOT / "docs" / "security.md").read_text().partition("## What is stored")[2].partition("\n## ")[0]
    )
    readers = {
        name.rstrip("/"): row[2] for row in table_rows(section) for name in re.findall(r"`([\w./]+)`", row[0])
    }
    assert device.container.run("stat", "--format=%U:%G %a", STATE) == "edge-siamese:edge-siamese 750\n"
    found = device.container.run("find", STATE, "-mindepth", "1", "-maxdepth", "1", "-printf", "%f %m\\n")
    modes = dict(line.split() for line in found.splitlines())
    assert {"objects.db", "events.jsonl", "models"} <= modes.keys()
    for name, mode in modes.items():
        known = name.removesuffix(".1")
        if name.startswith("objects.") and name not in readers:
            known = "objects.db"
        group = "the service's account and group" if int(mode, 8) & 0o040 else "the service's account"
        assert readers.get(known) == group, (name, mode)
