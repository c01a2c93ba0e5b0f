"""Credits: the page names every author, license and model, and the one in docs has its form."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from export.__main__ import main
from export.cli import render
from export.data import credits
from export.data.credits import LICENSE_PAGES, credits_page
from export.data.turntable import LICENSES, TurningObject

ROOT = Path(__file__).parents[3]


def known(
    number: int, name: str, author: str, library: str = "Scopia", license: str = "CC-BY-3.0"
) -> TurningObject:
    return TurningObject(f"object-{number}", name, library, author, license, 10.0)


def test_the_page_lists_the_models_of_each_author() -> None:
    page = credits_page(
        [
            known(1, "Mug", "Zoe"),
            known(2, "chair", "Zoe"),
            known(3, "Mug", "Zoe"),
            known(4, "Lamp | old", "ada", "BlendSwap-CC-0", "CC0-1.0"),
            known(5, "Own", "", "products", ""),
        ]
    )
    assert page.startswith("# Credits for 3-D models\n\nTraining pictures are renderings of these 5 models")
    assert page.splitlines()[4:] == [
        "| author | license | library | models |",
        "|---|---|---|---|",
        "| ada | [CC0-1.0](https://creativecommons.org/publicdomain/zero/1.0/) | BlendSwap-CC-0 | Lamp / old |",
        "| unknown | unknown | products | Own |",
        "| Zoe | [CC-BY-3.0](https://creativecommons.org/licenses/by/3.0/) | Scopia | chair; Mug (2) |",
    ]


def test_every_license_of_the_libraries_has_a_page() -> None:
    assert set(LICENSES.values()) == set(LICENSE_PAGES)


def test_the_page_in_docs_has_this_form() -> None:
    """Read back, it gives the same page: sorted, with all licenses linked and as many models as it says."""
    text = (ROOT / "docs" / "credits.md").read_text(encoding="utf-8")
    objects = []
    for author, license, library, names in re.findall(
        r"^\| (.+?) \| \[(.+?)\]\(\S+\) \| (.+?) \| (.+) \|$", text, re.M
    ):
        for name in names.split("; "):
            repeated = re.fullmatch(r"(.+) \((\d+)\)", name)
            count = int(repeated[2]) if repeated else 1
            objects += [known(0, repeated[1] if repeated else name, author, library, license)] * count
    assert len(objects) > 500 and {known.license for known in objects} == {"CC-BY-3.0", "CC-BY-3.0-US"}
    assert credits_page(objects) == text


def test_rendering_writes_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "models" / "mug.obj"
    model.parent.mkdir()
    model.write_text("")
    monkeypatch.setattr(render, "render_models", lambda models, out, **_: [m.object for m in models])
    page = tmp_path / "credits.md"
    arguments = ["render", str(model.parent), "--out", str(tmp_path / "out"), "--credits", str(page)]
    assert main(arguments) == 0
    assert page.read_text(encoding="utf-8") == credits.credits_page([known(0, "mug", "", "models", "")])
