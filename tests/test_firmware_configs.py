"""The firmware's settings: every fragment, and every combination that install.sh makes of them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edge_siamese.settings import PanelSettings
from tests.boot_partition import CONFIGS, SYSTEMS, installed, made, names
from tests.firmware_facts import BOARDS, CAMERAS, problems

FRAGMENTS = sorted(CONFIGS.rglob("*.txt"))


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    return made(tmp_path)


# --- fragments ---


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_a_fragment_is_valid_by_itself_and_ends_for_all_boards(path: Path) -> None:
    text = path.read_text(encoding="ascii")
    assert problems(text) == []
    assert text.endswith("\n[all]\n")


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_each_line_of_a_fragment_has_its_reason_above_it(path: Path) -> None:
    lines = path.read_text(encoding="ascii").splitlines()
    assert lines[0].startswith("# ")
    assert max(map(len, lines)) <= 125
    settings = [n for n, line in enumerate(lines) if line and line[0] not in "#["]
    assert all(lines[n - 1].startswith("# ") for n in settings)


def test_there_is_a_fragment_for_each_board_and_camera() -> None:
    assert {path.stem for path in (CONFIGS / "boards").iterdir()} == set(BOARDS)
    assert {path.stem for path in (CONFIGS / "cameras").iterdir()} == {*CAMERAS, "auto"}


def test_the_panel_has_the_names_and_lines_of_the_settings() -> None:
    settings = PanelSettings()
    overlay = (CONFIGS / "panels" / "overlay.txt").read_text()
    assert f"\ndtoverlay=gpio-key,gpio={settings.button_line},active_low={settings.active_low:d}," in overlay
    assert f",label={settings.input_device}," in overlay
    assert f"\ndtoverlay=gpio-led,gpio={settings.led_line},label={settings.kernel_led}," in overlay
    lines = (CONFIGS / "panels" / "gpio.txt").read_text()
    assert f"\ngpio={settings.button_line}=ip,pu\n" in lines
    assert f"\ngpio={settings.led_line}=op,dl\n" in lines
    script = (CONFIGS / "install.sh").read_text()
    assert f"\nBUTTON={settings.button_line} LED={settings.led_line}\n" in script


def test_systemd_asks_for_no_more_than_the_watchdog_can_count() -> None:
    found = re.search(r"^RuntimeWatchdogSec=(\d+)s$", (CONFIGS / "watchdog.conf").read_text(), re.MULTILINE)
    assert found and 1 <= int(found[1]) <= 15


MUTATIONS = (
    # file, what is right there, what is wrong, the problem that is found
    ("boards/zero2w.txt", "cma-96", "cma-192", "192 MB of CMA are more than a quarter of 512 MB"),
    ("boards/zero2w.txt", "cma,cma-96", "cma", "cma without a size is 256 MB"),
    ("boards/zero2w.txt", "cma-96", "cma-100", "unknown parameters of cma: cma-100"),
    ("boards/zero2w.txt", "[pi02]", "[zero2w]", "there is no section [zero2w]"),
    ("boards/zero2w.txt", "[all]\n", "", "it ends in [pi02], not in [all]"),
    ("boards/4.txt", "arm_boost", "arm_bost", "unknown setting arm_bost"),
    ("boards/4.txt", "arm_boost=1", "gpu_mem=128", "gpu_mem has no effect in an included file"),
    ("boards/4.txt", "=1", " = 1", "not KEY=VALUE without blanks: 'arm_boost = 1'"),
    (
        "boards/4.txt",
        "arm_boost=1",
        "dtoverlay=cma,cma-64",
        "the size of CMA is given 2 times: cma-128, cma-64",
    ),
    ("cameras/imx708.txt", "imx708", "imx780", "unknown overlay imx780"),
    ("cameras/imx708.txt", "imx708", "imx708,always-on", "unknown parameters of imx708: always-on"),
    ("cameras/imx708.txt", "imx708", "imx708,cam0", "cam0 is for boards with two connectors"),
    ("cameras/imx708.txt", "detect=0", "detect=1", "a camera is named, and searched for as well"),
    ("cameras/imx708.txt", "imx708", "imx708\ndtoverlay=imx219", "imx219 and imx708 are at one connector"),
    ("panels/overlay.txt", "gpio=27", "gpio=17", "GPIO 17 is used by gpio-key and by gpio-led"),
    ("panels/overlay.txt", "gpio=27", "gpio=44", "GPIO 44 belongs to a camera's or an add-on board's bus"),
    ("panels/overlay.txt", "gpio=27", "gpio=40", "GPIO 40 is not on the header"),
    ("panels/overlay.txt", "led,gpio=27,", "led,", "gpio-led without gpio= takes the overlay's own line"),
    ("panels/overlay.txt", "-button", "-button-at-the-door", "102 characters: only 98 are read"),
    ("panels/gpio.txt", "=ip,pu", "=in,pu", "unknown states of a line: in"),
    ("watchdog.txt", "watchdog", "watchdogs", "unknown parameter watchdogs of the base"),
)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation[-1] for mutation in MUTATIONS])
def test_a_wrong_fragment_is_caught(mutation: tuple[str, str, str, str]) -> None:
    name, right, wrong, problem = mutation
    lines = (CONFIGS / name).read_text().splitlines(keepends=True)
    # Reasons that quote a setting stay as they are.
    changed = "".join(line if line.startswith("#") else line.replace(right, wrong) for line in lines)
    found = problems(changed, "zero2w" if "zero2w" in name else "4")
    assert problem in [re.sub(r"^line \d+: ", "", text) for text in found]


def test_sound_of_an_overlay_is_not_taken_for_the_boards() -> None:
    text = "dtoverlay=vc4-kms-v3d\ndtparam=audio=off\n"
    assert problems(text) == [
        "line 2: audio is taken for a parameter of vc4-kms-v3d: end that with dtoverlay="
    ]
    assert problems(text.replace("\n", "\ndtoverlay=\n", 1)) == []


# --- combinations ---


def combinations() -> Iterator[tuple[str, list[str]]]:
    for board, camera, panel in itertools.product(
        BOARDS, [*CAMERAS, "auto", "none"], ["overlay", "gpio", "none"]
    ):
        yield board, ["--camera", camera, "--panel", panel, "--lean"]
    for camera in CAMERAS:
        yield "5", ["--camera", camera, "--connector", "0", "--no-watchdog"]


def test_every_combination_fits_its_board_with_either_system(boot: Path) -> None:
    def composed(combination: tuple[str, list[str]]) -> str:
        board, options = combination
        text = installed(boot, *options, "--dry-run", board=board).partition(" would be:\n")[2]
        lines = [line[4:] for line in text.splitlines(keepends=True) if line.startswith("    ")]
        return "".join(lines).partition("include")[0]

    cases = list(combinations())
    assert len(cases) == 4 * 7 * 3 + 5
    with ThreadPoolExecutor(4) as pool:
        for (board, options), text in zip(cases, pool.map(composed, cases), strict=True):
            text = text.removesuffix("[all]\n")
            assert problems(text, board) == [], (board, options)
            for system, config in SYSTEMS.items():
                assert problems(config + text, board, included=False) == [], (board, options, system)
            camera = options[1]
            assert (f"dtoverlay={camera}" in text) == (camera in CAMERAS)
            assert ("dtparam=watchdog=on\n" in text) == ("--no-watchdog" not in options)
            assert len(text) < 1024
    assert names(boot) == {"config.txt"}
