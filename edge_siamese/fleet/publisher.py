"""Tells the broker what it lacks: registers and contents, each until it comes back as what the broker has.

A view's content goes out before the register that shows the view, and is taken away when the broker has the one that
hides it, so that a broker that loses its latest messages never shows a view whose content it lacks. What has to be taken
away is noted in the ledger until the broker has done it: pictures of what was forgotten must not stay there.
"""

from __future__ import annotations

import random
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable

from edge_siamese.fleet.broker_mirror import Key, Mirror
from edge_siamese.fleet.clock import device_of
from edge_siamese.fleet.ledger import Ledger
from edge_siamese.fleet.messages import Topics, encode_content, encode_object, encode_view
from edge_siamese.fleet.state import Resolved
from edge_siamese.fleet.transport import Transport
from edge_siamese.store.replication import ViewContent

ECHO_SECONDS = 5.0
"""What has not come back after so long is sent again."""
FULL_SECONDS = 0.25
"""Until the next attempt where the connection takes no more."""
REGISTERS_AT_ONCE = 50
GIVEN_SECONDS = 30.0
"""A content is not given twice within this by itself; and within `ANSWERED_SECONDS` not for an answer."""
ANSWERED_SECONDS = 3.0
SPREAD_SECONDS = 2.0
"""Who can answer, does within this, so that not all do at once."""
BARE_SECONDS = 10.0
"""A view whose content this device lacks itself it leaves for so long to those who have it."""
HEAL_SECONDS, HEAL_EACH_SECONDS, MAX_HEAL_SECONDS = 0.3, 0.01, 5.0
"""What all devices see that the broker lacks, each of them sends after a random time: the first one does for all."""


