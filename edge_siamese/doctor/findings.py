"""What an examination is made of: the machine that is looked at, and what is found there."""

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
"""The name of the unit, and of the account that it runs as."""

SUDO = "look again as root: sudo edge-siamese doctor"

Level = Literal["ok", "warning", "error", "unknown"]
"""`error`: it cannot recognize like this. `unknown`: it could not be found out."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    level: Level
    text: str
    remedy: str = ""
    """A command, or something to do; empty if there is nothing to do."""


@dataclass(frozen=True)
class Account:
    """Whom the daemon runs as."""

    name: str
    uid: int
    groups: frozenset[int]
    """Of all its groups, the first one included."""

    @property
    def is_service(self) -> bool:
        """Whether it is the account of the service, and not a person's."""
        return self.name == SERVICE

    def may(self, path: Path, *, read: bool = True, write: bool = True) -> bool:
        """Whether the permissions of a file let this account do so.

        Raises:
            OSError: there is no such file.
        """
        return self._is_let(path, (os.R_OK if read else 0) | (os.W_OK if write else 0))

    def may_reach(self, path: Path) -> bool:
        """Whether the permissions of the directories above a file let this account come to it.

        Raises:
            OSError: one of them cannot be looked at.
        """
        above = {*path.absolute().parents, *path.resolve().parents}  # of a link, and of what it leads to
        return all(self._is_let(directory, os.X_OK) for directory in sorted(above))

    def _is_let(self, path: Path, wanted: int) -> bool:
        """Read, write and enter are the bits of access(2), which are those of others in a file's mode."""
        state = path.stat()
        if self.uid == 0:
            return True
        if self.uid == os.geteuid() and os.access(path, wanted):
            return True  # by an access list, as desktops give one to who sits there
        shift = 6 if state.st_uid == self.uid else 3 if state.st_gid in self.groups else 0
        return state.st_mode >> shift & wanted == wanted


@dataclass(frozen=True)
class Scene:
    """What is looked at."""

    settings: Settings
    board: Board
    account: Account
    root: Path
    """Of the file system."""
    run: Run
    """Runs a command."""
    daemon: dict[str, Any] | None
    """The daemon's answer to `status`; None if it does not answer."""
    silence: str
    """Why it does not; empty if it does."""

    @property
    def daemon_may_run(self) -> bool:
        """Whether a daemon may have camera and panel now, even if it does not answer this user."""
        return self.daemon is not None or not self.silence.startswith(NOT_RUNNING)


def service_account() -> Account:
    """The service's account if there is one, else the one of this process."""
    try:
        entry = pwd.getpwnam(SERVICE)
    except KeyError:
        return Account(_user_name(os.geteuid()), os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))
    return Account(entry.pw_name, entry.pw_uid, frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid)))


def group_name(number: int) -> str:
    """Of a group; its number if it has none."""
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _user_name(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
