"""Checks of the optional integrations that are turned on: dashboard, MQTT and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from edge_siamese.dashboard.credentials import FILE as CREDENTIALS
from edge_siamese.dashboard.credentials import CredentialsFile, DamagedCredentials
from edge_siamese.doctor.findings import OTHER_USERS, RUN_AS_ROOT, SERVICE, Account, Context, Finding
from edge_siamese.errors import SettingsError
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
        if name == "dashboard":
            yield from _check_credentials(context)
        yield from _check_exposure(name, settings)


def check_secrets(context: Context) -> Iterator[Finding]:
    """Whether passwords and keys are protected from other users of this machine."""
    exposed = 0
    for path, what in _secrets(context).items():
        try:
            reachable = OTHER_USERS.may_reach(path)
            readable = reachable and OTHER_USERS.may(path, write=False)
            writable = reachable and OTHER_USERS.may(path, read=False)
        except OSError:  # it does not exist, or not even this user can reach it
            continue
        if readable or writable:
            exposed += 1
            text = f"all users of this machine can {'read' if readable else 'change'} {what}: {path}"
            yield Finding("secrets", "warning", text, _deny_others(path, context.account))
    if not exposed:
        yield Finding("secrets", "ok", "other users cannot read passwords or keys")


def _secrets(context: Context) -> dict[Path, str]:
    """Return the files with secrets that the settings name, and their descriptions; they may not exist."""
    settings = context.settings
    files = {
        context.settings.state_directory / CREDENTIALS: "the hashes of the dashboard's password and tokens"
    }
    if settings.dashboard.key:
        files[Path(settings.dashboard.key)] = "the private key of the dashboard"
    if settings.mqtt.key:
        files[Path(settings.mqtt.key)] = "the private key for the broker"
    if settings.mqtt.password_file:
        files[Path(settings.mqtt.password_file)] = "the broker's password"
    if settings.mqtt.server.password and context.config is not None:
        files[context.config] = "the broker's password"
    return files


def _deny_others(path: Path, account: Account) -> str:
    """Return a command that revokes other users' access but keeps that of the daemon's account."""
    status = path.stat()
    if status.st_uid == account.uid or status.st_gid in account.groups or account.uid == 0:
        return f"sudo chmod o= {path}"
    return f"sudo chgrp {account.name} {path} && sudo chmod 640 {path}"


def _check_credentials(context: Context) -> Iterator[Finding]:
    """Whether the dashboard's credentials can be read and are not damaged."""
    path = context.settings.state_directory / CREDENTIALS
    try:
        readable = context.account.may_reach(path) and context.account.may(path, write=False)
        if not readable:
            text, remedy = (
                f"{context.account.name} may not read {path}",
                f"sudo chown {context.account.name}: {path}",
            )
            yield Finding("dashboard", "warning", text, remedy)
            return
        CredentialsFile(path.parent).current()
    except FileNotFoundError:
        return  # there is no password
    except DamagedCredentials as error:
        text, _, remedy = str(error).partition("; ")
        yield Finding("dashboard", "warning", f"nobody can use it: {text}", remedy)
    except SettingsError as error:
        if isinstance(error.__cause__, PermissionError):
            yield Finding("dashboard", "unknown", f"{path} cannot be read by this user", RUN_AS_ROOT)
        else:
            yield Finding("dashboard", "warning", f"nobody can use it: {error}", "set a new password")
    except OSError as error:
        yield Finding("dashboard", "unknown", f"{path} cannot be examined: {error.strerror}", RUN_AS_ROOT)


def _check_state(name: str, context: Context) -> Finding:
    report = (context.daemon or {}).get("integrations", {}).get(name)
    if isinstance(report, dict):
        state = str(report.get("state", ""))
        if report.get("works") is False:
            remedy = f"check [{name}] in config.toml; find out why: journalctl -u {SERVICE} -e"
            return Finding(name, "warning", f"it does not work: {state}", remedy)
        if conflict := report.get("conflict"):
            remedy = f"give each device its own `device_id` in [{name}]"
            return Finding(name, "warning", str(conflict), remedy)
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
