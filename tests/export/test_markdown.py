"""Markdown tables: the figures as they were measured, to the digit, and only what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from export import records
from export.__main__ import main
from export.markdown import full_tables, summary_table
from export.report_inputs import ReportInputs, read_inputs
from tests.export.test_report import benchmark, evaluation

INPUTS = ReportInputs(
    name="omniglot",
    evaluations=(evaluation("fp32", "torch", 386), evaluation("int8", "ai-edge-litert", 384)),
    benchmark=benchmark(),
)

SUMMARY = """\
|  | one-shot | 95 % interval | ECE | file | latency |
| --- | ---: | ---: | ---: | ---: | ---: |
| network fp32, torch | **96.50 %** | 94.2 to 97.9 | 0.012 |  |  |
| TFLite int8, ai-edge-litert | **96.00 %** | 93.6 to 97.5 | 0.012 | 438 kB | 0.23 ms |
"""

FULL = """\
|  | network fp32, torch | TFLite int8, ai-edge-litert |
| --- | ---: | ---: |
| 400 official trials, 20-way 1-shot within alphabet | 96.50 % (94.2 to 97.9) | 96.00 % (93.6 to 97.5) |
| 2,000 episodes, 20-way 1-shot within a group | 91.10 % (90.8 to 91.4) | 91.10 % (90.8 to 91.4) |

|  | network fp32, torch | TFLite int8, ai-edge-litert |
| --- | ---: | ---: |
| 20,000 pairs: accuracy at p = 0.5 | 95.10 % (94.8 to 95.4) | 95.10 % (94.8 to 95.4) |
| 20,000 pairs: equal error rate | 4.81 % | 4.81 % |
| 20,000 pairs: calibration error (ECE) | 0.0117 | 0.0117 |
| threshold stated for FAR 0.01: FAR and FRR seen | 3.9e-03, 34.4 % | 3.9e-03, 34.4 % |

| file and runtime | size | p50 | p95 | over fp32 | one-shot | memory | import |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| tflite fp32, ai-edge-litert 2.3.0 | 1.7 MB | 0.52 ms | 0.67 ms |  | 96.00 % | 200 MiB | 800 ms |
| tflite int8, ai-edge-litert 2.3.0 | 438 kB | 0.23 ms | 0.30 ms | 2.24× (2.24 to 2.24) | 96.00 % | 200 MiB | 800 ms |
"""


def test_the_summary_has_a_line_an_encoder() -> None:
    assert summary_table(INPUTS) == SUMMARY


def test_the_tables_hold_everything_that_was_measured() -> None:
    assert full_tables(INPUTS) == FULL


def test_what_was_not_measured_is_left_out() -> None:
    bare = replace(evaluation("int8", "onnxruntime", 380), official=None, verification=None)
    inputs = ReportInputs(name="bare", evaluations=(bare,))
    assert summary_table(inputs).splitlines()[2] == (
        "| ONNX int8, onnxruntime | **91.10 %** | 90.8 to 91.4 |  |  |  |"
    )
    assert full_tables(inputs).splitlines()[2:] == [
        "| 2,000 episodes, 20-way 1-shot within a group | 91.10 % (90.8 to 91.4) |"
    ]


def test_the_command_prints_them_and_writes_no_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write(tmp_path / "evaluation.json", list(INPUTS.evaluations))
    assert main(["report", str(tmp_path), "--markdown"]) == 0
    written = read_inputs(tmp_path)
    assert capsys.readouterr().out == summary_table(written) + "\n" + full_tables(written)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
