"""The service on a real systemd of Debian 12 and 13: installed as a user would, without a network, and mistreated."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from edge_siamese import __version__
from tests.system.containers import BOOKWORM, TRIXIE, Container, Suite, debian_tree, missing_tools, wait_for
from tests.system.packages import ROOT, collect, debian_package, foreign_wheels, source_of

pytestmark = pytest.mark.system

NEXT, BROKEN = "97.0.0", "98.0.0"
GUEST = Path(__file__).with_name("guest")
KILLS = 200
# A picture that stands still, learned at once and again and again: what is tried here is not the eye.
CONFIG = """
[camera]
kind = "files"
path = "/share/picture.png"
rate = 60

[panel]
kind = "none"

[recognition]
seen_every_s = 0

[registration]
frames = 1
sharpness = 0
darkest = 0
brightest = 255
motion = 255
collisions = "allow"
name = "object {number}"
"""
# So that a test does not wait for what is right for a device.
QUICK = "[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\nRestartSec=20ms\n"
DROP_IN = "/etc/systemd/system/edge-siamese.service.d/quick.conf"
LED = "/sys/devices/platform/leds/leds/edge-siamese"


@dataclass(frozen=True)
class Debs:
    """Debian packages of three versions."""

    present: Path
    next: Path
    broken: Path
    """Its daemon ends at once."""


@dataclass
class Device:
    """A booted system, and what is in its /share."""

    container: Container
    suite: Suite
    share: Path

    def install(self, package: str, check: bool = True) -> str:
        """What `dpkg --install` says."""
        return self.container.run("dpkg", "--install", f"/share/{package}", check=check, timeout=240)

    def objects(self) -> dict[str, str]:
        """uid -> name of what the daemon knows."""
        found = self.container.json("edge-siamese", "objects", "--json")
        return {item["uid"]: item["name"] for item in found["objects"]}

    def register(self, name: str) -> str:
        """Register what the camera sees; the uid."""
        return str(self.container.json("edge-siamese", "register", name, "--json")["object"]["uid"])

    def serving(self) -> dict[str, object]:
        """The daemon's status, once it recognises frames."""

        def found() -> dict[str, object] | None:
            done = self.container.call("edge-siamese", "status", "--json")
            status = json.loads(done.stdout) if done.returncode == 0 else {}
            return status if status.get("frames", 0) > 3 else None

        status: dict[str, object] = wait_for(found, 30, "frames are recognised")
        return status

    def restarted_after(self, count: int, seconds: float) -> None:
        """Wait until systemd has restarted the service, and it is ready."""
        wait_for(
            lambda: (
                int(self.container.property("NRestarts")) > count
                and self.container.property("ActiveState") == "active"
            ),
            seconds,
            "the service is restarted",
        )


def draw(path: Path) -> None:
    """Something on a white page."""
    picture = Image.new("L", (160, 120), 255)
    ImageDraw.Draw(picture).line([(40, 100), (80, 20), (120, 100), (60, 60)], fill=0, width=6)
    picture.save(path)


@pytest.fixture(scope="session")
def arch(root: None) -> str:
    if lacking := missing_tools():
        pytest.skip(lacking)
    return subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def wheels(cache: Path, arch: str) -> Path:
    return foreign_wheels(cache, arch)


@pytest.fixture(scope="session")
def debs(wheels: Path, arch: str, tmp_path_factory: pytest.TempPathFactory) -> Debs:
    place = tmp_path_factory.mktemp("debs")
    ends = {"edge_siamese/commands/daemon.py": ('    config = options.config', '    return 1\n    config = options.config')}
    later = source_of(place / "later", NEXT)
    broken = source_of(place / "ends", BROKEN, ends)
    return Debs(
        debian_package(place / "present", ROOT, wheels, arch),
        debian_package(place / "next", later, wheels, arch),
        debian_package(place / "broken", broken, wheels, arch),
    )


@pytest.fixture(scope="module", params=(BOOKWORM, TRIXIE), ids=lambda suite: suite.name)
def suite(request: pytest.FixtureRequest) -> Suite:
    found: Suite = request.param
    return found


