"""The bridge: start, close, snapshots, and how status, metrics and doctor report it."""

from __future__ import annotations

import io
import json
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edge_siamese.daemon.event_bus import EventBus
from edge_siamese.doctor import Finding, examine, integrations
from edge_siamese.errors import ControlError, MqttError
from edge_siamese.models.bundle import Bundle
from edge_siamese.mqtt import bridge as bridge_module
from edge_siamese.mqtt.bridge import SNAPSHOT_SIDE, Bridge, encode_snapshot
from edge_siamese.mqtt.cleanup import (
    FILE_NAME,
    PublishedTopics,
    read_published_topics,
    write_published_topics,
)
from edge_siamese.mqtt.client import ReconnectPolicy
from edge_siamese.settings import MqttSettings, PathSettings, Settings
from tests.edge_siamese.daemon.running import Daemon, daemon_in, until
from tests.edge_siamese.metrics.scraping import configure, free_port, scrape, text_at, value
from tests.edge_siamese.mqtt.scripted_broker import ACCEPTED_5, BAD_USER_5, ScriptedBroker, accepted_5

ROOT = Path(__file__).parents[3]
PACE = ReconnectPolicy(initial=0.02, maximum=0.05)


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


def retained(broker: ScriptedBroker) -> list[tuple[str, bytes]]:
    """Topics and payloads of what was published to be kept, but for the availability of the present names."""
    return [
        (topic, payload[1:])
        for topic, payload, flags in broker.published
        if flags & 1 and topic != "edge-siamese/hall/availability"
    ]


def test_events_and_status_are_published(tmp_path: Path) -> None:
    with ScriptedBroker(ACCEPTED_5) as broker:
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


def test_a_failed_start_raises_and_leaves_no_thread(tmp_path: Path) -> None:
    made, actions = bridge(tmp_path, 1, username="me", password_file="/missing")
    with pytest.raises(MqttError, match="/missing: the password cannot be read"):
        made.start()
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("mqtt")]
    assert actions.bus._subscribers == []


def test_mqtt_works_without_a_fleet_that_cannot_start_and_starts_it_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "MAX_FLEET_RETRY_SECONDS", 0.1)
    monkeypatch.setattr(bridge_module, "FLEET_RETRY_SECONDS", 0.05)
    (tmp_path / "fleet.db").mkdir()
    with ScriptedBroker(ACCEPTED_5) as broker:
        made, actions = bridge(tmp_path, broker.port, collection="home")
        made.start()
        until(lambda: made.report()["state"] == "connected")
        found = made.report()["fleet"]
        assert (found["collection"], found["state"], found["objects"]) == ("home", "not started", 0)
        assert "fleet.db" in found["problem"]
        until(lambda: made._fleet is not None and made._fleet._delay == 0.1)
        told = [event.text for event in actions.bus.latest(20) if event.kind == "fleet"]
        assert len(told) == 1
        assert told[0].startswith("the fleet cannot start: ")
        (tmp_path / "fleet.db").rmdir()
        until(lambda: made.report()["fleet"]["state"] == "reading")
        made.close(2)
        until(
            lambda: not [thread for thread in threading.enumerate() if thread.name in ("mqtt-fleet", "fleet")]
        )


def test_a_fleet_that_never_started_can_be_closed(tmp_path: Path) -> None:
    (tmp_path / "fleet.db").mkdir()
    made, _ = bridge(tmp_path, 1, collection="home")
    made.start()
    assert [thread for thread in threading.enumerate() if thread.name == "mqtt-fleet"]
    made.close(0.5)
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "mqtt-fleet"])


def test_new_names_remove_retained_messages_of_the_old_ones(tmp_path: Path) -> None:
    with ScriptedBroker(ACCEPTED_5) as broker:
        where = f"127.0.0.1:{broker.port}"
        write_published_topics(tmp_path, [PublishedTopics(where, "old", "door", "ha")])
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
        assert read_published_topics(tmp_path) == (
            PublishedTopics(where, "edge-siamese", "hall", "homeassistant"),
            PublishedTopics(where, "old", "door", "ha"),
        )


