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
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from math import prod
from threading import get_ident
from time import perf_counter
from typing import Any

from numpy import ndarray

from minillm import autograd, kernels
from minillm.kernels import Kernel
from minillm.kernels.threads import threads

FORWARD, BACKWARD = "forward", "backward"
Event = tuple[float, float, Any]  # start, seconds, what


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
        self._events: list[Event] = []
        self._numbers: dict[Hashable, int] = {}  # of each call, by what its cost depends on
        self._calls: list[tuple] = []  # by number: kernel, implementation, keys, FLOP, bytes
        self._steps: list[Step] = []
        self._thread = 0

    def __enter__(self) -> Profile:
        if self._thread:
            raise RuntimeError("profile: this one is attached already; make another")
        self._thread, self._events = get_ident(), []
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
            self._events.append((start, end - start, name))

    @property
    def steps(self) -> list[Step]:
        """The steps that are over."""
        for start, end, n_threads, events in self._raw:
            self._steps.append(
                Step(start, end - start, n_threads, nest([*map(self._described, events)]))
            )
        self._raw = []
        return self._steps

    def _operation_ended(self, name: str, phase: str, seconds: float, start: float) -> None:
        if get_ident() == self._thread:
            self._events.append((start, seconds, (name, phase)))

    def _kernel_ended(self, kernel: Kernel, args: tuple, kwargs: dict, seconds: float) -> None:
        """Quick, as it runs after every kernel: all that there is to say waits for a call's first.

        The key is kernel, implementation, and all arguments but floats, with shapes for arrays.
        """
        start = perf_counter() - seconds
        if get_ident() != self._thread:
            return
        shapes = [a.shape if type(a) is ndarray else None if type(a) is float else a for a in args]
        if kwargs:
            shapes += kwargs
            shapes += [True if a is True else _key(a) for a in kwargs.values()]
        key = (kernel, kernel.chosen, *shapes)
        try:
            number = self._numbers[key]
        except KeyError:
            number = self._numbers[key] = self._number_of(kernel, args, kwargs)
        except TypeError:  # among the arguments is a list of arrays, which is no key
            number = self._number_of(kernel, args, kwargs)
        self._events.append((start, seconds, number))

    def _number_of(self, kernel: Kernel, args: tuple, kwargs: dict) -> int:
        keys = [*map(_key, args), *((name, _key(a)) for name, a in kwargs.items())]
        key = (kernel, kernel.chosen, *keys)
        if key not in self._numbers:
            self._numbers[key] = len(self._calls)
            flop, bytes = kernel.flops(*args, **kwargs), kernel.bytes(*args, **kwargs)
            self._calls.append((kernel.name, kernel.chosen, keys, flop, bytes))
        return self._numbers[key]

    def _described(self, event: Event) -> Event:
        """The event with a Call in place of its number."""
        start, seconds, what = event
        if not isinstance(what, int):
            return event
        name, implementation, keys, flop, bytes = self._calls[what]
        return start, seconds, Call(name, _text(keys), implementation, flop, bytes)


def profile() -> Profile:
    """A profile to be entered: `with profile() as p:`."""
    return Profile()


def nest(events: list[Event]) -> list[Span]:
    """Events, in order of their end, as spans that know their own time and what they belong to.

    What ended after a call began is its child: calls never overlap but by nesting. (A kernel is
    noticed a moment after it ended, so that its start seems a little later than it was.)
    """
    spans: list[Span] = []
    orphans: list[Span] = []  # those that nothing around them has ended yet
    for start, seconds, what in events:
        span = _span(what, start, seconds)
        while orphans and orphans[-1].start + orphans[-1].seconds > start:
            child = orphans.pop()
            span.own -= child.seconds
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
    if isinstance(a, ndarray):
        return a.shape
    if isinstance(a, (list, tuple)):
        return tuple(map(_key, a))
    return None if isinstance(a, float) else a


def _text(keys: list[Hashable]) -> str:
    """ "768×128 512×128 trans_b", with "(2×)" for what comes twice in a row."""
    words = [
        f"{word} ({n}×)" if (n := len(list(same))) > 1 else word
        for word, same in groupby(filter(None, map(_word, keys)))
    ]
    return " ".join(words)


def _word(key: Hashable) -> str:
    """A shape, the name of a flag that is set or an array given, how many arrays a list holds."""
    if not isinstance(key, tuple):
        return ""
    if _is_shape(key):
        return "×".join(map(str, key)) or "scalar"
    if isinstance(key[0], str):
        return key[0] if key[1] is True or isinstance(key[1], tuple) else ""
    shapes = list(_shapes(key))
    return f"{len(shapes)} arrays of {sum(map(prod, shapes)):,}" if shapes else ""


def _is_shape(key: tuple) -> bool:
    return all(isinstance(n, int) for n in key)


def _shapes(key: tuple) -> Iterator[tuple[int, ...]]:
    """The shapes in a list of arrays, or of lists of them."""
    for inner in key:
        if isinstance(inner, tuple):
            yield from [inner] if _is_shape(inner) else _shapes(inner)
