"""Notes that the current model has passed its self-test, as if it crashed its runtime since then; runs in the system."""

from __future__ import annotations

from pathlib import Path

from edge_siamese.models.bundle import load_bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.runtimes.confined_self_test import self_test_key

models = InstalledModels(Path("/var/lib/edge-siamese/models"))
current = models.current()
assert current is not None
models.remember(self_test_key(load_bundle(current), "auto", "int8"))
