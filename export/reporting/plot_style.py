"""The look of the report's figures, as inline SVG in the page's own colors and fonts.

matplotlib draws with a few placeholder colors; `inline` turns them into the page's CSS variables, so that
one drawing serves light and dark, and leaves text as text, so that it can be selected, searched and read out.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure

# Placeholders, each the fallback of a CSS variable where the page sets none.
INK, MUTED, GRID, SURFACE = "#1f2429", "#69727c", "#dfe3e7", "#fefefd"
OURS, GENUINE, IMPOSTOR = "#0b6bcb", "#0b6bcc", "#d1680a"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    SURFACE: "--surface",
    OURS: "--accent",
    GENUINE: "--genuine",
    IMPOSTOR: "--impostor",
}
WIDTH = 4.6
BEHIND_TEXT = {"facecolor": SURFACE, "edgecolor": "none", "pad": 1.5}
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "axes.titlesize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "xtick.minor.size": 0.0,
    "ytick.minor.size": 0.0,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Plot:
    """A figure for the page."""

    svg: str
    """An `<svg>` element."""
    alt: str
    """What it shows, for those who cannot see it."""


def inline(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element in the page's colors, with no id that another figure may have."""
    buffer = io.StringIO()
    metadata: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    used = set(re.findall(r"url\(#([^)]+)\)|href=\"#([^\"]+)\"", text))
    names = {part for pair in used for part in pair if part}
    text = re.sub(
        r' id="([^"]+)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in names else "", text
    )
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'href="#', f'href="#{name}-', text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable}, {color})")
    text = text.replace("'DejaVu Sans'", "var(--font, sans-serif)")
    return re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>',
        r'<svg class="plot" viewBox="\1" aria-hidden="true" focusable="false" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink">',
        text,
        count=1,
    ).strip()