@pytest.fixture(scope="module")
def device(
    suite: Suite, cache: Path, debs: Debs, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Device]:
    """A system with the package installed, a camera set up and a model: what a user has after three commands."""
    share = tmp_path_factory.mktemp(suite.name)
    shutil.copytree(GUEST, share / "guest")
    shutil.copytree(demo_bundle, share / "bundle")
    draw(share / "picture.png")
    for name in ("present", "next", "broken"):
        shutil.copy2(getattr(debs, name), share / f"{name}.deb")
    with Container(debian_tree(cache, suite), share) as container:
        device = Device(container, suite, share)
        device.install("present.deb")
        yield device
        (share / "journal.txt").write_text(container.journal())


def test_the_package_brings_a_service_that_runs_and_says_what_is_missing(device: Device, suite: Suite) -> None:
    container = device.container
    assert container.run("systemctl", "--version").startswith(f"systemd {suite.systemd} ")
    assert container.run("edge-siamese", "--version") == f"edge-siamese {__version__}\n"
    assert container.run("systemctl", "is-enabled", "edge-siamese") == "enabled\n"
    assert container.property("ActiveState") == "active"
    assert container.property("Type") == "notify"
    assert container.property("StatusText") == "no model is installed: edge-siamese model install BUNDLE"


def test_the_unit_is_well_formed_and_its_exposure_is_low(device: Device) -> None:
    unit = "/usr/lib/systemd/system/edge-siamese.service"
    # verify returns 0 also where it has something to say
    assert device.container.run("systemd-analyze", "verify", unit, check=False) == ""
    security = ("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", unit)
    found = re.search(r"Overall exposure level for edge-siamese.service: ([\d.]+)", device.container.run(*security))
    assert found
    assert float(found[1]) <= 2.0


def test_the_account_is_in_the_groups_of_its_devices_and_cannot_log_in(device: Device) -> None:
    groups = device.container.run("id", "--groups", "--name", "edge-siamese").split()
    assert sorted(groups) == ["edge-siamese", "gpio", "input", "render", "video"]
    assert device.container.run("getent", "passwd", "edge-siamese").split(":")[5:] == [
        "/var/lib/edge-siamese",
        "/usr/sbin/nologin\n",
    ]


def test_the_daemon_has_no_privilege(device: Device) -> None:
    container = device.container
    pid = container.property("MainPID")
    status = container.process_status(pid)
    user = container.run("id", "--user", "edge-siamese").strip()
    assert status["Uid"].split() == [user] * 4
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert status[kind] == "0000000000000000", kind
    modes = container.run("stat", "--format=%A %U:%G %n", "/var/lib/edge-siamese", "/run/edge-siamese/control.sock")
    assert modes.splitlines() == [
        "drwxr-x--- edge-siamese:edge-siamese /var/lib/edge-siamese",
        "srw-rw---- edge-siamese:edge-siamese /run/edge-siamese/control.sock",
    ]


def test_the_sandbox_allows_what_the_daemon_needs_and_nothing_else(device: Device, suite: Suite) -> None:
    container = device.container
    # A kernel LED as the overlay gpio-led and the udev rule leave it; the container's own /sys cannot be written at all.
    container.run("mount", "-t", "tmpfs", "tmpfs", "/sys/devices/platform")
    container.run("mkdir", "-p", LED)
    container.run("sh", "-c", f"echo 0 >{LED}/brightness; echo 0 >/sys/devices/platform/other")
    container.run("chgrp", "gpio", f"{LED}/brightness")
    container.run("chmod", "664", f"{LED}/brightness")
    unit = container.read("/usr/lib/systemd/system/edge-siamese.service")
    assert "\nExecStart=/opt/edge-siamese/current/bin/edge-siamese run\n" in unit
    unit = re.sub(r"\nExecStart=.*\n", "\nExecStart=/usr/bin/python3 /share/guest/try_the_sandbox.py\n", unit)
    unit = unit.replace("Type=notify", "Type=oneshot").replace("Restart=always", "Restart=no")
    unit = unit.replace("RuntimeDirectory=edge-siamese", "RuntimeDirectory=probe")
    unit = re.sub(r"\nRestart(Sec|Prevent)\S*", "", unit).replace("WatchdogSec=30", "")
    container.write("/etc/systemd/system/probe.service", unit)
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "start", "probe")
    container.run("umount", "/sys/devices/platform")
    found = json.loads(
        container.run("journalctl", "--unit=probe", "--output=cat", "--identifier=python3", "--no-pager").splitlines()[-1]
    )
    assert found == {
        "write its state": "done",
        "write its run": "done",
        "read its settings": "done",
        "write its settings": "EACCES",
        "write /etc": "EROFS",
        "write /usr": "EROFS",
        "write the program": "EROFS",
        "see homes": "EACCES",
        "light the LED": "done",
        "set another file of /sys": "EACCES",
        "set /proc/sys": "EROFS",
        "executable memory": suite.refused_memory,
        "a user namespace": "EPERM",
        "a set-user-id file": "EPERM",
        "become root": "EPERM",
        "raise its priority": "EPERM",
        "an internet socket": "done",
        "a netlink socket": "done",
        "a packet socket": "EAFNOSUPPORT",
        "a host name": "EPERM",
    }


