"""Commands for the daemon: run, status, events, doctor."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from edge_siamese.cli.output import LogFormatter, json_text, print_json, print_line, print_pairs, print_table
from edge_siamese.daemon.client import find_socket, request, stream
from edge_siamese.daemon.client import reload as reload_daemon
from edge_siamese.errors import ControlError, DaemonNotRunning, SettingsError, printable
from edge_siamese.models import describe_shipped
from edge_siamese.settings_file import default_config, load_settings
from edge_siamese.system.files import expand_path
from edge_siamese.system.wall_clock import local_time, utc_now

MAX_PARTS = 3
"""Parts in quarantine that the status shows."""
BAD_SETTINGS = 78
"""Exit status of `run` for invalid settings, after which systemd does not restart the service."""


def run(options: argparse.Namespace) -> int:
    """Run the daemon in the foreground."""
    try:
        config = expand_path(options.config).absolute() if options.config else default_config()
        settings = load_settings(config)
        _ = settings.state_directory, settings.socket  # raise an error without a home directory
        _log_to_stderr()
        from edge_siamese.daemon.service import Service  # imports numpy

        return Service(settings, config).run()
    except SettingsError as error:
        print(f"edge-siamese: {printable(str(error))}", file=sys.stderr)
        return BAD_SETTINGS


def status(options: argparse.Namespace) -> int:
    """Print the daemon's status; returns 0 even if it cannot recognize, which the first line reports."""
    socket = find_socket(options.config)
    while True:
        report = request(socket, "status")
        if options.json:
            print_json(report) if not options.watch else print(json_text(report))
        elif options.watch:
            print_line(f"{local_time(utc_now(), '%H:%M:%S')}  {report['line']}")
        else:
            print_pairs(_status_lines(report))
        if not options.watch:
            return 0
        sys.stdout.flush()
        time.sleep(1.0)


def _status_lines(report: dict[str, Any]) -> dict[str, Any]:
    model, camera, panel = report["model"], report["camera"], report["panel"]
    lines = {"now": report["line"]}
    if model:
        lines["model"] = f"{model['model_id']}, {model['precision']} on {model['runtime']}"
        if origin := describe_shipped(Path(model["bundle"])):
            lines["model"] += f"; {origin}"
        lines["threshold"] = f"p >= {model['threshold']:.4f} ({model['threshold_source']})"
    else:
        lines["model"] = report["fault"]
    lines["objects"] = f"{report['objects']} with {report['views']} views"
    if camera:
        what = camera["description"] or "no camera"
        lines["camera"] = f"{what}; {camera['status']}{': ' + camera['reason'] if camera['reason'] else ''}"
        lines["frames"] = (
            f"{report['frames']} at {camera['fps']:.1f} per second; {camera['dropped']} dropped; "
            f"{camera['restarts']} restarts"
        )
    if panel:
        lines["panel"] = panel["problem"] or panel["description"] or "none"
    store = report["store"]
    if store and store["repair"]:
        lines["store"] = store["repair"]
    lines |= _failure_lines(report)
    for name, integration in report.get("integrations", {}).items():
        lines[name] = integration["state"]
        if fleet := integration.get("fleet"):
            lines["fleet"] = f"{fleet['state']}; collection {fleet['collection']}"
            lines["fleet"] += f", {fleet['objects']} objects"
            if fleet.get("problem"):
                lines["fleet"] += f"; {fleet['problem']}"
    if problem := report["sound"]["problem"]:
        lines["sound"] = problem
    lines["state"] = report["paths"]["state"]
    lines["up"] = _duration(report["uptime_s"])
    return lines


