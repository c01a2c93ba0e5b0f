"""What clients of the control socket can ask of a running daemon, and how it refuses what it cannot do."""

from __future__ import annotations

import base64
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.daemon import api, archives
from edge_siamese.daemon.client import request, stream
from edge_siamese.daemon.commands import EncodedPicture
from edge_siamese.daemon.control_socket import ControlServer
from edge_siamese.daemon.event_bus import EventBus
from edge_siamese.errors import (
    CameraStalled,
    ControlError,
    ImageError,
    Refused,
    StoreError,
    SupportError,
)
from edge_siamese.events import Event
from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import CUP, MUG, PEN, Daemon, daemon_in, until
from tests.tiny_bundle import write_tiny_bundle

pytest.importorskip("onnxruntime")

MUG_SENT, PEN_SENT, DARK_SENT = (EncodedPicture.encode(picture) for picture in (MUG, PEN, MUG // 40))


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        yield made.start().up()


@pytest.fixture
def knowing(daemon: Daemon) -> Daemon:
    """It knows a mug."""
    daemon.ask("register", name="mug", pictures=[MUG_SENT])
    return daemon


def test_there_are_no_other_commands(daemon: Daemon) -> None:
    with pytest.raises(ControlError, match=r"^there is no command 'statsu'; did you mean \"status\"\?$"):
        daemon.ask("statsu")


class TestRegistering:
    def test_registration_reports_progress_before_the_result(self, daemon: Daemon) -> None:
        daemon.stage.picture = MUG
        until(lambda: daemon.service.engine and daemon.service.engine.frame.pixels is MUG)  # type: ignore[union-attr]
        *progress, last = stream(daemon.socket, "register", name="mug")
        assert [line["progress"]["text"] for line in progress] == ["good", "good"]
        (known,) = daemon.ask("objects")["objects"]
        assert last == {"result": {"text": '"mug" is registered', "object": known}}
        assert (known["name"], known["views"], known["negatives"], known["embedded"]) == ("mug", 1, 0, 1)

    def test_a_refusal_is_an_error_of_its_own_class(self, daemon: Daemon) -> None:
        with pytest.raises(Refused, match=r"frames were good enough; most were too bright: dim the light"):
            daemon.ask("register", name="mug")
        assert daemon.events("refused")[0].startswith("not registered: none of ")

    def test_a_taken_name_is_refused_at_once(self, knowing: Daemon) -> None:
        with pytest.raises(SupportError, match=r'^there is already an object "mug"; choose another name'):
            knowing.ask("register", name="mug")
        assert not knowing.ask("status")["registering"]

    def test_default_names_are_numbered(self, daemon: Daemon) -> None:
        daemon.stage.picture = MUG
        assert daemon.ask("register")["object"]["name"] == "object 1"

    def test_pictures_register_without_the_camera(self, daemon: Daemon) -> None:
        found = daemon.ask("register", name="mug", pictures=[MUG_SENT])
        assert found["text"] == '"mug" is registered'
        (view,) = daemon.ask("views", name="mug")
        assert (view["kind"], view["source"], view["crops"]) == ("view", "picture", 1)
        daemon.show(MUG, "mug")
        with pytest.raises(Refused, match=r"^the picture is not good enough: too dark; add light"):
            daemon.ask("register", name="night", pictures=[DARK_SENT])

    def test_a_view_needs_a_registered_object(self, knowing: Daemon) -> None:
        found = knowing.ask("register", name="mug", view=True, pictures=[PEN_SENT])
        assert (found["text"], found["object"]["views"]) == ('"mug" has 2 views now', 2)
        with pytest.raises(SupportError, match=r'^there is no object "mugg"; did you mean "mug"\?$'):
            knowing.ask("register", name="mugg", view=True)
        with pytest.raises(
            ControlError, match=r"^register: name: a view needs the name of a registered object$"
        ):
            knowing.ask("register", view=True)

    def test_a_collision_is_refused_unless_forced(self, knowing: Daemon) -> None:
        with pytest.raises(Refused, match=r'^it looks like "mug", which is registered: '):
            knowing.ask("register", name="cup", pictures=[MUG_SENT])
        assert knowing.ask("register", name="cup", pictures=[MUG_SENT], force=True)["object"]["name"] == "cup"

    def test_only_one_registration_runs_at_a_time(self, daemon: Daemon) -> None:
        daemon.stage.error = CameraStalled("no frame")
        until(lambda: daemon.service.hardware.camera_down)
        said: list[Any] = []

        def ask() -> None:
            try:
                daemon.ask("register", name="mug")
            except Refused as error:
                said.append(str(error))

        first = threading.Thread(target=ask)
        first.start()
        until(lambda: daemon.ask("status")["registering"])
        with pytest.raises(
            ControlError, match=r"^another registration is in progress; try again in a moment$"
        ):
            daemon.ask("register", name="pen")
        first.join()
        assert said == ["no frame arrived within 1 s: check the camera"]

    def test_a_registration_continues_after_the_client_disconnects(self, daemon: Daemon) -> None:
        lines = stream(daemon.socket, "register", name="mug")
        next(lines)
        lines.close()  # type: ignore[attr-defined]
        daemon.stage.picture = MUG
        daemon.told("registered")


class TestChanging:
    def test_rename_forget_and_undo(self, knowing: Daemon) -> None:
        assert knowing.ask("rename", name="mug", new="cup")["text"] == '"mug" is now called "cup"'
        assert knowing.ask("forget", name="cup")["object"]["name"] == "cup"
        assert knowing.ask("objects")["objects"] == []
        assert knowing.ask("undo") == {"text": 'undone: "cup" is registered again'}
        assert knowing.ask("undo") == {"text": 'undone: "cup" is named "mug" again'}
        assert knowing.ask("undo") == {"text": 'undone: "mug" is no longer registered'}
        with pytest.raises(ControlError, match=r"^there is nothing to undo$"):
            knowing.ask("undo")

    def test_undo_of_registrations_skips_other_changes(self, knowing: Daemon) -> None:
        knowing.ask("rename", name="mug", new="cup")
        assert knowing.ask("undo", registrations=True) == {"text": 'undone: "cup" is no longer registered'}

    def test_a_rejected_recognition_does_not_recur(self, knowing: Daemon) -> None:
        with pytest.raises(ControlError, match=r"^nothing was recognized recently that could be wrong$"):
            knowing.ask("wrong")
        knowing.show(MUG, "mug")
        with pytest.raises(SupportError, match=r'^there is no object "pen"'):
            knowing.ask("wrong", name="pen")
        assert knowing.ask("wrong", name="mug")["object"]["negatives"] == 1
        until(lambda: knowing.service.engine and knowing.service.engine.latest.rule == "nearer to a negative")  # type: ignore[union-attr]
        assert knowing.service.engine is not None
        assert knowing.service.engine.present == ()

    @pytest.mark.parametrize(
        ("command", "words", "error"),
        [
            ("rename", {"name": "mug"}, "rename: new: missing"),
            ("rename", {"name": "mug", "nwe": "x"}, 'rename: nwe: unknown key; did you mean "new"?'),
            ("rename", {"name": 3, "new": "x"}, "rename: name: must be a string of at most 256 characters, not 3"),
            ("forget", {}, "forget: name: missing"),
            ("wrong", {"name": 3}, "wrong: name: must be a string or null, not 3"),
            ("register", {"name": ["a"]}, "register: name: must be a string or null, not a list"),
            ("events", {"count": 501}, "events: count: must be an integer from 0 to 500, not 501"),
            ("events", {"count": True}, "events: count: must be an integer from 0 to 500, not true"),
            ("score", {}, "score: pictures: missing"),
            ("score", {"pictures": []}, "score: pictures: must be a list of 1 to 12 items, not a list of 0"),
            ("score", {"pictures": 3}, "score: pictures: must be a list of 1 to 12 items, not 3"),
            ("register", {"name": "a", "pictures": "x"}, 'register: pictures: must be a list of at most 12 items, not "x"'),
            ("upload", {}, "upload: chunk: missing"),
            ("upload", {"chunk": "?"}, 'upload: chunk: must be base64, not "?"'),
            ("upload", {"chunk": "AAAA", "upload": "../../x"}, "there is no such upload"),
            ("upload", {"chunk": "AAAA", "upload": "0" * 32}, "there is no such upload"),
            ("import", {"upload": "0" * 32}, "there is no such upload"),
            ("import", {"upload": "0" * 32, "on_conflict": "x"},
             'import: on_conflict: must be one of "rename", "skip", "merge", not "x"'),
        ],
    )  # fmt: skip
    def test_invalid_requests_are_refused(
        self, daemon: Daemon, command: str, words: dict[str, Any], error: str
    ) -> None:
        with pytest.raises(ControlError) as caught:
            daemon.ask(command, **words)
        assert str(caught.value) == error

    def test_invalid_pictures_are_refused(self, daemon: Daemon) -> None:
        with pytest.raises(ControlError, match=r'^score: pictures\[0\]: must be an object, not "x"$'):
            daemon.ask("score", pictures=["x"])
        with pytest.raises(ImageError, match="has 9216 bytes, not 3"):
            daemon.ask("explain", picture={"shape": [96, 96], "pixels": "AAAA"})


class TestAsking:
    def test_pictures_are_scored_and_explained(self, knowing: Daemon) -> None:
        knowing.ask("register", name="pen", pictures=[PEN_SENT])
        mug, cup = knowing.ask("score", pictures=[MUG_SENT, EncodedPicture.encode(CUP)])
        assert (mug["name"], mug["rule"], mug["runner_up"]) == ("mug", "recognized", "pen")
        assert mug["text"].startswith("mug (p = 0.")
        assert (cup["name"], cup["rule"]) == (None, "below threshold")
        found = knowing.ask("explain", picture=MUG_SENT)
        assert found == mug
        assert found["explanation"][0].startswith("This is mug: p = 0.")

    def test_the_current_frame_is_explained(self, knowing: Daemon) -> None:
        knowing.show(MUG, "mug")
        assert knowing.ask("explain")["name"] == "mug"
        knowing.stage.error = CameraStalled("it hangs")
        until(lambda: knowing.service.hardware.camera_down)
        until(lambda: knowing.service.engine and knowing.service.engine.latest is None)
        with pytest.raises(ControlError, match=r"^there is no frame to explain: no frames: it hangs$"):
            knowing.ask("explain")

    def test_lists_are_empty_without_objects(self, daemon: Daemon) -> None:
        (found,) = daemon.ask("score", pictures=[MUG_SENT])
        assert (found["text"], found["explanation"]) == (
            "unknown (nothing is registered)",
            ["Nothing is registered, so nothing can be recognized."],
        )

    def test_events_are_replayed_and_followed(self, knowing: Daemon) -> None:
        kinds = [event["kind"] for event in knowing.ask("events", count=500)]
        assert (kinds[0], kinds[-1]) == ("started", "registered")
        assert knowing.ask("events", count=0) == []
        (last,) = knowing.ask("events", count=1)
        assert (last["name"], last["text"], last["source"]) == ("mug", '"mug" is registered', "picture")
        lines = stream(knowing.socket, "events", follow=True, count=1)
        assert next(lines)["event"] == last
        knowing.ask("rename", name="mug", new="cup")
        renamed = next(lines)["event"]
        assert (renamed["kind"], renamed["name"], renamed["before"]) == ("renamed", "cup", "mug")
        lines.close()  # type: ignore[attr-defined]
        until(lambda: not knowing.service.bus._subscribers)

    def test_an_error_of_the_store_keeps_its_class(
        self, knowing: Daemon, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> Any:
            raise StoreError("objects.db: the disk reported an error")

        assert knowing.service.engine is not None
        monkeypatch.setattr(knowing.service.engine.store, "objects", fail)
        with pytest.raises(StoreError, match=r"^objects.db: the disk reported an error$"):
            knowing.ask("objects")


def export(daemon: Daemon, path: Path) -> int:
    content = b""
    result: dict[str, Any] = {}
    for line in stream(daemon.socket, "export"):
        content += base64.b64decode(line.get("chunk", ""))
        result = line.get("result", result)
    path.write_bytes(content)
    return int(result["objects"])


def upload(daemon: Daemon, content: bytes, size: int = 1000) -> str:
    words: dict[str, Any] = {}
    for start in range(0, len(content), size):
        chunk = base64.b64encode(content[start : start + size]).decode()
        words = daemon.ask("upload", chunk=chunk, **words)
    return str(words["upload"])


class TestCollections:
    def test_export_and_import_between_daemons(
        self,
        knowing: Daemon,
        bundle: Bundle,
        tmp_path_factory: pytest.TempPathFactory,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(api, "CHUNK_BYTES", 500)
        path = knowing.home / "shelf.zip"
        assert export(knowing, path) == 1
        assert path.stat().st_size > 500
        assert list((knowing.state / "outgoing").iterdir()) == []
        with daemon_in(tmp_path_factory.mktemp("other"), monkeypatch) as other:
            other.configure(write_tiny_bundle(other.home / "bundle", model_id="another"))
            other.start().up()
            found = other.ask("import", upload=upload(other, path.read_bytes()))
            assert (found["objects"], found["unembedded"]) == (1, 1)
            other.show(MUG, "mug")  # another model learns it from its picture
            assert list((other.state / "incoming").iterdir()) == []
            again = other.ask("import", upload=upload(other, path.read_bytes()))
            assert (again["objects"], again["known"]) == (0, 1)
            assert other.ask("undo")["text"].startswith("undone: removed the imported ")
            assert other.events("imported")[0].startswith("imported: objects 1, views 1")

    def test_an_invalid_archive_changes_nothing(self, knowing: Daemon) -> None:
        with pytest.raises(StoreError):
            knowing.ask("import", upload=upload(knowing, b"no zip"))
        assert list((knowing.state / "incoming").iterdir()) == []
        assert len(knowing.ask("objects")["objects"]) == 1

    def test_a_too_large_upload_is_deleted(self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(archives, "MAX_UPLOAD_BYTES", 2500)
        with pytest.raises(ControlError, match=r"^the upload is larger than 2,500 bytes$"):
            upload(daemon, b"x" * 3000)
        assert list((daemon.state / "incoming").iterdir()) == []

    def test_uploads_are_private(self, daemon: Daemon) -> None:
        first = daemon.state / "incoming" / f"{upload(daemon, b'a')}.zip"
        assert first.read_bytes() == b"a"
        assert stat.S_IMODE(first.parent.stat().st_mode) == 0o700

    def test_a_failure_to_create_the_upload_directory_is_reported(self, daemon: Daemon) -> None:
        (daemon.state / "incoming").write_text("in the way")
        with pytest.raises(ControlError, match=r"incoming cannot be created: File exists$"):
            upload(daemon, b"a")

    def test_a_full_disk_is_reported(self, daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Path.open

        def full(path: Path, mode: str = "r", *words: Any, **more: Any) -> Any:
            if mode == "ab":
                raise OSError(28, "No space left on device")
            return real(path, mode, *words, **more)

        monkeypatch.setattr(Path, "open", full)
        with pytest.raises(
            ControlError, match=r"zip cannot be written: No space left on device; nothing was"
        ):
            upload(daemon, b"a")


@pytest.mark.usefixtures("nothing_shipped")
def test_requests_without_a_model_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with daemon_in(tmp_path, monkeypatch) as daemon:
        daemon.configure("")
        daemon.start()
        until(daemon.socket.exists)
        for command in ("objects", "undo", "wrong", "explain", "export"):
            with pytest.raises(ControlError, match=r"^the daemon cannot recognize: "):
                request(daemon.socket, command)
        assert request(daemon.socket, "events") != []


def event(number: int) -> Event:
    return Event("seen", f"mug {number}", time="2026-11-24T10:00:00.000+00:00", data={"n": number})


def test_events_are_followed_until_the_client_disconnects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_siamese.daemon.control_socket.HANGUP_CHECK_SECONDS", 0.01)
    path = tmp_path / "control.sock"
    bus = EventBus()
    bus.publish(event(0))
    bus.publish(event(1))
    with ControlServer(path, lambda _, client: api.follow_events(bus, client, replay=1)):
        lines = stream(path, "events")
        assert next(lines) == {
            "event": {"kind": "seen", "time": "2026-11-24T10:00:00.000+00:00", "text": "mug 1", "n": 1}
        }
        bus.publish(event(3))
        assert next(lines)["event"]["n"] == 3
        bus.publish(event(4))
        bus.close()
        assert list(lines) == [{"event": event(4).to_dict()}, {"result": None}]


def test_a_slow_client_receives_the_number_of_lost_events(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    bus = EventBus()
    with (
        ControlServer(path, lambda _, client: api.follow_events(bus, client, replay=0)),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as reader,
    ):
        reader.connect(str(path))
        reader.settimeout(30)
        reader.sendall(b'{"command":"events"}\n')
        until(lambda: bus._subscribers)
        for number in range(300):
            bus.publish(Event("seen", "x" * 8000, data={"n": number}))
            time.sleep(0)
        received = b""
        while b'"kind":"lost"' not in received:
            received += reader.recv(1 << 20)
        bus.close()
    assert b"events were lost: this client is slow" in received
