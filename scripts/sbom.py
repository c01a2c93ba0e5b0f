"""The bill of materials of a Debian package: the Python packages in it, with versions, licenses and hashes.

    .venv/bin/python scripts/sbom.py dist/edge-siamese_0.3.0_arm64.deb

writes dist/edge-siamese_0.3.0_arm64.cdx.json, in CycloneDX 1.6. `make release` does this for all its packages.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import uuid
import zipfile
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import Message
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License, LicenseAcknowledgement
from cyclonedx.model.tool import ToolRepository
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from edge_siamese.system.files import write_text_atomically  # noqa: E402
from scripts.debian_files import unpacked  # noqa: E402

WHEELS = "edge-siamese/wheels"
# SPDX identifiers of the license names that packages without a license expression use.
SPDX = {"Apache 2.0": "Apache-2.0", "Apache Software License": "Apache-2.0", "MIT License": "MIT"}
CLASSIFIER = "License :: OSI Approved :: "
NAMESPACE = uuid.UUID("f3a5d1a2-6a53-5d1c-9d5e-0b8f8a2c7e41")
"""UUID namespace of the serial numbers: the same package has the same number."""


def license_of(metadata: Message) -> str:
    """The license that a wheel's metadata declare: an SPDX expression if possible, empty if there is none."""
    stated = metadata["License-Expression"] or metadata["License"] or ""
    if not stated or "\n" in stated:  # the text of a license instead of its name
        classifiers = metadata.get_all("Classifier", [])
        stated = next((text.removeprefix(CLASSIFIER) for text in classifiers if CLASSIFIER in text), "")
    return SPDX.get(stated, stated)


def wheel_component(wheel: Path) -> Component:
    """A wheel as a component."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    package = metadata["Name"].lower().replace("_", "-")
    declared = license_of(metadata)
    return Component(
        name=package,
        version=metadata["Version"],
        description=metadata["Summary"],
        bom_ref=wheel.name,
        purl=PackageURL("pypi", None, package, metadata["Version"], {"file_name": wheel.name}),
        hashes=[sha256(wheel)],
        licenses=[_license(declared)] if declared else [],
    )


def bill_of_materials(package: Path, created: datetime) -> str:
    """The bill of materials of a Debian package, as JSON that its schema accepts.

    Args:
        package: the .deb file.
        created: time of the bill of materials, with a time zone.

    Raises:
        CalledProcessError: `dpkg-deb` cannot read the package.
        ValueError: the result violates the schema.
    """
    query = ["dpkg-deb", "--show", "--showformat=${Package}\n${Version}\n${Architecture}\n", str(package)]
    name, version, arch = subprocess.run(query, check=True, capture_output=True, text=True).stdout.split()
    whole = Component(
        name=name,
        version=version,
        type=ComponentType.APPLICATION,
        bom_ref=package.name,
        purl=PackageURL("deb", None, name, version, {"arch": arch}),
        hashes=[sha256(package)],
        licenses=[_license("Apache-2.0")],
    )
    with unpacked([], [package]) as share:
        parts = [wheel_component(path) for path in sorted((share / WHEELS).glob("*.whl"))]
    bom = Bom(
        components=parts,
        serial_number=uuid.uuid5(NAMESPACE, next(iter(whole.hashes)).content),
        metadata=BomMetaData(
            tools=ToolRepository(components=[this_component()]), component=whole, timestamp=created
        ),
    )
    bom.register_dependency(whole, parts)
    text = JsonV1Dot6(bom).output_as_string(indent=2) + "\n"
    if error := JsonStrictValidator(SchemaVersion.V1_6).validate_str(text):
        raise ValueError(f"the bill of materials of {package.name} violates its schema: {error}")
    return text


def sha256(path: Path) -> HashType:
    """The SHA-256 of a file."""
    return HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(path.read_bytes()).hexdigest())


def write(package: Path, created: datetime) -> Path:
    """Write the bill of materials of a package beside it; returns the path."""
    path = package.with_suffix(".cdx.json")
    write_text_atomically(path, bill_of_materials(package, created))
    return path


def _license(text: str) -> License:
    return LicenseFactory().make_from_string(text, license_acknowledgement=LicenseAcknowledgement.DECLARED)


def main() -> int:
    """Write the bill of materials of each package named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packages", nargs="+", type=Path, metavar="FILE.deb")
    for package in parser.parse_args().packages:
        if not package.is_file():
            print(f"error: {package} does not exist", file=sys.stderr)
            return 1
        try:
            print(write(package, datetime.fromtimestamp(int(package.stat().st_mtime), UTC)))
        except subprocess.CalledProcessError as error:
            print(f"error: {package} is not a Debian package: {error.stderr.strip()}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
