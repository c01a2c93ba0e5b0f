"""What happens in a scene and when."""

from __future__ import annotations

import itertools
import math

import pytest

from edge_siamese.cameras.synthetic.script import (
    Light,
    Press,
    Script,
    Show,
    demo_script,
    hold,
    press,
)
from edge_siamese.errors import CameraError

NAMES = ("anchor", "kite", "spiral", "ladder", "fish")


def edges(script: Script, until: float) -> list[tuple[float, bool]]:
    found, after = [], -1.0
    while (edge := script.next_edge(after)) is not None and edge[0] <= until:
        found.append((round(edge[0], 3), edge[1]))
        after = edge[0]
    return found


def test_gestures_are_presses_of_their_lengths() -> None:
    assert press(2.0) == (Press(2.0, 0.15),)
    assert hold(2.0, "wrong") == (Press(2.0, 1.6, "wrong"),)
    assert edges(Script((Press(2.0, 0.1), Press(2.2, 0.1))), 9.0) == [
        (2.0, True),
        (2.1, False),
        (2.2, True),
        (2.3, False),
    ]


def test_an_object_is_there_from_its_start_until_its_end() -> None:
    step = Show("mug", 1.0, 3.0)
    script = Script((step,))
    assert [list(script.shows(t)) for t in (0.9, 1.0, 2.5, 3.0)] == [
        [],
        [(step, 0.0, 0)],
        [(step, 1.5, 0)],
        [],
    ]


def test_the_last_part_repeats() -> None:
    once, again, finger = Show("mug", 0.0, 1.0), Show("pen", 2.0, 3.0), Press(2.5, 0.2)
    script = Script((once, again, finger), repeat_from=1.5, length=4.0)
    assert script.period == 2.5
    assert [list(script.shows(t)) for t in (0.5, 2.25, 4.75, 7.25)] == [
        [(once, 0.5, 0)],
        [(again, 0.25, 0)],
        [(again, 0.25, 1)],
        [(again, 0.25, 2)],
    ]
    assert edges(script, 8.0) == [
        (2.5, True),
        (2.7, False),
        (5.0, True),
        (5.2, False),
        (7.5, True),
        (7.7, False),
    ]
    assert [(t, step.start) for t, step in script.steps_between(-1.0, 7.2)] == [
        (0.0, 0.0),
        (2.0, 2.0),
        (2.5, 2.5),
        (4.5, 2.0),
        (5.0, 2.5),
        (7.0, 2.0),
    ]
    assert script.steps_between(7.0, 7.4) == []


def test_a_moment_of_a_repeated_step_comes_once_in_each_round_whatever_its_rounding() -> None:
    script = Script((Press(0.1, 0.05),), repeat_from=0.0, length=0.3)
    found = edges(script, 30.0)
    assert len(found) == 200
    assert [closed for _, closed in found] == [True, False] * 100


def test_the_light_changes_within_a_second() -> None:
    script = Script((Light(1.0, 0.5), Light(4.0, 0.9)))
    assert [script.light(t) for t in (0.0, 1.0, 1.5, 2.0, 3.9, 4.0, 4.5, 9.0)] == pytest.approx(
        [1.0, 1.0, 0.75, 0.5, 0.5, 0.5, 0.7, 0.9]
    )


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            lambda: Script((Show("mug", 2.0, 2.0),)),
            "invalid step in a scene: Show(name='mug', start=2.0, end=2.0, text='') ends before it starts",
        ),
        (
            lambda: Script((), repeat_from=2.0, length=2.0),
            "a scene cannot repeat from 2 s to 2 s",
        ),
        (
            lambda: demo_script(NAMES[:2]),
            "the scene needs five objects, and there are 2: anchor, kite",
        ),
    ],
)
def test_an_impossible_script_is_refused(script, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CameraError) as caught:
        script()
    assert str(caught.value) == message


def test_the_demo_registers_in_its_first_part_alone() -> None:
    script = demo_script(NAMES)
    assert edges(script, 1000.0) == [
        (2.1, True),
        (2.25, False),
        (12.1, True),
        (12.25, False),
        (22.1, True),
        (22.25, False),
        (36.1, True),
        (36.25, False),
        (38.6, True),
        (40.2, False),
    ]
    assert (script.repeat_from, script.period) == (46.5, 18.0)
    shown = [step for step in script.steps if isinstance(step, Show)]
    # One object at a time, with a pause in which it has left.
    assert all(a.end + 0.9 < b.start for a, b in itertools.pairwise(shown))
    # A finger is on the button only while an object lies there.
    for step in script.steps:
        if isinstance(step, Press):
            assert any(s.start + 0.8 < step.start and step.start + step.duration < s.end for s in shown)
    by = [step.name for _, step in script.steps_between(46.5, 46.5 + 36.0) if isinstance(step, Show)]
    assert by == ["anchor", "kite", "ladder", "spiral"] * 2


def test_the_demo_tells_its_story() -> None:
    captions = demo_script(NAMES).captions
    assert captions[:3] == (
        (1.0, "a new object appears: the anchor"),
        (2.1, "the button is pressed: register the anchor"),
        (6.0, "an object appears again: the anchor"),
    )
    assert [text for at, text in captions if 30.0 < at < 46.0] == [
        "an object that was never registered appears: the ladder",
        "a new object appears: the fish",
        "the button is pressed: register the fish",
        "the button is held: undo, which forgets the fish",
        "an object appears again, unknown now: the fish",
    ]


def test_the_demo_can_be_hurried_but_not_the_finger() -> None:
    script = demo_script(NAMES, pace=0.5)
    assert script.repeat_from == 23.25
    assert edges(script, 2.0) == [(1.05, True), (1.2, False)]
    assert math.isinf(Script(()).period)
