"""Checks of the machine: what it is, heat, power, memory, clock, and the daemon as a service."""

from __future__ import annotations

from collections.abc import Iterator

from edge_siamese.doctor.findings import SERVICE, Finding, Scene
from edge_siamese.system.board import clock_synchronized, memory, memory_available, temperature, throttling

HOT_C = 75.0
"""A Raspberry Pi slows down from 80 °C on."""
MIN_MEMORY_MIB = 64
WITH_RUNTIMES = ("aarch64", "arm64", "x86_64", "amd64")
"""Architectures for which inference runtimes are published."""


def board(scene: Scene) -> Iterator[Finding]:
    """What it is."""
    found = scene.board
    if found.architecture not in WITH_RUNTIMES:
        yield Finding(
            "board",
            "error",
            f"{found}: no inference runtime is published for {found.architecture}",
            "install a 64-bit system: Raspberry Pi OS (64-bit)",
        )
        return
    yield Finding("board", "ok", str(found) if found.is_raspberry_pi else f"{found}; not a Raspberry Pi")


def heat(scene: Scene) -> Iterator[Finding]:
    """How hot it is."""
    degrees = temperature(scene.root)
    if degrees is None:
        yield Finding("temperature", "unknown", "nothing here measures the processor's temperature")
    elif degrees >= HOT_C:
        yield Finding(
            "temperature",
            "warning",
            f"{degrees:.0f} °C: from 80 °C on a board slows down",
            "give it air or a heat sink, or lower `rate` in [camera]",
        )
    else:
        yield Finding("temperature", "ok", f"{degrees:.0f} °C")


def power(scene: Scene) -> Iterator[Finding]:
    """Whether the firmware slows it down."""
    found = throttling(scene.root, scene.run)
    supply = "use the board's own power supply, a short cable, and no bus-powered devices"
    if found is None:
        if scene.board.is_raspberry_pi:
            yield Finding(
                "power",
                "unknown",
                "the firmware cannot be asked",
                "sudo apt install raspi-utils, and sudo edge-siamese doctor",
            )
        else:
            yield Finding("power", "ok", "not a Raspberry Pi: no firmware to ask")
    elif found.now:
        remedy = supply if "under-voltage" in found.now else "give it air or a heat sink"
        yield Finding("power", "error", f"now: {', '.join(found.now)}", remedy)
    elif found.since_boot:
        remedy = supply if "under-voltage" in found.since_boot else "give it air or a heat sink"
        yield Finding("power", "warning", f"since it was started: {', '.join(found.since_boot)}", remedy)
    else:
        yield Finding("power", "ok", "not throttled since it was started")


def free_memory(scene: Scene) -> Iterator[Finding]:
    """Whether there is memory to be had."""
    available = memory_available(scene.root)
    if available is None:
        yield Finding("memory", "unknown", "the kernel does not tell")
    elif available < MIN_MEMORY_MIB:
        yield Finding(
            "memory",
            "warning",
            f"{available} MiB are available of {scene.board.memory_mib}",
            "stop what else runs, such as a desktop: sudo systemctl set-default multi-user.target",
        )
    else:
        yield Finding("memory", "ok", f"{available} MiB are available of {scene.board.memory_mib}")


def clock(scene: Scene) -> Iterator[Finding]:
    """Whether something keeps the clock right."""
    found = clock_synchronized(scene.root)
    if found is None:
        yield Finding("clock", "unknown", "the kernel does not tell whether the clock is synchronized")
    elif found:
        yield Finding("clock", "ok", "synchronized")
    else:
        yield Finding(
            "clock",
            "warning",
            "not synchronized: the times of events may be wrong",
            "connect it to a network, then: sudo timedatectl set-ntp true",
        )


def service(scene: Scene) -> Iterator[Finding]:
    """The unit, as systemd sees it."""
    properties = "LoadState,UnitFileState,ActiveState,SubState,Result,NRestarts,MainPID"
    said = scene.run(("systemctl", "show", SERVICE, f"--property={properties}"))
    if said is None:
        yield Finding("service", "unknown", "systemd does not run here")
        return
    state = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    if state.get("LoadState") != "loaded":
        yield Finding("service", "unknown", f"{SERVICE}.service is not installed")
        return
    active = state.get("ActiveState", "unknown")
    journal = f"see why: journalctl -u {SERVICE} -e"
    if active == "failed":
        result = state.get("Result", "unknown")
        yield Finding(
            "service",
            "error",
            f"it has failed ({result})",
            f"{journal}; then sudo systemctl restart {SERVICE}",
        )
    elif active in ("active", "reloading"):
        yield Finding("service", "ok", f"active{_memory_of(scene, state.get('MainPID', '0'))}")
    else:
        level = "warning" if active == "inactive" else "error"
        yield Finding("service", level, f"it is {active}", f"sudo systemctl start {SERVICE}; {journal}")  # type: ignore[arg-type]
    if (restarts := state.get("NRestarts", "0")) not in ("0", ""):
        reason = " after it stopped answering" if state.get("Result") == "watchdog" else ""
        yield Finding("service", "warning", f"systemd has restarted it {restarts} times{reason}", journal)
    if state.get("UnitFileState") not in ("enabled", "enabled-runtime", "static"):
        yield Finding(
            "service",
            "warning",
            "it is not started with the machine",
            f"sudo systemctl enable {SERVICE}",
        )


def daemon(scene: Scene) -> Iterator[Finding]:
    """What the daemon says of itself."""
    if scene.daemon is None:
        text, _, remedy = scene.silence.partition(": ")
        yield Finding("daemon", "warning", text, remedy)
        return
    fault = str(scene.daemon.get("fault") or "")
    line = str(scene.daemon.get("line") or "it answers")
    if fault and fault == line and scene.daemon.get("model") is None:
        yield Finding("daemon", "error", f"it cannot recognize: {fault}", "edge-siamese status")
        return
    yield Finding("daemon", "ok", line)


def _memory_of(scene: Scene, pid: str) -> str:
    found = memory(int(pid), scene.root) if pid.isdecimal() and int(pid) else None
    return f": {found.resident_mib:.0f} MiB, {found.peak_mib:.0f} at most" if found else ""
