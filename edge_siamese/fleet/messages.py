"""What the fleet says on the broker: topics and payloads, written, and read as what comes from strangers.

    {prefix}/fleet/{collection}/objects/{digit}/{uid}   retained JSON: the registers of an object
    {prefix}/fleet/{collection}/views/{digit}/{uid}     retained JSON: the register of a view
    {prefix}/fleet/{collection}/content/{uid}           retained JSON: embedding and pictures of a view
    {prefix}/fleet/{collection}/wanted/{uid}            somebody lacks that content, and the broker too
    {prefix}/fleet/{collection}/marks/{device}          a device's own: what was retained has come

`{digit}` is the first of the uid: a broker that keeps thousands of messages does not hand out all at once.
"""

from __future__ import annotations

import base64
import json
import re
from binascii import Error as Base64Error
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from edge_siamese.errors import PictureError, SupportError
from edge_siamese.fleet.clock import require_stamp
from edge_siamese.fleet.state import Life, LifeValue, Name, ObjectState, Place, ViewKind, ViewState
from edge_siamese.pictures import decode_png, png_size
from edge_siamese.store.names import checked_name
from edge_siamese.store.replication import ViewContent
from edge_siamese.store.tables import MAX_CROP_SIDE, MAX_CROPS
from edge_siamese.validation import SchemaError, parse_json, read_object

FORMAT = 1
DIGITS = "0123456789abcdef"
MAX_STATE_BYTES = 4096
"""Of an object's or a view's registers."""
MAX_CONTENT_BYTES = 1_900_000
"""Of a view's content: brokers refuse packets of more than 2,000,000 bytes, some of them."""
MAX_CONTENT_PIXELS = MAX_CROP_SIDE**2
"""Of all pictures of a content: what `crop_side` allows for one, or a hundred as they are usual. Without it a message of
2 MB could unpack to gigabytes on every device."""
_MAX_DIMENSIONS = 16_384
_UID = re.compile(r"[0-9a-f]{32}")
_TEXT = re.compile(r"[ -~]{0,80}")
_SEGMENT = re.compile(r"[^/+#\x00-\x1f]{1,80}")

Kind = Literal["objects", "views", "content", "wanted", "marks"]


@dataclass(frozen=True)
class Topics:
    """The topics of one collection."""

    prefix: str
    collection: str

    def __post_init__(self) -> None:
        if not _SEGMENT.fullmatch(self.collection):
            raise ValueError(
                f'a collection is called by 1 to 80 characters without "/", "+" and "#", not {self.collection!a}'
            )

    @property
    def base(self) -> str:
        return f"{self.prefix}/fleet/{self.collection}"

    def of(self, kind: Kind, uid: str) -> str:
        """The topic of an object, a view, or what is told of it."""
        middle = f"{uid[0]}/" if kind in ("objects", "views") else ""
        return f"{self.base}/{kind}/{middle}{uid}"

    def part(self, kind: Literal["objects", "views"], digit: str) -> str:
        """The pattern of a sixteenth of all objects or views."""
        return f"{self.base}/{kind}/{digit}/+"

    @property
    def wanted(self) -> str:
        """The pattern of all that is wanted."""
        return f"{self.base}/wanted/+"

    def uid(self, topic: str) -> str | None:
        """Of what a topic is; None if it is not one of an object or view."""
        found = topic.rsplit("/", 1)[-1]
        return found if _UID.fullmatch(found) else None


def encode_object(state: ObjectState) -> bytes:
    return _json({"format": FORMAT, **asdict(state)})


def encode_view(state: ViewState) -> bytes:
    return _json({"format": FORMAT, **asdict(state)})


def encode_content(content: ViewContent) -> bytes:
    """Embedding and pictures of a view; of these as many as a message may hold."""
    vector = None if content.vector is None else base64.b64encode(content.vector).decode()
    crops: list[str] = []
    room, pixels = MAX_CONTENT_BYTES - 1000 - len(vector or ""), MAX_CONTENT_PIXELS
    for crop in content.crops:
        try:
            width, height = png_size(crop)
        except PictureError:
            continue  # damaged on the disk: the others may do
        text = base64.b64encode(crop).decode()
        room -= len(text) + 3
        pixels -= width * height
        if min(room, pixels) < 0 or max(width, height) > MAX_CROP_SIDE:
            break
        crops.append(text)
    dimensions = 0 if content.vector is None else len(content.vector) // 4
    return _json(
        {
            "format": FORMAT,
            "model_id": content.model_id,
            "dimensions": dimensions,
            "embedding": vector,
            "crops": crops,
        }
    )


def encode_wanted(attempt: int) -> bytes:
    """`attempt`: 1 for the first; then only who changed the view last answers, later everybody."""
    return _json({"format": FORMAT, "attempt": attempt})


def decode_wanted(payload: bytes) -> int:
    """The number of the attempt; raises `SchemaError` for what is no such message."""
    return read_object(_parsed(payload, MAX_STATE_BYTES), _WantedMessage).attempt


