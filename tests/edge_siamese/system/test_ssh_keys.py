"""Public keys and signatures of OpenSSH, with the real ssh-keygen."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from edge_siamese.system import ssh_keys
from edge_siamese.system.ssh_keys import KeygenError, PublicKey, parse_public_key, signer_of, verify
from tests.edge_siamese.signing import make_key, needs_keygen

RFC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea"
"""The public key of the first test vector of RFC 8032, in the format of OpenSSH."""


def test_a_key_is_read_with_its_comment() -> None:
    key = parse_public_key(f"  {RFC_KEY}  release of the lab \n")
    assert (key.blob, key.comment) == (RFC_KEY.split()[1], "release of the lab")
    assert str(parse_public_key(RFC_KEY)) == parse_public_key(RFC_KEY).fingerprint


@needs_keygen
def test_the_fingerprint_is_that_of_ssh_keygen(tmp_path: Path) -> None:
    key = make_key(tmp_path / "key")
    assert str(parse_public_key(key.line)) == key.name


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("", 'must start with "ssh-ed25519 "'),
        ("ssh-rsa AAAAB3NzaC1yc2E= me", 'must start with "ssh-ed25519 "'),
        ("/etc/edge-siamese/key.pub", 'must start with "ssh-ed25519 "'),
        ("ssh-ed25519", "is not an Ed25519 key"),
        (RFC_KEY[:-1], "is not an Ed25519 key"),
        (RFC_KEY[:-4], "is not an Ed25519 key"),
        (
            "ssh-ed25519 AAAAB3NzaC1lZDI1NTE5AAAAINdamAGCsQq31Uv+08lkBzoO4XLz2qYjJa8CGmj3B1Ea",
            "is not an Ed25519 key",
        ),
        ("ssh-ed25519 *,* x", "is not an Ed25519 key"),
        (f"{RFC_KEY} a\nroot ssh-ed25519 b", "control characters"),
    ],
)
def test_other_lines_are_refused(line: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_public_key(line)


@needs_keygen
def test_signatures(tmp_path: Path) -> None:
    key, other = make_key(tmp_path / "key"), make_key(tmp_path / "other", "other")
    data = b"x" * 100_000
    signature = subprocess.run(
        ["ssh-keygen", "-q", "-Y", "sign", "-f", str(key.path), "-n", "here"],
        input=data, capture_output=True, check=True,
    ).stdout  # fmt: skip
    mine, theirs = parse_public_key(key.line), parse_public_key(other.line)
    assert verify(data, signature, [theirs, mine], "here") == mine
    assert verify(data, signature, [theirs], "here") is None
    assert verify(data, signature, [], "here") is None
    assert verify(data + b"x", signature, [mine], "here") is None
    assert verify(data, signature, [mine], "elsewhere") is None
    assert verify(data, b"no signature", [mine], "here") is None
    assert signer_of(data, signature, "here") == mine.fingerprint
    assert signer_of(data[1:], signature, "here") == signer_of(data, signature, "elsewhere") == ""


def test_a_missing_and_a_hanging_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        KeygenError, match="ssh-keygen is needed to verify signatures: sudo apt install openssh-client"
    ):
        verify(b"", b"", [PublicKey("")], "here")
    program = tmp_path / "ssh-keygen"
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    program.chmod(0o755)
    monkeypatch.setattr(ssh_keys, "TIMEOUT_SECONDS", 0.1)
    with pytest.raises(KeygenError, match="did not answer within"):
        signer_of(b"", b"", "here")


def test_a_program_that_only_says_good_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "ssh-keygen"
    monkeypatch.setenv("PATH", str(tmp_path))
    key = parse_public_key(RFC_KEY)
    for status, line, expected in (
        (0, f'Good "here" signature for signer with ED25519 key {key.fingerprint}', key),
        (255, f'Good "here" signature for signer with ED25519 key {key.fingerprint}', None),
        (0, "Could not verify signature.", None),
        (0, 'Good "here" signature for signer with ED25519 key SHA256:other', None),
    ):
        program.write_text(f"#!/bin/sh\necho '{line}'\nexit {status}\n")
        program.chmod(0o755)
        assert verify(b"", b"", [key], "here") == expected
