"""Removes what this device left at a broker under former names, and remembers those until the broker has done it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edge_siamese.mqtt.client import Connection
from edge_siamese.mqtt.published_topics import PublishedTopics, keep_footprints, read_footprints
from edge_siamese.mqtt.subscriptions import Incoming
from edge_siamese.mqtt.topics import Topics

MAX_FORMER = 10
"""Names that are remembered; of more changes while a broker is away, the latest."""
MARK = "end"
"""In place of an object's uid: comes back from the broker when all that it kept of the objects has come."""


class RetainedCleanup:
    """What is to be removed. After `begin`, all of it happens on the network's thread."""

    def __init__(self, state: Path, connection: Connection, present: PublishedTopics) -> None:
        """Nothing happens before `begin`.

        Args:
            state: the state directory.
            connection: to the broker of the present names.
            present: the names as they are now.
        """
        self._state, self._connection, self._present = state, connection, present
        self._former: tuple[PublishedTopics, ...] = ()
        self._pending: set[str] = set()
        """Topics that are to be empty, until the broker has acknowledged it."""
        self._looking: set[Topics] = set()
        """Names whose objects may not all have come."""
        self._found: set[Topics] = set()
        """Names of which objects came: a broker may not send all of them at once, so there may be more."""
        self._round = 0

    def begin(self) -> None:
        """Remember the present names, and remove what is left of former ones as soon as there is a connection."""
        present = self._present
        known = read_footprints(self._state)
        former = known if known and known[0].broker == present.broker else known[1:]
        # Of another broker's nothing can be done now: they wait until the settings name it again.
        former = tuple(
            found
            for found in dict.fromkeys(former)
            if found.broker != present.broker or set(found.kept) - set(present.kept)
        )[:MAX_FORMER]
        if (present, *former) != known:
            keep_footprints(self._state, (present, *former))
        self._former = tuple(found for found in former if found.broker == present.broker)
        self._looking = {found.names for found in self._former} - {present.names}
        for topic in dict.fromkeys(topic for found in self._former for topic in found.kept):
            if topic not in present.kept:
                self._remove(topic)
        for names in self._looking:
            self._look(names)

    def _remove(self, topic: str) -> None:
        self._pending.add(topic)
        self._connection.send(topic, b"", retain=True, ended=partial(self._ended, topic))

    def _ended(self, topic: str, taken: bool) -> None:
        if taken:  # else it is tried again at the next start
            self._pending.discard(topic)
            self._go_on()

    def _look(self, names: Topics) -> None:
        self._connection.listen(names.objects, partial(self._hear, names), partial(self._mark, names))

    def _mark(self, names: Topics) -> None:
        self._connection.publish(names.object(MARK), b"%d" % self._round)

    def _hear(self, names: Topics, message: Incoming) -> None:
        if message.retain and message.payload:
            self._found.add(names)
            if self._connection.has_room:
                self._remove(message.topic)
        elif message.topic == names.object(MARK) and message.payload == b"%d" % self._round:
            self._looking.discard(names)
            self._go_on()

    def _go_on(self) -> None:
        """All that was known is removed: look whether there is more, or be done with it."""
        if self._pending:
            return
        if self._looking:
            for names in self._looking & self._found:
                self._mark(
                    names
                )  # the first one may be among what a broker left out that had so much to send
            return
        self._looking, self._found = self._found, set()
        self._round += 1
        for names in self._looking:
            self._look(names)
        if self._looking or not self._former:
            return
        for names in {found.names for found in self._former} - {self._present.names}:
            self._connection.unsubscribe(names.objects)
        # By now the file may be another connection's, where this one took long to end.
        present, *former = read_footprints(self._state) or (self._present,)
        keep_footprints(self._state, (present, *(found for found in former if found not in self._former)))
        self._former = ()
