"""Sounds and speech for saved, refused and recognized objects; played by commands on a thread of their own."""

from __future__ import annotations

import logging
import re
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_siamese.daemon.event_bus import ProblemLog
from edge_siamese.daemon.tones import Sound, tone
from edge_siamese.events import Event
from edge_siamese.settings import SoundSettings
from edge_siamese.system.command import CommandRunner

SOUNDS: Mapping[str, Sound] = {
    "registered": "saved",
    "view added": "saved",
    "negative added": "saved",
    "refused": "refused",
    "appeared": "recognized",
    "undecided": "recognized",
}
"""Sounds by kind of event."""
QUEUE = 3
"""Sounds that may wait; older ones are dropped as outdated."""
MAX_FILE_BYTES = 8 << 20
"""Maximum size of a sound file."""

LOG = logging.getLogger(__name__)


class SoundPlayer:
    """Plays a sound for some events, and speaks. `event` never blocks; commands run one after the other."""

    def __init__(self, settings: SoundSettings) -> None:
        """Start the thread if sounds are turned on."""
        self.settings = settings
        self._waiting: deque[Event] = deque(maxlen=QUEUE)
        self._changed = threading.Condition()
        self._closed = False
        self._runner: CommandRunner | None = None
        self._problem = ""
        self._log = ProblemLog(LOG)
        if settings.enabled:
            self._runner = CommandRunner()
            threading.Thread(target=self._run, args=(self._runner,), name="sounds", daemon=True).start()

    def event(self, event: Event) -> None:
        """Play the sound of an event, if it has one."""
        if self._runner is None or event.kind not in SOUNDS:
            return
        with self._changed:
            if not self._closed:
                self._waiting.append(event)
                self._changed.notify()

    def report(self) -> dict[str, Any]:
        """Describe the state as JSON values; `problem` is why the last sound could not be heard."""
        return {"enabled": self.settings.enabled, "problem": self._problem}

    def close(self) -> None:
        """Stop immediately; a sound that is playing is cut off."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify()
        if self._runner is not None:
            self._runner.interrupt()

    def _run(self, runner: CommandRunner) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    break
                event = self._waiting.popleft()
            try:
                problem = self._play(runner, event)
            except Exception as error:  # nothing about a sound may end the thread
                LOG.exception("a sound failed")
                problem = f"unexpected {type(error).__name__}"
            if runner.interrupted:
                break
            self._problem = problem
            if problem:
                self._log.report(f"no sound: {problem}")
            else:
                self._log.resolve("sounds work again")
        runner.close()

    def _play(self, runner: CommandRunner, event: Event) -> str:
        """Play and speak; returns what went wrong. Names are passed on standard input: they are neither options nor code."""
        settings, sound = self.settings, SOUNDS[event.kind]
        problems = []
        if settings.player:
            try:
                data = self._sound(sound)
            except OSError as error:
                problems.append(f"{error.filename} cannot be read: {error.strerror or error}")
            else:
                problems.append(runner.run(settings.player, data, settings.timeout_s))
        if settings.speech:
            text = phrase(settings, sound, event)
            if text:
                data = f"{text}\n".encode("utf-8", "replace")
                problems.append(runner.run(settings.speech, data, settings.timeout_s))
        return "; ".join(filter(None, problems))

    def _sound(self, sound: Sound) -> bytes:
        """Return the file of the settings, else the tone."""
        path: str = getattr(self.settings, f"{sound}_file")
        if not path:
            return tone(sound, self.settings.volume)
        with Path(path).open("rb") as file:
            return file.read(MAX_FILE_BYTES)


def phrase(settings: SoundSettings, sound: Sound, event: Event) -> str:
    """Return the phrase for an event; `{text}` within a name is not replaced."""
    values = {"{name}": str(event.data.get("name") or ""), "{text}": event.text}
    return re.sub(r"\{(name|text)\}", lambda match: values[match[0]], getattr(settings, f"say_{sound}"))
