"""Requests a daemon's metrics, as Prometheus does, and parses them."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import Daemon, until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""The value of each series, by its name and its labels."""


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def configure(daemon: Daemon, bundle: Bundle | Path, port: int) -> None:
    """Settings with metrics."""
    daemon.configure(bundle if isinstance(bundle, Path) else bundle.path)
    with daemon.config.open("a") as file:
        file.write(f"[metrics]\nenabled = true\nport = {port}\n")


def text_at(port: int, path: str = "/metrics") -> str:
    with urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        text: str = response.read().decode()
        return text


def scrape(port: int) -> str:
    """What it says, once it listens."""
    until(lambda: listens(port))
    return text_at(port)


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def samples(text: str) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"{key} is there twice"
            found[key] = sample.value
    return found


def value(text: str, name: str, /, **labels: str) -> float:
    """Of one series."""
    found = samples(text)
    key = name, frozenset(labels.items())
    if key not in found:
        pytest.fail(f"there is no {name} with {labels}; there are {sorted(of for of, _ in found)}")
    return found[key]
