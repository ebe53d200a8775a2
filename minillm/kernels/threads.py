"""How many threads a kernel may use: as many as were asked for, or one while the cores are busy.

A parallel region ends when its slowest thread does. If another process takes that thread's core
in the middle of a task, all others wait for the scheduler, some milliseconds where the task took
0.05. So while threads are being preempted, one thread is faster than two, and since results do not
depend on the number of threads, nobody can tell but by the clock.
"""

import os
from time import perf_counter

from minillm.kernels import _cffi

try:
    from resource import RUSAGE_SELF, getrusage
except ImportError:  # Windows has no count of involuntary context switches
    getrusage = None

WINDOW, ALONE = 0.1, 2.0  # seconds between two looks; seconds on one thread after a bad one
PREEMPTIONS = (
    90  # a second, of all threads together: 30 on a quiet machine, 180 with one busy process
)
_threads = _cffi.default_threads()
_looked = _alone_until = 0.0
_preempted = 0
_forked = False


def threads() -> int:
    """How many threads a parallel kernel may use now."""
    if _threads == 1 or _forked:
        return 1
    now = perf_counter()
    if now < _alone_until:
        return 1
    if now - _looked > WINDOW and getrusage is not None:
        _look(now)
    return _threads


def _look(now: float) -> None:
    global _looked, _alone_until, _preempted
    count = getrusage(RUSAGE_SELF).ru_nivcsw
    if _looked and (count - _preempted) / (now - _looked) > PREEMPTIONS:
        _alone_until = now + ALONE
        _looked = 0.0  # the next look only takes the count
    else:
        _looked, _preempted = now, count


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
