"""The folder for the first start: its zip file, and what its script does to cmdline.txt of a card."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edge_siamese.errors import SettingsError
from scripts.first_boot import FirstBootError, contents, first_boot, pack

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "systemd" / "first-boot.sh"
LINE = "console=serial0,115200 console=tty1 root=PARTUUID=4d8fd085-02 rootfstype=ext4 rootwait"
WORDS = "systemd.run_success_action=reboot systemd.unit=kernel-command-line.target"


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A boot partition with the script."""
    folder = tmp_path / "bootfs" / "edge-siamese"
    folder.mkdir(parents=True)
    (folder / "first-boot.sh").write_bytes(SCRIPT.read_bytes())
    (folder.parent / "cmdline.txt").write_text(f"{LINE}\n")
    return folder.parent


def run(card: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (card.parent / "bin").mkdir(exist_ok=True)
    sync = card.parent / "bin" / "sync"
    sync.write_text("#!/bin/sh\n")  # the real one waits for all that other tests write
    sync.chmod(0o755)
    command = ["sh", str(card / "edge-siamese" / "first-boot.sh"), *words]
    text = Path(command[1]).read_text().replace("PATH=/usr/local/sbin", f"PATH={sync.parent}:/usr/local/sbin")
    Path(command[1]).write_text(text)
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LINE, f"{LINE} systemd.run=/boot/firmware/edge-siamese/first-boot.sh {WORDS}"),
        (
            f"{LINE} cfg80211.ieee80211_regdom=DE ds=nocloud;i=rpi-imager-1786770245730 ",
            f"{LINE} cfg80211.ieee80211_regdom=DE ds=nocloud;i=rpi-imager-1786770245730 "
            f"systemd.run=/boot/firmware/edge-siamese/first-boot.sh {WORDS}",
        ),
        # Imager's own script on Bookworm: the system corrects both directories in one step.
        (
            f"{LINE} systemd.run=/boot/firstrun.sh {WORDS}",
            f"{LINE} systemd.run=/boot/edge-siamese/first-boot.sh systemd.run=/boot/firstrun.sh {WORDS}",
        ),
        (
            f"{LINE} systemd.run=/boot/firmware/firstrun.sh {WORDS}",
            f"{LINE} systemd.run=/boot/firmware/edge-siamese/first-boot.sh systemd.run=/boot/firmware/firstrun.sh {WORDS}",
        ),
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_words_are_added_once(card: Path, before: str, after: str, end: str) -> None:
    cmdline = card / "cmdline.txt"
    cmdline.write_bytes(f"{before}{end}".encode())
    done = run(card, "--enable")
    said = (
        f"{cmdline}: edge-siamese is installed at the next start; see edge-siamese/first-boot.log afterward\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")
    assert cmdline.read_bytes() == f"{after}\n".encode()
    assert run(card, "--enable").stdout == f"{cmdline} runs it already\n"
    assert cmdline.read_bytes() == f"{after}\n".encode()
    assert sorted(path.name for path in card.iterdir()) == ["cmdline.txt", "edge-siamese"]


def test_a_wrong_place_is_refused(card: Path) -> None:
    cmdline = card / "cmdline.txt"
    cmdline.write_text("\n")
    assert run(card, "--enable").stderr == f"error: {cmdline} is empty: write the card again\n"
    cmdline.write_text(f"{LINE} systemd.run=/boot/other.sh\n")
    done = run(card, "--enable")
    assert (done.returncode, done.stderr) == (
        1,
        f"error: {cmdline} runs another program (systemd.run=): remove it first\n",
    )
    cmdline.unlink()
    assert run(card, "--enable").stderr == (
        f"error: {card} has no cmdline.txt: copy this folder to the boot partition of Raspberry Pi OS (bootfs)\n"
    )


def test_options_are_explained(card: Path) -> None:
    done = run(card, "--help")
    assert done.returncode == 0
    assert "first-boot.sh --enable\n" in done.stdout
    done = run(card, "--sideways")
    assert (done.returncode, done.stderr) == (
        2,
        "error: unknown option --sideways (--help shows the options)\n",
    )


def package(place: Path) -> Path:
    path = place / "edge-siamese_7.0.0~rc1_arm64.deb"
    path.write_bytes(b"package")
    return path


def test_the_zip_file_holds_one_folder_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert first_boot(package(tmp_path), tmp_path / name, 1_700_000_000) == (
            tmp_path / name / "edge-siamese-first-boot_7.0.0~rc1_arm64.zip"
        )
    one, two = (path.read_bytes() for path in sorted(tmp_path.glob("*/*.zip")))
    assert one == two
    with zipfile.ZipFile(tmp_path / "one" / "edge-siamese-first-boot_7.0.0~rc1_arm64.zip") as archive:
        modes = {info.filename: oct(info.external_attr >> 16) for info in archive.infolist()}
        assert {info.date_time for info in archive.infolist()} == {(2023, 11, 14, 22, 13, 20)}
        assert archive.read("edge-siamese/first-boot.sh") == SCRIPT.read_bytes()
    assert modes == {
        "edge-siamese/README.txt": "0o100644",
        "edge-siamese/config.toml": "0o100644",
        "edge-siamese/edge-siamese_7.0.0~rc1_arm64.deb": "0o100644",
        "edge-siamese/first-boot.sh": "0o100755",
    }


def test_settings_a_model_and_packages_are_added_and_checked(tmp_path: Path, writable_bundle: Path) -> None:
    config, numpy = tmp_path / "pi.toml", tmp_path / "python3-numpy.deb"
    config.write_text('[camera]\nkind = "synthetic"\n')
    numpy.write_bytes(b"numpy")
    files = contents(package(tmp_path), config, writable_bundle, {"trixie": [numpy]})
    assert files["config.toml"] == config.read_bytes()
    assert files["packages/trixie/python3-numpy.deb"] == b"numpy"
    assert files["bundle/manifest.json"] == (writable_bundle / "manifest.json").read_bytes()
    pack(files, tmp_path / "x.zip", 0)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        assert archive.infolist()[0].date_time[0] == 1980
        assert len(archive.namelist()) == len(files)

    config.write_text('[camera]\nkind = "telescope"\n')
    with pytest.raises(SettingsError, match=r"pi\.toml.*telescope"):
        contents(package(tmp_path), config, None, {})
    with pytest.raises(FirstBootError, match="--bundle: /missing is not a directory"):
        contents(package(tmp_path), None, Path("/missing"), {})


def test_the_command_reports_errors_in_one_line(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "first_boot.py")]
    done = subprocess.run([*command, "--deb", "missing.deb"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: --deb: missing.deb does not exist\n")
    words = ["--deb", str(package(tmp_path)), "--out", str(tmp_path)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == f"{tmp_path}/edge-siamese-first-boot_7.0.0~rc1_arm64.zip: 0 MB\n", done.stderr
