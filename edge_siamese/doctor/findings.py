"""Findings of the doctor, and the context of its checks: settings, board, account and the daemon's status."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_siamese.daemon.client import NOT_RUNNING
from edge_siamese.settings import Settings
from edge_siamese.system.board import Board, Run

SERVICE = "edge-siamese"
"""The name of the systemd unit and of its account."""

RUN_AS_ROOT = "run it as root: sudo edge-siamese doctor"

Level = Literal["ok", "warning", "error", "unknown"]
"""`error`: nothing can be recognized. `unknown`: the check was not possible."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    level: Level
    text: str
    """Description of the problem, or of what works."""
    remedy: str = ""
    """A command or an instruction; empty if there is nothing to do."""


@dataclass(frozen=True)
class Account:
    """The account that the daemon runs as."""

    name: str
    uid: int
    groups: frozenset[int]
    """Numbers of all its groups, including the primary one."""

    @property
    def is_service(self) -> bool:
        """Whether it is the service's account."""
        return self.name == SERVICE

    def may(self, path: Path, *, read: bool = True, write: bool = True) -> bool:
        """Return whether the permissions of a file grant this access.

        Raises:
            OSError: there is no such file.
        """
        return self._has_access(path, (os.R_OK if read else 0) | (os.W_OK if write else 0))

    def may_reach(self, path: Path) -> bool:
        """Return whether the permissions of all parent directories let this account reach a file.

        Raises:
            OSError: one of them cannot be examined.
        """
        target = Path(os.path.realpath(path))
        parents = {*path.absolute().parents, *target.parents}
        return all(self._has_access(directory, os.X_OK) for directory in sorted(parents))

    def _has_access(self, path: Path, mode: int) -> bool:
        """Whether the account has access, for the bits `mode` of access(2), which are those for others in a file's mode."""
        status = path.stat()
        if self.uid == 0:
            return True
        if self.uid == os.geteuid() and os.access(path, mode):
            return True  # through an access control list, as desktops grant one to the logged-in user
        shift = 6 if status.st_uid == self.uid else 3 if status.st_gid in self.groups else 0
        return status.st_mode >> shift & mode == mode


@dataclass(frozen=True)
class Context:
    """The input of the checks."""

    settings: Settings
    board: Board
    account: Account
    root: Path
    """Root of the file system."""
    run: Run
    """Runs a command."""
    daemon: dict[str, Any] | None
    """The daemon's `status`; None if it does not answer."""
    unreachable: str
    """Why the daemon does not answer; empty if it does."""
    config: Path | None = None
    """The settings file; None if there is none."""

    @property
    def daemon_may_run(self) -> bool:
        """Whether a daemon may be using camera and panel, even if it does not answer this user."""
        return self.daemon is not None or not self.unreachable.startswith(NOT_RUNNING)


OTHER_USERS = Account("other users", -1, frozenset())
"""An account that owns nothing and is in no group."""


def service_account() -> Account:
    """Return the service's account if there is one, otherwise the account of this process."""
    try:
        entry = pwd.getpwnam(SERVICE)
    except KeyError:
        return Account(_user_name(os.geteuid()), os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))
    return Account(entry.pw_name, entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def group_name(number: int) -> str:
    """Return the name of a group, or its number if it has no name."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
