"""A device with systemd, as tests of the service see it: what it is given, and what they ask it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tests.system.containers import Container, Suite, wait_for

NEXT, BROKEN = "97.0.0", "98.0.0"
"""Versions that do not exist; the second one's daemon ends at once."""
GUEST = Path(__file__).with_name("guest")
# A picture that stands still, learned at once and again and again: what is tried here is not the eye.
CONFIG = """
[camera]
kind = "files"
path = "/share/picture.png"
frame_rate = 60

[panel]
kind = "none"

[recognition]
seen_interval_s = 0

[registration]
frames = 1
min_sharpness = 0
min_brightness = 0
max_brightness = 255
max_motion = 100
collisions = "allow"
name_template = "object {number}"
"""
SETTINGS = "/etc/edge-siamese/config.toml"
# So that a test does not wait for what is right for a device.
QUICK = "[Service]\nWatchdogSec=4\nTimeoutAbortSec=2\nRestartSec=20ms\n"
DROP_IN = "/etc/systemd/system/edge-siamese.service.d/quick.conf"


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

    def serving(self) -> dict[str, Any]:
        """The daemon's status, once it recognizes frames."""

        def found() -> dict[str, Any] | None:
            done = self.container.call("edge-siamese", "status", "--json")
            status = json.loads(done.stdout) if done.returncode == 0 else {}
            return status if status.get("frames", 0) > 3 else None

        status: dict[str, Any] = wait_for(found, 30, "frames are recognized")
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

    def hurry(self) -> None:
        """Restart the service, with a systemd that does not make a test wait."""
        self.container.write(DROP_IN, QUICK)
        self.container.run("systemctl", "daemon-reload")
        self.container.run("systemctl", "restart", "edge-siamese")

    def set_up(self) -> None:
        """What a user does after the installation: a camera in the settings, and a model."""
        self.container.write(SETTINGS, CONFIG)
        self.hurry()
        said = self.container.run("edge-siamese", "model", "install", "/share/bundle")
        assert "is now the current model; the daemon uses it" in said
        self.serving()


@contextmanager
def booted(
    tree: Path, suite: Suite, share: Path, bundle: Path, *packages: Path, changes: Path | None = None
) -> Iterator[Device]:
    """A system with these in its /share: the guests' scripts, a picture for the camera, a bundle, and the packages.

    With `changes`, an empty directory, it can be rebooted.
    """
    share.mkdir(parents=True, exist_ok=True)
    shutil.copytree(GUEST, share / "guest")
    shutil.copytree(bundle, share / "bundle")
    draw(share / "picture.png")
    for package in packages:  # present.deb, next.deb, broken.deb
        shutil.copy2(package, share / f"{package.parent.name}.deb")
    with Container(tree, share, changes) as container:
        try:
            yield Device(container, suite, share)
        finally:
            (share / "journal.txt").write_text(container.journal())


def draw(path: Path) -> None:
    """Something on a white page."""
    picture = Image.new("L", (160, 120), 255)
    ImageDraw.Draw(picture).line([(40, 100), (80, 20), (120, 100), (60, 60)], fill=0, width=6)
    picture.save(path)
