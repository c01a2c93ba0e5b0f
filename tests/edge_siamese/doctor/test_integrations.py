"""Checks of dashboard, MQTT and metrics: what is off, what does not work, and what is open to others."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from edge_siamese.doctor import Finding, integrations
from edge_siamese.doctor.findings import Account, Scene
from edge_siamese.settings import DashboardSettings, MetricsSettings, MqttSettings, Settings
from tests.edge_siamese.doctor.machines import SERVICE, only

PAGE = Settings(dashboard=DashboardSettings(enabled=True))


def seen(scene: Scene, settings: Settings, **told: Any) -> list[Finding]:
    daemon = {"extras": told} if told else None
    return list(integrations.extras(replace(scene, settings=settings, daemon=daemon)))


def test_what_is_off_is_well(scene: Scene) -> None:
    found = only(integrations.extras(replace(scene, settings=Settings())))
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
    monkeypatch.setitem(integrations.PACKAGES, "dashboard", ("starlette", "there_is_no_such_thing"))
    (found,) = seen(scene, PAGE)
    assert found.text == "it needs what is not installed: there_is_no_such_thing"
    assert found.remedy == (
        "install edge-siamese anew, or in an environment of your own: pip install 'edge-siamese[dashboard]'"
    )


def test_pillow_comes_from_the_system(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(integrations, "find_spec", lambda name: None if name == "PIL" else there(name))
    (found,) = seen(scene, PAGE)
    assert (found.text, found.remedy) == (
        "it needs what is not installed: PIL",
        "sudo apt install python3-pil",
    )


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
        Settings(dashboard=DashboardSettings(True, "0.0.0.0", certificate=__file__, key=__file__)),
        Settings(dashboard=DashboardSettings(True, "::1")),
        Settings(mqtt=MqttSettings(broker="broker.lan", tls=True)),
        Settings(mqtt=MqttSettings(broker="localhost")),
    ],
)
def test_what_is_guarded_is_well(scene: Scene, settings: Settings) -> None:
    assert [found.level for found in seen(scene, settings)] == ["ok"]


# --- files ---


def a_file(path: Path, mode: int) -> str:
    path.parent.mkdir(exist_ok=True)
    path.touch()
    path.chmod(mode)
    return str(path)


@pytest.fixture
def anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """The service's account, where it may come to the test's directory."""
    is_let = Account._is_let

    def beyond(self: Account, path: Path, wanted: int) -> bool:
        return tmp_path not in path.parents or is_let(self, path, wanted)

    monkeypatch.setattr(Account, "_is_let", beyond)
    return SERVICE


def test_files_that_the_service_may_not_read(scene: Scene, tmp_path: Path, anybody: Account) -> None:
    certificate, key = a_file(tmp_path / "hall.pem", 0o644), a_file(tmp_path / "hall.key", 0o600)
    page = Settings(dashboard=DashboardSettings(True, certificate=certificate, key=key))
    scene = replace(scene, account=anybody)
    found = seen(scene, page)[1:]
    remedy = (
        f'sudo install -m 640 -g edge-siamese {key} /etc/edge-siamese/, and key = "/etc/edge-siamese/hall.key" '
        "in the settings"
    )
    assert found == [Finding("dashboard", "warning", f"key: edge-siamese may not read {key}", remedy)]
    Path(key).chmod(0o644)
    assert seen(scene, page)[1:] == []


def test_the_group_of_the_service_may_read_what_its_group_may(
    scene: Scene, tmp_path: Path, anybody: Account
) -> None:
    path = tmp_path / "password"
    mqtt = MqttSettings(broker="localhost", username="me", password_file=a_file(path, 0o640))
    member = replace(anybody, groups=frozenset({path.stat().st_gid}))
    assert seen(replace(scene, account=member), Settings(mqtt=mqtt))[1:] == []
    (found,) = seen(replace(scene, account=anybody), Settings(mqtt=mqtt))[1:]
    assert found.text == f"password_file: edge-siamese may not read {path}"


def test_a_key_in_its_place_gets_the_group(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Account, "may_reach", lambda self, path: True)
    monkeypatch.setattr(Account, "may", lambda self, path, write: path.suffix != ".key")
    mqtt = MqttSettings(
        broker="b.lan",
        tls=True,
        ca_file="/etc/edge-siamese/ca.pem",
        certificate="/etc/edge-siamese/a.pem",
        key="/etc/edge-siamese/a.key",
    )
    (found,) = seen(replace(scene, account=SERVICE), Settings(mqtt=mqtt))[1:]
    assert found.text == "key: edge-siamese may not read /etc/edge-siamese/a.key"
    assert found.remedy == (
        "sudo chgrp edge-siamese /etc/edge-siamese/a.key && sudo chmod 640 /etc/edge-siamese/a.key"
    )
    (found,) = seen(replace(scene, account=replace(SERVICE, name="me")), Settings(mqtt=mqtt))[1:]
    assert found.remedy == "let me read it"


def test_a_file_in_a_directory_that_the_service_may_not_enter(
    scene: Scene, tmp_path: Path, anybody: Account
) -> None:
    inside = tmp_path / "closed" / "ca.pem"
    mqtt = MqttSettings(broker="b.lan", tls=True, ca_file=a_file(inside, 0o644))
    inside.parent.chmod(0o755)
    scene, settings = replace(scene, account=anybody), Settings(mqtt=mqtt)
    assert seen(scene, settings)[1:] == []
    inside.parent.chmod(0o700)
    (found,) = seen(scene, settings)[1:]
    assert (found.level, found.text) == (
        "warning",
        f"ca_file: edge-siamese may not look into {inside.parent}",
    )
    # Nor through a link from a directory that it may enter.
    (tmp_path / "link.pem").symlink_to(inside)
    linked = Settings(mqtt=structs.replace(mqtt, ca_file=str(tmp_path / "link.pem")))
    assert [one.check for one in seen(scene, linked)[1:]] == ["mqtt"]


def test_homes_are_not_seen_by_the_service(scene: Scene) -> None:
    mqtt = MqttSettings(broker="b.lan", tls=True, ca_file="/home/pi/ca.pem")
    (found,) = seen(replace(scene, account=SERVICE), Settings(mqtt=mqtt))[1:]
    assert found.text == "ca_file: edge-siamese may not look into /home/pi"
    assert found.remedy.startswith(
        "sudo install -m 640 -g edge-siamese /home/pi/ca.pem /etc/edge-siamese/, and ca_file = "
    )


def test_a_file_that_is_missing_or_cannot_be_looked_at(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    settings = Settings(mqtt=MqttSettings(broker="b.lan", tls=True, ca_file=str(path)))
    (found,) = seen(scene, settings)[1:]
    assert found == Finding(
        "mqtt", "warning", f"ca_file: there is no {path}", "put it there, or correct ca_file in [mqtt]"
    )

    def denied(*_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Account, "may", denied)
    (found,) = seen(scene, settings)[1:]
    assert (found.level, found.text) == ("unknown", f"ca_file: {path} cannot be looked at: Permission denied")
    assert found.remedy == "look again as root: sudo edge-siamese doctor"
