"""The report: every part is shown, missing parts are left out, nothing is fetched, nothing unescaped."""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from edge_siamese.errors import DataError
from edge_siamese.models.manifest import VERSION, EmbeddingInfo, EncoderInfo, HeadInfo, Manifest, ModelFile
from edge_siamese.recognition.imaging import Preprocessing
from export import records
from export.__main__ import main
from export.conversion.verification import Verification as BundleVerification
from export.conversion.verification import VerifiedFile
from export.data.data_card import ClassCount, DataCard, Finding, Group, SplitCount
from export.data.embedded_pictures import as_data_uri
from export.evaluation import metrics
from export.evaluation.benchmark import Accuracy, Benchmark, BenchmarkRow
from export.evaluation.class_analysis import ClassAnalysis, ClassResult, Confusion, MapPoint
from export.evaluation.evaluate import DataUsed, EncoderUsed, Evaluation, Mistake
from export.evaluation.one_shot import EpisodesResult, OfficialTrials
from export.evaluation.open_set import CurvePoint, Identification, OpenSet
from export.evaluation.verdict import SHIPPED, TRAINED, Candidate, Difference, Verdict
from export.evaluation.verification import ErrorCurve, Histogram, ReliabilityBin, ThresholdCheck, Verification
from export.reporting.report import (
    Demo,
    DemoQuery,
    DemoSupport,
    cards,
    confusion_matrix,
    embedding_map,
    headline,
    read_inputs,
    render,
    write_report,
)
from tests.export.scene_results import BASELINE, RESULT

PICTURE = as_data_uri(np.full((4, 4, 1), 200, dtype=np.uint8))
GRID = tuple(float(x) for x in np.linspace(-5, 5, 11))


SETTINGS = {
    "encoder": "glyphnet", "symmetries": True, "steps": 1000, "start": "published", "finetuned_weight": 0.5,
    "anti_forgetting_data": "my photos",
}  # fmt: skip


def evaluation(precision: str, runtime: str, correct: int) -> Evaluation:
    interval = metrics.wilson_interval(correct, 400)
    verification = Verification(
        pairs=20_000,
        accuracy=0.951,
        low=0.948,
        high=0.954,
        best_accuracy=0.953,
        best_threshold=0.61,
        eer=0.0481,
        ece=0.0117,
        brier=0.0382,
        reliability=tuple(ReliabilityBin((i + 0.5) / 15, (i + 0.5) / 15, i / 14, 100) for i in range(15)),
        histogram=Histogram(GRID, (0.1,) * 10, (0.1,) * 10),
        curve=ErrorCurve(
            GRID,
            tuple(np.linspace(1, 0, 11)),
            tuple(np.linspace(0, 1, 11)),
            "3,992,368 pairs of images",
            3_992_368,
            5_010,
            0.021,
        ),
        thresholds=(ThresholdCheck(1e-2, 0.8726, 0.0039, 0.344),),
    )
    return Evaluation(
        encoder=EncoderUsed("glyphnet-0123456789ab", runtime, precision, "requested"),
        data=DataUsed("omniglot evaluation", "evaluation", 659, 20, 13_180),
        official=OfficialTrials(correct, 400, correct / 400, interval.low, interval.high, ()),
        episodes=(EpisodesResult(20, 1, True, 2000, 1, "nearest", 0.911, 0.908, 0.914),),
        skipped=("5-way 9-shot within groups: too few",),
        verification=verification,
        mistakes=(Mistake("run01, item 3", PICTURE, PICTURE, PICTURE, "class <3>", "class 7", 0.12, 0.93),),
        mistakes_of="the 400 official trials",
        seconds=9.0,
        seed=0,
        command="python -m export evaluate build/omniglot",
        machine="a test machine",
        created="2026-01-02T03:04:05+00:00",
    )


def open_set() -> OpenSet:
    """Five registered; at 10 % and 1 % of the unknown, and at a stated threshold."""
    points = (
        Identification(0.1, 0.31, 0.1, 0.961, 0.955, 0.966),
        Identification(0.01, 0.79, 0.01, 0.815, 0.799, 0.829),
    )
    return OpenSet(
        registered=5,
        unknown=20,
        episodes=2000,
        known_queries=10_000,
        unknown_queries=40_000,
        closed_rate=0.987,
        points=points,
        not_stated=(0.001,),
        stated=(Identification(0.01, 0.8726, 0.0068, 0.766, 0.756, 0.775),),
    )


