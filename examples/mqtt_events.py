"""Print the events of devices that publish to an MQTT broker."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

EXAMPLE = """\
examples:
  .venv/bin/python examples/mqtt_events.py broker.local
  .venv/bin/python examples/mqtt_events.py broker.local --device hall --kind appeared --kind left \\
      --username me --password-file ~/mqtt-password"""


class EventPrinter:
    """Subscribes to the events of a device, or of all, and prints each one once."""

    def __init__(self, topic: str, kinds: list[str], count: int) -> None:
        self.topic, self.kinds, self.remaining = topic, kinds, count
        self.problem = ""
        self._ids: set[str] = set()

    def connected(
        self, client: Client, _data: Any, _flags: ConnectFlags, reason: ReasonCode, _more: Properties | None
    ) -> None:
        if reason.is_failure:
            self.problem = f"the broker refuses the connection: {reason}"
            client.disconnect()
        else:
            client.subscribe(self.topic, qos=1)  # after each reconnection too

    def received(self, client: Client, _data: Any, message: MQTTMessage) -> None:
        try:
            event = json.loads(message.payload)
            kind, text, identity = event["kind"], event["text"], event["id"]
        except (ValueError, TypeError, KeyError):
            print(f"{message.topic}: not an event", file=sys.stderr)
            return
        if identity in self._ids or (self.kinds and kind not in self.kinds):
            return  # events are delivered at least once
        self._ids.add(identity)
        print(f"{event.get('time', '')}  {event.get('device', '')}  {kind}: {text}", flush=True)
        self.remaining -= 1
        if self.remaining == 0:
            client.disconnect()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("broker", help="host name or address")
    parser.add_argument("--port", type=int, default=1883, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--device", default="+", metavar="ID", help="device_id of a device (default: all)")
    parser.add_argument(
        "--prefix", default="edge-siamese", help="topic_prefix of the devices (default: %(default)s)"
    )
    parser.add_argument(
        "--kind", action="append", default=[], help="print only events of this kind; can be repeated"
    )
    parser.add_argument(
        "--count", type=int, default=0, metavar="N", help="stop after N events (default: never)"
    )
    parser.add_argument("--username", metavar="NAME", help="user of the broker")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="file with the user's password")
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = build_parser().parse_args(arguments)
    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
    printer = EventPrinter(f"{options.prefix}/{options.device}/event", options.kind, options.count)
    client.on_connect, client.on_message = printer.connected, printer.received
    try:
        if options.username:
            password = (
                options.password_file.expanduser().read_text().strip() if options.password_file else None
            )
            client.username_pw_set(options.username, password)
        client.connect(options.broker, options.port)
        client.loop_forever()
    except OSError as error:
        printer.problem = f"{options.broker}:{options.port}: {error.strerror or error}"
    except ValueError as error:
        printer.problem = f"{options.broker}:{options.port}: {error}"
    except KeyboardInterrupt:
        return 130
    if printer.problem:
        print(f"error: {printer.problem}", file=sys.stderr)
    return 1 if printer.problem else 0


if __name__ == "__main__":
    sys.exit(main())
