"""A result of `bench` as text: one line a case, times with their spread, ratios beside them."""

from __future__ import annotations

from typing import Any

RATES = {"flop": ("GFLOP/s", 1e9), "byte": ("GB/s", 1e9), "token": ("tokens/s", 1)}


def as_text(result: dict[str, Any]) -> str:
    """The whole report of a result (schema: minillm.bench)."""
    parts = [header(result)]
    for threads in sorted({case["threads"] for case in result["cases"]}):
        parts.append(_table([case for case in result["cases"] if case["threads"] == threads]))
    parts += [block for block in (_summary(result), _memory(result), _notes(result)) if block]
    return "\n\n".join(parts)


def header(result: dict[str, Any]) -> str:
    """The machine and the versions, two lines."""
    m, v, c = result["machine"], result["versions"], result["code"]
    load = " ".join(map(str, m["load"])) if m["load"] else "unknown"
    torch = f", PyTorch {v['torch']}" if v["torch"] else ""
    code = f"{c['target']}, {c['compiler']}" if c["compiled"] else "not compiled"
    return (
        f"{m['cpu']}, {m['cores']} cores, {m['os']}, load {load}\n"
        f"minillm {v['minillm'] or 'from its sources'} ({code}), NumPy {v['numpy']} "
        f"({v['numpy_blas']}){torch}, Python {v['python']}, {result['date']}"
    )


def _table(cases: list[dict[str, Any]]) -> str:
    n, names = cases[0]["threads"], list(dict.fromkeys(n for c in cases for n in c["contestants"]))
    units = [unit for unit in RATES if unit in cases[0]["work"]]
    rows = [[f"{n} thread{'s' * (n > 1)}", *_head(names, units)]]
    rows += [[case["name"], *_cells(case, names, units)] for case in cases]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *rest in rows:
        cells = [cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells]).rstrip())
    return "\n".join(lines)


def _head(names: list[str], units: list[str]) -> list[str]:
    first, *rivals = names
    head = [first, *(RATES[unit][0] for unit in units)]
    for name in rivals:
        head += [name, "ratio (quartiles)"]
    return head


def _cells(case: dict[str, Any], names: list[str], units: list[str]) -> list[str]:
    first, *rivals = names
    own = case["contestants"][first]
    cells = [_time(own["seconds"]), *(_rate(own, unit) for unit in units)]
    for name in rivals:
        if name not in case["contestants"]:
            cells += ["", ""]
            continue
        ratio = case["ratios"][name]
        cells.append(_time(case["contestants"][name]["seconds"]))
        cells.append(f"{ratio['median']:.2f}× ({ratio['q1']:.2f}–{ratio['q3']:.2f})")
    return cells


def _rate(contestant: dict[str, Any], unit: str) -> str:
    rate = contestant["rates"][unit] / RATES[unit][1]
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _time(seconds: dict[str, float]) -> str:
    """The median in three digits, and half the distance of the quartiles in percent of it."""
    median = seconds["median"]
    unit, scale = next((u, s) for u, s in (("s", 1), ("ms", 1e3), ("µs", 1e6)) if median * s >= 1)
    half = 50 * (seconds["q3"] - seconds["q1"]) / median
    return f"{median * scale:.3g} {unit} ±{half:.0f} %"


def _summary(result: dict[str, Any]) -> str:
    lines = []
    for group in result["summary"]:
        means = ", ".join(f"{name} {mean:.2f}×" for name, mean in group["ratios"].items())
        if means:
            n = group["threads"]
            threads = f"{n} thread{'s' * (n > 1)}"
            lines.append(f"{group['group']}, {threads}, {group['cases']} cases: {means}")
    if not lines:
        return ""
    about = "geometric means of the ratios (time of the other / time of the first; above 1: slower)"
    return "\n".join([about, *(f"  {line}" for line in lines)])


def _memory(result: dict[str, Any]) -> str:
    lines = []
    for name, found in result["memory"].items():
        peak, step = (
            "unknown" if found[key] is None else f"{found[key] / 1e6:,.0f} MB"
            for key in ("peak_resident", "step")
        )
        lines.append(f"  {name}: process at most {peak}, a step holds {step} at its height")
    return "\n".join(["memory, each in a process of its own", *lines]) if lines else ""


def _notes(result: dict[str, Any]) -> str:
    return "\n".join(f"note: {note}" for note in result["notes"])
