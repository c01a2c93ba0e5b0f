"""Damages model files and runs their self-tests. It needs no pytest, which the device's interpreter lacks."""

from __future__ import annotations

import json
import random
from pathlib import Path

from msgspec import structs

from edge_siamese.errors import EdgeSiameseError
from edge_siamese.models.bundle import load_bundle
from edge_siamese.runtimes.confined_self_test import run_self_test
from edge_siamese.system.sandbox import Limits
from tests.tiny_bundle import describe, write_tiny_bundle


def relist(directory: Path, *names: str) -> None:
    """Write the present sizes and checksums of files into the manifest."""
    path = directory / "manifest.json"
    content = json.loads(path.read_text())
    for item in (*content["models"], *content["attachments"]):
        if item["path"] in names:
            item.update(structs.asdict(describe(directory / item["path"])))
    path.write_text(json.dumps(content))


def damaged(directory: Path, name: str, whole: bytes, seed: int) -> bytes:
    """Write a copy of a model with a few changed bytes, and list it in the manifest."""
    chance, content = random.Random(seed), bytearray(whole)
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    (directory / name).write_bytes(content)
    relist(directory, name)
    return bytes(content)


def without_graphs(model: bytes) -> bytes:
    """A TFLite file whose header names no list of graphs: it crashes tflite-runtime 2.14 and ai-edge-litert 2.3."""
    header = int.from_bytes(model[:4], "little")
    fields = header - int.from_bytes(model[header : header + 4], "little", signed=True)
    place = fields + 4 + 2 * 2  # two bytes of the third field
    return model[:place] + b"\0\0" + model[place + 2 :]


def write_crashing_bundle(directory: Path) -> Path:
    """Write a tiny bundle whose TFLite file crashes its runtime, with right checksums."""
    path = write_tiny_bundle(directory, model_id="tiny-crashing") / "encoder.int8.tflite"
    path.write_bytes(without_graphs(path.read_bytes()))
    relist(directory, path.name)
    return directory


def outcome(directory: Path, runtime: str, precision: str = "int8", limits: Limits | None = None) -> str:
    """The result of a self-test in a line: `passed`, `failed`, or the class and text of the error."""
    try:
        result = run_self_test(load_bundle(directory), runtime, precision, 1, limits)
    except EdgeSiameseError as error:
        return f"{type(error).__name__}: {error}"
    return "passed" if result.report.passed else "failed"
