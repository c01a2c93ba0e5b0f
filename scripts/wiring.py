"""Generates docs/images/wiring.svg and led-codes.svg, and the table of LED signals in docs/device.md.

python scripts/wiring.py            write them
python scripts/wiring.py --check    exit with 1 if one is out of date
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from math import inf
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from edge_siamese.panel.led_signals import Signal, signal_table  # noqa: E402
from edge_siamese.settings import PanelSettings  # noqa: E402
from scripts.generated import write_or_check  # noqa: E402

GUIDE = ROOT / "docs" / "device.md"
BEGIN, END = "<!-- signals: made by scripts/wiring.py -->\n", "<!-- end of signals -->"

_THREE, _FIVE, _GROUND = "3.3 V", "5 V", "ground"
HEADER = (
    *(_THREE, _FIVE, 2, _FIVE, 3, _GROUND, 4, 14, _GROUND, 15, 17, 18, 27, _GROUND, 22, 23, _THREE, 24, 10),
    *(_GROUND, 9, 25, 11, 8, _GROUND, 7, 0, 1, 5, _GROUND, 6, 12, 13, _GROUND, 19, 16, 26, 20, _GROUND, 21),
)
"""Pins 1 to 40: a GPIO line or a supply, the same on all boards with 40 pins."""
BUTTON_GROUND, LED_GROUND = 9, 14
"""Ground pins in the picture: those next to the lines."""
RESISTOR = "330 Ω"

# Text, secondary text, lines; a white card behind them is readable on light and dark pages and in print.
INK, SOFT, FAINT, CARD, BOARD = "#1f2328", "#59636e", "#d1d9e0", "#ffffff", "#f3f5f7"
BLUE, ORANGE, AMBER = "#0b62c4", "#b85300", "#f2a900"
FONT = "font-family=\"-apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', Arial, sans-serif\""
SHOWN_SECONDS = 8.0
"""Length of each signal in the picture, in seconds."""


def main(arguments: list[str]) -> int:
    """Write what is out of date, or report it with --check."""
    return write_or_check(generated_files(), arguments, "scripts/wiring.py", ROOT)


def generated_files() -> dict[Path, str]:
    """Return path and text of every generated file."""
    images = ROOT / "docs" / "images"
    return {
        images / "wiring.svg": wiring(),
        images / "led-codes.svg": led_codes(),
        GUIDE: with_table(GUIDE.read_text(encoding="utf-8")),
    }


def with_table(text: str) -> str:
    """Return the guide with the table of signals between its markers; raises ValueError if they are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"docs/device.md has no {BEGIN.strip()} … {END}")
    return f"{before}{begin}{signal_table()}\n{end}{after}"


def pin_of(line: int) -> int:
    """Return the header's pin of a GPIO line; raises ValueError if it is not on the header."""
    return HEADER.index(line) + 1


# --- pieces ---


def text(x: float, y: float, content: str, size: float = 15, **more: str) -> str:
    attributes = {"fill": INK, **more}
    written = " ".join(f'{key.replace("_", "-")}="{value}"' for key, value in attributes.items())
    return f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" {written}>{escape(content)}</text>'


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none", **more: str) -> str:
    written = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" stroke="{stroke}"{written}/>'


def wire(points: str, color: str, width: float = 3.5, **more: str) -> str:
    written = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return (
        f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{width:g}"'
        f' stroke-linejoin="round" stroke-linecap="round"{written}/>'
    )


def shape(points: str, fill: str, **more: str) -> str:
    written = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return f'<polygon points="{points}" fill="{fill}"{written}/>'


def dot(x: float, y: float, radius: float, fill: str, stroke: str = "none", width: float = 0) -> str:
    return f'<circle cx="{x:g}" cy="{y:g}" r="{radius:g}" fill="{fill}" stroke="{stroke}" stroke-width="{width:g}"/>'


def picture(width: int, height: int, title: str, parts: list[str]) -> str:
    """Return an SVG file: the parts on a white card."""
    card = box(1, 1, width - 2, height - 2, CARD, FAINT, rx="12", stroke_width="1.5")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img" {FONT}>',
            f"<title>{escape(title)}</title>",
            card,
            *parts,
            "</svg>\n",
        ]
    )


# --- wiring ---

_ODD_X, _EVEN_X, _TOP, _PITCH = 430, 462, 92, 25


def place(pin: int) -> tuple[float, float]:
    """Return the center of a pin in the picture."""
    return (_ODD_X if pin % 2 else _EVEN_X), _TOP + (pin - 1) // 2 * _PITCH


def wiring() -> str:
    """Draw button and LED at the header, on the default lines of the settings."""
    settings = PanelSettings()
    button, led = pin_of(settings.button_line), pin_of(settings.led_line)
    used = {button, BUTTON_GROUND, led, LED_GROUND}
    parts = [
        *header(used),
        *button_at(button, settings.button_line),
        *led_at(led, settings.led_line),
        *board_inset(),
    ]
    title = f"A button between pins {button} and {BUTTON_GROUND}, an LED between pins {led} and {LED_GROUND}"
    return picture(900, 640, title, parts)


