"""Daemons that share a collection on a Mosquitto: all know what one learns, also after failures of the broker."""

from __future__ import annotations

import json
import random
import sqlite3
import statistics
import time
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from edge_siamese.fleet.messages import Topics, encode_state
from edge_siamese.recognition.imaging import prepare
from edge_siamese.recognition.registration import NewView
from tests.edge_siamese.daemon.running import CUP, KEY, MUG, PEN, TABLE, until
from tests.edge_siamese.fleet.test_state import a_view, an_object
from tests.system.broker import broker_in, collecting
from tests.system.fleet_daemons import THINGS, alike, all_idle, devices
from tests.tiny_bundle import MODEL_ID, write_tiny_bundle

pytestmark = pytest.mark.system

OPERATIONS = 500
WITHIN_SECONDS = 2.0
CATCHING_UP = 100
THOUSANDS = 3000
"""A Mosquitto drops what is over a thousand of retained messages for one subscription."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


def test_what_is_registered_on_one_is_recognized_on_the_others_within_two_seconds(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broker_in(tmp_path / "broker") as broker, devices(tmp_path, monkeypatch, 3) as found:
        first, second, third = (device.configure(tiny, broker).start() for device in found)
        all_idle(found)
        took = []
        for number, picture in enumerate([MUG, PEN, KEY, CUP] * 5):
            name = f"thing {number}"
            for device in (second, third):
                device.stage.picture = picture
            first.learn(picture, name)
            began = time.monotonic()
            for device in (second, third):
                until(partial(device.sees, name))
            took.append(time.monotonic() - began)
            first.actions.forget(name)
            for device in (second, third):
                until(device.sees)
                device.stage.picture = TABLE
        print(
            f"registered on one, present on two others: median {statistics.median(took):.2f} s, "
            f"longest {max(took):.2f} s of {len(took)}"
        )
        assert max(took) < WITHIN_SECONDS


@pytest.mark.parametrize("persistence", [True, False], ids=["keeps", "forgets"])
def test_all_are_alike_after_500_changes_and_a_broker_that_comes_and_goes(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, persistence: bool
) -> None:
    chance = random.Random(20 + persistence)
    with (
        broker_in(tmp_path / "broker", persistence=persistence) as broker,
        devices(tmp_path, monkeypatch, 4) as found,
    ):
        for device in found:
            device.configure(tiny, broker).start()
        done: Counter[str] = Counter()
        # The numbers of changes after which a device, and the broker, stop for a while.
        device_stops = sorted(chance.sample(range(OPERATIONS - 50), 5))
        broker_stops = sorted(chance.sample(range(OPERATIONS - 50), 15))
        while (count := sum(done.values())) < OPERATIONS:
            device = chance.choice(found)
            if device.on:
                what = device.act(chance)
                if not what.startswith("refused"):
                    done[what] += 1
                if device_stops and count >= device_stops[0]:
                    del device_stops[0]
                    device.stop()
            elif chance.random() < 0.1:
                device.start()
            if broker.running and broker_stops and count >= broker_stops[0]:
                del broker_stops[0]
                chance.choice([broker.kill, broker.stop])()
            elif not broker.running and chance.random() < 0.1:
                broker.start()
            time.sleep(chance.random() * 0.05)
        assert device_stops == broker_stops == []
        for device in found:
            if not device.on:
                device.start()
        if not broker.running:
            broker.start()
        began = time.monotonic()
        until(lambda: alike(found), 120)
        print(
            f"{OPERATIONS} changes on 4 devices ({dict(done)}): alike {time.monotonic() - began:.1f} s after the last"
        )
        assert len(done) == 7
        shown = found[0].shown()
        names = [name for name, _ in shown.values()]
        assert len(set(names)) == len(names) > 5
        for picture in THINGS[:20]:
            # Several objects were given the same picture; which of these is named, no device has to agree on.
            assert len({round(device.actions.recognize(picture).probability, 6) for device in found}) == 1
        with collecting(broker, "edge-siamese/fleet/home/content/+") as collector:
            # The broker keeps the contents of what is there, and no others.
            there = {view.split()[-1] for _, views in shown.values() for view in views}
            collector.until(lambda: len(collector.messages) >= len(there))
            time.sleep(0.5)
            assert {message.topic.rsplit("/", 1)[-1] for message in collector.messages} == there


def test_a_device_that_was_off_catches_up_and_nobody_misses_what_it_changed(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with broker_in(tmp_path / "broker") as broker, devices(tmp_path, monkeypatch, 3) as found:
        first, second, third = (device.configure(tiny, broker).start() for device in found)
        for number in range(4):
            first.learn(THINGS[20 + number], f"thing {number}")
        until(lambda: alike(found) and len(third.shown()) == 4, 20)
        third.stop()
        first.actions.forget("thing 0")
        first.actions.rename("thing 1", "pot")
        second.actions.merge("thing 2", "thing 3")
        uid = first.learn(MUG, "mug").object.uid
        until(lambda: uid in second.shown())
        second.learn(PEN, target=uid)
        until(lambda: alike([first, second]) and len(second.shown()) == 3, 20)
        second.stop()
        # It is alone with what the broker kept: who has taught it may be off.
        began = time.monotonic()
        third.start()
        until(lambda: alike([first, third]), 20)
        took = time.monotonic() - began
        assert sorted(name for name, _ in third.shown().values()) == ["mug", "pot", "thing 3"]
        assert (third.recognized(MUG), third.recognized(PEN)) == ("mug", "mug")
        print(f"a daemon that was off is alike {took:.1f} s after its start")
        # What is changed without a broker is published when there is one again.
        broker.kill()
        third.actions.forget("pot")
        third.learn(KEY, "key")
        broker.start()
        until(lambda: alike([first, third]) and first.recognized(KEY) == "key", 30)
        second.start()
        until(lambda: alike(found), 20)
        assert sorted(name for name, _ in second.shown().values()) == ["key", "mug", "thing 3"]


def test_a_device_of_another_model_embeds_the_pictures_for_itself(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_tiny_bundle(tmp_path / "other", model_id="other-0123456789ab")
    with broker_in(tmp_path / "broker") as broker, devices(tmp_path, monkeypatch, 2) as found:
        first = found[0].configure(tiny, broker).start()
        second = found[1].configure(other, broker).start()
        all_idle(found)
        uid = first.learn(MUG, "mug").object.uid
        second.learn(PEN, "pen")
        until(lambda: alike(found) and len(first.shown()) == 2, 20)
        until(lambda: (first.recognized(PEN), second.recognized(MUG)) == ("pen", "mug"), 10)
        for device in found:
            counts = device.actions.with_engine(lambda engine: engine.store.counts())
            assert (counts.objects, counts.unembedded, counts.dormant) == (2, 0, 0)
        stored = second.actions.object(uid)
        assert (stored.views, stored.embedded) == (1, 1)
        # What the broker keeps is of the model that saw the object; the other device has embedded the picture itself.
        with collecting(broker, "edge-siamese/fleet/home/content/+") as collector:
            collector.until(lambda: len(collector.messages) == 2)
            models = {json.loads(message.payload)["model_id"] for message in collector.messages}
            assert models == {MODEL_ID, "other-0123456789ab"}


def test_a_new_device_learns_100_objects_and_looks_at_its_frames_meanwhile(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(7).integers(0, 256, (CATCHING_UP, 3, 192, 192, 3), dtype=np.uint8)

    def fill() -> None:
        engine: Any = first.daemon.service.engine
        for number, crops in enumerate(pixels):
            vector = engine.encoder.embed_prepared(
                prepare(crops[0], engine.encoder.preprocessing)[np.newaxis]
            )[0]
            engine.store.register(f"thing {number}", NewView(vector, tuple(crops), "camera"))

    with broker_in(tmp_path / "broker") as broker, devices(tmp_path, monkeypatch, 2) as found:
        first, second = (device.configure(tiny, broker) for device in found)
        first.start()
        first.daemon.service.call(fill, 900.0)
        first.learn(MUG, "mug")  # which is published and starts a comparison
        until(lambda: first.idle() and first.fleet["objects"] == CATCHING_UP + 1, 60)
        second.start()
        engine = second.daemon.service.engine
        began, frames = time.monotonic(), engine.frames
        until(lambda: alike(found), 60)
        took = time.monotonic() - began
        rate = (engine.frames - frames) / took
        print(
            f"{CATCHING_UP} objects of three pictures each, {pixels.nbytes / 1e6:.0f} MB of pixels: a new device has them "
            f"after {took:.0f} s, and looks at {rate:.1f} of 20 frames a second meanwhile"
        )
        assert rate > 18


def test_a_broker_that_keeps_thousands_of_objects_gives_all_of_them(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = Topics("edge-siamese", "home")
    with broker_in(tmp_path / "broker") as broker, devices(tmp_path, monkeypatch, 1) as (device,):
        with collecting(broker, "nothing") as collector:
            for number in range(THOUSANDS):
                uid = uuid4().hex
                collector.publish(
                    topics.of("objects", uid), encode_state(an_object(f"thing {number}")), retain=True
                )
            collector.publish(topics.of("views", uid), encode_state(a_view(uid)), retain=True)
        began = time.monotonic()
        device.configure(tiny, broker).start()
        until(lambda: device.fleet.get("state") == "connected")
        print(f"{THOUSANDS} objects were read {time.monotonic() - began:.1f} s after the start of the daemon")
        until(lambda: device.fleet["to_fetch"] == 1)  # of the one that has a view, nobody has its content
        with closing(sqlite3.connect(device.daemon.state / "fleet.db")) as ledger:
            assert ledger.execute("SELECT count(*) FROM objects").fetchone() == (THOUSANDS,)
