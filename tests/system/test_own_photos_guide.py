"""The pipelines of docs/own-photos.md on a folder of pictures, with and without cross-validation."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from export import records
from export.__main__ import main
from export.evaluation.benchmark import benchmark
from export.evaluation.verdict import SHIPPED, TRAINED, Verdict
from tests.documented import commands
from tests.export.test_commands import surround

ROOT = Path(__file__).parents[2]
GUIDE = "docs/own-photos.md"
PIPELINE = ".venv/bin/python -m export pipeline"
TEXT = (ROOT / GUIDE).read_text(encoding="utf-8")


def one_round(*arguments: object, **options: object) -> object:
    bundle, splits, _ = arguments
    return benchmark(bundle, splits, 1, runs=5, **options)  # type: ignore[arg-type]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """24 classes, as in the guide, of the pictures of examples/: as they are, and upside down in other colors."""
    surround(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("export.pipeline.benchmark", one_round)
    for path in sorted((ROOT / "examples" / "pictures").glob("*/*.webp")):
        with Image.open(path) as picture:
            plain = picture.convert("RGB")
        changed = Image.fromarray(np.roll(np.asarray(ImageOps.flip(plain)), 1, axis=2))
        for name, image in ((path.parent.name, plain), (f"changed-{path.parent.name}", changed)):
            place = tmp_path / "photos" / name
            place.mkdir(parents=True, exist_ok=True)
            image.save(place / f"{path.stem}.png")
    return tmp_path / "photos"


def documented(start: str) -> list[re.Pattern[str]]:
    """The lines of an example of output in the guide as patterns, in which figures and times may differ."""
    block = TEXT.partition(f"```\n{start}")
    assert block[1], f"{GUIDE} shows no output that starts with: {start}"
    lines = (start + block[2].partition("\n```")[0]).splitlines()
    patterns = []
    for line in lines:
        pattern = re.escape(line).replace("about\\ 52\\ minutes", "about .+")
        patterns.append(re.compile(re.sub(r"\\?[+-]\d+\\\.\d", r"[+-]\\d+\\.\\d", pattern)))
    return patterns


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Verdict, list[str], list[str]]:
    """Run a line of the guide with a small encoder; the verdict, and the lines of both outputs."""
    assert words[:4] == [".venv/bin/python", "-m", "export", "pipeline"]
    # So small an encoder loses more in int8 than the default allows.
    small = ["--encoder", "tiny", "--int8-budget", "40"]
    status = main([*words[3:], *small])
    said = capsys.readouterr()
    assert status == 0, said.err
    out = Path(words[words.index("--out") + 1])
    return records.read(Verdict, out / "verdict.json"), said.out.splitlines(), said.err.splitlines()


@pytest.mark.usefixtures("photos")
def test_the_pipelines_of_the_guide_print_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    (train,) = commands(GUIDE, f"{PIPELINE} --data folder:photos --out build/photos")
    without, smaller = commands(GUIDE, f"{PIPELINE} --data folder:photos --folds 0")
    announcement, first_fold = documented("cross-validation: ")
    (sentence,) = documented("Use the shipped bundle objects: ")

    verdict, printed, progress = run(train, capsys)
    assert any(announcement.fullmatch(line) for line in progress)
    assert any(first_fold.fullmatch(line) for line in progress)
    assert (verdict.folds, verdict.classes, verdict.way, verdict.training_classes) == (5, 24, 4, 14)
    assert "which encoder: 4-way one-shot, chance 25.0%; 95 % intervals over classes" in printed
    assert verdict.measured in printed and verdict.measured.startswith(
        "5-fold cross-validation: each of the 24 classes is tested by an encoder that was trained without it."
    )
    assert verdict.sentence in printed
    _check_choice(verdict, sentence)

    verdict, printed, progress = run(without, capsys)
    assert (verdict.folds, verdict.classes, verdict.way, verdict.training_classes) == (0, 5, 5, 14)
    assert not any("cross-validation" in line or line.startswith("fold ") for line in progress)
    assert verdict.measured in printed and verdict.sentence in printed
    assert verdict.measured == (
        "The same 2,000 episodes for all, of 5 classes that were not trained on; 14 were."
    )
    assert "(5 classes are too few to show one)" in verdict.sentence

    verdict, printed, progress = run(smaller, capsys)
    assert (verdict.folds, verdict.classes, verdict.way) == (8, 24, 3)
    assert any(
        line.startswith(
            "cross-validation: 8 more training runs like this one, each without 3 of the 24 classes,"
        )
        for line in progress
    )
    assert "fold 8 of 8: training on 17 classes, testing 3 others" in progress
    assert verdict.measured in printed and verdict.sentence in printed
    assert "8-fold cross-validation" in Path("build/photos/report.html").read_text(encoding="utf-8")
    _check_choice(verdict, sentence)


def _check_choice(verdict: Verdict, documented_sentence: re.Pattern[str]) -> None:
    """The shipped bundle is far better than so small an encoder, and the sentence is that of the guide."""
    accuracy = {candidate.name: candidate.accuracy for candidate in verdict.candidates}
    assert accuracy[SHIPPED] > accuracy[TRAINED] + 0.05
    assert verdict.choice == SHIPPED
    found = documented_sentence.match(verdict.sentence)
    assert found and verdict.sentence[found.end() :].strip() == verdict.caution
