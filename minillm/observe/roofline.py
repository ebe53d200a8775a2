"""The roofline: what this machine allows at best, and what holds each operation back.

With a peak of π FLOP/s and a memory that brings β bytes/s, work of F FLOP on Q bytes takes at
least max(F/π, Q/β): its *roof time*. Below the arithmetic intensity F/Q = π/β the memory is the
limit, above it the arithmetic. The fraction of the roof is roof time / measured time; it can exceed
100 % a little where data came from a faster level than its size suggests, or where the machine was
slower while its roofs were measured.

Q is the compulsory traffic (every input read once, every output written once), and β that of the
level of the memory that holds so much: a kernel on 1 MB in a row of others finds it in L2 or L3.

The bound of an operation is named

    compute, L1, L2, L3, DRAM   the side of the roof above it
    overhead                    if it reaches less than FAR of that roof and its calls are shorter
                                than SHORT: Python, checking and starting threads are the limit
    implementation              if it reaches less than FAR of it in long calls: the machine could
                                do far more, the code cannot
    python                      if no kernel runs in it: Python and NumPy

Source: Williams, Waterman and Patterson 2009, "Roofline", doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from minillm.observe import roofs

FAR = 0.15  # of its roof
SHORT = 50e-6  # seconds; calling a C kernel takes 5 to 10 of these microseconds, threads included


@dataclass(frozen=True)
class Roofline:
    """The roofs for a number of threads.

    peak: FLOP/s; bandwidth: bytes/s by level, fastest first; sizes: bytes that each level holds.
    """

    peak: float
    bandwidth: dict[str, float]
    sizes: dict[str, int]
    threads: int

    def level(self, working_set: float) -> str:
        """The fastest level that holds so many bytes; the last one holds everything."""
        fits = (level for level in self.bandwidth if working_set <= self.sizes[level])
        return next(fits, list(self.bandwidth)[-1])

    def seconds(self, flop: float, bytes: float) -> float:
        """The roof time of one call."""
        return max(flop / self.peak, bytes / self.bandwidth[self.level(bytes)])

    def side(self, flop: float, bytes: float) -> str:
        """ "compute", or the level of the memory, whichever takes longer."""
        level = self.level(bytes)
        return "compute" if flop / self.peak >= bytes / self.bandwidth[level] else level


def of_machine(measured: roofs.Roofs, threads: int) -> Roofline:
    """The roofs measured with that many threads, or the nearest number below.

    Of reading and copying, the faster is the roof: nothing here is only the one or the other.
    """
    n = max((t for t in measured.gflops if t <= threads), default=min(measured.gflops))
    read, copy = measured.read[n], measured.copy[n]
    bandwidth = {level: 1e9 * max(read[level], copy[level]) for level in measured.levels}
    return Roofline(1e9 * measured.gflops[n], bandwidth, dict(measured.levels), n)


def bound(side: str, fraction: float | None, seconds_per_call: float) -> str:
    """The name of what holds an operation back; side: of the roof, "" without a kernel."""
    if not side or fraction is None:
        return "python"
    if fraction >= FAR:
        return side
    return "overhead" if seconds_per_call < SHORT else "implementation"


def as_json(roofline: Roofline) -> dict[str, Any]:
    """{"threads", "peak_gflops", "bandwidth_gbs": {level: GB/s}, "level_bytes": {level: bytes}}."""
    return {
        "threads": roofline.threads,
        "peak_gflops": roofline.peak / 1e9,
        "bandwidth_gbs": {level: rate / 1e9 for level, rate in roofline.bandwidth.items()},
        "level_bytes": roofline.sizes,
    }
