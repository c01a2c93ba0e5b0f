"""Checks of dashboard, MQTT and metrics: what is off, what does not work, and what is open to others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edge_siamese.daemon.settings import DashboardSettings, MetricsSettings, MqttSettings, Settings
from edge_siamese.doctor import Finding, extras
from edge_siamese.doctor.findings import Scene
from tests.edge_siamese.doctor.machines import only

PAGE = Settings(dashboard=DashboardSettings(enabled=True))


def seen(scene: Scene, settings: Settings, **told: Any) -> list[Finding]:
    daemon = {"extras": told} if told else None
    return list(extras.extras(replace(scene, settings=settings, daemon=daemon)))


def test_what_is_off_is_well(scene: Scene) -> None:
    found = only(extras.extras(replace(scene, settings=Settings())))
    assert found == Finding("extras", "ok", "dashboard, MQTT and metrics are off")


def test_one_that_is_there_says_how_it_is(scene: Scene) -> None:
    found = seen(scene, PAGE, dashboard={"works": True, "state": "http://127.0.0.1:8765"})
    assert found == [Finding("dashboard", "ok", "http://127.0.0.1:8765")]


def test_one_that_does_not_work_says_why(scene: Scene) -> None:
    (found,) = seen(scene, PAGE, dashboard={"works": False, "state": "port 8765 is taken"})
    assert (found.level, found.text) == ("warning", "it does not work now: port 8765 is taken")
    assert found.remedy == "see [dashboard] in config.toml, and journalctl -u edge-siamese -e"


def test_a_daemon_that_was_started_before_has_to_be_told(scene: Scene) -> None:
    (found,) = seen(scene, PAGE, mqtt={"works": True, "state": ""})
    assert (found.level, found.text) == ("warning", "the daemon was started without it")
    assert found.remedy == "sudo systemctl reload edge-siamese"


def test_without_a_daemon_the_packages_are_looked_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [found.level for found in seen(scene, PAGE)] == ["ok"]
    monkeypatch.setitem(extras.PACKAGES, "dashboard", ("starlette", "there_is_no_such_thing"))
    (found,) = seen(scene, PAGE)
    assert found.text == "it needs what is not installed: there_is_no_such_thing"
    assert found.remedy == "pip install 'edge-siamese[dashboard]', or install edge-siamese anew"


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            Settings(dashboard=DashboardSettings(enabled=True, listen="0.0.0.0")),
            "pictures and its password cross the network unencrypted",
        ),
        (
            Settings(metrics=MetricsSettings(enabled=True, listen="192.168.1.7")),
            "whoever reaches port 9477 of this machine can read them",
        ),
        (
            Settings(mqtt=MqttSettings(broker="broker.lan")),
            "what is sent to the broker, and its password, cross the network unencrypted",
        ),
    ],
)
def test_what_is_open_to_others_is_said(scene: Scene, settings: Settings, text: str) -> None:
    found = seen(scene, settings)
    assert [(f.level, f.text) for f in found[1:]] == [("warning", text)]


@pytest.mark.parametrize(
    "settings",
    [
        Settings(dashboard=DashboardSettings(True, "0.0.0.0", certificate="a.pem", key="b.pem")),
        Settings(dashboard=DashboardSettings(True, "::1")),
        Settings(mqtt=MqttSettings(broker="broker.lan", tls=True)),
        Settings(mqtt=MqttSettings(broker="localhost")),
    ],
)
def test_what_is_guarded_is_well(scene: Scene, settings: Settings) -> None:
    assert [found.level for found in seen(scene, settings)] == ["ok"]
