"""Commands on the objects: each asks the daemon, which alone changes them."""

from __future__ import annotations

import argparse
import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_siamese.cli.output import print_json, print_table
from edge_siamese.daemon.client import request, stream
from edge_siamese.errors import StoreError
from edge_siamese.settings import load_settings
from edge_siamese.system.files import write_atomically

CHUNK = 1 << 20
REGISTRATION_SECONDS = 100.0
COLLECTION_SECONDS = 900.0
ANSWER_SECONDS = 35.0
"""Longer than the daemon itself waits for its turn: then it says so."""


def objects(options: argparse.Namespace) -> int:
    """A table of the objects."""
    found = _ask(options, "objects")
    if options.json:
        print_json(found)
        return 0
    if not found["objects"]:
        print("nothing is registered; put something before the camera and say: edge-siamese register NAME")
        return 0
    print_table(
        ("name", "views", "negatives", "registered"),
        [
            (item["name"], str(item["views"]), str(item["negatives"]), _local(item["created"]))
            for item in found["objects"]
        ],
    )
    waiting = sum(item["views"] > item["embedded"] for item in found["objects"])
    if waiting:
        print(
            f"\n{waiting} with views that the model {found['model_id']} does not know, and no picture to learn them from"
        )
    return 0


def views(options: argparse.Namespace) -> int:
    """The views and negatives of one object."""
    found = _ask(options, "views", name=options.name)
    if options.json:
        print_json(found)
        return 0
    print_table(
        ("view", "kind", "from", "pictures", "registered"),
        [
            (str(item["id"]), item["kind"], item["source"], str(item["crops"]), _local(item["created"]))
            for item in found
        ],
    )
    return 0


def remove_view(options: argparse.Namespace) -> int:
    """Take one view or negative from an object."""
    found = _ask(options, "remove-view", name=options.name, view=options.view)
    if options.json:
        print_json(found)
    else:
        print(f'view {options.view} of "{found["name"]}" is gone; edge-siamese undo brings it back')
    return 0


def register(options: argparse.Namespace) -> int:
    """Learn an object, telling each frame's verdict on stderr."""
    pictures = _sent(options.picture)
    socket = load_settings(options.config).socket
    words: dict[str, Any] = {"name": options.name, "view": options.view, "force": options.force}
    if pictures:
        words["pictures"] = pictures
    told = ""
    for line in stream(socket, "register", timeout=REGISTRATION_SECONDS, **words):
        if "result" in line:
            print_json(line["result"]) if options.json else print(line["result"]["text"])
        elif "progress" in line and not options.json:
            text = str(line["progress"].get("text", ""))
            if text and text != told:
                print(text, file=sys.stderr, flush=True)
            told = text
    return 0


def rename(options: argparse.Namespace) -> int:
    """Give an object another name."""
    found = _ask(options, "rename", name=options.name, new=options.new)
    print_json(found) if options.json else print(f'"{options.name}" is called "{found["name"]}" now')
    return 0


def forget(options: argparse.Namespace) -> int:
    """Unlearn an object."""
    found = _ask(options, "forget", name=options.name)
    if options.json:
        print_json(found)
    else:
        print(f'"{found["name"]}" is forgotten; edge-siamese undo brings it back')
    return 0


def merge(options: argparse.Namespace) -> int:
    """Make two objects one."""
    found = _ask(options, "merge", name=options.name, into=options.into)
    if options.json:
        print_json(found)
    else:
        print(
            f'"{options.name}" is part of "{found["name"]}" now, which has {found["views"]} views; '
            "edge-siamese undo takes them apart"
        )
    return 0


def undo(options: argparse.Namespace) -> int:
    """Take the last change back."""
    found = _ask(options, "undo")
    print_json(found) if options.json else print(found["text"])
    return 0


def wrong(options: argparse.Namespace) -> int:
    """What was recognized last was something else."""
    found = _ask(options, "wrong", name=options.name)
    if options.json:
        print_json(found)
    else:
        print(f'that was not "{found["name"]}": the view is kept as its negative number {found["negatives"]}')
    return 0


def score(options: argparse.Namespace) -> int:
    """What pictures show."""
    found: list[dict[str, Any]] = []
    for path in options.pictures:
        (answer,) = _ask(options, "score", pictures=_sent([path]))
        found.append({"picture": path, **answer})
        if not options.json:
            print(f"{path}: {answer['text']}")
    if options.json:
        print_json(found)
    return 0


def explain(options: argparse.Namespace) -> int:
    """Why the current frame, or a picture, is what it is."""
    words = {"picture": _sent([options.picture])[0]} if options.picture else {}
    found = _ask(options, "explain", **words)
    if options.json:
        print_json(found)
        return 0
    print(found["text"])
    for line in found["explanation"]:
        print(f"  {line}")
    return 0


def export(options: argparse.Namespace) -> int:
    """All objects into one file."""
    socket, told = load_settings(options.config).socket, {}
    path = Path(options.file)

    def write(file: Any) -> None:
        for line in stream(socket, "export", timeout=COLLECTION_SECONDS):
            if "chunk" in line:
                file.write(base64.b64decode(line["chunk"]))
            elif "result" in line:
                told.update(line["result"])

    write_atomically(path, write)
    if options.json:
        print_json({**told, "file": str(path), "bytes": path.stat().st_size})
    else:
        count = told["objects"]
        are = "object is" if count == 1 else "objects are"
        print(f"{count} {are} in {path} ({path.stat().st_size:,} bytes)")
    return 0


def import_(options: argparse.Namespace) -> int:
    """The objects of a file."""
    socket, path = load_settings(options.config).socket, Path(options.file)
    upload: dict[str, Any] = {}
    for piece in _pieces(path):
        upload = request(socket, "upload", chunk=base64.b64encode(piece).decode("ascii"), **upload)
    if not upload:
        raise StoreError(f"{path} is empty")
    found = request(socket, "import", timeout=COLLECTION_SECONDS, on_conflict=options.on_conflict, **upload)
    print_json(found) if options.json else print(found["text"])
    return 0


def _pieces(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while piece := file.read(CHUNK):
                yield piece
    except FileNotFoundError as error:
        raise StoreError(f"{path}: there is no such file") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error


def _sent(paths: list[str]) -> list[dict[str, Any]]:
    """Picture files as they are sent; only here, so that other commands need no numpy."""
    if not paths:
        return []
    from edge_siamese.daemon.picture_encoding import encode_picture
    from edge_siamese.pictures import read_picture

    return [encode_picture(read_picture(path), len(paths)) for path in paths]


def _ask(options: argparse.Namespace, command: str, **words: Any) -> Any:
    return request(load_settings(options.config).socket, command, timeout=ANSWER_SECONDS, **words)


def _local(when: str) -> str:
    """`2026-11-24 15:04`, in the time of this place."""
    from datetime import datetime

    return datetime.fromisoformat(when).astimezone().strftime("%Y-%m-%d %H:%M")
