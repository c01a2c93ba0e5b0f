"""Fleet messages: round trips and validation."""

from __future__ import annotations

import base64
import json
import random
from typing import Any

import numpy as np
import pytest

from edge_siamese.fleet import messages
from edge_siamese.fleet.messages import (
    MAX_CONTENT_BYTES,
    MAX_STATE_BYTES,
    Topics,
    decode_content,
    decode_object,
    decode_request,
    decode_view,
    encode_content,
    encode_request,
    encode_state,
    to_printable,
)
from edge_siamese.pictures import encode_png
from edge_siamese.store.replication import ViewContent
from edge_siamese.store.tables import MAX_CROP_SIDE
from edge_siamese.validation import SchemaError
from tests.edge_siamese.fleet.test_state import OBJECTS, VIEWS, a_view, an_object, stamp
from tests.edge_siamese.store.samples import MODEL, picture, vector

CROP = encode_png(picture(1))
CONTENT = ViewContent(MODEL, vector(1).tobytes(), (CROP, encode_png(picture(2))))


def test_topics() -> None:
    topics = Topics("edge-siamese", "home")
    uid = OBJECTS[3].replace("0", "a", 1)
    assert topics.of("objects", uid) == f"edge-siamese/fleet/home/objects/a/{uid}"
    assert topics.of("views", uid) == f"edge-siamese/fleet/home/views/a/{uid}"
    assert topics.of("content", uid) == f"edge-siamese/fleet/home/content/{uid}"
    assert topics.shard("views", "7") == "edge-siamese/fleet/home/views/7/+"
    assert topics.requests == "edge-siamese/fleet/home/requests/+"
    assert topics.uid(topics.of("objects", uid)) == uid
    assert topics.uid("edge-siamese/fleet/home/objects/a/mug") is None
    with pytest.raises(ValueError, match="a collection name has 1 to 80 characters without"):
        Topics("edge-siamese", "a/b")


def test_messages_round_trip() -> None:
    named = an_object("Kaffeebecher \U0001f375", life="forgotten")
    assert decode_object(encode_state(named)) == named
    view = a_view(OBJECTS[2], alive=False, kind="negative")
    assert decode_view(encode_state(view)) == view
    assert decode_content(encode_content(CONTENT)) == CONTENT
    assert decode_request(encode_request(2)) == 2
    assert json.loads(encode_state(an_object())) == {
        "format": 1,
        "created": "2026-11-24T10:00:00.000+00:00",
        "name": {"stamp": stamp(1), "value": "mug"},
        "life": {"stamp": stamp(1), "value": "alive"},
    }


def test_contents_hold_as_many_pictures_as_fit() -> None:
    large = encode_png(picture(3, (500, 500, 3)))
    content = ViewContent(MODEL, vector(1).tobytes(), (large, large, CROP, large))
    payload = encode_content(content)
    assert 1_000_000 < len(payload) <= MAX_CONTENT_BYTES
    assert decode_content(payload).crops == (large,)


def test_oversized_pictures_are_refused_before_decoding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side = MAX_CROP_SIDE
    whole = encode_png(np.zeros((side, side), np.uint8))
    wide = encode_png(np.zeros((1, side + 1), np.uint8))
    assert decode_content(encode_content(ViewContent(MODEL, None, (whole, CROP)))).crops == (whole,)
    assert decode_content(encode_content(ViewContent(MODEL, None, (CROP, wide)))).crops == (CROP,)
    # As many as a view keeps, as they are made without another setting.
    usual = (encode_png(np.zeros((192, 192, 3), np.uint8)),) * 100
    assert decode_content(encode_content(ViewContent(MODEL, None, usual))).crops == usual

    def unpack(_: bytes) -> None:
        raise AssertionError("it was unpacked")

    monkeypatch.setattr(messages, "decode_png", unpack)
    for crops, reason in (
        ((wide,), r"crops\[0\]: at most 2048 pixels a side, not 2049 x 1"),
        ((CROP, whole), "crops: more than 4194304 pixels in total"),
        (
            (encode_png(np.zeros((4096, 4096, 3), np.uint8)),) * 5,
            r"crops\[0\]: at most 2048 pixels a side",
        ),
    ):
        texts = [base64.b64encode(crop).decode() for crop in crops]
        with pytest.raises(SchemaError, match=reason):
            decode_content(changed(encode_content(CONTENT), {"crops": texts}))


def test_a_damaged_picture_is_left_out() -> None:
    content = ViewContent(MODEL, None, (CROP[:-5], CROP))
    assert decode_content(encode_content(content)).crops == (CROP,)


