from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data import glyphs, load_splits
from export.data.glyphs import (
    SIDE,
    SYNTHETIC_CHARACTERS,
    GlyphSettings,
    Hand,
    add_synthetic_alphabets,
    load_glyphs,
    write_alphabet,
    write_character,
)
from export.data.images import Splits
from export.data.sampling import episodes
from export.data.strokes import MAX_SIMILARITY, Character, Stroke, curve_weights, generate_alphabet

SMALL = GlyphSettings(
    train_alphabets=3,
    validation_alphabets=2,
    evaluation_alphabets=2,
    train_characters=4,
    characters=5,
    drawers=3,
)
INPUT = Preprocessing(28, 28)

PINNED_STROKES = [2, 2, 3, 3, 3]
PINNED_CHARACTERS = "3dc2a8fd195d7f54"
PINNED_HANDS = "297096697e65ee76"
PINNED_LINES = "f43c3136c01a1636"


def digest(*arrays: np.ndarray) -> str:
    """Of values to a thousandth, which no processor's rounding reaches."""
    text = ";".join(",".join(f"{value:.3f}" for value in np.asarray(a).ravel() + 0.0) for a in arrays)
    return hashlib.sha256(text.replace("-0.000", "0.000").encode()).hexdigest()[:16]


def test_an_alphabet_is_always_the_same() -> None:
    characters = generate_alphabet((0, 1, 7), 5)
    assert [len(c.strokes) for c in characters] == PINNED_STROKES
    assert digest(*[s.points for c in characters for s in c.strokes]) == PINNED_CHARACTERS
    hands = [Hand.of((0, 7, drawer), 1.0) for drawer in range(3)]
    assert digest(np.array([[h.pen, h.tremor, *np.ravel(h.shape)] for h in hands])) == PINNED_HANDS
    assert digest(write_character(characters[0], hands, (0, 3, 7, 0))) == PINNED_LINES


def test_more_characters_or_drawers_change_nothing_for_the_others() -> None:
    few = write_alphabet(3, 5, 4, GlyphSettings(drawers=2)).reshape(4, 2, SIDE, SIDE)
    many = write_alphabet(3, 5, 9, GlyphSettings(drawers=6)).reshape(9, 6, SIDE, SIDE)
    assert np.array_equal(few, many[:4, :2])


def test_alphabets_and_seeds_differ() -> None:
    first = generate_alphabet((0, 1, 0), 1)[0].strokes[0].points
    for seed in ((0, 1, 1), (1, 1, 0)):
        other = generate_alphabet(seed, 1)[0].strokes[0].points
        assert other.shape != first.shape or not np.allclose(first, other)


def test_characters_fit_their_square_and_are_clearly_different() -> None:
    alike = []
    for alphabet in range(6):
        characters = generate_alphabet((0, 1, alphabet), 20)
        prints = []
        for character in characters:
            ink = np.concatenate([s.line for s in character.strokes])
            assert np.abs(ink).max() < 0.502
            assert np.ptp(ink, axis=0).max() == pytest.approx(1.0, abs=0.004)
            # No bare dash: some extent in the narrow direction too.
            assert np.linalg.eigvalsh(np.cov(ink.T))[0] > 0.05**2
            grid, _, _ = np.histogram2d(ink[:, 1], ink[:, 0], bins=20, range=[[-0.5, 0.5]] * 2)
            prints.append((grid > 0).astype(float).ravel())
        matrix = np.array(prints)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        alike.extend((matrix @ matrix.T)[np.triu_indices(20, 1)])
    assert max(alike) < 0.85
    assert np.mean(alike) < 0.3
    assert MAX_SIMILARITY < 0.85


def test_curves_pass_through_their_points_and_lines_are_straight() -> None:
    points = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 1.0], [4.0, 4.0]])
    at = np.arange(4.0)
    for smooth in (True, False):
        assert np.allclose(curve_weights(4, smooth, at) @ points, points)
        assert np.allclose(curve_weights(4, smooth, np.linspace(0, 3, 50)).sum(axis=1), 1.0)
    assert np.allclose(curve_weights(4, False, np.array([0.5, 1.25])) @ points, [[0.5, 1.0], [1.5, 1.75]])
    # Between two points alone the curve is the line.
    assert np.allclose(curve_weights(2, True, np.array([0.25])) @ points[:2], [[0.25, 0.5]])


