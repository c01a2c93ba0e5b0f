"""The daemon's settings: one dataclass for each table of `config.toml`, strictly checked.

The docstring under each field is its documentation: `docs/settings.md` and the commented `config.toml` that is
installed are made of them.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edge_siamese.errors import SettingsError
from edge_siamese.integration_settings import DashboardSettings, MetricsSettings, MqttSettings
from edge_siamese.validation import SchemaError, read_object, require_finite, require_within

SYSTEM_CONFIG = Path("/etc/edge-siamese/config.toml")
SYSTEM_STATE = Path("/var/lib/edge-siamese")
SYSTEM_RUNTIME = Path("/run/edge-siamese")


@dataclass(frozen=True)
class ModelSettings:
    """Which encoder recognizes, and how it runs."""

    bundle: str = ""
    """The directory of a bundle, or the name of one that is shipped: `objects` knows photographs of things, `glyphs` knows
    handwriting. Empty: the one that `edge-siamese model install` made current, or `objects` if none was installed."""
    runtime: Literal["auto", "ai-edge-litert", "tflite-runtime", "onnxruntime"] = "auto"
    """The inference runtime; `auto` takes the first that works here."""
    precision: Literal["int8", "fp32"] = "int8"
    """Which file of the bundle; those that are shipped have `int8` alone."""
    threads: int = 1
    """Threads of the runtime. One leaves the other cores to camera and system, and is enough for small encoders."""

    def __post_init__(self) -> None:
        require_within("threads", self.threads, 1, 64)


@dataclass(frozen=True)
class CameraSettings:
    """Where frames come from."""

    kind: Literal["auto", "picamera2", "usb", "files", "synthetic"] = "auto"
    """`picamera2`: a Raspberry Pi camera. `usb`: a V4L2 device. `files`: a picture, a folder of pictures or a video.
    `synthetic`: a scene that is drawn, to try things out. `auto`: a Raspberry Pi camera if there is one, else the V4L2
    device."""
    device: str = "/dev/video0"
    """The V4L2 device of `usb`; a name below /dev/v4l/by-id stays the same when cameras are plugged in anew."""
    path: str = ""
    """The picture, folder or video of `files`; the folder of pictures whose objects the `synthetic` scene shows (empty:
    objects that it draws itself)."""
    loop: bool = True
    """Whether `files` starts again at its end, and the `synthetic` scene goes on. If not, the daemon ends there."""
    width: int = 640
    """Of a frame, in pixels; even. The nearest that the camera can is taken."""
    height: int = 480
    """Of a frame, in pixels; even."""
    rate: float = 10.0
    """Frames a second to look at, at most. Fewer save power and heat; recognition needs a few for each object."""
    timeout_s: float = 3.0
    """A camera that gives no frame for so long has stalled: it is opened anew."""
    turn: Literal[0, 90, 180, 270] = 0
    """Degrees by which the picture is turned clockwise, for a camera that is mounted otherwise."""

    def __post_init__(self) -> None:
        for name in ("width", "height"):
            value = getattr(self, name)
            require_within(name, value, 32, 8192)
            if value % 2:
                raise SchemaError(name, f"an even number is needed, not {value}")
        require_within("rate", self.rate, 0.1, 240)
        require_within("timeout_s", self.timeout_s, 0.2, 60)
        if self.kind == "files" and not self.path:
            raise SchemaError("path", 'the camera "files" needs the path of a picture, a folder or a video')


@dataclass(frozen=True)
class RecognitionSettings:
    """When a frame shows an object, and when frames make an event."""

    false_accept_rate: float = 0.01
    """How often an unknown thing may pass for a registered one, for each frame and object; one of the rates for which
    the bundle states a threshold (`edge-siamese info`)."""
    threshold: float | None = None
    """The probability from which on an object is recognized, instead of the bundle's own for that rate."""
    window: int = 10
    """How many of the latest frames decide together whether an object is there."""
    appear: int = 6
    """An object appears when so many frames of the window show it."""
    leave: int = 1
    """An object leaves when at most so many frames of the window show it; below `appear`, so that it does not flicker."""
    seen_every_s: float = 10.0
    """While an object stays, an event `seen` follows so often; 0: never."""

    def __post_init__(self) -> None:
        require_within("false_accept_rate", self.false_accept_rate, 1e-9, 1)
        if self.threshold is not None:
            require_within("threshold", self.threshold, 0, 1)
        require_within("window", self.window, 1, 1000)
        require_within("appear", self.appear, 1, self.window)
        require_within("leave", self.leave, 0, self.appear - 1)
        require_within("seen_every_s", self.seen_every_s, 0, 86400)


