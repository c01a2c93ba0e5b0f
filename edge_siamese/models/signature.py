"""Signatures of bundles: `manifest.json.sig`, made by `python -m export sign`, binds the manifest and thereby all its files.

The manifest has the size and the SHA-256 of every file that is loaded, so a signature of its bytes covers the whole bundle.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edge_siamese.errors import BundleError, SignatureError, SignatureToolError
from edge_siamese.models import describe_shipped
from edge_siamese.system.ssh_keys import KeygenError, PublicKey, parse_public_key, signer_of, verify

SIGNATURE = "manifest.json.sig"
NAMESPACE = "edge-siamese-bundle"
"""Namespace of ssh-keygen: a signature that was made for something else, such as git, is not valid for a bundle."""
MAX_SIGNATURE_BYTES = 16 * 1024


def require_signature(directory: Path, manifest: bytes, trusted_keys: Sequence[str]) -> str:
    """Return who signed a manifest, such as `release@example (SHA256:...)`.

    Args:
        directory: directory of the bundle, with the signature.
        manifest: the bytes of `manifest.json` that are used.
        trusted_keys: lines of public keys, as in the settings.

    Raises:
        SignatureError: it is not signed, was changed afterward, or was signed with another key.
        SignatureToolError: ssh-keygen cannot be run.
    """
    keys = [parse_public_key(line) for line in trusted_keys]
    signature = read_signature(directory)
    if signature is None:
        raise SignatureError(
            f"{directory} is not signed, and `trusted_keys` in [model] requires it: "
            "python -m export sign BUNDLE --key FILE"
        )
    try:
        key = verify(manifest, signature, keys, NAMESPACE)
        if key is not None:
            return str(key)
        other = signer_of(manifest, signature, NAMESPACE)
    except KeygenError as error:
        raise SignatureToolError(f"the signature of {directory} cannot be verified: {error}") from error
    if other:
        raise SignatureError(
            f"{directory} is signed with the key {other}, which is not in `trusted_keys` of [model]"
        )
    raise SignatureError(
        f"{directory}: {SIGNATURE} is not a signature of its manifest.json, which was changed after it was signed; "
        "get the bundle again from its signer"
    )


def describe_signature(directory: Path, trusted_keys: Sequence[str]) -> str:
    """Describe in one line who signed a bundle, without refusing it; raises `BundleError` if it cannot be read."""
    if describe_shipped(directory):
        return "shipped with the program"
    signature = read_signature(directory)
    if signature is None:
        return "not signed"
    try:
        manifest = (directory / "manifest.json").read_bytes()
        keys: list[PublicKey] = [parse_public_key(line) for line in trusted_keys]
        if keys and (key := verify(manifest, signature, keys, NAMESPACE)):
            return f"signed by {key}, a trusted key"
        other = signer_of(manifest, signature, NAMESPACE)
    except KeygenError as error:
        return f"signed; not verified: {error}"
    except OSError as error:
        raise BundleError(f"{directory / 'manifest.json'} cannot be read: {error.strerror}") from error
    if not other:
        return f"changed after it was signed: {SIGNATURE} is not a signature of this manifest"
    return (
        f"signed with {other}, {'which is not trusted' if keys else 'without trusted_keys to compare with'}"
    )


def read_signature(directory: Path) -> bytes | None:
    """Return the signature file of a bundle; None if there is none. Raises `BundleError` if it cannot be read."""
    path = directory / SIGNATURE
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SIGNATURE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from error
    if len(content) > MAX_SIGNATURE_BYTES:
        raise SignatureError(f"{path} has more than {MAX_SIGNATURE_BYTES} bytes; it is not a signature")
    return content
