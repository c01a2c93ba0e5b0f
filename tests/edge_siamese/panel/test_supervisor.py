"""The console's thread, with a simulated panel and short times; real time is what is tested here."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

from edge_siamese.errors import PanelError
from edge_siamese.panel.led_signals import Lamp, Signal
from edge_siamese.panel.panel import Edge, Panel
from edge_siamese.panel.press_grammar import Gesture, PressGrammar
from edge_siamese.panel.simulated import NoPanel, SimulatedPanel
from edge_siamese.panel.supervisor import Console


def until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.002)


@contextmanager
def running(
    panel: Panel | Callable[[], Panel], wake: Callable[[Console], object] = lambda console: None
) -> Iterator[Console]:
    console = Console(panel, PressGrammar(0.002, 0.03, 0.06, 0.12), Lamp(), first_retry_s=0.01)
    console.wake = lambda: wake(console)
    console.start()
    try:
        yield console
    finally:
        console.close()


class HeldUp(SimulatedPanel):
    """Keeps the console's thread, as a busy machine may."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()
        self.free.set()

    def wait(self, timeout: float) -> list[Edge]:
        self.free.wait()
        return super().wait(timeout)


def test_gestures_come_in_order_and_by_the_edges_own_times_however_late_they_are_read():
    panel = HeldUp()
    with running(panel) as console:
        until(lambda: console.description == "simulated button and light")
        panel.free.clear()
        time.sleep(0.06)  # a turn of the thread
        began = time.monotonic()
        for number, at in enumerate((0.0, 0.01, 0.1, 0.11, 0.12, 0.13)):
            panel.press(number % 2 == 0, at=began + at)
        time.sleep(0.14)
        panel.free.set()
        collected: list[tuple[Gesture, float]] = []
        until(lambda: collected.extend(console.gestures()) or len(collected) == 2)
    assert collected == [(Gesture.PRESS, began), (Gesture.DOUBLE_PRESS, began + 0.1)]
    assert console.gestures() == []


def test_a_hold_wakes_the_daemon_while_the_button_is_down():
    panel, woken = SimulatedPanel(), threading.Event()
    with running(panel, lambda _: woken.set()) as console:
        until(lambda: console.description == "simulated button and light")
        panel.press(True)
        assert woken.wait(5)
        assert console.gestures()[0][0] is Gesture.HOLD


def test_a_button_that_is_down_at_the_start_is_stuck_and_works_after_its_release():
    panel = SimulatedPanel()
    panel.press(True)
    collected: list[Gesture] = []
    with running(panel) as console:
        gather = lambda: collected.extend(gesture for gesture, _ in console.gestures())  # noqa: E731
        until(lambda: gather() or collected == [Gesture.STUCK])
        panel.press(False)
        until(lambda: gather() or collected == [Gesture.STUCK, Gesture.RELEASED])


def test_an_edge_from_the_future_counts_as_now():
    panel = SimulatedPanel()
    with running(panel) as console:
        until(lambda: console.description == "simulated button and light")
        panel.press(True, at=1.7e9)
        collected: list[Gesture] = []
        until(lambda: collected.extend(g for g, _ in console.gestures()) or Gesture.HOLD in collected)


def test_signals_are_played_within_a_twentieth_of_a_second():
    panel = SimulatedPanel()
    with running(panel) as console:
        until(lambda: console.description == "simulated button and light")
        asked = time.monotonic()
        console.lasting(Signal.RECOGNIZED)
        until(lambda: panel.lit)
        switched = panel.history[0][0]
        assert switched - asked < 0.5  # 0.05 s, and what a busy machine adds
        console.show(Signal.LOOKING)
        until(lambda: len(panel.history) > 6)
        console.show(None)
        until(lambda: panel.lit)
        console.lasting(None)
        until(lambda: not panel.lit)


def test_closing_takes_a_fifth_of_a_second_and_leaves_the_light_off():
    panel = SimulatedPanel()
    with running(panel) as console:
        console.lasting(Signal.RECOGNIZED)
        until(lambda: panel.lit)
        began = time.monotonic()
        console.close()
        assert time.monotonic() - began < 0.5  # 0.06 s, and what a busy machine adds
        assert not panel.lit
        console.close()


def test_a_console_that_never_started_can_be_closed():
    Console(SimulatedPanel(), PressGrammar(0.002, 0.03, 0.06, 0.12), Lamp()).close()