def test_points_lie_evenly_along_a_stroke() -> None:
    stroke = Stroke(np.array([[0.0, 0.0], [0.1, 0.0], [1.0, 0.0]]), smooth=False)
    steps = np.diff(stroke.line[:, 0])
    assert steps.max() < 1.01 / 95
    assert np.allclose(steps, steps[0], rtol=0.02)


def test_drawings_are_black_on_white_and_within_the_paper() -> None:
    drawings = write_alphabet(0, 0, 20, GlyphSettings())
    assert drawings.shape == (200, SIDE, SIDE)
    assert drawings.dtype == np.uint8
    edges = np.concatenate([drawings[:, [0, -1]].ravel(), drawings[:, :, [0, -1]].ravel()])
    assert (edges == 255).all()
    ink = (drawings < 128).mean(axis=(1, 2))
    assert ink.min() > 0.005
    assert ink.max() < 0.25
    assert (drawings.reshape(200, -1).min(axis=1) == 0).all()
    # Smooth edges: some gray, but less than ink.
    gray = ((drawings > 0) & (drawings < 255)).mean()
    assert 0.005 < gray < 0.06


def test_without_variation_all_hands_write_the_same_shape() -> None:
    character = generate_alphabet((0, 1, 2), 3)[1]
    hands = [Hand.of((0, 2, drawer), 0.0) for drawer in range(4)]
    lines = write_character(character, hands, (0, 3, 2, 1))
    lines = lines - (lines.min(axis=1, keepdims=True) + lines.max(axis=1, keepdims=True)) / 2
    lines /= np.ptp(lines, axis=1).max(axis=1)[:, None, None]
    assert np.allclose(lines, lines[0], atol=1e-9)
    assert np.allclose(lines[0], np.concatenate([s.line for s in character.strokes]), atol=0.002)
    varied = write_character(character, [Hand.of((0, 2, drawer), 1.0) for drawer in range(4)], (0, 3, 2, 1))
    assert np.ptp(varied, axis=0).max() > 5.0


def test_a_drawing_that_is_too_large_is_made_to_fit() -> None:
    square = Character(
        (Stroke(np.array([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]]), smooth=False),)
    )
    hand = Hand(
        ((300.0, 0.0), (0.0, 300.0)), pen=1.0, tremor=0.0, sloppiness=0.0, overshoot=0.0, rounding=0.0
    )
    lines = write_character(square, [hand], (0,))
    assert lines.min() == pytest.approx(4.0)
    assert lines.max() == pytest.approx(SIDE - 4.0)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_SIAMESE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_glyphs(INPUT, SMALL, seed=1)


def test_splits_are_of_different_alphabets(splits: Splits) -> None:
    assert splits.train.group_names == ("alphabet000", "alphabet001", "alphabet002")
    assert splits.validation.group_names == ("alphabet003", "alphabet004")
    assert splits.evaluation.group_names == ("alphabet005", "alphabet006")
    assert splits.train.summary() == {"images": 36, "classes": 12, "groups": 3}
    assert splits.evaluation.summary() == {"images": 30, "classes": 10, "groups": 2}
    assert splits.evaluation.class_names[5] == "alphabet006/character01"
    assert splits.official_runs == ()
    assert splits.train.images.shape == (36, 28, 28, 1)
    assert splits.provenance["seed"] == 1
    assert splits.provenance["settings"]["drawers"] == 3


def test_labels_and_drawers_belong_to_the_pictures(splits: Splits) -> None:
    direct = write_alphabet(1, 6, 5, SMALL)
    evaluation = splits.evaluation
    for c in range(5):
        of = evaluation.images_of(5 + c)
        assert evaluation.drawers[of].tolist() == [0, 1, 2]
        for index, drawing in zip(of, direct[3 * c : 3 * c + 3], strict=True):
            # The center of the ink distinguishes drawings at any resolution.
            dark = 255.0 - evaluation.images[index, :, :, 0]
            y, x = np.mgrid[:28, :28]
            fine_y, fine_x = np.mgrid[:SIDE, :SIDE]
            ink = 255.0 - drawing
            assert (dark * y).sum() / dark.sum() / 28 == pytest.approx(
                (ink * fine_y).sum() / ink.sum() / SIDE, abs=0.03
            )
            assert (dark * x).sum() / dark.sum() / 28 == pytest.approx(
                (ink * fine_x).sum() / ink.sum() / SIDE, abs=0.03
            )


