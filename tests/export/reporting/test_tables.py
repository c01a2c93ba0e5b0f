"""Markdown tables: the figures as they were measured, to the digit, and only what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export import records
from export.__main__ import main
from export.evaluation.one_shot import EpisodesResult
from export.reporting.report import PUBLISHED, ReportInputs, read_inputs
from export.reporting.tables import full_tables, side_by_side, summary_table
from tests.export.reporting.test_report import benchmark, evaluation, open_set

INPUTS = ReportInputs(
    name="omniglot",
    evaluations=(evaluation("fp32", "torch", 386), evaluation("int8", "ai-edge-litert", 384)),
    benchmark=benchmark(),
)

SUMMARY = """\
|  | one-shot | chance | classes | 95 % interval | ECE | file | latency |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| network fp32, torch | **96.50 %** | 5.0 % | 659 | 94.2 to 97.9 | 0.012 |  |  |
| TFLite int8, ai-edge-litert | **96.00 %** | 5.0 % | 659 | 93.6 to 97.5 | 0.012 | 438 kB | 0.23 ms |
"""

FULL = """\
|  | network fp32, torch | TFLite int8, ai-edge-litert |
| --- | ---: | ---: |
| 400 official trials, 20-way 1-shot within alphabet, chance 5.0 % | 96.50 % (94.2 to 97.9) | 96.00 % (93.6 to 97.5) |
| 2,000 episodes, 20-way 1-shot within a group, chance 5.0 % | 91.10 % (90.8 to 91.4) | 91.10 % (90.8 to 91.4) |

|  | network fp32, torch | TFLite int8, ai-edge-litert |
| --- | ---: | ---: |
| 20,000 pairs: accuracy at p = 0.5, chance 50 % | 95.10 % (94.8 to 95.4) | 95.10 % (94.8 to 95.4) |
| 20,000 pairs: equal error rate | 4.81 % | 4.81 % |
| 20,000 pairs: calibration error (ECE) | 0.0117 | 0.0117 |
| threshold stated for FAR 0.01: observed FAR and FRR | 3.9e-03, 34.4 % | 3.9e-03, 34.4 % |

| file and runtime | size | p50 | p95 | over fp32 | one-shot | memory | import |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| tflite fp32, ai-edge-litert 2.3.0 | 1.7 MB | 0.52 ms | 0.67 ms |  | 96.00 % | 200 MiB | 800 ms |
| tflite int8, ai-edge-litert 2.3.0 | 438 kB | 0.23 ms | 0.30 ms | 2.24× (2.24 to 2.24) | 96.00 % | 200 MiB | 800 ms |
"""


def test_the_summary_has_a_line_an_encoder() -> None:
    assert summary_table(INPUTS) == SUMMARY


def test_the_tables_hold_everything_that_was_measured() -> None:
    assert full_tables(INPUTS) == FULL


def test_networks_stand_beside_what_is_published() -> None:
    bare = replace(evaluation("int8", "onnxruntime", 380), official=None, verification=None, episodes=())
    again = replace(bare, supports="augmented")
    lines = side_by_side(
        [("glyphs", INPUTS), ("bare", ReportInputs(name="bare", evaluations=(bare, again)))]
    ).splitlines()
    assert len(lines) == 2 + len(PUBLISHED) + 1 + 2 + 1
    assert lines[0].startswith(
        "|  | 400 trials | 20-way 1-shot | 5-way 1-shot | 20-way 5-shot | same or different |"
    )
    assert lines[5] == "| Koch et al. 2015, published | 92.0 % |  |  |  | 93.42 % |  |  |  |  |"
    assert lines[6] == "| chance | 5.0 % | 5.0 % | 20.0 % | 5.0 % | 50.0 % |  |  |  |  |"
    assert lines[7] == "| glyphs: network fp32, torch | 96.50 % | 91.1 % |  |  | 95.1 % |  |  |  |  |"
    assert lines[8] == (
        "| glyphs: TFLite int8, ai-edge-litert | 96.00 % | 91.1 % |  |  | 95.1 % |  |  | 438 kB | 0.23 ms |"
    )
    assert lines[9] == "| bare: ONNX int8, onnxruntime |  |  |  |  |  |  |  |  |  |"


def test_what_was_not_measured_is_left_out() -> None:
    bare = replace(evaluation("int8", "onnxruntime", 380), official=None, verification=None)
    inputs = ReportInputs(name="bare", evaluations=(bare,))
    assert summary_table(inputs).splitlines()[2] == (
        "| ONNX int8, onnxruntime | **91.10 %** | 5.0 % | 659 | 90.8 to 91.4 |  |  |  |"
    )
    assert full_tables(inputs).splitlines()[2:] == [
        "| 2,000 episodes, 20-way 1-shot within a group, chance 5.0 % | 91.10 % (90.8 to 91.4) |"
    ]


OPEN_SET = """\
|  | network fp32, torch | ONNX int8, onnxruntime, augmented supports |
| --- | ---: | ---: |
| 5 registered, 10.0 % of unknown accepted: known identified |  | 96.1 % (95.5 to 96.6) |
| 5 registered, 1 % of unknown accepted: known identified |  | 81.5 % (79.9 to 82.9) |
| 5 registered, threshold stated for FAR 0.01: unknown accepted, known identified |  | 0.68 %, 76.6 % (75.6 to 77.5) |
"""


def test_unknown_objects_have_a_table_and_episodes_say_their_rule_and_supports() -> None:
    episodes = (
        EpisodesResult(20, 5, False, 2000, 1, "prototype", 0.991, 0.99, 0.992),
        EpisodesResult(20, 5, False, 2000, 1, "nearest", 0.98, 0.97, 0.99),
        EpisodesResult(20, 1, False, 2000, 1, "prototype", 0.95, 0.94, 0.96),
        EpisodesResult(5, 1, False, 2000, 1, "nearest", 0.77, 0.76, 0.78, iconic=True),
    )
    found = replace(
        evaluation("int8", "onnxruntime", 383),
        open_set=(open_set(),),
        episodes=episodes,
        supports="augmented",
    )
    tables = full_tables(ReportInputs(name="x", evaluations=(evaluation("fp32", "torch", 384), found)))
    assert tables.split("\n\n")[1] + "\n" == OPEN_SET
    assert [line.split(" | ")[0] for line in tables.splitlines()[3:8]] == [
        "| 2,000 episodes, 20-way 1-shot within a group, chance 5.0 %",
        "| 2,000 episodes, 20-way 1-shot across groups, chance 5.0 %",
        "| 2,000 episodes, 20-way 5-shot across groups, chance 5.0 %",
        "| 2,000 episodes, 20-way 5-shot across groups, prototype, chance 5.0 %",
        "| 2,000 episodes, 5-way 1-shot across groups, iconic supports, chance 20.0 %",
    ]


def test_the_command_prints_them_and_writes_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write(tmp_path / "evaluation.json", list(INPUTS.evaluations))
    assert main(["report", str(tmp_path), "--markdown"]) == 0
    written = read_inputs(tmp_path)
    assert capsys.readouterr().out == summary_table(written) + "\n" + full_tables(written)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_the_command_sets_several_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / name for name in ("one", "two")]
    for path in paths:
        records.write(path / "evaluation.json", list(INPUTS.evaluations))
    words = list(map(str, paths))
    assert main(["report", *words, "--side-by-side"]) == 0
    assert capsys.readouterr().out == side_by_side([(path.name, read_inputs(path)) for path in paths])
    assert main(["report", *words]) == 1
    assert "a report is made from one directory; use --side-by-side for several" in capsys.readouterr().err
