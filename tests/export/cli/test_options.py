"""The encoder that a folder gets, and the example of `--help` that the guide shows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.__main__ import main
from export.cli import options
from export.cli.options import default_encoder
from export.cli.pipeline import EXAMPLE
from export.data.folders import is_in_color
from export.training.settings import settings_for

ROOT = Path(__file__).parents[3]


def pictures(folder: Path, colors: int, grays: int) -> Path:
    """Pictures of which some are in color."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(colors + grays):
        pixels = rng.integers(0, 255, (40, 50, 1)).repeat(3, axis=2).astype(np.uint8)
        if number < colors:
            pixels[:10, :10] = (200, 30, 40)  # a twentieth of the picture
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=95)
    return folder


@pytest.mark.parametrize(
    ("colors", "grays", "expected"), [(3, 0, True), (0, 3, False), (3, 2, True), (2, 3, False)]
)
def test_most_pictures_decide_whether_a_folder_is_in_color(
    tmp_path: Path, colors: int, grays: int, expected: bool
) -> None:
    assert is_in_color(pictures(tmp_path / "photos" / "a", colors, grays).parent) == expected


def test_pictures_that_cannot_be_read_are_not_in_color(tmp_path: Path) -> None:
    assert not is_in_color(tmp_path / "none")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.jpg").write_bytes(b"junk")
    assert not is_in_color(tmp_path)


def test_a_folder_of_color_pictures_starts_from_imagenet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    color = f"folder:{pictures(tmp_path / 'color', 3, 0)}"
    gray = f"folder:{pictures(tmp_path / 'gray', 0, 3)}"
    assert default_encoder(color) == "efficientnet-lite0"
    assert settings_for("efficientnet-lite0", color).start == "published"
    assert capsys.readouterr().err == (
        "encoder efficientnet-lite0, for color pictures; --encoder chooses another\n"
    )
    assert [default_encoder(data) for data in (gray, "omniglot", "glyphs", None)] == ["glyphnet"] * 4
    assert default_encoder("grocery,anything:photos") == "efficientnet-lite0"
    assert capsys.readouterr().err == ""
    assert default_encoder("turntable:products") == "efficientnet-lite0"
    assert "efficientnet-lite0, for color pictures" in capsys.readouterr().err
    monkeypatch.setattr(options, "weights_installed", lambda: False)
    assert default_encoder(color) == "glyphnet"
    assert "the weights of efficientnet-lite0, the better one for color pictures, are not installed" in (
        capsys.readouterr().err
    )


def test_the_example_of_the_help_is_the_one_of_the_guide(capsys: pytest.CaptureFixture[str]) -> None:
    guide = (ROOT / "docs" / "own-photos.md").read_text(encoding="utf-8")
    section = guide[guide.index("\n## Train\n") :]
    (command,) = re.findall(r"```sh\n(.*?)\n```", section, re.DOTALL)[0].splitlines()
    assert command == ".venv/bin/python -m export pipeline --data folder:photos --out build/photos"
    assert f"  {command.removeprefix('.venv/bin/')}\n" in EXAMPLE
    with pytest.raises(SystemExit):
        main(["pipeline", "--help"])
    assert command.removeprefix(".venv/bin/") in capsys.readouterr().out
