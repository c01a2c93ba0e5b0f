"""The device's wheels on the boards' processors: the same numbers and objects on each board."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from dataclasses import dataclass
from functools import cache as remember
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_siamese import Recognizer
from edge_siamese.daemon.client import request
from edge_siamese.errors import DaemonNotRunning
from edge_siamese.models.bundle import Bundle, load_bundle
from edge_siamese.models.selftest import MAX_SCORE_DIFFERENCE, MIN_COSINE
from edge_siamese.pictures import read_picture
from edge_siamese.runtimes.selection import runtime_format
from edge_siamese.store import SupportStore
from tests.system import arm64, wheels
from tests.system.arm64 import BOOKWORM, PI_5, TRIXIE, ZERO_2_W, Board, System, Userland

pytestmark = pytest.mark.system

Floats = npt.NDArray[np.float32]
GUEST = Path(__file__).with_name("guest")
HOST_RUNTIME = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}
PRECISIONS = ("int8", "fp32")
RUN = ("-m", "edge_siamese", "run")
MATRIX = [
    pytest.param(system, board, runtime, id=f"{board.cpu}-python{system.python}-{runtime}")
    for system in (BOOKWORM, TRIXIE)
    for board in (ZERO_2_W, PI_5)
    for runtime in system.runtimes
]


@dataclass(frozen=True)
class Place:
    """What an emulated board gets to see."""

    product: Path
    bundle: Path
    pictures: Path

    @property
    def binds(self) -> dict[str, Path]:
        return {
            arm64.PRODUCT: self.product,
            "/mnt/bundle": self.bundle,
            "/mnt/pictures": self.pictures,
            "/mnt/guest": GUEST,
        }


@pytest.fixture(scope="module")
def userlands(root: None, cache: Path) -> Any:
    """Gives the tree of a system."""
    if why := arm64.missing():
        pytest.skip(why)
    return remember(lambda system: arm64.userland(system, cache))


@pytest.fixture(scope="module")
def place(root: None, wheel: Path, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    directory = tmp_path_factory.mktemp("arm64")
    pictures = directory / "pictures"
    write_pictures(load_bundle(demo_bundle), pictures)
    return Place(wheels.unpack(wheel, directory / "product"), demo_bundle, pictures)


def write_pictures(bundle: Bundle, directory: Path) -> None:
    """The golden images as pictures: enlarged; as queries with a margin cut off, in the same light.

    Encoders for drawings are made for white paper, so a darker query would be a question of the encoder.
    """
    image_module = pytest.importorskip("PIL.Image")
    for number, image in enumerate(bundle.golden.images):
        pixels = np.kron(image[..., 0], np.ones((9, 9), dtype=np.uint8))
        for kind, shown in (("support", pixels), ("query", pixels[2:, 3:])):
            (directory / kind).mkdir(parents=True, exist_ok=True)
            image_module.fromarray(shown).save(directory / kind / f"object-{number}.png")


def cosines(a: Floats, b: Floats) -> Floats:
    return np.einsum("kd,kd->k", a, b) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


@pytest.mark.parametrize(("system", "board", "runtime"), MATRIX)
def test_a_board_computes_what_the_workstation_computed(
    userlands: Any, place: Place, system: System, board: Board, runtime: str
) -> None:
    userland: Userland = userlands(system)
    selftest = ["-m", "edge_siamese", "selftest", "/mnt/bundle", "--runtime", runtime, "--json"]
    started = time.monotonic()
    ran = userland.run(board, place.binds, selftest)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    result = json.loads(ran.stdout)
    assert result["passed"] is True
    found = {(report["runtime"], report["precision"]) for report in result["reports"]}
    assert found == {(runtime, precision) for precision in PRECISIONS}
    for report in result["reports"]:
        assert report["imaging_exact"] is True
        assert report["head_exact"] is True
        assert report["worst_cosine"] >= MIN_COSINE[report["precision"]]
        assert report["reference"] == f"{runtime_format(runtime)}-{report['precision']}"
    print(f"{board.name}, Python {system.python}, {runtime}: selftest {time.monotonic() - started:.0f} s")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("system", "board", "runtime"), MATRIX)
def test_a_board_and_this_machine_agree_on_embeddings_and_objects(
    userlands: Any, place: Place, system: System, board: Board, runtime: str, precision: str
) -> None:
    userland: Userland = userlands(system)
    ran = userland.run(
        board,
        place.binds,
        ["/mnt/guest/on_board.py", "/mnt/bundle", runtime, precision, "/mnt/pictures"],
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    report = json.loads(ran.stdout)
    assert (report["machine"], report["runtime"]) == ("aarch64", runtime)
    assert report["python"].startswith(system.python + ".")
    assert report["numpy"].startswith("1.24." if system is BOOKWORM else "2.")

    bundle = load_bundle(place.bundle)
    here = Recognizer(bundle, runtime=HOST_RUNTIME[runtime_format(runtime)], precision=precision, threads=1)
    mine = here.encoder.embed_prepared(bundle.golden.images)
    theirs = np.asarray(report["embeddings"], dtype=np.float32)
    assert theirs.shape == mine.shape
    assert float(cosines(theirs, mine).min()) >= MIN_COSINE[precision]
    difference = np.abs(here.head.score(theirs, theirs) - here.head.score(mine, mine)).max()
    assert float(difference) <= MAX_SCORE_DIFFERENCE[precision]

    names = [f"object-{number}" for number in range(len(bundle.golden.images))]
    for name in names:
        here.register(name, place.pictures / "support" / f"{name}.png")
    assert report["objects"] == len(names) == len(report["recognitions"])
    for name in names:
        recognition = here.recognize(place.pictures / "query" / f"{name}.png")
        found = report["recognitions"][name]
        assert abs(found["probability"] - recognition.probability) <= MAX_SCORE_DIFFERENCE[precision]
        decided = abs(recognition.probability - recognition.threshold) > MAX_SCORE_DIFFERENCE[precision]
        if decided:
            assert found["name"] == recognition.name
    right = sum(found["name"] == name for name, found in report["recognitions"].items())
    assert right >= len(names) / 2, report["recognitions"]


DAEMON = """
[model]
bundle = "/mnt/bundle"

