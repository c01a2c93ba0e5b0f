"""Runs a function in a child process without privileges, with limits on memory, time, files, processes and network.

Meant for untrusted files, which can crash the libraries that read them. The function is a generator. Its part before the
`yield` imports libraries, with the privileges of this program; the part after it runs confined:

- another account (`nobody`) and no groups if this program is root; no new privileges in any case;
- limits on memory, CPU time, elapsed time, file size and open files;
- a system call filter on x86-64 and arm64: no sockets, new processes, programs or signals, and no writing to files.

The child may read what its account may read. Where the kernel has no system call filters, such as in an emulator, the
other measures remain.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import pwd
import resource
import selectors
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import IO, Any

from edge_siamese.errors import EdgeSiameseError, SandboxError, error_of_kind, first_line
from edge_siamese.system.command import signal_name
from edge_siamese.validation import SchemaError, parse_json

MIB = 1 << 20
MAX_MEMORY_BYTES, MIN_MEMORY_BYTES = 1024 * MIB, 128 * MIB
"""The memory limit is a third of the machine's memory, within these bounds."""
MAX_REPLY_BYTES = 1 * MIB
MAX_ERROR_BYTES = 4096
"""Bytes of standard error that are kept."""
MAX_OPEN_FILES = 128

# Variables that the interpreter, libraries and this program read; others may be secret.
_ENVIRONMENT = ("PATH", "LANG", "TZ", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX")
_ENVIRONMENT_PREFIXES = ("LC_", "PYTHON", "OPENBLAS_", "OMP_", "MKL_", "QEMU_")

Steps = Generator[str, None, Any]
"""Return type of a confined function: a generator that yields once, a name for messages, and returns JSON values."""


@dataclass(frozen=True)
class Limits:
    """Limits of a child process."""

    memory_bytes: int = 0
    """Memory that it may allocate in addition to the imported libraries; 0: a third of the machine's."""
    processor_seconds: int = 120
    """CPU time of all threads, not counting the imports."""
    seconds: float = 300.0
    """Elapsed time, including the imports."""


class ConfinedChild:
    """A confined child process that runs one function."""

    def __init__(self, target: str, limits: Limits = Limits(), **arguments: Any) -> None:
        """Start the child; `close` must be called at the end.

        Args:
            target: MODULE:FUNCTION; see `Steps`.
            limits: limits of the child.
            arguments: arguments of the function, JSON values.

        Raises:
            SandboxError: the child cannot be started.
        """
        self.stage = ""
        """The name that the function yielded; empty before it was confined."""
        self._limits = limits
        self._deadline = time.monotonic() + limits.seconds
        self._timed_out = False
        self._reply, self._errors = bytearray(), bytearray()
        self._status: int | None = None
        request = json.dumps({"target": target, "limits": asdict(limits), "arguments": arguments})
        reading, writing = os.pipe()
        self._pipe = os.fdopen(reading, "rb", buffering=0)
        try:
            # -P and the working directory: no module is imported from where the user happens to be.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(writing)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(writing,),
                cwd="/",
                env=_environment(os.environ),
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            self._pipe.close()
            raise SandboxError(
                f"a child process cannot be started: {error.strerror or error}", "does not start"
            ) from error
        finally:
            os.close(writing)
        assert self._process.stdin is not None and self._process.stderr is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(request.encode())
        self._process.stdin.close()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._pipe, selectors.EVENT_READ, (self._reply, MAX_REPLY_BYTES))
        self._selector.register(self._process.stderr, selectors.EVENT_READ, (self._errors, MAX_ERROR_BYTES))

    def poll(self, seconds: float = 0.0) -> bool:
        """Wait up to `seconds` for output of the child; return whether it has ended."""
        if self._status is not None:
            return True
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            self._timed_out = True
            self._end()
            return True
        for key, _ in self._selector.select(min(seconds, remaining)):
            received, limit = key.data
            data = os.read(key.fd, 65536)
            if not data:
                self._selector.unregister(key.fileobj)
            # More is read and dropped, so that the child does not wait forever.
            received += data[: max(0, limit - len(received))]
        self._read_stage()
        if not self._selector.get_map():
            self._end(wait=True)
        return self._status is not None

    def result(self) -> Any:
        """Return the function's result, JSON values, once `poll` has returned True.

        Raises:
            SandboxError: the child crashed or exceeded a limit.
            EdgeSiameseError: the function's error, of the same class as in the child.
        """
        lines = self._reply.split(b"\n")
        try:
            answer = parse_json(bytes(lines[1])) if len(lines) > 2 else None
        except SchemaError:
            answer = None
        if isinstance(answer, dict) and "result" in answer:
            return answer["result"]
        if isinstance(answer, dict) and "error" in answer:
            raise error_of_kind(answer.get("kind"), str(answer["error"]), SandboxError)
        reason = self._reason()
        raise SandboxError(f"{self.stage or 'the child process'}: {reason}", reason)

    def close(self) -> None:
        """End the child and its process group."""
        self._end()
        self._selector.close()
        for file in (self._pipe, self._process.stderr):
            if file is not None:
                file.close()

    def _read_stage(self) -> None:
        if not self.stage and b"\n" in self._reply:
            with suppress(SchemaError):
                self.stage = str(parse_json(bytes(self._reply.split(b"\n", 1)[0])))

    def _end(self, wait: bool = False) -> None:
        """Collect the child's exit status; it is killed unless it has closed its pipes and ends by itself."""
        if self._status is not None:
            return
        if wait:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, min(5.0, self._deadline - time.monotonic())))
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._status = self._process.wait()

    def _reason(self) -> str:
        """Return why there is no result."""
        status = self._status or 0
        if self._timed_out:
            return f"no result within {self._limits.seconds:g} s"
        if -status == signal.SIGXCPU:
            return f"takes more than {self._limits.processor_seconds} s of processor time"
        if -status == signal.SIGKILL:
            return "SIGKILL, perhaps because memory ran out"
        if status < 0:
            return signal_name(-status)
        last = self._errors.decode("utf-8", "replace").strip().splitlines()
        return f"ended with status {status}" + (f": {last[-1][:200]}" if last else "")


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in environment.items()
        if name in _ENVIRONMENT or name.startswith(_ENVIRONMENT_PREFIXES)
    }
    root = str(Path(__file__).resolve().parents[2])
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, (root, kept.get("PYTHONPATH", ""))))}


