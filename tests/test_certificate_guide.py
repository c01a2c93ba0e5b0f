"""The certificates that the pages on MQTT and the dashboard describe work."""

from __future__ import annotations

import re
import shlex
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from edge_siamese.dashboard.server import tls_context as tls_of_dashboard
from edge_siamese.errors import MqttError
from edge_siamese.mqtt.security import tls_context as tls_of_mqtt
from edge_siamese.settings import DashboardSettings, MqttSettings
from edge_siamese.settings_file import parse_settings

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("mqtt.md", "dashboard.md")
SECRET, OPEN = "sudo install -m 640 -g edge-siamese", "sudo install -m 644"


def commands(page: str) -> list[str]:
    """Those of a page's shell examples, one a line."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return "\n".join(blocks).replace("\\\n", " ").splitlines()


def made(page: str, folder: Path) -> list[str]:
    """Carry out what a page says to make a certificate; the files, key first."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    (command,) = (line for line in commands(page) if line.startswith("openssl req"))
    words = shlex.split(command)
    subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=60)
    return [str(folder / words[words.index(option) + 1]) for option in ("-keyout", "-out")]


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """As over a network; raises ssl.SSLError if the client does not trust the server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(4):
        for end in tuple(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends.remove(end)
    assert not ends


def test_a_broker_with_the_certificate_of_the_page_is_trusted_by_its_name_alone(tmp_path: Path) -> None:
    key, certificate = made("mqtt.md", tmp_path)
    broker = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    broker.load_cert_chain(certificate, key)
    device = tls_of_mqtt(MqttSettings(broker="broker.local", tls=True, ca_file=certificate))
    assert device is not None
    device.verify_flags |= ssl.VERIFY_X509_STRICT  # as Python 3.13 has it by itself
    shake_hands(broker, device, "broker.local")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake_hands(broker, device, "other.local")


def test_a_browser_that_knows_the_certificate_of_the_page_trusts_the_dashboard(tmp_path: Path) -> None:
    key, certificate = made("dashboard.md", tmp_path)
    dashboard = tls_of_dashboard(DashboardSettings(certificate=certificate, key=key))
    assert dashboard is not None
    browser = ssl.create_default_context(cafile=certificate)
    browser.verify_flags |= ssl.VERIFY_X509_STRICT
    shake_hands(dashboard, browser, "shelf.local")


@pytest.mark.parametrize("page", PAGES)
def test_every_file_of_the_settings_is_put_there_and_no_secret_is_open(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    named: dict[str, bool] = {}
    for table in re.findall(r"^```toml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        read = parse_settings(table)
        found = read.mqtt if page == "mqtt.md" else read.dashboard
        for name in ("ca_file", "certificate", "key", "password_file"):
            if path := getattr(found, name, ""):
                named[path] = name in ("key", "password_file")
    assert any(named.values())
    put = {}
    for line in commands(page):
        if match := re.match(rf"({SECRET}|{OPEN}) (.*) (/etc/edge-siamese/\S*)$", line):
            how, files, target = match.groups()
            for file in files.split():
                put[target + file if target.endswith("/") else target] = how == SECRET
    assert put == named


@pytest.mark.parametrize("page", PAGES)
def test_files_are_there_before_the_daemon_is_reloaded(page: str) -> None:
    lines = commands(page)
    reloads = [number for number, line in enumerate(lines) if "systemctl reload" in line]
    password = [number for number, line in enumerate(lines) if "mqtt-password" in line]
    assert not password or max(password) < min(reloads)


def test_a_key_with_a_password_is_named_and_not_asked_for(tmp_path: Path) -> None:
    key, certificate = made("mqtt.md", tmp_path)
    locked = tmp_path / "locked.key"
    command = ["openssl", "ec", "-aes256", "-passout", "pass:x", "-in", key, "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(MqttError, match=r"and key .*locked\.key cannot be used: the key is encrypted"):
        tls_of_mqtt(MqttSettings(broker="x", tls=True, certificate=certificate, key=str(locked)))
