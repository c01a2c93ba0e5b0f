"""Commands on installed models, with and without a running daemon."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.cli.main import main
from edge_siamese.daemon import client
from edge_siamese.errors import DaemonNotRunning
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.manifest import HeadInfo
from edge_siamese.models.signature import SIGNATURE
from tests.edge_siamese.daemon.running import Daemon, daemon_in, until
from tests.edge_siamese.signing import make_key, needs_keygen
from tests.tiny_bundle import write_tiny_bundle

pytest.importorskip("onnxruntime")

Command = Callable[..., str]


@pytest.fixture
def daemon(tmp_path: Path, nothing_shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """It is not started yet, and has no model, nor was it shipped with one."""
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure("")
        yield made


@pytest.fixture
def command(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*words: str, status: int = 0) -> str:
        assert main([*words, "--config", str(daemon.config)]) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    return run


@pytest.fixture
def second(tmp_path: Path) -> str:
    return str(write_tiny_bundle(tmp_path / "second", model_id="second"))


def test_list_without_models(command: Command) -> None:
    nothing = "no model is installed; install one: edge-siamese model install BUNDLE\n"
    assert command("model") == command("model", "list") == nothing
    assert json.loads(command("model", "--json")) == []
    assert command("model", "rollback", status=1).startswith(
        "edge-siamese: there is no previous model; install one: "
    )


def test_install_list_and_rollback(command: Command, bundle: Bundle, second: str, daemon: Daemon) -> None:
    result, line = command("model", "install", str(bundle.path)).splitlines()
    name = daemon.models.state().current
    assert result.startswith("tiny-0123456789ab passed its self-test, int8: onnxruntime ")
    assert line == f"{name} is now the current model; the daemon is not running"
    found = json.loads(command("model", "install", second, "--json"))
    assert (found["daemon"], Path(found["path"]).name) == (False, found["name"])
    rows = [row.split() for row in command("model", "list").splitlines()[2:]]
    assert rows == [[found["name"], "current"], [name, "previous"]]
    assert command("model", "rollback") == f"{name} is the current model again; the daemon is not running\n"
    listed = json.loads(command("model", "list", "--json"))
    assert [(item["name"], item["role"], item["problem"]) for item in listed] == [
        (name, "current", ""),
        (found["name"], "previous", ""),
    ]
    assert [item["used"] for item in listed] == [True, False]


def test_a_shipped_one_is_used_until_one_is_installed(
    command: Command, bundle: Bundle, daemon: Daemon, objects_shipped: Path
) -> None:
    write_tiny_bundle(objects_shipped.with_name("glyphs"))
    listed = command("model", "list").splitlines()
    assert [row.split() for row in listed[2:4]] == [["glyphs", "shipped"], ["objects", "shipped"]]
    assert listed[4:] == ["no model is installed; using objects, shipped with edge-siamese"]
    rows = json.loads(command("model", "--json"))
    assert [(item["name"], item["role"], item["path"], item["used"]) for item in rows] == [
        ("glyphs", "shipped", str(objects_shipped.with_name("glyphs")), False),
        ("objects", "shipped", str(objects_shipped), True),
    ]
    command("model", "install", str(bundle.path))
    listed = command("model", "list").splitlines()
    assert [row.split()[1] for row in listed[2:]] == ["current", "shipped", "shipped"]
    assert [item["used"] for item in json.loads(command("model", "--json"))] == [True, False, False]


def test_a_shipped_one_is_installed_by_its_name(
    command: Command, daemon: Daemon, objects_shipped: Path
) -> None:
    result, line = command("model", "install", "objects").splitlines()
    assert result.startswith("shipped-000000000000 passed its self-test, int8: onnxruntime ")
    assert line.startswith("shipped-000000000000-")
    assert daemon.models.current() == daemon.models.directory / line.split()[0]
    assert command("model", "install", "flowers", status=1) == (
        "edge-siamese: no bundle at flowers: no such directory; shipped bundles: objects\n"
    )


def test_settings_may_name_a_shipped_one(command: Command, daemon: Daemon, objects_shipped: Path) -> None:
    write_tiny_bundle(objects_shipped.with_name("glyphs"))
    daemon.configure("glyphs")
    assert command("model", "list").splitlines()[4:] == ["the settings name glyphs, which is used"]
    assert [item["used"] for item in json.loads(command("model", "--json"))] == [True, False]
    daemon.configure("flowers")
    assert command("model", "list").splitlines()[4:] == ["the settings name flowers, which is used"]


def test_a_running_daemon_loads_the_model(
    command: Command, bundle: Bundle, daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.start()
    until(daemon.socket.exists)
    daemon.told("model")
    daemon.service.call(lambda: daemon.service.bus.set_sinks([]))
    daemon.service.bus._switch.join()  # type: ignore[union-attr]
    capsys.readouterr()
    assert command("model", "install", str(bundle.path)).endswith(
        " is now the current model; the daemon uses it\n"
    )
    daemon.up()
    assert json.loads(command("model", "install", str(bundle.path), "--json"))["daemon"] is True


def test_an_unreachable_daemon_is_distinguished_from_a_stopped_one(
    command: Command, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(*_: Any, **__: Any) -> Any:
        raise DaemonNotRunning("permission denied at control.sock: add yourself to the group")

    monkeypatch.setattr(client, "request", deny)
    assert command("model", "install", str(bundle.path)).endswith(
        "is now the current model; the daemon cannot be notified: permission denied at control.sock: "
        "add yourself to the group\n"
    )


def test_a_bundle_in_the_settings_has_priority(
    command: Command, bundle: Bundle, second: str, daemon: Daemon
) -> None:
    daemon.configure(second)
    assert command("model", "install", str(bundle.path)).endswith(
        f"the daemon is not running; but the settings name {second}, which is used instead\n"
    )


def test_a_bundle_that_fails_its_self_test_is_not_installed(
    command: Command, daemon: Daemon, tmp_path: Path
) -> None:
    head = HeadInfo("euclidean", 12.0, 5.0, None)
    error = command("model", "install", str(write_tiny_bundle(tmp_path / "other", head=head)), status=1)
    assert error.startswith(
        "edge-siamese: int8 on onnxruntime: imaging: the same bytes; head: DIFFERENT SCORES from the workstation; "
    )
    assert command("model", "install", "/none", status=1) == (
        "edge-siamese: no bundle at /none: no such directory\n"
    )
    assert daemon.models.all() == []


def test_the_documented_sequence(command: Command, daemon: Daemon, objects_shipped: Path) -> None:
    """The commands of the guide's chapter on models, in their order."""
    write_tiny_bundle(objects_shipped.with_name("glyphs"), model_id="glyphs-000000000000")
    guide = (Path(__file__).parents[3] / "docs" / "device.md").read_text(encoding="utf-8")
    chapter = guide[guide.index("\n## Models\n") : guide.index("\n## The first object\n")]
    lines = re.findall(r"^(?:sudo )?edge-siamese (model .*)$", chapter, re.MULTILINE)
    assert lines == ["model list", "model install glyphs", "model install ./bundle", "model rollback"]
    assert command(*lines[0].split()).endswith(
        "no model is installed; using objects, shipped with edge-siamese\n"
    )
    command(*lines[1].split())
    assert command(*lines[3].split()) == "objects is the current model again; the daemon is not running\n"
    assert daemon.models.used() == objects_shipped
    assert command(*lines[3].split()).startswith("glyphs-000000000000-")
    own = write_tiny_bundle(daemon.home / "bundle", model_id="own")
    command("model", "install", str(own))
    assert command(*lines[3].split()).startswith("glyphs-000000000000-")


