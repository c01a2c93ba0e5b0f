"""Silences third-party converters, and maps their errors to one line."""

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
    """Whether their output is shown: `--debug` sets the environment variable."""
    return os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")


@contextlib.contextmanager
def third_party(action: str) -> Iterator[None]:
    """Run third-party code: drop its output, logs and warnings, and turn its errors into an `ExportError`.

    Converters also print from C++, so the file descriptors themselves are redirected.

    Args:
        action: what is being done, for the message: "converting to ONNX".

    Raises:
        ExportError: the code raised an error that is not one of this project.
    """
    try:
        with contextlib.nullcontext() if debugging() else _silence():
            yield
    except EdgeSiameseError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        message = lines[0][:200] if lines else "no message"
        hint = "" if debugging() else " (--debug shows everything)"
        raise ExportError(f"{action} failed: {type(error).__name__}: {message}{hint}") from error


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    originals = os.dup(1), os.dup(2)
    disabled = logging.root.manager.disable
    with tempfile.TemporaryFile() as sink, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, original in zip((1, 2), originals, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
            logging.disable(disabled)
