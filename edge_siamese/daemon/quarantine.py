"""Quarantine: parts that the daemon no longer uses because they failed, and fallbacks after starts that ended early.

Both are kept in the state directory. If the disk cannot be written, they last until the next start.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from edge_siamese.errors import ControlError, SettingsError, describe_error
from edge_siamese.recognition.support import SupportEntry
from edge_siamese.system.files import write_text_atomically
from edge_siamese.system.wall_clock import utc_now
from edge_siamese.validation import Record, SchemaError, convert, is_time, nearest, parse_json

LOG = logging.getLogger(__name__)
T = TypeVar("T")

FILE, STARTS_FILE = "quarantine.json", "starts.json"
MAX_FILE_BYTES = 200_000
MAX_PARTS = 100
"""Parts in quarantine; if more fail, the daemon stops using the whole store."""
DAMAGED = "damaged-view-"
"""Start of the ids of views whose stored data are damaged; they are in the store, and not in the file."""
MAX_TEXT = 200
"""Characters of a reason or a name."""
MAX_EARLY_ENDS = 3
"""Starts that ended early before the daemon starts without the store."""
STARTS_PER_FALLBACK = 2
"""Starts with one fallback that may end early before the next one is tried."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

PartKind = Literal["object", "view", "model", "settings", "store"]


class Part(Record, frozen=True):
    """A part that the daemon does not use."""

    id: str
    """Its name in commands, such as `view-12`."""
    kind: PartKind
    reference: str
    """Uid of an object, number of a view, directory of a model, or digest of settings."""
    name: str
    """Display name, such as `view 12 of "mug"`."""
    reason: str
    """The error, in one line."""
    time: str = ""
    """When it was put into quarantine: UTC, ISO 8601; empty for what is determined at each start."""

    @property
    def text(self) -> str:
        """Human-readable line."""
        return f"{self.name} is not used: {self.reason}"

    def report(self) -> dict[str, Any]:
        """Return JSON values."""
        fields = ("id", "kind", "name", "text", "reason", "time")
        return {field: getattr(self, field) for field in fields}


class _Contents(Record):
    """The contents of the file."""

    parts: tuple[Part, ...] = ()


def object_part(entry: SupportEntry, reason: str) -> Part:
    """Return the part for an object."""
    return Part(
        f"object-{entry.uid[:8]}", "object", entry.uid, f'the object "{_cut(entry.name)}"', _cut(reason)
    )


def view_part(entry: SupportEntry, view: int, reason: str) -> Part:
    """Return the part for one view or negative of an object."""
    return Part(f"view-{view}", "view", str(view), f'view {view} of "{_cut(entry.name)}"', _cut(reason))


def damaged_part(view: int, name: str, reason: str) -> Part:
    """Return the part for a view of an object that cannot be used until somebody removes it."""
    return Part(f"{DAMAGED}{view}", "view", str(view), f'view {view} of "{_cut(name)}"', _cut(reason))


def store_part(reason: str) -> Part:
    """Return the part for all objects."""
    return Part("store", "store", "", "the object store", reason)


def model_part(directory: str, reason: str) -> Part:
    """Return the part for a model, by the name of its directory."""
    return Part("model", "model", directory, f"the model {_cut(directory)}", _cut(reason))


def settings_part(digest: str, reason: str) -> Part:
    """Return the part for `[recognition]`, `[[regions]]` and `[registration]` of the settings with this digest."""
    name = "the part [recognition], [[regions]] and [registration] of the settings"
    return Part("settings", "settings", digest, name, _cut(reason))


