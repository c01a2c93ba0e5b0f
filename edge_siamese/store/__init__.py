"""The support store: registered objects on the disk, durable and undoable."""

from edge_siamese.store.changes import Undone
from edge_siamese.store.collection import OnConflict
from edge_siamese.store.importing import Imported
from edge_siamese.store.records import Counts, StoredObject, StoredView
from edge_siamese.store.salvage import Repair
from edge_siamese.store.store import SupportStore

__all__ = [
    "Counts",
    "Imported",
    "OnConflict",
    "Repair",
    "StoredObject",
    "StoredView",
    "SupportStore",
    "Undone",
]
