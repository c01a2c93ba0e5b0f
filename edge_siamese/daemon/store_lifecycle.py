"""Lifecycle of the daemon's object store: opening, repair, backups and closing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress

from edge_siamese.daemon.quarantine import Part, damaged_part
from edge_siamese.daemon.systemd import SLOW_SECONDS, Notifier
from edge_siamese.errors import EdgeSiameseError, StoreError
from edge_siamese.events import Event, counted, problem_event
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.settings import Settings
from edge_siamese.store import SupportStore

LOG = logging.getLogger(__name__)

REPAIRED_SECONDS = 60.0
"""How long the LED shows that the store was repaired."""
BACKUP_SECONDS, LARGE_BACKUP_SECONDS = 60.0, 24 * 3600.0
"""Interval between backups of a changed store; a large store is copied rarely, as writes wear out the memory card."""
MAX_REASONS, MAX_REPORTED_PARTS = 5, 100
"""Maximum number of damaged views described in an event, and listed in the status."""
LARGE_STORE_BYTES = 64 * 2**20
BACKUP_LIMIT_SECONDS = 20.0
"""Time limit of a backup, during which no frame is processed."""


class StoreLifecycle:
    """The store, or none while it is closed; used from the service's thread."""

    def __init__(
        self, notifier: Notifier, publish: Callable[[Event], object], clock: Callable[[], float]
    ) -> None:
        """Start with a closed store.

        Args:
            notifier: asks systemd to wait for a repair.
            publish: receives events.
            clock: returns seconds; only differences matter.
        """
        self._notifier, self._publish, self._clock = notifier, publish, clock
        self._backup_due = clock() + BACKUP_SECONDS
        self._repaired_at: float | None = None
        self.store: SupportStore | None = None
        """The open store."""
        self.repair: str | None = None
        """The damage that was found in it, and the outcome of its repair."""
        self._not_embedded: dict[int, str] = {}
        """Views that cannot be embedded, and why."""

    @property
    def damaged(self) -> bool:
        """Whether the open store was found to be damaged; opening it again repairs it."""
        return self.store is not None and self.store.damaged

    @property
    def recently_repaired(self) -> bool:
        """Whether the store was repaired recently."""
        return self._repaired_at is not None and self._clock() - self._repaired_at < REPAIRED_SECONDS

    def open(self, settings: Settings, encoder: Encoder) -> SupportStore:
        """Return the store; if it is closed, it is opened for an encoder's model, and a damaged one is repaired.

        Raises:
            StoreError: it cannot be opened.
        """
        if self.store is None:
            self._notifier.extend_timeout(SLOW_SECONDS)
            with self._notifier.slow():
                keep = settings.registration.keep_crops
                self.store = SupportStore(
                    settings.store,
                    encoder.model_id,
                    encoder.dimensions,
                    unit_length=encoder.unit_length,
                    keep_crops=keep,
                )
            self._report(self.store.findings)
        self.store.keep_crops = settings.registration.keep_crops
        return self.store

    def check_if_suspect(self) -> bool:
        """Repair and report damage that was found while objects were read; returns whether there was any."""
        if self.store is None or not self.store.suspect or self.store.busy:
            return False
        self._report(self.store.check())
        return True

    def set_not_embedded(self, reasons: dict[int, str]) -> None:
        """Report the views that cannot be embedded, with the reasons, unless they were reported before."""
        before, self._not_embedded = self._not_embedded, reasons
        if reasons.keys() - before.keys():
            shown = [f"view {view}: {reason}" for view, reason in list(reasons.items())[:MAX_REASONS]]
            text = f"{counted(len(reasons), 'view')} cannot be embedded and will not be recognized: {'; '.join(shown)}"
            self._publish(problem_event("store", text, "error"))

    def damaged_parts(self) -> list[Part]:
        """Return the views that cannot be recognized because their embedding or their pictures are damaged."""
        if self.store is None:
            return []
        found = []
        with suppress(StoreError):  # the store is reopened, and reports what is damaged
            for view in self.store.unusable_views():
                reason = self._not_embedded.get(view.id)
                if view.damaged:
                    reason = "its embedding is damaged and no pictures of it are stored"
                if reason:
                    found.append(damaged_part(view.id, view.object_name, reason))
        return found[:MAX_REPORTED_PARTS]

    def _report(self, texts: tuple[str, ...]) -> None:
        for text in texts:
            self._publish(problem_event("store", text, "error"))
        if texts:
            self.repair, self._repaired_at = "; ".join(texts), self._clock()

    def back_up_if_due(self) -> None:
        """Back up a changed store into its directory if a backup is due; expected errors are logged."""
        now = self._clock()
        if self.store is None or now < self._backup_due or self.store.busy:
            return
        self._backup_due = now + BACKUP_SECONDS
        try:
            if self.store.path.stat().st_size > LARGE_STORE_BYTES:
                self._backup_due = now + LARGE_BACKUP_SECONDS
            if not self.store.backup(BACKUP_LIMIT_SECONDS):
                LOG.warning("no backup: copying the store took too long; use edge-siamese objects export")
        except (EdgeSiameseError, OSError) as error:
            LOG.warning("no backup: %s", error)

    def close(self) -> None:
        """Close the store, if it is open."""
        store, self.store = self.store, None
        if store is not None:
            store.close()
