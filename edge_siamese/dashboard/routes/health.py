"""Handlers of the device's health: stage times, temperature, memory, self-test, and the doctor's findings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from edge_siamese.dashboard.endpoints import Endpoints
from edge_siamese.dashboard.schemas import JsonObject
from edge_siamese.dashboard.state import AppState
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.models.selftest import self_test
from edge_siamese.system import board
from edge_siamese.validation import Record

if TYPE_CHECKING:
    from edge_siamese.daemon.engine import Engine

ENDPOINTS = Endpoints("health")


class StageTimes(Record):
    """Times of one stage of a frame."""

    p50_ms: Annotated[float | None, Meta(description="Median.")]
    p95_ms: Annotated[float | None, Meta(description="95th percentile.")]


class Health(Record):
    """Health of the device."""

    frames_per_second: float | None
    frames: int
    dropped: Annotated[int | None, Meta(description="Frames that arrived while another was processed.")]
    restarts: Annotated[int | None, Meta(description="How often the camera was reopened.")]
    stages: Annotated[
        dict[str, StageTimes], Meta(description="Since the start: wait, imaging, encode, decide, frame.")
    ]
    temperature_c: float | None
    memory_mb: Annotated[float | None, Meta(description="Resident memory of the daemon.")]
    uptime_s: float
    model: JsonObject | None
    selftest: Annotated[
        JsonObject | None, Meta(description="Whether the model computes the same as when it was exported.")
    ]
    integrations: JsonObject


class Finding(Record):
    """A finding of the doctor."""

    check: str
    level: Annotated[str, Meta(description="ok, warning, error or unknown")]
    text: str
    remedy: str


class Findings(Record):
    """The doctor's findings."""

    ok: bool
    findings: tuple[Finding, ...]


@ENDPOINTS.add("GET", "/health")
def health(state: AppState) -> Health:
    """Frame rate, stage times, temperature and memory."""
    report = state.api.status()
    camera = report.get("camera") or {}
    used = board.memory()
    return Health(
        frames_per_second=camera.get("fps"),
        frames=report.get("frames", 0),
        dropped=camera.get("dropped"),
        restarts=camera.get("restarts"),
        stages={
            name: StageTimes(p50_ms=_ms(times.quantile(0.5)), p95_ms=_ms(times.quantile(0.95)))
            for name, times in state.api.telemetry.stages.items()
        },
        temperature_c=board.temperature(),
        memory_mb=None if used is None else round(used.resident_mb, 1),
        uptime_s=report.get("uptime_s", 0.0),
        model=report.get("model"),
        selftest=_self_test(state),
        integrations=report.get("integrations") or {},
    )


def _self_test(state: AppState) -> dict[str, Any] | None:
    """Return the result of the self-test, which runs once for each model and takes the time of a few frames."""

    def run(engine: Engine) -> dict[str, Any]:
        key = engine.encoder.model_id, engine.encoder.runtime, engine.encoder.precision
        if key not in state.self_tests:
            try:
                result = self_test(engine.encoder, engine.bundle.golden, engine.head).to_dict()
            except EdgeSiameseError as error:
                result = {"passed": False, "text": str(error)}
            state.self_tests = {key: result}
        return state.self_tests[key]

    try:
        return state.api.with_engine(run)
    except EdgeSiameseError:  # there is no engine
        return None


@ENDPOINTS.add("GET", "/doctor", returns=Findings, responses={503: "The doctor is already running."})
def doctor(state: AppState) -> JsonObject:
    """The problems of the device and their remedies; at most 30 s old."""
    return state.doctor.findings()


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)
