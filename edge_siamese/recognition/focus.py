"""Focus: the part of each camera frame, or of a region of it, that the encoder reads.

`CenterFocus` reads the middle, and `ForegroundFocus` what is new in front of a static camera. A part is a view of the
frame's pixels: all that follows works as with the frame of a smaller camera.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edge_siamese.recognition.imaging import Box, Floats, Preprocessing, crop_box
from edge_siamese.settings import FocusName

Mask = npt.NDArray[np.bool_]

CELLS = 40
"""Cells along the longer side of a frame, for the background model."""
SAMPLES = 4
"""Sampled pixels along the side of a cell."""
MIN_CHANGE = 12.0
"""Gray levels: a cell that differs less from the background is unchanged."""
MIN_CHANGED_CELLS = 5
"""A cell is new only if at least this many of it and its eight neighbors have changed; fewer are noise."""
MARGIN = 0.12
"""Margin on each side of the foreground, as a share of its longer side."""
MIN_ENLARGED = 0.7
"""Smallest side of a part, in sides of the encoder's input: a smaller part would be enlarged too much."""
STEADY = 0.12
"""A part is kept until the foreground moves by more than this share of the part's side, or grows by twice as much."""
LEARN_SECONDS = 2.0
"""Time after the first frame during which everything is background, while automatic exposure settles."""
ADAPT_SECONDS = 10.0
"""Time constant with which unchanged cells follow the frames."""
ABSORB_SECONDS = 60.0
"""An object that stands still for this long without being recognized becomes background."""
MAX_CHANGED = 0.7
"""If a larger share of the cells has changed, it was the light or the camera: the middle of the frame is read."""
SATURATED = 250.0
"""Gray levels: brighter cells do not show a change of exposure."""
_EXPOSURE_STEP = 2
"""Every second cell in both directions is enough to measure the exposure."""


class Focus(Protocol):
    """Chooses the part of each frame that the encoder reads."""

    def find(self, frame: npt.NDArray[Any], time: float, keep: bool = False) -> Box | None:
        """The part of a frame, of the encoder's aspect ratio; None if it shows nothing new.

        Args:
            frame: uint8 (h, w) or (h, w, 3). Frames come in order.
            time: time of the frame, in seconds of a monotonic clock.
            keep: what was new in the previous frame must not become background, as it is recognized or being registered.
        """


class CenterFocus:
    """Reads the middle of each frame.

    Args:
        to: the encoder's input.
    """

    def __init__(self, to: Preprocessing) -> None:
        self._to = to

    def find(self, frame: npt.NDArray[Any], time: float, keep: bool = False) -> Box | None:
        """See `Focus.find`; never None."""
        rows, columns = frame.shape[:2]
        return crop_box(rows, columns, self._to)


class ForegroundFocus:
    """Reads what is new in front of a static camera: the largest part that differs from the background.

    The background is a small picture, the means of about a thousand cells. Its exposure and white balance follow those of
    the frames, and its unchanged cells follow slow changes of the light. An object that stands still becomes background
    after a while, unless it is kept. Whatever is in view at the start is background until it moves.

    Args:
        to: the encoder's input.
    """

    def __init__(self, to: Preprocessing) -> None:
        self._to = to
        self._frame_shape: tuple[int, ...] | None = None
        self._background = self._still = self._previous = np.empty((0, 0, 0), np.float32)
        """(channels, rows, columns): cell means of the background, of each cell when it last moved, of the last frame."""
        self._still_since = np.empty((0, 0))
        """(rows, columns): when each cell last moved, in seconds."""
        self._changed: Mask = np.empty((0, 0), np.bool_)
        """(rows, columns): cells that differ from the background."""
        self._searched = self._changed
        """(rows, columns): the same, when the largest part was last searched."""
        self._new = self._changed
        """(rows, columns): the largest part of them."""
        self._box: Box | None = None
        self._started = self._time = 0.0

    def find(self, frame: npt.NDArray[Any], time: float, keep: bool = False) -> Box | None:
        """See `Focus.find`."""
        cells = _cell_means(frame)
        if frame.shape != self._frame_shape or time < self._time:
            self._start(frame.shape, cells, time)
        elapsed, self._time = time - self._time, time
        if time - self._started < LEARN_SECONDS:
            self._background, self._still, self._previous = cells, cells.copy(), cells
            return None
        self._follow_exposure(cells)
        difference = cells - np.minimum(self._background, 255.0)
        changed = np.abs(difference).max(axis=0) > MIN_CHANGE
        moved = np.abs(cells - np.minimum(self._still, 255.0)).max(axis=0) > MIN_CHANGE
        np.copyto(self._still, cells, where=moved)
        self._still_since[moved | self._new if keep else moved] = time
        if changed.any():
            absorbed = changed & (time - self._still_since > ABSORB_SECONDS)
            changed &= ~absorbed
            self._background += np.where(absorbed, difference, np.float32(0.0))
        follow = np.float32(min(1.0, elapsed / ADAPT_SECONDS))
        self._background += np.where(changed, np.float32(0.0), follow) * difference
        self._changed = changed
        # While an object stands still, a few cells on its edge change.
        if np.count_nonzero(changed != self._searched) >= MIN_CHANGED_CELLS:
            self._searched, self._new = changed, _largest_part(changed)
            self._box = self._place(frame.shape[0], frame.shape[1])
        return self._box

    def _start(self, shape: tuple[int, ...], cells: Floats, time: float) -> None:
        self._frame_shape, self._started, self._time, self._box = shape, time, time, None
        self._still_since = np.full(cells.shape[1:], time)
        self._changed = self._searched = self._new = np.zeros(cells.shape[1:], np.bool_)

    def _follow_exposure(self, cells: Floats) -> None:
        """Multiply the background by the change of exposure and white balance."""
        since_previous = _exposure_change(cells, self._previous)
        unchanged = ~self._changed
        # With too few unchanged cells, the median may be that of an object.
        if 4 * np.count_nonzero(unchanged) >= unchanged.size:
            gain = _exposure_change(cells, self._background, unchanged)
        else:
            gain = since_previous
        self._background = self._background * gain
        self._still = self._still * since_previous
        self._previous = cells

    def _place(self, rows: int, columns: int) -> Box | None:
        """The part around what is new: inside the frame, of the encoder's aspect ratio, and steady."""
        down, across = np.flatnonzero(self._new.any(axis=1)), np.flatnonzero(self._new.any(axis=0))
        if not len(down):
            return None
        if self._changed.mean() > MAX_CHANGED:
            return crop_box(rows, columns, self._to)
        cell_rows, cell_columns = rows / self._new.shape[0], columns / self._new.shape[1]
        top, bottom = down[0] * cell_rows, (down[-1] + 1) * cell_rows
        left, right = across[0] * cell_columns, (across[-1] + 1) * cell_columns
        to = self._to
        tight = max((bottom - top) / to.height, (right - left) / to.width)
        scale = max((1.0 + 2.0 * MARGIN) * tight, MIN_ENLARGED)
        scale = min(scale, rows / to.height, columns / to.width)
        height, width = round(scale * to.height), round(scale * to.width)
        box = Box(
            min(max(0, round((top + bottom - height) / 2)), rows - height),
            min(max(0, round((left + right - width) / 2)), columns - width),
            height,
            width,
        )
        return self._box if self._box is not None and _similar(self._box, box) else box


