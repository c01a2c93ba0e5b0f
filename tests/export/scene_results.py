"""Results of measurements in scenes."""

from __future__ import annotations

from dataclasses import replace

from export.evaluation.scenes import Returns, SceneRow, ScenesResult
from export.evaluation.strangers import Share

RESULT = ScenesResult(
    name="mine",
    model_id="net-0123456789ab",
    focus="center",
    objects=172,
    strangers=69,
    visits=360,
    backgrounds="photographs",
    results=(
        SceneRow(
            registered=5,
            presses=3,
            draws=12,
            objects_refused=Share(0.05, 0.02, 0.1),
            views_refused=0.25,
            returns=(
                Returns("within 45°", Share(0.95, 0.9, 0.98), Share(0.01, 0.0, 0.02), (0.4, 0.7), 120),
                Returns("any", Share(0.5, 0.4, 0.6), Share(0.03, 0.01, 0.06), (0.5, 0.9), 120),
            ),
            elsewhere=Share(0.4, 0.3, 0.5),
            strangers_per_hour=Share(12.0, 6.0, 18.5),
            empty=Share(0.02, 0.0, 0.05),
        ),
    ),
    skipped=("200 objects: only 103 can be registered",),
)


def row(presses: int, recognized: float, misnamed: float, hourly: float) -> SceneRow:
    shares = Share(recognized, 0.5, 1.0), Share(misnamed, 0.0, 0.1)
    return SceneRow(
        registered=5,
        presses=presses,
        draws=12,
        objects_refused=Share(0.0, 0.0, 0.06),
        views_refused=None if presses == 1 else 0.0,
        returns=(Returns("within 45°", *shares, (0.4, 0.7), 120), Returns("any", *shares, (0.5, 0.9), 120)),
        elsewhere=Share(0.4, 0.3, 0.5),
        strangers_per_hour=Share(hourly, 0.0, 3.7),
        empty=Share(0.0, 0.0, 0.2),
    )


OURS = replace(RESULT, results=(row(1, 0.96, 0.0, 0.2), row(3, 0.91, 0.02, 0.6)), skipped=())
BASELINE = replace(
    RESULT,
    name="nearest neighbor",
    is_baseline=True,
    results=(row(1, 0.7, 0.0, 4.0), row(3, 0.92, 0.05, 6.0)),
    skipped=(),
)
