"""From a screen of a terminal with its colours (standard input, as `tmux capture-pane -e` has it) to SVG.

Usage: terminal_svg.py STEM COLUMNS TITLE   writes STEM.svg and STEM-dark.svg
"""
import pathlib
import re
import sys
import unicodedata
from xml.sax.saxutils import escape

FONT = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace"
WIDE, TALL, PAD = 8.43, 17, 18
GROUND, TEXT, FRAME = ("#ffffff", "#0d1117"), ("#1b1f24", "#e6edf3"), ("#d0d7de", "#30363d")
# The eight colours, then the bright ones, dark enough on white and light enough on black.
COLOURS = (
    ("#1b1f24", "#b3202a", "#1a6f37", "#7d5200", "#0b4db8", "#8639a8", "#10697d", "#57606a",
     "#57606a", "#c5303a", "#1f7f40", "#8f6000", "#1f63cf", "#9a4dbb", "#177a90", "#57606a"),
    ("#8b949e", "#ff7b72", "#4cc38a", "#e3a33c", "#6cb0ff", "#d2a8ff", "#56c8d8", "#c9d1d9",
     "#8b949e", "#ffa198", "#6fdd8b", "#f0c14b", "#8cc2ff", "#e2c5ff", "#7fdbe8", "#f0f6fc"),
)
SGR = re.compile(r"\x1b\[([0-9;:]*)m")
OTHER = re.compile(r"\x1b(\[[0-9;?]*[A-Za-ln-z]|\][^\x07\x1b]*(\x07|\x1b\\)|[()][A-Z0-9])|[\x00-\x08\x0b-\x1a\x0e\x0f\x7f]")


class Style:
    """What the characters from here on look like."""

    def __init__(self):
        self.colour, self.bold, self.dim, self.underline = None, False, False, False

    def apply(self, codes):
        numbers = [int(c or 0) for c in re.split("[;:]", codes)] if codes else [0]
        while numbers:
            code = numbers.pop(0)
            if code == 0:
                self.__init__()
            elif code in (1, 2, 4):
                setattr(self, {1: "bold", 2: "dim", 4: "underline"}[code], True)
            elif code == 22:
                self.bold = self.dim = False
            elif code == 24:
                self.underline = False
            elif 30 <= code <= 37 or 90 <= code <= 97:
                self.colour = code - 30 if code < 90 else code - 82
            elif code in (39, 49):
                self.colour = None if code == 39 else self.colour
            elif code in (38, 48) and numbers:
                rest = numbers[1:2] if numbers[0] == 5 else numbers[1:4]
                del numbers[:1 + len(rest)]
                if code == 38:
                    self.colour = rest[0] if len(rest) == 1 and rest[0] < 16 else tuple(rest) if len(rest) == 3 else None

    def attributes(self, theme):
        fill = None
        if isinstance(self.colour, tuple):
            fill = "#%02x%02x%02x" % self.colour
        elif self.colour is not None:
            fill = COLOURS[theme][self.colour]
        return "".join([f' fill="{fill}"' if fill else "", ' font-weight="700"' if self.bold else "",
                        ' fill-opacity=".68"' if self.dim else "", ' text-decoration="underline"' if self.underline else ""])


def runs(screen):
    """(row, column, text, attributes in light and in dark) of what is not blank."""
    style = Style()
    for row, line in enumerate(screen.splitlines()):
        column = 0
        for n, part in enumerate(SGR.split(line)):
            if n % 2:
                style.apply(part)
                continue
            text = OTHER.sub("", part)
            # Each word stands at its own place, whatever the font's width is.
            for word in re.finditer(r"\S+(?: \S+)*", text):
                yield row, column + cells(text[:word.start()]), word[0], (style.attributes(0), style.attributes(1))
            column += cells(text)


def cells(text):
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def svg(screen, columns, title, theme):
    found = list(runs(screen))
    rows = max((row for row, *_ in found), default=0) + 1
    width, height = round(columns * WIDE + 2 * PAD), rows * TALL + 2 * PAD
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
           f'role="img" aria-label="{escape(title)}">', f"<title>{escape(title)}</title>",
           f'<rect x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="8" fill="{GROUND[theme]}" stroke="{FRAME[theme]}"/>',
           f'<g font-family="{FONT}" font-size="14" fill="{TEXT[theme]}" xml:space="preserve">']
    for row, column, text, looks in found:
        out.append(f'<text x="{PAD + column * WIDE:.1f}" y="{PAD + row * TALL + 13}" '
                   f'textLength="{cells(text) * WIDE:.1f}" lengthAdjust="spacingAndGlyphs"{looks[theme]}>{escape(text)}</text>')
    return "\n".join([*out, "</g></svg>"]) + "\n"


if __name__ == "__main__":
    stem, columns, title = sys.argv[1:]
    screen = sys.stdin.read()
    for theme, suffix in enumerate(("", "-dark")):
        pathlib.Path(f"{stem}{suffix}.svg").write_text(svg(screen, int(columns), title, theme))
