"""The daemon's settings: one `Record` for each table of `config.toml`.

The docstring under each field is its documentation: `docs/settings.md` and the commented `config.toml` of the package are
generated from it.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, structs

from edge_siamese.errors import SettingsError
from edge_siamese.registry import AUTO, CameraKind, PanelKind, RuntimeName
from edge_siamese.system.files import expand_path, home_directory
from edge_siamese.system.network import (
    BrokerAddress,
    PublicUrl,
    host_name,
    is_loopback,
    local_name,
    parse_broker,
    parse_public_url,
)
from edge_siamese.system.ssh_keys import parse_public_key
from edge_siamese.validation import Record, SchemaError

SYSTEM_STATE = Path("/var/lib/edge-siamese")
SYSTEM_RUNTIME = Path("/run/edge-siamese")

Port = Annotated[int, Meta(ge=1, le=65535)]
Pixels = Annotated[int, Meta(ge=32, le=8192)]
Probability = Annotated[float, Meta(ge=0, le=1)]
PathText = Annotated[str, Meta(extra={"path": "always"})]
"""A path: `~` is expanded, and a relative path starts at the directory of the settings file."""
NameOrPath = Annotated[str, Meta(extra={"path": "with a slash"})]
"""A name, or with a slash a path."""
Command = Annotated[tuple[str, ...], Meta(extra={"path": "with a slash"})]
"""A program by its name or path, and its arguments."""
Identifier = Annotated[str, Meta(max_length=64, pattern="^[a-z0-9_-]*$")]
FocusName = Literal["center", "foreground"]
FalseAcceptRate = Annotated[float, Meta(ge=1e-9, le=1)]
WindowFrames = Annotated[int, Meta(ge=1, le=1000)]
AppearFrames = Annotated[int, Meta(ge=1, le=1000)]
LeaveFrames = Annotated[int, Meta(ge=0, le=999)]
RegionBox = tuple[Probability, Probability, Probability, Probability]
"""Left, top, width and height, as fractions of the picture."""
MAX_REGIONS, MAX_REGION_NAME = 8, 32
MIN_REGION_SIDE = 0.05
"""Smallest width and height of a region, as fractions of the picture: 32 of 640 pixels."""

_REGION_NAME = re.compile(r"[\w-](?:[\w -]*[\w-])?")
"""It is also a level of MQTT topics."""


def _require_certificate_and_key(certificate: str, key: str) -> None:
    if bool(certificate) != bool(key):
        raise SchemaError("key" if certificate else "certificate", "certificate and key are needed together")


def _is_topic_level(text: str) -> bool:
    """Whether a broker accepts the text as one level of a topic."""
    return 0 < len(text) <= 128 and text.isprintable() and not set(text) & set("+#$")


class ModelSettings(Record):
    """The encoder and its inference runtime."""

    bundle: NameOrPath = ""
    """The directory of a bundle, or the name of a shipped one: `objects` for everyday objects, `glyphs` for handwriting.
    Empty: the model that `edge-siamese model install` made current, or `objects` if none is installed."""
    runtime: RuntimeName = AUTO
    """The inference runtime. `auto`: the first one that works on this machine."""
    precision: Literal["int8", "fp32"] = "int8"
    """The precision of the model file. The shipped bundles have only `int8`."""
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    """Threads of the runtime. One is enough for small encoders and leaves the other cores to the camera and the system."""
    trusted_keys: tuple[str, ...] = ()
    """Public keys, lines such as `ssh-ed25519 AAAA… release@example`. If there are any, a model that is not shipped with the
    program has to be signed with one of them (`python -m export sign`). Needs the program `ssh-keygen`."""

    def __post_init__(self) -> None:
        for number, line in enumerate(self.trusted_keys):
            try:
                parse_public_key(line)
            except ValueError as error:
                raise SchemaError(f"trusted_keys[{number}]", str(error)) from None


class CameraSettings(Record):
    """The source of frames."""

    kind: CameraKind = AUTO
    """`auto`: the Raspberry Pi camera if there is one, else the V4L2 device."""
    device: PathText = "/dev/video0"
    """The V4L2 device for `usb`. A name in /dev/v4l/by-id stays the same when cameras are unplugged and plugged in again."""
    path: PathText = ""
    """For `files`: the picture, folder or video. For `synthetic`: a folder with five objects to show, a picture of each or a
    subfolder of cut-outs that show how it turns (empty: drawn objects)."""
    loop: bool = True
    """Whether `files` and `synthetic` start again at the end. If false, the daemon stops there."""
    width: Pixels = 640
    """Frame width in pixels, an even number. The camera's nearest size is used."""
    height: Pixels = 480
    """Frame height in pixels, an even number."""
    frame_rate: Annotated[float, Meta(ge=0.1, le=240)] = 10.0
    """Maximum number of frames to process per second. A lower rate saves power and heat; recognition needs a few frames of
    each object."""
    timeout_s: Annotated[float, Meta(ge=0.2, le=60)] = 3.0
    """A camera that delivers no frame for this long has stalled and is reopened."""
    rotation: Literal[0, 90, 180, 270] = 0
    """Clockwise rotation of the picture in degrees, for a camera that is not mounted upright."""
    focus: FocusName = "center"
    """The part of a frame, or of each region, that the encoder reads. `center`: the middle. `foreground`: what is new in
    front of the background; for a camera that does not move. While nothing is new, the encoder does not run, which saves
    power. Objects that were registered with another focus should be registered again."""

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            if getattr(self, name) % 2:
                raise SchemaError(name, f"must be an even number, not {getattr(self, name)}")
        if self.kind == "files" and not self.path:
            raise SchemaError("path", 'camera kind "files" needs the path of a picture, a folder or a video')


