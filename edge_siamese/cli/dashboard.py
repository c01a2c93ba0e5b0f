"""Commands that print the dashboard's URL and manage its password and API tokens. They need no running daemon."""

from __future__ import annotations

import argparse
import getpass
import sys

from edge_siamese.cli.output import print_json, print_table
from edge_siamese.dashboard.credentials import CredentialsFile, generated_password
from edge_siamese.errors import SettingsError
from edge_siamese.settings import load_settings


def address(options: argparse.Namespace) -> int:
    """Print the dashboard's URL."""
    settings = load_settings(options.config).dashboard
    try:
        credentials = _file(options).current()
    except SettingsError:  # usually for lack of permission; the URL is no secret
        credentials = None
    if options.json:
        print_json(
            {
                "url": settings.url,
                "enabled": settings.enabled,
                "password": None if credentials is None else credentials.password is not None,
                "tokens": None if credentials is None else len(credentials.tokens),
            }
        )
        return 0
    print(settings.url)
    if not settings.enabled:
        print("the dashboard is off; set enabled = true in [dashboard] of the settings", file=sys.stderr)
    return 0


def password(options: argparse.Namespace) -> int:
    """Set the password."""
    if options.generate:
        new = generated_password()
    elif options.stdin:
        new = sys.stdin.readline().rstrip("\r\n")
    else:
        new = _prompt_for_password()
    _file(options).set_password(new)
    if options.json:
        print_json({"password": new} if options.generate else {})
    elif options.generate:
        print(f"new password of the dashboard: {new} (shown only once)")
        settings = load_settings(options.config).dashboard
        if settings.enabled:
            print(f"log in at {settings.url}")
    else:
        print("password set; all sessions have ended")
    return 0


def token(options: argparse.Namespace) -> int:
    """Create an API token and print it."""
    secret = _file(options).add_token(options.name)
    if options.json:
        print_json({"name": options.name, "token": secret})
        return 0
    print(secret)
    print("shown only once; send it as  Authorization: Bearer …", file=sys.stderr)
    return 0


def tokens(options: argparse.Namespace) -> int:
    """List API tokens."""
    known = _file(options).current().tokens
    if options.json:
        print_json([{"name": token.name, "created": token.created} for token in known])
    elif not known:
        print("no tokens; create one with: sudo edge-siamese dashboard token NAME")
    else:
        rows = [(token.name, token.created[:16].replace("T", " ")) for token in known]
        print_table(("name", "created"), rows)
    return 0


def revoke(options: argparse.Namespace) -> int:
    """Revoke an API token."""
    _file(options).revoke(options.name)
    if options.json:
        print_json({"revoked": options.name})
    else:
        print(f'token "{options.name}" revoked')
    return 0


def _file(options: argparse.Namespace) -> CredentialsFile:
    return CredentialsFile(load_settings(options.config).state_directory)


def _prompt_for_password() -> str:
    if not sys.stdin.isatty():
        raise SettingsError(
            "no terminal to prompt on; use --stdin to read the password, or --generate to create one"
        )
    first = getpass.getpass("New password: ")
    if getpass.getpass("Repeat password: ") != first:
        raise SettingsError("the passwords differ; nothing was changed")
    return first
