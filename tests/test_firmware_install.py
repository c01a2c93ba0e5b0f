"""firmware_configs/install.sh: what it does to config.txt, what it refuses, and what a power cut leaves."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.boot_partition import (
    BOOKWORM,
    CONFIGS,
    INCLUDE,
    SHELL,
    SYSTEMS,
    install,
    installed,
    made,
    names,
    read,
    whole,
)
from tests.firmware_facts import problems


@pytest.fixture
def boot(tmp_path: Path) -> Path:
    return made(tmp_path)


# --- config.txt ---


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_adds_one_line_and_keeps_what_was_there(boot: Path, system: str) -> None:
    (boot / "config.txt").write_text(SYSTEMS[system])
    assert f"{boot}/edge-siamese.txt is written, and {boot}/config.txt includes it" in installed(
        boot, "--camera", "imx708"
    )
    assert read(boot) == SYSTEMS[system] + INCLUDE
    assert names(boot) == {"config.txt", "config.txt.edge-siamese-backup", "edge-siamese.txt"}
    assert (boot / "config.txt.edge-siamese-backup").read_text() == SYSTEMS[system]
    assert (boot / "edge-siamese.txt").read_text().splitlines()[2:] == [
        "[all]",
        "[pi4]",
        "dtoverlay=cma,cma-128",
        "arm_boost=1",
        "[all]",
        "camera_auto_detect=0",
        "dtoverlay=imx708",
        "dtoverlay=gpio-key,gpio=17,active_low=1,gpio_pull=up,label=edge-siamese-button,keycode=148",
        "dtoverlay=gpio-led,gpio=27,label=edge-siamese,trigger=none,active_low=0",
        "dtparam=watchdog=on",
    ]


def test_again_changes_nothing_and_other_options_change_only_the_included_file(boot: Path) -> None:
    installed(boot, "--camera", "imx708")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in boot.iterdir()}
    assert installed(boot, "--camera", "imx708").startswith("nothing to do: ")
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in boot.iterdir()} == before
    installed(boot, "--camera", "imx219", "--panel", "gpio")
    assert read(boot) == BOOKWORM + INCLUDE
    assert "\ngpio=17=ip,pu\ngpio=27=op,dl\n" in (boot / "edge-siamese.txt").read_text()


@pytest.mark.parametrize(
    ("end", "added"),
    [
        ("[cm4]\notg_mode=1\n", "[all]\n" + INCLUDE),
        ("[cm4]\notg_mode=1", "\n[all]\n" + INCLUDE),
        ("arm_boost=1", "\n" + INCLUDE),
        ("[pi4]\r\narm_boost=1\r\n[all]\r\n", INCLUDE),
        ("", INCLUDE),
    ],
)
def test_the_line_counts_for_all_boards_however_the_file_ends_and_undo_gives_every_byte_back(
    boot: Path, end: str, added: str
) -> None:
    (boot / "config.txt").write_bytes(end.encode())
    installed(boot, "--camera", "none")
    assert read(boot) == end + added
    assert installed(boot, "--camera", "none").startswith("nothing to do")
    assert installed(boot, "--undo") == f"{boot}/config.txt is restored\n"
    assert read(boot) == end
    assert names(boot) == {"config.txt"}


def test_what_was_added_below_the_line_later_stays_and_the_line_moves_to_the_end(boot: Path) -> None:
    installed(boot, "--camera", "imx708")
    with (boot / "config.txt").open("a") as file:
        file.write("[pi5]\ndtparam=spi=on\n")
    installed(boot, "--camera", "imx708")
    assert read(boot) == BOOKWORM + "[pi5]\ndtparam=spi=on\n[all]\n" + INCLUDE


def test_undo_after_other_changes_takes_out_only_its_line(boot: Path) -> None:
    installed(boot, "--camera", "imx708")
    (boot / "config.txt").write_text("# mine\n" + read(boot) + "dtparam=spi=on\n")
    said = installed(boot, "--undo")
    assert said == (
        f'{boot}/config.txt has changed since installation: only the line "include edge-siamese.txt" is removed\n'
        f"the original stays in {boot}/config.txt.edge-siamese-backup\n"
    )
    assert read(boot) == "# mine\n" + BOOKWORM + "dtparam=spi=on\n"
    assert names(boot) == {"config.txt", "config.txt.edge-siamese-backup"}
    # The backup is made once: it stays what was there before everything.
    installed(boot, "--camera", "imx708")
    assert (boot / "config.txt.edge-siamese-backup").read_text() == BOOKWORM
    assert installed(boot, "--undo").startswith(f"{boot}/config.txt has changed since")
    assert (
        installed(boot, "--undo")
        == f"there is nothing to undo: {boot}/config.txt does not include edge-siamese.txt\n"
    )


def test_a_dry_run_shows_all_and_writes_nothing(boot: Path) -> None:
    said = installed(boot, "--camera", "imx296", "--dry-run")
    assert f"{boot}/edge-siamese.txt would be:\n    # Made by" in said
    assert "\n    dtoverlay=imx296\n" in said
    assert said.endswith(f"{boot}/config.txt would end in:\n    [all]\n    include edge-siamese.txt\n")
    assert names(boot) == {"config.txt"}
    installed(boot, "--camera", "imx296")
    before = read(boot)
    assert installed(boot, "--undo", "--dry-run") == f"{boot}/config.txt would be restored\n"
    assert read(boot) == before
    assert len(names(boot)) == 3


# --- conflicts ---

CONFLICTS = (
    ("dtoverlay=imx219", "dtoverlay=imx219", "remove that line"),
    ("[pi4]\ndtoverlay=ov5647,rotation=180\n[all]", "dtoverlay=ov5647", "remove that line"),
    ("start_x=1", "start_x=1", "remove that line"),
    ("dtoverlay=gpio-shutdown,gpio_pin=17", "uses GPIO 17 (button) or 27 (LED)", "--panel none"),
    ("dtoverlay=gpio-fan\ndtparam=gpiopin=27", "dtparam=gpiopin=27 uses GPIO", "--panel none"),
    ("dtoverlay=rotary-encoder,pin_a=4", "rotary-encoder", "--panel none"),
    ("dtoverlay=spi1-2cs", "spi1-2cs", "--panel none"),
    ("gpio=16-18=op,dh", "gpio=16-18=op,dh uses GPIO", "--panel none"),
    ("dtoverlay=vc4-kms-v3d,cma-256", "cma-256 also sets the size of contiguous memory", "--no-cma"),
    ("dtoverlay=cma,cma-64", "cma-64 also sets the size", "--no-cma"),
)


@pytest.mark.parametrize(("lines", "what", "remedy"), CONFLICTS, ids=[conflict[0] for conflict in CONFLICTS])
def test_a_conflict_is_named_with_its_line_and_a_remedy_and_nothing_changes(
    boot: Path, lines: str, what: str, remedy: str
) -> None:
    (boot / "config.txt").write_text(BOOKWORM + lines + "\n")
    done = install(boot, "--camera", "imx708")
    assert done.returncode == 1
    assert re.match(r"(note: .*\n)*conflict: config\.txt:\d+: ", done.stderr)
    assert what in done.stderr
    assert remedy in done.stderr.partition("    do: ")[2]
    assert done.stderr.endswith("error: nothing has changed\n")
    assert names(boot) == {"config.txt"}


@pytest.mark.parametrize(
    "lines",
    [
        "[pi5]\ndtoverlay=imx219\n[all]",
        "[none]\ndtoverlay=imx219\n[all]",
        "#dtoverlay=imx219",
        "dtoverlay=i2c-rtc,ds3231",
        "dtoverlay=gpio-fan,gpiopin=14,temp=27000",
        "dtoverlay=rotary-encoder,pin_a=5,pin_b=6",
        "gpio=18-26=ip",
        "dtoverlay=vc4-kms-v3d,noaudio",
    ],
)
def test_what_does_not_count_here_or_uses_other_lines_is_no_conflict(boot: Path, lines: str) -> None:
    (boot / "config.txt").write_text(BOOKWORM + lines + "\n")
    installed(boot, "--camera", "imx708")


def test_conflicts_are_found_in_other_included_files_and_in_the_kernels_command_line(boot: Path) -> None:
    (boot / "config.txt").write_text(BOOKWORM + "include mine.txt\n")
    (boot / "mine.txt").write_text("\ndtoverlay=imx477\n")
    (boot / "cmdline.txt").write_text("console=tty1 cma=64M root=PARTUUID=1 rootwait\n")
    done = install(boot, "--camera", "imx708")
    assert "conflict: mine.txt:2: dtoverlay=imx477\n" in done.stderr
    assert "conflict: cmdline.txt: cma=… overrides the device tree" in done.stderr
    installed(boot, "--camera", "none", "--no-cma")


def test_the_options_that_are_named_as_remedies_are_some(boot: Path) -> None:
    (boot / "config.txt").write_text(BOOKWORM + "dtoverlay=imx219\ngpio=17=op\ndtoverlay=cma,cma-64\n")
    assert install(boot, "--camera", "imx708").stderr.count("conflict: ") == 3
    installed(boot, "--camera", "none", "--panel", "none", "--no-cma")
    assert "cma" not in (boot / "edge-siamese.txt").read_text()


def test_a_raspberry_pi_5_may_have_another_camera_at_its_other_connector(boot: Path) -> None:
    (boot / "config.txt").write_text(BOOKWORM + "dtoverlay=imx219,cam0\n")
    installed(boot, "--camera", "imx708", board="5")
    done = install(boot, "--camera", "imx708", "--connector", "0", board="5")
    assert (done.returncode, "dtoverlay=imx219,cam0" in done.stderr) == (1, True)


def test_an_overlay_that_the_system_does_not_have_is_named(boot: Path) -> None:
    (boot / "overlays").mkdir()
    for name in ("cma", "gpio-key", "gpio-led"):
        (boot / "overlays" / f"{name}.dtbo").touch()
    done = install(boot, "--camera", "imx708")
    assert f"conflict: {boot}/overlays has no imx708.dtbo" in done.stderr
    assert "sudo apt full-upgrade" in done.stderr


def test_settings_that_count_no_longer_or_do_nothing_are_pointed_out(boot: Path) -> None:
    (boot / "config.txt").write_text("gpu_mem=256\ncamera_auto_detect=1\n")
    done = install(boot, "--camera", "imx708")
    assert done.stderr.splitlines() == [
        "note: config.txt:2: camera_auto_detect=1 has no effect: edge-siamese.txt comes after it and sets 0",
        "note: config.txt:1: gpu_mem=256 takes memory from Linux and gives none to the camera: "
        "remove it unless something else needs it",
    ]


# --- boards, arguments, places ---


@pytest.mark.parametrize(
    ("model", "board"),
    [
        ("Raspberry Pi Zero 2 W Rev 1.0", "zero2w"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "3bplus"),
        ("Raspberry Pi 4 Model B Rev 1.4", "4"),
        ("Raspberry Pi 5 Model B Rev 1.0", "5"),
    ],
)
def test_the_board_is_found_by_its_model(boot: Path, model: str, board: str) -> None:
    (boot / "model").write_bytes(model.encode() + b"\0")
    done = install(boot, "--camera", "none", board=None, DEVICE_TREE_MODEL=str(boot / "model"))
    assert done.returncode == 0, done.stderr
    assert f"# --board {board} --camera none" in (boot / "edge-siamese.txt").read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--camera", "imx708"), "this machine is not a supported board: name one with --board"),
        (("--board", "6", "--camera", "none"), "--board: 6 is not one of zero2w, 3bplus, 4, 5"),
        (
            ("--board", "4"),
            "which camera? --camera imx708 is Camera Module 3, imx219 is 2 (--help lists all; none: a USB camera)",
        ),
        (
            ("--board", "4", "--camera", "v3"),
            "--camera: v3 is not one of imx219 imx708 ov5647 imx477 imx296 auto none",
        ),
        (
            ("--board", "4", "--camera", "none", "--panel", "x"),
            "--panel: x is not one of overlay, gpio, none",
        ),
        (
            ("--board", "4", "--camera", "imx708", "--connector", "0"),
            "--connector: only a Raspberry Pi 5 has two connectors",
        ),
        (
            ("--board", "5", "--camera", "auto", "--connector", "0"),
            "--connector needs a named camera, not auto",
        ),
        (("--camera",), "--camera needs a value (--help shows the options)"),
        (("--bord", "4"), "unknown option --bord (--help shows the options)"),
    ],
)
def test_wrong_arguments_are_refused(boot: Path, options: tuple[str, ...], said: str) -> None:
    command = [SHELL, str(CONFIGS / "install.sh"), "--boot", str(boot), *options]
    environment = {**os.environ, "DEVICE_TREE_MODEL": str(boot / "no-model")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (2, f"error: {said}\n")
    assert names(boot) == {"config.txt"}


def test_a_place_that_is_no_boot_partition_is_refused(tmp_path: Path) -> None:
    done = install(tmp_path / "none", "--camera", "none")
    assert done.stderr == f"error: {tmp_path}/none is not a directory: is the boot partition mounted?\n"
    done = install(tmp_path, "--camera", "none")
    assert (
        done.stderr == f"error: {tmp_path} has no config.txt: is it the boot partition of a Raspberry Pi?\n"
    )
    (tmp_path / "config.txt").write_text(
        "DO NOT EDIT THIS FILE\n\nIt has moved to /boot/firmware/config.txt\n"
    )
    done = install(tmp_path, "--camera", "none")
    assert done.stderr.endswith("is not in use: use --boot /boot/firmware\n")


def test_the_help_has_examples_and_its_options_exist() -> None:
    command = [SHELL, str(CONFIGS / "install.sh"), "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"(?<![\w-])--[a-z-]+", text))
    known = set(re.findall(r"^ {8}(--[a-z-]+)", (CONFIGS / "install.sh").read_text(), re.MULTILINE))
    assert named == known
    assert "examples:\n  sudo sh install.sh --camera imx708\n" in text


def test_the_script_is_one_for_any_posix_shell() -> None:
    if not (shellcheck := shutil.which("shellcheck")):
        pytest.skip("shellcheck is not installed")
    done = subprocess.run(
        [shellcheck, "-s", "sh", str(CONFIGS / "install.sh")], capture_output=True, text=True
    )
    assert done.stdout == ""


# --- the power goes ---


def killing_mv(place: Path, call: int, when: str) -> dict[str, str]:
    """An environment whose `mv` kills its caller at the call of that number, before or after its work."""
    place.mkdir(exist_ok=True)
    mv, count = shutil.which("mv"), place / "count"
    kill = f'[ "$n" != {call} ] || {{ kill -KILL $PPID; exit; }}'
    work = f'{mv} "$@"'
    body = f"{kill}\n{work}" if when == "before" else f"{work}\n{kill}"
    (place / "mv").write_text(
        f"#!/bin/sh\nn=$(($(cat {count} 2>/dev/null || echo 0) + 1)); echo $n >{count}\n{body}\n"
    )
    (place / "mv").chmod(0o755)
    return {"PATH": f"{place}:{place.parent / 'bin'}:{os.environ['PATH']}"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("call", [1, 2, 3])
def test_killed_at_any_step_it_leaves_what_starts_and_the_next_call_completes_it(
    boot: Path, tmp_path: Path, call: int, when: str
) -> None:
    done = install(boot, "--camera", "imx708", **killing_mv(tmp_path / "killing", call, when))
    assert done.returncode == -9
    config = read(boot)
    assert config in (BOOKWORM, BOOKWORM + INCLUDE)
    if config != BOOKWORM:
        assert problems(whole(boot), "4", included=False) == []
        assert "dtparam=watchdog=on" in whole(boot)
    installed(boot, "--camera", "imx708")
    assert read(boot) == BOOKWORM + INCLUDE
    assert "edge-siamese.new" not in names(boot)
    installed(boot, "--undo")
    assert (read(boot), names(boot)) == (BOOKWORM, {"config.txt"})


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_it_takes_itself_back_it_leaves_what_starts(
    boot: Path, tmp_path: Path, when: str
) -> None:
    installed(boot, "--camera", "imx708")
    assert install(boot, "--undo", **killing_mv(tmp_path / "killing", 1, when)).returncode == -9
    assert read(boot) == (BOOKWORM + INCLUDE if when == "before" else BOOKWORM)
    assert (boot / "edge-siamese.txt").exists()
    installed(boot, "--undo")
    assert (read(boot), names(boot)) == (BOOKWORM, {"config.txt"})


def test_what_is_written_is_on_the_card_before_it_gets_its_name(boot: Path, tmp_path: Path) -> None:
    bin_, calls = tmp_path / "bin", tmp_path / "calls"
    bin_.mkdir()
    (bin_ / "mv").write_text(f'#!/bin/sh\necho "mv ${{3##*/}}" >>{calls}\n{shutil.which("mv")} "$@"\n')
    (bin_ / "mv").chmod(0o755)
    installed(boot, "--camera", "imx708")
    steps = ["config.txt.edge-siamese-backup", "edge-siamese.txt", "config.txt"]
    assert calls.read_text().split("\n")[:-1] == [
        call for name in steps for call in ("sync", f"mv {name}", "sync")
    ]


def test_a_partition_that_is_full_keeps_what_it_had(boot: Path) -> None:
    (boot / "edge-siamese.new").mkdir()  # it cannot be written, whoever asks
    done = install(boot, "--camera", "imx708")
    assert done.returncode == 1
    assert f"error: {boot}/edge-siamese.new could not be written: is {boot} full?" in done.stderr
    assert read(boot) == BOOKWORM
    assert names(boot) == {"config.txt", "edge-siamese.new"}