class Quarantine:
    """The parts in quarantine. Used from one thread, except for reading `parts`."""

    def __init__(
        self,
        directory: Path | None,
        report: Callable[[Part], object] = lambda _: None,
        now: Callable[[], str] = utc_now,
    ) -> None:
        """Read the file in the state directory; a damaged one counts as empty.

        Args:
            directory: None: in memory.
            report: called with each new part.
            now: the current time, UTC, ISO 8601.
        """
        self._path = None if directory is None else directory / FILE
        self._report, self._now = report, now
        saved = _Contents() if self._path is None else _read(self._path, _Contents())
        self.parts: tuple[Part, ...] = tuple(
            part if is_time(part.time) else msgspec.structs.replace(part, time="")
            for part in saved.parts[:MAX_PARTS]
        )
        """All parts, in the order in which they failed."""

    def add(self, part: Part) -> None:
        """Put a part into quarantine; if the quarantine is full, the whole store replaces objects and views."""
        others = tuple(known for known in self.parts if known.id != part.id)
        if len(others) >= MAX_PARTS:
            others = tuple(known for known in others if known.kind not in ("object", "view", "store"))
            part = store_part(f"more than {MAX_PARTS} objects and views failed")
        part = msgspec.structs.replace(part, time=self._now())
        self._write((*others, part))
        self._report(part)

    def add_failing(
        self, entries: Sequence[SupportEntry], works: Callable[[list[SupportEntry]], bool], reason: str
    ) -> list[Part]:
        """Quarantine the objects and views that prevent success; see `failing_parts`."""
        found = failing_parts(entries, works, reason)
        for part in found:
            self.add(part)
        return found

    def restore(self, part_id: str) -> Part:
        """Take a part out of quarantine and return it; raises `ControlError` if there is none with this id."""
        for part in self.parts:
            if part.id == part_id:
                self._write(tuple(known for known in self.parts if known is not part))
                return part
        if part_id.startswith(DAMAGED):
            raise ControlError(
                "its stored data are damaged, so it cannot be used: register the view again, then remove this one: "
                "edge-siamese objects remove-view"
            )
        hint = nearest(part_id, [part.id for part in self.parts])
        raise ControlError(f'"{part_id}" is not in quarantine{hint}; list the parts: edge-siamese quarantine')

    def drop(self, kind: PartKind, keep: str = "") -> None:
        """Take out all parts of a kind, except for the one with the reference `keep`."""
        remaining = tuple(part for part in self.parts if part.kind != kind or part.reference == keep)
        if remaining != self.parts:
            self._write(remaining)

    def has(self, kind: PartKind, reference: str) -> bool:
        """Return whether a part is in quarantine."""
        return any(part.kind == kind and part.reference == reference for part in self.parts)

    def usable(self, entries: Sequence[SupportEntry]) -> list[SupportEntry]:
        """Return the objects and views that are not in quarantine; an object without views is left out."""
        if any(part.kind == "store" for part in self.parts):
            return []
        objects = {part.reference for part in self.parts if part.kind == "object"}
        views = {
            int(part.reference) for part in self.parts if part.kind == "view" and part.reference.isdecimal()
        }
        if not (objects or views):
            return list(entries)
        found = [entry for entry in entries if entry.uid not in objects]
        return [entry for entry in (without_views(entry, views) for entry in found) if entry.view_ids]

    def _write(self, parts: tuple[Part, ...]) -> None:
        self.parts = parts
        if self._path is None:
            return
        try:
            if parts:
                write_text_atomically(
                    self._path, json.dumps(msgspec.to_builtins(_Contents(parts)), indent=2) + "\n"
                )
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("%s cannot be written: %s", self._path, error.strerror or error)


def without_views(entry: SupportEntry, views: set[int]) -> SupportEntry:
    """Return an object without some of its views."""
    kept = [place for place, view in enumerate(entry.view_ids) if view not in views]
    if len(kept) == len(entry.view_ids):
        return entry
    return replace(
        entry, view_ids=tuple(entry.view_ids[place] for place in kept), embeddings=entry.embeddings[kept]
    )


def only_view(entry: SupportEntry, view: int) -> SupportEntry:
    """Return an object with one of its views."""
    return without_views(entry, set(entry.view_ids) - {view})


def failing_items(items: Sequence[T], works: Callable[[list[T]], bool]) -> list[T]:
    """Find the items that cause a failure, by trying subsets; few trials if they are few.

    Args:
        items: all of them.
        works: whether it works with these items; it does with none. If items fail only in combination, the last of
            them is found.
    """
    kept: list[T] = []
    bad: list[T] = []

    def add(part: Sequence[T]) -> None:
        if works([*kept, *part]):
            kept.extend(part)
        elif len(part) == 1:
            bad.append(part[0])
        else:
            half = len(part) // 2
            add(part[:half])
            add(part[half:])

    if items:
        add(items)
    return bad


