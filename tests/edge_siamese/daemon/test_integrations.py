"""Integrations are opened, retried, reopened and closed as settings and failures require; nothing waits for them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec import structs

from edge_siamese.daemon import integrations as extras_module
from edge_siamese.daemon.integrations import Integrations, IntegrationSpec
from edge_siamese.daemon.telemetry import Observations
from edge_siamese.errors import ControlError
from edge_siamese.events import Event
from edge_siamese.settings import DashboardSettings, MqttSettings, Settings
from tests.edge_siamese.daemon.running import returns, until

ON = Settings(dashboard=DashboardSettings(enabled=True))


class Fake:
    """An extra that does as the test says."""

    def __init__(self, port: int, log: list[str], error: list[Exception]) -> None:
        self.port, self.log, self.error = port, log, error

    def start(self) -> None:
        if self.error:
            self.log.append("failed")
            raise self.error[0]
        self.log.append(f"opened {self.port}")

    def report(self) -> dict[str, Any]:
        return {"state": f"at {self.port}"}

    def close(self, timeout: float) -> None:
        self.log.append(f"closed {self.port}")


class Stand:
    """What a service is to its extras."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[Event] = []
        self.log: list[str] = []
        self.errors: list[Exception] = []
        observations = Observations()
        self.api: Any = SimpleNamespace(
            telemetry=observations.telemetry,
            decisions=observations.decisions,
            registrations=observations.registrations,
            settings=SimpleNamespace(state_directory=state),
        )
        self.make: Callable[[], Any] | None = None
        monkeypatch.setattr(sys.modules[__name__], "make_fake", self._make, raising=False)
        offer = IntegrationSpec("dashboard", f"{__name__}:make_fake", lambda s: s.dashboard.enabled)
        self.integrations = Integrations(self.api, self.events.append, specs=(offer,))

    def _make(self, settings: DashboardSettings, api: Any) -> Any:
        assert api is self.api
        return self.make() if self.make else Fake(settings.port, self.log, self.errors)


@pytest.fixture
def stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    made = Stand(tmp_path, monkeypatch)
    yield made
    made.integrations.close(1.0)


def test_no_thread_runs_with_everything_off(stand: Stand) -> None:
    before = threading.active_count()
    stand.integrations.apply(Settings())
    assert threading.active_count() == before
    assert stand.integrations.report() == {}
    assert not stand.api.decisions.enabled


def test_an_integration_is_opened_reopened_and_closed_with_its_settings(stand: Stand) -> None:
    stand.integrations.apply(ON)
    until(lambda: stand.events)
    assert (stand.events[0].kind, stand.events[0].text) == ("dashboard", "dashboard: at 8765")
    assert stand.integrations.report() == {"dashboard": {"works": True, "state": "at 8765"}}
    assert stand.api.decisions.enabled
    assert stand.api.registrations.enabled
    stand.integrations.apply(structs.replace(ON, mqtt=MqttSettings(device_name="other")))  # not its own
    stand.integrations.apply(Settings(dashboard=DashboardSettings(enabled=True, port=9000)))
    until(lambda: len(stand.log) == 3)
    stand.integrations.apply(Settings())
    until(lambda: len(stand.log) == 4)
    assert stand.log == ["opened 8765", "closed 8765", "opened 9000", "closed 9000"]
    assert stand.integrations.report() == {}
    assert not stand.api.decisions.enabled


def test_a_failure_is_reported_once_and_retried(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras_module, "RETRY_SECONDS", 0.01)
    stand.integrations._slots[0].retry_s = 0.01
    stand.errors.append(ControlError("the port 8765 is taken"))
    stand.integrations.apply(ON)
    until(lambda: stand.log.count("failed") >= 3)
    assert [event.text for event in stand.events] == ["no dashboard: the port 8765 is taken"]
    assert stand.events[0].data == {"level": "error"}
    assert stand.integrations.report() == {"dashboard": {"state": "the port 8765 is taken", "works": False}}
    stand.errors.clear()
    until(lambda: stand.integrations.report() == {"dashboard": {"works": True, "state": "at 8765"}})
    assert stand.events[-1].text == "dashboard: at 8765"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn"),
            "no dashboard: it needs the package uvicorn, which is not installed: reinstall edge-siamese, or in "
            "your own environment: pip install 'edge-siamese[dashboard]'",
        ),
        (OSError(98, "Address already in use"), "no dashboard: [Errno 98] Address already in use"),
        (ZeroDivisionError("oops"), "no dashboard: unexpected ZeroDivisionError: oops"),
    ],
)
def test_any_error_is_reported_in_one_line(stand: Stand, error: Exception, told: str) -> None:
    stand.errors.append(error)
    stand.integrations.apply(ON)
    until(lambda: stand.events)
    assert stand.events[0].text == told


