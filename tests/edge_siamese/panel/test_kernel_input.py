"""The kernel's input device and LED: with pipes and directories in their place, and with uinput where available."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from pathlib import Path

import pytest

from edge_siamese.errors import PanelError
from edge_siamese.panel import kernel_input
from edge_siamese.panel.kernel_input import EVENT, KernelPanel, find_input
from edge_siamese.panel.panel import Edge

KEY, SYN = 1, 0
SETUP = "edge-siamese-button"


class Machine:
    """Folders like /sys and /dev with one input device, whose file is a pipe."""

    def __init__(self, root: Path) -> None:
        self.sysfs, self.devices = root / "sys", root / "dev"
        (self.devices / "input").mkdir(parents=True)
        self.node = self.devices / "input" / "event3"
        os.mkfifo(self.node)
        self.keeper = os.open(self.node, os.O_RDWR | os.O_NONBLOCK)
        self.add_input("event0", "Power Button")
        self.add_input("event3", SETUP)
        self.led = self.sysfs / "class" / "leds" / "edge-siamese"
        self.led.mkdir(parents=True)
        for name, text in {
            "brightness": "1\n",
            "max_brightness": "255\n",
            "trigger": "none [heartbeat] cpu\n",
        }.items():
            (self.led / name).write_text(text)

    def add_input(self, event: str, name: str, key_label: str = "") -> None:
        device = self.sysfs / "class" / "input" / event / "device"
        (device / "device" / "of_node" / "key").mkdir(parents=True)
        (device / "name").write_text(name + "\n")
        if key_label:
            (device / "device" / "of_node" / "key" / "label").write_bytes(key_label.encode() + b"\0")

    def panel(self, light: str = "edge-siamese", **options: bool) -> KernelPanel:
        return KernelPanel(SETUP, light, sysfs=self.sysfs, devices=self.devices, **options)

    def send(self, *events: tuple[float, int, int, int]) -> None:
        """(time, type, code, value) each."""
        for at, kind, code, value in events:
            seconds, rest = divmod(at, 1)
            os.write(self.keeper, EVENT.pack(int(seconds), round(rest * 1e6), kind, code, value))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A pipe has no clock to set: it is taken to have had the right one."""
    monkeypatch.setattr(kernel_input, "_set_clock", lambda file: True)
    made = Machine(tmp_path)
    yield made
    os.close(made.keeper)


def test_a_device_is_found_by_its_name(machine: Machine):
    assert find_input(SETUP, machine.sysfs, machine.devices) == machine.node
    assert find_input("Power Button", machine.sysfs, machine.devices) == machine.devices / "input" / "event0"
    assert find_input("no such", machine.sysfs, machine.devices) is None


def test_a_device_is_found_by_the_label_that_the_overlay_gives_its_key(machine: Machine):
    machine.add_input("event12", "button@11", key_label="the label")
    assert find_input("the label", machine.sysfs, machine.devices) == machine.devices / "input" / "event12"
    assert find_input("button@11", machine.sysfs, machine.devices) == machine.devices / "input" / "event12"


def test_a_device_is_found_by_its_path(machine: Machine):
    assert find_input(str(machine.node)) == machine.node
    assert find_input(str(machine.node) + "0") is None


def test_a_missing_device_is_told_with_those_that_are_there(machine: Machine):
    with pytest.raises(PanelError) as caught:
        KernelPanel("other", sysfs=machine.sysfs, devices=machine.devices)
    assert str(caught.value) == (
        'there is no input device "other" (there is "Power Button", "edge-siamese-button"): '
        "set `input_device` in [panel], or add dtoverlay=gpio-key to config.txt"
    )


def test_presses_and_releases_are_edges_and_repetitions_are_not(machine: Machine):
    panel = machine.panel()
    assert panel.wait(0.01) == []
    machine.send(
        (10.5, KEY, 148, 1),
        (10.5, SYN, 0, 0),
        (10.75, KEY, 148, 2),
        (11.0, KEY, 148, 2),
        (11.25, KEY, 148, 0),
    )
    assert panel.wait(5) == [Edge(10.5, True), Edge(11.25, False)]
    assert panel.wait(0) == []
    panel.close()