# --- in the child ---


def _main() -> None:
    """Run the function that standard input names, and write name and result to the pipe."""
    pipe = os.fdopen(int(sys.argv[1]), "wb", buffering=0)
    request = json.loads(sys.stdin.buffer.read())
    sys.stdin.close()
    limits = Limits(**request["limits"])
    try:
        steps: Steps = resolve_name(request["target"])(**request["arguments"])
        name = next(steps)
    except EdgeSiameseError as error:
        _write(pipe, "")
        _write(pipe, _error(error))
        return
    _write(pipe, name)
    _confine(limits)
    _write(pipe, _finish(steps))


def _finish(steps: Steps) -> dict[str, Any]:
    """Return the result or the error of the confined part."""
    try:
        next(steps)
    except StopIteration as done:
        return {"result": done.value}
    except EdgeSiameseError as error:
        return _error(error)
    except MemoryError:
        return _error(SandboxError("it exceeded its memory limit"))
    except Exception as error:
        return _error(SandboxError(f"unexpected {type(error).__name__}: {first_line(error)}"))
    raise RuntimeError("a confined function yields once")


def _error(error: EdgeSiameseError) -> dict[str, Any]:
    return {"error": str(error), "kind": type(error).__name__}


def _write(pipe: IO[bytes], value: Any) -> None:
    data = json.dumps(value).encode() + b"\n"
    while data:
        data = data[pipe.write(data) :]


def _confine(limits: Limits) -> None:
    """Drop all privileges that the rest does not need; each step takes away rights that the steps before it need."""
    with suppress(OSError):  # killed first when memory runs out
        Path("/proc/self/oom_score_adj").write_text("1000")
    used = resource.getrusage(resource.RUSAGE_SELF)
    spent = int(used.ru_utime + used.ru_stime) + 1
    memory = limits.memory_bytes or _memory_share()
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_OPEN_FILES),
        (resource.RLIMIT_CPU, spent + limits.processor_seconds),
        (resource.RLIMIT_AS, _allocated("VmSize") + memory),
        (resource.RLIMIT_DATA, _allocated("VmData") + memory),
    ):
        _lower(kind, limit)
    if os.geteuid() == 0:
        _become_nobody()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)  # changing the account resets it
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _filter_system_calls(libc)