def test_invented_characters_stand_beside_those_of_a_data_set(splits: Splits) -> None:
    own = splits.train
    both = add_synthetic_alphabets(own, INPUT, alphabets=2, seed=0)
    assert (
        both.classes == own.classes + 2 * SYNTHETIC_CHARACTERS
        and len(both.group_names) == len(own.group_names) + 2
    )
    assert np.array_equal(both.images[: len(own)], own.images)
    assert np.array_equal(both.labels[: len(own)], own.labels)
    assert both.counts[own.classes :].tolist() == [int(own.counts.max())] * 2 * SYNTHETIC_CHARACTERS
    assert len(set(both.class_names)) == both.classes
    others = add_synthetic_alphabets(own, INPUT, alphabets=2, seed=1)
    assert not np.array_equal(both.images[len(own) :], others.images[len(own) :])
    fewer = add_synthetic_alphabets(own, INPUT, alphabets=1, seed=0)
    assert np.array_equal(fewer.images, both.images[: len(fewer)])


def test_glyphs_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_glyphs(INPUT, SMALL, seed=1)

    def refuse(*_: object) -> None:
        raise AssertionError("drawn again")

    monkeypatch.setattr(glyphs, "write_alphabet", refuse)
    assert np.array_equal(load_glyphs(INPUT, SMALL, seed=1).train.images, first.train.images)
    with pytest.raises(AssertionError, match="drawn again"):
        load_glyphs(INPUT, SMALL, seed=2)


def test_glyphs_are_neither_trivial_nor_hopeless() -> None:
    """The nearest picture, pixel by pixel, is right far above the chance of 5 %, and far from always."""
    settings = GlyphSettings(train_alphabets=1, validation_alphabets=1, evaluation_alphabets=4)
    evaluation = load_glyphs(INPUT, settings).evaluation
    ink = (255.0 - evaluation.images).reshape(len(evaluation), -1)
    ink /= np.linalg.norm(ink, axis=1, keepdims=True)
    right = [
        (ink[e.queries[:, 0]] @ ink[e.supports[:, 0]].T).argmax(axis=1) == np.arange(20)
        for e in episodes(evaluation, 200, 20, 1, 1, np.random.default_rng(0), within_group=True)
    ]
    assert 0.2 < np.mean(right) < 0.6


def test_all_drawings_of_an_alphabet_are_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    draw_lines = glyphs.draw_lines

    def counted(*arguments: Any) -> npt.NDArray[np.uint8]:
        drawn = draw_lines(*arguments)
        shapes.append(drawn.shape)
        return drawn

    monkeypatch.setattr(glyphs, "draw_lines", counted)
    write_alphabet(0, 2, 20, GlyphSettings())
    assert shapes == [(200, 105, 105)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_alphabets": 0}, "glyphs need at least 1 for train_alphabets, not 0"),
        ({"drawers": 1}, "glyphs need at least 2 for drawers, not 1"),
        ({"variation": -0.1}, "the variation of glyphs must be 0 to 3, not -0.1"),
        ({"variation": float("nan")}, "must be 0 to 3, not nan"),
    ],
)
def test_impossible_settings(change: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        GlyphSettings(**change)  # type: ignore[arg-type]


def test_by_name() -> None:
    with pytest.raises(
        DataError, match="there is no data set 'glyph'; choose omniglot, glyphs, grocery, folder:PATH"
    ):
        load_splits("glyph", INPUT)
    with pytest.raises(DataError, match="there is no data set 'folder:'"):
        load_splits("folder:", INPUT)
    with pytest.raises(DataError, match="the seed must be at least 0, not -1"):
        load_splits("glyphs", INPUT, seed=-1)
