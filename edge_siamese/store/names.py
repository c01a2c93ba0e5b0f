"""Names of objects: which are allowed, and when two are the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from edge_siamese.errors import SupportError, is_printable

MAX_NAME_LENGTH = 80
"""Characters of a name."""

_JOINERS = "\u200c\u200d"


def checked_name(name: str) -> str:
    """Normalize a name as it is stored: NFC, without spaces around it.

    Raises:
        SupportError: it is empty, longer than `MAX_NAME_LENGTH`, or has control characters.
    """
    # The length first: normalizing megabytes takes time.
    name = unicodedata.normalize("NFC", name.strip()) if len(name) <= 100 * MAX_NAME_LENGTH else name
    if len(name) > MAX_NAME_LENGTH:
        raise SupportError(
            f'the name "{name[:20]}…" has {len(name)} characters; at most {MAX_NAME_LENGTH} are allowed'
        )
    for character in name:
        if not is_printable(character):
            raise SupportError(f"the name {name!a} has a control character ({character!a}); remove it")
    if not name.strip(_JOINERS + " "):
        raise SupportError("an object needs a name that is not empty")
    return name


def name_key(name: str) -> str:
    """The key that equal names share: case and Unicode composition do not matter."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def free_name(name: str, is_taken: Callable[[str], bool]) -> str:
    """The first of `name`, `name (2)`, `name (3)`, … whose key is not taken."""
    candidate, number = name, 1
    while is_taken(name_key(candidate)):
        number += 1
        suffix = f" ({number})"
        candidate = name[: MAX_NAME_LENGTH - len(suffix)].rstrip() + suffix
    return candidate


class NameAllocator:
    """Gives the names that `free_name` gives, in constant time each when thousands want the same name.

    A search continues where the last one for that name ended, so names may be taken but not released meanwhile.
    """

    def __init__(self, taken: set[str]) -> None:
        """Start with the names that are taken.

        Args:
            taken: keys of names; the caller adds the key of each name that it uses.
        """
        self._taken = taken
        self._next_numbers: dict[tuple[str, int], int] = {}

    def free_name(self, name: str) -> str:
        """The first of `name`, `name (2)`, `name (3)`, … whose key is not taken."""
        if name_key(name) not in self._taken:
            return name
        digits = 0
        while True:
            digits += 1
            # Long names are cut to make room for the number, so different names may compete for one result.
            stem = name[: MAX_NAME_LENGTH - digits - 3].rstrip()
            search = name_key(stem), digits
            number = self._next_numbers.get(search, max(2, 10 ** (digits - 1)))
            while number < 10**digits and name_key(f"{stem} ({number})") in self._taken:
                number += 1
            self._next_numbers[search] = number
            if number < 10**digits:
                return f"{stem} ({number})"
