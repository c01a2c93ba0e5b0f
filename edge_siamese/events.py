"""Events of the daemon: a human-readable line, and JSON values for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from edge_siamese.errors import printable
from edge_siamese.system.wall_clock import utc_now

Kind = Literal[
    "started",
    "stopping",
    "appeared",
    "seen",
    "left",
    "undecided",
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


@dataclass(frozen=True)
class Event:
    """An event of the daemon, such as an object that appeared."""

    kind: Kind
    text: str
    """Human-readable line."""
    time: str = field(default_factory=utc_now)
    """UTC, ISO 8601; from the wall clock, which may jump."""
    data: dict[str, Any] = field(default_factory=dict)
    """JSON values for programs: `uid` and `name` of an object, `sighting`, `probability`, `reason`."""

    def __post_init__(self) -> None:
        """Escape control characters in the text, which goes to terminals and logs."""
        object.__setattr__(self, "text", printable(self.text))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; the keys of `data` are merged in."""
        fields = asdict(self)
        return {"kind": fields["kind"], "time": fields["time"], "text": fields["text"], **fields["data"]}


def problem_event(
    kind: Kind, text: str, level: Literal["warning", "error"] = "warning", **data: Any
) -> Event:
    """Create an event about a problem; its level becomes the priority in the journal."""
    return Event(kind, text, data={"level": level, **data})


def counted(number: int, noun: str, plural: str = "") -> str:
    """Format a count, such as `1 object` or `2 objects`; `plural` if it is not `noun` with an s."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
