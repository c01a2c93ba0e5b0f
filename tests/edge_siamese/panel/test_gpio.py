"""GPIO lines with a fake of gpiod 2: requests to the kernel, and reactions to its answers."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType

import pytest

from edge_siamese.errors import PanelError
from edge_siamese.panel.gpio import GpioNotInstalled, GpioPanel, find_chip
from edge_siamese.panel.panel import Edge
from tests.edge_siamese.panel import fake_gpiod
from tests.edge_siamese.panel.fake_gpiod import Bias, Clock, Direction, EdgeDetection, FakeGpiod, Value

SECOND = 1_000_000_000


@pytest.fixture
def gpiod(tmp_path: Path) -> Iterator[FakeGpiod]:
    with fake_gpiod.installed(tmp_path) as fake:
        yield fake


def test_the_header_is_found_by_label_whatever_its_number(gpiod: FakeGpiod, tmp_path: Path):
    gpiod.add("gpiochip0", "brcmvirt-gpio")
    gpiod.add("gpiochip4", "pinctrl-rp1")
    gpiod.add("gpiochip10", "raspberrypi-exp-gpio")
    assert find_chip(devices=tmp_path) == (str(tmp_path / "gpiochip4"), "pinctrl-rp1")
    assert find_chip("raspberrypi-exp-gpio", tmp_path)[0].endswith("gpiochip10")


def test_of_two_files_of_one_chip_the_lower_number_is_taken(gpiod: FakeGpiod, tmp_path: Path):
    gpiod.add("gpiochip10", "pinctrl-rp1")
    gpiod.add("gpiochip4", "pinctrl-rp1")
    assert find_chip(devices=tmp_path)[0].endswith("gpiochip4")


def test_a_missing_chip_is_told_with_those_that_are_there(gpiod: FakeGpiod, tmp_path: Path):
    with pytest.raises(PanelError, match=r"^no GPIO header of a Raspberry Pi; there is no GPIO chip$"):
        find_chip(devices=tmp_path)
    gpiod.add("gpiochip0", "INT34C5:00")
    with pytest.raises(PanelError, match=r'^no GPIO chip "pinctrl-rp1"; chips here: INT34C5:00$'):
        find_chip("pinctrl-rp1", tmp_path)


def test_who_must_not_open_the_chip_is_told_the_group(gpiod: FakeGpiod, tmp_path: Path):
    gpiod.add("gpiochip0", "pinctrl-bcm2711").denied = True
    with pytest.raises(PanelError, match=r"gpiochip0; add the user to the group gpio$"):
        GpioPanel(17, 27, devices=tmp_path)


def test_the_lines_are_requested_as_a_button_to_ground_needs_them(gpiod: FakeGpiod, tmp_path: Path):
    chip = gpiod.add("gpiochip0", "pinctrl-bcm2835")
    panel = GpioPanel(17, 27, devices=tmp_path)
    button, led = chip.lines[17], chip.lines[27]
    assert button.consumer == led.consumer == "edge-siamese"
    assert button.settings is not None and led.settings is not None
    assert button.settings.direction is Direction.INPUT
    assert button.settings.edge_detection is EdgeDetection.BOTH
    assert button.settings.bias is Bias.PULL_UP
    assert button.settings.active_low
    assert button.settings.event_clock is Clock.MONOTONIC
    assert button.settings.debounce_period == timedelta(milliseconds=1)
    assert (led.settings.direction, led.settings.output_value) == (Direction.OUTPUT, Value.INACTIVE)
    assert panel.description == "button on line 17 and LED on line 27 of pinctrl-bcm2835"
    panel.close()
    panel.close()
    assert chip.open_requests == 0


def test_a_button_to_the_supply_is_pulled_down(gpiod: FakeGpiod, tmp_path: Path):
    chip = gpiod.add("gpiochip0", "pinctrl-rp1")
    GpioPanel(5, -1, active_low=False, debounce=False, devices=tmp_path)
    settings = chip.lines[5].settings
    assert settings is not None
    assert (settings.bias, settings.active_low, settings.debounce_period) == (
        Bias.PULL_DOWN,
        False,
        timedelta(),
    )


def test_where_the_kernel_cannot_debounce_the_grammar_does_it_alone(gpiod: FakeGpiod, tmp_path: Path):
    chip = gpiod.add("gpiochip0", "pinctrl-rp1")
    chip.debounces = False
    GpioPanel(17, 27, devices=tmp_path)
    settings = chip.lines[17].settings
    assert settings is not None and settings.debounce_period == timedelta()


def test_edges_have_the_kernels_times(gpiod: FakeGpiod, tmp_path: Path):
    chip = gpiod.add("gpiochip0", "pinctrl-rp1")
    panel = GpioPanel(17, 27, devices=tmp_path)
    assert panel.wait(0.01) == []
    chip.edge(17, True, 12 * SECOND + 500_000_000)
    chip.edge(17, False, 13 * SECOND)
    assert panel.wait(10) == [Edge(12.5, True), Edge(13.0, False)]
    assert panel.wait(0) == []


def test_more_edges_than_one_read_takes_come_at_once(gpiod: FakeGpiod, tmp_path: Path):
    chip = gpiod.add("gpiochip0", "pinctrl-rp1")
    panel = GpioPanel(17, 27, devices=tmp_path)
    for number in range(600):
        chip.edge(17, number % 2 == 0, number * 1_000_000)
    assert len(panel.wait(0)) == 600


def test_a_button_that_is_down_when_it_is_opened_is_an_edge(gpiod: FakeGpiod, tmp_path: Path):
    chip = gpiod.add("gpiochip0", "pinctrl-rp1")
    chip.lines[17].active = True
    before = time.monotonic()
    panel = GpioPanel(17, 27, devices=tmp_path)
    (edge,) = panel.wait(5)
    assert edge.pressed and before <= edge.time <= time.monotonic()
    assert panel.wait(0) == []


@pytest.mark.parametrize("down", [False, True])
def test_after_lost_edges_the_level_is_read(gpiod: FakeGpiod, tmp_path: Path, down: bool):
    chip = gpiod.add("gpiochip0", "pinctrl-rp1")
    panel = GpioPanel(17, 27, devices=tmp_path)
    chip.edge(17, True, SECOND)
    chip.edge(17, False, 2 * SECOND, lost=True)
    chip.edge(17, True, 3 * SECOND)
    chip.lines[17].active = down
    found = panel.wait(0)
    assert found[:2] == [Edge(1.0, True), Edge(3.0, True)]
    assert [edge.pressed for edge in found[2:]] == ([] if down else [False])


def test_without_lost_edges_the_level_is_left_to_its_own_edge(gpiod: FakeGpiod, tmp_path: Path):
    chip = gpiod.add("gpiochip0", "pinctrl-rp1")
    panel = GpioPanel(17, 27, devices=tmp_path)
    chip.edge(17, True, SECOND)
    chip.lines[17].active = False
    assert panel.wait(0) == [Edge(1.0, True)]


def test_the_light_is_switched_and_off_in_the_end(gpiod: FakeGpiod, tmp_path: Path):
    chip = gpiod.add("gpiochip0", "pinctrl-rp1")
    panel = GpioPanel(17, 27, devices=tmp_path)
    panel.light(True)
    panel.close()
    assert chip.lines[27].written == [Value.ACTIVE, Value.INACTIVE]


def test_without_an_led_there_is_no_light_and_no_line(gpiod: FakeGpiod, tmp_path: Path):
    chip = gpiod.add("gpiochip0", "pinctrl-rp1")
    panel = GpioPanel(17, -1, devices=tmp_path)
    panel.light(True)
    assert panel.description == "button on line 17 and no LED of pinctrl-rp1"
    assert chip.open_requests == 1


@pytest.mark.parametrize(
    ("user", "told"),
    [
        (
            "KEY_POWER",
            'used by "KEY_POWER"; set kind = "input" in [panel], or remove the overlay gpio-key from config.txt',
        ),
        (
            "myled1",
            'used by "myled1"; set kind = "input" in [panel], or remove the overlay gpio-led from config.txt',
        ),
        ("lg", 'used by "lg"; choose another line, or stop that program'),
        ("edge-siamese", "another edge-siamese uses it; stop it (`systemctl stop edge-siamese`)"),
    ],
)
def test_a_busy_line_is_reported_with_its_user(gpiod: FakeGpiod, tmp_path: Path, user: str, told: str):
    chip = gpiod.add("gpiochip0", "pinctrl-bcm2711")
    chip.lines[17].consumer = user
    with pytest.raises(PanelError) as caught:
        GpioPanel(17, 27, devices=tmp_path)
    assert str(caught.value) == f"GPIO line 17 of pinctrl-bcm2711 (button) is busy: {told}"


def test_a_busy_led_lets_the_button_go(gpiod: FakeGpiod, tmp_path: Path):
    chip = gpiod.add("gpiochip0", "pinctrl-bcm2711")
    chip.lines[27].consumer = "heartbeat"
    with pytest.raises(PanelError, match=r"^GPIO line 27 of pinctrl-bcm2711 \(LED\) is busy"):
        GpioPanel(17, 27, devices=tmp_path)
    assert chip.open_requests == 0 and chip.lines[17].consumer == ""


def test_a_line_that_the_chip_does_not_have_is_an_error(gpiod: FakeGpiod, tmp_path: Path):
    gpiod.add("gpiochip0", "pinctrl-rp1", lines=54)
    with pytest.raises(
        PanelError,
        match=r"^GPIO line 60 of pinctrl-rp1 \(button\) does not exist: the chip has lines 0 to 53$",
    ):
        GpioPanel(60, 27, devices=tmp_path)


def test_a_chip_that_goes_away_is_told_and_can_be_closed(gpiod: FakeGpiod, tmp_path: Path):
    chip = gpiod.add("gpiochip0", "pinctrl-rp1")
    panel = GpioPanel(17, 27, devices=tmp_path)
    chip.gone = True
    with pytest.raises(
        PanelError, match=r"^GPIO line 17 of pinctrl-rp1 \(button\) cannot be read: No such device$"
    ):
        panel.wait(0)
    with pytest.raises(PanelError, match=r"\(LED\) cannot be switched: No such device$"):
        panel.light(True)
    panel.close()
    with pytest.raises(PanelError, match=r"is closed$"):
        panel.wait(0)


def test_a_missing_package_is_told_with_the_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gpiod", None)
    with pytest.raises(
        GpioNotInstalled, match=r'the package gpiod is not installed: pip install "gpiod>=2\.1"'
    ):
        find_chip()


def test_the_first_generation_of_the_package_is_told_apart(monkeypatch: pytest.MonkeyPatch):
    old = ModuleType("gpiod")  # Debian 12's is one extension module, without parts
    monkeypatch.setitem(sys.modules, "gpiod", old)
    monkeypatch.delitem(sys.modules, "gpiod.line", raising=False)
    with pytest.raises(
        GpioNotInstalled, match=r"is version 1, as in Debian 12's python3-libgpiod; version 2 is needed"
    ):
        find_chip()


def test_the_stand_in_has_the_real_packages_names_and_parameters(tmp_path: Path):
    real = pytest.importorskip("gpiod", reason="gpiod is not installed here")
    line = pytest.importorskip("gpiod.line")
    fake, fake_line = fake_gpiod.FakeGpiod(tmp_path).module()
    for name in ("Direction", "Bias", "Edge", "Clock", "Value"):
        assert {member.name for member in getattr(fake_line, name)} <= set(getattr(line, name).__members__)
    assert set(inspect.signature(fake.LineSettings).parameters) <= set(
        inspect.signature(real.LineSettings).parameters
    )
    for name in ("get_info", "get_line_info", "request_lines"):
        wanted = inspect.signature(getattr(fake.Chip, name)).parameters
        assert set(wanted) <= set(inspect.signature(getattr(real.Chip, name)).parameters)
    for name in ("wait_edge_events", "read_edge_events", "get_value", "set_value", "release"):
        wanted = inspect.signature(getattr(fake_gpiod.Request, name)).parameters
        assert set(wanted) <= set(inspect.signature(getattr(real.LineRequest, name)).parameters)
    assert {"RISING_EDGE", "FALLING_EDGE"} == set(real.EdgeEvent.Type.__members__)
    assert {"timestamp_ns", "line_seqno", "event_type"} <= set(real.EdgeEvent.__annotations__)
    assert not real.is_gpiochip_device("/dev/null")
