"""Builds a release: wheel, source archive, Debian packages, bills of materials, checksums and release notes.

    make release
    .venv/bin/python scripts/release.py --allow-dirty --arch arm64          # a trial of uncommitted changes
    .venv/bin/python scripts/release.py --compare ~/downloads/v0.3.0        # rebuild a release, and compare the files

The build is reproducible: two clones of a commit give the same bytes where dpkg, gzip and zlib have the same versions. All
times are that of the commit.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edge_siamese.system.files import replace_directory, staging_directory, write_text_atomically  # noqa: E402
from scripts import sbom  # noqa: E402
from scripts.first_boot import first_boot  # noqa: E402

ARCHITECTURES = ("arm64", "amd64")
SUMS, NOTES = "SHA256SUMS", "RELEASE_NOTES.md"


class ReleaseError(Exception):
    """The checkout cannot be released, or a step of the build failed."""


def version_of(root: Path) -> str:
    """The version in a checkout."""
    text = (root / "edge_siamese" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if not found:
        raise ReleaseError(f"{root}/edge_siamese/__init__.py defines no __version__")
    return found[1]


def changes_of(changelog: str, version: str) -> str:
    """The section of a version in a changelog, without its heading; empty if there is none."""
    section = rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## \[|\Z)"
    found = re.search(section, changelog, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def release_notes(root: Path, version: str) -> str:
    """The section of this version in CHANGELOG.md.

    Raises:
        ReleaseError: there is none, or it is empty.
    """
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    notes = changes_of(changelog, version)
    if not notes:
        raise ReleaseError(f"CHANGELOG.md has no section [{version}]: write one, or correct __version__")
    if changes_of(changelog, "Unreleased"):
        print(f"note: the changes under [Unreleased] in CHANGELOG.md are not in the notes of {version}")
    return notes + "\n"


def uncommitted(root: Path) -> list[str]:
    """Files of a checkout that differ from its commit, or are not in it.

    Raises:
        ReleaseError: `root` is not a Git checkout.
    """
    status = run("git", "-C", str(root), "status", "--porcelain", "--no-renames")
    return [line[3:] for line in status.splitlines()]


def commit_time(root: Path) -> int:
    """Seconds since 1970 of the commit; SOURCE_DATE_EPOCH overrides it."""
    given = os.environ.get("SOURCE_DATE_EPOCH") or run("git", "-C", str(root), "log", "-1", "--format=%ct")
    if not re.fullmatch(r"\d+\n?", given):
        raise ReleaseError(f"SOURCE_DATE_EPOCH is not a number of seconds: {given!r}")
    return int(given)


def build(root: Path, out: Path, architectures: Sequence[str]) -> list[Path]:
    """Build everything into an empty directory; returns the files.

    Raises:
        ReleaseError: a step failed.
    """
    version, epoch = version_of(root), commit_time(root)
    notes = release_notes(root, version)
    os.umask(0o022)
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": str(epoch),
        "PYTHON": sys.executable,
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    hatchling = (sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(out))
    run(*hatchling, cwd=root, environment=environment)
    for name in architectures:
        print(f"building the package for {name}", flush=True)
        run("sh", f"{root}/scripts/deb.sh", "--arch", name, "--out", str(out), environment=environment)
    created = datetime.fromtimestamp(epoch, UTC)
    for package in sorted(out.glob("*.deb")):
        sbom.write(package, created)
    for package in sorted(out.glob("*_arm64.deb")):
        first_boot(package, out, epoch)
    write_text_atomically(out / NOTES, notes)
    files = sorted(out.iterdir())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    write_text_atomically(out / SUMS, "".join(lines))
    return [*files, out / SUMS]


def differences(one: Path, other: Path) -> list[str]:
    """Names of the files that differ between two releases; for archives, also the members that differ."""
    found = []
    names = {path.name for place in (one, other) for path in place.iterdir()}
    for name in sorted(names - {SUMS}):
        pair = [place / name for place in (one, other)]
        missing = [path for path in pair if not path.is_file()]
        if missing:
            found.append(f"{name} is missing in {missing[0].parent}")
        elif pair[0].read_bytes() != pair[1].read_bytes():
            contents = [dict(members(path)) for path in pair]
            keys = sorted(set(contents[0]) | set(contents[1]))
            inside = [key for key in keys if contents[0].get(key) != contents[1].get(key)]
            found.append(f"{name} differs" + (f": {', '.join(inside)}" if inside else ""))
    return found


def members(path: Path) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Name and properties of each member of an archive; nothing for other files."""
    if path.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                yield info.filename, (info.date_time, info.external_attr, info.CRC, info.file_size)
    elif path.suffix in (".deb", ".gz"):
        for part in ("--fsys-tarfile", "--ctrl-tarfile") if path.suffix == ".deb" else ("",):
            data = _output("dpkg-deb", part, str(path)) if part else path.read_bytes()
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.isfile() else None
                    digest = hashlib.sha256(file.read()).hexdigest() if file else member.linkname
                    yield member.name, (member.mode, member.uname, member.uid, member.mtime, digest)


