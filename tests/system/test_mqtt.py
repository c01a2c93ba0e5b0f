"""MQTT in use: a daemon, a Mosquitto that stops and starts, and subscribers."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edge_siamese.mqtt.client import ReconnectPolicy
from tests.edge_siamese.daemon.running import CONFIG, MUG, PEN, TABLE, Daemon, daemon_in, until
from tests.system.broker import Broker, Collector, broker_in, collecting, make_certificates
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parents[2]
BASE = "edge-siamese/hall"
DISCOVERY = "homeassistant/device/edge-siamese-hall/config"
UNTIL_SAVED_SECONDS = 1.2
"""A broker with persistence has written what it knows, and who listens."""
Words = dict[str, Any]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that is away is tried again after a moment, a wrong password too."""
    fast = ReconnectPolicy(initial=0.1, maximum=0.5, refused=0.2, stable=2)
    monkeypatch.setattr("edge_siamese.mqtt.client.ReconnectPolicy", lambda: fast)


def table(broker: Broker, **more: Any) -> str:
    """The table of the settings."""
    words = {"broker": "127.0.0.1", "port": broker.port, "device_id": "hall", "device_name": "Hall", **more}
    return "\n[mqtt]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in words.items())


Start = Callable[..., Daemon]


@pytest.fixture
def start(tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts the daemon with MQTT."""
    with daemon_in(tmp_path / "daemon", monkeypatch) as daemon:

        def made(broker: Broker, **more: Any) -> Daemon:
            daemon.configure(bundle)
            daemon.config.write_text(daemon.config.read_text() + table(broker, **more))
            return daemon.start().up()

        yield made


@contextmanager
def setting(tmp_path: Path, *patterns: str, **options: Any) -> Iterator[tuple[Broker, Collector]]:
    """A broker and somebody who listens."""
    with broker_in(tmp_path / "broker", **options) as broker, collecting(broker, *patterns) as heard:
        yield broker, heard


def events(heard: Collector, *kinds: str) -> list[Words]:
    found = [json.loads(payload) for payload in heard.on(f"{BASE}/event")]
    return [event for event in found if not kinds or event["kind"] in kinds]


def latest(heard: Collector, topic: str) -> Any:
    """The last payload of a topic as JSON; None if it is empty or none came."""
    payloads = heard.on(topic)
    return json.loads(payloads[-1]) if payloads and payloads[-1] else None


def ask(heard: Collector, command: str, **words: Any) -> Words:
    """Send a command, and wait for its reply."""
    number = f"{len(heard.messages)}-{command}"
    heard.publish(f"{BASE}/command/{command}", json.dumps({**words, "id": number}))

    def replies() -> list[Words]:
        found = [json.loads(payload) for payload in heard.on(f"{BASE}/reply")]
        return [reply for reply in found if reply.get("id") == number]

    reply: Words = heard.until(replies)[0]
    return reply


def state_of(daemon: Daemon) -> str:
    return str(daemon.ask("status")["integrations"]["mqtt"]["state"])


def test_what_is_seen_is_told_as_events_and_states(tmp_path: Path, start: Start) -> None:
    with setting(tmp_path) as (broker, heard):
        daemon = start(broker)
        heard.wait_for(f"{BASE}/availability")
        assert heard.on(f"{BASE}/availability") == [b"online"]
        uid = daemon.learn("mug", MUG)["object"]["uid"]
        daemon.show(MUG, "mug")
        heard.until(lambda: (latest(heard, f"{BASE}/objects/{uid}") or {}).get("present"))
        daemon.show(TABLE, None)
        heard.until(lambda: not latest(heard, f"{BASE}/objects/{uid}")["present"])
        known = latest(heard, f"{BASE}/objects/{uid}")
        (appeared,) = events(heard, "appeared")[-1:]
        assert known["name"] == "mug" and known["views"] == 1
        assert known["probability"] == appeared["probability"] > 0.6
        assert known["last_seen"] >= appeared["time"]
        kinds = [event["kind"] for event in events(heard)]
        assert kinds.index("registered") < kinds.index("appeared") < kinds.index("left")
        assert len({event["id"] for event in events(heard)}) == len(kinds)
        heard.until(lambda: latest(heard, f"{BASE}/state")["objects"] == 1)
        state = latest(heard, f"{BASE}/state")
        assert state["problem"] == "" and state["model"] == "tiny-0123456789ab"
        assert state["frames_per_second"] > 1 and 20 < state["memory_mb"] < 1000
        picture = Image.open(io.BytesIO(heard.wait_for(f"{BASE}/snapshot")[0]))
        assert (picture.format, picture.size) == ("JPEG", (96, 96))
        with collecting(broker) as later:
            later.wait_for(DISCOVERY)
            later.until(lambda: len({message.topic for message in later.messages}) == 4)
            assert {message.topic for message in later.messages if message.retain} == {
                f"{BASE}/availability",
                f"{BASE}/state",
                f"{BASE}/objects/{uid}",
                DISCOVERY,
            }


def test_commands_do_what_the_button_does_and_are_answered(tmp_path: Path, start: Start) -> None:
    with setting(tmp_path) as (broker, heard):
        daemon = start(broker)
        heard.wait_for(f"{BASE}/availability")
        daemon.stage.picture = MUG
        done = ask(heard, "register", name="mug")
        assert done["ok"] and done["text"] == '"mug" is registered'
        uid = done["object"]["uid"]
        again = ask(heard, "register", name="cup")
        assert (again["ok"], again["reason"]) == (False, "already known")
        assert "mug" in again["error"]
        assert ask(heard, "register", name="mug", view=True)["text"] == '"mug" has 2 views now'
        assert ask(heard, "rename", name="mug", new="Täßchen")["object"] == {"uid": uid, "name": "Täßchen"}
        daemon.show(MUG, "Täßchen")
        assert ask(heard, "wrong")["ok"]
        assert ask(heard, "snapshot")["ok"]
        assert ask(heard, "undo")["text"].startswith("undone: ")
        assert ask(heard, "forget", name="nothing")["error"].startswith('there is no object "nothing"')
        assert ask(heard, "forget", name=uid)["text"] == '"Täßchen" is forgotten'
        assert [known["name"] for known in daemon.ask("objects")["objects"]] == []
        assert ask(heard, "undo")["ok"]
        assert [known["name"] for known in daemon.ask("objects")["objects"]] == ["Täßchen"]
        heard.publish(f"{BASE}/command/undo", b"{")
        heard.until(lambda: "not valid JSON" in latest(heard, f"{BASE}/reply").get("error", ""))


def test_a_retained_command_does_nothing_however_often_the_connection_is_made(
    tmp_path: Path, start: Start
) -> None:
    with broker_in(tmp_path / "broker", persistence=True) as broker:
        daemon = start(broker)
        daemon.learn("mug", MUG)
        with collecting(broker, session="listener") as heard:
            heard.wait_for(f"{BASE}/availability")
            heard.publish(f"{BASE}/command/forget", b'{"name": "mug"}', retain=True)
            # One that comes live is a command like any other.
            assert json.loads(heard.wait_for(f"{BASE}/reply")[0])["ok"]
            daemon.ask("undo")
            for count in (2, 3):
                time.sleep(UNTIL_SAVED_SECONDS)
                broker.restart()
                assert "retained command" in json.loads(heard.wait_for(f"{BASE}/reply", count)[-1])["error"]
        assert [known["name"] for known in daemon.ask("objects")["objects"]] == ["mug"]


def test_the_last_will_says_offline_when_the_daemon_is_killed(tmp_path: Path, bundle: Path) -> None:
    home = tmp_path / "daemon"
    (home / "run").mkdir(parents=True)
    config = home / "config.toml"
    text = CONFIG.format(bundle=bundle, state=home / "state", runtime=home / "run")
    text = text.replace("[camera]", '[camera]\nkind = "synthetic"').replace('"simulated"', '"none"')
    with setting(tmp_path) as (broker, heard):
        config.write_text(text + table(broker))
        command = [sys.executable, "-m", "edge_siamese", "run", "--config", str(config)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        daemon = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            heard.wait_for(f"{BASE}/availability", seconds=30)
            daemon.send_signal(signal.SIGKILL)
            assert heard.wait_for(f"{BASE}/availability", 2) == [b"online", b"offline"]
        finally:
            daemon.kill()
            daemon.wait()
        with collecting(broker, f"{BASE}/availability") as later:
            assert later.wait_for(f"{BASE}/availability") == [b"offline"]
        again = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            heard.wait_for(f"{BASE}/availability", 3, seconds=30)
            again.send_signal(signal.SIGTERM)
            heard.until(lambda: heard.on(f"{BASE}/availability")[3:][-1:] == [b"offline"])
            # The retained last will may be replaced once more after the connection.
            assert set(heard.on(f"{BASE}/availability")[2:-1]) == {b"online"}
            assert events(heard, "stopping")
        finally:
            again.kill()
            again.wait()


def test_a_broker_that_is_away_costs_nothing_and_hears_of_it_all_when_it_is_back(
    tmp_path: Path, start: Start
) -> None:
    with broker_in(tmp_path / "broker", persistence=True) as broker:
        daemon = start(broker)
        with collecting(broker, session="listener") as heard:
            heard.wait_for(f"{BASE}/availability")
            time.sleep(UNTIL_SAVED_SECONDS)
            broker.stop()
            until(lambda: state_of(daemon).startswith("disconnected: "))
            frames = daemon.ask("status")["frames"]
            began = time.monotonic()
            uid = daemon.learn("mug", MUG)["object"]["uid"]
            for _ in range(3):
                daemon.show(MUG, "mug")
                daemon.show(TABLE, None)
            rate = (daemon.ask("status")["frames"] - frames) / (time.monotonic() - began)
            assert rate > 50
            waiting = daemon.ask("status")["integrations"]["mqtt"]["queued"]
            assert 8 <= waiting < 60
            broker.start()
            heard.until(lambda: len(events(heard, "left")) == 3)
            assert [event["kind"] for event in events(heard, "registered", "appeared", "left")] == [
                "registered",
                *["appeared", "left"] * 3,
            ]
            heard.until(lambda: latest(heard, f"{BASE}/objects/{uid}"))
            # Of states, only what is true still.
            assert {json.loads(told)["present"] for told in heard.on(f"{BASE}/objects/{uid}")} == {False}
            heard.until(lambda: heard.on(f"{BASE}/availability")[-1] == b"online")
            assert daemon.ask("status")["integrations"]["mqtt"]["lost"] == 0


def test_a_broker_that_forgot_everything_is_told_everything(tmp_path: Path, start: Start) -> None:
    with setting(tmp_path) as (broker, heard):
        daemon = start(broker)
        uid = daemon.learn("mug", MUG)["object"]["uid"]
        heard.wait_for(f"{BASE}/objects/{uid}")
        for _ in range(3):
            broker.kill()
            until(lambda: state_of(daemon).startswith("disconnected: "))
            broker.start()
            until(lambda: state_of(daemon) == "connected")
        with collecting(broker) as later:
            later.wait_for(f"{BASE}/objects/{uid}")
            later.wait_for(f"{BASE}/state")
            message = json.loads(later.wait_for(DISCOVERY)[0])
            assert f"{uid}_present" in message["components"]


def test_with_a_wrong_password_it_says_so_and_goes_on_recognizing(tmp_path: Path, start: Start) -> None:
    password = tmp_path / "password"
    password.write_text("wrong\n")
    with broker_in(tmp_path / "broker", user="device", password="right") as broker:
        daemon = start(broker, username="device", password_file=str(password))
        until(lambda: state_of(daemon) == "refused: bad user name or password")
        assert daemon.told("mqtt").endswith("refuses this device: bad user name or password")
        daemon.learn("mug", MUG)
        daemon.show(MUG, "mug")
        daemon.show(TABLE, None)
        assert state_of(daemon) == "refused: bad user name or password"
        # Set right, the file is enough: nothing has to be restarted.
        password.write_text("right\n")
        until(lambda: state_of(daemon) == "connected")
        with collecting(broker) as heard:
            heard.wait_for(f"{BASE}/state")
            assert b"right" not in b"".join(message.payload for message in heard.messages)


def test_over_tls_with_the_certificate_of_the_device(tmp_path: Path, start: Start) -> None:
    made = make_certificates(tmp_path / "certificates")
    files = {"certificate": str(made.client), "key": str(made.client_key), "tls": True}
    with setting(tmp_path, tls=made) as (broker, heard):
        daemon = start(broker, **files, ca_file=str(made.ca))
        assert heard.wait_for(f"{BASE}/availability") == [b"online"]
        daemon.learn("mug", MUG)
        heard.until(lambda: events(heard, "registered"))
        assert daemon.ask("status")["integrations"]["mqtt"]["tls"] is True


def test_a_broker_that_cannot_show_that_it_is_the_one_is_not_spoken_to(tmp_path: Path, start: Start) -> None:
    made = make_certificates(tmp_path / "certificates")
    files = {"certificate": str(made.client), "key": str(made.client_key), "tls": True}
    with broker_in(tmp_path / "broker", tls=made) as broker:
        daemon = start(broker, **files, ca_file=str(made.stranger_ca))
        until(lambda: state_of(daemon).startswith("refused: certificate verification failed: "))
        assert "New client connected" not in broker.log()


def test_a_device_without_a_certificate_hears_what_may_be_missing(tmp_path: Path, start: Start) -> None:
    made = make_certificates(tmp_path / "certificates")
    with broker_in(tmp_path / "broker", tls=made) as broker:
        daemon = start(broker, tls=True, ca_file=str(made.ca))
        until(lambda: "a client certificate" in state_of(daemon))


def test_home_assistant_finds_the_device_when_it_starts_and_loses_what_is_forgotten(
    tmp_path: Path, start: Start
) -> None:
    with setting(tmp_path) as (broker, heard):
        daemon = start(broker)
        mug, pen = (daemon.learn(*words)["object"]["uid"] for words in (("mug", MUG), ("pen", PEN)))
        heard.until(
            lambda: f"{pen}_present" in (latest(heard, DISCOVERY) or {"components": {}})["components"]
        )
        before = len(heard.on(DISCOVERY))
        heard.publish("homeassistant/status", b"online")
        assert len(heard.wait_for(DISCOVERY, before + 1)) == before + 1
        daemon.ask("rename", name="mug", new="cup")
        heard.until(lambda: latest(heard, DISCOVERY)["components"][f"{mug}_present"]["name"] == "cup")
        heard.clear()
        daemon.ask("forget", name="cup")
        removing, after = map(json.loads, heard.wait_for(DISCOVERY, 2))
        assert removing["components"][f"{mug}_present"] == {"platform": "binary_sensor"}
        assert f"{mug}_present" not in after["components"] and f"{pen}_present" in after["components"]
        assert heard.wait_for(f"{BASE}/objects/{mug}") == [b""]
        with collecting(broker) as later:
            assert json.loads(later.wait_for(DISCOVERY)[0]) == after
            later.wait_for(f"{BASE}/objects/{pen}")
            assert later.on(f"{BASE}/objects/{mug}") == []


def test_what_was_forgotten_while_mqtt_was_off_is_removed_at_the_next_connection(
    tmp_path: Path, start: Start
) -> None:
    with setting(tmp_path) as (broker, heard):
        daemon = start(broker)
        uid = daemon.learn("mug", MUG)["object"]["uid"]
        heard.until(
            lambda: f"{uid}_present" in (latest(heard, DISCOVERY) or {"components": {}})["components"]
        )
        daemon.stop()
        config = daemon.config.read_text()
        daemon.config.write_text(config.replace('broker = "127.0.0.1"', 'broker = ""'))
        daemon.start().up()
        daemon.ask("forget", name="mug")
        daemon.stop()
        daemon.config.write_text(config)
        heard.clear()
        daemon.start().up()
        heard.until(lambda: b"" in heard.on(f"{BASE}/objects/{uid}"))
        removing = [json.loads(payload)["components"] for payload in heard.on(DISCOVERY)]
        assert {"platform": "binary_sensor"} in [found.get(f"{uid}_present") for found in removing]
        assert f"{uid}_present" not in removing[-1]


def test_names_that_change_while_the_broker_is_away_are_removed_when_it_is_back(
    tmp_path: Path, start: Start
) -> None:
    with broker_in(tmp_path / "broker", persistence=True) as broker:
        daemon = start(broker)
        uid = daemon.learn("mug", MUG)["object"]["uid"]
        with collecting(broker) as heard:
            heard.wait_for(f"{BASE}/objects/{uid}")
            heard.wait_for(DISCOVERY)
        time.sleep(UNTIL_SAVED_SECONDS)
        broker.stop()
        config = daemon.config.read_text()
        for name in ("door", "cellar"):
            daemon.stop()
            daemon.config.write_text(config.replace('device_id = "hall"', f'device_id = "{name}"'))
            daemon.start().up()
            until(lambda: state_of(daemon).startswith("disconnected: "))
        broker.start()
        kept = daemon.state / "mqtt.json"
        until(lambda: json.loads(kept.read_text())["former"] == [])
        with collecting(broker) as later:
            later.wait_for(f"edge-siamese/cellar/objects/{uid}")
            later.publish("end", b"")
            later.wait_for("end")
            topics = {message.topic for message in later.messages}
            assert not [topic for topic in topics if "hall" in topic or "door" in topic]


def test_settings_that_are_read_again_remove_the_device_and_bring_it_back(
    tmp_path: Path, start: Start
) -> None:
    with setting(tmp_path) as (broker, heard):
        daemon = start(broker)
        heard.wait_for(DISCOVERY)
        config = daemon.config.read_text()
        daemon.config.write_text(config + 'discovery_prefix = ""\n')
        daemon.service.reload()
        heard.until(lambda: heard.on(DISCOVERY)[-1] == b"")
        daemon.config.write_text(config)
        daemon.service.reload()
        heard.until(lambda: heard.on(DISCOVERY)[-1] != b"")
        daemon.config.write_text(config.replace('broker = "127.0.0.1"', 'broker = ""'))
        daemon.service.reload()
        heard.until(lambda: heard.on(f"{BASE}/availability")[-1] == b"")
        with collecting(broker) as later:
            later.publish("end", b"")
            later.wait_for("end")
            assert [message.topic for message in later.messages] == ["end"]
        assert "mqtt" not in daemon.ask("status")["integrations"]


def test_the_access_list_on_the_page_lets_a_device_do_its_work_and_nothing_to_others(
    tmp_path: Path, start: Start
) -> None:
    page = (ROOT / "docs" / "mqtt.md").read_text(encoding="utf-8")
    (rules,) = re.findall(r"```text\n(user homeassistant\n.*?)```", page, re.DOTALL)
    (tmp_path / "rules").write_text(rules)
    password = tmp_path / "password"
    password.write_text("secret\n")
    with broker_in(
        tmp_path / "broker", user="hall", password="secret", extra=f"acl_file {tmp_path / 'rules'}"
    ) as broker:
        broker.add_user("homeassistant", "other")
        broker.add_user("stranger", "third")
        broker.restart()
        daemon = start(broker, username="hall", password_file=str(password))
        with (
            collecting(broker, user="homeassistant", password="other") as home,
            collecting(broker, f"{BASE}/#", user="stranger", password="third") as stranger,
        ):
            home.wait_for(DISCOVERY)
            home.wait_for(f"{BASE}/state")
            stranger.publish(f"{BASE}/command/register", b'{"name": "trojan"}')
            stranger.publish(f"{BASE}/state", b"{}")
            stranger.publish("edge-siamese/fleet/home/objects/0/0", b"{}")
            daemon.stage.picture = MUG
            assert ask(home, "register", name="mug")["ok"]
            assert stranger.messages == []
            assert home.on("edge-siamese/fleet/home/objects/0/0") == []
            assert home.on(f"{BASE}/command/register") != [] and latest(home, f"{BASE}/state")
        assert [known["name"] for known in daemon.ask("objects")["objects"]] == ["mug"]
        assert daemon.ask("status")["integrations"]["mqtt"]["rejected"] == 0
