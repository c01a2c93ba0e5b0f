from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from edge_siamese.errors import DataError
from edge_siamese.recognition.imaging import Preprocessing
from export.data import load_splits, omniglot
from export.data.cache import cache_directory
from export.data.images import Splits
from export.data.omniglot import load_omniglot

from . import conftest
from .conftest import drawing, drawings_of, runs, write_zip

NATIVE = Preprocessing(105, 105)
SMALL = Preprocessing(28, 28)


def test_background_alphabets_are_split_and_evaluation_alphabets_are_apart(small_omniglot: Path) -> None:
    splits = load_omniglot(SMALL, small_omniglot)
    assert splits.validation.group_names == ("Balinese", "Early_Aramaic", "Greek", "Syriac_(Estrangelo)")
    assert splits.train.group_names == ("Latin", "Runes")
    assert splits.evaluation.group_names == ("Angelic", "Tibetan")
    assert splits.train.class_names[:3] == ("Latin/character01", "Latin/character02", "Latin/character03")
    assert [s.summary() for s in (splits.train, splits.validation, splits.evaluation)] == [
        {"images": 20, "classes": 5, "groups": 2},
        {"images": 48, "classes": 12, "groups": 4},
        {"images": 28, "classes": 7, "groups": 2},
    ]
    for images in (splits.train, splits.validation, splits.evaluation):
        assert images.images.shape[1:] == (28, 28, 1)
        for c in range(images.classes):
            assert images.drawers[images.images_of(c)].tolist() == [0, 1, 2, 3]
    assert splits.train.name == "omniglot train"


def test_ink_stays_black_and_every_picture_has_its_label(small_omniglot: Path) -> None:
    evaluation = load_omniglot(NATIVE, small_omniglot).evaluation
    assert set(np.unique(evaluation.images)) == {0, 255}
    # Tibetan/character02 is the sixth evaluation class: 0970_YY.png.
    of = evaluation.images_of(evaluation.class_names.index("Tibetan/character02"))
    for drawer, index in enumerate(of, start=1):
        top, left, height, width = np.random.default_rng(100 * 970 + drawer).integers(5, 45, 4)
        expected = np.full((105, 105), 255)
        expected[top : top + height, left : left + width] = 0
        assert np.array_equal(evaluation.images[index, :, :, 0], expected)


def test_the_number_of_held_out_alphabets(small_omniglot: Path) -> None:
    def held_out(count: int, seed: int) -> tuple[str, ...]:
        return load_omniglot(SMALL, small_omniglot, seed=seed, validation_groups=count).validation.group_names

    assert held_out(2, 0) == held_out(2, 1) == ("Balinese", "Early_Aramaic")
    fives = {held_out(5, seed) for seed in range(8)}
    assert len(fives) == 2
    assert all(set(omniglot.VALIDATION_ALPHABETS) < set(five) for five in fives)
    for count in (0, 6):
        with pytest.raises(
            DataError, match=f"omniglot background has 6 alphabets: 1 to 5 .* held out, not {count}"
        ):
            held_out(count, 0)


def test_official_runs_answer_by_class_labels(small_omniglot: Path) -> None:
    splits = load_omniglot(SMALL, small_omniglot)
    assert [run.name for run in splits.official_runs] == ["run01", "run02"]
    assert [run.answers.tolist() for run in splits.official_runs] == [[1, 2, 0], [2, 0, 1]]
    for run in splits.official_runs:  # each test item is drawn like the class that answers it
        assert np.array_equal(run.queries, run.supports[run.answers])
    assert splits.provenance["official_trials"] == 6


def test_provenance(small_omniglot: Path) -> None:
    provenance = load_omniglot(SMALL, small_omniglot).provenance
    assert provenance["data"] == "omniglot"
    assert [a["name"] for a in provenance["archives"]] == [
        "images_background.zip",
        "images_evaluation.zip",
        "all_runs.zip",
    ]
    assert provenance["archives"][0]["bytes"] == (small_omniglot / "images_background.zip").stat().st_size
    assert str(small_omniglot) not in str(provenance)


