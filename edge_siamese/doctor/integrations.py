"""Checks of the optional integrations that are turned on: dashboard, MQTT and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from edge_siamese.doctor.findings import RUN_AS_ROOT, SERVICE, Account, Context, Finding
from edge_siamese.settings import Settings
from edge_siamese.system.network import is_loopback

PACKAGES = {
    "dashboard": ("starlette", "uvicorn"),
    "mqtt": ("paho",),
    "metrics": ("prometheus_client",),
}
"""Third-party packages of each integration."""
FILES = ("ca_file", "certificate", "key", "password_file")
"""Settings of dashboard and MQTT that name files."""
HIDDEN = ("/home", "/root", "/run/user")
"""Directories hidden from the service regardless of their permissions (ProtectHome)."""
RELOAD = "sudo systemctl reload edge-siamese"


def check_integrations(context: Context) -> Iterator[Finding]:
    """Whether each integration that is turned on works, and whether it is protected."""
    settings = context.settings
    enabled = {
        "dashboard": settings.dashboard.enabled,
        "mqtt": bool(settings.mqtt.broker),
        "metrics": settings.metrics.enabled,
    }
    if not any(enabled.values()):
        yield Finding("integrations", "ok", "dashboard, MQTT and metrics are off")
    for name in (name for name, is_on in enabled.items() if is_on):
        yield _check_state(name, context)
        yield from _check_files(name, context)
        yield from _check_exposure(name, settings)


def _check_state(name: str, context: Context) -> Finding:
    report = (context.daemon or {}).get("integrations", {}).get(name)
    if isinstance(report, dict):
        state = str(report.get("state", ""))
        if report.get("works") is False:
            remedy = f"check [{name}] in config.toml; find out why: journalctl -u {SERVICE} -e"
            return Finding(name, "warning", f"it does not work: {state}", remedy)
        return Finding(name, "ok", state)
    if context.daemon is not None:
        return Finding(name, "warning", "the daemon has not read the setting yet", RELOAD)
    missing = [package for package in PACKAGES[name] if find_spec(package) is None]
    if missing:
        remedy = f"reinstall edge-siamese; in your own environment: pip install 'edge-siamese[{name}]'"
        return Finding(name, "warning", f"not installed: {', '.join(missing)}", remedy)
    return Finding(name, "ok", "enabled, and its packages are installed")


def _check_files(name: str, context: Context) -> Iterator[Finding]:
    """Certificates, keys and password files that the daemon's account cannot read."""
    table = {"dashboard": context.settings.dashboard, "mqtt": context.settings.mqtt}.get(name)
    files = {key: Path(value) for key in FILES if (value := getattr(table, key, ""))}
    for key, path in files.items():
        try:
            problem = _access_problem(context.account, path)
        except FileNotFoundError:
            text, remedy = f"{key}: {path} does not exist", f"create the file, or correct `{key}` in [{name}]"
            yield Finding(name, "warning", text, remedy)
        except OSError as error:
            yield Finding(name, "unknown", f"{key}: {path} cannot be examined: {error.strerror}", RUN_AS_ROOT)
        else:
            if problem:
                yield Finding(
                    name,
                    "warning",
                    f"{key}: {context.account.name} {problem}",
                    _grant_read(key, path, context),
                )


def _access_problem(account: Account, path: Path) -> str:
    """Return why an account cannot read a file; empty if it can."""
    hidden = account.is_service and any(map(path.is_relative_to, HIDDEN))
    if hidden or not account.may_reach(path):
        return f"may not access {path.parent}"
    return "" if account.may(path, write=False) else f"may not read {path}"


def _grant_read(key: str, path: Path, context: Context) -> str:
    account = context.account
    if not account.is_service:
        return f"grant {account.name} read access"
    if "/etc/edge-siamese" in map(str, path.parents):
        return f"sudo chgrp {SERVICE} {path} && sudo chmod 640 {path}"
    return (
        f"sudo install -m 640 -g {SERVICE} {path} /etc/edge-siamese/; "
        f'then set {key} = "/etc/edge-siamese/{path.name}"'
    )


def _check_exposure(name: str, settings: Settings) -> Iterator[Finding]:
    """Whether its data is readable on the network."""
    page, metrics, mqtt = settings.dashboard, settings.metrics, settings.mqtt
    if name == "dashboard" and not is_loopback(page.listen) and not page.certificate:
        text = "the password and pictures cross the network unencrypted"
        remedy = "set `certificate` and `key` in [dashboard], or use SSH or a VPN"
        yield Finding(name, "warning", text, remedy)
    if name == "metrics" and not is_loopback(metrics.listen):
        text = f"anyone who can reach port {metrics.port} of this machine can read the metrics"
        yield Finding(
            name, "warning", text, "allow only Prometheus in the firewall, or set `listen` to 127.0.0.1"
        )
    if name == "mqtt" and not is_loopback(mqtt.server.host) and not mqtt.server.tls:
        text = "messages and the password cross the network unencrypted"
        yield Finding(name, "warning", text, "set `tls = true` in [mqtt] if the broker supports it")
