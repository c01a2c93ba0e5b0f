"""The table of commands: consistent with the API and with every caller, light to import; pictures in requests."""

from __future__ import annotations

import base64
import inspect
import json
import re
import subprocess
import sys
from typing import Any

import msgspec
import numpy as np
import pytest

from edge_siamese.daemon.api import DaemonApi
from edge_siamese.daemon.commands import (
    BY_NAME,
    COMMANDS,
    MAX_PIXEL_BYTES,
    Command,
    EncodedPicture,
    arguments_of,
    commands_for,
    find_command,
)
from edge_siamese.daemon.control_socket import MAX_REQUEST
from edge_siamese.errors import ControlError, ImageError
from edge_siamese.validation import SchemaError, convert

BY = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)


@BY
def test_each_method_takes_the_arguments_of_its_command(command: Command) -> None:
    method = inspect.signature(getattr(DaemonApi, command.method))
    client = ["client"] if command.needs_client else []
    keywords = [argument.name for argument in arguments_of(command)] + client
    method.bind(None, **dict.fromkeys(keywords))
    assert [name for name in method.parameters if name in keywords] == keywords


@BY
def test_every_argument_and_command_is_described(command: Command) -> None:
    for argument in arguments_of(command):
        assert argument.description, argument.name
        assert argument.name not in ("command", "run", "config", "json", "debug", "client")
    assert command.help.endswith(".")
    assert command.help[0].isupper()


@BY
def test_paths_name_arguments(command: Command) -> None:
    assert ("http" in command.callers) == (command.http is not None)
    if command.http is not None:
        method, path = command.http.split(" ")
        assert method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        assert set(re.findall(r"\{(\w+)\}", path)) <= {argument.name for argument in arguments_of(command)}


def test_names_routes_and_command_lines_are_unique() -> None:
    assert len(BY_NAME) == len(COMMANDS)
    routes = [command.http for command in COMMANDS if command.http]
    words = [command.cli for command in COMMANDS if command.cli]
    assert len(set(routes)) == len(routes)
    assert len(set(words)) == len(words)


def test_callers_see_only_their_commands() -> None:
    assert [command.name for command in commands_for("mqtt")] == [
        "register", "rename", "forget", "undo", "wrong",
    ]  # fmt: skip
    with pytest.raises(ControlError, match=r"^there is no command 'merge'$"):
        find_command("merge", "mqtt")


def test_importing_the_table_does_not_import_numpy() -> None:
    code = (
        "import sys; from edge_siamese.cli.main import build_parser; build_parser(); "
        "import edge_siamese.cli.daemon; "
        "print([name for name in ('numpy', 'edge_siamese.daemon.api', 'edge_siamese.store') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 3)])
def test_pictures_round_trip(shape: tuple[int, ...]) -> None:
    pixels = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    value = json.loads(json.dumps(msgspec.to_builtins(EncodedPicture.encode(pixels))))
    assert value["shape"] == list(shape)
    assert np.array_equal(convert(value, EncodedPicture).decode(), pixels)


def test_an_ignored_channel_is_not_sent() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    assert np.array_equal(EncodedPicture.encode(pixels).decode(), pixels[..., :3])
    assert np.array_equal(EncodedPicture.encode(pixels[..., :1]).decode(), pixels[..., 0])


def test_a_large_picture_is_downscaled_by_an_integer_factor() -> None:
    pixels = np.zeros((3001, 4002, 3), dtype=np.uint8)
    pixels[:3, :3] = np.arange(9).reshape(3, 3, 1)  # mean 4
    sent = EncodedPicture.encode(pixels).decode()
    assert sent.shape == (1000, 1334, 3)
    assert sent[0, 0].tolist() == [4, 4, 4]
    assert int(sent.sum()) == 12


def test_several_pictures_share_the_size_limit() -> None:
    pixels = np.zeros((1080, 1920, 3), dtype=np.uint8)
    assert [list(EncodedPicture.encode(pixels, share).shape) for share in (1, 2, 5)] == [
        [1080, 1920, 3],
        [540, 960, 3],
        [360, 640, 3],
    ]


def test_encoding_refuses_invalid_arrays() -> None:
    with pytest.raises(ImageError, match=r"^a picture has to be uint8, not float64$"):
        EncodedPicture.encode(np.zeros((2, 2)))
    with pytest.raises(ImageError, match=r"^a picture has shape .*, not \[2, 2, 2\]$"):
        EncodedPicture.encode(np.zeros((2, 2, 2), dtype=np.uint8))


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "must be an object, not null"),
        ({"shape": [1, 1]}, "pixels: missing"),
        ({"shape": [1, True], "pixels": "AA=="}, "shape[1]: must be an integer, not true"),
        ({"shape": [0, 4], "pixels": ""}, "a picture has shape [height, width] or"),
        ({"shape": [1, 1, 4], "pixels": ""}, "a picture has shape [height, width] or"),
        ({"shape": [65536, 1], "pixels": ""}, "a picture has shape [height, width] or"),
        ({"shape": "1x1", "pixels": ""}, 'shape: must be a list, not "1x1"'),
        ({"shape": [65535, 65535], "pixels": ""}, "bytes; the limit is 6220800"),
        ({"shape": [1, 1], "pixels": "A"}, "pixels: must be base64, not "),
        ({"shape": [1, 1], "pixels": 7}, "pixels: must be base64, not "),
        ({"shape": [1, 1], "pixels": "é"}, "pixels: must be base64, not "),
        ({"shape": [1, 1], "pixels": "AAA="}, "a picture of shape (1, 1) has 1 bytes, not 2"),
    ],
)
def test_invalid_pictures_are_refused(value: Any, error: str) -> None:
    with pytest.raises((ImageError, SchemaError), match=re.escape(error)):
        convert(value, EncodedPicture).decode()


def test_the_largest_picture_fits_a_request() -> None:
    assert len(base64.b64encode(bytes(MAX_PIXEL_BYTES))) < MAX_REQUEST - 64_000