class RecognitionSettings(Record):
    """When a frame matches an object, and when matching frames become an event."""

    false_accept_rate: FalseAcceptRate = 0.01
    """The share of pictures of other things that may be recognized as any registered object. The threshold follows from the
    registered objects and the bundle's impostors; things that look much like a registered one pass more often."""
    threshold: Probability | None = None
    """A fixed probability above which an object is recognized, instead of `false_accept_rate`."""
    min_preference: Annotated[float, Meta(ge=0.5, le=0.999)] = 0.6
    """Minimum probability of the nearest object if only it and the runner-up are possible. Below it the decision is "mug or
    cup", and the event `undecided`. 0.5: the nearest object is always named."""
    window_frames: WindowFrames = 10
    """Number of recent frames that decide together whether an object is present."""
    appear_frames: AppearFrames = 6
    """An object appears when at least this many frames of the window match it. At most `window_frames`."""
    leave_frames: LeaveFrames = 1
    """An object leaves when at most this many frames of the window match it. Less than `appear_frames`, which prevents
    flicker."""
    seen_interval_s: Annotated[float, Meta(ge=0, le=86400)] = 10.0
    """Seconds between `seen` events while an object stays. 0: no such events."""
    regions_per_frame: Annotated[int, Meta(ge=1, le=8)] = 1
    """With `[[regions]]`, the maximum number of encoder runs for each frame. Regions take turns; one without anything new is
    skipped. With 1, several regions cost as much as one, and each is processed less often."""

    def __post_init__(self) -> None:
        if self.appear_frames > self.window_frames:
            raise SchemaError(
                "appear_frames",
                f"must be at most window_frames ({self.window_frames}), not {self.appear_frames}",
            )
        if self.leave_frames >= self.appear_frames:
            raise SchemaError(
                "leave_frames",
                f"must be less than appear_frames ({self.appear_frames}), not {self.leave_frames}",
            )


class SurroundingsSettings(Record):
    """What the daemon learns about the things that this camera sees, to tell them from the registered objects."""

    enabled: bool = True
    """Keep embeddings of up to 500 scenes in which nothing registered was recognized, and of the empty places that objects
    came to. What looks more like an empty place than like an object is not recognized. An embedding is a list of numbers; no
    pictures are kept. False deletes them. `edge-siamese surroundings` shows how different each object is from them."""
    tighten: bool = False
    """Recognize an object more strictly if more scenes come near it than `false_accept_rate` allows."""


