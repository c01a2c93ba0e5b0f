"""The device guide and its pictures: up to date with settings, signals, scripts and the header."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from edge_siamese.cli.main import build_parser
from edge_siamese.daemon.saved_regions import FILE_NAME
from edge_siamese.panel.led_signals import Signal
from edge_siamese.settings import (
    MAX_REGIONS,
    MIN_REGION_SIDE,
    CameraSettings,
    PanelSettings,
    RecognitionSettings,
    RegistrationSettings,
)
from edge_siamese.settings_file import parse_settings
from scripts import wiring
from scripts.completions import actions
from tests.boot_partition import CONFIGS, SHELL, made
from tests.firmware_facts import BOARDS, CAMERAS, GROUND_PINS, HEADER_PIN

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "device.md").read_text(encoding="utf-8")
IMAGES = ROOT / "docs" / "images"
SVG = "{http://www.w3.org/2000/svg}"


def words(name: str) -> list[str]:
    """All texts of a picture."""
    return [element.text or "" for element in ET.parse(IMAGES / name).iter(f"{SVG}text")]


def section(heading: str) -> str:
    found = re.search(rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def first_cells(text: str) -> list[str]:
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return [row[0].strip() for row in rows[2:]]


# --- pictures ---


def test_pictures_and_table_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "wiring.py"), "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_stale_picture_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wiring, "ROOT", tmp_path)
    monkeypatch.setattr(wiring, "GUIDE", tmp_path / "docs" / "device.md")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "device.md").write_text(f"# A device\n\n{wiring.BEGIN}old\n{wiring.END}\n\nmore\n")
    assert wiring.main(["--check"]) == 1
    assert capsys.readouterr().err == (
        "out of date: docs/images/wiring.svg, docs/images/led-codes.svg, docs/device.md; run: python scripts/wiring.py\n"
    )
    assert wiring.main([]) == 0
    assert wiring.main(["--check"]) == 0
    text = (tmp_path / "docs" / "device.md").read_text()
    assert text.startswith(f"# A device\n\n{wiring.BEGIN}| LED | meaning |\n")
    assert text.endswith(f"|\n{wiring.END}\n\nmore\n")


def test_a_guide_without_the_tables_place_is_refused() -> None:
    with pytest.raises(ValueError, match=r"docs/device\.md has no <!-- signals"):
        wiring.with_table("# A device\n")


def test_the_header_is_the_one_of_all_boards() -> None:
    assert len(wiring.HEADER) == 40
    drawn = {line: pin for pin, line in enumerate(wiring.HEADER, 1) if isinstance(line, int)}
    assert drawn == HEADER_PIN | {0: 27, 1: 28}
    assert {pin for pin, what in enumerate(wiring.HEADER, 1) if what == "ground"} == GROUND_PINS
    assert {pin for pin, what in enumerate(wiring.HEADER, 1) if what == "5 V"} == {2, 4}
    assert {pin for pin, what in enumerate(wiring.HEADER, 1) if what == "3.3 V"} == {1, 17}


def test_the_wiring_is_that_of_the_settings_with_grounds_beside_the_lines() -> None:
    settings = PanelSettings()
    button, led = HEADER_PIN[settings.button_line], HEADER_PIN[settings.led_line]
    assert (button, led) == (11, 13)
    assert {wiring.BUTTON_GROUND, wiring.LED_GROUND} <= GROUND_PINS
    shown = words("wiring.svg")
    for text in (
        f"GPIO {settings.button_line}, pin {button}",
        f"GPIO {settings.led_line}, pin {led}",
        f"ground, pin {wiring.BUTTON_GROUND}",
        f"ground, pin {wiring.LED_GROUND}",
        "330 Ω",
    ):
        assert text in shown
    assert {str(pin) for pin in range(1, 41)} <= set(shown)
    text = section("Wiring")
    assert f"GPIO {settings.button_line} (pin {button}) with ground (pin {wiring.BUTTON_GROUND})" in text
    assert f"GPIO {settings.led_line} (pin {led}) feeds the LED through 330 Ω" in text
    assert f"its short leg to ground (pin {wiring.LED_GROUND})" in text


@pytest.mark.parametrize("name", ["wiring.svg", "led-codes.svg"])
def test_nothing_of_a_picture_is_outside_of_its_card(name: str) -> None:
    root = ET.parse(IMAGES / name).getroot()
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    assert root.get("role") == "img"
    assert root.find(f"{SVG}title") is not None
    for element in root.iter(f"{SVG}text"):
        size, text = float(element.get("font-size", 0)), element.text or ""
        wide = 0.54 * size * len(text)
        x, y = float(element.get("x", 0)), float(element.get("y", 0))
        left = x - {"middle": wide / 2, "end": wide}.get(element.get("text-anchor", ""), 0)
        assert left >= 0 and left + wide <= width, text
        assert size <= y <= height, text


@pytest.mark.parametrize("signal", Signal, ids=lambda signal: signal.name)
def test_the_seconds_that_are_drawn_are_those_of_the_signal(signal: Signal) -> None:
    drawn = list(wiring.lit(signal))
    for step in range(int(wiring.SHOWN_SECONDS * 100)):
        moment = step / 100 + 0.005  # between the changes, which are at whole hundredths
        assert any(begin <= moment < end for begin, end in drawn) == signal.pattern.at(moment), moment
    assert signal.appearance in words("led-codes.svg")
    assert signal.meaning.replace("`", "") in words("led-codes.svg")


def test_the_bars_of_saved_are_where_they_belong() -> None:
    assert [(round(a, 6), round(b, 6)) for a, b in wiring.lit(Signal.SAVED)] == [(0.3, 1.8)]
    assert [(round(a, 6), round(b, 6)) for a, b in wiring.lit(Signal.READY)] == [(0.0, 0.06), (4.0, 4.06)]
    assert list(wiring.lit(Signal.RECOGNIZED)) == [(0.0, 8.0)]
    assert list(wiring.lit(Signal.OFF)) == []


def test_pictures_can_be_drawn_by_others(tmp_path: Path) -> None:
    if not (convert := shutil.which("rsvg-convert")):
        pytest.skip("rsvg-convert is not installed")
    for name in ("wiring.svg", "led-codes.svg"):
        subprocess.run([convert, str(IMAGES / name), "-o", str(tmp_path / "out.png")], check=True)
        assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


# --- the page ---


def test_there_is_one_row_for_each_signal() -> None:
    assert first_cells(section("LED signals")) == [signal.appearance for signal in Signal]


def test_numbers_of_the_first_registration_are_the_settings() -> None:
    settings, text = RegistrationSettings(), section("The first object")
    assert f"Its name is `{settings.name_template.format(number=1)}`" in text
    assert (settings.frames, "has taken five good pictures" in text) == (5, True)
    assert (settings.timeout_s, "at most four seconds" in text) == (4.0, True)
    assert (settings.add_view_within_s, text.count("ithin eight seconds")) == (8.0, 2)
    assert (PanelSettings().hold_s, "hold for more than a second" in text) == (1.2, True)
    assert (
        "On for one and a half seconds" in text and Signal.SAVED.appearance == "on for one and a half seconds"
    )


def test_each_kind_of_camera_and_each_camera_of_the_script_has_a_row() -> None:
    kinds = set(get_args(get_type_hints(CameraSettings)["kind"]))
    assert {cell.strip("`") for cell in first_cells(section("Cameras"))} == kinds - {"auto"}
    table = section("Firmware settings").partition("It writes")[0]
    assert [cell.strip("`") for cell in first_cells(table)][-2:] == ["auto", "none"]
    assert set(CAMERAS) == {cell.strip("`") for cell in first_cells(table)} - {"auto", "none"}


def test_the_example_of_regions_is_valid_and_the_numbers_are_those_of_the_settings() -> None:
    text = " ".join(section("Regions").split())
    (example,) = re.findall(r"```toml\n(.*?)```", section("Regions"), re.DOTALL)
    settings = parse_settings(example)
    assert [region.name for region in settings.regions] == ["shelf", "door"]
    assert settings.regions[1].recognition(settings.recognition).appear_frames == 3
    assert MAX_REGIONS == 8 and "at most eight regions" in text
    assert MIN_REGION_SIDE == 1 / 20 and "at least a twentieth of the picture's width and height" in text
    assert f"`{FILE_NAME}` in the state directory" in text
    recognition, camera = RecognitionSettings(), CameraSettings()
    assert (recognition.regions_per_frame, camera.frame_rate, recognition.appear_frames) == (1, 10, 6)
    assert (
        "each is processed 2.5 times a second, and an object appears after 2.4 seconds instead of 0.6" in text
    )


def test_sizes_of_memory_are_those_of_the_fragments() -> None:
    sizes = {}
    for board in BOARDS:
        text = (CONFIGS / "boards" / f"{board}.txt").read_text()
        sizes[board] = re.findall(r"^dtoverlay=cma,cma-(\d+)$", text, re.MULTILINE)
    assert sizes == {"zero2w": ["96"], "3bplus": ["128"], "4": ["128"], "5": []}
    assert "96 MB on a\n  Zero 2 W, 128 MB on a 3B+ and 4" in GUIDE


def test_the_calls_of_the_firmware_script_work(tmp_path: Path) -> None:
    calls = re.findall(r"^sudo sh firmware_configs/install\.sh (.*)$", GUIDE, re.MULTILINE)
    assert calls == ["--camera imx708"]
    boot = made(tmp_path)
    for call in calls:
        command = [
            SHELL,
            str(CONFIGS / "install.sh"),
            *shlex.split(call),
            "--board",
            "4",
            "--boot",
            str(boot),
            "--dry-run",
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_options_of_scripts_that_are_named_exist() -> None:
    known = {option for action in actions(build_parser()) for option in action.option_strings}
    for name in ("firmware_configs/install.sh", "systemd/install.sh"):
        known |= set(re.findall(r"--[a-z][a-z-]+", (ROOT / name).read_text(encoding="utf-8")))
    prose = re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL)
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", prose)) - {"--list-cameras"}  # of rpicam-hello
    assert named - known - {"--help"} == set()


def test_files_that_commands_name_exist() -> None:
    for path in re.findall(r"(?<![\w/.])(?:firmware_configs|systemd)/[\w./-]+\w", GUIDE):
        assert (ROOT / path).is_file(), path
