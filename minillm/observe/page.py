"""`minillm profile --html`: the whole result as one page that asks nothing of the network."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Any

from minillm.observe import chart, report
from minillm.observe.page_style import SCRIPT, STYLE
from minillm.observe.profiler import Profile, Step
from minillm.observe.roofline import FAR, SHORT
from minillm.observe.text import ms, percent
from minillm.observe.trace import phases_of

WIDTH, GUTTER = 1000, 84  # of the timelines, and of the names before their rows
BOUNDS = {
    "compute": "the arithmetic is the limit: only more threads, wider vectors or less work help",
    "L1 … DRAM": "this level of the memory is the limit: only moving fewer bytes helps",
    "overhead": f"under {FAR:.0%} of its roof in calls shorter than {1e6 * SHORT:.0f} µs: Python, "
    "checks and waking threads are the limit; fewer and larger calls help",
    "implementation": f"under {FAR:.0%} of its roof in longer calls: the machine could do more; "
    "a better kernel helps",
    "python": "no kernel runs in it: Python and NumPy",
}
ROOFLINE = (
    "Speed against arithmetic intensity, under the roofs that were measured on this machine. The "
    "distance to the roof is what a better kernel could gain. At the roof itself, a point under a "
    "slanted part can only be helped by moving fewer bytes, one under the flat part by doing fewer "
    "operations."
)
LEDGER = (
    "What a step holds, predicted from the shapes and measured. Activations are what forward saves "
    "for backward."
)
MEMORY = "Bytes held at the end of each operation of the step (area), and at most during it (line)."
TIMELINE = (
    "The step of median length. Hold the pointer on a box for its name; --trace FILE writes all "
    "steps for Perfetto."
)


def as_html(result: dict[str, Any], profiles: dict[str, Profile]) -> str:
    """The page.  result, profiles: of minillm.observe.session."""
    title = f"{result['model']['preset']}: where the time goes"
    body = [f"<h1>{escape(title)}</h1>", _about(result)]
    for name, heading in report.TITLES.items():
        if name in result:
            body += _subject(name, heading, result, profiles[name])
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _about(result: dict[str, Any]) -> str:
    date = result["date"][:16].replace("T", " ")
    lines = [*report.header(result).splitlines(), f"minillm profile, {date} UTC"]
    return f'<p class="soft">{"<br>".join(map(escape, lines))}</p>'


def _subject(name: str, heading: str, result: dict[str, Any], profile: Profile) -> Iterable[str]:
    subject = result[name]
    if name != "train":
        yield f"<h2>{escape(heading[0].upper() + heading[1:])}</h2>"
    yield _cards(subject)
    sentences = "".join(f"<p>{escape(line)}</p>" for line in report.reading(heading, subject))
    yield f'<div class="reading">{sentences}</div>'
    yield _bar(subject)
    yield "<h3>Operations</h3>" + _table(subject, "operations")
    yield f"<h3>Kernel calls</h3>{_table(subject, 'kernels')}"
    if name != "train":
        return
    yield "<h2>Roofline</h2>" + _roofline(result, subject)
    yield "<h2>Memory</h2>" + _ledger(subject["ledger"])
    middle = sorted(profile.steps, key=lambda step: step.seconds)[len(profile.steps) // 2]
    yield "<h2>One step in time</h2>" + _timeline(middle)


def _cards(subject: dict[str, Any]) -> str:
    s = subject["seconds"]
    cards = {
        "ms a step, the faster half": ms(s["mean"]),
        "ms, quartiles of all": f"{ms(s['q1'])}–{ms(s['q3'])}",
        "tokens a second": f"{subject['tokens'] / s['mean']:,.0f}",
        "MFU, of the peak": percent(subject["mfu"]),
        "attributed": percent(subject["attributed"]),
    }
    if "overhead" in subject:
        cards["profiling adds"] = percent(max(0.0, subject["overhead"]))
    if subject["held"]:
        cards["steps disturbed by other processes"] = str(subject["held"])
    inner = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
        for name, value in cards.items()
    )
    return f'<div class="cards">{inner}</div>'


def _bar(subject: dict[str, Any]) -> str:
    """The step cut into its parts, one beside the other."""
    parts = []
    for part in sorted(subject["parts"], key=lambda part: part["kind"] != "kernel"):
        name = f"{report.described(part)}: {percent(part['share'])}"
        label = escape(part["name"]) if part["kind"] == "kernel" and part["share"] > 0.07 else ""
        parts.append(
            f'<i class="{part["kind"]}" style="width:{100 * part["share"]:.2f}%" '
            f'title="{escape(name)}">{label}</i>'
        )
    note = "kernels from the longest to the shortest, then (grey) Python and NumPy"
    return f'<div class="bar">{"".join(parts)}</div><p class="soft">{note}</p>'


def _table(subject: dict[str, Any], name: str) -> str:
    """One of the report's tables, which a click on a head sorts."""
    columns = report.TABLES[name]
    kinds = [' class="word"' if column.word else "" for column in columns]
    heads = [
        f"<th{kind} scope=col><button>{escape(column.head)}</button></th>"
        for column, kind in zip(columns, kinds, strict=True)
    ]
    rows = []
    for row in subject[name]:
        cells = []
        for column, kind in zip(columns, kinds, strict=True):
            value = "" if column.word else f' data-value="{_plain(row[column.key])}"'
            cells.append(f"<td{kind}{value}>{escape(report.cell(column, row))}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return _scroll(
        f'<table class="sorts"><thead><tr>{"".join(heads)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _roofline(result: dict[str, Any], subject: dict[str, Any]) -> str:
    shown = chart.points(subject)
    names = {point.name for point in shown}
    others = ", ".join(r["name"] for r in subject["operations"] if r["name"] not in names)
    picture = chart.svg(result["roofs"], shown)
    note = f"Area: share of the step. Without a kernel, so not drawn: {others}."
    terms = "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in BOUNDS.items())
    return (
        f"<p>{ROOFLINE}</p><figure>{_scroll(picture)}<figcaption>{escape(note)}</figcaption>"
        f"</figure><h3>Bounds</h3><dl>{terms}</dl>"
    )


def _ledger(ledger: dict[str, Any]) -> str:
    rows = [(row["name"], row) for row in ledger["rows"]]
    saved = [(f"{row['layer']} {row['operation']}", row) for row in ledger["activations"]]
    peak = ledger["peak"]
    key = _key(dict.fromkeys(event["phase"] for event in ledger["timeline"]))
    picture = _scroll(_memory_svg(ledger))
    return (
        f"<p>{LEDGER} The peak is in {escape(peak['name'])} ({peak['phase']}).</p>"
        + _memory_table("", rows)
        + f"<figure>{picture}<figcaption>{MEMORY}<br>{key}</figcaption></figure>"
        "<h3>Activations by layer and operation</h3>" + _memory_table("saved by", saved)
    )


def _memory_table(head: str, rows: list[tuple[str, dict[str, int]]]) -> str:
    lines = []
    for name, row in rows:
        sizes = "".join(f"<td>{row[key] / 1e6:,.3f} MB</td>" for key in ("predicted", "measured"))
        ratio = f"{row['measured'] / row['predicted']:.3f}" if row["predicted"] else ""
        lines.append(f'<tr><td class="word">{escape(name)}</td>{sizes}<td>{ratio}</td></tr>')
    heads = f'<th class="word">{head}</th><th>predicted</th><th>measured</th><th>ratio</th>'
    return _scroll(f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table>")


def _memory_svg(ledger: dict[str, Any]) -> str:
    """Memory over the operations of a step; a stripe at the foot shows the phase."""
    events, height = ledger["timeline"], 220
    top = 1.1 * max(event["high"] for event in events)
    step = (WIDTH - GUTTER) / len(events)

    def y(size: float) -> float:
        return (height - 24) * (1 - size / top)

    area = [f"{GUTTER},{y(0):.1f}", f"{GUTTER},{y(events[0]['live']):.1f}"]
    line, stripes = [], []
    for i, event in enumerate(events):
        x0, x1 = GUTTER + i * step, GUTTER + (i + 1) * step
        area.append(f"{x1:.1f},{y(event['live']):.1f}")
        line += [f"{x0:.1f},{y(event['high']):.1f}", f"{x1:.1f},{y(event['high']):.1f}"]
        title = f"{event['name']} ({event['phase']}): {event['live'] / 1e6:.1f} MB"
        stripes.append(_rect(event["phase"], x0, height - 20, step, 14, title))
    area.append(f"{WIDTH},{y(0):.1f}")
    ticks = "".join(
        f'<line class="grid" x1="{GUTTER}" x2="{WIDTH}" y1="{y(size):.1f}" y2="{y(size):.1f}"/>'
        f'<text class="tick" x="{GUTTER - 8}" y="{y(size) + 4:.1f}" text-anchor="end">'
        f"{size / 1e6:.3g} MB</text>"
        for size in (0.0, top / 2.2, top / 1.1)
    )
    shapes = (
        f'<polygon class="live" points="{" ".join(area)}"/>'
        f'<polyline class="high" points="{" ".join(line)}"/>'
    )
    return _svg(height, "memory of a step", [ticks, shapes, *stripes])


def _timeline(step: Step) -> str:
    """Three rows: the phases, the operations and the kernels of one step, to scale."""
    scale = (WIDTH - GUTTER) / step.seconds
    rects = []

    def add(row: int, style: str, name: str, start: float, seconds: float) -> None:
        x, width = GUTTER + scale * (start - step.start), scale * seconds
        y = 6 + 34 * row
        rects.append(_rect(style, x, y, width, 26, f"{name}: {ms(seconds)} ms"))
        if len(name) * 6.5 < width:
            rects.append(f'<text class="inside" x="{x + 5:.1f}" y="{y + 17}">{escape(name)}</text>')

    for phase, start, seconds in phases_of(step):
        add(0, phase, phase, start, seconds)
    parents = {span.operation for span in step.spans if span.operation}
    for span in step.spans:
        if span.kind == "kernel":
            add(2, span.phase, span.name, span.start, span.seconds)
        elif span.name in parents or span.own > 0.5 * span.seconds:  # not backward as a whole
            add(1, span.phase, span.name, span.start, span.seconds)
    names = [
        f'<text class="tick" x="0" y="{23 + 34 * i}">{name}</text>'
        for i, name in enumerate(("phase", "operation", "kernel"))
    ]
    axis = f'<text class="tick" x="{WIDTH}" y="122" text-anchor="end">{ms(step.seconds)} ms</text>'
    picture = _scroll(_svg(128, "timeline of a step", [*names, *rects, axis]))
    key = _key(dict.fromkeys(phase for phase, _, _ in phases_of(step)))
    return f"<figure>{picture}<figcaption>{TIMELINE}<br>{key}</figcaption></figure>"


def _key(phases: Iterable[str]) -> str:
    """What the colours mean."""
    square = '<svg class="key" viewBox="0 0 10 10"><rect class="{0}" width="10" height="10"/></svg>'
    return " ".join(f"<span>{square.format(phase)} {phase}</span>" for phase in phases)


def _rect(style: str, x: float, y: float, width: float, height: float, title: str) -> str:
    at = f'x="{x:.2f}" y="{y}" width="{max(width, 0.4):.2f}" height="{height}"'
    return f'<rect class="{style or "other"}" {at}><title>{escape(title)}</title></rect>'


def _svg(height: int, label: str, parts: list[str]) -> str:
    box = f'viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}"'
    return f"<svg {box}>{''.join(parts)}</svg>"


def _scroll(inner: str) -> str:
    return f'<div class="scroll">{inner}</div>'


def _plain(value: float | None) -> str:
    return "" if value is None else repr(value)
