"""Which answer of HTTP an error of the daemon becomes: by what it is, not by its words."""

from __future__ import annotations

import pytest

from edge_siamese.dashboard.state import problem
from edge_siamese.errors import (
    BundleError,
    ControlError,
    EdgeSiameseError,
    ImageError,
    NoSuchObject,
    NotReady,
    Refused,
    StoreError,
    SupportError,
)
from edge_siamese.validation import SchemaError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Refused("it looks like mug"), 409),
        (NotReady("whatever it says"), 503),
        (ControlError("the daemon said so"), 409),
        (ControlError("there is no frame"), 409),
        (NoSuchObject("whatever it says"), 404),
        (SupportError("there is no object"), 409),
        (SupportError('view 3 is the only view of "mug"'), 409),
        (ImageError("no picture"), 422),
        (SchemaError("name", "a text is needed"), 422),
        (StoreError("the disk is full"), 503),
        (BundleError("no model"), 500),
    ],
)
def test_errors_by_what_they_are(error: EdgeSiameseError, status: int) -> None:
    found = problem(error, missing=True)
    assert (found.status, found.kind, found.text) == (status, type(error).__name__, str(error))
    assert found.headers == ({"Retry-After": "2"} if status == 503 else {})


def test_what_is_not_there_is_a_conflict_where_the_body_names_it() -> None:
    assert problem(NoSuchObject("there is no object")).status == 409
