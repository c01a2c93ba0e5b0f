"""Finding out what works: missing, broken and working packages, told apart."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edge_siamese.runtimes.availability import Runtime, first_line, status
from edge_siamese.runtimes.encoder import Graph

WRITTEN: list[str] = []


def never(module: ModuleType, path: Path, threads: int) -> Graph:
    raise AssertionError("nothing is loaded here")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """Writes a package whose `interpreter` module has the given source, and describes it as a runtime."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str, check: str = "") -> Runtime:
        name = f"pretended_{len(WRITTEN)}"
        WRITTEN.append(name)
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("__version__ = '3.1'\n")
        (tmp_path / name / "interpreter.py").write_text(source)

        def run_check(module: ModuleType) -> None:
            exec(check, {"module": module})

        return Runtime(name, f"{name}.interpreter", "tflite", "pip install it", never, run_check)

    return write


def test_a_package_that_works(package: Any) -> None:
    runtime = package("import time; time.sleep(0.02); answer = 42", "assert module.answer == 42")
    found = status(runtime)
    assert found.usable
    assert str(found) == f"{runtime.name} 3.1"
    assert found.module is not None
    assert found.module.answer == 42
    assert found.import_seconds is not None
    assert 0.02 <= found.import_seconds < 5
    assert status(runtime) is found


def test_a_package_that_was_imported_before_has_no_import_time(package: Any) -> None:
    runtime = package("")
    __import__(runtime.module)
    assert status(runtime).usable
    assert status(runtime).import_seconds is None


def test_a_package_that_is_missing() -> None:
    runtime = Runtime("none", "no_such_package.interpreter", "tflite", "", never)
    found = status(runtime)
    assert not found.usable
    assert (found.version, found.problem) == ("", "not installed")
    assert str(found) == "none (not installed)"


def test_a_package_that_lacks_another(package: Any) -> None:
    found = status(package("import no_such_dependency"))
    assert found.problem == "not usable: it needs the module no_such_dependency"


def test_a_package_that_breaks_on_import(package: Any) -> None:
    found = status(package("raise ImportError('libgomp.so.1: cannot open shared object file\\nmore')"))
    assert found.problem == "not usable: libgomp.so.1: cannot open shared object file"
    assert found.version == "3.1"


def test_a_package_that_breaks_on_use(package: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """As tflite-runtime does beside numpy 2: the import is fine, and the first interpreter fails and prints a page."""
    check = """if True:
        import sys
        print("A module that was compiled using NumPy 1.x cannot be run", file=sys.stderr)
        try:
            raise ImportError("numpy.core.multiarray failed to import")
        except ImportError as error:
            raise SystemError("returned a result with an exception set") from error
    """
    found = status(package("", check))
    if int(np.__version__.split(".")[0]) >= 2:
        assert (
            found.problem == f"not usable: it was built for numpy 1 and numpy {np.__version__} is installed"
        )
    else:
        assert found.problem == "not usable: numpy.core.multiarray failed to import"
    assert capfd.readouterr().err == ""


def test_what_a_working_package_prints_is_not_lost(package: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(package("import sys; print('a warning', file=sys.stderr)")).usable
    assert capsys.readouterr().err == "a warning\n"


@pytest.mark.parametrize("name", ["ai_edge_litert.interpreter", "tflite_runtime.interpreter", "onnxruntime"])
def test_a_hidden_module_counts_as_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name.split(".")[0], None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    found = status(Runtime("hidden", name, "onnx", "", never))
    assert found.problem == "not installed"


def test_errors_become_one_line() -> None:
    assert first_line(ValueError("\n  first  \nsecond")) == "first"
    assert first_line(ValueError()) == "ValueError"
    assert len(first_line(ValueError("x" * 1000))) == 200
