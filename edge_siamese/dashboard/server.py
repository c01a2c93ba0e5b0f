"""The dashboard's HTTP server: uvicorn with TLS, on a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

from uvicorn import Config, Server

from edge_siamese.daemon.api import DaemonApi
from edge_siamese.dashboard.app import make_app
from edge_siamese.dashboard.auth import Authenticator
from edge_siamese.dashboard.credentials import CredentialsFile
from edge_siamese.dashboard.limits import MAX_CONNECTIONS, LimitedEventLoop, LimitedProtocol
from edge_siamese.dashboard.state import AppState
from edge_siamese.errors import SettingsError
from edge_siamese.settings import DashboardSettings
from edge_siamese.system.network import port_user

LOG = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 10
MAX_HEAD_BYTES = 32 * 1024
"""Size of a request's head."""
MAX_START_SECONDS = 10.0
CERTIFICATE_CHECK_SECONDS = 60.0
"""Interval at which the certificate files are checked for changes."""


class Dashboard:
    """The dashboard: a page and an API, served by the daemon."""

    name = "dashboard"

    def __init__(self, settings: DashboardSettings, api: DaemonApi) -> None:
        """Configure the dashboard; `start` opens the port."""
        self._settings, self._api = settings, api
        self._state: AppState | None = None
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._context: ssl.SSLContext | None = None
        self._failure = ""

    @staticmethod
    def check(settings: DashboardSettings, state_directory: Path, *, listen: bool) -> None:
        """Raise the error with which `start` would fail; `listen`: whether to try the port as well."""
        authenticator = Authenticator(settings, CredentialsFile(state_directory))
        authenticator.require_credentials()
        tls_context(settings)
        if listen:
            bind(settings).close()
        if problem := authenticator.problem():
            raise SettingsError(f"closed: {problem}")

    def start(self) -> None:
        """Listen and serve.

        Raises:
            SettingsError: the port is taken, the certificate cannot be used, or there is no password although other
                machines can reach the dashboard.
        """
        state = AppState(self._settings, self._api)
        state.authenticator.require_credentials()
        context = tls_context(self._settings)
        listener = bind(self._settings)
        try:
            config = Config(
                make_app(state),
                loop="asyncio",
                http=LimitedProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="critical",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                limit_concurrency=MAX_CONNECTIONS + 1,
                backlog=MAX_CONNECTIONS,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                ssl_context_factory=None if context is None else lambda *_: context,
            )
            self._server = Server(config)
            state.open()
        except BaseException:
            listener.close()
            raise
        self._state = state
        self._context = context
        self._thread = threading.Thread(target=self._run, args=(listener,), name="dashboard", daemon=True)
        self._thread.start()
        end = time.monotonic() + MAX_START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                self.close(0.5)
                raise SettingsError(f"the dashboard did not start: {self._failure or 'it took too long'}")
            time.sleep(0.01)

    def report(self) -> dict[str, Any]:
        """Return its URL, state and number of open event streams."""
        alive = self._thread is not None and self._thread.is_alive()
        state = f"at {self._settings.url}" if alive else f"stopped: {self._failure or 'not started'}"
        problem = self._state.authenticator.problem() if alive and self._state is not None else ""
        if problem:
            state = f"closed: {problem}"
        return {
            "state": state,
            "works": alive and not problem,
            "url": self._settings.url,
            "followers": 0 if self._state is None else self._state.streams.count,
        }

    def close(self, timeout: float) -> None:
        """Close all connections and end the thread, in `timeout` seconds."""
        end = time.monotonic() + timeout
        if self._state is not None:
            self._state.close()
        server, loop, thread = self._server, self._loop, self._thread
        if server is None or loop is None or thread is None:
            return
        server.should_exit = True
        thread.join(max(0.0, 0.7 * timeout))
        if thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has just ended
                loop.call_soon_threadsafe(_abort_all, server)
            thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            LOG.warning("the dashboard did not stop in time; its thread is abandoned")

    def _run(self, listener: socket.socket) -> None:
        try:
            with asyncio.Runner(loop_factory=LimitedEventLoop) as runner:
                runner.run(self._serve(listener))
        except BaseException as error:  # including SystemExit, which uvicorn raises
            self._failure = str(error) or type(error).__name__
            LOG.error("the dashboard stopped: %s", self._failure)
        finally:
            listener.close()

    async def _serve(self, listener: socket.socket) -> None:
        assert self._server is not None
        self._loop = asyncio.get_running_loop()
        # Failed handshakes and broken connections: clients can cause any number of them.
        self._loop.set_exception_handler(
            lambda _, context: LOG.debug("dashboard: %s", context.get("message"))
        )
        renewal = asyncio.create_task(self._renew_certificate())
        await self._server.serve(sockets=[listener])
        renewal.cancel()

    async def _renew_certificate(self) -> None:
        """Load a renewed certificate for new connections: certificates last for months, a daemon may run for years."""
        if self._context is None:
            return
        files = Path(self._settings.certificate), Path(self._settings.key)
        known = _modification_times(files)
        while True:
            await asyncio.sleep(CERTIFICATE_CHECK_SECONDS)
            if (current := _modification_times(files)) == known:
                continue
            try:
                tls_context(self._settings)  # checks that the files match, in a context of its own
                self._context.load_cert_chain(*files, password=_no_password)
            except (SettingsError, OSError) as error:
                LOG.warning("keeping the previous certificate: %s", error)
            else:
                LOG.info("the dashboard uses a new certificate")
            known = current


def bind(settings: DashboardSettings) -> socket.socket:
    """Return a socket bound to the address in the settings; raises `SettingsError` if that fails."""
    listen, endpoint = settings.listen, f"{settings.listen}, port {settings.port}"
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(listen).version == 6 else socket.AF_INET
    except ValueError:
        family = socket.AF_INET
        if listen != "localhost":
            raise SettingsError(
                f"listen in [dashboard] must be an address of this machine, such as 0.0.0.0, not {listen!r}"
            ) from None
    both = family == socket.AF_INET6 and listen == "::" and socket.has_dualstack_ipv6()
    try:
        listener = socket.create_server((listen, settings.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        # Without the address, which Python adds to the system's message.
        reason = os.strerror(error.errno) if error.errno else str(error)
        user = port_user(error, settings.port)
        hint = f"; {user} uses it: set another port in [dashboard]" if user else ""
        raise SettingsError(f"the dashboard cannot listen at {endpoint}: {reason}{hint}") from error
    # Connections inherit it. asyncio does not set it for them, and a response would wait 40 ms for an acknowledgment.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def tls_context(settings: DashboardSettings) -> ssl.SSLContext | None:
    """Return the TLS context; None without a certificate. Raises `SettingsError` if the files cannot be used."""
    if not settings.certificate:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise SettingsError(
            f"certificate {settings.certificate} and key {settings.key} cannot be used: {reason}"
        ) from error
    return context


def _modification_times(files: tuple[Path, ...]) -> list[int]:
    return [file.stat().st_mtime_ns if file.exists() else 0 for file in files]


def _no_password() -> str:
    raise ValueError("the key is encrypted; use one without a password")


def _abort_all(server: Server) -> None:
    server.force_exit = True
    for connection in list(server.server_state.connections):
        connection.transport.abort()
