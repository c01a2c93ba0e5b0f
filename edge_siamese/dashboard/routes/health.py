"""Operations that tell how the device is: times of each stage, heat, memory, and what the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from edge_siamese.dashboard.api_types import Failure, Values
from edge_siamese.dashboard.exchange import Call, Reply
from edge_siamese.dashboard.operations import Answer, Operation
from edge_siamese.dashboard.schemas import About
from edge_siamese.dashboard.state import AppState, asked
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.models.selftest import self_test
from edge_siamese.system import board

if TYPE_CHECKING:
    from edge_siamese.daemon.engine import Engine


@dataclass(frozen=True)
class StageTimes:
    """Of one stage of a frame."""

    p50_ms: Annotated[float | None, About("Half of all frames took less.")]
    p95_ms: Annotated[float | None, About("19 of 20 took less.")]


@dataclass(frozen=True)
class Health:
    """How the device is."""

    frames_per_second: float | None
    frames: int
    dropped: Annotated[int | None, About("Frames that came while another was looked at.")]
    restarts: Annotated[int | None, About("How often the camera had to be opened anew.")]
    stages: Annotated[dict[str, StageTimes], About("Since the start: wait, imaging, encode, decide, frame.")]
    temperature_c: float | None
    memory_mb: Annotated[float | None, About("Of the daemon, resident.")]
    uptime_s: float
    model: Values | None
    selftest: Annotated[
        Values | None, About("Whether the model computes here what it did at the workstation.")
    ]
    extras: Values


@dataclass(frozen=True)
class Finding:
    """Something that was looked at."""

    check: str
    level: Annotated[str, About("ok, warning, error or unknown")]
    text: str
    remedy: str


@dataclass(frozen=True)
class Findings:
    """All of them."""

    ok: bool
    findings: tuple[Finding, ...]


def health(site: AppState, call: Call) -> Reply:
    """How it is."""
    report = asked(site.actions.status)
    camera = report.get("camera") or {}
    used = board.memory()
    return Reply(
        value={
            "frames_per_second": camera.get("fps"),
            "frames": report.get("frames", 0),
            "dropped": camera.get("dropped"),
            "restarts": camera.get("restarts"),
            "stages": {
                name: {"p50_ms": _ms(times.quantile(0.5)), "p95_ms": _ms(times.quantile(0.95))}
                for name, times in site.actions.telemetry.stages.items()
            },
            "temperature_c": board.temperature(),
            "memory_mb": None if used is None else round(used.resident_mb, 1),
            "uptime_s": report.get("uptime_s", 0.0),
            "model": report.get("model"),
            "selftest": _selftest(site),
            "extras": report.get("extras") or {},
        }
    )


def _selftest(site: AppState) -> dict[str, Any] | None:
    """Whether the model computes here what it did at the workstation: proved once for each, with the time of a few
    frames; None where nothing can be recognized with."""

    def prove(engine: Engine) -> dict[str, Any]:
        key = engine.encoder.model_id, engine.encoder.runtime, engine.encoder.precision
        if key not in site.selftests:
            try:
                found = self_test(engine.encoder, engine.bundle.golden, engine.head).to_dict()
            except EdgeSiameseError as error:
                found = {"passed": False, "text": str(error)}
            site.selftests = {key: found}
        return site.selftests[key]

    try:
        return site.actions.with_engine(prove)
    except EdgeSiameseError:
        return None


def doctor(site: AppState, call: Call) -> Reply:
    """What is wrong."""
    return Reply(value=site.examination.findings())


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)


OPERATIONS: tuple[Any, ...] = (
    Operation(
        "GET",
        "/health",
        "health",
        "health",
        "Frames, times, heat and memory.",
        Answer(200, "How it is.", Health),
        health,
    ),
    Operation(
        "GET",
        "/doctor",
        "doctor",
        "health",
        "What is wrong here, and what to do about it.",
        Answer(200, "The findings, at most 30 s old.", Findings),
        doctor,
        others=(Answer(503, "It looks already.", Failure),),
    ),
)