def _failure_lines(report: dict[str, Any]) -> dict[str, Any]:
    """Return the lines on what failed; none if nothing did."""
    lines, loading = {}, report["loading"]
    if loading["settings_problem"]:
        lines["settings"] = f"the previous ones stay in use: {loading['settings_problem']}"
    if loading["model_problem"]:
        lines["fallback"] = loading["model_problem"]
    if parts := report["quarantine"]:
        lines["quarantine"] = "; ".join(part["text"] for part in parts[:MAX_PARTS])
        lines["quarantine"] += "; list: edge-siamese quarantine"
    if failures := report["failures"]:
        lines["failed"] = "; ".join(f"{failure['part']}: {failure['text']}" for failure in failures)
    return lines


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"


def reload(options: argparse.Namespace) -> int:
    """Make the daemon read settings and model again, and print what it uses then; returns 1 if it refused one of them."""
    report = reload_daemon(find_socket(options.config))
    loading, model = report["loading"], report["model"]
    problem = loading["settings_problem"] or (loading["problem"] if not loading["busy"] else "")
    if options.json:
        print_json({"ok": not problem, "problem": problem, "busy": loading["busy"]})
    elif problem:
        what = "settings" if loading["settings_problem"] else "model"
        raise ControlError(f"the daemon does not use the new {what}: {problem}")
    elif loading["busy"]:
        print(f"the daemon is still loading: {report['line']}")
    else:
        print(f"the daemon uses {report['paths']['config'] or 'the defaults'} and {model['model_id']}")
    return 1 if problem else 0


def events(options: argparse.Namespace) -> int:
    """Print recent events, and new ones with --follow."""
    socket = find_socket(options.config)
    if not options.follow:
        for event in request(socket, "events", count=options.count):
            _print_event(event, options.json)
        return 0
    kind = ""
    try:
        for line in stream(socket, "events", count=options.count, follow=True, timeout=None):
            if "event" in line:
                kind = line["event"]["kind"]
                _print_event(line["event"], options.json)
                sys.stdout.flush()
    except DaemonNotRunning:
        if kind != "stopping":  # otherwise the daemon stopped as announced
            raise
    return 0


def _print_event(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json_text(event))
    else:
        # A line about lost events has no time.
        when = event.get("time", "").replace("T", " ").replace("+00:00", "Z")
        print_line(f"{when:<24}  {event['kind']:<14}  {event['text']}")


def doctor(options: argparse.Namespace) -> int:
    """Print the doctor's findings with remedies; returns 1 if one is an error."""
    from edge_siamese.doctor import examine  # imports nearly everything

    findings = examine(options.config)
    failed = any(finding.level == "error" for finding in findings)
    if options.json:
        print_json(
            {
                "ok": not failed,
                "findings": [asdict(finding) for finding in findings],
            }
        )
        return 1 if failed else 0
    print_table(("", "check", "finding"), [(f.level, f.check, f.text) for f in findings])
    remedies = [f for f in findings if f.remedy and f.level in ("warning", "error")]
    if remedies:
        print("\nWhat to do:")
        for finding in remedies:
            print_line(f"  {finding.check}: {finding.remedy}")
    return 1 if failed else 0


def _log_to_stderr() -> None:
    """Log to stderr, with priorities if that is the journal."""
    from edge_siamese.daemon.sinks import in_journal

    _separate_stderr()
    journal = in_journal()
    handler = logging.StreamHandler()
    handler.setFormatter(
        _Priorities() if journal else LogFormatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S")
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _separate_stderr() -> None:
    """Give `sys.stderr` a descriptor of its own.

    To discard the output of a library, descriptor 2 is redirected briefly; log lines of other threads must not be lost
    meanwhile.
    """
    old = sys.stderr
    with suppress(OSError, ValueError, AttributeError):  # there is none, or it is closed
        sys.stderr = os.fdopen(os.dup(old.fileno()), "w", 1, encoding=old.encoding, errors=old.errors)


class _Priorities(LogFormatter):
    """Formats log lines for the journal, with a syslog priority."""

    def format(self, record: logging.LogRecord) -> str:
        """Return `<4>message` for a warning."""
        number = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3}.get(
            record.levelno, 3
        )
        # The journal treats each line as a separate message.
        return "\n".join(f"<{number}>{line}" for line in super().format(record).split("\n"))
