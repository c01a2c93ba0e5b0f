"""A virtual machine: boots the image in qemu, sends commands to its agent, and cuts its power."""

from __future__ import annotations

import contextlib
import itertools
import json
import queue
import socket
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.system.machine_image import Image

MEMORY_MEGABYTES = 900
# Without AVX: that of qemu 7.2's emulation is wrong, and numpy's tanh overflows or ends the process.
PROCESSOR = "Nehalem"
# The time stamp counter is trusted: the other clocks of an emulated PC cost an exit from the emulation at each look. Its
# rate is told, because a kernel that measures it on a busy machine may come to a clock that runs five times too fast.
KERNEL_OPTIONS = (
    *("console=ttyS0", "quiet", "mitigations=off", "nokaslr", "audit=0", "apparmor=0", "rw", "tsc=reliable"),
    *("systemd.show_status=0", "systemd.unit=machine.target", "no_timer_check", "rcupdate.rcu_expedited=1"),
)
UNITS = {
    "/etc/systemd/system/machine.target": "[Unit]\nRequires=basic.target agent.service\nAfter=basic.target\n",
    "/etc/systemd/system/agent.service": (
        "[Unit]\nDefaultDependencies=no\nAfter=systemd-remount-fs.service\n[Service]\n"
        "ExecStartPre=/sbin/modprobe virtio_console\n"
        "ExecStart=/usr/bin/python3 -u /opt/guest/agent.py\nStandardError=journal+console\n"
    ),
}


class MachineError(AssertionError):
    """The machine did not boot, does not answer, or says that something failed there."""


class Machine:
    """One run of a machine, from power on to power off.

    with Machine(image, disk, directory) as machine:
        machine.call("system:uptime")
    """

    def __init__(
        self,
        image: Image,
        disk: Path,
        work: Path,
        *,
        keep: bool = False,
        processors: int = 2,
        boot_timeout: float = 120,
    ) -> None:
        """Choose what runs.

        Args:
            image: whose kernel.
            disk: what `write_disk` made.
            work: a directory for its socket and its console.
            keep: the disk keeps what the machine writes, at once what it flushes; else all of it is forgotten.
            processors: how many it has; machines side by side need no more than one each.
            boot_timeout: seconds until the agent has to answer.
        """
        self._work = work
        self.console = work / "console.log"
        self._boot_timeout = boot_timeout
        self._socket_path = work / "agent"
        drive = (
            f"file={disk},if=none,id=disk,format=raw,cache=none"
            if keep
            else f"file={disk},if=none,id=disk,format=raw,snapshot=on"
        )
        self._command = [
            *("qemu-system-x86_64", "-M", "q35,hpet=off", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR),
            *(
                "-smp",
                str(processors),
                "-m",
                str(MEMORY_MEGABYTES),
                "-nodefaults",
                "-nographic",
                "-no-reboot",
            ),
            *("-kernel", str(image.kernel / "vmlinux"), "-initrd", str(image.kernel / "initrd")),
            *(
                "-append",
                " ".join((*KERNEL_OPTIONS, f"tsc_early_khz={_tsc_khz(image)}")),
                "-drive",
                drive,
                "-device",
                "virtio-blk-pci,drive=disk",
            ),
            *("-device", "virtio-rng-pci", "-device", "i6300esb", "-watchdog-action", "reset"),
            *(
                "-device",
                "virtio-serial-pci",
                "-chardev",
                f"socket,id=agent,path={self._socket_path},server=on,wait=off",
            ),
            *("-device", "virtserialport,chardev=agent,name=agent"),
            *("-serial", f"file:{self.console}", "-monitor", "none"),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._socket = socket.socket(socket.AF_UNIX)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._ids = itertools.count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self.said: queue.Queue[dict[str, Any]] = queue.Queue()
        """What the machine said unasked: of calls that stream."""

    def __enter__(self) -> Self:
        self._socket_path.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + self._boot_timeout
        try:
            while True:
                try:
                    self._socket.connect(str(self._socket_path))
                    break
                except (FileNotFoundError, ConnectionRefusedError):
                    self._require_running(deadline)
                    time.sleep(0.05)
            self._listener.start()
            self.hear("ready", self._boot_timeout)
        except BaseException:
            self.cut_power()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut_power()

    @property
    def running(self) -> bool:
        """Whether it has power."""
        return self._process is not None and self._process.poll() is None

    def call(self, function: str, *, timeout: float = 60, **arguments: Any) -> Any:
        """Let the agent call MODULE:FUNCTION of tests/system/guest; its result, as JSON brings it here."""
        number = self.ask(function, **arguments)
        return self.result(number, timeout)

    def ask(self, function: str, *, streams: bool = False, **arguments: Any) -> int:
        """Like `call`, without waiting; `streams` gives the function an argument `say`, whose words come to `said`."""
        number = next(self._ids)
        self._answers[number] = queue.Queue()
        request = {"id": number, "call": function, "arguments": arguments, "streams": streams}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        return number

    def result(self, number: int, timeout: float = 60) -> Any:
        """Wait for what was asked for."""
        try:
            answer = self._answers[number].get(timeout=timeout)
        except queue.Empty:
            raise MachineError(
                f"no answer within {timeout:g} s; the console ends:\n{self.last_words}"
            ) from None
        del self._answers[number]
        if "error" in answer:
            raise MachineError(f"in the machine: {answer['error']}")
        return answer.get("result")

    def hear(self, key: str, timeout: float) -> dict[str, Any]:
        """Wait for a word of `said` with this key."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                word = self.said.get(timeout=max(0.0, min(deadline - time.monotonic(), 0.5)))
            except queue.Empty:
                self._require_running(deadline)
                continue
            if key in word:
                return word

    def cut_power(self) -> None:
        """Between two instructions; what was not flushed to the disk is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        if self._listener.is_alive():
            self._listener.join(5)  # what was said before the cut is heard
        self._socket.close()

    @property
    def last_words(self) -> str:
        """The end of the console."""
        with contextlib.suppress(FileNotFoundError):
            return self.console.read_text(errors="replace")[-2000:]
        return "(nothing)"

    def _require_running(self, deadline: float) -> None:
        if not self.running:
            raise MachineError(f"the machine is off; its console ends:\n{self.last_words}")
        if time.monotonic() > deadline:
            raise MachineError(f"nothing was heard in time; the console ends:\n{self.last_words}")

    def _listen(self) -> None:
        pending = b""
        with contextlib.suppress(OSError, ValueError):
            while data := self._socket.recv(65536):
                pending += data
                *lines, pending = pending.split(b"\n")
                for line in lines:
                    word = json.loads(line)
                    if "id" in word:
                        self._answers[word["id"]].put(word)
                    else:
                        self.said.put(word)


def _tsc_khz(image: Image) -> int:
    return int(
        subprocess.run([str(image.kernel / "tsc_khz")], capture_output=True, text=True, check=True).stdout
    )
