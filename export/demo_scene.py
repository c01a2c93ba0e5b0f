"""The very end of the demo: the daemon watches a scene, learns at a button, recognizes, rejects, and takes back."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge_siamese.errors import VerificationFailed
from edge_siamese.models.bundle import Bundle
from edge_siamese.system.files import write_text_atomically
from export.evaluation.remote_runtime import device_environment

LEARNED = 3
"""Objects that the scene registers and does not take back."""
MAX_SECONDS = 180.0
RUN, STORY = "run.toml", "story.toml"
PORT = 8765
"""Of the dashboard; if another program has it, the demo takes any other."""
SERVED_WITHIN_SECONDS = 30.0


@dataclass(frozen=True)
class Story:
    """What happened, by the daemon's own account."""

    learned: tuple[str, ...]
    """Objects that were registered at the button and recognized when they came back, in order."""
    undone: str
    """The one that was registered and taken back."""
    events: int
    """How many there were."""
    dashboard: str
    """Where the scene could be watched; empty if the events alone are told."""


def watch(bundle: Bundle, python: Path, out: Path, tell: Callable[[str], object]) -> Story:
    """Let the daemon play its scene once.

    Args:
        bundle: what it loads.
        python: the interpreter that stands for the device.
        out: gets `daemon/`: settings, objects and events.
        tell: is given each line that the daemon prints, as it happens.

    Raises:
        VerificationFailed: the daemon failed, or the story went otherwise.
    """
    place = out / "daemon"
    shutil.rmtree(place / "story", ignore_errors=True)
    # The path of a socket is short, that of a checkout may be long.
    with tempfile.TemporaryDirectory(prefix="edge-siamese-") as runtime:
        port = free_port()
        write_text_atomically(
            place / STORY, settings(bundle, place / "story", Path(runtime), port, loop=False)
        )
        write_text_atomically(place / RUN, settings(bundle, place / "run", place / "run", PORT, loop=True))
        visit = Visit(f"http://127.0.0.1:{port}")
        words = [str(python), "-m", "edge_siamese", "run", "--config", str(place / STORY)]
        with subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=device_environment()
        ) as process:
            assert process.stdout is not None
            visit.start()
            last = ""
            for line in process.stdout:
                last = line.rstrip()
                tell(last)
            if process.wait(MAX_SECONDS):
                raise VerificationFailed(f"the daemon ended with {process.returncode}: {last}")
    visit.require()
    events = (place / "story" / "events.jsonl").read_text(encoding="utf-8")
    return replace(told([json.loads(line) for line in events.splitlines()]), dashboard=visit.address)


class Visit(threading.Thread):
    """Looks whether the dashboard is served while the scene is played, as a browser would."""

    def __init__(self, address: str) -> None:
        super().__init__(name="visit", daemon=True)
        self.address = address
        self._seen: dict[str, Any] | None = None

    def run(self) -> None:
        until = time.monotonic() + SERVED_WITHIN_SECONDS
        while self._seen is None and time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.address}/", timeout=2) as page:
                    whole = page.status == 200 and b"<html" in page.read()
                with urllib.request.urlopen(f"{self.address}/api/v1/status", timeout=2) as answer:
                    found = json.load(answer)
                if whole and found["frames"]:
                    self._seen = found
            except (OSError, ValueError, KeyError):
                pass  # not yet
            time.sleep(0.2)

    def require(self) -> None:
        """Raise `VerificationFailed` if it was not."""
        self.join(SERVED_WITHIN_SECONDS)
        if self._seen is None:
            raise VerificationFailed(
                f"the dashboard was not served at {self.address} while the scene was played"
            )


def free_port() -> int:
    """The dashboard's usual port, or another one if that is taken."""
    for port in (PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise VerificationFailed("no port is free at 127.0.0.1, at which the dashboard could be served")


def settings(bundle: Bundle, state: Path, runtime: Path, port: int, *, loop: bool) -> str:
    """A `config.toml` for the scene, with the dashboard at a port of this machine."""
    quoted = {
        name: json.dumps(str(path.resolve())) for name, path in (("state", state), ("runtime", runtime))
    }
    return f"""\
[model]
bundle = {json.dumps(str(bundle.path.resolve()))}

[camera]
kind = "synthetic"
loop = {str(loop).lower()}
frame_rate = 15.0

# Two minutes of training leave some symbols near to each other: here one unknown in a thousand may pass for a known one,
# and not, as usually, one in a hundred.
[recognition]
false_accept_rate = 0.001

[dashboard]
enabled = true
port = {port}

[paths]
state = {quoted["state"]}
runtime = {quoted["runtime"]}
"""


def told(events: Sequence[dict[str, Any]]) -> Story:
    """The story that events tell.

    Raises:
        VerificationFailed: it is not the scene's: three objects learned and recognized when they come back, something
            unknown rejected, a fourth one learned, taken back, and unknown again.
    """
    kinds = [event["kind"] for event in events]
    registered = tuple(event["name"] for event in events if event["kind"] == "registered")
    undone = [event["name"] for event in events if event["kind"] == "undone"]
    if len(registered) != LEARNED + 1 or undone != [registered[-1]]:
        raise VerificationFailed(
            f"the scene registers {LEARNED + 1} objects and takes the last one back, but the daemon registered "
            f"{', '.join(registered) or 'none'} and took back {', '.join(undone) or 'none'}"
        )
    for name in registered[:LEARNED]:
        # It may still lie there when it has been learned; to come back is to appear again and to leave.
        turns = [
            event["kind"]
            for event in events[_place(events, "registered", name) :]
            if event["kind"] in ("appeared", "left") and event["name"] == name
        ]
        if turns not in (["appeared", "left"], ["appeared", "left", "appeared", "left"]):
            raise VerificationFailed(
                f'"{name}" was learned and came back once, but after that it {", ".join(turns) or "never appeared"}'
            )
    gone = max(_place(events, "left", name) for name in registered[:LEARNED])
    mistake, undoing = _place(events, "registered", registered[LEARNED]), kinds.index("undone")
    strangers = [
        event["text"]
        for index, event in enumerate(events)
        if event["kind"] == "appeared" and (gone < index < mistake or index > undoing)
    ]
    if strangers:
        raise VerificationFailed(f"something unknown was taken for a known object: {'; '.join(strangers)}")
    return Story(registered[:LEARNED], undone[0], len(events), dashboard="")


def _place(events: Sequence[dict[str, Any]], kind: str, name: str) -> int:
    """Where an object had an event of this kind last; -1 if it never had."""
    places = [
        index for index, event in enumerate(events) if (event["kind"], event.get("name")) == (kind, name)
    ]
    return places[-1] if places else -1
