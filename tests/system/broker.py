"""A Mosquitto of a test on loopback, which can be killed and restarted, and a client that collects messages."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

MOSQUITTO = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
HOST = "127.0.0.1"


def require_mosquitto() -> None:
    """Skip where there is none."""
    if not Path(MOSQUITTO).is_file() or shutil.which("mosquitto_passwd") is None:
        pytest.skip("needs Debian's package mosquitto: sh scripts/system_packages.sh installs it")


def free_port() -> int:
    """A port of loopback that nothing listens at just now."""
    with socket.socket() as found:
        found.bind((HOST, 0))
        return int(found.getsockname()[1])


@dataclass(frozen=True)
class Certificates:
    """Files (PEM) of an authority, of a broker at 127.0.0.1, and of a client, and of an authority that nobody trusts."""

    ca: Path
    broker: Path
    broker_key: Path
    client: Path
    client_key: Path
    stranger_ca: Path


def make_certificates(home: Path) -> Certificates:
    """Have openssl make them, valid for two days."""
    home.mkdir(parents=True, exist_ok=True)

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=home, check=True, capture_output=True)

    def authority(name: str) -> Path:
        key, made = f"{name}.key", f"{name}.pem"
        new = (
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
        )
        openssl(*new, "-subj", f"/CN={name}", "-keyout", key, "-out", made)
        return home / made

    def signed(name: str, extension: str) -> tuple[Path, Path]:
        (home / f"{name}.ext").write_text(extension)
        new = ("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
        openssl(*new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        sign = ("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        openssl(*sign, "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")
        return home / f"{name}.pem", home / f"{name}.key"

    ca, stranger = authority("ca"), authority("stranger")
    broker, broker_key = signed("broker", "subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    client, client_key = signed("client", "extendedKeyUsage=clientAuth\n")
    return Certificates(ca, broker, broker_key, client, client_key, stranger)


class Broker:
    """A Mosquitto; not started yet."""

    def __init__(
        self,
        home: Path,
        *,
        user: str = "",
        password: str = "",
        tls: Certificates | None = None,
        persistence: bool = False,
        extra: str = "",
    ) -> None:
        """Nothing is started.

        Args:
            home: a directory of its own, for its configuration, log and database.
            user: who alone may connect; empty: anybody.
            password: of the user.
            tls: speak over TLS, and demand a client's certificate of the same authority.
            persistence: keep retained messages and sessions over a restart; `kill` loses those of the second before.
            extra: more lines of its configuration.
        """
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.port = home, free_port()
        self.user, self.password, self.tls = user, password, tls
        self._process: subprocess.Popen[bytes] | None = None
        lines = ["log_dest file " + str(home / "log"), "log_type all", f"listener {self.port} {HOST}"]
        lines += [f"allow_anonymous {'false' if user else 'true'}"]
        if user:
            self.set_password(password)
            lines += [f"password_file {home / 'passwords'}"]
        if tls is not None:
            lines += [f"cafile {tls.ca}", f"certfile {tls.broker}", f"keyfile {tls.broker_key}"]
            lines += ["require_certificate true"]
        if persistence:
            lines += ["persistence true", f"persistence_location {home}/"]
            lines += ["autosave_on_changes true", "autosave_interval 1"]
        (home / "mosquitto.conf").write_text("\n".join([*lines, "user root", extra, ""]))

    def set_password(self, password: str) -> None:
        """Make it the user's, from the next start or `reload` on."""
        self.password = password
        self.add_user(self.user, password)

    def add_user(self, user: str, password: str) -> None:
        """One more that may connect, or another password of one, from the next start or `reload` on."""
        path = self.home / "passwords"
        path.touch()
        subprocess.run(["mosquitto_passwd", "-b", str(path), user, password], check=True, capture_output=True)

    def start(self) -> Broker:
        """Start it, and wait until it answers."""
        assert self._process is None, "it runs"
        config = self.home / "mosquitto.conf"
        self._process = subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while True:
            assert self._process.poll() is None, f"mosquitto ends: {self.log()[-1000:]}"
            try:
                socket.create_connection((HOST, self.port), 1).close()
                return self
            except OSError:
                assert time.monotonic() < end, "mosquitto does not answer"
                time.sleep(0.02)

    @property
    def running(self) -> bool:
        return self._process is not None

    def stop(self) -> None:
        """Shut it down: clients are disconnected, and retained messages are written."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def reload(self) -> None:
        """Have it read its passwords again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def log(self) -> str:
        path = self.home / "log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(10)


@dataclass(frozen=True)
class Received:
    """A message that a collector was given."""

    topic: str
    payload: bytes
    retain: bool
    qos: int


class Collector:
    """A client that keeps all that it is given, and can publish; it comes back by itself when the broker does."""

    def __init__(
        self, broker: Broker, *patterns: str, session: str = "", user: str = "", password: str = ""
    ) -> None:
        """Connect and subscribe.

        Args:
            broker: runs.
            patterns: of topics; none: all.
            session: a name under which a broker with persistence keeps what comes while this client is away.
            user: another one than the broker's own.
            password: of that user.
        """
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        self.messages: list[Received] = []
        """All of them, the oldest first."""
        self._subscribed = threading.Event()
        self._client = Client(CallbackAPIVersion.VERSION2, session, clean_session=not session)
        if user or broker.user:
            self._client.username_pw_set(user or broker.user, password or broker.password)
        if (tls := broker.tls) is not None:
            context = ssl.create_default_context(cafile=str(tls.ca))
            context.load_cert_chain(tls.client, tls.client_key)
            self._client.tls_set_context(context)
        self._client.reconnect_delay_set(1, 1)
        self._patterns = patterns or ("#",)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect(HOST, broker.port)
        self._client.loop_start()
        assert self._subscribed.wait(10), "the collector was not subscribed"

    def _on_connect(self, client: Any, *_: Any) -> None:
        client.subscribe([(pattern, 1) for pattern in self._patterns])

    def _on_message(self, client: Any, data: Any, message: Any) -> None:
        self.messages.append(Received(message.topic, message.payload, message.retain, message.qos))

    def on(self, topic: str) -> list[bytes]:
        """The payloads of one topic, the oldest first."""
        return [message.payload for message in list(self.messages) if message.topic == topic]

    def until(self, condition: Callable[[], Any], seconds: float = 10.0) -> Any:
        """Wait for what comes; what the condition gave."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, f"it did not come; last: {self.messages[-5:]}"
            time.sleep(0.01)
        return found

    def wait_for(self, topic: str, count: int = 1, seconds: float = 10.0) -> list[bytes]:
        """Wait for so many messages of a topic; all their payloads."""
        self.until(lambda: len(self.on(topic)) >= count, seconds)
        return self.on(topic)

    def publish(self, topic: str, payload: bytes | str = b"", *, retain: bool = False, qos: int = 1) -> None:
        """Publish, once there is a connection, and wait until the broker has it."""
        self.until(self._client.is_connected)
        self._client.publish(topic, payload, qos, retain).wait_for_publish(10)

    def clear(self) -> None:
        """Forget what came."""
        self.messages.clear()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def broker_in(home: Path, **options: Any) -> Iterator[Broker]:
    """A broker that runs; it is ended at the end. Skips where there is no Mosquitto."""
    require_mosquitto()
    made = Broker(home, **options).start()
    try:
        yield made
    finally:
        made.kill()


@contextmanager
def collecting(broker: Broker, *patterns: str, **options: str) -> Iterator[Collector]:
    """A collector of all messages, or of those of the patterns; `options` as of `Collector`."""
    made = Collector(broker, *patterns, **options)
    try:
        yield made
    finally:
        made.close()
