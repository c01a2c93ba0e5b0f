"""Signed bundles: what is refused, and that what was verified is what is used. With the real ssh-keygen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edge_siamese import models
from edge_siamese.errors import BundleError, ChecksumError, SignatureError, SignatureToolError
from edge_siamese.models.bundle import GOLDEN, IMPOSTORS, MANIFEST, load_bundle
from edge_siamese.models.installed import InstalledModels
from edge_siamese.models.signature import MAX_SIGNATURE_BYTES, SIGNATURE, describe_signature
from edge_siamese.runtimes.selection import load_encoder
from tests.edge_siamese.signing import Key, make_key, needs_keygen
from tests.tiny_bundle import write_tiny_bundle

pytestmark = needs_keygen


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return make_key(tmp_path_factory.mktemp("keys") / "release")


@pytest.fixture
def signed(tmp_path: Path, key: Key) -> Path:
    bundle = write_tiny_bundle(tmp_path / "signed")
    key.sign(bundle)
    return bundle


def change_manifest(bundle: Path) -> None:
    path = bundle / MANIFEST
    manifest = json.loads(path.read_text())
    manifest["head"]["bias"] += 1
    path.write_text(json.dumps(manifest))


def replace_encoder_and_describe_it(bundle: Path) -> None:
    """What an attacker does who can write the bundle and has no key: the manifest fits the new file."""
    shutil.rmtree(bundle)
    write_tiny_bundle(bundle, weighted=True)


def test_a_signed_bundle_is_loaded_and_says_who_signed_it(signed: Path, key: Key) -> None:
    bundle = load_bundle(signed, trusted_keys=[key.line])
    assert bundle.signer == key.name
    bundle.check()
    assert load_bundle(signed).signer == "", "without keys nothing is verified"
    assert describe_signature(signed, [key.line]) == f"signed by {key.name}, a trusted key"
    assert describe_signature(signed, []) == (
        f"signed with {key.fingerprint}, without trusted_keys to compare with"
    )


def test_a_bundle_without_signature(signed: Path, key: Key) -> None:
    (signed / SIGNATURE).unlink()
    with pytest.raises(
        SignatureError, match=r"signed is not signed, and `trusted_keys` in \[model\] requires it"
    ):
        load_bundle(signed, trusted_keys=[key.line])
    assert describe_signature(signed, [key.line]) == "not signed"


def test_another_key(signed: Path, key: Key, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other", "other@lab")
    with pytest.raises(
        SignatureError, match=f"is signed with the key {key.fingerprint.replace('+', '.')}, which is not"
    ):
        load_bundle(signed, trusted_keys=[other.line])
    assert load_bundle(signed, trusted_keys=[other.line, key.line]).signer == key.name
    assert describe_signature(signed, [other.line]) == f"signed with {key.fingerprint}, which is not trusted"


@pytest.mark.parametrize("change", [change_manifest, replace_encoder_and_describe_it])
def test_a_changed_manifest(signed: Path, key: Key, change: Callable[[Path], None]) -> None:
    signature = (signed / SIGNATURE).read_bytes()
    change(signed)
    (signed / SIGNATURE).write_bytes(signature)
    with pytest.raises(SignatureError, match="which was changed after it was signed"):
        load_bundle(signed, trusted_keys=[key.line])
    assert describe_signature(signed, [key.line]).startswith("changed after it was signed: ")


def test_every_file_that_is_listed_is_bound(signed: Path, key: Key) -> None:
    """One byte, and also without the checksums that a small board leaves out."""
    for _, item in load_bundle(signed).manifest.files():
        original = (signed / item.path).read_bytes()
        (signed / item.path).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        for verify_checksums in (True, False):
            with pytest.raises(ChecksumError, match=item.path):
                load_bundle(signed, verify_checksums, [key.line])
        (signed / item.path).write_bytes(original)
    assert load_bundle(signed, trusted_keys=[key.line]).signer


def test_a_signature_for_something_else(signed: Path, key: Key) -> None:
    key.sign(signed, namespace="git")
    with pytest.raises(SignatureError, match="is not a signature of its manifest"):
        load_bundle(signed, trusted_keys=[key.line])


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 100, b"x" * (MAX_SIGNATURE_BYTES + 1)])
def test_a_file_that_is_no_signature(signed: Path, key: Key, content: bytes) -> None:
    (signed / SIGNATURE).write_bytes(content)
    with pytest.raises(SignatureError, match="is not a signature"):
        load_bundle(signed, trusted_keys=[key.line])


def test_a_missing_ssh_keygen(
    signed: Path, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SignatureToolError, match=r"cannot be verified: ssh-keygen is needed .*openssh-client"
    ):
        load_bundle(signed, trusted_keys=[key.line])
    assert load_bundle(signed).signer == ""
    assert describe_signature(signed, []).startswith("signed; not verified: ssh-keygen is needed")


def test_shipped_bundles_are_part_of_the_program(key: Key, tmp_path: Path) -> None:
    assert load_bundle("glyphs", trusted_keys=[key.line]).signer == ""
    assert describe_signature(models.shipped("glyphs"), [key.line]) == "shipped with the program"
    link = tmp_path / "link"
    link.symlink_to(models.shipped("glyphs"))
    with pytest.raises(SignatureError, match="is not signed"):
        load_bundle(link, trusted_keys=[key.line])


@pytest.mark.parametrize("runtime", ["onnxruntime", "ai-edge-litert"])
def test_a_file_that_is_replaced_after_the_verification_is_not_used(
    signed: Path, key: Key, runtime: str
) -> None:
    pytest.importorskip(runtime.replace("-", "_"))
    bundle = load_bundle(signed, trusted_keys=[key.line])
    embed = load_encoder(bundle, runtime, "int8", 1).embed_prepared
    images = bundle.golden.images
    expected = embed(images)
    for _, item in bundle.manifest.files():
        path = signed / item.path
        replacement = path.with_name("replacement")
        replacement.write_bytes(b"\0" * path.stat().st_size)
        os.replace(replacement, path)
    fresh = load_bundle(signed, verify_checksums=False)
    assert fresh.signer == ""
    for use in (
        lambda: load_encoder(bundle, runtime, "int8", 1),
        lambda: bundle.read(GOLDEN),
        lambda: bundle.impostors,
    ):
        with pytest.raises(ChecksumError, match="its SHA-256 differs"):
            use()
    assert np.array_equal(embed(images), expected), "what was loaded before stays"


@pytest.mark.parametrize("runtime", ["onnxruntime", "ai-edge-litert"])
def test_encoders_load_the_bytes_that_were_verified(
    signed: Path, key: Key, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced between the verification and the runtime: at the worst moment."""
    pytest.importorskip(runtime.replace("-", "_"))
    bundle = load_bundle(signed, trusted_keys=[key.line])
    expected = load_encoder(load_bundle(signed), runtime, "int8", 1).embed_prepared(bundle.golden.images)
    read = type(bundle).read

    def read_then_replace(self: object, path: str) -> bytes:
        content = read(bundle, path)
        (signed / path).write_bytes(b"\0" * len(content))
        return content

    monkeypatch.setattr(type(bundle), "read", read_then_replace)
    encoder = load_encoder(bundle, runtime, "int8", 1)
    assert np.array_equal(encoder.embed_prepared(bundle.golden.images), expected)


