"""Commands that print the dashboard's URL and manage its password and API tokens. They need no running daemon."""

from __future__ import annotations

import argparse
import getpass
import sys

from edge_siamese.cli.output import print_json, print_table
from edge_siamese.daemon.client import Installation, find_installation, request
from edge_siamese.dashboard.credentials import CredentialsFile, generated_password
from edge_siamese.errors import SettingsError


def address(options: argparse.Namespace) -> int:
    """Print the dashboard's URL; returns 1 if it is off."""
    installation = find_installation(options.config)
    settings = installation.settings.dashboard
    try:
        credentials = CredentialsFile(installation.settings.state_directory).current()
    except SettingsError:  # usually for lack of permission; the URL is no secret
        credentials = None
    problem = _problem(installation)
    if options.json:
        print_json(
            {
                "url": settings.url,
                "enabled": settings.enabled,
                "problem": problem,
                "password": None if credentials is None else credentials.password is not None,
                "tokens": None if credentials is None else len(credentials.tokens),
            }
        )
    elif settings.enabled:
        print(settings.url)
    if problem and not options.json:
        print(problem, file=sys.stderr)
    return 0 if settings.enabled else 1


def _problem(installation: Installation) -> str:
    """Why nothing answers at the URL, or will not be there after a reload; empty if all is well."""
    if not installation.settings.dashboard.enabled:
        where = installation.file or "the settings"
        off = f"the dashboard is off; set enabled = true in [dashboard] of {where}"
        return f"the dashboard is off; {installation.difference}" if installation.difference else off
    if not installation.running:
        return installation.unreachable
    report = request(installation.settings.socket, "status")["integrations"].get("dashboard", {})
    return installation.difference if report.get("works") else f"it does not work: {report.get('state', '')}"


def password(options: argparse.Namespace) -> int:
    """Set the password."""
    if options.generate:
        new = generated_password()
    elif options.stdin:
        new = _read_password()
    else:
        new = _prompt_for_password()
    _file(options).set_password(new)
    if options.json:
        print_json({"password": new} if options.generate else {})
    elif options.generate:
        print(f"new password of the dashboard: {new} (shown only once)")
        settings = find_installation(options.config).settings.dashboard
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
    return CredentialsFile(find_installation(options.config).settings.state_directory)


def _prompt_for_password() -> str:
    if sys.stdin is None or not sys.stdin.isatty():
        raise SettingsError(
            "no terminal to prompt on; use --stdin to read the password, or --generate to create one"
        )
    try:
        first = getpass.getpass("New password: ")
        if getpass.getpass("Repeat password: ") != first:
            raise SettingsError("the passwords differ; nothing was changed")
    except EOFError:
        raise SettingsError("the input ended; nothing was changed") from None
    return first


def _read_password() -> str:
    try:
        return "" if sys.stdin is None else sys.stdin.readline().rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingsError("the password on standard input is not text in the locale's encoding") from None
