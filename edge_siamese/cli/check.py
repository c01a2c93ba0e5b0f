"""The checks of `edge-siamese config check`: what the daemon would report as a problem at startup.

Each line is the one that the daemon prints. Nothing is created or changed. While a daemon is running, its socket, camera,
panel and ports are in use and are not tried.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Literal

from edge_siamese.daemon.control_socket import check_socket
from edge_siamese.daemon.integrations import INTEGRATIONS, IntegrationSpec, problem_of
from edge_siamese.daemon.sinks import hook_problem
from edge_siamese.errors import EdgeSiameseError, describe_error
from edge_siamese.settings import Settings
from edge_siamese.system.command import command_problem
from edge_siamese.system.files import require_writable

DEVICE_SECONDS = 20.0
"""Time limit for opening camera or panel, which may hang."""


def find_problems(settings: Settings, *, running: bool) -> Iterator[str]:
    """Yield a line for each problem that the daemon would have.

    Args:
        settings: settings to check.
        running: whether a daemon is running at their socket.
    """
    if not running:
        yield from _problem("", lambda: check_socket(settings.socket))
    yield from _problem("cannot recognize: ", lambda: _check_model(settings))
    yield from _problem("cannot recognize: ", lambda: _check_store(settings))
    if not running:
        yield from _problem("no frames: ", lambda: _with_limit(lambda: _check_camera(settings)))
        yield from _problem("no button and no LED: ", lambda: _with_limit(lambda: _check_panel(settings)))
    for spec in INTEGRATIONS:
        if spec.is_on(settings):
            yield from _check_integration(spec, settings, running)
    if settings.sound.enabled:
        for command in filter(None, (settings.sound.player, settings.sound.speech)):
            if problem := command_problem(command):
                yield f"no sound: {problem}"
    if settings.events.hook and (problem := hook_problem(settings.events.hook)):
        yield problem


def _problem(prefix: str, check: Callable[[], object]) -> Iterator[str]:
    try:
        check()
    except Exception as error:
        yield prefix + describe_error(error)


def _check_model(settings: Settings) -> None:
    from edge_siamese.daemon.model_loader import load_tested_encoder
    from edge_siamese.errors import ModelError
    from edge_siamese.models.bundle import load_bundle
    from edge_siamese.models.installed import InstalledModels
    from edge_siamese.runtimes.confined_self_test import is_untrusted, run_self_test

    path = InstalledModels(settings.models).used(settings.model.bundle)
    if path is None:
        raise ModelError("no model is installed: edge-siamese model install BUNDLE")
    bundle, model = load_bundle(path, trusted_keys=settings.model.trusted_keys), settings.model
    if is_untrusted(bundle):
        run_self_test(bundle, model.runtime, model.precision, model.threads).report.require()
    else:
        load_tested_encoder(bundle, settings)


def _check_store(settings: Settings) -> None:
    from edge_siamese.store.errors import store_error

    try:
        require_writable(settings.state_directory)
        if settings.store.exists():
            settings.store.open("r+b").close()
    except OSError as error:
        raise store_error(error, settings.store) from error


def _check_camera(settings: Settings) -> None:
    from edge_siamese.cameras import open_camera

    color: Literal["gray", "rgb"] = "rgb"
    open_camera(settings.camera, color).close()


def _check_panel(settings: Settings) -> None:
    from edge_siamese.panel import open_panel

    if settings.panel.kind != "simulated":
        open_panel(settings.panel).close()


def _check_integration(spec: IntegrationSpec, settings: Settings, running: bool) -> Iterator[str]:
    try:
        spec.load().check(spec.table(settings), settings.state_directory, listen=not running)
    except Exception as error:
        yield f"no {spec.kind}: {problem_of(spec.kind, error)}"


def _with_limit(check: Callable[[], object]) -> None:
    """Call a function that may hang; its thread then ends with the process."""
    failures: list[Exception] = []

    def run() -> None:
        try:
            check()
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(DEVICE_SECONDS)
    if thread.is_alive():
        raise EdgeSiameseError(f"no answer within {DEVICE_SECONDS:g} s")
    if failures:
        raise failures[0]
