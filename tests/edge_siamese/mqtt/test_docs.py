"""The pages on MQTT and Home Assistant against the code: topics, payloads, commands, entities, limits."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_siamese.events import Event
from edge_siamese.mqtt import bridge, commands, outbox
from edge_siamese.mqtt.client import ReconnectPolicy
from edge_siamese.mqtt.discovery import (
    EVENT_TYPES,
    MAX_OBJECTS,
    DeviceDescription,
    discovery_message,
    max_objects,
)
from edge_siamese.mqtt.publisher import ObjectState, RegionPresence, event_payload, state_payload
from edge_siamese.mqtt.topics import Topics
from edge_siamese.recognition.registration import collision_refusal
from edge_siamese.recognition.tracking import Sighting
from edge_siamese.settings import MqttSettings
from edge_siamese.settings_file import parse_settings

ROOT = Path(__file__).parents[3]
MQTT = (ROOT / "docs" / "mqtt.md").read_text(encoding="utf-8")
HOME = (ROOT / "docs" / "home-assistant.md").read_text(encoding="utf-8")
HALL = Topics("edge-siamese", "hall")


def blocks(text: str, language: str) -> list[str]:
    """The code of a language on a page, without the indentation of a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text, re.MULTILINE | re.DOTALL)
    return ["\n".join(line[len(indent) :] for line in body.splitlines()) for indent, body in found]


STATE, OBJECT, EVENT, DONE, REFUSED = map(json.loads, blocks(MQTT, "json"))


def same_kinds(example: dict[str, Any], real: dict[str, Any]) -> None:
    """An example has the keys of what is sent, in order, with values of the same types where there are any."""
    assert list(example) == list(real)
    for key, value in real.items():
        assert value is None or isinstance(example[key], type(value)), key


def test_the_state_example_is_valid() -> None:
    status = {
        "version": "1",
        "line": "",
        "fault": "",
        "model": {"model_id": "m", "runtime": "r", "threshold": 0.5},
        "camera": {"fps": 9.81},
        "objects": 1,
        "views": 1,
        "present": ["mug"],
        "regions": {"shelf": ["mug"]},
        "registering": False,
    }
    same_kinds(STATE, state_payload(status, started="t", temperature_c=51.23, memory_mb=91.7))


def test_the_object_example_is_valid() -> None:
    same_kinds(
        OBJECT,
        asdict(
            ObjectState(
                uid="u",
                name="mug",
                present=True,
                probability=0.97,
                last_seen="t",
                views=2,
                negatives=0,
                created="t",
                regions={"shelf": RegionPresence(True, 0.97)},
            )
        ),
    )
    for there in OBJECT["regions"].values():
        same_kinds(there, asdict(RegionPresence()))


def test_the_event_example_is_valid() -> None:
    sighting = Sighting("appeared", "u", "mug", "s", 0.97, 0.7, 6, 0.0, 0.5, "shelf")
    event = Event("appeared", sighting.text, data={**sighting.data(), "decision": "m"})
    same_kinds(EVENT, event_payload(event, "a-1", "hall"))
    assert EVENT["text"] == 'keys appeared in "shelf" (p = 0.97)'


def test_the_reply_examples_have_the_actual_keys() -> None:
    assert list(DONE) == ["command", "id", "ok", "text", "object"] and list(DONE["object"]) == ["uid", "name"]
    assert list(REFUSED) == ["command", "id", "ok", "error", "reason"]
    refusal = collision_refusal("keys")
    assert (REFUSED["error"], REFUSED["reason"]) == (refusal.text, refusal.reason.problem)


def test_the_command_example_is_valid() -> None:
    ((name, payload),) = re.findall(r"-t edge-siamese/hall/command/(\w+) -m '(.*)'", MQTT)
    read = commands.parse_request(name, payload.encode())
    assert (read.name, read.error, read.id) == (DONE["command"], "", DONE["id"])


def test_every_command_is_listed_with_its_keys() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", MQTT.split("## Commands")[1], re.MULTILINE)
    stated = {name: re.findall(r"`(\w+)`", keys) for name, keys in rows}
    keys_of = {name: commands.keys_of(command) for name, command in commands.COMMANDS.items()}
    assert {name: set(keys) for name, keys in stated.items()} == {
        name: set(keys) for name, keys in keys_of.items()
    }
    for name, keys in rows:
        required = keys_of[name].values()
        assert any(required) == ("required" in keys)
        assert (sum(required) > 1) == ("both required" in keys)


