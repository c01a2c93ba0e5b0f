"""The end of the daemon's process: it waits for nothing that hangs, and stays within its memory until then."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edge_siamese.daemon.client import request
from edge_siamese.models.bundle import Bundle
from edge_siamese.recognition.registration import NewView
from edge_siamese.store import SupportStore
from tests.edge_siamese.daemon.running import CONFIG, MUG, until

pytest.importorskip("onnxruntime")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")

EXTRAS = """
[dashboard]
enabled = true
port = {dashboard}
[metrics]
enabled = true
port = {metrics}
[events]
hook = ["sh", "-c", "echo $$ > {hook}; exec sleep 1000"]
hook_timeout_s = 3600.0
"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def has_ended(pid: int) -> bool:
    """Whether a process has ended; nobody may wait for it any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_it_ends_although_everything_hangs(tmp_path: Path, bundle: Bundle) -> None:
    state, config = tmp_path / "state", tmp_path / "config.toml"
    state.mkdir()
    (tmp_path / "run").mkdir()
    text = CONFIG.format(bundle=bundle.path, state=state, runtime=tmp_path / "run")
    text = text.replace("timeout_s = 0.2", "timeout_s = 60.0")  # or the process restarts for its camera
    config.write_text(text + EXTRAS.format(dashboard=free_port(), metrics=free_port(), hook=state / "hook"))
    with SupportStore(tmp_path / "other.db", "other", 4) as store:
        store.register("mug", NewView(np.ones(4, np.float32), (MUG,), "camera"))
        store.export_archive(tmp_path / "objects.zip")
    with subprocess.Popen(
        [sys.executable, "-m", "tests.edge_siamese.daemon.stuck_process", config, tmp_path / "objects.zip"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            assert b"stuck\n" in iter(process.stdout.readline, b""), process.stderr.read()
            start = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
            # About a second. The interpreter would wait for an ordinary thread for good.
            assert time.monotonic() - start < 5
        finally:
            process.kill()
    hook = int((state / "hook").read_text())
    until(lambda: has_ended(hook))
    with SupportStore(state / "objects.db", "tiny-0123456789ab", 8) as store:
        assert store.objects() == []
        assert store.repair is None


def test_a_photograph_of_twelve_megapixels_as_the_camera_takes_little_memory(
    tmp_path: Path, bundle: Bundle
) -> None:
    """The unit of a board with 512 MB limits the service to 220 MB."""
    from PIL import Image

    photograph = tmp_path / "photograph.jpg"
    Image.effect_noise((4000, 3000), 60).convert("RGB").save(photograph)
    config = tmp_path / "config.toml"
    (tmp_path / "run").mkdir()
    text = CONFIG.format(bundle=bundle.path, state=tmp_path / "state", runtime=tmp_path / "run")
    config.write_text(text.replace("[camera]", f'[camera]\nkind = "files"\npath = "{photograph}"'))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_siamese", "run", "--config", config],
        stderr=subprocess.PIPE,
        env=environment,
    )
    assert process.stderr is not None
    try:

        def frames() -> int:
            assert process.poll() is None
            try:
                count: int = request(tmp_path / "run" / "control.sock", "status")["frames"]
            except OSError:
                return 0
            return count

        until(lambda: frames() > 3)
        peak = int(Path(f"/proc/{process.pid}/status").read_text().split("VmHWM:")[1].split()[0])
        assert peak < 200_000
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
