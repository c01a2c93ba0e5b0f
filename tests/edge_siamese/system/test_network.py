"""Names and addresses of this machine alone, and what a header Host names."""

from __future__ import annotations

import pytest

from edge_siamese.system.network import host_of, is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.8.9.1",
        "::1",
        "::ffff:127.0.0.1",
        "::1%lo",
        "localhost",
        "LOCALHOST",
        "localhost.",
        " ::1 ",
    ],
)
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    ["", ".", "0.0.0.0", "::", "10.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "localhost..", "localhost.lan", "a.localhost",
     "127.0.0.1.example", "[::1]", "2130706433", "0x7f.1", "127.1"],
)  # fmt: skip
def test_no_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("netloc", "name"),
    [
        ("Shelf.local:8765", "shelf.local"),
        ("shelf.local.", "shelf.local"),
        ("[::1]:8765", "::1"),
        ("[::1]", "::1"),
        ("127.0.0.1:80", "127.0.0.1"),
        ("", ""),
        ("::1", ""),
        ("[::1", ""),
        ("[::1]x", ""),
        ("[::1]:x", ""),
        ("shelf:x", ""),
        (":80", ""),
    ],
)
def test_what_a_host_header_names(netloc: str, name: str) -> None:
    assert host_of(netloc) == name
