"""A boot partition as Raspberry Pi OS leaves it, and firmware_configs/install.sh run on it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

CONFIGS = Path(__file__).parent.parent / "firmware_configs"
SHELL = shutil.which("dash") or "sh"

# As Raspberry Pi OS has it, shortened: Bookworm, and Trixie.
BOOKWORM = """\
# For more options and information see
# http://rptl.io/configtxt

# Uncomment some or all of these to enable the optional hardware interfaces
#dtparam=i2c_arm=on

# Enable audio (loads snd_bcm2835)
dtparam=audio=on
camera_auto_detect=1
display_auto_detect=1
auto_initramfs=1
dtoverlay=vc4-kms-v3d
max_framebuffers=2
disable_fw_kms_setup=1
arm_64bit=1
disable_overscan=1
arm_boost=1

[cm4]
otg_mode=1

[all]
"""
TRIXIE = BOOKWORM.removesuffix("[all]\n") + "[cm5]\ndtoverlay=dwc2,dr_mode=host\n\n[all]\n"
SYSTEMS = {"bookworm": BOOKWORM, "trixie": TRIXIE}
INCLUDE = "include edge-siamese.txt\n"


def install(
    boot: Path, *options: str, board: str | None = "4", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run install.sh on a boot partition; a board's name stands for --board, None for none."""
    (boot.parent / "bin").mkdir(exist_ok=True)
    sync = boot.parent / "bin" / "sync"
    if not sync.exists():  # the real one waits for all that other tests write
        sync.write_text(f"#!/bin/sh\necho sync >>{boot.parent}/calls\n")
        sync.chmod(0o755)
    chosen = ["--board", board] if board else []
    return subprocess.run(
        [SHELL, str(CONFIGS / "install.sh"), *chosen, *options, "--boot", str(boot)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PATH": f"{boot.parent / 'bin'}:{os.environ['PATH']}",
            "DEVICE_TREE_MODEL": str(boot / "no-model"),
            **environment,
        },
    )


def installed(boot: Path, *options: str, board: str | None = "4") -> str:
    """The same where it has to work; what it said."""
    done = install(boot, *options, board=board)
    assert done.returncode == 0, done.stderr
    return done.stdout


def made(place: Path) -> Path:
    """A boot partition in a directory, with Bookworm's config.txt."""
    boot = place / "boot"
    boot.mkdir()
    (boot / "config.txt").write_text(BOOKWORM)
    return boot


def names(boot: Path) -> set[str]:
    return {path.name for path in boot.iterdir()}


def read(boot: Path) -> str:
    return (boot / "config.txt").read_bytes().decode()


def whole(boot: Path) -> str:
    """What the firmware reads."""
    return read(boot).replace(INCLUDE, (boot / "edge-siamese.txt").read_text())
