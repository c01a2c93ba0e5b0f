"""A broker that is away is told by everything that tells how the daemon is: status, metrics and doctor."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_siamese.doctor import Finding, examine, integrations
from edge_siamese.models.bundle import Bundle
from edge_siamese.mqtt.reconnect import ReconnectPolicy
from tests.edge_siamese.daemon.running import Daemon, daemon_in, until
from tests.edge_siamese.metrics.scraping import configure, free_port, scrape, text_at, value
from tests.edge_siamese.mqtt.listening import Listener

ROOT = Path(__file__).parents[3]
ACCEPTED_5, BAD_USER = b"\x20\x03\x00\x00\x00", b"\x20\x03\x00\x86\x00"


def looked_at(daemon: Daemon) -> Finding:
    """What doctor finds of MQTT."""
    found = examine(daemon.config, checks=[("integrations", integrations.check_integrations)])
    return next(finding for finding in found if finding.check == "mqtt")


def with_mqtt(daemon: Daemon, bundle: Bundle, broker: int, metrics: int) -> Daemon:
    configure(daemon, bundle, metrics)
    with daemon.config.open("a") as file:
        file.write(
            f'[mqtt]\nbroker = "127.0.0.1"\nport = {broker}\ndevice_id = "hall"\ncollection = "home"\n'
        )
    return daemon.start().up()


def test_a_broker_that_is_off_is_a_warning_and_a_zero(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    with daemon_in(tmp_path, monkeypatch) as made:
        daemon = with_mqtt(made, bundle, free_port(), port)
        until(lambda: daemon.ask("status")["extras"]["mqtt"]["state"] == "away: Connection refused")
        assert daemon.ask("status")["extras"]["mqtt"]["works"] is False
        assert value(scrape(port), "edge_siamese_integration_up", integration="mqtt") == 0
        assert value(text_at(port), "edge_siamese_integration_up", integration="metrics") == 1
        found = looked_at(daemon)
        assert (found.level, found.text) == ("warning", "it does not work: away: Connection refused")
        assert "[mqtt]" in found.remedy


def test_status_tells_of_the_fleet_where_the_guide_says(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    (said,) = re.findall(r"under `extras\.mqtt\.fleet`: (.*?)\n\n", guide, re.DOTALL)
    with daemon_in(tmp_path, monkeypatch) as made:
        daemon = with_mqtt(made, bundle, free_port(), free_port())
        fleet = until(lambda: daemon.ask("status")["extras"]["mqtt"].get("fleet"))
    assert fleet["state"] == "away"
    assert {word for word in re.findall(r"`(\w+)`", said) if word in fleet} == {
        *("state", "trouble", "objects", "to_tell", "to_fetch"),
    }


def test_a_broker_that_refuses_is_one_too_until_it_does_no_more(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first wait of a refused device is a minute; here it is not.
    monkeypatch.setattr(
        "edge_siamese.mqtt.client.ReconnectPolicy",
        lambda: ReconnectPolicy(first=0.05, refused=0.05, most=0.05),
    )
    port = free_port()
    with Listener(BAD_USER) as broker, daemon_in(tmp_path, monkeypatch) as made:
        daemon = with_mqtt(made, bundle, broker.port, port)
        until(lambda: daemon.ask("status")["extras"]["mqtt"]["state"].startswith("refused: "))
        assert value(scrape(port), "edge_siamese_integration_up", integration="mqtt") == 0
        assert looked_at(daemon).text == "it does not work: refused: bad user name or password"
        broker.answer(ACCEPTED_5)
        until(lambda: daemon.ask("status")["extras"]["mqtt"]["works"])
        until(lambda: value(text_at(port), "edge_siamese_integration_up", integration="mqtt") == 1)
        assert (looked_at(daemon).level, looked_at(daemon).text) == ("ok", "connected")