def unpacked(root: Path, into: Path) -> Path:
    """As `unzip` leaves it: the runs straight in the folder."""
    for path in root.glob("*.zip"):
        with zipfile.ZipFile(path) as archive:
            archive.extractall(into)
    return into


def assert_equal(one: Splits, other: Splits) -> None:
    for name in ("train", "validation", "evaluation"):
        a, b = getattr(one, name), getattr(other, name)
        assert np.array_equal(a.images, b.images)
        assert np.array_equal(a.labels, b.labels)
        assert a.class_names == b.class_names
    for run, same in zip(one.official_runs, other.official_runs, strict=True):
        assert np.array_equal(run.queries, same.queries)
        assert np.array_equal(run.answers, same.answers)


def test_unpacked_folders_are_read_alike(small_omniglot: Path, tmp_path: Path) -> None:
    packed = load_omniglot(SMALL, small_omniglot)
    folder = unpacked(small_omniglot, tmp_path / "unpacked")
    assert_equal(load_omniglot(SMALL, folder), packed)
    # Also with the runs in a folder of their own, and laid out as the official repository is.
    (folder / "all_runs").mkdir()
    for run in ("run01", "run02"):
        (folder / run).rename(folder / "all_runs" / run)
    assert_equal(load_omniglot(SMALL, folder), packed)
    (folder / "one-shot-classification").mkdir()
    (folder / "all_runs").rename(folder / "one-shot-classification" / "all_runs")
    assert_equal(load_omniglot(SMALL, folder), packed)


def test_the_second_time_nothing_is_decoded(small_omniglot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_omniglot(SMALL, small_omniglot)

    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(omniglot, "_decoded", refuse)
    assert_equal(load_omniglot(SMALL, small_omniglot), first)
    with pytest.raises(AssertionError, match="decoded again"):
        load_omniglot(Preprocessing(32, 32), small_omniglot)


def test_another_archive_of_the_same_name_is_decoded(small_omniglot: Path) -> None:
    before = load_omniglot(SMALL, small_omniglot).evaluation
    write_zip(
        small_omniglot / "images_evaluation.zip",
        drawings_of("images_evaluation", {"Angelic": 3, "Tibetan": 3}, 7),
    )
    after = load_omniglot(SMALL, small_omniglot).evaluation
    assert (before.classes, after.classes) == (7, 6)


@pytest.mark.parametrize("name", ["images_background", "images_evaluation", "all_runs"])
def test_a_missing_archive_is_named(small_omniglot: Path, name: str) -> None:
    (small_omniglot / f"{name}.zip").unlink()
    with pytest.raises(
        DataError, match=rf"omniglot holds neither {name}\.zip nor a folder {name}; put the Omniglot"
    ):
        load_omniglot(SMALL, small_omniglot)


@pytest.mark.parametrize("name", ["images_background", "images_evaluation", "all_runs"])
def test_a_truncated_archive_is_named(small_omniglot: Path, name: str) -> None:
    path = small_omniglot / f"{name}.zip"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(
        DataError, match=rf"{name}\.zip is truncated or corrupt; delete it and fetch or copy it again"
    ):
        load_omniglot(SMALL, small_omniglot)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (drawing(1, side=64), r"Angelic/character01/0965_01\.png is 64 x 64, not 105 x 105"),
        (drawing(1)[:60], r"Angelic/character01/0965_01\.png is not a PNG picture"),
        (b"text", r"Angelic/character01/0965_01\.png is not a PNG picture"),
    ],
)
def test_a_bad_drawing_is_named(small_omniglot: Path, content: bytes, message: str) -> None:
    files = drawings_of("images_evaluation", conftest.EVALUATION, 965)
    files["images_evaluation/Angelic/character01/0965_01.png"] = content
    write_zip(small_omniglot / "images_evaluation.zip", files)
    with pytest.raises(DataError, match=message):
        load_omniglot(SMALL, small_omniglot)


