"""Keeps the exporters of other projects quiet, and turns their errors into one line."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

from edge_siamese.errors import EdgeSiameseError, ExportError

DEBUG_VARIABLE = "EDGE_SIAMESE_DEBUG"


def debugging() -> bool:
    """Whether the noise is wanted: `--debug` sets the variable, and so may a person."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


@contextlib.contextmanager
def third_party(what: str) -> Iterator[None]:
    """Run converters: their prints, logs and warnings are dropped, and what they raise becomes an `ExportError`.

    They write from C++ as well as from Python, so the file descriptors themselves are turned away.

    Args:
        what: what is being done, for the error's line: "converting to ONNX".

    Raises:
        ExportError: whatever was raised inside, errors of this project excepted.
    """
    try:
        with contextlib.nullcontext() if debugging() else _silence():
            yield
    except EdgeSiameseError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = lines[0][:200] if lines else "no message"
        hint = "" if debugging() else " (--debug shows everything)"
        raise ExportError(f"{what} failed: {type(error).__name__}: {said}{hint}") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    disabled = logging.root.manager.disable
    with tempfile.TemporaryFile() as away, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        os.dup2(away.fileno(), 1)
        os.dup2(away.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), kept, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
            logging.disable(disabled)