def test_only_signed_bundles_are_installed_and_stay_verifiable(
    signed: Path, key: Key, tmp_path: Path
) -> None:
    installed = InstalledModels(tmp_path / "state/models")
    unsigned = write_tiny_bundle(tmp_path / "unsigned", model_id="unsigned-1")
    with pytest.raises(SignatureError, match="is not signed"):
        installed.install(unsigned, pytest.fail, [key.line])
    assert installed.current() is None
    model = installed.install(signed, lambda bundle: None, [key.line])
    assert load_bundle(model.path, trusted_keys=[key.line]).signer == key.name
    assert installed.install(unsigned, lambda bundle: None).name.startswith("unsigned-1")


def test_a_shipped_bundle_is_named_instead_of_copied(key: Key, tmp_path: Path) -> None:
    installed = InstalledModels(tmp_path / "models")
    with pytest.raises(SignatureError, match=r'set bundle = "glyphs" in .model. of the settings instead'):
        installed.install("glyphs", pytest.fail, [key.line])


def test_a_bundle_that_changes_while_it_is_copied_is_not_installed(
    signed: Path, key: Key, tmp_path: Path
) -> None:
    installed = InstalledModels(tmp_path / "state/models")
    other = write_tiny_bundle(tmp_path / "other")

    def replace_it(_: object) -> None:
        for path in other.iterdir():
            shutil.copyfile(path, signed / path.name)
        change_manifest(signed)

    with pytest.raises(BundleError, match="changed after it was signed"):
        installed.install(signed, replace_it, [key.line])
    assert installed.current() is None
    assert IMPOSTORS in {path.name for path in signed.iterdir()}
