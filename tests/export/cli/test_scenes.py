"""What the commands `render` and `scenes` print and write."""

from __future__ import annotations

import io
from ctypes.util import find_library
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from export import records
from export.__main__ import main
from export.cli.scenes import show
from export.data.turntable import load_objects
from export.evaluation.scenes import ScenesResult
from export.evaluation.strangers import Share
from export.reporting.scene_tables import scene_targets_table, scenes_table, scenes_verdict
from tests.export.scene_results import BASELINE, OURS, RESULT, row
from tests.export.turntables import MATERIALS, slab, write_turntable


def test_the_table_shows_shares_intervals_and_conditions() -> None:
    out = io.StringIO()
    show(RESULT, Console(file=out, width=160, highlight=False))
    lines = out.getvalue().split("\n")
    assert lines[1] == "mine  net-0123456789ab, focus: center, 172 objects, backgrounds: photographs"
    assert lines[4].split() == ["5,", "3", "5,", "25", "95", "50", "40", "3.0", "12", "2.0"]
    assert lines[5].split() == ["90-98", "40-60", "30-50", "1.0-6.0", "6.0-18", "0.0-5.0"]
    assert lines[6] == "skipped: 200 objects: only 103 can be registered"
    assert (
        "returns recognized within 2 s, turned by at most this angle, and at another place; 360 visits of 69"
        in lines[7]
    )


def test_the_table_fits_a_terminal_with_its_three_ranges_of_poses() -> None:
    wide = replace(OURS.results[1], strangers_per_hour=Share(123.4, 105.2, 210.7))
    wide = replace(wide, returns=(*wide.returns, wide.returns[0]), objects_refused=Share(1.0, 0.9, 1.0))
    out = io.StringIO()
    show(replace(OURS, results=(replace(wide, registered=100),)), Console(file=out, width=80))
    lines = out.getvalue().split("\n")
    assert lines[4].split() == ["100,", "3", "100,", "0", "91", "91", "91", "40", "2.0", "123", "0.0"]
    assert lines[5].split()[-2:] == ["105-211", "0.0-20"]


def test_a_record_is_read_again_and_becomes_a_table_of_the_documents(tmp_path: Path) -> None:
    records.write(tmp_path / "scenes.json", [RESULT])
    (read,) = records.read_all(ScenesResult, tmp_path / "scenes.json")
    assert read == RESULT
    header, _, line = scenes_table([read]).splitlines()
    assert "recognized, turned within 45°" in header and "recognized, any pose" in header
    refused = "5.0 % (2.0 to 10.0) | 25 %"
    shares = "95.0 % (90.0 to 98.0) | 50.0 % (40.0 to 60.0) | 40.0 % (30.0 to 50.0) | 3.0 % (1.0 to 6.0)"
    assert line == (
        f"| photographs | 5 | 3 | `mine` | {refused} | {shares} | 0.4 s | 12.0 (6.0 to 18.5) | 2.0 % (0.0 to 5.0) |"
    )


def test_lines_that_are_compared_are_next_to_each_other() -> None:
    drawn = replace(OURS, backgrounds="drawn", focus="foreground")
    table = scenes_table([OURS, BASELINE, drawn]).splitlines()[2:]
    assert [line.split(" | ")[:4] for line in table] == [
        ["| photographs", "5", "1", "`mine`"],
        ["| photographs", "5", "1", "nearest neighbor"],
        ["| photographs", "5", "3", "`mine`"],
        ["| photographs", "5", "3", "nearest neighbor"],
        ["| drawn", "5", "1", "`mine`, foreground"],
        ["| drawn", "5", "3", "`mine`, foreground"],
    ]


def test_targets_are_marked_where_they_are_reached() -> None:
    header, _, *lines = scene_targets_table([OURS, BASELINE]).splitlines()
    assert header == "| background | target with five objects | limit | `mine` | nearest neighbor |"
    high, low = "(50.0 to 100.0)", "(0.0 to 10.0)"
    assert [line.strip("| ").split(" | ")[2:] for line in lines] == [
        ["at least 95 %", f"**96.0 % {high}**", f"70.0 % {high}"],
        ["at least 90 %", f"**91.0 % {high}**", f"**92.0 % {high}**"],
        ["at most 1 %", f"**0.0 % {low}**", f"**0.0 % {low}**"],
        ["at most 1 %", f"2.0 % {low}", f"5.0 % {low}"],
        ["at most 0.5", "**0.2 (0.0 to 3.7)**", "4.0 (0.0 to 3.7)"],
        ["at most 0.5", "0.6 (0.0 to 3.7)", "6.0 (0.0 to 3.7)"],
    ]


def test_the_verdict_compares_with_the_baseline() -> None:
    assert scenes_verdict([OURS, BASELINE]) == (
        "- `mine`, photographs: 4 of 6 targets reached; better than nearest neighbor in 4 of 6 figures, worse in: "
        "recognized, any pose, three presses.\n"
    )
    worse = replace(BASELINE, name="bad", is_baseline=False, results=(row(1, 0.6, 0.1, 5.0),))
    assert scenes_verdict([worse, BASELINE]) == (
        "- `bad`, photographs: 0 of 3 targets reached; better than nearest neighbor in 0 of 3 figures.\n"
    )
    assert scenes_verdict([RESULT]) == "- `mine`, photographs: 0 of 3 targets reached.\n"


@pytest.mark.skipif(find_library("EGL") is None, reason="rendering needs EGL (Debian: libegl1)")
def test_render_writes_a_turntable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "slab.obj").write_text(slab())
    (tmp_path / "models" / "slab.mtl").write_text(MATERIALS)
    out = tmp_path / "out"
    assert main(["render", str(tmp_path / "models"), "--out", str(out), "--views", "2", "--side", "32"]) == 0
    assert capsys.readouterr().err.endswith("out: 1 object, 4 views each\n")
    assert [known.azimuths for known in load_objects(out)] == [[0, 180]]
    turn = tmp_path / "turn"
    words = ["--out", str(turn), "--views", "4", "--elevations", "20", "20", "--side", "32"]
    assert main(["render", str(tmp_path / "models"), *words]) == 0
    assert [path.name for path in sorted((turn / "slab").iterdir())] == [
        *("000-20.webp", "090-20.webp", "180-20.webp", "270-20.webp"),
    ]
    capsys.readouterr()
    assert main(["render", str(tmp_path / "models"), "--out", str(out), "--views", "7"]) == 1
    assert "error: --views must divide 360, not 7" in capsys.readouterr().err
    assert main(["render", str(tmp_path / "models"), "--out", str(out), "--max-size", "70"]) == 1
    assert "error: no model has a known size of at most 70 cm" in capsys.readouterr().err


def test_render_looks_at_objects_from_above(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["render", str(tmp_path), "--out", str(tmp_path), "--elevations", "20", "91"])
    assert "'91' is not an elevation from 0 to 90 degrees" in capsys.readouterr().err


def test_scenes_with_too_few_objects_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_turntable(tmp_path, [0, 1])
    assert main(["scenes", "glyphs", "--turntable", str(tmp_path)]) == 1
    assert "error: 2 objects are too few" in capsys.readouterr().err
