"""Downloads 3-D models of household objects: Sweet Home 3D's furniture libraries, from Debian's sweethome3d-furniture.

    .venv/bin/python scripts/fetch_models.py            # into build/models, 120 MB
    .venv/bin/python -m export render build/models/BlendSwap-CC-0.sh3f --out build/turntable/evaluation

820 textured models: BlendSwap-CC-0 (CC0), BlendSwap-CC-BY and Scopia (CC-BY 3.0), KatorLegaz and Reallusion (CC-BY 3.0 US).
Each library names the author of each model; whoever publishes pictures of the CC-BY models has to name them too.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from scripts.debian_files import unpacked

PACKAGE = "sweethome3d-furniture"


def main() -> int:
    """Fetch all libraries."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("build/models"), metavar="DIR")
    parser.add_argument(
        "--package", type=Path, metavar="FILE.deb", help=f"file of {PACKAGE} (default: apt-get download)"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if len(list(arguments.out.glob("*.sh3f"))) == 5:
        print(f"{arguments.out}: already exists")
        return 0
    with unpacked([PACKAGE], [arguments.package] if arguments.package else []) as share:
        for path in sorted((share / "sweethome3d/furniture").glob("*.sh3f")):
            part = arguments.out / f"{path.name}.part"
            shutil.copyfile(path, part)
            part.rename(arguments.out / path.name)
            print(arguments.out / path.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