def test_settings_are_read_at_a_reload_and_a_model_that_is_installed_is_used_at_once(device: Device, suite: Suite) -> None:
    container = device.container
    assert container.read("/etc/edge-siamese/config.toml") == (ROOT / "systemd" / "config.toml").read_text()
    container.write("/etc/edge-siamese/config.toml", CONFIG)
    container.write(DROP_IN, QUICK)
    container.run("systemctl", "daemon-reload")
    container.run("systemctl", "restart", "edge-siamese")
    assert "is current now; the daemon takes it" in container.run("edge-siamese", "model", "install", "/share/bundle")
    status = device.serving()
    assert status["model"]["runtime"] == suite.runtime  # type: ignore[index]
    assert status["camera"]["status"] == "running"  # type: ignore[index]
    assert status["version"] == __version__
    wait_for(lambda: "frames/s" in container.property("StatusText"), 10, "the status tells of frames")


def test_an_object_is_registered_and_listed(device: Device) -> None:
    device.serving()
    uid = device.register("ama")
    assert device.objects() == {uid: "ama"}


def test_a_hangup_signal_reads_the_settings_anew_in_the_same_process(device: Device) -> None:
    container = device.container
    pid = container.property("MainPID")
    assert "object" in container.read("/etc/edge-siamese/config.toml")
    container.write("/etc/edge-siamese/config.toml", CONFIG.replace("object {number}", "thing {number}"))
    container.run("systemctl", "reload", "edge-siamese")
    wait_for(lambda: "the settings were read again" in container.journal(), 10, "the settings are read")
    device.serving()
    assert container.property("MainPID") == pid
    assert container.property("ActiveState") == "active"


def test_wrong_settings_change_nothing_at_a_reload_and_end_the_service_for_good_at_a_start(device: Device) -> None:
    container = device.container
    pid, good = container.property("MainPID"), container.read("/etc/edge-siamese/config.toml")
    container.write("/etc/edge-siamese/config.toml", "[camera]\nkind = 'eye'\n")
    container.run("systemctl", "reload", "edge-siamese")
    wait_for(lambda: "the former settings stay" in container.journal(), 10, "the refusal is told")
    assert container.property("MainPID") == pid
    container.run("systemctl", "restart", "edge-siamese", check=False)
    wait_for(lambda: container.property("ActiveState") == "failed", 20, "the service has failed")
    assert container.property("ExecMainStatus") == "78"
    container.write("/etc/edge-siamese/config.toml", good)
    container.run("systemctl", "restart", "edge-siamese")
    device.serving()


def test_a_stop_takes_less_than_a_second_and_is_a_success(device: Device) -> None:
    container = device.container
    for _ in range(3):
        device.serving()
        started = time.monotonic()
        container.run("systemctl", "stop", "edge-siamese")
        took = time.monotonic() - started
        assert container.property("Result") == "success"
        assert took < 1.0
        container.run("systemctl", "start", "edge-siamese")


def test_a_process_that_is_stopped_is_restarted_by_the_watchdog(device: Device) -> None:
    container = device.container
    device.serving()
    restarts = int(container.property("NRestarts"))
    container.run("systemctl", "kill", "--kill-who=main", "--signal=STOP", "edge-siamese")
    device.restarted_after(restarts, 20)
    assert "Watchdog timeout (limit 4s)!" in container.journal()
    assert [*device.objects().values()] == ["ama"]


