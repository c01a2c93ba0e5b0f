"""The manual page: up to date, complete, and without warnings of the programs that show it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts import manual_page
from scripts.command_line import COMMON, Argument, Command, read


def test_it_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    assert manual_page.main(["--check"]) == 0
    assert capsys.readouterr().err == ""


def test_a_new_option_makes_it_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(manual_page, "ROOT", tmp_path)
    monkeypatch.setattr(manual_page, "PAGE", tmp_path / "edge-siamese.1")
    monkeypatch.setattr(manual_page, "release_date", lambda: "2026-01-01")
    assert manual_page.main([]) == 0
    assert manual_page.main(["--check"]) == 0
    option = Argument("deep", ("--deep",), "", "dig", (), is_required=False, is_repeated=False)
    program = Command((), "Dig.", "", (), (Command(("dig",), "Dig.", "", (option,), ()),))
    monkeypatch.setattr(manual_page, "read", lambda: program)
    assert manual_page.main(["--check"]) == 1
    assert "out of date: edge-siamese.1" in capsys.readouterr().err


def test_it_has_every_command_option_and_example() -> None:
    text = manual_page.PAGE.read_text(encoding="utf-8").replace("\\-", "-")
    sections = dict(re.findall(r"^\.SS (.+)\n((?:(?!\.S[SH]).*\n)*)", text, re.MULTILINE))
    known = [command for command in read().all if command.words]
    assert list(sections) == [" ".join(command.words) for command in known]
    for command in known:
        section = sections[" ".join(command.words)]
        for argument in command.arguments:
            assert argument.name in COMMON or (argument.flags or (argument.value,))[-1] in section
        assert command.example.split("--")[0] in section.replace("\\(aq", "'")


def test_text_is_escaped() -> None:
    assert manual_page._escaped("a-b \\ ~ '") == "a\\-b \\e \\(ti \\(aq"
    assert manual_page._wrapped("x " * 39 + ".hidden") == [("x " * 39).strip(), "\\&.hidden"]


@pytest.mark.parametrize(
    "command",
    [
        ["mandoc", "-W", "warning", "-T", "lint"],
        ["groff", "-man", "-Tutf8", "-ww", "-z", "-rLL=80n"],
        ["man", "--warnings", "--encoding=UTF-8", "--local-file"],
    ],
    ids=lambda command: command[0],
)
def test_nothing_warns(command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]}")
    done = subprocess.run(
        [*command, str(manual_page.PAGE)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANWIDTH": "80"},
    )
    assert (done.returncode, done.stderr) == (0, "")
    if command[0] == "man":
        assert "edge-siamese model install BUNDLE" in " ".join(done.stdout.split())
    else:
        assert done.stdout == ""
