"""The service under systemd of Debian 12 and 13: its permissions, and its recovery from failures."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_siamese import __version__, models
from tests.edge_siamese.signing import make_key, needs_keygen
from tests.system.containers import Suite, wait_for
from tests.system.device import CONFIG, SETTINGS, Debs, Device, booted
from tests.system.packages import ROOT

pytestmark = pytest.mark.system

KILLS = 200
LED = "/sys/devices/platform/leds/leds/edge-siamese"


@pytest.fixture(scope="module")
def device(
    suite: Suite, tree: Path, debs: Debs, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Device]:
    """A system with the package installed; the tests go through its life in their order."""
    with booted(tree, suite, tmp_path_factory.mktemp(suite.name), demo_bundle, debs.present) as device:
        device.install("present.deb")
        yield device


def test_the_package_brings_a_service_that_runs_with_the_shipped_model_or_says_what_is_missing(
    device: Device, suite: Suite
) -> None:
    container = device.container
    assert container.run("systemctl", "--version").startswith(f"systemd {suite.systemd} ")
    assert container.run("edge-siamese", "--version") == f"edge-siamese {__version__}\n"
    assert container.run("systemctl", "is-enabled", "edge-siamese") == "enabled\n"
    assert container.property("ActiveState") == "active"
    assert container.property("Type") == "notify"
    if models.default() is None:
        assert container.property("StatusText") == "no model is installed: edge-siamese model install BUNDLE"
        return

    def bundle() -> str:
        model = container.json("edge-siamese", "status", "--json")["model"]
        return model["bundle"] if model else ""

    wait_for(lambda: bundle().endswith("/edge_siamese/models/objects"), 30, "the shipped model is used")


def test_the_unit_is_well_formed_and_its_exposure_is_low(device: Device) -> None:
    unit = "/usr/lib/systemd/system/edge-siamese.service"
    # verify returns 0 also where it has something to say
    assert device.container.run("systemd-analyze", "verify", unit, check=False) == ""
    security = ("systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold=20", unit)
    found = re.search(
        r"Overall exposure level for edge-siamese.service: ([\d.]+)", device.container.run(*security)
    )
    assert found
    assert float(found[1]) <= 2.0


def test_the_account_is_in_the_groups_of_its_devices_and_cannot_log_in(device: Device) -> None:
    groups = device.container.run("id", "--groups", "--name", "edge-siamese").split()
    assert sorted(groups) == ["audio", "edge-siamese", "gpio", "input", "render", "video"]
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
    modes = container.run(
        "stat", "--format=%A %U:%G %n", "/var/lib/edge-siamese", "/run/edge-siamese/control.sock"
    )
    assert modes.splitlines() == [
        "drwxr-x--- edge-siamese:edge-siamese /var/lib/edge-siamese",
        "srw-rw---- edge-siamese:edge-siamese /run/edge-siamese/control.sock",
    ]


def test_as_installed_nothing_listens_on_the_network(device: Device) -> None:
    files = [f"/proc/net/{name}" for name in ("tcp", "tcp6", "udp", "udp6")]
    lines = device.container.run("cat", *files).splitlines()
    assert [line for line in lines if "local_address" not in line] == []


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
        container.run(
            "journalctl", "--unit=probe", "--output=cat", "--identifier=python3", "--no-pager"
        ).splitlines()[-1]
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
        "a C callback": "done",
        "a user namespace": "EPERM",
        "a set-user-id file": "EPERM",
        "become root": "EPERM",
        "raise its priority": "EPERM",
        "lower its priority": "done",
        "examine itself": "done",
        "an internet socket": "done",
        "a netlink socket": "done",
        "a packet socket": "EAFNOSUPPORT",
        "a host name": "EPERM",
    }


def test_settings_are_read_at_a_reload_and_a_model_that_is_installed_is_used_at_once(
    device: Device, suite: Suite
) -> None:
    container = device.container
    assert container.read(SETTINGS) == (ROOT / "systemd" / "config.toml").read_text()
    device.set_up()
    status = device.serving()
    assert status["model"]["runtime"] == suite.runtime
    assert status["camera"]["status"] == "running"
    assert status["version"] == __version__
    wait_for(lambda: "frames/s" in container.property("StatusText"), 10, "the status line has the frame rate")


def test_an_object_is_registered_and_listed(device: Device) -> None:
    device.serving()
    uid = device.register("ama")
    assert device.objects() == {uid: "ama"}


def test_a_hangup_signal_reads_the_settings_again_in_the_same_process(device: Device) -> None:
    container = device.container
    pid = container.property("MainPID")
    assert "object" in container.read(SETTINGS)
    container.write(SETTINGS, CONFIG.replace("object {number}", "thing {number}"))
    container.run("systemctl", "reload", "edge-siamese")
    wait_for(lambda: "the settings were read again" in container.journal(), 10, "the settings are read")
    device.serving()
    assert container.property("MainPID") == pid
    assert container.property("ActiveState") == "active"


def test_wrong_settings_change_nothing_at_a_reload_and_end_the_service_for_good_at_a_start(
    device: Device,
) -> None:
    container = device.container
    pid, good = container.property("MainPID"), container.read(SETTINGS)
    container.write(SETTINGS, "[camera]\nkind = 'eye'\n")
    container.run("systemctl", "reload", "edge-siamese")
    wait_for(lambda: "the previous settings stay in use" in container.journal(), 10, "the refusal is logged")
    assert container.property("MainPID") == pid
    container.run("systemctl", "restart", "edge-siamese", check=False)
    wait_for(lambda: container.property("ActiveState") == "failed", 20, "the service has failed")
    assert container.property("ExecMainStatus") == "78"
    container.write(SETTINGS, good)
    container.run("systemctl", "restart", "edge-siamese")
    device.serving()


@needs_keygen
def test_with_trusted_keys_the_service_uses_only_a_signed_model(device: Device) -> None:
    container, keygen = device.container, shutil.which("ssh-keygen")
    assert keygen is not None
    key, good = make_key(device.share / "release"), container.read(SETTINGS)
    shutil.copy(keygen, device.share)  # the container has no network to install it from
    container.run("install", "/share/ssh-keygen", "/usr/bin/ssh-keygen")
    container.write(SETTINGS, f'{good}\n[model]\ntrusted_keys = ["{key.line}"]\n')
    container.run("systemctl", "restart", "edge-siamese")
    wait_for(lambda: " is not signed, and " in container.journal(), 30, "the unsigned model is refused")
    key.sign(device.share / "bundle")
    said = container.run("edge-siamese", "model", "install", "/share/bundle")
    assert "is now the current model; the daemon uses it" in said
    assert f"signed by {key.name}, a trusted key" in container.run("edge-siamese", "model", "list")
    container.run("systemctl", "restart", "edge-siamese")
    status = device.serving()
    assert (status["loading"]["model_problem"], status["model"]["bundle"].startswith("/var/lib")) == (
        "",
        True,
    )
    container.write(SETTINGS, good)
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


def test_a_main_loop_that_hangs_is_restarted_by_the_watchdog_and_the_journal_has_its_traceback(
    device: Device,
) -> None:
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


def test_no_acknowledged_object_is_lost_and_none_half_saved_when_it_is_killed_200_times(
    device: Device,
) -> None:
    container = device.container
    device.serving()
    former = device.objects()
    restarts = int(container.property("NRestarts"))
    driver = ("python3", "/share/guest/kill_while_registering.py", str(KILLS), "7", "/share/registered.jsonl")
    done = json.loads(container.run(*driver, timeout=360))
    print(
        f"\n{device.suite.name}: {KILLS} kills in {done['seconds']:.0f} s, {done['acknowledged']} registrations"
    )
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
    store = "sqlite3.connect('/var/lib/edge-siamese/objects.db')"
    check = f"import sqlite3; print({store}.execute('pragma integrity_check').fetchone()[0])"
    assert container.run("python3", "-c", check) == "ok\n"
