"""A full disk at any write: one clear line, nothing half-written, and the same command goes on when there is space."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edge_siamese.errors import ExportError
from edge_siamese.system.files import write_atomically
from export.__main__ import main
from export.conversion.silence import in_child
from export.training import checkpoint
from export.training.checkpoint import HISTORY, History
from export.training.network import load_run
from tests.export.test_commands import surround, train_words, write_photos


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    surround(monkeypatch, tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("full-disk") / "photos", 9)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "small"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def full_from(write: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let atomic writes fail for lack of space, from the given one on; returns the names of the files."""
    names: list[str] = []

    def write_or_fail(path: Path, content: Callable[[Any], Any]) -> None:
        names.append(path.name)

        def fill(file: Any) -> None:
            content(file)
            if len(names) > write:
                file.truncate(7)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        write_atomically(path, fill)

    monkeypatch.setattr(checkpoint, "write_atomically", write_or_fail)
    monkeypatch.setattr(
        checkpoint,
        "write_text_atomically",
        lambda path, text: write_or_fail(path, lambda file: file.write(text.encode())),
    )
    return names


def test_a_disk_that_fills_up_at_any_write_of_a_training(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as unlimited:
        every = full_from(1000, unlimited)
        assert main(train_words(photos, tmp_path / "whole")) == 0
    assert {"settings.json", "data.json", "history.jsonl", "best.pt", "checkpoint.pt"} == set(every)
    expected = load_run(tmp_path / "whole").model_id
    for write in range(len(every)):
        run = tmp_path / f"run{write}"
        capsys.readouterr()
        with monkeypatch.context() as limited:
            full_from(write, limited)
            assert main(train_words(photos, run)) == 1
        assert capsys.readouterr().err.splitlines()[-1] == (
            f"error: no space left on the disk for {run / every[write]}: free some, and run the same command again"
        )
        assert not [path for path in run.iterdir() if path.name.startswith(".")]  # no temporary file is left
        assert main(train_words(photos, run)) == 0
        assert load_run(run).model_id == expected


def test_the_last_line_of_a_history_may_be_incomplete(
    tmp_path: Path,
) -> None:
    with History(tmp_path, 0, True) as history:
        history.add_loss(1.0)
        history.add_validation(1, 0.5, 0.1, 1.0)
    with (tmp_path / HISTORY).open("a") as file:
        file.write('{"step": 2, "lo')
    with History(tmp_path, 1, True):
        pass
    assert len((tmp_path / HISTORY).read_text().splitlines()) == 1


def test_a_checkpoint_on_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "checkpoint.pt"
    checkpoint.save(path, {"step": 1})
    with pytest.raises(OSError, match="No space left on device") as error:
        checkpoint.save(path, {"weights": torch.zeros(100_000)})
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert checkpoint.load(path) == {"step": 1}
    assert [entry.name for entry in small_disk.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("save", [np.save, np.savez])
def test_arrays_on_a_full_disk(small_disk: Path, save: Callable[..., None]) -> None:
    path = small_disk / "golden.npz"
    with pytest.raises(OSError, match="No space left on device") as error:
        write_atomically(path, lambda file: save(file, np.zeros(100_000)))
    # numpy does not say why it wrote less than it was asked to.
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(path))
    assert list(small_disk.iterdir()) == []


def test_curves_on_a_full_disk_do_not_end_a_training(
    small_disk: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with History(small_disk, 0, True) as history:
        (small_disk / "other").write_bytes(b"x" * os.statvfs(small_disk).f_bavail * 4096)
        for step in range(1, 5000):
            history.curves.add(step, loss=1.0)
        history.curves.close()
    assert caplog.messages == ["the curves for TensorBoard are not written: No space left on device"]
    assert "Traceback" not in capfd.readouterr().err


def test_a_converter_on_a_full_disk(small_disk: Path) -> None:
    out = small_disk / "encoder.onnx"
    with pytest.raises(ExportError, match=r"^converting failed: no space left on the disk for .*: free some"):
        in_child("converting", lambda: out.write_bytes(bytes(1_000_000)), out)
    assert list(small_disk.iterdir()) == []


def test_an_error_of_a_write_names_its_file(tmp_path: Path) -> None:
    def fail(error: OSError) -> None:
        raise error

    with pytest.raises(OSError, match="Input/output error") as error:
        write_atomically(tmp_path / "a", lambda _: fail(OSError(errno.EIO, "Input/output error")))
    assert str(error.value) == f"[Errno {errno.EIO}] Input/output error: '{tmp_path / 'a'}'"
    with pytest.raises(OSError, match=r"^other$"):
        write_atomically(tmp_path / "a", lambda _: fail(OSError("other")))
    assert list(tmp_path.iterdir()) == []
