"""Signs a bundle with an Ed25519 key of OpenSSH: `manifest.json.sig`, which devices with `trusted_keys` require."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from edge_siamese.errors import ExportError
from edge_siamese.models.bundle import MANIFEST, load_bundle
from edge_siamese.models.signature import NAMESPACE, SIGNATURE
from edge_siamese.system.files import write_atomically
from edge_siamese.system.ssh_keys import PublicKey, parse_public_key


def sign(directory: Path, key: Path) -> PublicKey:
    """Write the signature of a bundle, and return the public key that devices have to trust.

    ssh-keygen asks for the passphrase of the key on the terminal; a public key uses the private one in ssh-agent.

    Args:
        directory: directory of the bundle, whose files are checked first.
        key: file of the private key; or of the public one, if ssh-agent has the private key.

    Raises:
        BundleError: it is not a valid bundle.
        ExportError: the key cannot be used, or ssh-keygen is not installed.
    """
    bundle = load_bundle(directory)
    public = _public_key(key)
    manifest = (bundle.path / MANIFEST).read_bytes()
    signature = _keygen(["-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE], manifest, f"{key} cannot sign")
    write_atomically(bundle.path / SIGNATURE, lambda file: file.write(signature))
    return public


def _public_key(key: Path) -> PublicKey:
    """Read the public key next to a private one, or ask ssh-keygen for it."""
    public = key if key.suffix == ".pub" else key.with_name(f"{key.name}.pub")
    try:
        if public.is_file():
            line = public.read_text(encoding="utf-8")
        elif key.is_file():
            line = _keygen(["-y", "-f", str(key)], b"", f"{key} is not a key of OpenSSH").decode("utf-8")
        else:
            raise ExportError(f"{key}: there is no such file; make a key: ssh-keygen -t ed25519 -f {key}")
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"{public} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        return parse_public_key(line)
    except ValueError as error:
        raise ExportError(f"{key}: the public key {error}; make a key: ssh-keygen -t ed25519") from error


def _keygen(arguments: list[str], data: bytes, problem: str) -> bytes:
    program = shutil.which("ssh-keygen")
    if program is None:
        raise ExportError("ssh-keygen is not installed: apt install openssh-client")
    done = subprocess.run([program, *arguments], input=data, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        raise ExportError(f"{problem}: {lines[-1]}")
    return done.stdout
