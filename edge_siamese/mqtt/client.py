"""The connection to an MQTT broker: connects and reconnects in the background, and no caller waits for the network.

paho-mqtt implements the protocol. Its own loop (`loop_start`) is not used, for three reasons: it cannot watch file
descriptors above 1023 (the service may open 4096); it resends a message that breaks the connection every second, forever;
and it reconnects every second to a broker that drops connections. The loop here drives paho through its interface for
external event loops (`loop_read`, `loop_write`, `loop_misc`), with a new paho client for each connection; messages wait in
an `Outbox`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from edge_siamese.errors import MqttError
from edge_siamese.mqtt.broker_limits import SESSION_TAKEN_OVER, BrokerLimits, LossObserver, packet_bytes
from edge_siamese.mqtt.outbox import Message, Outbox
from edge_siamese.mqtt.security import read_password, tls_context
from edge_siamese.settings import MqttSettings
from edge_siamese.system.retry import Backoff

if TYPE_CHECKING:
    from paho.mqtt.client import Client

KEEPALIVE_SECONDS = 30
"""Silence after which the client pings. The broker declares the device offline after one and a half times as long."""
CONNECT_TIMEOUT_SECONDS = 10.0
"""Time limit for a broker to accept a connection. Until then the first attempt is not reported as a failure."""
MAX_INCOMING_BYTES = 4_000_000
"""Largest packet that an MQTT 5 broker may send to this device."""
MAX_FAILURES = 20
"""Different errors of handlers that are logged."""
MAX_TAKEOVERS = 10
"""The pause before reconnecting grows each time another client takes over, up to this many times."""
MAX_SKIPPED = 1000
"""Topics to remember whose message was too large for the broker."""
ONLINE, OFFLINE = b"online", b"offline"

_BAD_CREDENTIALS = ("Bad user name or password", "Not authorized")
_PHRASES = {"disconnected": "cannot be reached", "refused": "refuses this device"}
_TAKEN_OVER = "another client has connected as {}: does another device use this device_id?"

LOG = logging.getLogger(__name__)

Notify = Callable[[str, Literal["info", "warning"]], object]


@dataclass(frozen=True)
class ReconnectPolicy:
    """Seconds between attempts to connect."""

    initial: float = 1.0
    """Delay after the first failure; doubled after each further one."""
    maximum: float = 120.0
    refused: float = 60.0
    """Minimum after the broker refused the credentials: they rarely change soon, and brokers log each attempt."""
    stable: float = 10.0
    """A connection that lasted this long resets the delay."""

    def backoff(self) -> Backoff:
        """Return the delays, randomized so that devices do not reconnect at the same moment."""
        return Backoff(self.initial, self.maximum, jitter=random.random)


@dataclass(frozen=True)
class ReceivedMessage:
    """A message from the broker."""

    topic: str
    payload: bytes
    retain: bool
    """Whether the broker had retained it. A retained message may be of any age."""


Handler = Callable[[ReceivedMessage], object]


@dataclass(frozen=True)
class _Subscription:
    handler: Handler
    persistent: bool
    """Whether it is renewed after each reconnect."""
    topics: tuple[str, ...]
    """Topics to subscribe to instead where the broker allows no wildcards."""
    on_subscribed: Callable[[], object]
    """Called when the broker has acknowledged it."""


@dataclass
class _Session:
    """The state of one connection attempt, used by the network thread only."""

    client: Client
    started: float
    accepted: bool = False
    reason: str = ""
    """Why it ended."""
    refused: bool = False
    """Whether the broker refused the credentials, or its certificate failed verification."""
    taken_over: bool = False
    """Whether the broker ended it because another client connected with the same id."""
    ended: bool = False
    """Whether the broker ended it, or the network."""
    code: int | None = None
    """Reason code with which the broker ended it."""
    direct: set[int] = field(default_factory=set)
    """Packet ids of the unacknowledged messages that are not from the outbox."""
    outbox_numbers: dict[int, int] = field(default_factory=dict)
    """Outbox number by packet id, for messages in flight."""
    rejected: set[str] = field(default_factory=set)
    """Topics to which the broker does not let this device publish."""
    subscribing: dict[int, str] = field(default_factory=dict)
    """Pattern by packet id, for subscriptions that are not acknowledged."""


@contextlib.contextmanager
def _lingering(client: Client, deadline: float) -> Iterator[None]:
    """Keep the connection open after the block until the broker closes it, at most until the deadline.

    Closing it while messages of the broker are unread would reset it, and the broker would not read the last packets.
    """
    network = client.socket()
    if network is None:
        yield
        return
    with socket.socket(fileno=os.dup(network.fileno())) as spare:
        yield
        with contextlib.suppress(OSError):
            spare.shutdown(socket.SHUT_WR)
            while (remaining := deadline - time.monotonic()) > 0:
                spare.settimeout(remaining)
                if not spare.recv(65536):
                    break


class MqttClient:
    """A device's connection to its broker.

    Handlers and callbacks run on the network thread and must return immediately.
    """

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        availability: str,
        *,
        notify: Notify = lambda text, level: None,
        reconnect: ReconnectPolicy | None = None,
        outbox: Outbox | None = None,
    ) -> None:
        """Configure the connection; `start` opens it.

        Args:
            settings: broker, TLS and credentials.
            client_id: a second connection with the same id makes the broker end the first.
            availability: topic of `online` while connected and, as last will, `offline`.
            notify: receives a line of text once per change: connected, connection lost, refused.
            reconnect: delays between attempts.
            outbox: queue of outgoing messages.
        """
        self._settings, self._client_id, self._availability = settings, client_id, availability
        self._notify, self._reconnect = notify, reconnect or ReconnectPolicy()
        self._outbox = Outbox() if outbox is None else outbox
        self._lock = threading.Lock()
        self._subscriptions: dict[str, _Subscription] = {}
        """By pattern."""
        self._subscription_requests: list[tuple[str, bool]] = []
        """Patterns to subscribe (True) or unsubscribe (False) on the current connection."""
        self._connect_callbacks: list[Callable[[], object]] = []
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._connected = False
        self._state, self._notified = "connecting", ""
        self._started = float("-inf")
        self._sent = self._received = self._connections = self._rejected = self._too_large = 0
        self._protocol_5, self._final_availability = True, OFFLINE
        self._only_311 = False
        """Whether the broker said that it does not support MQTT 5."""
        self._limits = self._learned = BrokerLimits()
        """Limits of the latest connection, and those that were learned from errors."""
        self._losses = LossObserver()
        self._limits_notified = ""
        self._takeovers = 0
        self._skipped: set[str] = set()
        """Topics of messages that were too large for the broker, each logged once."""
        self._wake_reader, self._wake_writer = socket.socketpair()
        for end in (self._wake_reader, self._wake_writer):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)

    # --- any thread ---

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        return self._connected

    @property
    def limits(self) -> BrokerLimits:
        """Limits of the broker, as far as known."""
        return self._limits

    def max_payload(self, topic: str, qos: int = 1) -> int | None:
        """Return the size of the largest payload that the broker accepts for a topic; None: no limit."""
        return self._limits.max_payload(topic, qos, mqtt5=self._protocol_5)

    @property
    def has_room(self) -> bool:
        """Whether the outbox is less than half full. Bulk publishers pause otherwise, so that events are not dropped."""
        return self._outbox.has_room

    def start(self) -> None:
        """Connect in the background.

        Raises:
            MqttError: paho-mqtt is missing, or the password file or a certificate cannot be used.
        """
        check_client(self._settings)
        self._started = time.monotonic()
        self._thread.start()

    def enqueue(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        on_done: Callable[[bool], object] | None = None,
    ) -> bool:
        """Send a message now or after the next connect.

        Returns:
            Whether the outbox had room for it. For `on_done` see `Message`.
        """
        return self._put(Message(topic, payload, retain, on_done=on_done))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, qos: int = 1) -> bool:
        """Send a message now; return False, and drop it, without a connection or room in the outbox."""
        return self._connected and self._put(Message(topic, payload, retain, qos, keep=False))

    def announce(self) -> None:
        """Publish the availability `online` again."""
        self.publish(self._availability, ONLINE, retain=True)

    def listen(
        self,
        pattern: str,
        handler: Handler,
        on_subscribed: Callable[[], object] = lambda: None,
        *,
        topics: tuple[str, ...] = (),
    ) -> None:
        """Subscribe now and after every reconnect; to `topics` instead of a pattern if the broker allows no wildcards."""
        self._subscribe(pattern, _Subscription(handler, True, topics, on_subscribed))

    def subscribe(
        self,
        pattern: str,
        handler: Callable[[str, bytes], object],
        on_subscribed: Callable[[], object] = lambda: None,
    ) -> None:
        """Subscribe until the current connection ends; do nothing without one."""
        self._subscribe(
            pattern, _Subscription(lambda it: handler(it.topic, it.payload), False, (), on_subscribed)
        )

    def _subscribe(self, pattern: str, subscription: _Subscription) -> None:
        with self._lock:
            if subscription.persistent or self._connected:
                self._subscriptions[pattern] = subscription
                self._subscription_requests += [(pattern, True)] * self._connected
        self._wake()

    def unsubscribe(self, pattern: str) -> None:
        """End the subscription of a pattern, if there is one."""
        with self._lock:
            if self._subscriptions.pop(pattern, None) is not None and self._connected:
                self._subscription_requests.append((pattern, False))
        self._wake()

    def on_connected(self, callback: Callable[[], object]) -> None:
        """Call this after each connect, before any message of that connection is handled."""
        with self._lock:
            self._connect_callbacks.append(callback)

    def report(self) -> dict[str, Any]:
        """Return the status as JSON values."""
        first_attempt = (
            self._state == "connecting" and time.monotonic() - self._started < CONNECT_TIMEOUT_SECONDS
        )
        return {
            "state": self._state,
            "works": self._connected or first_attempt,
            "broker": self._address,
            "tls": self._settings.server.tls,
            "connections": self._connections,
            "sent": self._sent,
            "received": self._received,
            "queued": len(self._outbox),
            "queued_bytes": self._outbox.bytes,
            "lost": self._outbox.lost,
            "rejected": self._rejected,
            "too_large": self._too_large,
            "limits": self._limits.describe(),
        }

    def close(self, timeout: float, *, final_availability: bytes = OFFLINE) -> None:
        """Send what is queued, then `final_availability`, and disconnect, within `timeout` seconds."""
        self._final_availability = final_availability
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(timeout + 0.2)
        else:
            self._close_wake_sockets()
        self._state = "closed"

    def _put(self, message: Message) -> bool:
        accepted = self._outbox.put(message)
        self._wake()
        return accepted

    def _wake(self) -> None:
        """Make the network thread check outbox and subscriptions."""
        with contextlib.suppress(OSError):  # full: it wakes anyway; closed: it has ended
            self._wake_writer.send(b"\0")

    # --- network thread ---

    @property
    def _address(self) -> str:
        return self._settings.server.netloc

    def _run(self) -> None:
        backoff = self._reconnect.backoff()
        while not self._closing.is_set():
            session = self._connect_and_serve()
            if session.accepted and time.monotonic() - session.started >= self._reconnect.stable:
                backoff.reset()
            if self._closing.is_set():
                break
            self._learn(session)
            state = "refused" if session.refused else "disconnected"
            self._state = f"{state}: {session.reason}"
            if session.taken_over:
                self._notify_once(
                    "taken over", f"the broker {self._address} ended the connection: {session.reason}"
                )
            else:
                self._notify_once(state, f"the broker {self._address} {_PHRASES[state]}: {session.reason}")
            self._takeovers += session.taken_over
            # Two devices with one id would end each other's connection every second.
            slow = session.refused + session.taken_over * min(self._takeovers, MAX_TAKEOVERS)
            self._closing.wait(backoff.pause(slow * self._reconnect.refused))
        self._close_wake_sockets()

    def _close_wake_sockets(self) -> None:
        self._wake_reader.close()
        self._wake_writer.close()

    def _connect_and_serve(self) -> _Session:
        """Connect, and serve the connection until it ends."""
        session = _Session(self._new_client(), time.monotonic())
        try:
            self._connect(session)
            while session.client.socket() is not None and self._serve(session):
                pass
        except ssl.SSLCertVerificationError as error:
            session.reason = f"certificate verification failed: {error.verify_message}"
            session.refused = True
        except OSError as error:  # includes MqttError and errors of TLS and name resolution
            session.reason = error.strerror or str(error)
        except Exception:  # a defect must not end the thread
            LOG.exception("the connection to the broker ended with an unexpected error")
            session.reason = "unexpected error; see the log"
        with self._lock:
            self._connected = False
            self._subscription_requests.clear()
            self._subscriptions = {key: it for key, it in self._subscriptions.items() if it.persistent}
        self._outbox.disconnected()
        session.reason = session.reason or "connection lost"
        return session

    def _learn(self, session: _Session) -> None:
        """Learn from the end of a connection what the broker does not accept."""
        if not session.accepted:
            if session.ended and session.code is None and not self._only_311:
                self._protocol_5 = not self._protocol_5  # old brokers end a connection that uses MQTT 5
            if session.code is not None:
                self._limits = self._learned = self._learned.after_error(session.code)
            return
        if session.code is not None:
            self._learned = self._limits.after_error(session.code)
        if session.ended and (size := self._losses.connection_ended(session.code)) is not None:
            self._learned = self._learned.combine(BrokerLimits(max_packet_bytes=size))
        if not self._only_311:
            self._protocol_5 = True

    def _new_client(self) -> Client:
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        version = MQTTProtocolVersion.MQTTv5 if self._protocol_5 else MQTTProtocolVersion.MQTTv311
        return _import_client()(
            CallbackAPIVersion.VERSION2, self._client_id, protocol=version, reconnect_on_failure=False
        )

    def _connect(self, session: _Session) -> None:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        client = session.client
        client.user_data_set(session)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish, client.on_subscribe = self._on_publish, self._on_subscribe
        # Brokers refuse a connection whose last will they cannot keep.
        client.will_set(
            self._availability, OFFLINE, qos=min(1, self._limits.max_qos), retain=self._limits.retain
        )
        server = self._settings.server
        if server.username:
            client.username_pw_set(server.username, read_password(self._settings))
        if (context := tls_context(self._settings)) is not None:
            client.tls_set_context(context)
        client.connect_timeout = CONNECT_TIMEOUT_SECONDS
        options: dict[str, Any] = {}
        if self._protocol_5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = MAX_INCOMING_BYTES
            options = {"clean_start": True, "properties": properties}
        client.connect(server.host, server.port, KEEPALIVE_SECONDS, **options)

    def _serve(self, session: _Session) -> bool:
        """Wait for the network or a wake-up and handle it; return False to end the connection."""
        client = session.client
        sock: Any = client.socket()
        buffered = getattr(
            sock, "pending", int
        )()  # bytes that TLS has already read, which `poll` does not see
        network, waker = sock.fileno(), self._wake_reader.fileno()
        poll = select.poll()  # unlike `select`, accepts file descriptors above 1023
        poll.register(network, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        poll.register(waker, select.POLLIN)
        until_deadline = max(0.0, self._deadline - 0.1 - time.monotonic())
        ready = dict(poll.poll(0 if buffered else 1000 * min(1.0, until_deadline)))
        if waker in ready:
            self._wake_reader.recv(4096)
        if buffered or ready.get(network, 0) & ~select.POLLOUT:
            client.loop_read()
        if ready.get(network, 0) & select.POLLOUT:
            client.loop_write()
        client.loop_misc()
        if session.accepted:
            self._send_subscriptions(session)
            self._send_messages(session)
        elif time.monotonic() - session.started > CONNECT_TIMEOUT_SECONDS:
            session.reason = session.reason or "no answer"
            return False
        return not self._closing.is_set() or self._drain(session)

    def _drain(self, session: _Session) -> bool:
        """Return True while messages are to be sent before closing; otherwise publish the availability and disconnect."""
        if session.accepted and len(self._outbox) and time.monotonic() < self._deadline - 0.1:
            return True
        if session.accepted:
            # With too many unacknowledged messages, paho would queue one of QoS 1 instead of sending it.
            waits = len(session.outbox_numbers) + len(session.direct) >= self._limits.max_in_flight
            qos = 0 if waits else min(1, self._limits.max_qos)
            session.client.publish(self._availability, self._final_availability, qos, self._limits.retain)
        with _lingering(session.client, self._deadline):
            session.client.disconnect()
            while session.client.want_write() and time.monotonic() < self._deadline:
                session.client.loop_write()
        return False

    def _send_subscriptions(self, session: _Session) -> None:
        with self._lock:
            requests, self._subscription_requests = self._subscription_requests, []
        for pattern, subscribe in requests:
            for topic in self._topics_of(pattern, subscribe):
                if not subscribe:
                    session.client.unsubscribe(topic)
                    session.client.message_callback_remove(topic)
                    continue
                session.client.message_callback_add(topic, partial(self._on_message, pattern))
                _, packet_id = session.client.subscribe(topic, 1)
                if packet_id is not None:
                    session.subscribing[packet_id] = pattern

    def _topics_of(self, pattern: str, subscribe: bool) -> tuple[str, ...]:
        """Return the topics to subscribe to for a pattern."""
        if self._limits.wildcards or not subscribe or not set(pattern) & set("+#"):
            return (pattern,)
        with self._lock:
            subscription = self._subscriptions.get(pattern)
        topics = subscription.topics if subscription is not None else ()
        if not topics:
            LOG.warning("the broker allows no wildcards: not subscribed to %s", pattern)
        return topics

    def _send_messages(self, session: _Session) -> None:
        client, limits = session.client, self._limits
        max_in_flight = 1 if self._losses.suspicious else limits.max_in_flight
        while not client.want_write():
            item = self._outbox.take(max_in_flight - len(session.direct))
            if item is None:
                return
            number, message = item
            qos = min(message.qos, limits.max_qos)
            size = packet_bytes(message.topic, len(message.payload), qos, mqtt5=self._protocol_5)
            if limits.max_packet_bytes is not None and size > limits.max_packet_bytes:
                self._skip(number, message, size)
                continue
            try:
                info = client.publish(message.topic, message.payload, qos, message.retain and limits.retain)
            except ValueError as error:  # such as an invalid topic
                LOG.warning("%s is not published: %s", message.topic, error)
                self._outbox.done(number, accepted=False)
                continue
            self._sent += 1
            self._losses.sent(number, size)
            if qos:
                session.outbox_numbers[info.mid] = number
            elif message.qos:
                self._outbox.done(number)  # the broker acknowledges none

    def _skip(self, number: int, message: Message, size: int) -> None:
        """Drop a message that is too large for the broker."""
        self._too_large += 1
        self._outbox.done(number, accepted=False)
        level = logging.DEBUG if message.topic in self._skipped else logging.WARNING
        text = "%s is not published: %d bytes are more than the broker accepts, %d"
        LOG.log(level, text, message.topic, size, self._limits.max_packet_bytes)
        if len(self._skipped) < MAX_SKIPPED:
            self._skipped.add(message.topic)

    def _notify_once(self, state: str, text: str) -> None:
        if state != self._notified:
            self._notified = state
            self._notify(text, "info" if state == "connected" else "warning")

    # --- paho's callbacks, on the network thread ---

    def _on_connect(
        self, client: Client, session: _Session, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            text = str(reason)
            if text == "Unsupported protocol version" and self._protocol_5:
                self._protocol_5, self._only_311 = False, True  # the next attempt uses MQTT 3.1.1
            session.code = reason.value
            session.refused = text in _BAD_CREDENTIALS
            session.reason = "bad user name or password" if session.refused else text
            return
        session.accepted, session.reason = True, ""
        self._limits = self._learned.combine(BrokerLimits.announced(properties))
        with self._lock:
            self._connected, self._state = True, "connected"
            self._connections += 1
            self._subscription_requests = [(pattern, True) for pattern in self._subscriptions]
            callbacks = tuple(self._connect_callbacks)
        qos = min(1, self._limits.max_qos)
        info = client.publish(self._availability, ONLINE, qos, self._limits.retain)
        if qos:
            session.direct.add(info.mid)
        for callback in callbacks:
            _call(callback)
        self._notify_once("connected", f"connected to the broker {self._address}")
        if (limits := self._limits.describe()) and limits != self._limits_notified:
            self._limits_notified = limits
            self._notify(f"the broker {self._address} has limits: {limits}", "info")

    def _on_publish(
        self, client: Client, session: _Session, packet_id: int, reason: Any, properties: Any
    ) -> None:
        session.direct.discard(packet_id)
        number = session.outbox_numbers.pop(packet_id, -1)
        self._losses.acknowledged(number)
        message = self._outbox.done(number, accepted=not reason.is_failure)
        if message is not None and reason.is_failure:
            self._rejected += 1
            # States are published again later: one warning per topic is enough.
            level = logging.DEBUG if message.topic in session.rejected else logging.WARNING
            LOG.log(level, "the broker rejects %s: %s", message.topic, reason)
            session.rejected.add(message.topic)

    def _on_subscribe(
        self, client: Client, session: _Session, packet_id: int, reasons: Any, properties: Any
    ) -> None:
        pattern = session.subscribing.pop(packet_id, "")
        with self._lock:
            subscription = self._subscriptions.get(pattern)
        if any(reason.is_failure for reason in reasons):
            self._rejected += 1
            LOG.warning("the broker rejects the subscription to %s: %s", pattern, reasons[0])
        elif subscription is not None:
            _call(subscription.on_subscribed)

    def _on_disconnect(
        self, client: Client, session: _Session, flags: Any, reason: Any, properties: Any
    ) -> None:
        session.ended = True
        if session.reason:
            return
        if flags.is_disconnect_packet_from_server:
            session.code = reason.value
        session.taken_over = session.code == SESSION_TAKEN_OVER
        if session.taken_over:
            session.reason = _TAKEN_OVER.format(self._client_id)
            return
        session.reason = "connection lost" if str(reason) == "Unspecified error" else str(reason)
        if not session.accepted:
            session.reason += " before the broker accepted it; does it require TLS, or a client certificate?"

    def _on_message(self, pattern: str, client: Client, session: _Session, message: Any) -> None:
        self._received += 1
        received = ReceivedMessage(message.topic, bytes(message.payload), bool(message.retain))
        with self._lock:
            subscription = self._subscriptions.get(pattern)
        if subscription is not None:
            _call(partial(subscription.handler, received))


_failures: set[str] = set()
"""Errors of handlers that were logged: messages can cause any number of them."""


def _call(function: Callable[[], object]) -> None:
    """Call a handler; log its errors, each once, instead of ending the connection."""
    try:
        function()
    except Exception as error:
        text = f"{type(error).__name__}: {error}"[:200]
        if text not in _failures and len(_failures) < MAX_FAILURES:
            _failures.add(text)
            LOG.exception("a handler of MQTT messages failed")


def check_client(settings: MqttSettings) -> None:
    """Raise `MqttError` if paho-mqtt is missing, or the password file or a certificate cannot be used."""
    _import_client()
    tls_context(settings)
    read_password(settings)


def _import_client() -> type[Client]:
    try:
        import paho.mqtt.enums  # noqa: F401 (since paho-mqtt 2)
        from paho.mqtt.client import Client
    except ImportError as error:
        raise MqttError(
            "MQTT needs paho-mqtt 2: reinstall edge-siamese, or, in your own environment, "
            "pip install 'edge-siamese[mqtt]'"
        ) from error
    return Client
