"""Keys of OpenSSH for tests, made and used with the real ssh-keygen."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge_siamese.models.bundle import MANIFEST
from edge_siamese.models.signature import NAMESPACE, SIGNATURE

needs_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="openssh-client is not installed"
)


@dataclass(frozen=True)
class Key:
    """A key pair in a file."""

    path: Path
    line: str
    """The public key, as `trusted_keys` has it."""
    fingerprint: str
    """As ssh-keygen prints it."""

    @property
    def name(self) -> str:
        return f"{self.line.split()[2]} ({self.fingerprint})"

    def sign(self, bundle: Path, namespace: str = NAMESPACE) -> None:
        command = ["ssh-keygen", "-q", "-Y", "sign", "-f", str(self.path), "-n", namespace]
        done = subprocess.run(
            command, input=(bundle / MANIFEST).read_bytes(), capture_output=True, check=True
        )
        (bundle / SIGNATURE).write_bytes(done.stdout)


def make_key(path: Path, comment: str = "release@lab", kind: str = "ed25519") -> Key:
    command = ["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", comment, "-f", str(path)]
    subprocess.run(command, check=True)
    public = path.with_name(f"{path.name}.pub")
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", str(public)], capture_output=True, text=True, check=True
    )
    return Key(path, public.read_text().strip(), shown.stdout.split()[1])
