"""What an object may be called."""

import random

import pytest

from edge_siamese.errors import SupportError
from edge_siamese.store.names import NameAllocator, checked_name, free_name, name_key


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("  mug ", "mug"),
        ("Cafe\u0301", "Café"),
        ("x" * 80, "x" * 80),
        ("家族", "家族"),
        ("👩\u200d🔬", "👩\u200d🔬"),
        ("a; DROP TABLE objects", "a; DROP TABLE objects"),
    ],
)
def test_a_name_is_kept_composed_and_without_blanks_around_it(given, kept):
    assert checked_name(given) == kept


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "an object needs a name that is not empty"),
        (" \t ", "an object needs a name that is not empty"),
        ("\u200d", "an object needs a name that is not empty"),
        ("x" * 81, 'the name "xxxxxxxxxxxxxxxxxxxx…" has 81 characters; at most 80 are allowed'),
        ("x" * 100_000, 'the name "xxxxxxxxxxxxxxxxxxxx…" has 100000 characters; at most 80 are allowed'),
        ("a\nb", r"the name 'a\nb' has a control character ('\n'); remove it"),
        ("a\x00", r"the name 'a\x00' has a control character ('\x00'); remove it"),
        ("a\u202eb", r"the name 'a\u202eb' has a control character ('\u202e'); remove it"),
        ("a\ud800", r"the name 'a\ud800' has a control character ('\ud800'); remove it"),
    ],
)
def test_what_is_no_name_is_refused(name, problem):
    with pytest.raises(SupportError) as error:
        checked_name(name)
    assert str(error.value) == problem


def test_names_are_the_same_whatever_their_case_and_composition():
    assert name_key("STRASSE") == name_key("Straße")
    assert name_key("CAFE\u0301") == name_key("café")
    assert name_key("mug") != name_key("mugs")


def test_a_free_name_counts_up_and_stays_within_the_length():
    taken = {"mug", "mug (2)", "x" * 80}
    assert free_name("cup", taken.__contains__) == "cup"
    assert free_name("Mug", taken.__contains__) == "Mug (3)"
    assert free_name("x" * 80, taken.__contains__) == "x" * 76 + " (2)"


def test_numbering_gives_what_a_search_from_the_beginning_gives():
    chance = random.Random(8)
    stems = [
        "mug",
        "Mug",
        "MUG",
        "Straße",
        "STRASSE",
        "x" * 80,
        "x" * 79 + "y",
        "ß" * 78,
        "ss" * 39,
        "a" * 75 + "    b",
    ]
    for _ in range(200):
        taken = {name_key(f"{chance.choice(stems)[:75]} ({chance.randrange(14)})") for _ in range(8)}
        taken |= {name_key(name) for name in chance.sample(stems, 5)}
        allocator = NameAllocator(taken)
        for _ in range(40):
            name = chance.choice(stems)
            given = allocator.free_name(name)
            assert given == free_name(name, taken.__contains__)
            assert len(given) <= 80
            taken.add(name_key(given))


def test_thousands_that_want_one_name_cost_no_more_each_than_a_few():
    class Counting(set):
        asked = 0

        def __contains__(self, key):
            self.asked += 1
            return super().__contains__(key)

    for wanted in (["mug"] * 4000, [f"{'x' * 76}{number // 2:04}" for number in range(4000)]):
        taken = Counting()
        allocator = NameAllocator(taken)
        for name in wanted:
            taken.add(name_key(allocator.free_name(name)))
        assert len(taken) == 4000
        assert taken.asked < 8 * 4000
