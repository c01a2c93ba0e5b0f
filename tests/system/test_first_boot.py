"""The folder for the first start: it installs without a network, beside Imager's own script, and after a power cut."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from edge_siamese import __version__
from scripts.first_boot import first_boot, packages
from tests.system.cache import cached
from tests.system.containers import BOOKWORM, TRIXIE, Container, Suite, debian_tree, wait_for
from tests.system.device import CONFIG, SETTINGS, Device, draw
from tests.system.packages import ROOT, debian_package

pytestmark = pytest.mark.system

CMDLINE = "console=tty1 root=PARTUUID=4d8fd085-02 rootfstype=ext4 fsck.repair=yes rootwait quiet"
WORDS = " systemd.run_success_action=reboot systemd.unit=kernel-command-line.target"
# As Raspberry Pi Imager writes it, shortened.
IMAGER = """#!/bin/sh
set +e
echo pi-01 >/etc/hostname
rm -f /boot/firmware/firstrun.sh
sed -i 's| systemd.run.*||g' /boot/firmware/cmdline.txt
exit 0
"""
# As Imager writes them for cloud-init, shortened, and where Raspberry Pi OS tells cloud-init to look for them.
CLOUD_INIT = {
    "user-data": "#cloud-config\nhostname: pi-02\nruncmd:\n- touch /var/lib/imager-ran\n",
    "meta-data": "instance-id: rpi-imager-1786770245730\n",
}
SEED = "datasource_list: [ NoCloud, None ]\ndatasource:\n  NoCloud:\n    seedfrom: file:///boot/firmware/\n"
REBOOT = 133
"""Exit status of systemd-nspawn if the system in it wants to start again."""
LOG = "edge-siamese/first-boot.log"
UNIT = "edge-siamese-first-boot.service"
DONE = f"result: edge-siamese {__version__} is installed and running"


@pytest.fixture(scope="module")
def deb(wheels: Path, arch: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Debian package of this checkout."""
    return debian_package(tmp_path_factory.mktemp("deb"), ROOT, wheels, arch)


class Card:
    """A boot partition and the files that a system changes, in directories."""

    def __init__(self, place: Path, folder: Path, tree: Path, imager: bool = False) -> None:
        self.boot, self.share, self.changes = (place / name for name in ("boot", "share", "changes"))
        for directory in (self.boot, self.share, self.changes):
            directory.mkdir(parents=True)
        draw(self.share / "picture.png")
        with zipfile.ZipFile(folder) as archive:
            archive.extractall(self.boot)
        run = f" systemd.run=/boot/firmware/firstrun.sh{WORDS}" if imager else ""
        (self.boot / "cmdline.txt").write_text(f"{CMDLINE}{run}\n")
        if imager:
            (self.boot / "firstrun.sh").write_text(IMAGER)
        for path in self.boot.rglob("*"):
            path.chmod(0o755)  # as all files of FAT
        enable = ["sh", self.boot / "edge-siamese" / "first-boot.sh", "--enable"]
        subprocess.run(enable, check=True, capture_output=True)
        self.container = Container(tree, self.share, self.changes, self.boot)

    def first_start(self) -> None:
        """Start with what cmdline.txt says, until the system wants to start again."""
        done = subprocess.run(
            self.container.command(), stdin=subprocess.DEVNULL, capture_output=True, timeout=90, check=False
        )
        assert done.returncode == REBOOT, done.stdout.decode(errors="replace")
        assert (self.boot / "cmdline.txt").read_text() == f"{CMDLINE}\n"
        assert self.log() == ["scheduled: the installation begins at the next start"]

    def log(self) -> list[str]:
        return (self.boot / LOG).read_text().splitlines()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


def test_the_folder_installs_once_without_a_network(
    suite: Suite, tree: Path, deb: Path, config: Path, tmp_path: Path
) -> None:
    card = Card(tmp_path, first_boot(deb, tmp_path, 1_700_000_000, config), tree)
    card.first_start()
    with card.container as container:
        device = Device(container, suite, card.share)
        assert device.serving()["version"] == __version__
        assert container.read(SETTINGS) == CONFIG
        log = card.log()
        assert log[1].startswith("attempt 1 at ")
        assert log[-1] == DONE
        assert not container.exists(f"/etc/systemd/system/{UNIT}")
        assert container.property("Result", UNIT) == "success"
        uid = device.register("before the second start")
        container.reboot()
        assert device.serving()["version"] == __version__
        assert list(device.objects()) == [uid]
        assert container.property("LoadState", UNIT) == "not-found"
        assert card.log() == log, "the second start does nothing"

        # The LED shows a failure, and another try is a matter of the same command.
        for name in ("trigger", "delay_on", "delay_off"):
            container.write(f"/run/leds/ACT/{name}", "")
        command = ("env", "LEDS=/run/leds", "sh", f"/boot/firmware/{LOG.replace('.log', '.sh')}", "--install")
        container.run(*command)
        assert card.log()[-2:] == [f"edge-siamese {__version__} is installed already", DONE]
        assert container.read("/run/leds/ACT/trigger") == "mmc0\n"
        package = next((card.boot / "edge-siamese").glob("*.deb"))
        package.rename(package.with_suffix(".part"))
        assert container.call(*command).returncode == 1
        assert card.log()[-1] == "result: failed (see above); the next start tries again"
        assert container.read("/run/leds/ACT/trigger") == "timer\n"


