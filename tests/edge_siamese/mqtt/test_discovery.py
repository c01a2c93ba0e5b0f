"""The discovery message against Home Assistant's requirements."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from edge_siamese.events import KINDS
from edge_siamese.mqtt.discovery import (
    EVENT_TYPES,
    MAX_OBJECTS,
    DeviceDescription,
    discovery_message,
    fit_message,
    removal_messages,
)
from edge_siamese.mqtt.topics import Topics, to_json

HALL = Topics("edge-siamese", "hall")
DEVICE = DeviceDescription("Hall", "Raspberry Pi 4 Model B Rev 1.4", "1.2.3", snapshots=True)
MUG, PEN = "0" * 32, "1" * 32
BASE = "edge-siamese/hall"

# What Home Assistant 2025.11 lets a component of each platform have, of all that it could have: what is not here is
# ignored or refused there.
COMMON = {"platform", "name", "unique_id", "icon", "entity_category", "qos"}
STATEFUL = {
    "state_topic",
    "value_template",
    "device_class",
    "json_attributes_topic",
    "json_attributes_template",
}
ALLOWED = {
    "binary_sensor": COMMON | STATEFUL,
    "sensor": COMMON | STATEFUL | {"unit_of_measurement", "state_class", "suggested_display_precision"},
    "event": COMMON | {"state_topic", "value_template", "event_types"},
    "button": COMMON | {"command_topic", "payload_press"},
    "camera": COMMON | {"topic"},
}
NEEDED = {
    "binary_sensor": {"state_topic"},
    "sensor": {"state_topic"},
    "event": {"state_topic", "event_types"},
    "button": {"command_topic"},
    "camera": {"topic"},
}
DEVICE_CLASSES = {
    "binary_sensor": {"occupancy", "problem"},
    "sensor": {"timestamp", "temperature", "data_size"},
}
UNITS = {"temperature": "°C", "data_size": "MB"}


def message(*objects: tuple[str, str], **changes: Any) -> dict[str, Any]:
    return discovery_message(HALL, DeviceDescription(**{**vars(DEVICE), **changes}), objects)


def test_the_message_describes_the_device() -> None:
    found = message()
    assert found["device"] == {
        "identifiers": ["edge-siamese-hall"],
        "name": "Hall",
        "manufacturer": "edge-siamese",
        "model": "Raspberry Pi 4 Model B Rev 1.4",
        "sw_version": "1.2.3",
    }
    assert found["origin"] == {"name": "edge-siamese", "sw_version": "1.2.3"}


def test_all_entities_share_the_availability_of_the_device() -> None:
    found = message((MUG, "mug"))
    assert found["availability_topic"] == f"{BASE}/availability"
    assert (found["payload_available"], found["payload_not_available"]) == ("online", "offline")
    assert not any("availability_topic" in component for component in found["components"].values())


def test_the_message_has_these_top_level_keys() -> None:
    assert set(message()) == {
        "device",
        "origin",
        "availability_topic",
        "payload_available",
        "payload_not_available",
        "components",
    }


@pytest.mark.parametrize("snapshots", [True, False])
def test_each_component_has_the_keys_of_its_platform(
    snapshots: bool,
) -> None:
    for key, component in message((MUG, "mug"), snapshots=snapshots)["components"].items():
        platform = component["platform"]
        assert set(component) <= ALLOWED[platform], key
        assert set(component) >= NEEDED[platform] | {"name", "unique_id"}, key
        assert re.fullmatch("[a-z0-9_]+", key)
        assert component.get("device_class") in DEVICE_CLASSES.get(platform, set()) | {None}
        assert component.get("entity_category") in ("config", "diagnostic", None)
        assert component.get("state_class") in ("measurement", None)
        if unit := UNITS.get(component.get("device_class", "")):
            assert component["unit_of_measurement"] == unit
        if component.get("device_class") == "timestamp":
            assert "state_class" not in component and "unit_of_measurement" not in component
        assert component.get("icon", "mdi:x").startswith("mdi:")


def test_ids_are_unique_and_survive_renaming() -> None:
    before, after = message((MUG, "mug"), (PEN, "pen")), message((MUG, "cup"), (PEN, "pen"))
    ids = [component["unique_id"] for component in before["components"].values()]
    assert len(set(ids)) == len(ids)
    assert ids == [component["unique_id"] for component in after["components"].values()]
    assert before["components"][f"{MUG}_present"]["unique_id"] == f"edge-siamese-hall_{MUG}_present"
    other = discovery_message(Topics("edge-siamese", "door"), DEVICE, [(MUG, "mug")])["components"]
    assert not set(ids) & {component["unique_id"] for component in other.values()}


def test_an_object_has_presence_probability_and_last_seen() -> None:
    components = message((MUG, "mug"))["components"]
    state = f"{BASE}/objects/{MUG}"
    present = components[f"{MUG}_present"]
    assert present["name"] == "mug" and present["device_class"] == "occupancy"
    assert present["state_topic"] == present["json_attributes_topic"] == state
    assert present["value_template"] == "{{ 'ON' if value_json.present else 'OFF' }}"
    probability = components[f"{MUG}_probability"]
    assert probability["name"] == "mug probability" and probability["unit_of_measurement"] == "%"
    seen = components[f"{MUG}_last_seen"]
    assert (seen["name"], seen["device_class"]) == ("mug last seen", "timestamp")
    assert {component["state_topic"] for component in (present, probability, seen)} == {state}


def test_an_object_has_its_presence_in_each_region() -> None:
    found = discovery_message(HALL, DEVICE, [(MUG, "mug")], ["shelf", "Küche 2"])["components"]
    inside = [component for key, component in found.items() if key.startswith(f"{MUG}_in_")]
    assert [component["name"] for component in inside] == ["mug shelf", "mug Küche 2"]
    for component, region in zip(inside, ("shelf", "Küche 2"), strict=True):
        assert (component["platform"], component["device_class"]) == ("binary_sensor", "occupancy")
        assert component["state_topic"] == component["json_attributes_topic"] == f"{BASE}/objects/{MUG}"
        place = f"((value_json.regions or {{}}).get('{region}') or {{}})"
        assert component["value_template"] == f"{{{{ 'ON' if {place}.get('present') else 'OFF' }}}}"
        assert component["json_attributes_template"] == f"{{{{ {place} | tojson }}}}"
    regions = {key: component for key, component in found.items() if key.startswith("region_")}
    assert [component["name"] for component in regions.values()] == ["shelf", "Küche 2"]
    assert all(re.fullmatch("[a-z0-9_]+", key) for key in found)
    for component in (*inside, *regions.values()):
        assert set(component) <= ALLOWED[component["platform"]]
    # In upper or lower case, a region has the same ids; another one has others.
    again = discovery_message(HALL, DEVICE, [(MUG, "mug")], ["SHELF"])["components"]
    assert again.keys() - found.keys() == set()


def test_templates_of_regions_render_what_is_published() -> None:
    jinja2 = pytest.importorskip("jinja2")
    found = discovery_message(HALL, DEVICE, [(MUG, "mug")], ["shelf"])["components"]
    (inside,) = (component for key, component in found.items() if key.startswith(f"{MUG}_in_"))
    (region,) = (component for key, component in found.items() if key.startswith("region_"))

    def render(component: dict[str, Any], value: dict[str, Any], key: str = "value_template") -> str:
        return str(jinja2.Template(component[key]).render(value_json=value))

    here = {"regions": {"shelf": {"present": True, "probability": 0.9}}}
    assert render(inside, here) == "ON"
    assert json.loads(render(inside, here, "json_attributes_template"))["probability"] == 0.9
    for elsewhere in ({"regions": {"shelf": {"present": False}}}, {"regions": {}}, {}):
        assert render(inside, elsewhere) == "OFF"
    assert render(region, {"regions": {"shelf": ["mug", "pen"]}}) == "mug, pen"
    assert render(region, {"regions": {"shelf": []}}) == render(region, {}) == "nothing"


@pytest.mark.parametrize(("regions", "expected"), [(0, 250), (1, 187), (8, 68)])
def test_regions_make_room_for_their_entities(regions: int, expected: int) -> None:
    objects = [(f"{number:032x}", f"thing {number}") for number in range(300)]
    found = discovery_message(HALL, DEVICE, objects, [f"region {number}" for number in range(regions)])
    present = [key for key in found["components"] if key.endswith("_present")]
    assert len(present) == expected
    smaller = fit_message(found, len(to_json(found)) // 2)["components"]
    assert set(present) <= set(smaller) and "register" in smaller


def test_the_device_has_these_components() -> None:
    components = message()["components"]
    assert {key: component["platform"] for key, component in components.items()} == {
        "register": "button",
        "undo": "button",
        "take_snapshot": "button",
        "snapshot": "camera",
        "present": "sensor",
        "activity": "event",
        "problem": "binary_sensor",
        "frames_per_second": "sensor",
        "temperature": "sensor",
        "memory": "sensor",
        "model": "sensor",
        "started": "sensor",
        "objects": "sensor",
    }
    assert components["register"]["command_topic"] == f"{BASE}/command/register"
    assert components["undo"]["command_topic"] == f"{BASE}/command/undo"
    assert components["take_snapshot"]["command_topic"] == f"{BASE}/command/snapshot"
    assert {components[key]["payload_press"] for key in ("register", "undo", "take_snapshot")} == {"{}"}
    assert components["snapshot"]["topic"] == f"{BASE}/snapshot"
    assert components["activity"]["state_topic"] == f"{BASE}/event"
    assert components["problem"]["state_topic"] == f"{BASE}/state"


def test_without_pictures_there_is_no_camera() -> None:
    components = message(snapshots=False)["components"]
    assert not {"snapshot", "take_snapshot"} & set(components)


def test_activity_kinds_are_events_that_the_template_passes() -> None:
    activity = message()["components"]["activity"]
    assert activity["event_types"] == list(EVENT_TYPES)
    assert set(EVENT_TYPES) <= set(KINDS)
    assert all(f"'{kind}'" in activity["value_template"] for kind in EVENT_TYPES)
    assert "seen" not in EVENT_TYPES


def test_names_survive_json_unchanged() -> None:
    name = 'Großmutters "Tasse" {{ 1 }} <b>'
    sent = to_json(message((MUG, name)))
    assert json.loads(sent)["components"][f"{MUG}_present"]["name"] == name
    assert "Großmutters".encode() in sent


def test_the_number_of_objects_is_limited() -> None:
    many = message(*((f"{number:032x}", f"object {number}") for number in range(1000)))
    assert sum(key.endswith("_present") for key in many["components"]) == MAX_OBJECTS
    assert len(to_json(many)) < 500_000


def test_a_removed_component_has_only_its_platform() -> None:
    former, now = message((MUG, "mug"), (PEN, "pen")), message((PEN, "pen"))
    (removing,) = removal_messages(former, now)
    assert {key: removing["components"][key] for key in removing["components"] if key.startswith(MUG)} == {
        f"{MUG}_present": {"platform": "binary_sensor"},
        f"{MUG}_probability": {"platform": "sensor"},
        f"{MUG}_last_seen": {"platform": "sensor"},
    }
    assert {key: value for key, value in removing["components"].items() if not key.startswith(MUG)} == now[
        "components"
    ]
    assert {key: value for key, value in removing.items() if key != "components"} == {
        key: value for key, value in now.items() if key != "components"
    }


def test_no_removal_message_without_removed_components() -> None:
    assert removal_messages(message((MUG, "mug")), message((MUG, "cup"), (PEN, "pen"))) == []
    assert removal_messages({}, message()) == []


@pytest.mark.parametrize("components", [None, [], "x", {"x": 1}, {"x": {}}, {"x": {"platform": 3}}])
def test_any_former_message_is_tolerated(components: Any) -> None:
    assert removal_messages({"components": components}, message()) == []


# --- brokers that take small messages only ---


def test_a_message_that_fits_is_whole() -> None:
    whole = message((MUG, "mug"))
    assert fit_message(whole, None) == fit_message(whole, len(to_json(whole))) == whole


@pytest.mark.parametrize("spare", [0, 1, 300, 1000, 2000])
def test_the_device_comes_first_then_presence(spare: int) -> None:
    whole = message((MUG, "Täßchen"), (PEN, "pen"))
    device = {key for key in whole["components"] if not key.startswith((MUG, PEN))}
    minimum = len(to_json(message()))
    small = fit_message(whole, minimum + spare)
    assert len(to_json(small)) <= minimum + spare
    kept = list(small["components"])
    assert set(kept[: len(device)]) <= device
    objects = [key for key in kept if key not in device]
    order = ["present"] * 2 + ["probability", "last_seen"] * 2
    assert [key[len(MUG) + 1 :] for key in objects] == order[: len(objects)]
    assert len(objects) == {0: 0, 1: 0, 300: 0, 1000: 2, 2000: 4}[spare]
    assert {key: value for key, value in small.items() if key != "components"} == {
        key: value for key, value in whole.items() if key != "components"
    }


def test_nothing_fits_where_not_even_an_empty_message_does() -> None:
    assert fit_message(message(), 50)["components"] == {}
    assert fit_message(message(), -1)["components"] == {}


def test_a_removal_that_does_not_fit_is_split() -> None:
    former = message(*((f"{number:032x}", f"object {number}") for number in range(40)))
    now = message()
    limit = len(to_json(now)) + 500
    parts = removal_messages(former, now, limit)
    assert len(parts) > 1 and all(len(to_json(part)) <= limit for part in parts)
    removed = [key for part in parts for key in part["components"]]
    assert sorted(removed) == sorted(set(former["components"]) - set(now["components"]))
    assert all(list(found) == ["platform"] for part in parts for found in part["components"].values())
    assert removal_messages(former, now, 100) == []
