"""The settings of what people can do without: dashboard, MQTT and metrics, each off until it is turned on."""

from __future__ import annotations

from dataclasses import dataclass

from edge_siamese.validation import SchemaError, require_within

_IDENTIFIER = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


@dataclass(frozen=True)
class DashboardSettings:
    """The page that shows what the daemon sees, in a browser."""

    enabled: bool = False
    """Serve it. It needs the packages of the extra `dashboard`, which the installer brings."""
    listen: str = "127.0.0.1"
    """The address at which it is served; `0.0.0.0`: at all that this machine has, and `::` likewise. Beyond this machine it
    needs a password: `sudo edge-siamese dashboard password`."""
    port: int = 8765
    """The port."""
    certificate: str = ""
    """A certificate file (PEM, with those between it and the root): the page is then served over TLS alone."""
    key: str = ""
    """The certificate's private key (PEM)."""
    hosts: tuple[str, ...] = ()
    """Names under which the page may be asked for, besides this machine's own and its addresses: such as one that a router
    gives it, or that of a proxy before it."""
    clients: int = 4
    """How many may watch at a time."""
    rate: float = 5.0
    """Pictures a second that are made for those who watch, at most."""
    upload_bytes: int = 16_000_000
    """Of a picture that is sent to it, at most."""

    def __post_init__(self) -> None:
        require_within("port", self.port, 1, 65535)
        require_within("clients", self.clients, 1, 64)
        require_within("rate", self.rate, 0.1, 60)
        require_within("upload_bytes", self.upload_bytes, 10_000, 10**9)
        if bool(self.certificate) != bool(self.key):
            missing = "key" if self.certificate else "certificate"
            raise SchemaError(missing, "certificate and key belong together")


@dataclass(frozen=True)
class MqttSettings:
    """A broker that events and states go to, and commands come from; Home Assistant finds the device by itself."""

    broker: str = ""
    """The broker's name or address. Empty: no MQTT. It needs the package of the extra `mqtt`, which the installer brings."""
    port: int = 0
    """Its port. 0: 8883 with TLS, 1883 without."""
    tls: bool = False
    """Speak over TLS, and see that the broker is the one it says it is."""
    ca: str = ""
    """A file with the certificates (PEM) that the broker's is checked with. Empty: those of the system."""
    certificate: str = ""
    """A certificate file (PEM) by which the broker knows this device."""
    key: str = ""
    """The certificate's private key (PEM)."""
    user: str = ""
    """The user's name at the broker. Empty: none."""
    password_file: str = ""
    """A file whose first line is that user's password; nobody but the service should be able to read it."""
    prefix: str = "edge-siamese"
    """What all topics begin with."""
    device: str = ""
    """This device in topics: a to z, 0 to 9, - and _. Empty: made from the machine's id, which it does not give away."""
    name: str = ""
    """What Home Assistant and the dashboard call this device. Empty: its host name."""
    discovery: str = "homeassistant"
    """The prefix under which Home Assistant looks for devices. Empty: it is not told."""
    snapshots: bool = True
    """Send a picture when an object appears, and when one is asked for."""
    collection: str = ""
    """Devices with the same collection teach each other their objects. Empty: this one keeps them to itself."""

    def __post_init__(self) -> None:
        require_within("port", self.port, 0, 65535)
        if bool(self.certificate) != bool(self.key):
            missing = "key" if self.certificate else "certificate"
            raise SchemaError(missing, "certificate and key belong together")
        if self.certificate and not self.tls:
            raise SchemaError("certificate", "a certificate is shown over TLS alone: tls = true")
        if self.password_file and not self.user:
            raise SchemaError("user", "a password needs the user's name")
        for name in ("prefix", "discovery"):
            parts = getattr(self, name).split("/")
            # No discovery is one empty level.
            given = parts if name == "prefix" or len(parts) > 1 else [part for part in parts if part]
            if not all(map(_is_topic_level, given)):
                raise SchemaError(name, "a topic without + and #, and without empty levels, is needed")
        if self.device == "fleet":
            raise SchemaError("device", "another one is needed: the topics of fleets are below this one")
        for name in ("device", "collection"):
            value = getattr(self, name)
            if value and (len(value) > 64 or not set(value) <= _IDENTIFIER):
                raise SchemaError(name, "at most 64 of a to z, 0 to 9, - and _ are needed")


@dataclass(frozen=True)
class MetricsSettings:
    """What Prometheus reads at /metrics."""

    enabled: bool = False
    """Serve it. It needs the package of the extra `metrics`, which the installer brings."""
    listen: str = "127.0.0.1"
    """The address at which it is served. It has no password: beyond this machine, whoever reaches it can read it."""
    port: int = 9477
    """The port."""

    def __post_init__(self) -> None:
        require_within("port", self.port, 1, 65535)


def _is_topic_level(text: str) -> bool:
    """Whether a broker takes it for one level of a topic."""
    return 0 < len(text) <= 128 and text.isprintable() and not set(text) & set("+#$")
