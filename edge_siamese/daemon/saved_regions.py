"""The regions that were drawn in the dashboard: a file in the state directory, in the format of the settings.

The settings are in a file that the daemon must not change, and whose comments and order belong to the user. So what is drawn
is kept apart, and used as long as the settings have no `[[regions]]`.
"""

from __future__ import annotations

import os
from pathlib import Path

from msgspec import structs

from edge_siamese.errors import SettingsError, StoreError
from edge_siamese.settings import RecognitionSettings, RegionSettings, require_regions
from edge_siamese.settings_file import load_settings
from edge_siamese.system.files import write_text_atomically
from edge_siamese.validation import SchemaError

FILE_NAME = "regions.toml"
HEADER = """\
# Regions that were drawn in the dashboard. They are used as long as config.toml has no [[regions]].
# To keep them in config.toml instead, copy the lines below to it.
"""


class SavedRegions:
    """The file with the regions of a state directory."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME

    def load(self, recognition: RecognitionSettings) -> tuple[RegionSettings, ...]:
        """Read the regions; none if there is no file.

        Args:
            recognition: the table `[recognition]` of the settings.

        Raises:
            SettingsError: the file cannot be read, or has other contents.
        """
        if not os.path.lexists(self.path):
            return ()
        regions = load_settings(self.path).regions
        try:
            require_regions(regions, recognition)
        except SchemaError as error:
            raise SettingsError(f"{self.path}: {error}") from error
        return regions

    def save(self, regions: tuple[RegionSettings, ...]) -> None:
        """Replace the regions; raises `StoreError` if the file cannot be written."""
        try:
            write_text_atomically(self.path, HEADER + to_toml(regions))
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(f"the regions cannot be saved in {self.path}: {reason}") from error


def to_toml(regions: tuple[RegionSettings, ...]) -> str:
    """The tables `[[regions]]` as TOML."""
    lines: list[str] = []
    for region in regions:
        lines += ["", "[[regions]]"]
        for name, value in structs.asdict(region).items():
            if isinstance(value, tuple):
                lines.append(f"{name} = [{', '.join(map(repr, value))}]")
            elif value is not None:  # names have no quotes
                lines.append(f'{name} = "{value}"' if isinstance(value, str) else f"{name} = {value!r}")
    return "".join(f"{line}\n" for line in lines)
