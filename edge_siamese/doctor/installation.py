"""Checks of the installation: state directory, inference runtime, model and object store."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from edge_siamese.doctor.findings import RUN_AS_ROOT, SERVICE, Context, Finding, Level
from edge_siamese.errors import BundleError, EdgeSiameseError, ModelError, SignatureError
from edge_siamese.events import counted
from edge_siamese.models import describe_shipped
from edge_siamese.registry import AUTO, RUNTIMES
from edge_siamese.system.board import disk_free

if TYPE_CHECKING:
    from edge_siamese.store.change_count import ChangeCount

LOW_DISK_BYTES, MIN_DISK_BYTES = 500_000_000, 50_000_000
"""Free space below which there is a warning, and below which there is an error."""


def check_state(context: Context) -> Iterator[Finding]:
    """The state directory, and the free space on its disk."""
    path, account = context.settings.state_directory, context.account
    try:
        writable = account.may(path)
    except FileNotFoundError:
        yield Finding("state", "ok", f"{path} is created when the daemon starts")
    except OSError as error:
        yield Finding("state", "unknown", f"{path} cannot be examined: {error.strerror}", RUN_AS_ROOT)
    else:
        if not path.is_dir():
            yield Finding(
                "state", "error", f"{path} is not a directory", f"rename it: sudo mv {path} {path}.old"
            )
        elif not writable:
            yield Finding(
                "state",
                "error",
                f"{account.name} may not write to {path}",
                f"sudo chown -R {account.name}: {path}",
            )
        else:
            yield Finding("state", "ok", f"{account.name} may write to {path}")
    free = disk_free(path)
    if free is None:
        yield Finding("disk", "unknown", f"the free space at {path} is unknown")
    elif free < LOW_DISK_BYTES:
        level: Level = "error" if free < MIN_DISK_BYTES else "warning"
        remedy = "free space: sudo apt clean; sudo journalctl --vacuum-size=50M; find large files: du -xh / | sort -h"
        yield Finding("disk", level, f"only {free / 1e6:,.0f} MB are free at {path}", remedy)
    else:
        yield Finding("disk", "ok", f"{free / 1e9:,.1f} GB are free at {path}")


def check_runtime(context: Context) -> Iterator[Finding]:
    """Inference runtimes."""
    from edge_siamese.runtimes.selection import runtime_statuses  # importing all runtimes takes seconds

    statuses = runtime_statuses()
    selected = context.settings.model.runtime
    usable = [status for status in statuses if status.usable and selected in (AUTO, status.name)]
    if usable:
        yield Finding("runtime", "ok", ", ".join(map(str, usable)))
        return
    driver = next(iter(RUNTIMES.values())) if selected == AUTO else RUNTIMES[selected]
    yield Finding("runtime", "error", f"none works: {', '.join(map(str, statuses))}", driver.install)


def check_model(context: Context) -> Iterator[Finding]:
    """The model: whether its files are intact, and whether it passes its self-test on this machine."""
    if not context.settings.model.bundle and _is_hidden(context.settings.state_directory):
        yield Finding("model", "unknown", f"this user may not read {context.settings.models}", RUN_AS_ROOT)
        return
    try:
        path, trial = _current_model(context)
        if path is None:
            raise ModelError("no model is installed")
    except BundleError as error:
        yield Finding("model", "error", str(error), "correct `bundle` in [model]")
        return
    except ModelError as error:
        yield Finding("model", "error", str(error), "install one: edge-siamese model install BUNDLE")
        return
    if trial:
        yield Finding("model", "warning", trial, "list the models: edge-siamese model list")
    yield _self_test(context, path)


def _current_model(context: Context) -> tuple[Path | None, str]:
    """Return the model's path, and a description of rejected models and of a model on trial."""
    from edge_siamese.models.installed import InstalledModels

    models, configured = InstalledModels(context.settings.models), context.settings.model.bundle
    path = models.used(configured)
    if configured:
        return path, ""
    state = models.state()
    if state.current is None:
        return path, ""
    problems = [f"{name} was rejected: {reason}" for name, reason in state.rejected.items()]
    if not state.confirmed:
        problems.append(f"{state.current} is on trial: {state.attempts} starts without a processed frame")
    return path, "; ".join(problems)


def _self_test(context: Context, path: Path) -> Finding:
    from edge_siamese.models.bundle import load_bundle
    from edge_siamese.models.signature import describe_signature, read_signature
    from edge_siamese.runtimes.confined_self_test import run_self_test

    settings, origin = context.settings.model, describe_shipped(path)
    try:
        bundle = load_bundle(path, trusted_keys=settings.trusted_keys)
        is_signed = not origin and read_signature(path) is not None
        signature = f"; {describe_signature(path, settings.trusted_keys)}" if is_signed else ""
        result = run_self_test(bundle, settings.runtime, settings.precision, settings.threads)
        report = result.report
        report.require()
    except SignatureError as error:
        remedy = "install a bundle that is signed with a trusted key; or correct `trusted_keys` in [model]"
        return Finding("model", "error", str(error), remedy)
    except EdgeSiameseError as error:
        remedy = (
            "install it again: edge-siamese model install BUNDLE; or go back: edge-siamese model rollback"
        )
        if origin:
            remedy = "install another model: edge-siamese model install BUNDLE; or reinstall edge-siamese"
        return Finding("model", "error", str(error), remedy)
    return Finding(
        "model",
        "ok",
        (f"{origin}: " if origin else "")
        + f"{bundle.manifest.model_id}, {report.precision} on {report.runtime} {result.version}: intact, and its self-test "
        f"passes (minimum cosine {report.worst_cosine:.4f})" + signature,
    )


