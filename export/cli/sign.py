"""`python -m export sign`: sign a bundle with an SSH key, for devices that trust this key."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_siamese.models.signature import SIGNATURE
from edge_siamese.system.ssh_keys import ALGORITHM
from edge_siamese.validation import format_toml
from export.conversion.sign import sign

EXAMPLE = """\
examples:
  ssh-keygen -t ed25519 -f release -C release@example    # once: a key with a passphrase
  python -m export sign build/omniglot/bundle --key release

Writes manifest.json.sig, and prints the line for [model] of the devices' settings. A device with trusted_keys refuses
bundles that are not signed with one of them. Sign again after every change to the bundle."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="directory of the bundle")
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="FILE",
        help="Ed25519 key of OpenSSH: the private one, or the public one of a key in ssh-agent",
    )


def run(arguments: argparse.Namespace) -> int:
    key = sign(arguments.bundle, arguments.key)
    line = " ".join(filter(None, (ALGORITHM, key.blob, key.comment)))
    print(f"{arguments.bundle / SIGNATURE}: signed by {key}")
    print("in the settings of the devices:\n[model]")
    print(f"trusted_keys = {format_toml([line])}")
    return 0
