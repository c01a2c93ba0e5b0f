"""Checks of camera, panel and permissions; devices that the daemon uses are not opened."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from edge_siamese.doctor import Finding, devices
from edge_siamese.doctor.findings import Account, Context
from edge_siamese.errors import PanelError
from edge_siamese.panel.panel import NoPanel, SimulatedPanel
from edge_siamese.settings import CameraSettings, PanelSettings, Settings, SoundSettings
from tests.edge_siamese.doctor.machines import SERVICE, WORKSTATION, only, write


def camera_of(context: Context, **options: Any) -> Finding:
    settings = structs.replace(context.settings, camera=CameraSettings(**options))
    return only(devices.check_camera(replace(context, settings=settings)))


class TestPermissions:
    @pytest.fixture
    def on_pi(self, context: Context) -> Context:
        """All devices belong to the group 0, and their owner alone may open DMA heaps."""
        for name in ("video0", "media0", "gpiochip0", "dma_heap/linux,cma"):
            path = context.root / "dev" / name
            path.touch()
            path.chmod(0o600 if name.startswith("dma") else 0o660)
            os.chown(path, 0, 0) if os.geteuid() == 0 else None
        settings = structs.replace(
            context.settings, camera=CameraSettings(kind="auto"), panel=PanelSettings(kind="auto")
        )
        return replace(context, settings=settings, account=SERVICE)

    def test_denied_devices_are_reported_by_group(
        self, on_pi: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = iter(["video", "video", "root", "gpio"])
        monkeypatch.setattr(devices, "group_name", lambda _: next(names))
        found = list(devices.check_permissions(on_pi))
        dev = on_pi.root / "dev"
        assert found == [
            Finding(
                "permissions",
                "error",
                f"edge-siamese may not open {dev}/video0, {dev}/media0 (group video)",
                "sudo usermod -aG video edge-siamese, then sudo systemctl restart edge-siamese",
            ),
            Finding(
                "permissions",
                "error",
                f"edge-siamese may not open {dev}/dma_heap/linux,cma (group root)",
                "install systemd/99-edge-siamese.rules to /etc/udev/rules.d, then: "
                "sudo udevadm control --reload && sudo udevadm trigger",
            ),
            Finding(
                "permissions",
                "error",
                f"edge-siamese may not open {dev}/gpiochip0 (group gpio)",
                "sudo usermod -aG gpio edge-siamese, then sudo systemctl restart edge-siamese",
            ),
        ]

    def test_group_members_may_open_devices(self, on_pi: Context) -> None:
        group = (on_pi.root / "dev" / "video0").stat().st_gid
        member = Account("edge-siamese", 4242, frozenset({group}))
        (found,) = devices.check_permissions(replace(on_pi, account=member))
        assert found.text.startswith(f"edge-siamese may not open {on_pi.root}/dev/dma_heap/linux,cma (")
        root = Account("root", 0, frozenset())
        assert only(devices.check_permissions(replace(on_pi, account=root))) == Finding(
            "permissions", "ok", "root may open all 4 devices"
        )

    def test_a_workstation_needs_no_gpio_and_only_warns(self, on_pi: Context) -> None:
        person = replace(on_pi, board=WORKSTATION, account=Account("ann", 4242, frozenset({4242})))
        found = only(devices.check_permissions(person))
        assert (found.level, "video0" in found.text, "gpiochip0" in found.text) == ("warning", True, False)

    def test_unused_devices_are_not_checked(self, context: Context) -> None:
        (context.root / "dev" / "video0").touch()
        assert only(devices.check_permissions(context)).text == "there are no devices to open"


class TestCamera:
    @pytest.mark.parametrize(
        ("camera", "level", "text"),
        [
            (
                {"status": "running", "description": "imx708", "fps": 9.96},
                "ok",
                "imx708: 10.0 frames per second",
            ),
            ({"status": "stalled", "reason": "no frame for 3 s"}, "error", "stalled: no frame for 3 s"),
            ({"status": "starting", "description": ""}, "unknown", "the camera is being opened"),
            (None, "unknown", "the daemon has not opened it yet"),
        ],
    )
    def test_of_a_running_daemon_is_only_heard(
        self,
        context: Context,
        monkeypatch: pytest.MonkeyPatch,
        camera: dict[str, Any] | None,
        level: str,
        text: str,
    ) -> None:
        for name in ("list_libcamera", "process_using", "find_spec"):
            monkeypatch.setattr(devices, name, lambda *_: pytest.fail("the camera was touched"))
        running = replace(context, daemon={"camera": camera}, unreachable="")
        found = camera_of(running, kind="auto")
        assert (found.level, found.text) == (level, text)

    @pytest.mark.parametrize("kind", ["auto", "picamera2", "usb"])
    def test_a_camera_that_may_be_in_use_is_not_opened(
        self, context: Context, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        monkeypatch.setattr(devices, "list_libcamera", lambda: pytest.fail("the camera was touched"))
        found = camera_of(replace(context, unreachable="permission denied at /x: add yourself"), kind=kind)
        assert (found.level, found.text) == ("unknown", "a daemon that does not respond may be using it")

    def test_cameras_without_hardware(self, context: Context) -> None:
        assert camera_of(context, kind="synthetic").level == "ok"
        assert camera_of(context, kind="files", path=str(context.root)).level == "ok"
        found = camera_of(context, kind="files", path="/no/such.mp4")
        assert (found.level, found.text) == ("error", "/no/such.mp4 does not exist")

    def test_a_usb_camera(self, context: Context) -> None:
        device = context.root / "dev" / "video0"
        assert camera_of(context, kind="usb", device=str(device)).text == (
            f"{device} does not exist; V4L2 devices here: none"
        )
        device.touch()
        write(context.root / "sys/class/video4linux/video0/name", "HD Webcam C920\n")
        missing = camera_of(context, kind="usb", device="/dev/no-such-camera")
        assert missing.text == (
            f"/dev/no-such-camera does not exist; V4L2 devices here: {device} (HD Webcam C920)"
        )
        by_name = context.root / "dev" / "by-id"
        by_name.symlink_to(device)
        assert camera_of(context, kind="usb", device=str(by_name)) == Finding(
            "camera", "ok", f"{by_name}: HD Webcam C920"
        )
        device.chmod(0o600)
        found = camera_of(replace(context, account=SERVICE), kind="usb", device=str(device))
        assert (found.level, found.text) == ("error", f"edge-siamese may not open {device}")

    def test_a_usb_camera_in_use_by_another_program(self, context: Context) -> None:
        device = context.root / "dev" / "video0"
        device.touch()
        write(context.root / "proc/77/comm", "motion\n")
        (context.root / "proc/77/fd").mkdir()
        (context.root / "proc/77/fd/5").symlink_to(device)
        (context.root / "proc/78").mkdir()
        assert camera_of(context, kind="usb", device=str(device)) == Finding(
            "camera",
            "error",
            f"{device} is used by process 77 (motion)",
            "stop that program",
        )

    def test_a_pi_camera(self, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
        def finding(kind: str, spec: object, listed: list[str] | None) -> tuple[str, str]:
            monkeypatch.setattr(devices, "find_spec", lambda _: spec)
            monkeypatch.setattr(devices, "list_libcamera", lambda: listed)
            found = camera_of(context, kind=kind, device=str(context.root / "dev" / "video0"))
            return found.level, found.text

        for kind in ("auto", "picamera2"):
            assert finding(kind, object(), ["imx708", "ov5647"]) == (
                "ok",
                "libcamera lists imx708, ov5647",
            )
            assert finding(kind, object(), []) == ("error", "libcamera finds no camera")
            assert finding(kind, object(), None) == ("error", "libcamera did not list its cameras")
            assert finding(kind, None, None) == (
                "error",
                "picamera2 is not installed for this Python interpreter",
            )
        (context.root / "dev" / "video0").touch()
        assert finding("auto", object(), [])[0] == "ok"
        assert finding("picamera2", object(), [])[0] == "error"


class TestPanel:
    @pytest.mark.parametrize(
        ("panel", "level", "text"),
        [
            ({"description": "button on line 17", "problem": ""}, "ok", "button on line 17"),
            ({"description": "", "problem": "line 17 is busy"}, "error", "line 17 is busy"),
            ({"description": "x", "problem": None, "stuck": True}, "error", "the button is held down"),
        ],
    )
    def test_of_a_running_daemon_is_only_heard(
        self, context: Context, monkeypatch: pytest.MonkeyPatch, panel: dict[str, Any], level: str, text: str
    ) -> None:
        monkeypatch.setattr("edge_siamese.panel.open_panel", lambda *_, **__: pytest.fail("touched"))
        found = only(devices.check_panel(replace(context, daemon={"panel": panel}, unreachable="")))
        assert (found.level, found.text) == (level, text)
        hidden = only(
            devices.check_panel(replace(context, unreachable="permission denied at /x: add yourself"))
        )
        assert hidden.level == "unknown"

    def test_without_a_daemon_the_panel_is_opened_and_closed(
        self, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = SimulatedPanel()
        monkeypatch.setattr("edge_siamese.panel.open_panel", lambda *_, **__: opened)
        found = only(devices.check_panel(context))
        assert (found.level, found.text) == ("ok", opened.description)
        with pytest.raises(PanelError):
            opened.wait(0)

    def test_an_unusable_panel(self, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise PanelError("the button on line 17 of pinctrl-bcm2835 is used by spi0")

        monkeypatch.setattr("edge_siamese.panel.open_panel", fail)
        found = only(devices.check_panel(context))
        assert (found.level, found.text) == (
            "error",
            "the button on line 17 of pinctrl-bcm2835 is used by spi0",
        )
        assert found.remedy.startswith("correct [panel] in the settings")

    def test_a_missing_gpio_library_is_a_warning_on_a_pi_only(
        self, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        context = replace(
            context, settings=structs.replace(context.settings, panel=PanelSettings(kind="auto"))
        )
        none = NoPanel("the package gpiod is not installed")
        monkeypatch.setattr("edge_siamese.panel.open_panel", lambda *_, **__: none)
        assert only(devices.check_panel(context)).level == "warning"
        assert only(devices.check_panel(replace(context, board=WORKSTATION))).level == "ok"


class TestSound:
    def findings(self, context: Context, **settings: Any) -> list[tuple[str, str, str]]:
        sound = SoundSettings(**({"enabled": True, "player": ("/bin/true",)} | settings))
        found = devices.check_sound(replace(context, settings=Settings(sound=sound)))
        return [(one.level, one.text, one.remedy) for one in found]

    def test_off_and_in_order(self, context: Context) -> None:
        assert self.findings(context, enabled=False) == [("ok", "sounds are off", "")]
        write(context.root / "dev/snd/pcmC0D0p", "")
        assert self.findings(context, speech=("/bin/cat",)) == [("ok", "/bin/true and /bin/cat", "")]

    def test_each_problem_has_a_remedy(self, context: Context) -> None:
        missing = {"player": ("no-such-player",), "speech": ("/none/say", "--stdin")}
        assert self.findings(context, **missing) == [
            (
                "warning",
                "no-such-player cannot be run: No such file or directory",
                "correct the command in [sound]",
            ),
            (
                "warning",
                "/none/say cannot be run: No such file or directory",
                "correct the command in [sound]",
            ),
            ("warning", "there is no sound card", "connect a loudspeaker or a sound card, then: aplay -l"),
        ]
        assert self.findings(context, player=())[0] == (
            "warning", "neither `player` nor `speech` is set", "set one of them in [sound]",
        )  # fmt: skip

    def test_a_card_of_another_group_and_the_last_failure(
        self, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        card = context.root / "dev/snd/pcmC0D0p"
        write(card, "")
        card.chmod(0o660)
        monkeypatch.setattr(devices, "group_name", lambda _: "audio")
        daemon = {"sound": {"enabled": True, "problem": "aplay failed with status 1"}}
        assert self.findings(replace(context, account=SERVICE, daemon=daemon)) == [
            (
                "warning",
                f"edge-siamese may not open {card} (group audio)",
                "sudo usermod -aG audio edge-siamese, then sudo systemctl restart edge-siamese",
            ),
            ("warning", "aplay failed with status 1", "try it: speaker-test -t sine -l 1"),
        ]
