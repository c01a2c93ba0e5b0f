"""Shell completions: up to date, and in real shells they complete commands, options, choices and files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edge_siamese.cli.main import main
from scripts import command_line, completions
from tests.documented import ROOT, commands

BASH = completions.FOLDER / completions.FILES["bash"]
# What bash does at a tab: it calls the function that `complete` named, with the words so far.
TAB = """
source "$1"; shift
function=$(complete -p edge-siamese | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
COMP_WORDS=(edge-siamese "$@")
COMP_CWORD=$#
"$function" edge-siamese "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


def tab(*words: str, cwd: Path | None = None) -> list[str]:
    """What bash offers after `edge-siamese WORDS`."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    done = subprocess.run(
        [bash, "--norc", "-c", TAB, "bash", str(BASH), *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return sorted(done.stdout.split())


def test_they_are_fresh(capsys: pytest.CaptureFixture[str]) -> None:
    assert completions.main(["--check"]) == 0
    assert capsys.readouterr().err == ""


def test_staleness_is_noticed_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(completions, "ROOT", tmp_path)
    monkeypatch.setattr(completions, "FOLDER", tmp_path / "completions")
    assert completions.main(["--check"]) == 1
    assert capsys.readouterr().err == (
        "out of date: completions/edge-siamese.bash, completions/_edge-siamese, completions/edge-siamese.fish; "
        "run: python scripts/completions.py\n"
    )
    assert completions.main([]) == 0
    assert completions.main(["--check"]) == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_command_prints_them(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == completions.completion(shell)


def test_every_command_in_the_page_on_installing_runs_in_a_new_home(tmp_path: Path) -> None:
    lines = commands("docs/installing.md", "mkdir -p ~/.local/share/bash-completion")
    programs = tmp_path / "bin"
    programs.mkdir()
    edge_siamese = f'#!/bin/sh\nexec "{sys.executable}" -m edge_siamese "$@"\n'
    (programs / "edge-siamese").write_text(edge_siamese)
    (programs / "edge-siamese").chmod(0o755)
    home = tmp_path / "home"
    home.mkdir()
    script = "\n".join(" ".join(words) for words in lines)
    environment = {"HOME": str(home), "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    subprocess.run(["sh", "-euc", script], env=environment, check=True)
    written = {path.name: path.read_text(encoding="utf-8") for path in home.rglob("*") if path.is_file()}
    assert written == {
        "edge-siamese": completions.completion("bash"),
        "_edge-siamese": completions.completion("zsh"),
        "edge-siamese.fish": completions.completion("fish"),
    }


def test_commands_are_completed() -> None:
    assert tab("mo") == ["model"]
    assert tab("co") == ["compare", "completion", "config"]
    assert tab("st") == ["status"]
    assert tab("re") == ["recognize", "regions", "register", "reload", "rename"]
    assert set(tab("")) >= {"run", "status", "objects", "model", "doctor", "bench"}


def test_inner_commands_are_completed() -> None:
    assert tab("model", "") == ["install", "list", "rollback"]
    assert tab("model", "ro") == ["rollback"]
    assert set(tab("objects", "")) == {"collect", "export", "import", "remove-view", "views"}


def test_options_and_choices_are_completed() -> None:
    assert tab("events", "--fo") == ["--follow"]
    assert tab("objects", "import", "--on-conflict", "") == ["merge", "rename", "skip"]
    assert tab("info", "--j") == ["--json"]


def test_files_and_directories_are_completed(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bunting.jpg").touch()
    assert tab("model", "install", "bun", cwd=tmp_path) == ["bundle"]
    assert tab("score", "bun", cwd=tmp_path) == ["bundle", "bunting.jpg"]
    assert tab("status", "--config", "bunt", cwd=tmp_path) == ["bunting.jpg"]


def test_zsh_takes_them() -> None:
    text = (completions.FOLDER / completions.FILES["zsh"]).read_text(encoding="utf-8")
    assert text.startswith("#compdef edge-siamese\n")
    if zsh := shutil.which("zsh"):
        subprocess.run([zsh, "-n", str(completions.FOLDER / completions.FILES["zsh"])], check=True)


# --- fish ---

FISH = completions.FOLDER / completions.FILES["fish"]


def fish(line: str, cwd: Path | None = None) -> list[str]:
    """What fish offers after a command line, without descriptions."""
    program = shutil.which("fish")
    if program is None:
        pytest.skip("no fish")
    done = subprocess.run(
        [program, "--no-config", "--private", "-c", "source $argv[1]; complete -C $argv[2]", str(FISH), line],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return sorted(offer.split("\t")[0] for offer in done.stdout.splitlines())


def test_fish_completes_commands_and_inner_ones() -> None:
    assert fish("edge-siamese st") == ["status"]
    assert fish("edge-siamese model ") == ["install", "list", "rollback"]
    assert fish("edge-siamese model --json ro") == ["rollback"]
    assert fish("edge-siamese rename list model ") == [], "names of objects are no commands"


def test_fish_completes_options_and_choices() -> None:
    assert fish("edge-siamese events --fo") == ["--follow"]
    assert fish("edge-siamese objects import --on-conflict ") == ["merge", "rename", "skip"]
    assert fish("edge-siamese objects import --on-conflict rename --js") == ["--json"]
    assert fish("edge-siamese completion ") == ["bash", "fish", "zsh"]


def test_fish_completes_files_and_directories(tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bunting.jpg").touch()
    assert fish("edge-siamese model install bun", tmp_path) == ["bundle/"]
    assert fish("edge-siamese score bun", tmp_path) == ["bundle/", "bunting.jpg"]
    assert fish("edge-siamese status --config bunt", tmp_path) == ["bunting.jpg"]
    assert fish("edge-siamese rename bun", tmp_path) == []


def test_fish_gets_every_command_and_option() -> None:
    """Without fish too: each option of each command has a line, whose quotes match."""
    lines = FISH.read_text(encoding="utf-8").splitlines()
    for command in command_line.read().all:
        start = f"complete -c edge-siamese -n '__edge_siamese_at {' '.join(command.words)}'"
        own = [line for line in lines if line.startswith(start)]
        assert len(own) == len(command.commands) + len(command.arguments), command.words
        for line in own:
            assert len(re.findall(r"(?<!\\)'", line)) % 2 == 0, line