@dataclass(frozen=True)
class RegistrationSettings:
    """How an object is learned."""

    frames: int = 5
    """Good frames that make a view."""
    timeout_s: float = 4.0
    """How long to look for them."""
    add_view_within_s: float = 8.0
    """A press within so many seconds after "saved" adds a view to the object just registered."""
    sharpness: float = 22.0
    """The least sharpness of a good frame, 0 to 100: percent of an edge's contrast between two neighboring points, of 128
    across the picture. Sharp strokes have 50, a sharp photo 30, a blurred one 10. 0: any."""
    darkest: float = 25.0
    """The mean brightness, 0 to 255, below which a frame is too dark if it has little contrast as well."""
    brightest: float = 250.0
    """The mean brightness, 0 to 255, above which a frame is too bright if it has little contrast as well; a drawing on
    white paper has contrast."""
    motion: float = 25.0
    """How much a good frame may differ from the one before, 0 to 100: percent of what differs within the picture. A shift
    by a fiftieth of the picture makes about 20. 100: any."""
    collisions: Literal["refuse", "allow"] = "refuse"
    """Whether an object that looks like one that is registered already is refused."""
    name: str = "object {number}"
    """The name of an object that was registered at the button; {number} counts up."""
    keep_crops: bool = True
    """Keep what the camera saw, so that all objects can be learned anew when the model changes."""
    crops: int = 3
    """How many pictures of a view are kept."""
    crop_side: int = 192
    """The longer side of a kept picture, in pixels."""

    def __post_init__(self) -> None:
        require_within("frames", self.frames, 1, 100)
        require_within("timeout_s", self.timeout_s, 0.1, 60)
        require_within("add_view_within_s", self.add_view_within_s, 0, 3600)
        require_within("sharpness", self.sharpness, 0, 255)
        require_within("darkest", self.darkest, 0, 255)
        require_within("brightest", self.brightest, self.darkest, 255)
        require_within("motion", self.motion, 0, 255)
        require_within("crops", self.crops, 1, 100)
        require_within("crop_side", self.crop_side, 32, 2048)
        if self.name.count("{number}") != 1:
            raise SchemaError("name", 'a name with "{number}" in it is needed, such as "object {number}"')


@dataclass(frozen=True)
class PanelSettings:
    """The button and the LED."""

    kind: Literal["auto", "gpio", "input", "simulated", "none"] = "auto"
    """`gpio`: lines of the GPIO header. `input`: a kernel input device and a kernel LED, as the overlays `gpio-key` and
    `gpio-led` make them. `simulated`: the button of the synthetic scene. `auto`: the input device if there is one, else
    the GPIO lines of a Raspberry Pi, else none. `none`: the command line alone."""
    button: int = 17
    """The GPIO line of the button (BCM number, not the pin's)."""
    led: int = 27
    """The GPIO line of the LED (BCM number). -1: no LED."""
    chip: str = ""
    """The label of the GPIO chip, such as `pinctrl-rp1`. Empty: the header's chip of the board."""
    active_low: bool = True
    """The button connects its line to ground and the line is pulled up; false: to 3.3 V, pulled down."""
    input: str = "edge-siamese-button"
    """The name of the input device for `input`: the `label` of the overlay `gpio-key`, or a path below /dev/input."""
    light: str = "edge-siamese"
    """The name of the kernel LED below /sys/class/leds for `input`: the `label` of the overlay `gpio-led`."""
    debounce_s: float = 0.025
    """How long the contact has to rest before a change counts."""
    double_s: float = 0.35
    """Two presses within so long are a double press."""
    hold_s: float = 1.2
    """A press of so long is a hold."""
    stuck_s: float = 15.0
    """A button that is held for so long is stuck, and reported."""

    def __post_init__(self) -> None:
        require_within("button", self.button, 0, 511)
        require_within("led", self.led, -1, 511)
        if self.led == self.button:
            raise SchemaError("led", "button and LED cannot be one line")
        require_within("debounce_s", self.debounce_s, 0, 0.5)
        require_within("double_s", self.double_s, 0, 2)
        require_within("hold_s", self.hold_s, 0.2, 10)
        require_within("stuck_s", self.stuck_s, self.hold_s, 600)


