"""Where the time of a step goes: every operation and every kernel call, by subscription.

    with ml.observe.profile() as p:         # or: p = profile(), and `with p:` around each of many
        with p.phase("data"):               # what no observer can know
            x, y = sample_batch(…)
        _, loss = model(x, y)
        …
    p.steps[0].spans

kernels.observers and autograd.observers tell of the end of each call and of its seconds. Calls nest
(backward() → the operation matmul → the kernel matmul), so what ended inside another is its child,
and its *own* time is what its children leave. Whatever no span claims is the step's own: "Python
and the rest". While nothing is attached a step pays nothing; attached, an event costs a
microsecond, which is part of the own time of the span around it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from time import perf_counter
from typing import Any

import numpy as np

from minillm import autograd, kernels
from minillm.kernels.threads import threads

FORWARD, BACKWARD = "forward", "backward"


@dataclass(slots=True)
class Span:
    """One call.  start, seconds: when and how long; own: the seconds that no child took.

    kind: "operation" (of autograd, or a function it observes), "kernel" or "block" (of `phase`);
    operation, phase: of the operation or block around a kernel ("" if there is none); call: of a
    kernel.
    """

    kind: str
    name: str
    phase: str
    start: float
    seconds: float
    own: float
    operation: str = ""
    call: Call | None = None


@dataclass(frozen=True)
class Call:
    """A kernel on arguments of certain shapes, and what that costs.

    shapes: as text; flop, bytes: of the kernel's record; implementation: the one that ran.
    """

    kernel: str
    shapes: str
    implementation: str
    flop: int
    bytes: int


@dataclass
class Step:
    """What happened between entering a profile and leaving it, in order of its end."""

    start: float
    seconds: float
    threads: int  # that a kernel could use when it began
    spans: list[Span] = field(default_factory=list)

    @property
    def unclaimed(self) -> float:
        """Seconds of Python and the rest."""
        return self.seconds - sum(span.own for span in self.spans)


class Profile:
    """A context manager that may be entered again and again; each time is one step."""

    def __init__(self) -> None:
        self._raw: list[tuple[float, float, int, list]] = []  # (start, end, threads, events)
        self._events: list[tuple[float, float, Any]] = []  # (end, seconds, what)
        self._calls: dict[Hashable, Call] = {}
        self._steps: list[Step] = []
        self._thread = 0

    def __enter__(self) -> Profile:
        if self._thread:
            raise RuntimeError("profile: this one is attached already; make another")
        self._thread, self._events = threading.get_ident(), []
        kernels.observers.append(self._kernel_ended)
        autograd.observers.append(self._operation_ended)
        self._threads = threads()
        self._start = perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        end = perf_counter()
        kernels.observers.remove(self._kernel_ended)
        autograd.observers.remove(self._operation_ended)
        self._thread = 0
        if error[0] is None:  # half a step tells nothing
            self._raw.append((self._start, end, self._threads, self._events))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Attribute what happens inside, and no observer claims, to `name`."""
        start = perf_counter()
        yield
        end = perf_counter()
        if self._thread:  # else this is no step of the profile
            self._events.append((end, end - start, name))

    @property
    def steps(self) -> list[Step]:
        """The steps that are over."""
        for start, end, n_threads, events in self._raw:
            self._steps.append(Step(start, end - start, n_threads, nest(events)))
        self._raw = []
        return self._steps

    def _operation_ended(self, name: str, phase: str, seconds: float) -> None:
        if threading.get_ident() == self._thread:
            self._events.append((perf_counter(), seconds, (name, phase)))

    def _kernel_ended(self, kernel: Any, args: tuple, kwargs: dict, seconds: float) -> None:
        end = perf_counter()
        if threading.get_ident() != self._thread:
            return
        key = (
            kernel,
            kernel.chosen,
            *[a.shape if type(a) is np.ndarray else _key(a) for a in args],
        )
        if kwargs:
            key += tuple([(name, _key(a)) for name, a in kwargs.items()])
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = _describe(kernel, args, kwargs)
        self._events.append((end, seconds, call))


def profile() -> Profile:
    """A profile to be entered: `with profile() as p:`."""
    return Profile()


def nest(events: list[tuple[float, float, Any]]) -> list[Span]:
    """Events, in order of their end, as spans that know their own time and what they belong to.

    An event is noticed a moment after its call ended, so its start seems later than it was. What
    ended after that start is a child all the same, since calls never overlap but by nesting, and
    where a child began before it, so did the parent.
    """
    spans: list[Span] = []
    orphans: list[Span] = []  # those that nothing around them has ended yet
    for end, seconds, what in events:
        span = _span(what, end - seconds, seconds)
        while orphans and orphans[-1].start + orphans[-1].seconds > span.start:
            child = orphans.pop()
            late = max(0.0, span.start - child.start)
            span.start, span.seconds = span.start - late, span.seconds + late
            span.own += late - child.seconds
            if child.kind == "kernel":
                child.operation, child.phase = span.name, span.phase
        orphans.append(span)
        spans.append(span)
    return spans


def _span(what: Any, start: float, seconds: float) -> Span:
    if isinstance(what, Call):
        return Span("kernel", what.kernel, "", start, seconds, seconds, call=what)
    if isinstance(what, str):
        return Span("block", what, what, start, seconds, seconds)
    return Span("operation", what[0], what[1], start, seconds, seconds)


def _key(a: object) -> Hashable:
    """What the cost of a call may depend on: shapes and whole numbers, but no float."""
    if isinstance(a, np.ndarray):
        return a.shape
    if isinstance(a, list | tuple):
        return tuple(map(_key, a))
    return None if isinstance(a, float) else a


def _describe(kernel: Any, args: tuple, kwargs: dict) -> Call:
    flags = [name for name, value in kwargs.items() if value is True]
    shapes = [(text, len(list(same))) for text, same in groupby(filter(None, map(_text, args)))]
    words = [f"{text} ({n}×)" if n > 1 else text for text, n in shapes] + flags
    flop, bytes = kernel.flops(*args, **kwargs), kernel.bytes(*args, **kwargs)
    return Call(kernel.name, " ".join(words), kernel.chosen, int(flop), int(bytes))


def _text(a: object) -> str:
    """The shape of an array, how many numbers a list of arrays holds; "" for anything else."""
    if isinstance(a, np.ndarray):
        return "×".join(map(str, a.shape)) or "scalar"
    if isinstance(a, list | tuple):
        return f"{len(a)} arrays of {sum(np.size(x) for x in a):,}"
    return ""
