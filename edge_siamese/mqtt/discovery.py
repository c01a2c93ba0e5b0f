"""The one message by which Home Assistant finds this device, with an entity for each thing that there is to know of it.

Home Assistant 2024.11 and later take it: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from edge_siamese.mqtt.topics import Topics

HOME_ASSISTANT = "edge-siamese"
"""Manufacturer, and what this message comes from."""
MAX_OBJECTS = 250
"""Objects that Home Assistant is told of: each costs it three entities, and the message 1.5 kB."""
EVENT_TYPES = (
    "appeared",
    "left",
    "registered",
    "view added",
    "refused",
    "renamed",
    "forgotten",
    "merged",
    "undone",
)
"""Kinds of events that Home Assistant hears of."""
DIAGNOSTIC, CONFIG = "diagnostic", "config"

Component = dict[str, Any]


@dataclass(frozen=True)
class Described:
    """The device, as Home Assistant shows it."""

    name: str
    model: str
    """The board."""
    version: str
    """Of edge-siamese."""
    snapshots: bool
    """Whether there are pictures."""


def discovery(topics: Topics, device: Described, objects: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The whole message.

    Args:
        topics: of the device.
        device: what it is.
        objects: uid and name of each; those beyond `MAX_OBJECTS` are left out.
    """
    components = _device_components(topics, device.snapshots)
    for uid, name in list(objects)[:MAX_OBJECTS]:
        components |= _object_components(topics, uid, name)
    for key, component in components.items():
        # Home Assistant keeps an entity's history by this: it must outlive names.
        component["unique_id"] = f"{topics.discovery_id}_{key}"
    return {
        "device": {
            "identifiers": [topics.discovery_id],
            "name": device.name,
            "manufacturer": HOME_ASSISTANT,
            "model": device.model,
            "sw_version": device.version,
        },
        "origin": {"name": HOME_ASSISTANT, "sw_version": device.version},
        "availability_topic": topics.availability,
        "payload_available": "online",
        "payload_not_available": "offline",
        "components": components,
    }


def without(former: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any] | None:
    """The message that also removes what a former one had, or None if there is nothing to remove.

    Home Assistant removes a component that it is told the platform of, and nothing else; one that is only left out
    stays. After this message the one without them is to follow.

    Args:
        former: as the broker had it; may be anything.
        message: the new one.
    """
    before, now = former.get("components"), message["components"]
    if not isinstance(before, dict):
        return None
    gone = {
        key: {"platform": component["platform"]}
        for key, component in before.items()
        if key not in now and isinstance(component, dict) and isinstance(component.get("platform"), str)
    }
    return {**message, "components": {**now, **gone}} if gone else None


def encoded(message: Mapping[str, Any]) -> bytes:
    """JSON as it is sent."""
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _object_components(topics: Topics, uid: str, name: str) -> dict[str, Component]:
    state = topics.object(uid)
    return {
        f"{uid}_present": {
            "platform": "binary_sensor",
            "name": name,
            "device_class": "occupancy",
            "state_topic": state,
            "value_template": "{{ 'ON' if value_json.present else 'OFF' }}",
            "json_attributes_topic": state,
        },
        f"{uid}_probability": {
            "platform": "sensor",
            "name": f"{name} probability",
            "icon": "mdi:percent",
            "state_topic": state,
            "value_template": _unless_none("probability", "(value_json.probability * 100) | round(1)"),
            "unit_of_measurement": "%",
            "state_class": "measurement",
            "suggested_display_precision": 0,
        },
        f"{uid}_last_seen": {
            "platform": "sensor",
            "name": f"{name} last seen",
            "device_class": "timestamp",
            "state_topic": state,
            "value_template": "{{ value_json.last_seen }}",
        },
    }


def _device_components(topics: Topics, snapshots: bool) -> dict[str, Component]:
    def button(name: str, command: str, icon: str, **more: Any) -> Component:
        pressed = {"command_topic": topics.command(command), "payload_press": "{}", "qos": 1}
        return {"platform": "button", "name": name, "icon": icon, **pressed, **more}

    def sensor(name: str, key: str, template: str = "", **more: Any) -> Component:
        value = template or f"{{{{ value_json.{key} }}}}"
        return {
            "platform": "sensor",
            "name": name,
            "state_topic": topics.state,
            "value_template": value,
            **more,
        }

    measured = {"state_class": "measurement", "entity_category": DIAGNOSTIC}
    kinds = ", ".join(f"'{kind}'" for kind in EVENT_TYPES)
    components: dict[str, Component] = {
        "register": button("Register", "register", "mdi:plus-box"),
        "undo": button("Undo", "undo", "mdi:undo", entity_category=CONFIG),
        "sees": sensor(
            "Sees", "present", "{{ (value_json.present | join(', ') or 'nothing')[:255] }}", icon="mdi:eye"
        ),
        "activity": {
            "platform": "event",
            "name": "Activity",
            "icon": "mdi:cube-scan",
            "state_topic": topics.event,
            "event_types": list(EVENT_TYPES),
            # An empty result is no event.
            "value_template": (
                f"{{% if value_json.kind in [{kinds}] %}}"
                "{{ {'event_type': value_json.kind, 'text': value_json.text, 'name': value_json.get('name'), "
                "'uid': value_json.get('uid'), 'probability': value_json.get('probability')} | tojson }}{% endif %}"
            ),
        },
        "problem": {
            "platform": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "entity_category": DIAGNOSTIC,
            "state_topic": topics.state,
            "value_template": "{{ 'ON' if value_json.problem else 'OFF' }}",
            "json_attributes_topic": topics.state,
            "json_attributes_template": "{{ {'problem': value_json.problem} | tojson }}",
        },
        "frames_per_second": sensor(
            "Frames per second",
            "frames_per_second",
            unit_of_measurement="frames/s",
            icon="mdi:speedometer",
            **measured,
        ),
        "temperature": sensor(
            "Temperature", "temperature_c", device_class="temperature", unit_of_measurement="°C", **measured
        ),
        "memory": sensor(
            "Memory", "memory_mb", device_class="data_size", unit_of_measurement="MB", **measured
        ),
        "model": sensor("Model", "model", icon="mdi:brain", entity_category=DIAGNOSTIC),
        "started": sensor("Started", "started", device_class="timestamp", entity_category=DIAGNOSTIC),
        "objects": sensor("Objects", "objects", icon="mdi:shape", **measured),
    }
    if snapshots:
        components["snapshot"] = {"platform": "camera", "name": "Snapshot", "topic": topics.snapshot}
        components["look"] = button("Take a snapshot", "snapshot", "mdi:camera")
    return components


def _unless_none(key: str, expression: str) -> str:
    """A template of what may be null, which Home Assistant calls unknown."""
    return f"{{{{ none if value_json.{key} is none else {expression} }}}}"