def test_other_kinds_of_events_are_left_out(machine: Machine):
    panel = machine.panel()
    machine.send((1.0, 3, 0, 1), (1.1, 4, 4, 1), (1.2, 2, 148, 0), (1.3, KEY, 148, 0))
    assert panel.wait(0) == []


def test_several_keys_of_one_device_are_one_button(machine: Machine):
    panel = machine.panel()
    machine.send((1.0, KEY, 30, 1), (1.5, KEY, 31, 1), (2.0, KEY, 30, 0), (2.5, KEY, 31, 0))
    assert panel.wait(0) == [Edge(1.0, True), Edge(2.5, False)]


def test_more_events_than_one_read_takes_come_at_once(machine: Machine):
    panel = machine.panel()
    machine.send(*[(float(number), KEY, 148, 1 - number % 2) for number in range(300)])
    assert len(panel.wait(0)) == 300


def test_after_an_overflow_the_kernel_is_asked_which_keys_are_down(machine: Machine, monkeypatch):
    panel = machine.panel()
    monkeypatch.setattr(kernel_input, "_keys_down", lambda file: {148})
    machine.send((5.0, SYN, 3, 0))
    assert panel.wait(0) == [Edge(5.0, True)]
    monkeypatch.setattr(kernel_input, "_keys_down", lambda file: set())
    machine.send((6.0, SYN, 3, 0))
    assert panel.wait(0) == [Edge(6.0, False)]


def test_a_key_that_is_down_when_it_is_opened_is_an_edge(machine: Machine, monkeypatch):
    monkeypatch.setattr(kernel_input, "_keys_down", lambda file: {148})
    (edge,) = machine.panel().wait(1)
    assert edge.pressed and abs(edge.time - time.monotonic()) < 1


def test_without_the_right_clock_events_have_the_time_of_reading(machine: Machine, monkeypatch):
    monkeypatch.setattr(kernel_input, "_set_clock", lambda file: False)
    panel = machine.panel()
    machine.send((1.7e9, KEY, 148, 1))
    (edge,) = panel.wait(0)
    assert abs(edge.time - time.monotonic()) < 1


def test_a_device_whose_file_ends_is_gone(machine: Machine):
    panel = machine.panel()
    spare = os.dup(machine.keeper)
    os.close(machine.keeper)
    os.close(spare)
    machine.keeper = os.open(os.devnull, os.O_RDONLY)
    with pytest.raises(PanelError, match=r"^the button .*event3 is gone: its file has ended$"):
        panel.wait(5)


