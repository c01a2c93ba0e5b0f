"""Password and tokens: stored as hashes, in a private file that is read again when it changes."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
from pathlib import Path

import pytest

from edge_siamese.dashboard.credentials import (
    MAX_TOKENS,
    CredentialsFile,
    DamagedCredentials,
    Password,
    generated_password,
)
from edge_siamese.errors import SettingsError


@pytest.fixture
def file(tmp_path: Path) -> CredentialsFile:
    return CredentialsFile(tmp_path / "state")


def test_there_is_nothing_at_first(file: CredentialsFile) -> None:
    assert not file.current()
    assert file.current().token("es_whatever") is None
    assert not file.path.parent.exists()


def test_a_password_is_kept_as_what_scrypt_makes_of_it(file: CredentialsFile) -> None:
    file.set_password("correct horse")
    kept = json.loads(file.path.read_text())["password"]
    assert "correct" not in file.path.read_text()
    assert (kept["cost"], kept["block"], kept["parallel"]) == (16384, 8, 1)
    made = hashlib.scrypt(
        b"correct horse", salt=base64.b64decode(kept["salt"]), n=16384, r=8, p=1, maxmem=2**26, dklen=32
    )
    assert base64.b64decode(kept["hash"]) == made
    password = file.current().password
    assert password is not None and password.matches("correct horse")
    assert not password.matches("correct horsf") and not password.matches("")


def test_equal_passwords_have_different_hashes() -> None:
    assert Password.of("the same one").hash != Password.of("the same one").hash


def test_the_same_letters_of_another_keyboard_are_the_same_password() -> None:
    assert Password.of("cafe\u0301 au lait").matches("caf\u00e9 au lait")


@pytest.mark.parametrize("password", ["", "seven77", "x" * 257])
def test_passwords_that_are_none(file: CredentialsFile, password: str) -> None:
    with pytest.raises(SettingsError, match=r"^a password has 8 to 256 characters, not \d+$"):
        file.set_password(password)
    assert not file.path.exists()


def test_nobody_else_can_read_the_file(file: CredentialsFile) -> None:
    umask = os.umask(0)
    try:
        file.set_password("correct horse")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [path.name for path in file.path.parent.iterdir()] == ["dashboard.json"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_what_root_writes_belongs_to_whom_the_directory_belongs(file: CredentialsFile) -> None:
    file.path.parent.mkdir()
    os.chown(file.path.parent, 4321, 4322)
    file.add_token("grafana")
    assert (file.path.stat().st_uid, file.path.stat().st_gid) == (4321, 4322)


def test_a_token_is_told_once_and_kept_as_a_hash(file: CredentialsFile) -> None:
    token = file.add_token(" grafana ")
    assert token.startswith("es_") and len(token) == 3 + 43
    assert token not in file.path.read_text()
    found = file.current().token(token)
    assert found is not None and found.name == "grafana"
    assert found.hash == hashlib.sha256(token.encode()).hexdigest()
    assert file.current().token(token[:-1]) is None


def test_tokens_of_the_same_name_or_of_none(file: CredentialsFile) -> None:
    file.add_token("grafana")
    with pytest.raises(SettingsError, match=r'^a token "grafana" exists; revoke it first'):
        file.add_token("grafana")
    for name in ("", "  ", "x" * 41, "two\nlines"):
        with pytest.raises(SettingsError, match=r"^a token needs a name of 1 to 40 characters"):
            file.add_token(name)


def test_there_are_not_any_number_of_tokens(file: CredentialsFile) -> None:
    for number in range(MAX_TOKENS):
        file.add_token(f"program {number}")
    with pytest.raises(SettingsError, match=r"^there are 50 tokens; revoke some"):
        file.add_token("one more")


def test_a_revoked_token_opens_nothing(file: CredentialsFile) -> None:
    token, other = file.add_token("grafana"), file.add_token("cron")
    file.revoke("grafana")
    assert file.current().token(token) is None
    assert file.current().token(other) is not None
    with pytest.raises(SettingsError, match=r'^there is no token "cran"; did you mean "cron"\?$'):
        file.revoke("cran")


def test_another_process_changes_it(file: CredentialsFile) -> None:
    file.set_password("correct horse")
    mark = file.current().fingerprint
    CredentialsFile(file.path.parent).set_password("battery staple")
    password = file.current().password
    assert password is not None and password.matches("battery staple")
    assert file.current().fingerprint != mark
    file.path.unlink()
    assert not file.current()


def test_a_password_stays_when_a_token_is_made(file: CredentialsFile) -> None:
    file.set_password("correct horse")
    mark = file.current().fingerprint
    file.add_token("grafana")
    assert file.current().fingerprint == mark != ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ("{}", r"is damaged \(version: missing\)"),
        ("[]", "is damaged"),
        ("null", "is damaged"),
        ("\xff", "is damaged"),
        ('{"version": 2}', "has version 2"),
        ('{"version": 1, "users": []}', "unknown key"),
        ('{"version": 1, "password": {"salt": "!", "hash": ""}}', "base64"),
        ('{"version": 1, "password": {"salt": "", "hash": "", "cost": 1073741824}}', "scrypt"),
    ],
)
def test_a_damaged_file_lets_nobody_in(file: CredentialsFile, text: str, problem: str) -> None:
    file.path.parent.mkdir()
    file.path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError, match=problem):
        file.current()
    with pytest.raises(SettingsError, match=problem):  # and again
        file.current()


def test_a_new_password_replaces_a_damaged_file(file: CredentialsFile) -> None:
    file.add_token("grafana")
    file.path.write_bytes(file.path.read_bytes()[:-20])
    for change in (lambda: file.add_token("cron"), lambda: file.revoke("grafana")):
        with pytest.raises(DamagedCredentials, match="set a new password, which replaces it and its tokens"):
            change()
    file.set_password("correct horse")
    assert file.current().password is not None and file.current().tokens == ()


def test_a_file_of_another_version_is_not_replaced(file: CredentialsFile) -> None:
    file.path.parent.mkdir()
    file.path.write_text('{"version": 2}')
    with pytest.raises(SettingsError, match="has version 2"):
        file.set_password("correct horse")
    assert file.path.read_text() == '{"version": 2}'


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(SettingsError, match=r"dashboard\.json cannot be "):
        CredentialsFile(tmp_path / "state").set_password("correct horse")


def test_a_generated_password_can_be_read_aloud() -> None:
    made = {generated_password() for _ in range(50)}
    assert len(made) == 50
    for password in made:
        *words, number = password.split("-")
        assert len(words) == 5 and number.isdecimal()
        for word in words:
            assert word[1] in "aeiou" and word[3] in "aeiou" and len(word) == 4
