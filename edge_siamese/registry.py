"""The cameras, panels and inference runtimes that this release knows.

A driver is one entry here and one module that wraps its library. Settings, command line, doctor and packaging read
these tables, so no other module lists the names. A driver and its library are imported when the driver is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

AUTO = "auto"
"""The name that leaves the choice of a camera, panel or runtime to the program."""
PRECISIONS = ("int8", "fp32")
"""Precisions of an encoder's files."""


@dataclass(frozen=True, kw_only=True)
class Driver:
    """A camera, a panel or a runtime."""

    target: str
    """`module:class`, imported when the driver is opened."""
    summary: str
    """Short description, as in the settings reference."""
    libraries: tuple[str, ...] = ()
    """Modules of the library that it wraps. No other module imports them."""
    extra: str = ""
    """The extra in `pyproject.toml` that installs the library; empty if there is none."""
    install: str = ""
    """A command that installs the library; empty if it needs none."""

    @property
    def module(self) -> str:
        """The dotted name of the module."""
        return self.target.partition(":")[0]

    def load(self) -> Any:
        """Import the module and return the class."""
        return getattr(import_module(self.module), self.target.partition(":")[2])


@dataclass(frozen=True, kw_only=True)
class RuntimeDriver(Driver):
    """A package that runs models; its class is a `runtimes.encoder.Graph`."""

    format: Literal["onnx", "tflite"]
    """The format of the files that it reads."""


CAMERAS: Mapping[str, Driver] = {
    "picamera2": Driver(
        target="edge_siamese.cameras.picamera2:Picamera2Camera",
        summary="a Raspberry Pi camera",
        libraries=("picamera2", "libcamera"),
        install="sudo apt install python3-picamera2, and create the environment with --system-site-packages",
    ),
    "usb": Driver(
        target="edge_siamese.cameras.usb:UsbCamera",
        summary="a V4L2 device",
        libraries=("av",),
        extra="usb",
        install="pip install av",
    ),
    "files": Driver(
        target="edge_siamese.cameras.files:FilesCamera",
        summary="a picture, a folder of pictures or a video",
        libraries=("av",),
        extra="usb",
        install="pip install av",
    ),
    "synthetic": Driver(
        target="edge_siamese.cameras.synthetic.camera:SyntheticCamera",
        summary="a generated scene, to try things out",
    ),
}
"""Cameras, by the value of `kind` in `[camera]`."""

PANELS: Mapping[str, Driver] = {
    "gpio": Driver(
        target="edge_siamese.panel.gpio:GpioPanel",
        summary="lines of the GPIO header",
        libraries=("gpiod",),
        extra="gpio",
        install='pip install "gpiod>=2.1"',
    ),
    "input": Driver(
        target="edge_siamese.panel.kernel_input:KernelPanel",
        summary="a kernel input device and a kernel LED, as the overlays `gpio-key` and `gpio-led` create them",
    ),
    "simulated": Driver(
        target="edge_siamese.panel.panel:SimulatedPanel",
        summary="the button of the synthetic scene",
    ),
    "none": Driver(
        target="edge_siamese.panel.panel:NoPanel",
        summary="no button and no LED",
    ),
}
"""Panels, by the value of `kind` in `[panel]`."""

RUNTIMES: Mapping[str, RuntimeDriver] = {
    "ai-edge-litert": RuntimeDriver(
        target="edge_siamese.runtimes.tflite:TfliteGraph",
        summary="the successor of tflite-runtime",
        libraries=("ai_edge_litert.interpreter",),
        extra="litert",
        install="pip install ai-edge-litert",
        format="tflite",
    ),
    "tflite-runtime": RuntimeDriver(
        target="edge_siamese.runtimes.tflite:TfliteGraph",
        summary="TFLite for CPython 3.11 and numpy 1",
        libraries=("tflite_runtime.interpreter",),
        extra="tflite",
        install='pip install tflite-runtime "numpy<2" (CPython 3.11 or older)',
        format="tflite",
    ),
    "onnxruntime": RuntimeDriver(
        target="edge_siamese.runtimes.onnx:OnnxGraph",
        summary="ONNX Runtime",
        libraries=("onnxruntime",),
        extra="onnx",
        install="pip install onnxruntime",
        format="onnx",
    ),
}
"""Inference runtimes by name; `runtimes.selection` has the order in which `auto` tries them."""

# Types of settings. A type checker cannot evaluate a table, so it sees plain text.
if TYPE_CHECKING:
    CameraKind: TypeAlias = str
    PanelKind: TypeAlias = str
    RuntimeName: TypeAlias = str
else:
    CameraKind = Literal[(AUTO, *CAMERAS)]
    PanelKind = Literal[(AUTO, *PANELS)]
    RuntimeName = Literal[(AUTO, *RUNTIMES)]


def describe_choices(drivers: Mapping[str, Driver]) -> str:
    """Describe the choices of a setting in one line: "`usb`: a V4L2 device. `files`: ..."."""
    return " ".join(f"`{name}`: {driver.summary}." for name, driver in drivers.items())
