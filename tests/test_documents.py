"""README, docs and help texts against the code: links, commands, tables, and the README's example."""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import get_args

import msgspec.inspect
import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from edge_siamese.cli.main import build_parser
from edge_siamese.daemon import archives
from edge_siamese.daemon.telemetry import MAX_DECISIONS
from edge_siamese.dashboard import auth, uploads
from edge_siamese.models import bundle, manifest
from edge_siamese.models.manifest import Manifest
from edge_siamese.mqtt.commands import LOG_SECONDS, MAX_LOGGED
from edge_siamese.mqtt.ownership import CONFLICT_MESSAGES
from edge_siamese.pictures import MAX_DECODED_PIXELS, MAX_PIXELS, MAX_WEBP_PIXELS
from edge_siamese.registry import RUNTIMES
from edge_siamese.store.undo_log import MAX_UNDOS
from edge_siamese.system import sandbox
from edge_siamese.system.files import DISK_RESERVE_BYTES, MAX_NAME_BYTES
from export.__main__ import COMMANDS, main
from export.training.settings import ENCODER_DEFAULTS
from tests.markdown_pages import quoted, table_rows
from tests.requirement_files import normal, requirements
from tests.test_code_rules import modules
from tests.test_packaging import PROJECT
from tests.tiny_bundle import write_tiny_bundle

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CODE_OF_CONDUCT.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "benchmarks" / "README.md",
    ROOT / "examples" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
DEMO = ROOT / "build" / "demo"
DEMO_MADE = "EDGE_SIAMESE_DEMO_MADE"
"""Set where `make demo` has run, so that its absence is a failure."""

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def anchors(text: str) -> set[str]:
    """What a link to a heading of a page may say, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@documents
def test_links_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        page = document.parent / name if name else document
        assert page.is_file(), f"{document.name} links to {target}"
        assert not anchor or anchor in anchors(page.read_text(encoding="utf-8")), (
            f"{document.name} links to {target}"
        )


@documents
def test_no_figure_is_left_out(document: Path) -> None:
    assert re.findall(r"@@\w+@@", document.read_text(encoding="utf-8")) == []


# --- commands ---


def test_every_target_of_make_that_is_named_exists() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, re.MULTILINE))
    named = {
        (document.name, target)
        for document in DOCUMENTS
        for target in re.findall(
            r"(?:`|^)make ([a-z][a-z-]+)", document.read_text(encoding="utf-8"), re.MULTILINE
        )
    }
    assert {target for _, target in named} >= {"demo", "test", "setup", "lock", "reproduce-omniglot"}
    assert {(name, target) for name, target in named if target not in targets} == set()


def command_lines(program: str) -> list[tuple[str, str]]:
    """(document, arguments) of each line of a document that calls a program with arguments."""
    pattern = rf"(?:`|^|/){re.escape(program)} ([a-z][^`\n|>]*)"
    return [
        (document.name, line.split("#")[0].strip())
        for document in DOCUMENTS
        # A backslash at the end of a line continues it.
        for line in re.findall(
            pattern, re.sub(r"\\\n\s*", "", document.read_text(encoding="utf-8")), re.MULTILINE
        )
    ]


def export_parser(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"python -m export {name}", exit_on_error=False)
    import_module(f"export.cli.{name}").add_arguments(parser)
    return parser


def test_every_command_of_export_that_is_named_is_one() -> None:
    named = command_lines("python -m export")
    assert {line.split()[0] for _, line in named} <= set(COMMANDS)
    for document, line in named:
        name, *arguments = shlex.split(line)
        if arguments:
            parse(export_parser(name), arguments, f"{document}: python -m export {line}")


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The commands below a command, by name."""
    found = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0].choices) if found else {}