def test_turning_discovery_off_removes_the_discovery_message_only(tmp_path: Path) -> None:
    with ScriptedBroker(ACCEPTED_5) as broker:
        where = f"127.0.0.1:{broker.port}"
        write_published_topics(tmp_path, [PublishedTopics(where, "edge-siamese", "hall", "homeassistant")])
        made, _ = bridge(tmp_path, broker.port, discovery_prefix="")
        made.start()
        until(lambda: retained(broker))
        assert retained(broker) == [("homeassistant/device/edge-siamese-hall/config", b"")]
        until(
            lambda: read_published_topics(tmp_path) == (PublishedTopics(where, "edge-siamese", "hall", ""),)
        )
        made.close(1)


@pytest.mark.parametrize("other", [True, False])
def test_the_same_names_or_another_broker_remove_nothing(tmp_path: Path, other: bool) -> None:
    with ScriptedBroker(ACCEPTED_5) as broker:
        where = "elsewhere:1" if other else f"127.0.0.1:{broker.port}"
        prefix = "old" if other else "edge-siamese"
        write_published_topics(tmp_path, [PublishedTopics(where, prefix, "hall", "homeassistant")])
        made, _ = bridge(tmp_path, broker.port)
        made.start()
        until(lambda: any(topic.endswith("event") for topic, _, _ in broker.published))
        assert retained(broker) == []
        made.close(1)


def test_turning_mqtt_off_removes_every_retained_message(tmp_path: Path) -> None:
    with ScriptedBroker(ACCEPTED_5) as broker:
        made, actions = bridge(tmp_path, broker.port)
        made.start()
        until(lambda: made.report()["state"] == "connected")
        actions.settings = Settings(paths=actions.settings.paths)
        made.close(2)
        until(lambda: broker.published and broker.published[-1][0] == "edge-siamese/hall/availability")
        assert broker.published[-1][1].endswith(b"\x00")
        assert dict(retained(broker)) == {
            "edge-siamese/hall/state": b"",
            "homeassistant/device/edge-siamese-hall/config": b"",
        }


def test_a_snapshot_needs_a_frame_and_the_setting(tmp_path: Path) -> None:
    made, _ = bridge(tmp_path, 1)
    with pytest.raises(ControlError, match="there is no picture: waiting for the camera"):
        made._publish_snapshot()
    made.close(0.1)
    off, _ = bridge(tmp_path, 1, snapshots=False)
    with pytest.raises(ControlError, match=r"snapshots are off; \[mqtt\] snapshots = true turns them on"):
        off._publish_snapshot()
    off.close(0.1)


def test_an_unusable_file_of_published_topics_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_published_topics(tmp_path) == ()
    assert caplog.text == ""
    for content in ("{", "[]", json.dumps({"broker": 3})):
        (tmp_path / FILE_NAME).write_text(content)
        assert read_published_topics(tmp_path) == ()
    (tmp_path / "file").touch()
    write_published_topics(tmp_path / "file", [PublishedTopics("a", "b", "c", "d")])
    assert "mqtt.json cannot be written" in caplog.text


def test_a_snapshot_is_a_jpeg_of_bounded_size() -> None:
    pixels = np.zeros((1200, 1600, 3), np.uint8)
    made = encode_snapshot(pixels)
    assert made.startswith(b"\xff\xd8\xff")
    assert Image.open(io.BytesIO(made)).size == (SNAPSHOT_SIDE, 720)
    assert encode_snapshot(np.zeros((48, 64), np.uint8)).startswith(b"\xff\xd8\xff")


def test_a_snapshot_for_a_small_broker_is_reduced() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (960, 1280, 3), np.uint8)
    sizes = []
    for limit in (None, 100_000, 20_000, 4000):
        made = encode_snapshot(noise, limit)
        assert limit is None or len(made) <= limit
        sizes.append(Image.open(io.BytesIO(made)).size[0])
    assert sizes == sorted(sizes, reverse=True) and sizes[0] == SNAPSHOT_SIDE > sizes[-1]
    with pytest.raises(
        ControlError, match=r"^the broker accepts messages of at most 100 bytes, too few for a picture$"
    ):
        encode_snapshot(noise, 100)


def test_the_status_names_the_limits_of_the_broker(tmp_path: Path) -> None:
    with ScriptedBroker(accepted_5(retain=0, size=3000)) as broker:
        made, _ = bridge(tmp_path, broker.port)
        made.start()
        until(lambda: made.report()["state"] != "connecting")
        assert made.report()["state"] == (
            "connected; the broker accepts messages of at most 3,000 bytes, no retained messages"
        )
        made.close(2)