class RegionSettings(Record):
    """A place in the picture that is watched separately, with events of its own.

    Each place needs a table `[[regions]]`, and there are eight at most. They may overlap. Without any, the whole picture is
    watched, or the regions that were drawn in the dashboard. The button registers in the first region. Options that are not
    set are those of `[camera]` and `[recognition]`.
    """

    name: str
    """Name in events, topics and metrics: letters, digits, spaces, - and _, 32 characters at most. Unique among the
    regions, ignoring case."""
    box: RegionBox
    """Left, top, width and height, as fractions of the rotated picture. Width and height are at least 0.05."""
    focus: FocusName | None = None
    """`focus` of `[camera]` for this region."""
    false_accept_rate: FalseAcceptRate | None = None
    """`false_accept_rate` of `[recognition]` for this region."""
    threshold: Probability | None = None
    """`threshold` of `[recognition]` for this region."""
    window_frames: WindowFrames | None = None
    """`window_frames` of `[recognition]` for this region. Only frames in which the region has its turn count."""
    appear_frames: AppearFrames | None = None
    """`appear_frames` of `[recognition]` for this region."""
    leave_frames: LeaveFrames | None = None
    """`leave_frames` of `[recognition]` for this region."""

    def __post_init__(self) -> None:
        if not _REGION_NAME.fullmatch(self.name) or len(self.name) > MAX_REGION_NAME:
            shown = msgspec.json.encode(self.name[:40]).decode()
            raise SchemaError(
                "name", f"must be 1 to {MAX_REGION_NAME} letters, digits, spaces, - or _, not {shown}"
            )
        left, top, width, height = self.box
        # Fractions that were rounded may add up to a little more.
        if max(left + width, top + height) > 1.0005:
            raise SchemaError(
                "box", f"must be [left, top, width, height] within the picture, not {list(self.box)}"
            )
        if min(width, height) < MIN_REGION_SIDE:
            raise SchemaError(
                "box", f"must be at least {MIN_REGION_SIDE} wide and high, not {width:g} x {height:g}"
            )

    def recognition(self, general: RecognitionSettings) -> RecognitionSettings:
        """The settings of recognition in this region.

        Args:
            general: the table `[recognition]`.

        Raises:
            SchemaError: with the general ones, the region's numbers of frames contradict each other.
        """
        names = ("threshold", "false_accept_rate", "window_frames", "appear_frames", "leave_frames")
        own: dict[str, Any] = {name: value for name in names if (value := getattr(self, name)) is not None}
        if "false_accept_rate" in own:
            own.setdefault("threshold", None)  # a rate of its own replaces a general threshold
        return structs.replace(general, **own)


def require_regions(
    regions: tuple[RegionSettings, ...], general: RecognitionSettings, key: str = "regions"
) -> None:
    """Check regions that are used together.

    Args:
        regions: in their order.
        general: the table `[recognition]`.
        key: dotted key of the list, for errors.

    Raises:
        SchemaError: there are too many, two have the same name, or one contradicts the general settings.
    """
    if len(regions) > MAX_REGIONS:
        raise SchemaError(key, f"at most {MAX_REGIONS} regions are possible, not {len(regions)}")
    known: dict[str, int] = {}
    for index, region in enumerate(regions):
        before = known.setdefault(region.name.casefold(), index)
        if before != index:
            raise SchemaError(
                f"{key}[{index}].name", f'"{region.name}" is already the name of region {before + 1}'
            )
        try:
            region.recognition(general)
        except SchemaError as error:
            raise error.under(f"{key}[{index}]") from None