class Sending:
    """What has to go out; used from one thread."""

    def __init__(
        self,
        topics: Topics,
        transport: Transport,
        mirror: Mirror,
        ledger: Ledger,
        content: Callable[[str], ViewContent | None],
        chance: random.Random | None = None,
    ) -> None:
        """`content`: reads that of a view from the store."""
        self._topics, self._transport, self._mirror, self._ledger = topics, transport, mirror, ledger
        self._content = content
        self._chance = chance or random.Random()
        self._due: dict[Key, float] = {}
        self._answers: dict[str, float] = {}
        self._given: dict[str, float] = {}
        self._cleared: set[str] = set()
        self._wiped: set[str] = set()
        self._unmarked: list[str] = []
        self._marks: dict[bytes, list[str]] = {}
        self._bare: dict[Key, bool] = {}
        self._leaks: set[str] = set()

    def __len__(self) -> int:
        """How many registers the broker does not have yet, and contents that it still has."""
        return len(self._due) + len(self._leaks)

    def restart(self) -> None:
        """There is a new connection."""
        self._due.clear()
        self._answers.clear()
        self._given.clear()
        self._cleared.clear()
        self._unmarked.clear()
        self._marks.clear()
        self._bare.clear()

    def marked(self, payload: bytes) -> None:
        """A message of this device to itself came back: so did the broker get all that was sent before it."""
        if (views := self._marks.pop(payload, None)) is not None:
            self._ledger.offer([view for view in views if view in self._cleared], offered=False)

    def changed(self, keys: Iterable[Key], now: float) -> None:
        """Registers were set here."""
        self._due.update(dict.fromkeys(keys, now))

    def heal(self, keys: Iterable[Key], now: float) -> None:
        """The broker is behind: it gets these, unless somebody else is quicker."""
        keys = [key for key in keys if key not in self._due]
        spread = min(MAX_HEAL_SECONDS, HEAL_SECONDS + HEAL_EACH_SECONDS * len(keys))
        for key in keys:
            self._due[key] = now + spread * self._chance.random()

    def alike(self, keys: Iterable[Key]) -> None:
        """The broker has these now."""
        for key in keys:
            self._due.pop(key, None)

    def asked(self, view: str, attempt: int, now: float) -> None:
        """Somebody lacks the content of a view."""
        state = self._ledger.known.views.get(view)
        if (
            state is None
            or view in self._answers
            or now - self._given.get(view, -ANSWERED_SECONDS) < ANSWERED_SECONDS
        ):
            return
        if device_of(state.place.stamp) == self._mirror.device:
            self._answers[view] = now
        elif attempt > 1:
            self._answers[view] = now + SPREAD_SECONDS * self._chance.random()

    def resolved(self, resolved: Resolved, now: float) -> None:
        """There may be other views than before."""
        for view in self._wiped.intersection(resolved.views):
            # Brought back by somebody else, maybe before what cleared it arrived.
            self._answers.setdefault(view, now + SPREAD_SECONDS * self._chance.random())
        self._given = {view: then for view, then in self._given.items() if view in resolved.views}
        self._cleared = {view for view in self._cleared if view not in resolved.views}
        # Given here, and hidden by somebody else, maybe before it arrived.
        self._leaks = self._ledger.offered - self._cleared - resolved.views.keys()

    def tick(self, resolved: Resolved, now: float) -> float:
        """Send what is due, at most one content; the time of the next step.

        Raises:
            EdgeSiameseError: a content cannot be read just now.
        """
        try:
            return self._send(resolved, now)
        finally:
            mark = secrets.token_hex(8).encode()
            if self._unmarked and self._transport.publish(self._mirror.own_marks, mark):
                self._marks[mark] = self._unmarked
                self._unmarked = []

    def _send(self, resolved: Resolved, now: float) -> float:
        due = sorted((key for key, then in self._due.items() if then <= now), reverse=True)  # views first
        views = self._views_of({uid for part, uid in due if part == "objects"})
        for key in due[:REGISTERS_AT_ONCE]:
            for view in views.get(key[1], ()) if key[0] == "objects" else (key[1],):
                if view not in resolved.views:
                    self._hide(view)
                elif (
                    not self._mirror.shows(view)
                    and now - self._given.get(view, -GIVEN_SECONDS) >= GIVEN_SECONDS
                ):
                    return now if self._give(view, now) else now + FULL_SECONDS
            if key in self._bare and not self._bare[key]:
                self._bare[key] = True
                self._due[key] = now + BARE_SECONDS
                continue
            if not self._publish(key):
                return now + FULL_SECONDS
            self._due[key] = now + ECHO_SECONDS
        for view in [view for view in self._leaks if not self._mirror.shows(view)]:
            if not self._clear(view):
                return now + FULL_SECONDS
        for view in [view for view, then in self._answers.items() if then <= now]:
            if view not in resolved.views:
                del self._answers[view]
            elif not self._give(view, now):
                return now + FULL_SECONDS
            else:
                del self._answers[view]
                return now
        return min((*self._due.values(), *self._answers.values()), default=float("inf"))

    def _hide(self, view: str) -> None:
        """Note that the content of a view has to be taken away, once the broker has the register that hides it."""
        if view not in self._cleared and self._mirror.shows(view):
            self._ledger.offer([view])
            self._leaks.add(view)

    def _give(self, view: str, now: float) -> bool:
        content = self._content(view)
        if content is None:
            self._bare.setdefault(("views", view), False)
        else:
            self._bare.pop(("views", view), None)
            # Noted first: if the power fails in between, it is cleared once too often rather than once too little.
            self._ledger.offer([view])
            if not self._transport.publish(
                self._topics.of("content", view), encode_content(content), retain=True
            ):
                return False
        self._given[view] = now
        self._cleared.discard(view)
        self._wiped.discard(view)
        return True

    def _clear(self, view: str) -> bool:
        if not self._transport.publish(self._topics.of("content", view), b"", retain=True):
            return False
        self._leaks.discard(view)
        self._cleared.add(view)
        self._wiped.add(view)
        self._unmarked.append(view)
        return True

    def _publish(self, key: Key) -> bool:
        part, uid = key
        known = self._ledger.known
        payload = encode_object(known.objects[uid]) if part == "objects" else encode_view(known.views[uid])
        return self._transport.publish(self._topics.of(part, uid), payload, retain=True)

    def _views_of(self, objects: set[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = defaultdict(list)
        for uid, view in self._ledger.known.views.items() if objects else ():
            if view.place.object in objects:
                found[view.place.object].append(uid)
        return found