def row(precision: str, p50: float, size: int, speed_up: float | None, note: str = "") -> BenchmarkRow:
    return BenchmarkRow(
        "tflite",
        precision,
        "ai-edge-litert",
        "2.3.0",
        "3.11.2",
        1,
        size,
        23_100_000,
        p50,
        1.3 * p50,
        (p50,),
        speed_up,
        speed_up,
        speed_up,
        Accuracy(0.96, 0.936, 0.975),
        200.0,
        800.0,
        note,
    )


def benchmark() -> Benchmark:
    rows = (row("fp32", 0.519, 1_652_000, None), row("int8", 0.232, 438_000, 2.24, "a note on int8"))
    return Benchmark(
        "glyphnet-0123456789ab",
        rows,
        ("tflite-runtime works nowhere here",),
        "400 official trials",
        5,
        300,
        "python -m export benchmark build/omniglot",
        "a test machine",
        "2026-01-02T03:04:05+00:00",
    )


def manifest() -> Manifest:
    quantization = [
        {
            "format": "tflite",
            "chosen": "percentile",
            "budget_points": 0.5,
            "within_budget": True,
            "attempts": [
                {"method": "min-max", "loss_points": 0.75, "seconds": 9.0, "accepted": False, "detail": ""},
                {
                    "method": "percentile",
                    "loss_points": 0.25,
                    "seconds": 9.0,
                    "accepted": True,
                    "detail": "all layers",
                },
            ],
        }
    ]
    return Manifest(
        version=VERSION,
        model_id="glyphnet-0123456789ab",
        created="2026-01-02T03:04:05+00:00",
        encoder=EncoderInfo("glyphnet", 371_000, 23_100_000, "a citation"),
        input=Preprocessing(56, 56),
        embedding=EmbeddingInfo(64, "l2"),
        head=HeadInfo("euclidean", 8.8374, 7.9223, None),
        thresholds=(),
        models=(ModelFile("encoder.int8.tflite", 438_000, "0" * 64, "tflite", "int8", "percentile", "int8"),),
        attachments=(),
        metrics={},
        provenance={
            "seed": 0,
            "commit": "4f0c12ab77de",
            "versions": {"torch": "2.13.0"},
            "quantization": quantization,
        },
    )


