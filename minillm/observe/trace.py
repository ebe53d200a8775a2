"""A profile in Chrome's trace event format, for https://ui.perfetto.dev or chrome://tracing.

A process for each subject (train, prefill, decode) and in it four threads, one below the other:
steps, phases, operations, kernels. Every span is a complete event ("ph": "X") with "ts" and "dur"
in microseconds from the first step's beginning, and of a kernel the shapes, implementation, FLOP,
bytes and GFLOP/s in "args".

Source: Google, "Trace Event Format", 2016.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from minillm.observe.profiler import Profile, Span, Step

ROWS = ("steps", "phases", "operations", "kernels")


def as_trace(profiles: dict[str, Profile]) -> dict[str, Any]:
    """The JSON object of the format.  profiles: by the name of their subject."""
    events: list[dict[str, Any]] = []
    for pid, (name, profile) in enumerate(profiles.items(), 1):
        events.append(_named("process_name", pid, 0, name))
        events += [_named("thread_name", pid, tid, row) for tid, row in enumerate(ROWS)]
        origin = profile.steps[0].start
        for i, step in enumerate(profile.steps):
            events.append(_event(pid, 0, f"step {i}", step.start - origin, step.seconds))
            events += [
                _event(pid, 1, phase, start - origin, seconds)
                for phase, start, seconds in phases_of(step)
            ]
            events += [_of_span(pid, span, origin) for span in step.spans]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def phases_of(step: Step) -> list[tuple[str, float, float]]:
    """(phase, start, seconds) of each stretch of a step in which the same phase goes on."""
    calls = [span for span in step.spans if span.kind != "kernel"]
    calls.sort(key=lambda span: span.start)
    stretches = []
    for phase, same in groupby(calls, lambda span: span.phase):
        spans = list(same)
        end = max(span.start + span.seconds for span in spans)
        stretches.append((phase, spans[0].start, end - spans[0].start))
    return stretches


def _of_span(pid: int, span: Span, origin: float) -> dict[str, Any]:
    args: dict[str, Any] = {"phase": span.phase}
    if span.call:
        call = span.call
        args |= {"shapes": call.shapes, "implementation": call.implementation}
        args |= {"flop": call.flop, "bytes": call.bytes, "operation": span.operation}
        if span.seconds > 0:
            args["gflops"] = round(call.flop / span.seconds / 1e9, 3)
    tid = ROWS.index("kernels" if span.call else "operations")
    return _event(pid, tid, span.name, span.start - origin, span.seconds) | {"args": args}


def _event(pid: int, tid: int, name: str, start: float, seconds: float) -> dict[str, Any]:
    times = {"ts": round(1e6 * start, 3), "dur": round(1e6 * seconds, 3)}
    return {"name": name, "ph": "X", "pid": pid, "tid": tid, **times}


def _named(what: str, pid: int, tid: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
