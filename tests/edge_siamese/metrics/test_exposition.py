"""The metrics of a running daemon, read by the library's own parser."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from edge_siamese.daemon.telemetry import STAGES
from edge_siamese.errors import ControlError
from edge_siamese.metrics.collect import METRICS, HistogramValue, Metric, MetricFamily
from edge_siamese.metrics.exposition import exposition, to_prometheus
from edge_siamese.metrics.http_server import Server
from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import MUG, PEN, TABLE, Daemon, daemon_in, until
from tests.edge_siamese.metrics.scraping import configure, free_port, listens, samples, scrape, text_at, value

ROOT = Path(__file__).parents[3]
OF_THE_MACHINE = {"edge_siamese_temperature_celsius", "edge_siamese_throttled"}
"""What not every machine measures."""

COMMAND = Path("/proc/self/comm").read_text().strip()


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each answer is one of now."""
    monkeypatch.setattr("edge_siamese.metrics.http_server.CACHE_SECONDS", 0.0)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with daemon_in(tmp_path, monkeypatch) as made:
        configure(made, bundle, port)
        yield made.start().up()


def test_a_daemon_exposes_every_metric_as_defined(daemon: Daemon, port: int) -> None:
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    text = scrape(port)
    found = {family.name: family for family in text_string_to_metric_families(text)}
    for metric in METRICS:
        if metric.name in OF_THE_MACHINE and metric.name not in found:
            continue
        family = found[metric.name if metric.kind == "info" else metric.name.removesuffix("_total")]
        kind = "gauge" if metric.kind == "info" else metric.kind  # the text format knows no infos
        assert (family.type, family.documentation) == (kind, metric.help)
        labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        assert labels == {frozenset(metric.labels)}, metric.name
    ours = {f"{name}_total" if family.type == "counter" else name for name, family in found.items()}
    assert {name for name in ours if name.startswith("edge_siamese_")} <= {metric.name for metric in METRICS}
    assert {name for name in ours if not name.startswith("edge_siamese_")} == {
        *("process_virtual_memory_bytes", "process_resident_memory_bytes", "process_start_time_seconds"),
        *("process_cpu_seconds_total", "process_open_fds", "process_max_fds"),
    }


def test_counters_increase_with_events(daemon: Daemon, port: int) -> None:
    before = scrape(port)
    assert value(before, "edge_siamese_fault") == 0 and value(before, "edge_siamese_objects") == 0
    assert value(before, "edge_siamese_registrations_total", source="command") == 0
    learned = daemon.learn("mug", MUG)
    uid = learned["object"]["uid"] if "object" in learned else daemon.ask("objects")["objects"][0]["uid"]
    daemon.show(MUG, "mug")
    daemon.show(TABLE, None)
    daemon.show(MUG, "mug")
    with pytest.raises(ControlError):
        daemon.learn("cup", MUG)  # looks like the mug
    after = text_at(port)
    mug = {"uid": uid, "name": "mug", "region": ""}
    assert value(after, "edge_siamese_recognitions_total", **mug) == 2
    assert value(after, "edge_siamese_object_present", **mug) == 1
    assert value(after, "edge_siamese_objects_present") == value(after, "edge_siamese_objects") == 1
    assert value(after, "edge_siamese_registrations_total", source="command") == 1
    assert value(after, "edge_siamese_refusals_total", reason="already known") == 1
    for kind, count in (("appeared", 2), ("left", 1), ("registered", 1), ("refused", 1)):
        assert value(after, "edge_siamese_events_total", kind=kind) == count
    earlier, later = samples(before), samples(after)
    counters = {metric.name for metric in METRICS if metric.kind == "counter"}
    for (name, labels), count in later.items():
        if name in counters or name.endswith(("_bucket", "_count")):
            assert count >= earlier.get((name, labels), 0), name
    for result in ("recognized", "blank", "registering"):
        assert value(after, "edge_siamese_frames_total", result=result, region="") > 0
    assert value(after, "edge_siamese_camera_frames_total") > value(
        before, "edge_siamese_camera_frames_total"
    )
    # A rename goes with the object.
    daemon.ask("rename", name="mug", new='a "cup" \\ é')
    cup = {**mug, "name": 'a "cup" \\ é'}
    assert value(text_at(port), "edge_siamese_recognitions_total", **cup) == 2


def test_stages_are_histograms(daemon: Daemon, port: int) -> None:
    daemon.stage.picture = PEN
    until(lambda: daemon.service.engine and daemon.service.engine.frames > 20)
    text = scrape(port)
    for stage in STAGES:
        buckets = [
            (float(dict(labels)["le"]), count)
            for (name, labels), count in samples(text).items()
            if name == "edge_siamese_stage_duration_seconds_bucket" and ("stage", stage) in labels
        ]
        counts = [count for _, count in sorted(buckets)]
        assert counts == sorted(counts) and counts[-1] > 0
        assert counts[-1] == value(text, "edge_siamese_stage_duration_seconds_count", stage=stage)
        assert value(text, "edge_siamese_stage_duration_seconds_sum", stage=stage) > 0