@dataclass(frozen=True)
class EventSettings:
    """Where events go, besides the journal."""

    file: bool = True
    """Append events to `events.jsonl` in the state directory."""
    file_bytes: int = 4_000_000
    """At this size the file becomes `events.jsonl.1`, and a new one begins."""
    hook: tuple[str, ...] = ()
    """A command and its arguments, run for each event, which it reads as one line of JSON on its standard input."""
    hook_timeout_s: float = 10.0
    """A hook that takes longer is ended."""

    def __post_init__(self) -> None:
        require_within("file_bytes", self.file_bytes, 10_000, 10**10)
        require_within("hook_timeout_s", self.hook_timeout_s, 0.1, 3600)


@dataclass(frozen=True)
class PathSettings:
    """Where the daemon keeps things."""

    state: str = ""
    """Objects, models and events. Empty: the service's /var/lib/edge-siamese, or ~/.local/state/edge-siamese."""
    runtime: str = ""
    """The control socket. Empty: the service's /run/edge-siamese, or $XDG_RUNTIME_DIR/edge-siamese."""


@dataclass(frozen=True)
class Settings:
    """All of `config.toml`."""

    model: ModelSettings = field(default_factory=ModelSettings)
    camera: CameraSettings = field(default_factory=CameraSettings)
    recognition: RecognitionSettings = field(default_factory=RecognitionSettings)
    registration: RegistrationSettings = field(default_factory=RegistrationSettings)
    panel: PanelSettings = field(default_factory=PanelSettings)
    events: EventSettings = field(default_factory=EventSettings)
    dashboard: DashboardSettings = field(default_factory=DashboardSettings)
    mqtt: MqttSettings = field(default_factory=MqttSettings)
    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    paths: PathSettings = field(default_factory=PathSettings)

    @property
    def state_directory(self) -> Path:
        """Where objects, models and events are."""
        if self.paths.state:
            return Path(self.paths.state)
        if given := os.environ.get("STATE_DIRECTORY"):
            return Path(given.split(":")[0])
        if _is_service_account() or SYSTEM_STATE.is_dir():
            return SYSTEM_STATE
        base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(base) / "edge-siamese"

    @property
    def runtime_directory(self) -> Path:
        """Where the control socket is."""
        if self.paths.runtime:
            return Path(self.paths.runtime)
        if given := os.environ.get("RUNTIME_DIRECTORY"):
            return Path(given.split(":")[0])
        if _is_service_account() or SYSTEM_RUNTIME.is_dir():
            return SYSTEM_RUNTIME
        if given := os.environ.get("XDG_RUNTIME_DIR"):
            return Path(given) / "edge-siamese"
        return self.state_directory

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


def load_settings(path: str | os.PathLike[str] | None = None) -> Settings:
    """Read settings.

    Args:
        path: a TOML file. None: the file that `EDGE_SIAMESE_CONFIG` names, or else /etc/edge-siamese/config.toml or
            ~/.config/edge-siamese/config.toml if there is one, or else the defaults.

    Raises:
        SettingsError: the file is missing or no TOML, or an option is unknown or has an impossible value.
    """
    found = Path(path) if path else default_config()
    if found is None:
        return Settings()
    try:
        text = found.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise SettingsError(f"{found}: there is no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{found} cannot be read: {reason}") from error
    return parse_settings(text, str(found))


def default_config() -> Path | None:
    """The file that is read where none was named; None if there is none."""
    if given := os.environ.get("EDGE_SIAMESE_CONFIG"):
        return Path(given)
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    places = (SYSTEM_CONFIG, Path(base) / "edge-siamese" / "config.toml")
    return next((place for place in places if place.is_file()), None)


def parse_settings(text: str, source: str = "config.toml") -> Settings:
    """TOML text to settings; raises `SettingsError` as `load_settings` does."""
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{source}: not TOML: {error}") from error
    try:
        require_finite(value)
        return read_object(value, Settings, optional=True)
    except SchemaError as error:
        raise SettingsError(f"{source}: {error}") from error


def _is_service_account() -> bool:
    return os.geteuid() == 0
