"""The ledger: persistence, damage, transactions."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edge_siamese.errors import StoreError
from edge_siamese.fleet.ledger import Ledger
from edge_siamese.fleet.reconciliation import FleetState, ObservedObject, ObservedView
from edge_siamese.fleet.state import Registers
from tests.edge_siamese.fleet.test_state import OBJECTS, VIEWS, a_view, an_object

HOME = "edge-siamese/fleet/home"


def filled(path: Path) -> Ledger:
    ledger = Ledger(path, HOME)
    objects = {OBJECTS[0]: an_object("mug"), OBJECTS[1]: an_object("pen")}
    ledger.save(Registers(objects, {VIEWS[0]: a_view(OBJECTS[0])}))
    ledger.save_observations(
        {OBJECTS[0]: ObservedObject(True, "mug")}, {VIEWS[0]: ObservedView(OBJECTS[0], True)}, 7
    )
    ledger.note_content([VIEWS[0]])
    return ledger


def test_everything_is_loaded_again(tmp_path: Path) -> None:
    path = tmp_path / "state" / "fleet.db"
    first = filled(path)
    first.save(Registers({OBJECTS[0]: an_object("cup", named=4)}))
    first.close()
    again = Ledger(path, HOME)
    assert again.known == first.known
    assert again.known.objects[OBJECTS[0]].name.value == "cup"
    assert again.known.observed_objects == {OBJECTS[0]: ObservedObject(True, "mug")}
    assert again.known.observed_views == {VIEWS[0]: ObservedView(OBJECTS[0], True)}
    assert (again.published_content, again.revision) == ({VIEWS[0]}, 7)
    again.note_content([VIEWS[0]], published=False)
    again.close()
    assert Ledger(path, HOME).published_content == set()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_another_collection_starts_empty(tmp_path: Path) -> None:
    filled(tmp_path / "fleet.db").close()
    other = Ledger(tmp_path / "fleet.db", "edge-siamese/fleet/office")
    assert (other.known, other.published_content, other.revision) == (FleetState(), set(), -1)
    other.close()
    assert Ledger(tmp_path / "fleet.db", HOME).known == FleetState()


@pytest.mark.parametrize("damage", ["text", "half", "zeros", "another program", "a number"])
def test_an_unusable_file_is_renamed(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "fleet.db"
    filled(path).close()
    content = path.read_bytes()
    if damage == "text":
        path.write_text("This is no database, but a letter that is long enough to be one." * 100)
    elif damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "zeros":
        path.write_bytes(content[:4096] + bytes(len(content) - 4096))
    else:
        with sqlite3.connect(path) as connection:
            connection.execute(
                "PRAGMA application_id = 5"
                if damage == "another program"
                else "UPDATE facts SET value = 'yesterday' WHERE name = 'revision'"
            )
        connection.close()
    damaged = path.read_bytes()
    ledger = Ledger(path, HOME)
    assert ledger.known == FleetState()
    ledger.save(Registers({OBJECTS[0]: an_object()}))
    ledger.close()
    assert Ledger(path, HOME).known.objects == {OBJECTS[0]: an_object()}
    assert (tmp_path / "fleet.damaged.db").read_bytes() == damaged
    assert "renamed to fleet.damaged.db, and created again" in caplog.text


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("objects", "name_stamp = 'yesterday'"),
        ("objects", "life_stamp = x'ff'"),
        ("objects", "life = 'dead'"),
        ("objects", "name = x'00'"),
        ("views", "place_stamp = '003bb2cc3d800-0000-evil'"),
        ("views", "kind = 'photo'"),
        ("views", "created = 'now'"),
        ("objects", "created = '0001-01-01T00:00:00+00:00'"),
        ("views", "owner = x'05'"),
    ],
)
def test_an_unusable_row_is_skipped(
    tmp_path: Path, table: str, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "fleet.db"
    first = filled(path)
    first.save(Registers({}, {VIEWS[1]: a_view(OBJECTS[1])}))
    first.close()
    uid = (OBJECTS if table == "objects" else VIEWS)[0]
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA ignore_check_constraints = 1")
        connection.execute(f"UPDATE {table} SET {change} WHERE uid = '{uid}'")
    connection.close()
    again = Ledger(path, HOME)
    both = again.known.objects.keys() | again.known.views.keys()
    assert both == {*OBJECTS[:2], *VIEWS[:2]} - {uid}
    assert again.revision == 7
    assert caplog.messages == ["1 unusable rows of fleet.db are skipped"]
    again.close()


def test_a_failed_change_changes_nothing(tmp_path: Path) -> None:
    ledger = filled(tmp_path / "fleet.db")
    before = dict(ledger.known.objects)
    other = sqlite3.connect(tmp_path / "fleet.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ledger._connection.execute("PRAGMA busy_timeout = 1")
    with pytest.raises(StoreError, match="is in use by another program, nothing was changed"):
        ledger.save(Registers({OBJECTS[0]: an_object("cup", named=4)}))
    assert ledger.known.objects == before
    other.execute("ROLLBACK")
    ledger.save(Registers({OBJECTS[0]: an_object("cup", named=4)}))
    assert ledger.known.objects[OBJECTS[0]].name.value == "cup"
    ledger.close()
    with pytest.raises(StoreError, match=r"fleet\.db is closed"):
        ledger.save(Registers({OBJECTS[0]: an_object("cup", named=4)}))


WRITER = """
import os, sys
from pathlib import Path
from edge_siamese.fleet.ledger import Ledger
from edge_siamese.fleet.state import Registers
from tests.edge_siamese.fleet.test_state import an_object
ledger = Ledger(Path(sys.argv[1]), "home")
number = len(ledger.known.objects)
while True:
    ledger.save(Registers({f"{number + i:032x}": an_object(f"thing {number + i}") for i in range(3)}))
    number += 3
    os.write(1, f"{number}\\n".encode())
"""


def test_transactions_survive_8_kills(tmp_path: Path) -> None:
    chance = random.Random(4)
    path = tmp_path / "fleet.db"
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, env={**os.environ}
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(chance.random() * 0.05)
        writer.send_signal(signal.SIGKILL)
        said = writer.stdout.read().split()
        writer.wait()
        ledger = Ledger(path, "home")
        kept = len(ledger.known.objects)
        assert kept % 3 == 0
        assert kept >= int(said[-1] if said else 0)
        ledger.close()
    assert not (tmp_path / "fleet.damaged.db").exists()
