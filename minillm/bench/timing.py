"""Fair turns: A B A B … in one process, and what is computed from them.

Three things would make a comparison unfair, and each has its remedy here. A machine that changes
its speed: the contestants take turns, and ratios are taken turn by turn. A pool of threads that
spins after its work (OpenBLAS's for 2²⁶ cycles) and so eats the next contestant's core: everybody
waits until the process rests. Our own guard against busy cores (kernels/threads.py), which may
hold the kernels to one thread because of a rival's spinning: it is waited for as well.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from minillm import kernels
from minillm.kernels.threads import threads

REST, RESTING = 0.01, 0.002  # seconds of sleep; seconds of CPU in it that count as rest
LONGEST_REST = 0.5  # seconds
LONGEST_WAIT = 3.0  # seconds for the guard, which looks again after two


@dataclass(frozen=True)
class Contestant:
    """call: what is timed; kernels: the choice of kernels that it runs under ("": as it is)."""

    name: str
    call: Callable[[], object]
    kernels: str = ""
    is_minillm: bool = False


@dataclass(frozen=True)
class Case:
    """One comparison; the first contestant is the one that the others are compared with.

    work: what one call does, by unit: {"flop": …}, {"byte": …}, {"token": …}.
    """

    name: str
    threads: int
    work: dict[str, float]
    contestants: list[Contestant]
    group: str = ""  # cases of one group share a geometric mean


@dataclass
class Times:
    """seconds: per call, one number a turn; calls: in a turn; held: turns begun on one thread."""

    calls: int
    seconds: list[float] = field(default_factory=list)
    held: int = 0


def measure(case: Case, turns: int, block: float, torch: Any = None) -> dict[str, Times]:
    """Time every contestant in turn.  block: seconds that a turn should last at least.

    torch: the module, if it is among them.
    """
    with limit(case.threads, torch):
        times = {c.name: Times(_calibrate(c, block)) for c in case.contestants}
        for _ in range(turns):
            for contestant in case.contestants:
                _take_turn(contestant, times[contestant.name])
    return times


def _calibrate(contestant: Contestant, block: float) -> int:
    """How many calls make a block, after a first one that allocates and starts threads."""
    with _kernels_of(contestant):
        contestant.call()
        start, calls, elapsed = time.perf_counter(), 0, 0.0
        while not calls or elapsed < block / 4:
            contestant.call()
            calls, elapsed = calls + 1, time.perf_counter() - start
    return max(1, round(block * calls / elapsed))


def _take_turn(contestant: Contestant, times: Times) -> None:
    call, calls = contestant.call, range(times.calls)
    settle(contestant.is_minillm)
    with _kernels_of(contestant):
        if len(calls) > 1:
            call()  # wakes the threads and fills the caches again
        times.held += contestant.is_minillm and threads() < kernels.get_num_threads()
        start = time.perf_counter()
        for _ in calls:
            call()
        times.seconds.append((time.perf_counter() - start) / times.calls)


@contextlib.contextmanager
def _kernels_of(contestant: Contestant) -> Iterator[None]:
    """The contestant's choice of kernels inside, and afterwards what it was before."""
    with kernels.using(contestant.kernels) if contestant.kernels else contextlib.nullcontext():
        yield


def settle(guard: bool = False) -> None:
    """Sleep until no thread of this process spins; guard: and until the kernels have theirs."""
    end = time.perf_counter() + LONGEST_REST
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(REST)
        if time.process_time() - before < RESTING:
            break
    end = time.perf_counter() + LONGEST_WAIT
    while guard and threads() < kernels.get_num_threads() and time.perf_counter() < end:
        time.sleep(REST)


@contextlib.contextmanager
def limit(n: int, torch: Any = None) -> Iterator[None]:
    """At most n threads for the kernels, for NumPy's BLAS (needs threadpoolctl) and for PyTorch."""
    before = kernels.get_num_threads()
    with contextlib.ExitStack() as stack:
        stack.callback(kernels.set_num_threads, before)
        kernels.set_num_threads(n)
        with contextlib.suppress(ImportError):
            from threadpoolctl import threadpool_limits

            stack.enter_context(threadpool_limits(n, "blas"))
        if torch:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(n)
        yield


def spread(values: list[float]) -> dict[str, float]:
    """{"median", "q1", "q3"} of the values."""
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    return {"median": float(median), "q1": float(q1), "q3": float(q3)}


def ratios(times: dict[str, Times]) -> dict[str, dict[str, float]]:
    """By rival, the spread of (its seconds / the first one's), turn by turn; above 1: slower."""
    (_, own), *rivals = times.items()
    return {
        name: spread([b / a for a, b in zip(own.seconds, rival.seconds, strict=True)])
        for name, rival in rivals
    }


def geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))