def test_an_integration_that_hangs_blocks_neither_settings_nor_closing(stand: Stand) -> None:
    free = threading.Event()
    stand.make = lambda: _hang(free)
    returns(lambda: stand.integrations.apply(ON))
    returns(lambda: stand.integrations.apply(Settings()))
    returns(lambda: stand.integrations.close(0.4))
    free.set()


def _hang(free: threading.Event) -> Any:
    free.wait()
    raise ControlError("too late")


def test_an_integration_that_does_not_close_is_abandoned(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = threading.Event()
    monkeypatch.setattr(Fake, "close", lambda self, timeout: free.wait())
    stand.integrations.apply(ON)
    until(lambda: stand.events)
    returns(lambda: stand.integrations.close(0.3))
    free.set()


def test_last_seen_times_are_restored_from_the_event_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "events.jsonl").write_text(
        '{"kind": "appeared", "time": "2026-01-01T00:00:00.000+00:00", "uid": "a"}\n'
        '{"kind": "seen", "time": "2036-01-01T00:05:00.000+00:00", "uid": "a"}\n'
        '{"kind": "left", "time": "2026-01-01T00:05:00.000+00:00", "uid": "a"}\n'
        '{"kind": "seen", "time": "2026-01-01T00:03:00.000+00:00", "uid": "b"}\n'
        '{"kind": "registered", "time": "2026-01-01T00:03:00.000+00:00", "uid": "c"}\n'
    )
    stand = Stand(tmp_path, monkeypatch)
    stand.integrations.apply(ON)
    until(lambda: stand.events)
    stand.integrations.close(1.0)
    assert stand.api.telemetry.last_seen() == {
        "a": "2026-01-01T00:05:00.000+00:00",
        "b": "2026-01-01T00:03:00.000+00:00",
    }


NOTHING_OF_THEM = """
import sys
from edge_siamese.daemon.service import Service
from edge_siamese.settings_file import load_settings
service = Service(load_settings(sys.argv[1]))
import threading, time
def stop():
    while service.engine is None or service.engine.frames < 4:
        time.sleep(0.01)
    service.stop()
threading.Thread(target=stop, daemon=True).start()
assert service.run() == 0, service.fault
extras = ("dashboard", "mqtt", "metrics", "fleet")
print(*sorted(
    name for name in sys.modules
    if name.split(".")[0] in {"starlette", "uvicorn", "paho", "prometheus_client", "anyio", "asyncio"}
    or name.startswith(tuple(f"edge_siamese.{extra}" for extra in extras))
))
"""


def test_a_daemon_without_integrations_does_not_import_them(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        f'[camera]\nkind = "synthetic"\nframe_rate = 30.0\n[model]\nbundle = "glyphs"\n'
        f'[paths]\nstate = "{tmp_path}"\nruntime = "{tmp_path}"\n'
    )
    found = subprocess.run(
        [sys.executable, "-c", NOTHING_OF_THEM, str(tmp_path / "config.toml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("spec", extras_module.INTEGRATIONS, ids=lambda spec: spec.kind)
def test_the_registry_names_existing_factories(spec: IntegrationSpec) -> None:
    pytest.importorskip({"dashboard": "uvicorn", "mqtt": "paho.mqtt", "metrics": "uvicorn"}[spec.kind])
    module, _, name = spec.factory.partition(":")
    assert callable(getattr(import_module(module), name))
    assert spec.table(Settings()) is not None
    assert not spec.is_on(Settings())