class RegistrationSettings(Record):
    """How an object is registered."""

    frames: Annotated[int, Meta(ge=1, le=100)] = 5
    """Number of good frames that make a view."""
    timeout_s: Annotated[float, Meta(ge=0.1, le=60)] = 4.0
    """How long to wait for them."""
    add_view_within_s: Annotated[float, Meta(ge=0, le=3600)] = 8.0
    """A press within this time after "saved" adds a view to the object just registered."""
    min_sharpness: Annotated[float, Meta(ge=0, le=100)] = 22.0
    """Minimum sharpness of a good frame: the percentage of an edge's contrast between two neighboring points, with 128
    points across the picture. Sharp strokes have 50, a sharp photo 30, a blurred one 10. 0: no minimum."""
    min_brightness: Annotated[float, Meta(ge=0, le=255)] = 25.0
    """Mean brightness, 0 to 255, below which a frame with little contrast is too dark."""
    max_brightness: Annotated[float, Meta(ge=0, le=255)] = 250.0
    """Mean brightness, 0 to 255, above which a frame with little contrast is too bright. At least `min_brightness`. A
    drawing on white paper has enough contrast."""
    max_motion: Annotated[float, Meta(ge=0, le=100)] = 25.0
    """Maximum difference between a good frame and the previous one, in percent of the variation within the picture. A shift
    by a fiftieth of the picture gives about 20. 100: no limit."""
    collisions: Literal["refuse", "allow"] = "refuse"
    """Whether to refuse an object that looks like a registered one."""
    name_template: str = "object {number}"
    """Name of an object that was registered with the button; {number} counts up."""
    keep_crops: bool = True
    """Keep pictures of each view, so that all objects can be embedded again when the model changes."""
    crops_per_view: Annotated[int, Meta(ge=1, le=100)] = 3
    """Number of pictures to keep of each view."""
    crop_side: Annotated[int, Meta(ge=32, le=2048)] = 192
    """Longer side of a kept picture in pixels."""

    def __post_init__(self) -> None:
        if self.max_brightness < self.min_brightness:
            raise SchemaError(
                "max_brightness",
                f"must be at least min_brightness ({self.min_brightness:g}), not {self.max_brightness:g}",
            )
        if self.name_template.count("{number}") != 1:
            raise SchemaError("name_template", 'must contain "{number}" once, such as "object {number}"')


class TrainingSettings(Record):
    """Whether this device's pictures may be used to train a model."""

    collect_pictures: bool = False
    """Whether `python -m export collect` on a workstation may fetch the pictures of registered objects and those that were
    marked as wrong. If true, the latest 200 pictures that were marked as wrong are also kept in a larger size, in 32 MiB at
    most, with what they really show. False deletes these."""


class PanelSettings(Record):
    """The button and the LED."""

    kind: PanelKind = AUTO
    """`auto`: the input device if there is one, else the GPIO lines of a Raspberry Pi, else none."""
    button_line: Annotated[int, Meta(ge=0, le=511)] = 17
    """GPIO line of the button (BCM number, not the pin number)."""
    led_line: Annotated[int, Meta(ge=-1, le=511)] = 27
    """GPIO line of the LED (BCM number). -1: no LED."""
    chip: str = ""
    """Label of the GPIO chip, such as `pinctrl-rp1`. Empty: the chip of the board's header."""
    active_low: bool = True
    """Whether the button connects its line to ground, with a pull-up. False: to 3.3 V, with a pull-down."""
    input_device: NameOrPath = "edge-siamese-button"
    """Name of the input device for `input`: the `label` of the overlay `gpio-key`, or a path in /dev/input."""
    kernel_led: str = "edge-siamese"
    """Name of the kernel LED in /sys/class/leds for `input`: the `label` of the overlay `gpio-led`."""
    debounce_s: Annotated[float, Meta(ge=0, le=0.5)] = 0.025
    """How long the contact has to be stable before a change counts."""
    double_press_s: Annotated[float, Meta(ge=0, le=2)] = 0.35
    """Two presses within this time are a double press."""
    hold_s: Annotated[float, Meta(ge=0.2, le=10)] = 1.2
    """A press of this length is a hold."""
    stuck_s: Annotated[float, Meta(ge=0.2, le=600)] = 15.0
    """A button that is held for this long is reported as stuck. At least `hold_s`."""

    def __post_init__(self) -> None:
        if self.led_line == self.button_line:
            raise SchemaError("led_line", "must differ from button_line")
        if self.stuck_s < self.hold_s:
            raise SchemaError("stuck_s", f"must be at least hold_s ({self.hold_s:g}), not {self.stuck_s:g}")


