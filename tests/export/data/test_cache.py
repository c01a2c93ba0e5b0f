from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_siamese.errors import DataError
from export.data.cache import VARIABLE, Arrays, cache_directory, cached_arrays


class Builder:
    """Counts how often the arrays were made."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> Arrays:
        self.calls += 1
        return {"images": np.arange(1000, dtype=np.uint8).reshape(10, 100), "names": np.array(["a", "bcd"])}


def the_file() -> Path:
    (path,) = (cache_directory() / "prepared").iterdir()
    return path


def test_arrays_are_made_once_for_a_key() -> None:
    build = Builder()
    first = cached_arrays("kind", {"sha256": "00", "version": 1}, build)
    second = cached_arrays("kind", {"version": 1, "sha256": "00"}, build)
    assert build.calls == 1
    assert second.keys() == first.keys() == {"images", "names"}
    assert np.array_equal(second["images"], first["images"])
    assert second["names"].tolist() == ["a", "bcd"]
    cached_arrays("kind", {"version": 2, "sha256": "00"}, build)
    assert build.calls == 2


def test_without_a_home_directory_nothing_is_cached(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home(_: object = None) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(DataError, match=f"no home directory for the cache: set {VARIABLE} to a directory"):
        cache_directory()
    build = Builder()
    for calls in (1, 2):
        assert cached_arrays("kind", {"version": 1}, build).keys() == {"images", "names"}
        assert build.calls == calls
    assert caplog.messages[0].startswith("prepared pictures are not cached: there is no home directory")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_file_is_made_again(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    build = Builder()
    whole = cached_arrays("kind", {"version": 1}, build)
    content = bytearray(the_file().read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[content.index(bytes(range(50, 80)))] ^= 0xFF
    else:
        content = bytearray(b"" if damage == "empty" else b"not an archive")
    the_file().write_bytes(content)

    again = cached_arrays("kind", {"version": 1}, build)
    assert build.calls == 2
    assert "is damaged" in caplog.text
    assert np.array_equal(again["images"], whole["images"])
    cached_arrays("kind", {"version": 1}, build)
    assert build.calls == 2


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    build = Builder()
    for calls in (1, 2):
        assert cached_arrays("kind", {}, build)["images"].shape == (10, 100)
        assert build.calls == calls
    assert "prepared pictures are not cached: cannot write" in caplog.text


def test_the_usual_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "edge-siamese"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "edge-siamese"
