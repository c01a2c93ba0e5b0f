"""Releases: the checks before a build, the notes, the comparison of two builds, and bills of materials."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from datetime import UTC, datetime
from email.message import Message
from hashlib import sha256
from pathlib import Path

import pytest

pytest.importorskip("cyclonedx")

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from edge_siamese import __version__
from scripts import release, sbom
from scripts.release import ReleaseError

ROOT = Path(__file__).parent.parent
CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-01-02

### Added

- A thing.

## [1.1.0] - 2026-01-01

- The first thing.
"""


@pytest.mark.parametrize(
    ("version", "changes"),
    [
        ("1.2.0", "### Added\n\n- A thing."),
        ("1.1.0", "- The first thing."),
        ("Unreleased", ""),
        ("1.2", ""),
        ("1x2.0", ""),
    ],
)
def test_the_notes_are_the_section_of_the_version(version: str, changes: str) -> None:
    assert release.changes_of(CHANGELOG, version) == changes


def test_the_version_of_the_checkout_has_notes() -> None:
    assert release.version_of(ROOT) == __version__
    assert release.release_notes(ROOT, __version__).startswith("The first version.\n\n### Added\n")


def test_a_version_without_a_section_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    with pytest.raises(
        ReleaseError, match=r"^CHANGELOG.md has no section \[2.0.0\]: write one, or correct __version__$"
    ):
        release.release_notes(tmp_path, "2.0.0")
    assert release.release_notes(tmp_path, "1.2.0") == "### Added\n\n- A thing.\n"
    assert capsys.readouterr().out == "", "nothing is unreleased"
    (tmp_path / "CHANGELOG.md").write_text(
        CHANGELOG.replace("[Unreleased]\n", "[Unreleased]\n\n- Another.\n")
    )
    release.release_notes(tmp_path, "1.2.0")
    said = "note: the changes under [Unreleased] in CHANGELOG.md are not in the notes of 1.2.0\n"
    assert capsys.readouterr().out == said


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit, and the script."""
    root = tmp_path / "checkout"
    for name in ("scripts", "edge_siamese"):
        ignored = shutil.ignore_patterns("__pycache__", "objects", "glyphs", "static")
        shutil.copytree(ROOT / name, root / name, ignore=ignored)
    shutil.copy(ROOT / "CHANGELOG.md", root)
    (root / ".gitignore").write_text("/build/\n__pycache__/\n")
    (root / "edge_siamese" / "__init__.py").write_text('__version__ = "7.0.0"\n')
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b.example", "-C", str(root)]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=first"]):
        subprocess.run([*git, *words], check=True)
    return root


def run(root: Path, *words: str) -> tuple[int, str]:
    """Exit status and error message of the script."""
    command = [sys.executable, str(root / "scripts" / "release.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_uncommitted_files_are_named_and_refused(checkout: Path) -> None:
    (checkout / "new.txt").touch()
    (checkout / "CHANGELOG.md").write_text(CHANGELOG)
    assert run(checkout) == (
        1,
        "error: uncommitted files: CHANGELOG.md, new.txt; commit them, or use --allow-dirty for a trial\n",
    )
    missing = "error: CHANGELOG.md has no section [7.0.0]: write one, or correct __version__\n"
    assert run(checkout, "--allow-dirty") == (1, missing)
    assert not (checkout / "build" / "release").exists()


def test_a_directory_that_is_no_release_is_not_replaced(checkout: Path) -> None:
    status, said = run(checkout, "--out", str(checkout / "scripts"))
    assert (status, said) == (
        1,
        f"error: --out: {checkout}/scripts exists and is not a release: it would be replaced\n",
    )
    assert (checkout / "scripts" / "release.py").is_file()
    assert run(checkout, "--compare", str(checkout / "missing")) == (
        1,
        f"error: --compare: {checkout}/missing is not a directory\n",
    )


def test_a_directory_without_git_is_refused(checkout: Path) -> None:
    shutil.rmtree(checkout / ".git")
    status, said = run(checkout)
    assert status == 1
    assert re.match(r"error: git -C \S+ failed: fatal: not a git repository", said)


def test_the_help_shows_examples_and_options() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "release.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    options = re.findall(r"^  (--[a-z-]+)", done.stdout, re.MULTILINE)
    assert options == ["--out", "--arch", "--allow-dirty", "--compare"]
    assert "\n    make release\n" in done.stdout


def archives(place: Path, text: str, mode: int = 0o644) -> Path:
    """A release of a zip file and a tar archive, each with one member that varies."""
    place.mkdir()
    with zipfile.ZipFile(place / "program.whl", "w") as archive:
        archive.writestr(zipfile.ZipInfo("same.py"), "same")
        archive.writestr(zipfile.ZipInfo("program.py"), text)
    with tarfile.open(place / "program.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("folder/program.py")
        info.size, info.mode = 4, mode
        tar.addfile(info, io.BytesIO(b"same"))
    return place


def test_a_difference_is_reported_by_the_names_of_file_and_member(tmp_path: Path) -> None:
    one = archives(tmp_path / "one", "1")
    other = archives(tmp_path / "other", "2", mode=0o664)
    (one / "notes.md").touch()
    assert release.differences(one, other) == [
        f"notes.md is missing in {other}",
        "program.tar.gz differs: folder/program.py",
        "program.whl differs: program.py",
    ]
    assert release.differences(one, one) == []


@pytest.mark.parametrize(
    ("fields", "license_id"),
    [
        ({"License-Expression": "MIT"}, "MIT"),
        ({"License-Expression": "EPL-2.0 OR BSD-3-Clause"}, "EPL-2.0 OR BSD-3-Clause"),
        ({"License": "Apache 2.0"}, "Apache-2.0"),
        ({"Classifier": "License :: OSI Approved :: Apache Software License"}, "Apache-2.0"),
        ({"License": "The license:\n  text", "Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"Classifier": "Typing :: Typed"}, ""),
    ],
)
def test_a_license_is_given_in_the_terms_of_spdx(fields: dict[str, str], license_id: str) -> None:
    metadata = Message()
    for name, value in fields.items():
        metadata[name] = value
    assert sbom.license_of(metadata) == license_id


def wheel(place: Path, name: str, fields: str) -> Path:
    path = place / f"{name}-1.5-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.5.dist-info/METADATA", f"Name: {name}\nVersion: 1.5\n{fields}\n\ntext\n")
    return path


@pytest.mark.system
def test_a_bill_of_materials_lists_the_packages_and_matches_the_schema(tmp_path: Path) -> None:
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not installed")
    tree = tmp_path / "tree"
    wheels = tree / "usr" / "share" / sbom.WHEELS
    wheels.mkdir(parents=True)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        "Package: edge-siamese\nVersion: 7.0.0\nArchitecture: arm64\nMaintainer: a <a@b>\nDescription: x\n"
    )
    one = wheel(wheels, "typing_extensions", "License-Expression: PSF-2.0\nSummary: Type hints")
    wheel(wheels, "odd", "License: Everybody may use it")
    package = tmp_path / "edge-siamese_7.0.0_arm64.deb"
    subprocess.run(["dpkg-deb", "--build", tree, package], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "sbom.py"), str(package)],
        capture_output=True,
        text=True,
        check=True,
    )
    path = tmp_path / "edge-siamese_7.0.0_arm64.cdx.json"
    assert done.stdout == f"{path}\n"
    text = path.read_text(encoding="utf-8")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    digest = sha256(package.read_bytes()).hexdigest()
    whole = bom["metadata"]["component"]
    assert (whole["name"], whole["version"], whole["hashes"][0]["content"]) == (
        "edge-siamese",
        "7.0.0",
        digest,
    )
    odd, typing = bom["components"]
    assert typing == {
        "bom-ref": one.name,
        "description": "Type hints",
        "hashes": [{"alg": "SHA-256", "content": sha256(one.read_bytes()).hexdigest()}],
        "licenses": [{"license": {"acknowledgement": "declared", "id": "PSF-2.0"}}],
        "name": "typing-extensions",
        "purl": f"pkg:pypi/typing-extensions@1.5?file_name={one.name}",
        "type": "library",
        "version": "1.5",
    }
    assert odd["licenses"] == [{"license": {"acknowledgement": "declared", "name": "Everybody may use it"}}]
    assert {"ref": package.name, "dependsOn": sorted(path.name for path in wheels.iterdir())} in bom[
        "dependencies"
    ]
    again = sbom.bill_of_materials(package, datetime(2026, 1, 2, tzinfo=UTC))
    assert json.loads(again)["serialNumber"] == bom["serialNumber"]
    assert json.loads(again)["metadata"]["timestamp"] == "2026-01-02T00:00:00+00:00"
