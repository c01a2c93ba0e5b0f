"""Checks of dashboard, MQTT and metrics: disabled ones, failures, and secrets that others can read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.doctor import Finding, integrations
from edge_siamese.doctor.findings import Account, Context
from edge_siamese.settings import DashboardSettings, MetricsSettings, MqttSettings, PathSettings, Settings
from tests.edge_siamese.doctor.machines import SERVICE, only

PAGE = Settings(dashboard=DashboardSettings(enabled=True))


def findings_of(context: Context, settings: Settings, **told: Any) -> list[Finding]:
    daemon = {"integrations": told} if told else None
    return list(integrations.check_integrations(replace(context, settings=settings, daemon=daemon)))


def test_disabled_integrations_are_ok(context: Context) -> None:
    found = only(integrations.check_integrations(replace(context, settings=Settings())))
    assert found == Finding("integrations", "ok", "dashboard, MQTT and metrics are off")


def test_a_working_integration_reports_its_state(context: Context) -> None:
    found = findings_of(context, PAGE, dashboard={"works": True, "state": "http://127.0.0.1:8765"})
    assert found == [Finding("dashboard", "ok", "http://127.0.0.1:8765")]


def test_a_failing_integration_reports_the_reason(context: Context) -> None:
    (found,) = findings_of(context, PAGE, dashboard={"works": False, "state": "port 8765 is taken"})
    assert (found.level, found.text) == ("warning", "it does not work: port 8765 is taken")
    assert found.remedy == "check [dashboard] in config.toml; find out why: journalctl -u edge-siamese -e"


def test_a_setting_changed_since_start_needs_a_reload(context: Context) -> None:
    (found,) = findings_of(context, PAGE, mqtt={"works": True, "state": ""})
    assert (found.level, found.text) == ("warning", "the daemon has not read the setting yet")
    assert found.remedy == "sudo systemctl reload edge-siamese"


def test_without_a_daemon_the_packages_are_checked(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [found.level for found in findings_of(context, PAGE)] == ["ok"]
    monkeypatch.setitem(integrations.PACKAGES, "dashboard", ("starlette", "there_is_no_such_thing"))
    (found,) = findings_of(context, PAGE)
    assert found.text == "not installed: there_is_no_such_thing"
    assert found.remedy == (
        "reinstall edge-siamese; in your own environment: pip install 'edge-siamese[dashboard]'"
    )


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            Settings(dashboard=DashboardSettings(enabled=True, listen="0.0.0.0")),
            "the password and pictures cross the network unencrypted",
        ),
        (
            Settings(metrics=MetricsSettings(enabled=True, listen="192.168.1.7")),
            "anyone who can reach port 9477 of this machine can read the metrics",
        ),
        (
            Settings(mqtt=MqttSettings(broker="broker.lan")),
            "messages and the password cross the network unencrypted",
        ),
    ],
)
def test_exposed_services_are_warnings(context: Context, settings: Settings, text: str) -> None:
    found = findings_of(context, settings)
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
def test_protected_services_are_ok(context: Context, settings: Settings) -> None:
    assert [found.level for found in findings_of(context, settings)] == ["ok"]


# --- files ---


def a_file(path: Path, mode: int) -> str:
    path.parent.mkdir(exist_ok=True)
    path.touch()
    path.chmod(mode)
    return str(path)


@pytest.fixture
def anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Account:
    """The service's account, where it may come to the test's directory."""
    is_let = Account._has_access

    def beyond(self: Account, path: Path, wanted: int) -> bool:
        return tmp_path not in path.parents or is_let(self, path, wanted)

    monkeypatch.setattr(Account, "_has_access", beyond)
    return SERVICE


def test_unreadable_files_are_warnings(context: Context, tmp_path: Path, anybody: Account) -> None:
    certificate, key = a_file(tmp_path / "hall.pem", 0o644), a_file(tmp_path / "hall.key", 0o600)
    page = Settings(dashboard=DashboardSettings(True, certificate=certificate, key=key))
    context = replace(context, account=anybody)
    found = findings_of(context, page)[1:]
    remedy = f'sudo install -m 640 -g edge-siamese {key} /etc/edge-siamese/; then set key = "/etc/edge-siamese/hall.key"'
    assert found == [Finding("dashboard", "warning", f"key: edge-siamese may not read {key}", remedy)]
    Path(key).chmod(0o644)
    assert findings_of(context, page)[1:] == []


def test_the_service_group_grants_read_access(context: Context, tmp_path: Path, anybody: Account) -> None:
    path = tmp_path / "password"
    mqtt = MqttSettings(broker="localhost", username="me", password_file=a_file(path, 0o640))
    member = replace(anybody, groups=frozenset({path.stat().st_gid}))
    assert findings_of(replace(context, account=member), Settings(mqtt=mqtt))[1:] == []
    (found,) = findings_of(replace(context, account=anybody), Settings(mqtt=mqtt))[1:]
    assert found.text == f"password_file: edge-siamese may not read {path}"


def test_a_link_to_itself_is_a_finding(context: Context, tmp_path: Path, anybody: Account) -> None:
    """`Path.resolve` raises RuntimeError for it on some releases of Python."""
    path = tmp_path / "password"
    path.symlink_to("password")
    mqtt = MqttSettings(broker="localhost", username="me", password_file=str(path))
    found = findings_of(replace(context, account=anybody), Settings(mqtt=mqtt))
    assert any(str(path) in finding.text for finding in found), found


def test_a_key_in_the_configuration_directory_needs_the_group(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Account, "may_reach", lambda self, path: True)
    monkeypatch.setattr(Account, "may", lambda self, path, write: path.suffix != ".key")
    mqtt = MqttSettings(
        broker="b.lan",
        tls=True,
        ca_file="/etc/edge-siamese/ca.pem",
        certificate="/etc/edge-siamese/a.pem",
        key="/etc/edge-siamese/a.key",
    )
    (found,) = findings_of(replace(context, account=SERVICE), Settings(mqtt=mqtt))[1:]
    assert found.text == "key: edge-siamese may not read /etc/edge-siamese/a.key"
    assert found.remedy == (
        "sudo chgrp edge-siamese /etc/edge-siamese/a.key && sudo chmod 640 /etc/edge-siamese/a.key"
    )
    (found,) = findings_of(replace(context, account=replace(SERVICE, name="me")), Settings(mqtt=mqtt))[1:]
    assert found.remedy == "grant me read access"


def test_a_file_in_an_inaccessible_directory(context: Context, tmp_path: Path, anybody: Account) -> None:
    inside = tmp_path / "closed" / "ca.pem"
    mqtt = MqttSettings(broker="b.lan", tls=True, ca_file=a_file(inside, 0o644))
    inside.parent.chmod(0o755)
    context, settings = replace(context, account=anybody), Settings(mqtt=mqtt)
    assert findings_of(context, settings)[1:] == []
    inside.parent.chmod(0o700)
    (found,) = findings_of(context, settings)[1:]
    assert (found.level, found.text) == (
        "warning",
        f"ca_file: edge-siamese may not access {inside.parent}",
    )
    # Nor through a link from a directory that it may enter.
    (tmp_path / "link.pem").symlink_to(inside)
    linked = Settings(mqtt=structs.replace(mqtt, ca_file=str(tmp_path / "link.pem")))
    assert [one.check for one in findings_of(context, linked)[1:]] == ["mqtt"]


# --- secrets ---


def with_secrets(folder: Path, mode: int) -> tuple[Settings, dict[str, str]]:
    """Settings that name every file with a secret, and the descriptions of these files."""
    for name in ("page.key", "broker.key", "password", "state/dashboard.json"):
        a_file(folder / name, mode)
    settings = Settings(
        dashboard=DashboardSettings(True, certificate="/c.pem", key=str(folder / "page.key")),
        mqtt=MqttSettings(
            broker="mqtts://me@b.lan",
            certificate="/c.pem",
            key=str(folder / "broker.key"),
            password_file=str(folder / "password"),
        ),
        paths=PathSettings(state=str(folder / "state")),
    )
    return settings, {
        "state/dashboard.json": "the hashes of the dashboard's password and tokens",
        "page.key": "the private key of the dashboard",
        "broker.key": "the private key for the broker",
        "password": "the broker's password",
    }


@pytest.mark.parametrize(("mode", "verb"), [(0o644, "read"), (0o604, "read"), (0o602, "change")])
@pytest.mark.usefixtures("anybody")
def test_secrets_that_others_can_read_are_warnings(
    context: Context, tmp_path: Path, mode: int, verb: str
) -> None:
    settings, files = with_secrets(tmp_path, mode)
    found = list(integrations.check_secrets(replace(context, settings=settings)))
    assert found == [
        Finding(
            "secrets",
            "warning",
            f"all users of this machine can {verb} {what}: {tmp_path / name}",
            f"sudo chmod o= {tmp_path / name}",
        )
        for name, what in files.items()
    ]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o660])
@pytest.mark.usefixtures("anybody")
def test_secrets_that_others_cannot_read_are_ok(context: Context, tmp_path: Path, mode: int) -> None:
    settings, _ = with_secrets(tmp_path, mode)
    found = list(integrations.check_secrets(replace(context, settings=settings)))
    assert found == [Finding("secrets", "ok", "other users cannot read passwords or keys")]


@pytest.mark.usefixtures("anybody")
def test_a_directory_that_others_cannot_enter_protects(context: Context, tmp_path: Path) -> None:
    settings, files = with_secrets(tmp_path, 0o644)
    (tmp_path / "state").chmod(0o700)
    found = list(integrations.check_secrets(replace(context, settings=settings)))
    assert len(found) == len(files) - 1 and not any("dashboard.json" in one.text for one in found)


@pytest.mark.usefixtures("anybody")
def test_settings_with_a_password_are_a_secret(context: Context, tmp_path: Path) -> None:
    config = Path(a_file(tmp_path / "config.toml", 0o644))
    for broker, level in (("mqtt://me:secret@b.lan", "warning"), ("mqtt://me@b.lan", "ok")):
        settings = Settings(
            mqtt=MqttSettings(broker=broker), paths=PathSettings(state=str(tmp_path / "none"))
        )
        (found,) = integrations.check_secrets(replace(context, settings=settings, config=config))
        assert found.level == level and "secret" not in found.text


@pytest.mark.usefixtures("anybody")
def test_the_remedy_leaves_the_service_its_access(context: Context, tmp_path: Path) -> None:
    password = a_file(tmp_path / "password", 0o644)
    mqtt = MqttSettings(broker="b.lan", username="me", password_file=password)
    settings = Settings(mqtt=mqtt, paths=PathSettings(state=str(tmp_path / "none")))
    for account, remedy in (
        (SERVICE, f"sudo chgrp edge-siamese {password} && sudo chmod 640 {password}"),
        (replace(SERVICE, uid=os.getuid()), f"sudo chmod o= {password}"),
        (replace(SERVICE, groups=frozenset({os.getgid()})), f"sudo chmod o= {password}"),
    ):
        found = only(integrations.check_secrets(replace(context, account=account, settings=settings)))
        assert found.remedy == remedy


# --- the dashboard's credentials ---


def test_damaged_credentials_are_a_warning(context: Context, tmp_path: Path, anybody: Account) -> None:
    settings = Settings(dashboard=DashboardSettings(True), paths=PathSettings(state=str(tmp_path)))
    context = replace(context, account=replace(anybody, uid=os.getuid()))
    assert findings_of(context, settings)[1:] == []
    file = CredentialsFile(tmp_path)
    file.set_password("correct horse")
    assert findings_of(context, settings)[1:] == []
    file.path.write_text("{}")
    (found,) = findings_of(context, settings)[1:]
    assert (found.check, found.level) == ("dashboard", "warning")
    assert found.text == f"nobody can use it: {file.path} is damaged (version: missing)"
    assert found.remedy == (
        "set a new password, which replaces it and its tokens: sudo edge-siamese dashboard password"
    )
    file.path.chmod(0o600)
    (found,) = findings_of(replace(context, account=anybody), settings)[1:]
    assert found.text == f"edge-siamese may not read {file.path}"


def test_another_client_with_the_same_id_is_a_warning(context: Context) -> None:
    mqtt = Settings(mqtt=MqttSettings(broker="localhost"))
    report = {"works": True, "state": "connected", "conflict": "another client publishes to a/b/state"}
    (found,) = findings_of(context, mqtt, mqtt=report)
    assert found == Finding(
        "mqtt",
        "warning",
        "another client publishes to a/b/state",
        "give each device its own `device_id` in [mqtt]",
    )


def test_home_directories_are_hidden_from_the_service(context: Context) -> None:
    mqtt = MqttSettings(broker="b.lan", tls=True, ca_file="/home/pi/ca.pem")
    (found,) = findings_of(replace(context, account=SERVICE), Settings(mqtt=mqtt))[1:]
    assert found.text == "ca_file: edge-siamese may not access /home/pi"
    assert found.remedy.startswith(
        "sudo install -m 640 -g edge-siamese /home/pi/ca.pem /etc/edge-siamese/; then set ca_file = "
    )


def test_a_missing_or_unexaminable_file(
    context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ca.pem"
    settings = Settings(mqtt=MqttSettings(broker="b.lan", tls=True, ca_file=str(path)))
    (found,) = findings_of(context, settings)[1:]
    assert found == Finding(
        "mqtt",
        "warning",
        f"ca_file: {path} does not exist",
        "create the file, or correct `ca_file` in [mqtt]",
    )

    def denied(*_: object, **__: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Account, "may", denied)
    (found,) = findings_of(context, settings)[1:]
    assert (found.level, found.text) == ("unknown", f"ca_file: {path} cannot be examined: Permission denied")
    assert found.remedy == "run it as root: sudo edge-siamese doctor"
