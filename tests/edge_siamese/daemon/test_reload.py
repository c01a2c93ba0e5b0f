"""Settings that are read again: whatever is wrong with them, the daemon goes on with the previous ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_siamese.daemon import service as service_module
from edge_siamese.daemon.client import reload
from edge_siamese.models.bundle import Bundle
from tests.edge_siamese.daemon.running import Daemon, daemon_in, until

pytest.importorskip("onnxruntime")


@pytest.fixture
def daemon(tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    with daemon_in(tmp_path, monkeypatch) as made:
        made.configure(bundle.path)
        yield made.start().up()


def refused(daemon: Daemon) -> str:
    """Reload; the problem with which the daemon keeps its settings and goes on."""
    known, frames = daemon.service.settings, daemon.ask("status")["frames"]
    loading = reload(daemon.socket)["loading"]
    assert (loading["busy"], loading["problem"]) == (False, "")
    assert daemon.service.settings is known and daemon.service.hardware.settings is known
    until(lambda: daemon.service.engine and daemon.ask("status")["frames"] > frames)
    problem: str = loading["settings_problem"]
    assert daemon.events("settings")[-1] == f"the previous settings stay in use: {problem}"
    return problem


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"[camera]\nwidth = 1979-05-27\n", "camera.width: must be an integer from 32 to 8192, not the date 1979-05-27"),
        (b"[camera]\nwidth = " + b"1" * 400, "camera.width: must be an integer of at most 64 bits"),
        (b"[camera]\nwidth = " + b"1" * 5000, "not valid TOML: Exceeds the limit"),
        (b"[camera]\nwidth = " + b"[" * 5000, "not valid TOML: more than 100 nested levels (at line 2)"),
        (b"[camera]\nwidth = " + b"{a=" * 5000, "not valid TOML: more than 100 nested levels (at line 2)"),
        (b"[camera]\npath = \"\\u0000\"", "camera.path: a path must not contain a NUL character"),
        (b"[camera]\nkind = \x00", "not valid TOML: Invalid value"),
        ("[camera]".encode("utf-16"), "UTF-16 text instead of UTF-8"),
        (b"\xff", "not UTF-8 text: byte 0 is invalid"),
        (b"#" * 300_000, None),
    ],
)  # fmt: skip
def test_a_faulty_file_changes_nothing(daemon: Daemon, data: bytes, problem: str | None) -> None:
    good = daemon.config.read_bytes()
    daemon.config.write_bytes(data)
    expected = f" cannot be read: it has more than {256 * 1024} bytes" if problem is None else f": {problem}"
    assert refused(daemon).startswith(f"{daemon.config}{expected}")
    daemon.config.write_bytes(good)
    assert not any(reload(daemon.socket)["loading"].values())


def test_a_missing_file_changes_nothing(daemon: Daemon) -> None:
    daemon.config.unlink()
    assert refused(daemon) == f"{daemon.config}: there is no such file"


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("too deep"), ZeroDivisionError("a\nb")])
@pytest.mark.parametrize("part", ["load_settings", "open_sinks", "panel", "integrations"])
def test_a_part_that_fails_brings_the_previous_settings_back(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception
) -> None:
    def fail(*_: Any) -> Any:
        monkeypatch.undo()  # the way back works
        raise error

    text = daemon.config.read_text().replace("debounce_s = 0.002", "debounce_s = 0.003")
    daemon.config.write_text(text + "[events]\nfile = false\n")
    if part == "panel":
        monkeypatch.setattr(daemon.service.hardware, "open_panel", fail)
    elif part == "integrations":
        monkeypatch.setattr(daemon.service.integrations, "apply", fail)
    else:
        monkeypatch.setattr(service_module, part, fail)
    known = daemon.service.settings
    loading = reload(daemon.socket)["loading"]
    text = " ".join(str(error).split())
    assert loading["settings_problem"] == f"unexpected {type(error).__name__}{': ' if text else ''}{text}"
    assert daemon.service.settings is known
    until(lambda: daemon.service.engine is not None)
    daemon.press()
    until(lambda: daemon.events("registered", "refused"))


def test_a_hook_that_is_missing_stops_nothing(daemon: Daemon) -> None:
    daemon.config.write_text(daemon.config.read_text() + '[events]\nhook = ["/none/hook"]\n')
    assert reload(daemon.socket)["loading"]["settings_problem"] == ""
    frames = daemon.ask("status")["frames"]
    until(lambda: daemon.ask("status")["frames"] > frames)
