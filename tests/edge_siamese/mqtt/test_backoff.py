"""How long a broker is left alone."""

from __future__ import annotations

import pytest

from edge_siamese.mqtt.backoff import Backoff, Pace


def test_waits_double_from_one_second_to_two_minutes() -> None:
    longest = Backoff(Pace(), chance=lambda: 1.0)
    assert [longest.failed() for _ in range(9)] == [1, 2, 4, 8, 16, 32, 64, 120, 120]
    assert [longest.failed() for _ in range(100)][-1] == 120


def test_devices_do_not_come_back_in_step() -> None:
    shortest = Backoff(Pace(), chance=lambda: 0.0)
    assert [shortest.failed() for _ in range(4)] == [0.5, 1, 2, 4]
    waits = {Backoff(Pace()).failed() for _ in range(20)}
    assert len(waits) > 10 and min(waits) >= 0.5 and max(waits) < 1


@pytest.mark.parametrize(("seconds", "next_wait"), [(9.9, 8), (10.0, 1)])
def test_a_connection_that_lasted_makes_the_next_wait_short(seconds: float, next_wait: float) -> None:
    backoff = Backoff(Pace(), chance=lambda: 1.0)
    for _ in range(3):
        backoff.failed()
    backoff.lasted(seconds)
    assert backoff.failed() == next_wait


def test_a_refused_user_is_tried_again_after_a_minute_at_the_soonest() -> None:
    backoff = Backoff(Pace(), chance=lambda: 1.0)
    assert [backoff.failed(refused=True) for _ in range(9)] == [60] * 6 + [64, 120, 120]