class EventSettings(Record):
    """Where events go, besides the journal."""

    file: bool = True
    """Append events to `events.jsonl` in the state directory."""
    max_file_bytes: Annotated[int, Meta(ge=10_000, le=10**10)] = 4_000_000
    """At this size the file is renamed to `events.jsonl.1` and a new one begins."""
    hook: Command = ()
    """A command and its arguments, run for each event. It receives the event as one line of JSON on standard input."""
    hook_timeout_s: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    """A hook that takes longer is terminated."""


class SoundSettings(Record):
    """Sounds and speech: objects that are saved, refused or recognized can be heard."""

    enabled: bool = False
    """Play sounds."""
    player: Command = ("aplay", "-q", "-")
    """A command that plays the WAV file on its standard input. `aplay` is in the package alsa-utils. Empty: no tones."""
    volume: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """Volume of the tones."""
    saved_file: PathText = ""
    """A WAV file to play instead of the tone when an object, a view or a negative is saved."""
    refused_file: PathText = ""
    """A WAV file to play instead of the tone when a registration is refused."""
    recognized_file: PathText = ""
    """A WAV file to play instead of the tone when an object appears."""
    speech: Command = ()
    """A command that speaks the text on its standard input, such as `["espeak-ng", "--stdin"]`. Empty: no speech."""
    say_saved: str = "saved {name}"
    """What to say when something is saved; `{name}` is the object, `{text}` the line of the event. Empty: nothing."""
    say_refused: str = "{text}"
    """What to say when a registration is refused."""
    say_recognized: str = "{name}"
    """What to say when an object appears; of look-alikes, `{name}` is "mug or cup"."""
    timeout_s: Annotated[float, Meta(ge=0.1, le=60)] = 10.0
    """A command that takes longer is terminated."""


