"""What can be asked of the daemon at its control socket: one method for each command, called on the connection's thread."""

from __future__ import annotations

import base64
import contextlib
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_siamese.daemon.actions import Actions
from edge_siamese.daemon.archive_files import INCOMING, MAX_UPLOADED, MAX_UPLOADS, OUTGOING, transit
from edge_siamese.daemon.control_connection import ClientGone, ControlConnection
from edge_siamese.daemon.event_bus import follow
from edge_siamese.daemon.picture_encoding import decode_picture
from edge_siamese.daemon.registration_session import RegistrationRequest
from edge_siamese.errors import ControlError, Refused
from edge_siamese.system.files import DISK_RESERVE_BYTES
from edge_siamese.validation import nearest

Reply = ControlConnection

CHUNK = 1 << 20
"""Bytes of a collection in one message."""
MAX_FOLLOWERS = 5
"""Of the connections that there are, so that others can still ask."""
ABANDONED_SECONDS = 3600.0
"""An upload that nobody touched for so long is removed."""


class Requests:
    """The handler of the control server."""

    def __init__(self, actions: Actions) -> None:
        self._actions = actions
        self._followers = threading.BoundedSemaphore(MAX_FOLLOWERS)
        self._commands: dict[str, Callable[[dict[str, Any], Reply], Any]] = {
            "status": self._status,
            "objects": self._objects,
            "views": self._views,
            "register": self._register,
            "rename": self._rename,
            "forget": self._forget,
            "remove-view": self._remove_view,
            "merge": self._merge,
            "undo": self._undo,
            "wrong": self._wrong,
            "score": self._score,
            "explain": self._explain,
            "events": self._events,
            "reload": self._reload,
            "export": self._export,
            "upload": self._upload,
            "import": self._import,
        }

    def __call__(self, request: dict[str, Any], reply: Reply) -> Any:
        """Carry one request out; raises `ControlError` if there is no such command."""
        name = request.get("command")
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            raise ControlError(f"there is no command {name!r}{nearest(str(name), list(self._commands))}")
        return command(request, reply)

    # --- what is there ---

    def _status(self, request: dict[str, Any], reply: Reply) -> Any:
        return self._actions.status()

    def _objects(self, request: dict[str, Any], reply: Reply) -> Any:
        return self._actions.with_engine(
            lambda engine: {
                "model_id": engine.encoder.model_id,
                "objects": [asdict(known) for known in engine.store.objects()],
            }
        )

    def _views(self, request: dict[str, Any], reply: Reply) -> Any:
        return [asdict(view) for view in self._actions.views(_text(request, "name"))]

    def _events(self, request: dict[str, Any], reply: Reply) -> Any:
        """The latest events; with `follow`, new ones until the client goes."""
        hub = self._actions.hub
        if not request.get("follow"):
            return [event.to_dict() for event in hub.latest(_number(request, "count", 20, 500))]
        if not self._followers.acquire(blocking=False):
            raise ControlError(f"{MAX_FOLLOWERS} clients follow the events already")
        try:
            follow(hub, reply, replay=_number(request, "count", 20, 500))
        finally:
            self._followers.release()
        return None

    # --- changes ---

    def _register(self, request: dict[str, Any], reply: Reply) -> Any:
        name, view = _text(request, "name", optional=True), bool(request.get("view"))
        pictures = _pictures(request)
        if view and name is None:
            raise ControlError("a view needs the name of an object that is registered")
        source = "picture" if pictures else "command"
        wish = RegistrationRequest(
            None if view else name, name if view else None, bool(request.get("force")), source
        )

        def tell(verdict: dict[str, Any]) -> None:
            with contextlib.suppress(ClientGone):  # whoever asked has gone; the registration goes on
                reply({"progress": verdict})

        learned = self._actions.register(wish, pictures, tell)
        if not learned.saved or learned.object is None:
            raise Refused(learned.text)
        return {"text": learned.text, "object": asdict(learned.object)}

    def _rename(self, request: dict[str, Any], reply: Reply) -> Any:
        return asdict(self._actions.rename(_text(request, "name"), _text(request, "new")))

    def _forget(self, request: dict[str, Any], reply: Reply) -> Any:
        return asdict(self._actions.forget(_text(request, "name")))

    def _remove_view(self, request: dict[str, Any], reply: Reply) -> Any:
        view = _number(request, "view", None, 2**63 - 1)
        return asdict(self._actions.remove_view(_text(request, "name"), view))

    def _merge(self, request: dict[str, Any], reply: Reply) -> Any:
        return asdict(self._actions.merge(_text(request, "name"), _text(request, "into")))

    def _undo(self, request: dict[str, Any], reply: Reply) -> Any:
        return {"text": self._actions.undo(bool(request.get("registrations")))}

    def _wrong(self, request: dict[str, Any], reply: Reply) -> Any:
        return asdict(self._actions.wrong(_text(request, "name", optional=True)))

    def _reload(self, request: dict[str, Any], reply: Reply) -> Any:
        self._actions.reload()
        return {"text": "settings and model are read again"}

    # --- questions ---

    def _score(self, request: dict[str, Any], reply: Reply) -> Any:
        pictures = _pictures(request)
        if not pictures:
            raise ControlError("there is no picture to score")
        return [self._actions.recognize(pixels).described() for pixels in pictures]

    def _explain(self, request: dict[str, Any], reply: Reply) -> Any:
        if picture := request.get("picture"):
            return self._actions.recognize(decode_picture(picture)).described()
        return self._actions.current().described()

    # --- collections ---

    def _export(self, request: dict[str, Any], reply: Reply) -> Any:
        """All objects, in pieces: lines of {"chunk": base64}."""
        with tempfile.TemporaryDirectory(
            dir=transit(self._actions.settings.state_directory, OUTGOING)
        ) as folder:
            path = Path(folder) / "objects.zip"
            count = self._actions.export(path)
            with path.open("rb") as file:
                while piece := file.read(CHUNK):
                    reply({"chunk": base64.b64encode(piece).decode("ascii")})
                    while not reply.delivered(1.0):  # one piece at a time, or memory would hold them all
                        if not reply.open:
                            raise ClientGone("the client has gone")
        return {"objects": count}

    def _upload(self, request: dict[str, Any], reply: Reply) -> Any:
        """A piece of a collection; the first one, without an id, begins a new file."""
        given = _text(request, "upload", optional=True)
        path = self._upload_path(given or uuid.uuid4().hex)
        try:
            piece = base64.b64decode(_text(request, "chunk"), validate=True)
        except ValueError as error:
            raise ControlError("the piece of the upload is not base64") from error
        if given and not path.exists():
            raise ControlError("there is no such upload")
        if not given:
            _remove_older(path.parent, ABANDONED_SECONDS)
            if len(list(path.parent.iterdir())) >= MAX_UPLOADS:
                raise ControlError(f"{MAX_UPLOADS} collections are being brought in already; try again later")
        if shutil.disk_usage(path.parent).free - len(piece) < DISK_RESERVE_BYTES:
            path.unlink(missing_ok=True)
            raise ControlError("the disk is nearly full, so nothing was imported: make room first")
        if (path.stat().st_size if given else 0) + len(piece) > MAX_UPLOADED:
            path.unlink(missing_ok=True)
            raise ControlError(f"the upload is larger than {MAX_UPLOADED:,} bytes")
        try:
            with path.open("ab") as file:
                file.write(piece)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise ControlError(f"{path} cannot be written: {error.strerror}; nothing was imported") from error
        return {"upload": path.stem}

    def _import(self, request: dict[str, Any], reply: Reply) -> Any:
        path = self._upload_path(_text(request, "upload"))
        on_conflict = request.get("on_conflict", "rename")
        if on_conflict not in ("rename", "skip", "merge"):
            raise ControlError(f"on_conflict is rename, skip or merge, not {on_conflict!r}")
        if not path.exists():
            raise ControlError("there is no such upload")

        try:
            return self._actions.import_(path, on_conflict)
        finally:
            path.unlink(missing_ok=True)

    def _upload_path(self, upload: str) -> Path:
        if len(upload) != 32 or not all(c in "0123456789abcdef" for c in upload):
            raise ControlError("there is no such upload")
        return transit(self._actions.settings.state_directory, INCOMING) / f"{upload}.zip"


def _remove_older(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def _pictures(request: dict[str, Any]) -> list[npt.NDArray[np.uint8]]:
    found = request.get("pictures") or []
    if not isinstance(found, list):
        raise ControlError('"pictures" is a list of pictures')
    return [decode_picture(item) for item in found]


def _text(request: dict[str, Any], key: str, optional: bool = False) -> Any:
    value = request.get(key)
    if value is None and optional:
        return None
    if not isinstance(value, str):
        raise ControlError(f'the request needs a text "{key}"')
    return value


def _number(request: dict[str, Any], key: str, default: int | None, most: int) -> int:
    value = request.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ControlError(f"{key} is a whole number from 0 to {most}")
    return value
