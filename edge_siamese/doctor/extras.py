"""Checks of what can be done without: dashboard, MQTT and metrics, as far as they are turned on."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from ipaddress import ip_address

from edge_siamese.daemon.settings import Settings
from edge_siamese.doctor.findings import Finding, Scene

PACKAGES = {
    "dashboard": ("starlette", "uvicorn", "PIL"),
    "mqtt": ("paho",),
    "metrics": ("prometheus_client",),
}
"""What each of them imports."""
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
        remedy = f"pip install 'edge-siamese[{name}]', or install edge-siamese anew"
        return Finding(name, "warning", f"it needs what is not installed: {', '.join(missing)}", remedy)
    return Finding(name, "ok", "it is turned on, and what it needs is installed")


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


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine alone."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
