"""Pictures of paper: kinds, roles that share nothing, and the same pictures each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.data.paper import FONTS, ROLES, paper_pictures, write_paper_pictures


def test_the_kinds_are_equally_frequent_and_look_as_their_names_say() -> None:
    pictures = dict(paper_pictures("strangers", 48))
    kinds = [name.split("-")[0] for name in pictures]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "character": 12, "scribble": 12, "printed": 12, "blank": 12
    }  # fmt: skip
    assert all(picture.shape == (105, 105) and picture.dtype == np.uint8 for picture in pictures.values())
    written = [picture for name, picture in pictures.items() if not name.startswith("blank")]
    contrasts = [
        float(np.percentile(picture, 99.5)) - float(np.percentile(picture, 0.5)) for picture in written
    ]
    assert min(contrasts) > 30  # there is ink on it


def test_a_picture_does_not_depend_on_how_many_are_drawn() -> None:
    few, many = dict(paper_pictures("impostors", 8)), dict(paper_pictures("impostors", 16))
    assert all(np.array_equal(few[name], many[name]) for name in few)
    other = dict(paper_pictures("impostors", 8, seed=1))
    assert not any(
        np.array_equal(few[name], other[name]) for name in few if name.startswith(("printed", "scribble"))
    )


def test_impostors_and_strangers_share_no_picture_and_no_font() -> None:
    impostors, strangers = (dict(paper_pictures(role, 40)) for role in ROLES)
    assert impostors.keys() == strangers.keys()
    same = {name for name in impostors if np.array_equal(impostors[name], strangers[name])}
    assert all(name.startswith("blank") for name in same)  # plain white paper is plain white paper
    assert len(set(FONTS)) == len(FONTS) == 12


def test_pictures_are_written_under_their_names(tmp_path: Path) -> None:
    write_paper_pictures(tmp_path / "paper", "strangers", 6)
    assert sorted(path.name for path in (tmp_path / "paper").iterdir()) == [
        "blank-0000.png", "character-0000.png", "character-0001.png", "printed-0000.png", "scribble-0000.png",
        "scribble-0001.png",
    ]  # fmt: skip
