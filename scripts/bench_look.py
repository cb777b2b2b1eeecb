"""The one look of all pictures and tables of measurements: numbers for people, colours, panels, SVG.

A picture is a list of panels on a page. It is drawn twice, light and dark; the same data give the same
bytes. It needs nothing but Python, and its text is text.
"""
import itertools
import math
import statistics
import textwrap
from xml.sax.saxutils import escape

WIDTH, MARGIN, GAP = 880, 20, 36
PANEL = (WIDTH - 2 * MARGIN - GAP) / 2
ROW, HEAD, NAME, VALUE, LACKING = 21, 48, 92, 88, 54
FONT = "system-ui,-apple-system,'Segoe UI','Noto Sans','DejaVu Sans',Arial,sans-serif"

# A proxy keeps its name and its colours, in light and in dark, in every picture. The colours differ in
# lightness too, and each row has its name, so that nothing depends on colour alone.
PROXIES = {
    "adit": ("adit", "#0b4db8", "#6cb0ff"),
    "envoy": ("Envoy", "#1a7f94", "#56c8d8"),
    "ztunnel": ("ztunnel", "#a8437f", "#e28bbd"),
    "haproxy": ("HAProxy", "#a56a00", "#e3a33c"),
    "nginx": ("nginx", "#1f7a4d", "#4cc38a"),
    "stunnel": ("stunnel", "#bc4c00", "#f0883e"),
    "ghostunnel": ("ghostunnel", "#7a55b8", "#b392f0"),
    "none": ("no proxy", "#6e7781", "#8b949e"),
}
INK = {"ground": ("#ffffff", "#0d1117"), "text": ("#1b1f24", "#e6edf3"), "quiet": ("#57606a", "#9198a1"),
       "rule": ("#d0d7de", "#30363d")}
# Units in which a number is given, each with what it is of the first.
SCALES = {
    "us": (("µs", 1), ("ms", 1e3), ("s", 1e6)),
    "/s": (("/s", 1), ("k/s", 1e3), ("M/s", 1e6)),
    "KiB": (("KiB", 1), ("MiB", 1024), ("GiB", 1024 ** 2)),
}


def family(proxy):
    """The proxy that a build or a setting of it is drawn as: `adit-sockmap` is adit."""
    return proxy if proxy in PROXIES else proxy.split("-")[0] if proxy.split("-")[0] in PROXIES else "none"


def name(proxy):
    known = family(proxy)
    shown = PROXIES[known][0]
    if proxy.startswith("none-"):
        return proxy.removeprefix("none-")
    return shown if proxy == known else f"{shown}, {proxy.removeprefix(known + '-')}"


def in_order(proxies):
    """adit first, its variants next, then the others, no proxy at the end."""
    ranks = list(PROXIES)
    return sorted(proxies, key=lambda p: (ranks.index(family(p)), p != family(p), p))


def digits(value):
    """Three digits that count, at most."""
    size = abs(value)
    if size >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 9.995 else f"{value:.2f}"


def scale(unit, value):
    """The unit in which people would give a value, and what it is of `unit`."""
    best = (unit, 1)
    for candidate in SCALES.get(unit, ()):
        if abs(value) >= candidate[1] or candidate[1] == 1:
            best = candidate
    return best


def people(value, unit):
    shown, factor = scale(unit, value)
    return with_unit(digits(value / factor), shown)


def with_unit(number, unit):
    return number + ("" if unit.startswith("/") else " ") + unit


def of_rounds(values, expected):
    """What stands beside a figure that lacks values of some rounds; nothing beside one of all."""
    return f" [{len(values)} of {expected}]" if values and len(values) < expected else ""


