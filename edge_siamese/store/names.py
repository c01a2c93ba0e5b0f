"""What an object may be called, and when two names are the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from edge_siamese.errors import SupportError

LONGEST = 80
"""Characters of a name, at most."""

# Controls, halves of characters, line and paragraph separators; and format characters, which turn a line of a log
# around or hide in it, but for the two joiners that scripts and emoji are written with.
_REFUSED = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"


def checked_name(name: str) -> str:
    """The name as it is kept: NFC, without blanks around it.

    Raises:
        SupportError: it is empty, longer than 80 characters, or has control characters.
    """
    # The length first: normalizing megabytes takes time.
    found = unicodedata.normalize("NFC", name.strip()) if len(name) <= 100 * LONGEST else name
    if len(found) > LONGEST:
        raise SupportError(
            f'the name "{found[:20]}…" has {len(found)} characters; at most {LONGEST} are kept'
        )
    for character in found:
        if unicodedata.category(character) in _REFUSED and character not in _JOINERS:
            raise SupportError(f"the name {found!a} has a control character ({character!a}); leave it out")
    if not found.strip(_JOINERS + " "):
        raise SupportError("an object needs a name that is not empty")
    return found


def name_key(name: str) -> str:
    """What two names have in common when they are the same: case and composition do not count."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def free_name(name: str, taken: Callable[[str], bool]) -> str:
    """The name, or `name (2)`, `name (3)`, … : the first whose key is not taken."""
    found, number = name, 1
    while taken(name_key(found)):
        number += 1
        suffix = f" ({number})"
        found = name[: LONGEST - len(suffix)].rstrip() + suffix
    return found


class Numbering:
    """Gives what `free_name` gives, also to thousands that want the same name: a search goes on where the last one ended.

    For that, what is taken may only grow.
    """

    def __init__(self, taken: set[str]) -> None:
        """`taken`: keys of names; whoever takes a name adds its key."""
        self._taken = taken
        self._following: dict[tuple[str, int], int] = {}

    def free(self, name: str) -> str:
        """The name, or `name (2)`, `name (3)`, … : the first whose key is not taken."""
        if name_key(name) not in self._taken:
            return name
        digits = 0
        while True:
            digits += 1
            # Long names are cut to make room for the number, so different ones may want the same.
            stem = name[: LONGEST - digits - 3].rstrip()
            place = name_key(stem), digits
            number = self._following.get(place, max(2, 10 ** (digits - 1)))
            while number < 10**digits and name_key(f"{stem} ({number})") in self._taken:
                number += 1
            self._following[place] = number
            if number < 10**digits:
                return f"{stem} ({number})"
