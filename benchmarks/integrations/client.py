"""A client of the dashboard and the metrics, like one browser and one Prometheus; counts what it receives.

Runs as a process of its own, so that its processor time is not counted as the daemon's.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable
from urllib.request import urlopen

SCRAPE_SECONDS = 5.0
"""Interval between scrapes, a third of Prometheus' default."""
RETRY_SECONDS = 0.1


class Client:
    """Requests pictures, events and metrics, and counts them."""

    def __init__(self, dashboard: int, metrics: int) -> None:
        """Set the ports on loopback; requests begin with `run`."""
        self._dashboard, self._metrics = dashboard, metrics
        self._stopped = threading.Event()
        self.counts = {
            "pictures": 0,
            "picture_bytes": 0,
            "messages": 0,
            "scrapes": 0,
            "metric_bytes": 0,
            "errors": 0,
        }

    def run(self) -> None:
        """Send requests until standard input ends, then print the counts as JSON."""
        threads = [
            threading.Thread(target=self._repeat, args=(task,), daemon=True)
            for task in (self._pictures, self._stream, self._scrape)
        ]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        self._stopped.set()
        print(json.dumps(self.counts))

    def _repeat(self, task: Callable[[], None]) -> None:
        while not self._stopped.is_set():
            try:
                task()
            except (OSError, http.client.HTTPException):
                if not self._stopped.is_set():
                    self.counts["errors"] += 1
                time.sleep(RETRY_SECONDS)

    def _pictures(self) -> None:
        """Request the next live picture as soon as one has arrived, as the page does."""
        connection, frame = http.client.HTTPConnection("127.0.0.1", self._dashboard, timeout=15), 0
        while not self._stopped.is_set():
            connection.request("GET", f"/api/v1/live?after={frame}")
            response = connection.getresponse()
            body = response.read()
            if response.status == 200:
                frame = int(response.headers["X-Frame"])
                self.counts["pictures"] += 1
                self.counts["picture_bytes"] += len(body)
            elif response.status != 204:
                self.counts["errors"] += 1
                time.sleep(RETRY_SECONDS)

    def _stream(self) -> None:
        """Follow the event stream."""
        connection = http.client.HTTPConnection("127.0.0.1", self._dashboard, timeout=30)
        connection.request("GET", "/api/v1/stream", headers={"Accept": "text/event-stream"})
        response = connection.getresponse()
        if response.status != 200:
            raise http.client.HTTPException(f"the stream answered {response.status}")
        while (line := response.readline()) and not self._stopped.is_set():
            self.counts["messages"] += line.startswith(b"event:")

    def _scrape(self) -> None:
        while not self._stopped.wait(SCRAPE_SECONDS if self.counts["scrapes"] else RETRY_SECONDS):
            with urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=10) as response:
                self.counts["metric_bytes"] += len(response.read())
            self.counts["scrapes"] += 1


def main() -> int:
    """Run the client."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dashboard", type=int, required=True, help="port of the dashboard")
    parser.add_argument("--metrics", type=int, required=True, help="port of the metrics")
    options = parser.parse_args()
    Client(options.dashboard, options.metrics).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
