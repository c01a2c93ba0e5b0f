"""Short tones, synthesized as WAV files: a rising one for saved, a falling one for refused, a bell for recognized."""

from __future__ import annotations

import io
import wave
from typing import Literal

import numpy as np

Sound = Literal["saved", "refused", "recognized"]
RATE = 22_050
"""Samples per second."""
FADE_SECONDS = 0.008
"""At both ends of a note; without it a loudspeaker clicks."""
NOTES: dict[Sound, tuple[tuple[float, float], ...]] = {
    "saved": ((660.0, 0.09), (990.0, 0.16)),
    "refused": ((311.0, 0.14), (208.0, 0.24)),
    "recognized": ((880.0, 0.12),),
}
"""Frequency in Hz and duration in seconds of each note."""


def tone(sound: Sound, volume: float) -> bytes:
    """Return a WAV file, mono with 16 bits.

    Args:
        sound: which one.
        volume: peak, 0 to 1.
    """
    samples = np.concatenate([_note(*note) for note in NOTES[sound]])
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(np.round(samples * volume * 32767).astype("<i2").tobytes())
    return file.getvalue()


def _note(frequency: float, seconds: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    time = np.arange(round(seconds * RATE)) / RATE
    fade = np.minimum(1.0, np.minimum(time, time[::-1]) / FADE_SECONDS)
    return np.sin(2 * np.pi * frequency * time) * fade
