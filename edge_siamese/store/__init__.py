"""The support store: registered objects on disk, durable and undoable."""

from edge_siamese.store.archive import ImportResult, OnConflict
from edge_siamese.store.records import Counts, StoredObject, StoredView
from edge_siamese.store.recovery import Repair
from edge_siamese.store.store import SupportStore
from edge_siamese.store.undo_log import Undone

__all__ = [
    "Counts",
    "ImportResult",
    "OnConflict",
    "Repair",
    "StoredObject",
    "StoredView",
    "SupportStore",
    "Undone",
]