def header(used: set[int]) -> Iterator[str]:
    """Draw all 40 pins, the used ones filled."""
    yield box(
        _ODD_X - 20,
        _TOP - 22,
        _EVEN_X - _ODD_X + 40,
        19 * _PITCH + 44,
        BOARD,
        SOFT,
        rx="6",
        stroke_width="1.5",
    )
    for pin in range(1, 41):
        x, y = place(pin)
        if pin == 1:
            yield box(x - 9, y - 9, 18, 18, CARD, SOFT, stroke_width="1.5")
        if pin in used:
            yield dot(x, y, 10.5, INK)
            yield text(x, y + 4, str(pin), 11, fill=CARD, text_anchor="middle", font_weight="700")
        else:
            yield dot(x, y, 9, CARD if pin != 1 else "none", SOFT if pin != 1 else "none", 1.2)
            yield text(x, y + 3.5, str(pin), 9.5, fill=SOFT, text_anchor="middle")
    yield text(
        (_ODD_X + _EVEN_X) / 2, _TOP - 34, "40-pin header", 15, text_anchor="middle", font_weight="700"
    )


def button_at(pin: int, line: int) -> Iterator[str]:
    """Draw the button left of the header, between ground above and the line below."""
    (x, ground_y), (_, y) = place(BUTTON_GROUND), place(pin)
    left, upper, lower = 150, ground_y - 60, y + 60
    edge, bend, middle = x - 11, x - 70, (upper + lower) / 2
    yield wire(f"{edge},{ground_y} {bend},{ground_y} {bend},{upper} {left},{upper} {left},{middle - 20}", INK)
    yield wire(f"{edge},{y} {bend},{y} {bend},{lower} {left},{lower} {left},{middle + 20}", BLUE)
    for end in (middle - 20, middle + 20):
        yield dot(left, end, 5, CARD, INK, 2.5)
    yield wire(f"{left - 15},{middle - 22} {left - 15},{middle + 22}", INK, 4)
    yield wire(f"{left - 15},{middle} {left - 38},{middle}", INK, 3)
    yield wire(f"{left - 38},{middle - 11} {left - 38},{middle + 11}", INK, 5)
    yield text(left + 22, middle - 1, "push button", 16, font_weight="700")
    yield text(left + 22, middle + 18, "closes when pressed", 13, fill=SOFT)
    yield text(left + 8, upper - 12, f"ground, pin {BUTTON_GROUND}", 15, font_weight="600")
    yield text(left + 8, lower + 24, f"GPIO {line}, pin {pin}", 15, fill=BLUE, font_weight="600")
    yield text(left + 8, lower + 43, "pulled up inside: no resistor", 13, fill=SOFT)


def led_at(pin: int, line: int) -> Iterator[str]:
    """Draw the LED right of the header: from the line through resistor and LED to ground."""
    (x, y), (ground_x, ground_y) = place(pin), place(LED_GROUND)
    between = y + _PITCH / 2
    bend, right, upper, lower = ground_x + 62, 760, ground_y - 60, y + 85
    middle = (upper + lower) / 2
    yield wire(
        f"{ground_x + 11},{ground_y} {bend},{ground_y} {bend},{upper} {right},{upper} {right},{middle - 16}",
        INK,
    )
    yield wire(f"{x},{y} {x},{between} {bend},{between} {bend},{lower} {bend + 40},{lower}", ORANGE)
    yield dot(x, y, 10.5, INK)
    yield text(x, y + 4, str(pin), 11, fill=CARD, text_anchor="middle", font_weight="700")
    # The resistor is in the lower wire.
    yield box(bend + 40, lower - 13, 92, 26, CARD, INK, rx="3", stroke_width="2.5")
    yield text(bend + 86, lower + 5.5, RESISTOR, 15, text_anchor="middle", font_weight="700")
    yield wire(f"{bend + 132},{lower} {right},{lower} {right},{middle + 17}", ORANGE)
    # The LED: current flows upward, from the resistor to ground; the bar is on the side of ground.
    corners = f"{right - 19},{middle + 17} {right + 19},{middle + 17} {right},{middle - 15}"
    yield shape(corners, AMBER, stroke=INK, stroke_width="2.5", stroke_linejoin="round")
    yield wire(f"{right - 19},{middle - 16} {right + 19},{middle - 16}", INK, 4)
    for shift in (0, 13):
        ray = middle + shift
        yield wire(f"{right + 25},{ray - 4} {right + 43},{ray - 16}", INK, 2)
        yield shape(f"{right + 49},{ray - 20} {right + 44},{ray - 10} {right + 39},{ray - 18}", INK)
    yield text(right - 34, middle + 1, "LED", 16, font_weight="700", text_anchor="end")
    yield text(right + 14, upper + 34, "short leg", 13, fill=SOFT)
    yield text(right + 14, lower - 16, "long leg, +", 13, fill=SOFT)
    yield text(bend + 12, upper - 12, f"ground, pin {LED_GROUND}", 15, font_weight="600")
    yield text(bend + 40, lower + 36, f"GPIO {line}, pin {pin}", 15, fill=ORANGE, font_weight="600")
    yield text(bend + 40, lower + 55, f"about 4 mA through {RESISTOR}", 13, fill=SOFT)


