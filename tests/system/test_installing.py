"""Installing on Debian 12 and 13 without a network: upgrades, downgrades and removal."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_siamese import __version__
from tests.system.containers import BOOKWORM, Suite, debian_tree
from tests.system.device import BROKEN, CONFIG, NEXT, SETTINGS, Debs, Device, booted
from tests.system.packages import ROOT, collect, source_of

pytestmark = pytest.mark.system


@pytest.fixture(scope="module")
def device(
    suite: Suite, tree: Path, debs: Debs, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Device]:
    """A system with the package, a camera and a model; the tests go through its life in their order."""
    packages = (debs.present, debs.next, debs.broken)
    with booted(tree, suite, tmp_path_factory.mktemp(suite.name), demo_bundle, *packages) as device:
        device.install("present.deb")
        device.set_up()
        yield device


def test_an_upgrade_keeps_objects_and_settings_and_an_older_package_goes_back(device: Device) -> None:
    container = device.container
    uid = device.register("before the upgrade")
    kept, settings = device.objects(), container.read(SETTINGS)
    model = device.serving()["model"]["bundle"]
    assert f"edge-siamese {NEXT} is running" in device.install("next.deb")
    assert container.run("edge-siamese", "--version") == f"edge-siamese {NEXT}\n"
    status = device.serving()
    assert (status["version"], status["model"]["bundle"]) == (NEXT, model)
    assert device.objects() == kept
    assert container.read(SETTINGS) == settings
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
    status = ("dpkg-query", "--show", "--showformat=${Status}", "edge-siamese")
    assert container.run(*status) == "install ok half-configured"
    device.install("present.deb")
    assert container.run(*status) == "install ok installed"
    assert device.serving()["version"] == __version__


def test_a_removed_package_leaves_objects_and_settings_and_a_purged_one_nothing(device: Device) -> None:
    container = device.container
    kept, settings = device.objects(), container.read(SETTINGS)
    container.run("dpkg", "--remove", "edge-siamese")
    assert not container.exists("/opt/edge-siamese")
    assert not container.exists("/usr/bin/edge-siamese")
    assert container.property("LoadState") == "not-found"
    assert container.run("systemctl", "--failed", "--no-legend", "--plain") == ""

    device.install("present.deb")
    device.serving()
    assert device.objects() == kept
    assert container.read(SETTINGS) == settings

    container.run("dpkg", "--purge", "edge-siamese")
    for folder in ("/opt", "/etc", "/var/lib", "/usr/share"):
        assert not container.exists(f"{folder}/edge-siamese")
    left = container.run("find", "/etc/systemd", "/usr/lib/systemd", "-name", "*edge-siamese*")
    assert left == ""


VISIT = """
import json, sys, time, urllib.error, urllib.request

def status(path, body=None):
    headers = {"Content-Type": "application/json", "Origin": "http://127.0.0.1:8765"}
    request = urllib.request.Request(f"http://127.0.0.1:8765{path}", body, headers)
    for _ in range(50):
        try:
            return urllib.request.urlopen(request, timeout=10).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            time.sleep(0.2)  # it is opened beside recognition

def login(password):
    return status("/api/v1/login", json.dumps({"password": password}).encode())

print(json.dumps({"/": status("/"), "/api/v1/status": status("/api/v1/status"),
    "with a wrong one": login("guess"), "with the password": login(sys.argv[1])}))
"""


def test_the_scripts_install_upgrade_go_back_and_uninstall_without_the_package(
    cache: Path, wheels: Path, debs: Debs, demo_bundle: Path, tmp_path: Path
) -> None:
    share = tmp_path / "share"
    collect(share / "wheels", ROOT, wheels, without="tflite_runtime")
    collect(share / "next-wheels", source_of(tmp_path / "later", NEXT), wheels)
    shutil.copytree(ROOT / "systemd", share / "systemd")
    script = ("sh", "/share/systemd/install.sh")
    with booted(debian_tree(cache, BOOKWORM), BOOKWORM, share, demo_bundle, debs.present) as device:
        container = device.container
        container.write(SETTINGS, CONFIG)
        said = container.run(*script, "--wheels", "/share/wheels", "--runtime", "onnxruntime", timeout=240)
        assert (
            said.splitlines()[0] == f"installing edge-siamese {__version__} with onnxruntime, Python 3.11.2"
        )
        assert container.read(SETTINGS) == CONFIG
        container.run("edge-siamese", "model", "install", "/share/bundle")
        assert device.serving()["model"]["runtime"] == "onnxruntime"
        device.register("ama")
        kept = device.objects()
        assert container.run("systemd-analyze", "verify", "edge-siamese.service", check=False) == ""

        said = container.run(*script, "--wheels", "/share/next-wheels", "--dashboard", timeout=240)
        assert device.serving()["version"] == NEXT
        # Settings that had no such table have it now, and a password keeps others out.
        password = re.search(r"password of the dashboard: (\S+)", said)
        assert password, said
        assert container.read(SETTINGS) == f'{CONFIG}\n[dashboard]\nenabled = true\nlisten = "0.0.0.0"\n'
        answers = json.loads(container.run("python3", "-c", VISIT, password[1]))
        assert answers == {"/": 200, "/api/v1/status": 401, "with a wrong one": 401, "with the password": 200}
        assert (
            container.run("stat", "-c", "%U %a", "/var/lib/edge-siamese/dashboard.json")
            == "edge-siamese 600\n"
        )
        assert device.serving()["model"]["runtime"] == "tflite-runtime"
        said = container.run(*script, "--rollback")
        assert (
            said == f"edge-siamese is at {__version__}-1 again; {NEXT}-1 is kept: --rollback returns to it\n"
        )
        assert device.serving()["version"] == __version__
        assert device.objects() == kept

        # As if the power went: the one or the other version is there, and the next installation is whole.
        for seconds in ("0.5", "2", "3", "4", "5"):
            container.run(
                "timeout", "--signal=KILL", seconds, *script, "--wheels", "/share/next-wheels", check=False
            )
            version = container.run("edge-siamese", "--version").split()[1]
            assert version in (__version__, NEXT)
            if version == NEXT:
                container.run(*script, "--rollback")
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