class Page:
    """Collects shapes by their ink, so that each group says its colour once."""

    ORDER = ("ground", "rule", "bar", "hollow", "halo", "whisker", "line", "dash", "text", "strong", "quiet")

    def __init__(self, title, facts, notes=(), columns=2):
        self.title, self.columns, self.groups, self.panels = title, columns, {}, []
        self.facts = [line for fact in facts for line in textwrap.wrap(fact, 118)]
        self.notes = [line for note in notes for line in textwrap.wrap(note, 118)]

    def path(self, kind, ink, d):
        self.groups.setdefault((kind, ink), []).append(d)

    def write(self, kind, x, y, text, size=14, anchor="start"):
        self.groups.setdefault((kind, f"{size} {anchor}"), []).append(
            f'<text x="{n(x)}" y="{n(y)}">{escape(text)}</text>')

    def add(self, panel):
        self.panels.append(panel)

    def draw(self):
        """The picture in light, which turns dark by itself where a browser asks for it, and in dark."""
        y = MARGIN + 18
        self.write("strong", MARGIN, y, self.title, 20)
        for line in self.facts:
            y += 19
            self.write("quiet", MARGIN, y, line, 13)
        y += 26
        for first in range(0, len(self.panels), self.columns):
            line = self.panels[first:first + self.columns]
            for column, panel in enumerate(line):
                panel.draw(self, MARGIN + column * (PANEL + GAP), y, PANEL if self.columns == 2 else WIDTH - 2 * MARGIN)
            y += max(panel.height() for panel in line) + 16
        for line in self.notes:
            y += 18
            self.write("quiet", MARGIN, y, line, 13)
        height = n(y + MARGIN)
        return tuple(self.render(height, theme) for theme in (0, 1))

    def render(self, height, theme):
        label = escape(self.title)
        out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
               f'viewBox="0 0 {WIDTH} {height}" font-family="{FONT}" role="img" aria-label="{label}">',
               f"<title>{label}</title>"]
        if theme == 0:
            out.append("<style>@media (prefers-color-scheme:dark){" + "".join(self.rules()) + "}</style>")
        out.append(f'<rect class="f-ground" width="{WIDTH}" height="{height}" rx="6" fill="{INK["ground"][theme]}"/>')
        for kind, ink in sorted(self.groups, key=lambda g: (self.ORDER.index(g[0]), g[1])):
            shapes = self.groups[kind, ink]
            if kind in ("text", "strong", "quiet"):
                size, anchor = ink.split()
                colour = "text" if kind == "strong" else kind
                more = (' font-weight="600"' if kind == "strong" else "") + (f' text-anchor="{anchor}"' if anchor != "start" else "")
                out.append(f'<g class="f-{colour}" fill="{INK[colour][theme]}" font-size="{size}"{more}>')
                out += [*shapes, "</g>"]
            else:
                out.append(f'<path {self.pen(kind, ink, theme)} d="{"".join(shapes)}"/>')
        return "\n".join([*out, "</svg>"]) + "\n"

    @staticmethod
    def pen(kind, ink, theme):
        colour = INK[ink][theme] if ink in INK else PROXIES[ink][1 + theme]
        if kind == "bar":
            return f'class="f-{ink}" fill="{colour}"'
        if kind == "hollow":
            return f'class="f-{ink} s-{ink}" fill="{colour}" fill-opacity=".3" stroke="{colour}" stroke-width="1.5"'
        dash = ' stroke-dasharray="5 3"' if kind == "dash" else ""
        width = {"line": 1.8, "dash": 1.8, "whisker": 1.4, "halo": 3.4}.get(kind, 1)
        return f'class="s-{ink}" fill="none" stroke="{colour}" stroke-width="{width}"{dash}'

    def rules(self):
        inks = {ink for kind, ink in self.groups if kind not in ("text", "strong", "quiet")}
        for ink in [*INK, *(p for p in PROXIES if p in inks)]:
            dark = INK[ink][1] if ink in INK else PROXIES[ink][2]
            yield f".f-{ink}{{fill:{dark}}}.s-{ink}{{stroke:{dark}}}"


def n(value):
    return f"{value:.1f}".removesuffix(".0")


