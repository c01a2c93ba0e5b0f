"""What the broker keeps of a fleet, as far as this device has seen it, and how all of it is read after a connection."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from edge_siamese.fleet.inbox import Message
from edge_siamese.fleet.messages import (
    DIGITS,
    Topics,
    decode_object,
    decode_view,
    encode_object,
    encode_view,
)
from edge_siamese.fleet.reconciliation import Changes, Known
from edge_siamese.fleet.state import ObjectState, ViewState, resolve
from edge_siamese.fleet.transport import Transport
from edge_siamese.validation import SchemaError

LOG = logging.getLogger(__name__)

Part = Literal["objects", "views"]
Key = tuple[Part, str]
"""An object or a view, by its uid."""

MARK_SECONDS = 5.0
"""A part of what is retained that has not come after so long, though nothing else comes, is asked for again."""
MOST: dict[Part, int] = {"objects": 20_000, "views": 100_000}
"""Registers of others that are taken: each costs memory, and time whenever something changes."""
_COMPLAINTS = 100
_State = TypeVar("_State", ObjectState, ViewState)


class _LateError(SchemaError):
    """A stamp is too far ahead."""


@dataclass
class Read:
    """What messages told."""

    changes: Changes
    """Registers that are newer than what was known."""
    behind: set[Key]
    """Where the broker has older registers than this device, or none."""
    alike: set[Key]
    """Where it has the same now."""


class Mirror:
    """The broker's objects and views; used from one thread.

    After a connection it subscribes to one part after the other, and sends itself a message after each: what is
    retained has come when that message has. A broker drops retained messages where thousands are due at once.
    """

    def __init__(
        self,
        topics: Topics,
        device: str,
        transport: Transport,
        is_late: Callable[[str], bool] = lambda stamp: False,
    ) -> None:
        """`is_late`: whether a stamp is too far ahead of this device's clock."""
        self._topics, self._transport, self._is_late = topics, transport, is_late
        self._overruled: set[Key] = set()
        self.passed_over = False
        """Whether something was, for the time of day that this device has."""
        self.device = device
        self.own_marks = topics.of("marks", device)
        """The topic of what this device sends to itself."""
        # By the connection's handlers, on its thread.
        self.heard: Callable[[str, bytes], object] = lambda topic, payload: None
        self.subscribed: Callable[[str], object] = lambda pattern: None
        self.objects: dict[str, ObjectState] = {}
        self.views: dict[str, ViewState] = {}
        self._steps = [
            topics.wanted,
            *(topics.part(part, digit) for part in ("objects", "views") for digit in DIGITS),
        ]
        self._step: int | None = None
        self._mark, self._deadline = b"", 0.0
        self._complaints: set[str] = set()
        self._shown: Mapping[str, str] | None = None

    @property
    def complete(self) -> bool:
        """Whether all that the broker keeps was seen since the connection was made."""
        return self._step == len(self._steps)

    def begin(self, now: float) -> None:
        """The connection was made: nothing is known of what the broker has now."""
        self.objects.clear()
        self.views.clear()
        self._shown = None
        self._overruled.clear()
        self.passed_over = False
        self._transport.subscribe(self.own_marks, self.heard, lambda: self.subscribed(self.own_marks))
        self._ask(0, now)

    def lost(self) -> None:
        """There is no connection."""
        self._step = None

    def tick(self, now: float) -> None:
        """Ask again for what does not come."""
        if self._step is not None and not self.complete and now >= self._deadline:
            self._ask(self._step, now)

    def acknowledged(self, pattern: str) -> None:
        """A subscription holds: what is published now comes after all that is retained."""
        if self._step is not None and not self.complete and pattern == self._steps[self._step]:
            self._transport.publish(self.own_marks, self._mark)

    def marked(self, payload: bytes, now: float) -> None:
        """A message of this device to itself came back: if it is the one that is due, the next part is asked for."""
        if self._step is not None and not self.complete and payload == self._mark:
            self._ask(self._step + 1, now)

    def read(self, messages: list[Message], known: Known, now: float) -> Read:
        """Take messages of objects and views."""
        self._deadline = now + MARK_SECONDS
        self._shown = None
        found = Read(Changes({}, {}), set(), set())
        for message in messages:
            uid, part = self._topics.uid(message.topic), self._part(message.topic)
            if uid is None or part is None:
                continue
            key: Key = (part, uid)
            if message.payload and self._is_full(key, known, found.changes):
                what = SchemaError("", f"more than {MOST[part]}; the others are not taken")
                self.complain(f"{self._topics.base}/{part}", what)
                continue
            try:
                behind = self._read_one(key, message.payload, known, found.changes)
            except _LateError as error:
                self.passed_over = True
                self.complain(message.topic, error)
                # Once: a device without a time of day may take it, and give it to the broker again.
                behind = key not in self._overruled and self._has(key, known)
                if behind:
                    self._overruled.add(key)
                    (self.objects if part == "objects" else self.views).pop(uid, None)
                else:
                    self._give_up(key, known)
            except SchemaError as error:
                # It may be of a newer release: it is left to those who can read it.
                self.complain(message.topic, error)
                self._give_up(key, known)
                behind = False
            (found.behind if behind else found.alike).add(key)
            (found.alike if behind else found.behind).discard(key)
        return found

    def complain(self, topic: str, error: SchemaError) -> None:
        """Say once of a topic that what comes on it is no use."""
        if topic not in self._complaints and len(self._complaints) < _COMPLAINTS:
            self._complaints.add(topic)
            LOG.warning("%s is passed over: %s", topic, error)

    def shows(self, view: str) -> bool:
        """Whether who reads the broker alone takes a view for one that is there."""
        if self._shown is None:
            self._shown = resolve(self.objects, self.views).views
        return view in self._shown

    def lacks(self, known: Known) -> set[Key]:
        """Where the broker has older registers than this device, or none."""
        return {
            *(("objects", uid) for uid, state in known.objects.items() if self.objects.get(uid) != state),
            *(("views", uid) for uid, view in known.views.items() if self.views.get(uid) != view),
        }

    def _ask(self, step: int, now: float) -> None:
        self._step = step
        if self.complete:
            return
        pattern = self._steps[step]
        self._mark, self._deadline = secrets.token_hex(8).encode(), now + MARK_SECONDS
        self._transport.subscribe(pattern, self.heard, lambda: self.subscribed(pattern))

    def _part(self, topic: str) -> Part | None:
        rest = topic.removeprefix(self._topics.base + "/")
        return "objects" if rest.startswith("objects/") else "views" if rest.startswith("views/") else None

    def _is_full(self, key: Key, known: Known, changes: Changes) -> bool:
        """Whether a register is new here, and there are as many as are taken."""
        part, uid = key
        there, new = (known.objects, changes.objects) if part == "objects" else (known.views, changes.views)
        return uid not in there and uid not in new and len(there) + len(new) >= MOST[part]

    def _read_one(self, key: Key, payload: bytes, known: Known, changes: Changes) -> bool:
        """Whether the broker is behind now."""
        part, uid = key
        if part == "objects":
            mine = changes.objects.get(uid) or known.objects.get(uid)
            return self._take_in(
                uid, payload, mine, self.objects, changes.objects, decode_object, encode_object
            )
        own = changes.views.get(uid) or known.views.get(uid)
        return self._take_in(uid, payload, own, self.views, changes.views, decode_view, encode_view)

    def _take_in(
        self,
        uid: str,
        payload: bytes,
        mine: _State | None,
        there: dict[str, _State],
        changes: dict[str, _State],
        decode: Callable[[bytes], _State],
        encode: Callable[[_State], bytes],
    ) -> bool:
        """Note what the broker has of a register in `there`, and what is news in `changes`; whether it is behind."""
        state = self._sound(mine)
        if not payload:
            there.pop(uid, None)
            return state is not None
        if state is not None and payload == encode(state):
            there[uid] = state
            return False
        came = there[uid] = self._in_time(decode(payload))
        merged = came if state is None else state.merged(came)
        if merged != state:
            changes[uid] = merged
        return merged != came

    def _sound(self, state: _State | None) -> _State | None:
        """What this device has, unless its clock was wrong when it took it: then what others have stands against it."""
        return None if state is None or self._is_late(state.latest) else state

    def _in_time(self, came: _State) -> _State:
        if self._is_late(came.latest):
            raise _LateError(
                "stamp",
                f"{came.latest} is more than a year ahead of the time here; set the clock that is wrong",
            )
        return came

    def _has(self, key: Key, known: Known) -> bool:
        part, uid = key
        state = known.objects.get(uid) if part == "objects" else known.views.get(uid)
        return state is not None and not self._is_late(state.latest)

    def _give_up(self, key: Key, known: Known) -> None:
        """Take the broker's for what this device has."""
        part, uid = key
        if part == "objects" and uid in known.objects:
            self.objects[uid] = known.objects[uid]
        elif part == "views" and uid in known.views:
            self.views[uid] = known.views[uid]
