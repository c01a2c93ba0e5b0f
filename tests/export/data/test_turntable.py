"""Turntables: models are found, rendered in processes of their own, and read again."""

from __future__ import annotations

import zipfile
from ctypes.util import find_library
from pathlib import Path

import numpy as np
import pytest

from edge_siamese.errors import DataError
from export.data import turntable
from export.data.turntable import INDEX, find_models, load_cut_outs, load_objects, render_models
from tests.export.turntables import MATERIALS, slab, write_turntable

CATALOG = """\
id#1=cube
name#1=W\\u00fcrfel
model#1=/things/cube/cube.obj
width#1=10
depth#1=12.5
height#1=9
creator#1=Ada
modelRotation#1=0 -1 0 1 0 0 0 0 1
name#2=Sofa
model#2=/things/sofa.kmz
name#3=Missing
model#3=/things/missing.obj
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the slab."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "slab.obj").write_text(slab())
    (tmp_path / "models" / "slab.mtl").write_text(MATERIALS)
    return tmp_path / "models"


def library(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(turntable.CATALOG, CATALOG)
        archive.writestr("things/cube/cube.obj", slab())
        archive.writestr("things/cube/wood.jpg", b"")
    return path


def test_a_furniture_library_states_names_authors_licenses_and_sizes(tmp_path: Path) -> None:
    folder, into = tmp_path / "libraries", tmp_path / "into"
    folder.mkdir()
    (model,) = find_models(library(folder / "BlendSwap-CC-0.sh3f"))
    known = model.object
    assert (known.id, known.name, known.author) == ("blendswap-cc-0-1-w-rfel", "Würfel", "Ada")
    assert (known.library, known.license, known.size_cm) == ("BlendSwap-CC-0", "CC0-1.0", 12.5)
    assert model.rotation == [0, -1, 0, 1, 0, 0, 0, 0, 1]
    assert model.unpack(into) == into / "things/cube/cube.obj"
    assert (into / "things/cube/wood.jpg").is_file()
    (same,) = find_models(folder)
    assert same.object == known


def test_what_has_no_models_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no models"):
        find_models(tmp_path)
    with pytest.raises(DataError, match="neither a folder of models nor"):
        find_models(tmp_path / "absent")
    (tmp_path / "damaged.sh3f").write_bytes(b"PK")
    with pytest.raises(DataError, match="not a furniture library"):
        find_models(tmp_path / "damaged.sh3f")


@pytest.mark.skipif(find_library("EGL") is None, reason="rendering needs EGL (Debian: libegl1)")
def test_a_model_is_rendered_from_all_sides_and_continued(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.glb").write_bytes(b"glTF")
    out, failures = tmp_path / "out", dict[str, str]()

    def run() -> list[turntable.TurningObject]:
        return render_models(
            find_models(folder),
            out,
            azimuths=(0, 180),
            elevations=(0,),
            side=64,
            done=lambda model, failure: failures.update({model.object.id: failure}),
        )

    (known,) = run()
    assert (known.id, known.azimuths, known.elevations) == ("slab", [0, 180], [0])
    assert failures["slab"] == "" != failures["broken"]
    assert sorted(path.name for path in out.iterdir()) == [INDEX, "slab"]
    pixels = load_cut_outs(out, load_objects(out)[0]).pixels
    assert pixels.shape == (1, 2, 64, 64, 4)
    front, back = pixels[0]
    assert front[32, 32].argmax() == 0 or front[32, 32, 0] > 2 * front[32, 32, 2]
    assert back[32, 32, 2] > 2 * back[32, 32, 0]
    for view in (front, back):
        rows, columns = np.nonzero(view[..., 3] > 127)
        assert np.ptp(rows) + 1 == pytest.approx(2 * (np.ptp(columns) + 1), abs=3)
        assert 0.3 * 64 < np.ptp(rows) < 64
    before = (out / "slab" / "000-00.webp").stat().st_mtime_ns
    run()
    assert (out / "slab" / "000-00.webp").stat().st_mtime_ns == before


def test_a_model_that_cannot_be_rendered_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turntable, "RENDER_SECONDS", 0.01)
    with pytest.raises(DataError, match="no model could be rendered: not rendered within 0 s"):
        render_models(find_models(folder), tmp_path / "out", azimuths=(0,))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_damaged_turntable_is_an_error(tmp_path: Path) -> None:
    write_turntable(tmp_path, [0])
    (known,) = load_objects(tmp_path)
    (tmp_path / known.id / "090-20.webp").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"090-20\.webp cannot be read"):
        load_cut_outs(tmp_path, known)
    (tmp_path / INDEX).write_text("[{}]")
    with pytest.raises(DataError, match=r"objects\.json cannot be read: .*missing required field"):
        load_objects(tmp_path)
