"""Write the README's performance table from the JSON files beside this one.

    python docs/results/table.py            rewrite the table between the two markers in README.md
    python docs/results/table.py --check    exit 1 if it differs from what stands there

Each file is what `minillm bench … --json FILE` kept; its "command" says how to measure it again.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- performance: docs/results/table.py -->\n", "<!-- end -->\n"


def times(seconds: float) -> str:
    for unit, scale in (("s", 1), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def on(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def row(result: dict, case: dict) -> str:
    (_, mine), *rivals = case["contestants"].items()
    own = times(mine["seconds"]["median"])
    if token := mine["rates"].get("token"):
        own += f", {token:,.0f} tokens/s"
    beside = [
        f"{name} {times(c['seconds']['median'])} ({case['ratios'][name]['median']:.2f}×)"
        for name, c in rivals
        if name in case["ratios"]
    ]
    what = f"{result['benchmark']} {case['name']}, {on(case['threads'])}"
    return f"| {what} | {own} | {', '.join(beside)} |"


def summaries(result: dict) -> list[str]:
    """One line for a group of several cases: the geometric mean of their ratios."""
    lines = []
    for s in result["summary"]:
        ratios = ", ".join(f"{name} {ratio:.2f}×" for name, ratio in s["ratios"].items())
        name = "kernels" if s["group"] == "ops" else f"{result['benchmark']} {s['group']}"
        what = f"{name}, {on(s['threads'])}"
        lines.append(f"| {what} | geometric mean of {s['cases']} | {ratios} |")
    return lines


def table(results: list[dict]) -> str:
    lines = ["| what | minillm | the others (× minillm's time) |", "|---|---|---|"]
    for result in results:
        several = result["benchmark"] in ("matmul", "ops")
        cases = [row(result, case) for case in result["cases"]]
        lines += summaries(result) if several else cases
    machines = sorted({result["machine"]["cpu"] for result in results})
    dates = sorted(result["date"] for result in results)
    versions = results[0]["versions"]
    lines += [
        "",
        f"{', '.join(machines)}, {results[0]['machine']['cores']} cores, "
        f"{' to '.join(sorted({dates[0], dates[-1]}))}; "
        f"NumPy {versions['numpy']}, PyTorch {versions['torch']}.",
    ]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    files = sorted(HERE.glob("*.json"))
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    text = before + BEGIN + table(results) + END + after
    if "--check" in argv:
        return text != README.read_text(encoding="utf-8")
    README.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
