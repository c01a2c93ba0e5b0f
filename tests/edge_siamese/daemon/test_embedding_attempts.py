"""A view that ends the process keeps no other from being learned, and is left alone after the second time."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_siamese.daemon import model_loader
from edge_siamese.daemon.model_loader import (
    ATTEMPTS_FILE,
    EmbeddingAttempts,
    LoadedModel,
    load_tested_encoder,
    reembed,
)
from edge_siamese.errors import EncoderError
from edge_siamese.models.bundle import Bundle
from edge_siamese.pictures import png_size
from edge_siamese.recognition.embedding import embed_view
from edge_siamese.recognition.imaging import Bytes, Floats, Preprocessing
from edge_siamese.recognition.registration import NewView
from edge_siamese.runtimes.encoder import GraphEncoder
from edge_siamese.settings import ModelSettings, Settings
from edge_siamese.store import SupportStore
from tests.edge_siamese.daemon.running import MUG

SETTINGS = Settings(model=ModelSettings(runtime="onnxruntime"))


def end_within(directory: Path, view: int) -> None:
    """A process that ends while it embeds a view, as by the watchdog."""
    program = (
        "import os, sys; from pathlib import Path; from edge_siamese.daemon.model_loader import EmbeddingAttempts\n"
        "with EmbeddingAttempts(Path(sys.argv[1]), 'tiny').attempt(int(sys.argv[2])): os._exit(3)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, directory, str(view)], check=False, env={**os.environ}
    )
    assert ended.returncode == 3


def test_attempts_persist_for_the_same_model_and_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_within(tmp_path, 7)
    again = EmbeddingAttempts(tmp_path, "tiny")
    assert (again.count(7), again.count(8), again.exhausted(7)) == (1, 0, False)
    with again.attempt(8):
        pass
    end_within(tmp_path, 7)
    assert EmbeddingAttempts(tmp_path, "tiny").exhausted(7)
    assert not EmbeddingAttempts(tmp_path, "other").exhausted(7)
    EmbeddingAttempts(tmp_path, "tiny").close()
    assert EmbeddingAttempts(tmp_path, "tiny").exhausted(7)
    monkeypatch.setattr(model_loader, "__version__", "99")
    assert not EmbeddingAttempts(tmp_path, "tiny").exhausted(7)


def test_expected_errors_do_not_count_as_attempts(tmp_path: Path) -> None:
    made = EmbeddingAttempts(tmp_path, "tiny")
    for error in (OSError, ValueError, GeneratorExit):
        with pytest.raises(error), made.attempt(7):
            raise error
        assert EmbeddingAttempts(tmp_path, "tiny").count(7) == 0
    for count in (1, 2):
        with pytest.raises(MemoryError), EmbeddingAttempts(tmp_path, "tiny").attempt(7):
            raise MemoryError
        assert EmbeddingAttempts(tmp_path, "tiny").count(7) == count
    made.close()
    assert not (tmp_path / ATTEMPTS_FILE).exists()


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff", b'{"version": 1}', b"[" * 100_000])
def test_an_unusable_file_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ATTEMPTS_FILE).write_bytes(content)
    assert EmbeddingAttempts(tmp_path, "tiny").count(1) == 0


def test_an_unwritable_file_does_not_stop_reembedding(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with EmbeddingAttempts(tmp_path / "file", "tiny").attempt(1):
        pass


def test_a_crashing_view_is_tried_last_and_skipped_after_two_attempts(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    caplog.set_level(logging.WARNING)
    recognizer = LoadedModel(bundle, load_tested_encoder(bundle, SETTINGS), False)
    prepare, most = model_loader.prepare_picture, [0]

    def deadly(picture: bytes, of: int, to: Preprocessing) -> Bytes:
        most[0] = max(most[0], of)
        if png_size(picture) == (40, 40):
            raise MemoryError
        return prepare(picture, of, to)

    monkeypatch.setattr(model_loader, "prepare_picture", deadly)

    def embedded() -> list[int]:
        with store.with_model(recognizer.encoder.model_id, 8):
            return [item.embedded for item in store.objects()]

    with SupportStore(tmp_path / "objects.db", "former", 8) as store:
        for place, side in enumerate((30, 40, 31)):
            pictures = (np.full((side, side), 90, np.uint8),) * 3
            store.register(f"thing {place}", NewView(np.ones(8, np.float32), pictures, "camera"))
        for expected in ([1, 0, 0], [1, 0, 1]):
            with pytest.raises(MemoryError):
                list(reembed(store, recognizer))
            assert embedded() == expected
        assert list(reembed(store, recognizer)) == []
        assert "view 2 is not re-embedded: the daemon crashed on it twice" in caplog.text
        assert embedded() == [1, 0, 1]
        steps = reembed(store, LoadedModel(bundle, recognizer.encoder, False))
        assert list(steps) == []
    assert most == [3]


def test_a_regular_stop_does_not_count(tmp_path: Path, bundle: Bundle) -> None:
    pytest.importorskip("onnxruntime")
    recognizer = LoadedModel(bundle, load_tested_encoder(bundle, SETTINGS), False)
    with SupportStore(tmp_path / "objects.db", "former", 8) as store:
        pictures = (np.full((30, 30), 90, np.uint8),) * 4
        store.register("mug", NewView(np.ones(8, np.float32), pictures, "camera"))
        for _ in range(3):
            steps = reembed(store, recognizer)
            next(steps), next(steps)
            del steps
            assert EmbeddingAttempts(tmp_path, recognizer.encoder.model_id).count(1) == 0
        steps = reembed(store, recognizer)
        next(steps), next(steps)
        store.forget("mug")
        list(steps)
        assert not (tmp_path / ATTEMPTS_FILE).exists()


def test_a_step_is_at_most_one_run_of_the_encoder_on_one_image(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are recognized between two steps: what other devices sent must not delay them."""
    pytest.importorskip("onnxruntime")
    recognizer = LoadedModel(bundle, load_tested_encoder(bundle, SETTINGS), False)
    threads: set[int] = set()
    runs: list[int] = []
    prepare, embed = model_loader.prepare_picture, GraphEncoder.embed_prepared

    def noted_prepare(*words: Any) -> Bytes:
        threads.add(threading.get_ident())
        return prepare(*words)

    def noted_embed(encoder: GraphEncoder, images: Bytes) -> Floats:
        runs.append(len(images))
        return embed(encoder, images)

    monkeypatch.setattr(model_loader, "prepare_picture", noted_prepare)
    monkeypatch.setattr(GraphEncoder, "embed_prepared", noted_embed)
    pictures = tuple(MUG[side:, :] for side in range(4))
    with SupportStore(tmp_path / "objects.db", "former", 8) as store:
        store.register("mug", NewView(np.ones(8, np.float32), pictures, "camera"))
        before = 0
        for _ in reembed(store, recognizer):
            assert sum(runs[before:]) <= 1
            before = len(runs)
        store.use_model(recognizer.encoder.model_id, 8)
        ((vector,),) = [entry.embeddings for entry in store.entries()]
    assert len(runs) == 4 * 5
    assert threading.get_ident() not in threads
    assert vector == pytest.approx(embed_view(pictures, recognizer.encoder), abs=1e-6)


