"""A process that is killed at any moment has lost nothing that it acknowledged, and left no half object."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.edge_siamese.store.samples import open_store, picture, vector, view

ROOT = Path(__file__).parents[3]
KILLS = 60


@pytest.fixture
def starter():
    program = [sys.executable, "-m", "tests.edge_siamese.store.changing_process"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        program,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        yield process
        process.stdin.close()


def life(starter, place, first, acknowledged, delay, what="live"):
    """Start a process, and kill it some time after some acknowledgments; returns all that it acknowledged.

    The delay only varies the moment of the kill; no assertion depends on how far the process comes within it.
    """
    starter.stdin.write(f"{what} {place} {first}\n")
    lines, child = [], 0
    while not child or len(lines) < acknowledged:
        line = starter.stdout.readline()
        assert line, "the program ended"
        if line.startswith("born"):
            child = int(line.split()[1])
        else:
            lines.append(line)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    while (line := starter.stdout.readline()) != "dead\n":
        assert line, "the program ended"
        lines.append(line)
    return [(what, int(number)) for what, number in map(str.split, lines)]


def require_whole(store, numbers):
    """Each object has one or two views, with their embeddings and pictures."""
    entries = {entry.name: entry for entry in store.entries()}
    for number in numbers:
        entry = entries[f"thing {number}"]
        views = store.views(entry.uid)
        seeds = [number, -number % 100_000][: len(views)]
        assert np.array_equal(entry.embeddings, [vector(seed) for seed in seeds])
        assert [found.id for found in views] == list(entry.view_ids)
        for found, seed in zip(views, seeds, strict=True):
            assert found.crops == 2
            for place in range(2):
                assert np.array_equal(store.crop(found.id, place), picture(10 * seed + place))


def test_sixty_kills_lose_nothing_that_was_acknowledged(tmp_path, starter):
    moments = random.Random(2015)
    registered = []
    for turn in range(KILLS):
        first = 1 + max(registered, default=0)
        # Every third process is killed while it starts, the others after one to three acknowledgments.
        acknowledgments, longest = (1 + turn % 3, 0.01) if turn % 3 else (0, 0.06)
        told = life(starter, tmp_path, first, acknowledgments, moments.uniform(0.0, longest))
        acknowledged = [number for what, number in told if what == "registered"]
        viewed = [number for what, number in told if what == "viewed"]
        with open_store(tmp_path) as store:
            assert store.repair is None
            found = [int(item.name.split()[1]) for item in store.objects()]
            new = found[len(registered) :]
            assert found[: len(registered)] == registered
            assert new[: len(acknowledged)] == acknowledged
            assert len(new) - len(acknowledged) in (0, 1)
            assert all(store.object(f"thing {number}").views == 2 for number in viewed)
            require_whole(store, new)
        registered = found
    assert len(registered) >= KILLS
    with open_store(tmp_path) as store:
        assert store._database.read("PRAGMA integrity_check") == [("ok",)]
        assert store._database.read("PRAGMA foreign_key_check") == []
        counts = store.counts()
        assert counts.objects == len(store.entries()) == len(registered)
        assert (counts.unembedded, counts.dormant) == (0, 0)
        assert store._database.read("SELECT count(*) FROM crops") == [(2 * counts.views,)]
        require_whole(store, registered)


# What is recognized of an object by the things that were done with it: by its own views, and as part of the shelf.
STEPS = {
    "": ((), ()),
    "registered": ((1,), ()),
    "viewed": ((1, -1), ()),
    "removed": ((-1,), ()),
    "merged": ((), (-1,)),
    "undone": ((-1,), ()),
}


def test_durability_leave_no_half_of_a_removed_view_or_a_merge(tmp_path, starter):
    moments = random.Random(2016)
    with open_store(tmp_path) as store:
        store.register("shelf", view(0))
    first, cut = 1, set()
    expected = {}  # number of an object -> the last thing that was done with it
    for _ in range(KILLS // 2):
        steps = moments.randrange(1, 12)
        told = life(starter, tmp_path, first, steps, moments.uniform(0.0, 0.01), "tidy")
        acknowledged = {number: what for what, number in told}
        expected.update(acknowledged)
        last = max(acknowledged)
        with open_store(tmp_path) as store:
            assert store.repair is None
            rows = {entry.name: entry.embeddings.tolist() for entry in store.entries()}
            shelf = rows.pop("shelf")[1:]
            found = {}
            for number in range(1, last + 2):
                seeds = {1: number, -1: -number % 100_000}
                own = rows.pop(f"thing {number}", [])
                for what, (at_home, on_shelf) in STEPS.items():
                    if own == [vector(seeds[side]).tolist() for side in at_home] and all(
                        (vector(seeds[side]).tolist() in shelf) == (side in on_shelf) for side in seeds
                    ):
                        found[number] = what
                        break
            assert rows == {}
            names = list(STEPS)
            for number in range(1, last):
                assert STEPS[found[number]] == STEPS[expected[number]]
            # The last change may be on disk before it was acknowledged; it is there as a whole, or not at all.
            done = names.index(expected[last])
            following = names[done : done + 1 if expected[last] == "merged" and last % 2 == 0 else done + 2]
            assert STEPS[found[last]] in [STEPS[name] for name in following]
            assert found[last + 1] in ("", "registered")
            cut.add(expected[last])
            expected[last], expected[last + 1] = found[last], found[last + 1]
            first = last + 2
            assert store._database.read("PRAGMA foreign_key_check") == []
    assert len(cut) >= 3 and first > KILLS // 2
    with open_store(tmp_path) as store:
        assert store._database.read("PRAGMA integrity_check") == [("ok",)]


def test_a_log_that_was_torn_anywhere_keeps_every_whole_change(tmp_path):
    place, log = tmp_path / "whole", "objects.db-wal"
    open_store(place).close()
    ends = []
    with open_store(place) as store:
        for number in range(12):
            store.register(f"thing {number}", view(number))
            ends.append((place / log).stat().st_size)
        assert ends == sorted(set(ends))
        shutil.copytree(place, tmp_path / "copy")
    choose = random.Random(1)
    cuts = [
        0,
        ends[-1],
        *ends[3:6],
        *(end - 1 for end in ends[3:6]),
        *(choose.randrange(ends[-1]) for _ in range(24)),
    ]
    for turn, cut in enumerate(cuts):
        torn = tmp_path / f"torn {turn}"
        shutil.copytree(tmp_path / "copy", torn, ignore=shutil.ignore_patterns("*-shm"))
        with (torn / log).open("r+b") as file:
            file.truncate(cut)
            if turn % 2:  # and what a disk may leave behind the end
                file.seek(cut)
                file.write(choose.randbytes(5000))
        kept = sum(end <= cut for end in ends)
        with open_store(torn) as store:
            assert store.repair is None
            assert [item.name for item in store.objects()] == [f"thing {number}" for number in range(kept)]
            require_whole(store, range(kept))
            assert store.register("next", view(99)).embedded == 1
        shutil.rmtree(torn)
