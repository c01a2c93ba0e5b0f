"""Fuzz targets with a running daemon, a broker or a fleet."""

from __future__ import annotations

import base64
import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.daemon.commands import COMMANDS
from edge_siamese.errors import EdgeSiameseError
from edge_siamese.fleet import messages
from edge_siamese.fleet.fake_broker import FakeBroker
from edge_siamese.fleet.state import Life, Name, ObjectState, Place, ViewState
from edge_siamese.pictures import encode_png
from edge_siamese.store.replication import ViewContent
from edge_siamese.validation import SchemaError
from tests.edge_siamese.daemon.running import MUG, PEN, Daemon, daemon_in, until
from tests.edge_siamese.dashboard.serving import TABLE, free_port
from tests.edge_siamese.fleet.members import COLLECTION, Member
from tests.edge_siamese.mqtt.scripted_broker import ACCEPTED_5, PUBLISH, ScriptedBroker
from tests.edge_siamese.store.samples import DIMENSIONS, MODEL
from tests.fuzz.mutation import mutate_bytes, mutate_tree, to_json
from tests.fuzz.running import Feed, Target, Unforeseen
from tests.tiny_bundle import write_tiny_bundle

REPLY_SECONDS = 30.0
"""Until a reply; what takes longer hangs."""
FOLLOW_SECONDS = 0.2
"""How long a client that follows events stays."""
MAX_OBJECTS = 8
"""The daemon forgets its objects when it has more: registrations would fill its memory."""


@contextmanager
def running_daemon(directory: Path, more: str = "") -> Iterator[Daemon]:
    """A daemon with two objects and a slow camera."""
    bundle = write_tiny_bundle(directory / "bundle")
    with pytest.MonkeyPatch.context() as patch, daemon_in(directory / "home", patch) as daemon:
        daemon.configure(bundle, frame_rate="frame_rate = 25.0", frames="frames = 1")
        text = daemon.config.read_text().replace("timeout_s = 1.0", "timeout_s = 0.1")
        daemon.config.write_text(text.replace("timeout_s = 0.2", "timeout_s = 5.0") + more)
        daemon.start().up()
        fill(daemon)
        yield daemon
        if daemon.error is not None or not daemon.thread.is_alive():
            raise Unforeseen(f"the daemon ended: {daemon.error}")


def fill(daemon: Daemon) -> None:
    """Register two objects."""
    daemon.learn("mug", MUG)
    daemon.learn("pen", PEN)


def tidy(daemon: Daemon) -> None:
    """See that the daemon recognizes frames, and forget its objects if there are many."""
    engine = daemon.service.engine
    if engine is None or not daemon.thread.is_alive():
        raise Unforeseen(f"the daemon recognizes nothing: {daemon.error or daemon.service.status_line()}")
    frames = engine.frames
    until(lambda: daemon.service.engine is not None and daemon.service.engine.frames != frames)
    objects = daemon.ask("objects")["objects"]
    if len(objects) > MAX_OBJECTS or len(objects) < 2:
        for item in objects:
            daemon.ask("forget", name=item["uid"])
        fill(daemon)


# --- control socket ---


@cache
def requests() -> tuple[dict[str, Any], ...]:
    """A valid request of each command, and a few more."""
    small = {"shape": [8, 8], "pixels": base64.b64encode(bytes(64)).decode()}
    arguments: dict[str, list[dict[str, Any]]] = {
        "events": [{"count": 5}, {"count": 1, "follow": True}],
        "views": [{"name": "mug"}], "remove-view": [{"name": "mug", "view": 1}], "upload": [{"chunk": "UEs="}],
        "import": [{"upload": "0" * 32, "on_conflict": "skip"}], "rename": [{"name": "mug", "new": "cup"}],
        "register": [{"name": "mug", "view": True}, {"name": "key", "force": True, "pictures": [small, small]}, {}]
        + [{"region": "shelf"}],
        "forget": [{"name": "pen"}], "merge": [{"name": "mug", "into": "pen"}], "undo": [{"registrations": True}],
        "wrong": [{"name": "mug"}, {"decision": "0" * 12}], "score": [{"pictures": [small]}],
        "explain": [{}, {"picture": small}, {"region": "shelf"}],
        "set-regions": [
            {"regions": [{"name": "shelf", "box": [0.0, 0.0, 0.5, 1.0]}]},
            {"regions": [{"name": "a", "box": [0, 0, 1, 1], "focus": "foreground", "threshold": 0.9, "window_frames": 9}]},
            {"regions": []},
        ], "button": [{"gesture": "double press"}],
    }  # fmt: skip
    return tuple(
        {"command": item.name, **more} for item in COMMANDS for more in arguments.get(item.name, [{}])
    )


