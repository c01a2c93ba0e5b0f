"""Topics and payloads of the fleet. All payloads are validated on receipt.

    {prefix}/fleet/{collection}/objects/{shard}/{uid}   retained JSON: the registers of an object
    {prefix}/fleet/{collection}/views/{shard}/{uid}     retained JSON: the register of a view
    {prefix}/fleet/{collection}/content/{uid}           retained JSON: embedding and pictures of a view
    {prefix}/fleet/{collection}/requests/{uid}          a device and the broker lack this content
    {prefix}/fleet/{collection}/markers/{device}        a device to itself: everything published before has arrived

`{shard}` is the first digit of the uid: brokers limit the retained messages that they send for one subscription.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from edge_siamese.errors import PictureError, SupportError
from edge_siamese.fleet.clock import require_stamp
from edge_siamese.fleet.state import ObjectState, Part, Text, ViewState
from edge_siamese.pictures import decode_png, png_size
from edge_siamese.recognition.embedding import usable_embeddings
from edge_siamese.store.names import checked_name
from edge_siamese.store.replication import ViewContent
from edge_siamese.store.tables import MAX_CROP_SIDE, MAX_CROPS
from edge_siamese.validation import MAX_MESSAGE_VALUES, Record, SchemaError, convert, parse_json, require_time

FORMAT = 1
SHARDS = "0123456789abcdef"
MAX_STATE_BYTES = 4096
"""Size of a message with registers, or of a request."""
MAX_CONTENT_BYTES = 1_900_000
"""Size of a content message; some brokers refuse packets above 2,000,000 bytes."""
MAX_CONTENT_PIXELS = MAX_CROP_SIDE**2
"""Pixels of all pictures in a content message: what `crop_side` allows for one picture, or a hundred pictures of the
default size. Without this limit, a message of 2 MB could decompress to gigabytes on every device."""
_UID = re.compile(r"[0-9a-f]{32}")
_COLLECTION = re.compile(r"[^/+#\x00-\x1f]{1,80}")

Kind = Literal["objects", "views", "content", "requests", "markers"]


class Topics:
    """The topics of one collection."""

    def __init__(self, prefix: str, collection: str) -> None:
        """Raises ValueError if the collection's name cannot be part of a topic."""
        if not _COLLECTION.fullmatch(collection):
            raise ValueError(
                f'a collection name has 1 to 80 characters without "/", "+" and "#", not {collection!a}'
            )
        self.base = f"{prefix}/fleet/{collection}"
        self.requests = f"{self.base}/requests/+"
        """Pattern of all requests."""

    def of(self, kind: Kind, uid: str) -> str:
        """Return the topic of an object or a view, or of a view's content or requests."""
        shard = f"{uid[0]}/" if kind in ("objects", "views") else ""
        return f"{self.base}/{kind}/{shard}{uid}"

    def shard(self, part: Part, shard: str) -> str:
        """Return the pattern of a sixteenth of all objects or views."""
        return f"{self.base}/{part}/{shard}/+"

    def kind(self, topic: str) -> str:
        """Return the kind of a topic."""
        return topic.removeprefix(f"{self.base}/").split("/", 1)[0]

    def uid(self, topic: str) -> str | None:
        """Return the uid in a topic; None if there is none."""
        uid = topic.rsplit("/", 1)[-1]
        return uid if _UID.fullmatch(uid) else None


class _Content(Record):
    model_id: Text
    dimensions: Annotated[int, Meta(ge=0, le=16_384)]
    embedding: bytes | None
    crops: Annotated[tuple[bytes, ...], Meta(max_length=MAX_CROPS)]


class _Request(Record):
    attempt: int


def encode_state(state: ObjectState | ViewState) -> bytes:
    """Encode the registers of an object or a view."""
    return _encode(msgspec.structs.asdict(state))


def decode_object(payload: bytes) -> ObjectState:
    """Decode the registers of an object; raises `SchemaError`."""
    state = convert(_decode(payload, MAX_STATE_BYTES), ObjectState)
    require_time("created", state.created)
    require_stamp(state.name.stamp, "name.stamp")
    require_stamp(state.life.stamp, "life.stamp")
    try:
        canonical = checked_name(state.name.value)
    except SupportError as error:
        raise SchemaError("name.value", str(error)) from error
    if canonical != state.name.value:
        raise SchemaError("name.value", "the name is not in canonical form")
    return state


