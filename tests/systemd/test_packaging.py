"""What is installed on a device, as far as that can be tried without one: scripts, unit, Debian package."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from edge_siamese.cli.daemon import BAD_SETTINGS
from edge_siamese.settings import SYSTEM_RUNTIME, SYSTEM_STATE
from edge_siamese.settings_file import SYSTEM_CONFIG
from scripts import device_pins
from tests.requirement_files import hashes, normal, requirements

ROOT = Path(__file__).parents[2]
SYSTEMD, SCRIPTS = ROOT / "systemd", ROOT / "scripts"
UNIT = (SYSTEMD / "edge-siamese.service").read_text(encoding="utf-8")
OPTIONS = [
    (
        SYSTEMD / "install.sh",
        ["--wheels", "--runtime", "--dashboard", "--no-start", "--rollback", "--program-only", "--prefix"],
    ),
    (SYSTEMD / "uninstall.sh", ["--purge", "--prefix"]),
    (SCRIPTS / "wheels.sh", ["--arch", "--python", "--runtime", "--with"]),
    (SCRIPTS / "container.sh", ["--base", "--arch", "--tag", "--wheels"]),
    (SCRIPTS / "deb.sh", ["--arch", "--out", "--wheels"]),
]


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(("script", "options"), OPTIONS, ids=lambda value: getattr(value, "name", ""))
def test_a_script_explains_its_options_and_refuses_others_in_one_line(
    script: Path, options: list[str]
) -> None:
    said = run("sh", script, "--help")
    assert said.returncode == 0
    assert re.findall(r"^  (--[a-z-]+)", said.stdout, re.MULTILINE) == [*options, "--help"]
    wrong = run("sh", script, "--sideways")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "error: unknown option --sideways (--help shows the options)\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--runtime", "torch"],
            "error: --runtime: torch is not one of auto, ai-edge-litert, tflite-runtime, onnxruntime\n",
        ),
        (["--wheels"], "error: --wheels needs a value (--help shows the options)\n"),
    ],
)
def test_the_installation_refuses_wrong_values(words: list[str], message: str) -> None:
    said = run("sh", SYSTEMD / "install.sh", *words)
    assert (said.returncode, said.stderr) == (2, message)


def test_a_container_is_built_by_an_engine_from_the_wheels(tmp_path: Path) -> None:
    script, wheels = SCRIPTS / "container.sh", tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "edge_siamese-0.9.0-py3-none-any.whl").touch()
    engine = tmp_path / "engine"
    engine.write_text(
        '#!/bin/sh\nprintf "%s\\n" "$@" >"$0.words"\nfor last; do ls "$last/wheels" >"$0.wheels"; done\n'
    )
    engine.chmod(0o755)
    words = ("--wheels", wheels, "--tag", "localhost/trial", "--base", "localhost/base@sha256:00")
    said = run("sh", script, *words, "--arch", "arm64", ENGINE=str(engine), SOURCE_DATE_EPOCH="1764000000")
    assert (said.returncode, said.stdout) == (0, "localhost/trial\n"), said.stderr
    passed = engine.with_suffix(".words").read_text().splitlines()
    assert passed[:6] == ["build", "--format", "docker", "--timestamp", "1764000000", "--layers=false"]
    assert {"BASE=localhost/base@sha256:00", "linux/arm64", "none", "CREATED=2025-11-24T16:00:00Z"} <= set(
        passed
    )
    assert engine.with_suffix(".wheels").read_text() == "edge_siamese-0.9.0-py3-none-any.whl\n"
    failed = run("sh", script, *words, ENGINE="false")
    assert (failed.returncode, failed.stderr) == (
        1,
        "error: false could not build the image (see its message above)\n",
    )
    wrong = run("sh", script, "--arch", "armhf")
    assert (wrong.returncode, wrong.stderr) == (2, "error: --arch: armhf is neither arm64 nor amd64\n")


def test_an_installation_without_wheels_says_what_to_do_and_leaves_no_program(tmp_path: Path) -> None:
    said = run("sh", SYSTEMD / "install.sh", "--prefix", tmp_path / "root", "--wheels", tmp_path)
    assert said.returncode == 1
    assert f"missing: the wheel of edge-siamese in {tmp_path}\n" in said.stderr
    assert (
        "    get it: in a checkout: make wheel; or name a directory of wheels: --wheels DIR\n" in said.stderr
    )
    assert list((tmp_path / "root/opt/edge-siamese/versions").iterdir()) == []
    assert not (tmp_path / "root/etc").exists()


def test_there_is_nothing_to_go_back_to_before_a_second_installation(tmp_path: Path) -> None:
    said = run("sh", SYSTEMD / "install.sh", "--prefix", tmp_path, "--rollback")
    assert (said.returncode, said.stderr) == (1, "error: there is no earlier version to go back to\n")


def test_uninstalling_keeps_settings_and_objects_unless_they_are_to_go(tmp_path: Path) -> None:
    files = [
        "opt/edge-siamese/current",
        "usr/local/bin/edge-siamese",
        "usr/local/lib/udev/rules.d/99-edge-siamese.rules",
    ]
    kept = ["etc/edge-siamese/config.toml", "var/lib/edge-siamese/objects.db", "usr/local/bin/other"]
    for name in files + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert run("sh", SYSTEMD / "uninstall.sh", "--prefix", tmp_path).returncode == 0
    assert [name for name in files + kept if (tmp_path / name).exists()] == kept
    assert run("sh", SYSTEMD / "uninstall.sh", "--prefix", tmp_path, "--purge").returncode == 0
    assert [name for name in files + kept if (tmp_path / name).exists()] == kept[2:]


def test_a_device_gets_the_versions_that_were_tested() -> None:
    pins = re.search(r"^PINS='([^']+)'", (SYSTEMD / "install.sh").read_text(encoding="utf-8"), re.MULTILINE)
    assert pins
    locked = {f"{normal(pin.name)}{pin.specifier}" for pin in requirements("device.lock")}
    assert [pin for pin in pins[1].split() if pin not in locked] == []
    assert device_pins.main(["--check"]) == 0, "python scripts/device_pins.py"


@pytest.mark.parametrize(("python", "spare"), [("3.11", "tqdm"), ("3.13", "tflite-runtime")])
def test_a_locked_package_is_printed_as_pip_takes_it(python: str, spare: str, tmp_path: Path) -> None:
    """What scripts/wheels.sh downloads by: one version with its hashes, without markers, which pip reads for itself."""
    said = run(sys.executable, SCRIPTS / "locked.py", python, "numpy", "msgspec")
    assert said.returncode == 0, said.stderr
    version = {"3.11": "1.24.4", "3.13": "2.4.6"}[python]
    sums = {pin: hashes("device.lock")[pin] for pin in (f"numpy=={version}", "msgspec==0.22.0")}
    lines = said.stdout.replace("\\\n", " ").splitlines()
    assert [line.split()[0] for line in lines] == list(sums)
    assert [set(re.findall("sha256:([0-9a-f]+)", line)) for line in lines] == list(sums.values())
    assert ";" not in said.stdout
    missing = run(sys.executable, SCRIPTS / "locked.py", python, spare)
    assert (missing.returncode, missing.stderr) == (
        1,
        f"error: requirements/device.lock has no {spare} for Python {python}\n",
    )


def test_every_dependency_is_installed_or_comes_from_apt() -> None:
    text = (SYSTEMD / "install.sh").read_text(encoding="utf-8")
    required = re.search(r"^REQUIRED='([^']+)'", text, re.MULTILINE)
    pins = re.search(r"^PINS='([^']+)'", text, re.MULTILINE)
    assert required
    assert pins
    assert set(required[1].split()) <= {pin.partition("==")[0] for pin in pins[1].split()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    control = (SYSTEMD / "debian" / "control").read_text(encoding="utf-8")
    depends = re.search("^Depends: (.*)$", control, re.MULTILINE)
    assert depends
    for name in (Requirement(line).name for line in project["dependencies"]):
        if name not in required[1].split():
            module = {"pillow": "pil"}.get(name, name)
            assert f"python3-{module}," in depends[1]
            assert f"sudo apt install python3-{module}'" in text


def test_what_the_extras_need_is_installed_with_them() -> None:
    text = (SYSTEMD / "install.sh").read_text(encoding="utf-8")
    installed = re.search(r"^EXTRAS='([^']+)'", text, re.MULTILINE)
    pins = re.search(r"^PINS='([^']+)'", text, re.MULTILINE)
    assert installed
    assert pins
    names = installed[1].split()
    assert set(names) <= {pin.partition("==")[0] for pin in pins[1].split()}
    # All that they need themselves, but Pillow, which comes from the system.
    needed, waiting = set(), ["starlette", "uvicorn", "paho-mqtt", "prometheus-client"]
    while waiting:
        name = waiting.pop()
        needed.add(name)
        needs = [Requirement(text) for text in importlib.metadata.requires(name) or ()]
        waiting += [
            canonicalize_name(need.name)
            for need in needs
            if (need.marker is None or need.marker.evaluate({"extra": "", "python_version": "3.11"}))
            and canonicalize_name(need.name) not in needed
        ]
    assert set(names) == needed


def test_the_unit_names_the_places_and_the_status_that_the_program_does() -> None:
    assert f"RestartPreventExitStatus={BAD_SETTINGS}\n" in UNIT
    for key, place in (
        ("State", SYSTEM_STATE),
        ("Runtime", SYSTEM_RUNTIME),
        ("Configuration", SYSTEM_CONFIG.parent),
    ):
        assert f"{key}Directory={place.name}\n" in UNIT
    account = (SYSTEMD / "sysusers.conf").read_text(encoding="utf-8")
    (groups,) = re.findall(r"SupplementaryGroups=(.+)", UNIT)
    assert re.findall(r"^m edge-siamese (\w+)", account, re.MULTILINE) == groups.split()
    assert sorted(re.findall(r"^g (\w+)", account, re.MULTILINE)) == sorted(groups.split())


@pytest.mark.system
def test_the_exposure_of_the_service_is_low() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    said = run(
        "systemd-analyze", "security", "--no-pager", "--offline=true", SYSTEMD / "edge-siamese.service"
    )
    found = re.search(r"Overall exposure level for edge-siamese.service: ([\d.]+)", said.stdout)
    assert found, said.stderr
    assert float(found[1]) <= 2.0


@pytest.mark.system
@pytest.mark.parametrize(
    "script",
    [*SYSTEMD.glob("*.sh"), *SCRIPTS.glob("*.sh"), *(SYSTEMD / "debian").glob("p*")],
    ids=lambda path: path.name,
)
def test_scripts_are_clean(script: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    said = run("shellcheck", script)
    assert said.stdout == ""


@pytest.mark.system
def test_the_debian_package_has_all_its_files_and_is_the_same_each_time(tmp_path: Path) -> None:
    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb is not installed")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "edge_siamese-0.9.0rc1-py3-none-any.whl").touch()
    digests = []
    for name in ("one", "two"):
        out = tmp_path / name
        said = run(
            "sh",
            SCRIPTS / "deb.sh",
            "--arch",
            "arm64",
            "--wheels",
            wheels,
            "--out",
            out,
            SOURCE_DATE_EPOCH="1764000000",
        )
        assert said.stdout == f"{out}/edge-siamese_0.9.0~rc1_arm64.deb\n", said.stderr
        digests.append(hashlib.sha256((out / "edge-siamese_0.9.0~rc1_arm64.deb").read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    package = tmp_path / "one" / "edge-siamese_0.9.0~rc1_arm64.deb"
    fields = run("dpkg-deb", "--field", package, "Version", "Architecture", "Depends").stdout
    assert fields == (
        "Version: 0.9.0~rc1\nArchitecture: arm64\n"
        "Depends: python3 (>= 3.11), python3-venv, python3-numpy, python3-pil, systemd (>= 252), procps, util-linux\n"
    )
    listed = run("dpkg-deb", "--contents", package).stdout.splitlines()
    assert {line.split()[1] for line in listed} == {"root/root"}
    files = [line.split(maxsplit=5)[5].removeprefix("./") for line in listed if not line.startswith("d")]
    assert sorted(files) == [
        "usr/bin/edge-siamese -> /opt/edge-siamese/current/bin/edge-siamese",
        "usr/lib/systemd/system/edge-siamese.service",
        "usr/lib/sysusers.d/edge-siamese.conf",
        "usr/lib/tmpfiles.d/edge-siamese.conf",
        "usr/lib/udev/rules.d/99-edge-siamese.rules",
        "usr/share/bash-completion/completions/edge-siamese",
        "usr/share/doc/edge-siamese/changelog",
        "usr/share/doc/edge-siamese/copyright",
        "usr/share/doc/edge-siamese/installing.md",
        "usr/share/edge-siamese/config.toml",
        *sorted(
            f"usr/share/edge-siamese/{path.relative_to(ROOT).as_posix()}"
            for path in (ROOT / "firmware_configs").rglob("*.*")
        ),
        "usr/share/edge-siamese/install.sh",
        "usr/share/edge-siamese/memory-512mb.conf",
        "usr/share/edge-siamese/wheels/edge_siamese-0.9.0rc1-py3-none-any.whl",
        "usr/share/fish/vendor_completions.d/edge-siamese.fish",
        "usr/share/man/man1/edge-siamese.1.gz",
        "usr/share/zsh/vendor-completions/_edge-siamese",
    ]