def check_store(context: Context) -> Iterator[Finding]:
    """The object store, opened read-only: nothing is repaired here."""
    path = context.settings.store
    if _is_hidden(path.parent):
        yield Finding("store", "unknown", f"this user may not read {path}", RUN_AS_ROOT)
        return
    try:
        for damaged in sorted(path.parent.glob(f"{path.stem}.damaged-*")):
            yield Finding(
                "store",
                "warning",
                f"a damaged store was replaced by what could be recovered from it: {damaged}",
                f"check whether objects are missing: edge-siamese objects; then: sudo rm {damaged}",
            )
        if not path.exists():
            yield Finding("store", "ok", "nothing is registered yet")
            return
        yield from _check_tables(path)
    except OSError as error:
        yield Finding("store", "unknown", f"{path} cannot be read: {error.strerror}", RUN_AS_ROOT)
    except sqlite3.OperationalError as error:  # busy, or no space for its log
        yield Finding("store", "unknown", f"{path} cannot be read: {error}", RUN_AS_ROOT)
    except sqlite3.Error as error:
        yield Finding(
            "store",
            "error",
            f"{path}: {error}",
            f"restart the daemon, which repairs it: sudo systemctl restart {SERVICE}",
        )


def _is_hidden(directory: Path) -> bool:
    """Return whether a directory exists that this user may not read."""
    try:
        return directory.is_dir() and not os.access(directory, os.R_OK | os.X_OK)
    except PermissionError:
        return True


def _check_tables(path: Path) -> Iterator[Finding]:
    """Check version and integrity; raises `sqlite3.Error` if the file is not a valid store."""
    from edge_siamese.store.change_count import read_count
    from edge_siamese.store.recovery import StoreFiles
    from edge_siamese.store.tables import APPLICATION_ID, MIGRATIONS, SMALL_TABLES

    recorded = read_count(
        StoreFiles(path).change_count
    )  # before the store, which a running daemon may change
    with path.open("rb"):  # its errors are more specific than SQLite's
        pass
    uri = f"file:{quote(str(path))}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True, timeout=2.0)) as connection:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise sqlite3.DatabaseError("not a store of edge-siamese, or incomplete")
        if version > len(MIGRATIONS):
            yield Finding(
                "store",
                "error",
                f"{path} was written by a newer release (version {version}; this release reads {len(MIGRATIONS)})",
                "install that release again: sudo apt install edge-siamese",
            )
            return
        for table in SMALL_TABLES:
            ((first,), *_) = connection.execute(f"PRAGMA integrity_check({table})").fetchall()
            if first != "ok":
                raise sqlite3.DatabaseError(" ".join(str(first).split()))
        (objects,) = connection.execute("SELECT count(*) FROM objects WHERE deleted IS NULL").fetchone()
        problems = list(_check_rows(connection, recorded)) if version == len(MIGRATIONS) else []
    yield from problems or [
        Finding("store", "ok", f"{counted(objects, 'object')}, and all tables are intact")
    ]


def _check_rows(connection: sqlite3.Connection, recorded: ChangeCount | None) -> Iterator[Finding]:
    """Check checksums, names and times, and whether the last changes are there."""
    from edge_siamese.store.change_count import count_changes
    from edge_siamese.store.integrity import find_damage
    from edge_siamese.store.tables import LIVE, UNUSABLE

    restart = f"restart the daemon: sudo systemctl restart {SERVICE}"
    if damage := find_damage(connection):
        yield Finding(
            "store", "warning", f"damaged data: {damage.rows}", f"{restart}; it repairs what it can"
        )
    (views,) = connection.execute(
        "SELECT count(DISTINCT v.id) FROM embeddings e JOIN views v ON v.id = e.view_id "
        f"JOIN objects o ON o.id = v.object_id WHERE e.checksum = {UNUSABLE} AND {LIVE}"
    ).fetchone()
    if views:
        which = "1 view is damaged, and no pictures of it are stored"
        text = which if views == 1 else f"{views} views are damaged, and no pictures of them are stored"
        remedy = "list: edge-siamese quarantine; register again, then: edge-siamese objects remove-view"
        yield Finding("store", "warning", text, remedy)
    count = count_changes(connection)
    if count and (missing := count.missing(recorded)):
        remedy = f"{restart}; check the objects, and import an archive if objects are missing"
        text = "the last change is missing" if missing == 1 else f"the last {missing} changes are missing"
        yield Finding("store", "warning", text, remedy)
