"""Installed models of a device: install, trial, rollback.

`state.json` names the current and the previous model. It is written atomically, so that there is always a current model. A
new model is on trial until the daemon confirms it; if the daemon does not start with it, the previous model becomes current
again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec
from msgspec.structs import replace

from edge_siamese.errors import BundleError, EdgeSiameseError, ModelError, ModelsInUse, SignatureError
from edge_siamese.models import default, describe_shipped, resolve
from edge_siamese.models.bundle import MANIFEST, Bundle, load_bundle
from edge_siamese.models.manifest import MAX_FILE_BYTES
from edge_siamese.models.signature import SIGNATURE
from edge_siamese.system.files import replace_directory, staging_directory, write_text_atomically
from edge_siamese.validation import Record, SchemaError, convert, parse_json

LOG = logging.getLogger(__name__)

STATE, STAGING, SELF_TESTS = "state.json", ".incoming", "self_tests.json"
MAX_ATTEMPTS = 3
"""Starts of the daemon with a model on trial before the model is rejected."""
BUSY_SECONDS, BUSY_STEP_SECONDS = 1.0, 0.05
"""How long to wait for another process that changes the models, and how often to try again, in seconds."""
MAX_KEPT = 4
"""Models to keep, including the current and the previous one."""
MAX_RESULTS, MAX_RESULTS_BYTES = 16, 64 * 1024


class ModelState(Record):
    """Contents of `state.json`."""

    current: str | None = None
    """The directory of the current model."""
    previous: str | None = None
    """The directory of the previous model."""
    confirmed: bool = True
    """Whether a daemon has run with the current model."""
    attempts: int = 0
    """Starts of the daemon with the current model since it was installed, while it is on trial."""
    rejected: dict[str, str] = msgspec.field(default_factory=dict)
    """Rejected models and the reasons."""
    order: tuple[str, ...] = ()
    """The directories of the installed models, the latest last; file dates give no order, as the clock may jump."""


@dataclass(frozen=True)
class InstalledModel:
    """A model in the directory of installed models."""

    name: str
    """Name of its directory: the model ID and the first digits of its manifest's hash."""
    path: Path
    role: str
    """current, previous or kept."""
    problem: str = ""
    """Why it was rejected; empty if it was not."""


