"""What the commands `render` and `scenes` print and write."""

from __future__ import annotations

import io
from ctypes.util import find_library
from pathlib import Path

import pytest
from rich.console import Console

from export import records
from export.__main__ import main
from export.cli.scenes import show
from export.data.turntable import load_objects
from export.evaluation.scenes import Returns, SceneRow, ScenesResult
from export.evaluation.strangers import Share
from export.reporting.tables import scenes_table
from tests.export.turntables import MATERIALS, slab, write_turntable

RESULT = ScenesResult(
    model_id="net-0123456789ab",
    objects=172,
    strangers=69,
    visits=360,
    backgrounds="photographs",
    results=(
        SceneRow(
            registered=5,
            presses=3,
            draws=12,
            refused=0.05,
            returns=(
                Returns("within 45°", Share(0.95, 0.9, 0.98), Share(0.01, 0.0, 0.02), (0.4, 0.7), 120),
                Returns("any", Share(0.5, 0.4, 0.6), Share(0.03, 0.01, 0.06), (0.5, 0.9), 120),
            ),
            elsewhere=Share(0.4, 0.3, 0.5),
            strangers_per_hour=Share(12.0, 6.0, 18.5),
            empty=Share(0.02, 0.0, 0.05),
        ),
    ),
    skipped=("200 objects: only 103 can be registered",),
)


def test_the_table_shows_shares_intervals_and_conditions() -> None:
    out = io.StringIO()
    show(RESULT, Console(file=out, width=160, highlight=False))
    lines = out.getvalue().split("\n")
    assert lines[1] == "net-0123456789ab  172 objects, backgrounds: photographs"
    assert lines[4].split() == ["5", "3", "5", "95.0", "50.0", "40.0", "3.0", "12.0", "2.0"]
    assert lines[5].split() == ["90.0-98.0", "40.0-60.0", "30.0-50.0", "1.0-6.0", "6.0-18.5", "0.0-5.0"]
    assert lines[6] == "skipped: 200 objects: only 103 can be registered"
    assert (
        "returns recognized within 2 s, by pose, and on another background; 360 visits of 69 strangers"
        in lines[7]
    )


def test_a_record_is_read_again_and_becomes_a_table_of_the_documents(tmp_path: Path) -> None:
    records.write(tmp_path / "scenes.json", [RESULT])
    (read,) = records.read_all(ScenesResult, tmp_path / "scenes.json")
    assert read == RESULT
    header, _, row = scenes_table([read]).splitlines()
    assert "recognized, turned within 45°" in header and "recognized, any pose" in header
    shares = "95.0 % (90.0 to 98.0) | 50.0 % (40.0 to 60.0) | 40.0 % (30.0 to 50.0) | 3.0 % (1.0 to 6.0)"
    assert (
        row == f"| photographs | 5 | 3 | 5 % | {shares} | 0.4 s | 12.0 (6.0 to 18.5) | 2.0 % (0.0 to 5.0) |"
    )


@pytest.mark.skipif(find_library("EGL") is None, reason="rendering needs EGL (Debian: libegl1)")
def test_render_writes_a_turntable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "slab.obj").write_text(slab())
    (tmp_path / "models" / "slab.mtl").write_text(MATERIALS)
    out = tmp_path / "out"
    assert main(["render", str(tmp_path / "models"), "--out", str(out), "--views", "2", "--side", "32"]) == 0
    assert capsys.readouterr().err.endswith("out: 1 object, 4 views each\n")
    assert [known.azimuths for known in load_objects(out)] == [[0, 180]]
    assert main(["render", str(tmp_path / "models"), "--out", str(out), "--views", "7"]) == 1
    assert "error: --views must divide 360, not 7" in capsys.readouterr().err
    assert main(["render", str(tmp_path / "models"), "--out", str(out), "--max-size", "70"]) == 1
    assert "error: no model has a known size of at most 70 cm" in capsys.readouterr().err


def test_scenes_with_too_few_objects_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_turntable(tmp_path, [0, 1])
    assert main(["scenes", "glyphs", "--turntable", str(tmp_path)]) == 1
    assert "error: 2 objects are too few" in capsys.readouterr().err