def make_request(chance: random.Random) -> bytes:
    request = chance.choice(requests())
    if chance.random() < 0.3:
        return mutate_bytes(to_json(request) + b"\n", chance, [to_json(other) for other in requests()])
    return to_json(mutate_tree(request, chance)) + b"\n"


@contextmanager
def open_control(directory: Path) -> Iterator[Feed]:
    with running_daemon(directory) as daemon:
        fed = 0

        def feed(data: bytes) -> None:
            nonlocal fed
            fed += 1
            for line in converse(daemon.socket, data):
                reply = json.loads(line)
                if str(reply.get("error", "")).startswith("unexpected"):
                    raise Unforeseen(f"the reply is {reply}")
            if fed % 50 == 0:
                tidy(daemon)

        yield feed


def converse(path: Path, data: bytes) -> list[bytes]:
    """Send bytes, and return the lines of the replies."""
    received = b""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(FOLLOW_SECONDS if b"follow" in data else REPLY_SECONDS)
        connection.connect(str(path))
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65536):
                received += part
        except TimeoutError:
            if b"follow" not in data:
                raise Unforeseen(f"no reply within {REPLY_SECONDS:g} s") from None
            received = received[: received.rfind(b"\n") + 1]
        except ConnectionError:
            received = received[: received.rfind(b"\n") + 1]
    return received.splitlines()


# --- dashboard ---

_PATHS: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/objects", {"name": "key", "force": True, "pictures": ["0" * 32]}),
    ("POST", "/objects", {"name": "mug", "view": True}),
    ("PATCH", "/objects/mug", {"new": "cup"}),
    ("DELETE", "/objects/pen", None),
    ("GET", "/objects/mug/views", None),
    ("DELETE", "/objects/mug/views/1", None),
    ("GET", "/objects/mug/picture", None),
    ("GET", "/views/1/pictures/0", None),
    ("POST", "/objects/mug/merge", {"into": "pen"}),
    ("POST", "/undo", {"registrations": True}),
    ("POST", "/wrong", {"name": "mug", "decision": "0" * 12}),
    ("POST", "/score", {"pictures": ["0" * 32]}),
    ("POST", "/button", {"gesture": "press"}),
    ("POST", "/collection?on_conflict=skip", None),
    ("POST", "/uploads", None),
    ("GET", "/events?count=5", None),
    ("GET", "/status", None),
)
LOGIN: tuple[tuple[str, str, Any], ...] = (
    ("POST", "/login", {"password": "correct horse"}),
    ("GET", "/session", None),
    ("POST", "/logout", None),
)


def make_http(paths: tuple[tuple[str, str, Any], ...], chance: random.Random) -> bytes:
    """One line of JSON with method, path and headers, then the body."""
    method, path, value = chance.choice(paths)
    headers = {"Content-Type": "application/json"}
    if value is None:
        body = chance.choice((b"", b"{}", chance.randbytes(50), b"PK\3\4" + chance.randbytes(200)))
    elif chance.random() < 0.3:
        body = mutate_bytes(to_json(value), chance)
    else:
        body = to_json(mutate_tree(value, chance))
    if chance.random() < 0.15:
        odd = mutate_bytes(path.encode(), chance)[:2000]
        path = "/" + "".join(chr(byte) if 33 <= byte < 127 else f"%{byte:02x}" for byte in odd).lstrip("/")
    if chance.random() < 0.2:
        name = chance.choice(
            ("Content-Type", "Cookie", "Authorization", "X-CSRF-Token", "Origin", "If-None-Match", "Range")
        )
        headers[name] = "".join(chr(chance.randrange(32, 256)) for _ in range(chance.choice((0, 5, 200))))
    return json.dumps([method, f"/api/v1{path}", headers]).encode() + b"\n" + body


