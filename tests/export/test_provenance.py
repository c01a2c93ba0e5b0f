"""Provenance: the commit that something was made with, exact or not stated, the versions and the machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest

import edge_siamese
from export import provenance
from export.data.images import ImageSet, Splits
from export.provenance import commit, data_fingerprint, machine, versions


def git(*words: str, at: Path) -> str:
    options = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *options, *words], cwd=at, check=True, capture_output=True, text=True
    ).stdout


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit, which the module believes itself to be in."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    here = tmp_path / "checkout" / "export"
    here.mkdir(parents=True)
    (here / "provenance.py").write_text("# first\n")
    git("init", "--quiet", at=here.parent)
    git("add", ".", at=here.parent)
    git("commit", "--quiet", "--message", "first", at=here.parent)
    monkeypatch.setattr(provenance, "__file__", str(here / "provenance.py"))
    return here.parent


def test_the_commit_is_twelve_digits_of_the_checkout(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert commit() == git("rev-parse", "HEAD", at=checkout)[:12]
    assert re.fullmatch("[0-9a-f]{12}", commit())


def test_changes_of_tracked_files_are_told_and_other_files_are_not(checkout: Path) -> None:
    clean = commit()
    (checkout / "notes.txt").write_text("mine")
    assert commit() == clean
    (checkout / "export" / "provenance.py").write_text("# second\n")
    assert commit() == f"{clean}+changes"
    git("add", "export", at=checkout)
    assert commit() == f"{clean}+changes"


def test_the_commit_is_unknown_outside_of_git_and_without_it(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "elsewhere" / "provenance.py"))
    assert commit() == "unknown"
    monkeypatch.setattr(provenance, "__file__", str(checkout / "export" / "provenance.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == "unknown"


def test_a_git_that_hangs_costs_the_commit_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*_: object, **options: object) -> None:
        assert options["timeout"] == 10
        raise subprocess.TimeoutExpired("git", 10)

    monkeypatch.setattr(provenance.subprocess, "run", hang)
    assert commit() == "unknown"
    assert versions()["commit"] == "unknown"


def test_versions_are_of_what_decides_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "no-such-package-as-this"))
    monkeypatch.setattr(provenance, "commit", lambda: "0123456789ab")
    assert versions() == {
        "commit": "0123456789ab",
        "versions": {
            "edge-siamese": edge_siamese.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
    }


def test_the_converters_and_runtimes_of_the_workstation_are_among_the_versions() -> None:
    found = versions()["versions"]
    assert isinstance(found, dict)
    assert {"torch", "onnx", "onnxruntime", "litert-torch", "ai-edge-litert", "ai-edge-quantizer"} <= set(
        found
    )


def test_a_machine_is_its_processor_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(provenance.platform, "system", lambda: "Linux")
    monkeypatch.setattr(provenance.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(provenance.platform, "processor", lambda: "")
    text = "processor\t: 0\nmodel name\t: Cortex-A76: rev 1\nmodel name\t: other\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert machine() == "Cortex-A76: rev 1, 4 cores, Linux aarch64"
    # The kernel of a Raspberry Pi names no model.
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor\t: 0\nBogoMIPS\t: 108.00\n")
    assert machine() == "aarch64, 4 cores, Linux aarch64"

    def refuse(*_: object, **__: object) -> str:
        raise OSError("no /proc here")

    monkeypatch.setattr(Path, "read_text", refuse)
    assert machine() == "aarch64, 4 cores, Linux aarch64"


def pictures(
    name: str, classes: tuple[str, ...], counts: tuple[int, ...], group: str = "all", ink: int = 0
) -> ImageSet:
    labels = np.repeat(np.arange(len(classes)), counts)
    return ImageSet(
        name=name,
        images=np.full((len(labels), 2, 2, 1), ink, dtype=np.uint8),
        labels=labels,
        class_names=classes,
        class_groups=np.zeros(len(classes), dtype=np.int64),
        group_names=(group,),
        drawers=np.full(len(labels), -1),
    )


def test_a_fingerprint_is_of_classes_and_counts_and_of_the_split_that_they_are_in() -> None:
    train, other = pictures("train", ("a", "b"), (2, 3)), pictures("other", ("c",), (2,))
    known = data_fingerprint(Splits(train, other, other))
    assert re.fullmatch("[0-9a-f]{16}", known)
    # Neither what a set is called nor its pixels: the same photographs may be read for another encoder.
    again = pictures("photos train", ("a", "b"), (2, 3), ink=9)
    assert data_fingerprint(Splits(again, other, other)) == known
    changed = [
        Splits(pictures("train", ("a", "b"), (3, 2)), other, other),
        Splits(pictures("train", ("a", "x"), (2, 3)), other, other),
        Splits(pictures("train", ("b", "a"), (2, 3)), other, other),
        Splits(pictures("train", ("a", "b"), (2, 3), group="fruit"), other, other),
        Splits(other, train, other),
        Splits(train, other, train),
    ]
    assert len({known, *map(data_fingerprint, changed)}) == 1 + len(changed)
