"""Commands on the dashboard: where it is, and who may use it. They need no running daemon, which reads what they write."""

from __future__ import annotations

import argparse
import getpass
import sys

from edge_siamese.cli.output import print_json, print_table
from edge_siamese.dashboard.address import address as where
from edge_siamese.dashboard.credentials import CredentialsFile, generated_password
from edge_siamese.errors import SettingsError
from edge_siamese.settings import load_settings


def address(options: argparse.Namespace) -> int:
    """Where people find it."""
    settings = load_settings(options.config)
    try:
        known = _file(options).current()
    except (
        SettingsError
    ):  # mostly since only root and the service may read it; the address is none of its secrets
        known = None
    told = {
        "url": where(settings.dashboard),
        "enabled": settings.dashboard.enabled,
        "password": None if known is None else known.password is not None,
        "tokens": None if known is None else len(known.tokens),
    }
    if options.json:
        print_json(told)
        return 0
    print(told["url"])
    if not settings.dashboard.enabled:
        print("it is off: enabled = true in [dashboard] of the settings turns it on", file=sys.stderr)
    return 0


def password(options: argparse.Namespace) -> int:
    """Set the password."""
    if options.generate:
        chosen = generated_password()
    elif options.stdin:
        chosen = sys.stdin.readline().rstrip("\r\n")
    else:
        chosen = _asked()
    _file(options).set_password(chosen)
    if options.json:
        print_json({"password": chosen} if options.generate else {})
    elif options.generate:
        print(f"password of the dashboard: {chosen} (told this once)")
        settings = load_settings(options.config).dashboard
        if settings.enabled:
            print(f"it is for {where(settings)}")
    else:
        print("the password is set; whoever was logged in has to log in again")
    return 0


def token(options: argparse.Namespace) -> int:
    """Make a token."""
    made = _file(options).add_token(options.name)
    if options.json:
        print_json({"name": options.name, "token": made})
        return 0
    print(made)
    print("it is shown this once; programs send it as  Authorization: Bearer …", file=sys.stderr)
    return 0


def tokens(options: argparse.Namespace) -> int:
    """Which there are."""
    known = _file(options).current().tokens
    if options.json:
        print_json([{"name": found.name, "created": found.created} for found in known])
    elif not known:
        print("there are no tokens; sudo edge-siamese dashboard token NAME makes one")
    else:
        print_table(("name", "made"), [(found.name, found.created[:16].replace("T", " ")) for found in known])
    return 0


def revoke(options: argparse.Namespace) -> int:
    """Make one worthless."""
    _file(options).revoke(options.name)
    print_json({"revoked": options.name}) if options.json else print(
        f'"{options.name}" opens nothing any more'
    )
    return 0


def _file(options: argparse.Namespace) -> CredentialsFile:
    return CredentialsFile(load_settings(options.config).state_directory)


def _asked() -> str:
    if not sys.stdin.isatty():
        raise SettingsError(
            "there is no terminal to ask at; --stdin reads the password, --generate makes one"
        )
    first = getpass.getpass("password: ")
    if getpass.getpass("once more: ") != first:
        raise SettingsError("those were two different ones; nothing was changed")
    return first
