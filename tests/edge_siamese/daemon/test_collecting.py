"""Pictures for training: given and kept only with the owner's consent."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_siamese.cli.main import main
from edge_siamese.daemon.client import reload
from edge_siamese.errors import ControlError, SupportError
from edge_siamese.models.bundle import Bundle
from edge_siamese.store import errors
from edge_siamese.store.picture_archive import open_pictures
from tests.edge_siamese.daemon.running import MUG, PEN, Daemon, daemon_in, model_of, until

pytest.importorskip("onnxruntime")

REFUSAL = "its owner can allow it: set collect_pictures = true in [training] of {config}, then run edge-siamese reload"


def set_consent(daemon: Daemon, given: bool) -> None:
    """Change the settings file."""
    text = daemon.config.read_text().partition("\n[training]")[0]
    daemon.config.write_text(f"{text}\n[training]\ncollect_pictures = {str(given).lower()}\n")


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        set_consent(made, True)
        made.start().up()
        made.service.call(lambda: made.service.bus.set_sinks([]))
        yield made


def collected(daemon: Daemon) -> list[tuple[str, str | None, str | None, str]]:
    """Kind, name, recognized object and model of each picture of a fetched archive."""
    path = daemon.home / "pictures.zip"
    assert main(["objects", "collect", str(path), "--config", str(daemon.config)]) == 0
    with open_pictures(path, "refused") as archive:
        archive.check_pictures()
        return [(one.kind, one.name, one.recognized, one.model_id) for one in archive.manifest.pictures]


def test_views_and_mistakes_are_given(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    daemon.ask("wrong", actual="Cup")
    daemon.show(MUG, None)
    model = model_of(daemon)
    capsys.readouterr()
    assert collected(daemon) == [("view", "mug", None, model), ("wrong", "Cup", "mug", model)]
    size = (daemon.home / "pictures.zip").stat().st_size
    assert capsys.readouterr().out == f"wrote 2 pictures to {daemon.home}/pictures.zip ({size:,} bytes)\n"
    words = [
        "objects",
        "collect",
        str(daemon.home / "pictures.zip"),
        "--config",
        str(daemon.config),
        "--json",
    ]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    size = (daemon.home / "pictures.zip").stat().st_size
    assert (found["pictures"], found["without_pictures"], found["bytes"]) == (2, 0, size)
    assert list((daemon.state / "outgoing").iterdir()) == []


def test_an_archive_goes_to_standard_output_but_not_to_a_terminal(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.learn("mug", MUG)
    output = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["objects", "collect", "-", "--config", str(daemon.config)]) == 0
    path = daemon.home / "piped.zip"
    path.write_bytes(output.buffer.getvalue())  # type: ignore[attr-defined]
    with open_pictures(path, "refused") as archive:
        assert len(archive.manifest.pictures) == 1
    monkeypatch.setattr(output, "isatty", lambda: True)
    assert main(["objects", "collect", "-", "--config", str(daemon.config)]) == 1
    assert capsys.readouterr().err == (
        "edge-siamese: an archive is not written to a terminal: name a file, or redirect the output\n"
    )


def test_without_consent_nothing_is_given_or_kept(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    daemon.ask("wrong")
    kept = daemon.state / "mistakes"
    assert len(list(kept.iterdir())) == 1
    set_consent(daemon, False)
    reload(daemon.socket)
    assert not kept.exists()
    until(lambda: not daemon.service.loader.busy)
    words = ["objects", "collect", str(daemon.home / "none.zip"), "--config", str(daemon.config)]
    capsys.readouterr()
    assert main(words) == 1
    assert capsys.readouterr().err == (
        f"edge-siamese: this device does not give its pictures for training; {REFUSAL.format(config=daemon.config)}\n"
    )
    assert not (daemon.home / "none.zip").exists()
    with pytest.raises(ControlError) as error:
        daemon.ask("wrong", actual="cup")
    assert str(error.value) == (
        f"this device keeps no names for training; {REFUSAL.format(config=daemon.config)}"
    )
    daemon.learn("pen", PEN)
    daemon.show(PEN, "pen")
    daemon.ask("wrong")
    assert not kept.exists()


def test_consent_that_was_withdrawn_while_the_daemon_was_off_counts(daemon: Daemon) -> None:
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    daemon.ask("wrong")
    daemon.stop()
    assert (daemon.state / "mistakes").exists()
    set_consent(daemon, False)
    daemon.start().up()
    assert not (daemon.state / "mistakes").exists()


def test_mistakes_survive_a_restart_and_go_with_an_undo(daemon: Daemon) -> None:
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    daemon.ask("wrong", actual="cup")
    daemon.stop()
    daemon.start().up()
    assert [name for _, name, *_ in collected(daemon)] == ["mug", "cup"]
    daemon.ask("undo")
    assert [name for _, name, *_ in collected(daemon)] == ["mug"]


def test_a_mistake_that_cannot_be_kept_is_reported(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "is_nearly_full", lambda _: True)
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    assert daemon.ask("wrong", actual="cup")["object"]["negatives"] == 1
    (text,) = daemon.events("store")
    assert text.startswith(
        "the picture of a wrong recognition is not kept for training: the disk is nearly full"
    )


def test_an_earlier_decision_can_be_named(daemon: Daemon) -> None:
    daemon.service.observations.decisions.enabled = True
    daemon.learn("mug", MUG)
    daemon.show(MUG, "mug")
    (event, *_) = [one for one in daemon.service.bus.latest(100) if one.kind == "appeared"]
    decision = event.data["decision"]
    with pytest.raises(SupportError, match=r'^"mug" is what was recognized; name what it really was$'):
        daemon.ask("wrong", decision=decision, actual="MUG")
    daemon.ask("wrong", decision=decision, actual="cup")
    assert ("wrong", "cup", "mug", model_of(daemon)) in collected(daemon)