class InstalledModels:
    """The directory of installed models."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def state(self) -> ModelState:
        """Read the state; raises `ModelError` if it cannot be read."""
        path = self.directory / STATE
        try:
            return convert(parse_json(path.read_bytes()), ModelState)
        except FileNotFoundError:
            return ModelState()
        except (SchemaError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ModelError(
                f"{path} cannot be read: {reason}; remove it and install a model again"
            ) from error

    def current(self) -> Path | None:
        """The directory of the current bundle; None if no model is installed."""
        name = self.state().current
        return self.directory / name if name else None

    def used(self, configured: str = "") -> Path | None:
        """The directory of the bundle that the daemon uses.

        Args:
            configured: path or name of the bundle in the settings; empty if they name none.

        Returns:
            The configured bundle, else the current one, else the default shipped one; None if there is none.

        Raises:
            BundleNotFound: no bundle of the given name is shipped.
            ModelError: the state cannot be read.
        """
        return resolve(configured) if configured else self.current() or default()

    def all(self) -> list[InstalledModel]:
        """All models, the current one first."""
        state = self.state()
        roles = {state.previous: "previous", state.current: "current"}
        found = [
            InstalledModel(path.name, path, roles.get(path.name, "kept"), state.rejected.get(path.name, ""))
            for path in self._kept()
        ]
        return sorted(found, key=lambda model: ("current", "previous", "kept").index(model.role))

    def install(
        self, source: str | Path, check: Callable[[Bundle], object], trusted_keys: Sequence[str] = ()
    ) -> InstalledModel:
        """Check a bundle, copy it, and make it current; the model that was current becomes the previous one.

        Args:
            source: the directory of a bundle, or the name of a shipped one.
            check: called with the bundle; raises if this device should not use it, such as the self-test.
            trusted_keys: see `load_bundle`.

        Raises:
            BundleError: the source is not a valid bundle.
            ModelError: the copy cannot be made.
            Whatever `check` raises; then nothing has changed.
        """
        bundle = load_bundle(source, trusted_keys=trusted_keys)
        if trusted_keys and not bundle.signer:
            name = bundle.path.name
            raise SignatureError(
                f"{name} is shipped with the program and not signed, so that a copy cannot be verified: "
                f'set bundle = "{name}" in [model] of the settings instead'
            )
        name = model_directory(bundle)
        # Before root privileges are dropped: runtimes are imported now, perhaps from a place that only root can read.
        # The copy is verified by its checksums.
        check(bundle)
        with ExitStack() as stack:
            # Opened before root privileges are dropped: the source may be in a home that only root can read.
            paths = [MANIFEST, *(item.path for _, item in bundle.manifest.files())]
            if (bundle.path / SIGNATURE).exists():
                paths.append(SIGNATURE)
            try:
                files = {path: stack.enter_context((bundle.path / path).open("rb")) for path in paths}
            except OSError as error:
                raise ModelError(f"{source} cannot be read: {error.strerror or error}") from error
            incoming = stack.enter_context(self._changing())
            try:
                copy = incoming / name
                copy.mkdir()
                for path, file in files.items():
                    (copy / path).parent.mkdir(parents=True, exist_ok=True)
                    with (copy / path).open("xb") as target:
                        _copy(file, target)
                if model_directory(load_bundle(copy, trusted_keys=trusted_keys)) != name:
                    raise ModelError(f"{source} changed while it was copied: install it again")
                replace_directory(copy, self.directory / name)
            except BundleError:
                raise
            except OSError as error:
                reason = error.strerror or error
                raise ModelError(f"{bundle.manifest.model_id} cannot be copied: {reason}") from error
            state = self.state()
            previous = state.previous if state.current == name else state.current
            rejected = {other: reason for other, reason in state.rejected.items() if other != name}
            order = (*(other for other in state.order if other != name), name)
            self._write(ModelState(name, previous, confirmed=False, rejected=rejected, order=order))
            self._prune()
        return InstalledModel(name, self.directory / name, "current")

    def rollback(self, reason: str = "") -> InstalledModel:
        """Swap the current and the previous model; without a previous one, return to the shipped model.

        Args:
            reason: why the current model is rejected. A rejected model is not chosen again automatically.

        Raises:
            ModelError: there is neither a previous nor a shipped model, or the shipped one is used already.
        """
        with self._changing():
            state, shipped = self.state(), default()
            back = state.previous
            if back and not ((self.directory / back).is_dir() and not (reason and back in state.rejected)):
                back = None
            if back is None and shipped is None:
                raise ModelError("there is no previous model; install one: edge-siamese model install BUNDLE")
            if back is None and state.current is None:
                raise ModelError(f"there is no model other than {describe_shipped(shipped or Path())}")
            rejected = dict(state.rejected)
            if reason and state.current:
                rejected[state.current] = reason
            if back:
                rejected.pop(back, None)
            self._write(
                replace(
                    state,
                    current=back,
                    previous=state.current,
                    confirmed=not (reason and back),
                    attempts=0,
                    rejected=rejected,
                )
            )
        if back is None:
            assert shipped is not None
            return InstalledModel(shipped.name, shipped, "shipped")
        return InstalledModel(back, self.directory / back, "current")

    def begin(self) -> tuple[Path | None, str]:
        """Start with the current model. While it is on trial, the attempt is counted.

        Returns:
            The directory of the bundle, or None if none is installed; and a message if the model on trial was just
            rejected, else an empty string.
        """
        state = self.state()
        if state.current is None:
            return None, ""
        message = ""
        if not state.confirmed and state.attempts >= MAX_ATTEMPTS:
            reason = f"it did not start in {state.attempts} attempts"
            if self._may_fall_back(state):
                message = self.reject(reason)
            # Without a previous model it stays: power cuts may have ended the attempts. If it crashes, the daemon's
            # own count of starts leads to the shipped model.
            state = self.state()
        if not state.confirmed:
            try:
                with self._changing():
                    self._write(replace(state, attempts=state.attempts + 1))
            except ModelError as error:  # a full disk must not prevent recognition
                LOG.warning("an attempt with the model on trial is not counted: %s", error)
        return self.directory / str(state.current), message

    def rejects_trial(self) -> bool:
        """Return whether `begin` will reject the model on trial; raises `ModelError` if the state cannot be read."""
        state = self.state()
        return not state.confirmed and state.attempts >= MAX_ATTEMPTS and self._may_fall_back(state)

    def reject(self, reason: str, path: Path | None = None) -> str:
        """Return to the previous model; returns a message that says so.

        Args:
            reason: why.
            path: the model that does not work; if another one has become current, nothing changes.

        Raises:
            ModelError: there is no previous model, or it was rejected before.
        """
        state = self.state()
        if path is not None and state.current != path.name:
            return f"{path.name} does not work ({reason}); {state.current} was made current meanwhile"
        if not self._may_fall_back(state):
            raise ModelError(f"{state.current or 'the model'} does not work, and there is no other: {reason}")
        back = self.rollback(reason)
        return f"{state.current} was rejected ({reason}); {back.name} is current again"

    def is_last(self, path: Path) -> bool:
        """Whether this model is current and `reject` has no other model to return to."""
        state = self.state()
        return state.current == path.name and not self._may_fall_back(state)

    def confirm(self) -> None:
        """End the trial of the current model: the daemon runs with it."""
        state = self.state()
        if state.current and not (state.confirmed and state.attempts == 0):
            with self._changing():
                self._write(replace(state, confirmed=True, attempts=0))

    def outcome(self, key: str) -> str | None:
        """The result of an earlier self-test: empty if it passed, else why it crashed; None if it is unknown.

        Args:
            key: identifies bundle, runtime and program; see `runtimes.confined_self_test.self_test_key`.
        """
        return self._results().get(key)

    def remember(self, key: str, problem: str = "") -> None:
        """Keep the result of a self-test, so that it need not run at each start."""
        others = {name: value for name, value in self._results().items() if name != key}
        kept = dict([*others.items(), (key, problem)][-MAX_RESULTS:])
        try:
            with _as_owner(self.directory.parent):
                write_text_atomically(self.directory / SELF_TESTS, json.dumps(kept, indent=2) + "\n")
        except OSError as error:  # such as a full disk; the test runs again at the next start
            LOG.debug("%s cannot be written: %s", self.directory / SELF_TESTS, error)

    def _results(self) -> dict[str, str]:
        with suppress(OSError, SchemaError), (self.directory / SELF_TESTS).open("rb") as file:
            return convert(parse_json(file.read(MAX_RESULTS_BYTES)), dict[str, str])
        return {}

    def _may_fall_back(self, state: ModelState) -> bool:
        return (
            state.previous is not None
            and state.previous not in state.rejected
            and (self.directory / state.previous).is_dir()
        )

    def _kept(self) -> list[Path]:
        try:
            found = [path for path in self.directory.iterdir() if (path / MANIFEST).is_file()]
        except FileNotFoundError:
            return []
        return sorted(path for path in found if not path.name.startswith("."))

    def _prune(self) -> None:
        """Remove the models that were installed first, except the current and the previous one."""
        state = self.state()
        others = [path for path in self._kept() if path.name not in (state.current, state.previous)]
        places = {name: place for place, name in enumerate(state.order)}
        others.sort(key=lambda path: places.get(path.name, -1))
        for path in others[: max(0, len(others) + 2 - MAX_KEPT)]:
            shutil.rmtree(path)
        left = {path.name for path in self._kept()}
        self._write(replace(state, order=tuple(name for name in state.order if name in left)))

    def _write(self, state: ModelState) -> None:
        write_text_atomically(
            self.directory / STATE, json.dumps(msgspec.structs.asdict(state), indent=2) + "\n"
        )

    @contextmanager
    def _changing(self) -> Iterator[Path]:
        """Hold the lock for changes to the models; yields an empty staging directory."""
        try:
            with _as_owner(self.directory.parent):
                self.directory.mkdir(parents=True, exist_ok=True)
                with ExitStack() as stack:
                    yield _enter_directory(stack, self.directory / STAGING)
        except BlockingIOError as error:
            raise ModelsInUse(f"another process is changing the models in {self.directory}") from error
        except PermissionError as error:
            raise ModelError(
                f"the models in {self.directory} may not be changed by this user: use sudo"
            ) from error
        except OSError as error:
            if isinstance(error, EdgeSiameseError):
                raise
            raise ModelError(
                f"the models in {self.directory} cannot be changed: {error.strerror or error}"
            ) from error


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    """Copy a file, and no more than a bundle's file may have: the source may grow meanwhile."""
    copied = 0
    while (chunk := source.read(1 << 20)) and copied <= MAX_FILE_BYTES:
        target.write(chunk)
        copied += len(chunk)