def _memory_share() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(MIN_MEMORY_BYTES, min(MAX_MEMORY_BYTES, total // 3))


def _allocated(field: str) -> int:
    """Return a size of this process, such as `VmData`, in bytes; a generous guess if the kernel does not report it."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return 2048 * MIB


def _lower(kind: int, limit: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    # The signal of the soft limit of processor time says what happened; the hard limit kills.
    resource.setrlimit(kind, (limit, limit + 5 if kind == resource.RLIMIT_CPU and limit != hard else limit))


def _become_nobody() -> None:
    """Change to the account `nobody`; root in a container without other accounts stays root."""
    try:
        entry = pwd.getpwnam("nobody")
        user, group = entry.pw_uid, entry.pw_gid
    except KeyError:
        user = group = 65534
    try:
        os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EINVAL):
            raise


_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 1, 38, 22, 2

_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# Numbers of system calls on x86-64 and arm64; None where the call does not exist.
_REFUSED: tuple[tuple[int | None, int | None], ...] = (
    *((41, 198), (53, 199), (425, 425)),  # socket, socketpair, io_uring_setup
    *((57, None), (58, None), (59, 221), (322, 281)),  # fork, vfork, execve, execveat
    *(
        (62, 129),
        (200, 130),
        (129, 138),
        (297, 240),
        (424, 424),
    ),  # kill, tkill, rt_(tg)sigqueueinfo, pidfd_send_signal
    *(
        (101, 117),
        (310, 270),
        (311, 271),
        (438, 438),
    ),  # ptrace, process_vm_readv, process_vm_writev, pidfd_getfd
    *((85, None), (76, 45), (77, 46)),  # creat, truncate, ftruncate
    *(
        (87, None),
        (263, 35),
        (84, None),
        (82, None),
        (264, 38),
        (316, 276),
    ),  # unlink(at), rmdir, rename(at, at2)
    *((86, None), (265, 37), (88, None), (266, 36)),  # link(at), symlink(at)
    *((83, None), (258, 34), (133, None), (259, 33)),  # mkdir(at), mknod(at)
    *((90, None), (91, 52), (268, 53), (452, 452)),  # chmod, fchmod, fchmodat, fchmodat2
    *((92, None), (94, None), (93, 55), (260, 54)),  # chown, lchown, fchown, fchownat
    *((188, 5), (189, 6), (190, 7)),  # (l, f)setxattr
    *((132, None), (235, None), (261, None), (280, 88)),  # utime, utimes, futimesat, utimensat
)
_MISSING = (
    (435, 435),
    (437, 437),
)  # clone3, openat2: a filter cannot read their flags; libraries fall back to older calls
_CLONE = (56, 220)
_OPEN, _OPENAT = (2, None), (257, 56)
_CLONE_THREAD = 0x10000
_CHANGES = os.O_RDWR | os.O_CREAT | os.O_TRUNC

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def _filter_system_calls(libc: ctypes.CDLL) -> bool:
    """Refuse the system calls above; return False if the kernel or the architecture has no filter."""
    machine = platform.machine()
    if machine not in _ARCHITECTURES or struct.calcsize("P") != 8:  # 32-bit programs use other numbers
        return False
    code = b"".join(struct.pack("=HBBI", *step) for step in _filter_program(machine))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))

    program = Program(len(code) // 8, code)
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) == 0)


def _filter_program(machine: str) -> list[tuple[int, int, int, int]]:
    """Instructions of a BPF program: operation, jump if true, jump if false, operand."""
    column = tuple(_ARCHITECTURES).index(machine)
    refuse = _RETURN, 0, 0, _ERRNO | errno.EPERM
    allow = _RETURN, 0, 0, _ALLOW
    program = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, 0, 1, 0x40000000),  # a second set of numbers on x86
        refuse,
    ]
    for calls, answer in ((_REFUSED, refuse), (_MISSING, (_RETURN, 0, 0, _ERRNO | errno.ENOSYS))):
        for call in calls:
            if (number := call[column]) is not None:
                program += [(_EQUAL, 0, 1, number), answer]
    for call, argument, bits, answers in (
        (_CLONE, 0, _CLONE_THREAD, (allow, refuse)),
        (_OPEN, 1, _CHANGES, (refuse, allow)),
        (_OPENAT, 2, _CHANGES, (refuse, allow)),
    ):
        if (number := call[column]) is not None:
            program += [
                (_EQUAL, 0, 4, number),
                (_LOAD, 0, 0, 16 + 8 * argument),  # its lower half
                (_ANY_BIT, 0, 1, bits),
                *answers,
            ]
    return [*program, allow]


if __name__ == "__main__":
    _main()