def run(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> str:
    """Run a command; returns its standard output.

    Raises:
        ReleaseError: it failed; the message has its standard error.
    """
    return _output(*command, cwd=cwd, environment=environment).decode()


def _output(*command: str, cwd: Path | None = None, environment: dict[str, str] | None = None) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, cwd=cwd, env=environment, check=False)
    except FileNotFoundError as error:
        raise ReleaseError(f"{command[0]} is not installed") from error
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip() or f"exit status {done.returncode}"
        raise ReleaseError(f"{' '.join(command[:3])} failed: {message}")
    return done.stdout


def release(arguments: argparse.Namespace) -> None:
    """Check the checkout, build, and compare if asked for.

    Raises:
        ReleaseError: a check or a step failed, or the files differ.
    """
    changed = uncommitted(ROOT)
    if changed and not arguments.allow_dirty:
        some = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        raise ReleaseError(f"uncommitted files: {some}; commit them, or use --allow-dirty for a trial")
    if arguments.compare and not arguments.compare.is_dir():
        raise ReleaseError(f"--compare: {arguments.compare} is not a directory")
    out = arguments.out.resolve()
    if out.exists() and not (out / SUMS).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise ReleaseError(f"--out: {out} exists and is not a release: it would be replaced")
    try:
        with staging_directory(out.with_name(f".{out.name}.part")) as staging:
            build(ROOT, staging, arguments.arch or ARCHITECTURES)
            staging.chmod(0o755)
            replace_directory(staging, out)
    except BlockingIOError as error:
        raise ReleaseError(f"another build writes {out}") from error
    for path in sorted(out.iterdir()):
        print(f"{path.stat().st_size:>10,}  {path.name}")
    print(f"edge-siamese {version_of(ROOT)} is in {arguments.out}; check it: sha256sum --check {SUMS}")
    if arguments.compare:
        found = differences(out, arguments.compare)
        if found:
            raise ReleaseError("\n    ".join([f"{arguments.compare} differs from this build:", *found]))
        print(f"{arguments.compare} has the same files, byte for byte")


def main() -> int:
    """Build a release."""
    parser = argparse.ArgumentParser(
        prog="release.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = ROOT / "build" / "release"
    parser.add_argument(
        "--out",
        type=Path,
        default=where,
        metavar="DIR",
        help="output directory, which is replaced (default: build/release)",
    )
    parser.add_argument(
        "--arch",
        action="append",
        choices=ARCHITECTURES,
        help="architecture of a Debian package; may be repeated (default: both)",
    )
    parser.add_argument(
        "--allow-dirty", action="store_true", help="build with uncommitted files, for a trial"
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="DIR",
        help="compare the files with those of another build; fail if any differs",
    )
    try:
        release(parser.parse_args())
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