def every_command(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command by its words, those below others too."""
    for name, command in commands_of(parser).items():
        yield name, command
        for words, inner in every_command(command):
            yield f"{name} {words}", inner


def test_every_command_of_the_device_that_is_named_is_one() -> None:
    known = {words for words, _ in every_command(build_parser())}
    for document, line in command_lines("edge-siamese"):
        words = shlex.split(line)
        assert words[0] in known, f"{document}: edge-siamese {line}"
        # A command that is only named, as in this sentence about `edge-siamese model install`, has no arguments.
        if " ".join(words) not in known:
            parse(build_parser(), words, f"{document}: edge-siamese {line}")


def test_the_makefile_calls_export_with_options_that_exist() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    text = text.replace("omniglot-$$name", "omniglot-characters").replace(" 2>&1", "")
    calls = re.findall(r"-m export (\w+) ([^$\n]*)", text)
    assert {name for name, _ in calls} == {
        "benchmark",
        "demo",
        "evaluate",
        "impostors",
        "pipeline",
        "render",
        "reproduce",
        "scenes",
        "ship",
        "train",
    }
    for name, arguments in calls:
        parse(export_parser(name), shlex.split(arguments), f"Makefile: {name}")


def parse(parser: argparse.ArgumentParser, arguments: list[str], where: str) -> None:
    try:
        parser.parse_args(arguments)
    except (SystemExit, argparse.ArgumentError) as error:
        pytest.fail(f"{where} is not understood: {error}")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_has_an_example_that_parses(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    examples = re.findall(rf"-m export {name} (.*)", text.partition("example")[2])
    examples += [""] if f"-m export {name}\n" in text.partition("example")[2] else []
    assert examples, f"python -m export {name} --help shows no example"
    for example in examples:
        parse(export_parser(name), shlex.split(example), f"python -m export {name} --help")


def test_the_help_of_every_command_of_the_device_has_an_example_that_parses() -> None:
    parser = build_parser()
    for words, command in every_command(parser):
        text = " ".join(command.format_help().split())
        example = re.search(rf"example: edge-siamese ({words}.*)$", text)
        assert example, f"edge-siamese {words} --help shows no example"
        parse(parser, shlex.split(example[1]), f"edge-siamese {words} --help")


def test_the_device_guide_shows_every_command() -> None:
    text = (ROOT / "docs" / "device.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"edge-siamese ([a-z][\w-]*)", text))
    assert set(commands_of(build_parser())) - shown == set()


# --- tables ---


def manifest_keys(record: type, prefix: str = "") -> set[str]:
    """Dotted keys of a record, as the table of docs/bundle.md spells them."""
    keys: set[str] = set()
    for field in msgspec.inspect.type_info(record).fields:
        kind, name = field.type, prefix + field.name
        if isinstance(kind, msgspec.inspect.VarTupleType):
            kind, name = kind.item_type, name + "[]"
        is_record = isinstance(kind, msgspec.inspect.StructType)
        keys |= manifest_keys(kind.cls, name + ".") if is_record else {name}
    return keys


def test_the_page_on_bundles_explains_every_key_of_the_manifest() -> None:
    text = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
    section = text.partition("## manifest.json")[2].partition("\n## ")[0]
    documented = [quoted(row[0])[0] for row in table_rows(section) if quoted(row[0])]
    assert len(documented) == len(set(documented))
    assert set(documented) == manifest_keys(Manifest) | {"format"}


def test_the_page_on_bundles_states_the_limits() -> None:
    text = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8")
    section = text.partition("## What is checked")[2].partition("\n## ")[0]
    stated = dict(row for row in table_rows(section) if len(row) == 2)
    formats = len(get_args(manifest.Format)) * len(get_args(manifest.Precision))
    limits = {
        "`manifest.json`": f"{manifest.MAX_MANIFEST_BYTES >> 20} MiB",
        "each other file": f"{manifest.MAX_FILE_BYTES >> 20} MiB",
        "model files, attachments, thresholds": f"{formats}, {manifest.MAX_ATTACHMENTS}, {manifest.MAX_THRESHOLDS}",
        "`model_id`": f"{manifest.MAX_ID_LENGTH} characters",
        "name of a file": f"{MAX_NAME_BYTES} bytes",
        "height and width of the input": f"{manifest.MAX_SIDE:,} pixels",
        "embedding": f"{manifest.MAX_DIMENSIONS:,} numbers",
        "numbers of the head": f"{manifest.MAX_HEAD_NUMBER:,.0f}",
        "arrays in `golden.npz`, images in it": f"{bundle.MAX_ARRAYS}, {bundle.MAX_GOLDEN_IMAGES}",
        "all arrays of a file together, unpacked": f"{bundle.MAX_ARRAY_BYTES >> 20} MiB",
        "embeddings in `impostors.npy`": f"{bundle.MAX_IMPOSTORS:,}",
    }
    assert limits == {what: limit for what, limit in stated.items() if what in limits}
    of_child = sandbox.Limits()
    words = " ".join(section.split())
    assert f"{of_child.processor_seconds} s of processor time, {of_child.seconds:.0f} s in all" in words
    least, most = sandbox.MIN_MEMORY_BYTES >> 20, sandbox.MAX_MEMORY_BYTES >> 20
    assert f"at least {least} MiB and at most {most:,} MiB" in words


def test_the_page_on_security_states_the_numbers() -> None:
    text = " ".join((ROOT / "docs" / "security.md").read_text(encoding="utf-8").split())
    million = 1_000_000
    for statement in (
        f"{MAX_DECODED_PIXELS // million} million, {MAX_PIXELS // million} million for a JPEG that can be decoded",
        f"{MAX_WEBP_PIXELS // million} million for WebP",
        f"({archives.MAX_UPLOAD_BYTES >> 30} GB, and {DISK_RESERVE_BYTES >> 20} MB of the disk stay free)",
        f"A session ends after {auth.SESSION_IDLE_SECONDS / 3600:.0f} hours without use, after a week",
        f"At most {auth.MAX_SESSIONS} exist",
        f"the latest {MAX_DECISIONS} decisions",
        f"restored during the next {MAX_UNDOS} changes",
    ):
        assert statement in text, statement
    assert (uploads.MAX_UPLOADS, uploads.KEPT_SECONDS) == (12, 600.0)  # "twelve", "ten minutes"
    assert auth.MAX_SESSION_SECONDS == 7 * 24 * 3600.0  # "a week"
    assert archives.ABANDONED_SECONDS == 3600.0  # "an hour at most"
    assert (MAX_LOGGED, LOG_SECONDS) == (10, 60.0)  # "at most ten times a minute"
    assert CONFLICT_MESSAGES == 3  # "three such messages"


def test_the_page_on_the_method_states_the_recipes_that_are_used() -> None:
    text = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    section = text.partition("## Training")[2].partition("\n##")[0]
    head, _, *rows = table_rows(section)
    encoders = [quoted(cell)[0] for cell in head[1:]]
    assert set(encoders) == set(ENCODER_DEFAULTS)
    stated = {
        (encoder, quoted(row[0])[0]): value
        for row in rows
        for encoder, value in zip(encoders, row[1:], strict=True)
    }
    used = {key: str(getattr(ENCODER_DEFAULTS[key[0]], key[1])) for key in stated}
    assert stated == used


def dependency_rows() -> dict[str, list[str]]:
    """Package to its row in docs/dependencies.md."""
    rows = list(table_rows((ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")))
    return {quoted(row[0])[0]: row for row in rows if quoted(row[0])}


def test_the_page_on_dependencies_lists_every_direct_one_and_no_other() -> None:
    extras = [text for group in PROJECT["optional-dependencies"].values() for text in group]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    named = [Requirement(text) for text in [*PROJECT["dependencies"], *extras, *build]]
    named += [*requirements("host.in"), *requirements("device.in")]
    assert set(dependency_rows()) == {normal(requirement.name) for requirement in named}


def test_the_page_on_dependencies_states_ranges_and_pins_as_they_are() -> None:
    rows = dependency_rows()
    for pin in [*requirements("host.in"), *requirements("device.in")]:
        row = rows[normal(pin.name)]
        stated = [version for cell in row for version in quoted(cell)] if pin.specifier else row[1]
        assert (str(pin.specifier) or "latest") in stated, f"docs/dependencies.md does not say {pin}"
    ranges = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["litert"]]
    ranges += [*PROJECT["optional-dependencies"]["onnx"]]
    ranges.append(PROJECT["optional-dependencies"]["tflite"][0])
    for need in map(Requirement, ranges):
        (stated_range,) = quoted(rows[normal(need.name)][1])
        assert Requirement(need.name + stated_range).specifier == need.specifier
    for name, row in rows.items():
        assert all(row), f"docs/dependencies.md leaves a cell of {name} empty"
        for place in quoted(row[3] if len(row) == 6 else row[2]):
            if "/" in place:
                assert (ROOT / place).exists(), (
                    f"docs/dependencies.md: {name} is used in {place}, which does not exist"
                )


def test_every_package_that_is_imported_is_a_direct_dependency() -> None:
    known = sys.stdlib_module_names | {"edge_siamese", "export", "benchmarks", "examples", "tests", "scripts"}
    # These come with pip, pytest and import-linter; picamera2 and libcamera come with the system of a Raspberry Pi.
    known |= {"pip", "packaging", "_pytest", "grimp", "picamera2", "libcamera"}
    imported = {
        name.split(".")[0]
        for path in modules("edge_siamese", "export", "benchmarks", "examples", "tests", "scripts")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.level == 0)
        for name in (
            [node.module] if isinstance(node, ast.ImportFrom) else [item.name for item in node.names]
        )
        if name
    }
    imported |= {library.split(".")[0] for driver in RUNTIMES.values() for library in driver.libraries}
    names = {"PIL": "pillow", "yaml": "pyyaml", "paho": "paho-mqtt", "vtkmodules": "vtk"}
    names |= {"cyclonedx": "cyclonedx-python-lib", "packageurl": "packageurl-python"}
    packages = {normal(names.get(module, module)) for module in imported - known}
    assert packages - set(dependency_rows()) == set()


# --- the example ---


def readme_example() -> str:
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1]


def run_example(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", readme_example()],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pictures_of_example() -> list[tuple[str, str]]:
    """(name, support or query) of each picture of the example."""
    found = re.findall(r'"build/demo/pictures/(\w+)-(support|query)\.png"', readme_example())
    assert len(found) >= 3
    return found


def expected_name() -> str:
    (name,) = (name for name, role in pictures_of_example() if role == "query")
    return name


def test_the_example_is_six_lines_and_short() -> None:
    lines = [line for line in readme_example().splitlines() if line.strip()]
    assert len(lines) <= 6
    assert max(map(len, lines)) <= 88


def test_the_example_runs_on_any_bundle(tmp_path: Path) -> None:
    folder = tmp_path / "build" / "demo"
    write_tiny_bundle(folder / "bundle")
    (folder / "pictures").mkdir()
    for name, role in pictures_of_example():
        # Large areas, since a view is the mean over small rotations and scales of its picture.
        areas = np.random.default_rng(list(name.encode())).integers(0, 256, (4, 4), dtype=np.uint8)
        pixels = np.kron(areas, np.ones((10, 10), np.uint8))
        Image.fromarray(pixels).save(folder / "pictures" / f"{name}-{role}.png")
    assert run_example(tmp_path).startswith(f"{expected_name()} (p = ")


@pytest.mark.system
def test_the_example_runs_on_what_the_demo_leaves() -> None:
    if not (DEMO / "bundle" / "manifest.json").exists():
        assert not os.environ.get(DEMO_MADE), f"make demo has run and left no bundle in {DEMO}"
        pytest.skip("make demo has not run")
    assert run_example(ROOT).startswith(f"{expected_name()} (p = ")


def test_the_page_on_development_lists_every_environment_variable() -> None:
    text = (ROOT / "docs" / "development.md").read_text(encoding="utf-8")
    listed = {name for row in table_rows(text) for name in quoted(row[0]) if name.startswith("EDGE_SIAMESE_")}
    read = {
        name
        for path in modules("edge_siamese", "export")
        for name in re.findall(r'"(EDGE_SIAMESE_[A-Z_]+)"', path.read_text(encoding="utf-8"))
    }
    assert listed == read
