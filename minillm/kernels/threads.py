"""How many threads a kernel may use: as many as were asked for, or one while the cores are busy.

A parallel region ends when its slowest thread does. If another process takes that thread's core
in the middle of a task, all others wait for the scheduler, some milliseconds where the task took
0.05. So while threads have to wait for a core, one thread is faster than two, and since results do
not depend on the number of threads, nobody can tell but by the clock.
"""

import os
from contextlib import suppress
from glob import glob
from time import perf_counter

from minillm.kernels import _cffi

WINDOW, ALONE = 0.1, 2.0  # seconds between two looks; seconds on one thread after a bad one
# Seconds a second that all threads together could have run and got no core. In any window on two
# cores: at most 0.05 when nothing else runs, at least 0.4 beside one busy process (0.7 on the
# average), in training as in generation. Counts of preemptions lie closer, as a yield is one too.
WAITING = 0.2
TASKS = "/proc/self/task/*/schedstat"  # of Linux: nanoseconds running, nanoseconds waiting, …
_threads = _cffi.default_threads()
_looked = _alone_until = 0.0
_waited = 0.0
_forked = False


def threads() -> int:
    """How many threads a parallel kernel may use now."""
    if _threads == 1 or _forked:
        return 1
    now = perf_counter()
    if now < _alone_until:
        return 1
    if now - _looked > WINDOW:
        _look(now)
    return _threads


def _look(now: float) -> None:
    global _looked, _alone_until, _waited
    waited = waited_for_cores()
    if _looked and (waited - _waited) / (now - _looked) > WAITING:
        _alone_until = now + ALONE
        _looked = 0.0  # the next look only takes the time
    else:
        _looked, _waited = now, waited


def waited_for_cores() -> float:
    """Seconds that this process's threads were ready and had no core; 0 where nothing tells it."""
    nanoseconds = 0
    for task in glob(TASKS):
        with suppress(OSError), open(task, "rb") as file:  # an error: the thread has just ended
            nanoseconds += int(file.read().split()[1])
    return nanoseconds / 1e9


def get_num_threads() -> int:
    """The number asked for."""
    return _threads


def set_num_threads(n: int) -> None:
    """Let the kernels use up to n threads from now on; the results do not depend on n."""
    global _threads
    if n < 1:
        raise ValueError(f"set_num_threads: expected 1 or more, got {n}")
    _threads = n


def forked() -> bool:
    """Whether this process is a forked child, in which a parallel region may hang."""
    return _forked


def _after_fork() -> None:
    """A forked child has none of its parent's threads; libgomp would wait for them for ever."""
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
