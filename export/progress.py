"""Progress of long tasks: bars and spinners on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")
ITEMS_PER_UPDATE = 100
LINE_SECONDS = 15.0
"""Time between lines of progress where there is no terminal."""


def stderr_console() -> Console:
    """The console for progress; results go to standard output."""
    return Console(stderr=True, highlight=False)


@contextmanager
def working(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """Show a task: as a spinner on a terminal, as a line elsewhere. Yields a function that shows the next step."""
    if console.is_terminal:
        with console.status(what) as status:
            yield status.update
        return

    def show(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    show(what)
    yield show


@contextmanager
def counting(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how much of a task is done: with a bar on a terminal, with occasional lines elsewhere.

    Yields a function to call after each part.
    """
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    with Progress(
        *columns, TimeRemainingColumn(compact=True), console=console, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(what, total=total)
        done, started = 0, time.monotonic()
        last_line = started
        if not console.is_terminal:
            console.print(what, markup=False, soft_wrap=True)

        def advance() -> None:
            nonlocal done, last_line
            done += 1
            bar.advance(task)
            now = time.monotonic()
            if not console.is_terminal and now - last_line >= LINE_SECONDS:
                last_line = now
                left = (now - started) * (total - done) / done
                console.print(f"{what}: {done}/{total}, {_minutes(left)} left", markup=False, soft_wrap=True)

        yield advance


def track(items: Iterable[Item], text: str) -> Iterator[Item]:
    """Yield the items, with a spinner and a count on a terminal, with occasional lines elsewhere."""
    console = stderr_console()
    if not console.is_terminal:
        last_line = time.monotonic()
        for count, item in enumerate(items):
            if time.monotonic() - last_line >= LINE_SECONDS:
                console.print(f"{text} ({count})", markup=False, soft_wrap=True)
                last_line = time.monotonic()
            yield item
        return
    with console.status(text) as status:
        for count, item in enumerate(items):
            if count % ITEMS_PER_UPDATE == 0:
                status.update(f"{text} ({count})" if count else text)
            yield item


class TrainingProgress:
    """Progress of a training run: a bar with rate and remaining time on a terminal; elsewhere, occasional lines.

    A context manager; `visible=False` shows nothing.
    """

    def __init__(self, steps: int, done: int, batch: int, visible: bool = True) -> None:
        self.steps, self.done, self.batch, self.visible = steps, done, batch, visible
        self.console = stderr_console()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]:>5.0f} images/s"),
            TextColumn("loss {task.fields[loss]:.3f}"),
            TextColumn("best {task.fields[best]:.1%}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            disable=not (visible and self.console.is_terminal),
        )
        self.task = self.bar.add_task(
            "training", total=steps, completed=done, rate=0.0, loss=float("nan"), best=0.0
        )
        self.session_steps = 0

    def __enter__(self) -> TrainingProgress:
        self.started = self.last_line = time.monotonic()
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    @property
    def rate(self) -> float:
        """Images per second since this process started or resumed the run, including validations."""
        return self.session_steps * self.batch / max(1e-9, time.monotonic() - self.started)

    def advance(self, loss: float, best: float) -> None:
        self.session_steps += 1
        self.done += 1
        self.bar.update(self.task, advance=1, loss=loss, best=best, rate=self.rate)
        if time.monotonic() - self.last_line >= LINE_SECONDS:
            self._print(f"step {self.done}/{self.steps}  loss {loss:.3f}")

    def validated(self, step: int, loss: float, accuracy: float) -> None:
        """Print a validation's result if there is no bar."""
        self._print(f"step {step}/{self.steps}  loss {loss:.3f}  one-shot {accuracy:.2%}")

    def _print(self, text: str) -> None:
        """Print a line with the rate if there is no bar."""
        self.last_line = time.monotonic()
        if not self.visible or self.console.is_terminal:
            return
        remaining = (self.steps - self.done) * self.batch / max(1e-9, self.rate)
        self.console.print(f"{text}  {self.rate:.0f} images/s  {_minutes(remaining)} left", soft_wrap=True)


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
