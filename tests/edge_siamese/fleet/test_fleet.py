"""Devices that share objects over a broker in memory."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from datetime import datetime
from pathlib import Path

import pytest
from msgspec.structs import replace

from edge_siamese.errors import StoreError
from edge_siamese.fleet import fleet, transfer
from edge_siamese.fleet.broker_mirror import Message
from edge_siamese.fleet.clock import LATEST_MS
from edge_siamese.fleet.fake_broker import FakeBroker
from edge_siamese.fleet.messages import encode_state
from edge_siamese.fleet.state import Life, Name, ObjectState
from edge_siamese.system import wall_clock
from edge_siamese.system.wall_clock import unix_ms
from tests.edge_siamese.fleet.members import Member, act, alike, members, until
from tests.edge_siamese.fleet.test_state import CREATED, OBJECTS, an_object
from tests.edge_siamese.store.samples import view

BASE = "edge-siamese/fleet/home"


def kept(broker: FakeBroker, kind: str) -> set[str]:
    """The uids of which the broker keeps something."""
    return {topic.rsplit("/", 1)[1] for topic in broker.retained if f"/{kind}/" in topic}


def views_of(member: Member, name: str) -> list[str]:
    found: list[str] = member.with_engine(
        lambda engine: [item.uid for item in engine.store.views(engine.store.object(name).uid)]
    )
    return found


def test_a_registration_reaches_the_other_devices(tmp_path: Path) -> None:
    with members(tmp_path, 3) as (first, second, third):
        uid = first.learn("mug", 1)
        until(lambda: second.names == third.names == ["mug"])
        assert second.shown() == first.shown()
        assert second.reloaded == [[uid]]
        until(second.events)
        (event,) = second.events()
        assert event.text == 'fleet home: added "mug"'
        assert event.data["added"] == [{"uid": uid, "name": "mug"}]
        assert first.events() == []
        content = [member.with_engine(lambda engine: engine.store.entries()) for member in (first, second)]
        assert content[0][0].embeddings.tolist() == content[1][0].embeddings.tolist()
        until(lambda: alike([first, second, third]))
        assert second.fleet.report() == {
            "collection": "home",
            "state": "connected",
            "objects": 1,
            "to_publish": 0,
            "to_fetch": 0,
            "last_sync": second.fleet.report()["last_sync"],
            "problem": None,
        }


@pytest.mark.parametrize("hours", [3000, -5])
def test_the_last_sync_follows_a_clock_that_is_set_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
) -> None:
    with members(tmp_path) as (first, _):
        first.learn("mug", 1)
        until(lambda: first.fleet.report()["last_sync"])
        first.stop()
        before = datetime.fromisoformat(first.fleet.report()["last_sync"])
        monkeypatch.setattr(wall_clock, "unix_ms", lambda: unix_ms() + hours * 3_600_000)
        after = datetime.fromisoformat(first.fleet.report()["last_sync"])
        assert abs((after - before).total_seconds() - hours * 3600) < 60


def test_every_change_and_its_undo_reach_the_other_devices(tmp_path: Path) -> None:
    with members(tmp_path) as (first, second):
        mug, pen = first.learn("mug", 1), first.learn("pen", 2)
        first.do(lambda store: store.add_view("mug", view(3)))
        first.do(lambda store: store.add_negative("mug", view(4)))
        until(lambda: alike([first, second]) and len(second.shown()) == 2)
        before = second.shown()
        assert [len(views) for _, views in before.values()] == [3, 1]
        side = views_of(first, "mug")[0]
        changes = {
            "forgotten": lambda store: store.forget("mug"),
            "renamed": lambda store: store.rename("mug", "cup"),
            "view removed": lambda store: store.remove_view(
                "mug", next(item.id for item in store.views("mug") if item.uid == side)
            ),
            "merged": lambda store: store.merge("pen", "mug"),
        }
        for kind, change in changes.items():
            first.do(change, kind)
            until(lambda: alike([first, second]) and second.shown() != before)
            first.do(lambda store: store.undo(), "undone")
            until(lambda: alike([first, second]) and second.shown() == before)
        # An event follows the change of the store.
        until(lambda: second.events()[-1].text.endswith('added "pen"'))
        texts = [event.text.removeprefix("fleet home: ") for event in second.events()]
        assert texts[-8:] == [
            'forgot "mug"',
            'added "mug"',
            'renamed "mug" to "cup"',
            'renamed "cup" to "mug"',
            'changed views of "mug"',
            'changed views of "mug"',
            'forgot "pen"; changed views of "mug"',
            'added "pen"',
        ]
        assert second.reloaded[-2:] == [[pen], [pen]]
        assert mug in before


def test_undo_affects_changes_of_this_device_only(tmp_path: Path) -> None:
    with members(tmp_path) as (first, second):
        second.learn("pen", 2)
        until(lambda: first.names == ["pen"])
        first.learn("mug", 1)
        until(lambda: second.names == ["mug", "pen"])
        second.do(lambda store: store.undo(), "undone")
        until(lambda: alike([first, second]))
        assert first.names == second.names == ["mug"]
        assert second.do(lambda store: store.undo(), "undone") is None


def test_a_device_catches_up_from_the_broker_alone(tmp_path: Path) -> None:
    with members(tmp_path) as (first, second):
        first.learn("mug", 1)
        first.learn("pen", 2)
        until(lambda: alike([first, second]) and len(second.shown()) == 2)
        second.stop()
        first.do(lambda store: store.forget("mug"))
        first.do(lambda store: store.rename("pen", "pencil"))
        first.learn("key", 3)
        until(lambda: first.idle() and len(kept(first.broker, "content")) == 2)
        first.stop()
        second.start()
        until(lambda: second.idle() and second.names == ["key", "pencil"])


def test_offline_changes_are_published_after_the_reconnect(tmp_path: Path) -> None:
    with members(tmp_path) as (first, second):
        first.learn("mug", 1)
        until(lambda: second.names == ["mug"])
        first.broker.stop()
        first.learn("pen", 2)
        second.do(lambda store: store.rename("mug", "cup"))
        second.learn("key", 3)
        until(lambda: first.fleet.report()["state"] == "disconnected")
        first.broker.start()
        until(lambda: alike([first, second]) and first.names == ["cup", "key", "pen"])


def test_a_broker_that_lost_everything_is_restored(tmp_path: Path) -> None:
    with members(tmp_path) as (first, second):
        for number in range(5):
            first.learn(f"thing {number}", number)
        first.do(lambda store: store.forget("thing 0"))
        broker = first.broker
        until(lambda: alike([first, second]) and len(second.shown()) == 4)
        before = dict(broker.retained)
        broker.stop(forget=True)
        broker.start()
        until(lambda: alike([first, second]) and broker.retained == before, 15)


def test_the_later_name_wins_and_equal_names_are_numbered(tmp_path: Path) -> None:
    with members(tmp_path) as (first, second):
        uid = first.learn("mug", 1)
        until(lambda: second.names == ["mug"])
        first.broker.stop()
        first.do(lambda store: store.rename("mug", "cup"))
        until(lambda: first.fleet._ledger.known.objects[uid].name.value == "cup")
        until(lambda: unix_ms() > int(first.fleet._ledger.known.objects[uid].name.stamp[:13], 16))
        second.do(lambda store: store.rename("mug", "Tasse"))
        pen = first.learn("pen", 2)
        until(lambda: pen in first.fleet._ledger.known.objects)
        until(lambda: unix_ms() > int(first.fleet._ledger.known.objects[pen].name.stamp[:13], 16))
        second.learn("Pen", 3)
        first.broker.start()
        until(lambda: alike([first, second]))
        found = {uid: name for uid, (name, _) in first.shown().items()}
        assert found[uid] == "Tasse"
        assert sorted(name.lower() for name in found.values()) == ["pen", "pen (2)", "tasse"]


def test_a_view_added_during_a_remote_merge_is_not_lost(tmp_path: Path) -> None:
    with members(tmp_path) as (first, second):
        mug = first.learn("mug", 1)
        first.learn("pen", 2)
        until(lambda: alike([first, second]) and len(second.shown()) == 2)
        first.broker.stop()
        first.do(lambda store: store.merge("mug", "pen"))
        second.do(lambda store: store.add_view("mug", view(3)))
        first.broker.start()
        until(lambda: alike([first, second]) and len(first.shown()) == 2)
        assert [len(views) for _, views in sorted(first.shown().values())] == [1, 2]
        assert first.shown()[mug][0] == "mug"


def test_contents_of_forgotten_objects_leave_the_broker(tmp_path: Path) -> None:
    with members(tmp_path, 3) as found:
        first, second, third = found
        broker = first.broker
        mug, pen = first.learn("mug", 1), first.learn("pen", 2)
        first.do(lambda store: store.add_view("pen", view(3)))
        until(lambda: alike(found) and len(kept(broker, "content")) == 3)
        second.do(lambda store: store.forget("mug"))
        until(lambda: alike(found) and kept(broker, "content") == set(views_of(first, "pen")))
        side = third.with_engine(lambda engine: engine.store.views("pen")[0])
        third.do(lambda store: store.remove_view("pen", side.id))
        until(lambda: alike(found) and len(kept(broker, "content")) == 1)
        # An undo gives it back, from the device that has it.
        second.do(lambda store: store.undo(), "undone")
        until(lambda: alike(found) and len(kept(broker, "content")) == 2)
        assert kept(broker, "objects") == {mug, pen}


def test_a_lost_content_is_requested_from_other_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "RETAINED_SECONDS", 0.1)
    monkeypatch.setattr(transfer, "ANSWER_SECONDS", 0.6)
    monkeypatch.setattr(transfer, "ANSWER_SPREAD_SECONDS", 0.2)
    with members(tmp_path, 3) as (first, second, third):
        first.learn("mug", 1)
        until(lambda: alike([first, second, third]) and second.names == ["mug"])
        third.stop()
        third.start()
        third.stop()
        shutil.rmtree(third.home)
        third.home.mkdir()
        broker = first.broker
        for topic in [topic for topic in broker.retained if "/content/" in topic]:
            del broker.retained[topic]
        first.stop()  # who registered it is off, so that the other has to answer
        third.start()
        until(lambda: third.names == ["mug"])
        assert any(topic.startswith(f"{BASE}/requests/") for topic, _ in broker.published)
        assert len(kept(broker, "content")) == 1


def test_a_device_of_another_model_gets_the_pictures(tmp_path: Path) -> None:
    broker = FakeBroker()
    with (
        members(tmp_path, 1, broker) as (first,),
        members(tmp_path / "other", 1, broker, model_id="other-1", keep_crops=False) as (second,),
    ):
        first.learn("mug", 1, crops=2)
        until(lambda: second.names == ["mug"] and second.relearned == 1)
        counts = second.with_engine(lambda engine: engine.store.counts())
        assert (counts.views, counts.unembedded, counts.dormant) == (1, 1, 0)
        number = second.with_engine(lambda engine: engine.store.views("mug")[0].id)
        assert second.with_engine(lambda engine: engine.store.picture_count(number)) == 2


def test_invalid_messages_are_skipped_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with members(tmp_path) as (first, second):
        stranger = first.broker.transport()
        topics = {kind: f"{BASE}/{kind}/{OBJECTS[5][0]}/{OBJECTS[5]}" for kind in ("objects", "views")}
        for payload in (b"{}", b"\xff", b"[" * 10_000, b"0" * 10_000_000, b'{"format": 2}'):
            for topic in (*topics.values(), f"{BASE}/requests/{OBJECTS[5]}", f"{BASE}/objects/0/mug"):
                stranger.publish(topic, payload, retain=True)
        stranger.publish(topics["objects"], encode_state(an_object("ghost")), retain=True)
        first.learn("mug", 1)
        until(lambda: second.names == ["mug"])
        stranger.publish(f"{BASE}/content/{views_of(first, 'mug')[0]}", b"no picture", retain=True)
        first.learn("pen", 2)
        until(lambda: alike([first, second]) and second.names == ["mug", "pen"])
        passed = [record for record in caplog.records if "is skipped" in record.message]
        assert 0 < len(passed) <= 6
        assert "the fleet failed" not in caplog.text
        # What another release has written there is left to those that can read it.
        stranger.publish(topics["views"], b'{"format": 2}', retain=True)
        first.learn("key", 3)
        until(lambda: alike([first, second]) and "key" in second.names)
        assert first.broker.retained[topics["views"]] == b'{"format": 2}'


def test_a_lost_ledger_restores_no_forgotten_object(tmp_path: Path) -> None:
    with members(tmp_path) as (first, second):
        for name, number in (("mug", 1), ("pen", 2), ("key", 3)):
            first.learn(name, number)
        until(lambda: alike([first, second]) and len(second.shown()) == 3)
        second.stop()
        (second.home / "fleet.db").write_bytes(b"no database, and long enough to be looked at" * 100)
        first.do(lambda store: store.forget("mug"))
        first.do(lambda store: store.rename("pen", "pencil"))
        until(lambda: first.idle())
        second.start()
        until(lambda: alike([first, second]))
        assert first.names == second.names == ["key", "pencil"]


def test_a_restored_store_catches_up(tmp_path: Path) -> None:
    with members(tmp_path) as (first, second):
        first.learn("mug", 1)
        until(lambda: second.names == ["mug"])
        second.with_engine(lambda engine: engine.store.backup())
        first.do(lambda store: store.forget("mug"))
        first.learn("pen", 2)
        until(lambda: second.names == ["pen"] and second.idle())
        second.stop()
        for path in second.home.glob("objects.db*"):
            path.unlink()
        shutil.copy(second.home / "objects.backup.db", second.home / "objects.db")
        second.start()
        until(lambda: alike([first, second]))
        assert first.names == second.names == ["pen"]


def test_missing_rows_are_fetched_again(tmp_path: Path) -> None:
    with members(tmp_path) as (first, second):
        first.learn("mug", 1)
        first.learn("pen", 2)
        until(lambda: alike([first, second]) and len(second.shown()) == 2)

        def lose(store) -> None:
            with store._database.change() as connection:
                connection.execute(
                    "DELETE FROM views WHERE object_id IN (SELECT id FROM objects WHERE name = 'mug')"
                )
                connection.execute("DELETE FROM objects WHERE name = 'mug'")

        second.do(lose)
        until(lambda: alike([first, second]) and second.names == ["mug", "pen"])
        assert first.names == ["mug", "pen"]


def test_a_crash_between_store_and_ledger_is_no_change_of_this_device(tmp_path: Path) -> None:
    with members(tmp_path) as (first, second):
        uid = first.learn("mug", 1)
        until(lambda: alike([first, second]) and second.names == ["mug"])

        def crash(*_: object) -> None:
            raise StoreError("the power is off")

        second.fleet._ledger.save_observations = crash
        first.do(lambda store: store.rename("mug", "cup"))
        until(lambda: second.names == ["cup"])
        until(lambda: second.fleet.report()["problem"] == "the power is off")
        second.stop()
        first.do(lambda store: store.rename("cup", "pot"))
        until(first.idle)
        stamp = first.fleet._ledger.known.objects[uid].name.stamp
        second.start()
        until(lambda: alike([first, second]))
        assert (first.names, second.names) == (["pot"], ["pot"])
        assert second.fleet._ledger.known.objects[uid].name.stamp == stamp


def test_a_full_disk_loses_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "RETRY_SECONDS", 0.1)
    with members(tmp_path) as (first, second):
        ledger = second.fleet._ledger
        save = ledger.save

        attempts = []

        def full(*_: object) -> None:
            attempts.append(1)
            raise StoreError("the disk is full")

        ledger.save = full
        uid = first.learn("mug", 1)
        until(lambda: second.fleet.report()["problem"] == "the disk is full")
        first.do(lambda store: store.rename("mug", "cup"))
        before = len(attempts)
        until(lambda: len(attempts) > before + 2)
        assert (second.names, second.fleet.report()["state"]) == ([], "reading")
        ledger.save = save
        until(lambda: alike([first, second]) and second.names == ["cup"])
        assert second.fleet.report()["problem"] is None
        assert first.shown()[uid][0] == "cup"


@pytest.mark.parametrize("failure", [StoreError("the disk is full"), RuntimeError("a fault")])
def test_a_failure_while_handling_messages_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    monkeypatch.setattr(fleet, "RETRY_SECONDS", 0.1)
    with members(tmp_path) as (first, second):
        sender = second.fleet._publisher
        marker_received, failed = sender.marker_received, [0]

        def fail(payload: bytes) -> None:
            if failed[0] == 0:
                failed[0] += 1
                raise failure
            marker_received(payload)

        uids = [first.learn(name, number) for number, name in enumerate(("mug", "pen"))]
        until(lambda: alike([first, second]) and len(second.shown()) == 2)
        monkeypatch.setattr(sender, "marker_received", fail)
        # All in one turn: a message to itself that cannot be noted, and after it news that come only once.
        item = second.fleet._ledger.known.objects[uids[0]]
        news = replace(item, name=Name(first.fleet._clock.next(), "cup"))
        topic = f"{BASE}/objects/{uids[0][0]}/{uids[0]}"
        with first.broker.lock, second.fleet._inbox._changed:
            second.fleet._inbox.put(Message(second.fleet._mirror.markers, b"a marker"))
            first.broker.transport().publish(topic, encode_state(news), retain=True)
        until(lambda: failed[0])
        until(lambda: alike([first, second]) and second.names == ["cup", "pen"])


@pytest.mark.parametrize("timeless", [False, True])
def test_the_last_possible_stamp_blocks_no_changes(tmp_path: Path, timeless: bool) -> None:
    with members(tmp_path, 3) as found:
        first, second, third = found
        if timeless:
            third.fleet._clock._now_ms = lambda: 12_000
        uid = first.learn("mug", 1)
        until(lambda: alike(found) and third.names == ["mug"])
        last = f"{LATEST_MS - 1:013x}-ffff-evil"
        evil = an_object("ha").merged(ObjectState(CREATED, Name(last, "ha"), Life(last, "forgotten")))
        stranger = first.broker.transport()
        stranger.publish(f"{BASE}/objects/{uid[0]}/{uid}", encode_state(evil), retain=True)
        until(lambda: first.fleet._mirror._overruled and second.fleet._mirror._overruled)
        if timeless:
            until(lambda: third.names == [])
            third.fleet._clock._now_ms = unix_ms  # its clock is set
            third.fleet._clock_offset = 0.0
            third.fleet._store_changed.set()
            third.fleet._inbox.wake()
            until(lambda: third.fleet._ledger.known.objects[uid].life.stamp < last)
        until(lambda: alike(found))
        second.learn("pen", 2)
        until(lambda: alike(found) and "pen" in first.names)
        second.do(lambda store: store.rename("pen", "pencil"))
        until(lambda: alike(found) and "pencil" in first.names)
        if not timeless:
            second.do(lambda store: store.rename("mug", "cup"))
            until(lambda: alike(found) and first.names == ["cup", "pencil"])
            third.stop()
            shutil.rmtree(third.home)
            third.home.mkdir()
            third.start()  # who joins gets it as well
            until(lambda: alike(found) and third.names == ["cup", "pencil"])
        assert all(not (member.home / "fleet.damaged.db").exists() for member in found)


def test_a_nearly_full_disk_receives_only_removals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full: set[Path] = set()
    checks: Counter[Path] = Counter()

    def is_nearly_full(directory: Path) -> bool:
        checks[directory] += 1
        return directory in full

    monkeypatch.setattr(fleet, "is_nearly_full", is_nearly_full)
    monkeypatch.setattr(fleet, "CHECK_SECONDS", 0.2)
    with members(tmp_path) as (first, second):
        first.learn("mug", 1)
        until(lambda: alike([first, second]) and second.names == ["mug"])
        full.add(second.home)
        first.learn("pen", 2)
        until(lambda: second.fleet.report()["problem"] == fleet.DISK_FULL)
        first.do(lambda store: store.forget("mug"))
        until(lambda: second.names == [])
        before = checks[second.home]
        until(lambda: checks[second.home] > before + 2)
        assert (second.names, second.fleet.report()["to_fetch"]) == ([], 1)
        full.clear()
        until(lambda: alike([first, second]) and second.names == ["pen"])
        assert second.fleet.report()["problem"] is None
        told = [event.text for event in second.events() if "nearly full" in event.text]
        assert told == [f"fleet home: {fleet.DISK_FULL}"]


def test_500_random_changes_with_an_unreliable_broker(tmp_path: Path) -> None:
    chance = random.Random(5)
    broker = FakeBroker()
    with members(tmp_path, 3, broker) as found:
        broker.loss = 0.02
        for number in range(500):
            member = chance.choice(found)
            on = member.fleet._thread.is_alive()
            if on:
                act(member, chance, number)
            if chance.random() < (0.01 if on else 0.1):
                (member.stop if on else member.start)()
            if chance.random() < (0.02 if broker.running else 0.2):
                broker.stop(forget=chance.random() < 0.3) if broker.running else broker.start()
        broker.start()
        broker.loss = 0.0
        for member in found:
            if not member.fleet._thread.is_alive():
                member.start()
        until(lambda: alike(found), 60)
        first, *others = (member.fleet._ledger.known for member in found)
        assert len(first.objects) > 15  # how many depends on what each device had seen before it acted
        for known in others:
            assert (known.objects, known.views) == (first.objects, first.views)
        shown = found[0].shown()
        there = {name.split()[1] for _, views in shown.values() for name in views}
        assert len(there) > 3
        until(lambda: kept(broker, "content") == there)
