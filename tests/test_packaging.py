"""The wheel, the locks, the Makefile and its scripts: what a new machine needs first."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import edge_siamese
from edge_siamese import models
from edge_siamese.models.bundle import load_bundle
from tests.requirement_files import hashes, normal, requirements

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("wheel")
    options = ["--quiet", "--disable-pip-version-check", "--no-index", "--no-deps", "--no-build-isolation"]
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", str(out), str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.mark.system
def test_the_wheel_holds_edge_siamese_alone(wheel: Path) -> None:
    assert wheel.name == f"edge_siamese-{edge_siamese.__version__}-py3-none-any.whl"
    names = zipfile.ZipFile(wheel).namelist()
    info = f"edge_siamese-{edge_siamese.__version__}.dist-info"
    page = f"edge_siamese-{edge_siamese.__version__}.data/data/share/man/man1/edge-siamese.1"
    assert {name.split("/")[0] for name in names} == {"edge_siamese", info, page.split("/")[0]}
    assert page in names
    shipped = {name for name in names if name.endswith(".py")}
    assert shipped == {path.relative_to(ROOT).as_posix() for path in (ROOT / "edge_siamese").rglob("*.py")}
    assert "edge_siamese/py.typed" in names
    data = {name for name in names if name.startswith("edge_siamese/models/") and not name.endswith(".py")}
    bundles = [path for name in models.names() for path in models.shipped(name).iterdir()]
    assert data == {path.relative_to(ROOT).as_posix() for path in bundles}
    assert "edge_siamese/models/glyphs/manifest.json" in data
    folders = [ROOT / "edge_siamese/dashboard/static", ROOT / "edge_siamese/cli/completions"]
    static = {path.relative_to(ROOT).as_posix() for folder in folders for path in folder.iterdir()}
    assert static <= set(names)
    assert len([name for name in names if not name.startswith(info)]) == len(shipped | data | static) + 2
    assert f"{info}/licenses/LICENSE" in names
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.system
def test_the_wheel_needs_numpy_msgspec_and_pillow(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [name for name in archive.namelist() if name.endswith("METADATA")]
    metadata = message_from_string(archive.read(name).decode())
    needed = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    assert sorted(str(need) for need in needed if not need.marker) == [
        "msgspec>=0.19",
        "numpy<3,>=1.24",
        "pillow>=9.4",
    ]
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "dashboard",
        "gpio",
        "litert",
        "metrics",
        "mqtt",
        "onnx",
        "tflite",
        "usb",
    }
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    (points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "edge-siamese = edge_siamese.cli.main:main" in archive.read(points).decode()


@pytest.mark.system
def test_the_wheel_runs_without_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    found = subprocess.run(
        [sys.executable, "-m", "edge_siamese", "--version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert (found.returncode, found.stdout.strip()) == (0, f"edge-siamese {edge_siamese.__version__}")
    script = (
        "import sys; from edge_siamese import models; print(*map(models.shipped, models.names()), sep='\\n')"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert told.stdout.split() == [
        str(tmp_path / "edge_siamese" / "models" / name) for name in models.names()
    ]
    for path in map(Path, told.stdout.split()):
        load_bundle(path)


PLATFORMS = [(python, machine) for python in ("3.11", "3.12", "3.13") for machine in ("x86_64", "aarch64")]


def for_platform(pins: list[Requirement], python: str, machine: str) -> dict[str, Requirement]:
    """What pip takes of these on Linux, by name, for a Python such as 3.11 (then 3.11.2, Debian 12's) or 3.11.7."""
    environment = {
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python if python.count(".") == 2 else f"{python}.2",
        "platform_machine": machine,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    chosen = [pin for pin in pins if pin.marker is None or pin.marker.evaluate(environment)]
    names = [normal(pin.name) for pin in chosen]
    assert len(names) == len(set(names)), f"two versions of one package for Python {python} on {machine}"
    return dict(zip(names, chosen, strict=True))


@pytest.mark.parametrize("name", ["host", "device"])
def test_a_lock_is_exact_and_holds_what_was_asked_for(name: str) -> None:
    locked = requirements(f"{name}.lock")
    for pin in locked:
        assert re.fullmatch(r"==[^*,+]+", str(pin.specifier)), f"{pin} is not one exact version of any build"
    asked = [need for need in requirements(f"{name}.in") if need.name != "torch"]
    for python, machine in PLATFORMS:
        chosen = for_platform(locked, python, machine)
        for need in for_platform(asked, python, machine).values():
            version = str(chosen[normal(need.name)].specifier).removeprefix("==")
            assert need.specifier.contains(version), f"{need} on Python {python}, not {version}"


@pytest.mark.parametrize("name", ["host", "device"])
def test_a_lock_has_hashes_for_each_package_and_names_no_index(name: str) -> None:
    sums = hashes(f"{name}.lock")
    assert [pin for pin, found in sums.items() if not found] == []
    # Packages of compiled code have a wheel for each Python and processor; one file alone is one platform's.
    for pin in ("numpy", "msgspec", "pyyaml"):
        (found, *_) = [sums[key] for key in sums if key.startswith(f"{pin}==")]
        assert len(found) >= 12, pin
    text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
    assert re.findall(r"://|--(?:extra-)?index-url|--find-links", text) == []


def test_the_host_lock_leaves_out_torch_and_cuda() -> None:
    names = {normal(pin.name) for pin in requirements("host.lock")}
    assert sorted(name for name in names if re.match(r"nvidia|cuda|triton|torch$", name)) == []
    assert {"sympy", "networkx", "torchao"} <= names, "torch's other dependencies are in the lock"
    assert "torch==2.13.0" in map(str, requirements("host.in"))


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_device_lock_is_within_the_ranges_that_devices_are_promised(python: str) -> None:
    chosen = {
        name: str(pin.specifier).removeprefix("==")
        for name, pin in for_platform(requirements("device.lock"), python, "aarch64").items()
    }
    ranges = [Requirement(text) for text in PROJECT["dependencies"]]
    ranges += [
        Requirement(t)
        for extra in ("tflite", "litert", "onnx")
        for t in PROJECT["optional-dependencies"][extra]
    ]
    for need in ranges:
        if normal(need.name) in chosen and need.specifier != Requirement("numpy<2").specifier:
            assert need.specifier.contains(chosen[normal(need.name)]), (
                f"{need} and {chosen[normal(need.name)]}"
            )
    tflite = "tflite-runtime" if python == "3.11" else "ai-edge-litert"
    assert {"numpy", "onnxruntime", tflite} <= set(chosen)
    assert chosen["numpy"].startswith("1.24." if python == "3.11" else "2.")


@pytest.mark.system
def test_the_environment_that_runs_the_tests_is_the_locked_one() -> None:
    (torch,) = [pin for pin in requirements("host.in") if pin.name == "torch"]
    different = {
        pin.name: version(pin.name)
        for pin in [
            *for_platform(requirements("host.lock"), platform.python_version(), platform.machine()).values(),
            torch,
        ]
        if version(pin.name).partition("+")[0] != str(pin.specifier).removeprefix("==")
    }
    assert different == {}, "make setup brings the environment up to date"


@pytest.mark.system
def test_the_environment_of_the_device_is_small_and_has_no_torch(device_python: Path) -> None:
    place = device_python.parents[1]
    (packages,) = place.glob("lib/python*/site-packages")
    assert not {"torch", "onnx", "pip", "export"} & {path.name for path in packages.iterdir()}
    size = sum(path.lstat().st_size for path in place.rglob("*") if path.is_file())
    assert 100e6 < size < 300e6, f"{size / 1e6:.0f} MB"


# --- scripts/preflight.sh and scripts/environment.sh, on machines that lack something ---

PYTHON_OF_VERSION = """#!/bin/sh
case "$*" in
    *%%d.%%d*) echo {version} ;;
    *"(3, 11)"*) exit {unsuitable} ;;
    *ensurepip*) exit {without_venv} ;;
esac
"""
DF = "#!/bin/sh\necho Filesystem 1024-blocks Used Available Capacity Mounted\necho disk 1 1 {free_kb} 1% /\n"


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A PATH with nothing but a shell's own tools, on which a test puts what the machine has."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "dirname", "awk", "cat", "sed", "rm"):
        (tools / name).symlink_to(str(shutil.which(name)))
    program(tools, "df", DF.format(free_kb=90_000_000))
    program(tools, "uname", "#!/bin/sh\necho x86_64\n")
    return tools


def program(tools: Path, name: str, text: str) -> None:
    (tools / name).write_text(text)
    (tools / name).chmod(0o755)


def python_of_version(version: str, unsuitable: int = 0, without_venv: int = 0) -> str:
    text = PYTHON_OF_VERSION.format(version=version, unsuitable=unsuitable, without_venv=without_venv)
    return text.replace("%%", "%")


def preflight(machine: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(ROOT / "scripts" / "preflight.sh"), str(machine.parent / ".venv")],
        env={"PATH": str(machine), **variables},
        capture_output=True,
        text=True,
    )


def test_preflight_names_the_python_to_use_and_is_silent(machine: Path) -> None:
    program(machine, "python3", python_of_version("3.12"))
    found = preflight(machine)
    assert (found.returncode, found.stdout, found.stderr) == (0, "python3\n", "")


def test_preflight_prefers_the_python_that_the_locks_were_tested_with(machine: Path) -> None:
    program(machine, "python3", python_of_version("3.13"))
    program(machine, "python3.11", python_of_version("3.11"))
    assert preflight(machine).stdout == "python3.11\n"
    assert preflight(machine, PYTHON="python3").stdout == "python3\n"


def test_preflight_says_that_python_is_missing(machine: Path) -> None:
    found = preflight(machine)
    assert (found.returncode, found.stdout) == (1, "")
    assert "missing: Python 3.11 to 3.13 (no python3 was found)\n" in found.stderr
    assert "sudo apt install python3 python3-venv" in found.stderr


def test_preflight_says_that_python_is_old(machine: Path) -> None:
    program(machine, "python3", python_of_version("3.9", unsuitable=1))
    found = preflight(machine)
    assert found.returncode == 1
    assert "missing: Python 3.11 to 3.13 (python3 is Python 3.9)" in found.stderr


def test_preflight_passes_over_a_python_that_the_locks_do_not_cover(machine: Path) -> None:
    program(machine, "python3", python_of_version("3.14", unsuitable=1))
    assert "missing: Python 3.11 to 3.13 (python3 is Python 3.14)" in preflight(machine).stderr
    program(machine, "python3.13", python_of_version("3.13"))
    assert preflight(machine).stdout == "python3.13\n"


def test_preflight_says_that_the_venv_module_is_missing(machine: Path) -> None:
    program(machine, "python3", python_of_version("3.11", without_venv=1))
    found = preflight(machine)
    assert found.returncode == 1
    assert "missing: the venv module of python3 (Python 3.11)" in found.stderr
    assert "get it: sudo apt install python3-venv" in found.stderr


def test_preflight_goes_on_to_another_python_that_has_venv(machine: Path) -> None:
    program(machine, "python3.11", python_of_version("3.11", without_venv=1))
    program(machine, "python3.13", python_of_version("3.13"))
    assert preflight(machine).stdout == "python3.13\n"


def test_preflight_says_that_the_disk_is_full_and_everything_else_that_is_missing(machine: Path) -> None:
    program(machine, "df", DF.format(free_kb=3_000_000))
    program(machine, "uname", "#!/bin/sh\necho armv7l\n")
    found = preflight(machine)
    assert found.returncode == 1
    assert f"missing: disk space: 5 GB are needed in {machine.parent}, 2 GB are free" in found.stderr
    assert "missing: a 64-bit x86 or Arm processor (this one is armv7l)" in found.stderr
    assert "missing: Python 3.11 to 3.13" in found.stderr


def test_preflight_tells_of_the_small_build_of_torch_when_the_disk_is_small(machine: Path) -> None:
    program(machine, "python3", python_of_version("3.11"))
    program(machine, "df", DF.format(free_kb=8_000_000))
    assert "TORCH_INDEX=https://download.pytorch.org/whl/cpu" in preflight(machine).stderr
    assert preflight(machine, TORCH_INDEX="https://example.org/cpu").stderr == ""


def environment(machine: Path, place: Path, lock: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(ROOT / "scripts" / "environment.sh"), str(place), str(lock)],
        env={"PATH": str(machine)},
        capture_output=True,
        text=True,
    )


