"""Settings: accepted values, one-line errors for others, and the paths that follow."""

from __future__ import annotations

import os
import pwd
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from msgspec import structs

from edge_siamese import settings as settings_module
from edge_siamese import settings_file
from edge_siamese.errors import SettingsError
from edge_siamese.settings import DashboardSettings, MqttSettings, Settings
from edge_siamese.settings_file import default_config, load_settings, parse_settings
from scripts import settings_reference

ROOT = Path(__file__).parents[2]
ENVIRONMENT = (
    "EDGE_SIAMESE_CONFIG",
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
    "XDG_CONFIG_HOME",
    "XDG_STATE_HOME",
    "XDG_RUNTIME_DIR",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine: nothing in the environment, no system directories, an ordinary user."""
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(settings_file, "SYSTEM_CONFIG", tmp_path / "etc" / "config.toml")
    monkeypatch.setattr(settings_module, "SYSTEM_STATE", tmp_path / "var")
    monkeypatch.setattr(settings_module, "SYSTEM_RUNTIME", tmp_path / "run")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return tmp_path


def refusal(text: str | bytes, *, line: bool = False) -> str:
    """The message with which settings are refused; without its line unless that is asked for."""
    with pytest.raises(SettingsError) as caught:
        parse_settings(text)
    assert str(caught.value).isprintable()
    return str(caught.value) if line else re.sub(r" \(at line \d+\)$", "", str(caught.value))


SHELF = '[[regions]]\nname = "shelf"\nbox = [0.1, 0.2, 0.4, 0.5]\n'


class TestRegions:
    def test_each_has_a_name_a_box_and_limits_of_its_own(self) -> None:
        door = '[[regions]]\nname = "Tür 2"\nbox = [0.5, 0, 0.5, 1]\nfalse_accept_rate = 0.001\nwindow_frames = 20\n'
        found = parse_settings(f"[recognition]\nthreshold = 0.9\nappear_frames = 8\n{SHELF}{door}")
        shelf, other = found.regions
        assert (shelf.name, shelf.box, shelf.focus) == ("shelf", (0.1, 0.2, 0.4, 0.5), None)
        assert shelf.recognition(found.recognition) == found.recognition
        own = other.recognition(found.recognition)
        assert (own.false_accept_rate, own.threshold, own.window_frames, own.appear_frames) == (
            0.001, None, 20, 8,
        )  # fmt: skip
        fixed = structs.replace(other, threshold=0.7).recognition(found.recognition)
        assert (fixed.threshold, fixed.false_accept_rate) == (0.7, 0.001)

    def test_they_may_overlap_and_fill_the_picture(self) -> None:
        same = SHELF.replace("shelf", "again")
        assert len(parse_settings(SHELF + same).regions) == 2
        whole = SHELF.replace("[0.1, 0.2, 0.4, 0.5]", "[0.3334, 0.0, 0.6667, 1.0]")  # rounded
        assert parse_settings(whole).regions[0].box[2] == 0.6667

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("[[regions]]\nbox = [0, 0, 1, 1]", "regions[0].name: missing"),
            ('[[regions]]\nname = "a"', "regions[0].box: missing"),
            (
                SHELF + SHELF.replace("shelf", "Shelf"),
                'regions[1].name: "Shelf" is already the name of region 1',
            ),
            (
                SHELF.replace("shelf", "a/b"),
                'regions[0].name: must be 1 to 32 letters, digits, spaces, - or _, not "a/b"',
            ),
            (
                SHELF.replace("shelf", ""),
                'regions[0].name: must be 1 to 32 letters, digits, spaces, - or _, not ""',
            ),
            (
                SHELF.replace("shelf", " shelf"),
                'regions[0].name: must be 1 to 32 letters, digits, spaces, - or _, not " shelf"',
            ),
            (
                SHELF.replace("0.1, 0.2", "0.7, 0.2"),
                "regions[0].box: must be [left, top, width, height] within the picture, not [0.7, 0.2, 0.4, 0.5]",
            ),
            (SHELF.replace("0.1,", "-0.1,"), "regions[0].box[0]: must be a number from 0 to 1, not -0.1"),
            (
                SHELF.replace("0.4,", "0.04,"),
                "regions[0].box: must be at least 0.05 wide and high, not 0.04 x 0.5",
            ),
            (SHELF.replace(", 0.5]", "]"), "regions[0].box: must be a list of 4 items, not a list of 3"),
            (SHELF + "box_ = 1", 'regions[0].box_: unknown key; did you mean "box"?'),
            (
                SHELF + "appear_frames = 11",
                "regions[0].appear_frames: must be at most window_frames (10), not 11",
            ),
            (
                SHELF + 'focus = "region"',
                'regions[0].focus: must be one of "center", "foreground" or null, not "region"',
            ),
            (
                "".join(SHELF.replace("shelf", f"r{n}") for n in range(9)),
                "regions: at most 8 regions are possible, not 9",
            ),
            ("[regions]\n", "regions: must be a list, not an object"),
        ],
    )
    def test_what_is_wrong_is_named(self, text: str, error: str) -> None:
        assert refusal(text) == f"config.toml: {error}"

    def test_the_line_is_that_of_the_region(self) -> None:
        wrong = SHELF.replace("shelf", "door").replace("0.4", "0.04")
        assert refusal(SHELF + wrong + SHELF.replace("shelf", "desk"), line=True) == (
            "config.toml: regions[1].box: must be at least 0.05 wide and high, not 0.04 x 0.5 (at line 6)"
        )


class TestReading:
    @pytest.mark.parametrize("text", ["", "[camera]", "[camera]\n[model]\n"])
    def test_what_is_not_said_has_its_default(self, text: str) -> None:
        assert parse_settings(text) == Settings()

    def test_what_is_said_is_taken_and_the_rest_stays(self) -> None:
        found = parse_settings(
            '[camera]\nkind = "usb"\nframe_rate = 5\nrotation = 180\n[recognition]\nthreshold = 0.75\n'
            '[events]\nhook = ["/bin/x", "--y"]\nfile = false\n'
        )
        assert found.camera == structs.replace(Settings().camera, kind="usb", frame_rate=5.0, rotation=180)
        assert type(found.camera.frame_rate) is float
        assert found.recognition.threshold == 0.75
        assert (found.events.hook, found.events.file) == (("/bin/x", "--y"), False)
        assert (found.model, found.panel, found.paths) == (
            Settings().model,
            Settings().panel,
            Settings().paths,
        )

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("[camra]", 'camra: unknown key; did you mean "camera"?'),
            ("[camera]\nframerate = 5", 'camera.framerate: unknown key; did you mean "frame_rate"?'),
            ("[camera]\nzoom = 5", "camera.zoom: unknown key"),
            ("rate = 5", "rate: unknown key"),
            ("camera = 5", "camera: must be an object, not 5"),
            ('[camera]\nframe_rate = "5"', 'camera.frame_rate: must be a number from 0.1 to 240, not "5"'),
            ("[camera]\nwidth = 640.0", "camera.width: must be an integer from 32 to 8192, not 640.0"),
            ("[camera]\nloop = 1", "camera.loop: must be true or false, not 1"),
            ("[camera]\nrotation = 45", "camera.rotation: must be one of 0, 90, 180, 270, not 45"),
            ("[camera]\nrotation = false", "camera.rotation: must be one of 0, 90, 180, 270, not false"),
            ("[camera]\nframe_rate = nan", "camera.frame_rate: must be a finite number, not nan"),
            ('[events]\nhook = "x"', 'events.hook: must be a list, not "x"'),
            ("[events]\nhook = [1]", "events.hook[0]: must be a string, not 1"),
            (
                '[model]\nprecision = "int4"',
                'model.precision: must be one of "int8", "fp32", not "int4"',
            ),
            (
                '[recognition]\nthreshold = "high"',
                'recognition.threshold: must be a number from 0 to 1 or null, not "high"',
            ),
            (
                "[camera]\nwidth = 641",
                "camera.width: must be an even number, not 641",
            ),
            (
                '[camera]\nkind = "files"',
                'camera.path: camera kind "files" needs the path of a picture, a folder or a video',
            ),
            (
                "[recognition]\nappear_frames = 11",
                "recognition.appear_frames: must be at most window_frames (10), not 11",
            ),
            (
                "[recognition]\nleave_frames = 6",
                "recognition.leave_frames: must be less than appear_frames (6), not 6",
            ),
            (
                "[registration]\nmax_brightness = 24",
                "registration.max_brightness: must be at least min_brightness (25), not 24",
            ),
            ("[panel]\nstuck_s = 1.1", "panel.stuck_s: must be at least hold_s (1.2), not 1.1"),
            ("[panel]\nbutton_line = 27", "panel.led_line: must differ from button_line"),
            (
                '[registration]\nname_template = "thing"',
                'registration.name_template: must contain "{number}" once, such as "object {number}"',
            ),
            (
                '[dashboard]\ncertificate = "a.pem"',
                "dashboard.key: certificate and key are needed together",
            ),
            (
                '[mqtt]\ntls = true\nkey = "a.pem"',
                "mqtt.certificate: certificate and key are needed together",
            ),
            (
                '[mqtt]\ncertificate = "a.pem"\nkey = "b.pem"',
                "mqtt.certificate: a client certificate needs TLS: tls = true",
            ),
            ('[mqtt]\npassword_file = "p"', "mqtt.username: a password needs a user name"),
            (
                '[mqtt]\nbroker = "wss://b.lan/mqtt"',
                "mqtt.broker: MQTT over WebSockets is not supported; use the broker's TCP port: mqtt://HOST:1883",
            ),
            (
                '[mqtt]\nbroker = "mqtt://b.lan:1883"\nport = 8883',
                "mqtt.broker: has port 1883, and `port` is 8883; remove one of them",
            ),
            (
                '[mqtt]\nbroker = "mqtt://b.lan"\ntls = true',
                "mqtt.broker: mqtt:// means without TLS, and `tls` is true; write mqtts://",
            ),
            (
                '[mqtt]\nbroker = "mqtt://me@b.lan"\nusername = "you"',
                "mqtt.broker: has a user name, and `username` is another one; remove one of them",
            ),
            (
                '[mqtt]\nbroker = "mqtt://me:secret@b.lan"\npassword_file = "p"',
                "mqtt.password_file: the URL in `broker` has a password already; remove one of them",
            ),
            (
                '[dashboard]\npublic_url = "home.example/shelf"',
                "dashboard.public_url: must be a URL that begins with http:// or https://, such as "
                "https://home.example/shelf",
            ),
            (
                '[mqtt]\ntopic_prefix = "house/+"',
                "mqtt.topic_prefix: must be a topic without +, #, $ and empty levels",
            ),
            (
                '[mqtt]\ntopic_prefix = ""',
                "mqtt.topic_prefix: must be a topic without +, #, $ and empty levels",
            ),
            (
                '[mqtt]\ndiscovery_prefix = "a//b"',
                "mqtt.discovery_prefix: must be a topic without +, #, $ and empty levels",
            ),
            (
                '[mqtt]\ndevice_id = "Kitchen"',
                'mqtt.device_id: must be a string of at most 64 characters that matches ^[a-z0-9_-]*$, not "Kitchen"',
            ),
            (
                '[mqtt]\ncollection = "my shelf"',
                'mqtt.collection: must be a string of at most 64 characters that matches ^[a-z0-9_-]*$, not "my shelf"',
            ),
            (
                '[mqtt]\ndevice_id = "fleet"',
                'mqtt.device_id: must not be "fleet": that level is for the topics of fleets',
            ),
        ],
    )
    def test_what_is_wrong_is_refused_by_name(self, text: str, error: str) -> None:
        assert refusal(text) == f"config.toml: {error}"

    def test_text_that_is_no_toml_is_refused_with_its_place(self) -> None:
        assert refusal("[camera\nrate = 5") == (
            "config.toml: not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 8)"
        )

    @pytest.mark.parametrize(
        ("table", "option", "beyond", "range_"),
        [
            ("model", "threads", ("0", "65"), "1 to 64"),
            ("camera", "width", ("31", "8193"), "32 to 8192"),
            ("camera", "height", ("31", "8193"), "32 to 8192"),
            ("camera", "frame_rate", ("0.09", "241"), "0.1 to 240"),
            ("camera", "timeout_s", ("0.1", "61"), "0.2 to 60"),
            ("recognition", "false_accept_rate", ("0", "1.5"), "1e-09 to 1"),
            ("recognition", "threshold", ("-0.1", "1.1"), "0 to 1"),
            ("recognition", "window_frames", ("0", "1001"), "1 to 1000"),
            ("recognition", "appear_frames", ("0", "1001"), "1 to 1000"),
            ("recognition", "leave_frames", ("-1", "1000"), "0 to 999"),
            ("recognition", "seen_interval_s", ("-1", "86401"), "0 to 86400"),
            ("registration", "frames", ("0", "101"), "1 to 100"),
            ("registration", "timeout_s", ("0", "61"), "0.1 to 60"),
            ("registration", "add_view_within_s", ("-1", "3601"), "0 to 3600"),
            ("registration", "min_brightness", ("-1", "256"), "0 to 255"),
            ("registration", "max_brightness", ("-1", "256"), "0 to 255"),
            ("registration", "min_sharpness", ("-1", "100.1"), "0 to 100"),
            ("registration", "max_motion", ("-1", "100.1"), "0 to 100"),
            ("registration", "crops_per_view", ("0", "101"), "1 to 100"),
            ("registration", "crop_side", ("31", "2049"), "32 to 2048"),
            ("panel", "button_line", ("-1", "512"), "0 to 511"),
            ("panel", "led_line", ("-2", "512"), "-1 to 511"),
            ("panel", "debounce_s", ("-0.1", "0.6"), "0 to 0.5"),
            ("panel", "double_press_s", ("-1", "3"), "0 to 2"),
            ("panel", "hold_s", ("0.1", "11"), "0.2 to 10"),
            ("panel", "stuck_s", ("0.1", "601"), "0.2 to 600"),
            ("events", "max_file_bytes", ("9999", "20000000000"), "10000 to 10000000000"),
            ("events", "hook_timeout_s", ("0", "3601"), "0.1 to 3600"),
            ("dashboard", "port", ("0", "65536"), "1 to 65535"),
            ("dashboard", "max_viewers", ("0", "65"), "1 to 64"),
            ("dashboard", "frame_rate", ("0", "61"), "0.1 to 60"),
            ("dashboard", "max_upload_bytes", ("9999", "1000000001"), "10000 to 1000000000"),
            ("mqtt", "port", ("-1", "65536"), "0 to 65535"),
            ("metrics", "port", ("0", "65536"), "1 to 65535"),
        ],
    )
    def test_numbers_have_ranges(self, table: str, option: str, beyond: tuple[str, str], range_: str) -> None:
        (field,) = (field for field in structs.fields(getattr(Settings(), table)) if field.name == option)
        nullable, kind = field.default is None, "an integer" if isinstance(field.default, int) else "a number"
        for value in beyond:
            (parsed,) = tomllib.loads(f"value = {value}").values()
            assert refusal(f"[{table}]\n{option} = {value}") == (
                f"config.toml: {table}.{option}: must be {kind} from {range_}{' or null' * nullable}, not {parsed}"
            )

    def test_a_setting_in_percent_ends_at_100(self) -> None:
        rows = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8").splitlines()
        percents = [row for row in rows if "percent" in row]
        assert [row.split("`")[1] for row in percents] == ["min_sharpness", "max_motion"]
        assert all("| number, 0 to 100 |" in row for row in percents)

    def test_the_ends_of_a_range_belong_to_it(self) -> None:
        for text in (
            "[model]\nthreads = 64",
            "[camera]\nwidth = 32\nheight = 8192\nframe_rate = 0.1\ntimeout_s = 60",
            "[recognition]\nfalse_accept_rate = 1e-9\nthreshold = 1\nwindow_frames = 1\nappear_frames = 1\nleave_frames = 0",
            "[registration]\nframes = 1\nmin_brightness = 255\nmax_brightness = 255\nmax_motion = 0\nmin_sharpness = 0",
            "[panel]\nled_line = -1\nhold_s = 10\nstuck_s = 10\ndebounce_s = 0.5",
            "[events]\nmax_file_bytes = 10_000_000_000\nhook_timeout_s = 3600",
            '[dashboard]\nlisten = "::"\ncertificate = "a"\nkey = "b"\nallowed_hosts = ["pi.example"]',
            '[mqtt]\ntopic_prefix = "house/kitchen"\ndiscovery_prefix = ""\ntls = true\ncertificate = "a"\nkey = "b"',
            '[mqtt]\ndevice_id = "shelf_2"\ncollection = "kitchen-1"\nusername = "u"\npassword_file = "p"',
        ):
            parse_settings(text)


class TestFile:
    def test_a_file_is_read_and_named_in_its_errors(self, tmp_path: Path) -> None:
        path = tmp_path / "my.toml"
        path.write_text("[camera]\nframe_rate = 3\n")
        assert load_settings(path).camera.frame_rate == 3.0
        path.write_text("[camera]\nframe_rate = 0\n")
        assert unreadable(path) == (
            f"{path}: camera.frame_rate: must be a number from 0.1 to 240, not 0 (at line 2)"
        )

    def test_a_file_that_is_missing_or_unreadable_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert unreadable(tmp_path / "no.toml") == f"{tmp_path}/no.toml: there is no such file"
        assert unreadable(tmp_path) == f"{tmp_path} cannot be read: it is a directory, not a file"
        os.mkfifo(tmp_path / "fifo")
        for path in (tmp_path / "fifo", Path("/dev/zero")):
            assert (
                unreadable(path) == f"{path} cannot be read: it is a device, a pipe or a socket, not a file"
            )
        (tmp_path / "large.toml").write_bytes(b"#" * (settings_file.MAX_FILE_BYTES + 1))
        assert unreadable(tmp_path / "large.toml") == (
            f"{tmp_path}/large.toml cannot be read: it has more than 262144 bytes"
        )
        (tmp_path / "loop.toml").symlink_to("loop.toml")
        assert unreadable(tmp_path / "loop.toml") == (
            f"{tmp_path}/loop.toml cannot be read: Too many levels of symbolic links"
        )
        assert unreadable("a\0b") == "a path must not contain a NUL character"
        good = tmp_path / "good.toml"
        good.write_text("[camera]\nframe_rate = 3\n")
        for error, reason in (
            (PermissionError(13, "Permission denied"), "Permission denied"),
            (OSError(5, "Input/output error"), "Input/output error"),
            (MemoryError(), "out of memory"),
        ):
            with monkeypatch.context() as patch:
                patch.setattr(Path, "open", raiser(error))
                assert unreadable(good) == f"{good} cannot be read: {reason}"

    @pytest.mark.parametrize(
        ("data", "problem"),
        [
            (b"# \xe9", "not UTF-8 text: byte 2 is invalid (at line 1)"),
            (b"[camera]\n\n# \xe9", "not UTF-8 text: byte 12 is invalid (at line 3)"),
            ("[camera]\n".encode("utf-16"), "UTF-16 text instead of UTF-8"),
            (
                "[camera]\n".encode("utf-16-le"),
                "not valid TOML: Invalid initial character for a key part (at line 1, column 2)",
            ),
            (b"[camera]\nwidth = 1\x000\n", "not valid TOML: "),
            (
                b'[camera]\nkind = "a\x00"\n',
                r"not valid TOML: Illegal character '\x00' (at line 2, column 10)",
            ),
            (
                b"[camera]\nwidth = 1979-05-27\n",
                "camera.width: must be an integer from 32 to 8192, not the date",
            ),
            (
                b"[camera]\nwidth = 07:32:00\n",
                "camera.width: must be an integer from 32 to 8192, not the time",
            ),
            (
                b"[camera]\npath = 1979-05-27T07:32:00Z",
                "camera.path: must be a string, not the datetime 1979-05-27",
            ),
            (
                b"[camera]\nwidth = 1979-13-45\n",
                "not valid TOML: Expected newline or end of document after a statement (at line 2",
            ),
            (
                b"[camera]\nwidth = " + b"9" * 400,
                "camera.width: must be an integer of at most 64 bits (at line 2)",
            ),
            (
                b"[camera]\nframe_rate = -" + b"9" * 30,
                "camera.frame_rate: must be an integer of at most 64 bits",
            ),
            (b"[camera]\nwidth = 0x" + b"f" * 5000, "camera.width: must be an integer of at most 64 bits"),
            (
                b"[camera]\nwidth = " + b"9" * 5000,
                "not valid TOML: Exceeds the limit (4300 digits) for integer string",
            ),
            (
                b"[camera]\nframe_rate = inf",
                "camera.frame_rate: must be a finite number, not inf (at line 2)",
            ),
            (
                b"[camera]\nwidth = true",
                "camera.width: must be an integer from 32 to 8192, not true (at line 2)",
            ),
            (
                b"[camera]\nwidth = " + b"[" * 5000,
                "not valid TOML: more than 100 nested levels (at line 2)",
            ),
            (
                b"[camera]\nwidth = " + b"[" * 99 + b"]" * 99,
                "camera.width: more than 100 nested levels (at line 2)",
            ),
            (
                b"[camera]\nwidth = " + b"[" * 98 + b"]" * 98,
                "camera.width: must be an integer from 32 to 8192",
            ),
            (
                b"[camera]\nwidth = " + b"{a=" * 5000,
                "not valid TOML: more than 100 nested levels (at line 2)",
            ),
            (b"\n" + b"a." * 100 + b"a = 1", "not valid TOML: a key with more than 100 parts (at line 2)"),
            (b"a." * 50_000 + b"a = 1", "not valid TOML: a key with more than 100 parts (at line 1)"),
            (b'"a\\u001b[31m\\nb" = 1', r"a\x1b[31m\nb: unknown key"),
            (b'[model]\nruntime = "\xe2\x80\xaeabc"', r"model.runtime: must be one of "),
        ],
    )
    def test_bytes_that_are_no_settings(self, tmp_path: Path, data: bytes, problem: str) -> None:
        path = tmp_path / "c.toml"
        path.write_bytes(data)
        assert unreadable(path).startswith(f"{path}: {problem}")

    def test_what_editors_save_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "c.toml"
        for data in (b"\xef\xbb\xbf[camera]\nframe_rate = 5\n", b"[camera]\r\nframe_rate = 5\r\n"):
            path.write_bytes(data)
            assert load_settings(path).camera.frame_rate == 5.0

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ("# a\n\n[camera]\nwidth = 640\n\nheight = 33\n", 6),
            ('[camera]\n[ "dashboard" ] # width = 1\nport = 0', 3),
            ("camera.width = 1", 1),
            ('[model]\n["camera"]\n"width" = 1', 3),
            ("\ncamera = {height = 64, width = 1}", 2),
            ("\n[camera]\nkind = 'files'", 2),
            ('[events]\nhook = [\n"a",\n1]', 2),
            ("[camera]\nwidth = 640\n[x.y]\nwidth = 1", 3),
        ],
    )
    def test_the_line_is_that_of_the_option_or_else_of_its_table(self, text: str, line: int) -> None:
        assert refusal(text, line=True).endswith(f" (at line {line})")

    def test_where_there_is_no_file_the_defaults_hold(self, home: Path) -> None:
        assert default_config() is None
        assert load_settings() == Settings()

    def test_the_first_file_that_there_is_is_read(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def write(path: Path, rate: int) -> Path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"[camera]\nframe_rate = {rate}\n")
            return path

        def rate() -> float:
            return load_settings().camera.frame_rate

        write(home / ".config" / "edge-siamese" / "config.toml", 1)
        assert rate() == 1
        monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "xdg"))
        assert rate() == Settings().camera.frame_rate
        write(home / "xdg" / "edge-siamese" / "config.toml", 2)
        assert rate() == 2
        write(home / "etc" / "config.toml", 3)
        assert rate() == 3
        monkeypatch.setenv("EDGE_SIAMESE_CONFIG", str(write(home / "named.toml", 4)))
        assert rate() == 4
        assert load_settings(write(home / "given.toml", 5)).camera.frame_rate == 5

    def test_a_file_that_the_environment_names_has_to_be_there(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGE_SIAMESE_CONFIG", str(home / "no.toml"))
        with pytest.raises(SettingsError, match=rf"^{home}/no.toml: there is no such file$"):
            load_settings()


def unreadable(path: Path | str) -> str:
    """The message with which a settings file is refused."""
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def raiser(error: BaseException) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


class TestPaths:
    OPTIONS = (
        ("camera", "device"),
        ("camera", "path"),
        ("dashboard", "certificate"),
        ("dashboard", "key"),
        ("events", "hook"),
        ("model", "bundle"),
        ("mqtt", "ca_file"),
        ("mqtt", "certificate"),
        ("mqtt", "key"),
        ("mqtt", "password_file"),
        ("panel", "input_device"),
        ("paths", "runtime"),
        ("paths", "state"),
        ("sound", "player"),
        ("sound", "recognized_file"),
        ("sound", "refused_file"),
        ("sound", "saved_file"),
        ("sound", "speech"),
    )
    COMMANDS: ClassVar = ("hook", "player", "speech")
    BESIDE: ClassVar = {
        ("dashboard", "certificate"): 'key = "/k"',
        ("dashboard", "key"): 'certificate = "/c"',
        ("mqtt", "certificate"): 'key = "/k"\ntls = true',
        ("mqtt", "key"): 'certificate = "/c"\ntls = true',
        ("mqtt", "password_file"): 'username = "u"',
    }
    """What an option needs beside it."""

    def read(self, base: Path, table: str, option: str, value: str) -> object:
        text = f'["{value}", "~"]' if option in self.COMMANDS else f'"{value}"'
        path = base / "c.toml"
        path.write_text(f"[{table}]\n{option} = {text}\n{self.BESIDE.get((table, option), '')}\n")
        found = getattr(getattr(load_settings(path), table), option)
        return found[0] if option in self.COMMANDS and found[1:] == ("~",) else found

    def test_every_path_of_the_settings_is_listed_here(self) -> None:
        words = ("path", "file", "director", "certificate", "private key", "command", "socket")
        mentioned = {
            (option.table, option.name)
            for _, _, options in settings_reference.tables()
            for option in options
            if option.value.startswith(("string", "path", "name or path", "program"))
            and any(word in option.text.lower() for word in words)
            and "URL" not in option.text
        }
        assert mentioned - set(self.OPTIONS) == set()
        assert {
            (option.table, option.name)
            for _, _, options in settings_reference.tables()
            for option in options
            if option.value in ("path", "name or path", "program and its arguments")
        } == set(self.OPTIONS)

    @pytest.mark.parametrize(("table", "option"), OPTIONS)
    def test_one_rule_for_all(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, table: str, option: str
    ) -> None:
        folder = home / "etc"
        folder.mkdir()
        assert self.read(folder, table, option, "~/a b") == str(home / "a b")
        assert (
            self.read(folder, table, option, f"~{pwd.getpwuid(0).pw_name}/x") == f"{pwd.getpwuid(0).pw_dir}/x"
        )
        assert self.read(folder, table, option, "./x/../y") == str(folder / "x" / ".." / "y")
        assert self.read(folder, table, option, "sub/x") == str(folder / "sub" / "x")
        assert self.read(folder, table, option, "/abs/x") == "/abs/x"
        monkeypatch.chdir(folder)
        assert load_settings("c.toml") == load_settings(folder / "c.toml")
        for value, problem in (
            ("a/\\u0000", "a path must not contain a NUL character"),
            (
                "~nobody-here/x",
                '"~nobody-here/x": "nobody-here" is not a user of this machine: write the path without ~',
            ),
            ("/" + "x" * 256, "a path may have 4095 bytes, and each name in it 255; this one is longer"),
            ("/x" * 2048, "a path may have 4095 bytes, and each name in it 255; this one is longer"),
        ):
            with pytest.raises(SettingsError) as caught:
                self.read(folder, table, option, value)
            assert str(caught.value) == f"{folder}/c.toml: {table}.{option}: {problem} (at line 2)"

    @pytest.mark.parametrize(
        ("table", "option"), [("model", "bundle"), ("panel", "input_device"), ("events", "hook")]
    )
    def test_a_name_is_not_a_path(self, tmp_path: Path, table: str, option: str) -> None:
        assert self.read(tmp_path, table, option, "objects") == "objects"

    def test_without_a_home_directory(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", raiser(KeyError("getpwuid(): uid not found: 1000")))
        assert default_config() is None
        settings = load_settings()
        for name in ("state_directory", "runtime_directory", "socket"):
            with pytest.raises(SettingsError) as caught:
                getattr(settings, name)
            assert str(caught.value) == (
                "user 1000 has no home directory for the state: set `state` in [paths] of the settings"
            )
        assert refusal('[paths]\nstate = "~/x"') == (
            'config.toml: paths.state: "~/x": user 1000 has no home directory: write the path without ~'
        )
        monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
        assert settings.state_directory == home / "state" / "edge-siamese"

    def test_the_file_itself(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (home / "c.toml").write_text("[camera]\nframe_rate = 7\n")
        assert load_settings("~/c.toml").camera.frame_rate == 7.0
        monkeypatch.setenv("EDGE_SIAMESE_CONFIG", "~/c.toml")
        assert default_config() == home / "c.toml"
        assert load_settings().camera.frame_rate == 7.0

    def test_a_file_in_a_directory_that_may_not_be_searched_is_not_passed_over(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for method in ("stat", "lstat"):
            monkeypatch.setattr(Path, method, raiser(PermissionError(13, "Permission denied")))
        assert default_config() == home / "etc" / "config.toml"
        assert unreadable("") == f"{home}/etc/config.toml cannot be read: Permission denied"

    def test_what_is_at_the_place_of_the_file_is_not_passed_over(self, home: Path) -> None:
        file = home / "etc" / "config.toml"
        file.mkdir(parents=True)
        assert default_config() == file
        assert unreadable("") == f"{file} cannot be read: it is a directory, not a file"
        file.rmdir()
        file.symlink_to("/not/mounted/config.toml")
        assert unreadable("") == f"{file}: there is no such file"


class TestDirectories:
    def test_of_a_user(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert Settings().state_directory == home / ".local" / "state" / "edge-siamese"
        assert Settings().runtime_directory == Settings().state_directory
        monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "user"))
        assert Settings().state_directory == home / "state" / "edge-siamese"
        assert Settings().runtime_directory == home / "user" / "edge-siamese"

    @pytest.mark.parametrize(
        "service", [lambda home: None, lambda home: (home / "var").mkdir() or (home / "run").mkdir()]
    )
    def test_of_the_service(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, service: Callable[[Path], None]
    ) -> None:
        service(home)
        if not (home / "var").exists():
            monkeypatch.setattr(os, "geteuid", lambda: 0)
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "user"))
        assert (Settings().state_directory, Settings().runtime_directory) == (home / "var", home / "run")

    def test_of_systemd_and_of_the_settings_in_this_order(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (home / "var").mkdir()
        monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/private/edge:/var/lib/other")
        monkeypatch.setenv("RUNTIME_DIRECTORY", "/run/edge")
        assert Settings().state_directory == Path("/var/lib/private/edge")
        assert Settings().runtime_directory == Path("/run/edge")
        found = parse_settings('[paths]\nstate = "/data"\nruntime = "/tmp/run"\n')
        assert (found.state_directory, found.runtime_directory) == (Path("/data"), Path("/tmp/run"))
        assert (found.socket, found.store, found.models) == (
            Path("/tmp/run/control.sock"),
            Path("/data/objects.db"),
            Path("/data/models"),
        )


class TestReference:
    def test_page_and_file_are_fresh(self) -> None:
        done = subprocess.run(
            [sys.executable, "scripts/settings_reference.py", "--check"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_staleness_is_noticed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(settings_reference, "ROOT", tmp_path)
        monkeypatch.setattr(settings_reference, "PAGE", tmp_path / "docs" / "settings.md")
        monkeypatch.setattr(settings_reference, "FILE", tmp_path / "systemd" / "config.toml")
        assert settings_reference.main([]) == 0
        assert settings_reference.main(["--check"]) == 0
        settings_reference.FILE.write_text("")
        assert settings_reference.main(["--check"]) == 1
        assert capsys.readouterr().err == (
            "out of date: systemd/config.toml; run: python scripts/settings_reference.py\n"
        )

    def test_every_field_is_documented_and_every_number_has_its_range(self) -> None:
        for _, purpose, options in settings_reference.tables():
            assert purpose.endswith(".")
            for option in options:
                assert option.text.endswith("."), option.key
                if option.value.startswith(("integer", "number")):
                    assert " to " in option.value, option.key

    def test_ranges_are_those_that_are_checked(self) -> None:
        kinds = {
            option.key: option.value for _, _, options in settings_reference.tables() for option in options
        }
        assert kinds["camera.height"] == "integer, 32 to 8,192"
        assert kinds["recognition.threshold"] == "number, 0 to 1"
        assert kinds["recognition.leave_frames"] == "integer, 0 to 999"
        assert kinds["events.max_file_bytes"] == "integer, 10,000 to 10,000,000,000"
        assert kinds["camera.rotation"] == "one of `0`, `90`, `180`, `270`"
        assert kinds["events.hook"] == "program and its arguments"
        assert kinds["dashboard.allowed_hosts"] == "list of strings"
        assert kinds["regions.box"] == "list of 4 numbers, 0 to 1"

    def test_the_commented_file_is_the_defaults(self) -> None:
        text = settings_reference.FILE.read_text(encoding="utf-8")
        assert parse_settings(text) == Settings()
        names = [field.name for field in structs.fields(Settings) if field.name != "regions"]
        assert tomllib.loads(text) == {name: {} for name in names}
        uncommented = re.sub(r"^#(?! )", "", text, flags=re.MULTILINE)
        found = parse_settings(uncommented)
        assert found.recognition.threshold == 0.99
        (region,) = found.regions
        assert (region.name, region.focus, region.appear_frames) == ("shelf", "foreground", 3)
        assert found == structs.replace(
            Settings(),
            recognition=structs.replace(Settings().recognition, threshold=0.99),
            regions=found.regions,
        )
        tables = [
            one
            for table in tomllib.loads(uncommented).values()
            for one in (table if isinstance(table, list) else [table])
        ]
        assert sum(map(len, tables)) == sum(len(options) for _, _, options in settings_reference.tables())

    def test_the_page_lists_every_option_and_its_example_is_valid(self) -> None:
        text = settings_reference.PAGE.read_text(encoding="utf-8")
        for table, _, options in settings_reference.tables():
            part = text.split(f"## {table}\n")[1].split("\n## ")[0]
            for option in options:
                assert part.count(f"\n| `{option.name}` | ") == 1, option.key
        (example,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
        assert parse_settings(example).events.hook == ("/usr/local/bin/on-event", "--quiet")


def test_the_url_of_the_dashboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "kitchen.lan")
    for settings, url in (
        (DashboardSettings(), "http://localhost:8765/"),
        (DashboardSettings(listen="127.0.0.2"), "http://127.0.0.2:8765/"),
        (DashboardSettings(listen="0.0.0.0"), "http://kitchen.local:8765/"),
        (
            DashboardSettings(listen="192.168.1.7", certificate="a", key="b"),
            "https://192.168.1.7:8765/",
        ),
        (DashboardSettings(listen="fd00::7"), "http://[fd00::7]:8765/"),
        (DashboardSettings(allowed_hosts=("home.example:443",)), "http://home.example:443/"),
        (DashboardSettings(public_url="https://home.example/shelf"), "https://home.example/shelf/"),
        (DashboardSettings(listen="0.0.0.0", public_url="http://a.example:81/"), "http://a.example:81/"),
    ):
        assert settings.url == url


@pytest.mark.parametrize(
    ("settings", "exposed"),
    [
        (DashboardSettings(), False),
        (DashboardSettings(listen="0.0.0.0"), True),
        (DashboardSettings(allowed_hosts=("shelf.lan",)), True),
        (DashboardSettings(public_url="https://home.example/shelf"), True),
        (DashboardSettings(public_url="http://localhost:18080/shelf"), False),
        (DashboardSettings(public_url="http://127.0.0.1:18080/shelf"), False),
    ],
)
def test_a_dashboard_behind_a_proxy_is_exposed(settings: DashboardSettings, exposed: bool) -> None:
    assert settings.is_exposed == exposed


@pytest.mark.parametrize(
    ("mqtt", "expected"),
    [
        ({"broker": "b.lan"}, ("b.lan", 1883, False, "", "")),
        ({"broker": "b.lan", "tls": True}, ("b.lan", 8883, True, "", "")),
        ({"broker": "b.lan", "port": 1884, "username": "u"}, ("b.lan", 1884, False, "u", "")),
        ({"broker": "b.lan:1884", "port": 1884}, ("b.lan", 1884, False, "", "")),
        ({"broker": "mqtts://b.lan"}, ("b.lan", 8883, True, "", "")),
        ({"broker": "mqtts://b.lan:1884", "tls": True}, ("b.lan", 1884, True, "", "")),
        ({"broker": "mqtt://u:p@b.lan", "username": "u"}, ("b.lan", 1883, False, "u", "p")),
        ({"broker": "mqtt://u@b.lan", "password_file": "p"}, ("b.lan", 1883, False, "u", "")),
    ],
)
def test_a_broker_is_combined_with_other_settings(mqtt: dict[str, Any], expected: tuple[Any, ...]) -> None:
    server = MqttSettings(**mqtt).server
    assert (server.host, server.port, server.tls, server.username, server.password) == expected


def test_the_lines_of_regions_are_those_that_set_them(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[camera]\nframe_rate = 5\n{SHELF}{SHELF.replace('shelf', 'door')}focus = 'center'\n")
    read = settings_file.read_settings(path)
    assert read.lines == {
        "camera.frame_rate": 2, "regions[0].name": 4, "regions[0].box": 5,
        "regions[1].name": 7, "regions[1].box": 8, "regions[1].focus": 9,
    }  # fmt: skip
    options = dict(settings_file.options_of(read.settings))
    assert (options["regions[0].name"], options["regions[1].focus"], options["regions[0].focus"]) == (
        "shelf", "center", None,
    )  # fmt: skip
    assert not any(key.startswith("regions") for key, _ in settings_file.options_of(Settings()))
