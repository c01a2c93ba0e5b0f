"""The page's requests to a running daemon: register, rename, view, forget, import and export."""

from __future__ import annotations

import json
import re
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.dashboard.state import DoctorRun
from edge_siamese.events import Event
from edge_siamese.models.bundle import Bundle
from edge_siamese.pictures import decode_png, encode_jpeg, encode_png
from edge_siamese.system.board import Memory
from tests.edge_siamese.daemon.running import CUP, KEY, MUG, PEN, TABLE, Daemon, until
from tests.edge_siamese.dashboard.serving import Client, dashboard_of, serving

pytest.importorskip("uvicorn")

Served = tuple[Daemon, Client]
MARKUP = '<img src=x onerror="alert(1)">&\u202f\U0001f4f7'


@pytest.fixture
def served(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    with serving(tmp_path, bundle.path, monkeypatch, "frame_rate = 60.0\nmax_upload_bytes = 200000") as (
        daemon,
        client,
    ):
        yield daemon, client.come_in()


def learn(served: Served, name: str, picture: np.ndarray) -> str:
    daemon, client = served
    daemon.stage.picture = picture
    got = client.ask("POST", "objects", {"name": name})
    assert got.status == 200, got.data
    return str(got.json()["object"]["uid"])


def send(client: Client, data: bytes, kind: str = "image/jpeg") -> str:
    got = client.ask("POST", "uploads", data=data, headers={"Content-Type": kind})
    assert got.status == 201, got.data
    return str(got.json()["upload"])


# --- what is seen ---


def test_the_live_picture_says_what_it_shows(served: Served) -> None:
    daemon, client = served
    uid = learn(served, "mug", MUG)
    daemon.show(MUG, "mug")
    got = client.get("live")
    assert got.headers["Content-Type"] == "image/jpeg" and got.data[:2] == b"\xff\xd8"
    found = json.loads(got.headers["X-Decisions"])
    (told,) = found["regions"]
    assert (told["name"], told["uid"], told["rule"], told["region"]) == ("mug", uid, "recognized", "")
    assert told["probability"] >= told["threshold"] and not found["registering"]
    assert found["present"] == [{"uid": uid, "name": "mug", "region": ""}]
    assert got.headers["X-Parts"] == "0.0000 0.0000 1.0000 1.0000"
    number = int(got.headers["X-Frame"])
    following = client.get(f"live?after={number}")
    assert int(following.headers["X-Frame"]) > number
    now = client.get("decisions/current").json()
    assert now["available"] and now["name"] == "mug" and now["explanation"][0].startswith("This is mug: p = ")
    assert now["present"][0]["uid"] == uid and now["present"][0]["since"].endswith("+00:00")


def test_names_reach_a_header_as_ascii(served: Served) -> None:
    daemon, client = served
    learn(served, MARKUP, MUG)
    daemon.show(MUG, MARKUP)
    assert json.loads(client.get("live").headers["X-Decisions"])["regions"][0]["name"] == MARKUP


def test_without_a_new_frame_there_is_nothing_new(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_siamese.dashboard.live_picture.MAX_WAIT_SECONDS", 0.2)
    daemon, client = served
    daemon.stage.hangs = True
    until(lambda: daemon.service.engine is not None and daemon.service.engine.current_view is None)
    got = client.get("live")
    assert (got.status, got.data) == (204, b"")
    assert client.get("decisions/current").json() == {
        "available": False, "registering": False, "region": "", "text": "", "explanation": [], "present": [],
        "frame": None,
    }  # fmt: skip


def test_each_region_has_a_decision_of_its_own(served: Served) -> None:
    daemon, client = served
    daemon.stage.picture = np.hstack([MUG, TABLE])
    shelf, door = {"name": "shelf", "box": [0, 0, 0.5, 1]}, {"name": "the door", "box": [0.5, 0, 0.5, 1]}
    got = client.ask("PUT", "regions", {"regions": [shelf, door]})
    assert (got.status, got.json()["registers"]) == (200, "shelf")
    assert client.get("regions").json() == got.json()
    learn(served, "mug", daemon.stage.picture)

    def seen() -> Any:
        found = json.loads(client.get("live").headers["X-Decisions"])
        return found if found["present"] else None

    found = until(seen)
    assert [(one["region"], one["name"]) for one in found["regions"]] == [
        ("shelf", "mug"),
        ("the door", None),
    ]
    assert [one["region"] for one in found["present"]] == ["shelf"]
    parts = client.get("live").headers["X-Parts"].split(",")
    assert parts == ["0.0000 0.0000 0.5000 1.0000", "0.5000 0.0000 0.5000 1.0000"]
    now = client.get("decisions/current?region=the%20door").json()
    assert (now["region"], now["rule"], now["present"]) == ("the door", "nothing to see", [])
    assert client.get("decisions/current").json()["name"] == "mug"
    assert client.get("decisions/current?region=attic").status == 404
    refused = client.ask("PUT", "regions", {"regions": [shelf, shelf]})
    assert (refused.status, refused.json()["error"]) == (
        409, 'regions[1].name: "shelf" is already the name of region 1',
    )  # fmt: skip
    assert client.ask("PUT", "regions", {"regions": [{**shelf, "box": [0, 0, 2, 1]}]}).status == 422


def test_pictures_are_made_once_for_all_and_not_too_often(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, client = served
    state = dashboard_of(daemon)._state
    assert state is not None
    made: list[int] = []
    picture = state.live.encode
    monkeypatch.setattr(state.live, "encode", lambda shown: made.append(shown.frame.number) or picture(shown))
    engine = daemon.service.engine
    assert engine is not None
    before = engine.frames
    until(lambda: engine.frames > before + 20, 60)
    assert made == []  # nobody watches
    number, began = -1, time.monotonic()
    for _ in range(10):
        number = int(client.get(f"live?after={number}").headers["X-Frame"])
    assert len(made) <= 11
    assert time.monotonic() - began >= 8 / 60


def test_the_button(served: Served) -> None:
    daemon, client = served
    daemon.stage.picture = MUG
    assert client.ask("POST", "button", {"gesture": "press"}).status == 200
    assert daemon.told("registered") == '"object 1" is registered'
    assert client.ask("POST", "button", {"gesture": "hold"}).status == 200
    assert daemon.told("undone")
    assert client.ask("POST", "button", {"gesture": "kick"}).problem == (422, "Invalid")


# --- objects ---


def test_register_rename_forget_and_undo(served: Served) -> None:
    daemon, client = served
    uid = learn(served, "mug", MUG)
    (known,) = client.get("objects").json()["objects"]
    assert (known["uid"], known["name"], known["views"], known["embedded"]) == (uid, "mug", 1, 1)
    daemon.show(MUG, "mug")
    (known,) = client.get("objects").json()["objects"]
    assert known["present"] and known["last_seen"]
    assert client.ask("PATCH", f"objects/{uid}", {"new": "cup"}).json()["object"]["name"] == "cup"
    assert client.get(f"objects/{uid}").json()["name"] == "cup"
    assert client.ask("DELETE", f"objects/{uid}").json()["object"]["name"] == "cup"
    assert client.get(f"objects/{uid}").problem == (404, "NoSuchObject")
    assert client.ask("DELETE", f"objects/{uid}").problem == (404, "NoSuchObject")
    assert client.ask("POST", "undo", {}).json()["text"]
    assert client.get(f"objects/{uid}").json()["name"] == "cup"


def test_names_are_text_whatever_is_in_them(served: Served) -> None:
    _, client = served
    uid = learn(served, MARKUP, MUG)
    got = client.get(f"objects/{uid}")
    assert got.headers["Content-Type"] == "application/json"
    assert got.json()["name"] == MARKUP
    assert MARKUP in [event.get("name") for event in client.get("events").json()["events"]]
    for name in ("a\nb", "\u202ertl", " ", "\u200d"):
        assert client.ask("PATCH", f"objects/{uid}", {"new": name}).problem == (409, "SupportError")
    half = b'{"new": "\\ud83d"}'
    json_type = {"Content-Type": "application/json"}
    assert client.ask("PATCH", f"objects/{uid}", data=half, headers=json_type).problem == (400, "BadRequest")


def test_refusals_say_why(served: Served) -> None:
    daemon, client = served
    learn(served, "mug", MUG)
    got = client.ask("POST", "objects", {"name": "cup"})
    assert got.problem == (409, "Refused")
    assert (got.json()["reason"], got.json()["collides"]) == ("already known", "mug")
    assert client.ask("POST", "objects", {"name": "MUG"}).problem == (409, "SupportError")
    assert client.ask("POST", "objects", {"name": "cup", "force": True}).status == 200
    daemon.stage.picture = TABLE
    got = client.ask("POST", "objects", {"name": "table"})
    assert got.problem == (409, "Refused") and got.json()["collides"] is None


def test_views(served: Served) -> None:
    daemon, client = served
    uid = learn(served, "mug", MUG)
    daemon.stage.picture = PEN
    got = client.ask("POST", "objects", {"name": uid, "view": True})
    assert (got.status, got.json()["object"]["views"]) == (200, 2)
    views = client.get(f"objects/{uid}/views").json()["views"]
    assert [(view["kind"], view["source"], view["crops"]) for view in views] == [("view", "dashboard", 1)] * 2
    png = client.get(f"views/{views[0]['id']}/pictures/0")
    assert png.headers["Content-Type"] == "image/png" and decode_png(png.data).ndim in (2, 3)
    assert client.get(f"objects/{uid}/picture").data == client.get(f"views/{views[1]['id']}/pictures/0").data
    cached = client.get(f"objects/{uid}/picture?v={views[1]['id']}")  # as the page asks for it
    assert cached.data == client.get(f"objects/{uid}/picture").data
    assert cached.headers["Cache-Control"] == "private, max-age=3600"
    assert client.get(f"views/{views[0]['id']}/pictures/1").problem == (404, "NoPicture")
    assert client.ask("DELETE", f"objects/{uid}/views/999").problem == (404, "NoSuchObject")
    assert client.ask("DELETE", f"objects/{uid}/views/{views[0]['id']}").json()["object"]["views"] == 1
    assert client.ask("POST", "objects", {"name": "0" * 32, "view": True}).problem == (404, "NoSuchObject")
    assert client.ask("POST", "objects", {"view": True}).problem == (422, "Invalid")


def test_merge(served: Served) -> None:
    _, client = served
    mug, pen = learn(served, "mug", MUG), learn(served, "pen", PEN)
    assert client.ask("POST", f"objects/{mug}/merge", {"into": "0" * 32}).problem == (404, "NoSuchObject")
    assert client.ask("POST", f"objects/{'0' * 32}/merge", {"into": pen}).problem == (404, "NoSuchObject")
    got = client.ask("POST", f"objects/{mug}/merge", {"into": pen}).json()["object"]
    assert (got["name"], got["views"]) == ("pen", 2)
    assert [known["uid"] for known in client.get("objects").json()["objects"]] == [pen]


def test_what_was_wrong(served: Served) -> None:
    daemon, client = served
    assert client.ask("POST", "wrong", {}).problem == (409, "ControlError")
    uid = learn(served, "mug", MUG)
    daemon.show(MUG, "mug")
    (event,) = [event for event in client.get("events").json()["events"] if event["kind"] == "appeared"]
    kept = client.get(f"decisions/{event['decision']}").json()
    assert (kept["uid"], kept["name"], kept["rule"]) == (uid, "mug", "recognized")
    assert kept["explanation"] and kept["time"].endswith("+00:00")
    assert decode_png(client.get(f"decisions/{event['decision']}/picture").data).dtype == np.uint8
    assert client.ask("POST", "wrong", {"decision": event["decision"]}).json()["object"]["negatives"] == 1
    assert client.get("decisions/000000000000").problem == (404, "NoDecision")
    assert client.ask("POST", "wrong", {"decision": "000000000000"}).problem == (409, "ControlError")


def test_the_latest_registration(served: Served) -> None:
    client = served[1]
    assert client.get("registration").problem == (404, "NoRegistration")
    with client.stream() as events:
        events.next("status")
        uid = learn(served, "mug", MUG)
        while not (told := events.next("registration"))["done"]:
            assert "picture" not in json.dumps(told["frames"])
    latest = client.get("registration").json()
    assert (latest["id"], latest["saved"], latest["uid"], latest["needed"]) == (told["id"], True, uid, 2)
    assert [frame["good"] for frame in latest["frames"]].count(True) == 2
    picture = client.get(latest["frames"][0]["picture"])
    assert picture.status == 200 and max(decode_png(picture.data).shape[:2]) <= 96
    assert client.get(f"registration/{latest['id']}/frames/99999999").problem == (404, "NoRegistration")


# --- pictures from elsewhere ---


def test_register_from_pictures_and_score_one(served: Served) -> None:
    _, client = served
    got = client.ask("POST", "objects", {"name": "key", "pictures": [send(client, encode_jpeg(KEY))]})
    assert got.status == 200 and got.json()["object"]["views"] == 1
    scored = client.ask("POST", "score", {"pictures": [send(client, encode_png(KEY), "image/png")]})
    (scored,) = scored.json()["decisions"]
    assert (scored["name"], scored["rule"]) == ("key", "recognized") and scored["explanation"]
    (other,) = client.ask("POST", "score", {"pictures": [send(client, encode_jpeg(CUP))]}).json()["decisions"]
    assert other["name"] is None
    assert client.ask("POST", "score", {"pictures": ["0" * 32]}).problem == (404, "NoUpload")
    assert client.ask("POST", "objects", {"pictures": ["0" * 32]}).problem == (404, "NoUpload")


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it has so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1_000_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (bomb(60000, 60000), "Image size|pixels"),
        (bomb(5000, 5000), "has 5000 x 5000 pixels; at most 16 million are read"),
        (bomb(100, 100)[:60], "cannot be read as a picture"),
        (encode_jpeg(MUG)[:400], "cannot be read as a picture: .*[Tt]runcated"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a JPEG, PNG, WEBP or GIF"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a JPEG, PNG, WEBP or GIF"),
        (b"BM" + bytes(200), "is not a JPEG, PNG, WEBP or GIF"),
        (bytes(1000), "is not a JPEG, PNG, WEBP or GIF"),
    ],
    ids=["huge", "large", "cut png", "cut jpeg", "svg", "postscript", "bmp", "nothing"],
)
def test_pictures_that_are_none_or_too_large(served: Served, data: bytes, text: str) -> None:
    _, client = served
    got = client.ask("POST", "uploads", data=data, headers={"Content-Type": "image/png"})
    assert got.problem == (422, "PictureError")
    assert re.search(text, got.json()["error"]), got.json()


def test_uploads_are_bounded_in_bytes_number_and_type(served: Served) -> None:
    _, client = served
    kind = {"Content-Type": "image/jpeg"}
    assert client.ask("POST", "uploads", data=bytes(200_001), headers=kind).problem == (413, "TooLarge")
    assert client.ask("POST", "uploads", data=b"", headers=kind).problem == (422, "Invalid")
    svg = {"Content-Type": "image/svg+xml"}
    assert client.ask("POST", "uploads", data=b"<svg/>", headers=svg).problem == (415, "UnsupportedType")
    first, *others = [send(client, encode_jpeg(MUG)) for _ in range(13)]
    assert client.ask("POST", "score", {"pictures": [first]}).problem == (404, "NoUpload")
    for upload in others:
        assert client.ask("POST", "score", {"pictures": [upload]}).status == 200


# --- events ---


def test_the_stream_goes_on_where_it_was_left(served: Served) -> None:
    daemon, client = served
    with client.stream() as events:
        learn(served, "mug", MUG)
        first = events.next("event")
        assert first["kind"] == "registered" and str(first["seq"]) == first["id"]
    daemon.show(MUG, "mug")
    learn(served, "pen", PEN)
    with client.stream(**{"Last-Event-ID": first["id"]}) as events:
        kinds = [events.next("event")["kind"] for _ in range(3)]
    assert kinds[0] == "appeared" and "registered" in kinds
    with client.stream(f"stream?after={first['seq']}") as events:
        assert events.next("event")["seq"] == first["seq"] + 1
    for other in ("17", "9" * 16):  # of another daemon's life
        with client.stream(**{"Last-Event-ID": other}) as events:
            assert events.next("event")["seq"] == client.get("events?count=500").json()["events"][0]["seq"]


def test_who_comes_too_late_is_told_how_much_is_lost(served: Served) -> None:
    daemon, client = served
    state = dashboard_of(daemon)._state
    assert state is not None
    first = client.get("events").json()["events"][0]["seq"]
    before = state.streams.feed.newest
    for _ in range(600):
        daemon.service.bus.publish(Event("store", "again"))
    assert len(client.get("events?count=500").json()["events"]) == 500
    with client.stream(f"stream?after={first}") as events:
        lost = events.next("lost")["count"]
        assert events.next("event")["seq"] == first + 1 + lost
    assert lost >= before - first + 100


# --- collections ---


def test_a_collection_goes_out_and_comes_in(served: Served) -> None:
    daemon, client = served
    learn(served, "mug", MUG)
    got = client.get("collection")
    assert got.headers["Content-Type"] == "application/zip" and got.data[:2] == b"PK"
    assert got.headers["Content-Disposition"].startswith('attachment; filename="edge-siamese-')
    client.ask("DELETE", f"objects/{client.get('objects').json()['objects'][0]['uid']}")
    kind = {"Content-Type": "application/zip"}
    brought = client.ask("POST", "collection?on_conflict=merge", data=got.data, headers=kind)
    assert brought.status == 200 and brought.json()["objects"] == 1
    assert [known["name"] for known in client.get("objects").json()["objects"]] == ["mug"]
    for data in (b"PK\x03\x04nothing", got.data[:-50], b""):
        refused = client.ask("POST", "collection", data=data, headers=kind)
        assert refused.problem == (422, "StoreError"), refused.data
        assert str(daemon.state) not in refused.json()["error"]
    assert client.ask("POST", "collection?on_conflict=guess", data=got.data, headers=kind).problem == (
        422,
        "Invalid",
    )
    for place in ("incoming", "outgoing"):
        until(lambda place=place: list((daemon.state / place).iterdir()) == [])


def test_a_collection_that_is_too_large_or_breaks_off(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, client = served
    monkeypatch.setattr("edge_siamese.dashboard.routes.archive.MAX_UPLOAD_BYTES", 3_000_000)
    kind = {"Content-Type": "application/zip"}
    assert client.ask("POST", "collection", data=bytes(4_000_000), headers=kind).problem == (413, "TooLarge")
    connection = client.connect()
    connection.putrequest("POST", "/api/v1/collection")
    for name, value in {**client.headers, **kind, "Content-Length": "3000000"}.items():
        connection.putheader(name, value)
    connection.endheaders(bytes(100))
    until(lambda: list((daemon.state / "incoming").iterdir()))
    connection.close()
    until(lambda: list((daemon.state / "incoming").iterdir()) == [])


def test_a_collection_does_not_fill_the_disk(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon, client = served
    monkeypatch.setattr("edge_siamese.dashboard.routes.archive.DISK_RESERVE_BYTES", 2**62)
    got = client.ask("POST", "collection", data=b"PK", headers={"Content-Type": "application/zip"})
    assert got.status == 503 and got.json()["error"].startswith("the disk is nearly full")
    assert list((daemon.state / "incoming").iterdir()) == []


# --- health ---


def test_health(served: Served) -> None:
    daemon, client = served
    daemon.stage.picture = MUG
    until(lambda: client.get("health").json()["stages"]["encode"]["p95_ms"])
    found = client.get("health").json()
    assert set(found["stages"]) == {"wait", "imaging", "encode", "decide", "frame"}
    assert 0 < found["stages"]["frame"]["p50_ms"] <= found["stages"]["frame"]["p95_ms"]
    assert found["frames_per_second"] > 0 and found["memory_mb"] > 20 and found["uptime_s"] >= 0
    assert found["model"]["model_id"] == "tiny-0123456789ab"
    assert found["integrations"]["dashboard"]["works"] is True
    assert found["selftest"]["passed"] is True and found["selftest"]["precision"] == "int8"


def test_memory_is_in_a_million_bytes(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    _, client = served
    monkeypatch.setattr(
        "edge_siamese.system.board.memory", lambda: Memory(resident_mib=100.0, peak_mib=120.0)
    )
    assert client.get("health").json()["memory_mb"] == 104.9


def test_the_doctor_looks_once_for_all_who_ask(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    _, client = served
    looked: list[int] = []

    def look(_: DoctorRun) -> dict[str, object]:
        looked.append(1)
        finding = {"check": "camera", "level": "ok", "text": "it works", "remedy": ""}
        return {"ok": True, "findings": [finding]}

    monkeypatch.setattr(DoctorRun, "_run", look)
    assert client.get("doctor").json()["findings"][0]["text"] == "it works"
    assert client.get("doctor").json()["ok"] is True
    assert looked == [1]


def test_the_doctor_is_a_process_of_its_own(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[paths]\nstate = "{tmp_path}"\nruntime = "{tmp_path}"\n')
    found = DoctorRun(config).findings()
    assert {"check", "level", "text", "remedy"} == set(found["findings"][0])
