"""Serves the dashboard over HTTP, on a thread with a loop of its own, so that recognition never waits for anybody."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_siamese.daemon.actions import Actions
from edge_siamese.dashboard.address import address
from edge_siamese.dashboard.app import make_app
from edge_siamese.dashboard.connection_limiter import MAX_CONNECTIONS, Loop
from edge_siamese.dashboard.state import AppState
from edge_siamese.errors import SettingsError
from edge_siamese.settings import DashboardSettings

if TYPE_CHECKING:
    from uvicorn import Server

LOG = logging.getLogger(__name__)

HEAD_SECONDS = 15.0
"""A connection without a request ends after so long, also one whose request does not come to its end."""
STUCK_SECONDS = 20.0
"""One that takes nothing of what waits for it ends after so long."""
KEEP_ALIVE_SECONDS = 10
WATCH_SECONDS = 2.0
MAX_HEAD = 32 * 1024
"""Bytes of a request's head."""
START_SECONDS = 10.0
RENEW_SECONDS = 60.0
"""So often it is looked whether there is a new certificate."""


class Dashboard:
    """The daemon's page and its interface for programs."""

    name = "dashboard"

    def __init__(self, settings: DashboardSettings, actions: Actions) -> None:
        """Nothing is opened before `start`."""
        self._settings, self._actions = settings, actions
        self._site: AppState | None = None
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._context: ssl.SSLContext | None = None
        self._fault = ""

    def start(self) -> None:
        """Listen, and serve.

        Raises:
            SettingsError: Pillow is missing, the port is taken, the certificate cannot be used, or others could reach
                it and there is no password.
            ImportError: a package is missing.
        """
        from uvicorn import Config, Server

        require_pictures()
        site = AppState(self._settings, self._actions)
        site.guard.require_credentials()
        context = tls_context(self._settings)
        listening = bound(self._settings)
        try:
            config = Config(
                make_app(site),
                loop="asyncio",
                http=_protocol(),
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
                h11_max_incomplete_event_size=MAX_HEAD,
                ssl_context_factory=None if context is None else lambda *_: context,
            )
            self._server = Server(config)
            site.open()
        except BaseException:
            listening.close()
            raise
        self._site = site
        self._context = context
        self._thread = threading.Thread(target=self._run, args=(listening,), name="dashboard", daemon=True)
        self._thread.start()
        end = time.monotonic() + START_SECONDS
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > end:
                self.close(0.5)
                raise SettingsError(f"the dashboard did not start: {self._fault or 'it takes too long'}")
            time.sleep(0.01)

    def report(self) -> dict[str, Any]:
        """How it is: its address, and how many follow it."""
        works = self._thread is not None and self._thread.is_alive()
        state = f"at {address(self._settings)}" if works else f"ended: {self._fault or 'not started'}"
        return {
            "state": state,
            "works": works,
            "url": address(self._settings),
            "followers": 0 if self._site is None else self._site.streams,
        }

    def close(self, timeout: float) -> None:
        """End all connections and the thread, in this time."""
        end = time.monotonic() + timeout
        if self._site is not None:
            self._site.close()
        server, loop, thread = self._server, self._loop, self._thread
        if server is None or loop is None or thread is None:
            return
        server.should_exit = True
        thread.join(max(0.0, 0.7 * timeout))
        if thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has ended just now
                loop.call_soon_threadsafe(_abort_all, server)
            thread.join(max(0.0, end - time.monotonic()))
        if thread.is_alive():
            LOG.warning("the dashboard takes too long to end, and is left")

    def _run(self, listening: socket.socket) -> None:
        try:
            with asyncio.Runner(loop_factory=Loop) as runner:
                runner.run(self._serve(listening))
        except BaseException as error:  # also SystemExit, which uvicorn raises
            self._fault = str(error) or type(error).__name__
            LOG.error("the dashboard ended: %s", self._fault)
        finally:
            listening.close()

    async def _serve(self, listening: socket.socket) -> None:
        assert self._server is not None
        self._loop = asyncio.get_running_loop()
        # Handshakes that fail, and connections that break: whoever knocks can make any number of them.
        self._loop.set_exception_handler(
            lambda _, context: LOG.debug("dashboard: %s", context.get("message"))
        )
        renewing = asyncio.create_task(self._renew())
        await self._server.serve(sockets=[listening])
        renewing.cancel()

    async def _renew(self) -> None:
        """Take a new certificate for new connections: they are made for months, and a daemon may run for years."""
        if self._context is None:
            return
        places = Path(self._settings.certificate), Path(self._settings.key)
        known = _changed_at(places)
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if (found := _changed_at(places)) == known:
                continue
            try:
                tls_context(self._settings)  # to see whether they belong together yet
                self._context.load_cert_chain(*places, password=_no_password)
            except (SettingsError, OSError) as error:
                LOG.warning("the former certificate stays: %s", error)
            else:
                LOG.info("the dashboard has a new certificate")
            known = found