class PromptConnection(HTTPConnection):
    """Does not wait for acknowledgments before it sends the body."""

    def connect(self) -> None:
        super().connect()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


@contextmanager
def open_dashboard(directory: Path, *, login: bool = False) -> Iterator[Feed]:
    from edge_siamese.dashboard.credentials import CredentialsFile
    from edge_siamese.dashboard.state import DoctorRun

    port = free_port()
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(DoctorRun, "_run", lambda _: {"ok": True, "findings": []})
        daemon = stack.enter_context(
            running_daemon(directory, TABLE.format(port=port, more="frame_rate = 25.0"))
        )
        until(lambda: daemon.events("dashboard"))
        credentials = CredentialsFile(daemon.state)
        credentials.set_password("correct horse")
        token = credentials.add_token("fuzz")
        authorized = {} if login else {"Authorization": f"Bearer {token}"}
        connection = PromptConnection("127.0.0.1", port, timeout=REPLY_SECONDS)
        fed = 0

        def feed(data: bytes) -> None:
            nonlocal fed
            fed += 1
            first, _, body = data.partition(b"\n")
            method, path, headers = json.loads(first)
            try:
                connection.request(method, path, body, authorized | headers)
                response = connection.getresponse()
                answer = response.read()
            except (HTTPException, ConnectionError):  # it may close the connection
                connection.close()
                return
            if response.status == 500 or (
                response.status >= 400 and not isinstance(json.loads(answer)["error"], str)
            ):
                raise Unforeseen(f"the response is {response.status}: {answer[:200]!r}")
            if fed % 50 == 0:
                tidy(daemon)

        yield feed
        connection.close()


# --- MQTT ---

DEVICE = "edge-siamese/hall"
_TOPICS: dict[str, tuple[tuple[str, Any], ...]] = {
    "commands": tuple(
        (f"{DEVICE}/command/{name}", value)
        for name, value in (
            ("register", {"name": "key", "force": True, "id": "7"}), ("register", {}), ("forget", {"name": "pen"}),
            ("rename", {"name": "mug", "new": "cup"}), ("undo", {"registrations": False}), ("wrong", {"decision": "abc"}),
            ("snapshot", {}), ("nothing", {"a": [1]}),
        )
    ),
    "states": (
        ("homeassistant/device/edge-siamese-hall/config", {"device": {}, "components": {"a": {"platform": "event"}}}),
        (f"{DEVICE}/state", {"line": "fine", "objects": 2, "present": ["mug"]}),
        (f"{DEVICE}/availability", "offline"),
        (f"{DEVICE}/objects/{'a' * 32}", {"name": "mug", "present": True}),
        ("homeassistant/status", "online"),
    ),
}  # fmt: skip


def make_mqtt(kind: str, chance: random.Random) -> bytes:
    """One line of JSON with the topic and whether it is retained, then the payload."""
    topic, value = chance.choice(_TOPICS[kind])
    if isinstance(value, str):
        payload = value.encode() if chance.random() < 0.5 else mutate_bytes(value.encode(), chance)
    elif chance.random() < 0.3:
        payload = mutate_bytes(to_json(value), chance)
    else:
        payload = to_json(mutate_tree(value, chance))
    if chance.random() < 0.15:
        level = mutate_bytes(topic.rpartition("/")[2].encode(), chance)[:200].decode("utf-8", "replace")
        topic = f"{topic.rpartition('/')[0]}/{level.translate(dict.fromkeys(map(ord, '+#/' + chr(0)), '_'))}"
    return (
        json.dumps([topic, chance.random() < (0.1 if kind == "commands" else 0.7)]).encode() + b"\n" + payload
    )


