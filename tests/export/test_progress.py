"""Progress of long work: lines where there is no terminal, bars where there is one, nothing when hidden."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from export import progress
from export.progress import TrainingProgress, stderr_console, working


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets; in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def on(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> io.StringIO:
    screen = io.StringIO()
    monkeypatch.setattr(
        progress,
        "stderr_console",
        lambda: Console(file=screen, force_terminal=terminal, width=120, highlight=False, _environ={}),
    )
    return screen


def test_a_validation_is_a_line_with_rate_and_remaining_time(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = on(monkeypatch, terminal=False)
    with TrainingProgress(steps=100, done=10, batch=32) as shown:
        for _ in range(15):
            shown.advance(loss=2.0, best=0.5)
        clock[0] += 6.0
        shown.validated(25, 1.23456, 0.98765)
    # 15 steps of 32 images in 6 s are 80 a second; 75 steps are left: 2400 images, 30 s.
    assert screen.getvalue() == "step 25/100  loss 1.235  one-shot 98.77%  80 images/s  0:30 left\n"


def test_between_validations_a_line_appears_now_and_then(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = on(monkeypatch, terminal=False)
    with TrainingProgress(steps=100, done=0, batch=10) as shown:
        for _ in range(40):
            clock[0] += 1.0
            shown.advance(loss=2.0, best=0.5)
    lines = screen.getvalue().splitlines()
    assert lines == [
        "step 15/100  loss 2.000  10 images/s  1:25 left",
        "step 30/100  loss 2.000  10 images/s  1:10 left",
    ]


def test_reading_is_a_line_now_and_then_where_there_is_no_terminal(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = on(monkeypatch, terminal=False)
    for _ in progress.track(range(40), "reading [photos]"):
        clock[0] += 1.0
    assert screen.getvalue() == "reading [photos] (15)\nreading [photos] (30)\n"


def test_counting_is_a_line_now_and_then_with_the_remaining_time_where_there_is_no_terminal(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = on(monkeypatch, terminal=False)
    with progress.counting(progress.stderr_console(), "recording [drawn]", total=100) as advance:
        for _ in range(100):
            clock[0] += 0.5
            advance()
    assert screen.getvalue().splitlines() == [
        "recording [drawn]",
        "recording [drawn]: 30/100, 0:35 left",
        "recording [drawn]: 60/100, 0:20 left",
        "recording [drawn]: 90/100, 0:05 left",
    ]


def test_the_rate_is_that_of_this_session_alone(clock: list[float]) -> None:
    with TrainingProgress(steps=1000, done=900, batch=8, visible=False) as shown:
        clock[0] += 2.0
        shown.advance(1.0, 0.0)
        assert (shown.rate, shown.done, shown.session_steps) == (4.0, 901, 1)


def test_hidden_progress_prints_nothing(
    clock: list[float], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = on(monkeypatch, terminal=True)
    for terminal in (True, False):
        screen = on(monkeypatch, terminal)
        with TrainingProgress(steps=2, done=0, batch=1, visible=False) as shown:
            shown.advance(1.0, 0.0)
            shown.validated(1, 1.0, 1.0)
        assert screen.getvalue() == ""
    assert capfd.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_and_no_lines(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on(monkeypatch, terminal=True)
    with TrainingProgress(steps=4, done=1, batch=10) as shown:
        clock[0] += 1.0
        shown.advance(loss=0.25, best=0.5)
        shown.validated(2, 0.25, 0.5)
    text = screen.getvalue()
    assert "training" in text and "2/4" in text and "10 images/s" in text
    assert "loss 0.250" in text and "best 50.0%" in text
    assert "one-shot" not in text and "left" not in text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00"), (9.9, "0:09"), (65.0, "1:05"), (3599.9, "59:59"), (7325.0, "122:05")]
)
def test_remaining_time_is_minutes_and_seconds(seconds: float, text: str) -> None:
    assert progress._minutes(seconds) == text


def test_progress_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    stderr_console().print("42 images")
    assert capsys.readouterr() == ("", "42 images\n")


def test_work_is_a_line_for_each_part_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on(monkeypatch, terminal=False)
    with working(progress.stderr_console(), "making the bundle") as update:
        assert screen.getvalue() == "making the bundle\n"
        update("fitting the head")
    assert screen.getvalue() == "making the bundle\nfitting the head\n"


def test_work_is_a_spinner_that_goes_away_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = on(monkeypatch, terminal=True)
    with working(progress.stderr_console(), "making the bundle") as update:
        update("fitting the head")
    text = screen.getvalue()
    assert "fitting the head" in text
    # The last thing is that the line is cleared and the cursor shown again.
    assert text.rstrip().endswith(("\x1b[2K", "\x1b[?25h"))
