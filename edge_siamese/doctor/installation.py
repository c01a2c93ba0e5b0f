"""Checks of what is installed and stored: state directory, runtime, model, objects."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from edge_siamese.doctor.findings import SERVICE, SUDO, Finding, Scene
from edge_siamese.errors import BundleError, EdgeSiameseError, ModelError
from edge_siamese.models import described
from edge_siamese.system.board import disk_free

LITTLE_DISK, TOO_LITTLE_DISK = 500_000_000, 50_000_000


def state(scene: Scene) -> Iterator[Finding]:
    """The state directory, and the room in it."""
    path, account = scene.settings.state_directory, scene.account
    try:
        writable = account.may(path)
    except FileNotFoundError:
        yield Finding("state", "ok", f"{path} is made when the daemon starts")
    except OSError as error:
        yield Finding("state", "unknown", f"{path} cannot be looked at: {error.strerror}", SUDO)
    else:
        if not path.is_dir():
            yield Finding(
                "state", "error", f"{path} is no directory", f"move it away: sudo mv {path} {path}.old"
            )
        elif not writable:
            yield Finding(
                "state",
                "error",
                f"{path} cannot be written by {account.name}",
                f"sudo chown -R {account.name}: {path}",
            )
        else:
            yield Finding("state", "ok", f"{path} can be written by {account.name}")
    free = disk_free(path)
    if free is None:
        yield Finding("disk", "unknown", f"how much is free at {path} cannot be found out")
    elif free < LITTLE_DISK:
        level = "error" if free < TOO_LITTLE_DISK else "warning"
        remedy = "make room: sudo apt clean; sudo journalctl --vacuum-size=50M; see what is large: du -xh / | sort -h"
        yield Finding("disk", level, f"{free / 1e6:,.0f} MB are free at {path}", remedy)  # type: ignore[arg-type]
    else:
        yield Finding("disk", "ok", f"{free / 1e9:,.1f} GB are free at {path}")


def runtime(scene: Scene) -> Iterator[Finding]:
    """Inference runtimes."""
    from edge_siamese.runtimes.selection import runtime_statuses  # imports them, which takes a while

    found = runtime_statuses()
    wanted = scene.settings.model.runtime
    usable = [item for item in found if item.usable and wanted in ("auto", item.name)]
    if usable:
        yield Finding("runtime", "ok", ", ".join(map(str, usable)))
        return
    package = "ai-edge-litert" if wanted == "auto" else wanted
    yield Finding("runtime", "error", ", ".join(map(str, found)), f"pip install {package}")


def model(scene: Scene) -> Iterator[Finding]:
    """The model: whether it is whole, and computes what it should."""
    if not scene.settings.model.bundle and _is_hidden(scene.settings.state_directory):
        yield Finding("model", "unknown", f"{scene.settings.models} cannot be read by you", SUDO)
        return
    try:
        path, role = _model_path(scene)
    except BundleError as error:
        yield Finding("model", "error", str(error), "name another one in the settings: [model] bundle")
        return
    except ModelError as error:
        yield Finding("model", "error", str(error), "edge-siamese model install BUNDLE")
        return
    if path is None:
        yield Finding("model", "error", "no model is installed", "edge-siamese model install BUNDLE")
        return
    if role:
        yield Finding("model", "warning", role, "see which there are: edge-siamese model list")
    yield _tested(scene, path)


def _model_path(scene: Scene) -> tuple[Path | None, str]:
    from edge_siamese.models.installed import InstalledModels

    models, given = InstalledModels(scene.settings.models), scene.settings.model.bundle
    path = models.used(given)
    if given:
        return path, ""
    state = models.state()
    if state.current is None:
        return path, ""
    told = [f"{name} was given up: {reason}" for name, reason in state.rejected.items()]
    if not state.confirmed:
        told.append(
            f"{state.current} is on trial: {state.attempts} starts without a frame that was recognized"
        )
    return path, "; ".join(told)


def _tested(scene: Scene, path: Path) -> Finding:
    from edge_siamese.models.bundle import load_bundle
    from edge_siamese.models.selftest import self_test
    from edge_siamese.runtimes.selection import load_encoder

    wanted, origin = scene.settings.model, described(path)
    try:
        bundle = load_bundle(path)
        encoder = load_encoder(bundle, wanted.runtime, wanted.precision, wanted.threads)
        report = self_test(encoder, bundle.golden, bundle.head)
        report.require()
    except EdgeSiameseError as error:
        back = "install it again: edge-siamese model install BUNDLE, or go back: edge-siamese model rollback"
        if origin:
            back = "install another one: edge-siamese model install BUNDLE, or edge-siamese itself again"
        return Finding("model", "error", str(error), back)
    return Finding(
        "model",
        "ok",
        (f"{origin}: " if origin else "")
        + f"{encoder.model_id}, {encoder.precision} on {encoder.runtime} {encoder.version}: whole, and its self-test "
        f"passes (cosine at least {report.worst_cosine:.4f})",
    )


def store(scene: Scene) -> Iterator[Finding]:
    """The objects: opened for reading alone, so nothing is repaired here."""
    path = scene.settings.store
    if _is_hidden(path.parent):
        yield Finding("store", "unknown", f"{path} cannot be read by you", SUDO)
        return
    try:
        for aside in sorted(path.parent.glob(f"{path.stem}.damaged-*")):
            yield Finding(
                "store",
                "warning",
                f"a damaged store was set aside, and what could be read was taken over: {aside}",
                f"look whether objects are missing: edge-siamese objects; then sudo rm {aside}",
            )
        if not path.exists():
            yield Finding("store", "ok", "nothing is registered yet")
            return
        yield _checked_store(path)
    except OSError as error:
        yield Finding("store", "unknown", f"{path} cannot be read: {error.strerror}", SUDO)
    except sqlite3.OperationalError as error:  # busy, or no place for its log
        yield Finding("store", "unknown", f"{path} cannot be read: {error}", SUDO)
    except sqlite3.Error as error:
        yield Finding(
            "store",
            "error",
            f"{path}: {error}",
            f"it is repaired when the daemon starts: sudo systemctl restart {SERVICE}",
        )


def _is_hidden(directory: Path) -> bool:
    """Whether this user may not look into a directory that is there."""
    try:
        return directory.is_dir() and not os.access(directory, os.R_OK | os.X_OK)
    except PermissionError:
        return True


def _checked_store(path: Path) -> Finding:
    """Raises `sqlite3.Error` if it is no proper store."""
    from edge_siamese.store.tables import APPLICATION_ID, MIGRATIONS, SMALL_TABLES

    with path.open("rb"):  # SQLite would not say why it cannot
        pass
    uri = f"file:{quote(str(path))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=2.0)) as connection:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise sqlite3.DatabaseError("it is a database of another program, or not whole")
        if version > len(MIGRATIONS):
            return Finding(
                "store",
                "error",
                f"{path} was written by a newer release (layout {version}; this one knows {len(MIGRATIONS)})",
                "install that release again: sudo apt install edge-siamese",
            )
        for table in SMALL_TABLES:
            ((first,), *_) = connection.execute(f"PRAGMA integrity_check({table})").fetchall()
            if first != "ok":
                raise sqlite3.DatabaseError(" ".join(str(first).split()))
        (objects,) = connection.execute("SELECT count(*) FROM objects WHERE deleted IS NULL").fetchone()
    return Finding("store", "ok", f"{objects} object{'' if objects == 1 else 's'}, and its tables are whole")
