"""The connection to a broker: what it says of itself, and that nobody waits for it."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.errors import MqttError
from edge_siamese.mqtt.client import Connection
from edge_siamese.mqtt.credentials import read_password, tls_context
from edge_siamese.mqtt.outbox import Outbox
from edge_siamese.mqtt.reconnect import ReconnectPolicy
from edge_siamese.settings import MqttSettings
from tests.edge_siamese.daemon.running import until
from tests.edge_siamese.mqtt.listening import Listener

FAST = ReconnectPolicy(first=0.02, most=0.05, refused=0.02, stable=0.2)
ACCEPTED_5, ACCEPTED = b"\x20\x03\x00\x00\x00", b"\x20\x02\x00\x00"
UNSUPPORTED = b"\x20\x02\x00\x01"
BAD_USER, NOT_AUTHORISED = b"\x20\x03\x00\x86\x00", b"\x20\x03\x00\x87\x00"
BAD_USER_311 = b"\x20\x02\x00\x04"


class Told(list[tuple[str, str]]):
    def __call__(self, text: str, level: str) -> None:
        self.append((text, level))


@contextmanager
def connection(port: int, **changes: Any) -> Iterator[tuple[Connection, Told]]:
    told = Told()
    made = Connection(
        MqttSettings(broker="127.0.0.1", port=port, **changes),
        "es-x",
        "p/x/availability",
        told=told,
        pace=FAST,
    )
    try:
        yield made, told
    finally:
        made.close(1)


def test_it_says_online_first_and_then_what_waited() -> None:
    with Listener(ACCEPTED_5) as broker:
        with connection(broker.port) as (found, told):
            found.send("p/x/event", b"1")
            found.send("p/x/state", b"2", retain=True)
            assert not found.connected and not found.publish("p/x/now", b"3")
            found.start()
            until(lambda: len(broker.published) == 3)
            assert broker.versions == [5]
            assert [(topic, payload[1:], flags) for topic, payload, flags in broker.published] == [
                ("p/x/availability", b"online", 0x03),
                ("p/x/event", b"1", 0x02),
                ("p/x/state", b"2", 0x03),
            ]
            until(lambda: found.report()["waiting"] == 0)
            assert found.connected
            assert found.report() == {
                "state": "connected",
                "works": True,
                "broker": f"127.0.0.1:{broker.port}",
                "tls": False,
                "connections": 1,
                "sent": 2,
                "received": 0,
                "waiting": 0,
                "waiting_bytes": 0,
                "lost": 0,
                "not_allowed": 0,
            }
            assert told == [(f"connected to the broker 127.0.0.1:{broker.port}", "info")]
        until(lambda: broker.published[-1][1].endswith(b"offline"))
        assert broker.published[-1][0] == "p/x/availability"


def test_a_broker_that_speaks_an_older_mqtt_is_spoken_to_as_it_does() -> None:
    with Listener(UNSUPPORTED, ACCEPTED) as broker, connection(broker.port) as (found, _):
        found.start()
        until(lambda: found.connected)
        assert broker.versions == [5, 4]
        found.publish("p/x/now", b"3")
        until(lambda: len(broker.published) == 2)
        assert broker.published[1] == ("p/x/now", b"3", 0x02)


@pytest.mark.parametrize("answers", [(BAD_USER,), (NOT_AUTHORISED,), (UNSUPPORTED, BAD_USER_311)])
def test_a_wrong_password_is_called_that_once_and_tried_again(
    tmp_path: Path, answers: tuple[bytes, ...]
) -> None:
    (tmp_path / "password").write_text("wrong\n")
    password = {"username": "me", "password_file": str(tmp_path / "password")}
    with Listener(*answers) as broker, connection(broker.port, **password) as (found, told):
        found.start()
        until(lambda: len(broker.versions) > 4)
        assert found.report()["state"] == "refused: bad user name or password"
        address = f"127.0.0.1:{broker.port}"
        refused = f"the broker {address} refuses this device: bad user name or password"
        assert found.report()["works"] is False
        assert told[-1] == (refused, "warning")
        assert [text for text, _ in told].count(refused) == 1
        assert not found.connected


def test_a_broker_that_is_away_is_told_once_and_again_when_it_is_back() -> None:
    with Listener(ACCEPTED_5) as broker, connection(broker.port) as (found, told):
        found.start()
        until(lambda: found.connected)
        broker.close()
        until(lambda: found.report()["state"] == "away: Connection refused")
        assert found.report()["works"] is False
        assert [level for _, level in told] == ["info", "warning"]
        assert told[1][0].startswith(f"the broker 127.0.0.1:{broker.port} cannot be reached: ")
        time.sleep(0.2)
        assert len(told) == 2
        assert not found.publish("p/x/now", b"")
        assert found.send("p/x/event", b"later")
        assert found.report()["waiting"] == 1


def test_what_was_not_acknowledged_is_sent_again() -> None:
    with Listener(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        broker.acknowledge = False
        found.send("p/x/event", b"1")
        found.start()
        until(lambda: len(broker.published) == 2)
        broker.acknowledge = True
        broker.drop()
        until(lambda: len(broker.published) == 4)
        assert [topic for topic, _, _ in broker.published[2:]] == ["p/x/availability", "p/x/event"]
        until(lambda: found.report()["waiting"] == 0)
        assert found.report()["lost"] == 0


def test_a_refusal_is_told_to_who_asked_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[tuple[str, bool]] = []

    def note(topic: str, taken: bool) -> None:
        heard.append((topic, taken))

    with Listener(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        broker.refuse = {"p/x/a"}
        for topic in ("p/x/a", "p/x/b", "p/#"):
            found.send(topic, b"1", retain=True, ended=partial(note, topic))
        found.start()
        until(lambda: len(heard) == 3)
        found.send("p/x/a", b"2", retain=True)
        until(lambda: found.report()["not_allowed"] == 2)
    assert set(heard) == {("p/x/a", False), ("p/x/b", True), ("p/#", False)}
    assert caplog.text.count("the broker does not take p/x/a: Not authorized") == 1


def test_a_broker_that_ends_the_connection_at_once_may_want_tls() -> None:
    with Listener(b"") as broker, connection(broker.port) as (found, _):
        found.start()
        until(lambda: "does it want TLS" in found.report()["state"])
        assert found.report()["state"].startswith("away: ")


def test_a_broker_that_does_not_answer_is_left_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_siamese.mqtt.client.ANSWER_SECONDS", 0.1)
    # The system accepts connections for a server that looks at none of them.
    with socket.create_server(("127.0.0.1", 0)) as silent, connection(silent.getsockname()[1]) as (found, _):
        found.start()
        until(lambda: found.report()["state"] == "away: it does not answer")
        assert found.report()["works"] is False
        began = time.monotonic()
        found.close(1)
        assert time.monotonic() - began < 1


def test_while_the_first_answer_is_waited_for_nothing_is_wrong_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, connection(silent.getsockname()[1]) as (found, _):
        assert not found.report()["works"]  # nobody has started it
        found.start()
        assert (found.report()["state"], found.report()["works"]) == ("connecting", True)
        # As a name service does that lets one wait.
        monkeypatch.setattr("edge_siamese.mqtt.client.ANSWER_SECONDS", 0.0)
        assert not found.report()["works"]


def test_callbacks_are_called_with_each_connection_and_a_defect_of_theirs_harms_nobody() -> None:
    calls: list[str] = []

    def defect() -> None:
        raise RuntimeError("a defect")

    with Listener(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        found.on_connected(defect)
        found.on_connected(lambda: calls.append("up"))
        found.start()
        until(lambda: calls == ["up"])
        broker.drop()
        until(lambda: calls == ["up", "up"])


@pytest.mark.parametrize(("stable", "soon"), [(0.0, True), (60.0, False)])
def test_a_connection_that_lasted_makes_the_next_wait_a_short_one(stable: float, soon: bool) -> None:
    pace = ReconnectPolicy(first=0.1, most=100.0, stable=stable)
    with Listener(ACCEPTED_5) as broker:
        found = Connection(MqttSettings(broker="127.0.0.1", port=broker.port), "es-x", "a", pace=pace)
        found.start()
        began = time.monotonic()
        for number in range(1, 6):
            until(lambda number=number: found.report()["connections"] == number)
            broker.drop()
        # Five waits of at most 0.1 s each; or of at least 0.05 s, doubled each time, which makes 1.55 s.
        until(lambda: found.report()["connections"] == 6)
        assert (time.monotonic() - began < 1.5) == soon
        found.close(0.2)


def test_a_topic_that_is_none_is_not_published_and_harms_nothing() -> None:
    with Listener(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        found.start()
        until(lambda: found.connected)
        found.send("p/#", b"1")
        found.send("p/x/event", b"2")
        until(lambda: broker.published[-1][1].endswith(b"2"))
        until(lambda: found.report()["waiting"] == 0)


def test_a_daemon_with_more_than_a_thousand_open_files_has_a_connection_too() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1500:
        pytest.skip("this system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1500), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.enter_context(open(os.devnull))
        broker = stack.enter_context(Listener(ACCEPTED_5))
        found, _ = stack.enter_context(connection(broker.port))
        found.send("p/x/event", b"1")
        found.start()
        until(lambda: len(broker.published) == 2)
        until(lambda: found.report()["waiting"] == 0)
        assert found._wake_in.fileno() > 1023


def test_closing_takes_no_longer_than_it_may_where_the_broker_does_not_acknowledge() -> None:
    with Listener(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        broker.acknowledge = False
        found.send("p/x/event", b"1")
        found.start()
        until(lambda: found.connected)
        began = time.monotonic()
        found.close(0.4)
        assert time.monotonic() - began < 0.8
        assert found.report()["state"] == "closed"
        until(lambda: broker.published[-1][1].endswith(b"offline"))


def test_closing_does_not_wait_for_a_broker_that_is_away() -> None:
    with Listener(ACCEPTED_5) as broker:
        port = broker.port
    slow = ReconnectPolicy(first=60, most=60)
    found = Connection(MqttSettings(broker="127.0.0.1", port=port), "es-x", "a", pace=slow)
    found.start()
    until(lambda: found.report()["state"].startswith("away"))
    began = time.monotonic()
    found.close(2)
    assert time.monotonic() - began < 0.5


def test_publishing_takes_no_time_whatever_the_broker_does() -> None:
    with Listener(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        broker.acknowledge = False
        found.start()
        until(lambda: found.connected)
        began = time.monotonic()
        for number in range(3000):
            found.send("p/x/event", b"%d" % number)
        assert time.monotonic() - began < 1
        assert found.report()["lost"] >= 900
        assert found.report()["waiting"] <= 2000


def test_where_too_much_waits_no_more_is_taken_for_now() -> None:
    with Listener(ACCEPTED_5) as broker:
        broker.acknowledge = False
        found = Connection(
            MqttSettings(broker="127.0.0.1", port=broker.port), "es-x", "a", pace=FAST, outbox=Outbox(most=30)
        )
        found.start()
        until(lambda: found.connected)
        assert [found.publish("p", b"") for _ in range(31)] == [True] * 30 + [False]
        found.close(0.2)


def test_without_paho_it_says_what_to_install() -> None:
    script = (
        "import sys\n"
        "sys.modules['paho'] = None\n"
        "from edge_siamese.settings import MqttSettings\n"
        "from edge_siamese.mqtt.client import Connection\n"
        "try:\n"
        "    Connection(MqttSettings(broker='x'), 'i', 'a').start()\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "MQTT needs paho-mqtt 2: install edge-siamese anew, or in an environment of your own: "
        "pip install 'edge-siamese[mqtt]'\n"
    )


# --- what the settings name ---


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    settings = MqttSettings(username="me", password_file=str(path))
    path.write_text("pass word ü\nmore\n", encoding="utf-8")
    assert read_password(settings) == "pass word ü"
    assert read_password(MqttSettings()) is None
    for content, problem in ((b"", "that is empty"), (b"\n", "that is empty"), (b"\xff", "not UTF-8 text")):
        path.write_bytes(content)
        with pytest.raises(MqttError, match=problem):
            read_password(settings)
    path.unlink()
    with pytest.raises(MqttError, match="the password cannot be read: No such file or directory"):
        read_password(settings)


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    assert tls_context(MqttSettings()) is None
    with pytest.raises(MqttError, match=r"^ca_file /missing\.pem cannot be used: No such file"):
        tls_context(MqttSettings(tls=True, ca_file="/missing.pem"))
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    with pytest.raises(
        MqttError, match=r"^certificate .*/rubbish\.pem and key /missing\.key cannot be used: "
    ):
        tls_context(MqttSettings(tls=True, certificate=str(rubbish), key="/missing.key"))
    with pytest.raises(
        MqttError, match=r"^certificate .*/rubbish\.pem and key .*/rubbish\.pem cannot be used: "
    ):
        tls_context(MqttSettings(tls=True, certificate=str(rubbish), key=str(rubbish)))


def test_a_connection_that_cannot_succeed_is_not_begun() -> None:
    found = Connection(MqttSettings(broker="x", username="me", password_file="/missing"), "es-x", "a")
    with pytest.raises(MqttError, match="/missing: the password cannot be read"):
        found.start()
    found.close(0.1)
