"""The workstation's command line: its overview, exit statuses, mistakes and Ctrl-C."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_siamese.errors import DataError
from export import __main__ as entry
from export.__main__ import COMMANDS, main
from export.cli import report as report_command
from export.conversion.silence import DEBUG_VARIABLE, debugging

ROOT = Path(__file__).parents[2]
SECONDS = 400
"""Longest wait for another process, on a machine that has much else to do."""


@pytest.fixture(autouse=True)
def nothing_left_of_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train", "one of the arguments --out --recipe is required"),
        (
            "train --out x --encoder vgg",
            "argument --encoder: there is no encoder 'vgg'; known: efficientnet-lite0, ",
        ),
        ("train --out x --steps many", "argument --steps: 'many' is not a whole number of at least 0"),
        ("train --out x --steps -1", "argument --steps: '-1' is not a whole number of at least 0"),
        ("train --out x --batch 2.5", "argument --batch: '2.5' is not a whole number of at least 1"),
        ("train --out x --validations 0", "argument --validations: '0' is not a whole number of at least 1"),
        ("train --out x --seed -1", "argument --seed: '-1' is not a whole number of at least 0"),
        ("train --out x --threads 0", "argument --threads: '0' is not a whole number of at least 1"),
        (
            "train --out x --learning-rate nan",
            "argument --learning-rate: 'nan' is not a number of at least 0",
        ),
        (
            "train --out x --learning-rate big",
            "argument --learning-rate: 'big' is not a number of at least 0",
        ),
        ("train --out x --weight-decay inf", "argument --weight-decay: 'inf' is not a number of at least 0"),
        ("train --out x --schedule flat", "argument --schedule: invalid choice: 'flat'"),
        ("evaluate x --seed -1", "argument --seed: '-1' is not a whole number of at least 0"),
        (
            "evaluate x --seed 99999999999999",
            "argument --seed: '99999999999999' is not a seed: a seed is below 2^31",
        ),
        ("evaluate x --episodes -1", "argument --episodes: '-1' is not a whole number of at least 1"),
        ("evaluate x --pairs 0", "argument --pairs: '0' is not a whole number of at least 1"),
        ("evaluate x --per-class 0", "argument --per-class: '0' is not a whole number of at least 1"),
        ("evaluate x --threads -1", "argument --threads: '-1' is not a whole number of at least 1"),
        ("benchmark x --rounds 0", "argument --rounds: '0' is not a whole number of at least 1"),
        ("benchmark x --runs 0", "argument --runs: '0' is not a whole number of at least 1"),
        (
            "verify x --int8-budget nan",
            "argument --int8-budget: 'nan' is not a number of at least 0",
        ),
        (
            "verify x --int8-budget inf",
            "argument --int8-budget: 'inf' is not a number of at least 0",
        ),
        (
            "pipeline --out x --int8-budget -1",
            "argument --int8-budget: '-1' is not a number of at least 0",
        ),
        ("train --out x --objective triplet", "argument --objective: invalid choice: 'triplet'"),
        ("train --out x --sail", "unrecognized arguments: --sail"),
        ("pipeline --data glyphs", "one of the arguments --out --recipe is required"),
        ("bundle run", "the following arguments are required: --out"),
        (
            "bundle run --out x --int8-budget little",
            "argument --int8-budget: 'little' is not a number of at least 0",
        ),
        ("verify", "the following arguments are required: BUNDLE"),
        ("evaluate x --runtime tensorrt", "argument --runtime: invalid choice: 'tensorrt'"),
        ("benchmark x --rounds 1.5", "argument --rounds: '1.5' is not a whole number of at least 1"),
        ("report", "the following arguments are required: DIR"),
        ("demo build", "unrecognized arguments: build"),
    ],
)
def test_wrong_usage_is_status_2(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words.split())
    assert left.value.code == 2
    printed = capsys.readouterr()
    name = words.split()[0]
    assert printed.out == ""
    assert printed.err.startswith(f"usage: python -m export {name} ")
    assert f"python -m export {name}: error: {message}" in printed.err


def test_without_a_command_the_overview_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("usage: python -m export COMMAND …")
    assert main(["fly"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: unknown command 'fly'\nusage: python -m export COMMAND …")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_overview_that_was_asked_for_goes_to_standard_output(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([option]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert re.findall(r"^  (\w+) +\S", printed.out, re.MULTILINE) == list(COMMANDS)


def test_the_overview_needs_no_torch() -> None:
    """Nor do other commands' modules: torch alone takes seconds."""
    script = "import sys; sys.modules['torch'] = None\nfrom export.__main__ import main; sys.exit(main(['--help']))"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_debug_raises_the_error_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="there is no data set 'birds'"):
        main(["train", "--data", "birds", "--out", str(tmp_path / "never"), "--debug"])
    assert os.environ[DEBUG_VARIABLE] == "1" and debugging()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        (ZeroDivisionError("a mistake\nof two lines"), "ZeroDivisionError: a mistake"),
        (AssertionError(), "AssertionError: no message"),
    ],
)
def test_a_mistake_of_the_program_is_one_line_that_says_so_and_debug_shows_it(
    mistake: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: object) -> int:
        raise mistake

    monkeypatch.setattr(report_command, "run", fail)
    assert main(["report", "x"]) == 1
    assert capsys.readouterr() == (
        "",
        f"error: {line} (unexpected: use --debug for a traceback, and please report it)\n",
    )
    with pytest.raises(type(mistake)):
        main(["report", "x", "--debug"])


def test_a_package_that_is_missing_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        entry, "import_module", lambda name: __import__("no_such_package_as_this", fromlist=[name])
    )
    assert main(["report", "x"]) == 1
    assert capsys.readouterr().err == (
        f"error: the package no_such_package_as_this is not installed for {sys.executable}: run `make setup` and use "
        ".venv/bin/python, or install requirements/host.lock\n"
    )


def test_ctrl_c_while_packages_are_imported_is_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "import_module", interrupt)
    assert main(["train", "--out", "x"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_ctrl_c_anywhere_is_status_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(report_command, "run", interrupt)
    assert main(["report", "x"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
