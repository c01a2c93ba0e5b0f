"""The names of runtimes and precisions, for those who need no runtime, such as the command line."""

from __future__ import annotations

import platform

AUTO = "auto"
PRECISIONS = ("int8", "fp32")
# On 64-bit Arm tflite-runtime starts fastest and takes the least memory; elsewhere its int8 kernels are slow.
RUNTIMES = (
    ("tflite-runtime", "ai-edge-litert", "onnxruntime")
    if platform.machine().lower() in ("aarch64", "arm64")
    else ("ai-edge-litert", "tflite-runtime", "onnxruntime")
)
"""The runtimes that this release knows, in the order in which `auto` tries them here."""