@pytest.mark.parametrize(
    ("number", "told"), [(errno.ENODEV, "it was removed"), (errno.EIO, "Input/output error")]
)
def test_a_device_that_is_removed_is_an_error(machine: Machine, monkeypatch, number: int, told: str):
    panel = machine.panel()
    machine.send((1.0, KEY, 148, 1))

    def fail(file: int, size: int) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as context:
        context.setattr(os, "read", fail)
        with pytest.raises(PanelError) as caught:
            panel.wait(1)
    assert str(caught.value) == f"the button {machine.node} is gone: {told}"
    panel.close()
    panel.close()
    with pytest.raises(PanelError, match=r"is closed$"):
        panel.wait(0)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EACCES, "this user may not open {node}; add the user to the group input"),
        (errno.EBUSY, "{node} is used by another program; stop that program"),
        (errno.EIO, "{node} cannot be used: Input/output error"),
    ],
)
def test_a_device_that_cannot_be_opened_is_an_error(machine: Machine, monkeypatch, number: int, told: str):
    def fail(file: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(kernel_input, "_grab", fail)
    with pytest.raises(PanelError) as caught:
        machine.panel()
    assert str(caught.value) == told.format(node=machine.node)


def test_the_led_is_taken_from_its_trigger_and_switched(machine: Machine):
    panel = machine.panel()
    assert (machine.led / "trigger").read_text().startswith("none")
    assert (machine.led / "brightness").read_text() == "0\n"
    panel.light(True)
    assert (machine.led / "brightness").read_text().startswith("255")
    assert panel.description == f"button {machine.node} and LED {machine.led}"
    (machine.led / "brightness").write_text("9")
    panel.close()
    assert (machine.led / "brightness").read_text() == "0"


def test_a_free_led_needs_no_right_to_its_trigger(machine: Machine):
    (machine.led / "trigger").write_text("[none] heartbeat\n")
    (machine.led / "trigger").chmod(0o444)
    machine.panel().close()
    assert (machine.led / "trigger").read_text() == "[none] heartbeat\n"


def test_a_missing_led_is_told_unless_it_is_optional(machine: Machine):
    with pytest.raises(PanelError) as caught:
        machine.panel("other")
    assert str(caught.value) == (
        f"there is no LED {machine.sysfs}/class/leds/other: set `kernel_led` in [panel] (empty: none), "
        "or add dtoverlay=gpio-led to config.txt"
    )
    panel = machine.panel("other", light_optional=True)
    panel.light(True)
    assert panel.description == f"button {machine.node} and no LED"
    assert machine.panel("").description == f"button {machine.node} and no LED"


def test_an_led_that_is_removed_is_an_error(machine: Machine):
    panel = machine.panel()
    (machine.led / "brightness").unlink()
    with pytest.raises(PanelError, match=r"^the LED .*edge-siamese is gone: No such file or directory$"):
        panel.light(True)
    panel.close()
    assert not (machine.led / "brightness").exists()


def test_an_led_that_must_not_be_written_is_told_with_the_remedy(machine: Machine, monkeypatch):
    panel = machine.panel()

    def refuse(*arguments: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as context:
        context.setattr(os, "open", refuse)
        with pytest.raises(PanelError, match=r"brightness; a udev rule must give the group gpio access$"):
            panel.light(True)


UI_SET_EVBIT, UI_SET_KEYBIT, UI_DEV_SETUP = 0x40045564, 0x40045565, 0x405C5503
UI_DEV_CREATE, UI_DEV_DESTROY = 0x5501, 0x5502


@pytest.mark.skipif(
    not os.access("/dev/uinput", os.W_OK),
    reason="no /dev/uinput here that may be written: no real input device",
)
def test_a_real_input_device_is_pressed_and_removed():
    name = f"edge-siamese-test-{os.getpid()}"
    device = os.open("/dev/uinput", os.O_WRONLY)
    try:
        fcntl.ioctl(device, UI_SET_EVBIT, KEY)
        fcntl.ioctl(device, UI_SET_KEYBIT, 148)
        fcntl.ioctl(device, UI_DEV_SETUP, struct.pack("HHHH80sI", 6, 1, 1, 1, name.encode(), 0))
        fcntl.ioctl(device, UI_DEV_CREATE)
        deadline = time.monotonic() + 60
        while (path := find_input(name)) is None or not path.exists():  # udev creates the file
            assert time.monotonic() < deadline, "no file of the input device"
            time.sleep(0.01)
        panel = KernelPanel(name)
        began = time.monotonic()
        for value in (1, 2, 0):
            os.write(device, EVENT.pack(0, 0, KEY, 148, value) + EVENT.pack(0, 0, SYN, 0, 0))
        found = panel.wait(2)
        assert [edge.pressed for edge in found] == [True, False]
        assert began - 0.001 <= found[0].time <= time.monotonic()
        with pytest.raises(PanelError, match="is used by another program"):
            KernelPanel(name)
        fcntl.ioctl(device, UI_DEV_DESTROY)
        with pytest.raises(PanelError, match="is gone: it was removed"):
            panel.wait(2)
        panel.close()
    finally:
        os.close(device)
