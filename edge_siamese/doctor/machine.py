"""Checks of the machine: board, temperature, power, memory, clock, service and daemon."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator

from edge_siamese.daemon.quarantine import DAMAGED, Quarantine
from edge_siamese.doctor.findings import SERVICE, Context, Finding, Level
from edge_siamese.events import counted
from edge_siamese.system.board import clock_synchronized, memory, memory_available, temperature, throttling

MAX_CELSIUS = 75.0
"""A Raspberry Pi slows down at 80 °C."""
MIN_MEMORY_MIB = 64
ARCHITECTURES = ("aarch64", "arm64", "x86_64", "amd64")
"""Architectures for which inference runtimes are published."""


def check_board(context: Context) -> Iterator[Finding]:
    """The board and its architecture."""
    board = context.board
    if board.architecture not in ARCHITECTURES:
        yield Finding(
            "board",
            "error",
            f"{board}: no inference runtime is published for {board.architecture}",
            "install a 64-bit system: Raspberry Pi OS (64-bit)",
        )
        return
    yield Finding("board", "ok", str(board) if board.is_raspberry_pi else f"{board}; not a Raspberry Pi")


def check_temperature(context: Context) -> Iterator[Finding]:
    """The processor's temperature."""
    degrees = temperature(context.root)
    if degrees is None:
        yield Finding("temperature", "unknown", "this machine has no sensor for the processor's temperature")
    elif degrees >= MAX_CELSIUS:
        yield Finding(
            "temperature",
            "warning",
            f"{degrees:.0f} °C; the board slows down at 80 °C",
            "improve the cooling, or lower `frame_rate` in [camera]",
        )
    else:
        yield Finding("temperature", "ok", f"{degrees:.0f} °C")


def check_power(context: Context) -> Iterator[Finding]:
    """Whether the firmware throttles the board."""
    state = throttling(context.root, context.run)
    if state is None:
        if context.board.is_raspberry_pi:
            yield Finding(
                "power",
                "unknown",
                "the firmware does not report throttling",
                "sudo apt install raspi-utils, then: sudo edge-siamese doctor",
            )
        else:
            yield Finding("power", "ok", "only the firmware of a Raspberry Pi reports throttling")
    elif state.now:
        yield Finding("power", "error", f"now: {', '.join(state.now)}", _power_remedy(state.now))
    elif state.since_boot:
        text = f"since the last boot: {', '.join(state.since_boot)}"
        yield Finding("power", "warning", text, _power_remedy(state.since_boot))
    else:
        yield Finding("power", "ok", "not throttled since the last boot")


def _power_remedy(conditions: Collection[str]) -> str:
    if "under-voltage" in conditions:
        return "use the official power supply, a short cable, and no bus-powered devices"
    return "improve the cooling: more air, or a heat sink"


def check_memory(context: Context) -> Iterator[Finding]:
    """The available memory."""
    available = memory_available(context.root)
    if available is None:
        yield Finding("memory", "unknown", "the kernel does not report it")
    elif available < MIN_MEMORY_MIB:
        yield Finding(
            "memory",
            "warning",
            f"{available} of {context.board.memory_mib} MiB are available",
            "stop other programs, such as a desktop: sudo systemctl set-default multi-user.target",
        )
    else:
        yield Finding("memory", "ok", f"{available} of {context.board.memory_mib} MiB are available")


def check_clock(context: Context) -> Iterator[Finding]:
    """Whether the clock is synchronized."""
    synchronized = clock_synchronized(context.root)
    if synchronized is None:
        yield Finding("clock", "unknown", "the kernel does not report whether it is synchronized")
    elif synchronized:
        yield Finding("clock", "ok", "synchronized")
    else:
        yield Finding(
            "clock",
            "warning",
            "not synchronized; the times of events may be wrong",
            "connect the machine to a network, then: sudo timedatectl set-ntp true",
        )


