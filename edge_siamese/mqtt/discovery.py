"""Home Assistant's discovery message: the entities of the device and of its objects.

Home Assistant 2024.11 and later: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge_siamese.mqtt.topics import Topics, to_json

MANUFACTURER = "edge-siamese"
MAX_OBJECTS = 250
"""Objects with entities if there are no regions: each adds three of them, and 1.5 kB to the message."""
OBJECT_ENTITIES = 3
"""Entities of an object; each region adds one."""
EVENT_TYPES = (
    "appeared",
    "left",
    "undecided",
    "registered",
    "view added",
    "refused",
    "renamed",
    "forgotten",
    "merged",
    "undone",
)
"""Events shown by the activity entity."""
UID_LENGTH = 32
"""Length of an object's uid; the keys of its components begin with it."""
DIAGNOSTIC, CONFIG = "diagnostic", "config"

Component = dict[str, Any]


@dataclass(frozen=True)
class DeviceDescription:
    """The device as Home Assistant shows it."""

    name: str
    model: str
    """The board."""
    version: str
    """Version of edge-siamese."""
    snapshots: bool
    """Whether there are pictures."""


def discovery_message(
    topics: Topics,
    device: DeviceDescription,
    objects: Iterable[tuple[str, str]],
    regions: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the discovery message.

    Args:
        topics: topics of the device.
        device: its description.
        objects: uid and name of each; those beyond `max_objects` are left out.
        regions: their names.
    """
    components = _device_components(topics, device.snapshots)
    for region in regions:
        components |= _region_component(topics, region)
    for uid, name in list(objects)[: max_objects(len(regions))]:
        components |= _object_components(topics, uid, name)
        for region in regions:
            components |= _presence_in_region(topics, uid, name, region)
    for key, component in components.items():
        # Home Assistant keeps an entity's history by this id, so it must not change with the name.
        component["unique_id"] = f"{topics.discovery_id}_{key}"
    return {
        "device": {
            "identifiers": [topics.discovery_id],
            "name": device.name,
            "manufacturer": MANUFACTURER,
            "model": device.model,
            "sw_version": device.version,
        },
        "origin": {"name": MANUFACTURER, "sw_version": device.version},
        "availability_topic": topics.availability,
        "payload_available": "online",
        "payload_not_available": "offline",
        "components": components,
    }


def max_objects(regions: int) -> int:
    """Return how many objects have entities with this many regions."""
    return MAX_OBJECTS * OBJECT_ENTITIES // (OBJECT_ENTITIES + regions)


def fit_message(message: Mapping[str, Any], max_bytes: int | None) -> dict[str, Any]:
    """Return the message with as many components as fit into a payload of `max_bytes`; None: all.

    The device's own come first, then the presence of each object, then that in each region, then the rest. No components
    fit if even the message without them is too large.
    """
    if max_bytes is None or len(to_json(message)) <= max_bytes:
        return dict(message)
    components: dict[str, Component] = {}
    remaining = max_bytes - len(to_json({**message, "components": {}}))
    for key in sorted(message["components"], key=_priority):
        component = message["components"][key]
        remaining -= len(to_json({key: component})) - 1  # without its braces, with a comma
        if remaining < 0:
            break
        components[key] = component
    return {**message, "components": components}


def _priority(key: str) -> int:
    """Return the rank of a component when not all fit; the most important have rank 0."""
    if len(key.partition("_")[0]) != UID_LENGTH:
        return 0
    if key.endswith("_present"):
        return 1
    return 2 if "_in_" in key else 3


def removal_messages(
    former: Mapping[str, Any], message: Mapping[str, Any], max_bytes: int | None = None
) -> list[dict[str, Any]]:
    """Return messages that also remove components of a former one; usually none.

    Home Assistant removes a component that has only its platform, and keeps a component that is missing.
    The message without these components has to be published next.

    Args:
        former: the message that the broker has retained, with contents of any form.
        message: the new message.
        max_bytes: maximum size of a payload; None for no limit.
    """
    before, now = former.get("components"), message["components"]
    if not isinstance(before, dict):
        return []
    removed = {
        key: {"platform": component["platform"]}
        for key, component in before.items()
        if key not in now and isinstance(component, dict) and isinstance(component.get("platform"), str)
    }
    if not removed:
        return []
    whole = {**message, "components": {**now, **removed}}
    if max_bytes is None or len(to_json(whole)) <= max_bytes:
        return [whole]
    messages = []
    while removed:
        part = fit_message({**message, "components": removed}, max_bytes)
        if not part["components"]:
            break
        messages.append(part)
        removed = {key: component for key, component in removed.items() if key not in part["components"]}
    return messages


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
            "value_template": _none_or("probability", "(value_json.probability * 100) | round(1)"),
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


def _presence_in_region(topics: Topics, uid: str, name: str, region: str) -> dict[str, Component]:
    found = f"((value_json.regions or {{}}).get('{region}') or {{}})"  # names of regions have no quotes
    return {
        f"{uid}_in_{_key(region)}": {
            "platform": "binary_sensor",
            "name": f"{name} {region}",
            "device_class": "occupancy",
            "state_topic": topics.object(uid),
            "value_template": f"{{{{ 'ON' if {found}.get('present') else 'OFF' }}}}",
            "json_attributes_topic": topics.object(uid),
            "json_attributes_template": f"{{{{ {found} | tojson }}}}",
        }
    }


def _region_component(topics: Topics, region: str) -> dict[str, Component]:
    found = f"((value_json.regions or {{}}).get('{region}') or [])"
    return {
        f"region_{_key(region)}": {
            "platform": "sensor",
            "name": region,
            "icon": "mdi:select",
            "state_topic": topics.state,
            "value_template": f"{{{{ ({found} | join(', ') or 'nothing')[:255] }}}}",
        }
    }


def _key(region: str) -> str:
    """Return the part of a component's key that stands for a region, made of characters that keys may contain."""
    return hashlib.sha256(region.casefold().encode()).hexdigest()[:8]


def _device_components(topics: Topics, snapshots: bool) -> dict[str, Component]:
    def button(name: str, command: str, icon: str, **more: Any) -> Component:
        press = {"command_topic": topics.command(command), "payload_press": "{}", "qos": 1}
        return {"platform": "button", "name": name, "icon": icon, **press, **more}

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
        "present": sensor(
            "Present",
            "present",
            "{{ (value_json.present | join(', ') or 'nothing')[:255] }}",
            icon="mdi:eye",
        ),
        "activity": {
            "platform": "event",
            "name": "Activity",
            "icon": "mdi:cube-scan",
            "state_topic": topics.event,
            "event_types": list(EVENT_TYPES),
            # Home Assistant ignores an empty result.
            "value_template": (
                f"{{% if value_json.kind in [{kinds}] %}}"
                "{{ {'event_type': value_json.kind, 'text': value_json.text, 'name': value_json.get('name'), "
                "'uid': value_json.get('uid'), 'region': value_json.get('region'), "
                "'probability': value_json.get('probability')} | tojson }}{% endif %}"
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
        components["take_snapshot"] = button("Take a snapshot", "snapshot", "mdi:camera")
    return components


def _none_or(key: str, expression: str) -> str:
    """Return a template for a value that may be null, which Home Assistant shows as unknown."""
    return f"{{{{ none if value_json.{key} is none else {expression} }}}}"
