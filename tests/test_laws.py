"""The laws of the house: who may import what, and what every module has to be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("edge_siamese", "export", "tests", "scripts")
WRAPPED = {
    "PIL": "edge_siamese/pictures.py",
    "onnxruntime": "edge_siamese/runtimes/onnx.py",
    "tflite_runtime": "edge_siamese/runtimes/tflite.py",
    "ai_edge_litert": "edge_siamese/runtimes/tflite.py",
    "av": "edge_siamese/cameras/video.py",
    "picamera2": "edge_siamese/cameras/picamera2.py",
    "libcamera": "edge_siamese/cameras/picamera2.py",
    "gpiod": "edge_siamese/panel/gpio.py",
    "starlette": "edge_siamese/dashboard/app.py",
    "uvicorn": "edge_siamese/dashboard/server.py",
    "paho": "edge_siamese/mqtt/client.py",
    "prometheus_client": "edge_siamese/metrics/exposition.py",
}
"""What the device may import, lazily, and the one module that does."""
WORKSTATION_ONLY = (
    "torch",
    "onnx",
    "litert_torch",
    "ai_edge_quantizer",
    "matplotlib",
    "rich",
    "jax",
    "export",
    "tests",
)
RELATIVE = "(relative)"
DEVICE_ONLY = ("cameras", "panel", "daemon", "dashboard", "mqtt", "fleet", "metrics")


@dataclass(frozen=True)
class Import:
    """One import statement, or one module named for `importlib`."""

    module: str
    path: str
    line: int
    lazy: bool
    """Inside of a function, or by name."""

    @property
    def package(self) -> str:
        return self.module.split(".")[0]

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.module}"


def modules(*rooms: str) -> list[Path]:
    return [path for room in rooms for path in sorted((ROOT / room).rglob("*.py"))]


def imports_of(path: Path) -> Iterator[Import]:
    """All imports of a file but those for type checkers alone."""
    name = path.relative_to(ROOT).as_posix()

    def walk(node: ast.AST, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                for other in child.orelse:
                    yield from walk(other, lazy)
            elif isinstance(child, ast.Import):
                yield from (Import(alias.name, name, child.lineno, lazy) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                yield Import(
                    child.module if child.level == 0 and child.module else RELATIVE, name, child.lineno, lazy
                )
            elif (
                isinstance(child, ast.keyword)
                and child.arg == "module"
                and isinstance(child.value, ast.Constant)
            ):
                # Runtime(module="…"): runtimes/installed.py imports it when it is asked for.
                yield Import(str(child.value.value), name, child.value.lineno, True)
            else:
                inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, lazy or inner)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")), False)


def test_the_device_imports_the_standard_library_and_numpy_and_runtimes_only_lazily() -> None:
    allowed = sys.stdlib_module_names | {"numpy", "edge_siamese"}
    strays = [
        str(found)
        for path in modules("edge_siamese")
        for found in imports_of(path)
        if found.package not in allowed and not (found.lazy and found.package in WRAPPED)
    ]
    assert strays == []


def test_each_library_is_wrapped_by_one_module() -> None:
    found = {
        (item.package, item.path)
        for path in modules("edge_siamese")
        for item in imports_of(path)
        if item.package in WRAPPED
    }
    assert found == set(WRAPPED.items())


def test_modules_are_imported_by_name_where_that_is_the_point() -> None:
    """A runtime that is asked for, a command that is run, a public name that is used first."""
    users = [
        path.relative_to(ROOT).as_posix()
        for path in modules("edge_siamese")
        if re.search(r"\b(import_module|__import__)\b", path.read_text(encoding="utf-8"))
    ]
    assert users == [
        "edge_siamese/__init__.py",
        "edge_siamese/cli/main.py",
        "edge_siamese/runtimes/availability.py",
    ]


def test_the_device_never_imports_the_workstation() -> None:
    # Said once more, without a list of what is allowed: a law that is tested twice is hard to widen by mistake.
    text = "\n".join(path.read_text(encoding="utf-8") for path in modules("edge_siamese"))
    pattern = rf"^\s*(?:from|import) ({'|'.join(WORKSTATION_ONLY)})\b.*$"
    assert [match[0] for match in re.finditer(pattern, text, re.MULTILINE)] == []


def test_the_workstation_never_imports_cameras_panel_or_daemon() -> None:
    strays = [
        str(found)
        for path in modules("export")
        for found in imports_of(path)
        if found.module.startswith(tuple(f"edge_siamese.{room}" for room in DEVICE_ONLY))
    ]
    assert strays == []


def test_an_import_says_where_it_leads() -> None:
    relative = [
        str(found)
        for path in modules("edge_siamese", "export")
        for found in imports_of(path)
        if found.module == RELATIVE
    ]
    assert relative == []


def test_tests_are_not_imported_by_what_they_test() -> None:
    strays = [
        str(found)
        for path in modules("edge_siamese", "export")
        for found in imports_of(path)
        if found.package == "tests"
    ]
    assert strays == []


BARE_DEVICE = """
import importlib, pkgutil, sys
from importlib.abc import MetaPathFinder

