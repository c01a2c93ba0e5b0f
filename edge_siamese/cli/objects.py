"""Commands for the objects, carried out by the daemon."""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge_siamese.cli.output import print_json, print_line, print_table
from edge_siamese.daemon.client import find_socket, request, stream
from edge_siamese.daemon.commands import BY_NAME, EncodedPicture, arguments_of
from edge_siamese.errors import ControlError, StoreError, printable
from edge_siamese.events import counted
from edge_siamese.system.files import write_atomically
from edge_siamese.system.wall_clock import local_time

Printer = Callable[[str, Any], None]
"""Prints the result of a command in human-readable form; takes its name and the result."""

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 35.0
"""Longer than the daemon's own timeout, after which it answers that it is busy."""
REGISTRATION_TIMEOUT_SECONDS = 100.0
ARCHIVE_TIMEOUT_SECONDS = 900.0
STANDARD_OUTPUT = "-"
"""The name of standard output, as a file to write."""
UNDOABLE = ("forget", "merge", "remove-view")
"""Commands whose result ends with a hint at `undo`."""


def call(options: argparse.Namespace) -> int:
    """Send a command to the daemon and print the result; progress goes to stderr."""
    name = options.command
    timeout = REGISTRATION_TIMEOUT_SECONDS if name == "register" else TIMEOUT_SECONDS
    socket, previous = find_socket(options.config), ""
    for line in stream(socket, name, timeout=timeout, **_arguments(options)):
        if "result" in line:
            result = line["result"]
            if options.json:
                print_json(result)
            else:
                printer: Printer = PRINTERS.get(name, _print_text)
                printer(name, result)
        elif "progress" in line and not options.json:
            text = str(line["progress"].get("text", ""))
            if text and text != previous:
                print(printable(text), file=sys.stderr, flush=True)
            previous = text
    return 0


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Take the arguments of a command from the options; pictures are read from their files."""
    values: dict[str, Any] = {}
    for argument in arguments_of(BY_NAME[options.command]):
        value = getattr(options, argument.name, None)
        if argument.is_picture and value:
            value = _read_pictures(value) if isinstance(value, list) else _read_pictures([value])[0]
        if value is not None:
            values[argument.name] = value
    return values


def _read_pictures(paths: list[str]) -> list[EncodedPicture]:
    from edge_siamese.pictures import read_picture  # imports numpy

    return [EncodedPicture.encode(read_picture(path), len(paths)) for path in paths]


# --- human-readable results ---


def _print_text(command: str, result: dict[str, Any]) -> None:
    hint = "; edge-siamese undo restores it" if command in UNDOABLE else ""
    print_line(f"{result['text']}{hint}")


def _print_objects(_: str, result: dict[str, Any]) -> None:
    if not result["objects"]:
        print(
            "no objects are registered; hold one in front of the camera and run: edge-siamese register NAME"
        )
        return
    print_table(
        ("name", "views", "negatives", "registered"),
        [
            (item["name"], str(item["views"]), str(item["negatives"]), local_time(item["created"]))
            for item in result["objects"]
        ],
    )
    unembedded = sum(item["views"] > item["embedded"] for item in result["objects"])
    if unembedded:
        print()
        print_line(
            f"{unembedded} of them have views without an embedding of the model {result['model_id']}, "
            "and no picture to compute it from"
        )


def _print_views(_: str, result: list[dict[str, Any]]) -> None:
    print_table(
        ("view", "kind", "from", "pictures", "registered"),
        [
            (str(item["id"]), item["kind"], item["source"], str(item["crops"]), local_time(item["created"]))
            for item in result
        ],
    )


def _print_explanation(_: str, result: dict[str, Any]) -> None:
    print_line(result["text"])
    for line in result["explanation"]:
        print_line(f"  {line}")


def _print_quarantine(_: str, result: dict[str, Any]) -> None:
    if not result["parts"]:
        print("nothing is in quarantine")
        return
    print_table(
        ("id", "since", "what"),
        [
            (part["id"], local_time(part["time"]) if part["time"] else "this start", part["text"])
            for part in result["parts"]
        ],
    )
    print()
    print_line("after the cause is repaired: edge-siamese quarantine restore ID")


def _print_regions(_: str, result: dict[str, Any]) -> None:
    if not result["regions"]:
        print("there are no regions: the whole picture is watched")
        return
    print_table(
        ("region", "left", "top", "width", "height"),
        [(item["name"], *(f"{100 * value:.1f} %" for value in item["box"])) for item in result["regions"]],
    )
    print()
    print_line(f"set in {result['file']}; the button registers in {result['registers']}")


def _print_surroundings(_: str, result: dict[str, Any]) -> None:
    if not result["enabled"]:
        print("learning of the surroundings is off: see [surroundings] in the settings")
        return
    print_line(f"the camera has seen {counted(result['scenes'], 'scene')} without a registered object")
    if not result["objects"]:
        return
    print()
    print_table(("object", "surroundings"), [(item["name"], item["text"]) for item in result["objects"]])
    near = [item["name"] for item in result["objects"] if item["near"]]
    strict = [item["name"] for item in result["objects"] if item["tightened"]]
    if near:
        print()
        print_line(f"not different enough: {', '.join(near)}; add a view: edge-siamese register NAME --view")
    if strict:
        print_line(f"recognized more strictly because of that: {', '.join(strict)}")


PRINTERS: dict[str, Printer] = {
    "regions": _print_regions,
    "quarantine": _print_quarantine,
    "objects": _print_objects,
    "views": _print_views,
    "explain": _print_explanation,
    "surroundings": _print_surroundings,
}


# --- commands that send more than one request, or files ---


def score(options: argparse.Namespace) -> int:
    """Recognize pictures, one request each."""
    socket, results = find_socket(options.config), []
    for path in options.pictures:
        pictures = _read_pictures([path])
        (result,) = request(socket, "score", timeout=TIMEOUT_SECONDS, pictures=pictures)
        results.append({"picture": path, **result})
        if not options.json:
            print_line(f"{path}: {result['text']}")
    if options.json:
        print_json(results)
    return 0


def export(options: argparse.Namespace) -> int:
    """Write all objects to an archive."""
    return _write_archive("export", options, lambda result: counted(result["objects"], "object"))


def collect(options: argparse.Namespace) -> int:
    """Write the pictures for training to an archive."""

    def describe(result: dict[str, Any]) -> str:
        without = result["without_pictures"]
        missing = f" (and {counted(without, 'view')} without a picture)" if without else ""
        return counted(result["pictures"], "picture") + missing

    return _write_archive("collect", options, describe)


def _write_archive(
    command: str, options: argparse.Namespace, describe: Callable[[dict[str, Any]], str]
) -> int:
    """Write the archive that a command sends to a file, completely or not at all, or to standard output."""
    socket, result = find_socket(options.config), dict[str, Any]()

    def write(file: Any) -> None:
        for line in stream(socket, command, timeout=ARCHIVE_TIMEOUT_SECONDS):
            if "chunk" in line:
                file.write(base64.b64decode(line["chunk"]))
            elif "result" in line:
                result.update(line["result"])

    if options.file == STANDARD_OUTPUT:
        if sys.stdout.isatty():
            raise ControlError("an archive is not written to a terminal: name a file, or redirect the output")
        write(sys.stdout.buffer)
        return 0
    path = Path(options.file)
    write_atomically(path, write)
    size = path.stat().st_size
    if options.json:
        print_json({**result, "file": str(path), "bytes": size})
    else:
        print_line(f"wrote {describe(result)} to {path} ({size:,} bytes)")
    return 0


def import_(options: argparse.Namespace) -> int:
    """Add the objects of an archive."""
    socket, path = find_socket(options.config), Path(options.file)
    upload: dict[str, Any] = {}
    for chunk in _chunks(path):
        upload = request(socket, "upload", chunk=chunk, **upload)
    if not upload:
        raise StoreError(f"{path} is empty")
    result = request(
        socket, "import", timeout=ARCHIVE_TIMEOUT_SECONDS, on_conflict=options.on_conflict, **upload
    )
    print_json(result) if options.json else print_line(result["text"])
    return 0


def _chunks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except FileNotFoundError as error:
        raise StoreError(f"{path}: there is no such file") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
