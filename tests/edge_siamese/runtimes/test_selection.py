"""Selection of a runtime: missing, broken and working packages, the choice between them, and its reasons."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edge_siamese import load_encoder
from edge_siamese.errors import BundleNotFound, RuntimeNotInstalled, SettingsError
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.embedding import unit_vectors
from edge_siamese.registry import RUNTIMES, RuntimeDriver
from edge_siamese.runtimes import selection
from edge_siamese.runtimes.selection import (
    RuntimeStatus,
    available_runtimes,
    runtime_format,
    runtime_status,
    runtime_statuses,
)
from tests.tiny_network import forward, pictures

ROOT = Path(__file__).parents[3]
IMAGES = pictures(20, seed=4)
EXPECTED = unit_vectors(forward(IMAGES))
WRITTEN: list[str] = []


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nd,nd->n", a, b)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_each_runtime_gives_the_network(bundle: Bundle, runtime: str, precision: str) -> None:
    encoder = load_encoder(bundle, runtime, precision, threads=1)
    embeddings = encoder.embed_prepared(IMAGES)
    assert embeddings.shape == (20, 8)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-6)
    if precision == "fp32":
        np.testing.assert_allclose(embeddings, EXPECTED, atol=2e-6)
    else:
        assert cosines(embeddings, EXPECTED).min() > 0.95
        assert cosines(embeddings, EXPECTED).mean() > 0.985
    assert (encoder.runtime, encoder.precision, encoder.threads) == (runtime, precision, 1)
    assert encoder.reason == f"{runtime} {encoder.version}: requested"
    assert encoder.path == bundle.model_path(runtime_format(runtime), precision)
    assert encoder.load_seconds > 0


def test_a_bundle_may_be_named_by_its_directory(bundle: Bundle, runtime: str) -> None:
    assert load_encoder(str(bundle.path), runtime).model_id == "tiny-0123456789ab"


class ConstantGraph:
    """A graph that replaces a loaded file."""

    input_shape, dimensions = (12, 12, 1), 8

    def __init__(self, package: ModuleType, path: Path, threads: int, content: bytes | None = None) -> None:
        pass

    @staticmethod
    def check_package(package: ModuleType) -> None:
        pass

    def run(self, images: Any) -> Any:
        return np.ones((len(images), 8), np.float32)


class CheckedGraph(ConstantGraph):
    """A graph whose package is checked as a test says."""

    @staticmethod
    def check_package(package: ModuleType) -> None:
        exec(package.__dict__.get("CHECK", ""), {"package": package})


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this process one in which the runtimes have the given problems, "" for none."""

    def pretend(litert: str = "", tflite: str = "", onnx: str = "") -> None:
        problems = {"ai-edge-litert": litert, "tflite-runtime": tflite, "onnxruntime": onnx}

        def status(name: str, driver: RuntimeDriver) -> RuntimeStatus:
            return RuntimeStatus(name, "1.0", problems[name], ModuleType("m"), 0.01)

        constant = f"{__name__}:ConstantGraph"
        drivers = {name: dataclasses.replace(driver, target=constant) for name, driver in RUNTIMES.items()}
        monkeypatch.setattr(selection, "RUNTIMES", drivers)
        monkeypatch.setattr(selection, "AUTO_ORDER", tuple(RUNTIMES))
        monkeypatch.setattr(selection, "runtime_status", status)

    return pretend


def driver(library: str) -> RuntimeDriver:
    return RuntimeDriver(
        target=f"{__name__}:CheckedGraph",
        summary="",
        libraries=(library,),
        format="tflite",
        install="pip install it",
    )


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes a package whose `interpreter` module has the given source, and describes it as a runtime."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str, check: str = "") -> RuntimeDriver:
        name = f"fake_package_{len(WRITTEN)}"
        WRITTEN.append(name)
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("__version__ = '3.1'\n")
        (tmp_path / name / "interpreter.py").write_text(f"{source}\nCHECK = {check!r}\n")
        return driver(f"{name}.interpreter")

    return write


