"""Stops the main thread of a process for good, while its other threads go on: python3 hang_main_thread.py PID."""

import ctypes
import os
import sys
import time

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207


def main(pid: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    libc.ptrace.restype = ctypes.c_long
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, pid, None, None) != 0:
            raise OSError(ctypes.get_errno(), f"ptrace {request:#x}: {os.strerror(ctypes.get_errno())}")
    print("hangs", flush=True)
    while os.path.exists(f"/proc/{pid}/task/{pid}"):
        # A stopped thread that has died is a zombie until the one who stopped it has seen that.
        os.waitpid(pid, os.WNOHANG | 0x40000000)
        time.sleep(0.05)
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
