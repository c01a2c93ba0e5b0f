"""Turning objects: 3-D models rendered from many sides, as cut-outs with transparency.

`render_models` renders libraries of models into a folder, one subfolder for each object, and `load_objects` reads it:

    turntable/objects.json             name, author, license and size of each object
    turntable/blendswap-mug/045-30.webp   RGBA, seen at azimuth 45 and elevation 30 degrees

Models come from furniture libraries of Sweet Home 3D (.sh3f, with authors and licenses) or from a folder of .obj and .glb
files.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np
from msgspec import structs
from PIL import Image

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Bytes
from edge_siamese.system.files import write_text_atomically
from export.data.rendering import RenderJob, view_name

AZIMUTHS = tuple(range(0, 360, 15))
ELEVATIONS = (15, 35)
SIDE = 256
INDEX = "objects.json"
RENDER_SECONDS = 120.0
"""Time limit of the process that renders one model."""
MODEL_SUFFIXES = frozenset({".obj", ".glb", ".gltf"})
MIN_COVERED = 0.01
"""Minimum share of a picture that an object covers, on average over its views; smaller ones cannot be recognized."""
CATALOG = "PluginFurnitureCatalog.properties"
LICENSES = {
    "BlendSwap-CC-0": "CC0-1.0",
    "BlendSwap-CC-BY": "CC-BY-3.0",
    "KatorLegaz": "CC-BY-3.0-US",
    "Reallusion": "CC-BY-3.0-US",
    "Scopia": "CC-BY-3.0",
}
"""Licenses of Sweet Home 3D's libraries by file name, from the copyright file of Debian's package sweethome3d-furniture."""


class TurningObject(msgspec.Struct, frozen=True):
    """An object of a turntable, with its views."""

    id: str
    """Name of its subfolder."""
    name: str
    """Its name, such as `Coffee cup`."""
    library: str
    author: str
    license: str
    """SPDX identifier; empty if unknown."""
    size_cm: float
    """Its longest dimension; 0 if unknown."""
    azimuths: list[int] = []
    """Azimuths of the views, in degrees; empty for a model that is not rendered yet."""
    elevations: list[int] = []


@dataclass(frozen=True)
class Model:
    """A 3-D model in a library, not yet rendered."""

    object: TurningObject
    """The object, without views."""
    rotation: list[float] | None
    """Rows of a rotation matrix that puts it upright."""
    unpack: Callable[[Path], Path]
    """Writes the model and its textures to a directory, and returns the path of the model."""


@dataclass(frozen=True, eq=False)
class CutOuts:
    """The rendered views of one object."""

    object: TurningObject
    pixels: Bytes
    """uint8 (elevations, azimuths, side, side, 4) RGBA."""


def find_models(path: Path) -> list[Model]:
    """Find the models of a library: an .sh3f file, a folder with such files, or a folder of .obj and .glb files.

    Raises:
        DataError: there are none, or the library cannot be read.
    """
    if path.is_dir():
        libraries = sorted(path.glob("*.sh3f"))
        models = [model for library in libraries for model in find_models(library)]
        models += _loose_models(path)
    elif path.suffix == ".sh3f" and path.is_file():
        models = list(_furniture(path))
    else:
        raise DataError(f"{path} is neither a folder of models nor an .sh3f library")
    if not models:
        raise DataError(f"{path} has no models (.sh3f, .obj, .glb)")
    return models


def _loose_models(folder: Path) -> list[Model]:
    models = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in MODEL_SUFFIXES:
            continue
        within = path.relative_to(folder).with_suffix("")

        def in_place(_: Path, model: Path = path) -> Path:
            return model

        models.append(
            Model(
                TurningObject(_slug(str(within)), path.stem, folder.name, author="", license="", size_cm=0.0),
                rotation=None,
                unpack=in_place,
            )
        )
    return models


def _furniture(path: Path) -> Iterator[Model]:
    """The models of a library of Sweet Home 3D: a ZIP file with a catalog of properties `key#number=value`."""
    try:
        with zipfile.ZipFile(path) as library:
            lines = library.read(CATALOG).decode("latin-1").splitlines()
            names = library.namelist()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a furniture library of Sweet Home 3D: {error}") from error
    pieces = dict[int, dict[str, str]]()
    for line in lines:
        if match := re.fullmatch(r"(\w+)#(\d+)=(.*)", line.strip()):
            value = match[3].encode("latin-1").decode("unicode_escape")
            pieces.setdefault(int(match[2]), {})[match[1]] = value
    for number, piece in sorted(pieces.items()):
        member = piece.get("model", "").lstrip("/")
        if PurePosixPath(member).suffix.lower() not in MODEL_SUFFIXES or member not in names:
            continue
        folder = PurePosixPath(member).parent.as_posix() + "/"
        files = [name for name in names if name.startswith(folder) and not name.endswith("/")]
        rotation = [float(value) for value in piece.get("modelRotation", "").split()]

        def unpack(into: Path, member: str = member, files: list[str] = files) -> Path:
            with zipfile.ZipFile(path) as library:
                for file in files:
                    library.extract(file, into)
            return into / member

        sizes = (float(piece.get(side, 0) or 0) for side in ("width", "depth", "height"))
        known = TurningObject(
            id=_slug(f"{path.stem}-{number}-{piece.get('name', member)}"),
            name=piece.get("name", PurePosixPath(member).stem),
            library=path.stem,
            author=piece.get("creator", ""),
            license=LICENSES.get(path.stem, ""),
            size_cm=max(sizes),
        )
        yield Model(
            known,
            rotation=rotation if len(rotation) == 9 else None,
            unpack=unpack,
        )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def render_models(
    models: Sequence[Model],
    out: Path,
    *,
    azimuths: Sequence[int] = AZIMUTHS,
    elevations: Sequence[int] = ELEVATIONS,
    side: int = SIDE,
    jobs: int = 1,
    done: Callable[[Model, str], object] = lambda *_: None,
) -> list[TurningObject]:
    """Render models into a folder, and write its index. Objects that are there already are not rendered again.

    Args:
        models: what to render.
        out: the folder; its index lists exactly these models afterward.
        azimuths, elevations: angles of the views, in whole degrees.
        side: side of the pictures, in pixels.
        jobs: number of parallel processes.
        done: called for each model, with the reason if it could not be rendered, else an empty text.

    Returns:
        The objects that could be rendered.

    Raises:
        DataError: two models have the same id, or none could be rendered.
    """
    if len({model.object.id for model in models}) < len(models):
        raise DataError("two models have the same name: render their folders separately")
    out.mkdir(parents=True, exist_ok=True)
    views = [(float(azimuth), float(elevation)) for elevation in elevations for azimuth in azimuths]

    def one(model: Model) -> tuple[Model, str]:
        return model, _render(model, views, side, out)

    objects, reason = list[TurningObject](), ""
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for model, failure in pool.map(one, models):
            done(model, failure)
            reason = reason or failure
            if not failure:
                views_of = {"azimuths": list(azimuths), "elevations": list(elevations)}
                objects.append(structs.replace(model.object, **views_of))
    if not objects:
        raise DataError(f"no model could be rendered: {reason}")
    index = msgspec.json.format(msgspec.json.encode(objects), indent=1).decode()
    write_text_atomically(out / INDEX, index + "\n")
    return objects


def _render(model: Model, views: list[tuple[float, float]], side: int, out: Path) -> str:
    """Render one model in a child process; returns why it could not be rendered, or an empty text."""
    final = out / model.object.id
    if all((final / view_name(*view)).is_file() for view in views):
        return ""
    with tempfile.TemporaryDirectory() as directory:
        try:
            path = model.unpack(Path(directory, "model"))
        except (OSError, zipfile.BadZipFile) as error:
            return str(error)
        part = out / f".{model.object.id}.part"
        shutil.rmtree(part, ignore_errors=True)
        job = RenderJob(str(path), views, side, str(part), model.rotation)
        try:
            child = subprocess.run(
                [sys.executable, "-m", "export.data.rendering"],
                input=msgspec.json.encode(job),
                capture_output=True,
                timeout=RENDER_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            shutil.rmtree(part, ignore_errors=True)
            return f"not rendered within {RENDER_SECONDS:.0f} s"
        failure = ""
        if child.returncode:
            lines = child.stderr.decode(errors="replace").strip().splitlines()
            failure = lines[-1] if child.returncode > 0 and lines else f"signal {-child.returncode}"
        elif _covered(part) < MIN_COVERED:
            failure = "almost nothing of it is visible"
        if failure:
            shutil.rmtree(part, ignore_errors=True)
            return failure
        shutil.rmtree(final, ignore_errors=True)
        part.rename(final)
    return ""


def _covered(folder: Path) -> float:
    """Mean share of the pictures that the object covers."""
    return float(np.mean([(_read(path)[..., 3] > 127).mean() for path in folder.glob("*.webp")] or [0.0]))


def load_objects(folder: Path) -> list[TurningObject]:
    """The objects of a rendered folder, in the order of its index.

    Raises:
        DataError: there is no index, or it is damaged.
    """
    try:
        return msgspec.json.decode((folder / INDEX).read_bytes(), type=list[TurningObject])
    except FileNotFoundError:
        raise DataError(
            f"{folder} has no {INDEX}: render models into it with `python -m export render`"
        ) from None
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise DataError(f"{folder / INDEX} cannot be read: {error}") from error


def load_cut_outs(folder: Path, turning: TurningObject) -> CutOuts:
    """Read the views of an object. Raises the errors of `load_view`."""
    rows = [
        load_view(folder, turning, elevation, azimuth)
        for elevation in turning.elevations
        for azimuth in turning.azimuths
    ]
    pixels = np.stack(rows)
    return CutOuts(turning, pixels.reshape(len(turning.elevations), len(turning.azimuths), *pixels.shape[1:]))


def load_view(folder: Path, turning: TurningObject, elevation: int, azimuth: int) -> Bytes:
    """Read one view of an object, uint8 (side, side, 4) RGBA.

    Args:
        folder: folder of the turntable.
        turning: the object.
        elevation, azimuth: angles of the view, in degrees.

    Raises:
        DataError: the picture is missing or damaged.
    """
    path = folder / turning.id / view_name(azimuth, elevation)
    try:
        return _read(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _read(path: Path) -> Bytes:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGBA"))