def decode_view(payload: bytes) -> ViewState:
    """Decode the register of a view; raises `SchemaError`."""
    state = convert(_decode(payload, MAX_STATE_BYTES), ViewState)
    require_time("created", state.created)
    require_stamp(state.place.stamp, "place.stamp")
    return state


def encode_content(content: ViewContent) -> bytes:
    """Encode embedding and pictures of a view; as many of the pictures as fit into a message."""
    crops: list[bytes] = []
    free_bytes = MAX_CONTENT_BYTES - 1000 - _base64_length(content.vector or b"")
    free_pixels = MAX_CONTENT_PIXELS
    for crop in content.crops:
        try:
            width, height = png_size(crop)
        except PictureError:
            continue  # damaged on disk
        free_bytes -= _base64_length(crop) + 3
        free_pixels -= width * height
        if min(free_bytes, free_pixels) < 0 or max(width, height) > MAX_CROP_SIDE:
            break
        crops.append(crop)
    return _encode(
        {
            "model_id": content.model_id,
            "dimensions": len(content.vector or b"") // 4,
            "embedding": content.vector,
            "crops": crops,
        }
    )


def decode_content(payload: bytes) -> ViewContent:
    """Decode embedding and pictures of a view; raises `SchemaError`."""
    content = convert(_decode(payload, MAX_CONTENT_BYTES), _Content)
    vector = content.embedding
    if vector is not None and (
        len(vector) != 4 * content.dimensions
        or not usable_embeddings(np.frombuffer(vector, "<f4")[np.newaxis]).all()
    ):
        raise SchemaError(
            "embedding", f"must be {content.dimensions} finite numbers, not too large or all zero"
        )
    _check_crops(content.crops)
    if vector is None and not content.crops:
        raise SchemaError("", "neither an embedding nor a picture")
    return ViewContent(content.model_id, vector, content.crops)


def encode_request(attempt: int) -> bytes:
    """Encode a request. To the first `attempt`, 1, only the device that last changed the view responds."""
    return _encode({"attempt": attempt})


def decode_request(payload: bytes) -> int:
    """Decode the number of the attempt; raises `SchemaError`."""
    return convert(_decode(payload, MAX_STATE_BYTES), _Request).attempt


def to_printable(text: str) -> str:
    """Return a string of the store in printable ASCII, as messages require."""
    return re.sub(r"[^ -~]", "?", text)[:80]


def _encode(value: dict[str, Any]) -> bytes:
    return msgspec.json.encode({"format": FORMAT, **value})


def _decode(payload: bytes, max_bytes: int) -> dict[str, Any]:
    value = parse_json(payload, max_bytes=max_bytes, max_values=MAX_MESSAGE_VALUES)
    if not isinstance(value, dict):
        raise SchemaError("", "must be an object")
    version = value.pop("format", None)
    if version != FORMAT or isinstance(version, bool):
        raise SchemaError("format", f"must be {FORMAT}, not {str(version)[:80]}")
    return value


def _base64_length(data: bytes) -> int:
    return -(-len(data) // 3) * 4


def _check_crops(crops: tuple[bytes, ...]) -> None:
    """Raise `SchemaError` for pictures that cannot be decoded, or are too large; check all sizes before decoding any."""
    pixels = 0
    for index, crop in enumerate(crops):
        try:
            width, height = png_size(crop)
        except PictureError as error:
            raise SchemaError(f"crops[{index}]", str(error)) from error
        pixels += width * height
        if max(width, height) > MAX_CROP_SIDE:
            raise SchemaError(
                f"crops[{index}]", f"at most {MAX_CROP_SIDE} pixels a side, not {width} x {height}"
            )
        if pixels > MAX_CONTENT_PIXELS:
            raise SchemaError("crops", f"more than {MAX_CONTENT_PIXELS} pixels in total")
    for index, crop in enumerate(crops):
        try:
            decode_png(crop)
        except PictureError as error:
            raise SchemaError(f"crops[{index}]", str(error)) from error