def test_an_environment_that_matches_its_lock_is_left_alone(machine: Path, tmp_path: Path) -> None:
    place, lock = tmp_path / ".venv", tmp_path / "lock"
    (place / "bin").mkdir(parents=True)
    program(place / "bin", "python", "#!/bin/sh\nexit 0\n")
    lock.write_text("numpy==2.4.6\n")
    (place / "installed.lock").write_text("numpy==2.4.6\n")
    found = environment(machine, place, lock)  # there is no Python to make another one with
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    lock.write_text("numpy==2.4.7\n")
    assert environment(machine, place, lock).returncode == 1
    assert (place / "bin" / "python").exists(), (
        "nothing is removed before there is something to put in its place"
    )


def test_an_environment_that_pip_could_not_fill_is_not_taken_for_whole(machine: Path, tmp_path: Path) -> None:
    maker = python_of_version("3.11") + (
        'case "$*" in\n    *--version) echo Python 3.11.2 ;;\n'
        f'    "-m venv"*) {shutil.which("mkdir")} -p "$3/bin"\n'
        '        printf "#!/bin/sh\\nexit 1\\n" >"$3/bin/python"\n'
        f'        {shutil.which("chmod")} +x "$3/bin/python" ;;\nesac\n'
    )
    program(machine, "python3", maker)
    place, lock = tmp_path / ".venv", tmp_path / "lock"
    lock.write_text("numpy==2.4.6\n")
    found = environment(machine, place, lock)
    assert found.returncode == 1
    assert f"error: {place} is not complete" in found.stderr
    assert not (place / "installed.lock").exists()


