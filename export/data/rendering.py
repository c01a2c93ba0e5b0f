"""Rendering of one 3-D model: a child process, because a damaged model can crash the importer.

    echo '{"model": "mug.obj", "views": [[0, 30], [15, 30]], "side": 256, "out": "mug"}' | python -m export.data.rendering

It reads a `RenderJob` from standard input and writes one WebP picture with transparency for each view.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from edge_siamese.recognition.imaging import Bytes

FIELD_OF_VIEW = 30.0
"""Degrees: a camera about two diameters away."""
LIGHTS = (((0.6, 1.0, 1.2), 0.8), ((-1.0, 0.3, 0.8), 0.35), ((0.0, 0.2, 1.0), 0.25))
"""Position relative to the camera, and intensity."""
OVERSAMPLING = 2
WEBP_QUALITY = 90


class RenderJob(msgspec.Struct, forbid_unknown_fields=True):
    """A model and the views of it to render."""

    model: str
    """Path of an .obj, .glb or .gltf file; textures are next to it."""
    views: list[tuple[float, float]]
    """Azimuth and elevation of the camera, in degrees."""
    side: int
    """Side of the square pictures in pixels."""
    out: str
    """Directory for the pictures, `AAA-EE.webp` each."""
    rotation: list[float] | None = None
    """Rows of a rotation matrix that puts the model upright; y points upward."""


def view_name(azimuth: float, elevation: float) -> str:
    """File name of a view."""
    return f"{round(azimuth):03d}-{round(elevation):02d}.webp"


def render(job: RenderJob) -> list[Bytes]:
    """Render the views of a model.

    The whole turning model fits into each picture, at one scale: its bounding sphere touches the edges.

    Returns:
        uint8 (side, side, 4) RGBA for each view.

    Raises:
        ValueError: the model has no surface.
    """
    # VTK is imported here: it takes a second, and only this process needs it.
    from vtkmodules import vtkRenderingOpenGL2  # noqa: F401  # registers the renderer
    from vtkmodules.util import numpy_support
    from vtkmodules.vtkRenderingCore import vtkLight, vtkRenderWindow, vtkWindowToImageFilter

    to_numpy: Any = numpy_support.vtk_to_numpy
    size = job.side * OVERSAMPLING
    window = vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetAlphaBitPlanes(1)
    window.SetMultiSamples(0)
    window.SetSize(size, size)
    renderer = _load(Path(job.model), window)
    renderer.SetBackground(0.0, 0.0, 0.0)
    renderer.SetBackgroundAlpha(0.0)
    renderer.AutomaticLightCreationOff()
    renderer.RemoveAllLights()
    for position, intensity in LIGHTS:
        light = vtkLight()
        light.SetLightTypeToCameraLight()
        light.SetPosition(*position)
        light.SetIntensity(intensity)
        renderer.AddLight(light)
    actors = renderer.GetActors()
    actors.InitTraversal()
    for _ in range(actors.GetNumberOfItems()):
        actor = actors.GetNextActor()
        actor.GetProperty().SetAmbient(max(0.3, actor.GetProperty().GetAmbient()))
        if job.rotation:
            actor.SetUserMatrix(_matrix(job.rotation))
    bounds = np.array(renderer.ComputeVisiblePropBounds()).reshape(3, 2)
    center, extent = bounds.mean(axis=1), bounds[:, 1] - bounds[:, 0]
    if not np.isfinite(extent).all() or not (extent >= 0).all() or extent.max() <= 0:
        raise ValueError("the model has no surface")
    distance = float(np.linalg.norm(extent)) / 2 / math.sin(math.radians(FIELD_OF_VIEW) / 2)
    camera = renderer.GetActiveCamera()
    camera.SetViewAngle(FIELD_OF_VIEW)
    pictures = []
    for azimuth, elevation in job.views:
        around, up = math.radians(azimuth), math.radians(elevation)
        direction = np.array([math.cos(up) * math.sin(around), math.sin(up), math.cos(up) * math.cos(around)])
        camera.SetFocalPoint(*center)
        camera.SetPosition(*(center + distance * direction))
        camera.SetViewUp(0.0, 1.0, 0.0)
        renderer.ResetCameraClippingRange()
        window.Render()
        grab = vtkWindowToImageFilter()
        grab.SetInput(window)
        grab.SetInputBufferTypeToRGBA()
        grab.ReadFrontBufferOff()
        grab.Update()
        pixels = to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(size, size, 4)[::-1]
        pictures.append(np.asarray(Image.fromarray(pixels.copy()).reduce(OVERSAMPLING)))
    return pictures


def _load(path: Path, window: Any) -> Any:
    """Import a model into a window; returns its renderer."""
    from vtkmodules.vtkIOImport import vtkGLTFImporter, vtkOBJImporter

    importer: Any
    if path.suffix.lower() == ".obj":
        importer = vtkOBJImporter()
        if (materials := path.with_suffix(".mtl")).is_file():
            importer.SetFileNameMTL(str(materials))
        importer.SetTexturePath(str(path.parent))
    else:
        importer = vtkGLTFImporter()
    importer.SetFileName(str(path))
    importer.SetRenderWindow(window)
    importer.Update()
    return window.GetRenderers().GetFirstRenderer()


def _matrix(rotation: list[float]) -> Any:
    from vtkmodules.vtkCommonMath import vtkMatrix4x4

    matrix = vtkMatrix4x4()
    for row in range(3):
        for column in range(3):
            matrix.SetElement(row, column, rotation[3 * row + column])
    return matrix


def main() -> int:
    """Render the job on standard input."""
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=RenderJob)
    out = Path(job.out)
    out.mkdir(parents=True, exist_ok=True)
    for (azimuth, elevation), pixels in zip(job.views, render(job), strict=True):
        Image.fromarray(pixels).save(out / view_name(azimuth, elevation), quality=WEBP_QUALITY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
