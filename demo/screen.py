"""Makes a picture (SVG) of the screen of a terminal, from what `tmux capture-pane -e -p` prints: text with SGR sequences
(ECMA-48, 8.3.117).
"""

import re
from dataclasses import dataclass, replace
from xml.sax.saxutils import escape

# The size of a character's cell, and the room around all of them, in units of the picture.
WIDTH, HEIGHT, MARGIN = 8.4, 18, 12
FONT = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"
PAPER, INK, FAINT, RED = "#1b1f24", "#d7dde5", "#8b949e", "#ff7b72"


@dataclass(frozen=True)
class Style:
    """How characters look."""

    bold: bool = False
    dim: bool = False
    reverse: bool = False
    red: bool = False

    def after(self, codes):
        """The style behind an SGR sequence with these parameters."""
        style = self
        for code in codes:
            if code in ("", "0"):
                style = Style()
            elif code in CHANGES:
                style = replace(style, **CHANGES[code])
        return style

    def ink(self):
        return PAPER if self.reverse else RED if self.red else FAINT if self.dim else INK


CHANGES = {
    "1": {"bold": True},
    "2": {"dim": True},
    "7": {"reverse": True},
    "22": {"bold": False, "dim": False},
    "27": {"reverse": False},
    "31": {"red": True},
    "38": {"red": True},
    "39": {"red": False},
}


def runs(screen):
    """Yields row, column, style and text of characters that look alike. The style goes on from line to line."""
    style = Style()
    for row, line in enumerate(screen.rstrip("\n").split("\n")):
        column = 0
        for number, part in enumerate(re.split(r"\x1b\[([\d;]*)m", line)):
            if number % 2:
                style = style.after(part.split(";"))
            elif part:
                yield row, column, style, part
                column += len(part)


def svg(screen, columns, title):
    """The picture of a screen with so many columns."""
    rows = len(screen.rstrip("\n").split("\n"))
    width, height = columns * WIDTH + 2 * MARGIN, rows * HEIGHT + 2 * MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" font-family="{FONT}" font-size="14">',
        f"<title>{escape(title)}</title>",
        f'<rect width="100%" height="100%" rx="8" fill="{PAPER}"/>',
    ]
    for row, column, style, text in runs(screen):
        x, y, length = MARGIN + column * WIDTH, MARGIN + row * HEIGHT, len(text) * WIDTH
        if style.reverse:
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{length:.1f}" height="{HEIGHT}" fill="{INK}"/>')
        if text.strip():
            weight = ' font-weight="bold"' if style.bold else ""
            # Whatever the font is, characters stay in their columns.
            parts.append(
                f'<text x="{x:.1f}" y="{y + 13}" textLength="{length:.1f}" xml:space="preserve" '
                f'fill="{style.ink()}"{weight}>{escape(text)}</text>'
            )
    return "\n".join([*parts, "</svg>", ""])
