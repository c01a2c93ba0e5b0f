"""Topics and device ids."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_siamese.errors import MqttError
from edge_siamese.mqtt.topics import Topics, device_id

MACHINE = "0123456789abcdef0123456789abcdef"


def test_topics_begin_with_the_prefix_and_the_device() -> None:
    topics = Topics("home/shelf", "hall")
    assert topics.availability == "home/shelf/hall/availability"
    assert topics.state == "home/shelf/hall/state"
    assert topics.event == "home/shelf/hall/event"
    assert topics.reply == "home/shelf/hall/reply"
    assert topics.snapshot == "home/shelf/hall/snapshot"
    assert topics.object("ab") == "home/shelf/hall/objects/ab"
    assert topics.objects == "home/shelf/hall/objects/+"
    assert topics.command("undo") == "home/shelf/hall/command/undo"
    assert topics.commands == "home/shelf/hall/command/+"
    assert topics.discovery("homeassistant") == "homeassistant/device/edge-siamese-hall/config"


def test_a_configured_id_is_used(tmp_path: Path) -> None:
    assert device_id("hall", tmp_path) == "hall"
    with pytest.raises(MqttError, match='"fleet" is reserved for the topics of fleets'):
        device_id("fleet", tmp_path)


def test_the_id_does_not_reveal_the_machine_id(tmp_path: Path) -> None:
    machine = tmp_path / "machine-id"
    machine.write_text(MACHINE + "\n")
    found = device_id("", tmp_path, machine)
    assert found == "5ff6b42eb486"
    assert found not in MACHINE
    assert device_id("", tmp_path / "elsewhere", machine) == found
    assert not (tmp_path / "device-id").exists()
    machine.write_text(MACHINE[::-1] + "\n")
    assert device_id("", tmp_path, machine) != found


@pytest.mark.parametrize("content", [None, "", "uninitialized\n"])
def test_a_machine_without_an_id_gets_one_that_is_kept(tmp_path: Path, content: str | None) -> None:
    machine = tmp_path / "machine-id"
    if content is not None:
        machine.write_text(content)
    found = device_id("", tmp_path, machine)
    assert len(found) == 12 and set(found) <= set("0123456789abcdef")
    assert device_id("", tmp_path, machine) == found
    (tmp_path / "device-id").write_text("damaged/+/#\n")
    assert len(device_id("", tmp_path, machine)) == 12


def test_an_id_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MqttError, match=r"file/device-id: the device's id cannot be kept there: "):
        device_id("", tmp_path / "file", tmp_path / "machine-id")