class DashboardSettings(Record):
    """The web page that shows the camera picture, recognitions and objects."""

    enabled: bool = False
    """Serve the dashboard. Needs the packages of the extra `dashboard`, which the installer installs."""
    listen: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` or `::` for all addresses of this machine. Any address but the local one needs a
    password: `sudo edge-siamese dashboard password`."""
    port: Port = 8765
    """TCP port."""
    certificate: PathText = ""
    """Certificate file (PEM, with the intermediate certificates). With one, the dashboard is served over TLS only."""
    key: PathText = ""
    """Private key of the certificate (PEM)."""
    public_url: str = ""
    """URL under which a reverse proxy serves the dashboard, such as `https://home.example/shelf`: scheme, host, port and
    path as browsers see them. Needs a password, unless the host is this machine (`localhost`). Empty: there is no proxy."""
    allowed_hosts: tuple[str, ...] = ()
    """Additional host names under which the dashboard may be reached, such as one assigned by a router. This machine's own
    names and addresses and the host of `public_url` are always allowed."""
    max_viewers: Annotated[int, Meta(ge=1, le=64)] = 4
    """Maximum number of simultaneous viewers of the live picture."""
    frame_rate: Annotated[float, Meta(ge=0.1, le=60)] = 5.0
    """Maximum number of pictures per second in the live picture."""
    max_upload_bytes: Annotated[int, Meta(ge=10_000, le=10**9)] = 16_000_000
    """Maximum size of an uploaded picture."""

    def __post_init__(self) -> None:
        _require_certificate_and_key(self.certificate, self.key)
        try:
            parse_public_url(self.public_url)
        except ValueError as error:
            raise SchemaError("public_url", str(error)) from None

    @property
    def public(self) -> PublicUrl | None:
        """The parts of `public_url`; None if it is empty."""
        return parse_public_url(self.public_url)

    @property
    def is_behind_proxy(self) -> bool:
        """Whether a proxy may forward requests of other machines."""
        return bool(self.allowed_hosts) or (self.public is not None and not is_loopback(self.public.host))

    @property
    def is_exposed(self) -> bool:
        """Whether other machines can reach the dashboard, directly or through a proxy."""
        return self.is_behind_proxy or not is_loopback(self.listen)

    @property
    def url(self) -> str:
        """URL under which people reach the dashboard."""
        if self.public is not None:
            return f"{self.public.origin}{self.public.path}/"
        scheme = "https" if self.certificate else "http"
        if self.allowed_hosts:
            host = self.allowed_hosts[0]
            return f"{scheme}://{host}/" if ":" in host else f"{scheme}://{host}:{self.port}/"
        host = self.listen
        if host in ("0.0.0.0", "::"):
            host = local_name(host_name()) or "localhost"
        elif host in ("127.0.0.1", "::1"):
            host = "localhost"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/"


class MqttSettings(Record):
    """The MQTT broker for events, states and commands. Home Assistant discovers the device automatically."""

    broker: str = ""
    """Host name, address or URL of the broker, such as `broker.local`, `broker.local:1884` or
    `mqtts://hall@broker.local`; `mqtts` means TLS. A URL may contain a password, but a password file is safer. Empty: no
    MQTT. Needs the package of the extra `mqtt`, which the installer installs."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """TCP port of the broker. 0: 8883 with TLS, 1883 without."""
    tls: bool = False
    """Connect over TLS and verify the broker's certificate."""
    ca_file: PathText = ""
    """File with the CA certificates (PEM) that verify the broker. Empty: the system's."""
    certificate: PathText = ""
    """Client certificate file (PEM)."""
    key: PathText = ""
    """Private key of the client certificate (PEM)."""
    username: str = ""
    """User name at the broker. Empty: none."""
    password_file: PathText = ""
    """File whose first line is the password. Only the service should be able to read it."""
    topic_prefix: str = "edge-siamese"
    """Prefix of all topics."""
    device_id: Identifier = ""
    """This device's part of the topics: a to z, 0 to 9, - and _. Empty: derived from the machine ID, which it does not
    disclose."""
    device_name: str = ""
    """Name of this device in Home Assistant and in the dashboard. Empty: the host name."""
    discovery_prefix: str = "homeassistant"
    """Topic prefix of Home Assistant's discovery. Empty: no discovery."""
    snapshots: bool = True
    """Publish a picture when an object appears and when one is requested."""
    collection: Identifier = ""
    """Devices with the same collection share their objects. Empty: objects are not shared."""

    def __post_init__(self) -> None:
        _require_certificate_and_key(self.certificate, self.key)
        try:
            server = self.server
        except ValueError as error:
            raise SchemaError("broker", str(error)) from None
        if self.certificate and not server.tls:
            raise SchemaError("certificate", "a client certificate needs TLS: tls = true")
        if self.password_file and not server.username:
            raise SchemaError("username", "a password needs a user name")
        if self.password_file and server.password:
            raise SchemaError(
                "password_file", "the URL in `broker` has a password already; remove one of them"
            )
        for name in ("topic_prefix", "discovery_prefix"):
            topic = getattr(self, name)
            if not all(map(_is_topic_level, topic.split("/"))) and (topic or name == "topic_prefix"):
                raise SchemaError(name, "must be a topic without +, #, $ and empty levels")
        if self.device_id == "fleet":
            raise SchemaError("device_id", 'must not be "fleet": that level is for the topics of fleets')

    @property
    def server(self) -> BrokerAddress:
        """The broker's host and port, TLS and credentials, from all settings."""
        given = parse_broker(self.broker) if self.broker else BrokerAddress("")
        if given.port and self.port not in (0, given.port):
            raise ValueError(f"has port {given.port}, and `port` is {self.port}; remove one of them")
        if self.tls and given.tls is False:
            raise ValueError("mqtt:// means without TLS, and `tls` is true; write mqtts://")
        if given.username and self.username not in ("", given.username):
            raise ValueError("has a user name, and `username` is another one; remove one of them")
        tls = self.tls or bool(given.tls)
        port = given.port or self.port or (8883 if tls else 1883)
        return replace(given, port=port, tls=tls, username=given.username or self.username)


