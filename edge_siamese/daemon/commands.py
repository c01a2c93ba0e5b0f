"""The commands of the daemon: one table for control socket, command line, HTTP and MQTT.

Each command names the record of its arguments and the method of `DaemonApi` that carries it out. The fields of a record
carry their help text. From them come the options and `--help` of the command line, the validation of requests and the
schemas of the HTTP API. This module imports neither numpy nor the API, so the command line starts quickly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta

from edge_siamese.errors import ControlError, ImageError
from edge_siamese.settings import MAX_REGIONS, RegionSettings
from edge_siamese.validation import Record, SchemaError, convert, nearest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Caller = Literal["socket", "http", "mqtt"]
SOCKET: frozenset[Caller] = frozenset({"socket"})
SOCKET_HTTP: frozenset[Caller] = frozenset({"socket", "http"})
EVERYONE: frozenset[Caller] = frozenset({"socket", "http", "mqtt"})

MAX_EVENTS = 500
MAX_PICTURES = 12
"""Pictures in one request."""
MAX_PIXEL_BYTES = 6_220_800
"""Size of a picture in a request: 1920 x 1080 in color, which as base64 leaves room for the rest of the request."""
MAX_SIDE = 65_535


class EncodedPicture(Record, frozen=True):
    """A picture in a request: its shape, and its pixels as base64."""

    shape: Annotated[tuple[int, ...], Meta(description="[height, width] or [height, width, 3]")]
    pixels: Annotated[bytes, Meta(description="uint8 values in row-major order, base64")]

    @classmethod
    def encode(cls, pixels: npt.NDArray[Any], share: int = 1) -> EncodedPicture:
        """Encode a picture; a picture that is too large for a request is scaled down by an integer factor.

        Args:
            pixels: uint8 (h, w), (h, w, 1), or (h, w, 3 or 4) RGB with an ignored fourth channel.
            share: number of pictures in the same request.

        Raises:
            ImageError: the array is not such a picture.
        """
        import numpy as np

        if pixels.ndim == 3 and pixels.shape[2] in (1, 4):
            pixels = pixels[..., 0] if pixels.shape[2] == 1 else pixels[..., :3]
        if pixels.dtype != np.uint8:
            raise ImageError(f"a picture has to be uint8, not {pixels.dtype}")
        shape = _checked_shape(pixels.shape)
        factor = math.ceil(math.sqrt(math.prod(shape) * share / MAX_PIXEL_BYTES))
        if factor > 1:
            pixels = _downscale(pixels, min(factor, shape[0], shape[1]))
            _require_size(pixels.shape)
        return cls(pixels.shape, np.ascontiguousarray(pixels).tobytes())

    def decode(self) -> npt.NDArray[np.uint8]:
        """Return the pixels, uint8 (h, w) or (h, w, 3).

        Raises:
            ImageError: it is not a valid picture, or it is too large.
        """
        import numpy as np

        shape = _checked_shape(self.shape)
        _require_size(shape)
        if len(self.pixels) != math.prod(shape):
            raise ImageError(
                f"a picture of shape {shape} has {math.prod(shape)} bytes, not {len(self.pixels)}"
            )
        return np.frombuffer(self.pixels, dtype=np.uint8).reshape(shape)


def _checked_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    if (
        len(shape) not in (2, 3)
        or not all(0 < side <= MAX_SIDE for side in shape)
        or (len(shape) == 3 and shape[2] != 3)
    ):
        raise ImageError(
            f"a picture has shape [height, width] or [height, width, 3], not {str(list(shape))[:60]}"
        )
    return shape


def _require_size(shape: tuple[int, ...]) -> None:
    if math.prod(shape) > MAX_PIXEL_BYTES:
        raise ImageError(
            f"a picture of shape {shape} has {math.prod(shape)} bytes; the limit is {MAX_PIXEL_BYTES}"
        )


def _downscale(pixels: npt.NDArray[np.uint8], factor: int) -> npt.NDArray[np.uint8]:
    """Average squares of `factor` pixels a side; an incomplete row or column of squares is cut off."""
    import numpy as np

    rows, columns = pixels.shape[0] // factor, pixels.shape[1] // factor
    squares = pixels[: rows * factor, : columns * factor].reshape(
        rows, factor, columns, factor, *pixels.shape[2:]
    )
    sums = squares.astype(np.uint32).sum(axis=(1, 3), dtype=np.uint32)
    return ((sums + factor * factor // 2) // (factor * factor)).astype(np.uint8)


# --- arguments ---


def argument(description: str, **command_line: Any) -> Meta:
    """Describe a field; `command_line` may contain `positional=True`, `metavar="FILE"` or `option="--picture"`."""
    return Meta(description=description, extra=command_line)


ObjectName = Annotated[
    str, Meta(max_length=256), argument("name or uid of a registered object", metavar="NAME")
]
Pictures = Annotated[
    tuple[EncodedPicture, ...],
    Meta(max_length=MAX_PICTURES),
    argument("picture files to register from, in place of the camera", option="--picture", metavar="FILE"),
]


RegionName = Annotated[
    str | None,
    argument("region of the camera's picture; default: the first one", metavar="REGION"),
]


class NoArguments(Record, frozen=True):
    """A command without arguments."""


class EventsArguments(Record, frozen=True):
    """Which events to list."""

    count: Annotated[
        int, Meta(ge=0, le=MAX_EVENTS), argument("number of recent events to start with", metavar="N")
    ] = 20
    follow: Annotated[bool, argument("keep printing new events until Ctrl-C")] = False


class ObjectArguments(Record, frozen=True):
    """The name of an object."""

    name: ObjectName


class RegisterArguments(Record, frozen=True):
    """Arguments of a registration."""

    name: Annotated[
        str | None,
        argument(
            "name of the new object, or with --view of a registered one; default: object 1, object 2, ...",
            positional=True,
            metavar="NAME",
        ),
    ] = None
    view: Annotated[bool, argument("add a view to a registered object")] = False
    force: Annotated[bool, argument("register even if it looks like another registered object")] = False
    pictures: Pictures = ()
    region: RegionName = None

    def __post_init__(self) -> None:
        if self.view and self.name is None:
            raise SchemaError("name", "a view needs the name of a registered object")
        if self.pictures and self.region is not None:
            raise SchemaError("region", "is a part of the camera's picture; leave it out with pictures")


class RenameArguments(Record, frozen=True):
    """An object and its new name."""

    name: ObjectName
    new: Annotated[str, argument("new name of the object", metavar="NEW")]


class RemoveViewArguments(Record, frozen=True):
    """A view or negative of an object."""

    name: ObjectName
    view: Annotated[
        int,
        Meta(ge=0, le=2**63 - 1),
        argument("number of the view, as shown by `edge-siamese objects views NAME`", metavar="VIEW"),
    ]


class MergeArguments(Record, frozen=True):
    """Two objects to merge."""

    name: ObjectName
    into: Annotated[
        str,
        Meta(max_length=256),
        argument("name or uid of the object that receives the views and keeps its name", metavar="INTO"),
    ]


class UndoArguments(Record, frozen=True):
    """Which change to undo."""

    registrations: Annotated[bool, argument("undo the last registration, skipping other changes")] = False


class WrongArguments(Record, frozen=True):
    """The recognition that was wrong."""

    name: Annotated[
        str | None,
        argument("reject only if this object was recognized", positional=True, metavar="NAME"),
    ] = None
    decision: Annotated[str | None, argument("id of an earlier decision, from its event", metavar="ID")] = (
        None
    )
    actual: Annotated[
        str | None,
        argument("what it really was, kept for training; needs training.collect_pictures", metavar="NAME"),
    ] = None


class ScoreArguments(Record, frozen=True):
    """Pictures to recognize."""

    pictures: Annotated[
        tuple[EncodedPicture, ...],
        Meta(min_length=1, max_length=MAX_PICTURES),
        argument("picture files", metavar="PICTURE"),
    ]


class ExplainArguments(Record, frozen=True):
    """The picture to explain."""

    picture: Annotated[
        EncodedPicture | None,
        argument("picture file; default: the current frame", positional=True, metavar="PICTURE"),
    ] = None
    region: RegionName = None

    def __post_init__(self) -> None:
        if self.picture is not None and self.region is not None:
            raise SchemaError("region", "is a part of the camera's picture; leave it out with a picture")


class SetRegionsArguments(Record, frozen=True):
    """The regions to watch."""

    regions: Annotated[
        tuple[RegionSettings, ...],
        Meta(max_length=MAX_REGIONS),
        argument("all regions, the one for the button first; none to watch the whole picture"),
    ]


class GestureArguments(Record, frozen=True):
    """A gesture on the button."""

    gesture: Annotated[Literal["press", "double press", "hold"], argument("gesture on the button")]


class UploadArguments(Record, frozen=True):
    """One chunk of an archive."""

    chunk: Annotated[bytes, argument("next bytes of the archive, base64")]
    upload: Annotated[str | None, argument("id of the upload; without it a new upload starts")] = None


class ImportArguments(Record, frozen=True):
    """An uploaded archive."""

    upload: Annotated[str, argument("id of the upload")]
    on_conflict: Annotated[
        Literal["rename", "skip", "merge"],
        argument("what to do with an object whose name is taken"),
    ] = "rename"


class RestoreArguments(Record, frozen=True):
    """A part in quarantine."""

    id: Annotated[
        str,
        Meta(max_length=64),
        argument("id of the part, as shown by `edge-siamese quarantine`", metavar="ID"),
    ]


# --- the table ---


@dataclass(frozen=True)
class Command:
    """One command of the daemon."""

    name: str
    """Its name on the control socket and in MQTT topics."""
    arguments: type[Record]
    help: str
    """Description in one sentence."""
    method: str
    """The method of `DaemonApi` that carries it out; takes the fields of `arguments` as keyword arguments."""
    callers: frozenset[Caller] = SOCKET
    """Who may call it."""
    http: str | None = None
    """Method and path below the API's prefix; `{field}` stands for a field of `arguments`. The other fields are in the
    body, or in the query of a GET."""
    cli: str = ""
    """Its command line after `edge-siamese`; empty: not on the command line."""
    example: str = ""
    """Arguments of the example in `--help`."""
    needs_client: bool = False
    """Whether the method takes `client` too: for lines before the result, and for the source of a registration."""

    def parse(self, values: dict[str, Any]) -> Record:
        """Validate JSON values; raises `SchemaError`."""
        return convert(values, self.arguments)


COMMANDS = (
    Command(
        "status",
        NoArguments,
        "Show the daemon status and the objects in view.",
        "status",
        SOCKET_HTTP,
        http="GET /status",
        cli="status",
        example="--json",
    ),
    Command(
        "events",
        EventsArguments,
        "Show recent events.",
        "events",
        cli="events",
        example="--follow",
        needs_client=True,
    ),
    Command(
        "settings",
        NoArguments,
        "Return the settings in use, without passwords.",
        "effective_settings",
    ),
    Command(
        "reload",
        NoArguments,
        "Reload the settings and the model.",
        "request_reload",
        cli="reload",
    ),
    Command(
        "quarantine",
        NoArguments,
        "List the parts that failed and are not used.",
        "list_quarantine",
        SOCKET_HTTP,
        http="GET /quarantine",
        cli="quarantine",
        example="--json",
    ),
    Command(
        "restore",
        RestoreArguments,
        "Use a part in quarantine again.",
        "restore",
        SOCKET_HTTP,
        http="POST /quarantine/{id}/restore",
        cli="quarantine restore",
        example="view-12",
    ),
    Command(
        "regions",
        NoArguments,
        "List the watched regions of the picture.",
        "list_regions",
        SOCKET_HTTP,
        http="GET /regions",
        cli="regions",
        example="--json",
    ),
    Command(
        "set-regions",
        SetRegionsArguments,
        "Replace and save the watched regions.",
        "set_regions",
        SOCKET_HTTP,
        http="PUT /regions",
    ),
    Command(
        "objects",
        NoArguments,
        "List the registered objects.",
        "list_objects",
        SOCKET_HTTP,
        http="GET /objects",
        cli="objects",
        example="--json",
    ),
    Command(
        "views",
        ObjectArguments,
        "List the views and negatives of an object.",
        "views",
        SOCKET_HTTP,
        http="GET /objects/{name}/views",
        cli="objects views",
        example="mug",
    ),
    Command(
        "remove-view",
        RemoveViewArguments,
        "Remove a view or negative from an object.",
        "remove_view",
        SOCKET_HTTP,
        http="DELETE /objects/{name}/views/{view}",
        cli="objects remove-view",
        example="mug 7",
    ),
    Command(
        "export",
        NoArguments,
        "Write all objects to an archive.",
        "export",
        cli="objects export",
        example="shelf.zip",
        needs_client=True,
    ),
    Command(
        "collect",
        NoArguments,
        "Write the pictures for training to an archive, if the settings allow it.",
        "collect",
        cli="objects collect",
        example="pictures.zip",
        needs_client=True,
    ),
    Command("upload", UploadArguments, "Send a chunk of an archive to import.", "upload"),
    Command(
        "import",
        ImportArguments,
        "Add the objects of an archive.",
        "import_upload",
        cli="objects import",
        example="shelf.zip",
    ),
    Command(
        "register",
        RegisterArguments,
        "Register the object in front of the camera, or in pictures.",
        "register",
        EVERYONE,
        http="POST /objects",
        cli="register",
        example="mug",
        needs_client=True,
    ),
    Command(
        "rename",
        RenameArguments,
        "Rename an object.",
        "rename",
        EVERYONE,
        http="PATCH /objects/{name}",
        cli="rename",
        example="'object 3' mug",
    ),
    Command(
        "forget",
        ObjectArguments,
        "Forget an object; `undo` restores it.",
        "forget",
        EVERYONE,
        http="DELETE /objects/{name}",
        cli="forget",
        example="mug",
    ),
    Command(
        "merge",
        MergeArguments,
        "Move the views of one object to another, and forget the first.",
        "merge",
        SOCKET_HTTP,
        http="POST /objects/{name}/merge",
        cli="merge",
        example="'object 3' mug",
    ),
    Command(
        "undo",
        UndoArguments,
        "Undo the last change to the objects.",
        "undo",
        EVERYONE,
        http="POST /undo",
        cli="undo",
    ),
    Command(
        "wrong",
        WrongArguments,
        "Reject the last recognition and keep it as a negative example.",
        "wrong",
        EVERYONE,
        http="POST /wrong",
        cli="wrong",
        example="mug",
    ),
    Command(
        "score",
        ScoreArguments,
        "Recognize the objects in pictures.",
        "score",
        SOCKET_HTTP,
        http="POST /score",
        cli="score",
        example="a.jpg b.jpg",
    ),
    Command(
        "explain",
        ExplainArguments,
        "Explain the decision on the current frame or on a picture.",
        "explain",
        cli="explain",
        example="photo.jpg",
    ),
    Command(
        "surroundings",
        NoArguments,
        "Show how different each object is from everything else the camera sees.",
        "surroundings",
        SOCKET_HTTP,
        http="GET /surroundings",
        cli="surroundings",
        example="--json",
    ),
    Command(
        "clear-surroundings",
        NoArguments,
        "Forget what the camera has seen besides the objects.",
        "clear_surroundings",
        SOCKET_HTTP,
        http="DELETE /surroundings",
        cli="surroundings clear",
    ),
    Command(
        "button",
        GestureArguments,
        "Simulate a gesture on the button.",
        "gesture",
        SOCKET_HTTP,
        http="POST /button",
    ),
)

BY_NAME = {command.name: command for command in COMMANDS}


def commands_for(caller: Caller) -> tuple[Command, ...]:
    """Return the commands that a caller may use, in the order of the table."""
    return tuple(command for command in COMMANDS if caller in command.callers)


def find_command(name: str, caller: Caller) -> Command:
    """Look a command up; raises `ControlError` if the caller has no such command."""
    command = BY_NAME.get(name)
    if command is None or caller not in command.callers:
        known = [known.name for known in commands_for(caller)]
        raise ControlError(f"there is no command {name!r}{nearest(name, known)}")
    return command


# --- fields, for command-line options and HTTP schemas ---


@dataclass(frozen=True)
class Argument:
    """A field of a command's arguments."""

    name: str
    annotation: Any
    """Its type with its constraints."""
    type: Any
    """Its type without them, such as `str | None` or `tuple[EncodedPicture, ...]`."""
    required: bool
    default: Any
    description: str
    command_line: dict[str, Any]
    """The keyword arguments of `argument`."""

    @property
    def is_picture(self) -> bool:
        """Whether it takes pictures: files on the command line, uploads over HTTP."""
        return "EncodedPicture" in str(self.type)


def arguments_of(command: Command) -> tuple[Argument, ...]:
    """Return the fields of a command's arguments, in order."""
    return tuple(_arguments(msgspec.structs.fields(command.arguments)))


def _arguments(fields: Iterable[msgspec.structs.FieldInfo]) -> Iterable[Argument]:
    for field in fields:
        metadata = [item for item in getattr(field.type, "__metadata__", ()) if isinstance(item, Meta)]
        described = [item for item in metadata if item.description]
        yield Argument(
            field.name,
            field.type,
            getattr(field.type, "__origin__", field.type) if metadata else field.type,
            field.required,
            None if field.required else field.default,
            described[-1].description or "" if described else "",
            dict(described[-1].extra or {}) if described else {},
        )