def test_it_runs_beside_imagers_script_and_brings_packages_and_a_model(
    cache: Path, arch: str, deb: Path, config: Path, demo_bundle: Path, tmp_path: Path
) -> None:
    def fetch(place: Path) -> None:
        packages(BOOKWORM.name, arch, place)
        shutil.rmtree(place / "apt")

    fetched = cached(
        cache, f"first-boot-{BOOKWORM.name}", (ROOT / "scripts" / "first_boot.py").read_text(), fetch
    )
    folder = first_boot(deb, tmp_path, 1_700_000_000, config, demo_bundle)
    card = Card(tmp_path, folder, debian_tree(cache, BOOKWORM), imager=True)
    shutil.copytree(fetched, card.boot / "edge-siamese" / "packages" / BOOKWORM.name)
    words = (card.boot / "cmdline.txt").read_text()
    # A system without what Raspberry Pi OS Lite lacks.
    (card.boot / "cmdline.txt").write_text(CMDLINE)
    with card.container as container:
        container.run("dpkg", "--purge", "python3-numpy", "python3-pil", "liblapack3")
        assert container.call("python3", "-c", "import numpy").returncode == 1
    (card.boot / "cmdline.txt").write_text(words)

    card.first_start()
    assert not (card.boot / "firstrun.sh").exists(), "Imager's script ran, too"
    with card.container as container:
        device = Device(container, BOOKWORM, card.share)
        assert card.log()[-1] == DONE
        assert container.read("/etc/hostname") == "pi-01\n"
        model = container.json("edge-siamese", "info", "--json")
        assert device.serving()["model"]["runtime"] == BOOKWORM.runtime, model
        assert container.exists("/var/lib/edge-siamese/models")
        assert container.run("dpkg", "--audit") == ""


def test_cloud_init_applies_imagers_settings_at_the_second_start(
    cache: Path, deb: Path, config: Path, tmp_path: Path
) -> None:
    tree = debian_tree(cache, TRIXIE, "cloud-init")
    card = Card(tmp_path, first_boot(deb, tmp_path, 1_700_000_000, config), tree)
    for name, text in CLOUD_INIT.items():
        (card.boot / name).write_text(text)
    seed = card.changes / "etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg"
    seed.parent.mkdir(parents=True)
    seed.write_text(SEED)
    card.first_start()
    assert not (card.changes / "var/lib/imager-ran").exists()
    with card.container as container:
        assert Device(container, TRIXIE, card.share).serving()["version"] == __version__
        assert card.log()[-1] == DONE
        wait_for(lambda: container.exists("/var/lib/imager-ran"), 60, "cloud-init runs its commands")
        assert container.run("hostname") == "pi-02\n"


def test_a_power_cut_during_the_installation_costs_one_more_start(
    cache: Path, deb: Path, config: Path, tmp_path: Path
) -> None:
    tree = debian_tree(cache, BOOKWORM)
    card = Card(tmp_path, first_boot(deb, tmp_path, 1_700_000_000, config), tree)
    card.first_start()
    container = card.container
    container.start()
    wait_for(
        lambda: list((card.changes / "opt/edge-siamese").glob("versions/*/bin/pip")),
        90,
        "the package is being configured",
        every=0.02,
    )
    container.kill()
    assert not (card.changes / "opt/edge-siamese/current").is_symlink()
    assert card.log()[1].startswith("attempt 1 at ")
    assert not [line for line in card.log() if line.startswith("result:")]
    with container:
        device = Device(container, BOOKWORM, card.share)
        assert device.serving()["version"] == __version__
        assert [line[:9] for line in card.log() if line.startswith("attempt")] == ["attempt 1", "attempt 2"]
        assert card.log()[-1] == DONE
        status = container.run("dpkg-query", "--show", "--showformat=${Status}", "edge-siamese")
        assert status == "install ok installed"
        assert not container.exists(f"/etc/systemd/system/{UNIT}")
