"""The panel supervisor's thread, with a simulated panel and short limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest

from edge_siamese.errors import PanelError
from edge_siamese.panel.led_signals import Signal
from edge_siamese.panel.panel import Edge, NoPanel, Panel, SimulatedPanel
from edge_siamese.panel.press_grammar import Gesture, PressGrammar
from edge_siamese.panel.supervisor import PanelSupervisor

LONG = 60.0  # seconds: only a test that fails waits this long


def until(condition: Callable[[], object], seconds: float = LONG) -> None:
    """Wait for something that another thread does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


@contextmanager
def running(
    panel: Panel | Callable[[], Panel],
    wake: Callable[[PanelSupervisor], object] = lambda supervisor: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[PanelSupervisor]:
    supervisor = PanelSupervisor(panel, PressGrammar(0.002, 0.03, 0.06, 0.12), clock, first_retry_s=0.01)
    supervisor.wake = lambda: wake(supervisor)
    supervisor.start()
    try:
        yield supervisor
    finally:
        supervisor.close()


class BlockedPanel(SimulatedPanel):
    """A panel on which a test can stop the supervisor's thread, as a busy machine may."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock)
        self.free = threading.Event()
        self.free.set()
        self.blocked = threading.Event()

    def wait(self, timeout: float) -> list[Edge]:
        if not self.free.is_set():
            self.blocked.set()
            self.free.wait()
        return super().wait(timeout)


def test_gestures_come_in_order_and_by_the_edges_own_times_however_late_they_are_read():
    now = [100.0]
    clock = lambda: now[0]  # noqa: E731
    panel = BlockedPanel(clock)
    with running(panel, clock=clock) as supervisor:
        until(lambda: supervisor.description == "simulated button and LED")
        panel.free.clear()
        assert panel.blocked.wait(LONG)
        for number, at in enumerate((0.0, 0.01, 0.1, 0.11, 0.12, 0.13)):
            panel.press(number % 2 == 0, at=now[0] + at)
        now[0] += 0.14
        panel.free.set()
        collected: list[tuple[Gesture, float]] = []
        until(lambda: collected.extend(supervisor.gestures()) or len(collected) == 2)
    assert collected == [(Gesture.PRESS, 100.0), (Gesture.DOUBLE_PRESS, 100.1)]
    assert supervisor.gestures() == []


def test_a_hold_wakes_the_daemon_while_the_button_is_down():
    panel, woken = SimulatedPanel(), threading.Event()
    with running(panel, lambda _: woken.set()) as supervisor:
        until(lambda: supervisor.description == "simulated button and LED")
        panel.press(True)
        assert woken.wait(LONG)
        assert supervisor.gestures()[0][0] is Gesture.HOLD


def test_a_button_that_is_down_at_the_start_is_stuck_and_works_after_its_release():
    panel = SimulatedPanel()
    panel.press(True)
    collected: list[Gesture] = []
    with running(panel) as supervisor:
        gather = lambda: collected.extend(gesture for gesture, _ in supervisor.gestures())  # noqa: E731
        until(lambda: gather() or collected == [Gesture.STUCK])
        panel.press(False)
        until(lambda: gather() or collected == [Gesture.STUCK, Gesture.RELEASED])


def test_an_edge_from_the_future_counts_as_now():
    panel = SimulatedPanel()
    with running(panel) as supervisor:
        until(lambda: supervisor.description == "simulated button and LED")
        panel.press(True, at=1.7e9)
        collected: list[Gesture] = []
        until(lambda: collected.extend(g for g, _ in supervisor.gestures()) or Gesture.HOLD in collected)


def test_signals_are_played():
    panel = SimulatedPanel()
    with running(panel) as supervisor:
        until(lambda: supervisor.description == "simulated button and LED")
        supervisor.set_background(Signal.RECOGNIZED)
        until(lambda: panel.lit)
        supervisor.show(Signal.REGISTERING)
        until(lambda: len(panel.history) > 6)
        supervisor.show(None)
        until(lambda: panel.lit)
        supervisor.set_background(None)
        until(lambda: not panel.lit)


def test_new_signals_are_noticed_within_a_twentieth_of_a_second():
    supervisor = PanelSupervisor(SimulatedPanel(), PressGrammar(0.002, 0.03, 0.06, 0.12))
    assert supervisor._wait_seconds(100.0) == pytest.approx(0.05)


def test_closing_leaves_the_led_off():
    panel = SimulatedPanel()
    with running(panel) as supervisor:
        supervisor.set_background(Signal.RECOGNIZED)
        until(lambda: panel.lit)
        supervisor.close(timeout=LONG)
        assert not supervisor._thread.is_alive()
        assert not panel.lit
        supervisor.close()


def test_a_supervisor_that_never_started_can_be_closed():
    PanelSupervisor(SimulatedPanel(), PressGrammar(0.002, 0.03, 0.06, 0.12)).close()


def test_closing_does_not_wait_for_the_next_attempt():
    def missing() -> Panel:
        raise PanelError("no button")

    supervisor = PanelSupervisor(missing, PressGrammar(0.002, 0.03, 0.06, 0.12), first_retry_s=10 * LONG)
    supervisor.start()
    until(lambda: supervisor.problem)
    supervisor.close(timeout=LONG)
    assert not supervisor._thread.is_alive()


def test_a_lost_panel_is_reported_and_reopened_and_shows_the_background_signal():
    panel, opened, woken = SimulatedPanel(), [], []

    def open_it() -> Panel:
        opened.append(time.monotonic())
        if len(opened) in (2, 3):
            raise PanelError("not there yet")
        return panel.reconnect()

    with running(open_it, lambda supervisor: woken.append(supervisor.problem)) as supervisor:
        supervisor.set_background(Signal.RECOGNIZED)
        until(lambda: panel.lit)
        panel.disconnect("unplugged")
        until(lambda: supervisor.problem is None and panel.lit and len(opened) == 4)
        panel.press(True)
        until(lambda: Gesture.HOLD in [gesture for gesture, _ in supervisor.gestures()])
    assert woken[:3] == ["unplugged", "not there yet", None]
    pauses = [later - earlier for earlier, later in pairwise(opened[1:])]
    assert pauses[0] >= 0.02 and pauses[1] >= 0.04  # it waits twice as long each time


def test_a_lost_panel_is_waited_for_though_another_kind_can_be_opened():
    panel, opened = SimulatedPanel(), []

    def open_it() -> Panel:
        opened.append(1)
        return NoPanel("nothing there") if len(opened) in (2, 3) else panel.reconnect()

    told: list[str | None] = []
    with running(open_it, lambda supervisor: told.append(supervisor.problem)) as supervisor:
        until(lambda: supervisor.description == "simulated button and LED")
        panel.disconnect("unplugged")
        until(lambda: len(opened) == 4 and supervisor.problem is None)
        assert supervisor.description == "simulated button and LED"
    gone = "simulated button and LED: gone (no button and no LED (nothing there))"
    assert told == ["unplugged", gone, None]


def test_a_panel_that_was_given_open_is_used_until_it_is_lost():
    panel = SimulatedPanel()
    with running(panel) as supervisor:
        until(lambda: supervisor.description == "simulated button and LED")
        panel.disconnect()
        until(lambda: supervisor.problem == "simulated button and LED: lost, and cannot be opened again")


def test_a_bug_in_a_panel_is_reported_and_retried(caplog):
    opened = []

    def faulty() -> Panel:
        opened.append(1)
        if len(opened) == 1:
            raise ZeroDivisionError("of ours")
        return NoPanel()

    with running(faulty) as supervisor:
        until(lambda: len(opened) == 2 and supervisor.problem is None)
    assert [record.getMessage() for record in caplog.records][:2] == [
        "the panel failed",
        "no panel: the panel failed: ZeroDivisionError: of ours",
    ]


def test_a_callback_that_fails_does_not_stop_the_panel(caplog):
    panel = SimulatedPanel()

    def fail(_: PanelSupervisor) -> None:
        raise RuntimeError("broken")

    with running(panel, fail) as supervisor:
        until(lambda: supervisor.description == "simulated button and LED")
        panel.press(True)
        until(lambda: supervisor.gestures())
        assert supervisor.problem is None
        panel.press(False)


def test_gestures_that_nobody_reads_do_not_accumulate():
    supervisor = PanelSupervisor(SimulatedPanel(), PressGrammar(0.002, 0.03, 0.06, 0.12))
    supervisor._add_gestures([(Gesture.PRESS, float(number)) for number in range(150)])
    assert supervisor.gestures() == [(Gesture.PRESS, float(number)) for number in range(50, 150)]


def test_signals_sent_without_a_panel_are_not_played_when_it_returns():
    panel, there = SimulatedPanel(), threading.Event()

    def open_again() -> Panel:
        if not there.is_set():
            raise PanelError("unplugged")
        return panel.reconnect()

    with running(open_again) as supervisor:
        until(lambda: supervisor.problem == "unplugged")
        for _ in range(200):
            supervisor.show(Signal.REGISTERING)
            supervisor.show(Signal.BLURRED)
        supervisor.show(None)
        supervisor.set_background(Signal.RECOGNIZED)
        until(lambda: supervisor._signals.empty())
        there.set()
        until(lambda: panel.lit)
    assert [on for _, on in panel.history] == [True, False]
