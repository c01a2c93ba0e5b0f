"""Exposition of the daemon's metrics through prometheus-client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_siamese.errors import EdgeSiameseError
from edge_siamese.metrics.collect import (
    METRICS,
    HistogramValue,
    MetricFamily,
    ObjectSeries,
    Snapshot,
    collect,
    read_machine,
)
from edge_siamese.metrics.http_server import App, ResponseCache, Server, error_response, restrict
from edge_siamese.settings import MetricsSettings

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from edge_siamese.daemon.api import DaemonApi

PATH = "/metrics"
STATUS_SECONDS = 5.0
"""Limit for the daemon's status: half of Prometheus' default scrape timeout."""


class Metrics:
    """The integration that exposes metrics to Prometheus."""

    name = "metrics"

    def __init__(self, settings: MetricsSettings, api: DaemonApi) -> None:
        """Configure the integration; `start` imports the library and opens the port."""
        self._settings, self._api = settings, api
        self._series = ObjectSeries()
        self._server: Server | None = None

    @staticmethod
    def check(settings: MetricsSettings, state_directory: Path, *, listen: bool) -> None:
        """Raise the error with which `start` would fail; `listen`: whether to try the port as well."""
        app = exposition(list)
        if listen:
            Server(app, settings.listen, settings.port).close(1.0)

    def start(self) -> None:
        """Start serving.

        Raises:
            ImportError: the library is missing.
            ControlError: the address does not belong to this machine, or the port is in use.
        """
        listen = self._settings.listen
        app = restrict(ResponseCache(_handle_errors(exposition(self.read))), PATH, listen)
        self._server = Server(app, listen, self._settings.port)

    def report(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        if self._server is None:
            return {"state": "off"}
        host = f"[{self._settings.listen}]" if ":" in self._settings.listen else self._settings.listen
        return {"state": f"served at http://{host}:{self._server.port}{PATH}"}

    def close(self, timeout: float) -> None:
        """Stop serving."""
        server, self._server = self._server, None
        if server is not None:
            server.close(timeout)

    def read(self) -> list[MetricFamily]:
        """Return the current metrics."""
        api = self._api
        view = api.current_view()
        snapshot = Snapshot(
            report=api.status(STATUS_SECONDS),
            counts=api.telemetry.counts(),
            stages=api.telemetry.stages,
            present=frozenset((sighting.uid, sighting.region) for sighting in view.present)
            if view
            else frozenset(),
            target_rate=api.settings.camera.frame_rate,
            machine=read_machine(api.settings.state_directory),
        )
        return collect(snapshot, self._series)


def exposition(read: Callable[[], list[MetricFamily]]) -> App:
    """Return a WSGI application that writes the metrics of `read` and of the process.

    Raises:
        ImportError: the library is missing.
    """
    from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
    from prometheus_client.registry import Collector

    class DaemonCollector(Collector):
        """Reads the metrics at each scrape."""

        def collect(self) -> Iterator[Metric]:
            return map(to_prometheus, read())

        def describe(self) -> Iterable[Metric]:
            return [to_prometheus(MetricFamily(metric, ())) for metric in METRICS]

    registry = CollectorRegistry()
    registry.register(DaemonCollector())
    ProcessCollector(registry=registry)
    app: App = make_wsgi_app(registry)
    return app


def to_prometheus(family: MetricFamily) -> Metric:
    """Convert a metric to prometheus-client's classes."""
    from prometheus_client import metrics_core as library

    metric = family.metric
    name, text, labels = metric.name, metric.help, metric.labels
    if metric.kind == "histogram":
        histogram = library.HistogramMetricFamily(name, text, labels=labels)
        for values, value in family.samples:
            assert isinstance(value, HistogramValue)
            histogram.add_metric(values, value.buckets, value.sum_s)
        return histogram
    if metric.kind == "info":
        info = library.InfoMetricFamily(name.removesuffix("_info"), text, labels=())
        for values, _ in family.samples:
            info.add_metric((), dict(zip(labels, values, strict=True)))
        return info
    metric_class = library.CounterMetricFamily if metric.kind == "counter" else library.GaugeMetricFamily
    result = metric_class(name, text, labels=labels)
    for values, value in family.samples:
        assert not isinstance(value, HistogramValue)
        result.add_metric(values, value)
    return result


def _handle_errors(app: App) -> App:
    """Answer 503 with the reason if the daemon does not respond."""

    def handled(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except EdgeSiameseError as error:
            return error_response(start_response, "503 Service Unavailable", str(error))

    return handled
