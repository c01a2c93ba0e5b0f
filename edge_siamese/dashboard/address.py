"""Says where people find the dashboard."""

from __future__ import annotations

from edge_siamese.settings import DashboardSettings
from edge_siamese.system.network import host_name, is_loopback, local_name


def address(settings: DashboardSettings) -> str:
    """Where people find it."""
    scheme = "https" if settings.certificate else "http"
    if settings.allowed_hosts:
        host = settings.allowed_hosts[0]
        return f"{scheme}://{host}/" if ":" in host else f"{scheme}://{host}:{settings.port}/"
    host = settings.listen
    if host in ("0.0.0.0", "::"):
        host = local_name(host_name()) or "localhost"
    elif is_loopback(host):
        host = "localhost" if host in ("127.0.0.1", "::1") else host
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}/"
