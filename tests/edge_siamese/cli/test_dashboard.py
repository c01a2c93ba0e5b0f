"""Commands on the dashboard: the address, the password, and tokens for programs."""

from __future__ import annotations

import errno
import getpass
import io
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_siamese.cli.main import main
from edge_siamese.dashboard.credentials import FILE, Credentials, CredentialsFile

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    (tmp_path / "config.toml").write_text(
        f'[paths]\nstate = "{tmp_path}/state"\nruntime = "{tmp_path}/run"\n[dashboard]\nenabled = true\n'
    )

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["dashboard", *words, "--config", str(tmp_path / "config.toml")])
        out, err = capsys.readouterr()
        return status, out, err

    return run


def kept(tmp_path: Path) -> Credentials:
    return CredentialsFile(tmp_path / "state").current()


def test_the_address(ask: Ask, tmp_path: Path) -> None:
    unreachable = (
        f"the daemon is not running (nothing listens at {tmp_path}/run/control.sock): "
        "sudo systemctl start edge-siamese, or edge-siamese run"
    )
    assert ask() == ask("address") == (0, "http://localhost:8765/\n", f"{unreachable}\n")
    assert json.loads(ask("address", "--json")[1]) == {
        "url": "http://localhost:8765/", "enabled": True, "problem": unreachable, "password": False, "tokens": 0,
    }  # fmt: skip
    (tmp_path / "config.toml").write_text(f'[paths]\nstate = "{tmp_path}"\nruntime = "{tmp_path}"\n')
    off = f"the dashboard is off; set enabled = true in [dashboard] of {tmp_path}/config.toml\n"
    assert ask("address") == (1, "", off)


def test_the_address_needs_no_access_to_credentials(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    CredentialsFile(tmp_path / "state").set_password("correct horse")
    assert json.loads(ask("address", "--json")[1])["password"] is True
    stat = Path.stat

    def forbidden(path: Path, **more: bool) -> os.stat_result:
        if path.name == FILE:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return stat(path, **more)

    monkeypatch.setattr(Path, "stat", forbidden)
    assert ask("address")[:2] == (0, "http://localhost:8765/\n")
    told = json.loads(ask("address", "--json")[1])
    assert told["password"] is None and told["tokens"] is None
    status, _, hint = ask("tokens")
    assert status == 1 and hint.endswith(f"{FILE} cannot be read: Permission denied; use sudo\n")


def test_a_password_is_prompted_for_twice(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = ["correct horse", "correct horse"]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: typed.pop(0))
    assert ask("password") == (0, "password set; all sessions have ended\n", "")
    password = kept(tmp_path).password
    assert password is not None and password.matches("correct horse")
    typed[:] = ["battery staple", "battery stable"]
    assert ask("password") == (1, "", "edge-siamese: the passwords differ; nothing was changed\n")
    assert kept(tmp_path).password == password


def test_a_password_from_standard_input(ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("correct horse\nand more\n"))
    assert ask("password")[0] == 1  # not asked for where nobody sits
    assert kept(tmp_path).password is None
    assert ask("password", "--stdin")[0] == 0
    password = kept(tmp_path).password
    assert password is not None and password.matches("correct horse")


def test_a_generated_password(ask: Ask, tmp_path: Path) -> None:
    status, printed, _ = ask("password", "--generate")
    said, address = printed.splitlines()
    found = re.fullmatch(r"new password of the dashboard: (\S+) \(shown only once\)", said)
    password = kept(tmp_path).password
    assert status == 0 and found and password is not None and password.matches(found[1])
    assert address == "log in at http://localhost:8765/"
    told = json.loads(ask("password", "--generate", "--json")[1])
    password = kept(tmp_path).password
    assert set(told) == {"password"} and password is not None and password.matches(told["password"])


def test_a_generated_password_without_a_dashboard_prints_no_address(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'[paths]\nstate = "{tmp_path}/state"\n')
    assert len(ask("password", "--generate")[1].splitlines()) == 1


def test_a_too_short_password_is_refused(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    assert ask("password", "--stdin") == (1, "", "edge-siamese: a password has 8 to 256 characters, not 5\n")


def test_tokens(ask: Ask, tmp_path: Path) -> None:
    assert ask("tokens")[1] == "no tokens; create one with: sudo edge-siamese dashboard token NAME\n"
    status, made, hint = ask("token", "grafana")
    assert status == 0 and kept(tmp_path).token(made.strip()) is not None
    assert "shown only once" in hint
    told = json.loads(ask("token", "cron", "--json")[1])
    assert told["name"] == "cron" and kept(tmp_path).token(told["token"]) is not None
    lines = ask("tokens")[1].splitlines()
    assert [line.split()[0] for line in lines] == ["name", "-------", "grafana", "cron"]
    assert [found["name"] for found in json.loads(ask("tokens", "--json")[1])] == ["grafana", "cron"]
    assert ask("revoke", "grafana") == (0, 'token "grafana" revoked\n', "")
    assert kept(tmp_path).token(made.strip()) is None
    assert ask("revoke", "grafana")[2] == 'edge-siamese: there is no token "grafana"\n'
