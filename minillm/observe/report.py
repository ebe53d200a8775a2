"""The result of `minillm profile` in a terminal: tables, and a text that reads them.

The object is that of minillm.observe.session; the tables' columns are explained there and in
minillm.observe.analysis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from minillm.observe import ledger
from minillm.observe.roofline import FAR, SHORT
from minillm.observe.text import align, ms, number, percent

KERNELS = 12  # rows of the longest kernel calls; the others are in the JSON
TITLES = {"train": "a training step", "prefill": "the prompt", "decode": "one more token"}
NOTE = (
    "of roof: roof time / time; bound: the side of the roof, or (under "
    f"{FAR:.0%} of it) overhead in calls\nshorter than {1e6 * SHORT:.0f} µs, implementation in "
    "longer ones; own: outside of kernels; if free: a step\nin which it cost nothing"
)


def as_text(result: dict[str, Any]) -> str:
    """The whole report."""
    blocks = [header(result)]
    for name, title in TITLES.items():
        if name in result:
            blocks += _subject(title, result[name])
            if "ledger" in result[name]:
                blocks.append(ledger.as_text(result[name]["ledger"]))
    return "\n\n".join([*blocks, NOTE])


def header(result: dict[str, Any]) -> str:
    """The model, the machine and its roofs: three lines."""
    m, roofs = result["model"], result["roofs"]
    levels = ", ".join(f"{name} {rate:.0f}" for name, rate in roofs["bandwidth_gbs"].items())
    threads = f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
    return (
        f"{m['preset']}: {m['parameters']:,} parameters, {m['batch_size']} × {m['tokens']} tokens\n"
        f"{result['machine']['cpu']}, {threads}, {roofs['target']}\n"
        f"roofs: {roofs['peak_gflops']:.0f} GFLOP/s; {levels} GB/s (measured {roofs['date'][:10]})"
    )


def reading(title: str, subject: dict[str, Any]) -> list[str]:
    """What the tables say, in sentences."""
    parts, mean = subject["parts"], subject["seconds"]["mean"]
    first, best = parts[0], sorted(parts, key=lambda part: -part["gain"])
    python = sum(part["share"] for part in parts if part["kind"] != "kernel")
    where = (
        "It is also where most is to be gained"
        if best[0] is first
        else f"Most is to be gained in {_in_short(best[0])}"
    )
    gained = f"at its roof, {title} takes {ms(mean - best[0]['gain'])} ms instead of {ms(mean)}"
    if best[0]["kind"] != "kernel":
        gained = f"without it, {title} takes {ms(mean - best[0]['gain'])} ms instead of {ms(mean)}"
    free = first["step_if_free"]
    return [
        f"The bottleneck is {described(first)}: {first['share']:.0%} of the time{_roof(first)}.",
        f"{where}: {gained}.",
        f"Next come {_in_short(best[1])} and {_in_short(best[2])}.",
        f"If {described(first)} cost nothing, {title} would take {ms(free)} ms: "
        f"{mean / max(free, 1e-9):.1f} times as fast. No work on it alone can bring more (Amdahl's "
        "law).",
        f"Python and NumPy, outside of all kernels, take {python:.0%}.",
    ]


def described(part: dict[str, Any]) -> str:
    """A part of the step in words."""
    if part["kind"] == "own":
        return f"{part['name']} outside of kernels"
    return part["name"]


class Column(NamedTuple):
    """A column of a table: its head, the key in a row, how a value looks; word: not a number."""

    head: str
    key: str
    text: Callable[[Any], str]
    word: bool = False


_COMMON = (
    Column("ms", "seconds", ms),
    Column("share", "share", percent),
    Column("GFLOP/s", "gflops", number),
    Column("GB/s", "gbs", number),
    Column("FLOP/B", "intensity", number),
    Column("of roof", "roof_fraction", percent),
    Column("bound", "bound", str, True),
    Column("if free", "step_if_free", ms),
)
TABLES = {
    "phases": (
        Column("phase", "name", str, True),
        Column("ms", "seconds", ms),
        Column("share", "share", percent),
    ),
    "operations": (
        Column("operation", "name", str, True),
        Column("calls", "calls", number),
        Column("forward", "forward", ms),
        Column("backward", "backward", ms),
        Column("own", "own_seconds", ms),
        *_COMMON,
    ),
    "kernels": (
        Column("kernel", "kernel", str, True),
        Column("shapes", "shapes", str, True),
        Column("phase", "phase", str, True),
        Column("calls", "calls", number),
        *_COMMON,
    ),
}


def cell(column: Column, row: dict[str, Any]) -> str:
    """A value of a row as text; "" for null."""
    value = row[column.key]
    return "" if value is None else column.text(value)


def table(subject: dict[str, Any], name: str, most: int | None = None) -> str:
    """The first rows of one of TABLES, aligned."""
    columns = TABLES[name]
    rows = [[cell(column, row) for column in columns] for row in subject[name][:most]]
    words = [column.word for column in columns]
    text = align([[column.head for column in columns], *rows], words)
    hidden = len(subject[name]) - len(rows)
    return text + (f"\n… and {hidden} more (--json, --html)" if hidden else "")


def summary(title: str, subject: dict[str, Any]) -> str:
    """How long, how fast, how much of it is explained."""
    s = subject["seconds"]
    lines = [
        f"{title}: {ms(s['mean'])} ms, {subject['tokens'] / s['mean']:,.0f} tokens/s, "
        f"MFU {percent(subject['mfu'])}",
        f"(the faster half of {subject['steps']} steps; quartiles of all {ms(s['q1'])}, "
        f"{ms(s['median'])}, {ms(s['q3'])} ms)",
    ]
    claims = f"{subject['attributed']:.1%} of the time is attributed"
    if "overhead" in subject:
        claims += f"; profiling adds {subject['overhead']:.1%}"
    lines.append(claims)
    if subject["held"]:
        lines.append(
            f"{subject['held']} steps began on one thread, because other processes took the cores "
            "(minillm/kernels/threads.py): repeat on a quiet machine"
        )
    return "\n".join(lines)


def _subject(title: str, subject: dict[str, Any]) -> list[str]:
    tables = [table(subject, "phases"), table(subject, "operations")]
    tables.append(table(subject, "kernels", KERNELS))
    return [summary(title, subject), *tables, "\n".join(reading(title, subject))]


def _in_short(part: dict[str, Any]) -> str:
    fraction = part["roof_fraction"]
    at = "" if fraction is None else f", at {fraction:.0%} of its roof"
    return f"{described(part)} ({part['share']:.0%}{at})"


def _roof(part: dict[str, Any]) -> str:
    fraction = part["roof_fraction"]
    return "" if fraction is None else f", at {fraction:.0%} of its roof ({part['bound']})"
