"""Collecting from devices: a running daemon, its command, and a program `ssh` that runs commands on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from edge_siamese.cli.main import main as device_main
from edge_siamese.daemon.client import reload
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.imaging import Preprocessing
from export.__main__ import main
from export.cli import collect as collect_module
from export.data import load_splits
from tests.documented import commands
from tests.edge_siamese.daemon.running import CUP, MUG, Daemon, daemon_in
from tests.edge_siamese.daemon.test_collecting import set_consent
from tests.tiny_network import pictures

from .conftest import script

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[3]


@contextmanager
def collecting_daemon(home: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """The daemon of a device whose owner allows collecting pictures, with its program `edge-siamese` in `home`."""
    with daemon_in(home, monkeypatch) as made:
        made.configure(bundle.path)
        set_consent(made, True)
        command = f'{sys.executable} -m edge_siamese "$@" --config {made.config}'
        script(home / "edge-siamese", f"#!/bin/sh\nPYTHONPATH={ROOT} exec {command}\n")
        made.start().up()
        made.service.call(lambda: made.service.bus.set_sinks([]))
        yield made


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, ssh: None) -> Iterator[Daemon]:
    with collecting_daemon(tmp_path / "device", bundle, monkeypatch) as made:
        yield made


Collect = Callable[..., tuple[int, list[str], list[str]]]


@pytest.fixture
def collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Collect:
    """Run the command in the test's folder; its status, and the lines of both outputs."""
    monkeypatch.chdir(tmp_path)

    def run(
        *words: str, command: object = tmp_path / "device" / "edge-siamese"
    ) -> tuple[int, list[str], list[str]]:
        capsys.readouterr()
        status = main(["collect", *words, "--command", str(command), "--no-sudo"])
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err.splitlines()

    return run


def registered(daemon: Daemon, count: int) -> None:
    """Register objects with two views each."""
    shapes = pictures(40)[..., 0]
    for number in range(count):
        for view, shape in enumerate((shapes[20 + number], shapes[20 + number].T)):
            picture = np.kron(shape, np.ones((8, 8), np.uint8))
            daemon.service.api.register(f"thing {number}", view=view == 1, force=True, pictures=[picture])


