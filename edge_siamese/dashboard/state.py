"""Shared state of the dashboard's request handlers."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from edge_siamese.daemon.api import DaemonApi
from edge_siamese.dashboard.auth import Authenticator
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.dashboard.event_stream import EventStreams, Notifier
from edge_siamese.dashboard.live_picture import LivePictures
from edge_siamese.dashboard.schemas import ApiError, Object
from edge_siamese.dashboard.uploads import Uploads
from edge_siamese.settings import DashboardSettings
from edge_siamese.store import StoredObject
from edge_siamese.system.network import device_name
from edge_siamese.system.threads import DaemonThreadPool

THREADS = 4
CONCURRENT_UPLOADS = 2
"""Pictures that are received at a time; others wait."""
DOCTOR_CACHE_SECONDS = 30.0
"""The doctor's findings are reused for this long."""
DOCTOR_TIMEOUT_SECONDS = 90.0
DOCTOR_NICENESS = 15


class DoctorRun:
    """Runs `edge-siamese doctor` in a process of low priority, one at a time. Thread-safe."""

    def __init__(self, config: str | Path | None) -> None:
        """Prepare the command. `config` is the settings file; None for the default locations."""
        self._command = ["nice", "-n", str(DOCTOR_NICENESS), sys.executable, "-m", "edge_siamese"]
        self._command += ["doctor", "--json", *(["--config", str(config)] if config else [])]
        self._running = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._latest: tuple[float, dict[str, Any]] | None = None
        self._closed = False

    def findings(self) -> dict[str, Any]:
        """Return findings that are at most `DOCTOR_CACHE_SECONDS` old.

        Raises:
            ApiError: 503 while it runs for another client, or if it fails.
        """
        if not self._running.acquire(timeout=0.1):
            message = "the doctor is already running; try again in a moment"
            raise ApiError(503, message, headers={"Retry-After": "5"})
        try:
            if self._latest is None or time.monotonic() - self._latest[0] > DOCTOR_CACHE_SECONDS:
                self._latest = time.monotonic(), self._run()
            return self._latest[1]
        finally:
            self._running.release()

    def close(self) -> None:
        """Kill a running doctor."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()

    def _run(self) -> dict[str, Any]:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("NOTIFY_SOCKET", None)  # systemd would attribute its messages to the service
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
            if self._closed:
                self._process.kill()
            output, _ = self._process.communicate(timeout=DOCTOR_TIMEOUT_SECONDS)
            report = json.loads(output)
            return {"ok": bool(report["ok"]), "findings": list(report["findings"])}
        except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as error:
            message = "the doctor failed; run on the device: edge-siamese doctor"
            raise ApiError(503, message) from error
        finally:
            process, self._process = self._process, None
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()


class AppState:
    """One dashboard. Handlers use it from any thread."""

    def __init__(
        self, settings: DashboardSettings, api: DaemonApi, *, authenticator: Authenticator | None = None
    ) -> None:
        """Create the state; `open` begins to collect events.

        Args:
            settings: settings of the dashboard.
            api: the daemon's API.
            authenticator: used instead of the one that the settings describe.
        """
        self.settings, self.api = settings, api
        self.authenticator = authenticator or Authenticator(
            settings, CredentialsFile(api.settings.state_directory)
        )
        self.pool = DaemonThreadPool(THREADS, "dashboard")
        """Runs handlers, which wait for the daemon."""
        self.public_pool = DaemonThreadPool(1, "dashboard-public")
        """Runs handlers that need no login: unauthenticated clients share one thread, so that they delay nobody else."""
        self.jpeg_pool = DaemonThreadPool(1, "dashboard-jpeg")
        """Encodes live pictures, so that slow handlers do not delay them."""
        self.notifier = Notifier()
        self.streams = EventStreams(api, self.notifier, self.pool)
        self.live = LivePictures(settings, api, self.notifier, self.jpeg_pool)
        self.uploads = Uploads()
        self.uploading = asyncio.Semaphore(CONCURRENT_UPLOADS)
        self.exporting = threading.Lock()
        """Held while an archive is written and sent."""
        self.doctor = DoctorRun(api.config)
        self.self_tests: dict[tuple[str, str, str], dict[str, Any]] = {}
        """Results of self-tests by model, runtime and precision; used only from the engine's thread."""

    @property
    def device(self) -> str:
        """Display name of this device."""
        return device_name(self.api.settings.mqtt.device_name)

    def open(self) -> None:
        """Start to collect events."""
        self.streams.feed.open()

    def close(self) -> None:
        """End all waiting requests. Call from any thread."""
        self.notifier.close()
        self.streams.feed.close()
        self.doctor.close()
        for pool in (self.pool, self.public_pool, self.jpeg_pool):
            pool.shutdown(wait=False, cancel_futures=True)

    def describe_object(self, stored: StoredObject) -> Object:
        """Return a registered object as the API describes it."""
        view = self.api.current_view()
        return Object(
            uid=stored.uid,
            name=stored.name,
            created=stored.created,
            views=stored.views,
            negatives=stored.negatives,
            embedded=stored.embedded,
            last_view=stored.last_view,
            last_seen=self.api.telemetry.last_seen().get(stored.uid),
            present=view is not None and stored.uid in [sighting.uid for sighting in view.present],
        )
