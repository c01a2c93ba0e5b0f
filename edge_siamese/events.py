"""What happens on a device, as it is told: to people in a line, to programs in JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, get_args

Kind = Literal[
    "started",
    "stopping",
    "appeared",
    "seen",
    "left",
    "registered",
    "view added",
    "refused",
    "negative added",
    "view removed",
    "forgotten",
    "merged",
    "renamed",
    "undone",
    "imported",
    "camera",
    "panel",
    "model",
    "store",
    "settings",
    "dashboard",
    "mqtt",
    "metrics",
    "fleet",
]
KINDS: tuple[str, ...] = get_args(Kind)


def utc_now() -> str:
    """The time of day: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Event:
    """Something that happened."""

    kind: Kind
    text: str
    """One line for people."""
    time: str = field(default_factory=utc_now)
    """UTC, ISO 8601; of the wall clock, which may jump."""
    data: dict[str, Any] = field(default_factory=dict)
    """What programs need, as JSON values: `uid` and `name` of an object, `sighting`, `probability`, `reason`."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the keys of `data` stand beside the others."""
        fields = asdict(self)
        return {"kind": fields["kind"], "time": fields["time"], "text": fields["text"], **fields["data"]}


def trouble(kind: Kind, text: str, level: Literal["warning", "error"] = "warning", **data: Any) -> Event:
    """An event that somebody should look at: the journal gives it a priority by which it is found."""
    return Event(kind, text, data={"level": level, **data})
