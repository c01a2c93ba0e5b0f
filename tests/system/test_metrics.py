"""A real Prometheus reads a real daemon, and its promtool the files that come with it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml

from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import MUG, PEN, TABLE, Daemon, daemon_in, until
from tests.edge_siamese.metrics.scraping import configure, free_port, scrape
from tests.edge_siamese.metrics.test_files import ALERTS, RULES, queries

ROOT = Path(__file__).parents[2]
FILES = ROOT / "docs" / "prometheus"
SERIES = 'job="edge-siamese",instance="shelf:9477"'
FIRING = {
    # What is told, for how many minutes at least, and of which alert; everything else of the device is well.
    "EdgeSiameseDown": ({"up": "0x200"}, 5),
    "EdgeSiameseFault": ({"edge_siamese_fault": "1x200", "edge_siamese_camera_up": "0x200"}, 2),
    "EdgeSiameseCameraDown": ({"edge_siamese_fault": "0x200", "edge_siamese_camera_up": "0x200"}, 2),
    "EdgeSiameseNoFrames": (
        {'edge_siamese_frames_total{result="blank"}': "700x200", "edge_siamese_camera_up": "1x200"},
        5,
    ),
    "EdgeSiameseSlow": (
        {
            "edge_siamese_camera_frames_per_second": "4.9x200",
            "edge_siamese_camera_target_frames_per_second": "10x200",
            "edge_siamese_camera_up": "1x200",
        },
        10,
    ),
    "EdgeSiameseCameraRestarts": ({"edge_siamese_camera_restarts_total": "0+1x200"}, 5),
    "EdgeSiameseRestartLoop": ({"process_start_time_seconds": "0+60x200"}, 1),
    "EdgeSiameseHot": ({"edge_siamese_temperature_celsius": "80x200"}, 5),
    "EdgeSiameseThrottled": ({'edge_siamese_throttled{condition="under-voltage"}': "1x200"}, 2),
    "EdgeSiameseMemory": (
        {"process_resident_memory_bytes": "241e6x200", "edge_siamese_memory_limit_bytes": "300e6x200"},
        10,
    ),
    "EdgeSiameseDiskFull": ({"edge_siamese_disk_free_bytes": "99e6x200"}, 10),
    "EdgeSiameseStoreRepaired": ({"edge_siamese_store_repaired": "1x200"}, 0),
    "EdgeSiameseIntegrationDown": ({'edge_siamese_integration_up{integration="mqtt"}': "0x200"}, 10),
    "EdgeSiamesePanelDown": ({"edge_siamese_panel_up": "0x200"}, 10),
}
SILENT_BELOW = {
    "EdgeSiameseSlow": {
        "edge_siamese_camera_frames_per_second": "5.1x200",
        "edge_siamese_camera_target_frames_per_second": "10x200",
        "edge_siamese_camera_up": "1x200",
    },
    "EdgeSiameseHot": {"edge_siamese_temperature_celsius": "79.9x200"},
    "EdgeSiameseMemory": {
        "process_resident_memory_bytes": "239e6x200",
        "edge_siamese_memory_limit_bytes": "300e6x200",
    },
    "EdgeSiameseCameraRestarts": {"edge_siamese_camera_restarts_total": "0x10 1x20 3x20 4x150"},
    "EdgeSiameseRestartLoop": {"process_start_time_seconds": "0x10 1x20 2x20 3x150"},
    # Without a model there is no camera either; one alert is enough.
    "EdgeSiameseCameraDown": {"edge_siamese_fault": "1x200", "edge_siamese_camera_up": "0x200"},
}


@pytest.fixture(scope="module", autouse=True)
def prometheus(asked_for: None) -> str:
    for tool in ("promtool", "prometheus"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is missing: scripts/system_packages.sh installs it")
    return "prometheus"


def promtool(*arguments: str, given: str | None = None, cwd: Path = FILES) -> str:
    done = subprocess.run(
        ["promtool", *arguments], cwd=cwd, input=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- files ---


def test_rules_and_example_are_valid() -> None:
    assert f"SUCCESS: {len(RULES)} rules found" in promtool("check", "rules", "alerts.yml")
    assert "prometheus.yml is valid prometheus config file syntax" in promtool(
        "check", "config", "prometheus.yml"
    )


def test_rules_are_silent_where_all_is_well_and_report_a_missing_job() -> None:
    assert "SUCCESS" in promtool("test", "rules", str(ROOT / "tests" / "system" / "alerts_test.yml"))


def test_every_alert_fires_in_time_and_says_what_to_do(tmp_path: Path) -> None:
    assert set(FIRING) == {rule["alert"] for rule in RULES} - {"EdgeSiameseNotScraped"}
    tests = []
    for name, (told, minutes) in FIRING.items():
        query = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
        late = {"expr": query, "eval_time": f"{minutes + 40}m", "exp_samples": [{"labels": "{}", "value": 1}]}
        early = {"expr": query, "eval_time": f"{60 * minutes - 30}s", "exp_samples": []}
        tests.append(_test(name, told, [early, late] if minutes else [late]))
    for name, told in SILENT_BELOW.items():
        query = f'count(ALERTS{{alertname="{name}",alertstate="firing"}})'
        tests.append(_test(f"not {name}", told, [{"expr": query, "eval_time": "45m", "exp_samples": []}]))
    _run_tests(tmp_path, tests)


def _test(name: str, told: dict[str, str], expressions: list[dict[str, Any]]) -> dict[str, Any]:
    series = [{"series": _series(metric), "values": values} for metric, values in told.items()]
    return {"name": name, "interval": "15s", "input_series": series, "promql_expr_test": expressions}


def _series(metric: str) -> str:
    name, _, labels = metric.rstrip("}").partition("{")
    return f"{name}{{{SERIES}{',' + labels if labels else ''}}}"


def _run_tests(place: Path, tests: list[dict[str, Any]]) -> None:
    shutil.copy(FILES / "alerts.yml", place)
    whole = {"rule_files": ["alerts.yml"], "evaluation_interval": "15s", "tests": tests}
    (place / "tests.yml").write_text(yaml.safe_dump(whole))
    assert "SUCCESS" in promtool("test", "rules", "tests.yml", cwd=place)


# --- a daemon ---


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with daemon_in(tmp_path / "daemon", monkeypatch) as made:
        configure(made, bundle, port)
        made.start().up()
        made.learn("mug", MUG)
        made.show(MUG, "mug")
        yield made


def test_promtool_finds_nothing_to_say_of_what_a_daemon_exposes(daemon: Daemon, port: int) -> None:
    assert promtool("check", "metrics", given=scrape(port)) == ""


class Server:
    """A Prometheus on loopback."""

    def __init__(self, place: Path, target: int) -> None:
        self.port = free_port()
        place.mkdir()
        config = yaml.safe_load((FILES / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["scrape_configs"][0]["static_configs"][0]["targets"] = [f"127.0.0.1:{target}"]
        shutil.copy(FILES / "alerts.yml", place)
        (place / "prometheus.yml").write_text(yaml.safe_dump(config))
        options = [
            *("--config.file", str(place / "prometheus.yml"), "--storage.tsdb.path", str(place / "data")),
            *("--web.listen-address", f"127.0.0.1:{self.port}"),
        ]
        with (place / "log").open("wb") as log:
            self.process = subprocess.Popen(["prometheus", *options], stdout=log, stderr=log)
        until(self._ready, 30)

    def _ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=10) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def ask(self, path: str, **query: str) -> Any:
        with urlopen(
            f"http://127.0.0.1:{self.port}/api/v1/{path}?{urlencode(query)}", timeout=10
        ) as response:
            answer = json.load(response)
        assert answer["status"] == "success"
        return answer["data"]

    def value(self, query: str) -> float | None:
        found = self.ask("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None


@pytest.fixture
def server(daemon: Daemon, port: int, tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "prometheus", port)
    try:
        yield made
    finally:
        made.process.terminate()
        made.process.wait(20)


def test_prometheus_reads_it_and_answers_what_the_dashboard_asks(server: Server, daemon: Daemon) -> None:
    until(lambda: (server.value("edge_siamese_frames_total{result='recognized'}") or 0) > 0, 30)
    daemon.learn("pen", PEN)
    began = time.monotonic()
    while time.monotonic() - began < 4:  # a rate needs some scrapes
        daemon.show(TABLE, None)
        daemon.show(MUG, "mug")
    until(lambda: (server.value('increase(edge_siamese_recognitions_total{name="mug"}[1m])') or 0) > 0, 30)
    instance = server.ask("query", query="edge_siamese_build_info")["result"][0]["metric"]["instance"]
    empty = set()
    for expression in queries():
        if expression.startswith("label_values(") or not expression:
            continue
        asked = expression.replace("$instance", instance)
        asked = re.sub(r"\$__(interval|rate_interval|range)", "1m", asked)
        if not server.ask("query", query=asked)["result"]:
            empty.add(expression)
    # A rejected query would have been an error; these have nothing to show of a machine like this, or of this minute.
    allowed = ("edge_siamese_temperature", "edge_siamese_throttled", "edge_siamese_refusals", "changes(")
    assert {expression for expression in empty if not any(word in expression for word in allowed)} == set()


def test_prometheus_loads_the_rules_and_a_stalled_camera_is_pending(server: Server, daemon: Daemon) -> None:
    until(lambda: server.value("edge_siamese_camera_up") == 1, 30)
    daemon.stage.error = OSError("the cable is loose")
    query = 'ALERTS{alertname="EdgeSiameseCameraDown",alertstate="pending"}'
    until(lambda: server.value(query) == 1, 30)
    loaded = {rule["name"] for group in server.ask("rules")["groups"] for rule in group["rules"]}
    assert loaded == {rule["alert"] for rule in RULES} and len(ALERTS["groups"]) == 1
