"""Pauses between attempts: for a camera, and for a broker to which many devices reconnect."""

from __future__ import annotations

import random

from edge_siamese.cameras.supervisor import FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS
from edge_siamese.mqtt.client import ReconnectPolicy
from edge_siamese.system.retry import Backoff


def test_pauses_of_a_camera_double_and_start_over() -> None:
    backoff = Backoff(FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS)
    assert [backoff.pause() for _ in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    backoff.reset()
    assert backoff.pause() == 0.5


def test_pauses_of_a_broker_double_from_one_second_to_two_minutes() -> None:
    pace = ReconnectPolicy()
    longest = Backoff(pace.initial, pace.maximum)
    assert [longest.pause() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 64, 120, 120]
    assert [longest.pause() for _ in range(3000)][-1] == 120


def test_devices_do_not_come_back_in_step() -> None:
    shortest = Backoff(1.0, 120.0, jitter=lambda: 0.0)
    assert [shortest.pause() for _ in range(4)] == [0.5, 1, 2, 4]
    random.seed(0)
    waits = {ReconnectPolicy().backoff().pause() for _ in range(20)}
    assert len(waits) > 10 and min(waits) >= 0.5 and max(waits) < 1


def test_a_pause_may_be_a_long_one_from_the_start() -> None:
    pace = ReconnectPolicy()
    backoff = Backoff(pace.initial, pace.maximum)
    assert [backoff.pause(pace.refused) for _ in range(9)] == [60] * 6 + [64, 120, 120]
