"""The result of `minillm profile` in a terminal: tables, and a text that reads them.

The object is that of minillm.observe.session; the tables' columns are explained there and in
minillm.observe.analysis.
"""

from __future__ import annotations

from typing import Any

from minillm.observe.roofline import FAR, SHORT

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
    first, gain = parts[0], max(parts, key=lambda part: part["gain"])
    python = sum(part["share"] for part in parts if part["kind"] != "kernel")
    lines = [
        f"The bottleneck is {described(first)}: {first['share']:.0%} of the time{_roof(first)}."
    ]
    possible = f"{ms(mean - gain['gain'])} ms instead of {ms(mean)}"
    if gain is first:
        lines.append(
            f"It is also where most is to be gained: at its roof, {title} takes {possible}."
        )
    else:
        lines.append(
            f"Most is to be gained in {described(gain)} ({gain['share']:.0%}{_roof(gain)}): "
            f"at its roof, {title} takes {possible}."
        )
    speed_up = mean / first["step_if_free"] if first["step_if_free"] > 0 else float("inf")
    lines.append(
        f"If {first['name']} cost nothing, {title} would take {ms(first['step_if_free'])} ms: "
        f"{speed_up:.1f} times as fast, and no work on it alone can bring more (Amdahl's law)."
    )
    lines.append(f"Python and NumPy, outside of all kernels, take {python:.0%}.")
    return lines


def described(part: dict[str, Any]) -> str:
    """A part of the step in words."""
    if part["kind"] == "own":
        return f"{part['name']} outside of kernels"
    return part["name"]


def ms(seconds: float) -> str:
    """Milliseconds in three digits."""
    return number(1e3 * seconds)


def number(value: float) -> str:
    """Three digits, the last ones not there if they say nothing."""
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 0.0005 else "0"


def rows_of(subject: dict[str, Any]) -> dict[str, list[list[str]]]:
    """The tables as text, each with its head: "phases", "operations" and "kernels"."""
    phases = [["phase", "ms", "share"]]
    phases += [[p["name"], ms(p["seconds"]), percent(p["share"])] for p in subject["phases"]]
    head = ["ms", "share", "GFLOP/s", "GB/s", "FLOP/B", "of roof", "bound", "if free"]
    operations = [["operation", "calls", "forward", "backward", "own", *head]]
    for row in subject["operations"]:
        phase = [ms(row["forward"]), ms(row["backward"]), ms(row["own_seconds"])]
        operations.append([row["name"], number(row["calls"]), *phase, *_common(row)])
    kernels = [["kernel", "shapes", "phase", "calls", *head]]
    for row in subject["kernels"]:
        names = [row["kernel"], row["shapes"], row["phase"], number(row["calls"])]
        kernels.append([*names, *_common(row)])
    return {"phases": phases, "operations": operations, "kernels": kernels}


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}" if share < 0.0995 else f"{share:.0%}"


def align(rows: list[list[str]], left: int = 1) -> str:
    """Columns: the first `left` ones and those of words to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = {i for i, name in enumerate(rows[0]) if name in ("bound", "phase", "shapes")}
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left or i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def summary(title: str, subject: dict[str, Any]) -> str:
    """How long, how fast, how much of it is explained."""
    s = subject["seconds"]
    lines = [
        f"{title}: {ms(s['mean'])} ms (quartiles {ms(s['q1'])}–{ms(s['q3'])}, "
        f"{subject['steps']} steps), {subject['tokens'] / s['mean']:,.0f} tokens/s, "
        f"MFU {percent(subject['mfu'])}"
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
    tables = rows_of(subject)
    longest = align(tables["kernels"][: KERNELS + 1], 2)
    hidden = len(tables["kernels"]) - 1 - KERNELS
    if hidden > 0:
        longest += f"\n… and {hidden} more (--json, --html)"
    blocks = [
        summary(title, subject),
        align(tables["phases"]),
        align(tables["operations"]),
        longest,
    ]
    return [*blocks, "\n".join(reading(title, subject))]


def _roof(part: dict[str, Any]) -> str:
    fraction = part["roof_fraction"]
    return "" if fraction is None else f", at {fraction:.0%} of its roof ({part['bound']})"


def _common(row: dict[str, Any]) -> list[str]:
    rates = [row["gflops"], row["gbs"], row["intensity"]]
    return [
        ms(row["seconds"]),
        percent(row["share"]),
        *("" if rate is None else number(rate) for rate in rates),
        percent(row["roof_fraction"]),
        row["bound"],
        ms(row["step_if_free"]),
    ]
