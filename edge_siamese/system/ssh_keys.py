"""Public keys of OpenSSH, and signatures of `ssh-keygen -Y`. Only Ed25519 keys are accepted."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import shutil
import struct
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

ALGORITHM = "ssh-ed25519"
TIMEOUT_SECONDS = 20.0
INSTALL = "sudo apt install openssh-client"
_KEY_BYTES = 32
_SIGNER = "signer"
"""The name of every key in the list of allowed signers; ssh-keygen prints which key it was."""


class KeygenError(Exception):
    """`ssh-keygen` is missing or does not answer; the message says what to do."""


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 key, as in a file `id_ed25519.pub`."""

    blob: str
    """Base64."""
    comment: str = ""

    @property
    def fingerprint(self) -> str:
        """The fingerprint that `ssh-keygen -l` prints: `SHA256:...`."""
        digest = hashlib.sha256(base64.b64decode(self.blob)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def __str__(self) -> str:
        return f"{self.comment} ({self.fingerprint})" if self.comment else self.fingerprint


def parse_public_key(text: str) -> PublicKey:
    """Parse a line such as `ssh-ed25519 AAAA... release@example`.

    Raises:
        ValueError: it is not such a line; the message says why.
    """
    algorithm, _, rest = text.strip().partition(" ")
    blob, _, comment = rest.strip().partition(" ")
    if algorithm != ALGORITHM:
        raise ValueError(f'must start with "{ALGORITHM} ", as a line of an id_ed25519.pub does')
    name = ALGORITHM.encode()
    start = struct.pack(">I", len(name)) + name + struct.pack(">I", _KEY_BYTES)
    try:
        data = base64.b64decode(blob, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not data.startswith(start) or len(data) != len(start) + _KEY_BYTES:
        raise ValueError("is not an Ed25519 key; copy the whole line of the .pub file")
    if not comment.isprintable():
        raise ValueError("has a comment with control characters")
    return PublicKey(blob, comment.strip())


def verify(data: bytes, signature: bytes, keys: Sequence[PublicKey], namespace: str) -> PublicKey | None:
    """Return the key that signed data; None if none of these keys did.

    Data, signature and keys are passed in memory: what is verified is what the caller holds.

    Raises:
        KeygenError: ssh-keygen cannot be run.
    """
    allowed = "".join(f'{_SIGNER} namespaces="{namespace}" {ALGORITHM} {key.blob}\n' for key in keys)
    files = (allowed.encode(), signature)
    done = _keygen(data, files, "verify", "-I", _SIGNER, "-n", namespace, "-f", "{0}", "-s", "{1}")
    fingerprint = _fingerprint(done)
    return next((key for key in keys if key.fingerprint == fingerprint), None)


def signer_of(data: bytes, signature: bytes, namespace: str) -> str:
    """Return the fingerprint of the key that signed data, trusted or not; empty if the signature does not match the data.

    Raises:
        KeygenError: ssh-keygen cannot be run.
    """
    return _fingerprint(_keygen(data, (signature,), "check-novalidate", "-n", namespace, "-s", "{0}"))


def _keygen(
    data: bytes, files: Sequence[bytes], action: str, *arguments: str
) -> subprocess.CompletedProcess[bytes]:
    """Run `ssh-keygen -Y` on data at its standard input; `{0}` stands for the path of the first file."""
    program = shutil.which("ssh-keygen")
    if program is None:
        raise KeygenError(f"ssh-keygen is needed to verify signatures: {INSTALL}")
    with ExitStack() as stack:
        descriptors = []
        for content in (*files, data):
            file = stack.enter_context(os.fdopen(os.memfd_create("signed"), "wb+"))
            file.write(content)
            file.seek(0)  # flushes
            descriptors.append(file.fileno())
        *named, standard_input = descriptors
        paths = [f"/proc/self/fd/{number}" for number in named]
        try:
            return subprocess.run(
                [program, "-Y", action, *(argument.format(*paths) for argument in arguments)],
                stdin=standard_input,
                capture_output=True,
                pass_fds=named,
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise KeygenError(f"ssh-keygen did not answer within {TIMEOUT_SECONDS:g} s") from error
        except OSError as error:
            raise KeygenError(f"{program} cannot be run: {error.strerror or error}") from error


def _fingerprint(done: subprocess.CompletedProcess[bytes]) -> str:
    """The fingerprint in `Good "..." signature ... with ED25519 key SHA256:...`; empty after a failure."""
    line = done.stdout.decode("utf-8", "replace").strip()
    _, found, fingerprint = line.rpartition(" with ED25519 key ")
    return fingerprint if done.returncode == 0 and found and line.startswith("Good ") else ""
