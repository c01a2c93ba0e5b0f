"""Has `edge-siamese doctor` look at the machine, in a process of its own that takes what others leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from edge_siamese.dashboard.exchange import Problem

KEPT_SECONDS = 30.0
"""Findings are told again for so long, instead of looking again."""
MAX_SECONDS = 90.0
NICENESS = 15


class Examination:
    """One at a time; any thread may ask."""

    def __init__(self, config: str | Path | None) -> None:
        """Look at nothing yet; `config` is where the settings are, None for the usual places."""
        self._command = [sys.executable, "-m", "edge_siamese", "doctor", "--json"]
        self._command += ["--config", str(config)] if config else []
        self._looking = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._found: tuple[float, dict[str, Any]] | None = None
        self._over = False

    def findings(self) -> dict[str, Any]:
        """What it finds, at most `KEPT_SECONDS` ago.

        Raises:
            Problem: 503 while it looks for somebody else, or if it fails.
        """
        if not self._looking.acquire(timeout=0.1):
            raise Problem(
                503, "the doctor is looking already; ask again in a moment", headers={"Retry-After": "5"}
            )
        try:
            if self._found is None or time.monotonic() - self._found[0] > KEPT_SECONDS:
                self._found = time.monotonic(), self._look()
            return self._found[1]
        finally:
            self._looking.release()

    def close(self) -> None:
        """End one that is under way."""
        self._over = True
        process = self._process
        if process is not None:
            process.kill()

    def _look(self) -> dict[str, Any]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("NOTIFY_SOCKET", None)  # what it says is not the service's
        try:
            self._process = subprocess.Popen(
                ["nice", "-n", str(NICENESS), *self._command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            if self._over:
                self._process.kill()
            out, _ = self._process.communicate(timeout=MAX_SECONDS)
            found = json.loads(out)
            return {"ok": bool(found["ok"]), "findings": list(found["findings"])}
        except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as error:
            raise Problem(
                503, "the doctor did not come to an end; say on the device: edge-siamese doctor"
            ) from error
        finally:
            process, self._process = self._process, None
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
