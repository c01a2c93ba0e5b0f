"""Checks of what can be done without: dashboard, MQTT and metrics, as far as they are turned on."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from edge_siamese.doctor.findings import SERVICE, SUDO, Account, Finding, Scene
from edge_siamese.settings import Settings
from edge_siamese.system.network import is_loopback

PACKAGES = {
    "dashboard": ("starlette", "uvicorn", "PIL"),
    "mqtt": ("paho",),
    "metrics": ("prometheus_client",),
}
"""What each of them imports."""
FILES = ("ca_file", "certificate", "key", "password_file")
"""The settings of dashboard and MQTT that name files."""
HIDDEN = ("/home", "/root", "/run/user")
"""What the service does not see, whatever the permissions say (ProtectHome)."""
RELOAD = "sudo systemctl reload edge-siamese"


def extras(scene: Scene) -> Iterator[Finding]:
    """Each one that is turned on: whether it works, and whether it is guarded."""
    settings = scene.settings
    on = {
        "dashboard": settings.dashboard.enabled,
        "mqtt": bool(settings.mqtt.broker),
        "metrics": settings.metrics.enabled,
    }
    if not any(on.values()):
        yield Finding("extras", "ok", "dashboard, MQTT and metrics are off")
    for name in (name for name, wanted in on.items() if wanted):
        yield _state(name, scene)
        yield from _files(name, scene)
        yield from _exposure(name, settings)


def _state(name: str, scene: Scene) -> Finding:
    told = (scene.daemon or {}).get("extras", {}).get(name)
    if isinstance(told, dict):
        state = str(told.get("state", ""))
        if told.get("works") is False:
            remedy = f"see [{name}] in config.toml, and journalctl -u edge-siamese -e"
            return Finding(name, "warning", f"it does not work now: {state}", remedy)
        return Finding(name, "ok", state)
    if scene.daemon is not None:
        return Finding(name, "warning", "the daemon was started without it", RELOAD)
    missing = [package for package in PACKAGES[name] if find_spec(package) is None]
    if missing:
        remedy = (
            "sudo apt install python3-pil"
            if missing == ["PIL"]
            else f"install edge-siamese anew, or in an environment of your own: pip install 'edge-siamese[{name}]'"
        )
        return Finding(name, "warning", f"it needs what is not installed: {', '.join(missing)}", remedy)
    return Finding(name, "ok", "it is turned on, and what it needs is installed")


def _files(name: str, scene: Scene) -> Iterator[Finding]:
    """Certificates, keys and a password that the settings name, and that the daemon's account cannot read."""
    table = {"dashboard": scene.settings.dashboard, "mqtt": scene.settings.mqtt}.get(name)
    named = {key: Path(value) for key in FILES if (value := getattr(table, key, ""))}
    for key, path in named.items():
        try:
            refused = _refused(scene.account, path)
        except FileNotFoundError:
            text, remedy = f"{key}: there is no {path}", f"put it there, or correct {key} in [{name}]"
            yield Finding(name, "warning", text, remedy)
        except OSError as error:
            yield Finding(name, "unknown", f"{key}: {path} cannot be looked at: {error.strerror}", SUDO)
        else:
            if refused:
                yield Finding(
                    name, "warning", f"{key}: {scene.account.name} {refused}", _to_read(key, path, scene)
                )


def _refused(account: Account, path: Path) -> str:
    """Why an account cannot read a file; empty if it can."""
    hidden = account.is_service and any(map(path.is_relative_to, HIDDEN))
    if hidden or not account.may_reach(path):
        return f"may not look into {path.parent}"
    return "" if account.may(path, write=False) else f"may not read {path}"


def _to_read(key: str, path: Path, scene: Scene) -> str:
    account = scene.account
    if not account.is_service:
        return f"let {account.name} read it"
    if "/etc/edge-siamese" in map(str, path.parents):
        return f"sudo chgrp {SERVICE} {path} && sudo chmod 640 {path}"
    return (
        f"sudo install -m 640 -g {SERVICE} {path} /etc/edge-siamese/, "
        f'and {key} = "/etc/edge-siamese/{path.name}" in the settings'
    )


def _exposure(name: str, settings: Settings) -> Iterator[Finding]:
    """What crosses a network that others can read or reach."""
    page, metrics, mqtt = settings.dashboard, settings.metrics, settings.mqtt
    if name == "dashboard" and not is_loopback(page.listen) and not page.certificate:
        text = "pictures and its password cross the network unencrypted"
        remedy = "set certificate and key in [dashboard], or reach it through SSH or a VPN"
        yield Finding(name, "warning", text, remedy)
    if name == "metrics" and not is_loopback(metrics.listen):
        text = f"whoever reaches port {metrics.port} of this machine can read them"
        yield Finding(name, "warning", text, "let a firewall admit Prometheus alone, or listen at 127.0.0.1")
    if name == "mqtt" and not is_loopback(mqtt.broker) and not mqtt.tls:
        text = "what is sent to the broker, and its password, cross the network unencrypted"
        yield Finding(name, "warning", text, "set tls = true in [mqtt], if the broker offers it")