def decode_object(payload: bytes) -> ObjectState:
    """Raises `SchemaError` for what is no state of an object."""
    said = read_object(_parsed(payload, MAX_STATE_BYTES), _ObjectMessage)
    return ObjectState(
        said.created, Name(said.name.stamp, said.name.value), Life(said.life.stamp, said.life.value)
    )


def decode_view(payload: bytes) -> ViewState:
    """Raises `SchemaError` for what is no state of a view."""
    said = read_object(_parsed(payload, MAX_STATE_BYTES), _ViewMessage)
    place = said.place
    return ViewState(said.kind, said.created, said.source, Place(place.stamp, place.object, place.alive))


def decode_content(payload: bytes) -> ViewContent:
    """Raises `SchemaError` for what is no content of a view."""
    said = read_object(_parsed(payload, MAX_CONTENT_BYTES), _ContentMessage)
    vector = None
    if said.embedding is not None:
        vector = _bytes(said.embedding, "embedding")
        if len(vector) != 4 * said.dimensions or not np.isfinite(np.frombuffer(vector, "<f4")).all():
            raise SchemaError("embedding", f"{said.dimensions} finite numbers are needed")
    crops = _pictures(said.crops)
    if vector is None and not crops:
        raise SchemaError("", "neither an embedding nor a picture")
    return ViewContent(said.model_id, vector, crops)


@dataclass(frozen=True)
class _NameMessage:
    stamp: str
    value: str

    def __post_init__(self) -> None:
        require_stamp(self.stamp)
        try:
            kept = checked_name(self.value)
        except SupportError as error:
            raise SchemaError("value", str(error)) from error
        if kept != self.value:
            raise SchemaError("value", "the name is not in its usual form")


@dataclass(frozen=True)
class _LifeMessage:
    stamp: str
    value: LifeValue

    def __post_init__(self) -> None:
        require_stamp(self.stamp)


@dataclass(frozen=True)
class _PlaceMessage:
    stamp: str
    object: str
    alive: bool

    def __post_init__(self) -> None:
        require_stamp(self.stamp)
        if not _UID.fullmatch(self.object):
            raise SchemaError("object", "the uid of an object is needed")


@dataclass(frozen=True)
class _ObjectMessage:
    format: Literal[1]
    created: str
    name: _NameMessage
    life: _LifeMessage

    def __post_init__(self) -> None:
        _require_text(self.created, "created")


@dataclass(frozen=True)
class _ViewMessage:
    format: Literal[1]
    kind: ViewKind
    created: str
    source: str
    place: _PlaceMessage

    def __post_init__(self) -> None:
        _require_text(self.created, "created")
        _require_text(self.source, "source")


@dataclass(frozen=True)
class _ContentMessage:
    format: Literal[1]
    model_id: str
    dimensions: int
    embedding: str | None
    crops: tuple[str, ...]

    def __post_init__(self) -> None:
        _require_text(self.model_id, "model_id")
        if not 0 <= self.dimensions <= _MAX_DIMENSIONS:
            raise SchemaError("dimensions", f"0 to {_MAX_DIMENSIONS} are needed, not {self.dimensions}")
        if len(self.crops) > MAX_CROPS:
            raise SchemaError("crops", f"at most {MAX_CROPS} are kept, not {len(self.crops)}")


@dataclass(frozen=True)
class _WantedMessage:
    format: Literal[1]
    attempt: int


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def _parsed(payload: bytes, most: int) -> Any:
    if len(payload) > most:
        raise SchemaError("", f"{len(payload)} bytes; at most {most} are read")
    try:
        return parse_json(payload.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise SchemaError("", "not UTF-8") from error


def printable(text: str) -> str:
    """A text of the store as messages may have it."""
    return re.sub(r"[^ -~]", "?", text)[:80]


def _require_text(text: str, key: str) -> None:
    if not _TEXT.fullmatch(text):
        raise SchemaError(key, "at most 80 printable characters of ASCII are needed")


def _bytes(text: str, key: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (Base64Error, ValueError) as error:
        raise SchemaError(key, f"not base64: {error}") from error


def _pictures(texts: tuple[str, ...]) -> tuple[bytes, ...]:
    """Pictures that can be read again later; none is unpacked before all are known to be small enough."""
    files: list[bytes] = []
    pixels = 0
    for place, text in enumerate(texts):
        key = f"crops[{place}]"
        files.append(_bytes(text, key))
        try:
            width, height = png_size(files[-1])
        except PictureError as error:
            raise SchemaError(key, str(error)) from error
        pixels += width * height
        if max(width, height) > MAX_CROP_SIDE:
            raise SchemaError(key, f"sides of {MAX_CROP_SIDE} pixels at most, not {width} x {height}")
        if pixels > MAX_CONTENT_PIXELS:
            raise SchemaError("crops", f"more than {MAX_CONTENT_PIXELS} pixels in all")
    for place, data in enumerate(files):
        try:
            decode_png(data)
        except PictureError as error:
            raise SchemaError(f"crops[{place}]", str(error)) from error
    return tuple(files)
