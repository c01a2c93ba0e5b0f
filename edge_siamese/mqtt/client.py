"""A connection to an MQTT broker by paho-mqtt: it comes and goes in the background, and nobody waits for it."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from edge_siamese.errors import MqttError
from edge_siamese.mqtt.credentials import read_password, tls_context
from edge_siamese.mqtt.outbox import IN_FLIGHT, Message, Outbox
from edge_siamese.mqtt.reconnect import ReconnectPolicy
from edge_siamese.mqtt.session import Session
from edge_siamese.mqtt.subscriptions import Handler, Incoming, Subscription, Subscriptions
from edge_siamese.settings import MqttSettings

if TYPE_CHECKING:
    from paho.mqtt.client import Client

KEEPALIVE_SECONDS = 30
"""Who is silent for so long is asked whether they are there; a device that is, for half as long again, counts as offline."""
ANSWER_SECONDS = 10.0
"""How long a broker may take to accept a connection; before the first attempt took longer, nothing is wrong."""
MAX_INCOMING_BYTES = 4_000_000
"""Of a message from the broker; larger ones are not sent to a device that speaks MQTT 5."""
ONLINE, OFFLINE = b"online", b"offline"
_BAD_USER = ("Bad user name or password", "Not authorized")

LOG = logging.getLogger(__name__)


Told = Callable[[str, Literal["info", "warning"]], object]


class Connection:
    """The one connection of a device. Handlers and callbacks are called on its thread, and must only queue."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        availability: str,
        *,
        told: Told = lambda text, level: None,
        pace: ReconnectPolicy | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        """Nothing is opened before `start`.

        Args:
            settings: broker, TLS, user.
            client_id: the broker knows the device by it; a second connection of the same id ends the first.
            availability: the topic that says `online` while there is a connection, and `offline` by the last will.
            told: is told that the connection was made, lost or refused; once each time.
            pace: how long to wait between attempts.
            outbox: where messages wait.
        """
        self._settings, self._id, self._availability, self._told = settings, client_id, availability, told
        self._pace = pace or ReconnectPolicy()
        self._outbox = Outbox() if outbox is None else outbox
        self._changing = threading.Lock()
        self._subscriptions = Subscriptions()
        self._callbacks: list[Callable[[], object]] = []
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._connected = False
        self._state, self._said = "connecting", ""
        self._started = float("-inf")
        self._sent = self._received = self._connections = self._unwanted = 0
        self._version_5, self._goodbye = True, OFFLINE
        self._wake_in, self._wake_out = socket.socketpair()
        for end in (self._wake_in, self._wake_out):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    # --- from any thread ---

    @property
    def connected(self) -> bool:
        """Whether messages can go out now."""
        return self._connected

    def start(self) -> None:
        """Connect in the background; raises `MqttError` if that cannot succeed: no paho-mqtt, no such certificate."""
        _paho_client()
        tls_context(self._settings)
        read_password(self._settings)
        self._started = time.monotonic()
        self._thread.start()

    @property
    def has_room(self) -> bool:
        """Whether little waits: who has much to say stops where there is none, or it is said in place of something else."""
        return self._outbox.has_room

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        ended: Callable[[bool], object] | None = None,
    ) -> bool:
        """Publish, now or when there is a connection; whether there was room for it. `ended`: see `Message`."""
        return self._put(Message(topic, payload, retain, ended=ended))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> bool:
        """Publish now; False, and nothing, if there is no connection or too much waits already."""
        return self._connected and self._put(Message(topic, payload, retain, qos, keep=False))

    def listen(self, pattern: str, handler: Handler, subscribed: Callable[[], object] = lambda: None) -> None:
        """Have what comes on a topic, or on those of a pattern, handled, with each connection anew."""
        self._subscriptions.add(pattern, Subscription(handler, True, subscribed))
        self._wake()

    def subscribe(
        self,
        pattern: str,
        handler: Callable[[str, bytes], object],
        subscribed: Callable[[], object] = lambda: None,
    ) -> None:
        """The same until this connection is lost; nothing if there is none. `subscribed` is called when it holds."""
        plain = Subscription(lambda message: handler(message.topic, message.payload), False, subscribed)
        self._subscriptions.add(pattern, plain)
        self._wake()

    def unsubscribe(self, pattern: str) -> None:
        """No more of these."""
        self._subscriptions.remove(pattern)
        self._wake()

    def on_connected(self, callback: Callable[[], object]) -> None:
        """Have this called each time that the connection was made, before any message of it."""
        with self._changing:
            self._callbacks.append(callback)

    def report(self) -> dict[str, Any]:
        """How it is, as JSON values."""
        first = self._state == "connecting" and time.monotonic() - self._started < ANSWER_SECONDS
        return {
            "state": self._state,
            "works": self._connected or first,
            "broker": f"{self._settings.broker}:{self._port}",
            "tls": self._settings.tls,
            "connections": self._connections,
            "sent": self._sent,
            "received": self._received,
            "waiting": len(self._outbox),
            "waiting_bytes": self._outbox.bytes,
            "lost": self._outbox.lost,
            "not_allowed": self._unwanted,
        }

    def close(self, timeout: float, *, goodbye: bytes = OFFLINE) -> None:
        """Send what waits and say `offline`, for at most so many seconds; what hangs is left to itself."""
        self._goodbye = goodbye
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(timeout + 0.2)
        else:
            self._close_waker()
        self._state = "closed"

    def _put(self, message: Message) -> bool:
        taken = self._outbox.put(message)
        self._wake()
        return taken

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: it has ended
            self._wake_out.send(b"\0")

    # --- the network thread ---

    @property
    def _port(self) -> int:
        return self._settings.port or (8883 if self._settings.tls else 1883)

    def _run(self) -> None:
        backoff = self._pace.backoff()
        while not self._closing.is_set():
            session = self._attempt()
            if session.up and time.monotonic() - session.began >= self._pace.stable:
                backoff.reset()
            if self._closing.is_set():
                break
            delay = backoff.pause(self._pace.refused if session.refused else 0.0)
            what = "refused" if session.refused else "away"
            self._state = f"{what}: {session.reason}"
            self._say(
                what, f"the broker {self._settings.broker}:{self._port} {_PHRASES[what]}: {session.reason}"
            )
            self._closing.wait(delay)
        self._close_waker()

    def _close_waker(self) -> None:
        self._wake_in.close()
        self._wake_out.close()

    def _attempt(self) -> Session:
        """Connect, and serve the connection until it ends."""
        session = Session(self._client(), time.monotonic())
        try:
            self._open(session)
            while session.client.socket() is not None and self._serve(session):
                pass
        except ssl.SSLCertVerificationError as error:
            session.reason, session.refused = f"its certificate is not accepted: {error.verify_message}", True
        except OSError as error:  # also MqttError, and what TLS and the name service raise
            session.reason = error.strerror or str(error)
        except Exception:
            LOG.exception("the connection to the broker ends by an error that was not foreseen")
            session.reason = "an error that was not foreseen"
        self._lost(session)
        return session

    def _open(self, session: Session) -> None:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        settings, client = self._settings, session.client
        client.user_data_set(session)
        client.on_connect, client.on_disconnect = self._on_connect, _on_disconnect
        client.on_publish, client.on_subscribe = self._on_publish, self._on_subscribe
        client.on_message = self._on_message
        client.will_set(self._availability, OFFLINE, qos=1, retain=True)
        if settings.username:
            client.username_pw_set(settings.username, read_password(self._settings))
        if (context := tls_context(self._settings)) is not None:
            client.tls_set_context(context)
        client.connect_timeout = ANSWER_SECONDS
        if self._version_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = MAX_INCOMING_BYTES
            client.connect(
                settings.broker, self._port, KEEPALIVE_SECONDS, clean_start=True, properties=properties
            )
        else:
            client.connect(settings.broker, self._port, KEEPALIVE_SECONDS)

    def _client(self) -> Client:
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        version = MQTTProtocolVersion.MQTTv5 if self._version_5 else MQTTProtocolVersion.MQTTv311
        # What is not acknowledged is kept in the outbox, so each connection has a client without a past.
        return _paho_client()(
            CallbackAPIVersion.VERSION2, self._id, protocol=version, reconnect_on_failure=False
        )

    def _serve(self, session: Session) -> bool:
        """Wait for something to do, and do it; whether to go on."""
        client = session.client
        sock: Any = client.socket()
        pending = getattr(sock, "pending", int)()  # what TLS has read already, `poll` does not see
        number, waker = sock.fileno(), self._wake_in.fileno()
        poll = select.poll()  # unlike `select`, it takes sockets of any number
        poll.register(number, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        poll.register(waker, select.POLLIN)
        ready = dict(poll.poll(0 if pending else 1000))
        if waker in ready:
            self._wake_in.recv(4096)
        if pending or ready.get(number, 0) & ~select.POLLOUT:
            client.loop_read()
        if ready.get(number, 0) & select.POLLOUT:
            client.loop_write()
        client.loop_misc()
        if session.up:
            self._subscribe(session)
            self._publish(session)
        elif time.monotonic() - session.began > ANSWER_SECONDS:
            session.reason = session.reason or "it does not answer"
            return False
        return not self._closing.is_set() or self._end(session)

    def _end(self, session: Session) -> bool:
        """Whether there is still something to send before the end; says goodbye when there is not."""
        if session.up and len(self._outbox) and time.monotonic() < self._deadline - 0.1:
            return True
        if session.up:
            session.client.publish(self._availability, self._goodbye, 1, True)
        session.client.disconnect()
        while session.client.want_write() and time.monotonic() < self._deadline:
            session.client.loop_write()
        return False

    def _subscribe(self, session: Session) -> None:
        for pattern, wanted in self._subscriptions.asked():
            if not wanted:
                session.client.unsubscribe(pattern)
                continue
            _, number = session.client.subscribe(pattern, 1)
            if number is not None:
                session.asked[number] = pattern

    def _publish(self, session: Session) -> None:
        while not session.client.want_write() and (item := self._outbox.take(session.in_flight)) is not None:
            number, message = item
            try:
                info = session.client.publish(message.topic, message.payload, message.qos, message.retain)
            except ValueError as error:  # such as a topic that is none
                LOG.warning("%s is not published: %s", message.topic, error)
                self._outbox.done(number, taken=False)
                continue
            self._sent += 1
            if message.qos:
                session.numbers[info.mid] = number

    def _lost(self, session: Session) -> None:
        self._connected = False
        self._subscriptions.lost()
        self._outbox.disconnected()
        session.reason = session.reason or "the connection was lost"

    def _say(self, what: str, text: str) -> None:
        if what != self._said:
            self._said = what
            self._told(text, "info" if what == "connected" else "warning")

    def _on_connect(self, client: Client, session: Session, flags: Any, reason: Any, properties: Any) -> None:
        if reason.is_failure:
            text = str(reason)
            if text == "Unsupported protocol version" and self._version_5:
                self._version_5 = False  # an older broker; the next attempt speaks as it does
            bad_user = text in _BAD_USER
            session.refused = bad_user
            session.reason = "bad user name or password" if bad_user else text
            return
        session.up, session.reason = True, ""
        session.in_flight = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        with self._changing:
            self._connected, self._state = True, "connected"
            self._connections += 1
            callbacks = tuple(self._callbacks)
        self._subscriptions.connected()
        client.publish(self._availability, ONLINE, 1, True)
        for callback in callbacks:
            _call(callback)
        self._say("connected", f"connected to the broker {self._settings.broker}:{self._port}")

    def _on_publish(
        self, client: Client, session: Session, number: int, reason: Any, properties: Any
    ) -> None:
        message = self._outbox.done(session.numbers.pop(number, -1), not reason.is_failure)
        if message is not None and reason.is_failure:
            self._unwanted += 1
            again = message.topic in session.unwanted  # a state is tried again: once is enough for a log
            LOG.log(
                logging.DEBUG if again else logging.WARNING,
                "the broker does not take %s: %s",
                message.topic,
                reason,
            )
            session.unwanted.add(message.topic)

    def _on_subscribe(
        self, client: Client, session: Session, number: int, reasons: Any, properties: Any
    ) -> None:
        pattern = session.asked.pop(number, "")
        found = self._subscriptions.get(pattern)
        if any(reason.is_failure for reason in reasons):
            self._unwanted += 1
            LOG.warning("the broker does not let this device read %s: %s", pattern, reasons[0])
        elif found is not None:
            _call(found.subscribed)

    def _on_message(self, client: Client, session: Session, message: Any) -> None:
        from paho.mqtt.client import topic_matches_sub

        self._received += 1
        try:
            incoming = Incoming(message.topic, bytes(message.payload), bool(message.retain))
        except UnicodeDecodeError:
            return  # no topic of ours
        for subscription in self._subscriptions.of(incoming.topic, topic_matches_sub):
            _call(partial(subscription.handler, incoming))


_PHRASES = {"away": "cannot be reached", "refused": "refuses this device"}


def _on_disconnect(client: Client, session: Session, flags: Any, reason: Any, properties: Any) -> None:
    if session.reason:
        return
    session.reason = "the connection was lost" if str(reason) == "Unspecified error" else str(reason)
    if not session.up:
        session.reason += " before the broker accepted it; does it want TLS, or this device's certificate?"


def _call(function: Callable[[], object]) -> None:
    """What others do must not end the connection."""
    try:
        function()
    except Exception:
        LOG.exception("what was to be done with a message failed")


def _paho_client() -> type[Client]:
    try:
        import paho.mqtt.enums  # noqa: F401 (since paho-mqtt 2)
        from paho.mqtt.client import Client
    except ImportError as error:
        raise MqttError(
            "MQTT needs paho-mqtt 2: install edge-siamese anew, or in an environment of your own: "
            "pip install 'edge-siamese[mqtt]'"
        ) from error
    return Client
