"""Panels without hardware."""

from __future__ import annotations

import threading
import time

import pytest

from edge_siamese.errors import PanelError
from edge_siamese.panel.panel import Edge, NoPanel, SimulatedPanel


def test_presses_are_edges_at_the_time_of_the_clock():
    now = [5.0]
    panel = SimulatedPanel(lambda: now[0])
    panel.press(True)
    now[0] = 5.25
    panel.press(False)
    panel.press(True, at=6.0)
    assert panel.wait(0) == [Edge(5.0, True), Edge(5.25, False), Edge(6.0, True)]
    assert panel.wait(0) == []


def test_a_press_of_another_thread_ends_the_wait():
    panel = SimulatedPanel()
    threading.Timer(0.02, panel.press, (True,)).start()
    assert [edge.pressed for edge in panel.wait(600)] == [True]


def test_the_changes_of_the_led_are_recorded():
    now = [1.0]
    panel = SimulatedPanel(lambda: now[0])
    for time_, on in ((1.0, True), (2.0, True), (3.0, False), (4.0, True)):
        now[0] = time_
        panel.light(on)
    assert panel.lit
    now[0] = 5.0
    panel.close()
    panel.close()
    assert not panel.lit
    assert panel.history == [(1.0, True), (3.0, False), (4.0, True), (5.0, False)]


def test_a_disconnected_panel_fails_until_it_is_reconnected_with_the_contact_closed():
    panel = SimulatedPanel(lambda: 7.0)
    panel.press(True)
    panel.disconnect("unplugged")
    for use in (lambda: panel.wait(1), lambda: panel.light(True)):
        with pytest.raises(PanelError, match=r"^unplugged$"):
            use()
    panel.close()
    assert panel.reconnect().wait(0) == [Edge(7.0, True)]
    panel.press(False)
    panel.close()
    with pytest.raises(PanelError, match=r"^the simulated panel is closed$"):
        panel.wait(0)
    assert panel.reconnect().wait(0) == []


def test_disconnecting_ends_the_wait():
    panel = SimulatedPanel()
    threading.Timer(0.02, panel.disconnect).start()
    with pytest.raises(PanelError, match="the simulated panel was unplugged"):
        panel.wait(600)


def test_no_panel_sleeps_and_says_why():
    panel = NoPanel("the package gpiod is not installed")
    assert panel.description == "no button and no LED (the package gpiod is not installed)"
    assert NoPanel().description == "no button and no LED"
    started = time.monotonic()
    assert panel.wait(0.02) == []
    assert time.monotonic() - started >= 0.019
    panel.light(True)
    threading.Timer(0.02, panel.close).start()
    assert panel.wait(60) == []
    assert panel._closed.is_set()