def test_an_archive_of_something_else(small_omniglot: Path) -> None:
    write_zip(small_omniglot / "images_background.zip", {"photos/cat.png": drawing(1)})
    with pytest.raises(
        DataError, match=r"images_background\.zip holds no drawings named ALPHABET/characterNN/"
    ):
        load_omniglot(SMALL, small_omniglot)


def test_an_alphabet_in_both_archives_is_refused(small_omniglot: Path) -> None:
    write_zip(small_omniglot / "images_evaluation.zip", drawings_of("images_evaluation", {"Latin": 2}, 965))
    with pytest.raises(DataError, match="alphabet Latin is in images_background and in images_evaluation"):
        load_omniglot(SMALL, small_omniglot)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "run01 is incomplete: it needs class_labels.txt"),
        (
            b"run01/test/item01.png\n",
            "a line has to be a test item and a training class, not 'run01/test/item01.png'",
        ),
        (
            b"run01/test/item09.png run01/training/class01.png\n",
            "does not pair one test item with one training class",
        ),
        (
            b"run01/test/item01.png run01/training/class09.png\n",
            "does not pair one test item with one training class",
        ),
        (b"run01/test/item01.png run01/training/class01.png\n" * 2, "does not pair one test item"),
        (
            b"run01/test/item01.png run01/training/class01.png\n",
            r"class_labels\.txt has no line for item02\.png",
        ),
    ],
)
def test_broken_class_labels(small_omniglot: Path, labels: bytes | None, message: str) -> None:
    files = runs()
    if labels is None:
        del files["run01/class_labels.txt"]
    else:
        files["run01/class_labels.txt"] = labels
    write_zip(small_omniglot / "all_runs.zip", files)
    with pytest.raises(DataError, match=message):
        load_omniglot(SMALL, small_omniglot)


