"""The roofline drawn: as SVG for the page, and by matplotlib for --plot.

Both take their points and the places of their labels from here: a label goes to the first place
around its point where it covers no other label and no point, and a thin line ties it to the point
where that is not next to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from math import atan2, cos, inf, log10, pi, sin, sqrt
from pathlib import Path
from typing import Any

from minillm.errors import UserError

MISSING = 'needs matplotlib: pip install "minillm[plot]"'
COLOURS = ("#2563eb", "#d9480f", "#2b8a3e", "#9c36b5", "#b08900")  # one for each choice of kernels
WIDTH, HEIGHT = 760, 460  # pixels of the picture
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 24, 52  # of its margins
LETTER, LINE = 6.2, 15  # pixels that a letter and a line of text take
Box = tuple[float, float, float, float]  # x0, y0, x1, y1


@dataclass(frozen=True)
class Point:
    """An operation: FLOP/byte, GFLOP/s, its share of the step, the choice that it belongs to."""

    name: str
    intensity: float
    gflops: float
    share: float
    series: int = 0

    @property
    def radius(self) -> float:
        """Pixels: the area is the share."""
        return 3 + 22 * sqrt(self.share)


@dataclass(frozen=True)
class Axes:
    """Where numbers lie in the picture, both axes logarithmic."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels from the left and from the top."""
        across = log10(x / self.x[0]) / log10(self.x[1] / self.x[0])
        up = log10(y / self.y[0]) / log10(self.y[1] / self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (1 - up) * (HEIGHT - TOP - BOTTOM)


def points(subject: dict[str, Any], series: int = 0) -> list[Point]:
    """The operations of a subject (see minillm.observe.analysis) that have FLOP and bytes."""
    return [
        Point(row["name"], row["intensity"], row["gflops"], row["share"], series)
        for row in subject["operations"]
        if row["gflops"] and row["intensity"]
    ]


def axes_for(roofs: dict[str, Any], shown: list[Point]) -> Axes:
    """Powers of ten that take in all points and the ridges of all roofs."""
    ridges = [roofs["peak_gflops"] / rate for rate in roofs["bandwidth_gbs"].values()]
    across = [p.intensity for p in shown] + ridges
    up = [p.gflops for p in shown] + [roofs["peak_gflops"] * 1.6]
    return Axes(_decades(across), _decades(up))


def roof_lines(
    roofs: dict[str, Any], axes: Axes
) -> list[tuple[str, tuple[float, float], tuple[float, float]]]:
    """(name, one end, other end) of each roof inside the axes: the flat one first."""
    peak, (x0, x1), y0 = roofs["peak_gflops"], axes.x, axes.y[0]
    rates = roofs["bandwidth_gbs"]
    flat_from = max(x0, min(peak / rate for rate in rates.values()))
    lines = [(f"{peak:.0f} GFLOP/s", (flat_from, peak), (x1, peak))]
    for level, rate in rates.items():
        start = max(x0, y0 / rate)
        lines.append((f"{level} {rate:.0f} GB/s", (start, start * rate), (peak / rate, peak)))
    return lines


def place(anchors: list[tuple[float, float, float, str]], taken: Iterable[Box]) -> list[Box]:
    """Boxes for the labels of circles (x, y, radius, text), the most important one first."""
    circles = [(x - r, y - r, x + r, y + r) for x, y, r, _ in anchors]
    occupied, boxes = list(taken), []
    for i, (x, y, r, text) in enumerate(anchors):
        others = occupied + circles[:i] + circles[i + 1 :]
        size = (len(text) * LETTER, LINE)
        candidates = list(_around(x, y, r, *size))
        box = min(candidates, key=lambda box: (_overlap(box, others), candidates.index(box)))
        occupied.append(box)
        boxes.append(box)
    return boxes


def svg(roofs: dict[str, Any], shown: list[Point]) -> str:
    """The picture as an <svg> element, coloured by the page's style sheet."""
    axes = axes_for(roofs, shown)
    shown = sorted(shown, key=lambda p: -p.share)
    parts = [*_svg_grid(axes), *_svg_roofs(roofs, axes)]
    centres = [axes.at(p.intensity, p.gflops) for p in shown]
    anchors = [(*at, p.radius, p.name) for at, p in zip(centres, shown, strict=True)]
    for point, (x, y), box in zip(
        shown, centres, place(anchors, _covered(roofs, axes)), strict=True
    ):
        title = f"{point.name}: {point.gflops:.3g} GFLOP/s, {point.share:.1%} of the step"
        parts.append(
            f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="{point.radius:.1f}">'
            f"<title>{escape(title)}</title></circle>"
        )
        near_x, near_y = _nearest(box, x, y)
        if (near_x - x) ** 2 + (near_y - y) ** 2 > (point.radius + 8) ** 2:
            parts.append(_svg_line("leader", (x, y), (near_x, near_y)))
        parts.append(
            f'<text class="label" x="{box[0]:.1f}" y="{box[3] - 4:.1f}">{point.name}</text>'
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="roofline">'
        + "".join(parts)
        + "</svg>"
    )


def save(
    path: str | Path, roofs: dict[str, Any], series: dict[str, list[Point]], title: str
) -> None:
    """Draw the roofline of each choice into one picture, with matplotlib.

    Raises: UserError where matplotlib is missing, or does not know the kind of file.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UserError(f"--plot {MISSING}") from None
    shown = [point for one in series.values() for point in one]
    limits = axes_for(roofs, shown)
    figure = Figure(figsize=(WIDTH / 80, HEIGHT / 80), dpi=80)  # so that its pixels are ours
    size = ((WIDTH - LEFT - RIGHT) / WIDTH, (HEIGHT - TOP - BOTTOM) / HEIGHT)
    axes = figure.add_axes((LEFT / WIDTH, BOTTOM / HEIGHT, *size))
    axes.set(xscale="log", yscale="log", xlim=limits.x, ylim=limits.y, title=title)
    axes.set(xlabel="arithmetic intensity (FLOP/byte)", ylabel="GFLOP/s")
    axes.grid(alpha=0.3)
    for _, (x0, y0), (x1, y1) in roof_lines(roofs, limits):
        axes.plot([x0, x1], [y0, y1], color="grey")
    for (x, y, turn), name in _roof_names(roofs, limits):
        _write(axes, x, y, name, rotation=-turn, color="grey", ha="left", va="bottom")
    for i, (name, one) in enumerate(series.items()):
        axes.scatter(
            [p.intensity for p in one],
            [p.gflops for p in one],
            s=[(2 * p.radius * 72 / 80) ** 2 for p in one],
            color=COLOURS[i % len(COLOURS)],
            alpha=0.6,
            label=name,
        )
    _label(axes, limits, roofs, sorted(shown, key=lambda p: -p.share))
    if len(series) > 1:
        for handle in axes.legend(loc="lower right").legend_handles:
            handle.set_sizes([60])
    try:
        figure.savefig(path, dpi=160)
    except ValueError as error:
        raise UserError(f"--plot {path}: {error}") from None


def _label(axes: Any, limits: Axes, roofs: dict[str, Any], shown: list[Point]) -> None:
    """Names beside the points."""
    centres = [limits.at(p.intensity, p.gflops) for p in shown]
    anchors = [(*at, p.radius, p.name) for at, p in zip(centres, shown, strict=True)]
    for point, (x, y), box in zip(
        shown, centres, place(anchors, _covered(roofs, limits)), strict=True
    ):
        near_x, near_y = _nearest(box, x, y)
        colour = COLOURS[point.series % len(COLOURS)]
        if (near_x - x) ** 2 + (near_y - y) ** 2 > (point.radius + 8) ** 2:
            ends = [(px / WIDTH, 1 - py / HEIGHT) for px, py in ((x, y), (near_x, near_y))]
            axes.annotate(
                "",
                *ends,
                "figure fraction",
                "figure fraction",
                {"arrowstyle": "-", "color": colour},
            )
        _write(axes, box[0], box[3] - 4, point.name, color=colour)


def _write(axes: Any, x: float, y: float, text: str, **style: Any) -> None:
    """Text at pixels of the picture."""
    axes.figure.text(x / WIDTH, 1 - y / HEIGHT, text, fontsize=9, **style)


def _decades(values: list[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return 10.0 ** int(log10(low) // 1), 10.0 ** -int(-log10(high) // 1)


def _around(x: float, y: float, r: float, width: float, height: float) -> Iterable[Box]:
    """Places for a label: to the right, left, above, below, then on wider and wider circles."""
    gap = r + 4
    yield x + gap, y - height / 2, x + gap + width, y + height / 2
    yield x - gap - width, y - height / 2, x - gap, y + height / 2
    yield x - width / 2, y - gap - height, x + width / 2, y - gap
    yield x - width / 2, y + gap, x + width / 2, y + gap + height
    for distance in range(20, 200, 14):
        for i in range(16):
            cx = x + (gap + distance + width / 2) * cos(i * pi / 8)
            cy = y + (gap + distance) * sin(i * pi / 8)
            yield cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


def _overlap(box: Box, others: list[Box]) -> float:
    """Square pixels of a box that are taken, or lie outside of the picture."""
    x0, y0, x1, y1 = box
    inside = _common(box, (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM))
    outside = (x1 - x0) * (y1 - y0) - inside
    return outside + sum(_common(box, other) for other in others)


def _common(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return width * height if width > 0 and height > 0 else 0.0


def _nearest(box: Box, x: float, y: float) -> tuple[float, float]:
    """The point of a box that is nearest to (x, y)."""
    return min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])


def _roof_names(roofs: dict[str, Any], axes: Axes) -> list[tuple[tuple[float, float, float], str]]:
    """(x, y, degrees by which it is turned) in pixels and the text beside each roof."""
    (flat, (_, peak), _), *slanted = roof_lines(roofs, axes)
    right, y = axes.at(axes.x[1], peak)
    names = [((right - len(flat) * LETTER, y - 5, 0.0), flat)]
    along, above = 12.0, -inf
    for name, start, end in slanted:
        (x0, y0), (x1, y1) = axes.at(*start), axes.at(*end)
        turn = atan2(y1 - y0, x1 - x0)
        height = axes.at(1, end[1] / end[0])[1]  # of the line where the intensity is 1
        if abs(height - above) < 1.5 * LINE:  # behind the name before, not on it
            along += (len(name) + 3) * LETTER
        else:
            along = 12.0
        above = height
        at = x0 + along * cos(turn) + 5 * sin(turn), y0 + along * sin(turn) - 5
        names.append(((*at, turn), name))
    return [((x, y, turn * 180 / pi), name) for (x, y, turn), name in names]


def _covered(roofs: dict[str, Any], axes: Axes) -> list[Box]:
    """What the roofs and their names cover, as small boxes along each."""
    boxes = []
    for _, start, end in roof_lines(roofs, axes):
        (x0, y0), (x1, y1) = axes.at(*start), axes.at(*end)
        n = int((x1 - x0) / LETTER) + 1
        at = [(x0 + (x1 - x0) * i / n, y0 + (y1 - y0) * i / n) for i in range(n + 1)]
        boxes += [(x - 2, y - 2, x + 2, y + 2) for x, y in at]
    for (x, y, turn), name in _roof_names(roofs, axes):
        for i in range(len(name)):
            at_x = x + i * LETTER * cos(turn * pi / 180)
            at_y = y + i * LETTER * sin(turn * pi / 180)
            boxes.append((at_x, at_y - LINE, at_x + LETTER, at_y + 2))
    return boxes


def _svg_grid(axes: Axes) -> Iterable[str]:
    (x0, x1), (y0, y1) = axes.x, axes.y
    for i in range(round(log10(x0)), round(log10(x1)) + 1):
        (x, bottom), (_, top) = axes.at(10.0**i, y0), axes.at(10.0**i, y1)
        yield _svg_line("grid", (x, bottom), (x, top))
        yield _svg_tick(x, bottom + 16, "middle", f"{10.0**i:g}")
    for i in range(round(log10(y0)), round(log10(y1)) + 1):
        (left, y), (right, _) = axes.at(x0, 10.0**i), axes.at(x1, 10.0**i)
        yield _svg_line("grid", (left, y), (right, y))
        yield _svg_tick(left - 6, y + 4, "end", f"{10.0**i:g}")
    middle = (LEFT + WIDTH - RIGHT) / 2
    yield _svg_tick(middle, HEIGHT - 12, "middle", "arithmetic intensity, FLOP/byte")
    yield _svg_tick(4, 14, "start", "GFLOP/s")


def _svg_tick(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _svg_roofs(roofs: dict[str, Any], axes: Axes) -> Iterable[str]:
    for _, start, end in roof_lines(roofs, axes):
        yield _svg_line("roof", axes.at(*start), axes.at(*end))
    for (x, y, turn), name in _roof_names(roofs, axes):
        at = f'x="{x:.1f}" y="{y:.1f}" transform="rotate({turn:.1f} {x:.1f} {y:.1f})"'
        yield f'<text class="tick" {at}>{escape(name)}</text>'


def _svg_line(style: str, a: tuple[float, float], b: tuple[float, float]) -> str:
    ends = f'x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}"'
    return f'<line class="{style}" {ends}/>'