def test_a_package_that_works(package: Any) -> None:
    runtime = package("answer = 42", "assert package.answer == 42")
    found = runtime_status("fast", runtime)
    assert found.usable
    assert str(found) == "fast 3.1"
    assert found.module is not None
    assert found.module.answer == 42
    assert found.import_seconds is not None
    assert found.import_seconds > 0
    assert runtime_status("fast", runtime) is found


def test_a_package_that_was_imported_before_has_no_import_time(package: Any) -> None:
    runtime = package("")
    __import__(*runtime.libraries)
    assert runtime_status("x", runtime).usable
    assert runtime_status("x", runtime).import_seconds is None


def test_a_package_that_is_missing() -> None:
    found = runtime_status("none", driver("no_such_package.interpreter"))
    assert not found.usable
    assert (found.version, found.problem) == ("", "not installed")
    assert str(found) == "none (not installed)"


def test_a_package_that_lacks_another(package: Any) -> None:
    found = runtime_status("x", package("import no_such_dependency"))
    assert found.problem == "not usable: it needs the module no_such_dependency"


def test_a_package_that_breaks_on_import(package: Any) -> None:
    found = runtime_status(
        "x", package("raise ImportError('libgomp.so.1: cannot open shared object file\\nmore')")
    )
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
    found = runtime_status("x", package("", check))
    if int(np.__version__.split(".")[0]) >= 2:
        assert (
            found.problem == f"not usable: it was built for numpy 1 and numpy {np.__version__} is installed"
        )
    else:
        assert found.problem == "not usable: numpy.core.multiarray failed to import"
    assert capfd.readouterr().err == ""


def test_what_a_working_package_prints_is_not_lost(package: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert runtime_status("x", package("import sys; print('a warning', file=sys.stderr)")).usable
    assert capsys.readouterr().err == "a warning\n"


@pytest.mark.parametrize("name", ["ai_edge_litert.interpreter", "tflite_runtime.interpreter", "onnxruntime"])
def test_a_hidden_module_counts_as_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name.split(".")[0], None)
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, name, None)
    found = runtime_status("hidden", driver(name))
    assert found.problem == "not installed"


def test_auto_takes_the_first_that_works(bundle: Bundle, installed: Any) -> None:
    installed()
    assert load_encoder(bundle).reason == (
        "ai-edge-litert 1.0: first usable one of ai-edge-litert, tflite-runtime, onnxruntime"
    )
    installed(litert="not installed")
    assert load_encoder(bundle).reason == (
        "tflite-runtime 1.0: first usable one of ai-edge-litert (not installed), tflite-runtime, onnxruntime"
    )
    installed(litert="not installed", tflite="not usable: it was built for numpy 1")
    encoder = load_encoder(bundle, precision="fp32")
    assert encoder.runtime == "onnxruntime"
    assert encoder.reason == (
        "onnxruntime 1.0: first usable one of ai-edge-litert (not installed), "
        "tflite-runtime (not usable: it was built for numpy 1), onnxruntime"
    )


def test_auto_leaves_out_runtimes_without_a_file(bundle: Bundle, installed: Any) -> None:
    installed()
    models = tuple(model for model in bundle.manifest.models if model.format == "onnx")
    only_onnx = dataclasses.replace(bundle, manifest=structs.replace(bundle.manifest, models=models))
    assert load_encoder(only_onnx).reason == (
        "onnxruntime 1.0: first usable one of ai-edge-litert (no int8 tflite in the bundle), "
        "tflite-runtime (no int8 tflite in the bundle), onnxruntime"
    )
    installed(onnx="not installed")
    with pytest.raises(RuntimeNotInstalled, match=r"to get one: pip install onnxruntime$"):
        load_encoder(only_onnx)
    only_float = dataclasses.replace(
        bundle, manifest=structs.replace(bundle.manifest, models=bundle.manifest.models[:1])
    )
    with pytest.raises(BundleNotFound, match=r"^tiny-0123456789ab has no int8 encoder in any format$"):
        load_encoder(only_float)
    installed()
    with pytest.raises(BundleNotFound, match=r"has no onnx int8 encoder; it has onnx fp32$"):
        load_encoder(only_float, "onnxruntime")