def verification(passed: bool = True) -> BundleVerification:
    file = VerifiedFile("tflite", "int8", "ai-edge-litert", 0.98765, 0.9971, 0.0812, 0.9575, 0.25)
    return BundleVerification(
        passed=passed,
        model_id="glyphnet-0123456789ab",
        network_accuracy=0.96,
        int8_budget=0.5,
        files=(file,),
        missing=(),
        worst_layers=(),
        command="python -m export verify",
        machine="a test machine",
    )


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A pipeline's directory with everything in it."""
    out = tmp_path / "omniglot"
    (out / "train").mkdir(parents=True)
    (out / "bundle").mkdir()
    history = [
        {
            "step": 100 * i,
            "loss": 9.0 - i,
            "validation_accuracy": 0.1 * i,
            "learning_rate": 1e-3,
            "seconds": 60.0 * i,
        }
        for i in range(1, 6)
    ]
    (out / "train/history.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in history))
    (out / "train/settings.json").write_text(json.dumps(SETTINGS))
    (out / "bundle/manifest.json").write_text(manifest().to_json())
    records.write(
        out / "evaluation.json", [evaluation("fp32", "torch", 384), evaluation("int8", "ai-edge-litert", 383)]
    )
    records.write(out / "benchmark.json", benchmark())
    records.write(out / "verification.json", verification())
    demo = Demo(
        (DemoSupport("spoon", PICTURE),),
        (
            DemoQuery(PICTURE, "spoon", "spoon", 0.98),
            DemoQuery(PICTURE, "spoon", None, 0.3),
            DemoQuery(PICTURE, None, None, 0.1),
        ),
        "ai-edge-litert",
        "int8",
        0.5,
        "make demo",
        "a test machine",
    )
    records.write(out / "demo.json", demo)
    records.write(out / "scenes.json", [RESULT, BASELINE])
    return out


class Page(html.parser.HTMLParser):
    """Collects what the tests ask of a page, and checks that its elements are closed in order."""

    VOID = frozenset({"meta", "img", "br", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.addresses: list[str] = []
        self.images_without_alt = 0
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if "id" in values:
            self.ids.append(values["id"] or "")
        if tag == "a":
            self.links.append(values.get("href") or "")
        for name in ("src", "href", "xlink:href", "action", "poster"):
            if tag != "a" and name in values:
                self.addresses.append(values[name] or "")
        self.images_without_alt += tag == "img" and "alt" not in values
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


HEADLINE = (
    "After one picture of each class it recognizes 95.8 % of new ones (400 official trials, within alphabet; "
    "chance 5 %, 659 classes, 95 % interval over trials 93.3 to 97.3 %); "
    "int8 loses 0.25 points against the float network. "
    "This tflite int8 file is 438 kB and takes 0.23 ms an image on one thread, 2.2 times as fast as fp32."
)


def test_the_report_shows_every_part(directory: Path) -> None:
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    assert page.links == [
        "#demo",
        "#one-shot",
        "#scenes",
        "#verification",
        "#benchmark",
        "#files",
        "#training",
        "#mistakes",
        "#provenance",
    ]
    assert {link[1:] for link in page.links} <= set(page.ids)
    for words in (
        HEADLINE,
        "2 of 3 right",
        "20-way 1-shot",
        "5-way 9-shot within groups: too few",
        "a perfect head",
        "0.8726",
        "0.39 %",
        "a note on int8",
        "tflite-runtime works nowhere here",
        "tflite: percentile",
        "not enough",
        "kept",
        "500 steps in 5.0 minutes",
        "python -m export train --data omniglot --encoder glyphnet --start published --steps 1000 --finetuned-weight 0.5"
        " --anti-forgetting-data 'my photos' --out DIR",
        "class <3>",
        "sigmoid(7.922 - 8.837 · d)",
        "4f0c12ab77de",
        "torch 2.13.0",
        "✓ every file behaves like the network",
        "guessing among the objects and unknown: 1.5",
        "500 steps in 5.0 minutes: the weights of step 500 of 1,000 were kept",
        "0.9877",
        "0.0812",
        "python -m export benchmark build/omniglot",
        "python -m export evaluate build/omniglot",
        "make demo",
        "a test machine",
        "Koch, Zemel, Salakhutdinov",
    ):
        assert words in page.text, words


def test_the_report_shows_unknown_objects_rules_and_supports(directory: Path) -> None:
    plain = evaluation("int8", "onnxruntime", 383)
    episodes = (
        *plain.episodes,
        EpisodesResult(20, 5, False, 2000, 1, "prototype", 0.991, 0.99, 0.992),
        EpisodesResult(20, 1, False, 2000, 1, "nearest", 0.77, 0.76, 0.78, iconic=True),
    )
    full = replace(plain, open_set=(open_set(),), episodes=episodes, supports="augmented")
    records.write(directory / "evaluation.json", [evaluation("fp32", "torch", 384), full])
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    assert page.links[1:4] == ["#one-shot", "#open-set", "#scenes"] and "open-set" in page.ids
    for words in (
        "augmented supports",
        "across groups, prototype",
        "across groups, iconic supports",
        "5 registered 10.0 % of the unknown accepted 96.1 % 95.5 to 96.6",
        "5 registered 1 % of the unknown accepted 81.5 % 79.9 to 82.9",
        "the threshold stated for FAR 1 % of pairs 76.6 % 75.6 to 77.5 0.68 % of the unknown accepted",
        "10,000 known and 40,000 unknown queries; without a threshold 98.7 % of the known are identified correctly (chance "
        "20.0 %). "
        "Too few unknown queries for 0.1 %.",
        "Phillips, Grother, Micheals",
    ):
        assert words in page.text, words


def test_the_report_shows_scenes(directory: Path) -> None:
    text = Page(write_report(directory).read_text(encoding="utf-8")).text
    assert "mine, backgrounds: photographs" in text and "nearest neighbor, backgrounds: photographs" in text
    assert (
        "5 objects 3 presses of the button each 5.0 % 2.0 to 10.0 95.0 % 90.0 to 98.0 50.0 % 40.0 to 60.0 "
        "40.0 % 30.0 to 50.0 3.0 % 1.0 to 6.0 12.0 6.0 to 18.5 2.0 % 0.0 to 5.0"
    ) in text
    assert "net-0123456789ab, 172 objects, 360 visits of 69 strangers" in text
    assert "Left out: 200 objects: only 103 can be registered." in text


def test_the_report_says_what_its_intervals_cover(directory: Path) -> None:
    text = " ".join(Page(write_report(directory).read_text(encoding="utf-8")).text.split())
    assert text.count("for these classes") == 2  # of episodes and of pairs, in records without classes
    assert (
        "Small print: 95 % intervals for these classes: how far a figure would move with another draw of trials or "
        "episodes. Another choice of classes may move it more."
    ) in text
    few = replace(
        evaluation("int8", "onnxruntime", 0),
        official=None,
        data=DataUsed("photos", "evaluation", 2, 1, 10),
        episodes=(EpisodesResult(2, 1, False, 200, 1, "nearest", 0.992, 0.99, 0.994, False, 2, 0.89, 1.0),),
        baseline=0.981,
    )
    pairs = replace(few.verification, classes=2, groups=1, class_low=0.6, class_high=1.0)  # type: ignore[type-var]
    records.write(directory / "evaluation.json", [replace(few, verification=pairs)])
    text = " ".join(Page(write_report(directory).read_text(encoding="utf-8")).text.split())
    for words in (
        "it recognizes 99.2 % of new ones (2-way 1-shot episodes; chance 50 %, 2 classes, 95 % interval over classes "
        "89.0 to 100.0 %, starting weights 98.1 %)",
        "chance 50 %, 2 classes",
        "starting weights: 98.1 %",
        "(10 images of 2 classes). The starting weights reach 98.1 % in 2-way 1-shot episodes.",
        "across groups; chance 50.0 %, 2 classes 99.20 % 89.0 to 100.0",
        "95 % intervals over classes, for another sample of classes",
        "20,000 pairs of 2 classes, half genuine, half of two classes. At p = 0.5",
        "(chance 50 %; 95 % interval over classes 60.0 to 100.0)",
    ):
        assert words in text, words
    assert "by different drawers" not in text and "from another group" not in text


def test_captions_say_what_was_measured(directory: Path) -> None:
    measured = evaluation("int8", "onnxruntime", 380)
    pairs = measured.verification
    assert pairs is not None
    for changes, present, absent in (
        (
            {"drawers": True, "groups": 20, "classes": 659},
            "half of two classes of one group, by different drawers",
            "?!",
        ),
        ({"curve": replace(pairs.curve, within=1000)}, "most impostors are from another group", "?!"),
        (
            {"curve": replace(pairs.curve, within=pairs.curve.impostor_pairs)},
            "Dashed: thresholds",
            "another group",
        ),
        ({"thresholds": ()}, "genuine pairs.", "Dashed"),
    ):
        records.write(
            directory / "evaluation.json", [replace(measured, verification=replace(pairs, **changes))]
        )
        text = Page(write_report(directory).read_text(encoding="utf-8")).text
        assert present in text and absent not in text, changes
    records.write(
        directory / "evaluation.json", [replace(measured, data=replace(measured.data, split="train"))]
    )
    text = Page(write_report(directory).read_text(encoding="utf-8")).text
    assert "none of which was trained on" not in text and "of new ones" not in text
    assert "the split for training" in text and "of training pictures" in text


def test_training_that_did_not_help_is_said_everywhere(directory: Path) -> None:
    kept = structs.replace(
        manifest(),
        provenance={**manifest().provenance, "step": 0, "settings": SETTINGS, "data": {"warnings": ["<x>"]}},
    )
    (directory / "bundle/manifest.json").write_text(kept.to_json())
    text = Page(write_report(directory).read_text(encoding="utf-8")).text
    assert "Training did not help; the starting weights were kept. After one picture" in text
    assert "500 steps in 5.0 minutes: training did not help; the starting weights were kept." in text
    assert "kept: " not in text and "<x>" in text


def test_the_report_asks_for_nothing(directory: Path) -> None:
    text = write_report(directory).read_text(encoding="utf-8")
    page = Page(text)
    assert page.addresses
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert "<script" not in text
    assert "@import" not in text
    assert "<link" not in text
    assert re.findall(r"url\((?!#)", text) == []
    assert set(re.findall(r"https?://[^\s\"<]+", text)) == {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_report_can_be_read_by_everybody(directory: Path) -> None:
    text = write_report(directory).read_text(encoding="utf-8")
    page = Page(text)
    assert page.images_without_alt == 0
    assert text.count('role="img" aria-label="') == text.count("<svg") == 5
    assert '<html lang="en">' in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert len(page.ids) == len(set(page.ids))


def test_a_complete_report_is_written_without_torch(directory: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from export.reporting.report import write_report; "
        "write_report(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(directory)], check=True)


def test_names_from_outside_are_escaped(directory: Path) -> None:
    hostile = replace(evaluation("int8", "<b>runtime</b>", 383), machine="<script>alert(1)</script>")
    records.write(directory / "evaluation.json", [hostile])
    text = write_report(directory).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<b>runtime" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


@pytest.mark.parametrize(
    ("missing", "gone"),
    [
        ("train/history.jsonl", "#training"),
        ("evaluation.json", "#one-shot"),
        ("benchmark.json", "#benchmark"),
        ("bundle/manifest.json", "#provenance"),
        ("demo.json", "#demo"),
        ("scenes.json", "#scenes"),
    ],
)
def test_a_missing_part_is_left_out(directory: Path, missing: str, gone: str) -> None:
    (directory / missing).unlink()
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    assert gone not in page.links
    assert gone[1:] not in page.ids
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text


@pytest.mark.parametrize(
    "kept",
    [
        "train/history.jsonl",
        "evaluation.json",
        "benchmark.json",
        "bundle/manifest.json",
        "demo.json",
        "scenes.json",
    ],
)
def test_one_part_is_enough(directory: Path, kept: str) -> None:
    for path in (p for p in directory.rglob("*") if p.is_file() and p != directory / kept):
        path.unlink()
    Page(write_report(directory).read_text(encoding="utf-8"))


def test_other_data_have_no_official_trials_and_no_published_figures(directory: Path) -> None:
    plain = replace(evaluation("int8", "onnxruntime", 383), official=None)
    data = replace(plain.data, name="glyphs evaluation")
    records.write(directory / "evaluation.json", [replace(plain, data=data, mistakes=(), verification=None)])
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    assert (
        "it recognizes 91.1 % of new ones (20-way 1-shot episodes, within group; chance 5 %, 659 "
        in page.text
    )
    assert "Koch" not in page.text
    assert "official" not in page.text.replace("400 official trials", "")
    assert "#mistakes" not in page.links
    assert "#verification" not in page.links


def test_a_run_that_was_validated_once_has_no_curve(directory: Path) -> None:
    history = directory / "train/history.jsonl"
    history.write_text(history.read_text().splitlines()[0] + "\n")
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    assert "100 steps in 1.0 minutes" in page.text
    assert "Training loss" not in page.text


def test_a_failed_verification_is_said_at_the_top(directory: Path) -> None:
    records.write(directory / "verification.json", verification(passed=False))
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    assert "✗ a file does not behave like the network" in page.text


def test_cards(directory: Path) -> None:
    shown = {card.title: (card.value, card.unit) for card in cards(read_inputs(directory))}
    assert shown == {
        "Recognized": ("2", "right"),
        "One-shot accuracy": ("95.8", "%"),
        "File": ("438", "kB"),
        "Latency": ("0.23", "ms"),
        "Equal error rate": ("4.8", "%"),
        "Calibration error": ("0.012", "ECE"),
    }


@pytest.mark.parametrize(
    ("correct", "verb"), [(384, "loses nothing"), (386, "gains 0.50 points"), (380, "loses 1.00 points")]
)
def test_headline_says_what_int8_costs(directory: Path, correct: int, verb: str) -> None:
    records.write(
        directory / "evaluation.json",
        [evaluation("fp32", "torch", 384), evaluation("int8", "onnxruntime", correct)],
    )
    assert f"int8 {verb} against the float network" in headline(read_inputs(directory))


def test_an_empty_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has nothing to report"):
        write_report(tmp_path)
    with pytest.raises(DataError, match="is not a directory"):
        write_report(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evaluation.json", "{", "evaluation.json cannot be read"),
        ("evaluation.json", '[{"encoder": 1}]', "is not a record of this release"),
        ("train/history.jsonl", '{"step": 1}\n', "not a history of a training run"),
        ("bundle/manifest.json", "{}", "manifest.json"),
        ("verification.json", '{"files": [{}]}', "not a record of this release"),
    ],
)
def test_a_damaged_part_is_named(directory: Path, name: str, content: str, message: str) -> None:
    (directory / name).write_text(content)
    with pytest.raises(DataError, match=message):
        write_report(directory)


def test_the_command_writes_to_the_given_path(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "elsewhere.html"
    assert main(["report", str(directory), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert out.read_text(encoding="utf-8") == render(read_inputs(directory))
    assert not (directory / "report.html").exists()


def data_card_of(caution: str = "") -> DataCard:
    finding = Finding(
        "across splits", "2 pictures in 12 groups are <here> and there.", "Delete one.", 12,
        (Group(("a/<1>.jpg", "b/2.jpg"), "and 3 more", (PICTURE, PICTURE)),), serious=True,
    )  # fmt: skip
    return DataCard(
        "photos", "subfolders", (ClassCount("apple", "train", 30), ClassCount("<pear>", "evaluation", 6)),
        (SplitCount("train", "training", 1, 30, 30, 30.0, 30), SplitCount("evaluation", "test", 1, 6, 6, 6.0, 6)),
        (finding,), caution,
    )  # fmt: skip


def analysis(classes: int = 3) -> ClassAnalysis:
    """The first class is taken for the second in half of the cases."""
    results = [ClassResult(f"<thing {c}>", 6, 1.0, 0.7, 1.0, PICTURE) for c in range(classes)]
    results[0] = replace(results[0], accuracy=0.5, low=0.2, high=0.8)
    matrix = np.eye(classes)
    matrix[0, :2] = 0.5
    return ClassAnalysis(
        model="int8 on onnxruntime",
        draws=200,
        decisions=3000,
        accuracy=0.83,
        low=0.5,
        high=0.95,
        classes=tuple(results),
        matrix=tuple(map(tuple, matrix.tolist())),
        confusions=(Confusion(0, 1, 0.5, PICTURE, PICTURE, PICTURE),),
        points=tuple(MapPoint(float(c), float(c % 2), c, PICTURE) for c in range(classes) for _ in range(2)),
        explained=(0.41, 0.22),
    )


def test_the_report_shows_the_data_card(directory: Path) -> None:
    records.write(directory / "data_card.json", data_card_of("The figures are too good: 1 of 6."))
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    for words in (
        "36 pictures of 2 classes in photos ; subfolders.",
        "The figures are too good: 1 of 6.",
        "training 1 30 30 30 30",
        "fix 2 pictures in 12 groups are <here> and there. Delete one. a/<1>.jpg = b/2.jpg and 3 more",
        "and 11 more",
        "test <pear> 6",
    ):
        assert words in page.text, words
    assert "#data" in page.links and page.images_without_alt == 0
    records.write(directory / "data_card.json", replace(data_card_of(), findings=()))
    text = Page(write_report(directory).read_text(encoding="utf-8")).text
    assert "No duplicates, and no damaged or unsuitable pictures." in text and "too good" not in text


def test_the_report_shows_each_class_the_map_and_the_confusions(directory: Path) -> None:
    records.write(directory / "classes.json", analysis())
    text = write_report(directory).read_text(encoding="utf-8")
    page = Page(text)
    for words in (
        "All 3 classes that were not trained on are registered from one picture each, drawn 200 times",
        "83.0 % are right (95 % interval over classes 50.0 to 95.0; chance 33.3 %). Figures of int8 on onnxruntime.",
        "<thing 0> 6 pictures 50.0 % 20.0 to 80.0 <thing 1> 50.0 % <thing 1> 6 pictures 100.0 %",
        "The two main directions (PCA) have 41 % and 22 % of the variance",
        "1 2 3 1 <thing 0> 50 50 2 <thing 1> 100 3 <thing 2> 100",
        "50.0 % of the decisions on <thing 0> are <thing 1>",
    ):
        assert words in page.text, words
    assert "<script" not in text and "&lt;thing 0&gt;, picture 2" in text
    assert text.count('type="radio" name="dot"') == 6 and text.count('type="radio" name="class"') == 4
    assert page.images_without_alt == 0 and len(page.ids) == len(set(page.ids))


def test_many_classes_are_shortened(directory: Path) -> None:
    records.write(directory / "classes.json", analysis(40))
    page = Page(write_report(directory).read_text(encoding="utf-8"))
    assert "The other 30 classes" in page.text
    assert "the 30 classes with the most mistakes of 40" in page.text
    rows = confusion_matrix(analysis(40))
    assert [row.name for row in rows[:2]] == ["<thing 0>", "<thing 1>"] and len(rows) == 30
    assert rows[0].shares[:3] == (0.5, 0.5, 0.0)


def test_the_map_keeps_the_scale_of_both_axes_and_fills_the_frame() -> None:
    points = tuple(MapPoint(x, y, 0, PICTURE) for x, y in ((-3.0, -1.0), (3.0, 1.0), (0.0, 0.0), (0.0, 1.0)))
    found = embedding_map(replace(analysis(), points=points))
    assert found.ratio == 1.8
    assert [(dot.left, dot.number) for dot in found.dots] == [(4.0, 1), (96.0, 2), (50.0, 3), (50.0, 4)]
    across, down = found.dots[1].left - found.dots[2].left, found.dots[2].top - found.dots[1].top
    assert across / 3.0 * found.ratio == pytest.approx(
        down / 1.0, rel=1e-3
    )  # in percent of width and of height
    same = embedding_map(replace(analysis(), points=(MapPoint(0.0, 0.0, 0, PICTURE),)))
    assert [(dot.left, dot.top) for dot in same.dots] == [(50.0, 50.0)]


def test_the_report_shows_the_open_set_curve_with_its_operating_point(directory: Path) -> None:
    curve = tuple(
        CurvePoint(1 - f, f, f / 2, min(1.0, 2 * f), 0.5 + f / 2, 0.4, 0.9) for f in (0.01, 0.1, 1.0)
    )
    default = CurvePoint(0.8726, 0.012, 0.006, 0.024, 0.51, 0.42, 0.6)
    kinds = (replace(open_set(), curve=curve, default=default), replace(open_set(), registered=12))
    records.write(directory / "evaluation.json", [replace(evaluation("int8", "ai", 383), open_set=kinds)])
    text = write_report(directory).read_text(encoding="utf-8")
    assert (
        'aria-label="With 5 registered, at p = 0.8726, 51.0 % (42.0 to 60.0) are identified and 1.2 % (0.6 to 2.4) of '
        'the strangers accepted."'
    ) in text
    assert "The dots are at the stated default threshold, p = 0.8726." in Page(text).text


@pytest.mark.parametrize("folds", [0, 4])
def test_the_report_says_whose_figures_the_verdict_has(directory: Path, folds: int) -> None:
    candidates = (Candidate(SHIPPED, 0.8, 0.7, 0.9), Candidate(TRAINED, 0.85, 0.77, 0.93))
    difference = Difference(TRAINED, SHIPPED, 0.05, -0.01, 0.11, False)
    found = Verdict(
        SHIPPED,
        candidates,
        (difference,),
        4,
        8000,
        16,
        9,
        caution="The figures are too good: 1 of 9.",
        folds=folds,
    )
    records.write(directory / "verdict.json", found)
    text = Page(write_report(directory).read_text(encoding="utf-8")).text
    assert "95 % interval -1.0 to +11.0. The figures are too good: 1 of 9. Training is not advised" in text
    assert ("4-fold cross-validation: each of the 16 classes" in text) == bool(folds)
    assert ("All sections below are about the bundle, and its own test classes." in text) == bool(folds)
    assert ("of 16 classes that were not trained on; 9 were." in text) != bool(folds)