def test_a_main_loop_that_hangs_is_restarted_by_the_watchdog_and_the_journal_has_its_traceback(device: Device) -> None:
    container = device.container
    device.serving()
    restarts, pid = int(container.property("NRestarts")), container.property("MainPID")
    before = container.journal().count("Watchdog timeout")
    container.run("python3", "/share/guest/hang_main_thread.py", pid, timeout=40)
    device.restarted_after(restarts, 20)
    journal = container.journal()
    assert journal.count("Watchdog timeout") == before + 1
    assert "Fatal Python error: Aborted" in journal
    assert "service.py" in journal
    device.serving()


def test_no_acknowledged_object_is_lost_and_none_half_saved_when_it_is_killed_200_times(device: Device) -> None:
    container = device.container
    device.serving()
    former = device.objects()
    restarts = int(container.property("NRestarts"))
    driver = ("python3", "/share/guest/kill_while_registering.py", str(KILLS), "7", "/share/registered.jsonl")
    done = json.loads(container.run(*driver, timeout=360))
    print(f"\n{device.suite.name}: {KILLS} kills in {done['seconds']:.0f} s, {done['acknowledged']} registrations")
    assert done["problem"] == ""
    assert int(container.property("NRestarts")) >= restarts + KILLS
    device.serving()

    lines = [json.loads(line) for line in (device.share / "registered.jsonl").read_text().splitlines()]
    acknowledged = {line["uid"]: line["name"] for line in lines if "uid" in line}
    assert len(acknowledged) >= KILLS / 4
    found = device.objects()
    assert {uid: found.get(uid) for uid in (*former, *acknowledged)} == {**former, **acknowledged}
    # One that was saved when the answer could not be given any more is whole as well, and was asked for.
    unanswered = set(found) - set(acknowledged) - set(former)
    assert len(unanswered) <= KILLS
    assert {found[uid] for uid in unanswered} <= {line["name"] for line in lines}
    listed = container.json("edge-siamese", "objects", "--json")["objects"]
    assert all(item["views"] == 1 and item["embedded"] == 1 for item in listed)
    sound = "import sqlite3; print(sqlite3.connect('/var/lib/edge-siamese/objects.db').execute('pragma integrity_check').fetchone()[0])"
    assert container.run("python3", "-c", sound) == "ok\n"


def test_an_upgrade_keeps_objects_and_settings_and_an_older_package_goes_back(device: Device) -> None:
    container = device.container
    uid = device.register("before the upgrade")
    kept, settings = device.objects(), container.read("/etc/edge-siamese/config.toml")
    assert f"edge-siamese {NEXT} runs" in device.install("next.deb")
    assert container.run("edge-siamese", "--version") == f"edge-siamese {NEXT}\n"
    assert device.serving()["version"] == NEXT
    assert device.objects() == kept
    assert container.read("/etc/edge-siamese/config.toml") == settings
    device.register("after the upgrade")

    device.install("present.deb")
    assert device.serving()["version"] == __version__
    assert uid in device.objects()
    assert "after the upgrade" in device.objects().values()


def test_an_upgrade_that_does_not_start_leaves_the_old_one_running(device: Device) -> None:
    container = device.container
    kept = device.objects()
    said = device.install("broken.deb", check=False)
    assert f"edge-siamese {BROKEN} does not start" in said
    assert f"edge-siamese is still at {__version__}" in said
    assert device.serving()["version"] == __version__
    assert device.objects() == kept
    # dpkg knows that it is not done, and the good package puts that right.
    assert container.run("dpkg-query", "--show", "--showformat=${Status}", "edge-siamese") == "install ok half-configured"
    device.install("present.deb")
    assert container.run("dpkg-query", "--show", "--showformat=${Status}", "edge-siamese") == "install ok installed"
    assert device.serving()["version"] == __version__


