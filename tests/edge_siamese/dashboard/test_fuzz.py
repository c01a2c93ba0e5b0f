"""Sends a running dashboard requests that its description allows or forbids, and bytes that are not HTTP.

The same questions each time. No answer may be a failure of the server, and each is one that the description has.
"""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.dashboard.app import openapi_json
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.dashboard.state import DoctorRun
from edge_siamese.models.bundle import Bundle
from edge_siamese.pictures import encode_jpeg
from tests.edge_siamese.daemon.running import MUG, PEN, until
from tests.edge_siamese.dashboard.serving import Client, dashboard_of, serving

schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")
pytest.importorskip("uvicorn")

hypothesis.configuration.set_hypothesis_home_dir(Path(__file__).parents[3] / ".cache" / "hypothesis")
EXAMPLES = 15
JPEG = encode_jpeg(PEN)


def schema() -> Any:
    """What is described, but for the stream, which does not end."""
    found = schemathesis.openapi.from_dict(json.loads(openapi_json("kitchen", "edge-siamese-8765")))
    return found.exclude(path_regex="/stream$")


for media in ("image/jpeg", "image/png", "image/webp", "image/gif", "application/zip", "application/octet-stream",
              "application/x-zip-compressed"):  # fmt: skip

    @schemathesis.serializer(media)
    def as_bytes(context: Any, value: Any) -> bytes:
        """Whatever it is, not in that format."""
        return value if isinstance(value, bytes) else repr(value).encode("utf-8", "replace")


def calmly(test: Any) -> Any:
    """Few questions, the same ones each time, however long they take."""
    settings = hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate),
    )
    return settings(test)


class Fuzzed:
    """A dashboard that has something to lose."""

    def __init__(self, daemon: Any, client: Client) -> None:
        self.daemon, self.client = daemon, client
        token = CredentialsFile(daemon.state).add_token("fuzz")
        self.headers = {"Authorization": f"Bearer {token}"}
        client.headers = dict(self.headers)
        state = dashboard_of(daemon)._state
        assert state is not None
        self.decisions = state.api.decisions
        self.base = f"http://127.0.0.1:{client.port}"

    def upload(self) -> str:
        got = self.client.ask("POST", "uploads", data=JPEG, headers={"Content-Type": "image/jpeg"})
        assert got.status == 201
        return str(got.json()["upload"])

    def some_object(self) -> dict[str, Any]:
        """One that is there; registered, if there is none."""
        found = self.client.get("objects").json()["objects"]
        if not found:
            wish = {"force": True, "pictures": [self.upload()]}
            found = [self.client.ask("POST", "objects", wish).json()["object"]]
        return dict(found[0])

    def answer(self, case: Any, *excluded: Any) -> None:
        """Ask, and see that the answer is one of those that are described."""
        case.call_and_validate(
            base_url=self.base,
            headers=self.headers,
            # Names with control characters, and pictures that are none, fit the description and are refused.
            excluded_checks=[schemathesis.specs.openapi.checks.positive_data_acceptance, *excluded],
        )


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Iterator[Fuzzed]:
    home = tmp_path_factory.mktemp("fuzzed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DoctorRun, "_run", lambda _: {"ok": True, "findings": []})
        patch.setattr("edge_siamese.dashboard.live_picture.MAX_WAIT_SECONDS", 0.1)
        with serving(home, bundle.path, patch, "frame_rate = 60.0\nmax_viewers = 64") as (daemon, client):
            daemon.stage.picture = MUG
            found = Fuzzed(daemon, client)
            found.some_object()
            yield found
            assert daemon.service.engine is not None and daemon.thread.is_alive()


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that nobody foresaw."""
    yield
    assert [
        record.getMessage() for record in caplog.records if "the dashboard failed" in record.getMessage()
    ] == []


@schema().parametrize()
@calmly
def test_anything(case: Any, fuzzed: Fuzzed) -> None:
    fuzzed.answer(case)


@schema().include(path_regex="[{]|/objects$|/score$|/wrong$").parametrize()
@calmly
def test_anything_of_what_is_there(case: Any, fuzzed: Fuzzed) -> None:
    known = fuzzed.some_object()
    decision = fuzzed.decisions.latest()
    real = {
        "name": known["uid"], "view": known["last_view"], "index": 0, "into": known["uid"],
        "decision": decision.id if decision else "0" * 12,
    }  # fmt: skip
    for place in (case.path_parameters, case.body):
        if isinstance(place, dict):
            place.update({name: value for name, value in real.items() if name in place})
            if "upload" in place:
                place["upload"] = fuzzed.upload()
            if "pictures" in place:
                place["pictures"] = [fuzzed.upload()]
    # What was to be wrong in a question may be right now.
    fuzzed.answer(case, schemathesis.specs.openapi.checks.negative_data_rejection)


def test_raw_bytes(fuzzed: Fuzzed) -> None:
    """Heads that are damaged, cut, repeated, or were never any."""
    dice = random.Random(5)
    token = fuzzed.headers["Authorization"]
    whole = (
        f"POST /api/v1/objects HTTP/1.1\r\nHost: localhost\r\nAuthorization: {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    ).encode()
    for number in range(300):
        data = bytearray(whole if number % 3 else dice.randbytes(dice.randrange(1, 400)))
        for _ in range(dice.randrange(1, 8)):
            match dice.randrange(4):
                case 0:
                    data[dice.randrange(len(data))] = dice.randrange(256)
                case 1:
                    del data[dice.randrange(len(data)) :]
                case 2:
                    data += data[: dice.randrange(len(data) + 1)]
                case 3:
                    place = dice.randrange(len(data) + 1)
                    data[place:place] = dice.choice(
                        (b"\r\n", b"\0", b"\r\n\r\n", b": ", b"%00", b"Host: x\r\n")
                    )
            data = data[:4000] or bytearray(b"x")
        with socket.create_connection(("127.0.0.1", fuzzed.client.port), timeout=10) as peer:
            try:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                said = peer.recv(4096)
            except ConnectionError:
                continue
        assert not said or (said.startswith(b"HTTP/1.1 ") and said[9:10] in b"24"), (bytes(data), said)
    server = dashboard_of(fuzzed.daemon)._server
    assert server is not None
    until(lambda: len(server.server_state.connections) == 0)
    assert fuzzed.client.get("status").status == 200
    assert fuzzed.daemon.service.engine is not None


def test_the_state_is_whole_after_all_this(fuzzed: Fuzzed, tmp_path: Path) -> None:
    got = fuzzed.client.get("collection")
    assert got.status == 200 and got.data[:2] == b"PK"
    brought = fuzzed.client.ask(
        "POST", "collection?on_conflict=skip", data=got.data, headers={"Content-Type": "application/zip"}
    )
    assert brought.status == 200
    assert fuzzed.client.get("health").json()["frames"] > 100