def test_torch_is_installed_last_and_pip_does_not_complain_that_timm_wants_torchvision(
    machine: Path, tmp_path: Path
) -> None:
    for name in ("mkdir", "mv", "grep", "chmod"):
        (machine / name).symlink_to(str(shutil.which(name)))
    place, lock, calls = tmp_path / ".venv", tmp_path / "host.lock", tmp_path / "calls"
    made = (
        f'#!/bin/sh\necho "$*" >>"{calls}"\n'
        'case "$*" in *" check") echo "timm 1.0.31 requires torchvision, which is not installed." ;; esac\n'
    )
    (tmp_path / "made").write_text(made)
    maker = python_of_version("3.11") + (
        'case "$*" in\n    *--version) echo Python 3.11.2 ;;\n    "-m venv"*) mkdir -p "$3/bin"\n'
        f'        cat "{tmp_path / "made"}" >"$3/bin/python"\n        chmod +x "$3/bin/python" ;;\nesac\n'
    )
    program(machine, "python3", maker)
    lock.write_text("numpy==2.4.6\n")
    (tmp_path / "host.in").write_text("torch==2.13.0    # any build\nnumpy\n")
    found = environment(machine, place, lock)
    assert (found.returncode, found.stderr) == (0, "")
    installed = [line.split(" install ")[1] for line in calls.read_text().splitlines() if " install " in line]
    assert installed == [
        f"--no-compile --no-deps --require-hashes --requirement {lock}",
        "--no-compile --no-warn-conflicts torch==2.13.0",
    ]
    assert (place / "installed.lock").read_text() == "numpy==2.4.6\ntorch==2.13.0\n"