def test_reembedding_waits_for_an_import(tmp_path: Path, bundle: Bundle) -> None:
    pytest.importorskip("onnxruntime")
    recognizer = LoadedModel(bundle, load_tested_encoder(bundle, SETTINGS), False)
    with SupportStore(tmp_path / "objects.db", "former", 8) as store:
        store.register("mug", NewView(np.ones(8, np.float32), (MUG,), "camera"))
        steps = reembed(store, recognizer)
        with store._database.long_change():
            for _ in range(100):
                next(steps)
        list(steps)
        store.use_model(recognizer.encoder.model_id, 8)
        assert [item.embedded for item in store.objects()] == [1]


def test_a_view_that_always_fails_is_skipped(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    recognizer = LoadedModel(bundle, load_tested_encoder(bundle, SETTINGS), False)

    def fails(*_: object) -> Bytes:
        raise EncoderError("the runtime failed")

    monkeypatch.setattr(model_loader, "prepare_picture", fails)
    with SupportStore(tmp_path / "objects.db", "former", 8) as store:
        store.register("mug", NewView(np.ones(8, np.float32), (np.zeros((30, 30), np.uint8),), "camera"))
        for _ in range(2):
            with pytest.raises(EncoderError):
                list(reembed(store, recognizer))
        assert list(reembed(store, recognizer)) == []
