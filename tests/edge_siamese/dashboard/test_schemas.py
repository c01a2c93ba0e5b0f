"""The HTTP status of the daemon's errors follows from their type, not from their message."""

from __future__ import annotations

import json

import pytest

from edge_siamese.dashboard.schemas import ApiError, Message, api_error, to_json
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
        (StoreError("the disk is full"), 503),
        (BundleError("no model"), 500),
    ],
)
def test_the_status_of_an_error_follows_from_its_type(error: EdgeSiameseError, status: int) -> None:
    found = api_error(error)
    assert (found.status, found.kind, str(found)) == (status, type(error).__name__, str(error))
    assert found.headers == ({"Retry-After": "2"} if status == 503 else {})
    assert found.body["error"] == str(error) and found.body["kind"] == type(error).__name__


def test_a_refusal_says_why_to_programs() -> None:
    assert api_error(Refused("it looks like mug", reason="known already", collides="mug")).body == {
        "error": "it looks like mug",
        "kind": "Refused",
        "reason": "known already",
        "collides": "mug",
    }
    assert api_error(NoSuchObject("no mug")).body == {"error": "no mug", "kind": "NoSuchObject"}


def test_an_api_error_stays_as_it_is() -> None:
    error = ApiError(429, "wait", retry_after_s=3)
    assert api_error(error) is error
    assert error.body == {"error": "wait", "kind": "TooMany", "retry_after_s": 3}


def test_json_of_records_and_of_names_that_are_not_text() -> None:
    assert to_json(Message(text="caf\u00e9")) == b'{"text":"caf\xc3\xa9"}'
    assert json.loads(to_json({"file": "a\udc80b", "message": Message(text="x")})) == {
        "file": "a?b",
        "message": {"text": "x"},
    }
