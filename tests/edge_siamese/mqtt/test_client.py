"""The MQTT client against a scripted broker."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_siamese.errors import MqttError
from edge_siamese.mqtt.client import MqttClient, ReceivedMessage, ReconnectPolicy
from edge_siamese.mqtt.outbox import Outbox
from edge_siamese.mqtt.security import read_password, tls_context
from edge_siamese.settings import MqttSettings
from tests.edge_siamese.daemon.running import until
from tests.edge_siamese.mqtt.scripted_broker import (
    ACCEPTED_5,
    ACCEPTED_311,
    BAD_USER_5,
    BAD_USER_311,
    NOT_AUTHORIZED_5,
    UNSUPPORTED_VERSION,
    ScriptedBroker,
)

FAST = ReconnectPolicy(initial=0.02, maximum=0.05, refused=0.02, stable=0.2)


class Notices(list[tuple[str, str]]):
    def __call__(self, text: str, level: str) -> None:
        self.append((text, level))


@dataclass(frozen=True)
class CountingPolicy(ReconnectPolicy):
    """Retries at once, and counts pauses and resets."""

    calls: Counter[str] = field(default_factory=Counter)
    minimums: list[float] = field(default_factory=list)

    def backoff(self) -> Any:
        def pause(minimum: float = 0.0) -> float:
            self.calls["pause"] += 1
            self.minimums.append(minimum)
            return 0.01

        return SimpleNamespace(pause=pause, reset=lambda: self.calls.update(["reset"]))


@contextmanager
def connection(
    port: int, policy: ReconnectPolicy = FAST, **changes: Any
) -> Iterator[tuple[MqttClient, Notices]]:
    notices = Notices()
    made = MqttClient(
        MqttSettings(broker="127.0.0.1", port=port, **changes),
        "es-x",
        "p/x/availability",
        notify=notices,
        reconnect=policy,
    )
    try:
        yield made, notices
    finally:
        made.close(1)


def test_online_is_published_before_queued_messages() -> None:
    with ScriptedBroker(ACCEPTED_5) as broker:
        with connection(broker.port) as (found, notices):
            found.enqueue("p/x/event", b"1")
            found.enqueue("p/x/state", b"2", retain=True)
            assert not found.connected and not found.publish("p/x/now", b"3")
            found.start()
            until(lambda: len(broker.published) == 3)
            assert broker.versions == [5]
            assert [(topic, payload[1:], flags) for topic, payload, flags in broker.published] == [
                ("p/x/availability", b"online", 0x03),
                ("p/x/event", b"1", 0x02),
                ("p/x/state", b"2", 0x03),
            ]
            until(lambda: found.report()["queued"] == 0)
            assert found.connected
            assert found.report() == {
                "state": "connected",
                "works": True,
                "broker": f"127.0.0.1:{broker.port}",
                "tls": False,
                "connections": 1,
                "sent": 2,
                "received": 0,
                "queued": 0,
                "queued_bytes": 0,
                "lost": 0,
                "rejected": 0,
                "too_large": 0,
                "limits": "",
            }
            assert notices == [(f"connected to the broker 127.0.0.1:{broker.port}", "info")]
        until(lambda: broker.published and broker.published[-1][1].endswith(b"offline"))
        assert broker.published[-1][0] == "p/x/availability"


def test_an_older_broker_gets_mqtt_311() -> None:
    with ScriptedBroker(UNSUPPORTED_VERSION, ACCEPTED_311) as broker, connection(broker.port) as (found, _):
        found.start()
        until(lambda: found.connected)
        assert broker.versions == [5, 4]
        found.publish("p/x/now", b"3")
        until(lambda: len(broker.published) == 2)
        assert broker.published[1] == ("p/x/now", b"3", 0x02)


@pytest.mark.parametrize("answers", [(BAD_USER_5,), (NOT_AUTHORIZED_5,), (UNSUPPORTED_VERSION, BAD_USER_311)])
def test_a_wrong_password_is_reported_once_and_retried(tmp_path: Path, answers: tuple[bytes, ...]) -> None:
    (tmp_path / "password").write_text("wrong\n")
    password = {"username": "me", "password_file": str(tmp_path / "password")}
    with ScriptedBroker(*answers) as broker, connection(broker.port, **password) as (found, notices):
        found.start()
        until(lambda: len(broker.versions) > 4)
        assert found.report()["state"] == "refused: bad user name or password"
        address = f"127.0.0.1:{broker.port}"
        refused = f"the broker {address} refuses this device: bad user name or password"
        assert found.report()["works"] is False
        assert notices[-1] == (refused, "warning")
        assert [text for text, _ in notices].count(refused) == 1
        assert not found.connected


def test_a_lost_broker_is_reported_once() -> None:
    policy = CountingPolicy()
    with (
        ScriptedBroker(ACCEPTED_5) as broker,
        connection(broker.port, policy) as (found, notices),
    ):
        found.start()
        until(lambda: found.connected)
        broker.close()
        until(lambda: found.report()["state"] == "disconnected: Connection refused")
        assert found.report()["works"] is False
        assert [level for _, level in notices] == ["info", "warning"]
        assert notices[1][0].startswith(f"the broker 127.0.0.1:{broker.port} cannot be reached: ")
        pauses = policy.calls["pause"]
        until(lambda: policy.calls["pause"] > pauses + 3)
        assert len(notices) == 2
        assert not found.publish("p/x/now", b"")
        assert found.enqueue("p/x/event", b"later")
        assert found.report()["queued"] == 1


def test_unacknowledged_messages_are_sent_again() -> None:
    with ScriptedBroker(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        broker.acknowledge = False
        found.enqueue("p/x/event", b"1")
        found.start()
        until(lambda: len(broker.published) == 2)
        broker.acknowledge = True
        broker.drop()
        until(lambda: len(broker.published) == 4)
        assert [topic for topic, _, _ in broker.published[2:]] == ["p/x/availability", "p/x/event"]
        until(lambda: found.report()["queued"] == 0)
        assert found.report()["lost"] == 0


def test_a_rejected_message_reaches_its_callback_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[tuple[str, bool]] = []

    def note(topic: str, taken: bool) -> None:
        heard.append((topic, taken))

    with ScriptedBroker(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        broker.refuse = {"p/x/a"}
        for topic in ("p/x/a", "p/x/b", "p/#"):
            found.enqueue(topic, b"1", retain=True, on_done=partial(note, topic))
        found.start()
        until(lambda: len(heard) == 3)
        found.enqueue("p/x/a", b"2", retain=True)
        until(lambda: found.report()["rejected"] == 2)
    assert set(heard) == {("p/x/a", False), ("p/x/b", True), ("p/#", False)}
    assert caplog.text.count("the broker rejects p/x/a: Not authorized") == 1


def test_a_broker_that_disconnects_at_once_may_require_tls() -> None:
    with ScriptedBroker(b"") as broker, connection(broker.port) as (found, _):
        found.start()
        until(lambda: "does it require TLS" in found.report()["state"])
        assert found.report()["state"].startswith("disconnected: ")


def test_a_broker_that_does_not_answer_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_siamese.mqtt.client.CONNECT_TIMEOUT_SECONDS", 0.1)
    # The system accepts connections for a server that looks at none of them.
    with socket.create_server(("127.0.0.1", 0)) as silent, connection(silent.getsockname()[1]) as (found, _):
        found.start()
        until(lambda: found.report()["state"] == "disconnected: no answer")
        assert found.report()["works"] is False
        found.close(1)
        assert not found._thread.is_alive()


def test_the_first_attempt_counts_as_working(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, connection(silent.getsockname()[1]) as (found, _):
        assert not found.report()["works"]  # nobody has started it
        found.start()
        assert (found.report()["state"], found.report()["works"]) == ("connecting", True)
        # As a name service does that lets one wait.
        monkeypatch.setattr("edge_siamese.mqtt.client.CONNECT_TIMEOUT_SECONDS", 0.0)
        assert not found.report()["works"]


def test_connect_callbacks_run_on_each_connect_and_may_fail() -> None:
    calls: list[str] = []

    def defect() -> None:
        raise RuntimeError("a defect")

    with ScriptedBroker(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        found.on_connected(defect)
        found.on_connected(lambda: calls.append("up"))
        found.start()
        until(lambda: calls == ["up"])
        broker.drop()
        until(lambda: calls == ["up", "up"])


@pytest.mark.parametrize(("stable", "resets"), [(0.0, 5), (600.0, 0)])
def test_a_stable_connection_resets_the_delay(stable: float, resets: int) -> None:
    policy = CountingPolicy(stable=stable)
    with ScriptedBroker(ACCEPTED_5) as broker:
        settings = MqttSettings(broker="127.0.0.1", port=broker.port)
        found = MqttClient(settings, "es-x", "a", reconnect=policy)
        found.start()
        for number in range(1, 6):
            until(lambda number=number: found.report()["connections"] == number)
            broker.drop()
        until(lambda: found.report()["connections"] == 6)
        assert policy.calls["reset"] == resets
        found.close(0.2)


def test_persistent_subscriptions_are_renewed_and_others_end_with_the_connection() -> None:
    received: list[ReceivedMessage] = []
    acknowledged: list[str] = []
    with ScriptedBroker(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        found.listen("a/+", received.append, lambda: acknowledged.append("a/+"))
        found.subscribe("b/#", lambda topic, payload: None)  # not connected: nothing happens
        found.start()
        until(lambda: acknowledged == ["a/+"])
        found.subscribe("b/#", lambda topic, payload: received.append(ReceivedMessage(topic, payload, False)))
        until(lambda: broker.subscribed == ["a/+", "b/#"])
        broker.send("a/x", b"1", retain=True)
        broker.send("b/x/y", b"2")
        broker.send("c", b"3")
        broker.send("a/y", b"4")
        until(lambda: len(received) == 3)
        assert received == [
            ReceivedMessage("a/x", b"1", True),
            ReceivedMessage("b/x/y", b"2", False),
            ReceivedMessage("a/y", b"4", False),
        ]
        broker.drop()
        until(lambda: acknowledged == ["a/+", "a/+"])
        assert broker.subscribed == ["a/+", "b/#", "a/+"]
        assert found.report()["received"] == 3


def test_a_message_goes_to_every_matching_pattern_until_it_is_unsubscribed() -> None:
    received: list[str] = []
    with ScriptedBroker(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        found.listen("a/+", lambda message: received.append("a/+"))
        found.listen("a/b", lambda message: received.append("a/b"))
        found.listen("gone", lambda message: received.append("gone"))
        found.unsubscribe("gone")
        found.unsubscribe("never subscribed")
        found.start()
        until(lambda: len(broker.subscribed) == 2)
        broker.send("a/b", b"")
        until(lambda: sorted(received) == ["a/+", "a/b"])
        found.unsubscribe("a/b")
        until(lambda: broker.unsubscribed == ["a/b"])
        broker.send("a/b", b"")
        until(lambda: len(received) == 3)
        assert received[2] == "a/+"


def test_a_rejected_subscription_is_logged_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with ScriptedBroker(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        broker.refuse = {"a/+"}
        found.listen("a/+", lambda message: None)
        found.start()
        until(lambda: found.report()["rejected"] == 1)
    assert "the broker rejects the subscription to a/+: Not authorized" in caplog.text


def test_an_invalid_topic_is_skipped() -> None:
    with ScriptedBroker(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        found.start()
        until(lambda: found.connected)
        found.enqueue("p/#", b"1")
        found.enqueue("p/x/event", b"2")
        until(lambda: broker.published and broker.published[-1][1].endswith(b"2"))
        until(lambda: found.report()["queued"] == 0)


def test_file_descriptors_above_1023_work() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1500:
        pytest.skip("this system allows too few open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1500), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(1100):
            stack.enter_context(open(os.devnull))
        broker = stack.enter_context(ScriptedBroker(ACCEPTED_5))
        found, _ = stack.enter_context(connection(broker.port))
        found.enqueue("p/x/event", b"1")
        found.start()
        until(lambda: len(broker.published) == 2)
        until(lambda: found.report()["queued"] == 0)
        assert found._wake_reader.fileno() > 1023


def test_closing_ends_without_acknowledgments() -> None:
    with ScriptedBroker(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        broker.acknowledge = False
        found.enqueue("p/x/event", b"1")
        found.start()
        until(lambda: found.connected)
        found.close(0.4)
        until(lambda: not found._thread.is_alive())
        assert found.report()["state"] == "closed"
        until(lambda: broker.published and broker.published[-1][1].endswith(b"offline"))


def test_closing_does_not_wait_for_an_unreachable_broker() -> None:
    with ScriptedBroker(ACCEPTED_5) as broker:
        port = broker.port
    slow = ReconnectPolicy(initial=60, maximum=60)
    found = MqttClient(MqttSettings(broker="127.0.0.1", port=port), "es-x", "a", reconnect=slow)
    found.start()
    until(lambda: found.report()["state"].startswith("disconnected"))
    found.close(2)
    assert not found._thread.is_alive()


def test_publishing_never_blocks() -> None:
    with ScriptedBroker(ACCEPTED_5) as broker, connection(broker.port) as (found, _):
        broker.acknowledge = False
        found.start()
        until(lambda: found.connected)
        for number in range(3000):
            found.enqueue("p/x/event", b"%d" % number)
        assert found.report()["lost"] >= 900
        assert found.report()["queued"] <= 2000


def test_publish_fails_when_the_outbox_is_full() -> None:
    with ScriptedBroker(ACCEPTED_5) as broker:
        broker.acknowledge = False
        found = MqttClient(
            MqttSettings(broker="127.0.0.1", port=broker.port),
            "es-x",
            "a",
            reconnect=FAST,
            outbox=Outbox(max_messages=30),
        )
        found.start()
        until(lambda: found.connected)
        assert [found.publish("p", b"") for _ in range(31)] == [True] * 30 + [False]
        found.close(0.2)


def test_a_missing_paho_is_reported() -> None:
    script = (
        "import sys\n"
        "sys.modules['paho'] = None\n"
        "from edge_siamese.settings import MqttSettings\n"
        "from edge_siamese.mqtt.client import MqttClient\n"
        "try:\n"
        "    MqttClient(MqttSettings(broker='x'), 'i', 'a').start()\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "MQTT needs paho-mqtt 2: reinstall edge-siamese, or, in your own environment, "
        "pip install 'edge-siamese[mqtt]'\n"
    )


# --- what the settings name ---


def test_the_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    settings = MqttSettings(username="me", password_file=str(path))
    path.write_text("pass word ü\nmore\n", encoding="utf-8")
    assert read_password(settings) == "pass word ü"
    assert read_password(MqttSettings()) is None
    for content, problem in ((b"", "and is empty"), (b"\n", "and is empty"), (b"\xff", "not UTF-8 text")):
        path.write_bytes(content)
        with pytest.raises(MqttError, match=problem):
            read_password(settings)
    path.unlink()
    with pytest.raises(MqttError, match="the password cannot be read: No such file or directory"):
        read_password(settings)


def test_unusable_certificates_are_named(tmp_path: Path) -> None:
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


def test_a_missing_password_file_fails_the_start() -> None:
    found = MqttClient(MqttSettings(broker="x", username="me", password_file="/missing"), "es-x", "a")
    with pytest.raises(MqttError, match="/missing: the password cannot be read"):
        found.start()
    found.close(0.1)
