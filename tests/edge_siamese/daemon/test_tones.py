"""The tones: valid WAV files with the notes, the volume and no clicks."""

from __future__ import annotations

import io
import wave
from typing import Any

import numpy as np
import pytest

from edge_siamese.daemon.tones import NOTES, RATE, Sound, tone


def samples(file: bytes) -> Any:
    with wave.open(io.BytesIO(file)) as reader:
        assert (reader.getnchannels(), reader.getsampwidth(), reader.getframerate()) == (1, 2, RATE)
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2").astype(float)


@pytest.mark.parametrize("sound", NOTES)
def test_each_note_has_its_frequency_and_length(sound: Sound) -> None:
    rest = samples(tone(sound, 0.5))
    assert len(rest) == sum(round(seconds * RATE) for _, seconds in NOTES[sound])
    for frequency, seconds in NOTES[sound]:
        count = round(seconds * RATE)
        note, rest = rest[:count], rest[count:]
        strongest = np.abs(np.fft.rfft(note, RATE)).argmax()  # one bin is 1 Hz
        assert abs(strongest - frequency) <= 2
        assert note[0] == note[-1] == 0, "no click"


def test_the_volume() -> None:
    assert np.abs(samples(tone("saved", 1.0))).max() == pytest.approx(32767, rel=0.001)
    assert np.abs(samples(tone("saved", 0.25))).max() == pytest.approx(8192, rel=0.001)
    assert np.abs(samples(tone("saved", 0.0))).max() == 0


def test_the_three_differ() -> None:
    assert len({tone(sound, 0.5) for sound in NOTES}) == 3
