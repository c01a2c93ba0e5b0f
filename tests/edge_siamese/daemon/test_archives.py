"""Uploads of archives: abandoned ones are deleted by their age, whatever the wall clock does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_siamese.daemon.archives import Uploads
from edge_siamese.errors import ControlError
from tests.manual_clock import ManualClock

YEAR = 366 * 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(20.0)


@pytest.fixture
def uploads(tmp_path: Path, clock: ManualClock) -> Uploads:
    return Uploads(tmp_path, clock)


@pytest.mark.parametrize("jump", [YEAR, -YEAR], ids=["ahead", "back"])
def test_an_upload_in_progress_survives_a_clock_that_is_set(uploads: Uploads, jump: float) -> None:
    first = uploads.append(b"a", None)
    path = uploads.path(first)
    # The date of the file before and after the jump.
    os.utime(path, (path.stat().st_mtime - jump,) * 2)
    second = uploads.append(b"b", None)
    assert uploads.append(b"c", first) == first
    assert uploads.path(first).read_bytes() == b"ac"
    assert uploads.path(second).read_bytes() == b"b"
    with pytest.raises(ControlError, match=r"^2 archives are being uploaded already; try again later$"):
        uploads.append(b"d", None)


@pytest.mark.parametrize("jump", [YEAR, -YEAR], ids=["ahead", "back"])
def test_an_abandoned_upload_is_deleted_after_an_hour(
    uploads: Uploads, clock: ManualClock, jump: float
) -> None:
    first, second = uploads.append(b"a", None), uploads.append(b"b", None)
    path = uploads.path(first)
    os.utime(path, (path.stat().st_mtime - jump,) * 2)
    clock.now += 3599.0
    uploads.append(b"b", second)
    clock.now += 2.0
    third = uploads.append(b"c", None)
    assert not path.exists()
    assert uploads.path(second).read_bytes() == b"bb"
    assert uploads.path(third).read_bytes() == b"c"
    with pytest.raises(ControlError, match=r"^there is no such upload$"):
        uploads.append(b"a", first)


def test_a_removed_upload_makes_room_for_another(uploads: Uploads) -> None:
    first, _ = uploads.append(b"a", None), uploads.append(b"b", None)
    path = uploads.path(first)
    uploads.remove(first)
    assert not path.exists()
    uploads.append(b"c", None)


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "0" * 32])
def test_only_own_uploads_have_a_path(uploads: Uploads, tmp_path: Path, name: str) -> None:
    uploads.append(b"a", None)
    (tmp_path / "incoming" / f"{'0' * 32}.zip").write_bytes(b"of another")
    with pytest.raises(ControlError, match=r"^there is no such upload$"):
        uploads.path(name)
