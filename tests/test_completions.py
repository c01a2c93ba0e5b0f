"""Shell completions: up to date, and in a real bash they complete commands, options, choices and files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from scripts import completions

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
        "out of date: completions/edge-siamese.bash, completions/_edge-siamese; "
        "run: python scripts/completions.py\n"
    )
    assert completions.main([]) == 0
    assert completions.main(["--check"]) == 0


def test_commands_are_completed() -> None:
    assert tab("mo") == ["model"]
    assert tab("st") == ["status"]
    assert tab("re") == ["recognize", "register", "reload", "rename"]
    assert set(tab("")) >= {"run", "status", "objects", "model", "doctor", "bench"}


def test_inner_commands_are_completed() -> None:
    assert tab("model", "") == ["install", "list", "rollback"]
    assert tab("model", "ro") == ["rollback"]
    assert set(tab("objects", "")) == {"export", "import", "remove-view", "views"}


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