def test_a_removed_package_leaves_objects_and_settings_and_a_purged_one_nothing(device: Device) -> None:
    container = device.container
    kept, settings = device.objects(), container.read("/etc/edge-siamese/config.toml")
    container.run("dpkg", "--remove", "edge-siamese")
    assert not container.exists("/opt/edge-siamese")
    assert not container.exists("/usr/bin/edge-siamese")
    assert container.run("systemctl", "show", "--value", "--property=LoadState", "edge-siamese") == "not-found\n"
    assert container.run("systemctl", "--failed", "--no-legend", "--plain") == ""

    device.install("present.deb")
    device.serving()
    assert device.objects() == kept
    assert container.read("/etc/edge-siamese/config.toml") == settings

    container.run("dpkg", "--purge", "edge-siamese")
    for path in ("/opt/edge-siamese", "/etc/edge-siamese", "/var/lib/edge-siamese", "/usr/share/edge-siamese"):
        assert not container.exists(path), path
    left = container.run("find", "/etc/systemd", "/usr/lib/systemd", "-name", "*edge-siamese*")
    assert left == ""


def test_the_scripts_install_upgrade_go_back_and_uninstall_without_the_package(
    cache: Path, wheels: Path, debs: Debs, demo_bundle: Path, tmp_path: Path
) -> None:
    share = tmp_path / "share"
    later = source_of(tmp_path / "later", NEXT)
    collect(share / "wheels", ROOT, wheels, without="tflite_runtime")
    collect(share / "next-wheels", later, wheels)
    shutil.copytree(ROOT / "systemd", share / "systemd")
    shutil.copytree(demo_bundle, share / "bundle")
    draw(share / "picture.png")
    shutil.copy2(debs.present, share / "present.deb")
    script = ("sh", "/share/systemd/install.sh")
    with Container(debian_tree(cache, BOOKWORM), share) as container:
        device = Device(container, BOOKWORM, share)
        container.write("/etc/edge-siamese/config.toml", CONFIG)
        said = container.run(*script, "--wheels", "/share/wheels", "--runtime", "onnxruntime", timeout=240)
        assert said.splitlines()[0] == f"installing edge-siamese {__version__} with onnxruntime, Python 3.11.2"
        assert container.read("/etc/edge-siamese/config.toml") == CONFIG
        container.run("edge-siamese", "model", "install", "/share/bundle")
        assert device.serving()["model"]["runtime"] == "onnxruntime"  # type: ignore[index]
        device.register("ama")
        kept = device.objects()
        assert container.run("systemd-analyze", "verify", "edge-siamese.service", check=False) == ""

        container.run(*script, "--wheels", "/share/next-wheels", timeout=240)
        assert device.serving()["version"] == NEXT
        assert device.serving()["model"]["runtime"] == "tflite-runtime"  # type: ignore[index]
        said = container.run(*script, "--rollback")
        assert said == f"edge-siamese is at {__version__}-1 again; {NEXT}-1 is kept: --rollback returns to it\n"
        assert device.serving()["version"] == __version__
        assert device.objects() == kept

        # Nothing that runs is touched when there is something missing.
        done = container.call(*script, "--wheels", "/share/systemd")
        assert done.returncode == 1
        assert done.stderr.startswith("missing: the wheel of edge-siamese in /share/systemd\n")
        assert device.objects() == kept

        # The package takes over, and the script then leaves the field to it.
        device.install("present.deb")
        assert not container.exists("/usr/local/lib/systemd/system/edge-siamese.service")
        device.serving()
        assert device.objects() == kept
        done = container.call(*script, "--wheels", "/share/wheels")
        assert "edge-siamese is installed as a Debian package here" in done.stderr
        container.run("dpkg", "--remove", "edge-siamese")

        container.run(*script, "--wheels", "/share/next-wheels", "--no-start", timeout=240)
        assert container.property("ActiveState") == "inactive"
        container.run("systemctl", "start", "edge-siamese")
        device.serving()
        assert device.objects() == kept
        said = container.run("sh", "/opt/edge-siamese/current/share/edge-siamese/uninstall.sh")
        assert "/etc/edge-siamese and /var/lib/edge-siamese are kept" in said
        assert container.exists("/var/lib/edge-siamese/objects.db")
        assert container.run("find", "/usr/local", "-name", "*edge-siamese*") == ""
        assert not container.exists("/opt/edge-siamese")
        container.run("sh", "/share/systemd/uninstall.sh", "--purge")
        assert not container.exists("/var/lib/edge-siamese")
