"""`python -m export sign`: real keys, and what cannot be signed."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from edge_siamese.errors import ChecksumError, ExportError
from edge_siamese.models.bundle import MANIFEST, load_bundle
from edge_siamese.models.signature import SIGNATURE
from edge_siamese.settings_file import parse_settings
from export.__main__ import main
from export.cli.deploy import archive
from export.conversion.bundle import store_impostors
from export.conversion.sign import sign
from tests.documented import commands
from tests.edge_siamese.signing import make_key, needs_keygen
from tests.tiny_bundle import write_tiny_bundle

pytestmark = needs_keygen


def test_the_commands_of_the_page_on_security_make_a_bundle_that_devices_accept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = write_tiny_bundle(tmp_path / "build/omniglot/bundle")
    make, (python, _, export, *words) = commands("docs/security.md", "ssh-keygen -t ed25519")
    assert (python, export, words[0]) == ("python", "export", "sign")
    subprocess.run([*make, "-q", "-N", ""], check=True)  # without a passphrase, which it would ask for
    assert main(words) == 0
    _, _, printed = capsys.readouterr().out.partition("in the settings of the devices:\n")
    settings = parse_settings(printed)
    assert settings.model.trusted_keys == (Path("release.pub").read_text().strip(),)
    signer = load_bundle(bundle, trusted_keys=settings.model.trusted_keys).signer
    assert signer.startswith("release@example (SHA256:")


def test_the_settings_of_the_page_on_security_are_valid() -> None:
    text = (Path(__file__).parents[3] / "docs/security.md").read_text(encoding="utf-8")
    block = text.partition("```toml\n")[2].partition("```")[0]
    assert tomllib.loads(block)["model"]["trusted_keys"] == list(parse_settings(block).model.trusted_keys)


def test_a_damaged_bundle_is_not_signed(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    key = make_key(tmp_path / "key")
    with (bundle / "encoder.int8.onnx").open("r+b") as file:
        file.write(b"x")
    with pytest.raises(ChecksumError):
        sign(bundle, key.path)
    assert not (bundle / SIGNATURE).exists()


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle")
    with pytest.raises(
        ExportError, match=r"there is no such file; make a key: ssh-keygen -t ed25519 -f .*none"
    ):
        sign(bundle, tmp_path / "none")
    with pytest.raises(ExportError, match=r'the public key must start with "ssh-ed25519 "'):
        sign(bundle, make_key(tmp_path / "ecdsa", kind="ecdsa").path)
    (tmp_path / "text").write_text("no key\n")
    with pytest.raises(ExportError, match="text is not a key of OpenSSH: "):
        sign(bundle, tmp_path / "text")
    key, other = make_key(tmp_path / "key"), make_key(tmp_path / "other")
    os.replace(tmp_path / "other.pub", tmp_path / "key.pub")
    with pytest.raises(ExportError, match=r"key cannot sign: .* doesn't match private"):
        sign(bundle, key.path)
    assert sign(bundle, other.path).comment == "release@lab", "without a .pub file"


def test_a_key_in_ssh_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, key = write_tiny_bundle(tmp_path / "bundle"), make_key(tmp_path / "key")
    socket = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        for _ in range(1000):
            if subprocess.run(["ssh-add", "-q", str(key.path)], capture_output=True).returncode == 0:
                break
        key.path.unlink()
        sign(bundle, tmp_path / "key.pub")
    finally:
        agent.terminate()
        agent.wait()
    assert load_bundle(bundle, trusted_keys=[key.line]).signer == key.name


def test_the_signature_travels_with_the_bundle_and_not_with_a_changed_one(tmp_path: Path) -> None:
    path, key = write_tiny_bundle(tmp_path / "bundle"), make_key(tmp_path / "key")
    sign(path, key.path)
    bundle = load_bundle(path)
    (tmp_path / "bundle.tar").write_bytes(archive(bundle))
    subprocess.run(["tar", "-xf", "bundle.tar", "--one-top-level=device"], cwd=tmp_path, check=True)
    assert load_bundle(tmp_path / "device/bundle", trusted_keys=[key.line]).signer == key.name
    before = (path / MANIFEST).read_bytes()
    store_impostors(bundle, bundle.golden.embeddings["network"], "pictures")
    assert (path / MANIFEST).read_bytes() != before
    assert not (path / SIGNATURE).exists()
