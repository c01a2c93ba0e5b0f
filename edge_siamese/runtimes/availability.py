"""Finds out which inference runtimes work here, and says why the others do not."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np

from edge_siamese.runtimes.encoder import Graph


@dataclass(frozen=True)
class Runtime:
    """A Python package that runs models."""

    name: str
    """As pip knows it."""
    module: str
    """As `import` knows it."""
    format: str
    """The format of its files: onnx or tflite."""
    install: str
    """The line that installs it."""
    open: Callable[[ModuleType, Path, int], Graph]
    """Loads a file: the imported module, the path, the number of threads."""
    check: Callable[[ModuleType], None] = lambda module: None
    """Raises if the package can be imported and yet does not work."""


@dataclass(frozen=True)
class RuntimeStatus:
    """Whether a runtime works in this process."""

    name: str
    version: str
    """Empty if it is not installed."""
    problem: str
    """Empty if it works; else "not installed", or "not usable: ..."."""
    module: ModuleType | None
    import_seconds: float | None
    """None if it was imported before."""

    @property
    def usable(self) -> bool:
        return not self.problem

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.usable else f"{self.name} ({self.problem})"


@cache
def status(runtime: Runtime) -> RuntimeStatus:
    """Import a runtime and try it; the answer is kept, for a compiled module must not be imported twice."""
    package = runtime.module.split(".")[0]
    imported_before = runtime.module in sys.modules
    said = io.StringIO()  # numpy 2 prints a page when it meets a module that was built for numpy 1
    start = time.perf_counter()
    try:
        with contextlib.redirect_stderr(said):
            module = importlib.import_module(runtime.module)
            seconds = None if imported_before else time.perf_counter() - start
            runtime.check(module)
    except ModuleNotFoundError as error:
        missing = error.name in (package, runtime.module)
        problem = "not installed" if missing else f"not usable: it needs the module {error.name}"
        return RuntimeStatus(runtime.name, "", problem, None, None)
    except Exception as error:  # a broken compiled module raises whatever it likes
        return RuntimeStatus(runtime.name, _version(package), f"not usable: {_cause(error)}", None, None)
    print(said.getvalue(), end="", file=sys.stderr)
    return RuntimeStatus(runtime.name, _version(package), "", module, seconds)


def first_line(error: BaseException) -> str:
    """What an error of another library says, as one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def _version(package: str) -> str:
    return str(getattr(sys.modules.get(package), "__version__", "of unknown version"))


def _cause(error: BaseException) -> str:
    """The first error of a chain, which is the one that explains."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = first_line(error)
    if "numpy" in line and int(np.__version__.split(".")[0]) >= 2:
        return f"it was built for numpy 1 and numpy {np.__version__} is installed"
    return line
