"""Commands on the installed models: install one, list them, go back."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_siamese.bundle import Bundle
from edge_siamese.commands.printing import print_json, print_table
from edge_siamese.daemon.bringing import proven_encoder
from edge_siamese.daemon.client import NOT_RUNNING, request
from edge_siamese.daemon.settings import Settings, load_settings
from edge_siamese.errors import ControlError
from edge_siamese.installed import InstalledModel, InstalledModels


def install(options: argparse.Namespace) -> int:
    """Copy a bundle, let it prove itself here, make it current, and let a running daemon take it."""
    settings = load_settings(options.config)

    def check(bundle: Bundle) -> None:
        encoder = proven_encoder(bundle, settings)
        if not options.json:
            print(f"{bundle.manifest.model_id} passed its self-test, {encoder.precision}: {encoder.reason}")

    model = InstalledModels(settings.models).install(Path(options.bundle), check)
    return _told(options, settings, model, f"{model.name} is current now")


def rollback(options: argparse.Namespace) -> int:
    """Make the previous model current."""
    settings = load_settings(options.config)
    model = InstalledModels(settings.models).rollback()
    return _told(options, settings, model, f"{model.name} is current again")


def list_(options: argparse.Namespace) -> int:
    """The installed models."""
    settings = load_settings(options.config)
    found = InstalledModels(settings.models).all()
    if options.json:
        print_json(
            [
                {"name": item.name, "role": item.role, "path": str(item.path), "problem": item.problem}
                for item in found
            ]
        )
    elif not found:
        print("no model is installed; install one: edge-siamese model install BUNDLE")
    else:
        print_table(("model", "role", "problem"), [(item.name, item.role, item.problem) for item in found])
    return 0


def _told(options: argparse.Namespace, settings: Settings, model: InstalledModel, text: str) -> int:
    running, told = True, "the daemon takes it"
    try:
        request(settings.socket, "reload")
    except ControlError as error:
        running = False
        gone = str(error).startswith(NOT_RUNNING)
        told = NOT_RUNNING if gone else f"the daemon could not be told: {error}"
    if settings.model.bundle:
        told += f"; but the settings name {settings.model.bundle}, which is used instead"
    if options.json:
        print_json({"name": model.name, "path": str(model.path), "daemon": running})
    else:
        print(f"{text}; {told}")
    return 0