def test_a_camera_that_stalls_is_down_and_counted(daemon: Daemon, port: int) -> None:
    assert value(scrape(port), "edge_siamese_camera_up") == 1
    daemon.stage.error = OSError("the cable is loose")
    until(lambda: value(text_at(port), "edge_siamese_camera_up") == 0)
    daemon.stage.error = None
    until(lambda: value(text_at(port), "edge_siamese_camera_up") == 1)
    assert value(text_at(port), "edge_siamese_camera_restarts_total") >= 1


def test_other_formats_come_from_the_library(daemon: Daemon, port: int) -> None:
    scrape(port)
    asked = Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urlopen(asked, timeout=10) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        families = {family.name: family.type for family in openmetrics(response.read().decode())}
    assert families["edge_siamese_model"] == "info"
    assert families["edge_siamese_frames"] == "counter"
    one = text_at(port, "/metrics?name[]=edge_siamese_fault")
    assert one.splitlines()[-1] == "edge_siamese_fault 0.0"
    assert len(one.splitlines()) == 3


def test_status_has_the_url_and_reload_turns_metrics_off(daemon: Daemon, bundle: Bundle, port: int) -> None:
    scrape(port)
    assert (
        daemon.ask("status")["integrations"]["metrics"]["state"]
        == f"served at http://127.0.0.1:{port}/metrics"
    )
    assert daemon.told("metrics") == f"metrics: served at http://127.0.0.1:{port}/metrics"
    daemon.configure(bundle.path)
    daemon.ask("reload")
    until(lambda: not listens(port))
    assert "metrics" not in daemon.ask("status")["integrations"]


def test_a_port_in_use_does_not_stop_recognition(
    tmp_path: Path, bundle: Bundle, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with daemon_in(tmp_path, monkeypatch) as made, socket.create_server(("127.0.0.1", port)):
        configure(made, bundle, port)
        made.start().up()
        told = made.told("metrics")
    assert (
        told == f"no metrics: cannot listen at 127.0.0.1, port {port}: Address already in use; "
        f"process {os.getpid()} ({COMMAND}) uses it: set another port in [metrics]"
    )


def test_an_unresponsive_daemon_gives_503_instead_of_zeros() -> None:
    def busy() -> list[MetricFamily]:
        raise ControlError("the daemon is busy")

    from edge_siamese.metrics.exposition import _handle_errors

    server = Server(_handle_errors(exposition(busy)), "127.0.0.1", 0)
    try:
        with pytest.raises(HTTPError) as caught:
            text_at(server.port)
        assert (caught.value.code, caught.value.read()) == (503, b"the daemon is busy\n")
    finally:
        server.close(1)


def test_each_kind_of_metric_is_converted() -> None:
    spread = HistogramValue((("0.5", 1), ("+Inf", 3)), 4.5)
    made = [
        to_prometheus(MetricFamily(Metric("a_total", "counter", "A.", ("x",)), ((("1",), 2.0),))),
        to_prometheus(MetricFamily(Metric("b", "gauge", "B."), (((), 3.0),))),
        to_prometheus(MetricFamily(Metric("c_info", "info", "C.", ("v", "w")), ((("1", "2"), 1.0),))),
        to_prometheus(MetricFamily(Metric("d_seconds", "histogram", "D.", ("s",)), ((("in",), spread),))),
    ]
    assert [family.type for family in made] == ["counter", "gauge", "info", "histogram"]
    assert [(sample.name, sample.labels, sample.value) for family in made for sample in family.samples] == [
        ("a_total", {"x": "1"}, 2.0),
        ("b", {}, 3.0),
        ("c_info", {"v": "1", "w": "2"}, 1),
        ("d_seconds_bucket", {"s": "in", "le": "0.5"}, 1),
        ("d_seconds_bucket", {"s": "in", "le": "+Inf"}, 3),
        ("d_seconds_count", {"s": "in"}, 3),
        ("d_seconds_sum", {"s": "in"}, 4.5),
    ]


# --- off ---

OFF = """
import sys, threading, time
from pathlib import Path
from edge_siamese.daemon.service import Service
from edge_siamese.settings_file import load_settings

service = Service(load_settings(sys.argv[1]), sys.argv[1])

def stop():
    while service.engine is None or service.engine.frames < 3:
        time.sleep(0.01)
    threads = [thread.name for thread in threading.enumerate()]
    Path(sys.argv[2]).write_text(" ".join([f"thread:{name}" for name in threads] + list(sys.modules)))
    service.stop()

threading.Thread(target=stop, daemon=True).start()
service.run()
"""


def test_disabled_metrics_import_nothing(bundle: Bundle, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f'[model]\nbundle = "{bundle.path}"\n[camera]\nkind = "synthetic"\n[panel]\nkind = "none"\n'
        f'[paths]\nstate = "{tmp_path / "state"}"\nruntime = "{tmp_path / "state"}"\n'
    )
    done = subprocess.run(
        [sys.executable, "-c", OFF, str(config), str(tmp_path / "found")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    loaded = set((tmp_path / "found").read_text().split())
    assert {"edge_siamese.daemon.engine", "thread:MainThread"} <= loaded
    wanted = re.compile(r"prometheus_client|edge_siamese\.metrics|wsgiref|http\b|thread:(metrics|extras)")
    assert {name for name in loaded if wanted.match(name)} == set()
