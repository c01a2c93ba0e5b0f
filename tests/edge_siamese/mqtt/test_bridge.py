"""The bridge as the daemon has it: opened and closed by settings, and what it leaves at a broker."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_siamese.daemon.event_bus import EventBus
from edge_siamese.errors import ControlError, MqttError
from edge_siamese.mqtt import fleet_supervisor
from edge_siamese.mqtt.bridge import Bridge
from edge_siamese.mqtt.published_topics import FILE_NAME, PublishedTopics, keep_footprints, read_footprints
from edge_siamese.mqtt.reconnect import ReconnectPolicy
from edge_siamese.mqtt.snapshot import MAX_SIDE, encode_snapshot
from edge_siamese.settings import MqttSettings, PathSettings, Settings
from tests.edge_siamese.daemon.running import until
from tests.edge_siamese.mqtt.listening import Listener

ACCEPTED_5 = b"\x20\x03\x00\x00\x00"
PACE = ReconnectPolicy(first=0.02, most=0.05)


class Actions:
    """A daemon without a model."""

    line = "waiting for the camera"

    def __init__(self, state: Path, mqtt: MqttSettings) -> None:
        self.bus = EventBus()
        self.settings = Settings(mqtt=mqtt, paths=PathSettings(state=str(state)))

    def objects(self) -> Any:
        raise ControlError("no model")

    status = objects

    def current_view(self) -> None:
        return None


def bridge(state: Path, port: int, **changes: Any) -> tuple[Bridge, Actions]:
    settings = MqttSettings(broker="127.0.0.1", port=port, **{"device_id": "hall", **changes})
    actions = Actions(state, settings)
    return Bridge(settings, actions, PACE), actions  # type: ignore[arg-type]


def retained(broker: Listener) -> list[tuple[str, bytes]]:
    """Topics and payloads of what was published to be kept, but for the availability of the present names."""
    return [
        (topic, payload[1:])
        for topic, payload, flags in broker.published
        if flags & 1 and topic != "edge-siamese/hall/availability"
    ]


def test_it_tells_what_happens_and_how_it_is(tmp_path: Path) -> None:
    with Listener(ACCEPTED_5) as broker:
        made, actions = bridge(tmp_path, broker.port)
        made.start()
        until(lambda: any(b"connected to" in payload for _, payload, _ in broker.published))
        assert made.report()["state"] == "connected"
        assert {key: made.report()[key] for key in ("device", "prefix", "discovery")} == {
            "device": "hall",
            "prefix": "edge-siamese",
            "discovery": "homeassistant",
        }
        assert [event.kind for event in actions.bus.latest(5)] == ["mqtt"]
        made.close(2)
        assert made.report()["state"] == "closed"
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("mqtt")]


def test_what_forbids_a_connection_is_said_at_the_start_and_leaves_no_thread(tmp_path: Path) -> None:
    made, actions = bridge(tmp_path, 1, username="me", password_file="/missing")
    with pytest.raises(MqttError, match="/missing: the password cannot be read"):
        made.start()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("mqtt")]
    assert actions.bus._subscribers == []


def test_a_fleet_that_cannot_open_its_file_takes_nothing_else_with_it_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_supervisor, "MAX_SECONDS", 0.1)
    monkeypatch.setattr(fleet_supervisor, "FIRST_SECONDS", 0.05)
    (tmp_path / "fleet.db").mkdir()
    with Listener(ACCEPTED_5) as broker:
        made, actions = bridge(tmp_path, broker.port, collection="home")
        made.start()
        until(lambda: made.report()["state"] == "connected")
        found = made.report()["fleet"]
        assert (found["collection"], found["state"], found["objects"]) == ("home", "not started", 0)
        assert "fleet.db" in found["trouble"]
        time.sleep(0.3)
        told = [event.text for event in actions.bus.latest(20) if event.kind == "fleet"]
        assert len(told) == 1
        assert told[0].startswith("the fleet cannot start: ")
        (tmp_path / "fleet.db").rmdir()
        until(lambda: made.report()["fleet"]["state"] == "reading")
        made.close(2)
        until(
            lambda: not [thread for thread in threading.enumerate() if thread.name in ("mqtt-fleet", "fleet")]
        )


def test_a_fleet_that_never_started_ends_at_once(tmp_path: Path) -> None:
    (tmp_path / "fleet.db").mkdir()
    made, _ = bridge(tmp_path, 1, collection="home")
    made.start()
    assert [thread for thread in threading.enumerate() if thread.name == "mqtt-fleet"]
    made.close(0.5)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "mqtt-fleet"])


def test_new_names_at_the_same_broker_remove_what_was_left_under_the_old_ones(tmp_path: Path) -> None:
    with Listener(ACCEPTED_5) as broker:
        where = f"127.0.0.1:{broker.port}"
        keep_footprints(tmp_path, [PublishedTopics(where, "old", "door", "ha")])
        made, _ = bridge(tmp_path, broker.port)
        made.start()
        until(lambda: len(retained(broker)) >= 3)
        assert retained(broker)[:3] == [
            ("ha/device/edge-siamese-door/config", b""),
            ("old/door/state", b""),
            ("old/door/availability", b""),
        ]
        made.close(1)
        # Nobody has said that no objects are left, so it is not forgotten.
        assert read_footprints(tmp_path) == (
            PublishedTopics(where, "edge-siamese", "hall", "homeassistant"),
            PublishedTopics(where, "old", "door", "ha"),
        )


def test_discovery_that_is_turned_off_removes_the_device_alone(tmp_path: Path) -> None:
    with Listener(ACCEPTED_5) as broker:
        where = f"127.0.0.1:{broker.port}"
        keep_footprints(tmp_path, [PublishedTopics(where, "edge-siamese", "hall", "homeassistant")])
        made, _ = bridge(tmp_path, broker.port, discovery_prefix="")
        made.start()
        until(lambda: retained(broker))
        assert retained(broker) == [("homeassistant/device/edge-siamese-hall/config", b"")]
        until(lambda: read_footprints(tmp_path) == (PublishedTopics(where, "edge-siamese", "hall", ""),))
        made.close(1)


@pytest.mark.parametrize("other", [True, False])
def test_the_same_names_or_another_broker_remove_nothing(tmp_path: Path, other: bool) -> None:
    with Listener(ACCEPTED_5) as broker:
        where = "elsewhere:1" if other else f"127.0.0.1:{broker.port}"
        prefix = "old" if other else "edge-siamese"
        keep_footprints(tmp_path, [PublishedTopics(where, prefix, "hall", "homeassistant")])
        made, _ = bridge(tmp_path, broker.port)
        made.start()
        until(lambda: any(topic.endswith("event") for topic, _, _ in broker.published))
        assert retained(broker) == []
        made.close(1)


def test_turned_off_for_good_it_removes_even_its_availability(tmp_path: Path) -> None:
    with Listener(ACCEPTED_5) as broker:
        made, actions = bridge(tmp_path, broker.port)
        made.start()
        until(lambda: made.report()["state"] == "connected")
        actions.settings = Settings(paths=actions.settings.paths)
        made.close(2)
        until(lambda: broker.published[-1][0] == "edge-siamese/hall/availability")
        assert broker.published[-1][1].endswith(b"\x00")
        assert dict(retained(broker)) == {
            "edge-siamese/hall/state": b"",
            "homeassistant/device/edge-siamese-hall/config": b"",
        }


def test_a_picture_needs_a_frame_and_to_be_wanted(tmp_path: Path) -> None:
    made, _ = bridge(tmp_path, 1)
    with pytest.raises(ControlError, match="there is no picture: waiting for the camera"):
        made._snapshot()
    made.close(0.1)
    off, _ = bridge(tmp_path, 1, snapshots=False)
    with pytest.raises(
        ControlError, match=r"snapshots are turned off; \[mqtt\] snapshots = true turns them on"
    ):
        off._snapshot()
    off.close(0.1)


def test_a_footprint_that_cannot_be_read_or_kept_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_footprints(tmp_path) == ()
    assert caplog.text == ""
    for content in ("{", "[]", json.dumps({"broker": 3})):
        (tmp_path / FILE_NAME).write_text(content)
        assert read_footprints(tmp_path) == ()
    (tmp_path / "file").touch()
    keep_footprints(tmp_path / "file", [PublishedTopics("a", "b", "c", "d")])
    assert "mqtt.json cannot be written" in caplog.text


def test_a_picture_is_a_jpeg_of_a_bounded_size() -> None:
    pixels = np.zeros((1200, 1600, 3), np.uint8)
    made = encode_snapshot(pixels)
    assert made.startswith(b"\xff\xd8\xff")
    assert Image.open(io.BytesIO(made)).size == (MAX_SIDE, 720)
    assert encode_snapshot(np.zeros((48, 64), np.uint8)).startswith(b"\xff\xd8\xff")
