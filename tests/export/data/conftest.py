"""A small imitation of the Omniglot archives, the real ones where available, and a cache for each test."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.data import cache, omniglot

BACKGROUND = {"Greek": 3, "Balinese": 4, "Latin": 3, "Runes": 2, "Early_Aramaic": 3, "Syriac_(Estrangelo)": 2}
EVALUATION = {"Angelic": 4, "Tibetan": 3}
DRAWERS = 4


@pytest.fixture(autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cache.VARIABLE, str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv(omniglot.ROOT_VARIABLE, raising=False)


def real_data(name: str, what: str) -> Path:
    beside = Path(__file__).resolve().parents[4] / "shared" / "data"
    root = Path(os.environ.get("EDGE_SIAMESE_DATA") or beside) / name
    if not root.is_dir():
        pytest.skip(f"EDGE_SIAMESE_DATA names no folder with {what}")
    return root


@pytest.fixture(scope="session")
def real_omniglot() -> Path:
    """The folder of the real archives."""
    return real_data("omniglot", "the Omniglot archives")


@pytest.fixture(scope="session")
def real_grocery() -> Path:
    """The folder of the real photographs."""
    return real_data("grocery", "the photographs")


def drawing(seed: int, side: int = 105) -> bytes:
    """A 1-bit PNG of this many pixels a side: a black rectangle, of a size that the seed decides, on white."""
    pixels = np.full((side, side), 255, dtype=np.uint8)
    top, left, height, width = np.random.default_rng(seed).integers(5, 45, 4)
    pixels[top : top + height, left : left + width] = 0
    out = io.BytesIO()
    Image.fromarray(pixels).convert("1").save(out, "PNG")
    return out.getvalue()


def drawings_of(archive: str, alphabets: dict[str, int], first: int) -> dict[str, bytes]:
    """name -> content, laid out and numbered as in the official archives."""
    files = {}
    for alphabet, characters in alphabets.items():
        for character in range(1, characters + 1):
            for drawer in range(1, DRAWERS + 1):
                name = f"{archive}/{alphabet}/character{character:02d}/{first:04d}_{drawer:02d}.png"
                files[name] = drawing(100 * first + drawer)
            first += 1
    return files


def runs() -> dict[str, bytes]:
    """Two runs of three trials; trial i of run r is answered by training class (i + r) mod 3."""
    files = {}
    for run in (1, 2):
        lines = []
        for i in range(3):
            answer = (i + run) % 3
            files[f"run{run:02d}/training/class{i + 1:02d}.png"] = drawing(9000 + 10 * run + i)
            files[f"run{run:02d}/test/item{i + 1:02d}.png"] = drawing(9000 + 10 * run + answer)
            lines.append(
                f"run{run:02d}/test/item{i + 1:02d}.png run{run:02d}/training/class{answer + 1:02d}.png"
            )
        files[f"run{run:02d}/class_labels.txt"] = ("\n".join(reversed(lines)) + "\n").encode()
    return files


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.fixture
def small_omniglot(tmp_path: Path) -> Path:
    """A folder with three small archives of the official layout; free to be damaged."""
    root = tmp_path / "omniglot"
    root.mkdir()
    write_zip(root / "images_background.zip", drawings_of("images_background", BACKGROUND, 1))
    write_zip(root / "images_evaluation.zip", drawings_of("images_evaluation", EVALUATION, 965))
    write_zip(root / "all_runs.zip", runs())
    return root
