"""How the daemon is: in a line for people, and in full for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_siamese import __version__

if TYPE_CHECKING:
    from edge_siamese.daemon.service import Service


def line(service: Service) -> str:
    """One line, such as `sees mug; 12 objects; 9.8 frames/s`."""
    engine, state = service.engine, service.hardware.state
    if engine is None:
        return service.fault
    if state is None or state.status == "starting":
        return "waiting for the camera"
    if state.status in ("stalled", "absent"):
        return f"no frames: {state.reason}"
    if engine.learner.busy:
        return "looks at something that it shall learn"
    seen = " and ".join(engine.present) or "nothing that it knows"
    return f"sees {seen}; {counted(len(engine.support), 'object')}; {state.fps:.1f} frames/s"


def counted(number: int, noun: str) -> str:
    """`1 object`, `2 objects`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def report(service: Service) -> dict[str, Any]:
    """All of it, as JSON values."""
    engine, settings = service.engine, service.settings
    return {
        "version": __version__,
        "line": line(service),
        "uptime_s": round(service.uptime, 1),
        "fault": service.fault,
        "model": _model(service),
        "objects": 0 if engine is None else len(engine.support),
        "views": 0 if engine is None else len(engine.support.embeddings),
        "present": [] if engine is None else list(engine.present),
        "frames": 0 if engine is None else engine.frames,
        "learning": engine is not None and engine.learner.busy,
        "camera": _camera(service),
        "panel": _panel(service),
        "store": {"repair": service.repair},
        "extras": service.extras.report(),
        "paths": {
            "config": str(service.config or ""),
            "state": str(settings.state_directory),
            "socket": str(settings.socket),
        },
    }


def _model(service: Service) -> dict[str, Any] | None:
    engine = service.engine
    if engine is None:
        return None
    return {
        "model_id": engine.encoder.model_id,
        "bundle": str(engine.bundle.path),
        "runtime": engine.encoder.runtime,
        "precision": engine.encoder.precision,
        "reason": engine.encoder.reason,
        "threshold": engine.threshold,
        "threshold_source": engine.threshold_source,
    }


def _camera(service: Service) -> dict[str, Any] | None:
    state = service.hardware.state
    if state is None:
        return None
    return {
        "status": state.status,
        "reason": state.reason,
        "description": state.description,
        "captured": state.captured,
        "dropped": state.dropped,
        "restarts": state.restarts,
        "fps": round(state.fps, 2),
    }


def _panel(service: Service) -> dict[str, Any] | None:
    console = service.hardware.console
    if console is None:
        return None
    return {
        "description": console.description,
        "problem": console.problem,
        "stuck": service.hardware.stuck,
    }