class Panel:
    """What all panels have: a title, what is better, rows of a proxy each; a row of None is a heading."""

    def __init__(self, title, better, rows):
        self.title, self.better, self.rows = title, better, rows
        series = [values for _, row in rows if row for values in (row if isinstance(row[0], list) else [row])]
        self.expected = max(map(len, series), default=0)
        self.lacking = LACKING if any(of_rounds(values, self.expected) for values in series) else 0
        if self.lacking:
            self.better += f"; [n of {self.expected}]: rounds with a figure"
        self.name_width = NAME if all(len(name(p)) < 11 for p, _ in rows if _ is not None) else NAME + 38

    def height(self):
        return HEAD + ROW * len(self.rows)

    def head(self, page, x, y):
        page.write("strong", x, y + 12, self.title, 15)
        page.write("quiet", x, y + 30, self.better, 13)

    def label(self, page, x, y, proxy, shown):
        kind = "strong" if family(proxy) == "adit" else "text"
        page.write(kind, x, y + 15, shown)

    def heading(self, page, x, y, text):
        page.write("quiet", x, y + 17, text, 13)


class Bars(Panel):
    """Medians as bars from zero; a thin line from the smallest to the largest round."""

    def __init__(self, title, better, rows, unit):
        super().__init__(title, better, rows)
        self.unit = unit

    def draw(self, page, x, y, width):
        self.head(page, x, y)
        known = [values for _, values in self.rows if values]
        shown, factor = self.unit_from(0)
        # A round far outside would make all bars short: its line ends in an arrow.
        limit = min(max(max(v) for v in known), 1.5 * max(statistics.median(v) for v in known))
        left, room = x + self.name_width, width - self.name_width - VALUE - self.lacking
        for row, (proxy, values) in enumerate(self.rows):
            top = y + HEAD - 6 + row * ROW
            if values is None:
                shown, factor = self.unit_from(row + 1)
                self.heading(page, x, top, proxy)
                continue
            self.label(page, x, top, proxy, name(proxy))
            page.path("rule", "rule", f"M{n(left)} {n(top)}v{ROW}")
            median = statistics.median(values)
            if median <= 0:
                page.write("quiet", x + width, top + 15, "not measurable", 13, "end")
                continue

            def at(value):
                return left + room * min(max(value, 0), limit) / limit
            kind = "bar" if proxy == family(proxy) else "hollow"
            page.path(kind, family(proxy), f"M{n(left)} {n(top + 4)}h{n(at(median) - left)}v13h-{n(at(median) - left)}z")
            self.whisker(page, at(min(values)), at(max(values)), top + 10.5, max(values) > limit)
            strong = "strong" if family(proxy) == "adit" else "text"
            figure = with_unit(digits(median / factor), shown) + of_rounds(values, self.expected)
            page.write(strong, x + width, top + 15, figure, 14, "end")

    def unit_from(self, row):
        """The unit that suits adit in the rows from this one to the next heading."""
        part = list(itertools.takewhile(lambda r: r[1] is not None, self.rows[row:]))
        own = next((v for p, v in part if p == "adit"), part[0][1] if part else [0])
        return scale(self.unit, statistics.median(own))

    @staticmethod
    def whisker(page, low, high, y, outside):
        end = f"M{n(high - 4)} {n(y - 4)}l4 4l-4 4" if outside else f"M{n(high)} {n(y - 3)}v6"
        line = f"M{n(low)} {n(y - 3)}v6m0 -3H{n(high)}{end}"
        page.path("halo", "ground", line)
        page.path("whisker", "text", line)