class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refuse())
import edge_siamese
names = [m.name for m in pkgutil.walk_packages(edge_siamese.__path__, "edge_siamese.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)

import numpy as np
from edge_siamese import Recognizer
from edge_siamese.runtimes.selection import available_runtimes
from edge_siamese.runtimes.fake import FAKE_HEAD, FakeEncoder
mug, pen = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), dtype=np.uint8)
recognizer = Recognizer(FakeEncoder(), 0.9, head=FAKE_HEAD)
recognizer.register("mug", mug)
recognizer.register("pen", pen)
assert available_runtimes() == ()
third_party = sorted({{n.split(".")[0] for n in sys.modules}} - sys.stdlib_module_names - {{"edge_siamese", "__main__"}})
print(len(names), recognizer.recognize(mug).name, recognizer.recognize(pen).name, *third_party)
"""


def require_bare_device_works(python: Path) -> None:
    missing = {*WORKSTATION_ONLY, *WRAPPED, "scipy", "cv2"}
    found = subprocess.run(
        [str(python), "-c", BARE_DEVICE.format(missing=missing)], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    count, mug, pen, *others = found.stdout.split()
    assert int(count) == len(modules("edge_siamese")) - 1
    assert (mug, pen) == ("mug", "pen")
    # numpy is all that it brings in; some of numpy's modules and of an environment's are not called numpy.
    assert [name for name in others if not name.startswith(("_", "cython"))] == ["numpy"]


def test_the_device_works_where_neither_torch_nor_pillow_nor_a_runtime_can_be_imported() -> None:
    require_bare_device_works(Path(sys.executable))


@pytest.mark.system
def test_the_device_works_so_with_the_numpy_of_a_device(device_python: Path) -> None:
    require_bare_device_works(device_python)


@pytest.mark.parametrize(
    "path", modules("edge_siamese", "export", "scripts"), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_a_module_starts_with_a_sentence_that_says_what_it_is(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if text.strip():
        docstring = ast.get_docstring(ast.parse(text))
        assert docstring, "a module starts with one sentence that says what it is for"
        assert docstring.split("\n\n")[0].rstrip().endswith((".", "?", ":")), (
            "its first paragraph is a sentence"
        )


UNFINISHED = re.compile(r"TODO|FIXME|XXX\b|raise NotImplementedError|mark\.xfail")


def test_nothing_is_left_unfinished() -> None:
    marked = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in modules(*ROOMS)
        if path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNFINISHED.search(line)
    ]
    assert marked == []


def test_an_error_is_never_swallowed_unnamed() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules("edge_siamese", "export")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert bare == []


def test_names_say_what_modules_are() -> None:
    vague = {"utils", "util", "helpers", "helper", "manager", "common", "misc"}
    assert [path.name for path in modules("edge_siamese", "export") if path.stem in vague] == []
