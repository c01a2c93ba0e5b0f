"""Keeps the store over a daemon's life: opens it, with time for a repair, and copies it when it has changed."""

from __future__ import annotations

import logging

from edge_siamese.daemon.systemd import Notifier
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.recognition.embedding import Encoder
from edge_siamese.settings import Settings
from edge_siamese.store import SupportStore

LOG = logging.getLogger(__name__)

PATIENCE_SECONDS = 900.0
"""What thousands of objects may take on a slow card: a repair, a collection that comes or goes."""
BACKUP_SECONDS, LARGE_BACKUP_SECONDS = 60.0, 24 * 3600.0
"""So often the store is copied, if it has changed; a large one, whose copy wears the card, seldom."""
LARGE_STORE = 64 * 2**20
"""Bytes."""
BACKUP_LIMIT_SECONDS = 20.0
"""Nothing is recognized while it is copied."""


def open_store(settings: Settings, encoder: Encoder, notifier: Notifier) -> SupportStore:
    """Open the store for an encoder's model; a damaged file is repaired, and systemd waits for it.

    Raises:
        StoreError: it cannot be opened.
    """
    notifier.extend_timeout(PATIENCE_SECONDS)
    notifier.watchdog_within(PATIENCE_SECONDS)
    try:
        keep = settings.registration.keep_crops
        return SupportStore(settings.store, encoder.model_id, encoder.dimensions, keep_crops=keep)
    finally:
        notifier.watchdog_within(notifier.watchdog_s)


class Backups:
    """Copies the store beside it; never at the end of the daemon, which has to be quick."""

    def __init__(self, now: float) -> None:
        """`now`: the time, in seconds, from which on it is counted."""
        self._due = now + BACKUP_SECONDS

    def turn(self, store: SupportStore, now: float) -> None:
        """Copy the store if it is time; what cannot be copied is logged."""
        if now < self._due:
            return
        self._due = now + BACKUP_SECONDS
        try:
            if store.path.stat().st_size > LARGE_STORE:
                self._due = now + LARGE_BACKUP_SECONDS
            if not store.backup(BACKUP_LIMIT_SECONDS):
                LOG.warning("no backup: the copy of the objects took too long; edge-siamese objects export")
        except (EdgeSiameseError, OSError) as error:
            LOG.warning("no backup: %s", error)