def test_the_password_in_the_url_is_in_no_report_and_no_file(tmp_path: Path) -> None:
    with ScriptedBroker(ACCEPTED_5) as broker:
        url = f"mqtt://me:secret@127.0.0.1:{broker.port}"
        settings = MqttSettings(broker=url, device_id="hall")
        actions = Actions(tmp_path, settings)
        made = Bridge(settings, actions, PACE)  # type: ignore[arg-type]
        made.start()
        until(lambda: made.report()["state"] == "connected")
        until(lambda: any(event.kind == "mqtt" for event in actions.bus.latest(5)))
        assert made.report()["broker"] == f"127.0.0.1:{broker.port}"
        made.close(2)
        told = [str(made.report()), *map(str, actions.bus.latest(5))]
        told += [path.read_text() for path in tmp_path.iterdir() if path.is_file()]
        assert not any("secret" in text for text in told)
        assert b"\x00\x02me\x00\x06secret" in broker.connects[0]


# --- what status, metrics and doctor report ---


def looked_at(daemon: Daemon) -> Finding:
    """What doctor finds of MQTT."""
    found = examine(daemon.config, checks=[("integrations", integrations.check_integrations)])
    return next(finding for finding in found if finding.check == "mqtt")


def with_mqtt(daemon: Daemon, bundle: Bundle, broker: int, metrics: int) -> Daemon:
    configure(daemon, bundle, metrics)
    with daemon.config.open("a") as file:
        file.write(
            f'[mqtt]\nbroker = "127.0.0.1"\nport = {broker}\ndevice_id = "hall"\ncollection = "home"\n'
        )
    return daemon.start().up()


def test_an_unreachable_broker_shows_in_status_metrics_and_doctor(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with daemon_in(tmp_path, monkeypatch) as made:
        daemon = with_mqtt(made, bundle, free_port(), port)
        until(
            lambda: (
                daemon.ask("status")["integrations"]["mqtt"]["state"] == "disconnected: Connection refused"
            )
        )
        assert daemon.ask("status")["integrations"]["mqtt"]["works"] is False
        assert value(scrape(port), "edge_siamese_integration_up", integration="mqtt") == 0
        assert value(text_at(port), "edge_siamese_integration_up", integration="metrics") == 1
        found = looked_at(daemon)
        assert (found.level, found.text) == (
            "warning",
            "it does not work: disconnected: Connection refused",
        )
        assert "[mqtt]" in found.remedy


def test_status_has_the_fleet_keys_of_the_guide(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"`integrations\.mqtt\.fleet`:\n\n(.*?)\n\n", guide, re.DOTALL)
    with daemon_in(tmp_path, monkeypatch) as made:
        daemon = with_mqtt(made, bundle, free_port(), free_port())
        fleet = until(lambda: daemon.ask("status")["integrations"]["mqtt"].get("fleet"))
    assert fleet["state"] == "disconnected"
    documented = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert documented == {"state", "problem", "objects", "to_publish", "to_fetch"}
    assert documented - {"problem"} <= set(fleet)


def test_a_refusing_broker_shows_in_status_metrics_and_doctor(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first wait of a refused device is a minute; here it is not.
    monkeypatch.setattr(
        "edge_siamese.mqtt.client.ReconnectPolicy",
        lambda: ReconnectPolicy(initial=0.05, refused=0.05, maximum=0.05),
    )
    port = free_port()
    with ScriptedBroker(BAD_USER_5) as broker, daemon_in(tmp_path, monkeypatch) as made:
        daemon = with_mqtt(made, bundle, broker.port, port)
        until(lambda: daemon.ask("status")["integrations"]["mqtt"]["state"].startswith("refused: "))
        assert value(scrape(port), "edge_siamese_integration_up", integration="mqtt") == 0
        assert looked_at(daemon).text == "it does not work: refused: bad user name or password"
        broker.answer(ACCEPTED_5)
        until(lambda: daemon.ask("status")["integrations"]["mqtt"]["works"])
        until(lambda: value(text_at(port), "edge_siamese_integration_up", integration="mqtt") == 1)
        assert (looked_at(daemon).level, looked_at(daemon).text) == ("ok", "connected")