@contextmanager
def open_mqtt(directory: Path) -> Iterator[Feed]:
    with ScriptedBroker(ACCEPTED_5) as broker:
        table = f'\n[mqtt]\nbroker = "127.0.0.1"\nport = {broker.port}\ndevice_id = "hall"\n'
        with running_daemon(directory, table) as daemon:
            until(lambda: any(pattern.endswith("/command/+") for pattern in broker.subscribed))
            fed = 0

            def feed(data: bytes) -> None:
                nonlocal fed
                fed += 1
                first, _, payload = data.partition(b"\n")
                topic, retain = json.loads(first)
                broker.published.clear()
                marker = f"marker-{fed}"
                send(
                    broker, packet(topic, payload, retain) + packet(f"{DEVICE}/command/{marker}", b"", False)
                )
                until(partial(answered, broker, marker), REPLY_SECONDS)
                if fed % 50 == 0:
                    tidy(daemon)

            yield feed


def packet(topic: str, payload: bytes, retain: bool) -> bytes:
    """A PUBLISH packet of MQTT 5 with QoS 0."""
    name = topic.encode()
    body = len(name).to_bytes(2, "big") + name + b"\0" + payload
    length, size = bytearray(), len(body)
    while size or not length:
        size, low = divmod(size, 128)
        length.append(low | (0x80 if size else 0))
    return bytes([PUBLISH | retain]) + length + body


def send(broker: ScriptedBroker, data: bytes) -> None:
    if not broker._connections:
        raise Unforeseen("the daemon has disconnected from the broker")
    broker._connections[-1].setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    broker._connections[-1].sendall(data)


def answered(broker: ScriptedBroker, marker: str) -> bool:
    """Whether the daemon has replied to a command that does not exist."""
    return any(
        topic == f"{DEVICE}/reply" and marker.encode() in payload
        for topic, payload, _ in list(broker.published)
    )


# --- fleet ---

_UIDS = tuple(f"{number:032x}" for number in (1, 2, 0xAB << 120))
_STAMP = f"{1_790_000_000_000:013x}-0000-other"


@cache
def fleet_samples() -> dict[str, bytes]:
    """A valid payload of each kind of message."""
    content = ViewContent(
        "tiny-1", np.eye(8, dtype="<f4")[0].tobytes(), (encode_png(np.zeros((4, 5, 3), np.uint8)),)
    )
    return {
        "objects": messages.encode_state(
            ObjectState("2026-01-01T00:00:00Z", Name(_STAMP, "mug"), Life(_STAMP, "alive"))
        ),
        "views": messages.encode_state(
            ViewState("view", "2026-01-01T00:00:00Z", "camera", Place(_STAMP, _UIDS[0], True))
        ),
        "content": messages.encode_content(content),
        "requests": messages.encode_request(1),
        "markers": b"0123456789abcdef",
    }


def make_fleet(kind: str, chance: random.Random) -> bytes:
    """One line with the topic below that of the collection, then the payload."""
    samples = fleet_samples()
    uid = chance.choice(_UIDS)
    topic = f"{kind}/{uid[0]}/{uid}" if kind in ("objects", "views") else f"{kind}/{uid}"
    if kind == "markers" or chance.random() < 0.3:
        payload = mutate_bytes(samples[kind], chance, tuple(samples.values()))
    else:
        payload = to_json(mutate_tree(json.loads(samples[kind]), chance))
    if chance.random() < 0.1:
        topic = f"{kind}/" + mutate_bytes(topic.encode(), chance)[:200].decode("utf-8", "replace")
    return topic.encode() + b"\n" + payload


