"""A made-up machine to be examined."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_siamese.doctor.findings import Account, Context
from edge_siamese.settings import CameraSettings, PanelSettings, PathSettings, Settings
from tests.edge_siamese.doctor.machines import NOT_RUNNING, PI


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("dev/dma_heap", "proc", "sys", "state"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def context(root: Path) -> Context:
    return Context(
        settings=Settings(
            camera=CameraSettings(kind="synthetic"),
            panel=PanelSettings(kind="none"),
            paths=PathSettings(state=str(root / "state"), runtime=str(root / "run")),
        ),
        board=PI,
        account=Account("root", 0, frozenset({0})),
        root=root,
        run=lambda _: None,
        daemon=None,
        unreachable=NOT_RUNNING,
    )
