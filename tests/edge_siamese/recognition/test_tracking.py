"""From frames to reports: appeared, seen, left."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from edge_siamese.recognition.decision import Recognition
from edge_siamese.recognition.tracking import Sighting, Tracker


def shows(name: str | None, probability: float = 0.9, uid: str | None = None) -> Recognition:
    """What a frame shows; `?` is an object that is near and not recognized."""
    if name is None:
        return Recognition(None, 0.2, "mug", None, 0.2, 0.75, "below threshold", nearest_uid="u-mug")
    return Recognition(name, probability, name, None, probability, 0.75, "recognized", uid=uid or f"u-{name}")


def tracker(
    window: int = 6, appear: int = 4, leave: int = 1, every: float = 0.0, gap: float = 5.0
) -> Tracker:
    numbers = itertools.count(1)
    return Tracker(window, appear, leave, every, gap_s=gap, new_id=lambda: f"s{next(numbers)}")


def either(pair: str) -> Recognition:
    """An undecided frame: the first object is as near as the second."""
    one, other = pair
    return Recognition(
        None, 0.9, one, other, 0.0, 0.75, "look-alikes", nearest_uid=f"u-{one}", runner_up_uid=f"u-{other}"
    )


def play(
    to: Tracker, frames: str, start: float = 0.0, period: float = 0.5
) -> list[tuple[float, str, str, str]]:
    """Each letter is a frame that shows the object of this name, `.` one that shows none: (time, kind, name, id)."""
    news = []
    for number, letter in enumerate(frames):
        time = start + number * period
        for found in to.update(shows(None if letter == "." else letter), time):
            news.append((time, found.kind, found.name, found.sighting))
    return news


def test_an_object_appears_with_the_fourth_of_six_frames_and_leaves_with_the_last_but_one() -> None:
    assert play(tracker(), "mmm..mmm......") == [(2.5, "appeared", "m", "s1"), (6.0, "left", "m", "s1")]
    assert play(tracker(), "mmmm.....") == [(1.5, "appeared", "m", "s1"), (4.0, "left", "m", "s1")]


@pytest.mark.parametrize("frames", ["mmm...mmm...", "m.m.m.m.m.m.", "......", "mm..m..m.m.m"])
def test_too_few_frames_are_no_sighting(frames: str) -> None:
    assert play(tracker(), frames) == []


def test_frames_that_miss_it_do_not_make_it_flicker() -> None:
    assert play(tracker(), "mmmm..m..m..m..m..m..m..m") == [(1.5, "appeared", "m", "s1")]


def test_one_frame_is_enough_with_a_window_of_one() -> None:
    found = play(tracker(1, 1, 0), "m.mk")
    assert found == [
        (0.0, "appeared", "m", "s1"),
        (0.5, "left", "m", "s1"),
        (1.0, "appeared", "m", "s2"),
        (1.5, "left", "m", "s2"),
        (1.5, "appeared", "k", "s3"),
    ]


def test_another_object_takes_over() -> None:
    assert play(tracker(), "mmmmkkkkkk") == [
        (1.5, "appeared", "m", "s1"),
        (3.5, "appeared", "k", "s2"),
        (4.0, "left", "m", "s1"),
    ]


def test_objects_that_alternate_are_there_together() -> None:
    to = tracker(8, 3, 1)
    assert play(to, "mkmkmkmkmkmkmk") == [(2.0, "appeared", "m", "s1"), (2.5, "appeared", "k", "s2")]
    assert [(found.kind, found.uid, found.sighting) for found in to.present] == [
        ("seen", "u-m", "s1"),
        ("seen", "u-k", "s2"),
    ]


def test_what_a_sighting_says() -> None:
    to = tracker(4, 2, 0, every=2.0)
    news: list[Sighting] = []
    for time, found in (
        (10.0, shows("mug", 0.8)),
        (11.0, shows(None)),
        (11.5, shows("mug", 0.9)),
        (12.0, shows("mug", 1.0)),
        (13.5, shows(None)),
        (14.0, shows(None)),
        (14.5, shows(None)),
        (15.0, shows(None)),
    ):
        news += to.update(found, time)
    appeared, seen, left = news
    assert appeared == Sighting("appeared", "u-mug", "mug", "s1", pytest.approx(0.85), 0.75, 2, 10.0, 1.5)
    assert seen == Sighting("seen", "u-mug", "mug", "s1", pytest.approx(0.9), 0.75, 3, 10.0, 2.0)
    assert left == Sighting("left", "u-mug", "mug", "s1", pytest.approx(0.9), 0.75, 3, 10.0, 2.0)
    assert [found.text for found in news] == [
        "mug appeared (p = 0.85)",
        "mug is still there, for 2 s now",
        "mug left after 2 s",
    ]
    assert json.loads(json.dumps(left.data())) == {
        "uid": "u-mug",
        "name": "mug",
        "sighting": "s1",
        "probability": 0.9,
        "threshold": 0.75,
        "frames": 3,
        "duration_s": 2.0,
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (5399, "90 min"), (9000, "2.5 h")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert Sighting("left", "u", "mug", "s", 0.9, 0.8, 9, 0.0, seconds).text == f"mug left after {text}"


def test_while_it_stays_it_is_seen_so_often() -> None:
    times = [time for time, kind, *_ in play(tracker(every=10.0), "m" * 70) if kind == "seen"]
    assert times == [11.5, 21.5, 31.5]
    assert [kind for _, kind, *_ in play(tracker(every=0.0), "m" * 70)] == ["appeared"]


def test_a_gap_ends_every_sighting_when_the_frames_stopped() -> None:
    to = tracker(gap=5.0)
    play(to, "mmmm")
    assert to.update(shows("m"), 6.5) == []
    (left,) = to.update(shows("m"), 11.6)
    assert (left.kind, left.sighting, left.frames, left.duration_s) == ("left", "s1", 5, 6.5)
    assert to.present == ()
    assert play(to, "mmm", start=12.0) == [(13.0, "appeared", "m", "s2")]


def test_a_gap_ends_sightings_without_another_frame_too() -> None:
    to = tracker(gap=5.0)
    play(to, "mmmm")
    assert to.tick(6.5) == []
    assert [(found.kind, found.duration_s) for found in to.tick(6.6)] == [("left", 1.5)]
    assert to.tick(20.0) == []
    assert play(to, "mmm", start=21.0) == []


def test_time_that_goes_back_stands_still() -> None:
    to = tracker(every=2.0, gap=5.0)
    play(to, "mmmm", start=100.0)
    assert [found.kind for time in (3.0, 3.5, 4.0) for found in to.update(shows("m"), time)] == []
    (seen,) = to.update(shows("m"), 5.0)
    assert (seen.kind, seen.since, seen.duration_s, seen.frames) == ("seen", 100.0, 3.5, 8)
    (left,) = to.tick(10.1)
    assert (left.kind, left.sighting) == ("left", "s1")


def test_without_a_camera_everything_left() -> None:
    to = tracker(8, 3, 1)
    play(to, "mkmkmk")
    assert [(found.kind, found.name, found.duration_s) for found in to.reset(60.0)] == [
        ("left", "m", 2.0),
        ("left", "k", 2.0),
    ]
    assert to.reset(61.0) == []
    assert play(to, "mm", start=62.0) == []


def test_a_forgotten_object_left_and_its_frames_count_no_more() -> None:
    to = tracker()
    play(to, "mmm")
    assert to.forget("u-m") == []
    assert play(to, "m", start=1.5) == []
    play(to, "mmm", start=2.0)
    (left,) = to.forget("u-m")
    assert (left.kind, left.uid, left.frames) == ("left", "u-m", 4)
    assert to.present == ()
    assert to.forget("u-m") == to.forget("never") == []
    assert play(to, "...", start=4.0) == []


def test_a_renamed_object_keeps_its_sighting() -> None:
    to = tracker()
    play(to, "mmmm")
    to.rename("u-m", "cup")
    to.rename("never", "cup")
    assert [(found.name, found.sighting) for found in to.present] == [("cup", "s1")]
    to.rename("u-m", "m")
    assert to.update(shows("beaker", uid="u-m"), 2.0) == []
    assert [found.name for found in to.present] == ["beaker"]
    assert [(found.name, found.sighting, found.frames) for found in to.reset(3.0)] == [("beaker", "s1", 5)]


def test_sightings_have_ids_of_their_own() -> None:
    found = [Tracker(1, 1, 0, 0).update(shows("m"), 0.0)[0].sighting for _ in range(50)]
    assert len(set(found)) == 50
    assert all(len(sighting) == 12 for sighting in found)


@pytest.mark.parametrize(("window", "appear", "leave"), [(4, 5, 1), (4, 2, 2), (4, 0, 0), (4, 2, -1)])
def test_numbers_that_contradict_each_other(window: int, appear: int, leave: int) -> None:
    with pytest.raises(ValueError, match=r"^0 <= leave < appear <= window is needed, not leave"):
        Tracker(window, appear, leave, 0)


def test_it_agrees_with_counting_frames_and_each_sighting_begins_once_and_ends_once() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        window = int(rng.integers(1, 8))
        appear = int(rng.integers(1, window + 1))
        leave = int(rng.integers(0, appear))
        to = tracker(window, appear, leave, every=1.0)
        frames = "".join(rng.choice(list("mk.."), 200))
        there: dict[str, str] = {}
        for number, letter in enumerate(frames):
            seen = frames[max(0, number + 1 - window) : number + 1]
            for found in to.update(shows(None if letter == "." else letter), number * 0.5):
                if found.kind == "appeared":
                    assert found.name not in there
                    assert found.sighting not in there.values()
                    there[found.name] = found.sighting
                elif found.kind == "left":
                    assert there.pop(found.name) == found.sighting
                else:
                    assert there[found.name] == found.sighting
            assert {found.name for found in to.present} == set(there)
            for name in "mk":
                if seen.count(name) >= appear:
                    assert name in there
                if seen.count(name) <= leave:
                    assert name not in there


class TestLookAlikes:
    """`m` shows one object, `?` that object or `k`, `.` none."""

    @staticmethod
    def play(to: Tracker, frames: str) -> list[tuple[float, str, str]]:
        news = []
        for number, letter in enumerate(frames):
            shown = either("mk") if letter == "?" else shows(None if letter == "." else letter)
            news += [(0.5 * number, found.kind, found.name) for found in to.update(shown, 0.5 * number)]
        return news

    def test_undecided_frames_are_reported_once(self) -> None:
        assert self.play(tracker(), "????????????") == [(1.5, "undecided", "m")]
        assert self.play(tracker(), "???...???...") == []

    def test_they_are_reported_again_after_a_pause(self) -> None:
        found = self.play(tracker(), "????.....????")
        assert found == [(1.5, "undecided", "m"), (6.0, "undecided", "m")]

    def test_neither_object_appears(self) -> None:
        to = tracker()
        assert self.play(to, "m?.m?.m?.m?.") == []
        assert to.present == ()

    def test_they_keep_an_object_present(self) -> None:
        to = tracker()
        assert self.play(to, "mmmm????????????") == [(1.5, "appeared", "m")]
        assert [(one.uid, one.frames, one.duration_s) for one in to.present] == [("u-m", 4, 7.5)]
        assert self.play(to, "......")[0][1:] == ("left", "m")

    def test_an_object_that_is_decided_later_appears(self) -> None:
        found = self.play(tracker(), "????mmmm")
        assert found == [(1.5, "undecided", "m"), (3.5, "appeared", "m")]

    def test_another_pair_is_another_report(self) -> None:
        to, kinds = tracker(), list[str]()
        for number, pair in enumerate(["mk"] * 5 + ["km"] * 5 + ["mp"] * 6):
            kinds += [f"{one.name}{one.other_name}" for one in to.update(either(pair), 0.5 * number)]
        assert kinds == ["mk", "mp"]

    def test_the_report_names_both(self) -> None:
        to = Tracker(6, 4, 1, 0.0, region="shelf", new_id=lambda: "s1")
        (found,) = [one for number in range(4) for one in to.update(either("mk"), 0.5 * number)]
        assert found.text == 'm or k in "shelf": both are about equally close (p = 0.90)'
        assert found.data() == {
            "name": "m or k",
            "uids": ["u-m", "u-k"],
            "names": ["m", "k"],
            "region": "shelf",
            "sighting": "s1",
            "probability": 0.9,
            "threshold": 0.75,
            "frames": 4,
            "duration_s": 1.5,
        }

    def test_a_forgotten_object_is_no_alternative(self) -> None:
        to = tracker()
        self.play(to, "???")
        to.forget("u-k")
        assert to.update(either("mk"), 2.0) == []