def valid_fleet_message(chance: random.Random) -> tuple[str, bytes]:
    """Topic and payload of a message that another device could send."""

    def uid() -> str:
        return f"{chance.randrange(16) * 16**31 + chance.randrange(8):032x}"

    def stamp() -> str:
        milliseconds = 1_790_000_000_000 + chance.randrange(1000)
        return f"{milliseconds:013x}-{chance.randrange(2):04x}-{chance.choice(('other', 'device-0', 'z'))}"

    created = chance.choice(("2026-01-01T00:00:00Z", "1970-01-01T00:00+00:00", "2099-12-31T23:59:59.999Z"))
    match chance.choice(("objects", "views", "views", "content", "content", "requests")):
        case "objects":
            name = chance.choice(("mug", "Mug", "pen", "pen 2", "Stra\u00dfe", "\u2615"))
            life = chance.choice(("alive", "alive", "forgotten"))
            state: ObjectState | ViewState = ObjectState(created, Name(stamp(), name), Life(stamp(), life))
            return f"objects/{(about := uid())[0]}/{about}", messages.encode_state(state)
        case "views":
            place = Place(stamp(), uid(), chance.random() < 0.8)
            state = ViewState(chance.choice(("view", "view", "negative")), created, "camera", place)
            return f"views/{(about := uid())[0]}/{about}", messages.encode_state(state)
        case "content":
            dimensions = chance.choice((DIMENSIONS, DIMENSIONS, 1, DIMENSIONS + 1))
            vector = np.eye(dimensions, dtype="<f4")[chance.randrange(dimensions)] * chance.choice(
                (1, 1, 1, 30)
            )
            picture = encode_png(np.full((4, 5, 3), chance.randrange(256), np.uint8))
            content = ViewContent(
                chance.choice((MODEL, MODEL, "another-1")),
                vector.tobytes() if chance.random() < 0.8 else None,
                (picture,) * chance.choice((1, 1, 2, 0)),
            )
            return f"content/{uid()}", messages.encode_content(content)
    return f"requests/{uid()}", messages.encode_request(chance.choice((1, 2, 2**40, -1)))


def make_fleet_mixture(chance: random.Random) -> bytes:
    """As `make_fleet`, of all kinds, and most of them valid."""
    topic, payload = valid_fleet_message(chance)
    if chance.random() < 0.1:
        payload = to_json(mutate_tree(json.loads(payload), chance))
    elif chance.random() < 0.05:
        payload = b""  # removes what the broker retains
    return topic.encode() + b"\n" + payload


@contextmanager
def open_fleet(directory: Path) -> Iterator[Feed]:
    decoders: dict[str, Any] = {
        "objects": messages.decode_object, "views": messages.decode_view, "content": messages.decode_content,
        "requests": messages.decode_request,
    }  # fmt: skip
    broker, fed = FakeBroker(), 0
    sender = broker.transport()
    home = directory / "0"
    home.mkdir()
    member = Member(home, "device-0", broker).start()

    def feed(data: bytes) -> None:
        nonlocal fed
        fed += 1
        topic, _, payload = data.partition(b"\n")
        kind = topic.decode().partition("/")[0]
        retain = kind not in ("requests", "markers")
        sender.publish(f"edge-siamese/fleet/{COLLECTION}/{topic.decode()}", payload, retain=retain)
        if fed % 100 == 0:
            settle(member, broker)
        decoders.get(kind, bytes)(payload)

    try:
        until(member.idle)
        member.learn("mug", 1)
        yield feed
    finally:
        member.stop()


def settle(member: Member, broker: FakeBroker) -> None:
    """Wait until a device has handled all messages; then empty the broker."""
    until(lambda: not member.fleet._inbox._items, REPLY_SECONDS)
    if not member.fleet._thread.is_alive():
        raise Unforeseen("the fleet's thread has ended")
    read = member.with_engine(lambda engine: [engine.store.entries(), engine.store.unembedded()])
    assert all(np.isfinite(entry.embeddings).all() for entry in read[0])
    broker.published.clear()
    with broker.lock:
        broker.retained.clear()
    member.bus.latest(1)


_REFUSED = (EdgeSiameseError, SchemaError)
TARGETS = (
    Target("control", 20_000, 150, make_request, open_control),
    Target("dashboard", 20_000, 150, partial(make_http, _PATHS), open_dashboard),
    Target("login", 20_000, 100, partial(make_http, LOGIN), partial(open_dashboard, login=True)),
    Target("mqtt-commands", 20_000, 100, partial(make_mqtt, "commands"), open_mqtt),
    Target("mqtt-states", 20_000, 100, partial(make_mqtt, "states"), open_mqtt),
    *(
        Target(f"fleet-{kind}", 20_000, 300, partial(make_fleet, kind), open_fleet, _REFUSED)
        for kind in ("objects", "views", "content", "requests", "markers")
    ),
    Target("fleet-mixture", 20_000, 500, make_fleet_mixture, open_fleet, _REFUSED),
)
