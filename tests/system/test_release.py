"""A release, built twice: in two folders, at different times, with different settings of the shell."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from edge_siamese import __version__
from scripts.release import differences, members
from tests.system.packages import ROOT

pytestmark = pytest.mark.system


def build(place: Path, umask: int, **environment: str) -> Path:
    """Build a release in a clone of this checkout; its directory."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(place)], check=True, umask=umask)
    done = subprocess.run(
        [sys.executable, str(place / "scripts" / "release.py"), "--arch", "arm64"],
        cwd=place.parent,
        env={**os.environ, **environment},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "build" / "release"


def test_two_builds_of_a_commit_are_the_same_byte_for_byte(asked_for: None, tmp_path: Path) -> None:
    if not (ROOT / ".git").exists() or not shutil.which("dpkg-deb"):
        pytest.skip("needs a clone of the repository, and dpkg-deb")
    one = build(tmp_path / "one", 0o022)
    other = build(tmp_path / "a longer" / "path", 0o002, TZ="Asia/Tokyo", LC_ALL="C", PYTHONHASHSEED="7")
    assert differences(one, other) == []
    package, source = f"edge-siamese_{__version__}_arm64", f"edge_siamese-{__version__}"
    wheel = f"{source}-py3-none-any.whl"
    names = [f"{package}.cdx.json", f"{package}.deb", wheel, f"{source}.tar.gz"]
    names += [f"edge-siamese-first-boot_{__version__}_arm64.zip"]
    assert sorted(path.name for path in one.iterdir()) == sorted([*names, "RELEASE_NOTES.md", "SHA256SUMS"])

    sums = dict(reversed(line.split("  ")) for line in (one / "SHA256SUMS").read_text().splitlines())
    assert sums == {
        path.name: sha256(path.read_bytes()).hexdigest()
        for path in one.iterdir()
        if path.name != "SHA256SUMS"
    }
    assert {path.stat().st_mode & 0o777 for path in other.iterdir()} == {0o644}

    # The package holds the wheel that is published, and the bill of materials names what it holds.
    bom = json.loads((one / f"{package}.cdx.json").read_text(encoding="utf-8"))
    assert bom["metadata"]["component"]["hashes"][0]["content"] == sums[f"{package}.deb"]
    assert {part["bom-ref"]: part["hashes"][0]["content"] for part in bom["components"]}[wheel] == sums[wheel]
    held = dict(members(one / f"{package}.deb"))
    inside = {name.rpartition("/")[2]: found[4] for name, found in held.items() if name.endswith(".whl")}
    assert inside == {part["bom-ref"]: part["hashes"][0]["content"] for part in bom["components"]}
    assert [part["name"] for part in bom["components"] if not part.get("licenses")] == []
    assert {"tflite-runtime", "ai-edge-litert", "edge-siamese"} <= {
        part["name"] for part in bom["components"]
    }
    assert not [name for name in held if name.endswith(".pyc")]

    # Nothing tells where and when it was built.
    epoch = int(
        subprocess.run(
            ["git", "-C", ROOT, "log", "-1", "--format=%ct"], capture_output=True, check=True
        ).stdout
    )
    with tarfile.open(one / f"{source}.tar.gz") as tar:
        assert {(member.uid, member.gid, member.mtime) for member in tar} == {(0, 0, epoch)}
    assert {(found[1], found[3]) for found in held.values()} == {("root", epoch)}
    with zipfile.ZipFile(one / wheel) as archive:
        texts = {name: archive.read(name) for name in archive.namelist()}
    assert [name for name, text in texts.items() if re.search(str(tmp_path).encode(), text)] == []
