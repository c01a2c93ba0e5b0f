"""Serves the figures of a daemon to Prometheus; the only module that knows its library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from edge_siamese.errors import EdgeSiameseError
from edge_siamese.metrics.collect import METRICS, Family, Labeled, Reading, Spread, families
from edge_siamese.metrics.http_server import App, Remembered, Server, only
from edge_siamese.metrics.machine import read_machine
from edge_siamese.settings import MetricsSettings

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from edge_siamese.daemon.actions import Actions

PATH = "/metrics"
ANSWER_SECONDS = 5.0
"""For the daemon to say how it is: half of what Prometheus waits for by itself."""


class Metrics:
    """The extra that Prometheus asks."""

    name = "metrics"

    def __init__(self, settings: MetricsSettings, actions: Actions) -> None:
        """Nothing is imported or opened before `start`."""
        self._settings, self._actions = settings, actions
        self._labeled = Labeled()
        self._server: Server | None = None

    def start(self) -> None:
        """Serve.

        Raises:
            ImportError: the library is missing.
            ControlError: the address is none of this machine, or the port is taken.
        """
        listen = self._settings.listen
        app = only(Remembered(_guarded(exposition(self.read))), PATH, listen)
        self._server = Server(app, listen, self._settings.port)

    def report(self) -> dict[str, Any]:
        """How it is, as JSON values."""
        if self._server is None:
            return {"state": "off"}
        host = f"[{self._settings.listen}]" if ":" in self._settings.listen else self._settings.listen
        return {"state": f"served at http://{host}:{self._server.port}{PATH}"}

    def close(self, timeout: float) -> None:
        """Stop serving."""
        server, self._server = self._server, None
        if server is not None:
            server.close(timeout)

    def read(self) -> list[Family]:
        """All figures now."""
        actions = self._actions
        shown = actions.shown()
        reading = Reading(
            report=actions.status(ANSWER_SECONDS),
            tally=actions.telemetry.tally(),
            stages=actions.telemetry.stages,
            present=frozenset(sighting.uid for sighting in shown.present) if shown else frozenset(),
            wanted_rate=actions.settings.camera.frame_rate,
            machine=read_machine(actions.settings.state_directory),
        )
        return families(reading, self._labeled)


def exposition(read: Callable[[], list[Family]]) -> App:
    """An application that writes what `read` gives, and figures of the process, as Prometheus reads them.

    Raises:
        ImportError: the library is missing.
    """
    from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
    from prometheus_client.registry import Collector

    class Figures(Collector):
        """Reads anew each time that it is asked."""

        def collect(self) -> Iterator[Metric]:
            return map(to_library, read())

        def describe(self) -> Iterable[Metric]:
            return [to_library(Family(metric, ())) for metric in METRICS]

    registry = CollectorRegistry()
    registry.register(Figures())
    ProcessCollector(registry=registry)
    app: App = make_wsgi_app(registry)
    return app


def to_library(family: Family) -> Metric:
    """A figure as the library has it."""
    from prometheus_client import metrics_core as library

    metric = family.metric
    name, text, labels = metric.name, metric.help, metric.labels
    if metric.kind == "histogram":
        histogram = library.HistogramMetricFamily(name, text, labels=labels)
        for values, spread in family.samples:
            assert isinstance(spread, Spread)
            histogram.add_metric(values, spread.buckets, spread.sum_s)
        return histogram
    if metric.kind == "info":
        info = library.InfoMetricFamily(name.removesuffix("_info"), text, labels=())
        for values, _ in family.samples:
            info.add_metric((), dict(zip(labels, values, strict=True)))
        return info
    made = library.CounterMetricFamily if metric.kind == "counter" else library.GaugeMetricFamily
    found = made(name, text, labels=labels)
    for values, value in family.samples:
        assert not isinstance(value, Spread)
        found.add_metric(values, value)
    return found


def _guarded(app: App) -> App:
    """The same, which says so where the daemon cannot be asked just now."""

    def guarded(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            return app(environ, start_response)
        except EdgeSiameseError as error:
            start_response("503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{error}\n".encode()]

    return guarded