def test_where_the_archives_are_looked_for(
    small_omniglot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Path] = []
    monkeypatch.setattr(omniglot, "fetch_omniglot", lambda into: fetched.append(into) or small_omniglot)
    assert load_splits("omniglot", SMALL, small_omniglot).evaluation.classes == 7
    assert fetched == []
    monkeypatch.setenv("EDGE_SIAMESE_DATA", str(small_omniglot.parent))
    assert load_splits("omniglot", SMALL).evaluation.classes == 7
    assert fetched == []
    monkeypatch.setenv("EDGE_SIAMESE_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"EDGE_SIAMESE_DATA is set, but there is no folder .*none/omniglot"):
        load_splits("omniglot", SMALL)
    monkeypatch.delenv("EDGE_SIAMESE_DATA")
    assert load_splits("omniglot", SMALL).evaluation.classes == 7
    assert fetched == [cache_directory() / "omniglot"]
    with pytest.raises(DataError, match=r"there is no folder .*none; --data-root has to hold"):
        load_splits("omniglot", SMALL, tmp_path / "none")


@pytest.fixture(scope="module")
def real(real_omniglot: Path, tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """All of Omniglot, unresized."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_SIAMESE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load_omniglot(NATIVE, real_omniglot)


def test_the_published_sizes(real: Splits) -> None:
    assert real.train.summary() == {"images": 17420, "classes": 871, "groups": 26}
    assert real.validation.summary() == {"images": 1860, "classes": 93, "groups": 4}
    assert real.evaluation.summary() == {"images": 13180, "classes": 659, "groups": 20}
    assert len(real.official_runs) == 20
    for images in (real.train, real.validation, real.evaluation):
        assert (images.counts == 20).all()
        assert set(images.drawers) == set(range(20))
    # 20-way episodes within an alphabet are possible in each held-out alphabet.
    assert np.bincount(real.validation.class_groups).tolist() == [24, 22, 24, 23]


def test_ink_is_black_and_rare(real: Splits) -> None:
    assert set(np.unique(real.evaluation.images)) == {0, 255}
    share = float((real.evaluation.images == 0).mean())
    assert share == pytest.approx(0.0843, abs=0.0001)


def test_the_first_published_answers(real: Splits) -> None:
    run = real.official_runs[0]
    assert run.supports.shape == run.queries.shape == (20, 105, 105, 1)
    # class_labels.txt of run01 begins: item01 class08, item02 class09, item03 class02, item04 class19, item05 class10.
    assert run.answers[:5].tolist() == [7, 8, 1, 18, 9]
    for run in real.official_runs:
        assert sorted(run.answers.tolist()) == list(range(20))


def test_published_trials_are_drawings_of_the_evaluation_set_and_their_answers_are_of_one_character(
    real: Splits,
) -> None:
    evaluation = real.evaluation
    known = {image.tobytes(): i for i, image in enumerate(evaluation.images)}
    for run in real.official_runs:
        supports = [known[image.tobytes()] for image in run.supports]
        queries = [known[image.tobytes()] for image in run.queries]
        labels = evaluation.labels[supports]
        assert len(set(labels)) == 20
        assert len(set(evaluation.class_groups[labels])) == 1
        assert np.array_equal(evaluation.labels[queries], labels[run.answers])
        assert len(set(evaluation.drawers[supports]) | set(evaluation.drawers[queries])) == 2


def test_some_alphabets_to_train_on(small_omniglot: Path) -> None:
    splits = load_splits("omniglot:Latin,Greek", SMALL, small_omniglot)
    assert splits.train.group_names == ("Greek", "Latin")
    assert splits.validation.group_names == ("Balinese", "Early_Aramaic", "Runes", "Syriac_(Estrangelo)")
    assert splits.evaluation.group_names == ("Angelic", "Tibetan") and len(splits.official_runs) == 2
    assert splits.provenance["data"] == "omniglot:Latin,Greek"
    for wrong, message in {
        "Latin,Elvish": "'Elvish' is not an alphabet of omniglot background: Balinese, Early_Aramaic",
        "Latin,Latin": "name each training alphabet once",
        "Balinese,Early_Aramaic,Greek,Latin,Runes,Syriac_(Estrangelo)": "leave at least one of 6 for validation",
    }.items():
        with pytest.raises(DataError, match=message):
            load_splits(f"omniglot:{wrong}", SMALL, small_omniglot)
    with pytest.raises(DataError, match="there is no data set 'omniglot:'"):
        load_splits("omniglot:", SMALL, small_omniglot)


def test_characters_at_random(small_omniglot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="omniglot has 24 characters here; more than 1200 are needed"):
        load_splits("omniglot:characters", SMALL, small_omniglot)
    monkeypatch.setattr("export.data.omniglot.CHARACTER_SPLIT_TRAIN", 12)
    monkeypatch.setattr("export.data.omniglot.CHARACTER_SPLIT_VALIDATION", 5)
    splits, again = (load_splits("omniglot:characters", NATIVE, small_omniglot, seed=seed) for seed in (0, 1))
    assert (splits.train.classes, splits.validation.classes, splits.evaluation.classes) == (12, 5, 28)
    assert splits.official_runs == () and splits.train.class_names == again.train.class_names
    whole = load_splits("omniglot", NATIVE, small_omniglot)
    names = {*whole.train.class_names, *whole.validation.class_names, *whole.evaluation.class_names}
    rest = names - {*splits.train.class_names, *splits.validation.class_names}
    assert {name.split(", turned by ")[0] for name in splits.evaluation.class_names} == rest
    evaluation = splits.evaluation
    for number in range(7):
        upright = evaluation.images[evaluation.images_of(number)]
        name = evaluation.class_names[number].removesuffix(", turned by 0")
        source = next(s for s in (whole.train, whole.validation, whole.evaluation) if name in s.class_names)
        assert np.array_equal(upright, source.images[source.images_of(source.class_names.index(name))])
        for way in (1, 2, 3):
            of = evaluation.images_of(number + 7 * way)
            assert np.array_equal(evaluation.images[of], np.rot90(upright, way, axes=(1, 2)))
            assert evaluation.class_groups[number + 7 * way] == evaluation.class_groups[number]
            assert evaluation.class_names[number + 7 * way] == f"{name}, turned by {90 * way}"
