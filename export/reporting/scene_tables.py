"""Markdown tables of scene measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from export.evaluation.scenes import SceneRow, ScenesResult
from export.evaluation.strangers import Share
from export.reporting.report import percent
from export.reporting.tables import interval, markdown_table

REGISTERED = 5
"""Number of registered objects that the targets are for."""


@dataclass(frozen=True)
class SceneTarget:
    """A target with five registered objects."""

    name: str
    presses: int
    figure: Callable[[SceneRow], Share]
    limit: float
    at_least: bool = False
    """Whether the figure has to reach the limit; otherwise it must not exceed it."""
    hourly: bool = False
    """Whether the figure is a number per hour; otherwise it is a share."""

    @property
    def limit_text(self) -> str:
        """The limit with its direction, such as `at least 95 %`."""
        shown = f"{self.limit:g}" if self.hourly else percent(self.limit, 0)
        return f"{'at least' if self.at_least else 'at most'} {shown}"

    def of(self, result: ScenesResult) -> Share | None:
        """The figure of a result; None if it was not measured."""
        kind = (REGISTERED, self.presses)
        row = next((row for row in result.results if (row.registered, row.presses) == kind), None)
        return None if row is None else self.figure(row)

    def is_reached(self, share: Share) -> bool:
        """Whether a figure reaches the limit."""
        return share.value >= self.limit if self.at_least else share.value <= self.limit

    def advantage(self, share: Share, other: Share) -> float:
        """Difference by which a figure is better than another one; negative if it is worse."""
        return share.value - other.value if self.at_least else other.value - share.value


def _most_misnamed(row: SceneRow) -> Share:
    return max((returned.misnamed for returned in row.returns), key=lambda share: share.value)


TARGETS = (
    SceneTarget(
        "recognized, turned within 45°, one press",
        1,
        lambda row: row.returns[0].recognized,
        0.95,
        at_least=True,
    ),
    SceneTarget(
        "recognized, any pose, three presses", 3, lambda row: row.returns[-1].recognized, 0.9, at_least=True
    ),
    SceneTarget("wrong name, one press", 1, _most_misnamed, 0.01),
    SceneTarget("wrong name, three presses", 3, _most_misnamed, 0.01),
    SceneTarget(
        "false appearances an hour, one press", 1, lambda row: row.strangers_per_hour, 0.5, hourly=True
    ),
    SceneTarget(
        "false appearances an hour, three presses", 3, lambda row: row.strangers_per_hour, 0.5, hourly=True
    ),
)


def scenes_table(results: Sequence[ScenesResult]) -> str:
    """A line for each kind of background, number of objects, number of presses and contender."""
    poses = [returned.pose for returned in results[0].results[0].returns]
    header = (
        "background",
        "objects",
        "presses of each",
        "recognizer",
        "objects refused",
        "further views refused",
        *(f"recognized, turned {pose}" if pose[0] == "w" else f"recognized, {pose} pose" for pose in poses),
        "recognized at another place",
        "wrong name",
        "time to recognition",
        "false appearances an hour, strangers",
        "empty place taken for an object",
    )
    backgrounds = _backgrounds(results)
    lines = [(result, row) for result in results for row in result.results]
    lines.sort(key=lambda line: (backgrounds.index(line[0].backgrounds), line[1].registered, line[1].presses))
    rows = [
        (
            result.backgrounds,
            str(row.registered),
            str(row.presses),
            _recognizer(result),
            _share(row.objects_refused),
            "" if row.views_refused is None else percent(row.views_refused, 0),
            *(_share(returned.recognized) for returned in row.returns),
            _share(row.elsewhere),
            _share(_most_misnamed(row)),
            f"{row.returns[0].seconds[0]:.1f} s",
            _hourly(row.strangers_per_hour),
            _share(row.empty),
        )
        for result, row in lines
    ]
    return markdown_table(header, rows, "lrrl" + "r" * (len(header) - 4))


def scene_targets_table(results: Sequence[ScenesResult]) -> str:
    """A line for each kind of background and target, with a column for each contender."""
    names = list(dict.fromkeys(map(_recognizer, results)))
    rows = []
    for backgrounds in _backgrounds(results):
        by_name = {_recognizer(result): result for result in results if result.backgrounds == backgrounds}
        for target in TARGETS:
            shares = [target.of(by_name[name]) if name in by_name else None for name in names]
            cells = ["" if share is None else _target_cell(target, share) for share in shares]
            rows.append((backgrounds, target.name, target.limit_text, *cells))
    header = ("background", "target with five objects", "limit", *names)
    return markdown_table(header, rows, "lll" + "r" * len(names))


def scenes_verdict(results: Sequence[ScenesResult]) -> str:
    """A line for each contender and kind of background: targets reached, and figures in which the baseline is better."""
    lines = []
    for result in results:
        if result.is_baseline:
            continue
        own = [(target, share) for target in TARGETS if (share := target.of(result))]
        reached = sum(target.is_reached(share) for target, share in own)
        text = f"{_recognizer(result)}, {result.backgrounds}: {reached} of {len(own)} targets reached"
        for baseline in results:
            if baseline.is_baseline and baseline.backgrounds == result.backgrounds:
                advantages = {
                    target.name: target.advantage(share, other)
                    for target, share in own
                    if (other := target.of(baseline))
                }
                behind = [name for name, advantage in advantages.items() if advantage < 0]
                better = sum(advantage > 0 for advantage in advantages.values())
                text += f"; better than {baseline.name} in {better} of {len(advantages)} figures"
                if better and behind:
                    text += f", worse in: {'; '.join(behind)}"
        lines.append(f"- {text}.\n")
    return "".join(lines)


def _backgrounds(results: Sequence[ScenesResult]) -> list[str]:
    return list(dict.fromkeys(result.backgrounds for result in results))


def _recognizer(result: ScenesResult) -> str:
    """The name of a contender: `objects`, or `objects`, foreground."""
    name = result.name if result.is_baseline else f"`{result.name}`"
    return name if result.focus == "center" else f"{name}, {result.focus}"


def _target_cell(target: SceneTarget, share: Share) -> str:
    text = _hourly(share) if target.hourly else _share(share)
    return f"**{text}**" if target.is_reached(share) else text


def _share(share: Share) -> str:
    return f"{percent(share.value)} ({interval(share.low, share.high)})"


def _hourly(share: Share) -> str:
    return f"{share.value:.1f} ({share.low:.1f} to {share.high:.1f})"
