"""`python -m export train`: output, resuming, refusals, and the state after Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.__main__ import main
from export.cli import train as train_command
from export.training import train as training
from export.training.network import load_run
from export.training.settings import TrainingSettings
from export.training.train import learning_rate
from tests.export.test_commands import surround, train_words, write_photos

ROOT = Path(__file__).parents[2]
SECONDS = 400
"""Longest wait for another process, on a machine that has much else to do."""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    surround(monkeypatch, tmp_path_factory.getbasetemp())


def test_output_appears_at_once_in_a_pipe(photos: Path, tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "export",
        "train",
        "--data",
        f"folder:{photos}",
        "--out",
        str(tmp_path / "run"),
    ]
    words += [
        "--encoder",
        "glyphnet",
        "--steps",
        "100000",
        "--validations",
        "50000",
        "--batch",
        "4",
        "--threads",
        "1",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONUNBUFFERED", None)
    process = subprocess.Popen(
        words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("step 2/100000  loss ")
        assert process.poll() is None  # a hundred thousand steps take hours
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine classes of four pictures; not to be changed."""
    return write_photos(tmp_path_factory.mktemp("train") / "photos", 9)


def test_train_says_what_it_kept_and_the_same_command_again_trains_nothing(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(train_words(photos, run)) == 0
    printed = capsys.readouterr()
    kept = re.fullmatch(
        r"the weights of step ([246]) of 6 were kept: one-shot (\d+\.\d\d%) on 2 validation classes \(chance 50\.0%\), "
        rf"0\.\d minutes of training, in {re.escape(str(run))}\n",
        printed.out,
    )
    assert kept
    assert [line.split()[1] for line in printed.err.splitlines()] == ["2/6", "4/6", "6/6"]
    provenance = load_run(run).provenance
    assert (str(provenance["step"]), f"{provenance['validation_accuracy']:.2%}") == kept.groups()

    written = {path: path.stat().st_mtime_ns for path in run.iterdir() if path.is_file()}
    assert main(train_words(photos, run)) == 0
    again = capsys.readouterr()
    assert (again.out, again.err) == (printed.out, "")
    assert {path: path.stat().st_mtime_ns for path in run.iterdir() if path.is_file()} == written

    assert main(train_words(photos, run, "--batch", "12")) == 1
    assert "holds a run with other settings (batch: 12, not 8); choose another" in capsys.readouterr().err
    assert main(train_words(photos, run, "--batch", "12", "--fresh")) == 0
    assert json.loads((run / "settings.json").read_text())["batch"] == 12


def test_a_run_does_not_go_on_with_other_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = write_photos(tmp_path / "photos", 8)
    assert main(train_words(mine, tmp_path / "run")) == 0
    shutil.copytree(mine / "class0", mine / "class8")
    capsys.readouterr()
    assert main(train_words(mine, tmp_path / "run")) == 1
    assert capsys.readouterr() == (
        "",
        f"error: {tmp_path / 'run'} holds a run on other classes or pictures of folder:{mine}; "
        "choose another --out, or --fresh\n",
    )
    assert main(train_words(mine, tmp_path / "run", "--fresh")) == 0


@pytest.mark.parametrize("name", ["settings.json", "data.json"])
@pytest.mark.parametrize("text", ["{half a fi", "[]", ""])
def test_a_damaged_file_of_a_run_is_one_line(
    photos: Path, tmp_path: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(train_words(photos, tmp_path / "run", "--steps", "1")) == 0
    (tmp_path / "run" / name).write_text(text)
    capsys.readouterr()
    assert main(train_words(photos, tmp_path / "run", "--steps", "1")) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'run' / name} is damaged (")
    assert error.endswith("); choose another --out, or --fresh\n") and error.count("\n") == 1


def test_options_of_train_reach_the_settings_and_the_rest_comes_from_the_recipe(
    photos: Path, tmp_path: Path
) -> None:
    options = "--steps 2 --batch 4 --objective cosine --learning-rate 0.001 --weight-decay 0.5 --seed 3"
    options += " --augmentation koch --symmetries --validations 1"
    assert main(train_words(photos, tmp_path / "run", *options.split())) == 0
    assert json.loads((tmp_path / "run" / "settings.json").read_text()) == {
        "data": f"folder:{photos}", "encoder": "tiny", "objective": "cosine", "seed": 3, "steps": 2,
        "batch": 4, "optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.5, "schedule": "cosine",
        "warmup": 0.03, "augmentation": "koch", "symmetries": True, "ema_fraction": 0.02, "validations": 1,
        "data_shares": "", "pictures_per_class": 1,
        "validation_episodes": 40, "start": "random", "finetuned_weight": 1.0, "margin": 0.25, "logit_scale": 24.0,
        "classifier_lr_multiplier": 1.0, "freeze_batch_statistics": False, "synthetic_alphabets": 0,
        "anti_forgetting_data": "", "anti_forgetting_weight": 4.0, "published_weight": 0.5, "initialization": "encoder",
        "max_gradient_norm": 0.0, "precision": "float32", "dropout": 0.0,
    }  # fmt: skip


def test_threads_are_those_that_were_asked_for(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    monkeypatch.setattr(
        train_command,
        "train",
        lambda *_, **__: training.TrainingResult(tmp_path, 1, 6, 0.5, None, 2, 2, 60.0),
    )
    assert main(train_words(photos, tmp_path, "--threads", "3")) == 0
    assert main(train_words(photos, tmp_path)) == 0
    assert asked == [3]


def test_an_interrupted_training_says_where_it_stopped_and_goes_on(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def stop(settings: TrainingSettings, step: int, epoch_steps: int) -> float:
        if step == 2:
            signal.raise_signal(signal.SIGINT)
        return learning_rate(settings, step, epoch_steps)

    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(training, "learning_rate", stop)
    assert main(train_words(photos, tmp_path / "run")) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "stopped at step 3 of 6; the same command resumes from there"
    assert signal.getsignal(signal.SIGINT) is handler
    monkeypatch.setattr(training, "learning_rate", learning_rate)
    assert main(train_words(photos, tmp_path / "run")) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("the weights of step ")
    assert [line.split()[1] for line in printed.err.splitlines()] == ["4/6", "6/6"]
    assert steps_of(tmp_path / "run") == [2, 4, 6]


def steps_of(run: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run / "history.jsonl").read_text().splitlines()]


def wait_for(true: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while not true():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, "the other process took too long"
        time.sleep(0.02)


@pytest.mark.system
def test_ctrl_c_in_a_real_process_is_130_and_the_same_command_goes_on(photos: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = [
        sys.executable,
        "-m",
        "export",
        "train",
        "--data",
        f"folder:{photos}",
        "--out",
        str(run),
    ]
    words += [
        "--encoder",
        "glyphnet",
        "--steps",
        "60",
        "--batch",
        "8",
        "--validations",
        "6",
        "--threads",
        "1",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(words, cwd=ROOT, env=environment, **pipes)
    try:
        history = run / "history.jsonl"
        wait_for(lambda: history.exists() and "\n" in history.read_text(), process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    stopped = re.fullmatch(
        r"stopped at step (\d+) of 60; the same command resumes from there", err.splitlines()[-1]
    )
    assert stopped and 10 <= int(stopped[1]) < 60
    done = subprocess.run(words, cwd=ROOT, env=environment, timeout=SECONDS, **pipes)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("the weights of step ")
    shown = [
        int(line.split()[1].split("/")[0]) for line in done.stderr.splitlines() if line.startswith("step ")
    ]
    assert shown == [step for step in (10, 20, 30, 40, 50, 60) if step > int(stopped[1])]
    assert steps_of(run) == [10, 20, 30, 40, 50, 60]


def test_names_that_are_not_utf8_work_in_a_locale_that_is_not_utf8(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/f\xfcr photos"))
    write_photos(folder, 6)
    (folder / "class0").rename(folder / os.fsdecode(b"\xc4pfel"))
    (folder / "class1").rename(folder / "Äpfel")
    (folder / os.fsdecode(b"\xff.txt")).write_text("no picture")
    words: list[str | Path] = [sys.executable, "-m", "export"]
    train = [
        "train",
        "--encoder",
        "glyphnet",
        "--steps",
        "2",
        "--batch",
        "8",
        "--validations",
        "1",
        "--threads",
        "1",
    ]
    # Python would switch to UTF-8 in this locale by itself.
    environment = {
        "PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
        "EDGE_SIAMESE_CACHE": str(tmp_path / "cache"),
    }  # fmt: skip
    run = tmp_path / "out" / "train"
    pipes = {"capture_output": True, "check": False, "timeout": SECONDS, "cwd": ROOT, "env": environment}
    data: list[bytes | str | Path] = ["--data", b"folder:" + os.fsencode(folder), "--out", run]
    trained, reported = (
        subprocess.run([*words, *options], **pipes)  # type: ignore[call-overload]
        for options in ([*train, *data], ["report", tmp_path / "out"])
    )
    assert (trained.returncode, reported.returncode) == (0, 0), trained.stderr + reported.stderr
    assert rb"WebP: \xff.txt" in trained.stderr
    provenance = json.loads((run / "data.json").read_text(encoding="utf-8"))
    assert provenance["data"] == f"folder:{tmp_path}/f\\xfcr photos"
    assert "f\\xfcr photos" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