[camera]
kind = "files"
path = "/mnt/pictures/support/object-0.png"
frame_rate = 5

[panel]
kind = "none"

[recognition]
seen_interval_s = 0

[registration]
frames = 2
min_sharpness = 0
min_brightness = 0
max_brightness = 255
max_motion = 100

[paths]
state = "/mnt/state"
runtime = "/mnt/state"
"""


def status_when(socket: Path, process: subprocess.Popen[bytes], log: Path, frames: int) -> dict[str, Any]:
    """The daemon's status, once it has recognized so many frames."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        try:
            status: dict[str, Any] = request(socket, "status")
        except DaemonNotRunning:
            status = {"frames": 0}
        if status["frames"] >= frames:
            return status
        time.sleep(0.2)
    raise AssertionError(log.read_text())


@pytest.mark.parametrize(
    ("system", "board"),
    [
        pytest.param(system, board, id=f"{board.cpu}-python{system.python}")
        for system in (BOOKWORM, TRIXIE)
        for board in (ZERO_2_W, PI_5)
    ],
)
def test_the_daemon_of_a_board_registers_recognizes_and_keeps_an_object(
    userlands: Any, place: Place, system: System, board: Board
) -> None:
    userland: Userland = userlands(system)
    # The path of a socket is short, unlike pytest's directories.
    with tempfile.TemporaryDirectory() as directory:
        state = Path(directory)
        socket, log = state / "control.sock", state / "log"
        (state / "config.toml").write_text(DAEMON)
        binds = {**place.binds, "/mnt/state": state}
        with userland.running(board, binds, [*RUN, "--config", "/mnt/state/config.toml"], log) as process:
            status = status_when(socket, process, log, frames=3)
            assert (status["model"]["runtime"], status["model"]["precision"]) == (system.runtimes[0], "int8")
            assert status["camera"]["status"] == "running"
            cli = ["-m", "edge_siamese", "register", "first", "--config", "/mnt/state/config.toml", "--json"]
            said = userland.run(board, binds, cli)
            assert said.returncode == 0, said.stderr + log.read_text()
            registered = json.loads(said.stdout)["object"]
            assert (registered["name"], registered["views"], registered["embedded"]) == ("first", 1, 1)
            status_when(socket, process, log, frames=request(socket, "status")["frames"] + 8)
            kinds = [(event["kind"], event.get("name")) for event in request(socket, "events", count=50)]
            assert kinds.index(("registered", "first")) < kinds.index(("appeared", "first"))
            assert request(socket, "status")["present"] == ["first"]
            process.terminate()
            assert process.wait(20) == 0, log.read_text()
            assert "Traceback" not in log.read_text()

        bundle = load_bundle(place.bundle)
        dimensions = bundle.manifest.embedding.dimensions
        with SupportStore(state / "objects.db", bundle.manifest.model_id, dimensions) as store:
            assert store.repair is None
            (entry,) = store.entries()
            assert (entry.uid, entry.name) == (registered["uid"], "first")
        here = Recognizer(bundle, runtime=HOST_RUNTIME["tflite"], threads=1)
        shown = read_picture(place.pictures / "support" / "object-0.png")
        mine = here.encoder.embed([shown])
        assert float(cosines(entry.embeddings, mine)[0]) >= MIN_COSINE["int8"]
