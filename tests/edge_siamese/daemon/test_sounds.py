"""Sounds and speech, with commands that write down what they were given."""

from __future__ import annotations

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.daemon.sounds import QUEUE, SoundPlayer, phrase
from edge_siamese.daemon.tones import tone
from edge_siamese.events import Event
from edge_siamese.models.bundle import Bundle
from edge_siamese.settings import SoundSettings
from edge_siamese.settings_file import parse_settings
from tests.documented import ROOT
from tests.edge_siamese.daemon.running import daemon_in, until

HOSTILE = "$(touch pwned) -f /etc/passwd; `touch pwned`'\" | {text}"


class Recorder:
    """A folder with two programs: `play` and `say` append their input and arguments to files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("play", "say"):
            self.program(
                name, f'printf "%s\\n" "$#" >> {folder}/{name}.arguments; cat >> {folder}/{name}.input'
            )
        self.players: list[SoundPlayer] = []

    def program(self, name: str, script: str) -> str:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\ncd {self.folder}\n{script}\n")
        path.chmod(0o755)
        return str(path)

    def input(self, name: str) -> bytes:
        path = self.folder / f"{name}.input"
        return path.read_bytes() if path.exists() else b""

    def player(self, **settings: Any) -> SoundPlayer:
        given = {"player": (f"{self.folder}/play",), "speech": (f"{self.folder}/say",), "timeout_s": 5.0}
        made = SoundPlayer(SoundSettings(enabled=True, **(given | settings)))
        self.players.append(made)
        return made


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    made = Recorder(tmp_path)
    yield made
    for player in made.players:
        player.close()
    until(lambda: not any(thread.name == "sounds" for thread in threading.enumerate()))


@pytest.mark.parametrize(
    ("event", "sound", "said"),
    [
        (Event("registered", '"mug" is registered', data={"name": "mug"}), "saved", "saved mug"),
        (Event("view added", "x", data={"name": "mug"}), "saved", "saved mug"),
        (Event("negative added", "x", data={"name": "mug"}), "saved", "saved mug"),
        (
            Event("refused", "not registered: too dark", data={"reason": "dark"}),
            "refused",
            "not registered: too dark",
        ),
        (Event("appeared", "mug appeared", data={"name": "mug"}), "recognized", "mug"),
    ],
)
def test_each_kind_has_its_tone_and_its_words(
    recorder: Recorder, event: Event, sound: Any, said: str
) -> None:
    player = recorder.player(volume=0.3)
    player.event(Event("seen", "mug is still there", data={"name": "mug"}))
    player.event(event)
    until(lambda: recorder.input("say").endswith(b"\n"))
    assert recorder.input("say").decode() == f"{said}\n"
    assert recorder.input("play") == tone(sound, 0.3)
    assert (recorder.folder / "say.arguments").read_text() == "0\n"
    assert player.report() == {"enabled": True, "problem": ""}


def test_a_name_is_neither_code_nor_an_option(recorder: Recorder) -> None:
    recorder.player().event(Event("appeared", "x", data={"name": HOSTILE}))
    until(lambda: recorder.input("say").endswith(b"\n"))
    assert recorder.input("say").decode() == f"{HOSTILE}\n"
    assert (recorder.folder / "say.arguments").read_text() == "0\n"
    assert not (recorder.folder / "pwned").exists()


def test_phrases_are_those_of_the_settings() -> None:
    settings = SoundSettings(say_saved="{name} gespeichert: {text} {other} {name}")
    event = Event("registered", "a {name}", data={"name": "{text}"})
    assert phrase(settings, "saved", event) == "{text} gespeichert: a {name} {other} {text}"


def test_files_replace_tones_and_an_empty_phrase_is_not_said(recorder: Recorder) -> None:
    (recorder.folder / "ding.wav").write_bytes(b"RIFF ding")
    player = recorder.player(recognized_file=f"{recorder.folder}/ding.wav", say_recognized="")
    player.event(Event("appeared", "x", data={"name": "mug"}))
    player.event(Event("refused", "end"))
    until(lambda: recorder.input("say") == b"end\n")
    assert recorder.input("play") == b"RIFF ding" + tone("refused", 0.5)


def test_publishing_never_waits_and_only_the_latest_are_kept(recorder: Recorder) -> None:
    slow = recorder.program(
        "slow", f"cat >> {recorder.folder}/slow.input; while [ ! -e go ]; do sleep 0.01; done"
    )
    player = recorder.player(player=(), speech=(slow,), timeout_s=60.0)
    player.event(Event("refused", "first"))
    until(lambda: recorder.input("slow") == b"first\n")
    start = time.monotonic()
    for number in range(1000):
        player.event(Event("refused", str(number)))
    assert time.monotonic() - start < 5
    (recorder.folder / "go").touch()
    last = [str(number) for number in range(1000 - QUEUE, 1000)]
    until(lambda: recorder.input("slow").decode().split() == ["first", *last])


def test_a_failure_is_logged_once_and_reported_until_it_works(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    broken = recorder.program(
        "broken", "echo x >> calls; [ -e works ] || { echo 'no sound card' >&2; exit 1; }"
    )
    player = recorder.player(player=(broken,), speech=())
    for calls in (1, 2):
        player.event(Event("refused", "x"))
        until(lambda: (recorder.folder / "calls").exists())
        until(lambda n=calls: (recorder.folder / "calls").read_text().count("x") == n)
    problem = f"{broken} failed with status 1: no sound card"
    until(lambda: player.report()["problem"] == problem)
    (recorder.folder / "works").touch()
    player.event(Event("refused", "x"))
    until(lambda: player.report()["problem"] == "")
    until(lambda: len(caplog.messages) == 2)
    assert caplog.messages == [f"no sound: {problem}", "sounds work again"]


def test_a_command_that_hangs_is_killed_and_the_next_one_plays(recorder: Recorder) -> None:
    hang = recorder.program("hang", "exec sleep 60")
    player = recorder.player(player=(hang,), timeout_s=0.1)
    player.event(Event("appeared", "x", data={"name": "mug"}))
    until(lambda: player.report()["problem"] == f"{hang} took longer than 0.1 s and was killed")
    assert recorder.input("say") == b"mug\n"


def test_a_missing_program_and_a_missing_file(recorder: Recorder) -> None:
    player = recorder.player(player=("/none/aplay",), speech=(), recognized_file="/none.wav")
    player.event(Event("refused", "x"))
    until(lambda: player.report()["problem"] == "/none/aplay cannot be run: No such file or directory")
    player.event(Event("appeared", "x"))
    until(lambda: player.report()["problem"] == "/none.wav cannot be read: No such file or directory")


def test_closing_cuts_off_what_is_playing(recorder: Recorder) -> None:
    player = recorder.player(player=(recorder.program("long", "touch begun; exec sleep 60"),))
    player.event(Event("appeared", "x", data={"name": "mug"}))
    until(lambda: (recorder.folder / "begun").exists())
    player.close()
    until(lambda: not any(thread.name == "sounds" for thread in threading.enumerate()))
    player.event(Event("appeared", "x", data={"name": "mug"}))
    assert recorder.input("say") == b""
    assert player.report()["problem"] == ""


@pytest.mark.skipif(shutil.which("aplay") is None, reason="alsa-utils is not installed")
@pytest.mark.parametrize(("card", "problem"), [("null", ""), ("no-such-card", "aplay failed with status 1")])
def test_aplay_plays_what_it_is_given(recorder: Recorder, card: str, problem: str) -> None:
    player = recorder.player(player=("aplay", "-q", "-D", card, "-"))
    player.event(Event("appeared", "x", data={"name": "mug"}))
    until(lambda: recorder.input("say") == b"mug\n")
    until(lambda: player.report()["problem"].startswith(problem))
    assert bool(player.report()["problem"]) == bool(problem)


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
def test_espeak_speaks_a_name_that_looks_like_an_option(recorder: Recorder) -> None:
    spoken = recorder.folder / "spoken.wav"
    player = recorder.player(player=(), speech=("espeak-ng", "--stdin", "-w", str(spoken)))
    player.event(Event("appeared", "x", data={"name": "--version"}))
    until(lambda: spoken.exists() and spoken.stat().st_size > 5000)
    assert player.report()["problem"] == ""


def test_the_daemon_plays_them_and_follows_the_settings(
    tmp_path: Path, recorder: Recorder, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    with daemon_in(tmp_path, monkeypatch) as daemon:
        daemon.configure(bundle.path)
        text = daemon.config.read_text()
        sound = f'[sound]\nenabled = true\nplayer = []\nspeech = ["{recorder.folder}/say"]\n'
        daemon.config.write_text(text + sound)
        daemon.start().up()
        daemon.service.bus.publish(Event("refused", "one"))
        until(lambda: recorder.input("say") == b"one\n")
        daemon.config.write_text(text + sound.replace("[sound]", '[sound]\nsay_refused = "no"'))
        daemon.service.reload()
        until(lambda: daemon.service.sounds.settings.say_refused == "no")
        daemon.service.bus.publish(Event("refused", "two"))
        until(lambda: recorder.input("say") == b"one\nno\n")
        assert daemon.service.call(daemon.service.report)["sound"] == {"enabled": True, "problem": ""}


def test_they_are_off_by_default() -> None:
    player = SoundPlayer(SoundSettings())
    player.event(Event("appeared", "x", data={"name": "mug"}))
    assert player.report() == {"enabled": False, "problem": ""}
    assert not any(thread.name == "sounds" for thread in threading.enumerate())


def test_the_settings_of_the_guide_speak(recorder: Recorder) -> None:
    text = (ROOT / "docs/device.md").read_text(encoding="utf-8")
    _, found, rest = text.partition("```toml\n[sound]")
    assert found
    settings = parse_settings("[sound]" + rest.partition("```")[0]).sound
    assert (settings.enabled, settings.player, settings.speech[0]) == (
        True,
        ("aplay", "-q", "-"),
        "espeak-ng",
    )
    event = Event("registered", "x", data={"name": "Tasse"})
    assert phrase(settings, "saved", event) == "Tasse gespeichert"
