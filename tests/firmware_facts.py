"""What Raspberry Pi's firmware and kernel know, as far as it is used here, and a check of config.txt files against it.

Overlays and their parameters are facts of `arch/arm/boot/dts/overlays/README` of the repository raspberrypi/linux (as of
commit 00322b31); sections and settings are facts of `documentation/asciidoc/computers/config_txt/` of
raspberrypi/documentation. Update them here when a fragment uses more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_SENSOR = {"rotation", "orientation", "media-controller", "cam0"}
CAMERAS = {
    "imx219": _SENSOR | {"vcm"},
    "imx708": _SENSOR | {"vcm", "link-frequency"},
    "ov5647": _SENSOR | {"vcm"},
    "imx477": _SENSOR | {"always-on"},
    "imx296": _SENSOR | {"always-on", "clock-frequency"},
}
CMA = {f"cma-{size}" for size in (64, 96, 128, 192, 256, 320, 384, 448, 512)} | {"cma-size", "cma-default"}
OVERLAYS: dict[str, set[str]] = {
    **CAMERAS,
    "cma": CMA,
    "vc4-kms-v3d": CMA | {"audio", "noaudio", "composite", "nohdmi"},
    "gpio-key": {"gpio", "active_low", "gpio_pull", "label", "keycode"},
    "gpio-led": {"gpio", "label", "trigger", "active_low"},
    "disable-bt": set(),
    "dwc2": {"dr_mode", "g-rx-fifo-size", "g-np-tx-fifo-size"},
}
BASE_PARAMETERS = {"audio", "watchdog", "i2c_arm", "spi", "i2s", "hdmi"}
KEYS = {
    "camera_auto_detect",
    "display_auto_detect",
    "auto_initramfs",
    "max_framebuffers",
    "disable_fw_kms_setup",
    "arm_64bit",
    "disable_overscan",
    "arm_boost",
    "otg_mode",
    "gpio",
    "dtoverlay",
    "dtparam",
}
ONLY_IN_CONFIG_TXT = {
    "gpu_mem",
    "total_mem",
    "start_x",
    "start_file",
    "fixup_file",
    "bootcode_delay",
    "sdram_freq",
}
"""Read before the main firmware, by loaders that know no `include`."""
GPIO_WORDS = {"ip", "op", "dh", "dl", "pu", "pd", "pn", "np", *(f"a{n}" for n in range(6))}
SECTIONS = {"all", "none", "pi0", "pi0w", "pi02", "pi1", "pi2", "pi3", "pi3+", "pi4", "pi400", "pi5", "pi500"}
SECTIONS |= {"cm1", "cm3", "cm3+", "cm4", "cm4s", "cm5", "tryboot"}
MAX_LINE = 98
"""Characters; the rest of a line is ignored."""
HEADER_PIN = {
    2: 3,
    3: 5,
    4: 7,
    14: 8,
    15: 10,
    17: 11,
    18: 12,
    27: 13,
    22: 15,
    23: 16,
    24: 18,
    10: 19,
    9: 21,
    25: 22,
}
HEADER_PIN |= {11: 23, 8: 24, 7: 26, 5: 29, 6: 31, 12: 32, 13: 33, 19: 35, 16: 36, 26: 37, 20: 38, 21: 40}
"""GPIO line to pin of the 40-pin header, but for 0 and 1, which belong to the memory of add-on boards."""
GROUND_PINS = {6, 9, 14, 20, 25, 30, 34, 39}
CAMERA_BUS = {0, 1, 28, 29, 44, 45}
"""Lines on which a camera's, or an add-on board's, I2C may lie before the Raspberry Pi 5."""


@dataclass(frozen=True)
class Board:
    """A board that is supported."""

    sections: frozenset[str]
    """The filters that it sees."""
    memory_mb: int
    """Of the smallest one that sees them."""
    connectors: int = 1
    """For cameras."""


BOARDS = {
    "zero2w": Board(frozenset({"pi0", "pi0w", "pi02"}), 512),
    "3bplus": Board(frozenset({"pi3", "pi3+"}), 512),  # the 3A+
    "4": Board(frozenset({"pi4"}), 1024),
    "5": Board(frozenset({"pi5"}), 1024, connectors=2),
}


@dataclass
class _State:
    """What has been said so far."""

    section: str = "all"
    overlay: str = ""
    gpio: dict[int, str] = field(default_factory=dict)
    cameras: dict[int, str] = field(default_factory=dict)
    cma: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)


def problems(text: str, board: str | None = None, *, included: bool = True) -> list[str]:
    """What is wrong with a config.txt, or with a part of one.

    Args:
        text: the file.
        board: look at what counts on this board, and whether it fits; None: at every line by itself.
        included: it is read by way of `include`, so that some settings come too late.
    """
    state, found = _State(), []
    for number, line in enumerate(text.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        found += [f"line {number}: {problem}" for problem in _line(line, state, board, included)]
    if state.section != "all":
        found.append(f"it ends in [{state.section}], not in [all]")
    if board:
        found += _whole(state, BOARDS[board])
    return found


def _line(line: str, state: _State, board: str | None, included: bool) -> Iterator[str]:
    if len(line) > MAX_LINE:
        yield f"{len(line)} characters: only {MAX_LINE} are read"
    if line.startswith("["):
        state.section = line.strip("[]")
        if state.section not in SECTIONS:
            yield f"there is no section {line}"
        return
    if board and state.section != "all" and state.section not in BOARDS[board].sections:
        return
    key, equals, value = line.partition("=")
    if key != key.strip() or value != value.strip() or not equals:
        yield f"not KEY=VALUE without blanks: {line!r}"
    if included and key in ONLY_IN_CONFIG_TXT:
        yield f"{key} has no effect in an included file"
    elif key not in KEYS:
        yield f"unknown setting {key}"
    elif reader := {"dtoverlay": _overlay, "dtparam": _base_parameters, "gpio": _gpio}.get(key):
        yield from reader(value, state)
    state.values[key] = value


def _base_parameters(value: str, state: _State) -> Iterator[str]:
    for name in (part.partition("=")[0] for part in value.split(",")):
        if name in OVERLAYS.get(state.overlay, ()) and name in BASE_PARAMETERS:
            yield f"{name} is taken for a parameter of {state.overlay}: end that with dtoverlay="
        elif name not in BASE_PARAMETERS | OVERLAYS.get(state.overlay, set()):
            yield f"unknown parameter {name} of the base"


def _gpio(value: str, state: _State) -> Iterator[str]:
    lines, _, words = value.partition("=")
    for name in lines.split(","):
        yield from _claim(int(name), "gpio=", state)
    if unknown := set(words.split(",")) - GPIO_WORDS:
        yield f"unknown states of a line: {', '.join(sorted(unknown))}"


def _overlay(value: str, state: _State) -> Iterator[str]:
    name, *parts = value.split(",")
    state.overlay = name
    if not name:
        return
    if name not in OVERLAYS:
        yield f"unknown overlay {name}"
        return
    given = dict(part.partition("=")[::2] for part in parts)
    if unknown := set(given) - OVERLAYS[name]:
        yield f"unknown parameters of {name}: {', '.join(sorted(unknown))}"
    if name in CAMERAS:
        connector = 0 if "cam0" in given else 1
        if connector in state.cameras:
            yield f"{name} and {state.cameras[connector]} are at one connector"
        state.cameras[connector] = name
    if gpio := given.get("gpio"):
        yield from _claim(int(gpio), name, state)
    elif "gpio" in OVERLAYS[name]:
        yield f"{name} without gpio= takes the overlay's own line"
    state.cma += [part for part in given if re.fullmatch(r"cma-\d+", part)]
    if name == "cma" and not given.keys() & CMA:
        yield "cma without a size is 256 MB"


def _claim(line: int, by: str, state: _State) -> Iterator[str]:
    if line in CAMERA_BUS:
        yield f"GPIO {line} belongs to a camera's or an add-on board's bus"
    elif line not in HEADER_PIN:
        yield f"GPIO {line} is not on the header"
    if line in state.gpio:
        yield f"GPIO {line} is used by {state.gpio[line]} and by {by}"
    state.gpio[line] = by


def _whole(state: _State, board: Board) -> Iterator[str]:
    if len(state.cma) > 1:
        yield f"the size of CMA is given {len(state.cma)} times: {', '.join(state.cma)}"
    for size in (int(part.removeprefix("cma-")) for part in state.cma):
        if size * 4 > board.memory_mb:
            yield f"{size} MB of CMA are more than a quarter of {board.memory_mb} MB"
    if state.cameras and state.values.get("camera_auto_detect", "1") != "0":
        yield "a camera is named, and searched for as well"
    if any(connector == 0 for connector in state.cameras) and board.connectors < 2:
        yield "cam0 is for boards with two connectors"
