"""The page that credits the authors of rendered 3-D models, as their licenses require."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from export.data.turntable import TurningObject

LICENSE_PAGES = {
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-3.0-US": "https://creativecommons.org/licenses/by/3.0/us/",
}
UNKNOWN = "unknown"


def credits_page(objects: Sequence[TurningObject]) -> str:
    """A Markdown page with a table of authors, each with the license, the library and the names of the models."""
    models: dict[tuple[str, str, str], list[str]] = {}
    for known in objects:
        models.setdefault((known.author or UNKNOWN, known.license, known.library), []).append(known.name)
    rows = [
        f"| {_cell(author)} | {_license(license)} | {_cell(library)} | {_cell(_listed(names))} |"
        for (author, license, library), names in sorted(models.items(), key=lambda item: str(item[0]).lower())
    ]
    table = "\n".join(["| author | license | library | models |", "|---|---|---|---|", *rows])
    return f"""# Credits for 3-D models

Training pictures are renderings of these {len(objects)} models from several sides.

{table}
"""


def _listed(names: Sequence[str]) -> str:
    """Names in alphabetical order; a repeated one is followed by its number."""
    counts = Counter(names)
    return "; ".join(
        name if counts[name] == 1 else f"{name} ({counts[name]})" for name in sorted(counts, key=str.lower)
    )


def _license(license: str) -> str:
    page = LICENSE_PAGES.get(license)
    return f"[{license}]({page})" if page else license or UNKNOWN


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