def changed(payload: bytes, change: dict[str, Any]) -> bytes:
    """A JSON object with other values; None takes a key away."""
    value = json.loads(payload)
    for dotted, new in change.items():
        *path, last = dotted.split(".")
        inner = value
        for key in path:
            inner = inner[key]
        if new is None:
            del inner[last]
        else:
            inner[last] = new
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format": 2}, "format: must be 1, not 2"),
        ({"name": None}, "name: missing"),
        ({"more": 1}, "more: unknown key"),
        ({"created": "<b>\n"}, "created: must be a string that matches"),
        (
            {"created": "9999-12-31T23:59:59+00:00"},
            "created: must be a UTC time in ISO 8601 from 1970 to 2099",
        ),
        ({"created": "NaN"}, 'created: must be a UTC time in ISO 8601 .*, not "NaN"'),
        ({"name.value": ""}, "name.value: an object needs a name that is not empty"),
        ({"name.value": 81 * "a"}, "name.value: the name .* has 81 characters; at most 80 are allowed"),
        ({"name.value": "a\u202eb"}, "name.value: the name .* has a control character"),
        ({"name.value": " mug "}, "name.value: the name is not in canonical form"),
        ({"name.stamp": "9"}, "name.stamp: must be a stamp, not '9'"),
        ({"life.value": "dead"}, 'life.value: must be one of "alive", "forgotten", not "dead"'),
    ],
)
def test_invalid_objects_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        decode_object(changed(encode_state(an_object()), change))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "photo"}, 'kind: must be one of "view", "negative"'),
        ({"created": "2026-02-30T00:00:00+00:00"}, "created: must be a UTC time in ISO 8601"),
        ({"created": "2026-11-24T10:00:00"}, "created: must be a UTC time in ISO 8601"),
        ({"source": 90 * "a"}, "source: must be a string that matches"),
        ({"place.object": "../../etc/passwd"}, "place.object: must be a string that matches"),
        ({"place.object": OBJECTS[0].upper() + "A"}, "place.object: must be a string that matches"),
        ({"place.alive": 1}, "place.alive: must be true or false"),
    ],
)
def test_invalid_views_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        decode_view(changed(encode_state(a_view(OBJECTS[0])), change))


NAN = np.full(8, np.nan, "<f4")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"dimensions": 9}, "embedding: must be 9 finite numbers"),
        ({"dimensions": 10**9}, "dimensions: must be an integer from 0 to 16384"),
        ({"embedding": "AAAA"}, "embedding: must be 8 finite numbers"),
        *(
            (
                {"embedding": base64.b64encode(np.full(8, number, "<f4").tobytes()).decode()},
                "embedding: must be 8 finite numbers, not too large or all zero",
            )
            for number in (3e38, 0.0)
        ),
        ({"embedding": "%%%%"}, "embedding: must be base64"),
        ({"crops": ["AAAA"]}, r"crops\[0\]: a stored picture is a PNG, and this is not one"),
        ({"crops": ["AAAA"] * 101}, "crops: must be a list of at most 100 items, not a list of 101"),
        ({"crops": "AAAA"}, "crops: must be a list"),
        ({"model_id": "\u0000"}, "model_id: must be a string that matches"),
    ],
)
def test_invalid_contents_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        decode_content(changed(encode_content(CONTENT), change))


def test_nan_oversized_and_empty_messages_are_refused() -> None:
    with pytest.raises(SchemaError, match="must be 8 finite numbers"):
        decode_content(encode_content(ViewContent(MODEL, NAN.tobytes(), ())))
    with pytest.raises(SchemaError, match="neither an embedding nor a picture"):
        decode_content(encode_content(ViewContent(MODEL, None, ())))
    with pytest.raises(SchemaError, match=f"5000 bytes; at most {MAX_STATE_BYTES} are accepted"):
        decode_view(5000 * b" ")
    with pytest.raises(SchemaError, match="not UTF-8"):
        decode_view(b"\xff")


def test_garbled_messages_raise_schema_errors_only() -> None:
    chance = random.Random(6)
    payloads = [
        (encode_state(an_object()), decode_object),
        (encode_state(a_view(VIEWS[0])), decode_view),
        (encode_content(CONTENT), decode_content),
        (encode_request(1), decode_request),
    ]
    refused = 0
    for _ in range(4000):
        payload, decode = chance.choice(payloads)
        garbled = bytearray(payload)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(garbled))
            what = chance.random()
            if what < 0.4:
                garbled[place] = chance.randrange(256)
            elif what < 0.7:
                del garbled[place : place + chance.randint(1, 20)]
            else:
                garbled[place:place] = chance.choice([b"[", b'"', b"{", b"9" * 30, b"\\ud800", b"null"])
            if not garbled:
                break
        try:
            decode(bytes(garbled))
        except SchemaError:
            refused += 1
    assert refused > 3000


def test_to_printable_replaces_and_truncates() -> None:
    assert to_printable("camera") == "camera"
    assert to_printable("Kamera\u00fc\n" + 100 * "a") == "Kamera??" + 72 * "a"