class MetricsSettings(Record):
    """Metrics for Prometheus at /metrics."""

    enabled: bool = False
    """Serve metrics. Needs the package of the extra `metrics`, which the installer installs."""
    listen: str = "127.0.0.1"
    """Address to listen on. There is no password: whoever can reach the address can read the metrics."""
    port: Port = 9477
    """TCP port."""


class PathSettings(Record):
    """Directories of the daemon."""

    state: PathText = ""
    """Objects, models and events. Empty: `/var/lib/edge-siamese` (service) or `~/.local/state/edge-siamese` (user)."""
    runtime: PathText = ""
    """The control socket. Empty: `/run/edge-siamese` (service) or `$XDG_RUNTIME_DIR/edge-siamese` (user)."""


class Settings(Record):
    """All of `config.toml`."""

    model: ModelSettings = ModelSettings()
    camera: CameraSettings = CameraSettings()
    recognition: RecognitionSettings = RecognitionSettings()
    surroundings: SurroundingsSettings = SurroundingsSettings()
    regions: tuple[RegionSettings, ...] = ()
    registration: RegistrationSettings = RegistrationSettings()
    training: TrainingSettings = TrainingSettings()
    panel: PanelSettings = PanelSettings()
    events: EventSettings = EventSettings()
    sound: SoundSettings = SoundSettings()
    dashboard: DashboardSettings = DashboardSettings()
    mqtt: MqttSettings = MqttSettings()
    metrics: MetricsSettings = MetricsSettings()
    paths: PathSettings = PathSettings()

    def __post_init__(self) -> None:
        require_regions(self.regions, self.recognition)
        page, metrics = self.dashboard, self.metrics
        overlap = page.listen == metrics.listen or {page.listen, metrics.listen} & {"0.0.0.0", "::"}
        if page.enabled and metrics.enabled and page.port == metrics.port and overlap:
            raise SchemaError("metrics.port", f"must differ from the port of the dashboard, {page.port}")

    @property
    def state_directory(self) -> Path:
        """Directory of objects, models and events."""
        if self.paths.state:
            return Path(self.paths.state)
        if directories := os.environ.get("STATE_DIRECTORY"):
            return Path(directories.split(":")[0])
        if _is_service_account() or SYSTEM_STATE.is_dir():
            return SYSTEM_STATE
        if user := user_directory("XDG_STATE_HOME", ".local/state"):
            return user
        raise SettingsError(
            f"user {os.geteuid()} has no home directory for the state: set `state` in [paths] of the settings"
        )

    @property
    def runtime_directory(self) -> Path:
        """Directory of the control socket."""
        if self.paths.runtime:
            return Path(self.paths.runtime)
        if directories := os.environ.get("RUNTIME_DIRECTORY"):
            return Path(directories.split(":")[0])
        if _is_service_account() or SYSTEM_RUNTIME.is_dir():
            return SYSTEM_RUNTIME
        return user_directory("XDG_RUNTIME_DIR", "") or self.state_directory

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.runtime_directory / "control.sock"

    @property
    def store(self) -> Path:
        """The database of objects."""
        return self.state_directory / "objects.db"

    @property
    def models(self) -> Path:
        """The directory of installed models."""
        return self.state_directory / "models"

    @property
    def digest(self) -> str:
        """A short hash of all values: equal settings have the same one."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


def without_recognition_settings(settings: Settings) -> Settings:
    """The settings with the defaults of all tables that decide how frames are processed."""
    return structs.replace(
        settings, recognition=RecognitionSettings(), regions=(), registration=RegistrationSettings()
    )


def user_directory(variable: str, default: str) -> Path | None:
    """This program's directory below one of the XDG base directories, or below the default in the home directory."""
    base = os.environ.get(variable, "")
    if os.path.isabs(base):
        return expand_path(base) / "edge-siamese"
    home = home_directory()
    return home / default / "edge-siamese" if default and home else None


def _is_service_account() -> bool:
    return os.geteuid() == 0
