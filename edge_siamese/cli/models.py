"""Commands on the models: install one, list them with those that are shipped, go back."""

from __future__ import annotations

import argparse

from edge_siamese.cli.output import print_json, print_table
from edge_siamese.daemon.client import NOT_RUNNING, request
from edge_siamese.daemon.model_loader import load_tested_encoder
from edge_siamese.errors import ControlError
from edge_siamese.models import described, names, resolve, shipped
from edge_siamese.models.bundle import Bundle
from edge_siamese.models.installed import InstalledModel, InstalledModels
from edge_siamese.settings import Settings, load_settings


def install(options: argparse.Namespace) -> int:
    """Copy a bundle, let it prove itself here, make it current, and let a running daemon take it."""
    settings = load_settings(options.config)

    def check(bundle: Bundle) -> None:
        encoder = load_tested_encoder(bundle, settings)
        if not options.json:
            print(f"{bundle.manifest.model_id} passed its self-test, {encoder.precision}: {encoder.reason}")

    model = InstalledModels(settings.models).install(resolve(options.bundle), check)
    return _told(options, settings, model, f"{model.name} is current now")


def rollback(options: argparse.Namespace) -> int:
    """Make the previous model current."""
    settings = load_settings(options.config)
    model = InstalledModels(settings.models).rollback()
    return _told(options, settings, model, f"{model.name} is current again")


def list_(options: argparse.Namespace) -> int:
    """The installed models, and those that are shipped."""
    settings = load_settings(options.config)
    models, given = InstalledModels(settings.models), settings.model.bundle
    installed = models.all()
    found = [*installed, *(InstalledModel(name, shipped(name), "shipped") for name in names())]
    if options.json:
        used = models.used(given)
        print_json(
            [
                {
                    "name": item.name,
                    "role": item.role,
                    "path": str(item.path),
                    "problem": item.problem,
                    "used": item.path == used,
                }
                for item in found
            ]
        )
        return 0
    if found:
        print_table(("model", "role", "problem"), [(item.name, item.role, item.problem) for item in found])
    if given:
        print(f"the settings name {given}, which is used")
    elif not installed:
        used = models.used()
        what = f"{described(used)}, is used" if used else "install one: edge-siamese model install BUNDLE"
        print(f"no model is installed; {what}")
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
