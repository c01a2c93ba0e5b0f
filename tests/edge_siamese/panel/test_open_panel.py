"""Which panel the settings open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge_siamese.errors import PanelError
from edge_siamese.panel import Panel, open_panel
from edge_siamese.panel.gpio import GpioPanel
from edge_siamese.panel.kernel_input import KernelPanel
from edge_siamese.panel.panel import NoPanel, SimulatedPanel
from edge_siamese.settings import PanelSettings
from tests.edge_siamese.panel import fake_gpiod
from tests.edge_siamese.panel.test_kernel_input import SETUP, Machine


class Here:
    """A machine of folders, and the settings opened on it."""

    def __init__(self, root: Path) -> None:
        self.sysfs, self.devices, self.proc = root / "sys", root / "dev", root / "proc"
        self.devices.mkdir()

    def open(self, **settings: object) -> Panel:
        return open_panel(
            PanelSettings(**settings),  # type: ignore[arg-type]
            sysfs=self.sysfs,
            devices=self.devices,
            proc=self.proc,
        )

    def be_a_raspberry_pi(self) -> None:
        (self.proc / "device-tree").mkdir(parents=True)
        (self.proc / "device-tree" / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def test_none_and_simulated_need_nothing(here: Here):
    assert isinstance(here.open(kind="none"), NoPanel)
    assert isinstance(here.open(kind="simulated"), SimulatedPanel)


def test_gpio_takes_the_lines_of_the_settings(here: Here):
    with fake_gpiod.installed(here.devices) as gpiod:
        chip = gpiod.add("gpiochip0", "pinctrl-bcm2711")
        panel = here.open(kind="gpio", button_line=5, led_line=6, active_low=False, debounce_s=0.005)
        assert panel.description == "button on line 5 and LED on line 6 of pinctrl-bcm2711"
        settings = chip.lines[5].settings
        assert settings is not None and not settings.active_low and not settings.debounce_period


def test_auto_prefers_the_input_device_and_does_without_its_led(tmp_path: Path):
    machine = Machine(tmp_path)
    with fake_gpiod.installed(machine.devices) as gpiod:
        gpiod.add("gpiochip0", "pinctrl-bcm2711")
        panel = open_panel(
            PanelSettings(input_device=SETUP, kernel_led="other"),
            sysfs=machine.sysfs,
            devices=machine.devices,
            proc=tmp_path,
        )
    assert isinstance(panel, KernelPanel)
    assert panel.description.endswith("and no LED")
    with pytest.raises(PanelError, match="there is no LED"):
        open_panel(
            PanelSettings(kind="input", input_device=SETUP, kernel_led="other"),
            sysfs=machine.sysfs,
            devices=machine.devices,
        )


def test_auto_takes_the_header_where_there_is_no_input_device(here: Here):
    with fake_gpiod.installed(here.devices) as gpiod:
        gpiod.add("gpiochip0", "pinctrl-bcm2835")
        assert isinstance(here.open(), GpioPanel)


def test_auto_goes_without_a_panel_where_there_is_no_header(here: Here):
    with fake_gpiod.installed(here.devices):
        panel = here.open()
    assert isinstance(panel, NoPanel)
    assert panel.description == (
        "no button and no LED (no GPIO header of a Raspberry Pi; there is no GPIO chip)"
    )


def test_auto_goes_without_a_panel_and_says_why_where_gpiod_is_missing(here: Here, monkeypatch):
    monkeypatch.setitem(sys.modules, "gpiod", None)
    here.be_a_raspberry_pi()
    panel = here.open()
    assert isinstance(panel, NoPanel)
    assert panel.description == (
        'no button and no LED (the package gpiod is not installed: pip install "gpiod>=2.1")'
    )


def test_auto_tells_a_header_that_must_not_be_used(here: Here):
    with fake_gpiod.installed(here.devices) as gpiod:
        gpiod.add("gpiochip0", "pinctrl-rp1").denied = True
        assert isinstance(here.open(), NoPanel)  # somebody's workstation
        here.be_a_raspberry_pi()
        with pytest.raises(PanelError, match="group gpio"):
            here.open()


def test_auto_tells_a_line_that_is_used_by_somebody_else(here: Here):
    with fake_gpiod.installed(here.devices) as gpiod:
        gpiod.add("gpiochip0", "pinctrl-rp1").lines[17].consumer = "lg"
        with pytest.raises(PanelError, match='used by "lg"'):
            here.open()


def test_only_the_panel_that_is_opened_is_imported():
    program = (
        "import sys; from edge_siamese.settings import PanelSettings as S; "
        "from edge_siamese.panel import open_panel; open_panel(S(kind='none')); "
        "print(sorted(m for m in sys.modules if 'panel.' in m or 'gpiod' in m))"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "['edge_siamese.panel.panel']"
