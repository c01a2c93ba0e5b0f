"""A program for `test_ending.py`: a daemon of which everything hangs that can hang.

Its arguments are the settings and an archive. It writes `stuck` to its standard output when all of it hangs, and ends
when it is told to.
"""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path
from typing import Any

from edge_siamese.daemon import hardware, model_loader
from edge_siamese.daemon.integrations import INTEGRATIONS
from edge_siamese.daemon.service import Service
from edge_siamese.settings_file import load_settings
from edge_siamese.store import archive
from edge_siamese.system.threads import DaemonThreadPool
from tests.edge_siamese.daemon.running import Stage, until

HANGING: list[str] = []


def hang(name: str) -> Any:
    """A function that never returns."""

    def function(*_: Any, **__: Any) -> None:
        HANGING.append(name)
        threading.Event().wait()

    return function


def make_it_hang(service: Service, stage: Stage, collection: Path) -> None:
    until(lambda: service.engine and service.engine.frames > 2)
    reports = until(lambda: len(found := service.integrations.report()) == len(INTEGRATIONS) - 1 and found)
    until(lambda: all(part["works"] for part in service.integrations.report().values()))
    assert set(reports) == {"dashboard", "metrics"}
    for slot in service.integrations._slots:
        if slot.spec.kind == "dashboard":
            state: Any = slot.instance._state  # type: ignore[union-attr]
            for name in ("pool", "public_pool", "jpeg_pool"):
                getattr(state, name).submit(hang(name))
    api: Any = service.api
    api.list_objects = hang("command")
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(service.settings.socket))
    client.sendall(b'{"command": "objects"}\n')
    archive.insert_crops = hang("import")
    DaemonThreadPool(1, "import").submit(lambda: api.import_(collection, "rename"))
    stage.hangs = True
    until(lambda: stage.stuck)
    until(lambda: set(HANGING) == {"pool", "public_pool", "jpeg_pool", "command", "import"})
    until((service.settings.state_directory / "hook").exists)
    print("stuck", flush=True)


def main(config: str, collection: str) -> int:
    stage = Stage()
    hardware.open_camera = stage.open
    model_loader.needs_proof = lambda _: False
    service = Service(load_settings(config), config)
    DaemonThreadPool(1, "conductor").submit(
        lambda: make_it_hang(service, stage, Path(collection))
    ).add_done_callback(lambda done: done.result())
    return service.run()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