def _enter_directory(stack: ExitStack, path: Path) -> Path:
    """Enter the staging directory; wait up to `BUSY_SECONDS`, longer than a change takes, for another process."""
    for _ in range(round(BUSY_SECONDS / BUSY_STEP_SECONDS)):
        with suppress(BlockingIOError):
            return stack.enter_context(staging_directory(path))
        time.sleep(BUSY_STEP_SECONDS)
    return stack.enter_context(staging_directory(path))


@contextmanager
def _as_owner(directory: Path) -> Iterator[None]:
    """Drop root privileges to those of the owner of a directory.

    New files then belong to the daemon from the start, and an attacker who controls the daemon cannot redirect root with
    symbolic links in its directory.
    """
    if os.geteuid() != 0 or not directory.exists() or (owner := directory.stat()).st_uid == 0:
        yield
        return
    import fcntl  # noqa: F401  # the owner may not be able to read it later

    groups, group = os.getgroups(), os.getegid()
    try:
        os.setgroups([owner.st_gid])
        os.setegid(owner.st_gid)
        os.seteuid(owner.st_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


def model_directory(bundle: Bundle) -> str:
    """The name of an installed bundle's directory, which is equal only for equal bundles."""
    digest = hashlib.sha256((bundle.path / MANIFEST).read_bytes()).hexdigest()[:8]
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in bundle.manifest.model_id).lstrip(".")
    return f"{name[:80]}-{digest}"