def test_closing_does_not_wait_for_the_next_try():
    def missing() -> Panel:
        raise PanelError("no button")

    console = Console(missing, PressGrammar(0.002, 0.03, 0.06, 0.12), Lamp(), first_retry_s=30)
    console.start()
    until(lambda: console.problem)
    began = time.monotonic()
    console.close()
    assert time.monotonic() - began < 0.5  # 0.06 s, and what a busy machine adds


def test_a_lost_panel_is_told_opened_again_and_goes_on_with_what_is_lasting():
    panel, opened, woken = SimulatedPanel(), [], []

    def open_it() -> Panel:
        opened.append(time.monotonic())
        if len(opened) in (2, 3):
            raise PanelError("not there yet")
        return panel.find()

    with running(open_it, lambda console: woken.append(console.problem)) as console:
        console.lasting(Signal.RECOGNIZED)
        until(lambda: panel.lit)
        panel.lose("unplugged")
        until(lambda: console.problem is None and panel.lit and len(opened) == 4)
        panel.press(True)
        until(lambda: Gesture.HOLD in [gesture for gesture, _ in console.gestures()])
    assert woken[:3] == ["unplugged", "not there yet", None]
    pauses = [later - earlier for earlier, later in pairwise(opened[1:])]
    assert pauses[0] >= 0.02 and pauses[1] >= 0.04  # it waits twice as long each time


def test_a_lost_panel_is_waited_for_though_another_kind_can_be_opened():
    panel, opened = SimulatedPanel(), []

    def open_it() -> Panel:
        opened.append(1)
        return NoPanel("nothing there") if len(opened) in (2, 3) else panel.find()

    told: list[str | None] = []
    with running(open_it, lambda console: told.append(console.problem)) as console:
        until(lambda: console.description == "simulated button and light")
        panel.lose("unplugged")
        until(lambda: len(opened) == 4 and console.problem is None)
        assert console.description == "simulated button and light"
    gone = "simulated button and light: gone (no button and no light (nothing there))"
    assert told == ["unplugged", gone, None]


def test_a_panel_that_was_given_open_is_used_until_it_is_lost():
    panel = SimulatedPanel()
    with running(panel) as console:
        until(lambda: console.description == "simulated button and light")
        panel.lose()
        until(lambda: console.problem == "simulated button and light: lost, and cannot be opened again")


def test_a_fault_in_a_panel_is_told_and_tried_again(caplog):
    opened = []

    def faulty() -> Panel:
        opened.append(1)
        if len(opened) == 1:
            raise ZeroDivisionError("of ours")
        return NoPanel()

    with running(faulty) as console:
        until(lambda: len(opened) == 2 and console.problem is None)
    assert [record.getMessage() for record in caplog.records][:2] == [
        "the panel failed",
        "no panel: the panel failed: ZeroDivisionError: of ours",
    ]


def test_who_is_woken_and_fails_does_not_take_the_panel_down(caplog):
    panel = SimulatedPanel()

    def fail(_: Console) -> None:
        raise RuntimeError("asleep")

    with running(panel, fail) as console:
        until(lambda: console.description == "simulated button and light")
        panel.press(True)
        until(lambda: console.gestures())
        assert console.problem is None
        panel.press(False)


def test_gestures_that_nobody_asks_for_do_not_pile_up():
    console = Console(SimulatedPanel(), PressGrammar(0.002, 0.03, 0.06, 0.12), Lamp())
    console._keep([(Gesture.PRESS, float(number)) for number in range(150)])
    assert console.gestures() == [(Gesture.PRESS, float(number)) for number in range(50, 150)]


def test_what_was_asked_for_while_there_was_no_panel_is_not_played_when_it_is_back():
    panel, there = SimulatedPanel(), threading.Event()

    def open_again() -> Panel:
        if not there.is_set():
            raise PanelError("unplugged")
        return panel.find()

    with running(open_again) as console:
        until(lambda: console.problem == "unplugged")
        for _ in range(200):
            console.show(Signal.LOOKING)
            console.show(Signal.BLURRED)
        console.show(None)
        console.lasting(Signal.RECOGNIZED)
        until(lambda: console._commands.empty())
        there.set()
        until(lambda: panel.lit)
    assert [on for _, on in panel.history] == [True, False]