def require_pictures() -> None:
    """Raise `SettingsError` where no live picture could be made: that is seen only once somebody waits for one."""
    if find_spec("PIL") is None:  # not imported: whom nobody watches needs no memory for it
        raise SettingsError(
            "the dashboard needs Pillow for its pictures: sudo apt install python3-pil, or, in an environment of your "
            "own, pip install pillow"
        )


def bound(settings: DashboardSettings) -> socket.socket:
    """A socket at the address in the settings; raises `SettingsError` if it cannot be had."""
    listen, place = settings.listen, f"{settings.listen}, port {settings.port}"
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(listen).version == 6 else socket.AF_INET
    except ValueError:
        family = socket.AF_INET
        if listen != "localhost":
            raise SettingsError(
                f"the dashboard listens at an address of this machine, such as 0.0.0.0, not {listen!r}"
            ) from None
    both = family == socket.AF_INET6 and listen == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((listen, settings.port), family=family, dualstack_ipv6=both)
    except OSError as error:
        # Python adds the address to the system's words, where it stands already.
        reason = os.strerror(error.errno) if error.errno else str(error)
        hint = (
            "; another program has it: another port in [dashboard]" if error.errno == errno.EADDRINUSE else ""
        )
        raise SettingsError(f"the dashboard cannot listen at {place}: {reason}{hint}") from error


def tls_context(settings: DashboardSettings) -> ssl.SSLContext | None:
    """What TLS needs; None without a certificate. Raises `SettingsError` if the files cannot be used."""
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


def _changed_at(places: tuple[Path, ...]) -> list[int]:
    return [place.stat().st_mtime_ns if place.exists() else 0 for place in places]


def _no_password() -> str:
    raise ValueError("the key is encrypted; one without a password is needed")


def _abort_all(server: Server) -> None:
    server.force_exit = True
    for connection in list(server.server_state.connections):
        connection.transport.abort()


def _protocol() -> type[asyncio.Protocol]:
    """HTTP as uvicorn speaks it, for clients that may be slow or hostile."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class BoundedProtocol(H11Protocol):
        """Ends connections that do nothing."""

        _waits_since = 0.0
        _stuck_since: float | None = None
        _stuck_size = 0
        _watching: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._waits_since = self.loop.time()
            self._watching = self.loop.call_later(WATCH_SECONDS, self._watch)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._watching is not None:
                self._watching.cancel()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if not self.transport.is_closing():
                super().data_received(data)

        def on_response_complete(self) -> None:
            self._waits_since = self.loop.time()
            super().on_response_complete()

        def _watch(self) -> None:
            now, size = self.loop.time(), self.transport.get_write_buffer_size()
            if size == 0 or size < self._stuck_size:
                self._stuck_since = None
            if size and self._stuck_since is None:
                self._stuck_since = now
            self._stuck_size = size
            idle = self.cycle is None or self.cycle.response_complete
            if (self._stuck_since is not None and now - self._stuck_since > STUCK_SECONDS) or (
                idle and now - self._waits_since > HEAD_SECONDS
            ):
                self.transport.abort()
            else:
                self._watching = self.loop.call_later(WATCH_SECONDS, self._watch)

    return BoundedProtocol
