"""Looks at a daemon as one browser, one Prometheus and nobody else does, and says what it got.

A part of scripts/measure_extras.py, which runs it as a process of its own, so that what it costs is not the daemon's.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from urllib.request import urlopen

SCRAPE_SECONDS = 5.0
"""Between two looks at the metrics: three times as often as Prometheus does by itself."""
PAUSE_SECONDS = 0.1


class Watcher:
    """Counts what it was given."""

    def __init__(self, dashboard: int, metrics: int) -> None:
        """Ask at these ports of loopback; nothing is asked before `run`."""
        self._dashboard, self._metrics = dashboard, metrics
        self._end = threading.Event()
        self.counts = {
            "pictures": 0,
            "picture_bytes": 0,
            "messages": 0,
            "scrapes": 0,
            "metric_bytes": 0,
            "faults": 0,
        }

    def run(self) -> None:
        """Watch until standard input ends."""
        works = [
            threading.Thread(target=self._again, args=(work,), daemon=True)
            for work in (self._pictures, self._stream, self._scrape)
        ]
        for work in works:
            work.start()
        sys.stdin.read()
        self._end.set()
        print(json.dumps(self.counts))

    def _again(self, work: object) -> None:
        assert callable(work)
        while not self._end.is_set():
            try:
                work()
            except (OSError, http.client.HTTPException):
                if not self._end.is_set():
                    self.counts["faults"] += 1
                time.sleep(PAUSE_SECONDS)

    def _pictures(self) -> None:
        """The live picture, the next one as soon as one has come, as the page asks for it."""
        connection, frame = http.client.HTTPConnection("127.0.0.1", self._dashboard, timeout=15), 0
        while not self._end.is_set():
            connection.request("GET", f"/api/v1/live?after={frame}")
            response = connection.getresponse()
            body = response.read()
            if response.status == 200:
                frame = int(response.headers["X-Frame"])
                self.counts["pictures"] += 1
                self.counts["picture_bytes"] += len(body)
            elif response.status != 204:
                self.counts["faults"] += 1
                time.sleep(PAUSE_SECONDS)

    def _stream(self) -> None:
        """What happens, as it happens."""
        connection = http.client.HTTPConnection("127.0.0.1", self._dashboard, timeout=30)
        connection.request("GET", "/api/v1/stream", headers={"Accept": "text/event-stream"})
        response = connection.getresponse()
        if response.status != 200:
            raise http.client.HTTPException(f"the stream answers {response.status}")
        while (line := response.readline()) and not self._end.is_set():
            self.counts["messages"] += line.startswith(b"event:")

    def _scrape(self) -> None:
        while not self._end.wait(SCRAPE_SECONDS if self.counts["scrapes"] else PAUSE_SECONDS):
            with urlopen(f"http://127.0.0.1:{self._metrics}/metrics", timeout=10) as response:
                self.counts["metric_bytes"] += len(response.read())
            self.counts["scrapes"] += 1


def main() -> int:
    """Watch; the counts, as JSON, at the end of standard input."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dashboard", type=int, required=True, help="its port")
    parser.add_argument("--metrics", type=int, required=True, help="their port")
    options = parser.parse_args()
    Watcher(options.dashboard, options.metrics).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