class Dots(Panel):
    """Latencies on a log axis: a dot for each quantile, with a thin line of its rounds."""

    def __init__(self, title, better, rows, quantiles):
        """Values of a row are one list for each of `quantiles`."""
        super().__init__(title, better, rows)
        self.quantiles = quantiles
        if len(quantiles) > 1:
            self.better += f"; ○ {quantiles[0]}, ● {quantiles[1]}, log scale"
        else:
            self.better += f"; ● {quantiles[0]}, log scale"

    def height(self):
        return super().height() + 18

    def draw(self, page, x, y, width):
        self.head(page, x, y)
        known = [v for _, row in self.rows if row for v in row if v]
        own = [statistics.median(row[-1]) for p, row in self.rows if row and row[-1] and family(p) == "adit"]
        shown, factor = scale("us", statistics.median(own) if own else known[0][0])
        low, high = max(min(map(min, known)), 1) * 0.85, max(map(max, known)) * 1.15
        value = VALUE + (42 if len(self.quantiles) > 1 else 0) + self.lacking
        left, room = x + self.name_width, width - self.name_width - value - 8

        def at(v):
            return left + room * (math.log(max(v, low)) - math.log(low)) / (math.log(high) - math.log(low))
        top, bottom = y + HEAD - 6, y + HEAD - 6 + ROW * len(self.rows)
        self.axis(page, at, low, high, top, bottom)
        for row, (proxy, parts) in enumerate(self.rows):
            middle = top + row * ROW + 10.5
            if parts is None:
                self.heading(page, x, top + row * ROW, proxy)
                continue
            self.label(page, x, top + row * ROW, proxy, name(proxy))
            ink, texts = family(proxy), []
            for last, values in zip([*[False] * (len(parts) - 1), True], parts):
                if not values:
                    texts.append("–")
                    continue
                median = statistics.median(values)
                page.path("whisker", ink, f"M{n(at(min(values)))} {n(middle)}H{n(at(max(values)))}")
                kind = "bar" if last else "hollow"
                page.path(kind, ink, f"M{n(at(median) - 4.5)} {n(middle)}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z")
                texts.append(digits(median / factor))
            strong = "strong" if ink == "adit" else "text"
            lacking = of_rounds(min(parts, key=len), self.expected)
            page.write(strong, x + width, top + row * ROW + 15, " · ".join(texts) + f" {shown}{lacking}", 14, "end")

    @staticmethod
    def axis(page, at, low, high, top, bottom):
        ticks = [m * 10 ** e for e in range(0, 9) for m in (1, 2, 5) if low <= m * 10 ** e <= high]
        # As many as have room for their labels.
        chosen = [t for t in ticks if f"{t:.0e}"[0] == "1"]
        ticks = chosen if len(chosen) >= 2 else ticks
        last = -1e9
        for tick in ticks:
            if at(tick) - last > 52:
                page.path("rule", "rule", f"M{n(at(tick))} {n(top)}V{n(bottom)}")
                shown, factor = scale("us", tick)
                page.write("quiet", at(tick), bottom + 14, f"{tick / factor:g} {shown}", 12, "middle")
                last = at(tick)


class Lines(Panel):
    """Curves over time from zero, each named at its end."""

    TALL = 150

    def __init__(self, title, better, curves, unit, minutes):
        """`curves`: name, ink, whether dashed, points (minute, value)."""
        super().__init__(title, better, [])
        self.curves, self.unit, self.minutes = curves, unit, minutes

    def height(self):
        return HEAD + self.TALL + 22

    def draw(self, page, x, y, width):
        self.head(page, x, y)
        top, bottom = y + HEAD - 2, y + HEAD - 2 + self.TALL
        most = max(value for *_, points in self.curves for _, value in points) * 1.1
        left, room = x + 52, width - 52 - 150
        step = nice(most / 3)
        for tick in range(int(most / step) + 1):
            level = bottom - self.TALL * tick * step / most
            page.path("rule", "rule", f"M{n(left)} {n(level)}h{n(room)}")
            page.write("quiet", left - 6, level + 4, f"{tick * step:g}", 12, "end")
        for minute in range(0, int(self.minutes) + 1, 10):
            page.write("quiet", left + room * minute / self.minutes, bottom + 16, f"{minute} min", 12, "middle")
        ends = []
        for shown, ink, dashed, points in self.curves:
            places = [(left + room * m / self.minutes, bottom - self.TALL * v / most) for m, v in points]
            page.path("dash" if dashed else "line", ink, "M" + "L".join(f"{n(px)} {n(py)}" for px, py in places))
            value = f"{points[-1][1]:,.0f}" if not self.unit else f"{digits(points[-1][1])} {self.unit}"
            ends.append([places[-1][1], f"{shown} {value}"])
        ends.sort(key=lambda end: end[0])
        for before, after in zip(ends, ends[1:]):
            after[0] = max(after[0], before[0] + 18)
        below = max(0, ends[-1][0] - bottom)
        for level, text in ends:
            page.write("text", left + room + 8, level + 5 - below, text)


def nice(value):
    power = 10 ** math.floor(math.log10(value))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= value)