def check_service(context: Context) -> Iterator[Finding]:
    """The state of the systemd unit."""
    properties = "LoadState,UnitFileState,ActiveState,SubState,Result,NRestarts,MainPID"
    output = context.run(("systemctl", "show", SERVICE, f"--property={properties}"))
    if output is None:
        yield Finding("service", "unknown", "systemd is not running on this machine")
        return
    state = dict(line.split("=", 1) for line in output.splitlines() if "=" in line)
    if state.get("LoadState") != "loaded":
        yield Finding("service", "unknown", f"{SERVICE}.service is not installed")
        return
    active = state.get("ActiveState", "unknown")
    journal = f"find out why: journalctl -u {SERVICE} -e"
    if active == "failed":
        result = state.get("Result", "unknown")
        yield Finding(
            "service",
            "error",
            f"it failed ({result})",
            f"{journal}; then: sudo systemctl restart {SERVICE}",
        )
    elif active in ("active", "reloading"):
        yield Finding("service", "ok", f"active{_memory_usage(context, state.get('MainPID', '0'))}")
    else:
        level: Level = "warning" if active == "inactive" else "error"
        yield Finding("service", level, f"it is {active}", f"sudo systemctl start {SERVICE}; {journal}")
    if (restarts := state.get("NRestarts", "0")) not in ("0", ""):
        reason = " because it stopped responding" if state.get("Result") == "watchdog" else ""
        yield Finding("service", "warning", f"systemd restarted it {restarts} times{reason}", journal)
    if state.get("UnitFileState") not in ("enabled", "enabled-runtime", "static"):
        yield Finding(
            "service",
            "warning",
            "it does not start at boot",
            f"sudo systemctl enable {SERVICE}",
        )


def check_daemon(context: Context) -> Iterator[Finding]:
    """The daemon's own status."""
    if context.daemon is None:
        text, _, remedy = context.unreachable.partition(": ")
        yield Finding("daemon", "warning", text, remedy)
        return
    fault = str(context.daemon.get("fault") or "")
    line = str(context.daemon.get("line") or "it responds")
    if fault and fault == line and context.daemon.get("model") is None:
        yield Finding(
            "daemon", "error", f"it cannot recognize objects: {fault}", "find out more: edge-siamese status"
        )
        return
    yield Finding("daemon", "ok", line)
    for failure in context.daemon.get("failures", []):
        text = f"{failure['part']}: {failure['text']}"
        yield Finding("daemon", "warning", text, f"find out why: journalctl -u {SERVICE} -e")


def check_quarantine(context: Context) -> Iterator[Finding]:
    """The parts that the daemon does not use because they failed."""
    if context.daemon is None:
        parts = [part.report() for part in Quarantine(context.settings.state_directory).parts]
    else:
        parts = context.daemon.get("quarantine", [])
    for part in parts:
        remedy = f"repair the cause, then: edge-siamese quarantine restore {part['id']}"
        if part["id"].startswith(DAMAGED):
            remedy = "register the view again, then remove this one: edge-siamese objects remove-view"
        yield Finding("quarantine", "warning", part["text"], remedy)
    if not parts:
        yield Finding("quarantine", "ok", "no part failed")


def check_surroundings(context: Context) -> Iterator[Finding]:
    """Whether the objects differ enough from everything else the camera sees."""
    report = (context.daemon or {}).get("surroundings")
    if not report:
        yield Finding(
            "surroundings", "unknown", "the daemon has not compared the objects with its surroundings"
        )
        return
    if not report["enabled"]:
        yield Finding("surroundings", "ok", "learning is off")
        return
    for item in report["near"]:
        remedy = f"register another view: edge-siamese register {shlex.quote(item['name'])} --view"
        yield Finding("surroundings", "warning", f"{item['name']}: only {item['text']}", remedy)
    if not report["near"]:
        text = (
            f"no object looks like anything else that this camera sees ({counted(report['scenes'], 'scene')})"
        )
        yield Finding("surroundings", "ok", text)


def _memory_usage(context: Context, pid: str) -> str:
    usage = memory(int(pid), context.root) if pid.isdecimal() and int(pid) else None
    return f": {usage.resident_mib:.0f} MiB, peak {usage.peak_mib:.0f} MiB" if usage else ""