def test_foreign_text_is_escaped(command: Command, daemon: Daemon, tmp_path: Path) -> None:
    evil = write_tiny_bundle(tmp_path / "evil", model_id="a\x1b[2J\n<0>b\u202e")
    shown = r"a\x1b[2J\n<0>b\u202e"
    assert command("model", "install", str(evil)).startswith(f"{shown} passed its self-test, ")
    out = command("info", str(evil)) + command("info", str(evil), "--json") + command("model", "list")
    assert shown in out
    assert all(character.isprintable() or character == "\n" for character in out)


@needs_keygen
def test_with_trusted_keys_only_signed_models_are_installed(
    command: Command, daemon: Daemon, second: str, tmp_path: Path
) -> None:
    key = make_key(tmp_path / "release")
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("[model]", f'[model]\ntrusted_keys = ["{key.line}"]'))
    error = command("model", "install", second, status=1)
    assert error == (
        f"edge-siamese: {second} is not signed, and `trusted_keys` in [model] requires it: "
        "python -m export sign BUNDLE --key FILE\n"
    )
    key.sign(Path(second))
    command("model", "install", second)
    rows = command("model", "list").splitlines()
    assert rows[0].split() == ["model", "role", "problem", "signature"]
    assert rows[2].endswith(f"signed by {key.name}, a trusted key")
    (listed, *_) = json.loads(command("model", "list", "--json"))
    assert listed["signature"] == f"signed by {key.name}, a trusted key"
    described = command("info", second)
    assert re.search(rf"^signature +signed by {re.escape(key.name)}, a trusted key$", described, re.MULTILINE)
    assert json.loads(command("info", second, "--json"))["signature"].startswith("signed by ")
    (Path(second) / SIGNATURE).unlink()
    assert json.loads(command("info", second, "--json"))["signature"] == "not signed"