def choose_focus(name: FocusName, to: Preprocessing) -> Focus:
    """The focus of this name, for the encoder's input."""
    return ForegroundFocus(to) if name == "foreground" else CenterFocus(to)


def _cell_means(frame: npt.NDArray[Any]) -> Floats:
    """Means of the cells of a frame, float32 (channels, rows, columns), from some of their pixels."""
    step = max(1, max(frame.shape[:2]) // (CELLS * SAMPLES))
    samples = min(SAMPLES, *(-(-side // step) for side in frame.shape[:2]))
    rows, columns = (max(1, side // (step * samples)) for side in frame.shape[:2])
    sampled = frame[::step, ::step][: rows * samples, : columns * samples]
    sampled = sampled[..., np.newaxis] if sampled.ndim == 2 else sampled[..., :3]
    tall = sampled[::samples].astype(np.uint16)
    for start in range(1, samples):
        tall += sampled[start::samples]
    total = tall[:, ::samples].copy()
    for start in range(1, samples):
        total += tall[:, start::samples]
    return np.asarray(total.transpose(2, 0, 1) / np.float32(samples * samples), dtype=np.float32, order="C")


def _exposure_change(cells: Floats, before: Floats, of: Mask | None = None) -> Floats:
    """The median ratio of cells to their former values, float32 (channels, 1, 1); 1 if too few cells are usable."""
    some = (..., slice(None, None, _EXPOSURE_STEP), slice(None, None, _EXPOSURE_STEP))
    now, then = cells[some], before[some]
    usable = (then.min(axis=0) > MIN_CHANGE) & (now.max(axis=0) < SATURATED)
    if of is not None:
        usable &= of[some]
    if 8 * np.count_nonzero(usable) < usable.size:
        return np.ones((len(cells), 1, 1), np.float32)
    ratios = np.median(now[:, usable] / then[:, usable], axis=1)
    return np.asarray(ratios.clip(0.5, 2.0), dtype=np.float32)[:, np.newaxis, np.newaxis]


def _largest_part(changed: Mask) -> Mask:
    """The largest connected part of the changed cells; single cells are ignored, and gaps of two cells bridged."""
    largest = np.zeros_like(changed)
    core = changed & (_count_around(changed) >= MIN_CHANGED_CELLS)
    if not core.any():
        return largest
    density = np.where(core, _count_around(core), np.uint8(0))
    remaining = _count_around(core) > 0
    # Dense parts first: they are large, and nothing that remains is larger than all of it.
    while np.count_nonzero(remaining & changed) > np.count_nonzero(largest):
        seed = np.zeros_like(changed)
        seed.flat[int(np.where(remaining, density, np.uint8(0)).argmax())] = True
        part = _connected(seed, remaining)
        remaining &= ~part
        if np.count_nonzero(part & changed) > np.count_nonzero(largest):
            largest = part & changed
    return largest


def _connected(seed: Mask, within: Mask) -> Mask:
    """The cells of `within` that are connected with the seed."""
    count = 0
    while (size := int(np.count_nonzero(seed))) > count:
        count = size
        for _ in range(4):
            seed = (_count_around(seed) > 0) & within
    return seed


def _count_around(cells: Mask) -> npt.NDArray[np.uint8]:
    """Number of set cells among each cell and its eight neighbors."""
    rows, columns = cells.shape
    padded = np.zeros((rows + 2, columns + 2), np.uint8)
    padded[1:-1, 1:-1] = cells
    wide = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return np.asarray(wide[:-2] + wide[1:-1] + wide[2:], dtype=np.uint8)


def _similar(box: Box, other: Box) -> bool:
    """Whether two parts are nearly equal."""
    down, across = STEADY * box.height, STEADY * box.width
    return (
        abs(box.height - other.height) <= 2.0 * down
        and abs(box.top + box.height / 2 - other.top - other.height / 2) <= down
        and abs(box.left + box.width / 2 - other.left - other.width / 2) <= across
    )