def test_pictures_of_a_device_become_classes_to_train_on(
    daemon: Daemon, collect: Collect, tmp_path: Path
) -> None:
    daemon.learn("mug", MUG)
    daemon.show(MUG // 8 * 7, "mug")  # another frame
    daemon.ask("wrong", actual="thing 3")
    daemon.learn("cup", CUP)
    daemon.show(CUP // 8 * 7, "cup")
    daemon.ask("wrong")
    registered(daemon, 6)
    status, lines, errors = collect("pi@door.local", "--out", "collected")
    assert (status, errors) == (0, ["pi@door.local: waiting for its pictures"])
    assert lines == [
        "pi@door.local: 16 new pictures (14 of registered objects, "
        "1 of labeled wrong recognitions, 1 of unlabeled wrong recognitions)",
        "collected has 15 pictures of 8 objects, and collected-strangers 1 picture of other things",
        "little to train on: 2 objects for training, the others are held out; with fewer than 10 the pipeline advises "
        "against training, and compares the shipped bundle",
        "next: python -m export pipeline --data folder:collected,anything:collected-strangers --out build/collected",
    ]
    assert len(list((tmp_path / "collected" / "thing 3").glob("door.local-*.png"))) == 3
    found = json.loads((tmp_path / "collected" / "collected.json").read_text())
    (mistake,) = [one for one in found if one["kind"] == "wrong" and one["name"]]
    assert (mistake["name"], mistake["recognized"], mistake["host"]) == ("thing 3", "mug", "pi@door.local")
    assert mistake["model_id"] == daemon.ask("status")["model"]["model_id"]

    data = "folder:collected,anything:collected-strangers"
    small = Preprocessing(24, 24)
    splits = load_splits(data, small, training_preprocessing=small)
    names = [name for one in (splits.train, splits.validation, splits.evaluation) for name in one.class_names]
    assert sorted(names) == [f"thing {number}" for number in range(6)]
    assert [warning.split(" in ")[0] for warning in splits.provenance["warnings"]] == [
        "class cup",
        "class mug",
    ]

    status, lines, _ = collect("pi@door.local", "--out", "collected")
    assert (status, lines[0]) == (0, "pi@door.local: 0 new pictures; 16 already fetched")


def test_several_devices_and_those_that_fail(daemon: Daemon, collect: Collect, tmp_path: Path) -> None:
    daemon.learn("mug", MUG)
    status, lines, errors = collect("pi@door.local", "pi@shelf.away", "pi@hall.local")
    assert (status, errors[-1]) == (1, "error: 1 of 3 devices failed: pi@shelf.away")
    assert lines == [
        "pi@door.local: 1 new picture (1 of registered objects)",
        "pi@shelf.away: FAILED: cannot connect: ssh: connect to host pi@shelf.away: timed out",
        "pi@hall.local: 0 new pictures; 1 already fetched",
        "collected has 1 picture of 1 object",
        "too few to train on: 0 objects with at least two pictures, and 6 are needed; register more, or add folders of your "
        "own photos to collected",
    ]
    status, _, errors = collect("pi@shelf.away", "--json")
    assert (status, errors[-1]) == (1, "error: 1 of 1 devices failed: pi@shelf.away")


def test_the_commands_of_the_guide(daemon: Daemon, collect: Collect, tmp_path: Path) -> None:
    reloading, wrong, archive = commands("docs/own-photos.md", "edge-siamese reload")
    collecting, look, pipeline = commands("docs/own-photos.md", ".venv/bin/python -m export collect")
    config = ["--config", str(daemon.config)]
    assert device_main([*reloading[1:], *config]) == 0
    daemon.learn("mug", MUG)
    daemon.show(MUG // 8 * 7, "mug")
    assert device_main([*wrong[1:], *config]) == 0
    daemon.learn("cup", CUP)
    daemon.show(CUP // 8 * 7, "cup")
    daemon.ask("wrong")
    registered(daemon, 6)
    assert device_main([*archive[1:], *config]) == 0
    status, lines, _ = collect(*collecting[4:])
    assert status == 0
    assert lines[0].startswith("pi@door.local: 16 new pictures (")
    assert lines[1] == "pi@shelf.local: 0 new pictures; 16 already fetched"
    assert lines[-1] == f"next: python {' '.join(pipeline[1:])}"
    assert len(list((tmp_path / "collected" / "teapot").glob("door.local-*.png"))) == 1
    assert main([*look[3:], "--encoder", "glyphnet"]) == 0


def test_a_dry_run_writes_nothing(daemon: Daemon, collect: Collect, tmp_path: Path) -> None:
    daemon.learn("mug", MUG)
    status, lines, _ = collect("pi@door.local", "--dry-run")
    assert status == 0
    assert lines[:2] == [
        "pi@door.local: 1 new picture (1 of registered objects), not written",
        "collected would have 1 picture of 1 object",
    ]
    assert not (tmp_path / "collected").exists()
    status, lines, _ = collect("pi@door.local", "--dry-run", "--json")
    found = json.loads("\n".join(lines))
    assert found["devices"][0]["fetched"]["views"] == 1
    assert found["contents"] == {"objects": 1, "pictures": 1, "usable": 0, "one_view": 0, "strangers": 0}


def test_a_device_without_consent_refuses(daemon: Daemon, collect: Collect, tmp_path: Path) -> None:
    daemon.learn("mug", MUG)
    set_consent(daemon, False)
    reload(daemon.socket)
    status, lines, _ = collect("pi@door.local")
    assert (status, lines) == (
        1,
        [
            "pi@door.local: FAILED: this device does not give its pictures for training; its owner can allow it: set "
            f"collect_pictures = true in [training] of {daemon.config}, then run edge-siamese reload"
        ],
    )
    assert not (tmp_path / "collected").exists()


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (
            "echo no zip",
            "its response is damaged, or not an archive: File is not a zip file; nothing was collected",
        ),
        ("true", "its response is damaged, or not an archive: File is not a zip file; nothing was collected"),
        ("printf 'a\\033[2Jb\\n' >&2; exit 3", "a\\x1b[2Jb"),
        ("exit 4", "no message"),
        ("exec no-such-program", "not found; is edge-siamese installed there?"),
        ("head -c 3000000 /dev/zero", "it sends more than 2,000,000 bytes"),
    ],
)
def test_what_a_device_sends_is_not_trusted(
    ssh: None, collect: Collect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, problem: str
) -> None:
    monkeypatch.setattr(collect_module, "MAX_ARCHIVE_BYTES", 2_000_000)
    device = script(tmp_path / "device", f"#!/bin/sh\n{answer}\n")
    status, lines, errors = collect("pi@door.local", command=device)
    assert (status, errors[-1]) == (1, "error: 1 of 1 devices failed: pi@door.local")
    (line,) = lines
    assert line.startswith("pi@door.local: FAILED: ") and line.endswith(problem)
    assert not (tmp_path / "collected").exists()


def test_a_device_that_does_not_answer_is_given_up(ssh: None, collect: Collect, tmp_path: Path) -> None:
    device = script(tmp_path / "device", "#!/bin/sh\nexec sleep 30\n")
    status, lines, _ = collect("pi@door.local", "--timeout", "1", command=device)
    assert (status, lines) == (1, ["pi@door.local: FAILED: no answer within 1 s"])


def test_a_host_that_ssh_would_misread_is_refused(collect: Collect) -> None:
    status, lines, errors = collect("pi@-oProxyCommand=x")
    assert (status, lines) == (1, [])
    assert errors == ["error: 'pi@-oProxyCommand=x' is not a host: HOST or USER@HOST is needed"]