# --- the Makefile and .ci/run ---


def test_make_without_a_target_lists_the_targets_with_their_purpose() -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    found = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0
    described = {line.split()[0:2][1] for line in found.stdout.splitlines()}
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert described == set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())  # type: ignore[index]


def test_scripts_can_be_run() -> None:
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    assert "set -euo pipefail" in run.read_text(encoding="utf-8")
    for name in ("preflight.sh", "environment.sh"):
        assert subprocess.run(["sh", "-n", str(ROOT / "scripts" / name)]).returncode == 0
    if bash := shutil.which("bash"):
        assert subprocess.run([bash, "-n", str(run)]).returncode == 0


# --- the page on installing ---

INSTALLING = (ROOT / "docs" / "installing.md").read_text(encoding="utf-8")


def test_the_page_on_installing_lists_every_extra_with_what_it_brings() -> None:
    section = INSTALLING.partition("| extra | brings |")[2].partition("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines()[2:]]
    listed = {row[0].strip("`"): {normal(name.split()[0]) for name in row[1].split(", ")} for row in rows}
    extras = {
        name: {normal(Requirement(text).name) for text in texts}
        for name, texts in PROJECT["optional-dependencies"].items()
    }
    extras["usb"] = {"pyav"}  # the package is called av
    assert listed == extras
    for chosen in re.findall(r"\.whl\[([\w,]+)\]", INSTALLING):
        assert set(chosen.split(",")) <= set(extras), chosen


@pytest.mark.system
def test_the_commands_for_a_wheel_in_an_environment_run(wheel: Path, tmp_path: Path) -> None:
    """Word for word, apart from the packages that it depends on: those of this environment are used."""
    (block,) = re.findall(r"```sh\n(python3 -m venv .*?)```", INSTALLING, re.DOTALL)
    shutil.copy(wheel, tmp_path)
    site = Path(pytest.__file__).parents[1]
    environment = {
        "HOME": str(tmp_path),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "PIP_NO_INDEX": "1",
        "PIP_NO_DEPS": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "XDG_RUNTIME_DIR": str(tmp_path),
        "EDGE_SIAMESE_CONFIG": f"{tmp_path}/config.toml",  # root would write that of the system
    }
    script = f"set -e\n{block}\nwhich edge-siamese\nedge-siamese init --yes --camera synthetic\n"
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert f"edge-siamese {edge_siamese.__version__}" in lines
    assert f"{tmp_path}/edge-siamese/bin/edge-siamese" in lines
    assert f"wrote {tmp_path}/config.toml" in lines
    assert (tmp_path / "edge-siamese/share/man/man1/edge-siamese.1").is_file()
    completion = subprocess.run(
        [tmp_path / "edge-siamese/bin/edge-siamese", "completion", "fish"],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "__edge_siamese_at" in completion.stdout