def test_without_any_runtime(bundle: Bundle, installed: Any) -> None:
    installed("not installed", "not installed", "not usable: libgomp.so.1: cannot open shared object file")
    assert available_runtimes() == ()
    with pytest.raises(RuntimeNotInstalled) as caught:
        load_encoder(bundle)
    assert str(caught.value) == (
        "no inference runtime works here: ai-edge-litert (not installed), tflite-runtime (not installed), "
        "onnxruntime (not usable: libgomp.so.1: cannot open shared object file); "
        "to get one: pip install ai-edge-litert"
    )
    assert isinstance(caught.value, ImportError)


def test_a_named_runtime_that_is_missing_says_how_to_get_it(bundle: Bundle, installed: Any) -> None:
    installed(tflite="not installed", onnx="not usable: no symbol")
    with pytest.raises(RuntimeNotInstalled) as caught:
        load_encoder(bundle, "tflite-runtime")
    assert str(caught.value) == (
        'tflite-runtime is not installed; to get it: pip install tflite-runtime "numpy<2" (CPython 3.11 or older)'
    )
    with pytest.raises(
        RuntimeNotInstalled, match=r"^onnxruntime is not usable: no symbol; to get it: pip install"
    ):
        load_encoder(bundle, "onnxruntime")


def test_on_64_bit_arm_tflite_runtime_comes_first() -> None:
    script = (
        "import platform; platform.machine = lambda: 'aarch64'; "
        "from edge_siamese.runtimes.selection import AUTO_ORDER; print(*AUTO_ORDER)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.split() == ["tflite-runtime", "ai-edge-litert", "onnxruntime"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"runtime": "onnxrutime"},
            'there is no runtime "onnxrutime"; did you mean "onnxruntime"?; choose one of auto, ',
        ),
        ({"runtime": "torch"}, 'there is no runtime "torch"; choose one of auto, '),
        ({"precision": "int4"}, 'the precision is int8 or fp32, not "int4"'),
        ({"threads": 0}, "at least one thread is needed, not 0"),
    ],
)
def test_choices_that_do_not_exist(bundle: Bundle, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_encoder(bundle, **arguments)
    assert str(caught.value).startswith(message)


def test_what_is_installed_is_listed() -> None:
    statuses = runtime_statuses()
    assert {found.name for found in statuses} == set(RUNTIMES)
    assert available_runtimes() == tuple(found.name for found in statuses if found.usable)
    for found in statuses:
        assert bool(found.version) == (found.problem != "not installed")
    assert runtime_format("tflite-runtime") == "tflite"
    with pytest.raises(SettingsError, match='there is no runtime "x"'):
        runtime_format("x")


def test_the_packages_of_the_device_give_the_same_numbers(
    bundle: Bundle, device_python: Path, device_tflite: str, tmp_path: Path
) -> None:
    """On Python 3.11 tflite-runtime and numpy 1, in an interpreter of their own, through the command line."""
    np.save(tmp_path / "images.npy", IMAGES)

    def device(*arguments: str) -> Any:
        command = [str(device_python), "-m", "edge_siamese", *arguments, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    for precision in ("fp32", "int8"):
        out = str(tmp_path / f"{precision}.npy")
        arguments = (str(bundle.path), str(tmp_path / "images.npy"), "--out", out, "--precision", precision)
        result = device("embed", *arguments, "--runtime", device_tflite)
        assert result["runtime"] == device_tflite
        embeddings = np.load(out)
        if precision == "fp32":
            np.testing.assert_allclose(embeddings, EXPECTED, atol=2e-6)
        if "ai-edge-litert" in available_runtimes():
            here = load_encoder(bundle, "ai-edge-litert", precision).embed_prepared(IMAGES)
            assert cosines(embeddings, here).min() > 0.999
    report = device("selftest", str(bundle.path), "--runtime", device_tflite)
    assert report["passed"] is True
    assert [one["precision"] for one in report["reports"]] == ["fp32", "int8"]