def test_every_topic_is_listed() -> None:
    rows = re.findall(r"^\| `([\w/]+)` \|", MQTT.split("### State")[0], re.MULTILINE)
    assert [f"{HALL.base}/{row}" for row in rows] == [
        HALL.availability,
        HALL.state,
        HALL.object("UID"),
        HALL.event,
        HALL.region_event("REGION"),
        HALL.snapshot,
        HALL.command("NAME"),
        HALL.reply,
    ]
    assert f"`{HALL.discovery('homeassistant')}`" in MQTT


def test_documented_limits_are_the_limits() -> None:
    text = " ".join((MQTT + HOME).split())
    pace = ReconnectPolicy()
    assert (pace.initial, pace.maximum, pace.refused) == (1, 120, 60)
    for stated in (
        f"at most {outbox.MAX_MESSAGES} messages and {outbox.MAX_BYTES // 10**6} MB",
        f"at most {commands.MAX_BYTES} bytes",
        f"at most {commands.MAX_ID_LENGTH} characters",
        f"a JPEG of at most {bridge.SNAPSHOT_SIDE} pixels",
        f"The first {MAX_OBJECTS} objects are shown; with regions fewer, such as {max_objects(2)} with two",
        "reconnects after 1 second, then after 2, 4, … and at most 120 seconds",
        "the device tries at most once a minute",
    ):
        assert stated in text
    assert commands.MAX_QUEUED == 8 and "Up to eight commands wait" in text


@pytest.mark.parametrize("table", blocks(MQTT, "toml") + blocks(HOME, "toml"))
def test_documented_settings_exist(table: str) -> None:
    assert parse_settings(table).mqtt.broker


def test_documented_defaults_are_the_defaults() -> None:
    assert MqttSettings().discovery_prefix == "homeassistant"
    assert MqttSettings().topic_prefix == "edge-siamese"


# --- Home Assistant ---


def entities() -> dict[str, dict[str, Any]]:
    """The components of a hall that knows keys, by the ids that Home Assistant gives them."""
    message = discovery_message(
        HALL, DeviceDescription("Hall", "", "", True), [("0" * 32, "keys")], ["shelf"]
    )
    return {
        f"{found['platform']}." + re.sub("[^a-z0-9]+", "_", f"hall {found['name']}".lower()): found
        for found in message["components"].values()
    }


def test_all_entities_are_listed() -> None:
    named = set(re.findall(r"\b((?:binary_sensor|sensor|button|event|camera)\.hall_\w+)", HOME))
    named |= {f"sensor.hall{end}" for end in re.findall(r"`…(\w+)`", HOME)}
    assert named == set(entities())


def test_every_kind_of_activity_is_listed() -> None:
    (said,) = re.findall(r"the last event: ([\w, ]+);", HOME)
    assert said.split(", ") == list(EVENT_TYPES)


def mentioned(value: Any) -> set[str]:
    """Entities of the hall in YAML."""
    return set(re.findall(r"\b\w+\.hall_\w+", json.dumps(value)))


def test_automations_are_valid_for_home_assistant() -> None:
    automations = [found for found in map(yaml.safe_load, blocks(HOME, "yaml")) if "alias" in found]
    assert len(automations) == 2
    for automation in automations:
        assert set(automation) <= {"alias", "description", "triggers", "conditions", "actions", "mode"}
        for trigger in automation["triggers"]:
            assert trigger["trigger"] == "state"
            assert set(trigger) <= {"trigger", "entity_id", "from", "to", "not_from", "not_to", "for"}
        for condition in automation["conditions"]:
            assert condition["condition"] in ("state", "template")
            # `on` and `off` without quotation marks are true and false in YAML, and no states.
            assert isinstance(condition.get("state", ""), str)
        for action in automation["actions"]:
            assert action["action"].startswith("notify.") and action["data"]["message"]
        assert mentioned(automation) <= set(entities())


def test_cards_show_existing_entities() -> None:
    (card,) = [found for found in map(yaml.safe_load, blocks(HOME, "yaml")) if "cards" in found]
    assert mentioned(card) <= set(entities()) and len(mentioned(card)) == 6
    assert {found["type"] for found in card["cards"]} <= {"picture-entity", "entities", "history-graph"}


def test_automations_use_states_of_a_binary_sensor() -> None:
    for name in ("binary_sensor.hall_keys", "binary_sensor.hall_problem"):
        assert "'ON'" in entities()[name]["value_template"] and "'OFF'" in entities()[name]["value_template"]
