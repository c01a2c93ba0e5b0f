"""Fetches the contents of views that this device lacks: a few at a time, from the broker, or from who has them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from edge_siamese.fleet.inbox import Message
from edge_siamese.fleet.messages import Topics, decode_content, encode_wanted
from edge_siamese.fleet.transport import Transport
from edge_siamese.store.replication import ViewContent
from edge_siamese.validation import SchemaError

AT_ONCE = 4
"""Contents that may be on their way: each may have 2 MB."""
HELD_BYTES = 8_000_000
"""Of contents that came and are not in the store yet, beyond which no more are asked for."""
BATCH_BYTES = 1_000_000
"""Of contents that go into the store at once: the engine waits meanwhile."""
RETAINED_SECONDS = 1.5
"""A content that the broker has comes within this; after it the others are asked."""
ANSWER_SECONDS = 4.0
TRIES = 3
REST_SECONDS, MAX_REST_SECONDS = 20.0, 900.0
"""Before a content that nobody had is looked for again; doubled each time."""


@dataclass
class _Search:
    due: float
    """When the next step is to be made."""
    step: int = 0
    """0: it was not begun; 1: the broker was asked; from 2 on, the others were, so often and once less."""
    rest: float = REST_SECONDS


class Fetching:
    """Views whose contents are looked for; used from one thread."""

    def __init__(
        self, topics: Topics, transport: Transport, complain: Callable[[str, SchemaError], object]
    ) -> None:
        self._topics, self._transport, self._complain = topics, transport, complain
        self.heard: Callable[[str, bytes], object] = lambda topic, payload: None
        self._searches: dict[str, _Search] = {}
        self.found: dict[str, ViewContent] = {}
        """What came, and is not in the store yet."""

    def __len__(self) -> int:
        """How many are looked for."""
        return len(self._searches)

    def need(self, views: Collection[str], now: float) -> None:
        """Look for these, and for no others."""
        for uid in self._searches.keys() - set(views):
            self._end(uid)
        for uid in views:
            if uid not in self._searches and uid not in self.found:
                self._searches[uid] = _Search(now)

    def keep(self, views: Collection[str]) -> None:
        """Drop what came for other views than these: it is in the store, or of no use any more."""
        for uid in self.found.keys() - set(views):
            del self.found[uid]

    def some(self) -> dict[str, ViewContent]:
        """What came, but no more than one batch may have."""
        batch: dict[str, ViewContent] = {}
        size = 0
        for uid, content in self.found.items():
            size += _size(content)
            if batch and size > BATCH_BYTES:
                break
            batch[uid] = content
        return batch

    def restart(self, now: float) -> None:
        """There is a new connection, whose broker may have what the one before had not."""
        for search in self._searches.values():
            search.step, search.due, search.rest = 0, now, REST_SECONDS

    def take(self, message: Message, now: float) -> bool:
        """A content came; whether there is one more now."""
        uid = self._topics.uid(message.topic)
        search = self._searches.get(uid or "")
        if uid is None or search is None or not message.payload:
            return False
        try:
            self.found[uid] = decode_content(message.payload)
        except SchemaError as error:
            self._complain(message.topic, error)
            self._put_off(uid, search, now)
            return False
        self._end(uid)
        return True

    def tick(self, now: float) -> float:
        """Take the searches a step further; the time of the next step."""
        active = sum(1 for search in self._searches.values() if search.step > 0)
        held = sum(_size(content) for content in self.found.values())
        following = float("inf")
        for uid, search in list(self._searches.items()):
            if search.due > now:
                following = min(following, search.due)
                continue
            if search.step == 0:
                if active >= AT_ONCE or held > HELD_BYTES:
                    continue  # when one of the others has ended
                active += 1
                topic = self._topics.of("content", uid)
                self._transport.subscribe(topic, self.heard)
                search.step, search.due = 1, now + RETAINED_SECONDS
            elif search.step <= TRIES:
                ask = encode_wanted(search.step)
                self._transport.publish(self._topics.of("wanted", uid), ask)
                search.step, search.due = search.step + 1, now + ANSWER_SECONDS
            else:
                self._put_off(uid, search, now)
                active -= 1
            following = min(following, search.due)
        return following

    def _put_off(self, uid: str, search: _Search, now: float) -> None:
        """Let others have their turn, and look for it again later."""
        self._transport.unsubscribe(self._topics.of("content", uid))
        search.step, search.due = 0, now + search.rest
        search.rest = min(2 * search.rest, MAX_REST_SECONDS)

    def _end(self, uid: str) -> None:
        if self._searches.pop(uid).step > 0:
            self._transport.unsubscribe(self._topics.of("content", uid))


def _size(content: ViewContent) -> int:
    return len(content.vector or b"") + sum(map(len, content.crops))
