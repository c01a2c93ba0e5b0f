"""A self-test that ends with the signal in the variable `PYTHONDYING`, in place of the real one."""

from __future__ import annotations

import os
import signal
from typing import Any

from edge_siamese.system.sandbox import Steps


def examine_model(**_: Any) -> Steps:
    number = int(os.environ["PYTHONDYING"])
    yield "a runtime"
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(signal.Signals(number))