def failing_parts(
    entries: Sequence[SupportEntry], works: Callable[[list[SupportEntry]], bool], reason: str
) -> list[Part]:
    """Find the objects and views that cause a failure.

    Args:
        entries: the registered objects.
        works: whether it works with these objects; it does with none.
        reason: the reason to record for the parts.
    """
    found: list[Part] = []
    for entry in failing_items(entries, works):
        bare = replace(entry, negatives=entry.negatives[:0])
        views = [view for view in entry.view_ids if not works([only_view(bare, view)])]
        if 0 < len(views) < len(entry.view_ids) and works([without_views(entry, set(views))]):
            found += [view_part(entry, view, reason) for view in views]
        else:
            found.append(object_part(entry, reason))
    return found


# --- starts that end early ---


class _Starts(Record):
    """The contents of the file."""

    boot: str = ""
    """The boot of the machine: a power cut does not count as an early end."""
    early: int = 0
    """Starts since the last healthy one."""


@dataclass(frozen=True)
class Fallback:
    """The parts that a start does not use."""

    store: bool = False
    """Whether the object store is not used."""
    model: bool = False
    """Whether the shipped model replaces the installed one."""
    early_ends: int = 0
    """Starts that ended early before."""

    def parts(self) -> list[Part]:
        """Describe it like the parts in quarantine."""
        reason = f"{self.early_ends} starts of the daemon ended early"
        found = []
        if self.store:
            found.append(store_part(reason))
        if self.model:
            found.append(Part("model", "model", "", "the installed model", reason))
        return found


class StartCounter:
    """Counts starts of the daemon that end early, within one boot of the machine."""

    def __init__(self, directory: Path, boot_id: Path = BOOT_ID) -> None:
        """Read the file in the state directory; a damaged one counts as empty."""
        self._path = directory / STARTS_FILE
        self._boot = ""
        with suppress(OSError, UnicodeDecodeError):
            self._boot = boot_id.read_text(encoding="ascii").strip()
        saved = _read(self._path, _Starts())
        self.early = min(max(0, saved.early), 1000) if saved.boot == self._boot else 0
        """Starts that ended early, one after another."""
        self._open = False

    def begin(self) -> Fallback:
        """Count a start, which ends early unless `healthy` or `ended` follows; returns its fallback."""
        self._open = True
        self._write(self.early + 1)
        return fallback_after(self.early)

    def clear(self) -> None:
        """Forget earlier starts; this one continues."""
        self.early = 0
        self._write(1 if self._open else 0)

    def healthy(self) -> None:
        """Note that this start did not end early."""
        if self._open:
            self._open, self.early = False, 0
            self._write(0)

    def ended(self) -> None:
        """Note that the daemon was stopped, so that this start does not count."""
        if self._open:
            self._open = False
            self._write(self.early)

    def _write(self, early: int) -> None:
        try:
            if early:
                text = json.dumps(msgspec.to_builtins(_Starts(self._boot, early)))
                write_text_atomically(self._path, text + "\n")
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            LOG.debug("%s cannot be written: %s", self._path, error)


def fallback_after(early_ends: int) -> Fallback:
    """Return the parts that a start does not use: first the store, then the installed model, then both."""
    step = (early_ends - MAX_EARLY_ENDS) // STARTS_PER_FALLBACK
    if early_ends < MAX_EARLY_ENDS:
        return Fallback(early_ends=early_ends)
    return Fallback(store=step != 1, model=step >= 1, early_ends=early_ends)


def _read(path: Path, default: T) -> T:
    try:
        with path.open("rb") as file:
            return convert(parse_json(file.read(MAX_FILE_BYTES)), type(default))
    except FileNotFoundError:
        return default
    except (OSError, ValueError, SchemaError, SettingsError) as error:
        LOG.warning("%s cannot be read and is ignored: %s", path, describe_error(error))
        return default


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"
