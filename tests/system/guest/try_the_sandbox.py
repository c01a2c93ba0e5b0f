"""Tries, as a service would, what a sandbox should forbid or allow; prints one line of JSON: what each attempt gave."""

import errno
import json
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable

LED = "/sys/devices/platform/leds/leds/edge-siamese/brightness"
CLONE_NEWUSER = 0x10000000


def write(path: str) -> None:
    with open(path, "w") as file:
        file.write("1")


def executable_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def callback() -> None:
    import ctypes

    ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)()


def open_socket(family: int, kind: int = socket.SOCK_DGRAM) -> None:
    socket.socket(family, kind).close()


def examine() -> None:
    """As the dashboard does."""
    command = ["/opt/edge-siamese/current/bin/edge-siamese", "doctor", "--json"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    checks = [found["check"] for found in json.loads(said.stdout)["findings"]]
    if "model" not in checks or "integrations" not in checks:
        raise OSError(errno.EPROTO, "the examination is not whole")


def unshare() -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def set_user_id_bit() -> None:
    path = os.path.join(os.environ["STATE_DIRECTORY"], "suid")
    write(path)
    try:
        os.chmod(path, 0o4755)
    finally:
        os.unlink(path)


ATTEMPTS: dict[str, Callable[[], object]] = {
    "write its state": lambda: write(os.path.join(os.environ["STATE_DIRECTORY"], "probe")),
    "write its run": lambda: write(os.path.join(os.environ["RUNTIME_DIRECTORY"], "probe")),
    "read its settings": lambda: open("/etc/edge-siamese/config.toml").close(),
    "write its settings": lambda: write("/etc/edge-siamese/config.toml"),
    "write /etc": lambda: write("/etc/probe"),
    "write /usr": lambda: write("/usr/probe"),
    "write the program": lambda: write("/opt/edge-siamese/current/probe"),
    "see homes": lambda: os.listdir("/root"),
    "light the LED": lambda: write(LED),
    "set another file of /sys": lambda: write("/sys/devices/platform/other"),
    "set /proc/sys": lambda: write("/proc/sys/kernel/core_pattern"),
    "executable memory": executable_memory,
    "a C callback": callback,
    "a user namespace": unshare,
    "a set-user-id file": set_user_id_bit,
    "become root": lambda: os.setuid(0),
    "raise its priority": lambda: os.nice(-5),
    "lower its priority": lambda: os.nice(5),
    "examine itself": examine,
    "an internet socket": lambda: open_socket(socket.AF_INET),
    "a netlink socket": lambda: open_socket(socket.AF_NETLINK),
    "a packet socket": lambda: open_socket(socket.AF_PACKET),
    "a host name": lambda: socket.sethostname("probe"),
}


def outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "done"


if __name__ == "__main__":
    print(json.dumps({name: outcome(attempt) for name, attempt in ATTEMPTS.items()}))
    sys.exit(0)