def board_inset() -> Iterator[str]:
    """Draw where the header is on a board, where pin 1 is, and the warnings."""
    x, y, width, height = 92, 400, 118, 180
    yield box(x, y, width, height, BOARD, SOFT, rx="9", stroke_width="1.5")
    yield box(x + width - 22, y + 14, 14, 112, CARD, INK, rx="2", stroke_width="1.5")
    yield box(x + width - 20, y + 16, 5, 5, INK)
    yield box(x + 36, y - 5, 36, 12, CARD, SOFT, rx="2", stroke_width="1.2")
    yield text(x + 54, y - 13, "SD card", 13, fill=SOFT, text_anchor="middle")
    yield text(x + 46, y + 98, "the board", 13, fill=SOFT, text_anchor="middle")
    yield wire(f"{x + width + 6},{y + 18} {x + width + 26},{y + 18}", SOFT, 1.5)
    yield text(x + width + 31, y + 23, "pin 1: the square pad,", 13, fill=SOFT)
    yield text(x + width + 31, y + 40, "at the end of the SD card", 13, fill=SOFT)
    warning = (
        "Wire it with the supply unplugged.",
        "All lines work at 3.3 V. Pins 2 and 4 carry 5 V,",
        "which destroys a line that it touches.",
    )
    for number, line in enumerate(warning):
        yield text(536, y + 128 + number * 18, line, 13, fill=SOFT)


# --- signals ---

_LEFT, _WIDTH, _ROW, _BAR = 470, 480, 42, 20


def led_codes() -> str:
    """Draw the first seconds of each signal."""
    parts: list[str] = []
    y = 58
    groups = {
        "States": [s for s in Signal if s.pattern.continuous and not is_fault(s)],
        "Responses, shown once": [s for s in Signal if not s.pattern.continuous],
        "Faults, until they are fixed": [s for s in Signal if is_fault(s)],
    }
    for name, signals in groups.items():
        parts.append(text(24, y, name, 17, font_weight="700"))
        parts += scale(y, len(signals))
        y += 18
        for signal in signals:
            parts += row(signal, y)
            y += _ROW
        y += 46
    return picture(990, int(y - 22), "LED signals: the first eight seconds of each", parts)


def is_fault(signal: Signal) -> bool:
    return signal.name.startswith("FAULT") or signal is Signal.STUCK


def scale(y: float, rows: int) -> Iterator[str]:
    """Draw the seconds above the rows of a group, and thin lines through them."""
    for second in range(int(SHOWN_SECONDS) + 1):
        x = _LEFT + second * _WIDTH / SHOWN_SECONDS
        yield wire(f"{x:g},{y + 10} {x:g},{y + 14 + rows * _ROW}", FAINT, 1)
        yield text(
            x, y + 2, f"{second} s" if second == 0 else str(second), 12, fill=SOFT, text_anchor="middle"
        )


def row(signal: Signal, y: float) -> Iterator[str]:
    """Draw a signal's two lines of text, and its pattern."""
    yield text(24, y + 17, signal.appearance, 14.5, font_weight="600")
    meaning = signal.meaning.replace("`", "")
    yield text(24, y + 34, meaning, 12 if len(meaning) < 66 else 11, fill=SOFT)
    base = y + 10 + _BAR
    pattern = signal.pattern
    end = min(pattern.length, SHOWN_SECONDS)
    per_second = _WIDTH / SHOWN_SECONDS
    yield wire(f"{_LEFT},{base:g} {_LEFT + end * per_second:g},{base:g}", INK, 1.5)
    for begin, until in lit(signal):
        yield box(
            _LEFT + begin * per_second,
            base - _BAR,
            (until - begin) * per_second,
            _BAR,
            AMBER,
            INK,
            stroke_width="1",
        )
    if pattern.continuous:
        x: float = _LEFT + _WIDTH + 6
        yield shape(f"{x},{base - 5:g} {x + 9},{base:g} {x},{base + 5:g}", INK)
    else:
        x = _LEFT + end * per_second
        yield wire(f"{x:g},{base - 5:g} {x:g},{base + 5:g}", INK, 1.5)


def lit(signal: Signal) -> Iterator[tuple[float, float]]:
    """Yield (from, until) of each time that the LED is on, within the length of the picture."""
    pattern = signal.pattern
    now, begin = 0.0, None
    while now < SHOWN_SECONDS:
        on, change = pattern.at(now), pattern.next_change(now)
        if on and begin is None:
            begin = now
        if not on and begin is not None:
            yield begin, now
            begin = None
        if change == inf:
            break
        now = change
    if begin is not None:
        yield begin, SHOWN_SECONDS


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
