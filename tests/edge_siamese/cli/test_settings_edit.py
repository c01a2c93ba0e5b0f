"""Changes in the text of a settings file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edge_siamese.cli.settings_edit import set_options
from edge_siamese.errors import SettingsError

ROOT = Path(__file__).parents[3]


def test_a_new_table_and_a_new_option_keep_their_order() -> None:
    assert set_options(
        "# mine\n", {"camera.kind": "usb", "camera.rotation": 180, "events.hook": ("a", "b")}
    ) == ('# mine\n\n[camera]\nkind = "usb"\nrotation = 180\n\n[events]\nhook = ["a", "b"]\n')
    assert set_options("[camera]\nwidth = 800\n", {"camera.kind": "usb"}) == (
        '[camera]\nkind = "usb"\nwidth = 800\n'
    )


def test_values_are_replaced_where_they_are() -> None:
    text = '[panel]\nkind = "gpio" # mine\n[camera] # the other one\n#kind = "auto"\n# kind of object\nkind = "usb"\n'
    assert set_options(text, {"camera.kind": "files"}) == text.replace('"usb"', '"files"')
    text = text.replace('kind = "usb"\n', "")
    assert set_options(text, {"camera.kind": "files"}) == text.replace('#kind = "auto"', 'kind = "files"')


def test_every_kind_of_value_is_read_back() -> None:
    values = {"x.a": 'quote " and \\ and é\x7f\n', "x.b": True, "x.c": 0.25, "x.d": 1_000_000, "x.e": ("",)}
    assert tomllib.loads(set_options("", values)) == {
        "x": {"a": values["x.a"], "b": True, "c": 0.25, "d": 1_000_000, "e": [""]}
    }


def test_the_commented_file_of_the_package() -> None:
    text = (ROOT / "systemd/config.toml").read_text()
    new = set_options(text, {"camera.kind": "usb", "panel.kind": "none", "mqtt.broker": "hub.local"})
    assert tomllib.loads(new) == {
        **tomllib.loads(text), "camera": {"kind": "usb"}, "panel": {"kind": "none"}, "mqtt": {"broker": "hub.local"},
    }  # fmt: skip
    assert len(new.splitlines()) == len(text.splitlines())


@pytest.mark.parametrize(
    "text", ['camera = { kind = "usb" }\n', '[camera]\nkind = """\nusb"""\n', 'camera.kind = "usb"\n']
)
def test_what_is_written_in_another_way_is_left_alone(text: str) -> None:
    with pytest.raises(SettingsError, match=r'set these options in an editor: camera\.kind = "files"'):
        set_options(text, {"camera.kind": "files"})
