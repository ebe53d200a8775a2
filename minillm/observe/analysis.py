"""A profile against the roofs: the tables that every report shows, as one JSON object a subject.

All numbers are per step, means over the faster half of the profile's steps: what disturbs a step,
such as another process, only ever slows it. `analyse` returns

    steps         how many there are
    seconds       {"mean": of the faster half, "median", "q1", "q3": of all} of a step
    attributed    the part of a step that is claimed by something with a name
    phases        [{"name", "seconds", "share"}], "python" last: Python and the rest
    operations    [row], the longest first: autograd's operations, functions that it observes, and
                  blocks of `phase`:
                  {"name", "calls" (of forward, where there is one), "seconds",
                   "forward", "backward", "other": seconds by phase,
                   "kernel_seconds": in kernels, "own_seconds": outside of them,
                   "flop", "bytes": of its kernels, "gflops", "gbs": at that many seconds,
                   "intensity": FLOP a byte, "share": of the step,
                   "roof_seconds": of its kernels, "roof_fraction",
                   "bound": see minillm.observe.roofline,
                   "step_if_free": seconds of a step in which it cost nothing (Amdahl's bound)}
    kernels       [row], the same for each kernel on arguments of certain shapes, with "kernel",
                  "shapes", "implementation", "operation", "phase" and "level" (of the memory) in
                  place of what does not apply
    parts         [{"name", "kind", "seconds", "share", "roof_seconds", "gain", "roof_fraction",
                  "bound", "step_if_free"}]: the step cut without overlap, the longest first: each
                  kernel by name (kind "kernel"), what an operation does outside of its kernels
                  ("own"), Python and the rest ("rest"); gain: seconds that it takes over its roof,
                  all of them where no kernel runs
    flop, bytes   of a step, and "kernel_flop": {kernel: FLOP}

A number that does not exist (the GFLOP/s of no FLOP) is null.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minillm.observe.profiler import BACKWARD, FORWARD, Profile, Span
from minillm.observe.roofline import Roofline, bound

REST = "Python and the rest"


@dataclass
class Total:
    """What a group of spans adds up to, over all steps; sides: roof time by side of the roof."""

    calls: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by phase
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # by phase
    kernel_calls: int = 0
    kernel_seconds: float = 0.0
    flop: int = 0
    bytes: int = 0
    sides: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, span: Span, roofline: Roofline) -> None:
        self.seconds[span.phase] += span.own
        if span.kind != "kernel":
            self.calls[span.phase] += 1
            return
        call = span.call
        self.kernel_calls += 1
        self.kernel_seconds += span.seconds
        self.flop, self.bytes = self.flop + call.flop, self.bytes + call.bytes
        side = roofline.side(call.flop, call.bytes)
        self.sides[side] += roofline.seconds(call.flop, call.bytes)

    def row(self, steps: int, step_seconds: float) -> dict[str, Any]:
        """What the rows of all tables have in common."""
        seconds, roof = sum(self.seconds.values()), sum(self.sides.values())
        fraction = roof / seconds if roof and seconds else None
        side = max(self.sides, key=self.sides.get, default="")
        calls = max(self.calls.values(), default=self.kernel_calls)
        return {
            "calls": calls / steps,
            "seconds": seconds / steps,
            "share": seconds / steps / step_seconds,
            "flop": self.flop / steps,
            "bytes": self.bytes / steps,
            "gflops": _ratio(self.flop, 1e9 * seconds),
            "gbs": _ratio(self.bytes, 1e9 * seconds),
            "intensity": _ratio(self.flop, self.bytes),
            "roof_seconds": roof / steps,
            "roof_fraction": fraction,
            "bound": bound(side, fraction, seconds / max(self.kernel_calls, 1)),
            "step_if_free": step_seconds - seconds / steps,
        }


def _ratio(amount: float, by: float) -> float | None:
    return amount / by if amount and by else None


def analyse(profile: Profile, roofline: Roofline) -> dict[str, Any]:
    """The object that the docstring of this module describes.

    Raises: ValueError if the profile holds no step.
    """
    steps = profile.steps
    if not steps:
        raise ValueError("analyse: the profile holds no step; enter it with `with` first")
    q1, median, q3 = map(float, np.percentile([step.seconds for step in steps], [25, 50, 75]))
    count, n = len(steps), (len(steps) + 1) // 2
    steps = sorted(steps, key=lambda step: step.seconds)[:n]
    mean = sum(step.seconds for step in steps) / n
    rest = sum(step.unclaimed for step in steps) / n
    spans = [span for step in steps for span in step.spans]
    calls = [span.call for span in spans if span.call]
    flop: dict[str, float] = defaultdict(float)
    for call in calls:
        flop[call.kernel] += call.flop / n
    return {
        "steps": count,
        "seconds": {"mean": mean, "median": median, "q1": q1, "q3": q3},
        "attributed": 1 - rest / mean,
        "phases": _phases(spans, n, mean, rest),
        "operations": _operations(spans, roofline, n, mean),
        "kernels": _kernels(spans, roofline, n, mean),
        "parts": _parts(spans, roofline, n, mean, rest),
        "flop": sum(flop.values()),
        "bytes": sum(call.bytes for call in calls) / n,
        "kernel_flop": dict(flop),
    }


def _phases(spans: list[Span], n: int, mean: float, rest: float) -> list[dict[str, Any]]:
    seconds: dict[str, float] = defaultdict(float)
    for span in spans:
        seconds[span.phase or "other"] += span.own / n
    seconds["python"] = rest
    return [{"name": name, "seconds": s, "share": s / mean} for name, s in seconds.items()]


def _longest_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: -row["seconds"])


def _operations(spans: list[Span], roofline: Roofline, n: int, mean: float) -> list[dict[str, Any]]:
    totals: dict[str, Total] = defaultdict(Total)
    for span in spans:  # a kernel that runs in no operation stands for itself
        totals[span.operation or span.name].add(span, roofline)
    rows = []
    for name, total in totals.items():
        row = {"name": name, **total.row(n, mean)}
        row["forward"], row["backward"] = (total.seconds[p] / n for p in (FORWARD, BACKWARD))
        row["other"] = row["seconds"] - row["forward"] - row["backward"]
        row["kernel_seconds"] = total.kernel_seconds / n
        row["own_seconds"] = row["seconds"] - row["kernel_seconds"]
        rows.append(row)
    return _longest_first(rows)


def _kernels(spans: list[Span], roofline: Roofline, n: int, mean: float) -> list[dict[str, Any]]:
    names = ("kernel", "shapes", "implementation", "operation", "phase")
    totals: dict[tuple, Total] = defaultdict(Total)
    for span in spans:
        if span.call:
            call = span.call
            key = (call.kernel, call.shapes, call.implementation, span.operation, span.phase)
            totals[key].add(span, roofline)
    return _longest_first(
        [
            dict(zip(names, key, strict=True))
            | total.row(n, mean)
            | {"level": roofline.level(total.bytes / total.kernel_calls)}
            for key, total in totals.items()
        ]
    )


def _parts(
    spans: list[Span], roofline: Roofline, n: int, mean: float, rest: float
) -> list[dict[str, Any]]:
    totals: dict[tuple[str, str], Total] = defaultdict(Total)
    for span in spans:
        totals["kernel" if span.call else "own", span.name].add(span, roofline)
    nothing = Total()
    nothing.seconds[""] = rest * n
    totals["rest", REST] = nothing
    wanted = ("calls", "seconds", "share", "roof_seconds", "roof_fraction", "bound", "step_if_free")
    rows = []
    for (kind, name), total in totals.items():
        row = total.row(n, mean)
        gain = max(0.0, row["seconds"] - row["roof_seconds"])
        rows.append({"name": name, "kind": kind, "gain": gain} | {key: row[key] for key in wanted})
    return _longest_first(rows)
