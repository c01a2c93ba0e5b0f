"""Writes the versions of requirements/device.lock into systemd/install.sh.

python scripts/device_pins.py            write them
python scripts/device_pins.py --check    exit with 1 if they are out of date
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.generated import write_or_check  # noqa: E402
from scripts.locked import locked  # noqa: E402

INSTALLER = ROOT / "systemd" / "install.sh"


def main(arguments: list[str]) -> int:
    text = INSTALLER.read_text(encoding="utf-8")
    versions = {name: pin for name, (pin, *_) in (locked("3.13") | locked("3.11")).items()}
    before = re.search(r"^PINS='([^']+)'", text, re.MULTILINE)
    assert before
    pins = [versions[pin.partition("==")[0]] for pin in before[1].split()]
    lines = textwrap.wrap(" ".join(pins), 110, break_on_hyphens=False)
    after = text.replace(before[1], "\n    ".join(lines))
    return write_or_check({INSTALLER: after}, arguments, "scripts/device_pins.py", ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
